/* anthropic_messages.c - messages and their blocks, every member of each looked at. */
#include <string.h>

#include "anthropic.h"
#include "fields.h"

typedef struct block {
    const char *type, *id, *name, *tool_use_id;
    const sv_json *text, *thinking, *input, *content;
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
    {"is_error", sv_read_any, 0, 0, 0, NULL},
    {"citations", sv_read_any, 0, 0, 0, NULL},
    {"cache_control", sv_read_any, 0, 0, 0, NULL},
    {0}};

static const char *const known[] = {"text", "thinking", "redacted_thinking", "tool_use",
                                    "tool_result"};

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

/* A string, or blocks of text: joined by `between`. */
static bool read_text(sv_exchange *x, const sv_json *j, const char *path, const char *between,
                      sv_buf *out)
{
    size_t i = 0;
    if (!j) return true;
    if (j->type == SV_JSON_STRING) {
        sv_buf_add(out, j->str, j->len);
        return true;
    }
    if (j->type != SV_JSON_ARRAY) return sv_fail_kind(x, path, "a string or an array of blocks", j);
    for (const sv_json *m = j->first; m; m = m->next) {
        block b = {0};
        sv_path at;
        sv_path_index(&at, path, i++);
        if (!read_block(x, m, at.text, &b) || !need_text(x, b.text, at.text, "text")) return false;
        /* A line that changes with every request would spoil every cached prompt behind it. */
        if (!strncmp(b.text->str, "x-anthropic-billing-header", 26)) continue;
        if (out->len) sv_buf_adds(out, between);
        sv_buf_add(out, b.text->str, b.text->len);
    }
    return true;
}

/* ---------------------------------------------------------------- turns */

static bool read_result(sv_exchange *x, sv_conversation *c, const block *b, const char *path)
{
    sv_buf text = {0};
    sv_path at;
    if (!b->tool_use_id)
        return sv_fail(x, 400, NULL, path, "%s.tool_use_id: expected a string", path);
    bool ok = read_text(x, b->content, sv_path_at(&at, path, "content"), "\n", &text);
    if (ok) sv_conversation_result(c, b->tool_use_id, NULL, sv_buf_text(&text), text.len);
    sv_buf_free(&text);
    return ok;
}

static void end_user_text(sv_conversation *c, sv_buf *text, bool *any)
{
    if (*any) sv_conversation_user(c, sv_buf_text(text), text->len);
    sv_buf_free(text);
    *any = false;
}

/* Results of tools and texts, in the order they stand in. */
static bool read_user(sv_exchange *x, sv_conversation *c, const sv_json *list, const char *path)
{
    sv_buf text = {0};
    bool any = false, ok = true;
    size_t i = 0;
    for (const sv_json *m = list->first; m && ok; m = m->next) {
        block b = {0};
        sv_path at;
        sv_path_index(&at, path, i++);
        ok = read_block(x, m, at.text, &b);
        if (ok && !strcmp(b.type, "tool_result")) {
            end_user_text(c, &text, &any);
            ok = read_result(x, c, &b, at.text);
        } else if (ok && !strcmp(b.type, "text")) {
            ok = need_text(x, b.text, at.text, "text");
            if (ok && any) sv_buf_adds(&text, "\n");
            if (ok) sv_buf_add(&text, b.text->str, b.text->len);
            any = true;
        } else if (ok) {
            ok = sv_fail(x, 400, NULL, at.text, "%s: a user has no blocks of type %s", at.text,
                         b.type);
        }
    }
    end_user_text(c, &text, &any);
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

static bool read_message(sv_exchange *x, sv_conversation *c, const sv_json *j, const char *path)
{
    message m = {0};
    sv_path at;
    if (!sv_fields_read(x, message_table, j, path, &m)) return false;
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
    return (user ? read_user : read_assistant)(x, c, m.content, at.text);
}

static bool read_system(sv_exchange *x, sv_conversation *c, const sv_json *system)
{
    sv_buf text = {0};
    bool ok = read_text(x, system, "system", "\n\n", &text);
    if (ok && text.len) sv_conversation_system(c, text.data, text.len);
    sv_buf_free(&text);
    return ok;
}

bool sv_anthropic_messages(sv_exchange *x, sv_job *j, const sv_json *system, const sv_json *list)
{
    sv_conversation c = {0};
    const sv_json *last = NULL;
    size_t i = 0;
    if (!list || !list->len)
        return sv_fail(x, 400, NULL, "messages", "messages: expected at least one message");
    bool ok = read_system(x, &c, system);
    for (const sv_json *m = list->first; m && ok; m = m->next) {
        sv_path at;
        ok = read_message(x, &c, m, sv_path_index(&at, "messages", i++));
        last = m;
    }
    if (ok && sv_json_is(sv_json_get(last, "role"), "assistant"))
        ok = sv_fail(
            x, 400, NULL, "messages",
            "messages: the last one is the assistant's, and continuing it is not supported");
    if (ok) return sv_conversation_finish(x, &c, j, "messages");
    sv_conversation_free(&c);
    return false;
}
