#include "media/picture.h"

#include <string.h>

#include "base/mem.h"
#include "media/formats.h"

apus_err ap_picture_create(int width, int height, ap_picture *out, apus_diag *diag)
{
    size_t row = 3 * (size_t)width;
    *out = (ap_picture){ap_malloc((size_t)height, row), width, height};
    return out->rgb ? APUS_OK : ap_fail_nomem(diag, row * (size_t)height, "a picture");
}

void ap_picture_clear(ap_picture *p)
{
    ap_free(p->rgb);
    memset(p, 0, sizeof *p);
}

apus_err ap_picture_allow(const ap_source *src, uint64_t width, uint64_t height, apus_diag *diag)
{
    if (width < 1 || height < 1)
        return ap_fail(diag, APUS_EFORMAT, "%s: a picture of %llu x %llu pixels", src->name,
                       (unsigned long long)width, (unsigned long long)height);
    if (width > AP_PICTURE_MAX_SIDE || height > AP_PICTURE_MAX_SIDE ||
        width * height > src->limits.pixels)
        return ap_fail(
            diag, APUS_EUNSUPPORTED,
            "%s: a picture of %llu x %llu pixels, at most %llu pixels and %d on a side are "
            "read: make it smaller",
            src->name, (unsigned long long)width, (unsigned long long)height,
            (unsigned long long)src->limits.pixels, AP_PICTURE_MAX_SIDE);
    return APUS_OK;
}

void ap_over_white(const uint8_t *rgba, size_t n, uint8_t *rgb)
{
    for (size_t i = 0; i < n; i++, rgba += 4, rgb += 3) {
        unsigned a = rgba[3];
        for (int c = 0; c < 3; c++) rgb[c] = (uint8_t)ap_div255(rgba[c] * a + 255 * (255 - a));
    }
}

apus_err ap_decoder_find(const ap_source *src, const ap_decoder **out, apus_diag *diag)
{
    static const ap_decoder *const all[] = {&ap_decoder_jpeg, &ap_decoder_png, &ap_decoder_webp,
                                            &ap_decoder_gif};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (!all[i]->is(src->data, src->len)) continue;
        *out = all[i];
        return APUS_OK;
    }
    return ap_fail(diag, APUS_EFORMAT, "%s: expected a JPEG, PNG, WebP or GIF picture, found %s",
                   src->name, src->len ? "something else" : "an empty file");
}

apus_err ap_picture_decode(const ap_source *src, ap_picture *out, apus_diag *diag)
{
    const ap_decoder *decoder = NULL;
    int orientation = 1;
    apus_err err = ap_decoder_find(src, &decoder, diag);
    memset(out, 0, sizeof *out);
    if (!err) err = decoder->picture(src, out, &orientation, diag);
    if (!err) err = ap_picture_turn(out, orientation, diag);
    if (err) ap_picture_clear(out);
    return err;
}
