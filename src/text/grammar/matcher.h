/* matcher.h - an answer as it grows, token by token, against a grammar.
 *
 * What it allows is a function of the tokens pushed, and tokens can be taken back: for decoding that proposes several
 * tokens and keeps some of them. One thread at a time. */
#ifndef AP_TEXT_GRAMMAR_MATCHER_H
#define AP_TEXT_GRAMMAR_MATCHER_H

#include "text/grammar/token_mask.h"

typedef struct ap_matcher {
    ap_token_masks *masks;
    ap_machine machine;
    int32_t *set; /* [n + 1] after so many tokens */
    size_t n, cap;
    size_t first;   /* tokens before this one cannot be taken back any more */
    uint32_t *last; /* the mask of the set last_set, to be given again; NULL: none */
    int32_t last_set;
} ap_matcher;

/* Tokens that can be taken back at least. */
#define AP_MATCHER_BACK 64

/* Begin with no tokens. The masks outlive it. ENOMEM. */
apus_err ap_matcher_open(ap_matcher *p, ap_token_masks *masks, apus_diag *diag);
void ap_matcher_close(ap_matcher *p); /* of a zeroed struct too */

/* Read a token. false: it may not come here, or memory is out; nothing may follow then. */
bool ap_matcher_push(ap_matcher *p, int32_t id);
/* Take back the last n tokens, n <= AP_MATCHER_BACK and what was pushed. */
void ap_matcher_back(ap_matcher *p, size_t n);

/* May the answer end here? */
bool ap_matcher_ends(const ap_matcher *p);
/* Set `allowed`, u32 [(V + 31) / 32], to the tokens that may follow; those that end an answer are not among them.
 * false: memory is out. */
bool ap_matcher_mask(ap_matcher *p, uint32_t *allowed);

#endif
