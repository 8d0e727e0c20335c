/* fields.h - the members of a request read by a table, so that what is not known is not ignored. */
#ifndef APUS_SERVER_FIELDS_H
#define APUS_SERVER_FIELDS_H

#include "exchange.h"

typedef struct sv_field sv_field;
/* Read value v of field f at `path` into the struct at `into`. false: sv_fail was called. */
typedef bool sv_reader(sv_exchange *x, const sv_field *f, const sv_json *v, const char *path,
                       void *into);

struct sv_field {
    const char *name; /* NULL ends a table */
    sv_reader *read;
    size_t at;        /* offset in the struct */
    double min, max;  /* of numbers */
    const char *text; /* of sv_read_only and sv_read_refuse: the value that may be given; why not */
};

/* Read all members of an object. null counts as absent. A member that is not in the table, or there twice,
 * is a 400 that names it. path: of the object, "" at the top. */
bool sv_fields_read(sv_exchange *x, const sv_field *table, const sv_json *object, const char *path,
                    void *into);
/* The same with the members of two tables, which together have 64 at most; none is in both. `also` may be NULL. */
bool sv_fields_read_both(sv_exchange *x, const sv_field *table, const sv_field *also,
                         const sv_json *object, const char *path, void *into);

sv_reader sv_read_bool;   /* bool */
sv_reader sv_read_int;    /* int */
sv_reader sv_read_seed;   /* uint64_t; any whole number */
sv_reader sv_read_real;   /* float */
sv_reader sv_read_string; /* const char *, not empty inside of it: no zero byte */
sv_reader sv_read_json;   /* const sv_json *; any value */
sv_reader sv_read_array;  /* likewise, an array */
sv_reader sv_read_object; /* likewise, an object */
sv_reader sv_read_any;  /* accepted and of no effect: it tells about the client, or about storage */
sv_reader sv_read_only; /* text is the one string or word that may be given; of no effect */
sv_reader sv_read_refuse; /* known, and not supported */

/* The value at `path` is not what it should be. Returns false. */
bool sv_fail_kind(sv_exchange *x, const char *path, const char *expected, const sv_json *found);

/* "path.name", "path[i]", cut to the size of sv_error.param. */
typedef struct sv_path {
    char text[160];
} sv_path;
const char *sv_path_at(sv_path *p, const char *path, const char *name);
const char *sv_path_index(sv_path *p, const char *path, size_t i);

#endif
