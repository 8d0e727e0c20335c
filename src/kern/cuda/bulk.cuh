/* bulk.cuh - contiguous pieces of memory to shared memory: by one instruction each (sm_90), or by many threads.
 *
 * A barrier in shared memory counts the bytes of a copy: whoever waits for phase 0, 1, 0 ... of it finds the first,
 * second, third copy there. Devices without the instruction copy at once, and the block's barriers order it. */
#ifndef AP_KERN_CUDA_BULK_CUH
#define AP_KERN_CUDA_BULK_CUH

#include "cuda.cuh"

#ifdef __CUDACC__

/* One thread makes n barriers ready; the block's next __syncthreads shows them to the others. */
static __device__ __forceinline__ void ap_bulk_init(uint64_t *arrived, int n)
{
#if __CUDA_ARCH__ >= 900
    for (int i = 0; i < n; i++) {
        uint32_t bar = (uint32_t)__cvta_generic_to_shared(arrived + i);
        ap_barrier_make(bar, 1);
    }
    ap_barriers_publish();
#else
    (void)arrived, (void)n;
#endif
}

/* Begin to copy `bytes`, a multiple of 16, between addresses that are multiples of 16. `threads` threads call it, each
 * with its number; the first one must see that the barrier is ready, and that nobody reads `to` any more. */
static __device__ __forceinline__ void ap_bulk_copy(uint64_t *arrived, void *to, const void *from,
                                                    uint32_t bytes, int thread, int threads)
{
#if __CUDA_ARCH__ >= 900
    (void)threads;
    if (thread) return;
    uint32_t bar = (uint32_t)__cvta_generic_to_shared(arrived),
             dst = (uint32_t)__cvta_generic_to_shared(to);
    ap_barrier_expect(bar, bytes);
    ap_copy_bulk(dst, from, bytes, bar);
#else
    (void)arrived;
    for (uint32_t i = (uint32_t)thread * 16; i < bytes; i += (uint32_t)threads * 16)
        *(uint4 *)((uint8_t *)to + i) = __ldg((const uint4 *)((const uint8_t *)from + i));
#endif
}

/* Wait for a copy. A __syncthreads must lie between its begin and this. */
static __device__ __forceinline__ void ap_bulk_wait(uint64_t *arrived, uint32_t phase)
{
#if __CUDA_ARCH__ >= 900
    ap_barrier_wait((uint32_t)__cvta_generic_to_shared(arrived), phase);
#else
    (void)arrived, (void)phase;
#endif
}

#endif
#endif
