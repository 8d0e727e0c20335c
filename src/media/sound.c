#include "media/sound.h"

#include <string.h>

#include "base/mem.h"
#include "media/sound_formats.h"

/* A frame of MPEG audio: eleven ones, a version and a layer that are. */
static bool begins_frame(const uint8_t *p)
{
    return p[0] == 0xff && p[1] >> 5 == 7 && (p[1] >> 3 & 3) != 1 && (p[1] >> 1 & 3) != 0;
}

static bool is_packed(const ap_source *src)
{
    const uint8_t *p = src->data;
    if (src->len < 12) return false;
    return !memcmp(p, "fLaC", 4) || (!memcmp(p, "FORM", 4) && !memcmp(p + 8, "AIF", 3));
}

/* Sound that is known for what it is, and not read: libsndfile loses memory with damaged Ogg files, and what it reads
 * MP3 files with writes to stderr. */
static const char *other_kind(const ap_source *src)
{
    const uint8_t *p = src->data;
    if (src->len < 12) return NULL;
    if (!memcmp(p, "OggS", 4)) return "an Ogg";
    return !memcmp(p, "ID3", 3) || begins_frame(p) ? "an MP3" : NULL;
}

bool ap_sound_is(const ap_source *src)
{
    return ap_wav_is(src) || is_packed(src) || other_kind(src);
}

apus_err ap_sound_decode(const ap_source *src, ap_sound *out, apus_diag *diag)
{
    memset(out, 0, sizeof *out);
    if (ap_wav_is(src)) return ap_wav_decode(src, out, diag);
    if (is_packed(src)) return ap_sndfile_decode(src, out, diag);
    const char *kind = other_kind(src);
    if (kind)
        return ap_fail(diag, APUS_EUNSUPPORTED, "%s: %s file; only WAV, FLAC and AIFF are heard",
                       src->name, kind);
    return ap_fail(diag, APUS_EFORMAT,
                   "%s: expected a WAV, FLAC or AIFF file, found something else", src->name);
}

void ap_sound_clear(ap_sound *s)
{
    ap_free(s->sample);
    memset(s, 0, sizeof *s);
}
