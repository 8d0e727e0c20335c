#include "openai.h"

#include <stddef.h>
#include <string.h>

#include "constrain.h"
#include "state.h"

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
