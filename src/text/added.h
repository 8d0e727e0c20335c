/* added.h - tokens that are found in the text before anything else happens to it.
 *
 * Source: AddedVocabulary of the Hugging Face tokenizers library, with its order of things: tokens
 * that are not normalised are found in the raw text, the others in the normalised pieces between
 * them; the leftmost match wins, then the longest. */
#ifndef AP_TEXT_ADDED_H
#define AP_TEXT_ADDED_H

#include "base/arena.h"
#include "base/err.h"
#include "text/vec.h"
#include "text/vocab.h"

typedef struct ap_added_token {
    const char *text; /* in the arena, as are all texts here */
    size_t len;
    const char *norm; /* normalised, what is matched and decoded; = text if nothing changed */
    size_t norm_len;
    int32_t id;
    bool special, single_word, lstrip, rstrip, normalized;
} ap_added_token;

typedef struct ap_trie {
    struct ap_trie_edge {
        uint32_t key;   /* node << 8 | byte, + 1; 0 = empty slot */
        uint32_t child; /* node */
    } * edges;          /* [mask + 1] */
    size_t mask, n_edges;
    int32_t *token; /* [n_nodes] index of the token that ends here, or -1 */
    size_t n_nodes, cap;
    bool first[256]; /* bytes that a token can begin with */
    bool empty;
} ap_trie;

typedef struct ap_added {
    ap_arena arena;
    ap_vocab texts; /* text -> index into facts */
    struct ap_added_fact {
        int32_t id;
        bool special; /* once special, always special */
    } * facts;
    size_t n_facts, facts_cap;
    ap_added_token *tokens; /* the last one given for each id */
    size_t n_tokens, tokens_cap;
    int32_t *by_id; /* [by_id_cap] index into tokens + 1; 0 = none */
    size_t by_id_cap;
    int32_t next_id, top_id;
    ap_trie raw, normal;
} ap_added;

/* next_id: the first id for texts that the model's vocabulary lacks (its number of tokens). */
void ap_added_init(ap_added *a, int32_t next_id);
void ap_added_free(ap_added *a);

/* Add a token. id: that of the text in the model's vocabulary, or -1; the token's own id field is
 * set here. norm may equal text. Texts are copied. The same text again changes its properties.
 * Returns OK; EFORMAT: ids run out; ENOMEM. */
apus_err ap_added_put(ap_added *a, const ap_added_token *token, int32_t id, apus_diag *diag);

/* Build the matchers. EFORMAT: two tokens match the same text, or one matches the empty text. */
apus_err ap_added_finish(ap_added *a, const char *name, apus_diag *diag);

/* Id of an exact text, or -1; token of an id, or NULL. */
int32_t ap_added_id(const ap_added *a, const char *s, size_t n);
const ap_added_token *ap_added_token_of(const ap_added *a, int32_t id);
/* Is it special, or written as a marker? */
bool ap_added_marked(const ap_added *a, const ap_added_token *t);
/* Was this text ever added as special? */
bool ap_added_special(const ap_added *a, const char *s, size_t n);

/* Called with the pieces of a text in order: id -1 = text between tokens. */
typedef apus_err (*ap_added_fn)(void *ctx, int32_t id, size_t from, size_t to);
/* Which tokens match: all; all but special ones; none that is special or written as a marker, <...> or [...];
 * those alone. */
typedef enum ap_added_which {
    AP_ADDED_ALL,
    AP_ADDED_ORDINARY,
    AP_ADDED_UNMARKED,
    AP_ADDED_MARKED
} ap_added_which;
/* normal: use the normalised set. */
apus_err ap_added_split(const ap_added *a, bool normal, ap_added_which which, const char *s,
                        size_t n, ap_added_fn fn, void *ctx);

#endif
