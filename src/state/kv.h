/* kv.h - the KV pages of one session in one layer group: a block table over a slab.
 *
 * Logical page i holds positions [i*AP_PAGE, (i+1)*AP_PAGE); entry i of the table is its block, or
 * -1. Without a window every page stays. With a window of W a query at position P sees the keys
 * P-W+1 .. P, so pages that ended before are given up, but only once their room is needed: old
 * pages make rewinding cheap. Never given up are
 *   need  the pages that the queries of the running step see or write, and
 *   hold  the pages that a query at the position before the call sees, so that a cancelled call can
 *         be undone by cutting the table.
 * Besides, the `mark` (the window before the end of the last prompt, where chats go back to) is
 * given up last.
 *
 * How many pages a session needs at most ("cap"): L consecutive positions touch at most
 * (L-2)/AP_PAGE + 2 pages for L >= 2. A step of at most C tokens sees W-1+C positions, a hold W-1.
 * The sum of both page counts is the cap, or the page count of the whole context if that is less.
 * A page seen by two tables is one block for two references; the second block is what the copy before a
 * write takes. So with cap blocks for each session a slab has one for every need; with fewer it may run out,
 * and the table gives up its own old pages before it says so. */
#ifndef AP_STATE_KV_H
#define AP_STATE_KV_H

#include <stdbool.h>

#include "kern/kern.h"
#include "state/slab.h"

typedef struct ap_kv_range {
    int begin, end; /* logical pages [begin, end) */
} ap_kv_range;

typedef struct ap_kv_table {
    ap_slab *slab; /* NULL: the model has no layer of this group; every call is then a no-op */
    int32_t *page; /* i32 [n_entry], owned by the engine */
    int n_entry;   /* pages of the whole context */
    int window;    /* 0 = none */
    int cap, held; /* pages at most, pages now */
    int low, high; /* entries outside [low, high) are -1 */
    ap_kv_range changed; /* entries that are not as they were at the last ap_kv_changed */
    ap_kv_range hold, mark;
} ap_kv_table;

/* Pages of a context; pages a session needs at most in a group (see above). */
int ap_kv_entries(int ctx);
int ap_kv_cap(int ctx, int window, int chunk);

void ap_kv_init(ap_kv_table *t, ap_slab *slab, int32_t *page, int ctx, int window, int cap);

/* Give back every page. */
void ap_kv_clear(ap_kv_table *t);

/* Pages that hold the keys before pos which a query at pos sees. */
ap_kv_range ap_kv_seen(const ap_kv_table *t, int pos);

/* Are they all there, so that the sequence can go on at pos? */
bool ap_kv_ready(const ap_kv_table *t, int pos);

/* Keep what a query at pos sees until ap_kv_release, or mark it (with one page more, for going back
 * a little further). */
void ap_kv_hold(ap_kv_table *t, int pos);
void ap_kv_release(ap_kv_table *t);
void ap_kv_mark(ap_kv_table *t, int pos);
/* With a window: give back every page that is not held. For undoing a run over old tokens, which
 * may have left half-written pages anywhere before the old position. */
void ap_kv_keep_held(ap_kv_table *t);

/* Make the pages of positions [pos, pos + n) present and ours alone, giving up others for room.
 * n is at most the chunk of ap_kv_cap, pos is ready. Returns how many pages are missing, 0 if all is well:
 * what queries at pos see is there all the same, and another try may find more. */
int ap_kv_prepare(ap_kv_table *t, int pos, int n);

/* Give back the pages that hold nothing before pos. */
void ap_kv_truncate(ap_kv_table *t, int pos);

/* Entry i, which is empty, shares a block. */
void ap_kv_share(ap_kv_table *t, int i, int32_t block);

/* dst (clear, of the same slab) shares every page of src. */
void ap_kv_fork(ap_kv_table *dst, const ap_kv_table *src);

/* The entries that may have changed since the last time this was asked: a copy of the table on a device has to
 * follow. */
ap_kv_range ap_kv_changed(ap_kv_table *t);

/* For loading: put a fresh block at entry i and return its memory, of the device; NULL if the table is full. */
uint8_t *ap_kv_put(ap_kv_table *t, int i);

#endif
