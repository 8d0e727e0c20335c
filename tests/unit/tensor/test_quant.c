/* Every quantised type against what gguf-py, mlx and torch decode the same bytes to
 * (tools/goldens/make_quant_tensors.py): equal to the bit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensor/quant.h"

#define GOLDEN "tests/unit/tensor/data/quant.bin"

typedef struct record {
    ap_tensor t;
    const float *want;
} record;

static uint8_t *file;
static size_t file_len;

static int read_file(void **state)
{
    (void)state;
    FILE *f = fopen(GOLDEN, "rb");
    if (!f || fseek(f, 0, SEEK_END)) return -1;
    file_len = (size_t)ftell(f);
    rewind(f);
    file = malloc(file_len);
    size_t got = file ? fread(file, 1, file_len, f) : 0;
    fclose(f);
    return got == file_len ? 0 : -1;
}

static int free_file(void **state)
{
    (void)state;
    free(file);
    return 0;
}

static ap_dtype type_of(const char *name)
{
    for (int t = 0; t < AP_DTYPE_COUNT; t++)
        if (!strcmp(name, ap_dtype_name((ap_dtype)t))) return (ap_dtype)t;
    fail_msg("no type %s", name);
    return AP_F32;
}

static uint8_t *take(size_t *at, size_t n)
{
    assert_true(n <= file_len - *at);
    uint8_t *p = file + *at;
    *at += n;
    return p;
}

static record next(size_t *at)
{
    char name[17] = "", kind[17] = "";
    uint32_t h[8];
    memcpy(name, take(at, 16), 16);
    memcpy(h, take(at, sizeof h), sizeof h);
    memcpy(kind, take(at, 16), 16);
    record r = {.t = {.dtype = type_of(name),
                      .rank = 2,
                      .shape = {h[3], h[4]},
                      .bits = (int)h[0],
                      .group = (int)h[1],
                      .group_rows = (int)h[2]}};
    if (kind[0]) r.t.scale_dtype = type_of(kind);
    r.t.data = take(at, h[5]);
    r.t.scales = h[6] ? take(at, h[6]) : NULL;
    r.t.biases = h[7] ? take(at, h[7]) : NULL;
    r.want = (const void *)take(at, (size_t)h[3] * h[4] * sizeof(float));
    assert_int_equal(ap_tensor_bytes(&r.t), h[5]);
    return r;
}

static void compare(const record *r, const ap_tensor *t, int64_t row, int64_t first, int64_t col,
                    int64_t n)
{
    static float got[4096];
    int64_t cols = r->t.shape[1];
    ap_tensor_row_f32(t, row, col, n, got);
    for (int64_t i = 0; i < n; i++) {
        uint32_t a, b;
        memcpy(&a, (const char *)r->want + (size_t)((first + row) * cols + col + i) * 4, 4);
        memcpy(&b, &got[i], 4);
        if (a != b)
            fail_msg("%s %d bits, row %d, column %d: %08x, expected %08x", ap_dtype_name(t->dtype),
                     t->bits, (int)row, (int)(col + i), b, a);
    }
}

static int step_of(const ap_tensor *t)
{
    int block = ap_dtype_block(t->dtype);
    return block ? block : t->group;
}

/* Whole rows, every block alone, and through a view of the later rows. */
static void test_goldens(void **state)
{
    (void)state;
    bool seen[AP_DTYPE_COUNT] = {false};
    int n = 0;
    for (size_t at = 0; at < file_len; n++) {
        record r = next(&at);
        int64_t rows = r.t.shape[0], cols = r.t.shape[1], step = step_of(&r.t);
        seen[r.t.dtype] = true;
        for (int64_t i = 0; i < rows; i++) compare(&r, &r.t, i, 0, 0, cols);
        for (int64_t c = 0; c < cols; c += step)
            compare(&r, &r.t, rows - 1, 0, c, cols - c < step ? cols - c : step);
        int64_t from = r.t.group_rows > 1 ? r.t.group_rows : 1;
        ap_tensor later = ap_tensor_rows(&r.t, from, rows);
        for (int64_t i = 0; i < rows - from; i++) compare(&r, &later, i, from, 0, cols);
    }
    assert_int_equal(n, 18 + 21 + 2);
    for (int t = AP_Q4_0; t < AP_DTYPE_COUNT; t++)
        if (!seen[t]) fail_msg("no golden for %s", ap_dtype_name((ap_dtype)t));
}

/* A stack of matrices: index e of the first axis has the scales of its own rows. */
static void test_stack(void **state)
{
    (void)state;
    for (size_t at = 0; at < file_len;) {
        record r = next(&at);
        if (r.t.group_rows > 1) continue;
        ap_tensor stack = r.t;
        stack.rank = 3;
        stack.shape[0] = r.t.shape[0];
        stack.shape[1] = 1;
        stack.shape[2] = r.t.shape[1];
        for (int64_t e = 0; e < stack.shape[0]; e++) {
            ap_tensor one = ap_tensor_index(&stack, e);
            assert_int_equal(one.rank, 2);
            compare(&r, &one, 0, e, 0, r.t.shape[1]);
        }
    }
}

static void test_is_weight(void **state)
{
    (void)state;
    static const ap_dtype no[] = {AP_F64, AP_I8,  AP_I16, AP_I32,     AP_I64,     AP_U8,
                                  AP_U16, AP_U32, AP_U64, AP_F8_E4M3, AP_F8_E5M2, AP_BOOL};
    int n = 0;
    for (int t = 0; t < AP_DTYPE_COUNT; t++) n += ap_dtype_is_weight((ap_dtype)t);
    for (size_t i = 0; i < sizeof no / sizeof *no; i++) assert_false(ap_dtype_is_weight(no[i]));
    assert_int_equal(n, AP_DTYPE_COUNT - (int)(sizeof no / sizeof *no));
    assert_false(ap_dtype_is_weight((ap_dtype)-1));
    assert_false(ap_dtype_is_weight(AP_DTYPE_COUNT));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goldens),
        cmocka_unit_test(test_stack),
        cmocka_unit_test(test_is_weight),
    };
    return cmocka_run_group_tests(tests, read_file, free_file);
}
