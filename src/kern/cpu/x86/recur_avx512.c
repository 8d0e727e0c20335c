/* recur_avx512.c - the recurrent kernels with 16 lanes (micro_recur.h). */
#include <math.h>
#include <stdbool.h>

#include "kern/cpu/micro/micro_recur.h"
#include "kern/cpu/micro/recur_body.h"
#include "kern/cpu/x86/math_avx512.h"
#include "kern/cpu/x86/tile_avx512.h"

static __mmask16 head_mask(int n)
{
    return n < 16 ? ap_mask_avx512(n) : 0xffff;
}

static float dot_avx512(const float *x, const float *y, int n)
{
    __m512 s = _mm512_setzero_ps();
    for (int i = 0; i < n; i += 16) {
        __mmask16 m = head_mask(n - i);
        s = _mm512_mask3_fmadd_ps(_mm512_maskz_loadu_ps(m, x + i), _mm512_maskz_loadu_ps(m, y + i),
                                  s, m);
    }
    return ap_sum16_avx512(s);
}

static void gates_avx512(int n, const float *a, float dt_bias, float neg_exp_a, const float *b,
                         double *g, float *beta)
{
    recur_log_decays(n, a, dt_bias, neg_exp_a, g);
    for (int i = 0; i < n; i += 16) {
        __mmask16 m = head_mask(n - i);
        _mm512_mask_storeu_ps(beta + i, m, ap_sigmoid_avx512(_mm512_maskz_loadu_ps(m, b + i)));
    }
}

static void scale_avx512(const float *x, float r, float s, int n, float *out)
{
    for (int i = 0; i < n; i += 16) {
        __mmask16 m = head_mask(n - i);
        __m512 y = _mm512_mul_ps(_mm512_maskz_loadu_ps(m, x + i), _mm512_set1_ps(r));
        _mm512_mask_storeu_ps(out + i, m, _mm512_mul_ps(y, _mm512_set1_ps(s)));
    }
}

static inline void prefetch(const float *p, int64_t ahead)
{
    uintptr_t at = (uintptr_t)p + (uintptr_t)ahead * sizeof(float);
    _mm_prefetch((const char *)at, _MM_HINT_T0);
}

/* The partial sums of `rows` (1..4) state rows against k and q, to k_sum and q_sum [rows][16]. */
TILE_INLINE void row_sums(const int rows, const float *state, int k_dim, const float *k,
                          const float *q, int64_t ahead, __m512 *k_sum, __m512 *q_sum)
{
    __m512 ks[4], qs[4];
    for (int r = 0; r < rows; r++) ks[r] = qs[r] = _mm512_setzero_ps();
    int i = 0;
    for (; i + 16 <= k_dim; i += 16) {
        __m512 kv = _mm512_loadu_ps(k + i), qv = _mm512_loadu_ps(q + i);
        for (int r = 0; r < rows; r++) {
            __m512 s = _mm512_loadu_ps(state + r * k_dim + i);
            if (ahead != 0) prefetch(state + r * k_dim + i, ahead);
            ks[r] = _mm512_fmadd_ps(s, kv, ks[r]);
            qs[r] = _mm512_fmadd_ps(s, qv, qs[r]);
        }
    }
    if (i < k_dim) {
        __mmask16 m = ap_mask_avx512(k_dim - i);
        __m512 kv = _mm512_maskz_loadu_ps(m, k + i), qv = _mm512_maskz_loadu_ps(m, q + i);
        for (int r = 0; r < rows; r++) {
            __m512 s = _mm512_maskz_loadu_ps(m, state + r * k_dim + i);
            ks[r] = _mm512_mask3_fmadd_ps(s, kv, ks[r], m);
            qs[r] = _mm512_mask3_fmadd_ps(s, qv, qs[r], m);
        }
    }
    for (int r = 0; r < rows; r++) k_sum[r] = ks[r], q_sum[r] = qs[r];
}

/* ap_sum16 of 16 vectors: lane r of the result is that of s[r]. Each step adds the halves,
 * quarters, ... of two vectors and keeps both results side by side. */
static __m512 sum16_of_16(const __m512 *s)
{
    __m512 a[8], b[4], c[2];
    for (int i = 0; i < 8; i++) /* a[i]: rows i | i + 8 in halves of 8 */
        a[i] = _mm512_add_ps(_mm512_shuffle_f32x4(s[i], s[i + 8], 0x44),
                             _mm512_shuffle_f32x4(s[i], s[i + 8], 0xee));
    for (int i = 0; i < 4; i++) /* quarters of 4: rows i, i + 8, i + 4, i + 12 */
        b[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a[i], a[i + 4], 0x88),
                             _mm512_shuffle_f32x4(a[i], a[i + 4], 0xdd));
    for (int i = 0; i < 2; i++) /* in a quarter: two sums of b[i], two of b[i + 2] */
        c[i] = _mm512_add_ps(_mm512_shuffle_ps(b[i], b[i + 2], 0x44),
                             _mm512_shuffle_ps(b[i], b[i + 2], 0xee));
    __m512 d =
        _mm512_add_ps(_mm512_shuffle_ps(c[0], c[1], 0x88), _mm512_shuffle_ps(c[0], c[1], 0xdd));
    /* lane 4 w + e: quarter w has rows of base {0, 8, 4, 12}[w], e adds {0, 2, 1, 3}[e] */
    const __m512i order = _mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15);
    return _mm512_permutexvar_ps(order, d);
}

/* s = s + fma(k, d, by*s) or, not weak, fma(k, d, by*s). */
TILE_INLINE void update_rows(float *state, int n_row, int k_dim, const float *k, float factor,
                             const bool weak, const float *d)
{
    const __m512 by = _mm512_set1_ps(factor);
    for (int r = 0; r < n_row; r++) {
        float *s = state + r * k_dim;
        const __m512 dr = _mm512_set1_ps(d[r]);
        int i = 0;
        for (; i + 16 <= k_dim; i += 16) {
            __m512 x = _mm512_loadu_ps(s + i);
            __m512 step = _mm512_fmadd_ps(_mm512_loadu_ps(k + i), dr, _mm512_mul_ps(by, x));
            _mm512_storeu_ps(s + i, weak ? _mm512_add_ps(x, step) : step);
        }
        if (i < k_dim) {
            __mmask16 m = ap_mask_avx512(k_dim - i);
            __m512 x = _mm512_maskz_loadu_ps(m, s + i);
            __m512 kv = _mm512_maskz_loadu_ps(m, k + i);
            __m512 step = _mm512_fmadd_ps(kv, dr, _mm512_mul_ps(by, x));
            _mm512_mask_storeu_ps(s + i, m, weak ? _mm512_add_ps(x, step) : step);
        }
    }
}

static void replay_avx512(float *state, int n_row, int k_dim, const float *k,
                          const ap_delta_gate *g, const float *d)
{
    if (g->weak)
        update_rows(state, n_row, k_dim, k, g->decay_less1, true, d);
    else
        update_rows(state, n_row, k_dim, k, g->decay, false, d);
}

TILE_INLINE void step_body(float *state, int n_row, const int k_dim, const float *k, const float *q,
                           const ap_delta_gate *g, const float *v, float *o, float *out_d,
                           int64_t ahead)
{
    __m512 k_sum[AP_DELTA_ROWS], q_sum[AP_DELTA_ROWS];
    float d[AP_DELTA_ROWS];
    int r = 0;
    for (; r + 4 <= n_row; r += 4)
        row_sums(4, state + r * k_dim, k_dim, k, q, ahead, k_sum + r, q_sum + r);
    for (; r < n_row; r++) row_sums(1, state + r * k_dim, k_dim, k, q, ahead, k_sum + r, q_sum + r);
    for (; r < AP_DELTA_ROWS; r++) k_sum[r] = q_sum[r] = _mm512_setzero_ps();

    __mmask16 m = head_mask(n_row);
    const __m512 decay = _mm512_set1_ps(g->decay);
    __m512 kv = _mm512_mul_ps(decay, sum16_of_16(k_sum));
    __m512 qv = _mm512_mul_ps(decay, sum16_of_16(q_sum));
    __m512 dv =
        _mm512_mul_ps(_mm512_set1_ps(g->beta), _mm512_sub_ps(_mm512_maskz_loadu_ps(m, v), kv));
    _mm512_mask_storeu_ps(o, m, _mm512_fmadd_ps(_mm512_set1_ps(g->kq), dv, qv));
    _mm512_storeu_ps(d, dv);
    if (out_d) _mm512_mask_storeu_ps(out_d, m, dv);
    if (g->weak)
        update_rows(state, n_row, k_dim, k, g->decay_less1, true, d);
    else
        update_rows(state, n_row, k_dim, k, g->decay, false, d);
}

static void step_avx512(float *state, int n_row, int k_dim, const float *k, const float *q,
                        const ap_delta_gate *g, const float *v, float *o, float *d, int64_t ahead)
{
    if (k_dim == 128 && ahead == 0)
        step_body(state, n_row, 128, k, q, g, v, o, d, 0);
    else if (k_dim == 128)
        step_body(state, n_row, 128, k, q, g, v, o, d, ahead);
    else
        step_body(state, n_row, k_dim, k, q, g, v, o, d, ahead);
}

static void gated_norm_avx512(const float *o, const float *w, const float *z, int n, float eps,
                              float *out)
{
    float r = 1.0f / sqrtf(dot_avx512(o, o, n) / (float)n + eps);
    for (int i = 0; i < n; i += 16) {
        __mmask16 m = head_mask(n - i);
        __m512 y = _mm512_mul_ps(_mm512_maskz_loadu_ps(m, o + i), _mm512_set1_ps(r));
        y = _mm512_mul_ps(y, _mm512_maskz_loadu_ps(m, w + i));
        y = _mm512_mul_ps(y, ap_silu_avx512(_mm512_maskz_loadu_ps(m, z + i)));
        _mm512_mask_storeu_ps(out + i, m, y);
    }
}

/* Tokens side by side, so that a row is loaded once for all of them. */
TILE_INLINE void conv_tokens(const int n_tok, const int n_tap, const float *const *row,
                             const float *w, int64_t ldw, int n, const bool plain, float *out,
                             int64_t ldout)
{
    for (int c = 0; c < n; c += 16) {
        __mmask16 m = head_mask(n - c);
        __m512 acc[AP_CONV_TOKENS];
        for (int t = 0; t < n_tok; t++) acc[t] = _mm512_setzero_ps();
        for (int j = 0; j < n_tap; j++) {
            __m512 tap = _mm512_maskz_loadu_ps(m, w + j * ldw + c);
            for (int t = 0; t < n_tok; t++)
                acc[t] = _mm512_fmadd_ps(tap, _mm512_maskz_loadu_ps(m, row[t + j] + c), acc[t]);
        }
        for (int t = 0; t < n_tok; t++)
            _mm512_mask_storeu_ps(out + t * ldout + c, m, plain ? acc[t] : ap_silu_avx512(acc[t]));
    }
}

#include "kern/cpu/micro/recur_cut_body.h"

/* Rows of two vectors, all in registers: as soon as a row is final, all later ones take it. */
TILE_INLINE void solve_strip(const int rows, const float *a, int64_t lda, float *x, int64_t ldx,
                             __mmask16 m0, __mmask16 m1)
{
    __m512 s[AP_DELTA_SUB / 2][2];
    for (int r = 0; r < rows; r++) {
        s[r][0] = _mm512_maskz_loadu_ps(m0, x + r * ldx);
        s[r][1] = _mm512_maskz_loadu_ps(m1, x + r * ldx + 16);
    }
    for (int j = 0; j < rows; j++)
        for (int r = j + 1; r < rows; r++) {
            __m512 y = _mm512_set1_ps(a[r * lda + j]);
            s[r][0] = _mm512_fmadd_ps(y, s[j][0], s[r][0]);
            s[r][1] = _mm512_fmadd_ps(y, s[j][1], s[r][1]);
        }
    for (int r = 0; r < rows; r++) {
        _mm512_mask_storeu_ps(x + r * ldx, m0, s[r][0]);
        _mm512_mask_storeu_ps(x + r * ldx + 16, m1, s[r][1]);
    }
}

static void solve_avx512(int m, int n, const float *a, int64_t lda, float *x, int64_t ldx)
{
    enum { half = AP_DELTA_SUB / 2 };
    int i = 0;
    for (; m - i >= half; i += half) {
        recur_gemm(half, n, i, a + i * lda, lda, 1, x, ldx, x + i * ldx, ldx, true, NULL);
        for (int v = 0; v < n; v += 32)
            solve_strip(half, a + i * lda + i, lda, x + i * ldx + v, ldx, head_mask(n - v),
                        n - v > 16 ? head_mask(n - v - 16) : 0);
    }
    for (; i < m; i++)
        recur_gemm(1, n, i, a + i * lda, lda, 1, x, ldx, x + i * ldx, ldx, true, NULL);
}

/* 16 x 16 values: in each quarter of a vector 4 x 4, then the quarters. */
static void transpose_block(const float *x, int64_t ldx, float *y, int64_t ldy)
{
    __m512 a[16], b[16];
    for (int i = 0; i < 16; i++) a[i] = _mm512_loadu_ps(x + i * ldx);
    for (int i = 0; i < 16; i += 4) {
        __m512 s = _mm512_unpacklo_ps(a[i], a[i + 1]), t = _mm512_unpackhi_ps(a[i], a[i + 1]);
        __m512 u = _mm512_unpacklo_ps(a[i + 2], a[i + 3]);
        __m512 v = _mm512_unpackhi_ps(a[i + 2], a[i + 3]);
        b[i] = _mm512_shuffle_ps(s, u, 0x44), b[i + 1] = _mm512_shuffle_ps(s, u, 0xee);
        b[i + 2] = _mm512_shuffle_ps(t, v, 0x44), b[i + 3] = _mm512_shuffle_ps(t, v, 0xee);
    }
    for (int i = 0; i < 4; i++) { /* quarter w of b[4 j + i]: column 4 w + i of rows 4 j .. */
        __m512 s = _mm512_shuffle_f32x4(b[i], b[i + 4], 0x88);
        __m512 t = _mm512_shuffle_f32x4(b[i], b[i + 4], 0xdd);
        __m512 u = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0x88);
        __m512 v = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0xdd);
        _mm512_storeu_ps(y + i * ldy, _mm512_shuffle_f32x4(s, u, 0x88));
        _mm512_storeu_ps(y + (i + 8) * ldy, _mm512_shuffle_f32x4(s, u, 0xdd));
        _mm512_storeu_ps(y + (i + 4) * ldy, _mm512_shuffle_f32x4(t, v, 0x88));
        _mm512_storeu_ps(y + (i + 12) * ldy, _mm512_shuffle_f32x4(t, v, 0xdd));
    }
}

static void transpose_avx512(const float *x, int64_t ldx, int rows, int cols, float *y, int64_t ldy)
{
    for (int r = 0; r < rows; r += 16)
        for (int c = 0; c < cols; c += 16) {
            const float *from = x + r * ldx + c;
            float *to = y + c * ldy + r;
            if (rows - r >= 16 && cols - c >= 16)
                transpose_block(from, ldx, to, ldy);
            else
                recur_transpose(from, ldx, rows - r < 16 ? rows - r : 16,
                                cols - c < 16 ? cols - c : 16, to, ldy);
        }
}

static void decays_avx512(double top, const double *g, int n, float *out)
{
    const __m512d t = _mm512_set1_pd(top);
    for (int j = 0; j < n; j += 8) {
        __mmask8 m = (__mmask8)(n - j < 8 ? (1u << (n - j)) - 1 : 0xffu);
        __m512d d = _mm512_sub_pd(t, _mm512_maskz_loadu_pd(m, g + j));
        __m256 x = _mm512_cvtpd_ps(d);
        __m256 rest = _mm512_cvtpd_ps(_mm512_sub_pd(d, _mm512_cvtps_pd(x)));
        __m256 e = _mm512_castps512_ps256(ap_exp_avx512(_mm512_zextps256_ps512(x)));
        _mm256_mask_storeu_ps(out + j, m, _mm256_fmadd_ps(e, rest, e));
    }
}

#define SLOTS                                                                                      \
    .dot = dot_avx512, .scale = scale_avx512, .gates = gates_avx512, .exps = recur_exps,           \
    .step = step_avx512, .replay = replay_avx512, .gated_norm = gated_norm_avx512,                 \
    .conv = recur_conv, .gemm = recur_gemm, .solve = solve_avx512, .decays = decays_avx512,        \
    .transpose = transpose_avx512, .mul = recur_mul, .residual = recur_residual,                   \
    .grow = recur_grow

const ap_micro_recur ap_recur_avx512 = {SLOTS};
/* with matrix tiles where precision allows */
const ap_micro_recur ap_recur_amx = {SLOTS, .split = &ap_split_amx};
