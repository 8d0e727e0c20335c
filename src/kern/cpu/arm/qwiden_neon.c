/* qwiden_neon.c - packed weights to f32, 16 rows x 1 input at a time: the load takes every fourth
 * byte. */
#include "kern/cpu/arm/qload_neon.h"
#include "kern/cpu/micro/micro_matmul.h"
#include "kern/cpu/micro/micro_qwiden.h"

#define BLOCKS (AP_K_BLOCK / AP_Q_BLOCK)
#define FLOAT  1 /* e4m3; other kinds as in qload_neon.h */

/* e4m3 in the high bytes of 16-bit numbers. */
INLINE float32x4_t floats(uint16x4_t high)
{
    uint32x4_t v = vshll_n_u16(high, 16), all = vdupq_n_u32(0x07f00000);
    v = vandq_u32(vreinterpretq_u32_s32(vshrq_n_s32(vreinterpretq_s32_u32(v), 4)),
                  vdupq_n_u32(0x87f00000u));
    float32x4_t w = vmulq_n_f32(vreinterpretq_f32_u32(v), 0x1p120f);
    return vbslq_f32(vceqq_u32(vandq_u32(v, all), all), vdupq_n_f32(NAN), w);
}

/* Four parts of 16 rows: q - zero. */
INLINE void less_zero(int kind, uint8x16_t q, uint8x16_t zero, float32x4_t w[4])
{
    if (kind == FLOAT) {
        uint16x8_t lo = vshll_n_u8(vget_low_u8(q), 8), hi = vshll_high_n_u8(q, 8);
        w[0] = floats(vget_low_u16(lo)), w[1] = floats(vget_high_u16(lo));
        w[2] = floats(vget_low_u16(hi)), w[3] = floats(vget_high_u16(hi));
        return;
    }
    int16x8_t lo = vreinterpretq_s16_u16(vsubl_u8(vget_low_u8(q), vget_low_u8(zero)));
    int16x8_t hi = vreinterpretq_s16_u16(vsubl_high_u8(q, zero));
    w[0] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(lo))), w[1] = vcvtq_f32_s32(vmovl_high_s16(lo));
    w[2] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(hi))), w[3] = vcvtq_f32_s32(vmovl_high_s16(hi));
}

INLINE void widen_kind(int kind, ap_qform f, const uint8_t *panel, int cols, int b0, int n,
                       float *out)
{
    _Alignas(64) float s[BLOCKS * AP_Q_MAX_GROUPS * AP_PANEL];
    _Alignas(64) float b[BLOCKS * AP_Q_MAX_GROUPS * AP_PANEL];
    const int groups = ap_q_halves(f) ? 2 : 1;
    size_t step = ap_q_block_bytes(f);
    const uint8_t *p = panel + (size_t)b0 * step;
    uint8x16_t table = table_of(f), zero = vdupq_n_u8((uint8_t)f.zero);
    load_scales(f, panel, cols, b0, n, s, b);
    for (int k = 0; k < n; k++, p += step)
        for (int g = 0; g < 4; g++) {
            int at = (k * groups + (groups == 2 ? g / 2 : 0)) * AP_PANEL;
            uint8x16_t v[8];
            load_inputs(kind == FLOAT ? 8 : kind, p, g, table, v);
            UNROLL
            for (int i = 0; i < 8; i++, out += AP_PANEL) {
                float32x4_t w[4];
                less_zero(kind, v[i], zero, w);
                UNROLL
                for (int h = 0; h < 4; h++) {
                    float32x4_t y = vmulq_f32(w[h], vld1q_f32(s + at + 4 * h));
                    if (f.affine) y = vaddq_f32(y, vld1q_f32(b + at + 4 * h));
                    vst1q_f32(out + 4 * h, y);
                }
            }
        }
}

static void widen(ap_qform f, const uint8_t *panel, int cols, int b0, int n, float *out)
{
#define WIDEN(kind) widen_kind(kind, f, panel, cols, b0, n, out)
    if (f.is_float)
        WIDEN(FLOAT);
    else
        BY_KIND(f, WIDEN)
}

const ap_micro_qwiden ap_qwiden_neon = {.widen = widen};
