/* generate.c - feed prompts, then sample and feed in turn until something ends each generation. */
#include "engine/generate.h"

#include <string.h>

#include "base/file.h"
#include "engine/engine.h"

/* ---------------------------------------------------------------- decoding */

/* Choose the token that follows the row that each generation is at, all at once. Of a generation that has ended
 * meanwhile, nobody asks for it. Returns ENONFINITE where a guess has come true whose logits are no numbers. */
static apus_err choose(apus_engine *e, int n, apus_diag *diag)
{
    int n_slot = 0;
    for (int i = 0; i < n; i++) {
        ap_gen *g = &e->gen[i];
        if (g->row < 0) continue;
        if (g->row == g->bad_row) return ap_not_finite(e, diag);
        ap_round_look(g);
        g->slot = n_slot++;
        ap_chooser_row(&e->chooser, g->slot, g->row, &g->sampling, g->session->tok,
                       g->session->pos);
        if (!g->constraint) continue;
        apus_err err = ap_gen_mask(g, diag);
        if (err) return err;
    }
    return n_slot ? ap_chooser_run(&e->chooser, e->logits, n_slot, diag) : APUS_OK;
}

/* Take what was chosen and report it. */
static apus_err next_token(ap_gen *g, apus_diag *diag)
{
    if (g->complete) return ap_gen_end(g, APUS_STOP_TOKEN, diag);
    apus_err err = ap_gen_choice(g, diag);
    if (!err) err = ap_gen_token(g, g->id, diag);
    if (err || g->done || !ap_session_cancelled(g->session)) return err;
    return ap_gen_end(g, APUS_STOP_CALLER, diag);
}

/* Report the chosen tokens; *more: there are rows of guesses that came true. */
static apus_err next_tokens(apus_engine *e, int n, int64_t begin, bool *more, apus_diag *diag)
{
    *more = false;
    for (int i = 0; i < n; i++) {
        ap_gen *g = &e->gen[i];
        if (g->row < 0) continue;
        apus_err err = next_token(g, diag);
        if (err) return err;
        g->res.decode_us = ap_time_us() - begin;
        if (ap_round_goes_on(g))
            *more = true;
        else
            g->row = -1;
    }
    return APUS_OK;
}

/* apus_cancel came while tokens were computed: that is no error here. */
static apus_err end_all(apus_engine *e, int n, apus_diag *diag)
{
    apus_err err = APUS_OK;
    for (int i = 0; i < n && !err; i++) {
        if (!e->gen[i].done) err = ap_gen_end(&e->gen[i], APUS_STOP_CALLER, diag);
    }
    return err;
}

/* Everything that runs has been fed, in order: its rows. Whoever was cancelled meanwhile has none, and ends. */
static apus_err take_rows(apus_engine *e, int n, apus_diag *diag)
{
    int fed = 0;
    for (int i = 0; i < n; i++) {
        ap_gen *g = &e->gen[i];
        g->row = -1;
        if (g->done) continue;
        const ap_lane *l = &e->lane[fed++];
        g->row = l->dropped ? -1 : l->kept;
        g->bad_row = l->tries ? l->kept + l->bad_row : -1;
        apus_err err = l->dropped ? ap_gen_end(g, APUS_STOP_CALLER, diag) : APUS_OK;
        if (err) return err;
    }
    return APUS_OK;
}

/* What was guessed right is the sessions' now; nothing else of it is. */
static void settle(apus_engine *e, int n)
{
    for (int i = 0; i < n; i++) {
        ap_round_learn(&e->gen[i]);
        e->gen_session[i] = e->gen[i].session;
    }
    ap_sessions_settle(e, e->gen_session, n);
}

/* Choose and report until nothing more follows from the rows that are there. */
static apus_err take_tokens(apus_engine *e, int n, int64_t begin, int64_t round, int rows,
                            apus_diag *diag)
{
    bool more = true;
    apus_err err = APUS_OK;
    for (int depth = 0; more && !err; depth++) {
        err = choose(e, n, diag);
        if (!err && depth == 0 && rows)
            ap_tempo_learn(&e->tempo, rows, (double)(ap_time_us() - round - e->drafting_us));
        if (!err) err = next_tokens(e, n, begin, &more, diag);
    }
    settle(e, n);
    return err;
}

/* What is fed next, to gen_feed: returns how many. */
static int next_feeds(apus_engine *e, int n, int *rows)
{
    int n_feed = 0;
    for (int i = 0; i < n; i++)
        if (!e->gen[i].done) e->gen_next[n_feed++] = &e->gen[i];
    *rows = 0;
    ap_round_guess(e, e->gen_next, n_feed, e->size.chunk);
    for (int i = 0; i < n_feed; i++) {
        const ap_gen *g = e->gen_next[i];
        const apus_session *s = g->session;
        e->gen_feed[i] = (apus_feed){.size = sizeof(apus_feed),
                                     .session = g->session,
                                     .tok = s->tok + s->pos,
                                     .n = g->n_next};
        *rows += g->n_next;
    }
    return n_feed;
}

/* Feed them; where memory for guesses is not there, without. */
static apus_err feed_next(apus_engine *e, int n_feed, int *rows, apus_diag *diag)
{
    apus_err err = ap_feed_try(e, e->gen_feed, n_feed, diag);
    if (err != APUS_ENOMEM || *rows == n_feed) return err;
    for (int i = 0; i < n_feed; i++) e->gen_feed[i].n = 1;
    *rows = n_feed;
    return ap_feed_try(e, e->gen_feed, n_feed, diag);
}

static apus_err decode(apus_engine *e, int n, int64_t begin, apus_diag *diag)
{
    int64_t round = 0;
    for (int rows = 0;;) {
        apus_err err = take_tokens(e, n, begin, round, rows, diag);
        if (err) return err;
        round = ap_time_us();
        int n_feed = next_feeds(e, n, &rows);
        if (!n_feed) return APUS_OK;
        err = feed_next(e, n_feed, &rows, diag);
        if (err) return err == APUS_ECANCELLED ? end_all(e, n, diag) : err;
        err = take_rows(e, n, diag);
        if (err) return err;
    }
}

static apus_err generate(apus_engine *e, const apus_generation *list, int n, apus_diag *diag)
{
    for (int i = 0; i < n; i++)
        e->gen_feed[i] = (apus_feed){.size = sizeof(apus_feed),
                                     .session = list[i].session,
                                     .tok = list[i].prompt,
                                     .n = list[i].n,
                                     .media = e->gen[i].set.media,
                                     .n_media = e->gen[i].set.n_media};
    int64_t begin = ap_time_us();
    apus_err err = ap_feed_keep(e, e->gen_feed, n, e->gen[0].set.progress, e->gen[0].set.ctx, diag);
    int64_t fed = ap_time_us();
    if (!err) err = take_rows(e, n, diag);
    for (int i = 0; i < n; i++) {
        ap_gen *g = &e->gen[i];
        g->res.prefill_us = fed - begin;
        g->res.n_prompt = g->row < 0 ? 0 : list[i].n;
        if (g->done) continue;
        if (err == APUS_ECANCELLED || ap_session_cancelled(g->session))
            ap_gen_end(g, APUS_STOP_CALLER, NULL);
        else if (g->set.max_tokens == 0)
            ap_gen_end(g, APUS_STOP_LENGTH, NULL);
        if (g->done) g->row = -1;
    }
    if (err) return err == APUS_ECANCELLED ? APUS_OK : err;
    return decode(e, n, fed, diag);
}

static apus_err check_list(const apus_engine *e, const apus_generation *list, int n,
                           apus_diag *diag)
{
    if (!list || n < 1 || n > e->size.n_session)
        return ap_fail(diag, APUS_EINVAL,
                       "apus_generate_batch: expected 1 to %d sessions, found %d",
                       e->size.n_session, list ? n : 0);
    for (int i = 0; i < n; i++) {
        if (list[i].size != sizeof *list)
            return ap_fail(diag, APUS_EINVAL, "apus_generation.size: expected %zu, found %zu",
                           sizeof *list, list[i].size);
        const apus_session *s = list[i].session;
        if (!s || s->engine != e || !s->used)
            return ap_fail(diag, APUS_EINVAL, "generation %d: not a session of this engine", i);
        const apus_generate_result *r = list[i].result;
        if (r && (r->size < sizeof r->size || r->size > sizeof *r))
            return ap_fail(diag, APUS_EINVAL,
                           "apus_generate_result.size: expected %zu to %zu, found %zu",
                           sizeof r->size, sizeof *r, r->size);
    }
    return APUS_OK;
}

static void give_result(const ap_gen *g, apus_generate_result *out)
{
    if (!out) return;
    size_t size = out->size;
    apus_generate_result r = g->res;
    ap_round_counts n = ap_round_count(g);
    r.draft_rounds = n.rounds;
    r.n_drafted = n.drafted;
    r.n_accepted = n.accepted;
    memcpy(out, &r, size);
    out->size = size;
}

/* What a generation's constraint sees before the answer: all that its session will hold. */
static apus_err constrain(ap_gen *g, const apus_generation *x, apus_diag *diag)
{
    const apus_session *s = x->session;
    if (!g->set.constraint || !x->prompt || x->n < 1) return APUS_OK;
    size_t pos = (size_t)s->pos, n = (size_t)x->n;
    int32_t *tok = ap_malloc(pos + n, sizeof *tok);
    if (!tok || pos + n > INT32_MAX) {
        ap_free(tok);
        return ap_fail_nomem(diag, (pos + n) * sizeof *tok, "a prompt");
    }
    memcpy(tok, s->tok, pos * sizeof *tok);
    memcpy(tok + pos, x->prompt, n * sizeof *tok);
    apus_err err = ap_gen_constrain(g, s->engine->model, tok, (int)(pos + n), diag);
    ap_free(tok);
    return err;
}

apus_err apus_generate_batch(apus_engine *e, const apus_generation *list, int n, apus_diag *diag)
{
    if (!e) return ap_fail(diag, APUS_EINVAL, "apus_generate_batch: an engine is needed");
    apus_err err = check_list(e, list, n, diag);
    if (!err) err = ap_call_begin(e, diag);
    if (err) return err;
    for (int i = 0; i < n; i++) e->gen[i] = (ap_gen){.row = -1};
    for (int i = 0; i < n && !err; i++) {
        err = ap_gen_start(&e->gen[i], e->model, list[i].session, list[i].settings, diag);
        if (!err) err = constrain(&e->gen[i], &list[i], diag);
    }
    if (!err) err = generate(e, list, n, diag);
    ap_call_end(e);
    for (int i = 0; i < n; i++) ap_gen_close(&e->gen[i]);
    for (int i = 0; i < n && !err; i++) give_result(&e->gen[i], list[i].result);
    return err;
}

apus_err apus_generate(apus_session *s, const int32_t *prompt, int n,
                       const apus_generate_settings *set, apus_generate_result *res,
                       apus_diag *diag)
{
    if (!s || !prompt)
        return ap_fail(diag, APUS_EINVAL, "apus_generate: a session and a prompt are needed");
    apus_generation one = {
        .size = sizeof one, .session = s, .prompt = prompt, .n = n, .settings = set, .result = res};
    return apus_generate_batch(s->engine, &one, 1, diag);
}
