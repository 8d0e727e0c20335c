/* fuzz_request.c - bodies of requests: whatever comes is answered, and what is answered is JSON.
 *
 * Input: a byte for the path, the body. A scheduler whose queue is full ends what is well-formed; so the tiny
 * model's tokenizer and template are gone through too. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../fuzz.h"
#include "answer.h"
#include "route.h"
#include "state.h"

/* ---------------------------------------------------------------- no scheduler */

void apus_request_settings_default(apus_request_settings *s)
{
    *s = (apus_request_settings){.size = sizeof *s};
}

apus_err apus_request_submit(apus_scheduler *s, const apus_request_settings *set,
                             apus_request **out, apus_diag *diag)
{
    (void)s;
    (void)out;
    if (!set->prompt || set->n_prompt < 1) abort();
    for (int i = 0; i < set->n_prompt; i++)
        if (set->prompt[i] < 0) abort();
    diag->code = APUS_EBUSY;
    snprintf(diag->text, sizeof diag->text, "the queue is full");
    return diag->code;
}

void apus_request_cancel(apus_request *r)
{
    (void)r;
}

void apus_request_free(apus_request *r)
{
    (void)r;
}

bool apus_request_take(apus_request *r, int64_t timeout_us, apus_request_event *ev)
{
    (void)r;
    (void)timeout_us;
    (void)ev;
    return false;
}

apus_err apus_scheduler_create(const apus_model *m, const apus_scheduler_settings *s,
                               apus_scheduler **out, apus_diag *diag)
{
    (void)m;
    (void)s;
    (void)diag;
    *out = NULL;
    return APUS_OK;
}

void apus_scheduler_settings_default(apus_scheduler_settings *s)
{
    *s = (apus_scheduler_settings){.size = sizeof *s};
}

void apus_scheduler_drain(apus_scheduler *s)
{
    (void)s;
}

void apus_scheduler_free(apus_scheduler *s)
{
    (void)s;
}

void apus_scheduler_stats_get(const apus_scheduler *s, apus_scheduler_stats *out)
{
    (void)s;
    size_t size = out->size;
    memset(out, 0, size);
    out->size = size;
}

const char *apus_finish_name(apus_finish f)
{
    (void)f;
    return "stop";
}

const char *apus_miss_name(apus_miss m)
{
    (void)m;
    return "none";
}

/* ---------------------------------------------------------------- one request */

static const char *const paths[] = {"/v1/chat/completions",
                                    "/v1/completions",
                                    "/v1/responses",
                                    "/v1/messages",
                                    "/v1/messages/count_tokens",
                                    "/api/chat",
                                    "/api/generate",
                                    "/api/show",
                                    "/tokenize",
                                    "/detokenize"};

static int load(const sv_entry *e, uint64_t others, apus_model **out, apus_scheduler_settings *set,
                apus_diag *why)
{
    static apus_engine_settings engine;
    apus_model_settings m;
    (void)others;
    apus_engine_settings_default(&engine);
    engine.ctx = 256;
    set->engine = &engine;
    apus_model_settings_default(&m);
    m.load = APUS_LOAD_TEXT;
    return apus_model_open(e->source, &m, out, why) ? 1 : -1;
}

static sv_server *server(void)
{
    static const sv_entry model = {.name = "tiny-qwen", .source = "models/tiny-qwen"};
    static sv_server s;
    static sv_settings set;
    if (s.pool) return &s;
    sv_settings_default(&set);
    set.entries = &model;
    set.n_entries = 1;
    set.load = load;
    s.set = &set;
    s.pool = sv_pool_new(&set);
    if (!s.pool || sv_pool_load_first(s.pool) >= 0) abort();
    sv_metrics_init(&s.metrics);
    s.phase = SV_READY;
    return &s;
}

/* What is sent back parses. */
static void check_answer(sv_exchange *x)
{
    sv_arena mem = {0};
    bool full;
    char why[200];
    if (x->stream) abort(); /* nothing was submitted */
    if (!x->error.status && x->status != 200) abort();
    if (x->error.status) {
        sv_buf_free(&x->out);
        sv_put_error(&x->out, x->api, &x->error);
    }
    if (x->error.status >= 500 ||
        !sv_json_parse(&mem, sv_buf_text(&x->out), x->out.len, &full, why, sizeof why)) {
        fprintf(stderr, "%d %s\n%s\n", x->error.status, x->error.text, sv_buf_text(&x->out));
        abort();
    }
    sv_arena_free(&mem);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bool other;
    if (!size || size > 1 << 16) return 0;
    sv_exchange *x = calloc(1, sizeof *x);
    x->server = server();
    x->fd = -1;
    snprintf(x->method, sizeof x->method, "POST");
    snprintf(x->path, sizeof x->path, "%s", paths[*data % (sizeof paths / sizeof *paths)]);
    x->route = sv_route_find(x->method, x->path, &other);
    x->api = x->route->api;
    sv_buf_add(&x->body, (const char *)data + 1, size - 1);
    sv_route_handle(x);
    check_answer(x);
    sv_exchange_free(x);
    return 0;
}
