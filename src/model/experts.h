/* experts.h - the expert store: where the model finds its experts.
 *
 * Today every expert is resident. The model asks for a layer's experts before each use and keeps no
 * pointer, so that a store which brings them from elsewhere can stand here. */
#ifndef AP_MODEL_EXPERTS_H
#define AP_MODEL_EXPERTS_H

#include "kern/kern.h"

typedef struct ap_experts ap_experts;

/* n_layer x n_expert empty entries; NULL when memory is out. */
ap_experts *ap_experts_create(int n_layer, int n_expert);
void ap_experts_free(ap_experts *e);

/* The entry of an expert, to be filled while loading. */
ap_expert *ap_experts_slot(ap_experts *e, int layer, int expert);

/* The experts of a layer [E]; those named in ids[0..n) are usable until the next call. */
const ap_expert *ap_experts_acquire(ap_experts *e, int layer, const int32_t *ids, int n);

#endif
