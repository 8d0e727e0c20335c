/* formats.h - between ap_picture_decode, films and the formats. */
#ifndef AP_MEDIA_FORMATS_H
#define AP_MEDIA_FORMATS_H

#include <stdbool.h>

#include "media/film.h"
#include "media/picture.h"

/* One format. */
typedef struct ap_decoder {
    const char *name;
    bool (*is)(const uint8_t *data, size_t len); /* do these bytes begin like it? */
    /* The picture as stored, and the EXIF orientation beside it (1 .. 8; 1 = upright). */
    apus_err (*picture)(const ap_source *src, ap_picture *out, int *orientation, apus_diag *diag);
    /* Sets out's fields if there are several frames, else leaves out->n_frames 0. NULL: always one picture. */
    apus_err (*film)(const ap_source *src, ap_film *out, apus_diag *diag);
} ap_decoder;

extern const ap_decoder ap_decoder_jpeg, ap_decoder_png, ap_decoder_webp, ap_decoder_gif;

/* The decoder of a source. EFORMAT: none. */
apus_err ap_decoder_find(const ap_source *src, const ap_decoder **out, apus_diag *diag);

/* May a picture of this size be decoded? Fails before anything is allocated for it. */
apus_err ap_picture_allow(const ap_source *src, uint64_t width, uint64_t height, apus_diag *diag);

/* The orientation in EXIF data (TIFF, with or without the "Exif" head); 1 if there is none or it is odd. */
int ap_exif_orientation(const uint8_t *exif, size_t len);

/* Turns p upright. ENOMEM (p stays). */
apus_err ap_picture_turn(ap_picture *p, int orientation, apus_diag *diag);

/* n pixels of RGBA over white. */
void ap_over_white(const uint8_t *rgba, size_t n, uint8_t *rgb);

/* Durations of frames in ms. If all are the same, the rate is exactly theirs. */
typedef struct ap_pace {
    double first, sum;
    int n;
    bool varies;
} ap_pace;

static inline void ap_pace_add(ap_pace *p, double ms)
{
    if (p->n++ == 0) p->first = ms;
    p->varies |= ms != p->first;
    p->sum += ms;
}

/* Frames per second; 0 if no frame lasts. */
static inline double ap_pace_fps(const ap_pace *p)
{
    if (!(p->sum > 0)) return 0;
    return p->varies ? p->n / (p->sum / 1000) : 1000 / p->first;
}

/* x / 255 rounded, 0 <= x <= 255 * 255: how Pillow multiplies bytes. */
static inline unsigned ap_div255(unsigned x)
{
    x += 128;
    return (x + (x >> 8)) >> 8;
}

#endif
