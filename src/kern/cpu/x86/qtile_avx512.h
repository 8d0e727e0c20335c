/* qtile_avx512.h - tile_block for every number of rows and panels and every form, and the choice
 * between them: included by qdot_avx512.c and qdot8_avx512.c behind their tile_block. */
#include "kern/cpu/micro/micro_qdot.h"

typedef void (*tile_fn)(int zero, const ap_qpanel *w, const ap_qx *const *x, int n, float *out,
                        int ld, bool add);

#define TILE(R, P, H, A)                                                                           \
    static void tile_##R##_##P##_##H##_##A(int zero, const ap_qpanel *w, const ap_qx *const *x,    \
                                           int n, float *out, int ld, bool add)                    \
    {                                                                                              \
        tile_block(R, P, H, A, zero, w, x, n, out, ld, add);                                       \
    }
/* clang-format off */
#define FOR_ROWS(F, P, H, A) F(1, P, H, A) F(2, P, H, A) F(3, P, H, A) F(4, P, H, A) F(5, P, H, A) F(6, P, H, A)
#define FOR_FORMS(F)                                                                               \
    FOR_ROWS(F, 1, 0, 0) FOR_ROWS(F, 1, 0, 1) FOR_ROWS(F, 1, 1, 0) FOR_ROWS(F, 1, 1, 1)            \
    FOR_ROWS(F, 2, 0, 0) FOR_ROWS(F, 2, 0, 1) FOR_ROWS(F, 2, 1, 0) FOR_ROWS(F, 2, 1, 1)
/* clang-format on */
FOR_FORMS(TILE)
#define NAME(R, P, H, A) tile_##R##_##P##_##H##_##A,
#define NAMES(P, H, A)                                                                             \
    {                                                                                              \
        FOR_ROWS(NAME, P, H, A)                                                                    \
    }
static const tile_fn tiles[2][2][2][AP_Q_TILE] = {
    {{NAMES(1, 0, 0), NAMES(1, 0, 1)}, {NAMES(1, 1, 0), NAMES(1, 1, 1)}},
    {{NAMES(2, 0, 0), NAMES(2, 0, 1)}, {NAMES(2, 1, 0), NAMES(2, 1, 1)}}};

static void tile(ap_qform f, const ap_qpanel *w, int n_panel, const ap_qx *const *x, int rows,
                 int n, float *out, int ld, bool add)
{
    tiles[n_panel - 1][ap_q_halves(f)][f.affine][rows - 1](f.zero, w, x, n, out, ld, add);
}
