/* qform.cuh - packed weights on the device: where a panel's numbers are (ap_mat and ap_qform in kern.h, the
 * bits and scales in cpu/qpack.h), and single weights as the f32 that they stand for.
 *
 * These are for operations that read few weights, such as the rows of a table. The products of matmul and moe
 * read whole panels their own way, with the same addresses. */
#ifndef AP_KERN_CUDA_QFORM_CUH
#define AP_KERN_CUDA_QFORM_CUH

#include <cuda_fp16.h>

#include "kern/cuda/cuda.cuh"

#define AP_QF_BLOCK 32  /* inputs whose q stand together */
#define AP_QF_SUPER 256 /* inputs that share d and m of AP_QS_SUPER */

/* ------------------------------------------------------------------ addresses */

/* Bytes of the q of AP_QF_BLOCK inputs of a panel. */
static __host__ __device__ inline size_t ap_qf_block_bytes(ap_qform f)
{
    return (size_t)f.bits * 64;
}

/* Bytes of the scales (and biases) of one group for the rows of a panel. */
static __host__ __device__ inline size_t ap_qf_group_bytes(ap_qform f)
{
    size_t one = f.scale == AP_QS_F32 ? 4 : f.scale == AP_QS_SUPER ? 1 : 2;
    return AP_PANEL * one * (f.affine && !f.nibbles ? 2 : 1);
}

/* Bytes of d (and m) of AP_QF_SUPER inputs; 0 without them. */
static __host__ __device__ inline size_t ap_qf_super_bytes(ap_qform f)
{
    return f.scale == AP_QS_SUPER ? (size_t)AP_PANEL * 2 * (f.affine ? 2 : 1) : 0;
}

static __host__ __device__ inline size_t ap_qf_panel_bytes(ap_qform f, int cols)
{
    size_t groups = ((size_t)cols + f.group - 1) / f.group;
    size_t scales =
        groups * ap_qf_group_bytes(f) + (size_t)(cols / AP_QF_SUPER) * ap_qf_super_bytes(f);
    return (size_t)(cols / AP_QF_BLOCK) * ap_qf_block_bytes(f) + (scales + 63) / 64 * 64;
}

/* Bytes of a panel of any form. */
static inline size_t ap_panel_stride(const ap_mat *w)
{
    size_t n = (size_t)w->cols;
    if (w->q.bits) return ap_qf_panel_bytes(w->q, w->cols);
    if (w->dtype == AP_BF16) return (n + 1) / 2 * 2 * AP_PANEL * 2;
    return n * AP_PANEL * (w->dtype == AP_F32 ? 4 : 2);
}

/* ------------------------------------------------------------------ one row's numbers */

/* What codes of 3 and 4 bits stand for, +128, by ap_qform.table (cpu/qpack.c says what each is). */
static __constant__ uint8_t ap_qf_table[6][16] = {
    {0},
    {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241},
    {128, 129, 130, 131, 132, 134, 136, 140, 128, 127, 126, 125, 124, 122, 120, 116},
    {130, 134, 138, 142, 146, 150, 154, 159, 126, 122, 118, 114, 110, 106, 102, 97},
    {129, 131, 133, 135, 137, 139, 141, 143, 127, 125, 123, 121, 119, 117, 115, 113},
    {136, 153, 171, 128, 120, 103, 85, 128, 136, 153, 171, 128, 120, 103, 85, 128},
};

/* The q of inputs 4i .. 4i+3 of a row, a byte each, the first one lowest. */
static __device__ __forceinline__ uint32_t ap_qf_codes(ap_qform f, const uint8_t *panel, int row,
                                                       int i)
{
    int j = i % 8; /* vector of the block */
    const uint32_t *w = (const uint32_t *)(panel + (size_t)(i / 8) * ap_qf_block_bytes(f)) + row;
    if (f.bits == 8) return w[j * AP_PANEL];
    uint32_t q;
    if (f.bits < 4) {
        q = w[j / 4 * AP_PANEL] >> 2 * (j / 2 % 2) & 0x33333333u;
        if (f.bits == 3) q |= (w[2 * AP_PANEL] >> j / 2 & 0x11111111u) << 2;
    } else {
        q = w[j / 2 * AP_PANEL];
    }
    q = q >> 4 * (j % 2) & 0x0f0f0f0fu;
    if (f.bits == 5) q |= (w[4 * AP_PANEL] >> j & 0x01010101u) << 4;
    if (f.bits == 6) q |= (w[(4 + j / 4) * AP_PANEL] >> 2 * (j % 4) & 0x03030303u) << 4;
    if (!f.table) return q;
    const uint8_t *t = ap_qf_table[f.table];
    return t[q & 15] | t[q >> 8 & 15] << 8 | t[q >> 16 & 15] << 16 |
           (uint32_t)t[q >> 24 & 15] << 24;
}

static __device__ __forceinline__ float ap_qf_number(ap_qform f, const uint8_t *p, int row)
{
    if (f.scale == AP_QS_F32) return ((const float *)p)[row];
    uint16_t h = ((const uint16_t *)p)[row];
    return f.scale == AP_QS_BF16 ? __uint_as_float((uint32_t)h << 16)
                                 : __half2float(__ushort_as_half(h));
}

/* s (x) and b (y) of a row's group that input `col` is in. All products of AP_QS_SUPER are exact. */
static __device__ __forceinline__ float2 ap_qf_scale(ap_qform f, const uint8_t *panel, int cols,
                                                     int row, int col)
{
    const uint8_t *super = panel + (size_t)(cols / AP_QF_BLOCK) * ap_qf_block_bytes(f);
    size_t step = ap_qf_group_bytes(f);
    const uint8_t *at = super + (size_t)(cols / AP_QF_SUPER) * ap_qf_super_bytes(f) +
                        (size_t)(col / f.group) * step;
    if (f.scale != AP_QS_SUPER)
        return make_float2(ap_qf_number(f, at, row),
                           f.affine ? ap_qf_number(f, at + step / 2, row) : 0.0f);
    const __half *d =
        (const __half *)(super + (size_t)(col / AP_QF_SUPER) * ap_qf_super_bytes(f)) + row;
    int s = f.is_signed ? (int8_t)at[row] : f.nibbles ? at[row] & 15 : at[row];
    float2 v = {__half2float(*d) * (1.0f / (float)(1 << f.shift)) * (float)s, 0.0f};
    if (f.affine)
        v.y = -(__half2float(d[AP_PANEL]) * (float)(f.nibbles ? at[row] >> 4 : at[step / 2 + row]));
    return v;
}

/* 4 exponent bits with bias 7, 3 fraction bits, no infinities. */
static __device__ __forceinline__ float ap_qf_e4m3(uint32_t b)
{
    uint32_t exp = b >> 3 & 15, frac = b & 7;
    float v = exp ? __uint_as_float((exp + 120) << 23 | frac << 20) : (float)frac * 0x1p-9f;
    if ((b & 0x7f) == 0x7f) v = __uint_as_float(0x7fc00000u);
    return b & 0x80 ? -v : v;
}

/* s * (q - zero) + b with the roundings of exact mode: one of the product, one of the sum. */
static __device__ __forceinline__ float ap_qf_value(ap_qform f, uint32_t q, float2 scale)
{
    float v = __fmul_rn(scale.x, f.is_float ? ap_qf_e4m3(q) : (float)((int)q - f.zero));
    return f.affine ? __fadd_rn(v, scale.y) : v;
}

/* Inputs 4i .. 4i+3 of a row: they share a group. */
static __device__ __forceinline__ float4 ap_qf_quad(ap_qform f, const uint8_t *panel, int cols,
                                                    int row, int i)
{
    uint32_t q = ap_qf_codes(f, panel, row, i);
    float2 s = ap_qf_scale(f, panel, cols, row, 4 * i);
    return make_float4(ap_qf_value(f, q & 255, s), ap_qf_value(f, q >> 8 & 255, s),
                       ap_qf_value(f, q >> 16 & 255, s), ap_qf_value(f, q >> 24, s));
}

/* One weight. */
static __device__ __forceinline__ float ap_qf_weight(ap_qform f, const uint8_t *panel, int cols,
                                                     int row, int col)
{
    uint32_t q = ap_qf_codes(f, panel, row, col / 4) >> 8 * (col % 4) & 255;
    return ap_qf_value(f, q, ap_qf_scale(f, panel, cols, row, col));
}

/* ------------------------------------------------------------------ plain panels */

/* One weight of a panel of type AP_BF16, AP_F16 or AP_F32. */
static __device__ __forceinline__ float ap_panel_weight(ap_dtype type, const uint8_t *panel,
                                                        int row, int col)
{
    if (type == AP_F32) return ((const float *)panel)[(size_t)col * AP_PANEL + row];
    const uint16_t *h = (const uint16_t *)panel;
    if (type == AP_F16) return __half2float(__ushort_as_half(h[(size_t)col * AP_PANEL + row]));
    return __uint_as_float((uint32_t)h[((size_t)(col / 2) * AP_PANEL + row) * 2 + col % 2] << 16);
}

#endif
