/* math_avx2.h - the functions of micro.h on 8 floats, equal to the bit (a NaN is any NaN). */
#ifndef AP_KERN_CPU_X86_MATH_AVX2_H
#define AP_KERN_CPU_X86_MATH_AVX2_H

#include <immintrin.h>
#include <math.h>

#include "kern/cpu/micro/math_coef.h"

static inline __m256 ap_exp_avx2(__m256 x)
{
    const __m256 magic = _mm256_set1_ps(AP_ROUND_MAGIC);
    __m256 t = _mm256_fmadd_ps(x, _mm256_set1_ps(AP_LOG2E), magic);
    __m256 n = _mm256_sub_ps(t, magic);
    __m256i i = _mm256_sub_epi32(_mm256_castps_si256(t), _mm256_castps_si256(magic));
    __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-AP_LN2_HI), x);
    r = _mm256_fmadd_ps(n, _mm256_set1_ps(-AP_LN2_LO), r);
    __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(AP_EXP_P4), r, _mm256_set1_ps(AP_EXP_P3));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(AP_EXP_P2));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(AP_EXP_P1));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(AP_EXP_P0));
    __m256 y = _mm256_add_ps(_mm256_set1_ps(1.0f), _mm256_fmadd_ps(_mm256_mul_ps(r, r), p, r));
    __m256i half = _mm256_srai_epi32(i, 1);
    __m256i rest = _mm256_sub_epi32(i, half);
    const __m256i bias = _mm256_set1_epi32(127);
    y = _mm256_mul_ps(y, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23)));
    y = _mm256_mul_ps(y, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23)));
    __m256 low = _mm256_cmp_ps(x, _mm256_set1_ps(AP_EXP_MIN), _CMP_LT_OQ);
    __m256 high = _mm256_cmp_ps(x, _mm256_set1_ps(AP_EXP_MAX), _CMP_GT_OQ);
    __m256 nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
    y = _mm256_blendv_ps(y, _mm256_set1_ps(INFINITY), high);
    y = _mm256_blendv_ps(y, x, nan);
    return _mm256_andnot_ps(low, y);
}

static inline __m256 ap_log_avx2(__m256 x)
{
    const __m256i root = _mm256_set1_epi32(AP_SQRT_HALF_BITS);
    __m256i u = _mm256_sub_epi32(_mm256_castps_si256(x), root);
    __m256 e = _mm256_cvtepi32_ps(_mm256_srai_epi32(u, 23));
    __m256i mb = _mm256_add_epi32(_mm256_and_si256(u, _mm256_set1_epi32(0x7fffff)), root);
    __m256 f = _mm256_sub_ps(_mm256_castsi256_ps(mb), _mm256_set1_ps(1.0f));
    __m256 f2 = _mm256_mul_ps(f, f);
    __m256 q = _mm256_fmadd_ps(_mm256_set1_ps(AP_LOG_Q7), f, _mm256_set1_ps(AP_LOG_Q6));
    q = _mm256_fmadd_ps(q, f, _mm256_set1_ps(AP_LOG_Q5));
    q = _mm256_fmadd_ps(q, f, _mm256_set1_ps(AP_LOG_Q4));
    q = _mm256_fmadd_ps(q, f, _mm256_set1_ps(AP_LOG_Q3));
    q = _mm256_fmadd_ps(q, f, _mm256_set1_ps(AP_LOG_Q2));
    q = _mm256_fmadd_ps(q, f, _mm256_set1_ps(AP_LOG_Q1));
    q = _mm256_fmadd_ps(q, f, _mm256_set1_ps(AP_LOG_Q0));
    __m256 y = _mm256_mul_ps(f2, _mm256_fmadd_ps(q, f, _mm256_set1_ps(-0.5f)));
    y = _mm256_fmadd_ps(e, _mm256_set1_ps(AP_LN2_LO), y);
    y = _mm256_add_ps(f, y);
    y = _mm256_fmadd_ps(e, _mm256_set1_ps(AP_LN2_HI), y);
    const __m256 zero = _mm256_setzero_ps(), inf = _mm256_set1_ps(INFINITY);
    y = _mm256_blendv_ps(y, _mm256_set1_ps(NAN), _mm256_cmp_ps(x, zero, _CMP_LT_OQ));
    y = _mm256_blendv_ps(y, _mm256_set1_ps(-INFINITY), _mm256_cmp_ps(x, zero, _CMP_EQ_OQ));
    /* inf and NaN are themselves */
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(x, inf, _CMP_NLT_UQ));
}

static inline __m256 ap_neg_avx2(__m256 x)
{
    return _mm256_xor_ps(x, _mm256_set1_ps(-0.0f));
}

static inline __m256 ap_sigmoid_avx2(__m256 x)
{
    const __m256 one = _mm256_set1_ps(1.0f);
    return _mm256_div_ps(one, _mm256_add_ps(one, ap_exp_avx2(ap_neg_avx2(x))));
}

static inline __m256 ap_silu_avx2(__m256 x)
{
    __m256 minus_inf = _mm256_cmp_ps(x, _mm256_set1_ps(-INFINITY), _CMP_EQ_OQ);
    __m256 d = _mm256_add_ps(_mm256_set1_ps(1.0f), ap_exp_avx2(ap_neg_avx2(x)));
    return _mm256_andnot_ps(minus_inf, _mm256_div_ps(x, d));
}

static inline __m256 ap_tanh_avx2(__m256 x)
{
    const __m256 sign = _mm256_set1_ps(-0.0f), one = _mm256_set1_ps(1.0f);
    __m256 a = _mm256_andnot_ps(sign, x);
    __m256 z = _mm256_mul_ps(a, a);
    __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(AP_TANH_R4), z, _mm256_set1_ps(AP_TANH_R3));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(AP_TANH_R2));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(AP_TANH_R1));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(AP_TANH_R0));
    p = _mm256_fmadd_ps(_mm256_mul_ps(z, a), p, a);
    __m256 e = ap_exp_avx2(_mm256_mul_ps(_mm256_set1_ps(2.0f), a));
    e = _mm256_sub_ps(one, _mm256_div_ps(_mm256_set1_ps(2.0f), _mm256_add_ps(e, one)));
    __m256 small = _mm256_cmp_ps(a, _mm256_set1_ps(AP_TANH_SMALL), _CMP_LT_OQ);
    __m256 y = _mm256_blendv_ps(e, p, small);
    return _mm256_or_ps(_mm256_andnot_ps(sign, y), _mm256_and_ps(sign, x));
}

static inline __m256 ap_gelu_tanh_avx2(__m256 x)
{
    __m256 minus_inf = _mm256_cmp_ps(x, _mm256_set1_ps(-INFINITY), _CMP_EQ_OQ);
    __m256 c = _mm256_mul_ps(_mm256_mul_ps(_mm256_set1_ps(AP_GELU_CUBE), x), x);
    __m256 inner = _mm256_fmadd_ps(c, x, x);
    __m256 e = ap_exp_avx2(_mm256_mul_ps(_mm256_set1_ps(AP_GELU_MINUS_2C), inner));
    __m256 y = _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1.0f), e));
    return _mm256_andnot_ps(minus_inf, y);
}

static inline __m256 ap_softplus_avx2(__m256 x)
{
    const __m256 one = _mm256_set1_ps(1.0f);
    __m256 e = ap_exp_avx2(x);
    __m256 u = _mm256_add_ps(one, e);
    __m256 lost = _mm256_div_ps(_mm256_sub_ps(e, _mm256_sub_ps(u, one)), u);
    __m256 y = _mm256_add_ps(ap_log_avx2(u), lost);
    __m256 linear = _mm256_cmp_ps(x, _mm256_set1_ps(AP_SOFTPLUS_LINEAR), _CMP_GT_OQ);
    return _mm256_blendv_ps(y, x, linear);
}

/* ap_sum16 of s[0..7], s[8..15] */
static inline float ap_sum16_avx2(__m256 lo, __m256 hi)
{
    __m256 a = _mm256_add_ps(lo, hi);
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

/* The first n (0..8) lanes set, for maskload and maskstore. */
static inline __m256i ap_mask_avx2(int n)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane);
}

#endif
