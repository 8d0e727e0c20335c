/* sysmem.h - how much memory this machine has for us. */
#ifndef AP_BASE_SYSMEM_H
#define AP_BASE_SYSMEM_H

#include <stdint.h>

/* Bytes of physical memory, control group limits applied; 0 = cannot be told. */
uint64_t ap_memory_total(void);

/* Bytes that could be taken now without swapping: free memory and what the system can drop, such as
 * cached files, within the limits of the control group and of the process; 0 = cannot be told. */
uint64_t ap_memory_available(void);

#endif
