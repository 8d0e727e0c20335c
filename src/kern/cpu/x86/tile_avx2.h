/* tile_avx2.h - the product tile under scores, values and gemm: up to 6 rows,
 * c[r][j] = fma(a[r][l], b[l][j], c[r][j]), l ascending, the sums in registers. What lies `ahead`
 * bytes behind b (0 = nothing) is brought into the second-level cache meanwhile. */
#ifndef AP_KERN_CPU_X86_TILE_AVX2_H
#define AP_KERN_CPU_X86_TILE_AVX2_H

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>

#include "kern/cpu/x86/math_avx2.h"

#define TILE_INLINE static inline __attribute__((always_inline))

/* mr rows of nv full vectors; c from 0 or (accumulate) from c. */
TILE_INLINE void tile_body(const int mr, const int nv, const float *const *a, int64_t ca,
                           const float *b, int64_t ldb, int64_t kk, float *const *c,
                           bool accumulate, int64_t ahead)
{
    __m256 s[6][8];
    for (int r = 0; r < mr; r++)
        for (int v = 0; v < nv; v++)
            s[r][v] = accumulate ? _mm256_loadu_ps(c[r] + 8 * v) : _mm256_setzero_ps();
    for (int64_t l = 0; l < kk; l++) {
        __m256 x[8];
        for (int v = 0; v < nv && ahead != 0; v += 2) /* a line has two vectors */
            _mm_prefetch((const char *)((uintptr_t)(b + l * ldb + 8 * v) + (uintptr_t)ahead),
                         _MM_HINT_T1);
        for (int v = 0; v < nv; v++) x[v] = _mm256_loadu_ps(b + l * ldb + 8 * v);
        for (int r = 0; r < mr; r++) {
            __m256 y = _mm256_broadcast_ss(a[r] + l * ca);
            for (int v = 0; v < nv; v++) s[r][v] = _mm256_fmadd_ps(y, x[v], s[r][v]);
        }
    }
    for (int r = 0; r < mr; r++)
        for (int v = 0; v < nv; v++) _mm256_storeu_ps(c[r] + 8 * v, s[r][v]);
}

/* mr rows of n < 8 columns. */
TILE_INLINE void tile_tail(const int mr, int n, const float *const *a, int64_t ca, const float *b,
                           int64_t ldb, int64_t kk, float *const *c, bool accumulate)
{
    const __m256i m = ap_mask_avx2(n);
    __m256 s[6];
    for (int r = 0; r < mr; r++)
        s[r] = accumulate ? _mm256_maskload_ps(c[r], m) : _mm256_setzero_ps();
    for (int64_t l = 0; l < kk; l++) {
        __m256 x = _mm256_maskload_ps(b + l * ldb, m);
        for (int r = 0; r < mr; r++)
            s[r] = _mm256_fmadd_ps(_mm256_broadcast_ss(a[r] + l * ca), x, s[r]);
    }
    for (int r = 0; r < mr; r++) _mm256_maskstore_ps(c[r], m, s[r]);
}

/* n columns of mr rows, nv vectors at a time: enough sums to hide the latency of fma. */
TILE_INLINE void tile_row(const int mr, const int nv, int n, const float *const *a, int64_t ca,
                          const float *b, int64_t ldb, int64_t kk, float *const *c, bool accumulate,
                          int64_t ahead)
{
    const float *row[6];
    float *out[6];
    for (int r = 0; r < mr; r++) row[r] = a[r], out[r] = c[r];
    while (n > 0) {
        int done = n >= 8 * nv ? 8 * nv : n >= 8 ? 8 : n;
        if (done == 8 * nv)
            tile_body(mr, nv, row, ca, b, ldb, kk, out, accumulate, ahead);
        else if (done == 8)
            tile_body(mr, 1, row, ca, b, ldb, kk, out, accumulate, ahead);
        else
            tile_tail(mr, done, row, ca, b, ldb, kk, out, accumulate);
        for (int r = 0; r < mr; r++) out[r] += done;
        b += done;
        n -= done;
    }
}

/* c[r][j] for r < m <= 6, j < n. */
static void tile(int m, int n, const float *const *a, int64_t ca, const float *b, int64_t ldb,
                 int64_t kk, float *const *c, bool accumulate, int64_t ahead)
{
    switch (m) {
    case 6:
        tile_row(6, 2, n, a, ca, b, ldb, kk, c, accumulate, ahead);
        break;
    case 5:
        tile_row(5, 2, n, a, ca, b, ldb, kk, c, accumulate, ahead);
        break;
    case 4:
        tile_row(4, 2, n, a, ca, b, ldb, kk, c, accumulate, ahead);
        break;
    case 3:
        tile_row(3, 4, n, a, ca, b, ldb, kk, c, accumulate, ahead);
        break;
    case 2:
        tile_row(2, 4, n, a, ca, b, ldb, kk, c, accumulate, ahead);
        break;
    case 1:
        tile_row(1, 8, n, a, ca, b, ldb, kk, c, accumulate, ahead);
        break;
    default:
        break;
    }
}

#endif
