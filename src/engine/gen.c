/* gen.c - a generation: what becomes of a chosen token - text, stop strings, the end. Whoever computes and chooses
 * drives it. */
#include <string.h>

#include "base/mem.h"
#include "engine/engine.h"
#include "engine/generate.h"

/* ---------------------------------------------------------------- text */

static void end(ap_gen *g, apus_stop why)
{
    g->done = true;
    g->res.stop = why;
}

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

/* ---------------------------------------------------------------- tokens */

apus_err ap_gen_choice(ap_gen *g, apus_diag *diag)
{
    const apus_engine *e = g->session->engine;
    if (e->chooser.n_allowed == 0)
        return ap_fail(diag, APUS_EFORMAT,
                       "%s: suppress_tokens leaves no token that could be chosen", e->model->dir);
    g->id = e->chooser.id[g->slot];
    return g->id >= 0 ? APUS_OK : ap_not_finite(e, diag);
}

apus_err ap_gen_end(ap_gen *g, apus_stop why, apus_diag *diag)
{
    end(g, why);
    return finish_text(g, diag);
}

apus_err ap_gen_token(ap_gen *g, int32_t id, apus_diag *diag)
{
    const apus_engine *e = g->session->engine;
    if (!g->set.ignore_eos && ap_config_is_stop(&e->model->config, id)) {
        g->res.stop_id = id;
        return ap_gen_end(g, APUS_STOP_TOKEN, diag);
    }
    if (g->constraint && !ap_constraint_push(g->constraint, id)) return ap_constraint_fail(diag);
    g->res.n_generated++;
    if (g->set.on_token && !g->set.on_token(g->set.ctx, id)) {
        end(g, APUS_STOP_CALLER);
        return APUS_OK;
    }
    apus_err err = g->detok ? push_token(g, id, diag) : APUS_OK;
    if (err || g->done) return err;
    if (g->res.n_generated == g->set.max_tokens) return ap_gen_end(g, APUS_STOP_LENGTH, diag);
    if (apus_session_room(g->session) == 0) return ap_gen_end(g, APUS_STOP_CONTEXT, diag);
    return APUS_OK;
}

/* ---------------------------------------------------------------- beginning and end */

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

static apus_err start_sampling(ap_gen *g, const apus_model *m, apus_diag *diag)
{
    apus_sampling s;
    apus_sampling_from_model(m, &s);
    apus_err err = ap_settings_take(&s, sizeof s, g->set.sampling, "apus_sampling", diag);
    if (!err) err = ap_sampling_check(&s, diag);
    if (err) return err;
    ap_sample_start(&g->sampling, &s);
    return APUS_OK;
}

apus_err ap_gen_start(ap_gen *g, const apus_model *m, apus_session *session,
                      const apus_generate_settings *set, apus_diag *diag)
{
    *g = (ap_gen){.session = session, .row = -1, .res = {.stop_id = -1, .stop_string = -1}};
    apus_generate_settings_default(&g->set);
    apus_err err = ap_settings_take(&g->set, sizeof g->set, set, "apus_generate_settings", diag);
    if (!err) err = check_settings(&g->set, diag);
    if (!err) err = start_sampling(g, m, diag);
    if (err || (!g->set.on_text && !g->set.n_stop_strings)) return err;
    err = apus_detok_create(m, !g->set.keep_special, &g->detok, diag);
    return err ? err : ap_stops_create(g->set.stop_strings, g->set.n_stop_strings, &g->stops, diag);
}

apus_err ap_gen_constrain(ap_gen *g, const apus_model *m, const int32_t *tok, int n,
                          apus_diag *diag)
{
    if (!g->set.constraint) return APUS_OK;
    g->constraint = ap_calloc(1, sizeof *g->constraint);
    if (!g->constraint) return ap_fail_nomem(diag, sizeof *g->constraint, "a constraint");
    return ap_constraint_open(g->constraint, m, g->set.constraint, tok, n, diag);
}

static size_t mask_words(const ap_gen *g)
{
    return ((size_t)g->session->engine->size.vocab + 31) / 32;
}

static apus_err take_mask(ap_gen *g, apus_diag *diag)
{
    ap_device *dev = g->session->engine->exec.dev;
    size_t words = mask_words(g);
    if (!g->allowed) g->allowed = ap_malloc(words, sizeof *g->allowed);
    if (!dev->is_host && !g->allowed_dev)
        g->allowed_dev = dev->op->alloc(dev, words * sizeof *g->allowed);
    bool ok = g->allowed && (dev->is_host || g->allowed_dev);
    return ok ? APUS_OK : ap_fail_nomem(diag, words * sizeof *g->allowed, "a constraint's mask");
}

apus_err ap_gen_mask(ap_gen *g, apus_diag *diag)
{
    apus_engine *e = g->session->engine;
    ap_device *dev = e->exec.dev;
    apus_err err = take_mask(g, diag);
    if (err) return err;
    size_t bytes = mask_words(g) * sizeof *g->allowed;
    memset(g->allowed, 0xff, bytes);
    ap_config_forbid(&e->model->config, g->allowed);
    int says = ap_constraint_mask(g->constraint, g->allowed);
    if (!says) return ap_constraint_fail(diag);
    g->complete = says < 0;
    if (g->complete) return APUS_OK;
    if (!dev->is_host) dev->op->put(dev, g->allowed_dev, g->allowed, bytes);
    e->chooser.row[g->slot].mask = dev->is_host ? g->allowed : g->allowed_dev;
    return APUS_OK;
}

void ap_gen_close(ap_gen *g)
{
    if (g->allowed_dev) {
        ap_device *dev = g->session->engine->exec.dev;
        dev->op->free(dev, g->allowed_dev, mask_words(g) * sizeof *g->allowed);
    }
    if (g->constraint) ap_constraint_close(g->constraint);
    ap_free(g->constraint);
    ap_free(g->allowed);
    g->constraint = NULL;
    g->allowed = g->allowed_dev = NULL;
    apus_detok_free(g->detok);
    ap_stops_free(g->stops);
    g->detok = NULL;
    g->stops = NULL;
}
