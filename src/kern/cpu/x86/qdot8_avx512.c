/* qdot8_avx512.c - weights in integer form, inputs of 8 bits: 16 rows x 4 inputs per vpdpbusd. */
#include "kern/cpu/x86/qfew_avx512.h"
#include "kern/cpu/x86/qinput_avx512.h"

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
        UNROLL
        for (int j = 0; j < 8; j++) _mm512_store_si512(q + 64 * j, v[j]);
    }
}

static void unpack(ap_qform f, const uint8_t *panel, int cols, int b0, int n, ap_qpanel *out)
{
    size_t step = ap_q_block_bytes(f);
    const uint8_t *p = panel + (size_t)b0 * step;
    __m512i table = table_of(f);
    load_scales(f, panel, cols, b0, n, out->s, out->b);
#define UNPACK(kind) unpack_blocks(kind, table, p, step, n, out->q)
    BY_KIND(f, UNPACK)
}

/* ------------------------------------------------------------------ products */

ALL_FEW(false)

/* R rows x P panels; f32 sums stay in registers over all blocks. */
INLINE void tile_block(int R, int P, bool halves, bool affine, int zero, const ap_qpanel *w,
                       const ap_qx *const *x, int n, float *out, int ld, bool add)
{
    __m512 acc[AP_Q_TILE][2];
    UNROLL
    for (int r = 0; r < R; r++) UNROLL
    for (int p = 0; p < P; p++)
        acc[r][p] = add ? _mm512_load_ps(out + r * ld + p * AP_PANEL) : _mm512_setzero_ps();
    for (int i = 0; i < n; i++) {
        __m512i dot[AP_Q_TILE][2];
        UNROLL
        for (int h = 0; h < 2; h++) {
            if (halves || h == 0) UNROLL
            for (int r = 0; r < R; r++) UNROLL
            for (int p = 0; p < P; p++)
                dot[r][p] = _mm512_set1_epi32(
                    affine ? 0 : -zero * (halves ? x[r][i].sum16[h] : x[r][i].sum));
            UNROLL
            for (int j = 4 * h; j < 4 * h + 4; j++) {
                __m512i v[2];
                UNROLL
                for (int p = 0; p < P; p++) v[p] = _mm512_load_si512(w[p].q + i * 512 + j * 64);
                UNROLL
                for (int r = 0; r < R; r++) {
                    __m512i xr = four(&x[r][i], j);
                    UNROLL
                    for (int p = 0; p < P; p++)
                        dot[r][p] = _mm512_dpbusd_epi32(dot[r][p], v[p], xr);
                }
            }
            if (halves || h == 1) UNROLL
            for (int r = 0; r < R; r++) UNROLL
            for (int p = 0; p < P; p++)
                acc[r][p] = scaled(dot[r][p], w[p].s + (halves ? i * 32 + h * 16 : i * 16),
                                   x[r][i].d, acc[r][p]);
        }
        if (!affine) continue;
        UNROLL
        for (int r = 0; r < R; r++) UNROLL
        for (int p = 0; p < P; p++) {
            if (halves) {
                acc[r][p] = biased(w[p].b + i * 32, x[r][i].xs16[0], acc[r][p]);
                acc[r][p] = biased(w[p].b + i * 32 + 16, x[r][i].xs16[1], acc[r][p]);
            } else {
                acc[r][p] = biased(w[p].b + i * 16, x[r][i].xs, acc[r][p]);
            }
        }
    }
    UNROLL
    for (int r = 0; r < R; r++) UNROLL
    for (int p = 0; p < P; p++) _mm512_store_ps(out + r * ld + p * AP_PANEL, acc[r][p]);
}

#include "kern/cpu/x86/qtile_avx512.h"

const ap_micro_qdot ap_qdot8_avx512 = {.k_blocks = 16,
                                       .tile_rows = AP_Q_TILE,
                                       .quantise = quantise,
                                       .few_panels = few,
                                       .unpack = unpack,
                                       .tile = tile};
