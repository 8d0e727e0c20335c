#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "torture.h"

static ap_arena arena;
static apus_diag diag;

static int setup(void **state)
{
    (void)state;
    ap_arena_init(&arena, 0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    ap_arena_free(&arena);
    return 0;
}

static ap_json *parse(const char *text, unsigned flags)
{
    ap_json *v = NULL;
    apus_err err = ap_json_parse(&arena, text, strlen(text), "test", flags, &v, &diag);
    if (err) print_error("%s\n", diag.text);
    assert_int_equal(err, APUS_OK);
    return v;
}

static void test_values(void **state)
{
    (void)state;
    ap_json *v = parse(" {\"a\": [1, -2, true, false, null, \"x\"], \"b\": {}, \"c\": []}\n", 0);
    assert_int_equal(v->type, AP_JSON_OBJECT);
    assert_int_equal(v->len, 3);
    const ap_json *a = ap_json_get(v, "a");
    assert_int_equal(a->len, 6);
    assert_string_equal(a->key, "a");
    assert_int_equal(ap_json_at(a, 0)->integer, 1);
    assert_int_equal(ap_json_at(a, 1)->integer, -2);
    assert_true(ap_json_at(a, 1)->number == -2.0);
    assert_int_equal(ap_json_at(a, 2)->type, AP_JSON_BOOL);
    assert_true(ap_json_at(a, 2)->boolean);
    assert_false(ap_json_at(a, 3)->boolean);
    assert_int_equal(ap_json_at(a, 4)->type, AP_JSON_NULL);
    assert_string_equal(ap_json_at(a, 5)->str, "x");
    assert_null(ap_json_at(a, 6));
    assert_null(ap_json_at(v, 0));
    assert_null(ap_json_get(a, "a"));
    assert_null(ap_json_get(NULL, "a"));
    assert_null(ap_json_get(v, "d"));
    assert_int_equal(ap_json_get(v, "b")->len, 0);
    assert_int_equal(parse("\"top\"", 0)->type, AP_JSON_STRING);
    assert_int_equal(parse("7", 0)->integer, 7);
}

static void test_numbers(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        ap_json_type type;
        int64_t i;
        double d;
    } rows[] = {
        {"0", AP_JSON_INT, 0, 0},
        {"-0", AP_JSON_INT, 0, 0},
        {"9223372036854775807", AP_JSON_INT, INT64_MAX, 9223372036854775807.0},
        {"-9223372036854775808", AP_JSON_INT, INT64_MIN, -9223372036854775808.0},
        {"9223372036854775808", AP_JSON_DOUBLE, 0, 9223372036854775808.0},
        {"18446744073709551616", AP_JSON_DOUBLE, 0, 18446744073709551616.0},
        {"1.5", AP_JSON_DOUBLE, 0, 1.5},
        {"1e3", AP_JSON_DOUBLE, 0, 1000},
        {"1E-7", AP_JSON_DOUBLE, 0, 1e-7},
        {"1.0", AP_JSON_DOUBLE, 0, 1},
        {"1e400", AP_JSON_DOUBLE, 0, INFINITY},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        ap_json *v = parse(rows[i].text, 0);
        assert_int_equal(v->type, rows[i].type);
        if (v->type == AP_JSON_INT) assert_int_equal(v->integer, rows[i].i);
        assert_true(v->number == rows[i].d);
        assert_string_equal(v->str, rows[i].text);
    }
    int64_t n;
    assert_false(ap_json_int("", 0, &n));
    assert_false(ap_json_int("-", 1, &n));
    assert_false(ap_json_int("+1", 2, &n));
    assert_false(ap_json_int("99999999999999999999", 20, &n));
}

/* The decimal point of the application's locale plays no part. */
static void test_locale(void **state)
{
    (void)state;
    if (!setlocale(LC_NUMERIC, "de_DE.UTF-8")) skip();
    double d = parse("2.25", 0)->number;
    setlocale(LC_NUMERIC, "C");
    assert_true(d == 2.25);
}

static void test_strings(void **state)
{
    (void)state;
    ap_json *v = parse("\"a\\u0000b\\u00e9\\ud83d\\ude00\\n\\/\\\\\"", 0);
    assert_int_equal(v->len, 12);
    assert_memory_equal(v->str, "a\0b\xC3\xA9\xF0\x9F\x98\x80\n/\\", 13);
    v = parse("{\"k\\u0000x\": 1}", 0);
    assert_int_equal(v->first->key_len, 3);
    assert_null(ap_json_get(v, "k"));
}

static void test_duplicates(void **state)
{
    (void)state;
    ap_json *v = parse("{\"a\":1,\"b\":2,\"a\":3}", 0);
    assert_int_equal(v->len, 3);
    assert_int_equal(ap_json_get(v, "a")->integer, 3);
    const char *bad[] = {"{\"a\":1,\"b\":2,\"\\u0061\":3}", "[{\"x\":{\"\":1,\"\":2}}]"};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(ap_json_parse(&arena, bad[i], strlen(bad[i]), "test",
                                       AP_JSON_REJECT_DUPLICATES, &v, &diag),
                         APUS_EFORMAT);
        assert_non_null(strstr(diag.text, "twice"));
    }
    /* Many keys take the other path. */
    ap_buf b = {0};
    ap_buf_adds(&b, "{");
    for (int i = 0; i < 5000; i++) ap_buf_addf(&b, "\"key%d\":%d,", i, i);
    size_t n = b.len;
    ap_buf_adds(&b, "\"last\":0}");
    assert_int_equal(ap_json_get(parse(b.data, AP_JSON_REJECT_DUPLICATES), "key4999")->integer,
                     4999);
    b.len = n;
    ap_buf_adds(&b, "\"key2500\":0}");
    assert_int_equal(
        ap_json_parse(&arena, b.data, b.len, "test", AP_JSON_REJECT_DUPLICATES, &v, &diag),
        APUS_EFORMAT);
    assert_non_null(strstr(diag.text, "key2500"));
    ap_buf_free(&b);
}

static void test_bad(void **state)
{
    (void)state;
    static const struct {
        const char *text, *part;
    } rows[] = {
        {"", "premature EOF"},
        {"   ", "premature EOF"},
        {"[1,\n2,\n]", "line 3"},
        {"[1\n\n", "line 3"},
        {"{\"a\" 1}", "colon"},
        {"{1:2}", "key"},
        {"[1] x", "trailing garbage"},
        {"1 2", "trailing garbage"},
        {"01", "trailing garbage"},
        {"nul", "invalid string"},
        {"NaN", "invalid"},
        {"[1.]", "malformed number"},
        {"[.5]", "invalid"},
        {"-", "malformed number"},
        {"\"a\nb\"", "invalid character"},
        {"\"\\x\"", "lexical error"},
        {"\"\\u12g4\"", "lexical error"},
        {"\"abc", "EOF"},
        {"[\"\\ud800\"]", "unpaired surrogate"},
        {"[\"\\ud800\\u0041\"]", "unpaired surrogate"},
        {"\n[\"\\udc00\"]", "line 2"},
        {"[\"\\ud83d\\ud83d\"]", "unpaired surrogate"},
        {"[\"\\udc00\\udc00\"]", "unpaired surrogate"},
        {"\xEF\xBB\xBF{}", "byte order mark"},
        {"[\"\xC0\x80\"]", "not UTF-8"},
        {"[1,\n\"\xED\xA0\x80\"]", "line 2: not UTF-8"},
        {"[\"\xF4\x90\x80\x80\"]", "not UTF-8"},
        {"[1,]", "unallowed token"},
        {"{\"a\":1,}", "key"},
        {"/* c */ 1", "comments"},
        {"[1 2]", "after array element"},
        {"]", "unallowed"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        ap_json *v = NULL;
        diag = (apus_diag){0};
        apus_err err =
            ap_json_parse(&arena, rows[i].text, strlen(rows[i].text), "the/file", 0, &v, &diag);
        if (err != APUS_EFORMAT || !strstr(diag.text, rows[i].part))
            fail_msg("row %zu: %d %s", i, err, diag.text);
        assert_non_null(strstr(diag.text, "the/file"));
        assert_null(v);
    }
}

static void test_depth(void **state)
{
    (void)state;
    char text[2 * (AP_JSON_MAX_DEPTH + 1)];
    for (int n = AP_JSON_MAX_DEPTH; n <= AP_JSON_MAX_DEPTH + 1; n++) {
        ap_json *v;
        memset(text, '[', (size_t)n);
        memset(text + n, ']', (size_t)n);
        apus_err err = ap_json_parse(&arena, text, 2 * (size_t)n, "test", 0, &v, &diag);
        assert_int_equal(err, n <= AP_JSON_MAX_DEPTH ? APUS_OK : APUS_EFORMAT);
    }
    assert_non_null(strstr(diag.text, "deeper than 512"));
    /* A megabyte of them is refused at once, without recursion. */
    char *deep = malloc(1 << 20);
    memset(deep, '{', 1 << 20);
    for (int i = 0; i < (1 << 20) - 4; i += 4) memcpy(deep + i, "[[[[", 4);
    ap_json *v;
    assert_int_equal(ap_json_parse(&arena, deep, 1 << 20, "test", 0, &v, &diag), APUS_EFORMAT);
    free(deep);
}

static void test_limit(void **state)
{
    (void)state;
    ap_arena small;
    ap_json *v;
    ap_arena_init(&small, 1000);
    const char *text = "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]";
    assert_int_equal(ap_json_parse(&small, text, strlen(text), "test", 0, &v, &diag), APUS_ENOMEM);
    ap_arena_free(&small);
}

static apus_err count(void *ctx, const ap_json_event *e)
{
    int *n = ctx;
    n[e->type]++;
    return n[AP_JSON_EV_NUMBER] < 100 ? APUS_OK : APUS_ECANCELLED;
}

static void test_walk(void **state)
{
    (void)state;
    int n[9] = {0};
    const char *text = "{\"a\":[1,2.5,{\"b\":null}],\"c\":true,\"d\":\"\"}";
    assert_int_equal(ap_json_walk(text, strlen(text), "test", count, n, &diag), APUS_OK);
    int want[9] = {2, 2, 1, 1, 4, 1, 2, 1, 1};
    assert_memory_equal(n, want, sizeof n);
    n[AP_JSON_EV_NUMBER] = 98; /* the callback's own code comes back */
    assert_int_equal(ap_json_walk(text, strlen(text), "test", count, n, &diag), APUS_ECANCELLED);
}

static void test_quote(void **state)
{
    (void)state;
    ap_buf b = {0};
    const char in[] = "a\"\\\n\t\x01\x7F\xC3\xA9\xF0\x9F\x98\x80\xFFz";
    ap_json_quote(&b, in, sizeof in - 1, false);
    assert_string_equal(b.data,
                        "\"a\\\"\\\\\\n\\t\\u0001\x7F\xC3\xA9\xF0\x9F\x98\x80\xEF\xBF\xBDz\"");
    b.len = 0;
    ap_json_quote(&b, in, sizeof in - 1, true);
    assert_string_equal(b.data, "\"a\\\"\\\\\\n\\t\\u0001\\u007f\\u00e9\\ud83d\\ude00\\ufffdz\"");
    b.len = 0;
    ap_json_quote(&b, "a\0b", 3, false);
    assert_string_equal(b.data, "\"a\\u0000b\"");
    ap_buf_free(&b);
    ap_buf_addf(&b, "%0300d|%s", 7, "x");
    assert_int_equal(b.len, 302);
    assert_string_equal(b.data + 299, "7|x");
    ap_buf_free(&b);
    assert_null(b.data);
}

static apus_err parse_all(void *ctx)
{
    ap_arena a;
    ap_json *v;
    ap_buf b = {0};
    ap_arena_init(&a, 0);
    apus_err err = ap_json_parse(&a, ctx, strlen(ctx), "test", AP_JSON_REJECT_DUPLICATES, &v, NULL);
    ap_json_quote(&b, "x\ny", 3, true);
    if (!err && b.failed) err = APUS_ENOMEM;
    ap_buf_free(&b);
    ap_arena_free(&a);
    return err;
}

static apus_err parse_broken(void *ctx)
{
    ap_arena a;
    ap_json *v;
    ap_arena_init(&a, 0);
    apus_err err = ap_json_parse(&a, ctx, strlen(ctx), "test", 0, &v, NULL);
    ap_arena_free(&a);
    return err == APUS_EFORMAT ? APUS_OK : err;
}

static void test_torture(void **state)
{
    (void)state;
    char text[] = "{\"a\":\"\\u00e9 and a longer text \\n with escapes\",\"b\":[[[[[1.5]]]],{}],"
                  "\"1\":1,\"2\":2,\"3\":3,\"4\":4,\"5\":5,\"6\":6,\"7\":7,\"8\":8,\"9\":9}";
    char broken[] = "{\"a\": [1, \"\\n\", }";
    assert_true(torture(parse_all, text) > 5);
    assert_true(torture(parse_broken, broken) > 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_values, setup, teardown),
        cmocka_unit_test_setup_teardown(test_numbers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_locale, setup, teardown),
        cmocka_unit_test_setup_teardown(test_strings, setup, teardown),
        cmocka_unit_test_setup_teardown(test_duplicates, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad, setup, teardown),
        cmocka_unit_test_setup_teardown(test_depth, setup, teardown),
        cmocka_unit_test(test_limit),
        cmocka_unit_test(test_walk),
        cmocka_unit_test(test_quote),
        cmocka_unit_test(test_torture),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
