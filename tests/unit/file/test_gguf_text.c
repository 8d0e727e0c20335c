/* Tokenizers, templates and advice of GGUF files as published files have them, odd ones too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "file/config.h"
#include "file/gguf_hf.h"
#include "gguf_bytes.h"
#include "text/tokenizer.h"

static apus_diag diag;
static ap_notes notes;
static ap_tokenizer *tok;
static bytes f;

static int fresh(void **state)
{
    (void)state;
    notes = (ap_notes){0};
    tok = NULL;
    f = begin();
    return 0;
}

static int clean(void **state)
{
    (void)state;
    ap_notes_free(&notes);
    ap_tokenizer_free(tok);
    return 0;
}

/* Read f's tokenizer. */
static void load(void)
{
    ap_gguf g;
    ap_buf json = {0};
    finish(&f, 0);
    ap_notes_free(&notes);
    ap_tokenizer_free(tok);
    tok = NULL;
    if (ap_gguf_parse(f.b, f.n, "m.gguf", &g, &diag)) fail_msg("%s", diag.text);
    if (ap_gguf_tokenizer_json(&g, &json, &notes, &diag)) fail_msg("%s", diag.text);
    if (ap_tokenizer_parse(json.data, json.len, "m.gguf", &tok, &diag)) fail_msg("%s", diag.text);
    ap_buf_free(&json);
    ap_gguf_close(&g);
}

static void encodes(const char *text, const char *ids)
{
    char got[200] = "";
    int32_t *id;
    size_t n;
    assert_int_equal(ap_tokenizer_encode(tok, text, strlen(text), APUS_TOK_SPECIAL | APUS_TOK_BOS,
                                         &id, &n, &diag),
                     APUS_OK);
    for (size_t i = 0; i < n; i++)
        snprintf(got + strlen(got), sizeof got - strlen(got), "%s%d", i ? " " : "", id[i]);
    ap_free(id);
    assert_string_equal(got, ids);
}

static void decodes(int32_t id, const char *want)
{
    char *text;
    size_t len;
    if (ap_tokenizer_decode(tok, &id, 1, false, &text, &len, &diag)) fail_msg("%s", diag.text);
    assert_string_equal(text, want);
    ap_free(text);
}

static bool is_special(const char *text)
{
    return ap_tokenizer_is_special(tok, ap_tokenizer_id(tok, text, strlen(text)));
}

static void notes_say(size_t n, const char *part)
{
    assert_int_equal(notes.n, n);
    if (n && !strstr(notes.text[n - 1], part)) fail_msg("%s", notes.text[n - 1]);
}

/* ---------------------------------------------------------------- the first token */

static const char *const gemma_tokens[] = {"<pad>",   "<eos>",   "<bos>",        "<unk>",
                                           "<|turn>", "<turn|>", "<|tool_call>", "\xE2\x96\x81",
                                           "a",       "b",       "ab",           NULL};
static const int32_t gemma_types[] = {3, 3, 3, 2, 3, 3, 4, 1, 1, 1, 1};
static const char *const gemma_merges[] = {"a b", NULL};

static void gemma(const char *model, const char *pre, const int32_t *types)
{
    f = begin();
    kv_text(&f, "tokenizer.ggml.model", model);
    if (pre) kv_text(&f, "tokenizer.ggml.pre", pre);
    kv_texts(&f, "tokenizer.ggml.tokens", gemma_tokens);
    if (types) kv_ints(&f, "tokenizer.ggml.token_type", types, 11);
    kv_texts(&f, "tokenizer.ggml.merges", gemma_merges);
}

static void kv_flag(const char *key, bool on)
{
    put_text(&f, key);
    put(&f, AP_GGUF_BOOL, 4);
    put(&f, on, 1);
    f.values++;
}

static void test_gemma_begins_with_bos(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) { /* whatever the file says of it */
        gemma("gemma4", NULL, gemma_types);
        if (i & 1) kv_int(&f, "tokenizer.ggml.bos_token_id", 2);
        if (i & 2) kv_flag("tokenizer.ggml.add_bos_token", false);
        load();
        encodes("ab", "2 10");
        encodes("", "2");
        encodes("<|turn>a b<turn|>", "2 4 8 7 9 5");
        notes_say(0, "");
    }
}

static void test_ollama(void **state)
{
    (void)state;
    gemma("llama", "gemma4", gemma_types);
    kv_int(&f, "tokenizer.ggml.bos_token_id", 2);
    kv_flag("tokenizer.ggml.add_bos_token", false);
    load();
    encodes("ab a", "2 10 7 8");
    gemma("llama", NULL, gemma_types); /* that is another kind of tokenizer */
    finish(&f, 0);
    ap_gguf g;
    ap_buf json = {0};
    assert_int_equal(ap_gguf_parse(f.b, f.n, "m.gguf", &g, &diag), APUS_OK);
    assert_int_equal(ap_gguf_tokenizer_json(&g, &json, &notes, &diag), APUS_EUNSUPPORTED);
    assert_non_null(strstr(diag.text, "m.gguf: tokenizer.ggml.model and .pre"));
    ap_buf_free(&json);
    ap_gguf_close(&g);
}

static const char *const qwen_tokens[] = {
    "a", "b", "ab", "<|endoftext|>", "<|im_end|>", "<think>", "<|fim_pad|>", "[x]", NULL};

static void qwen(const int32_t *types)
{
    static const char *const merges[] = {"a b", NULL};
    f = begin();
    kv_text(&f, "tokenizer.ggml.model", "gpt2");
    kv_text(&f, "tokenizer.ggml.pre", "qwen35");
    kv_texts(&f, "tokenizer.ggml.tokens", qwen_tokens);
    if (types) kv_ints(&f, "tokenizer.ggml.token_type", types, 8);
    kv_texts(&f, "tokenizer.ggml.merges", merges);
}

static const int32_t qwen_types[] = {1, 1, 1, 3, 3, 4, 4, 1};

static void test_qwen_does_as_the_file_says(void **state)
{
    (void)state;
    qwen(qwen_types);
    kv_int(&f, "tokenizer.ggml.bos_token_id", 3);
    load();
    encodes("ab", "2");
    qwen(qwen_types);
    kv_int(&f, "tokenizer.ggml.bos_token_id", 3);
    kv_flag("tokenizer.ggml.add_bos_token", false);
    load();
    encodes("ab", "2");
    qwen(qwen_types);
    kv_int(&f, "tokenizer.ggml.bos_token_id", 3);
    kv_flag("tokenizer.ggml.add_bos_token", true);
    load();
    encodes("ab", "3 2");
    qwen(qwen_types);
    kv_int(&f, "tokenizer.ggml.bos_token_id", 300); /* there is none */
    kv_flag("tokenizer.ggml.add_bos_token", true);
    load();
    encodes("ab", "2");
}

/* ---------------------------------------------------------------- kinds of tokens */

static void check_qwen_kinds(void)
{
    encodes("a<|im_end|>b<think><|fim_pad|>", "0 4 1 5 6");
    assert_true(is_special("<|im_end|>") && is_special("<|endoftext|>"));
    assert_false(is_special("<think>") || is_special("<|fim_pad|>") || is_special("ab"));
}

static void test_control_marked_as_normal(void **state)
{
    (void)state;
    const int32_t normal[11] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
                  some[8] = {1, 1, 1, 3, 1, 4, 4, 1};
    qwen(qwen_types);
    load();
    check_qwen_kinds();
    notes_say(0, "");
    qwen(some);
    load();
    check_qwen_kinds();
    notes_say(1, "marks 1 control token as normal text, such as \"<|im_end|>\"");
    qwen(normal);
    load();
    check_qwen_kinds();
    notes_say(1, "marks 4 control tokens as normal text, such as \"<|endoftext|>\"");
    qwen(NULL);
    load();
    check_qwen_kinds();
    notes_say(1, "token_type is missing");
    gemma("gemma4", NULL, normal);
    load();
    encodes("<|turn>ab<turn|><eos>", "2 4 10 5 1");
    assert_true(is_special("<|turn>") && is_special("<|tool_call>") && is_special("<pad>"));
    notes_say(1, "marks 7 control tokens");
    gemma("gemma4", NULL, gemma_types); /* converters mean it: that one is to be seen in output */
    load();
    assert_true(is_special("<|tool_call>"));
    notes_say(0, "");
}

/* What the metadata names is one, if it looks like one. */
static void test_named_tokens(void **state)
{
    (void)state;
    qwen(qwen_types);
    kv_int(&f, "tokenizer.ggml.eot_token_id", 7);
    kv_int(&f, "tokenizer.ggml.eos_token_id", 0);
    load();
    assert_true(is_special("[x]"));
    assert_false(is_special("a"));
    encodes("a[x]b", "0 7 1");
    notes_say(1, "\"[x]\"");
}

/* ---------------------------------------------------------------- texts that stand twice */

#define SPACE "\xE2\x96\x81"

/* "_#" lost its space, as in files of Gemma that were published so; "#" is the last token. */
static void test_lost_space(void **state)
{
    (void)state;
    static const char *const merges[] = {"a b", SPACE " #", SPACE "# a", "ab a", NULL};
    static const char *const tokens[] = {"<bos>", "<unk>", "ab", "#", SPACE "#a", "aba",
                                         SPACE,   "a",     "b",  "#", NULL};
    kv_text(&f, "tokenizer.ggml.model", "gemma4");
    kv_texts(&f, "tokenizer.ggml.tokens", tokens);
    kv_texts(&f, "tokenizer.ggml.merges", merges);
    kv_ints(&f, "tokenizer.ggml.token_type", (const int32_t[]){3, 2, 1, 1, 1, 1, 1, 1, 1, 1}, 10);
    load();
    encodes(" #", "0 3");
    encodes(" #a #b#", "0 4 3 8 9");
    decodes(3, " #");
    decodes(9, "#");
    notes_say(1, "holds 1 text twice, such as \"#\"; 1 of these tokens got the text back");
}

/* Three at once, learned ones among them: each lies between its neighbours. */
static void test_several_lost_texts(void **state)
{
    (void)state;
    static const char *const merges[] = {"/ /", SPACE " //", "a b",       SPACE " #", "ab ab",
                                         "< ?", SPACE " <?", SPACE " ab", NULL};
    static const char *const tokens[] = {"<bos>", "<unk>", "//", "//",       "ab",  "#",
                                         "abab",  "<?",    "<?", SPACE "ab", SPACE, "a",
                                         "b",     "#",     "/",  "<",        "?",   NULL};
    kv_text(&f, "tokenizer.ggml.model", "gemma4");
    kv_texts(&f, "tokenizer.ggml.tokens", tokens);
    kv_texts(&f, "tokenizer.ggml.merges", merges);
    load();
    encodes(" #", "0 5");
    encodes("#", "0 13");
    decodes(5, " #");
    encodes("// //", "0 2 3"); /* side by side: the order of the merges tells */
    decodes(2, "//");
    decodes(3, " //");
    encodes("<? <?", "0 7 8");
    notes_say(2, "missing");
    if (!strstr(notes.text[0], "holds 3 texts twice")) fail_msg("%s", notes.text[0]);
    if (!strstr(notes.text[0], "3 of these tokens")) fail_msg("%s", notes.text[0]);
}

/* No place between neighbours: the merge is left out, and the rest works. */
static void test_text_lost_for_good(void **state)
{
    (void)state;
    static const char *const merges[] = {"a b", "ab c", "a c", NULL};
    static const char *const tokens[] = {"c", "c", "c", "a", "b", "ab", "abc", NULL};
    kv_text(&f, "tokenizer.ggml.model", "gpt2");
    kv_text(&f, "tokenizer.ggml.pre", "qwen2");
    kv_texts(&f, "tokenizer.ggml.tokens", tokens);
    kv_texts(&f, "tokenizer.ggml.merges", merges);
    load();
    encodes("ac", "3 2");
    encodes("abc", "6");
    for (int i = 0; i < 3; i++) decodes(i, "c");
    if (!strstr(notes.text[0], "holds 2 texts twice, such as \"c\"; 0 of these") ||
        !strstr(notes.text[0], "1 merges are left out"))
        fail_msg("%s", notes.text[0]);
}

static void test_control_token_twice(void **state)
{
    (void)state;
    static const char *const tokens[] = {"a", "<|im_end|>", "<|im_end|>", NULL};
    static const char *const merges[] = {NULL};
    kv_text(&f, "tokenizer.ggml.model", "gpt2");
    kv_text(&f, "tokenizer.ggml.pre", "qwen2");
    kv_texts(&f, "tokenizer.ggml.tokens", tokens);
    kv_texts(&f, "tokenizer.ggml.merges", merges);
    kv_ints(&f, "tokenizer.ggml.token_type", (const int32_t[]){1, 3, 3}, 3);
    load();
    encodes("a<|im_end|>", "0 2");
    decodes(1, "<|im_end|>");
}

/* Gemma 3 has scores instead of merges: the higher one is made first, whatever its place. */
static void test_scores(void **state)
{
    (void)state;
    static const char *const tokens[] = {"<pad>", "<eos>", "<bos>", "<unk>", "ab",     "bc", "abc",
                                         "a",     "b",     "c",     "d",     "<0x64>", "cd", NULL};
    static const float scores[2][13] = {{0, 0, 0, 0, -1, -2, -3, -9, -9, -9, -9, 0, -2.5f},
                                        {0, 0, 0, 0, -2, -1, -3, -9, -9, -9, -9, 0, -2.5f}};
    static const char *const want[] = {"2 4 12", "2 6 10"};
    for (int i = 0; i < 2; i++) {
        f = begin();
        kv_text(&f, "general.architecture", "gemma3");
        kv_text(&f, "tokenizer.ggml.model", "llama");
        kv_texts(&f, "tokenizer.ggml.tokens", tokens);
        kv_array(&f, "tokenizer.ggml.scores", AP_GGUF_F32, 13);
        for (int k = 0; k < 13; k++) {
            uint32_t u;
            memcpy(&u, &scores[i][k], 4);
            put(&f, u, 4);
        }
        kv_ints(&f, "tokenizer.ggml.token_type",
                (const int32_t[]){3, 3, 3, 2, 1, 1, 1, 1, 1, 1, 1, 6, 1}, 13);
        load();
        encodes("abcd", want[i]);
        encodes("abc", "2 6"); /* both ways lead there */
        notes_say(0, "");
    }
}

/* ---------------------------------------------------------------- templates */

static void templates_are(const char *given, const char *want)
{
    ap_gguf g;
    ap_buf b = {0};
    finish(&f, 0);
    assert_int_equal(ap_gguf_parse(f.b, f.n, "m.gguf", &g, &diag), APUS_OK);
    size_t len = given ? strlen(given) : 0;
    assert_int_equal(ap_gguf_tokenizer_config_json(&g, given, len, &b, &diag), APUS_OK);
    assert_string_equal(b.data ? b.data : "", want);
    ap_buf_free(&b);
    ap_gguf_close(&g);
}

static void test_templates(void **state)
{
    (void)state;
    templates_are(NULL, "");
    templates_are("T", "{\"chat_template\":\"T\"}");
    f = begin();
    kv_text(&f, "tokenizer.chat_template.tool_use", "with \"tools\"");
    kv_text(&f, "tokenizer.chat_template", "plain");
    kv_texts(&f, "tokenizer.chat_templates", (const char *const[]){"tool_use", NULL});
    kv_text(&f, "tokenizer.chat_template.", "no name");
    kv_text(&f, "tokenizer.chat_templatex", "another key");
    bytes again = f;
    templates_are(NULL, "{\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"with "
                        "\\\"tools\\\"\"},{\"name\":\"default\",\"template\":\"plain\"}]}");
    f = again;
    templates_are("mine", "{\"chat_template\":\"mine\"}"); /* one that is given wins */
}

/* ---------------------------------------------------------------- sampling */

static ap_config advised(void)
{
    static ap_config c;
    static const char config[] =
        "{\"model_type\":\"qwen3_moe\",\"num_hidden_layers\":1,\"hidden_size\":8,\"vocab_size\":"
        "100,"
        "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"head_dim\":4,\"num_experts\":2,"
        "\"num_experts_per_tok\":1,\"moe_intermediate_size\":8,\"rope_theta\":10000}";
    ap_gguf g;
    ap_buf b = {0};
    finish(&f, 0);
    assert_int_equal(ap_gguf_parse(f.b, f.n, "m.gguf", &g, &diag), APUS_OK);
    if (ap_gguf_generation_json(&g, &b, &notes, &diag)) fail_msg("%s", diag.text);
    if (ap_config_parse(&(ap_config_text){"c", config, sizeof config - 1},
                        &(ap_config_text){"m.gguf", b.data, b.len}, &c, &notes, &diag))
        fail_msg("%s", diag.text);
    ap_buf_free(&b);
    ap_gguf_close(&g);
    return c;
}

static void test_sampling(void **state)
{
    (void)state;
    ap_config c = advised();
    assert_true(c.temperature < 0 && c.top_k < 0 && c.n_suppress == 0 && c.penalty_last < 0);
    f = begin();
    kv_real(&f, "general.sampling.temp", 0.7f);
    kv_int(&f, "general.sampling.top_k", 20);
    kv_real(&f, "general.sampling.top_p", 0.95f);
    kv_real(&f, "general.sampling.min_p", 0.05f);
    kv_real(&f, "general.sampling.penalty_repeat", 1.5f);
    kv_int(&f, "general.sampling.penalty_last_n", 64);
    kv_ints(&f, "tokenizer.ggml.suppress_tokens", (const int32_t[]){7, -1, 100, 7, 99}, 5);
    c = advised();
    assert_true(c.temperature == 0.7f && c.top_k == 20 && c.top_p == 0.95f && c.min_p == 0.05f);
    assert_true(c.repetition_penalty == 1.5f && c.penalty_last == 64 && c.do_sample);
    assert_true(c.n_suppress == 2 && c.suppress[0] == 7 && c.suppress[1] == 99);
    notes_say(0, "");
}

static void test_odd_sampling(void **state)
{
    (void)state;
    kv_real(&f, "general.sampling.temp", NAN);
    kv_text(&f, "general.sampling.top_p", "much");
    kv_ints(&f, "general.sampling.top_k", (const int32_t[]){-1}, 1);
    kv_int(&f, "general.sampling.mirostat", 2);
    kv_real(&f, "general.sampling.penalty_repeat", 1.5f);
    kv_int(&f, "general.sampling.penalty_last_n", 0); /* the penalty reaches back over no token */
    kv_real(&f, "general.sampling.min_p", 2);
    ap_config c = advised();
    assert_true(c.temperature < 0 && c.top_p < 0 && c.top_k < 0 && c.repetition_penalty < 0);
    assert_true(c.min_p < 0 && notes.n == 5);
    notes_say(5, "m.gguf: min_p: expected a number from 0 to 1, found 2");
    f = begin();
    put_text(&f, "general.sampling.top_k");
    put(&f, AP_GGUF_I32, 4);
    put(&f, (uint32_t)-1, 4);
    f.values++;
    assert_int_equal(advised().top_k, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_gemma_begins_with_bos, fresh, clean),
        cmocka_unit_test_setup_teardown(test_ollama, fresh, clean),
        cmocka_unit_test_setup_teardown(test_qwen_does_as_the_file_says, fresh, clean),
        cmocka_unit_test_setup_teardown(test_control_marked_as_normal, fresh, clean),
        cmocka_unit_test_setup_teardown(test_named_tokens, fresh, clean),
        cmocka_unit_test_setup_teardown(test_lost_space, fresh, clean),
        cmocka_unit_test_setup_teardown(test_several_lost_texts, fresh, clean),
        cmocka_unit_test_setup_teardown(test_text_lost_for_good, fresh, clean),
        cmocka_unit_test_setup_teardown(test_control_token_twice, fresh, clean),
        cmocka_unit_test_setup_teardown(test_scores, fresh, clean),
        cmocka_unit_test_setup_teardown(test_templates, fresh, clean),
        cmocka_unit_test_setup_teardown(test_sampling, fresh, clean),
        cmocka_unit_test_setup_teardown(test_odd_sampling, fresh, clean),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
