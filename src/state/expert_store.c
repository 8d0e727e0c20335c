#include "state/expert_store.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>
#include <xxhash.h>

#include "base/file.h"
#include "base/lock.h"
#include "base/mem.h"
#include "base/num.h"
#include "base/rng.h"
#include "state/expert_ahead.h"
#include "state/expert_cache.h"

#define PARTS AP_EXPERT_PARTS
#define MOST  16 /* experts that are read at once, */
#define MOST_AHEAD                                                                                 \
    64 /* and those of the next layer with them, where they need no room to be gathered */
#define AHEAD_PART 4  /* this part of the slots may be taken for them */
#define HALF_STEPS 32 /* docs/experts.md has what was measured */

/* ------------------------------------------------------------------ the store */

/* An expert on its way. */
typedef struct flight {
    int layer, expert, slot; /* slot < 0: nobody is on the way */
    int left;                /* reads under way */
    bool due;                /* the layer that is computed wants it */
    bool ahead;              /* it was begun before anybody did */
    bool broken;             /* a read failed */
    uint8_t *room;           /* where it is gathered */
    ap_expert_view got;      /* its parts there */
} flight;

/* Where a read that may fail goes to, for the sentence. */
typedef struct piece {
    size_t file;
    uint64_t offset;    /* of what is wanted, */
    size_t bytes, skip; /* which begins `skip` bytes behind what is read */
} piece;

struct ap_expert_store {
    ap_expert_source source;
    ap_expert_spec spec;
    const ap_kern *k;
    ap_lock *lock;
    ap_aio *aio;
    ap_read_file *file; /* [n_file]; with records: one */
    int n_file;
    ap_expert_cache *cache;
    uint8_t *mem, *slots; /* slots: aligned in mem */
    size_t mem_bytes, slot_bytes;
    uint8_t *rooms; /* of flights, aligned in room_mem */
    uint8_t *room_mem;
    size_t room_bytes; /* of one flight */
    int n_flight;      /* MOST, or MOST_AHEAD */
    flight flight[MOST_AHEAD];
    piece piece[MOST_AHEAD][PARTS];
    int depth; /* flights that may be under way, but for those that are surely right */
    ap_expert_ahead ahead;

    /* a layer, from want to done */
    int layer;
    int32_t *hit, *miss, *wave_id; /* [E] */
    ap_expert *wave;               /* [E] */
    int n_hit, n_miss, n_begun, n_wave;
    int n_flying, n_due; /* under way; of them wanted by this layer */
    apus_err err;        /* of a read */
    apus_diag diag;

    ap_expert_counts counts; /* read by other threads */
};

static void count(uint64_t *what, uint64_t n)
{
    __atomic_fetch_add(what, n, __ATOMIC_RELAXED);
}

/* Of [L][E] */
static size_t place_of(const ap_expert_store *s, int layer, int expert)
{
    return (size_t)layer * (size_t)s->spec.n_expert + (size_t)expert;
}

static const ap_expert_view *view_of(const ap_expert_store *s, int layer, int expert)
{
    return &s->spec.view[place_of(s, layer, expert)];
}

static uint8_t *slot_at(const ap_expert_store *s, int slot)
{
    return s->slots + (size_t)slot * s->slot_bytes;
}

/* ------------------------------------------------------------------ sizes */

/* Where an expert is gathered: every part in whole blocks of its file. */
static size_t gather_bytes(const ap_expert_view *v)
{
    ap_expert_part p[PARTS];
    size_t sum = 0;
    ap_expert_parts(v, p);
    for (int i = 0; i < PARTS; i++)
        if (p[i].bytes) sum += ap_round_up(p[i].bytes, AP_IO_ALIGN) + AP_IO_ALIGN;
    return sum;
}

static size_t n_views(const ap_expert_spec *s)
{
    return (size_t)s->n_layer * (size_t)s->n_expert;
}

size_t ap_expert_slot_bytes(const ap_expert_spec *s, size_t *n)
{
    size_t most = 0, count = 0;
    for (size_t i = 0; i < n_views(s); i++) {
        size_t bytes = ap_expert_bytes(s->dev->kern, &s->view[i]);
        most = ap_max_size(most, bytes);
        count += bytes > 0;
    }
    if (n) *n = count;
    return ap_round_up(most, AP_IO_ALIGN);
}

static size_t room_of_flight(const ap_expert_spec *s)
{
    size_t most = 0;
    for (size_t i = 0; i < n_views(s) && !s->records; i++)
        if (s->view[i].gate.rank) most = ap_max_size(most, gather_bytes(&s->view[i]));
    return most;
}

size_t ap_expert_room_bytes(const ap_expert_spec *s)
{
    size_t tables = n_views(s) * (sizeof(int32_t) + 16) +
                    (size_t)s->n_expert * (4 * sizeof(int32_t) + sizeof(bool) + sizeof(ap_expert));
    return MOST * room_of_flight(s) + tables + 2 * AP_IO_ALIGN;
}

/* ------------------------------------------------------------------ reads */

static void fail_read(ap_expert_store *s, const flight *f, const piece *p, int error, size_t got)
{
    const char *path = s->spec.records ? s->spec.records->path : s->spec.path[p->file];
    char why[128];
    if (s->err) return; /* the first one is told */
    if (error && strerror_r(error, why, sizeof why)) why[0] = 0;
    if (error)
        s->err = ap_fail(&s->diag, APUS_EFILE,
                         "%s: %zu bytes at %llu, of expert %d of layer %d, cannot be read: %s",
                         path, p->bytes, (unsigned long long)p->offset, f->expert, f->layer, why);
    else
        s->err = ap_fail(&s->diag, APUS_EFILE,
                         "%s: ends at %llu, expected %zu bytes at %llu, of expert %d of layer %d; "
                         "was it cut while it was in use?",
                         path, (unsigned long long)(p->offset - p->skip + got), p->bytes,
                         (unsigned long long)p->offset, f->expert, f->layer);
}

static uint64_t tag_of(const ap_expert_store *s, const flight *f, int i)
{
    return (uint64_t)(f - s->flight) * PARTS + (uint64_t)i;
}

/* Begin to read [offset, offset + bytes) to `to`, which has room for the whole blocks that hold them; returns
 * where they will begin. */
static uint8_t *begin_read(ap_expert_store *s, flight *f, int i, size_t file, uint64_t offset,
                           size_t bytes, uint8_t *to)
{
    size_t skip = (size_t)(offset % AP_IO_ALIGN);
    size_t whole = ap_round_up(bytes + skip, AP_IO_ALIGN);
    s->piece[f - s->flight][i] = (piece){file, offset, bytes, skip};
    ap_aio_begin(s->aio, &(ap_read){.file = &s->file[file],
                                    .offset = offset - skip,
                                    .to = to,
                                    .bytes = whole,
                                    .tag = tag_of(s, f, i)});
    f->left++;
    count(&s->counts.bytes, whole);
    return to + skip;
}

static void begin_record(ap_expert_store *s, flight *f)
{
    const ap_expert_records *r = s->spec.records;
    size_t i = place_of(s, f->layer, f->expert);
    begin_read(s, f, 0, 0, r->offset[i], ap_expert_bytes(s->k, &s->spec.view[i]),
               slot_at(s, f->slot));
}

static void begin_gather(ap_expert_store *s, flight *f)
{
    const ap_expert_spec *c = &s->spec;
    ap_expert_part p[PARTS];
    void *at[PARTS];
    uint8_t *to = f->room;
    f->got = *view_of(s, f->layer, f->expert);
    ap_expert_parts(&f->got, p);
    for (int i = 0; i < PARTS; i++) {
        size_t file;
        uint64_t offset;
        at[i] = (void *)(uintptr_t)p[i].at;
        if (!p[i].bytes || !c->where(c->ctx, p[i].at, p[i].bytes, &file, &offset)) continue;
        at[i] = begin_read(s, f, i, file, offset, p[i].bytes, to);
        to += ap_round_up(p[i].bytes, AP_IO_ALIGN) + AP_IO_ALIGN;
    }
    ap_expert_moved(&f->got, at);
}

static void begin_reads(ap_expert_store *s, flight *f)
{
    if (s->spec.records)
        begin_record(s, f);
    else
        begin_gather(s, f);
}

/* Somebody sets off to a slot; there is a flight. */
static void begin_flight(ap_expert_store *s, int layer, int expert, int slot, bool due)
{
    flight *f = s->flight;
    while (f->slot >= 0) f++;
    *f = (flight){
        .layer = layer, .expert = expert, .slot = slot, .due = due, .ahead = !due, .room = f->room};
    s->n_flying++;
    s->n_due += due;
    begin_reads(s, f);
}

static void end_flight(ap_expert_store *s, flight *f)
{
    s->n_flying--;
    s->n_due -= f->due;
    f->slot = -1;
}

/* The flight to a slot, or NULL. */
static flight *flight_to(ap_expert_store *s, int slot)
{
    for (int i = 0; i < s->n_flight; i++)
        if (s->flight[i].slot == slot) return &s->flight[i];
    return NULL;
}

/* Read what is expected of the next layer. What is sure takes the slots of this one, whose turn comes last. */
static void begin_ahead(ap_expert_store *s)
{
    ap_expert_ahead *a = &s->ahead;
    int limit = a->sure ? s->n_flight : s->depth;
    while (a->n_begun < s->spec.n_slot / AHEAD_PART && s->n_flying < limit) {
        int expert = ap_expert_ahead_next(a);
        if (expert < 0) return;
        if (ap_expert_cache_find(s->cache, a->layer, expert) >= 0) continue;
        int slot =
            ap_expert_cache_take_from(s->cache, a->layer, expert, a->sure ? s->layer : a->layer);
        if (slot < 0) {
            a->next--; /* another time */
            return;
        }
        ap_expert_ahead_begun(a, expert);
        count(&s->counts.ahead, 1);
        begin_flight(s, a->layer, expert, slot, false);
    }
}

/* Begin as many of the layer's missing experts as there are slots and reads for, and then what is expected. */
static void begin_flights(ap_expert_store *s)
{
    while (s->n_begun < s->n_miss) {
        if (s->err || s->n_due >= s->depth || s->n_flying >= s->n_flight) return;
        int expert = s->miss[s->n_begun];
        int slot = ap_expert_cache_take(s->cache, s->layer, expert);
        if (slot < 0) return;
        s->n_begun++;
        begin_flight(s, s->layer, expert, slot, true);
    }
    if (!s->err) begin_ahead(s);
}

/* Take what has been read. wait: for at least one read. */
static void collect(ap_expert_store *s, bool wait)
{
    ap_read_done done[32];
    int n = ap_aio_collect(s->aio, done, 32, wait);
    for (int i = 0; i < n; i++) {
        flight *f = &s->flight[done[i].tag / PARTS];
        const piece *p = &s->piece[done[i].tag / PARTS][done[i].tag % PARTS];
        f->left--;
        if (!done[i].error && done[i].got >= p->skip + p->bytes) continue;
        f->broken = true;
        if (f->due && !f->ahead) fail_read(s, f, p, done[i].error, done[i].got);
    }
}

/* ------------------------------------------------------------------ packing */

/* What has arrived becomes usable: tasks of all of them as one job of the workers. */
typedef struct packing {
    ap_expert_store *s;
    flight *f[MOST_AHEAD]; /* [n] */
    int n, begin[MOST_AHEAD + 1];
    bool wrong[MOST_AHEAD]; /* its checksum */
} packing;

static int flight_tasks(const ap_expert_store *s, const flight *f)
{
    return s->spec.records ? 1 : ap_expert_tasks(&f->got);
}

static void pack_task(void *arg, int task, int worker)
{
    packing *p = arg;
    ap_expert_store *s = p->s;
    int i = 0;
    (void)worker;
    while (task >= p->begin[i + 1]) i++;
    const flight *f = p->f[i];
    uint8_t *dst = slot_at(s, f->slot);
    if (s->spec.records) {
        size_t at = place_of(s, f->layer, f->expert);
        size_t n = ap_expert_bytes(s->k, &s->spec.view[at]);
        p->wrong[i] = XXH3_64bits(dst, n) != s->spec.records->sum[at];
        return;
    }
    ap_expert_task(s->k, &f->got, task - p->begin[i], dst);
}

static void give(ap_expert_store *s, int expert, int slot)
{
    s->wave_id[s->n_wave] = expert;
    ap_expert_at(s->k, view_of(s, s->layer, expert), slot_at(s, slot), &s->wave[s->n_wave++]);
}

static void fail_sum(ap_expert_store *s, const flight *f)
{
    if (s->err) return;
    s->err = ap_fail(&s->diag, APUS_EFORMAT,
                     "%s: the checksum of expert %d of layer %d is wrong: the file is damaged; "
                     "make it again with 'apus repack'",
                     s->spec.records->path, f->expert, f->layer);
}

static void lose(ap_expert_store *s, flight *f)
{
    ap_expert_cache_drop(s->cache, f->slot);
    end_flight(s, f);
}

/* An expert that did not come. What failed when nobody had asked is no error: it is read again for who did since. */
static void mend(ap_expert_store *s, flight *f)
{
    if (!f->due) {
        lose(s, f);
    } else if (f->ahead) {
        f->ahead = f->broken = false;
        begin_reads(s, f);
    } /* else done() sees to it */
}

/* An expert is in its slot. */
static void arrive(ap_expert_store *s, flight *f)
{
    if (f->due)
        give(s, f->expert, f->slot);
    else
        ap_expert_cache_pin(s->cache, f->slot, false);
    end_flight(s, f);
}

/* Flights that have come to their end: those that are due become the wave. */
static void land(ap_expert_store *s, ap_pool *pool)
{
    packing p = {.s = s};
    int64_t begin = ap_time_us();
    for (int i = 0; i < s->n_flight; i++) {
        flight *f = &s->flight[i];
        if (f->slot < 0 || f->left) continue;
        if (f->broken) {
            mend(s, f);
            continue;
        }
        p.f[p.n] = f;
        p.begin[p.n + 1] = p.begin[p.n] + flight_tasks(s, f);
        p.n++;
    }
    if (!p.n) return;
    ap_pool_run(pool, pack_task, &p, p.begin[p.n]);
    for (int i = 0; i < p.n; i++) {
        if (p.wrong[i] && p.f[i]->due) fail_sum(s, p.f[i]);
        if (p.wrong[i])
            lose(s, p.f[i]);
        else
            arrive(s, p.f[i]);
    }
    count(&s->counts.pack_us, (uint64_t)(ap_time_us() - begin));
}

/* ------------------------------------------------------------------ the source */

static int next_layer(const ap_expert_store *s)
{
    int l = s->layer + 1;
    while (l < s->spec.n_layer && !view_of(s, l, 0)->gate.rank) l++;
    return l < s->spec.n_layer ? l : -1;
}

/* An expert that has a slot: it is there, or on its way. */
static void take_hit(ap_expert_store *s, int expert, int slot)
{
    flight *f = flight_to(s, slot);
    if (f) {
        f->due = true;
        s->n_due++;
        return;
    }
    ap_expert_cache_pin(s->cache, slot, true);
    s->hit[s->n_hit++] = expert;
}

static void want(ap_expert_source *source, int layer, const int32_t *ids, int n)
{
    ap_expert_store *s = (ap_expert_store *)source;
    int right = 0;
    ap_lock_take(s->lock);
    s->layer = layer;
    s->n_hit = s->n_miss = s->n_begun = s->n_wave = 0;
    s->err = APUS_OK;
    ap_expert_cache_step(s->cache, layer);
    for (int i = 0; i < n; i++) {
        int slot = ap_expert_cache_find(s->cache, layer, ids[i]);
        ap_expert_cache_use(s->cache, layer, ids[i]);
        if (slot < 0) {
            s->miss[s->n_miss++] = ids[i];
            continue;
        }
        take_hit(s, ids[i], slot);
        right += ap_expert_ahead_has(&s->ahead, layer, ids[i]);
    }
    count(&s->counts.misses, (uint64_t)(s->n_miss + right));
    count(&s->counts.hits, (uint64_t)(n - s->n_miss - right));
    count(&s->counts.ahead_used, (uint64_t)right);
    ap_expert_ahead_settle(&s->ahead, layer, right);
    ap_expert_ahead_sure(&s->ahead, next_layer(s), n);
    begin_flights(s);
}

static int next(ap_expert_source *source)
{
    ap_expert_store *s = (ap_expert_store *)source;
    bool room = s->n_begun == s->n_miss && s->n_flying < s->depth;
    return ap_expert_ahead_may_guess(&s->ahead) && room ? next_layer(s) : -1;
}

static void guess(ap_expert_source *source, const int32_t *ids, int n)
{
    ap_expert_store *s = (ap_expert_store *)source;
    ap_expert_ahead_guess(&s->ahead, next_layer(s), ids, n);
    begin_flights(s);
}

/* The wave was computed: its experts may go. */
static void unpin_wave(ap_expert_store *s)
{
    for (int i = 0; i < s->n_wave; i++)
        ap_expert_cache_pin(s->cache, ap_expert_cache_find(s->cache, s->layer, s->wave_id[i]),
                            false);
    s->n_wave = 0;
}

static apus_err get(ap_expert_source *source, const ap_exec *ex, ap_wave *wave, apus_diag *diag)
{
    ap_expert_store *s = (ap_expert_store *)source;
    unpin_wave(s);
    if (s->n_hit) {
        for (int i = 0; i < s->n_hit; i++)
            give(s, s->hit[i], ap_expert_cache_find(s->cache, s->layer, s->hit[i]));
        s->n_hit = 0;
    }
    collect(s, false);
    begin_flights(s);
    while (!s->n_wave && !s->err && (s->n_due || s->n_begun < s->n_miss)) {
        land(s, ex->dev->pool);
        begin_flights(s);
        if (s->n_wave || s->err) break;
        int64_t begin = ap_time_us();
        collect(s, true);
        count(&s->counts.stall_us, (uint64_t)(ap_time_us() - begin));
    }
    *wave = (ap_wave){s->wave_id, s->wave, s->n_wave};
    if (s->err && diag) *diag = s->diag;
    return s->err;
}

/* Those that are due and were not given out: an error, or the step was given up. */
static void lose_due(ap_expert_store *s)
{
    for (int i = 0; i < s->n_flight; i++) {
        flight *f = &s->flight[i];
        if (f->slot < 0 || !f->due) continue;
        while (f->left) collect(s, true);
        lose(s, f);
    }
}

static void done(ap_expert_source *source)
{
    ap_expert_store *s = (ap_expert_store *)source;
    unpin_wave(s);
    for (int i = 0; i < s->n_hit; i++) /* given up before they were given out */
        ap_expert_cache_pin(s->cache, ap_expert_cache_find(s->cache, s->layer, s->hit[i]), false);
    s->n_miss = s->n_begun;
    lose_due(s);
    begin_flights(s);
    ap_lock_leave(s->lock);
}

static const ap_expert_source_ops ops = {
    .want = want, .get = get, .next = next, .guess = guess, .done = done};

/* ------------------------------------------------------------------ the disk */

#define PROBE_US    40000                 /* for each depth */
#define PROBE_BYTES ((uint64_t)256 << 20) /* less may be in some cache */

/* Bytes a second with `depth` experts under way. Nobody uses the store, and slots are free. */
static double probe_depth(ap_expert_store *s, int depth, ap_rng *rng)
{
    uint64_t before = s->counts.bytes;
    int64_t begin = ap_time_us(), end = begin;
    bool more = true;
    while (more || s->n_flying) {
        for (int slot = 0; slot < depth && more; slot++) {
            if (flight_to(s, slot)) continue;
            int layer = (int)(ap_rng_next(rng) % (uint64_t)s->spec.n_layer);
            int expert = (int)(ap_rng_next(rng) % (uint64_t)s->spec.n_expert);
            if (view_of(s, layer, expert)->gate.rank) begin_flight(s, layer, expert, slot, false);
        }
        collect(s, true);
        for (int i = 0; i < depth; i++)
            if (s->flight[i].slot >= 0 && !s->flight[i].left) end_flight(s, &s->flight[i]);
        end = ap_time_us();
        more = end - begin < PROBE_US;
    }
    return (double)(s->counts.bytes - before) * 1e6 / (double)(end - begin + 1);
}

double ap_expert_store_probe(ap_expert_store *s)
{
    double best = 0, found[5];
    ap_rng rng;
    size_t n;
    size_t each = ap_expert_slot_bytes(&s->spec, &n);
    if (each * n < PROBE_BYTES || s->spec.n_slot < MOST) return 0;
    ap_rng_seed(&rng, (uint64_t)ap_time_ns());
    for (int i = 0; i < 5; i++) {
        found[i] = probe_depth(s, 1 << i, &rng);
        if (found[i] > best) best = found[i];
    }
    for (int i = 4; i >= 0;
         i--) /* the fewest that are as quick: those that wait keep others from being first */
        if (found[i] > 0.95 * best) s->depth = 1 << i;
    s->counts = (ap_expert_counts){0};
    return best;
}

/* ------------------------------------------------------------------ earlier runs */

int ap_expert_store_list(const ap_expert_store *s, ap_expert_use *out)
{
    int n = 0;
    ap_lock_take(s->lock);
    for (int l = 0; l < s->spec.n_layer; l++)
        for (int e = 0; e < s->spec.n_expert; e++)
            if (ap_expert_cache_find(s->cache, l, e) >= 0)
                out[n++] = (ap_expert_use){l, e, ap_expert_cache_uses(s->cache, l, e)};
    ap_lock_leave(s->lock);
    return n;
}

/* Nobody has it, and there is such an expert. */
static bool can_recall(const ap_expert_store *s, const ap_expert_use *u)
{
    return u->layer >= 0 && u->layer < s->spec.n_layer && u->expert >= 0 &&
           u->expert < s->spec.n_expert && view_of(s, u->layer, u->expert)->gate.rank &&
           ap_expert_cache_find(s->cache, u->layer, u->expert) < 0;
}

/* Wait until at most n are on their way. */
static void await(ap_expert_store *s, int n)
{
    while (s->n_flying > n) {
        collect(s, true);
        land(s, s->spec.dev->pool);
    }
}

void ap_expert_store_recall(ap_expert_store *s, const ap_expert_use *use, int n,
                            apus_progress_fn progress, void *ctx)
{
    enum { ROUGHLY = 16 };
    if (n > s->spec.n_slot) n = s->spec.n_slot;
    for (int i = 0; i < n; i++) {
        const ap_expert_use *u = &use[i];
        if (i % ROUGHLY == 0 && progress &&
            !progress(ctx, "recall experts", (uint64_t)i, (uint64_t)n))
            break;
        await(s, s->depth - 1);
        if (!can_recall(s, u)) continue;
        int slot = ap_expert_cache_take(s->cache, u->layer, u->expert);
        if (slot < 0) break;
        ap_expert_cache_set_uses(s->cache, u->layer, u->expert, u->uses);
        begin_flight(s, u->layer, u->expert, slot, false);
    }
    await(s, 0);
}

/* ------------------------------------------------------------------ life */

static apus_err open_files(ap_expert_store *s, apus_diag *diag)
{
    const ap_expert_spec *c = &s->spec;
    int n = c->records ? 1 : c->n_file;
    s->file = ap_calloc((size_t)n, sizeof *s->file);
    if (!s->file) return ap_fail_nomem(diag, (size_t)n * sizeof *s->file, "files of experts");
    apus_err err = APUS_OK;
    while (s->n_file < n && !err) {
        const char *path = c->records ? c->records->path : c->path[s->n_file];
        err = ap_read_file_open(path, &s->file[s->n_file], diag);
        s->n_file += !err;
    }
    return err;
}

static uint8_t *aligned(uint8_t *p)
{
    return p + (ap_round_up((uintptr_t)p, AP_IO_ALIGN) - (uintptr_t)p);
}

static apus_err take_memory(ap_expert_store *s, apus_diag *diag)
{
    const ap_expert_spec *c = &s->spec;
    size_t n = (size_t)c->n_expert, moe = 0;
    for (int l = 0; l < c->n_layer; l++) moe += c->view[(size_t)l * n].gate.rank > 0;
    s->room_bytes = room_of_flight(c);
    s->slot_bytes = ap_expert_slot_bytes(c, NULL);
    if (!ap_mul_size(s->slot_bytes, (size_t)c->n_slot, &s->mem_bytes) ||
        !ap_add_size(s->mem_bytes, AP_IO_ALIGN, &s->mem_bytes))
        return ap_fail_nomem(diag, SIZE_MAX, "experts in memory");
    s->mem = c->dev->op->alloc(c->dev, s->mem_bytes);
    if (!s->mem) return ap_fail_nomem(diag, s->mem_bytes, "experts in memory");
    s->slots = aligned(s->mem);
    bool ok = (s->lock = ap_lock_create());
    ok = ok && (s->room_mem = ap_malloc(MOST * s->room_bytes + AP_IO_ALIGN, 1));
    ok = ok && (s->hit = ap_calloc(n, sizeof *s->hit));
    ok = ok && (s->miss = ap_calloc(n, sizeof *s->miss));
    ok = ok && (s->wave_id = ap_calloc(n, sizeof *s->wave_id));
    ok = ok && (s->wave = ap_calloc(n, sizeof *s->wave));
    ok = ok && ap_expert_ahead_init(&s->ahead, c->n_expert);
    ok = ok && (s->cache = ap_expert_cache_create(c->n_layer, (int)moe, c->n_expert, c->n_slot,
                                                  HALF_STEPS));
    if (!ok) return ap_fail_nomem(diag, ap_expert_room_bytes(c), "reads of experts");
    s->rooms = aligned(s->room_mem);
    return APUS_OK;
}

apus_err ap_expert_store_create(const ap_expert_spec *spec, ap_expert_store **out, apus_diag *diag)
{
    assert(spec->n_slot >= 1 && spec->dev->is_host);
    ap_expert_store *s = ap_calloc(1, sizeof *s);
    if (!s) return ap_fail_nomem(diag, sizeof *s, "experts in memory");
    s->source.op = &ops;
    s->spec = *spec;
    s->k = spec->dev->kern;
    s->depth = MOST;
    s->n_flight = spec->records ? MOST_AHEAD : MOST;
    apus_err err = open_files(s, diag);
    if (!err) err = take_memory(s, diag);
    if (!err)
        err = ap_aio_create(spec->io, spec->records ? MOST_AHEAD : MOST * PARTS, &s->aio, diag);
    if (err) {
        ap_expert_store_free(s);
        return err;
    }
    for (int i = 0; i < s->n_flight; i++) {
        s->flight[i].slot = -1;
        s->flight[i].room = s->rooms + (size_t)i * s->room_bytes;
    }
    if (spec->records)
        ap_aio_register(s->aio, s->slots, s->slot_bytes * (size_t)spec->n_slot, s->slot_bytes);
    else
        ap_aio_register(s->aio, s->rooms, s->room_bytes * MOST, s->room_bytes);
    *out = s;
    return APUS_OK;
}

void ap_expert_store_free(ap_expert_store *s)
{
    if (!s) return;
    ap_aio_free(s->aio);
    for (int i = 0; i < s->n_file; i++) ap_read_file_close(&s->file[i]);
    if (s->mem) s->spec.dev->op->free(s->spec.dev, s->mem, s->mem_bytes);
    ap_expert_cache_free(s->cache);
    ap_expert_ahead_free(&s->ahead);
    ap_lock_free(s->lock);
    ap_free(s->file);
    ap_free(s->room_mem);
    ap_free(s->hit);
    ap_free(s->miss);
    ap_free(s->wave_id);
    ap_free(s->wave);
    ap_free(s);
}

ap_expert_source *ap_expert_store_source(ap_expert_store *s)
{
    return &s->source;
}

static uint64_t counted(const uint64_t *what)
{
    return __atomic_load_n(what, __ATOMIC_RELAXED);
}

ap_expert_counts ap_expert_store_counts(const ap_expert_store *s)
{
    const ap_expert_counts *c = &s->counts;
    return (ap_expert_counts){.hits = counted(&c->hits),
                              .misses = counted(&c->misses),
                              .ahead = counted(&c->ahead),
                              .ahead_used = counted(&c->ahead_used),
                              .bytes = counted(&c->bytes),
                              .stall_us = counted(&c->stall_us),
                              .pack_us = counted(&c->pack_us)};
}

int ap_expert_store_slots(const ap_expert_store *s)
{
    return s->spec.n_slot;
}

int ap_expert_store_depth(const ap_expert_store *s)
{
    return s->depth;
}

const char *ap_expert_store_io(const ap_expert_store *s)
{
    return ap_aio_name(s->aio);
}
