/* help.h - for tests of grammars. */
#ifndef AP_TESTS_GRAMMAR_HELP_H
#define AP_TESTS_GRAMMAR_HELP_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
/* after those */
#include <cmocka.h>

#include "text/grammar/gbnf.h"
#include "text/grammar/json_schema.h"
#include "text/grammar/machine.h"

typedef apus_err (*reader)(const char *text, size_t len, ap_grammar *g, apus_diag *diag);

/* Is a text one of the grammar's? */
bool accepts(const ap_grammar *g, const char *text, size_t len);
/* A grammar that must be read; ap_grammar_free it. */
ap_grammar read_grammar(reader read, const char *text);
/* All of yes are texts of the grammar, none of no is; lists end with NULL. */
void check_texts(reader read, const char *grammar, const char *const *yes, const char *const *no);
/* It is refused with that code, and a sentence that holds a word. */
void check_refused(reader read, const char *grammar, apus_err err, const char *word);

#define TEXTS(...) ((const char *const[]){__VA_ARGS__, NULL})

#endif
