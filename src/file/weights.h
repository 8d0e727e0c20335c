/* weights.h - the tensors of a model: a folder of safetensors, a GGUF file, or a configuration alone. */
#ifndef AP_FILE_WEIGHTS_H
#define AP_FILE_WEIGHTS_H

#include <stdbool.h>

#include "base/err.h"
#include "base/notes.h"
#include "file/config.h"
#include "file/gguf.h"
#include "file/quant_config.h"
#include "file/tensor_table.h"
#include "tensor/tensor.h"

typedef struct ap_weights ap_weights;

/* Open `model.safetensors`, else `model.safetensors.index.json` with its shards (the order of
 * transformers). Without an index, or if none of its shards is here: the files that begin with "model" (or
 * "weights."), all those that their names count, else the only *.safetensors of the folder; told in notes
 * (may be NULL). Headers are checked completely (file/safetensors.h); data stays mapped: a file cut short
 * while it is open faults the process. Shards are plain names in the folder; symbolic links are followed,
 * as the Hugging Face cache needs. What the index names but no file holds is left to ap_weights_check. A
 * tensor that two files hold is an error; one that only the shard knows is kept, as transformers keeps it.
 * EFILE, EFORMAT, EUNSUPPORTED (element type), ENOMEM. */
apus_err ap_weights_open(const char *dir, ap_weights **out, ap_notes *notes, apus_diag *diag);

/* Is everything here that the index names and the model needs? What it does not need (towers, drafters)
 * may be missing. EFILE: a file is missing; EFORMAT: it is there without the tensor. */
apus_err ap_weights_check(const ap_weights *w, const ap_tensor_table *table, apus_diag *diag);

/* Open a GGUF file, and the other parts if it is the first of a split model
 * (NAME-00001-of-000NN.gguf). Tensors appear under their Hugging Face names (gguf_hf.h). */
apus_err ap_weights_open_gguf(const char *path, ap_weights **out, apus_diag *diag);

/* Does the folder hold any *.safetensors? One that may not be listed may: opening them says what is wrong. ENOMEM;
 * EFILE. */
apus_err ap_weights_present(const char *dir, bool *present, apus_diag *diag);

/* The tensors that a model of this configuration has (model_tensors.h), as bf16 without any data: for
 * counting and measuring. Their names begin with "model.". dir: for sentences. ENOMEM. */
apus_err ap_weights_imagine(const char *dir, const ap_config *c, ap_weights **out, apus_diag *diag);

/* The files of a GGUF model, [0] with the metadata; NULL for safetensors. */
const ap_gguf *const *ap_weights_gguf(const ap_weights *w, size_t *n);

/* Join packed integers with their scales and biases (NAME.weight, NAME.scales, NAME.biases of MLX;
 * NAME.weight_scale_inv of FP8) into tensors of split types. Where q does not speak of a module, its
 * shapes tell bits and group, with the model's widths in `table` (may be NULL) beyond doubt.
 * EFORMAT: shapes that disagree. */
apus_err ap_weights_join_quantised(ap_weights *w, const ap_quant_config *q,
                                   const ap_tensor_table *table, apus_diag *diag);

/* How this checkpoint stores what converters disagree on. */
typedef struct ap_weights_traits {
    bool norms_shifted;     /* zero-centred norms are stored as 1 + w (GGUF, MLX) */
    bool value_heads_tiled; /* value head h pairs with key head h % Hk (GGUF) */
} ap_weights_traits;
ap_weights_traits ap_weights_traits_of(const ap_weights *w);
void ap_weights_close(ap_weights *w);

/* Copies n bytes at p to dst, by reading the file that holds them (ap_map_read) or, if none of ours does, from
 * memory. EFILE. */
apus_err ap_weights_read(const ap_weights *w, const void *p, size_t n, void *dst, apus_diag *diag);

/* Where the n bytes at p lie: the number of the file and their offset in it. False: in none of ours. */
bool ap_weights_where(const ap_weights *w, const void *p, size_t n, size_t *file, uint64_t *offset);
/* Path of file i of [0, files). */
size_t ap_weights_files(const ap_weights *w);
const char *ap_weights_path(const ap_weights *w, size_t i);

/* Hints about bytes of the files: soon read; read and done with. Ranges may lie anywhere: what is in no
 * file of ours is left alone. `drop_all`: everything. */
void ap_weights_want(const ap_weights *w, const void *p, size_t n);
void ap_weights_drop(const ap_weights *w, const void *p, size_t n);
void ap_weights_drop_all(const ap_weights *w);

/* The tensor of that full name, or NULL. Constant time. */
const ap_tensor *ap_weights_find(const ap_weights *w, const char *name);

/* Iterate in file order: shards by name, tensors by position; i in [0, count). */
size_t ap_weights_count(const ap_weights *w);
const ap_tensor *ap_weights_at(const ap_weights *w, size_t i, const char **name);

/* Path of the file that holds a tensor, for error sentences; if none does, of the only file, or of the folder. */
const char *ap_weights_file(const ap_weights *w, const char *name);

/* The prefix before "embed_tokens.weight" of the text model, such as "model.language_model.";
 * "" if that name has none, NULL if there is no embedding. Ignores vision and mtp tensors. */
const char *ap_weights_text_prefix(const ap_weights *w);

/* Find prefix + formatted suffix and check dtype (F32, F16, BF16) and shape.
 *   rank, shape   expected; a negative size is not checked
 *   optional      absent gives OK with out->data NULL
 * Returns OK; EFORMAT naming file, tensor, expected and found; EUNSUPPORTED: a type that cannot
 * hold weights. */
apus_err ap_weights_need(const ap_weights *w, const char *name, bool optional, int rank,
                         const int64_t *shape, ap_tensor *out, apus_diag *diag);

#endif
