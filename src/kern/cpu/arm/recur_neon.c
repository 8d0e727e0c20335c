/* recur_neon.c - the recurrent kernels with 4 lanes (micro_recur.h). */
#include <math.h>
#include <stdbool.h>

#include "kern/cpu/arm/tile_neon.h"
#include "kern/cpu/micro/micro_recur.h"
#include "kern/cpu/micro/recur_body.h"

static float dot_neon(const float *x, const float *y, int n)
{
    float32x4_t s[4];
    float lane[16];
    int i = 0;
    TILE_UNROLL for (int v = 0; v < 4; v++) s[v] = vdupq_n_f32(0.0f);
    for (; i + 16 <= n; i += 16)
        TILE_UNROLL for (int v = 0; v < 4; v++) s[v] =
            ap_fma_neon(vld1q_f32(x + i + 4 * v), vld1q_f32(y + i + 4 * v), s[v]);
    if (i == n) return ap_sum16_neon(s);
    TILE_UNROLL for (int v = 0; v < 4; v++) vst1q_f32(lane + 4 * v, s[v]);
    for (; i < n; i++) lane[i % 16] = fmaf(x[i], y[i], lane[i % 16]);
    return ap_sum16(lane);
}

static void gates_neon(int n, const float *a, float dt_bias, float neg_exp_a, const float *b,
                       double *g, float *beta)
{
    recur_log_decays(n, a, dt_bias, neg_exp_a, g);
    for (int i = 0; i < n; i += 4)
        ap_store_n_neon(beta + i, ap_sigmoid_neon(ap_load_n_neon(b + i, n - i)), n - i);
}

static void scale_neon(const float *x, float r, float s, int n, float *out)
{
    int i = 0;
    for (; i + 4 <= n; i += 4) vst1q_f32(out + i, vmulq_n_f32(vmulq_n_f32(vld1q_f32(x + i), r), s));
    for (; i < n; i++) out[i] = (x[i] * r) * s;
}

/* What 16 partial sums come to for the inputs from i on, then ap_sum16 up to its last two steps. */
TILE_INLINE float32x4_t finish(const float32x4_t s[4], const float *x, const float *y, int i, int n)
{
    float lane[16];
    float32x4_t t[4];
    if (i == n) return ap_sum4_neon(s);
    TILE_UNROLL for (int v = 0; v < 4; v++) vst1q_f32(lane + 4 * v, s[v]);
    for (; i < n; i++) lane[i % 16] = fmaf(x[i], y[i], lane[i % 16]);
    TILE_UNROLL for (int v = 0; v < 4; v++) t[v] = vld1q_f32(lane + 4 * v);
    return ap_sum4_neon(t);
}

static inline void prefetch(const float *p, int64_t ahead)
{
    __builtin_prefetch((const char *)((uintptr_t)p + (uintptr_t)ahead * sizeof(float)));
}

/* The dots of `rows` state rows with k and with q, up to the last two steps of ap_sum16. */
TILE_INLINE void row_sums(const int rows, const float *state, int k_dim, const float *k,
                          const float *q, int64_t ahead, float32x4_t *k_sum, float32x4_t *q_sum)
{
    float32x4_t ks[2][4], qs[2][4];
    int i = 0;
    TILE_UNROLL for (int r = 0; r < rows; r++) TILE_UNROLL for (int v = 0; v < 4; v++) ks[r][v] =
        qs[r][v] = vdupq_n_f32(0.0f);
    for (; i + 16 <= k_dim; i += 16) {
        if (ahead != 0)
            TILE_UNROLL for (int r = 0; r < rows; r++) prefetch(state + r * k_dim + i, ahead);
        TILE_UNROLL for (int v = 0; v < 4; v++)
        {
            float32x4_t kv = vld1q_f32(k + i + 4 * v), qv = vld1q_f32(q + i + 4 * v);
            TILE_UNROLL for (int r = 0; r < rows; r++)
            {
                float32x4_t s = vld1q_f32(state + r * k_dim + i + 4 * v);
                ks[r][v] = ap_fma_neon(s, kv, ks[r][v]);
                qs[r][v] = ap_fma_neon(s, qv, qs[r][v]);
            }
        }
    }
    TILE_UNROLL for (int r = 0; r < rows; r++)
    {
        k_sum[r] = finish(ks[r], state + r * k_dim, k, i, k_dim);
        q_sum[r] = finish(qs[r], state + r * k_dim, q, i, k_dim);
    }
}

/* The last two steps of ap_sum16 for 4 vectors: lane r of the result is that of s[r]. */
static float32x4_t sum_each(const float32x4_t *s)
{
    float32x4_t c[2];
    for (int i = 0; i < 2; i++) {
        float32x4_t a = s[2 * i], b = s[2 * i + 1];
        c[i] = vaddq_f32(vcombine_f32(vget_low_f32(a), vget_low_f32(b)),
                         vcombine_f32(vget_high_f32(a), vget_high_f32(b)));
    }
    return vpaddq_f32(c[0], c[1]);
}

/* s = s + fma(k, d, by*s) or, not weak, fma(k, d, by*s). */
TILE_INLINE void update_rows(float *state, int n_row, int k_dim, const float *k, float by,
                             const bool weak, const float *d)
{
    for (int r = 0; r < n_row; r++) {
        float *s = state + r * k_dim;
        const float32x4_t dr = vdupq_n_f32(d[r]);
        int i = 0;
        for (; i + 4 <= k_dim; i += 4) {
            float32x4_t x = vld1q_f32(s + i);
            float32x4_t step = ap_fma_neon(vld1q_f32(k + i), dr, vmulq_n_f32(x, by));
            vst1q_f32(s + i, weak ? vaddq_f32(x, step) : step);
        }
        for (; i < k_dim; i++) {
            float step = fmaf(k[i], d[r], by * s[i]);
            s[i] = weak ? s[i] + step : step;
        }
    }
}

static void replay_neon(float *state, int n_row, int k_dim, const float *k, const ap_delta_gate *g,
                        const float *d)
{
    if (g->weak)
        update_rows(state, n_row, k_dim, k, g->decay_less1, true, d);
    else
        update_rows(state, n_row, k_dim, k, g->decay, false, d);
}

static void step_neon(float *state, int n_row, int k_dim, const float *k, const float *q,
                      const ap_delta_gate *g, const float *v, float *o, float *d, int64_t ahead)
{
    float by[4];
    for (int base = 0; base < n_row; base += 4) {
        float32x4_t k_sum[4], q_sum[4];
        float *s = state + base * k_dim;
        int rows = n_row - base < 4 ? n_row - base : 4, r = 0;
        for (; r + 2 <= rows; r += 2)
            row_sums(2, s + r * k_dim, k_dim, k, q, ahead, k_sum + r, q_sum + r);
        for (; r < rows; r++) row_sums(1, s + r * k_dim, k_dim, k, q, ahead, k_sum + r, q_sum + r);
        for (; r < 4; r++) k_sum[r] = q_sum[r] = vdupq_n_f32(0.0f);

        float32x4_t kv = vmulq_n_f32(sum_each(k_sum), g->decay);
        float32x4_t qv = vmulq_n_f32(sum_each(q_sum), g->decay);
        float32x4_t dv = vmulq_n_f32(vsubq_f32(ap_load_n_neon(v + base, rows), kv), g->beta);
        ap_store_n_neon(o + base, vfmaq_n_f32(qv, dv, g->kq), rows);
        vst1q_f32(by, dv);
        if (d) ap_store_n_neon(d + base, dv, rows);
        replay_neon(s, rows, k_dim, k, g, by);
    }
}

TILE_INLINE void gate4(const float *o, float r, const float *w, const float *z, int n, float *out)
{
    float32x4_t y = vmulq_f32(vmulq_n_f32(ap_load_n_neon(o, n), r), ap_load_n_neon(w, n));
    ap_store_n_neon(out, vmulq_f32(y, ap_silu_neon(ap_load_n_neon(z, n))), n);
}

static void gated_norm_neon(const float *o, const float *w, const float *z, int n, float eps,
                            float *out)
{
    const float r = 1.0f / sqrtf(dot_neon(o, o, n) / (float)n + eps);
    int i = 0;
    for (; i + 4 <= n; i += 4) gate4(o + i, r, w + i, z + i, 4, out + i);
    if (i < n) gate4(o + i, r, w + i, z + i, n - i, out + i);
}

/* Tokens side by side, so that a tap is loaded once for all of them; n <= 4 channels. */
TILE_INLINE void conv_channels(const int n_tok, const int n_tap, const float *const *row, int c,
                               const float *w, int64_t ldw, int n, const bool plain, float *out,
                               int64_t ldout)
{
    float32x4_t acc[AP_CONV_TOKENS];
    TILE_UNROLL for (int t = 0; t < n_tok; t++) acc[t] = vdupq_n_f32(0.0f);
    TILE_UNROLL for (int j = 0; j < n_tap; j++)
    {
        float32x4_t tap = ap_load_n_neon(w + j * ldw + c, n);
        TILE_UNROLL for (int t = 0; t < n_tok; t++) acc[t] =
            ap_fma_neon(tap, ap_load_n_neon(row[t + j] + c, n), acc[t]);
    }
    TILE_UNROLL for (int t = 0; t < n_tok; t++)
        ap_store_n_neon(out + t * ldout + c, plain ? acc[t] : ap_silu_neon(acc[t]), n);
}

TILE_INLINE void conv_tokens(const int n_tok, const int n_tap, const float *const *row,
                             const float *w, int64_t ldw, int n, const bool plain, float *out,
                             int64_t ldout)
{
    int c = 0;
    for (; c + 4 <= n; c += 4) conv_channels(n_tok, n_tap, row, c, w, ldw, 4, plain, out, ldout);
    if (c < n) conv_channels(n_tok, n_tap, row, c, w, ldw, n - c, plain, out, ldout);
}

#include "kern/cpu/micro/recur_cut_body.h"

/* 4 rows of n <= 8 values in registers: as soon as a row is final, all later ones take it. */
static void solve_strip(const float *a, int64_t lda, float *x, int64_t ldx, int n)
{
    const int n0 = n < 4 ? n : 4, n1 = n - n0;
    float32x4_t s[4][2];
    TILE_UNROLL for (int r = 0; r < 4; r++)
    {
        s[r][0] = ap_load_n_neon(x + r * ldx, n0);
        s[r][1] = ap_load_n_neon(x + r * ldx + n0, n1);
    }
    TILE_UNROLL for (int j = 0; j < 4; j++) TILE_UNROLL for (int r = j + 1; r < 4; r++)
    {
        float y = a[r * lda + j];
        s[r][0] = vfmaq_n_f32(s[r][0], s[j][0], y);
        s[r][1] = vfmaq_n_f32(s[r][1], s[j][1], y);
    }
    TILE_UNROLL for (int r = 0; r < 4; r++)
    {
        ap_store_n_neon(x + r * ldx, s[r][0], n0);
        ap_store_n_neon(x + r * ldx + n0, s[r][1], n1);
    }
}

static void solve_neon(int m, int n, const float *a, int64_t lda, float *x, int64_t ldx)
{
    int i = 0;
    for (; m - i >= 4; i += 4) {
        recur_gemm(4, n, i, a + i * lda, lda, 1, x, ldx, x + i * ldx, ldx, true, NULL);
        for (int v = 0; v < n; v += 8)
            solve_strip(a + i * lda + i, lda, x + i * ldx + v, ldx, n - v < 8 ? n - v : 8);
    }
    for (; i < m; i++)
        recur_gemm(1, n, i, a + i * lda, lda, 1, x, ldx, x + i * ldx, ldx, true, NULL);
}

static void transpose_block(const float *x, int64_t ldx, float *y, int64_t ldy)
{
    float32x4_t a = vld1q_f32(x), b = vld1q_f32(x + ldx);
    float32x4_t c = vld1q_f32(x + 2 * ldx), d = vld1q_f32(x + 3 * ldx);
    float64x2_t ab0 = vreinterpretq_f64_f32(vtrn1q_f32(a, b)); /* a0 b0 a2 b2 */
    float64x2_t ab1 = vreinterpretq_f64_f32(vtrn2q_f32(a, b));
    float64x2_t cd0 = vreinterpretq_f64_f32(vtrn1q_f32(c, d));
    float64x2_t cd1 = vreinterpretq_f64_f32(vtrn2q_f32(c, d));
    vst1q_f32(y, vreinterpretq_f32_f64(vtrn1q_f64(ab0, cd0)));
    vst1q_f32(y + ldy, vreinterpretq_f32_f64(vtrn1q_f64(ab1, cd1)));
    vst1q_f32(y + 2 * ldy, vreinterpretq_f32_f64(vtrn2q_f64(ab0, cd0)));
    vst1q_f32(y + 3 * ldy, vreinterpretq_f32_f64(vtrn2q_f64(ab1, cd1)));
}

static void transpose_neon(const float *x, int64_t ldx, int rows, int cols, float *y, int64_t ldy)
{
    for (int r = 0; r < rows; r += 4)
        for (int c = 0; c < cols; c += 4) {
            const float *from = x + r * ldx + c;
            float *to = y + c * ldy + r;
            if (rows - r >= 4 && cols - c >= 4)
                transpose_block(from, ldx, to, ldy);
            else
                recur_transpose(from, ldx, rows - r < 4 ? rows - r : 4, cols - c < 4 ? cols - c : 4,
                                to, ldy);
        }
}

static void decays_neon(double top, const double *g, int n, float *out)
{
    const float64x2_t t = vdupq_n_f64(top);
    int j = 0;
    for (; j + 4 <= n; j += 4) {
        float64x2_t d0 = vsubq_f64(t, vld1q_f64(g + j)), d1 = vsubq_f64(t, vld1q_f64(g + j + 2));
        float32x2_t x0 = vcvt_f32_f64(d0), x1 = vcvt_f32_f64(d1);
        float32x2_t rest0 = vcvt_f32_f64(vsubq_f64(d0, vcvt_f64_f32(x0)));
        float32x2_t rest1 = vcvt_f32_f64(vsubq_f64(d1, vcvt_f64_f32(x1)));
        float32x4_t e = ap_exp_neon(vcombine_f32(x0, x1));
        vst1q_f32(out + j, ap_fma_neon(e, vcombine_f32(rest0, rest1), e));
    }
    for (; j < n; j++) {
        float x = (float)(top - g[j]), e = ap_expf(x);
        out[j] = fmaf(e, (float)((top - g[j]) - (double)x), e);
    }
}

const ap_micro_recur ap_recur_neon = {
    .dot = dot_neon,
    .scale = scale_neon,
    .gates = gates_neon,
    .exps = recur_exps,
    .step = step_neon,
    .replay = replay_neon,
    .gated_norm = gated_norm_neon,
    .conv = recur_conv,
    .gemm = recur_gemm,
    .solve = solve_neon,
    .decays = decays_neon,
    .transpose = transpose_neon,
    .mul = recur_mul,
    .residual = recur_residual,
    .grow = recur_grow,
};
