/* qscale.h - the scales of a packed panel (qpack.h), each kind in a loop of its own. Included by
 * qload_avx2.h and qload_avx512.h behind their plain_scales and super_scales. */
#ifndef AP_KERN_CPU_X86_QSCALE_H
#define AP_KERN_CPU_X86_QSCALE_H

#include "base/num.h"
#include "kern/cpu/pack/qpack.h"

#define CHUNK 8 /* blocks whose scales are made at once: AP_Q_SUPER inputs */
_Static_assert(CHUNK *AP_Q_BLOCK == AP_Q_SUPER, "a chunk has one d");

/* s and b of n <= CHUNK blocks, the first of a chunk and the next ones, for each block or half block its own.
 * at: those of the first. Up to CHUNK blocks are written. */
static inline void scales_at(ap_qform f, ap_qscales at, int n, float *s, float *b)
{
    int times = f.group > AP_Q_BLOCK ? f.group / AP_Q_BLOCK : 1,
        groups = ap_div_up(n * AP_Q_BLOCK, f.group);
    switch (f.scale * 2 + f.affine) {
    case AP_QS_F16 * 2:
        plain_scales(AP_QS_F16, false, at, groups, times, s, b);
        break;
    case AP_QS_F16 * 2 + 1:
        plain_scales(AP_QS_F16, true, at, groups, times, s, b);
        break;
    case AP_QS_BF16 * 2:
        plain_scales(AP_QS_BF16, false, at, groups, times, s, b);
        break;
    case AP_QS_BF16 * 2 + 1:
        plain_scales(AP_QS_BF16, true, at, groups, times, s, b);
        break;
    case AP_QS_F32 * 2:
        plain_scales(AP_QS_F32, false, at, groups, times, s, b);
        break;
    case AP_QS_F32 * 2 + 1:
        plain_scales(AP_QS_F32, true, at, groups, times, s, b);
        break;
    case AP_QS_SUPER * 2:
        if (f.is_signed)
            super_scales(true, false, false, f, at, groups, s, b);
        else
            super_scales(false, false, false, f, at, groups, s, b);
        break;
    default:
        if (f.nibbles)
            super_scales(false, true, true, f, at, groups, s, b);
        else
            super_scales(false, false, true, f, at, groups, s, b);
    }
}

/* s and b of n blocks from b0, a multiple of CHUNK, on. */
static inline void load_scales(ap_qform f, const uint8_t *panel, int cols, int b0, int n, float *s,
                               float *b)
{
    const int wide = AP_PANEL * (ap_q_halves(f) ? 2 : 1);
    for (int i = 0; i < n; i += CHUNK) {
        ap_qscales at = ap_q_scales_at(f, panel, cols, b0 + i);
        scales_at(f, at, n - i < CHUNK ? n - i : CHUNK, s + i * wide, b + i * wide);
    }
}

/* Ask for the scales of the chunk behind b0's, in this panel or in the one that comes next. */
static inline void fetch_scales(ap_qform f, const uint8_t *panel, const uint8_t *next, int cols,
                                int b0)
{
    bool last = cols / AP_Q_BLOCK <= b0 + CHUNK;
    ap_q_ask_for_scales(f, last ? next : panel, cols, last ? 0 : b0 + CHUNK, CHUNK);
}

#endif
