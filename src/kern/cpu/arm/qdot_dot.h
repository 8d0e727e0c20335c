/* qdot_dot.h - what the levels dot and i8mm share: unpacking weights to vectors of 4 rows x 4
 * inputs, or of 2 rows x 8 inputs. Wide q (ap_q_wide) minus 128.
 *
 * X in ap_qx.q: HIGH, for each 8 inputs 8 bytes of hi, then 8 of lo, X = 128 hi + lo, lo in
 * [-64, 63]; FAST, 32 bytes. */
#ifndef AP_KERN_CPU_ARM_QDOT_DOT_H
#define AP_KERN_CPU_ARM_QDOT_DOT_H

#include "kern/cpu/arm/qload_neon.h"

/* Rows 4h .. 4h+3 of a block: v[j] has inputs 4j .. 4j+3. */
INLINE void load_quarter(int kind, const uint8_t *p, int h, uint8x16_t table, int8x16_t v[8])
{
    uint8x16_t u[8];
    p += 16 * h;
    if (kind == 8) {
        UNROLL
        for (int j = 0; j < 8; j++) u[j] = vld1q_u8(p + 64 * j);
    } else {
        const int bits = stored_bits(kind);
        UNROLL
        for (int i = 0; i < 4; i++) {
            uint8x16_t w = vld1q_u8(p + 64 * (bits < 4 ? i / 2 : i));
            if (bits < 4) w = join_bits(bits, i, w, bits == 3 ? vld1q_u8(p + 128) : w);
            nibbles(kind, table, w, u + 2 * i);
        }
    }
    if (kind == 5) {
        uint8x16_t high = vld1q_u8(p + 256);
        high_bits(5, 0, high, u);
        high_bits(5, 1, high, u + 4);
    } else if (kind == 6) {
        high_bits(6, 0, vld1q_u8(p + 256), u);
        high_bits(6, 1, vld1q_u8(p + 320), u + 4);
    }
    UNROLL
    for (int j = 0; j < 8; j++)
        v[j] = vreinterpretq_s8_u8(wide_kind(kind) ? veorq_u8(u[j], vdupq_n_u8(128)) : u[j]);
}

/* [block][quarter][8][16 bytes]; pairs: vectors 2i, 2i+1 have inputs 8i .. 8i+7 of rows 0, 1 and
 * of rows 2, 3. */
INLINE void unpack_blocks(bool pairs, int kind, uint8x16_t table, const uint8_t *p, size_t step,
                          int n, uint8_t *q)
{
    for (int i = 0; i < n; i++, p += step)
        for (int h = 0; h < 4; h++, q += 128) {
            int8x16_t v[8];
            load_quarter(kind, p, h, table, v);
            UNROLL
            for (int j = 0; j < 8; j += 2) {
                uint32x4_t a = vreinterpretq_u32_s8(v[j]), b = vreinterpretq_u32_s8(v[j + 1]);
                vst1q_u8(q + 16 * j, vreinterpretq_u8_u32(pairs ? vzip1q_u32(a, b) : a));
                vst1q_u8(q + 16 * j + 16, vreinterpretq_u8_u32(pairs ? vzip2q_u32(a, b) : b));
            }
        }
}

INLINE void unpack_panel(bool pairs, ap_qform f, const uint8_t *panel, int cols, int b0, int n,
                         ap_qpanel *out)
{
    size_t step = ap_q_block_bytes(f);
    const uint8_t *p = panel + (size_t)b0 * step;
    uint8x16_t table = table_of(f);
    load_scales(f, panel, cols, b0, n, out->s, out->b);
#define UNPACK(kind) unpack_blocks(pairs, kind, table, p, step, n, out->q)
    BY_KIND(f, UNPACK)
}

#endif
