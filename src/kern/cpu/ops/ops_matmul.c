#include <stdalign.h>
#include <string.h>

#include "kern/cpu/micro/micro_elem.h"
#include "kern/cpu/ops/ops_product.h"
#include "kern/cpu/product/tiled.h"

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
    const ap_matmul_job *j = arg;
    const ap_matmul_args *a = &j->a;
    const ap_split *s = &j->split;
    alignas(64) float tile[AP_TASK_FLOATS];
    const float *x[AP_TASK_ROWS] = {0};
    const ap_qx *q[AP_TASK_ROWS] = {0};
    (void)worker;

    int t0 = task % s->n_row_blocks * s->row_block, p0 = task / s->n_row_blocks * s->group;
    int rows = a->n_tok - t0 < s->row_block ? a->n_tok - t0 : s->row_block;
    int panels = ap_n_panels(a->w) - p0 < s->group ? ap_n_panels(a->w) - p0 : s->group;
    int ld = panels * AP_PANEL, n0 = p0 * AP_PANEL;
    int n = a->w->rows - n0 < ld ? a->w->rows - n0 : ld;
    for (int r = 0; r < rows; r++) {
        x[r] = a->x + (t0 + r) * a->ldx;
        if (j->inputs) q[r] = j->inputs + (size_t)(t0 + r) * (size_t)(a->w->cols / AP_Q_BLOCK);
    }
    ap_product(j->m, &a->w, 1, p0, panels, (ap_rows){x, j->inputs ? q : NULL, j->qdot}, rows, tile,
               ld);
    for (int r = 0; r < rows; r++)
        finish(j->m->elem, a, tile + (size_t)r * ld, a->y + (t0 + r) * a->ldy + n0, n);
}

ap_tasks ap_matmul_tasks(const ap_exec *ex, const ap_matmul_args *a, const ap_qx *inputs,
                         ap_matmul_job *j)
{
    *j = (ap_matmul_job){.m = ex->k->impl, .a = *a, .qdot = ap_qdot_of(ex), .inputs = inputs};
    j->split = ap_split_product(ex, a->n_tok, ap_n_panels(a->w), a->w->cols, 1, 1, inputs);
    return (ap_tasks){matmul_task, j, j->split.n_tasks};
}

static void run(const ap_exec *ex, const ap_matmul_args *a, const ap_qx *inputs)
{
    ap_matmul_job j;
    ap_tasks t = ap_matmul_tasks(ex, a, inputs, &j);
    ap_op_run(ex, t.fn, t.arg, t.n);
}

/* Inputs go to integer form in pieces that fit the room there is. */
static void run_integer(const ap_exec *ex, const ap_matmul_args *a)
{
    alignas(64) ap_qx stack[AP_INPUT_STACK / sizeof(ap_qx)];
    ap_input_room room = ap_find_room(ex, a->w->cols, a->n_tok, stack);
    for (int t = 0; t < a->n_tok; t += room.rows) {
        ap_matmul_args part = *a;
        part.x += t * a->ldx;
        part.y += t * a->ldy;
        part.n_tok = a->n_tok - t < room.rows ? a->n_tok - t : room.rows;
        ap_quantise(ex, part.x, a->ldx, part.n_tok, a->w->cols, room.at);
        run(ex, &part, room.at);
    }
}

void ap_cpu_matmul(const ap_exec *ex, const ap_matmul_args *a)
{
    if (ap_tiled_matmul(ex, a)) return;
    if (ap_meets_integers(ex, a->w))
        run_integer(ex, a);
    else
        run(ex, a, NULL);
}
