/* ops_sample.c - choosing tokens from logits.
 *
 * Order, as Hugging Face transformers applies its processors: bias and mask; repetition penalty, then
 * presence and frequency penalty (as in the OpenAI API); temperature; top-k; top-p; min-p; draw.
 * Differences: among equal logits at the edge of top-k the lower ids stay (there all of them stay), and
 * the sums are in double.
 *
 * The same bits everywhere: only + - * / and comparisons on IEEE numbers in a fixed order, and an
 * exponential of our own (libm's differs between systems and processors). Candidates are ordered by
 * falling logit, then rising id, which is a total order, so the way of selecting does not matter.
 * The draw walks the candidates in that order if top-k or top-p is on, else in the order of ids. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "kern/cpu/ops/ops.h"

typedef struct candidate {
    float x; /* penalised logit */
    int32_t id;
} candidate;

/* One row in work. */
typedef struct sampler {
    const ap_sample_row *set;
    int vocab;
    float *x;        /* f32 [V] logits, biased and penalised in place */
    double *weight;  /* f64 [V] exp((x - max) / temperature) */
    candidate *cand; /* [V] */
    uint32_t *count; /* u32 [V] */
} sampler;

/* exp(x) for x <= 0: 2^k * e^r, |r| <= ln2/2, Taylor to r^13 (remainder below 1e-17). */
static double exp_below(double x)
{
    static const double c[] = {1.0 / 6227020800,
                               1.0 / 479001600,
                               1.0 / 39916800,
                               1.0 / 3628800,
                               1.0 / 362880,
                               1.0 / 40320,
                               1.0 / 5040,
                               1.0 / 720,
                               1.0 / 120,
                               1.0 / 24,
                               1.0 / 6,
                               1.0 / 2,
                               1.0,
                               1.0};
    if (!(x > -700)) return 0; /* also NaN; the result would be near the smallest normal number */
    int k = (int)(x * 1.4426950408889634 - 0.5);
    double r = (x - k * 0x1.62e42fee00000p-1) - k * 0x1.a39ef35793c76p-33, p = c[0];
    for (size_t i = 1; i < sizeof c / sizeof c[0]; i++) p = p * r + c[i];
    uint64_t bits = (uint64_t)(k + 1023) << 52;
    double scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

/* ------------------------------------------------------------------ bias, mask and penalties */

static float kept_finite(float x)
{
    return x > FLT_MAX ? FLT_MAX : x == x ? x : -INFINITY;
}

static bool has_id(const sampler *p, int32_t id)
{
    return id >= 0 && id < p->vocab;
}

static void restrain(sampler *p)
{
    const ap_sample_row *s = p->set;
    for (int i = 0; i < s->n_bias; i++)
        if (has_id(p, s->bias_id[i]))
            p->x[s->bias_id[i]] = kept_finite(p->x[s->bias_id[i]] + s->bias[i]);
    for (int i = 0; s->mask && i < p->vocab; i++)
        if (!(s->mask[i / 32] >> i % 32 & 1)) p->x[i] = -INFINITY;
}

static void penalise(sampler *p)
{
    const ap_sample_row *s = p->set;
    if (s->repetition == 1 && s->presence == 0 && s->frequency == 0) return;
    for (int i = 0; i < s->n_history; i++)
        if (has_id(p, s->history[i])) p->count[s->history[i]] = 0;
    for (int i = 0; i < s->n_history; i++)
        if (has_id(p, s->history[i])) p->count[s->history[i]]++;
    for (int i = 0; i < s->n_history; i++) {
        int32_t id = s->history[i];
        if (!has_id(p, id) || !p->count[id]) continue;
        float x = p->x[id];
        x = x < 0 ? x * s->repetition : x / s->repetition;
        x -= s->presence + s->frequency * (float)p->count[id];
        p->x[id] = kept_finite(x);
        p->count[id] = 0; /* done once */
    }
}

/* ------------------------------------------------------------------ selection */

/* Does a come before b? */
static bool before(candidate a, candidate b)
{
    return a.x > b.x || (a.x == b.x && a.id < b.id);
}

/* Heap with the candidate that comes last (worst) or first (best) at the root. */
static bool above(candidate a, candidate b, bool worst_first)
{
    return worst_first ? before(b, a) : before(a, b);
}

static void sift_down(candidate *h, int n, int i, bool worst_first)
{
    candidate v = h[i];
    for (int child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && above(h[child + 1], h[child], worst_first)) child++;
        if (!above(h[child], v, worst_first)) break;
        h[i] = h[child];
    }
    h[i] = v;
}

static void heapify(candidate *h, int n, bool worst_first)
{
    for (int i = n / 2 - 1; i >= 0; i--) sift_down(h, n, i, worst_first);
}

/* Move the root behind the heap of n, which shrinks to n - 1. */
static candidate pop(candidate *h, int n, bool worst_first)
{
    candidate root = h[0];
    h[0] = h[n - 1];
    h[n - 1] = root;
    sift_down(h, n - 1, 0, worst_first);
    return root;
}

/* The k first candidates, in order, to p->cand. Returns their number: ids at minus infinity are
 * never candidates. */
static int take_top_k(sampler *p, int k)
{
    candidate *h = p->cand;
    int n = 0;
    for (int32_t i = 0; i < p->vocab; i++) {
        float x = p->x[i];
        if (n == k) {
            if (x <= h[0].x) continue; /* an equal one has a higher id, and stays out */
            h[0] = (candidate){x, i};
            sift_down(h, n, 0, true);
        } else if (x > -INFINITY) {
            h[n++] = (candidate){x, i};
            if (n == k) heapify(h, n, true);
        }
    }
    if (n < k) heapify(h, n, true);
    for (int i = n; i > 1; i--) pop(h, i, true); /* the worst goes last: best first in the end */
    return n;
}

typedef struct scale {
    double max, inv_temperature;
} scale;

static double weight_of(scale s, float x)
{
    return exp_below(((double)x - s.max) * s.inv_temperature);
}

/* Walk n candidates and their weights until u of the total is reached. */
static int32_t draw_from(const candidate *c, const double *w, int n, double total, double u)
{
    double sum = 0;
    for (int i = 0; i < n; i++) {
        sum += w[i];
        if (sum > u * total) return c[i].id;
    }
    return c[n - 1].id; /* rounding at the very end */
}

/* With top-k: the candidates are few. */
static int32_t draw_top_k(sampler *p, scale s, double u)
{
    int n = take_top_k(p, p->set->top_k), kept = 0;
    double all = 0, total = 0;
    for (int i = 0; i < n; i++) all += p->weight[i] = weight_of(s, p->cand[i].x);
    while (kept < n) {
        bool in = p->set->top_p >= 1 || kept == 0 || total < (double)p->set->top_p * all;
        in = in && p->weight[kept] >= (double)p->set->min_p;
        if (!in || p->weight[kept] <= 0) break;
        total += p->weight[kept++];
    }
    return draw_from(p->cand, p->weight, kept, total, u);
}

/* With top-p alone. An id lighter than its share of what top-p leaves out cannot be in: all such
 * ids together do not reach that rest. So only the others are ordered, and of them only the first
 * ones. */
static int32_t draw_top_p(sampler *p, scale s, double u)
{
    double all = 0, total = 0;
    for (int i = 0; i < p->vocab; i++) all += p->weight[i] = weight_of(s, p->x[i]);
    double rest = (1 - (double)p->set->top_p) * all / p->vocab * 0.999;
    if (rest < (double)p->set->min_p) rest = (double)p->set->min_p;
    int n = 0;
    for (int32_t i = 0; i < p->vocab; i++)
        if (p->weight[i] > 0 && p->weight[i] >= rest) p->cand[n++] = (candidate){p->x[i], i};
    heapify(p->cand, n, false);
    int left = n;
    while (left > 0 && (left == n || total < (double)p->set->top_p * all))
        total += weight_of(s, pop(p->cand, left--, false).x);
    /* What was popped lies behind the heap, the first one last. */
    double sum = 0;
    for (int i = n - 1; i >= left; i--) {
        sum += weight_of(s, p->cand[i].x);
        if (sum > u * total) return p->cand[i].id;
    }
    return p->cand[left].id;
}

/* Neither: every id that min-p leaves, in the order of ids. */
static int32_t draw_all(sampler *p, scale s, double u)
{
    double total = 0, sum = 0;
    for (int i = 0; i < p->vocab; i++) {
        double w = weight_of(s, p->x[i]);
        p->weight[i] = w >= (double)p->set->min_p ? w : 0;
        total += p->weight[i];
    }
    int32_t last = 0;
    for (int32_t i = 0; i < p->vocab; i++) {
        if (p->weight[i] <= 0) continue;
        sum += p->weight[i];
        last = i;
        if (sum > u * total) break;
    }
    return last;
}

/* ------------------------------------------------------------------ the slot */

static int32_t next(sampler *p)
{
    const ap_sample_row *set = p->set;
    for (int i = 0; i < p->vocab; i++)
        if (!(p->x[i] <= FLT_MAX)) return -1;
    restrain(p);
    penalise(p);
    int32_t best = 0;
    for (int32_t i = 1; i < p->vocab; i++)
        if (p->x[i] > p->x[best]) best = i;
    if (set->temperature == 0 || p->x[best] == -INFINITY) return best;
    scale s = {(double)p->x[best], 1 / (double)set->temperature};
    double u = (double)(set->random >> 11) * 0x1p-53;
    if (set->top_k > 0 && set->top_k < p->vocab) return draw_top_k(p, s, u);
    if (set->top_p < 1) return draw_top_p(p, s, u);
    return draw_all(p, s, u);
}

static size_t row_bytes(int vocab)
{
    return ap_round_up((size_t)vocab * (sizeof(double) + sizeof(candidate) + sizeof(uint32_t)),
                       AP_ALIGN);
}

size_t ap_cpu_sample_scratch_bytes(const ap_exec *ex, int n, int vocab)
{
    size_t bytes;
    (void)ex;
    return ap_mul_size((size_t)n, row_bytes(vocab), &bytes) ? bytes : SIZE_MAX;
}

static void sample_task(void *arg, int task, int worker)
{
    const ap_sample_args *a = arg;
    size_t V = (size_t)a->vocab;
    sampler p = {.set = &a->row[task], .vocab = a->vocab, .x = a->logits + (size_t)task * V};
    (void)worker;
    p.weight = (double *)(void *)((uint8_t *)a->scratch + (size_t)task * row_bytes(a->vocab));
    p.cand = (candidate *)(void *)(p.weight + V);
    p.count = (uint32_t *)(void *)(p.cand + V);
    a->id[task] = next(&p);
}

void ap_cpu_sample(const ap_exec *ex, const ap_sample_args *a)
{
    ap_op_run(ex, sample_task, (void *)a, a->n);
}
