/* grammars.h - a model's compiled grammars: made once for all requests that ask for the same, and kept while there is
 * room. Any number of threads. */
#ifndef AP_ENGINE_GRAMMARS_H
#define AP_ENGINE_GRAMMARS_H

#include "text/grammar/matcher.h"

typedef struct ap_grammars ap_grammars;

/* A compiled grammar with its token masks, in use. */
typedef struct ap_compiled {
    ap_grammar grammar;
    ap_token_masks masks;
    bool masks_open;
    char *key; /* what it was made of */
    size_t key_len;
    uint64_t hash;
    int uses;
    uint64_t stamp; /* of its last use */
    struct ap_compiled *next;
} ap_compiled;

/* Compiled grammars that nobody uses are kept up to that many. */
#define AP_GRAMMARS_KEPT 32

/* NULL: memory is out. */
ap_grammars *ap_grammars_open(void);
void ap_grammars_close(ap_grammars *all); /* none is in use any more; NULL is fine */

/* Make a grammar of the bytes of a key. */
typedef apus_err (*ap_grammar_maker)(const char *key, size_t len, const void *ctx, ap_grammar *g,
                                     apus_diag *diag);

/* The compiled grammar of a key, made if it is not there; ap_grammars_drop it.
 *   m  the model, which has a tokenizer
 * Errors of the maker; EUNSUPPORTED: tokens have no text of their own; ENOMEM. */
apus_err ap_grammars_take(const apus_model *m, const char *key, size_t len, ap_grammar_maker make,
                          const void *ctx, ap_compiled **out, apus_diag *diag);
void ap_grammars_drop(const apus_model *m, ap_compiled *c); /* NULL is fine */

/* The texts of the model's tokens; NULL before the first grammar was taken. */
const ap_token_trie *ap_grammars_trie(const apus_model *m);

#endif
