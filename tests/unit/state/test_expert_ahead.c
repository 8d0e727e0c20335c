/* Which experts are read before their layer asks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "state/expert_ahead.h"

enum { EXPERTS = 16 };

static int setup(void **state)
{
    static ap_expert_ahead a;
    *state = &a;
    return !ap_expert_ahead_init(&a, EXPERTS);
}

static int teardown(void **state)
{
    ap_expert_ahead_free(*state);
    return 0;
}

static void nearly_all_mean_all(void **state)
{
    ap_expert_ahead *a = *state;
    ap_expert_ahead_sure(a, 3, EXPERTS * 3 / 4);
    assert_int_equal(ap_expert_ahead_next(a), -1);
    ap_expert_ahead_sure(a, -1, EXPERTS); /* the last layer */
    assert_int_equal(ap_expert_ahead_next(a), -1);
    ap_expert_ahead_sure(a, 3, EXPERTS * 7 / 8);
    assert_false(ap_expert_ahead_may_guess(a));
    for (int e = 0; e < EXPERTS; e++) assert_int_equal(ap_expert_ahead_next(a), e);
    assert_int_equal(ap_expert_ahead_next(a), -1);
    ap_expert_ahead_begun(a, 5);
    assert_true(ap_expert_ahead_has(a, 3, 5));
    assert_false(ap_expert_ahead_has(a, 3, 6));
    assert_false(ap_expert_ahead_has(a, 2, 5));
    ap_expert_ahead_settle(a, 3, 1);
    assert_false(ap_expert_ahead_has(a, 3, 5));
    assert_true(ap_expert_ahead_may_guess(a));
}

/* A guess of four, all read, of which so many are right. */
static bool guess(ap_expert_ahead *a, int right)
{
    bool may = ap_expert_ahead_may_guess(a);
    if (may) {
        ap_expert_ahead_guess(a, 1, (const int32_t[]){9, 2, 4, 7}, 4);
        for (int i = 0; i < 4; i++) ap_expert_ahead_begun(a, ap_expert_ahead_next(a));
    }
    ap_expert_ahead_settle(a, 1, may ? right : 0);
    return may;
}

static void guesses_must_pay(void **state)
{
    ap_expert_ahead *a = *state;
    int made = 0, again = 0;
    for (int i = 0; i < 1000; i++) assert_true(guess(a, 2 + i % 2));
    for (int i = 0; i < 1000; i++) made += guess(a, i % 2);
    assert_true(made > 5 && made < 100);
    for (int i = 0; i < 5000; i++)
        again += guess(a, 4); /* are tried again, and stay if they are right */
    assert_true(again > 500);
    assert_true(guess(a, 4));
}

/* What a layer that nobody guessed for chose says nothing about guesses. */
static void other_layers(void **state)
{
    ap_expert_ahead *a = *state;
    for (int i = 0; i < 200; i++) {
        assert_true(ap_expert_ahead_may_guess(a));
        ap_expert_ahead_guess(a, 1, (const int32_t[]){3}, 1);
        ap_expert_ahead_begun(a, ap_expert_ahead_next(a));
        ap_expert_ahead_settle(a, 2, 0);
    }
    /* more than there are experts: the first ones */
    int32_t many[2 * EXPERTS] = {0};
    ap_expert_ahead_guess(a, 1, many, 2 * EXPERTS);
    int n = 0;
    while (ap_expert_ahead_next(a) >= 0) n++;
    assert_int_equal(n, EXPERTS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(nearly_all_mean_all, setup, teardown),
        cmocka_unit_test_setup_teardown(guesses_must_pay, setup, teardown),
        cmocka_unit_test_setup_teardown(other_layers, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
