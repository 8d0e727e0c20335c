/* responses_input.c - items of the Responses API, every member of each looked at. */
#include <string.h>

#include "fields.h"
#include "media.h"
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

typedef struct picture {
    const char *type, *detail;
    const sv_json *url;
} picture;

static const sv_field picture_table[] = {
    {"type", sv_read_string, offsetof(picture, type), 0, 0, NULL},
    {"detail", sv_read_string, offsetof(picture, detail), 0, 0, NULL},
    {"image_url", sv_read_json, offsetof(picture, url), 0, 0, NULL},
    {"file_id", sv_read_refuse, 0, 0, 0, "files are not stored; send the picture in image_url"},
    {0}};

static bool add_picture(sv_exchange *x, sv_job *j, const sv_json *v, const char *path,
                        sv_content *out)
{
    picture p = {0};
    sv_path at, detail;
    int tokens;
    if (!sv_fields_read(x, picture_table, v, path, &p) ||
        !sv_media_detail(x, j, p.detail, sv_path_at(&detail, path, "detail"), &tokens) ||
        !sv_media_add_url(x, j, APUS_MEDIA_PICTURE, sv_path_at(&at, path, "image_url"), tokens,
                          p.url))
        return false;
    sv_content_media(out, APUS_MEDIA_PICTURE);
    return true;
}

static bool add_part(sv_exchange *x, sv_job *j, const sv_json *p, const char *path, bool shows,
                     sv_content *out)
{
    const sv_json *type = sv_json_get(p, "type"), *text = sv_json_get(p, "text");
    if (shows && sv_json_is(type, "input_image")) return add_picture(x, j, p, path, out);
    if (!is_text(type))
        return sv_fail(x, 400, "unsupported_value", path,
                       "%s: parts of type %.60s are not supported here", path,
                       type && type->type == SV_JSON_STRING ? type->str : "none");
    if (!text || text->type != SV_JSON_STRING)
        return sv_fail(x, 400, NULL, path, "%s.text: expected a string", path);
    sv_content_text(out, text->str, text->len);
    return true;
}

/* A string, or a list of parts: text and, if `shows`, pictures. */
static bool read_parts(sv_exchange *x, sv_job *j, const sv_json *v, const char *path, bool shows,
                       sv_content *out)
{
    size_t i = 0;
    if (!v) return sv_fail(x, 400, NULL, path, "%s: expected a string or parts", path);
    if (v->type == SV_JSON_STRING) {
        sv_content_text(out, v->str, v->len);
        return true;
    }
    if (v->type != SV_JSON_ARRAY) return sv_fail_kind(x, path, "a string or an array of parts", v);
    for (const sv_json *p = v->first; p; p = p->next) {
        sv_path at;
        if (!add_part(x, j, p, sv_path_index(&at, path, i++), shows, out)) return false;
    }
    return true;
}

static bool add_message(sv_exchange *x, sv_conversation *c, const char *role, sv_content *said,
                        const char *path)
{
    sv_path at;
    const char *s = sv_buf_text(&said->text);
    if (!strcmp(role, "user"))
        sv_conversation_show(c, said);
    else if (!strcmp(role, "assistant"))
        sv_conversation_say(c, s, said->text.len);
    else if (!strcmp(role, "system") || !strcmp(role, "developer"))
        sv_conversation_system(c, s, said->text.len);
    else
        return sv_fail(x, 400, NULL, sv_path_at(&at, path, "role"),
                       "%s: expected user, assistant, system or developer, found %.60s", at.text,
                       role);
    return true;
}

static bool read_message(sv_exchange *x, sv_job *j, sv_conversation *c, const item *i,
                         const char *path)
{
    sv_content said = {0};
    sv_path at;
    if (!i->role) return sv_fail(x, 400, NULL, path, "%s: expected a role", path);
    bool user = !strcmp(i->role, "user");
    bool ok = read_parts(x, j, i->content, sv_path_at(&at, path, "content"), user, &said) &&
              add_message(x, c, i->role, &said, path);
    sv_content_free(&said);
    return ok;
}

static bool read_call(sv_exchange *x, sv_job *j, sv_conversation *c, const item *i,
                      const char *path)
{
    (void)j;
    if (!i->name || !i->call_id || !i->arguments || i->arguments->type != SV_JSON_STRING)
        return sv_fail(x, 400, NULL, path, "%s: expected call_id, name and arguments, strings",
                       path);
    sv_conversation_call(c, i->call_id, i->name, i->arguments->str, i->arguments->len);
    return true;
}

static bool read_output(sv_exchange *x, sv_job *j, sv_conversation *c, const item *i,
                        const char *path)
{
    sv_content said = {0};
    sv_path at;
    if (!i->call_id) return sv_fail(x, 400, NULL, path, "%s: expected a call_id", path);
    bool ok = read_parts(x, j, i->output, sv_path_at(&at, path, "output"), true, &said);
    if (ok) sv_conversation_result(c, i->call_id, NULL, &said);
    sv_content_free(&said);
    return ok;
}

/* Thoughts as they were given out, or else their summary. */
static bool read_reasoning(sv_exchange *x, sv_job *j, sv_conversation *c, const item *i,
                           const char *path)
{
    sv_content said = {0};
    const sv_json *from = i->content && i->content->len ? i->content : i->summary;
    bool ok = !from || read_parts(x, j, from, path, false, &said);
    if (ok && said.text.len) sv_conversation_think(c, said.text.data, said.text.len);
    sv_content_free(&said);
    return ok;
}

static bool read_item(sv_exchange *x, sv_job *j, sv_conversation *c, const sv_json *v,
                      const char *path)
{
    static const struct {
        const char *type;
        bool (*read)(sv_exchange *, sv_job *, sv_conversation *, const item *, const char *);
    } kinds[] = {{"message", read_message},
                 {"function_call", read_call},
                 {"function_call_output", read_output},
                 {"reasoning", read_reasoning}};
    const sv_json *type = sv_json_get(v, "type");
    sv_path at;
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        item i = {0};
        if (type && !sv_json_is(type, kinds[k].type)) continue;
        return sv_fields_read(x, item_table, v, path, &i) && kinds[k].read(x, j, c, &i, path);
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
            ok = read_item(x, j, &c, m, sv_path_index(&at, "input", i++));
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
