/* GGUF files written and read again; names and orders of every tensor of the released models. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "file/gguf.h"
#include "file/gguf_hf.h"
#include "file/gguf_layout.h"
#include "file/gguf_write.h"

#define FILE_NAME "/tmp/apus_test_gguf_write.gguf"

static void written_and_read(void **state)
{
    (void)state;
    apus_diag d;
    ap_gguf_writer *w;
    size_t a, b;
    float numbers[5] = {1, 2, 3, 4, 5};
    uint8_t blocks[2 * 34];
    for (size_t i = 0; i < sizeof blocks; i++) blocks[i] = (uint8_t)(i * 7);
    unlink(FILE_NAME);
    assert_int_equal(ap_gguf_writer_create(&w, &d), APUS_OK);
    ap_gguf_put_u32(w, "u", 4000000000u);
    ap_gguf_put_f32(w, "f", 0.5f);
    ap_gguf_put_bool(w, "b", true);
    ap_gguf_put_string(w, "s", "h\xC3\xA9", 3);
    ap_gguf_put_array(w, "list", AP_GGUF_I32, 2);
    ap_gguf_add_i32(w, -5);
    ap_gguf_add_i32(w, 6);
    ap_gguf_put_array(w, "words", AP_GGUF_STRING, 2);
    ap_gguf_add_string(w, "", 0);
    ap_gguf_add_string(w, "two", 3);
    assert_int_equal(ap_gguf_writer_add(w, "vec", AP_F32, 1, (int64_t[]){5}, &a, &d), APUS_OK);
    assert_int_equal(ap_gguf_writer_add(w, "mat", AP_Q8_0, 2, (int64_t[]){2, 32}, &b, &d), APUS_OK);
    assert_int_equal(ap_gguf_writer_begin(w, FILE_NAME, &d), APUS_OK);
    assert_int_equal(ap_gguf_writer_put(w, b, 34, blocks + 34, 34, &d), APUS_OK);
    assert_int_equal(ap_gguf_writer_put(w, a, 0, numbers, sizeof numbers, &d), APUS_OK);
    assert_int_equal(ap_gguf_writer_put(w, b, 0, blocks, 34, &d), APUS_OK);
    uint64_t size = ap_gguf_writer_bytes(w);
    assert_int_equal(ap_gguf_writer_finish(w, &d), APUS_OK);
    ap_gguf_writer_free(w);

    ap_gguf g;
    int64_t v;
    double x;
    assert_int_equal(ap_gguf_open(FILE_NAME, &g, &d), APUS_OK);
    assert_int_equal(g.map.len, size);
    assert_true(ap_gguf_int(ap_gguf_find(&g, "u"), 0, &v) && v == 4000000000);
    assert_true(ap_gguf_num(ap_gguf_find(&g, "f"), 0, &x) && x == 0.5);
    assert_true(ap_gguf_int(ap_gguf_find(&g, "b"), 0, &v) && v == 1);
    assert_true(ap_gguf_int(ap_gguf_find(&g, "list"), 0, &v) && v == -5);
    assert_true(ap_gguf_int(ap_gguf_find(&g, "list"), 1, &v) && v == 6);
    const ap_gguf_value *words = ap_gguf_find(&g, "words");
    const uint8_t *at = words->data;
    const char *s;
    size_t n;
    assert_true(ap_gguf_next_string(words, &at, &s, &n) && n == 0);
    assert_true(ap_gguf_next_string(words, &at, &s, &n) && n == 3 && !memcmp(s, "two", 3));
    assert_int_equal(g.n_tensors, 2);
    assert_memory_equal(g.tensor[0].tensor.data, numbers, sizeof numbers);
    assert_int_equal(g.tensor[1].tensor.shape[0], 2);
    assert_memory_equal(g.tensor[1].tensor.data, blocks, sizeof blocks);
    ap_gguf_close(&g);
    unlink(FILE_NAME);
}

static void mistakes(void **state)
{
    (void)state;
    apus_diag d;
    ap_gguf_writer *w;
    size_t i;
    unlink(FILE_NAME);
    assert_int_equal(ap_gguf_writer_create(&w, &d), APUS_OK);
    assert_int_equal(ap_gguf_writer_add(w, "x", AP_Q4_K, 2, (int64_t[]){2, 128}, &i, &d),
                     APUS_EUNSUPPORTED);
    assert_int_equal(ap_gguf_writer_add(w, "x", AP_MLX_AFFINE, 1, (int64_t[]){64}, &i, &d),
                     APUS_EUNSUPPORTED);
    assert_int_equal(ap_gguf_writer_add(w, "x", AP_F32, 5, (int64_t[]){1, 1, 1, 1, 1}, &i, &d),
                     APUS_EUNSUPPORTED);
    assert_int_equal(ap_gguf_writer_add(w, "x", AP_F32, 1, (int64_t[]){4}, &i, &d), APUS_OK);
    assert_int_equal(ap_gguf_writer_begin(w, FILE_NAME, &d), APUS_OK);
    assert_int_equal(ap_gguf_writer_finish(w, &d), APUS_EINTERNAL); /* nothing was put */
    ap_gguf_writer_free(w);
    assert_int_equal(ap_gguf_writer_create(&w, &d), APUS_OK);
    assert_int_equal(ap_gguf_writer_add(w, "x", AP_F32, 1, (int64_t[]){4}, &i, &d), APUS_OK);
    assert_int_equal(ap_gguf_writer_begin(w, FILE_NAME, &d), APUS_EFILE); /* it exists */
    assert_int_equal(ap_gguf_writer_add(w, "x", AP_F32, 1, (int64_t[]){4}, &i, &d), APUS_OK);
    unlink(FILE_NAME);
    assert_int_equal(ap_gguf_writer_begin(w, FILE_NAME, &d), APUS_EFORMAT); /* twice */
    ap_gguf_writer_free(w);
    assert_int_not_equal(access(FILE_NAME, F_OK), 0);
}

typedef struct walk {
    const ap_config *c;
    int n;
} walk;

/* Each output's rows and columns are a permutation of the tensor's own. */
static apus_err check_tensor(void *ctx, const ap_model_tensor *t)
{
    walk *w = ctx;
    ap_gguf_out out[2];
    char hf[256];
    int n = ap_gguf_layout(w->c, t, out);
    size_t rows = 1, total = 0;
    for (int i = 0; i + 1 < t->rank; i++) rows *= (size_t)t->shape[i];
    if (t->role == AP_ROLE_GATE_ROW) rows = 1;
    uint8_t *seen = calloc(rows, 1);
    assert_non_null(seen);
    for (int k = 0; k < n; k++) {
        assert_true(ap_gguf_tensor_name(out[k].name, ap_family_of(w->c->arch), hf, sizeof hf));
        for (size_t r = 0; r < out[k].rows; r++) {
            size_t row = ap_gguf_row_of(&out[k], r);
            assert_true(row < rows && !seen[row]);
            seen[row] = 1;
        }
        total += out[k].rows * out[k].cols;
        if (n == 1 && t->role != AP_ROLE_A_LOG) {
            const char *tail = strcmp(t->name, "lm_head.weight") ? hf + strlen("model.") : hf;
            assert_string_equal(tail, t->name);
        }
    }
    assert_int_equal(total, rows * (size_t)t->shape[t->rank - 1]);
    if (out[0].map == AP_GGUF_TILED_COLS) {
        memset(seen, 0, rows);
        uint8_t *cols = calloc(out[0].cols, 1);
        for (size_t c = 0; c < out[0].cols; c++) cols[ap_gguf_col_of(&out[0], c)]++;
        for (size_t c = 0; c < out[0].cols; c++) assert_int_equal(cols[c], 1);
        free(cols);
    }
    free(seen);
    w->n++;
    return APUS_OK;
}

static void layouts(void **state)
{
    (void)state;
    static const struct {
        const char *dir;
        int tensors;
    } models[] = {{"models/configs/Qwen3.6-35B-A3B", 0}, {"models/configs/Qwen3.6-27B", 0},
                  {"models/configs/Qwen3-30B-A3B", 0},   {"models/configs/gemma-4-26B-A4B-it", 0},
                  {"models/configs/gemma-4-E2B-it", 0},  {"models/tiny-qwen", 0},
                  {"tests/golden/data/q3next", 0}};
    ap_config *c = malloc(sizeof *c);
    assert_non_null(c);
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        apus_diag d;
        assert_int_equal(ap_config_read(models[i].dir, c, NULL, &d), APUS_OK);
        walk w = {c, 0};
        assert_int_equal(ap_model_tensors(c, check_tensor, &w), APUS_OK);
        assert_true(w.n > 9 * c->n_layer);
    }
    free(c);
}

/* Head kh * r + j of the model is head j * Hk + kh of the file. */
static void value_heads(void **state)
{
    (void)state;
    ap_config *c = calloc(1, sizeof *c);
    assert_non_null(c);
    *c = (ap_config){.arch = AP_ARCH_QWEN3_5,
                     .n_layer = 1,
                     .hidden = 8,
                     .gdn_k_head = 2,
                     .gdn_v_head = 6,
                     .gdn_k_dim = 4,
                     .gdn_v_dim = 5,
                     .gdn_conv = 4};
    ap_gguf_out o[2];
    ap_model_tensor qkv = {
        .name = "layers.0.linear_attn.in_proj_qkv.weight", .rank = 2, .shape = {2 * 8 + 30, 8}};
    assert_int_equal(ap_gguf_layout(c, &qkv, o), 1);
    assert_string_equal(o[0].name, "blk.0.attn_qkv.weight");
    for (size_t r = 0; r < 16; r++) assert_int_equal(ap_gguf_row_of(o, r), r);
    for (size_t kh = 0; kh < 2; kh++)
        for (size_t j = 0; j < 3; j++)
            for (size_t i = 0; i < 5; i++)
                assert_int_equal(ap_gguf_row_of(o, 16 + (j * 2 + kh) * 5 + i),
                                 16 + (kh * 3 + j) * 5 + i);
    ap_model_tensor a = {
        .name = "layers.0.linear_attn.A_log", .role = AP_ROLE_A_LOG, .rank = 1, .shape = {6}};
    assert_int_equal(ap_gguf_layout(c, &a, o), 1);
    assert_string_equal(o[0].name, "blk.0.ssm_a");
    assert_int_equal(o[0].op, AP_GGUF_NEG_EXP);
    assert_int_equal(ap_gguf_col_of(o, 1), 3);
    assert_int_equal(ap_gguf_col_of(o, 2), 1);
    free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(written_and_read),
                                       cmocka_unit_test(mistakes), cmocka_unit_test(layouts),
                                       cmocka_unit_test(value_heads)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
