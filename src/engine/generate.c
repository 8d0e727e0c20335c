/* generate.c - feed prompts, then sample and feed in turn until something ends each generation. */
#include "engine/generate.h"

#include <string.h>

#include "base/file.h"
#include "engine/engine.h"

/* Choose the token that follows each row of the engine's logits, all at once. Of a generation that has
 * ended meanwhile, nobody asks for it. */
static apus_err choose(apus_engine *e, int n, int n_row, apus_diag *diag)
{
    for (int i = 0; i < n; i++) {
        ap_gen *g = &e->gen[i];
        if (g->row >= 0)
            ap_chooser_row(&e->chooser, g->row, &g->sampling, g->session->tok, g->session->pos);
    }
    return ap_chooser_run(&e->chooser, e->logits, n_row, diag);
}

/* What was chosen, to g->id. */
static apus_err take_choice(ap_gen *g, apus_diag *diag)
{
    const apus_engine *e = g->session->engine;
    if (e->chooser.n_allowed == 0)
        return ap_fail(diag, APUS_EFORMAT,
                       "%s: suppress_tokens leaves no token that could be chosen", e->model->dir);
    g->id = e->chooser.id[g->row];
    return g->id >= 0 ? APUS_OK : ap_not_finite(e, diag);
}

static void end(ap_gen *g, apus_stop why)
{
    g->done = true;
    g->res.stop = why;
}

/* ---------------------------------------------------------------- text */

static void give_text(ap_gen *g, const char *text, size_t n)
{
    if (n && g->set.on_text && !g->set.on_text(g->set.ctx, text, n)) {
        end(g, APUS_STOP_CALLER);
        ap_stops_free(g->stops); /* nothing more is wanted */
        g->stops = NULL;
    }
}

static apus_err push_text(ap_gen *g, const char *piece, size_t n, apus_diag *diag)
{
    const char *text;
    size_t len;
    int hit;
    apus_err err = ap_stops_push(g->stops, piece, n, &text, &len, &hit, diag);
    if (err) return err;
    if (hit >= 0) {
        g->res.stop_string = hit;
        end(g, APUS_STOP_STRING);
    }
    give_text(g, text, len);
    return APUS_OK;
}

static apus_err push_token(ap_gen *g, int32_t id, apus_diag *diag)
{
    const char *piece;
    size_t n;
    apus_err err = apus_detok_push(g->detok, id, &piece, &n, diag);
    return err ? err : push_text(g, piece, n, diag);
}

/* Something other than a stop string or a callback has ended the tokens: deliver what was held back. */
static apus_err finish_text(ap_gen *g, apus_diag *diag)
{
    const char *piece;
    size_t n;
    if (!g->stops || g->res.stop == APUS_STOP_STRING) return APUS_OK;
    apus_err err = apus_detok_finish(g->detok, &piece, &n);
    if (!err) err = push_text(g, piece, n, diag);
    if (err || !g->stops || g->res.stop == APUS_STOP_STRING) return err;
    ap_stops_finish(g->stops, &piece, &n);
    give_text(g, piece, n);
    return APUS_OK;
}

/* ---------------------------------------------------------------- decoding */

/* Choose a token and report it. A token that is the last anyway is not fed. */
static apus_err next_token(ap_gen *g, apus_diag *diag)
{
    const apus_engine *e = g->session->engine;
    if (g->row < 0) { /* dropped */
        end(g, APUS_STOP_CALLER);
        return finish_text(g, diag);
    }
    apus_err err = take_choice(g, diag);
    if (err) return err;
    if (!g->set.ignore_eos && ap_config_is_stop(&e->model->config, g->id)) {
        g->res.stop_id = g->id;
        end(g, APUS_STOP_TOKEN);
        return finish_text(g, diag);
    }
    g->res.n_generated++;
    if (g->set.on_token && !g->set.on_token(g->set.ctx, g->id)) {
        end(g, APUS_STOP_CALLER);
        return APUS_OK;
    }
    if (g->detok) err = push_token(g, g->id, diag);
    if (err || g->done) return err;
    if (ap_session_cancelled(g->session))
        end(g, APUS_STOP_CALLER);
    else if (g->res.n_generated == g->set.max_tokens)
        end(g, APUS_STOP_LENGTH);
    else if (apus_session_room(g->session) == 0)
        end(g, APUS_STOP_CONTEXT);
    return g->done ? finish_text(g, diag) : APUS_OK;
}

/* apus_cancel came while tokens were computed: that is no error here. */
static apus_err end_all(apus_engine *e, int n, apus_diag *diag)
{
    apus_err err = APUS_OK;
    for (int i = 0; i < n && !err; i++) {
        if (e->gen[i].done) continue;
        end(&e->gen[i], APUS_STOP_CALLER);
        err = finish_text(&e->gen[i], diag);
    }
    return err;
}

/* Report the chosen tokens and put those that are to be fed to gen_feed: *n_feed. */
static apus_err next_tokens(apus_engine *e, int n, int64_t begin, int *n_feed, apus_diag *diag)
{
    *n_feed = 0;
    for (int i = 0; i < n; i++) {
        ap_gen *g = &e->gen[i];
        if (g->done) continue;
        apus_err err = next_token(g, diag);
        if (err) return err;
        g->res.decode_us = ap_time_us() - begin;
        if (!g->done)
            e->gen_feed[(*n_feed)++] = (apus_feed){
                .size = sizeof(apus_feed), .session = g->session, .tok = &g->id, .n = 1};
    }
    return APUS_OK;
}

/* Everything that runs has been fed, in order: its rows, and how many there are. Whoever was cancelled
 * meanwhile has none. */
static int take_rows(apus_engine *e, int n)
{
    int fed = 0, n_row = 0;
    for (int i = 0; i < n; i++) {
        ap_gen *g = &e->gen[i];
        g->row = -1;
        if (g->done) continue;
        const ap_lane *l = &e->lane[fed++];
        g->row = l->dropped ? -1 : l->kept;
        n_row += !l->dropped;
    }
    return n_row;
}

static bool all_done(const apus_engine *e, int n)
{
    while (n > 0 && e->gen[n - 1].done) n--;
    return n == 0;
}

/*   n_row  rows of logits that are there to choose after */
static apus_err decode(apus_engine *e, int n, int n_row, int64_t begin, apus_diag *diag)
{
    while (!all_done(e, n)) {
        int n_feed;
        apus_err err = n_row ? choose(e, n, n_row, diag) : APUS_OK;
        if (!err) err = next_tokens(e, n, begin, &n_feed, diag);
        if (err || !n_feed) return err;
        err = ap_feed_keep(e, e->gen_feed, n_feed, NULL, NULL, diag);
        if (err) return err == APUS_ECANCELLED ? end_all(e, n, diag) : err;
        n_row = take_rows(e, n);
    }
    return APUS_OK;
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
    int n_row = err ? 0 : take_rows(e, n);
    for (int i = 0; i < n; i++) {
        ap_gen *g = &e->gen[i];
        g->res.prefill_us = fed - begin;
        g->res.n_prompt = g->row < 0 ? 0 : list[i].n;
        if (err == APUS_ECANCELLED || ap_session_cancelled(g->session))
            end(g, APUS_STOP_CALLER);
        else if (g->set.max_tokens == 0)
            end(g, APUS_STOP_LENGTH);
    }
    if (err) return err == APUS_ECANCELLED ? APUS_OK : err;
    return decode(e, n, n_row, fed, diag);
}

/* ---------------------------------------------------------------- settings */

static apus_err check_settings(const apus_generate_settings *s, apus_diag *diag)
{
    if (s->max_tokens < -1)
        return ap_fail(diag, APUS_EINVAL,
                       "apus_generate_settings.max_tokens: expected -1 or more, found %d",
                       s->max_tokens);
    if (s->n_stop_strings < 0 || (s->n_stop_strings > 0 && !s->stop_strings))
        return ap_fail(
            diag, APUS_EINVAL,
            "apus_generate_settings.n_stop_strings: expected 0 or more strings, found %d",
            s->stop_strings ? s->n_stop_strings : 0);
    return APUS_OK;
}

static apus_err start_sampling(apus_engine *e, ap_gen *g, apus_diag *diag)
{
    apus_sampling s;
    apus_sampling_from_model(e->model, &s);
    apus_err err = ap_settings_take(&s, sizeof s, g->set.sampling, "apus_sampling", diag);
    if (!err) err = ap_sampling_check(&s, diag);
    if (err) return err;
    ap_sample_start(&g->sampling, &s);
    return APUS_OK;
}

/* Make g ready; what it allocates is freed by stop_all, also after an error. */
static apus_err start(apus_engine *e, ap_gen *g, const apus_generation *of, apus_diag *diag)
{
    g->session = of->session;
    g->res = (apus_generate_result){.stop_id = -1, .stop_string = -1};
    apus_generate_settings_default(&g->set);
    apus_err err =
        ap_settings_take(&g->set, sizeof g->set, of->settings, "apus_generate_settings", diag);
    if (!err) err = check_settings(&g->set, diag);
    if (!err) err = start_sampling(e, g, diag);
    if (err || (!g->set.on_text && !g->set.n_stop_strings)) return err;
    err = apus_detok_create(e->model, !g->set.keep_special, &g->detok, diag);
    return err ? err : ap_stops_create(g->set.stop_strings, g->set.n_stop_strings, &g->stops, diag);
}

static void stop_all(apus_engine *e, int n)
{
    for (int i = 0; i < n; i++) {
        apus_detok_free(e->gen[i].detok);
        ap_stops_free(e->gen[i].stops);
    }
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
    memcpy(out, &g->res, size);
    out->size = size;
}

apus_err apus_generate_batch(apus_engine *e, const apus_generation *list, int n, apus_diag *diag)
{
    if (!e) return ap_fail(diag, APUS_EINVAL, "apus_generate_batch: an engine is needed");
    apus_err err = check_list(e, list, n, diag);
    if (!err) err = ap_call_begin(e, diag);
    if (err) return err;
    for (int i = 0; i < n; i++) e->gen[i] = (ap_gen){.row = -1};
    for (int i = 0; i < n && !err; i++) err = start(e, &e->gen[i], &list[i], diag);
    if (!err) err = generate(e, list, n, diag);
    ap_call_end(e);
    stop_all(e, n);
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
