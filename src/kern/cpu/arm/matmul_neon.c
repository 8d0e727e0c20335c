/* matmul_neon.c - 4 rows of weights per register, tiles of 6 tokens x 1 panel: 24 sums, 4 vectors
 * of weights and one input, which the multiplication takes as a lane: it needs no copies. */
#include <arm_neon.h>
#include <stdint.h>

typedef float32x4_t vec;
typedef float input;
#define HALVES               4
#define FULL_ROWS            6
#define FULL_PANELS          1
#define FOR_TILE_ROWS(F, NP) F(1, NP) F(2, NP) F(3, NP) F(4, NP) F(5, NP) F(6, NP)
/* 12 to 16 sums hide the latency of four units, 4 cycles each */
#define FEW_PANELS_1 4
#define FEW_PANELS_2 2
#define FEW_PANELS_3 1
#define FEW_PANELS_4 1
#define AHEAD        1024

#define vec_load  vld1q_f32
#define vec_store vst1q_f32
#define vec_add   vaddq_f32

static inline vec vec_zero(void)
{
    return vdupq_n_f32(0.0f);
}
/* By hand and in this order: compilers like to load the inputs of all rows early, and with every
 * register in use that spills sums. */
static inline input vec_all(const float *p)
{
    input x;
    __asm__ volatile("ldr %s0, %1" : "=w"(x) : "m"(*p));
    return x;
}
static inline vec vec_fma(input a, vec b, vec c)
{
    __asm__ volatile("fmla %0.4s, %1.4s, %2.s[0]" : "+w"(c) : "w"(b), "w"(a));
    return c;
}

static inline vec w_f32(const uint8_t *w, int half)
{
    return vld1q_f32((const float *)w + 4 * half);
}

static inline vec w_f16(const uint8_t *w, int half)
{
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(w + 8 * half)));
}

static inline vec w_even(const uint8_t *w, int half)
{
    return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_u8(vld1q_u8(w + 16 * half)), 16));
}

static inline vec w_odd(const uint8_t *w, int half)
{
    __asm__("" : "+r"(w)); /* load again: no register is free to keep what w_even loaded */
    const uint32x4_t high = vdupq_n_u32(0xffff0000u);
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_u8(vld1q_u8(w + 16 * half)), high));
}

#include "kern/cpu/micro/matmul_body.h"

const ap_micro_matmul ap_matmul_neon = MATMUL_TABLE;
