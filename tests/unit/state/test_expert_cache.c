/* Which expert goes when another comes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/rng.h"
#include "state/expert_cache.h"

enum { LAYERS = 3, EXPERTS = 6 };

/* Use an expert as a layer does: it is there, or it takes a slot. Returns whether it was there. */
static bool use(ap_expert_cache *c, int layer, int expert)
{
    ap_expert_cache_use(c, layer, expert);
    int s = ap_expert_cache_find(c, layer, expert);
    if (s >= 0) return true;
    s = ap_expert_cache_take(c, layer, expert);
    assert_true(s >= 0);
    assert_int_equal(ap_expert_cache_find(c, layer, expert), s);
    ap_expert_cache_pin(c, s, false);
    return false;
}

static bool step_with(ap_expert_cache *c, int layer, int expert)
{
    ap_expert_cache_step(c, layer);
    return use(c, layer, expert);
}

/* With a short half-life the one goes whose last use is longest ago. */
static void the_oldest_goes(void **state)
{
    (void)state;
    ap_expert_cache *c = ap_expert_cache_create(1, 1, EXPERTS, 2, 0.01);
    for (int i = 0; i < 5; i++) step_with(c, 0, 0);
    step_with(c, 0, 1);
    assert_false(step_with(c, 0, 2));
    assert_int_equal(ap_expert_cache_find(c, 0, 0), -1);
    assert_true(step_with(c, 0, 1));
    ap_expert_cache_free(c);
}

/* With a long one it is the rarest, until its uses are long ago. */
static void the_rarest_goes(void **state)
{
    (void)state;
    ap_expert_cache *c = ap_expert_cache_create(1, 1, EXPERTS, 2, 100);
    for (int i = 0; i < 5; i++) step_with(c, 0, 0);
    step_with(c, 0, 1);
    assert_false(step_with(c, 0, 2));
    assert_int_equal(ap_expert_cache_find(c, 0, 1), -1);
    assert_true(step_with(c, 0, 0));
    for (int i = 0; i < 1000; i++) ap_expert_cache_step(c, 0);
    step_with(c, 0, 2);
    step_with(c, 0, 1);
    assert_int_equal(ap_expert_cache_find(c, 0, 0), -1);
    ap_expert_cache_free(c);
}

/* A layer takes what others leave and gives it back when they come, down to its share. */
static void layers_share(void **state)
{
    (void)state;
    ap_expert_cache *c = ap_expert_cache_create(LAYERS, LAYERS, EXPERTS, 6, 10);
    for (int e = 0; e < EXPERTS; e++) step_with(c, 0, e);
    for (int e = 0; e < EXPERTS; e++) assert_true(ap_expert_cache_find(c, 0, e) >= 0);
    for (int l = 1; l < LAYERS; l++)
        for (int e = 0; e < EXPERTS; e++) step_with(c, l, e);
    for (int l = 0; l < LAYERS; l++) {
        int n = 0;
        for (int e = 0; e < EXPERTS; e++) n += ap_expert_cache_find(c, l, e) >= 0;
        assert_int_equal(n, 2);
    }
    ap_expert_cache_free(c);
}

/* A prompt that uses all experts again and again finds those that stayed. */
static void scans_find_something(void **state)
{
    (void)state;
    ap_expert_cache *c = ap_expert_cache_create(1, 1, EXPERTS, 4, 32);
    int hits = 0;
    for (int round = 0; round < 10; round++) {
        ap_expert_cache_step(c, 0);
        for (int e = 0; e < EXPERTS; e++) hits += use(c, 0, e);
    }
    assert_true(hits >= 9 * 3);
    ap_expert_cache_free(c);
}

static void pinned_ones_stay(void **state)
{
    (void)state;
    ap_expert_cache *c = ap_expert_cache_create(2, 2, EXPERTS, 2, 10);
    int a = ap_expert_cache_take(c, 0, 3), b = ap_expert_cache_take(c, 0, 4);
    assert_true(a >= 0 && b >= 0 && a != b);
    assert_int_equal(ap_expert_cache_take(c, 1, 0), -1);
    ap_expert_cache_drop(c, b); /* it did not come */
    assert_int_equal(ap_expert_cache_find(c, 0, 4), -1);
    assert_int_equal(ap_expert_cache_take(c, 1, 0), b);
    assert_int_equal(ap_expert_cache_find(c, 0, 3), a);
    ap_expert_cache_free(c);
}

/* Whatever happens, no slot has two experts and no expert two slots. */
static void at_random(void **state)
{
    (void)state;
    enum { SLOTS = 7 };
    ap_expert_cache *c = ap_expert_cache_create(LAYERS, LAYERS - 1, EXPERTS, SLOTS, 3);
    ap_rng rng;
    ap_rng_seed(&rng, 5);
    for (int i = 0; i < 20000; i++) {
        int l = (int)(ap_rng_next(&rng) % LAYERS), e = (int)(ap_rng_next(&rng) % EXPERTS);
        if (ap_rng_next(&rng) % 3 == 0) ap_expert_cache_step(c, l);
        use(c, l, e);
        int owner[SLOTS] = {0}, n = 0;
        for (int k = 0; k < LAYERS * EXPERTS; k++) {
            int s = ap_expert_cache_find(c, k / EXPERTS, k % EXPERTS);
            if (s < 0) continue;
            assert_true(s < SLOTS);
            assert_int_equal(owner[s]++, 0);
            n++;
        }
        assert_true(n <= SLOTS);
    }
    ap_expert_cache_free(c);
}

/* A slot of a layer that is done with it. */
static void another_layers_slot(void **state)
{
    (void)state;
    ap_expert_cache *c = ap_expert_cache_create(LAYERS, LAYERS, EXPERTS, 3, 100);
    step_with(c, 0, 0);
    step_with(c, 0, 1);
    step_with(c, 0, 1);
    assert_true(ap_expert_cache_take_from(c, 1, 4, 0) >= 0); /* the free one */
    int s = ap_expert_cache_take_from(c, 1, 5, 0);
    assert_true(s >= 0);
    assert_int_equal(ap_expert_cache_find(c, 0, 0), -1); /* the rarest */
    assert_true(ap_expert_cache_find(c, 0, 1) >= 0);
    ap_expert_cache_pin(c, ap_expert_cache_find(c, 0, 1), true);
    assert_int_equal(ap_expert_cache_take_from(c, 1, 3, 0), -1);
    assert_int_equal(ap_expert_cache_take_from(c, 1, 3, 2), -1);
    assert_true(ap_expert_cache_find(c, 1, 4) >= 0);
    ap_expert_cache_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_oldest_goes),
        cmocka_unit_test(the_rarest_goes),
        cmocka_unit_test(another_layers_slot),
        cmocka_unit_test(layers_share),
        cmocka_unit_test(scans_find_something),
        cmocka_unit_test(pinned_ones_stay),
        cmocka_unit_test(at_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
