/* check_matmul.c - packed weights, matmul and the gated unit. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kcheck.h"
#include "kern/cpu/micro/micro.h"

static const ap_dtype types[] = {AP_F32, AP_F16, AP_BF16};

/* ------------------------------------------------------------------ pack */

static size_t packed_bytes(ap_dtype t, int rows, int cols)
{
    size_t panels = ((size_t)rows + 15) / 16, c = (size_t)cols;
    return t == AP_F32   ? panels * c * 64
           : t == AP_F16 ? panels * c * 32
                         : panels * ((c + 1) / 2) * 64;
}

static ap_tensor shaped(ap_dtype t, int rows, int cols)
{
    return (ap_tensor){.dtype = t, .rank = 2, .shape = {rows, cols}};
}

void check_pack_bytes(kc *c)
{
    for (int i = 0; i < 300; i++) {
        ap_dtype t = types[i % 3];
        int rows = kc_int(c, 1, 5000), cols = kc_int(c, 1, 5000);
        kc_case(c, "%s %d x %d", ap_dtype_name(t), rows, cols);
        for (int k = 0; k < c->n_kern; k++) {
            const ap_exec *ex = &c->kern[k].x;
            if (!c->kern[k].exact) continue; /* has forms of its own */
            c->values++;
            ap_tensor src = shaped(t, rows, cols);
            if (ex->k->pack_bytes(ex->k, &src) != packed_bytes(t, rows, cols))
                kc_fail(c, "%s: %zu bytes, expected %zu", c->kern[k].name,
                        ex->k->pack_bytes(ex->k, &src), packed_bytes(t, rows, cols));
        }
    }
    kc_case(c, "types that are not run, or not by 16 columns");
    for (int t = 0; t < AP_DTYPE_COUNT; t++) {
        bool run = t == AP_F32 || t == AP_F16 || t == AP_BF16;
        ap_tensor src = shaped((ap_dtype)t, 16, 16);
        if ((c->ref->k->pack_bytes(c->ref->k, &src) != 0) != run) kc_fail(c, "type %d", t);
    }
    ap_tensor no_rows = shaped(AP_F32, 0, 5), no_cols = shaped(AP_F32, 5, -1);
    if (c->ref->k->pack_bytes(c->ref->k, &no_rows) || c->ref->k->pack_bytes(c->ref->k, &no_cols))
        kc_fail(c, "an empty matrix has bytes");
    kc_case(c, "the largest sizes");
    ap_tensor large = shaped(AP_F32, INT32_MAX, INT32_MAX);
    if (c->ref->k->pack_bytes(c->ref->k, &large) != packed_bytes(AP_F32, INT32_MAX, INT32_MAX))
        kc_fail(c, "wrapped around");
}

/* Byte offset of element (r, i), from the layout in kern.h. */
static size_t place(ap_dtype t, int cols, int r, int i)
{
    size_t p = (size_t)r / 16, in = (size_t)r % 16, k = (size_t)i;
    if (t == AP_F32) return ((p * (size_t)cols + k) * 16 + in) * 4;
    if (t == AP_F16) return ((p * (size_t)cols + k) * 16 + in) * 2;
    return (((p * (((size_t)cols + 1) / 2) + k / 2) * 16 + in) * 2 + k % 2) * 2;
}

void check_pack(kc *c)
{
    static const int sizes[][2] = {{1, 1},  {1, 2},   {3, 5},    {15, 7},    {16, 16},
                                   {17, 3}, {40, 33}, {64, 128}, {130, 515}, {1000, 301}};
    for (int i = 0; i < 30; i++) {
        ap_dtype t = types[i % 3];
        int rows = sizes[i / 3][0], cols = sizes[i / 3][1];
        size_t size = ap_dtype_bytes(t), n = packed_bytes(t, rows, cols);
        kc_case(c, "%s %d x %d", ap_dtype_name(t), rows, cols);
        ap_tensor src = kc_tensor(c, t, rows, cols, 1.0, NULL);
        uint8_t *want = kc_bytes(c, n), *dst = kc_bytes(c, n);
        memset(want, 0, n); /* padding rows and the column behind an odd one are zero */
        for (int r = 0; r < rows; r++)
            for (int j = 0; j < cols; j++)
                memcpy(want + place(t, cols, r, j),
                       (const uint8_t *)src.data + ((size_t)r * cols + j) * size, size);
        for (int k = 0; k < c->n_kern; k++) {
            const ap_exec *ex = &c->kern[k].x;
            ap_mat m = {0};
            if (!c->kern[k].exact) continue;
            memset(dst, 0x5a, n);
            ex->k->pack(ex->k, &src, dst);
            ex->k->pack_mat(ex->k, &src, dst, &m);
            c->values += (int64_t)rows * cols;
            if (memcmp(want, dst, n)) kc_fail(c, "%s: bytes differ", c->kern[k].name);
            if (m.data != dst || m.dtype != t || m.rows != rows || m.cols != cols)
                kc_fail(c, "%s: wrong description", c->kern[k].name);
        }
    }
    check_pack_quant(c);
}

/* A description, and nothing done to the memory. */
void check_pack_mat(kc *c)
{
    for (int i = 0; i < 30; i++) {
        ap_dtype t = types[i % 3];
        int rows = kc_int(c, 1, 100), cols = kc_int(c, 1, 100);
        kc_case(c, "%s %d x %d", ap_dtype_name(t), rows, cols);
        ap_tensor src = kc_tensor(c, t, rows, cols, 1.0, NULL);
        for (int k = 0; k < c->n_kern; k++) {
            const ap_kern *kern = c->kern[k].x.k;
            size_t n = kern->pack_bytes(kern, &src);
            uint8_t *dst = kc_bytes(c, n), *before = kc_bytes(c, n);
            ap_mat m = {0};
            memset(before, 0x5a, n);
            memset(dst, 0x5a, n);
            kern->pack_mat(kern, &src, dst, &m);
            c->values++;
            if (memcmp(before, dst, n)) kc_fail(c, "%s: wrote to the matrix", c->kern[k].name);
            if ((n && m.data != dst) || m.dtype != t || m.rows != rows || m.cols != cols)
                kc_fail(c, "%s: wrong description", c->kern[k].name);
        }
    }
}

/* Rows cut out of a packed matrix are as if they had been packed by themselves. */
static void check_rows_of(kc *c, const ap_tensor *src)
{
    enum { T = 3 };
    int N = (int)src->shape[0], K = (int)src->shape[1],
        begin = AP_PANEL * kc_int(c, 0, (N - 1) / AP_PANEL);
    int n = kc_int(c, 1, N - begin);
    float *x = kc_in(c, (size_t)T * K, 1.0), *want = kc_out(c, (size_t)T * n),
          *y = kc_out(c, (size_t)T * n);
    ap_tensor rows = ap_tensor_rows(src, begin, begin + n);
    kc_case(c, "rows %d to %d of %d x %d %s", begin, begin + n, N, K, ap_dtype_name(src->dtype));
    for (int k = 0; k < c->n_kern; k++) {
        const ap_exec *ex = &c->kern[k].x;
        ap_mat whole = kc_mat(c, ex, src), alone = kc_mat(c, ex, &rows), cut = {0};
        ap_matmul_args a = {.x = x, .w = &alone, .y = want, .ldx = K, .ldy = n, .n_tok = T};
        if (!ex->k->mat_rows(ex->k, &whole, begin, n, &cut)) {
            if (c->kern[k].exact) kc_fail(c, "%s: cannot be cut", c->kern[k].name);
            continue;
        }
        kc_call(ex, matmul, &a);
        a.w = &cut;
        a.y = y;
        kc_poison(y, (size_t)T * n);
        kc_call(ex, matmul, &a);
        kc_again(c, &c->kern[k], "y", y, n, want, n, T, n);
    }
}

void check_mat_rows(kc *c)
{
    ap_tensor t;
    for (int i = 0; i < 12; i++) {
        t = kc_tensor(c, types[i % 3], kc_int(c, 1, 200), kc_int(c, 1, 90), 1.0, NULL);
        check_rows_of(c, &t);
    }
    for (int i = 0; kc_quant_tensor(c, i, kc_int(c, 1, 100), 2, &t); i++) check_rows_of(c, &t);
}

typedef struct pack_run {
    ap_tensor src;
    void *dst;
} pack_run;

static void run_pack(const ap_exec *ex, void *arg)
{
    pack_run *r = arg;
    ex->k->pack(ex->k, &r->src, r->dst);
}

void bench_pack(kc_bench *b)
{
    enum { N = 4096, K = 2048 };
    for (int i = 0; i < 3; i++) {
        char shape[64];
        snprintf(shape, sizeof shape, "%dx%d %s", N, K, ap_dtype_name(types[i]));
        pack_run r = {.src = kc_tensor(b->c, types[i], N, K, 1.0, NULL)};
        size_t n = packed_bytes(types[i], N, K);
        r.dst = kc_bytes(b->c, n);
        kc_time(b, shape, 0, 2.0 * (double)n, run_pack, &r);
    }
    bench_pack_quant(b);
}

/* ------------------------------------------------------------------ matmul */

/* y[t, n] = x . w with the sum of magnitudes, in f64. */
static void product64(const float *x, int64_t ldx, const float *w, int T, int N, int K, double *y,
                      double *mag)
{
    for (int t = 0; t < T; t++)
        for (int n = 0; n < N; n++) {
            double s = 0, m = 0;
            for (int k = 0; k < K; k++) {
                double p = (double)x[t * ldx + k] * w[(size_t)n * K + k];
                s += p;
                m += fabs(p);
            }
            y[(size_t)t * N + n] = s;
            mag[(size_t)t * N + n] = m;
        }
}

static void start_y(float *y, const float *old, const ap_matmul_args *a, size_t n)
{
    kc_poison(y, n);
    for (int t = 0; t < a->n_tok && a->accumulate; t++)
        memcpy(y + t * a->ldy, old + t * a->ldy, (size_t)a->w->rows * sizeof(float));
}

static void check_matmul_case(kc *c, ap_dtype t, int T, int N, int K, bool accumulate,
                              float softcap)
{
    int64_t ldx = K + kc_int(c, 0, 3), ldy = N + kc_int(c, 0, 3);
    size_t ny = (size_t)(T * ldy), dense = (size_t)T * N;
    float *values, *x = kc_in(c, (size_t)(T * ldx), 1.0), *old = kc_in(c, ny, 1.0);
    float *want = kc_out(c, ny), *y = kc_out(c, ny), *order = kc_out(c, ny);
    double *y64 = kc_f64(c, dense), *mag = kc_f64(c, dense);
    kc_case(c, "%s T=%d N=%d K=%d%s%s", ap_dtype_name(t), T, N, K, accumulate ? " accumulate" : "",
            softcap != 0 ? " softcap" : "");
    ap_tensor src = kc_tensor(c, t, N, K, 1.0 / sqrt(K), &values);
    ap_mat w = kc_mat(c, c->ref, &src);
    ap_matmul_args a = {.x = x,
                        .w = &w,
                        .y = want,
                        .ldx = ldx,
                        .ldy = ldy,
                        .n_tok = T,
                        .accumulate = accumulate,
                        .softcap = softcap};
    product64(x, ldx, values, T, N, K, y64, mag);
    for (size_t i = 0; i < dense; i++) {
        int r = (int)(i / (size_t)N), n = (int)(i % (size_t)N);
        float o = kc_dot(x + r * ldx, values + (size_t)n * K, K);
        if (accumulate) {
            y64[i] += old[r * ldy + n];
            mag[i] += fabsf(old[r * ldy + n]);
            o = old[r * ldy + n] + o;
        }
        if (softcap != 0) o = softcap * ap_tanhf(o / softcap);
        if (softcap != 0) y64[i] = (double)softcap * tanh(y64[i] / (double)softcap);
        order[r * ldy + n] = o;
    }
    c->mag = mag;
    start_y(want, old, &a, ny);
    kc_call(c->ref, matmul, &a);
    kc_written(c, "y", want, T, N, ldy);
    kc_close(c, "y", KC_SUM, want, ldy, y64, mag, T, N);
    kc_same(c, NULL, "y", want, ldy, order, ldy, T, N);
    for (int k = 0; k < c->n_kern; k++) {
        const kc_kern *kern = &c->kern[k];
        ap_mat its = kc_mat_of(c, kern, &src, &w);
        a.w = &its;
        a.y = y;
        start_y(y, old, &a, ny);
        kc_call(&kern->x, matmul, &a);
        kc_written(c, "y", y, T, N, ldy);
        kc_same(c, kern, "y", y, ldy, want, ldy, T, N);
        const float *whole = kc_first(c, kern, y, want, ny);
        /* the same rows in pieces of any size */
        start_y(y, old, &a, ny);
        for (int r = 0, n; r < T; r += n) {
            n = kc_int(c, 1, T - r < 20 ? T - r : 20);
            ap_matmul_args part = a;
            part.x += r * ldx;
            part.y += r * ldy;
            part.n_tok = n;
            kc_call(&kern->x, matmul, &part);
        }
        kc_again(c, kern, "rows in pieces", y, ldy, whole, ldy, T, N);
    }
}

/* Infinities and NaNs of one row stay in that row. */
static void check_special_rows(kc *c, ap_dtype t)
{
    enum { T = 14, N = 50, K = 70 };
    kc_case(c, "%s with infinities", ap_dtype_name(t));
    float *x = kc_in(c, (size_t)T * K, 1.0), *want = kc_out(c, (size_t)T * N),
          *y = kc_out(c, (size_t)T * N);
    x[3 * K + 5] = INFINITY;
    x[7 * K + K - 1] = NAN;
    ap_tensor src = kc_tensor(c, t, N, K, 1.0, NULL);
    ap_mat w = kc_mat(c, c->ref, &src);
    ap_matmul_args a = {.x = x, .w = &w, .y = want, .ldx = K, .ldy = N, .n_tok = T};
    kc_call(c->ref, matmul, &a);
    for (int r = 0; r < T; r++)
        for (int n = 0; n < N; n++)
            if (!isfinite(want[r * N + n]) != (r == 3 || r == 7))
                kc_fail(c, "row %d is touched", r);
    for (int k = 0; k < c->n_kern; k++) {
        ap_mat its = kc_mat_of(c, &c->kern[k], &src, &w);
        a.w = &its;
        a.y = y;
        kc_poison(y, (size_t)T * N);
        kc_call(&c->kern[k].x, matmul, &a);
        kc_same(c, &c->kern[k], "y", y, N, want, N, T, N);
    }
}

void check_matmul(kc *c)
{
    static const int toks[] = {0, 1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 25, 61, 121, 250};
    static const int rows[] = {1, 15, 16, 17, 40, 64, 129},
                     cols[] = {1, 2, 3, 31, 64, 511, 512, 513, 1101};
    for (int i = 0; i < 15 * 6; i++) {
        int T = toks[i % 15], N = rows[kc_int(c, 0, 6)], K = cols[kc_int(c, 0, 8)];
        while ((int64_t)T * N * K > 3000000) K /= 2;
        check_matmul_case(c, types[i / 15 % 3], T, N, K, i % 2, i % 4 == 3 ? 30.0f : 0.0f);
    }
    for (int i = 0; i < 3; i++) {
        check_matmul_case(c, types[i], 1, 3000, 700, i == 1, 0.0f);
        check_matmul_case(c, types[i], 4, 1000, 600, i == 2, 0.0f);
        check_special_rows(c, types[i]);
    }
    check_matmul_case(c, AP_BF16, 30, 100, 1601, true, 0.0f);
    check_matmul_quant(c);
    check_matmul_amx(c);
}

typedef struct matmul_run {
    ap_matmul_args a;
    ap_mat *w;
    int n_mats, next;
} matmul_run;

/* Another matrix each time: decode finds its weights in memory, not in a cache. */
static void run_matmul(const ap_exec *ex, void *arg)
{
    matmul_run *r = arg;
    r->a.w = &r->w[r->next];
    r->next = (r->next + 1) % r->n_mats;
    ex->k->matmul(ex, &r->a);
}

static void bench_matmul_case(kc_bench *b, ap_dtype t, int T, int N, int K)
{
    enum { MAX_MATS = 32 };
    ap_mat w[MAX_MATS];
    char shape[64];
    size_t bytes = packed_bytes(t, N, K);
    matmul_run r = {.w = w};
    bool ref = b->x->k->level == APUS_CPU_REF;
    if (ref && T > 4) return; /* minutes */
    size_t total = (size_t)(T > 4 || ref ? 1 : 256) << 20;
    r.n_mats = (int)(total / bytes) + 1 < MAX_MATS ? (int)(total / bytes) + 1 : MAX_MATS;
    ap_tensor src = kc_tensor(b->c, t, N, K, 0.02, NULL);
    for (int i = 0; i < r.n_mats; i++) w[i] = kc_mat(b->c, b->x, &src);
    r.a = (ap_matmul_args){.x = kc_in(b->c, (size_t)T * K, 1.0),
                           .y = kc_out(b->c, (size_t)T * N),
                           .ldx = K,
                           .ldy = N,
                           .n_tok = T};
    snprintf(shape, sizeof shape, "T=%d %dx%d %s", T, N, K, ap_dtype_name(t));
    kc_time(b, shape, 2.0 * T * N * K, (double)bytes + 4.0 * T * (N + K), run_matmul, &r);
}

void bench_matmul(kc_bench *b)
{
    static const int toks[] = {1, 2, 4, 8, 16, 64, 256, 512};
    for (int i = 0; i < 8; i++) bench_matmul_case(b, AP_BF16, toks[i], 4096, 2048);
    bench_matmul_case(b, AP_BF16, 1, 512, 1024);
    bench_matmul_case(b, AP_BF16, 1, 65536, 1024);
    bench_matmul_case(b, AP_F16, 1, 4096, 2048);
    bench_matmul_case(b, AP_F16, 256, 4096, 2048);
    bench_matmul_case(b, AP_F32, 1, 4096, 2048);
    bench_matmul_case(b, AP_F32, 256, 4096, 2048);
    bench_matmul_quant(b);
    bench_matmul_amx(b);
}

/* ------------------------------------------------------------------ glu */

static double act64(ap_act act, double x)
{
    if (act == AP_ACT_SILU) return x / (1.0 + exp(-x));
    return 0.5 * x * (1.0 + tanh(sqrt(2.0 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
}

static void check_glu_case(kc *c, ap_dtype tg, ap_dtype tu, int T, int F, int K, ap_act act)
{
    int64_t ldx = K + kc_int(c, 0, 3), ldy = F + kc_int(c, 0, 3);
    size_t ny = (size_t)(T * ldy), dense = (size_t)T * F;
    float *vg, *vu, *x = kc_in(c, (size_t)(T * ldx), 1.0), *want = kc_out(c, ny),
                    *y = kc_out(c, ny);
    float *order = kc_out(c, ny);
    double *g = kc_f64(c, dense), *gm = kc_f64(c, dense), *u = kc_f64(c, dense),
           *um = kc_f64(c, dense);
    kc_case(c, "%s/%s T=%d F=%d K=%d act=%d", ap_dtype_name(tg), ap_dtype_name(tu), T, F, K,
            (int)act);
    ap_tensor sg = kc_tensor(c, tg, F, K, 1.0 / sqrt(K), &vg),
              su = kc_tensor(c, tu, F, K, 1.0 / sqrt(K), &vu);
    ap_mat gate = kc_mat(c, c->ref, &sg), up = kc_mat(c, c->ref, &su);
    ap_glu_args a = {.x = x,
                     .gate = &gate,
                     .up = &up,
                     .y = want,
                     .ldx = ldx,
                     .ldy = ldy,
                     .n_tok = T,
                     .act = act};
    product64(x, ldx, vg, T, F, K, g, gm);
    product64(x, ldx, vu, T, F, K, u, um);
    for (size_t i = 0; i < dense; i++) {
        double v = act64(act, g[i]);
        /* slopes of both functions stay below 1.13 */
        gm[i] = 1.13 * gm[i] * (fabs(u[i]) + 24 * KC_EPS * um[i]) + fabs(v) * um[i];
        g[i] = v * u[i];
        int64_t r = (int64_t)i / F, f = (int64_t)i % F;
        float og = kc_dot(x + r * ldx, vg + f * K, K), ou = kc_dot(x + r * ldx, vu + f * K, K);
        order[r * ldy + f] = (act == AP_ACT_SILU ? ap_siluf(og) : ap_gelu_tanhf(og)) * ou;
    }
    c->mag = gm;
    kc_call(c->ref, glu, &a);
    kc_written(c, "y", want, T, F, ldy);
    kc_same(c, NULL, "y", want, ldy, order, ldy, T, F);
    kc_close(c, "y", KC_CHAIN, want, ldy, g, gm, T, F);
    for (int k = 0; k < c->n_kern; k++) {
        const kc_kern *kern = &c->kern[k];
        ap_mat its_gate = kc_mat_of(c, kern, &sg, &gate), its_up = kc_mat_of(c, kern, &su, &up);
        a.gate = &its_gate;
        a.up = &its_up;
        a.y = y;
        kc_poison(y, ny);
        kc_call(&kern->x, glu, &a);
        kc_written(c, "y", y, T, F, ldy);
        kc_same(c, kern, "y", y, ldy, want, ldy, T, F);
        const float *whole = kc_first(c, kern, y, want, ny);
        kc_poison(y, ny);
        for (int r = 0; r < T; r++) {
            ap_glu_args one = a;
            one.x += r * ldx;
            one.y += r * ldy;
            one.n_tok = 1;
            kc_call(&kern->x, glu, &one);
        }
        kc_again(c, kern, "rows alone", y, ldy, whole, ldy, T, F);
    }
}

void check_glu(kc *c)
{
    static const int toks[] = {0, 1, 3, 4, 5, 12, 40, 130}, sizes[] = {1, 16, 24, 100, 250};
    for (int i = 0; i < 8 * 3; i++) {
        int F = sizes[kc_int(c, 0, 4)], K = kc_int(c, 1, 300);
        check_glu_case(c, types[i % 3], types[i / 8 % 3], toks[i % 8], F, K,
                       i % 2 ? AP_ACT_SILU : AP_ACT_GELU_TANH);
    }
    check_glu_case(c, AP_BF16, AP_BF16, 1, 900, 700, AP_ACT_SILU);
    check_glu_case(c, AP_BF16, AP_BF16, 9, 200, 1030, AP_ACT_GELU_TANH);
    check_glu_quant(c);
    check_glu_amx(c);
}

static void run_glu(const ap_exec *ex, void *arg)
{
    ex->k->glu(ex, arg);
}

void bench_glu(kc_bench *b)
{
    enum { F = 8192, K = 2048, T = 256 };
    if (b->x->k->level == APUS_CPU_REF) return;
    ap_tensor src = kc_tensor(b->c, AP_BF16, F, K, 0.02, NULL);
    ap_mat gate = kc_mat(b->c, b->x, &src), up = kc_mat(b->c, b->x, &src);
    ap_glu_args a = {.x = kc_in(b->c, (size_t)T * K, 1.0),
                     .gate = &gate,
                     .up = &up,
                     .y = kc_out(b->c, (size_t)T * F),
                     .ldx = K,
                     .ldy = F,
                     .act = AP_ACT_SILU};
    double bytes = 4.0 * F * K;
    a.n_tok = 1;
    kc_time(b, "T=1 2x8192x2048 bf16", 4.0 * F * K, bytes, run_glu, &a);
    a.n_tok = T;
    kc_time(b, "T=256 2x8192x2048 bf16", 4.0 * T * F * K, bytes, run_glu, &a);
}
