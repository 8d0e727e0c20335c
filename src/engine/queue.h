/* queue.h - requests that wait, and who of them is next: the highest priority, then clients in turn, then in order.
 * Its owner has a lock around it. */
#ifndef AP_ENGINE_QUEUE_H
#define AP_ENGINE_QUEUE_H

#include "engine/request.h"

#define AP_QUEUE_CLIENTS 64 /* that are remembered as served lately */

typedef struct ap_queue {
    apus_request *first, *last; /* in order of submission */
    int n;
    uint64_t served[AP_QUEUE_CLIENTS]; /* ring of the clients served last */
    uint64_t n_served;
} ap_queue;

void ap_queue_push(ap_queue *q, apus_request *r);
/* Take r out, which is in it. */
void ap_queue_remove(ap_queue *q, apus_request *r);
/* Whose turn it is; stays in the queue. NULL: nobody's. */
apus_request *ap_queue_next(const ap_queue *q);
/* A client has had its turn. */
void ap_queue_served(ap_queue *q, uint64_t client);

#endif
