/* determine.h - a grammar's graphs without empty edges, deterministic where that does not blow them up. */
#ifndef AP_TEXT_GRAMMAR_DETERMINE_H
#define AP_TEXT_GRAMMAR_DETERMINE_H

#include "text/grammar/grammar.h"

/* Only rules that the root needs stay. ENOMEM; g->full may be set. */
apus_err ap_grammar_determine(ap_grammar *g, apus_diag *diag);

#endif
