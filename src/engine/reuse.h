/* reuse.h - a request and the prefix cache: what it takes when it begins, and leaves behind. */
#ifndef AP_ENGINE_REUSE_H
#define AP_ENGINE_REUSE_H

#include "engine/engine.h"
#include "engine/request.h"
#include "state/spill.h"

/* Make the tree of an engine; blocks that nobody shares serve its sessions when they need them. */
void ap_reuse_open(ap_prefix *p, apus_engine *e);

/* What the bits of pages and states depend on. */
uint64_t ap_reuse_key(const apus_engine *e);

/* Let a request's fresh session begin with what is known of its prompt, and tell its usage. */
void ap_reuse_take(ap_prefix *p, apus_request *r);
/* Where the next share of a prompt should end, for a state to be kept there; 0 = anywhere. */
int ap_reuse_stop(const apus_request *r);
/* Keep what its session holds: `last`, with its end, or the full pages of its prompt. */
void ap_reuse_leave(ap_prefix *p, const apus_request *r, bool last);

#endif
