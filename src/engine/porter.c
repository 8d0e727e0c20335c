#include "engine/porter.h"

#include "base/file.h"
#include "base/mem.h"

#define MOST_WAITING ((uint64_t)256 << 20) /* bytes of parcels */
#define LAST_US      1000000               /* for parcels, at the end */

static ap_errand *next_errand(ap_porter *p)
{
    ap_errand *e = p->errands;
    while (e && e->done) e = e->next;
    return e;
}

static void take_out(ap_porter *p, ap_errand *e)
{
    ap_errand **at = &p->errands;
    while (*at != e) at = &(*at)->next;
    *at = e->next;
    ap_wish_free(e->wish);
    ap_free(e);
}

/* Fetch for one errand. The lock is held, and let go meanwhile. */
static void run_errand(ap_porter *p, ap_errand *e)
{
    ap_mutex_unlock(&p->lock);
    ap_wish_fetch(e->wish, &p->store, &p->stop);
    ap_mutex_lock(&p->lock);
    e->done = true;
    if (e->left) take_out(p, e);
    ap_mutex_unlock(&p->lock);
    p->done(p->ctx);
    ap_mutex_lock(&p->lock);
}

static void deliver(ap_porter *p)
{
    ap_parcel *a = p->parcels;
    p->parcels = a->next;
    ap_mutex_unlock(&p->lock);
    p->store.put(p->store.ctx, a->name, a->data, a->bytes);
    ap_mutex_lock(&p->lock);
    p->waiting -= a->bytes;
    p->written += a->bytes;
    ap_parcel_free(a);
}

static void *run(void *arg)
{
    ap_porter *p = arg;
    ap_mutex_lock(&p->lock);
    for (;;) {
        ap_errand *e = next_errand(p);
        if (p->stop && (!p->parcels || ap_time_us() >= p->until)) break;
        if (e && !p->stop)
            run_errand(p, e);
        else if (p->parcels)
            deliver(p);
        else
            ap_cond_wait(&p->work, &p->lock, -1);
    }
    ap_mutex_unlock(&p->lock);
    return NULL;
}

apus_err ap_porter_start(ap_porter *p, const apus_store *store, void (*done)(void *ctx), void *ctx,
                         apus_diag *diag)
{
    *p = (ap_porter){.store = *store, .done = done, .ctx = ctx};
    ap_mutex_init(&p->lock);
    ap_cond_init(&p->work);
    apus_err err = ap_thread_start(&p->thread, run, p, diag);
    if (!err) return APUS_OK;
    ap_cond_destroy(&p->work);
    ap_mutex_destroy(&p->lock);
    return err;
}

void ap_porter_stop(ap_porter *p)
{
    ap_mutex_lock(&p->lock);
    __atomic_store_n(&p->stop, 1, __ATOMIC_RELAXED);
    p->until = ap_time_us() + LAST_US;
    ap_cond_wake(&p->work);
    ap_mutex_unlock(&p->lock);
    ap_thread_join(p->thread);
    while (p->errands) take_out(p, p->errands);
    for (ap_parcel *a; (a = p->parcels);) {
        p->parcels = a->next;
        ap_parcel_free(a);
    }
    ap_cond_destroy(&p->work);
    ap_mutex_destroy(&p->lock);
}

ap_errand *ap_porter_send(ap_porter *p, ap_wish *w)
{
    ap_errand *e = ap_calloc(1, sizeof *e);
    if (!e) {
        ap_wish_free(w);
        return NULL;
    }
    e->wish = w;
    ap_mutex_lock(&p->lock);
    ap_errand **at = &p->errands;
    while (*at) at = &(*at)->next;
    *at = e;
    ap_cond_wake(&p->work);
    ap_mutex_unlock(&p->lock);
    return e;
}

const ap_wish *ap_porter_back(ap_porter *p, ap_errand *e)
{
    ap_mutex_lock(&p->lock);
    bool done = e->done;
    ap_mutex_unlock(&p->lock);
    return done ? e->wish : NULL;
}

void ap_porter_leave(ap_porter *p, ap_errand *e)
{
    if (!e) return;
    ap_mutex_lock(&p->lock);
    e->left = true;
    if (e->done) take_out(p, e);
    ap_mutex_unlock(&p->lock);
}

bool ap_porter_has_room(ap_porter *p)
{
    ap_mutex_lock(&p->lock);
    bool room = p->waiting < MOST_WAITING;
    ap_mutex_unlock(&p->lock);
    return room;
}

void ap_porter_take(ap_porter *p, ap_parcel *a)
{
    ap_mutex_lock(&p->lock);
    if (p->parcels)
        p->last->next = a;
    else
        p->parcels = a;
    p->last = a;
    p->waiting += a->bytes;
    ap_cond_wake(&p->work);
    ap_mutex_unlock(&p->lock);
}

uint64_t ap_porter_written(ap_porter *p)
{
    ap_mutex_lock(&p->lock);
    uint64_t n = p->written;
    ap_mutex_unlock(&p->lock);
    return n;
}
