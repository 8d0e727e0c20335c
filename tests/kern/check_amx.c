/* check_amx.c - products in bf16 tiles (precision FAST, level amx). They follow no Order: against the
 * f64 oracle with the tolerance of bf16, and to the bit among thread counts, pieces and slots. Called by
 * the checks of matmul, glu and moe. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kcheck.h"
#include "kern/cpu/micro/micro.h"
#include "kern/cpu/product/tiled.h"
#include "tensor/quant.h"

/* The table at precision FAST. */
static ap_exec fast(const ap_exec *ex)
{
    ap_exec f = *ex;
    f.precision = APUS_PRECISION_FAST;
    return f;
}

/* First table with tiles; -1: none. */
static int first_amx(const kc *c)
{
    for (int i = 0; i < c->n_kern; i++)
        if (c->kern[i].x.k->level == APUS_CPU_AMX) return i;
    return -1;
}

/* Form 0 is bf16, the others are check_quant.c's. */
static bool tensor(kc *c, int form, int rows, int cols, ap_tensor *out)
{
    if (form == 0)
        *out = kc_tensor(c, AP_BF16, rows, cols, 0.1, NULL);
    else if (!kc_quant_tensor(c, form - 1, rows, 1, out))
        return false;
    else if (!kc_quant_tensor(c, form - 1, rows,
                              (cols + (int)out->shape[1] - 1) / (int)out->shape[1], out))
        return false;
    return true;
}

/* ------------------------------------------------------------------ matmul */

/* In f64, of inputs rounded to bf16. */
static void oracle(kc *c, const ap_tensor *w, const ap_matmul_args *a, const float *old, double *y,
                   double *mag)
{
    int N = (int)w->shape[0], K = (int)w->shape[1];
    float *row = kc_bytes(c, (size_t)K * sizeof(float));
    for (int n = 0; n < N; n++) {
        ap_tensor_row_f32(w, n, 0, K, row);
        for (int t = 0; t < a->n_tok; t++) {
            double s = 0, m = 0;
            for (int k = 0; k < K; k++) {
                double p =
                    (double)row[k] * (double)ap_bf16_to_f32(ap_f32_to_bf16(a->x[t * a->ldx + k]));
                s += p;
                m += fabs(p);
            }
            if (a->accumulate) {
                s += (double)old[t * a->ldy + n];
                m += fabs((double)old[t * a->ldy + n]);
            }
            if (a->softcap != 0) s = (double)a->softcap * tanh(s / (double)a->softcap);
            y[(size_t)t * N + n] = s;
            mag[(size_t)t * N + n] = m;
        }
    }
}

static void run(const ap_exec *ex, const ap_matmul_args *a, const float *old, float *y, void *room,
                size_t bytes)
{
    ap_exec f = fast(ex);
    ap_matmul_args b = *a;
    f.inputs = room;
    f.input_bytes = bytes;
    b.y = y;
    kc_poison(y, (size_t)(a->n_tok * a->ldy));
    for (int t = 0; t < a->n_tok && a->accumulate; t++)
        memcpy(y + t * a->ldy, old + t * a->ldy, (size_t)a->w->rows * sizeof(float));
    kc_call(&f, matmul, &b);
}

static void check_case(kc *c, int form, int T, int N, int K, bool accumulate, float softcap)
{
    ap_tensor src;
    int first = first_amx(c);
    if (!tensor(c, form, N, K, &src)) return;
    K = (int)src.shape[1];
    int64_t ldx = K + kc_int(c, 0, 3), ldy = N + kc_int(c, 0, 3);
    size_t ny = (size_t)(T * ldy), dense = (size_t)T * N;
    float *x = kc_in(c, (size_t)(T * ldx), 1.0), *old = kc_in(c, ny, 1.0);
    float *want = kc_out(c, ny), *y = kc_out(c, ny);
    double *y64 = kc_f64(c, dense), *mag = kc_f64(c, dense);
    kc_case(c, "tiles, %s bits=%d group=%d T=%d %d x %d%s%s", ap_dtype_name(src.dtype), src.bits,
            src.group, T, N, K, accumulate ? " accumulate" : "", softcap != 0 ? " softcap" : "");
    ap_mat w = kc_mat(c, c->ref, &src);
    ap_matmul_args a = {.x = x,
                        .w = &w,
                        .ldx = ldx,
                        .ldy = ldy,
                        .n_tok = T,
                        .accumulate = accumulate,
                        .softcap = softcap};
    ap_exec k = fast(&c->kern[first].x);
    const ap_mat *const mats[1] = {&w};
    bool tiled = ap_tiled_side(&k, mats, 1, T) != AP_AMX_NONE;
    if (tiled != (T >= AP_TILED_ROWS)) kc_fail(c, tiled ? "goes by tiles" : "does not go by tiles");
    size_t room = (size_t)(T + 15) / 16 * ap_amx_row_bytes(K);
    void *at = kc_bytes(c, room);
    run(&k, &a, old, want, at, room);
    kc_written(c, "y", want, T, N, ldy);
    if (tiled) {
        oracle(c, &src, &a, old, y64, mag);
        kc_close(c, "y", src.dtype == AP_BF16 ? KC_TILES : KC_BF16, want, ldy, y64, mag, T, N);
    } else { /* integers, or f32 for bf16 weights: as every other level */
        run(c->ref, &a, old, y, NULL, 0);
        kc_same(c, NULL, "few rows", want, ldy, y, ldy, T, N);
    }
    for (int i = first; i < c->n_kern; i++) {
        if (c->kern[i].x.k->level != APUS_CPU_AMX) continue;
        run(&c->kern[i].x, &a, old, y, at, room);
        kc_written(c, "y", y, T, N, ldy);
        kc_same(c, &c->kern[i], "y", y, ldy, want, ldy, T, N);
        /* less room: pieces of rows */
        run(&c->kern[i].x, &a, old, y, at, ap_amx_row_bytes(K) * (size_t)kc_int(c, 1, 3));
        kc_same(c, &c->kern[i], "little room", y, ldy, want, ldy, T, N);
        if (!tiled) continue;
        int lower = T / 2; /* rows do not know each other */
        if (lower < AP_TILED_ROWS) continue;
        ap_matmul_args part = a;
        part.n_tok = T - lower;
        part.x += lower * ldx;
        run(&c->kern[i].x, &part, old + lower * ldy, y, at, room);
        kc_same(c, &c->kern[i], "rows apart", y, ldy, want + lower * ldy, ldy, T - lower, N);
    }
}

/* Infinities and NaNs of one row stay in that row. */
static void check_special(kc *c, int form)
{
    enum { T = 40, N = 50 };
    ap_tensor src;
    if (!tensor(c, form, N, 100, &src)) return;
    int K = (int)src.shape[1];
    kc_case(c, "tiles with infinities, %s", ap_dtype_name(src.dtype));
    float *x = kc_in(c, (size_t)T * K, 1.0), *y = kc_out(c, (size_t)T * N);
    x[3 * K + 5] = INFINITY;
    x[17 * K + K - 1] = NAN;
    ap_mat w = kc_mat(c, c->ref, &src);
    ap_matmul_args a = {.x = x, .w = &w, .ldx = K, .ldy = N, .n_tok = T};
    size_t room = 3 * ap_amx_row_bytes(K);
    run(&c->kern[first_amx(c)].x, &a, NULL, y, kc_bytes(c, room), room);
    for (int r = 0; r < T; r++)
        for (int n = 0; n < N; n++)
            if (!isfinite(y[r * N + n]) != (r == 3 || r == 17))
                kc_fail(c, "row %d, output %d", r, n);
}

static int n_forms(kc *c)
{
    ap_tensor t;
    int n = 1;
    while (kc_quant_tensor(c, n - 1, 1, 1, &t)) n++;
    return n;
}

void check_matmul_amx(kc *c)
{
    static const int toks[] = {1, 12, 13, 16, 17, 31, 32, 33, 47, 48, 49, 64, 70},
                     outs[] = {1, 15, 16, 17, 32, 33, 40, 64, 129};
    if (first_amx(c) < 0) return;
    int forms = n_forms(c);
    for (int i = 0; i < forms * 8; i++) {
        int T = toks[kc_int(c, 0, 12)], N = outs[kc_int(c, 0, 8)], K = kc_int(c, 1, 900);
        while ((int64_t)T * N * K > 2000000) K /= 2;
        check_case(c, i / 8, T, N, K, i % 2, i % 4 == 3 ? 30.0f : 0.0f);
    }
    for (int i = 0; i < 20; i++)
        check_case(c, 0, toks[kc_int(c, 2, 12)], outs[kc_int(c, 0, 8)], kc_int(c, 1, 600), i % 2,
                   0);
    check_case(c, 0, 300, 40, 70, false, 0.0f); /* more than one block of rows */
    check_case(c, 1, 530, 33, 64, true, 0.0f);
    check_case(c, 8, 35, 70, 2300, false, 0.0f);
    check_case(c, 0, 14, 500, 1300, false, 0.0f);
    for (int i = 0; i < forms; i += 3) check_special(c, i);
}

/* ------------------------------------------------------------------ glu and moe */

static void give_room(kc *c, ap_exec *k, int T, int K)
{
    k->input_bytes = (size_t)(T + 15) / 16 * ap_amx_row_bytes(K);
    k->inputs = kc_bytes(c, k->input_bytes);
}

static float act1(ap_act a, float g, float u)
{
    return (a == AP_ACT_SILU ? ap_siluf(g) : ap_gelu_tanhf(g)) * u;
}

/* The same bits as two matmuls and the activation. */
void check_glu_amx(kc *c)
{
    int first = first_amx(c);
    if (first < 0) return;
    int forms = n_forms(c);
    for (int i = 0; i < forms; i++) {
        int T = kc_int(c, 13, 70), F = kc_int(c, 1, 130), K = 256 * kc_int(c, 1, 2);
        ap_tensor sg, su;
        tensor(c, i, F, K, &sg);
        tensor(c, i ? 1 + (i * 5) % (forms - 1) : 0, F, K, &su);
        if (sg.shape[1] != su.shape[1]) continue;
        K = (int)sg.shape[1];
        kc_case(c, "tiles, %s T=%d F=%d K=%d", ap_dtype_name(sg.dtype), T, F, K);
        size_t n = (size_t)T * F;
        float *x = kc_in(c, (size_t)T * K, 1.0), *g = kc_out(c, n), *u = kc_out(c, n),
              *y = kc_out(c, n);
        ap_mat gate = kc_mat(c, c->ref, &sg), up = kc_mat(c, c->ref, &su);
        ap_act act = i % 2 ? AP_ACT_SILU : AP_ACT_GELU_TANH;
        for (int k = first; k < c->n_kern; k++) {
            ap_exec kern = fast(&c->kern[k].x);
            if (kern.k->level != APUS_CPU_AMX) continue;
            give_room(c, &kern, T, K);
            if (k == first) {
                kc_call(
                    &kern, matmul,
                    &(ap_matmul_args){.x = x, .w = &gate, .y = g, .ldx = K, .ldy = F, .n_tok = T});
                kc_call(
                    &kern, matmul,
                    &(ap_matmul_args){.x = x, .w = &up, .y = u, .ldx = K, .ldy = F, .n_tok = T});
                for (size_t j = 0; j < n; j++) g[j] = act1(act, g[j], u[j]);
            }
            kc_poison(y, n);
            kc_call(&kern, glu,
                    &(ap_glu_args){.x = x,
                                   .gate = &gate,
                                   .up = &up,
                                   .y = y,
                                   .ldx = K,
                                   .ldy = F,
                                   .n_tok = T,
                                   .act = act});
            kc_written(c, "y", y, T, F, F);
            kc_same(c, &c->kern[k], "y", y, F, g, F, T, F);
        }
    }
}

enum { E = 6, MAX_T = 90 };

/* y of all tokens by experts as plain products: those with enough rows in tiles, the others by ref. */
static void by_experts(kc *c, const ap_exec *amx, const ap_moe_args *a, int H, int F)
{
    int T = a->n_tok, R = a->n_used, rows[E] = {0};
    float *mid = kc_out(c, (size_t)T * F), *out = kc_out(c, (size_t)T * H * E);
    ap_exec ref = fast(c->ref), kern = *amx;
    give_room(c, &kern, T, H > F ? H : F);
    for (int i = 0; i < T * R; i++) rows[a->ids[i]]++;
    for (int e = 0; e < E; e++) {
        const ap_expert *x = &a->experts[e];
        if (!rows[e]) continue;
        /* the rows of an expert do not know each other, so all tokens may go through it */
        const ap_exec *ex = ap_tiled_expert(amx, x, rows[e]) ? &kern : &ref;
        kc_call(ex, glu,
                &(ap_glu_args){.x = a->x,
                               .gate = &x->gate,
                               .up = &x->up,
                               .y = mid,
                               .ldx = a->ldx,
                               .ldy = F,
                               .n_tok = T,
                               .act = a->act});
        kc_call(ex, matmul,
                &(ap_matmul_args){.x = mid,
                                  .w = &x->down,
                                  .y = out + (size_t)e * T * H,
                                  .ldx = F,
                                  .ldy = H,
                                  .n_tok = T});
    }
    for (int t = 0; t < T; t++) {
        float *y = a->y + t * a->ldy;
        memset(y, 0, (size_t)H * sizeof(float));
        for (int r = 0; r < R; r++) {
            const float *o = out + ((size_t)a->ids[t * R + r] * T + t) * H;
            for (int h = 0; h < H; h++) y[h] = fmaf(a->weights[t * R + r], o[h], y[h]);
        }
    }
}

static void check_moe_case(kc *c, int form, int down_form, int T, int H, int F)
{
    enum { R = 2 };
    int first = first_amx(c);
    int32_t *ids = kc_bytes(c, (size_t)T * R * sizeof *ids);
    float *weights = kc_out(c, (size_t)T * R);
    ap_expert experts[E];
    for (int i = 0; i < E; i++) {
        ap_tensor g, u, d;
        if (!tensor(c, i == 4 ? 0 : form, F, H, &g) || !tensor(c, i == 4 ? 0 : form, F, H, &u) ||
            !tensor(c, i == 3 ? 0 : down_form, H, F, &d))
            return;
        if (i == 5) d = kc_tensor(c, AP_F32, H, F, 0.1, NULL); /* no tiles */
        if (g.shape[1] != H || d.shape[1] != F) return;
        experts[i] =
            (ap_expert){kc_mat(c, c->ref, &g), kc_mat(c, c->ref, &u), kc_mat(c, c->ref, &d)};
    }
    kc_case(c, "tiles, form %d/%d T=%d H=%d F=%d", form, down_form, T, H, F);
    for (int t = 0; t < T; t++) { /* expert 1 has few rows */
        ids[t * R] = t < 5 ? 1 : (t * 7) % 3 ? 0 : 2;
        ids[t * R + 1] = kc_int(c, 3, 5);
        for (int r = 0; r < R; r++) weights[t * R + r] = (float)kc_int(c, 1, 100) * 0.01f;
    }
    float *x = kc_in(c, (size_t)T * H, 1.0), *want = kc_out(c, (size_t)T * H),
          *y = kc_out(c, (size_t)T * H);
    ap_moe_args a = {.x = x,
                     .ids = ids,
                     .weights = weights,
                     .experts = experts,
                     .y = want,
                     .ldx = H,
                     .ldy = H,
                     .n_tok = T,
                     .n_expert = E,
                     .n_used = R,
                     .act = AP_ACT_SILU};
    for (int k = first; k < c->n_kern; k++) {
        ap_exec kern = fast(&c->kern[k].x);
        if (kern.k->level != APUS_CPU_AMX) continue;
        if (k == first) by_experts(c, &kern, &a, H, F);
        a.y = y;
        a.scratch = kc_bytes(c, kern.k->moe_scratch_bytes(&kern, T, E, R, H, F));
        kc_poison(y, (size_t)T * H);
        kc_call(&kern, moe, &a);
        kc_written(c, "y", y, T, H, H);
        kc_same(c, &c->kern[k], "y", y, H, want, H, T, H);
        check_in_waves(c, &c->kern[k], &kern, &a, H, F);
    }
}

void check_moe_amx(kc *c)
{
    if (first_amx(c) < 0) return;
    int forms = n_forms(c);
    for (int i = 0; i < forms; i++)
        check_moe_case(c, i, (i + 4) % forms, kc_int(c, 30, MAX_T), 256, 256);
    check_moe_case(c, 0, 0, MAX_T, 70, 43);
    check_moe_case(c, 1, 1, 700, 96, 32);
    check_moe_case(c, 0, 1, MAX_T, 40, 96);
    check_moe_case(c, 5, 0, MAX_T, 64, 33);
    check_moe_case(c, 1, 1, 300, 64, 288); /* 13 tiles of rows: an odd number of panels would fit */
}

/* ------------------------------------------------------------------ timing */

typedef struct bench {
    ap_matmul_args a;
    ap_mat *w;
    int n_mats, next;
} bench;

static void run_one(const ap_exec *ex, void *arg)
{
    bench *r = arg;
    r->a.w = &r->w[r->next];
    r->next = (r->next + 1) % r->n_mats;
    ex->k->matmul(ex, &r->a);
}

/* Is the precision FAST worth a line at this table? With tiles, and for comparison without. */
static bool benched(const kc_bench *b)
{
    return b->peak_tiles > 0 || b->x->k->level == APUS_CPU_AVX512 ||
           b->x->k->level == APUS_CPU_AVX2;
}

static void bench_case(kc_bench *b, int form, int T, int N, int K)
{
    enum { MATS = 8 };
    ap_mat w[MATS];
    char shape[64];
    ap_tensor src;
    ap_exec k = fast(b->x);
    tensor(b->c, form, N, K, &src);
    size_t bytes = k.k->pack_bytes(k.k, &src);
    w[0] = kc_mat(b->c, &k, &src);
    for (int i = 1; i < MATS; i++) {
        w[i] = w[0];
        w[i].data = memcpy(kc_bytes(b->c, bytes), w[0].data, bytes);
    }
    give_room(b->c, &k, T, K);
    kc_bench with_room = *b;
    with_room.x = &k;
    with_room.peak_flops = b->peak_tiles > 0 ? b->peak_tiles : b->peak_dots;
    bench r = {.w = w, .n_mats = MATS};
    r.a = (ap_matmul_args){.x = kc_in(b->c, (size_t)T * K, 1.0),
                           .y = kc_out(b->c, (size_t)T * N),
                           .ldx = K,
                           .ldy = N,
                           .n_tok = T};
    snprintf(shape, sizeof shape, "T=%d %dx%d %s%.0d fast", T, N, K, ap_dtype_name(src.dtype),
             src.bits);
    kc_time(&with_room, shape, 2.0 * T * N * K, (double)bytes + 4.0 * T * (N + K), run_one, &r);
}

void bench_matmul_amx(kc_bench *b)
{
    static const int toks[] = {8, 12, 16, 32, 64, 128, 256, 512, 4096};
    static const int forms[] = {0, 1, 8, 14, 10, 5}; /* bf16, Q4_0, Q4_K, MLX 4 bits, Q6_K, Q8_0 */
    if (!benched(b)) return;
    for (size_t f = 0; f < sizeof forms / sizeof *forms; f++)
        for (size_t i = 0; i < sizeof toks / sizeof *toks; i++) {
            if (b->peak_tiles <= 0 && (toks[i] > 512 || forms[f] == 0)) continue;
            bench_case(b, forms[f], toks[i], 4096, 2048);
        }
}

static void run_moe(const ap_exec *ex, void *arg)
{
    ex->k->moe(ex, arg);
}

/* Every expert with the same number of rows. */
static void bench_experts(kc_bench *b, int form, int rows)
{
    enum { N = 64, R = 8, H = 2048, F = 512 };
    static ap_expert experts[N];
    kc *c = b->c;
    char shape[64];
    ap_tensor in, out;
    ap_exec k = fast(b->x);
    int T = rows * N / R;
    tensor(c, form, F, H, &in);
    tensor(c, form, H, F, &out);
    for (int e = 0; e < N; e++)
        experts[e] = (ap_expert){kc_mat(c, &k, &in), kc_mat(c, &k, &in), kc_mat(c, &k, &out)};
    int32_t *ids = kc_bytes(c, (size_t)T * R * sizeof *ids);
    for (int i = 0; i < T * R; i++) ids[i] = (i * 5 + i / N) % N;
    ap_moe_args a = {.x = kc_in(c, (size_t)T * H, 1),
                     .ids = ids,
                     .weights = kc_in(c, (size_t)T * R, 0.1),
                     .experts = experts,
                     .y = kc_out(c, (size_t)T * H),
                     .ldx = H,
                     .ldy = H,
                     .n_tok = T,
                     .n_expert = N,
                     .n_used = R,
                     .act = AP_ACT_SILU,
                     .scratch = kc_bytes(c, k.k->moe_scratch_bytes(&k, T, N, R, H, F))};
    kc_bench with = *b;
    with.x = &k;
    with.peak_flops = b->peak_tiles > 0 ? b->peak_tiles : b->peak_dots;
    snprintf(shape, sizeof shape, "%d of %d T=%d (%d rows) %s%.0d fast", R, N, T, rows,
             ap_dtype_name(in.dtype), in.bits);
    double bytes = (double)N * (double)(2 * k.k->pack_bytes(k.k, &in) + k.k->pack_bytes(k.k, &out));
    kc_time(&with, shape, 6.0 * T * R * H * F, bytes, run_moe, &a);
}

void bench_moe_amx(kc_bench *b)
{
    static const int rows[] = {8, 16, 32, 64, 128, 256}, forms[] = {0, 8, 14};
    if (!benched(b)) return;
    for (size_t f = 0; f < sizeof forms / sizeof *forms; f++)
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
            if (b->peak_tiles > 0 || (forms[f] && rows[i] <= 64))
                bench_experts(b, forms[f], rows[i]);
}
