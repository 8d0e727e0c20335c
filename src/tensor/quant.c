#include "tensor/quant.h"

#include <assert.h>
#include <math.h>

#include "tensor/quant_blocks.h"

static const ap_block_fn block_fn[AP_DTYPE_COUNT] = {
    [AP_Q4_0] = ap_block_q4_0,     [AP_Q4_1] = ap_block_q4_1,       [AP_Q5_0] = ap_block_q5_0,
    [AP_Q5_1] = ap_block_q5_1,     [AP_Q8_0] = ap_block_q8_0,       [AP_Q2_K] = ap_block_q2_k,
    [AP_Q3_K] = ap_block_q3_k,     [AP_Q4_K] = ap_block_q4_k,       [AP_Q5_K] = ap_block_q5_k,
    [AP_Q6_K] = ap_block_q6_k,     [AP_IQ2_XXS] = ap_block_iq2_xxs, [AP_IQ2_XS] = ap_block_iq2_xs,
    [AP_IQ2_S] = ap_block_iq2_s,   [AP_IQ3_XXS] = ap_block_iq3_xxs, [AP_IQ3_S] = ap_block_iq3_s,
    [AP_IQ4_NL] = ap_block_iq4_nl, [AP_IQ4_XS] = ap_block_iq4_xs,   [AP_MXFP4] = ap_block_mxfp4,
};

static bool is_split(ap_dtype t)
{
    return t >= AP_MLX_AFFINE && t <= AP_FP8_BLOCK;
}

bool ap_dtype_is_weight(ap_dtype t)
{
    if ((unsigned)t >= AP_DTYPE_COUNT) return false;
    return t == AP_F32 || t == AP_F16 || t == AP_BF16 || block_fn[t] || is_split(t);
}

/* 4 exponent bits with bias 7, 3 fraction bits, no infinities; 0x7F and 0xFF are NaN. */
static float e4m3(uint8_t b)
{
    int exp = b >> 3 & 15, frac = b & 7;
    float v = exp == 15 && frac == 7 ? NAN
              : exp                  ? ldexpf((float)(8 + frac), exp - 10)
                                     : ldexpf((float)frac, -9);
    return b & 0x80 ? -v : v;
}

static float e2m1(unsigned nibble)
{
    static const float v[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    return nibble & 8 ? -v[nibble & 7] : v[nibble & 7];
}

static float scale_at(const ap_tensor *t, const void *base, size_t i)
{
    const uint8_t *p = (const uint8_t *)base + i * ap_dtype_bytes(t->scale_dtype);
    float f;
    if (t->scale_dtype == AP_U8) return *p == 255 ? NAN : ldexpf(1.0f, (int)*p - 127); /* e8m0 */
    if (t->scale_dtype == AP_F8_E4M3) return e4m3(*p);
    ap_to_f32(t->scale_dtype, p, &f, 1);
    return f;
}

/* Value i of a row of packed integers: bits [i*bits, i*bits + bits) of its bytes, lowest first. */
static unsigned packed_at(const uint8_t *row, int bits, size_t i)
{
    size_t bit = i * (size_t)bits, byte = bit / 8;
    unsigned shift = (unsigned)(bit % 8), word = row[byte];
    if (shift + (unsigned)bits > 8) word |= (unsigned)row[byte + 1] << 8;
    return word >> shift & ((1u << bits) - 1);
}

static void split_row(const ap_tensor *t, size_t row, size_t col, size_t n, float *dst)
{
    size_t cols = (size_t)t->shape[t->rank - 1], group = (size_t)t->group;
    size_t per_row = (cols + group - 1) / group, scale_row = row / (size_t)t->group_rows * per_row;
    const uint8_t *data = (const uint8_t *)t->data + row * ap_tensor_row_bytes(t);
    for (size_t i = 0; i < n;) {
        size_t g = (col + i) / group, end = (g + 1) * group - col;
        if (end > n) end = n;
        float scale = scale_at(t, t->scales, scale_row + g);
        float bias = t->biases ? scale_at(t, t->biases, scale_row + g) : 0;
        for (; i < end; i++) {
            unsigned q = packed_at(data, t->bits, col + i);
            if (t->dtype == AP_MLX_AFFINE)
                dst[i] = scale * (float)q + bias;
            else if (t->bits == 4)
                dst[i] = scale * e2m1(q);
            else
                dst[i] = e4m3((uint8_t)q) * scale;
        }
    }
}

void ap_tensor_row_f32(const ap_tensor *t, int64_t row, int64_t col, int64_t n, float *dst)
{
    const uint8_t *data = (const uint8_t *)t->data + (size_t)row * ap_tensor_row_bytes(t);
    int block = ap_dtype_block(t->dtype);
    if (is_split(t->dtype)) {
        split_row(t, (size_t)row, (size_t)col, (size_t)n, dst);
    } else if (block == 1) {
        ap_to_f32(t->dtype, data + (size_t)col * ap_dtype_bytes(t->dtype), dst, (size_t)n);
    } else {
        assert(col % block == 0 && n % block == 0);
        size_t bytes = ap_dtype_block_bytes(t->dtype);
        for (int64_t i = 0; i < n; i += block)
            block_fn[t->dtype](data + (size_t)((col + i) / block) * bytes, dst + i);
    }
}
