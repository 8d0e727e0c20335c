/* apus_generate: every way to stop, what the session holds afterwards. */
#include <math.h>

#include "help.h"

typedef struct heard {
    int32_t id[1000];
    int n, stop_after;
    apus_engine *cancel;
    int n_progress, progress_stop;
} heard;

static bool on_token(void *ctx, int32_t id)
{
    heard *l = ctx;
    l->id[l->n++] = id;
    if (l->cancel && l->n == l->stop_after) apus_cancel(l->cancel);
    return l->cancel || l->n != l->stop_after;
}

static bool on_progress(void *ctx, const char *stage, uint64_t done, uint64_t total)
{
    heard *l = ctx;
    assert_string_equal(stage, "prefill");
    assert_true(done <= total);
    return ++l->n_progress != l->progress_stop;
}

/* Greedy continuation by the oracle. */
static int32_t best(const oracle *o, int banned)
{
    float x[97];
    oracle_logits(o, x);
    int b = -1;
    for (int i = 0; i < 97; i++)
        if (i != banned && (b < 0 || x[i] > x[b])) b = i;
    return b;
}

static const apus_sampling greedy = {.size = sizeof greedy, .top_p = 1, .repetition_penalty = 1};

static apus_generate_settings settings_of(heard *l)
{
    apus_generate_settings s;
    apus_generate_settings_default(&s);
    s.sampling = &greedy;
    s.on_token = on_token;
    s.ctx = l;
    return s;
}

static void check_prompt(oracle *o, const int32_t *tok, int n)
{
    for (int i = 0; i < n; i++) oracle_push(o, tok[i]);
}

static void generates_and_stops(void **state)
{
    (void)state;
    for (int recur = 0; recur < 2; recur++) {
        apus_model *m = fake_model(true, 30, recur);
        m->config.n_suppress = 2;
        m->config.suppress[0] = 4711; /* outside: nothing */
        m->config.suppress[1] = -1;
        apus_engine *e = help_engine(m, 150, 32, 1);
        pair p;
        pair_open(&p, e);
        const int32_t prompt[5] = {1, 2, 3, 4, 5};
        heard l = {0};
        apus_generate_settings s = settings_of(&l);
        apus_generate_result r = {.size = sizeof r};

        /* by length */
        s.max_tokens = 7;
        assert_ok(apus_generate(p.s, prompt, 5, &s, &r, &diag));
        assert_int_equal(r.stop, APUS_STOP_LENGTH);
        assert_int_equal(r.stop_id, -1);
        assert_int_equal(r.n_prompt, 5);
        assert_int_equal(r.n_generated, 7);
        assert_int_equal(l.n, 7);
        assert_true(r.prefill_us >= 0 && r.decode_us >= 0);
        check_prompt(&p.o, prompt, 5);
        for (int i = 0; i < 7; i++) {
            assert_int_equal(l.id[i], best(&p.o, -1));
            if (i < 6) oracle_push(&p.o, l.id[i]);
        }
        pair_check(&p); /* all but the last token */

        /* none at all */
        l.n = 0;
        s.max_tokens = 0;
        assert_ok(apus_generate(p.s, prompt, 5, &s, &r, &diag));
        assert_int_equal(r.stop, APUS_STOP_LENGTH);
        assert_int_equal(r.n_generated, 0);
        check_prompt(&p.o, prompt, 5);
        pair_check(&p);

        /* by a stop token: the third that comes next */
        oracle next;
        oracle_init(&next, 1000);
        oracle small = p.o;
        small.cap = 150;
        oracle_copy(&next, &small);
        oracle_push(&next, 9);
        int32_t first = best(&next, -1);
        oracle_push(&next, first);
        int32_t second = best(&next, -1);
        oracle_push(&next, second);
        int32_t third = best(&next, -1);
        assert_true(third != first && third != second);
        m->config.n_stop = 2;
        m->config.stop[0] = 1000;
        m->config.stop[1] = third;
        s.max_tokens = -1;
        assert_ok(apus_generate(p.s, (int32_t[]){9}, 1, &s, &r, &diag));
        assert_int_equal(r.stop, APUS_STOP_TOKEN);
        assert_int_equal(r.stop_id, third);
        assert_int_equal(r.n_generated, 2);
        assert_int_equal(l.n, 2);
        check_prompt(&p.o, (int32_t[]){9, first, second}, 3);
        pair_check(&p);

        /* suppressed: the second best takes its place */
        l.n = 0;
        assert_ok(ap_chooser_forbid(&e->chooser, (int32_t[]){4711, third}, 2, &diag));
        s.max_tokens = 1;
        assert_ok(apus_session_rewind(p.s, p.o.pos - 1, &diag));
        oracle_rewind(&p.o, p.o.pos - 1);
        assert_ok(apus_generate(p.s, &second, 1, &s, &r, &diag));
        oracle_push(&p.o, second);
        assert_int_equal(l.id[0], best(&p.o, third));
        static int32_t every[97];
        for (int32_t i = 0; i < 97; i++) every[i] = i;
        assert_ok(ap_chooser_forbid(&e->chooser, every, 97, &diag));
        assert_int_equal(apus_generate(p.s, &third, 1, &s, &r, &diag), APUS_EFORMAT);
        assert_non_null(strstr(diag.text, "suppress_tokens"));
        assert_ok(apus_session_rewind(p.s, p.o.pos, &diag));
        assert_ok(ap_chooser_forbid(&e->chooser, NULL, 0, &diag));

        /* past stop tokens */
        l.n = 0;
        s.ignore_eos = true;
        s.max_tokens = 2;
        assert_ok(apus_session_rewind(p.s, p.o.pos - 1, &diag));
        assert_ok(apus_generate(p.s, &second, 1, &s, &r, &diag));
        assert_int_equal(l.id[0], third);
        assert_int_equal(r.stop, APUS_STOP_LENGTH);
        oracle_push(&p.o, third);
        pair_check(&p);

        /* by the callback */
        l.n = 0;
        l.stop_after = 3;
        s.max_tokens = -1;
        assert_ok(apus_generate(p.s, prompt, 1, &s, &r, &diag));
        assert_int_equal(r.stop, APUS_STOP_CALLER);
        assert_int_equal(r.n_generated, 3);
        check_prompt(&p.o, (int32_t[]){1, l.id[0], l.id[1]}, 3);
        pair_check(&p);

        /* by apus_cancel while decoding */
        l.n = 0;
        l.cancel = e;
        assert_ok(apus_generate(p.s, prompt, 1, &s, &r, &diag));
        assert_int_equal(r.stop, APUS_STOP_CALLER);
        assert_int_equal(r.n_generated, 3);
        check_prompt(&p.o, (int32_t[]){1, l.id[0], l.id[1]}, 3);
        pair_check(&p);

        /* by the end of the context */
        l = (heard){0};
        assert_ok(apus_generate(p.s, prompt, 1, &s, &r, &diag));
        assert_int_equal(r.stop, APUS_STOP_CONTEXT);
        assert_int_equal(apus_session_room(p.s), 0);
        oracle_push(&p.o, 1);
        for (int i = 0; i < l.n; i++) {
            assert_int_equal(l.id[i], best(&p.o, -1));
            if (i < l.n - 1) oracle_push(&p.o, l.id[i]);
        }
        assert_int_equal(p.o.pos, 150);
        assert_int_equal(apus_generate(p.s, prompt, 1, &s, &r, &diag), APUS_EFULL);
        assert_non_null(strstr(diag.text, "150"));
        oracle_free(&next);
        pair_close(&p);
        apus_engine_free(e);
        fake_model_free(m);
    }
}

static void prefill_can_be_cancelled(void **state)
{
    (void)state;
    apus_model *m = fake_model(true, 30, true);
    apus_engine *e = help_engine(m, 400, 32, 1);
    pair p;
    pair_open(&p, e);
    ap_rng rng;
    ap_rng_seed(&rng, 2);
    pair_feed(&p, 20, &rng);
    int32_t prompt[200] = {0};
    heard l = {0};
    apus_generate_settings s = settings_of(&l);
    s.progress = on_progress;
    apus_generate_result r = {.size = sizeof r};
    fake.cancel_engine = e;
    fake.cancel_at = fake.n_forward + 3;
    assert_ok(apus_generate(p.s, prompt, 200, &s, &r, &diag));
    fake.cancel_at = 0;
    assert_int_equal(r.stop, APUS_STOP_CALLER);
    assert_int_equal(r.n_prompt, 0);
    assert_int_equal(r.n_generated, 0);
    assert_int_equal(l.n, 0);
    assert_true(l.n_progress >= 1);
    pair_check(&p);
    l.progress_stop = l.n_progress + 1;
    assert_ok(apus_generate(p.s, prompt, 200, &s, &r, &diag));
    assert_int_equal(r.stop, APUS_STOP_CALLER);
    pair_check(&p);
    pair_close(&p);
    apus_engine_free(e);
    fake_model_free(m);
}

static void sampling_repeats(void **state)
{
    (void)state;
    apus_model *m = fake_model(true, 0, false);
    apus_engine *e = help_engine(m, 300, 32, 1);
    heard l[3] = {0};
    for (int i = 0; i < 3; i++) {
        apus_session *s = NULL;
        assert_ok(apus_session_create(e, &s, &diag));
        apus_generate_settings set = settings_of(&l[i]);
        apus_sampling sampling = greedy;
        sampling.temperature = 1;
        sampling.top_k = 30;
        sampling.repetition_penalty = 1.2f;
        sampling.seed = i < 2 ? 1 : 2;
        set.sampling = &sampling;
        set.max_tokens = 100;
        assert_ok(apus_generate(s, (int32_t[]){1, 2}, 2, &set, NULL, &diag));
        apus_session_free(s);
    }
    assert_memory_equal(l[0].id, l[1].id, sizeof l[0].id);
    assert_true(memcmp(l[0].id, l[2].id, sizeof l[0].id) != 0);
    apus_engine_free(e);
    fake_model_free(m);
}

static void bad_arguments(void **state)
{
    (void)state;
    apus_model *m = fake_model(true, 0, false);
    apus_engine *e = help_engine(m, 300, 32, 1);
    apus_session *s = NULL;
    assert_ok(apus_session_create(e, &s, &diag));
    apus_generate_settings set;
    apus_sampling sampling = greedy;
    apus_generate_settings_default(&set);
    set.sampling = &sampling;
    apus_generate_result r = {.size = 0};
    const int32_t tok[2] = {1, 97};
    assert_int_equal(apus_generate(NULL, tok, 1, &set, NULL, &diag), APUS_EINVAL);
    assert_int_equal(apus_generate(s, tok, 1, &set, &r, &diag), APUS_EINVAL);
    assert_int_equal(apus_generate(s, tok, 2, &set, NULL, &diag), APUS_EINVAL);
    assert_int_equal(apus_generate(s, tok, 0, &set, NULL, &diag), APUS_EINVAL);
    set.max_tokens = -2;
    assert_int_equal(apus_generate(s, tok, 1, &set, NULL, &diag), APUS_EINVAL);
    set.max_tokens = 1;
    sampling.top_p = 2;
    assert_int_equal(apus_generate(s, tok, 1, &set, NULL, &diag), APUS_EINVAL);
    sampling.top_p = 1;
    set.size = sizeof set + 8;
    assert_int_equal(apus_generate(s, tok, 1, &set, NULL, &diag), APUS_EINVAL);
    set.size = sizeof set;
    sampling.size = 0;
    assert_int_equal(apus_generate(s, tok, 1, &set, NULL, &diag), APUS_EINVAL);
    assert_int_equal(apus_session_pos(s), 0);
    assert_ok(apus_generate(s, tok, 1, NULL, NULL, &diag)); /* to the end of the context */
    assert_int_equal(apus_session_room(s), 0);
    apus_engine_free(e);
    fake_model_free(m);
}

/* A model that gives no numbers, and a device that fails: told, and the session is where it was. */
static void failures_are_told(void **state)
{
    (void)state;
    apus_model *m = fake_model(true, 30, true);
    apus_engine *e = help_engine(m, 150, 32, 1);
    pair p;
    pair_open(&p, e);
    apus_generate_settings s;
    apus_generate_settings_default(&s);
    apus_generate_result r = {.size = sizeof r};
    fake.nan = NAN;
    fake.nan_at = fake.n_forward + 1;
    assert_int_equal(apus_generate(p.s, (int32_t[]){1, 2}, 2, &s, &r, &diag), APUS_ENONFINITE);
    assert_non_null(strstr(diag.text, "not finite"));
    assert_ok(apus_session_rewind(p.s, 0, &diag));
    fake.lost = true;
    float logits[97];
    assert_int_equal(apus_session_feed(p.s, (int32_t[]){1}, 1, logits, &diag), APUS_EDEVICE);
    assert_int_equal(apus_session_pos(p.s), 0);
    assert_int_equal(apus_generate(p.s, (int32_t[]){1}, 1, &s, &r, &diag), APUS_EDEVICE);
    fake.lost = false;
    assert_int_equal(fake.faults, 0);
    pair_close(&p);
    apus_engine_free(e);
    fake_model_free(m);
}

/* A second engine does not wait for the workers of the first. */
static void engines_do_not_share_workers(void **state)
{
    (void)state;
    apus_model *m = fake_model(true, 0, false);
    apus_engine *a = help_engine(m, 100, 32, 1), *b = help_engine(m, 100, 32, 1);
    assert_ptr_equal(a->exec.dev, m->dev);
    assert_true(fake_host == (b->exec.dev != m->dev));
    apus_engine_free(a);
    a = help_engine(m, 100, 32, 1);
    assert_ptr_equal(a->exec.dev, m->dev);
    apus_engine_free(a);
    apus_engine_free(b);
    assert_int_equal(m->dev->lent, 0);
    fake_model_free(m);
}

int main(int argc, char **argv)
{
    help_args(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(generates_and_stops), cmocka_unit_test(prefill_can_be_cancelled),
        cmocka_unit_test(sampling_repeats),    cmocka_unit_test(bad_arguments),
        cmocka_unit_test(failures_are_told),   cmocka_unit_test(engines_do_not_share_workers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
