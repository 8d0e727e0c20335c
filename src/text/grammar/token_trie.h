/* token_trie.h - the texts of a vocabulary's tokens as a tree of bytes.
 *
 * Special tokens, those that are written as markers (<...>) and those that end an answer have no text here: each
 * stands for AP_MARKER_BYTE and the three bytes of its id, which no text has, so a grammar that does not ask for one
 * does not get it. Tokens without text are not in it. */
#ifndef AP_TEXT_GRAMMAR_TOKEN_TRIE_H
#define AP_TEXT_GRAMMAR_TOKEN_TRIE_H

#include <stddef.h>

#include "text/tokenizer.h"

typedef struct ap_token_node {
    uint8_t byte;
    uint8_t depth;    /* bytes of its text; 0: the root, which is node 0 */
    uint16_t n_token; /* tokens of this text, in order from `token` on */
    int32_t token;    /* index into id */
    int32_t skip;     /* the node behind all below this one: children follow it at once */
} ap_token_node;

typedef struct ap_token_trie {
    ap_token_node *node;
    size_t n_node;
    int32_t *id; /* [n_id] in the order of nodes */
    size_t n_id;
    int vocab;
    int longest; /* bytes */
    char *text; /* of token i: [off[i], off[i + 1]), as in the tree; NULL in trees of other texts */
    uint32_t *off;
} ap_token_trie;

/* Tokens of texts longer than that are never chosen under a grammar. */
#define AP_TOKEN_MAX_BYTES 255

/* Make the tree.
 *   vocab    ids of the model; those behind the tokenizer's have no text
 *   is_stop  ids that end an answer: markers too
 * Returns OK; EUNSUPPORTED: a decoder whose tokens have no text of their own; ENOMEM. */
apus_err ap_token_trie_make(const ap_tokenizer *t, int vocab,
                            bool (*is_stop)(const void *, int32_t), const void *ctx,
                            ap_token_trie *out, apus_diag *diag);
/* The same from texts: text i, of len[i] bytes, is token i; 0 bytes: none. For tests. */
apus_err ap_token_trie_of(const char *const *text, const size_t *len, int n, ap_token_trie *out,
                          apus_diag *diag);
/* A tree of some texts with their ids, which are sorted. ENOMEM. */
typedef struct ap_token_text {
    const char *s;
    uint32_t len; /* 1 .. AP_TOKEN_MAX_BYTES */
    int32_t id;
} ap_token_text;
apus_err ap_token_trie_build(ap_token_text *text, size_t n, int vocab, ap_token_trie *out,
                             apus_diag *diag);
void ap_token_trie_free(ap_token_trie *t);

#endif
