/* film.h - frames one after the other: animations, and folders of pictures. */
#ifndef AP_MEDIA_FILM_H
#define AP_MEDIA_FILM_H

#include "media/picture.h"

typedef struct ap_film ap_film;

typedef struct ap_film_ops {
    /* The next frame into `frame`, which has the film's size. Called at most n_frames times. */
    apus_err (*next)(ap_film *f, ap_picture *frame, apus_diag *diag);
    void (*close)(ap_film *f); /* frees f->state */
} ap_film_ops;

struct ap_film {
    int width, height, n_frames;
    double fps; /* frames a second, on average; 0 = not known */
    const ap_film_ops *op;
    const ap_source *src; /* borrowed; must outlive the film */
    void *state;
};

/* The frames of an animated GIF, PNG or WebP. out->n_frames = 0: it is a still picture (nothing to close).
 * Errors as ap_picture_decode; also EUNSUPPORTED: too many frames. */
apus_err ap_film_open(const ap_source *src, ap_film *out, apus_diag *diag);

/* The pictures of a folder in the order of their names, which must have one size. EFILE, and as
 * ap_film_open. */
apus_err ap_film_open_folder(const char *path, const ap_media_limits *limits, ap_film *out,
                             apus_diag *diag);

/* The next frame into `frame` (made by ap_picture_create with the film's size). EFORMAT, ENOMEM. */
apus_err ap_film_next(ap_film *f, ap_picture *frame, apus_diag *diag);
void ap_film_close(ap_film *f); /* a zeroed one may be closed */

#endif
