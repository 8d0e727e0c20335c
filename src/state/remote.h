/* remote.h - the prefix cache and a store of records that several processes share: what of it would help a prompt, how
 * records that came become part of the tree, and which of the tree's others could use.
 *
 * Shared are full pages, and recurrent states at their ends: their hashes follow from a prompt alone. Whoever writes
 * to the store is not trusted to write what it should: a record is good if its checksums, its tokens and its place
 * are those that were asked for, and else as if it were not there. All but ap_wish_fetch is for the tree's thread. */
#ifndef AP_STATE_REMOTE_H
#define AP_STATE_REMOTE_H

#include "apus/apus.h"
#include "state/record.h"

typedef struct ap_remote {
    ap_record_form form;
    uint64_t tokens, bytes,
        refused; /* of pages that became part of the tree; of records; records */
} ap_remote;

/* Records that a prompt could begin with, and what of them came. */
typedef struct ap_wish {
    uint64_t key;
    uint64_t *hash;    /* u64 [n]: of the prompt up to the end of each of its full pages */
    int n, have, from; /* pages; that the tree has; that a sequence can begin behind now */
    bool wants_pages, wants_states;
    size_t page_cap, state_cap; /* bytes of the largest records */
    /* filled by ap_wish_fetch */
    int end;            /* pages have .. end - 1 came, and the state at the end of the last one */
    void **page;        /* [n - have], with */
    size_t *page_bytes; /* sizes */
    void *state;
    size_t state_bytes;
} ap_wish;

apus_err ap_remote_open(ap_remote *r, uint64_t key, ap_device *dev, const ap_prefix *p,
                        apus_diag *diag);
void ap_remote_close(ap_remote *r); /* of a zeroed one too */

/* What would help tok [n] more than the tree does; NULL = nothing could, or no memory. */
ap_wish *ap_wish_make(const ap_remote *r, ap_prefix *p, const int32_t *tok, int n);
void ap_wish_free(ap_wish *w); /* NULL is fine */
/* Ask the store. Takes as long as that does, and touches nothing of the tree: for a thread of its own. */
void ap_wish_fetch(ap_wish *w, const apus_store *store, const volatile int *stop);
/* Make what came for tok part of the tree, as far as it is good and there is room. */
void ap_remote_adopt(ap_remote *r, ap_prefix *p, const int32_t *tok, const ap_wish *w);

/* A record for the store. */
typedef struct ap_parcel ap_parcel;
struct ap_parcel {
    ap_parcel *next;
    char name[40];
    void *data;
    size_t bytes;
};
/* One of what is in memory and was not taken yet; NULL = there is nothing, or no memory. */
ap_parcel *ap_remote_pack(ap_remote *r, ap_prefix *p);
void ap_parcel_free(ap_parcel *a);

#endif
