/* gguf_vocab.h - the vocabulary of a GGUF file, put right where writers are known to go wrong. */
#ifndef AP_FILE_GGUF_VOCAB_H
#define AP_FILE_GGUF_VOCAB_H

#include "base/notes.h"
#include "file/family_tokens.h"
#include "file/gguf.h"

typedef struct ap_vocab_entry {
    const char *s; /* in the file */
    size_t n;
    ap_token_kind kind;
    bool twice; /* a later entry has the same text, and stands for it */
} ap_vocab_entry;

typedef struct ap_gguf_vocab {
    ap_vocab_entry *token; /* [n] */
    size_t n;
    bool *merge_lost; /* [n_merges]: the merge needs a text that no token has; NULL: none does */
    size_t n_merges;
    ap_arena arena; /* texts that were taken from merges */
} ap_gguf_vocab;

/* Read tokenizer.ggml.tokens, .token_type and .merges, which are lists of strings (merges may be NULL).
 *
 * Control tokens that are marked as normal, or not marked at all, are known by their texts. Where a
 * text stands twice, another is lost: the merges name it, and where their order says which of the two
 * is meant, that one gets its text back. Both are told in notes. ENOMEM. */
apus_err ap_gguf_vocab_read(const ap_gguf *g, const ap_family_tokens *f, ap_gguf_vocab *out,
                            ap_notes *notes, apus_diag *diag);
void ap_gguf_vocab_free(ap_gguf_vocab *v);

#endif
