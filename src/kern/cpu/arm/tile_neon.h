/* tile_neon.h - the product tile under scores, values and gemm: up to 6 rows,
 * c[r][j] = fma(a[r][l], b[l][j], c[r][j]), l ascending, the sums in registers. What lies `ahead`
 * bytes behind b (0 = nothing) is brought into the second-level cache meanwhile. */
#ifndef AP_KERN_CPU_ARM_TILE_NEON_H
#define AP_KERN_CPU_ARM_TILE_NEON_H

#include <stdbool.h>
#include <stdint.h>

#include "kern/cpu/arm/math_neon.h"

#define TILE_INLINE static inline __attribute__((always_inline))
#define TILE_UNROLL _Pragma("GCC unroll 16")

/* c + b * *a. By hand and in this order, so that sums stay where they are: with every register in
 * use a compiler that loads early spills them. */
TILE_INLINE float tile_input(const float *a)
{
    float x;
    __asm__ volatile("ldr %s0, %1" : "=w"(x) : "m"(*a));
    return x;
}
TILE_INLINE float32x4_t tile_fma(float a, float32x4_t b, float32x4_t c)
{
    __asm__ volatile("fmla %0.4s, %1.4s, %2.s[0]" : "+w"(c) : "w"(b), "w"(a));
    return c;
}

/* mr rows of nv full vectors; c from 0 or (accumulate) from c. */
TILE_INLINE void tile_body(const int mr, const int nv, const float *const *a, int64_t ca,
                           const float *b, int64_t ldb, int64_t kk, float *const *c,
                           bool accumulate, int64_t ahead)
{
    float32x4_t s[6][8];
    TILE_UNROLL for (int r = 0; r < mr; r++) TILE_UNROLL for (int v = 0; v < nv; v++) s[r][v] =
        accumulate ? vld1q_f32(c[r] + 4 * v) : vdupq_n_f32(0.0f);
    for (int64_t l = 0; l < kk; l++, b += ldb) {
        float32x4_t x[8];
        if (ahead != 0) /* a line has four vectors */
            TILE_UNROLL for (int v = 0; v < nv; v += 4)
                __builtin_prefetch((const char *)((uintptr_t)(b + 4 * v) + (uintptr_t)ahead), 0, 2);
        TILE_UNROLL for (int v = 0; v < nv; v++) x[v] = vld1q_f32(b + 4 * v);
        TILE_UNROLL for (int r = 0; r < mr; r++)
        {
            float y = tile_input(a[r] + l * ca);
            TILE_UNROLL for (int v = 0; v < nv; v++) s[r][v] = tile_fma(y, x[v], s[r][v]);
        }
    }
    TILE_UNROLL for (int r = 0; r < mr; r++) TILE_UNROLL for (int v = 0; v < nv; v++)
        vst1q_f32(c[r] + 4 * v, s[r][v]);
}

/* mr rows of n < 4 columns. */
TILE_INLINE void tile_tail(const int mr, int n, const float *const *a, int64_t ca, const float *b,
                           int64_t ldb, int64_t kk, float *const *c, bool accumulate)
{
    float32x4_t s[6];
    TILE_UNROLL for (int r = 0; r < mr; r++) s[r] =
        accumulate ? ap_load_n_neon(c[r], n) : vdupq_n_f32(0.0f);
    for (int64_t l = 0; l < kk; l++) {
        float32x4_t x = ap_load_n_neon(b + l * ldb, n);
        TILE_UNROLL for (int r = 0; r < mr; r++) s[r] = vfmaq_n_f32(s[r], x, a[r][l * ca]);
    }
    TILE_UNROLL for (int r = 0; r < mr; r++) ap_store_n_neon(c[r], s[r], n);
}

/* n columns of mr rows, nv vectors at a time: enough sums to hide the latency of fma. */
TILE_INLINE void tile_row(const int mr, const int nv, int n, const float *const *a, int64_t ca,
                          const float *b, int64_t ldb, int64_t kk, float *const *c, bool accumulate,
                          int64_t ahead)
{
    const float *row[6];
    float *out[6];
    TILE_UNROLL for (int r = 0; r < mr; r++) row[r] = a[r], out[r] = c[r];
    while (n > 0) {
        int done = n >= 4 * nv ? 4 * nv : n >= 4 ? 4 : n;
        if (done == 4 * nv)
            tile_body(mr, nv, row, ca, b, ldb, kk, out, accumulate, ahead);
        else if (done == 4)
            tile_body(mr, 1, row, ca, b, ldb, kk, out, accumulate, ahead);
        else
            tile_tail(mr, done, row, ca, b, ldb, kk, out, accumulate);
        TILE_UNROLL for (int r = 0; r < mr; r++) out[r] += done;
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
        tile_row(6, 4, n, a, ca, b, ldb, kk, c, accumulate, ahead);
        break;
    case 5:
        tile_row(5, 4, n, a, ca, b, ldb, kk, c, accumulate, ahead);
        break;
    case 4:
        tile_row(4, 4, n, a, ca, b, ldb, kk, c, accumulate, ahead);
        break;
    case 3:
        tile_row(3, 4, n, a, ca, b, ldb, kk, c, accumulate, ahead);
        break;
    case 2:
        tile_row(2, 8, n, a, ca, b, ldb, kk, c, accumulate, ahead);
        break;
    case 1:
        tile_row(1, 8, n, a, ca, b, ldb, kk, c, accumulate, ahead);
        break;
    default:
        break;
    }
}

#endif
