/* qwiden_avx2.c - packed weights to f32, 8 rows per vector. */
#include <math.h>

#include "kern/cpu/micro/micro_matmul.h"
#include "kern/cpu/micro/micro_qwiden.h"
#include "kern/cpu/x86/qload_avx2.h"

#define BLOCKS (AP_K_BLOCK / AP_Q_BLOCK)
#define FLOAT  1 /* e4m3; other kinds as in qload_avx2.h */

/* q - zero of input i of 4, a byte each. less: the zero that is left; wide q come as signed bytes. */
INLINE __m256 less_zero(int kind, __m256i v, int i, __m256 less)
{
    if (kind == FLOAT) {
        if (i < 3) v = _mm256_slli_epi32(v, 24 - 8 * i);
        v = _mm256_and_si256(_mm256_srai_epi32(v, 4), _mm256_set1_epi32((int)0x87f00000u));
        __m256i all = _mm256_set1_epi32(0x07f00000);
        __m256i nan = _mm256_cmpeq_epi32(_mm256_and_si256(v, all), all);
        __m256 w = _mm256_mul_ps(_mm256_castsi256_ps(v), _mm256_set1_ps(0x1p120f));
        return _mm256_blendv_ps(w, _mm256_set1_ps(NAN), _mm256_castsi256_ps(nan));
    }
    if (wide_kind(kind)) {
        if (i < 3) v = _mm256_slli_epi32(v, 24 - 8 * i);
        v = _mm256_srai_epi32(v, 24);
    } else {
        if (i) v = _mm256_srli_epi32(v, 8 * i);
        v = _mm256_and_si256(v, _mm256_set1_epi32(255));
    }
    return _mm256_sub_ps(_mm256_cvtepi32_ps(v), less);
}

INLINE void widen_kind(int kind, ap_qform f, const uint8_t *panel, int cols, int b0, int n,
                       float *out)
{
    _Alignas(64) float s[BLOCKS * AP_Q_MAX_GROUPS * AP_PANEL],
        b[BLOCKS * AP_Q_MAX_GROUPS * AP_PANEL];
    const int groups = ap_q_halves(f) ? 2 : 1;
    size_t step = ap_q_block_bytes(f);
    const uint8_t *p = panel + (size_t)b0 * step;
    __m256i table = table_of(f);
    __m256 less = _mm256_set1_ps((float)(ap_q_wide(f) ? f.zero - 128 : f.zero));
    load_scales(f, panel, cols, b0, n, s, b);
    for (int k = 0; k < n; k++, p += step)
        for (int h = 0; h < 2; h++) {
            __m256i v[8];
            if (kind == FLOAT) {
                UNROLL
                for (int j = 0; j < 8; j++) v[j] = load(p + 64 * j + 32 * h);
            } else {
                load_half(kind, p, h, table, v);
            }
            UNROLL
            for (int j = 0; j < 8; j++) {
                int g = (k * groups + (groups == 2 ? j / 4 : 0)) * AP_PANEL + 8 * h;
                float *to = out + (k * AP_Q_BLOCK + 4 * j) * AP_PANEL + 8 * h;
                __m256 vs = _mm256_load_ps(s + g), vb = f.affine ? _mm256_load_ps(b + g) : vs;
                UNROLL
                for (int i = 0; i < 4; i++) {
                    __m256 w = _mm256_mul_ps(less_zero(kind, v[j], i, less), vs);
                    _mm256_store_ps(to + i * AP_PANEL, f.affine ? _mm256_add_ps(w, vb) : w);
                }
            }
        }
}

static void widen(ap_qform f, const uint8_t *panel, int cols, int b0, int n, float *out)
{
#define WIDEN(kind) widen_kind(kind, f, panel, cols, b0, n, out)
    if (f.is_float)
        WIDEN(FLOAT);
    else
        BY_KIND(f, WIDEN)
}

const ap_micro_qwiden ap_qwiden_avx2 = {.widen = widen};
