/* delta_step.cuh - a token of the delta rule's recurrence: what delta.cu and recur.cu share.
 *
 * Value channels never interact, so a block owns some of them of one head of one sequence, with their rows of the
 * state in registers: 4 lanes a row. */
#ifndef AP_KERN_CUDA_DELTA_STEP_CUH
#define AP_KERN_CUDA_DELTA_STEP_CUH

#include "kern/cuda/delta.cuh"

#define AP_DELTA_SLICES 4 /* blocks of a head: a cluster */

/* Rows of a block. */
static inline int ap_delta_slice(int v_dim)
{
    return ((v_dim + AP_DELTA_SLICES - 1) / AP_DELTA_SLICES + 3) / 4 * 4;
}

struct ap_delta_gates {
    float decay, less1, beta, kq;
};

/* A block of tokens, prepared. KD: floats of a key in shared memory. */
template <int KD, int B> struct ap_delta_ready {
    float q[B][KD], k[B][KD];
    float v[B][64], z[B][64]; /* of the block's rows */
    ap_delta_gates g[B];
};

/* ------------------------------------------------------------------ keys and gates */

/* A warp makes q^ and k^ of q and k, whose quads `lane`, `lane` + 32 ... are in x and y; returns their product. */
template <int E>
static __device__ __forceinline__ float ap_delta_keys(float4 *x, float4 *y, int k_dim, float *q,
                                                      float *k, int room)
{
    int lane = (int)threadIdx.x % 32;
    float qq = 0, kk = 0, kq = 0, scale = (float)(1.0 / sqrt((double)k_dim));
#pragma unroll
    for (int e = 0; e < E; e++) {
        qq = fmaf(x[e].x, x[e].x,
                  fmaf(x[e].y, x[e].y, fmaf(x[e].z, x[e].z, fmaf(x[e].w, x[e].w, qq))));
        kk = fmaf(y[e].x, y[e].x,
                  fmaf(y[e].y, y[e].y, fmaf(y[e].z, y[e].z, fmaf(y[e].w, y[e].w, kk))));
    }
    float rq = 1.0f / sqrtf(ap_warp_sum(qq) + 1e-6f), rk = 1.0f / sqrtf(ap_warp_sum(kk) + 1e-6f);
#pragma unroll
    for (int e = 0; e < E; e++) {
        int at = lane + 32 * e;
        x[e] = make_float4(x[e].x * rq * scale, x[e].y * rq * scale, x[e].z * rq * scale,
                           x[e].w * rq * scale);
        y[e] = make_float4(y[e].x * rk, y[e].y * rk, y[e].z * rk, y[e].w * rk);
        kq = fmaf(x[e].x, y[e].x,
                  fmaf(x[e].y, y[e].y, fmaf(x[e].z, y[e].z, fmaf(x[e].w, y[e].w, kq))));
        if (4 * at >= room) continue;
        ((float4 *)q)[at] = x[e];
        ((float4 *)k)[at] = y[e];
    }
    return ap_warp_sum(kq);
}

/* Decay and writing gate of row t and head h. */
static __device__ __forceinline__ void ap_delta_make_gates(const ap_delta_args &a, int64_t t, int h,
                                                           ap_delta_gates *g)
{
    float beta;
    double log_decay = ap_delta_gate(a, t, h, &beta);
    g->decay = (float)exp(log_decay);
    g->less1 = (float)expm1(log_decay);
    g->beta = beta;
}

/* ------------------------------------------------------------------ steps */

static __device__ __forceinline__ float ap_delta_dot(float4 a, float4 b, float acc)
{
    return fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, fmaf(a.w, b.w, acc))));
}

/* s + (k d + less1 s), or k d + decay s */
static __device__ __forceinline__ float ap_delta_grow(float s, float k, float d,
                                                      const ap_delta_gates &g)
{
    return g.decay >= 0.5f ? s + fmaf(k, d, g.less1 * s) : fmaf(k, d, g.decay * s);
}

/* n tokens for the thread's part of a row. part: which of the 4. ds: the rows' d, token by token, if not NULL. */
template <int N, int KD, int B>
static __device__ __forceinline__ void ap_delta_steps(float4 s[N], const ap_delta_ready<KD, B> *p,
                                                      int n, int row, int part, float (*o)[64],
                                                      float (*ds)[64] = NULL)
{
    for (int i = 0; i < n; i++) {
        const float4 *q = (const float4 *)p->q[i] + part, *k = (const float4 *)p->k[i] + part;
        const ap_delta_gates g = p->g[i];
        float kv[2] = {0, 0}, qv[2] = {0, 0};
#pragma unroll
        for (int e = 0; e < N; e++) {
            kv[e % 2] = ap_delta_dot(s[e], k[4 * e], kv[e % 2]);
            qv[e % 2] = ap_delta_dot(s[e], q[4 * e], qv[e % 2]);
        }
        kv[0] += kv[1], qv[0] += qv[1];
        for (int m = 1; m < 4; m *= 2) {
            kv[0] += __shfl_xor_sync(0xffffffffu, kv[0], m);
            qv[0] += __shfl_xor_sync(0xffffffffu, qv[0], m);
        }
        float d = g.beta * (p->v[i][row] - g.decay * kv[0]);
        if (part == 0 && ds) ds[i][row] = d;
        if (part == 0) o[i][row] = fmaf(g.kq, d, g.decay * qv[0]);
#pragma unroll
        for (int e = 0; e < N; e++) {
            float4 x = k[4 * e];
            s[e].x = ap_delta_grow(s[e].x, x.x, d, g);
            s[e].y = ap_delta_grow(s[e].y, x.y, d, g);
            s[e].z = ap_delta_grow(s[e].z, x.z, d, g);
            s[e].w = ap_delta_grow(s[e].w, x.w, d, g);
        }
    }
}

#endif
