/* quad.cuh - rows in steps of four values, whatever their alignment and width; sizes of grids. */
#ifndef AP_KERN_CUDA_QUAD_CUH
#define AP_KERN_CUDA_QUAD_CUH

#include "kern/cuda/cuda.cuh"

#define AP_WARP 32

static inline unsigned ap_ceil_div(int64_t a, int64_t b)
{
    return (unsigned)((a + b - 1) / b);
}

/* Blocks of a grid's second side for n of them: kernels walk on by that many. */
static inline unsigned ap_grid_y(int64_t n)
{
    return (unsigned)(n < 65535 ? n : 65535);
}

static inline bool ap_aligned16(const void *p)
{
    return (uintptr_t)p % 16 == 0;
}

/* Values i .. i+3 of a row of n, those that are not there as zero; i is a multiple of 4. VECTOR: row and n are
 * multiples of 16 bytes. */
template <bool VECTOR>
static __device__ __forceinline__ float4 ap_load4(const float *p, int i, int n)
{
    if (VECTOR) return i < n ? *(const float4 *)(p + i) : make_float4(0, 0, 0, 0);
    return make_float4(i < n ? p[i] : 0, i + 1 < n ? p[i + 1] : 0, i + 2 < n ? p[i + 2] : 0,
                       i + 3 < n ? p[i + 3] : 0);
}

template <bool VECTOR>
static __device__ __forceinline__ void ap_store4(float *p, int i, int n, float4 v)
{
    if (VECTOR) {
        if (i < n) *(float4 *)(p + i) = v;
        return;
    }
    if (i < n) p[i] = v.x;
    if (i + 1 < n) p[i + 1] = v.y;
    if (i + 2 < n) p[i + 2] = v.z;
    if (i + 3 < n) p[i + 3] = v.w;
}

/* s plus the squares of v */
static __device__ __forceinline__ float ap_square_sum(float4 v, float s)
{
    return fmaf(v.w, v.w, fmaf(v.z, v.z, fmaf(v.y, v.y, fmaf(v.x, v.x, s))));
}

/* What norm multiplies by, from the sum of n squares; to some 2^-21 of itself. */
static __device__ __forceinline__ float ap_norm_factor(float sum, int n, float eps)
{
    return rsqrtf(__fdividef(sum, (float)n) + eps);
}

#endif
