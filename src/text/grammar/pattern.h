/* pattern.h - regular expressions of JSON schemas, as ECMA-262 has them with the flag u, as sets of strings.
 *
 * A pattern may match anywhere in a string unless it is anchored. Supported: characters and their escapes, ., classes,
 * \d \D \w \W \s \S, groups, alternatives, ^ and $, * + ? {n} {n,} {n,m} and their lazy forms. Not: look-around, back
 * references, \b, \p{...}. */
#ifndef AP_TEXT_GRAMMAR_PATTERN_H
#define AP_TEXT_GRAMMAR_PATTERN_H

#include "text/grammar/char_dfa.h"

/* The strings that a pattern matches in.
 *   where  names it in errors
 *   out    empty; ap_char_dfa_free it, also after an error
 * Returns OK; EFORMAT; EUNSUPPORTED by construct; ENOMEM. */
apus_err ap_pattern_read(const char *pattern, size_t len, const char *where, ap_char_dfa *out,
                         apus_diag *diag);

/* The pattern that the strings of a format match, or NULL: not known. */
const char *ap_format_pattern(const char *format);
/* The formats that are known, as one text. */
extern const char ap_format_names[];

#endif
