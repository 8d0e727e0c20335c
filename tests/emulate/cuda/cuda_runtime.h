/* cuda_runtime.h - stands for the toolkit's, so that src/kern/cuda is compiled as C++ and runs without a card.
 *
 * Only what that folder uses. A thread of the card is a fiber, a block the fibers of one thread of the processor, whose
 * thread_local variables are the block's shared memory; the blocks of a cluster run at the same time. What is checked on
 * the way: that all lanes take part in a warp's operations and all threads in barriers, that asynchronous copies are
 * waited for (they come late), and what lies outside of an allocation of device memory (it is followed by a page without
 * access). Memory is full of NaNs when it is given out. Blocks and warps take turns in an order that EMULATE_SEED changes;
 * EMULATE_MULTIPROCESSORS is how many the card has (132). Not emulated: kernels that begin before the one ahead of them has
 * ended, the time of asynchronous products (they are done at once), and anything about speed. */
#ifndef EMULATE_CUDA_RUNTIME_H
#define EMULATE_CUDA_RUNTIME_H

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>

#include "emulate.h"

#define __CUDACC__    1
#define __CUDA_ARCH__ (EMULATE_ARCH * 10)
#if EMULATE_ARCH == 90
#define __CUDA_ARCH_FEAT_SM90_ALL 1
#endif
#define __device__
#define __host__
#define __global__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __shared__   thread_local

/* ------------------------------------------------------------------ vectors */

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
#define EMULATE_VECTOR(type, of, align, ...)                                                       \
    struct __attribute__((aligned(align))) type {                                                  \
        of __VA_ARGS__;                                                                            \
    };
EMULATE_VECTOR(uint4, unsigned, 16, x, y, z, w)
EMULATE_VECTOR(int4, int, 16, x, y, z, w)
EMULATE_VECTOR(float4, float, 16, x, y, z, w)
EMULATE_VECTOR(uint2, unsigned, 8, x, y)
EMULATE_VECTOR(int2, int, 8, x, y)
EMULATE_VECTOR(float2, float, 8, x, y)
EMULATE_VECTOR(double2, double, 16, x, y)
EMULATE_VECTOR(char4, signed char, 4, x, y, z, w)
#define EMULATE_MAKE(type, of)                                                                     \
    static inline type make_##type(of x, of y, of z, of w)                                         \
    {                                                                                              \
        return {x, y, z, w};                                                                       \
    }
EMULATE_MAKE(uint4, unsigned)
EMULATE_MAKE(int4, int)
EMULATE_MAKE(float4, float)
EMULATE_MAKE(char4, signed char)
static inline uint2 make_uint2(unsigned x, unsigned y)
{
    return {x, y};
}
static inline int2 make_int2(int x, int y)
{
    return {x, y};
}
static inline float2 make_float2(float x, float y)
{
    return {x, y};
}

extern thread_local dim3 threadIdx, blockIdx;
extern thread_local dim3 blockDim, gridDim;

/* ------------------------------------------------------------------ numbers */

using std::isfinite;
using std::max;
using std::min;
static inline int max(int a, unsigned b)
{
    return a > (int)b ? a : (int)b;
}
static inline float __uint_as_float(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}
static inline float __int_as_float(int u)
{
    return __uint_as_float((uint32_t)u);
}
static inline uint32_t __float_as_uint(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}
#define CUDART_INF_F __uint_as_float(0x7f800000u)
#define CUDART_NAN_F __uint_as_float(0x7fffffffu)
static inline float __fmul_rn(float a, float b)
{
    return a * b;
}
static inline float __fadd_rn(float a, float b)
{
    return a + b;
}
static inline float __fsub_rn(float a, float b)
{
    return a - b;
}
static inline float __fmaf_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}
static inline float __fdividef(float a, float b)
{
    return a / b;
}
static inline float emulate_expf(float v)
{
    return expf(v);
}
#define __expf emulate_expf /* a name of the C library */
static inline float rsqrtf(float v)
{
    return (float)(1.0 / std::sqrt((double)v));
}
static inline int __float2int_rn(float f)
{
    return std::isnan(f) ? 0 : f >= 0x1p31f ? INT32_MAX : f <= -0x1p31f ? INT32_MIN : (int)rintf(f);
}
static inline unsigned long long emulate_to_u64(double v)
{
    return !(v > 0) ? 0 : v >= 0x1p64 ? ~0ull : (unsigned long long)v;
}
static inline unsigned long long __float2ull_rn(float f)
{
    return emulate_to_u64(std::rint((double)f));
}
static inline unsigned long long __float2ull_ru(float f)
{
    return emulate_to_u64(std::ceil((double)f));
}
static inline unsigned long long __double2ull_ru(double f)
{
    return emulate_to_u64(std::ceil(f));
}
static inline int __popc(unsigned v)
{
    return __builtin_popcount(v);
}
static inline int __ffs(int v)
{
    return __builtin_ffs(v);
}
static inline int __clz(int v)
{
    return v ? __builtin_clz((unsigned)v) : 32;
}
static inline int __clzll(long long v)
{
    return v ? __builtin_clzll((unsigned long long)v) : 64;
}
static inline unsigned __umulhi(unsigned a, unsigned b)
{
    return (unsigned)((uint64_t)a * b >> 32);
}
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
static inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned n)
{
    return (unsigned)((((uint64_t)hi << 32 | lo) << (n & 31)) >> 32);
}
static inline uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t select)
{
    uint64_t v = x | (uint64_t)y << 32;
    uint32_t r = 0;
    for (int i = 0; i < 4; i++) {
        uint32_t n = select >> 4 * i & 15, b = (uint32_t)(v >> 8 * (n & 7)) & 255;
        r |= (n & 8 ? b & 128 ? 255u : 0u : b) << 8 * i;
    }
    return r;
}

/* ------------------------------------------------------------------ memory */

template <typename T> static inline T __ldg(const T *p)
{
    return *p;
}
template <typename T> static inline T __ldcg(const T *p)
{
    return *p;
}
static inline void __threadfence()
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
template <typename T, typename V> static inline T atomicAdd(T *p, V v)
{
    return __atomic_fetch_add(p, (T)v, __ATOMIC_SEQ_CST);
}
template <typename T, typename V> static inline T atomicExch(T *p, V v)
{
    return __atomic_exchange_n(p, (T)v, __ATOMIC_SEQ_CST);
}
static inline uint32_t __cvta_generic_to_shared(const void *p)
{
    return emulate_address(p);
}

/* ------------------------------------------------------------------ together */

static inline void __syncthreads()
{
    emulate_sync_block();
}
static inline int __syncthreads_count(int p)
{
    return emulate_sync_count(p != 0).yes;
}
static inline int __syncthreads_and(int p)
{
    emulate_votes v = emulate_sync_count(p != 0);
    return v.yes == v.all;
}
static inline void __syncwarp(unsigned = ~0u)
{
    uint32_t v = 0;
    emulate_exchange(&v, 1, __LINE__);
}

/* What lane `from` has. */
template <typename T> static inline T emulate_pick(T v, int from, int kind)
{
    constexpr int words = sizeof(T) / 4;
    static_assert(sizeof(T) % 4 == 0 && words <= EMULATE_WORDS);
    uint32_t w[words];
    memcpy(w, &v, sizeof v);
    memcpy(&v, emulate_exchange(w, words, kind)[from & 31], sizeof v);
    return v;
}
template <typename T> static inline T __shfl_xor_sync(unsigned, T v, int mask)
{
    return emulate_pick(v, emulate_lane() ^ mask, 100 + mask);
}
template <typename T> static inline T __shfl_sync(unsigned, T v, int lane)
{
    return emulate_pick(v, lane, __LINE__);
}
template <typename T> static inline T __shfl_up_sync(unsigned, T v, int d)
{
    return emulate_pick(v, emulate_lane() >= d ? emulate_lane() - d : emulate_lane(), __LINE__);
}
template <typename T> static inline T __shfl_down_sync(unsigned, T v, int d)
{
    return emulate_pick(v, emulate_lane() + d < 32 ? emulate_lane() + d : emulate_lane(), __LINE__);
}
static inline unsigned __ballot_sync(unsigned, int p)
{
    uint32_t q = p != 0, all = 0;
    auto *lane = emulate_exchange(&q, 1, __LINE__);
    for (int i = 0; i < 32; i++) all |= lane[i][0] << i;
    return all;
}
static inline int __any_sync(unsigned mask, int p)
{
    return __ballot_sync(mask, p) != 0;
}
static inline int __all_sync(unsigned mask, int p)
{
    return __ballot_sync(mask, p) == ~0u;
}
template <typename T> static inline T emulate_extreme(T v, bool most)
{
    uint32_t w;
    memcpy(&w, &v, 4);
    auto *lane = emulate_exchange(&w, 1, __LINE__);
    T best;
    memcpy(&best, lane[0], 4);
    for (int i = 1; i < 32; i++) {
        T o;
        memcpy(&o, lane[i], 4);
        best = most == (o > best) && o != best ? o : best;
    }
    return best;
}
template <typename T> static inline T __reduce_max_sync(unsigned, T v)
{
    return emulate_extreme(v, true);
}
template <typename T> static inline T __reduce_min_sync(unsigned, T v)
{
    return emulate_extreme(v, false);
}
static inline unsigned __reduce_add_sync(unsigned, unsigned v)
{
    auto *lane = emulate_exchange(&v, 1, __LINE__);
    unsigned sum = 0;
    for (int i = 0; i < 32; i++) sum += lane[i][0];
    return sum;
}

/* ------------------------------------------------------------------ the runtime */

enum cudaError_t {
    cudaSuccess,
    cudaErrorInvalidValue,
    cudaErrorMemoryAllocation,
    cudaErrorNotSupported,
    cudaErrorUnknown
};
typedef struct emulate_stream *cudaStream_t;
typedef struct emulate_graph *cudaGraph_t, *cudaGraphExec_t;
typedef struct emulate_event *cudaEvent_t;
enum {
    cudaHostAllocMapped = 1,
    cudaHostAllocPortable = 2,
    cudaStreamNonBlocking = 1,
    cudaEventDisableTiming = 1,
    cudaStreamCaptureModeThreadLocal = 1,
    cudaMemcpyHostToDevice = 1,
    cudaMemcpyDeviceToHost = 2,
    cudaMemcpyDeviceToDevice = 3,
    cudaFuncAttributeMaxDynamicSharedMemorySize = 1,
    cudaFuncAttributePreferredSharedMemoryCarveout = 2,
    cudaSharedmemCarveoutMaxShared = 100,
    cudaLaunchAttributeProgrammaticStreamSerialization = 1,
    cudaLaunchAttributeClusterDimension = 2
};
struct cudaDeviceProp {
    char name[256];
    int major, minor, multiProcessorCount;
};
struct cudaLaunchAttribute {
    int id;
    struct {
        int programmaticStreamSerializationAllowed;
        dim3 clusterDim;
    } val;
};
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute *attrs;
    int numAttrs;
};

cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaSetDevice(int n);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int n);
cudaError_t cudaGetLastError();
const char *cudaGetErrorString(cudaError_t e);
cudaError_t cudaMalloc(void **p, size_t bytes);
cudaError_t cudaFree(void *p);
cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMemGetInfo(size_t *have, size_t *all);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind, cudaStream_t s);
cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t s);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamBeginCapture(cudaStream_t s, int mode);
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *e, cudaGraph_t g, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t s);
cudaError_t cudaGraphDestroy(cudaGraph_t g);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t e);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags);
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s);
cudaError_t cudaEventSynchronize(cudaEvent_t e);
cudaError_t cudaEventDestroy(cudaEvent_t e);
cudaError_t cudaFuncSetAttribute(const void *kernel, int attribute, int value);
template <typename... P>
static inline cudaError_t cudaFuncSetAttribute(void (*kernel)(P...), int attribute, int value)
{
    return cudaFuncSetAttribute((const void *)kernel, attribute, value);
}

/* A kernel as something to call; it runs at once, or when the graph that is being recorded is launched. */
cudaError_t emulate_launch(const cudaLaunchConfig_t *c, const void *kernel,
                           std::function<void()> body);
template <typename... P, typename... A>
static inline cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *c, void (*kernel)(P...),
                                             A... args)
{
    return emulate_launch(c, (const void *)kernel, [=] { kernel(args...); });
}

#endif
