/* profile.h - where the time of a forward pass goes: a table of operations whose slots time those of
 * another one.
 *
 * Times are of the calling thread, which waits for the workers or the device after each operation, so they
 * add up to the time of a pass but for what the model does between operations. Two looks at the clock and a
 * search of a short list for each operation, and nothing at all without a profile: the slots are then the
 * backend's own. */
#ifndef AP_KERN_PROFILE_H
#define AP_KERN_PROFILE_H

#include "apus/apus_unstable.h"
#include "kern/kern.h"

#define AP_PROFILE_ENTRIES 64    /* different operations; those beyond share the last one */
#define AP_PROFILE_EXPERTS 65536 /* as many as a config may have */

/* Calls of one slot with weights of one type and shape, on one unit. */
typedef struct ap_profile_entry {
    const char *op;   /* name of the slot */
    const char *type; /* of the weights, gate's in glu and moe; attn: "window" or ""; else "" */
    int rows,
        cols; /* of the weights, gate's in glu and moe; attn, delta: heads, head size; else 0 */
    apus_unit unit; /* matmul, glu, moe: of the products; else NONE */
    int64_t calls;
    int64_t tokens; /* rows of all calls */
    int64_t ns;
    double flops; /* 2 for a multiply-add; matmul, glu, moe, attn and delta only */
    double bytes; /* packed weights, keys and values in sight, or recurrent states, once per call */
    int64_t experts; /* moe: those with a row, added up over calls */
} ap_profile_entry;

typedef struct ap_profile {
    const ap_kern *inner; /* what is timed */
    ap_kern timed;        /* the same with slots that time it */
    int n;
    ap_profile_entry entry[AP_PROFILE_ENTRIES];
    uint64_t seen[AP_PROFILE_EXPERTS / 64]; /* experts of a call */
} ap_profile;

/* Time the operations that run with ex, which must not be in use; p forgets what it had and outlives its
 * use. */
void ap_profile_begin(ap_profile *p, ap_exec *ex);
/* No longer. What p has stays readable. Nothing without a profile. */
void ap_profile_end(ap_exec *ex);

#endif
