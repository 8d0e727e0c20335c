/* expert_cache.h - which expert is in which slot, and which one goes when another comes.
 *
 * Layers are served in turn, each as often as the others, so each may keep the same number of slots; what one does
 * not use, others have until it asks. Within a layer the expert goes that was used least, where a use of h steps ago
 * counts half: with a small h the one whose last use is longest ago (LRU), with a large one the rarest (LFU). */
#ifndef AP_STATE_EXPERT_CACHE_H
#define AP_STATE_EXPERT_CACHE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

typedef struct ap_expert_cache ap_expert_cache;

/*   n_layer  all; n_moe of them have experts
 *   half     steps after which a use counts half; > 0 */
ap_expert_cache *ap_expert_cache_create(int n_layer, int n_moe, int n_expert, int n_slot,
                                        double half); /* NULL: no memory */
void ap_expert_cache_free(ap_expert_cache *c);

/* A step uses experts of a layer: count it, before the uses. */
void ap_expert_cache_step(ap_expert_cache *c, int layer);
void ap_expert_cache_use(ap_expert_cache *c, int layer, int expert);

/* Its uses, as they count now; and as if it had been used so. */
double ap_expert_cache_uses(const ap_expert_cache *c, int layer, int expert);
void ap_expert_cache_set_uses(ap_expert_cache *c, int layer, int expert, double uses);

/* The slot that has an expert; -1 = none. */
int ap_expert_cache_find(const ap_expert_cache *c, int layer, int expert);
/* A slot for an expert that has none; whoever was in it has left. Pinned. -1: all slots are pinned. */
int ap_expert_cache_take(ap_expert_cache *c, int layer, int expert);
/* Likewise, a free one or one that an expert of layer `from` leaves. -1: there is none. */
int ap_expert_cache_take_from(ap_expert_cache *c, int layer, int expert, int from);
/* An expert that did not come: its slot is free. */
void ap_expert_cache_drop(ap_expert_cache *c, int slot);

/* Pinned slots keep their expert. */
void ap_expert_cache_pin(ap_expert_cache *c, int slot, bool pinned);

#endif
