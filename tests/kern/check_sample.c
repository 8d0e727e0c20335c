/* check_sample.c - choosing tokens: against the definition in doubles with libm's exponential, and all levels
 * and batches alike. That drawn frequencies are the probabilities is seen in tests/unit/engine. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kcheck.h"

#define ROWS 5

typedef struct setup {
    int vocab;
    float *logits; /* f32 [ROWS, vocab] */
    ap_sample_row row[ROWS];
} setup;

static float number(kc *c, double scale)
{
    return (float)(ap_rng_normal(&c->rng) * scale);
}

static void make_row(kc *c, int vocab, int kind, float *x, ap_sample_row *r)
{
    int32_t *history = kc_bytes(c, 20 * sizeof *history),
            *bias_id = kc_bytes(c, 3 * sizeof *bias_id);
    uint32_t *mask = kc_bytes(c, (size_t)(vocab + 31) / 32 * sizeof *mask);
    float *bias = kc_out(c, 3);
    for (int i = 0; i < vocab; i++) {
        x[i] = number(c, 3);
        if (kind % 3 == 1) x[i] = floorf(x[i]); /* ties */
        if (kc_int(c, 0, 20) == 0) x[i] = -INFINITY;
    }
    x[vocab / 2] = 1;
    for (int i = 0; i < 20; i++) history[i] = kc_int(c, 0, vocab - 1);
    for (int i = 0; i < (vocab + 31) / 32; i++) mask[i] = (uint32_t)ap_rng_next(&c->rng);
    for (int i = 0; i < 3; i++) bias_id[i] = kc_int(c, 0, vocab - 1), bias[i] = number(c, 2);
    *r = (ap_sample_row){.temperature = kind % 4 == 0 ? 0 : 0.4f + 0.3f * (float)(kind % 4),
                         .top_k = kind % 5 == 0 ? 0 : kc_int(c, 1, vocab),
                         .top_p = kind % 2 ? 0.8f : 1,
                         .min_p = kind % 7 == 3 ? 0.05f : 0,
                         .repetition = kind % 3 == 2 ? 1.3f : 1,
                         .presence = kind % 6 == 1 ? 0.5f : 0,
                         .frequency = kind % 6 == 4 ? 0.2f : 0,
                         .history = history,
                         .n_history = kc_int(c, 0, 20),
                         .mask = kind % 8 == 5 ? mask : NULL,
                         .bias_id = bias_id,
                         .bias = bias,
                         .n_bias = kind % 9 == 4 ? 3 : 0,
                         .random = ap_rng_next(&c->rng)};
}

static void run(const ap_exec *ex, const setup *u, int begin, int n, float *logits, void *scratch,
                int32_t *id)
{
    size_t V = (size_t)u->vocab;
    memcpy(logits, u->logits + (size_t)begin * V, (size_t)n * V * sizeof *logits);
    kc_call(ex, sample,
            &(ap_sample_args){.logits = logits,
                              .row = u->row + begin,
                              .n = n,
                              .vocab = u->vocab,
                              .id = id,
                              .scratch = scratch});
}

/* ------------------------------------------------------------------ the definition */

typedef struct candidate {
    double x;
    int id;
} candidate;

static int by_logit(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    return x->x > y->x ? -1 : x->x < y->x ? 1 : x->id - y->id;
}

static int by_id(const void *a, const void *b)
{
    return ((const candidate *)a)->id - ((const candidate *)b)->id;
}

static void adjust(const ap_sample_row *r, float *x, int vocab)
{
    for (int i = 0; i < r->n_bias; i++) x[r->bias_id[i]] += r->bias[i];
    for (int i = 0; r->mask && i < vocab; i++)
        if (!(r->mask[i / 32] >> i % 32 & 1)) x[i] = -INFINITY;
    for (int id = 0; id < vocab; id++) {
        int count = 0;
        for (int i = 0; i < r->n_history; i++) count += r->history[i] == id;
        if (!count) continue;
        x[id] = x[id] < 0 ? x[id] * r->repetition : x[id] / r->repetition;
        x[id] -= r->presence + r->frequency * (float)count;
    }
}

/* Is id what the draw must give, or so near to a border that rounding decides? */
static bool is_right(kc *c, const setup *u, int row, int id)
{
    const ap_sample_row *r = &u->row[row];
    float *x = kc_copy(c, u->logits + (size_t)(row * u->vocab), (size_t)u->vocab);
    candidate *all = kc_bytes(c, (size_t)u->vocab * sizeof *all);
    int n = 0, kept = 0;
    adjust(r, x, u->vocab);
    for (int i = 0; i < u->vocab; i++)
        if (x[i] > -INFINITY) all[n++] = (candidate){(double)x[i], i};
    qsort(all, (size_t)n, sizeof *all, by_logit);
    if (n == 0) return id == 0;
    if (r->temperature == 0) return id == all[0].id;
    double max = all[0].x, sum = 0, total = 0;
    bool top_k = r->top_k > 0 && r->top_k < u->vocab;
    if (top_k && r->top_k < n) n = r->top_k;
    for (int i = 0; i < n; i++) sum += exp((all[i].x - max) / (double)r->temperature);
    for (; kept < n; kept++) {
        double w = exp((all[kept].x - max) / (double)r->temperature);
        bool in = r->top_p >= 1 || kept == 0 || total < (double)r->top_p * sum;
        if (!in || w < (double)r->min_p) break;
        total += w;
    }
    if (!top_k && r->top_p >= 1) qsort(all, (size_t)kept, sizeof *all, by_id);
    double at = (double)(r->random >> 11) * 0x1p-53 * total, seen = 0;
    for (int i = 0; i < kept; i++) {
        double w = exp((all[i].x - max) / (double)r->temperature);
        if (all[i].id == id) return at >= seen - 1e-9 * total && at <= seen + w + 1e-9 * total;
        seen += w;
    }
    return false;
}

/* ------------------------------------------------------------------ checks */

static void check_case(kc *c, int vocab, int kind)
{
    setup u = {.vocab = vocab};
    size_t V = (size_t)vocab;
    u.logits = kc_out(c, ROWS * V);
    float *logits = kc_out(c, ROWS * V);
    int32_t *want = kc_bytes(c, ROWS * sizeof *want), *id = kc_bytes(c, ROWS * sizeof *id);
    kc_case(c, "V=%d kind=%d", vocab, kind);
    for (int i = 0; i < ROWS; i++)
        make_row(c, vocab, kind + i, u.logits + (size_t)i * V, &u.row[i]);
    for (int k = -1; k < c->n_kern; k++) {
        const ap_exec *ex = k < 0 ? c->ref : &c->kern[k].x;
        size_t bytes = ex->k->sample_scratch_bytes(ex, ROWS, vocab);
        void *scratch = memset(kc_bytes(c, bytes), 0x7f, bytes);
        memset(id, 0xff, ROWS * sizeof *id);
        run(ex, &u, 0, ROWS, logits, scratch, id);
        for (int i = 0; i < ROWS; i++) {
            c->values++;
            if (!is_right(c, &u, i, id[i]))
                kc_fail(c, "%s: row %d gives %d", k < 0 ? "ref" : c->kern[k].name, i, (int)id[i]);
        }
        if (k < 0)
            memcpy(want, id, ROWS * sizeof *id);
        else if (c->kern[k].exact && memcmp(want, id, ROWS * sizeof *id))
            kc_fail(c, "%s: other ids", c->kern[k].name);
        for (int i = 0; i < ROWS; i++) {
            int32_t alone = id[i];
            run(ex, &u, i, 1, logits, scratch, id + i);
            if (id[i] != alone)
                kc_fail(c, "row %d alone gives %d, in a batch %d", i, (int)id[i], (int)alone);
        }
    }
}

/* Logits that are no numbers are told; those of other rows are not concerned. */
static void check_broken(kc *c)
{
    enum { V = 70 };
    setup u = {.vocab = V};
    u.logits = kc_out(c, ROWS * V);
    float *logits = kc_out(c, ROWS * V);
    int32_t *id = kc_bytes(c, ROWS * sizeof *id);
    kc_case(c, "NaN and infinities");
    for (int i = 0; i < ROWS; i++) make_row(c, V, 4 + 4 * i, u.logits + i * V, &u.row[i]);
    u.logits[1 * V + 69] = NAN;
    u.logits[3 * V + 3] = INFINITY;
    for (int i = 0; i < V; i++) u.logits[4 * V + i] = -INFINITY; /* nothing is allowed: the first */
    for (int k = 0; k < c->n_kern; k++) {
        const ap_exec *ex = &c->kern[k].x;
        run(ex, &u, 0, ROWS, logits, kc_bytes(c, ex->k->sample_scratch_bytes(ex, ROWS, V)), id);
        for (int i = 0; i < ROWS; i++)
            if ((id[i] == -1) != (i == 1 || i == 3))
                kc_fail(c, "%s: row %d gives %d", c->kern[k].name, i, (int)id[i]);
    }
}

void check_sample(kc *c)
{
    static const int vocabs[] = {1, 2, 31, 33, 100, 1000};
    for (int i = 0; i < 6 * 40; i++) check_case(c, vocabs[i % 6], i / 6);
    check_broken(c);
}

/* The scratch of check_sample lies between canaries; here only that the size is one. */
void check_sample_scratch_bytes(kc *c)
{
    for (int k = 0; k < c->n_kern; k++) {
        const ap_exec *ex = &c->kern[k].x;
        size_t small = ex->k->sample_scratch_bytes(ex, 1, 1000),
               large = ex->k->sample_scratch_bytes(ex, 8, 262144);
        if (large < small || large > (size_t)1 << 30)
            kc_fail(c, "%s: %zu and %zu bytes", c->kern[k].name, small, large);
    }
}

static void run_bench(const ap_exec *ex, void *arg)
{
    ex->k->sample(ex, arg);
}

void bench_sample(kc_bench *b)
{
    enum { V = 151936 };
    setup u = {.vocab = V};
    int32_t *id = kc_bytes(b->c, sizeof *id);
    u.logits = kc_out(b->c, V);
    for (int i = 0; i < 2; i++) {
        make_row(b->c, V, i ? 1 : 0, u.logits, &u.row[0]);
        u.row[0].top_k = i ? 20 : 0;
        ap_sample_args a = {.logits = u.logits, .row = u.row, .n = 1, .vocab = V, .id = id};
        a.scratch = kc_bytes(b->c, b->x->k->sample_scratch_bytes(b->x, 1, V));
        kc_time(b, i ? "V=151936 top-k 20, top-p 0.8" : "V=151936 greedy", 0, 4.0 * V, run_bench,
                &a);
    }
}
