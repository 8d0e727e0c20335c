/* recur_avx512.c - the recurrent kernels with 16 lanes (micro_recur.h). */
#include <math.h>
#include <stdbool.h>

#include "kern/cpu/micro_recur.h"
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

static void scale_avx512(const float *x, float r, float s, int n, float *out)
{
    for (int i = 0; i < n; i += 16) {
        __mmask16 m = head_mask(n - i);
        __m512 y = _mm512_mul_ps(_mm512_maskz_loadu_ps(m, x + i), _mm512_set1_ps(r));
        _mm512_mask_storeu_ps(out + i, m, _mm512_mul_ps(y, _mm512_set1_ps(s)));
    }
}

/* The partial sums of `rows` (1..4) state rows against k and q, to k_sum and q_sum [rows][16]. */
TILE_INLINE void row_sums(const int rows, const float *state, int k_dim, const float *k,
                          const float *q, __m512 *k_sum, __m512 *q_sum)
{
    __m512 ks[4], qs[4];
    for (int r = 0; r < rows; r++) ks[r] = qs[r] = _mm512_setzero_ps();
    int i = 0;
    for (; i + 16 <= k_dim; i += 16) {
        __m512 kv = _mm512_loadu_ps(k + i), qv = _mm512_loadu_ps(q + i);
        for (int r = 0; r < rows; r++) {
            __m512 s = _mm512_loadu_ps(state + r * k_dim + i);
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

static void step_avx512(float *state, int n_row, int k_dim, const float *k, const float *q,
                        const ap_delta_gate *g, const float *v, float *o)
{
    __m512 k_sum[AP_DELTA_ROWS], q_sum[AP_DELTA_ROWS];
    float d[AP_DELTA_ROWS];
    int r = 0;
    for (; r + 4 <= n_row; r += 4)
        row_sums(4, state + r * k_dim, k_dim, k, q, k_sum + r, q_sum + r);
    for (; r < n_row; r++) row_sums(1, state + r * k_dim, k_dim, k, q, k_sum + r, q_sum + r);
    for (; r < AP_DELTA_ROWS; r++) k_sum[r] = q_sum[r] = _mm512_setzero_ps();

    __mmask16 m = head_mask(n_row);
    const __m512 decay = _mm512_set1_ps(g->decay);
    __m512 kv = _mm512_mul_ps(decay, sum16_of_16(k_sum));
    __m512 qv = _mm512_mul_ps(decay, sum16_of_16(q_sum));
    __m512 dv =
        _mm512_mul_ps(_mm512_set1_ps(g->beta), _mm512_sub_ps(_mm512_maskz_loadu_ps(m, v), kv));
    _mm512_mask_storeu_ps(o, m, _mm512_fmadd_ps(_mm512_set1_ps(g->kq), dv, qv));
    _mm512_storeu_ps(d, dv);
    if (!g->weak)
        update_rows(state, n_row, k_dim, k, g->decay, false, d);
    else if (k_dim == 128)
        update_rows(state, n_row, 128, k, g->decay_less1, true, d); /* k in registers */
    else
        update_rows(state, n_row, k_dim, k, g->decay_less1, true, d);
}

static void gated_norm_avx512(float *o, const float *w, const float *z, int n, float eps)
{
    float r = 1.0f / sqrtf(dot_avx512(o, o, n) / (float)n + eps);
    for (int i = 0; i < n; i += 16) {
        __mmask16 m = head_mask(n - i);
        __m512 y = _mm512_mul_ps(_mm512_maskz_loadu_ps(m, o + i), _mm512_set1_ps(r));
        y = _mm512_mul_ps(y, _mm512_maskz_loadu_ps(m, w + i));
        y = _mm512_mul_ps(y, ap_silu_avx512(_mm512_maskz_loadu_ps(m, z + i)));
        _mm512_mask_storeu_ps(o + i, m, y);
    }
}

static void conv_avx512(const float *old, int n_old, int64_t ld_old, const float *x, int n_new,
                        int64_t ldx, const float *w, int n, float *out)
{
    for (int c = 0; c < n; c += 16) {
        __mmask16 m = head_mask(n - c);
        const float *tap = w + c;
        __m512 acc = _mm512_setzero_ps();
        for (int j = 0; j < n_old; j++, tap += ld_old)
            acc = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(m, tap),
                                  _mm512_maskz_loadu_ps(m, old + j * ld_old + c), acc);
        for (int j = 0; j < n_new; j++, tap += ld_old)
            acc = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(m, tap),
                                  _mm512_maskz_loadu_ps(m, x + j * ldx + c), acc);
        _mm512_mask_storeu_ps(out + c, m, ap_silu_avx512(acc));
    }
}

static void gemm_avx512(int m, int n, int kk, const float *a, int64_t ra, int64_t ca,
                        const float *b, int64_t ldb, float *c, int64_t ldc, bool accumulate)
{
    /* Columns outside: the strip of b stays in L1 for all rows. */
    for (int j = 0; j < n; j += 64) {
        int cols = n - j < 64 ? n - j : 64;
        for (int i = 0; i < m;) {
            int blocks = (m - i + 5) / 6, rows = (m - i + blocks - 1) / blocks;
            const float *ar[6];
            float *cr[6];
            for (int r = 0; r < rows; r++) {
                ar[r] = a + (i + r) * ra;
                cr[r] = c + (i + r) * ldc + j;
            }
            tile(rows, cols, ar, ca, b + j, ldb, kk, cr, accumulate, 0);
            i += rows;
        }
    }
}

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
        gemm_avx512(half, n, i, a + i * lda, lda, 1, x, ldx, x + i * ldx, ldx, true);
        for (int v = 0; v < n; v += 32)
            solve_strip(half, a + i * lda + i, lda, x + i * ldx + v, ldx, head_mask(n - v),
                        n - v > 16 ? head_mask(n - v - 16) : 0);
    }
    for (; i < m; i++) gemm_avx512(1, n, i, a + i * lda, lda, 1, x, ldx, x + i * ldx, ldx, true);
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

const ap_micro_recur ap_recur_avx512 = {dot_avx512,  scale_avx512, step_avx512,  gated_norm_avx512,
                                        conv_avx512, gemm_avx512,  solve_avx512, decays_avx512};
