/* What a prompt says where pictures, films and sound stand; the texts are those of the reference's processors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apus/apus.h"

#define DATA "tests/media/data/"

static apus_diag diag;

static apus_model *model_of(const char *folder)
{
    apus_model_settings s;
    apus_model *m;
    apus_model_settings_default(&s);
    s.load = APUS_LOAD_INFO;
    if (apus_model_open(folder, &s, &m, &diag)) fail_msg("%s", diag.text);
    return m;
}

static apus_media *media_of(const apus_model *m, const char *path)
{
    apus_media *x;
    if (apus_media_open(m, path, NULL, &x, &diag)) fail_msg("%s", diag.text);
    return x;
}

/* want: with "{N}" behind a mark for as many more of it. */
static void expands_to(const apus_model *m, const char *text, const apus_media *const *media, int n,
                       const char *want)
{
    char *got, *again = calloc(1, 1 << 20), *to = again;
    size_t len;
    if (apus_media_expand(m, text, strlen(text), media, n, &got, &len, &diag))
        fail_msg("%s", diag.text);
    assert_int_equal(len, strlen(got));
    const char *mark = want;
    for (const char *p = want; *p;) {
        if (*p == '<') mark = p;
        if (*p != '{') {
            *to++ = *p++;
            continue;
        }
        size_t size = (size_t)(p - mark);
        char *end;
        for (long k = strtol(p + 1, &end, 10); k > 1; k--, to += size) memcpy(to, mark, size);
        p = end + 1;
    }
    assert_string_equal(got, again);
    free(again);
    apus_free(got);
}

static void test_qwen(void **state)
{
    (void)state;
    apus_model *m = model_of("models/configs/Qwen3.5-4B");
    apus_media *picture = media_of(m, DATA "rgb.png"), *film = media_of(m, DATA "film.gif");
    const apus_media *both[] = {picture, film, picture};
    assert_int_equal(apus_media_tokens(picture), 70);
    assert_int_equal(apus_media_tokens(film), 8);
    assert_int_equal(apus_media_type_of(film), APUS_MEDIA_VIDEO);
    expands_to(m, "a<|vision_start|><|image_pad|><|vision_end|>b", both, 1,
               "a<|vision_start|><|image_pad|>{70}<|vision_end|>b");
    expands_to(
        m, "<|image_pad|>x<|video_pad|><|image_pad|><|image_pa", both, 3,
        "<|image_pad|>{70}x<0.3 seconds><|vision_start|><|video_pad|>{2}<|vision_end|>"
        "<1.4 seconds><|vision_start|><|video_pad|>{2}<|vision_end|>"
        "<2.5 seconds><|vision_start|><|video_pad|>{2}<|vision_end|>"
        "<3.6 seconds><|vision_start|><|video_pad|>{2}<|vision_end|><|image_pad|>{70}<|image_pa");
    expands_to(m, "nothing < here", NULL, 0, "nothing < here");
    apus_media_free(picture);
    apus_media_free(film);
    apus_model_close(m);
}

static void test_gemma(void **state)
{
    (void)state;
    apus_model *m = model_of("models/configs/gemma-4-E2B-it");
    apus_media *picture = media_of(m, DATA "rgb.png"), *film = media_of(m, DATA "film.gif");
    apus_media *sound = media_of(m, DATA "sound16.wav");
    const apus_media *all[] = {picture, sound, film};
    char *text;
    size_t len;
    expands_to(m, "<|image|>x<|audio|>", all, 2,
               "<|image><|image|>{260}<image|>x<|audio><|audio|>{3}<audio|>");
    const char *mark = "<|video|>";
    assert_int_equal(apus_media_expand(m, mark, strlen(mark), all + 2, 1, &text, &len, &diag),
                     APUS_OK);
    assert_true(!strncmp(text, "00:00 <|image><|video|><|video|>", 32));
    assert_non_null(strstr(text, "<|video|><image|> 00:03 <|image><|video|>"));
    apus_free(text);
    apus_media_free(picture);
    apus_media_free(film);
    apus_media_free(sound);
    apus_model_close(m);
}

static void test_refused(void **state)
{
    (void)state;
    apus_model *m = model_of("models/configs/Qwen3.5-4B");
    apus_media *picture = media_of(m, DATA "rgb.png");
    const apus_media *one[] = {picture};
    char *text;
    size_t len;
    assert_int_equal(
        apus_media_expand(m, "<|image_pad|><|image_pad|>", 26, one, 1, &text, &len, &diag),
        APUS_EINVAL);
    assert_non_null(strstr(diag.text, "only 1 media are given"));
    assert_int_equal(apus_media_expand(m, "hello", 5, one, 1, &text, &len, &diag), APUS_EINVAL);
    assert_non_null(strstr(diag.text, "left some out"));
    assert_int_equal(apus_media_expand(m, "<|video_pad|>", 13, one, 1, &text, &len, &diag),
                     APUS_EINVAL);
    assert_non_null(strstr(diag.text, "mark 1 is of a video, medium 1 is a picture"));
    apus_media_free(picture);
    apus_model_close(m);
    m = model_of("models/tiny-qwen");
    if (apus_media_open(m, DATA "rgb.png", NULL, &picture, &diag)) /* it may learn to see */
        assert_int_equal(diag.code, APUS_EUNSUPPORTED);
    else
        apus_media_free(picture);
    apus_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_qwen), cmocka_unit_test(test_gemma),
                                       cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
