/* recur.h - the recurrent state of one session: the live block, a spare one for undoing a call, and
 * snapshots at page multiples (or wherever they are asked for) for going back.
 *
 * Blocks come from a slab that has AP_RECUR_BLOCKS for each session, or fewer: the live one is taken at once, the
 * spare one by the first backup, and snapshots are kept as long as there are blocks for them. Snapshots never change, so that
 * forks share them. All states are f32, in memory of the device. */
#ifndef AP_STATE_RECUR_H
#define AP_STATE_RECUR_H

#include <stdbool.h>

#include "state/slab.h"

#define AP_SNAPSHOTS    4
#define AP_RECUR_BLOCKS (2 + AP_SNAPSHOTS)

typedef struct ap_snapshot {
    int pos; /* tokens that the state has seen: a positive multiple of AP_PAGE */
    int32_t block;
} ap_snapshot;

typedef struct ap_recur {
    ap_slab *slab; /* NULL: the model has no recurrent layer; every call is then a no-op */
    size_t n_float;
    int32_t live, spare;
    ap_snapshot snap[AP_SNAPSHOTS]; /* ascending positions */
    int n_snap;
} ap_recur;

/* Take the live block of a session and clear it; false: none is left. */
bool ap_recur_init(ap_recur *r, ap_slab *slab, size_t n_float);
/* Give everything back. */
void ap_recur_clear(ap_recur *r);

/* The live state, f32 [n_float]; NULL without recurrent layers. */
float *ap_recur_live(const ap_recur *r);
void ap_recur_zero(ap_recur *r); /* the state before the first token */

/* Remember the live state in the spare block (false: no block is left for one) / make the remembered state live
 * again. */
bool ap_recur_backup(ap_recur *r);
void ap_recur_restore(ap_recur *r);

/* Take a snapshot of the live state at pos, a multiple of AP_PAGE after every older snapshot or one
 * that is there already; if no block is left, nothing is done. With all slots in use one goes, so that the distances grow with age; the
 * newest snapshot at or before `keep` (where a prompt ended) stays. */
void ap_recur_snapshot(ap_recur *r, int pos, int keep);

/* Index of the newest snapshot at or before pos, below index `below`; -1 if there is none. */
int ap_recur_find(const ap_recur *r, int pos, int below);
/* Make snapshot i the live state (a copy). */
void ap_recur_go(ap_recur *r, int i);
/* Make another block of the slab the live state (a copy). */
void ap_recur_load(ap_recur *r, int32_t block);
/* Forget the oldest snapshot; false: there is none. */
bool ap_recur_forget(ap_recur *r);
/* Forget the snapshots after pos. */
void ap_recur_truncate(ap_recur *r, int pos);

/* dst (initialised, no snapshots) gets a copy of the live state and shares the snapshots. */
void ap_recur_fork(ap_recur *dst, const ap_recur *src);

/* For saving and loading: the floats of snapshot i; a new last snapshot to fill (NULL: no room). */
const float *ap_recur_snap(const ap_recur *r, int i);
float *ap_recur_put(ap_recur *r, int pos);

#endif
