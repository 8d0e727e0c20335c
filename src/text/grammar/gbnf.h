/* gbnf.h - grammars as llama.cpp's programs write them: NAME ::= alternatives, of which "root" is the whole text.
 *
 * "text", [classes] and [^classes], . for any character, names, groups in parentheses, * + ? {n} {n,} {n,m},
 * # comments. Escapes: \n \t \r \\ \" \[ \] \- \^ \' \/ \xHH \uHHHH \UHHHHHHHH. A rule ends with its line, but for lines in
 * parentheses and behind a '|'. */
#ifndef AP_TEXT_GRAMMAR_GBNF_H
#define AP_TEXT_GRAMMAR_GBNF_H

#include <stddef.h>

#include "text/grammar/grammar.h"

/* Read a grammar and make it ready.
 *   g  zeroed; ap_grammar_free it, also after an error
 * Returns OK; EFORMAT with the line; EUNSUPPORTED: too large, left recursion, nested too deeply; EINVAL: no text is of
 * it; ENOMEM. */
apus_err ap_gbnf_parse(const char *text, size_t len, ap_grammar *g, apus_diag *diag);

#endif
