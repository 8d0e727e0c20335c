/* ops_qkv.c - head norm, rotation and the KV page write, in one pass over the step.
 *
 * Keys lie transposed, 16 positions to a cache line or part of one, so a task takes the tokens of one sequence
 * whose positions share a line: no two workers write the same line. */
#include <string.h>

#include "kern/cpu/page/kv_page.h"
#include "kern/cpu/micro/micro.h"
#include "kern/cpu/micro/micro_attn.h"
#include "kern/cpu/ops/ops.h"
#include "kern/cpu/ops/ops_state.h"

#define GROUP 16 /* positions of a cache line of K */

typedef struct job {
    const ap_qkv_args *a;
    const ap_micro_attn *m;
} job;

static int n_groups(const ap_seq *s)
{
    return s->n_tok > 0 ? (s->pos + s->n_tok - 1) / GROUP - s->pos / GROUP + 1 : 0;
}

/* A head x f32 [D] to out, normed or (w and norm off) as it is, and zeros up to the D of pages; out may be x. */
static void take(const job *j, const float *x, const float *w, bool norm, float *out)
{
    size_t D = (size_t)j->a->head_dim, page = (size_t)ap_qkv_page_dim(j->a);
    if (norm)
        j->m->scale(x, w, j->m->rms(x, j->a->head_dim, j->a->eps), j->a->head_dim, out);
    else if (out != x)
        memmove(out, x, D * sizeof *out);
    memset(out + D, 0, (page - D) * sizeof *out);
}

static void rotate(const job *j, float *x, int t)
{
    const ap_qkv_args *a = j->a;
    size_t at = (size_t)t * (size_t)a->n_angle;
    j->m->rotate(x, x + a->pair_offset, a->cos + at, a->sin + at, a->n_angle);
}

static void query(const job *j, int t)
{
    const ap_qkv_args *a = j->a;
    size_t D = (size_t)ap_qkv_page_dim(a);
    for (int h = 0; h < a->n_head; h++) {
        float *out = a->q_out + ((size_t)t * (size_t)a->n_head + (size_t)h) * D;
        take(j, a->q + t * a->ldq + h * a->q_head_stride, a->q_norm, a->q_norm != NULL, out);
        rotate(j, out, t);
    }
}

static void key_value(const job *j, const ap_seq *s, int t)
{
    const ap_qkv_args *a = j->a;
    const int32_t *page = ap_kv_pages(&a->kv, s);
    int D = ap_qkv_page_dim(a), pos = s->pos + (t - s->begin), slot = pos % AP_PAGE;
    float x[AP_HEAD_MAX];
    for (int g = 0; g < a->n_kv_head; g++) {
        ap_kv_head at = ap_kv_head_at(&a->kv, page[pos / AP_PAGE], a->n_kv_head, D, g);
        take(j, a->k + t * a->ldk + (int64_t)g * a->head_dim, a->k_norm, a->k_norm != NULL, x);
        rotate(j, x, t);
        ap_kv_put_key(a->kv.type, &at, x, D, slot);
        take(j, a->v + t * a->ldv + (int64_t)g * a->head_dim, NULL, a->v_norm, x);
        ap_kv_put_value(a->kv.type, &at, x, D, slot);
    }
}

static void qkv_task(void *arg, int task, int worker)
{
    const job *j = arg;
    const ap_seq *s = j->a->kv.batch->seq;
    (void)worker;
    while (task >= n_groups(s)) task -= n_groups(s++);
    int first = (s->pos / GROUP + task) * GROUP; /* position */
    for (int pos = first < s->pos ? s->pos : first; pos < first + GROUP && pos < s->pos + s->n_tok;
         pos++) {
        int t = s->begin + (pos - s->pos);
        if (!j->a->q_only) key_value(j, s, t);
        query(j, t);
    }
}

void ap_cpu_qkv(const ap_exec *ex, const ap_qkv_args *a)
{
    job j = {a, ((const ap_micro *)ex->k->impl)->attn};
    int n_task = 0;
    for (int i = 0; i < a->kv.batch->n_seq; i++) n_task += n_groups(&a->kv.batch->seq[i]);
    ap_op_run(ex, qkv_task, &j, n_task);
}
