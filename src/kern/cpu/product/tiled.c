#include "kern/cpu/product/tiled.h"

#include <assert.h>
#include <stdalign.h>
#include <string.h>

#include "kern/cpu/micro/micro_elem.h"
#include "kern/cpu/ops/ops.h"
#include "kern/cpu/product/tiled_task.h"

ap_amx_side ap_tiled_side(const ap_exec *ex, const ap_mat *const *w, int n_mat, int rows)
{
    const ap_micro *m = ex->k->impl;
    if (!m->amx || ex->precision != APUS_PRECISION_FAST || rows < AP_TILED_ROWS) return AP_AMX_NONE;
    ap_amx_side side = m->amx->side(w[0]);
    for (int i = 1; i < n_mat; i++)
        if (m->amx->side(w[i]) != side) return AP_AMX_NONE;
    return side;
}

/* ------------------------------------------------------------------ cutting into tasks */

#define STEPS_PER_TASK   256 /* tile products: 4096 cycles, a microsecond */
#define TASKS_PER_THREAD 4

int ap_tiled_group(const ap_exec *ex, int tiles, int n_blocks, int panels, int cols, int n_mat)
{
    int threads = ap_pool_threads(ex->dev->pool), most = AP_AMX_SUMS / 512 / (tiles * n_mat) * 2,
        group = panels;
    if (threads > 1) {
        int64_t share = (int64_t)panels * n_blocks / ((int64_t)threads * TASKS_PER_THREAD);
        int64_t least = STEPS_PER_TASK / ((int64_t)tiles * ap_amx_steps(cols) * n_mat) + 1;
        if (share < least) share = least;
        if (share < group) group = (int)share;
    }
    if (group > most) group = most;
    int n = ap_div_up(panels, group);
    group = ap_div_up(ap_div_up(panels, n), 2) * 2; /* whole pairs, `most` being even */
    assert(group <= most); /* or the sums of a task would outgrow AP_AMX_SUMS */
    return group;
}

/* ------------------------------------------------------------------ matmul and glu */

/* Either of them, for a piece of its rows whose inputs fit the room. */
typedef struct job {
    const ap_micro *m;
    ap_amx_side side;
    const ap_mat *w[2]; /* of glu: gate, up */
    const float *x;
    float *y;
    int64_t ldx, ldy;
    int n_mat, n_tok;
    bool accumulate;
    float softcap;
    ap_act act;
    ap_amx_in in;
    int n_pack;                               /* tasks that pack */
    int tiles, n_row_blocks, group, n_groups; /* of rows, of panels */
} job;

static void pack_task(void *arg, int task, int worker)
{
    const job *j = arg;
    int all = j->in.n_tile * ap_amx_blocks(j->in.cols), end = ap_op_first(all, task + 1, j->n_pack);
    (void)worker;
    for (int i = ap_op_first(all, task, j->n_pack); i < end; i++) {
        int tile = i % j->in.n_tile, block = i / j->in.n_tile, rows = j->n_tok - tile * 16;
        const float *x[16];
        if (rows > 16) rows = 16;
        for (int r = 0; r < rows; r++) x[r] = j->x + (int64_t)(tile * 16 + r) * j->ldx;
        ap_tiled_pack(j->m->amx, j->side, &j->in, block, tile, x, rows);
    }
}

static void finish(const job *j, float *rows, int ld, int n, int n_row, float *y)
{
    for (int r = 0; r < n_row; r++, rows += ld, y += j->ldy) {
        if (j->accumulate)
            j->m->elem->add(y, rows, n);
        else
            memcpy(y, rows, (size_t)n * sizeof(float));
        if (j->softcap != 0.0f) j->m->elem->softcap(y, j->softcap, n);
    }
}

/* Sums to rows of y, a few panels of a tile of rows at a time. */
static void put(const job *j, float *sums, int p0, int panels, int tile0, int tiles)
{
    alignas(64) float rows[16 * AP_TILED_WIDE];
    size_t step = (size_t)tiles * 256; /* from panel to panel */
    for (int t = 0; t < tiles; t++) {
        int row = (tile0 + t) * 16, n_row = j->n_tok - row < 16 ? j->n_tok - row : 16;
        for (int p = 0; p < panels; p += AP_TILED_WIDE / 16) {
            float *from = sums + (size_t)p * step + (size_t)t * 256;
            int n_panel = panels - p < AP_TILED_WIDE / 16 ? panels - p : AP_TILED_WIDE / 16;
            int n0 = (p0 + p) * 16,
                n = j->w[0]->rows - n0 < n_panel * 16 ? j->w[0]->rows - n0 : n_panel * 16;
            if (j->n_mat == 2)
                for (int i = 0; i < n_panel; i++) {
                    float *gate = from + (size_t)i * step, *up = gate + (size_t)panels * step;
                    j->m->elem->act_mul(j->act, gate, up, gate, 256);
                }
            ap_tiled_rows(j->m->amx, j->side, from, step, n_panel, rows, AP_TILED_WIDE);
            finish(j, rows, AP_TILED_WIDE, n, n_row, j->y + row * j->ldy + n0);
        }
    }
}

static void product_task(void *arg, int task, int worker)
{
    const job *j = arg;
    alignas(64) float sums[AP_AMX_SUMS];
    (void)worker;
    int tile0 = task % j->n_row_blocks * j->tiles, p0 = task / j->n_row_blocks * j->group;
    int tiles = j->in.n_tile - tile0 < j->tiles ? j->in.n_tile - tile0 : j->tiles;
    int panels = ap_div_up(j->w[0]->rows, AP_PANEL) - p0;
    if (panels > j->group) panels = j->group;
    j->m->amx->product(j->side, j->w, j->n_mat, p0, panels, &j->in, tile0, tiles, sums);
    put(j, sums, p0, panels, tile0, tiles);
}

static void run_piece(const ap_exec *ex, job *j)
{
    int panels = ap_div_up(j->w[0]->rows, AP_PANEL), cols = j->w[0]->cols;
    j->in.n_tile = ap_div_up(j->n_tok, 16);
    j->n_row_blocks = ap_div_up(j->in.n_tile, AP_TILED_UNIT / 16);
    j->tiles = ap_div_up(j->in.n_tile, j->n_row_blocks);
    if (j->tiles > 1) j->tiles = ap_div_up(j->tiles, 2) * 2;
    j->n_row_blocks = ap_div_up(j->in.n_tile, j->tiles);
    j->group = ap_tiled_group(ex, j->tiles, j->n_row_blocks, panels, cols, j->n_mat);
    j->n_groups = ap_div_up(panels, j->group);
    j->n_pack = ap_op_tasks(ex, (int64_t)j->in.n_tile * ap_amx_blocks(cols), AP_AMX_K);
    ap_op_run(ex, pack_task, j, j->n_pack);
    ap_op_run(ex, product_task, j, j->n_row_blocks * j->n_groups);
}

#define STACK_BYTES 65536 /* 16 rows of 2048 inputs */

/* All rows, in pieces of nearly equal numbers of tiles. False if there is no room for one. */
static bool run(const ap_exec *ex, const job *all)
{
    alignas(64) uint8_t stack[STACK_BYTES];
    job j = *all;
    int tiles = ap_div_up(all->n_tok, 16);
    size_t each = ap_amx_row_bytes(j.w[0]->cols), fit = ex->inputs ? ex->input_bytes / each : 0;
    j.in = (ap_amx_in){.at = ex->inputs, .cols = j.w[0]->cols};
    if (fit < (size_t)tiles && STACK_BYTES / each > fit) {
        fit = STACK_BYTES / each;
        j.in.at = stack;
    }
    if (fit == 0) return false;
    int pieces = fit < (size_t)tiles ? ap_div_up(tiles, (int)fit) : 1,
        rows = ap_div_up(tiles, pieces) * 16;
    for (int t = 0; t < all->n_tok; t += rows) {
        j.x = all->x + t * all->ldx;
        j.y = all->y + t * all->ldy;
        j.n_tok = all->n_tok - t < rows ? all->n_tok - t : rows;
        run_piece(ex, &j);
    }
    return true;
}

bool ap_tiled_matmul(const ap_exec *ex, const ap_matmul_args *a)
{
    ap_amx_side side = ap_tiled_side(ex, &a->w, 1, a->n_tok);
    if (side == AP_AMX_NONE) return false;
    job j = {.m = ex->k->impl,
             .side = side,
             .w = {a->w},
             .x = a->x,
             .y = a->y,
             .ldx = a->ldx,
             .ldy = a->ldy,
             .n_mat = 1,
             .n_tok = a->n_tok,
             .accumulate = a->accumulate,
             .softcap = a->softcap};
    return run(ex, &j);
}

bool ap_tiled_glu(const ap_exec *ex, const ap_glu_args *a)
{
    const ap_mat *const w[2] = {a->gate, a->up};
    ap_amx_side side = ap_tiled_side(ex, w, 2, a->n_tok);
    if (side == AP_AMX_NONE) return false;
    job j = {.m = ex->k->impl,
             .side = side,
             .w = {a->gate, a->up},
             .x = a->x,
             .y = a->y,
             .ldx = a->ldx,
             .ldy = a->ldy,
             .n_mat = 2,
             .n_tok = a->n_tok,
             .act = a->act};
    return run(ex, &j);
}
