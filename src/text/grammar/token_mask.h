/* token_mask.h - which tokens may come next under a grammar.
 *
 * A token is a string of bytes, and most of what decides about it is near: the state that the grammar is in, not the
 * stack below. So the vocabulary is walked once for each state, with a stack that is not known: tokens that stay
 * inside the state's rule are allowed or not, once and for all; of those that go on behind the rule's end, what they
 * have left there is kept, as a tree of its own, which is small and is walked with the real stack each time. Inside a
 * rule that may come a counted number of times, how often it may still come is a part of the state as far as one
 * token can reach. */
#ifndef AP_TEXT_GRAMMAR_TOKEN_MASK_H
#define AP_TEXT_GRAMMAR_TOKEN_MASK_H

#include "base/thread.h"
#include "text/grammar/machine.h"
#include "text/grammar/token_trie.h"

typedef struct ap_near ap_near;

/* Any number of threads. */
typedef struct ap_token_masks {
    const ap_grammar *g;
    const ap_token_trie *trie;
    ap_mutex lock; /* of what follows */
    ap_near **bucket;
    size_t n_near, near_bytes;
    ap_machine walk; /* of stacks that are not known */
    bool walk_open;
    int32_t **step; /* [step_cap] of set i of walk: [256] sets; NULL = not asked so far */
    size_t step_cap;
    ap_frame *frame; /* scratch */
    size_t frame_cap;
} ap_token_masks;

/* Begin. The grammar is finished; it and the trie outlive the masks. ENOMEM. */
apus_err ap_token_masks_open(ap_token_masks *t, const ap_grammar *g, const ap_token_trie *trie,
                             apus_diag *diag);
void ap_token_masks_close(ap_token_masks *t);

/* Set the bits of the tokens that may follow a set of m, a machine of the same grammar.
 *   allowed  u32 [(V + 31) / 32]
 * false: memory was out. */
bool ap_token_masks_add(ap_token_masks *t, ap_machine *m, int32_t set, uint32_t *allowed);

/* Bytes of memory taken. */
size_t ap_token_masks_size(ap_token_masks *t);

#endif
