#include "kern/cpu/product.h"

#include <stdalign.h>
#include <string.h>

#include "kern/cpu/ops.h"

#define STEPS_PER_TASK 4096 /* of 16 multiply-adds: a microsecond or less */
#define TASKS_PER_THREAD 6
#define L2_PANELS 16 /* 256 KB of bf16 in a K block */

static int ceil_div(int a, int b) { return a / b + (a % b != 0); }

ap_split ap_split_product(const ap_kern *k, int rows, int panels, int cols, int n_mat, int units)
{
    const ap_micro *m = k->impl;
    ap_split s = {0};
    if (rows <= 0 || panels <= 0) return s;
    int tile = m->matmul->tile_rows, threads = ap_pool_threads(k->pool);
    s.n_row_blocks = ceil_div(rows, AP_TASK_ROWS);
    s.row_block = ceil_div(rows, s.n_row_blocks);
    if (s.row_block > tile) s.row_block = ceil_div(s.row_block, tile) * tile;
    s.n_row_blocks = ceil_div(rows, s.row_block);

    int most = AP_TASK_FLOATS / (s.row_block * AP_PANEL * n_mat);
    if (s.row_block > tile && most > L2_PANELS / n_mat) most = L2_PANELS / n_mat;
    int group = panels;
    if (threads > 1) {
        int64_t blocks = (int64_t)s.n_row_blocks * units;
        int64_t share = panels * blocks / ((int64_t)threads * TASKS_PER_THREAD);
        int64_t least = STEPS_PER_TASK / ((int64_t)s.row_block * cols * n_mat) + 1;
        if (share < least) share = least;
        if (share < group) group = (int)share;
    }
    int unit = m->matmul->few_panels; /* whole sets of panels that stream well together */
    group = group > unit ? ceil_div(group, unit) * unit : group;
    if (group > most) group = most > unit ? most / unit * unit : most;
    s.group = group;
    s.n_groups = ceil_div(panels, group);
    s.n_tasks = s.n_row_blocks * s.n_groups;
    return s;
}

typedef struct block {
    const uint8_t *w;
    size_t panel_bytes;
    ap_dtype type;
} block;

static block block_at(const ap_mat *w, int p0, int k0)
{
    block b = {.panel_bytes = ap_panel_bytes(w->dtype, w->cols), .type = w->dtype};
    b.w = (const uint8_t *)w->data + (size_t)p0 * b.panel_bytes +
          (size_t)k0 * AP_PANEL * ap_dtype_bytes(w->dtype);
    return b;
}

void ap_product(const ap_micro *m, const ap_mat *const *w, int n_mat, int p0, int n_panel,
                const float *const *x, int rows, float *tile, int ld)
{
    const ap_micro_matmul *mm = m->matmul;
    alignas(64) float xpack[AP_MAX_TILE_ROWS * AP_XPACK_LD];
    int cols = w[0]->cols;
    for (int k0 = 0; k0 < cols; k0 += AP_K_BLOCK) {
        int n = cols - k0 < AP_K_BLOCK ? cols - k0 : AP_K_BLOCK;
        int most = rows <= AP_FEW_ROWS ? rows : mm->tile_rows;
        int n_tiles = ceil_div(rows, most);
        for (int i = 0; i < n_tiles; i++) {
            /* tiles of nearly equal height */
            int r0 = ap_op_first(rows, i, n_tiles), nr = ap_op_first(rows, i + 1, n_tiles) - r0;
            const float *few[AP_FEW_ROWS];
            for (int r = 0; r < nr; r++) {
                if (rows <= AP_FEW_ROWS)
                    few[r] = x[r0 + r] + k0;
                else
                    memcpy(xpack + r * AP_XPACK_LD, x[r0 + r] + k0, (size_t)n * sizeof(float));
            }
            for (int j = 0; j < n_mat; j++) {
                block b = block_at(w[j], p0, k0);
                float *out = tile + (size_t)r0 * ld + j * n_panel * AP_PANEL;
                if (rows <= AP_FEW_ROWS)
                    mm->few[b.type](few, nr, b.w, b.panel_bytes, n_panel, n, out, ld, k0 > 0);
                else
                    mm->tile[b.type](xpack, nr, b.w, b.panel_bytes, n_panel, n, out, ld, k0 > 0);
            }
        }
    }
}
