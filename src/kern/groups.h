/* groups.h - groups of operations one after the other: their definition, for backends without a better way. */
#ifndef AP_KERN_GROUPS_H
#define AP_KERN_GROUPS_H

#include "kern/kern.h"

void ap_group_project(const ap_exec *x, const ap_project_args *a);
void ap_group_mix(const ap_exec *x, const ap_mix_args *a);
void ap_group_recur(const ap_exec *x, const ap_recur_args *a);
void ap_group_attend(const ap_exec *x, const ap_attend_args *a);

/* Their parts. */
void ap_group_norm(const ap_exec *x, const float *in, const float *weight, float eps, float *out,
                   int rows, int n);
void ap_group_route(const ap_exec *x, const ap_mix_args *a);
ap_moe_args ap_group_moe_args(const ap_mix_args *a);
/* The product behind the delta rule, if there is one. */
void ap_group_recur_out(const ap_exec *x, const ap_recur_args *a);
/* y = y + sigmoid(gate) * t */
void ap_group_add_shared(const ap_exec *x, const ap_mix_args *a);

#endif
