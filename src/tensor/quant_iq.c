/* quant_iq.c - GGUF superblocks of 256 by codebook: IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S. */
#include "tensor/dtype.h"
#include "tensor/quant_blocks.h"
#include "tensor/quant_grids.h"

static float half_at(const uint8_t *p)
{
    return ap_f16_to_f32(ap_load16(p));
}

/* Seven stored signs; the eighth makes their number even. */
static unsigned even_signs(unsigned s)
{
    return s | (unsigned)(__builtin_popcount(s) & 1) << 7;
}

/* Eight values of an IQ2 entry. */
static void put_iq2(uint16_t code, unsigned signs, float scale, float *dst)
{
    static const float values[4] = {8, 25, 43, 0};
    for (int j = 0; j < 8; j++) {
        float v = scale * values[code >> 2 * j & 3];
        dst[j] = signs >> j & 1 ? -v : v;
    }
}

/* Four values of an IQ3 entry. */
static void put_iq3(uint16_t code, const float values[8], unsigned signs, float scale, float *dst)
{
    for (int j = 0; j < 4; j++) {
        float v = scale * values[code >> 3 * j & 7];
        dst[j] = signs >> j & 1 ? -v : v;
    }
}

/* d, then per 32 values: 4 entry numbers, 4 x 7 signs and a scale of 4 bits */
void ap_block_iq2_xxs(const uint8_t *src, float *dst)
{
    float d = half_at(src);
    const uint8_t *q = src + 2;
    for (int b = 0; b < 8; b++, q += 8) {
        uint32_t word = ap_load32(q + 4);
        float scale = d * (0.5f + (float)(word >> 28)) * 0.25f;
        for (int l = 0; l < 4; l++, dst += 8)
            put_iq2(ap_grid_iq2_xxs[q[l]], even_signs(word >> 7 * l & 127), scale, dst);
    }
}

/* d, entries of 9 bits with 7 signs [32], scales [8] nibbles */
void ap_block_iq2_xs(const uint8_t *src, float *dst)
{
    float d = half_at(src);
    const uint8_t *scales = src + 66;
    for (int i = 0; i < 32; i++, dst += 8) {
        unsigned word = ap_load16(src + 2 + 2 * i);
        int nibble = scales[i / 4] >> 4 * (i / 2 % 2) & 15;
        float scale = d * (0.5f + (float)nibble) * 0.25f;
        put_iq2(ap_grid_iq2_xs[word & 511], even_signs(word >> 9), scale, dst);
    }
}

/* d, entries' low bytes [32], signs [32], entries' high bits [8], scales [8] nibbles */
void ap_block_iq2_s(const uint8_t *src, float *dst)
{
    float d = half_at(src);
    const uint8_t *q = src + 2, *signs = src + 34, *high = src + 66, *scales = src + 74;
    for (int i = 0; i < 32; i++, dst += 8) {
        int entry = q[i] | (high[i / 4] >> 2 * (i % 4) & 3) << 8;
        int nibble = scales[i / 4] >> 4 * (i / 2 % 2) & 15;
        put_iq2(ap_grid_iq2_s[entry], signs[i], d * (0.5f + (float)nibble) * 0.25f, dst);
    }
}

/* d, entries [64], then per 32 values 4 x 7 signs and a scale of 4 bits [8] */
void ap_block_iq3_xxs(const uint8_t *src, float *dst)
{
    static const float values[8] = {4, 12, 20, 28, 36, 44, 52, 62};
    float d = half_at(src);
    const uint8_t *q = src + 2, *words = src + 66;
    for (int b = 0; b < 8; b++, q += 8) {
        uint32_t word = ap_load32(words + 4 * b);
        float scale = d * (0.5f + (float)(word >> 28)) * 0.5f;
        for (int l = 0; l < 4; l++, dst += 8) {
            unsigned signs = even_signs(word >> 7 * l & 127);
            put_iq3(ap_grid_iq3_xxs[q[2 * l]], values, signs, scale, dst);
            put_iq3(ap_grid_iq3_xxs[q[2 * l + 1]], values, signs >> 4, scale, dst + 4);
        }
    }
}

/* d, entries' low bytes [64], their ninth bits [8], signs [32], scales [4] nibbles */
void ap_block_iq3_s(const uint8_t *src, float *dst)
{
    static const float values[8] = {1, 3, 5, 7, 9, 11, 13, 15};
    float d = half_at(src);
    const uint8_t *q = src + 2, *high = src + 66, *signs = src + 74, *scales = src + 106;
    for (int b = 0; b < 8; b++) {
        float scale = d * (float)(1 + 2 * (scales[b / 2] >> 4 * (b % 2) & 15));
        for (int e = 0; e < 8; e++, dst += 4) {
            int entry = q[8 * b + e] | (high[b] >> e & 1) << 8;
            put_iq3(ap_grid_iq3_s[entry], values, signs[4 * b + e / 2] >> 4 * (e & 1), scale, dst);
        }
    }
}
