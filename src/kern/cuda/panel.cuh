/* panel.cuh - a panel in shared memory times one row of inputs: what the products of one token are made of.
 *
 * Instructions are the scarce thing there: code that runs once for each launch has to come from memory as the weights
 * do. So a form is known when a kernel is compiled, loops stay loops, and everything that is the same for all of a
 * row's products is made once, with the row.
 *
 * Columns 2j and 2j + 1 of the right operand are the two planes of a block of part j (product.cuh), so that four
 * products give each lane the sums of a block of its own part. */
#ifndef AP_KERN_CUDA_PANEL_CUH
#define AP_KERN_CUDA_PANEL_CUH

#include "bulk.cuh"
#include "matmul.cuh"

/* ------------------------------------------------------------------ a row of inputs */

/* What the products of 32 inputs want besides their planes: d, d times the sum of X, sums of the halves. */
struct ap_in_block {
    float d, dx;
    int32_t x[2];
};

/* A row in shared memory: planes are [cols / 32][high, low][32]. */
struct ap_in_row {
    ap_in_block *block;
    uint8_t *planes;
};

static __host__ __device__ __forceinline__ uint32_t ap_in_row_bytes(int cols)
{
    return (uint32_t)(cols * 2 + cols / AP_Q_BLOCK * (int)sizeof(ap_in_block));
}

static __device__ __forceinline__ ap_in_row ap_in_row_at(uint8_t *shared, int cols)
{
    return ap_in_row{(ap_in_block *)shared, shared + cols / AP_Q_BLOCK * (int)sizeof(ap_in_block)};
}

/* Inputs 4u .. 4u + 3; the eight lanes of a block call together. */
static __device__ __forceinline__ void ap_put_inputs(const ap_in_row &in, int u, bool live,
                                                     float4 v)
{
    char4 hi, lo;
    float d;
    int sum, l = u & 7;
    ap_quantise_block<2>(v, &hi, &lo, &d, &sum);
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    int other = __shfl_xor_sync(0xffffffffu, sum, 4);
    if (!live) return;
    char4 *plane = (char4 *)in.planes + u / 8 * 16 + l;
    plane[0] = hi;
    plane[8] = lo;
    if (l == 0) in.block[u / 8] = ap_in_block{d, d * (float)(sum + other), {sum, other}};
}

/* ------------------------------------------------------------------ forms */

/* A form whose scales are as AP_QS_SUPER, or f16 numbers. */
template <int BITS_, bool HALVES_, bool AFFINE_, bool SUPER, int ZERO_> struct ap_form {
    static constexpr int BITS = BITS_;
    static constexpr bool TABLE = false, HALVES = HALVES_;

    static __device__ __forceinline__ bool affine(const ap_qmat &) { return AFFINE_; }
    static __device__ __forceinline__ int zero(const ap_qmat &) { return ZERO_; }

    /* A byte as a float: one of ALU instructions, which conversions are not. */
    static __device__ __forceinline__ float byte(uint32_t v, int which, bool is_signed)
    {
        uint32_t b = __byte_perm(v, 0x4b000000u, 0x7440u + (uint32_t)which);
        if (is_signed) b ^= 0x80u;
        return __uint_as_float(b) - (is_signed ? 8388736.0f : 8388608.0f);
    }

    /* Of rows 2g and 2g + 1: a block's first numbers lie at this place, the next block's `step` bytes behind. */
    static constexpr int one = (SUPER ? 1 : 2) * (AFFINE_ ? 2 : 1) * AP_PANEL,
                         step = one * (HALVES ? 2 : 1);
    static __device__ __forceinline__ const uint8_t *place(const ap_qmat &m, const uint8_t *panel,
                                                           int block, int g)
    {
        return panel + m.scale_at + block * step + g * (SUPER ? 2 : 4);
    }

    /* As they are stored: factors of s and b and what they are of, or the numbers. */
    template <bool SHARED>
    static __device__ __forceinline__ uint4 raw(const ap_qmat &m, const uint8_t *panel,
                                                const uint8_t *place, int block, int half, int g)
    {
        const uint8_t *at = place + half * one;
        uint4 r = make_uint4(0, 0, 0, 0);
        if constexpr (SUPER) {
            const uint8_t *super = panel + m.super_at + (block >> 3) * (AFFINE_ ? 64 : 32) + g * 4;
            r.x = ap_fetch<SHARED, uint16_t>(at);
            r.z = ap_fetch<SHARED, uint32_t>(super);
            if constexpr (AFFINE_) {
                r.y = ap_fetch<SHARED, uint16_t>(at + AP_PANEL);
                r.w = ap_fetch<SHARED, uint32_t>(super + 32);
            }
        } else {
            r.x = ap_fetch<SHARED, uint32_t>(at);
            if constexpr (AFFINE_) r.y = ap_fetch<SHARED, uint32_t>(at + 2 * AP_PANEL);
        }
        return r;
    }

    static __device__ __forceinline__ ap_scales made(const ap_qmat &, uint4 r)
    {
        ap_scales out = {{0, 0}, {0, 0}};
        if constexpr (SUPER) {
            float2 d = ap_pair_of_half(r.z);
            out.s[0] = d.x * byte(r.x, 0, !AFFINE_);
            out.s[1] = d.y * byte(r.x, 1, !AFFINE_);
            if constexpr (AFFINE_) {
                float2 min = ap_pair_of_half(r.w);
                out.b[0] = -(min.x * byte(r.y, 0, false));
                out.b[1] = -(min.y * byte(r.y, 1, false));
            }
        } else {
            float2 s = ap_pair_of_half(r.x), b = ap_pair_of_half(r.y);
            out.s[0] = s.x;
            out.s[1] = s.y;
            if constexpr (AFFINE_) {
                out.b[0] = b.x;
                out.b[1] = b.y;
            }
        }
        return out;
    }
};

/* Any form of so many bits: what its numbers are is found out on the way. */
template <int BITS_, bool TABLE_, bool HALVES_> struct ap_any_form {
    static constexpr int BITS = BITS_;
    static constexpr bool TABLE = TABLE_, HALVES = HALVES_;

    static __device__ __forceinline__ bool affine(const ap_qmat &m) { return m.q.affine; }
    static __device__ __forceinline__ int zero(const ap_qmat &m) { return m.q.zero; }
    static constexpr int step = 0;
    static __device__ __forceinline__ const uint8_t *place(const ap_qmat &, const uint8_t *panel,
                                                           int, int)
    {
        return panel;
    }
    template <bool SHARED>
    static __device__ __forceinline__ uint4 raw(const ap_qmat &m, const uint8_t *panel,
                                                const uint8_t *, int block, int half, int g)
    {
        return ap_load_scales<SHARED>(m, panel, block * 32 + half * 16, g);
    }
    static __device__ __forceinline__ ap_scales made(const ap_qmat &m, uint4 r)
    {
        return ap_make_scales(m, r);
    }
};

/* ------------------------------------------------------------------ products */

/* Not to be made again in every turn of a loop. */
static __device__ __forceinline__ void ap_keep(int &v)
{
    asm("" : "+r"(v));
}

/* A warp's four parts from `first` on, of 1 << log_parts: adds to acc[0], acc[1] of rows 2g, 2g + 1 of part i. A block
 * past a part's end is read as well, from the next part or from the last one's end, and meets zeros. */
template <class F>
static __device__ __forceinline__ void ap_panel_parts(const ap_qmat &m, const uint8_t *panel,
                                                      const ap_in_row &in, int first, int log_parts,
                                                      float *acc)
{
    int lane = threadIdx.x & 31, i = lane & 3, g = lane >> 2, n = m.cols / AP_Q_BLOCK;
    int begin[5], longest = 0;
    uint32_t table[4];
#pragma unroll
    for (int j = 0; j < 5; j++) begin[j] = n * (first + j) >> log_parts;
#pragma unroll
    for (int j = 0; j < 4; j++) {
        longest = max(longest, begin[j + 1] - begin[j]);
        table[j] = F::TABLE ? ap_qtable_words[m.q.table][j] : 0;
    }
    const uint8_t *at[4];
#pragma unroll
    for (int j = 0; j < 4; j++)
        at[j] = panel + begin[j] * F::BITS * 64 + ap_lane_first<F::BITS>(lane);
    int more = ap_lane_more<F::BITS>(lane);
    int own = n * (first + i) >> log_parts, left = (n * (first + i + 1) >> log_parts) - own;
    int right = n * (first + (g >> 1)) >> log_parts,
        there = (n * (first + (g >> 1) + 1) >> log_parts) - right;
    const uint8_t *x = in.planes + right * 64 + (g & 1) * 32 + 8 * i,
                  *place = F::place(m, panel, own, g);
    const ap_in_block *block = in.block + own;
    ap_keep(longest);
    ap_keep(left);
    ap_keep(there);
    ap_keep(more);
#pragma unroll 1
    for (int step = 0; step < longest; step++, x += 64, own++, block++, place += F::step) {
        int32_t sum[F::HALVES ? 2 : 1][4] = {};
        uint2 v = make_uint2(0, 0);
        if (step < there) v = *(const uint2 *)x;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            ap_frag f =
                ap_unpack<F::BITS, F::TABLE>(ap_load_at<F::BITS, true>(at[j], more), i, table);
            at[j] += F::BITS * 64;
#pragma unroll
            for (int h = 0; h < (F::HALVES ? 2 : 1); h++) { /* lanes with inputs of this half */
                bool mine = g >> 1 == j && (!F::HALVES || i >> 1 == h);
                ap_mma(sum[h], f.a, mine ? v : make_uint2(0, 0));
            }
        }
        if (step >= left) continue;
        ap_in_block b = *block;
#pragma unroll
        for (int h = 0; h < (F::HALVES ? 2 : 1); h++) {
            ap_scales sc = F::made(m, F::template raw<true>(m, panel, place, own, h, g));
            int xs = F::HALVES ? b.x[h] : b.x[0] + b.x[1];
#pragma unroll
            for (int r = 0; r < 2; r++) {
                int all = 128 * sum[h][2 * r] + sum[h][2 * r + 1] - F::zero(m) * xs;
                acc[r] = fmaf(sc.s[r] * (float)all, b.d, acc[r]);
                if (F::affine(m))
                    acc[r] = fmaf(sc.b[r], F::HALVES ? b.d * (float)xs : b.dx, acc[r]);
            }
        }
    }
}

/* Parts of a sum, AP_PANEL apart, ascending. */
static __device__ __forceinline__ float ap_sum_parts(const float *part, int n)
{
    float sum = part[0];
#pragma unroll 3
    for (int i = 1; i < n; i++) sum += part[i * AP_PANEL];
    return sum;
}

/* Warps that share a panel, as a power of two. */
static __host__ __device__ __forceinline__ int ap_log_warps(int cols)
{
    int w = ap_warps_of(cols);
    return w == 8 ? 3 : w == 4 ? 2 : w == 2 ? 1 : 0;
}

/* ------------------------------------------------------------------ sets of forms
 * What a kernel knows. has: the number of a form in it, or -1. */

/* Those that most files are made of. */
struct ap_common_forms {
    typedef ap_form<4, false, true, true, 0> q4_k;
    typedef ap_form<5, false, true, true, 0> q5_k;
    typedef ap_form<6, true, false, true, 32> q6_k;
    typedef ap_form<8, false, false, false, 128> q8_0;

    static int has(ap_qform q)
    {
        bool super = q.scale == AP_QS_SUPER, plain = !q.table && !q.nibbles && !q.is_float;
        if (!plain) return -1;
        if (super && q.bits == 4 && q.affine && q.group == 32 && !q.shift) return 0;
        if (super && q.bits == 5 && q.affine && q.group == 32 && !q.shift) return 1;
        if (super && q.bits == 6 && q.is_signed && q.group == 16 && q.zero == 32 && !q.shift)
            return 2;
        if (q.scale == AP_QS_F16 && q.bits == 8 && !q.affine && q.group == 32 && q.zero == 128)
            return 3;
        return -1;
    }

    static __device__ __forceinline__ void parts(int which, const ap_qmat &m, const uint8_t *panel,
                                                 const ap_in_row &in, int first, int log_parts,
                                                 float *acc)
    {
        if (which == 0)
            ap_panel_parts<q4_k>(m, panel, in, first, log_parts, acc);
        else if (which == 1)
            ap_panel_parts<q5_k>(m, panel, in, first, log_parts, acc);
        else if (which == 2)
            ap_panel_parts<q6_k>(m, panel, in, first, log_parts, acc);
        else
            ap_panel_parts<q8_0>(m, panel, in, first, log_parts, acc);
    }
};

/* All that one row's kernels take. */
struct ap_all_forms {
    static int has(ap_qform q)
    {
        int k = q.bits * 4 + (q.table != 0) * 2 + (q.group == 16);
        bool there = k == 13 || k == 16 || k == 18 || k == 20 || k == 24 || k == 25 || k == 32;
        return there && !q.is_float ? k : -1;
    }

    static __device__ __forceinline__ void parts(int which, const ap_qmat &m, const uint8_t *panel,
                                                 const ap_in_row &in, int first, int log_parts,
                                                 float *acc)
    {
        switch (which) {
        case 3 * 4 + 1:
            ap_panel_parts<ap_any_form<3, false, true>>(m, panel, in, first, log_parts, acc);
            break;
        case 4 * 4:
            ap_panel_parts<ap_any_form<4, false, false>>(m, panel, in, first, log_parts, acc);
            break;
        case 4 * 4 + 2:
            ap_panel_parts<ap_any_form<4, true, false>>(m, panel, in, first, log_parts, acc);
            break;
        case 5 * 4:
            ap_panel_parts<ap_any_form<5, false, false>>(m, panel, in, first, log_parts, acc);
            break;
        case 6 * 4:
            ap_panel_parts<ap_any_form<6, false, false>>(m, panel, in, first, log_parts, acc);
            break;
        case 6 * 4 + 1:
            ap_panel_parts<ap_any_form<6, false, true>>(m, panel, in, first, log_parts, acc);
            break;
        default:
            ap_panel_parts<ap_any_form<8, false, false>>(m, panel, in, first, log_parts, acc);
            break;
        }
    }
};

#endif
