#include "state/recur.h"

#include <assert.h>
#include <string.h>

static void copy(const ap_recur *r, float *dst, const float *src)
{
    ap_device *d = r->slab->dev;
    d->op->copy(d, dst, src, r->n_float * sizeof(float));
}

static float *at(const ap_recur *r, int32_t block)
{
    return (float *)ap_slab_at(r->slab, block);
}

static void forget(ap_recur *r, int i)
{
    ap_slab_drop(r->slab, r->snap[i].block);
    r->n_snap--;
    memmove(&r->snap[i], &r->snap[i + 1], (size_t)(r->n_snap - i) * sizeof r->snap[0]);
}

bool ap_recur_init(ap_recur *r, ap_slab *slab, size_t n_float)
{
    *r = (ap_recur){.slab = slab, .n_float = n_float, .live = -1, .spare = -1};
    if (!slab) return true;
    r->live = ap_slab_take(slab);
    if (r->live < 0) return false;
    ap_recur_zero(r);
    return true;
}

void ap_recur_clear(ap_recur *r)
{
    if (!r->slab) return;
    ap_recur_truncate(r, 0);
    if (r->live >= 0) ap_slab_drop(r->slab, r->live);
    if (r->spare >= 0) ap_slab_drop(r->slab, r->spare);
    r->live = r->spare = -1;
}

float *ap_recur_live(const ap_recur *r)
{
    return r->slab ? at(r, r->live) : NULL;
}

void ap_recur_zero(ap_recur *r)
{
    if (r->slab) r->slab->dev->op->zero(r->slab->dev, at(r, r->live), r->n_float * sizeof(float));
}

/* A block, that of the oldest snapshot if there is no other; -1 = none is left. */
static int32_t take(ap_recur *r)
{
    int32_t block = ap_slab_take(r->slab);
    while (block < 0 && r->n_snap) {
        forget(r, 0);
        block = ap_slab_take(r->slab);
    }
    return block;
}

bool ap_recur_backup(ap_recur *r)
{
    if (!r->slab) return true;
    if (r->spare < 0) r->spare = take(r);
    if (r->spare < 0) return false;
    copy(r, at(r, r->spare), at(r, r->live));
    return true;
}

void ap_recur_restore(ap_recur *r)
{
    int32_t live = r->spare;
    r->spare = r->live;
    r->live = live;
}

/* Which snapshot is missed least when one at pos > all is to be added: the one whose neighbours are
 * close together, measured against how far back they lie. */
static int least_useful(const ap_recur *r, int pos, int keep)
{
    int best = -1, kept = ap_recur_find(r, keep, r->n_snap);
    double best_cost = 0;
    for (int i = 0; i < r->n_snap; i++) {
        if (i == kept) continue;
        int before = i ? r->snap[i - 1].pos : 0;
        int after = i + 1 < r->n_snap ? r->snap[i + 1].pos : pos;
        double cost = (double)(after - before) / (double)(pos - before);
        if (best < 0 || cost < best_cost) {
            best = i;
            best_cost = cost;
        }
    }
    return best;
}

void ap_recur_snapshot(ap_recur *r, int pos, int keep)
{
    if (!r->slab) return;
    int i = ap_recur_find(r, pos, r->n_snap);
    if (i >= 0 && r->snap[i].pos == pos) return;
    /* Tokens run again from before the newest snapshot: it stays good, the list stays sorted. */
    if (r->n_snap && r->snap[r->n_snap - 1].pos > pos) return;
    if (r->n_snap == AP_SNAPSHOTS) forget(r, least_useful(r, pos, keep));
    float *room = ap_recur_put(r, pos);
    if (room) copy(r, room, at(r, r->live));
}

int ap_recur_find(const ap_recur *r, int pos, int below)
{
    int i = below - 1;
    while (i >= 0 && r->snap[i].pos > pos) i--;
    return i;
}

void ap_recur_go(ap_recur *r, int i)
{
    copy(r, at(r, r->live), at(r, r->snap[i].block));
}

void ap_recur_load(ap_recur *r, int32_t block)
{
    copy(r, at(r, r->live), at(r, block));
}

bool ap_recur_forget(ap_recur *r)
{
    if (!r->n_snap) return false;
    forget(r, 0);
    return true;
}

void ap_recur_truncate(ap_recur *r, int pos)
{
    while (r->n_snap && r->snap[r->n_snap - 1].pos > pos) forget(r, r->n_snap - 1);
}

void ap_recur_fork(ap_recur *dst, const ap_recur *src)
{
    if (!src->slab) return;
    copy(src, at(dst, dst->live), at(src, src->live));
    dst->n_snap = src->n_snap;
    memcpy(dst->snap, src->snap, sizeof src->snap);
    for (int i = 0; i < src->n_snap; i++) ap_slab_share(src->slab, src->snap[i].block);
}

const float *ap_recur_snap(const ap_recur *r, int i)
{
    return at(r, r->snap[i].block);
}

float *ap_recur_put(ap_recur *r, int pos)
{
    if (r->n_snap == AP_SNAPSHOTS) return NULL;
    int32_t block = ap_slab_take(r->slab);
    if (block < 0) return NULL;
    r->snap[r->n_snap++] = (ap_snapshot){pos, block};
    return at(r, block);
}
