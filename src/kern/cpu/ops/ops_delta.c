/* ops_delta.c - the gated delta rule, token by token (exact) or in chunks of 64.
 *
 * Value channels never interact, so a task owns some channels of some heads of one sequence for all
 * tokens of the step. It works on blocks of tokens: gates and normalised q, k of a block once, then
 * the state rows, AP_DELTA_ROWS at a time, over all tokens of the block while they are in L1. The
 * gated norm needs whole heads: where a head is cut into several tasks it is a second pass. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "kern/cpu/ops/delta.h"
#include "kern/cpu/ops/ops.h"
#include "kern/cpu/ops/ops_state.h"

#define BLOCK     16 /* tokens that are prepared at once: they and a slice of the state fit in L1 */
#define MIN_CHUNK 16 /* tokens of a sequence from which on chunks are faster */

void ap_delta_keys(const ap_micro_recur *m, const float *x, const float *y, int Dk, float *q,
                   float *k)
{
    m->scale(x, 1.0f / sqrtf(m->dot(x, x, Dk) + 1e-6f), (float)(1.0 / sqrt((double)Dk)), Dk, q);
    m->scale(y, 1.0f / sqrtf(m->dot(y, y, Dk) + 1e-6f), 1.0f, Dk, k);
}

void ap_delta_gates(const ap_micro_recur *m, const ap_delta_args *a, int64_t t, int n, int h,
                    double *g, float *beta)
{
    float x[AP_DELTA_CHUNK], b[AP_DELTA_CHUNK];
    for (int i = 0; i < n; i++) {
        x[i] = a->a[(t + i) * a->lda + h];
        b[i] = a->b[(t + i) * a->ldb + h];
    }
    m->gates(n, x, a->dt_bias[h], a->neg_exp_a[h], b, g, beta);
}

typedef struct job {
    const ap_delta_args *a;
    const ap_conv_args *conv; /* a task convolves its channels first; NULL = that is done */
    const ap_micro_recur *m;
    bool chunked; /* sequences of MIN_CHUNK tokens on go in chunks */
    bool fast;
    int heads;  /* value heads of a task: 1 or all of a key head */
    int splits; /* tasks of those heads */
    int rows;   /* value channels of a task, a multiple of AP_DELTA_ROWS */
    size_t worker_bytes;
} job;

/* A task's part of the scratch. Values and outputs are copied: in the step they lie a power of two
 * apart, in one set of the cache. */
typedef struct block {
    float *q, *k; /* [BLOCK][Dk] */
    float *v, *o; /* [BLOCK][Dv] */
    float *s;     /* [AP_DELTA_ROWS][Dk] of a state that stays */
    float kq[BLOCK];
    int n, next; /* tokens, tokens of the block after it */
    int64_t t;   /* the first one's row of the step */
} block;

static size_t block_bytes(int k_dim, int v_dim)
{
    size_t rows = 2 * BLOCK * ((size_t)k_dim + (size_t)v_dim);
    return ap_round_up((rows + AP_DELTA_ROWS * (size_t)k_dim) * sizeof(float), AP_ALIGN);
}

static void block_open(block *b, void *scratch, int k_dim, int v_dim)
{
    b->q = scratch;
    b->k = b->q + BLOCK * k_dim;
    b->v = b->k + BLOCK * k_dim;
    b->o = b->v + BLOCK * v_dim;
    b->s = b->o + BLOCK * v_dim;
}

static void load_keys(const job *j, block *b, int key_head)
{
    int Dk = j->a->k_dim;
    for (int i = 0; i < b->n; i++) {
        const float *q = ap_delta_query(j->a, b->t + i, key_head);
        ap_delta_keys(j->m, q, q + (int64_t)j->a->n_k_head * Dk, Dk, b->q + i * Dk, b->k + i * Dk);
        b->kq[i] = j->m->dot(b->k + i * Dk, b->q + i * Dk, Dk);
    }
}

static void load_gates(const job *j, const block *b, int h, ap_delta_gate *gate)
{
    double g[BLOCK];
    float beta[BLOCK], decay[BLOCK], less1[BLOCK];
    ap_delta_gates(j->m, j->a, b->t, b->n, h, g, beta);
    j->m->exps(b->n, 0, 1, g, decay, less1);
    for (int i = 0; i < b->n; i++)
        gate[i] = (ap_delta_gate){.decay = decay[i],
                                  .decay_less1 = less1[i],
                                  .weak = decay[i] >= 0.5f,
                                  .beta = beta[i],
                                  .kq = b->kq[i]};
}

/* What the next block reads of head h: tokens [first, first + 2) of it. */
static void prefetch_next(const job *j, const block *b, int key_head, int h, int row, int width,
                          int first)
{
    const ap_delta_args *a = j->a;
    for (int i = first; i < first + 2 && i < b->next; i++) {
        int64_t t = b->t + b->n + i;
        const float *q = ap_delta_query(a, t, key_head);
        ap_prefetch_row(q, a->k_dim);
        ap_prefetch_row(q + (int64_t)a->n_k_head * a->k_dim, a->k_dim);
        ap_prefetch_row(ap_delta_value(a, t, h) + row, width);
        if (j->splits == 1) ap_prefetch_row(ap_delta_z(a, t, h), a->v_dim);
    }
}

/* What every channel of head h has in common, into the kept rows; what every value head of its key head has, with the
 * first of them. */
static void keep_common(const job *j, const block *b, const ap_seq *s, int key_head, int h,
                        const ap_delta_gate *gate)
{
    const ap_delta_args *a = j->a;
    ap_kept_parts at = ap_kept_parts_of(a->n_k_head, a->n_v_head, a->k_dim, a->v_dim);
    int share = a->n_v_head / a->n_k_head, first = a->tiled ? key_head : key_head * share;
    size_t Dk = (size_t)a->k_dim;
    for (int i = 0; i < b->n; i++) {
        float *row = ap_kept_row(&a->kept, s, i);
        row[at.decay + (size_t)h] = gate[i].decay;
        row[at.less1 + (size_t)h] = gate[i].decay_less1;
        if (h == first)
            memcpy(row + at.k + (size_t)key_head * Dk, b->k + (size_t)i * Dk, Dk * sizeof(float));
    }
}

/* As much of a block for channels [row, row + rows) of head h, whose state stays. */
static void run_kept(const job *j, block *b, const ap_seq *s, const float *state, int h, int row,
                     int rows, const ap_delta_gate *gate, const float *v, float *o, int width)
{
    const ap_delta_args *a = j->a;
    int Dk = a->k_dim;
    size_t d = ap_kept_parts_of(a->n_k_head, a->n_v_head, a->k_dim, a->v_dim).d;
    memcpy(b->s, state, (size_t)rows * (size_t)Dk * sizeof(float));
    for (int i = 0; i < b->n; i++)
        j->m->step(b->s, rows, Dk, b->k + i * Dk, b->q + i * Dk, &gate[i], v + i * width,
                   o + i * width,
                   ap_kept_row(&a->kept, s, i) + d + (size_t)h * (size_t)a->v_dim + (size_t)row, 0);
}

/* A block for channels [row, row_end) of head h. */
static void run_block(const job *j, block *b, const ap_seq *s, float *state, int key_head, int h,
                      int row, int row_end)
{
    const ap_delta_args *a = j->a;
    int Dk = a->k_dim, width = row_end - row;
    size_t bytes = (size_t)width * sizeof(float);
    ap_delta_gate gate[BLOCK];
    bool keep = ap_kept_row(&a->kept, s, 0) != NULL;
    load_gates(j, b, h, gate);
    if (keep && row == 0) keep_common(j, b, s, key_head, h, gate);
    for (int i = 0; i < b->n; i++)
        memcpy(b->v + i * width, ap_delta_value(a, b->t + i, h) + row, bytes);
    state += ((size_t)h * (size_t)a->v_dim + (size_t)row) * (size_t)Dk;
    for (int r = 0; r < width; r += AP_DELTA_ROWS, state += AP_DELTA_ROWS * Dk) {
        int rows = width - r < AP_DELTA_ROWS ? width - r : AP_DELTA_ROWS;
        prefetch_next(j, b, key_head, h, row, width, 2 * (r / AP_DELTA_ROWS));
        if (keep) run_kept(j, b, s, state, h, row + r, rows, gate, b->v + r, b->o + r, width);
        for (int i = 0; i < b->n && !keep; i++)
            j->m->step(state, rows, Dk, b->k + i * Dk, b->q + i * Dk, &gate[i],
                       b->v + i * width + r, b->o + i * width + r, NULL,
                       i == 0 ? 2 * AP_DELTA_ROWS * Dk : 0);
    }
    for (int i = 0; i < b->n; i++) {
        float *out = ap_delta_out(a, b->t + i, h) + row;
        if (j->splits > 1)
            memcpy(out, b->o + i * width, bytes);
        else
            j->m->gated_norm(b->o + i * width, a->norm_weight, ap_delta_z(a, b->t + i, h), width,
                             a->eps, out);
    }
}

static bool in_chunks(const job *j, const ap_seq *s)
{
    return j->chunked && s->n_tok >= MIN_CHUNK;
}

/* The channels that these heads read. */
static void convolve(const job *j, const ap_seq *s, const ap_delta_heads *heads)
{
    const ap_delta_args *a = j->a;
    int q = heads->key * a->k_dim, keys = a->n_k_head * a->k_dim;
    ap_conv_channels(j->m, j->conv, s, q, a->k_dim);
    ap_conv_channels(j->m, j->conv, s, keys + q, a->k_dim);
    for (int i = 0; i < heads->n; i++)
        ap_conv_channels(j->m, j->conv, s, 2 * keys + (heads->first + i * heads->stride) * a->v_dim,
                         a->v_dim);
}

static void recurrent_task(void *arg, int task, int worker)
{
    const job *j = arg;
    const ap_delta_args *a = j->a;
    int groups = a->n_v_head / j->heads, group = task / j->splits;
    const ap_seq *s = &a->state.batch->seq[group / groups];
    ap_delta_heads heads = ap_delta_group(a, group % groups, j->heads);
    int row = task % j->splits * j->rows;
    int row_end = row + j->rows < a->v_dim ? row + j->rows : a->v_dim;
    if (in_chunks(j, s)) return;
    if (j->conv) convolve(j, s, &heads);
    float *state = ap_recur_state(&a->state, s);
    block b;
    block_open(&b, (char *)a->scratch + (size_t)worker * j->worker_bytes, a->k_dim, a->v_dim);
    for (int t = 0; t < s->n_tok; t += BLOCK) {
        int rest = s->n_tok - t - BLOCK;
        b.t = s->begin + t;
        b.n = rest < 0 ? BLOCK + rest : BLOCK;
        b.next = rest < 0 ? 0 : rest < BLOCK ? rest : BLOCK;
        load_keys(j, &b, heads.key);
        for (int i = 0; i < heads.n; i++)
            run_block(j, &b, s, state, heads.key, heads.first + i * heads.stride, row, row_end);
    }
}

static void norm_task(void *arg, int task, int worker)
{
    const job *j = arg;
    const ap_delta_args *a = j->a;
    const ap_seq *s = &a->state.batch->seq[task / a->n_v_head];
    int h = task % a->n_v_head;
    (void)worker;
    if (in_chunks(j, s)) return;
    for (int64_t t = s->begin; t < s->begin + s->n_tok; t++) {
        float *out = ap_delta_out(a, t, h);
        j->m->gated_norm(out, a->norm_weight, ap_delta_z(a, t, h), a->v_dim, a->eps, out);
    }
}

static void chunked_task(void *arg, int task, int worker)
{
    const job *j = arg;
    const ap_delta_args *a = j->a;
    int groups = a->n_v_head / j->heads;
    const ap_seq *s = &a->state.batch->seq[task / groups];
    ap_delta_heads heads = ap_delta_group(a, task % groups, j->heads);
    if (in_chunks(j, s))
        ap_delta_chunks(j->m, a, s, &heads, j->fast,
                        (char *)a->scratch + (size_t)worker * j->worker_bytes);
}

static size_t worker_bytes(const ap_micro_recur *m, int k_dim, int v_dim, int n_heads)
{
    size_t chunk = ap_delta_chunk_bytes(m, k_dim, v_dim, n_heads), step = block_bytes(k_dim, v_dim);
    return chunk > step ? chunk : step;
}

size_t ap_cpu_delta_scratch_bytes(const ap_exec *ex, int n_tok, int n_k_head, int n_v_head,
                                  int k_dim, int v_dim)
{
    (void)n_tok;
    const ap_micro_recur *m = ((const ap_micro *)ex->k->impl)->recur;
    return worker_bytes(m, k_dim, v_dim, n_v_head / n_k_head) *
           (size_t)ap_pool_threads(ex->dev->pool);
}

/* All heads of a key head in one task if that leaves all threads about the same work. */
static int heads_per_task(const ap_delta_args *a, int threads)
{
    int tasks = a->state.batch->n_seq * a->n_k_head;
    return tasks % threads == 0 || tasks >= 4 * threads ? a->n_v_head / a->n_k_head : 1;
}

static int tasks_of(const job *j)
{
    return j->a->state.batch->n_seq * (j->a->n_v_head / j->heads);
}

/* How the work is cut. */
static job cut(const ap_exec *ex, const ap_delta_args *a)
{
    int threads = ap_pool_threads(ex->dev->pool);
    int slices = (a->v_dim + AP_DELTA_ROWS - 1) / AP_DELTA_ROWS;
    job j = {.a = a,
             .m = ((const ap_micro *)ex->k->impl)->recur,
             .fast = ex->precision == APUS_PRECISION_FAST,
             .chunked = a->form == AP_DELTA_CHUNKED || ex->precision == APUS_PRECISION_FAST,
             .heads = heads_per_task(a, threads)};
    j.worker_bytes = worker_bytes(j.m, a->k_dim, a->v_dim, a->n_v_head / a->n_k_head);
    /* Whole heads where there are enough of them: each task prepares q, k and gates itself. */
    int tasks = tasks_of(&j);
    if (tasks == 0) return j;
    j.splits = tasks % threads == 0 ? 1 : (2 * threads + tasks - 1) / tasks;
    if (j.splits > slices) j.splits = slices;
    j.rows = (slices + j.splits - 1) / j.splits * AP_DELTA_ROWS;
    j.splits = (a->v_dim + j.rows - 1) / j.rows;
    return j;
}

/* Sequences that go token by token. */
static int count_few(const job *j)
{
    const ap_batch *batch = j->a->state.batch;
    int n = 0;
    for (int i = 0; i < batch->n_seq; i++) n += !in_chunks(j, &batch->seq[i]);
    return n;
}

void ap_cpu_delta(const ap_exec *ex, const ap_delta_args *a)
{
    const ap_batch *batch = a->state.batch;
    job j = cut(ex, a);
    int tasks = tasks_of(&j), few = count_few(&j);
    if (tasks <= 0) return;
    if (few < batch->n_seq) ap_op_run(ex, chunked_task, &j, tasks);
    if (few == 0) return;
    ap_op_run(ex, recurrent_task, &j, tasks * j.splits);
    if (j.splits > 1) ap_op_run(ex, norm_task, &j, batch->n_seq * a->n_v_head);
}

/* Where tasks own all that reads a key head they convolve its channels too, and workers meet once. */
bool ap_cpu_conv_delta(const ap_exec *ex, const ap_conv_args *conv, const ap_delta_args *a)
{
    job j = cut(ex, a);
    int n_seq = a->state.batch->n_seq;
    if (j.heads != a->n_v_head / a->n_k_head || j.splits != 1 || count_few(&j) < n_seq)
        return false;
    j.conv = conv;
    ap_op_run(ex, recurrent_task, &j, tasks_of(&j));
    return true;
}
