/* WebP by libwebp; animations by its own player, which Pillow uses too. */
#include <string.h>

#include <webp/decode.h>
#include <webp/demux.h>

#include "base/mem.h"
#include "media/formats.h"

static bool is_webp(const uint8_t *data, size_t len)
{
    return len >= 12 && !memcmp(data, "RIFF", 4) && !memcmp(data + 8, "WEBP", 4);
}

static apus_err damaged(const ap_source *src, VP8StatusCode code, apus_diag *diag)
{
    if (code == VP8_STATUS_OUT_OF_MEMORY)
        return ap_fail(diag, APUS_ENOMEM, "%s: out of memory", src->name);
    if (code == VP8_STATUS_NOT_ENOUGH_DATA || code == VP8_STATUS_SUSPENDED)
        return ap_fail(diag, APUS_EFORMAT, "%s: the WebP data are cut short", src->name);
    return ap_fail(diag, APUS_EFORMAT, "%s: not a WebP that can be read: damaged data", src->name);
}

static int orientation_of(const ap_source *src)
{
    WebPData data = {src->data, src->len};
    WebPDemuxer *d = WebPDemux(&data);
    WebPChunkIterator chunk;
    int orientation = 1;
    if (d && WebPDemuxGetChunk(d, "EXIF", 1, &chunk)) {
        orientation = ap_exif_orientation(chunk.chunk.bytes, chunk.chunk.size);
        WebPDemuxReleaseChunkIterator(&chunk);
    }
    WebPDemuxDelete(d);
    return orientation;
}

/* ---------------------------------------------------------------- animations */

typedef struct player {
    WebPAnimDecoder *decoder;
    bool alpha;
} player;

static apus_err next_frame(ap_film *f, ap_picture *frame, apus_diag *diag)
{
    const player *p = f->state;
    size_t n = (size_t)f->width * (size_t)f->height;
    uint8_t *rgba;
    int end_ms;
    if (!WebPAnimDecoderGetNext(p->decoder, &rgba, &end_ms))
        return damaged(f->src, VP8_STATUS_BITSTREAM_ERROR, diag);
    if (p->alpha)
        ap_over_white(rgba, n, frame->rgb);
    else
        for (size_t i = 0; i < n; i++) memcpy(frame->rgb + 3 * i, rgba + 4 * i, 3);
    return APUS_OK;
}

static void close_film(ap_film *f)
{
    player *p = f->state;
    WebPAnimDecoderDelete(p->decoder);
    ap_free(p);
}

static const ap_film_ops film_ops = {next_frame, close_film};

/* Size, count and duration: no pixels are decoded. */
static apus_err survey(const ap_source *src, ap_film *out, bool *alpha, apus_diag *diag)
{
    WebPData data = {src->data, src->len};
    WebPDemuxer *d = WebPDemux(&data);
    WebPIterator it;
    ap_pace pace = {0};
    if (!d) return damaged(src, VP8_STATUS_NOT_ENOUGH_DATA, diag);
    uint32_t width = WebPDemuxGetI(d, WEBP_FF_CANVAS_WIDTH);
    uint32_t height = WebPDemuxGetI(d, WEBP_FF_CANVAS_HEIGHT);
    uint32_t n = WebPDemuxGetI(d, WEBP_FF_FRAME_COUNT);
    *alpha = WebPDemuxGetI(d, WEBP_FF_FORMAT_FLAGS) & ALPHA_FLAG;
    if (WebPDemuxGetFrame(d, 1, &it)) {
        do ap_pace_add(&pace, it.duration);
        while (WebPDemuxNextFrame(&it));
        WebPDemuxReleaseIterator(&it);
    }
    WebPDemuxDelete(d);
    out->width = (int)width;
    out->height = (int)height;
    out->n_frames = (int)n;
    out->fps = ap_pace_fps(&pace);
    if (n > (uint32_t)src->limits.frames)
        return ap_fail(diag, APUS_EUNSUPPORTED, "%s: %u frames, at most %d are read", src->name, n,
                       src->limits.frames);
    return ap_picture_allow(src, width, height, diag);
}

static apus_err play(const ap_source *src, ap_film *out, bool alpha, apus_diag *diag)
{
    WebPData data = {src->data, src->len};
    WebPAnimDecoderOptions options;
    player *p = ap_calloc(1, sizeof *p);
    if (!p) return ap_fail_nomem(diag, sizeof *p, "a WebP decoder");
    WebPAnimDecoderOptionsInit(&options);
    options.color_mode = MODE_RGBA;
    p->alpha = alpha;
    p->decoder = WebPAnimDecoderNew(&data, &options);
    if (!p->decoder) {
        ap_free(p);
        return damaged(src, VP8_STATUS_BITSTREAM_ERROR, diag);
    }
    out->state = p;
    out->op = &film_ops;
    out->src = src;
    return APUS_OK;
}

static apus_err open_film(const ap_source *src, ap_film *out, apus_diag *diag)
{
    WebPBitstreamFeatures features;
    bool alpha;
    VP8StatusCode code = WebPGetFeatures(src->data, src->len, &features);
    if (code) return damaged(src, code, diag);
    if (!features.has_animation) return APUS_OK;
    apus_err err = survey(src, out, &alpha, diag);
    if (err || out->n_frames < 2) {
        out->n_frames = 0;
        return err;
    }
    return play(src, out, alpha, diag);
}

/* ---------------------------------------------------------------- pictures */

/* An animation's first frame. */
static apus_err first_frame(const ap_source *src, ap_picture *out, apus_diag *diag)
{
    ap_film film = {0};
    bool alpha;
    apus_err err = survey(src, &film, &alpha, diag);
    if (!err && film.n_frames < 1) err = damaged(src, VP8_STATUS_NOT_ENOUGH_DATA, diag);
    if (!err) err = ap_picture_create(film.width, film.height, out, diag);
    if (!err) err = play(src, &film, alpha, diag);
    if (err) return err;
    err = next_frame(&film, out, diag);
    close_film(&film);
    return err;
}

static apus_err still(const ap_source *src, const WebPBitstreamFeatures *features, ap_picture *out,
                      apus_diag *diag)
{
    WebPDecoderConfig config;
    size_t n = (size_t)features->width * (size_t)features->height,
           size = features->has_alpha ? 4 : 3;
    apus_err err = ap_picture_create(features->width, features->height, out, diag);
    if (err) return err;
    uint8_t *pixels = features->has_alpha ? ap_malloc(n, 4) : out->rgb;
    if (!pixels) return ap_fail_nomem(diag, 4 * n, "a picture");
    WebPInitDecoderConfig(&config);
    config.output.colorspace = features->has_alpha ? MODE_RGBA : MODE_RGB;
    config.output.is_external_memory = 1;
    config.output.u.RGBA.rgba = pixels;
    config.output.u.RGBA.stride = (int)(size * (size_t)features->width);
    config.output.u.RGBA.size = n * size;
    VP8StatusCode code = WebPDecode(src->data, src->len, &config);
    if (code) err = damaged(src, code, diag);
    if (!features->has_alpha) return err;
    if (!err) ap_over_white(pixels, n, out->rgb);
    ap_free(pixels);
    return err;
}

static apus_err read_webp(const ap_source *src, ap_picture *out, int *orientation, apus_diag *diag)
{
    WebPBitstreamFeatures features;
    VP8StatusCode code = WebPGetFeatures(src->data, src->len, &features);
    if (code) return damaged(src, code, diag);
    apus_err err = ap_picture_allow(src, (uint64_t)features.width, (uint64_t)features.height, diag);
    if (err) return err;
    *orientation = orientation_of(src);
    return features.has_animation ? first_frame(src, out, diag) : still(src, &features, out, diag);
}

const ap_decoder ap_decoder_webp = {"WebP", is_webp, read_webp, open_film};
