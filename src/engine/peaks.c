/* peaks.c - the machine's ceilings for tools. */
#include <math.h>
#include <string.h>

#include "apus/apus_unstable.h"
#include "base/cpu.h"
#include "base/err.h"
#include "kern/peak.h"

const char *apus_unit_name(apus_unit unit)
{
    static const char *const names[APUS_UNITS] = {"",     "f32",        "int16",
                                                  "int8", "bf16_tiles", "int8_tiles"};
    return (unsigned)unit < APUS_UNITS ? names[unit] : "";
}

bool apus_cpu_has(apus_cpu level)
{
    return ap_cpu_has(level);
}

apus_err apus_machine_peaks(apus_cpu level, int threads, apus_peaks *out, apus_diag *diag)
{
    if (!out || out->size < sizeof out->size || out->size > sizeof *out)
        return ap_fail(diag, APUS_EINVAL, "apus_peaks.size must be set to at most %zu",
                       sizeof *out);
    ap_pool *pool;
    if (level == APUS_CPU_AUTO) level = ap_cpu_best();
    if (!ap_cpu_has(level))
        return ap_fail(diag, APUS_EINVAL, "this processor has no %s", apus_cpu_name(level));
    apus_err err = ap_pool_create(threads, &pool, diag);
    if (err) return err;
    apus_peaks p = {.size = out->size, .level = level, .threads = ap_pool_threads(pool)};
    p.read = ap_peak_bytes(level, pool);
    for (int u = APUS_UNIT_F32; u < APUS_UNITS; u++)
        p.ops[u] = ap_peak_ops(level, (apus_unit)u, pool);
    ap_pool_free(pool);
    if (isinf(p.read))
        return ap_fail(diag, APUS_ENOMEM, "no memory to measure how fast it is read");
    memcpy(out, &p, p.size);
    return APUS_OK;
}
