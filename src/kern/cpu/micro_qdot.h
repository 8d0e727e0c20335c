/* micro_qdot.h - inner kernels of products with weights in integer form (Order: ap_matmul_args). */
#ifndef AP_KERN_CPU_MICRO_QDOT_H
#define AP_KERN_CPU_MICRO_QDOT_H

#include "kern/cpu/micro.h"
#include "kern/cpu/qpack.h"

#define AP_Q_FEW 4        /* rows up to which packed weights are streamed past all of them */
#define AP_Q_TILE 6       /* rows of a tile */
#define AP_Q_K_BLOCKS 16  /* blocks of a weight panel that are unpacked at once: 8 KB */

/* 32 inputs of a row in integer form. */
typedef struct ap_qx {
    int8_t q[AP_Q_BLOCK];
    float d;        /* x = d * q */
    float xs;       /* d * sum */
    float xs16[2];  /* of either half */
    int32_t sum;    /* of q; in a tile: times -zero */
    int32_t sum16[2];
    int32_t pad;
} ap_qx;

/* A panel's blocks, unpacked: q[block][8][16 rows][4 inputs]; s and b [block][16], with groups of 16
 * [block][2][16] (b only if affine). 64-byte aligned. */
typedef struct ap_qpanel {
    uint8_t q[AP_Q_K_BLOCKS * AP_Q_BLOCK * AP_PANEL];
    float s[AP_Q_K_BLOCKS * AP_Q_MAX_GROUPS * AP_PANEL];
    float b[AP_Q_K_BLOCKS * AP_Q_MAX_GROUPS * AP_PANEL];
} ap_qpanel;

typedef struct ap_micro_qdot {
    bool is_signed; /* wide q (ap_q_wide) are taken as q - 128: zero is 128 less for `tile` */
    /* x f32 [32 * n] to n blocks */
    void (*quantise)(const float *x, int n, ap_qx *out);
    /* out[r * ld + c] for r < rows <= AP_Q_FEW and the 16 c of a packed panel; cols inputs */
    void (*few)(ap_qform f, const uint8_t *panel, int cols, const ap_qx *const *x, int rows, float *out,
                int ld);
    /* n <= AP_Q_K_BLOCKS blocks from block b0 on of a packed panel */
    void (*unpack)(ap_qform f, const uint8_t *panel, int cols, int b0, int n, ap_qpanel *out);
    /* out = (add ? out : 0) and n blocks on top, rows <= AP_Q_TILE, n_panel 1 or 2;
     * x[block * AP_Q_TILE + row]; out 64-byte aligned, ld a multiple of 16 */
    void (*tile)(ap_qform f, const ap_qpanel *w, int n_panel, const ap_qx *x, int rows, int n, float *out,
                 int ld, bool add);
} ap_micro_qdot;

extern const ap_micro_qdot ap_qdot_ref;
#if defined(__x86_64__)
extern const ap_micro_qdot ap_qdot_avx2, ap_qdot_avx512;
#endif

#endif
