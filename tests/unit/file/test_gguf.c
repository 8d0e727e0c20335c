/* GGUF files and quantised safetensors that are wrong somewhere: one sentence names the file, the
 * tensor or the key. Right ones are covered by tests/golden_quant. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "file/config.h"
#include "file/gguf_hf.h"
#include "file/weights.h"
#include "gguf_bytes.h"
#include "st_writer.h"
#include "torture.h"

static apus_diag diag;

static void fails(const bytes *f, size_t len, apus_err want, const char *part)
{
    ap_gguf g;
    uint8_t *copy = malloc(len ? len : 1); /* of the exact size, for the sanitizers */
    memcpy(copy, f->b, len);
    diag = (apus_diag){0};
    apus_err err = ap_gguf_parse(copy, len, "m.gguf", &g, &diag);
    if (!err) ap_gguf_close(&g);
    free(copy);
    if (err != want || !strstr(diag.text, part) || !strstr(diag.text, "m.gguf"))
        fail_msg("%d \"%s\", expected %d \"%s\"", err, diag.text, want, part);
}

/* ---------------------------------------------------------------- the container */

static bytes good(void)
{
    bytes f = begin();
    kv_text(&f, "general.architecture", "qwen3moe");
    kv_int(&f, "a.number", 7);
    kv_array(&f, "a.list", AP_GGUF_STRING, 2);
    put_text(&f, "x");
    put_text(&f, "");
    record(&f, "one", 32, 2, 8, 0); /* Q8_0: 68 bytes */
    record(&f, "two", 4, 1, 0, 96); /* F32: 16 bytes */
    finish(&f, 112);
    return f;
}

static void test_good(void **state)
{
    (void)state;
    ap_gguf g;
    bytes f = good();
    assert_int_equal(ap_gguf_parse(f.b, f.n, "m.gguf", &g, &diag), APUS_OK);
    assert_int_equal(g.n_tensors, 2);
    assert_int_equal(g.tensor[0].tensor.shape[0], 2);
    assert_int_equal(g.tensor[0].tensor.shape[1], 32);
    assert_int_equal(g.tensor[0].tensor.dtype, AP_Q8_0);
    assert_int_equal(g.tensor[1].begin - g.tensor[0].begin, 96);
    int64_t v;
    assert_true(ap_gguf_int(ap_gguf_find(&g, "a.number"), 0, &v) && v == 7);
    assert_false(ap_gguf_int(ap_gguf_find(&g, "a.number"), 1, &v));
    assert_null(ap_gguf_find(&g, "a.numbe"));
    ap_gguf_close(&g);
    for (size_t n = 0; n < f.n; n++) fails(&f, n, APUS_EFORMAT, ""); /* cut anywhere */
}

static void test_counts(void **state)
{
    (void)state;
    bytes f = good();
    memset(f.b + 8, 0xFF, 8);
    fails(&f, f.n, APUS_EFORMAT, "do not fit in the file");
    f = good();
    memset(f.b + 16, 0xFF, 8);
    fails(&f, f.n, APUS_EFORMAT, "do not fit in the file");
    f = good();
    f.b[4] = 9;
    fails(&f, f.n, APUS_EUNSUPPORTED, "GGUF version 9");
    f.b[0] = 'X';
    fails(&f, f.n, APUS_EFORMAT, "does not begin with \"GGUF\"");
    f = begin();
    kv_array(&f, "a.list", AP_GGUF_U64, UINT64_MAX / 4);
    finish(&f, 0);
    fails(&f, f.n, APUS_EFORMAT, "a.list");
    f = begin();
    kv_array(&f, "a.list", AP_GGUF_STRING, 1);
    put(&f, UINT64_MAX, 8);
    finish(&f, 64);
    fails(&f, f.n, APUS_EFORMAT, "a.list");
    f = begin();
    kv_array(&f, "a.nest", AP_GGUF_ARRAY, 1);
    finish(&f, 64);
    fails(&f, f.n, APUS_EFORMAT, "\"a.nest\" has unknown type 9");
    f = begin();
    kv_int(&f, "a.b", 1);
    kv_int(&f, "a.b", 2);
    finish(&f, 0);
    fails(&f, f.n, APUS_EFORMAT, "\"a.b\" appears twice");
}

static void one_record(uint64_t cols, uint64_t rows, uint32_t type, uint64_t at, apus_err want,
                       const char *part)
{
    bytes f = begin();
    record(&f, "one", cols, rows, type, at);
    finish(&f, 512);
    fails(&f, f.n, want, part);
    assert_non_null(strstr(diag.text, "\"one\""));
}

static void test_tensors(void **state)
{
    (void)state;
    one_record(32, 2, 90, 0, APUS_EUNSUPPORTED, "unknown type number 90");
    one_record(32, 2, 139, 0, APUS_EUNSUPPORTED,
               "has type IQ4_K of ik_llama.cpp, which apus does not");
    one_record(32, 2, 133, 0, APUS_EUNSUPPORTED, "has type Q6_0 of ik_llama.cpp");
    one_record(32, 2, 212, 0, APUS_EUNSUPPORTED, "has type Q4_K_R4 of ik_llama.cpp");
    one_record(32, 2, 399, 0, APUS_EUNSUPPORTED, "has type Q8_K_R8 of ik_llama.cpp");
    one_record(32, 2, 41, 0, APUS_EUNSUPPORTED, "has type Q1_0, which");
    one_record(256, 2, 19, 0, APUS_EUNSUPPORTED, "has type IQ1_S");
    one_record(256, 2, 35, 0, APUS_EUNSUPPORTED, "has type TQ2_0");
    one_record(64, 2, 40, 0, APUS_EUNSUPPORTED, "has type NVFP4");
    one_record(48, 2, 8, 0, APUS_EFORMAT, "rows of 48 values are not whole q8_0 blocks of 32");
    one_record(128, 2, 12, 0, APUS_EFORMAT, "rows of 128 values are not whole q4_k blocks of 256");
    one_record(0, 2, 0, 0, APUS_EFORMAT, "size 0 of axis 0");
    one_record(UINT64_MAX, 1, 0, 0, APUS_EFORMAT, "out of range");
    one_record((uint64_t)1 << 40, (uint64_t)1 << 40, 0, 0, APUS_EFORMAT, "out of range");
    one_record((uint64_t)1 << 61, 1, 0, 0, APUS_EFORMAT, "");
    one_record(32, 2, 8, 4, APUS_EFORMAT, "begins at 4, not a multiple of 32");
    one_record(256, 2, 0, 0, APUS_EFORMAT, "is it truncated?");
    one_record(4, 1, 0, UINT64_MAX - 31, APUS_EFORMAT, "is it truncated?");
    bytes f = begin();
    record(&f, "one", 32, 2, 8, 0);
    record(&f, "two", 4, 1, 0, 64);
    finish(&f, 128);
    fails(&f, f.n, APUS_EFORMAT, "\"one\" and \"two\" overlap");
    f = begin();
    kv_int(&f, "general.alignment", 48);
    finish(&f, 0);
    fails(&f, f.n, APUS_EFORMAT, "general.alignment is 48, expected a power of two up to 1048576");
    f = begin();
    put_text(&f, "one");
    put(&f, 5, 4); /* rank */
    f.tensors++;
    finish(&f, 64);
    fails(&f, f.n, APUS_EFORMAT, "\"one\" has rank 5");
}

/* ---------------------------------------------------------------- metadata */

static apus_err config_of(const bytes *f, char *text, size_t cap)
{
    ap_gguf g;
    const ap_gguf *part = &g;
    ap_buf b = {0};
    diag = (apus_diag){0};
    if (ap_gguf_parse(f->b, f->n, "m.gguf", &g, &diag)) fail_msg("%s", diag.text);
    apus_err err = ap_gguf_config_json(&part, 1, &b, &diag);
    snprintf(text, cap, "%.*s", err ? 0 : (int)b.len, b.data ? b.data : "");
    ap_buf_free(&b);
    ap_gguf_close(&g);
    return err;
}

static void config_fails(bytes *f, apus_err want, const char *part)
{
    char text[4096];
    finish(f, 256);
    apus_err err = config_of(f, text, sizeof text);
    if (err != want || !strstr(diag.text, part) || !strstr(diag.text, "m.gguf"))
        fail_msg("%d \"%s\", expected %d \"%s\"", err, diag.text, want, part);
}

static void test_keys(void **state)
{
    (void)state;
    static const char *const keys[] = {
        "block_count",    "embedding_length",     "attention.head_count",
        "context_length", "attention.key_length", "attention.head_count_kv",
        "expert_count",   "expert_used_count",    "expert_feed_forward_length"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        char part[100];
        bytes f = begin();
        base_keys(&f, "qwen3moe", keys[i]);
        snprintf(part, sizeof part, "qwen3moe.%s is missing", keys[i]);
        config_fails(&f, APUS_EFORMAT, part);
    }
    bytes f = begin();
    config_fails(&f, APUS_EFORMAT, "general.architecture is missing");
    f = begin();
    kv_text(&f, "general.architecture", "llama");
    config_fails(&f, APUS_EUNSUPPORTED, "architecture \"llama\" is not supported");
    f = begin();
    base_keys(&f, "qwen3moe", "block_count");
    kv_text(&f, "qwen3moe.block_count", "two");
    config_fails(&f, APUS_EFORMAT, "qwen3moe.block_count: expected a whole number");
    f = begin();
    base_keys(&f, "qwen3moe", "block_count");
    kv_int(&f, "qwen3moe.block_count", 4000000000u);
    config_fails(&f, APUS_EFORMAT, "qwen3moe.block_count gives 4000000000 layers");
    f = begin();
    base_keys(&f, "qwen3moe", NULL);
    put_text(&f, "qwen3moe.rope.freq_base");
    put(&f, AP_GGUF_F32, 4);
    put(&f, 0x7FC00000, 4); /* not a number */
    f.values++;
    config_fails(&f, APUS_EFORMAT, "qwen3moe.rope.freq_base: expected a finite number");
    f = begin();
    base_keys(&f, "gemma4", NULL);
    record(&f, "token_embd.weight", 8, 4, 0, 0);
    config_fails(&f, APUS_EFORMAT, "\"rope_freqs.weight\" is missing");
    f = begin();
    base_keys(&f, "gemma4", NULL);
    record(&f, "rope_freqs.weight", 1, 2, 0, 0); /* zeros */
    config_fails(&f, APUS_EUNSUPPORTED,
                 "\"rope_freqs.weight\": expected 2 divisors in f32, f16 or bf16");
}

/* A file of two whole layers and what else is told; head: the block of the head for the next tokens. */
static void layers_are(uint32_t count, int nextn, int blocks, int head, int want)
{
    char name[64], text[4096], part[64];
    bytes f = begin();
    base_keys(&f, "qwen3moe", "block_count");
    kv_int(&f, "qwen3moe.block_count", count);
    if (nextn >= 0) kv_int(&f, "qwen3moe.nextn_predict_layers", (uint32_t)nextn);
    for (int i = 0; i < blocks; i++) {
        snprintf(name, sizeof name, "blk.%d.attn_norm.weight", i);
        record(&f, name, 4, 1, 0, 32 * (uint64_t)i);
    }
    snprintf(name, sizeof name, "blk.%d.nextn.eh_proj.weight", head);
    if (head >= 0) record(&f, name, 4, 1, 0, 320);
    finish(&f, 512);
    apus_err err = config_of(&f, text, sizeof text);
    snprintf(part, sizeof part, "\"num_hidden_layers\":%d,", want);
    if (want > 0 ? err || !strstr(text, part)
                 : err != APUS_EFORMAT || !strstr(diag.text, "block_count"))
        fail_msg("%u %d %d %d: %d %s", count, nextn, blocks, head, err, err ? diag.text : text);
}

static void test_head_for_next_tokens(void **state)
{
    (void)state;
    layers_are(2, -1, 2, -1, 2);
    layers_are(3, 1, 3, 2, 2);  /* the count counts the head, as converters write it */
    layers_are(2, 1, 3, 2, 2);  /* it does not */
    layers_are(3, -1, 3, 2, 2); /* the count counts what no key speaks of */
    layers_are(2, -1, 3, 2, 2);
    layers_are(4, 2, 4, 2, 2); /* two of them */
    layers_are(2, 2, 4, 2, 2);
    layers_are(3, 1, 2, -1, 2); /* the head was taken off */
    layers_are(2, 1, 2, -1, 2);
    layers_are(2, 0, 2, -1, 2);
    layers_are(2, -1, 3, -1, 0); /* a layer more than is told */
    layers_are(4, -1, 3, -1, 0);
    layers_are(5, 1, 3, 2, 0);
    layers_are(2, 1, 2, 0, 0);
}

/* Divisors of the angles in 16 bits, where 1e30 has become infinity. */
static void test_short_rope_factors(void **state)
{
    (void)state;
    const uint32_t kind[] = {0, 1, 30, 1, 1, 8};
    const uint32_t one[] = {0x3F800000, 0x3C00, 0x3F80, 0x3C00, 0x3C00, 0},
                   still[] = {0x7149F2CA, 0x7C00, 0x714A, 0x7BFF, 0x4000, 0};
    for (int i = 0; i < 5; i++) {
        char text[4096];
        bytes f = begin();
        base_keys(&f, "gemma4", NULL);
        record(&f, "rope_freqs.weight", 2, 1, kind[i], 0);
        finish(&f, 0);
        size_t size = kind[i] ? 2 : 4;
        put(&f, one[i], size);
        put(&f, still[i], size);
        put(&f, 0, 32);
        apus_err err = config_of(&f, text, sizeof text);
        if (i < 4 && (err || !strstr(text, "\"partial_rotary_factor\":0.5")))
            fail_msg("%d %s", i, diag.text);
        if (i == 4) assert_int_equal(err, APUS_EUNSUPPORTED); /* 2: another kind of scaling */
    }
}

/* A list for fewer layers than there are does not mean that the others are full. */
static void test_short_lists(void **state)
{
    (void)state;
    bytes f = begin();
    base_keys(&f, "gemma4", NULL);
    kv_array(&f, "gemma4.attention.sliding_window_pattern", AP_GGUF_BOOL, 1);
    put(&f, 1, 1);
    config_fails(&f, APUS_EFORMAT, "expected a flag for each of 2 layers, found 1");
}

/* What ends a turn: every key that names it, and the family's texts. */
static void test_stops(void **state)
{
    (void)state;
    static const char *const tokens[] = {"a",       "<|im_end|>", "b", "<|endoftext|>",
                                         "<turn|>", "c",          NULL};
    char text[4096];
    bytes f = begin();
    base_keys(&f, "qwen3moe", NULL);
    kv_int(&f, "tokenizer.ggml.eos_token_id", 5);
    kv_ints(&f, "tokenizer.ggml.eos_token_ids", (const int32_t[]){5, 2, -1}, 3);
    kv_int(&f, "tokenizer.ggml.eot_token_id", 1);
    kv_texts(&f, "tokenizer.ggml.tokens", tokens);
    finish(&f, 0);
    assert_int_equal(config_of(&f, text, sizeof text), APUS_OK);
    assert_non_null(strstr(text, "\"eos_token_id\":[5,2,1,3]"));
}

/* Some writers list K/V heads for every layer, with 0 for recurrent ones. */
static void test_kv_list(void **state)
{
    (void)state;
    char text[4096];
    bytes f = begin();
    base_keys(&f, "qwen3moe", "attention.head_count_kv");
    kv_array(&f, "qwen3moe.attention.head_count_kv", AP_GGUF_I32, 2);
    put(&f, 0, 4);
    put(&f, 2, 4);
    finish(&f, 0);
    assert_int_equal(config_of(&f, text, sizeof text), APUS_OK);
    assert_non_null(strstr(text, "\"num_key_value_heads\":2,"));
}

/* ---------------------------------------------------------------- files */

static char root[64];
static ap_weights *w;

static const char *in(const char *name)
{
    static char path[4][400];
    static int k;
    k = (k + 1) % 4;
    snprintf(path[k], sizeof path[k], "%s/%s", root, name);
    return path[k];
}

static int make_dir(void **state)
{
    (void)state;
    strcpy(root, "/tmp/apus-test-XXXXXX");
    w = NULL;
    return mkdtemp(root) ? 0 : -1;
}

static int remove_dir(void **state)
{
    (void)state;
    DIR *d = opendir(root);
    for (struct dirent *e; d && (e = readdir(d));)
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..")) unlink(in(e->d_name));
    if (d) closedir(d);
    ap_weights_close(w);
    return rmdir(root);
}

/* Part `no` (from 0) of `of`, with one tensor. */
static void write_part(const char *name, uint32_t no, uint32_t of, uint32_t total,
                       const char *tensor)
{
    bytes f = begin();
    if (no == 0) base_keys(&f, "qwen3moe", NULL);
    if (of) { /* 0: a whole model */
        kv_int(&f, "split.no", no);
        kv_int(&f, "split.count", of);
        kv_int(&f, "split.tensors.count", total);
    }
    record(&f, tensor, 4, 1, 0, 0);
    finish(&f, 16);
    FILE *out = fopen(in(name), "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(f.b, 1, f.n, out), f.n);
    fclose(out);
}

static void open_fails(const char *name, apus_err want, const char *part)
{
    diag = (apus_diag){0};
    apus_err err = ap_weights_open_gguf(in(name), &w, &diag);
    if (err != want || !strstr(diag.text, part))
        fail_msg("%d \"%s\", expected %d \"%s\"", err, diag.text, want, part);
}

static void test_split(void **state)
{
    (void)state;
    write_part("m-00001-of-00002.gguf", 0, 2, 2, "token_embd.weight");
    open_fails("m-00001-of-00002.gguf", APUS_EFILE, "m-00002-of-00002.gguf");
    write_part("m-00002-of-00002.gguf", 1, 2, 0, "blk.0.attn_q.weight");
    if (ap_weights_open_gguf(in("m-00001-of-00002.gguf"), &w, &diag)) fail_msg("%s", diag.text);
    assert_non_null(ap_weights_find(w, "model.layers.0.self_attn.q_proj.weight"));
    assert_int_equal(ap_weights_count(w), 2);
    ap_weights_close(w);
    w = NULL;
    open_fails("m-00002-of-00002.gguf", APUS_EFORMAT, "part 2 of 2: open the first part");
    /* The first part under the second's name, as a link that leads back would have it. */
    unlink(in("m-00002-of-00002.gguf"));
    assert_int_equal(symlink("m-00001-of-00002.gguf", in("m-00002-of-00002.gguf")), 0);
    open_fails("m-00001-of-00002.gguf", APUS_EFORMAT, "part 1 of 2, expected part 2 of 2");
    unlink(in("m-00002-of-00002.gguf"));
    assert_int_equal(symlink("m-00002-of-00002.gguf", in("m-00002-of-00002.gguf")), 0);
    open_fails("m-00001-of-00002.gguf", APUS_EFILE, "m-00002-of-00002.gguf");
    unlink(in("m-00002-of-00002.gguf"));
    write_part("m-00002-of-00002.gguf", 1, 3, 0, "blk.0.attn_q.weight");
    open_fails("m-00001-of-00002.gguf", APUS_EFORMAT, "part 2 of 3, expected part 2 of 2");
    write_part("m-00002-of-00002.gguf", 0, 0, 0, "blk.0.attn_q.weight");
    open_fails("m-00001-of-00002.gguf", APUS_EFORMAT, "is a whole model");
    write_part("m-00002-of-00002.gguf", 1, 2, 0, "token_embd.weight");
    open_fails("m-00001-of-00002.gguf", APUS_EFORMAT,
               "\"model.embed_tokens.weight\" is in two files");
    write_part("m-00001-of-00002.gguf", 0, 2, 5, "token_embd.weight");
    open_fails("m-00001-of-00002.gguf", APUS_EFORMAT,
               "split.tensors.count is 5, but the 2 parts hold 2 tensors");
}

/* ---------------------------------------------------------------- MLX and FP8 */

static const ap_tensor_table *widths; /* NULL: of no model */

static void join(const char *config, const char *tensors, apus_err want, const char *part)
{
    ap_quant_config q;
    st_write(in("model.safetensors"), tensors);
    diag = (apus_diag){0};
    apus_err err = ap_quant_config_parse(config, strlen(config), "config.json", &q, &diag);
    if (!err) {
        if (ap_weights_open(root, &w, NULL, &diag)) fail_msg("%s", diag.text);
        err = ap_weights_join_quantised(w, &q, widths, &diag);
        ap_quant_config_free(&q);
    }
    if (err != want || !strstr(diag.text, part))
        fail_msg("%d \"%s\", expected %d \"%s\"", err, diag.text, want, part);
    if (err && w && !widths) assert_non_null(strstr(diag.text, "\"a.weight\""));
    ap_weights_close(err ? w : NULL);
    if (err) w = NULL;
}

#define AFFINE "{\"quantization\":{\"group_size\":64,\"bits\":4}}"

static void test_mlx(void **state)
{
    (void)state;
    join(AFFINE, "a.weight U32 [2,16];a.scales BF16 [2,2];a.biases BF16 [2,2]", APUS_OK, "");
    const ap_tensor *t = ap_weights_find(w, "a.weight");
    assert_int_equal(t->dtype, AP_MLX_AFFINE);
    assert_int_equal(t->shape[1], 128);
    assert_int_equal(ap_tensor_bytes(t), 128);
    ap_weights_close(w);
    w = NULL;
    join(AFFINE, "a.weight U32 [2,16];a.scales BF16 [2,3];a.biases BF16 [2,2]", APUS_EFORMAT,
         "its scales have another shape");
    join(AFFINE, "a.weight U32 [2,16];a.scales BF16 [3,2];a.biases BF16 [2,2]", APUS_EFORMAT,
         "its scales have another shape");
    join(AFFINE, "a.weight U32 [2,16];a.scales BF16 [2,2];a.biases BF16 [2,1]", APUS_EFORMAT,
         "its biases have another shape");
    join(AFFINE, "a.weight U32 [2,16];a.scales BF16 [2,2];a.biases F16 [2,2]", APUS_EFORMAT,
         "its biases have another type");
    join(AFFINE, "a.weight U32 [2,16];a.scales BF16 [2,2]", APUS_EFORMAT, "its biases are missing");
    join(AFFINE, "a.weight U32 [2,15];a.scales BF16 [2,2];a.biases BF16 [2,2]", APUS_EFORMAT,
         "its rows are not whole groups");
    join(AFFINE, "a.weight U16 [2,16];a.scales BF16 [2,2];a.biases BF16 [2,2]", APUS_EFORMAT,
         "its weight is not a matrix of u32");
    join("{\"quantization\":{\"bits\":3}}",
         "a.weight U32 [2,16];a.scales BF16 [2,2];a.biases BF16 [2,2]", APUS_EFORMAT,
         "its weight does not hold whole values, expected mlx_affine, 3 bits, groups of 64");
    join("{\"quantization\":{\"bits\":4,\"a\":false}}", "a.weight U32 [2,16];a.scales BF16 [2,2]",
         APUS_EFORMAT, "config.json does not say it is quantised");
    join("{\"quantization\":{\"mode\":\"mxfp4\"}}", "a.weight U32 [2,16];a.scales BF16 [2,4]",
         APUS_EFORMAT, "its scales have another type, expected mlx_mxfp4");
    join("{\"quantization\":{\"mode\":\"mxfp4\"}}",
         "a.weight U32 [2,16];a.scales U8 [2,4];a.biases U8 [2,4]", APUS_EFORMAT, "it has biases");
    join("{\"quantization\":{\"bits\":7}}", "a.weight U32 [2,16]", APUS_EUNSUPPORTED,
         "7 bits in groups of 64");
    join("{\"quantization\":{\"mode\":\"abc\"}}", "a.weight U32 [2,16]", APUS_EUNSUPPORTED,
         "\"abc\" is not supported");
    join("{\"quantization\":{\"bits\":4,\"x\":{\"bits\":4,\"group_size\":16}}}",
         "a.weight U32 [2,16]", APUS_EUNSUPPORTED, "4 bits in groups of 16");
}

/* Joins one tensor, whose scales decide what it is. */
static void joins(const char *config, const char *name, const char *parts, ap_dtype t, int bits,
                  int group)
{
    char tensors[400], weight[200];
    snprintf(tensors, sizeof tensors, parts, name, name, name);
    join(config, tensors, APUS_OK, "");
    snprintf(weight, sizeof weight, "%s.weight", name);
    const ap_tensor *x = ap_weights_find(w, weight);
    if (x->dtype != t || x->bits != bits || x->group != group)
        fail_msg("%s %s: %s, %d bits, groups of %d", config, parts, ap_dtype_name(x->dtype),
                 x->bits, x->group);
    ap_weights_close(w);
    w = NULL;
}

/* Rows of 128 values in several formats. */
#define A8_64  "%s.weight U32 [2,32];%s.scales BF16 [2,2];%s.biases BF16 [2,2]"
#define A4_64  "%s.weight U32 [2,16];%s.scales BF16 [2,2];%s.biases BF16 [2,2]"
#define A4_32  "%s.weight U32 [2,16];%s.scales BF16 [2,4];%s.biases BF16 [2,4]"
#define A4_128 "%s.weight U32 [2,16];%s.scales BF16 [2,1];%s.biases BF16 [2,1]"
#define A6_64  "%s.weight U32 [2,24];%s.scales BF16 [2,2];%s.biases BF16 [2,2]"
#define MX4    "%s.weight U32 [2,16];%s.scales U8 [2,4]"
#define MX8    "%s.weight U32 [2,32];%s.scales U8 [2,4]"
#define NV4    "%s.weight U32 [2,16];%s.scales U8 [2,8]"

#define MODES(mode, more) "{\"quantization\":{\"mode\":\"" mode "\"" more "}}"

/* What mlx-lm writes for mixtures of experts: routers by an entry without a mode. */
static void test_entries_of_other_modes(void **state)
{
    (void)state;
    static const char *const files[] = {
        MODES("mxfp4", ",\"bits\":4,\"group_size\":32,\"m.gate\":{\"bits\":8,\"group_size\":64}"),
        MODES("nvfp4", ",\"bits\":4,\"group_size\":16,\"m.gate\":{\"bits\":8,\"group_size\":64}"),
        MODES("mxfp8", ",\"bits\":8,\"group_size\":32,\"m.gate\":{\"bits\":8,\"group_size\":64}"),
        MODES("mxfp4", ",\"bits\":4,\"group_size\":32,\"m.gate\":{\"bits\":8}"),
        MODES("affine", ",\"bits\":4,\"group_size\":32,\"m.gate\":{\"bits\":8}"),
        MODES("affine", ",\"bits\":4,\"group_size\":128,\"m.gate\":{}"),
        MODES("nvfp4", ",\"m.gate\":{}")};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        joins(files[i], "m.gate", A8_64, AP_MLX_AFFINE, 8, 64);
    static const struct {
        const char *mode, *parts;
        ap_dtype t;
        int bits, group;
    } rows[] = {{"mxfp4", MX4, AP_MLX_MXFP4, 4, 32},
                {"nvfp4", NV4, AP_MLX_NVFP4, 4, 16},
                {"mxfp8", MX8, AP_MLX_MXFP8, 8, 32},
                {"affine", A4_64, AP_MLX_AFFINE, 4, 64}};
    for (int i = 0; i < 4; i++) {
        char config[300];
        snprintf(config, sizeof config,
                 "{\"quantization\":{\"bits\":2,\"group_size\":32,\"x\":{\"mode\":\"%s\"},"
                 "\"y\":true}}",
                 rows[i].mode);
        joins(config, "x", rows[i].parts, rows[i].t, rows[i].bits, rows[i].group);
        snprintf(config, sizeof config, "{\"quantization\":{\"mode\":\"%s\",\"y\":true}}",
                 rows[i].mode);
        joins(config, "y", rows[i].parts, rows[i].t, rows[i].bits, rows[i].group);
        joins(config, "z", rows[i].parts, rows[i].t, rows[i].bits, rows[i].group);
    }
    /* An entry's own words count, also if they are wrong. */
    join(MODES("mxfp4", ",\"a\":{\"bits\":4,\"group_size\":64}"),
         "a.weight U32 [2,32];a.scales BF16 [2,2];a.biases BF16 [2,2]", APUS_EFORMAT,
         "4 bits, groups of 64");
    join(MODES("mxfp4", ",\"a\":{\"mode\":\"mxfp4\",\"group_size\":64}"), "a.weight U32 [2,16]",
         APUS_EUNSUPPORTED, "4 bits in groups of 64 are not a format of mode \"mxfp4\"");
}

static void test_entries_under_other_prefixes(void **state)
{
    (void)state;
    static const char *const before[] = {"", "model.", "language_model.", "language_model.model.",
                                         "model.language_model."};
    for (int i = 0; i < 5; i++)
        for (int k = 0; k < 5; k++) {
            char config[300], name[100];
            snprintf(config, sizeof config,
                     "{\"quantization\":{\"bits\":4,\"%slayers.0.mlp.gate\":{\"bits\":8}}}",
                     before[i]);
            snprintf(name, sizeof name, "%slayers.0.mlp.gate", before[k]);
            joins(config, name, A8_64, AP_MLX_AFFINE, 8, 64);
        }
    /* The name itself before others; those that contradict each other say nothing. */
    joins("{\"quantization\":{\"bits\":4,\"model.x\":{\"bits\":8},\"x\":{\"bits\":6}}}", "x", A6_64,
          AP_MLX_AFFINE, 6, 64);
    joins("{\"quantization\":{\"bits\":4,\"model.x\":{\"bits\":8},\"x\":{\"bits\":6}}}",
          "language_model.x", A4_64, AP_MLX_AFFINE, 4, 64);
    joins("{\"quantization\":{\"bits\":4,\"model.x\":{\"bits\":6},\"x\":{\"bits\":6}}}",
          "language_model.x", A6_64, AP_MLX_AFFINE, 6, 64);
    /* Towers have names of their own. */
    joins("{\"quantization\":{\"bits\":4,\"vision_tower.x\":{\"bits\":8}}}", "x", A4_64,
          AP_MLX_AFFINE, 4, 64);
}

/* Where the file says nothing, shapes do; the model's widths leave no doubt. */
static void test_shapes_tell(void **state)
{
    (void)state;
    joins("{}", "x", A4_64, AP_MLX_AFFINE, 4, 64);
    joins("{}", "x", A6_64, AP_MLX_AFFINE, 6, 64);
    joins("{}", "x", MX4, AP_MLX_MXFP4, 4, 32);
    joins("{}", "x", MX8, AP_MLX_MXFP8, 8, 32);
    joins("{}", "x", NV4, AP_MLX_NVFP4, 4, 16);
    joins("{\"quantization\":{}}", "x", A8_64, AP_MLX_AFFINE, 8, 64);
    joins("{\"quantization\":{\"group_size\":32}}", "x", A4_32, AP_MLX_AFFINE, 4, 32);
    joins("{\"quantization\":{\"mode\":\"mxfp4\"}}", "x", A8_64, AP_MLX_AFFINE, 8, 64);
    static ap_config c;
    ap_tensor_table t;
    static const char text[] =
        "{\"model_type\":\"qwen3_moe\",\"num_hidden_layers\":1,\"hidden_size\":128,\"vocab_size\":"
        "2,"
        "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"head_dim\":4,\"num_experts\":2,"
        "\"num_experts_per_tok\":1,\"moe_intermediate_size\":128,\"rope_theta\":10000}";
    assert_int_equal(
        ap_config_parse(&(ap_config_text){"c", text, sizeof text - 1}, NULL, &c, NULL, &diag),
        APUS_OK);
    assert_int_equal(ap_tensor_table_make(&c, &t, &diag), APUS_OK);
    widths = &t;
    static const char *const names[] = {"model.layers.0.mlp.gate", "language_model.lm_head",
                                        "model.layers.0.mlp.switch_mlp.down_proj",
                                        "layers.0.mlp.experts.1.gate_proj"};
    for (int i = 0; i < 4; i++) {
        joins("{}", names[i], A4_64, AP_MLX_AFFINE, 4, 64);
        joins("{}", names[i], A4_32, AP_MLX_AFFINE, 4, 32);
        joins("{}", names[i], A4_128, AP_MLX_AFFINE, 4, 128);
        joins("{}", names[i], A8_64, AP_MLX_AFFINE, 8, 64);
        /* One width for all, and some tensors that have another. */
        joins("{\"quantization\":{\"bits\":4,\"group_size\":64}}", names[i], A8_64, AP_MLX_AFFINE,
              8, 64);
        joins("{\"quantization\":{\"bits\":8,\"group_size\":32}}", names[i], A4_64, AP_MLX_AFFINE,
              4, 64);
        joins("{\"quantization\":{\"bits\":4,\"mode\":\"nvfp4\",\"group_size\":16}}", names[i],
              A4_128, AP_MLX_AFFINE, 4, 128);
    }
    widths = NULL;
    ap_tensor_table_free(&t);
}

#define FP8(block)                                                                                 \
    "{\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":" block "}}"

static void test_fp8(void **state)
{
    (void)state;
    join(FP8("[128,128]"), "a.weight F8_E4M3 [130,256];a.weight_scale_inv F32 [2,2]", APUS_OK, "");
    assert_int_equal(ap_weights_find(w, "a.weight")->dtype, AP_FP8_BLOCK);
    ap_weights_close(w);
    w = NULL;
    join(FP8("[128,128]"), "a.weight F8_E4M3 [130,256];a.weight_scale_inv F32 [1,2]", APUS_EFORMAT,
         "weight_scale_inv does not fit");
    join(FP8("[128,128]"), "a.weight F8_E4M3 [130,256];a.scales F32 [2,2]", APUS_EFORMAT,
         "config.json does not say it is quantised");
    join(FP8("[64,128]"), "a.weight F8_E4M3 [1,1]", APUS_EUNSUPPORTED, "weight_block_size");
    join("{\"quantization_config\":{\"quant_method\":\"gptq\"}}", "a.weight F32 [1]",
         APUS_EUNSUPPORTED, "\"gptq\"");
}

/* ---------------------------------------------------------------- memory */

static apus_err parse_some(void *ctx)
{
    ap_gguf g;
    apus_diag d = {0};
    bytes *f = ctx;
    const ap_gguf *part = &g;
    ap_buf b = {0};
    apus_err err = ap_gguf_parse(f->b, f->n, "m.gguf", &g, &d);
    if (err) return err;
    err = ap_gguf_config_json(&part, 1, &b, &d);
    ap_buf_free(&b);
    ap_gguf_close(&g);
    return err;
}

static apus_err open_some(void *ctx)
{
    ap_weights *x;
    apus_diag d = {0};
    apus_err err = ap_weights_open_gguf(ctx, &x, &d);
    if (!err) ap_weights_close(x);
    return err;
}

static void test_memory(void **state)
{
    (void)state;
    static bytes f;
    f = begin();
    base_keys(&f, "qwen3moe", NULL);
    record(&f, "token_embd.weight", 4, 1, 0, 0);
    finish(&f, 16);
    assert_true(torture(parse_some, &f) > 3);
    write_part("m-00001-of-00002.gguf", 0, 2, 2, "token_embd.weight");
    write_part("m-00002-of-00002.gguf", 1, 2, 0, "blk.0.attn_q.weight");
    assert_true(torture(open_some, (void *)in("m-00001-of-00002.gguf")) > 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_tensors),
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_kv_list),
        cmocka_unit_test_setup_teardown(test_entries_of_other_modes, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_entries_under_other_prefixes, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_shapes_tell, make_dir, remove_dir),
        cmocka_unit_test(test_head_for_next_tokens),
        cmocka_unit_test(test_short_rope_factors),
        cmocka_unit_test(test_short_lists),
        cmocka_unit_test(test_stops),
        cmocka_unit_test_setup_teardown(test_split, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_mlx, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_fp8, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_memory, make_dir, remove_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
