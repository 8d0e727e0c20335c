/* quantize_row.h - numbers to the types of GGUF, the inverse of what quant.h reads.
 *
 * F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and MXFP4 are rounded in the one customary way: the block's
 * largest value sets the scale. The bytes equal those of gguf-py. For Q2_K to Q6_K and IQ4_NL, IQ4_XS
 * the format leaves the choice of scales open; here a search over candidate scales of each group,
 * each solved by weighted least squares with weights rms + |w|, then a least-squares fit of the
 * superblock's own factors to the integers chosen. The same input gives the same bytes everywhere. */
#ifndef AP_TENSOR_QUANTIZE_ROW_H
#define AP_TENSOR_QUANTIZE_ROW_H

#include <stdbool.h>

#include "tensor/dtype.h"

/* Can ap_quantize_row write t? F32, F16, BF16 and the types named above. */
bool ap_quantize_can(ap_dtype t);

/* Encode n values.
 *   w    f32 [n], finite; n a multiple of ap_dtype_block(t)
 *   out  n / block * ap_dtype_block_bytes(t) bytes, any alignment */
void ap_quantize_row(ap_dtype t, const float *w, size_t n, void *out);

#endif
