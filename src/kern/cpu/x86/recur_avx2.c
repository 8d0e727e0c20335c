/* recur_avx2.c - the recurrent kernels with 8 lanes (micro_recur.h). */
#include <math.h>
#include <stdbool.h>

#include "kern/cpu/micro/micro_recur.h"
#include "kern/cpu/micro/recur_body.h"
#include "kern/cpu/x86/math_avx2.h"
#include "kern/cpu/x86/tile_avx2.h"

static float dot_avx2(const float *x, const float *y, int n)
{
    __m256 lo = _mm256_setzero_ps(), hi = lo;
    float s[16];
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        lo = _mm256_fmadd_ps(_mm256_loadu_ps(x + i), _mm256_loadu_ps(y + i), lo);
        hi = _mm256_fmadd_ps(_mm256_loadu_ps(x + i + 8), _mm256_loadu_ps(y + i + 8), hi);
    }
    _mm256_storeu_ps(s, lo);
    _mm256_storeu_ps(s + 8, hi);
    for (; i < n; i++) s[i % 16] = fmaf(x[i], y[i], s[i % 16]);
    return ap_sum16(s);
}

static void gates_avx2(int n, const float *a, float dt_bias, float neg_exp_a, const float *b,
                       double *g, float *beta)
{
    recur_log_decays(n, a, dt_bias, neg_exp_a, g);
    for (int i = 0; i < n; i += 8) {
        __m256i m = ap_mask_avx2(n - i < 8 ? n - i : 8);
        _mm256_maskstore_ps(beta + i, m, ap_sigmoid_avx2(_mm256_maskload_ps(b + i, m)));
    }
}

static void scale_avx2(const float *x, float r, float s, int n, float *out)
{
    int i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 y = _mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(r));
        _mm256_storeu_ps(out + i, _mm256_mul_ps(y, _mm256_set1_ps(s)));
    }
    for (; i < n; i++) out[i] = (x[i] * r) * s;
}

static inline void prefetch(const float *p, int64_t ahead)
{
    uintptr_t at = (uintptr_t)p + (uintptr_t)ahead * sizeof(float);
    _mm_prefetch((const char *)at, _MM_HINT_T0);
}

/* First step of ap_sum16 for `rows` state rows against k and q: 8 sums each. */
TILE_INLINE void row_sums(const int rows, const float *state, int k_dim, const float *k,
                          const float *q, int64_t ahead, __m256 *k_sum, __m256 *q_sum)
{
    __m256 kl[2], kh[2], ql[2], qh[2];
    for (int r = 0; r < rows; r++) kl[r] = kh[r] = ql[r] = qh[r] = _mm256_setzero_ps();
    int i = 0;
    for (; i + 16 <= k_dim; i += 16) {
        __m256 k0 = _mm256_loadu_ps(k + i), k1 = _mm256_loadu_ps(k + i + 8);
        __m256 q0 = _mm256_loadu_ps(q + i), q1 = _mm256_loadu_ps(q + i + 8);
        for (int r = 0; r < rows; r++) {
            __m256 s0 = _mm256_loadu_ps(state + r * k_dim + i);
            __m256 s1 = _mm256_loadu_ps(state + r * k_dim + i + 8);
            if (ahead != 0) prefetch(state + r * k_dim + i, ahead);
            kl[r] = _mm256_fmadd_ps(s0, k0, kl[r]);
            kh[r] = _mm256_fmadd_ps(s1, k1, kh[r]);
            ql[r] = _mm256_fmadd_ps(s0, q0, ql[r]);
            qh[r] = _mm256_fmadd_ps(s1, q1, qh[r]);
        }
    }
    for (int r = 0; r < rows; r++) {
        if (i < k_dim) {
            float ks[16], qs[16];
            _mm256_storeu_ps(ks, kl[r]), _mm256_storeu_ps(ks + 8, kh[r]);
            _mm256_storeu_ps(qs, ql[r]), _mm256_storeu_ps(qs + 8, qh[r]);
            for (int t = i; t < k_dim; t++) {
                ks[t % 16] = fmaf(state[r * k_dim + t], k[t], ks[t % 16]);
                qs[t % 16] = fmaf(state[r * k_dim + t], q[t], qs[t % 16]);
            }
            kl[r] = _mm256_loadu_ps(ks), kh[r] = _mm256_loadu_ps(ks + 8);
            ql[r] = _mm256_loadu_ps(qs), qh[r] = _mm256_loadu_ps(qs + 8);
        }
        k_sum[r] = _mm256_add_ps(kl[r], kh[r]);
        q_sum[r] = _mm256_add_ps(ql[r], qh[r]);
    }
}

/* The other steps of ap_sum16 for 8 vectors: lane r of the result is that of s[r]. */
static __m256 sum8_of_8(const __m256 *s)
{
    __m256 a[4], b[2];
    for (int i = 0; i < 4; i++) /* rows i | i + 4 in quarters of 4 */
        a[i] = _mm256_add_ps(_mm256_permute2f128_ps(s[i], s[i + 4], 0x20),
                             _mm256_permute2f128_ps(s[i], s[i + 4], 0x31));
    for (int i = 0; i < 2; i++) /* two sums of a[i], two of a[i + 2] */
        b[i] = _mm256_add_ps(_mm256_shuffle_ps(a[i], a[i + 2], 0x44),
                             _mm256_shuffle_ps(a[i], a[i + 2], 0xee));
    __m256 c =
        _mm256_add_ps(_mm256_shuffle_ps(b[0], b[1], 0x88), _mm256_shuffle_ps(b[0], b[1], 0xdd));
    return _mm256_permutevar8x32_ps(c, _mm256_setr_epi32(0, 2, 1, 3, 4, 6, 5, 7));
}

/* s = s + fma(k, d, by*s) or, not weak, fma(k, d, by*s). */
TILE_INLINE void update_rows(float *state, int n_row, int k_dim, const float *k, float factor,
                             const bool weak, const float *d)
{
    const __m256 by = _mm256_set1_ps(factor);
    for (int r = 0; r < n_row; r++) {
        float *s = state + r * k_dim;
        const __m256 dr = _mm256_set1_ps(d[r]);
        int i = 0;
        for (; i + 8 <= k_dim; i += 8) {
            __m256 x = _mm256_loadu_ps(s + i);
            __m256 step = _mm256_fmadd_ps(_mm256_loadu_ps(k + i), dr, _mm256_mul_ps(by, x));
            _mm256_storeu_ps(s + i, weak ? _mm256_add_ps(x, step) : step);
        }
        for (; i < k_dim; i++) {
            float step = fmaf(k[i], d[r], factor * s[i]);
            s[i] = weak ? s[i] + step : step;
        }
    }
}

static void replay_avx2(float *state, int n_row, int k_dim, const float *k, const ap_delta_gate *g,
                        const float *d)
{
    if (g->weak)
        update_rows(state, n_row, k_dim, k, g->decay_less1, true, d);
    else
        update_rows(state, n_row, k_dim, k, g->decay, false, d);
}

static void step_avx2(float *state, int n_row, int k_dim, const float *k, const float *q,
                      const ap_delta_gate *g, const float *v, float *o, float *d, int64_t ahead)
{
    float by[8];
    for (int base = 0; base < n_row; base += 8) {
        __m256 k_sum[8], q_sum[8];
        float *s = state + base * k_dim;
        int rows = n_row - base < 8 ? n_row - base : 8, r = 0;
        for (; r + 2 <= rows; r += 2)
            row_sums(2, s + r * k_dim, k_dim, k, q, ahead, k_sum + r, q_sum + r);
        for (; r < rows; r++) row_sums(1, s + r * k_dim, k_dim, k, q, ahead, k_sum + r, q_sum + r);
        for (; r < 8; r++) k_sum[r] = q_sum[r] = _mm256_setzero_ps();

        __m256i m = ap_mask_avx2(rows);
        const __m256 decay = _mm256_set1_ps(g->decay);
        __m256 kv = _mm256_mul_ps(decay, sum8_of_8(k_sum));
        __m256 qv = _mm256_mul_ps(decay, sum8_of_8(q_sum));
        __m256 dv = _mm256_mul_ps(_mm256_set1_ps(g->beta),
                                  _mm256_sub_ps(_mm256_maskload_ps(v + base, m), kv));
        _mm256_maskstore_ps(o + base, m, _mm256_fmadd_ps(_mm256_set1_ps(g->kq), dv, qv));
        _mm256_storeu_ps(by, dv);
        if (d) _mm256_maskstore_ps(d + base, m, dv);
        replay_avx2(s, rows, k_dim, k, g, by);
    }
}

static void gated_norm_avx2(const float *o, const float *w, const float *z, int n, float eps,
                            float *out)
{
    const __m256 r = _mm256_set1_ps(1.0f / sqrtf(dot_avx2(o, o, n) / (float)n + eps));
    for (int i = 0; i < n; i += 8) {
        __m256i m = ap_mask_avx2(n - i < 8 ? n - i : 8);
        __m256 y = _mm256_mul_ps(_mm256_maskload_ps(o + i, m), r);
        y = _mm256_mul_ps(y, _mm256_maskload_ps(w + i, m));
        y = _mm256_mul_ps(y, ap_silu_avx2(_mm256_maskload_ps(z + i, m)));
        _mm256_maskstore_ps(out + i, m, y);
    }
}

/* Tokens side by side, so that a row is loaded once for all of them. */
TILE_INLINE void conv_tokens(const int n_tok, const int n_tap, const float *const *row,
                             const float *w, int64_t ldw, int n, const bool plain, float *out,
                             int64_t ldout)
{
    for (int c = 0; c < n; c += 8) {
        __m256i m = ap_mask_avx2(n - c < 8 ? n - c : 8);
        __m256 acc[AP_CONV_TOKENS];
        for (int t = 0; t < n_tok; t++) acc[t] = _mm256_setzero_ps();
        for (int j = 0; j < n_tap; j++) {
            __m256 tap = _mm256_maskload_ps(w + j * ldw + c, m);
            for (int t = 0; t < n_tok; t++)
                acc[t] = _mm256_fmadd_ps(tap, _mm256_maskload_ps(row[t + j] + c, m), acc[t]);
        }
        for (int t = 0; t < n_tok; t++)
            _mm256_maskstore_ps(out + t * ldout + c, m, plain ? acc[t] : ap_silu_avx2(acc[t]));
    }
}

#include "kern/cpu/micro/recur_cut_body.h"

/* 4 rows of two vectors in registers: as soon as a row is final, all later ones take it. */
static void solve_strip(const float *a, int64_t lda, float *x, int64_t ldx, __m256i m0, __m256i m1)
{
    __m256 s[4][2];
    for (int r = 0; r < 4; r++) {
        s[r][0] = _mm256_maskload_ps(x + r * ldx, m0);
        s[r][1] = _mm256_maskload_ps(x + r * ldx + 8, m1);
    }
    for (int j = 0; j < 4; j++)
        for (int r = j + 1; r < 4; r++) {
            __m256 y = _mm256_broadcast_ss(a + r * lda + j);
            s[r][0] = _mm256_fmadd_ps(y, s[j][0], s[r][0]);
            s[r][1] = _mm256_fmadd_ps(y, s[j][1], s[r][1]);
        }
    for (int r = 0; r < 4; r++) {
        _mm256_maskstore_ps(x + r * ldx, m0, s[r][0]);
        _mm256_maskstore_ps(x + r * ldx + 8, m1, s[r][1]);
    }
}

static int lanes(int n)
{
    return n < 0 ? 0 : n < 8 ? n : 8;
}

static void solve_avx2(int m, int n, const float *a, int64_t lda, float *x, int64_t ldx)
{
    int i = 0;
    for (; m - i >= 4; i += 4) {
        recur_gemm(4, n, i, a + i * lda, lda, 1, x, ldx, x + i * ldx, ldx, true, NULL);
        for (int v = 0; v < n; v += 16)
            solve_strip(a + i * lda + i, lda, x + i * ldx + v, ldx, ap_mask_avx2(lanes(n - v)),
                        ap_mask_avx2(lanes(n - v - 8)));
    }
    for (; i < m; i++)
        recur_gemm(1, n, i, a + i * lda, lda, 1, x, ldx, x + i * ldx, ldx, true, NULL);
}

/* 8 x 8 values: in each half of a vector 4 x 4, then the halves. */
static void transpose_block(const float *x, int64_t ldx, float *y, int64_t ldy)
{
    __m256 b[8];
    for (int i = 0; i < 8; i += 4) {
        __m256 r0 = _mm256_loadu_ps(x + i * ldx), r1 = _mm256_loadu_ps(x + (i + 1) * ldx);
        __m256 r2 = _mm256_loadu_ps(x + (i + 2) * ldx), r3 = _mm256_loadu_ps(x + (i + 3) * ldx);
        __m256 s = _mm256_unpacklo_ps(r0, r1), t = _mm256_unpackhi_ps(r0, r1);
        __m256 u = _mm256_unpacklo_ps(r2, r3), v = _mm256_unpackhi_ps(r2, r3);
        b[i] = _mm256_shuffle_ps(s, u, 0x44), b[i + 1] = _mm256_shuffle_ps(s, u, 0xee);
        b[i + 2] = _mm256_shuffle_ps(t, v, 0x44), b[i + 3] = _mm256_shuffle_ps(t, v, 0xee);
    }
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(y + i * ldy, _mm256_permute2f128_ps(b[i], b[i + 4], 0x20));
        _mm256_storeu_ps(y + (i + 4) * ldy, _mm256_permute2f128_ps(b[i], b[i + 4], 0x31));
    }
}

static void transpose_avx2(const float *x, int64_t ldx, int rows, int cols, float *y, int64_t ldy)
{
    for (int r = 0; r < rows; r += 8)
        for (int c = 0; c < cols; c += 8) {
            const float *from = x + r * ldx + c;
            float *to = y + c * ldy + r;
            if (rows - r >= 8 && cols - c >= 8)
                transpose_block(from, ldx, to, ldy);
            else
                recur_transpose(from, ldx, rows - r < 8 ? rows - r : 8, cols - c < 8 ? cols - c : 8,
                                to, ldy);
        }
}

static void decays_avx2(double top, const double *g, int n, float *out)
{
    const __m256d t = _mm256_set1_pd(top);
    int j = 0;
    for (; j + 8 <= n; j += 8) {
        __m256d d0 = _mm256_sub_pd(t, _mm256_loadu_pd(g + j));
        __m256d d1 = _mm256_sub_pd(t, _mm256_loadu_pd(g + j + 4));
        __m128 x0 = _mm256_cvtpd_ps(d0), x1 = _mm256_cvtpd_ps(d1);
        __m128 rest0 = _mm256_cvtpd_ps(_mm256_sub_pd(d0, _mm256_cvtps_pd(x0)));
        __m128 rest1 = _mm256_cvtpd_ps(_mm256_sub_pd(d1, _mm256_cvtps_pd(x1)));
        __m256 e = ap_exp_avx2(_mm256_set_m128(x1, x0));
        _mm256_storeu_ps(out + j, _mm256_fmadd_ps(e, _mm256_set_m128(rest1, rest0), e));
    }
    for (; j < n; j++) {
        float x = (float)(top - g[j]), e = ap_expf(x);
        out[j] = fmaf(e, (float)((top - g[j]) - (double)x), e);
    }
}

const ap_micro_recur ap_recur_avx2 = {
    .dot = dot_avx2,
    .scale = scale_avx2,
    .gates = gates_avx2,
    .exps = recur_exps,
    .step = step_avx2,
    .replay = replay_avx2,
    .gated_norm = gated_norm_avx2,
    .conv = recur_conv,
    .gemm = recur_gemm,
    .solve = solve_avx2,
    .decays = decays_avx2,
    .transpose = transpose_avx2,
    .mul = recur_mul,
    .residual = recur_residual,
    .grow = recur_grow,
};
