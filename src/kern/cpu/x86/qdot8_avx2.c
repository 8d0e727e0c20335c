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

INLINE __m256 scaled(__m256i sum, const float *s, float d, __m256 acc)
{
    return _mm256_fmadd_ps(_mm256_mul_ps(_mm256_load_ps(s), _mm256_cvtepi32_ps(sum)), _mm256_set1_ps(d), acc);
}
INLINE __m256 biased(const float *b, float xs, __m256 acc)
{
    return _mm256_fmadd_ps(_mm256_load_ps(b), _mm256_set1_ps(xs), acc);
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

/* Block by block: the 8 weight vectors stay in registers while the rows pass; sums are in the tile. */
INLINE void tile_form(int kind, bool halves, bool affine, const ap_qpanel *w, int n_panel, const ap_qx *x,
                      int rows, int n, float *out, int ld, bool add)
{
    const int wide = halves ? 32 : 16;
    for (int p = 0; p < n_panel; p++)
        for (int h = 0; h < 2; h++)
            for (int i = 0; i < n; i++) {
                const uint8_t *q = w[p].q + i * 512 + 32 * h;
                const float *s = w[p].s + i * wide + 8 * h, *b = w[p].b + i * wide + 8 * h;
                __m256i v[8];
                UNROLL for (int j = 0; j < 8; j++) v[j] = load(q + 64 * j);
                for (int r = 0; r < rows; r++) {
                    float *o = out + r * ld + p * AP_PANEL + 8 * h;
                    __m256 acc = add || i > 0 ? _mm256_load_ps(o) : _mm256_setzero_ps();
                    acc = block(STEPS(kind), halves, affine, v, s, b, &x[i * AP_Q_TILE + r], 1, acc);
                    _mm256_store_ps(o, acc);
                }
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
