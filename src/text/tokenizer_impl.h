/* tokenizer_impl.h - inside a tokenizer: for the files that load, run and stream it. */
#ifndef AP_TEXT_TOKENIZER_IMPL_H
#define AP_TEXT_TOKENIZER_IMPL_H

#include "text/added.h"
#include "text/bpe.h"
#include "text/decoder.h"
#include "text/pretok.h"
#include "text/tokenizer.h"

struct ap_tokenizer {
    ap_bpe bpe;
    ap_added added;
    ap_normalizer normalizer;
    ap_pretok pretok;
    ap_decoder decoder;
    ap_ids before, after; /* what the post-processor puts around a text */
    int32_t n_ids;        /* highest id + 1 */
    int32_t eos;          /* of tokenizer_config.json; -1: none */
    uint8_t *special;     /* [n_ids] left out when special tokens are skipped */
};

/* Text of an id as decoding sees it, or NULL: the id names no token. */
const char *ap_tokenizer_text(const ap_tokenizer *t, int32_t id, size_t *len);

/* Add the tokens of "added_tokens_decoder" in tokenizer_config.json that tokenizer.json lacks. */
apus_err ap_tokenizer_add_config(ap_tokenizer *t, const char *json, size_t len, const char *name,
                                 apus_diag *diag);
/* Work out n_ids, special and the matchers, after tokens were added. */
apus_err ap_tokenizer_finish(ap_tokenizer *t, const char *name, apus_diag *diag);

#endif
