/* json.h - JSON of requests read into a tree (by libyajl), JSON of answers written into a buffer. */
#ifndef APUS_SERVER_JSON_H
#define APUS_SERVER_JSON_H

#include <stdbool.h>
#include <stdint.h>

#include "arena.h"
#include "buf.h"

/* ---------------------------------------------------------------- reading */

typedef enum sv_json_type {
    SV_JSON_NULL,
    SV_JSON_BOOL,
    SV_JSON_NUMBER,
    SV_JSON_STRING,
    SV_JSON_ARRAY,
    SV_JSON_OBJECT
} sv_json_type;

typedef struct sv_json sv_json;
struct sv_json {
    sv_json_type type;
    bool boolean;
    const char
        *str;   /* STRING: UTF-8, zero-terminated, may hold zeros besides; NUMBER: as written */
    size_t len; /* bytes of str; ARRAY, OBJECT: children */
    const char *key;       /* its name in the object around it; zero-terminated */
    sv_json *first, *next; /* children in the order of the text */
};

enum { SV_JSON_DEPTH = 128 };

/* Parse a whole text into the arena. NULL: it is not JSON, deeper than SV_JSON_DEPTH, or memory is out
 * (*full is set then); why gets a sentence. */
const sv_json *sv_json_parse(sv_arena *a, const char *text, size_t len, bool *full, char *why,
                             size_t cap);
/* Member of an object: the last of that name; NULL if absent, null or not an object. */
const sv_json *sv_json_get(const sv_json *o, const char *key);
bool sv_json_is(const sv_json *j, const char *text); /* the string of that text? */
double sv_json_real(const sv_json *number);
/* false: it has a fraction, or does not fit */
bool sv_json_int(const sv_json *number, int64_t *out);
/* "a string", "an object", ... */
const char *sv_json_kind(const sv_json *j);

/* ---------------------------------------------------------------- writing */

/* Each puts a value, and before it what has to stand there: a comma, and the key unless it is NULL
 * (in arrays, and at the top). Text that begins behind a space or a line feed is at the top. */
void sv_put_map(sv_buf *b, const char *key);
void sv_put_end_map(sv_buf *b);
void sv_put_array(sv_buf *b, const char *key);
void sv_put_end_array(sv_buf *b);
void sv_put_str(sv_buf *b, const char *key, const char *s); /* NULL s = null */
void sv_put_strn(sv_buf *b, const char *key, const char *s, size_t n);
void sv_put_int(sv_buf *b, const char *key, int64_t v);
void sv_put_real(sv_buf *b, const char *key, double v); /* not finite = null */
void sv_put_bool(sv_buf *b, const char *key, bool v);
void sv_put_null(sv_buf *b, const char *key);
/* JSON text as it is; empty = null */
void sv_put_raw(sv_buf *b, const char *key, const char *json, size_t n);
void sv_put_json(sv_buf *b, const char *key, const sv_json *j);

#endif
