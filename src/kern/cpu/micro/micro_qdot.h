/* micro_qdot.h - inner kernels of products with weights in integer form (Order: ap_matmul_args). */
#ifndef AP_KERN_CPU_MICRO_QDOT_H
#define AP_KERN_CPU_MICRO_QDOT_H

#include "kern/cpu/micro/micro.h"
#include "kern/cpu/pack/qpack.h"

#define AP_Q_FEW      4  /* rows up to which packed weights are streamed past all of them */
#define AP_Q_TILE     6  /* rows of a tile, at most */
#define AP_Q_K_BLOCKS 16 /* blocks of a weight panel that are unpacked at once, at most */

#define AP_Q_HIGH                                                                                  \
    16256 /* largest X of 15 bits: 127 * 128, so that X = 128 hi + lo with |hi| <= 127 */
#define AP_Q_FAST 127 /* of 8 bits */

/* 32 inputs of a row in integer form. Which bytes hold X is the kernels' own affair: 16 bits each, in
 * the order that the weights' vectors want, or 8 bits, or two planes of 8 bits. */
typedef struct ap_qx {
    union {
        int16_t w[AP_Q_BLOCK];
        int8_t q[2 * AP_Q_BLOCK];
    };
    float d;       /* x = d * X */
    float xs;      /* d * sum */
    float xs16[2]; /* of either half */
    int32_t sum;   /* of X */
    int32_t sum16[2];
    int32_t pad;
} ap_qx;

/* A panel's blocks, unpacked: q in the kernels' own order, 512 bytes a block (u8) or 1024 (i16); s and b
 * [block][16], with groups of 16 [block][2][16] (b only if affine). 64-byte aligned. */
typedef struct ap_qpanel {
    uint8_t q[AP_Q_K_BLOCKS * AP_Q_BLOCK * AP_PANEL];
    float s[AP_Q_K_BLOCKS * AP_Q_MAX_GROUPS * AP_PANEL];
    float b[AP_Q_K_BLOCKS * AP_Q_MAX_GROUPS * AP_PANEL];
} ap_qpanel;

typedef struct ap_micro_qdot ap_micro_qdot;
struct ap_micro_qdot {
    const ap_micro_qdot *fast; /* the same with inputs of 8 bits; NULL there */
    int k_blocks;              /* blocks that fit an ap_qpanel */
    int tile_rows;             /* that `tile` takes, at most AP_Q_TILE */
    /* x f32 [32 * n] to n blocks */
    void (*quantise)(const float *x, int n, ap_qx *out);
    /* out[r * ld + c] for r < rows <= AP_Q_FEW and the 16 c of a packed panel; cols inputs */
    void (*few)(ap_qform f, const uint8_t *panel, int cols, const ap_qx *const *x, int rows,
                float *out, int ld);
    /* the same for the 16 * n_panel c of panels that lie one behind the other; or NULL, then panel by
     * panel with `few` */
    void (*few_panels)(ap_qform f, const uint8_t *panel, int n_panel, int cols,
                       const ap_qx *const *x, int rows, float *out, int ld);
    /* n <= k_blocks blocks from block b0 on of a packed panel */
    void (*unpack)(ap_qform f, const uint8_t *panel, int cols, int b0, int n, ap_qpanel *out);
    /* out = (add ? out : 0) and n blocks on top, rows <= tile_rows, n_panel 1 or 2; x[row][block];
     * out 64-byte aligned, ld a multiple of 16 */
    void (*tile)(ap_qform f, const ap_qpanel *w, int n_panel, const ap_qx *const *x, int rows,
                 int n, float *out, int ld, bool add);
};

/* The slot `tile` from a file's tile_form, which knows halves and affine as it is compiled; as: whatever else
 * its bodies differ by. times: what the sums of X start the products with, wide q being signed. */
#define AP_Q_TILE_FORMS(name, as)                                                                  \
    static void name(ap_qform f, const ap_qpanel *w, int n_panel, const ap_qx *const *x, int rows, \
                     int n, float *out, int ld, bool add)                                          \
    {                                                                                              \
        const int times = ap_q_wide(f) ? 128 - f.zero : -f.zero;                                   \
        if (ap_q_halves(f)) {                                                                      \
            if (f.affine)                                                                          \
                tile_form(as, true, true, times, w, n_panel, x, rows, n, out, ld, add);            \
            else                                                                                   \
                tile_form(as, true, false, times, w, n_panel, x, rows, n, out, ld, add);           \
        } else if (f.affine) {                                                                     \
            tile_form(as, false, true, times, w, n_panel, x, rows, n, out, ld, add);               \
        } else {                                                                                   \
            tile_form(as, false, false, times, w, n_panel, x, rows, n, out, ld, add);              \
        }                                                                                          \
    }

/* Inputs of 15 bits (HIGH), of 8 bits (FAST). */
extern const ap_micro_qdot ap_qdot_ref, ap_qdot8_ref;
#if defined(__x86_64__)
extern const ap_micro_qdot ap_qdot_avx2, ap_qdot8_avx2, ap_qdot_avx512, ap_qdot8_avx512;
#elif defined(__aarch64__)
extern const ap_micro_qdot ap_qdot_neon, ap_qdot8_neon, ap_qdot_dot, ap_qdot8_dot, ap_qdot_i8mm,
    ap_qdot8_i8mm;
#endif

#endif
