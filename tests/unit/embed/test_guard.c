/* What people write stays text: markers in messages and tools are none, and all else is as it was. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "apus/apus.h"

static apus_diag diag;
static apus_model *model;

static const char *const families[] = {"models/tiny-qwen", "models/tiny-gemma"};
static const char *const markers[] = {"<|im_start|>", "<|im_end|>", "<think>",  "</think>",
                                      "<tool_call>",  "<|turn>",    "<turn|>",  "<bos>",
                                      "<|channel>",   "<channel|>", "<|image|>"};

static void open_model(const char *name)
{
    apus_model_settings s;
    apus_model_settings_default(&s);
    s.load = APUS_LOAD_TEXT;
    if (apus_model_open(name, &s, &model, &diag)) fail_msg("%s", diag.text);
}

/* Ids of a rendered conversation, to be freed. */
static int32_t *tokens(const char *messages, const char *tools, bool guarded, size_t *n)
{
    apus_chat_settings s;
    char *text;
    size_t len;
    int32_t *ids = NULL;
    apus_chat_settings_default(&s);
    s.guarded = guarded;
    if (apus_chat_render(model, messages, tools, &s, &text, &len, &diag) ||
        apus_tokenize(model, text, len, APUS_TOK_SPECIAL | (guarded ? APUS_TOK_GUARDED : 0), &ids,
                      n, &diag))
        fail_msg("%s", diag.text);
    apus_free(text);
    return ids;
}

static size_t count(const char *messages, const char *tools, bool guarded, int32_t id)
{
    size_t n, hits = 0;
    int32_t *ids = tokens(messages, tools, guarded, &n);
    for (size_t i = 0; i < n; i++) hits += ids[i] == id;
    apus_free(ids);
    return hits;
}

static bool one_token(const char *text, int32_t *id)
{
    int32_t *ids;
    size_t n;
    if (apus_tokenize(model, text, strlen(text), APUS_TOK_SPECIAL, &ids, &n, &diag)) return false;
    *id = n == 1 ? *ids : -1;
    apus_free(ids);
    return *id >= 0;
}

static void check_marker(const char *marker, int32_t id)
{
    char with[512], without[512], tools[512];
    static const char form[] = "[{\"role\":\"user\",\"content\":\"a %s b %s\"}]";
    snprintf(with, sizeof with, form, marker, marker);
    snprintf(without, sizeof without, form, "x", "x");
    size_t own = count(without, NULL, false, id);
    assert_int_equal(count(with, NULL, false, id), own + 2);
    assert_int_equal(count(with, NULL, true, id), own);
    static const char tool[] =
        "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"description\":"
        "\"%s\",\"parameters\":{\"type\":\"object\",\"properties\":{\"%s\":{"
        "\"type\":\"string\"}}}}}]";
    snprintf(tools, sizeof tools, tool, marker, marker);
    char plain[512];
    snprintf(plain, sizeof plain, tool, "x", "x");
    assert_int_equal(count(without, tools, true, id), count(without, plain, true, id));
}

static void markers_are_text(void **state)
{
    (void)state;
    for (int f = 0; f < 2; f++) {
        int some = 0;
        open_model(families[f]);
        for (size_t i = 0; i < sizeof markers / sizeof *markers; i++) {
            int32_t id;
            if (!one_token(markers[i], &id)) continue;
            check_marker(markers[i], id);
            some++;
        }
        assert_true(some >= 3);
        apus_model_close(model);
    }
}

static void all_else_is_as_it_was(void **state)
{
    static const char messages[] =
        "[{\"role\":\"system\",\"content\":\"Be brief.\"},{\"role\":\"user\",\"content\":\"\\u00e9 "
        "<b> "
        "\\ud83d\\ude00 < | im_end | >\"},{\"role\":\"assistant\",\"content\":\"yes\"},"
        "{\"role\":\"user\",\"content\":\"again\"}]";
    (void)state;
    for (int f = 0; f < 2; f++) {
        size_t n, m;
        open_model(families[f]);
        int32_t *a = tokens(messages, NULL, false, &n), *b = tokens(messages, NULL, true, &m);
        assert_int_equal(n, m);
        assert_memory_equal(a, b, n * sizeof *a);
        apus_free(a);
        apus_free(b);
        apus_model_close(model);
    }
}

/* A guard that somebody wrote is no guard. */
static void guards_of_others(void **state)
{
    size_t n, m;
    (void)state;
    open_model(families[0]);
    int32_t *a =
        tokens("[{\"role\":\"user\",\"content\":\"<\\ufdd0|im_end|> x\"}]", NULL, true, &n);
    int32_t *b =
        tokens("[{\"role\":\"user\",\"content\":\"<\\ufffd|im_end|> x\"}]", NULL, true, &m);
    assert_int_equal(n, m);
    assert_memory_equal(a, b, n * sizeof *a);
    apus_free(a);
    apus_free(b);
    apus_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(markers_are_text),
                                       cmocka_unit_test(all_else_is_as_it_was),
                                       cmocka_unit_test(guards_of_others)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
