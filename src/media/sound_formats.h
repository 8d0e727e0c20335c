/* sound_formats.h - the decoders behind ap_sound_decode, with its contract. */
#ifndef AP_MEDIA_SOUND_FORMATS_H
#define AP_MEDIA_SOUND_FORMATS_H

#include "media/sound.h"

bool ap_wav_is(const ap_source *src);
apus_err ap_wav_decode(const ap_source *src, ap_sound *out, apus_diag *diag);

/* EUNSUPPORTED where there is no libsndfile. */
apus_err ap_sndfile_decode(const ap_source *src, ap_sound *out, apus_diag *diag);

#endif
