/* dtype.h - element types and their scalar conversions (the definition that kernels follow). */
#ifndef AP_TENSOR_DTYPE_H
#define AP_TENSOR_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef enum ap_dtype {
    AP_F32 = 0,
    AP_F16,
    AP_BF16,
    AP_F64,
    AP_I8,
    AP_I16,
    AP_I32,
    AP_I64,
    AP_U8,
    AP_U16,
    AP_U32,
    AP_U64,
    AP_BOOL,
    AP_F8_E4M3,
    AP_F8_E5M2,

    /* Block types of GGUF: a row is whole blocks that carry their own scales. */
    AP_Q4_0,
    AP_Q4_1,
    AP_Q5_0,
    AP_Q5_1,
    AP_Q8_0,
    AP_Q2_K,
    AP_Q3_K,
    AP_Q4_K,
    AP_Q5_K,
    AP_Q6_K,
    AP_IQ2_XXS,
    AP_IQ2_XS,
    AP_IQ2_S,
    AP_IQ3_XXS,
    AP_IQ3_S,
    AP_IQ4_NL,
    AP_IQ4_XS,
    AP_MXFP4,

    /* Split types: packed integers, scales (and biases) in tensors of their own, see ap_tensor. */
    AP_MLX_AFFINE, /* bits 2,3,4,5,6,8; group 32,64,128; w = scale q + bias */
    AP_MLX_MXFP4,  /* e2m1, group 32, e8m0 scales */
    AP_MLX_NVFP4,  /* e2m1, group 16, e4m3 scales */
    AP_MLX_MXFP8,  /* e4m3, group 32, e8m0 scales */
    AP_FP8_BLOCK,  /* e4m3, one f32 or bf16 scale per block of 128 x 128 */
    AP_DTYPE_COUNT
} ap_dtype;

const char *ap_dtype_name(ap_dtype t); /* "bf16", "q4_k", ... */
size_t ap_dtype_bytes(ap_dtype t);     /* of one element; 0 for block and split types */
int ap_dtype_block(ap_dtype t); /* elements of a block; 1 for plain types, 0 for split types */
size_t ap_dtype_block_bytes(ap_dtype t); /* bytes of a block; 0 for split types */

static inline float ap_bf16_to_f32(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}
float ap_f16_to_f32(uint16_t h);
uint16_t ap_f32_to_bf16(float f); /* nearest even; NaN stays NaN */
uint16_t ap_f32_to_f16(float f);

/* n elements of type t at src (any alignment) to f32. t: F32, F16, BF16. */
void ap_to_f32(ap_dtype t, const void *src, float *dst, size_t n);

#endif
