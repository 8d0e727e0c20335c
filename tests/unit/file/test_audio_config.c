/* audio_config of config.json: the released tower, other contexts, what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "file/tower_config.h"

static ap_audio_config a;
static apus_diag diag;

static apus_err parse(ap_media_kind kind, const char *audio)
{
    char text[1024];
    ap_config c = {.media = kind, .hidden = 48};
    int n = snprintf(text, sizeof text, "{\"audio_config\":%s}", audio);
    return ap_audio_config_parse(&(ap_config_text){"config.json", text, (size_t)n}, &c, &a, &diag);
}

static void test_released(void **state)
{
    (void)state;
    assert_int_equal(parse(AP_MEDIA_GEMMA, "{}"), APUS_OK);
    assert_int_equal(a.kind, AP_AUDIO_CONFORMER);
    assert_true(a.n_layer == 12 && a.hidden == 1024 && a.n_head == 8 && a.head_dim == 128);
    assert_true(a.ffn == 4096 && a.width == 1024 && a.middle == 1536 && a.out == 48 &&
                a.n_tap == 5);
    assert_true(a.reach == 12 && a.shift == 0 && a.clipped && a.cap == 50 && a.share == 0.5f);
    assert_int_equal(parse(AP_MEDIA_EMBEDDER, "{\"audio_embed_dim\":640}"), APUS_OK);
    assert_true(a.kind == AP_AUDIO_EMBEDDER && a.width == 640 && a.n_layer == 0);
}

/* Positions are told from the middle of a block and what lies before it. */
static void test_contexts(void **state)
{
    static const struct {
        int block, left, shift;
    } rows[] = {{12, 13, 0}, {4, 8, -2}, {20, 13, 4}, {1, 2, 0}};
    char text[128];
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        snprintf(text, sizeof text, "{\"attention_chunk_size\":%d,\"attention_context_left\":%d}",
                 rows[i].block, rows[i].left);
        assert_int_equal(parse(AP_MEDIA_GEMMA, text), APUS_OK);
        assert_int_equal(a.reach, rows[i].left - 1);
        assert_int_equal(a.shift, rows[i].shift);
    }
}

static void test_refused(void **state)
{
    static const struct {
        const char *audio, *says;
        apus_err err;
    } rows[] = {{"null", "audio_config", APUS_EUNSUPPORTED},
                {"7", "audio_config", APUS_EFORMAT},
                {"{\"hidden_act\":\"relu\"}", "hidden_act", APUS_EUNSUPPORTED},
                {"{\"attention_context_right\":3}", "attention_context_right", APUS_EUNSUPPORTED},
                {"{\"attention_context_left\":1}", "attention_context_left", APUS_EFORMAT},
                {"{\"attention_context_left\":1000}", "attention_context_left", APUS_EFORMAT},
                {"{\"subsampling_conv_channels\":[8]}", "subsampling_conv", APUS_EUNSUPPORTED},
                {"{\"subsampling_conv_channels\":[3,8]}", "channels", APUS_EUNSUPPORTED},
                {"{\"hidden_size\":1023}", "hidden_size", APUS_EUNSUPPORTED},
                {"{\"num_hidden_layers\":-1}", "num_hidden_layers", APUS_EFORMAT},
                {"{\"gradient_clipping\":1}", "gradient_clipping", APUS_EFORMAT}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_int_equal(parse(AP_MEDIA_GEMMA, rows[i].audio), rows[i].err);
        if (!strstr(diag.text, rows[i].says)) fail_msg("%s: %s", rows[i].audio, diag.text);
    }
    assert_int_equal(parse(AP_MEDIA_QWEN, "{}"), APUS_EUNSUPPORTED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_released),
                                       cmocka_unit_test(test_contexts),
                                       cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
