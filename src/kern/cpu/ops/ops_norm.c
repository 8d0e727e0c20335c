#include <math.h>

#include "kern/cpu/micro/micro_elem.h"
#include "kern/cpu/ops/ops.h"

typedef struct norm_job {
    const ap_micro_elem *m;
    const ap_norm_args *a;
    int n_tasks;
} norm_job;

static void norm_task(void *arg, int task, int worker)
{
    const norm_job *j = arg;
    const ap_norm_args *a = j->a;
    (void)worker;
    int end = ap_op_first(a->rows, task + 1, j->n_tasks);
    for (int t = ap_op_first(a->rows, task, j->n_tasks); t < end; t++) {
        const float *x = a->x + (a->row ? a->row[t] : t) * a->ldx;
        float *out = a->out + t * a->ldout;
        float r = 1.0f / sqrtf(j->m->sum_sq(x, a->n) / (float)a->n + a->eps);
        if (a->accumulate)
            j->m->scale_add(x, r, a->weight, a->post_scale, out, a->n);
        else
            j->m->scale(x, r, a->weight, out, a->n);
    }
}

void ap_cpu_norm(const ap_exec *ex, const ap_norm_args *a)
{
    const ap_micro *m = ex->k->impl;
    norm_job j = {m->elem, a, ap_op_tasks(ex, a->rows, a->n / 4)};
    ap_op_run(ex, norm_task, &j, j.n_tasks);
}
