/* weights.h - the tensors of a model folder: one safetensors file, or shards with an index. */
#ifndef AP_FILE_WEIGHTS_H
#define AP_FILE_WEIGHTS_H

#include <stdbool.h>

#include "base/err.h"
#include "tensor/tensor.h"

typedef struct ap_weights ap_weights;

/* Open `model.safetensors.index.json` with its shards, else `model.safetensors`, else the only
 * *.safetensors of the folder. Headers are checked completely (docs/users rules: every offset,
 * overlap, hole, shape product); data stays mapped. Shards may not leave the folder (links into
 * the Hugging Face blobs are followed). A tensor named in the index but absent, or present twice,
 * is an error. */
apus_err ap_weights_open(const char *dir, ap_weights **out, apus_diag *diag);
void ap_weights_close(ap_weights *w);

/* The tensor of that full name, or NULL. Constant time. */
const ap_tensor *ap_weights_find(const ap_weights *w, const char *name);

/* Iterate in file order: i in [0, count). */
size_t ap_weights_count(const ap_weights *w);
const ap_tensor *ap_weights_at(const ap_weights *w, size_t i, const char **name);

/* File that holds a tensor, for error sentences. */
const char *ap_weights_file(const ap_weights *w, const char *name);

/* The prefix before "embed_tokens.weight" of the text model, such as "model.language_model.";
 * "" if that name has none, NULL if there is no embedding. Ignores vision and mtp tensors. */
const char *ap_weights_text_prefix(const ap_weights *w);

/* Find prefix + formatted suffix and check dtype (F32, F16, BF16) and shape.
 *   rank, shape   expected; a negative size is not checked
 *   optional      absent gives OK with out->data NULL
 * Returns OK; EFORMAT naming file, tensor, expected and found. */
apus_err ap_weights_need(const ap_weights *w, const char *name, bool optional, int rank,
                         const int64_t *shape, ap_tensor *out, apus_diag *diag);

#endif
