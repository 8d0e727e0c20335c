/* vocab.h - token texts and their ids, both ways. */
#ifndef AP_TEXT_VOCAB_H
#define AP_TEXT_VOCAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The largest id is AP_VOCAB_MAX_ID: it bounds the table of texts by id. */
#define AP_VOCAB_MAX_ID ((1 << 22) - 1)

typedef struct ap_vocab_slot {
    uint32_t hash; /* upper half; the lower half chooses the slot */
    uint32_t off;  /* in pool, + 1: 0 = empty slot */
    uint32_t len;
    int32_t id;
} ap_vocab_slot;

typedef struct ap_vocab {
    ap_vocab_slot *slots; /* [mask + 1], linear probing; NULL while empty */
    size_t mask, n;
    char *pool;
    size_t pool_len, pool_cap;
    struct ap_vocab_text {
        uint32_t off, len; /* off as in a slot */
    } * by_id;             /* [n_ids] after ap_vocab_index */
    int32_t n_ids;         /* highest id + 1 */
    struct ap_vocab_alias {
        int32_t id;
        uint32_t off, len;
    } * alias; /* [n_alias] */
    size_t n_alias, alias_cap;
    size_t longest; /* bytes of the longest text */
} ap_vocab;

/* All zero is an empty vocabulary. */
void ap_vocab_free(ap_vocab *v);

/* The id slot of a text, added with id -1 if new; valid until the next put. NULL: memory is out or
 * texts exceed 4 GB. */
int32_t *ap_vocab_put(ap_vocab *v, const char *s, size_t n);

/* One more id that decodes to the text of a slot, which keeps its own id. false: memory is out. */
bool ap_vocab_alias(ap_vocab *v, const int32_t *slot, int32_t id);

/* Build by_id. Returns 0; 1: an id is outside [0, AP_VOCAB_MAX_ID]; 2: two texts share an id;
 * 3: memory is out. *bad gets the id for 1 and 2. */
int ap_vocab_index(ap_vocab *v, int32_t *bad);

uint64_t ap_vocab_hash(const char *s, size_t n);

/* Id of a text, or -1. */
int32_t ap_vocab_find(const ap_vocab *v, const char *s, size_t n);
/* The same with the hash at hand, and fetching the slot into the cache beforehand. */
int32_t ap_vocab_find_hashed(const ap_vocab *v, const char *s, size_t n, uint64_t hash);
static inline void ap_vocab_prefetch(const ap_vocab *v, uint64_t hash)
{
    if (v->slots) __builtin_prefetch(&v->slots[hash & v->mask]);
}

/* Text of an id (not zero-terminated), or NULL if there is none. */
const char *ap_vocab_text(const ap_vocab *v, int32_t id, size_t *len);

#endif
