/* Going back, forking, cancelling, and all of it mixed. */
#include <unistd.h>

#include "help.h"

static const struct {
    bool full;
    int window;
    bool recur;
} kinds[] = {{true, 0, false}, {false, 3, false}, {true, 50, false}, {false, 129, false},
             {true, 0, true},  {false, 0, true},  {true, 20, true}};
#define N_KINDS ((int)(sizeof kinds / sizeof kinds[0]))

static apus_model *model_of(int i)
{
    return fake_model(kinds[i].full, kinds[i].window, kinds[i].recur);
}

static void rewind_to_every_position(void **state)
{
    (void)state;
    enum { LEN = 290 };
    for (int i = 0; i < N_KINDS; i++) {
        apus_model *m = model_of(i);
        apus_engine *e = help_engine(m, 300, 48, 1);
        pair p;
        pair_open(&p, e);
        ap_rng rng;
        ap_rng_seed(&rng, 21);
        for (int pos = LEN; pos >= 0; pos -= pos > 220 || i == 4 ? 1 : 5) {
            if (p.o.pos < LEN) pair_feed(&p, LEN - p.o.pos, &rng);
            help_poison(e);
            assert_ok(apus_session_rewind(p.s, pos, &diag));
            oracle_rewind(&p.o, pos);
            help_poison(e);
            assert_int_equal(apus_session_pos(p.s), pos);
            pair_feed(&p, 1, &rng);
        }
        /* And from every position to a little before. */
        assert_ok(apus_session_rewind(p.s, 0, &diag));
        oracle_rewind(&p.o, 0);
        for (int pos = 0; pos < LEN;) {
            int n = random_int(&rng, 1, 20);
            pair_feed(&p, n < 300 - pos ? n : 300 - pos, &rng);
            pos = p.o.pos - random_int(&rng, 0, n < p.o.pos ? n : 0);
            assert_ok(apus_session_rewind(p.s, pos, &diag));
            oracle_rewind(&p.o, pos);
            help_poison(e);
        }
        assert_int_equal(apus_session_rewind(p.s, -1, &diag), APUS_EINVAL);
        assert_int_equal(apus_session_rewind(p.s, p.o.pos + 1, &diag), APUS_EINVAL);
        pair_check(&p);
        pair_close(&p);
        apus_engine_free(e);
        fake_model_free(m);
    }
}

/* After a long prompt and some decoding, going back to a little before the end of the prompt must
 * not run the whole prompt again. */
static void rewinding_a_turn_is_cheap(void **state)
{
    (void)state;
    for (int i = 0; i < N_KINDS; i++) {
        apus_model *m = model_of(i);
        apus_engine *e = help_engine(m, 1000, 64, 1);
        pair p;
        pair_open(&p, e);
        ap_rng rng;
        ap_rng_seed(&rng, 4);
        pair_feed(&p, 500, &rng);
        for (int j = 0; j < 400; j++) pair_feed(&p, 1, &rng);
        int before = fake.n_forward;
        assert_ok(apus_session_rewind(p.s, 495, &diag));
        oracle_rewind(&p.o, 495);
        int steps = fake.n_forward - before;
        if (!kinds[i].recur)
            assert_int_equal(steps, 0);
        else
            assert_true(steps <= 2);
        pair_check(&p);
        pair_close(&p);
        apus_engine_free(e);
        fake_model_free(m);
    }
}

/* A fork, too, knows where the prompt ended. */
static void rewinding_a_turn_of_a_fork_is_cheap(void **state)
{
    (void)state;
    for (int i = 0; i < N_KINDS; i++) {
        apus_model *m = model_of(i);
        apus_engine *e = help_engine(m, 1000, 64, 2);
        pair p, f;
        pair_open(&p, e);
        ap_rng rng;
        ap_rng_seed(&rng, 4);
        pair_feed(&p, 500, &rng);
        assert_ok(apus_session_fork(p.s, &f.s, &diag));
        oracle_init(&f.o, 1000);
        oracle_copy(&f.o, &p.o);
        for (int j = 0; j < 400; j++) pair_feed(&f, 1, &rng);
        int before = fake.n_forward;
        assert_ok(apus_session_rewind(f.s, 495, &diag));
        oracle_rewind(&f.o, 495);
        assert_true(fake.n_forward - before <= (kinds[i].recur ? 2 : 0));
        pair_check(&f);
        pair_close(&f);
        pair_close(&p);
        apus_engine_free(e);
        fake_model_free(m);
    }
}

/* The end of a call of more than 8 tokens is a turn. */
static void prompts_are_turns(void **state)
{
    (void)state;
    apus_model *m = fake_model(true, 50, true);
    apus_engine *e = help_engine(m, 300, 64, 1);
    pair p;
    ap_rng rng;
    ap_rng_seed(&rng, 4);
    pair_open(&p, e);
    pair_feed(&p, 8, &rng);
    assert_int_equal(p.s->turn, 0);
    pair_feed(&p, 9, &rng);
    assert_int_equal(p.s->turn, 17);
    pair_feed(&p, 8, &rng);
    assert_int_equal(p.s->turn, 17);
    pair_close(&p);
    apus_engine_free(e);
    fake_model_free(m);
}

static void forks_go_their_own_ways(void **state)
{
    (void)state;
    for (int i = 0; i < N_KINDS; i++) {
        apus_model *m = model_of(i);
        apus_engine *e = help_engine(m, 300, 64, 3);
        pair a, b, c;
        ap_rng rng;
        ap_rng_seed(&rng, 8);
        pair_open(&a, e);
        pair_feed(&a, 150, &rng);
        int free_before = e->pages[AP_KV_FULL].n_free;
        assert_ok(apus_session_fork(a.s, &b.s, &diag));
        assert_int_equal(e->pages[AP_KV_FULL].n_free, free_before); /* pages are shared */
        oracle_init(&b.o, 300);
        oracle_copy(&b.o, &a.o);
        pair_check(&b);
        pair_check(&a);
        for (int j = 0; j < 40; j++) {
            pair_feed(&a, 1 + j % 3, &rng);
            pair_feed(&b, 1, &rng);
            help_poison(e);
        }
        assert_ok(apus_session_fork(b.s, &c.s, &diag));
        oracle_init(&c.o, 300);
        oracle_copy(&c.o, &b.o);
        apus_session *fourth = NULL;
        assert_int_equal(apus_session_fork(b.s, &fourth, &diag), APUS_EFULL);
        assert_ok(apus_session_rewind(b.s, 100, &diag));
        oracle_rewind(&b.o, 100);
        pair_feed(&b, 100, &rng);
        help_poison(e);
        pair_close(&b);
        help_poison(e);
        pair_feed(&c, 20, &rng);
        pair_check(&a);
        pair_check(&c);
        pair_close(&a);
        pair_close(&c);
        for (int g = 0; g < AP_KV_GROUPS; g++)
            assert_int_equal(e->pages[g].n_free, e->pages[g].n_block);
        assert_int_equal(e->states.n_free, e->states.n_block);
        apus_engine_free(e);
        fake_model_free(m);
    }
}

/* Cancel in each step of a call on two sessions. The call is longer than the pages a window keeps,
 * and the last prompt's end lies far back, so that only the hold protects what the old positions
 * need. */
static void cancelled_feeds_move_nothing(void **state)
{
    (void)state;
    enum { LONG = 700 };
    for (int i = 0; i < N_KINDS; i++) {
        apus_model *m = model_of(i);
        apus_engine *e = help_engine(m, 1000, 32, 2);
        fake.cancel_engine = e;
        pair a, b;
        ap_rng rng;
        ap_rng_seed(&rng, 6);
        pair_open(&a, e);
        pair_open(&b, e);
        pair_feed(&a, 20, &rng);
        for (int j = 0; j < 200; j++) pair_feed(&a, 1, &rng);
        pair_feed(&b, 150, &rng);
        int32_t tok[LONG];
        float logits[2][97];
        for (int j = 0; j < LONG; j++) tok[j] = random_int(&rng, 0, 96);
        int step = 1;
        for (;; step += step < 4 ? 1 : 5) {
            apus_feed f[2] = {{.size = sizeof(apus_feed),
                               .session = a.s,
                               .tok = tok,
                               .n = LONG,
                               .logits = logits[0]},
                              {.size = sizeof(apus_feed),
                               .session = b.s,
                               .tok = tok,
                               .n = 50,
                               .logits = logits[1]}};
            help_poison(e);
            fake.cancel_at = fake.n_forward + step;
            apus_err err = apus_feed_batch(e, f, 2, NULL, NULL, &diag);
            fake.cancel_at = 0;
            if (!err) break;
            assert_int_equal(err, APUS_ECANCELLED);
            assert_int_equal(apus_session_pos(a.s), 220);
            assert_int_equal(apus_session_pos(b.s), 150);
            help_poison(e);
            pair_check(&a);
            pair_check(&b);
        }
        assert_true(step > 20);
        for (int j = 0; j < LONG; j++) oracle_push(&a.o, tok[j]);
        for (int j = 0; j < 50; j++) oracle_push(&b.o, tok[j]);
        float want[97];
        oracle_logits(&a.o, want);
        assert_memory_equal(logits[0], want, sizeof want);
        oracle_logits(&b.o, want);
        assert_memory_equal(logits[1], want, sizeof want);
        pair_check(&a);
        pair_check(&b);
        pair_close(&a);
        pair_close(&b);
        apus_engine_free(e);
        fake_model_free(m);
    }
}

static void cancelled_rewinds_move_nothing(void **state)
{
    (void)state;
    for (int i = 0; i < N_KINDS; i++) {
        apus_model *m = model_of(i);
        apus_engine *e = help_engine(m, 600, 32, 1);
        fake.cancel_engine = e;
        pair p;
        ap_rng rng;
        ap_rng_seed(&rng, 16);
        pair_open(&p, e);
        pair_feed(&p, 580, &rng);
        for (int step = 1;; step++) {
            help_poison(e);
            fake.cancel_at = fake.n_forward + step;
            apus_err err = apus_session_rewind(p.s, 250, &diag);
            fake.cancel_at = 0;
            if (!err) break;
            assert_int_equal(err, APUS_ECANCELLED);
            assert_int_equal(apus_session_pos(p.s), 580);
            pair_check(&p);
            /* Going back a little must not find half-written pages of the cancelled run. */
            if (step % 3 == 0) {
                int pos = random_int(&rng, 0, 60);
                assert_ok(apus_session_rewind(p.s, pos, &diag));
                oracle_rewind(&p.o, pos);
                pair_feed(&p, 580 - pos, &rng);
            }
            assert_true(step < 100);
            if (step > 5) step += 2;
        }
        oracle_rewind(&p.o, 250);
        pair_check(&p);
        pair_close(&p);
        apus_engine_free(e);
        fake_model_free(m);
    }
}

static bool stop_at(void *ctx, const char *stage, uint64_t done, uint64_t total)
{
    int *limit = ctx;
    assert_string_equal(stage, "prefill");
    assert_true(done <= total);
    return --*limit >= 0;
}

static void progress_can_stop(void **state)
{
    (void)state;
    apus_model *m = fake_model(true, 20, true);
    apus_engine *e = help_engine(m, 400, 32, 1);
    pair p;
    ap_rng rng;
    ap_rng_seed(&rng, 2);
    pair_open(&p, e);
    pair_feed(&p, 10, &rng);
    int32_t tok[100] = {0};
    apus_feed f = {.size = sizeof(apus_feed), .session = p.s, .tok = tok, .n = 100};
    for (int limit = 0; limit < 2; limit++) { /* the first report, the last one */
        int left = limit;
        assert_int_equal(apus_feed_batch(e, &f, 1, stop_at, &left, &diag), APUS_ECANCELLED);
        pair_check(&p);
    }
    int left = 1000;
    assert_ok(apus_feed_batch(e, &f, 1, stop_at, &left, &diag));
    assert_true(left < 1000);
    for (int i = 0; i < 100; i++) oracle_push(&p.o, 0);
    pair_check(&p);
    pair_close(&p);
    apus_engine_free(e);
    fake_model_free(m);
}

static bool nested(void *ctx, const char *stage, uint64_t done, uint64_t total)
{
    (void)stage, (void)done, (void)total;
    apus_session *s = ctx;
    int32_t tok = 1;
    apus_session *out = NULL;
    assert_int_equal(apus_session_feed(s, &tok, 1, NULL, &diag), APUS_EINVAL);
    assert_int_equal(apus_session_rewind(s, 0, &diag), APUS_EINVAL);
    assert_int_equal(apus_session_fork(s, &out, &diag), APUS_EINVAL);
    assert_int_equal(apus_session_save(s, "/nonexistent/x", &diag), APUS_EINVAL);
    return true;
}

static void callbacks_cannot_call_in(void **state)
{
    (void)state;
    apus_model *m = fake_model(true, 0, false);
    apus_engine *e = help_engine(m, 400, 32, 2);
    pair p;
    pair_open(&p, e);
    int32_t tok[100] = {0};
    apus_feed f = {.size = sizeof(apus_feed), .session = p.s, .tok = tok, .n = 100};
    assert_ok(apus_feed_batch(e, &f, 1, nested, p.s, &diag));
    for (int i = 0; i < 100; i++) oracle_push(&p.o, 0);
    pair_check(&p);
    pair_close(&p);
    apus_engine_free(e);
    fake_model_free(m);
}

/* ---------------------------------------------------------------- everything mixed */

enum { MANY = 4 };

static void random_feed(apus_engine *e, pair *p, ap_rng *rng)
{
    apus_feed f[MANY];
    static int32_t tok[MANY][400];
    static float logits[MANY][97];
    pair *who[MANY];
    int n = 0;
    for (int j = 0; j < MANY; j++) {
        int room = p[j].s ? apus_session_room(p[j].s) : 0;
        if (!room || !random_int(rng, 0, 2)) continue;
        int k = random_int(rng, 1, random_int(rng, 0, 2) ? 4 : 200);
        if (k > room) k = room;
        for (int t = 0; t < k; t++) tok[n][t] = random_int(rng, 0, 96);
        who[n] = &p[j];
        f[n] = (apus_feed){.size = sizeof(apus_feed),
                           .session = p[j].s,
                           .tok = tok[n],
                           .n = k,
                           .logits = logits[n]};
        n++;
    }
    if (!n) return;
    if (!random_int(rng, 0, 3)) fake.cancel_at = fake.n_forward + random_int(rng, 1, 5);
    apus_err err = apus_feed_batch(e, f, n, NULL, NULL, &diag);
    fake.cancel_at = 0;
    assert_true(err == APUS_OK || err == APUS_ECANCELLED);
    for (int j = 0; j < n && !err; j++) {
        float want[97];
        for (int t = 0; t < f[j].n; t++) oracle_push(&who[j]->o, f[j].tok[t]);
        oracle_logits(&who[j]->o, want);
        assert_memory_equal(f[j].logits, want, sizeof want);
    }
}

static void random_file(apus_engine *e, pair *p, const char *path)
{
    assert_ok(apus_session_save(p->s, path, &diag));
    apus_session_free(p->s);
    p->s = NULL;
    help_poison(e);
    assert_ok(apus_session_load(e, path, &p->s, &diag));
}

static void random_operation(apus_engine *e, pair *p, ap_rng *rng, const char *path)
{
    pair *a = &p[random_int(rng, 0, MANY - 1)], *b = &p[random_int(rng, 0, MANY - 1)];
    int op = random_int(rng, 0, 11);
    if (op < 5) {
        random_feed(e, p, rng);
    } else if (!a->s) {
        pair_open(a, e);
    } else if (op < 8) {
        int pos = random_int(rng, op == 5 || a->o.pos < 30 ? 0 : a->o.pos - 30, a->o.pos);
        if (!random_int(rng, 0, 2)) fake.cancel_at = fake.n_forward + random_int(rng, 1, 4);
        apus_err err = apus_session_rewind(a->s, pos, &diag);
        fake.cancel_at = 0;
        if (err)
            assert_int_equal(err, APUS_ECANCELLED);
        else
            oracle_rewind(&a->o, pos);
    } else if (op == 8 && !b->s) {
        assert_ok(apus_session_fork(a->s, &b->s, &diag));
        oracle_init(&b->o, e->size.ctx);
        oracle_copy(&b->o, &a->o);
    } else if (op == 9) {
        pair_close(a);
    } else if (op == 10) {
        random_file(e, a, path);
    } else {
        pair_check(a);
    }
}

static void any_mixture_keeps_the_bits(void **state)
{
    (void)state;
    char path[] = "/tmp/apus-session-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    for (int i = 0; i < N_KINDS; i++) {
        for (uint64_t seed = 0; seed < 6; seed++) {
            static const int chunks[] = {1, 7, 33, 64, 100, 0};
            apus_model *m = model_of(i);
            apus_engine *e = help_engine(m, 420, chunks[seed], MANY);
            fake.cancel_engine = e;
            pair p[MANY] = {0};
            ap_rng rng;
            ap_rng_seed(&rng, seed * 100 + (uint64_t)i);
            for (int round = 0; round < 80; round++) {
                random_operation(e, p, &rng, path);
                help_poison(e);
                assert_int_equal(fake.faults, 0);
            }
            for (int j = 0; j < MANY; j++) {
                if (!p[j].s) continue;
                pair_check(&p[j]);
                pair_close(&p[j]);
            }
            for (int g = 0; g < AP_KV_GROUPS; g++)
                assert_int_equal(e->pages[g].n_free, e->pages[g].n_block);
            assert_int_equal(e->states.n_free, e->states.n_block);
            apus_engine_free(e);
            fake_model_free(m);
        }
    }
    unlink(path);
}

int main(int argc, char **argv)
{
    help_args(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rewind_to_every_position),
        cmocka_unit_test(rewinding_a_turn_is_cheap),
        cmocka_unit_test(rewinding_a_turn_of_a_fork_is_cheap),
        cmocka_unit_test(prompts_are_turns),
        cmocka_unit_test(forks_go_their_own_ways),
        cmocka_unit_test(cancelled_feeds_move_nothing),
        cmocka_unit_test(cancelled_rewinds_move_nothing),
        cmocka_unit_test(progress_can_stop),
        cmocka_unit_test(callbacks_cannot_call_in),
        cmocka_unit_test(any_mixture_keeps_the_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
