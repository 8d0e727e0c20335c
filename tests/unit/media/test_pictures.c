/* Pictures and films against Pillow; what must be refused. */
#include "media_util.h"

#include "base/mem.h"
#include "media/film.h"
#include "media/formats.h"
#include "media/resize.h"
#include "torture.h"

static void check_pixels(const golden *g)
{
    ap_source src = source_of(g->file);
    ap_picture p;
    if (ap_picture_decode(&src, &p, &diag)) fail_msg("%s", diag.text);
    if ((size_t)p.width != g->parts || (size_t)p.height != g->rows ||
        crc32_of(p.rgb, 3 * g->parts * g->rows, 0) != g->crc)
        fail_msg("%s: %d x %d, other pixels than Pillow", g->file, p.width, p.height);
    ap_picture_clear(&p);
    ap_source_close(&src);
}

static void test_pixels(void **state)
{
    (void)state;
    assert_int_equal(each_golden("pixels", check_pixels), 37);
}

/* ---------------------------------------------------------------- refusals */

static void refused(const char *file, apus_err code, const char *says)
{
    ap_source src = source_of(file);
    ap_picture p;
    memset(&diag, 0, sizeof diag);
    assert_int_equal(ap_picture_decode(&src, &p, &diag), code);
    assert_null(p.rgb);
    if (!strstr(diag.text, says) || !strstr(diag.text, file))
        fail_msg("%s: expected \"%s\", found \"%s\"", file, says, diag.text);
    ap_source_close(&src);
}

static void test_refused(void **state)
{
    (void)state;
    refused("bomb.png", APUS_EUNSUPPORTED, "60000 x 60000 pixels");
    refused("wide.png", APUS_EUNSUPPORTED, "70000 x 1 pixels");
    refused("bomb.gif", APUS_EUNSUPPORTED, "65535 x 65535 pixels");
    refused("cut_rgb.png", APUS_EFORMAT, "cut short");
    refused("cut_rgb.jpg", APUS_EFORMAT, "cut short");
    refused("cut_progressive.jpg", APUS_EFORMAT, "cut short");
    refused("cut_lossy.webp", APUS_EFORMAT, "cut short");
    refused("cut_still.gif", APUS_EFORMAT, "cut short");
    refused("goldens.txt", APUS_EFORMAT, "expected a JPEG, PNG, WebP or GIF");
    refused("sound8.wav", APUS_EFORMAT, "expected a JPEG, PNG, WebP or GIF");
}

/* Any beginning of a file is refused, and none is taken for a whole picture. */
static void test_cut_anywhere(void **state)
{
    (void)state;
    static const char *const files[] = {"rgb.png",    "rgb.jpg",    "progressive.jpg",
                                        "lossy.webp", "alpha.webp", "still.gif"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        ap_source src = source_of(files[i]), part = src;
        /* without PNG's last chunk, JPEG's end marker and GIF's trailer all pixels are there */
        for (part.len = 0; part.len + 16 < src.len; part.len += 1 + part.len / 16) {
            ap_picture p;
            if (!ap_picture_decode(&part, &p, &diag)) fail_msg("%s: %zu bytes", files[i], part.len);
            assert_int_equal(diag.code, APUS_EFORMAT);
        }
        ap_source_close(&src);
    }
}

static void test_limits(void **state)
{
    (void)state;
    static const char *const files[] = {"rgb.png", "rgb.jpg", "lossy.webp", "still.gif"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        ap_source src = source_of(files[i]);
        ap_picture p;
        src.limits.pixels = 53 * 37 - 1;
        assert_int_equal(ap_picture_decode(&src, &p, &diag), APUS_EUNSUPPORTED);
        src.limits.pixels++;
        assert_int_equal(ap_picture_decode(&src, &p, &diag), APUS_OK);
        ap_picture_clear(&p);
        ap_source_close(&src);
    }
    ap_media_limits limits = ap_media_limits_default();
    ap_source src;
    limits.bytes = 100;
    assert_int_not_equal(ap_source_open(DATA "rgb.png", &limits, &src, &diag), APUS_OK);
    assert_int_equal(ap_source_open(DATA "nowhere.png", &limits, &src, &diag), APUS_EFILE);
}

/* ---------------------------------------------------------------- films */

static void check_film(const char *name, int frames, double seconds)
{
    ap_source src = source_of(name);
    ap_film film;
    ap_picture frame, first;
    if (ap_film_open(&src, &film, &diag)) fail_msg("%s", diag.text);
    assert_int_equal(film.n_frames, frames);
    if (!frames) {
        ap_source_close(&src);
        return;
    }
    assert_true(film.width == 24 && film.height == 16);
    assert_true(film.seconds > seconds - 1e-6 && film.seconds < seconds + 1e-6);
    assert_int_equal(ap_picture_create(24, 16, &frame, &diag), APUS_OK);
    assert_int_equal(ap_picture_decode(&src, &first, &diag), APUS_OK);
    for (int i = 0; i < frames; i++) {
        if (ap_film_next(&film, &frame, &diag)) fail_msg("%s: frame %d: %s", name, i, diag.text);
        if (i == 0) assert_memory_equal(frame.rgb, first.rgb, 24 * 16 * 3);
    }
    assert_memory_not_equal(frame.rgb, first.rgb, 24 * 16 * 3);
    ap_picture_clear(&first);
    ap_picture_clear(&frame);
    ap_film_close(&film);
    ap_source_close(&src);
}

static void test_films(void **state)
{
    (void)state;
    check_film("film.gif", 40, 4);
    check_film("film.png", 40, 4);
    check_film("film.webp", 40, 4);
    check_film("rgb.png", 0, 0);
    check_film("rgb.jpg", 0, 0);
    check_film("lossy.webp", 0, 0);
    check_film("still.gif", 0, 0);
}

static void test_film_limits(void **state)
{
    (void)state;
    static const char *const files[] = {"film.gif", "film.png", "film.webp"};
    for (size_t i = 0; i < 3; i++) {
        ap_source src = source_of(files[i]);
        ap_film film;
        src.limits.frames = 39;
        assert_int_equal(ap_film_open(&src, &film, &diag), APUS_EUNSUPPORTED);
        src.limits = ap_media_limits_default();
        src.limits.film_pixels = 40 * 24 * 16 - 1;
        assert_int_equal(ap_film_open(&src, &film, &diag), APUS_EUNSUPPORTED);
        src.limits.film_pixels++;
        assert_int_equal(ap_film_open(&src, &film, &diag), APUS_OK);
        ap_film_close(&film);
        ap_source_close(&src);
    }
}

/* ---------------------------------------------------------------- memory */

static ap_source held; /* read before memory begins to fail */

static apus_err decode_held(void *unused)
{
    (void)unused;
    ap_picture p;
    apus_err err = ap_picture_decode(&held, &p, &diag);
    if (!err) ap_picture_clear(&p);
    return err;
}

static apus_err play_held(void *unused)
{
    (void)unused;
    ap_film film;
    ap_picture frame = {0};
    apus_err err = ap_film_open(&held, &film, &diag);
    if (err) return err;
    err = ap_picture_create(film.width, film.height, &frame, &diag);
    for (int i = 0; i < 3 && !err; i++) err = ap_film_next(&film, &frame, &diag);
    ap_film_close(&film);
    ap_picture_clear(&frame);
    return err;
}

static void test_torture(void **state)
{
    (void)state;
    static const char *const files[] = {"rgb.png",    "alpha.png",   "interlaced_alpha.png",
                                        "cmyk.jpg",   "turned6.jpg", "rgb.jpg",
                                        "alpha.webp", "still.gif"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        held = source_of(files[i]);
        if (torture(decode_held, NULL) < 1) fail_msg("%s", files[i]);
        ap_source_close(&held);
    }
    static const char *const films[] = {"film.png", "film.gif", "film.webp"};
    for (size_t i = 0; i < sizeof films / sizeof *films; i++) {
        held = source_of(films[i]);
        if (torture(play_held, NULL) < 1) fail_msg("%s", films[i]);
        ap_source_close(&held);
    }
}

/* ---------------------------------------------------------------- EXIF, resizing */

static void test_exif(void **state)
{
    (void)state;
    /* big-endian, LONG, behind the head; then what is not one */
    uint8_t exif[] = "Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\4\0\0\0\1\0\0\0\6\0\0\0\0";
    assert_int_equal(ap_exif_orientation(exif, sizeof exif - 1), 6);
    assert_int_equal(ap_exif_orientation(exif + 6, sizeof exif - 7), 6);
    for (size_t n = 0; n < 6 + 8 + 2 + 12; n++) assert_int_equal(ap_exif_orientation(exif, n), 1);
    exif[6 + 8 + 2 + 11] = 9;
    assert_int_equal(ap_exif_orientation(exif, sizeof exif - 1), 1);
    exif[6 + 4] = 0xFF; /* a directory beyond the end */
    assert_int_equal(ap_exif_orientation(exif, sizeof exif - 1), 1);
}

static void test_resize(void **state)
{
    (void)state;
    ap_picture src, out;
    assert_int_equal(ap_picture_create(7, 5, &src, &diag), APUS_OK);
    memset(src.rgb, 77, 7 * 5 * 3);
    static const int sizes[][2] = {{1, 1}, {7, 5}, {64, 3}, {3, 64}, {200, 300}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) { /* one colour stays one colour */
        assert_int_equal(ap_picture_resize(&src, sizes[i][0], sizes[i][1], &out, &diag), APUS_OK);
        for (int k = 0; k < out.width * out.height * 3; k++) assert_int_equal(out.rgb[k], 77);
        ap_picture_clear(&out);
    }
    for (int k = 0; k < 7 * 5 * 3; k++) src.rgb[k] = (uint8_t)(k * 37);
    assert_int_equal(ap_picture_resize(&src, 7, 5, &out, &diag), APUS_OK);
    assert_memory_equal(src.rgb, out.rgb, 7 * 5 * 3);
    ap_picture_clear(&out);
    ap_picture_clear(&src);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pixels),       cmocka_unit_test(test_refused),
        cmocka_unit_test(test_cut_anywhere), cmocka_unit_test(test_limits),
        cmocka_unit_test(test_films),        cmocka_unit_test(test_film_limits),
        cmocka_unit_test(test_torture),      cmocka_unit_test(test_exif),
        cmocka_unit_test(test_resize)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
