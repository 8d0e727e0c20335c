#include "media/media_settings.h"

#include <string.h>

bool ap_media_is_budget(int64_t n)
{
    return n == 70 || n == 140 || n == 280 || n == 560 || n == 1120;
}

static void gemma(ap_media_settings *s)
{
    s->picture = (ap_vision_settings){.patch = 16,
                                      .merge = 3,
                                      .resize = true,
                                      .rescale = true,
                                      .factor = 1.0 / 255,
                                      .std = {1, 1, 1},
                                      .soft_tokens = 280,
                                      .temporal = 1};
    s->video = s->picture;
    s->video.soft_tokens = 70;
    s->video.normalize = true;
    s->video.sample = true;
    s->video.frames = 32;
    s->sound = (ap_sound_settings){.rate = 16000,
                                   .max_samples = 480000,
                                   .features = 128,
                                   .window = 320,
                                   .hop = 160,
                                   .fft = 512,
                                   .high = 8000,
                                   .floor = 1e-3,
                                   .scale = 1};
}

static void qwen(ap_media_settings *s)
{
    s->picture = (ap_vision_settings){.patch = 16,
                                      .merge = 2,
                                      .resize = true,
                                      .rescale = true,
                                      .normalize = true,
                                      .factor = 1.0 / 255,
                                      .mean = {0.5, 0.5, 0.5},
                                      .std = {0.5, 0.5, 0.5},
                                      .temporal = 2,
                                      .min_pixels = 65536,
                                      .max_pixels = 16777216};
    s->video = s->picture;
    s->video.min_pixels = 4096;
    s->video.max_pixels = 25165824;
    s->video.sample = true;
    s->video.fps = 2;
    s->video.min_frames = 4;
    s->video.max_frames = 768;
    s->video.max_frame_tokens = 768;
}

void ap_media_settings_default(ap_media_kind kind, ap_media_settings *out)
{
    memset(out, 0, sizeof *out);
    out->kind = kind;
    if (kind == AP_MEDIA_QWEN)
        qwen(out);
    else
        gemma(out);
    if (kind == AP_MEDIA_EMBEDDER)
        out->sound = (ap_sound_settings){.rate = 16000, .features = 640, .scale = 1};
}
