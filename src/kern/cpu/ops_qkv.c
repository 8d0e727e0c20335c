/* ops_qkv.c - head norm, rotation and the KV page write, in one pass over the step.
 *
 * Keys lie transposed, 16 positions to a cache line, so a task takes the tokens of one sequence
 * whose positions share a line: no two workers write the same line. */
#include <string.h>

#include "kern/cpu/micro.h"
#include "kern/cpu/micro_attn.h"
#include "kern/cpu/ops.h"
#include "kern/cpu/ops_state.h"

#define GROUP 16 /* positions of a cache line of K */
#define PIECE 64 /* dims of a key between norm and scatter */

typedef struct job {
    const ap_qkv_args *a;
    const ap_micro_attn *m;
} job;

static int n_groups(const ap_kv_seq *s)
{
    return s->n_tok > 0 ? (s->pos + s->n_tok - 1) / GROUP - s->pos / GROUP + 1 : 0;
}

/* Dims [from, to) of a head, normed (r, w) or as they are (w and norm off), to out. */
static void take(const ap_micro_attn *m, const float *x, const float *w, float r, bool norm,
                 int from, int to, float *out)
{
    if (norm)
        m->scale(x + from, w + from, r, to - from, out);
    else
        memmove(out, x + from, (size_t)(to - from) * sizeof *out); /* q_out may be q */
}

static void query(const job *j, int t)
{
    const ap_qkv_args *a = j->a;
    int D = a->head_dim;
    const float *cos = a->cos + (size_t)t * (size_t)a->n_angle;
    const float *sin = a->sin + (size_t)t * (size_t)a->n_angle;
    for (int h = 0; h < a->n_head; h++) {
        const float *x = a->q + t * a->ldq + h * a->q_head_stride;
        float *out = a->q_out + ((size_t)t * (size_t)a->n_head + (size_t)h) * (size_t)D;
        bool norm = a->q_norm != NULL;
        take(j->m, x, a->q_norm, norm ? j->m->rms(x, D, a->eps) : 1, norm, 0, D, out);
        j->m->rotate(out, out + a->pair_offset, cos, sin, a->n_angle);
    }
}

static void scatter(const float *x, int n, float *out)
{
    for (int i = 0; i < n; i++) out[(size_t)i * AP_PAGE] = x[i];
}

/* One key head of one token to its column `out` of the page. */
static void key(const job *j, const float *x, const float *cos, const float *sin, float *out)
{
    const ap_qkv_args *a = j->a;
    bool norm = a->k_norm != NULL;
    float r = norm ? j->m->rms(x, a->head_dim, a->eps) : 1, lo[PIECE], hi[PIECE];
    int off = a->pair_offset;
    for (int i = 0; i < a->n_angle; i += PIECE) {
        int n = a->n_angle - i < PIECE ? a->n_angle - i : PIECE;
        take(j->m, x, a->k_norm, r, norm, i, i + n, lo);
        take(j->m, x, a->k_norm, r, norm, off + i, off + i + n, hi);
        j->m->rotate(lo, hi, cos + i, sin + i, n);
        scatter(lo, n, out + (size_t)i * AP_PAGE);
        scatter(hi, n, out + (size_t)(off + i) * AP_PAGE);
    }
    for (int part = 0; part < 2; part++) { /* what lies between and behind the pairs passes */
        int end = part == 0 ? off : a->head_dim;
        for (int i = part == 0 ? a->n_angle : off + a->n_angle; i < end; i += PIECE) {
            int n = end - i < PIECE ? end - i : PIECE;
            take(j->m, x, a->k_norm, r, norm, i, i + n, lo);
            scatter(lo, n, out + (size_t)i * AP_PAGE);
        }
    }
}

static void key_value(const job *j, const ap_kv_seq *s, int t)
{
    const ap_qkv_args *a = j->a;
    size_t D = (size_t)a->head_dim, G = (size_t)a->n_kv_head;
    int pos = s->pos + (t - s->begin), slot = pos % AP_PAGE;
    float *page = (float *)(void *)(a->kv.base + (size_t)s->page[pos / AP_PAGE] * a->kv.page_bytes +
                                    a->kv.layer_offset);
    for (size_t g = 0; g < G; g++) {
        const float *k = a->k + t * a->ldk + (int64_t)(g * D);
        const float *v = a->v + t * a->ldv + (int64_t)(g * D);
        float *out = page + (G * AP_PAGE + g * AP_PAGE + (size_t)slot) * D;
        key(j, k, a->cos + (size_t)t * (size_t)a->n_angle, a->sin + (size_t)t * (size_t)a->n_angle,
            page + g * D * AP_PAGE + slot);
        if (a->v_norm)
            j->m->scale(v, NULL, j->m->rms(v, a->head_dim, a->eps), a->head_dim, out);
        else
            memcpy(out, v, D * sizeof *out);
    }
}

static void qkv_task(void *arg, int task, int worker)
{
    const job *j = arg;
    const ap_kv_seq *s = j->a->kv.seq;
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

void ap_cpu_qkv(const ap_kern *k, const ap_qkv_args *a)
{
    job j = {a, ((const ap_micro *)k->impl)->attn};
    int n_task = 0;
    for (int i = 0; i < a->kv.n_seq; i++) n_task += n_groups(&a->kv.seq[i]);
    ap_op_run(k, qkv_task, &j, n_task);
}
