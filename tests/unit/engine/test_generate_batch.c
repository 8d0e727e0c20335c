/* apus_generate_batch and the text of a generation. Text needs a tokenizer: that of tiny-qwen, whose
 * first ids are single bytes, so that characters and stop strings reach over several tokens. */
#include <stdio.h>

#include "help.h"

#include "base/utf8.h"

enum { N = 5, MOST = 120 };

typedef struct heard {
    int32_t id[MOST];
    int n, stop_after;
    char text[MOST * 8];
    size_t len;
    int n_text, text_after;
} heard;

static bool on_token(void *ctx, int32_t id)
{
    heard *h = ctx;
    h->id[h->n++] = id;
    return h->n != h->stop_after;
}

static bool on_text(void *ctx, const char *text, size_t len)
{
    heard *h = ctx;
    assert_true(len > 0 && ap_utf8_valid(text, len));
    memcpy(h->text + h->len, text, len);
    h->len += len;
    return ++h->n_text != h->text_after;
}

static apus_sampling random_way(uint64_t seed)
{
    apus_sampling s;
    apus_sampling_default(&s);
    s.temperature = 1.5f;
    s.repetition_penalty = 1.1f;
    s.seed = seed;
    return s;
}

static apus_generate_settings settings_of(heard *h, const apus_sampling *sampling)
{
    apus_generate_settings s;
    apus_generate_settings_default(&s);
    s.sampling = sampling;
    s.on_token = on_token;
    s.ctx = h;
    return s;
}

/* Sessions with their own prompt, sampling and end give what they give alone. */
static void check_batch(int chunk)
{
    apus_model *m = fake_model(true, 30, true);
    m->config.n_stop = 8;
    for (int i = 0; i < 8; i++) m->config.stop[i] = 7 * i;
    apus_engine *e = help_engine(m, 100, chunk, N);
    static heard alone[N], together[N];
    memset(alone, 0, sizeof alone);
    memset(together, 0, sizeof together);
    apus_generation list[N];
    apus_generate_settings set[N];
    apus_generate_result one[N], res[N];
    apus_sampling way[N];
    static int32_t prompt[N][60];
    apus_session *s[N];
    for (int i = 0; i < N; i++) {
        const int n = 1 + 11 * i;
        for (int j = 0; j < n; j++) prompt[i][j] = (i * 31 + j * 7) % 97;
        way[i] = random_way((uint64_t)i);
        set[i] = settings_of(&alone[i], &way[i]);
        set[i].ignore_eos = i != 1;
        set[i].max_tokens = i == 2 ? 9 : i == 0 ? 0 : -1;
        alone[i].stop_after = together[i].stop_after = i == 3 ? 13 : 0;
        one[i] = res[i] = (apus_generate_result){.size = sizeof *res};
        apus_session *a = NULL;
        assert_ok(apus_session_create(e, &a, &diag));
        assert_ok(apus_generate(a, prompt[i], n, &set[i], &one[i], &diag));
        apus_session_free(a);
        set[i].ctx = &together[i];
        list[i] = (apus_generation){.size = sizeof *list,
                                    .prompt = prompt[i],
                                    .n = n,
                                    .settings = &set[i],
                                    .result = &res[i]};
    }
    for (int i = 0; i < N; i++) {
        assert_ok(apus_session_create(e, &s[i], &diag));
        list[i].session = s[i];
    }
    assert_ok(apus_generate_batch(e, list, N, &diag));
    static const apus_stop why[N] = {APUS_STOP_LENGTH, APUS_STOP_TOKEN, APUS_STOP_LENGTH,
                                     APUS_STOP_CALLER, APUS_STOP_CONTEXT};
    for (int i = 0; i < N; i++) {
        assert_int_equal(res[i].stop, why[i]);
        assert_int_equal(res[i].stop, one[i].stop);
        assert_int_equal(res[i].stop_id, one[i].stop_id);
        assert_int_equal(res[i].n_prompt, list[i].n);
        assert_int_equal(res[i].n_generated, one[i].n_generated);
        assert_int_equal(together[i].n, alone[i].n);
        assert_memory_equal(together[i].id, alone[i].id, sizeof alone[i].id);
        int fed = together[i].n ? together[i].n - (res[i].stop != APUS_STOP_TOKEN) : 0;
        assert_int_equal(apus_session_pos(s[i]), list[i].n + fed);
        assert_memory_equal(apus_session_tokens(s[i]) + list[i].n, together[i].id,
                            (size_t)fed * sizeof(int32_t));
    }
    assert_true(alone[1].n > 0 && alone[4].n > 40);
    assert_int_equal(fake.faults, 0);
    apus_engine_free(e);
    fake_model_free(m);
}

static void batches_give_what_single_ones_give(void **state)
{
    (void)state;
    check_batch(32);
    check_batch(3); /* a decode step does not hold all of them */
}

/* ---------------------------------------------------------------- text */

static apus_model *model_with_text(void)
{
    apus_model *m = fake_model(true, 0, false);
    m->dir = "models/tiny-qwen";
    assert_ok(ap_tokenizer_load(m->dir, &m->tokenizer, &diag));
    return m;
}

static void free_model(apus_model *m)
{
    ap_tokenizer_free(m->tokenizer);
    m->tokenizer = NULL;
    m->dir = NULL;
    fake_model_free(m);
}

static apus_generate_result run(apus_engine *e, heard *h, const char *const *stop, int n_stop,
                                uint64_t seed)
{
    apus_session *s = NULL;
    apus_sampling way = random_way(seed);
    apus_generate_settings set = settings_of(h, &way);
    apus_generate_result res = {.size = sizeof res};
    h->n = h->n_text = 0;
    h->len = 0;
    set.on_text = on_text;
    set.stop_strings = stop;
    set.n_stop_strings = n_stop;
    set.max_tokens = MOST;
    assert_ok(apus_session_create(e, &s, &diag));
    assert_ok(apus_generate(s, (int32_t[]){1, 2}, 2, &set, &res, &diag));
    apus_session_free(s);
    return res;
}

/* Any part of what the model says as the stop string: the text ends where it first begins. */
static void text_ends_before_the_stop_string(void **state)
{
    (void)state;
    apus_model *m = model_with_text();
    apus_engine *e = help_engine(m, 200, 32, 1);
    heard all = {0}, cut = {0};
    apus_generate_result r = run(e, &all, NULL, 0, 3);
    assert_int_equal(r.stop, APUS_STOP_LENGTH);
    assert_int_equal(r.stop_string, -1);
    char *whole = NULL;
    size_t len;
    assert_ok(apus_detokenize(m, all.id, (size_t)all.n, true, &whole, &len, &diag));
    assert_int_equal(len, all.len);
    assert_memory_equal(whole, all.text, len);
    for (size_t at = 0; at < len; at++) {
        for (size_t n = 1; n <= 6 && at + n <= len; n++) {
            char stop[8] = {0};
            memcpy(stop, whole + at, n);
            if (!ap_utf8_valid(stop, n) || strlen(stop) != n) continue;
            const char *list[] = {"never said", stop};
            r = run(e, &cut, list, 2, 3);
            size_t first = (size_t)(strstr(whole, stop) - whole);
            assert_int_equal(r.stop, APUS_STOP_STRING);
            assert_int_equal(r.stop_string, 1);
            assert_int_equal(cut.len, first);
            assert_memory_equal(cut.text, whole, first);
            assert_int_equal(r.n_generated, cut.n);
            assert_true(cut.n <= all.n && !memcmp(cut.id, all.id, (size_t)cut.n * sizeof *cut.id));
        }
    }
    /* what looked like one to the end is text */
    char almost[MOST * 8 + 2];
    size_t tail = len - 9;
    while (!ap_utf8_valid(whole + tail, len - tail)) tail++;
    snprintf(almost, sizeof almost, "%s~", whole + tail);
    r = run(e, &cut, (const char *[]){almost}, 1, 3);
    assert_int_equal(r.stop, APUS_STOP_LENGTH);
    assert_int_equal(cut.len, len);
    assert_memory_equal(cut.text, whole, len);
    apus_free(whole);
    apus_engine_free(e);
    free_model(m);
}

static void text_callbacks_stop(void **state)
{
    (void)state;
    apus_model *m = model_with_text();
    apus_engine *e = help_engine(m, 200, 32, 1);
    heard h = {.text_after = 4};
    apus_generate_result r = run(e, &h, NULL, 0, 3);
    assert_int_equal(r.stop, APUS_STOP_CALLER);
    assert_int_equal(h.n_text, 4);
    h = (heard){.stop_after = 6};
    r = run(e, &h, NULL, 0, 3);
    assert_int_equal(r.stop, APUS_STOP_CALLER);
    assert_int_equal(h.n, 6);
    apus_engine_free(e);
    free_model(m);
}

static void bad_arguments(void **state)
{
    (void)state;
    apus_model *m = fake_model(true, 0, false);
    m->dir = "fake";
    apus_engine *e = help_engine(m, 100, 32, 2);
    apus_session *s[2] = {NULL};
    for (int i = 0; i < 2; i++) assert_ok(apus_session_create(e, &s[i], &diag));
    heard h = {0};
    apus_generate_settings set = settings_of(&h, NULL);
    const int32_t tok[3] = {1, 2, 97};
    apus_generation list[3] = {{.size = sizeof *list, .session = s[0], .prompt = tok, .n = 2},
                               {.size = sizeof *list, .session = s[1], .prompt = tok, .n = 2},
                               {.size = sizeof *list, .session = s[1], .prompt = tok, .n = 2}};
    list[0].settings = &set;
    assert_int_equal(apus_generate_batch(NULL, list, 1, &diag), APUS_EINVAL);
    assert_int_equal(apus_generate_batch(e, NULL, 1, &diag), APUS_EINVAL);
    assert_int_equal(apus_generate_batch(e, list, 0, &diag), APUS_EINVAL);
    assert_int_equal(apus_generate_batch(e, list, 3, &diag), APUS_EINVAL);
    assert_int_equal(apus_generate_batch(e, list + 1, 2, &diag),
                     APUS_EINVAL); /* one session twice */
    list[1].size = 8;
    assert_int_equal(apus_generate_batch(e, list, 2, &diag), APUS_EINVAL);
    list[1].size = sizeof *list;
    list[1].n = 3; /* an id outside the vocabulary */
    assert_int_equal(apus_generate_batch(e, list, 2, &diag), APUS_EINVAL);
    list[1].n = 2;
    list[1].session = NULL;
    assert_int_equal(apus_generate_batch(e, list, 2, &diag), APUS_EINVAL);
    set.on_text = on_text; /* no tokenizer */
    assert_int_equal(apus_generate_batch(e, list, 1, &diag), APUS_EUNSUPPORTED);
    set.on_text = NULL;
    set.n_stop_strings = 1;
    assert_int_equal(apus_generate_batch(e, list, 1, &diag), APUS_EINVAL);
    for (int i = 0; i < 2; i++) assert_int_equal(apus_session_pos(s[i]), 0);
    assert_int_equal(h.n, 0);
    m->dir = NULL;
    apus_engine_free(e);
    fake_model_free(m);
}

int main(int argc, char **argv)
{
    help_args(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batches_give_what_single_ones_give),
        cmocka_unit_test(text_ends_before_the_stop_string),
        cmocka_unit_test(text_callbacks_stop),
        cmocka_unit_test(bad_arguments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
