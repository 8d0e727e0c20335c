/* order.cuh - floats as unsigned integers of the same order. */
#ifndef AP_KERN_CUDA_ORDER_CUH
#define AP_KERN_CUDA_ORDER_CUH

#include "kern/cuda/cuda.cuh"

/* More than 0, so that 0 can stand for nothing. NaN counts as -inf, -0 as 0. */
static __device__ __forceinline__ uint32_t ap_order_of(float v)
{
    uint32_t u = __float_as_uint(v == v ? v == 0 ? 0.0f : v : -INFINITY);
    return u >> 31 ? ~u : u | 0x80000000u;
}

static __device__ __forceinline__ float ap_float_of(uint32_t order)
{
    return __uint_as_float(order >> 31 ? order & 0x7fffffffu : ~order);
}

#endif
