#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "file/safetensors.h"
#include "torture.h"

static apus_diag diag;

/* A file of that header and n_data bytes behind it. */
static apus_err parse(const char *header, size_t n_data, ap_safetensors *st)
{
    static uint8_t file[1 << 16]; /* lives as long as the views */
    size_t n = strlen(header);
    assert_true(n + n_data + 8 <= sizeof file);
    for (int i = 0; i < 8; i++) file[i] = (uint8_t)(n >> 8 * i);
    memcpy(file + 8, header, n);
    for (size_t i = 0; i < n_data; i++) file[8 + n + i] = (uint8_t)i;
    diag = (apus_diag){0};
    return ap_safetensors_parse(file, 8 + n + n_data, "some.safetensors", st, &diag);
}

#define GOOD                                                                                       \
    "{\"__metadata__\":{\"format\":\"pt\",\"empty\":\"\"},"                                        \
    "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[4,16]},"                          \
    "\"a\":{\"data_offsets\":[0,4],\"shape\":[],\"dtype\":\"F32\"},"                               \
    "\"none\":{\"dtype\":\"I64\",\"shape\":[3,0,7],\"data_offsets\":[16,16]},"                     \
    "\"\\u00e9\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[16,17]}}"

static void test_good(void **state)
{
    (void)state;
    ap_safetensors st;
    assert_int_equal(parse(GOOD "   \n", 17, &st), APUS_OK);
    assert_int_equal(st.n, 4);
    static const char *const names[] = {"a", "b", "none", "\xC3\xA9"}; /* by position */
    for (int i = 0; i < 4; i++) assert_string_equal(st.entry[i].name, names[i]);
    assert_int_equal(st.entry[0].tensor.rank, 0);
    assert_int_equal(st.entry[1].tensor.dtype, AP_BF16);
    assert_int_equal(st.entry[1].tensor.shape[1], 3);
    assert_int_equal(((const uint8_t *)st.entry[1].tensor.data)[0], 4);
    assert_null(st.entry[2].tensor.data);
    assert_int_equal(ap_tensor_count(&st.entry[2].tensor), 0);
    ap_safetensors_close(&st);
    assert_int_equal(parse("{}", 0, &st), APUS_OK);
    assert_int_equal(st.n, 0);
    ap_safetensors_close(&st);
    assert_int_equal(parse("{\"__metadata__\":{}}", 0, &st), APUS_OK);
    ap_safetensors_close(&st);
    assert_int_equal(parse("{\"__metadata__\":null}", 0, &st), APUS_OK);
    ap_safetensors_close(&st);
}

#define T(name, dtype, shape, off)                                                                 \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" off "}"

static const struct {
    const char *header;
    size_t n_data;
    apus_err err;
    const char *part;
} bad[] = {
    {"[]", 0, APUS_EFORMAT, "begin with '{'"},
    {" {}", 0, APUS_EFORMAT, "begin with '{'"},
    {"", 4, APUS_EFORMAT, "begin with '{'"},
    {"{", 0, APUS_EFORMAT, "EOF"},
    {"{}x", 0, APUS_EFORMAT, "trailing garbage"},
    {"{}{}", 0, APUS_EFORMAT, "trailing garbage"},
    {"{\"a\":\"\xFF\"}", 0, APUS_EFORMAT, "not UTF-8"},
    {"{\"a\":1}", 0, APUS_EFORMAT, "\"a\": expected an object"},
    {"{\"a\":[]}", 0, APUS_EFORMAT, "\"a\": expected an object"},
    {"{\"a\":null}", 0, APUS_EFORMAT, "\"a\": expected an object"},
    {"{\"a\":{}}", 0, APUS_EFORMAT, "\"a\": dtype is missing"},
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,0]}}", 0, APUS_EFORMAT, "shape is missing"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0]}}", 0, APUS_EFORMAT, "data_offsets is missing"},
    {"{" T("a", "F31", "[1]", "[0,4]") "}", 4, APUS_EUNSUPPORTED,
     "tensor \"a\": the element type \"F31\""},
    {"{" T("a", "f32", "[1]", "[0,4]") "}", 4, APUS_EUNSUPPORTED, "\"f32\""},
    {"{\"a\":{\"dtype\":7,\"shape\":[0],\"data_offsets\":[0,0]}}", 0, APUS_EFORMAT, "dtype is not"},
    {"{" T("a", "F32", "1", "[0,4]") "}", 4, APUS_EFORMAT, "shape is not a list"},
    {"{" T("a", "F32", "[-1]", "[0,4]") "}", 4, APUS_EFORMAT, "shape: expected integers"},
    {"{" T("a", "F32", "[1.0]", "[0,4]") "}", 4, APUS_EFORMAT, "shape: expected integers"},
    {"{" T("a", "F32", "[\"1\"]", "[0,4]") "}", 4, APUS_EFORMAT, "shape: expected integers"},
    {"{" T("a", "F32", "[[1]]", "[0,4]") "}", 4, APUS_EFORMAT, "shape: expected integers"},
    {"{" T("a", "F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]") "}", 4, APUS_EFORMAT, "more than 8"},
    {"{" T("a", "F32", "[1]", "4") "}", 4, APUS_EFORMAT, "data_offsets is not a list"},
    {"{" T("a", "F32", "[1]", "[0]") "}", 4, APUS_EFORMAT, "expected two numbers"},
    {"{" T("a", "F32", "[1]", "[0,4,8]") "}", 4, APUS_EFORMAT, "more than two"},
    {"{" T("a", "F32", "[1]", "[-4,0]") "}", 4, APUS_EFORMAT, "data_offsets: expected"},
    {"{" T("a", "F32", "[1]", "[4,0]") "}", 4, APUS_EFORMAT, "do not lie"},
    {"{" T("a", "F32", "[2]", "[0,8]") "}", 4, APUS_EFORMAT, "do not lie"},
    {"{" T("a", "F32", "[1]", "[0,18446744073709551615]") "}", 4, APUS_EFORMAT, "data_offsets"},
    {"{" T("a", "F32", "[2]", "[0,4]") "}", 4, APUS_EFORMAT, "shape needs 8 bytes"},
    {"{" T("a", "F32", "[0]", "[0,4]") "}", 4, APUS_EFORMAT, "shape needs 0 bytes"},
    /* 2^62 * 4 wraps to 0; 0 must not hide an overflow of the others */
    {"{" T("a", "F32", "[4611686018427387904]", "[0,0]") "}", 0, APUS_EFORMAT, "overflows"},
    {"{" T("a", "U8", "[4294967296,4294967296]", "[0,0]") "}", 0, APUS_EFORMAT, "overflows"},
    {"{" T("a", "U8", "[4294967296,4294967296,0]", "[0,0]") "}", 0, APUS_EFORMAT, "overflows"},
    {"{" T("a", "U8", "[9223372036854775808]", "[0,0]") "}", 0, APUS_EFORMAT, "shape: expected"},
    {"{" T("a", "U8", "[4]", "[0,4]") "," T("b", "U8", "[4]", "[2,6]") "}", 6, APUS_EFORMAT,
     "overlap"},
    {"{" T("a", "U8", "[4]", "[0,4]") "," T("b", "U8", "[4]", "[0,4]") "}", 4, APUS_EFORMAT,
     "overlap"},
    {"{" T("a", "U8", "[4]", "[0,4]") "," T("b", "U8", "[4]", "[5,9]") "}", 9, APUS_EFORMAT,
     "hole"},
    {"{" T("a", "U8", "[4]", "[1,5]") "}", 5, APUS_EFORMAT, "hole"},
    {"{" T("a", "U8", "[4]", "[0,4]") "," T("b", "U8", "[0]", "[2,2]") "}", 4, APUS_EFORMAT,
     "overlap"},
    {"{" T("a", "U8", "[4]", "[0,4]") "}", 5, APUS_EFORMAT, "end at byte 4"},
    {"{}", 1, APUS_EFORMAT, "end at byte 0"},
    {"{" T("a", "U8", "[0]", "[0,0]") "," T("a", "U8", "[0]", "[0,0]") "}", 0, APUS_EFORMAT,
     "\"a\" appears twice"},
    {"{" T("a", "U8", "[0]", "[0,0]") "," T("\\u0061", "U8", "[0]", "[0,0]") "}", 0, APUS_EFORMAT,
     "\"a\" appears twice"},
    {"{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0,
     APUS_EFORMAT, "\"dtype\" appears twice"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0],\"more\":1}}", 0, APUS_EFORMAT,
     "unknown key \"more\""},
    {"{" T("", "U8", "[0]", "[0,0]") "}", 0, APUS_EFORMAT, "name is empty"},
    {"{" T("a\\u0000b", "U8", "[0]", "[0,0]") "}", 0, APUS_EFORMAT, "zero byte"},
    {"{\"__metadata__\":{\"a\":1}}", 0, APUS_EFORMAT, "texts only"},
    {"{\"__metadata__\":{\"a\":{}}}", 0, APUS_EFORMAT, "texts only"},
    {"{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", 0, APUS_EFORMAT, "\"a\" appears twice"},
    {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, APUS_EFORMAT, "appears twice"},
    {"{\"__metadata__\":\"x\"}", 0, APUS_EFORMAT, "expected an object"},
};

static void test_bad(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ap_safetensors st;
        memset(&st, 0x5A, sizeof st);
        apus_err err = parse(bad[i].header, bad[i].n_data, &st);
        if (err != bad[i].err || !strstr(diag.text, bad[i].part) || diag.code != err)
            fail_msg("row %zu %s: %d %s", i, bad[i].header, err, diag.text);
        assert_non_null(strstr(diag.text, "some.safetensors"));
        assert_int_equal(((uint8_t *)&st)[0], 0x5A); /* untouched */
    }
}

/* The length is checked before anything is done with it. */
static void test_length(void **state)
{
    (void)state;
    ap_safetensors st;
    uint8_t file[20] = {2, 0, 0, 0, 0, 0, 0, 0, '{', '}'};
    assert_int_equal(ap_safetensors_parse(file, 10, "f", &st, &diag), APUS_OK);
    ap_safetensors_close(&st);
    for (size_t n = 0; n < 10; n++)
        assert_int_equal(ap_safetensors_parse(file, n, "f", &st, &diag), APUS_EFORMAT);
    file[0] = 3;
    assert_int_equal(ap_safetensors_parse(file, 10, "f", &st, &diag), APUS_EFORMAT);
    memset(file, 0xFF, 8);
    assert_int_equal(ap_safetensors_parse(file, 10, "f", &st, &diag), APUS_EFORMAT);
    assert_non_null(strstr(diag.text, "18446744073709551615"));
    memcpy(file, "\x01\x00\x40\x06\x00\x00\x00\x00", 8); /* 100 MB and one byte */
    assert_int_equal(ap_safetensors_parse(file, (size_t)200 << 20, "f", &st, &diag), APUS_EFORMAT);
}

/* 100,000 tensors open in well under half a second. */
static void test_many(void **state)
{
    (void)state;
    enum { N = 100000 };
    ap_buf b = {0};
    ap_buf_add(&b, "\0\0\0\0\0\0\0\0{", 9);
    for (int i = 0; i < N; i++)
        ap_buf_addf(
            &b,
            "%s\"model.language_model.layers.%d.mlp.experts.%d.gate_proj.weight\":{\"dtype\":"
            "\"BF16\",\"shape\":[2,1],\"data_offsets\":[%d,%d]}",
            i ? "," : "", i % 60, i, 4 * i, 4 * i + 4);
    ap_buf_adds(&b, "}");
    for (int i = 0; i < 8; i++) b.data[i] = (char)((b.len - 8) >> 8 * i);
    size_t data = b.len;
    char *zeros = calloc(N, 4);
    ap_buf_add(&b, zeros, 4 * N);
    ap_safetensors st;
    int64_t t = ap_time_us();
    assert_int_equal(ap_safetensors_parse((uint8_t *)b.data, b.len, "f", &st, &diag), APUS_OK);
    print_message("%d tensors, header of %zu bytes: %.3f s\n", N, data - 8,
                  (double)(ap_time_us() - t) / 1e6);
    assert_int_equal(st.n, N);
    ap_safetensors_close(&st);
    free(zeros);
    ap_buf_free(&b);
}

static apus_err parse_good(void *ctx)
{
    ap_safetensors st;
    apus_err err = parse(ctx, 17, &st);
    if (!err) ap_safetensors_close(&st);
    return err;
}

static void test_torture(void **state)
{
    (void)state;
    char header[] = GOOD;
    assert_true(torture(parse_good, header) > 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good), cmocka_unit_test(test_bad),     cmocka_unit_test(test_length),
        cmocka_unit_test(test_many), cmocka_unit_test(test_torture),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
