/* cuda.cuh - what the files of this folder share: the device, launches, and the slots of the table.
 *
 * A slot enqueues on the device's one stream. The first error of a launch or a call is kept and shows at
 * finish. Kernels that run in a decode step are launched with programmatic dependent launch: they may do
 * what does not depend on earlier kernels, then call ap_grid_wait() before anything that does (ap_launch
 * says how). Nothing here is included outside src/kern/cuda. */
#ifndef AP_KERN_CUDA_CUDA_H
#define AP_KERN_CUDA_CUDA_H

#include <cuda_runtime.h>

extern "C" {
#include "kern/kern.h"
}

#define AP_CUDA_RECORDS  64   /* recorded steps that are kept */
#define AP_CUDA_COUNTERS 1024 /* of blocks that have ended */

struct ap_cuda_record {
    uint64_t key[8];
    size_t key_bytes;
    cudaGraphExec_t graph;
    uint64_t used; /* when last: the oldest makes room */
};

struct ap_cuda {
    ap_device dev;   /* first: an ap_device * is an ap_cuda * */
    int ordinal, sm; /* multiprocessors */
    int arch;        /* 90 for sm_90 */
    cudaStream_t stream;
    cudaError_t err;     /* the first one since finish */
    const char *what;    /* that failed */
    uint8_t *staging;    /* pinned: what put copies from */
    size_t staging_used; /* of the half that is being filled */
    int staging_half;
    cudaEvent_t staged[2]; /* the copies of a half are done */
    ap_cuda_record record[AP_CUDA_RECORDS];
    ap_cuda_record *recording;
    uint64_t clock;
    unsigned *
        counter; /* [AP_CUDA_COUNTERS] device memory, all 0 between kernels: blocks of a kernel count
                        * themselves there, and the last one, which goes on, sets it back */
    char name[128];
};

static inline ap_cuda *ap_cuda_of(const ap_exec *x)
{
    return (ap_cuda *)x->dev;
}

/* Keep the first error. */
static inline void ap_cuda_check(ap_cuda *c, cudaError_t e, const char *what)
{
    if (e == cudaSuccess || c->err != cudaSuccess) return;
    c->err = e;
    c->what = what;
}

/* Shared memory that a block may have. */
static inline size_t ap_cuda_shared_bytes(const ap_cuda *c)
{
    bool most = c->arch == 90 || c->arch / 10 == 10, more = c->arch == 80 || c->arch == 87;
    return (size_t)(most ? 227 : more ? 163 : 99) * 1024;
}

/* Launch kernel<<<grid, block, shared>>>(args...) on the device's stream. With programmatic dependent launch
 * the kernel may begin before the one ahead of it has ended: every kernel must call ap_grid_wait() before it
 * reads or writes memory that other kernels write or read (weights and the batch's own arrays too may only
 * be read before if nothing in the stream writes them: packed weights; not the batch). */
template <typename... P, typename... A>
static inline void ap_launch(const ap_exec *x, void (*kernel)(P...), dim3 grid, dim3 block,
                             size_t shared, A... args)
{
    ap_cuda *c = ap_cuda_of(x);
    if (!grid.x || !grid.y || !grid.z) return;
    cudaLaunchConfig_t cfg = {};
    cudaLaunchAttribute pdl = {};
    pdl.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    pdl.val.programmaticStreamSerializationAllowed = 1;
    cfg.gridDim = grid;
    cfg.blockDim = block;
    cfg.dynamicSmemBytes = shared;
    cfg.stream = c->stream;
    cfg.attrs = &pdl;
    cfg.numAttrs = c->arch >= 90 ? 1 : 0;
    if (shared >
        24 * 1024) /* with what a kernel has besides, more than 48 KB have to be asked for */
        ap_cuda_check(c,
                      cudaFuncSetAttribute((const void *)kernel,
                                           cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           (int)shared),
                      "shared memory of a kernel");
    ap_cuda_check(c, cudaLaunchKernelEx(&cfg, kernel, P(args)...), "a launch");
}

#ifdef __CUDACC__
#include "kern/cuda/ptx.cuh"

/* Wait for the kernels ahead of this one, and let the next one begin to load. In this order, so that nothing runs
 * beside what is two kernels ahead of it: that has ended, and what it has written may be read before the wait, past
 * the first-level cache. */
static __device__ __forceinline__ void ap_grid_wait(void)
{
#if __CUDA_ARCH__ >= 900
    ap_ptx_grid_wait();
    ap_ptx_grid_release();
#endif
}

static __device__ __forceinline__ float ap_warp_sum(float v)
{
    for (int i = 16; i; i /= 2) v += __shfl_xor_sync(0xffffffffu, v, i);
    return v;
}

static __device__ __forceinline__ float ap_warp_max(float v)
{
    for (int i = 16; i; i /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, i));
    return v;
}

/* 0 at -inf, as their limits */
static __device__ __forceinline__ float ap_silu(float v)
{
    return v == -INFINITY ? 0.0f : v / (1.0f + expf(-v));
}
static __device__ __forceinline__ float ap_sigmoid(float v)
{
    return 1.0f / (1.0f + expf(-v));
}
static __device__ __forceinline__ float ap_gelu_tanh(float v)
{
    float u = 0.7978845608028654f * (v + 0.044715f * v * v * v);
    return v == -INFINITY
               ? 0.0f
               : v / (1.0f + expf(-2.0f * u)); /* no difference of near numbers, as tanh has */
}
#endif

extern "C" {
/* The slots, by file. rows.cu: embed, norm, rope, elem, route; sample.cu */
void ap_cuda_embed(const ap_exec *x, const ap_embed_args *a);
void ap_cuda_norm(const ap_exec *x, const ap_norm_args *a);
void ap_cuda_rope(const ap_exec *x, const ap_rope_args *a);
void ap_cuda_elem(const ap_exec *x, const ap_elem_args *a);
void ap_cuda_route(const ap_exec *x, const ap_route_args *a);
size_t ap_cuda_sample_scratch_bytes(const ap_exec *x, int n, int vocab);
void ap_cuda_sample(const ap_exec *x, const ap_sample_args *a);
/* tower.cu */
void ap_cuda_layer_norm(const ap_exec *x, const ap_layer_norm_args *a);
void ap_cuda_blend(const ap_exec *x, const ap_blend_args *a);
void ap_cuda_attn_near(const ap_exec *x, const ap_attn_near_args *a);
/* qkv.cu, attn.cu */
void ap_cuda_qkv(const ap_exec *x, const ap_qkv_args *a);
size_t ap_cuda_attn_scratch_bytes(const ap_exec *x, int n_tok, int n_head, int n_kv_head,
                                  int head_dim);
void ap_cuda_attn(const ap_exec *x, const ap_attn_args *a);
int ap_cuda_attn_fast_dim(const ap_exec *x, int head_dim);
/* delta.cu: conv, delta */
void ap_cuda_conv(const ap_exec *x, const ap_conv_args *a);
size_t ap_cuda_delta_scratch_bytes(const ap_exec *x, int n_tok, int n_k_head, int n_v_head,
                                   int k_dim, int v_dim);
void ap_cuda_delta(const ap_exec *x, const ap_delta_args *a);
void ap_cuda_commit(const ap_exec *x, const ap_commit_args *a);
void ap_cuda_carry(const ap_exec *x, const ap_carry_args *a);
/* matmul.cu, moe.cu */
void ap_cuda_matmul(const ap_exec *x, const ap_matmul_args *a);
void ap_cuda_glu(const ap_exec *x, const ap_glu_args *a);
size_t ap_cuda_moe_scratch_bytes(const ap_exec *x, int n_tok, int n_expert, int n_used, int hidden,
                                 int ffn);
void ap_cuda_moe(const ap_exec *x, const ap_moe_args *a);
/* decode.cu */
void ap_cuda_project(const ap_exec *x, const ap_project_args *a);
void ap_cuda_mix(const ap_exec *x, const ap_mix_args *a);
void ap_cuda_attend(const ap_exec *x, const ap_attend_args *a); /* attn.cu */
/* recur.cu */
void ap_cuda_recur(const ap_exec *x, const ap_recur_args *a);
}

#endif
