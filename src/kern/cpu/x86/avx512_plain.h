/* avx512_plain.h - the AVX-512 instructions that our kernels use, for processors with AVX2 only.
 *
 * Included before every file of the levels avx512 and amx when APUS_EMULATE is on, so that their
 * indexing and arithmetic are tested anywhere. SIMDe has most of them; what it lacks stands here. */
#ifndef AVX512_PLAIN_H
#define AVX512_PLAIN_H

#include <immintrin.h>
#include <math.h>
#include <string.h>

#define SIMDE_ENABLE_NATIVE_ALIASES
#define SIMDE_NO_INLINE /* or the compiler drowns */
#include <simde/x86/avx512.h>

typedef union lanes512 {
    __m512 f;
    __m512i i;
    __m512d d;
    float ps[16];
    double pd[8];
    int32_t d32[16];
    uint16_t w[32];
    int8_t b[64];
    __m128 quarter[4];
    __m128i quarter_i[4];
    __m256 half[2];
    __m256i half_i[2];
    __m256d half_d[2];
} lanes512;

#define PLAIN   static __attribute__((unused, noinline))
#define EACH(n) for (int i = 0; i < (n); i++)

PLAIN __m512 plain_maskz_loadu_ps(unsigned m, const float *p)
{
    lanes512 r;
    EACH(16) r.ps[i] = m >> i & 1 ? p[i] : 0;
    return r.f;
}
PLAIN __m512d plain_maskz_loadu_pd(unsigned m, const double *p)
{
    lanes512 r;
    EACH(8) r.pd[i] = m >> i & 1 ? p[i] : 0;
    return r.d;
}
PLAIN void plain_mask_storeu_ps(float *p, unsigned m, __m512 v)
{
    lanes512 r = {.f = v};
    EACH(16)
        if (m >> i & 1) p[i] = r.ps[i];
}
PLAIN void plain256_mask_storeu_ps(float *p, unsigned m, __m256 v)
{
    float x[8];
    memcpy(x, &v, sizeof x);
    EACH(8)
        if (m >> i & 1) p[i] = x[i];
}
PLAIN __m256i plain_cvtepi32_epi16(__m512i v)
{
    lanes512 a = {.i = v}, r;
    EACH(16) r.w[i] = (uint16_t)a.d32[i];
    return r.half_i[0];
}
PLAIN __m128i plain_cvtepi32_epi8(__m512i v)
{
    lanes512 a = {.i = v}, r;
    EACH(16) r.b[i] = (int8_t)a.d32[i];
    return r.quarter_i[0];
}
PLAIN __m512 plain_cvtepi32_ps(__m512i v)
{
    lanes512 a = {.i = v};
    EACH(2) a.half[i] = _mm256_cvtepi32_ps(a.half_i[i]);
    return a.f;
}
PLAIN __m512i plain_cvtps_epi32(__m512 v)
{
    lanes512 a = {.f = v};
    EACH(2) a.half_i[i] = _mm256_cvtps_epi32(a.half[i]);
    return a.i;
}
PLAIN __m512i plain_cvtepi8_epi32(__m128i v)
{
    lanes512 a = {.i = _mm512_setzero_si512()}, r;
    a.quarter_i[0] = v;
    EACH(16) r.d32[i] = a.b[i];
    return r.i;
}
PLAIN __m512i plain_cvtepu8_epi32(__m128i v)
{
    lanes512 a = {.i = _mm512_setzero_si512()}, r;
    a.quarter_i[0] = v;
    EACH(16) r.d32[i] = (uint8_t)a.b[i];
    return r.i;
}
PLAIN __m512i plain_cvtepu16_epi32(__m256i v)
{
    lanes512 a = {.i = _mm512_setzero_si512()}, r;
    a.half_i[0] = v;
    EACH(16) r.d32[i] = a.w[i];
    return r.i;
}
PLAIN __m512 plain_cvtph_ps(__m256i v)
{
    lanes512 r;
    __m128i h[2];
    memcpy(h, &v, sizeof v);
    EACH(2) r.half[i] = _mm256_cvtph_ps(h[i]);
    return r.f;
}
PLAIN __m256 plain_cvtpd_ps(__m512d v)
{
    lanes512 a = {.d = v}, r;
    EACH(8) r.ps[i] = (float)a.pd[i];
    return r.half[0];
}
PLAIN __m512d plain_cvtps_pd(__m256 v)
{
    lanes512 a = {.f = _mm512_setzero_ps()}, r;
    a.half[0] = v;
    EACH(8) r.pd[i] = a.ps[i];
    return r.d;
}
PLAIN __m256 plain_extractf32x8_ps(__m512 v, int n)
{
    lanes512 a = {.f = v};
    return a.half[n];
}
PLAIN __m512 plain_zextps256_ps512(__m256 v)
{
    lanes512 a = {.f = _mm512_setzero_ps()};
    a.half[0] = v;
    return a.f;
}
PLAIN __m512 plain_mask3_fmadd_ps(__m512 a, __m512 b, __m512 c, unsigned m)
{
    lanes512 r = {.f = _mm512_fmadd_ps(a, b, c)}, old = {.f = c};
    EACH(16)
        if (!(m >> i & 1)) r.ps[i] = old.ps[i];
    return r.f;
}
PLAIN int plain_reduce_add_epi32(__m512i v)
{
    lanes512 a = {.i = v};
    int s = 0;
    EACH(16) s += a.d32[i];
    return s;
}
PLAIN int plain_reduce_max_epi32(__m512i v)
{
    lanes512 a = {.i = v};
    int s = a.d32[0];
    EACH(16) s = a.d32[i] > s ? a.d32[i] : s;
    return s;
}
/* halves, as the compilers have it */
PLAIN float plain_reduce_add_ps(__m512 v)
{
    lanes512 a = {.f = v};
    for (int n = 8; n; n /= 2)
        EACH(n) a.ps[i] += a.ps[i + n];
    return a.ps[0];
}
PLAIN float plain_reduce_max_ps(__m512 v)
{
    lanes512 a = {.f = v};
    for (int n = 8; n; n /= 2)
        EACH(n) a.ps[i] = a.ps[i] > a.ps[i + n] ? a.ps[i] : a.ps[i + n];
    return a.ps[0];
}
PLAIN __m512 plain_shuffle_f32x4(__m512 x, __m512 y, int by)
{
    lanes512 a = {.f = x}, b = {.f = y}, r;
    EACH(4) r.quarter[i] = (i < 2 ? a : b).quarter[by >> 2 * i & 3];
    return r.f;
}
PLAIN __m512i plain_shufflehi_epi16(__m512i v, int by)
{
    lanes512 a = {.i = v}, r = a;
    EACH(16) r.w[i / 4 * 8 + 4 + i % 4] = a.w[i / 4 * 8 + 4 + (by >> i % 4 * 2 & 3)];
    return r.i;
}
PLAIN __m512i plain_shufflelo_epi16(__m512i v, int by)
{
    lanes512 a = {.i = v}, r = a;
    EACH(16) r.w[i / 4 * 8 + i % 4] = a.w[i / 4 * 8 + (by >> i % 4 * 2 & 3)];
    return r.i;
}
PLAIN __m512i plain_srai_epi32(__m512i v, int n)
{
    lanes512 a = {.i = v};
    EACH(16) a.d32[i] >>= n;
    return a.i;
}
/* y * 2^n for whole n of normal results, and what overflows */
PLAIN __m512 plain_scalef_ps(__m512 y, __m512 n)
{
    lanes512 a = {.f = y}, b = {.f = n};
    EACH(16)
        a.ps[i] = ldexpf(a.ps[i], b.ps[i] > 300    ? 300
                                  : b.ps[i] < -300 ? -300
                                                   : (int)floorf(b.ps[i]));
    return a.f;
}

#define _mm512_maskz_loadu_ps plain_maskz_loadu_ps
#define _mm512_maskz_loadu_pd plain_maskz_loadu_pd
#define _mm512_mask_storeu_ps plain_mask_storeu_ps
#undef _mm256_mask_storeu_ps
#define _mm256_mask_storeu_ps   plain256_mask_storeu_ps
#define _mm512_cvtepi32_epi16   plain_cvtepi32_epi16
#define _mm512_cvtepi32_epi8    plain_cvtepi32_epi8
#define _mm512_cvtepi32_ps      plain_cvtepi32_ps
#define _mm512_cvtps_epi32      plain_cvtps_epi32
#define _mm512_cvtepi8_epi32    plain_cvtepi8_epi32
#define _mm512_cvtepu8_epi32    plain_cvtepu8_epi32
#define _mm512_cvtepu16_epi32   plain_cvtepu16_epi32
#define _mm512_cvtph_ps         plain_cvtph_ps
#define _mm512_cvtpd_ps         plain_cvtpd_ps
#define _mm512_cvtps_pd         plain_cvtps_pd
#define _mm512_extractf32x8_ps  plain_extractf32x8_ps
#define _mm512_zextps256_ps512  plain_zextps256_ps512
#define _mm512_mask3_fmadd_ps   plain_mask3_fmadd_ps
#define _mm512_reduce_add_epi32 plain_reduce_add_epi32
#define _mm512_reduce_max_epi32 plain_reduce_max_epi32
#define _mm512_reduce_add_ps    plain_reduce_add_ps
#define _mm512_reduce_max_ps    plain_reduce_max_ps
#undef _mm512_shuffle_f32x4
#define _mm512_shuffle_f32x4 plain_shuffle_f32x4
#undef _mm512_shufflehi_epi16
#define _mm512_shufflehi_epi16 plain_shufflehi_epi16
#undef _mm512_shufflelo_epi16
#define _mm512_shufflelo_epi16 plain_shufflelo_epi16
#undef _mm512_srai_epi32
#define _mm512_srai_epi32 plain_srai_epi32
#undef _mm512_scalef_ps
#define _mm512_scalef_ps plain_scalef_ps

#endif
