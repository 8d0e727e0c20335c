/* attn_fast.h - the softmax of a page for precision FAST, with 16 lanes: weights come out in bf16. exp is
 * good to 5e-5, well below what bf16 keeps. No more than AVX-512 F, BW, DQ, VL is asked for. */
#ifndef AP_KERN_CPU_X86_ATTN_FAST_H
#define AP_KERN_CPU_X86_ATTN_FAST_H

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kern/cpu/micro/micro_attn.h"

#define FAST_INLINE static inline __attribute__((always_inline))

#define FAST_MAX_DIM 512

/* To bf16, nearest even, in the low halves. Not for NaN with a small payload. */
FAST_INLINE __m256i fast_bf16(__m512 x)
{
    __m512i u = _mm512_castps_si512(x);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    u = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd);
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(u, 16));
}

/* 2^t for t <= 0. */
FAST_INLINE __m512 fast_exp2(__m512 t)
{
    t = _mm512_max_ps(_mm512_set1_ps(-150), t); /* a NaN stays */
    __m512 n = _mm512_roundscale_ps(t, 0), f = _mm512_sub_ps(t, n);
    __m512 y = _mm512_set1_ps(0.00961813f);
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(0.05550411f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(0.24022651f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(0.69314718f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(1));
    return _mm512_scalef_ps(y, n);
}

/* A row of AP_PAGE scores to weights p in bf16; m, l and the sums o so far as in ap_micro_attn. */
FAST_INLINE void fast_softmax(const float *s, int lo, int hi, float scale, int head_dim, float *m,
                              float *l, float *o, uint16_t *p)
{
    const __m512 by = _mm512_set1_ps(scale), log2e = _mm512_set1_ps(1.44269504f);
    uint64_t all = (hi < 64 ? (UINT64_C(1) << hi) - 1 : UINT64_MAX) & (UINT64_MAX << lo);
    __m512 x[4], best = _mm512_set1_ps(*m), sum = _mm512_setzero_ps();
    for (int v = 0; v < 4; v++) {
        x[v] = _mm512_mul_ps(_mm512_loadu_ps(s + 16 * v), by);
        best = _mm512_mask_max_ps(best, (__mmask16)(all >> (16 * v)), best, x[v]);
    }
    float top = _mm512_reduce_max_ps(best);
    __m512 less = _mm512_mul_ps(_mm512_set1_ps(top), log2e);
    for (int v = 0; v < 4; v++) {
        x[v] = fast_exp2(_mm512_fmsub_ps(x[v], log2e, less));
        x[v] = _mm512_maskz_mov_ps((__mmask16)(all >> (16 * v)), x[v]);
        sum = _mm512_add_ps(sum, x[v]);
        _mm256_storeu_si256((__m256i *)(void *)(p + 16 * v), fast_bf16(x[v]));
    }
    float c = 1;
    if (*m != top) {
        c = ap_expf(*m - top);
        __m512 vc = _mm512_set1_ps(c);
        for (int d = 0; d < head_dim; d += 16)
            _mm512_storeu_ps(o + d, _mm512_mul_ps(_mm512_loadu_ps(o + d), vc));
    }
    *l = *l * c + _mm512_reduce_add_ps(sum);
    *m = top;
}

/* A query row in bf16. */
static void fast_query(const float *q, int head_dim, float *out)
{
    uint16_t *to = (uint16_t *)(void *)out;
    for (int d = 0; d < head_dim; d += 16)
        _mm256_storeu_si256((__m256i *)(void *)(to + d), fast_bf16(_mm512_loadu_ps(q + d)));
}

/* The page's values; those of keys outside [lo, hi), which no row sees, are made zeros in `copy`
 * first, since 0 times what is there may be anything. */
FAST_INLINE const uint8_t *fast_values(const uint8_t *v, int n_row, const int *lo, const int *hi,
                                       int head_dim, uint8_t *copy)
{
    int from = AP_PAGE, to = 0;
    for (int r = 0; r < n_row; r++) {
        if (lo[r] == hi[r]) continue;
        from = lo[r] < from ? lo[r] : from;
        to = hi[r] > to ? hi[r] : to;
    }
    if (from == 0 && to == AP_PAGE) return v;
    for (int j = 0; j < AP_PAGE; j += 2) {
        size_t row = (size_t)head_dim * 4, at = (size_t)(j / 2) * row;
        uint32_t keep =
            (j >= from && j < to ? 0xffffu : 0) | (j + 1 >= from && j + 1 < to ? 0xffff0000u : 0);
        __m512i mask = _mm512_set1_epi32((int)keep);
        for (size_t i = 0; i < row; i += 64)
            _mm512_storeu_si512(copy + at + i,
                                _mm512_and_si512(mask, _mm512_loadu_si512(v + at + i)));
    }
    return copy;
}

#endif
