/* picture.h - a decoded picture, and files and bytes that hold one. */
#ifndef AP_MEDIA_PICTURE_H
#define AP_MEDIA_PICTURE_H

#include "media/source.h"

#define AP_PICTURE_MAX_SIDE 65535

/* 8-bit RGB, rows from the top, without gaps. */
typedef struct ap_picture {
    uint8_t *rgb; /* [height][width][3] */
    int width, height;
} ap_picture;

/* Room for a picture, its pixels not set. 1 <= width, height <= AP_PICTURE_MAX_SIDE. ENOMEM. */
apus_err ap_picture_create(int width, int height, ap_picture *out, apus_diag *diag);
/* Frees what p holds and zeroes it; a zeroed one may be cleared. */
void ap_picture_clear(ap_picture *p);

/* The picture in a JPEG, PNG, WebP or GIF file (of an animation the first frame), turned upright as its EXIF
 * data says, in the integers that Pillow gives the reference: grey, palettes, CMYK and 16 bits become 8-bit
 * RGB, what is transparent is laid over white, colour profiles are not applied.
 *   out   ap_picture_clear it
 * Any number of threads. EFORMAT: none of these formats, damaged or cut short; EUNSUPPORTED: a kind of them
 * that is not read, or beyond src->limits (nothing was allocated for its pixels then); ENOMEM. */
apus_err ap_picture_decode(const ap_source *src, ap_picture *out, apus_diag *diag);

#endif
