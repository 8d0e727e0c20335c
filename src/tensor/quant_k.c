/* quant_k.c - GGUF superblocks of 256 with scales of scales: Q2_K to Q6_K. */
#include "tensor/dtype.h"
#include "tensor/quant_blocks.h"

static float half_at(const uint8_t *p)
{
    return ap_f16_to_f32(ap_load16(p));
}

/* scales and minima [16] nibbles, quants [64], d, dmin */
void ap_block_q2_k(const uint8_t *src, float *dst)
{
    const uint8_t *scale = src, *q = src + 16;
    float d = half_at(src + 80), dmin = half_at(src + 82);
    for (int half = 0; half < 2; half++, q += 32)
        for (int shift = 0; shift < 8; shift += 2)
            for (int part = 0; part < 32; part += 16, scale++) {
                float dl = d * (float)(*scale & 15), ml = dmin * (float)(*scale >> 4);
                for (int j = 0; j < 16; j++) *dst++ = dl * (float)(q[part + j] >> shift & 3) - ml;
            }
}

/* high bits [32], quants [64], scales of 6 bits [12], d */
void ap_block_q3_k(const uint8_t *src, float *dst)
{
    const uint8_t *high = src, *q = src + 32, *packed = src + 96;
    float d = half_at(src + 108);
    int s = 0;
    for (int half = 0; half < 2; half++, q += 32)
        for (int k = 0; k < 4; k++)
            for (int part = 0; part < 32; part += 16, s++) {
                int low = s < 8 ? packed[s] & 15 : packed[s - 8] >> 4;
                int scale = low | (packed[8 + s % 4] >> 2 * (s / 4) & 3) << 4;
                float dl = d * (float)(scale - 32);
                for (int j = part; j < part + 16; j++) {
                    int set = high[j] >> (4 * half + k) & 1;
                    *dst++ = dl * (float)((q[j] >> 2 * k & 3) - (set ? 0 : 4));
                }
            }
}

/* Scale and minimum j of the 12 bytes that Q4_K and Q5_K share: 6 bits each. */
static void scale_min(const uint8_t *p, int j, int *scale, int *min)
{
    if (j < 4) {
        *scale = p[j] & 63;
        *min = p[j + 4] & 63;
    } else {
        *scale = (p[j + 4] & 15) | (p[j - 4] >> 6) << 4;
        *min = p[j + 4] >> 4 | (p[j] >> 6) << 4;
    }
}

/* d, dmin, scales [12], quants [128] */
void ap_block_q4_k(const uint8_t *src, float *dst)
{
    float d = half_at(src), dmin = half_at(src + 2);
    const uint8_t *q = src + 16;
    for (int g = 0; g < 8; g++) {
        int scale, min;
        scale_min(src + 4, g, &scale, &min);
        float dl = d * (float)scale, ml = dmin * (float)min;
        for (int j = 0; j < 32; j++) *dst++ = dl * (float)(q[j] >> 4 * (g & 1) & 15) - ml;
        q += 32 * (g & 1);
    }
}

/* d, dmin, scales [12], fifth bits [32], quants [128] */
void ap_block_q5_k(const uint8_t *src, float *dst)
{
    float d = half_at(src), dmin = half_at(src + 2);
    const uint8_t *high = src + 16, *q = src + 48;
    for (int g = 0; g < 8; g++) {
        int scale, min;
        scale_min(src + 4, g, &scale, &min);
        float dl = d * (float)scale, ml = dmin * (float)min;
        for (int j = 0; j < 32; j++)
            *dst++ = dl * (float)((q[j] >> 4 * (g & 1) & 15) + (high[j] >> g & 1) * 16) - ml;
        q += 32 * (g & 1);
    }
}

/* low nibbles [128], high pairs [64], scales i8 [16], d */
void ap_block_q6_k(const uint8_t *src, float *dst)
{
    float d = half_at(src + 208);
    for (int i = 0; i < 256; i++) {
        int half = i / 128, quarter = i / 32 % 4, j = i % 32;
        int low = src[64 * half + 32 * (quarter & 1) + j] >> 4 * (quarter >> 1) & 15;
        int high = src[128 + 32 * half + j] >> 2 * quarter & 3;
        int scale = (int8_t)src[192 + i / 16];
        dst[i] = d * (float)scale * (float)((low | high << 4) - 32);
    }
}
