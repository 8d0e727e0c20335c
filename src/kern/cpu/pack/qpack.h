/* qpack.h - quantised weights in integer form (ap_qform in kern.h).
 *
 * High bits of 32 inputs stand behind the 256 bytes of nibbles, vector j being inputs 4j .. 4j+3:
 *   5 bits  64 bytes: bit j of a byte is bit 4 of the same byte of vector j
 *   6 bits  2 x 64 bytes: bits 2(j%4), 2(j%4)+1 of half j/4 are bits 4, 5 of vector j
 * 2 and 3 bits are the nibbles of 4 bits taken apart: vector i of those (inputs 8i .. 8i+7) is
 *   2 bits  2 x 64 bytes: half[i/2] >> 2(i%2) & 0x33
 *   3 bits  those, then 64 bytes with the third bits: | (third >> i & 0x11) << 2
 * Scales of a panel, group by group, each number for all 16 rows:
 *   F16, BF16, F32  s, then b if affine
 *   SUPER           per 256 inputs: d and, if affine, m (f16); behind all those, per group: u8 or i8
 *                   factor of d and, if affine, u8 factor of m; with nibbles one byte for both, that of d
 *                   low. s = d * factor / 2^shift, b = -(m * factor) */
#ifndef AP_KERN_CPU_PACK_QPACK_H
#define AP_KERN_CPU_PACK_QPACK_H

#include "kern/kern.h"

#define AP_Q_BLOCK      32 /* inputs that share a scale of the input side */
#define AP_Q_SUPER      256
#define AP_Q_MAX_COLS   32768 /* a row of inputs fits a small buffer */
#define AP_Q_MAX_GROUPS 2     /* groups in a block */

/* What 4 bits stand for, +128. 1: IQ4; 2: E2M1 in halves; 3: IQ3_XXS in halves and 4: IQ3_S, the sign in
 * bit 3. 5: IQ2, 3 bits, the sign in bit 2; twice. */
extern const uint8_t ap_qtable[6][16];

/* The form of a tensor; bits 0 if it has none. */
ap_qform ap_q_form(const ap_tensor *t);

static inline size_t ap_q_block_bytes(ap_qform f)
{
    return (size_t)f.bits * 64;
}
static inline bool ap_q_halves(ap_qform f)
{
    return f.group == 16;
}
/* What the factors of d are multiplied by besides: a power of two. */
static inline float ap_q_unit(ap_qform f)
{
    return 1.0f / (float)(1 << f.shift);
}
/* Do products of q and X fit 16 bits only if q is made signed? */
static inline bool ap_q_wide(ap_qform f)
{
    return f.bits == 8 || f.table;
}

size_t ap_q_panel_bytes(ap_qform f, int cols);

/* Panel p of src to dst; rows that src lacks become zero. The fast one has the same bytes; false, and
 * nothing done: not a whole panel. */
void ap_q_pack_panel(const ap_tensor *src, ap_qform f, int p, uint8_t *dst);
bool ap_q_pack_panel_fast(const ap_tensor *src, ap_qform f, int p, uint8_t *dst);

/* 16 rows of 16 * n bytes, `stride` apart, as 32-bit units side by side: out[unit][row]. */
void ap_q_transpose(const uint8_t *p, size_t stride, int n, uint32_t *out);

/* Half of 2^(e - 127) as bf16; e < 255. */
static inline uint16_t ap_half_of_e8m0(uint8_t e)
{
    return e > 1 ? (uint16_t)((e - 1) << 7) : (uint16_t)(0x20 << e);
}

/* The bits that a scale or bias of a split type at p has in a panel. */
uint32_t ap_q_split_scale(const ap_tensor *t, const uint8_t *p);

/* Where block b's numbers are. Of AP_QS_SUPER: `super` the d of its 256 inputs, `at` the factors. */
typedef struct ap_qscales {
    const uint8_t *at, *super;
    size_t step;       /* bytes from group to group */
    size_t super_step; /* bytes from d to d; 0: none */
} ap_qscales;

static inline ap_qscales ap_q_scales_at(ap_qform f, const uint8_t *panel, int cols, int block)
{
    static const uint8_t size[] = {2, 2, 4, 1};
    int n = AP_PANEL * (f.affine ? 2 : 1);
    ap_qscales s = {.step = f.nibbles ? AP_PANEL : (size_t)n * size[f.scale]};
    const uint8_t *base = panel + (size_t)(cols / AP_Q_BLOCK) * ap_q_block_bytes(f);
    if (f.scale == AP_QS_SUPER) {
        s.super_step = (size_t)n * 2;
        s.super = base + (size_t)(block * AP_Q_BLOCK / AP_Q_SUPER) * s.super_step;
        base += (size_t)(cols / AP_Q_SUPER) * s.super_step;
    }
    s.at = base + (size_t)(block * AP_Q_BLOCK / f.group) * s.step;
    return s;
}

/* Asks memory for the scales of n blocks from block b on. */
static inline void ap_q_ask_for_scales(ap_qform f, const uint8_t *panel, int cols, int b, int n)
{
    ap_qscales at = ap_q_scales_at(f, panel, cols, b);
    size_t bytes = (size_t)(n * AP_Q_BLOCK / f.group) * at.step;
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(at.at + i);
    if (!at.super_step) return;
    for (int i = 0; i < n; i += AP_Q_SUPER / AP_Q_BLOCK, at.super += at.super_step)
        __builtin_prefetch(at.super);
}

#endif
