/* porter.h - a thread between a scheduler and the store that it shares with others (apus_store): it fetches what
 * requests wish for, and takes there what the scheduler has computed. Wishes come first. */
#ifndef AP_ENGINE_PORTER_H
#define AP_ENGINE_PORTER_H

#include "base/thread.h"
#include "state/remote.h"

/* A wish on its way. */
typedef struct ap_errand {
    struct ap_errand *next;
    ap_wish *wish;
    bool done; /* under the porter's lock, as the next */
    bool left; /* nobody waits for it any more */
} ap_errand;

typedef struct ap_porter {
    apus_store store;
    void (*done)(void *ctx); /* an errand is; called in the thread, without locks */
    void *ctx;
    ap_thread thread;
    ap_mutex lock; /* of what follows */
    ap_cond work;
    ap_errand *errands;        /* in order */
    ap_parcel *parcels, *last; /* likewise */
    uint64_t waiting, written; /* bytes of parcels that wait, and that were taken there */
    int stop;                  /* also read by ap_wish_fetch, without the lock */
    int64_t until;             /* with stop: parcels are taken until then */
} ap_porter;

apus_err ap_porter_start(ap_porter *p, const apus_store *store, void (*done)(void *ctx), void *ctx,
                         apus_diag *diag);
/* Take what parcels a second allows, and end. */
void ap_porter_stop(ap_porter *p);

/* Send for a wish, which is taken over; NULL = no memory. */
ap_errand *ap_porter_send(ap_porter *p, ap_wish *w);
/* What has come; NULL = it is not back yet. Belongs to the errand. */
const ap_wish *ap_porter_back(ap_porter *p, ap_errand *e);
/* Nobody waits for it any more. NULL is fine. */
void ap_porter_leave(ap_porter *p, ap_errand *e);

/* Is there room for more parcels? */
bool ap_porter_has_room(ap_porter *p);
/* Hand over a parcel. */
void ap_porter_take(ap_porter *p, ap_parcel *a);
uint64_t ap_porter_written(ap_porter *p);

#endif
