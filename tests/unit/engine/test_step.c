/* Steps over lanes: who gets how many rows, what is copied so that it can be undone, cancelling one session of
 * several, and memory that runs out. */
#include "help.h"

/* ---------------------------------------------------------------- shares */

static ap_lane lane_of(apus_session *s, const int32_t *tok, int n)
{
    return (ap_lane){.session = s, .tok = tok, .n = n, .wants_rows = true};
}

static void decoding_comes_first(void **state)
{
    (void)state;
    apus_model *m = fake_model(true, 0, false);
    apus_engine *e = help_engine(m, 500, 100, 4);
    apus_session *s[4];
    ap_lane lane[4];
    int32_t tok[300] = {0};
    static const int n[4] = {300, 1, 300, 5};
    for (int i = 0; i < 4; i++) assert_ok(apus_session_create(e, &s[i], &diag));
    for (int i = 0; i < 4; i++) lane[i] = lane_of(s[i], tok, n[i]);
    ap_extent x = ap_step_share(e, lane, 4, 100, false);
    static const int want[4] = {94, 1, 0, 5};
    for (int i = 0; i < 4; i++) assert_int_equal(lane[i].share, want[i]);
    assert_int_equal(x.n_tok, 100);
    assert_int_equal(x.n_seq, 3);
    assert_int_equal(x.n_out, 2);
    x = ap_step_share(e, lane, 4, 100, true);
    assert_int_equal(x.n_tok, 6);
    assert_int_equal(lane[0].share + lane[2].share, 0);
    x = ap_step_share(e, lane, 4, 3, false); /* few rows: in order */
    assert_int_equal(lane[1].share, 1);
    assert_int_equal(lane[3].share, 2);
    lane[1].waits = lane[3].waits = true;
    x = ap_step_share(e, lane, 4, 100, false);
    assert_int_equal(lane[0].share, 100);
    assert_int_equal(x.n_seq, 1);
    apus_engine_free(e);
    fake_model_free(m);
}

/* States can be kept at page multiples only, so steps of models that have some end there; what is behind the last
 * multiple is a step of its own, and a page or less is never cut. */
static void steps_end_with_pages(void **state)
{
    (void)state;
    static const struct {
        int pos, n, rows, want, without; /* the share with states, and without */
    } cases[] = {
        {0, 64, 500, 64, 64},    {0, 65, 500, 64, 65},    {0, 128, 500, 128, 128},
        {0, 200, 500, 192, 200}, {30, 64, 500, 64, 64},   {30, 65, 500, 34, 65},
        {30, 98, 500, 98, 98},   {63, 66, 500, 65, 66},   {192, 8, 500, 8, 8},
        {0, 300, 10, 10, 10},    {60, 300, 10, 4, 10},    {54, 300, 10, 10, 10},
        {60, 20, 10, 4, 10},     {0, 300, 64, 64, 64},    {0, 300, 65, 64, 65},
        {1, 300, 127, 127, 127}, {1, 300, 128, 127, 128}, {0, 129, 128, 128, 128},
    };
    for (int recur = 0; recur < 2; recur++) {
        apus_model *m = fake_model(true, 0, recur);
        apus_engine *e = help_engine(m, 700, 500, 1);
        apus_session *s;
        int32_t tok[300] = {0};
        assert_ok(apus_session_create(e, &s, &diag));
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            ap_lane lane = lane_of(s, tok, cases[i].n);
            s->pos = cases[i].pos;
            ap_extent x = ap_step_share(e, &lane, 1, cases[i].rows, false);
            assert_int_equal(lane.share, recur ? cases[i].want : cases[i].without);
            assert_int_equal(x.n_tok, lane.share);
            assert_int_equal(x.n_out, lane.share == lane.n);
        }
        s->pos = 0;
        apus_engine_free(e);
        fake_model_free(m);
    }
}

/* Lanes run at random, in steps of random sizes and with random neighbours, come to what the oracle says. */
static void any_steps_give_the_same(void **state)
{
    (void)state;
    enum { N = 4, LEN = 260 };
    for (int kind = 0; kind < 4; kind++) {
        apus_model *m = fake_model(kind != 2, kind == 1 ? 70 : 0, kind >= 2);
        apus_engine *e = help_engine(m, 300, 96, N);
        ap_rng rng;
        ap_rng_seed(&rng, (uint64_t)kind);
        pair p[N];
        ap_lane lane[N];
        static int32_t tok[N][LEN];
        for (int i = 0; i < N; i++) {
            pair_open(&p[i], e);
            for (int j = 0; j < LEN; j++) tok[i][j] = random_int(&rng, 0, 96);
            lane[i] = lane_of(p[i].s, p[i].s->tok, LEN);
            memcpy(p[i].s->tok, tok[i], sizeof tok[i]);
        }
        for (int left = N * LEN; left;) {
            for (int i = 0; i < N; i++) lane[i].waits = random_int(&rng, 0, 2) == 0;
            ap_extent x = ap_step_share(e, lane, N, random_int(&rng, 1, 96), false);
            if (x.n_tok) assert_ok(ap_step_run(e, lane, N, &x, 0, NULL, &diag));
            left -= x.n_tok;
            help_poison(e);
        }
        assert_int_equal(fake.faults, 0);
        for (int i = 0; i < N; i++) {
            for (int j = 0; j < LEN; j++) oracle_push(&p[i].o, tok[i][j]);
            pair_check(&p[i]);
            pair_close(&p[i]);
        }
        apus_engine_free(e);
        fake_model_free(m);
    }
}

/* ---------------------------------------------------------------- copies */

/* Only who prefills is copied: one state, whatever number of neighbours decode beside it. */
static void decoding_lanes_are_not_copied(void **state)
{
    (void)state;
    enum { N = 6 };
    apus_model *m = fake_model(true, 0, true);
    apus_engine *e = help_engine(m, 400, 100, N);
    ap_rng rng;
    ap_rng_seed(&rng, 3);
    pair p[N];
    int32_t tok[200] = {0};
    apus_feed f[N];
    for (int i = 0; i < N; i++) pair_open(&p[i], e);
    for (int i = 0; i < N; i++) pair_feed(&p[i], 70 + i, &rng);
    for (int n = 1; n <= 200; n += 19) {
        for (int i = 0; i < N; i++)
            f[i] = (apus_feed){
                .size = sizeof *f, .session = p[i].s, .tok = tok, .n = i == 2 ? n : 1 + i % 3};
        int snapshots = 0; /* are copies, too */
        for (int i = 0; i < N; i++)
            snapshots += (p[i].o.pos + f[i].n) / AP_PAGE - p[i].o.pos / AP_PAGE;
        fake.copied = 0;
        assert_ok(apus_feed_batch(e, f, N, NULL, NULL, &diag));
        size_t one = 7 * sizeof(float);
        assert_true(fake.copied >= (n > AP_FEW_TOKENS) * one);
        assert_true(fake.copied <= ((size_t)snapshots + (n > AP_FEW_TOKENS)) * one);
        for (int i = 0; i < N; i++)
            for (int j = 0; j < f[i].n; j++) oracle_push(&p[i].o, 0);
        for (int i = 0; i < N; i++) pair_check(&p[i]);
        assert_ok(apus_session_rewind(p[2].s, 72, &diag));
        oracle_rewind(&p[2].o, 72);
    }
    for (int i = 0; i < N; i++) pair_close(&p[i]);
    apus_engine_free(e);
    fake_model_free(m);
}

/* ---------------------------------------------------------------- cancelling */

/* Short and long lanes side by side: cancelled in any step, by the engine or one session, nobody has moved. */
static void mixed_calls_move_all_or_none(bool full, int window, bool recur, bool one)
{
    enum { N = 4 };
    static const int n[N] = {1, 300, 8, 130};
    apus_model *m = fake_model(full, window, recur);
    apus_engine *e = help_engine(m, 900, 64, N);
    ap_rng rng;
    ap_rng_seed(&rng, 8);
    pair p[N];
    for (int i = 0; i < N; i++) pair_open(&p[i], e);
    for (int i = 0; i < N; i++) pair_feed(&p[i], 100 + 50 * i, &rng);
    fake.cancel_engine = e;
    int cancelled = 0;
    for (int step = 1;; step++) {
        int32_t tok[300];
        float logits[N][97];
        apus_feed f[N];
        for (int j = 0; j < 300; j++) tok[j] = random_int(&rng, 0, 96);
        for (int i = 0; i < N; i++)
            f[i] = (apus_feed){
                .size = sizeof *f, .session = p[i].s, .tok = tok, .n = n[i], .logits = logits[i]};
        fake.cancel_session = one ? p[step % N].s : NULL;
        fake.cancel_at = fake.n_forward + step;
        help_poison(e);
        apus_err err = apus_feed_batch(e, f, N, NULL, NULL, &diag);
        fake.cancel_at = 0;
        for (int i = 0; i < N && !err; i++)
            for (int j = 0; j < n[i]; j++) oracle_push(&p[i].o, tok[j]);
        help_poison(e);
        for (int i = 0; i < N; i++) pair_check(&p[i]);
        if (!err) break;
        assert_int_equal(err, APUS_ECANCELLED);
        cancelled++;
    }
    assert_true(cancelled >= 6);
    assert_int_equal(fake.faults, 0);
    for (int i = 0; i < N; i++) pair_close(&p[i]);
    apus_engine_free(e);
    fake_model_free(m);
}

static void mixed_calls(void **state)
{
    (void)state;
    for (int one = 0; one < 2; one++) {
        mixed_calls_move_all_or_none(true, 0, true, one);
        mixed_calls_move_all_or_none(false, 0, true, one);
        mixed_calls_move_all_or_none(true, 70, true, one);
        mixed_calls_move_all_or_none(true, 70, false, one);
    }
}

static bool count_token(void *ctx, int32_t id)
{
    (void)id;
    ++*(int *)ctx;
    return true;
}

/* One generation is cancelled in forward number `at`; the others go on and give what they give anyhow. */
static void cancel_one(int at, int who, const int want[3])
{
    apus_model *m = fake_model(true, 40, true);
    apus_engine *e = help_engine(m, 400, 64, 3);
    apus_session *s[3];
    apus_generation list[3];
    apus_generate_settings set[3];
    apus_generate_result res[3];
    static const int prompt_n[3] = {5, 200, 90};
    int32_t prompt[200];
    int n[3] = {0};
    for (int i = 0; i < 200; i++) prompt[i] = i % 97;
    for (int i = 0; i < 3; i++) {
        assert_ok(apus_session_create(e, &s[i], &diag));
        apus_generate_settings_default(&set[i]);
        set[i].max_tokens = 20;
        set[i].ignore_eos = true;
        set[i].on_token = count_token;
        set[i].ctx = &n[i];
        res[i] = (apus_generate_result){.size = sizeof *res};
        list[i] = (apus_generation){.size = sizeof *list,
                                    .session = s[i],
                                    .prompt = prompt,
                                    .n = prompt_n[i],
                                    .settings = &set[i],
                                    .result = &res[i]};
    }
    fake.cancel_session = s[who];
    fake.cancel_at = at;
    assert_ok(apus_generate_batch(e, list, 3, &diag));
    assert_int_equal(fake.faults, 0);
    for (int i = 0; i < 3; i++) {
        bool ended = i == who && at < 20;
        assert_int_equal(res[i].stop, ended ? APUS_STOP_CALLER : APUS_STOP_LENGTH);
        assert_int_equal(res[i].n_generated, n[i]);
        if (ended)
            assert_true(n[i] < want[i]);
        else
            assert_int_equal(n[i], want[i]);
        if (ended && n[i] == 0) assert_int_equal(apus_session_pos(s[i]), res[i].n_prompt);
        pair p = {.s = s[i]};
        oracle_init(&p.o, 400);
        for (int j = 0; j < apus_session_pos(s[i]); j++) oracle_push(&p.o, s[i]->tok[j]);
        pair_check(&p);
        oracle_free(&p.o);
    }
    apus_engine_free(e);
    fake_model_free(m);
}

static void one_generation_is_cancelled(void **state)
{
    (void)state;
    static const int all[3] = {20, 20, 20};
    for (int at = 1; at < 16; at++)
        for (int who = 0; who < 3; who++) cancel_one(at, who, all);
}

/* ---------------------------------------------------------------- memory */

static apus_engine *engine_with(const apus_model *m, int sessions, uint64_t kv_bytes, apus_err want)
{
    apus_engine_settings s;
    apus_engine_settings_default(&s);
    s.ctx = 640;
    s.prefill_chunk = 64;
    s.max_sessions = sessions;
    s.threads = 1;
    s.kv_bytes = kv_bytes;
    apus_engine *e = NULL;
    assert_int_equal(apus_engine_create(m, &s, &e, &diag), want);
    return e;
}

/* What one full session takes: an engine with less is refused, and the sentence has the number. */
static uint64_t least_bytes(const apus_model *m, int sessions)
{
    engine_with(m, sessions, 1, APUS_EINVAL);
    const char *at = strstr(diag.text, "at least ");
    assert_non_null(at);
    uint64_t least = strtoull(at + strlen("at least "), NULL, 10);
    engine_with(m, sessions, least - 1, APUS_EINVAL);
    return least;
}

/* Feeds that find no pages are errors with numbers; nobody has moved, and freed memory serves again. */
static void memory_runs_out(bool full, int window, bool recur)
{
    apus_model *m = fake_model(full, window, recur);
    uint64_t least = least_bytes(m, 4);
    apus_engine *e = engine_with(m, 4, least + least / 4, APUS_OK);
    ap_rng rng;
    ap_rng_seed(&rng, 17);
    pair p[4];
    int ran_out = 0;
    for (int i = 0; i < 4; i++) pair_open(&p[i], e);
    for (int round = 0; round < 400; round++) {
        int i = random_int(&rng, 0, 3), n = random_int(&rng, 1, round % 2 ? 3 : 200);
        int32_t tok[200];
        float logits[97];
        for (int j = 0; j < n; j++) tok[j] = random_int(&rng, 0, 96);
        if (apus_session_room(p[i].s) < n || random_int(&rng, 0, 40) == 0) {
            pair_close(&p[i]);
            pair_open(&p[i], e);
            continue;
        }
        help_poison(e);
        apus_err err = apus_session_feed(p[i].s, tok, n, logits, &diag);
        for (int j = 0; j < n && !err; j++) oracle_push(&p[i].o, tok[j]);
        if (err) {
            assert_int_equal(err, APUS_ENOMEM);
            assert_non_null(strstr(diag.text, "in use"));
            assert_int_equal(apus_session_pos(p[i].s), p[i].o.pos);
            ran_out++;
        } else {
            float want[97];
            oracle_logits(&p[i].o, want);
            assert_memory_equal(logits, want, sizeof want);
        }
        assert_int_equal(fake.faults, 0);
    }
    if (full) assert_true(ran_out > 5);
    for (int i = 0; i < 4; i++) pair_close(&p[i]);
    for (int g = 0; g < AP_KV_GROUPS; g++)
        assert_int_equal(e->pages[g].n_free, e->pages[g].n_block);
    assert_int_equal(e->states.n_free, e->states.n_block);
    pair_open(&p[0], e); /* one can always be full */
    pair_feed(&p[0], 640, &rng);
    assert_ok(apus_session_rewind(p[0].s, 500, &diag));
    oracle_rewind(&p[0].o, 500);
    pair_check(&p[0]);
    pair_close(&p[0]);
    apus_engine_free(e);
    fake_model_free(m);
}

static void memory_that_runs_out_is_an_error(void **state)
{
    (void)state;
    memory_runs_out(true, 0, false);
    memory_runs_out(true, 100, false);
    memory_runs_out(true, 0, true);
    memory_runs_out(false, 0, true);
    memory_runs_out(true, 130, true);
}

/* More than everybody needs is taken, too: it is for what is kept between requests. */
static void budgets_are_kept(void **state)
{
    (void)state;
    apus_model *m = fake_model(true, 100, true);
    uint64_t least = least_bytes(m, 2);
    for (uint64_t bytes = least; bytes < 6 * least; bytes += least / 3) {
        apus_engine *e = engine_with(m, 2, bytes, APUS_OK);
        uint64_t sum = (uint64_t)e->states.n_block * e->states.block_bytes, largest = 0;
        for (int g = 0; g < AP_KV_GROUPS; g++)
            sum += (uint64_t)e->pages[g].n_block * e->pages[g].block_bytes;
        for (int g = 0; g < AP_KV_GROUPS; g++) largest += e->pages[g].block_bytes;
        assert_true(sum <= bytes && sum + largest + e->states.block_bytes > bytes);
        apus_engine_free(e);
    }
    fake_model_free(m);
}

int main(int argc, char **argv)
{
    help_args(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decoding_comes_first),
        cmocka_unit_test(steps_end_with_pages),
        cmocka_unit_test(any_steps_give_the_same),
        cmocka_unit_test(decoding_lanes_are_not_copied),
        cmocka_unit_test(mixed_calls),
        cmocka_unit_test(one_generation_is_cancelled),
        cmocka_unit_test(memory_that_runs_out_is_an_error),
        cmocka_unit_test(budgets_are_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
