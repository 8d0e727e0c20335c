#include "kern/cpu/x86/math_avx512.h"

typedef __m512 vec;
#define WIDTH         16
#define vec_exp       ap_exp_avx512
#define vec_sigmoid   ap_sigmoid_avx512
#define vec_silu      ap_silu_avx512
#define vec_gelu_tanh ap_gelu_tanh_avx512
#define vec_tanh      ap_tanh_avx512

static inline vec vec_all(float f)
{
    return _mm512_set1_ps(f);
}
static inline vec vec_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
static inline void vec_store(float *p, vec v)
{
    _mm512_storeu_ps(p, v);
}
static inline vec vec_load_n(const float *p, int n)
{
    return _mm512_maskz_loadu_ps(ap_mask_avx512(n), p);
}
static inline void vec_store_n(float *p, vec v, int n)
{
    _mm512_mask_storeu_ps(p, ap_mask_avx512(n), v);
}
static inline vec vec_add(vec a, vec b)
{
    return _mm512_add_ps(a, b);
}
static inline vec vec_sub(vec a, vec b)
{
    return _mm512_sub_ps(a, b);
}
static inline vec vec_mul(vec a, vec b)
{
    return _mm512_mul_ps(a, b);
}
static inline vec vec_div(vec a, vec b)
{
    return _mm512_div_ps(a, b);
}
static inline vec vec_fma(vec a, vec b, vec c)
{
    return _mm512_fmadd_ps(a, b, c);
}
static inline vec vec_f16(const void *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
static inline vec vec_bf16(const void *p)
{
    __m512i u = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(u, 16));
}
static inline float sum16(const vec s[1])
{
    return ap_sum16_avx512(s[0]);
}

#include "kern/cpu/micro/elem_body.h"

const ap_micro_elem ap_elem_avx512 = ELEM_TABLE;
