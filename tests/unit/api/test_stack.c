/* The stack that a call needs, measured: everything runs in a thread whose stack is painted before, and
 * must stay below APUS_STACK_BYTES, which apus.h promises. */
#include <dirent.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "apus/apus_unstable.h"

#define AREA  ((size_t)2 << 20) /* room to measure what is too much instead of dying of it */
#define PAINT 0xA5

static apus_diag diag;
static char dir[] = "/tmp/apus-stack-XXXXXX";

static void ok_(apus_err err, const char *what)
{
    if (err) fail_msg("%s: %s", what, diag.text);
}
#define OK(call) ok_(call, #call)

/* ---------------------------------------------------------------- measuring */

typedef struct job {
    void (*fn)(void *);
    void *arg;
} job;

static void *run_job(void *p)
{
    job *j = p;
    j->fn(j->arg);
    return NULL;
}

static size_t most;

/* Run fn in a thread of its own. Returns how much of its stack was touched. */
static size_t measure(const char *name, void (*fn)(void *), void *arg)
{
    uint8_t *area = mmap(NULL, AREA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(area != MAP_FAILED);
    memset(area, PAINT, AREA);
    pthread_attr_t a;
    pthread_t t;
    job j = {fn, arg};
    pthread_attr_init(&a);
    assert_int_equal(pthread_attr_setstack(&a, area, AREA), 0);
    assert_int_equal(pthread_create(&t, &a, run_job, &j), 0);
    pthread_join(t, NULL);
    pthread_attr_destroy(&a);
    size_t free_bytes = 0;
    while (free_bytes < AREA && area[free_bytes] == PAINT) free_bytes++;
    munmap(area, AREA);
    size_t used = AREA - free_bytes;
    if (used > most) most = used;
    print_message("%8zu bytes  %s\n", used, name);
    return used;
}

static void limited(const char *name, void (*fn)(void *), void *arg)
{
    size_t used = measure(name, fn, arg);
    if (used > APUS_STACK_BYTES)
        fail_msg("%s: %zu bytes of stack, APUS_STACK_BYTES is %d", name, used, APUS_STACK_BYTES);
}

/* ---------------------------------------------------------------- computing */

typedef struct way {
    const char *model;
    apus_cpu cpu;
    apus_precision precision;
    apus_kv kv;
} way;

static void compute(void *arg)
{
    const way *w = arg;
    apus_model_settings ms;
    apus_engine_settings es;
    apus_model *m;
    apus_engine *e;
    apus_session *s, *t;
    apus_model_settings_default(&ms);
    apus_engine_settings_default(&es);
    ms.cpu = es.cpu = w->cpu;
    ms.precision = w->precision;
    ms.threads = es.threads = 1;
    es.max_sessions = 2;
    es.ctx = 700;
    es.kv = w->kv;
    OK(apus_model_open(w->model, &ms, &m, &diag));
    apus_info info = {.size = sizeof info};
    OK(apus_model_info(m, &info, &diag));
    if (apus_engine_create(m, &es, &e, &diag)) { /* pages that this head size cannot have */
        assert_int_equal(diag.code, APUS_EUNSUPPORTED);
        apus_model_close(m);
        return;
    }
    OK(apus_session_create(e, &s, &diag));
    int32_t tok[600];
    for (int i = 0; i < 600; i++) tok[i] = i * 7 % info.vocab;
    float *logits = malloc((size_t)info.vocab * 64 * sizeof *logits);
    static const int lengths[] = {70, 1, 2, 3, 7, 16, 33};
    for (int i = 0; i < 7; i++) OK(apus_session_feed(s, tok, lengths[i], logits, &diag));
    OK(apus_session_rewind(s, 100, &diag));
    OK(apus_session_fork(s, &t, &diag));
    apus_feed f[2] = {{.size = sizeof(apus_feed), .session = s, .tok = tok, .n = 40},
                      {.size = sizeof(apus_feed), .session = t, .tok = tok, .n = 1}};
    OK(apus_feed_batch(e, f, 2, NULL, NULL, &diag));
    apus_generate_settings g;
    apus_sampling sampling;
    apus_generate_settings_default(&g);
    apus_sampling_from_model(m, &sampling);
    sampling.temperature = 1;
    sampling.top_p = 0.9f;
    g.sampling = &sampling;
    g.max_tokens = 3;
    g.ignore_eos = true;
    OK(apus_generate(s, tok, 5, &g, NULL, &diag));
    char path[64];
    snprintf(path, sizeof path, "%s/session", dir);
    OK(apus_session_save(s, path, &diag));
    apus_session_free(t);
    OK(apus_session_load(e, path, &t, &diag));
    unlink(path);
    free(logits);
    apus_engine_free(e);
    apus_model_close(m);
}

/* What pages hold and what products meet are apart: not every pair of them. */
static void every_way(const char *model)
{
    for (int cpu = APUS_CPU_AVX2; cpu <= APUS_CPU_I8MM; cpu++)
        for (int p = APUS_PRECISION_HIGH; p <= APUS_PRECISION_FAST && apus_cpu_has((apus_cpu)cpu);
             p++) {
            way w = {model, (apus_cpu)cpu, (apus_precision)p, (apus_kv)(APUS_KV_F32 + p)};
            char name[300];
            snprintf(name, sizeof name, "%s %s %s %s", strrchr(model, '/') + 1,
                     apus_cpu_name(w.cpu), apus_precision_name(w.precision), apus_kv_name(w.kv));
            limited(name, compute, &w);
        }
}

static void computing(void **state)
{
    (void)state;
    static const char *const models[] = {"models/tiny-qwen",
                                         "models/tiny-gemma",
                                         "tests/golden_quant/data/g4moe_gguf_fusedmixed/model.gguf",
                                         "tests/golden_quant/data/q3next_gguf_mixed/model.gguf",
                                         "tests/golden_quant/data/q35moe_mlx_mixed",
                                         "tests/golden_quant/data/q35_fp8_f32"};
    for (int i = 0; i < 6; i++) every_way(models[i]);
    limited("ref", compute, &(way){models[3], APUS_CPU_REF, APUS_PRECISION_HIGH, APUS_KV_F32});
}

/* ---------------------------------------------------------------- text */

static void repeat(char *to, size_t n, const char *open, const char *middle, const char *close)
{
    to[0] = 0;
    char *p = to;
    for (size_t i = 0; i < n; i++) p = stpcpy(p, open);
    p = stpcpy(p, middle);
    for (size_t i = 0; i < n; i++) p = stpcpy(p, close);
}

static void copy_file(const char *from, const char *name)
{
    char path[300], *data = malloc((size_t)16 << 20);
    FILE *f = fopen(from, "rb");
    assert_non_null(f);
    size_t n = fread(data, 1, (size_t)16 << 20, f);
    fclose(f);
    snprintf(path, sizeof path, "%s/%s", dir, name);
    f = fopen(path, "wb");
    assert_int_equal(fwrite(data, 1, n, f), n);
    fclose(f);
    free(data);
}

static void put_template(const char *text)
{
    char path[100];
    snprintf(path, sizeof path, "%s/chat_template.jinja", dir);
    FILE *f = fopen(path, "wb");
    fputs(text, f);
    fclose(f);
}

typedef struct text {
    const char *chat, *messages, *tools;
} text;

static void ignore_event(void *ctx, const apus_event *ev)
{
    (void)ctx;
    (void)ev;
}

/* Errors are welcome: what counts is the way there. */
static void render(void *arg)
{
    const text *t = arg;
    apus_model_settings ms;
    apus_model *m;
    apus_model_settings_default(&ms);
    ms.load = APUS_LOAD_TEXT;
    put_template(t->chat);
    if (apus_model_open(dir, &ms, &m, &diag)) return;
    char *out = NULL;
    size_t n;
    if (!apus_chat_render(m, t->messages, t->tools, NULL, &out, &n, &diag)) {
        int32_t *ids;
        size_t n_ids;
        OK(apus_tokenize(m, out, n, APUS_TOK_SPECIAL, &ids, &n_ids, &diag));
        apus_free(ids);
    }
    apus_chat_parser *p;
    if (!apus_chat_parser_create(m, out, out ? n : 0, t->tools, ignore_event, NULL, &p, &diag)) {
        char *call = malloc(1 << 20);
        repeat(call, 500, "{\"a\":[", "1", "]}");
        apus_chat_parser_push(p, "<tool_call>{\"name\":\"f\",\"arguments\":", 37);
        apus_chat_parser_push(p, call, strlen(call));
        apus_chat_parser_push(p, "}</tool_call>", 13);
        apus_chat_parser_push(p, "<tool_call><function=f><parameter=a>", 36);
        apus_chat_parser_push(p, call, strlen(call));
        apus_chat_parser_push(p, "</parameter></function></tool_call>", 35);
        apus_chat_parser_finish(p);
        apus_chat_parser_free(p);
        free(call);
    }
    apus_free(out);
    apus_model_close(m);
}

static void texts(void **state)
{
    (void)state;
    static const char *const forms[][3] = {
        {"(", "1", ")"},     {"[", "1", "]"},          {"{'a':", "1", "}"},
        {"not ", "1", ""},   {"-", "1", ""},           {"1 if ", "1", ""},
        {"f(", "1", ")"},    {"x[", "1", "]"},         {"1 + (", "1", ")"},
        {"1 ~ (", "1", ")"}, {"1|default(", "1", ")"}, {"1 if 1 else ", "1", ""},
        {"1 ** ", "1", ""},  {"1 and (", "1", ")"}};
    static const char *const blocks[][3] = {
        {"{% if 1 %}", "x", "{% endif %}"},         {"{% for i in [1] %}", "x", "{% endfor %}"},
        {"{% macro m() %}", "x", "{% endmacro %}"}, {"{% filter trim %}", "x", "{% endfilter %}"},
        {"{% set x %}", "x", "{% endset %}"},       {"{% call f() %}", "x", "{% endcall %}"}};
    copy_file("models/tiny-qwen/config.json", "config.json");
    copy_file("models/tiny-qwen/tokenizer.json", "tokenizer.json");
    char *chat = malloc(1 << 20), *inner = malloc(1 << 20), *json = malloc(1 << 20);
    const char *messages = "[{\"role\":\"user\",\"content\":\"a\"}]";
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        for (size_t n = 394; n <= 404; n += 5) {
            repeat(inner, n, forms[i][0], forms[i][1], forms[i][2]);
            snprintf(chat, 1 << 20, "{%% set x = [0] %%}{{ %s }}", inner);
            limited(forms[i][0], render, &(text){chat, messages, NULL});
        }
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        for (size_t n = 80; n <= 400; n += 160) {
            repeat(chat, n, blocks[i][0], blocks[i][1], blocks[i][2]);
            limited(blocks[i][0], render, &(text){chat, messages, NULL});
        }
    limited("recursion", render,
            &(text){"{% macro m(n) %}{{ ((((((((m(n + 1)|trim)|string)))))))) if n < 990 }}{% "
                    "endmacro %}{{ m(0) }}",
                    messages, NULL});
    limited("recursive loop", render,
            &(text){"{% for x in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}", messages, NULL});
    repeat(inner, 500, "{\"a\":[", "1", "]}");
    snprintf(json, 1 << 20, "[{\"role\":\"user\",\"content\":%s}]", inner);
    limited("deep messages", render,
            &(text){"{{ messages }}{{ messages|tojson }}{{ messages == messages }}", json, NULL});
    repeat(inner, 240, "{\"a\":[", "1", "]}");
    snprintf(json, 1 << 20, "[{\"role\":\"user\",\"content\":%s}]", inner);
    limited("deep messages", render,
            &(text){"{{ messages }}{{ messages|tojson(indent=1) }}{{ messages == messages }}{{ "
                    "messages|string|length }}",
                    json, NULL});
    repeat(inner, 240, "{\"properties\":{\"a\":", "{\"type\":\"string\"}", "}}");
    snprintf(json, 1 << 20,
             "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":%s}}]", inner);
    limited("deep tools", render, &(text){"{{ tools|tojson }}", messages, json});
    free(chat);
    free(inner);
    free(json);
}

/* ---------------------------------------------------------------- making models */

static void make(void *arg)
{
    const char *to = arg;
    char path[100];
    apus_quantize_settings q;
    apus_synth_settings s;
    apus_quantize_settings_default(&q);
    apus_synth_settings_default(&s);
    q.threads = s.threads = 1;
    s.to = to;
    bool gguf = strncmp(to, "mlx", 3) != 0;
    if (gguf) q.gguf_type = to;
    snprintf(path, sizeof path, "%s/made%s", dir, gguf ? ".gguf" : "");
    for (int i = 0; i < 2; i++) {
        if (i)
            OK(apus_synth("models/tiny-gemma", path, &s, &diag));
        else
            OK(apus_quantize("models/tiny-qwen", path, &q, &diag));
        DIR *d = gguf ? NULL : opendir(path);
        for (struct dirent *e; d && (e = readdir(d));) unlinkat(dirfd(d), e->d_name, 0);
        if (d) closedir(d);
        assert_int_equal(remove(path), 0);
    }
}

static void peaks(void *arg)
{
    (void)arg;
    apus_peaks p = {.size = sizeof p};
    OK(apus_machine_peaks(APUS_CPU_AUTO, 1, &p, &diag));
}

static void making(void **state)
{
    (void)state;
    static const char *const types[] = {"q8_0",   "q6_k",   "q5_k",  "q4_k", "q3_k",
                                        "q2_k",   "q5_1",   "q5_0",  "q4_1", "q4_0",
                                        "iq4_xs", "iq4_nl", "mxfp4", "mlx2", "mlx8"};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        limited(types[i], make, (void *)types[i]);
    limited("peaks", peaks, NULL);
}

static int begin(void **state)
{
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int end(void **state)
{
    (void)state;
    static const char *const names[] = {"config.json", "tokenizer.json", "chat_template.jinja"};
    for (int i = 0; i < 3; i++) {
        char path[100];
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        unlink(path);
    }
    print_message("%8zu bytes at most\n", most);
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(texts), cmocka_unit_test(making),
                                       cmocka_unit_test(computing)};
    return cmocka_run_group_tests(tests, begin, end);
}
