#include "await.h"

#include <string.h>

#include "job.h"
#include "state.h"

enum { SLICE_MS = 100 }; /* between two looks whether the client is still there */

static bool wants_stream(const sv_exchange *x)
{
    const sv_json *v = sv_json_get(x->json, "stream");
    if (v) return v->type == SV_JSON_BOOL && v->boolean;
    return x->api == SV_OLLAMA;
}

static bool explain(sv_exchange *x, const apus_diag *why)
{
    const char *name = x->lease.served->entry->name;
    if (why->code == APUS_ECANCELLED) return sv_fail_diag(x, why);
    /* what else is wrong with its files is not for clients */
    return sv_fail(x, 503, "unavailable", "model", "model '%.200s' could not be loaded%s", name,
                   why->code == APUS_ENOMEM ? ": there is not enough memory for it"
                                            : "; the server's log tells why");
}

/* -1: it failed, or the client has gone; 0: not yet; 1: it is there. */
static int wait_a_little(sv_exchange *x)
{
    apus_diag why;
    if (atomic_load(&x->server->stopping) || sv_client_gone(x)) {
        x->gone = true;
        return -1;
    }
    switch (sv_pool_wait(x->server->pool, &x->lease, SLICE_MS, &why)) {
    case SV_WAIT_HELD:
        x->served = x->lease.served;
        return 1;
    case SV_WAIT_FAILED:
        explain(x, &why);
        return -1;
    case SV_WAIT_MORE:
        break;
    }
    return 0;
}

bool sv_await(sv_exchange *x)
{
    const sv_json *v = sv_json_get(x->json, "model");
    const char *name = v && v->type == SV_JSON_STRING ? v->str : NULL;
    int64_t patience = (int64_t)x->server->set->ping_s * 1000000, since = sv_now_us();
    if (!sv_job_model(x, name)) return false;
    sv_pool_want(x->server->pool, sv_pool_find(x->server->pool, name), &x->lease);
    for (int is; (is = wait_a_little(x)) <= 0;) {
        if (is < 0) return false;
        if (sv_now_us() - since < patience || !wants_stream(x)) continue;
        x->waits = true;
        x->status = 200;
        x->type = x->api == SV_OLLAMA ? "application/x-ndjson" : "text/event-stream";
        return false;
    }
    return true;
}

/* Comments of event streams; lines of JSON have none, but may have spaces between them. */
static void ping(sv_exchange *x)
{
    sv_buf_adds(&x->out, x->api == SV_OLLAMA ? "\n" : ": ping\n\n");
    x->ping_us = sv_now_us();
}

static void put_failure(sv_exchange *x)
{
    sv_buf_free(&x->out);
    if (x->api == SV_ANTHROPIC) sv_buf_adds(&x->out, "event: error\n");
    if (x->api != SV_OLLAMA) sv_buf_adds(&x->out, "data: ");
    sv_put_error(&x->out, x->api, &x->error);
    sv_buf_adds(&x->out, x->api == SV_OLLAMA ? "\n" : "\n\n");
}

void sv_await_pump(sv_exchange *x)
{
    int64_t silence = (int64_t)x->server->set->ping_s * 1000000;
    int is;
    while ((is = wait_a_little(x)) == 0)
        if (sv_now_us() - x->ping_us > silence) {
            ping(x);
            return;
        }
    x->waits = false;
    if (is > 0) x->route->handle(x);
    if (x->error.status) put_failure(x);
}
