/* sched_store.h - a scheduler and the store that it shares with others: requests that wait have what could help them
 * fetched, and what was computed is handed over between steps. All for the scheduler's thread. */
#ifndef AP_ENGINE_SCHED_STORE_H
#define AP_ENGINE_SCHED_STORE_H

#include "engine/sched.h"

apus_err ap_sched_store_open(apus_scheduler *s, const apus_store *store, int wait_us, uint64_t key,
                             apus_diag *diag);
void ap_sched_store_close(apus_scheduler *s);

/* Send for what could help those in the queue that nobody was sent for yet. The scheduler's lock is held. */
void ap_sched_store_ask(apus_scheduler *s);
/* Does this one still wait for what may come? It is over at r->errand_until. */
bool ap_sched_store_waits(apus_scheduler *s, apus_request *r);
/* Take what came for it into the tree, or give up what has not come. */
void ap_sched_store_take(apus_scheduler *s, apus_request *r);
/* It will not begin. */
void ap_sched_store_leave(apus_scheduler *s, apus_request *r);
/* Hand over a record, if there is one. False: there is none, or no room now. */
bool ap_sched_store_give(apus_scheduler *s);
/* The numbers of it, to the stats. The scheduler's lock is held. */
void ap_sched_store_gauge(apus_scheduler *s);

#endif
