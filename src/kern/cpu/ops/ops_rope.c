/* ops_rope.c - cos and sin tables of a step. */
#include <math.h>

#include "kern/cpu/ops/ops.h"
#include "kern/cpu/ops/ops_state.h"

#define TASK_TOKENS 8

static void rope_task(void *arg, int task, int worker)
{
    const ap_rope_args *a = arg;
    int end = task * TASK_TOKENS + TASK_TOKENS;
    (void)worker;
    for (int t = task * TASK_TOKENS; t < end && t < a->n_tok; t++) {
        float *cos_row = a->cos + (size_t)t * (size_t)a->n_angle;
        float *sin_row = a->sin + (size_t)t * (size_t)a->n_angle;
        for (int i = 0; i < a->n_angle; i++) {
            /* The rounded product is the definition: models were trained with it. */
            int axis = a->axis ? a->axis[i] : 0;
            float angle = (float)a->pos[axis * a->n_tok + t] * a->inv_freq[i];
            cos_row[i] = (float)cos((double)angle) * a->attention_factor;
            sin_row[i] = (float)sin((double)angle) * a->attention_factor;
        }
    }
}

void ap_cpu_rope(const ap_exec *ex, const ap_rope_args *a)
{
    int n_task = (a->n_tok + TASK_TOKENS - 1) / TASK_TOKENS;
    ap_op_run(ex, rope_task, (void *)a, n_task);
}
