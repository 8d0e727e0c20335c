#include <math.h>

#include "kern/cpu/micro/micro_elem.h"
#include "kern/cpu/ops/ops.h"

typedef struct elem_job {
    const ap_micro_elem *m;
    const ap_elem_args *a;
    int n_tasks;
} elem_job;

static void mul(float *y, const float *x, int n)
{
    for (int i = 0; i < n; i++) y[i] = y[i] * x[i];
}

static void gelu_erf(float *y, int n)
{
    const double root_half = 0.70710678118654752440;
    for (int i = 0; i < n; i++)
        y[i] = (float)(0.5 * (double)y[i] * erfc(-(double)y[i] * root_half));
}

static void clamp(float *y, const float *x, float lo, float hi, int n)
{
    for (int i = 0; i < n; i++) {
        float v = x[i] < lo ? lo : x[i];
        y[i] = v > hi ? hi : v;
    }
}

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
        case AP_ELEM_MUL:
            mul(y, x, a->n);
            break;
        case AP_ELEM_SILU:
            m->act(AP_ACT_SILU, y, a->n);
            break;
        case AP_ELEM_GELU:
            m->add(y, x, a->n);
            m->act(AP_ACT_GELU_TANH, y, a->n);
            break;
        case AP_ELEM_GELU_ERF:
            m->add(y, x, a->n);
            gelu_erf(y, a->n);
            break;
        case AP_ELEM_CLAMP:
            clamp(y, x, a->lo, a->hi, a->n);
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

static bool costs_exp(ap_elem op)
{
    return op == AP_ELEM_MUL_SIGMOID || op == AP_ELEM_GELU_MUL || op == AP_ELEM_SILU ||
           op == AP_ELEM_GELU || op == AP_ELEM_GELU_ERF;
}

void ap_cpu_elem(const ap_exec *ex, const ap_elem_args *a)
{
    const ap_micro *m = ex->k->impl;
    int64_t steps = (int64_t)a->n * a->n_block / 16;
    if (costs_exp(a->op)) steps *= 16;
    elem_job j = {m->elem, a, ap_op_tasks(ex, a->rows, steps)};
    ap_op_run(ex, elem_task, &j, j.n_tasks);
}
