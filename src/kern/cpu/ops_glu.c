#include <stdalign.h>

#include "kern/cpu/micro_elem.h"
#include "kern/cpu/ops.h"
#include "kern/cpu/product.h"

typedef struct glu_job {
    const ap_micro *m;
    const ap_glu_args *a;
    ap_split split;
} glu_job;

static void glu_task(void *arg, int task, int worker)
{
    const glu_job *j = arg;
    const ap_glu_args *a = j->a;
    const ap_split *s = &j->split;
    alignas(64) float tile[AP_TASK_FLOATS];
    const float *x[AP_TASK_ROWS] = {0};
    (void)worker;

    int t0 = task % s->n_row_blocks * s->row_block, p0 = task / s->n_row_blocks * s->group;
    int rows = a->n_tok - t0 < s->row_block ? a->n_tok - t0 : s->row_block;
    int panels = ap_n_panels(a->gate) - p0 < s->group ? ap_n_panels(a->gate) - p0 : s->group;
    int wide = panels * AP_PANEL, n0 = p0 * AP_PANEL;
    int n = a->gate->rows - n0 < wide ? a->gate->rows - n0 : wide;
    const ap_mat *w[2] = {a->gate, a->up};
    for (int r = 0; r < rows; r++) x[r] = a->x + (t0 + r) * a->ldx;
    ap_product(j->m, w, 2, p0, panels, x, rows, tile, 2 * wide);
    for (int r = 0; r < rows; r++) {
        const float *gate = tile + (size_t)r * 2 * wide;
        j->m->elem->act_mul(a->act, gate, gate + wide, a->y + (t0 + r) * a->ldy + n0, n);
    }
}

void ap_cpu_glu(const ap_kern *k, const ap_glu_args *a)
{
    glu_job j = {.m = k->impl, .a = a};
    j.split = ap_split_product(k, a->n_tok, ap_n_panels(a->gate), a->gate->cols, 2, 1);
    ap_op_run(k, glu_task, &j, j.split.n_tasks);
}
