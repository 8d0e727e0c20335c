/* Block tables: nothing needed is ever given up, the cap holds, sharing copies before writing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "state/kv.h"

static ap_device *dev;

enum { CTX = 2000, ENTRIES = (CTX + AP_PAGE - 1) / AP_PAGE, TABLES = 3 };

static int random_int(ap_rng *r, int low, int high)
{
    return low + (int)(ap_rng_next(r) % (uint64_t)(high - low + 1));
}

/* A page is an i32 per position. */
static int32_t *cell(const ap_kv_table *t, int pos)
{
    return (int32_t *)(void *)ap_slab_at(t->slab, t->page[pos / AP_PAGE]) + pos % AP_PAGE;
}

/* The tables again, made to follow by what has changed, as a device would have them. */
typedef struct fixture {
    ap_slab slab;
    int32_t copy[TABLES][ENTRIES];
    ap_kv_table t[TABLES];
    int32_t page[TABLES][ENTRIES];
    int pos[TABLES];
    int32_t value[TABLES][CTX]; /* what each position should hold */
} fixture;

static void start(fixture *f, int window, int chunk)
{
    apus_diag diag;
    memset(f, 0, sizeof *f);
    int cap = ap_kv_cap(CTX, window, chunk);
    assert_int_equal(
        ap_slab_create(&f->slab, dev, cap * TABLES, AP_PAGE * sizeof(int32_t), "pages", &diag),
        APUS_OK);
    for (int i = 0; i < TABLES; i++) ap_kv_init(&f->t[i], &f->slab, f->page[i], CTX, window, cap);
}

static void finish(fixture *f)
{
    for (int i = 0; i < TABLES; i++) ap_kv_clear(&f->t[i]);
    assert_int_equal(f->slab.n_free, f->slab.n_block);
    for (int i = 0; i < TABLES; i++)
        for (int j = 0; j < ENTRIES; j++) assert_int_equal(f->page[i][j], -1);
    ap_slab_destroy(&f->slab);
}

/* What a query at pos sees has the right values. */
static void check(fixture *f, int i, int pos)
{
    const ap_kv_table *t = &f->t[i];
    int first = t->window && pos - t->window + 1 > 0 ? pos - t->window + 1 : 0;
    assert_true(ap_kv_ready(t, pos));
    for (int p = first; p < pos; p++) {
        assert_true(t->page[p / AP_PAGE] >= 0);
        assert_int_equal(*cell(t, p), f->value[i][p]);
    }
    ap_kv_range r = ap_kv_changed(&f->t[i]);
    for (int j = r.begin; j < r.end; j++) f->copy[i][j] = t->page[j];
    for (int j = 0; j < ENTRIES; j++) assert_true(t->page[j] < 0 || f->copy[i][j] == t->page[j]);
    int held = 0;
    for (int j = 0; j < ENTRIES; j++) held += t->page[j] >= 0;
    assert_int_equal(held, t->held);
    assert_true(held <= t->cap);
}

/* A call of several steps; stop < 0: to its end, else undone after that many steps. */
static void call(fixture *f, int i, int n, int chunk, int stop, ap_rng *rng)
{
    ap_kv_table *t = &f->t[i];
    int begin = f->pos[i], pos = begin;
    ap_kv_hold(t, begin);
    for (int step = 0; n && step != stop; step++) {
        int k = n < chunk ? n : random_int(rng, 1, chunk);
        ap_kv_prepare(t, pos, k);
        for (int p = pos; p < pos + k; p++) {
            assert_int_equal(f->slab.refs[t->page[p / AP_PAGE]], 1);
            *cell(t, p) = f->value[i][p] = (int32_t)ap_rng_next(rng);
        }
        for (int p = pos; p < pos + k; p++) check(f, i, p); /* each query of the step */
        pos += k;
        n -= k;
    }
    f->pos[i] = stop < 0 ? pos : begin;
    if (stop >= 0) ap_kv_truncate(t, begin);
    ap_kv_release(t);
    if (stop < 0 && random_int(rng, 0, 1)) ap_kv_mark(t, pos);
    check(f, i, f->pos[i]);
}

static void simulate(int window, int chunk, uint64_t seed)
{
    fixture *f = malloc(sizeof *f);
    ap_rng rng;
    ap_rng_seed(&rng, seed);
    start(f, window, chunk);
    for (int round = 0; round < 150; round++) {
        int i = random_int(&rng, 0, TABLES - 1), j = random_int(&rng, 0, TABLES - 1);
        ap_kv_table *t = &f->t[i];
        int op = random_int(&rng, 0, 9);
        if (op < 6) {
            int n = random_int(&rng, 1, op < 3 ? 3 : 400), room = CTX - f->pos[i];
            n = n < room ? n : room;
            if (n) call(f, i, n, chunk, op == 5 ? random_int(&rng, 0, 4) : -1, &rng);
        } else if (op < 8) {
            int pos = random_int(&rng, f->pos[i] > 100 ? f->pos[i] - 100 : 0, f->pos[i]);
            if (!ap_kv_ready(t, pos)) continue;
            ap_kv_truncate(t, pos);
            f->pos[i] = pos;
        } else if (op == 8 && i != j) {
            ap_kv_clear(&f->t[j]);
            ap_kv_fork(&f->t[j], t);
            f->pos[j] = f->pos[i];
            memcpy(f->value[j], f->value[i], sizeof f->value[i]);
        } else if (op == 9 && round % 7 == 0) {
            ap_kv_clear(t);
            f->pos[i] = 0;
        }
        for (int k = 0; k < TABLES; k++) check(f, k, f->pos[k]);
    }
    finish(f);
    free(f);
}

static void needed_pages_stay(void **state)
{
    (void)state;
    static const int windows[] = {0, 1, 2, 3, 63, 64, 65, 66, 100, 128, 129, 500, 3000};
    static const int chunks[] = {1, 2, 7, 63, 64, 65, 300};
    for (int w = 0; w < 13; w++)
        for (int c = 0; c < 7; c++) simulate(windows[w], chunks[c], (uint64_t)(w * 10 + c));
}

/* The cap is what the worst position needs, not more: brute force over all alignments. */
static void cap_is_the_worst_case(void **state)
{
    (void)state;
    for (int window = 1; window < 200; window += 3)
        for (int chunk = 1; chunk < 200; chunk += 7) {
            int step = 0, hold = 0;
            for (int pos = 1000; pos < 1064; pos++) {
                int s = (pos + chunk - 1) / AP_PAGE - (pos - window + 1) / AP_PAGE + 1;
                int h = window > 1 ? (pos - 1) / AP_PAGE - (pos - window + 1) / AP_PAGE + 1 : 0;
                step = s > step ? s : step;
                hold = h > hold ? h : hold;
            }
            assert_int_equal(ap_kv_cap(1 << 20, window, chunk), step + hold);
        }
    assert_int_equal(ap_kv_cap(65, 0, 1), 2);
    assert_int_equal(ap_kv_cap(65, 1000, 512), 2);
    assert_int_equal(ap_kv_entries(INT32_MAX), 33554432);
    assert_int_equal(ap_kv_cap(INT32_MAX, INT32_MAX, 65536), 33554432);
}

static void absent_groups_do_nothing(void **state)
{
    (void)state;
    ap_kv_table t, u;
    ap_kv_init(&t, NULL, NULL, 100, 0, 0);
    ap_kv_init(&u, NULL, NULL, 100, 0, 0);
    ap_kv_hold(&t, 50);
    ap_kv_prepare(&t, 50, 10);
    ap_kv_truncate(&t, 10);
    ap_kv_keep_held(&t);
    ap_kv_fork(&u, &t);
    ap_kv_mark(&t, 9);
    ap_kv_release(&t);
    assert_true(ap_kv_ready(&t, 90));
    ap_kv_clear(&t);
    assert_int_equal(t.held, 0);
}

static void slabs_count_references(void **state)
{
    (void)state;
    apus_diag diag;
    ap_slab s;
    assert_int_equal(ap_slab_create(&s, dev, 2, 64, "blocks", &diag), APUS_OK);
    int32_t a = ap_slab_take(&s), b = ap_slab_take(&s);
    assert_true(a >= 0 && b >= 0 && a != b);
    assert_int_equal(ap_slab_take(&s), -1);
    ap_slab_share(&s, a);
    ap_slab_drop(&s, a);
    assert_int_equal(s.n_free, 0);
    ap_slab_drop(&s, a);
    assert_int_equal(s.n_free, 1);
    assert_int_equal(ap_slab_take(&s), a);
    assert_int_equal((uintptr_t)ap_slab_at(&s, 1) % AP_ALIGN, 0);
    ap_slab_destroy(&s);
    assert_int_equal(ap_slab_create(&s, dev, INT32_MAX, SIZE_MAX / 4, "blocks", &diag),
                     APUS_ENOMEM);
    assert_non_null(strstr(diag.text, "blocks"));
    assert_int_equal(ap_slab_create(&s, dev, 1 << 20, (size_t)1 << 40, "blocks", &diag),
                     APUS_ENOMEM);
    ap_slab_destroy(&s);
}

static int open_device(void **state)
{
    apus_diag diag;
    (void)state;
    return ap_device_cpu(APUS_CPU_REF, 1, &dev, &diag);
}

static int close_device(void **state)
{
    (void)state;
    dev->op->destroy(dev);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(needed_pages_stay),
        cmocka_unit_test(cap_is_the_worst_case),
        cmocka_unit_test(absent_groups_do_nothing),
        cmocka_unit_test(slabs_count_references),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
