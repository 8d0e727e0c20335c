/* source.h - the bytes of a file with media, and how much of it is taken. */
#ifndef AP_MEDIA_SOURCE_H
#define AP_MEDIA_SOURCE_H

#include "base/err.h"

/* Bounds against files that unpack to far more than they are. */
typedef struct ap_media_limits {
    size_t bytes;         /* of a file */
    uint64_t pixels;      /* of a picture or frame */
    uint64_t film_pixels; /* of all frames of a film together */
    int frames;           /* of a film */
    uint64_t samples;     /* of a sound, all channels together */
} ap_media_limits;

/* 256 MiB, 100 million pixels, 4 billion pixels, 20,000 frames, 200 million samples. */
ap_media_limits ap_media_limits_default(void);

typedef struct ap_source {
    const char *name;    /* of the file, for sentences */
    const uint8_t *data; /* borrowed */
    size_t len;
    ap_media_limits limits;
} ap_source;

/* The bytes of a file; ap_source_close it. EFILE; EUNSUPPORTED: more than limits->bytes. */
apus_err ap_source_open(const char *path, const ap_media_limits *limits, ap_source *out,
                        apus_diag *diag);
void ap_source_close(ap_source *s);

#endif
