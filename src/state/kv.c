#include "state/kv.h"

#include <assert.h>

#include "base/num.h"

int ap_kv_entries(int ctx)
{
    return (int)(((int64_t)ctx + AP_PAGE - 1) / AP_PAGE);
}

/* Pages that n consecutive positions can touch. */
static int64_t span(int64_t n)
{
    return n <= 0 ? 0 : n == 1 ? 1 : (n - 2) / AP_PAGE + 2;
}

int ap_kv_cap(int ctx, int window, int chunk)
{
    int all = ap_kv_entries(ctx);
    if (window == 0) return all;
    int64_t n = span((int64_t)window - 1 + chunk) + span((int64_t)window - 1);
    return n < all ? (int)n : all;
}

void ap_kv_init(ap_kv_table *t, ap_slab *slab, int32_t *page, int ctx, int window, int cap)
{
    *t = (ap_kv_table){
        .slab = slab, .page = page, .n_entry = ap_kv_entries(ctx), .window = window, .cap = cap};
    if (!slab) return;
    t->low = t->n_entry;
    for (int i = 0; i < t->n_entry; i++) page[i] = -1;
}

/* Every change of an entry comes through here. */
static void write_entry(ap_kv_table *t, int i, int32_t block)
{
    bool none = t->changed.begin == t->changed.end;
    t->page[i] = block;
    t->changed.begin = none ? i : ap_min_int(t->changed.begin, i);
    t->changed.end = none ? i + 1 : ap_max_int(t->changed.end, i + 1);
}

static void set(ap_kv_table *t, int i, int32_t block)
{
    write_entry(t, i, block);
    t->held++;
    t->low = ap_min_int(t->low, i);
    t->high = ap_max_int(t->high, i + 1);
}

static void give_up(ap_kv_table *t, int i)
{
    if (t->page[i] < 0) return;
    ap_slab_drop(t->slab, t->page[i]);
    write_entry(t, i, -1);
    t->held--;
    while (t->low < t->high && t->page[t->low] < 0) t->low++;
    while (t->high > t->low && t->page[t->high - 1] < 0) t->high--;
}

void ap_kv_clear(ap_kv_table *t)
{
    if (!t->slab) return;
    for (int i = t->low, end = t->high; i < end; i++) give_up(t, i);
    t->low = t->n_entry;
    t->high = 0;
    t->hold = t->mark = (ap_kv_range){0, 0};
}

ap_kv_range ap_kv_seen(const ap_kv_table *t, int pos)
{
    int first = t->window ? ap_max_int(0, pos - t->window + 1) : 0;
    if (first >= pos) return (ap_kv_range){0, 0};
    return (ap_kv_range){first / AP_PAGE, (pos - 1) / AP_PAGE + 1};
}

bool ap_kv_ready(const ap_kv_table *t, int pos)
{
    if (!t->slab) return true;
    ap_kv_range r = ap_kv_seen(t, pos);
    for (int i = r.begin; i < r.end; i++)
        if (t->page[i] < 0) return false;
    return true;
}

void ap_kv_hold(ap_kv_table *t, int pos)
{
    t->hold = ap_kv_seen(t, pos);
}

void ap_kv_release(ap_kv_table *t)
{
    t->hold = (ap_kv_range){0, 0};
}

void ap_kv_mark(ap_kv_table *t, int pos)
{
    t->mark = ap_kv_seen(t, pos);
    if (t->mark.begin > 0) t->mark.begin--;
}

static bool inside(ap_kv_range r, int i)
{
    return i >= r.begin && i < r.end;
}

void ap_kv_keep_held(ap_kv_table *t)
{
    if (!t->slab || !t->window) return;
    for (int i = t->low, end = t->high; i < end; i++)
        if (!inside(t->hold, i)) give_up(t, i);
}

/* Give up the oldest page that nobody needs; marked ones only if there is no other. */
static bool make_room(ap_kv_table *t, ap_kv_range need)
{
    int victim = -1;
    for (int i = t->low; i < t->high; i++) {
        if (t->page[i] < 0 || inside(need, i) || inside(t->hold, i)) continue;
        if (victim < 0) victim = i;
        if (inside(t->mark, i)) continue;
        victim = i;
        break;
    }
    if (victim >= 0) give_up(t, victim);
    return victim >= 0;
}

/* Entry i is ours alone to write: false = no page is left for it. */
static bool own(ap_kv_table *t, int i, ap_kv_range need)
{
    int32_t old = t->page[i];
    if (old >= 0 && t->slab->refs[old] == 1) return true;
    if (old < 0 && t->held >= t->cap && !make_room(t, need)) return false;
    int32_t block = ap_slab_take(t->slab);
    while (block < 0 && make_room(t, need)) block = ap_slab_take(t->slab);
    if (block < 0)
        return old >= 0 && t->slab->refs[old] == 1; /* who shared it may have given way */
    if (old < 0) {
        set(t, i, block);
        return true;
    }
    ap_device *d = t->slab->dev; /* seen by another session: leave it the old one */
    d->op->copy(d, ap_slab_at(t->slab, block), ap_slab_at(t->slab, old), t->slab->block_bytes);
    ap_slab_drop(t->slab, old);
    write_entry(t, i, block);
    return true;
}

int ap_kv_prepare(ap_kv_table *t, int pos, int n)
{
    if (!t->slab) return 0;
    int first = pos / AP_PAGE, last = (pos + n - 1) / AP_PAGE, missing = 0;
    ap_kv_range seen = ap_kv_seen(t, pos);
    ap_kv_range need = {seen.end > seen.begin ? ap_min_int(seen.begin, first) : first, last + 1};
    for (int i = first; i <= last; i++) missing += !own(t, i, need);
    return missing;
}

void ap_kv_truncate(ap_kv_table *t, int pos)
{
    if (!t->slab) return;
    for (int i = t->high - 1; i >= 0 && i >= ap_kv_entries(pos); i--) give_up(t, i);
}

void ap_kv_share(ap_kv_table *t, int i, int32_t block)
{
    assert(t->page[i] < 0);
    ap_slab_share(t->slab, block);
    set(t, i, block);
}

void ap_kv_fork(ap_kv_table *dst, const ap_kv_table *src)
{
    if (!src->slab) return;
    for (int i = src->low; i < src->high; i++) {
        if (src->page[i] >= 0) ap_kv_share(dst, i, src->page[i]);
    }
    dst->mark = src->mark;
}

ap_kv_range ap_kv_changed(ap_kv_table *t)
{
    ap_kv_range r = t->changed;
    t->changed = (ap_kv_range){0, 0};
    return r;
}

uint8_t *ap_kv_put(ap_kv_table *t, int i)
{
    assert(i >= 0 && i < t->n_entry && t->page[i] < 0);
    if (t->held >= t->cap) return NULL;
    int32_t block = ap_slab_take(t->slab);
    if (block < 0) return NULL;
    set(t, i, block);
    return ap_slab_at(t->slab, block);
}
