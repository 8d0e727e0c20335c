/* quant_simple.c - GGUF blocks of 32 with one scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, MXFP4. */
#include <math.h>

#include "tensor/dtype.h"
#include "tensor/quant_blocks.h"

static float half_at(const uint8_t *p)
{
    return ap_f16_to_f32(ap_load16(p));
}

void ap_block_q4_0(const uint8_t *src, float *dst)
{
    float d = half_at(src);
    for (int j = 0; j < 16; j++) {
        dst[j] = (float)((src[2 + j] & 15) - 8) * d;
        dst[j + 16] = (float)((src[2 + j] >> 4) - 8) * d;
    }
}

void ap_block_q4_1(const uint8_t *src, float *dst)
{
    float d = half_at(src), m = half_at(src + 2);
    for (int j = 0; j < 16; j++) {
        dst[j] = (float)(src[4 + j] & 15) * d + m;
        dst[j + 16] = (float)(src[4 + j] >> 4) * d + m;
    }
}

/* The fifth bits of value j stand in bit j of a 32-bit word. */
static int five(uint8_t nibble, uint32_t high, int j)
{
    return nibble | (int)(high >> j & 1) << 4;
}

void ap_block_q5_0(const uint8_t *src, float *dst)
{
    float d = half_at(src);
    uint32_t high = ap_load32(src + 2);
    for (int j = 0; j < 16; j++) {
        dst[j] = (float)(five(src[6 + j] & 15, high, j) - 16) * d;
        dst[j + 16] = (float)(five(src[6 + j] >> 4, high, j + 16) - 16) * d;
    }
}

void ap_block_q5_1(const uint8_t *src, float *dst)
{
    float d = half_at(src), m = half_at(src + 2);
    uint32_t high = ap_load32(src + 4);
    for (int j = 0; j < 16; j++) {
        dst[j] = (float)five(src[8 + j] & 15, high, j) * d + m;
        dst[j + 16] = (float)five(src[8 + j] >> 4, high, j + 16) * d + m;
    }
}

void ap_block_q8_0(const uint8_t *src, float *dst)
{
    float d = half_at(src);
    for (int j = 0; j < 32; j++) dst[j] = (float)(int8_t)src[2 + j] * d;
}

static const int8_t iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                      1,    13,   25,  38,  53,  69,  89,  113};

void ap_block_iq4_nl(const uint8_t *src, float *dst)
{
    float d = half_at(src);
    for (int j = 0; j < 16; j++) {
        dst[j] = d * (float)iq4_values[src[2 + j] & 15];
        dst[j + 16] = d * (float)iq4_values[src[2 + j] >> 4];
    }
}

void ap_block_iq4_xs(const uint8_t *src, float *dst)
{
    float d = half_at(src);
    uint32_t high = ap_load16(src + 2);
    const uint8_t *low = src + 4, *q = src + 8;
    for (int b = 0; b < 8; b++, q += 16, dst += 32) {
        int scale = (low[b / 2] >> 4 * (b % 2) & 15) | (int)(high >> 2 * b & 3) << 4;
        float dl = d * (float)(scale - 32);
        for (int j = 0; j < 16; j++) {
            dst[j] = dl * (float)iq4_values[q[j] & 15];
            dst[j + 16] = dl * (float)iq4_values[q[j] >> 4];
        }
    }
}

void ap_block_mxfp4(const uint8_t *src, float *dst)
{
    /* Values in halves, so that they are integers; the scale has the other half. */
    static const int8_t values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    float d = ldexpf(1.0f, (int)src[0] - 128);
    for (int j = 0; j < 16; j++) {
        dst[j] = (float)values[src[1 + j] & 15] * d;
        dst[j + 16] = (float)values[src[1 + j] >> 4] * d;
    }
}
