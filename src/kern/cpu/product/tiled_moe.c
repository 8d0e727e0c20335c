#include <stdalign.h>
#include <string.h>

#include "kern/cpu/micro/micro_elem.h"
#include "kern/cpu/ops/ops.h"
#include "kern/cpu/product/tiled.h"
#include "kern/cpu/product/tiled_task.h"

bool ap_tiled_expert(const ap_exec *ex, const ap_expert *e, int rows)
{
    const ap_mat *const glu[2] = {&e->gate, &e->up}, *const down[1] = {&e->down};
    return ap_tiled_side(ex, glu, 2, rows) != AP_AMX_NONE &&
           ap_tiled_side(ex, down, 1, rows) != AP_AMX_NONE;
}

size_t ap_tiled_moe_padding(const ap_exec *ex, size_t pairs, int n_expert, int cols)
{
    const ap_micro *m = ex->k->impl;
    if (!m->amx || ex->precision != APUS_PRECISION_FAST) return 0;
    /* an expert has less than 16 rows of padding, and at least AP_TILED_ROWS rows */
    size_t padded =
               pairs / AP_TILED_ROWS < (size_t)n_expert ? pairs / AP_TILED_ROWS : (size_t)n_expert,
           bytes;
    return ap_mul_size(padded + 1, ap_amx_row_bytes(cols), &bytes) ? bytes : SIZE_MAX / 8;
}

size_t ap_tiled_moe_bytes(const ap_exec *ex, size_t pairs, int n_expert, int cols)
{
    size_t padding = ap_tiled_moe_padding(ex, pairs, n_expert, cols), bytes;
    if (!padding) return 0; /* no tiles */
    if (!ap_mul_size(pairs / 16, ap_amx_row_bytes(cols), &bytes) || bytes > SIZE_MAX / 8)
        bytes = SIZE_MAX / 8;
    return bytes + padding;
}

static ap_amx_side side_of(const ap_tiled_moe *j, const ap_mat *w)
{
    const ap_micro *m = j->ex->k->impl;
    return m->amx->side(w);
}

static ap_amx_in inputs(const ap_moe_unit *u, uint8_t *base, int cols)
{
    return (ap_amx_in){.at = base + (size_t)u->tile * ap_amx_row_bytes(cols),
                       .n_tile = ap_div_up(u->rows, 16),
                       .cols = cols};
}

/* Packs the inputs of a unit's rows. */
static void pack_task(void *arg, int task, int worker)
{
    const ap_tiled_moe *j = arg;
    const ap_micro *m = j->ex->k->impl;
    const ap_moe_unit *u = &j->units[task];
    ap_amx_in in = inputs(u, j->x, j->hidden);
    ap_amx_side side = side_of(j, &j->expert[u->expert].gate);
    (void)worker;
    for (int tile = 0; tile < in.n_tile; tile++) {
        const float *x[16];
        int rows = u->rows - tile * 16 < 16 ? u->rows - tile * 16 : 16;
        for (int r = 0; r < rows; r++)
            x[r] = j->a->x + j->tok_of[u->slot + tile * 16 + r] * j->a->ldx;
        for (int b = 0; b < ap_amx_blocks(in.cols); b++)
            ap_tiled_pack(m->amx, side, &in, b, tile, x, rows);
    }
}

void ap_tiled_moe_begin(ap_tiled_moe *j)
{
    j->widest = 1;
    for (int i = 0; i < j->n_unit; i++)
        if (ap_div_up(j->units[i].rows, 16) > j->widest)
            j->widest = ap_div_up(j->units[i].rows, 16);
    int glu = ap_div_up(j->ffn, AP_PANEL);
    j->glu_group = ap_tiled_group(j->ex, j->widest, j->n_unit, glu, j->hidden, 2);
    j->glu_groups = ap_div_up(glu, j->glu_group);
    ap_op_run(j->ex, pack_task, j, j->n_unit);
}

void ap_tiled_moe_slice(ap_tiled_moe *j, int panel, int n_panel)
{
    j->slice = panel;
    j->n_slice = n_panel;
    j->down_group = ap_tiled_group(j->ex, j->widest, j->n_unit, n_panel, j->ffn, 1);
    j->down_groups = ap_div_up(n_panel, j->down_group);
}

/* Activated sums of panels p and, if there is one, p + 1 as inputs of the second product. */
static void put_mid(const ap_micro *m, ap_amx_side from, ap_amx_side to, const float *a,
                    const float *b, const ap_amx_in *mid, int panel, int tile)
{
    alignas(64) float turned[2][256];
    int step = panel / 2, block = step / AP_AMX_STEPS;
    if (from != to) {
        m->amx->turn(a, turned[0], 16);
        if (b) m->amx->turn(b, turned[1], 16);
        a = turned[0];
        if (b) b = turned[1];
    }
    m->amx->pack_sums(to, a, b,
                      ap_amx_at(mid, block, tile) + (size_t)(step % AP_AMX_STEPS) * AP_AMX_TILE);
}

void ap_tiled_moe_glu(const ap_tiled_moe *j, int task)
{
    const ap_micro *m = j->ex->k->impl;
    const ap_moe_unit *u = &j->units[task / j->glu_groups];
    const ap_expert *e = &j->expert[u->expert];
    const ap_mat *const w[2] = {&e->gate, &e->up};
    alignas(64) float sums[AP_AMX_SUMS];
    ap_amx_in in = inputs(u, j->x, j->hidden), mid = inputs(u, j->mid, j->ffn);
    ap_amx_side from = side_of(j, &e->gate), to = side_of(j, &e->down);
    int p0 = task % j->glu_groups * j->glu_group, left = ap_div_up(j->ffn, AP_PANEL) - p0;
    int panels = left < j->glu_group ? left : j->glu_group;
    size_t step = (size_t)in.n_tile * 256;
    m->amx->product(from, w, 2, p0, panels, &in, 0, in.n_tile, sums);
    /* rows behind the last one: gate and up are 0 there, and so is what follows */
    m->elem->act_mul(j->a->act, sums, sums + (size_t)panels * step, sums, panels * in.n_tile * 256);
    for (int p = 0; p < panels; p += 2)
        for (int t = 0; t < in.n_tile; t++) {
            const float *a = sums + (size_t)p * step + t * 256;
            put_mid(m, from, to, a, p + 1 < panels ? a + step : NULL, &mid, p0 + p, t);
        }
}

void ap_tiled_moe_down(const ap_tiled_moe *j, int task)
{
    const ap_micro *m = j->ex->k->impl;
    const ap_moe_unit *u = &j->units[task / j->down_groups];
    const ap_mat *w = &j->expert[u->expert].down;
    alignas(64) float sums[AP_AMX_SUMS];
    alignas(64) float rows[16 * AP_TILED_WIDE];
    ap_amx_in in = inputs(u, j->mid, j->ffn);
    ap_amx_side side = side_of(j, w);
    int p0 = task % j->down_groups * j->down_group, left = j->n_slice - p0;
    int panels = left < j->down_group ? left : j->down_group;
    size_t step = (size_t)in.n_tile * 256;
    m->amx->product(side, &w, 1, j->slice + p0, panels, &in, 0, in.n_tile, sums);
    for (int t = 0; t < in.n_tile; t++) {
        int n_row = u->rows - t * 16 < 16 ? u->rows - t * 16 : 16;
        for (int p = 0; p < panels; p += AP_TILED_WIDE / 16) {
            int n_panel = panels - p < AP_TILED_WIDE / 16 ? panels - p : AP_TILED_WIDE / 16;
            ap_tiled_rows(m->amx, side, sums + (size_t)p * step + (size_t)t * 256, step, n_panel,
                          rows, AP_TILED_WIDE);
            /* rows of `out` are padded to whole panels */
            for (int r = 0; r < n_row; r++)
                memcpy(j->out + (size_t)(u->slot + t * 16 + r) * j->ld_out + (p0 + p) * 16,
                       rows + r * AP_TILED_WIDE, (size_t)n_panel * 64);
        }
    }
}
