#include "kern/cpu/x86/math_avx2.h"

typedef __m256 vec;
#define WIDTH         8
#define vec_exp       ap_exp_avx2
#define vec_sigmoid   ap_sigmoid_avx2
#define vec_silu      ap_silu_avx2
#define vec_gelu_tanh ap_gelu_tanh_avx2
#define vec_tanh      ap_tanh_avx2

static inline vec vec_all(float f)
{
    return _mm256_set1_ps(f);
}
static inline vec vec_load(const float *p)
{
    return _mm256_loadu_ps(p);
}
static inline void vec_store(float *p, vec v)
{
    _mm256_storeu_ps(p, v);
}
static inline vec vec_load_n(const float *p, int n)
{
    return _mm256_maskload_ps(p, ap_mask_avx2(n));
}
static inline void vec_store_n(float *p, vec v, int n)
{
    _mm256_maskstore_ps(p, ap_mask_avx2(n), v);
}
static inline vec vec_add(vec a, vec b)
{
    return _mm256_add_ps(a, b);
}
static inline vec vec_sub(vec a, vec b)
{
    return _mm256_sub_ps(a, b);
}
static inline vec vec_mul(vec a, vec b)
{
    return _mm256_mul_ps(a, b);
}
static inline vec vec_div(vec a, vec b)
{
    return _mm256_div_ps(a, b);
}
static inline vec vec_fma(vec a, vec b, vec c)
{
    return _mm256_fmadd_ps(a, b, c);
}
static inline vec vec_f16(const void *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
static inline vec vec_bf16(const void *p)
{
    __m256i u = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(u, 16));
}
static inline float sum16(const vec s[2])
{
    return ap_sum16_avx2(s[0], s[1]);
}

#include "kern/cpu/micro/elem_body.h"

const ap_micro_elem ap_elem_avx2 = ELEM_TABLE;
