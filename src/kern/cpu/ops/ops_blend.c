#include "kern/cpu/ops/ops.h"

typedef struct blend_job {
    const ap_blend_args *a;
    int n_tasks;
} blend_job;

static void blend_row(const ap_blend_args *a, int t)
{
    const int32_t *row = a->row + (int64_t)t * a->n_tap;
    const float *weight = a->weight + (int64_t)t * a->n_tap;
    float *out = a->out + t * a->ldout;
    for (int j = 0; j < a->n_tap; j++) {
        const float *x = a->x + row[j] * a->ldx;
        float w = weight[j];
        if (j == 0)
            for (int i = 0; i < a->n; i++) out[i] = w * x[i];
        else
            for (int i = 0; i < a->n; i++) out[i] = out[i] + w * x[i];
    }
}

static void blend_task(void *arg, int task, int worker)
{
    const blend_job *j = arg;
    (void)worker;
    int end = ap_op_first(j->a->rows, task + 1, j->n_tasks);
    for (int t = ap_op_first(j->a->rows, task, j->n_tasks); t < end; t++) blend_row(j->a, t);
}

void ap_cpu_blend(const ap_exec *ex, const ap_blend_args *a)
{
    blend_job j = {a, ap_op_tasks(ex, a->rows, (int64_t)a->n * a->n_tap / 8)};
    ap_op_run(ex, blend_task, &j, j.n_tasks);
}
