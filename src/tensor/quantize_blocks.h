/* quantize_blocks.h - one block of f32 to each GGUF type; quantize_row.h is the way in. */
#ifndef AP_TENSOR_QUANTIZE_BLOCKS_H
#define AP_TENSOR_QUANTIZE_BLOCKS_H

#include <stdint.h>

#include "tensor/dtype.h"

/* w: the 32 or 256 values of one block; dst: its bytes. */
typedef void (*ap_encode_fn)(const float *w, uint8_t *dst);

void ap_encode_q4_0(const float *w, uint8_t *dst);
void ap_encode_q4_1(const float *w, uint8_t *dst);
void ap_encode_q5_0(const float *w, uint8_t *dst);
void ap_encode_q5_1(const float *w, uint8_t *dst);
void ap_encode_q8_0(const float *w, uint8_t *dst);
void ap_encode_mxfp4(const float *w, uint8_t *dst);
void ap_encode_iq4_nl(const float *w, uint8_t *dst);
void ap_encode_iq4_xs(const float *w, uint8_t *dst);
void ap_encode_q2_k(const float *w, uint8_t *dst);
void ap_encode_q3_k(const float *w, uint8_t *dst);
void ap_encode_q4_k(const float *w, uint8_t *dst);
void ap_encode_q5_k(const float *w, uint8_t *dst);
void ap_encode_q6_k(const float *w, uint8_t *dst);

static inline void ap_store16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

/* Store f as f16 and give what a reader will see. */
static inline float ap_store_half(uint8_t *p, float f)
{
    uint16_t h = ap_f32_to_f16(f);
    ap_store16(p, h);
    return ap_f16_to_f32(h);
}

/* Nearest integer, ties to even, |x| < 2^22; quicker than lrintf for loops over arrays. */
static inline float ap_round_near(float x)
{
    return (x + 12582912.0f) - 12582912.0f;
}

#endif
