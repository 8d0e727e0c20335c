/* Bytes of one format (AP_FUZZ_FORMAT) as a picture and as a film: what is decoded lies within the limits,
 * what is not is told. */
#include <stdlib.h>
#include <string.h>

#include "../fuzz.h"
#include "media/film.h"
#include "media/formats.h"

enum { MAX_PIXELS = 1 << 18, MAX_FRAMES = 16 };

static void require(bool ok)
{
    if (!ok) abort();
}

static void failed(apus_err err, const apus_diag *d)
{
    require(d->code == err && d->text[0] && err != APUS_EINTERNAL && err != APUS_EINVAL);
}

static void picture(const ap_source *src)
{
    apus_diag d = {0};
    ap_picture p;
    apus_err err = ap_picture_decode(src, &p, &d);
    if (err) {
        failed(err, &d);
        require(!p.rgb);
        return;
    }
    require(p.width > 0 && p.height > 0 && (uint64_t)p.width * (uint64_t)p.height <= MAX_PIXELS);
    ap_picture_clear(&p);
}

static void film(const ap_source *src)
{
    apus_diag d = {0};
    ap_film f;
    ap_picture frame = {0};
    apus_err err = ap_film_open(src, &f, &d);
    if (err) failed(err, &d);
    if (err || !f.n_frames) return;
    require(f.n_frames <= MAX_FRAMES && f.width > 0 && f.height > 0 && f.fps >= 0);
    require((uint64_t)f.width * (uint64_t)f.height <= MAX_PIXELS);
    err = ap_picture_create(f.width, f.height, &frame, &d);
    for (int i = 0; i < f.n_frames && !err; i++) err = ap_film_next(&f, &frame, &d);
    if (err) failed(err, &d);
    ap_picture_clear(&frame);
    ap_film_close(&f);
}

static void both(const uint8_t *data, size_t size)
{
    ap_source src = {"fuzz", data, size, ap_media_limits_default()};
    src.limits.pixels = MAX_PIXELS;
    src.limits.frames = MAX_FRAMES;
    picture(&src);
    film(&src);
}

#ifdef AP_FUZZ_PNG
static uint32_t number(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Make the sums of a PNG's chunks right, or little of what is changed in one would be looked at. */
static void repair(uint8_t *data, size_t size)
{
    for (size_t at = 8; size - at >= 12 && number(data + at) <= size - at - 12;) {
        size_t n = number(data + at) + 4;
        uint32_t crc = ~0u;
        for (size_t i = 0; i < n; i++) {
            crc ^= data[at + 4 + i];
            for (int b = 0; b < 8; b++) crc = crc >> 1 ^ (0xEDB88320u & -(crc & 1));
        }
        for (int i = 0; i < 4; i++) data[at + 4 + n + (size_t)i] = (uint8_t)(~crc >> (24 - 8 * i));
        at += n + 8;
    }
}
#endif

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const ap_decoder *format = &AP_FUZZ_FORMAT;
    if (!format->is(data, size)) return 0;
    both(data, size);
#ifdef AP_FUZZ_PNG
    uint8_t *right = malloc(size);
    require(right != NULL);
    memcpy(right, data, size);
    repair(right, size);
    both(right, size);
    free(right);
#endif
    return 0;
}
