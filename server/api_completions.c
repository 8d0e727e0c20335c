/* api_completions.c - POST /v1/completions: a text, or token ids, continued as they are. Source: OpenAI's API
 * reference. Markers in the prompt are the model's own, as the client writes the whole of it. */
#include <limits.h>
#include <string.h>

#include "apis.h"
#include "fields.h"
#include "openai.h"
#include "state.h"

static const char OBJECT[] = "text_completion";

typedef struct completion_request {
    sv_openai_request shared;
    const sv_json *prompt;
    int best_of;
} completion_request;

#define AT(member) offsetof(completion_request, member)

static const sv_field completion_table[] = {
    {"prompt", sv_read_json, AT(prompt), 0, 0, NULL},
    {"max_tokens", sv_read_int, AT(shared.job.max_tokens), 0, INT_MAX, NULL},
    {"best_of", sv_read_int, AT(best_of), 1, SV_MAX_CHOICES, NULL},
    {"echo", sv_read_bool, AT(shared.job.echo), 0, 0, NULL},
    {"logprobs", sv_read_int, AT(shared.job.logprobs), 0, SV_MAX_LOGPROBS, NULL},
    {"suffix", sv_read_refuse, 0, 0, 0, NULL},
    {0}};

/* A string, an array of one, or token ids. */
static bool read_prompt(sv_exchange *x, sv_job *j, const sv_json *p)
{
    if (p && p->type == SV_JSON_ARRAY && p->len && p->first->type != SV_JSON_NUMBER) {
        if (p->len > 1)
            return sv_fail(x, 400, "unsupported_value", "prompt",
                           "prompt: one at a time; send several as requests side by side");
        p = p->first;
    }
    j->plain = true;
    if (p && p->type == SV_JSON_ARRAY) return sv_job_ids(x, p, "prompt", &j->ids, &j->n_ids);
    if (!p || p->type != SV_JSON_STRING)
        return sv_fail(x, 400, NULL, "prompt",
                       "prompt: expected a string or an array of token ids");
    j->text = p->str;
    j->text_len = p->len;
    return true;
}

static bool read_rest(sv_exchange *x, completion_request *r)
{
    const sv_job *j = &r->shared.job;
    if (r->best_of && r->best_of != j->n)
        return sv_fail(x, 400, "unsupported_value", "best_of",
                       "best_of: only as many as n, %d, are supported", j->n);
    if (j->echo && j->logprobs >= 0)
        return sv_fail(x, 400, "unsupported_value", "echo",
                       "echo: together with logprobs it is not supported");
    return true;
}

/* ---------------------------------------------------------------- the answer */

static void put_tops(sv_buf *b, const sv_choice *c)
{
    const apus_model *m = c->answer->x->served->model;
    for (int i = c->n_logprobs_sent; i < c->n_logprobs; i++) {
        sv_put_map(b, NULL);
        for (int k = 1; k <= c->answer->job.logprobs; k++) {
            sv_buf key = {0};
            sv_put_token(&key, NULL, m, c->logprobs[i].id[k]);
            /* a quoted string is a key as it is */
            sv_put_raw(b, NULL, key.data, key.len);
            sv_buf_addf(b, ":%.9g", (double)c->logprobs[i].p[k]);
            sv_buf_free(&key);
        }
        sv_put_end_map(b);
    }
}

static void put_logprobs(sv_buf *b, sv_choice *c)
{
    const apus_model *m = c->answer->x->served->model;
    int from = c->n_logprobs_sent;
    if (c->answer->job.logprobs < 0) {
        sv_put_null(b, "logprobs");
        return;
    }
    sv_put_map(b, "logprobs");
    sv_put_array(b, "tokens");
    for (int i = from; i < c->n_logprobs; i++) sv_put_token(b, NULL, m, c->logprobs[i].id[0]);
    sv_put_end_array(b);
    sv_put_array(b, "token_logprobs");
    for (int i = from; i < c->n_logprobs; i++) sv_put_real(b, NULL, c->logprobs[i].p[0]);
    sv_put_end_array(b);
    sv_put_array(b, "top_logprobs");
    put_tops(b, c);
    sv_put_end_array(b);
    sv_put_array(b, "text_offset");
    for (int i = from; i < c->n_logprobs; i++) {
        sv_put_int(b, NULL, c->n_items);
        c->n_items += sv_token_length(m, c->logprobs[i].id[0]);
    }
    sv_put_end_array(b);
    sv_put_end_map(b);
    c->n_logprobs_sent = c->n_logprobs;
}

static void put_chunk(sv_choice *c, const char *s, size_t n, const char *finish)
{
    sv_answer *a = c->answer;
    sv_buf *b = &a->x->out;
    sv_openai_event(b, a, OBJECT);
    sv_put_array(b, "choices");
    sv_put_map(b, NULL);
    sv_put_int(b, "index", c->index);
    sv_put_strn(b, "text", s, n);
    put_logprobs(b, c);
    sv_put_str(b, "finish_reason", finish);
    sv_put_end_map(b);
    sv_put_end_array(b);
    if (a->job.usage_in_stream) sv_put_null(b, "usage");
    if (finish && a->n_done == a->n) sv_put_timings(b, a);
    sv_openai_event_end(b);
}

/* The prompt as text, in an arena. */
static void prompt_text(const sv_answer *a, const char **s, size_t *n)
{
    char *text = NULL;
    *s = a->job.text;
    *n = a->job.text_len;
    if (!a->job.ids) return;
    *s = "";
    *n = 0;
    if (apus_detokenize(a->x->served->model, a->job.ids, a->prompt.n, false, &text, n, NULL))
        return;
    *s = sv_arena_copy(&a->x->mem, text, *n);
    if (!*s) *s = "", *n = 0;
    apus_free(text);
}

static void on_begin(sv_answer *a)
{
    const char *s;
    size_t n;
    if (!a->job.echo) return;
    prompt_text(a, &s, &n);
    for (int i = 0; i < a->n; i++) put_chunk(&a->choices[i], s, n, NULL);
}

static void on_piece(sv_choice *c, apus_part part, const char *s, size_t n)
{
    (void)part;
    put_chunk(c, s, n, NULL);
}

static void on_end(sv_choice *c)
{
    put_chunk(c, "", 0, sv_openai_finish(c->end));
}

static void on_close(sv_answer *a)
{
    sv_buf *b = &a->x->out;
    if (a->job.usage_in_stream) {
        sv_openai_event(b, a, OBJECT);
        sv_put_array(b, "choices");
        sv_put_end_array(b);
        sv_openai_usage(b, a);
        sv_openai_event_end(b);
    }
    sv_buf_adds(b, "data: [DONE]\n\n");
}

static void put_choice(sv_buf *b, sv_choice *c)
{
    sv_buf text = {0};
    const char *s;
    size_t n;
    if (c->answer->job.echo) {
        prompt_text(c->answer, &s, &n);
        sv_buf_add(&text, s, n);
    }
    sv_buf_add(&text, sv_buf_text(&c->text), c->text.len);
    sv_put_map(b, NULL);
    sv_put_strn(b, "text", sv_buf_text(&text), text.len);
    sv_put_int(b, "index", c->index);
    put_logprobs(b, c);
    sv_put_str(b, "finish_reason", sv_openai_finish(c->end));
    sv_put_end_map(b);
    sv_buf_free(&text);
}

static void on_whole(sv_answer *a)
{
    sv_buf *b = &a->x->out;
    sv_openai_begin(b, a, OBJECT);
    sv_put_array(b, "choices");
    for (int i = 0; i < a->n; i++) put_choice(b, &a->choices[i]);
    sv_put_end_array(b);
    sv_openai_usage(b, a);
    sv_put_timings(b, a);
    sv_put_end_map(b);
}

static const sv_form form = {"text/event-stream", on_begin,       on_piece, NULL, on_end, on_close,
                             sv_sse_ping,         sv_openai_fail, on_whole};

void sv_completions(sv_exchange *x)
{
    completion_request r = {0};
    sv_job_init(&r.shared.job, x->served->model);
    r.shared.job.max_tokens = 16; /* as OpenAI has it */
    if (sv_openai_read(x, completion_table, &r.shared) && read_rest(x, &r) &&
        read_prompt(x, &r.shared.job, r.prompt))
        sv_answer_run(x, &r.shared.job, &form, "cmpl-", NULL);
    sv_job_free(&r.shared.job);
}
