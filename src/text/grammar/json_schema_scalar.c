/* json_schema_scalar.c - what a clause says of types, numbers and strings, and single values. */
#include <string.h>

#include "base/mem.h"
#include "text/grammar/json_schema_impl.h"
#include "text/grammar/pattern.h"

/* ---------------------------------------------------------------- values */

unsigned ap_json_type_of(const ap_json *v)
{
    ap_decimal d;
    switch (v->type) {
    case AP_JSON_NULL:
        return AP_IS_NULL;
    case AP_JSON_BOOL:
        return AP_IS_BOOL;
    case AP_JSON_INT:
        return AP_IS_INTEGER;
    case AP_JSON_DOUBLE:
        return ap_decimal_read(v->str, v->len, &d) && ap_decimal_whole(&d) ? AP_IS_INTEGER
                                                                           : AP_IS_FRACTION;
    case AP_JSON_STRING:
        return AP_IS_STRING;
    case AP_JSON_ARRAY:
        return AP_IS_ARRAY;
    default:
        return AP_IS_OBJECT;
    }
}

static const ap_json *member(const ap_json *o, const char *key, size_t len)
{
    const ap_json *found = NULL;
    for (const ap_json *k = o->first; k; k = k->next)
        if (k->key_len == len && !memcmp(k->key, key, len)) found = k;
    return found;
}

static bool same_numbers(const ap_json *a, const ap_json *b)
{
    ap_decimal x, y;
    if (!ap_decimal_read(a->str, a->len, &x) || !ap_decimal_read(b->str, b->len, &y))
        return a->len == b->len && !memcmp(a->str, b->str, a->len);
    return ap_decimal_compare(&x, &y) == 0;
}

bool ap_json_same(const ap_json *a, const ap_json *b)
{
    bool numbers = (a->type == AP_JSON_INT || a->type == AP_JSON_DOUBLE) &&
                   (b->type == AP_JSON_INT || b->type == AP_JSON_DOUBLE);
    if (numbers) return same_numbers(a, b);
    if (a->type != b->type) return false;
    if (a->type == AP_JSON_BOOL) return a->boolean == b->boolean;
    if (a->type == AP_JSON_STRING) return a->len == b->len && !memcmp(a->str, b->str, a->len);
    if (a->type == AP_JSON_NULL) return true;
    if (a->len != b->len) return false;
    const ap_json *y = b->first;
    for (const ap_json *x = a->first; x; x = x->next) {
        const ap_json *other = a->type == AP_JSON_OBJECT ? member(b, x->key, x->key_len) : y;
        if (!other || !ap_json_same(x, other)) return false;
        if (y) y = y->next;
    }
    return true;
}

/* ---------------------------------------------------------------- types */

static const struct {
    const char *name;
    unsigned types;
} type_names[] = {{"null", AP_IS_NULL},     {"boolean", AP_IS_BOOL},  {"integer", AP_IS_INTEGER},
                  {"number", AP_IS_NUMBER}, {"string", AP_IS_STRING}, {"array", AP_IS_ARRAY},
                  {"object", AP_IS_OBJECT}};

static apus_err add_type(const ap_schemas *c, const ap_json *schema, const ap_json *name,
                         unsigned *types)
{
    for (size_t i = 0; i < sizeof type_names / sizeof *type_names; i++) {
        if (name->type != AP_JSON_STRING || strcmp(name->str, type_names[i].name) != 0) continue;
        *types |= type_names[i].types;
        return APUS_OK;
    }
    return ap_schema_wrong(c, APUS_EFORMAT, schema, "type",
                           "expected null, boolean, integer, number, string, array or object");
}

/* The types that one schema names; *named: it names any. */
static apus_err types_of(const ap_schemas *c, const ap_json *schema, unsigned *types, bool *named)
{
    const ap_json *t = ap_json_get(schema, "type"), *nullable = ap_json_get(schema, "nullable");
    apus_err err = APUS_OK;
    *types = AP_IS_ANY;
    *named = t != NULL;
    if (!t) return APUS_OK;
    *types = nullable && nullable->type == AP_JSON_BOOL && nullable->boolean ? AP_IS_NULL : 0;
    if (t->type != AP_JSON_ARRAY) return add_type(c, schema, t, types);
    for (const ap_json *n = t->first; n && !err; n = n->next) err = add_type(c, schema, n, types);
    return err;
}

/* The types that keywords of a schema speak of. */
static unsigned spoken_of(const ap_json *schema)
{
    static const struct {
        const char *key;
        unsigned types;
    } keys[] = {{"properties", AP_IS_OBJECT},
                {"required", AP_IS_OBJECT},
                {"additionalProperties", AP_IS_OBJECT},
                {"patternProperties", AP_IS_OBJECT},
                {"minProperties", AP_IS_OBJECT},
                {"maxProperties", AP_IS_OBJECT},
                {"items", AP_IS_ARRAY},
                {"prefixItems", AP_IS_ARRAY},
                {"minItems", AP_IS_ARRAY},
                {"maxItems", AP_IS_ARRAY},
                {"uniqueItems", AP_IS_ARRAY},
                {"minLength", AP_IS_STRING},
                {"maxLength", AP_IS_STRING},
                {"pattern", AP_IS_STRING},
                {"format", AP_IS_STRING},
                {"minimum", AP_IS_NUMBER},
                {"maximum", AP_IS_NUMBER},
                {"exclusiveMinimum", AP_IS_NUMBER},
                {"exclusiveMaximum", AP_IS_NUMBER},
                {"multipleOf", AP_IS_NUMBER}};
    unsigned types = 0;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (ap_json_get(schema, keys[i].key)) types |= keys[i].types;
    return types;
}

/* ---------------------------------------------------------------- counts and bounds */

apus_err ap_schema_count(const ap_schemas *c, const ap_json *schema, const char *key, int64_t *out)
{
    const ap_json *v = ap_json_get(schema, key);
    ap_decimal d;
    *out = -1;
    if (!v) return APUS_OK;
    bool number = v->type == AP_JSON_INT || v->type == AP_JSON_DOUBLE;
    if (!number || !ap_decimal_read(v->str, v->len, &d) || d.negative || !ap_decimal_whole(&d))
        return ap_schema_wrong(c, APUS_EFORMAT, schema, key, "expected a whole number, 0 or more");
    *out = 0;
    for (int i = 0; i < d.n_whole && *out <= AP_GRAMMAR_MOST_REPS; i++)
        *out = *out * 10 + (d.whole[i] - '0');
    if (*out > AP_GRAMMAR_MOST_REPS)
        return ap_schema_wrong(c, APUS_EUNSUPPORTED, schema, key, "expected at most %d",
                               AP_GRAMMAR_MOST_REPS);
    return APUS_OK;
}

static apus_err add_counts(const ap_schemas *c, const ap_json *schema, const char *least,
                           const char *most, int64_t *min, int64_t *max)
{
    int64_t lo, hi;
    apus_err err = ap_schema_count(c, schema, least, &lo);
    if (!err) err = ap_schema_count(c, schema, most, &hi);
    if (err) return err;
    if (lo > *min) *min = lo;
    if (hi >= 0 && (*max < 0 || hi < *max)) *max = hi;
    if (*max >= 0 && *min > *max)
        return ap_schema_wrong(c, APUS_EINVAL, schema, lo >= 0 ? least : most,
                               "at least %lld and at most %lld: nothing can be valid",
                               (long long)*min, (long long)*max);
    return APUS_OK;
}

static apus_err read_bound(const ap_schemas *c, const ap_json *schema, const char *key,
                           ap_decimal *out, bool *there)
{
    const ap_json *v = ap_json_get(schema, key);
    *there = v != NULL;
    if (!v) return APUS_OK;
    if (v->type != AP_JSON_INT && v->type != AP_JSON_DOUBLE)
        return ap_schema_wrong(c, APUS_EFORMAT, schema, key, "expected a number");
    if (!ap_decimal_read(v->str, v->len, out))
        return ap_schema_wrong(c, APUS_EUNSUPPORTED, schema, key, "more than %d digits",
                               AP_DECIMAL_DIGITS - 1);
    return APUS_OK;
}

static apus_err add_low(const ap_schemas *c, const ap_json *schema, const char *key, bool open,
                        ap_number_range *r)
{
    ap_decimal d;
    bool there;
    apus_err err = read_bound(c, schema, key, &d, &there);
    if (err || !there) return err;
    int order = r->has_lo ? ap_decimal_compare(&d, &r->lo) : 1;
    if (order > 0) r->lo = d;
    r->lo_open = order > 0 ? open : order == 0 ? open || r->lo_open : r->lo_open;
    r->has_lo = true;
    return APUS_OK;
}

static apus_err add_high(const ap_schemas *c, const ap_json *schema, const char *key, bool open,
                         ap_number_range *r)
{
    ap_decimal d;
    bool there;
    apus_err err = read_bound(c, schema, key, &d, &there);
    if (err || !there) return err;
    int order = r->has_hi ? ap_decimal_compare(&d, &r->hi) : -1;
    if (order < 0) r->hi = d;
    r->hi_open = order < 0 ? open : order == 0 ? open || r->hi_open : r->hi_open;
    r->has_hi = true;
    return APUS_OK;
}

static int64_t common(int64_t a, int64_t b)
{
    while (b) {
        int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* Another multipleOf: of both, numbers are multiples of their least common multiple. */
static apus_err add_multiple(const ap_schemas *c, const ap_json *schema, ap_number_range *r)
{
    ap_decimal d;
    bool there;
    int64_t m = 0;
    apus_err err = read_bound(c, schema, "multipleOf", &d, &there);
    if (err || !there) return err;
    for (int i = 0; i < d.n_whole && m <= AP_NUMBER_MULTIPLE; i++) m = m * 10 + (d.whole[i] - '0');
    for (int i = 0; i < d.n_fraction && m <= AP_NUMBER_MULTIPLE; i++)
        m = m * 10 + (d.fraction[i] - '0');
    int scale = d.n_fraction;
    if (d.negative || m == 0)
        return ap_schema_wrong(c, APUS_EFORMAT, schema, "multipleOf", "expected a number above 0");
    if (r->multiple) {
        for (; scale < r->scale && m <= AP_NUMBER_MULTIPLE; scale++) m *= 10;
        for (; r->scale < scale && r->multiple <= AP_NUMBER_MULTIPLE; r->scale++) r->multiple *= 10;
        m = m / common(m, r->multiple) * r->multiple;
    }
    if (m > AP_NUMBER_MULTIPLE)
        return ap_schema_wrong(c, APUS_EUNSUPPORTED, schema, "multipleOf",
                               "more than %d units of its last digit", AP_NUMBER_MULTIPLE);
    r->multiple = m;
    r->scale = scale;
    return APUS_OK;
}

static apus_err add_number(const ap_schemas *c, const ap_json *schema, ap_number_range *r)
{
    apus_err err = add_low(c, schema, "minimum", false, r);
    if (!err) err = add_low(c, schema, "exclusiveMinimum", true, r);
    if (!err) err = add_high(c, schema, "maximum", false, r);
    if (!err) err = add_high(c, schema, "exclusiveMaximum", true, r);
    return err ? err : add_multiple(c, schema, r);
}

/* ---------------------------------------------------------------- all that a clause says */

static apus_err add_values(const ap_schemas *c, const ap_json *schema, const char *key, bool single,
                           ap_meaning *m)
{
    const ap_json *v = ap_json_get(schema, key);
    /* const: null is a value, though ap_json_get tells it apart from nothing */
    if (!v) return APUS_OK;
    if (!single && v->type != AP_JSON_ARRAY)
        return ap_schema_wrong(c, APUS_EFORMAT, schema, key, "expected a list of values");
    if (m->n_values == AP_ALL_OF_VALUES)
        return ap_schema_wrong(c, APUS_EUNSUPPORTED, schema, key,
                               "more than %d of them hold at once", AP_ALL_OF_VALUES);
    m->single[m->n_values] = single;
    m->values[m->n_values++] = v;
    return APUS_OK;
}

/* Lists of values say which types there are. */
static void narrow_types(ap_meaning *m)
{
    for (int i = 0; i < m->n_values; i++) {
        unsigned types = 0;
        const ap_json *v = m->single[i] ? m->values[i] : m->values[i]->first;
        for (; v; v = m->single[i] ? NULL : v->next) types |= ap_json_type_of(v);
        m->types &= types;
    }
}

apus_err ap_schema_mean(ap_schemas *c, const ap_clause *x, ap_meaning *m)
{
    unsigned spoken = 0;
    bool named = false;
    apus_err err = APUS_OK;
    *m = (ap_meaning){.types = AP_IS_ANY, .max_length = -1, .max_items = -1, .max_properties = -1};
    for (int i = 0; i < x->n && !err; i++) {
        const ap_json *s = x->part[i];
        unsigned types;
        bool here;
        err = types_of(c, s, &types, &here);
        if (err) break;
        m->types &= types;
        named = named || here;
        spoken |= spoken_of(s);
        err = add_values(c, s, "enum", false, m);
        if (!err) err = add_values(c, s, "const", true, m);
        if (!err) err = add_number(c, s, &m->number);
        if (!err) err = add_counts(c, s, "minLength", "maxLength", &m->min_length, &m->max_length);
        if (!err) err = add_counts(c, s, "minItems", "maxItems", &m->min_items, &m->max_items);
        if (!err)
            err = add_counts(c, s, "minProperties", "maxProperties", &m->min_properties,
                             &m->max_properties);
        if (ap_json_get(s, "pattern") || ap_json_get(s, "format")) m->strings_are_some = true;
    }
    if (m->min_length > 0 || m->max_length >= 0) m->strings_are_some = true;
    if (!named && !m->n_values && spoken) m->types &= spoken;
    narrow_types(m);
    m->number.integer = !(m->types & AP_IS_FRACTION);
    return err;
}

/* ---------------------------------------------------------------- strings */

static apus_err check_dfa(const ap_schemas *c, const ap_json *schema, const char *key,
                          const ap_char_dfa *d)
{
    if (d->failed) return ap_fail_nomem(c->diag, d->n_edge * sizeof *d->edge, "a schema");
    if (d->full)
        return ap_schema_wrong(
            c, APUS_EUNSUPPORTED, schema, key,
            "together with what else is said of the string it takes more than %d states",
            AP_DFA_STATES);
    return APUS_OK;
}

/* *all becomes what is of both; one is freed. */
static apus_err both(const ap_schemas *c, const ap_json *schema, const char *key, ap_char_dfa *all,
                     ap_char_dfa *one)
{
    ap_char_dfa made = {0};
    if (!all->n_state) {
        *all = *one;
        *one = (ap_char_dfa){0};
        return check_dfa(c, schema, key, all);
    }
    ap_char_dfa_both(all, one, &made);
    ap_char_dfa_free(all);
    ap_char_dfa_free(one);
    *all = made;
    return check_dfa(c, schema, key, all);
}

static apus_err add_pattern(ap_schemas *c, const ap_json *schema, const char *key, const char *s,
                            size_t n, ap_char_dfa *all)
{
    ap_char_dfa one = {0};
    apus_diag why;
    apus_err err = ap_pattern_read(s, n, "", &one, &why);
    if (err) { /* ": the pattern has ..." */
        ap_char_dfa_free(&one);
        const char *text = !strncmp(why.text, ": ", 2) ? why.text + 2 : why.text;
        return ap_schema_wrong(c, err, schema, key, "%s", text);
    }
    return both(c, schema, key, all, &one);
}

static apus_err add_format(ap_schemas *c, const ap_json *schema, const ap_json *f, ap_char_dfa *all)
{
    if (f->type != AP_JSON_STRING)
        return ap_schema_wrong(c, APUS_EFORMAT, schema, "format", "expected a string");
    const char *pattern = ap_format_pattern(f->str);
    if (!pattern)
        return ap_schema_wrong(c, APUS_EUNSUPPORTED, schema, "format",
                               "'%.60s' is not supported; supported are %s", f->str,
                               ap_format_names);
    return *pattern ? add_pattern(c, schema, "format", pattern, strlen(pattern), all) : APUS_OK;
}

apus_err ap_schema_strings(ap_schemas *c, const ap_clause *x, const ap_meaning *m, bool with_length,
                           ap_char_dfa *out)
{
    apus_err err = APUS_OK;
    for (int i = 0; i < x->n && !err; i++) {
        const ap_json *s = x->part[i], *p = ap_json_get(s, "pattern"),
                      *f = ap_json_get(s, "format");
        if (p && p->type != AP_JSON_STRING)
            return ap_schema_wrong(c, APUS_EFORMAT, s, "pattern", "expected a string");
        if (p) err = add_pattern(c, s, "pattern", p->str, p->len, out);
        if (f && !err) err = add_format(c, s, f, out);
    }
    if (err || !with_length || (m->min_length <= 0 && m->max_length < 0)) return err;
    ap_char_dfa length = {0};
    ap_char_dfa_length(m->min_length, m->max_length, &length);
    const ap_json *s = x->part[0];
    return both(c, s, m->max_length >= 0 ? "maxLength" : "minLength", out, &length);
}

apus_err ap_put_strings(ap_schemas *c, const ap_clause *x, const ap_meaning *m, int32_t from,
                        int32_t to)
{
    ap_grammar *g = c->g;
    ap_char_dfa d = {0};
    apus_err err = ap_schema_strings(c, x, m, false, &d);
    bool counted = m->min_length > 0 || m->max_length >= 0;
    if (!err && d.n_state && counted) {
        ap_char_dfa_free(&d);
        err = ap_schema_strings(c, x, m, true, &d);
    }
    int32_t open = ap_grammar_state(g), close = ap_grammar_state(g);
    if (!err && !d.n_state && !counted) {
        ap_grammar_call(g, from, to, ap_rule_string(c), 1, 1);
    } else if (!err) {
        ap_put_quote(c, from, open);
        ap_put_quote(c, close, to);
        if (d.n_state)
            ap_char_dfa_put(&d, ap_string_writing(c), g, open, close);
        else
            ap_grammar_call(g, open, close, ap_rule_one_char(c), (int32_t)m->min_length,
                            (int32_t)m->max_length);
    }
    ap_char_dfa_free(&d);
    return err;
}

/* ---------------------------------------------------------------- single values */

void ap_put_text(ap_schemas *c, const char *s, size_t n, int32_t from, int32_t to)
{
    ap_char_dfa d = {0};
    int32_t open = ap_grammar_state(c->g), close = ap_grammar_state(c->g);
    ap_char_dfa_texts(&s, &n, 1, &d);
    ap_put_quote(c, from, open);
    ap_char_dfa_put(&d, ap_string_writing(c), c->g, open, close);
    ap_put_quote(c, close, to);
    ap_char_dfa_free(&d);
}

/* Elements between brackets, each with its key where it has one. */
static void put_children(ap_schemas *c, const ap_json *v, int32_t from, int32_t to)
{
    ap_grammar *g = c->g;
    bool object = v->type == AP_JSON_OBJECT;
    int32_t at = ap_grammar_state(g), last = ap_grammar_state(g);
    int32_t begin = ap_grammar_state(g);
    ap_grammar_bytes(g, from, begin, object ? '{' : '[', object ? '{' : '[');
    ap_put_space(c, begin, at);
    for (const ap_json *x = v->first; x; x = x->next) {
        int32_t next = ap_grammar_state(g);
        if (object) {
            int32_t key = ap_grammar_state(g), colon = ap_grammar_state(g);
            ap_put_key(c, x->key, x->key_len, at, key);
            ap_put_colon(c, key, colon);
            at = colon;
        }
        ap_put_value(c, x, at, next);
        at = next;
        if (!x->next) break;
        int32_t comma = ap_grammar_state(g), behind = ap_grammar_state(g);
        ap_grammar_bytes(g, at, comma, ',', ',');
        ap_put_space(c, comma, behind);
        at = behind;
    }
    if (v->first)
        ap_put_space(c, at, last);
    else
        ap_grammar_empty(g, at, last);
    ap_grammar_bytes(g, last, to, object ? '}' : ']', object ? '}' : ']');
}

void ap_put_value(ap_schemas *c, const ap_json *v, int32_t from, int32_t to)
{
    switch (v->type) {
    case AP_JSON_NULL:
        ap_grammar_text(c->g, from, to, "null", 4);
        break;
    case AP_JSON_BOOL:
        ap_grammar_text(c->g, from, to, v->boolean ? "true" : "false", v->boolean ? 4 : 5);
        break;
    case AP_JSON_INT:
    case AP_JSON_DOUBLE:
        ap_grammar_text(c->g, from, to, v->str, v->len);
        break;
    case AP_JSON_STRING:
        ap_put_text(c, v->str, v->len, from, to);
        break;
    default:
        put_children(c, v, from, to);
    }
}

/* Is a value in all lists but the first, and within what else is said of its type? */
static apus_err value_fits(ap_schemas *c, const ap_clause *x, const ap_meaning *m,
                           const ap_char_dfa *strings, const ap_json *v, bool *fits)
{
    unsigned type = ap_json_type_of(v);
    *fits = (type & m->types) != 0;
    for (int i = 1; i < m->n_values && *fits; i++) {
        bool in = false;
        const ap_json *w = m->single[i] ? m->values[i] : m->values[i]->first;
        for (; w && !in; w = m->single[i] ? NULL : w->next) in = ap_json_same(v, w);
        *fits = in;
    }
    if (!*fits) return APUS_OK;
    if (type & AP_IS_NUMBER) *fits = ap_number_fits(&m->number, v->str, v->len);
    if (type == AP_IS_STRING && strings->n_state)
        *fits = ap_char_dfa_accepts(strings, v->str, v->len);
    for (int i = 0; i < x->n && (type & (AP_IS_ARRAY | AP_IS_OBJECT)); i++)
        if (spoken_of(x->part[i]) & type)
            return ap_schema_wrong(
                c, APUS_EUNSUPPORTED, x->part[i], NULL,
                "enum or const with arrays or objects beside other keywords for them");
    return APUS_OK;
}

apus_err ap_put_values(ap_schemas *c, const ap_clause *x, const ap_meaning *m, int32_t from,
                       int32_t to)
{
    ap_char_dfa strings = {0};
    apus_err err = APUS_OK;
    if (m->types & AP_IS_STRING) err = ap_schema_strings(c, x, m, true, &strings);
    const ap_json *v = m->single[0] ? m->values[0] : m->values[0]->first;
    for (; v && !err; v = m->single[0] ? NULL : v->next) {
        bool fits;
        err = value_fits(c, x, m, &strings, v, &fits);
        if (!err && fits) ap_put_value(c, v, from, to);
    }
    ap_char_dfa_free(&strings);
    return err;
}
