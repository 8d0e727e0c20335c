/* api_chat.c - POST /v1/chat/completions. Source: OpenAI's API reference, with the extensions that local
 * servers share: reasoning_content, top_k, min_p, repetition_penalty, chat_template_kwargs, timings. */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "apis.h"
#include "fields.h"
#include "offer.h"
#include "openai.h"
#include "state.h"

static const char CHUNK[] = "chat.completion.chunk";

/* ---------------------------------------------------------------- the request */

typedef struct chat_request {
    sv_openai_request shared;
    const char *effort;
    const sv_json *messages, *tools, *choice, *kwargs;
    bool logprobs, many_calls;
    int top_logprobs, max_tokens, max_completion_tokens;
} chat_request;

#define AT(member) offsetof(chat_request, member)

static const sv_field chat_table[] = {
    {"messages", sv_read_array, AT(messages), 0, 0, NULL},
    {"max_tokens", sv_read_int, AT(max_tokens), 0, INT_MAX, NULL},
    {"max_completion_tokens", sv_read_int, AT(max_completion_tokens), 0, INT_MAX, NULL},
    {"logprobs", sv_read_bool, AT(logprobs), 0, 0, NULL},
    {"top_logprobs", sv_read_int, AT(top_logprobs), 0, SV_MAX_LOGPROBS, NULL},
    {"tools", sv_read_array, AT(tools), 0, 0, NULL},
    {"tool_choice", sv_read_json, AT(choice), 0, 0, NULL},
    {"parallel_tool_calls", sv_read_bool, AT(many_calls), 0, 0, NULL},
    {"reasoning_effort", sv_read_string, AT(effort), 0, 0, NULL},
    {"chat_template_kwargs", sv_read_object, AT(kwargs), 0, 0, NULL},
    {"image_tokens", sv_read_int, AT(shared.job.image_tokens), 1, INT_MAX, NULL},
    {"modalities", sv_read_any, 0, 0, 0, NULL}, /* looked at below */
    {"store", sv_read_only, 0, 0, 0, "false"},
    {"service_tier", sv_read_any, 0, 0, 0, NULL},
    {"metadata", sv_read_any, 0, 0, 0, NULL},
    {"safety_identifier", sv_read_any, 0, 0, 0, NULL},
    {"prompt_cache_key", sv_read_any, 0, 0, 0, NULL},
    {"prompt_cache_retention", sv_read_any, 0, 0, 0, NULL},
    {"verbosity", sv_read_only, 0, 0, 0, "medium"},
    {"audio", sv_read_refuse, 0, 0, 0, NULL},
    {"prediction", sv_read_refuse, 0, 0, 0, NULL},
    {"web_search_options", sv_read_refuse, 0, 0, 0, NULL},
    {"functions", sv_read_refuse, 0, 0, 0, "tools has replaced it"},
    {"function_call", sv_read_refuse, 0, 0, 0, "tool_choice has replaced it"},
    {0}};

typedef struct function {
    const char *type, *name, *description;
    const sv_json *function, *parameters;
    bool strict;
} function;

static const sv_field tool_table[] = {
    {"type", sv_read_string, offsetof(function, type), 0, 0, NULL},
    {"function", sv_read_object, offsetof(function, function), 0, 0, NULL},
    {0}};

static const sv_field function_table[] = {
    {"name", sv_read_string, offsetof(function, name), 0, 0, NULL},
    {"description", sv_read_string, offsetof(function, description), 0, 0, NULL},
    {"parameters", sv_read_object, offsetof(function, parameters), 0, 0, NULL},
    {"strict", sv_read_bool, offsetof(function, strict), 0, 0, NULL},
    {0}};

static bool read_tool(sv_exchange *x, sv_job *j, const sv_json *t, const char *path)
{
    function f = {0};
    sv_path at, name;
    if (!sv_fields_read(x, tool_table, t, path, &f)) return false;
    if (!f.type || strcmp(f.type, "function") != 0 || !f.function)
        return sv_fail(x, 400, NULL, path, "%s: expected type function, and a function", path);
    sv_path_at(&at, path, "function");
    return sv_fields_read(x, function_table, f.function, at.text, &f) &&
           sv_offer_add(x, j, sv_path_at(&name, at.text, "name"), f.name, f.description,
                        f.parameters, f.strict);
}

static bool read_choice(sv_exchange *x, sv_job *j, const sv_json *c)
{
    const sv_json *name = sv_json_get(sv_json_get(c, "function"), "name");
    if (!c || sv_json_is(c, "auto")) return sv_offer_finish(x, j, SV_AUTO, NULL, "tool_choice");
    if (sv_json_is(c, "none")) return sv_offer_finish(x, j, SV_NONE, NULL, "tool_choice");
    if (sv_json_is(c, "required")) return sv_offer_finish(x, j, SV_ANY, NULL, "tool_choice");
    if (sv_json_is(sv_json_get(c, "type"), "function") && name && name->type == SV_JSON_STRING)
        return sv_offer_finish(x, j, SV_NAMED, name->str, "tool_choice");
    return sv_fail(x, 400, NULL, "tool_choice",
                   "tool_choice: expected auto, none, required or a function");
}

static bool read_tools(sv_exchange *x, chat_request *r)
{
    size_t i = 0;
    for (const sv_json *t = r->tools ? r->tools->first : NULL; t; t = t->next) {
        sv_path at;
        if (!read_tool(x, &r->shared.job, t, sv_path_index(&at, "tools", i++))) return false;
    }
    r->shared.job.single_call = !r->many_calls;
    return read_choice(x, &r->shared.job, r->choice);
}

static bool read_rest(sv_exchange *x, chat_request *r)
{
    sv_job *j = &r->shared.job;
    const sv_json *modalities = sv_json_get(x->json, "modalities");
    j->max_tokens = r->max_completion_tokens >= 0 ? r->max_completion_tokens : r->max_tokens;
    if (r->top_logprobs >= 0 && !r->logprobs)
        return sv_fail(x, 400, NULL, "top_logprobs", "top_logprobs: needs logprobs: true");
    if (r->logprobs) j->logprobs = r->top_logprobs < 0 ? 0 : r->top_logprobs;
    if (modalities && (modalities->len != 1 || !sv_json_is(modalities->first, "text")))
        return sv_fail(x, 400, "unsupported_value", "modalities",
                       "modalities: only text is supported");
    if (r->kwargs) sv_put_json(&j->extra, NULL, r->kwargs);
    return sv_openai_effort(x, j, r->effort, "reasoning_effort");
}

/* ---------------------------------------------------------------- the answer */

static void put_logprobs(sv_buf *b, sv_choice *c)
{
    const apus_model *m = c->answer->x->served->model;
    int width = c->answer->job.logprobs;
    if (width < 0) {
        sv_put_null(b, "logprobs");
        return;
    }
    sv_put_map(b, "logprobs");
    sv_put_array(b, "content");
    for (int i = c->n_logprobs_sent; i < c->n_logprobs; i++) {
        sv_put_map(b, NULL);
        sv_put_token_logprob(b, m, c->logprobs[i].id[0], c->logprobs[i].p[0]);
        sv_put_array(b, "top_logprobs");
        for (int k = 1; k <= width; k++) {
            sv_put_map(b, NULL);
            sv_put_token_logprob(b, m, c->logprobs[i].id[k], c->logprobs[i].p[k]);
            sv_put_end_map(b);
        }
        sv_put_end_array(b);
        sv_put_end_map(b);
    }
    c->n_logprobs_sent = c->n_logprobs;
    sv_put_end_array(b);
    sv_put_null(b, "refusal");
    sv_put_end_map(b);
}

static void put_call(sv_buf *b, const sv_tool_call *t, int index)
{
    sv_put_map(b, NULL);
    if (index >= 0) sv_put_int(b, "index", index);
    sv_put_str(b, "id", t->id);
    sv_put_str(b, "type", "function");
    sv_put_map(b, "function");
    sv_put_strn(b, "name", sv_buf_text(&t->name), t->name.len);
    sv_put_strn(b, "arguments", sv_buf_text(&t->args), t->args.len);
    sv_put_end_map(b);
    sv_put_end_map(b);
}

/* A chunk up to its delta, which is left open, and from there on. */
static void chunk_begin(sv_choice *c)
{
    sv_buf *b = &c->answer->x->out;
    sv_openai_event(b, c->answer, CHUNK);
    sv_put_array(b, "choices");
    sv_put_map(b, NULL);
    sv_put_int(b, "index", c->index);
    sv_put_map(b, "delta");
}

static void chunk_end(sv_choice *c, const char *finish)
{
    sv_answer *a = c->answer;
    sv_buf *b = &a->x->out;
    sv_put_end_map(b);
    if (a->job.logprobs >= 0) put_logprobs(b, c);
    sv_put_str(b, "finish_reason", finish);
    sv_put_end_map(b);
    sv_put_end_array(b);
    if (a->job.usage_in_stream) sv_put_null(b, "usage");
    if (finish && a->n_done == a->n) sv_put_timings(b, a);
    sv_openai_event_end(b);
}

static void on_begin(sv_answer *a)
{
    sv_buf *b = &a->x->out;
    for (int i = 0; i < a->n; i++) {
        chunk_begin(&a->choices[i]);
        sv_put_str(b, "role", "assistant");
        sv_put_str(b, "content", "");
        chunk_end(&a->choices[i], NULL);
    }
}

static void on_piece(sv_choice *c, apus_part part, const char *s, size_t n)
{
    chunk_begin(c);
    sv_put_strn(&c->answer->x->out, part == APUS_PART_THINK ? "reasoning_content" : "content", s,
                n);
    chunk_end(c, NULL);
}

static void on_call(sv_choice *c, const sv_tool_call *t)
{
    sv_buf *b = &c->answer->x->out;
    chunk_begin(c);
    sv_put_array(b, "tool_calls");
    put_call(b, t, c->n_calls - 1);
    sv_put_end_array(b);
    chunk_end(c, NULL);
}

static void on_end(sv_choice *c)
{
    chunk_begin(c);
    chunk_end(c, sv_openai_finish(c->end));
}

static void on_close(sv_answer *a)
{
    sv_buf *b = &a->x->out;
    if (a->job.usage_in_stream) {
        sv_openai_event(b, a, CHUNK);
        sv_put_array(b, "choices");
        sv_put_end_array(b);
        sv_openai_usage(b, a);
        sv_openai_event_end(b);
    }
    sv_buf_adds(b, "data: [DONE]\n\n");
}

static void put_message(sv_buf *b, const sv_choice *c)
{
    sv_put_map(b, "message");
    sv_put_str(b, "role", "assistant");
    if (c->text.len || !c->n_calls)
        sv_put_strn(b, "content", sv_buf_text(&c->text), c->text.len);
    else
        sv_put_null(b, "content");
    sv_put_null(b, "refusal");
    if (c->think.len) sv_put_strn(b, "reasoning_content", c->think.data, c->think.len);
    if (c->n_calls) {
        sv_put_array(b, "tool_calls");
        for (int i = 0; i < c->n_calls; i++) put_call(b, &c->calls[i], -1);
        sv_put_end_array(b);
    }
    sv_put_end_map(b);
}

static void on_whole(sv_answer *a)
{
    sv_buf *b = &a->x->out;
    sv_openai_begin(b, a, "chat.completion");
    sv_put_array(b, "choices");
    for (int i = 0; i < a->n; i++) {
        sv_choice *c = &a->choices[i];
        sv_put_map(b, NULL);
        sv_put_int(b, "index", i);
        put_message(b, c);
        put_logprobs(b, c);
        sv_put_str(b, "finish_reason", sv_openai_finish(c->end));
        sv_put_end_map(b);
    }
    sv_put_end_array(b);
    sv_openai_usage(b, a);
    sv_put_timings(b, a);
    sv_put_end_map(b);
}

static const sv_form chat_form = {
    "text/event-stream", on_begin,       on_piece, on_call, on_end, on_close,
    sv_sse_ping,         sv_openai_fail, on_whole};

void sv_chat(sv_exchange *x)
{
    chat_request r = {
        .top_logprobs = -1, .max_tokens = -1, .max_completion_tokens = -1, .many_calls = true};
    sv_job_init(&r.shared.job, x->served->model);
    if (sv_openai_read(x, chat_table, &r.shared) && read_rest(x, &r) && read_tools(x, &r) &&
        sv_openai_messages(x, &r.shared.job, r.messages))
        sv_answer_run(x, &r.shared.job, &chat_form, "chatcmpl-", NULL);
    sv_job_free(&r.shared.job);
}
