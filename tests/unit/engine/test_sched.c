/* Requests: whatever the schedule, each gives what it gives alone; ends, limits and order. */
#include <math.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/sched.h"
#include "help.h"

enum { CTX = 300, MOST = CTX };

/* ---------------------------------------------------------------- one request */

typedef struct ask {
    int32_t prompt[CTX];
    int n, max_tokens;
    apus_sampling way;
    uint64_t seed;
    /* what came of it */
    int32_t got[MOST];
    int n_got, last_prefill;
    bool started;
    int cached, miss_pos;
    apus_miss miss;
    apus_request_event end;
    char says[256];
} ask;

static void make_ask(ask *a, ap_rng *rng, int longest)
{
    memset(a, 0, sizeof *a);
    a->n = random_int(rng, 1, longest);
    a->max_tokens = random_int(rng, 0, 5) ? random_int(rng, 0, 40) : -1;
    for (int i = 0; i < a->n; i++) a->prompt[i] = random_int(rng, 0, 96);
    apus_sampling_default(&a->way);
    a->way.temperature = random_int(rng, 0, 1) ? 0 : 1.3f;
    a->way.repetition_penalty = random_int(rng, 0, 1) ? 1 : 1.2f;
    a->way.seed = ap_rng_next(rng);
}

/* Goes on like an earlier one: its prompt and answer up to some token, and then something else. */
static void branch_off(ask *a, const ask *from, ap_rng *rng)
{
    int32_t all[2 * CTX];
    memcpy(all, from->prompt, (size_t)from->n * sizeof *all);
    memcpy(all + from->n, from->got, (size_t)from->n_got * sizeof *all);
    int held = from->n + from->n_got, n = random_int(rng, 0, 1) ? held : random_int(rng, 1, held);
    n = n < CTX - 1 ? n : CTX - 1;
    memcpy(a->prompt, all, (size_t)n * sizeof *all);
    int more = random_int(rng, 0, CTX - n < 30 ? CTX - n : 30);
    for (int i = 0; i < more; i++) a->prompt[n + i] = random_int(rng, 0, 96);
    a->n = n + more;
}

static apus_request_settings settings_of(const ask *a)
{
    apus_request_settings s;
    apus_request_settings_default(&s);
    s.prompt = a->prompt;
    s.n_prompt = a->n;
    s.max_tokens = a->max_tokens;
    s.sampling = &a->way;
    s.no_text = true;
    return s;
}

static bool keep_token(void *ctx, int32_t id)
{
    ask *a = ctx;
    a->got[a->n_got++] = id;
    return true;
}

/* Alone, by apus_generate, on another engine. */
static apus_stop run_alone(const apus_model *m, ask *a)
{
    apus_engine *e = help_engine(m, CTX, 64, 1);
    apus_session *s;
    apus_generate_settings set;
    apus_generate_result res = {.size = sizeof res};
    apus_generate_settings_default(&set);
    set.sampling = &a->way;
    set.max_tokens = a->max_tokens;
    set.on_token = keep_token;
    set.ctx = a;
    assert_ok(apus_session_create(e, &s, &diag));
    assert_ok(apus_generate(s, a->prompt, a->n, &set, &res, &diag));
    apus_engine_free(e);
    return res.stop;
}

static const char *cache_dir; /* or NULL */
static uint64_t cache_dir_bytes = 1 << 30;

/* Texts that are known beforehand: what of them follows is guessed, with a wrong id here and there. */
static const ask *known;
static int n_known;

static int guess_known(void *ctx, const apus_session *s, int n, int most, int32_t *out)
{
    (void)ctx;
    for (int i = 0; i < n_known; i++) {
        const ask *a = &known[i];
        int32_t all[2 * CTX];
        int len = a->n + a->n_got, k = 0;
        memcpy(all, a->prompt, (size_t)a->n * sizeof *all);
        memcpy(all + a->n, a->got, (size_t)a->n_got * sizeof *all);
        if (n > len || memcmp(all, s->tok, (size_t)n * sizeof *all)) continue;
        for (; k < most && n + k < len; k++)
            out[k] = (n + k) % 7 == n % 5 ? (all[n + k] + 2) % 97 : all[n + k];
        if (k) return k;
    }
    return 0;
}

static apus_scheduler *open_sched(const apus_model *m, int sessions, int chunk, int step_us,
                                  uint64_t kv_bytes)
{
    apus_engine_settings es;
    apus_scheduler_settings set;
    apus_engine_settings_default(&es);
    apus_scheduler_settings_default(&set);
    es.ctx = CTX;
    es.max_sessions = sessions;
    es.prefill_chunk = chunk;
    es.threads = 1;
    es.kv_bytes = kv_bytes;
    es.n_draft = n_known ? 14 : 0;
    if (n_known) es.speculate = APUS_SPECULATE_NGRAM;
    set.engine = &es;
    set.step_us = step_us;
    set.max_queue = 100;
    set.cache_dir = cache_dir;
    set.cache_dir_bytes = cache_dir_bytes;
    apus_scheduler *s = NULL;
    assert_ok(apus_scheduler_create(m, &set, &s, &diag));
    if (n_known) s->engine->guess = guess_known; /* nothing runs yet */
    return s;
}

/* Take one event; false: none in that time. */
static bool hear(apus_request *r, ask *a, int64_t us)
{
    apus_request_event ev = {.size = sizeof ev};
    if (!apus_request_take(r, us, &ev)) return false;
    assert_false(a->end.size);
    switch (ev.kind) {
    case APUS_REQUEST_STARTED:
        assert_false(a->started);
        a->started = true;
        break;
    case APUS_REQUEST_PREFILL:
        assert_true(ev.prefill_done > a->last_prefill && ev.prefill_done <= a->n);
        assert_int_equal(a->n_got, 0);
        a->last_prefill = ev.prefill_done;
        break;
    case APUS_REQUEST_TOKENS:
        assert_true(a->started);
        memcpy(a->got + a->n_got, ev.ids, (size_t)ev.n_ids * sizeof *ev.ids);
        a->n_got += ev.n_ids;
        break;
    case APUS_REQUEST_FINISHED:
        assert_int_equal(ev.usage->n_prompt, a->n);
        assert_int_equal(ev.usage->n_generated, a->n_got);
        assert_true(ev.usage->n_cached >= 0 && ev.usage->n_cached < a->n);
        a->cached = ev.usage->n_cached;
        a->miss = ev.usage->miss;
        a->miss_pos = ev.usage->miss_pos;
        a->end = ev;
        snprintf(a->says, sizeof a->says, "%s", ev.message);
        break;
    }
    return true;
}

static void hear_all(apus_request *r, ask *a)
{
    while (!a->end.size) assert_true(hear(r, a, -1));
    assert_false(hear(r, a, -1));
}

/* ---------------------------------------------------------------- random schedules */

static apus_finish finish_for(apus_stop s)
{
    return s == APUS_STOP_TOKEN    ? APUS_FINISH_STOP
           : s == APUS_STOP_LENGTH ? APUS_FINISH_LENGTH
                                   : APUS_FINISH_CONTEXT;
}

static void check_same(const ask *a, const ask *alone, apus_stop stop)
{
    if (a->end.finish == APUS_FINISH_ERROR) fail_msg("%s", a->says);
    bool cut = a->end.finish == APUS_FINISH_CANCELLED || a->end.finish == APUS_FINISH_DEADLINE;
    if (!cut) {
        assert_int_equal(a->end.finish, finish_for(stop));
        assert_int_equal(a->n_got, alone->n_got);
    }
    assert_true(a->n_got <= alone->n_got);
    assert_memory_equal(a->got, alone->got, (size_t)a->n_got * sizeof *a->got);
}

static char dir_name[64];

static const char *make_dir(void)
{
    strcpy(dir_name, "/tmp/apus-test-XXXXXX");
    assert_non_null(mkdtemp(dir_name));
    return dir_name;
}

static void remove_dir(void)
{
    char cmd[128];
    snprintf(cmd, sizeof cmd, "rm -r %s", dir_name);
    assert_int_equal(system(cmd), 0);
}

static int reused, accepted; /* tokens */

static void schedule(const apus_model *m, uint64_t seed)
{
    enum { N = 14 };
    static ask a[N], alone[N];
    static apus_stop stop[N];
    apus_request *r[N];
    ap_rng rng;
    ap_rng_seed(&rng, seed);
    static const int chunks[] = {1, 7, 64, 100, 512};
    uint64_t bytes = random_int(&rng, 0, 1) ? 0 : 30000 + ap_rng_next(&rng) % 20000;
    int sessions = random_int(&rng, 1, 6), chunk = chunks[random_int(&rng, 0, 4)];
    int step_us = random_int(&rng, 0, 2) * 50;
    for (int i = 0; i < N; i++) {
        make_ask(&a[i], &rng, i % 3 ? 40 : CTX);
        if (i && random_int(&rng, 0, 3))
            branch_off(&a[i], &alone[random_int(&rng, 0, i - 1)], &rng);
        alone[i] = a[i];
        stop[i] = run_alone(m, &alone[i]);
    }
    known = alone;
    n_known = seed / 4 % 2 ? N : 0;
    apus_scheduler *s = open_sched(m, sessions, chunk, step_us, bytes);
    for (int i = 0; i < N; i++) {
        apus_request_settings set = settings_of(&a[i]);
        set.priority = random_int(&rng, -1, 1);
        set.client = (uint64_t)random_int(&rng, 0, 2);
        set.no_cache = random_int(&rng, 0, 7) == 0;
        int32_t branch[2] = {random_int(&rng, 0, a[i].n / 2),
                             random_int(&rng, a[i].n / 2 + 1, a[i].n)};
        set.branch = branch;
        set.n_branch = random_int(&rng, 0, branch[1] <= a[i].n ? 2 : 1);
        if (random_int(&rng, 0, 9) == 0) set.deadline_us = random_int(&rng, 1, 2000);
        assert_ok(apus_request_submit(s, &set, &r[i], &diag));
        if (random_int(&rng, 0, 3) == 0) usleep((unsigned)random_int(&rng, 1, 500));
        int j = random_int(&rng, 0, i);
        if (random_int(&rng, 0, 3) == 0) apus_request_cancel(r[j]);
        if (!a[j].end.size) hear(r[j], &a[j], 0);
    }
    bool early = random_int(&rng, 0, 4) == 0;
    if (early) apus_scheduler_free(s);
    for (int i = 0; i < N; i++) {
        if (!a[i].end.size) hear_all(r[i], &a[i]);
        apus_request_free(r[i]);
        check_same(&a[i], &alone[i], stop[i]);
    }
    if (!early) {
        assert_int_equal(s->n_run, 0);
        assert_int_equal(s->reserved.state + s->reserved.page[0] + s->reserved.page[1], 0);
        reused += (int)s->stats.cached_tokens;
        accepted += (int)s->stats.accepted_tokens;
        apus_scheduler_free(s);
    }
    n_known = 0;
    assert_int_equal(fake.faults, 0);
}

static void schedules_change_nothing(void **state)
{
    (void)state;
    static const struct {
        bool full;
        int window;
        bool recur;
    } kinds[] = {{true, 0, false}, {true, 50, false}, {true, 0, true}, {false, 20, true}};
    for (int k = 0; k < 4; k++) {
        apus_model *m = fake_model(kinds[k].full, kinds[k].window, kinds[k].recur);
        m->config.n_stop = 3;
        for (int i = 0; i < 3; i++) m->config.stop[i] = 7 * i;
        reused = accepted = 0;
        cache_dir = k % 2 ? make_dir() : NULL; /* and what one schedule left, the next one finds */
        for (uint64_t seed = 0; seed < (cache_dir ? 6 : 25); seed++)
            schedule(m, seed * 4 + (uint64_t)k);
        assert_true(reused > (cache_dir ? 200 : 1000));
        assert_true(accepted > (cache_dir ? 30 : 200));
        if (cache_dir) remove_dir();
        cache_dir = NULL;
        fake_model_free(m);
    }
}

/* ---------------------------------------------------------------- prefixes */

static ask simple_ask(int n, int max_tokens)
{
    ask a = {.n = n, .max_tokens = max_tokens};
    for (int i = 0; i < n; i++) a.prompt[i] = i % 97;
    apus_sampling_default(&a.way);
    a.way.temperature = 0;
    return a;
}

static void run_only(apus_scheduler *s, ask *a, const int32_t *branch)
{
    apus_request *r;
    apus_request_settings set = settings_of(a);
    set.branch = branch;
    set.n_branch = branch != NULL;
    set.ignore_eos = true;
    assert_ok(apus_request_submit(s, &set, &r, &diag));
    hear_all(r, a);
    apus_request_free(r);
}

/* The model counts what it does: with one thread at a time. */
static void run_one(apus_scheduler *s, const apus_model *m, ask *a, const int32_t *branch)
{
    run_only(s, a, branch);
    ask alone = *a;
    alone.n_got = 0;
    run_alone(m, &alone);
    assert_int_equal(a->n_got, alone.n_got);
    assert_memory_equal(a->got, alone.got, (size_t)a->n_got * sizeof *a->got);
}

/* A chat of three turns, its last answer again, and a turn that forgets the answer: what each takes from before. */
static void warm_turns(bool full, int window, bool recur)
{
    apus_model *m = fake_model(full, window, recur);
    apus_scheduler *s = open_sched(m, 2, 64, 0, 0);
    ask a = simple_ask(150, 11);
    int32_t branch = 147; /* where the generation prompt begins */
    run_one(s, m, &a, &branch);
    assert_int_equal(a.cached, 0);
    assert_int_equal(a.miss, APUS_MISS_EMPTY);
    ask b = a; /* again: all but the last token, or from where states are */
    b.n_got = 0, b.end.size = 0, b.started = false, b.last_prefill = 0;
    run_one(s, m, &b, &branch);
    assert_int_equal(b.cached, recur ? 147 : 149);
    assert_int_equal(b.miss, APUS_MISS_NONE);
    ask c = simple_ask(150, 5); /* the next turn: what was held at the end */
    memcpy(c.prompt + 150, a.got, 11 * sizeof *a.got);
    for (int i = 161; i < 180; i++) c.prompt[i] = 96 - i % 50;
    c.n = 180;
    branch = 170;
    run_one(s, m, &c, &branch);
    assert_int_equal(c.cached, recur ? 160 : full || window ? 160 : 0);
    assert_int_equal(c.miss, APUS_MISS_NONE);
    ask d = c; /* another answer in its place: from where the generation prompt began */
    for (int i = 150; i < 180; i++) d.prompt[i] = (i * 3 + 1) % 97;
    d.n_got = 0, d.end.size = 0, d.started = false, d.last_prefill = 0;
    run_one(s, m, &d, &branch);
    assert_true(d.cached >= 147 && d.cached <= 150);
    apus_scheduler_free(s);
    assert_int_equal(fake.faults, 0);
    fake_model_free(m);
}

static void turns_are_warm(void **state)
{
    (void)state;
    warm_turns(true, 0, false);
    warm_turns(true, 40, false);
    warm_turns(true, 0, true);
    warm_turns(true, 70, true);
}

static void misses_are_explained(void **state)
{
    (void)state;
    apus_model *m = fake_model(true, 0, true);
    apus_scheduler *s = open_sched(m, 1, 64, 0, 0);
    ask a = simple_ask(200, 2), b = simple_ask(200, 2), c = simple_ask(200, 2);
    run_one(s, m, &a, NULL);
    for (int i = 64; i < 200; i++) b.prompt[i] = (i * 5 + 2) % 97;
    run_one(s, m, &b, NULL); /* the first page has a state at its end */
    assert_int_equal(b.cached, 64);
    assert_int_equal(b.miss, APUS_MISS_DIVERGED);
    assert_int_equal(b.miss_pos, 64);
    for (int i = 40; i < 200; i++) c.prompt[i] = (i * 7 + 3) % 97;
    run_one(s, m, &c, NULL);
    assert_int_equal(c.cached, 0);
    assert_int_equal(c.miss, APUS_MISS_NO_STATE);
    ask d = c; /* but the branch was seen, and now there is one */
    for (int i = 45; i < 200; i++) d.prompt[i] = (i * 11 + 3) % 97;
    d.n_got = 0, d.end.size = 0, d.started = false, d.last_prefill = 0;
    run_one(s, m, &d, NULL);
    assert_int_equal(d.cached, 40);
    apus_scheduler_free(s);
    fake_model_free(m);
}

/* With room for one only, what was given up is told; the newest is there. */
static void what_was_given_up_is_told(void **state)
{
    (void)state;
    apus_model *m = fake_model(true, 0, false);
    apus_scheduler *s = open_sched(m, 1, 64, 0, 0);
    ask a[4];
    for (int k = 0; k < 4; k++) {
        a[k] = simple_ask(250, 2);
        for (int i = 0; i < 250; i++) a[k].prompt[i] = (i * (k + 2) + k) % 97;
        run_one(s, m, &a[k], NULL);
        assert_int_equal(a[k].miss, APUS_MISS_EMPTY);
    }
    ask again = a[0];
    again.n_got = 0, again.end.size = 0, again.started = false, again.last_prefill = 0;
    run_one(s, m, &again, NULL);
    assert_int_equal(again.miss, APUS_MISS_EVICTED);
    assert_true(again.cached < 200);
    again.n_got = 0, again.end.size = 0, again.started = false, again.last_prefill = 0;
    run_one(s, m, &again, NULL);
    assert_int_equal(again.cached, 249);
    apus_scheduler_free(s);
    fake_model_free(m);
}

/* Every file of a folder below the cache's: how many there are; `spoil` >= 0: a byte of each is changed there. */
static int visit_records(long spoil)
{
    char cmd[160], path[256];
    int n = 0;
    snprintf(cmd, sizeof cmd, "find %s -type f", dir_name);
    FILE *list = popen(cmd, "r");
    assert_non_null(list);
    while (fgets(path, sizeof path, list)) {
        path[strcspn(path, "\n")] = 0;
        struct stat st;
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 0777, 0600);
        n++;
        if (spoil < 0) continue;
        FILE *f = fopen(path, "r+b");
        fseek(f, spoil % (long)st.st_size, SEEK_SET);
        int c = fgetc(f);
        fseek(f, spoil % (long)st.st_size, SEEK_SET);
        fputc(c ^ 16, f);
        fclose(f);
    }
    pclose(list);
    return n;
}

static int cached_after_restart(const apus_model *m, const int32_t *branch, int *n_disk)
{
    ask a = simple_ask(250, 9), alone = a;
    run_alone(m, &alone);
    apus_scheduler *s = open_sched(m, 2, 64, 0, 0);
    run_only(s, &a, branch);
    assert_int_equal(a.n_got, 9);
    assert_memory_equal(a.got, alone.got, 9 * sizeof *a.got);
    apus_scheduler_stats t = {.size = sizeof t};
    apus_scheduler_stats_get(s, &t);
    *n_disk = (int)t.disk_tokens;
    apus_scheduler_free(s);
    return a.cached;
}

/* What one scheduler computed another finds on the disk, and nothing else than that. */
static void restarts_are_warm(bool full, int window, bool recur)
{
    apus_model *m = fake_model(full, window, recur);
    int32_t branch = 240;
    int n_disk, n;
    cache_dir = make_dir();
    assert_int_equal(cached_after_restart(m, &branch, &n_disk), 0);
    assert_true(visit_records(-1) >= (full ? 5 : 1));
    n = cached_after_restart(m, &branch, &n_disk);
    assert_int_equal(n, recur ? 240 : 249);
    if (full) assert_true(n_disk >= 192);
    m->fingerprint++; /* another model */
    assert_int_equal(cached_after_restart(m, &branch, &n_disk), 0);
    m->fingerprint--;
    m->precision = APUS_PRECISION_EXACT;
    assert_int_equal(cached_after_restart(m, &branch, &n_disk), 0);
    m->precision = APUS_PRECISION_HIGH;
    assert_int_equal(cached_after_restart(m, &branch, &n_disk), n);
    static const long places[] = {0, 9, 13, 17, 30, 60, 100, 330, 400, 800, 1000000007};
    /* Damaged anywhere: computed anew, to the same bits, and written again as soon as the damage is seen. */
    for (int i = 0; i < 11; i++) {
        assert_true(visit_records(places[i]) > 0);
        assert_int_equal(cached_after_restart(m, &branch, &n_disk), 0);
        int tries = 0;
        while (cached_after_restart(m, &branch, &n_disk) != n) assert_true(++tries < 3);
    }
    cache_dir_bytes = 3000; /* the disk's share is kept */
    cached_after_restart(m, &branch, &n_disk);
    apus_scheduler *s = open_sched(m, 1, 64, 0, 0);
    for (int k = 0; k < 6; k++) {
        ask a = simple_ask(200, 1);
        for (int i = 0; i < 200; i++) a.prompt[i] = (i * (k + 3) + k) % 97;
        run_only(s, &a, NULL);
        usleep(20000);
        apus_scheduler_stats t = {.size = sizeof t};
        apus_scheduler_stats_get(s, &t);
        assert_true(k == 0 || t.disk_bytes <= 3000);
    }
    apus_scheduler_free(s);
    cache_dir_bytes = 1 << 30;
    remove_dir();
    cache_dir = NULL;
    assert_int_equal(fake.faults, 0);
    fake_model_free(m);
}

static void the_disk_survives(void **state)
{
    (void)state;
    restarts_are_warm(true, 0, false);
    restarts_are_warm(true, 40, false);
    restarts_are_warm(true, 0, true);
    restarts_are_warm(true, 90, true);
}

static void bad_folders_are_refused(void **state)
{
    (void)state;
    apus_model *m = fake_model(true, 0, false);
    apus_scheduler_settings set;
    apus_scheduler *s = NULL;
    apus_scheduler_settings_default(&set);
    set.cache_dir = "/nonexistent/folder";
    assert_int_equal(apus_scheduler_create(m, &set, &s, &diag), APUS_EFILE);
    assert_non_null(strstr(diag.text, "/nonexistent/folder"));
    set.cache_dir = "/etc/passwd";
    assert_int_equal(apus_scheduler_create(m, &set, &s, &diag), APUS_EFILE);
    assert_null(s);
    fake_model_free(m);
}

/* With memory of its own for prefixes all of them stay. */
static void cache_has_its_memory(void **state)
{
    (void)state;
    apus_model *m = fake_model(true, 0, true);
    apus_engine_settings es;
    apus_scheduler_settings set;
    apus_engine_settings_default(&es);
    apus_scheduler_settings_default(&set);
    es.ctx = CTX;
    es.threads = 1;
    set.engine = &es;
    set.cache_bytes = 20000;
    apus_scheduler *s = NULL;
    assert_ok(apus_scheduler_create(m, &set, &s, &diag));
    apus_scheduler_stats t = {.size = sizeof t};
    apus_scheduler_stats_get(s, &t);
    assert_true(t.kv_bytes > 20000);
    for (int round = 0; round < 2; round++) {
        for (int k = 0; k < 4; k++) {
            ask a = simple_ask(250, 2);
            for (int i = 0; i < 250; i++) a.prompt[i] = (i * (k + 2) + k) % 97;
            run_one(s, m, &a, NULL);
            assert_int_equal(a.miss, round ? APUS_MISS_NONE : APUS_MISS_EMPTY);
            assert_true(a.cached >= (round ? 192 : 0));
        }
    }
    ask unseen = simple_ask(100, 1);
    apus_request *r;
    apus_request_settings rs = settings_of(&unseen);
    rs.no_cache = true;
    for (int i = 0; i < 2; i++) {
        ask x = unseen;
        assert_ok(apus_request_submit(s, &rs, &r, &diag));
        hear_all(r, &x);
        assert_int_equal(x.cached, 0);
        apus_request_free(r);
    }
    apus_scheduler_free(s);
    fake_model_free(m);
}

/* ---------------------------------------------------------------- limits */

/* A mask that lets everything follow, and holds the scheduler until it is told to go on. */
typedef struct gate {
    volatile int open, asked;
} gate;

static int hold(void *ctx, const int32_t *ids, int n, uint32_t *allowed)
{
    gate *g = ctx;
    (void)ids, (void)n, (void)allowed;
    __atomic_store_n(&g->asked, 1, __ATOMIC_SEQ_CST);
    while (!__atomic_load_n(&g->open, __ATOMIC_SEQ_CST)) usleep(100);
    return 0;
}

static apus_request *submit_held(apus_scheduler *s, const ask *a, gate *g)
{
    apus_request *r;
    apus_request_settings set = settings_of(a);
    set.mask = hold;
    set.mask_ctx = g;
    set.ignore_eos = true;
    assert_ok(apus_request_submit(s, &set, &r, &diag));
    while (!__atomic_load_n(&g->asked, __ATOMIC_SEQ_CST)) usleep(100);
    return r;
}

static void queues_are_bounded(void **state)
{
    (void)state;
    apus_model *m = fake_model(true, 0, true);
    apus_scheduler *s = open_sched(m, 1, 64, 0, 0);
    ask first = simple_ask(10, 3), a = simple_ask(5, 2);
    static ask others[100];
    apus_request *r[101], *more = NULL;
    gate g = {0};
    r[100] = submit_held(s, &first, &g);
    apus_request_settings set = settings_of(&a);
    for (int i = 0; i < 100; i++) assert_ok(apus_request_submit(s, &set, &r[i], &diag));
    assert_int_equal(apus_request_submit(s, &set, &more, &diag), APUS_EBUSY);
    assert_null(more);
    assert_non_null(strstr(diag.text, "100 requests wait"));
    apus_scheduler_stats t = {.size = sizeof t};
    apus_scheduler_stats_get(s, &t);
    assert_int_equal(t.waiting, 100);
    assert_int_equal(t.running, 1);
    assert_int_equal(t.rejected, 1);
    apus_scheduler_drain(s);
    assert_int_equal(apus_request_submit(s, &set, &more, &diag), APUS_ECANCELLED);
    apus_request_cancel(r[50]);
    __atomic_store_n(&g.open, 1, __ATOMIC_SEQ_CST);
    hear_all(r[100], &first);
    for (int i = 0; i < 100; i++) {
        others[i] = a;
        hear_all(r[i], &others[i]);
        bool cut = i == 50;
        assert_int_equal(others[i].end.finish, cut ? APUS_FINISH_CANCELLED : APUS_FINISH_LENGTH);
        assert_int_equal(others[i].started, !cut);
    }
    for (int i = 0; i < 101; i++) apus_request_free(r[i]);
    apus_scheduler_stats_get(s, &t);
    assert_int_equal(t.finished[APUS_FINISH_LENGTH], 100);
    assert_int_equal(t.cancelled_in_queue, 1);
    assert_int_equal(t.running + t.waiting + t.prefilling, 0);
    assert_int_equal(t.generated_tokens, 3 + 2 * 99);
    apus_scheduler_free(s);
    fake_model_free(m);
}

static void late_ones_end(void **state)
{
    (void)state;
    apus_model *m = fake_model(true, 0, false);
    apus_scheduler *s = open_sched(m, 1, 64, 0, 0);
    ask first = simple_ask(10, -1), late = simple_ask(5, 2), running = simple_ask(5, 200);
    gate g = {0}, now = {.open = 1};
    apus_request *a = submit_held(s, &first, &g), *b, *c;
    apus_request_settings set = settings_of(&late);
    set.deadline_us = 2000;
    assert_ok(apus_request_submit(s, &set, &b, &diag));
    usleep(3000);
    apus_request_cancel(a);
    __atomic_store_n(&g.open, 1, __ATOMIC_SEQ_CST);
    hear_all(b, &late);
    assert_int_equal(late.end.finish, APUS_FINISH_DEADLINE);
    assert_false(late.started);
    hear_all(a, &first);
    assert_int_equal(first.end.finish, APUS_FINISH_CANCELLED);
    assert_true(first.n_got >= 1);
    set = settings_of(&running);
    set.deadline_us = 20000;
    now.open = 0;
    set.mask = hold;
    set.mask_ctx = &now;
    assert_ok(apus_request_submit(s, &set, &c, &diag));
    usleep(30000);
    __atomic_store_n(&now.open, 1, __ATOMIC_SEQ_CST);
    hear_all(c, &running);
    assert_int_equal(running.end.finish, APUS_FINISH_DEADLINE);
    apus_request_free(a);
    apus_request_free(b);
    apus_request_free(c);
    apus_scheduler_free(s);
    fake_model_free(m);
}

static void refuse(apus_scheduler *s, apus_request_settings set, apus_err want, const char *says)
{
    apus_request *r = NULL;
    assert_int_equal(apus_request_submit(s, &set, &r, &diag), want);
    assert_null(r);
    assert_non_null(strstr(diag.text, says));
}

static void bad_requests_are_refused(void **state)
{
    (void)state;
    apus_model *m = fake_model(true, 0, false);
    apus_scheduler *s = open_sched(m, 2, 64, 0, 0);
    ask a = simple_ask(5, 2);
    const apus_request_settings good = settings_of(&a);
    apus_request_settings x;
    int32_t id[2] = {3, 3}, big[CTX + 1] = {0}, wrong[2] = {1, 97};
    float bias[2] = {1, NAN};
    const char *stops[1] = {NULL};
    x = good, x.n_prompt = 0, refuse(s, x, APUS_EINVAL, "prompt");
    x = good, x.prompt = wrong, x.n_prompt = 2, refuse(s, x, APUS_EINVAL, "prompt[1]");
    x = good, x.prompt = big, x.n_prompt = CTX + 1, refuse(s, x, APUS_EFULL, "301");
    x = good, x.max_tokens = -2, refuse(s, x, APUS_EINVAL, "max_tokens");
    x = good, x.logprobs = 21, refuse(s, x, APUS_EINVAL, "logprobs");
    x = good, x.priority = 101, refuse(s, x, APUS_EINVAL, "priority");
    x = good, x.deadline_us = -1, refuse(s, x, APUS_EINVAL, "deadline_us");
    x = good, x.n_stop_strings = 1, x.stop_strings = stops,
    refuse(s, x, APUS_EINVAL, "stop_strings[0]");
    x = good, x.n_bias = 2, x.bias_id = id, x.bias = bias, refuse(s, x, APUS_EINVAL, "once");
    x = good, id[1] = 4, x.n_bias = 2, x.bias_id = id, x.bias = bias,
    refuse(s, x, APUS_EINVAL, "bias");
    x = good, id[1] = 6, x.n_branch = 2, x.branch = id, refuse(s, x, APUS_EINVAL, "branch");
    x = good, x.messages_json = "[]", refuse(s, x, APUS_EINVAL, "exclude");
    x = good, x.size = sizeof x + 8, refuse(s, x, APUS_EINVAL, "size");
    x = good, x.no_text = false, refuse(s, x, APUS_EUNSUPPORTED, "");
    ask bad = a;
    bad.way.top_p = 2;
    x = settings_of(&bad), refuse(s, x, APUS_EINVAL, "top_p");
    apus_scheduler_free(s);
    apus_scheduler_free(NULL);
    apus_request_free(NULL);
    apus_request_cancel(NULL);
    fake_model_free(m);
}

/* ---------------------------------------------------------------- choosing */

static int even_ones(void *ctx, const int32_t *ids, int n, uint32_t *allowed)
{
    int *calls = ctx;
    assert_int_equal(n, (*calls)++);
    for (int i = 0; i < n; i++) assert_int_equal(ids[i] % 2, 0);
    for (int v = 1; v < 97; v += 2) allowed[v / 32] &= ~(1u << v % 32);
    return n == 30 ? -1 : 1;
}

/* said: what the three come to; the second time it is known beforehand. */
static void check_masks(const apus_model *m, ask said[3])
{
    apus_scheduler *s = open_sched(m, 3, 64, 0, 0);
    int calls = 0;
    ask a = simple_ask(70, 60), b = simple_ask(70, 20), c = simple_ask(70, 20);
    a.prompt[0] = 1, b.prompt[0] = 2;
    apus_request *r[3];
    apus_request_settings set = settings_of(&a);
    set.mask = even_ones;
    set.mask_ctx = &calls;
    assert_ok(apus_request_submit(s, &set, &r[0], &diag));
    set = settings_of(&b);
    const int32_t id[2] = {41, 5};
    const float bias[2] = {100, -INFINITY};
    set.bias_id = id, set.bias = bias, set.n_bias = 2;
    assert_ok(apus_request_submit(s, &set, &r[1], &diag));
    set = settings_of(&c);
    assert_ok(apus_request_submit(s, &set, &r[2], &diag));
    hear_all(r[0], &a);
    hear_all(r[1], &b);
    hear_all(r[2], &c);
    assert_int_equal(a.end.finish, APUS_FINISH_MASK);
    assert_int_equal(a.n_got, 30);
    assert_int_equal(b.n_got, 20);
    for (int i = 0; i < 20; i++) assert_int_equal(b.got[i], 41);
    ask alone = simple_ask(70, 20);
    run_alone(m, &alone);
    assert_memory_equal(c.got, alone.got, 20 * sizeof *c.got);
    for (int i = 0; i < 3; i++) apus_request_free(r[i]);
    assert_true(!n_known || s->stats.accepted_tokens > 40);
    apus_scheduler_free(s);
    said[0] = a, said[1] = b, said[2] = c;
    assert_int_equal(fake.faults, 0);
}

static void masks_and_biases_hold(void **state)
{
    (void)state;
    static ask said[3], again[3];
    apus_model *m = fake_model(true, 0, true);
    check_masks(m, said);
    known = said, n_known = 3;
    check_masks(m, again);
    n_known = 0;
    for (int i = 0; i < 3; i++) assert_memory_equal(again[i].got, said[i].got, sizeof said[i].got);
    fake_model_free(m);
}

static void check_logprobs(ask *said)
{
    apus_model *m = fake_model(true, 0, false);
    apus_scheduler *s = open_sched(m, 1, 64, 0, 0);
    ask a = simple_ask(20, 12);
    a.way.temperature = 1.5f;
    apus_request_settings set = settings_of(&a);
    set.logprobs = 3;
    apus_request *r;
    assert_ok(apus_request_submit(s, &set, &r, &diag));
    oracle o;
    oracle_init(&o, CTX);
    for (int i = 0; i < a.n; i++) oracle_push(&o, a.prompt[i]);
    apus_request_event ev = {.size = sizeof ev};
    int n = 0;
    while (apus_request_take(r, -1, &ev)) {
        for (int i = 0; i < ev.n_ids; i++, n++) {
            said->got[said->n_got++] = ev.ids[i];
            float x[97];
            double sum = 0;
            oracle_logits(&o, x);
            for (int v = 0; v < 97; v++) sum += exp((double)x[v]);
            const int32_t *id = ev.logprob_id + 4 * i;
            const float *p = ev.logprob + 4 * i;
            assert_int_equal(id[0], ev.ids[i]);
            for (int k = 0; k < 4; k++)
                assert_true(fabs((double)p[k] - ((double)x[id[k]] - log(sum))) < 1e-5);
            int above = 0;
            for (int v = 0; v < 97; v++) above += x[v] > x[id[3]];
            assert_int_equal(above, 2);
            assert_true(p[1] >= p[2] && p[2] >= p[3]);
            oracle_push(&o, ev.ids[i]);
        }
    }
    assert_int_equal(n, 12);
    oracle_free(&o);
    apus_request_free(r);
    assert_true(!n_known || s->stats.accepted_tokens > 4);
    apus_scheduler_free(s);
    fake_model_free(m);
}

static void log_probabilities_are_those_of_the_logits(void **state)
{
    (void)state;
    static ask said, again;
    said = again = simple_ask(20, 12);
    check_logprobs(&said);
    known = &said, n_known = 1;
    check_logprobs(&again);
    n_known = 0;
    assert_memory_equal(again.got, said.got, sizeof said.got);
}

/* ---------------------------------------------------------------- order */

static void turns_are_fair(void **state)
{
    (void)state;
    ap_queue q = {0};
    apus_request r[7] = {{.id = 0, .client = 1},
                         {.id = 1, .client = 1},
                         {.id = 2, .client = 1},
                         {.id = 3, .client = 2},
                         {.id = 4, .client = 3},
                         {.id = 5, .client = 3},
                         {.id = 6, .client = 1, .priority = 5}};
    static const uint64_t want[7] = {6, 3, 4, 0, 5, 1, 2};
    for (int i = 0; i < 7; i++) ap_queue_push(&q, &r[i]);
    for (int i = 0; i < 7; i++) {
        apus_request *x = ap_queue_next(&q);
        assert_int_equal(x->id, want[i]);
        ap_queue_remove(&q, x);
        ap_queue_served(&q, x->client);
    }
    assert_null(ap_queue_next(&q));
    assert_true(!q.first && !q.last && q.n == 0);
}

static void prefills_fit_the_pace(void **state)
{
    (void)state;
    ap_pace p = {0};
    int rows = ap_pace_rows(&p, 3, 4096, 50000);
    assert_true(rows > 3 && rows <= 100);
    for (int i = 0; i < 40; i++) {
        ap_pace_learn(&p, 3, 3, 10000);
        rows = ap_pace_rows(&p, 3, 4096, 50000);
        ap_pace_learn(&p, rows, 3, 10000 + (rows - 3) * 200);
    }
    rows = ap_pace_rows(&p, 3, 4096, 50000); /* (50 - 10) ms / 200 us */
    assert_true(rows > 190 && rows < 216);
    assert_int_equal(ap_pace_rows(&p, 3, 100, 50000), 100);
    assert_true(ap_pace_rows(&p, 3, 4096, 1) > 3); /* it gets on */
}

/* A short request beside a long prompt does not wait for all of it. */
static void short_ones_pass(void **state)
{
    (void)state;
    apus_model *m = fake_model(true, 0, true);
    apus_scheduler *s = open_sched(m, 3, 16, 1, 0);
    ask a = simple_ask(4, 8), long1 = simple_ask(290, 1), short1 = simple_ask(10, 1);
    gate g = {0};
    apus_request *r[3] = {submit_held(s, &a, &g), NULL, NULL};
    apus_request_settings set = settings_of(&long1);
    assert_ok(apus_request_submit(s, &set, &r[1], &diag));
    set = settings_of(&short1);
    assert_ok(apus_request_submit(s, &set, &r[2], &diag));
    __atomic_store_n(&g.open, 1, __ATOMIC_SEQ_CST);
    hear_all(r[2], &short1);
    hear_all(r[1], &long1);
    hear_all(r[0], &a);
    assert_true(short1.end.usage->prefill_us < long1.end.usage->prefill_us);
    for (int i = 0; i < 3; i++) apus_request_free(r[i]);
    apus_scheduler_free(s);
    fake_model_free(m);
}

/* ---------------------------------------------------------------- failures */

static void one_bad_answer_spoils_no_other(void **state)
{
    (void)state;
    apus_model *m = fake_model(true, 0, true);
    apus_scheduler *s = open_sched(m, 2, 64, 0, 0);
    ask a = simple_ask(4, 30), b = simple_ask(9, 30);
    gate g = {0};
    apus_request *ra = submit_held(s, &a, &g), *rb;
    apus_request_settings set = settings_of(&b);
    set.ignore_eos = true;
    assert_ok(apus_request_submit(s, &set, &rb, &diag));
    fake.nan = NAN; /* the scheduler waits at the gate */
    fake.nan_at = fake.n_forward + 10;
    __atomic_store_n(&g.open, 1, __ATOMIC_SEQ_CST);
    hear_all(ra, &a);
    hear_all(rb, &b);
    int bad = (a.end.finish == APUS_FINISH_ERROR) + (b.end.finish == APUS_FINISH_ERROR);
    int good = (a.end.finish == APUS_FINISH_LENGTH) + (b.end.finish == APUS_FINISH_LENGTH);
    assert_int_equal(bad, 1);
    assert_int_equal(good, 1);
    const ask *x = a.end.finish == APUS_FINISH_ERROR ? &a : &b;
    assert_int_equal(x->end.err, APUS_ENONFINITE);
    assert_non_null(strstr(x->end.message, "not finite"));
    apus_request_free(ra);
    apus_request_free(rb);
    apus_scheduler_free(s);
    fake_model_free(m);
}

static void a_lost_device_ends_all(void **state)
{
    (void)state;
    apus_model *m = fake_model(true, 0, false);
    apus_scheduler *s = open_sched(m, 2, 64, 0, 0);
    ask a = simple_ask(4, 30);
    gate g = {0};
    apus_request *r = submit_held(s, &a, &g), *more = NULL;
    fake.lost = true;
    __atomic_store_n(&g.open, 1, __ATOMIC_SEQ_CST);
    hear_all(r, &a);
    assert_int_equal(a.end.finish, APUS_FINISH_ERROR);
    assert_int_equal(a.end.err, APUS_EDEVICE);
    apus_request_settings set = settings_of(&a);
    assert_int_equal(apus_request_submit(s, &set, &more, &diag), APUS_EDEVICE);
    apus_scheduler_stats t = {.size = sizeof t};
    apus_scheduler_stats_get(s, &t);
    assert_true(t.lost);
    apus_request_free(r);
    apus_scheduler_free(s);
    fake_model_free(m);
}

/* ---------------------------------------------------------------- waking */

typedef struct listener {
    volatile int calls, finished;
    int tokens;
} listener;

static void on_wake(void *ctx, apus_request *r)
{
    listener *l = ctx;
    apus_request_event ev = {.size = sizeof ev};
    l->calls++;
    while (apus_request_take(r, 0, &ev)) {
        l->tokens += ev.n_ids;
        if (ev.kind == APUS_REQUEST_FINISHED) __atomic_store_n(&l->finished, 1, __ATOMIC_SEQ_CST);
    }
}

static void readers_are_woken(void **state)
{
    (void)state;
    apus_model *m = fake_model(true, 0, false);
    apus_scheduler *s = open_sched(m, 2, 64, 0, 0);
    for (int round = 0; round < 20; round++) {
        listener l = {0};
        ask a = simple_ask(30, 25);
        apus_request *r;
        apus_request_settings set = settings_of(&a);
        set.ignore_eos = true;
        set.wake = on_wake;
        set.ctx = &l;
        assert_ok(apus_request_submit(s, &set, &r, &diag));
        if (round % 2)
            while (!__atomic_load_n(&l.finished, __ATOMIC_SEQ_CST)) usleep(50);
        apus_request_free(r); /* in even rounds it may run still */
        assert_true(l.calls >= 1 && l.finished);
        if (round % 2) assert_int_equal(l.tokens, 25);
    }
    apus_scheduler_free(s);
    fake_model_free(m);
}

int main(int argc, char **argv)
{
    help_args(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(schedules_change_nothing),
        cmocka_unit_test(turns_are_warm),
        cmocka_unit_test(misses_are_explained),
        cmocka_unit_test(what_was_given_up_is_told),
        cmocka_unit_test(cache_has_its_memory),
        cmocka_unit_test(the_disk_survives),
        cmocka_unit_test(bad_folders_are_refused),
        cmocka_unit_test(queues_are_bounded),
        cmocka_unit_test(late_ones_end),
        cmocka_unit_test(bad_requests_are_refused),
        cmocka_unit_test(masks_and_biases_hold),
        cmocka_unit_test(log_probabilities_are_those_of_the_logits),
        cmocka_unit_test(turns_are_fair),
        cmocka_unit_test(prefills_fit_the_pace),
        cmocka_unit_test(short_ones_pass),
        cmocka_unit_test(one_bad_answer_spoils_no_other),
        cmocka_unit_test(a_lost_device_ends_all),
        cmocka_unit_test(readers_are_woken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
