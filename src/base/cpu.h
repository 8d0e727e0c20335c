/* cpu.h - what this processor and system can do, asked once. */
#ifndef AP_BASE_CPU_H
#define AP_BASE_CPU_H

#include "apus/apus.h"

/* Best level by CPUID and XGETBV (and, for AMX, the kernel's permission); on aarch64 by HWCAP. */
apus_cpu ap_cpu_best(void);

/* Can this machine run `level`? AUTO and REF always. */
int ap_cpu_has(apus_cpu level);

#endif
