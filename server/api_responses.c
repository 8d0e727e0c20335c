/* api_responses.c - POST /v1/responses, without what needs a store of past answers. Source: OpenAI's API
 * reference; events and their order are those of its streams. */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "apis.h"
#include "fields.h"
#include "offer.h"
#include "openai.h"
#include "responses.h"
#include "state.h"

typedef struct responses_request {
    sv_job job;
    const char *model, *instructions, *effort;
    const sv_json *input, *tools, *choice, *text, *reasoning, *metadata, *kwargs;
    bool many_calls;
    int top_logprobs;
} responses_request;

#define AT(member) offsetof(responses_request, member)

static const sv_field responses_table[] = {
    {"model", sv_read_string, AT(model), 0, 0, NULL},
    {"input", sv_read_json, AT(input), 0, 0, NULL},
    {"instructions", sv_read_string, AT(instructions), 0, 0, NULL},
    {"stream", sv_read_bool, AT(job.stream), 0, 0, NULL},
    {"max_output_tokens", sv_read_int, AT(job.max_tokens), 0, INT_MAX, NULL},
    {"temperature", sv_read_real, AT(job.sampling.temperature), 0, 2, NULL},
    {"top_p", sv_read_real, AT(job.sampling.top_p), 0, 1, NULL},
    {"tools", sv_read_array, AT(tools), 0, 0, NULL},
    {"tool_choice", sv_read_json, AT(choice), 0, 0, NULL},
    {"parallel_tool_calls", sv_read_bool, AT(many_calls), 0, 0, NULL},
    {"text", sv_read_object, AT(text), 0, 0, NULL},
    {"reasoning", sv_read_object, AT(reasoning), 0, 0, NULL},
    {"metadata", sv_read_object, AT(metadata), 0, 0, NULL},
    {"image_tokens", sv_read_int, AT(job.image_tokens), 1, INT_MAX, NULL},
    {"chat_template_kwargs", sv_read_object, AT(kwargs), 0, 0, NULL},
    {"store", sv_read_only, 0, 0, 0, "false"},
    {"background", sv_read_only, 0, 0, 0, "false"},
    {"truncation", sv_read_only, 0, 0, 0, "disabled"},
    {"include", sv_read_any, 0, 0, 0, NULL}, /* looked at below */
    {"user", sv_read_any, 0, 0, 0, NULL},
    {"safety_identifier", sv_read_any, 0, 0, 0, NULL},
    {"prompt_cache_key", sv_read_any, 0, 0, 0, NULL},
    {"prompt_cache_retention", sv_read_any, 0, 0, 0, NULL},
    {"client_metadata", sv_read_any, 0, 0, 0, NULL},
    {"service_tier", sv_read_any, 0, 0, 0, NULL},
    {"stream_options", sv_read_any, 0, 0, 0, NULL},
    {"top_logprobs", sv_read_refuse, 0, 0, 0, NULL},
    {"previous_response_id", sv_read_refuse, 0, 0, 0,
     "answers are not stored; send the conversation in input"},
    {"conversation", sv_read_refuse, 0, 0, 0,
     "conversations are not stored; send what was said in input"},
    {"prompt", sv_read_refuse, 0, 0, 0, "prompts are not stored"},
    {"max_tool_calls", sv_read_refuse, 0, 0, 0, NULL},
    {"context_management", sv_read_refuse, 0, 0, 0, NULL},
    {0}};

typedef struct reasoning {
    const char *effort;
} reasoning;

static const sv_field reasoning_table[] = {
    {"effort", sv_read_string, offsetof(reasoning, effort), 0, 0, NULL},
    {"summary", sv_read_any, 0, 0, 0, NULL}, /* thoughts come as they are */
    {"generate_summary", sv_read_any, 0, 0, 0, NULL},
    {0}};

static const sv_field text_table[] = {{"format", sv_read_any, 0, 0, 0, NULL}, /* looked at below */
                                      {"verbosity", sv_read_only, 0, 0, 0, "medium"},
                                      {0}};

/* What an answer could carry besides: the thoughts as another party's secret are none here. */
static bool read_include(sv_exchange *x)
{
    const sv_json *list = sv_json_get(x->json, "include");
    if (list && list->type != SV_JSON_ARRAY) return sv_fail_kind(x, "include", "an array", list);
    for (const sv_json *i = list ? list->first : NULL; i; i = i->next)
        if (!sv_json_is(i, "reasoning.encrypted_content"))
            return sv_fail(x, 400, "unsupported_value", "include",
                           "include: only reasoning.encrypted_content is known, and left out");
    return true;
}

static bool read_choice(sv_exchange *x, sv_job *j, const sv_json *c)
{
    const sv_json *name = sv_json_get(c, "name");
    if (!c || sv_json_is(c, "auto")) return sv_offer_finish(x, j, SV_AUTO, NULL, "tool_choice");
    if (sv_json_is(c, "none")) return sv_offer_finish(x, j, SV_NONE, NULL, "tool_choice");
    if (sv_json_is(c, "required")) return sv_offer_finish(x, j, SV_ANY, NULL, "tool_choice");
    if (sv_json_is(sv_json_get(c, "type"), "function") && name && name->type == SV_JSON_STRING)
        return sv_offer_finish(x, j, SV_NAMED, name->str, "tool_choice");
    return sv_fail(x, 400, NULL, "tool_choice",
                   "tool_choice: expected auto, none, required or a function");
}

static bool read_rest(sv_exchange *x, responses_request *r)
{
    reasoning g = {0};
    sv_job *j = &r->job;
    if (r->reasoning && !sv_fields_read(x, reasoning_table, r->reasoning, "reasoning", &g))
        return false;
    if (r->text && !sv_fields_read(x, text_table, r->text, "text", &g)) return false;
    if (r->kwargs) sv_put_json(&j->extra, NULL, r->kwargs);
    r->effort = g.effort;
    j->single_call = !r->many_calls;
    return sv_openai_effort(x, j, g.effort, "reasoning.effort") &&
           sv_openai_format(x, j, sv_json_get(r->text, "format"), "text.format") &&
           read_include(x) && sv_job_sampling(x, j) && sv_responses_tools(x, j, r->tools) &&
           read_choice(x, j, r->choice) && sv_responses_input(x, j, r->instructions, r->input);
}

/* ---------------------------------------------------------------- items of the answer */

enum { NOTHING = 0, THOUGHT, MESSAGE };

/* What is open now; the answer's own, in the exchange's arena. Finished items are kept in answer.done, as JSON. */
typedef struct items {
    responses_request r; /* but its job */
    char id[48];
    size_t from; /* of the choice's text or thoughts */
} items;

static void put_part(sv_buf *b, const char *key, bool think, const char *s, size_t n)
{
    sv_put_map(b, key);
    sv_put_str(b, "type", think ? "reasoning_text" : "output_text");
    sv_put_strn(b, "text", s, n);
    if (!think) {
        sv_put_array(b, "annotations");
        sv_put_end_array(b);
        sv_put_array(b, "logprobs");
        sv_put_end_array(b);
    }
    sv_put_end_map(b);
}

/* A message or a thought; s NULL: it begins, and is empty. */
static void put_item(sv_buf *b, const char *key, bool think, const char *id, const char *s,
                     size_t n, bool whole)
{
    sv_put_map(b, key);
    sv_put_str(b, "id", id);
    sv_put_str(b, "type", think ? "reasoning" : "message");
    sv_put_str(b, "status", !s ? "in_progress" : whole ? "completed" : "incomplete");
    if (think) {
        sv_put_array(b, "summary");
        sv_put_end_array(b);
    } else {
        sv_put_str(b, "role", "assistant");
    }
    sv_put_array(b, "content");
    if (s) put_part(b, NULL, think, s, n);
    sv_put_end_array(b);
    sv_put_end_map(b);
}

static void put_call(sv_buf *b, const char *key, const sv_tool_call *t, bool whole)
{
    sv_put_map(b, key);
    sv_buf id = {0};
    sv_buf_addf(&id, "fc_%s", t->id + strlen("call_"));
    sv_put_str(b, "id", sv_buf_text(&id));
    sv_buf_free(&id);
    sv_put_str(b, "type", "function_call");
    sv_put_str(b, "status", whole ? "completed" : "in_progress");
    sv_put_str(b, "call_id", t->id);
    sv_put_strn(b, "name", sv_buf_text(&t->name), t->name.len);
    sv_put_strn(b, "arguments", sv_buf_text(&t->args), whole ? t->args.len : 0);
    sv_put_end_map(b);
}

/* ---------------------------------------------------------------- the response object */

static void put_usage(sv_buf *b, const sv_answer *a)
{
    sv_usage u = sv_answer_usage(a);
    sv_put_map(b, "usage");
    sv_put_int(b, "input_tokens", u.n_prompt);
    sv_put_map(b, "input_tokens_details");
    sv_put_int(b, "cached_tokens", u.n_cached);
    sv_put_end_map(b);
    sv_put_int(b, "output_tokens", u.n_generated);
    sv_put_map(b, "output_tokens_details");
    sv_put_int(b, "reasoning_tokens", u.n_thought);
    sv_put_end_map(b);
    sv_put_int(b, "total_tokens", u.n_prompt + u.n_generated);
    sv_put_end_map(b);
}

/* What was asked for, as it is sent back. */
static void put_asked(sv_buf *b, const sv_answer *a, const responses_request *r)
{
    sv_put_str(b, "instructions", r->instructions);
    if (a->job.max_tokens >= 0)
        sv_put_int(b, "max_output_tokens", a->job.max_tokens);
    else
        sv_put_null(b, "max_output_tokens");
    if (r->metadata)
        sv_put_json(b, "metadata", r->metadata);
    else {
        sv_put_map(b, "metadata");
        sv_put_end_map(b);
    }
    sv_put_bool(b, "parallel_tool_calls", r->many_calls);
    sv_put_null(b, "previous_response_id");
    sv_put_map(b, "reasoning");
    sv_put_str(b, "effort", r->effort);
    sv_put_null(b, "summary");
    sv_put_end_map(b);
    sv_put_bool(b, "store", false);
    sv_put_real(b, "temperature", a->job.sampling.temperature);
    sv_put_real(b, "top_p", a->job.sampling.top_p);
    sv_put_map(b, "text");
    if (sv_json_get(r->text, "format")) {
        sv_put_json(b, "format", sv_json_get(r->text, "format"));
    } else {
        sv_put_map(b, "format");
        sv_put_str(b, "type", "text");
        sv_put_end_map(b);
    }
    sv_put_end_map(b);
    if (r->choice)
        sv_put_json(b, "tool_choice", r->choice);
    else
        sv_put_str(b, "tool_choice", "auto");
    if (r->tools)
        sv_put_json(b, "tools", r->tools);
    else {
        sv_put_array(b, "tools");
        sv_put_end_array(b);
    }
    sv_put_str(b, "truncation", "disabled");
}

/* output: its items, NULL = none yet. */
static void put_response(sv_buf *b, const char *key, const sv_answer *a, const char *status,
                         const sv_buf *output, const sv_error *e)
{
    const items *own = a->own;
    bool cut = !strcmp(status, "incomplete"), over = strcmp(status, "in_progress") != 0;
    sv_put_map(b, key);
    sv_put_str(b, "id", a->id);
    sv_put_str(b, "object", "response");
    sv_put_int(b, "created_at", a->created);
    sv_put_str(b, "status", status);
    sv_put_null(b, "background");
    if (e) {
        sv_put_map(b, "error");
        sv_put_str(b, "code", "server_error");
        sv_put_str(b, "message", e->text);
        sv_put_end_map(b);
    } else {
        sv_put_null(b, "error");
    }
    if (cut) {
        sv_put_map(b, "incomplete_details");
        sv_put_str(b, "reason", "max_output_tokens");
        sv_put_end_map(b);
    } else {
        sv_put_null(b, "incomplete_details");
    }
    sv_put_str(b, "model", a->x->served->entry->name);
    sv_put_array(b, "output");
    if (output && output->len) sv_put_raw(b, NULL, output->data, output->len);
    sv_put_end_array(b);
    put_asked(b, a, &own->r);
    if (over && !e)
        put_usage(b, a);
    else
        sv_put_null(b, "usage");
    sv_put_end_map(b);
}

/* ---------------------------------------------------------------- the stream */

static sv_buf *event_begin(sv_answer *a, const char *type)
{
    sv_buf *b = &a->x->out;
    sv_buf_addf(b, "event: %s\ndata: ", type);
    sv_put_map(b, NULL);
    sv_put_str(b, "type", type);
    sv_put_int(b, "sequence_number", a->sequence++);
    return b;
}

static void event_end(sv_buf *b)
{
    sv_put_end_map(b);
    sv_buf_adds(b, "\n\n");
}

/* An event of the item that is open. */
static sv_buf *item_event(sv_choice *c, const char *type, bool in_content)
{
    const items *own = c->answer->own;
    sv_buf *b = event_begin(c->answer, type);
    if (in_content) sv_put_str(b, "item_id", own->id);
    sv_put_int(b, "output_index", c->n_items - 1);
    if (in_content) sv_put_int(b, "content_index", 0);
    return b;
}

static void on_begin(sv_answer *a)
{
    static const char *const types[] = {"response.created", "response.in_progress"};
    for (int i = 0; i < 2; i++) {
        sv_buf *b = event_begin(a, types[i]);
        put_response(b, "response", a, "in_progress", NULL, NULL);
        event_end(b);
    }
}

static void close_item(sv_choice *c, bool whole)
{
    items *own = (items *)c->answer->own;
    bool think = c->open == THOUGHT;
    const sv_buf *all = think ? &c->think : &c->text;
    const char *s = sv_buf_text(all) + own->from;
    size_t n = all->len - own->from;
    if (!c->open) return;
    sv_buf *b =
        item_event(c, think ? "response.reasoning_text.done" : "response.output_text.done", true);
    sv_put_strn(b, "text", s, n);
    if (!think) {
        sv_put_array(b, "logprobs");
        sv_put_end_array(b);
    }
    event_end(b);
    b = item_event(c, "response.content_part.done", true);
    put_part(b, "part", think, s, n);
    event_end(b);
    b = item_event(c, "response.output_item.done", false);
    put_item(b, "item", think, own->id, s, n, whole);
    event_end(b);
    put_item(&c->answer->done, NULL, think, own->id, s, n, whole);
    c->open = NOTHING;
}

static void open_item(sv_choice *c, int kind, size_t n)
{
    items *own = (items *)c->answer->own;
    bool think = kind == THOUGHT;
    if (c->open == kind) return;
    close_item(c, true);
    c->open = kind;
    c->n_items++;
    own->from = (think ? c->think.len : c->text.len) - n;
    sv_make_id(own->id, sizeof own->id, think ? "rs_" : "msg_");
    sv_buf *b = item_event(c, "response.output_item.added", false);
    put_item(b, "item", think, own->id, NULL, 0, false);
    event_end(b);
    b = item_event(c, "response.content_part.added", true);
    put_part(b, "part", think, "", 0);
    event_end(b);
}

static void on_piece(sv_choice *c, apus_part part, const char *s, size_t n)
{
    bool think = part == APUS_PART_THINK;
    open_item(c, think ? THOUGHT : MESSAGE, n);
    sv_buf *b =
        item_event(c, think ? "response.reasoning_text.delta" : "response.output_text.delta", true);
    sv_put_strn(b, "delta", s, n);
    if (!think) {
        sv_put_array(b, "logprobs");
        sv_put_end_array(b);
    }
    event_end(b);
}

static void on_call(sv_choice *c, const sv_tool_call *t)
{
    items *own = (items *)c->answer->own;
    close_item(c, true);
    c->n_items++;
    snprintf(own->id, sizeof own->id, "fc_%s", t->id + strlen("call_"));
    sv_buf *b = item_event(c, "response.output_item.added", false);
    put_call(b, "item", t, false);
    event_end(b);
    static const char *const types[] = {"response.function_call_arguments.delta",
                                        "response.function_call_arguments.done"};
    for (int i = 0; i < 2; i++) {
        b = event_begin(c->answer, types[i]);
        sv_put_str(b, "item_id", own->id);
        sv_put_int(b, "output_index", c->n_items - 1);
        if (i) sv_put_strn(b, "name", sv_buf_text(&t->name), t->name.len);
        sv_put_strn(b, i ? "arguments" : "delta", sv_buf_text(&t->args), t->args.len);
        event_end(b);
    }
    b = item_event(c, "response.output_item.done", false);
    put_call(b, "item", t, true);
    event_end(b);
    put_call(&c->answer->done, NULL, t, true);
}

static void on_end(sv_choice *c)
{
    close_item(c, c->end != SV_END_LENGTH);
}

static void on_close(sv_answer *a)
{
    bool cut = a->choices[0].end == SV_END_LENGTH;
    sv_buf *b = event_begin(a, cut ? "response.incomplete" : "response.completed");
    put_response(b, "response", a, cut ? "incomplete" : "completed", &a->done, NULL);
    event_end(b);
}

static void on_fail(sv_answer *a, const sv_error *e)
{
    sv_buf *b = event_begin(a, "response.failed");
    put_response(b, "response", a, "failed", &a->done, e);
    event_end(b);
}

static void on_whole(sv_answer *a)
{
    const sv_choice *c = &a->choices[0];
    bool cut = c->end == SV_END_LENGTH;
    sv_buf out = {0};
    char id[48];
    if (c->think.len) {
        sv_make_id(id, sizeof id, "rs_");
        put_item(&out, NULL, true, id, c->think.data, c->think.len,
                 !cut || c->text.len || c->n_calls);
    }
    if (c->text.len || (!c->n_calls && !c->think.len)) {
        sv_make_id(id, sizeof id, "msg_");
        put_item(&out, NULL, false, id, sv_buf_text(&c->text), c->text.len, !cut);
    }
    for (int i = 0; i < c->n_calls; i++) put_call(&out, NULL, &c->calls[i], true);
    put_response(&a->x->out, NULL, a, cut ? "incomplete" : "completed", &out, NULL);
    sv_buf_free(&out);
}

static const sv_form form = {"text/event-stream", on_begin, on_piece, on_call, on_end, on_close,
                             sv_sse_ping,         on_fail,  on_whole};

static bool read_request(sv_exchange *x, responses_request *r)
{
    sv_job_init(&r->job, x->served->model);
    return sv_fields_read(x, responses_table, x->json, "", r) && sv_job_model(x, r->model) &&
           read_rest(x, r);
}

void sv_responses(sv_exchange *x)
{
    items *own = sv_arena_alloc(&x->mem, sizeof *own);
    responses_request r = {.many_calls = true};
    if (!own) {
        sv_fail(x, 503, NULL, NULL, "out of memory");
    } else if (read_request(x, &r)) {
        own->r = r;
        sv_answer_run(x, &r.job, &form, "resp_", own);
    }
    sv_job_free(&r.job);
}

void sv_input_tokens(sv_exchange *x)
{
    responses_request r = {.many_calls = true};
    sv_prompt p;
    if (read_request(x, &r) && sv_prompt_make(x, &r.job, &p)) {
        sv_json_answer(x, 200);
        sv_put_map(&x->out, NULL);
        sv_put_str(&x->out, "object", "response.input_tokens");
        sv_put_int(&x->out, "input_tokens", (int64_t)p.n);
        sv_put_end_map(&x->out);
        sv_prompt_free(&p);
    }
    sv_job_free(&r.job);
}
