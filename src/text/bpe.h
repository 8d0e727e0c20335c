/* bpe.h - byte pair encoding of one word: ranks of merges, the lowest rank first, leftmost on ties.
 *
 * Source: the model "BPE" of the Hugging Face tokenizers library. */
#ifndef AP_TEXT_BPE_H
#define AP_TEXT_BPE_H

#include "base/err.h"
#include "text/vec.h"
#include "text/vocab.h"

typedef struct ap_bpe {
    ap_vocab vocab;
    bool byte_fallback, fuse_unk, ignore_merges;
    bool has_unk;
    int32_t unk; /* -1: unk_token is not in the vocabulary, an error once it is needed */
    /* Filled by ap_bpe_finish. */
    struct ap_merge {
        int32_t left, right; /* left -1 = empty slot */
        uint32_t rank;
    } * merges; /* [merge_mask + 1], open addressing */
    size_t merge_mask;
    int32_t *made; /* [n_merges] id that a merge makes, by rank */
    size_t n_merges;
    uint64_t *joints; /* bit set over (last character, first character): can a merge join there? */
    uint32_t joint_mask;
    int32_t *chars;       /* [65536] id of a one-character text, or -1 */
    int32_t bytes[256];   /* id of <0xNN>, or -1 */
    int32_t unk_edges[2]; /* first and last character of the unknown token */
} ap_bpe;

/* Merges as they stand in a file, before the vocabulary is known: per merge two u32 lengths and the
 * two texts. */
typedef struct ap_merge_list {
    char *data;
    size_t len, cap, n;
} ap_merge_list;

bool ap_merge_list_add(ap_merge_list *l, const char *a, size_t an, const char *b, size_t bn);
void ap_merge_list_free(ap_merge_list *l);

/* Index the vocabulary and resolve the merges. name is used in errors.
 * Returns OK; EFORMAT: ids out of range or given twice, a merge of unknown tokens; ENOMEM. */
apus_err ap_bpe_finish(ap_bpe *b, const ap_merge_list *merges, const char *name, apus_diag *diag);
void ap_bpe_free(ap_bpe *b);

/* The GPT-2 alphabet: a character for each byte, and back (-1: not of the alphabet). */
uint32_t ap_bpe_byte_char(uint8_t byte);
int ap_bpe_char_byte(uint32_t cp);

/* Scratch of one encoding; all zero to begin with. */
typedef struct ap_bpe_work {
    int32_t *id;
    size_t id_cap, n;
    uint32_t *rank;
    size_t rank_cap;
    struct ap_bpe_link {
        uint32_t prev, next;
    } * link;
    size_t link_cap;
    uint64_t *heap; /* rank << 32 | position */
    size_t heap_cap, heap_n;
    char *text;
    size_t text_cap;
} ap_bpe_work;
void ap_bpe_work_free(ap_bpe_work *w);

/* Append the ids of a word.
 *   s, n   valid UTF-8, at most UINT32_MAX / 4 bytes
 *   bytes  the word stands for its bytes spelt in the GPT-2 alphabet
 * Returns OK; EFORMAT: the unknown token is needed and missing; ENOMEM. */
apus_err ap_bpe_encode(const ap_bpe *b, ap_bpe_work *w, const char *s, size_t n, bool bytes,
                       ap_ids *out, apus_diag *diag);

#endif
