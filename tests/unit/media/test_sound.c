/* Files with sound, resampling, mel bands. */
#include "media_util.h"

#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "media/sound.h"

static ap_sound read_sound(const char *name)
{
    ap_source src = source_of(name);
    ap_sound s;
    if (ap_sound_decode(&src, &s, &diag)) fail_msg("%s", diag.text);
    ap_source_close(&src);
    return s;
}

/* The same sound in all encodings. */
static void test_wav(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        double scale, tolerance;
    } files[] = {{"sound8.wav", 1, 0.01},
                 {"sound16.wav", 1, 5e-5},
                 {"sound24.wav", 1, 1e-6},
                 {"float_stereo.wav", 0.75, 1e-6}};
    ap_sound best = read_sound("sound32.wav");
    assert_true(best.n == 2000 && best.rate == 16000);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        ap_sound s = read_sound(files[i].name);
        assert_true(s.n == best.n && s.rate == best.rate);
        for (size_t k = 0; k < s.n; k++)
            if (fabs(s.sample[k] - files[i].scale * best.sample[k]) > files[i].tolerance)
                fail_msg("%s: sample %zu is %g, expected %g", files[i].name, k, s.sample[k],
                         files[i].scale * best.sample[k]);
        ap_sound_clear(&s);
    }
    ap_sound_clear(&best);
}

/* FLAC and AIFF keep what they are given. */
static void test_packed(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int rate;
        size_t n;
        double tolerance;
    } files[] = {{"sound.flac", 16000, 2000, 4e-5},
                 {"sound.aiff", 16000, 2000, 4e-5},
                 {"stereo.flac", 48000, 8000, 1e-6}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        ap_sound s;
        ap_source src = source_of(files[i].name);
        assert_true(ap_sound_is(&src));
        apus_err err = ap_sound_decode(&src, &s, &diag);
        ap_source_close(&src);
        if (err == APUS_EUNSUPPORTED && strstr(diag.text, "libsndfile")) skip();
        if (err) fail_msg("%s", diag.text);
        assert_true(s.rate == files[i].rate && s.n == files[i].n);
        double scale = strncmp(files[i].name, "stereo", 6) ? 1 : 0.75;
        for (size_t k = 200; k < 1500; k++) {
            double t = (double)k / 16000,
                   x = scale * 0.5 * sin(2 * 3.14159265358979323846 * (200 + 2000 * t) * t);
            if (fabs(s.sample[k] - x) > files[i].tolerance)
                fail_msg("%s: sample %zu is %g, expected %g", files[i].name, k, s.sample[k], x);
        }
        ap_sound_clear(&s);
    }
}

static void test_packed_refused(void **state)
{
    (void)state;
    ap_sound s;
    ap_source src = source_of("sound.mp3");
    assert_int_equal(ap_sound_decode(&src, &s, &diag), APUS_EUNSUPPORTED);
    assert_non_null(strstr(diag.text, "an MP3 file; only WAV, FLAC and AIFF are heard"));
    ap_source_close(&src);
    src = source_of("sound.ogg");
    assert_int_equal(ap_sound_decode(&src, &s, &diag), APUS_EUNSUPPORTED);
    ap_source_close(&src);
    src = source_of("cut_sound.flac");
    apus_err err = ap_sound_decode(&src, &s, &diag);
    if (err == APUS_EUNSUPPORTED) skip();
    assert_int_equal(err, APUS_EFORMAT);
    assert_non_null(strstr(diag.text, "cut_sound.flac: the sound is damaged or cut short"));
    src.len = 60;
    assert_int_equal(ap_sound_decode(&src, &s, &diag), APUS_EFORMAT);
    assert_null(s.sample);
    ap_source_close(&src);
    src = source_of("stereo.flac");
    src.limits.samples = 15999;
    assert_int_equal(ap_sound_decode(&src, &s, &diag), APUS_EUNSUPPORTED);
    assert_null(s.sample);
    src.limits.samples = 16000;
    assert_int_equal(ap_sound_decode(&src, &s, &diag), APUS_OK);
    ap_sound_clear(&s);
    ap_source_close(&src);
}

static void test_wav_refused(void **state)
{
    (void)state;
    ap_sound s;
    ap_source src = source_of("cut_sound.wav");
    assert_int_equal(ap_sound_decode(&src, &s, &diag), APUS_EFORMAT);
    assert_non_null(strstr(diag.text, "cut_sound.wav: the WAV data are cut short"));
    ap_source_close(&src);
    src = source_of("sound16.wav");
    src.limits.samples = 1999;
    assert_int_equal(ap_sound_decode(&src, &s, &diag), APUS_EUNSUPPORTED);
    uint8_t *bytes = (uint8_t *)(uintptr_t)src.data;
    bytes[20] = 7; /* mu-law */
    assert_int_equal(ap_sound_decode(&src, &s, &diag), APUS_EUNSUPPORTED);
    bytes[20] = 1;
    bytes[22] = 0; /* no channel */
    assert_int_equal(ap_sound_decode(&src, &s, &diag), APUS_EFORMAT);
    ap_source_close(&src);
    src = source_of("rgb.png");
    assert_int_equal(ap_sound_decode(&src, &s, &diag), APUS_EFORMAT);
    ap_source_close(&src);
}

static ap_sound sine(double hz, int rate, size_t n)
{
    ap_sound s = {ap_malloc(n, sizeof(float)), n, rate};
    for (size_t i = 0; i < n; i++)
        s.sample[i] = (float)sin(2 * 3.14159265358979323846 * hz * (double)i / rate);
    return s;
}

/* A tone that both rates hold stays itself; one that the new rate cannot hold is gone. */
static void test_resample(void **state)
{
    (void)state;
    static const int rates[] = {8000, 11025, 22050, 44100, 48000, 96000};
    for (size_t r = 0; r < sizeof rates / sizeof *rates; r++) {
        ap_sound s = sine(1000, rates[r], (size_t)rates[r]), to, want = sine(1000, 16000, 16000);
        assert_int_equal(ap_sound_resample(&s, 16000, &to, &diag), APUS_OK);
        assert_true(to.n == 16000 && to.rate == 16000);
        for (size_t i = 200; i < 15800; i++)
            if (fabs(to.sample[i] - want.sample[i]) > 2e-4)
                fail_msg("%d: sample %zu is %g, expected %g", rates[r], i, to.sample[i],
                         want.sample[i]);
        ap_sound_clear(&s);
        ap_sound_clear(&to);
        ap_sound_clear(&want);
    }
    ap_sound s = sine(12000, 48000, 48000), to;
    assert_int_equal(ap_sound_resample(&s, 16000, &to, &diag), APUS_OK);
    for (size_t i = 200; i < 15800; i++) assert_true(fabsf(to.sample[i]) < 1e-4f);
    ap_sound_clear(&s);
    ap_sound_clear(&to);
}

/* Counts of the specification: 1 s and 30 s. A tone has its energy where it belongs. */
static void test_mel(void **state)
{
    (void)state;
    ap_media_settings set;
    ap_patches p;
    ap_media_settings_default(AP_MEDIA_GEMMA, &set);
    static const size_t cases[][4] = {{16000, 99, 99, 25},
                                      {480000, 2999, 2999, 750},
                                      {600000, 2999, 2999, 750},
                                      {1600, 9, 10, 3}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ap_sound s = sine(1000, 16000, cases[i][0]);
        if (ap_prepare_sound(&set, &s, "s", &p, &diag)) fail_msg("%s", diag.text);
        assert_true(p.n == cases[i][1] && p.padded == cases[i][2] && p.soft_tokens == cases[i][3]);
        assert_true(p.width == 128 && !p.pos);
        size_t best = 0;
        for (size_t k = 0; k < 128; k++)
            if (p.values[5 * 128 + k] > p.values[5 * 128 + best]) best = k;
        assert_true(best >= 43 && best <= 45); /* 1000 mel of 2840, in 129 steps */
        assert_true(fabs(p.values[5 * 128 + 127] - log(1e-3)) < 0.5);
        ap_patches_clear(&p);
        ap_sound_clear(&s);
    }
    ap_sound s = sine(1000, 16000, 100);
    assert_int_equal(ap_prepare_sound(&set, &s, "s", &p, &diag), APUS_EUNSUPPORTED);
    ap_media_settings_default(AP_MEDIA_QWEN, &set);
    assert_int_equal(ap_prepare_sound(&set, &s, "s", &p, &diag), APUS_EUNSUPPORTED);
    assert_non_null(strstr(diag.text, "does not hear"));
    ap_sound_clear(&s);
}

static void check(const golden *g)
{
    ap_media_settings set;
    ap_patches p;
    if (!strstr(g->file, ".wav")) return; /* test_prepare.c */
    ap_sound s = read_sound(g->file);
    ap_media_settings_default(AP_MEDIA_EMBEDDER, &set);
    assert_int_equal(ap_prepare_sound(&set, &s, g->file, &p, &diag), APUS_OK);
    assert_true(p.n == g->rows && p.width == g->width && p.soft_tokens == g->tokens);
    assert_int_equal(crc32_of(p.values, p.n * p.width * sizeof *p.values, 0), g->crc);
    ap_patches_clear(&p);
    ap_sound_clear(&s);
}

static void test_goldens(void **state)
{
    (void)state;
    assert_int_equal(each_golden("embedder", check), 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wav),      cmocka_unit_test(test_wav_refused),
        cmocka_unit_test(test_packed),   cmocka_unit_test(test_packed_refused),
        cmocka_unit_test(test_resample), cmocka_unit_test(test_mel),
        cmocka_unit_test(test_goldens)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
