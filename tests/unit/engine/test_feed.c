/* Feeding: chunks, batches, rows, paging with windows, errors. */
#include <math.h>

#include "help.h"

typedef struct kind {
    bool full;
    int window;
    bool recur;
} kind;

static const kind kinds[] = {{true, 0, false},   {false, 1, false},  {false, 2, false},
                             {false, 40, false}, {false, 64, false}, {false, 65, false},
                             {true, 130, false}, {true, 0, true},    {false, 0, true},
                             {true, 66, true},   {true, 700, true}};
#define N_KINDS ((int)(sizeof kinds / sizeof kinds[0]))

static apus_model *model_of(int i)
{
    return fake_model(kinds[i].full, kinds[i].window, kinds[i].recur);
}

static void random_tokens(int32_t *tok, int n, uint64_t seed)
{
    ap_rng rng;
    ap_rng_seed(&rng, seed);
    for (int i = 0; i < n; i++) tok[i] = random_int(&rng, 0, fake.vocab - 1);
}

/* Every row's logits of `n` tokens against the oracle, at one chunk size. */
static void check_rows(int which, int chunk, int n)
{
    apus_model *m = model_of(which);
    apus_engine *e = help_engine(m, n, chunk, 1);
    pair p;
    pair_open(&p, e);
    help_poison(e);
    int32_t *tok = calloc((size_t)n, sizeof *tok), *rows = calloc((size_t)n, sizeof *rows);
    float *got = calloc((size_t)n * (size_t)fake.vocab, sizeof *got), want[256];
    random_tokens(tok, n, 11);
    for (int i = 0; i < n; i++) rows[i] = i;
    apus_feed f = {.size = sizeof(apus_feed),
                   .session = p.s,
                   .tok = tok,
                   .n = n,
                   .logits = got,
                   .rows = rows,
                   .n_rows = n};
    assert_ok(apus_feed_batch(e, &f, 1, NULL, NULL, &diag));
    for (int i = 0; i < n; i++) {
        oracle_push(&p.o, tok[i]);
        oracle_logits(&p.o, want);
        assert_memory_equal(got + (size_t)i * (size_t)fake.vocab, want,
                            (size_t)fake.vocab * sizeof(float));
    }
    assert_int_equal(fake.faults, 0);
    assert_true(fake.max_tok <= (chunk ? chunk : 512));
    assert_int_equal(apus_session_room(p.s), 0);
    free(tok);
    free(rows);
    free(got);
    pair_close(&p);
    for (int g = 0; g < AP_KV_GROUPS; g++)
        assert_int_equal(e->pages[g].n_free, e->pages[g].n_block);
    assert_int_equal(e->states.n_free, e->states.n_block);
    apus_engine_free(e);
    fake_model_free(m);
}

static void chunk_size_changes_nothing(void **state)
{
    (void)state;
    static const int chunks[] = {1, 7, 64, 65, 100, 0};
    for (int i = 0; i < N_KINDS; i++)
        for (int j = 0; j < 6; j++) check_rows(i, chunks[j], 331);
    check_rows(N_KINDS - 1, 0, 1000);
    check_rows(5, 200, 1000);
}

static void decoding_equals_prefill(void **state)
{
    (void)state;
    for (int i = 0; i < N_KINDS; i++) {
        apus_model *m = model_of(i);
        apus_engine *e = help_engine(m, 400, 50, 1);
        pair p;
        pair_open(&p, e);
        ap_rng rng;
        ap_rng_seed(&rng, 5);
        while (p.o.pos < 400) {
            help_poison(e);
            pair_feed(&p, p.o.pos == 0 ? 70 : 1, &rng);
        }
        pair_close(&p);
        apus_engine_free(e);
        fake_model_free(m);
    }
}

/* Random ragged batches of five sessions, some with rows, some without logits. */
static void batch_equals_alone(void **state)
{
    (void)state;
    enum { N = 5 };
    for (int i = 0; i < N_KINDS; i++) {
        apus_model *m = model_of(i);
        apus_engine *e = help_engine(m, 500, 37 + i, N);
        pair p[N];
        ap_rng rng;
        ap_rng_seed(&rng, 77);
        for (int j = 0; j < N; j++) pair_open(&p[j], e);
        float *logits = calloc((size_t)N * 500 * 97, sizeof *logits), want[256];
        for (int round = 0; round < 12; round++) {
            apus_feed f[N];
            int32_t tok[N][500], rows[N][500];
            help_poison(e);
            for (int j = 0; j < N; j++) {
                int room = apus_session_room(p[j].s), n = random_int(&rng, 1, round % 3 ? 3 : 90);
                if (n > room) n = room;
                assert_true(n > 0);
                random_tokens(tok[j], n, (uint64_t)(round * 10 + j));
                f[j] = (apus_feed){
                    .size = sizeof(apus_feed), .session = p[j].s, .tok = tok[j], .n = n};
                if (random_int(&rng, 0, 3)) f[j].logits = logits + (size_t)j * 500 * 97;
                if (f[j].logits && random_int(&rng, 0, 1)) {
                    for (int t = 0; t < n; t++)
                        if (random_int(&rng, 0, 2) || t == n - 1) rows[j][f[j].n_rows++] = t;
                    f[j].rows = rows[j];
                }
            }
            assert_ok(apus_feed_batch(e, f, N, NULL, NULL, &diag));
            assert_int_equal(fake.faults, 0);
            for (int j = 0; j < N; j++) {
                int r = 0;
                for (int t = 0; t < f[j].n; t++) {
                    oracle_push(&p[j].o, tok[j][t]);
                    bool wanted = f[j].rows ? r < f[j].n_rows && rows[j][r] == t : t == f[j].n - 1;
                    if (!f[j].logits || !wanted) continue;
                    oracle_logits(&p[j].o, want);
                    assert_memory_equal(f[j].logits + (size_t)r * 97, want, 97 * sizeof(float));
                    r++;
                }
            }
        }
        for (int j = 0; j < N; j++) pair_check(&p[j]);
        for (int j = 0; j < N; j++) pair_close(&p[j]);
        free(logits);
        apus_engine_free(e);
        fake_model_free(m);
    }
}

/* Every session full at once: the slabs are planned for that. */
static void all_sessions_can_be_full(void **state)
{
    (void)state;
    for (int i = 0; i < N_KINDS; i++) {
        apus_model *m = model_of(i);
        apus_engine *e = help_engine(m, 300, 128, 4);
        pair p[4];
        ap_rng rng;
        ap_rng_seed(&rng, 3);
        for (int j = 0; j < 4; j++) pair_open(&p[j], e);
        apus_session *fifth = NULL;
        assert_int_equal(apus_session_create(e, &fifth, &diag), APUS_EFULL);
        assert_null(fifth);
        for (int j = 0; j < 4; j++) pair_feed(&p[j], 200 + j * 20, &rng);
        for (int j = 0; j < 4; j++)
            while (apus_session_room(p[j].s)) pair_feed(&p[j], 1, &rng);
        for (int j = 0; j < 4; j++) pair_check(&p[j]);
        int32_t tok = 1;
        assert_int_equal(apus_session_feed(p[0].s, &tok, 1, NULL, &diag), APUS_EFULL);
        assert_non_null(strstr(diag.text, "300"));
        for (int j = 0; j < 4; j++) pair_close(&p[j]);
        apus_engine_free(e);
        fake_model_free(m);
    }
}

/* A small window costs few pages, however long the text. */
static void windows_bound_the_pages(void **state)
{
    (void)state;
    apus_model *m = fake_model(false, 40, false);
    apus_engine *e = help_engine(m, 1000, 16, 1);
    assert_int_equal(e->size.kv_cap[AP_KV_SLIDING], 2 + 2);
    assert_int_equal(ap_kv_cap(100000, 1024, 512), 25 + 17);
    assert_int_equal(ap_kv_cap(100000, 1, 1), 1);
    assert_int_equal(ap_kv_cap(64, 1024, 512), 1);
    pair p;
    pair_open(&p, e);
    ap_rng rng;
    ap_rng_seed(&rng, 9);
    while (apus_session_room(p.s)) {
        pair_feed(&p, random_int(&rng, 1, apus_session_room(p.s) < 30 ? 1 : 30), &rng);
        assert_true(p.s->kv[AP_KV_SLIDING].held <= 4);
    }
    pair_close(&p);
    apus_engine_free(e);
    fake_model_free(m);
}

static void bad_feeds_move_nothing(void **state)
{
    (void)state;
    apus_model *m = fake_model(true, 30, true);
    apus_engine *e = help_engine(m, 100, 16, 2), *other = help_engine(m, 100, 16, 1);
    pair a, b, c;
    ap_rng rng;
    ap_rng_seed(&rng, 1);
    pair_open(&a, e);
    pair_open(&b, e);
    pair_open(&c, other);
    pair_feed(&a, 60, &rng);
    pair_feed(&b, 30, &rng);
    int32_t good[50] = {1, 2, 3}, bad[50] = {1, 2, 97}, negative[2] = {3, -1}, rows[2] = {2, 1};
    float logits[97 * 2];
    apus_feed f[3] = {{.size = sizeof(apus_feed), .session = a.s, .tok = good, .n = 3},
                      {.size = sizeof(apus_feed), .session = b.s, .tok = bad, .n = 3}};
    int before = fake.n_forward;
    assert_int_equal(apus_feed_batch(e, f, 2, NULL, NULL, &diag), APUS_EINVAL);
    assert_non_null(strstr(diag.text, "feed 1: tok[2]"));
    assert_non_null(strstr(diag.text, "97"));
    f[1].tok = negative, f[1].n = 2;
    assert_int_equal(apus_feed_batch(e, f, 2, NULL, NULL, &diag), APUS_EINVAL);
    f[1] = (apus_feed){.size = sizeof(apus_feed), .session = a.s, .tok = good, .n = 3};
    assert_int_equal(apus_feed_batch(e, f, 2, NULL, NULL, &diag), APUS_EINVAL);
    assert_non_null(strstr(diag.text, "already"));
    f[1] = (apus_feed){.size = sizeof(apus_feed), .session = c.s, .tok = good, .n = 3};
    assert_int_equal(apus_feed_batch(e, f, 2, NULL, NULL, &diag), APUS_EINVAL);
    f[1] = (apus_feed){.size = sizeof(apus_feed), .session = NULL, .tok = good, .n = 3};
    assert_int_equal(apus_feed_batch(e, f, 2, NULL, NULL, &diag), APUS_EINVAL);
    f[1] = (apus_feed){.size = sizeof(apus_feed), .session = b.s, .tok = good, .n = 0};
    assert_int_equal(apus_feed_batch(e, f, 2, NULL, NULL, &diag), APUS_EINVAL);
    f[1] = (apus_feed){.size = sizeof(apus_feed), .session = b.s, .tok = NULL, .n = 2};
    assert_int_equal(apus_feed_batch(e, f, 2, NULL, NULL, &diag), APUS_EINVAL);
    f[1] = (apus_feed){.size = sizeof(apus_feed),
                       .session = b.s,
                       .tok = good,
                       .n = 3,
                       .logits = logits,
                       .rows = rows,
                       .n_rows = 2};
    assert_int_equal(apus_feed_batch(e, f, 2, NULL, NULL, &diag), APUS_EINVAL);
    rows[0] = 0, rows[1] = 3;
    assert_int_equal(apus_feed_batch(e, f, 2, NULL, NULL, &diag), APUS_EINVAL);
    f[1].n_rows = 0;
    assert_int_equal(apus_feed_batch(e, f, 2, NULL, NULL, &diag), APUS_EINVAL);
    assert_int_equal(apus_feed_batch(e, f, 0, NULL, NULL, &diag), APUS_EINVAL);
    assert_int_equal(apus_feed_batch(e, f, 3, NULL, NULL, &diag), APUS_EINVAL);
    assert_int_equal(apus_feed_batch(e, NULL, 1, NULL, NULL, NULL), APUS_EINVAL);
    f[1] = (apus_feed){.size = sizeof(apus_feed), .session = a.s, .tok = good, .n = 41};
    f[0] = (apus_feed){.size = sizeof(apus_feed), .session = b.s, .tok = good, .n = 3};
    assert_int_equal(apus_feed_batch(e, f, 2, NULL, NULL, &diag), APUS_EFULL);
    assert_non_null(strstr(diag.text, "41"));
    assert_non_null(strstr(diag.text, "room for 40"));
    assert_int_equal(apus_session_feed(NULL, good, 1, NULL, &diag), APUS_EINVAL);
    assert_int_equal(fake.n_forward, before);
    pair_check(&a);
    pair_check(&b);
    apus_session_free(b.s);
    assert_int_equal(apus_session_feed(b.s, good, 1, NULL, &diag), APUS_EINVAL);
    oracle_free(&b.o);
    pair_close(&a);
    pair_close(&c);
    apus_engine_free(e);
    apus_engine_free(other);
    fake_model_free(m);
}

/* Logits that are not finite are an error, and no session has moved: whatever kinds of layers, long or
 * short calls, one lane or several, in the first step or a later one. */
static void not_finite(const float bad, bool full, int window, bool recur, int chunk)
{
    apus_model *m = fake_model(full, window, recur);
    apus_engine *e = help_engine(m, 400, chunk, 3);
    ap_rng rng;
    ap_rng_seed(&rng, 11);
    pair p[3];
    for (int i = 0; i < 3; i++) pair_open(&p[i], e);
    for (int i = 0; i < 3; i++) pair_feed(&p[i], 3 + 70 * i, &rng);
    for (int n = 1; n < 90; n += n < 9 ? 1 : 40) {
        int32_t tok[90] = {5, 6, 7, 8};
        float *logits = calloc(3 * 97, sizeof *logits);
        apus_feed f[3];
        for (int i = 0; i < 3; i++)
            f[i] = (apus_feed){.size = sizeof *f,
                               .session = p[i].s,
                               .tok = tok,
                               .n = n,
                               .logits = logits + 97 * i};
        fake.nan = bad;
        fake.nan_at =
            fake.n_forward + 1 +
            (chunk == 1 ? n : 0); /* with one token in a step, the first lane is through then */
        assert_int_equal(apus_feed_batch(e, f, 3, NULL, NULL, &diag), APUS_ENONFINITE);
        assert_non_null(strstr(diag.text, "not finite"));
        for (int i = 0; i < 3; i++) pair_check(&p[i]);
        fake.nan_at = fake.n_forward + 1;
        assert_int_equal(apus_session_feed(p[1].s, tok, n, logits, &diag), APUS_ENONFINITE);
        for (int i = 0; i < 3; i++) pair_check(&p[i]);
        free(logits);
    }
    assert_int_equal(fake.nan_at, 0);
    for (int i = 0; i < 3; i++) pair_feed(&p[i], 20, &rng);
    assert_int_equal(fake.faults, 0);
    for (int i = 0; i < 3; i++) pair_close(&p[i]);
    apus_engine_free(e);
    fake_model_free(m);
}

static void logits_that_are_not_finite_are_told(void **state)
{
    (void)state;
    const float bad[] = {NAN, INFINITY, -INFINITY, -NAN};
    for (int i = 0; i < 4; i++) {
        not_finite(bad[i], true, 0, false, 512);
        not_finite(bad[i], true, 40, true, 512);
        not_finite(bad[i], false, 0, true, 512);
    }
    not_finite(NAN, true, 40, true, 1);
    not_finite(NAN, true, 40, false, 2);
}

int main(int argc, char **argv)
{
    help_args(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chunk_size_changes_nothing),
        cmocka_unit_test(decoding_equals_prefill),
        cmocka_unit_test(batch_equals_alone),
        cmocka_unit_test(all_sessions_can_be_full),
        cmocka_unit_test(windows_bound_the_pages),
        cmocka_unit_test(bad_feeds_move_nothing),
        cmocka_unit_test(logits_that_are_not_finite_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
