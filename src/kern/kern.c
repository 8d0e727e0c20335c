#include "kern/kern.h"

#include <string.h>

#include "base/cpu.h"
#include "kern/cpu/cpu_table.h"
#include "kern/cpu/product.h"

apus_err ap_kern_cpu(apus_cpu level, const ap_kern **out, apus_diag *diag)
{
    if (level == APUS_CPU_AUTO) level = ap_cpu_best();
    if (!ap_cpu_has(level))
        return ap_fail(diag, APUS_EINVAL,
                       "this processor does not have the level \"%s\"; its best is \"%s\"",
                       apus_cpu_name(level), apus_cpu_name(ap_cpu_best()));
    *out = ap_cpu_table(level);
    return APUS_OK;
}

/* "cuda" or "cuda:N"? */
static bool names_cuda(const char *name)
{
    if (strncmp(name, "cuda", 4)) return false;
    if (!name[4]) return true;
    size_t digits = name[4] == ':' ? strspn(name + 5, "0123456789") : 0;
    return digits > 0 && digits <= 4 && !name[5 + digits];
}

apus_err ap_device_open(const char *name, apus_cpu level, int threads, ap_device **out,
                        apus_diag *diag)
{
    if (!name || !strcmp(name, "auto") || !strcmp(name, "cpu"))
        return ap_device_cpu(level, threads, out, diag);
    if (!names_cuda(name))
        return ap_fail(diag, APUS_EINVAL,
                       "device: expected auto, cpu, cuda or cuda:N, found '%.40s'", name);
    return ap_fail(diag, APUS_EUNSUPPORTED,
                   "device %s: this build of apus runs on the CPU alone; choose cpu or auto", name);
}

size_t ap_mat_bytes(const ap_mat *w)
{
    return w->data ? (size_t)ap_n_panels(w) * ap_mat_panel_bytes(w) : ap_tensor_bytes(&w->raw);
}
