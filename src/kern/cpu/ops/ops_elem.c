#include "kern/cpu/micro/micro_elem.h"
#include "kern/cpu/ops/ops.h"

typedef struct elem_job {
    const ap_micro_elem *m;
    const ap_elem_args *a;
    int n_tasks;
} elem_job;

static void elem_row(const ap_micro_elem *m, const ap_elem_args *a, int t)
{
    float gate = a->op == AP_ELEM_ADD_GATED ? ap_sigmoidf(a->gate[t]) : 0.0f;
    for (int b = 0; b < a->n_block; b++) {
        float *y = a->y + t * a->ldy + b * a->y_block;
        const float *x = a->x + t * a->ldx + b * a->x_block;
        switch (a->op) {
        case AP_ELEM_ADD:
            m->add(y, x, a->n);
            break;
        case AP_ELEM_MUL_SIGMOID:
            m->mul_sigmoid(y, x, a->n);
            break;
        case AP_ELEM_ADD_GATED:
            m->add_scaled(y, gate, x, a->n);
            break;
        case AP_ELEM_GELU_MUL:
            m->act_mul(AP_ACT_GELU_TANH, y, x, y, a->n);
            break;
        case AP_ELEM_AVERAGE:
            m->average(y, x, a->scale, a->n);
            break;
        }
    }
}

static void elem_task(void *arg, int task, int worker)
{
    const elem_job *j = arg;
    (void)worker;
    int end = ap_op_first(j->a->rows, task + 1, j->n_tasks);
    for (int t = ap_op_first(j->a->rows, task, j->n_tasks); t < end; t++) elem_row(j->m, j->a, t);
}

void ap_cpu_elem(const ap_exec *ex, const ap_elem_args *a)
{
    const ap_micro *m = ex->k->impl;
    int64_t steps = (int64_t)a->n * a->n_block / 16;
    if (a->op == AP_ELEM_MUL_SIGMOID || a->op == AP_ELEM_GELU_MUL) steps *= 16;
    elem_job j = {m->elem, a, ap_op_tasks(ex, a->rows, steps)};
    ap_op_run(ex, elem_task, &j, j.n_tasks);
}
