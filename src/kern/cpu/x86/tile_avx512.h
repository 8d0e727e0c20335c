/* tile_avx512.h - the product tile under scores, values and gemm: up to 6 rows by up to 64 columns,
 * c[r][j] = fma(a[r][l], b[l][j], c[r][j]), l ascending, the sums in registers. What lies
 * `ahead` bytes behind b (0 = nothing) is brought into the second-level cache meanwhile. */
#ifndef AP_KERN_CPU_X86_TILE_AVX512_H
#define AP_KERN_CPU_X86_TILE_AVX512_H

#include <immintrin.h>
#include <stdint.h>

#define TILE_INLINE static inline __attribute__((always_inline))

/* mr rows, nv vectors of 16 columns, the last one under `mask`; c from 0 or (accumulate) from c. */
TILE_INLINE void tile_body(const int mr, const int nv, __mmask16 mask, const float *const *a,
                           int64_t ca, const float *b, int64_t ldb, int64_t kk, float *const *c,
                           bool accumulate, int64_t ahead)
{
    __m512 s[6][4];
    for (int r = 0; r < mr; r++)
        for (int v = 0; v < nv; v++)
            s[r][v] = !accumulate
                          ? _mm512_setzero_ps()
                          : _mm512_maskz_loadu_ps(v == nv - 1 ? mask : 0xffff, c[r] + 16 * v);
    for (int64_t l = 0; l < kk; l++) {
        __m512 x[4];
        for (int v = 0; v < nv && ahead != 0; v++)
            _mm_prefetch((const char *)((uintptr_t)(b + l * ldb + 16 * v) + (uintptr_t)ahead),
                         _MM_HINT_T1);
        for (int v = 0; v < nv; v++)
            x[v] = _mm512_maskz_loadu_ps(v == nv - 1 ? mask : 0xffff, b + l * ldb + 16 * v);
        for (int r = 0; r < mr; r++) {
            __m512 y = _mm512_set1_ps(a[r][l * ca]);
            for (int v = 0; v < nv; v++) s[r][v] = _mm512_fmadd_ps(y, x[v], s[r][v]);
        }
    }
    for (int r = 0; r < mr; r++)
        for (int v = 0; v < nv; v++)
            _mm512_mask_storeu_ps(c[r] + 16 * v, v == nv - 1 ? mask : 0xffff, s[r][v]);
}

/* n columns of mr rows. */
TILE_INLINE void tile_row(const int mr, int n, const float *const *a, int64_t ca, const float *b,
                          int64_t ldb, int64_t kk, float *const *c, bool accumulate, int64_t ahead)
{
    const float *row[6];
    float *out[6];
    for (int r = 0; r < mr; r++) row[r] = a[r], out[r] = c[r];
    for (; n > 0; n -= 64, b += 64) {
        int rest = n & 15;
        __mmask16 mask = (__mmask16)(rest && n < 64 ? (1u << rest) - 1 : 0xffffu);
        if (n > 48)
            tile_body(mr, 4, mask, row, ca, b, ldb, kk, out, accumulate, ahead);
        else if (n > 32)
            tile_body(mr, 3, mask, row, ca, b, ldb, kk, out, accumulate, ahead);
        else if (n > 16)
            tile_body(mr, 2, mask, row, ca, b, ldb, kk, out, accumulate, ahead);
        else
            tile_body(mr, 1, mask, row, ca, b, ldb, kk, out, accumulate, ahead);
        for (int r = 0; r < mr; r++) out[r] += 64;
    }
}

/* c[r][j] for r < m <= 6, j < n. */
static void tile(int m, int n, const float *const *a, int64_t ca, const float *b, int64_t ldb,
                 int64_t kk, float *const *c, bool accumulate, int64_t ahead)
{
    switch (m) {
    case 6:
        tile_row(6, n, a, ca, b, ldb, kk, c, accumulate, ahead);
        break;
    case 5:
        tile_row(5, n, a, ca, b, ldb, kk, c, accumulate, ahead);
        break;
    case 4:
        tile_row(4, n, a, ca, b, ldb, kk, c, accumulate, ahead);
        break;
    case 3:
        tile_row(3, n, a, ca, b, ldb, kk, c, accumulate, ahead);
        break;
    case 2:
        tile_row(2, n, a, ca, b, ldb, kk, c, accumulate, ahead);
        break;
    case 1:
        tile_row(1, n, a, ca, b, ldb, kk, c, accumulate, ahead);
        break;
    default:
        break;
    }
}

#endif
