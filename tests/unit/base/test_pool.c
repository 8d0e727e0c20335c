#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "base/pool.h"

enum { MAX_TASKS = 1000, MAX_WORKERS = 8 };

static atomic_int seen[MAX_TASKS];
static atomic_int inside[MAX_WORKERS];
static atomic_int broken;
static int plain[MAX_TASKS]; /* not atomic: the pool must order these */

static void task(void *arg, int t, int worker)
{
    if (atomic_fetch_add(&inside[worker], 1)) atomic_store(&broken, 1);
    atomic_fetch_add(&seen[t], 1);
    plain[t] = *(int *)arg + t;
    atomic_fetch_sub(&inside[worker], 1);
}

static void run_jobs(int threads, int jobs, int pause_us)
{
    ap_pool *p;
    apus_diag d;
    assert_int_equal(ap_pool_create(threads, &p, &d), APUS_OK);
    assert_int_equal(ap_pool_threads(p), threads);
    for (int j = 0; j < jobs; j++) {
        int n = 1 + j * 37 % MAX_TASKS;
        if (jobs > 500) n = 1 + j % 13;
        for (int i = 0; i < n; i++) atomic_store(&seen[i], 0);
        ap_pool_run(p, task, &j, n);
        for (int i = 0; i < n; i++) {
            assert_int_equal(atomic_load(&seen[i]), 1);
            assert_int_equal(plain[i], j + i);
        }
        if (pause_us && j % 3 == 0) nanosleep(&(struct timespec){0, (long)pause_us * 1000}, NULL);
    }
    ap_pool_run(p, task, &jobs, 0);
    ap_pool_free(p);
    assert_int_equal(atomic_load(&broken), 0);
}

static void test_every_task_once(void **state)
{
    (void)state;
    for (int threads = 1; threads <= MAX_WORKERS; threads++) run_jobs(threads, 60, 0);
    run_jobs(2, 20000, 0);
}

/* Pauses around the length of the spin hit the moments of falling asleep and waking. */
static void test_sleeping_workers(void **state)
{
    (void)state;
    for (int us = 20; us <= 120; us += 20) run_jobs(3, 100, us);
    run_jobs(2, 30, 2000);
}

static void test_create_and_free(void **state)
{
    (void)state;
    for (int i = 0; i < 100; i++) {
        ap_pool *p;
        assert_int_equal(ap_pool_create(1 + i % 4, &p, NULL), APUS_OK);
        ap_pool_free(p);
    }
    ap_pool_free(NULL);
}

static void test_arguments(void **state)
{
    (void)state;
    ap_pool *p = NULL;
    apus_diag d;
    assert_int_equal(ap_pool_create(-1, &p, &d), APUS_EINVAL);
    assert_non_null(strstr(d.text, "threads"));
    assert_int_equal(ap_pool_create(100000, &p, &d), APUS_EINVAL);
    assert_null(p);
    assert_true(ap_pool_default_threads() >= 1);
    assert_int_equal(ap_pool_create(0, &p, &d), APUS_OK);
    assert_int_equal(ap_pool_threads(p), ap_pool_default_threads());
    ap_pool_free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_task_once),
        cmocka_unit_test(test_sleeping_workers),
        cmocka_unit_test(test_create_and_free),
        cmocka_unit_test(test_arguments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
