/* delta.cuh - what the two forms of the delta rule share. */
#ifndef AP_KERN_CUDA_DELTA_H
#define AP_KERN_CUDA_DELTA_H

#include <limits.h>

#include "kern/cuda/cuda.cuh"

#define AP_DELTA_MANY 16 /* tokens of a sequence from which on chunks are faster */

/* The chunked form (delta_chunk.cu), for sequences of AP_DELTA_MANY tokens on; false: not for these sizes.
 * Without clusters its outputs still want their norm. */
bool ap_delta_chunked_takes(const ap_exec *x, const ap_delta_args *a);
void ap_delta_chunked(const ap_exec *x, const ap_delta_args *a);
size_t ap_delta_chunked_scratch(const ap_exec *x, int n_tok, int n_k_head, int n_v_head, int k_dim,
                                int v_dim);

/* The same with precision FAST, in products of bf16 (delta_quick.cu). */
bool ap_delta_quick_takes(const ap_exec *x, int k_dim, int v_dim);
void ap_delta_quick(const ap_exec *x, const ap_delta_args *a);
size_t ap_delta_quick_scratch(const ap_exec *x, int n_tok, int n_k_head, int n_v_head, int k_dim,
                              int v_dim);

/* Where a kept row (kern.h) has its parts, in floats. */
struct ap_delta_parts {
    size_t k, d, decay, less1;
};

#ifdef __CUDACC__
static __host__ __device__ __forceinline__ ap_delta_parts ap_delta_parts_of(int n_k_head,
                                                                            int n_v_head, int k_dim,
                                                                            int v_dim)
{
    size_t keys = (size_t)n_k_head * k_dim, values = (size_t)n_v_head * v_dim;
    size_t k = 2 * keys + values, d = k + keys, decay = d + values;
    return {k, d, decay, decay + (size_t)n_v_head};
}

static __device__ __forceinline__ int ap_delta_key_head(const ap_delta_args &a, int h)
{
    return a.tiled ? h % a.n_k_head : h / (a.n_v_head / a.n_k_head);
}

static __device__ __forceinline__ const float *ap_delta_row(const ap_delta_args &a, int64_t t)
{
    return a.qkv + t * (2 * (int64_t)a.n_k_head * a.k_dim + (int64_t)a.n_v_head * a.v_dim);
}

static __device__ __forceinline__ const float *ap_delta_query(const ap_delta_args &a, int64_t t,
                                                              int key_head)
{
    return ap_delta_row(a, t) + (int64_t)key_head * a.k_dim;
}

static __device__ __forceinline__ const float *ap_delta_value(const ap_delta_args &a, int64_t t,
                                                              int h)
{
    return ap_delta_row(a, t) + 2 * (int64_t)a.n_k_head * a.k_dim + (int64_t)h * a.v_dim;
}

/* Numbers 4 * at ... of a row of n, zeros beyond it; rows of odd shapes are not on vectors. */
static __device__ __forceinline__ float4 ap_delta_load(const float *row, int at, int n)
{
    const float *p = row + 4 * at;
    int left = n - 4 * at;
    if (left >= 4 && ((uintptr_t)p & 15) == 0) return *(const float4 *)p;
    return make_float4(left > 0 ? p[0] : 0.0f, left > 1 ? p[1] : 0.0f, left > 2 ? p[2] : 0.0f,
                       left > 3 ? p[3] : 0.0f);
}

static __device__ __forceinline__ void ap_delta_store(float *row, int at, int n, float4 v)
{
    float *p = row + 4 * at;
    int left = n - 4 * at;
    if (left >= 4 && ((uintptr_t)p & 15) == 0) {
        *(float4 *)p = v;
        return;
    }
    if (left > 0) p[0] = v.x;
    if (left > 1) p[1] = v.y;
    if (left > 2) p[2] = v.z;
    if (left > 3) p[3] = v.w;
}

static __device__ __forceinline__ float *ap_delta_state(const ap_delta_args &a, const ap_seq &s,
                                                        int h)
{
    return a.state.base + (size_t)s.state * a.state.block_floats + a.state.offset +
           (size_t)h * (size_t)a.v_dim * (size_t)a.k_dim;
}

static __device__ __forceinline__ float ap_delta_gated(float o, float squares,
                                                       const ap_delta_args &a, int row, float z)
{
    float r = 1.0f / sqrtf(squares / (float)a.v_dim + a.eps);
    return ((o * r) * a.norm_weight[row]) * ap_silu(z);
}

/* Row i of what a sequence keeps; NULL: its states are replaced. */
static __device__ __forceinline__ float *ap_delta_kept(const ap_delta_args &a, const ap_seq &s,
                                                       int i)
{
    if (!a.kept.base || s.keep < 0) return NULL;
    return a.kept.base + (size_t)(s.keep + i) * a.kept.row_floats;
}

/* Log decay of row t and head h, and its writing gate; in double as the table says. */
static __device__ __forceinline__ double ap_delta_gate(const ap_delta_args &a, int64_t t, int h,
                                                       float *beta)
{
    double x = (double)a.a[t * a.lda + h] + (double)a.dt_bias[h];
    double g = (double)a.neg_exp_a[h] * (x > 20 ? x : log1p(exp(x)));
    *beta = ap_sigmoid(a.b[t * a.ldb + h]);
    return g < -1000.0 ? -1000.0 : g;
}
#endif

#endif
