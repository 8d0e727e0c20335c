/* anthropic_messages.c - messages and their blocks, every member of each looked at. */
#include <string.h>

#include "anthropic.h"
#include "fields.h"
#include "media.h"

typedef struct block {
    const char *type, *id, *name, *tool_use_id;
    const sv_json *text, *thinking, *input, *content, *source;
} block;

#define AT(member) offsetof(block, member)

/* Of all types together: which of them a type needs is asked where it is used. */
static const sv_field block_table[] = {
    {"type", sv_read_string, AT(type), 0, 0, NULL},
    {"text", sv_read_json, AT(text), 0, 0, NULL},
    {"thinking", sv_read_json, AT(thinking), 0, 0, NULL},
    {"signature", sv_read_any, 0, 0, 0, NULL},
    {"data", sv_read_any, 0, 0, 0, NULL}, /* of redacted_thinking, which says nothing to us */
    {"id", sv_read_string, AT(id), 0, 0, NULL},
    {"name", sv_read_string, AT(name), 0, 0, NULL},
    {"input", sv_read_object, AT(input), 0, 0, NULL},
    {"caller", sv_read_any, 0, 0, 0, NULL},
    {"tool_use_id", sv_read_string, AT(tool_use_id), 0, 0, NULL},
    {"content", sv_read_json, AT(content), 0, 0, NULL},
    {"source", sv_read_object, AT(source), 0, 0, NULL},
    {"is_error", sv_read_any, 0, 0, 0, NULL},
    {"citations", sv_read_any, 0, 0, 0, NULL},
    {"cache_control", sv_read_any, 0, 0, 0, NULL},
    {0}};

static const char *const known[] = {"text",     "image",      "thinking", "redacted_thinking",
                                    "tool_use", "tool_result"};

/* The type first: blocks of other types have other members. */
static bool read_block(sv_exchange *x, const sv_json *j, const char *path, block *b)
{
    const sv_json *type = sv_json_get(j, "type");
    sv_path at;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (sv_json_is(type, known[i])) return sv_fields_read(x, block_table, j, path, b);
    return sv_fail(x, 400, NULL, sv_path_at(&at, path, "type"),
                   "%s: blocks of type %.60s are not supported", at.text,
                   type && type->type == SV_JSON_STRING ? type->str : "none");
}

static bool need_text(sv_exchange *x, const sv_json *text, const char *path, const char *name)
{
    sv_path at;
    if (text && text->type == SV_JSON_STRING) return true;
    return sv_fail(x, 400, NULL, sv_path_at(&at, path, name), "%s: expected a string", at.text);
}

/* A line that changes with every request would spoil every cached prompt behind it. */
static bool is_noise(const char *text)
{
    return !strncmp(text, "x-anthropic-billing-header", 26);
}

/* Texts, joined by `between` where no picture is between them. */
static void add_text(sv_content *c, const sv_json *text, const char *between)
{
    if (c->text.len) sv_content_text(c, between, strlen(between));
    sv_content_text(c, text->str, text->len);
}

typedef struct source {
    const char *type, *media_type;
    const sv_json *data, *url;
} source;

static const sv_field source_table[] = {
    {"type", sv_read_string, offsetof(source, type), 0, 0, NULL},
    {"media_type", sv_read_string, offsetof(source, media_type), 0, 0, NULL},
    {"data", sv_read_json, offsetof(source, data), 0, 0, NULL},
    {"url", sv_read_json, offsetof(source, url), 0, 0, NULL},
    {0}};

static bool add_picture(sv_exchange *x, sv_job *j, const block *b, const char *path,
                        sv_content *out)
{
    source s = {0};
    sv_path from, at;
    sv_path_at(&from, path, "source");
    if (!b->source) return sv_fail(x, 400, NULL, from.text, "%s: expected an object", from.text);
    if (!sv_fields_read(x, source_table, b->source, from.text, &s)) return false;
    bool given = s.type && !strcmp(s.type, "base64");
    if (!given && (!s.type || strcmp(s.type, "url") != 0))
        return sv_fail(x, 400, NULL, sv_path_at(&at, from.text, "type"),
                       "%s: expected base64 or url", at.text);
    if (given && (!s.media_type || strncmp(s.media_type, "image/", 6) != 0))
        return sv_fail(x, 400, NULL, sv_path_at(&at, from.text, "media_type"),
                       "%s: expected image/png, image/jpeg, image/webp or image/gif", at.text);
    sv_path_at(&at, from.text, given ? "data" : "url");
    if (given && !need_text(x, s.data, from.text, "data")) return false;
    bool ok = given ? sv_media_add(x, j, APUS_MEDIA_PICTURE, at.text, j->image_tokens, s.data->str,
                                   s.data->len)
                    : sv_media_add_url(x, j, APUS_MEDIA_PICTURE, at.text, j->image_tokens, s.url);
    if (ok) sv_content_media(out, APUS_MEDIA_PICTURE);
    return ok;
}

/* A string, or blocks of text and, if `shows`, pictures. */
static bool read_text(sv_exchange *x, sv_job *j, const sv_json *v, const char *path,
                      const char *between, bool shows, sv_content *out)
{
    size_t i = 0;
    if (!v) return true;
    if (v->type == SV_JSON_STRING) {
        sv_content_text(out, v->str, v->len);
        return true;
    }
    if (v->type != SV_JSON_ARRAY) return sv_fail_kind(x, path, "a string or an array of blocks", v);
    for (const sv_json *m = v->first; m; m = m->next) {
        block b = {0};
        sv_path at;
        sv_path_index(&at, path, i++);
        if (!read_block(x, m, at.text, &b)) return false;
        if (shows && !strcmp(b.type, "image")) {
            if (!add_picture(x, j, &b, at.text, out)) return false;
            continue;
        }
        if (!need_text(x, b.text, at.text, "text")) return false;
        if (!is_noise(b.text->str)) add_text(out, b.text, between);
    }
    return true;
}

/* ---------------------------------------------------------------- turns */

static bool read_result(sv_exchange *x, sv_job *j, sv_conversation *c, const block *b,
                        const char *path)
{
    sv_content said = {0};
    sv_path at;
    if (!b->tool_use_id)
        return sv_fail(x, 400, NULL, path, "%s.tool_use_id: expected a string", path);
    bool ok = read_text(x, j, b->content, sv_path_at(&at, path, "content"), "\n", true, &said);
    if (ok) sv_conversation_result(c, b->tool_use_id, NULL, &said);
    sv_content_free(&said);
    return ok;
}

static void end_user_text(sv_conversation *c, sv_content *said, bool *any)
{
    if (*any) sv_conversation_show(c, said);
    sv_content_free(said);
    *any = false;
}

/* A block of a user that is no result. */
static bool read_said(sv_exchange *x, sv_job *j, const block *b, const char *path, sv_content *said)
{
    if (!strcmp(b->type, "image")) return add_picture(x, j, b, path, said);
    if (strcmp(b->type, "text") != 0)
        return sv_fail(x, 400, NULL, path, "%s: a user has no blocks of type %s", path, b->type);
    if (!need_text(x, b->text, path, "text")) return false;
    add_text(said, b->text, "\n");
    return true;
}

/* Results of tools, texts and pictures, in the order they stand in. */
static bool read_user(sv_exchange *x, sv_job *j, sv_conversation *c, const sv_json *list,
                      const char *path)
{
    sv_content said = {0};
    bool any = false, ok = true;
    size_t i = 0;
    for (const sv_json *m = list->first; m && ok; m = m->next) {
        block b = {0};
        sv_path at;
        sv_path_index(&at, path, i++);
        ok = read_block(x, m, at.text, &b);
        if (ok && !strcmp(b.type, "tool_result")) {
            end_user_text(c, &said, &any);
            ok = read_result(x, j, c, &b, at.text);
        } else if (ok) {
            ok = read_said(x, j, &b, at.text, &said);
            any = true;
        }
    }
    end_user_text(c, &said, &any);
    return ok;
}

static bool read_call(sv_exchange *x, sv_conversation *c, const block *b, const char *path)
{
    sv_buf args = {0};
    if (!b->name || !b->id || !b->input)
        return sv_fail(x, 400, NULL, path, "%s: expected id, name and input", path);
    sv_put_json(&args, NULL, b->input);
    sv_conversation_call(c, b->id, b->name, sv_buf_text(&args), args.len);
    sv_buf_free(&args);
    return true;
}

static bool read_assistant(sv_exchange *x, sv_conversation *c, const sv_json *list,
                           const char *path)
{
    size_t i = 0;
    for (const sv_json *m = list->first; m; m = m->next) {
        block b = {0};
        sv_path at;
        sv_path_index(&at, path, i++);
        if (!read_block(x, m, at.text, &b)) return false;
        if (!strcmp(b.type, "text")) {
            if (!need_text(x, b.text, at.text, "text")) return false;
            sv_conversation_say(c, b.text->str, b.text->len);
        } else if (!strcmp(b.type, "thinking")) {
            if (!need_text(x, b.thinking, at.text, "thinking")) return false;
            sv_conversation_think(c, b.thinking->str, b.thinking->len);
        } else if (!strcmp(b.type, "tool_use")) {
            if (!read_call(x, c, &b, at.text)) return false;
        } else if (strcmp(b.type, "redacted_thinking") != 0) {
            return sv_fail(x, 400, NULL, at.text, "%s: an assistant has no blocks of type %s",
                           at.text, b.type);
        }
    }
    return true;
}

typedef struct message {
    const char *role;
    const sv_json *content;
} message;

static const sv_field message_table[] = {
    {"role", sv_read_string, offsetof(message, role), 0, 0, NULL},
    {"content", sv_read_json, offsetof(message, content), 0, 0, NULL},
    {0}};

static bool read_message(sv_exchange *x, sv_job *j, sv_conversation *c, const sv_json *v,
                         const char *path)
{
    message m = {0};
    sv_path at;
    if (!sv_fields_read(x, message_table, v, path, &m)) return false;
    bool user = m.role && !strcmp(m.role, "user");
    if (!user && (!m.role || strcmp(m.role, "assistant") != 0))
        return sv_fail(x, 400, NULL, sv_path_at(&at, path, "role"),
                       "%s: expected user or assistant", at.text);
    sv_path_at(&at, path, "content");
    if (!m.content) return sv_fail(x, 400, NULL, at.text, "%s: expected content", at.text);
    if (m.content->type == SV_JSON_STRING) {
        (user ? sv_conversation_user : sv_conversation_say)(c, m.content->str, m.content->len);
        return true;
    }
    if (m.content->type != SV_JSON_ARRAY)
        return sv_fail_kind(x, at.text, "a string or an array of blocks", m.content);
    if (!m.content->len) return sv_fail(x, 400, NULL, at.text, "%s: there is no block", at.text);
    return user ? read_user(x, j, c, m.content, at.text) : read_assistant(x, c, m.content, at.text);
}

static bool read_system(sv_exchange *x, sv_job *j, sv_conversation *c, const sv_json *system)
{
    sv_content text = {0};
    bool ok = read_text(x, j, system, "system", "\n\n", false, &text);
    if (ok && text.text.len) sv_conversation_system(c, text.text.data, text.text.len);
    sv_content_free(&text);
    return ok;
}

/* A last message of the assistant is what the answer begins with: a text, or blocks of it. */
static bool read_prefill(sv_exchange *x, sv_job *j, const sv_json *m, const char *path)
{
    message said = {0};
    sv_content text = {0};
    sv_path at;
    if (!sv_fields_read(x, message_table, m, path, &said)) return false;
    sv_path_at(&at, path, "content");
    if (j->think == APUS_THINK_ON)
        return sv_fail(x, 400, NULL, path,
                       "%s: an answer that begins with a thought cannot go on from a text; turn "
                       "thinking off",
                       path);
    if (!said.content) return sv_fail(x, 400, NULL, at.text, "%s: expected content", at.text);
    bool ok = read_text(x, j, said.content, at.text, "", false, &text);
    sv_buf *b = &j->prefill;
    if (ok) sv_buf_add(b, sv_buf_text(&text.text), text.text.len);
    sv_content_free(&text);
    if (ok && b->len && strchr(" \t\r\n", b->data[b->len - 1]))
        return sv_fail(x, 400, NULL, at.text,
                       "%s: what the answer goes on from cannot end in white space", at.text);
    return ok;
}

bool sv_anthropic_messages(sv_exchange *x, sv_job *j, const sv_json *system, const sv_json *list)
{
    sv_conversation c = {0};
    size_t i = 0;
    if (!list || !list->len)
        return sv_fail(x, 400, NULL, "messages", "messages: expected at least one message");
    bool ok = read_system(x, j, &c, system);
    for (const sv_json *m = list->first; m && ok; m = m->next) {
        sv_path at;
        sv_path_index(&at, "messages", i++);
        bool last = !m->next && i > 1 && sv_json_is(sv_json_get(m, "role"), "assistant");
        ok = last ? read_prefill(x, j, m, at.text) : read_message(x, j, &c, m, at.text);
    }
    if (ok) return sv_conversation_finish(x, &c, j, "messages");
    sv_conversation_free(&c);
    return false;
}
