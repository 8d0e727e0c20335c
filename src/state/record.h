/* record.h - a node's pages, or a recurrent state, as checksummed bytes: what a disk (spill.h) or a store that several
 * processes share (remote.h) keeps. All numbers little-endian:
 *   page    "APUSPREF", u32 version, u32 n tokens, u64 key, u64 hash of what is before, u64 hash,
 *           u32 has full page, u32 has sliding page, i32 [64] tokens (0 behind n), u64 XXH64;
 *           the pages as they lie in memory, u64 XXH64
 *   state   "APUSSTAT", u32 version, u32 at, u64 key, u64 hash, f32 [n], u64 XXH64
 * The key is a hash of everything that the bits depend on (the model's fingerprint, precision, forms, sizes). A
 * record is good for the node whose hash it has, and for nothing else. */
#ifndef AP_STATE_RECORD_H
#define AP_STATE_RECORD_H

#include "base/store.h"
#include "state/prefix.h"

/* What the records of one way of computing have in common. */
typedef struct ap_record_form {
    uint64_t key;
    size_t page_bytes[AP_KV_GROUPS], state_bytes;
    ap_device *dev;
    uint8_t *room; /* that blocks of a device pass through; NULL on the host */
} ap_record_form;

/* Of the tree's blocks. ENOMEM. */
apus_err ap_record_form_open(ap_record_form *r, uint64_t key, ap_device *dev, const ap_prefix *p,
                             apus_diag *diag);
void ap_record_form_close(ap_record_form *r); /* of a zeroed one too */

uint64_t ap_record_page_bytes(const ap_record_form *r, const bool has[AP_KV_GROUPS]);
uint64_t ap_record_state_bytes(const ap_record_form *r);

/* Write the record of a node's pages in memory, or of a state of it. Errors are the store's. */
void ap_record_write_page(const ap_record_form *r, ap_store *f, const ap_prefix *p,
                          const ap_node *n);
void ap_record_write_state(const ap_record_form *r, ap_store *f, const ap_prefix *p,
                           const ap_node *n, const ap_node_state *state);

/* The head of a page record, which must be of `hash` and in itself right, as a node without blocks: its tokens, its
 * hash, stored and stored_page. *before: the hash that it names as what is before. */
bool ap_record_read_head(const ap_record_form *r, ap_store *f, uint64_t hash, ap_node *n,
                         uint64_t *before);
/* What follows the head, which said what the record `has`: group g to the block at to[g], or nowhere if that is NULL.
 * After false the blocks hold anything. */
bool ap_record_read_blocks(const ap_record_form *r, ap_store *f, const bool has[AP_KV_GROUPS],
                           void *const to[AP_KV_GROUPS]);
/* A whole state record of that node and place, to the floats at `to`. */
bool ap_record_read_state(const ap_record_form *r, ap_store *f, uint64_t hash, int at, void *to);

#endif
