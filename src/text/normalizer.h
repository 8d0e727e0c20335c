/* normalizer.h - what a tokenizer file does to text before splitting it. */
#ifndef AP_TEXT_NORMALIZER_H
#define AP_TEXT_NORMALIZER_H

#include "base/json.h"
#include "text/regex.h"

typedef struct ap_normalizer {
    struct ap_norm_step {
        enum { AP_NORM_NFC, AP_NORM_REPLACE, AP_NORM_PREPEND } kind;
        char *what; /* REPLACE: text to find, NULL = regex; PREPEND: unused */
        size_t what_len;
        ap_regex *regex;
        char *with; /* REPLACE: instead of it; PREPEND: before the text */
        size_t with_len;
    } * steps;
    size_t n, cap;
    char name[96]; /* of the file, for errors */
} ap_normalizer;

/* Read the "normalizer" of a tokenizer file; NULL or JSON null is none.
 * NFC, Replace, Prepend, Sequence. Returns OK; EFORMAT; EUNSUPPORTED by component; ENOMEM. */
apus_err ap_normalizer_parse(const ap_json *j, const char *name, ap_normalizer *out,
                             apus_diag *diag);
void ap_normalizer_free(ap_normalizer *z);

/* Scratch of one thread; all zero to begin with. */
typedef struct ap_norm_work {
    ap_buf buf[2];
    ap_spans spans;
    ap_regex_work regex;
} ap_norm_work;
void ap_norm_work_free(ap_norm_work *w);

/* Normalise valid UTF-8. *text is s itself if nothing changed, else in w until its next use. Rules
 * that feed each other must not grow a text without bounds: more than AP_NORM_GROWTH bytes for each
 * of its own, beyond AP_NORM_FREE, is EFORMAT. */
enum { AP_NORM_GROWTH = 64, AP_NORM_FREE = 1 << 20 };
apus_err ap_normalize(const ap_normalizer *z, ap_norm_work *w, const char *s, size_t n,
                      const char **text, size_t *len, apus_diag *diag);

/* Helpers shared by the readers of components. */

/* The "type" of a component, or "" if it has none. */
const char *ap_component_type(const ap_json *j);
/* "tokenizer.json: normalizer Replace", for errors. */
void ap_component_where(char *out, size_t size, const char *name, const char *section,
                        const char *type);
/* A string member: copied to *out (ap_free it). EFORMAT if it is missing or no string. */
apus_err ap_component_string(const ap_json *j, const char *key, const char *where, char **out,
                             size_t *len, apus_diag *diag);
/* A boolean member; dflt where it is absent or null. EFORMAT if it is neither. */
apus_err ap_component_bool(const ap_json *j, const char *key, bool dflt, const char *where,
                           bool *out, apus_diag *diag);
/* "pattern": {"String": ..} to *text or {"Regex": ..} to *regex. */
apus_err ap_component_pattern(const ap_json *j, const char *where, char **text, size_t *len,
                              ap_regex **regex, apus_diag *diag);

/* Append every place of what[0, m) (m >= 1) in s, not overlapping. */
bool ap_find_text(const char *s, size_t n, const char *what, size_t m, ap_spans *out);

#endif
