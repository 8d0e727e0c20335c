/* ops_delta.c - the gated delta rule, token by token (exact) or in chunks of 64.
 *
 * Value channels never interact, so a task owns some channels of one head of one sequence for all
 * tokens of the step. It works on blocks of tokens: gates and normalised q, k of a block once, then
 * the state rows, AP_DELTA_ROWS at a time, over all tokens of the block while they are in L1. The
 * gated norm needs whole heads: where a head is cut into several tasks it is a second pass. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "kern/cpu/delta.h"
#include "kern/cpu/ops.h"
#include "kern/cpu/ops_state.h"

#define BLOCK 16 /* tokens that are prepared at once: they and a slice of the state fit in L1 */

/* In double: a gate acts on the state for as long as the state remembers, so an error of one f32
 * ulp of e^g would grow with the length of the text. */
ap_delta_gate ap_delta_gate_of(const ap_delta_args *a, int64_t t, int h, double *g)
{
    double x = (double)a->a[t * a->lda + h] + (double)a->dt_bias[h];
    double softplus = x > 20 ? x : log1p(exp(x));
    *g = (double)a->neg_exp_a[h] * softplus;
    float decay = (float)exp(*g);
    return (ap_delta_gate){.decay = decay,
                           .decay_less1 = (float)expm1(*g),
                           .weak = decay >= 0.5f,
                           .beta = ap_sigmoidf(a->b[t * a->ldb + h])};
}

void ap_delta_keys(const ap_micro_recur *m, const ap_delta_args *a, int64_t t, int h, float *q,
                   float *k)
{
    int Dk = a->k_dim, key_head = a->tiled ? h % a->n_k_head : h / (a->n_v_head / a->n_k_head);
    const float *x = ap_delta_row(a, t) + (size_t)key_head * (size_t)Dk;
    const float *y = x + (size_t)a->n_k_head * (size_t)Dk;
    m->scale(x, 1.0f / sqrtf(m->dot(x, x, Dk) + 1e-6f), (float)(1.0 / sqrt((double)Dk)), Dk, q);
    m->scale(y, 1.0f / sqrtf(m->dot(y, y, Dk) + 1e-6f), 1.0f, Dk, k);
}

typedef struct job {
    const ap_delta_args *a;
    const ap_micro_recur *m;
    int splits; /* tasks of a head */
    int rows;   /* value channels of a task, a multiple of AP_DELTA_ROWS */
    size_t worker_bytes;
} job;

/* A task's part of the scratch. Values and outputs are copied: in the step they lie a power of two
 * apart, in one set of the cache. */
typedef struct block {
    float *q, *k; /* [BLOCK][Dk] */
    float *v, *o; /* [BLOCK][Dv] */
    ap_delta_gate gate[BLOCK];
} block;

static size_t block_bytes(int k_dim, int v_dim)
{
    return ap_round_up(2 * BLOCK * ((size_t)k_dim + (size_t)v_dim) * sizeof(float), AP_ALIGN);
}

static void block_open(block *b, void *scratch, int k_dim, int v_dim)
{
    b->q = scratch;
    b->k = b->q + BLOCK * k_dim;
    b->v = b->k + BLOCK * k_dim;
    b->o = b->v + BLOCK * v_dim;
}

/* Tokens [t, t + n) of the step for channels [row, row_end) of head h. */
static void run_block(const job *j, block *b, float *state, int h, int row, int row_end, int64_t t,
                      int n)
{
    const ap_delta_args *a = j->a;
    int Dk = a->k_dim, width = row_end - row;
    size_t bytes = (size_t)width * sizeof(float);
    double g;
    for (int i = 0; i < n; i++) {
        ap_delta_keys(j->m, a, t + i, h, b->q + i * Dk, b->k + i * Dk);
        b->gate[i] = ap_delta_gate_of(a, t + i, h, &g);
        b->gate[i].kq = j->m->dot(b->k + i * Dk, b->q + i * Dk, Dk);
        memcpy(b->v + i * width, ap_delta_value(a, t + i, h) + row, bytes);
    }
    state += ((size_t)h * (size_t)a->v_dim + (size_t)row) * (size_t)Dk;
    for (int r = 0; r < width; r += AP_DELTA_ROWS, state += AP_DELTA_ROWS * Dk) {
        int rows = width - r < AP_DELTA_ROWS ? width - r : AP_DELTA_ROWS;
        for (int i = 0; i < n; i++)
            j->m->step(state, rows, Dk, b->k + i * Dk, b->q + i * Dk, &b->gate[i],
                       b->v + i * width + r, b->o + i * width + r);
    }
    for (int i = 0; i < n; i++) memcpy(ap_delta_out(a, t + i, h) + row, b->o + i * width, bytes);
}

static void norm_tokens(const job *j, int64_t t, int64_t end, int h)
{
    const ap_delta_args *a = j->a;
    for (; t < end; t++)
        j->m->gated_norm(ap_delta_out(a, t, h), a->norm_weight,
                         a->z + t * a->ldz + (int64_t)h * a->v_dim, a->v_dim, a->eps);
}

static void recurrent_task(void *arg, int task, int worker)
{
    const job *j = arg;
    const ap_delta_args *a = j->a;
    const ap_recur_seq *s = &a->seq[task / (a->n_v_head * j->splits)];
    int h = task / j->splits % a->n_v_head, row = task % j->splits * j->rows;
    int row_end = row + j->rows < a->v_dim ? row + j->rows : a->v_dim;
    block b;
    block_open(&b, (char *)a->scratch + (size_t)worker * j->worker_bytes, a->k_dim, a->v_dim);
    for (int t = 0; t < s->n_tok; t += BLOCK) {
        int n = s->n_tok - t < BLOCK ? s->n_tok - t : BLOCK;
        run_block(j, &b, s->delta_state, h, row, row_end, s->begin + t, n);
        if (j->splits == 1) norm_tokens(j, s->begin + t, s->begin + t + n, h);
    }
}

static void norm_task(void *arg, int task, int worker)
{
    const job *j = arg;
    const ap_recur_seq *s = &j->a->seq[task / j->a->n_v_head];
    (void)worker;
    norm_tokens(j, s->begin, s->begin + s->n_tok, task % j->a->n_v_head);
}

static void chunked_task(void *arg, int task, int worker)
{
    const job *j = arg;
    const ap_delta_args *a = j->a;
    const ap_recur_seq *s = &a->seq[task / a->n_v_head];
    int h = task % a->n_v_head;
    if (s->n_tok <= 0) return;
    ap_delta_chunks(j->m, a, s, h, (char *)a->scratch + (size_t)worker * j->worker_bytes);
    norm_tokens(j, s->begin, s->begin + s->n_tok, h);
}

static size_t worker_bytes(int k_dim, int v_dim)
{
    size_t chunk = ap_delta_chunk_bytes(k_dim, v_dim), step = block_bytes(k_dim, v_dim);
    return chunk > step ? chunk : step;
}

size_t ap_cpu_delta_scratch_bytes(const ap_kern *k, int n_k_head, int n_v_head, int k_dim,
                                  int v_dim)
{
    (void)n_k_head, (void)n_v_head;
    return worker_bytes(k_dim, v_dim) * (size_t)ap_pool_threads(k->pool);
}

void ap_cpu_delta(const ap_kern *k, const ap_delta_args *a)
{
    int heads = a->n_seq * a->n_v_head, wanted = 2 * ap_pool_threads(k->pool);
    int groups = (a->v_dim + AP_DELTA_ROWS - 1) / AP_DELTA_ROWS;
    job j = {a, ((const ap_micro *)k->impl)->recur, 1, groups * AP_DELTA_ROWS,
             worker_bytes(a->k_dim, a->v_dim)};
    if (heads <= 0) return;
    if (a->form == AP_DELTA_CHUNKED) {
        ap_op_run(k, chunked_task, &j, heads);
        return;
    }
    /* Whole heads where there are enough of them: each task prepares q, k and gates itself. */
    j.splits = (wanted + heads - 1) / heads;
    if (j.splits > groups) j.splits = groups;
    j.rows = (groups + j.splits - 1) / j.splits * AP_DELTA_ROWS;
    j.splits = (a->v_dim + j.rows - 1) / j.rows;
    ap_op_run(k, recurrent_task, &j, heads * j.splits);
    if (j.splits > 1) ap_op_run(k, norm_task, &j, heads);
}
