#include "openai.h"

#include <limits.h>
#include <stddef.h>
#include <string.h>

#include "constrain.h"
#include "state.h"

#define AT(member) offsetof(sv_openai_request, member)

static const sv_field shared_table[] = {
    {"model", sv_read_string, AT(model), 0, 0, NULL},
    {"stream", sv_read_bool, AT(job.stream), 0, 0, NULL},
    {"stream_options", sv_read_object, AT(stream_options), 0, 0, NULL},
    {"n", sv_read_int, AT(job.n), 1, SV_MAX_CHOICES, NULL},
    {"stop", sv_read_json, AT(stop), 0, 0, NULL},
    {"seed", sv_read_seed, AT(job.sampling.seed), 0, 0, NULL},
    {"temperature", sv_read_real, AT(job.sampling.temperature), 0, 2, NULL},
    {"top_p", sv_read_real, AT(job.sampling.top_p), 0, 1, NULL},
    {"top_k", sv_read_int, AT(job.sampling.top_k), -1, INT_MAX, NULL},
    {"min_p", sv_read_real, AT(job.sampling.min_p), 0, 1, NULL},
    {"presence_penalty", sv_read_real, AT(job.sampling.presence_penalty), -2, 2, NULL},
    {"frequency_penalty", sv_read_real, AT(job.sampling.frequency_penalty), -2, 2, NULL},
    {"repetition_penalty", sv_read_real, AT(job.sampling.repetition_penalty), 0.01, 100, NULL},
    {"logit_bias", sv_read_object, AT(bias), 0, 0, NULL},
    {"response_format", sv_read_object, AT(format), 0, 0, NULL},
    {"grammar", sv_read_string, AT(grammar), 0, 0, NULL},  /* these two as llama.cpp's */
    {"json_schema", sv_read_json, AT(schema), 0, 0, NULL}, /* server has them */
    {"ignore_eos", sv_read_bool, AT(job.ignore_eos), 0, 0, NULL},
    {"user", sv_read_any, 0, 0, 0, NULL},
    {0}};

static const sv_field stream_table[] = {
    {"include_usage", sv_read_bool, offsetof(sv_job, usage_in_stream), 0, 0, NULL},
    {"include_obfuscation", sv_read_only, 0, 0, 0, "false"},
    {0}};

static bool read_stream_options(sv_exchange *x, sv_job *j, const sv_json *options)
{
    if (!options) return true;
    if (!j->stream)
        return sv_fail(x, 400, NULL, "stream_options", "stream_options: only for streams");
    return sv_fields_read(x, stream_table, options, "stream_options", j);
}

static bool read_constraint(sv_exchange *x, sv_openai_request *r)
{
    return sv_openai_format(x, &r->job, r->format, "response_format") &&
           (!r->grammar || sv_constrain_grammar(x, &r->job, r->grammar, "grammar")) &&
           (!r->schema || sv_constrain_schema(x, &r->job, r->schema, "json_schema"));
}

bool sv_openai_read(sv_exchange *x, const sv_field *table, sv_openai_request *r)
{
    sv_job *j = &r->job;
    if (!sv_fields_read_both(x, table, shared_table, x->json, "", r)) return false;
    j->seeded = sv_json_get(x->json, "seed") != NULL;
    return sv_job_model(x, r->model) && read_constraint(x, r) &&
           (!r->stop || sv_job_stops(x, j, r->stop, "stop", SV_MAX_STOPS)) &&
           (!r->bias || sv_job_bias(x, j, r->bias, "logit_bias", x->served->info.vocab)) &&
           sv_job_sampling(x, j) && read_stream_options(x, j, r->stream_options);
}

bool sv_openai_effort(sv_exchange *x, sv_job *j, const char *effort, const char *path)
{
    static const char *const on[] = {"low", "medium", "high", "xhigh", "max"};
    if (!effort) return true;
    if (!strcmp(effort, "none") || !strcmp(effort, "minimal")) {
        j->think = APUS_THINK_OFF;
        return true;
    }
    j->think = APUS_THINK_ON;
    for (size_t i = 0; i < sizeof on / sizeof *on; i++)
        if (!strcmp(effort, on[i])) return true;
    return sv_fail(x, 400, NULL, path,
                   "%s: expected none, minimal, low, medium or high, found %.60s", path, effort);
}

/* The members of a json_schema format, wherever its API puts them. */
typedef struct schema_format {
    const sv_json *schema;
    bool strict;
} schema_format;

static const sv_field schema_table[] = {
    {"type", sv_read_any, 0, 0, 0, NULL},
    {"name", sv_read_any, 0, 0, 0, NULL},
    {"description", sv_read_any, 0, 0, 0, NULL},
    {"schema", sv_read_json, offsetof(schema_format, schema), 0, 0, NULL},
    {"strict", sv_read_bool, offsetof(schema_format, strict), 0, 0,
     NULL}, /* it is obeyed in any case */
    {0}};

static bool read_schema(sv_exchange *x, sv_job *j, const sv_json *o, const char *path)
{
    schema_format f = {0};
    sv_path at;
    if (!sv_fields_read(x, schema_table, o, path, &f)) return false;
    sv_path_at(&at, path, "schema");
    if (!f.schema) return sv_fail(x, 400, NULL, at.text, "%s: a schema is needed", at.text);
    return sv_constrain_schema(x, j, f.schema, at.text);
}

bool sv_openai_format(sv_exchange *x, sv_job *j, const sv_json *format, const char *path)
{
    const sv_json *type = sv_json_get(format, "type"), *inner = sv_json_get(format, "json_schema");
    sv_path at;
    if (!format || sv_json_is(type, "text")) return true;
    if (sv_json_is(type, "json_object")) return sv_constrain_object(x, j, path);
    if (sv_json_is(type, "json_schema") && inner)
        return read_schema(x, j, inner, sv_path_at(&at, path, "json_schema"));
    if (sv_json_is(type, "json_schema")) return read_schema(x, j, format, path);
    return sv_fail(x, 400, NULL, path,
                   "%s: expected an object of type text, json_object or json_schema", path);
}

/* ---------------------------------------------------------------- writing */

void sv_openai_begin(sv_buf *b, const sv_answer *a, const char *object)
{
    sv_put_map(b, NULL);
    sv_put_str(b, "id", a->id);
    sv_put_str(b, "object", object);
    sv_put_int(b, "created", a->created);
    sv_put_str(b, "model", a->x->served->entry->name);
    sv_put_str(b, "system_fingerprint", apus_version());
}

void sv_openai_event(sv_buf *b, const sv_answer *a, const char *object)
{
    sv_buf_adds(b, "data: ");
    sv_openai_begin(b, a, object);
}

void sv_openai_event_end(sv_buf *b)
{
    sv_put_end_map(b);
    sv_buf_adds(b, "\n\n");
}

void sv_sse_ping(sv_answer *a)
{
    sv_buf_adds(&a->x->out, ": ping\n\n");
}

void sv_openai_usage(sv_buf *b, const sv_answer *a)
{
    sv_usage u = sv_answer_usage(a);
    sv_put_map(b, "usage");
    sv_put_int(b, "prompt_tokens", u.n_prompt);
    sv_put_int(b, "completion_tokens", u.n_generated);
    sv_put_int(b, "total_tokens", u.n_prompt + u.n_generated);
    sv_put_map(b, "prompt_tokens_details");
    sv_put_int(b, "cached_tokens", u.n_cached);
    sv_put_end_map(b);
    sv_put_map(b, "completion_tokens_details");
    sv_put_int(b, "reasoning_tokens", u.n_thought);
    sv_put_end_map(b);
    sv_put_end_map(b);
}

const char *sv_openai_finish(sv_end e)
{
    static const char *const names[] = {"stop", "stop", "length", "tool_calls"};
    return names[e];
}

void sv_openai_fail(sv_answer *a, const sv_error *e)
{
    sv_buf *b = &a->x->out;
    sv_buf_adds(b, "data: ");
    sv_put_error(b, SV_OPENAI, e);
    sv_buf_adds(b, "\n\n");
}

void sv_put_token(sv_buf *b, const char *key, const apus_model *m, int32_t id)
{
    char *text = NULL;
    size_t n = 0;
    if (apus_detokenize(m, &id, 1, false, &text, &n, NULL)) n = 0;
    sv_put_strn(b, key, text ? text : "", n);
    apus_free(text);
}

void sv_put_token_logprob(sv_buf *b, const apus_model *m, int32_t id, float p)
{
    char *text = NULL;
    size_t n = 0;
    if (apus_detokenize(m, &id, 1, false, &text, &n, NULL)) n = 0;
    sv_put_strn(b, "token", text ? text : "", n);
    sv_put_real(b, "logprob", p > -9999 ? p : -9999);
    sv_put_array(b, "bytes");
    for (size_t i = 0; i < n; i++) sv_put_int(b, NULL, (unsigned char)text[i]);
    sv_put_end_array(b);
    apus_free(text);
}

int sv_token_length(const apus_model *m, int32_t id)
{
    char *text = NULL;
    size_t n = 0;
    int chars = 0;
    if (apus_detokenize(m, &id, 1, false, &text, &n, NULL)) n = 0;
    for (size_t i = 0; i < n; i++) chars += ((unsigned char)text[i] & 0xC0) != 0x80;
    apus_free(text);
    return chars;
}
