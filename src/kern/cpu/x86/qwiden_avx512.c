/* qwiden_avx512.c - packed weights to f32, 16 rows per vector. Nibbles are looked up as floats at once;
 * other q become floats by the exponent trick: 2^23 + q has q as its last bits. */
#include <math.h>

#include "kern/cpu/micro/micro_matmul.h"
#include "kern/cpu/micro/micro_qwiden.h"
#include "kern/cpu/x86/qload_avx512.h"

#define BLOCKS (AP_K_BLOCK / AP_Q_BLOCK)
#define AHEAD  1024

/* Kinds of widening: up to 4 bits, with any table or none, are NIBBLE, e4m3 is FLOAT, else the number of bits. */
enum { NIBBLE = 0, FLOAT = 1 };

/* What turns q into q - zero. */
typedef struct steps {
    __m512 table; /* NIBBLE: by nibble */
    __m512 less;  /* others: 2^23 + zero */
} steps;

static steps steps_of(ap_qform f)
{
    float t[16];
    for (int i = 0; i < 16; i++) t[i] = (float)((f.table ? ap_qtable[f.table][i] : i) - f.zero);
    return (steps){_mm512_loadu_ps(t), _mm512_set1_ps((float)(8388608 + f.zero))};
}

/* The weights before their scales of inputs 4j .. 4j+3 of a block. raw: for NIBBLE the vector that has them
 * (j odd: in the high nibbles), else those 4 inputs, a byte each. */
INLINE __m512 number(int kind, const steps *t, __m512i raw, int j, int i)
{
    if (kind == NIBBLE) {
        unsigned shift = (unsigned)(8 * i + 4 * (j & 1));
        return _mm512_permutexvar_ps(shift ? _mm512_srli_epi32(raw, shift) : raw, t->table);
    }
    if (kind == FLOAT) {
        __m512i v = i < 3 ? _mm512_slli_epi32(raw, (unsigned)(24 - 8 * i)) : raw;
        v = _mm512_and_si512(_mm512_srai_epi32(v, 4), _mm512_set1_epi32((int)0x87f00000u));
        __mmask16 nan = _mm512_cmpeq_epi32_mask(_mm512_and_si512(v, _mm512_set1_epi32(0x07f00000)),
                                                _mm512_set1_epi32(0x07f00000));
        return _mm512_mask_blend_ps(nan,
                                    _mm512_mul_ps(_mm512_castsi512_ps(v), _mm512_set1_ps(0x1p120f)),
                                    _mm512_set1_ps(NAN));
    }
    __m512i v = i ? _mm512_srli_epi32(raw, (unsigned)(8 * i)) : raw;
    v = _mm512_ternarylogic_epi32(v, _mm512_set1_epi32(255), _mm512_set1_epi32(0x4b000000),
                                  0xea); /* v & 255 | */
    return _mm512_sub_ps(_mm512_castsi512_ps(v), t->less);
}

/* The vectors that `number` wants, 4 for NIBBLE, else 8. */
INLINE void load_raw(int kind, int bits, const uint8_t *p, __m512i raw[8])
{
    if (kind == NIBBLE) {
        UNROLL
        for (int i = 0; i < 4; i++) raw[i] = load_nibbles(bits, p, i);
        return;
    }
    if (kind == 5 || kind == 6) {
        load_block(kind, p, _mm512_setzero_si512(), raw);
        return;
    }
    UNROLL
    for (int j = 0; j < 8; j++) raw[j] = _mm512_load_si512(p + 64 * j);
}

INLINE __m512 weight(int kind, bool affine, const steps *t, __m512i raw, int j, int i, __m512 s,
                     __m512 b)
{
    __m512 w = _mm512_mul_ps(number(kind, t, raw, j, i), s);
    return affine ? _mm512_add_ps(w, b) : w;
}

/* ------------------------------------------------------------------ to memory */

INLINE void widen_kind(int kind, bool affine, ap_qform f, const uint8_t *panel, int cols, int b0,
                       int n, float *out)
{
    _Alignas(64) float s[BLOCKS * AP_Q_MAX_GROUPS * AP_PANEL],
        b[BLOCKS * AP_Q_MAX_GROUPS * AP_PANEL];
    const steps t = steps_of(f);
    const int groups = ap_q_halves(f) ? 2 : 1;
    size_t step = ap_q_block_bytes(f);
    const uint8_t *p = panel + (size_t)b0 * step;
    load_scales(f, panel, cols, b0, n, s, b);
    for (int k = 0; k < n; k++, p += step) {
        __m512i raw[8];
        load_raw(kind, f.bits, p, raw);
        UNROLL
        for (int j = 0; j < 8; j++) {
            int g = (k * groups + (groups == 2 ? j / 4 : 0)) * AP_PANEL;
            __m512 vs = _mm512_load_ps(s + g), vb = affine ? _mm512_load_ps(b + g) : vs;
            UNROLL
            for (int i = 0; i < 4; i++, out += AP_PANEL)
                _mm512_store_ps(
                    out, weight(kind, affine, &t, raw[kind == NIBBLE ? j / 2 : j], j, i, vs, vb));
        }
    }
}

static int kind_to_widen(ap_qform f)
{
    return f.is_float ? FLOAT : f.bits <= 4 ? NIBBLE : f.bits;
}

static void widen(ap_qform f, const uint8_t *panel, int cols, int b0, int n, float *out)
{
    switch (kind_to_widen(f)) {
    case NIBBLE:
        if (f.affine)
            widen_kind(NIBBLE, true, f, panel, cols, b0, n, out);
        else
            widen_kind(NIBBLE, false, f, panel, cols, b0, n, out);
        break;
    case 5:
        if (f.affine)
            widen_kind(5, true, f, panel, cols, b0, n, out);
        else
            widen_kind(5, false, f, panel, cols, b0, n, out);
        break;
    case 6:
        if (f.affine)
            widen_kind(6, true, f, panel, cols, b0, n, out);
        else
            widen_kind(6, false, f, panel, cols, b0, n, out);
        break;
    case 8:
        if (f.affine)
            widen_kind(8, true, f, panel, cols, b0, n, out);
        else
            widen_kind(8, false, f, panel, cols, b0, n, out);
        break;
    default:
        widen_kind(FLOAT, false, f, panel, cols, b0, n, out);
    }
}

/* ------------------------------------------------------------------ straight into sums */

/* Two panels side by side: sums in the order of inputs are a chain each, and one waits for the other. */
INLINE void few_kind(int kind, bool affine, int R, ap_qform f, const uint8_t *panel, size_t pb,
                     int cols, const float *const *x, float *out, int ld)
{
    enum { P = 2, FLOATS = BLOCKS * AP_Q_MAX_GROUPS * AP_PANEL };
    _Alignas(64) float s[P][FLOATS], b[P][FLOATS];
    const steps t = steps_of(f);
    const int groups = ap_q_halves(f) ? 2 : 1, blocks = cols / AP_Q_BLOCK;
    size_t step = ap_q_block_bytes(f);
    const uint8_t *p = panel;
    for (int b0 = 0; b0 < blocks; b0 += BLOCKS) {
        int n = blocks - b0 < BLOCKS ? blocks - b0 : BLOCKS;
        __m512 acc[AP_FEW_ROWS][P];
        UNROLL
        for (int r = 0; r < R; r++) UNROLL
        for (int c = 0; c < P; c++) acc[r][c] = _mm512_setzero_ps();
        UNROLL
        for (int c = 0; c < P; c++) load_scales(f, panel + (size_t)c * pb, cols, b0, n, s[c], b[c]);
        for (int k = 0; k < n; k++, p += step) {
            __m512i raw[P][8];
            UNROLL
            for (int c = 0; c < P; c++) {
                for (size_t a = 0; a < step; a += 64)
                    __builtin_prefetch(p + (size_t)c * pb + AHEAD + a);
                load_raw(kind, f.bits, p + (size_t)c * pb, raw[c]);
            }
            for (int j = 0; j < 8; j += 2) {
                int g = (k * groups + (groups == 2 ? j / 4 : 0)) * AP_PANEL,
                    at = (b0 + k) * AP_Q_BLOCK + 4 * j;
                UNROLL
                for (int i = 0; i < 8; i++) UNROLL
                for (int c = 0; c < P; c++) {
                    __m512 vs = _mm512_load_ps(s[c] + g),
                           vb = affine ? _mm512_load_ps(b[c] + g) : vs;
                    __m512i v = raw[c][kind == NIBBLE ? j / 2 : j + i / 4];
                    __m512 w = weight(kind, affine, &t, v, i / 4, i % 4, vs, vb);
                    UNROLL
                    for (int r = 0; r < R; r++)
                        acc[r][c] = _mm512_fmadd_ps(_mm512_set1_ps(x[r][at + i]), w, acc[r][c]);
                }
            }
        }
        UNROLL
        for (int r = 0; r < R; r++) UNROLL
        for (int c = 0; c < P; c++) {
            float *o = out + r * ld + c * AP_PANEL;
            _mm512_storeu_ps(o, b0 ? _mm512_add_ps(_mm512_loadu_ps(o), acc[r][c]) : acc[r][c]);
        }
    }
}

typedef void (*few_fn)(ap_qform f, const uint8_t *panel, size_t pb, int cols, const float *const *x,
                       float *out, int ld);

#define FEW(kind, affine, R)                                                                       \
    static void few_##kind##_##affine##_##R(ap_qform f, const uint8_t *panel, size_t pb, int cols, \
                                            const float *const *x, float *out, int ld)             \
    {                                                                                              \
        few_kind(kind, affine, R, f, panel, pb, cols, x, out, ld);                                 \
    }
#define FEWS(kind, affine)                                                                         \
    FEW(kind, affine, 1) FEW(kind, affine, 2) FEW(kind, affine, 3) FEW(kind, affine, 4)
#define ROWS(kind, affine)                                                                         \
    {                                                                                              \
        few_##kind##_##affine##_1, few_##kind##_##affine##_2, few_##kind##_##affine##_3,           \
            few_##kind##_##affine##_4                                                              \
    }
FEWS(NIBBLE, 0)
FEWS(NIBBLE, 1)
FEWS(FLOAT, 0)
FEWS(5, 0)
FEWS(5, 1)
FEWS(6, 0)
FEWS(6, 1)
FEWS(8, 0)
FEWS(8, 1)
static const few_fn fews[9][2][AP_FEW_ROWS] = {[NIBBLE] = {ROWS(NIBBLE, 0), ROWS(NIBBLE, 1)},
                                               [FLOAT] = {ROWS(FLOAT, 0), ROWS(FLOAT, 0)},
                                               [5] = {ROWS(5, 0), ROWS(5, 1)},
                                               [6] = {ROWS(6, 0), ROWS(6, 1)},
                                               [8] = {ROWS(8, 0), ROWS(8, 1)}};

static void few(ap_qform f, const uint8_t *panel, size_t panel_bytes, int cols,
                const float *const *x, int rows, float *out, int ld)
{
    fews[kind_to_widen(f)][f.affine][rows - 1](f, panel, panel_bytes, cols, x, out, ld);
}

const ap_micro_qwiden ap_qwiden_avx512 = {.widen = widen, .few = few};
