/* ollama_messages.c - messages and tools of Ollama's API, every member of each looked at. */
#include <string.h>

#include "fields.h"
#include "media.h"
#include "offer.h"
#include "ollama.h"

typedef struct message {
    const char *role, *tool_name, *id;
    const sv_json *content, *thinking, *calls, *images;
} message;

#define AT(member) offsetof(message, member)

static const sv_field message_table[] = {{"role", sv_read_string, AT(role), 0, 0, NULL},
                                         {"content", sv_read_json, AT(content), 0, 0, NULL},
                                         {"thinking", sv_read_json, AT(thinking), 0, 0, NULL},
                                         {"tool_calls", sv_read_array, AT(calls), 0, 0, NULL},
                                         {"tool_name", sv_read_string, AT(tool_name), 0, 0, NULL},
                                         {"name", sv_read_string, AT(tool_name), 0, 0, NULL},
                                         {"tool_call_id", sv_read_string, AT(id), 0, 0, NULL},
                                         {"images", sv_read_array, AT(images), 0, 0, NULL},
                                         {0}};

static bool read_call(sv_exchange *x, sv_conversation *c, const sv_json *call, const char *path)
{
    const sv_json *f = sv_json_get(call, "function"), *name = sv_json_get(f, "name"),
                  *args = sv_json_get(f, "arguments"), *id = sv_json_get(call, "id");
    sv_buf text = {0};
    if (!name || name->type != SV_JSON_STRING)
        return sv_fail(x, 400, NULL, path, "%s.function.name: expected a string", path);
    if (args && args->type != SV_JSON_OBJECT)
        return sv_fail(x, 400, NULL, path, "%s.function.arguments: expected an object", path);
    if (args) sv_put_json(&text, NULL, args);
    sv_conversation_call(c, id && id->type == SV_JSON_STRING ? id->str : NULL, name->str,
                         args ? sv_buf_text(&text) : "{}", args ? text.len : 2);
    sv_buf_free(&text);
    return true;
}

static bool read_assistant(sv_exchange *x, sv_conversation *c, const message *m, const char *path)
{
    sv_path calls, at;
    size_t i = 0;
    sv_conversation_flush(c);
    if (m->thinking) sv_conversation_think(c, m->thinking->str, m->thinking->len);
    sv_conversation_say(c, m->content ? m->content->str : "", m->content ? m->content->len : 0);
    sv_path_at(&calls, path, "tool_calls");
    for (const sv_json *k = m->calls ? m->calls->first : NULL; k; k = k->next)
        if (!read_call(x, c, k, sv_path_index(&at, calls.text, i++))) return false;
    return true;
}

static bool is_string(sv_exchange *x, const sv_json *j, const char *path, const char *name)
{
    sv_path at;
    return !j || j->type == SV_JSON_STRING ||
           sv_fail_kind(x, sv_path_at(&at, path, name), "a string", j);
}

bool sv_ollama_images(sv_exchange *x, sv_job *j, const sv_json *images, const char *path,
                      sv_content *out)
{
    size_t i = 0;
    for (const sv_json *m = images ? images->first : NULL; m; m = m->next) {
        sv_path at;
        sv_path_index(&at, path, i++);
        if (m->type != SV_JSON_STRING) return sv_fail_kind(x, at.text, "a string of base64", m);
        if (!sv_media_add(x, j, APUS_MEDIA_PICTURE, at.text, j->image_tokens, m->str, m->len))
            return false;
        sv_content_media(out, APUS_MEDIA_PICTURE);
    }
    return true;
}

/* What is not the assistant's; said: its pictures. */
static bool add_message(sv_exchange *x, sv_conversation *c, const message *m, sv_content *said,
                        const char *path)
{
    sv_path at;
    bool shows = said->parts.len;
    if (!m->content)
        return sv_fail(x, 400, NULL, sv_path_at(&at, path, "content"), "%s: expected a string",
                       at.text);
    sv_content_text(said, m->content->str, m->content->len);
    if (!strcmp(m->role, "user"))
        sv_conversation_show(c, said);
    else if (!strcmp(m->role, "tool"))
        sv_conversation_result(c, m->id, m->tool_name, said);
    else if (strcmp(m->role, "system") != 0)
        return sv_fail(x, 400, NULL, sv_path_at(&at, path, "role"),
                       "%s: expected system, user, assistant or tool, found %.60s", at.text,
                       m->role);
    else if (shows)
        return sv_fail(x, 400, NULL, sv_path_at(&at, path, "images"),
                       "%s: a system message shows no pictures", at.text);
    else
        sv_conversation_system(c, m->content->str, m->content->len);
    return true;
}

static bool read_message(sv_exchange *x, sv_job *j, sv_conversation *c, const sv_json *v,
                         const char *path)
{
    message m = {0};
    sv_content said = {0};
    sv_path at;
    if (!sv_fields_read(x, message_table, v, path, &m) ||
        !is_string(x, m.content, path, "content") || !is_string(x, m.thinking, path, "thinking"))
        return false;
    if (!m.role) return sv_fail(x, 400, NULL, path, "%s: expected a role", path);
    sv_path_at(&at, path, "images");
    if (!strcmp(m.role, "assistant"))
        return m.images && m.images->len
                   ? sv_fail(x, 400, NULL, at.text, "%s: an assistant shows no pictures", at.text)
                   : read_assistant(x, c, &m, path);
    bool ok =
        sv_ollama_images(x, j, m.images, at.text, &said) && add_message(x, c, &m, &said, path);
    sv_content_free(&said);
    return ok;
}

bool sv_ollama_messages(sv_exchange *x, sv_job *j, const sv_json *list)
{
    sv_conversation c = {0};
    size_t i = 0;
    bool ok = true;
    for (const sv_json *m = list->first; m && ok; m = m->next) {
        sv_path at;
        ok = read_message(x, j, &c, m, sv_path_index(&at, "messages", i++));
    }
    if (ok) return sv_conversation_finish(x, &c, j, "messages");
    sv_conversation_free(&c);
    return false;
}

/* ---------------------------------------------------------------- tools */

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

bool sv_ollama_tools(sv_exchange *x, sv_job *j, const sv_json *tools)
{
    size_t i = 0;
    for (const sv_json *t = tools ? tools->first : NULL; t; t = t->next) {
        function f = {0};
        sv_path at, inner, name;
        sv_path_index(&at, "tools", i++);
        if (!sv_fields_read(x, tool_table, t, at.text, &f)) return false;
        if (!f.function) return sv_fail(x, 400, NULL, at.text, "%s: expected a function", at.text);
        sv_path_at(&inner, at.text, "function");
        if (!sv_fields_read(x, function_table, f.function, inner.text, &f) ||
            !sv_offer_add(x, j, sv_path_at(&name, inner.text, "name"), f.name, f.description,
                          f.parameters, f.strict))
            return false;
    }
    return sv_offer_finish(x, j, SV_AUTO, NULL, "tools");
}
