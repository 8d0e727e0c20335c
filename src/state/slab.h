/* slab.h - equal blocks of memory with reference counts: KV pages and recurrent states.
 *
 * All memory is the device's, and taken at creation. When no block is free, whoever keeps blocks for later only
 * (a cache) is asked to give one back. Shared blocks are read-only by convention: whoever wants to
 * write takes a block of its own. Not thread-safe: an engine belongs to one caller at a time. */
#ifndef AP_STATE_SLAB_H
#define AP_STATE_SLAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kern/device.h"

typedef struct ap_slab {
    ap_device *dev;
    uint8_t *base; /* block i at base + i * block_bytes; AP_ALIGN-aligned if block_bytes is */
    size_t block_bytes, mem_bytes;
    int n_block, n_free;
    int32_t *free;    /* stack of free blocks: the last one given back is the next one taken */
    int32_t *refs;    /* [n_block] */
    const char *what; /* for errors, such as "KV pages" */
    /* Give back at least one block of this slab, if there is one that is kept without need; false = none.
     * NULL = nobody keeps any. */
    bool (*evict)(void *ctx, struct ap_slab *s);
    void *evict_ctx;
} ap_slab;

/* Take memory for n_block >= 0 blocks of block_bytes each. ENOMEM names `what`, which is borrowed. */
apus_err ap_slab_create(ap_slab *s, ap_device *dev, int n_block, size_t block_bytes,
                        const char *what, apus_diag *diag);
void ap_slab_destroy(ap_slab *s); /* of a zeroed struct too */

/* A free block with one reference, contents undefined; -1 if none is left, nor can be had by evicting. */
int32_t ap_slab_take(ap_slab *s);
void ap_slab_share(ap_slab *s, int32_t block); /* one more reference */
void ap_slab_drop(ap_slab *s, int32_t block);  /* one less; free at zero */

/* ENOMEM, with the numbers: `missing` blocks more are needed than are left. */
apus_err ap_slab_short(const ap_slab *s, int missing, apus_diag *diag);

/* Where a block is: memory of the device. */
static inline uint8_t *ap_slab_at(const ap_slab *s, int32_t block)
{
    return s->base + (size_t)block * s->block_bytes;
}

#endif
