#include <math.h>

#include "kern/cpu/micro/micro.h"
#include "kern/cpu/ops/ops.h"

typedef struct norm_job {
    const ap_layer_norm_args *a;
    int n_tasks;
} norm_job;

static float mean(const float *x, int n)
{
    float s[16] = {0};
    int i = 0;
    for (; i + 16 <= n; i += 16)
        for (int j = 0; j < 16; j++) s[j] = s[j] + x[i + j];
    for (int j = 0; i < n; i++, j++) s[j] = s[j] + x[i];
    return ap_sum16(s) / (float)n;
}

static float variance(const float *x, float m, int n)
{
    float s[16] = {0};
    int i = 0;
    for (; i + 16 <= n; i += 16)
        for (int j = 0; j < 16; j++) {
            float d = x[i + j] - m;
            s[j] = s[j] + d * d;
        }
    for (int j = 0; i < n; i++, j++) {
        float d = x[i] - m;
        s[j] = s[j] + d * d;
    }
    return ap_sum16(s) / (float)n;
}

static void norm_row(const ap_layer_norm_args *a, const float *x, float *out)
{
    float m = mean(x, a->n), r = 1.0f / sqrtf(variance(x, m, a->n) + a->eps);
    for (int i = 0; i < a->n; i++) {
        float y = ((x[i] - m) * r) * a->weight[i];
        out[i] = a->bias ? y + a->bias[i] : y;
    }
}

static void norm_task(void *arg, int task, int worker)
{
    const norm_job *j = arg;
    const ap_layer_norm_args *a = j->a;
    (void)worker;
    int end = ap_op_first(a->rows, task + 1, j->n_tasks);
    for (int t = ap_op_first(a->rows, task, j->n_tasks); t < end; t++)
        norm_row(a, a->x + t * a->ldx, a->out + t * a->ldout);
}

void ap_cpu_layer_norm(const ap_exec *ex, const ap_layer_norm_args *a)
{
    norm_job j = {a, ap_op_tasks(ex, a->rows, a->n / 4)};
    ap_op_run(ex, norm_task, &j, j.n_tasks);
}
