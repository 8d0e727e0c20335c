/* resize.h - bicubic resampling with antialiasing. */
#ifndef AP_MEDIA_RESIZE_H
#define AP_MEDIA_RESIZE_H

#include "media/picture.h"

/* src as width x height pixels in *out (ap_picture_clear it): the cubic of Keys with a = -1/2, widened by the
 * scale when shrinking, columns first, then rows, each pass rounded to 8 bits; weights have 16 bits. The
 * integers are those of PyTorch's interpolate on uint8 with antialias (its CPU kernels), which the reference's
 * processors call. 1 <= width, height <= AP_PICTURE_MAX_SIDE. ENOMEM. */
apus_err ap_picture_resize(const ap_picture *src, int width, int height, ap_picture *out,
                           apus_diag *diag);

#endif
