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
            UNROLL for (int j = 0; j < 8; j++) _mm256_store_si256((__m256i *)(q + 64 * j + 32 * h), v[j]);
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
    UNROLL for (int j = 0; j < n; j += steps) {
        __m256i sum = _mm256_setzero_si256();
        UNROLL for (int i = j; i < j + steps; i++) {
            int32_t four;
            memcpy(&four, x + 4 * i, 4);
            __m256i xi = _mm256_set1_epi32(four), p;
            if (steps == 1) p = _mm256_maddubs_epi16(_mm256_abs_epi8(v[i]), _mm256_sign_epi8(xi, v[i]));
            else p = _mm256_maddubs_epi16(v[i], xi);
            sum = i == j ? p : _mm256_add_epi16(sum, p);
        }
        start = _mm256_add_epi32(start, _mm256_madd_epi16(sum, ones));
    }
    return start;
}

/* A block of 8 rows with one row of inputs; times: what the sums of X start the products with. */
INLINE __m256 block(int steps, bool halves, bool affine, const __m256i v[8], const float *s, const float *b,
                    const ap_qx *x, int times, __m256 acc)
{
    if (halves) {
        acc = scaled(dot(steps, v, x->q, 4, _mm256_set1_epi32(times * x->sum16[0])), s, x->d, acc);
        acc = scaled(dot(steps, v + 4, x->q + 16, 4, _mm256_set1_epi32(times * x->sum16[1])), s + AP_PANEL, x->d, acc);
        if (!affine) return acc;
        acc = biased(b, x->xs16[0], acc);
        return biased(b + AP_PANEL, x->xs16[1], acc);
    }
    acc = scaled(dot(steps, v, x->q, 8, _mm256_set1_epi32(times * x->sum)), s, x->d, acc);
    return affine ? biased(b, x->xs, acc) : acc;
}

/* A block of 8 rows with R rows of inputs. */
INLINE void few_block(int kind, bool halves, int R, const __m256i v[8], ap_qform f, const float *s, const float *b,
                      const ap_qx *const *x, int at, __m256 *acc)
{
    const int times = wide_kind(kind) ? 128 - f.zero : -f.zero;
    UNROLL for (int r = 0; r < R; r++) acc[r] = block(STEPS(kind), halves, f.affine, v, s, b, &x[r][at], times, acc[r]);
}

#include "kern/cpu/x86/qfew_avx2.h"

/* Rows of a tile that pass at once: 2 x 3 sums in registers over all blocks. */
#define SUB 3

/* From input 4j of a block on, n steps: the sums of products with both halves of a panel. */
INLINE void tile_dots(int steps, int R, const uint8_t *q, const ap_qx *x, int j, int n, __m256i (*sum)[2])
{
    const __m256i ones = _mm256_set1_epi16(1);
    if (steps > n) steps = n;
    UNROLL for (int end = j + n; j < end; j += steps) {
        __m256i part[SUB][2];
        UNROLL for (int i = j; i < j + steps; i++) {
            __m256i w[2] = {load(q + 64 * i), load(q + 64 * i + 32)};
            UNROLL for (int r = 0; r < R; r++) {
                int32_t four;
                memcpy(&four, x[r].q + 4 * i, 4);
                __m256i xi = _mm256_set1_epi32(four);
                UNROLL for (int h = 0; h < 2; h++) {
                    __m256i p;
                    if (steps == 1) p = _mm256_maddubs_epi16(_mm256_abs_epi8(w[h]), _mm256_sign_epi8(xi, w[h]));
                    else p = _mm256_maddubs_epi16(w[h], xi);
                    part[r][h] = i == j ? p : _mm256_add_epi16(part[r][h], p);
                    IN_THIS_ORDER(part[r][h]);
                }
            }
        }
        UNROLL for (int r = 0; r < R; r++)
            UNROLL for (int h = 0; h < 2; h++) {
                sum[r][h] = _mm256_add_epi32(sum[r][h], _mm256_madd_epi16(part[r][h], ones));
                IN_THIS_ORDER(sum[r][h]);
            }
    }
}

/* R rows with n blocks of a panel. */
INLINE void tile_rows(int kind, int R, bool halves, bool affine, const ap_qpanel *w, const ap_qx *x, int n, float *out,
                      int ld, bool add)
{
    const int parts = halves ? 2 : 1;
    const float *s = w->s, *b = w->b;
    __m256 acc[SUB][2];
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int h = 0; h < 2; h++)
            acc[r][h] = add ? _mm256_load_ps(out + r * ld + 8 * h) : _mm256_setzero_ps();
    for (int i = 0; i < n; i++, x += AP_Q_TILE, s += parts * AP_PANEL, b += parts * AP_PANEL) {
        UNROLL for (int g = 0; g < parts; g++) {
            __m256i sum[SUB][2];
            UNROLL for (int r = 0; r < R; r++) {
                int start = affine && !wide_kind(kind) ? 0 : halves ? x[r].sum16[g] : x[r].sum; /* 0: no zero to take off */
                sum[r][0] = sum[r][1] = _mm256_set1_epi32(start);
            }
            tile_dots(STEPS(kind), R, w->q + i * 512, x, 8 / parts * g, 8 / parts, sum);
            UNROLL for (int r = 0; r < R; r++)
                UNROLL for (int h = 0; h < 2; h++)
                    acc[r][h] = scaled(sum[r][h], s + g * AP_PANEL + 8 * h, x[r].d, acc[r][h]);
        }
        UNROLL for (int g = 0; affine && g < parts; g++)
            UNROLL for (int r = 0; r < R; r++)
                UNROLL for (int h = 0; h < 2; h++)
                    acc[r][h] = biased(b + g * AP_PANEL + 8 * h, halves ? x[r].xs16[g] : x[r].xs, acc[r][h]);
    }
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int h = 0; h < 2; h++) _mm256_store_ps(out + r * ld + 8 * h, acc[r][h]);
}

INLINE void tile_form(int kind, bool halves, bool affine, const ap_qpanel *w, int n_panel, const ap_qx *x,
                      int rows, int n, float *out, int ld, bool add)
{
    for (int p = 0; p < n_panel; p++)
        for (int r = 0; r < rows; r += SUB) {
            float *to = out + r * ld + p * AP_PANEL;
            if (rows - r >= 3) tile_rows(kind, 3, halves, affine, &w[p], x + r, n, to, ld, add);
            else if (rows - r == 2) tile_rows(kind, 2, halves, affine, &w[p], x + r, n, to, ld, add);
            else tile_rows(kind, 1, halves, affine, &w[p], x + r, n, to, ld, add);
        }
}

#define TILE(kind)                                                                                 \
    static void tile_##kind(ap_qform f, const ap_qpanel *w, int n_panel, const ap_qx *x, int rows, \
                            int n, float *out, int ld, bool add)                                   \
    {                                                                                              \
        if (ap_q_halves(f)) {                                                                      \
            if (f.affine) tile_form(kind, true, true, w, n_panel, x, rows, n, out, ld, add);       \
            else tile_form(kind, true, false, w, n_panel, x, rows, n, out, ld, add);               \
        } else if (f.affine) {                                                                     \
            tile_form(kind, false, true, w, n_panel, x, rows, n, out, ld, add);                    \
        } else {                                                                                   \
            tile_form(kind, false, false, w, n_panel, x, rows, n, out, ld, add);                   \
        }                                                                                          \
    }
TILE(4)
TILE(5)
TILE(6)
TILE(8)

static void tile(ap_qform f, const ap_qpanel *w, int n_panel, const ap_qx *x, int rows, int n, float *out,
                 int ld, bool add)
{
    if (ap_q_wide(f)) tile_8(f, w, n_panel, x, rows, n, out, ld, add);
    else if (f.bits <= 4) tile_4(f, w, n_panel, x, rows, n, out, ld, add);
    else if (f.bits == 5) tile_5(f, w, n_panel, x, rows, n, out, ld, add);
    else tile_6(f, w, n_panel, x, rows, n, out, ld, add);
}

const ap_micro_qdot ap_qdot8_avx2 = {
    .k_blocks = 16, .zero_in_sums = true, .is_signed = true, .quantise = quantise, .few_panels = few, .unpack = unpack, .tile = tile};
