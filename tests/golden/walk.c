/* walk.c - sessions under random operations and under cancelled calls. Whatever was done before,
 * the logits after a sequence of tokens are, to the bit, those of feeding that sequence once. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "runner.h"

#define N_SESSION 5
#define N_OPS     250

/* Every position's logits along a prompt and its greedy tokens. */
typedef struct line {
    int32_t *tok;  /* i32 [n] */
    float *logits; /* f32 [n, V] */
    int n, vocab;
} line;

static void line_free(line *l)
{
    free(l->tok);
    free(l->logits);
    memset(l, 0, sizeof *l);
}

static int line_make(bench *b, int k, line *l)
{
    const gold_prompt *p = &b->g.prompt[k];
    rig e;
    apus_diag d = {0};
    l->n = p->n + GOLD_GREEDY - 1;
    l->vocab = b->g.vocab;
    l->tok = need((size_t)l->n * sizeof *l->tok);
    l->logits = need((size_t)l->n * (size_t)l->vocab * sizeof(float));
    memcpy(l->tok, p->ids, (size_t)p->n * sizeof(int32_t));
    memcpy(l->tok + p->n, p->greedy, (size_t)(GOLD_GREEDY - 1) * sizeof(int32_t));
    if (rig_open(b->r, b->folder, &b->g, plain(b), &e) != 0) return -1;
    int32_t *rows = need((size_t)l->n * sizeof *rows);
    for (int i = 0; i < l->n; i++) rows[i] = i;
    apus_session *s = open_session(b->r, &e);
    apus_feed f = {.size = sizeof(apus_feed),
                   .session = s,
                   .tok = l->tok,
                   .n = l->n,
                   .logits = l->logits,
                   .rows = rows,
                   .n_rows = l->n};
    int rc = s == NULL ? -1 : 0;
    if (rc == 0 && apus_feed_batch(e.engine, &f, 1, NULL, NULL, &d) != APUS_OK) {
        fail(b->r, "feeding %d tokens with all rows: %s", l->n, d.text);
        rc = -1;
    }
    apus_session_free(s);
    rig_close(&e);
    free(rows);
    return rc;
}

/* The logits after `pos` tokens against the line's. */
static void check_at(bench *b, const line *l, int pos, const float *got, const char *what)
{
    const float *want = l->logits + (size_t)(pos - 1) * (size_t)l->vocab;
    b->r->checks++;
    if (memcmp(want, got, (size_t)l->vocab * sizeof(float)) != 0)
        fail(b->r, "%s: logits after %d tokens are not those of one feed (%.6f, expected %.6f)",
             what, pos, got[0], want[0]);
}

/* ---------------------------------------------------------------- random operations */

/* A small generator of our own, so that every run takes the same walk. */
static unsigned draw(uint64_t *state, unsigned below)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return below ? (unsigned)(*state >> 33) % below : 0;
}

typedef struct walker {
    bench *b;
    rig e;
    const line *l;
    apus_session *s[N_SESSION];
    float *logits; /* f32 [N_SESSION, V] */
    const char *path;
    uint64_t rng;
} walker;

/* Feed some tokens to some of the sessions in one batch, mostly few, at times many. */
static int op_feed(walker *w, int op)
{
    apus_feed f[N_SESSION];
    int to[N_SESSION], n = 0;
    size_t v = (size_t)w->l->vocab;
    apus_diag d = {0};
    char what[64];
    for (int i = 0; i < N_SESSION; i++) {
        if (w->s[i] == NULL || draw(&w->rng, 3) == 0) continue;
        int pos = apus_session_pos(w->s[i]), left = w->l->n - pos;
        int most = draw(&w->rng, 4) == 0 ? left : 4;
        int count = 1 + (int)draw(&w->rng, (unsigned)(most < left ? most : left));
        if (left <= 0) continue;
        f[n] = (apus_feed){.size = sizeof(apus_feed),
                           .session = w->s[i],
                           .tok = w->l->tok + pos,
                           .n = count < left ? count : left,
                           .logits = w->logits + (size_t)n * v};
        to[n] = pos + f[n].n;
        n++;
    }
    if (n == 0) return 0;
    if (apus_feed_batch(w->e.engine, f, n, NULL, NULL, &d) != APUS_OK) {
        fail(w->b->r, "walk, operation %d, batch of %d: %s", op, n, d.text);
        return -1;
    }
    for (int i = 0; i < n; i++) {
        snprintf(what, sizeof what, "walk, operation %d (feed of %d)", op, f[i].n);
        check_at(w->b, w->l, to[i], w->logits + (size_t)i * v, what);
    }
    return 0;
}

static int op_rewind(walker *w, int i)
{
    apus_diag d = {0};
    int pos = apus_session_pos(w->s[i]);
    int to = draw(&w->rng, 2) ? (int)draw(&w->rng, (unsigned)pos + 1)
                              : pos - (int)draw(&w->rng, (unsigned)(pos < 9 ? pos : 9) + 1);
    if (apus_session_rewind(w->s[i], to, &d) == APUS_OK && apus_session_pos(w->s[i]) == to)
        return 0;
    fail(w->b->r, "walk: rewind from %d to %d: %s", pos, to, d.text);
    return -1;
}

/* Replace session i by a fork of another one, or by itself through a file. */
static int op_copy(walker *w, int i, bool file)
{
    apus_diag d = {0};
    apus_session *copy = NULL;
    int from = (int)draw(&w->rng, N_SESSION);
    if (w->s[from] == NULL) from = i;
    if (w->s[from] == NULL || (file && apus_session_pos(w->s[from]) == 0)) return 0;
    int pos = apus_session_pos(w->s[from]);
    apus_err err = APUS_OK;
    if (file) err = apus_session_save(w->s[from], w->path, &d);
    if (from != i) {
        apus_session_free(w->s[i]);
        w->s[i] = NULL;
    }
    if (!err)
        err = file ? apus_session_load(w->e.engine, w->path, &copy, &d)
                   : apus_session_fork(w->s[from], &copy, &d);
    if (err || apus_session_pos(copy) != pos ||
        (pos > 0 && memcmp(apus_session_tokens(copy), w->l->tok, (size_t)pos * 4) != 0)) {
        fail(w->b->r, "walk: %s at %d tokens: %s", file ? "save and load" : "fork", pos, d.text);
        apus_session_free(copy);
        return -1;
    }
    if (from == i) apus_session_free(w->s[i]);
    w->s[i] = copy;
    return 0;
}

static int op_renew(walker *w, int i)
{
    apus_session_free(w->s[i]);
    w->s[i] = open_session(w->b->r, &w->e);
    return w->s[i] == NULL ? -1 : 0;
}

static void walk_line(bench *b, int k, const line *l, rig_spec spec, const char *path)
{
    walker w = {.b = b, .l = l, .path = path, .rng = (uint64_t)k * 77 + 5};
    int rc = rig_open(b->r, b->folder, &b->g, spec, &w.e);
    if (rc != 0) return;
    w.logits = need((size_t)N_SESSION * (size_t)l->vocab * sizeof(float));
    for (int i = 0; i < N_SESSION && rc == 0; i++) rc = op_renew(&w, i);
    for (int op = 0; op < N_OPS && rc == 0; op++) {
        int i = (int)draw(&w.rng, N_SESSION);
        unsigned kind = draw(&w.rng, 20);
        if (kind < 12 || w.s[i] == NULL)
            rc = op_feed(&w, op);
        else if (kind < 16)
            rc = op_rewind(&w, i);
        else if (kind < 18)
            rc = op_copy(&w, i, false);
        else if (kind < 19)
            rc = op_copy(&w, i, true);
        else
            rc = op_renew(&w, i);
    }
    for (int i = 0; i < N_SESSION; i++) apus_session_free(w.s[i]);
    free(w.logits);
    rig_close(&w.e);
}

/* One line at a time, N_SESSION sessions along it, 250 operations. One session more than are alive
 * is there for copies in the making. */
void check_random_walk(bench *b)
{
    char path[] = "/tmp/apus_walk_XXXXXX";
    int fd = mkstemp(path);
    if (fd < 0) {
        fail(b->r, "cannot make a temporary file");
        return;
    }
    close(fd);
    for (int k = 0; k < b->g.n_prompt; k++) {
        line l = {0};
        rig_spec spec = plain(b);
        spec.sessions = N_SESSION + 1;
        spec.threads = 1 + k % 2;
        spec.chunk = 16 + 37 * k;
        if (b->g.prompt[k].n < 17 || !selected(b, k, 1 << 30)) continue;
        if (line_make(b, k, &l) == 0) walk_line(b, k, &l, spec, path);
        line_free(&l);
    }
    remove(path);
}

/* ---------------------------------------------------------------- cancelled calls */

/* The engine that the next alarm cancels. */
static apus_engine *volatile ringing;

static void ring(int signal)
{
    (void)signal;
    apus_cancel(ringing);
}

/* Cancel what runs on e in `us` microseconds, from a signal handler on this thread, so that a busy
 * machine makes the moment no less random. 0 = no more. */
static void set_alarm(apus_engine *e, long us)
{
    struct sigaction act = {.sa_handler = ring};
    struct itimerval t = {.it_value.tv_usec = us % 1000000, .it_value.tv_sec = us / 1000000};
    ringing = e;
    sigaction(SIGALRM, &act, NULL);
    setitimer(ITIMER_REAL, &t, NULL);
}

static long now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (long)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static bool refuse(void *ctx, const char *stage, uint64_t done, uint64_t total)
{
    (void)stage, (void)done, (void)total;
    apus_cancel(ctx); /* seen inside the first step */
    return true;
}

/* After a call that may have been cancelled: the session stands at `before` or, if the call had
 * come to its end, at `after`. It must go on as if nothing had been. */
static void go_on(bench *b, const line *l, apus_session *s, apus_err err, int before, int after,
                  float *logits, const char *what)
{
    apus_diag d = {0};
    int pos = apus_session_pos(s), want = err == APUS_OK ? after : before;
    if ((err != APUS_OK && err != APUS_ECANCELLED) || pos != want) {
        fail(b->r, "%s: code %d, position %d, expected %d", what, (int)err, pos, want);
        return;
    }
    int n = l->n - pos < 5 ? l->n - pos : 5;
    if (apus_session_feed(s, l->tok + pos, n, logits, &d) != APUS_OK) {
        fail(b->r, "%s: feeding on from %d: %s", what, pos, d.text);
        return;
    }
    check_at(b, l, pos + n, logits, what);
}

/* Feeds and rewinds that are cancelled at their first step, and at random moments. */
static void cancel_line(bench *b, const line *l, rig *e)
{
    float *logits = need((size_t)l->vocab * sizeof(float));
    apus_session *s = open_session(b->r, e);
    apus_diag d = {0};
    int half = l->n / 2 + 3, most = l->n - 6, stopped = 0;
    long per_token_ns = 20000; /* measured below */
    if (s == NULL) goto done;
    if (apus_session_feed(s, l->tok, half, NULL, &d) != APUS_OK) {
        fail(b->r, "feed: %s", d.text);
        goto done;
    }
    apus_feed f = {.size = sizeof(apus_feed), .session = s, .tok = l->tok + half, .n = most - half};
    apus_err err = apus_feed_batch(e->engine, &f, 1, refuse, e->engine, &d);
    if (err != APUS_ECANCELLED) fail(b->r, "cancelled feed gave code %d", (int)err);
    go_on(b, l, s, err, half, most, logits, "after a feed cancelled in its first step");
    for (int i = 0; i < 24; i++) {
        bool back = i % 3 == 2;
        int before = back ? most : i * 7 % half + 1, after = back ? half - i : most;
        int pos = apus_session_pos(s);
        apus_err prep = apus_session_rewind(s, before < pos ? before : pos, &d);
        long began = now_us();
        pos = apus_session_pos(s);
        if (!prep && pos < before)
            prep = apus_session_feed(s, l->tok + pos, before - pos, NULL, &d);
        if (prep != APUS_OK) {
            fail(b->r, "making ready for a cancel: %s", d.text);
            break;
        }
        if (pos + 40 < before) per_token_ns = (now_us() - began) * 1000 / (before - pos);
        long whole_us = (back ? after : after - before) * per_token_ns / 1000;
        set_alarm(e->engine, 1 + whole_us * (i + 1) / 30);
        err = back ? apus_session_rewind(s, after, &d)
                   : apus_session_feed(s, l->tok + before, after - before, logits, &d);
        set_alarm(e->engine, 0);
        stopped += err == APUS_ECANCELLED;
        go_on(b, l, s, err, before, after, logits,
              back ? "after a rewind cancelled at some moment"
                   : "after a feed cancelled at some moment");
    }
    if (b->r->verbose)
        printf("  %d of 24 calls cancelled midway, line of %d tokens\n", stopped, l->n);
done:
    apus_session_free(s);
    free(logits);
}

/* A rewind far back computes pages again that a sliding window has given up. If it is cancelled on
 * the way, half-written pages must not pass for whole ones when the next rewind ends in them. */
static void cancel_old_pages(bench *b, const line *l, rig *e)
{
    static const int into[] = {60, 120, 185};
    float *logits = need((size_t)l->vocab * sizeof(float));
    apus_session *s = open_session(b->r, e);
    apus_diag d = {0};
    int stopped = 0;
    long whole_us = 0;
    for (int i = 0; i < 48 && s != NULL; i++) {
        int pos = apus_session_pos(s), to = into[i % 3];
        if (apus_session_feed(s, l->tok + pos, l->n - 1 - pos, NULL, &d) != APUS_OK) {
            fail(b->r, "making ready for a cancelled rewind: %s", d.text);
            break;
        }
        long began = now_us();
        if (i > 0) set_alarm(e->engine, 1 + whole_us * i / 48); /* the first one is measured */
        apus_err err = apus_session_rewind(s, 190, &d);
        set_alarm(e->engine, 0);
        if (i == 0) whole_us = now_us() - began;
        stopped += err == APUS_ECANCELLED;
        if (apus_session_rewind(s, to, &d) != APUS_OK ||
            apus_session_feed(s, l->tok + to, 1, logits, &d) != APUS_OK) {
            fail(b->r, "going back to %d after a cancelled rewind: %s", to, d.text);
            break;
        }
        check_at(b, l, to + 1, logits, "going back into pages of a cancelled rewind");
    }
    if (b->r->verbose)
        printf("  %d of 48 long rewinds cancelled midway, line of %d tokens\n", stopped, l->n);
    apus_session_free(s);
    free(logits);
}

void check_cancel(bench *b)
{
    for (int k = 0; k < b->g.n_prompt; k++) {
        line l = {0};
        rig e;
        rig_spec spec = plain(b);
        spec.chunk = 50;
        spec.sessions = 2;
        if (b->g.prompt[k].n < 70 || !selected(b, k, 1 << 30)) continue;
        if (line_make(b, k, &l) == 0 && rig_open(b->r, b->folder, &b->g, spec, &e) == 0) {
            cancel_line(b, &l, &e);
            if (l.n > 200) cancel_old_pages(b, &l, &e);
            rig_close(&e);
        }
        line_free(&l);
    }
}
