/* bulk.cuh - a contiguous piece of memory to shared memory by one instruction (sm_90), or by all threads. */
#ifndef AP_KERN_CUDA_BULK_CUH
#define AP_KERN_CUDA_BULK_CUH

#include "cuda.cuh"

#ifdef __CUDACC__

#if __CUDA_ARCH__ >= 900
static __device__ __forceinline__ void ap_bulk_issue(uint64_t *arrived, void *to, const void *from,
                                                     uint32_t bytes)
{
    uint32_t bar = (uint32_t)__cvta_generic_to_shared(arrived),
             dst = (uint32_t)__cvta_generic_to_shared(to);
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(bar));
    asm volatile("fence.mbarrier_init.release.cluster;");
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes)
                 : "memory");
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
            "r"(dst),
        "l"(from), "r"(bytes), "r"(bar)
        : "memory");
}
#endif

/* Begin to copy `bytes`, a multiple of 16, between addresses that are multiples of 16. All threads of the block call
 * it; a barrier of the block has to follow before ap_bulk_wait. */
static __device__ __forceinline__ void ap_bulk_begin(uint64_t *arrived, void *to, const void *from,
                                                     uint32_t bytes)
{
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x == 0) ap_bulk_issue(arrived, to, from, bytes);
#else
    (void)arrived;
    for (uint32_t i = threadIdx.x * 16; i < bytes; i += blockDim.x * 16)
        *(uint4 *)((uint8_t *)to + i) = __ldg((const uint4 *)((const uint8_t *)from + i));
#endif
}

/* The same by a warp, for itself. */
static __device__ __forceinline__ void ap_bulk_begin_warp(uint64_t *arrived, void *to,
                                                          const void *from, uint32_t bytes)
{
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x % 32) return;
    ap_bulk_issue(arrived, to, from, bytes);
#else
    (void)arrived;
    for (uint32_t i = threadIdx.x % 32 * 16; i < bytes; i += 32 * 16)
        *(uint4 *)((uint8_t *)to + i) = __ldg((const uint4 *)((const uint8_t *)from + i));
#endif
}

/* Wait for the first copy. */
static __device__ __forceinline__ void ap_bulk_wait(uint64_t *arrived)
{
#if __CUDA_ARCH__ >= 900
    uint32_t bar = (uint32_t)__cvta_generic_to_shared(arrived), done = 0;
    while (!done)
        asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], 0; "
                     "selp.b32 %0, 1, 0, p; }"
                     : "=r"(done)
                     : "r"(bar)
                     : "memory");
#else
    (void)arrived;
#endif
}

#endif
#endif
