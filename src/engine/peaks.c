/* peaks.c - the machine's ceilings for tools. */
#include "apus/apus_unstable.h"

#include "base/cpu.h"
#include "base/err.h"
#include "kern/peak.h"

apus_err apus_machine_peaks(apus_cpu level, int threads, double *read, double *flops,
                            apus_diag *diag)
{
    ap_pool *pool;
    if (level == APUS_CPU_AUTO) level = ap_cpu_best();
    if (!ap_cpu_has(level))
        return ap_fail(diag, APUS_EINVAL, "this processor has no %s", apus_cpu_name(level));
    apus_err err = ap_pool_create(threads, &pool, diag);
    if (err) return err;
    *read = ap_peak_bytes(level, pool);
    *flops = ap_peak_flops(level, pool);
    ap_pool_free(pool);
    return APUS_OK;
}
