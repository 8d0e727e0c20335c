/* wgmma.cuh - operands of a warpgroup's matrix instructions (ptx.cuh) in shared memory. */
#ifndef AP_KERN_CUDA_WGMMA_CUH
#define AP_KERN_CUDA_WGMMA_CUH

#include "kern/cuda/ptx.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/* An operand at an address of shared memory that is a multiple of 1024. 16 more of k: 2 more. */
static __device__ __forceinline__ uint64_t ap_wgmma_operand(uint32_t address)
{
    return (uint64_t)(address >> 4 & 0x3fff) | (uint64_t)1 << 16 | (uint64_t)(1024 >> 4) << 32 |
           (uint64_t)1 << 62;
}

#endif
#endif
