/* micro_attn.h - inner kernels of attention and of what prepares it (head norm, rotation).
 *
 * Every level computes the same bits as the functions of ref/attn_ref.c. No pointer needs any
 * alignment unless it is said. `ahead`: bytes from this page to the one that comes next, 0 = none; only
 * a hint. */
#ifndef AP_KERN_CPU_MICRO_ATTN_H
#define AP_KERN_CPU_MICRO_ATTN_H

#include "kern/cpu/page/kv_page.h"
#include "kern/cpu/micro/micro.h"

#define AP_TILE_ROWS 64 /* the most rows of a tile */
#define AP_Q_STRIDE                                                                                \
    528 /* floats from a prepared query row to the next: rows lie in different cache
                           sets, and the stride is a constant in the kernels */

/* Floats from a prepared query row of head_dim to the next. */
static inline int64_t ap_q_stride(int head_dim)
{
    return head_dim <= 512 ? AP_Q_STRIDE : head_dim + 16;
}

/* What reads pages of one type. */
typedef struct ap_micro_kv {
    int rows;  /* scores and values take 1 .. rows rows at once */
    int alone; /* as many if there are no others, so that pages are read once; 0 = rows */

    /* A query row f32 [head_dim] to the form that scores wants, ap_q_stride floats. */
    void (*query)(const float *q, int head_dim, float *out);

    /* s[r*AP_PAGE + j] = score of the page's key j for row r, not yet scaled, all AP_PAGE keys.
     *   q  prepared rows, ap_q_stride apart
     * Keys not written yet give values that nobody reads. */
    void (*scores)(const float *q, int n_row, const ap_kv_head *h, int head_dim, float *s,
                   int64_t ahead);

    /* Add the page's values to o[r], f32 [head_dim], with the weights p[r*AP_PAGE + j] of the keys
     * [lo[r], hi[r]), lo < hi; p is 0 elsewhere, and what is there in the page has no effect. */
    void (*values)(const float *p, int n_row, const int *lo, const int *hi, const ap_kv_head *h,
                   int head_dim, float *const *o, int64_t ahead);
} ap_micro_kv;

/* BF16 pages with precision FAST: scores, weights and values of a page in one go. */
typedef struct ap_micro_fast {
    int rows; /* page takes 1 .. rows rows at once */
    int tile; /* rows that share a walk over the pages, at most AP_TILE_ROWS */
    int step; /* rows are read and written in whole steps: memory for them holds those */

    /* On this processor? */
    bool (*usable)(int head_dim);

    void (*query)(const float *q, int head_dim, float *out);

    /* s is room for the scores; m, l and o as in softmax and values below; o[r] is
     * o[0] + r*head_dim. lo may be hi. Keys no row sees have no effect. */
    void (*page)(const float *q, int n_row, const ap_kv_head *h, int head_dim, const int *lo,
                 const int *hi, float scale, float *s, float *m, float *l, float *const *o,
                 int64_t ahead);
} ap_micro_fast;

typedef struct ap_micro_attn {
    /* 1 / sqrtf(sum x^2 / n + eps): 16 partial fma sums, ap_sum16. */
    float (*rms)(const float *x, int n, float eps);

    /* out[i] = (x[i] * r) * w[i]; w NULL = without it. out may be x. */
    void (*scale)(const float *x, const float *w, float r, int n, float *out);

    /* a' = a*cos - b*sin, b' = b*cos + a*sin in place, n pairs, each product rounded. */
    void (*rotate)(float *a, float *b, const float *cos, const float *sin, int n);

    /* One row of AP_PAGE scores to weights, keys [lo, hi) visible, 0 <= lo < hi <= AP_PAGE:
     * m' = max(*m, max of s_j*scale); s_j = ap_expf(s_j*scale - m'), 0 for the invisible;
     * c = ap_expf(*m - m'); *l = *l*c + sum of the row; *m = m'. Returns c. A fresh row has *m =
     * -inf and *l = 0: c is 0 then, and *l the sum. */
    float (*softmax)(float *s, int lo, int hi, float scale, float *m, float *l);

    /* o[i] = fma(x[i], by, o[i] * c) */
    void (*merge)(float *o, float c, const float *x, float by, int n);

    ap_micro_kv f32, bf16, q8;
} ap_micro_attn;

extern const ap_micro_attn ap_attn_neon;
extern const ap_micro_attn ap_attn_ref, ap_attn_avx2, ap_attn_avx512;
#if defined(__x86_64__)
extern const ap_micro_fast ap_attn_fast_avx512, ap_attn_fast_amx;
#endif

#endif
