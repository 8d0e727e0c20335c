/* processor_config.json, preprocessor_config.json and video_preprocessor_config.json, parted by zero bytes, and a
 * small picture and film prepared with what they say. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../fuzz.h"
#include "file/media_config.h"
#include "media/prepare.h"

static void require(bool ok)
{
    if (!ok) abort();
}

static apus_err next_frame(ap_film *f, ap_picture *frame, apus_diag *d)
{
    (void)d;
    memset(frame->rgb, 9, 3 * (size_t)f->width * (size_t)f->height);
    return APUS_OK;
}

static void close_film(ap_film *f)
{
    (void)f;
}

static void check(const ap_patches *p)
{
    require(p->n > 0 && p->padded >= p->n && p->width > 0 && p->values);
}

static void prepare(const ap_media_settings *s)
{
    static const ap_film_ops ops = {next_frame, close_film};
    static uint8_t pixels[6 * 4 * 3];
    ap_picture picture = {pixels, 6, 4};
    ap_film film = {.width = 6, .height = 4, .n_frames = 5, .fps = 5, .op = &ops};
    apus_diag d = {0};
    ap_patches p;
    ap_clip c;
    if (!ap_prepare_picture(s, &picture, "picture", 0, &p, &d)) {
        check(&p);
        ap_patches_clear(&p);
    }
    if (!ap_prepare_film(s, &film, "film", 0, &c, &d)) {
        for (size_t i = 0; i < c.n; i++) check(&c.part[i]);
        ap_clip_clear(&c);
    }
}

/* What a processor may ask for without making a small picture enormous. */
static bool is_small(const ap_vision_settings *v)
{
    int64_t side = (int64_t)v->merge * v->patch;
    return side <= 256 && v->min_pixels <= 1 << 13 && v->soft_tokens * side * side <= 1 << 18;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ap_media_config_text file[AP_MEDIA_CONFIG_FILES] = {
        {"processor", NULL, 0}, {"preprocessor", NULL, 0}, {"video", NULL, 0}};
    const char *at = (const char *)data, *end = at + size;
    for (int i = 0; i < AP_MEDIA_CONFIG_FILES && at < end; i++) {
        const char *zero = memchr(at, 0, (size_t)(end - at));
        file[i].text = at;
        file[i].len = (size_t)((zero ? zero : end) - at);
        if (!file[i].len) file[i].text = NULL;
        at = zero ? zero + 1 : end;
    }
    for (ap_media_kind kind = AP_MEDIA_GEMMA; kind <= AP_MEDIA_QWEN; kind++) {
        apus_diag d = {0};
        ap_media_settings s;
        apus_err err = ap_media_config_parse(file, kind, &s, &d);
        if (err) {
            require(d.code == err && d.text[0]);
            continue;
        }
        require(s.picture.patch > 0 && s.picture.merge > 0 && s.picture.temporal > 0);
        require(isfinite(s.picture.factor) && s.picture.std[0] > 0);
        if (is_small(&s.picture) && is_small(&s.video)) prepare(&s);
    }
    return 0;
}
