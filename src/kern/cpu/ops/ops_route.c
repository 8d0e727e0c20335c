#include <float.h>
#include <math.h>

#include "kern/cpu/micro/micro_elem.h"
#include "kern/cpu/ops/ops.h"

#define CHUNK 256 /* exponentials at a time */

typedef struct route_job {
    const ap_micro_elem *m;
    const ap_route_args *a;
    int n_tasks;
} route_job;

/* The n_used largest of l [n_expert] with their logits, largest first, ties by index. A NaN counts
 * as -inf, so that the ids are distinct and in range whatever came in. Returns false if there was one, or
 * plus infinity: a broken router, which must not go unnoticed. */
static bool choose(const float *l, int n_expert, int n_used, int32_t *ids, float *top)
{
    int n = 0;
    bool good = true;
    for (int e = 0; e < n_expert; e++) {
        good &= l[e] <= FLT_MAX; /* false for NaN too */
        float v = l[e] == l[e] ? l[e] : -INFINITY;
        if (n == n_used && !(v > top[n - 1])) continue;
        int at = n < n_used ? n++ : n - 1;
        for (; at > 0 && v > top[at - 1]; at--) {
            top[at] = top[at - 1];
            ids[at] = ids[at - 1];
        }
        top[at] = v;
        ids[at] = e;
    }
    return good;
}

static void route_row(const ap_micro_elem *m, const ap_route_args *a, int t)
{
    const float *l = a->logits + (size_t)t * a->n_expert;
    int32_t *ids = a->ids + (size_t)t * a->n_used;
    float *w = a->weights + (size_t)t * a->n_used, sum = 0.0f;
    bool good = choose(l, a->n_expert, a->n_used, ids, w);
    float max = w[0]; /* the largest of all is the first chosen */
    m->exp_less(w, max, w, a->n_used);
    if (a->norm) {
        for (int j = 0; j < a->n_used; j++) sum = sum + w[j];
    } else {
        float p[CHUNK];
        for (int e = 0; e < a->n_expert; e += CHUNK) {
            int n = a->n_expert - e < CHUNK ? a->n_expert - e : CHUNK;
            m->exp_less(l + e, max, p, n);
            for (int i = 0; i < n; i++) sum = sum + p[i];
        }
    }
    if (!good) sum = NAN;
    for (int j = 0; j < a->n_used; j++) {
        w[j] = w[j] / sum;
        if (a->per_expert_scale) w[j] = w[j] * a->per_expert_scale[ids[j]];
    }
}

static void route_task(void *arg, int task, int worker)
{
    const route_job *j = arg;
    (void)worker;
    int end = ap_op_first(j->a->n_tok, task + 1, j->n_tasks);
    for (int t = ap_op_first(j->a->n_tok, task, j->n_tasks); t < end; t++) route_row(j->m, j->a, t);
}

void ap_cpu_route(const ap_exec *ex, const ap_route_args *a)
{
    const ap_micro *m = ex->k->impl;
    route_job j = {m->elem, a, ap_op_tasks(ex, a->n_tok, (int64_t)a->n_expert * 4)};
    ap_op_run(ex, route_task, &j, j.n_tasks);
}
