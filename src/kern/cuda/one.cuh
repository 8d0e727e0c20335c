/* one.cuh - one row of inputs against a panel: what the kernels of decode are made of. */
#ifndef AP_KERN_CUDA_ONE_CUH
#define AP_KERN_CUDA_ONE_CUH

#include "panel.cuh"

enum { WARPS = 8, THREADS = WARPS * 32 };

/* The blocks of a warp's parts: part j is [begin[j], begin[j + 1]). */
struct span {
    int begin[5];
    int longest;
};

static __device__ __forceinline__ span span_of(int blocks, int parts, int first)
{
    span s;
    s.longest = 0;
#pragma unroll
    for (int j = 0; j <= 4; j++) s.begin[j] = ap_part_begin(blocks, parts, first + j);
#pragma unroll
    for (int j = 0; j < 4; j++) s.longest = max(s.longest, s.begin[j + 1] - s.begin[j]);
    return s;
}

static __device__ __forceinline__ int pick(const span &s, int j)
{
    return j == 0   ? s.begin[0]
           : j == 1 ? s.begin[1]
           : j == 2 ? s.begin[2]
           : j == 3 ? s.begin[3]
                    : s.begin[4];
}

/* The same place of a warp's four parts: a block of each, and the scales of the one in the lane's own part,
 * number i. */
template <class F> struct strip {
    ap_raw<F::BITS> q[4];
    uint4 s[F::HALVES ? 2 : 1];
};

/* What a lane needs to know of a panel. Loops over steps stay loops: code that runs once has to come from memory as
 * the weights do. */
struct place {
    span sp;
    const uint8_t *panel;
    int lane, own, own_end;
};

static __device__ __forceinline__ place place_of(const span &sp, const uint8_t *panel, int lane)
{
    place p = {sp, panel, lane, pick(sp, lane & 3), pick(sp, (lane & 3) + 1)};
    return p;
}

template <class F>
static __device__ __forceinline__ void load(strip<F> &c, const ap_qmat &m, const place &p, int step)
{
#pragma unroll
    for (int j = 0; j < 4; j++) {
        int b = p.sp.begin[j] + step;
        if (b < p.sp.begin[j + 1])
            c.q[j] = ap_load<F::BITS>(p.panel + (size_t)b * F::BITS * 64, p.lane);
    }
    int b = p.own + step;
    if (b >= p.own_end) return;
    int g = p.lane >> 2;
    const uint8_t *at = F::place(m, p.panel, b, g);
#pragma unroll
    for (int h = 0; h < (F::HALVES ? 2 : 1); h++)
        c.s[h] = F::template raw<false>(m, p.panel, at, b, h, g);
}

/* One row of inputs: columns 2j and 2j + 1 of the right operand are the two planes of part j's block, so four
 * products give each lane the sums of the block in its own part. acc: rows 2g and 2g + 1. */
template <class F>
static __device__ __forceinline__ void multiply_one(const strip<F> &c, const ap_qmat &m,
                                                    const ap_qin &in, const place &p, int step,
                                                    const uint32_t *table, float *acc)
{
    int i = p.lane & 3, g = p.lane >> 2;
    int32_t sum[F::HALVES ? 2 : 1][4];
#pragma unroll
    for (int h = 0; h < (F::HALVES ? 2 : 1); h++)
#pragma unroll
        for (int j = 0; j < 4; j++) sum[h][j] = 0;
    int rb = pick(p.sp, g >> 1) + step;
    const int8_t *plane = (g & 1 ? in.lo : in.hi) + 8 * i;
    uint2 x = rb < pick(p.sp, (g >> 1) + 1) ? *(const uint2 *)(plane + rb * 32) : make_uint2(0, 0);
#pragma unroll
    for (int j = 0; j < 4; j++) {
        if (p.sp.begin[j] + step >= p.sp.begin[j + 1]) continue;
        ap_frag f = ap_unpack<F::BITS, F::TABLE>(c.q[j], i, table);
        uint2 b = g >> 1 == j ? x : make_uint2(0, 0);
#pragma unroll
        for (int h = 0; h < (F::HALVES ? 2 : 1); h++) {
            uint32_t a[4];
#pragma unroll
            for (int k = 0; k < 4; k++) a[k] = !F::HALVES || i / 2 == h ? f.a[k] : 0;
            ap_mma(sum[h], a, b);
        }
    }
    int ob = p.own + step;
    if (ob >= p.own_end) return;
    float d = in.d[ob];
    int2 xs = ((const int2 *)in.sum)[ob];
#pragma unroll
    for (int h = 0; h < (F::HALVES ? 2 : 1); h++) {
        ap_scales sc = F::made(m, c.s[h]);
        int xh = F::HALVES ? (h ? xs.y : xs.x) : xs.x + xs.y;
#pragma unroll
        for (int r = 0; r < 2; r++)
            acc[r] = ap_scale_sum(acc[r], 128 * sum[h][2 * r] + sum[h][2 * r + 1], xh, d, sc.s[r],
                                  sc.b[r], m.q);
    }
}

/* All steps of a panel; the first two are loaded already. */
template <class F>
static __device__ __forceinline__ void multiply_all(strip<F> *c, const ap_qmat &m, const ap_qin &in,
                                                    const place &p, const uint32_t *table,
                                                    float *acc)
{
#pragma unroll 1
    for (int step = 0; step < p.sp.longest; step += 2) {
        multiply_one<F>(c[0], m, in, p, step, table, acc);
        load(c[0], m, p, step + 2);
        if (step + 1 < p.sp.longest) multiply_one<F>(c[1], m, in, p, step + 1, table, acc);
        load(c[1], m, p, step + 3);
    }
}

/* Two matrices side by side; the first step of each is loaded already. */
template <class F>
static __device__ __forceinline__ void multiply_both(strip<F> *c, const ap_qmat *m,
                                                     const ap_qin &in, const place *p,
                                                     const uint32_t *table, float (*acc)[2])
{
#pragma unroll 1
    for (int step = 0; step < p[0].sp.longest; step++) {
#pragma unroll
        for (int k = 0; k < 2; k++) {
            multiply_one<F>(c[k], m[k], in, p[k], step, table, acc[k]);
            load(c[k], m[k], p[k], step + 1);
        }
    }
}

template <bool TABLE>
static __device__ __forceinline__ void table_of(const ap_qform &q, uint32_t *table)
{
#pragma unroll
    for (int j = 0; j < 4; j++) table[j] = TABLE ? ap_qtable_words[q.table][j] : 0;
}

static __device__ __forceinline__ ap_qin ap_row_at(uint8_t *shared, int cols)
{
    return ap_qin{(int8_t *)shared, (int8_t *)shared + cols,
                  (float *)(shared + 2 * cols + cols / AP_Q_BLOCK * 8),
                  (int32_t *)(shared + 2 * cols)}; /* sums are read in twos */
}

/* A row of f32 inputs to integers in shared memory, by a whole block. */
static __device__ __forceinline__ ap_qin ap_quantise_row(const float *x, int cols, uint8_t *shared)
{
    int blocks = cols / AP_Q_BLOCK;
    ap_qin in = ap_row_at(shared, cols);
    bool aligned = ((uintptr_t)x & 15) == 0;
    for (int u = threadIdx.x; u < (blocks * 8 + 31) / 32 * 32;
         u += (int)blockDim.x) { /* whole warps: lanes look at others' */
        int b = u / 8, l = u & 7;
        bool live = b < blocks;
        const float *p = x + (live ? u * 4 : 0);
        float4 v = aligned ? *(const float4 *)p : make_float4(p[0], p[1], p[2], p[3]);
        char4 hi, lo;
        float d;
        int sum;
        ap_quantise_block<2>(v, &hi, &lo, &d, &sum);
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        if (!live) continue;
        ((char4 *)in.hi)[u] = hi;
        ((char4 *)in.lo)[u] = lo;
        if ((l & 3) == 0) in.sum[b * 2 + l / 4] = sum;
        if (l == 0) in.d[b] = d;
    }
    __syncthreads();
    return in;
}

#endif
