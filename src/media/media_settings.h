/* media_settings.h - what a model's processor does to pictures, videos and sound, as plain numbers. */
#ifndef AP_MEDIA_MEDIA_SETTINGS_H
#define AP_MEDIA_MEDIA_SETTINGS_H

#include <stdbool.h>
#include <stdint.h>

typedef enum ap_media_kind {
    AP_MEDIA_NONE,     /* text only */
    AP_MEDIA_GEMMA,    /* patches within a budget of soft tokens */
    AP_MEDIA_EMBEDDER, /* the same, merged into blocks for a model without a tower */
    AP_MEDIA_QWEN      /* patches of any number between two bounds of pixels */
} ap_media_kind;

#define AP_MEDIA_MAX_TEMPORAL 8

/* Of pictures, or of the frames of videos. */
typedef struct ap_vision_settings {
    int patch; /* pixels of a patch's side */
    int merge; /* merge x merge patches are one soft token */
    bool resize, rescale, normalize;
    double factor; /* a byte times it is what rescaling makes of it */
    double mean[3], std[3];

    int soft_tokens; /* Gemma: at most, of a picture or frame */

    int temporal;                   /* Qwen: frames of a patch */
    int64_t min_pixels, max_pixels; /* Qwen: after resizing; of a video, all frames together */

    /* of videos */
    bool sample;                /* choose frames; else all are taken */
    int frames;                 /* this many; 0 = by fps */
    double fps;                 /* frames chosen per second; 0 = all */
    int min_frames, max_frames; /* Qwen: whatever fps says */
    bool cap_frames;            /* Qwen: a frame has at most max_frame_tokens soft tokens */
    int max_frame_tokens;
} ap_vision_settings;

typedef struct ap_sound_settings {
    int rate;        /* samples per second */
    int max_samples; /* what is longer is cut off; 0 = all */
    int features;    /* of a row: mel bands, or samples without a tower */
    int window, hop, fft;
    double low, high; /* Hz, of the mel bands */
    double floor;     /* added before the logarithm */
    double scale;     /* of samples */
} ap_sound_settings;

typedef struct ap_media_settings {
    ap_media_kind kind;
    ap_vision_settings picture, video;
    ap_sound_settings sound; /* not of Qwen: features is 0 */
} ap_media_settings;

/* What the released models of a kind have. */
void ap_media_settings_default(ap_media_kind kind, ap_media_settings *out);

/* Is it one of the budgets that Gemma was made for: 70, 140, 280, 560, 1120? */
bool ap_media_is_budget(int64_t soft_tokens);

#endif
