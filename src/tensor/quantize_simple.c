/* quantize_simple.c - blocks of 32 with one scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, MXFP4. The largest
 * value sets the scale, as the format's reference does it; the operations and their order too. */
#include <math.h>

#include "tensor/quantize_blocks.h"

enum { N = 32 };

/* The value farthest from zero, the first of equals. */
static float farthest(const float *w)
{
    float most = 0, at = 0;
    for (int i = 0; i < N; i++)
        if (fabsf(w[i]) > most) {
            most = fabsf(w[i]);
            at = w[i];
        }
    return at;
}

static void range(const float *w, float *lo, float *hi)
{
    *lo = *hi = w[0];
    for (int i = 1; i < N; i++) {
        *lo = w[i] < *lo ? w[i] : *lo;
        *hi = w[i] > *hi ? w[i] : *hi;
    }
}

static int at_most(float x, int most)
{
    int q = (int)x;
    return q < most ? q : most;
}

/* 16 bytes of low nibbles, value j beside value j + 16. */
static void put_nibbles(const int *q, uint8_t *dst)
{
    for (int j = 0; j < N / 2; j++) dst[j] = (uint8_t)((q[j] & 15) | (q[j + N / 2] & 15) << 4);
}

static void put_fifth_bits(const int *q, uint8_t *dst)
{
    uint32_t high = 0;
    for (int j = 0; j < N; j++) high |= (uint32_t)(q[j] >> 4 & 1) << j;
    for (int i = 0; i < 4; i++) dst[i] = (uint8_t)(high >> 8 * i);
}

/* Integers around half of 2^bits; the farthest value is the lowest of them. */
static void symmetric(const float *w, int half, int *q, uint8_t *scale)
{
    float d = farthest(w) / (float)-half, inverse = d != 0 ? 1.0f / d : 0;
    ap_store_half(scale, d);
    for (int i = 0; i < N; i++) q[i] = at_most(w[i] * inverse + ((float)half + 0.5f), 2 * half - 1);
}

static void affine(const float *w, int most, int *q, uint8_t *scale, uint8_t *least)
{
    float lo, hi;
    range(w, &lo, &hi);
    float d = (hi - lo) / (float)most, inverse = d != 0 ? 1.0f / d : 0;
    ap_store_half(scale, d);
    ap_store_half(least, lo);
    for (int i = 0; i < N; i++) q[i] = at_most((w[i] - lo) * inverse + 0.5f, most);
}

void ap_encode_q4_0(const float *w, uint8_t *dst)
{
    int q[N];
    symmetric(w, 8, q, dst);
    put_nibbles(q, dst + 2);
}

void ap_encode_q4_1(const float *w, uint8_t *dst)
{
    int q[N];
    affine(w, 15, q, dst, dst + 2);
    put_nibbles(q, dst + 4);
}

void ap_encode_q5_0(const float *w, uint8_t *dst)
{
    int q[N];
    symmetric(w, 16, q, dst);
    put_fifth_bits(q, dst + 2);
    put_nibbles(q, dst + 6);
}

void ap_encode_q5_1(const float *w, uint8_t *dst)
{
    int q[N];
    affine(w, 31, q, dst, dst + 2);
    put_fifth_bits(q, dst + 4);
    put_nibbles(q, dst + 8);
}

void ap_encode_q8_0(const float *w, uint8_t *dst)
{
    float d = fabsf(farthest(w)) / 127.0f, inverse = d != 0 ? 1.0f / d : 0;
    ap_store_half(dst, d);
    for (int i = 0; i < N; i++) dst[2 + i] = (uint8_t)(int8_t)roundf(w[i] * inverse);
}

/* The scale is the power of two that leaves the farthest value below 8, in the last but one step. */
void ap_encode_mxfp4(const float *w, uint8_t *dst)
{
    static const float values[8] = {0, 1, 2, 3, 4, 6, 8, 12}; /* halves */
    int q[N], exponent = 0;
    float most = fabsf(farthest(w));
    if (most > 0) exponent = ilogbf(most) - 2 + 127;
    exponent = exponent < 0 ? 0 : exponent;
    float d = ldexpf(1.0f, exponent - 128);
    dst[0] = (uint8_t)exponent;
    for (int i = 0; i < N; i++) {
        int best = 0;
        for (int k = 1; k < 8; k++)
            if (fabsf(d * values[k] - fabsf(w[i])) < fabsf(d * values[best] - fabsf(w[i])))
                best = k;
        q[i] = best | (w[i] < 0 && best ? 8 : 0);
    }
    put_nibbles(q, dst + 1);
}
