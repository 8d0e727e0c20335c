#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "file/config.h"
#include "torture.h"

static ap_config c;
static apus_diag diag;
static char dir[] = "/tmp/apus-test-XXXXXX";

static void load(const char *name)
{
    char path[200];
    snprintf(path, sizeof path, "tests/unit/file/data/%s", name);
    memset(&c, 0x5A, sizeof c);
    if (ap_config_read(path, &c, NULL, &diag)) fail_msg("%s: %s", name, diag.text);
}

static int count(ap_layer_kind kind)
{
    int n = 0;
    for (int l = 0; l < c.n_layer; l++) n += c.layer[l].kind == kind;
    return n;
}

static void close_to(float got, double want, double tolerance)
{
    if (!(fabs(got - want) <= tolerance * fabs(want))) fail_msg("%.9g, expected %.9g", got, want);
}

/* ---------------------------------------------------------------- released shapes */

static void gemma_rope(void)
{
    assert_int_equal(c.rope_full.n_angle, 64);
    assert_int_equal(c.rope_full.pair_offset, 256);
    assert_int_equal(c.rope_sliding.n_angle, 128);
    assert_int_equal(c.rope_sliding.pair_offset, 128);
    assert_true(c.rope_full.attention_factor == 1 && c.rope_sliding.attention_factor == 1);
    assert_true(c.rope_full.inv_freq[0] == 1);
    close_to(c.rope_full.inv_freq[1], 0.94746353, 1e-7); /* check values of the specification */
    close_to(c.rope_full.inv_freq[63], 0.03337625, 1e-6);
    for (int i = 0; i < 128; i++)
        close_to(c.rope_sliding.inv_freq[i], pow(10000, -2.0 * i / 256), 2e-7);
}

static void test_gemma_e2b(void **state)
{
    (void)state;
    static const char *const names[] = {"gemma4-e2b", "gemma4-e2b-flat-per-layer"};
    for (int k = 0; k < 2; k++) {
        load(names[k]);
        assert_int_equal(c.arch, AP_ARCH_GEMMA4);
        assert_int_equal(c.multimodal, k == 0);
        assert_true(c.n_layer == 35 && c.hidden == 1536 && c.vocab == 262144 && c.n_head == 8);
        assert_true(c.context == 131072 && c.window == 512 && c.tie_embeddings);
        assert_true(c.softcap == 30 && c.norm_eps == 1e-6f);
        assert_true(c.ple_dim == 256 && c.ple_vocab == 262144 && c.n_expert == 0);
        assert_true(count(AP_LAYER_FULL) == 7 && count(AP_LAYER_SLIDING) == 28);
        for (int l = 0; l < 35; l++) {
            const ap_layer_config *x = &c.layer[l];
            bool full = l % 5 == 4;
            assert_int_equal(x->kind, full ? AP_LAYER_FULL : AP_LAYER_SLIDING);
            assert_int_equal(x->head_dim, full ? 512 : 256);
            assert_int_equal(x->n_kv_head, 1);
            assert_int_equal(x->kv_donor, l < 15 ? l : full ? 14 : 13);
            assert_int_equal(x->ffn, l < 15 ? 6144 : 12288);
            assert_false(x->k_eq_v || x->moe);
        }
        gemma_rope();
        assert_true(c.bos == 2 && c.pad == 0);
    }
}

static void test_gemma_e4b(void **state)
{
    (void)state;
    load("gemma4-e4b");
    assert_int_equal(count(AP_LAYER_FULL), 7);
    for (int l = 0; l < 42; l++) {
        bool full = l % 6 == 5;
        assert_int_equal(c.layer[l].kv_donor, l < 24 ? l : full ? 23 : 22);
        assert_true(c.layer[l].n_kv_head == 2 && c.layer[l].ffn == 10240);
    }
}

static void test_gemma_large(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int layers, hidden, heads, kv, full_kv, ffn;
        bool flat;
    } rows[] = {
        {"gemma4-12b", 48, 3840, 16, 8, 1, 15360, false},
        {"gemma4-12b-flat", 48, 3840, 16, 8, 1, 15360, true},
        {"gemma4-26b", 30, 2816, 16, 8, 2, 2112, false},
        {"gemma4-31b", 60, 5376, 32, 16, 4, 21504, false},
        {"gemma4-31b-flat-per-layer", 60, 5376, 32, 16, 4, 21504, true},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        load(rows[i].name);
        bool moe = strstr(rows[i].name, "26b") != NULL;
        assert_true(c.n_layer == rows[i].layers && c.hidden == rows[i].hidden);
        assert_true(c.n_head == rows[i].heads && c.window == 1024 && c.context == 262144);
        assert_true(c.ple_dim == 0 && c.ple_vocab == 0 && c.multimodal == !rows[i].flat);
        for (int l = 0; l < c.n_layer; l++) {
            const ap_layer_config *x = &c.layer[l];
            bool full = l % 6 == 5;
            assert_true(x->head_dim == (full ? 512 : 256) && x->kv_donor == l);
            assert_int_equal(x->n_kv_head, full ? rows[i].full_kv : rows[i].kv);
            assert_int_equal(x->k_eq_v, full);
            assert_true(x->moe == moe && x->ffn == rows[i].ffn);
        }
        assert_int_equal(c.n_expert, moe ? 128 : 0);
        if (moe) assert_true(c.n_expert_used == 8 && c.expert_ffn == 704 && c.shared_ffn == 0);
        gemma_rope();
    }
}

static void qwen_rope(double theta, int rotated)
{
    assert_int_equal(c.rope_full.n_angle, rotated / 2);
    assert_int_equal(c.rope_full.pair_offset, rotated / 2);
    assert_true(c.rope_full.attention_factor == 1);
    for (int i = 0; i < rotated / 2; i++)
        close_to(c.rope_full.inv_freq[i], pow(theta, -2.0 * i / rotated), 2e-7);
}

static void test_qwen35_dense(void **state)
{
    (void)state;
    static const char *const names[] = {"qwen3_5-0.8b", "qwen3_5-0.8b-flat"};
    for (int k = 0; k < 2; k++) {
        load(names[k]);
        assert_int_equal(c.arch, AP_ARCH_QWEN3_5);
        assert_true(c.multimodal == (k == 0) && c.tie_embeddings);
        assert_true(c.n_layer == 24 && c.hidden == 1024 && c.vocab == 248320 && c.n_head == 8);
        assert_true(c.gdn_k_head == 16 && c.gdn_v_head == 16 && c.gdn_k_dim == 128);
        assert_true(c.gdn_v_dim == 128 && c.gdn_conv == 4 && c.n_expert == 0 && c.window == 0);
        assert_true(count(AP_LAYER_FULL) == 6 && count(AP_LAYER_LINEAR) == 18);
        for (int l = 0; l < 24; l++) {
            assert_int_equal(c.layer[l].kind, l % 4 == 3 ? AP_LAYER_FULL : AP_LAYER_LINEAR);
            assert_true(c.layer[l].ffn == 3584 && !c.layer[l].moe && c.layer[l].kv_donor == l);
            if (l % 4 == 3) assert_true(c.layer[l].n_kv_head == 2 && c.layer[l].head_dim == 256);
        }
        qwen_rope(1e7, 64);
    }
}

static void test_qwen35_moe(void **state)
{
    (void)state;
    static const char *const names[] = {"qwen3_5-35b-a3b", "qwen3_5-35b-a3b-flat"};
    for (int k = 0; k < 2; k++) {
        load(names[k]);
        assert_int_equal(c.arch, AP_ARCH_QWEN3_5_MOE);
        assert_true(c.n_layer == 40 && c.n_expert == 256 && c.n_expert_used == 8);
        assert_true(c.expert_ffn == 512 && c.shared_ffn == 512 && c.norm_topk);
        assert_true(c.gdn_v_head == 32 && !c.tie_embeddings);
        for (int l = 0; l < 40; l++) assert_true(c.layer[l].moe && c.layer[l].ffn == 0);
        qwen_rope(1e7, 64);
    }
}

static void test_qwen_relatives(void **state)
{
    (void)state;
    load("qwen3-next");
    assert_int_equal(c.arch, AP_ARCH_QWEN3_NEXT);
    assert_true(c.n_layer == 48 && c.n_expert == 512 && c.n_expert_used == 10 && c.norm_topk);
    assert_true(count(AP_LAYER_FULL) == 12 && c.shared_ffn == 512 && c.layer[0].moe);
    assert_true(c.bos == 151643 && c.n_stop == 1 && c.stop[0] == 151645);
    qwen_rope(1e7, 64);
    load("qwen3-30b-a3b");
    assert_int_equal(c.arch, AP_ARCH_QWEN3_MOE);
    assert_true(c.n_layer == 48 && count(AP_LAYER_FULL) == 48 && c.n_expert == 128);
    assert_true(c.shared_ffn == 0 && c.expert_ffn == 768 && c.layer[7].head_dim == 128);
    assert_true(c.layer[7].n_kv_head == 4 && c.context == 40960 && !c.tie_embeddings);
    qwen_rope(1e6, 128);
}

/* Values that transformers 5.23 computes for these two. */
static void test_yarn(void **state)
{
    (void)state;
    static const struct {
        int i;
        double f;
    } big[] = {{0, 1},
               {13, 0.0014330126577988267},
               {14, 0.0008659643353894353},
               {15, 0.00047423981595784426},
               {18, 7.217386882985011e-05},
               {21, 8.759770025790203e-06},
               {22, 3.849816039291909e-06},
               {31, 4.1370427084075345e-08}},
      small[] = {{1, 0.8058422207832336},      {22, 0.00865964312106371},
                 {23, 0.006978305988013744},   {24, 0.005375321488827467},
                 {30, 0.0010643609566614032},  {39, 6.490394298452884e-05},
                 {40, 4.4456985051510856e-05}, {63, 3.102344408034696e-07}};
    load("qwen3_5-35b-a3b-yarn");
    assert_true(c.context == 1010000 && c.rope_full.n_angle == 32);
    close_to(c.rope_full.attention_factor, 1.138629436111989, 1e-7);
    for (size_t k = 0; k < 8; k++) close_to(c.rope_full.inv_freq[big[k].i], big[k].f, 7e-8);
    load("qwen3-30b-a3b-yarn");
    assert_true(c.n_expert == 128 && c.rope_full.n_angle == 64);
    for (size_t k = 0; k < 8; k++) close_to(c.rope_full.inv_freq[small[k].i], small[k].f, 7e-8);
}

static void test_generation(void **state)
{
    (void)state;
    load("gemma4-12b");
    int stop[] = {1, 106, 50};
    assert_int_equal(c.n_stop, 3);
    for (int i = 0, found; i < 3; i++) {
        found = 0;
        for (int k = 0; k < 3; k++) found += c.stop[k] == stop[i];
        assert_int_equal(found, 1);
    }
    assert_true(c.n_suppress >= 2 && c.suppress[0] == 258883 && c.suppress[1] == 258882);
    assert_true(c.temperature == 1 && c.top_k == 64 && c.top_p == 0.95f && c.do_sample);
    assert_true(c.min_p < 0 && c.repetition_penalty < 0);
    load("qwen3_5-0.8b");
    assert_true(c.n_stop == 2 && c.bos == -1 && c.pad == 248044 && c.top_k == 20);
    load("qwen3_5-0.8b-flat");
    assert_true(c.n_stop == 0 && c.bos == -1 && c.pad == -1);
    assert_true(c.temperature < 0 && c.top_k < 0 && c.do_sample);
}

/* ---------------------------------------------------------------- edited configurations */

typedef struct pair {
    const char *key, *value; /* value NULL: leave the key out */
} pair;

static const pair gemma[] = {{"model_type", "\"gemma4_text\""},
                             {"num_hidden_layers", "8"},
                             {"hidden_size", "64"},
                             {"vocab_size", "1000"},
                             {"num_attention_heads", "4"},
                             {"num_key_value_heads", "2"},
                             {"head_dim", "16"},
                             {"global_head_dim", "32"},
                             {"intermediate_size", "128"},
                             {"sliding_window", "8"},
                             {"num_kv_shared_layers", "0"},
                             {"hidden_size_per_layer_input", "0"},
                             {NULL, NULL}};

static const pair qwen[] = {{"model_type", "\"qwen3_5_text\""},
                            {"num_hidden_layers", "8"},
                            {"hidden_size", "64"},
                            {"vocab_size", "1000"},
                            {"num_attention_heads", "4"},
                            {"num_key_value_heads", "2"},
                            {"head_dim", "32"},
                            {"intermediate_size", "128"},
                            {"linear_num_key_heads", "2"},
                            {"linear_num_value_heads", "4"},
                            {"rope_parameters", "{\"rope_theta\":10000,\"rope_type\":\"default\"}"},
                            {NULL, NULL}};

static const pair moe[] = {{"model_type", "\"qwen3_moe\""},
                           {"num_hidden_layers", "4"},
                           {"hidden_size", "64"},
                           {"vocab_size", "1000"},
                           {"num_attention_heads", "4"},
                           {"num_key_value_heads", "2"},
                           {"num_experts", "8"},
                           {"num_experts_per_tok", "2"},
                           {"moe_intermediate_size", "32"},
                           {"intermediate_size", "128"},
                           {"rope_theta", "10000.0"},
                           {NULL, NULL}};

static void write_file(const char *name, const char *text)
{
    char path[100];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    if (!text) {
        unlink(path);
        return;
    }
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

/* base with edits: each replaces, adds or removes a key. */
static apus_err edited(const pair *base, const pair *edits, const char *generation)
{
    ap_buf b = {0};
    ap_buf_adds(&b, "{\"end\":0");
    for (const pair *p = base; p->key; p++) {
        const char *value = p->value;
        for (const pair *e = edits; e && e->key; e++)
            if (!strcmp(e->key, p->key)) value = e->value;
        if (value) ap_buf_addf(&b, ",\"%s\":%s", p->key, value);
    }
    for (const pair *e = edits; e && e->key; e++) {
        bool known = false;
        for (const pair *p = base; p->key; p++) known |= !strcmp(e->key, p->key);
        if (!known && e->value) ap_buf_addf(&b, ",\"%s\":%s", e->key, e->value);
    }
    ap_buf_adds(&b, "}");
    write_file("config.json", b.data);
    write_file("generation_config.json", generation);
    ap_buf_free(&b);
    diag = (apus_diag){0};
    memset(&c, 0x5A, sizeof c);
    return ap_config_read(dir, &c, NULL, &diag);
}

static void good(const pair *base, const char *key, const char *value)
{
    pair e[] = {{key, value}, {NULL, NULL}};
    if (edited(base, e, NULL)) fail_msg("%s=%s: %s", key, value ? value : "-", diag.text);
}

static void test_defaults_and_nulls(void **state)
{
    (void)state;
    good(gemma, "rope_parameters", "null"); /* the class's own */
    assert_true(c.rope_full.n_angle == 4 && c.rope_full.pair_offset == 16);
    assert_true(c.rope_sliding.n_angle == 8 && c.softcap == 0 && c.tie_embeddings);
    close_to(c.rope_full.inv_freq[1], pow(1e6, -2.0 / 32), 1e-7);
    assert_true(c.n_stop == 1 && c.stop[0] == 1 && c.bos == 2 && c.pad == 0);
    assert_true(c.layer[5].kind == AP_LAYER_FULL && c.layer[4].kind == AP_LAYER_SLIDING);
    assert_int_equal(c.layer[7].kind, AP_LAYER_FULL); /* the last one always */
    good(gemma, "hidden_size_per_layer_input", NULL);
    assert_true(c.ple_dim == 256 && c.ple_vocab == 262144);
    good(gemma, "hidden_size_per_layer_input", "null");
    assert_int_equal(c.ple_dim, 0);
    good(gemma, "eos_token_id", "null");
    assert_int_equal(c.n_stop, 0);
    good(gemma, "tie_word_embeddings", "false");
    assert_false(c.tie_embeddings);
    good(qwen, "head_dim", NULL);
    assert_true(c.layer[3].head_dim == 256 && c.rope_full.n_angle == 32);
    good(moe, "head_dim", "null");
    assert_true(c.layer[3].head_dim == 16 && c.rope_full.n_angle == 8);
    assert_true(!c.norm_topk && c.context == 32768);
    good(moe, "norm_topk_prob", "true");
    assert_true(c.norm_topk);
}

static void test_geometry_forms(void **state)
{
    (void)state;
    /* num_global_key_value_heads counts only where K = V */
    good(gemma, "num_global_key_value_heads", "1");
    assert_int_equal(c.layer[7].n_kv_head, 2);
    pair keqv[] = {{"num_global_key_value_heads", "1"}, {"attention_k_eq_v", "true"}, {NULL, NULL}};
    assert_int_equal(edited(gemma, keqv, NULL), APUS_OK);
    assert_true(c.layer[7].n_kv_head == 1 && c.layer[7].k_eq_v && !c.layer[6].k_eq_v);
    /* per_layer_config: the two global keys play no part any more */
    pair per[] = {{"per_layer_config", "{\"05\":{\"head_dim\":64,\"num_key_value_heads\":1},"
                                       "\"7\":{\"num_key_value_heads\":1,\"head_dim\":64}}"},
                  {"num_global_key_value_heads", "4"},
                  {"attention_k_eq_v", "true"},
                  {NULL, NULL}};
    assert_int_equal(edited(gemma, per, NULL), APUS_OK);
    assert_true(c.layer[5].head_dim == 64 && c.layer[5].n_kv_head == 1 && c.layer[5].k_eq_v);
    assert_true(c.layer[4].head_dim == 16 && c.layer[4].n_kv_head == 2);
    good(gemma, "per_layer_config", "{}");
    assert_int_equal(c.layer[7].head_dim, 16);
    good(gemma, "per_layer_config", "{\"5\":{\"head_dim\":32},\"7\":{\"head_dim\":32},\"0\":{}}");
    assert_true(c.layer[7].head_dim == 32 && c.layer[7].n_kv_head == 2);
}

static void test_layer_rules(void **state)
{
    (void)state;
    pair share[] = {{"num_kv_shared_layers", "3"},
                    {"use_double_wide_mlp", "true"},
                    {"layer_types",
                     "[\"full_attention\",\"sliding_attention\",\"full_attention\","
                     "\"sliding_attention\",\"full_attention\",\"sliding_attention\","
                     "\"attention\",\"sliding_attention\"]"},
                    {NULL, NULL}};
    assert_int_equal(edited(gemma, share, NULL), APUS_OK);
    int donor[] = {0, 1, 2, 3, 4, 3, 4, 4}; /* the last layer counts as full */
    for (int l = 0; l < 8; l++) {
        assert_int_equal(c.layer[l].kv_donor, donor[l]);
        assert_int_equal(c.layer[l].ffn, l < 5 ? 128 : 256);
    }
    good(qwen, "full_attention_interval", "3");
    assert_true(c.layer[2].kind == AP_LAYER_FULL && c.layer[3].kind == AP_LAYER_LINEAR);
    pair list[] = {{"full_attention_interval", "1"},
                   {"num_hidden_layers", "2"},
                   {"layer_types", "[\"full_attention\",\"linear_attention\"]"},
                   {NULL, NULL}};
    assert_int_equal(edited(qwen, list, NULL), APUS_OK);
    assert_true(c.layer[1].kind == AP_LAYER_LINEAR); /* the list wins; the last need not be full */
    pair sparse[] = {{"decoder_sparse_step", "2"}, {"mlp_only_layers", "[3,99]"}, {NULL, NULL}};
    assert_int_equal(edited(moe, sparse, NULL), APUS_OK);
    for (int l = 0; l < 4; l++) {
        assert_int_equal(c.layer[l].moe, l == 1);
        assert_int_equal(c.layer[l].ffn, l == 1 ? 0 : 128);
    }
    good(moe, "num_local_experts", "4");
    assert_int_equal(c.n_expert, 4);
}

static void test_rope_keys(void **state)
{
    (void)state;
    /* keys in the dict win over those beside it; rope_scaling over rope_parameters */
    pair both[] = {{"rope_theta", "5000"}, {"partial_rotary_factor", "0.5"}, {NULL, NULL}};
    assert_int_equal(edited(qwen, both, NULL), APUS_OK);
    assert_int_equal(c.rope_full.n_angle, 8);
    close_to(c.rope_full.inv_freq[1], pow(1e4, -2.0 / 16), 1e-7);
    pair old[] = {{"rope_theta", "5000"},
                  {"rope_scaling", "{\"type\":\"yarn\",\"factor\":2,"
                                   "\"partial_rotary_factor\":1.0,\"attention_factor\":1.25,"
                                   "\"original_max_position_embeddings\":128}"},
                  {NULL, NULL}};
    assert_int_equal(edited(qwen, old, NULL), APUS_OK);
    assert_true(c.rope_full.n_angle == 16 && c.rope_full.attention_factor == 1.25f);
    close_to(c.rope_full.inv_freq[15], pow(5000, -30.0 / 32) / 2, 1e-6);
    good(gemma, "rope_parameters",
         "{\"full_attention\":{\"rope_type\":\"proportional\",\"rope_theta\":1e6,\"factor\":8,"
         "\"partial_rotary_factor\":0.5},"
         "\"sliding_attention\":{\"rope_type\":\"default\",\"rope_theta\":500,"
         "\"partial_rotary_factor\":0.5}}");
    assert_true(c.rope_full.n_angle == 8 && c.rope_full.pair_offset == 16);
    assert_true(c.rope_sliding.n_angle == 8); /* the default type has no partial factor here */
    close_to(c.rope_full.inv_freq[0], 0.125, 1e-9);
    close_to(c.rope_full.inv_freq[2], pow(1e6, -4.0 / 32) / 8, 1e-7);
}

static void test_token_rules(void **state)
{
    (void)state;
    pair ids[] = {{"eos_token_id", "[7,5000,-1,7]"}, {"bos_token_id", "-1"}, {NULL, NULL}};
    assert_int_equal(edited(qwen, ids,
                            "{\"eos_token_id\":9,\"bos_token_id\":3,\"do_sample\":false,"
                            "\"temperature\":0.5,\"top_k\":null,\"min_p\":0.1,"
                            "\"repetition_penalty\":1.1,\"suppress_tokens\":[4]}"),
                     APUS_OK);
    assert_true(c.n_stop == 2 && c.stop[0] == 7 && c.stop[1] == 9 && c.bos == 3);
    assert_true(!c.do_sample && c.temperature == 0.5f && c.top_k == -1 && c.min_p == 0.1f);
    assert_true(c.repetition_penalty == 1.1f && c.n_suppress == 1 && c.suppress[0] == 4);
}

static const struct {
    const pair *base;
    const char *key, *value;
    apus_err err;
    const char *part;
} rows[] = {
    {gemma, "model_type", NULL, APUS_EFORMAT, "model_type: is missing"},
    {gemma, "model_type", "7", APUS_EFORMAT, "model_type: expected a text"},
    {gemma, "model_type", "\"llama\"", APUS_EUNSUPPORTED, "\"llama\" is not supported; supported"},
    {gemma, "model_type", "\"gemma4_assistant\"", APUS_EUNSUPPORTED, "gemma4_assistant"},
    {gemma, "architectures", "[\"Gemma4ForSequenceClassification\"]", APUS_EUNSUPPORTED,
     "Gemma4ForSequenceClassification"},
    {gemma, "architectures", "\"Gemma4ForCausalLM\"", APUS_EFORMAT, "expected a list"},
    {gemma, "compression_config", "{\"bits\":4}", APUS_EUNSUPPORTED, "compression_config"},
    {gemma, "num_hidden_layers", NULL, APUS_EFORMAT, "num_hidden_layers: is missing"},
    {gemma, "num_hidden_layers", "0", APUS_EFORMAT, "integer from 1 to 512, found 0"},
    {gemma, "num_hidden_layers", "513", APUS_EFORMAT, "integer from 1 to 512, found 513"},
    {gemma, "num_hidden_layers", "-1", APUS_EFORMAT, "found -1"},
    {gemma, "num_hidden_layers", "8.0", APUS_EFORMAT, "found 8.0"},
    {gemma, "num_hidden_layers", "\"8\"", APUS_EFORMAT, "found \"8\""},
    {gemma, "num_hidden_layers", "[8]", APUS_EFORMAT, "found a list of 1"},
    {gemma, "num_hidden_layers", "1e30", APUS_EFORMAT, "found 1e30"},
    {gemma, "hidden_size", "99999999999999999999", APUS_EFORMAT,
     "hidden_size: expected an integer"},
    {gemma, "hidden_size", "4294967296", APUS_EFORMAT, "hidden_size"},
    {gemma, "vocab_size", "0", APUS_EFORMAT, "vocab_size"},
    {gemma, "num_attention_heads", "0", APUS_EFORMAT, "num_attention_heads"},
    {gemma, "num_key_value_heads", NULL, APUS_EFORMAT, "num_key_value_heads: is missing"},
    {gemma, "num_key_value_heads", "3", APUS_EFORMAT, "4 query heads cannot share 3"},
    {gemma, "num_key_value_heads", "8", APUS_EFORMAT, "4 query heads cannot share 8"},
    {gemma, "head_dim", "15", APUS_EFORMAT, "15 is odd"},
    {gemma, "head_dim", "2048", APUS_EFORMAT, "head_dim"},
    {gemma, "global_head_dim", "0", APUS_EFORMAT, "global_head_dim"},
    {gemma, "intermediate_size", NULL, APUS_EFORMAT, "intermediate_size: is missing"},
    {gemma, "sliding_window", NULL, APUS_EFORMAT, "sliding_window: is missing"},
    {gemma, "sliding_window", "0", APUS_EFORMAT, "sliding_window"},
    {gemma, "attention_bias", "true", APUS_EUNSUPPORTED, "attention_bias"},
    {gemma, "attention_bias", "1", APUS_EFORMAT, "attention_bias: expected true or false"},
    {gemma, "hidden_activation", "\"relu\"", APUS_EUNSUPPORTED,
     "only \"gelu_pytorch_tanh\" is supported, found \"relu\""},
    {gemma, "use_bidirectional_attention", "\"all\"", APUS_EUNSUPPORTED, "found \"all\""},
    {gemma, "final_logit_softcapping", "-30", APUS_EFORMAT, "final_logit_softcapping"},
    {gemma, "rms_norm_eps", "2", APUS_EFORMAT, "rms_norm_eps"},
    {gemma, "num_kv_shared_layers", "8", APUS_EFORMAT, "from 0 to 7"},
    {gemma, "num_kv_shared_layers", "4", APUS_EFORMAT, "no earlier full_attention layer"},
    {gemma, "layer_types", "[\"full_attention\"]", APUS_EFORMAT, "expected a list of 8"},
    {gemma, "layer_types", "{}", APUS_EFORMAT, "layer_types: expected a list"},
    {gemma, "layer_types", "[1,2,3,4,5,6,7,8]", APUS_EUNSUPPORTED, "layer 0"},
    {qwen, "layer_types",
     "[\"linear_attention\",\"sliding_attention\",\"full_attention\",\"full_attention\","
     "\"full_attention\",\"full_attention\",\"full_attention\",\"full_attention\"]",
     APUS_EUNSUPPORTED, "found \"sliding_attention\""},
    {gemma, "rope_parameters", "[]", APUS_EFORMAT, "rope_parameters: expected an object"},
    {gemma, "rope_parameters", "{\"rope_theta\":1e4}", APUS_EFORMAT, "full_attention: is missing"},
    {gemma, "rope_parameters", "{\"full_attention\":{\"rope_theta\":1e4}}", APUS_EFORMAT,
     "sliding_attention: is missing"},
    {gemma, "rope_parameters", "{\"full_attention\":{\"rope_type\":\"default\"}}", APUS_EFORMAT,
     "rope_parameters.full_attention.rope_theta: is missing"},
    {gemma, "rope_parameters", "{\"full_attention\":{\"rope_type\":\"yarn\",\"rope_theta\":1e4}}",
     APUS_EUNSUPPORTED, "\"yarn\" is not supported"},
    {gemma, "rope_parameters",
     "{\"full_attention\":{\"rope_type\":\"proportional\",\"rope_theta\":1e4,"
     "\"partial_rotary_factor\":0.01}}",
     APUS_EFORMAT, "rotates nothing"},
    {gemma, "rope_parameters",
     "{\"full_attention\":{\"rope_type\":\"proportional\",\"rope_theta\":0}}", APUS_EFORMAT,
     "rope_theta"},
    {gemma, "per_layer_config", "[]", APUS_EFORMAT, "per_layer_config: expected an object"},
    {gemma, "per_layer_config", "{\"8\":{}}", APUS_EFORMAT, "found \"8\""},
    {gemma, "per_layer_config", "{\"-1\":{}}", APUS_EFORMAT, "found \"-1\""},
    {gemma, "per_layer_config", "{\"x\":{}}", APUS_EFORMAT, "found \"x\""},
    {gemma, "per_layer_config", "{\"5\":{},\"05\":{}}", APUS_EFORMAT, "found \"05\""},
    {gemma, "per_layer_config", "{\"5\":7}", APUS_EFORMAT, "expected an object"},
    {gemma, "per_layer_config", "{\"5\":{\"sliding_window\":4}}", APUS_EUNSUPPORTED,
     "per_layer_config.5.sliding_window"},
    {gemma, "per_layer_config", "{\"5\":{\"head_dim\":64}}", APUS_EUNSUPPORTED, "layer 7"},
    {gemma, "per_layer_config", "{\"5\":{\"head_dim\":0}}", APUS_EFORMAT, "head_dim"},
    {gemma, "enable_moe_block", "true", APUS_EFORMAT, "num_experts: is missing"},
    {gemma, "hidden_size_per_layer_input", "-1", APUS_EFORMAT, "hidden_size_per_layer_input"},
    {qwen, "rope_parameters", NULL, APUS_EFORMAT, "rope_theta: is missing"},
    {qwen, "rope_parameters", "{}", APUS_EFORMAT, "rope_theta: is missing"},
    {qwen, "rope_scaling", "{\"rope_type\":\"default\"}", APUS_EFORMAT, "rope_theta: is missing"},
    {qwen, "rope_parameters", "{\"rope_theta\":1}", APUS_EFORMAT, "rope_theta"},
    {qwen, "rope_parameters", "{\"rope_theta\":\"1e4\"}", APUS_EFORMAT, "rope_theta"},
    {qwen, "rope_parameters", "{\"rope_theta\":1e4,\"rope_type\":\"llama3\"}", APUS_EUNSUPPORTED,
     "\"llama3\" is not supported"},
    {qwen, "rope_parameters", "{\"rope_theta\":1e4,\"rope_type\":\"yarn\"}", APUS_EFORMAT,
     "factor: is missing"},
    {qwen, "rope_parameters", "{\"rope_theta\":1e4,\"partial_rotary_factor\":0.1}", APUS_EFORMAT,
     "gives 3 rotated"},
    {qwen, "rope_parameters", "{\"rope_theta\":1e4,\"partial_rotary_factor\":0}", APUS_EFORMAT,
     "gives 0 rotated"},
    {qwen, "rope_parameters", "{\"rope_theta\":1e4,\"partial_rotary_factor\":1.5}", APUS_EFORMAT,
     "partial_rotary_factor"},
    {qwen, "attn_output_gate", "false", APUS_EUNSUPPORTED, "attn_output_gate"},
    {qwen, "output_gate_type", "\"sigmoid\"", APUS_EUNSUPPORTED, "output_gate_type"},
    {qwen, "hidden_act", "\"gelu\"", APUS_EUNSUPPORTED, "found \"gelu\""},
    {qwen, "linear_num_value_heads", NULL, APUS_EFORMAT, "linear_num_value_heads: is missing"},
    {qwen, "linear_num_value_heads", "3", APUS_EFORMAT, "3 value heads cannot share 2"},
    {qwen, "linear_conv_kernel_dim", "0", APUS_EFORMAT, "linear_conv_kernel_dim"},
    {qwen, "full_attention_interval", "0", APUS_EFORMAT, "full_attention_interval"},
    {qwen, "num_key_value_heads", "3", APUS_EFORMAT, "cannot share"},
    {qwen, "eos_token_id", "\"x\"", APUS_EFORMAT, "eos_token_id: expected token ids"},
    {qwen, "bos_token_id", "1.5", APUS_EFORMAT, "bos_token_id"},
    {moe, "use_sliding_window", "true", APUS_EUNSUPPORTED, "use_sliding_window"},
    {moe, "num_experts", "0", APUS_EFORMAT, "num_experts"},
    {moe, "num_experts_per_tok", "9", APUS_EFORMAT, "from 1 to 8, found 9"},
    {moe, "decoder_sparse_step", "0", APUS_EFORMAT, "decoder_sparse_step"},
    {moe, "mlp_only_layers", "[-1]", APUS_EFORMAT, "mlp_only_layers"},
    {moe, "mlp_only_layers", "[\"a\"]", APUS_EFORMAT, "mlp_only_layers"},
    {moe, "hidden_size", "63", APUS_EFORMAT, "gives none"},
    {moe, "layer_types",
     "[\"full_attention\",\"full_attention\",\"full_attention\",\"sliding_attention\"]",
     APUS_EUNSUPPORTED, "layer 3"},
};

/* What mlx-lm writes for checkpoints without towers: the text model's keys under the old name. */
static void test_flat_under_the_whole_name(void **state)
{
    (void)state;
    good(qwen, "model_type", "\"qwen3_5\"");
    assert_true(c.arch == AP_ARCH_QWEN3_5 && !c.multimodal && c.n_layer == 8);
    good(gemma, "model_type", "\"gemma4\"");
    assert_true(c.arch == AP_ARCH_GEMMA4 && !c.multimodal);
    pair e[] = {{"model_type", "\"qwen3_5_moe\""},
                {"num_experts", "4"},
                {"num_experts_per_tok", "2"},
                {"moe_intermediate_size", "32"},
                {"shared_expert_intermediate_size", "32"},
                {NULL, NULL}};
    if (edited(qwen, e, NULL)) fail_msg("%s", diag.text);
    assert_true(c.arch == AP_ARCH_QWEN3_5_MOE && c.n_expert == 4);
    pair inner[] = {{"model_type", "\"qwen3_5\""}, {"num_hidden_layers", NULL}, {NULL, NULL}};
    assert_int_equal(edited(qwen, inner, NULL), APUS_EFORMAT);
    assert_non_null(strstr(diag.text, "text_config: is missing"));
    /* text_config may repeat the whole model's name. */
    write_file("generation_config.json", NULL);
    write_file("config.json",
               "{\"model_type\":\"qwen3_5\",\"text_config\":{\"model_type\":\"qwen3_5\","
               "\"num_hidden_layers\":4,\"hidden_size\":64,\"vocab_size\":10,"
               "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"intermediate_size\":8,"
               "\"linear_num_key_heads\":2,\"linear_num_value_heads\":2,"
               "\"rope_parameters\":{\"rope_theta\":1e4}}}");
    if (ap_config_read(dir, &c, NULL, &diag)) fail_msg("%s", diag.text);
}

static ap_notes notes;

/* generation: members of generation_config.json; `n` of them have to be told. */
static void advised(const char *generation, size_t n)
{
    ap_notes_free(&notes);
    assert_int_equal(edited(qwen, NULL, generation), APUS_OK);
    assert_int_equal(ap_config_read(dir, &c, &notes, &diag), APUS_OK);
    for (size_t i = 0; i < notes.n; i++)
        if (!strstr(notes.text[i], "generation_config.json")) fail_msg("%s", notes.text[i]);
    if (notes.n != n)
        fail_msg("%s: %zu notes, the last: %s", generation, notes.n,
                 notes.n ? notes.text[notes.n - 1] : "");
}

/* Advice never keeps a model from loading. */
static void test_odd_generation(void **state)
{
    (void)state;
    advised("{\"top_k\":-1,\"temperature\":\"0.7\",\"top_p\":\"0.5\",\"min_p\":0}", 0);
    assert_true(c.top_k == 0 && c.temperature == 0.7f && c.top_p == 0.5f && c.min_p == 0);
    advised("{\"top_k\":20.0,\"do_sample\":\"false\",\"repetition_penalty\":\"1\"}", 0);
    assert_true(c.top_k == 20 && !c.do_sample && c.repetition_penalty == 1);
    advised("{\"top_k\":\" 5 \",\"do_sample\":1,\"temperature\":null}", 0);
    assert_true(c.top_k == 5 && c.do_sample && c.temperature < 0);
    advised("{\"eos_token_id\":[3.0,\"4\",-1,5000000],\"pad_token_id\":\"6\"}", 0);
    assert_true(ap_config_is_stop(&c, 3) && ap_config_is_stop(&c, 4) && c.n_stop == 2 &&
                c.pad == 6);
    advised("{\"top_k\":1.5,\"temperature\":-1,\"top_p\":7,\"min_p\":\"much\"}", 4);
    assert_true(c.top_k < 0 && c.temperature < 0 && c.top_p < 0 && c.min_p < 0);
    assert_non_null(
        strstr(notes.text[3], "top_k: expected a whole number from 0 on, or -1, found 1.5"));
    advised("{\"top_k\":[1],\"do_sample\":{},\"eos_token_id\":[\"x\",2],\"bos_token_id\":{}}", 4);
    assert_true(c.n_stop == 1 && c.stop[0] == 2 && c.do_sample);
    advised("{\"repetition_penalty\":0}", 1);
    advised("[]", 1);
    advised("{\"top_k\":", 1);
    advised("", 1);
    ap_buf b = {0};
    ap_buf_adds(&b, "{\"suppress_tokens\":[0");
    for (int i = 1; i < 900; i++) ap_buf_addf(&b, ",%d", i);
    ap_buf_adds(&b, "]}");
    advised(b.data, 0);
    assert_int_equal(c.n_suppress, 900);
    ap_buf_free(&b);
    ap_notes_free(&notes);
}

/* Places of images and the like are never generated; what ends a turn is. */
static void test_media(void **state)
{
    (void)state;
    pair e[] = {{"image_token_id", "7"},        {"video_token_id", "8"},
                {"vision_start_token_id", "9"}, {"audio_token_id", "12345"},
                {"eoi_token_index", "10"},      {"eos_token_id", "9"},
                {"boa_token_id", "null"},       {NULL, NULL}};
    assert_int_equal(edited(gemma, e, "{\"suppress_tokens\":[11,7]}"), APUS_OK);
    assert_int_equal(c.n_suppress, 4); /* 12345 is beyond the vocabulary, 9 ends a turn */
    for (int i = 0, sum = 0; i < 5; i++) {
        if (i == 4)
            assert_int_equal(sum, 7 + 8 + 10 + 11);
        else
            sum += c.suppress[i];
    }
}

static void test_bad(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        pair e[] = {{rows[i].key, rows[i].value}, {NULL, NULL}};
        apus_err err = edited(rows[i].base, e, NULL);
        if (err != rows[i].err || !strstr(diag.text, rows[i].part) || diag.code != err)
            fail_msg("%s=%s: %d %s", rows[i].key, rows[i].value ? rows[i].value : "-", err,
                     diag.text);
        assert_non_null(strstr(diag.text, "config.json"));
        assert_int_equal(((uint8_t *)&c)[0], 0x5A); /* untouched */
    }
}

static void test_bad_files(void **state)
{
    (void)state;
    write_file("generation_config.json", NULL);
    write_file("config.json", NULL);
    assert_int_equal(ap_config_read(dir, &c, NULL, &diag), APUS_EFILE);
    write_file("config.json", "[]");
    assert_int_equal(ap_config_read(dir, &c, NULL, &diag), APUS_EFORMAT);
    write_file("config.json", "{\"model_type\":");
    assert_int_equal(ap_config_read(dir, &c, NULL, &diag), APUS_EFORMAT);
    assert_non_null(strstr(diag.text, "line 1"));
    write_file("config.json", "{\"model_type\":\"qwen3_5\",\"text_config\":{\"model_type\":"
                              "\"gemma4_text\"}}");
    assert_int_equal(ap_config_read(dir, &c, NULL, &diag), APUS_EUNSUPPORTED);
    assert_non_null(strstr(diag.text, "text_config.model_type"));
    write_file("config.json",
               "{\"model_type\":\"qwen3_5\",\"text_config\":{\"num_hidden_layers\":-4}}");
    assert_int_equal(ap_config_read(dir, &c, NULL, &diag), APUS_EFORMAT);
    assert_non_null(strstr(diag.text, "text_config.num_hidden_layers"));
    assert_string_equal(ap_arch_name(AP_ARCH_QWEN3_NEXT), "qwen3_next");
    assert_string_equal(ap_arch_name((ap_arch_id)99), "unknown");
}

static apus_err read_one(void *ctx)
{
    static ap_config one;
    return ap_config_read(ctx, &one, NULL, NULL);
}

static void test_torture(void **state)
{
    (void)state;
    char name[] = "tests/unit/file/data/gemma4-12b";
    assert_true(torture(read_one, name) > 5);
}

static int set_up(void **state)
{
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int clean_up(void **state)
{
    (void)state;
    write_file("config.json", NULL);
    write_file("generation_config.json", NULL);
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gemma_e2b),
        cmocka_unit_test(test_gemma_e4b),
        cmocka_unit_test(test_gemma_large),
        cmocka_unit_test(test_qwen35_dense),
        cmocka_unit_test(test_qwen35_moe),
        cmocka_unit_test(test_qwen_relatives),
        cmocka_unit_test(test_yarn),
        cmocka_unit_test(test_generation),
        cmocka_unit_test(test_defaults_and_nulls),
        cmocka_unit_test(test_geometry_forms),
        cmocka_unit_test(test_layer_rules),
        cmocka_unit_test(test_rope_keys),
        cmocka_unit_test(test_token_rules),
        cmocka_unit_test(test_bad),
        cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_torture),
        cmocka_unit_test(test_flat_under_the_whole_name),
        cmocka_unit_test(test_odd_generation),
        cmocka_unit_test(test_media),
    };
    return cmocka_run_group_tests(tests, set_up, clean_up);
}
