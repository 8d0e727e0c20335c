/* Recurrent states: backup, snapshots that thin out with age, forks that share them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kern/kern.h"
#include "state/recur.h"

enum { FLOATS = 600000 }; /* more than one piece of the copying */

static ap_slab slab;
static ap_device *dev;

static void open_two(ap_recur *a, ap_recur *b, size_t floats)
{
    apus_diag diag;
    assert_int_equal(ap_device_cpu(APUS_CPU_REF, 2, &dev, &diag), APUS_OK);
    assert_int_equal(
        ap_slab_create(&slab, dev, 2 * AP_RECUR_BLOCKS, floats * sizeof(float), "states", &diag),
        APUS_OK);
    ap_recur_init(a, &slab, floats);
    ap_recur_init(b, &slab, floats);
}

static void close_two(ap_recur *a, ap_recur *b)
{
    ap_recur_clear(a);
    ap_recur_clear(b);
    assert_int_equal(slab.n_free, slab.n_block);
    ap_slab_destroy(&slab);
    dev->op->destroy(dev);
}

static void fill(ap_recur *r, float v)
{
    for (size_t i = 0; i < r->n_float; i++) ap_recur_live(r)[i] = v + (float)(i % 1000);
}

static void is(const ap_recur *r, float v)
{
    for (size_t i = 0; i < r->n_float; i++)
        assert_true(ap_recur_live(r)[i] == v + (float)(i % 1000));
}

static void states_come_back(void **state)
{
    (void)state;
    ap_recur a, b;
    open_two(&a, &b, FLOATS);
    for (size_t i = 0; i < FLOATS; i++) assert_true(ap_recur_live(&a)[i] == 0);
    fill(&a, 1);
    ap_recur_backup(&a);
    fill(&a, 2);
    ap_recur_restore(&a);
    is(&a, 1);
    ap_recur_snapshot(&a, 64, 0);
    fill(&a, 3);
    ap_recur_snapshot(&a, 64, 0); /* there already */
    ap_recur_snapshot(&a, 128, 0);
    assert_int_equal(a.n_snap, 2);
    ap_recur_fork(&b, &a);
    is(&b, 3);
    fill(&a, 4);
    ap_recur_go(&b, 0);
    is(&b, 1);
    ap_recur_go(&b, 1);
    is(&b, 3);
    is(&a, 4);
    assert_int_equal(ap_recur_find(&a, 63, a.n_snap), -1);
    assert_int_equal(ap_recur_find(&a, 64, a.n_snap), 0);
    assert_int_equal(ap_recur_find(&a, 127, a.n_snap), 0);
    assert_int_equal(ap_recur_find(&a, 500, a.n_snap), 1);
    assert_int_equal(ap_recur_find(&a, 500, 1), 0);
    ap_recur_truncate(&a, 127);
    assert_int_equal(a.n_snap, 1);
    ap_recur_truncate(&a, 64);
    assert_int_equal(a.n_snap, 1);
    ap_recur_truncate(&a, 0);
    assert_int_equal(a.n_snap, 0);
    ap_recur_go(&b, 0); /* still there for the fork */
    is(&b, 1);
    close_two(&a, &b);
}

/* After any number of steps: the newest is kept, the prompt's is kept, and going back a distance d
 * costs at most a small multiple of d beyond a few pages. */
static void snapshots_thin_out(void **state)
{
    (void)state;
    ap_recur a, b;
    open_two(&a, &b, 16);
    for (int keep = 0; keep <= 6400; keep += 3200) {
        for (int pos = AP_PAGE; pos <= 64000; pos += AP_PAGE) {
            fill(&a, (float)pos);
            ap_recur_snapshot(&a, pos, keep);
            assert_true(a.n_snap >= 1 && a.n_snap <= AP_SNAPSHOTS);
            assert_int_equal(a.snap[a.n_snap - 1].pos, pos);
            for (int i = 1; i < a.n_snap; i++) assert_true(a.snap[i].pos > a.snap[i - 1].pos);
            if (keep && pos >= keep)
                assert_int_equal(a.snap[ap_recur_find(&a, keep, a.n_snap)].pos, keep);
        }
        /* half, a quarter back or so: something other than the newest and the kept one is left */
        assert_int_equal(a.n_snap, AP_SNAPSHOTS);
        assert_null(ap_recur_put(&a, 64000 + AP_PAGE)); /* there is no room for more */
        assert_true(a.snap[AP_SNAPSHOTS - 2].pos >= 64000 / 2);
        for (int i = 0; i < a.n_snap; i++) {
            ap_recur_go(&a, i);
            is(&a, (float)a.snap[i].pos);
        }
        ap_recur_truncate(&a, 0);
    }
    close_two(&a, &b);
}

static void models_without_states(void **state)
{
    (void)state;
    ap_recur r, f;
    ap_recur_init(&r, NULL, 0);
    ap_recur_init(&f, NULL, 0);
    ap_recur_zero(&r);
    ap_recur_backup(&r);
    ap_recur_restore(&r);
    ap_recur_snapshot(&r, 64, 0);
    ap_recur_fork(&f, &r);
    ap_recur_truncate(&r, 0);
    assert_null(ap_recur_live(&r));
    assert_int_equal(r.n_snap, 0);
    ap_recur_clear(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(states_come_back),
        cmocka_unit_test(snapshots_thin_out),
        cmocka_unit_test(models_without_states),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
