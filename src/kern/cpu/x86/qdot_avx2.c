/* qdot_avx2.c - weights in integer form, inputs of 15 bits: q and X meet as 16-bit numbers, 8 rows x 2
 * inputs per multiplication. Of each four inputs 0 and 2 are one vector, 1 and 3 the next: a mask and a
 * shift make them of the packed bytes. */
#include "kern/cpu/x86/qinput_avx2.h"
#include "kern/cpu/x86/qload_avx2.h"

static void quantise(const float *x, int n, ap_qx *out)
{
    for (int i = 0; i < n; i++) quantise_block(true, x + (size_t)i * AP_Q_BLOCK, &out[i]);
}

/* Of wide q, which load_half makes signed, sign and all. */
INLINE __m256i even(bool wide, __m256i v)
{
    return wide ? _mm256_srai_epi16(_mm256_slli_epi16(v, 8), 8)
                : _mm256_and_si256(v, _mm256_set1_epi16(255));
}
INLINE __m256i odd(bool wide, __m256i v)
{
    return wide ? _mm256_srai_epi16(v, 8) : _mm256_srli_epi16(v, 8);
}

/* ------------------------------------------------------------------ weights */

INLINE void unpack_blocks(int kind, __m256i table, const uint8_t *p, size_t step, int n, int zero,
                          uint8_t *q)
{
    const bool wide = wide_kind(kind);
    const __m256i z = _mm256_set1_epi16((short)(wide ? zero - 128 : zero));
    for (int i = 0; i < n; i++, p += step, q += 1024)
        for (int h = 0; h < 2; h++) {
            __m256i v[8];
            load_half(kind, p, h, table, v);
            UNROLL
            for (int j = 0; j < 8; j++) {
                __m256i *to = (__m256i *)(q + 128 * j + 32 * h);
                _mm256_store_si256(to, _mm256_sub_epi16(even(wide, v[j]), z));
                _mm256_store_si256(to + 2, _mm256_sub_epi16(odd(wide, v[j]), z));
            }
        }
}

static void unpack(ap_qform f, const uint8_t *panel, int cols, int b0, int n, ap_qpanel *out)
{
    size_t step = ap_q_block_bytes(f);
    const uint8_t *p = panel + (size_t)b0 * step;
    __m256i table = table_of(f);
    load_scales(f, panel, cols, b0, n, out->s, out->b);
#define UNPACK(kind) unpack_blocks(kind, table, p, step, n, f.zero, out->q)
    BY_KIND(f, UNPACK)
}

/* ------------------------------------------------------------------ products */

/* Inputs 2j and 2j+2 of an even j, 2j-1 and 2j+1 of an odd one. */
INLINE __m256i two(const ap_qx *x, int j)
{
    int32_t v;
    memcpy(&v, x->w + 2 * j, 4);
    return _mm256_set1_epi32(v);
}

/* A block of 8 rows with R rows of inputs. */
INLINE void few_block(int kind, bool halves, int R, const __m256i v[8], ap_qform f, const float *s,
                      const float *b, const ap_qx *const *x, int block, __m256 *acc)
{
    const int zero = wide_kind(kind) ? f.zero - 128 : f.zero;
    __m256i dot[AP_Q_FEW][2];
    UNROLL
    for (int r = 0; r < R; r++) {
        const ap_qx *at = &x[r][block];
        dot[r][0] = _mm256_set1_epi32(-zero * (halves ? at->sum16[0] : at->sum));
        dot[r][1] = halves ? _mm256_set1_epi32(-zero * at->sum16[1]) : _mm256_setzero_si256();
    }
    UNROLL
    for (int j = 0; j < 8; j++) {
        __m256i e = even(wide_kind(kind), v[j]), o = odd(wide_kind(kind), v[j]);
        UNROLL
        for (int r = 0; r < R; r++) {
            const ap_qx *at = &x[r][block];
            __m256i sum = _mm256_add_epi32(_mm256_madd_epi16(e, two(at, 2 * j)),
                                           _mm256_madd_epi16(o, two(at, 2 * j + 1)));
            dot[r][j / 4] = _mm256_add_epi32(dot[r][j / 4], sum);
        }
    }
    UNROLL
    for (int r = 0; r < R; r++) {
        const ap_qx *at = &x[r][block];
        __m256 a = acc[r];
        if (halves) {
            a = scaled(dot[r][0], s, at->d, a);
            a = scaled(dot[r][1], s + AP_PANEL, at->d, a);
            if (f.affine) a = biased(b + AP_PANEL, at->xs16[1], biased(b, at->xs16[0], a));
        } else {
            a = scaled(_mm256_add_epi32(dot[r][0], dot[r][1]), s, at->d, a);
            if (f.affine) a = biased(b, at->xs, a);
        }
        acc[r] = a;
    }
}

#include "kern/cpu/x86/qfew_avx2.h"

/* Rows of a tile: 2 x 3 sums in registers over all blocks. */
#define TILE_ROWS  3
#define TILE_BYTES 1024

/* The zero point is off q already, and all kinds are alike. */
INLINE void tile_dots(int kind, int R, bool halves, int times, const uint8_t *q,
                      const ap_qx *const *x, int i, int g, __m256i (*sum)[2])
{
    const int n = halves ? 8 : 16;
    (void)kind, (void)times;
    UNROLL
    for (int r = 0; r < R; r++) sum[r][0] = sum[r][1] = _mm256_setzero_si256();
    UNROLL
    for (int j = n * g; j < n * g + n; j++) {
        __m256i w[2] = {load(q + 64 * j), load(q + 64 * j + 32)};
        UNROLL
        for (int r = 0; r < R; r++) {
            __m256i xr = two(&x[r][i], j);
            UNROLL
            for (int h = 0; h < 2; h++) {
                sum[r][h] = _mm256_add_epi32(sum[r][h], _mm256_madd_epi16(w[h], xr));
                IN_THIS_ORDER(sum[r][h]);
            }
        }
    }
}

#include "kern/cpu/x86/qtile_avx2.h"

AP_Q_TILE_FORMS(tile, 4)

const ap_micro_qdot ap_qdot_avx2 = {.fast = &ap_qdot8_avx2,
                                    .k_blocks = 8,
                                    .tile_rows = TILE_ROWS,
                                    .quantise = quantise,
                                    .few_panels = few,
                                    .unpack = unpack,
                                    .tile = tile};
