#include <stdalign.h>
#include <string.h>

#include "kern/cpu/micro_elem.h"
#include "kern/cpu/ops.h"
#include "kern/cpu/product.h"

typedef struct matmul_job {
    const ap_micro *m;
    const ap_matmul_args *a;
    ap_split split;
} matmul_job;

static void finish(const ap_micro_elem *m, const ap_matmul_args *a, const float *sum, float *y,
                   int n)
{
    if (a->accumulate)
        m->add(y, sum, n);
    else
        memcpy(y, sum, (size_t)n * sizeof(float));
    if (a->softcap != 0.0f) m->softcap(y, a->softcap, n);
}

static void matmul_task(void *arg, int task, int worker)
{
    const matmul_job *j = arg;
    const ap_matmul_args *a = j->a;
    const ap_split *s = &j->split;
    alignas(64) float tile[AP_TASK_FLOATS];
    const float *x[AP_TASK_ROWS] = {0};
    (void)worker;

    int t0 = task % s->n_row_blocks * s->row_block, p0 = task / s->n_row_blocks * s->group;
    int rows = a->n_tok - t0 < s->row_block ? a->n_tok - t0 : s->row_block;
    int panels = ap_n_panels(a->w) - p0 < s->group ? ap_n_panels(a->w) - p0 : s->group;
    int ld = panels * AP_PANEL, n0 = p0 * AP_PANEL;
    int n = a->w->rows - n0 < ld ? a->w->rows - n0 : ld;
    for (int r = 0; r < rows; r++) x[r] = a->x + (t0 + r) * a->ldx;
    ap_product(j->m, &a->w, 1, p0, panels, x, rows, tile, ld);
    for (int r = 0; r < rows; r++)
        finish(j->m->elem, a, tile + (size_t)r * ld, a->y + (t0 + r) * a->ldy + n0, n);
}

void ap_cpu_matmul(const ap_kern *k, const ap_matmul_args *a)
{
    matmul_job j = {.m = k->impl, .a = a};
    j.split = ap_split_product(k, a->n_tok, ap_n_panels(a->w), a->w->cols, 1, 1);
    ap_op_run(k, matmul_task, &j, j.split.n_tasks);
}
