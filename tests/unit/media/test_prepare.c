/* Patches against the reference's processors, and the settings they are made with. */
#include "media_util.h"

#include <math.h>

#include "file/media_config.h"
#include "media/prepare.h"

static ap_media_settings settings;

static void check_clip(const golden *g, const ap_clip *c)
{
    uint32_t crc = 0;
    assert_int_equal(c->n, g->parts);
    for (size_t i = 0; i < c->n; i++) {
        const ap_patches *p = &c->part[i];
        assert_true(p->n == g->rows && p->width == g->width && p->soft_tokens == g->tokens);
        assert_true(p->padded >= p->n && (p->pos != NULL) == (settings.kind != AP_MEDIA_QWEN));
        crc = crc32_of(p->values, p->n * p->width * sizeof *p->values, crc);
    }
    if (crc != g->crc) fail_msg("%s, %s: other values than the reference", g->file, g->kind);
}

static void check(const golden *g)
{
    if (strstr(g->file, ".wav")) return; /* test_sound.c */
    ap_source src = source_of(g->file);
    ap_film film;
    ap_picture p;
    ap_patches one;
    ap_clip clip = {&one, 1};
    assert_int_equal(ap_film_open(&src, &film, &diag), APUS_OK);
    if (film.n_frames) {
        if (ap_prepare_film(&settings, &film, g->file, g->budget, &clip, &diag))
            fail_msg("%s", diag.text);
        check_clip(g, &clip);
        assert_true(clip.part[0].seconds < clip.part[1].seconds);
        assert_true(clip.part[0].hash[0] != clip.part[1].hash[0]);
        ap_clip_clear(&clip);
        ap_film_close(&film);
    } else {
        assert_int_equal(ap_picture_decode(&src, &p, &diag), APUS_OK);
        if (ap_prepare_picture(&settings, &p, g->file, g->budget, &one, &diag))
            fail_msg("%s", diag.text);
        check_clip(g, &clip);
        ap_patches_clear(&one);
        ap_picture_clear(&p);
    }
    ap_source_close(&src);
}

static void test_goldens(void **state)
{
    (void)state;
    ap_media_settings_default(AP_MEDIA_GEMMA, &settings);
    assert_int_equal(each_golden("gemma", check), 8);
    ap_media_settings_default(AP_MEDIA_EMBEDDER, &settings);
    assert_int_equal(each_golden("embedder", check), 6);
    ap_media_settings_default(AP_MEDIA_QWEN, &settings);
    assert_int_equal(each_golden("qwen", check), 8);
}

/* ---------------------------------------------------------------- sizes */

/* A picture's size after preparing, as rows and columns of soft tokens' pixels. */
static apus_err prepared(int width, int height, int tokens, int *w, int *h)
{
    ap_picture p;
    ap_patches out;
    int patch = settings.picture.patch;
    assert_int_equal(ap_picture_create(width, height, &p, &diag), APUS_OK);
    memset(p.rgb, 0, 3 * (size_t)width * (size_t)height);
    apus_err err = ap_prepare_picture(&settings, &p, "p", tokens, &out, &diag);
    ap_picture_clear(&p);
    if (err) return err;
    if (out.pos) {
        *w = (out.pos[out.n - 1][0] + 1) * patch;
        *h = (out.pos[out.n - 1][1] + 1) * patch;
    } else {
        *w = out.grid[2] * patch;
        *h = out.grid[1] * patch;
    }
    ap_patches_clear(&out);
    return APUS_OK;
}

static void test_sizes(void **state)
{
    (void)state;
    static const struct {
        ap_media_kind kind;
        int w, h, tokens, to_w, to_h;
    } cases[] = {
        {AP_MEDIA_GEMMA, 640, 480, 0, 912, 672},    {AP_MEDIA_GEMMA, 1920, 1080, 280, 1056, 576},
        {AP_MEDIA_GEMMA, 512, 512, 0, 768, 768},    {AP_MEDIA_GEMMA, 3000, 100, 0, 4368, 144},
        {AP_MEDIA_GEMMA, 5000, 1, 280, 13440, 48},  {AP_MEDIA_GEMMA, 1, 100, 70, 48, 3360},
        {AP_MEDIA_QWEN, 224, 224, 0, 256, 256},     {AP_MEDIA_QWEN, 640, 480, 0, 640, 480},
        {AP_MEDIA_QWEN, 1920, 1080, 0, 1920, 1088}, {AP_MEDIA_QWEN, 80, 48, 0, 352, 224},
        {AP_MEDIA_QWEN, 2000, 16, 0, 2880, 32},     {AP_MEDIA_QWEN, 1920, 1080, 100, 416, 224},
        {AP_MEDIA_QWEN, 200, 1, 0, 3648, 32}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int w = 0, h = 0;
        ap_media_settings_default(cases[i].kind, &settings);
        if (prepared(cases[i].w, cases[i].h, cases[i].tokens, &w, &h)) fail_msg("%s", diag.text);
        if (w != cases[i].to_w || h != cases[i].to_h)
            fail_msg("%d x %d: %d x %d, expected %d x %d", cases[i].w, cases[i].h, w, h,
                     cases[i].to_w, cases[i].to_h);
    }
}

static void test_refused(void **state)
{
    (void)state;
    int w, h;
    ap_media_settings_default(AP_MEDIA_GEMMA, &settings);
    assert_int_equal(prepared(10, 10, 100, &w, &h), APUS_EINVAL);
    assert_non_null(strstr(diag.text, "70, 140, 280, 560 or 1120"));
    ap_media_settings_default(AP_MEDIA_QWEN, &settings);
    assert_int_equal(prepared(201, 1, 0, &w, &h), APUS_EUNSUPPORTED);
    assert_non_null(strstr(diag.text, "200 times"));
    assert_int_equal(prepared(10, 10, -1, &w, &h), APUS_EINVAL);
}

/* Equal pictures have equal hashes; another budget, another hash. */
static void test_hash(void **state)
{
    (void)state;
    ap_source src = source_of("rgb.png");
    ap_picture p;
    ap_patches a, b, c;
    ap_media_settings_default(AP_MEDIA_GEMMA, &settings);
    assert_int_equal(ap_picture_decode(&src, &p, &diag), APUS_OK);
    assert_int_equal(ap_prepare_picture(&settings, &p, "p", 70, &a, &diag), APUS_OK);
    assert_int_equal(ap_prepare_picture(&settings, &p, "p", 70, &b, &diag), APUS_OK);
    assert_int_equal(ap_prepare_picture(&settings, &p, "p", 140, &c, &diag), APUS_OK);
    assert_memory_equal(a.hash, b.hash, sizeof a.hash);
    assert_memory_not_equal(a.hash, c.hash, sizeof a.hash);
    ap_patches_clear(&a);
    ap_patches_clear(&b);
    ap_patches_clear(&c);
    ap_picture_clear(&p);
    ap_source_close(&src);
}

/* ---------------------------------------------------------------- settings */

static apus_err parse(ap_media_kind kind, const char *processor, const char *own, const char *video)
{
    const char *text[] = {processor, own, video};
    ap_media_config_text file[AP_MEDIA_CONFIG_FILES] = {
        {"processor_config.json", NULL, 0},
        {"preprocessor_config.json", NULL, 0},
        {"video_preprocessor_config.json", NULL, 0}};
    for (int i = 0; i < AP_MEDIA_CONFIG_FILES; i++)
        if (text[i]) file[i] = (ap_media_config_text){file[i].name, text[i], strlen(text[i])};
    return ap_media_config_parse(file, kind, &settings, &diag);
}

static void test_config(void **state)
{
    (void)state;
    assert_int_equal(parse(AP_MEDIA_QWEN, NULL, NULL, NULL), APUS_OK);
    assert_true(settings.picture.min_pixels == 65536 && settings.video.max_pixels == 25165824);
    const char *own =
        "{\"size\":{\"shortest_edge\":1024,\"longest_edge\":4096},\"image_mean\":[0,0.25,1],"
        "\"image_std\":2,\"do_normalize\":false,\"patch_size\":14,\"temporal_patch_size\":1}";
    assert_int_equal(parse(AP_MEDIA_QWEN, NULL, own, NULL), APUS_OK);
    assert_true(settings.picture.min_pixels == 1024 && settings.picture.max_pixels == 4096);
    assert_true(settings.picture.mean[1] == 0.25 && settings.picture.std[2] == 2);
    assert_true(!settings.picture.normalize && settings.picture.patch == 14);
    assert_int_equal(settings.video.patch,
                     14); /* as the reference: for want of a file of its own */
    assert_int_equal(parse(AP_MEDIA_QWEN, NULL, own, "{\"fps\":4,\"max_frames\":9}"), APUS_OK);
    assert_true(settings.video.fps == 4 && settings.video.max_frames == 9 &&
                settings.video.patch == 16);
    const char *all =
        "{\"image_processor\":{\"max_soft_tokens\":560},\"video_processor\":{\"num_frames\":8},"
        "\"feature_extractor\":{\"mel_floor\":0.5}}";
    assert_int_equal(parse(AP_MEDIA_GEMMA, all, "{\"max_soft_tokens\":70}", NULL), APUS_OK);
    assert_true(settings.picture.soft_tokens == 560 && settings.video.frames == 8);
    assert_true(settings.sound.floor == 0.5 && settings.sound.fft == 512);
}

static void config_refused(const char *own, apus_err code, const char *says)
{
    assert_int_equal(parse(AP_MEDIA_GEMMA, NULL, own, NULL), code);
    if (!strstr(diag.text, says) || !strstr(diag.text, "preprocessor_config.json"))
        fail_msg("expected \"%s\", found \"%s\"", says, diag.text);
}

static void test_config_refused(void **state)
{
    (void)state;
    config_refused("{\"max_soft_tokens\":100}", APUS_EUNSUPPORTED, "max_soft_tokens");
    config_refused("{\"resample\":2}", APUS_EUNSUPPORTED, "resample");
    config_refused("{\"patch_size\":0}", APUS_EFORMAT, "patch_size");
    config_refused("{\"image_std\":[1,1]}", APUS_EFORMAT, "image_std");
    config_refused("{\"image_std\":[1,1,0]}", APUS_EFORMAT, "image_std");
    config_refused("{\"preemphasis\":0.97}", APUS_EUNSUPPORTED, "preemphasis");
    config_refused("[]", APUS_EFORMAT, "expected an object");
}

/* ---------------------------------------------------------------- frames */

/* Ten frames of one grey each, so that a part tells which frame it shows. */
typedef struct greys {
    int at;
} greys;

static apus_err next_grey(ap_film *f, ap_picture *frame, apus_diag *d)
{
    (void)d;
    greys *g = f->state;
    memset(frame->rgb, 10 * g->at++, 3 * (size_t)f->width * (size_t)f->height);
    return APUS_OK;
}

static void close_greys(ap_film *f)
{
    (void)f;
}

static void frames_are(double seconds, const int *want, size_t n)
{
    static const ap_film_ops ops = {next_grey, close_greys};
    greys g = {0};
    ap_film film = {
        .width = 32, .height = 32, .n_frames = 10, .fps = 10 / seconds, .op = &ops, .state = &g};
    ap_clip c;
    size_t per = (size_t)settings.video.temporal, area = 256;
    if (ap_prepare_film(&settings, &film, "film", 0, &c, &diag)) fail_msg("%s", diag.text);
    assert_int_equal(c.n * per, n);
    for (size_t i = 0; i < n; i++) {
        float byte = c.part[i / per].values[i % per * area] * 255;
        if (settings.kind == AP_MEDIA_QWEN) byte = byte / 2 + 127.5f;
        assert_int_equal((int)roundf(byte / 10), want[i]);
    }
    double first = want[0] / (10 / seconds), last = want[per - 1] / (10 / seconds);
    assert_true(fabs(c.part[0].seconds - (first + last) / 2) < 1e-9);
    ap_clip_clear(&c);
}

static void test_frames(void **state)
{
    (void)state;
    ap_media_settings_default(AP_MEDIA_GEMMA, &settings);
    settings.video.frames = 4;
    frames_are(1, (const int[]){0, 2, 5, 7}, 4);
    settings.video.frames = 32; /* more than there are: all */
    frames_are(1, (const int[]){0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, 10);
    ap_media_settings_default(AP_MEDIA_QWEN, &settings);
    frames_are(1, (const int[]){0, 3, 6, 9}, 4);         /* two a second, at least four */
    frames_are(2.5, (const int[]){0, 2, 4, 7, 9, 9}, 6); /* 4.5 is even; the odd one is repeated */
    frames_are(10, (const int[]){0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goldens), cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_refused), cmocka_unit_test(test_hash),
        cmocka_unit_test(test_config),  cmocka_unit_test(test_config_refused),
        cmocka_unit_test(test_frames)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
