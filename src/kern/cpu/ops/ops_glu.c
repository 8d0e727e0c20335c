#include <stdalign.h>

#include "kern/cpu/micro/micro_elem.h"
#include "kern/cpu/ops/ops_product.h"
#include "kern/cpu/product/tiled.h"

static void glu_task(void *arg, int task, int worker)
{
    const ap_glu_job *j = arg;
    const ap_glu_args *a = &j->a;
    const ap_split *s = &j->split;
    alignas(64) float tile[AP_TASK_FLOATS];
    const float *x[AP_TASK_ROWS] = {0};
    const ap_qx *q[AP_TASK_ROWS] = {0};
    (void)worker;

    int t0 = task % s->n_row_blocks * s->row_block, p0 = task / s->n_row_blocks * s->group;
    int rows = a->n_tok - t0 < s->row_block ? a->n_tok - t0 : s->row_block;
    int panels = ap_n_panels(a->gate) - p0 < s->group ? ap_n_panels(a->gate) - p0 : s->group;
    int wide = panels * AP_PANEL, n0 = p0 * AP_PANEL;
    int n = a->gate->rows - n0 < wide ? a->gate->rows - n0 : wide;
    const ap_mat *w[2] = {a->gate, a->up};
    for (int r = 0; r < rows; r++) {
        x[r] = a->x + (t0 + r) * a->ldx;
        if (j->inputs) q[r] = j->inputs + (size_t)(t0 + r) * (size_t)(a->gate->cols / AP_Q_BLOCK);
    }
    ap_product(j->m, w, 2, p0, panels, (ap_rows){x, j->inputs ? q : NULL, j->qdot}, rows, tile,
               2 * wide);
    for (int r = 0; r < rows; r++) {
        const float *gate = tile + (size_t)r * 2 * wide;
        j->m->elem->act_mul(a->act, gate, gate + wide, a->y + (t0 + r) * a->ldy + n0, n);
    }
}

ap_tasks ap_glu_tasks(const ap_exec *ex, const ap_glu_args *a, const ap_qx *inputs, ap_glu_job *j)
{
    *j = (ap_glu_job){.m = ex->k->impl, .a = *a, .qdot = ap_qdot_of(ex), .inputs = inputs};
    j->split = ap_split_product(ex, a->n_tok, ap_n_panels(a->gate), a->gate->cols, 2, 1, inputs);
    return (ap_tasks){glu_task, j, j->split.n_tasks};
}

static void run(const ap_exec *ex, const ap_glu_args *a, const ap_qx *inputs)
{
    ap_glu_job j;
    ap_tasks t = ap_glu_tasks(ex, a, inputs, &j);
    ap_op_run(ex, t.fn, t.arg, t.n);
}

/* As in matmul. */
static void run_integer(const ap_exec *ex, const ap_glu_args *a)
{
    alignas(64) ap_qx stack[AP_INPUT_STACK / sizeof(ap_qx)];
    ap_input_room room = ap_find_room(ex, a->gate->cols, a->n_tok, stack);
    for (int t = 0; t < a->n_tok; t += room.rows) {
        ap_glu_args part = *a;
        part.x += t * a->ldx;
        part.y += t * a->ldy;
        part.n_tok = a->n_tok - t < room.rows ? a->n_tok - t : room.rows;
        ap_quantise(ex, part.x, a->ldx, part.n_tok, a->gate->cols, room.at);
        run(ex, &part, room.at);
    }
}

void ap_cpu_glu(const ap_exec *ex, const ap_glu_args *a)
{
    if (ap_tiled_glu(ex, a)) return;
    if (ap_meets_integers(ex, a->gate) || ap_meets_integers(ex, a->up))
        run_integer(ex, a);
    else
        run(ex, a, NULL);
}
