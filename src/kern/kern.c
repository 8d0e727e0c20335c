#include "kern/kern.h"

#include "base/cpu.h"
#include "base/num.h"
#include "kern/cpu/cpu_table.h"
#include "kern/cpu/product.h"
#include "kern/cpu/qpack.h"

apus_err ap_kern_cpu(apus_cpu level, ap_pool *pool, ap_kern *out, apus_diag *diag)
{
    if (level == APUS_CPU_AUTO) level = ap_cpu_best();
    if (!ap_cpu_has(level))
        return ap_fail(diag, APUS_EINVAL,
                       "this processor does not have the level \"%s\"; its best is \"%s\"",
                       apus_cpu_name(level), apus_cpu_name(ap_cpu_best()));
    ap_cpu_table(level, pool, out);
    return APUS_OK;
}

size_t ap_mat_bytes(const ap_mat *w)
{
    size_t panels = (size_t)ap_div_up(w->rows, AP_PANEL);
    if (w->data) return panels * (w->q.bits ? ap_q_panel_bytes(w->q, w->cols) : ap_panel_bytes(w->dtype, w->cols));
    return ap_tensor_bytes(&w->raw);
}
