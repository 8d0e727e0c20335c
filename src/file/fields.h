/* fields.h - typed, range-checked access to the members of a JSON object, for configuration files.
 *
 * The first failure is kept in `err` and its sentence in `diag` (file, field, expected, found); the
 * getters after it return their default, so a reader is a straight list of gets and one check at
 * the end. A member that is null counts as absent. */
#ifndef AP_FILE_FIELDS_H
#define AP_FILE_FIELDS_H

#include <stdbool.h>

#include "base/json.h"

typedef struct ap_fields {
    const char *file;
    const char *prefix; /* put before the key in sentences, such as "text_config." */
    const ap_json *o;
    apus_diag *diag;
    apus_err *err; /* shared by the readers of one file */
} ap_fields;

#define AP_REQUIRED INT64_MIN /* as a default: absence is an error */

/* The member, or NULL if absent or null. */
const ap_json *ap_field(const ap_fields *f, const char *key);

int64_t ap_field_int(const ap_fields *f, const char *key, int64_t lo, int64_t hi, int64_t def);
/* lo <= value <= hi; def NaN = required. Integers are numbers too. */
double ap_field_num(const ap_fields *f, const char *key, double lo, double hi, double def);
bool ap_field_bool(const ap_fields *f, const char *key, bool def);
const char *ap_field_str(const ap_fields *f, const char *key, const char *def);
const ap_json *ap_field_array(const ap_fields *f, const char *key);  /* NULL if absent */
const ap_json *ap_field_object(const ap_fields *f, const char *key); /* NULL if absent */

/* Fail unless a text member is absent or equal to `want`: EUNSUPPORTED naming key and value. */
void ap_field_expect(const ap_fields *f, const char *key, const char *want);
/* Fail if a flag is true: EUNSUPPORTED. */
void ap_field_refuse(const ap_fields *f, const char *key);

/* A short text for a value that was found, such as "a list of 3". */
void ap_field_describe(char *out, size_t size, const ap_json *v);

/* Record a failure about a key: "<file>: <prefix><key>: <sentence>", with the value found in the
 * end if v is not NULL. Later failures are dropped. */
void ap_field_fail(const ap_fields *f, apus_err code, const char *key, const ap_json *v,
                   const char *fmt, ...) __attribute__((format(printf, 5, 6)));

#endif
