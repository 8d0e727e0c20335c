/* cuda_fp16.h - stands for the toolkit's. */
#ifndef EMULATE_CUDA_FP16_H
#define EMULATE_CUDA_FP16_H

#include "cuda_runtime.h"

struct __half {
    uint16_t bits;
};
struct __half2 {
    __half x, y;
};
static inline __half __ushort_as_half(uint16_t v)
{
    return {v};
}
static inline float __half2float(__half h)
{
    uint32_t sign = (uint32_t)(h.bits & 0x8000) << 16, e = h.bits >> 10 & 31, m = h.bits & 1023;
    if (e == 31) return __uint_as_float(sign | 0x7f800000u | m << 13);
    if (e) return __uint_as_float(sign | (e + 112) << 23 | m << 13);
    float v = (float)m * 0x1p-24f;
    return sign ? -v : v;
}
static inline float2 __half22float2(__half2 v)
{
    return {__half2float(v.x), __half2float(v.y)};
}

#endif
