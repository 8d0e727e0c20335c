/* qfew_avx2.h - few_panel for every kind of weights and number of rows, and the choice between them:
 * included by qdot_avx2.c and qdot8_avx2.c behind their few_panel. */
#include "kern/cpu/x86/qload_avx2.h"

#define FEW(name, kind, halves)                                                                    \
    static void few_##name(ap_qform f, const uint8_t *panel, int cols, const ap_qx *const *x, int rows, \
                           float *out, int ld)                                                     \
    {                                                                                              \
        if (rows == 1) few_panel(kind, halves, 1, f, panel, cols, x, out, ld);                     \
        else if (rows == 2) few_panel(kind, halves, 2, f, panel, cols, x, out, ld);                \
        else if (rows == 3) few_panel(kind, halves, 3, f, panel, cols, x, out, ld);                \
        else few_panel(kind, halves, 4, f, panel, cols, x, out, ld);                               \
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

static void few(ap_qform f, const uint8_t *panel, int cols, const ap_qx *const *x, int rows, float *out,
                int ld)
{
    typedef void (*few_fn)(ap_qform, const uint8_t *, int, const ap_qx *const *, int, float *, int);
    static const few_fn fns[9][2] = { /* the forms there are */
        [TABLE] = {few_table, few_table_h}, [2] = {few_2, few_2_h}, [3] = {few_3, few_3_h},
        [TABLE3] = {few_table3, few_table3_h}, [4] = {few_4}, [5] = {few_5}, [6] = {few_6, few_6_h}, [8] = {few_8}};
    fns[kind_of(f)][ap_q_halves(f)](f, panel, cols, x, rows, out, ld);
}
