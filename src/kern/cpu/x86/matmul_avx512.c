/* matmul_avx512.c - 16 rows of weights per register, tiles of 12 tokens x 2 panels. */
#include <immintrin.h>
#include <stdint.h>

typedef __m512 vec, input;
#define HALVES      1
#define FULL_ROWS   12
#define FULL_PANELS 2
/* clang-format off */
#define FOR_TILE_ROWS(F, NP)                                                                       \
    F(1, NP)                                                                                       \
    F(2, NP) F(3, NP) F(4, NP) F(5, NP) F(6, NP) F(7, NP) F(8, NP) F(9, NP) F(10, NP) F(11, NP)    \
        F(12, NP)
/* clang-format on */
/* four sums hide the latency of fma and outrun the memory of one core */
#define FEW_PANELS_1 4
#define FEW_PANELS_2 4
#define FEW_PANELS_3 4
#define FEW_PANELS_4 4
#define AHEAD        2048

static inline vec vec_zero(void)
{
    return _mm512_setzero_ps();
}
static inline vec vec_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
static inline void vec_store(float *p, vec v)
{
    _mm512_storeu_ps(p, v);
}
static inline vec vec_add(vec a, vec b)
{
    return _mm512_add_ps(a, b);
}
static inline vec vec_fma(vec a, vec b, vec c)
{
    return _mm512_fmadd_ps(a, b, c);
}
static inline vec vec_all(const float *p)
{
    return _mm512_set1_ps(*p);
}

static inline vec w_f32(const uint8_t *w, int half)
{
    (void)half;
    return _mm512_load_ps((const float *)w);
}

static inline vec w_f16(const uint8_t *w, int half)
{
    (void)half;
    return _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)w));
}

static inline vec w_even(const uint8_t *w, int half)
{
    (void)half;
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_load_si512(w), 16));
}

static inline vec w_odd(const uint8_t *w, int half)
{
    const __m512i high = _mm512_set1_epi32((int)0xffff0000u);
    (void)half;
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_load_si512(w), high));
}

#include "kern/cpu/micro/matmul_body.h"

const ap_micro_matmul ap_matmul_avx512 = MATMUL_TABLE;
