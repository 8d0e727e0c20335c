/* check_quant.c - weights in integer form: packing, products with 15-bit and 8-bit inputs, exact mode. Called by
 * the checks of pack, matmul, glu and moe. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kcheck.h"
#include "kern/cpu/micro/micro.h"
#include "tensor/quant.h"

typedef struct form {
    ap_dtype type;
    int bits, group; /* split types */
    ap_dtype scale_dtype;
    int unit; /* columns come in multiples of it */
} form;

static const form forms[] = {
    {AP_Q4_0, 0, 0, 0, 32},
    {AP_Q4_1, 0, 0, 0, 32},
    {AP_Q5_0, 0, 0, 0, 32},
    {AP_Q5_1, 0, 0, 0, 32},
    {AP_Q8_0, 0, 0, 0, 32},
    {AP_Q2_K, 0, 0, 0, 256},
    {AP_Q3_K, 0, 0, 0, 256},
    {AP_Q4_K, 0, 0, 0, 256},
    {AP_Q5_K, 0, 0, 0, 256},
    {AP_Q6_K, 0, 0, 0, 256},
    {AP_IQ4_NL, 0, 0, 0, 32},
    {AP_IQ4_XS, 0, 0, 0, 256},
    {AP_MXFP4, 0, 0, 0, 32},
    {AP_MLX_AFFINE, 4, 64, AP_BF16, 64},
    {AP_MLX_AFFINE, 4, 32, AP_F16, 32},
    {AP_MLX_AFFINE, 8, 64, AP_BF16, 64},
    {AP_MLX_AFFINE, 8, 128, AP_F32, 128},
    {AP_MLX_AFFINE, 2, 64, AP_F16, 64},
    {AP_MLX_AFFINE, 3, 128, AP_BF16, 128},
    {AP_MLX_AFFINE, 5, 64, AP_BF16, 64},
    {AP_MLX_AFFINE, 6, 32, AP_BF16, 32},
    {AP_MLX_MXFP4, 4, 32, AP_U8, 32},
    {AP_MLX_NVFP4, 4, 16, AP_F8_E4M3, 32},
    {AP_IQ2_XXS, 0, 0, 0, 256},
    {AP_IQ2_XS, 0, 0, 0, 256},
    {AP_IQ2_S, 0, 0, 0, 256},
    {AP_IQ3_XXS, 0, 0, 0, 256},
    {AP_IQ3_S, 0, 0, 0, 256},
    {AP_MLX_AFFINE, 2, 128, AP_BF16, 128},
    {AP_MLX_AFFINE, 2, 32, AP_F32, 32},
    {AP_MLX_AFFINE, 3, 32, AP_F16, 32},
};
enum { N_FORMS = sizeof forms / sizeof *forms };
_Static_assert(sizeof(ap_expert) == 3 * sizeof(ap_mat), "an expert is its three matrices");

/* Never in integer products: only packed and widened. */
static const form floats[] = {
    {AP_MLX_MXFP8, 8, 32, AP_U8, 32},
    {AP_FP8_BLOCK, 8, 128, AP_F32, 32},
    {AP_FP8_BLOCK, 8, 128, AP_BF16, 32},
};
enum { N_FLOATS = sizeof floats / sizeof *floats };

static const form *any_form(int i)
{
    return i < N_FORMS ? &forms[i] : &floats[i - N_FORMS];
}

/* ------------------------------------------------------------------ weights */

static void put16(uint8_t *p, uint16_t v)
{
    memcpy(p, &v, 2);
}

static uint16_t scale16(kc *c, ap_dtype t)
{
    float f = (float)((ap_rng_normal(&c->rng) + 3) * 0.01);
    return t == AP_BF16 ? ap_f32_to_bf16(f) : ap_f32_to_f16(f);
}

static void fill_bytes(kc *c, uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++) p[i] = (uint8_t)ap_rng_next(&c->rng);
}

/* Random bytes make every block; only the floats among them need care. */
static void fill_block(kc *c, ap_dtype t, uint8_t *p)
{
    size_t bytes = ap_dtype_block_bytes(t);
    fill_bytes(c, p, bytes);
    uint16_t d = scale16(c, AP_F16), m = scale16(c, AP_F16);
    if (t == AP_MXFP4)
        p[0] = (uint8_t)kc_int(c, 118, 128);
    else if (t == AP_Q6_K)
        put16(p + 208, d);
    else if (t == AP_Q3_K)
        put16(p + 108, d);
    else if (t == AP_Q2_K)
        put16(p + 80, d), put16(p + 82, m);
    else
        put16(p, d);
    if (t == AP_Q4_1 || t == AP_Q5_1 || t == AP_Q4_K || t == AP_Q5_K) put16(p + 2, m);
}

static void *split_scales(kc *c, const form *f, size_t n)
{
    size_t size = ap_dtype_bytes(f->scale_dtype);
    uint8_t *p = kc_bytes(c, n * size);
    for (size_t i = 0; i < n; i++) {
        float v = (float)(ap_rng_normal(&c->rng) * 0.02);
        if (f->scale_dtype == AP_U8)
            p[i] = (uint8_t)kc_int(c, 118, 128);
        else if (f->scale_dtype == AP_F8_E4M3)
            p[i] = (uint8_t)(kc_int(c, 0, 0x7e) | kc_int(c, 0, 1) << 7);
        else if (f->scale_dtype == AP_F32)
            memcpy(p + 4 * i, &v, 4);
        else
            put16(p + 2 * i, scale16(c, f->scale_dtype));
    }
    return p;
}

static ap_tensor weights(kc *c, const form *f, int rows, int cols)
{
    ap_tensor t = {.dtype = f->type,
                   .rank = 2,
                   .shape = {rows, cols},
                   .bits = f->bits,
                   .group = f->group,
                   .group_rows = 1,
                   .scale_dtype = f->scale_dtype};
    size_t bytes = ap_tensor_bytes(&t), block = ap_dtype_block_bytes(f->type);
    uint8_t *data = (uint8_t *)kc_bytes(c, bytes + 1) + 1;
    t.data = data;
    if (block) {
        for (size_t i = 0; i < bytes; i += block) fill_block(c, f->type, data + i);
        return t;
    }
    size_t groups = (size_t)rows * (size_t)((cols + f->group - 1) / f->group);
    fill_bytes(c, data, bytes);
    for (size_t i = 0; i < bytes && (f->type == AP_MLX_MXFP8 || f->type == AP_FP8_BLOCK); i++)
        if ((data[i] & 0x7f) == 0x7f && i != 5) data[i] ^= 1; /* one NaN at most */
    t.scales = split_scales(c, f, groups);
    if (f->type == AP_MLX_AFFINE) t.biases = split_scales(c, f, groups);
    return t;
}

bool kc_quant_tensor(kc *c, int i, int rows, int units, ap_tensor *out)
{
    if (i >= N_FORMS) return false;
    *out = weights(c, &forms[i], rows, units * forms[i].unit);
    return true;
}

ap_tensor kc_weights(kc *c, ap_dtype t, int rows, int cols)
{
    for (int i = 0; i < N_FORMS; i++)
        if (forms[i].type == t) return weights(c, &forms[i], rows, cols);
    return kc_tensor(c, t, rows, cols, 1 / sqrt(cols), NULL);
}

static void describe(kc *c, const form *f, const char *what, int T, int N, int K)
{
    kc_case(c, "%s %s bits=%d group=%d T=%d %d x %d", what, ap_dtype_name(f->type), f->bits,
            f->group, T, N, K);
}

static const apus_precision precisions[] = {APUS_PRECISION_HIGH, APUS_PRECISION_FAST,
                                            APUS_PRECISION_EXACT};

static ap_exec with_precision(const ap_exec *ex, apus_precision p)
{
    ap_exec copy = *ex;
    copy.precision = p;
    return copy;
}

/* What a kernel must come to. */
static const float *wanted(const kc_kern *kern, const float *ref, const float *fine)
{
    return kern->exact ? ref : fine;
}

/* Tiles of matrix units round otherwise than the Order: check_amx.c. */
static bool follows_order(const ap_exec *ex, apus_precision p)
{
    return p != APUS_PRECISION_FAST || ex->k->level != APUS_CPU_AMX;
}

/* ------------------------------------------------------------------ the oracle */

/* x as integers stand for it, by the words of kern.h. */
static void round_inputs(apus_precision p, const float *x, int n, double *out)
{
    float largest = p == APUS_PRECISION_FAST ? 127.0f : 16256.0f;
    for (int k = 0; k < n; k += 32) {
        float most = 0;
        for (int i = 0; i < 32; i++) most = fmaxf(most, fabsf(x[k + i]));
        float d = most * (1.0f / largest), inv = largest / most;
        for (int i = 0; i < 32; i++)
            out[k + i] = most < 1e-30f ? 0.0 : (double)d * (double)rintf(x[k + i] * inv);
    }
}

/* y of the product and the magnitude of its terms. What is added up are q X and b X apart, so terms
 * are larger than |w X|: at most 256 steps of q, bounded by twice the largest weight of the group. */
static void oracle(kc *c, apus_precision p, const ap_tensor *w, const float *x, int64_t ldx, int T,
                   double *y, double *mag)
{
    int N = (int)w->shape[0], K = (int)w->shape[1];
    float *row = kc_bytes(c, (size_t)K * sizeof(float));
    double *in = kc_f64(c, (size_t)T * K);
    for (int t = 0; t < T; t++) round_inputs(p, x + t * ldx, K, in + (size_t)t * K);
    for (int n = 0; n < N; n++) {
        ap_tensor_row_f32(w, n, 0, K, row);
        for (int t = 0; t < T; t++) {
            double s = 0, m = 0;
            for (int k0 = 0; k0 < K; k0 += 32) {
                double big = 0, sum = 0;
                for (int k = k0; k < k0 + 32; k++) {
                    big = fmax(big, fabs((double)row[k]));
                    sum += fabs(in[(size_t)t * K + k]);
                    s += (double)row[k] * in[(size_t)t * K + k];
                }
                m += 4 * big * sum;
            }
            y[(size_t)t * N + n] = s;
            mag[(size_t)t * N + n] = m;
        }
    }
}

/* ------------------------------------------------------------------ pack */

static bool same_form(ap_qform a, ap_qform b)
{
    return a.bits == b.bits && a.table == b.table && a.scale == b.scale && a.shift == b.shift &&
           a.affine == b.affine && a.is_signed == b.is_signed && a.nibbles == b.nibbles &&
           a.is_float == b.is_float && a.group == b.group && a.zero == b.zero;
}

/* Packed bytes are the same at every level, and pack_bytes is kept. */
void check_pack_quant(kc *c)
{
    static const int rows[] = {1, 15, 16, 17, 40};
    for (int i = 0; i < (N_FORMS + N_FLOATS) * 2; i++) {
        const form *f = any_form(i / 2);
        int N = rows[kc_int(c, 0, 4)], K = f->unit * kc_int(c, 1, i % 2 ? 9 : 3);
        describe(c, f, "pack", 0, N, K);
        ap_tensor src = weights(c, f, N, K);
        size_t n = c->ref->k->pack_bytes(c->ref->k, &src);
        if (n == 0 || n % 64) kc_fail(c, "%zu bytes", n);
        uint8_t *want = kc_bytes(c, n), *dst = kc_bytes(c, n);
        ap_mat first, m;
        memset(want, 0x5a, n);
        c->ref->k->pack(c->ref->k, &src, want);
        c->ref->k->pack_mat(c->ref->k, &src, want, &first);
        if (first.data != want || first.rows != N || first.cols != K || !first.q.bits ||
            first.q.is_float != (i / 2 >= N_FORMS))
            kc_fail(c, "wrong description");
        for (int k = 0; k < c->n_kern; k++) {
            const ap_exec *ex = &c->kern[k].x;
            if (!c->kern[k].exact) continue; /* has forms of its own */
            memset(dst, 0xa5, n);            /* other bytes than above: none may be left */
            ex->k->pack(ex->k, &src, dst);
            ex->k->pack_mat(ex->k, &src, dst, &m);
            c->values += (int64_t)N * K;
            if (ex->k->pack_bytes(ex->k, &src) != n || memcmp(dst, want, n) ||
                !same_form(m.q, first.q))
                kc_fail(c, "%s: bytes differ", c->kern[k].name);
        }
    }
}

/* ------------------------------------------------------------------ matmul */

static void run_with_room(const ap_exec *ex, const ap_matmul_args *a, void *room, size_t bytes)
{
    ap_exec k = *ex;
    k.inputs = room;
    k.input_bytes = bytes;
    kc_call(&k, matmul, a);
}

/* With precision FAST devices may take another form for many rows. */
static void check_self(kc *c, const kc_kern *kern, apus_precision p, const char *what,
                       const float *y, const float *whole, const ap_matmul_args *a,
                       const float *want)
{
    int N = a->w->rows;
    if (kern->exact || p != APUS_PRECISION_FAST)
        kc_again(c, kern, what, y, a->ldy, whole, a->ldy, a->n_tok, N);
    else if (kc_tells(kern, c->loose, N))
        kc_same(c, kern, what, y, a->ldy, want, a->ldy, a->n_tok, N);
}

static void check_levels(kc *c, apus_precision p, const ap_tensor *src, const ap_matmul_args *args,
                         const float *old, const float *of_ref, const float *fine, int N)
{
    ap_matmul_args a = *args;
    c->loose = kc_loose_of(p);
    size_t ny = (size_t)(a.n_tok * a.ldy);
    size_t room = (size_t)a.w->cols * 3 * (size_t)(a.n_tok + 1);
    float *y = kc_out(c, ny);
    void *at = kc_bytes(c, room);
    a.y = y;
    for (int k = 0; k < c->n_kern; k++) {
        ap_exec kern = with_precision(&c->kern[k].x, p);
        if (!follows_order(&kern, p)) continue;
        ap_mat its = kc_mat_of(c, &c->kern[k], src, args->w);
        const float *whole = NULL, *want = wanted(&c->kern[k], of_ref, fine);
        a.w = &its;
        for (int with = 0; with < 2; with++) {
            kc_poison(y, ny);
            for (int t = 0; t < a.n_tok && a.accumulate; t++)
                memcpy(y + t * a.ldy, old + t * a.ldy, (size_t)N * sizeof(float));
            run_with_room(&kern, &a, with ? at : NULL, with ? room : 0);
            kc_written(c, "y", y, a.n_tok, N, a.ldy);
            if (with) {
                check_self(c, &c->kern[k], p, "y, with room", y, whole, &a, want);
                continue;
            }
            if (kc_tells(&c->kern[k], c->loose, N))
                kc_same(c, &c->kern[k], "y", y, a.ldy, want, a.ldy, a.n_tok, N);
            whole = kc_first(c, &c->kern[k], y, want, ny);
        }
        kc_poison(y, ny);
        for (int t = 0; t < a.n_tok && a.accumulate; t++)
            memcpy(y + t * a.ldy, old + t * a.ldy, (size_t)N * sizeof(float));
        for (int r = 0, n; r < a.n_tok; r += n) {
            n = kc_int(c, 1, a.n_tok - r < 9 ? a.n_tok - r : 9);
            ap_matmul_args part = a;
            part.x += r * a.ldx;
            part.y += r * a.ldy;
            part.n_tok = n;
            kc_call(&kern, matmul, &part);
        }
        check_self(c, &c->kern[k], p, "rows in pieces", y, whole, &a, want);
    }
}

static void check_case(kc *c, apus_precision p, const form *f, int T, int N, int K, bool accumulate)
{
    ap_exec ref = with_precision(c->ref, p), high = with_precision(c->ref, kc_fine_precision(p));
    int64_t ldx = K + kc_int(c, 0, 3), ldy = N + kc_int(c, 0, 3);
    size_t ny = (size_t)(T * ldy), dense = (size_t)T * N;
    float *x = kc_in(c, (size_t)(T * ldx), 1.0), *old = kc_in(c, ny, 1.0), *want = kc_out(c, ny),
          *fine = kc_needs_fine(c, p) ? kc_out(c, ny) : want;
    double *y64 = kc_f64(c, dense), *mag = kc_f64(c, dense);
    describe(c, f, p == APUS_PRECISION_FAST ? "fast" : "high", T, N, K);
    if (T > 2) memset(x + ldx, 0, (size_t)K * sizeof(float)); /* a row of zeros */
    ap_tensor src = weights(c, f, N, K);
    ap_mat w = kc_mat(c, c->ref, &src);
    ap_matmul_args a = {
        .x = x, .w = &w, .y = want, .ldx = ldx, .ldy = ldy, .n_tok = T, .accumulate = accumulate};
    oracle(c, p, &src, x, ldx, T, y64, mag);
    for (int t = 0; t < T && accumulate; t++)
        for (int n = 0; n < N; n++) {
            want[t * ldy + n] = old[t * ldy + n];
            y64[(size_t)t * N + n] += (double)old[t * ldy + n];
            mag[(size_t)t * N + n] += fabs((double)old[t * ldy + n]);
        }
    kc_call(&ref, matmul, &a);
    kc_written(c, "y", want, T, N, ldy);
    kc_close(c, "y", KC_SUM, want, ldy, y64, mag, T, N);
    if (kc_needs_fine(c, p)) {
        a.y = fine;
        for (int t = 0; t < T && accumulate; t++)
            memcpy(fine + t * ldy, old + t * ldy, (size_t)N * sizeof(float));
        kc_call(&high, matmul, &a);
    }
    if (p == APUS_PRECISION_HIGH) {
        c->mag = mag;
        c->part = KC_PART_INT15;
    }
    check_levels(c, p, &src, &a, old, want, fine, N);
}

/* Infinities, NaNs and denormals of a row stay in that row. */
static void check_special(kc *c, apus_precision p, const form *f)
{
    ap_exec ref = with_precision(c->ref, p);
    enum { T = 8, N = 20 };
    int K = f->unit > 64 ? f->unit : 96;
    if (K % f->unit) K = f->unit;
    describe(c, f, "infinities", T, N, K);
    float *x = kc_in(c, (size_t)T * K, 1.0), *want = kc_out(c, (size_t)T * N);
    x[1 * K + 5] = INFINITY;
    x[2 * K + K - 1] = NAN;
    for (int i = 0; i < K; i++) x[6 * K + i] *= 1e-40f;
    ap_tensor src = weights(c, f, N, K);
    ap_mat w = kc_mat(c, c->ref, &src);
    ap_matmul_args a = {.x = x, .w = &w, .y = want, .ldx = K, .ldy = N, .n_tok = T};
    kc_call(&ref, matmul, &a);
    for (int r = 0; r < T; r++)
        for (int n = 0; n < N; n++)
            if (!isfinite(want[r * N + n]) != (r == 1 || r == 2)) kc_fail(c, "row %d", r);
    check_levels(c, p, &src, &a, NULL, want, want, N);
}

/* Exact mode is the product with the numbers that the format defines, in the Order of f32 weights. */
static void check_exact(kc *c, const form *f, int T, int N, int K)
{
    describe(c, f, "exact", T, N, K);
    float *x = kc_in(c, (size_t)T * K, 1.0), *want = kc_out(c, (size_t)T * N),
          *y = kc_out(c, (size_t)T * N);
    float *row = kc_bytes(c, (size_t)K * sizeof(float));
    ap_tensor src = weights(c, f, N, K);
    if (f->type == AP_FP8_BLOCK && T % 2) src.group_rows = 128;
    double *mag = kc_f64(c, (size_t)T * N);
    for (int n = 0; n < N; n++) {
        ap_tensor_row_f32(&src, n, 0, K, row);
        for (int t = 0; t < T; t++) {
            want[t * N + n] = kc_dot(x + (size_t)t * K, row, K);
            for (int k = 0; k < K; k++)
                mag[t * N + n] += fabs((double)x[(size_t)t * K + k] * (double)row[k]);
        }
    }
    c->mag = mag;
    for (int k = 0; k < c->n_kern; k++) {
        ap_exec kern = c->kern[k].x;
        ap_mat w;
        /* forms of floats are exact at any precision */
        kern.precision = f->type < AP_MLX_MXFP8 ? APUS_PRECISION_EXACT : kern.precision;
        w = kc_mat(c, &kern, &src);
        ap_matmul_args a = {.x = x, .w = &w, .y = y, .ldx = K, .ldy = N, .n_tok = T};
        kc_poison(y, (size_t)T * N);
        kc_call(&kern, matmul, &a);
        kc_same(c, &c->kern[k], "exact y", y, N, want, N, T, N);
        if (c->kern[k].exact) continue; /* ref's bits, which do not know T */
        const float *whole = kc_first(c, &c->kern[k], y, want, (size_t)T * N);
        kc_poison(y, (size_t)T * N);
        for (int t = 0; t < T; t++) {
            ap_matmul_args one = a;
            one.x += (size_t)t * K;
            one.y += (size_t)t * N;
            one.n_tok = 1;
            kc_call(&kern, matmul, &one);
        }
        kc_again(c, &c->kern[k], "exact rows alone", y, N, whole, N, T, N);
    }
}

/* A matrix that stays where the file has it, as those do that are too wide to pack: the numbers of the format in the
 * Order of f32 weights, over several blocks of inputs. */
static void check_in_place(kc *c, const form *f, int T, int N, int K)
{
    describe(c, f, "in place", T, N, K);
    float *x = kc_in(c, (size_t)T * K, 1.0), *want = kc_out(c, (size_t)T * N),
          *y = kc_out(c, (size_t)T * N), *row = kc_bytes(c, (size_t)K * sizeof(float));
    ap_tensor src = weights(c, f, N, K);
    ap_mat w = {.dtype = src.dtype, .rows = N, .cols = K, .raw = src};
    ap_matmul_args a = {.x = x, .w = &w, .y = y, .ldx = K, .ldy = N, .n_tok = T};
    for (int n = 0; n < N; n++) {
        ap_tensor_row_f32(&src, n, 0, K, row);
        for (int t = 0; t < T; t++) want[t * N + n] = kc_dot(x + (size_t)t * K, row, K);
    }
    for (int k = 0; k < c->n_kern; k++) {
        if (!c->kern[k].exact) continue; /* takes none */
        kc_poison(y, (size_t)T * N);
        kc_call(&c->kern[k].x, matmul, &a);
        kc_same(c, &c->kern[k], "y", y, N, want, N, T, N);
    }
}

/* A block of 32 inputs at an edge of rounding: ties beside the largest number there is; just below, at and above
 * the smallest that is not zero. */
static void fill_edge(kc *c, apus_precision p, int kind, float *x)
{
    const float small[] = {nextafterf(1e-30f, 0), 1e-30f, nextafterf(1e-30f, 1)};
    int largest = p == APUS_PRECISION_FAST ? 127 : 16256;
    for (int i = 0; i < 32; i++) {
        float sign = kc_int(c, 0, 1) ? 1 : -1;
        if (kind < 3)
            x[i] = sign * small[kind] * (i == 5 ? 1 : 0.001f * (float)kc_int(c, 0, 999));
        else
            x[i] = sign *
                   ldexpf(i == 5 ? (float)largest : (float)kc_int(c, 0, largest - 1) + 0.5f, -10);
    }
}

/* x . w of a row of Q8_0 in the Order of integer products, written out once more. */
static float order_q8_0(apus_precision p, const uint8_t *row, const float *x, int K)
{
    float largest = p == APUS_PRECISION_FAST ? 127 : 16256, acc = 0;
    for (int k = 0; k < K; k += 32, row += 34) {
        float most = 0;
        int sum = 0;
        uint16_t s;
        memcpy(&s, row, 2);
        for (int i = 0; i < 32; i++) most = fmaxf(most, fabsf(x[k + i]));
        if (most < 1e-30f) continue; /* adds 0 */
        for (int i = 0; i < 32; i++)
            sum += (int8_t)row[2 + i] * (int)rintf(x[k + i] * (largest / most));
        acc = fmaf(ap_f16_to_f32(s) * (float)sum, most * (1 / largest), acc);
    }
    return acc;
}

/* Inputs at the edges of rounding: rows of one kind and rows of several. */
static void check_edges(kc *c, apus_precision p)
{
    enum { T = 9, N = 20, K = 96 };
    static const form f = {AP_Q8_0, 0, 0, 0, 32};
    ap_exec ref = with_precision(c->ref, p), high = with_precision(c->ref, kc_fine_precision(p));
    float *x = kc_out(c, T * K), *want = kc_out(c, T * N), *order = kc_out(c, T * N),
          *fine = kc_needs_fine(c, p) ? kc_out(c, T * N) : want;
    describe(c, &f, p == APUS_PRECISION_FAST ? "fast, edges" : "high, edges", T, N, K);
    for (int t = 0; t < T; t++)
        for (int b = 0; b < K / 32; b++)
            fill_edge(c, p, t < 4 ? t : kc_int(c, 0, 3), x + t * K + b * 32);
    ap_tensor src = weights(c, &f, N, K);
    ap_mat w = kc_mat(c, c->ref, &src);
    ap_matmul_args a = {.x = x, .w = &w, .y = want, .ldx = K, .ldy = N, .n_tok = T};
    for (int i = 0; i < T * N; i++)
        order[i] =
            order_q8_0(p, (const uint8_t *)src.data + i % N * (K / 32) * 34, x + i / N * K, K);
    kc_call(&ref, matmul, &a);
    kc_same(c, NULL, "y in its Order", want, N, order, N, T, N);
    a.y = fine;
    if (kc_needs_fine(c, p)) kc_call(&high, matmul, &a);
    check_levels(c, p, &src, &a, NULL, want, fine, N);
}

void check_matmul_quant(kc *c)
{
    static const int toks[] = {1, 2, 3, 4, 5, 6, 7, 12, 13, 25},
                     rows[] = {1, 15, 16, 17, 33, 64, 100};
    for (int i = 0; i < N_FORMS * 9; i++) {
        apus_precision p = precisions[i % 9 >= 6];
        const form *f = &forms[i / 9];
        int T = i % 3 == 2 && i % 9 > 2 ? kc_int(c, 100, 130) : toks[kc_int(c, 0, 9)],
            N = rows[kc_int(c, 0, 6)];
        int K = f->unit * kc_int(c, 1, 1 + 1300 / f->unit);
        if (T > 100) K = f->unit * kc_int(c, 1, 1 + 500 / f->unit), N = rows[kc_int(c, 0, 4)];
        check_case(c, p, f, T, N, K, i % 3 == 1);
    }
    for (int i = 0; i < N_FORMS; i++) {
        for (int p = 0; p < 2; p++) check_special(c, precisions[p], &forms[i]);
    }
    for (int p = 0; p < 2; p++) check_edges(c, precisions[p]);
    for (int i = 0; i < N_FORMS + N_FLOATS; i++) {
        const form *f = any_form(i);
        check_in_place(c, f, i % 2 ? 1 : 7, 18, f->unit * (1 + 1100 / f->unit));
        check_exact(c, f, 6, 21, f->unit * (f->unit > 128 ? 3 : 12));
        check_exact(c, f, kc_int(c, 1, 4), kc_int(c, 1, 80),
                    f->unit * kc_int(c, 1, f->unit > 128 ? 5 : 36));
        check_exact(c, f, kc_int(c, 5, 30), kc_int(c, 1, 140),
                    f->unit * kc_int(c, 1, f->unit > 128 ? 3 : 20));
        check_exact(c, f, 1, 160, 1024);
    }
    for (int p = 0; p < 2; p++) {
        check_case(c, precisions[p], &forms[0], 1, 16, 32768,
                   false); /* the widest; one row of inputs fills the stack */
        check_case(c, precisions[p], &forms[7], 6, 17, 32768, false);
    }
}

/* ------------------------------------------------------------------ glu and moe */

static float act(ap_act a, float g, float u)
{
    return (a == AP_ACT_SILU ? ap_siluf(g) : ap_gelu_tanhf(g)) * u;
}

/* A device's rows alone, and with room for inputs in integer form, are its rows together. */
static void check_glu_alone(kc *c, const kc_kern *kern, const ap_exec *ex, const ap_glu_args *a)
{
    size_t K = (size_t)a->ldx, F = (size_t)a->ldy, n = (size_t)a->n_tok * F;
    const float *whole = kc_copy(c, a->y, n);
    ap_exec wide = *ex;
    wide.input_bytes = 3 * (size_t)a->n_tok * K;
    wide.inputs = kc_bytes(c, wide.input_bytes);
    kc_poison(a->y, n);
    kc_call(&wide, glu, a);
    kc_again(c, kern, "with room", a->y, a->ldy, whole, a->ldy, a->n_tok, (int64_t)F);
    kc_poison(a->y, n);
    for (int t = 0; t < a->n_tok; t++) {
        ap_glu_args one = *a;
        one.x += (size_t)t * K;
        one.y += (size_t)t * F;
        one.n_tok = 1;
        kc_call(&wide, glu, &one);
    }
    kc_again(c, kern, "rows alone", a->y, a->ldy, whole, a->ldy, a->n_tok, (int64_t)F);
}

/* y = act(gate x) * (up x), with u for the second factor. */
static void glu_by_parts(const ap_exec *ref, const ap_matmul_args *a, const ap_mat *gate,
                         const ap_mat *up, ap_act which, float *y, float *u)
{
    ap_matmul_args part = *a;
    part.w = gate;
    part.y = y;
    kc_call(ref, matmul, &part);
    part.w = up;
    part.y = u;
    kc_call(ref, matmul, &part);
    for (int64_t j = 0; j < a->n_tok * a->ldy; j++) y[j] = act(which, y[j], u[j]);
}

/* The same through plain matmuls: gate and up of the same or of different forms, or one in f32. */
void check_glu_quant(kc *c)
{
    for (int i = 0; i < N_FORMS * 3; i++) {
        apus_precision p = precisions[i / N_FORMS];
        ap_exec ref = with_precision(c->ref, p),
                high = with_precision(c->ref, kc_fine_precision(p));
        const form *f = &forms[i % N_FORMS], *f2 = &forms[(i * 7 + i % 3) % N_FORMS];
        int K = 256 * kc_int(c, 1, 3), F = kc_int(c, 1, 70), T = kc_int(c, 1, 11);
        size_t n = (size_t)T * F;
        describe(c, f, "glu", T, F, K);
        float *x = kc_in(c, (size_t)T * K, 1.0), *g = kc_out(c, n), *u = kc_out(c, n),
              *y = kc_out(c, n), *fine = kc_needs_fine(c, p) ? kc_out(c, n) : g;
        ap_tensor sg = weights(c, f, F, K),
                  su = i % 5 == 0 ? kc_tensor(c, AP_BF16, F, K, 0.1, NULL) : weights(c, f2, F, K);
        ap_mat gate = kc_mat(c, c->ref, &sg), up = kc_mat(c, c->ref, &su);
        c->loose = kc_loose_of(p);
        ap_act which = i % 2 ? AP_ACT_SILU : AP_ACT_GELU_TANH;
        ap_matmul_args a = {.x = x, .ldx = K, .ldy = F, .n_tok = T};
        glu_by_parts(&ref, &a, &gate, &up, which, g, u);
        if (kc_needs_fine(c, p)) glu_by_parts(&high, &a, &gate, &up, which, fine, u);
        for (int k = 0; k < c->n_kern; k++) {
            ap_mat its_gate = kc_mat_of(c, &c->kern[k], &sg, &gate),
                   its_up = kc_mat_of(c, &c->kern[k], &su, &up);
            ap_glu_args b = {.x = x,
                             .gate = &its_gate,
                             .up = &its_up,
                             .y = y,
                             .ldx = K,
                             .ldy = F,
                             .n_tok = T,
                             .act = which};
            ap_exec kern = with_precision(&c->kern[k].x, p);
            if (!follows_order(&kern, p)) continue;
            kc_poison(y, n);
            kc_call(&kern, glu, &b);
            if (kc_tells(&c->kern[k], c->loose, F))
                kc_same(c, &c->kern[k], "y", y, F, wanted(&c->kern[k], g, fine), F, T, F);
            if (p != APUS_PRECISION_FAST && !c->kern[k].exact)
                check_glu_alone(c, &c->kern[k], &kern, &b);
        }
    }
}

/* A matrix of each of n experts, src[3 * j] to at[3 * j], one behind the other if they are alike. */
static void pack_member(kc *c, const ap_exec *ex, const ap_tensor *src, int n, ap_mat *at,
                        bool behind)
{
    size_t bytes = ex->k->pack_bytes(ex->k, src);
    for (int j = 1; j < n; j++) behind = behind && src[3 * j].dtype == src->dtype;
    uint8_t *mem = kc_bytes(c, behind ? bytes * (size_t)n : 0);
    for (int j = 0; j < n; j++, mem += bytes) {
        if (!behind) {
            at[3 * j] = kc_mat(c, ex, &src[3 * j]);
            continue;
        }
        ex->k->pack(ex->k, &src[3 * j], mem);
        ex->k->pack_mat(ex->k, &src[3 * j], mem, &at[3 * j]);
    }
}

/* A device's rows alone are its rows together. */
static void check_moe_alone(kc *c, const kc_kern *kern, const ap_exec *ex, const ap_moe_args *a)
{
    size_t n = (size_t)(a->n_tok * a->ldy);
    const float *whole = kc_copy(c, a->y, n);
    kc_poison(a->y, n);
    for (int t = 0; t < a->n_tok; t++) {
        ap_moe_args one = *a;
        one.x += t * a->ldx;
        one.y += t * a->ldy;
        one.ids += t * a->n_used;
        one.weights += t * a->n_used;
        one.n_tok = 1;
        kc_call(ex, moe, &one);
    }
    kc_again(c, kern, "rows alone", a->y, a->ldy, whole, a->ldy, a->n_tok, a->ldy);
}

/* Experts through glu and matmul, token by token, combined in rank order. */
static void moe_by_parts(const ap_exec *ref, const ap_expert *experts, const ap_moe_args *a,
                         float *want, float *mid, float *out)
{
    for (int t = 0; t < a->n_tok; t++) {
        float *to = want + t * a->ldy;
        memset(to, 0, (size_t)a->ldy * sizeof(float));
        for (int r = t * a->n_used; r < (t + 1) * a->n_used; r++) {
            const ap_expert *e = &experts[a->ids[r]];
            ap_glu_args up = {.x = a->x + t * a->ldx,
                              .gate = &e->gate,
                              .up = &e->up,
                              .y = mid,
                              .ldx = a->ldx,
                              .ldy = e->gate.rows,
                              .n_tok = 1,
                              .act = a->act};
            kc_call(ref, glu, &up);
            ap_matmul_args down = {
                .x = mid, .w = &e->down, .y = out, .ldx = e->gate.rows, .ldy = a->ldy, .n_tok = 1};
            kc_call(ref, matmul, &down);
            for (int h = 0; h < a->ldy; h++) to[h] = fmaf(a->weights[r], out[h], to[h]);
        }
    }
}

/* The same through plain matmuls, token by token. Many tokens are sorted into tiles on devices. */
void check_moe_quant(kc *c)
{
    enum { E = 5, R = 2, MOST = 40 };
    for (int i = 0; i < N_FORMS * 3; i++) {
        apus_precision p = precisions[i / N_FORMS];
        ap_exec ref = with_precision(c->ref, p),
                high = with_precision(c->ref, kc_fine_precision(p));
        const form *f = &forms[i % N_FORMS], *f2 = &forms[(i + 4) % N_FORMS];
        int H = 256, F = 256, T = i % 5 == 0 ? MOST : 9;
        describe(c, f, "moe", T, F, H);
        ap_expert e[E], its[E];
        ap_tensor src[E][3];
        c->loose = p == APUS_PRECISION_FAST ? 2 * KC_LOOSE_FAST : kc_loose_of(p); /* two products */
        for (int j = 0; j < E; j++) {
            src[j][0] = weights(c, f, F, H), src[j][1] = weights(c, f, F, H),
            src[j][2] = weights(c, f2, H, F);
            if (i % 6 == 0 && j == 1) src[j][2] = kc_tensor(c, AP_F32, H, F, 0.1, NULL);
            e[j] = (ap_expert){kc_mat(c, c->ref, &src[j][0]), kc_mat(c, c->ref, &src[j][1]),
                               kc_mat(c, c->ref, &src[j][2])};
        }
        float *x = kc_in(c, (size_t)T * H, 1.0), *want = kc_out(c, (size_t)T * H),
              *y = kc_out(c, (size_t)T * H),
              *fine = kc_needs_fine(c, p) ? kc_out(c, (size_t)T * H) : want;
        float *mid = kc_out(c, (size_t)F), *out = kc_out(c, (size_t)H),
              *weight = kc_out(c, MOST * R);
        int32_t *ids = kc_bytes(c, MOST * R * sizeof *ids);
        ap_moe_args a = {.x = x,
                         .ids = ids,
                         .weights = weight,
                         .experts = its,
                         .y = y,
                         .ldx = H,
                         .ldy = H,
                         .n_tok = T,
                         .n_expert = E,
                         .n_used = R,
                         .act = AP_ACT_SILU};
        for (int t = 0; t < T; t++) {
            ids[t * R] = kc_int(c, 0, E - 1);
            ids[t * R + 1] = (ids[t * R] + kc_int(c, 1, E - 1)) % E;
            for (int r = 0; r < R; r++) weight[t * R + r] = (float)kc_int(c, 1, 100) * 0.01f;
        }
        moe_by_parts(&ref, e, &a, want, mid, out);
        if (kc_needs_fine(c, p)) moe_by_parts(&high, e, &a, fine, mid, out);
        for (int k = 0; k < c->n_kern; k++) {
            ap_exec copy = with_precision(&c->kern[k].x, p), *ex = &copy;
            if (!follows_order(ex, p)) continue;
            for (int j = 0; j < E && c->kern[k].exact; j++) its[j] = e[j];
            for (int m = 0; m < 3 && !c->kern[k].exact; m++)
                pack_member(c, ex, &src[0][m], E, &its[0].gate + m, i % 2);
            void *scratch = kc_bytes(c, ex->k->moe_scratch_bytes(ex, T, E, R, H, F));
            kc_poison(y, (size_t)T * H);
            a.scratch = scratch;
            kc_call(ex, moe, &a);
            kc_same(c, &c->kern[k], "y", y, H, wanted(&c->kern[k], want, fine), H, T, H);
            check_in_waves(c, &c->kern[k], ex, &a, H, F);
            if (p != APUS_PRECISION_FAST && !c->kern[k].exact)
                check_moe_alone(c, &c->kern[k], ex, &a);
        }
    }
}

/* ------------------------------------------------------------------ timing */

typedef struct pack_run {
    ap_tensor src;
    void *dst;
} pack_run;

static void run_pack(const ap_exec *ex, void *arg)
{
    pack_run *r = arg;
    ex->k->pack(ex->k, &r->src, r->dst);
}

void bench_pack_quant(kc_bench *b)
{
    enum { N = 4096, K = 2048 };
    for (int i = 0; i < N_FORMS; i++) {
        const form *f = &forms[i];
        char shape[64];
        pack_run r = {.src = weights(b->c, f, N, K)};
        size_t n = b->x->k->pack_bytes(b->x->k, &r.src);
        if (!n) continue;
        r.dst = kc_bytes(b->c, n);
        snprintf(shape, sizeof shape, "%dx%d %s%.0d%s%.0d", N, K, ap_dtype_name(f->type), f->bits,
                 f->group ? "g" : "", f->group);
        kc_time(b, shape, 0, (double)ap_tensor_bytes(&r.src) + (double)n, run_pack, &r);
    }
}

typedef struct run {
    ap_matmul_args a;
    ap_mat *w;
    int n_mats, next;
} run;

static void run_one(const ap_exec *ex, void *arg)
{
    run *r = arg;
    r->a.w = &r->w[r->next];
    r->next = (r->next + 1) % r->n_mats;
    ex->k->matmul(ex, &r->a);
}

static void bench_case(kc_bench *b, apus_precision p, const form *f, int T, int N, int K)
{
    enum { MAX_MATS = 64 };
    ap_mat w[MAX_MATS];
    char shape[64];
    bool ref = b->x->k->level == APUS_CPU_REF;
    if (ref && T > 4) return; /* minutes */
    ap_tensor src = weights(b->c, f, N, K);
    size_t bytes = b->x->k->pack_bytes(b->x->k, &src), total = (size_t)(T > 4 || ref ? 1 : 256)
                                                               << 20;
    run r = {.w = w,
             .n_mats = (int)(total / bytes) + 1 < MAX_MATS ? (int)(total / bytes) + 1 : MAX_MATS};
    w[0] = kc_mat(b->c, b->x, &src);
    for (int i = 1; i < r.n_mats; i++) {
        w[i] = kc_mat(b->c, b->x, &src);
    }
    ap_exec k = with_precision(b->x, p);
    kc_bench with_room = *b;
    k.input_bytes = (size_t)T * (size_t)K * 3;
    k.inputs = kc_bytes(b->c, k.input_bytes);
    with_room.x = &k;
    with_room.peak_flops = p == APUS_PRECISION_FAST ? b->peak_dots : b->peak_dots / 2;
    r.a = (ap_matmul_args){.x = kc_in(b->c, (size_t)T * K, 1.0),
                           .y = kc_out(b->c, (size_t)T * N),
                           .ldx = K,
                           .ldy = N,
                           .n_tok = T};
    snprintf(shape, sizeof shape, "T=%d %dx%d %s%.0d%s%.0d%s", T, N, K, ap_dtype_name(f->type),
             f->bits, f->group ? "g" : "", f->group, p == APUS_PRECISION_FAST ? " fast" : "");
    kc_time(&with_room, shape, 2.0 * T * N * K, (double)bytes + 4.0 * T * (N + K), run_one, &r);
}

void bench_matmul_quant(kc_bench *b)
{
    static const int picked[] = {0, 4, 5, 6, 7, 8, 9, 11, 13, 15, 17, 18, 23, 24, 25, 26, 27},
                     toks[] = {1, 2, 4, 16, 64, 512};
    for (int i = 0; i < 2; i++) {
        apus_precision p = precisions[i];
        for (size_t j = 0; j < sizeof picked / sizeof *picked; j++)
            bench_case(b, p, &forms[picked[j]], 1, 4096, 2048);
        for (int j = 1; j < 6; j++) bench_case(b, p, &forms[7], toks[j], 4096, 2048);
        bench_case(b, p, &forms[13], 512, 4096, 2048);
        bench_case(b, p, &forms[9], 512, 4096, 2048);
        bench_case(b, p, &forms[4], 512, 4096, 2048);
        bench_case(b, p, &forms[5], 512, 4096, 2048);
        bench_case(b, p, &forms[24], 512, 4096, 2048);
        bench_case(b, p, &forms[27], 512, 4096, 2048);
    }
}
