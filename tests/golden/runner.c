#include "runner.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_FAIL_LINES 20

void *need(size_t bytes)
{
    void *p = calloc(1, bytes ? bytes : 1);
    if (p == NULL) {
        fprintf(stderr, "out of memory\n");
        exit(2);
    }
    return p;
}

void fail(report *r, const char *fmt, ...)
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

void rig_close(rig *g)
{
    apus_engine_free(g->engine);
    few_slots_free(g->slots);
    apus_model_close(g->model);
    memset(g, 0, sizeof *g);
}

int rig_open(report *r, const char *folder, const gold *g, rig_spec spec, rig *out)
{
    apus_diag d = {0};
    apus_model_settings ms;
    apus_engine_settings es;
    memset(out, 0, sizeof *out);
    apus_model_settings_default(&ms);
    ms.cpu = spec.cpu;
    ms.threads = spec.threads;
    ms.device = spec.device;
    if (apus_model_open(folder, &ms, &out->model, &d) != APUS_OK) {
        fail(r, "apus_model_open: %s", d.text);
        return -1;
    }
    if (spec.own_files)
        out->slots = few_slots_make_copy(out->model, spec.expert_slots);
    else if (spec.expert_slots) /* threads for every second test */
        out->slots = few_slots_make(out->model, spec.expert_slots, spec.expert_slots % 2 == 0);
    apus_engine_settings_default(&es);
    es.cpu = spec.cpu;
    es.threads = spec.threads;
    es.ctx = g->max_n + GOLD_GREEDY + 8;
    es.prefill_chunk = spec.chunk;
    es.max_sessions = spec.sessions;
    es.gdn_chunked = spec.gdn_chunked;
    es.kv = spec.kv ? spec.kv : APUS_KV_F32;
    if (apus_engine_create(out->model, &es, &out->engine, &d) != APUS_OK) {
        fail(r, "apus_engine_create: %s", d.text);
        rig_close(out);
        return -1;
    }
    return 0;
}

apus_session *open_session(report *r, rig *g)
{
    apus_diag d = {0};
    apus_session *s = NULL;
    if (apus_session_create(g->engine, &s, &d) != APUS_OK)
        fail(r, "apus_session_create: %s", d.text);
    return s;
}

trace trace_new(const gold *g, const gold_prompt *p)
{
    trace t;
    t.rows = need((size_t)p->n_pos * (size_t)g->vocab * sizeof(float));
    t.steps = need((size_t)GOLD_GREEDY * (size_t)g->vocab * sizeof(float));
    return t;
}

void trace_free(trace *t)
{
    free(t->rows);
    free(t->steps);
    memset(t, 0, sizeof *t);
}

/* Make `f` the share of prompt tokens [from, to), with the golden's rows among them. `rows` is room
 * for n_pos indices; the logits land where a whole run would put them. */
void share(const gold *g, const gold_prompt *p, int from, int to, int32_t *rows, trace *t,
           apus_session *s, apus_feed *f)
{
    int first = 0;
    memset(f, 0, sizeof *f);
    f->size = sizeof *f;
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
int feed_prompt(report *r, rig *e, const gold *g, const gold_prompt *p, int from, int piece,
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
int walk(report *r, const gold *g, const gold_prompt *p, int n, apus_session *s, trace *t)
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
int run_prompt(report *r, rig *e, const gold *g, const gold_prompt *p, int piece, trace *t)
{
    apus_session *s = open_session(r, e);
    int rc = s == NULL ? -1 : feed_prompt(r, e, g, p, 0, piece, s, t);
    if (rc == 0) rc = walk(r, g, p, GOLD_GREEDY, s, t);
    apus_session_free(s);
    return rc;
}

/* ---------------------------------------------------------------- comparing */

int argmax(const float *x, int n)
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
void compare_self(report *r, const gold *g, int k, const char *what, const trace *want,
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

/* How far logits may be from the reference's. */
static double room_of(const report *r, const float *want, int n, float noise)
{
    double sum = 0, squares = 0, room = TOL_GOLD;
    for (int i = 0; i < n && r->device; i++) {
        sum += (double)want[i];
        squares += (double)want[i] * (double)want[i];
    }
    if (r->device) room = fmax(room, TOL_DEVICE * sqrt(fmax(squares / n - sum / n * (sum / n), 0)));
    return fmax(room, 2.0 * (double)noise);
}

/* Our run against the reference. Returns the largest distance over the rows that count. */
double compare_gold(report *r, const gold *g, int k, const char *what, const trace *t,
                    int *near_token, int *near_router)
{
    const gold_prompt *p = &g->prompt[k];
    size_t v = (size_t)g->vocab;
    double worst = 0, rgap_near = r->device ? 10 * RGAP_NEAR : RGAP_NEAR;
    bool told = false;
    r->checks++;
    for (int i = 0; i < p->n_pos; i++) {
        const float *a = p->logits + (size_t)i * v, *b = t->rows + (size_t)i * v;
        if (p->rgap != NULL && (double)p->rgap[p->pos[i]] < rgap_near) {
            (*near_router)++;
            continue;
        }
        double d = distance(a, b, g->vocab);
        worst = d > worst ? d : worst;
        if (!(d <= room_of(r, a, g->vocab, p->noise[i])) && !told) {
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
        if (p->rgap != NULL && (double)p->rgap[p->n - 1 + i] < rgap_near) {
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
bool selected(const bench *b, int k, int limit)
{
    return b->g.prompt[k].n <= limit && (!b->o->quick || b->g.prompt[k].n <= 70);
}

rig_spec plain(const bench *b)
{
    return (rig_spec){.cpu = b->o->cpu,
                      .threads = 1,
                      .sessions = 1,
                      .device = b->o->device,
                      .expert_slots = b->expert_slots};
}
