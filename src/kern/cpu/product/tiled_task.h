/* tiled_task.h - what products in tiles share inside their tasks (tiled.c, tiled_moe.c). */
#ifndef AP_KERN_CPU_PRODUCT_TILED_TASK_H
#define AP_KERN_CPU_PRODUCT_TILED_TASK_H

#include <string.h>

#include "base/num.h"
#include "kern/cpu/micro/micro_amx.h"

#define AP_TILED_WIDE 128 /* outputs that are turned to rows at a time */

/* Panels of a task, an even number, of each of n_mat matrices of `panels` panels.
 *   tiles     of rows of a task
 *   n_blocks  how often all panels are met: blocks of rows, or units */
int ap_tiled_group(const ap_exec *ex, int tiles, int n_blocks, int panels, int cols, int n_mat);

/* One K block of one tile of rows; x at input 0 of each row. */
static inline void ap_tiled_pack(const ap_micro_amx *m, ap_amx_side side, const ap_amx_in *in,
                                 int block, int tile, const float *const *x, int rows)
{
    const float *at[16];
    int k0 = block * AP_AMX_K, n = in->cols - k0 < AP_AMX_K ? in->cols - k0 : AP_AMX_K;
    for (int r = 0; r < rows; r++) at[r] = x[r] + k0;
    m->pack(side, at, rows, n, ap_amx_at(in, block, tile));
}

/* Sums of n_panel panels and one tile of rows, `step` floats from panel to panel, as 16 rows. */
static inline void ap_tiled_rows(const ap_micro_amx *m, ap_amx_side side, const float *sums,
                                 size_t step, int n_panel, float *out, int ld)
{
    for (int p = 0; p < n_panel; p++, sums += step) {
        if (side == AP_AMX_WEIGHTS_LEFT)
            m->turn(sums, out + p * 16, ld);
        else
            for (int r = 0; r < 16; r++) memcpy(out + r * ld + p * 16, sums + r * 16, 64);
    }
}

#endif
