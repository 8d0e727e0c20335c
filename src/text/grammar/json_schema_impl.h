/* json_schema_impl.h - inside the compiler of JSON schemas.
 *
 * What a value must be is a conjunction: a list of schemas that hold all at once. $ref and allOf add to the list;
 * anyOf and oneOf split it into several, clauses. A clause has no such keywords left: what its schemas say of one type
 * is put together, and becomes a part of the value's rule. Values inside of it are conjunctions again, each a rule,
 * made once. */
#ifndef AP_TEXT_GRAMMAR_JSON_SCHEMA_IMPL_H
#define AP_TEXT_GRAMMAR_JSON_SCHEMA_IMPL_H

#include "base/json.h"
#include "text/grammar/char_dfa.h"
#include "text/grammar/json_number.h"
#include "text/grammar/json_schema.h"

enum { AP_CLAUSE_PARTS = 64, AP_MOST_CLAUSES = 1024, AP_ALL_OF_VALUES = 16 };

/* Types of values, as a set. A number that is no integer is a FRACTION. */
enum {
    AP_IS_NULL = 1,
    AP_IS_BOOL = 2,
    AP_IS_INTEGER = 4,
    AP_IS_FRACTION = 8,
    AP_IS_NUMBER = 12,
    AP_IS_STRING = 16,
    AP_IS_ARRAY = 32,
    AP_IS_OBJECT = 64,
    AP_IS_ANY = 127
};

typedef struct ap_clause {
    const ap_json *part[AP_CLAUSE_PARTS]; /* schemas that are objects */
    int16_t from[AP_CLAUSE_PARTS];        /* the part whose $ref or allOf added it; -1: given */
    int n;
    const ap_json *chosen[AP_CLAUSE_PARTS]; /* anyOf, oneOf of which one is among the parts */
    int n_chosen;
    bool never; /* a schema that is false */
} ap_clause;

/* What a clause says. */
typedef struct ap_meaning {
    unsigned types; /* 0: none is left */
    const ap_json
        *values[AP_ALL_OF_VALUES]; /* enum (arrays) and const (in `single`) that all hold */
    bool single[AP_ALL_OF_VALUES];
    int n_values;
    ap_number_range number;
    int64_t min_length, max_length; /* -1: any */
    int64_t min_items, max_items, min_properties, max_properties;
    bool strings_are_some; /* a pattern, format or length is given */
} ap_meaning;

struct ap_schemas {
    ap_grammar *g;
    apus_diag *diag;
    const ap_json *root; /* of the schema that is compiled */
    const char *where;
    struct ap_made {
        const ap_json **part; /* [n] ascending */
        int n;
        int32_t rule, next;
    } * made;
    size_t n_made, made_cap;
    int32_t bucket[1024];
    size_t done; /* of `made`: rules that are complete */
    int32_t
        quote; /* how documents are written: -1: JSON; else as Gemma's calls are, with this token around strings */
    int disjoint; /* depth of the comparison that runs */
    int32_t any, any_object, any_array, string, number, integer, one_char,
        indent; /* rules; -1: not made so far */
};

/* ---------------------------------------------------------------- json_schema.c */

/* An error at `key` of a schema; key NULL: the schema itself. */
apus_err ap_schema_wrong(const ap_schemas *c, apus_err err, const ap_json *schema, const char *key,
                         const char *fmt, ...) __attribute__((format(printf, 5, 6)));
/* The rule of a conjunction, which is completed later. */
apus_err ap_schema_rule(ap_schemas *c, const ap_json *const *part, int n, int32_t *rule);
/* Shared rules. */
int32_t ap_rule_any(ap_schemas *c);
int32_t ap_rule_any_object(ap_schemas *c);
int32_t ap_rule_any_array(ap_schemas *c);
int32_t ap_rule_string(ap_schemas *c);
int32_t ap_rule_one_char(ap_schemas *c);
/* What stands around a string, and how its characters are written. */
void ap_put_quote(ap_schemas *c, int32_t from, int32_t to);
static inline ap_writing ap_string_writing(const ap_schemas *c)
{
    return c->quote < 0 ? AP_WRITE_JSON : AP_WRITE_PLAIN;
}
/* A property's name. */
void ap_put_key(ap_schemas *c, const char *s, size_t n, int32_t from, int32_t to);
/* White space between elements, and behind a colon. */
void ap_put_space(ap_schemas *c, int32_t from, int32_t to);
void ap_put_colon(ap_schemas *c, int32_t from, int32_t to);

/* ---------------------------------------------------------------- json_schema_flat.c */

typedef struct ap_clauses {
    ap_clause **v; /* freed by ap_clauses_free */
    int n;
} ap_clauses;
/* The clauses of a conjunction. */
apus_err ap_schema_flatten(ap_schemas *c, const ap_json *const *part, int n, ap_clauses *out);
void ap_clauses_free(ap_clauses *l);

/* ---------------------------------------------------------------- json_schema_scalar.c */

apus_err ap_schema_mean(ap_schemas *c, const ap_clause *x, ap_meaning *out);
unsigned ap_json_type_of(const ap_json *v);
bool ap_json_same(const ap_json *a, const ap_json *b);
/* Numbers of counts: minItems and the like. */
apus_err ap_schema_count(const ap_schemas *c, const ap_json *schema, const char *key, int64_t *out);
/* The strings that patterns, formats and lengths of a clause leave. */
apus_err ap_schema_strings(ap_schemas *c, const ap_clause *x, const ap_meaning *m, bool with_length,
                           ap_char_dfa *out);
apus_err ap_put_strings(ap_schemas *c, const ap_clause *x, const ap_meaning *m, int32_t from,
                        int32_t to);
/* One value, as it is. */
void ap_put_value(ap_schemas *c, const ap_json *v, int32_t from, int32_t to);
void ap_put_text(ap_schemas *c, const char *s, size_t n, int32_t from, int32_t to);
/* The values of enum and const that fit all else. */
apus_err ap_put_values(ap_schemas *c, const ap_clause *x, const ap_meaning *m, int32_t from,
                       int32_t to);

/* ---------------------------------------------------------------- json_schema_object.c */

apus_err ap_put_object(ap_schemas *c, const ap_clause *x, const ap_meaning *m, int32_t from,
                       int32_t to);
/* The properties of a clause's objects, each written between tags, as Qwen's calls are. */
apus_err ap_put_parameters(ap_schemas *c, const ap_clause *x, int32_t from, int32_t to);
apus_err ap_put_array(ap_schemas *c, const ap_clause *x, const ap_meaning *m, int32_t from,
                      int32_t to);

#endif
