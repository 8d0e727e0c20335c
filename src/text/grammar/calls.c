#include "text/grammar/calls.h"

#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "text/grammar/json_schema.h"

typedef struct maker {
    const ap_calls *how;
    ap_grammar *g;
    ap_schemas *schemas;
    apus_diag *diag;
} maker;

static void put(maker *m, int32_t *at, const char *text, size_t n)
{
    int32_t next = ap_grammar_state(m->g);
    ap_grammar_text(m->g, *at, next, text, n);
    *at = next;
}

static void puts_at(maker *m, int32_t *at, const char *text)
{
    put(m, at, text, strlen(text));
}

/* Any byte; tokens that are markers, but for the one that opens a call. */
static void put_free(maker *m, int32_t at)
{
    ap_grammar *g = m->g;
    uint32_t open = (uint32_t)m->how->open;
    uint8_t byte[3] = {(uint8_t)(open >> 16), (uint8_t)(open >> 8), (uint8_t)open};
    int32_t same[3], other[2] = {ap_grammar_state(g), ap_grammar_state(g)};
    for (int i = 0; i < 3; i++) same[i] = ap_grammar_state(g);
    ap_grammar_bytes(g, at, at, 0, AP_MARKER_BYTE - 1);
    ap_grammar_bytes(g, at, same[0], AP_MARKER_BYTE, AP_MARKER_BYTE);
    for (int i = 0; i < 3; i++) {
        int32_t differs = i == 2 ? at : other[i];
        if (byte[i]) ap_grammar_bytes(g, same[i], differs, 0, (uint8_t)(byte[i] - 1));
        if (byte[i] < 255) ap_grammar_bytes(g, same[i], differs, (uint8_t)(byte[i] + 1), 255);
        if (i < 2) ap_grammar_bytes(g, same[i], same[i + 1], byte[i], byte[i]);
    }
    ap_grammar_bytes(g, other[0], other[1], 0, 255);
    ap_grammar_bytes(g, other[1], at, 0, 255);
}

/* ---------------------------------------------------------------- one tool */

/* Arguments of no schema: anything that holds no marker but what strings are quoted with. */
static int32_t any_arguments(maker *m, int32_t from)
{
    int32_t at = ap_grammar_state(m->g), end;
    bool braces = m->how->syntax != AP_CALLS_TAGS;
    if (braces) puts_at(m, &from, "{");
    ap_grammar_empty(m->g, from, at);
    ap_grammar_bytes(m->g, at, at, 0, AP_MARKER_BYTE - 1);
    if (m->how->quote >= 0) ap_grammar_token(m->g, at, at, m->how->quote);
    end = at;
    if (braces) puts_at(m, &end, "}");
    return end;
}

static apus_err arguments_rule(maker *m, const ap_json *schema, const char *where, int32_t *rule)
{
    if (m->how->syntax == AP_CALLS_TAGS)
        return ap_schemas_parameters(m->schemas, schema, where, rule);
    return ap_schemas_rule(m->schemas, schema, schema, where, rule);
}

/* The arguments of a tool, up to what closes its call. */
static apus_err put_arguments(maker *m, const char *name, const ap_json *schema, bool strict,
                              int32_t *at)
{
    ap_grammar *g = m->g;
    char where[200];
    int32_t rule = -1, owner = g->at;
    apus_err err = APUS_OK;
    snprintf(where, sizeof where, "parameters of tool %.100s", name);
    if (schema && (strict || m->how->must)) {
        err = arguments_rule(m, schema, where, &rule);
        g->at = owner;
        if (err && (strict || err == APUS_ENOMEM)) return err;
    }
    if (err || rule < 0 || g->full) { /* not strict, and what it says is not supported */
        *at = any_arguments(m, *at);
        return APUS_OK;
    }
    int32_t next = ap_grammar_state(g);
    ap_grammar_call(g, *at, next, rule, 1, 1);
    *at = next;
    return APUS_OK;
}

static apus_err put_tool(maker *m, const ap_json *tool, int32_t from, int32_t to)
{
    const ap_json *f = ap_json_get(tool, "function"), *name = ap_json_get(f ? f : tool, "name");
    const ap_json *strict = ap_json_get(f ? f : tool, "strict");
    const ap_json *schema = ap_json_get(f ? f : tool, "parameters");
    int32_t at = from;
    if (!name || name->type != AP_JSON_STRING)
        return ap_fail(m->diag, APUS_EFORMAT, "tools: a tool without a name");
    if (m->how->name && strcmp(m->how->name, name->str) != 0) return APUS_OK;
    bool tags = m->how->syntax == AP_CALLS_TAGS, gemma = m->how->syntax == AP_CALLS_GEMMA;
    puts_at(m, &at, tags ? "\n<function=" : gemma ? "call:" : "\n{\"name\": \"");
    put(m, &at, name->str, name->len);
    if (!gemma) puts_at(m, &at, tags ? ">\n" : "\", \"arguments\": ");
    bool obeys = strict && strict->type == AP_JSON_BOOL && strict->boolean;
    apus_err err = put_arguments(m, name->str, schema, obeys, &at);
    if (!gemma) puts_at(m, &at, tags ? "</function>\n" : "}\n");
    ap_grammar_empty(m->g, at, to);
    return err;
}

/* ---------------------------------------------------------------- the answer */

/* A rule of one call, markers included. */
static apus_err call_rule(maker *m, const ap_json *tools, int32_t *rule)
{
    ap_grammar *g = m->g;
    apus_err err = APUS_OK;
    *rule = ap_grammar_rule(g, NULL, 0);
    if (g->full || g->failed) return APUS_OK;
    g->at = *rule;
    int32_t begin = ap_grammar_state(g), end = ap_grammar_state(g);
    ap_grammar_token(g, g->rule[*rule].start, begin, m->how->open);
    ap_grammar_token(g, end, g->rule[*rule].end, m->how->close);
    for (const ap_json *t = tools->first; t && !err; t = t->next) err = put_tool(m, t, begin, end);
    return err;
}

/* A rule of the document that may come instead of calls; -1: there is none. */
static apus_err document_rule(maker *m, ap_arena *arena, int32_t *rule)
{
    const char *text = m->how->schema;
    ap_json *root;
    *rule = -1;
    if (m->how->must || (!text && !m->how->object)) return APUS_OK;
    ap_schemas *c = ap_schemas_open(m->g, -1, m->diag);
    if (!c) return APUS_ENOMEM;
    apus_err err = APUS_OK;
    if (text) err = ap_json_parse(arena, text, strlen(text), "schema", 0, &root, m->diag);
    if (!err && text) err = ap_schemas_rule(c, root, root, "schema", rule);
    if (!text) *rule = ap_schemas_object(c);
    ap_schemas_free(c);
    return err;
}

static void put_answer(maker *m, int32_t call, int32_t document)
{
    ap_grammar *g = m->g;
    bool text = !m->how->must && document < 0;
    int32_t root = ap_grammar_rule(g, NULL, 0);
    if (g->full || g->failed) return;
    g->root = g->at = root;
    int32_t start = g->rule[root].start, end = g->rule[root].end;
    int32_t at = ap_grammar_state(g), behind = ap_grammar_state(g);
    ap_grammar_empty(g, start, at);
    if (document >= 0) ap_grammar_call(g, start, end, document, 1, 1);
    if (text) {
        put_free(m, at);
        ap_grammar_empty(g, at, end);
    }
    ap_grammar_call(g, at, behind, call, 1, 1);
    ap_grammar_empty(g, behind, end);
    if (m->how->single) return;
    if (m->how->syntax != AP_CALLS_GEMMA) ap_grammar_bytes(g, behind, at, '\n', '\n');
    if (m->how->syntax == AP_CALLS_GEMMA || text) ap_grammar_empty(g, behind, at);
}

apus_err ap_calls_grammar(const char *tools, size_t len, const ap_calls *how, ap_grammar *g,
                          apus_diag *diag)
{
    ap_arena arena;
    ap_json *list;
    int32_t call, document;
    maker m = {.how = how, .g = g, .diag = diag};
    ap_arena_init(&arena, (size_t)256 << 20);
    apus_err err = ap_json_parse(&arena, tools, len, "tools", 0, &list, diag);
    if (!err && list->type != AP_JSON_ARRAY)
        err = ap_fail(diag, APUS_EFORMAT, "tools: expected a list of tools");
    if (!err) m.schemas = ap_schemas_open(g, how->quote, diag);
    if (!err && !m.schemas) err = APUS_ENOMEM;
    if (!err) err = call_rule(&m, list, &call);
    if (!err) err = document_rule(&m, &arena, &document);
    if (!err) put_answer(&m, call, document);
    ap_schemas_free(m.schemas);
    ap_arena_free(&arena);
    return err ? err : ap_grammar_finish(g, "tools", diag);
}
