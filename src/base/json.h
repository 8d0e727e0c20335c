/* json.h - JSON text to a tree, and escaping back: thin glue over libyajl.
 *
 * The tree lives in an arena. Objects keep the order of their keys. Strings are UTF-8, may contain
 * zero bytes and are zero-terminated besides. Depth is bounded; nothing recurses while parsing. */
#ifndef AP_BASE_JSON_H
#define AP_BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"

typedef enum ap_json_type {
    AP_JSON_NULL,
    AP_JSON_BOOL,
    AP_JSON_INT,    /* fits int64_t */
    AP_JSON_DOUBLE, /* any other number */
    AP_JSON_STRING,
    AP_JSON_ARRAY,
    AP_JSON_OBJECT
} ap_json_type;

typedef struct ap_json ap_json;
struct ap_json {
    ap_json_type type;
    bool boolean;
    int64_t integer;
    double number;   /* INT and DOUBLE */
    const char *str; /* STRING; DOUBLE and INT: the number as written; OBJECT: NULL, or the text
                        that text/chat.c read it from */
    size_t len;      /* STRING, number text: bytes; ARRAY, OBJECT: children */
    const char *key; /* this value's key when its parent is an object */
    size_t key_len;
    ap_json *first; /* children in order */
    ap_json *next;
};

#define AP_JSON_MAX_DEPTH 512
#define AP_JSON_MAX_BYTES ((size_t)1 << 30)

/* ---------------------------------------------------------------- events */

typedef enum ap_json_event_type {
    AP_JSON_EV_BEGIN_OBJECT,
    AP_JSON_EV_END_OBJECT,
    AP_JSON_EV_BEGIN_ARRAY,
    AP_JSON_EV_END_ARRAY,
    AP_JSON_EV_KEY,
    AP_JSON_EV_STRING,
    AP_JSON_EV_NUMBER, /* as written */
    AP_JSON_EV_BOOL,
    AP_JSON_EV_NULL
} ap_json_event_type;

typedef struct ap_json_event {
    ap_json_event_type type;
    int depth;       /* containers around it: 0 for the outermost value */
    const char *str; /* KEY, STRING, NUMBER: not zero-terminated, for the call only */
    size_t len;
    bool boolean;
} ap_json_event;

/* Anything but OK stops the walk and is what ap_json_walk returns. */
typedef apus_err (*ap_json_fn)(void *ctx, const ap_json_event *e);

/* Walk a text without building anything, for files too large for a tree.
 *   name   what to call it in errors (a file name)
 * Keys may repeat. Returns OK; EFORMAT with line and reason (also: invalid UTF-8, an unpaired
 * surrogate escape, more than AP_JSON_MAX_DEPTH levels or AP_JSON_MAX_BYTES); ENOMEM; fn's code. */
apus_err ap_json_walk(const char *text, size_t len, const char *name, ap_json_fn fn, void *ctx,
                      apus_diag *diag);

/* A number's text as int64; false if it has a fraction or exponent or does not fit. */
bool ap_json_int(const char *s, size_t n, int64_t *out);

/* ---------------------------------------------------------------- tree */

enum { AP_JSON_REJECT_DUPLICATES = 1 };

/* Parse a whole text (bounds as ap_json_walk).
 *   name   what to call it in errors (a file name)
 *   flags  AP_JSON_* or 0 (without REJECT_DUPLICATES the last one of equal keys wins in ap_json_get)
 * Returns OK; EFORMAT with line and reason; ENOMEM (also when the arena's limit is hit). */
apus_err ap_json_parse(ap_arena *a, const char *text, size_t len, const char *name, unsigned flags,
                       ap_json **out, apus_diag *diag);

/* Member of an object; NULL if absent or if o is NULL or not an object. */
const ap_json *ap_json_get(const ap_json *o, const char *key);
const ap_json *ap_json_at(const ap_json *array, size_t i); /* NULL if absent */

/* A growing byte string; `failed` stays set once memory was out. */
typedef struct ap_buf {
    char *data; /* zero-terminated when not NULL */
    size_t len, cap;
    bool failed;
} ap_buf;

void ap_buf_add(ap_buf *b, const char *s, size_t n);
void ap_buf_adds(ap_buf *b, const char *s);
void ap_buf_addf(ap_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void ap_buf_free(ap_buf *b);

/* Append s as a JSON string with quotes. ascii: escape everything above 0x7E as \uXXXX. */
void ap_json_quote(ap_buf *b, const char *s, size_t n, bool ascii);

#endif
