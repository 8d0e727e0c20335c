/* The prefix cache by itself: random sequences, every token of which leaves its mark in pages and states; what a
 * match shares is what the sequence would have computed, whatever was given up meanwhile. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "state/prefix.h"

enum { CTX = 640, ENTRIES = CTX / AP_PAGE, CHUNK = 100, SEQS = 3, HISTORY = 12 };

typedef struct seq {
    ap_kv_table kv[AP_KV_GROUPS];
    int32_t page[AP_KV_GROUPS][ENTRIES];
    ap_recur recur;
    int32_t tok[CTX];
    int pos;
} seq;

typedef struct fixture {
    ap_device *dev;
    ap_slab pages[AP_KV_GROUPS], states;
    ap_prefix prefix;
    int window;
    bool full, recurs;
    ap_rng rng;
    int32_t old[HISTORY][CTX];
    int n_old;
} fixture;

static int random_int(ap_rng *r, int low, int high)
{
    return low + (int)(ap_rng_next(r) % (uint64_t)(high - low + 1));
}

static uint32_t mark_of(const int32_t *tok, int n)
{
    uint32_t h = 1;
    for (int i = 0; i < n; i++) h = (h ^ (uint32_t)tok[i]) * 16777619u;
    return h;
}

static bool evict(void *ctx, ap_slab *s)
{
    return ap_prefix_evict(ctx, s);
}

static void open_all(fixture *f, bool full, int window, bool recurs, uint64_t seed)
{
    memset(f, 0, sizeof *f);
    f->full = full, f->window = window, f->recurs = recurs;
    ap_rng_seed(&f->rng, seed);
    assert_int_equal(ap_device_cpu(APUS_CPU_REF, 1, &f->dev, NULL), APUS_OK);
    ap_slab *pages[AP_KV_GROUPS];
    for (int g = 0; g < AP_KV_GROUPS; g++) {
        /* what the sequences can hold at most, and now and then no page more */
        int n =
            (g ? ap_kv_cap(CTX, window ? window : 1, CHUNK) : ENTRIES) * SEQS + (int)(seed % 2) * 6;
        assert_int_equal(ap_slab_create(&f->pages[g], f->dev, n, AP_PAGE * 4, "pages", NULL), 0);
        f->pages[g].evict = evict;
        f->pages[g].evict_ctx = &f->prefix;
        pages[g] = (g ? window != 0 : full) ? &f->pages[g] : NULL;
    }
    assert_int_equal(ap_slab_create(&f->states, f->dev, SEQS * 5 + 4, 16 * 4, "states", NULL), 0);
    f->states.evict = evict;
    f->states.evict_ctx = &f->prefix;
    ap_prefix_open(&f->prefix, pages, recurs ? &f->states : NULL, window);
}

static void close_all(fixture *f)
{
    ap_prefix_clear(&f->prefix);
    assert_int_equal(f->prefix.n_node, 0);
    for (int g = 0; g < AP_KV_GROUPS; g++) {
        assert_int_equal(f->pages[g].n_free, f->pages[g].n_block);
        ap_slab_destroy(&f->pages[g]);
    }
    assert_int_equal(f->states.n_free, f->states.n_block);
    ap_slab_destroy(&f->states);
    f->dev->op->destroy(f->dev);
}

static bool has(const fixture *f, int g)
{
    return g ? f->window != 0 : f->full;
}

static uint32_t *cell(seq *s, int g, int pos)
{
    return (uint32_t *)(void *)ap_slab_at(s->kv[g].slab, s->kv[g].page[pos / AP_PAGE]) +
           pos % AP_PAGE;
}

/* What a query at the sequence's position sees, and its state, are right. */
static void check(const fixture *f, seq *s)
{
    for (int g = 0; g < AP_KV_GROUPS; g++) {
        int first = g && s->pos - f->window + 1 > 0 ? s->pos - f->window + 1 : 0;
        for (int p = first; has(f, g) && p < s->pos; p++) {
            assert_true(s->kv[g].page[p / AP_PAGE] >= 0);
            assert_int_equal(*cell(s, g, p), mark_of(s->tok, p + 1));
        }
    }
    if (!f->recurs) return;
    uint32_t state;
    memcpy(&state, ap_recur_live(&s->recur), sizeof state);
    assert_int_equal(state, s->pos ? mark_of(s->tok, s->pos) : 0);
}

/* Like an earlier one up to some token, or new. */
static int make_tokens(fixture *f, int32_t *tok)
{
    int n = random_int(&f->rng, 1, CTX - 1), same = 0;
    if (f->n_old && random_int(&f->rng, 0, 4)) {
        int from = random_int(&f->rng, 0, (f->n_old < HISTORY ? f->n_old : HISTORY) - 1);
        same = random_int(&f->rng, 0, CTX);
        memcpy(tok, f->old[from], CTX * sizeof *tok);
    }
    for (int i = same; i < CTX; i++) tok[i] = random_int(&f->rng, 0, 3);
    memcpy(f->old[f->n_old++ % HISTORY], tok, CTX * sizeof *tok);
    return n;
}

static void compute(fixture *f, seq *s, int n)
{
    while (s->pos < n) {
        int k = random_int(&f->rng, 1, CHUNK);
        if (f->recurs) k = s->pos % AP_PAGE + k > AP_PAGE ? AP_PAGE - s->pos % AP_PAGE : k;
        if (k > n - s->pos) k = n - s->pos;
        for (int g = 0; g < AP_KV_GROUPS; g++)
            assert_int_equal(ap_kv_prepare(&s->kv[g], s->pos, k), 0);
        for (int g = 0; g < AP_KV_GROUPS; g++)
            for (int p = s->pos; has(f, g) && p < s->pos + k; p++)
                *cell(s, g, p) = mark_of(s->tok, p + 1);
        s->pos += k;
        if (!f->recurs) continue;
        uint32_t state = mark_of(s->tok, s->pos);
        memcpy(ap_recur_live(&s->recur), &state, sizeof state);
        if (s->pos % AP_PAGE == 0 || random_int(&f->rng, 0, 3) == 0)
            ap_recur_snapshot(&s->recur, s->pos, 0);
    }
}

static void begin(fixture *f, seq *s)
{
    for (int g = 0; g < AP_KV_GROUPS; g++)
        ap_kv_init(&s->kv[g], has(f, g) ? &f->pages[g] : NULL, s->page[g], CTX, g ? f->window : 0,
                   g ? ap_kv_cap(CTX, f->window ? f->window : 1, CHUNK) : ENTRIES);
    assert_true(ap_recur_init(&s->recur, f->recurs ? &f->states : NULL, 16));
    s->pos = 0;
}

static void finish(seq *s)
{
    for (int g = 0; g < AP_KV_GROUPS; g++) ap_kv_clear(&s->kv[g]);
    ap_recur_clear(&s->recur);
}

static int simulate(bool full, int window, bool recurs, uint64_t seed)
{
    fixture *f = malloc(sizeof *f);
    seq *s = calloc(SEQS, sizeof *s);
    bool runs[SEQS] = {false};
    int reused = 0;
    open_all(f, full, window, recurs, seed);
    for (int round = 0; round < 150; round++) {
        int i = random_int(&f->rng, 0, SEQS - 1);
        if (runs[i]) {
            check(f, &s[i]);
            if (random_int(&f->rng, 0, 3))
                ap_prefix_keep(&f->prefix, s[i].tok, s[i].pos, s[i].kv, &s[i].recur, true);
            finish(&s[i]);
            runs[i] = false;
            continue;
        }
        begin(f, &s[i]);
        int n = make_tokens(f, s[i].tok);
        ap_match m = ap_prefix_find(&f->prefix, s[i].tok, n);
        assert_true(m.pos < n && m.known >= m.pos && m.known <= n);
        int n_disk;
        assert_true(ap_prefix_share(&f->prefix, &m, s[i].kv, &s[i].recur, &n_disk));
        s[i].pos = m.pos;
        reused += m.pos;
        check(f, &s[i]);
        compute(f, &s[i], n);
        ap_prefix_keep(&f->prefix, s[i].tok, n, s[i].kv, &s[i].recur, false);
        runs[i] = true;
        for (int k = 0; k < SEQS; k++)
            if (runs[k]) check(f, &s[k]);
    }
    for (int i = 0; i < SEQS; i++)
        if (runs[i]) finish(&s[i]);
    close_all(f);
    free(s);
    free(f);
    return reused;
}

static void what_is_shared_is_right(void **state)
{
    (void)state;
    int reused[5] = {0};
    for (uint64_t seed = 0; seed < 12; seed++) {
        reused[0] += simulate(true, 0, false, seed);
        reused[1] += simulate(true, 70, false, seed);
        reused[2] += simulate(true, 0, true, seed);
        reused[3] += simulate(false, 0, true, seed);
        reused[4] += simulate(true, 130, true, seed);
    }
    for (int i = 0; i < 5; i++) assert_true(reused[i] > 5000);
}

/* Where no page is left, the cache gives up its share of the one that a sequence goes on in. */
static void a_shared_page_is_left_to_who_writes_it(void **state)
{
    (void)state;
    for (int g = 0; g < AP_KV_GROUPS; g++) {
        fixture f;
        seq *s = calloc(1, sizeof *s);
        int32_t taken[CTX];
        int n = 0;
        open_all(&f, g == 0, g ? 70 : 0, false, 1);
        begin(&f, s);
        for (int i = 0; i < AP_PAGE; i++) s->tok[i] = i;
        compute(&f, s, 30);
        ap_prefix_keep(&f.prefix, s->tok, 30, s->kv, &s->recur, true);
        while (f.pages[g].n_free) taken[n++] = ap_slab_take(&f.pages[g]);
        compute(&f, s, 50);
        check(&f, s);
        finish(s);
        while (n) ap_slab_drop(&f.pages[g], taken[--n]);
        close_all(&f);
        free(s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(what_is_shared_is_right),
                                       cmocka_unit_test(a_shared_page_is_left_to_who_writes_it)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
