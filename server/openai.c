#include "openai.h"

#include <string.h>

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

bool sv_openai_format(sv_exchange *x, const sv_json *format, const char *path)
{
    const sv_json *type = sv_json_get(format, "type");
    if (!format || sv_json_is(type, "text")) return true;
    if (sv_json_is(type, "json_object") || sv_json_is(type, "json_schema"))
        return sv_fail(x, 400, "unsupported_value", path,
                       "%s: %s cannot be enforced yet, and is not ignored; text is supported", path,
                       type->str);
    return sv_fail(x, 400, NULL, path, "%s: expected an object of type text", path);
}

/* ---------------------------------------------------------------- writing */

void sv_openai_begin(sv_buf *b, const sv_answer *a, const char *object)
{
    sv_put_map(b, NULL);
    sv_put_str(b, "id", a->id);
    sv_put_str(b, "object", object);
    sv_put_int(b, "created", a->created);
    sv_put_str(b, "model", a->x->server->set->model_name);
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
