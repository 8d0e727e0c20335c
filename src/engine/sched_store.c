#include "engine/sched_store.h"

static void wake(void *ctx)
{
    ap_sched_wake(ctx);
}

apus_err ap_sched_store_open(apus_scheduler *s, const apus_store *given, int wait_us, uint64_t key,
                             apus_diag *diag)
{
    apus_store store = {0};
    apus_err err = ap_settings_take(&store, sizeof store, given, "apus_store", diag);
    if (err) return err;
    if (!store.has || !store.get || !store.put || wait_us < 0)
        return ap_fail(diag, APUS_EINVAL,
                       "apus_scheduler_settings: a store needs has, get and put, and a "
                       "store_wait_us of 0 or more");
    err = ap_remote_open(&s->remote, key, s->engine->exec.dev, &s->prefix, diag);
    if (!err) err = ap_porter_start(&s->porter, &store, wake, s, diag);
    s->has_store = !err;
    s->store_wait_us = wait_us;
    return err;
}

void ap_sched_store_close(apus_scheduler *s)
{
    if (s->has_store) ap_porter_stop(&s->porter);
    ap_remote_close(&s->remote);
    s->has_store = false;
}

void ap_sched_store_ask(apus_scheduler *s)
{
    if (!s->has_store) return;
    for (apus_request *r = s->queue.first; r; r = r->next) {
        if (r->asked) continue;
        r->asked = true;
        ap_wish *w =
            r->no_cache ? NULL : ap_wish_make(&s->remote, &s->prefix, r->prompt, r->n_prompt);
        if (!w) continue;
        r->errand = ap_porter_send(&s->porter, w);
        r->errand_until = ap_time_us() + s->store_wait_us;
    }
}

bool ap_sched_store_waits(apus_scheduler *s, apus_request *r)
{
    return r->errand && ap_time_us() < r->errand_until && !ap_porter_back(&s->porter, r->errand);
}

void ap_sched_store_take(apus_scheduler *s, apus_request *r)
{
    if (!r->errand) return;
    const ap_wish *w = ap_porter_back(&s->porter, r->errand);
    if (w)
        ap_remote_adopt(&s->remote, &s->prefix, r->prompt, w);
    else
        s->store_late++;
    ap_sched_store_leave(s, r);
}

void ap_sched_store_leave(apus_scheduler *s, apus_request *r)
{
    if (r->errand) ap_porter_leave(&s->porter, r->errand);
    r->errand = NULL;
}

bool ap_sched_store_give(apus_scheduler *s)
{
    if (!s->has_store || !s->ungiven || !ap_porter_has_room(&s->porter)) return false;
    ap_parcel *a = ap_remote_pack(&s->remote, &s->prefix);
    s->ungiven = a != NULL;
    if (a) ap_porter_take(&s->porter, a);
    return a != NULL;
}

void ap_sched_store_gauge(apus_scheduler *s)
{
    if (!s->has_store) return;
    s->stats.store_tokens = s->remote.tokens;
    s->stats.store_read_bytes = s->remote.bytes;
    s->stats.store_errors = s->remote.refused;
    s->stats.store_late = s->store_late;
}
