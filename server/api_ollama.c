/* api_ollama.c - Ollama's /api/chat and /api/generate. Source: its API's documentation. */
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "apis.h"
#include "constrain.h"
#include "fields.h"
#include "ollama.h"
#include "openai.h"
#include "state.h"

typedef struct ollama_request {
    sv_job job;
    const char *model, *system, *prompt;
    const sv_json *messages, *tools, *options, *think, *format, *images;
    bool raw, logprobs;
    int top_logprobs;
    bool chat;
} ollama_request;

#define AT(member) offsetof(ollama_request, member)

static const sv_field chat_table[] = {
    {"model", sv_read_string, AT(model), 0, 0, NULL},
    {"messages", sv_read_array, AT(messages), 0, 0, NULL},
    {"tools", sv_read_array, AT(tools), 0, 0, NULL},
    {"stream", sv_read_bool, AT(job.stream), 0, 0, NULL},
    {"options", sv_read_object, AT(options), 0, 0, NULL},
    {"think", sv_read_json, AT(think), 0, 0, NULL},
    {"format", sv_read_json, AT(format), 0, 0, NULL},
    {"logprobs", sv_read_bool, AT(logprobs), 0, 0, NULL},
    {"top_logprobs", sv_read_int, AT(top_logprobs), 0, SV_MAX_LOGPROBS, NULL},
    {"keep_alive", sv_read_any, 0, 0, 0, NULL}, /* the model is always there */
    {"truncate", sv_read_only, 0, 0, 0, "false"},
    {"shift", sv_read_only, 0, 0, 0, "false"},
    {0}};

static const sv_field generate_table[] = {
    {"model", sv_read_string, AT(model), 0, 0, NULL},
    {"prompt", sv_read_string, AT(prompt), 0, 0, NULL},
    {"system", sv_read_string, AT(system), 0, 0, NULL},
    {"raw", sv_read_bool, AT(raw), 0, 0, NULL},
    {"stream", sv_read_bool, AT(job.stream), 0, 0, NULL},
    {"options", sv_read_object, AT(options), 0, 0, NULL},
    {"think", sv_read_json, AT(think), 0, 0, NULL},
    {"format", sv_read_json, AT(format), 0, 0, NULL},
    {"logprobs", sv_read_bool, AT(logprobs), 0, 0, NULL},
    {"top_logprobs", sv_read_int, AT(top_logprobs), 0, SV_MAX_LOGPROBS, NULL},
    {"keep_alive", sv_read_any, 0, 0, 0, NULL},
    {"truncate", sv_read_only, 0, 0, 0, "false"},
    {"shift", sv_read_only, 0, 0, 0, "false"},
    {"images", sv_read_array, AT(images), 0, 0, NULL},
    {"suffix", sv_read_refuse, 0, 0, 0, NULL},
    {"template", sv_read_refuse, 0, 0, 0, NULL},
    {"context", sv_read_refuse, 0, 0, 0, "send the conversation to /api/chat"},
    {0}};

typedef struct options {
    sv_job *job;
    sv_job j; /* what is read */
    const sv_json *stop;
    int num_ctx, last, off;
    float neutral;
} options;

#define OPTION(member) offsetof(options, member)

static const sv_field options_table[] = {
    {"num_predict", sv_read_int, OPTION(j.max_tokens), -2, INT_MAX, NULL},
    {"num_ctx", sv_read_int, OPTION(num_ctx), 1, INT_MAX, NULL},
    {"temperature", sv_read_real, OPTION(j.sampling.temperature), 0, 100, NULL},
    {"top_k", sv_read_int, OPTION(j.sampling.top_k), -1, INT_MAX, NULL},
    {"top_p", sv_read_real, OPTION(j.sampling.top_p), 0, 1, NULL},
    {"min_p", sv_read_real, OPTION(j.sampling.min_p), 0, 1, NULL},
    {"seed", sv_read_seed, OPTION(j.sampling.seed), 0, 0, NULL},
    {"stop", sv_read_json, OPTION(stop), 0, 0, NULL},
    {"repeat_penalty", sv_read_real, OPTION(j.sampling.repetition_penalty), 0.01, 100, NULL},
    {"repeat_last_n", sv_read_int, OPTION(last), -1, INT_MAX, NULL},
    {"presence_penalty", sv_read_real, OPTION(j.sampling.presence_penalty), -2, 2, NULL},
    {"frequency_penalty", sv_read_real, OPTION(j.sampling.frequency_penalty), -2, 2, NULL},
    {"image_tokens", sv_read_int, OPTION(j.image_tokens), 1, INT_MAX, NULL},
    /* ways of choosing that are not here, turned off */
    {"mirostat", sv_read_int, OPTION(off), 0, 0, NULL},
    {"mirostat_tau", sv_read_any, 0, 0, 0, NULL}, /* mean nothing then */
    {"mirostat_eta", sv_read_any, 0, 0, 0, NULL},
    {"tfs_z", sv_read_real, OPTION(neutral), 1, 1, NULL},
    {"typical_p", sv_read_real, OPTION(neutral), 1, 1, NULL},
    /* how it is computed, which the server decided when it started; answers are the same */
    {"num_batch", sv_read_any, 0, 0, 0, NULL},
    {"num_gpu", sv_read_any, 0, 0, 0, NULL},
    {"main_gpu", sv_read_any, 0, 0, 0, NULL},
    {"num_thread", sv_read_any, 0, 0, 0, NULL},
    {"use_mmap", sv_read_any, 0, 0, 0, NULL},
    {"numa", sv_read_any, 0, 0, 0, NULL},
    {"low_vram", sv_read_any, 0, 0, 0, NULL},
    {"num_keep", sv_read_any, 0, 0, 0, NULL}, /* nothing is ever cut off */
    {0}};

static bool read_options(sv_exchange *x, ollama_request *r)
{
    options o = {.j = r->job, .last = 64};
    if (!r->options) return true;
    if (!sv_fields_read(x, options_table, r->options, "options", &o)) return false;
    if (o.num_ctx > x->served->ctx)
        return sv_fail(x, 400, "unsupported_value", "options.num_ctx",
                       "options.num_ctx: the server was started with a context of %d tokens",
                       x->served->ctx);
    r->job = o.j;
    r->job.seeded = sv_json_get(r->options, "seed") != NULL;
    if (sv_json_get(r->options, "repeat_last_n")) {
        if (o.last == 0) r->job.sampling.repetition_penalty = 1;
        r->job.sampling.penalty_last = o.last > 0 ? o.last : 0;
    }
    if (r->job.max_tokens < 0) r->job.max_tokens = -1;
    return !o.stop || sv_job_stops(x, &r->job, o.stop, "options.stop", SV_MAX_STOPS);
}

/* "json", or a schema. */
static bool read_format(sv_exchange *x, ollama_request *r)
{
    const sv_json *f = r->format;
    if (!f || sv_json_is(f, "")) return true;
    if (sv_json_is(f, "json")) return sv_constrain_object(x, &r->job, "format");
    if (f->type != SV_JSON_OBJECT) return sv_fail_kind(x, "format", "json, or a JSON schema", f);
    return sv_constrain_schema(x, &r->job, f, "format");
}

static bool read_rest(sv_exchange *x, ollama_request *r)
{
    sv_job *j = &r->job;
    if (r->think && r->think->type == SV_JSON_BOOL)
        j->think = r->think->boolean ? APUS_THINK_ON : APUS_THINK_OFF;
    else if (r->think && r->think->type == SV_JSON_STRING) {
        if (!sv_openai_effort(x, j, r->think->str, "think")) return false;
    } else if (r->think)
        return sv_fail_kind(x, "think", "true, false, or low, medium or high", r->think);
    if (r->logprobs) j->logprobs = r->top_logprobs;
    return read_options(x, r) && sv_job_sampling(x, j) && read_format(x, r);
}

/* ---------------------------------------------------------------- the answer */

void sv_put_moment(sv_buf *b, const char *key)
{
    char text[64], whole[80];
    struct timespec t;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &t);
    gmtime_r(&t.tv_sec, &tm);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(whole, sizeof whole, "%s.%09ldZ", text, t.tv_nsec);
    sv_put_str(b, key, whole);
}

static const ollama_request *asked(const sv_answer *a)
{
    return a->own;
}

static void put_head(sv_buf *b, const sv_answer *a)
{
    const ollama_request *r = asked(a);
    sv_put_map(b, NULL);
    sv_put_str(b, "model", r->model ? r->model : a->x->served->entry->name);
    sv_put_moment(b, "created_at");
}

static void put_calls(sv_buf *b, const sv_tool_call *t, int n)
{
    sv_put_array(b, "tool_calls");
    for (int i = 0; i < n; i++) {
        sv_put_map(b, NULL);
        sv_put_str(b, "id", t[i].id);
        sv_put_map(b, "function");
        sv_put_strn(b, "name", sv_buf_text(&t[i].name), t[i].name.len);
        sv_put_raw(b, "arguments", sv_buf_text(&t[i].args), t[i].args.len);
        sv_put_end_map(b);
        sv_put_end_map(b);
    }
    sv_put_end_array(b);
}

/* The words of a chunk, or of all. */
static void put_words(sv_buf *b, const sv_answer *a, const char *text, size_t n, const char *think,
                      size_t n_think, const sv_tool_call *calls, int n_calls)
{
    if (!asked(a)->chat) {
        sv_put_strn(b, "response", text, n);
        if (n_think) sv_put_strn(b, "thinking", think, n_think);
        return;
    }
    sv_put_map(b, "message");
    sv_put_str(b, "role", "assistant");
    sv_put_strn(b, "content", text, n);
    if (n_think) sv_put_strn(b, "thinking", think, n_think);
    if (n_calls) put_calls(b, calls, n_calls);
    sv_put_end_map(b);
}

static void put_logprobs(sv_buf *b, sv_choice *c)
{
    const apus_model *m = c->answer->x->served->model;
    if (c->answer->job.logprobs < 0 || c->n_logprobs == c->n_logprobs_sent) return;
    sv_put_array(b, "logprobs");
    for (int i = c->n_logprobs_sent; i < c->n_logprobs; i++) {
        sv_put_map(b, NULL);
        sv_put_token_logprob(b, m, c->logprobs[i].id[0], c->logprobs[i].p[0]);
        if (c->answer->job.logprobs) {
            sv_put_array(b, "top_logprobs");
            for (int k = 1; k <= c->answer->job.logprobs; k++) {
                sv_put_map(b, NULL);
                sv_put_token_logprob(b, m, c->logprobs[i].id[k], c->logprobs[i].p[k]);
                sv_put_end_map(b);
            }
            sv_put_end_array(b);
        }
        sv_put_end_map(b);
    }
    sv_put_end_array(b);
    c->n_logprobs_sent = c->n_logprobs;
}

static void put_tail(sv_buf *b, const sv_answer *a)
{
    const sv_choice *c = &a->choices[0];
    const apus_usage *u = &c->usage;
    sv_put_bool(b, "done", true);
    sv_put_str(b, "done_reason", c->end == SV_END_LENGTH ? "length" : "stop");
    sv_put_int(b, "total_duration", (sv_now_us() - a->x->begin_us) * 1000);
    sv_put_int(b, "load_duration", 0);
    sv_put_int(b, "prompt_eval_count", (int)a->prompt.n);
    sv_put_int(b, "prompt_eval_cached_count", u->n_cached);
    sv_put_int(b, "prompt_eval_duration", u->prefill_us * 1000);
    sv_put_int(b, "eval_count", c->n_tokens);
    sv_put_int(b, "eval_duration", u->decode_us * 1000);
    sv_put_end_map(b);
}

static void line_end(sv_buf *b)
{
    sv_put_bool(b, "done", false);
    sv_put_end_map(b);
    sv_buf_adds(b, "\n");
}

static void on_begin(sv_answer *a)
{
    (void)a;
}

static void on_piece(sv_choice *c, apus_part part, const char *s, size_t n)
{
    sv_buf *b = &c->answer->x->out;
    bool think = part == APUS_PART_THINK;
    put_head(b, c->answer);
    put_words(b, c->answer, think ? "" : s, think ? 0 : n, s, think ? n : 0, NULL, 0);
    put_logprobs(b, c);
    line_end(b);
}

static void on_call(sv_choice *c, const sv_tool_call *t)
{
    sv_buf *b = &c->answer->x->out;
    put_head(b, c->answer);
    put_words(b, c->answer, "", 0, "", 0, t, 1);
    line_end(b);
}

static void on_end(sv_choice *c)
{
    (void)c;
}

static void on_close(sv_answer *a)
{
    sv_buf *b = &a->x->out;
    put_head(b, a);
    put_words(b, a, "", 0, "", 0, NULL, 0);
    put_tail(b, a);
    sv_buf_adds(b, "\n");
}

/* Lines have no comments; one without words is a sign of life, too. */
static void on_ping(sv_answer *a)
{
    sv_buf *b = &a->x->out;
    put_head(b, a);
    put_words(b, a, "", 0, "", 0, NULL, 0);
    line_end(b);
}

static void on_fail(sv_answer *a, const sv_error *e)
{
    sv_put_error(&a->x->out, SV_OLLAMA, e);
    sv_buf_adds(&a->x->out, "\n");
}

static void on_whole(sv_answer *a)
{
    sv_buf *b = &a->x->out;
    sv_choice *c = &a->choices[0];
    put_head(b, a);
    put_words(b, a, sv_buf_text(&c->text), c->text.len, sv_buf_text(&c->think), c->think.len,
              c->calls, c->n_calls);
    put_logprobs(b, c);
    put_tail(b, a);
}

static const sv_form form = {"application/x-ndjson",
                             on_begin,
                             on_piece,
                             on_call,
                             on_end,
                             on_close,
                             on_ping,
                             on_fail,
                             on_whole};

/* ---------------------------------------------------------------- carrying it out */

/* Without a prompt the model is loaded, which it is. */
static void answer_loaded(sv_exchange *x, const ollama_request *r)
{
    sv_buf *b = &x->out;
    sv_json_answer(x, 200);
    sv_put_map(b, NULL);
    sv_put_str(b, "model", r->model);
    sv_put_moment(b, "created_at");
    if (r->chat) {
        sv_put_map(b, "message");
        sv_put_str(b, "role", "assistant");
        sv_put_str(b, "content", "");
        sv_put_end_map(b);
    } else {
        sv_put_str(b, "response", "");
    }
    sv_put_bool(b, "done", true);
    sv_put_str(b, "done_reason", "load");
    sv_put_end_map(b);
}

static void carry_out(sv_exchange *x, ollama_request *r)
{
    ollama_request *own = sv_arena_alloc(&x->mem, sizeof *own);
    if (!own) {
        sv_fail(x, 503, NULL, NULL, "out of memory");
        return;
    }
    *own = *r;
    sv_answer_run(x, &r->job, &form, "", own);
}

static bool read_head(sv_exchange *x, ollama_request *r, const sv_field *table)
{
    sv_job_init(&r->job, x->served->model);
    r->job.stream = true; /* unless asked otherwise */
    if (!sv_fields_read(x, table, x->json, "", r)) return false;
    if (!r->model) return sv_fail(x, 400, NULL, "model", "model: expected a name");
    return sv_job_model(x, r->model) && read_rest(x, r);
}

void sv_ollama_chat(sv_exchange *x)
{
    ollama_request r = {.chat = true};
    if (read_head(x, &r, chat_table)) {
        if (!r.messages || !r.messages->len)
            answer_loaded(x, &r);
        else if (sv_ollama_messages(x, &r.job, r.messages) && sv_ollama_tools(x, &r.job, r.tools))
            carry_out(x, &r);
    }
    sv_job_free(&r.job);
}

static bool read_prompt(sv_exchange *x, ollama_request *r)
{
    sv_conversation c = {0};
    sv_content said = {0};
    if (r->raw && r->images && r->images->len)
        return sv_fail(x, 400, "unsupported_value", "images",
                       "images: pictures need the model's template, which raw leaves out");
    if (r->raw) {
        r->job.plain = true;
        r->job.text = r->prompt;
        r->job.text_len = strlen(r->prompt);
        return true;
    }
    if (r->system) sv_conversation_system(&c, r->system, strlen(r->system));
    if (!sv_ollama_images(x, &r->job, r->images, "images", &said)) {
        sv_content_free(&said);
        sv_conversation_free(&c);
        return false;
    }
    sv_content_text(&said, r->prompt, strlen(r->prompt));
    sv_conversation_show(&c, &said);
    return sv_conversation_finish(x, &c, &r->job, "prompt");
}

void sv_ollama_generate(sv_exchange *x)
{
    ollama_request r = {0};
    if (read_head(x, &r, generate_table)) {
        if (!r.prompt || !*r.prompt)
            answer_loaded(x, &r);
        else if (read_prompt(x, &r))
            carry_out(x, &r);
    }
    sv_job_free(&r.job);
}
