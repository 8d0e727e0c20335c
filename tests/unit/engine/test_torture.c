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

static apus_err compute(void *ctx)
{
    fixture *f = ctx;
    float logits[2][97];
    apus_session *fork = NULL;
    apus_err err = apus_session_rewind(f->s, 0, &diag);
    if (!err) err = apus_session_feed(f->s, f->tok, 300, logits[0], &diag);
    if (!err) err = apus_session_fork(f->s, &fork, &diag);
    if (!err) err = apus_session_rewind(fork, 130, &diag);
    apus_feed feeds[2] = {{.session = f->s, .tok = f->tok, .n = 50, .logits = logits[0]},
                          {.session = fork, .tok = f->tok, .n = 1, .logits = logits[1]}};
    if (!err) err = apus_feed_batch(f->e, feeds, 2, NULL, NULL, &diag);
    apus_generate_settings g;
    apus_generate_settings_default(f->m, &g);
    g.max_tokens = 30;
    g.sampling.repetition_penalty = 1.1f;
    if (!err) err = apus_generate(f->s, f->tok, 5, &g, NULL, &diag);
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
    assert_int_equal(fake.faults, 0);
    apus_engine_free(f.e);
    fake_model_free(f.m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(allocations_fail_in_turn)};
    int fd = mkstemp(path);
    if (fd < 0) return 1;
    close(fd);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return failed;
}
