/* openai_messages.c - the messages of chat completions, every member of each looked at. */
#include <string.h>

#include "fields.h"
#include "openai.h"

typedef struct message {
    const char *role, *id, *name;
    const sv_json *content, *calls, *reasoning, *thinking;
} message;

#define FIELD(name, read, member)                                                                  \
    {                                                                                              \
        name, read, offsetof(message, member), 0, 0, NULL                                          \
    }

static const sv_field message_table[] = {
    FIELD("role", sv_read_string, role),
    FIELD("content", sv_read_json, content),
    FIELD("name", sv_read_string, name),
    FIELD("tool_calls", sv_read_array, calls),
    FIELD("tool_call_id", sv_read_string, id),
    FIELD("reasoning_content", sv_read_json, reasoning),
    FIELD("reasoning", sv_read_json, thinking),
    /* what clients send back of an answer as they got it */
    {"refusal", sv_read_refuse, 0, 0, 0, NULL},
    {"annotations", sv_read_any, 0, 0, 0, NULL},
    {"audio", sv_read_refuse, 0, 0, 0, NULL},
    {"function_call", sv_read_refuse, 0, 0, 0, "tool_calls has replaced it"},
    {0}};

/* A part of a content: its text. */
static bool add_part(sv_exchange *x, const sv_json *part, const char *path, sv_buf *out)
{
    const sv_json *type = sv_json_get(part, "type"), *text = sv_json_get(part, "text");
    if (part->type == SV_JSON_STRING) {
        sv_buf_add(out, part->str, part->len);
        return true;
    }
    if (!sv_json_is(type, "text"))
        return sv_fail(x, 400, "unsupported_value", path,
                       "%s: only parts of type text are supported, found %.60s", path,
                       type && type->type == SV_JSON_STRING ? type->str : "none");
    if (!text || text->type != SV_JSON_STRING)
        return sv_fail(x, 400, NULL, path, "%s.text: expected a string", path);
    sv_buf_add(out, text->str, text->len);
    return true;
}

/* A string, or a list of parts. */
static bool read_content(sv_exchange *x, const sv_json *content, const char *path, sv_buf *out)
{
    size_t i = 0;
    if (!content) return true;
    if (content->type == SV_JSON_STRING) {
        sv_buf_add(out, content->str, content->len);
        return true;
    }
    if (content->type != SV_JSON_ARRAY)
        return sv_fail_kind(x, path, "a string or an array of parts", content);
    for (const sv_json *p = content->first; p; p = p->next) {
        sv_path at;
        if (!add_part(x, p, sv_path_index(&at, path, i++), out)) return false;
    }
    return true;
}

static bool read_call(sv_exchange *x, sv_conversation *c, const sv_json *call, const char *path)
{
    const sv_json *f = sv_json_get(call, "function"), *name = sv_json_get(f, "name"),
                  *args = sv_json_get(f, "arguments"), *id = sv_json_get(call, "id");
    if (!name || name->type != SV_JSON_STRING)
        return sv_fail(x, 400, NULL, path, "%s.function.name: expected a string", path);
    if (args && args->type != SV_JSON_STRING)
        return sv_fail(x, 400, NULL, path, "%s.function.arguments: expected a string of JSON",
                       path);
    sv_conversation_call(c, id && id->type == SV_JSON_STRING ? id->str : NULL, name->str,
                         args ? args->str : "", args ? args->len : 0);
    return true;
}

static bool read_assistant(sv_exchange *x, sv_conversation *c, const message *m, const sv_buf *text,
                           const char *path)
{
    const sv_json *thought = m->reasoning ? m->reasoning : m->thinking;
    sv_path calls, at;
    size_t i = 0;
    sv_conversation_flush(c);
    if (!m->content && !m->calls)
        return sv_fail(x, 400, NULL, path, "%s: expected content or tool_calls", path);
    if (thought && thought->type != SV_JSON_STRING)
        return sv_fail(x, 400, NULL, path, "%s.reasoning_content: expected a string", path);
    if (thought) sv_conversation_think(c, thought->str, thought->len);
    sv_conversation_say(c, sv_buf_text(text), text->len);
    sv_path_at(&calls, path, "tool_calls");
    for (const sv_json *k = m->calls ? m->calls->first : NULL; k; k = k->next)
        if (!read_call(x, c, k, sv_path_index(&at, calls.text, i++))) return false;
    return true;
}

static bool add_message(sv_exchange *x, sv_conversation *c, const message *m, const sv_buf *text,
                        const char *path)
{
    sv_path at;
    if (!m->role) return sv_fail(x, 400, NULL, path, "%s: expected a role", path);
    if (!strcmp(m->role, "assistant")) return read_assistant(x, c, m, text, path);
    if (!m->content)
        return sv_fail(x, 400, NULL, sv_path_at(&at, path, "content"), "%s: expected content",
                       path);
    if (m->calls)
        return sv_fail(x, 400, NULL, sv_path_at(&at, path, "tool_calls"),
                       "%s: only an assistant calls tools", path);
    const char *s = sv_buf_text(text);
    if (!strcmp(m->role, "user"))
        sv_conversation_user(c, s, text->len);
    else if (!strcmp(m->role, "system") || !strcmp(m->role, "developer"))
        sv_conversation_system(c, s, text->len);
    else if (strcmp(m->role, "tool") != 0)
        return sv_fail(x, 400, NULL, sv_path_at(&at, path, "role"),
                       "%s: expected system, developer, user, assistant or tool, found %.60s",
                       at.text, m->role);
    else if (!m->id)
        return sv_fail(x, 400, NULL, sv_path_at(&at, path, "tool_call_id"),
                       "%s: expected the id of the call", at.text);
    else
        sv_conversation_result(c, m->id, m->name, s, text->len);
    return true;
}

static bool read_message(sv_exchange *x, sv_conversation *c, const sv_json *j, const char *path)
{
    message m = {0};
    sv_buf text = {0};
    sv_path at;
    bool ok = sv_fields_read(x, message_table, j, path, &m) &&
              read_content(x, m.content, sv_path_at(&at, path, "content"), &text) &&
              add_message(x, c, &m, &text, path);
    if (text.failed) ok = sv_fail(x, 503, NULL, NULL, "out of memory");
    sv_buf_free(&text);
    return ok;
}

bool sv_openai_messages(sv_exchange *x, sv_job *j, const sv_json *list)
{
    sv_conversation c = {0};
    size_t i = 0;
    bool ok = true;
    if (!list) return sv_fail(x, 400, NULL, "messages", "messages: expected an array");
    for (const sv_json *m = list->first; m && ok; m = m->next) {
        sv_path at;
        ok = read_message(x, &c, m, sv_path_index(&at, "messages", i++));
    }
    if (ok) return sv_conversation_finish(x, &c, j, "messages");
    sv_conversation_free(&c);
    return false;
}
