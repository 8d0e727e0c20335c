/* gguf_layout.h - how the tensors of a model (model_tensors.h) lie in a GGUF file: the inverse of what
 * gguf_hf.h and the model's binding undo.
 *
 * Norms that multiply by 1 + w are stored as 1 + w, A_log as -exp(A_log). qwen35 and qwen35moe hold
 * value heads in tiled order: head kh * r + j of the model (r value heads per key head) is head
 * j * Hk + kh of the file, in every tensor that has value heads. qwen3next's joint projection is
 * taken apart into all q, k and v, and all z. Gate and up rows of Qwen's experts are two tensors.
 * Source: the model specifications, sections on GGUF. */
#ifndef AP_FILE_GGUF_LAYOUT_H
#define AP_FILE_GGUF_LAYOUT_H

#include "file/model_tensors.h"

typedef enum ap_gguf_map {
    AP_GGUF_AS_IS,
    AP_GGUF_HALVES,     /* of the rows of each expert: gate or up */
    AP_GGUF_TILED_ROWS, /* value heads from row `begin` on */
    AP_GGUF_TILED_COLS,
    AP_GGUF_QKVZ_QKV, /* rows of a joint projection, grouped by key head */
    AP_GGUF_QKVZ_Z
} ap_gguf_map;

typedef enum ap_gguf_value_op {
    AP_GGUF_SAME,
    AP_GGUF_ADD_ONE,
    AP_GGUF_NEG_EXP /* -exp(x) */
} ap_gguf_value_op;

typedef struct ap_gguf_out {
    char name[96];
    int rank;
    int64_t shape[3];
    size_t rows, cols; /* all leading axes, last axis */
    ap_gguf_map map;
    ap_gguf_value_op op;
    bool vector;                   /* F32 whatever the recipe: vectors, convolutions */
    size_t run, stride, begin;     /* HALVES; begin also of TILED_ROWS */
    size_t key_heads, ratio, dims; /* of TILED_*, QKVZ_*: Hk, value heads per key head, Dv */
    size_t key_dims;               /* of QKVZ_*: Dk */
} ap_gguf_out;

/* The GGUF tensors that t becomes, one or two, into out[2]; returns their number. */
int ap_gguf_layout(const ap_config *c, const ap_model_tensor *t, ap_gguf_out out[2]);

/* Row of t (of the matrix that all its leading axes make) that row r of the output is. */
size_t ap_gguf_row_of(const ap_gguf_out *o, size_t r);
/* Likewise columns; equal to c unless map is TILED_COLS. */
size_t ap_gguf_col_of(const ap_gguf_out *o, size_t c);

/* Divisors of the angles of full layers, "rope_freqs.weight" (ap_family.freqs): ones, then 1e30.
 *   n  out, how many: half the head size of full layers
 *   turning  out, how many of them are ones */
void ap_gguf_rope_freqs(const ap_config *c, int *n, int *turning);

#endif
