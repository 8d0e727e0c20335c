/* qfew_avx2.h - few rows of inputs: packed panels stream past them, some side by side, so that more lines
 * of memory are under way. Included by qdot_avx2.c and qdot8_avx2.c behind their few_block, which adds a
 * block of 8 rows of weights to acc[row of inputs]. */
#include "kern/cpu/x86/qload_avx2.h"

#define AHEAD       4096 /* bytes of weights of a panel */
#define SIDE        2    /* panels side by side, at most; 4 wait longer for memory */
#define MOST_SCALES (CHUNK * AP_Q_MAX_GROUPS * AP_PANEL)

/* n_panel <= SIDE panels, one behind the other in memory. */
INLINE void few_panels(int kind, bool halves, int R, ap_qform f, const uint8_t *panel, int n_panel,
                       int cols, const ap_qx *const *x, float *out, int ld)
{
    _Alignas(64) float s[SIDE * MOST_SCALES], b[SIDE * MOST_SCALES];
    const int blocks = cols / AP_Q_BLOCK, wide = halves ? 2 * AP_PANEL : AP_PANEL;
    const size_t step = ap_q_block_bytes(f), bytes = ap_q_panel_bytes(f, cols);
    const size_t jump =
        (size_t)n_panel * bytes - (size_t)blocks * step; /* from a panel's end to the next one */
    __m256i table = table_of(f);
    __m256 acc[SIDE][2][AP_Q_FEW];
    for (int k = 0; k < n_panel; k++) UNROLL
    for (int r = 0; r < R; r++) acc[k][0][r] = acc[k][1][r] = _mm256_setzero_ps();
    for (int b0 = 0; b0 < blocks; b0 += CHUNK) {
        int n = blocks - b0 < CHUNK ? blocks - b0 : CHUNK;
        for (int k = 0; k < n_panel; k++) {
            const uint8_t *at = panel + (size_t)k * bytes;
            fetch_scales(f, at, at + (size_t)n_panel * bytes, cols, b0);
            load_scales(f, at, cols, b0, n, s + k * MOST_SCALES, b + k * MOST_SCALES);
        }
        for (int i = 0; i < n; i++) {
            const size_t at = (size_t)(b0 + i) * step;
            const size_t ahead = at + AHEAD < (size_t)blocks * step ? AHEAD : AHEAD + jump;
            for (int k = 0; k < n_panel; k++) {
                const uint8_t *p = panel + (size_t)k * bytes + at;
                const float *sk = s + k * MOST_SCALES + i * wide,
                            *bk = b + k * MOST_SCALES + i * wide;
                for (size_t a = 0; a < step; a += 64) __builtin_prefetch(p + ahead + a);
                UNROLL
                for (int h = 0; h < 2; h++) {
                    __m256i v[8];
                    load_half(kind, p, h, table, v);
                    few_block(kind, halves, R, v, f, sk + 8 * h, bk + 8 * h, x, b0 + i, acc[k][h]);
                }
            }
        }
    }
    for (int k = 0; k < n_panel; k++) UNROLL
    for (int r = 0; r < R; r++) UNROLL
    for (int h = 0; h < 2; h++) _mm256_storeu_ps(out + r * ld + k * AP_PANEL + 8 * h, acc[k][h][r]);
}

#define FEW(name, kind, halves)                                                                    \
    static void few_##name(ap_qform f, const uint8_t *panel, int n_panel, int cols,                \
                           const ap_qx *const *x, int rows, float *out, int ld)                    \
    {                                                                                              \
        if (rows == 1)                                                                             \
            few_panels(kind, halves, 1, f, panel, n_panel, cols, x, out, ld);                      \
        else if (rows == 2)                                                                        \
            few_panels(kind, halves, 2, f, panel, n_panel, cols, x, out, ld);                      \
        else if (rows == 3)                                                                        \
            few_panels(kind, halves, 3, f, panel, n_panel, cols, x, out, ld);                      \
        else                                                                                       \
            few_panels(kind, halves, 4, f, panel, n_panel, cols, x, out, ld);                      \
    }
FEW(table, TABLE, false)
FEW(table_h, TABLE, true)
FEW(2, 2, false)
FEW(2_h, 2, true)
FEW(3, 3, false)
FEW(3_h, 3, true)
FEW(table3, TABLE3, false)
FEW(table3_h, TABLE3, true)
FEW(4, 4, false)
FEW(5, 5, false)
FEW(6, 6, false)
FEW(6_h, 6, true)
FEW(8, 8, false)

static void few(ap_qform f, const uint8_t *panel, int n_panel, int cols, const ap_qx *const *x,
                int rows, float *out, int ld)
{
    typedef void (*few_fn)(ap_qform, const uint8_t *, int, int, const ap_qx *const *, int, float *,
                           int);
    static const few_fn fns[9][2] = {/* the forms there are */
                                     [TABLE] = {few_table, few_table_h},
                                     [2] = {few_2, few_2_h},
                                     [3] = {few_3, few_3_h},
                                     [TABLE3] = {few_table3, few_table3_h},
                                     [4] = {few_4},
                                     [5] = {few_5},
                                     [6] = {few_6, few_6_h},
                                     [8] = {few_8}};
    const few_fn few_of = fns[kind_of(f)][ap_q_halves(f)];
    const size_t bytes = ap_q_panel_bytes(f, cols);
    for (int p = 0, n; p < n_panel; p += n) {
        n = n_panel - p < SIDE ? n_panel - p : SIDE;
        few_of(f, panel + (size_t)p * bytes, n, cols, x, rows, out + p * AP_PANEL, ld);
    }
}
