/* ops_commit.c - recurrent states after rows that were kept: what those rows would have done to them. */
#include <string.h>

#include "kern/cpu/micro/micro.h"
#include "kern/cpu/ops/delta.h"
#include "kern/cpu/ops/ops.h"
#include "kern/cpu/ops/ops_state.h"

typedef struct job {
    const ap_commit_args *a;
    const ap_micro_recur *m;
    ap_kept_parts at;
    int channels;
} job;

/* A layer of a sequence. */
typedef struct place {
    const ap_seq *s;
    const float *kept; /* its first row */
    float *conv, *delta;
} place;

static place place_of(const job *j, int layer, const ap_seq *s)
{
    const ap_commit_args *a = j->a;
    size_t at = (size_t)layer * a->state_floats;
    return (place){s, a->kept + (size_t)layer * a->layer_floats + (size_t)s->keep * a->row_floats,
                   ap_recur_state(&a->conv, s) + at, ap_recur_state(&a->delta, s) + at};
}

/* The last n_tap - 1 rows of [state; x], oldest first: rows are read before they are overwritten. */
static void carry(const job *j, const place *p)
{
    const ap_commit_args *a = j->a;
    int old = a->n_tap - 1;
    size_t C = (size_t)j->channels;
    for (int i = 0; i < old; i++) {
        int from = i + p->s->n_tok;
        const float *row = from < old ? p->conv + (size_t)from * C
                                      : p->kept + (size_t)(from - old) * a->row_floats;
        memmove(p->conv + (size_t)i * C, row, C * sizeof(float));
    }
}

/* All channels of value head h: some of them at a time, over all rows while they are in L1. */
static void replay(const job *j, const place *p, int h)
{
    const ap_commit_args *a = j->a;
    int Dk = a->k_dim, Dv = a->v_dim;
    size_t key = (size_t)(ap_delta_key_head(a->n_k_head, a->n_v_head, a->tiled, h) * Dk);
    ap_delta_gate gate[AP_KEPT_ROWS];
    for (int i = 0; i < p->s->n_tok; i++) {
        const float *row = p->kept + (size_t)i * a->row_floats;
        float decay = row[j->at.decay + (size_t)h];
        gate[i] = (ap_delta_gate){
            .decay = decay, .decay_less1 = row[j->at.less1 + (size_t)h], .weak = decay >= 0.5f};
    }
    for (int r = 0; r < Dv; r += AP_DELTA_ROWS) {
        int rows = Dv - r < AP_DELTA_ROWS ? Dv - r : AP_DELTA_ROWS;
        size_t channel = (size_t)h * (size_t)Dv + (size_t)r;
        for (int i = 0; i < p->s->n_tok; i++) {
            const float *row = p->kept + (size_t)i * a->row_floats;
            j->m->replay(p->delta + channel * (size_t)Dk, rows, Dk, row + j->at.k + key, &gate[i],
                         row + j->at.d + channel);
        }
    }
}

/* Of a layer and a sequence: the value heads one by one, then the convolution. */
static void commit_task(void *arg, int task, int worker)
{
    const job *j = arg;
    const ap_batch *b = j->a->delta.batch;
    int parts = j->a->n_v_head + 1, part = task % parts, which = task / parts;
    place p = place_of(j, which / b->n_seq, &b->seq[which % b->n_seq]);
    (void)worker;
    if (part == j->a->n_v_head)
        carry(j, &p);
    else
        replay(j, &p, part);
}

void ap_cpu_commit(const ap_exec *ex, const ap_commit_args *a)
{
    job j = {.a = a,
             .m = ((const ap_micro *)ex->k->impl)->recur,
             .at = ap_kept_parts_of(a->n_k_head, a->n_v_head, a->k_dim, a->v_dim),
             .channels = 2 * a->n_k_head * a->k_dim + a->n_v_head * a->v_dim};
    ap_op_run(ex, commit_task, &j, a->n_layer * a->delta.batch->n_seq * (a->n_v_head + 1));
}
