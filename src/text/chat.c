/* chat.c - finding a model's chat template and rendering conversations with it. */
#include "text/chat.h"

#include <string.h>

#include "base/arena.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "text/guard.h"
#include "text/jinja/template.h"

#define MAX_TEMPLATE_FILE ((size_t)1 << 20)
#define MAX_CONFIG_FILE   ((size_t)256 << 20) /* tokenizer_config.json lists added tokens */

/* A template that may not have compiled: the reason is told when it is used, so that the rest of
 * the model works without it. */
typedef struct named_template {
    ap_template *t;
    apus_diag why;
} named_template;

struct ap_chat {
    ap_chat_syntax syntax;
    named_template def, tool_use;
    bool has_tool_use;
    ap_arena mem;    /* special token texts */
    ap_json *tokens; /* members such as bos_token, linked by next; NULL: none */
};

/* ---------------------------------------------------------------- loading */

static void compile(named_template *n, const char *text, size_t len, const char *name)
{
    ap_template_free(n->t);
    n->t = NULL;
    if (ap_template_parse(text, len, name, &n->t, &n->why)) n->t = NULL;
}

/* dir/file as a template. *found false and OK: there is no such file. */
static apus_err load_file(const char *dir, const char *file, named_template *n, bool *found,
                          apus_diag *diag)
{
    char *path = ap_path_join(dir, file), *text = NULL;
    size_t len = 0;
    apus_err err = APUS_OK;
    *found = false;
    if (!path) return ap_fail_nomem(diag, strlen(dir), "a path");
    if (ap_path_exists(path)) {
        err = ap_file_read(path, MAX_TEMPLATE_FILE, &text, &len, diag);
        if (!err) {
            compile(n, text, len, file);
            *found = true;
        }
    }
    ap_free(text);
    ap_free(path);
    return err;
}

static bool is_text(const ap_json *j)
{
    return j && j->type == AP_JSON_STRING;
}

/* Every NAME_token of the configuration whose text is given, as transformers hands them over. */
static apus_err keep_tokens(ap_chat *c, const ap_json *config, apus_diag *diag)
{
    for (const ap_json *m = config->first; m; m = m->next) {
        const ap_json *text = m->type == AP_JSON_OBJECT ? ap_json_get(m, "content") : m;
        if (!is_text(text) || m->key_len < 7 || memcmp(m->key + m->key_len - 6, "_token", 6))
            continue;
        ap_json *t = ap_arena_alloc(&c->mem, sizeof *t);
        char *key = ap_arena_strndup(&c->mem, m->key, m->key_len);
        char *str = ap_arena_strndup(&c->mem, text->str, text->len);
        if (!t || !key || !str) return ap_fail_nomem(diag, text->len, "a special token");
        *t = (ap_json){.type = AP_JSON_STRING,
                       .str = str,
                       .len = text->len,
                       .key = key,
                       .key_len = m->key_len,
                       .next = c->tokens};
        c->tokens = t;
    }
    return APUS_OK;
}

/* chat_template of a configuration: a string, or a list of {"name", "template"}. */
static apus_err config_templates(ap_chat *c, const ap_json *config, const char *file, bool *found,
                                 apus_diag *diag)
{
    const ap_json *t = ap_json_get(config, "chat_template");
    if (!t || t->type == AP_JSON_NULL) return APUS_OK;
    if (is_text(t)) {
        compile(&c->def, t->str, t->len, file);
        *found = true;
        return APUS_OK;
    }
    if (t->type != AP_JSON_ARRAY)
        return ap_fail(diag, APUS_EFORMAT, "%s: chat_template is neither a string nor a list",
                       file);
    for (const ap_json *i = t->first; i; i = i->next) {
        const ap_json *name = ap_json_get(i, "name"), *text = ap_json_get(i, "template");
        if (!is_text(name) || !is_text(text))
            return ap_fail(diag, APUS_EFORMAT,
                           "%s: an entry of chat_template lacks a name or a template", file);
        if (!strcmp(name->str, "default")) {
            compile(&c->def, text->str, text->len, file);
            *found = true;
        } else if (!strcmp(name->str, "tool_use")) {
            compile(&c->tool_use, text->str, text->len, file);
            c->has_tool_use = true;
        }
    }
    return APUS_OK;
}

/* Templates (unless found already) and token texts of a configuration's text. */
static apus_err read_config(ap_chat *c, const char *text, size_t len, const char *file, bool tokens,
                            bool *found, apus_diag *diag)
{
    ap_json *j = NULL;
    ap_arena mem;
    ap_arena_init(&mem, 0);
    apus_err err = ap_json_parse(&mem, text, len, file, 0, &j, diag);
    if (!err && j->type != AP_JSON_OBJECT)
        err = ap_fail(diag, APUS_EFORMAT, "%s: expected a JSON object", file);
    if (!err && tokens) err = keep_tokens(c, j, diag);
    if (!err && !*found) err = config_templates(c, j, file, found, diag);
    ap_arena_free(&mem);
    return err;
}

/* Read dir/file, if it is there. */
static apus_err load_config(ap_chat *c, const char *dir, const char *file, bool tokens, bool *found,
                            apus_diag *diag)
{
    char *path = ap_path_join(dir, file), *text = NULL;
    size_t len = 0;
    apus_err err = APUS_OK;
    if (!path) return ap_fail_nomem(diag, strlen(dir), "a path");
    if (ap_path_exists(path)) {
        err = ap_file_read(path, MAX_CONFIG_FILE, &text, &len, diag);
        if (!err) err = read_config(c, text, len, file, tokens, found, diag);
    }
    ap_free(text);
    ap_free(path);
    return err;
}

apus_err ap_chat_load(const char *dir, ap_chat_syntax syntax, ap_chat **out, apus_diag *diag)
{
    bool found = false;
    apus_err err;
    ap_chat *c = ap_calloc(1, sizeof *c);
    if (!c) return ap_fail_nomem(diag, sizeof *c, "a chat template");
    c->syntax = syntax;
    ap_arena_init(&c->mem, 0);
    err = load_file(dir, "chat_template.jinja", &c->def, &found, diag);
    if (!err && found)
        err = load_file(dir, "additional_chat_templates/tool_use.jinja", &c->tool_use,
                        &c->has_tool_use, diag);
    if (!err) err = load_config(c, dir, "tokenizer_config.json", true, &found, diag);
    /* Where processors used to keep it. */
    if (!err && !found) err = load_config(c, dir, "chat_template.json", false, &found, diag);
    if (!err) *out = NULL;
    if (!err && (found || c->has_tool_use))
        *out = c;
    else
        ap_chat_free(c);
    return err;
}

apus_err ap_chat_parse(const char *config, size_t len, const char *name, ap_chat_syntax syntax,
                       ap_chat **out, apus_diag *diag)
{
    bool found = false;
    ap_chat *c = ap_calloc(1, sizeof *c);
    if (!c) return ap_fail_nomem(diag, sizeof *c, "a chat template");
    c->syntax = syntax;
    ap_arena_init(&c->mem, 0);
    apus_err err = read_config(c, config, len, name, true, &found, diag);
    if (!err) *out = NULL;
    if (!err && (found || c->has_tool_use))
        *out = c;
    else
        ap_chat_free(c);
    return err;
}

void ap_chat_free(ap_chat *c)
{
    if (!c) return;
    ap_template_free(c->def.t);
    ap_template_free(c->tool_use.t);
    ap_arena_free(&c->mem);
    ap_free(c);
}

/* ---------------------------------------------------------------- variables */

static ap_json *member(ap_json *object, const char *key)
{
    ap_json *hit = NULL;
    size_t n = strlen(key);
    for (ap_json *m = object->first; m; m = m->next)
        if (m->key_len == n && !memcmp(m->key, key, n)) hit = m; /* the last of equal keys counts */
    return hit;
}

static ap_json *new_member(ap_arena *mem, const char *key, const ap_json *value)
{
    ap_json *m = ap_arena_alloc(mem, sizeof *m);
    if (!m) return NULL;
    *m = *value;
    m->key = key;
    m->key_len = strlen(key);
    m->next = NULL;
    return m;
}

static void append(ap_json *object, ap_json *m)
{
    ap_json **tail = &object->first;
    while (*tail) tail = &(*tail)->next;
    *tail = m;
    object->len++;
}

/* OpenAI gives the arguments of a call as a string of JSON. Most templates want the object, some
 * the string, and get both: an object that keeps its text in `str`. Anything else in the string
 * stays as it is. */
static apus_err parse_arguments(ap_arena *mem, ap_json *call, apus_diag *diag)
{
    if (call->type != AP_JSON_OBJECT) return APUS_OK;
    ap_json *f = member(call, "function"), *parsed = NULL;
    ap_json *args = member(f && f->type == AP_JSON_OBJECT ? f : call, "arguments");
    if (!is_text(args)) return APUS_OK;
    size_t blank = strspn(args->str, " \t\r\n");
    const char *text = blank == args->len ? "{}" : args->str;
    size_t len = blank == args->len ? 2 : args->len;
    apus_diag why;
    apus_err err = ap_json_parse(mem, text, len, "arguments", 0, &parsed, &why);
    if (err == APUS_ENOMEM) return ap_fail_nomem(diag, len, "the arguments of a tool call");
    if (err || parsed->type != AP_JSON_OBJECT) return APUS_OK;
    args->type = AP_JSON_OBJECT; /* args->str stays */
    args->first = parsed->first;
    args->len = parsed->len;
    return APUS_OK;
}

/* Keys whose value is null are dropped, as transformers does: clients send "content": null, and
 * templates ask whether there is content. */
static void drop_nulls(ap_json *msg)
{
    for (ap_json **at = &msg->first; *at;) {
        if ((*at)->type != AP_JSON_NULL) {
            at = &(*at)->next;
            continue;
        }
        *at = (*at)->next;
        msg->len--;
    }
}

/* Reasoning has had several names; templates read reasoning_content, some thinking. As
 * transformers 5 does, fill both from the first that is there. */
static apus_err alias_reasoning(ap_arena *mem, ap_json *msg, apus_diag *diag)
{
    static const char *const names[] = {"reasoning_content", "thinking", "reasoning"};
    const ap_json *value = NULL;
    for (int i = 0; i < 3 && !value; i++) {
        const ap_json *m = member(msg, names[i]);
        if (m && m->type != AP_JSON_NULL) value = m;
    }
    if (!value) return APUS_OK;
    ap_json *reasoning = new_member(mem, "reasoning_content", value);
    ap_json *thinking = new_member(mem, "thinking", value);
    if (!reasoning || !thinking) return ap_fail_nomem(diag, sizeof *value, "a message");
    ap_json *had = member(msg, "thinking");
    if (had) { /* it keeps its value and moves to the front */
        ap_json **at = &msg->first;
        while (*at != had) at = &(*at)->next;
        *at = had->next;
        thinking = had;
    } else {
        msg->len++;
    }
    thinking->next = msg->first;
    msg->first = thinking;
    if ((had = member(msg, "reasoning_content"))) {
        reasoning->next = had->next;
        *had = *reasoning;
    } else {
        append(msg, reasoning);
    }
    return APUS_OK;
}

static apus_err prepare_messages(ap_arena *mem, ap_json *list, apus_diag *diag)
{
    size_t i = 0;
    apus_err err = APUS_OK;
    if (list->type != AP_JSON_ARRAY)
        return ap_fail(diag, APUS_EINVAL, "messages: expected a JSON array");
    for (ap_json *m = list->first; m && !err; m = m->next, i++) {
        if (m->type != AP_JSON_OBJECT)
            return ap_fail(diag, APUS_EINVAL, "messages[%zu]: expected an object", i);
        drop_nulls(m);
        if (!is_text(ap_json_get(m, "role")))
            return ap_fail(diag, APUS_EINVAL, "messages[%zu]: expected a role, a string", i);
        err = alias_reasoning(mem, m, diag);
        ap_json *calls = member(m, "tool_calls");
        if (!calls || calls->type != AP_JSON_ARRAY) continue;
        for (ap_json *c = calls->first; c && !err; c = c->next) err = parse_arguments(mem, c, diag);
    }
    return err;
}

/* Parse what a caller gave; its faults are EINVAL. */
static apus_err parse_input(ap_arena *mem, const char *text, const char *what, ap_json **out,
                            apus_diag *diag)
{
    apus_diag why = {0};
    apus_err err = ap_json_parse(mem, text, strlen(text), what, 0, out, &why);
    if (err == APUS_EFORMAT) return ap_fail(diag, APUS_EINVAL, "%s", why.text);
    if (err && diag) *diag = why;
    return err;
}

static apus_err add_value(ap_arena *mem, ap_json *vars, const char *key, const ap_json *value,
                          apus_diag *diag)
{
    ap_json *m = new_member(mem, key, value);
    if (!m) return ap_fail_nomem(diag, sizeof *value, "a template variable");
    append(vars, m);
    return APUS_OK;
}

static apus_err add_bool(ap_arena *mem, ap_json *vars, const char *key, bool b, apus_diag *diag)
{
    ap_json value = {.type = AP_JSON_BOOL, .boolean = b};
    return add_value(mem, vars, key, &value, diag);
}

static apus_err add_extra(ap_arena *mem, ap_json *vars, const char *text, apus_diag *diag)
{
    ap_json *extra = NULL;
    apus_err err = parse_input(mem, text, "extra template variables", &extra, diag);
    if (err) return err;
    if (extra->type != AP_JSON_OBJECT)
        return ap_fail(diag, APUS_EINVAL, "extra template variables: expected a JSON object");
    if (member(extra, "messages") || member(extra, "tools"))
        return ap_fail(diag, APUS_EINVAL,
                       "extra template variables: messages and tools are given apart");
    for (ap_json *m = extra->first, *next; m; m = next) {
        next = m->next;
        m->next = NULL;
        append(vars, m); /* later members win, also over the special tokens */
    }
    return APUS_OK;
}

/* Of what an assistant said, templates take the thoughts apart. */
static apus_err guard_messages(ap_arena *mem, const ap_tokenizer *guard, ap_json *list,
                               apus_diag *diag)
{
    apus_err err = APUS_OK;
    for (ap_json *m = list->first; m && guard && !err; m = m->next) {
        bool said = !strcmp(ap_json_get(m, "role")->str, "assistant");
        err = ap_guard_json(guard, mem, m, said, diag);
    }
    return err;
}

static apus_err make_vars(ap_arena *mem, const ap_chat *c, const char *messages, const char *tools,
                          const apus_chat_settings *s, const ap_tokenizer *guard, ap_json *vars,
                          apus_diag *diag)
{
    ap_json *list = NULL, *tool_list = NULL, null = {.type = AP_JSON_NULL};
    apus_err err = parse_input(mem, messages, "messages", &list, diag);
    if (!err) err = prepare_messages(mem, list, diag);
    if (!err) err = guard_messages(mem, guard, list, diag);
    if (err) return err;
    if (tools) {
        if ((err = parse_input(mem, tools, "tools", &tool_list, diag))) return err;
        if (tool_list->type != AP_JSON_ARRAY)
            return ap_fail(diag, APUS_EINVAL, "tools: expected a JSON array");
        size_t i = 0;
        for (const ap_json *t = tool_list->first; t; t = t->next, i++)
            if (t->type != AP_JSON_OBJECT)
                return ap_fail(diag, APUS_EINVAL, "tools[%zu]: expected an object", i);
        if (guard && (err = ap_guard_json(guard, mem, tool_list, false, diag))) return err;
    }
    for (const ap_json *t = c ? c->tokens : NULL; t; t = t->next)
        if ((err = add_value(mem, vars, t->key, t, diag))) return err;
    if ((err = add_value(mem, vars, "messages", list, diag)) ||
        (err = add_value(mem, vars, "tools", tool_list ? tool_list : &null, diag)) ||
        (err = add_value(mem, vars, "documents", &null, diag)) ||
        (err = add_bool(mem, vars, "add_generation_prompt", !(s && s->no_generation_prompt), diag)))
        return err;
    if (s && s->think != APUS_THINK_DEFAULT)
        err = add_bool(mem, vars, "enable_thinking", s->think == APUS_THINK_ON, diag);
    if (!err && s && s->extra_json) err = add_extra(mem, vars, s->extra_json, diag);
    return err;
}

apus_err ap_chat_render(const ap_chat *c, const char *messages_json, const char *tools_json,
                        const apus_chat_settings *s, const ap_tokenizer *guard, char **text,
                        size_t *len, apus_diag *diag)
{
    ap_arena mem;
    ap_json vars = {.type = AP_JSON_OBJECT};
    named_template own = {0};
    bool given = s && s->template_text;
    if (!c && !given) return ap_fail(diag, APUS_EUNSUPPORTED, "the model has no chat template");
    if (!messages_json) return ap_fail(diag, APUS_EINVAL, "messages: none given");
    if (given)
        compile(&own, s->template_text, strlen(s->template_text),
                s->template_name ? s->template_name : "chat template");
    const named_template *n = given ? &own : tools_json && c->has_tool_use ? &c->tool_use : &c->def;
    if (!n->t) {
        if (!n->why.code)
            return ap_fail(diag, APUS_EUNSUPPORTED, "the model has no chat template named default");
        return ap_fail(diag, n->why.code, "%s", n->why.text);
    }
    ap_arena_init(&mem, 0);
    apus_err err = make_vars(&mem, c, messages_json, tools_json, s, guard, &vars, diag);
    if (!err) err = ap_template_render(n->t, &vars, text, len, diag);
    ap_arena_free(&mem);
    ap_template_free(own.t);
    return err;
}
