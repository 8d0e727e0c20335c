/* math_neon.h - functions of micro.h on 4 floats, equal to the bit (a NaN is any NaN). */
#ifndef AP_KERN_CPU_ARM_MATH_NEON_H
#define AP_KERN_CPU_ARM_MATH_NEON_H

#include <arm_neon.h>
#include <math.h>

#include "kern/cpu/micro/math_coef.h"

/* a * b + c */
static inline float32x4_t ap_fma_neon(float32x4_t a, float32x4_t b, float32x4_t c)
{
    return vfmaq_f32(c, a, b);
}

/* `yes` where the lane of m is set, else `no`. */
static inline float32x4_t ap_where_neon(uint32x4_t m, float32x4_t yes, float32x4_t no)
{
    return vbslq_f32(m, yes, no);
}

/* x, 0 where the lane of m is set. */
static inline float32x4_t ap_clear_neon(uint32x4_t m, float32x4_t x)
{
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(x), m));
}

/* 2^n for n in -126 .. 127 */
static inline float32x4_t ap_two_to_neon(int32x4_t n)
{
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23));
}

static inline float32x4_t ap_exp_neon(float32x4_t x)
{
    const float32x4_t magic = vdupq_n_f32(AP_ROUND_MAGIC);
    float32x4_t t = ap_fma_neon(x, vdupq_n_f32(AP_LOG2E), magic);
    float32x4_t n = vsubq_f32(t, magic);
    int32x4_t i = vsubq_s32(vreinterpretq_s32_f32(t), vreinterpretq_s32_f32(magic));
    float32x4_t r = ap_fma_neon(n, vdupq_n_f32(-AP_LN2_HI), x);
    r = ap_fma_neon(n, vdupq_n_f32(-AP_LN2_LO), r);
    float32x4_t p = ap_fma_neon(vdupq_n_f32(AP_EXP_P4), r, vdupq_n_f32(AP_EXP_P3));
    p = ap_fma_neon(p, r, vdupq_n_f32(AP_EXP_P2));
    p = ap_fma_neon(p, r, vdupq_n_f32(AP_EXP_P1));
    p = ap_fma_neon(p, r, vdupq_n_f32(AP_EXP_P0));
    float32x4_t y = vaddq_f32(vdupq_n_f32(1.0f), ap_fma_neon(vmulq_f32(r, r), p, r));
    int32x4_t half = vshrq_n_s32(i, 1);
    y = vmulq_f32(y, ap_two_to_neon(half));
    y = vmulq_f32(y, ap_two_to_neon(vsubq_s32(i, half)));
    y = ap_where_neon(vcgtq_f32(x, vdupq_n_f32(AP_EXP_MAX)), vdupq_n_f32(INFINITY), y);
    y = ap_where_neon(vceqq_f32(x, x), y, x);
    return ap_clear_neon(vcltq_f32(x, vdupq_n_f32(AP_EXP_MIN)), y);
}

static inline float32x4_t ap_sigmoid_neon(float32x4_t x)
{
    const float32x4_t one = vdupq_n_f32(1.0f);
    return vdivq_f32(one, vaddq_f32(one, ap_exp_neon(vnegq_f32(x))));
}

static inline float32x4_t ap_silu_neon(float32x4_t x)
{
    float32x4_t d = vaddq_f32(vdupq_n_f32(1.0f), ap_exp_neon(vnegq_f32(x)));
    return ap_clear_neon(vceqq_f32(x, vdupq_n_f32(-INFINITY)), vdivq_f32(x, d));
}

static inline float32x4_t ap_tanh_neon(float32x4_t x)
{
    const float32x4_t one = vdupq_n_f32(1.0f);
    float32x4_t a = vabsq_f32(x);
    float32x4_t z = vmulq_f32(a, a);
    float32x4_t p = ap_fma_neon(vdupq_n_f32(AP_TANH_R4), z, vdupq_n_f32(AP_TANH_R3));
    p = ap_fma_neon(p, z, vdupq_n_f32(AP_TANH_R2));
    p = ap_fma_neon(p, z, vdupq_n_f32(AP_TANH_R1));
    p = ap_fma_neon(p, z, vdupq_n_f32(AP_TANH_R0));
    p = ap_fma_neon(vmulq_f32(z, a), p, a);
    float32x4_t e = ap_exp_neon(vmulq_f32(vdupq_n_f32(2.0f), a));
    e = vsubq_f32(one, vdivq_f32(vdupq_n_f32(2.0f), vaddq_f32(e, one)));
    float32x4_t y = ap_where_neon(vcltq_f32(a, vdupq_n_f32(AP_TANH_SMALL)), p, e);
    return vbslq_f32(vdupq_n_u32(0x80000000u), x, y); /* the sign of x */
}

static inline float32x4_t ap_gelu_tanh_neon(float32x4_t x)
{
    float32x4_t c = vmulq_f32(vmulq_f32(vdupq_n_f32(AP_GELU_CUBE), x), x);
    float32x4_t inner = ap_fma_neon(c, x, x);
    float32x4_t e = ap_exp_neon(vmulq_f32(vdupq_n_f32(AP_GELU_MINUS_2C), inner));
    float32x4_t y = vdivq_f32(x, vaddq_f32(vdupq_n_f32(1.0f), e));
    return ap_clear_neon(vceqq_f32(x, vdupq_n_f32(-INFINITY)), y);
}

/* ap_sum16 up to its last two steps: b[0..3] of s[0..3], s[4..7], ... */
static inline float32x4_t ap_sum4_neon(const float32x4_t s[4])
{
    return vaddq_f32(vaddq_f32(s[0], s[2]), vaddq_f32(s[1], s[3]));
}

/* The last two steps of ap_sum16. */
static inline float ap_sum_of4_neon(float32x4_t b)
{
    float32x2_t c = vadd_f32(vget_low_f32(b), vget_high_f32(b));
    return vget_lane_f32(c, 0) + vget_lane_f32(c, 1);
}

static inline float ap_sum16_neon(const float32x4_t s[4])
{
    return ap_sum_of4_neon(ap_sum4_neon(s));
}

/* The first n (0..4) floats, 0 in the other lanes; nothing else is read or written. */
static inline float32x4_t ap_load_n_neon(const float *p, int n)
{
    float32x4_t v = vdupq_n_f32(0.0f);
    if (n >= 4) return vld1q_f32(p);
    if (n == 1) return vld1q_lane_f32(p, v, 0);
    if (n >= 2) v = vcombine_f32(vld1_f32(p), vget_low_f32(v));
    return n == 3 ? vld1q_lane_f32(p + 2, v, 2) : v;
}

static inline void ap_store_n_neon(float *p, float32x4_t v, int n)
{
    if (n >= 4) {
        vst1q_f32(p, v);
        return;
    }
    if (n == 1) vst1q_lane_f32(p, v, 0);
    if (n >= 2) vst1_f32(p, vget_low_f32(v));
    if (n == 3) vst1q_lane_f32(p + 2, v, 2);
}

#endif
