/* groups.h - groups of operations one after the other: their definition, for backends without a better way. */
#ifndef AP_KERN_GROUPS_H
#define AP_KERN_GROUPS_H

#include "kern/kern.h"

void ap_group_project(const ap_exec *x, const ap_project_args *a);
void ap_group_mix(const ap_exec *x, const ap_mix_args *a);

#endif
