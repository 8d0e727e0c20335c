/* floats.cuh - products of f32 inputs with panels of floats.
 *
 * Order: the inputs are cut into parts, contiguous runs of units of 32, by their number alone. A part's sum is
 * acc = fma(w, x, acc) for its inputs ascending from acc = 0; an output is the sum of its parts, ascending.
 * Every kernel here follows it to the bit. */
#ifndef AP_KERN_CUDA_FLOATS_CUH
#define AP_KERN_CUDA_FLOATS_CUH

#include "matmul.cuh"

enum { AP_W_BF16, AP_W_F16, AP_W_F32, AP_W_FORM }; /* what weights are */

enum { AP_FLOAT_UNIT = 32, AP_FLOAT_PARTS = 64 }; /* inputs of a unit; the most parts */

/* Warps that share a panel's inputs: each takes eight parts. */
static __host__ __device__ __forceinline__ int ap_float_warps(int cols)
{
    return cols < 512 ? 1 : cols < 1024 ? 2 : cols < 2048 ? 4 : 8;
}

static __host__ __device__ __forceinline__ int ap_float_parts(int cols)
{
    return 8 * ap_float_warps(cols);
}

/* First input of a part; of the one behind the last: cols. */
static __device__ __forceinline__ int ap_float_begin(int cols, int part)
{
    int units = (cols + AP_FLOAT_UNIT - 1) / AP_FLOAT_UNIT;
    return min(ap_part_begin(units, ap_float_parts(cols), part) * AP_FLOAT_UNIT, cols);
}

static __device__ __forceinline__ float4 ap_four(const float *p, bool aligned)
{
    return aligned ? *(const float4 *)p : make_float4(p[0], p[1], p[2], p[3]);
}

static __device__ __forceinline__ float4 ap_four_of_half(uint32_t a, uint32_t b)
{
    float2 p = ap_pair_of_half(a), q = ap_pair_of_half(b);
    return make_float4(p.x, p.y, q.x, q.y);
}

static __device__ __forceinline__ float4 ap_four_of_bf16(uint4 v, bool second)
{
    uint32_t w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int r = 0; r < 4; r++) w[r] = second ? w[r] & 0xffff0000u : w[r] << 16;
    return make_float4(__uint_as_float(w[0]), __uint_as_float(w[1]), __uint_as_float(w[2]),
                       __uint_as_float(w[3]));
}

/* Weights of rows 4j .. 4j + 3, which a lane asks for at once. */
template <int KIND> struct ap_float_run {
    static constexpr int N = KIND == AP_W_F32 ? 16 : 32; /* inputs; a unit is a multiple */
    uint4 v[16];

    __device__ __forceinline__ void load(const uint8_t *panel, int k, int j)
    {
#pragma unroll
        for (int i = 0; i < 16; i++) {
            if constexpr (KIND == AP_W_F16) {
                const uint2 *p =
                    (const uint2 *)(panel + ((size_t)(k + 2 * i) * AP_PANEL + 4 * j) * 2);
                uint2 a = __ldg(p), b = __ldg(p + AP_PANEL / 4);
                v[i] = make_uint4(a.x, a.y, b.x, b.y);
            } else {
                int at = KIND == AP_W_F32 ? k + i : k / 2 + i;
                v[i] = __ldg((const uint4 *)(panel + ((size_t)at * AP_PANEL + 4 * j) * 4));
            }
        }
    }

    /* Of the i-th input. */
    __device__ __forceinline__ float4 at(int i) const
    {
        if constexpr (KIND == AP_W_F32)
            return make_float4(__uint_as_float(v[i].x), __uint_as_float(v[i].y),
                               __uint_as_float(v[i].z), __uint_as_float(v[i].w));
        else if constexpr (KIND == AP_W_F16)
            return i & 1 ? ap_four_of_half(v[i / 2].z, v[i / 2].w)
                         : ap_four_of_half(v[i / 2].x, v[i / 2].y);
        else
            return ap_four_of_bf16(v[i / 2], i & 1);
    }
};

/* Weights of rows 4j .. 4j + 3 with one input. */
template <int KIND>
static __device__ __forceinline__ float4 ap_float_one(const uint8_t *panel, int k, int j)
{
    if constexpr (KIND == AP_W_F32)
        return __ldg((const float4 *)(panel + ((size_t)k * AP_PANEL + 4 * j) * 4));
    if constexpr (KIND == AP_W_F16) {
        uint2 v = __ldg((const uint2 *)(panel + ((size_t)k * AP_PANEL + 4 * j) * 2));
        return ap_four_of_half(v.x, v.y);
    }
    return ap_four_of_bf16(__ldg((const uint4 *)(panel + ((size_t)(k / 2) * AP_PANEL + 4 * j) * 4)),
                           k & 1);
}

template <int N>
static __device__ __forceinline__ void ap_float_add(float (*acc)[N], int t, float4 w, float x)
{
    acc[0][t] = fmaf(w.x, x, acc[0][t]);
    acc[1][t] = fmaf(w.y, x, acc[1][t]);
    acc[2][t] = fmaf(w.z, x, acc[2][t]);
    acc[3][t] = fmaf(w.w, x, acc[3][t]);
}

/* The part that begins at input `begin`, which is a multiple of 32, and N rows of inputs: acc[r] of row 4j + r.
 * aligned: rows of inputs are, to 16 bytes. Loops are not unrolled: code that runs once waits for itself. */
template <int KIND, int N>
static __device__ __forceinline__ void ap_float_part(const uint8_t *panel, int begin, int end,
                                                     const float *const *x, bool aligned, int j,
                                                     float (*acc)[N])
{
    constexpr int STEP = ap_float_run<KIND>::N;
    int k = begin;
#pragma unroll 1
    for (; k + STEP <= end; k += STEP) {
        ap_float_run<KIND> w;
        w.load(panel, k, j);
#pragma unroll
        for (int i = 0; i < STEP; i += 4)
#pragma unroll
            for (int t = 0; t < N; t++) {
                float4 v = ap_four(x[t] + k + i, aligned);
                ap_float_add<N>(acc, t, w.at(i), v.x);
                ap_float_add<N>(acc, t, w.at(i + 1), v.y);
                ap_float_add<N>(acc, t, w.at(i + 2), v.z);
                ap_float_add<N>(acc, t, w.at(i + 3), v.w);
            }
    }
#pragma unroll 1
    for (; k < end; k++) {
        float4 w = ap_float_one<KIND>(panel, k, j);
#pragma unroll
        for (int t = 0; t < N; t++) ap_float_add<N>(acc, t, w, x[t][k]);
    }
}

/* The sum of n parts, ascending; `step` floats apart. */
static __device__ __forceinline__ float ap_float_sum(const float *part, int n, int step)
{
    float v = part[0];
#pragma unroll 7
    for (int q = 1; q < n; q++) v += part[q * step];
    return v;
}

/* A panel and one row of inputs, 16-byte aligned in shared memory, by a block, all threads of which call: the
 * result of row r is thread r's. red: room, 16-byte aligned. Whoever uses it again must synchronise first. */
template <int KIND>
static __device__ __forceinline__ float ap_float_panel(const uint8_t *panel, int cols,
                                                       const float *x, float (*red)[AP_PANEL])
{
    int parts = ap_float_parts(cols), j = threadIdx.x & 3;
#pragma unroll 1
    for (int part = threadIdx.x >> 2; part < parts; part += (int)blockDim.x >> 2) {
        float acc[4][1] = {{0}, {0}, {0}, {0}};
        ap_float_part<KIND, 1>(panel, ap_float_begin(cols, part), ap_float_begin(cols, part + 1),
                               &x, true, j, acc);
        *(float4 *)&red[part][4 * j] = make_float4(acc[0][0], acc[1][0], acc[2][0], acc[3][0]);
    }
    __syncthreads();
    return threadIdx.x < AP_PANEL ? ap_float_sum(&red[0][threadIdx.x], parts, AP_PANEL) : 0.0f;
}

#endif
