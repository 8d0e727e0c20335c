/* quantize_affine.h - numbers to MLX's affine format, the inverse of what quant.h reads.
 *
 * Each group of `group` neighbours gets a scale and a bias; a value w becomes the integer q with
 * w ~ scale * q + bias, 0 <= q < 2^bits. The bias is the end of the group's range that is farther
 * from zero, and the scale is adjusted so that zero is exact. Source: the definition of
 * mlx.core.quantize, whose integers, scales and biases these equal bit for bit. */
#ifndef AP_TENSOR_QUANTIZE_AFFINE_H
#define AP_TENSOR_QUANTIZE_AFFINE_H

#include "tensor/dtype.h"

/* Encode n values.
 *   w       f32 [n], finite; values of the type `to` for MLX's results
 *   bits    2, 3, 4, 5, 6, 8
 *   group   32, 64, 128; n is a multiple of it
 *   to      F32, F16 or BF16: type of scales and biases
 *   packed  out, n * bits / 8 bytes: the integers as one little-endian string of bits
 *   scales, biases  out, `to` [n / group], any alignment */
void ap_quantize_affine(const float *w, size_t n, int bits, int group, ap_dtype to, uint8_t *packed,
                        void *scales, void *biases);

#endif
