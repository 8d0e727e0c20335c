/* tokenizer.h - tokenizer.json to a tokenizer, text to ids and back.
 *
 * Kinds: byte-level BPE (Qwen) and BPE with byte fallback (Gemma). Source: the Hugging Face
 * tokenizers library, checked in tests/unit. */
#ifndef AP_TEXT_TOKENIZER_H
#define AP_TEXT_TOKENIZER_H

#include <stdbool.h>

#include "base/err.h"

typedef struct ap_tokenizer ap_tokenizer;

/* Read dir/tokenizer.json (and dir/tokenizer_config.json where special tokens are only there).
 * EFILE if tokenizer.json is missing; EFORMAT, EUNSUPPORTED by component name. */
apus_err ap_tokenizer_load(const char *dir, ap_tokenizer **out, apus_diag *diag);
/* From memory, for tests and fuzzing. name is used in errors. */
apus_err ap_tokenizer_parse(const char *json, size_t len, const char *name, ap_tokenizer **out,
                            apus_diag *diag);
void ap_tokenizer_free(ap_tokenizer *t);

int ap_tokenizer_vocab(const ap_tokenizer *t); /* highest id + 1 */
/* Id of a token's exact text (added tokens included), or -1. */
int32_t ap_tokenizer_id(const ap_tokenizer *t, const char *token, size_t len);
/* Id of the eos_token that tokenizer_config.json names, or -1. */
int32_t ap_tokenizer_eos(const ap_tokenizer *t);
bool ap_tokenizer_is_special(const ap_tokenizer *t, int32_t id);

/* As apus_tokenize: flags APUS_TOK_*. Thread-safe on a const tokenizer. */
apus_err ap_tokenizer_encode(const ap_tokenizer *t, const char *text, size_t len, unsigned flags,
                             int32_t **ids, size_t *n, apus_diag *diag);
/* As apus_detokenize. */
apus_err ap_tokenizer_decode(const ap_tokenizer *t, const int32_t *ids, size_t n, bool skip_special,
                             char **text, size_t *len, apus_diag *diag);

/* Streaming decoder behind apus_detok_*. */
typedef struct ap_detok ap_detok;
apus_err ap_detok_create(const ap_tokenizer *t, bool skip_special, ap_detok **out, apus_diag *diag);
apus_err ap_detok_push(ap_detok *d, int32_t id, const char **piece, size_t *len, apus_diag *diag);
apus_err ap_detok_finish(ap_detok *d, const char **piece, size_t *len);
void ap_detok_free(ap_detok *d);

#endif
