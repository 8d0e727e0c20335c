/* api_messages.c - POST /v1/messages and /v1/messages/count_tokens. Source: Anthropic's API reference. */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "apis.h"
#include "anthropic.h"
#include "constrain.h"
#include "fields.h"
#include "offer.h"
#include "state.h"

typedef struct messages_request {
    sv_job job;
    const char *model;
    const sv_json *messages, *system, *stops, *tools, *choice, *thinking;
    const sv_json *config, *format; /* output_config, output_format */
    const sv_json *management;      /* context_management */
} messages_request;

#define AT(member) offsetof(messages_request, member)

/* Clients that offer it go on without when they are told so. */
static bool refuse_thread(sv_exchange *x, const sv_field *f, const sv_json *v, const char *path,
                          void *into)
{
    (void)f;
    (void)v;
    (void)into;
    return sv_fail(x, 400, "thread_unsupported_request", path,
                   "%s: conversations are not held here; send all messages, without it", path);
}

static const sv_field messages_table[] = {
    {"model", sv_read_string, AT(model), 0, 0, NULL},
    {"messages", sv_read_array, AT(messages), 0, 0, NULL},
    {"system", sv_read_json, AT(system), 0, 0, NULL},
    {"max_tokens", sv_read_int, AT(job.max_tokens), 0, INT_MAX, NULL},
    {"stream", sv_read_bool, AT(job.stream), 0, 0, NULL},
    {"stop_sequences", sv_read_array, AT(stops), 0, 0, NULL},
    {"temperature", sv_read_real, AT(job.sampling.temperature), 0, 1, NULL},
    {"top_p", sv_read_real, AT(job.sampling.top_p), 0, 1, NULL},
    {"top_k", sv_read_int, AT(job.sampling.top_k), 0, INT_MAX, NULL},
    {"tools", sv_read_array, AT(tools), 0, 0, NULL},
    {"tool_choice", sv_read_object, AT(choice), 0, 0, NULL},
    {"thinking", sv_read_object, AT(thinking), 0, 0, NULL},
    {"image_tokens", sv_read_int, AT(job.image_tokens), 1, INT_MAX, NULL},
    {"metadata", sv_read_any, 0, 0, 0, NULL},
    {"service_tier", sv_read_any, 0, 0, 0, NULL},
    {"cache_control", sv_read_any, 0, 0, 0, NULL},
    {"container", sv_read_refuse, 0, 0, 0, NULL},
    {"thread", refuse_thread, 0, 0, 0, NULL},
    {"context_management", sv_read_object, AT(management), 0, 0, NULL},
    {"mcp_servers", sv_read_refuse, 0, 0, 0, NULL},
    {"output_config", sv_read_object, AT(config), 0, 0, NULL},
    {"output_format", sv_read_object, AT(format), 0, 0, NULL},
    {0}};

/* ---------------------------------------------------------------- tools */

typedef struct tool {
    const char *type, *name, *description;
    const sv_json *schema;
    bool strict;
} tool;

static const sv_field tool_table[] = {
    {"type", sv_read_string, offsetof(tool, type), 0, 0, NULL},
    {"name", sv_read_string, offsetof(tool, name), 0, 0, NULL},
    {"description", sv_read_string, offsetof(tool, description), 0, 0, NULL},
    {"input_schema", sv_read_object, offsetof(tool, schema), 0, 0, NULL},
    {"cache_control", sv_read_any, 0, 0, 0, NULL},
    {"eager_input_streaming", sv_read_any, 0, 0, 0, NULL},
    {"strict", sv_read_bool, offsetof(tool, strict), 0, 0, NULL},
    {0}};

static bool read_tool(sv_exchange *x, sv_job *j, const sv_json *t, const char *path)
{
    tool f = {0};
    sv_path at;
    const sv_json *type = sv_json_get(t, "type");
    if (type && !sv_json_is(type, "custom")) /* before its members, which are others */
        return sv_fail(x, 400, NULL, sv_path_at(&at, path, "type"),
                       "%s: tools that run on a server are not supported, only custom ones",
                       at.text);
    if (!sv_fields_read(x, tool_table, t, path, &f)) return false;
    if (!f.schema)
        return sv_fail(x, 400, NULL, sv_path_at(&at, path, "input_schema"),
                       "%s: expected an object", at.text);
    return sv_offer_add(x, j, sv_path_at(&at, path, "name"), f.name, f.description, f.schema,
                        f.strict);
}

typedef struct choice {
    const char *type, *name;
    bool single;
} choice;

static const sv_field choice_table[] = {
    {"type", sv_read_string, offsetof(choice, type), 0, 0, NULL},
    {"name", sv_read_string, offsetof(choice, name), 0, 0, NULL},
    {"disable_parallel_tool_use", sv_read_bool, offsetof(choice, single), 0, 0, NULL},
    {0}};

static bool read_choice(sv_exchange *x, sv_job *j, const sv_json *json)
{
    static const char *const names[] = {"auto", "none", "any", "tool"};
    choice c = {.type = "auto"};
    if (json && !sv_fields_read(x, choice_table, json, "tool_choice", &c)) return false;
    j->single_call = c.single;
    for (int i = 0; i < 4; i++) {
        if (strcmp(c.type, names[i]) != 0) continue;
        if (i == SV_NAMED && !c.name) break;
        return sv_offer_finish(x, j, (sv_must)i, c.name, "tool_choice");
    }
    return sv_fail(x, 400, NULL, "tool_choice",
                   "tool_choice: expected type auto, none, any, or tool with a name");
}

static bool read_tools(sv_exchange *x, messages_request *r)
{
    size_t i = 0;
    for (const sv_json *t = r->tools ? r->tools->first : NULL; t; t = t->next) {
        sv_path at;
        if (!read_tool(x, &r->job, t, sv_path_index(&at, "tools", i++))) return false;
    }
    return read_choice(x, &r->job, r->choice);
}

/* ---------------------------------------------------------------- the answer's form */

typedef struct output {
    const sv_json *format, *schema;
    const char *type, *effort;
} output;

static const sv_field output_table[] = {
    {"format", sv_read_object, offsetof(output, format), 0, 0, NULL},
    {"effort", sv_read_string, offsetof(output, effort), 0, 0, NULL},
    {0}};

static const sv_field format_table[] = {
    {"type", sv_read_string, offsetof(output, type), 0, 0, NULL},
    {"schema", sv_read_json, offsetof(output, schema), 0, 0, NULL},
    {0}};

static bool read_form(sv_exchange *x, sv_job *j, const sv_json *format, const char *path)
{
    output o = {.format = NULL};
    sv_path at;
    if (!format) return true;
    if (!sv_fields_read(x, format_table, format, path, &o)) return false;
    if (!o.type || strcmp(o.type, "json_schema") != 0 || !o.schema)
        return sv_fail(x, 400, NULL, path, "%s: expected type json_schema, and a schema", path);
    return sv_constrain_schema(x, j, o.schema, sv_path_at(&at, path, "schema"));
}

/* How much is to be thought, where it is thought at all: thoughts are as long as the model makes them. */
static bool check_effort(sv_exchange *x, const char *effort)
{
    static const char *const known[] = {"low", "medium", "high", "xhigh", "max"};
    for (size_t i = 0; effort && i < sizeof known / sizeof *known; i++)
        if (!strcmp(effort, known[i])) return true;
    return !effort || sv_fail(x, 400, NULL, "output_config.effort",
                              "output_config.effort: expected low, medium, high, xhigh or max");
}

/* output_config.format, and output_format as it was called before. */
static bool read_output(sv_exchange *x, messages_request *r)
{
    output o = {.format = NULL};
    if (r->config && !sv_fields_read(x, output_table, r->config, "output_config", &o)) return false;
    return check_effort(x, o.effort) && read_form(x, &r->job, o.format, "output_config.format") &&
           read_form(x, &r->job, r->format, "output_format");
}

/* ---------------------------------------------------------------- the rest */

/* Nothing is ever cleared, and agents that ask for just that are right. */
static bool check_management(sv_exchange *x, const sv_json *m)
{
    const sv_json *edits = sv_json_get(m, "edits");
    for (const sv_json *e = edits ? edits->first : NULL; e; e = e->next) {
        const sv_json *type = sv_json_get(e, "type");
        bool thoughts = type && type->type == SV_JSON_STRING &&
                        !strncmp(type->str, "clear_thinking_", strlen("clear_thinking_"));
        if (thoughts && sv_json_is(sv_json_get(e, "keep"), "all")) continue;
        return sv_fail(x, 400, "unsupported_value", "context_management",
                       "context_management: nothing is cleared here; only clear_thinking with keep "
                       "all is supported");
    }
    return true;
}

typedef struct thinking {
    const char *type;
    int budget;
} thinking;

static const sv_field thinking_table[] = {
    {"type", sv_read_string, offsetof(thinking, type), 0, 0, NULL},
    {"budget_tokens", sv_read_int, offsetof(thinking, budget), 1, INT_MAX, NULL},
    {"display", sv_read_only, 0, 0, 0, "summarized"},
    {0}};

/* Who does not ask for thoughts gets none, as there. */
static bool read_thinking(sv_exchange *x, messages_request *r)
{
    thinking t = {.type = "disabled", .budget = -1};
    if (r->thinking && !sv_fields_read(x, thinking_table, r->thinking, "thinking", &t))
        return false;
    r->job.think = strcmp(t.type, "disabled") ? APUS_THINK_ON : APUS_THINK_OFF;
    r->job.think_budget = t.budget;
    if (!strcmp(t.type, "enabled") && t.budget < 0)
        return sv_fail(x, 400, NULL, "thinking.budget_tokens",
                       "thinking.budget_tokens: expected a whole number");
    if (!strcmp(t.type, "enabled") || !strcmp(t.type, "disabled") || !strcmp(t.type, "adaptive"))
        return true;
    return sv_fail(x, 400, NULL, "thinking.type",
                   "thinking.type: expected enabled, disabled or adaptive");
}

static bool read_request(sv_exchange *x, messages_request *r, const sv_field *table)
{
    sv_job_init(&r->job, x->served->model);
    if (!sv_fields_read(x, table, x->json, "", r)) return false;
    if (!r->model) return sv_fail(x, 400, NULL, "model", "model: expected a name");
    return sv_job_model(x, r->model) && read_thinking(x, r) && check_management(x, r->management) &&
           (!r->stops || sv_job_stops(x, &r->job, r->stops, "stop_sequences", SV_MAX_STOPS)) &&
           sv_job_sampling(x, &r->job) && read_tools(x, r) && read_output(x, r) &&
           sv_anthropic_messages(x, &r->job, r->system, r->messages);
}

/* ---------------------------------------------------------------- the answer */

enum { NOTHING = 0, TEXT, THINKING, CALL };

static void event_begin(sv_buf *b, const char *type)
{
    sv_buf_addf(b, "event: %s\ndata: ", type);
    sv_put_map(b, NULL);
    sv_put_str(b, "type", type);
}

static void event_end(sv_buf *b)
{
    sv_put_end_map(b);
    sv_buf_adds(b, "\n\n");
}

static void put_usage(sv_buf *b, const sv_answer *a)
{
    const apus_usage *u = &a->choices[0].usage;
    sv_put_map(b, "usage");
    sv_put_int(b, "input_tokens", (int)a->prompt.n - u->n_cached);
    sv_put_int(b, "cache_creation_input_tokens", 0);
    sv_put_int(b, "cache_read_input_tokens", u->n_cached);
    sv_put_int(b, "output_tokens", a->choices[0].n_tokens);
    sv_put_end_map(b);
}

static void put_message_head(sv_buf *b, const sv_answer *a)
{
    sv_put_str(b, "id", a->id);
    sv_put_str(b, "type", "message");
    sv_put_str(b, "role", "assistant");
    sv_put_str(b, "model", a->x->served->entry->name);
}

static void put_stop(sv_buf *b, const sv_choice *c)
{
    static const char *const reasons[] = {"end_turn", "stop_sequence", "max_tokens", "tool_use"};
    sv_put_str(b, "stop_reason", reasons[c->end]);
    sv_put_str(b, "stop_sequence",
               c->stop_string < 0 ? NULL : c->answer->job.stops[c->stop_string]);
}

static void on_begin(sv_answer *a)
{
    sv_buf *b = &a->x->out;
    event_begin(b, "message_start");
    sv_put_map(b, "message");
    put_message_head(b, a);
    sv_put_array(b, "content");
    sv_put_end_array(b);
    sv_put_null(b, "stop_reason");
    sv_put_null(b, "stop_sequence");
    put_usage(b, a);
    sv_put_end_map(b);
    event_end(b);
}

static void delta_begin(sv_choice *c, const char *type)
{
    sv_buf *b = &c->answer->x->out;
    event_begin(b, "content_block_delta");
    sv_put_int(b, "index", c->n_items - 1);
    sv_put_map(b, "delta");
    sv_put_str(b, "type", type);
}

static void delta_end(sv_choice *c)
{
    sv_put_end_map(&c->answer->x->out);
    event_end(&c->answer->x->out);
}

/* What others sign is to be sent back as it is; here it only must not be empty. */
static void put_signature(sv_buf *b)
{
    char id[48];
    sv_make_id(id, sizeof id, "sig_");
    sv_put_str(b, "signature", id);
}

static void close_block(sv_choice *c)
{
    sv_buf *b = &c->answer->x->out;
    if (c->open == THINKING) {
        delta_begin(c, "signature_delta");
        put_signature(b);
        delta_end(c);
    }
    if (c->open) {
        event_begin(b, "content_block_stop");
        sv_put_int(b, "index", c->n_items - 1);
        event_end(b);
    }
    c->open = NOTHING;
}

static void open_block(sv_choice *c, int kind, const sv_tool_call *t)
{
    sv_buf *b = &c->answer->x->out;
    if (c->open == kind && kind != CALL) return;
    close_block(c);
    c->open = kind;
    event_begin(b, "content_block_start");
    sv_put_int(b, "index", c->n_items++);
    sv_put_map(b, "content_block");
    sv_put_str(b, "type", kind == TEXT ? "text" : kind == THINKING ? "thinking" : "tool_use");
    if (kind == TEXT) sv_put_str(b, "text", "");
    if (kind == THINKING) {
        sv_put_str(b, "thinking", "");
        sv_put_str(b, "signature", "");
    }
    if (kind == CALL) {
        sv_put_str(b, "id", t->id);
        sv_put_strn(b, "name", sv_buf_text(&t->name), t->name.len);
        sv_put_map(b, "input");
        sv_put_end_map(b);
    }
    sv_put_end_map(b);
    event_end(b);
}

static void on_piece(sv_choice *c, apus_part part, const char *s, size_t n)
{
    bool think = part == APUS_PART_THINK;
    open_block(c, think ? THINKING : TEXT, NULL);
    delta_begin(c, think ? "thinking_delta" : "text_delta");
    sv_put_strn(&c->answer->x->out, think ? "thinking" : "text", s, n);
    delta_end(c);
}

static void on_call(sv_choice *c, const sv_tool_call *t)
{
    open_block(c, CALL, t);
    delta_begin(c, "input_json_delta");
    sv_put_strn(&c->answer->x->out, "partial_json", sv_buf_text(&t->args), t->args.len);
    delta_end(c);
    close_block(c);
}

static void on_end(sv_choice *c)
{
    sv_buf *b = &c->answer->x->out;
    close_block(c);
    event_begin(b, "message_delta");
    sv_put_map(b, "delta");
    put_stop(b, c);
    sv_put_end_map(b);
    put_usage(b, c->answer);
    event_end(b);
}

static void on_close(sv_answer *a)
{
    event_begin(&a->x->out, "message_stop");
    event_end(&a->x->out);
}

static void on_ping(sv_answer *a)
{
    event_begin(&a->x->out, "ping");
    event_end(&a->x->out);
}

static void on_fail(sv_answer *a, const sv_error *e)
{
    sv_buf_adds(&a->x->out, "event: error\ndata: ");
    sv_put_error(&a->x->out, SV_ANTHROPIC, e);
    sv_buf_adds(&a->x->out, "\n\n");
}

static void put_content(sv_buf *b, const sv_choice *c)
{
    sv_put_array(b, "content");
    if (c->think.len) {
        sv_put_map(b, NULL);
        sv_put_str(b, "type", "thinking");
        sv_put_strn(b, "thinking", c->think.data, c->think.len);
        put_signature(b);
        sv_put_end_map(b);
    }
    if (c->text.len) {
        sv_put_map(b, NULL);
        sv_put_str(b, "type", "text");
        sv_put_strn(b, "text", c->text.data, c->text.len);
        sv_put_end_map(b);
    }
    for (int i = 0; i < c->n_calls; i++) {
        const sv_tool_call *t = &c->calls[i];
        sv_put_map(b, NULL);
        sv_put_str(b, "type", "tool_use");
        sv_put_str(b, "id", t->id);
        sv_put_strn(b, "name", sv_buf_text(&t->name), t->name.len);
        sv_put_raw(b, "input", sv_buf_text(&t->args), t->args.len);
        sv_put_end_map(b);
    }
    sv_put_end_array(b);
}

static void on_whole(sv_answer *a)
{
    sv_buf *b = &a->x->out;
    sv_put_map(b, NULL);
    put_message_head(b, a);
    put_content(b, &a->choices[0]);
    put_stop(b, &a->choices[0]);
    put_usage(b, a);
    sv_put_end_map(b);
}

static const sv_form form = {
    "text/event-stream", on_begin, on_piece, on_call, on_end, on_close, on_ping, on_fail, on_whole};

void sv_messages(sv_exchange *x)
{
    messages_request r = {0};
    if (read_request(x, &r, messages_table)) {
        if (sv_json_get(x->json, "max_tokens"))
            sv_answer_run(x, &r.job, &form, "msg_", NULL);
        else
            sv_fail(x, 400, NULL, "max_tokens", "max_tokens: expected a whole number");
    }
    sv_job_free(&r.job);
}

void sv_count_tokens(sv_exchange *x)
{
    messages_request r = {0};
    sv_prompt p;
    if (read_request(x, &r, messages_table) && sv_prompt_make(x, &r.job, &p)) {
        sv_json_answer(x, 200);
        sv_put_map(&x->out, NULL);
        sv_put_int(&x->out, "input_tokens", (int64_t)p.n);
        sv_put_end_map(&x->out);
        sv_prompt_free(&p);
    }
    sv_job_free(&r.job);
}
