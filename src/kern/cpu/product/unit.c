#include "kern/cpu/product/unit.h"

#include "kern/cpu/product/product.h"
#include "kern/cpu/product/tiled.h"

apus_unit ap_cpu_unit(const ap_exec *ex, const ap_mat *const *w, int n_mat, int rows)
{
    if (ap_tiled_side(ex, w, n_mat, rows) != AP_AMX_NONE) return APUS_UNIT_BF16_TILES;
    if (ex->k->level == APUS_CPU_REF || !ap_meets_integers(ex, w[0])) return APUS_UNIT_F32;
    /* NEON widens bytes to 16 bits first */
    bool bytes = ex->precision == APUS_PRECISION_FAST && ex->k->level != APUS_CPU_NEON;
    return bytes ? APUS_UNIT_INT8 : APUS_UNIT_INT16;
}
