/* qtile_avx2.h - many rows of inputs with unpacked panels, the f32 sums in registers over all blocks.
 * Included by qdot_avx2.c and qdot8_avx2.c behind their
 *   TILE_BYTES  of an unpacked block
 *   tile_dots   the integer sums of R rows with both halves of a panel, in part g of block i: all of it, or
 *               16 inputs. times: what the sums of X start with */
#include "kern/cpu/x86/qload_avx2.h"

/* R rows with n blocks of a panel. */
INLINE void tile_rows(int kind, int R, bool halves, bool affine, int times, const ap_qpanel *w,
                      const ap_qx *const *x, int n, float *out, int ld, bool add)
{
    const int parts = halves ? 2 : 1;
    const float *s = w->s, *b = w->b;
    __m256 acc[TILE_ROWS][2];
    UNROLL
    for (int r = 0; r < R; r++) UNROLL
    for (int h = 0; h < 2; h++)
        acc[r][h] = add ? _mm256_load_ps(out + r * ld + 8 * h) : _mm256_setzero_ps();
    for (int i = 0; i < n; i++, s += parts * AP_PANEL, b += parts * AP_PANEL) {
        UNROLL
        for (int g = 0; g < parts; g++) {
            __m256i sum[TILE_ROWS][2];
            tile_dots(kind, R, halves, affine && !wide_kind(kind) ? 0 : times,
                      w->q + i * TILE_BYTES, x, i, g, sum);
            UNROLL
            for (int r = 0; r < R; r++) UNROLL
            for (int h = 0; h < 2; h++)
                acc[r][h] = scaled(sum[r][h], s + g * AP_PANEL + 8 * h, x[r][i].d, acc[r][h]);
        }
        UNROLL
        for (int g = 0; affine && g < parts; g++) UNROLL
        for (int r = 0; r < R; r++) UNROLL
        for (int h = 0; h < 2; h++)
            acc[r][h] =
                biased(b + g * AP_PANEL + 8 * h, halves ? x[r][i].xs16[g] : x[r][i].xs, acc[r][h]);
    }
    UNROLL
    for (int r = 0; r < R; r++) UNROLL
    for (int h = 0; h < 2; h++) _mm256_store_ps(out + r * ld + 8 * h, acc[r][h]);
}

INLINE void tile_form(int kind, bool halves, bool affine, int times, const ap_qpanel *w,
                      int n_panel, const ap_qx *const *x, int rows, int n, float *out, int ld,
                      bool add)
{
    for (int p = 0; p < n_panel; p++, out += AP_PANEL) {
        if (rows == 3)
            tile_rows(kind, 3, halves, affine, times, &w[p], x, n, out, ld, add);
        else if (rows == 2)
            tile_rows(kind, 2, halves, affine, times, &w[p], x, n, out, ld, add);
        else
            tile_rows(kind, 1, halves, affine, times, &w[p], x, n, out, ld, add);
    }
}
