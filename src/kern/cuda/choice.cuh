/* choice.cuh - the choice of experts, by a warp. */
#ifndef AP_KERN_CUDA_CHOICE_CUH
#define AP_KERN_CUDA_CHOICE_CUH

#include "order.cuh"

/* Lane j has the logits of experts j, j + 32, ..., N of them. */
template <int N> struct ap_choice {
    uint32_t order[N]; /* of what is left; 0: nothing */
    bool bad;          /* some logit is NaN or infinite: a router whose weights are damaged shows */
};

template <int N>
static __device__ __forceinline__ ap_choice<N> ap_choice_begin(const float *logits, int n)
{
    int lane = (int)threadIdx.x % 32;
    ap_choice<N> c;
    c.bad = false;
#pragma unroll
    for (int i = 0; i < N; i++) {
        int e = lane + i * 32;
        float v = e < n ? __ldcg(logits + e) : 0.0f;
        c.bad |= v != v || v == INFINITY;
        c.order[i] = e < n ? ap_order_of(v) : 0;
    }
    c.bad = __any_sync(0xffffffffu, c.bad);
    return c;
}

/* The best that is left, the first of equals, and its logit. */
template <int N> static __device__ __forceinline__ int ap_choice_next(ap_choice<N> &c, float *logit)
{
    int lane = (int)threadIdx.x % 32, at = N;
    uint32_t best = 0;
#pragma unroll
    for (int i = 0; i < N; i++) best = max(best, c.order[i]);
    uint32_t top = __reduce_max_sync(0xffffffffu, best);
#pragma unroll
    for (int i = N - 1; i >= 0; i--) at = c.order[i] == top ? i : at;
    int e = (int)__reduce_min_sync(0xffffffffu, (unsigned)(at * 32 + lane));
#pragma unroll
    for (int i = 0; i < N; i++)
        if (lane + i * 32 == e) c.order[i] = 0;
    *logit = ap_float_of(top);
    return e;
}

/* The n_used best of n to ids, and their weights, norm: of which the sum is 1. The warp sees both. */
template <int N>
static __device__ __forceinline__ void ap_choose(const float *logits, int n, int n_used, bool norm,
                                                 int *ids, float *weights)
{
    int lane = (int)threadIdx.x % 32;
    float sum = 0, max = 0;
    ap_choice<N> c = ap_choice_begin<N>(logits, n);
#pragma unroll 1
    for (int j = 0; j < n_used; j++) {
        float v;
        int e = ap_choice_next(c, &v);
        if (j == 0) max = v;
        v = expf(v - max);
        sum += v;
        if (lane == 0) ids[j] = e;
        if (lane == 0) weights[j] = v;
    }
    if (!norm) {
        sum = 0;
        for (int e = lane; e < n; e += 32) sum += expf(__ldcg(logits + e) - max);
        sum = ap_warp_sum(sum);
    }
    __syncwarp();
    for (int j = lane; j < n_used; j += 32)
        weights[j] = c.bad ? __int_as_float(0x7fc00000) : weights[j] / sum;
    __syncwarp();
}

#endif
