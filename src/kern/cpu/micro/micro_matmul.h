/* micro_matmul.h - inner kernels of products with packed weights. */
#ifndef AP_KERN_CPU_MICRO_MATMUL_H
#define AP_KERN_CPU_MICRO_MATMUL_H

#include "kern/cpu/micro/micro.h"

#define AP_FEW_ROWS      4   /* tokens up to which weights are streamed once past all rows */
#define AP_TASK_ROWS     120 /* rows of a task; every tile_rows divides it */
#define AP_TASK_FLOATS   (AP_TASK_ROWS * 16 * AP_PANEL) /* sums of a task */
#define AP_MAX_TILE_ROWS 12
#define AP_XPACK_LD                                                                                \
    (AP_K_BLOCK + 16) /* floats from row to row of a copied block: no power of two */

/* Sums of one K block: for r < rows, c < n_panel * AP_PANEL
 *   s = fma(x[r][i], w[c][i], s), i = 0 .. k-1 ascending from s = 0
 *   out[r * ld + c] = add ? out[r * ld + c] + s : s
 *   x        few: the rows, 1 .. AP_FEW_ROWS of them, any alignment
 *            tile: the first of 1 .. tile_rows rows, AP_XPACK_LD floats apart
 *   w        first panel at the block's first k, as in ap_mat; 64-byte aligned
 *   panel_bytes  from panel to panel
 *   k        1 .. AP_K_BLOCK; BF16: the block starts at an even k
 *   out      f32, ld floats from row to row, 64-byte aligned, ld a multiple of 16 */
typedef void (*ap_few_fn)(const float *const *x, int rows, const uint8_t *w, size_t panel_bytes,
                          int n_panel, int k, float *out, int ld, bool add);
typedef void (*ap_tile_fn)(const float *x, int rows, const uint8_t *w, size_t panel_bytes,
                           int n_panel, int k, float *out, int ld, bool add);

typedef struct ap_micro_matmul {
    int tile_rows;    /* at most AP_MAX_TILE_ROWS */
    int few_panels;   /* panels that `few` likes to get together */
    ap_few_fn few[3]; /* by ap_dtype: F32, F16, BF16 */
    ap_tile_fn tile[3];
} ap_micro_matmul;

extern const ap_micro_matmul ap_matmul_ref;
#if defined(__x86_64__)
extern const ap_micro_matmul ap_matmul_avx2, ap_matmul_avx512;
#elif defined(__aarch64__)
extern const ap_micro_matmul ap_matmul_neon;
#endif

#endif
