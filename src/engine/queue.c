#include "engine/queue.h"

void ap_queue_push(ap_queue *q, apus_request *r)
{
    r->next = NULL;
    if (q->last)
        q->last->next = r;
    else
        q->first = r;
    q->last = r;
    q->n++;
}

void ap_queue_remove(ap_queue *q, apus_request *r)
{
    apus_request *before = NULL;
    for (apus_request *x = q->first; x != r; x = x->next) before = x;
    if (before)
        before->next = r->next;
    else
        q->first = r->next;
    if (q->last == r) q->last = before;
    q->n--;
}

/* When a client was served last: larger is later, 0 = not lately. */
static uint64_t last_turn(const ap_queue *q, uint64_t client)
{
    uint64_t oldest = q->n_served > AP_QUEUE_CLIENTS ? q->n_served - AP_QUEUE_CLIENTS : 0;
    for (uint64_t i = q->n_served; i > oldest; i--)
        if (q->served[(i - 1) % AP_QUEUE_CLIENTS] == client) return i;
    return 0;
}

apus_request *ap_queue_next(const ap_queue *q)
{
    apus_request *best = q->first;
    uint64_t best_turn = best ? last_turn(q, best->client) : 0;
    for (apus_request *r = best ? best->next : NULL; r; r = r->next) {
        if (r->priority < best->priority) continue;
        uint64_t turn = last_turn(q, r->client);
        if (r->priority == best->priority && turn >= best_turn) continue;
        best = r;
        best_turn = turn;
    }
    return best;
}

void ap_queue_served(ap_queue *q, uint64_t client)
{
    q->served[q->n_served++ % AP_QUEUE_CLIENTS] = client;
}
