/* json_schema_object.c - objects and arrays of a clause. */
#include <string.h>

#include "base/mem.h"
#include "text/grammar/json_schema_impl.h"
#include "text/grammar/pattern.h"
#include "text/vec.h"

enum { MOST_PROPERTIES = 5000, MOST_KINDS = 32, MOST_COUNTED = 20000 };

/* Schemas that hold for one value. */
typedef struct schemas {
    const ap_json *v[AP_CLAUSE_PARTS];
    int n;
    bool never;
} schemas;

static void add_schema(schemas *l, const ap_json *s)
{
    if (s->type == AP_JSON_BOOL) {
        l->never = l->never || !s->boolean;
        return;
    }
    for (int i = 0; i < l->n; i++)
        if (l->v[i] == s) return;
    if (l->n < AP_CLAUSE_PARTS) l->v[l->n++] = s;
}

/* ---------------------------------------------------------------- which properties there are */

typedef struct property {
    const char *key;
    size_t len;
    bool required;
} property;

typedef struct object {
    ap_schemas *c;
    const ap_clause *x;
    property *prop;
    size_t n, cap;
    bool closed; /* other properties may not come */
    struct pattern {
        const ap_json *schema, *value; /* the part that has it, and what its properties are */
        ap_char_dfa keys;
    } * pattern;
    size_t n_pattern, pattern_cap;
} object;

static const ap_json *member(const ap_json *o, const char *key, size_t len)
{
    for (const ap_json *k = o && o->type == AP_JSON_OBJECT ? o->first : NULL; k; k = k->next)
        if (k->key_len == len && !memcmp(k->key, key, len)) return k;
    return NULL;
}

static apus_err add_property(object *o, const ap_json *schema, const char *key, size_t len,
                             bool required)
{
    for (size_t i = 0; i < o->n; i++)
        if (o->prop[i].len == len && !memcmp(o->prop[i].key, key, len)) {
            o->prop[i].required = o->prop[i].required || required;
            return APUS_OK;
        }
    if (o->n == MOST_PROPERTIES)
        return ap_schema_wrong(o->c, APUS_EUNSUPPORTED, schema, "properties",
                               "more than %d of them", MOST_PROPERTIES);
    if (!ap_vec_reserve(&o->prop, &o->cap, o->n + 1, sizeof *o->prop))
        return ap_fail_nomem(o->c->diag, sizeof *o->prop, "a schema");
    o->prop[o->n++] = (property){key, len, required};
    return APUS_OK;
}

static apus_err want(const ap_schemas *c, const ap_json *schema, const char *key, ap_json_type type,
                     const char *what)
{
    const ap_json *v = ap_json_get(schema, key);
    if (!v || v->type == type) return APUS_OK;
    return ap_schema_wrong(c, APUS_EFORMAT, schema, key, "expected %s", what);
}

static apus_err add_pattern(object *o, const ap_json *schema, const ap_json *value)
{
    apus_diag why;
    if (!ap_vec_reserve(&o->pattern, &o->pattern_cap, o->n_pattern + 1, sizeof *o->pattern))
        return ap_fail_nomem(o->c->diag, sizeof *o->pattern, "a schema");
    struct pattern *p = &o->pattern[o->n_pattern++];
    *p = (struct pattern){.schema = schema, .value = value};
    apus_err err = ap_pattern_read(value->key, value->key_len, "", &p->keys, &why);
    if (!err) return APUS_OK;
    return ap_schema_wrong(o->c, err, schema, "patternProperties", "%s",
                           !strncmp(why.text, ": ", 2) ? why.text + 2 : why.text);
}

/* Properties in the order in which the schemas name them; required ones that none describes follow. */
static apus_err gather(object *o)
{
    bool names = false, opens = false;
    apus_err err = APUS_OK;
    for (int i = 0; i < o->x->n && !err; i++) {
        const ap_json *s = o->x->part[i], *props = ap_json_get(s, "properties");
        const ap_json *patterns = ap_json_get(s, "patternProperties");
        const ap_json *more = ap_json_get(s, "additionalProperties");
        err = want(o->c, s, "properties", AP_JSON_OBJECT, "an object");
        if (!err) err = want(o->c, s, "patternProperties", AP_JSON_OBJECT, "an object");
        if (!err) err = want(o->c, s, "required", AP_JSON_ARRAY, "a list of names");
        for (const ap_json *p = props ? props->first : NULL; p && !err; p = p->next)
            err = add_property(o, s, p->key, p->key_len, false);
        for (const ap_json *p = patterns ? patterns->first : NULL; p && !err; p = p->next)
            err = add_pattern(o, s, p);
        names = names || props || patterns;
        opens = opens || more;
    }
    for (int i = 0; i < o->x->n && !err; i++) {
        const ap_json *list = ap_json_get(o->x->part[i], "required");
        for (const ap_json *k = list ? list->first : NULL; k && !err; k = k->next) {
            if (k->type != AP_JSON_STRING)
                err = want(o->c, o->x->part[i], "required", AP_JSON_NULL, "a list of names");
            else
                err = add_property(o, o->x->part[i], k->str, k->len, true);
        }
    }
    o->closed = names && !opens;
    return err;
}

/* ---------------------------------------------------------------- what they are */

/* What the clause's schemas say of one property. */
static apus_err schemas_of(const object *o, const property *p, schemas *out)
{
    *out = (schemas){.n = 0};
    for (int i = 0; i < o->x->n; i++) {
        const ap_json *s = o->x->part[i];
        const ap_json *here = member(ap_json_get(s, "properties"), p->key, p->len);
        const ap_json *more = ap_json_get(s, "additionalProperties");
        bool known = here != NULL;
        if (here) add_schema(out, here);
        for (size_t k = 0; k < o->n_pattern; k++) {
            if (o->pattern[k].schema != s) continue;
            if (!ap_char_dfa_accepts(&o->pattern[k].keys, p->key, p->len)) continue;
            add_schema(out, o->pattern[k].value);
            known = true;
        }
        if (!known && more) add_schema(out, more);
    }
    return APUS_OK;
}

/* Names of other properties that the same schemas hold for. */
typedef struct kind {
    ap_char_dfa keys;
    schemas value;
    bool known; /* by a pattern of the schema that is looked at */
} kind;

typedef struct kinds {
    kind v[MOST_KINDS];
    int n;
} kinds;

static void free_kinds(kinds *l)
{
    for (int i = 0; i < l->n; i++) ap_char_dfa_free(&l->v[i].keys);
    l->n = 0;
}

static apus_err too_many(const object *o, const ap_json *schema)
{
    return ap_schema_wrong(o->c, APUS_EUNSUPPORTED, schema, "patternProperties",
                           "its patterns overlap in too many ways");
}

/* Cut each kind into the names that match a pattern and those that don't. */
static apus_err cut_kinds(const object *o, const struct pattern *p, kinds *l)
{
    ap_char_dfa others = {0};
    apus_err err = APUS_OK;
    ap_char_dfa_others(&p->keys, &others);
    for (int i = 0, n = l->n; i < n && !err; i++) {
        ap_char_dfa in = {0}, out = {0};
        ap_char_dfa_both(&l->v[i].keys, &p->keys, &in);
        ap_char_dfa_both(&l->v[i].keys, &others, &out);
        bool bad = in.full || out.full || in.failed || out.failed || l->n == MOST_KINDS;
        if (bad || ap_char_dfa_empty(&in)) {
            if (bad) err = too_many(o, p->schema);
            ap_char_dfa_free(&in);
            ap_char_dfa_free(&out);
            continue;
        }
        kind *more = &l->v[l->n++];
        *more = (kind){.keys = in, .value = l->v[i].value, .known = true};
        add_schema(&more->value, p->value);
        ap_char_dfa_free(&l->v[i].keys);
        l->v[i].keys = out;
    }
    ap_char_dfa_free(&others);
    return err;
}

/* The kinds of properties that none of the clause's schemas names. */
static apus_err find_kinds(const object *o, kinds *l)
{
    ap_char_dfa named = {0};
    const char **text = ap_malloc(o->n, sizeof *text);
    size_t *len = ap_malloc(o->n, sizeof *len);
    for (size_t i = 0; i < o->n && text && len; i++) {
        text[i] = o->prop[i].key;
        len[i] = o->prop[i].len;
    }
    l->n = 1;
    l->v[0] = (kind){.known = false};
    if (text && len) ap_char_dfa_texts(text, len, o->n, &named);
    ap_char_dfa_others(&named, &l->v[0].keys);
    bool ok = text && len && !l->v[0].keys.failed;
    ap_char_dfa_free(&named);
    ap_free(text);
    ap_free(len);
    if (!ok) return ap_fail_nomem(o->c->diag, o->n * sizeof *len, "a schema");
    if (l->v[0].keys.full)
        return ap_schema_wrong(o->c, APUS_EUNSUPPORTED, o->x->part[0], "additionalProperties",
                               "the names of properties are too many to tell others apart from");
    apus_err err = APUS_OK;
    for (int i = 0; i < o->x->n && !err; i++) {
        const ap_json *s = o->x->part[i], *more = ap_json_get(s, "additionalProperties");
        for (int k = 0; k < l->n; k++) l->v[k].known = false;
        for (size_t k = 0; k < o->n_pattern && !err; k++)
            if (o->pattern[k].schema == s) err = cut_kinds(o, &o->pattern[k], l);
        for (int k = 0; k < l->n && more; k++)
            if (!l->v[k].known) add_schema(&l->v[k].value, more);
    }
    if (o->closed) l->v[0].value.never = true; /* those that no pattern matches */
    return err;
}

/* ---------------------------------------------------------------- as a grammar */

/* "key": value, where the key is between key and its colon already. */
static apus_err put_member(object *o, const schemas *value, int32_t key, int32_t to)
{
    int32_t rule, colon = ap_grammar_state(o->c->g);
    apus_err err = ap_schema_rule(o->c, value->v, value->n, &rule);
    ap_put_colon(o->c, key, colon);
    if (!err) ap_grammar_call(o->c->g, colon, to, rule, 1, 1);
    return err;
}

/* A rule of one other property; -1: there is none. */
static apus_err others_rule(object *o, int32_t *rule)
{
    ap_grammar *g = o->c->g;
    kinds *l = ap_calloc(1, sizeof *l);
    *rule = -1;
    if (!l) return ap_fail_nomem(o->c->diag, sizeof *l, "a schema");
    apus_err err = find_kinds(o, l);
    int32_t at = g->at;
    for (int i = 0; i < l->n && !err; i++) {
        if (l->v[i].value.never) continue;
        if (*rule < 0) *rule = ap_grammar_rule(g, NULL, 0);
        if (g->full || g->failed) break;
        g->at = *rule;
        int32_t open = ap_grammar_state(g), close = ap_grammar_state(g), key = ap_grammar_state(g);
        ap_put_quote(o->c, g->rule[*rule].start, open);
        ap_char_dfa_put(&l->v[i].keys, ap_string_writing(o->c), g, open, close);
        ap_put_quote(o->c, close, key);
        err = put_member(o, &l->v[i].value, key, g->rule[*rule].end);
        g->at = at;
    }
    free_kinds(l);
    ap_free(l);
    return err;
}

/* A comma, white space, and what rule is. */
static int32_t behind_comma(ap_schemas *c, int32_t rule)
{
    ap_grammar *g = c->g;
    int32_t at = g->at, more = ap_grammar_rule(g, NULL, 0);
    if (g->full || g->failed) return more;
    g->at = more;
    int32_t comma = ap_grammar_state(g), space = ap_grammar_state(g);
    ap_grammar_bytes(g, g->rule[more].start, comma, ',', ',');
    ap_put_space(c, comma, space);
    ap_grammar_call(g, space, g->rule[more].end, rule, 1, 1);
    g->at = at;
    return more;
}

/* Others, behind `have` properties, so that all together are min to max (max -1: any number). */
static void put_others(ap_schemas *c, int32_t rule, int32_t more, int64_t have, int64_t min,
                       int64_t max, int32_t from, int32_t to)
{
    ap_grammar *g = c->g;
    int64_t least = min > have ? min - have : 0, most = max < 0 ? -1 : max - have;
    if (least > 1 && have + 1 < min) return; /* two others may have one name */
    if (least == 0) ap_grammar_empty(g, from, to);
    if (rule < 0 || most == 0 || g->full) return;
    if (have) {
        ap_grammar_call(g, from, to, more, least ? 1 : 0, (int32_t)most);
        return;
    }
    int32_t first = ap_grammar_state(g);
    ap_grammar_call(g, from, first, rule, 1, 1);
    ap_grammar_call(g, first, to, more, 0, most < 0 ? -1 : (int32_t)most - 1);
}

/* "key": value of one property. */
static apus_err put_property(object *o, const property *p, const schemas *value, int32_t from,
                             int32_t to)
{
    int32_t key = ap_grammar_state(o->c->g);
    ap_put_key(o->c, p->key, p->len, from, key);
    return put_member(o, value, key, to);
}

/* The properties in their order. Place (i, n): property i is next and n have come; more than `cap` are not told
 * apart. */
typedef struct places {
    int32_t *v; /* [properties + 1, cap + 1] states */
    int64_t cap, max;
} places;

static int32_t place(const places *l, size_t i, int64_t n)
{
    return l->v[i * (size_t)(l->cap + 1) + (size_t)(n < l->cap ? n : l->cap)];
}

static apus_err put_at(object *o, const places *l, size_t i, const schemas *value)
{
    ap_grammar *g = o->c->g;
    const property *p = &o->prop[i];
    apus_err err = APUS_OK;
    if (l->cap == 1 && l->max < 0) { /* the same place behind it, whatever came before */
        int32_t begin = ap_grammar_state(g), comma = ap_grammar_state(g);
        ap_grammar_empty(g, place(l, i, 0), begin);
        ap_grammar_bytes(g, place(l, i, 1), comma, ',', ',');
        ap_put_space(o->c, comma, begin);
        return put_property(o, p, value, begin, place(l, i + 1, 1));
    }
    int32_t at = g->at, rule = ap_grammar_rule(g, NULL, 0);
    if (g->full || g->failed) return APUS_OK;
    g->at = rule;
    err = put_property(o, p, value, g->rule[rule].start, g->rule[rule].end);
    g->at = at;
    int32_t more = behind_comma(o->c, rule);
    for (int64_t n = 0; n <= l->cap && !err; n++)
        if (l->max < 0 || n < l->max)
            ap_grammar_call(g, place(l, i, n), place(l, i + 1, n + 1), n ? more : rule, 1, 1);
    return err;
}

static apus_err put_properties(object *o, const places *l)
{
    apus_err err = APUS_OK;
    for (size_t i = 0; i < o->n && !err && !o->c->g->full; i++) {
        schemas value;
        for (int64_t n = 0; n <= l->cap && !o->prop[i].required; n++)
            ap_grammar_empty(o->c->g, place(l, i, n), place(l, i + 1, n));
        err = schemas_of(o, &o->prop[i], &value);
        /* a required one that can't be leaves nothing */
        if (!err && !value.never) err = put_at(o, l, i, &value);
    }
    return err;
}

static apus_err make_places(object *o, const ap_meaning *m, places *l)
{
    int64_t cap = m->min_properties > m->max_properties ? m->min_properties : m->max_properties;
    int64_t all = (int64_t)o->n + 1;
    *l = (places){.cap = cap < 1 ? 1 : cap > all ? all : cap, .max = m->max_properties};
    if (all * (l->cap + 1) > MOST_COUNTED)
        return ap_schema_wrong(
            o->c, APUS_EUNSUPPORTED, o->x->part[0], NULL,
            "minProperties or maxProperties of an object with so many properties");
    size_t n = (size_t)(all * (l->cap + 1));
    l->v = ap_malloc(n, sizeof *l->v);
    if (!l->v) return ap_fail_nomem(o->c->diag, n * sizeof *l->v, "a schema");
    for (size_t i = 0; i < n; i++) l->v[i] = ap_grammar_state(o->c->g);
    return APUS_OK;
}

static apus_err put_members(object *o, const ap_meaning *m, int32_t from, int32_t to)
{
    places l;
    int32_t others;
    apus_err err = make_places(o, m, &l);
    if (!err) ap_grammar_empty(o->c->g, from, place(&l, 0, 0));
    if (!err) err = put_properties(o, &l);
    if (!err) err = others_rule(o, &others);
    int32_t more = !err && others >= 0 ? behind_comma(o->c, others) : -1;
    for (int64_t n = 0; n <= l.cap && !err; n++)
        put_others(o->c, others, more, n, m->min_properties, m->max_properties, place(&l, o->n, n),
                   to);
    if (!err && m->min_properties > (int64_t)o->n + 1)
        err = ap_schema_wrong(o->c, APUS_EUNSUPPORTED, o->x->part[0], "minProperties",
                              "more than the schema names, and one besides: names must not repeat");
    ap_free(l.v);
    return err;
}

apus_err ap_put_object(ap_schemas *c, const ap_clause *x, const ap_meaning *m, int32_t from,
                       int32_t to)
{
    ap_grammar *g = c->g;
    object o = {.c = c, .x = x};
    int32_t brace = ap_grammar_state(g), begin = ap_grammar_state(g), last = ap_grammar_state(g);
    int32_t end = ap_grammar_state(g);
    apus_err err = gather(&o);
    ap_grammar_bytes(g, from, brace, '{', '{');
    ap_put_space(c, brace, begin);
    if (!err) err = put_members(&o, m, begin, last);
    ap_put_space(c, last, end);
    ap_grammar_bytes(g, end, to, '}', '}');
    for (size_t i = 0; i < o.n_pattern; i++) ap_char_dfa_free(&o.pattern[i].keys);
    ap_free(o.pattern);
    ap_free(o.prop);
    return err;
}

/* ---------------------------------------------------------------- parameters between tags */

/* Texts that don't hold `</parameter` nor are the word that stands for nothing. */
static void put_free_text(ap_schemas *c, const ap_char_dfa *within, int32_t from, int32_t to)
{
    static const char *const word[] = {"null"};
    ap_char_dfa tag = {0}, no_tag = {0}, null = {0}, no_null = {0}, free_text = {0}, all = {0};
    if (ap_pattern_read("</parameter", 11, "", &tag, NULL)) tag.failed = true;
    ap_char_dfa_others(&tag, &no_tag);
    ap_char_dfa_texts(word, &(size_t){4}, 1, &null);
    ap_char_dfa_others(&null, &no_null);
    ap_char_dfa_both(&no_tag, &no_null, &free_text);
    if (within->n_state) ap_char_dfa_both(&free_text, within, &all);
    ap_char_dfa_put(within->n_state ? &all : &free_text, AP_WRITE_PLAIN, c->g, from, to);
    ap_char_dfa *made[] = {&tag, &no_tag, &null, &no_null, &free_text, &all};
    for (size_t i = 0; i < sizeof made / sizeof *made; i++) ap_char_dfa_free(made[i]);
}

/* Strings of a clause, as they are. */
static apus_err put_bare(ap_schemas *c, const ap_clause *x, const ap_meaning *m, int32_t from,
                         int32_t to)
{
    ap_char_dfa d = {0}, some = {0}, both = {0};
    apus_err err = ap_schema_strings(c, x, m, true, &d);
    if (!err && m->n_values) {
        const char *text[256];
        size_t len[256], n = 0;
        const ap_json *v = m->single[0] ? m->values[0] : m->values[0]->first;
        for (; v && n < 256; v = m->single[0] ? NULL : v->next)
            if (v->type == AP_JSON_STRING) text[n] = v->str, len[n++] = v->len;
        ap_char_dfa_texts(text, len, n, &some);
        if (d.n_state) ap_char_dfa_both(&d, &some, &both);
    }
    if (!err) put_free_text(c, both.n_state ? &both : some.n_state ? &some : &d, from, to);
    ap_char_dfa_free(&d);
    ap_char_dfa_free(&some);
    ap_char_dfa_free(&both);
    return err;
}

/* A value between its tags: strings as they are, all else as JSON; where it may be either, the text does not tell
 * which is meant, and anything may come. */
static apus_err put_bare_value(ap_schemas *c, const schemas *value, int32_t from, int32_t to)
{
    ap_clauses list;
    unsigned types = 0;
    int32_t rule;
    apus_err err = ap_schema_flatten(c, value->v, value->n, &list);
    if (err) return err;
    for (int i = 0; i < list.n && !err; i++) {
        ap_meaning m;
        err = ap_schema_mean(c, list.v[i], &m);
        types |= m.types;
    }
    if (!err && !(types & AP_IS_STRING)) {
        err = ap_schema_rule(c, value->v, value->n, &rule);
        if (!err) ap_grammar_call(c->g, from, to, rule, 1, 1);
    } else if (!err && types & ~(unsigned)(AP_IS_STRING | AP_IS_NULL)) {
        put_free_text(c, &(ap_char_dfa){0}, from, to);
    } else {
        if (types & AP_IS_NULL) ap_grammar_text(c->g, from, to, "null", 4);
        for (int i = 0; i < list.n && !err; i++) {
            ap_meaning m;
            err = ap_schema_mean(c, list.v[i], &m);
            if (!err && m.types & AP_IS_STRING) err = put_bare(c, list.v[i], &m, from, to);
        }
    }
    ap_clauses_free(&list);
    return err;
}

static apus_err put_parameter(object *o, const property *p, const schemas *value, int32_t from,
                              int32_t to)
{
    static const char open[] = "<parameter=", behind[] = ">\n", close[] = "\n</parameter>\n";
    ap_grammar *g = o->c->g;
    int32_t name = ap_grammar_state(g), named = ap_grammar_state(g), begin = ap_grammar_state(g);
    int32_t end = ap_grammar_state(g);
    ap_grammar_text(g, from, name, open, sizeof open - 1);
    ap_grammar_text(g, name, named, p->key, p->len);
    ap_grammar_text(g, named, begin, behind, sizeof behind - 1);
    ap_grammar_text(g, end, to, close, sizeof close - 1);
    return put_bare_value(o->c, value, begin, end);
}

apus_err ap_put_parameters(ap_schemas *c, const ap_clause *x, int32_t from, int32_t to)
{
    object o = {.c = c, .x = x};
    apus_err err = gather(&o);
    for (size_t i = 0; i < o.n && !err && !c->g->full; i++) {
        schemas value;
        int32_t next = ap_grammar_state(c->g);
        if (!o.prop[i].required) ap_grammar_empty(c->g, from, next);
        err = schemas_of(&o, &o.prop[i], &value);
        if (!err && !value.never) err = put_parameter(&o, &o.prop[i], &value, from, next);
        from = next;
    }
    ap_grammar_empty(c->g, from, to);
    for (size_t i = 0; i < o.n_pattern; i++) ap_char_dfa_free(&o.pattern[i].keys);
    ap_free(o.pattern);
    ap_free(o.prop);
    return err;
}

/* ---------------------------------------------------------------- arrays */

static const ap_json *list_of(const ap_json *schema)
{
    const ap_json *prefix = ap_json_get(schema, "prefixItems"),
                  *items = ap_json_get(schema, "items");
    if (prefix) return prefix->type == AP_JSON_ARRAY ? prefix : NULL;
    return items && items->type == AP_JSON_ARRAY ? items : NULL;
}

/* What an element behind those that have a schema of their own is; NULL: anything. */
static const ap_json *rest_of(const ap_json *schema)
{
    const ap_json *items = ap_json_get(schema, "items");
    if (items && items->type == AP_JSON_ARRAY) return ap_json_get(schema, "additionalItems");
    return items;
}

/* What the clause's schemas say of element i. */
static void element(const ap_clause *x, size_t i, schemas *out)
{
    *out = (schemas){.n = 0};
    for (int k = 0; k < x->n; k++) {
        const ap_json *list = list_of(x->part[k]);
        const ap_json *s = list && i < list->len ? ap_json_at(list, i) : rest_of(x->part[k]);
        if (s) add_schema(out, s);
    }
}

static apus_err check_arrays(const ap_schemas *c, const ap_clause *x, const ap_meaning *m)
{
    for (int k = 0; k < x->n; k++) {
        const ap_json *s = x->part[k], *unique = ap_json_get(s, "uniqueItems");
        apus_err err = want(c, s, "prefixItems", AP_JSON_ARRAY, "a list of schemas");
        if (err) return err;
        if (unique && unique->type == AP_JSON_BOOL && unique->boolean &&
            (m->max_items < 0 || m->max_items > 1))
            return ap_schema_wrong(c, APUS_EUNSUPPORTED, s, "uniqueItems",
                                   "true is not supported where there may be several items");
    }
    return APUS_OK;
}

/* The elements from number n on, which are all alike, behind a state with n of them before it. */
static apus_err put_rest(ap_schemas *c, const ap_clause *x, const ap_meaning *m, int64_t n,
                         int32_t from, int32_t to)
{
    schemas value;
    int32_t rule;
    int64_t min = m->min_items > n ? m->min_items - n : 0;
    int64_t max = m->max_items < 0 ? -1 : m->max_items - n;
    element(x, (size_t)n, &value);
    if (min == 0) ap_grammar_empty(c->g, from, to);
    if (value.never || max == 0) return APUS_OK;
    apus_err err = ap_schema_rule(c, value.v, value.n, &rule);
    if (err) return err;
    if (n) {
        ap_grammar_call(c->g, from, to, behind_comma(c, rule), min ? (int32_t)min : 1,
                        (int32_t)max);
        return APUS_OK;
    }
    int32_t first = ap_grammar_state(c->g);
    ap_grammar_call(c->g, from, first, rule, 1, 1);
    ap_grammar_call(c->g, first, to, behind_comma(c, rule), min > 1 ? (int32_t)min - 1 : 0,
                    max < 0 ? -1 : (int32_t)max - 1);
    return APUS_OK;
}

static apus_err put_elements(ap_schemas *c, const ap_clause *x, const ap_meaning *m, int32_t from,
                             int32_t to)
{
    size_t own = 0;
    apus_err err = check_arrays(c, x, m);
    for (int k = 0; k < x->n; k++) {
        const ap_json *list = list_of(x->part[k]);
        if (list && list->len > own) own = list->len;
    }
    for (size_t i = 0; i < own && !err && !c->g->full; i++) {
        schemas value;
        int32_t rule, next = ap_grammar_state(c->g);
        if ((int64_t)i >= m->min_items) ap_grammar_empty(c->g, from, to);
        element(x, i, &value);
        if (value.never || (m->max_items >= 0 && (int64_t)i >= m->max_items)) return APUS_OK;
        err = ap_schema_rule(c, value.v, value.n, &rule);
        if (!err) ap_grammar_call(c->g, from, next, i ? behind_comma(c, rule) : rule, 1, 1);
        from = next;
    }
    return err ? err : put_rest(c, x, m, (int64_t)own, from, to);
}

apus_err ap_put_array(ap_schemas *c, const ap_clause *x, const ap_meaning *m, int32_t from,
                      int32_t to)
{
    ap_grammar *g = c->g;
    int32_t bracket = ap_grammar_state(g), begin = ap_grammar_state(g), last = ap_grammar_state(g);
    int32_t end = ap_grammar_state(g);
    ap_grammar_bytes(g, from, bracket, '[', '[');
    ap_put_space(c, bracket, begin);
    apus_err err = put_elements(c, x, m, begin, last);
    ap_put_space(c, last, end);
    ap_grammar_bytes(g, end, to, ']', ']');
    return err;
}
