/* qdot8_avx512.c - weights in integer form, inputs of 8 bits: 16 rows x 4 inputs per vpdpbusd. */
#include <math.h>
#include <string.h>

#include "kern/cpu/x86/qinput_avx512.h"
#include "kern/cpu/x86/qload_avx512.h"

#define AHEAD 1024

static void quantise(const float *x, int n, ap_qx *out)
{
    for (int i = 0; i < n; i++) quantise_block(false, x + (size_t)i * AP_Q_BLOCK, &out[i]);
}

/* ------------------------------------------------------------------ weights */

INLINE void unpack_blocks(int kind, __m512i table, const uint8_t *p, size_t step, int n, uint8_t *q)
{
    for (int i = 0; i < n; i++, p += step, q += 512) {
        __m512i v[8];
        load_block(kind, p, table, v);
        UNROLL for (int j = 0; j < 8; j++) _mm512_store_si512(q + 64 * j, v[j]);
    }
}

static void unpack(ap_qform f, const uint8_t *panel, int cols, int b0, int n, ap_qpanel *out)
{
    size_t step = ap_q_block_bytes(f);
    const uint8_t *p = panel + (size_t)b0 * step;
    __m512i table = table_of(f);
    load_scales(f, panel, cols, b0, n, out->s, out->b);
    if (f.table) unpack_blocks(TABLE, table, p, step, n, out->q);
    else if (f.bits == 4) unpack_blocks(4, table, p, step, n, out->q);
    else if (f.bits == 5) unpack_blocks(5, table, p, step, n, out->q);
    else if (f.bits == 6) unpack_blocks(6, table, p, step, n, out->q);
    else unpack_blocks(8, table, p, step, n, out->q);
}

/* ------------------------------------------------------------------ products */

INLINE __m512i four(const ap_qx *x, int j)
{
    int32_t v;
    memcpy(&v, x->q + 4 * j, 4);
    return _mm512_set1_epi32(v);
}

/* The last steps of a block or of half a block. */
INLINE __m512 scaled(__m512i dot, const float *s, float d, __m512 acc)
{
    return _mm512_fmadd_ps(_mm512_mul_ps(_mm512_load_ps(s), _mm512_cvtepi32_ps(dot)), _mm512_set1_ps(d), acc);
}
INLINE __m512 biased(const float *b, float xs, __m512 acc)
{
    return _mm512_fmadd_ps(_mm512_load_ps(b), _mm512_set1_ps(xs), acc);
}

INLINE void few_panel(int kind, int R, bool halves, ap_qform f, const uint8_t *panel, int cols,
                      const ap_qx *const *x, float *out, int ld)
{
    _Alignas(64) float s[AP_Q_K_BLOCKS * AP_Q_MAX_GROUPS * AP_PANEL], b[AP_Q_K_BLOCKS * AP_Q_MAX_GROUPS * AP_PANEL];
    int blocks = cols / AP_Q_BLOCK, mz = -f.zero;
    size_t step = ap_q_block_bytes(f);
    const uint8_t *p = panel;
    __m512i table = table_of(f);
    __m512 acc[AP_Q_FEW];
    UNROLL for (int r = 0; r < R; r++) acc[r] = _mm512_setzero_ps();
    for (int b0 = 0; b0 < blocks; b0 += AP_Q_K_BLOCKS) {
        int n = blocks - b0 < AP_Q_K_BLOCKS ? blocks - b0 : AP_Q_K_BLOCKS;
        load_scales(f, panel, cols, b0, n, s, b);
        for (int i = 0; i < n; i++, p += step) {
            __m512i v[8];
            for (size_t a = 0; a < step; a += 64) __builtin_prefetch(p + AHEAD + a);
            load_block(kind, p, table, v);
            UNROLL for (int r = 0; r < R; r++) {
                const ap_qx *at = &x[r][b0 + i];
                __m512i lo = _mm512_set1_epi32(mz * (halves ? at->sum16[0] : at->sum));
                __m512i hi = halves ? _mm512_set1_epi32(mz * at->sum16[1]) : _mm512_setzero_si512();
                UNROLL for (int j = 0; j < 4; j++) {
                    lo = _mm512_dpbusd_epi32(lo, v[j], four(at, j));
                    hi = _mm512_dpbusd_epi32(hi, v[j + 4], four(at, j + 4));
                }
                if (halves) {
                    acc[r] = scaled(lo, s + i * 32, at->d, acc[r]);
                    acc[r] = scaled(hi, s + i * 32 + 16, at->d, acc[r]);
                    if (f.affine) {
                        acc[r] = biased(b + i * 32, at->xs16[0], acc[r]);
                        acc[r] = biased(b + i * 32 + 16, at->xs16[1], acc[r]);
                    }
                } else {
                    acc[r] = scaled(_mm512_add_epi32(lo, hi), s + i * 16, at->d, acc[r]);
                    if (f.affine) acc[r] = biased(b + i * 16, at->xs, acc[r]);
                }
            }
        }
    }
    UNROLL for (int r = 0; r < R; r++) _mm512_storeu_ps(out + r * ld, acc[r]);
}

typedef void (*few_fn)(ap_qform f, const uint8_t *panel, int cols, const ap_qx *const *x, float *out, int ld);

#define FEW(name, kind, R, halves)                                                                 \
    static void few_##name##_##R(ap_qform f, const uint8_t *panel, int cols, const ap_qx *const *x, \
                                 float *out, int ld)                                               \
    {                                                                                              \
        few_panel(kind, R, halves, f, panel, cols, x, out, ld);                                    \
    }
#define FEWS(name, kind, halves)                                                                   \
    FEW(name, kind, 1, halves) FEW(name, kind, 2, halves) FEW(name, kind, 3, halves) FEW(name, kind, 4, halves)
#define ROWS(name) {few_##name##_1, few_##name##_2, few_##name##_3, few_##name##_4}
FEWS(table, TABLE, false)
FEWS(table_h, TABLE, true)
FEWS(4, 4, false)
FEWS(4_h, 4, true)
FEWS(5, 5, false)
FEWS(5_h, 5, true)
FEWS(6, 6, false)
FEWS(6_h, 6, true)
FEWS(8, 8, false)
FEWS(8_h, 8, true)
static const few_fn fews[5][2][AP_Q_FEW] = {
    {ROWS(table), ROWS(table_h)}, {ROWS(4), ROWS(4_h)}, {ROWS(5), ROWS(5_h)}, {ROWS(6), ROWS(6_h)},
    {ROWS(8), ROWS(8_h)}};

static void few(ap_qform f, const uint8_t *panel, int cols, const ap_qx *const *x, int rows, float *out,
                int ld)
{
    int kind = f.table ? 0 : f.bits == 8 ? 4 : f.bits - 3;
    fews[kind][ap_q_halves(f)][rows - 1](f, panel, cols, x, out, ld);
}

/* R rows x P panels; f32 sums stay in registers over all blocks. */
INLINE void tile_block(int R, int P, bool halves, bool affine, const ap_qpanel *w, const ap_qx *x, int n,
                       float *out, int ld, bool add)
{
    __m512 acc[AP_Q_TILE][2];
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int p = 0; p < P; p++)
            acc[r][p] = add ? _mm512_load_ps(out + r * ld + p * AP_PANEL) : _mm512_setzero_ps();
    for (int i = 0; i < n; i++, x += AP_Q_TILE) {
        __m512i dot[AP_Q_TILE][2];
        UNROLL for (int h = 0; h < 2; h++) {
            if (halves || h == 0)
                UNROLL for (int r = 0; r < R; r++)
                    UNROLL for (int p = 0; p < P; p++)
                        dot[r][p] = _mm512_set1_epi32(halves ? x[r].sum16[h] : x[r].sum);
            UNROLL for (int j = 4 * h; j < 4 * h + 4; j++) {
                __m512i v[2];
                UNROLL for (int p = 0; p < P; p++) v[p] = _mm512_load_si512(w[p].q + i * 512 + j * 64);
                UNROLL for (int r = 0; r < R; r++) {
                    __m512i xr = four(&x[r], j);
                    UNROLL for (int p = 0; p < P; p++) dot[r][p] = _mm512_dpbusd_epi32(dot[r][p], v[p], xr);
                }
            }
            if (halves || h == 1)
                UNROLL for (int r = 0; r < R; r++)
                    UNROLL for (int p = 0; p < P; p++)
                        acc[r][p] = scaled(dot[r][p], w[p].s + (halves ? i * 32 + h * 16 : i * 16), x[r].d, acc[r][p]);
        }
        if (!affine) continue;
        UNROLL for (int r = 0; r < R; r++)
            UNROLL for (int p = 0; p < P; p++) {
                if (halves) {
                    acc[r][p] = biased(w[p].b + i * 32, x[r].xs16[0], acc[r][p]);
                    acc[r][p] = biased(w[p].b + i * 32 + 16, x[r].xs16[1], acc[r][p]);
                } else {
                    acc[r][p] = biased(w[p].b + i * 16, x[r].xs, acc[r][p]);
                }
            }
    }
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int p = 0; p < P; p++) _mm512_store_ps(out + r * ld + p * AP_PANEL, acc[r][p]);
}

typedef void (*tile_fn)(const ap_qpanel *w, const ap_qx *x, int n, float *out, int ld, bool add);

#define TILE(R, P, H, A)                                                                           \
    static void tile_##R##_##P##_##H##_##A(const ap_qpanel *w, const ap_qx *x, int n, float *out,   \
                                           int ld, bool add)                                       \
    {                                                                                              \
        tile_block(R, P, H, A, w, x, n, out, ld, add);                                             \
    }
#define FOR_ROWS(F, P, H, A) F(1, P, H, A) F(2, P, H, A) F(3, P, H, A) F(4, P, H, A) F(5, P, H, A) F(6, P, H, A)
#define FOR_FORMS(F)                                                                               \
    FOR_ROWS(F, 1, 0, 0) FOR_ROWS(F, 1, 0, 1) FOR_ROWS(F, 1, 1, 0) FOR_ROWS(F, 1, 1, 1)            \
    FOR_ROWS(F, 2, 0, 0) FOR_ROWS(F, 2, 0, 1) FOR_ROWS(F, 2, 1, 0) FOR_ROWS(F, 2, 1, 1)
FOR_FORMS(TILE)
#define NAME(R, P, H, A) tile_##R##_##P##_##H##_##A,
#define NAMES(P, H, A) {FOR_ROWS(NAME, P, H, A)}
static const tile_fn tiles[2][2][2][AP_Q_TILE] = {
    {{NAMES(1, 0, 0), NAMES(1, 0, 1)}, {NAMES(1, 1, 0), NAMES(1, 1, 1)}},
    {{NAMES(2, 0, 0), NAMES(2, 0, 1)}, {NAMES(2, 1, 0), NAMES(2, 1, 1)}}};

static void tile(ap_qform f, const ap_qpanel *w, int n_panel, const ap_qx *x, int rows, int n, float *out,
                 int ld, bool add)
{
    tiles[n_panel - 1][ap_q_halves(f)][f.affine][rows - 1](w, x, n, out, ld, add);
}

const ap_micro_qdot ap_qdot8_avx512 = {.k_blocks = 16, .zero_in_sums = true, .quantise = quantise, .few = few,
                                       .unpack = unpack, .tile = tile};
