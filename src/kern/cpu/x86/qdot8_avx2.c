/* qdot8_avx2.c - weights in integer form, inputs of 8 bits: 8 rows x 4 inputs per multiplication. Products
 * of q <= 15, 31 and 63 with X are summed in 16 bits for 8, 4 and 2 steps before they could overflow;
 * wider q is made signed, so that two products fit (128 * 127 * 2). */
#include <math.h>
#include <string.h>

#include "kern/cpu/x86/qinput_avx2.h"
#include "kern/cpu/x86/qload_avx2.h"

static void quantise(const float *x, int n, ap_qx *out)
{
    for (int i = 0; i < n; i++) quantise_block(false, x + (size_t)i * AP_Q_BLOCK, &out[i]);
}

/* ------------------------------------------------------------------ weights */

INLINE void unpack_blocks(int kind, __m256i table, const uint8_t *p, size_t step, int n, uint8_t *q)
{
    for (int i = 0; i < n; i++, p += step, q += 512)
        for (int h = 0; h < 2; h++) {
            __m256i v[8];
            load_half(kind, p, h, table, v);
            UNROLL
            for (int j = 0; j < 8; j++) _mm256_store_si256((__m256i *)(q + 64 * j + 32 * h), v[j]);
        }
}

static void unpack(ap_qform f, const uint8_t *panel, int cols, int b0, int n, ap_qpanel *out)
{
    size_t step = ap_q_block_bytes(f);
    const uint8_t *p = panel + (size_t)b0 * step;
    __m256i table = table_of(f);
    load_scales(f, panel, cols, b0, n, out->s, out->b);
#define UNPACK(kind) unpack_blocks(kind, table, p, step, n, out->q)
    BY_KIND(f, UNPACK)
}

/* ------------------------------------------------------------------ products */

/* Steps that 16 bits hold. */
#define STEPS(kind) (wide_kind(kind) ? 1 : (kind) <= 4 ? 8 : (kind) == 5 ? 4 : 2)

/* start + sum over the 4 n inputs of n vectors. */
INLINE __m256i dot(int steps, const __m256i *v, const int8_t *x, int n, __m256i start)
{
    const __m256i ones = _mm256_set1_epi16(1);
    if (steps > n) steps = n;
    UNROLL
    for (int j = 0; j < n; j += steps) {
        __m256i sum = _mm256_setzero_si256();
        UNROLL
        for (int i = j; i < j + steps; i++) {
            int32_t four;
            memcpy(&four, x + 4 * i, 4);
            __m256i xi = _mm256_set1_epi32(four), p;
            if (steps == 1)
                p = _mm256_maddubs_epi16(_mm256_abs_epi8(v[i]), _mm256_sign_epi8(xi, v[i]));
            else
                p = _mm256_maddubs_epi16(v[i], xi);
            sum = i == j ? p : _mm256_add_epi16(sum, p);
        }
        start = _mm256_add_epi32(start, _mm256_madd_epi16(sum, ones));
    }
    return start;
}

/* A block of 8 rows with one row of inputs; times: what the sums of X start the products with. */
INLINE __m256 block(int steps, bool halves, bool affine, const __m256i v[8], const float *s,
                    const float *b, const ap_qx *x, int times, __m256 acc)
{
    if (halves) {
        acc = scaled(dot(steps, v, x->q, 4, _mm256_set1_epi32(times * x->sum16[0])), s, x->d, acc);
        acc = scaled(dot(steps, v + 4, x->q + 16, 4, _mm256_set1_epi32(times * x->sum16[1])),
                     s + AP_PANEL, x->d, acc);
        if (!affine) return acc;
        acc = biased(b, x->xs16[0], acc);
        return biased(b + AP_PANEL, x->xs16[1], acc);
    }
    acc = scaled(dot(steps, v, x->q, 8, _mm256_set1_epi32(times * x->sum)), s, x->d, acc);
    return affine ? biased(b, x->xs, acc) : acc;
}

/* A block of 8 rows with R rows of inputs. */
INLINE void few_block(int kind, bool halves, int R, const __m256i v[8], ap_qform f, const float *s,
                      const float *b, const ap_qx *const *x, int at, __m256 *acc)
{
    const int times = wide_kind(kind) ? 128 - f.zero : -f.zero;
    UNROLL
    for (int r = 0; r < R; r++)
        acc[r] = block(STEPS(kind), halves, f.affine, v, s, b, &x[r][at], times, acc[r]);
}

#include "kern/cpu/x86/qfew_avx2.h"

/* Rows of a tile: 2 x 3 sums in registers over all blocks. */
#define TILE_ROWS  3
#define TILE_BYTES 512

INLINE void tile_dots(int kind, int R, bool halves, int times, const uint8_t *q,
                      const ap_qx *const *x, int i, int g, __m256i (*sum)[2])
{
    const __m256i ones = _mm256_set1_epi16(1);
    const int n = halves ? 4 : 8, steps = STEPS(kind) < n ? STEPS(kind) : n;
    UNROLL
    for (int r = 0; r < R; r++)
        sum[r][0] = sum[r][1] =
            _mm256_set1_epi32(times * (halves ? x[r][i].sum16[g] : x[r][i].sum));
    UNROLL
    for (int j = n * g; j < n * g + n; j += steps) {
        __m256i part[TILE_ROWS][2];
        UNROLL
        for (int k = j; k < j + steps; k++) {
            __m256i w[2] = {load(q + 64 * k), load(q + 64 * k + 32)};
            UNROLL
            for (int r = 0; r < R; r++) {
                int32_t four;
                memcpy(&four, x[r][i].q + 4 * k, 4);
                __m256i xi = _mm256_set1_epi32(four);
                UNROLL
                for (int h = 0; h < 2; h++) {
                    __m256i p;
                    if (steps == 1)
                        p = _mm256_maddubs_epi16(_mm256_abs_epi8(w[h]), _mm256_sign_epi8(xi, w[h]));
                    else
                        p = _mm256_maddubs_epi16(w[h], xi);
                    part[r][h] = k == j ? p : _mm256_add_epi16(part[r][h], p);
                    IN_THIS_ORDER(part[r][h]);
                }
            }
        }
        UNROLL
        for (int r = 0; r < R; r++) UNROLL
        for (int h = 0; h < 2; h++) {
            sum[r][h] = _mm256_add_epi32(sum[r][h], _mm256_madd_epi16(part[r][h], ones));
            IN_THIS_ORDER(sum[r][h]);
        }
    }
}

#include "kern/cpu/x86/qtile_avx2.h"

AP_Q_TILE_FORMS(tile_4, 4)
AP_Q_TILE_FORMS(tile_5, 5)
AP_Q_TILE_FORMS(tile_6, 6)
AP_Q_TILE_FORMS(tile_8, 8)

static void tile(ap_qform f, const ap_qpanel *w, int n_panel, const ap_qx *const *x, int rows,
                 int n, float *out, int ld, bool add)
{
    if (ap_q_wide(f))
        tile_8(f, w, n_panel, x, rows, n, out, ld, add);
    else if (f.bits <= 4)
        tile_4(f, w, n_panel, x, rows, n, out, ld, add);
    else if (f.bits == 5)
        tile_5(f, w, n_panel, x, rows, n, out, ld, add);
    else
        tile_6(f, w, n_panel, x, rows, n, out, ld, add);
}

const ap_micro_qdot ap_qdot8_avx2 = {.k_blocks = 16,
                                     .tile_rows = TILE_ROWS,
                                     .quantise = quantise,
                                     .few_panels = few,
                                     .unpack = unpack,
                                     .tile = tile};
