/* walk.h - reading JSON of others without building it. */
#ifndef APUS_HUB_WALK_H
#define APUS_HUB_WALK_H

#include <stddef.h>
#include <stdint.h>

#include "why.h"

typedef enum hub_json_type {
    HUB_JSON_STRING,
    HUB_JSON_NUMBER, /* as written */
    HUB_JSON_OTHER,  /* true, false, null */
    HUB_JSON_END     /* of the object at `path` */
} hub_json_type;

typedef struct hub_json {
    const char
        *path; /* such as "siblings[]/lfs/sha256": keys, and [] for an array; cut at 500 bytes */
    hub_json_type type;
    const char *text; /* not zero-terminated; for the call only */
    size_t len;
} hub_json;

/* False stops the walk, which then fails with what is in *why. */
typedef bool (*hub_json_fn)(void *ctx, const hub_json *value, apus_diag *why);

/* Walk a text; name: what to call it in sentences. Depth is bounded. */
bool hub_json_walk(const char *text, size_t len, const char *name, hub_json_fn fn, void *ctx,
                   apus_diag *why);

/* The string of a value as a C string, false if it does not fit or holds a zero byte. */
bool hub_json_copy(const hub_json *value, char *out, size_t cap);
/* A number as a size; false if it is none. */
bool hub_json_size(const hub_json *value, uint64_t *out);

#endif
