/* Whole-model nets: what apus computes for the tiny models of data/ against the reference's logits
 * and greedy tokens, and against itself under every chunking, thread count, processor level,
 * batch neighbour and session operation.
 *
 *   test_golden [--data DIR] [--model NAME] [--quick] [--cpumask LEVEL] [--verbose]
 *
 * Uses the public interface only. Exit status 0: all passed; 1: a check failed; 2: usage. */
#include <dirent.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "apus/apus.h"
#include "gold.h"

#define TOL_GOLD       1e-3 /* to the reference; or twice its own noise where that is more */
#define TOL_SELF       1e-4 /* between our own ways of computing, where bits are not demanded */
#define GAP_NEAR       1e-3 /* best two logits closer than this: either token may be chosen */
#define RGAP_NEAR      1e-6 /* two experts closer than this: either may be chosen */
#define MAX_FAIL_LINES 20

typedef struct options {
    const char *data, *model;
    bool quick, verbose;
    apus_cpu cpu;
} options;

/* What one model's run has found. */
typedef struct report {
    const char *name;
    int checks, failures, not_bit_equal;
    bool verbose;
} report;

/* Everything computed for one prompt: the rows the golden has, and the logits of 32 more steps
 * along the golden's tokens (step i has seen greedy[0 .. i)); step 0 is the last row. */
typedef struct trace {
    float *rows;  /* f32 [n_pos, V] */
    float *steps; /* f32 [GOLD_GREEDY, V] */
} trace;

/* An open model with an engine. */
typedef struct rig {
    apus_model *model;
    apus_engine *engine;
} rig;

typedef struct rig_spec {
    apus_cpu cpu;
    int threads, chunk, sessions;
    bool gdn_chunked;
} rig_spec;

static void *need(size_t bytes)
{
    void *p = calloc(1, bytes ? bytes : 1);
    if (p == NULL) {
        fprintf(stderr, "out of memory\n");
        exit(2);
    }
    return p;
}

static void fail(report *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void fail(report *r, const char *fmt, ...)
{
    va_list ap;
    if (r->failures++ < MAX_FAIL_LINES) {
        printf("  FAIL %s: ", r->name);
        va_start(ap, fmt);
        vprintf(fmt, ap);
        va_end(ap);
        printf("\n");
    }
}

/* ---------------------------------------------------------------- engines and runs */

static void rig_close(rig *g)
{
    apus_engine_free(g->engine);
    apus_model_close(g->model);
    memset(g, 0, sizeof *g);
}

static int rig_open(report *r, const char *folder, const gold *g, rig_spec spec, rig *out)
{
    apus_diag d = {0};
    apus_model_settings ms;
    apus_engine_settings es;
    memset(out, 0, sizeof *out);
    apus_model_settings_default(&ms);
    ms.cpu = spec.cpu;
    ms.threads = spec.threads;
    if (apus_model_open(folder, &ms, &out->model, &d) != APUS_OK) {
        fail(r, "apus_model_open: %s", d.text);
        return -1;
    }
    apus_engine_settings_default(&es);
    es.cpu = spec.cpu;
    es.threads = spec.threads;
    es.ctx = g->max_n + GOLD_GREEDY + 8;
    es.prefill_chunk = spec.chunk;
    es.max_sessions = spec.sessions;
    es.gdn_chunked = spec.gdn_chunked;
    if (apus_engine_create(out->model, &es, &out->engine, &d) != APUS_OK) {
        fail(r, "apus_engine_create: %s", d.text);
        rig_close(out);
        return -1;
    }
    return 0;
}

static apus_session *open_session(report *r, rig *g)
{
    apus_diag d = {0};
    apus_session *s = NULL;
    if (apus_session_create(g->engine, &s, &d) != APUS_OK)
        fail(r, "apus_session_create: %s", d.text);
    return s;
}

static trace trace_new(const gold *g, const gold_prompt *p)
{
    trace t;
    t.rows = need((size_t)p->n_pos * (size_t)g->vocab * sizeof(float));
    t.steps = need((size_t)GOLD_GREEDY * (size_t)g->vocab * sizeof(float));
    return t;
}

static void trace_free(trace *t)
{
    free(t->rows);
    free(t->steps);
    memset(t, 0, sizeof *t);
}

/* Make `f` the share of prompt tokens [from, to), with the golden's rows among them. `rows` is room
 * for n_pos indices; the logits land where a whole run would put them. */
static void share(const gold *g, const gold_prompt *p, int from, int to, int32_t *rows, trace *t,
                  apus_session *s, apus_feed *f)
{
    int first = 0;
    memset(f, 0, sizeof *f);
    f->session = s;
    f->tok = p->ids + from;
    f->n = to - from;
    while (first < p->n_pos && p->pos[first] < from) first++;
    for (int i = first; i < p->n_pos && p->pos[i] < to; i++) rows[f->n_rows++] = p->pos[i] - from;
    if (f->n_rows > 0) {
        f->rows = rows;
        f->logits = t->rows + (size_t)first * (size_t)g->vocab;
    }
}

/* Feed prompt tokens [from, n) in pieces of `piece` (0 = all), collecting rows. */
static int feed_prompt(report *r, rig *e, const gold *g, const gold_prompt *p, int from, int piece,
                       apus_session *s, trace *t)
{
    int32_t *rows = need((size_t)p->n_pos * sizeof *rows);
    int rc = 0;
    for (int at = from; at < p->n && rc == 0;) {
        apus_diag d = {0};
        apus_feed f;
        int to = piece > 0 && at + piece < p->n ? at + piece : p->n;
        share(g, p, at, to, rows, t, s, &f);
        if (apus_feed_batch(e->engine, &f, 1, NULL, NULL, &d) != APUS_OK) {
            fail(r, "apus_feed_batch of tokens %d..%d: %s", at, to, d.text);
            rc = -1;
        } else if (apus_session_pos(s) != to) {
            fail(r, "apus_session_pos is %d after feeding up to %d", apus_session_pos(s), to);
            rc = -1;
        }
        at = to;
    }
    free(rows);
    return rc;
}

/* Walk `n` of the 32 steps. steps[0] comes from the last row. */
static int walk(report *r, const gold *g, const gold_prompt *p, int n, apus_session *s, trace *t)
{
    size_t v = (size_t)g->vocab;
    memcpy(t->steps, t->rows + (size_t)(p->n_pos - 1) * v, v * sizeof(float));
    for (int i = 1; i < n; i++) {
        apus_diag d = {0};
        if (apus_session_feed(s, &p->greedy[i - 1], 1, t->steps + (size_t)i * v, &d) != APUS_OK) {
            fail(r, "apus_session_feed, step %d: %s", i, d.text);
            return -1;
        }
    }
    return 0;
}

/* One prompt alone, from nothing. */
static int run_prompt(report *r, rig *e, const gold *g, const gold_prompt *p, int piece, trace *t)
{
    apus_session *s = open_session(r, e);
    int rc = s == NULL ? -1 : feed_prompt(r, e, g, p, 0, piece, s, t);
    if (rc == 0) rc = walk(r, g, p, GOLD_GREEDY, s, t);
    apus_session_free(s);
    return rc;
}

/* ---------------------------------------------------------------- comparing */

static int argmax(const float *x, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++) best = x[i] > x[best] ? i : best;
    return best;
}

/* Largest |a - b|; infinity if either is not finite. */
static double distance(const float *a, const float *b, int n)
{
    double worst = 0;
    for (int i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!isfinite(a[i]) || !isfinite(b[i])) return INFINITY;
        worst = d > worst ? d : worst;
    }
    return worst;
}

/* Two of our own runs: rows from row0 on, and n_step steps.
 *   exact  bits are demanded; else TOL_SELF and the same tokens, and unequal bits are counted */
static void compare_self(report *r, const gold *g, int k, const char *what, const trace *want,
                         const trace *got, int row0, int n_step, bool exact)
{
    const gold_prompt *p = &g->prompt[k];
    size_t v = (size_t)g->vocab;
    double worst = 0;
    int worst_at = -1, tokens = 0;
    bool bits = true;
    for (int i = row0; i < p->n_pos + n_step; i++) {
        bool step = i >= p->n_pos;
        const float *a =
            step ? want->steps + (size_t)(i - p->n_pos) * v : want->rows + (size_t)i * v;
        const float *b = step ? got->steps + (size_t)(i - p->n_pos) * v : got->rows + (size_t)i * v;
        int at = step ? p->n - 1 + i - p->n_pos : p->pos[i];
        if (memcmp(a, b, v * sizeof(float)) == 0) continue;
        double d = distance(a, b, g->vocab);
        if (bits || d > worst) {
            worst = d;
            worst_at = at;
        }
        bits = false;
        tokens += argmax(a, g->vocab) != argmax(b, g->vocab);
    }
    r->checks++;
    r->not_bit_equal += !bits;
    if (!bits && (exact || worst > TOL_SELF || tokens > 0))
        fail(r, "%s, prompt %d (%d tokens): differs by %.2e at position %d, %d other tokens", what,
             k, p->n, worst, worst_at, tokens);
    else if (r->verbose || !bits)
        printf("  %s, prompt %d: %s (%.1e)\n", what, k, bits ? "bit-equal" : "NOT bit-equal",
               worst);
}

/* Our run against the reference. Returns the largest distance over the rows that count. */
static double compare_gold(report *r, const gold *g, int k, const char *what, const trace *t,
                           int *near_token, int *near_router)
{
    const gold_prompt *p = &g->prompt[k];
    size_t v = (size_t)g->vocab;
    double worst = 0;
    bool told = false;
    r->checks++;
    for (int i = 0; i < p->n_pos; i++) {
        const float *a = p->logits + (size_t)i * v, *b = t->rows + (size_t)i * v;
        if (p->rgap != NULL && p->rgap[p->pos[i]] < RGAP_NEAR) {
            (*near_router)++;
            continue;
        }
        double d = distance(a, b, g->vocab), tol = 2.0 * (double)p->noise[i];
        worst = d > worst ? d : worst;
        if (!(d <= (tol > TOL_GOLD ? tol : TOL_GOLD)) && !told) {
            fail(r,
                 "%s, prompt %d (%d tokens): logits differ by %.2e at position %d; first: "
                 "expected %.6f %.6f %.6f, found %.6f %.6f %.6f",
                 what, k, p->n, d, p->pos[i], a[0], a[1], a[2], b[0], b[1], b[2]);
            told = true;
        }
    }
    for (int i = 0; i < GOLD_GREEDY; i++) {
        int got = argmax(t->steps + (size_t)i * v, g->vocab);
        if (got == p->greedy[i]) continue;
        if (p->rgap != NULL && p->rgap[p->n - 1 + i] < RGAP_NEAR) {
            (*near_router)++;
        } else if (p->gap[i] < GAP_NEAR) {
            (*near_token)++;
        } else {
            fail(r, "%s, prompt %d (%d tokens): greedy token %d is %d, expected %d (gap %.2e)",
                 what, k, p->n, i, got, p->greedy[i], (double)p->gap[i]);
            break;
        }
    }
    return worst;
}

/* ---------------------------------------------------------------- the checks of one model */

/* What the checks of a model share. */
typedef struct bench {
    report *r;
    const options *o;
    const char *folder;
    gold g;
    trace base[GOLD_MAX_PROMPTS]; /* one thread, default chunk, level --cpumask */
    trace work[GOLD_MAX_PROMPTS];
} bench;

static bool selected(const bench *b, int k, int limit)
{
    return b->g.prompt[k].n <= limit && (!b->o->quick || b->g.prompt[k].n <= 70);
}

static rig_spec plain(const bench *b)
{
    return (rig_spec){.cpu = b->o->cpu, .threads = 1, .chunk = 0, .sessions = 1};
}

/* Fill base[] and hold it against the reference. */
static int check_reference(bench *b)
{
    rig e;
    int near_token = 0, near_router = 0, rows = 0, rc = 0;
    double worst = 0, noise = 0;
    if (rig_open(b->r, b->folder, &b->g, plain(b), &e) != 0) return -1;
    apus_info info = {.size = sizeof info};
    if (apus_model_info(e.model, &info, NULL) == APUS_OK && info.vocab != b->g.vocab) {
        fail(b->r, "vocabulary %d, golden has %d", info.vocab, b->g.vocab);
        rc = -1;
    }
    for (int k = 0; k < b->g.n_prompt && rc == 0; k++) {
        const gold_prompt *p = &b->g.prompt[k];
        if (!selected(b, k, 1 << 30)) continue;
        rc = run_prompt(b->r, &e, &b->g, p, 0, &b->base[k]);
        if (rc != 0) break;
        double d =
            compare_gold(b->r, &b->g, k, "reference", &b->base[k], &near_token, &near_router);
        worst = d > worst ? d : worst;
        rows += p->n_pos;
        for (int i = 0; i < p->n_pos; i++) noise = p->noise[i] > noise ? p->noise[i] : noise;
    }
    rig_close(&e);
    printf("%-14s logits %.1e over %d rows (the reference's own noise %.1e), near ties: %d tokens, "
           "%d router\n",
           b->r->name, worst, rows, noise, near_token, near_router);
    return rc;
}

/* The same prompts with another engine, or fed in pieces. */
static void check_variant(bench *b, const char *what, rig_spec spec, int piece, int limit,
                          bool exact)
{
    rig e;
    if (rig_open(b->r, b->folder, &b->g, spec, &e) != 0) return;
    for (int k = 0; k < b->g.n_prompt; k++) {
        if (selected(b, k, limit) &&
            run_prompt(b->r, &e, &b->g, &b->g.prompt[k], piece, &b->work[k]) == 0)
            compare_self(b->r, &b->g, k, what, &b->base[k], &b->work[k], 0, GOLD_GREEDY, exact);
    }
    rig_close(&e);
}

static void check_chunks(bench *b)
{
    static const int sizes[] = {1, 7, 64, 512};
    char what[64];
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        if (b->o->quick && sizes[i] != 7) continue;
        rig_spec spec = plain(b);
        snprintf(what, sizeof what, "fed in pieces of %d", sizes[i]);
        check_variant(b, what, spec, sizes[i], 1 << 30, false);
        spec.chunk = sizes[i];
        snprintf(what, sizeof what, "prefill chunk %d", sizes[i]);
        check_variant(b, what, spec, 0, 1 << 30, false);
    }
    if (!b->o->quick) {
        rig_spec spec = plain(b);
        spec.chunk = 4096;
        check_variant(b, "prefill chunk 4096", spec, 0, 1 << 30, false);
    }
}

static void check_levels(bench *b)
{
    static const apus_cpu levels[] = {APUS_CPU_REF, APUS_CPU_AVX2, APUS_CPU_AVX512, APUS_CPU_AMX,
                                      APUS_CPU_NEON};
    apus_cpu best = apus_cpu_best();
    char what[64];
    if (b->o->cpu != APUS_CPU_AUTO) return; /* one level was asked for */
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++) {
        apus_cpu level = levels[i];
        bool has = level == APUS_CPU_REF || level == best ||
                   (best != APUS_CPU_NEON && level != APUS_CPU_NEON && level < best);
        if (!has) continue;
        rig_spec spec = plain(b);
        spec.cpu = level;
        spec.threads = 2;
        snprintf(what, sizeof what, "level %s", apus_cpu_name(level));
        check_variant(b, what, spec, 0, level == APUS_CPU_REF ? 70 : 1 << 30, false);
    }
}

/* The chunk form of the delta rule: held to the reference, not to our bits. */
static void check_gdn_chunked(bench *b)
{
    rig e;
    rig_spec spec = plain(b);
    int near_token = 0, near_router = 0;
    double worst = 0;
    spec.gdn_chunked = true;
    if (rig_open(b->r, b->folder, &b->g, spec, &e) != 0) return;
    for (int k = 0; k < b->g.n_prompt; k++) {
        if (!selected(b, k, 1 << 30) ||
            run_prompt(b->r, &e, &b->g, &b->g.prompt[k], 0, &b->work[k]) != 0)
            continue;
        double d = compare_gold(b->r, &b->g, k, "chunked delta rule", &b->work[k], &near_token,
                                &near_router);
        worst = d > worst ? d : worst;
    }
    printf("  chunked delta rule: %.1e to the reference, near ties: %d tokens, %d router\n", worst,
           near_token, near_router);
    rig_close(&e);
}

/* All prompts in one ragged batch, then 31 steps in one batch each. While some decode, prompt 0's
 * session also takes several tokens at once, as a newcomer's prefill would. */
static void check_neighbours(bench *b)
{
    rig e;
    rig_spec spec = plain(b);
    int which[GOLD_MAX_PROMPTS], n = 0, rc = 0;
    apus_session *s[GOLD_MAX_PROMPTS + 1] = {0};
    int32_t *rows[GOLD_MAX_PROMPTS] = {0};
    apus_feed f[GOLD_MAX_PROMPTS + 1];
    size_t v = (size_t)b->g.vocab;
    spec.sessions = GOLD_MAX_PROMPTS + 1;
    spec.threads = 2;
    spec.chunk = 100; /* pieces of several sequences share a step */
    if (rig_open(b->r, b->folder, &b->g, spec, &e) != 0) return;
    for (int k = b->g.n_prompt - 1; k >= 0; k--) /* longest first, so that order differs */
        if (selected(b, k, 1 << 30)) which[n++] = k;
    for (int i = 0; i < n && rc == 0; i++) {
        const gold_prompt *p = &b->g.prompt[which[i]];
        rows[i] = need((size_t)p->n_pos * sizeof(int32_t));
        s[i] = open_session(b->r, &e);
        rc = s[i] == NULL ? -1 : 0;
        share(&b->g, p, 0, p->n, rows[i], &b->work[which[i]], s[i], &f[i]);
    }
    if (rc == 0) rc = (s[n] = open_session(b->r, &e)) == NULL ? -1 : 0;
    apus_diag d = {0};
    if (rc == 0 && apus_feed_batch(e.engine, f, n, NULL, NULL, &d) != APUS_OK) {
        fail(b->r, "batch of %d prompts: %s", n, d.text);
        rc = -1;
    }
    for (int i = 0; i < n && rc == 0; i++) {
        const trace *t = &b->work[which[i]];
        const gold_prompt *p = &b->g.prompt[which[i]];
        memcpy(t->steps, t->rows + (size_t)(p->n_pos - 1) * v, v * sizeof(float));
    }
    const gold_prompt *extra = &b->g.prompt[which[0]];
    for (int step = 1, fed = 0; step < GOLD_GREEDY && rc == 0; step++) {
        int m = n;
        for (int i = 0; i < n; i++) {
            const gold_prompt *p = &b->g.prompt[which[i]];
            f[i] = (apus_feed){.session = s[i],
                               .tok = &p->greedy[step - 1],
                               .n = 1,
                               .logits = b->work[which[i]].steps + (size_t)step * v};
        }
        int more = step % 4 < extra->n - fed ? step % 4 : extra->n - fed;
        if (more > 0) {
            f[m++] = (apus_feed){.session = s[n], .tok = extra->ids + fed, .n = more};
            fed += more;
        }
        if (apus_feed_batch(e.engine, f, m, NULL, NULL, &d) != APUS_OK) {
            fail(b->r, "batched step %d: %s", step, d.text);
            rc = -1;
        }
    }
    for (int i = 0; i < n && rc == 0; i++)
        compare_self(b->r, &b->g, which[i], "in a batch", &b->base[which[i]], &b->work[which[i]], 0,
                     GOLD_GREEDY, true);
    for (int i = 0; i <= n; i++) apus_session_free(s[i]);
    for (int i = 0; i < n; i++) free(rows[i]);
    rig_close(&e);
}

/* First of the golden's rows at or after position `from`. */
static int row_from(const gold_prompt *p, int from)
{
    int i = 0;
    while (i < p->n_pos && p->pos[i] < from) i++;
    return i;
}

/* Run to the end and beyond, go back to several places, and come again. */
static void check_rewind(bench *b)
{
    rig e;
    if (rig_open(b->r, b->folder, &b->g, plain(b), &e) != 0) return;
    for (int k = 0; k < b->g.n_prompt; k++) {
        const gold_prompt *p = &b->g.prompt[k];
        const int back[] = {p->n - 1, p->n / 2, p->n > 3 ? 3 : 0, 0, p->n - p->n / 4};
        if (!selected(b, k, 1 << 30)) continue;
        apus_session *s = open_session(b->r, &e);
        int rc = s == NULL ? -1 : feed_prompt(b->r, &e, &b->g, p, 0, 0, s, &b->work[k]);
        if (rc == 0) rc = walk(b->r, &b->g, p, GOLD_GREEDY, s, &b->work[k]);
        for (size_t i = 0; i < sizeof back / sizeof *back && rc == 0; i++) {
            apus_diag d = {0};
            char what[64];
            snprintf(what, sizeof what, "rewound to %d", back[i]);
            if (apus_session_rewind(s, back[i], &d) != APUS_OK) {
                fail(b->r, "apus_session_rewind to %d: %s", back[i], d.text);
                break;
            }
            if (apus_session_pos(s) != back[i])
                fail(b->r, "%s: apus_session_pos is %d", what, apus_session_pos(s));
            rc = feed_prompt(b->r, &e, &b->g, p, back[i], 0, s, &b->work[k]);
            if (rc == 0) rc = walk(b->r, &b->g, p, 8, s, &b->work[k]);
            if (rc == 0)
                compare_self(b->r, &b->g, k, what, &b->base[k], &b->work[k], row_from(p, back[i]),
                             8, true);
        }
        apus_session_free(s);
    }
    rig_close(&e);
}

/* Fork half-way; the parent goes astray and is freed while the fork goes on. */
static void check_fork(bench *b)
{
    rig e;
    rig_spec spec = plain(b);
    spec.sessions = 2;
    if (rig_open(b->r, b->folder, &b->g, spec, &e) != 0) return;
    for (int k = 0; k < b->g.n_prompt; k++) {
        const gold_prompt *p = &b->g.prompt[k];
        apus_diag d = {0};
        apus_session *child = NULL;
        int half = p->n / 2, rc = 0;
        if (!selected(b, k, 1 << 30) || half == 0) continue;
        apus_session *s = open_session(b->r, &e);
        if (s == NULL || apus_session_feed(s, p->ids, half, NULL, &d) != APUS_OK ||
            apus_session_fork(s, &child, &d) != APUS_OK) {
            fail(b->r, "fork at %d: %s", half, d.text);
            rc = -1;
        }
        if (rc == 0 && apus_session_feed(s, p->greedy, GOLD_GREEDY, NULL, &d) != APUS_OK) {
            fail(b->r, "parent of a fork at %d: %s", half, d.text);
            rc = -1;
        }
        if (rc == 0) rc = feed_prompt(b->r, &e, &b->g, p, half, 0, child, &b->work[k]);
        apus_session_free(s);
        if (rc == 0) rc = walk(b->r, &b->g, p, GOLD_GREEDY, child, &b->work[k]);
        if (rc == 0)
            compare_self(b->r, &b->g, k, "forked", &b->base[k], &b->work[k], row_from(p, half),
                         GOLD_GREEDY, true);
        apus_session_free(child);
    }
    rig_close(&e);
}

/* Continue a loaded session of prompt k at `half`. */
static void check_loaded(bench *b, rig *e, int k, int half, const char *path, const char *what)
{
    const gold_prompt *p = &b->g.prompt[k];
    apus_diag d = {0};
    apus_session *s = NULL;
    if (apus_session_load(e->engine, path, &s, &d) != APUS_OK) {
        fail(b->r, "%s: apus_session_load: %s", what, d.text);
        return;
    }
    if (apus_session_pos(s) != half ||
        memcmp(apus_session_tokens(s), p->ids, (size_t)half * sizeof(int32_t)) != 0)
        fail(b->r, "%s: other tokens than were saved", what);
    else if (feed_prompt(b->r, e, &b->g, p, half, 0, s, &b->work[k]) == 0 &&
             walk(b->r, &b->g, p, GOLD_GREEDY, s, &b->work[k]) == 0)
        compare_self(b->r, &b->g, k, what, &b->base[k], &b->work[k], row_from(p, half), GOLD_GREEDY,
                     true);
    apus_session_free(s);
}

/* Save half-way, load into the same engine and into a fresh one. */
static void check_save(bench *b)
{
    rig e, fresh;
    rig_spec spec = plain(b);
    char path[] = "/tmp/apus_golden_XXXXXX";
    int fd = mkstemp(path);
    if (fd < 0) {
        fail(b->r, "cannot make a temporary file");
        return;
    }
    close(fd);
    spec.sessions = 2;
    if (rig_open(b->r, b->folder, &b->g, spec, &e) != 0) goto done;
    spec.threads = 2;
    spec.chunk = 48;
    if (rig_open(b->r, b->folder, &b->g, spec, &fresh) != 0) {
        rig_close(&e);
        goto done;
    }
    for (int k = 0; k < b->g.n_prompt; k++) {
        const gold_prompt *p = &b->g.prompt[k];
        apus_diag d = {0};
        int half = p->n - p->n / 3 - 1;
        if (!selected(b, k, 1 << 30) || half <= 0) continue;
        apus_session *s = open_session(b->r, &e);
        if (s == NULL || apus_session_feed(s, p->ids, half, NULL, &d) != APUS_OK ||
            apus_session_save(s, path, &d) != APUS_OK) {
            fail(b->r, "save at %d: %s", half, d.text);
        } else {
            check_loaded(b, &e, k, half, path, "loaded");
            check_loaded(b, &fresh, k, half, path, "loaded into a fresh engine");
        }
        apus_session_free(s);
    }
    rig_close(&fresh);
    rig_close(&e);
done:
    remove(path);
}

typedef struct collector {
    int32_t ids[GOLD_GREEDY];
    int n;
} collector;

static bool collect(void *ctx, int32_t id)
{
    collector *c = ctx;
    if (c->n < GOLD_GREEDY) c->ids[c->n++] = id;
    return true;
}

/* apus_generate with temperature 0 must take the largest logit, as long as our own path and the
 * golden's agree (after a near tie they part). */
static void check_generate(bench *b)
{
    rig e;
    size_t v = (size_t)b->g.vocab;
    if (rig_open(b->r, b->folder, &b->g, plain(b), &e) != 0) return;
    for (int k = 0; k < b->g.n_prompt; k++) {
        const gold_prompt *p = &b->g.prompt[k];
        apus_generate_settings set;
        apus_generate_result res = {.size = sizeof res};
        apus_diag d = {0};
        collector c = {.n = 0};
        if (!selected(b, k, 200)) continue;
        apus_generate_settings_default(e.model, &set);
        apus_sampling_default(&set.sampling);
        set.sampling.temperature = 0;
        set.max_tokens = GOLD_GREEDY;
        set.ignore_eos = true;
        set.on_token = collect;
        set.progress = NULL;
        set.ctx = &c;
        apus_session *s = open_session(b->r, &e);
        if (s == NULL || apus_generate(s, p->ids, p->n, &set, &res, &d) != APUS_OK) {
            fail(b->r, "apus_generate, prompt %d: %s", k, d.text);
        } else if (c.n != GOLD_GREEDY || res.n_generated != GOLD_GREEDY || res.n_prompt != p->n) {
            fail(b->r, "apus_generate, prompt %d: %d tokens reported, result says %d after %d", k,
                 c.n, res.n_generated, res.n_prompt);
        } else {
            b->r->checks++;
            for (int i = 0; i < GOLD_GREEDY; i++) {
                int want = argmax(b->base[k].steps + (size_t)i * v, b->g.vocab);
                if (c.ids[i] != want) {
                    fail(b->r, "apus_generate, prompt %d: token %d is %d, expected %d", k, i,
                         c.ids[i], want);
                    break;
                }
                if (want != p->greedy[i]) break;
            }
        }
        apus_session_free(s);
    }
    rig_close(&e);
}

static bool has_recurrent(const char *folder)
{
    apus_model_settings ms;
    apus_model *m = NULL;
    apus_info info = {.size = sizeof info};
    apus_model_settings_default(&ms);
    ms.load = APUS_LOAD_INFO;
    if (apus_model_open(folder, &ms, &m, NULL) != APUS_OK) return false;
    bool yes = apus_model_info(m, &info, NULL) == APUS_OK && info.n_recurrent > 0;
    apus_model_close(m);
    return yes;
}

static int check_model(const options *o, const char *folder, const char *name)
{
    report r = {.name = name, .verbose = o->verbose};
    bench *b = need(sizeof *b);
    b->r = &r;
    b->o = o;
    b->folder = folder;
    if (gold_read(folder, &b->g) != 0) {
        free(b);
        return 1;
    }
    for (int k = 0; k < b->g.n_prompt; k++) {
        b->base[k] = trace_new(&b->g, &b->g.prompt[k]);
        b->work[k] = trace_new(&b->g, &b->g.prompt[k]);
    }
    if (check_reference(b) == 0) {
        rig_spec two = plain(b);
        check_chunks(b);
        two.threads = 2;
        check_variant(b, "two threads", two, 0, 1 << 30, true);
        two.threads = 3;
        check_variant(b, "three threads, pieces of 33", two, 33, 1 << 30, true);
        check_levels(b);
        if (has_recurrent(folder)) check_gdn_chunked(b);
        check_neighbours(b);
        check_rewind(b);
        check_fork(b);
        check_save(b);
        check_generate(b);
    }
    printf("%-14s %d checks, %d failures, %d not bit-equal within tolerance\n", name, r.checks,
           r.failures, r.not_bit_equal);
    for (int k = 0; k < b->g.n_prompt; k++) {
        trace_free(&b->base[k]);
        trace_free(&b->work[k]);
    }
    gold_free(&b->g);
    free(b);
    return r.failures > 0;
}

/* ---------------------------------------------------------------- command line */

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Every folder of `data` with a golden, in order of names. */
static int check_all(const options *o)
{
    char *names[512];
    int n = 0, bad = 0;
    DIR *dir = opendir(o->data);
    if (dir == NULL) {
        fprintf(stderr, "cannot open %s\n", o->data);
        return 2;
    }
    for (struct dirent *e; (e = readdir(dir)) != NULL && n < 512;)
        if (e->d_name[0] != '.' && (o->model == NULL || strcmp(o->model, e->d_name) == 0))
            names[n++] = strdup(e->d_name);
    closedir(dir);
    qsort(names, (size_t)n, sizeof *names, by_name);
    for (int i = 0; i < n; i++) {
        char folder[4096];
        snprintf(folder, sizeof folder, "%s/%s", o->data, names[i]);
        bad += check_model(o, folder, names[i]);
        fflush(stdout);
        free(names[i]);
    }
    if (n == 0) {
        fprintf(stderr, "no model%s%s in %s\n", o->model ? " " : "", o->model ? o->model : "",
                o->data);
        return 2;
    }
    printf("%d of %d models passed\n", n - bad, n);
    return bad > 0;
}

int main(int argc, char **argv)
{
    options o = {.data = "tests/golden/data"};
    for (int i = 1; i < argc; i++) {
        apus_diag d = {0};
        if (strcmp(argv[i], "--quick") == 0) {
            o.quick = true;
        } else if (strcmp(argv[i], "--verbose") == 0) {
            o.verbose = true;
        } else if (strcmp(argv[i], "--data") == 0 && i + 1 < argc) {
            o.data = argv[++i];
        } else if (strcmp(argv[i], "--model") == 0 && i + 1 < argc) {
            o.model = argv[++i];
        } else if (strcmp(argv[i], "--cpumask") == 0 && i + 1 < argc) {
            if (apus_cpu_parse(argv[++i], &o.cpu, &d) != APUS_OK) {
                fprintf(stderr, "%s\n", d.text);
                return 2;
            }
        } else {
            fprintf(stderr, "usage: test_golden [--data DIR] [--model NAME] [--quick] "
                            "[--cpumask LEVEL] [--verbose]\n");
            return 2;
        }
    }
    return check_all(&o);
}
