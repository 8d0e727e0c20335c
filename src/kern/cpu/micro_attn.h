/* micro_attn.h - inner kernels of attention and of what prepares it (head norm, rotation).
 *
 * Every level computes the same bits as the functions of ref/attn_ref.c. No pointer needs any
 * alignment. `ahead`: bytes from this page to the one that comes next, 0 = none; only a hint. */
#ifndef AP_KERN_CPU_MICRO_ATTN_H
#define AP_KERN_CPU_MICRO_ATTN_H

#include "kern/cpu/micro.h"

#define AP_TILE_ROWS 6 /* rows that scores and values take at once */

typedef struct ap_micro_attn {
    /* 1 / sqrtf(sum x^2 / n + eps): 16 partial fma sums, ap_sum16. */
    float (*rms)(const float *x, int n, float eps);

    /* out[i] = (x[i] * r) * w[i]; w NULL = without it. out may be x. */
    void (*scale)(const float *x, const float *w, float r, int n, float *out);

    /* a' = a*cos - b*sin, b' = b*cos + a*sin in place, n pairs, each product rounded. */
    void (*rotate)(float *a, float *b, const float *cos, const float *sin, int n);

    /* s[r*AP_PAGE + j] = q[r] . K[.][j] for all AP_PAGE keys: fma, d ascending from 0.
     *   q   n_row pointers to D values, 1 <= n_row <= AP_TILE_ROWS
     *   kt  f32 [D][AP_PAGE]; columns of keys not written yet give values that nobody reads */
    void (*scores)(const float *const *q, int n_row, const float *kt, int head_dim, float *s,
                   int64_t ahead);

    /* One row of AP_PAGE scores to weights, keys [lo, hi) visible, 0 <= lo < hi <= AP_PAGE:
     * m' = max(*m, max of s_j*scale); s_j = ap_expf(s_j*scale - m'), 0 for the invisible;
     * c = ap_expf(*m - m'); *l = *l*c + sum of the row; *m = m'. Returns c. A fresh row has *m =
     * -inf and *l = 0: c is 0 then, and *l the sum. */
    float (*softmax)(float *s, int lo, int hi, float scale, float *m, float *l);

    /* o[r][d] = fma(p[r*AP_PAGE + j], v[j*D + d], o[r][d]), j ascending over [lo[r], hi[r]).
     *   n_row  1 .. AP_TILE_ROWS;  v  f32 [AP_PAGE][D] */
    void (*values)(const float *p, int n_row, const int *lo, const int *hi, const float *v,
                   int head_dim, float *const *o, int64_t ahead);
} ap_micro_attn;

extern const ap_micro_attn ap_attn_ref, ap_attn_avx2, ap_attn_avx512;

#endif
