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
        apus_scheduler_stats st = {.size = sizeof st};
        apus_scheduler_stats_get(x->server->scheduler, &st);
        if (st.lost) status = "device lost";
    }
    sv_json_answer(x, strcmp(status, "ok") ? 503 : 200);
    sv_put_map(&x->out, NULL);
    sv_put_str(&x->out, "status", status);
    sv_put_end_map(&x->out);
}

static void put_model(sv_buf *b, const sv_server *s, const char *name)
{
    sv_put_map(b, NULL);
    sv_put_str(b, "id", name);
    sv_put_str(b, "object", "model");
    sv_put_int(b, "created", s->started);
    sv_put_str(b, "owned_by", "apus");
    if (atomic_load(&s->phase) != SV_LOADING) {
        sv_put_int(b, "max_model_len", s->ctx);
        sv_put_map(b, "meta");
        sv_put_int(b, "n_ctx", s->ctx);
        sv_put_int(b, "n_ctx_train", s->info.context);
        sv_put_int(b, "n_vocab", s->info.vocab);
        sv_put_int(b, "n_params", (int64_t)s->info.params_total);
        sv_put_end_map(b);
    }
    sv_put_end_map(b);
}

void sv_models(sv_exchange *x)
{
    const sv_settings *s = x->server->set;
    sv_json_answer(x, 200);
    sv_put_map(&x->out, NULL);
    sv_put_str(&x->out, "object", "list");
    sv_put_array(&x->out, "data");
    put_model(&x->out, x->server, s->model_name);
    for (int i = 0; i < s->aliases.n; i++) put_model(&x->out, x->server, s->aliases.item[i]);
    sv_put_end_array(&x->out);
    sv_put_end_map(&x->out);
}

void sv_model(sv_exchange *x)
{
    const char *name = x->path + strlen("/v1/models/");
    if (!sv_job_model(x, name)) return;
    sv_json_answer(x, 200);
    put_model(&x->out, x->server, name);
}
