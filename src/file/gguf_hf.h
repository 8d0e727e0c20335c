/* gguf_hf.h - a GGUF file told as a Hugging Face folder: its metadata as config.json,
 * generation_config.json, tokenizer.json and tokenizer_config.json texts, its tensors under their
 * Hugging Face names. So one validated reader serves both containers.
 *
 * What differs in the numbers (norms stored as 1 + w, value heads in tiled order) is told by
 * ap_weights_traits. Source: the model specifications, sections on GGUF. */
#ifndef AP_FILE_GGUF_HF_H
#define AP_FILE_GGUF_HF_H

#include "base/json.h"
#include "base/notes.h"
#include "file/family.h"
#include "file/gguf.h"

/* parts: the files of a split model, [0] with the metadata. EUNSUPPORTED: architecture by name. */
apus_err ap_gguf_config_json(const ap_gguf *const *parts, size_t n_parts, ap_buf *out,
                             apus_diag *diag);
/* EFORMAT, EUNSUPPORTED. */
apus_err ap_gguf_family_of(const ap_gguf *g, const ap_family **out, apus_diag *diag);

/* Nothing is appended when the file has no tokenizer (or no template). What is odd about the file and
 * was put right is told in notes. */
apus_err ap_gguf_tokenizer_json(const ap_gguf *g, ap_buf *out, ap_notes *notes, apus_diag *diag);
/* given: a chat template to use instead of the file's own; NULL: none. */
apus_err ap_gguf_tokenizer_config_json(const ap_gguf *g, const char *given, size_t given_len,
                                       ap_buf *out, apus_diag *diag);
/* general.sampling.* and the ids never to generate. */
apus_err ap_gguf_generation_json(const ap_gguf *g, ap_buf *out, ap_notes *notes, apus_diag *diag);

/* The members of tokenizer.json from "normalizer" on, up to the opening of "model" and its type.
 * marks: as in ap_family. bos: the token before every text, -1: none. */
void ap_tokenizer_pipeline(const ap_family_tokens *f, bool marks, int64_t bos, ap_buf *out);

/* Hugging Face name of a tensor into out; false: not a tensor of the text model. */
bool ap_gguf_tensor_name(const char *gguf, const ap_family *f, char *out, size_t cap);
/* The same of a tensor of the head for the next tokens, whose block is `first`: as "mtp." published it. */
bool ap_gguf_head_name(const char *gguf, int first, const ap_family *f, char *out, size_t cap);
/* The first block of that head among the tensors of a file, or -1. */
int ap_gguf_head_block(const ap_gguf *g);
/* The other way, from a name beginning with "model." or "lm_head.". */
bool ap_gguf_name_of(const char *hf, const ap_family *f, char *out, size_t cap);

#endif
