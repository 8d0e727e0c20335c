/* responses_input.c - items of the Responses API, every member of each looked at. */
#include <string.h>

#include "fields.h"
#include "offer.h"
#include "responses.h"

typedef struct item {
    const char *type, *role, *call_id, *name;
    const sv_json *content, *arguments, *output, *summary;
} item;

#define AT(member) offsetof(item, member)

static const sv_field item_table[] = {{"type", sv_read_string, AT(type), 0, 0, NULL},
                                      {"role", sv_read_string, AT(role), 0, 0, NULL},
                                      {"content", sv_read_json, AT(content), 0, 0, NULL},
                                      {"call_id", sv_read_string, AT(call_id), 0, 0, NULL},
                                      {"name", sv_read_string, AT(name), 0, 0, NULL},
                                      {"arguments", sv_read_json, AT(arguments), 0, 0, NULL},
                                      {"output", sv_read_json, AT(output), 0, 0, NULL},
                                      {"summary", sv_read_array, AT(summary), 0, 0, NULL},
                                      {"id", sv_read_any, 0, 0, 0, NULL},
                                      {"status", sv_read_any, 0, 0, 0, NULL},
                                      {"phase", sv_read_any, 0, 0, 0, NULL},
                                      {"encrypted_content", sv_read_any, 0, 0, 0, NULL},
                                      {0}};

static bool is_text(const sv_json *type)
{
    static const char *const types[] = {"input_text", "output_text", "text", "reasoning_text",
                                        "summary_text"};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (sv_json_is(type, types[i])) return true;
    return false;
}

/* A string, or a list of parts that are text. */
static bool read_text(sv_exchange *x, const sv_json *j, const char *path, sv_buf *out)
{
    size_t i = 0;
    if (!j) return sv_fail(x, 400, NULL, path, "%s: expected a string or parts", path);
    if (j->type == SV_JSON_STRING) {
        sv_buf_add(out, j->str, j->len);
        return true;
    }
    if (j->type != SV_JSON_ARRAY) return sv_fail_kind(x, path, "a string or an array of parts", j);
    for (const sv_json *p = j->first; p; p = p->next, i++) {
        const sv_json *type = sv_json_get(p, "type"), *text = sv_json_get(p, "text");
        sv_path at;
        sv_path_index(&at, path, i);
        if (!is_text(type))
            return sv_fail(x, 400, "unsupported_value", at.text,
                           "%s: only parts of text are supported, found %.60s", at.text,
                           type && type->type == SV_JSON_STRING ? type->str : "none");
        if (!text || text->type != SV_JSON_STRING)
            return sv_fail(x, 400, NULL, at.text, "%s.text: expected a string", at.text);
        sv_buf_add(out, text->str, text->len);
    }
    return true;
}

static bool read_message(sv_exchange *x, sv_conversation *c, const item *i, const char *path)
{
    sv_buf text = {0};
    sv_path at;
    bool ok = read_text(x, i->content, sv_path_at(&at, path, "content"), &text);
    const char *s = sv_buf_text(&text);
    if (!ok)
        ;
    else if (!i->role)
        ok = sv_fail(x, 400, NULL, path, "%s: expected a role", path);
    else if (!strcmp(i->role, "user"))
        sv_conversation_user(c, s, text.len);
    else if (!strcmp(i->role, "assistant"))
        sv_conversation_say(c, s, text.len);
    else if (!strcmp(i->role, "system") || !strcmp(i->role, "developer"))
        sv_conversation_system(c, s, text.len);
    else
        ok = sv_fail(x, 400, NULL, sv_path_at(&at, path, "role"),
                     "%s: expected user, assistant, system or developer, found %.60s", at.text,
                     i->role);
    sv_buf_free(&text);
    return ok;
}

static bool read_call(sv_exchange *x, sv_conversation *c, const item *i, const char *path)
{
    if (!i->name || !i->call_id || !i->arguments || i->arguments->type != SV_JSON_STRING)
        return sv_fail(x, 400, NULL, path, "%s: expected call_id, name and arguments, strings",
                       path);
    sv_conversation_call(c, i->call_id, i->name, i->arguments->str, i->arguments->len);
    return true;
}

static bool read_output(sv_exchange *x, sv_conversation *c, const item *i, const char *path)
{
    sv_buf text = {0};
    sv_path at;
    if (!i->call_id) return sv_fail(x, 400, NULL, path, "%s: expected a call_id", path);
    bool ok = read_text(x, i->output, sv_path_at(&at, path, "output"), &text);
    if (ok) sv_conversation_result(c, i->call_id, NULL, sv_buf_text(&text), text.len);
    sv_buf_free(&text);
    return ok;
}

/* Thoughts as they were given out, or else their summary. */
static bool read_reasoning(sv_exchange *x, sv_conversation *c, const item *i, const char *path)
{
    sv_buf text = {0};
    const sv_json *from = i->content && i->content->len ? i->content : i->summary;
    bool ok = !from || read_text(x, from, path, &text);
    if (ok && text.len) sv_conversation_think(c, text.data, text.len);
    sv_buf_free(&text);
    return ok;
}

static bool read_item(sv_exchange *x, sv_conversation *c, const sv_json *j, const char *path)
{
    static const struct {
        const char *type;
        bool (*read)(sv_exchange *, sv_conversation *, const item *, const char *);
    } kinds[] = {{"message", read_message},
                 {"function_call", read_call},
                 {"function_call_output", read_output},
                 {"reasoning", read_reasoning}};
    const sv_json *type = sv_json_get(j, "type");
    sv_path at;
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        item i = {0};
        if (type && !sv_json_is(type, kinds[k].type)) continue;
        return sv_fields_read(x, item_table, j, path, &i) && kinds[k].read(x, c, &i, path);
    }
    return sv_fail(x, 400, "unsupported_value", sv_path_at(&at, path, "type"),
                   "%s: items of type %.60s are not supported", at.text,
                   type->type == SV_JSON_STRING ? type->str : "?");
}

bool sv_responses_input(sv_exchange *x, sv_job *j, const char *instructions, const sv_json *input)
{
    sv_conversation c = {0};
    size_t i = 0;
    bool ok = true;
    if (instructions) sv_conversation_system(&c, instructions, strlen(instructions));
    if (input && input->type == SV_JSON_STRING)
        sv_conversation_user(&c, input->str, input->len);
    else if (!input || input->type != SV_JSON_ARRAY || !input->len)
        ok = sv_fail(x, 400, NULL, "input", "input: expected a string or an array of items");
    else
        for (const sv_json *m = input->first; m && ok; m = m->next) {
            sv_path at;
            ok = read_item(x, &c, m, sv_path_index(&at, "input", i++));
        }
    if (ok) return sv_conversation_finish(x, &c, j, "input");
    sv_conversation_free(&c);
    return false;
}

/* ---------------------------------------------------------------- tools */

typedef struct function {
    const char *type, *name, *description;
    const sv_json *parameters;
    bool strict;
} function;

static const sv_field function_table[] = {
    {"type", sv_read_string, offsetof(function, type), 0, 0, NULL},
    {"name", sv_read_string, offsetof(function, name), 0, 0, NULL},
    {"description", sv_read_string, offsetof(function, description), 0, 0, NULL},
    {"parameters", sv_read_object, offsetof(function, parameters), 0, 0, NULL},
    {"strict", sv_read_bool, offsetof(function, strict), 0, 0, NULL},
    {0}};

bool sv_responses_tools(sv_exchange *x, sv_job *j, const sv_json *tools)
{
    size_t i = 0;
    for (const sv_json *t = tools ? tools->first : NULL; t; t = t->next) {
        function f = {0};
        sv_path at, name;
        sv_path_index(&at, "tools", i++);
        if (!sv_json_is(sv_json_get(t, "type"), "function"))
            return sv_fail(x, 400, "unsupported_value", sv_path_at(&name, at.text, "type"),
                           "%s: only tools of type function are supported", name.text);
        if (!sv_fields_read(x, function_table, t, at.text, &f) ||
            !sv_offer_add(x, j, sv_path_at(&name, at.text, "name"), f.name, f.description,
                          f.parameters, f.strict))
            return false;
    }
    return true;
}
