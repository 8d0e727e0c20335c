/* cuda_bf16.h - stands for the toolkit's. */
#ifndef EMULATE_CUDA_BF16_H
#define EMULATE_CUDA_BF16_H

#include "cuda_runtime.h"

struct __nv_bfloat16 {
    uint16_t bits;
};
struct __nv_bfloat162 {
    __nv_bfloat16 x, y;
};
static inline uint16_t emulate_to_bf16(float v)
{
    uint32_t u = __float_as_uint(v);
    return (uint16_t)(v != v ? 0x7fff : (u + 0x7fff + (u >> 16 & 1)) >> 16);
}
static inline __nv_bfloat16 __float2bfloat16_rn(float v)
{
    return {emulate_to_bf16(v)};
}
static inline uint16_t __bfloat16_as_ushort(__nv_bfloat16 v)
{
    return v.bits;
}
static inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b)
{
    return {{emulate_to_bf16(a)}, {emulate_to_bf16(b)}};
}

#endif
