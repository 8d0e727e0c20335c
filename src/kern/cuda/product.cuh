/* product.cuh - weights in integer form on the tensor cores.
 *
 * A panel is 16 rows, so 32 inputs of a panel are the left operand of one mma.m16n8k32 (u8 x s8), and up to
 * 8 rows of inputs the right one. Which input is which k of the instruction is free as long as both sides
 * agree, and so is which row is which: lane 4g + i holds
 *   rows 2g and 2g + 1, inputs 8i .. 8i+3 (k 4i ..) and 8i+4 .. 8i+7 (k 16 + 4i ..)
 * which lie side by side in a packed panel (kern.h), and of the inputs' row g the same 8 bytes. The sums of
 * rows 2g, 2g + 1 and inputs' rows 2i, 2i + 1 end in that lane.
 *
 * Inputs of 15 bits are two planes of 8 bits, X = 128 hi + lo; their sums are joined as integers, exactly. */
#ifndef AP_KERN_CUDA_PRODUCT_CUH
#define AP_KERN_CUDA_PRODUCT_CUH

#include <cuda_fp16.h>

#include "cuda.cuh"

#define AP_Q_BLOCK 32
#define AP_ROWS    8 /* rows of inputs of one mma */

/* A matrix in integer form, and where its scales are: bytes from a panel's begin. */
struct ap_qmat {
    const uint8_t *data;
    size_t panel_bytes;
    uint32_t super_at, scale_at, super_step, step;
    int rows, cols, group_shift; /* group = 1 << group_shift */
    ap_qform q;
};

/* Rows of inputs in integer form. */
struct ap_qin {
    int8_t *hi, *lo; /* [rows][cols]; hi is not used with inputs of 8 bits */
    float *d;        /* [rows][cols / 32] */
    int32_t *sum;    /* [rows][cols / 16] sums of X */
};

ap_qmat ap_qmat_of(const ap_mat *w); /* matmul.cu */

/* What 4 bits stand for, +128 (cpu/qpack.c has the tables). */
static __constant__ const uint32_t ap_qtable_words[6][4] = {
    {0, 0, 0, 0},
    {0x3f2d1801u, 0x766a5d4fu, 0xa6998d81u, 0xf1d9c5b5u},
    {0x83828180u, 0x8c888684u, 0x7d7e7f80u, 0x74787a7cu},
    {0x8e8a8682u, 0x9f9a9692u, 0x72767a7eu, 0x61666a6eu},
    {0x87858381u, 0x8f8d8b89u, 0x797b7d7fu, 0x71737577u},
    {0x80ab9988u, 0x80556778u, 0x80ab9988u, 0x80556778u},
};

/* Four nibbles (one a byte) through a table of 16 bytes. */
static __device__ __forceinline__ uint32_t ap_look_up(uint32_t q, const uint32_t *t)
{
    uint32_t sel = (q & 0x07070707u);
    sel |= sel >> 4;
    sel = (sel & 0xffu) | (sel >> 8 & 0xff00u);
    uint32_t low = __byte_perm(t[0], t[1], sel), high = __byte_perm(t[2], t[3], sel);
    uint32_t upper = (q >> 3 & 0x01010101u) * 0xffu;
    return (low & ~upper) | (high & upper);
}

/* 32 inputs of a panel as a lane's left operand. */
struct ap_frag {
    uint32_t a[4]; /* row 2g low, row 2g+1 low, row 2g high, row 2g+1 high inputs */
};

/* What of a block a lane loads. */
template <int BITS> struct ap_raw {
    uint2 v[BITS == 8 ? 2 : BITS == 4 || BITS == 2 ? 1 : 2];
};

/* Weights are in memory, through the read-only path, or (SHARED) in shared memory. */
template <bool SHARED, typename T> static __device__ __forceinline__ T ap_fetch(const uint8_t *p)
{
    if constexpr (SHARED)
        return *(const T *)p;
    else
        return __ldg((const T *)p);
}

/* Where a lane's own bytes of a block begin; what more there is of them lies so many bytes behind. */
template <int BITS> static __device__ __forceinline__ int ap_lane_first(int lane)
{
    int i = lane & 3;
    return (lane >> 2) * 8 + (BITS == 8 ? i * 128 : BITS < 4 ? i / 2 * 64 : i * 64);
}

template <int BITS> static __device__ __forceinline__ int ap_lane_more(int lane)
{
    int i = lane & 3;
    return BITS == 8   ? 64
           : BITS == 3 ? 128 - i / 2 * 64
           : BITS == 5 ? 256 - i * 64
           : BITS == 6 ? 256 - (i + 1) / 2 * 64
                       : 0;
}

template <int BITS, bool SHARED = false>
static __device__ __forceinline__ ap_raw<BITS> ap_load_at(const uint8_t *first, int more)
{
    ap_raw<BITS> r;
    r.v[0] = ap_fetch<SHARED, uint2>(first);
    if constexpr (BITS != 2 && BITS != 4) r.v[1] = ap_fetch<SHARED, uint2>(first + more);
    return r;
}

template <int BITS>
static __device__ __forceinline__ ap_raw<BITS> ap_load(const uint8_t *block, int lane)
{
    return ap_load_at<BITS>(block + ap_lane_first<BITS>(lane), ap_lane_more<BITS>(lane));
}

template <int BITS, bool TABLE>
static __device__ __forceinline__ ap_frag ap_unpack(const ap_raw<BITS> &r, int i,
                                                    const uint32_t *table)
{
    const uint32_t w[2] = {r.v[0].x, r.v[0].y};
    uint32_t more[2] = {0, 0};
    if constexpr (BITS != 4 && BITS != 2) {
        more[0] = r.v[1].x;
        more[1] = r.v[1].y;
    }
    ap_frag f;
#pragma unroll
    for (int j = 0; j < 2; j++) {
        uint32_t low, high;
        if constexpr (BITS == 8) {
            low = w[j];
            high = more[j];
        } else {
            uint32_t q = w[j];
            if constexpr (BITS < 4) q = q >> 2 * (i & 1) & 0x33333333u;
            if constexpr (BITS == 3) q |= (more[j] >> i & 0x11111111u) << 2;
            low = q & 0x0f0f0f0fu;
            high = q >> 4 & 0x0f0f0f0fu;
            if constexpr (BITS == 5) { /* bits 2i and 2i + 1 of each byte become bit 4 */
                low |= __funnelshift_l(more[j], more[j], 4 - 2 * i) & 0x10101010u;
                high |= __funnelshift_l(more[j], more[j], 3 - 2 * i) & 0x10101010u;
            }
            if constexpr (BITS == 6) { /* likewise twos of bits */
                low |= __funnelshift_l(more[j], more[j], 4 - 4 * (i & 1)) & 0x30303030u;
                high |= __funnelshift_l(more[j], more[j], 2 - 4 * (i & 1)) & 0x30303030u;
            }
            if constexpr (TABLE) {
                low = ap_look_up(low, table);
                high = ap_look_up(high, table);
            }
        }
        f.a[j] = low;
        f.a[j + 2] = high;
    }
    return f;
}

/* s and b of rows 2g and 2g + 1 for a group of inputs. */
struct ap_scales {
    float s[2], b[2];
};

/* Scales as they are stored, for loading ahead: factors and d of SUPER; else s and b in x, y and z, w (F32),
 * or in x and y. */
template <bool SHARED = false>
static __device__ __forceinline__ uint4 ap_load_scales(const ap_qmat &m, const uint8_t *panel,
                                                       int input, int g)
{
    const uint8_t *at = panel + m.scale_at + ((uint32_t)input >> m.group_shift) * m.step;
    uint4 r = make_uint4(0, 0, 0, 0);
    if (m.q.scale == AP_QS_SUPER) {
        const uint8_t *super = panel + m.super_at + (uint32_t)(input >> 8) * m.super_step + g * 4;
        r.x = ap_fetch<SHARED, uint16_t>(at + g * 2);
        r.z = ap_fetch<SHARED, uint32_t>(super);
        if (m.q.affine) {
            r.w = ap_fetch<SHARED, uint32_t>(super + 32);
            if (!m.q.nibbles) r.y = ap_fetch<SHARED, uint16_t>(at + 16 + g * 2);
        }
    } else if (m.q.scale == AP_QS_F32) {
        uint2 s = ap_fetch<SHARED, uint2>(at + g * 8), b = make_uint2(0, 0);
        if (m.q.affine) b = ap_fetch<SHARED, uint2>(at + 64 + g * 8);
        r = make_uint4(s.x, s.y, b.x, b.y);
    } else {
        r.x = ap_fetch<SHARED, uint32_t>(at + g * 4);
        if (m.q.affine) r.y = ap_fetch<SHARED, uint32_t>(at + 32 + g * 4);
    }
    return r;
}

static __device__ __forceinline__ float2 ap_pair_of_half(uint32_t v)
{
    return __half22float2(*(const __half2 *)&v);
}

static __device__ __forceinline__ float2 ap_pair_of_bf16(uint32_t v)
{
    return make_float2(__uint_as_float(v << 16), __uint_as_float(v & 0xffff0000u));
}

static __device__ __forceinline__ ap_scales ap_make_scales(const ap_qmat &m, uint4 r)
{
    float2 s, b = make_float2(0, 0);
    if (m.q.scale == AP_QS_SUPER) {
        uint32_t f = r.x, e = r.y;
        float2 d = ap_pair_of_half(r.z);
        float f0 = (float)(f & 255), f1 = (float)(f >> 8);
        if (m.q.nibbles) {
            e = f >> 4 & 0x0f0fu;
            f0 = (float)(f & 15);
            f1 = (float)(f >> 8 & 15);
        } else if (m.q.is_signed) {
            f0 = (float)(int8_t)(f & 255);
            f1 = (float)(int8_t)(f >> 8);
        }
        float unit = __int_as_float((127 - m.q.shift) << 23);
        s = make_float2(d.x * f0 * unit, d.y * f1 * unit);
        if (m.q.affine) {
            float2 min = ap_pair_of_half(r.w);
            b = make_float2(-(min.x * (float)(e & 255)), -(min.y * (float)(e >> 8)));
        }
    } else if (m.q.scale == AP_QS_F32) {
        s = make_float2(__uint_as_float(r.x), __uint_as_float(r.y));
        b = make_float2(__uint_as_float(r.z), __uint_as_float(r.w));
    } else if (m.q.scale == AP_QS_F16) {
        s = ap_pair_of_half(r.x);
        b = ap_pair_of_half(r.y);
    } else {
        s = ap_pair_of_bf16(r.x);
        b = ap_pair_of_bf16(r.y);
    }
    ap_scales out = {{s.x, s.y}, {b.x, b.y}};
    return out;
}

/* acc += (sums of (q - zero) X) s d + b xs, in the Order of kern.h. */
static __device__ __forceinline__ float ap_scale_sum(float acc, int32_t sum, int32_t x, float d,
                                                     float s, float b, const ap_qform &q)
{
    acc = fmaf(s * (float)(sum - q.zero * x), d, acc);
    return q.affine ? fmaf(b, d * (float)x, acc) : acc;
}

/* The same for a block of up to 8 rows: acc[0], acc[1] row 2g with inputs' rows 2i, 2i + 1, acc[2], acc[3] row
 * 2g + 1. Of the block, for inputs' rows 2i and 2i + 1: d, and x, the sum of X (HALVES: of inputs 0 to 15 and 16
 * to 31). */
template <bool HALVES>
static __device__ __forceinline__ void ap_block_product(float *acc, const ap_frag &f, uint2 hi,
                                                        uint2 lo, const ap_scales *sc, float2 d,
                                                        const int2 *x, const ap_qform &q, int i)
{
#pragma unroll
    for (int h = 0; h < (HALVES ? 2 : 1); h++) {
        bool mine = !HALVES || i / 2 == h; /* lanes with inputs of this half */
        uint32_t a[4];
        int32_t c[4] = {0, 0, 0, 0};
#pragma unroll
        for (int j = 0; j < 4; j++) a[j] = mine ? f.a[j] : 0;
        ap_mma(c, a, hi);
#pragma unroll
        for (int j = 0; j < 4; j++) c[j] *= 128;
        ap_mma(c, a, lo);
#pragma unroll
        for (int j = 0; j < 4; j++)
            acc[j] = ap_scale_sum(acc[j], c[j], j & 1 ? x[h].y : x[h].x, j & 1 ? d.y : d.x,
                                  sc[h].s[j >> 1], sc[h].b[j >> 1], q);
    }
}

/* The inputs of a product are cut into parts, contiguous runs of blocks: every sum is the sum of its parts,
 * ascending. They depend on the number of inputs alone, so that a row's result does not depend on the others.
 * A warp takes four of them, of ap_warps_of warps that share a panel. */
static __host__ __device__ __forceinline__ int ap_warps_of(int cols)
{
    int n = cols / AP_Q_BLOCK;
    return n < 32 ? 1 : n < 64 ? 2 : n < 128 ? 4 : 8;
}

static __host__ __device__ __forceinline__ int ap_part_begin(int n_block, int parts, int part)
{
    return n_block * part / parts;
}

/* Inputs to integers: 32 of a row by 8 lanes with 4 each. L: 16256 or 127. Lane l of the 8 has inputs 4l ... Quotients
 * are to a unit or two in the last place, so now and then an input is rounded to its other neighbour. */
template <int PLANES>
static __device__ __forceinline__ void ap_quantise_block(float4 x, char4 *hi, char4 *lo, float *d,
                                                         int *sum4)
{
    const float L = PLANES == 2 ? 16256.0f : 127.0f;
    /* as integers infinities and NaN are the largest */
    uint32_t top = max(max(__float_as_uint(x.x) & 0x7fffffffu, __float_as_uint(x.y) & 0x7fffffffu),
                       max(__float_as_uint(x.z) & 0x7fffffffu, __float_as_uint(x.w) & 0x7fffffffu));
#pragma unroll
    for (int j = 1; j < 8; j *= 2) top = max(top, __shfl_xor_sync(0xffffffffu, top, j));
    bool bad = top >= 0x7f800000u;
    float a = __uint_as_float(top);
    float scale = bad || a < 1e-30f ? 0.0f : __fdividef(L, a);
    int q[4] = {0, 0, 0, 0};
    if (scale != 0.0f) {
        q[0] = __float2int_rn(x.x * scale);
        q[1] = __float2int_rn(x.y * scale);
        q[2] = __float2int_rn(x.z * scale);
        q[3] = __float2int_rn(x.w * scale);
    }
    *d = bad ? __int_as_float(0x7fc00000) : a < 1e-30f ? 0.0f : a * (1.0f / L);
    *sum4 = q[0] + q[1] + q[2] + q[3];
    if (PLANES == 2) {
        int h[4];
#pragma unroll
        for (int j = 0; j < 4; j++) h[j] = (q[j] + 64) >> 7;
        *hi = make_char4((char)h[0], (char)h[1], (char)h[2], (char)h[3]);
        *lo = make_char4((char)(q[0] - 128 * h[0]), (char)(q[1] - 128 * h[1]),
                         (char)(q[2] - 128 * h[2]), (char)(q[3] - 128 * h[3]));
    } else {
        *lo = make_char4((char)q[0], (char)q[1], (char)q[2], (char)q[3]);
    }
}

#endif
