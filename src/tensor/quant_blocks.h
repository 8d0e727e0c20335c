/* quant_blocks.h - one block of each GGUF type to f32; quant.h is the way in. */
#ifndef AP_TENSOR_QUANT_BLOCKS_H
#define AP_TENSOR_QUANT_BLOCKS_H

#include <stdint.h>

/* src: the bytes of one block; dst: its 32 or 256 values. */
typedef void (*ap_block_fn)(const uint8_t *src, float *dst);

void ap_block_q4_0(const uint8_t *src, float *dst);
void ap_block_q4_1(const uint8_t *src, float *dst);
void ap_block_q5_0(const uint8_t *src, float *dst);
void ap_block_q5_1(const uint8_t *src, float *dst);
void ap_block_q8_0(const uint8_t *src, float *dst);
void ap_block_q2_k(const uint8_t *src, float *dst);
void ap_block_q3_k(const uint8_t *src, float *dst);
void ap_block_q4_k(const uint8_t *src, float *dst);
void ap_block_q5_k(const uint8_t *src, float *dst);
void ap_block_q6_k(const uint8_t *src, float *dst);
void ap_block_iq2_xxs(const uint8_t *src, float *dst);
void ap_block_iq2_xs(const uint8_t *src, float *dst);
void ap_block_iq2_s(const uint8_t *src, float *dst);
void ap_block_iq3_xxs(const uint8_t *src, float *dst);
void ap_block_iq3_s(const uint8_t *src, float *dst);
void ap_block_iq4_nl(const uint8_t *src, float *dst);
void ap_block_iq4_xs(const uint8_t *src, float *dst);
void ap_block_mxfp4(const uint8_t *src, float *dst);

/* Little-endian reads of any alignment. */
static inline uint16_t ap_load16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}
static inline uint32_t ap_load32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

#endif
