/* WAV: a RIFF file whose chunk "fmt " tells how the samples in the chunk "data" are written. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "media/sound_formats.h"

enum { PCM = 1, FLOAT = 3, EXTENSIBLE = 0xFFFE };
enum { RIFF_HEAD = 12, CHUNK_HEAD = 8 };

typedef struct format {
    unsigned tag, channels, rate, frame, bits; /* frame: bytes of one sample of all channels */
} format;

static uint32_t little(const uint8_t *p, int n)
{
    uint32_t v = 0;
    for (int i = 0; i < n; i++) v |= (uint32_t)p[i] << 8 * i;
    return v;
}

bool ap_wav_is(const ap_source *src)
{
    return src->len >= RIFF_HEAD && !memcmp(src->data, "RIFF", 4) &&
           !memcmp(src->data + 8, "WAVE", 4);
}

/* The first chunk of that name; data NULL: none. A chunk may say 0 or all ones if it was written before its
 * length was known: then it is the rest of the file. */
static apus_err find(const ap_source *src, const char *name, const uint8_t **data, size_t *len,
                     apus_diag *diag)
{
    *data = NULL;
    for (size_t at = RIFF_HEAD; src->len - at >= CHUNK_HEAD;) {
        const uint8_t *head = src->data + at;
        size_t size = little(head + 4, 4), left = src->len - at - CHUNK_HEAD;
        bool here = !memcmp(head, name, 4);
        if (here && !memcmp(name, "data", 4) && (size == 0 || size == UINT32_MAX)) size = left;
        if (size > left)
            return ap_fail(diag, APUS_EFORMAT, "%s: the WAV data are cut short", src->name);
        if (here) {
            *data = head + CHUNK_HEAD;
            *len = size;
            return APUS_OK;
        }
        size += size % 2;
        at += CHUNK_HEAD + (size < left ? size : left);
    }
    return APUS_OK;
}

static apus_err read_format(const ap_source *src, format *f, apus_diag *diag)
{
    const uint8_t *p;
    size_t n;
    apus_err err = find(src, "fmt ", &p, &n, diag);
    if (err) return err;
    if (!p || n < 16)
        return ap_fail(diag, APUS_EFORMAT, "%s: a WAV file without a format", src->name);
    *f = (format){little(p, 2), little(p + 2, 2), little(p + 4, 4), little(p + 12, 2),
                  little(p + 14, 2)};
    if (f->tag == EXTENSIBLE && n >= 26) f->tag = little(p + 24, 2);
    bool pcm = f->tag == PCM && (f->bits == 8 || f->bits == 16 || f->bits == 24 || f->bits == 32);
    bool real = f->tag == FLOAT && (f->bits == 32 || f->bits == 64);
    if (!pcm && !real)
        return ap_fail(
            diag, APUS_EUNSUPPORTED,
            "%s: WAV encoding %u with %u bits, expected integers of 8, 16, 24 or 32 bits or "
            "floats of 32 or 64",
            src->name, f->tag, f->bits);
    if (!f->channels || f->frame != f->channels * f->bits / 8 || f->rate < 1000 || f->rate > 768000)
        return ap_fail(diag, APUS_EFORMAT,
                       "%s: a WAV format of %u channels, %u bytes a sample and %u samples a second",
                       src->name, f->channels, f->frame, f->rate);
    return APUS_OK;
}

static double sample_at(const format *f, const uint8_t *p)
{
    if (f->bits == 8) return ((int)*p - 128) / 128.0;
    if (f->tag == PCM) {
        uint32_t top = little(p, (int)f->bits / 8) << (32 - f->bits);
        return (int32_t)top / 2147483648.0;
    }
    uint64_t v = little(p, 4);
    if (f->bits == 32) {
        float x;
        uint32_t u = (uint32_t)v;
        memcpy(&x, &u, sizeof x);
        return x;
    }
    double x;
    v |= (uint64_t)little(p + 4, 4) << 32;
    memcpy(&x, &v, sizeof x);
    return x;
}

apus_err ap_wav_decode(const ap_source *src, ap_sound *out, apus_diag *diag)
{
    format f = {0};
    const uint8_t *p = NULL;
    size_t len = 0;
    apus_err err = read_format(src, &f, diag);
    if (!err) err = find(src, "data", &p, &len, diag);
    if (err) return err;
    if (!p || len < f.frame)
        return ap_fail(diag, APUS_EFORMAT, "%s: a WAV file without samples", src->name);
    size_t n = len / f.frame;
    if (n * f.channels > src->limits.samples)
        return ap_fail(diag, APUS_EUNSUPPORTED, "%s: %zu samples, at most %llu are read", src->name,
                       n * f.channels, (unsigned long long)src->limits.samples);
    *out = (ap_sound){ap_malloc(n, sizeof *out->sample), n, (int)f.rate};
    if (!out->sample) return ap_fail_nomem(diag, n * sizeof *out->sample, "a sound");
    for (size_t i = 0; i < n; i++) {
        double sum = 0;
        for (unsigned c = 0; c < f.channels; c++, p += f.bits / 8) sum += sample_at(&f, p);
        sum /= f.channels;
        out->sample[i] = isfinite(sum) ? (float)sum : 0;
    }
    return APUS_OK;
}
