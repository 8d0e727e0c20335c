/* ops_attn_near.c - attention to a row itself and those right before it. A few keys a query: nothing is worth a tile. */
#include <math.h>
#include <string.h>

#include "kern/cpu/micro/micro_elem.h"
#include "kern/cpu/micro/micro_recur.h"
#include "kern/cpu/ops/ops.h"
#include "kern/cpu/ops/ops_state.h"

typedef struct near_job {
    const ap_attn_near_args *a;
    const ap_micro *m;
    int n_tasks;
} near_job;

/* p = softmax without its division; returns what to multiply by. */
static float weigh(const ap_micro_elem *m, float cap, float *p, int n)
{
    float top = -INFINITY, sum = 0;
    m->softcap(p, cap, n);
    for (int j = 0; j < n; j++) top = p[j] > top ? p[j] : top;
    m->exp_less(p, top, p, n);
    for (int j = 0; j < n; j++) sum = sum + p[j];
    return 1.0f / sum;
}

static void near_head(const near_job *job, int64_t t, int h)
{
    const ap_attn_near_args *a = job->a;
    int D = a->head_dim;
    int64_t head = (int64_t)h * D, have = t + a->n_past + 1;
    int n = have < a->reach ? (int)have : a->reach;
    const float *q = a->q + t * a->ldq + head, *k = a->k + t * a->ldkv + head;
    const float *v = a->v + t * a->ldkv + head, *distant = a->distant + head;
    float p[AP_NEAR_MAX], *out = a->out + t * a->ldout + head;
    for (int j = 0; j < n; j++)
        p[j] = job->m->recur->dot(q, k - j * a->ldkv, D) +
               job->m->recur->dot(q, distant + (int64_t)j * a->n_head * D, D);
    float r = weigh(job->m->elem, a->cap, p, n);
    memset(out, 0, (size_t)D * sizeof *out);
    for (int j = 0; j < n; j++) job->m->elem->add_scaled(out, p[j], v - j * a->ldkv, D);
    job->m->elem->scale(out, r, NULL, out, D);
}

static void near_task(void *arg, int task, int worker)
{
    const near_job *j = arg;
    (void)worker;
    int64_t end = ap_op_first(j->a->n_tok, task + 1, j->n_tasks);
    for (int64_t t = ap_op_first(j->a->n_tok, task, j->n_tasks); t < end; t++)
        for (int h = 0; h < j->a->n_head; h++) near_head(j, t, h);
}

void ap_cpu_attn_near(const ap_exec *ex, const ap_attn_near_args *a)
{
    int64_t cost = (int64_t)a->n_head * a->reach * a->head_dim / 4;
    near_job j = {a, ex->k->impl, ap_op_tasks(ex, a->n_tok, cost)};
    ap_op_run(ex, near_task, &j, j.n_tasks);
}
