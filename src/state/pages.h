/* pages.h - how a budget of bytes is divided among the kinds of blocks that sequences take: K/V pages of each
 * group, and recurrent states. */
#ifndef AP_STATE_PAGES_H
#define AP_STATE_PAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kern/kern.h"

#define AP_PAGES_KINDS (AP_KV_GROUPS + 1) /* the groups, then states */

typedef struct ap_pages_kind {
    size_t block_bytes; /* 0 = the model has no such blocks */
    size_t least, most; /* blocks that there must be; that all sequences can need together */
    size_t n;           /* out */
} ap_pages_kind;

/* Set n of each kind: `least`, and of what `bytes` has left over in the proportion in which `most` takes it, so that
 * with more than everybody can need all kinds have more. bytes 0 = `most`. False: sizes overflow and *least is 0,
 * or `bytes` is below *least, what the least blocks take. */
bool ap_pages_split(ap_pages_kind kind[AP_PAGES_KINDS], uint64_t bytes, uint64_t *least);

#endif
