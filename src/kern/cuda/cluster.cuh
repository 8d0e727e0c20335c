/* cluster.cuh - blocks that share their memory (thread block clusters, sm_90), and their launch.
 *
 * Kernels take the size of their clusters as a template parameter; 1 is a plain grid, for devices that
 * have no clusters. */
#ifndef AP_KERN_CUDA_CLUSTER_H
#define AP_KERN_CUDA_CLUSTER_H

#include "kern/cuda/cuda.cuh"

/* ap_launch, in clusters of `cluster` neighbours along x (at most 8; grid.x is a multiple of it). */
template <typename... P, typename... A>
static inline void ap_launch_cluster(const ap_exec *x, void (*kernel)(P...), dim3 grid, dim3 block,
                                     int cluster, size_t shared, A... args)
{
    ap_cuda *c = ap_cuda_of(x);
    if (!grid.x || !grid.y || !grid.z) return;
    cudaLaunchConfig_t cfg = {};
    cudaLaunchAttribute attr[2] = {};
    attr[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attr[0].val.programmaticStreamSerializationAllowed = 1;
    attr[1].id = cudaLaunchAttributeClusterDimension;
    attr[1].val.clusterDim.x = (unsigned)cluster;
    attr[1].val.clusterDim.y = attr[1].val.clusterDim.z = 1;
    cfg.gridDim = grid;
    cfg.blockDim = block;
    cfg.dynamicSmemBytes = shared;
    cfg.stream = c->stream;
    cfg.attrs = attr;
    cfg.numAttrs = c->arch < 90 ? 0 : cluster > 1 ? 2 : 1;
    if (shared > 48 * 1024)
        ap_cuda_check(c,
                      cudaFuncSetAttribute((const void *)kernel,
                                           cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           (int)shared),
                      "shared memory of a kernel");
    ap_cuda_check(c, cudaLaunchKernelEx(&cfg, kernel, P(args)...), "a launch");
}

#ifdef __CUDACC__
/* All threads of the cluster; what they wrote to shared memory before is seen after. */
template <int CLUSTER> static __device__ __forceinline__ void ap_cluster_sync(void)
{
    if constexpr (CLUSTER == 1) {
        __syncthreads();
    } else {
#if __CUDA_ARCH__ >= 900
        ap_ptx_cluster_sync();
#endif
    }
}

/* The two halves of ap_cluster_sync. */
template <int CLUSTER> static __device__ __forceinline__ void ap_cluster_arrive(void)
{
#if __CUDA_ARCH__ >= 900
    if (CLUSTER > 1) ap_ptx_cluster_arrive();
#endif
}

template <int CLUSTER> static __device__ __forceinline__ void ap_cluster_wait(void)
{
#if __CUDA_ARCH__ >= 900
    if (CLUSTER > 1) ap_ptx_cluster_wait();
#endif
}

template <int CLUSTER> static __device__ __forceinline__ int ap_cluster_rank(void)
{
    return CLUSTER == 1 ? 0 : (int)(blockIdx.x % CLUSTER);
}

/* *p, an address of this block's shared memory, in block `rank` of the cluster. */
template <int CLUSTER>
static __device__ __forceinline__ float ap_cluster_read(const float *p, int rank)
{
    if constexpr (CLUSTER == 1) {
        return *p;
    } else {
        float v = 0;
#if __CUDA_ARCH__ >= 900
        v = ap_ptx_cluster_load(ap_ptx_cluster_map(p, rank));
#endif
        return v;
    }
}

template <int CLUSTER>
static __device__ __forceinline__ void ap_cluster_put(float *p, int rank, float v)
{
    if constexpr (CLUSTER == 1) {
        *p = v;
    } else {
#if __CUDA_ARCH__ >= 900
        ap_ptx_cluster_store(ap_ptx_cluster_map(p, rank), v);
#endif
    }
}

template <int CLUSTER>
static __device__ __forceinline__ void ap_cluster_write(int *p, int rank, int v)
{
    if constexpr (CLUSTER == 1) {
        *p = v;
    } else {
#if __CUDA_ARCH__ >= 900
        ap_ptx_cluster_store(ap_ptx_cluster_map(p, rank), v);
#endif
    }
}
#endif

#endif
