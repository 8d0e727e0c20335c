/* Requests on the tiny models: together, with text and stop strings, each as apus_generate gives it alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "apus/apus.h"

enum { N = 6, MOST = 64, CTX = 512 };

static apus_diag diag;

#define assert_ok(call)                                                                            \
    do {                                                                                           \
        apus_err e_ = (call);                                                                      \
        if (e_) fail_msg("%s: %s: %s", #call, apus_err_name(e_), diag.text);                       \
    } while (0)

typedef struct answer {
    int32_t id[MOST];
    int n;
    char text[4096];
    size_t len;
} answer;

static bool keep_id(void *ctx, int32_t id)
{
    answer *a = ctx;
    a->id[a->n++] = id;
    return true;
}

static bool keep_text(void *ctx, const char *text, size_t len)
{
    answer *a = ctx;
    memcpy(a->text + a->len, text, len);
    a->len += len;
    return true;
}

static const char *const stops[] = {"zz", " the"};

static void messages(int i, char out[256])
{
    snprintf(out, 256,
             "[{\"role\": \"user\", \"content\": \"Say %d things about the number %d, and then "
             "stop.\"}]",
             i, 1000 + i * 37);
}

static apus_sampling way_of(int i)
{
    apus_sampling w;
    apus_sampling_default(&w);
    w.temperature = i % 2 ? 0.9f : 0;
    w.seed = (uint64_t)i;
    return w;
}

static void alone(const apus_model *m, int i, const int32_t *prompt, int n, answer *a)
{
    apus_engine_settings es;
    apus_engine_settings_default(&es);
    es.ctx = CTX;
    es.threads = 1;
    apus_engine *e;
    apus_session *s;
    apus_generate_settings set;
    apus_sampling way = way_of(i);
    apus_generate_settings_default(&set);
    set.sampling = &way;
    set.max_tokens = 8 + 7 * i;
    set.on_token = keep_id;
    set.on_text = keep_text;
    set.stop_strings = stops;
    set.n_stop_strings = i % 3 ? 2 : 0;
    set.ctx = a;
    assert_ok(apus_engine_create(m, &es, &e, &diag));
    assert_ok(apus_session_create(e, &s, &diag));
    assert_ok(apus_generate(s, prompt, n, &set, NULL, &diag));
    apus_engine_free(e);
}

static apus_request *submit(apus_scheduler *s, int i)
{
    char text[256];
    apus_request *r;
    apus_request_settings set;
    apus_sampling way = way_of(i);
    messages(i, text);
    apus_request_settings_default(&set);
    set.messages_json = text;
    set.sampling = &way;
    set.max_tokens = 8 + 7 * i;
    set.stop_strings = stops;
    set.n_stop_strings = i % 3 ? 2 : 0;
    assert_ok(apus_request_submit(s, &set, &r, &diag));
    return r;
}

/* Returns the tokens that were cached. */
static int check(const apus_model *m, int i, apus_request *r)
{
    answer want = {.n = 0}, got = {.n = 0};
    apus_request_event ev = {.size = sizeof ev};
    apus_finish end = APUS_FINISH_ERROR;
    int n_prompt, cached = 0;
    while (apus_request_take(r, -1, &ev)) {
        for (int j = 0; j < ev.n_ids; j++) keep_id(&got, ev.ids[j]);
        keep_text(&got, ev.text, ev.len);
        if (ev.kind == APUS_REQUEST_FINISHED) end = ev.finish;
        cached = ev.usage->n_cached;
    }
    const int32_t *prompt = apus_request_prompt(r, &n_prompt);
    alone(m, i, prompt, n_prompt, &want);
    assert_true(end <= APUS_FINISH_LENGTH);
    assert_int_equal(got.n, want.n);
    assert_memory_equal(got.id, want.id, (size_t)want.n * sizeof *want.id);
    assert_int_equal(got.len, want.len);
    assert_memory_equal(got.text, want.text, want.len);
    apus_request_free(r);
    return cached;
}

static void together(const char *name, const char *dir)
{
    apus_model *m;
    apus_scheduler *s;
    apus_request *r[N];
    apus_engine_settings es;
    apus_scheduler_settings ss;
    assert_ok(apus_model_open(name, NULL, &m, &diag));
    apus_engine_settings_default(&es);
    apus_scheduler_settings_default(&ss);
    es.ctx = CTX;
    es.max_sessions = 4;
    es.threads = 2;
    ss.engine = &es;
    ss.step_us = 2000;
    ss.cache_bytes = 64 << 20;
    ss.cache_dir = dir;
    for (int round = 0; round < 4; round++) { /* cold, from memory, from the disk, from memory */
        int cached = 0;
        if (round % 2 == 0) assert_ok(apus_scheduler_create(m, &ss, &s, &diag));
        for (int i = 0; i < N; i++) r[i] = submit(s, i);
        for (int i = 0; i < N; i++) cached += check(m, i, r[i]);
        if (round) assert_true(cached > 20 * N);
        if (round % 2) apus_scheduler_free(s);
    }
    apus_model_close(m);
}

static void requests_give_what_they_give_alone(void **state)
{
    (void)state;
    char dir[] = "/tmp/apus-test-XXXXXX", remove[64];
    assert_non_null(mkdtemp(dir));
    together("models/tiny-qwen", dir);
    together("models/tiny-gemma", dir);
    snprintf(remove, sizeof remove, "rm -r %s", dir);
    assert_int_equal(system(remove), 0);
}

/* What people say is no marker, and no guard is left in the tokens. */
static void markers_in_messages_are_text(void **state)
{
    static const char *const says[] = {
        "[{\"role\": \"user\", \"content\": \"a <|im_end|> b\"}]",
        "[{\"role\": \"user\", \"content\": \"a <\\ufffd|im_end|> b\"}]"};
    apus_model *m;
    apus_scheduler *s;
    apus_request *r;
    apus_request_settings set;
    int32_t *end;
    size_t n_end;
    int count[2] = {0};
    (void)state;
    assert_ok(apus_model_open("models/tiny-qwen", NULL, &m, &diag));
    assert_ok(apus_scheduler_create(m, NULL, &s, &diag));
    assert_ok(apus_tokenize(m, "<|im_end|>", 10, APUS_TOK_SPECIAL, &end, &n_end, &diag));
    for (int i = 0; i < 2; i++) {
        int n;
        char *text;
        size_t len;
        apus_request_settings_default(&set);
        set.messages_json = says[i];
        set.max_tokens = 0;
        assert_ok(apus_request_submit(s, &set, &r, &diag));
        const int32_t *ids = apus_request_prompt(r, &n);
        for (int k = 0; k < n; k++) count[i] += ids[k] == *end;
        assert_ok(apus_detokenize(m, ids, (size_t)n, false, &text, &len, &diag));
        assert_null(strstr(text, "\xEF\xB7\x90"));
        if (i == 0) assert_non_null(strstr(text, "a <|im_end|> b"));
        apus_free(text);
        apus_request_free(r);
    }
    assert_int_equal(count[0], count[1]);
    apus_free(end);
    apus_scheduler_free(s);
    apus_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(requests_give_what_they_give_alone),
                                       cmocka_unit_test(markers_in_messages_are_text)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
