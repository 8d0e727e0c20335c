#include "kern/kern.h"

#include <stdlib.h>
#include <string.h>

#include "base/cpu.h"
#include "kern/cpu/cpu_table.h"
#include "kern/cpu/product/product.h"
#ifdef AP_HAVE_CUDA
#include "kern/cuda/device_cuda.h"
#endif

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
    bool best = !name || !strcmp(name, "auto");
    if (!best && !strcmp(name, "cpu")) return ap_device_cpu(level, threads, out, diag);
    if (!best && !names_cuda(name))
        return ap_fail(diag, APUS_EINVAL,
                       "device: expected auto, cpu, cuda or cuda:N, found '%.40s'", name);
#ifdef AP_HAVE_CUDA
    if (!best || ap_cuda_count() > 0)
        return ap_device_cuda(best || !name[4] ? 0 : atoi(name + 5), threads, out, diag);
#endif
    if (best) return ap_device_cpu(level, threads, out, diag);
    return ap_fail(diag, APUS_EUNSUPPORTED,
                   "device %s: this build of apus has the CPU alone (cmake -DAPUS_CUDA=ON builds "
                   "CUDA); choose cpu or auto",
                   name);
}

size_t ap_mat_bytes(const ap_mat *w)
{
    return w->data ? (size_t)ap_n_panels(w) * ap_mat_panel_bytes(w) : ap_tensor_bytes(&w->raw);
}
