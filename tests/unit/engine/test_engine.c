/* Settings, plans, memory refused in time, cancelling from another thread. */
#include <pthread.h>
#include <unistd.h>

#include "base/sysmem.h"
#include "help.h"

static apus_engine_settings defaults(void)
{
    apus_engine_settings s;
    apus_engine_settings_default(&s);
    return s;
}

static void settings_are_checked(void **state)
{
    (void)state;
    apus_model *m = fake_model(true, 0, false);
    apus_engine *e = NULL;
    apus_engine_settings s;
#define REFUSED(change)                                                                            \
    s = defaults();                                                                                \
    change;                                                                                        \
    assert_int_equal(apus_engine_create(m, &s, &e, &diag), APUS_EINVAL)
    REFUSED(s.size = 0);
    REFUSED(s.size = sizeof s + 1);
    REFUSED(s.ctx = -1);
    REFUSED(s.ctx = 1001);
    assert_non_null(strstr(diag.text, "1000"));
    assert_non_null(strstr(diag.text, "1001"));
    REFUSED(s.prefill_chunk = -1);
    REFUSED(s.prefill_chunk = 1 << 20);
    REFUSED(s.max_sessions = 0);
    REFUSED(s.max_sessions = 1 << 20);
    if (fake_host) { /* of CPUs alone */
        REFUSED(s.threads = -1);
        REFUSED(s.cpu = APUS_CPU_NEON);
    }
    assert_int_equal(apus_engine_create(NULL, NULL, &e, &diag), APUS_EINVAL);
    assert_int_equal(apus_engine_create(m, NULL, NULL, &diag), APUS_EINVAL);
    m->impl = NULL;
    assert_int_equal(apus_engine_create(m, NULL, &e, &diag), APUS_EINVAL);
    assert_non_null(strstr(diag.text, "weights"));
    m->impl = (ap_model_impl *)m;
    assert_null(e);
    s = defaults();
    s.size = offsetof(apus_engine_settings, prefill_chunk); /* an older caller */
    s.ctx = 100;
    s.prefill_chunk = s.max_sessions = -5;
    assert_ok(apus_engine_create(m, &s, &e, &diag));
    assert_int_equal(e->size.ctx, 100);
    assert_int_equal(e->size.n_session, 1);
    apus_engine_free(e);
    assert_ok(apus_engine_create(m, NULL, &e, NULL));
    assert_int_equal(e->size.ctx, 1000);
    apus_engine_free(e);
    m->config.context = 100000;
    assert_ok(apus_engine_create(m, NULL, &e, NULL));
    assert_int_equal(e->size.ctx, 8192);
    assert_int_equal(e->size.chunk, 512);
    apus_engine_free(e);
    apus_engine_free(NULL);
    apus_session_free(NULL);
    apus_cancel(NULL);
    fake_model_free(m);
}

static void plans_add_up(void **state)
{
    (void)state;
    apus_model *m = fake_model(true, 100, true);
    apus_engine_settings s = defaults();
    s.ctx = 640;
    s.prefill_chunk = 50;
    s.max_sessions = 3;
    apus_plan p = {.size = sizeof p};
    assert_ok(apus_engine_plan(m, &s, &p, &diag));
    assert_int_equal(p.size, sizeof p);
    assert_int_equal(p.ctx, 640);
    assert_int_equal(p.kv, APUS_KV_BF16);
    assert_int_equal(p.weight_bytes, 12345);
    int slide = 4 + 3; /* 149 and 99 tokens */
    assert_int_equal(p.kv_bytes, 3 * (10 * 64 * 8 + slide * 64 * 16));
    assert_int_equal(p.kv_bytes_per_token, 8 + 16);
    assert_int_equal(p.state_bytes, 3 * AP_RECUR_BLOCKS * 64);
    assert_true(p.scratch_bytes > 3 * 640 * 4 + 4 * 97 * 4);
    assert_int_equal(p.total_bytes,
                     p.weight_bytes + p.kv_bytes + p.state_bytes + p.scratch_bytes + p.other_bytes);
    assert_true(p.other_bytes > 4 << 20 && p.other_bytes < 64 << 20);
    apus_engine *e = NULL;
    assert_ok(apus_engine_create(m, &s, &e, &diag));
    assert_int_equal(e->pages[0].mem_bytes + e->pages[1].mem_bytes, p.kv_bytes);
    assert_int_equal(e->states.mem_bytes, p.state_bytes);
    apus_engine_free(e);
    m->impl = NULL;
    m->packed_bytes = 999;
    assert_ok(apus_engine_plan(m, &s, &p, &diag));
    assert_int_equal(p.weight_bytes, 999);
    apus_plan old = {.size = offsetof(apus_plan, total_bytes), .total_bytes = 42};
    assert_ok(apus_engine_plan(m, &s, &old, &diag));
    assert_int_equal(old.total_bytes, 42);
    old.size = 0;
    assert_int_equal(apus_engine_plan(m, &s, &old, &diag), APUS_EINVAL);
    s.ctx = 5000;
    assert_int_equal(apus_engine_plan(m, &s, &p, &diag), APUS_EINVAL);
    s.ctx = 640;
    s.kv = APUS_KV_Q8;
    assert_ok(apus_engine_plan(m, &s, &p, &diag));
    assert_int_equal(p.kv, APUS_KV_Q8);
    s.kv = (apus_kv)4;
    assert_int_equal(apus_engine_plan(m, &s, &p, &diag), APUS_EINVAL);
    s.kv = APUS_KV_AUTO;
    m->precision = APUS_PRECISION_EXACT;
    assert_ok(apus_engine_plan(m, &s, &p, &diag));
    assert_int_equal(p.kv, APUS_KV_F32);
    fake_model_free(m);
}

static uint64_t need_of(const apus_model *m, const apus_engine_settings *s, const ap_exec *ex,
                        ap_sizes *z)
{
    assert_ok(ap_sizes_make(m, s, ex, z, &diag));
    return (uint64_t)z->kv_bytes + z->state_bytes + z->scratch_bytes;
}

/* Advice is taken: what a refusal names fits indeed, and one step more would not. */
static void refusals_name_what_fits(void **state)
{
    (void)state;
    apus_model *m = fake_model(true, 0, true);
    m->config.context = 1 << 20;
    ap_exec ex = {.k = m->dev->kern, .dev = m->dev};
    ap_sizes z;
    apus_engine_settings s = defaults();
    s.ctx = 100000;
    s.prefill_chunk = 4096;
    uint64_t need = need_of(m, &s, &ex, &z);
    assert_ok(ap_fit_engine(m, &s, &ex, &z, need, 0, &diag));
    assert_ok(ap_fit_engine(m, &s, &ex, &z, 0, 0, &diag)); /* not known */
    assert_ok(ap_fit_engine(m, &s, &ex, &z, need + 1000, 1000, &diag));
    assert_int_equal(ap_fit_engine(m, &s, &ex, &z, need + 999, 1000, &diag), APUS_ENOMEM);
    assert_non_null(strstr(diag.text, "of which the weights take"));
    assert_int_equal(ap_fit_engine(m, &s, &ex, &z, 999, 1000, &diag), APUS_ENOMEM);
    uint64_t have = need * 2 / 3;
    assert_int_equal(ap_fit_engine(m, &s, &ex, &z, have, 0, &diag), APUS_ENOMEM);
    const char *at = strstr(diag.text, "would fit: ctx ");
    assert_non_null(at);
    s.ctx = atoi(at + strlen("would fit: ctx "));
    assert_true(s.ctx > 50000 && s.ctx < 100000);
    assert_true(need_of(m, &s, &ex, &z) <= have);
    s.ctx += 256;
    assert_true(need_of(m, &s, &ex, &z) > have);

    s.ctx = 2000;
    need = need_of(m, &s, &ex, &z);
    assert_int_equal(ap_fit_engine(m, &s, &ex, &z, need - 1, 0, &diag), APUS_ENOMEM);
    at = strstr(diag.text, "prefill_chunk ");
    assert_non_null(at);
    s.prefill_chunk = atoi(at + strlen("prefill_chunk "));
    assert_true(need_of(m, &s, &ex, &z) < need);
    assert_int_equal(ap_fit_engine(m, &s, &ex, &z, 1, 0, &diag), APUS_ENOMEM);
    assert_non_null(strstr(diag.text, "no setting would fit"));
    fake_model_free(m);
}

static void weights_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    const uint64_t b = 1000000000;
    assert_ok(ap_fit_weights("dir", 16 * b, 8 * b, 16 * b, &diag));
    assert_ok(ap_fit_weights("dir", 16 * b, 8 * b, 0, &diag));
    assert_int_equal(ap_fit_weights("dir", 16 * b, 8 * b, 10 * b, &diag), APUS_ENOMEM);
    assert_non_null(
        strstr(diag.text, "dir: the weights take 16.000 GB in memory (16.0 bits each), 10.000 GB"));
    assert_non_null(strstr(diag.text, "with q8_0 weights it would take about 8.500 GB"));
    assert_int_equal(ap_fit_weights("dir", 16 * b, 8 * b, 5 * b, &diag), APUS_ENOMEM);
    assert_non_null(strstr(diag.text, "q4_k"));
    assert_int_equal(ap_fit_weights("dir", 16 * b, 8 * b, b, &diag), APUS_ENOMEM);
    assert_non_null(strstr(diag.text, "smaller model"));
}

static void too_much_is_refused_with_numbers(void **state)
{
    (void)state;
    assert_true(ap_memory_total() > 0);
    assert_true(ap_memory_available() > 0);
    assert_true(ap_memory_available() <= ap_memory_total());
    apus_model *m = fake_model(true, 0, true);
    m->config.context = 1 << 30;
    apus_engine_settings s = defaults();
    s.ctx = 1 << 30;
    s.max_sessions = 100;
    apus_engine *e = NULL;
    assert_int_equal(apus_engine_create(m, &s, &e, &diag), APUS_ENOMEM);
    assert_non_null(strstr(diag.text, "1073741824 tokens"));
    assert_non_null(strstr(diag.text, "available"));
    s.max_sessions = 4096; /* more blocks than numbers */
    assert_int_equal(apus_engine_create(m, &s, &e, &diag), APUS_ENOMEM);
    assert_null(e);
    fake_model_free(m);
}

typedef struct race {
    apus_engine *e;
    volatile int stop;
} race;

static void *canceller(void *arg)
{
    race *r = arg;
    while (!__atomic_load_n(&r->stop, __ATOMIC_RELAXED)) {
        apus_cancel(r->e);
        usleep(50);
    }
    return NULL;
}

/* Another thread cancels all the time: calls either finish or leave everything as it was. */
static void cancel_from_a_thread(void **state)
{
    (void)state;
    apus_model *m = fake_model(true, 40, true);
    apus_engine *e = help_engine(m, 400, 16, 1);
    race r = {.e = e};
    pthread_t t;
    oracle o;
    oracle_init(&o, 400);
    apus_session *s = NULL;
    assert_ok(apus_session_create(e, &s, &diag));
    int32_t tok[60];
    for (int i = 0; i < 60; i++) tok[i] = i;
    assert_int_equal(pthread_create(&t, NULL, canceller, &r), 0);
    int cancelled = 0, finished = 0;
    for (int i = 0; i < 400; i++) {
        int n = i % 3 ? 60 : 1;
        if (apus_session_room(s) < n) {
            while (apus_session_rewind(s, 3, &diag)) {}
            oracle_rewind(&o, 3);
        }
        float logits[97], want[97];
        apus_err err = apus_session_feed(s, tok, n, logits, &diag);
        assert_true(err == APUS_OK || err == APUS_ECANCELLED);
        cancelled += err != 0;
        finished += err == 0;
        for (int j = 0; j < n && !err; j++) oracle_push(&o, tok[j]);
        oracle_logits(&o, want);
        if (!err) assert_memory_equal(logits, want, sizeof want);
        assert_int_equal(apus_session_pos(s), o.pos);
    }
    __atomic_store_n(&r.stop, 1, __ATOMIC_RELAXED);
    pthread_join(t, NULL);
    assert_true(finished > 0);
    (void)cancelled; /* how many is up to the scheduler */
    assert_int_equal(fake.faults, 0);
    oracle_free(&o);
    apus_engine_free(e);
    fake_model_free(m);
}

int main(int argc, char **argv)
{
    help_args(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(settings_are_checked),
        cmocka_unit_test(plans_add_up),
        cmocka_unit_test(refusals_name_what_fits),
        cmocka_unit_test(weights_that_do_not_fit_are_refused),
        cmocka_unit_test(too_much_is_refused_with_numbers),
        cmocka_unit_test(cancel_from_a_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
