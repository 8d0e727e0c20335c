/* quant.h - quantised rows to numbers: the definition that every kernel follows.
 *
 * Sources: the GGUF block formats as ggml defines them; MLX's affine and microscaling formats; the
 * block-scaled FP8 of the Hugging Face releases. Checked against independent decoders in
 * tests/unit/tensor. */
#ifndef AP_TENSOR_QUANT_H
#define AP_TENSOR_QUANT_H

#include <stdbool.h>

#include "tensor/tensor.h"

/* Can values of t be read by ap_tensor_row_f32? F32, F16, BF16 and every quantised type. */
bool ap_dtype_is_weight(ap_dtype t);

/* Values [col, col + n) of row `row` of the matrix that all leading axes of t make, as f32.
 *   col, n  multiples of the block (GGUF types) or of the group (split types), except that the last
 *           group of a row may be short for AP_FP8_BLOCK
 * Each value is what the format defines, computed in f32 in the order its definition gives. */
void ap_tensor_row_f32(const ap_tensor *t, int64_t row, int64_t col, int64_t n, float *dst);

#endif
