/* cpu_table.h - the CPU backend's part of kern.c. */
#ifndef AP_KERN_CPU_CPU_TABLE_H
#define AP_KERN_CPU_CPU_TABLE_H

#include "kern/kern.h"

/* The table of a level. The caller checked that the processor has it. */
const ap_kern *ap_cpu_table(apus_cpu level);

#endif
