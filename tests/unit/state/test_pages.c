/* Dividing a budget, and blocks that run out: what is kept without need is given back first. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "state/kv.h"
#include "state/pages.h"
#include "state/recur.h"

static ap_device *dev;

static void open_slab(ap_slab *s, int n)
{
    if (!dev) assert_int_equal(ap_device_cpu(APUS_CPU_REF, 1, &dev, NULL), APUS_OK);
    assert_int_equal(ap_slab_create(s, dev, n, 64 * sizeof(float), "KV pages", NULL), APUS_OK);
}

static void budgets_are_divided(void **state)
{
    (void)state;
    const ap_pages_kind want[AP_PAGES_KINDS] = {{.block_bytes = 100, .least = 10, .most = 40},
                                                {0},
                                                {.block_bytes = 1000, .least = 8, .most = 24}};
    ap_pages_kind k[AP_PAGES_KINDS];
    uint64_t least;
    memcpy(k, want, sizeof k);
    assert_true(ap_pages_split(k, 0, &least));
    assert_int_equal(k[0].n, 40);
    assert_int_equal(k[1].n, 0);
    assert_int_equal(k[2].n, 24);
    assert_false(ap_pages_split(k, 8999, &least));
    assert_int_equal(least, 9000);
    assert_true(ap_pages_split(k, 9000, &least));
    assert_int_equal(k[0].n, 10);
    assert_int_equal(k[2].n, 8);
    for (uint64_t bytes = 9000; bytes < 200000; bytes += 777) {
        assert_true(ap_pages_split(k, bytes, &least));
        uint64_t sum = k[0].n * 100 + k[2].n * 1000;
        assert_true(sum <= bytes && sum + 1100 >= bytes);
        assert_true(k[0].n >= 10 && k[2].n >= 8);
        if (bytes >= 28000) assert_true(k[0].n >= 39 && k[2].n >= 23);
    }
    k[0].most = SIZE_MAX / 2;
    assert_false(ap_pages_split(k, 0, &least));
    assert_int_equal(least, 0);
}

/* A keeper of blocks that nobody needs. */
typedef struct keeper {
    int32_t block[8];
    int n, asked;
} keeper;

static bool give_one(void *ctx, ap_slab *s)
{
    keeper *k = ctx;
    k->asked++;
    if (!k->n) return false;
    ap_slab_drop(s, k->block[--k->n]);
    return true;
}

static void kept_blocks_are_given_back(void **state)
{
    (void)state;
    ap_slab s;
    keeper k = {0};
    int32_t got[8];
    open_slab(&s, 8);
    for (k.n = 0; k.n < 5; k.n++) k.block[k.n] = ap_slab_take(&s);
    s.evict = give_one;
    s.evict_ctx = &k;
    for (int i = 0; i < 8; i++) {
        got[i] = ap_slab_take(&s);
        assert_true(got[i] >= 0);
        assert_int_equal(k.asked, i < 3 ? 0 : i - 2);
    }
    assert_int_equal(ap_slab_take(&s), -1);
    for (int i = 0; i < 8; i++) ap_slab_drop(&s, got[i]);
    apus_diag d;
    assert_int_equal(ap_slab_short(&s, 3, &d), APUS_ENOMEM);
    assert_non_null(strstr(d.text, "KV pages: 3 more"));
    assert_non_null(strstr(d.text, "0 of all 8"));
    ap_slab_destroy(&s);
}

/* A table that finds no page gives up its own old ones, tells what is missing, and has lost nothing it needs. */
static void tables_tell_what_is_missing(void **state)
{
    (void)state;
    ap_slab s;
    ap_kv_table t;
    int32_t page[40];
    open_slab(&s, 5);
    ap_kv_init(&t, &s, page, 40 * AP_PAGE, 0, 40);
    assert_int_equal(ap_kv_prepare(&t, 0, 3 * AP_PAGE), 0);
    assert_int_equal(ap_kv_prepare(&t, 3 * AP_PAGE, 6 * AP_PAGE), 4);
    assert_true(ap_kv_ready(&t, 3 * AP_PAGE));
    ap_kv_truncate(&t, 3 * AP_PAGE);
    assert_int_equal(s.n_free, 2);
    int32_t other[40];
    ap_kv_table f;
    ap_kv_init(&f, &s, other, 40 * AP_PAGE, 0, 40);
    ap_kv_fork(&f, &t);
    assert_int_equal(ap_kv_prepare(&f, 0, 3 * AP_PAGE), 1); /* two copies, one shared page left */
    assert_true(ap_kv_ready(&f, 3 * AP_PAGE) && ap_kv_ready(&t, 3 * AP_PAGE));
    ap_kv_clear(&f);
    ap_kv_clear(&t);
    assert_int_equal(s.n_free, 5);
    ap_kv_init(&t, &s, page, 40 * AP_PAGE, AP_PAGE, 20); /* a window: old pages may go */
    for (int pos = 0; pos < 39 * AP_PAGE; pos += AP_PAGE)
        assert_int_equal(ap_kv_prepare(&t, pos, AP_PAGE), 0);
    assert_true(t.held <= 5);
    ap_kv_clear(&t);
    ap_slab_destroy(&s);
}

static void states_make_do(void **state)
{
    (void)state;
    ap_slab s;
    ap_recur a, b;
    open_slab(&s, 3);
    assert_true(ap_recur_init(&a, &s, 64));
    for (int pos = AP_PAGE; pos < 9 * AP_PAGE; pos += AP_PAGE) ap_recur_snapshot(&a, pos, 0);
    assert_int_equal(a.n_snap, 2);    /* as many as there are blocks */
    assert_true(ap_recur_backup(&a)); /* in the place of one */
    assert_int_equal(a.n_snap, 1);
    assert_false(ap_recur_init(&b, &s, 64));
    ap_recur_truncate(&a, 0);
    assert_true(ap_recur_init(&b, &s, 64));
    assert_false(ap_recur_backup(&b));
    ap_recur_clear(&a);
    ap_recur_clear(&b);
    assert_int_equal(s.n_free, 3);
    ap_slab_destroy(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(budgets_are_divided),
        cmocka_unit_test(kept_blocks_are_given_back),
        cmocka_unit_test(tables_tell_what_is_missing),
        cmocka_unit_test(states_make_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
