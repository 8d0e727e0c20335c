/* feed.c - running tokens: a call is cut into steps over all its sessions, and undone as a whole if
 * it does not come to its end.
 *
 * Undoing: positions and block tables are cut back to where they were. Pages that the old positions
 * need are held during the call (state/kv.h); rows written behind an old position are never read.
 * The recurrent states are copied before the call (ap_recur_backup). That copy has tens of
 * megabytes in large models, so short calls - a few tokens for each session, as in decoding - go
 * without it and cannot be interrupted once their first step has begun. Should they fail nevertheless,
 * with logits that are not finite, the sessions' tokens are run again from a snapshot. Experts that are read
 * from disk take longer than the copy and may fail, so with them every call has one.
 *
 * Asked of a forward pass that is cancelled: every K and V value in the pages of its step is either
 * what was there or what the whole pass would have written. A rewind may run old tokens again over
 * pages in use; the same tokens give the same bits (to rounding with gdn_chunked). */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "engine/engine.h"

#define SHORT_CALL  8 /* tokens of each session in a call that runs without a backup */
#define PROMPT_CALL 8 /* more tokens than this at once are a prompt: its end is a turn */
#define PROGRESS_US 50000

typedef struct call {
    apus_engine *e;
    ap_lane *lane; /* [n_lane] */
    int n_lane;
    int64_t total, done; /* tokens */
    bool stoppable;      /* can be undone, so cancel is looked at */
    bool keeps;          /* the last row of each lane stays in the engine's logits */
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
        if (f->tok[j] < 0 || f->tok[j] >= e->size.vocab)
            return ap_fail(diag, APUS_EINVAL,
                           i == ONLY ? "%stoken %d: expected an id of 0 to %d, found %d"
                                     : "%stok[%d]: expected an id of 0 to %d, found %d",
                           at, j, e->size.vocab - 1, (int)f->tok[j]);
    int room = apus_session_room(f->session);
    if (f->n > room)
        return ap_fail(diag, APUS_EFULL,
                       "%s%d tokens do not fit: %d of the context's %d are taken, room for %d", at,
                       f->n, f->session->pos, e->size.ctx, room);
    return check_rows(f, i, diag);
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

/* ---------------------------------------------------------------- one step */

/* Tokens of a lane for a step with `budget` tokens left. States can be kept for going back only at
 * page multiples, so steps of models with states end there where they can; the last page of a long
 * feed becomes a step of its own, for chats go back to a little before the end of their prompt. */
static int share_of(const ap_lane *l, int budget)
{
    int left = l->n - l->done, n = left < budget ? left : budget;
    if (!l->session->recur.slab || (n == left && left <= AP_PAGE)) return n;
    int over = (l->session->pos + n) % AP_PAGE;
    return over < n ? n - over : n;
}

/* Rows of a lane whose logits are wanted among its next n tokens. */
static int rows_in(const ap_lane *l, int n)
{
    if (!l->wants_rows) return 0;
    if (!l->row) return l->done + n == l->n;
    int k = l->row_done;
    while (k < l->n_row && l->row[k] < l->done + n) k++;
    return k - l->row_done;
}

/* What a step has of all lanes. */
typedef struct extent {
    int n_tok, n_seq, n_out;
} extent;

/* Shares of the lanes in order. The step's logits go straight to the caller if that can be and one lane
 * alone wants any: *direct. Else they pass through the engine's, and shares are cut to what those hold. */
static extent share_out(call *c, ap_lane **direct)
{
    const apus_engine *e = c->e;
    extent x = {0};
    *direct = NULL;
    for (int i = 0; i < c->n_lane; i++) {
        ap_lane *l = &c->lane[i];
        l->share = l->out = 0;
        int budget = e->size.chunk - x.n_tok;
        if (l->done == l->n || budget == 0) continue;
        int n = share_of(l, budget);
        bool may_pass = x.n_out == 0 && l->logits && e->exec.dev->is_host;
        while (!may_pass && n && rows_in(l, n) && x.n_out + rows_in(l, n) > e->size.logit_rows) n--;
        if (n == 0) continue;
        l->share = n;
        l->out = rows_in(l, n);
        if (l->out) *direct = may_pass ? l : NULL;
        x.n_tok += n;
        x.n_seq++;
        x.n_out += l->out;
    }
    return x;
}

/* The block tables on the device follow those of the host. */
static void put_pages(apus_engine *e, apus_session *s)
{
    ap_device *dev = e->exec.dev;
    size_t row = (size_t)(s - e->session) * (size_t)ap_kv_entries(e->size.ctx);
    for (int g = 0; g < AP_KV_GROUPS; g++) {
        ap_kv_range r = ap_kv_changed(&s->kv[g]);
        size_t at = row + (size_t)r.begin, n = (size_t)(r.end - r.begin);
        if (n && !dev->is_host)
            dev->op->put(dev, e->page[g] + at, e->session_page[g] + at, n * sizeof(int32_t));
    }
}

/* A lane's share: sequence `seq` of the step, rows from `begin` on; `out` rows before it are wanted. */
static void add_lane(apus_engine *e, const ap_lane *l, int seq, int begin, int out)
{
    apus_session *s = l->session;
    for (int g = 0; g < AP_KV_GROUPS; g++) ap_kv_prepare(&s->kv[g], s->pos, l->share);
    put_pages(e, s);
    ap_rows_fill(&e->rows, seq, begin, l->tok + l->done, l->share, s->pos);
    e->rows.seq[seq].table = (int32_t)(s - e->session);
    e->rows.seq[seq].state = s->recur.live;
    for (int j = 0; j < l->out; j++) {
        int row = l->row ? l->row[l->row_done + j] : l->n - 1;
        e->rows.out_row[out + j] = (int32_t)(begin + row - l->done);
    }
}

/* Fill a step from the lanes in order. */
static void make_step(call *c, ap_step *st, ap_lane **direct)
{
    apus_engine *e = c->e;
    extent x = share_out(c, direct);
    ap_rows_begin(&e->rows, x.n_tok, x.n_seq, x.n_out);
    int seq = 0, begin = 0, out = 0;
    for (int i = 0; i < c->n_lane; i++) {
        const ap_lane *l = &c->lane[i];
        if (!l->share) continue;
        add_lane(e, l, seq++, begin, out);
        begin += l->share;
        out += l->out;
    }
    ap_rows_put(&e->rows);
    ap_batch *b = &e->rows.batch;
    b->page_ld = ap_kv_entries(e->size.ctx);
    *st = (ap_step){.batch = b,
                    .recur = (float *)(void *)e->states.base,
                    .recur_block_floats = e->size.recur_block_bytes / sizeof(float),
                    .logits = e->logits + (size_t)c->kept * (size_t)e->size.vocab,
                    .scratch = e->scratch,
                    .experts = e->model->experts,
                    .delta_form = e->delta_form,
                    .kv = e->size.kv};
    for (int g = 0; g < AP_KV_GROUPS; g++) {
        b->page[g] = e->page[g];
        st->kv_base[g] = e->pages[g].base;
    }
    if (*direct)
        st->logits = (*direct)->logits + (size_t)(*direct)->row_done * (size_t)e->size.vocab;
}

/* Hand out gathered rows, move the sessions on. */
static void finish_step(call *c, const ap_step *st, const ap_lane *direct)
{
    ap_device *dev = c->e->exec.dev;
    size_t V = (size_t)c->e->size.vocab;
    const float *from = st->logits;
    for (int i = 0; i < c->n_lane; i++) {
        ap_lane *l = &c->lane[i];
        if (!l->share) continue;
        if (l->out && l->logits && !direct)
            dev->op->get(dev, l->logits + (size_t)l->row_done * V, from,
                         (size_t)l->out * V * sizeof(float));
        if (l->out) from += (size_t)l->out * V;
        if (l->out && c->keeps) l->kept = c->kept++;
        l->row_done += l->out;
        l->done += l->share;
        l->session->pos += l->share;
        if (l->session->pos % AP_PAGE == 0)
            ap_recur_snapshot(&l->session->recur, l->session->pos, l->session->turn);
    }
    c->done += st->batch->n_tok;
}

/* ---------------------------------------------------------------- calls */

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

/* The exponents of NaN and infinity are all ones: adding one to them reaches the sign bit. Only integers,
 * so that compilers use vectors: a thousandth of the time that making the row takes. */
static bool all_finite(const float *x, size_t n)
{
    uint32_t seen = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        seen |= (bits & 0x7fffffff) + 0x00800000;
    }
    return !(seen >> 31);
}

/* Are the wanted logits of a finished step finite? Those that stay on another device are looked at by what
 * chooses after them. */
static bool step_is_finite(const call *c, const ap_step *st)
{
    size_t V = (size_t)c->e->size.vocab;
    if (c->e->exec.dev->is_host) return all_finite(st->logits, (size_t)st->batch->n_out * V);
    for (int i = 0; i < c->n_lane; i++) {
        const ap_lane *l = &c->lane[i];
        size_t first = (size_t)(l->row_done - l->out);
        if (l->share && l->out && l->logits &&
            !all_finite(l->logits + first * V, (size_t)l->out * V))
            return false;
    }
    return true;
}

apus_err ap_not_finite(const apus_engine *e, apus_diag *diag)
{
    const char *dir = e->model->dir;
    return ap_fail(
        diag, APUS_ENONFINITE,
        "%s: the logits are not finite: a weight is NaN or infinite, or a sum overflows; "
        "'apus info --check' names the tensor",
        dir ? dir : "the model");
}

static apus_err run_step(call *c, apus_diag *diag)
{
    apus_engine *e = c->e;
    ap_step st;
    ap_lane *direct;
    bool finite = true;
    ap_guard_enter();
    make_step(c, &st, &direct);
    apus_err err =
        ap_model_forward(e->model->impl, &e->exec, &st, c->stoppable ? &e->cancel : NULL, diag);
    if (!err) {
        finish_step(c, &st, direct);
        finite = step_is_finite(c, &st);
    }
    ap_guard_leave();
    return finite ? err : ap_not_finite(e, diag);
}

static apus_err run_steps(call *c, apus_diag *diag)
{
    apus_engine *e = c->e;
    if (ap_cancelled(e) || !report(c)) return cancelled(c, diag);
    while (c->done < c->total) {
        apus_err err = run_step(c, diag);
        if (err && err != APUS_ECANCELLED) return err;
        if (err || !report(c)) return cancelled(c, diag);
        if (c->stoppable && c->done < c->total && ap_cancelled(e)) return cancelled(c, diag);
    }
    return c->keeps ? APUS_OK : e->exec.dev->op->finish(e->exec.dev, diag);
}

static void undo(call *c)
{
    for (int i = 0; i < c->n_lane; i++) {
        apus_session *s = c->lane[i].session;
        s->pos = c->lane[i].start;
        for (int g = 0; g < AP_KV_GROUPS; g++) ap_kv_truncate(&s->kv[g], s->pos);
        ap_recur_truncate(&s->recur, s->pos);
        if (c->stoppable) ap_recur_restore(&s->recur);
    }
}

static void begin_call(call *c, const apus_feed *feeds)
{
    bool states = c->e->states.base != NULL;
    c->stoppable = !states || c->e->model->experts; /* a read may fail in any step */
    for (int i = 0; i < c->n_lane; i++) {
        c->total += feeds[i].n;
        c->stoppable = c->stoppable || feeds[i].n > SHORT_CALL;
    }
    if (c->total <= SHORT_CALL || !c->stoppable) c->progress = NULL;
    for (int i = 0; i < c->n_lane; i++) {
        const apus_feed *f = &feeds[i];
        apus_session *s = f->session;
        memmove(s->tok + s->pos, f->tok, (size_t)f->n * sizeof *f->tok);
        c->lane[i] = (ap_lane){.session = s,
                               .tok = s->tok + s->pos,
                               .n = f->n,
                               .wants_rows = f->logits || c->keeps,
                               .logits = f->logits,
                               .row = f->rows,
                               .n_row = f->n_rows,
                               .start = s->pos};
        for (int g = 0; g < AP_KV_GROUPS; g++) ap_kv_hold(&s->kv[g], s->pos);
        if (c->stoppable) ap_recur_backup(&s->recur);
    }
}

static void end_call(call *c, bool ok)
{
    if (!ok) undo(c);
    for (int i = 0; i < c->n_lane; i++) {
        apus_session *s = c->lane[i].session;
        bool turn = ok && c->lane[i].n > PROMPT_CALL;
        if (turn) s->turn = s->pos;
        for (int g = 0; g < AP_KV_GROUPS; g++) {
            ap_kv_release(&s->kv[g]);
            if (turn) ap_kv_mark(&s->kv[g], s->pos);
        }
    }
}

/* Undo a call that took no copy of its states: its tokens are run again up to where it began. Rare, so it
 * may take long; a cancel has to wait. */
static void go_back(call *c)
{
    ap_lane first = c->lane[0]; /* running again takes its place */
    for (int i = 0; i < c->n_lane; i++) {
        const ap_lane *l = i ? &c->lane[i] : &first;
        while (ap_session_go_back(l->session, l->start, NULL) == APUS_ECANCELLED)
            __atomic_store_n(&c->e->cancel, 0, __ATOMIC_RELAXED);
    }
}

static apus_err feed(call *c, const apus_feed *feeds, apus_diag *diag)
{
    apus_err err = check_feeds(c->e, feeds, c->n_lane, diag);
    if (err) return err;
    begin_call(c, feeds);
    err = run_steps(c, diag);
    bool again = err == APUS_ENONFINITE && !c->stoppable;
    end_call(c, !err || again);
    if (again) go_back(c);
    return err;
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
              .progress = progress,
              .progress_ctx = progress_ctx};
    return feed(&c, feeds, diag);
}

apus_err ap_feed_again(apus_session *s, int base, int pos, apus_diag *diag)
{
    apus_engine *e = s->engine;
    call c = {.e = e, .lane = e->lane, .n_lane = 1, .total = pos - base, .stoppable = true};
    c.lane[0] = (ap_lane){.session = s, .tok = s->tok + base, .n = pos - base, .start = s->pos};
    s->pos = base;
    apus_err err = run_steps(&c, diag);
    if (!err) return APUS_OK;
    undo(&c);
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
