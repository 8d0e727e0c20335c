/* product.h - how matmul, glu and moe cut products with packed weights into tasks.
 *
 * A task owns a block of rows and a group of panels of one or two matrices and computes their sums
 * over all inputs into a tile on its stack, K block by K block, so that a K block of the group's
 * weights (at most 256 KB) stays in L2 while the rows sweep over it. What then happens to the tile
 * is the caller's. */
#ifndef AP_KERN_CPU_PRODUCT_PRODUCT_H
#define AP_KERN_CPU_PRODUCT_PRODUCT_H

#include "base/num.h"
#include "kern/cpu/micro/micro_matmul.h"
#include "kern/cpu/micro/micro_qdot.h"

/* Bytes of a panel of `cols` inputs: a multiple of 64 except for F16, where it is one of 32. */
size_t ap_panel_bytes(ap_dtype t, int cols);
/* Of a packed matrix. */
size_t ap_mat_panel_bytes(const ap_mat *w);

static inline int ap_n_panels(const ap_mat *w)
{
    return ap_div_up(w->rows, AP_PANEL);
}

/* Tasks over `rows` x `panels`: row block fastest. */
typedef struct ap_split {
    int row_block, n_row_blocks;
    int group, n_groups; /* panels of a task, of each matrix */
    int n_tasks;
} ap_split;

/*   rows, panels, cols  of the product; n_mat matrices share a task (2 for gate and up)
 *   units    how many such products make one job (active experts), so that not each of them needs
 *            to be cut for every thread
 *   integers of weights in integer form two panels are in work at a time: L2 does not bound a group */
ap_split ap_split_product(const ap_exec *ex, int rows, int panels, int cols, int n_mat, int units,
                          bool integers);

/* Does a product with w want its inputs in integer form? */
static inline bool ap_meets_integers(const ap_exec *ex, const ap_mat *w)
{
    return w->q.bits && !w->q.is_float && ex->precision != APUS_PRECISION_EXACT;
}

/* Inputs of 8 or of 15 bits? */
static inline const ap_micro_qdot *ap_qdot_of(const ap_exec *ex)
{
    const ap_micro *m = ex->k->impl;
    return ex->precision == APUS_PRECISION_FAST ? m->qdot->fast : m->qdot;
}

/* Pointers to the rows of a task: f32 for those matrices that want it, integer form (NULL if no matrix
 * meets integers) for the others. */
typedef struct ap_rows {
    const float *const *f;
    const ap_qx *const *q;
    const ap_micro_qdot *qdot; /* the kernels that q is meant for */
} ap_rows;

/* tile[r * ld + i * n_panel * 16 + c] = x[r] . row (p0 * 16 + c) of w[i], in the Order of matmul, for
 * n_mat matrices with equal cols.
 *   x     1 .. AP_TASK_ROWS rows
 *   tile  64-byte aligned; ld >= n_mat * n_panel * 16, a multiple of 16 */
void ap_product(const ap_micro *m, const ap_mat *const *w, int n_mat, int p0, int n_panel,
                ap_rows x, int rows, float *tile, int ld);

/* Rows of f32 to integer form, in parallel; out has cols / AP_Q_BLOCK blocks per row. */
void ap_quantise(const ap_exec *ex, const float *x, int64_t ldx, int rows, int cols, ap_qx *out);

/* Bytes of a row in integer form. */
static inline size_t ap_input_bytes(int cols)
{
    return (size_t)(cols / AP_Q_BLOCK) * sizeof(ap_qx);
}

#define AP_INPUT_STACK                                                                             \
    ((size_t)AP_Q_MAX_COLS / AP_Q_BLOCK * sizeof(ap_qx)) /* one row of any matrix */

/* Where a product's inputs in integer form go, and how many rows fit: the table's room or the stack. */
typedef struct ap_input_room {
    ap_qx *at;
    int rows;
} ap_input_room;

static inline ap_input_room ap_find_room(const ap_exec *ex, int cols, int rows, ap_qx *stack)
{
    size_t each = ap_input_bytes(cols), here = AP_INPUT_STACK / each,
           there = ex->input_bytes / each;
    ap_input_room r = {stack, rows};
    if (here >= (size_t)rows) return r;
    if (ex->inputs && there > here) {
        r.at = ex->inputs;
        here = there;
    }
    if (here < (size_t)rows) r.rows = (int)here;
    return r;
}

#endif
