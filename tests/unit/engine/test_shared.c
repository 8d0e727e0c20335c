/* A store that schedulers share: what one computed the others begin with, to the same bits; and no store, however
 * slow, broken or hostile, changes an answer. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "engine/sched.h"
#include "help.h"

enum { CTX = 300, MOST = 4096 };

/* ---------------------------------------------------------------- a store in memory */

typedef struct record {
    char name[40];
    uint8_t *data;
    size_t bytes;
} record;

typedef struct shelf {
    pthread_mutex_t lock;
    record item[MOST];
    int n;
    /* looked at and changed while porters are at work */
    atomic_int gets, puts, hits;
    atomic_uint delay_us; /* of each call */
    atomic_bool dead;     /* nothing can be had */
    atomic_bool liar;     /* everything is there, and what comes is noise */
    atomic_long spoil;    /* >= 0: a bit of what comes is turned there */
    atomic_long cut;      /* >= 0: what comes ends there */
    atomic_int swap;      /* 1: another record comes than was asked for */
} shelf;

static shelf box;

static record *find(const char *name)
{
    for (int i = 0; i < box.n; i++)
        if (!strcmp(box.item[i].name, name)) return &box.item[i];
    return NULL;
}

static bool has(void *ctx, const char *const *names, int n, bool *there)
{
    assert_ptr_equal(ctx, &box);
    usleep(box.delay_us);
    if (box.dead) return false;
    pthread_mutex_lock(&box.lock);
    for (int i = 0; i < n; i++) there[i] = box.liar || find(names[i]);
    pthread_mutex_unlock(&box.lock);
    return true;
}

static size_t noise(uint8_t *data, size_t cap)
{
    for (size_t i = 0; i < cap; i++) data[i] = (uint8_t)(i * 37 + 11);
    return cap;
}

static size_t get(void *ctx, const char *name, void *data, size_t cap)
{
    assert_ptr_equal(ctx, &box);
    usleep(box.delay_us);
    box.gets++;
    if (box.liar) return noise(data, cap);
    if (box.dead) return 0;
    pthread_mutex_lock(&box.lock);
    const record *r = find(name);
    size_t n = r ? r->bytes : 0;
    if (r && box.swap) r = &box.item[(size_t)(r - box.item + 1) % (size_t)box.n], n = r->bytes;
    if (n > cap) n = 0;
    if (n) memcpy(data, r->data, n);
    box.hits += n > 0;
    if (n && box.spoil >= 0) ((uint8_t *)data)[(size_t)box.spoil % n] ^= 4;
    if (n && box.cut >= 0) n = (size_t)box.cut % n;
    pthread_mutex_unlock(&box.lock);
    return n;
}

static void put(void *ctx, const char *name, const void *data, size_t bytes)
{
    assert_ptr_equal(ctx, &box);
    usleep(box.delay_us);
    if (box.dead) return;
    pthread_mutex_lock(&box.lock);
    box.puts++;
    assert_true(strlen(name) < sizeof box.item[0].name && box.n < MOST);
    if (!find(name)) {
        record *r = &box.item[box.n++];
        strcpy(r->name, name);
        r->data = malloc(bytes);
        memcpy(r->data, data, bytes);
        r->bytes = bytes;
    }
    pthread_mutex_unlock(&box.lock);
}

static void empty_box(void)
{
    for (int i = 0; i < box.n; i++) free(box.item[i].data);
    box = (shelf){.lock = PTHREAD_MUTEX_INITIALIZER, .spoil = -1, .cut = -1};
}

/* ---------------------------------------------------------------- schedulers */

static int wait_us = 1000000;

static apus_scheduler *open_sched(const apus_model *m, uint64_t kv_bytes)
{
    apus_engine_settings es;
    apus_scheduler_settings set;
    apus_store store = {.size = sizeof store, .ctx = &box, .has = has, .get = get, .put = put};
    apus_engine_settings_default(&es);
    apus_scheduler_settings_default(&set);
    es.ctx = CTX;
    es.max_sessions = 2;
    es.threads = 1;
    es.kv_bytes = kv_bytes;
    set.engine = &es;
    set.store = &store;
    set.store_wait_us = wait_us;
    apus_scheduler *s = NULL;
    assert_ok(apus_scheduler_create(m, &set, &s, &diag));
    return s;
}

typedef struct ask {
    int32_t prompt[CTX], got[CTX];
    int n, n_got, cached;
} ask;

static ask make_ask(int n, int kind)
{
    ask a = {.n = n};
    for (int i = 0; i < n; i++) a.prompt[i] = (i * (kind + 2) + kind) % 97;
    return a;
}

static apus_request *submit(apus_scheduler *s, const ask *a, const apus_sampling *way)
{
    apus_request *r;
    apus_request_settings set;
    apus_request_settings_default(&set);
    set.prompt = a->prompt;
    set.n_prompt = a->n;
    set.max_tokens = 9;
    set.sampling = way;
    set.no_text = set.ignore_eos = true;
    assert_ok(apus_request_submit(s, &set, &r, &diag));
    return r;
}

static void hear(apus_request *r, ask *a)
{
    apus_request_event ev = {.size = sizeof ev};
    a->n_got = 0;
    do {
        assert_true(apus_request_take(r, -1, &ev));
        if (ev.kind == APUS_REQUEST_TOKENS) {
            memcpy(a->got + a->n_got, ev.ids, (size_t)ev.n_ids * sizeof *ev.ids);
            a->n_got += ev.n_ids;
        }
    } while (ev.kind != APUS_REQUEST_FINISHED);
    assert_int_equal(ev.finish, APUS_FINISH_LENGTH);
    a->cached = ev.usage->n_cached;
    apus_request_free(r);
}

static void run(apus_scheduler *s, ask *a)
{
    apus_sampling way;
    apus_sampling_default(&way);
    way.temperature = 0;
    hear(submit(s, a, &way), a);
}

/* A process of its own, in which this is the first request: what it says is what the model says. */
static int cached_elsewhere(const apus_model *m, const ask *want)
{
    apus_scheduler *s = open_sched(m, 0);
    ask a = *want;
    run(s, &a);
    apus_scheduler_free(s);
    assert_int_equal(a.n_got, want->n_got);
    assert_memory_equal(a.got, want->got, (size_t)a.n_got * sizeof *a.got);
    assert_int_equal(fake.faults, 0);
    return a.cached;
}

static apus_scheduler_stats stats_of(apus_scheduler *s)
{
    apus_scheduler_stats t = {.size = sizeof t};
    apus_scheduler_stats_get(s, &t);
    return t;
}

static void wait_for_puts(apus_scheduler *s, int n)
{
    for (int i = 0; i < 5000 && box.puts < n; i++) usleep(1000);
    assert_true(box.puts >= n);
    (void)s;
}

/* ---------------------------------------------------------------- tests */

static const struct {
    bool full;
    int window;
    bool recur;
} kinds[] = {
    {true, 0, false}, {true, 50, false}, {true, 0, true}, {true, 90, true}, {false, 0, true}};

static void one_begins_with_what_another_computed(void **state)
{
    (void)state;
    for (int k = 0; k < 5; k++) {
        apus_model *m = fake_model(kinds[k].full, kinds[k].window, kinds[k].recur);
        empty_box();
        ask a = make_ask(250, k);
        apus_scheduler *s = open_sched(m, 0);
        run(s, &a);
        assert_int_equal(a.cached, 0);
        wait_for_puts(s, kinds[k].full ? 3 : 1);
        apus_scheduler_free(s); /* which hands over the rest */
        assert_int_equal(cached_elsewhere(m, &a), 192);
        m->fingerprint++; /* of another model nothing is taken */
        ask b = make_ask(250, k);
        s = open_sched(m, 0);
        run(s, &b);
        assert_int_equal(b.cached, 0);
        apus_scheduler_free(s);
        fake_model_free(m);
    }
    empty_box();
}

/* Both live: the next turn of a conversation goes to the other one. */
static void turns_change_places(void **state)
{
    (void)state;
    for (int k = 0; k < 5; k++) {
        apus_model *m = fake_model(kinds[k].full, kinds[k].window, kinds[k].recur);
        empty_box();
        apus_scheduler *s[2] = {open_sched(m, 0), open_sched(m, 0)};
        ask a = make_ask(100, k);
        for (int turn = 0; turn < 8; turn++) {
            ask alone = a;
            run(s[turn % 2], &a);
            usleep(30000); /* what is handed over has to arrive */
            if (turn > 1) assert_true(a.cached >= (a.n - 60) / 64 * 64);
            box.dead = true;
            apus_scheduler *fresh = open_sched(m, 0);
            run(fresh, &alone);
            apus_scheduler_free(fresh);
            box.dead = false;
            assert_memory_equal(a.got, alone.got, 9 * sizeof *a.got);
            memcpy(a.prompt + a.n, a.got, 9 * sizeof *a.got);
            a.n += 9;
            for (int i = 0; i < 12; i++) a.prompt[a.n++] = (turn * 31 + i) % 97;
        }
        assert_true(stats_of(s[0]).store_tokens + stats_of(s[1]).store_tokens > 0);
        assert_int_equal(stats_of(s[0]).store_errors + stats_of(s[1]).store_errors, 0);
        for (int i = 0; i < 2; i++) apus_scheduler_free(s[i]);
        fake_model_free(m);
    }
    empty_box();
}

static void bad_records_are_not_used(void **state)
{
    (void)state;
    for (int k = 0; k < 5; k++) {
        apus_model *m = fake_model(kinds[k].full, kinds[k].window, kinds[k].recur);
        empty_box();
        ask a = make_ask(250, k);
        apus_scheduler *s = open_sched(m, 0);
        run(s, &a);
        apus_scheduler_free(s);
        size_t longest = 0;
        for (int i = 0; i < box.n; i++)
            if (box.item[i].bytes > longest) longest = box.item[i].bytes;
        for (long at = 0; at < (long)longest; at += at < 400 ? 1 : 97) {
            box.spoil = at;
            assert_int_equal(cached_elsewhere(m, &a), 0);
            box.spoil = -1;
        }
        for (long at = 0; at < (long)longest; at += at < 400 ? 7 : 97) {
            box.cut = at;
            int cached = cached_elsewhere(m, &a);
            assert_true(cached == 0 || at % (long)longest == 0);
            box.cut = -1;
        }
        box.swap = 1;
        cached_elsewhere(m, &a);
        box.swap = 0;
        box.liar = true;
        assert_int_equal(cached_elsewhere(m, &a), 0);
        box.liar = false;
        assert_true(cached_elsewhere(m, &a) > 0);
        fake_model_free(m);
    }
    empty_box();
}

/* A store that answers late or never is a cache without anything in it. */
static void slow_stores_hold_nobody_up(void **state)
{
    (void)state;
    apus_model *m = fake_model(true, 0, true);
    empty_box();
    ask a = make_ask(250, 1);
    apus_scheduler *s = open_sched(m, 0);
    run(s, &a);
    apus_scheduler_free(s);
    wait_us = 20000;
    box.delay_us = 200000;
    s = open_sched(m, 0);
    ask b = a;
    int64_t begin = ap_time_us();
    run(s, &b);
    assert_true(ap_time_us() - begin < 150000);
    assert_int_equal(b.cached, 0);
    assert_memory_equal(a.got, b.got, 9 * sizeof *a.got);
    assert_int_equal(stats_of(s).store_late, 1);
    /* who leaves meanwhile does not wait either */
    wait_us = 1000000;
    apus_sampling way;
    apus_sampling_default(&way);
    ask c = make_ask(200, 5);
    apus_request *r = submit(s, &c, &way);
    begin = ap_time_us();
    apus_request_cancel(r);
    apus_request_event ev = {.size = sizeof ev};
    do {
        assert_true(apus_request_take(r, -1, &ev));
    } while (ev.kind != APUS_REQUEST_FINISHED);
    assert_true(ap_time_us() - begin < 150000);
    apus_request_free(r);
    apus_scheduler_free(s);
    empty_box();
    box.dead = true;
    s = open_sched(m, 0);
    run(s, &b);
    assert_memory_equal(a.got, b.got, 9 * sizeof *a.got);
    apus_scheduler_free(s);
    empty_box();
    fake_model_free(m);
}

/* Little memory, many prompts, two schedulers, and a store that fails now and then: the same answers as alone. */
static void schedules_change_nothing(void **state)
{
    (void)state;
    enum { N = 10 };
    for (uint64_t seed = 0; seed < 30; seed++) {
        int k = (int)(seed % 5);
        apus_model *m = fake_model(kinds[k].full, kinds[k].window, kinds[k].recur);
        apus_sampling way;
        ap_rng rng;
        static ask a[N], alone[N];
        apus_request *r[N];
        apus_sampling_default(&way);
        way.temperature = 0;
        ap_rng_seed(&rng, seed);
        empty_box();
        box.dead = true;
        for (int i = 0; i < N; i++) {
            a[i] = make_ask(random_int(&rng, 1, 290), random_int(&rng, 0, 1));
            int from = random_int(&rng, 0, a[i].n);
            for (int j = from; j < a[i].n; j++) a[i].prompt[j] = random_int(&rng, 0, 96);
            alone[i] = a[i];
            apus_scheduler *s = open_sched(m, 0);
            run(s, &alone[i]);
            apus_scheduler_free(s);
        }
        box.dead = false;
        apus_scheduler *s[2];
        for (int i = 0; i < 2; i++)
            s[i] = open_sched(
                m, random_int(&rng, 0, 1) ? 0 : 30000 + (uint64_t)random_int(&rng, 0, 20000));
        for (int round = 0; round < 3; round++) {
            /* the fake model counts what it does: one scheduler computes at a time */
            for (int w = 0; w < 2; w++) {
                for (int i = 0; i < N; i++) r[i] = submit(s[w], &a[i], &way);
                if (random_int(&rng, 0, 1)) box.spoil = random_int(&rng, 0, 5000);
                for (int i = 0; i < N; i++) {
                    hear(r[i], &a[i]);
                    assert_memory_equal(a[i].got, alone[i].got, 9 * sizeof *a[i].got);
                }
                box.spoil = -1;
                usleep(2000);
            }
        }
        for (int i = 0; i < 2; i++) {
            assert_int_equal(s[i]->reserved.state + s[i]->reserved.page[0] + s[i]->reserved.page[1],
                             0);
            apus_scheduler_free(s[i]);
        }
        assert_int_equal(fake.faults, 0);
        fake_model_free(m);
    }
    empty_box();
}

static void bad_settings_are_refused(void **state)
{
    (void)state;
    apus_model *m = fake_model(true, 0, false);
    apus_scheduler_settings set;
    apus_scheduler *s = NULL;
    apus_store store = {.size = sizeof store, .has = has, .get = get};
    apus_scheduler_settings_default(&set);
    set.store = &store;
    assert_int_equal(apus_scheduler_create(m, &set, &s, &diag), APUS_EINVAL);
    assert_non_null(strstr(diag.text, "put"));
    store.put = put;
    set.store_wait_us = -1;
    assert_int_equal(apus_scheduler_create(m, &set, &s, &diag), APUS_EINVAL);
    set.store_wait_us = 0;
    store.size = 3;
    assert_int_equal(apus_scheduler_create(m, &set, &s, &diag), APUS_EINVAL);
    assert_null(s);
    fake_model_free(m);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(one_begins_with_what_another_computed),
                                       cmocka_unit_test(turns_change_places),
                                       cmocka_unit_test(bad_records_are_not_used),
                                       cmocka_unit_test(slow_stores_hold_nobody_up),
                                       cmocka_unit_test(schedules_change_nothing),
                                       cmocka_unit_test(bad_settings_are_refused)};
    help_args(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
