/* mma.cuh - bf16 in pairs, the operands of a warp's matrix instructions (ptx.cuh). */
#ifndef AP_KERN_CUDA_MMA_H
#define AP_KERN_CUDA_MMA_H

#include "kern/cuda/ptx.cuh"

static __device__ __forceinline__ float ap_bf16_low(uint32_t pair)
{
    return __uint_as_float(pair << 16);
}
static __device__ __forceinline__ float ap_bf16_high(uint32_t pair)
{
    return __uint_as_float(pair & 0xffff0000u);
}

#endif
