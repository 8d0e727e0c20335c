#include "media/film.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "media/formats.h"

/* All frames together: each is decoded, even those that are not looked at. */
static apus_err allow(const ap_film *f, const char *name, const ap_media_limits *limits,
                      apus_diag *diag)
{
    uint64_t pixels = (uint64_t)f->width * (uint64_t)f->height;
    if (f->n_frames <= limits->frames && pixels * (uint64_t)f->n_frames <= limits->film_pixels)
        return APUS_OK;
    return ap_fail(
        diag, APUS_EUNSUPPORTED,
        "%s: %d frames of %d x %d pixels, at most %d frames and %llu pixels are read: make it "
        "shorter or smaller",
        name, f->n_frames, f->width, f->height, limits->frames,
        (unsigned long long)limits->film_pixels);
}

apus_err ap_film_open(const ap_source *src, ap_film *out, apus_diag *diag)
{
    const ap_decoder *decoder = NULL;
    memset(out, 0, sizeof *out);
    apus_err err = ap_decoder_find(src, &decoder, diag);
    if (!err && decoder->film) err = decoder->film(src, out, diag);
    if (err) {
        memset(out, 0, sizeof *out);
        return err;
    }
    if (!out->n_frames) return APUS_OK;
    err = allow(out, src->name, &src->limits, diag);
    if (err) ap_film_close(out);
    return err;
}

apus_err ap_film_next(ap_film *f, ap_picture *frame, apus_diag *diag)
{
    return f->op->next(f, frame, diag);
}

void ap_film_close(ap_film *f)
{
    if (f->op) f->op->close(f);
    memset(f, 0, sizeof *f);
}

/* ---------------------------------------------------------------- a folder of pictures */

typedef struct folder {
    char *path;
    char **name;
    int n, cap, at;
    ap_media_limits limits;
} folder;

static void close_folder(ap_film *f)
{
    folder *d = f->state;
    for (int i = 0; i < d->n; i++) ap_free(d->name[i]);
    ap_free(d->name);
    ap_free(d->path);
    ap_free(d);
}

static apus_err read_at(const folder *d, int i, ap_picture *out, apus_diag *diag)
{
    ap_source src;
    char *path = ap_path_join(d->path, d->name[i]);
    if (!path) return ap_fail_nomem(diag, strlen(d->path), "a path");
    apus_err err = ap_source_open(path, &d->limits, &src, diag);
    if (!err) {
        err = ap_picture_decode(&src, out, diag);
        ap_source_close(&src);
    }
    ap_free(path);
    return err;
}

static apus_err next_picture(ap_film *f, ap_picture *frame, apus_diag *diag)
{
    folder *d = f->state;
    ap_picture p;
    apus_err err = read_at(d, d->at, &p, diag);
    if (err) return err;
    if (p.width != f->width || p.height != f->height)
        err = ap_fail(diag, APUS_EFORMAT,
                      "%s/%s: %d x %d pixels, the film's first picture has %d x %d", d->path,
                      d->name[d->at], p.width, p.height, f->width, f->height);
    else
        memcpy(frame->rgb, p.rgb, 3 * (size_t)p.width * (size_t)p.height);
    d->at++;
    ap_picture_clear(&p);
    return err;
}

static const ap_film_ops folder_ops = {next_picture, close_folder};

static apus_err add_name(folder *d, const char *name, apus_diag *diag)
{
    if (name[0] == '.') return APUS_OK;
    if (d->n >= d->limits.frames)
        return ap_fail(diag, APUS_EUNSUPPORTED, "%s: more than %d pictures", d->path,
                       d->limits.frames);
    if (d->n == d->cap) {
        int cap = d->cap ? 2 * d->cap : 64;
        char **more = ap_realloc(d->name, (size_t)cap, sizeof *more);
        if (!more) return ap_fail_nomem(diag, (size_t)cap * sizeof *more, "names of pictures");
        d->name = more;
        d->cap = cap;
    }
    if (!(d->name[d->n] = ap_strdup(name)))
        return ap_fail_nomem(diag, strlen(name), "names of pictures");
    d->n++;
    return APUS_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static apus_err list(folder *d, apus_diag *diag)
{
    apus_err err = APUS_OK;
    DIR *dir = opendir(d->path);
    if (!dir) return ap_fail(diag, APUS_EFILE, "%s: cannot be read", d->path);
    for (struct dirent *e; !err && (e = readdir(dir));) err = add_name(d, e->d_name, diag);
    closedir(dir);
    if (!err && !d->n) err = ap_fail(diag, APUS_EFILE, "%s: no pictures in it", d->path);
    if (!err) qsort(d->name, (size_t)d->n, sizeof *d->name, by_name);
    return err;
}

apus_err ap_film_open_folder(const char *path, const ap_media_limits *limits, ap_film *out,
                             apus_diag *diag)
{
    ap_picture first = {0};
    memset(out, 0, sizeof *out);
    folder *d = ap_calloc(1, sizeof *d);
    if (!d) return ap_fail_nomem(diag, sizeof *d, "a film");
    *out = (ap_film){.op = &folder_ops, .state = d};
    d->limits = *limits;
    d->path = ap_strdup(path);
    apus_err err = d->path ? list(d, diag) : ap_fail_nomem(diag, strlen(path), "a path");
    if (!err) err = read_at(d, 0, &first, diag);
    out->width = first.width;
    out->height = first.height;
    out->n_frames = d->n;
    ap_picture_clear(&first);
    if (!err) err = allow(out, path, limits, diag);
    if (err) ap_film_close(out);
    return err;
}
