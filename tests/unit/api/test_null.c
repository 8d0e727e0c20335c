/* NULL, sizes and numbers out of range in every public function: EINVAL with a sentence, or nothing at
 * all. tests/rules checks that no function is missing here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "apus/apus_unstable.h"

static apus_diag diag;
static apus_model *model;
static apus_engine *engine;
static apus_session *session;

/* The diagnosis may always be NULL too. */
#define REFUSED(call)                                                                              \
    do {                                                                                           \
        apus_diag *d = &diag;                                                                      \
        memset(&diag, 0, sizeof diag);                                                             \
        apus_err err = (call);                                                                     \
        if (err != APUS_EINVAL || diag.code != APUS_EINVAL || !diag.text[0])                       \
            fail_msg("%s: %d \"%s\"", #call, err, diag.text);                                      \
        d = NULL;                                                                                  \
        assert_int_equal((call), APUS_EINVAL);                                                     \
        (void)d;                                                                                   \
    } while (0)

static void ignore_event(void *ctx, const apus_event *ev)
{
    (void)ctx;
    (void)ev;
}

static void ignore_found(void *ctx, const apus_nonfinite *t)
{
    (void)ctx;
    (void)t;
}

static void *no_memory(void *ctx, size_t n)
{
    (void)ctx;
    (void)n;
    return NULL;
}

static void *no_more(void *ctx, void *p, size_t n)
{
    (void)p;
    return no_memory(ctx, n);
}

static void no_release(void *ctx, void *p)
{
    (void)ctx;
    (void)p;
}

/* By now something was allocated, so that even a whole allocator comes too late. */
static void allocators(void **state)
{
    (void)state;
    apus_allocator a = {sizeof a, no_memory, no_more, no_release, NULL};
    REFUSED(apus_set_allocator(NULL, d));
    REFUSED(apus_set_allocator(&a, d));
    a.size = 1;
    REFUSED(apus_set_allocator(&a, d));
    a = (apus_allocator){.size = sizeof a};
    REFUSED(apus_set_allocator(&a, d));
}

static void names(void **state)
{
    (void)state;
    apus_cpu cpu;
    apus_precision p;
    apus_kv kv;
    REFUSED(apus_cpu_parse(NULL, &cpu, d));
    REFUSED(apus_cpu_parse("ref", NULL, d));
    REFUSED(apus_cpu_parse("", &cpu, d));
    REFUSED(apus_precision_parse(NULL, &p, d));
    REFUSED(apus_precision_parse("high", NULL, d));
    REFUSED(apus_kv_parse(NULL, &kv, d));
    REFUSED(apus_kv_parse("f32", NULL, d));
    for (int i = -3; i < 100; i += i < 20 ? 1 : 37) {
        assert_non_null(apus_err_name((apus_err)i));
        assert_non_null(apus_cpu_name((apus_cpu)i));
        assert_non_null(apus_precision_name((apus_precision)i));
        assert_non_null(apus_kv_name((apus_kv)i));
        assert_non_null(apus_unit_name((apus_unit)i));
        apus_cpu_has((apus_cpu)i);
    }
    assert_false(apus_cpu_has((apus_cpu)-1));
    assert_false(apus_cpu_has((apus_cpu)99));
    assert_non_null(apus_version());
    assert_true(apus_cpu_has(apus_cpu_best()));
}

static void nothing_is_fine(void **state)
{
    (void)state;
    apus_free(NULL);
    apus_model_close(NULL);
    apus_engine_free(NULL);
    apus_session_free(NULL);
    apus_detok_free(NULL);
    apus_chat_parser_free(NULL);
    apus_sampler_free(NULL);
    apus_stops_free(NULL);
    apus_output_drop(NULL);
    apus_outputs_remove();
    apus_cancel(NULL);
    apus_model_settings_default(NULL);
    apus_engine_settings_default(NULL);
    apus_chat_settings_default(NULL);
    apus_sampling_default(NULL);
    apus_sampling_from_model(model, NULL);
    apus_sampling_from_model(NULL, NULL);
    apus_generate_settings_default(NULL);
    apus_quantize_settings_default(NULL);
    apus_synth_settings_default(NULL);
    apus_repack_settings_default(NULL);
    apus_check_settings_default(NULL);
    assert_int_equal(apus_session_pos(NULL), 0);
    assert_int_equal(apus_session_room(NULL), 0);
    assert_null(apus_session_tokens(NULL));
    assert_null(apus_model_note(NULL, 0));
    assert_null(apus_model_note(model, SIZE_MAX));
    assert_false(apus_is_stop_token(NULL, 0));
    assert_int_equal(apus_text_start(NULL), -1);
    assert_int_equal(apus_engine_profile_read(NULL, NULL, 0), 0);
    assert_true(apus_engine_profile_read(engine, NULL, 5) >= 0);
}

static void models(void **state)
{
    (void)state;
    apus_model *m = NULL;
    apus_model_settings s;
#define BAD(change)                                                                                \
    do {                                                                                           \
        apus_model_settings_default(&s);                                                           \
        change;                                                                                    \
        REFUSED(apus_model_open("models/tiny-qwen", &s, &m, d));                                   \
        assert_null(m);                                                                            \
    } while (0)
    REFUSED(apus_model_open(NULL, NULL, &m, d));
    REFUSED(apus_model_open("models/tiny-qwen", NULL, NULL, d));
    BAD(s.size = 0);
    BAD(s.size = 7);
    BAD(s.size = sizeof s + 1);
    BAD(s.size = SIZE_MAX);
    BAD(s.load = (apus_load)3);
    BAD(s.load = (apus_load)-1);
    BAD(s.cpu = (apus_cpu)99);
    BAD(s.cpu = (apus_cpu)-1);
    BAD(s.threads = -1);
    BAD(s.threads = 1 << 30);
    BAD(s.precision = (apus_precision)3);
    BAD(s.precision = (apus_precision)-1);
    BAD(s.device = "");
    BAD(s.device = "gpu");
    BAD(s.device = "cuda:");
    apus_info info = {.size = sizeof info};
    REFUSED(apus_model_info(NULL, &info, d));
    REFUSED(apus_model_info(model, NULL, d));
    for (size_t size = 0; size < 8; size++) {
        info.size = size;
        REFUSED(apus_model_info(model, &info, d));
    }
    info.size = sizeof info + 1;
    REFUSED(apus_model_info(model, &info, d));
    apus_expert_stats experts = {.size = sizeof experts};
    REFUSED(apus_model_experts(NULL, &experts, d));
    REFUSED(apus_model_experts(model, NULL, d));
    experts.size = 4;
    REFUSED(apus_model_experts(model, &experts, d));
    experts.size = sizeof experts + 1;
    REFUSED(apus_model_experts(model, &experts, d));
    void *kept;
    size_t n_kept;
    REFUSED(apus_model_save_experts(NULL, &kept, &n_kept, d));
    REFUSED(apus_model_save_experts(model, NULL, &n_kept, d));
    REFUSED(apus_model_save_experts(model, &kept, NULL, d));
    REFUSED(apus_model_recall_experts(NULL, "", 0, NULL, NULL, d));
    REFUSED(apus_model_recall_experts(model, NULL, 0, NULL, NULL, d));
    uint64_t bytes;
    REFUSED(apus_quantized_bytes(NULL, "q4_k", &bytes, d));
    REFUSED(apus_quantized_bytes(model, NULL, &bytes, d));
    REFUSED(apus_quantized_bytes(model, "q4_k", NULL, d));
    REFUSED(apus_quantized_bytes(model, "q", &bytes, d));
    apus_check_settings c;
    apus_check_settings_default(&c);
    REFUSED(apus_model_check(model, NULL, d));
    REFUSED(apus_model_check(model, &c, d));
    c.found = ignore_found;
    REFUSED(apus_model_check(NULL, &c, d));
    c.threads = -1;
    REFUSED(apus_model_check(model, &c, d));
#undef BAD
}

static void texts(void **state)
{
    (void)state;
    int32_t *ids, id = 5;
    size_t n, len;
    char *text = NULL;
    const char *piece;
    apus_detok *t;
    apus_chat_parser *p;
    REFUSED(apus_tokenize(NULL, "a", 1, 0, &ids, &n, d));
    REFUSED(apus_tokenize(model, NULL, 1, 0, &ids, &n, d));
    REFUSED(apus_tokenize(model, "a", 1, 0, NULL, &n, d));
    REFUSED(apus_tokenize(model, "a", 1, 0, &ids, NULL, d));
    assert_int_equal(apus_tokenize(model, NULL, 0, 0, &ids, &n, NULL), APUS_OK);
    apus_free(ids);
    REFUSED(apus_detokenize(NULL, &id, 1, false, &text, &len, d));
    REFUSED(apus_detokenize(model, NULL, 1, false, &text, &len, d));
    REFUSED(apus_detokenize(model, &id, 1, false, NULL, &len, d));
    REFUSED(apus_detokenize(model, &id, 1, false, &text, NULL, d));
    for (id = -1; id != 1 << 30; id = id == -1 ? INT32_MIN : id == INT32_MIN ? INT32_MAX : 1 << 30)
        REFUSED(apus_detokenize(model, &id, 1, false, &text, &len, d));
    assert_int_equal(apus_detokenize(model, NULL, 0, false, &text, &len, NULL), APUS_OK);
    apus_free(text);
    REFUSED(apus_detok_create(NULL, false, &t, d));
    REFUSED(apus_detok_create(model, false, NULL, d));
    assert_int_equal(apus_detok_create(model, false, &t, NULL), APUS_OK);
    REFUSED(apus_detok_push(NULL, 1, &piece, &len, d));
    REFUSED(apus_detok_push(t, 1, NULL, &len, d));
    REFUSED(apus_detok_push(t, 1, &piece, NULL, d));
    REFUSED(apus_detok_push(t, -1, &piece, &len, d));
    REFUSED(apus_detok_push(t, INT32_MAX, &piece, &len, d));
    assert_int_equal(apus_detok_finish(NULL, &piece, &len), APUS_EINVAL);
    assert_int_equal(apus_detok_finish(t, NULL, &len), APUS_EINVAL);
    assert_int_equal(apus_detok_finish(t, &piece, NULL), APUS_EINVAL);
    apus_detok_free(t);
    const char *messages = "[{\"role\":\"user\",\"content\":\"a\"}]";
    apus_chat_settings s;
    apus_chat_settings_default(&s);
    REFUSED(apus_chat_render(NULL, messages, NULL, &s, &text, &len, d));
    REFUSED(apus_chat_render(model, NULL, NULL, &s, &text, &len, d));
    REFUSED(apus_chat_render(model, messages, NULL, &s, NULL, &len, d));
    REFUSED(apus_chat_render(model, messages, NULL, &s, &text, NULL, d));
    s.think = (apus_think)7;
    REFUSED(apus_chat_render(model, messages, NULL, &s, &text, &len, d));
    s.size = 3;
    REFUSED(apus_chat_render(model, messages, NULL, &s, &text, &len, d));
    REFUSED(apus_chat_parser_create(NULL, NULL, 0, NULL, ignore_event, NULL, &p, d));
    REFUSED(apus_chat_parser_create(model, NULL, 4, NULL, ignore_event, NULL, &p, d));
    REFUSED(apus_chat_parser_create(model, NULL, 0, NULL, NULL, NULL, &p, d));
    REFUSED(apus_chat_parser_create(model, NULL, 0, NULL, ignore_event, NULL, NULL, d));
    assert_int_equal(apus_chat_parser_create(model, NULL, 0, NULL, ignore_event, NULL, &p, NULL),
                     APUS_OK);
    assert_int_equal(apus_chat_parser_push(NULL, "a", 1), APUS_EINVAL);
    assert_int_equal(apus_chat_parser_push(p, NULL, 1), APUS_EINVAL);
    assert_int_equal(apus_chat_parser_push(p, NULL, 0), APUS_OK);
    assert_int_equal(apus_chat_parser_finish(NULL), APUS_EINVAL);
    apus_chat_parser_free(p);
}

static void engines(void **state)
{
    (void)state;
    apus_engine *e = NULL;
    apus_engine_settings s;
    apus_plan plan = {.size = sizeof plan};
#define BAD(change)                                                                                \
    do {                                                                                           \
        apus_engine_settings_default(&s);                                                          \
        change;                                                                                    \
        REFUSED(apus_engine_create(model, &s, &e, d));                                             \
        REFUSED(apus_engine_plan(model, &s, &plan, d));                                            \
        assert_null(e);                                                                            \
    } while (0)
    BAD(s.size = 0);
    BAD(s.size = sizeof s + 1);
    BAD(s.cpu = (apus_cpu)99);
    BAD(s.threads = -1);
    BAD(s.ctx = -1);
    BAD(s.ctx = INT32_MAX);
    BAD(s.prefill_chunk = -1);
    BAD(s.max_sessions = 0);
    BAD(s.max_sessions = -1);
    BAD(s.kv = (apus_kv)9);
    BAD(s.kv = (apus_kv)-1);
    REFUSED(apus_engine_create(NULL, NULL, &e, d));
    REFUSED(apus_engine_create(model, NULL, NULL, d));
    REFUSED(apus_engine_plan(NULL, NULL, &plan, d));
    REFUSED(apus_engine_plan(model, NULL, NULL, d));
    plan.size = 3;
    REFUSED(apus_engine_plan(model, NULL, &plan, d));
    REFUSED(apus_engine_profile(NULL, true, d));
    apus_peaks peaks = {.size = 1};
    REFUSED(apus_machine_peaks(APUS_CPU_AUTO, 1, NULL, d));
    REFUSED(apus_machine_peaks(APUS_CPU_AUTO, 1, &peaks, d));
    peaks.size = sizeof peaks;
    REFUSED(apus_machine_peaks((apus_cpu)99, 1, &peaks, d));
    REFUSED(apus_machine_peaks(APUS_CPU_AUTO, -1, &peaks, d));
#undef BAD
}

static void sessions(void **state)
{
    (void)state;
    apus_session *s = NULL;
    int32_t tok[2] = {1, 2};
    float logits[1];
    apus_feed f = {.size = sizeof f, .session = NULL, .tok = tok, .n = 1};
    REFUSED(apus_session_create(NULL, &s, d));
    REFUSED(apus_session_create(engine, NULL, d));
    REFUSED(apus_session_feed(NULL, tok, 1, logits, d));
    REFUSED(apus_session_feed(session, NULL, 1, logits, d));
    REFUSED(apus_session_feed(session, tok, 0, logits, d));
    REFUSED(apus_session_feed(session, tok, -1, logits, d));
    REFUSED(apus_feed_batch(NULL, &f, 1, NULL, NULL, d));
    REFUSED(apus_feed_batch(engine, NULL, 1, NULL, NULL, d));
    REFUSED(apus_feed_batch(engine, &f, 1, NULL, NULL, d));
    REFUSED(apus_feed_batch(engine, &f, 0, NULL, NULL, d));
    REFUSED(apus_feed_batch(engine, &f, 9, NULL, NULL, d));
    REFUSED(apus_feed_batch(engine, &f, INT32_MIN, NULL, NULL, d));
    f = (apus_feed){.size = sizeof f, .session = session, .n = 1};
    REFUSED(apus_feed_batch(engine, &f, 1, NULL, NULL, d));
    f.tok = tok;
    for (size_t size = 0; size < sizeof f; size++) {
        f.size = size;
        REFUSED(apus_feed_batch(engine, &f, 1, NULL, NULL, d));
    }
    REFUSED(apus_session_rewind(NULL, 0, d));
    REFUSED(apus_session_rewind(session, -1, d));
    REFUSED(apus_session_rewind(session, 1, d));
    REFUSED(apus_session_fork(NULL, &s, d));
    REFUSED(apus_session_fork(session, NULL, d));
    REFUSED(apus_session_save(NULL, "/nonexistent/x", d));
    REFUSED(apus_session_save(session, NULL, d));
    REFUSED(apus_session_load(NULL, "/nonexistent/x", &s, d));
    REFUSED(apus_session_load(engine, NULL, &s, d));
    REFUSED(apus_session_load(engine, "/nonexistent/x", NULL, d));
    void *data = NULL;
    size_t bytes = 0;
    REFUSED(apus_session_save_memory(NULL, &data, &bytes, d));
    REFUSED(apus_session_save_memory(session, NULL, &bytes, d));
    REFUSED(apus_session_save_memory(session, &data, NULL, d));
    assert_null(data);
    REFUSED(apus_session_load_memory(NULL, "a", 1, &s, d));
    REFUSED(apus_session_load_memory(engine, NULL, 1, &s, d));
    REFUSED(apus_session_load_memory(engine, "a", 1, NULL, d));
    assert_null(s);
}

static void generating(void **state)
{
    (void)state;
    int32_t tok[2] = {1, 2};
    float logits[4] = {0, 1, 2, 3};
    apus_generate_settings g;
    apus_generate_result r = {.size = 1};
    apus_generate_settings_default(&g);
    REFUSED(apus_generate(NULL, tok, 2, &g, NULL, d));
    REFUSED(apus_generate(session, NULL, 2, &g, NULL, d));
    REFUSED(apus_generate(session, tok, 0, &g, NULL, d));
    REFUSED(apus_generate(session, tok, -5, &g, NULL, d));
    REFUSED(apus_generate(session, tok, 2, &g, &r, d));
    apus_generation one = {
        .size = sizeof one, .session = session, .prompt = tok, .n = 2, .settings = &g};
    REFUSED(apus_generate_batch(NULL, &one, 1, d));
    REFUSED(apus_generate_batch(engine, NULL, 1, d));
    REFUSED(apus_generate_batch(engine, &one, 0, d));
    REFUSED(apus_generate_batch(engine, &one, 9, d));
    one.prompt = NULL;
    REFUSED(apus_generate_batch(engine, &one, 1, d));
    one = (apus_generation){.size = sizeof one, .prompt = tok, .n = 2, .settings = &g};
    REFUSED(apus_generate_batch(engine, &one, 1, d));
    one = (apus_generation){.size = 1, .session = session, .prompt = tok, .n = 2, .settings = &g};
    REFUSED(apus_generate_batch(engine, &one, 1, d));
    g.n_stop_strings = 1;
    REFUSED(apus_generate(session, tok, 2, &g, NULL, d));
    g.n_stop_strings = 0;
    apus_sampling way = {.size = 1};
    g.sampling = &way;
    REFUSED(apus_generate(session, tok, 2, &g, NULL, d));
    g.sampling = NULL;
    g.max_tokens = -2;
    REFUSED(apus_generate(session, tok, 2, &g, NULL, d));
    g.size = 0;
    REFUSED(apus_generate(session, tok, 2, &g, NULL, d));
    apus_sampler *p = NULL;
    REFUSED(apus_sampler_create(NULL, 0, &p, d));
    REFUSED(apus_sampler_create(NULL, -1, &p, d));
    REFUSED(apus_sampler_create(NULL, 4, NULL, d));
    assert_int_equal(apus_sampler_create(NULL, 4, &p, NULL), APUS_OK);
    assert_int_equal(apus_sampler_next(NULL, logits, NULL, 0), -1);
    assert_int_equal(apus_sampler_next(p, NULL, NULL, 0), -1);
    assert_int_equal(apus_sampler_next(p, logits, NULL, 3), -1);
    assert_int_equal(apus_sampler_next(p, logits, tok, -1), -1);
    assert_in_range(apus_sampler_next(p, logits, NULL, 0), 0, 3);
    tok[0] = -7; /* history of another model */
    tok[1] = INT32_MAX;
    assert_in_range(apus_sampler_next(p, logits, tok, 2), 0, 3);
    apus_sampler_free(p);
}

static void media(void **state)
{
    (void)state;
    apus_media *x = NULL;
    apus_media_settings s;
    char *text;
    size_t len;
    apus_media_settings_default(&s);
    apus_media_settings_default(NULL);
    REFUSED(apus_media_open(NULL, "x", &s, &x, d));
    REFUSED(apus_media_open(model, NULL, &s, &x, d));
    REFUSED(apus_media_open(model, "x", &s, NULL, d));
    REFUSED(apus_media_open_memory(NULL, "x", 1, "x", &s, &x, d));
    REFUSED(apus_media_open_memory(model, NULL, 1, "x", &s, &x, d));
    REFUSED(apus_media_open_memory(model, "x", 1, NULL, &s, &x, d));
    REFUSED(apus_media_open_memory(model, "x", 1, "x", &s, NULL, d));
    REFUSED(apus_media_expand(NULL, "x", 1, NULL, 0, &text, &len, d));
    REFUSED(apus_media_expand(model, NULL, 1, NULL, 0, &text, &len, d));
    REFUSED(apus_media_expand(model, "x", 1, NULL, 1, &text, &len, d));
    REFUSED(apus_media_expand(model, "x", 1, NULL, -1, &text, &len, d));
    REFUSED(apus_media_expand(model, "x", 1, NULL, 0, NULL, &len, d));
    REFUSED(apus_media_expand(model, "x", 1, NULL, 0, &text, NULL, d));
    s.size = 1;
    REFUSED(apus_media_open(model, "x", &s, &x, d));
    apus_media_free(NULL);
    assert_int_equal(apus_media_type_of(NULL), APUS_MEDIA_PICTURE);
    assert_int_equal(apus_media_tokens(NULL), 0);
    assert_false(apus_media_part_at(NULL, 0, NULL));
    assert_null(apus_media_rows(NULL, 0));
    const apus_media *none[1] = {NULL};
    int32_t tok[2] = {1, 2};
    int begin, end;
    REFUSED(apus_media_ids(NULL, tok, 2, none, 1, d));
    REFUSED(apus_media_ids(model, NULL, 2, none, 1, d));
    REFUSED(apus_media_ids(model, tok, 0, none, 1, d));
    REFUSED(apus_media_ids(model, tok, 2, NULL, 1, d));
    REFUSED(apus_media_ids(model, tok, 2, none, 1, d));
    REFUSED(apus_media_find(NULL, tok, 2, none, 1, &begin, &end, d));
    REFUSED(apus_media_find(model, NULL, 2, none, 1, &begin, &end, d));
    REFUSED(apus_media_find(model, tok, 2, none, 0, &begin, &end, d));
    REFUSED(apus_media_find(model, tok, 2, none, 1, &begin, &end, d));
    REFUSED(apus_media_find(model, tok, 2, none, 1, NULL, &end, d));
    REFUSED(apus_media_find(model, tok, 2, none, 1, &begin, NULL, d));
    REFUSED(apus_media_encode(NULL, NULL, d));
    REFUSED(apus_media_encode(engine, NULL, d));
}

static void constraints(void **state)
{
    (void)state;
    apus_constraint c;
    apus_constraint_default(NULL);
    apus_constraint_default(&c);
    REFUSED(apus_constraint_check(model, &c, d)); /* nothing is asked for */
    c.json_object = true;
    assert_int_equal(apus_constraint_check(model, &c, &diag), APUS_OK);
    REFUSED(apus_constraint_check(NULL, &c, d));
    REFUSED(apus_constraint_check(model, NULL, d));
    c.grammar = "root ::= \"a\"";
    REFUSED(apus_constraint_check(model, &c, d));
    c.size = 1;
    REFUSED(apus_constraint_check(model, &c, d));
}

static void stops(void **state)
{
    (void)state;
    static const char *const good[] = {"a"}, *const bad[] = {"a", NULL}, *const empty[] = {""};
    apus_stops *s = NULL;
    const char *out;
    size_t n;
    int hit;
    REFUSED(apus_stops_create(NULL, 1, &s, d));
    REFUSED(apus_stops_create(good, -1, &s, d));
    REFUSED(apus_stops_create(good, 1, NULL, d));
    REFUSED(apus_stops_create(bad, 2, &s, d));
    REFUSED(apus_stops_create(empty, 1, &s, d));
    assert_int_equal(apus_stops_create(good, 1, &s, &diag), APUS_OK);
    REFUSED(apus_stops_push(NULL, "x", 1, &out, &n, &hit, d));
    REFUSED(apus_stops_push(s, NULL, 1, &out, &n, &hit, d));
    REFUSED(apus_stops_push(s, "x", 1, NULL, &n, &hit, d));
    REFUSED(apus_stops_push(s, "x", 1, &out, NULL, &hit, d));
    REFUSED(apus_stops_push(s, "x", 1, &out, &n, NULL, d));
    assert_int_equal(apus_stops_push(s, NULL, 0, &out, &n, &hit, &diag), APUS_OK);
    assert_int_equal(apus_stops_push(s, "bca", 3, &out, &n, &hit, &diag), APUS_OK);
    assert_true(n == 2 && !memcmp(out, "bc", 2) && hit == 0);
    assert_int_equal(apus_stops_finish(NULL, &out, &n), APUS_EINVAL);
    assert_int_equal(apus_stops_finish(s, NULL, &n), APUS_EINVAL);
    assert_int_equal(apus_stops_finish(s, &out, NULL), APUS_EINVAL);
    apus_stops_free(s);
}

static void files(void **state)
{
    (void)state;
    apus_output *o = NULL;
    apus_quantize_settings q;
    apus_synth_settings s;
    apus_quantize_settings_default(&q);
    apus_synth_settings_default(&s);
    REFUSED(apus_output_create(NULL, false, &o, d));
    REFUSED(apus_output_create("/nonexistent/x", false, NULL, d));
    REFUSED(apus_output_apart(NULL, "/nonexistent/x", d));
    REFUSED(apus_output_apart("/nonexistent/x", NULL, d));
    assert_false(apus_gguf_fits(NULL, NULL));
    assert_false(apus_gguf_fits(NULL, "Q4_K_M"));
    assert_true(apus_gguf_fits("m-Q4_K_M.gguf", NULL));
    REFUSED(apus_output_put(NULL, 0, "a", 1, d));
    REFUSED(apus_output_finish(NULL, d));
    REFUSED(apus_quantize(NULL, "/nonexistent/x", &q, d));
    REFUSED(apus_quantize("models/tiny-qwen", NULL, &q, d));
    REFUSED(apus_quantize("models/tiny-qwen", "", &q, d));
    REFUSED(apus_synth(NULL, "/nonexistent/x", &s, d));
    REFUSED(apus_repack(NULL, "/nonexistent/x", NULL, d));
    REFUSED(apus_repack("models/tiny-qwen", NULL, NULL, d));
    REFUSED(apus_repack("models/tiny-qwen", "", NULL, d));
    apus_repack_settings r;
    apus_repack_settings_default(&r);
    r.size = 0;
    REFUSED(apus_repack("models/tiny-qwen", "/tmp/x", &r, d));
    apus_repack_settings_default(&r);
    r.threads = -1;
    REFUSED(apus_repack("models/tiny-qwen", "/nonexistent/x", &r, d));
    REFUSED(apus_synth("models/tiny-qwen", NULL, &s, d));
    s.layers = -1;
    REFUSED(apus_synth("models/tiny-qwen", "/nonexistent/x", &s, d));
    q.bits = 7;
    REFUSED(apus_quantize("models/tiny-qwen", "/nonexistent/x", &q, d));
    q.size = s.size = 1;
    REFUSED(apus_quantize("models/tiny-qwen", "/nonexistent/x", &q, d));
    REFUSED(apus_synth("models/tiny-qwen", "/nonexistent/x", &s, d));
}

static int begin(void **state)
{
    (void)state;
    apus_engine_settings s;
    apus_engine_settings_default(&s);
    s.ctx = 100;
    s.threads = 1;
    if (apus_model_open("models/tiny-qwen", NULL, &model, &diag) ||
        apus_engine_create(model, &s, &engine, &diag) ||
        apus_session_create(engine, &session, &diag))
        print_error("%s\n", diag.text);
    return session ? 0 : -1;
}

static int end(void **state)
{
    (void)state;
    apus_engine_free(engine);
    apus_model_close(model);
    return 0;
}

static void requests(void **state)
{
    (void)state;
    apus_scheduler *s = NULL;
    apus_request *r = NULL;
    apus_scheduler_settings set;
    apus_request_settings ask;
    apus_request_event ev = {.size = sizeof ev};
    apus_scheduler_stats stats = {.size = sizeof stats, .steps = 7};
    apus_scheduler_settings_default(&set);
    apus_request_settings_default(&ask);
    REFUSED(apus_scheduler_create(NULL, &set, &s, d));
    REFUSED(apus_scheduler_create(model, &set, NULL, d));
    set.max_queue = 0;
    REFUSED(apus_scheduler_create(model, &set, &s, d));
    set = (apus_scheduler_settings){.size = 1};
    REFUSED(apus_scheduler_create(model, &set, &s, d));
    REFUSED(apus_request_submit(NULL, &ask, &r, d));
    assert_true(!s && !r);
    apus_scheduler_settings_default(NULL);
    apus_request_settings_default(NULL);
    apus_scheduler_drain(NULL);
    apus_scheduler_free(NULL);
    apus_scheduler_stats_get(NULL, &stats);
    apus_request_cancel(NULL);
    apus_request_free(NULL);
    apus_session_cancel(NULL);
    assert_int_equal(stats.steps, 7);
    assert_false(apus_request_take(NULL, 0, &ev));
    assert_int_equal(apus_request_id(NULL), 0);
    assert_null(apus_request_prompt(NULL, NULL));
    assert_null(apus_request_prompt_text(NULL, NULL));
    assert_string_equal(apus_finish_name((apus_finish)99), "unknown");
    assert_string_equal(apus_miss_name(APUS_MISS_NO_STATE), "no_state");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),      cmocka_unit_test(nothing_is_fine), cmocka_unit_test(models),
        cmocka_unit_test(texts),      cmocka_unit_test(engines),         cmocka_unit_test(sessions),
        cmocka_unit_test(generating), cmocka_unit_test(media),           cmocka_unit_test(stops),
        cmocka_unit_test(files),      cmocka_unit_test(allocators),      cmocka_unit_test(requests),
        cmocka_unit_test(constraints)};
    return cmocka_run_group_tests(tests, begin, end);
}
