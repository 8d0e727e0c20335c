#include "kern/cpu/arm/math_neon.h"

typedef float32x4_t vec;
#define WIDTH         4
#define vec_all       vdupq_n_f32
#define vec_load      vld1q_f32
#define vec_store     vst1q_f32
#define vec_load_n    ap_load_n_neon
#define vec_store_n   ap_store_n_neon
#define vec_add       vaddq_f32
#define vec_sub       vsubq_f32
#define vec_mul       vmulq_f32
#define vec_div       vdivq_f32
#define vec_fma       ap_fma_neon
#define vec_exp       ap_exp_neon
#define vec_sigmoid   ap_sigmoid_neon
#define vec_silu      ap_silu_neon
#define vec_gelu_tanh ap_gelu_tanh_neon
#define vec_tanh      ap_tanh_neon
#define sum16         ap_sum16_neon

/* loads by bytes: any address */
static inline vec vec_f16(const uint8_t *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
}
static inline vec vec_bf16(const uint8_t *p)
{
    return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(p)), 16));
}

#include "kern/cpu/micro/elem_body.h"

const ap_micro_elem ap_elem_neon = ELEM_TABLE;
