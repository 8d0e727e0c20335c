/* product.h - how matmul, glu and moe cut products with packed weights into tasks.
 *
 * A task owns a block of rows and a group of panels of one or two matrices and computes their sums
 * over all inputs into a tile on its stack, K block by K block, so that a K block of the group's
 * weights (at most 256 KB) stays in L2 while the rows sweep over it. What then happens to the tile
 * is the caller's. */
#ifndef AP_KERN_CPU_PRODUCT_H
#define AP_KERN_CPU_PRODUCT_H

#include "kern/cpu/micro_matmul.h"

/* Bytes of a panel of `cols` inputs: a multiple of 64 except for F16, where it is one of 32. */
size_t ap_panel_bytes(ap_dtype t, int cols);

static inline int ap_n_panels(const ap_mat *w)
{
    return w->rows / AP_PANEL + (w->rows % AP_PANEL != 0);
}

/* Tasks over `rows` x `panels`: row block fastest. */
typedef struct ap_split {
    int row_block, n_row_blocks;
    int group, n_groups; /* panels of a task, of each matrix */
    int n_tasks;
} ap_split;

/*   rows, panels, cols  of the product; n_mat matrices share a task (2 for gate and up)
 *   units    how many such products make one job (active experts), so that not each of them needs
 *            to be cut for every thread */
ap_split ap_split_product(const ap_kern *k, int rows, int panels, int cols, int n_mat, int units);

/* tile[r * ld + i * n_panel * 16 + c] = x[r] . row (p0 * 16 + c) of w[i], in the Order of matmul,
 * for n_mat matrices with equal cols.
 *   x     rows pointers, 1 .. AP_TASK_ROWS
 *   tile  64-byte aligned; ld >= n_mat * n_panel * 16, a multiple of 16 */
void ap_product(const ap_micro *m, const ap_mat *const *w, int n_mat, int p0, int n_panel,
                const float *const *x, int rows, float *tile, int ld);

#endif
