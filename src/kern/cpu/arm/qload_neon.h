/* qload_neon.h - a packed panel's bits (kern.h, qpack.h) to vectors of q and of scales, and 32
 * inputs to integers. For all levels of aarch64. */
#ifndef AP_KERN_CPU_ARM_QLOAD_NEON_H
#define AP_KERN_CPU_ARM_QLOAD_NEON_H

#include <arm_neon.h>
#include <math.h>
#include <string.h>

#include "kern/cpu/micro/micro_qdot.h"

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

/* Kinds of packed numbers: the number of bits, or 4 or 3 bits through a table. */
#define TABLE  0
#define TABLE3 7

INLINE int kind_of(ap_qform f)
{
    return !f.table ? f.bits : f.bits == 3 ? TABLE3 : TABLE;
}

/* Do(kind) for the kind of f, a number written out. */
#define BY_KIND(f, Do)                                                                             \
    switch (kind_of(f)) {                                                                          \
    case TABLE:                                                                                    \
        Do(TABLE);                                                                                 \
        break;                                                                                     \
    case 2:                                                                                        \
        Do(2);                                                                                     \
        break;                                                                                     \
    case 3:                                                                                        \
        Do(3);                                                                                     \
        break;                                                                                     \
    case TABLE3:                                                                                   \
        Do(TABLE3);                                                                                \
        break;                                                                                     \
    case 4:                                                                                        \
        Do(4);                                                                                     \
        break;                                                                                     \
    case 5:                                                                                        \
        Do(5);                                                                                     \
        break;                                                                                     \
    case 6:                                                                                        \
        Do(6);                                                                                     \
        break;                                                                                     \
    default:                                                                                       \
        Do(8);                                                                                     \
    }

INLINE bool wide_kind(int kind)
{
    return kind == 8 || kind == TABLE || kind == TABLE3;
}

INLINE uint8x16_t table_of(ap_qform f)
{
    return vld1q_u8(ap_qtable[f.table]);
}

/* Bits 4 and up of the vectors 4g .. 4g+3, from 16 bytes of high bits (qpack.h); 5 bits: both g
 * have the same bytes. Shifted vectors are added: their places are empty. */
INLINE void high_bits(int kind, int g, uint8x16_t high, uint8x16_t v[4])
{
    uint8x16_t left = vshlq_n_u8(high, 4);
    if (kind == 5) {
        uint8x16_t x = g ? high : left; /* bits 4 .. 7 belong to v[0] .. v[3] */
        v[0] = vorrq_u8(v[0], vandq_u8(x, vdupq_n_u8(16)));
        v[1] = vsraq_n_u8(v[1], vandq_u8(x, vdupq_n_u8(32)), 1);
        v[2] = vsraq_n_u8(v[2], vandq_u8(x, vdupq_n_u8(64)), 2);
        v[3] = vsraq_n_u8(v[3], vandq_u8(x, vdupq_n_u8(128)), 3);
    } else {
        v[0] = vorrq_u8(v[0], vandq_u8(left, vdupq_n_u8(48)));
        v[1] = vsraq_n_u8(v[1], vandq_u8(left, vdupq_n_u8(192)), 2);
        v[2] = vorrq_u8(v[2], vandq_u8(high, vdupq_n_u8(48)));
        v[3] = vsraq_n_u8(v[3], vandq_u8(high, vdupq_n_u8(192)), 2);
    }
}

INLINE int stored_bits(int kind)
{
    return kind == TABLE3 ? 3 : kind == TABLE ? 4 : kind;
}

/* Vector i of nibbles, from its half of the numbers of 2 or 3 bits and the third bits. */
INLINE uint8x16_t join_bits(int bits, int i, uint8x16_t two, uint8x16_t third)
{
    two = vandq_u8(vshlq_u8(two, vdupq_n_s8((int8_t)(-2 * (i % 2)))), vdupq_n_u8(0x33));
    if (bits == 2) return two;
    third = vshlq_u8(third, vdupq_n_s8((int8_t)(2 - i)));
    return vorrq_u8(two, vandq_u8(third, vdupq_n_u8(0x44)));
}

/* Two inputs to a byte: v[0] the low, v[1] the high nibbles, by the table if there is one. */
INLINE void nibbles(int kind, uint8x16_t table, uint8x16_t w, uint8x16_t v[2])
{
    v[0] = vandq_u8(w, vdupq_n_u8(15));
    v[1] = vshrq_n_u8(w, 4);
    if (kind == TABLE || kind == TABLE3) {
        v[0] = vqtbl1q_u8(table, v[0]);
        v[1] = vqtbl1q_u8(table, v[1]);
    }
}

/* Inputs 8i .. 8i+7 of a block, 16 rows to a vector. The load takes every fourth byte. */
INLINE void load_inputs(int kind, const uint8_t *p, int i, uint8x16_t table, uint8x16_t v[8])
{
    if (kind == 8) {
        uint8x16x4_t a = vld4q_u8(p + 128 * i), b = vld4q_u8(p + 128 * i + 64);
        UNROLL
        for (int k = 0; k < 4; k++) v[k] = a.val[k], v[k + 4] = b.val[k];
        return;
    }
    const int bits = stored_bits(kind);
    uint8x16x4_t w = vld4q_u8(p + 64 * (bits < 4 ? i / 2 : i)), third = w;
    if (bits == 3) third = vld4q_u8(p + 128);
    UNROLL
    for (int k = 0; k < 4; k++) {
        uint8x16_t two[2];
        if (bits < 4) w.val[k] = join_bits(bits, i, w.val[k], third.val[k]);
        nibbles(kind, table, w.val[k], two);
        v[k] = two[0];
        v[k + 4] = two[1];
    }
    if (kind != 5 && kind != 6) return;
    /* vectors 2i and 2i+1 of the packed order, each in four parts */
    uint8x16x4_t high = vld4q_u8(p + 256 + (kind == 6 ? i / 2 * 64 : 0));
    UNROLL
    for (int k = 0; k < 4; k++) {
        uint8x16_t h = high.val[k];
        if (kind == 5) {
            h = vshlq_u8(h, vdupq_n_s8((int8_t)(-2 * i)));
            v[k] = vsliq_n_u8(v[k], vandq_u8(h, vdupq_n_u8(1)), 4);
            v[k + 4] = vsliq_n_u8(v[k + 4], vandq_u8(vshrq_n_u8(h, 1), vdupq_n_u8(1)), 4);
        } else {
            h = vshlq_u8(h, vdupq_n_s8((int8_t)(-4 * (i % 2))));
            v[k] = vsliq_n_u8(v[k], vandq_u8(h, vdupq_n_u8(3)), 4);
            v[k + 4] = vsliq_n_u8(v[k + 4], vandq_u8(vshrq_n_u8(h, 2), vdupq_n_u8(3)), 4);
        }
    }
}

INLINE float32x4_t half4(const uint8_t *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
}

/* Factors 4h .. 4h+3 of 16, of d or of m. */
INLINE float32x4_t factor4(ap_qform f, const ap_qscales *at, int h, bool of_m)
{
    uint32_t four;
    memcpy(&four, at->at + 4 * h + (of_m && !f.nibbles ? AP_PANEL : 0), 4);
    if (f.nibbles) four = (of_m ? four >> 4 : four) & 0x0f0f0f0fu;
    uint8x8_t b = vreinterpret_u8_u32(vdup_n_u32(four));
    if (f.is_signed && !of_m)
        return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(b)))));
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(b))));
}

/* Numbers 4h .. 4h+3 of 16. */
INLINE float32x4_t number4(ap_qform f, const uint8_t *p, int h)
{
    if (f.scale == AP_QS_F16) return half4(p + 8 * h);
    if (f.scale == AP_QS_BF16)
        return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(p + 8 * h)), 16));
    return vreinterpretq_f32_u8(vld1q_u8(p + 16 * h));
}

/* s and b of n blocks from b0 on, for each block (or half block) its own. */
static inline void load_scales(ap_qform f, const uint8_t *panel, int cols, int b0, int n, float *s,
                               float *b)
{
    int per_block = ap_q_halves(f) ? 2 : 1;
    const float unit = ap_q_unit(f);
    for (int i = 0; i < n; i++) {
        ap_qscales at = ap_q_scales_at(f, panel, cols, b0 + i);
        for (int g = 0; g < per_block; g++, at.at += at.step, s += AP_PANEL, b += AP_PANEL)
            for (int h = 0; h < 4; h++) {
                if (f.scale == AP_QS_SUPER) {
                    float32x4_t d = vmulq_n_f32(half4(at.super + 8 * h), unit);
                    vst1q_f32(s + 4 * h, vmulq_f32(d, factor4(f, &at, h, false)));
                    if (!f.affine) continue;
                    float32x4_t m =
                        vmulq_f32(half4(at.super + 32 + 8 * h), factor4(f, &at, h, true));
                    vst1q_f32(b + 4 * h, vnegq_f32(m));
                } else {
                    vst1q_f32(s + 4 * h, number4(f, at.at, h));
                    if (f.affine) vst1q_f32(b + 4 * h, number4(f, at.at + at.step / 2, h));
                }
            }
    }
}

/* 32 inputs: X, 16 bits each, in w; d and sums in out. false: all X are 0, and d is 0 or NaN. */
INLINE bool round_inputs(int largest, const float *x, int16x8_t w[4], ap_qx *out)
{
    float32x4_t v[8];
    uint32x4_t a = vdupq_n_u32(0);
    int32x4_t q[8], sum[2];
    UNROLL
    for (int i = 0; i < 8; i++) {
        v[i] = vld1q_f32(x + 4 * i);
        a = vmaxq_u32(a, vreinterpretq_u32_f32(vabsq_f32(v[i])));
    }
    uint32_t most = vmaxvq_u32(a);
    float amax;
    memcpy(&amax, &most, 4);
    if (most >= 0x7f800000u || amax < 1e-30f) {
        memset(out, 0, sizeof *out);
        if (most >= 0x7f800000u) out->d = out->xs = out->xs16[0] = out->xs16[1] = NAN;
        return false;
    }
    float inv = (float)largest / amax;
    UNROLL
    for (int i = 0; i < 8; i++) q[i] = vcvtnq_s32_f32(vmulq_n_f32(v[i], inv));
    UNROLL
    for (int i = 0; i < 4; i++) w[i] = vcombine_s16(vmovn_s32(q[2 * i]), vmovn_s32(q[2 * i + 1]));
    UNROLL
    for (int h = 0; h < 2; h++)
        sum[h] =
            vaddq_s32(vaddq_s32(q[4 * h], q[4 * h + 1]), vaddq_s32(q[4 * h + 2], q[4 * h + 3]));
    int s0 = vaddvq_s32(sum[0]), s1 = vaddvq_s32(sum[1]);
    float d = amax * (1.0f / (float)largest);
    out->d = d;
    out->xs = d * (float)(s0 + s1);
    out->xs16[0] = d * (float)s0;
    out->xs16[1] = d * (float)s1;
    out->sum = s0 + s1;
    out->sum16[0] = s0;
    out->sum16[1] = s1;
    out->pad = 0;
    return true;
}

/* The last steps of a block or of half a block, for 4 rows of weights. */
INLINE float32x4_t scaled(int32x4_t sum, float32x4_t s, float d, float32x4_t acc)
{
    return vfmaq_n_f32(acc, vmulq_f32(s, vcvtq_f32_s32(sum)), d);
}

#endif
