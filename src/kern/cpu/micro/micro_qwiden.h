/* micro_qwiden.h - packed quantised weights (ap_qform in kern.h) to f32, for products in the Order of f32
 * weights: w = s * (q - zero), then + b, each step rounded, which is what tensor/quant.h defines for every
 * type that has such a form (only the sign of a zero may differ). Forms that is_float: w = e4m3(q) * s. */
#ifndef AP_KERN_CPU_MICRO_QWIDEN_H
#define AP_KERN_CPU_MICRO_QWIDEN_H

#include "kern/cpu/micro/micro.h"
#include "kern/cpu/pack/qpack.h"

typedef struct ap_micro_qwiden {
    /* n <= AP_K_BLOCK / AP_Q_BLOCK blocks from block b0 on of a packed panel, as an F32 panel
     * [n * AP_Q_BLOCK][AP_PANEL]; out is 64-byte aligned */
    void (*widen)(ap_qform f, const uint8_t *panel, int cols, int b0, int n, float *out);

    /* Or NULL. Sums over all `cols` inputs of two neighbouring panels, panel_bytes apart, in the Order of
     * ap_matmul_args: out[r * ld + c], c < 2 * AP_PANEL, for 1 .. AP_FEW_ROWS rows x. */
    void (*few)(ap_qform f, const uint8_t *panel, size_t panel_bytes, int cols,
                const float *const *x, int rows, float *out, int ld);
} ap_micro_qwiden;

extern const ap_micro_qwiden ap_qwiden_ref;
#if defined(__x86_64__)
extern const ap_micro_qwiden ap_qwiden_avx2, ap_qwiden_avx512;
#elif defined(__aarch64__)
extern const ap_micro_qwiden ap_qwiden_neon;
#endif

#endif
