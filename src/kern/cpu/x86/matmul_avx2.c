/* matmul_avx2.c - 8 rows of weights per register, tiles of 6 tokens x 1 panel. */
#include <immintrin.h>
#include <stdint.h>

typedef __m256 vec, input;
#define HALVES               2
#define FULL_ROWS            6
#define FULL_PANELS          1
#define FOR_TILE_ROWS(F, NP) F(1, NP) F(2, NP) F(3, NP) F(4, NP) F(5, NP) F(6, NP)
#define FEW_PANELS_1         4
#define FEW_PANELS_2         2
#define FEW_PANELS_3         2
#define FEW_PANELS_4         1
#define AHEAD                2048

static inline vec vec_zero(void)
{
    return _mm256_setzero_ps();
}
static inline vec vec_load(const float *p)
{
    return _mm256_loadu_ps(p);
}
static inline void vec_store(float *p, vec v)
{
    _mm256_storeu_ps(p, v);
}
static inline vec vec_add(vec a, vec b)
{
    return _mm256_add_ps(a, b);
}
/* In place, by hand: compilers like to put the sum where the broadcast was, which costs copies and,
 * with every register in use, spills. */
static inline vec vec_fma(vec a, vec b, vec c)
{
    __asm__("vfmadd231ps %2, %1, %0" : "+x"(c) : "x"(a), "x"(b));
    return c;
}
static inline vec vec_all(const float *p)
{
    return _mm256_broadcast_ss(p);
}

static inline vec w_f32(const uint8_t *w, int half)
{
    return _mm256_load_ps((const float *)w + 8 * half);
}

static inline vec w_f16(const uint8_t *w, int half)
{
    return _mm256_cvtph_ps(_mm_load_si128((const __m128i *)w + half));
}

static inline vec w_even(const uint8_t *w, int half)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_load_si256((const __m256i *)w + half), 16));
}

static inline vec w_odd(const uint8_t *w, int half)
{
    const __m256i high = _mm256_set1_epi32((int)0xffff0000u);
    return _mm256_castsi256_ps(
        _mm256_and_si256(_mm256_load_si256((const __m256i *)w + half), high));
}

#include "kern/cpu/micro/matmul_body.h"

const ap_micro_matmul ap_matmul_avx2 = MATMUL_TABLE;
