/* session.c - sessions: making, copying, going back. Running tokens is in call.c. */
#include <string.h>

#include "engine/engine.h"

apus_err ap_session_take(apus_engine *e, apus_session **out, apus_diag *diag)
{
    const ap_sizes *z = &e->size;
    int i = 0;
    while (i < z->n_session && e->session[i].used) i++;
    if (i == z->n_session)
        return ap_fail(diag, APUS_EFULL, "all %d sessions of the engine are in use", z->n_session);
    apus_session *s = &e->session[i];
    *s = (apus_session){
        .engine = e, .used = true, .tok = e->session_tok + (size_t)i * (size_t)z->ctx};
    bool recurs = z->recur_block_bytes != 0;
    if (!ap_recur_init(&s->recur, recurs ? &e->states : NULL, z->shape.recur_floats)) {
        s->used = false;
        return ap_slab_short(&e->states, 1, diag);
    }
    for (int g = 0; g < AP_KV_GROUPS; g++) {
        int32_t *page = e->session_page[g] + (size_t)i * (size_t)ap_kv_entries(z->ctx);
        ap_kv_init(&s->kv[g], z->shape.page_bytes[g] ? &e->pages[g] : NULL, page, z->ctx,
                   g == AP_KV_SLIDING ? z->shape.window : 0, z->kv_cap[g]);
    }
    *out = s;
    return APUS_OK;
}

apus_err apus_session_create(apus_engine *e, apus_session **out, apus_diag *diag)
{
    if (!e || !out)
        return ap_fail(diag, APUS_EINVAL, "apus_session_create: engine and out are needed");
    return ap_session_take(e, out, diag);
}

void apus_session_free(apus_session *s)
{
    if (!s || !s->used) return;
    for (int g = 0; g < AP_KV_GROUPS; g++) ap_kv_clear(&s->kv[g]);
    ap_recur_clear(&s->recur);
    ap_spans_clear(&s->spans);
    s->used = false;
}

int apus_session_pos(const apus_session *s)
{
    return s ? s->pos : 0;
}

int apus_session_room(const apus_session *s)
{
    return s ? s->engine->size.ctx - s->pos : 0;
}

const int32_t *apus_session_tokens(const apus_session *s)
{
    return s ? s->tok : NULL;
}

apus_err apus_session_fork(const apus_session *s, apus_session **out, apus_diag *diag)
{
    if (!s || !s->used || !out)
        return ap_fail(diag, APUS_EINVAL, "apus_session_fork: session and out are needed");
    if (s->engine->busy)
        return ap_fail(diag, APUS_EINVAL, "a call is running on this engine; wait for its return");
    apus_session *f;
    apus_err err = ap_session_take(s->engine, &f, diag);
    if (err) return err;
    err = ap_spans_copy(&f->spans, &s->spans, diag);
    if (err) {
        apus_session_free(f);
        return err;
    }
    f->pos = s->pos;
    f->turn = s->turn;
    f->headless = s->headless;
    memcpy(f->tok, s->tok, (size_t)s->pos * sizeof *f->tok);
    for (int g = 0; g < AP_KV_GROUPS; g++) ap_kv_fork(&f->kv[g], &s->kv[g]);
    ap_recur_fork(&f->recur, &s->recur);
    *out = f;
    return APUS_OK;
}

static bool pages_ready(const apus_session *s, int pos)
{
    for (int g = 0; g < AP_KV_GROUPS; g++)
        if (!ap_kv_ready(&s->kv[g], pos)) return false;
    return true;
}

/* The latest position <= pos at which both the pages and a state are at hand. *snap: the snapshot
 * that has the state, -1 for none (position 0, or no recurrent layers). */
static int latest_base(const apus_session *s, int pos, int *snap)
{
    *snap = -1;
    if (!s->recur.slab) {
        int base = pos;
        while (base > 0 && !pages_ready(s, base)) base = (base - 1) / AP_PAGE * AP_PAGE;
        return base;
    }
    for (int i = s->recur.n_snap; (i = ap_recur_find(&s->recur, pos, i)) >= 0;) {
        if (!pages_ready(s, s->recur.snap[i].pos)) continue;
        *snap = i;
        return s->recur.snap[i].pos;
    }
    return 0;
}

static void cut(apus_session *s, int pos)
{
    for (int g = 0; g < AP_KV_GROUPS; g++) ap_kv_truncate(&s->kv[g], pos);
    ap_recur_truncate(&s->recur, pos);
    ap_spans_cut(&s->spans, pos);
    s->pos = pos;
    if (!pos) s->headless = false;
    if (s->turn > pos) s->turn = pos;
}

static void go_to(apus_session *s, int snap)
{
    if (snap >= 0)
        ap_recur_go(&s->recur, snap);
    else
        ap_recur_zero(&s->recur);
}

/* Run old tokens again. The same tokens give the same bits, so pages in use may be written again. Until this is
 * done what the old position needs is kept, for a cancel. */
static apus_err run_again(apus_session *s, int pos, apus_diag *diag)
{
    if (!ap_recur_backup(&s->recur)) return ap_slab_short(s->recur.slab, 1, diag);
    int snap, base = latest_base(s, pos, &snap); /* the copy may have taken a snapshot's place */
    for (int g = 0; g < AP_KV_GROUPS; g++) ap_kv_hold(&s->kv[g], s->pos);
    go_to(s, snap);
    apus_err err = ap_feed_again(s, base, pos, true, diag);
    for (int g = 0; g < AP_KV_GROUPS; g++) ap_kv_release(&s->kv[g]);
    return err;
}

apus_err ap_session_go_back(apus_session *s, int pos, apus_diag *diag)
{
    if (pos == s->pos) return APUS_OK;
    int snap, base = latest_base(s, pos, &snap);
    apus_err err = APUS_OK;
    if (base == pos)
        go_to(s, snap);
    else
        err = run_again(s, pos, diag);
    if (!err) cut(s, pos);
    return err;
}

apus_err ap_session_remake(apus_session *s, int pos, apus_diag *diag)
{
    int snap, base = latest_base(s, pos, &snap);
    go_to(s, snap);
    apus_err err = base == pos ? APUS_OK : ap_feed_again(s, base, pos, false, diag);
    if (err) go_to(s, snap);
    cut(s, err ? base : pos);
    return err;
}

apus_err apus_session_rewind(apus_session *s, int pos, apus_diag *diag)
{
    if (!s || !s->used)
        return ap_fail(diag, APUS_EINVAL, "apus_session_rewind: a session is needed");
    if (pos < 0 || pos > s->pos)
        return ap_fail(diag, APUS_EINVAL, "apus_session_rewind: pos: expected 0 to %d, found %d",
                       s->pos, pos);
    const ap_span *inside = ap_spans_find(&s->spans, pos);
    if (inside && inside->pos < pos && pos < s->pos)
        return ap_fail(diag, APUS_EINVAL,
                       "apus_session_rewind: pos: %d is inside a picture, which begins at %d and "
                       "ends before %d",
                       pos, inside->pos, inside->pos + inside->n);
    apus_err err = ap_call_begin(s->engine, diag);
    if (err) return err;
    err = ap_session_go_back(s, pos, diag);
    ap_call_end(s->engine);
    return err;
}
