/* expert_source.h - where a step gets its experts from when they are not all in memory.
 *
 * A layer asks for its experts once routing is known, is given them in waves, computes each wave while the next
 * one is on its way, and says when it has done:
 *
 *     want(layer, ids, n); while get() gives a wave: compute it; done()
 *
 * Between want and the first get it may guess what the next layer will choose: next(), guess(ids, n).
 *
 * One layer of one step at a time, on one thread; another thread's want waits for done. */
#ifndef AP_KERN_EXPERT_SOURCE_H
#define AP_KERN_EXPERT_SOURCE_H

#include "kern/kern.h"

/* An expert as files have it, not packed. */
typedef struct ap_expert_view {
    ap_tensor gate, up, down; /* [F, H], [F, H], [H, F]; zeroed where there is none */
} ap_expert_view;

/* Experts of a layer that are there: number id[i] is expert[i], i < n. */
typedef struct ap_wave {
    const int32_t *id;
    const ap_expert *expert;
    int n;
} ap_wave;

typedef struct ap_expert_source ap_expert_source;

typedef struct ap_expert_source_ops {
    /* Experts ids[0..n) of a layer, distinct, are needed now; reads begin. */
    void (*want)(ap_expert_source *s, int layer, const int32_t *ids, int n);
    /* Some of them that were not given yet, those that are there first; waits for one if none is. They are the
     * caller's until the next get or done. wave->n = 0: all were given.
     *   ex  the step's; its device's workers may be used
     * EIO with file and offset, EFORMAT: an expert cannot be had; nothing else has changed, and done must
     * follow. */
    apus_err (*get)(ap_expert_source *s, const ap_exec *ex, ap_wave *wave, apus_diag *diag);
    /* After want: the next layer with experts, if reads have room for a guess of what it will choose; else -1. */
    int (*next)(ap_expert_source *s);
    /* The guess, any number of ids, the likeliest first. It changes when experts are read, never what is computed. */
    void (*guess)(ap_expert_source *s, const int32_t *ids, int n);
    /* The layer is computed, or given up. */
    void (*done)(ap_expert_source *s);
} ap_expert_source_ops;

struct ap_expert_source {
    const ap_expert_source_ops *op;
};

#endif
