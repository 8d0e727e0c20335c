/* call.c - feeding as a transaction: a call runs steps over its sessions until all tokens of all of them are
 * computed, and is undone as a whole if it does not come to its end.
 *
 * Undoing: positions and block tables are cut back to where they were. Pages that the old positions
 * need are held during the call (state/kv.h); rows written behind an old position are never read.
 *
 * Recurrent states change in place and have tens of megabytes in large models, so they are copied before the
 * call only where it can be stopped half-way: in lanes with more than a few tokens (ap_recur_backup). Lanes with
 * few, as in decoding, wait until those are done, or about to be, and run in steps at the end that are not
 * stopped. Should such a step fail nevertheless, with logits that are not finite, their tokens are run again from
 * a snapshot. Experts that are read from disk take longer than the copy and may fail, so with them every lane has
 * one.
 *
 * Asked of a forward pass that is cancelled: every K and V value in the pages of its step is either
 * what was there or what the whole pass would have written. A rewind may run old tokens again over
 * pages in use; the same tokens give the same bits (to rounding with gdn_chunked). */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "engine/engine.h"

#define PROMPT_CALL 8 /* more tokens than this at once are a prompt: its end is a turn */
#define PROGRESS_US 50000
#define SHORT_STEP                                                                                 \
    (2 * AP_PAGE) /* rows of a step that lanes without a copy may join: it cannot be stopped */

typedef struct call {
    apus_engine *e;
    ap_lane *lane; /* [n_lane] */
    int n_lane;
    int64_t total, done; /* tokens */
    bool stops_lanes;    /* a lane whose session is cancelled ends alone */
    bool runs_through;   /* nothing stops it */
    bool keeps;          /* the last row of each lane stays in the engine's logits */
    bool tries;          /* lanes with more than a token do (step.h) */
    int kept;            /* of these, so far */
    apus_progress_fn progress;
    void *progress_ctx;
    int64_t progress_us; /* of the last report */
} call;

/* ---------------------------------------------------------------- checks */

#define ONLY (-1) /* in the place of a feed's number: there is no other to tell it from */

/* "feed 2: ", or nothing */
static const char *which(int i, char out[24])
{
    out[0] = 0;
    if (i != ONLY) snprintf(out, 24, "feed %d: ", i);
    return out;
}

static apus_err check_rows(const apus_feed *f, int i, apus_diag *diag)
{
    char at[24];
    if (!f->logits || !f->rows) return APUS_OK;
    for (int j = 0; j < f->n_rows; j++) {
        int low = j ? f->rows[j - 1] + 1 : 0;
        if (f->rows[j] < low || f->rows[j] >= f->n)
            return ap_fail(diag, APUS_EINVAL,
                           "%srows[%d]: expected ascending indices, here %d to %d, found %d",
                           which(i, at), j, low, f->n - 1, (int)f->rows[j]);
    }
    return f->n_rows >= 1 ? APUS_OK
                          : ap_fail(diag, APUS_EINVAL, "%sn_rows: expected at least 1, found %d",
                                    which(i, at), f->n_rows);
}

static apus_err check_feed(const apus_engine *e, const apus_feed *f, int i, apus_diag *diag)
{
    char at[24];
    which(i, at);
    if (f->size != sizeof *f)
        return ap_fail(diag, APUS_EINVAL, "%sapus_feed.size: expected %zu, found %zu", at,
                       sizeof *f, f->size);
    if (!f->session || f->session->engine != e || !f->session->used)
        return ap_fail(diag, APUS_EINVAL, "%snot a session of this engine", at);
    if (f->n < 1 || !f->tok)
        return ap_fail(diag, APUS_EINVAL, "%sn: expected at least 1 token, found %d", at,
                       f->tok ? f->n : 0);
    for (int j = 0; j < f->n; j++)
        if ((f->tok[j] < 0 || f->tok[j] >= e->size.vocab) &&
            !(f->n_media && ap_media_is_place(e->model, f->tok[j])))
            return ap_fail(diag, APUS_EINVAL,
                           i == ONLY ? "%stoken %d: expected an id of 0 to %d, found %d"
                                     : "%stok[%d]: expected an id of 0 to %d, found %d",
                           at, j, e->size.vocab - 1, (int)f->tok[j]);
    int room = apus_session_room(f->session);
    if (f->n > room)
        return ap_fail(diag, APUS_EFULL,
                       "%s%d tokens do not fit: %d of the context's %d are taken, room for %d", at,
                       f->n, f->session->pos, e->size.ctx, room);
    apus_err err = ap_media_check(e, f, at, diag);
    return err ? err : check_rows(f, i, diag);
}

static apus_err check_feeds(apus_engine *e, const apus_feed *feeds, int n_feeds, apus_diag *diag)
{
    if (!feeds || n_feeds < 1 || n_feeds > e->size.n_session)
        return ap_fail(diag, APUS_EINVAL, "n_feeds: expected 1 to %d, found %d", e->size.n_session,
                       feeds ? n_feeds : 0);
    apus_err err = APUS_OK;
    int n = 0; /* good ones, marked */
    while (n < n_feeds && !err) {
        err = check_feed(e, &feeds[n], n_feeds == 1 ? ONLY : n, diag);
        if (!err && feeds[n].session->in_call)
            err = ap_fail(diag, APUS_EINVAL, "feed %d: its session is in the batch already", n);
        if (!err) feeds[n++].session->in_call = true;
    }
    for (int i = 0; i < n; i++) feeds[i].session->in_call = false;
    return err;
}

/* ---------------------------------------------------------------- stopping */

static bool has_states(const ap_lane *l)
{
    return l->session->recur.slab != NULL;
}

/* Can a lane be put back to where the call began, at any moment? */
static bool can_stop(const ap_lane *l)
{
    return l->copied || l->tries || !has_states(l);
}

/* Is the call to end? Not once a lane has begun that cannot be put back. */
static bool is_stopped(const call *c)
{
    bool stop = ap_cancelled(c->e);
    for (int i = 0; i < c->n_lane; i++) {
        const ap_lane *l = &c->lane[i];
        if (l->touched && !can_stop(l)) return false;
        if (!c->stops_lanes && ap_session_cancelled(l->session)) stop = true;
    }
    return stop;
}

/* What the running step looks at: the flag of its session, if it has one alone, or that of all. */
static const volatile int *cancel_of(const call *c, const ap_extent *x)
{
    const apus_engine *e = c->e;
    const ap_lane *one = NULL;
    if (c->runs_through) return NULL;
    for (int i = 0; i < c->n_lane; i++) {
        if (!c->lane[i].share) continue;
        one = &c->lane[i];
        if (!can_stop(one)) return NULL;
    }
    return &e->cancel[x->n_seq == 1 ? one->session - e->session : e->size.n_session];
}

/* Put a lane's session back to where the call began. */
static apus_err undo(ap_lane *l, apus_diag *diag)
{
    apus_session *s = l->session;
    if (l->touched && !can_stop(l)) return ap_session_remake(s, l->start, diag);
    s->pos = l->start;
    s->ahead = s->counted = 0;
    for (int g = 0; g < AP_KV_GROUPS; g++) ap_kv_truncate(&s->kv[g], s->pos);
    ap_recur_truncate(&s->recur, s->pos);
    ap_spans_cut(&s->spans, s->pos);
    if (l->copied) ap_recur_restore(&s->recur);
    return APUS_OK;
}

/* Lanes whose sessions were cancelled have nothing more to run. */
static void drop_lanes(call *c)
{
    for (int i = 0; i < c->n_lane; i++) {
        ap_lane *l = &c->lane[i];
        int left = ap_lane_left(l);
        if (!left || !can_stop(l) || !ap_session_cancelled(l->session)) continue;
        undo(l, NULL);
        c->done += left;
        l->done = l->n;
        l->dropped = true;
    }
}

/* ---------------------------------------------------------------- steps */

/* Tell the caller; false = it asked to stop. */
static bool report(call *c)
{
    if (!c->progress) return true;
    int64_t now = ap_time_us();
    bool edge = c->done == 0 || c->done == c->total;
    if (!edge && now - c->progress_us < PROGRESS_US) return true;
    c->progress_us = now;
    return c->progress(c->progress_ctx, "prefill", (uint64_t)c->done, (uint64_t)c->total);
}

static apus_err cancelled(const call *c, apus_diag *diag)
{
    return ap_fail(diag, APUS_ECANCELLED,
                   "cancelled after %lld of %lld tokens; every session is where it was",
                   (long long)c->done, (long long)c->total);
}

/* Tokens left in lanes that can be stopped, or in the others. */
static int64_t left_in(const call *c, bool stoppable)
{
    int64_t sum = 0;
    for (int i = 0; i < c->n_lane; i++)
        if (can_stop(&c->lane[i]) == stoppable) sum += ap_lane_left(&c->lane[i]);
    return sum;
}

/* The shares of the next step. Lanes that cannot be put back wait until the others end, too, with that step and
 * it is short. */
static ap_extent deal(call *c)
{
    int chunk = c->e->size.chunk;
    int64_t left = left_in(c, true), short_ones = left_in(c, false);
    bool wait = left && short_ones &&
                (left > SHORT_STEP || short_ones > chunk || left > chunk - short_ones);
    for (int i = 0; i < c->n_lane; i++) c->lane[i].waits = wait && !can_stop(&c->lane[i]);
    return ap_step_share(c->e, c->lane, c->n_lane, chunk, false);
}

static apus_err run_step(call *c, apus_diag *diag)
{
    ap_extent x = deal(c);
    apus_err err = ap_step_run(c->e, c->lane, c->n_lane, &x, c->kept, cancel_of(c, &x), diag);
    if (err) return err;
    c->done += x.n_tok;
    if (c->keeps) c->kept += x.n_out;
    return APUS_OK;
}

static apus_err run_steps(call *c, apus_diag *diag)
{
    apus_engine *e = c->e;
    if (!c->runs_through && (is_stopped(c) || !report(c))) return cancelled(c, diag);
    while (c->done < c->total) {
        if (c->stops_lanes) drop_lanes(c);
        if (c->done == c->total) break;
        apus_err err = run_step(c, diag);
        if (err && err != APUS_ECANCELLED) return err;
        if (err == APUS_ECANCELLED && (ap_cancelled(e) || !c->stops_lanes))
            return cancelled(c, diag);
        if (c->runs_through) continue;
        if (!report(c) || (c->done < c->total && is_stopped(c))) return cancelled(c, diag);
    }
    return c->keeps ? APUS_OK : e->exec.dev->op->finish(e->exec.dev, diag);
}

/* ---------------------------------------------------------------- calls */

/* Lanes with many tokens take a copy of their states; those that have one or need none can be stopped.
 * ENOMEM: no block is left for a copy. */
static apus_err begin_lane(call *c, ap_lane *l, const apus_feed *f, apus_diag *diag)
{
    apus_session *s = f->session;
    memmove(s->tok + s->pos, f->tok, (size_t)f->n * sizeof *f->tok);
    ap_media_begin(s, f);
    *l = (ap_lane){.session = s,
                   .tok = s->tok + s->pos,
                   .n = f->n,
                   .wants_rows = f->logits || c->keeps,
                   .tries = c->tries && f->n > 1,
                   .logits = f->logits,
                   .row = f->rows,
                   .n_row = f->n_rows,
                   .start = s->pos};
    for (int g = 0; g < AP_KV_GROUPS; g++) ap_kv_hold(&s->kv[g], s->pos);
    bool reads = c->e->model->experts != NULL; /* which may fail in any step */
    if (!has_states(l) || l->tries || (f->n <= AP_FEW_TOKENS && !reads)) return APUS_OK;
    l->copied = ap_recur_backup(&s->recur);
    return l->copied ? APUS_OK : ap_slab_short(s->recur.slab, 1, diag);
}

static apus_err begin_call(call *c, const apus_feed *feeds, apus_diag *diag)
{
    bool any = false;
    apus_err err = APUS_OK;
    for (int i = 0; i < c->n_lane; i++) {
        apus_err failed = begin_lane(c, &c->lane[i], &feeds[i], err ? NULL : diag);
        if (!err) err = failed;
        c->total += feeds[i].n;
        any = any || can_stop(&c->lane[i]);
    }
    if (c->total <= AP_FEW_TOKENS || !any) c->progress = NULL;
    return err;
}

/* Returns err, or what went wrong with putting sessions back. */
static apus_err end_call(call *c, apus_err err, apus_diag *diag)
{
    for (int i = 0; i < c->n_lane; i++) {
        ap_lane *l = &c->lane[i];
        apus_session *s = l->session;
        apus_err failed = err && !l->dropped ? undo(l, diag) : APUS_OK;
        if (failed) err = failed;
        bool turn = !err && !l->dropped && !l->tries && l->n > PROMPT_CALL;
        if (turn) s->turn = s->pos;
        for (int g = 0; g < AP_KV_GROUPS; g++) {
            ap_kv_release(&s->kv[g]);
            if (turn) ap_kv_mark(&s->kv[g], s->pos);
        }
    }
    return err;
}

static apus_err feed(call *c, const apus_feed *feeds, apus_diag *diag)
{
    apus_err err = check_feeds(c->e, feeds, c->n_lane, diag);
    for (int i = 0; i < c->n_lane && !err; i++) err = ap_media_ready(c->e, &feeds[i], diag);
    if (err) return err;
    err = begin_call(c, feeds, diag);
    if (!err) err = run_steps(c, diag);
    return end_call(c, err, diag);
}

apus_err ap_feed(apus_engine *e, const apus_feed *feeds, int n_feeds, apus_progress_fn progress,
                 void *progress_ctx, apus_diag *diag)
{
    call c = {.e = e,
              .lane = e->lane,
              .n_lane = n_feeds,
              .progress = progress,
              .progress_ctx = progress_ctx};
    return feed(&c, feeds, diag);
}

apus_err ap_feed_keep(apus_engine *e, const apus_feed *feeds, int n_feeds,
                      apus_progress_fn progress, void *progress_ctx, apus_diag *diag)
{
    call c = {.e = e,
              .lane = e->lane,
              .n_lane = n_feeds,
              .keeps = true,
              .stops_lanes = true,
              .progress = progress,
              .progress_ctx = progress_ctx};
    return feed(&c, feeds, diag);
}

apus_err ap_feed_try(apus_engine *e, const apus_feed *feeds, int n_feeds, apus_diag *diag)
{
    call c = {.e = e,
              .lane = e->lane,
              .n_lane = n_feeds,
              .keeps = true,
              .tries = true,
              .stops_lanes = true};
    return feed(&c, feeds, diag);
}

apus_err ap_feed_again(apus_session *s, int base, int pos, bool stoppable, apus_diag *diag)
{
    ap_lane l = {.session = s,
                 .tok = s->tok + base,
                 .n = pos - base,
                 .start = s->pos,
                 .copied = stoppable && s->recur.slab};
    call c = {.e = s->engine, .lane = &l, .n_lane = 1, .total = l.n, .runs_through = !stoppable};
    s->pos = base;
    apus_err err = run_steps(&c, diag);
    if (!err || !stoppable) return err;
    undo(&l, NULL);
    for (int g = 0; g < AP_KV_GROUPS; g++) ap_kv_keep_held(&s->kv[g]);
    return err;
}

apus_err apus_feed_batch(apus_engine *e, apus_feed *feeds, int n_feeds, apus_progress_fn progress,
                         void *progress_ctx, apus_diag *diag)
{
    if (!e) return ap_fail(diag, APUS_EINVAL, "apus_feed_batch: an engine is needed");
    apus_err err = ap_call_begin(e, diag);
    if (err) return err;
    err = ap_feed(e, feeds, n_feeds, progress, progress_ctx, diag);
    ap_call_end(e);
    return err;
}

apus_err apus_session_feed(apus_session *s, const int32_t *tok, int n, float *logits,
                           apus_diag *diag)
{
    if (!s || !tok)
        return ap_fail(diag, APUS_EINVAL, "apus_session_feed: a session and tokens are needed");
    apus_feed f = {.size = sizeof(apus_feed), .session = s, .tok = tok, .n = n, .logits = logits};
    return apus_feed_batch(s->engine, &f, 1, NULL, NULL, diag);
}
