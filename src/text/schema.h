/* schema.h - what the JSON schemas of tools say of a parameter's type.
 *
 * Schemas come from users and may refer to themselves: every walk is bounded by a number of nodes,
 * beyond which nothing more is known of a parameter. */
#ifndef AP_TEXT_SCHEMA_H
#define AP_TEXT_SCHEMA_H

#include "base/json.h"

/* The types that a schema allows, as a set; 0: it does not say. */
enum {
    AP_TYPE_STRING = 1,
    AP_TYPE_INTEGER = 2,
    AP_TYPE_NUMBER = 4,
    AP_TYPE_BOOLEAN = 8,
    AP_TYPE_TREE = 16, /* objects and arrays */
    AP_TYPE_NULL = 32
};

/* The function called name[0, len) in a list of tools (OpenAI's shape or bare functions), or NULL.
 * tools may be NULL. */
const ap_json *ap_schema_function(const ap_json *tools, const char *name, size_t len);

/* Does this function describe a parameter of this name? function may be NULL: it does not. */
bool ap_schema_has(const ap_json *function, const char *key, size_t len);

/* The types of a parameter. $ref (a JSON pointer into the function's "parameters"), allOf, anyOf,
 * oneOf, type, enum and const are read. function may be NULL: 0. */
int ap_schema_types(const ap_json *function, const char *key, size_t len);

#endif
