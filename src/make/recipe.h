/* recipe.h - which type each matrix gets when a model is quantised.
 *
 * A recipe file is lines of "PATTERN TYPE"; the first line whose pattern fits a tensor's name decides,
 * what no line fits follows the default recipe. '#' begins a comment. A pattern is a name with '*' for
 * any characters and '?' for one; names are those of Hugging Face without the text model's prefix,
 * such as "layers.3.self_attn.v_proj.weight", "layers.*.mlp.experts.down_proj" or "embed_tokens.weight".
 * Types of a GGUF file: f32, f16, bf16, q4_0, ..., of an MLX folder: 2, 3, 4, 5, 6, 8 or keep. */
#ifndef AP_MAKE_RECIPE_H
#define AP_MAKE_RECIPE_H

#include "base/err.h"
#include "file/config.h"
#include "file/model_tensors.h"
#include "tensor/dtype.h"

typedef struct ap_recipe ap_recipe;

/* One choice. GGUF: dtype. MLX: bits, 0 = keep. */
typedef struct ap_choice {
    ap_dtype dtype;
    int bits;
} ap_choice;

/* Read a recipe. name: what to call it in errors. gguf: the kind of types. EFORMAT with the line. */
apus_err ap_recipe_parse(const char *text, size_t len, const char *name, bool gguf, ap_recipe **out,
                         apus_diag *diag);
void ap_recipe_free(ap_recipe *r);

/* The line for that tensor. false: none (also for r NULL). Marks the line as used. */
bool ap_recipe_find(ap_recipe *r, const char *tensor, ap_choice *out);

/* A line that no tensor fitted, or NULL: a mistyped pattern should not pass unseen. */
const char *ap_recipe_unused(const ap_recipe *r, int *line);

/* "q4_k", "bf16", ... to a type that GGUF files can be quantised to; false: unknown. */
bool ap_gguf_target(const char *name, ap_dtype *out);
/* The same for every type that GGUF files can hold. */
bool ap_gguf_known(const char *name, ap_dtype *out);

/* The type of a matrix of that name in a GGUF file whose target is `target`: small and sensitive
 * matrices get more bits (docs/quantising.md lists them). */
ap_dtype ap_recipe_default(ap_dtype target, const ap_config *c, const ap_model_tensor *t);

/* Bits of the matrix of that name in MLX's format of `bits`; 0: it stays as it is. */
int ap_recipe_mlx_default(int bits, const char *name);

/* A type near `want` that rows of `cols` values fit into. */
ap_dtype ap_type_for_width(ap_dtype want, size_t cols);

#endif
