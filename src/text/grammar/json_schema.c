#include "text/grammar/json_schema.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "text/grammar/json_schema_impl.h"
#include "text/vec.h"

enum { INDENT = 40, MOST_PATH = 400 };

/* ---------------------------------------------------------------- errors */

static void put_step(ap_buf *path, const ap_json *k, size_t index, bool named)
{
    if (named)
        ap_buf_addf(path, "/%.*s", k->key_len < 60 ? (int)k->key_len : 60, k->key);
    else
        ap_buf_addf(path, "/%zu", index);
}

/* The way from a value to another inside it. The tree's depth is bounded (json.h). */
static bool find_path(const ap_json *at, const ap_json *what, ap_buf *path)
{
    size_t len = path->len, i = 0;
    if (at == what) return true;
    if (at->type != AP_JSON_OBJECT && at->type != AP_JSON_ARRAY) return false;
    for (const ap_json *k = at->first; k; k = k->next, i++) {
        put_step(path, k, i, at->type == AP_JSON_OBJECT);
        if (find_path(k, what, path)) return true;
        path->len = len;
    }
    return false;
}

apus_err ap_schema_wrong(const ap_schemas *c, apus_err err, const ap_json *schema, const char *key,
                         const char *fmt, ...)
{
    char text[600];
    ap_buf path = {0};
    va_list list;
    if (!c->diag) return err;
    va_start(list, fmt);
    vsnprintf(text, sizeof text, fmt, list);
    va_end(list);
    ap_buf_adds(&path, "#");
    find_path(c->root, schema, &path);
    if (path.data) path.data[path.len] = 0;
    const char *at = path.data ? path.data : "#";
    size_t n = strlen(at);
    if (n > MOST_PATH) at += n - MOST_PATH;
    ap_fail(c->diag, err, "%s at %s%s%.60s: %s", c->where, at, key ? "/" : "", key ? key : "",
            text);
    ap_buf_free(&path);
    return err;
}

/* ---------------------------------------------------------------- shared rules */

/* Begin a rule that is made once. */
static bool begin_rule(ap_schemas *c, int32_t *rule, int32_t *start, int32_t *end)
{
    ap_grammar *g = c->g;
    *rule = ap_grammar_rule(g, NULL, 0);
    if (g->full || g->failed) return false;
    g->at = *rule;
    *start = g->rule[*rule].start;
    *end = g->rule[*rule].end;
    return true;
}

/* The indentation behind a line's end: spaces or tabs, not many. */
static int32_t indent_rule(ap_schemas *c)
{
    int32_t start, end, at = c->g->at;
    if (c->indent >= 0 || !begin_rule(c, &c->indent, &start, &end)) return c->indent;
    for (int k = 0; k < 2; k++) {
        int32_t from = start;
        for (int i = 0; i < (k ? INDENT / 4 : INDENT); i++) {
            int32_t next = ap_grammar_state(c->g);
            ap_grammar_bytes(c->g, from, next, k ? '\t' : ' ', k ? '\t' : ' ');
            ap_grammar_empty(c->g, next, end);
            from = next;
        }
    }
    c->g->at = at;
    return c->indent;
}

void ap_put_space(ap_schemas *c, int32_t from, int32_t to)
{
    ap_grammar *g = c->g;
    int32_t line = ap_grammar_state(g);
    ap_grammar_empty(g, from, to);
    if (c->quote >= 0) return; /* such calls have none */
    ap_grammar_bytes(g, from, to, ' ', ' ');
    ap_grammar_bytes(g, from, line, '\n', '\n');
    ap_grammar_call(g, line, to, indent_rule(c), 0, 1);
}

void ap_put_colon(ap_schemas *c, int32_t from, int32_t to)
{
    int32_t colon = ap_grammar_state(c->g);
    ap_grammar_bytes(c->g, from, colon, ':', ':');
    ap_grammar_empty(c->g, colon, to);
    if (c->quote < 0) ap_grammar_bytes(c->g, colon, to, ' ', ' ');
}

void ap_put_quote(ap_schemas *c, int32_t from, int32_t to)
{
    if (c->quote < 0)
        ap_grammar_bytes(c->g, from, to, '"', '"');
    else
        ap_grammar_token(c->g, from, to, c->quote);
}

void ap_put_key(ap_schemas *c, const char *s, size_t n, int32_t from, int32_t to)
{
    if (c->quote < 0)
        ap_put_text(c, s, n, from, to);
    else
        ap_grammar_text(c->g, from, to, s, n);
}

static void put_any_char(ap_schemas *c, int32_t from, int32_t to)
{
    if (c->quote < 0)
        ap_json_any_char(c->g, from, to);
    else
        ap_grammar_chars(c->g, from, to, 0, AP_LAST_CHAR);
}

/* Any key. */
static void put_any_key(ap_schemas *c, int32_t from, int32_t to)
{
    if (c->quote < 0) {
        ap_grammar_call(c->g, from, to, ap_rule_string(c), 1, 1);
        return;
    }
    static const char ranges[][2] = {{'a', 'z'}, {'A', 'Z'}, {'0', '9'}, {'_', '_'}, {'-', '-'}};
    int32_t first = ap_grammar_state(c->g);
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        uint8_t lo = (uint8_t)ranges[i][0], hi = (uint8_t)ranges[i][1];
        if (i < 2) ap_grammar_bytes(c->g, from, first, lo, hi);
        ap_grammar_bytes(c->g, first, first, lo, hi);
    }
    ap_grammar_empty(c->g, first, to);
}

int32_t ap_rule_one_char(ap_schemas *c)
{
    int32_t start, end, at = c->g->at;
    if (c->one_char >= 0 || !begin_rule(c, &c->one_char, &start, &end)) return c->one_char;
    put_any_char(c, start, end);
    c->g->at = at;
    return c->one_char;
}

int32_t ap_rule_string(ap_schemas *c)
{
    int32_t start, end, at = c->g->at;
    if (c->string >= 0 || !begin_rule(c, &c->string, &start, &end)) return c->string;
    int32_t inside = ap_grammar_state(c->g);
    ap_put_quote(c, start, inside);
    put_any_char(c, inside, inside);
    ap_put_quote(c, inside, end);
    c->g->at = at;
    return c->string;
}

static int32_t number_rule(ap_schemas *c, bool integer)
{
    int32_t start, end, at = c->g->at, *rule = integer ? &c->integer : &c->number;
    if (*rule >= 0 || !begin_rule(c, rule, &start, &end)) return *rule;
    ap_number_put(&(ap_number_range){.integer = integer}, c->g, start, end);
    c->g->at = at;
    return *rule;
}

/* element, or none, or several with commas, between brackets. */
static void put_list(ap_schemas *c, char open, char close, int32_t element, int32_t from,
                     int32_t to)
{
    ap_grammar *g = c->g;
    int32_t bracket = ap_grammar_state(g), first = ap_grammar_state(g),
            behind = ap_grammar_state(g);
    int32_t comma = ap_grammar_state(g), last = ap_grammar_state(g);
    ap_grammar_bytes(g, from, bracket, (uint8_t)open, (uint8_t)open);
    ap_put_space(c, bracket, first);
    ap_grammar_bytes(g, bracket, to, (uint8_t)close, (uint8_t)close);
    ap_grammar_call(g, first, behind, element, 1, 1);
    ap_grammar_bytes(g, behind, comma, ',', ',');
    ap_put_space(c, comma, first);
    ap_put_space(c, behind, last);
    ap_grammar_bytes(g, last, to, (uint8_t)close, (uint8_t)close);
}

int32_t ap_rule_any_object(ap_schemas *c)
{
    int32_t start, end, member, at = c->g->at;
    if (c->any_object >= 0 || !begin_rule(c, &c->any_object, &start, &end)) return c->any_object;
    int32_t rule = c->any_object, member_start, member_end;
    if (begin_rule(c, &member, &member_start, &member_end)) {
        int32_t key = ap_grammar_state(c->g), colon = ap_grammar_state(c->g);
        put_any_key(c, member_start, key);
        ap_put_colon(c, key, colon);
        ap_grammar_call(c->g, colon, member_end, ap_rule_any(c), 1, 1);
        c->g->at = rule;
        put_list(c, '{', '}', member, start, end);
    }
    c->g->at = at;
    return rule;
}

int32_t ap_rule_any_array(ap_schemas *c)
{
    int32_t start, end, at = c->g->at;
    if (c->any_array >= 0 || !begin_rule(c, &c->any_array, &start, &end)) return c->any_array;
    put_list(c, '[', ']', ap_rule_any(c), start, end);
    c->g->at = at;
    return c->any_array;
}

int32_t ap_rule_any(ap_schemas *c)
{
    int32_t start, end, at = c->g->at;
    if (c->any >= 0 || !begin_rule(c, &c->any, &start, &end)) return c->any;
    ap_grammar *g = c->g;
    ap_grammar_text(g, start, end, "null", 4);
    ap_grammar_text(g, start, end, "true", 4);
    ap_grammar_text(g, start, end, "false", 5);
    ap_grammar_call(g, start, end, ap_rule_string(c), 1, 1);
    ap_grammar_call(g, start, end, number_rule(c, false), 1, 1);
    ap_grammar_call(g, start, end, ap_rule_any_object(c), 1, 1);
    ap_grammar_call(g, start, end, ap_rule_any_array(c), 1, 1);
    g->at = at;
    return c->any;
}

/* ---------------------------------------------------------------- a clause */

static bool says(const ap_clause *x, const char *const *keys)
{
    for (int i = 0; i < x->n; i++)
        for (int k = 0; keys[k]; k++)
            if (ap_json_get(x->part[i], keys[k])) return true;
    return false;
}

static void put_number(ap_schemas *c, const ap_meaning *m, int32_t from, int32_t to)
{
    const ap_number_range *r = &m->number;
    ap_number_range whole = *r;
    whole.integer = true;
    if (!(m->types & AP_IS_FRACTION) && !(m->types & AP_IS_INTEGER)) return;
    if (!r->has_lo && !r->has_hi && !r->multiple)
        ap_grammar_call(c->g, from, to, number_rule(c, r->integer), 1, 1);
    else
        ap_number_put(m->types & AP_IS_FRACTION ? r : &whole, c->g, from, to);
}

static apus_err put_objects(ap_schemas *c, const ap_clause *x, const ap_meaning *m, int32_t from,
                            int32_t to)
{
    static const char *const keys[] = {
        "properties",    "required", "additionalProperties", "patternProperties", "minProperties",
        "maxProperties", NULL};
    if (says(x, keys)) return ap_put_object(c, x, m, from, to);
    ap_grammar_call(c->g, from, to, ap_rule_any_object(c), 1, 1);
    return APUS_OK;
}

static apus_err put_arrays(ap_schemas *c, const ap_clause *x, const ap_meaning *m, int32_t from,
                           int32_t to)
{
    static const char *const keys[] = {
        "items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems", NULL};
    if (says(x, keys)) return ap_put_array(c, x, m, from, to);
    ap_grammar_call(c->g, from, to, ap_rule_any_array(c), 1, 1);
    return APUS_OK;
}

static apus_err put_clause(ap_schemas *c, const ap_clause *x, int32_t from, int32_t to)
{
    ap_meaning m;
    apus_err err = ap_schema_mean(c, x, &m);
    if (err) return err;
    if (!x->n) {
        ap_grammar_call(c->g, from, to, ap_rule_any(c), 1, 1);
        return APUS_OK;
    }
    if (m.n_values) return ap_put_values(c, x, &m, from, to);
    if (m.types & AP_IS_NULL) ap_grammar_text(c->g, from, to, "null", 4);
    if (m.types & AP_IS_BOOL) ap_grammar_text(c->g, from, to, "true", 4);
    if (m.types & AP_IS_BOOL) ap_grammar_text(c->g, from, to, "false", 5);
    put_number(c, &m, from, to);
    if (m.types & AP_IS_STRING) err = ap_put_strings(c, x, &m, from, to);
    if (!err && m.types & AP_IS_OBJECT) err = put_objects(c, x, &m, from, to);
    if (!err && m.types & AP_IS_ARRAY) err = put_arrays(c, x, &m, from, to);
    return err;
}

/* ---------------------------------------------------------------- rules of conjunctions */

static int compare(const void *a, const void *b)
{
    uintptr_t x = (uintptr_t) * (const ap_json *const *)a,
              y = (uintptr_t) * (const ap_json *const *)b;
    return (x > y) - (x < y);
}

apus_err ap_schema_rule(ap_schemas *c, const ap_json *const *part, int n, int32_t *rule)
{
    const ap_json *key[AP_CLAUSE_PARTS];
    uint64_t h = 0;
    if (n) memcpy(key, part, (size_t)n * sizeof *key);
    qsort(key, (size_t)n, sizeof *key, compare);
    for (int i = 0; i < n; i++) h = (h ^ (uintptr_t)key[i]) * UINT64_C(0x9E3779B97F4A7C15);
    int32_t *at = &c->bucket[(h >> 40) % 1024];
    for (int32_t i = *at; i >= 0; i = c->made[i].next)
        if (c->made[i].n == n && (!n || !memcmp(c->made[i].part, key, (size_t)n * sizeof *key))) {
            *rule = c->made[i].rule;
            return APUS_OK;
        }
    const ap_json **copy = ap_malloc((size_t)n, sizeof *copy);
    if (!copy || !ap_vec_reserve(&c->made, &c->made_cap, c->n_made + 1, sizeof *c->made)) {
        ap_free(copy);
        return ap_fail_nomem(c->diag, sizeof *c->made, "a schema");
    }
    if (n) memcpy(copy, key, (size_t)n * sizeof *key);
    *rule = ap_grammar_rule(c->g, NULL, 0);
    c->made[c->n_made] = (struct ap_made){copy, n, *rule, *at};
    *at = (int32_t)c->n_made++;
    return APUS_OK;
}

static apus_err complete(ap_schemas *c, const struct ap_made *made)
{
    ap_grammar *g = c->g;
    ap_clauses list;
    struct ap_made x = *made; /* more are added to the list meanwhile */
    apus_err err = ap_schema_flatten(c, x.part, x.n, &list);
    if (err || g->full || g->failed) {
        if (!err) ap_clauses_free(&list);
        return err;
    }
    g->at = x.rule;
    for (int i = 0; i < list.n && !err; i++)
        err = put_clause(c, list.v[i], g->rule[x.rule].start, g->rule[x.rule].end);
    ap_clauses_free(&list);
    return err;
}

ap_schemas *ap_schemas_open(ap_grammar *g, int32_t quote, apus_diag *diag)
{
    ap_schemas *c = ap_calloc(1, sizeof *c);
    if (!c) {
        ap_fail_nomem(diag, sizeof *c, "a schema");
        return NULL;
    }
    *c = (ap_schemas){.g = g,
                      .diag = diag,
                      .where = "schema",
                      .quote = quote,
                      .any = -1,
                      .any_object = -1,
                      .any_array = -1,
                      .string = -1,
                      .number = -1,
                      .integer = -1,
                      .one_char = -1,
                      .indent = -1};
    memset(c->bucket, 0xff, sizeof c->bucket);
    return c;
}

void ap_schemas_free(ap_schemas *c)
{
    if (!c) return;
    for (size_t i = 0; i < c->n_made; i++) ap_free(c->made[i].part);
    ap_free(c->made);
    ap_free(c);
}

apus_err ap_schemas_rule(ap_schemas *c, const ap_json *root, const ap_json *schema,
                         const char *where, int32_t *rule)
{
    c->root = root;
    c->where = where;
    if (schema->type == AP_JSON_BOOL && schema->boolean) {
        *rule = ap_rule_any(c);
        return APUS_OK;
    }
    apus_err err = ap_schema_rule(c, &schema, 1, rule);
    return err ? err : ap_schemas_complete(c);
}

int32_t ap_schemas_object(ap_schemas *c)
{
    return ap_rule_any_object(c);
}

apus_err ap_schemas_complete(ap_schemas *c)
{
    apus_err err = APUS_OK;
    for (; c->done < c->n_made && !err && !c->g->full && !c->g->failed; c->done++)
        err = complete(c, &c->made[c->done]);
    if (err) { /* what is not complete is of no use to others */
        c->done = c->n_made;
        memset(c->bucket, 0xff, sizeof c->bucket);
    }
    return err;
}

apus_err ap_schemas_parameters(ap_schemas *c, const ap_json *schema, const char *where,
                               int32_t *rule)
{
    ap_grammar *g = c->g;
    ap_clauses list = {0};
    c->root = schema;
    c->where = where;
    apus_err err = ap_schema_flatten(c, &schema, 1, &list);
    if (!err && list.n > 1)
        err = ap_schema_wrong(c, APUS_EUNSUPPORTED, schema, NULL,
                              "anyOf and oneOf of all parameters");
    int32_t at = g->at;
    *rule = err ? 0 : ap_grammar_rule(g, NULL, 0);
    g->at = *rule;
    for (int i = 0; i < list.n && !err && !g->full && !g->failed; i++)
        err = ap_put_parameters(c, list.v[i], g->rule[*rule].start, g->rule[*rule].end);
    g->at = at;
    ap_clauses_free(&list);
    return err ? err : ap_schemas_complete(c);
}

/* ---------------------------------------------------------------- whole grammars */

apus_err ap_json_schema_parse(const char *text, size_t len, ap_grammar *g, apus_diag *diag)
{
    ap_arena arena;
    ap_json *root;
    int32_t rule = 0;
    ap_arena_init(&arena, (size_t)256 << 20);
    apus_err err = ap_json_parse(&arena, text, len, "schema", 0, &root, diag);
    ap_schemas *c = err ? NULL : ap_schemas_open(g, -1, diag);
    if (!err && !c) err = APUS_ENOMEM;
    if (!err) err = ap_schemas_rule(c, root, root, "schema", &rule);
    ap_schemas_free(c);
    ap_arena_free(&arena);
    if (err) return err;
    g->root = rule;
    return ap_grammar_finish(g, "schema", diag);
}

apus_err ap_json_object_grammar(ap_grammar *g, apus_diag *diag)
{
    ap_schemas *c = ap_schemas_open(g, -1, diag);
    if (!c) return APUS_ENOMEM;
    g->root = ap_rule_any_object(c);
    ap_schemas_free(c);
    return ap_grammar_finish(g, "JSON", diag);
}
