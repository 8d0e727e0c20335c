/* generate.c - feed a prompt, then sample and feed until something ends it. */
#include <math.h>
#include <string.h>

#include "base/file.h"
#include "engine/engine.h"

typedef struct run {
    apus_session *s;
    const apus_generate_settings *set;
    apus_generate_result res;
} run;

/* The next token after the engine's row of logits. */
static int32_t choose(run *r)
{
    apus_engine *e = r->s->engine;
    const ap_config *c = &e->model->config;
    for (int i = 0; i < c->n_suppress; i++)
        if (c->suppress[i] >= 0 && c->suppress[i] < e->size.vocab)
            e->row[c->suppress[i]] = -INFINITY;
    return apus_sampler_next(&e->sampler, e->row, r->s->tok, r->s->pos);
}

/* Feed tokens and get the row that follows. A cancel is no error here: *stopped tells. */
static apus_err feed_row(run *r, const int32_t *tok, int n, bool *stopped, apus_diag *diag)
{
    apus_engine *e = r->s->engine;
    apus_feed f = {.session = r->s, .tok = tok, .n = n, .logits = e->row};
    apus_err err = ap_feed(e, &f, 1, r->set->progress, r->set->ctx, diag);
    *stopped = err == APUS_ECANCELLED;
    return *stopped ? APUS_OK : err;
}

/* Sample, report and feed in turn. A token that is the last anyway is not fed. */
static apus_err decode(run *r, apus_diag *diag)
{
    apus_session *s = r->s;
    const apus_generate_settings *set = r->set;
    for (;;) {
        int32_t id = choose(r);
        if (!set->ignore_eos && ap_config_is_stop(&s->engine->model->config, id)) {
            r->res.stop = APUS_STOP_TOKEN;
            r->res.stop_id = id;
            return APUS_OK;
        }
        r->res.n_generated++;
        r->res.stop = APUS_STOP_CALLER;
        if (set->on_token && !set->on_token(set->ctx, id)) return APUS_OK;
        if (ap_cancelled(s->engine)) return APUS_OK;
        if (r->res.n_generated == set->max_tokens) {
            r->res.stop = APUS_STOP_LENGTH;
            return APUS_OK;
        }
        if (apus_session_room(s) == 0) {
            r->res.stop = APUS_STOP_CONTEXT;
            return APUS_OK;
        }
        bool stopped;
        apus_err err = feed_row(r, &id, 1, &stopped, diag);
        if (err || stopped) return err;
    }
}

static apus_err generate(run *r, const int32_t *prompt, int n, apus_diag *diag)
{
    bool stopped;
    int64_t begin = ap_time_us();
    apus_err err = feed_row(r, prompt, n, &stopped, diag);
    int64_t fed = ap_time_us();
    r->res.prefill_us = fed - begin;
    r->res.stop = APUS_STOP_CALLER;
    if (err || stopped) return err;
    r->res.n_prompt = n;
    if (ap_cancelled(r->s->engine)) return APUS_OK;
    r->res.stop = APUS_STOP_LENGTH;
    if (r->set->max_tokens == 0) return APUS_OK;
    err = decode(r, diag);
    r->res.decode_us = ap_time_us() - fed;
    return err;
}

static apus_err take_settings(const apus_session *s, const apus_generate_settings *given,
                              apus_generate_settings *set, apus_diag *diag)
{
    apus_generate_settings_default(s->engine->model, set);
    apus_sampling sampling = set->sampling;
    apus_err err = ap_settings_take(set, sizeof *set, given, "apus_generate_settings", diag);
    if (err) return err;
    err = ap_settings_take(&sampling, sizeof sampling, &set->sampling, "apus_sampling", diag);
    if (err) return err;
    set->sampling = sampling;
    if (set->max_tokens < -1)
        return ap_fail(diag, APUS_EINVAL,
                       "apus_generate_settings.max_tokens: expected -1 or more, found %d",
                       set->max_tokens);
    return ap_sampling_check(&sampling, diag);
}

apus_err apus_generate(apus_session *s, const int32_t *prompt, int n,
                       const apus_generate_settings *given, apus_generate_result *res,
                       apus_diag *diag)
{
    if (!s) return ap_fail(diag, APUS_EINVAL, "apus_generate: a session is needed");
    if (res && (res->size < sizeof res->size || res->size > sizeof *res))
        return ap_fail(diag, APUS_EINVAL,
                       "apus_generate_result.size: expected %zu to %zu, found %zu",
                       sizeof res->size, sizeof *res, res->size);
    apus_generate_settings set;
    apus_err err = take_settings(s, given, &set, diag);
    if (!err) err = ap_call_begin(s->engine, diag);
    if (err) return err;
    run r = {.s = s, .set = &set, .res = {.stop_id = -1}};
    ap_sampler_start(&s->engine->sampler, &set.sampling);
    err = generate(&r, prompt, n, diag);
    ap_call_end(s->engine);
    if (err || !res) return err;
    r.res.size = res->size;
    memcpy(res, &r.res, res->size);
    return APUS_OK;
}
