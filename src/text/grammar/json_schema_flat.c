/* json_schema_flat.c - conjunctions of schemas to clauses: references, allOf, anyOf, oneOf. */
#include <string.h>

#include "base/mem.h"
#include "text/grammar/json_schema_impl.h"

enum { MOST_DISJOINT = 4 };

void ap_clauses_free(ap_clauses *l)
{
    for (int i = 0; i < l->n; i++) ap_free(l->v[i]);
    ap_free(l->v);
    *l = (ap_clauses){0};
}

/* ---------------------------------------------------------------- keywords */

/* Keywords that say something; those that say nothing of a document; those that are known and not supported. */
static const char *const meant[] = {"type",
                                    "enum",
                                    "const",
                                    "properties",
                                    "required",
                                    "additionalProperties",
                                    "patternProperties",
                                    "minProperties",
                                    "maxProperties",
                                    "items",
                                    "prefixItems",
                                    "additionalItems",
                                    "minItems",
                                    "maxItems",
                                    "minLength",
                                    "maxLength",
                                    "pattern",
                                    "format",
                                    "minimum",
                                    "maximum",
                                    "exclusiveMinimum",
                                    "exclusiveMaximum",
                                    "multipleOf",
                                    "allOf",
                                    "anyOf",
                                    "oneOf",
                                    "$ref",
                                    "nullable",
                                    "uniqueItems"};
static const char *const notes[] = {"title",
                                    "description",
                                    "default",
                                    "examples",
                                    "example",
                                    "deprecated",
                                    "readOnly",
                                    "writeOnly",
                                    "$schema",
                                    "$id",
                                    "id",
                                    "$comment",
                                    "$anchor",
                                    "$defs",
                                    "definitions",
                                    "discriminator",
                                    "contentMediaType",
                                    "contentEncoding",
                                    "externalDocs",
                                    "xml",
                                    "strict",
                                    "$vocabulary",
                                    "propertyOrdering"};

static bool among(const char *const *list, size_t n, const char *key, size_t len)
{
    for (size_t i = 0; i < n; i++)
        if (strlen(list[i]) == len && !memcmp(list[i], key, len)) return true;
    return false;
}

static apus_err check_keys(const ap_schemas *c, const ap_json *schema)
{
    for (const ap_json *k = schema->first; k; k = k->next) {
        if (among(meant, sizeof meant / sizeof *meant, k->key, k->key_len) ||
            among(notes, sizeof notes / sizeof *notes, k->key, k->key_len) ||
            (k->key_len > 2 && !memcmp(k->key, "x-", 2)))
            continue;
        return ap_schema_wrong(c, APUS_EUNSUPPORTED, schema, k->key,
                               "this keyword is not supported");
    }
    return APUS_OK;
}

/* ---------------------------------------------------------------- references */

static int hex(char ch)
{
    if (ch >= '0' && ch <= '9') return ch - '0';
    if (ch >= 'a' && ch <= 'f') return ch - 'a' + 10;
    return ch >= 'A' && ch <= 'F' ? ch - 'A' + 10 : -1;
}

/* One name of a pointer, unescaped: up to the next '/' or the end. Returns what follows. */
static const char *read_name(const char *s, char *out, size_t cap, size_t *len)
{
    size_t n = 0;
    for (; *s && *s != '/'; s++) {
        char ch = *s;
        if (ch == '%' && hex(s[1]) >= 0 && hex(s[2]) >= 0) {
            ch = (char)(hex(s[1]) * 16 + hex(s[2]));
            s += 2;
        }
        if (ch == '~' && (s[1] == '0' || s[1] == '1')) ch = *++s == '0' ? '~' : '/';
        if (n + 1 < cap) out[n++] = ch;
    }
    out[n] = 0;
    *len = n;
    return s;
}

static const ap_json *step(const ap_json *at, const char *name, size_t len)
{
    if (at->type == AP_JSON_OBJECT) {
        const ap_json *found = NULL;
        for (const ap_json *k = at->first; k; k = k->next)
            if (k->key_len == len && !memcmp(k->key, name, len)) found = k;
        return found;
    }
    int64_t i;
    if (at->type == AP_JSON_ARRAY && ap_json_int(name, len, &i) && i >= 0)
        return ap_json_at(at, (size_t)i);
    return NULL;
}

static apus_err resolve(const ap_schemas *c, const ap_json *schema, const ap_json *ref,
                        const ap_json **out)
{
    const ap_json *at = c->root, *id = ap_json_get(c->root, "$id");
    char name[1024];
    size_t len;
    if (ref->type != AP_JSON_STRING)
        return ap_schema_wrong(c, APUS_EFORMAT, schema, "$ref", "expected a string");
    const char *s = ref->str;
    if (id && id->type == AP_JSON_STRING && id->len && !strncmp(s, id->str, id->len)) s += id->len;
    if (*s != '#' || (s[1] && s[1] != '/'))
        return ap_schema_wrong(
            c, APUS_EUNSUPPORTED, schema, "$ref",
            "only places in the schema itself, #/..., are supported, found %.120s", ref->str);
    for (s++; *s == '/' && at;) {
        s = read_name(s + 1, name, sizeof name, &len);
        at = step(at, name, len);
    }
    if (!at || (at->type != AP_JSON_OBJECT && at->type != AP_JSON_BOOL))
        return ap_schema_wrong(c, APUS_EFORMAT, schema, "$ref", "there is no schema at %.120s",
                               ref->str);
    *out = at;
    return APUS_OK;
}

/* ---------------------------------------------------------------- all of them at once */

/* Add a schema to a clause, unless it is there. from: the part that asks for it. */
static apus_err add(const ap_schemas *c, ap_clause *x, const ap_json *schema, int from)
{
    if (schema->type == AP_JSON_BOOL) {
        x->never = x->never || !schema->boolean;
        return APUS_OK;
    }
    if (schema->type != AP_JSON_OBJECT)
        return ap_schema_wrong(c, APUS_EFORMAT, schema, NULL, "expected an object or a boolean");
    for (int i = from; i >= 0; i = x->from[i])
        if (x->part[i] == schema)
            return ap_schema_wrong(c, APUS_EFORMAT, schema, NULL,
                                   "a schema that is nothing but itself ($ref without end)");
    for (int i = 0; i < x->n; i++)
        if (x->part[i] == schema) return APUS_OK;
    if (x->n == AP_CLAUSE_PARTS)
        return ap_schema_wrong(c, APUS_EUNSUPPORTED, schema, NULL,
                               "more than %d schemas (allOf, $ref) that hold at once",
                               AP_CLAUSE_PARTS);
    x->part[x->n] = schema;
    x->from[x->n++] = (int16_t)from;
    return APUS_OK;
}

static apus_err check_list(const ap_schemas *c, const ap_json *schema, const char *key,
                           const ap_json *list)
{
    if (list && (list->type != AP_JSON_ARRAY || !list->first))
        return ap_schema_wrong(c, APUS_EFORMAT, schema, key, "expected a list of schemas");
    return APUS_OK;
}

/* Follow $ref and allOf of the parts from `begin` on. */
static apus_err complete(const ap_schemas *c, ap_clause *x, int begin)
{
    for (int i = begin; i < x->n; i++) {
        const ap_json *schema = x->part[i], *ref = ap_json_get(schema, "$ref"), *target;
        const ap_json *all = ap_json_get(schema, "allOf");
        apus_err err = check_keys(c, schema);
        if (!err && ref) err = resolve(c, schema, ref, &target);
        if (!err && ref) err = add(c, x, target, i);
        if (!err) err = check_list(c, schema, "allOf", all);
        for (const ap_json *s = all ? all->first : NULL; s && !err; s = s->next)
            err = add(c, x, s, i);
        if (err) return err;
    }
    return APUS_OK;
}

/* ---------------------------------------------------------------- one of several */

static bool was_chosen(const ap_clause *x, const ap_json *list)
{
    for (int i = 0; i < x->n_chosen; i++)
        if (x->chosen[i] == list) return true;
    return false;
}

/* The first anyOf or oneOf that is not decided; NULL: none. */
static const ap_json *open_choice(const ap_clause *x, int *at, const char **key)
{
    static const char *const keys[] = {"anyOf", "oneOf"};
    for (int i = 0; i < x->n; i++)
        for (int k = 0; k < 2; k++) {
            const ap_json *list = ap_json_get(x->part[i], keys[k]);
            if (!list || was_chosen(x, list)) continue;
            *at = i;
            *key = keys[k];
            return list;
        }
    return NULL;
}

static apus_err keep(const ap_schemas *c, const ap_clause *x, ap_clauses *out)
{
    if (x->never) return APUS_OK;
    if (out->n == AP_MOST_CLAUSES)
        return ap_schema_wrong(c, APUS_EUNSUPPORTED, x->n ? x->part[0] : c->root, NULL,
                               "more than %d combinations of anyOf and oneOf", AP_MOST_CLAUSES);
    ap_clause **grown = ap_realloc(out->v, (size_t)out->n + 1, sizeof *grown);
    if (!grown) return ap_fail_nomem(c->diag, sizeof *x, "a schema");
    out->v = grown;
    out->v[out->n] = ap_malloc(1, sizeof *x);
    if (!out->v[out->n]) return ap_fail_nomem(c->diag, sizeof *x, "a schema");
    *out->v[out->n++] = *x;
    return APUS_OK;
}

static apus_err check_one_of(ap_schemas *c, const ap_clause *x, const ap_json *schema,
                             const ap_json *list);

/* Clauses still to be split, on a stack of their own: each may hold as many choices as it has parts. */
typedef struct stack {
    ap_clause *v;
    int n, cap;
} stack;

static apus_err push(const ap_schemas *c, stack *s, const ap_clause *x)
{
    if (s->n == s->cap) {
        int cap = s->cap ? s->cap * 2 : 8;
        ap_clause *grown =
            cap > 4 * AP_MOST_CLAUSES ? NULL : ap_realloc(s->v, (size_t)cap, sizeof *grown);
        if (!grown) return ap_fail_nomem(c->diag, (size_t)cap * sizeof *x, "a schema");
        s->v = grown;
        s->cap = cap;
    }
    s->v[s->n++] = *x;
    return APUS_OK;
}

/* One clause for each alternative of a choice; the first is to be on top of the stack. */
static apus_err split(ap_schemas *c, stack *s, const ap_clause *x, const ap_json *list, int at,
                      const char *key)
{
    apus_err err = check_list(c, x->part[at], key, list);
    if (!err && !strcmp(key, "oneOf")) err = check_one_of(c, x, x->part[at], list);
    if (!err && list->len > AP_MOST_CLAUSES)
        return ap_schema_wrong(c, APUS_EUNSUPPORTED, x->part[at], key, "more than %d alternatives",
                               AP_MOST_CLAUSES);
    for (size_t i = err ? 0 : list->len; i-- > 0 && !err;) {
        ap_clause y = *x;
        if (y.n_chosen == AP_CLAUSE_PARTS)
            return ap_schema_wrong(c, APUS_EUNSUPPORTED, x->part[at], key,
                                   "more than %d choices that hold at once", AP_CLAUSE_PARTS);
        y.chosen[y.n_chosen++] = list;
        int begin = y.n;
        err = add(c, &y, ap_json_at(list, i), at);
        if (!err) err = complete(c, &y, begin);
        if (!err && !y.never) err = push(c, s, &y);
    }
    return err;
}

apus_err ap_schema_flatten(ap_schemas *c, const ap_json *const *part, int n, ap_clauses *out)
{
    stack s = {0};
    ap_clause x = {.n = 0};
    apus_err err = APUS_OK;
    *out = (ap_clauses){0};
    for (int i = 0; i < n && !err; i++) err = add(c, &x, part[i], -1);
    if (!err) err = complete(c, &x, 0);
    if (!err) err = push(c, &s, &x);
    while (s.n && !err) {
        int at;
        const char *key;
        x = s.v[--s.n];
        const ap_json *list = open_choice(&x, &at, &key);
        err = list ? split(c, &s, &x, list, at, key) : keep(c, &x, out);
    }
    ap_free(s.v);
    if (err) ap_clauses_free(out);
    return err;
}

/* ---------------------------------------------------------------- do two exclude each other? */

static bool disjoint(ap_schemas *c, const ap_json *a, const ap_json *b);

static bool is_required(const ap_clause *x, const char *key, size_t len)
{
    for (int i = 0; i < x->n; i++) {
        const ap_json *list = ap_json_get(x->part[i], "required");
        for (const ap_json *k = list && list->type == AP_JSON_ARRAY ? list->first : NULL; k;
             k = k->next)
            if (k->type == AP_JSON_STRING && k->len == len && !memcmp(k->str, key, len))
                return true;
    }
    return false;
}

/* Do values that both allow differ in a property that both require? */
static bool tell_apart(ap_schemas *c, const ap_clause *a, const ap_clause *b)
{
    for (int i = 0; i < a->n; i++) {
        const ap_json *props = ap_json_get(a->part[i], "properties");
        for (const ap_json *p = props && props->type == AP_JSON_OBJECT ? props->first : NULL; p;
             p = p->next) {
            if (!is_required(a, p->key, p->key_len) || !is_required(b, p->key, p->key_len))
                continue;
            for (int j = 0; j < b->n; j++) {
                const ap_json *others = ap_json_get(b->part[j], "properties");
                const ap_json *q = others ? step(others, p->key, p->key_len) : NULL;
                if (q && disjoint(c, p, q)) return true;
            }
        }
    }
    return false;
}

/* Does a list of values (or a single one) have none that is among the others? */
static bool no_value_in(const ap_json *list, bool single, const ap_meaning *m)
{
    for (const ap_json *v = single ? list : list->first; v; v = single ? NULL : v->next) {
        bool in_all = true;
        for (int i = 0; i < m->n_values && in_all; i++) {
            bool in = false;
            const ap_json *w = m->single[i] ? m->values[i] : m->values[i]->first;
            for (; w && !in; w = m->single[i] ? NULL : w->next) in = ap_json_same(v, w);
            in_all = in;
        }
        if (in_all && (ap_json_type_of(v) & m->types)) return false;
    }
    return true;
}

static bool clauses_disjoint(ap_schemas *c, const ap_clause *a, const ap_clause *b)
{
    ap_meaning x, y;
    if (ap_schema_mean(c, a, &x) || ap_schema_mean(c, b, &y)) return false;
    if (!(x.types & y.types)) return true;
    for (int i = 0; i < x.n_values; i++)
        if (no_value_in(x.values[i], x.single[i], &y)) return true;
    for (int i = 0; i < y.n_values; i++)
        if (no_value_in(y.values[i], y.single[i], &x)) return true;
    bool objects = !((x.types & y.types) & ~(unsigned)AP_IS_OBJECT);
    return objects && tell_apart(c, a, b);
}

static bool disjoint(ap_schemas *c, const ap_json *a, const ap_json *b)
{
    ap_clauses x = {0}, y = {0};
    apus_diag *diag = c->diag;
    if (c->disjoint >= MOST_DISJOINT) return false;
    c->disjoint++;
    c->diag = NULL; /* errors are told when the schemas are compiled */
    bool ok = !ap_schema_flatten(c, &a, 1, &x) && !ap_schema_flatten(c, &b, 1, &y);
    for (int i = 0; i < x.n && ok; i++)
        for (int j = 0; j < y.n && ok; j++) ok = clauses_disjoint(c, x.v[i], y.v[j]);
    ap_clauses_free(&x);
    ap_clauses_free(&y);
    c->diag = diag;
    c->disjoint--;
    return ok;
}

/* Exactly one of a oneOf holds if no two can. */
static apus_err check_one_of(ap_schemas *c, const ap_clause *x, const ap_json *schema,
                             const ap_json *list)
{
    size_t i = 0;
    (void)x;
    if (list->len > 64)
        return ap_schema_wrong(c, APUS_EUNSUPPORTED, schema, "oneOf", "more than 64 alternatives");
    for (const ap_json *a = list->first; a; a = a->next, i++) {
        size_t j = i + 1;
        for (const ap_json *b = a->next; b; b = b->next, j++)
            if (!disjoint(c, a, b))
                return ap_schema_wrong(c, APUS_EUNSUPPORTED, schema, "oneOf",
                                       "alternatives %zu and %zu may both hold (nothing tells them "
                                       "apart by type, const, enum or "
                                       "a required property); anyOf is supported",
                                       i, j);
    }
    return APUS_OK;
}
