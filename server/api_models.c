/* api_models.c - is it well, and what is there: /health and /v1/models. */
#include <string.h>

#include "apis.h"
#include "job.h"
#include "state.h"

void sv_health(sv_exchange *x)
{
    int phase = atomic_load(&x->server->phase);
    const char *status = phase == SV_READY ? "ok" : phase == SV_LOADING ? "loading" : "draining";
    if (phase != SV_LOADING) {
        apus_scheduler_stats st;
        sv_pool_stats(x->server->pool, &st);
        if (st.lost) status = "device lost";
    }
    sv_json_answer(x, strcmp(status, "ok") ? 503 : 200);
    sv_put_map(&x->out, NULL);
    sv_put_str(&x->out, "status", status);
    sv_put_end_map(&x->out);
}

/* Of the context, what a request may have of it is known once the model is loaded. */
static void put_meta(sv_buf *b, sv_pool *p, sv_served *m)
{
    sv_facts f;
    if (!sv_pool_facts(p, m, &f)) return;
    int ctx = sv_pool_context(p, m);
    if (ctx) sv_put_int(b, "max_model_len", ctx);
    sv_put_map(b, "meta");
    if (ctx) sv_put_int(b, "n_ctx", ctx);
    sv_put_int(b, "n_ctx_train", f.context);
    sv_put_int(b, "n_vocab", f.vocab);
    sv_put_int(b, "n_params", (int64_t)f.params);
    sv_put_end_map(b);
}

static void put_model(sv_exchange *x, sv_served *m, const char *name)
{
    sv_server *s = x->server;
    sv_buf *b = &x->out;
    sv_put_map(b, NULL);
    sv_put_str(b, "id", name);
    sv_put_str(b, "object", "model");
    sv_put_int(b, "created", s->started);
    sv_put_str(b, "owned_by", "apus");
    if (atomic_load(&s->phase) != SV_LOADING) put_meta(b, s->pool, m);
    sv_put_end_map(b);
}

void sv_models(sv_exchange *x)
{
    sv_pool *p = x->server->pool;
    sv_json_answer(x, 200);
    sv_put_map(&x->out, NULL);
    sv_put_str(&x->out, "object", "list");
    sv_put_array(&x->out, "data");
    for (int i = 0; i < sv_pool_size(p); i++) {
        sv_served *m = sv_pool_at(p, i);
        put_model(x, m, m->entry->name);
        for (int k = 0; k < m->entry->aliases.n; k++) put_model(x, m, m->entry->aliases.item[k]);
    }
    sv_put_end_array(&x->out);
    sv_put_end_map(&x->out);
}

void sv_model(sv_exchange *x)
{
    const char *name = x->path + strlen("/v1/models/");
    if (!sv_job_model(x, name)) return;
    sv_json_answer(x, 200);
    put_model(x, sv_pool_find(x->server->pool, name), name);
}
