/* regex.h - the regular expressions of tokenizer files, matched by PCRE2 as Oniguruma would.
 *
 * Only what both engines read alike is accepted (groups, alternatives, look-around, classes, general
 * categories, \s \d, quantifiers); the rest is refused by name. Characters whose category the
 * engines' Unicode versions dispute are replaced by undisputed ones before matching. */
#ifndef AP_TEXT_REGEX_H
#define AP_TEXT_REGEX_H

#include "base/err.h"
#include "text/vec.h"

typedef struct ap_regex ap_regex;

/* Compile a pattern. where names it in errors ("tokenizer.json: pre_tokenizer: Split").
 * Returns OK; EFORMAT; EUNSUPPORTED by construct; ENOMEM. */
apus_err ap_regex_compile(const char *pattern, size_t len, const char *where, ap_regex **out,
                          apus_diag *diag);
void ap_regex_free(ap_regex *r);

/* Scratch of one thread; all zero to begin with. */
typedef struct ap_regex_work {
    void *match_data, *match_context, *jit_stack;
    char *text; /* copy with disputed characters replaced */
    size_t text_cap;
} ap_regex_work;
void ap_regex_work_free(ap_regex_work *w);

/* Append every match in s[0, n), leftmost first, not overlapping; an empty match counts unless it
 * touches the match before. n = 0 gives none.
 * Returns OK; EFORMAT: the pattern ran over its bounds on this text; ENOMEM. */
apus_err ap_regex_find_all(const ap_regex *r, ap_regex_work *w, const char *s, size_t n,
                           ap_spans *out, apus_diag *diag);

#endif
