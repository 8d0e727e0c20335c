/* micro_amx.h - inner kernels of products in bf16 tiles (precision FAST on the level amx).
 *
 * A tile has 16 rows of 64 bytes. Inputs of a product are packed once, 16 rows of the step ("a tile of
 * rows") and 32 inputs ("a step") to a tile; weights are unpacked to tiles K block by K block:
 *   WEIGHTS_LEFT   quantised weights: the left operand, [16 weight rows][32 inputs]; inputs are the
 *                  right one, [16 pairs of inputs][16 rows][2]; sums are [16 weight rows][16 rows].
 *                  The 32 inputs stand in the order of ap_amx_input
 *   WEIGHTS_RIGHT  bf16 weights, whose panels are tiles already: the right operand; inputs are the
 *                  left one, [16 rows][32 inputs]; sums are [16 rows][16 weight rows]
 * Left is where one lookup makes 32 weights of a row from 4-bit numbers.
 *
 * Packed inputs: [K block][tile of rows][step of the block][AP_AMX_TILE]; only the last K block may
 * have fewer steps. Rows and inputs that are not there are zero. */
#ifndef AP_KERN_CPU_MICRO_AMX_H
#define AP_KERN_CPU_MICRO_AMX_H

#include "base/mem.h"
#include "base/num.h"
#include "kern/cpu/micro/micro.h"

#define AP_AMX_TILE 1024 /* bytes */
#define AP_AMX_STEP 32   /* inputs */
#ifndef AP_AMX_STEPS
#define AP_AMX_STEPS                                                                               \
    8 /* of a K block: two panels and two tiles of rows are 32 KB, and the next panels 16 */
#endif
#define AP_AMX_K    (AP_AMX_STEP * AP_AMX_STEPS)
#define AP_AMX_SUMS 65536 /* floats of a task: 256 KB */
_Static_assert(AP_AMX_STEPS % 4 == 0, "groups of 128 inputs begin with a K block");

typedef enum ap_amx_side { AP_AMX_NONE, AP_AMX_WEIGHTS_LEFT, AP_AMX_WEIGHTS_RIGHT } ap_amx_side;

/* The input of a step that stands at place i < 32 with WEIGHTS_LEFT: i = 8n + 2v + e. */
static inline int ap_amx_input(int i)
{
    int n = i / 8, v = i / 2 % 4, e = i % 2;
    return 8 * v + 4 * (n & 1) + (n >> 1) + 2 * e;
}

static inline int ap_amx_steps(int cols)
{
    return ap_div_up(cols, AP_AMX_STEP);
}

/* Bytes of a packed tile of rows. */
static inline size_t ap_amx_row_bytes(int cols)
{
    return (size_t)ap_amx_steps(cols) * AP_AMX_TILE;
}

/* Packed inputs of n_tile tiles of rows. */
typedef struct ap_amx_in {
    uint8_t *at; /* 64-byte aligned */
    int n_tile, cols;
} ap_amx_in;

static inline int ap_amx_blocks(int cols)
{
    return ap_div_up(cols, AP_AMX_K);
}

static inline int ap_amx_block_steps(int cols, int block)
{
    int left = ap_amx_steps(cols) - block * AP_AMX_STEPS;
    return left < AP_AMX_STEPS ? left : AP_AMX_STEPS;
}

static inline uint8_t *ap_amx_at(const ap_amx_in *in, int block, int tile)
{
    size_t before = (size_t)block * AP_AMX_STEPS * (size_t)in->n_tile;
    return in->at +
           (before + (size_t)tile * (size_t)ap_amx_block_steps(in->cols, block)) * AP_AMX_TILE;
}

typedef struct ap_micro_amx {
    /* Which operand can w be? */
    ap_amx_side (*side)(const ap_mat *w);
    /* n inputs (at most AP_AMX_K) of 1 .. 16 rows of f32, rounded to bf16, as one tile of rows */
    void (*pack)(ap_amx_side side, const float *const *x, int rows, int n, uint8_t *out);
    /* Sums of panels [p0, p0 + n_panel) of n_mat matrices, all of this side and of the same cols, for
     * tiles [tile, tile + n_tile) of rows: sums[mat][panel][tile of rows][16][16], 64-byte aligned, at
     * most AP_AMX_SUMS */
    void (*product)(ap_amx_side side, const ap_mat *const *w, int n_mat, int p0, int n_panel,
                    const ap_amx_in *in, int tile, int n_tile, float *sums);
    /* out[c * ld + r] = block[r][c] of a block [16][16]; both 64-byte aligned, ld a multiple of 16 */
    void (*turn)(const float *block, float *out, int ld);
    /* Two blocks of sums (b NULL = zeros), made by a product with weights of this side, as a step of the
     * inputs of the next product of this side */
    void (*pack_sums)(ap_amx_side side, const float *a, const float *b, uint8_t *out);
} ap_micro_amx;

#if defined(__x86_64__)
extern const ap_micro_amx ap_product_amx;
#endif

#endif
