/* sample.c - choosing tokens from logits.
 *
 * Order, as Hugging Face transformers applies its processors: repetition penalty, then presence and
 * frequency penalty (as in the OpenAI API); temperature; top-k; top-p; min-p; draw. Differences:
 * among equal logits at the edge of top-k the lower ids stay (there all of them stay), and the sums
 * are in double.
 *
 * The same bits everywhere: only + - * / and comparisons on IEEE numbers in a fixed order, and an
 * exponential of our own (libm's differs between systems and processors). Candidates are ordered by
 * falling logit, then rising id, which is a total order, so the way of selecting does not matter.
 * The draw walks the candidates in that order if top-k or top-p is on, else in the order of ids.
 *
 * Minus infinity keeps a token from being chosen. NaN and plus infinity mean that the model or its caller
 * is broken, and nothing is chosen. */
#include "engine/engine.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"

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

/* ---------------------------------------------------------------- settings and memory */

apus_err ap_sampling_check(const apus_sampling *s, apus_diag *diag)
{
    const char *field = NULL, *range = "";
    double found = 0;
    if (!(s->temperature >= 0 && s->temperature <= FLT_MAX))
        field = "temperature", range = "0 or more", found = (double)s->temperature;
    else if (s->top_k < 0)
        field = "top_k", range = "0 or more", found = s->top_k;
    else if (!(s->top_p > 0 && s->top_p <= 1))
        field = "top_p", range = "above 0, up to 1", found = (double)s->top_p;
    else if (!(s->min_p >= 0 && s->min_p < 1))
        field = "min_p", range = "0 up to below 1", found = (double)s->min_p;
    else if (!(s->repetition_penalty > 0 && s->repetition_penalty <= FLT_MAX))
        field = "repetition_penalty", range = "above 0", found = (double)s->repetition_penalty;
    else if (!isfinite(s->presence_penalty))
        field = "presence_penalty", range = "a number", found = (double)s->presence_penalty;
    else if (!isfinite(s->frequency_penalty))
        field = "frequency_penalty", range = "a number", found = (double)s->frequency_penalty;
    else if (s->penalty_last < 0)
        field = "penalty_last", range = "0 or more", found = s->penalty_last;
    if (!field) return APUS_OK;
    return ap_fail(diag, APUS_EINVAL, "apus_sampling.%s: expected %s, found %g", field, range,
                   found);
}

bool ap_sampler_bytes(int vocab, size_t *bytes)
{
    return ap_mul_size((size_t)vocab,
                       sizeof(double) + sizeof(ap_candidate) + sizeof(float) + sizeof(uint32_t),
                       bytes);
}

void ap_sampler_init(apus_sampler *p, int vocab, void *mem, size_t mem_bytes)
{
    size_t V = (size_t)vocab;
    *p = (apus_sampler){.vocab = vocab, .mem = mem, .mem_bytes = mem_bytes};
    p->weight = mem;
    p->cand = (ap_candidate *)(p->weight + V);
    p->x = (float *)(p->cand + V);
    p->count = (uint32_t *)(p->x + V);
}

void ap_sampler_start(apus_sampler *p, const apus_sampling *s)
{
    p->set = *s;
    ap_rng_seed(&p->rng, s->seed);
}

/* ---------------------------------------------------------------- penalties */

static void penalise(apus_sampler *p, const int32_t *history, int n)
{
    const apus_sampling *s = &p->set;
    if (s->repetition_penalty == 1 && s->presence_penalty == 0 && s->frequency_penalty == 0) return;
    int begin = s->penalty_last && n > s->penalty_last ? n - s->penalty_last : 0;
    for (int i = begin; i < n; i++)
        if (history[i] >= 0 && history[i] < p->vocab) p->count[history[i]]++;
    for (int i = begin; i < n; i++) {
        int32_t id = history[i];
        if (id < 0 || id >= p->vocab || !p->count[id]) continue;
        float x = p->x[id];
        x = x < 0 ? x * s->repetition_penalty : x / s->repetition_penalty;
        x -= s->presence_penalty + s->frequency_penalty * (float)p->count[id];
        p->x[id] = x > FLT_MAX ? FLT_MAX : x == x ? x : -INFINITY;
        p->count[id] = 0; /* done once, and ready for the next call */
    }
}

/* ---------------------------------------------------------------- selection */

/* Does a come before b? */
static bool before(ap_candidate a, ap_candidate b)
{
    return a.x > b.x || (a.x == b.x && a.id < b.id);
}

/* Heap with the candidate that comes last (worst) or first (best) at the root. */
static bool above(ap_candidate a, ap_candidate b, bool worst_first)
{
    return worst_first ? before(b, a) : before(a, b);
}

static void sift_down(ap_candidate *h, int n, int i, bool worst_first)
{
    ap_candidate v = h[i];
    for (int child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && above(h[child + 1], h[child], worst_first)) child++;
        if (!above(h[child], v, worst_first)) break;
        h[i] = h[child];
    }
    h[i] = v;
}

static void heapify(ap_candidate *h, int n, bool worst_first)
{
    for (int i = n / 2 - 1; i >= 0; i--) sift_down(h, n, i, worst_first);
}

/* Move the root behind the heap of n, which shrinks to n - 1. */
static ap_candidate pop(ap_candidate *h, int n, bool worst_first)
{
    ap_candidate root = h[0];
    h[0] = h[n - 1];
    h[n - 1] = root;
    sift_down(h, n - 1, 0, worst_first);
    return root;
}

/* The k first candidates, in order, to p->cand. Returns their number: ids at minus infinity are
 * never candidates. */
static int take_top_k(apus_sampler *p, int k)
{
    ap_candidate *h = p->cand;
    int n = 0;
    for (int32_t i = 0; i < p->vocab; i++) {
        float x = p->x[i];
        if (n == k) {
            if (x <= h[0].x) continue; /* an equal one has a higher id, and stays out */
            h[0] = (ap_candidate){x, i};
            sift_down(h, n, 0, true);
        } else if (x > -INFINITY) {
            h[n++] = (ap_candidate){x, i};
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
static int32_t draw_from(const ap_candidate *c, const double *w, int n, double total, double u)
{
    double sum = 0;
    for (int i = 0; i < n; i++) {
        sum += w[i];
        if (sum > u * total) return c[i].id;
    }
    return c[n - 1].id; /* rounding at the very end */
}

/* With top-k: the candidates are few. */
static int32_t draw_top_k(apus_sampler *p, scale s, double u)
{
    int n = take_top_k(p, p->set.top_k), kept = 0;
    double all = 0, total = 0;
    for (int i = 0; i < n; i++) all += p->weight[i] = weight_of(s, p->cand[i].x);
    while (kept < n) {
        bool in = p->set.top_p >= 1 || kept == 0 || total < (double)p->set.top_p * all;
        in = in && p->weight[kept] >= (double)p->set.min_p;
        if (!in || p->weight[kept] <= 0) break;
        total += p->weight[kept++];
    }
    return draw_from(p->cand, p->weight, kept, total, u);
}

/* With top-p alone. An id lighter than its share of what top-p leaves out cannot be in: all such
 * ids together do not reach that rest. So only the others are ordered, and of them only the first
 * ones. */
static int32_t draw_top_p(apus_sampler *p, scale s, double u)
{
    double all = 0, total = 0;
    for (int i = 0; i < p->vocab; i++) all += p->weight[i] = weight_of(s, p->x[i]);
    double rest = (1 - (double)p->set.top_p) * all / p->vocab * 0.999;
    if (rest < (double)p->set.min_p) rest = (double)p->set.min_p;
    int n = 0;
    for (int32_t i = 0; i < p->vocab; i++)
        if (p->weight[i] > 0 && p->weight[i] >= rest) p->cand[n++] = (ap_candidate){p->x[i], i};
    heapify(p->cand, n, false);
    int left = n;
    while (left > 0 && (left == n || total < (double)p->set.top_p * all))
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
static int32_t draw_all(apus_sampler *p, scale s, double u)
{
    double total = 0, sum = 0;
    for (int i = 0; i < p->vocab; i++) {
        double w = weight_of(s, p->x[i]);
        p->weight[i] = w >= (double)p->set.min_p ? w : 0;
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

int32_t apus_sampler_next(apus_sampler *p, const float *logits, const int32_t *history, int n)
{
    if (!p || !logits || n < 0 || (!history && n > 0)) return -1;
    bool good = true, any = false;
    for (int i = 0; i < p->vocab; i++) {
        p->x[i] = logits[i];
        good &= logits[i] <= FLT_MAX; /* false for NaN too */
        any |= logits[i] > -INFINITY;
    }
    if (!good || !any) return -1;
    if (n > 0) penalise(p, history, n);
    int32_t best = 0;
    for (int32_t i = 1; i < p->vocab; i++)
        if (p->x[i] > p->x[best]) best = i;
    if (p->set.temperature == 0 || p->x[best] == -INFINITY) return best;
    scale s = {(double)p->x[best], 1 / (double)p->set.temperature};
    double u = ap_rng_uniform(&p->rng);
    if (p->set.top_k > 0 && p->set.top_k < p->vocab) return draw_top_k(p, s, u);
    if (p->set.top_p < 1) return draw_top_p(p, s, u);
    return draw_all(p, s, u);
}

apus_err apus_sampler_create(const apus_sampling *settings, int vocab, apus_sampler **out,
                             apus_diag *diag)
{
    apus_sampling s;
    apus_sampling_default(&s);
    if (!out || vocab < 1)
        return ap_fail(diag, APUS_EINVAL, "apus_sampler_create: out and a vocabulary are needed");
    apus_err err = ap_settings_take(&s, sizeof s, settings, "apus_sampling", diag);
    if (!err) err = ap_sampling_check(&s, diag);
    if (err) return err;
    size_t bytes;
    apus_sampler *p = ap_calloc(1, sizeof *p);
    void *mem = p && ap_sampler_bytes(vocab, &bytes) ? ap_big_alloc(bytes) : NULL;
    if (!mem) {
        ap_free(p);
        return ap_fail_nomem(diag, (size_t)vocab, "a sampler's candidates");
    }
    ap_sampler_init(p, vocab, mem, bytes);
    ap_sampler_start(p, &s);
    *out = p;
    return APUS_OK;
}

void apus_sampler_free(apus_sampler *p)
{
    if (!p) return;
    ap_big_free(p->mem, p->mem_bytes);
    ap_free(p);
}
