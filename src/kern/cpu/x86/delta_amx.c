/* delta_amx.c - products of split inputs in bf16 tiles, for the chunked delta rule (micro_recur.h). */
#include <immintrin.h>

#include "kern/cpu/micro/micro_recur.h"
#include "kern/cpu/x86/amx_tile.h"

#define INLINE static inline __attribute__((always_inline))

_Static_assert(AP_SPLIT_PAIR == 2 * AMX_TILE, "both parts of a tile");

/* x = hi + lo, each a bf16 in the upper half of a lane. Ties of hi go away from zero, either way what is
 * left is exact; lo keeps 8 bits of it. */
INLINE void split(__m512 x, __m512i *hi, __m512i *lo)
{
    const __m512i half = _mm512_set1_epi32(0x8000), upper = _mm512_set1_epi32((int)0xffff0000u);
    *hi = _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(x), half), upper);
    __m512 rest = _mm512_sub_ps(x, _mm512_castsi512_ps(*hi));
    *lo = _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(rest), half), upper);
}

static __mmask16 lanes(int n)
{
    return n >= 16 ? 0xffff : n <= 0 ? 0 : (__mmask16)((1 << n) - 1);
}

static void left(const float *x, int64_t ldx, int rows, int cols, int row_tiles, int steps,
                 uint8_t *out)
{
    _Alignas(64) uint16_t at[32];
    for (int i = 0; i < 32; i++) at[i] = (uint16_t)(2 * i + 1);
    const __m512i order = _mm512_load_si512(at);
    for (int t = 0; t < row_tiles; t++)
        for (int s = 0; s < steps; s++, out += AP_SPLIT_PAIR) {
            __mmask16 m0 = lanes(cols - 32 * s), m1 = lanes(cols - 32 * s - 16);
            for (int r = 0; r < AMX_ROWS; r++) {
                bool there = 16 * t + r < rows;
                const float *row = x + (there ? (16 * t + r) * ldx + 32 * s : 0);
                __m512i h0, l0, h1, l1;
                split(_mm512_maskz_loadu_ps(there ? m0 : 0, row), &h0, &l0);
                split(_mm512_maskz_loadu_ps(there ? m1 : 0, row + 16), &h1, &l1);
                _mm512_store_si512(out + 64 * r, _mm512_permutex2var_epi16(h0, order, h1));
                _mm512_store_si512(out + AMX_TILE + 64 * r,
                                   _mm512_permutex2var_epi16(l0, order, l1));
            }
        }
}

/* Upper halves of even and odd side by side. */
INLINE __m512i zip(__m512i even, __m512i odd)
{
    return _mm512_or_si512(_mm512_srli_epi32(even, 16), odd);
}

static void right(const float *x, int64_t ldx, int rows, int cols, int col_tiles, int steps,
                  uint8_t *out)
{
    /* rows of x outside: they are read in their order */
    for (int s = 0; s < steps; s++)
        for (int p = 0; p < 16; p++) {
            int r = 32 * s + 2 * p;
            const float *even = x + (r < rows ? r * ldx : 0);
            const float *odd = x + (r + 1 < rows ? (r + 1) * ldx : 0);
            uint8_t *to = out + s * AP_SPLIT_PAIR + 64 * p;
            for (int t = 0; t < col_tiles; t++, to += steps * AP_SPLIT_PAIR) {
                __mmask16 m = lanes(cols - 16 * t);
                __m512i h0, l0, h1, l1;
                split(_mm512_maskz_loadu_ps(r < rows ? m : 0, even + 16 * t), &h0, &l0);
                split(_mm512_maskz_loadu_ps(r + 1 < rows ? m : 0, odd + 16 * t), &h1, &l1);
                _mm512_store_si512(to, zip(h0, h1));
                _mm512_store_si512(to + AMX_TILE, zip(l0, l1));
            }
        }
}

/* 2 x 2 tiles of sums in 0 .. 3, left tiles in 4 and 5, right ones in 6 and 7. */
static void block(int steps, const uint8_t *a, const uint8_t *a2, const uint8_t *b,
                  const uint8_t *b2, float *c, int64_t ldc, bool accumulate)
{
    float *c2 = c + 16 * ldc;
    size_t step = (size_t)ldc * sizeof(float);
    if (accumulate) {
        AMX_LOAD(0, c, step);
        AMX_LOAD(1, c + 16, step);
        AMX_LOAD(2, c2, step);
        AMX_LOAD(3, c2 + 16, step);
    } else {
        AMX_ZERO(0);
        AMX_ZERO(1);
        AMX_ZERO(2);
        AMX_ZERO(3);
    }
    for (int s = 0; s < steps; s++) {
        /* lo * hi, hi * hi, hi * lo: each part is loaded once */
        AMX_LOAD(4, a + AMX_TILE, 64);
        AMX_LOAD(6, b, 64);
        AMX_BF16(0, 4, 6);
        AMX_LOAD(7, b2, 64);
        AMX_BF16(1, 4, 7);
        AMX_LOAD(5, a2 + AMX_TILE, 64);
        AMX_BF16(2, 5, 6);
        AMX_BF16(3, 5, 7);
        AMX_LOAD(4, a, 64);
        AMX_BF16(0, 4, 6);
        AMX_BF16(1, 4, 7);
        AMX_LOAD(5, a2, 64);
        AMX_BF16(2, 5, 6);
        AMX_BF16(3, 5, 7);
        AMX_LOAD(6, b + AMX_TILE, 64);
        AMX_BF16(0, 4, 6);
        AMX_BF16(2, 5, 6);
        AMX_LOAD(7, b2 + AMX_TILE, 64);
        AMX_BF16(1, 4, 7);
        AMX_BF16(3, 5, 7);
        a += AP_SPLIT_PAIR, a2 += AP_SPLIT_PAIR, b += AP_SPLIT_PAIR, b2 += AP_SPLIT_PAIR;
    }
    AMX_STORE(0, c, step);
    AMX_STORE(1, c + 16, step);
    AMX_STORE(2, c2, step);
    AMX_STORE(3, c2 + 16, step);
}

static void product(int row_tiles, int col_tiles, int steps, const uint8_t *a, int a_steps,
                    const uint8_t *b, int b_steps, float *c, int64_t ldc, bool accumulate,
                    ap_feed *feed)
{
    const int64_t a_tile = (int64_t)a_steps * AP_SPLIT_PAIR;
    const int64_t b_tile = (int64_t)b_steps * AP_SPLIT_PAIR;
    for (int j = 0; j < col_tiles; j += 2)
        for (int i = 0; i < row_tiles; i += 2) {
            block(steps, a + i * a_tile, a + (i + 1) * a_tile, b + j * b_tile, b + (j + 1) * b_tile,
                  c + 16 * i * ldc + 16 * j, ldc, accumulate);
            ap_feed_some(feed);
        }
}

const ap_micro_split ap_split_amx = {amx_begin, amx_end, left, right, product};
