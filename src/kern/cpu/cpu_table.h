/* cpu_table.h - the CPU backend's part of kern.c. */
#ifndef AP_KERN_CPU_CPU_TABLE_H
#define AP_KERN_CPU_CPU_TABLE_H

#include "kern/kern.h"

/* Fill the table. The caller checked that the processor has the level. */
void ap_cpu_table(apus_cpu level, ap_pool *pool, ap_kern *out);

#endif
