/* gguf_merges.h - merges for a vocabulary that has scores instead. */
#ifndef AP_FILE_GGUF_MERGES_H
#define AP_FILE_GGUF_MERGES_H

#include "base/json.h"
#include "file/gguf_vocab.h"

/* Append the merges that do what SentencePiece does by the scores of the tokens, as a JSON list of pairs: of
 * each token, every cut into two that are tokens; higher scores first, then longer left parts. Source:
 * transformers, convert_slow_tokenizer. ENOMEM. */
apus_err ap_gguf_merges_from_scores(const ap_gguf_vocab *v, const ap_gguf_value *scores,
                                    ap_buf *out, apus_diag *diag);

#endif
