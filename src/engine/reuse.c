#include "engine/reuse.h"

#include "base/num.h"

/* A state that is kept for going back only gives way to what must be had. The oldest ones go first. */
static bool forget_snapshots(apus_engine *e)
{
    for (int i = 0; i < e->size.n_session && !e->states.n_free; i++) {
        apus_session *s = &e->session[i];
        while (s->used && !e->states.n_free && ap_recur_forget(&s->recur)) {}
    }
    return e->states.n_free > 0;
}

static bool evict(void *ctx, ap_slab *s)
{
    apus_engine *e = ctx;
    return ap_prefix_evict(e->prefix, s) || (s == &e->states && forget_snapshots(e));
}

void ap_reuse_open(ap_prefix *p, apus_engine *e)
{
    ap_slab *pages[AP_KV_GROUPS];
    for (int g = 0; g < AP_KV_GROUPS; g++) {
        pages[g] = e->size.shape.page_bytes[g] ? &e->pages[g] : NULL;
        e->pages[g].evict = evict;
        e->pages[g].evict_ctx = e;
    }
    e->states.evict = evict;
    e->states.evict_ctx = e;
    e->prefix = p;
    ap_prefix_open(p, pages, e->size.recur_block_bytes ? &e->states : NULL, e->size.shape.window);
}

uint64_t ap_reuse_key(const apus_engine *e)
{
    const ap_state_shape *shape = &e->size.shape;
    const uint64_t part[] = {e->model->fingerprint,
                             (uint64_t)e->exec.precision,
                             shape->recur_floats ? (uint64_t)e->delta_form : 0,
                             (uint64_t)e->size.kv,
                             shape->page_bytes[0],
                             shape->page_bytes[1],
                             shape->recur_floats,
                             (uint64_t)shape->window,
                             AP_PAGE,
                             e->exec.dev->is_host};
    uint64_t key = 0;
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
        int32_t half[2] = {(int32_t)(uint32_t)part[i], (int32_t)(uint32_t)(part[i] >> 32)};
        key = ap_prefix_hash(key, half, 2);
    }
    return key;
}

/* Ids in the place of a picture are hashes: the first few of another one may be the same by chance, and all of those
 * that the rows of one that sees itself whole depend on are to be known. Where such a begin of one ends at pos, where
 * it begins; else pos. */
#define SURE_ROWS 4
static int before_picture(const apus_session *s, int pos)
{
    const ap_span *x = ap_spans_find(&s->spans, pos);
    return x && x->pos < pos && (x->whole || pos - x->pos < SURE_ROWS) ? x->pos : pos;
}

static ap_match find(ap_prefix *p, const apus_request *r)
{
    ap_match m = ap_prefix_find(p, r->prompt, r->n_prompt), less = m;
    for (int most; (most = before_picture(r->gen.session, less.pos)) < less.pos;)
        less = ap_prefix_find(p, r->prompt, most + 1);
    m.pos = less.pos;
    m.node = less.node;
    m.state = less.state;
    return m;
}

/* Records of the disk that are no good are forgotten one by one, until something is found that is, if only nothing. */
static ap_match begin_with(ap_prefix *p, apus_request *r)
{
    apus_session *s = r->gen.session;
    for (;;) {
        ap_match m = find(p, r);
        s->pos = m.pos;
        if (ap_prefix_share(p, &m, s->kv, &s->recur, &r->usage.n_disk)) return m;
        for (int g = 0; g < AP_KV_GROUPS; g++) ap_kv_clear(&s->kv[g]);
        ap_recur_zero(&s->recur);
    }
}

void ap_reuse_take(ap_prefix *p, apus_request *r)
{
    apus_session *s = r->gen.session;
    apus_usage *u = &r->usage;
    if (r->no_cache) return;
    ap_match m = begin_with(p, r);
    s->turn = r->n_branch ? r->branch[r->n_branch - 1] : r->n_prompt;
    r->known = m.known;
    u->n_cached = m.pos;
    u->miss = m.miss;
    u->miss_pos = m.miss_pos;
}

int ap_reuse_stop(const apus_request *r)
{
    int pos = r->gen.session->pos, stop = r->n_prompt;
    if (r->no_cache || !r->gen.session->recur.slab) return 0;
    for (int i = r->n_branch - 1; i >= 0; i--)
        if (r->branch[i] > pos) stop = ap_min_int(stop, r->branch[i]);
    if (r->known > pos) stop = ap_min_int(stop, r->known); /* somebody else went on differently */
    int page = (r->n_prompt - 1) / AP_PAGE * AP_PAGE;
    if (page > pos) stop = ap_min_int(stop, page);
    return stop < r->n_prompt ? stop : 0;
}

void ap_reuse_leave(ap_prefix *p, const apus_request *r, bool last)
{
    const apus_session *s = r->gen.session;
    int n = before_picture(s, s->pos);
    if (r->no_cache || r->spoilt) return;
    ap_prefix_keep(p, s->tok, n, s->kv, &s->recur, last && n == s->pos);
}
