/* Tokenizers against the reference library's answers (tests/unit/tokenizer/data), long runs, streams,
 * refusals. Run from the repository root. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "base/utf8.h"
#include "text/tokenizer.h"

#define DATA "tests/unit/tokenizer/data/"

static ap_tokenizer *open_file(const char *name)
{
    char path[200];
    snprintf(path, sizeof path, DATA "%s.json", name);
    char *json;
    size_t n;
    apus_diag diag = {0};
    ap_tokenizer *t = NULL;
    if (ap_file_read(path, 1 << 24, &json, &n, &diag) ||
        ap_tokenizer_parse(json, n, path, &t, &diag))
        fail_msg("%s", diag.text);
    apus_free(json);
    return t;
}

/* ---------------------------------------------------------------- goldens */

static size_t read_hex(const char *s, char *out)
{
    size_t n = 0;
    if (*s == '-') return 0;
    for (; s[0] && s[1] && s[0] != ' ' && s[0] != '\n'; s += 2) {
        char pair[3] = {s[0], s[1], 0};
        out[n++] = (char)strtol(pair, NULL, 16);
    }
    return n;
}

static size_t read_ids(const char *s, int32_t *out)
{
    size_t n = 0;
    if (*s == '-') return 0;
    for (;;) {
        char *end;
        out[n++] = (int32_t)strtol(s, &end, 10);
        if (*end != ',') return n;
        s = end + 1;
    }
}

static void check_stream(const ap_tokenizer *t, const int32_t *ids, size_t n, bool skip,
                         const char *text, size_t len)
{
    ap_detok *d;
    size_t at = 0;
    assert_int_equal(ap_detok_create(t, skip, &d, NULL), APUS_OK);
    for (size_t i = 0; i <= n; i++) {
        const char *piece;
        size_t m;
        if (i < n)
            assert_int_equal(ap_detok_push(d, ids[i], &piece, &m, NULL), APUS_OK);
        else
            assert_int_equal(ap_detok_finish(d, &piece, &m), APUS_OK);
        assert_true(ap_utf8_valid(piece, m));
        assert_true(m <= len - at);
        assert_memory_equal(piece, text + at, m);
        at += m;
    }
    assert_int_equal(at, len);
    ap_detok_free(d);
}

static void check_line(const ap_tokenizer *t, const char *name, int line, const char *s)
{
    size_t cap = strlen(s) + 1, n = 0;
    char *text = malloc(cap), *got_text = NULL;
    int32_t *ids = malloc(cap * sizeof *ids), *got = NULL;
    unsigned flags = (unsigned)(s[2] - '0');
    const char *a = s + 4, *b = strchr(a, ' ') + 1;
    apus_diag diag = {0};
    if (s[0] == 'E') {
        size_t len = read_hex(a, text), want = read_ids(b, ids);
        if (ap_tokenizer_encode(t, text, len, flags, &got, &n, &diag)) fail_msg("%s", diag.text);
        if (n != want || memcmp(got, ids, n * sizeof *ids) != 0)
            fail_msg("%s.golden:%d: other ids (%zu, expected %zu)", name, line, n, want);
    } else {
        size_t count = read_ids(a, ids), want = read_hex(b, text);
        if (ap_tokenizer_decode(t, ids, count, flags, &got_text, &n, &diag))
            fail_msg("%s", diag.text);
        if (n != want || memcmp(got_text, text, n) != 0)
            fail_msg("%s.golden:%d: other text (%.*s)", name, line, (int)n, got_text);
        check_stream(t, ids, count, flags, text, want);
    }
    apus_free(got);
    apus_free(got_text);
    free(ids);
    free(text);
}

static void golden(void **state)
{
    const char *name = *state;
    char path[200];
    snprintf(path, sizeof path, DATA "%s.golden", name);
    char *lines;
    size_t n;
    int line = 0;
    apus_diag diag = {0};
    if (ap_file_read(path, 1 << 24, &lines, &n, &diag)) fail_msg("%s", diag.text);
    ap_tokenizer *t = open_file(name);
    for (char *s = lines, *end; (end = strchr(s, '\n')); s = end + 1) {
        *end = 0;
        check_line(t, name, ++line, s);
    }
    assert_true(line > 80);
    ap_tokenizer_free(t);
    apus_free(lines);
}

/* ---------------------------------------------------------------- long texts */

/* Long runs must neither fail nor take quadratic time (the test's own time limit would show it),
 * and must come back as they were. */
static void long_runs(void **state)
{
    static const char *const units[] = {" ",
                                        "a",
                                        "\n",
                                        "1",
                                        "!",
                                        "\t\n",
                                        "\xE4\xB8\xAD",
                                        "ab",
                                        "'s",
                                        " x",
                                        "\xCC\x81",
                                        " \n",
                                        "\xF0\x9F\x8C\x8D",
                                        "\xFF"};
    const char *names[] = {"qwen", "gemma"};
    (void)state;
    char *text = malloc((1 << 20) + 8);
    for (size_t k = 0; k < 2; k++) {
        ap_tokenizer *t = open_file(names[k]);
        for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
            size_t m = strlen(units[u]), len = 0, n, back_len;
            size_t bytes = u < 3 ? 1 << 20 : 1 << 17;
            while (len < bytes) {
                memcpy(text + len, units[u], m);
                len += m;
            }
            int32_t *ids;
            char *back;
            apus_diag diag = {0};
            if (ap_tokenizer_encode(t, text, len, 0, &ids, &n, &diag)) fail_msg("%s", diag.text);
            assert_int_equal(ap_tokenizer_decode(t, ids, n, false, &back, &back_len, NULL),
                             APUS_OK);
            if (units[u][0] != (char)0xFF) {
                assert_int_equal(back_len, len);
                assert_memory_equal(back, text, len);
            } else {
                assert_int_equal(back_len, 3 * len);
            }
            apus_free(ids);
            apus_free(back);
        }
        ap_tokenizer_free(t);
    }
    free(text);
}

/* Marks in descending order of class, half a megabyte of them: sorting must not be quadratic. */
static void long_marks(void **state)
{
    (void)state;
    enum { N = 1 << 17 };
    char *text = malloc(1 + 4 * N), *back;
    size_t len = 0, n, back_len;
    text[len++] = 'x';
    for (int i = 0; i < N; i++) {
        memcpy(text + len, "\xCC\x81\xCC\x96", 4); /* U+0301 (230), U+0316 (220) */
        len += 4;
    }
    int32_t *ids;
    ap_tokenizer *t = open_file("qwen");
    assert_int_equal(ap_tokenizer_encode(t, text, len, 0, &ids, &n, NULL), APUS_OK);
    assert_int_equal(ap_tokenizer_decode(t, ids, n, false, &back, &back_len, NULL), APUS_OK);
    assert_int_equal(back_len, len);
    assert_memory_equal(back + 1, "\xCC\x96\xCC\x96", 4);
    assert_memory_equal(back + len - 4, "\xCC\x81\xCC\x81", 4);
    apus_free(back);
    apus_free(ids);
    free(text);
    ap_tokenizer_free(t);
}

/* ---------------------------------------------------------------- facts */

static void facts(void **state)
{
    (void)state;
    ap_tokenizer *t = open_file("gemma");
    assert_int_equal(ap_tokenizer_id(t, "<bos>", 5), 2);
    assert_int_equal(ap_tokenizer_id(t, "no such token", 13), -1);
    assert_true(ap_tokenizer_is_special(t, 2));
    assert_false(ap_tokenizer_is_special(t, -1));
    assert_false(ap_tokenizer_is_special(t, ap_tokenizer_vocab(t)));
    assert_false(ap_tokenizer_is_special(t, ap_tokenizer_id(t, "a", 1)));
    int32_t *ids, bad[] = {2, -1};
    size_t n;
    char *text;
    apus_diag diag = {0};
    assert_int_equal(ap_tokenizer_encode(t, "", 0, APUS_TOK_BOS, &ids, &n, NULL), APUS_OK);
    assert_int_equal(n, 1);
    assert_int_equal(ids[0], 2);
    apus_free(ids);
    assert_int_equal(ap_tokenizer_encode(t, "", 0, 0, &ids, &n, NULL), APUS_OK);
    assert_non_null(ids);
    assert_int_equal(n, 0);
    apus_free(ids);
    assert_int_equal(ap_tokenizer_decode(t, bad, 2, false, &text, &n, &diag), APUS_EINVAL);
    bad[1] = ap_tokenizer_vocab(t);
    assert_int_equal(ap_tokenizer_decode(t, bad, 2, false, &text, &n, &diag), APUS_EINVAL);
    assert_int_equal(ap_tokenizer_decode(t, bad, 0, false, &text, &n, &diag), APUS_OK);
    assert_int_equal(n, 0);
    assert_string_equal(text, "");
    apus_free(text);
    ap_tokenizer_free(t);
    t = open_file("qwen");
    assert_true(ap_tokenizer_is_special(t, ap_tokenizer_id(t, "<|im_end|>", 10)));
    assert_false(ap_tokenizer_is_special(t, ap_tokenizer_id(t, "<think>", 7)));
    ap_tokenizer_free(t);
}

/* ---------------------------------------------------------------- refusals */

#define MODEL                                                                                      \
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}"

static void refuse(const char *json, apus_err want, const char *word)
{
    ap_tokenizer *t = NULL;
    apus_diag diag = {0};
    apus_err err = ap_tokenizer_parse(json, strlen(json), "t.json", &t, &diag);
    if (err != want || !strstr(diag.text, word))
        fail_msg("%s gave %d \"%s\", expected %d and \"%s\"", json, err, diag.text, want, word);
    assert_null(t);
}

static void refusals(void **state)
{
    (void)state;
    refuse("[]", APUS_EFORMAT, "t.json");
    refuse("{", APUS_EFORMAT, "t.json");
    refuse("{}", APUS_EFORMAT, "model");
    refuse("{\"model\":{\"type\":\"BPE\",\"vocab\":{}}}", APUS_EFORMAT, "merges");
    refuse("{\"model\":{\"type\":\"WordPiece\",\"vocab\":{\"a\":0}}}", APUS_EUNSUPPORTED,
           "WordPiece");
    refuse("{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0]]}}", APUS_EUNSUPPORTED,
           "Unigram");
    refuse("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}}", APUS_EFORMAT,
           "merges[0]");
    refuse("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"ab\"]}}", APUS_EFORMAT,
           "merges[0]");
    refuse("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}}", APUS_EFORMAT,
           "merges[0]");
    refuse("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", APUS_EFORMAT,
           "id 0");
    refuse("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}", APUS_EFORMAT, "-1");
    refuse("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":4000000000},\"merges\":[]}}",
           APUS_EFORMAT, "4000000000");
    refuse("{\"model\":{\"dropout\":0.1,\"vocab\":{},\"merges\":[]}}", APUS_EUNSUPPORTED,
           "dropout");
    refuse("{\"model\":{\"end_of_word_suffix\":\"</w>\",\"vocab\":{},\"merges\":[]}}",
           APUS_EUNSUPPORTED, "end_of_word_suffix");
    refuse("{\"version\":\"2.0\"," MODEL "}", APUS_EUNSUPPORTED, "version");
    refuse("{\"normalizer\":{\"type\":\"BertNormalizer\"}," MODEL "}", APUS_EUNSUPPORTED,
           "BertNormalizer");
    refuse("{\"pre_tokenizer\":{\"type\":\"Punctuation\"}," MODEL "}", APUS_EUNSUPPORTED,
           "Punctuation");
    refuse("{\"decoder\":{\"type\":\"WordPiece\"}," MODEL "}", APUS_EUNSUPPORTED, "WordPiece");
    refuse("{\"post_processor\":{\"type\":\"BertProcessing\"}," MODEL "}", APUS_EUNSUPPORTED,
           "BertProcessing");
    static const char *const patterns[] = {"\\\\w+",     "[[:alpha:]]", "a{2}+",
                                           "\\\\p{Han}", "(?<n>a)",     "^a",
                                           "[a&&b]",     "(?i:ss)",     "a\\\\b"};
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        char json[400];
        snprintf(json, sizeof json,
                 "{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"%s\"},"
                 "\"behavior\":\"Isolated\",\"invert\":false}," MODEL "}",
                 patterns[i]);
        refuse(json, APUS_EUNSUPPORTED, "regular expression");
    }
    refuse("{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a\"},\"behavior\":"
           "\"Isolated\"}," MODEL "}",
           APUS_EFORMAT, "regular expression");
}

/* A pattern that explodes must end in an error, not in a hang or in silence. */
static void exploding_pattern(void **state)
{
    (void)state;
    const char *json = "{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?:a+)+(?:"
                       "a+)+(?:a+)+[bc]\"},"
                       "\"behavior\":\"Isolated\",\"invert\":false}," MODEL "}";
    ap_tokenizer *t = NULL;
    apus_diag diag = {0};
    assert_int_equal(ap_tokenizer_parse(json, strlen(json), "t.json", &t, &diag), APUS_OK);
    char text[200];
    memset(text, 'a', sizeof text);
    int32_t *ids;
    size_t n;
    assert_int_equal(ap_tokenizer_encode(t, text, sizeof text, 0, &ids, &n, &diag), APUS_EFORMAT);
    assert_non_null(strstr(diag.text, "regular expression"));
    ap_tokenizer_free(t);
}

#define TIMES_TEN(type) "{\"type\":\"Replace\",\"pattern\":{" type "},\"content\":\"aaaaaaaaaa\"}"

/* Twelve rules that make ten of each one would make 10^12 bytes of one. */
static void growing_rules(void **state)
{
    (void)state;
    static const char *const rules[] = {
        TIMES_TEN("\"String\":\"a\""), TIMES_TEN("\"Regex\":\"a\""),
        "{\"type\":\"Prepend\",\"prepend\":\"a\"}," TIMES_TEN("\"String\":\"a\"")};
    for (int r = 0; r < 3; r++) {
        char list[4096] = "", json[8192];
        size_t len = 0;
        for (int i = 0; i < 12; i++)
            len += (size_t)snprintf(list + len, sizeof list - len, "%s%s", i ? "," : "", rules[r]);
        snprintf(json, sizeof json,
                 "{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[%s]}," MODEL "}", list);
        ap_tokenizer *t = NULL;
        apus_diag diag = {0};
        if (ap_tokenizer_parse(json, strlen(json), "t.json", &t, &diag)) fail_msg("%s", diag.text);
        int32_t *ids;
        size_t n;
        assert_int_equal(ap_tokenizer_encode(t, "a", 1, 0, &ids, &n, &diag), APUS_EFORMAT);
        if (!strstr(diag.text, "t.json: the normalizer's rules make more than"))
            fail_msg("%s", diag.text);
        ap_tokenizer_free(t);
        snprintf(json, sizeof json,
                 "{\"decoder\":{\"type\":\"Sequence\",\"decoders\":[%s]}," MODEL "}", list);
        if (!strstr(rules[r], "Regex") && !strstr(rules[r], "Prepend"))
            refuse(json, APUS_EFORMAT, "the decoder's Replace rules may make more than");
    }
}

/* A long text may grow as its rules say, as long as they are of a tokenizer's kind. */
static void rules_that_grow_little(void **state)
{
    (void)state;
    static const char json[] =
        "{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":["
        "{\"type\":\"Replace\",\"pattern\":{\"String\":\"b\"},\"content\":\"aaaaaaaaaaaaaaaa\"},"
        "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"a{16}\"},\"content\":\"a\"}]}," MODEL "}";
    ap_tokenizer *t = NULL;
    apus_diag diag = {0};
    if (ap_tokenizer_parse(json, strlen(json), "t.json", &t, &diag)) fail_msg("%s", diag.text);
    size_t len = 200000, n = 0;
    char *text = malloc(len);
    memset(text, 'b', len);
    int32_t *ids;
    if (ap_tokenizer_encode(t, text, len, 0, &ids, &n, &diag)) fail_msg("%s", diag.text);
    assert_true(n > 0);
    apus_free(ids);
    free(text);
    ap_tokenizer_free(t);
}

/* The bytes of half a surrogate pair are no UTF-8: each is read as U+FFFD, as the reference library's
 * callers do, at either end of a text and within it. */
static void lone_surrogates(void **state)
{
    (void)state;
    static const char *const texts[][2] = {
        {"\xED\xA0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
        {"a\xED\xB0\x80z", "a\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBDz"},
        {"\xED\xA0\xBD\xED\xB8\x80",
         "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
        {"x\xED\xA0", "x\xEF\xBF\xBD\xEF\xBF\xBD"},
    };
    static const char *const names[] = {"qwen", "gemma"};
    for (int f = 0; f < 2; f++) {
        ap_tokenizer *t = open_file(names[f]);
        for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
            int32_t *ids[2];
            size_t n[2];
            for (int k = 0; k < 2; k++)
                assert_int_equal(ap_tokenizer_encode(t, texts[i][k], strlen(texts[i][k]), 0,
                                                     &ids[k], &n[k], NULL),
                                 APUS_OK);
            assert_int_equal(n[0], n[1]);
            assert_memory_equal(ids[0], ids[1], n[0] * sizeof *ids[0]);
            apus_free(ids[0]);
            apus_free(ids[1]);
        }
        ap_tokenizer_free(t);
    }
}

/* Markers as text: none of the tokens that are written like one, special or not. */
static void plain_text(void **state)
{
    (void)state;
    static const char *const files[] = {"models/tiny-qwen", "models/tiny-gemma"};
    static const char *const texts[] = {"<|im_end|>",  "<think>x</think>",
                                        "<tool_call>", "</tool_response> <tool_response>",
                                        "<eos><bos>",  "<|tool_call>call:f{}<tool_call|>",
                                        "a<|channel>b"};
    for (int f = 0; f < 2; f++) {
        ap_tokenizer *t = NULL;
        apus_diag diag = {0};
        if (ap_tokenizer_load(files[f], &t, &diag)) fail_msg("%s", diag.text);
        for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
            int32_t *ids;
            size_t n;
            if (ap_tokenizer_encode(t, texts[i], strlen(texts[i]), APUS_TOK_PLAIN, &ids, &n, &diag))
                fail_msg("%s", diag.text);
            for (size_t k = 0; k < n; k++)
                if (f ? ids[k] < 17 : ids[k] >= 1527)
                    fail_msg("%s: %s has the marker %d", files[f], texts[i], (int)ids[k]);
            apus_free(ids);
        }
        int32_t *ids;
        size_t n;
        assert_int_equal(
            ap_tokenizer_encode(t, "x", 1, APUS_TOK_PLAIN | APUS_TOK_SPECIAL, &ids, &n, &diag),
            APUS_EINVAL);
        ap_tokenizer_free(t);
    }
}

/* ---------------------------------------------------------------- folders */

static void missing_folder(void **state)
{
    (void)state;
    ap_tokenizer *t = NULL;
    apus_diag diag = {0};
    assert_int_equal(ap_tokenizer_load(DATA "none", &t, &diag), APUS_EFILE);
}

/* tokenizer_config.json names one token more; one is known; one has an id that is not the next. */
static void folder_with_config(void **state)
{
    (void)state;
    ap_tokenizer *t = NULL;
    apus_diag diag = {0};
    if (ap_tokenizer_load(DATA "config", &t, &diag)) fail_msg("%s", diag.text);
    assert_int_equal(ap_tokenizer_vocab(t), 5);
    assert_int_equal(ap_tokenizer_id(t, "<extra>", 7), 4);
    assert_true(ap_tokenizer_is_special(t, 4));
    assert_int_equal(ap_tokenizer_id(t, "<far>", 5), -1);
    int32_t *ids;
    size_t n;
    assert_int_equal(ap_tokenizer_encode(t, "ab<extra>a", 10, APUS_TOK_SPECIAL, &ids, &n, NULL),
                     APUS_OK);
    assert_int_equal(n, 3);
    assert_int_equal(ids[0], 2);
    assert_int_equal(ids[1], 4);
    assert_int_equal(ids[2], 0);
    apus_free(ids);
    ap_tokenizer_free(t);
}

int main(void)
{
    static const char *const names[] = {"qwen",      "gemma", "ignore_merges", "prefix_space",
                                        "odd_added", "llama", "fused_unk",     "metaspace"};
    enum { N = sizeof names / sizeof *names };
    struct CMUnitTest tests[N + 11];
    for (size_t i = 0; i < N; i++)
        tests[i] = (struct CMUnitTest){names[i], golden, NULL, NULL, (void *)(uintptr_t)names[i]};
    const struct CMUnitTest others[] = {cmocka_unit_test(long_runs),
                                        cmocka_unit_test(long_marks),
                                        cmocka_unit_test(facts),
                                        cmocka_unit_test(refusals),
                                        cmocka_unit_test(exploding_pattern),
                                        cmocka_unit_test(growing_rules),
                                        cmocka_unit_test(rules_that_grow_little),
                                        cmocka_unit_test(plain_text),
                                        cmocka_unit_test(lone_surrogates),
                                        cmocka_unit_test(missing_folder),
                                        cmocka_unit_test(folder_with_config)};
    memcpy(tests + N, others, sizeof others);
    return cmocka_run_group_tests_name("tokenizer", tests, NULL, NULL);
}
