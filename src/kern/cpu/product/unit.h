/* unit.h - which unit of the processor a product runs on. */
#ifndef AP_KERN_CPU_PRODUCT_UNIT_H
#define AP_KERN_CPU_PRODUCT_UNIT_H

#include "apus/apus_unstable.h"
#include "kern/kern.h"

/* Of a product of `rows` rows with all n_mat matrices, as k's precision and level have it. */
apus_unit ap_cpu_unit(const ap_exec *ex, const ap_mat *const *w, int n_mat, int rows);

#endif
