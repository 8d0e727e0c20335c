/* math_avx512.h - the functions of micro.h on 16 floats, equal to the bit (a NaN is any NaN). */
#ifndef AP_KERN_CPU_X86_MATH_AVX512_H
#define AP_KERN_CPU_X86_MATH_AVX512_H

#include <immintrin.h>
#include <math.h>

#include "kern/cpu/micro/math_coef.h"

static inline __m512 ap_exp_avx512(__m512 x)
{
    const __m512 magic = _mm512_set1_ps(AP_ROUND_MAGIC);
    __m512 t = _mm512_fmadd_ps(x, _mm512_set1_ps(AP_LOG2E), magic);
    __m512 n = _mm512_sub_ps(t, magic);
    __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-AP_LN2_HI), x);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(-AP_LN2_LO), r);
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(AP_EXP_P4), r, _mm512_set1_ps(AP_EXP_P3));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(AP_EXP_P2));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(AP_EXP_P1));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(AP_EXP_P0));
    __m512 y = _mm512_add_ps(_mm512_set1_ps(1.0f), _mm512_fmadd_ps(_mm512_mul_ps(r, r), p, r));
    y = _mm512_scalef_ps(y, n); /* one rounding, as the two exact-but-last factors of ref */
    __mmask16 keep = _mm512_cmp_ps_mask(x, _mm512_set1_ps(AP_EXP_MIN), _CMP_NLT_UQ);
    __mmask16 high = _mm512_cmp_ps_mask(x, _mm512_set1_ps(AP_EXP_MAX), _CMP_GT_OQ);
    y = _mm512_mask_mov_ps(y, high, _mm512_set1_ps(INFINITY));
    return _mm512_maskz_mov_ps(keep, y);
}

static inline __m512 ap_log_avx512(__m512 x)
{
    const __m512i root = _mm512_set1_epi32(AP_SQRT_HALF_BITS);
    __m512i u = _mm512_sub_epi32(_mm512_castps_si512(x), root);
    __m512 e = _mm512_cvtepi32_ps(_mm512_srai_epi32(u, 23));
    __m512i mb = _mm512_add_epi32(_mm512_and_si512(u, _mm512_set1_epi32(0x7fffff)), root);
    __m512 f = _mm512_sub_ps(_mm512_castsi512_ps(mb), _mm512_set1_ps(1.0f));
    __m512 f2 = _mm512_mul_ps(f, f);
    __m512 q = _mm512_fmadd_ps(_mm512_set1_ps(AP_LOG_Q7), f, _mm512_set1_ps(AP_LOG_Q6));
    q = _mm512_fmadd_ps(q, f, _mm512_set1_ps(AP_LOG_Q5));
    q = _mm512_fmadd_ps(q, f, _mm512_set1_ps(AP_LOG_Q4));
    q = _mm512_fmadd_ps(q, f, _mm512_set1_ps(AP_LOG_Q3));
    q = _mm512_fmadd_ps(q, f, _mm512_set1_ps(AP_LOG_Q2));
    q = _mm512_fmadd_ps(q, f, _mm512_set1_ps(AP_LOG_Q1));
    q = _mm512_fmadd_ps(q, f, _mm512_set1_ps(AP_LOG_Q0));
    __m512 y = _mm512_mul_ps(f2, _mm512_fmadd_ps(q, f, _mm512_set1_ps(-0.5f)));
    y = _mm512_fmadd_ps(e, _mm512_set1_ps(AP_LN2_LO), y);
    y = _mm512_add_ps(f, y);
    y = _mm512_fmadd_ps(e, _mm512_set1_ps(AP_LN2_HI), y);
    const __m512 zero = _mm512_setzero_ps(), inf = _mm512_set1_ps(INFINITY);
    y = _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(x, zero, _CMP_LT_OQ), _mm512_set1_ps(NAN));
    y = _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(x, zero, _CMP_EQ_OQ), _mm512_set1_ps(-INFINITY));
    /* inf and NaN are themselves */
    return _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(x, inf, _CMP_NLT_UQ), x);
}

static inline __m512 ap_neg_avx512(__m512 x)
{
    return _mm512_xor_ps(x, _mm512_set1_ps(-0.0f));
}

static inline __m512 ap_sigmoid_avx512(__m512 x)
{
    const __m512 one = _mm512_set1_ps(1.0f);
    return _mm512_div_ps(one, _mm512_add_ps(one, ap_exp_avx512(ap_neg_avx512(x))));
}

static inline __m512 ap_silu_avx512(__m512 x)
{
    __mmask16 keep = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-INFINITY), _CMP_NEQ_UQ);
    __m512 d = _mm512_add_ps(_mm512_set1_ps(1.0f), ap_exp_avx512(ap_neg_avx512(x)));
    return _mm512_maskz_div_ps(keep, x, d);
}

static inline __m512 ap_tanh_avx512(__m512 x)
{
    const __m512 sign = _mm512_set1_ps(-0.0f), one = _mm512_set1_ps(1.0f);
    __m512 a = _mm512_andnot_ps(sign, x);
    __m512 z = _mm512_mul_ps(a, a);
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(AP_TANH_R4), z, _mm512_set1_ps(AP_TANH_R3));
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(AP_TANH_R2));
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(AP_TANH_R1));
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(AP_TANH_R0));
    p = _mm512_fmadd_ps(_mm512_mul_ps(z, a), p, a);
    __m512 e = ap_exp_avx512(_mm512_mul_ps(_mm512_set1_ps(2.0f), a));
    e = _mm512_sub_ps(one, _mm512_div_ps(_mm512_set1_ps(2.0f), _mm512_add_ps(e, one)));
    __mmask16 small = _mm512_cmp_ps_mask(a, _mm512_set1_ps(AP_TANH_SMALL), _CMP_LT_OQ);
    __m512 y = _mm512_mask_mov_ps(e, small, p);
    return _mm512_or_ps(_mm512_andnot_ps(sign, y), _mm512_and_ps(sign, x));
}

static inline __m512 ap_gelu_tanh_avx512(__m512 x)
{
    __mmask16 keep = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-INFINITY), _CMP_NEQ_UQ);
    __m512 c = _mm512_mul_ps(_mm512_mul_ps(_mm512_set1_ps(AP_GELU_CUBE), x), x);
    __m512 inner = _mm512_fmadd_ps(c, x, x);
    __m512 e = ap_exp_avx512(_mm512_mul_ps(_mm512_set1_ps(AP_GELU_MINUS_2C), inner));
    return _mm512_maskz_div_ps(keep, x, _mm512_add_ps(_mm512_set1_ps(1.0f), e));
}

static inline __m512 ap_softplus_avx512(__m512 x)
{
    const __m512 one = _mm512_set1_ps(1.0f);
    __m512 e = ap_exp_avx512(x);
    __m512 u = _mm512_add_ps(one, e);
    __m512 lost = _mm512_div_ps(_mm512_sub_ps(e, _mm512_sub_ps(u, one)), u);
    __m512 y = _mm512_add_ps(ap_log_avx512(u), lost);
    __mmask16 linear = _mm512_cmp_ps_mask(x, _mm512_set1_ps(AP_SOFTPLUS_LINEAR), _CMP_GT_OQ);
    return _mm512_mask_mov_ps(y, linear, x);
}

/* ap_sum16 of the lanes */
static inline float ap_sum16_avx512(__m512 s)
{
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(s), _mm512_extractf32x8_ps(s, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

/* The first n (0..16) lanes. */
static inline __mmask16 ap_mask_avx512(int n)
{
    return (__mmask16)((1u << n) - 1u);
}

#endif
