/* apng.h - animated PNG. */
#ifndef AP_MEDIA_APNG_H
#define AP_MEDIA_APNG_H

#include "media/film.h"

/* As ap_decoder's film. */
apus_err ap_apng_open(const ap_source *src, ap_film *out, apus_diag *diag);

/* A PNG as RGBA, 8 bits each (ap_free it). Errors as ap_picture_decode. */
apus_err ap_png_rgba(const ap_source *src, uint8_t **rgba, int *width, int *height,
                     apus_diag *diag);

#endif
