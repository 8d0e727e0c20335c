/* experts.h - the experts of a model that has them all in memory. (kern/expert_source.h: where they come from
 * otherwise.) */
#ifndef AP_MODEL_EXPERTS_H
#define AP_MODEL_EXPERTS_H

#include "kern/kern.h"

typedef struct ap_experts ap_experts;

/* n_layer x n_expert empty entries; NULL when memory is out. */
ap_experts *ap_experts_create(int n_layer, int n_expert);
void ap_experts_free(ap_experts *e);

/* The entry of an expert, to be filled while loading. */
ap_expert *ap_experts_slot(ap_experts *e, int layer, int expert);

/* The experts of a layer [E]. */
const ap_expert *ap_experts_of(const ap_experts *e, int layer);

#endif
