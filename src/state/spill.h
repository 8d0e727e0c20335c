/* spill.h - the prefix cache on the disk: a record for each node's pages and for each recurrent state, in a folder of
 * its own for each way of computing.
 *
 * Records (state/record.h) are written whole or not (base/store, base/stage), readable by their owner alone, and never
 * changed. Their names are the hash of all tokens up to the node's end: HASH.page, and HASH-AT.state. A record that
 * does not hold what it should is removed and never used. */
#ifndef AP_STATE_SPILL_H
#define AP_STATE_SPILL_H

#include "state/record.h"

typedef struct ap_spill {
    char *dir;
    ap_record_form form;
    uint64_t most, bytes;               /* of records: allowed, there now */
    uint64_t written, restored, errors; /* bytes, bytes, records */
    bool full;                          /* nothing more can be written */
    bool crowded;                       /* nothing can go for what is to be written now */
} ap_spill;

/* Open the folder `dir`/prefix-KEY, which is made, and put what is in it into the tree, which is empty. Records that
 * are damaged, or whose beginning is not there, are removed. EFILE, ENOMEM. */
apus_err ap_spill_open(ap_spill *s, const char *dir, uint64_t key, uint64_t most, ap_device *dev,
                       ap_prefix *p, apus_diag *diag);
void ap_spill_close(ap_spill *s); /* of a zeroed struct too */

/* Write one record of what is in the tree and not on the disk; others go if there is no room. False: there is none,
 * or the disk takes no more. */
bool ap_spill_write(ap_spill *s, ap_prefix *p);

/* Take blocks for the pages of a node, or fill the live state of a sequence. False: no blocks, or the record is
 * not good; it then is removed. */
bool ap_spill_read_pages(ap_spill *s, ap_prefix *p, ap_node *n);
bool ap_spill_read_state(ap_spill *s, ap_prefix *p, ap_node *n, int i, ap_recur *r);

/* Remove the records of a node. */
void ap_spill_forget(ap_spill *s, ap_node *n);

#endif
