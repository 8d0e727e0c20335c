/* FLAC and AIFF, by libsndfile, which is loaded when it is needed: with it come six libraries
 * more, and Debian has no archive of it for programs that are linked statically. */
#include "media/sound_formats.h"

#ifdef AP_HAVE_SNDFILE

#include <math.h>
#include <sndfile.h>
#include <stdio.h>
#include <string.h>

#include "base/library.h"
#include "base/mem.h"

enum { PIECE = 4096, MAX_CHANNELS = 8 }; /* samples of all channels that are unpacked at once */

/* ---------------------------------------------------------------- the library */

typedef struct library {
    SNDFILE *(*open_virtual)(SF_VIRTUAL_IO *io, int mode, SF_INFO *info, void *ctx);
    sf_count_t (*readf_float)(SNDFILE *f, float *out, sf_count_t frames);
    int (*close)(SNDFILE *f);
} library;

static bool load(library *lib)
{
    ap_library *l = ap_library_load("libsndfile.so.1");
    return l && !ap_library_function(l, "sf_open_virtual", &lib->open_virtual) &&
           !ap_library_function(l, "sf_readf_float", &lib->readf_float) &&
           !ap_library_function(l, "sf_close", &lib->close);
}

/* ---------------------------------------------------------------- a file in memory */

typedef struct place {
    const ap_source *src;
    sf_count_t at;
} place;

static sf_count_t get_size(void *ctx)
{
    return (sf_count_t)((place *)ctx)->src->len;
}

static sf_count_t seek(sf_count_t to, int whence, void *ctx)
{
    place *p = ctx;
    sf_count_t from = whence == SEEK_CUR ? p->at : whence == SEEK_END ? get_size(p) : 0, sum;
    if (__builtin_add_overflow(from, to, &sum) || sum < 0 || sum > get_size(p)) return -1;
    return p->at = sum;
}

static sf_count_t get(void *out, sf_count_t n, void *ctx)
{
    place *p = ctx;
    sf_count_t left = get_size(p) - p->at;
    if (n > left) n = left;
    if (n <= 0) return 0;
    memcpy(out, p->src->data + p->at, (size_t)n);
    p->at += n;
    return n;
}

static sf_count_t put(const void *data, sf_count_t n, void *ctx)
{
    (void)data, (void)n, (void)ctx;
    return 0;
}

static sf_count_t tell(void *ctx)
{
    return ((place *)ctx)->at;
}

/* ---------------------------------------------------------------- samples */

/* The next n of each channel behind those of out, averaged. */
static apus_err add(ap_sound *out, size_t *cap, const float *sample, size_t n, int channels,
                    apus_diag *diag)
{
    if (out->n + n > *cap) {
        size_t more = 2 * (out->n + n);
        float *grown = ap_realloc(out->sample, more, sizeof *grown);
        if (!grown) return ap_fail_nomem(diag, more * sizeof *grown, "a sound");
        out->sample = grown;
        *cap = more;
    }
    for (size_t i = 0; i < n; i++) {
        double sum = 0;
        for (int c = 0; c < channels; c++) sum += *sample++;
        sum /= channels;
        out->sample[out->n++] = isfinite(sum) ? (float)sum : 0;
    }
    return APUS_OK;
}

/* What a header says of the length may be wrong or missing, so it counts for nothing but the end of a FLAC file. */
static apus_err read_all(const ap_source *src, const library *lib, SNDFILE *f, const SF_INFO *info,
                         ap_sound *out, apus_diag *diag)
{
    float piece[PIECE];
    size_t cap = 0, most = src->limits.samples / (size_t)info->channels;
    apus_err err = APUS_OK;
    for (;;) {
        sf_count_t n = lib->readf_float(f, piece, PIECE / info->channels);
        if (n <= 0) break;
        if ((size_t)n > most - out->n)
            return ap_fail(diag, APUS_EUNSUPPORTED,
                           "%s: more than %llu samples, which are the most read", src->name,
                           (unsigned long long)src->limits.samples);
        err = add(out, &cap, piece, (size_t)n, info->channels, diag);
        if (err) return err;
    }
    bool flac = (info->format & SF_FORMAT_TYPEMASK) == SF_FORMAT_FLAC;
    if (!out->n || (flac && out->n < (size_t)info->frames))
        return ap_fail(diag, APUS_EFORMAT, "%s: the sound is damaged or cut short", src->name);
    return APUS_OK;
}

apus_err ap_sndfile_decode(const ap_source *src, ap_sound *out, apus_diag *diag)
{
    SF_VIRTUAL_IO io = {get_size, seek, get, put, tell};
    SF_INFO info = {0};
    place p = {.src = src};
    library lib;
    apus_err err;
    *out = (ap_sound){0};
    if (!load(&lib))
        return ap_fail(diag, APUS_EUNSUPPORTED,
                       "%s: sound other than WAV is read by libsndfile, which is not installed "
                       "(Debian: libsndfile1)",
                       src->name);
    SNDFILE *f = lib.open_virtual(&io, SFM_READ, &info, &p);
    if (!f)
        return ap_fail(
            diag, APUS_EFORMAT,
            "%s: no sound that can be read: damaged, or in an encoding that is not known",
            src->name);
    if (info.channels < 1 || info.channels > MAX_CHANNELS || info.samplerate < 1000 ||
        info.samplerate > 768000)
        err = ap_fail(diag, APUS_EFORMAT, "%s: a sound of %d channels and %d samples a second",
                      src->name, info.channels, info.samplerate);
    else
        err = read_all(src, &lib, f, &info, out, diag);
    lib.close(f);
    if (err) ap_sound_clear(out);
    out->rate = err ? 0 : info.samplerate;
    return err;
}

#else

apus_err ap_sndfile_decode(const ap_source *src, ap_sound *out, apus_diag *diag)
{
    *out = (ap_sound){0};
    return ap_fail(diag, APUS_EUNSUPPORTED,
                   "%s: this apus was built without libsndfile, and hears WAV files only",
                   src->name);
}

#endif
