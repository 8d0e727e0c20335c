/* sound.h - files with sound, and what a model hears of them. */
#ifndef AP_MEDIA_SOUND_H
#define AP_MEDIA_SOUND_H

#include <stdbool.h>

#include "media/media.h"
#include "media/media_settings.h"
#include "media/source.h"

/* One channel, full scale -1 ... 1. */
typedef struct ap_sound {
    float *sample;
    size_t n;
    int rate; /* per second */
} ap_sound;

/* Does it begin like a file with sound? */
bool ap_sound_is(const ap_source *src);

/* A WAV file of 8, 16, 24 or 32-bit integers or 32 or 64-bit floats, or, by libsndfile, FLAC or AIFF;
 * channels are averaged.
 *   out  ap_sound_clear it
 * EFORMAT: no sound, damaged or cut short; EUNSUPPORTED: another encoding, or beyond src->limits; ENOMEM. */
apus_err ap_sound_decode(const ap_source *src, ap_sound *out, apus_diag *diag);
void ap_sound_clear(ap_sound *s);

/* s at another rate, by a windowed sinc that keeps what both rates can hold. ENOMEM. */
apus_err ap_sound_resample(const ap_sound *s, int rate, ap_sound *out, apus_diag *diag);

/* Soft tokens that rows of a sound become; tower: which makes one of four. */
static inline size_t ap_sound_tokens(size_t rows, bool tower)
{
    return tower ? ((rows + 1) / 2 + 1) / 2 : rows;
}

/* Rows of log mel energies, or of samples for a model without a tower; resampled if need be.
 *   name  of the sound, for sentences
 *   out   ap_patches_clear it
 * EUNSUPPORTED: the model does not hear, or nothing is long enough to be heard; ENOMEM. */
apus_err ap_prepare_sound(const ap_media_settings *s, const ap_sound *sound, const char *name,
                          ap_patches *out, apus_diag *diag);

#endif
