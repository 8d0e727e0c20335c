#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file/weights.h"
#include "st_writer.h"
#include "torture.h"

static char root[64];
static apus_diag diag;
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

static void open_ok(void)
{
    if (ap_weights_open(root, &w, NULL, &diag)) fail_msg("%s", diag.text);
}

static void open_fails(apus_err err, const char *part)
{
    diag = (apus_diag){0};
    apus_err e = ap_weights_open(root, &w, NULL, &diag);
    if (e != err || !strstr(diag.text, part)) fail_msg("%d %s", e, diag.text);
    assert_null(w);
}

#define INDEX "model.safetensors.index.json"

static void test_single(void **state)
{
    (void)state;
    st_write(in("model.safetensors"), "z.weight F32 [2,3];a.weight BF16 [4];s F16 []");
    open_ok();
    assert_int_equal(ap_weights_count(w), 3);
    const char *name;
    assert_int_equal(ap_weights_at(w, 0, &name)->shape[1], 3);
    assert_string_equal(name, "z.weight"); /* in the order of the file */
    assert_null(ap_weights_at(w, 3, &name));
    assert_int_equal(ap_weights_find(w, "a.weight")->dtype, AP_BF16);
    assert_null(ap_weights_find(w, "a.weigh"));
    assert_null(ap_weights_find(w, ""));
    assert_string_equal(ap_weights_file(w, "s"), in("model.safetensors"));
    assert_null(ap_weights_text_prefix(w));
}

static void test_only_file(void **state)
{
    (void)state;
    open_fails(APUS_EFILE, "no weights");
    st_write(in("odd-name.safetensors"), "a F32 [1]");
    st_write(in(".hidden.safetensors"), "a F32 [1]");
    open_ok();
    assert_non_null(ap_weights_find(w, "a"));
    ap_weights_close(w);
    w = NULL;
    st_write(in("other.safetensors"), "b F32 [1]");
    open_fails(APUS_EFILE, "2 *.safetensors files");
    st_write(in("model.safetensors"), "c F32 [1]"); /* the usual name wins */
    open_ok();
    assert_int_equal(ap_weights_count(w), 1);
}

static void test_shards(void **state)
{
    (void)state;
    st_write(in("m-2.safetensors"), "c F32 [1];d F32 [2]");
    st_write(in("m-1.safetensors"), "a F32 [1];b F32 [2];extra F32 [3]");
    text_write(in(INDEX), "{\"metadata\":{\"total_size\":28,\"weight_map\":{\"no\":\"x\"}},"
                          "\"weight_map\":{\"c\":\"m-2.safetensors\",\"a\":\"m-1.safetensors\","
                          "\"d\":\"m-2.safetensors\",\"b\":\"m-1.safetensors\"},\"more\":[{}]}");
    open_ok();
    assert_int_equal(ap_weights_count(w), 5); /* also what only the file knows */
    static const char *const order[] = {"a", "b", "extra", "c", "d"};
    for (size_t i = 0; i < 5; i++) {
        const char *name;
        ap_weights_at(w, i, &name);
        assert_string_equal(name, order[i]);
    }
    assert_string_equal(ap_weights_file(w, "d"), in("m-2.safetensors"));
}

static void test_bad_index(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        apus_err err;
        const char *part;
    } rows[] = {
        {"[]", APUS_EFORMAT, "expected an object"},
        {"{}", APUS_EFORMAT, "missing or empty"},
        {"{\"weight_map\":{}}", APUS_EFORMAT, "missing or empty"},
        {"{\"weight_map\":[]}", APUS_EFORMAT, "not an object"},
        {"{\"weight_map\":null}", APUS_EFORMAT, "not an object"},
        {"{\"weight_map\":{\"a\":1}}", APUS_EFORMAT, "expected the name of a file"},
        {"{\"weight_map\":{\"a\":{\"b\":\"c\"}}}", APUS_EFORMAT, "expected the name of a file"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\"},\"weight_map\":{}}", APUS_EFORMAT, "twice"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"a\":\"one.safetensors\"}}", APUS_EFORMAT,
         "\"a\" appears twice"},
        {"{\"weight_map\":{\"a\":\"../one.safetensors\"}}", APUS_EFORMAT, "not the name of a file"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", APUS_EFORMAT, "not the name of a file"},
        {"{\"weight_map\":{\"a\":\"sub/one.safetensors\"}}", APUS_EFORMAT, "not the name"},
        {"{\"weight_map\":{\"a\":\"..\"}}", APUS_EFORMAT, "not the name of a file"},
        {"{\"weight_map\":{\"a\":\"\"}}", APUS_EFORMAT, "not the name of a file"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\\u0000x\"}}", APUS_EFORMAT, "not the name"},
        {"{\"weight_map\":{\"a\":\"gone.safetensors\"}}", APUS_EFILE, "gone.safetensors"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"d\":\"three.safetensors\"}}", APUS_EFORMAT,
         "\"a\" is in two files"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\"}", APUS_EFORMAT, "EOF"},
    };
    st_write(in("one.safetensors"), "a F32 [1]");
    st_write(in("two.safetensors"), "b F32 [1];c F32 [1]");
    st_write(in("three.safetensors"), "d F32 [1];a F32 [1]");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        text_write(in(INDEX), rows[i].text);
        open_fails(rows[i].err, rows[i].part);
    }
}

/* The model of this configuration: two layers, head of its own. */
static ap_tensor_table table_of(void)
{
    static ap_config c;
    static const char text[] =
        "{\"model_type\":\"qwen3_moe\",\"num_hidden_layers\":2,\"hidden_size\":8,\"vocab_size\":10,"
        "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"head_dim\":4,\"num_experts\":2,"
        "\"num_experts_per_tok\":1,\"moe_intermediate_size\":32,\"rope_theta\":10000}";
    ap_tensor_table t = {0};
    if (ap_config_parse(&(ap_config_text){"config.json", text, sizeof text - 1}, NULL, &c, NULL,
                        &diag) ||
        ap_tensor_table_make(&c, &t, &diag))
        fail_msg("%s", diag.text);
    return t;
}

/* An index that names `tensor` in gone.safetensors. part NULL: the model does not need it. */
static void index_with(const char *tensor, const char *file, apus_err want, const char *part)
{
    char text[400];
    ap_tensor_table t = table_of();
    snprintf(text, sizeof text, "{\"weight_map\":{\"a\":\"one.safetensors\",\"%s\":\"%s\"}}",
             tensor, file);
    text_write(in(INDEX), text);
    ap_weights_close(w);
    w = NULL;
    open_ok();
    diag = (apus_diag){0};
    apus_err err = ap_weights_check(w, &t, &diag);
    ap_tensor_table_free(&t);
    if (err != want || (part && (!strstr(diag.text, part) || !strstr(diag.text, tensor))))
        fail_msg("%s: %d %s", tensor, err, diag.text);
}

static void test_index_beyond_need(void **state)
{
    (void)state;
    st_write(in("one.safetensors"), "a F32 [1]");
    static const char *const idle[] = {"model.visual.blocks.0.norm1.weight", "vision_tower.x",
                                       "mtp.layers.0.input_layernorm.weight",
                                       "model.layers.2.input_layernorm.weight",
                                       "model.layers.0.self_attn.rotary_emb.inv_freq"};
    for (size_t i = 0; i < sizeof idle / sizeof *idle; i++) {
        index_with(idle[i], "gone.safetensors", APUS_OK, NULL);
        index_with(idle[i], "one.safetensors", APUS_OK, NULL);
    }
    static const char *const needed[] = {
        "lm_head.weight",
        "language_model.lm_head.weight",
        "model.layers.1.input_layernorm.weight",
        "model.language_model.layers.1.self_attn.k_norm.weight",
        "model.layers.0.mlp.experts.gate_up_proj",
        "model.layers.0.mlp.experts.1.down_proj.weight",
        "model.layers.0.mlp.switch_mlp.up_proj.scales",
        "model.embed_tokens.biases",
        "language_model.model.layers.0.self_attn.q_proj.weight_scale_inv"};
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) {
        index_with(needed[i], "gone.safetensors", APUS_EFILE, "the file gone.safetensors that");
        index_with(needed[i], "one.safetensors", APUS_EFORMAT, "is not in one.safetensors");
    }
}

static ap_notes notes;

static void opens_with(size_t tensors, size_t n_notes, const char *part)
{
    ap_notes_free(&notes);
    ap_weights_close(w);
    w = NULL;
    if (ap_weights_open(root, &w, &notes, &diag)) fail_msg("%s", diag.text);
    assert_int_equal(ap_weights_count(w), tensors);
    if (notes.n != n_notes || (n_notes && !strstr(notes.text[0], part)))
        fail_msg("%zu notes: %s", notes.n, notes.n ? notes.text[0] : "");
    ap_notes_free(&notes);
    ap_weights_close(w);
    w = NULL;
}

static void test_files_without_index(void **state)
{
    (void)state;
    st_write(in("model-00001-of-00003.safetensors"), "a F32 [1]");
    open_fails(APUS_EFILE, "1 of 3 files of weights are here");
    st_write(in("model-00002-of-00003.safetensors"), "b F32 [1]");
    open_fails(APUS_EFILE, "2 of 3 files of weights are here");
    st_write(in("model-00003-of-00003.safetensors"), "c F32 [1];d F32 [1]");
    opens_with(4, 1, "there is no model.safetensors.index.json; 3 files");
    st_write(in("adapter_model.safetensors"), "lora F32 [1]"); /* not of them */
    st_write(in("training_args.safetensors"), "x F32 [1]");
    opens_with(4, 1, "3 files");
    st_write(in("model-00001-of-00002.safetensors"), "e F32 [1]");
    open_fails(APUS_EFILE, "no model.safetensors.index.json tells which belong together");
    unlink(in("model-00001-of-00002.safetensors"));
    st_write(in("model-extra.safetensors"), "b F32 [1]");
    open_fails(APUS_EFORMAT, "\"b\" is in two files");
}

static void test_mlx_names(void **state)
{
    (void)state;
    st_write(in("weights.00.safetensors"), "a F32 [1]");
    st_write(in("weights.01.safetensors"), "b F32 [1]");
    st_write(in("other.safetensors"), "c F32 [1]");
    opens_with(2, 1, "2 files are taken together");
}

static bool present(void)
{
    bool there;
    assert_int_equal(ap_weights_present(root, &there, &diag), APUS_OK);
    return there;
}

/* The index stayed behind when the weights were written anew. */
static void test_all_shards_absent(void **state)
{
    (void)state;
    text_write(in(INDEX), "{\"weight_map\":{\"a\":\"model-00001-of-00002.safetensors\","
                          "\"b\":\"model-00002-of-00002.safetensors\"}}");
    open_fails(APUS_EFILE,
               "none of the files that model.safetensors.index.json names is here, such as "
               "model-00001-of-00002.safetensors");
    assert_false(present());
    st_write(in("quantised.safetensors"), "a F32 [1];b F32 [1];c F32 [1]");
    opens_with(3, 1, "the weights are those of quantised.safetensors");
    assert_true(present());
    st_write(in("model-4bit.safetensors"), "a F32 [1]");
    opens_with(1, 1, "the weights are those of model-4bit.safetensors");
    st_write(in("model-00002-of-00002.safetensors"), "b F32 [1]"); /* one of the index counts */
    opens_with(1, 0, "");
}

static void test_links(void **state)
{
    (void)state;
    st_write(in("blob"), "a F32 [1]");
    assert_int_equal(symlink("blob", in("model.safetensors")), 0);
    open_ok();
    assert_non_null(ap_weights_find(w, "a"));
}

static void test_broken_file(void **state)
{
    (void)state;
    st_write(in("model.safetensors"), "a F32 [1000]");
    assert_int_equal(truncate(in("model.safetensors"), 2000), 0);
    open_fails(APUS_EFORMAT, "do not lie");
    text_write(in("model.safetensors"), "version https://git-lfs.github.com/spec/v1\n");
    open_fails(APUS_EFORMAT, "is a pointer of Git LFS");
    text_write(in("model.safetensors"), "");
    open_fails(APUS_EFORMAT, "too few");
    unlink(in("model.safetensors"));
    assert_int_equal(mkfifo(in("model.safetensors"), 0600), 0);
    open_fails(APUS_EFILE, "regular file");
}

static void test_prefix(void **state)
{
    (void)state;
    static const struct {
        const char *tensors, *prefix;
    } rows[] = {
        {"model.language_model.embed_tokens.weight F32 [1];model.visual.embed_tokens.weight F32 "
         "[1]",
         "model.language_model."},
        {"model.embed_tokens.weight F32 [1];model.embed_tokens_per_layer.weight F32 [1]", "model."},
        {"embed_tokens.weight F32 [1]", ""},
        {"mtp.embed_tokens.weight F32 [1];model.embed_tokens.weight F32 [1]", "model."},
        {"model.xembed_tokens.weight F32 [1]", NULL},
        {"model.embed_vision.x F32 [1]", NULL},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        st_write(in("model.safetensors"), rows[i].tensors);
        open_ok();
        const char *p = ap_weights_text_prefix(w);
        if (rows[i].prefix)
            assert_string_equal(p, rows[i].prefix);
        else
            assert_null(p);
        ap_weights_close(w);
        w = NULL;
    }
}

static void test_need(void **state)
{
    (void)state;
    ap_tensor t;
    st_write(in("model.safetensors"),
             "a.weight BF16 [2,3];i.weight I32 [2];e.weight F32 [0];s F16 []");
    open_ok();
    assert_int_equal(ap_weights_need(w, "a.weight", false, 2, (int64_t[]){2, 3}, &t, &diag),
                     APUS_OK);
    assert_int_equal(t.dtype, AP_BF16);
    assert_int_equal(ap_weights_need(w, "a.weight", false, 2, (int64_t[]){-1, 3}, &t, &diag),
                     APUS_OK);
    assert_int_equal(ap_weights_need(w, "s", false, 0, NULL, &t, &diag), APUS_OK);
    assert_int_equal(ap_weights_need(w, "e.weight", true, 1, (int64_t[]){0}, &t, &diag), APUS_OK);
    assert_int_equal(ap_weights_need(w, "a.weight", false, 2, (int64_t[]){3, 2}, &t, &diag),
                     APUS_EFORMAT);
    assert_non_null(strstr(diag.text, "model.safetensors: tensor \"a.weight\" has shape [2, 3], "
                                      "expected [3, 2]"));
    assert_int_equal(ap_weights_need(w, "a.weight", true, 3, (int64_t[]){-1, 2, 3}, &t, &diag),
                     APUS_EFORMAT);
    assert_non_null(strstr(diag.text, "expected [any, 2, 3]"));
    assert_int_equal(ap_weights_need(w, "b.weight", false, 1, (int64_t[]){3}, &t, &diag),
                     APUS_EFORMAT);
    assert_non_null(strstr(diag.text, "/model.safetensors: tensor \"b.weight\" is missing"));
    t.data = root;
    assert_int_equal(ap_weights_need(w, "b.weight", true, 1, (int64_t[]){3}, &t, &diag), APUS_OK);
    assert_null(t.data);
    assert_int_equal(ap_weights_need(w, "i.weight", false, 1, (int64_t[]){2}, &t, &diag),
                     APUS_EUNSUPPORTED);
    assert_non_null(strstr(diag.text, "i32"));
}

static apus_err open_and_close(void *ctx)
{
    ap_weights *x = NULL;
    apus_err err = ap_weights_open(ctx, &x, NULL, NULL);
    ap_weights_close(x);
    return err;
}

static void test_torture(void **state)
{
    (void)state;
    st_write(in("only.safetensors"), "a F32 [1];model.embed_tokens.weight F32 [2]");
    assert_true(torture(open_and_close, root) > 8);
    st_write(in("two.safetensors"), "b F32 [1]");
    text_write(in(INDEX),
               "{\"weight_map\":{\"a\":\"only.safetensors\",\"b\":\"two.safetensors\"}}");
    assert_true(torture(open_and_close, root) > 15);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, make_dir, remove_dir)
    const struct CMUnitTest tests[] = {
        TEST(test_single),
        TEST(test_only_file),
        TEST(test_shards),
        TEST(test_bad_index),
        TEST(test_links),
        TEST(test_broken_file),
        TEST(test_prefix),
        TEST(test_need),
        TEST(test_torture),
        TEST(test_index_beyond_need),
        TEST(test_files_without_index),
        TEST(test_mlx_names),
        TEST(test_all_shards_absent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
