/* Every allocation fails in turn; computing makes none. */
#include <stdio.h>
#include <unistd.h>

#include "help.h"
#include "torture.h"

static char path[] = "/tmp/apus-torture-XXXXXX";

typedef struct fixture {
    apus_model *m;
    apus_engine *e;
    apus_session *s;
    int32_t tok[300];
} fixture;

static apus_err make_engine(void *ctx)
{
    fixture *f = ctx;
    apus_engine_settings s;
    apus_engine_settings_default(&s);
    s.max_sessions = 2;
    s.threads = 1;
    apus_engine *e = NULL;
    apus_err err = apus_engine_create(f->m, &s, &e, &diag);
    apus_engine_free(e);
    return err;
}

static apus_err make_sampler(void *ctx)
{
    (void)ctx;
    apus_sampler *p = NULL;
    apus_err err = apus_sampler_create(NULL, 100, &p, &diag);
    apus_sampler_free(p);
    return err;
}

static apus_err save(void *ctx)
{
    return apus_session_save(((fixture *)ctx)->s, path, &diag);
}

static apus_err load(void *ctx)
{
    fixture *f = ctx;
    apus_session *s = NULL;
    apus_err err = apus_session_load(f->e, path, &s, &diag);
    apus_session_free(s);
    return err;
}

static apus_err by_memory(void *ctx)
{
    fixture *f = ctx;
    void *data = NULL;
    size_t n = 0;
    apus_session *s = NULL;
    apus_err err = apus_session_save_memory(f->s, &data, &n, &diag);
    if (!err) err = apus_session_load_memory(f->e, data, n, &s, &diag);
    apus_session_free(s);
    apus_free(data);
    return err;
}

/* Only text and stop strings ask for memory. */
static apus_err stops(void *ctx)
{
    (void)ctx;
    ap_stops *s = NULL;
    const char *out, *const list[] = {"ab", "b"};
    size_t len;
    int hit;
    apus_err err = ap_stops_create(list, 2, &s, &diag);
    if (!err) err = ap_stops_push(s, "xxa", 3, &out, &len, &hit, &diag);
    if (!err) err = ap_stops_push(s, "a longer text", 13, &out, &len, &hit, &diag);
    ap_stops_free(s);
    return err;
}

static apus_err compute(void *ctx)
{
    fixture *f = ctx;
    float logits[2][97];
    apus_session *fork = NULL;
    apus_err err = apus_session_rewind(f->s, 0, &diag);
    if (!err) err = apus_session_feed(f->s, f->tok, 300, logits[0], &diag);
    if (!err) err = apus_session_fork(f->s, &fork, &diag);
    if (!err) err = apus_session_rewind(fork, 130, &diag);
    apus_feed feeds[2] = {
        {.size = sizeof(apus_feed), .session = f->s, .tok = f->tok, .n = 50, .logits = logits[0]},
        {.size = sizeof(apus_feed), .session = fork, .tok = f->tok, .n = 1, .logits = logits[1]}};
    if (!err) err = apus_feed_batch(f->e, feeds, 2, NULL, NULL, &diag);
    apus_generate_settings g;
    apus_sampling sampling;
    apus_sampling_default(&sampling);
    sampling.repetition_penalty = 1.1f;
    apus_generate_settings_default(&g);
    g.max_tokens = 30;
    g.sampling = &sampling;
    apus_generation both[2] = {{.size = sizeof *both, .session = f->s, .prompt = f->tok, .n = 5},
                               {.size = sizeof *both, .session = fork, .prompt = f->tok, .n = 7}};
    both[0].settings = both[1].settings = &g;
    if (!err) err = apus_generate_batch(f->e, both, 2, &diag);
    apus_session_free(fork);
    return err;
}

static void allocations_fail_in_turn(void **state)
{
    (void)state;
    fixture f = {.m = fake_model(true, 40, true)};
    assert_true(torture(make_engine, &f) > 10);
    assert_true(torture(make_sampler, &f) > 0);
    f.e = help_engine(f.m, 500, 64, 2);
    assert_ok(apus_session_create(f.e, &f.s, &diag));
    assert_int_equal(torture(compute, &f), 0);
    assert_true(torture(save, &f) > 0);
    assert_true(torture(load, &f) > 3);
    assert_true(torture(by_memory, &f) > 4);
    assert_true(torture(stops, &f) > 3);
    assert_int_equal(fake.faults, 0);
    apus_engine_free(f.e);
    fake_model_free(f.m);
}

int main(int argc, char **argv)
{
    help_args(argc, argv);
    const struct CMUnitTest tests[] = {cmocka_unit_test(allocations_fail_in_turn)};
    int fd = mkstemp(path);
    if (fd < 0) return 1;
    close(fd);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return failed;
}
