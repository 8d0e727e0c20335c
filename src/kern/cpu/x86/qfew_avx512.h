/* qfew_avx512.h - few rows of inputs, of 15 (high) or 8 bits: packed panels stream past them, some side by
 * side, so that an input that was broadcast meets all of them and more lines of memory are under way. */
#ifndef AP_KERN_CPU_X86_QFEW_AVX512_H
#define AP_KERN_CPU_X86_QFEW_AVX512_H

#include <string.h>

#include "kern/cpu/x86/qload_avx512.h"

#define AHEAD       2048 /* bytes of weights of a panel */
#define MOST_PANELS 4
#define MOST_SCALES (CHUNK * AP_Q_MAX_GROUPS * AP_PANEL)

/* Inputs 4j .. 4j+3 as bytes; inputs 4j and 4j+2 (o = 0) or 4j+1 and 4j+3 (o = 1) as words. */
INLINE __m512i four(const ap_qx *x, int j)
{
    int32_t v;
    memcpy(&v, x->q + 4 * j, 4);
    return _mm512_set1_epi32(v);
}
INLINE __m512i two(const ap_qx *x, int j, int o)
{
    int32_t v;
    memcpy(&v, x->w + 4 * j + 2 * o, 4);
    return _mm512_set1_epi32(v);
}

/* The last steps of a block or of half a block. */
INLINE __m512 scaled(__m512i dot, const float *s, float d, __m512 acc)
{
    return _mm512_fmadd_ps(_mm512_mul_ps(_mm512_load_ps(s), _mm512_cvtepi32_ps(dot)),
                           _mm512_set1_ps(d), acc);
}
INLINE __m512 biased(const float *b, float xs, __m512 acc)
{
    return _mm512_fmadd_ps(_mm512_load_ps(b), _mm512_set1_ps(xs), acc);
}

/* ------------------------------------------------------------------ blocks */

/* Sums of P panels with R rows; of a half block each, or all in [0]. */
typedef struct few_sums {
    __m512i dot[AP_Q_FEW][MOST_PANELS][2];
    __m512 acc[AP_Q_FEW][MOST_PANELS];
} few_sums;

INLINE void few_dots(bool high, int kind, int R, int P, bool apart, const uint8_t *const *p,
                     __m512i table, const ap_qx *const *x, few_sums *t)
{
    UNROLL
    for (int i = 0; i < 4; i++) UNROLL
    for (int k = 0; k < P; k++) {
        __m512i v[4];
        if (high)
            load_words(kind, p[k], i, table, v);
        else
            load_pair(kind, p[k], i, table, v);
        UNROLL
        for (int r = 0; r < R; r++) {
            __m512i *to = &t->dot[r][k][apart ? i / 2 : 0];
            UNROLL
            for (int j = 0; j < 4; j++) {
                if (high)
                    *to = _mm512_dpwssd_epi32(*to, v[j], two(x[r], 2 * i + j / 2, j % 2));
                else if (j < 2)
                    *to = _mm512_dpbusd_epi32(*to, v[j], four(x[r], 2 * i + j));
            }
        }
    }
}

/* zero: what q has too much. */
INLINE void few_block(bool high, int kind, int R, int P, bool halves, bool affine, int zero,
                      const uint8_t *const *p, __m512i table, const ap_qx *const *x, const float *s,
                      const float *b, few_sums *t)
{
    const bool apart = halves || R * P < 8; /* short chains of sums, if registers last */
    UNROLL
    for (int r = 0; r < R; r++) {
        __m512i start[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
        if (!affine) start[0] = _mm512_set1_epi32(-zero * (halves ? x[r]->sum16[0] : x[r]->sum));
        if (!affine && halves) start[1] = _mm512_set1_epi32(-zero * x[r]->sum16[1]);
        UNROLL
        for (int k = 0; k < P; k++) t->dot[r][k][0] = start[0], t->dot[r][k][1] = start[1];
    }
    few_dots(high, kind, R, P, apart, p, table, x, t);
    UNROLL
    for (int r = 0; r < R; r++) UNROLL
    for (int k = 0; k < P; k++) {
        const float *sk = s + k * MOST_SCALES, *bk = b + k * MOST_SCALES;
        __m512 a = t->acc[r][k];
        if (halves) {
            a = scaled(t->dot[r][k][0], sk, x[r]->d, a);
            a = scaled(t->dot[r][k][1], sk + AP_PANEL, x[r]->d, a);
            if (affine) a = biased(bk + AP_PANEL, x[r]->xs16[1], biased(bk, x[r]->xs16[0], a));
        } else {
            a = scaled(apart ? _mm512_add_epi32(t->dot[r][k][0], t->dot[r][k][1]) : t->dot[r][k][0],
                       sk, x[r]->d, a);
            if (affine) a = biased(bk, x[r]->xs, a);
        }
        t->acc[r][k] = a;
    }
}

/* P panels, one behind the other in memory. */
INLINE void few_panels(bool high, int kind, int R, int P, bool halves, bool affine, ap_qform f,
                       const uint8_t *panel, int cols, const ap_qx *const *x, float *out, int ld)
{
    _Alignas(64) float s[MOST_PANELS * MOST_SCALES], b[MOST_PANELS * MOST_SCALES];
    const int blocks = cols / AP_Q_BLOCK;
    const size_t step = ap_q_block_bytes(f), bytes = ap_q_panel_bytes(f, cols);
    const size_t jump =
        (size_t)P * bytes - (size_t)blocks * step; /* from a panel's end to the next one */
    __m512i table = table_of(f);
    few_sums t;
    UNROLL
    for (int r = 0; r < R; r++) UNROLL
    for (int k = 0; k < P; k++) t.acc[r][k] = _mm512_setzero_ps();
    for (int b0 = 0; b0 < blocks; b0 += CHUNK) {
        int n = blocks - b0 < CHUNK ? blocks - b0 : CHUNK;
        for (int k = 0; k < P; k++) {
            const uint8_t *at = panel + (size_t)k * bytes;
            fetch_scales(f, at, at + (size_t)P * bytes, cols, b0);
            load_scales(f, at, cols, b0, n, s + k * MOST_SCALES, b + k * MOST_SCALES);
        }
        for (int i = 0; i < n; i++) {
            const uint8_t *p[MOST_PANELS];
            const ap_qx *row[AP_Q_FEW];
            const size_t at = (size_t)(b0 + i) * step;
            const size_t ahead = at + AHEAD < (size_t)blocks * step ? AHEAD : AHEAD + jump;
            UNROLL
            for (int k = 0; k < P; k++) {
                p[k] = panel + (size_t)k * bytes + at;
                for (size_t a = 0; a < step; a += 64) __builtin_prefetch(p[k] + ahead + a);
            }
            UNROLL
            for (int r = 0; r < R; r++) row[r] = &x[r][b0 + i];
            int scale = i * (halves ? 2 * AP_PANEL : AP_PANEL);
            few_block(high, kind, R, P, halves, affine, f.zero, p, table, row, s + scale, b + scale,
                      &t);
        }
    }
    UNROLL
    for (int r = 0; r < R; r++) UNROLL
    for (int k = 0; k < P; k++) _mm512_storeu_ps(out + r * ld + k * AP_PANEL, t.acc[r][k]);
}

/* Bodies: 1 and 2 rows x 4 panels, 4 rows x 2, and 4 x 1 for all else, with a row twice where there are
 * fewer. */
typedef void (*few_fn)(ap_qform f, const uint8_t *panel, int cols, const ap_qx *const *x,
                       float *out, int ld);

#define FEW(name, high, kind, R, P, halves, affine)                                                \
    static void few_##name##_##R##_##P(ap_qform f, const uint8_t *panel, int cols,                 \
                                       const ap_qx *const *x, float *out, int ld)                  \
    {                                                                                              \
        few_panels(high, kind, R, P, halves, affine, f, panel, cols, x, out, ld);                  \
    }
/* clang-format off */
#define FEWS(name, high, kind, halves, affine)                                                     \
    FEW(name, high, kind, 1, 4, halves, affine) FEW(name, high, kind, 2, 4, halves, affine)        \
    FEW(name, high, kind, 4, 2, halves, affine) FEW(name, high, kind, 4, 1, halves, affine)
#define BODIES(name) {few_##name##_1_4, few_##name##_2_4, few_##name##_4_2, few_##name##_4_1}
/* The forms there are; affine ones have zero 0. */
#define ALL_FEW(high)                                                                              \
    FEWS(t, high, TABLE, false, false) FEWS(t_h, high, TABLE, true, false)                         \
    FEWS(t3, high, TABLE3, false, false) FEWS(t3_h, high, TABLE3, true, false)                     \
    FEWS(2_a, high, 2, false, true) FEWS(2_ha, high, 2, true, true)                                \
    FEWS(3_a, high, 3, false, true) FEWS(3_h, high, 3, true, false)                                \
    FEWS(4, high, 4, false, false) FEWS(4_a, high, 4, false, true)                                 \
    FEWS(5, high, 5, false, false) FEWS(5_a, high, 5, false, true)                                 \
    FEWS(6_h, high, 6, true, false) FEWS(6_a, high, 6, false, true)                                \
    FEWS(8, high, 8, false, false) FEWS(8_a, high, 8, false, true)                                 \
    static const few_fn fews[9][2][2][4] = {                                                       \
        [TABLE] = {{BODIES(t), {0}}, {BODIES(t_h), {0}}},                                          \
        [TABLE3] = {{BODIES(t3), {0}}, {BODIES(t3_h), {0}}},                                       \
        [2] = {{{0}, BODIES(2_a)}, {{0}, BODIES(2_ha)}},                                           \
        [3] = {{{0}, BODIES(3_a)}, {BODIES(3_h), {0}}},                                            \
        [4] = {{BODIES(4), BODIES(4_a)}, {{0}, {0}}},                                              \
        [5] = {{BODIES(5), BODIES(5_a)}, {{0}, {0}}},                                              \
        [6] = {{{0}, BODIES(6_a)}, {BODIES(6_h), {0}}},                                            \
        [8] = {{BODIES(8), BODIES(8_a)}, {{0}, {0}}}};                                             \
    static void few(ap_qform f, const uint8_t *panel, int n_panel, int cols, const ap_qx *const *x, int rows, \
                    float *out, int ld)                                                            \
    {                                                                                              \
        run_few(fews[kind_of(f)][ap_q_halves(f)][f.affine], f, panel, n_panel, cols, x, rows, out, ld); \
    }
/* clang-format on */

static void run_few(const few_fn *body, ap_qform f, const uint8_t *panel, int n_panel, int cols,
                    const ap_qx *const *x, int rows, float *out, int ld)
{
    const int side = rows <= 2 ? 4 : 2;
    const size_t bytes = ap_q_panel_bytes(f, cols);
    const ap_qx *four_rows[AP_Q_FEW];
    _Alignas(64) float sums[AP_Q_FEW * 2 * AP_PANEL];
    for (int r = 0; r < AP_Q_FEW; r++) four_rows[r] = x[r < rows ? r : 0];
    for (int left = n_panel, n; left > 0;
         left -= n, panel += (size_t)n * bytes, out += n * AP_PANEL) {
        n = left >= side ? side : 1;
        if (n == 4) {
            body[rows - 1](f, panel, cols, x, out, ld);
            continue;
        }
        body[n == 2 ? 2 : 3](f, panel, cols, four_rows, sums, 2 * AP_PANEL);
        for (int r = 0; r < rows; r++)
            memcpy(out + r * ld, sums + r * 2 * AP_PANEL, sizeof(float) * AP_PANEL * (size_t)n);
    }
}

#endif
