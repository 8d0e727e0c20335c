/* What Gemma hears: magnitudes of windowed spectra, added up in mel bands, as logarithms. Without a tower: the
 * samples themselves. Source: Gemma4AudioFeatureExtractor of the reference. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "media/sound.h"

static const double PI = 3.14159265358979323846;

enum { PAD_TO = 128 }; /* samples that the reference fills up to a multiple of */

typedef struct band {
    int first, n;   /* bins that the triangle covers */
    double *weight; /* [n], within mel.weights */
} band;

typedef struct mel {
    const ap_sound_settings *s;
    int bins;
    band *band;                                /* [features] */
    double *weights, *window, *re, *im, *turn; /* turn: cos and sin of the transform */
} mel;

/* ---------------------------------------------------------------- tables */

static double to_mel(double hz)
{
    return 2595 * log10(1 + hz / 700);
}

static double to_hz(double m)
{
    return 700 * (pow(10, m / 2595) - 1);
}

static void make_band(mel *m, int i, double **weights)
{
    const ap_sound_settings *s = m->s;
    double low = to_mel(s->low), step = (to_mel(s->high) - low) / (s->features + 1);
    double left = to_hz(low + i * step), top = to_hz(low + (i + 1) * step);
    double right = to_hz(low + (i + 2) * step);
    band *b = &m->band[i];
    b->weight = *weights;
    for (int k = 0; k < m->bins; k++) {
        double hz = (double)(s->rate / 2) * k / (m->bins - 1);
        double up = (hz - left) / (top - left), down = (right - hz) / (right - top);
        double w = up < down ? up : down;
        if (!(w > 0)) continue;
        if (!b->n) b->first = k;
        b->weight[b->n++] = w;
    }
    *weights += b->n;
}

static void mel_free(mel *m)
{
    ap_free(m->band);
    ap_free(m->weights);
    ap_free(m->window);
    ap_free(m->re);
    ap_free(m->im);
    ap_free(m->turn);
}

static apus_err mel_init(mel *m, const ap_sound_settings *s, apus_diag *diag)
{
    size_t fft = (size_t)s->fft;
    *m = (mel){.s = s, .bins = s->fft / 2 + 1};
    m->band = ap_calloc((size_t)s->features, sizeof *m->band);
    m->weights = ap_malloc((size_t)s->features * (size_t)m->bins, sizeof *m->weights);
    m->window = ap_malloc((size_t)s->window, sizeof *m->window);
    m->re = ap_malloc(fft, sizeof *m->re);
    m->im = ap_malloc(fft, sizeof *m->im);
    m->turn = ap_malloc(fft, sizeof *m->turn);
    if (!m->band || !m->weights || !m->window || !m->re || !m->im || !m->turn)
        return ap_fail_nomem(diag, fft * 32, "spectra of a sound");
    double *weights = m->weights;
    for (int i = 0; i < s->features; i++) make_band(m, i, &weights);
    for (int i = 0; i < s->window; i++)
        m->window[i] = (float)(0.5 - 0.5 * cos(2 * PI * i / s->window));
    for (size_t i = 0; i < fft / 2; i++) {
        m->turn[2 * i] = cos(2 * PI * (double)i / (double)fft);
        m->turn[2 * i + 1] = -sin(2 * PI * (double)i / (double)fft);
    }
    return APUS_OK;
}

/* ---------------------------------------------------------------- spectra */

/* Put re and im in the order of reversed bits. */
static void reorder(mel *m)
{
    size_t n = (size_t)m->s->fft;
    for (size_t i = 1, j = 0; i < n; i++) {
        size_t bit = n >> 1;
        for (; j & bit; bit >>= 1) j ^= bit;
        j ^= bit;
        if (i >= j) continue;
        double t = m->re[i];
        m->re[i] = m->re[j];
        m->re[j] = t;
        t = m->im[i];
        m->im[i] = m->im[j];
        m->im[j] = t;
    }
}

/* The discrete Fourier transform of re + i im, in place. */
static void transform(mel *m)
{
    size_t n = (size_t)m->s->fft;
    reorder(m);
    for (size_t len = 2; len <= n; len *= 2)
        for (size_t at = 0; at < n; at += len)
            for (size_t k = 0; k < len / 2; k++) {
                size_t a = at + k, b = a + len / 2, turn = k * (n / len);
                double c = m->turn[2 * turn], s = m->turn[2 * turn + 1];
                double re = m->re[b] * c - m->im[b] * s, im = m->re[b] * s + m->im[b] * c;
                m->re[b] = m->re[a] - re;
                m->im[b] = m->im[a] - im;
                m->re[a] += re;
                m->im[a] += im;
            }
}

/* Row `row`: the samples from row * hop - window / 2 on; before the beginning there is silence. */
static void make_row(mel *m, const ap_sound *sound, size_t n, size_t row, float *out)
{
    const ap_sound_settings *s = m->s;
    size_t left = (size_t)s->window / 2, begin = row * (size_t)s->hop;
    memset(m->re, 0, (size_t)s->fft * sizeof *m->re);
    memset(m->im, 0, (size_t)s->fft * sizeof *m->im);
    for (size_t i = 0; i < (size_t)s->window; i++)
        if (begin + i >= left && begin + i - left < n)
            m->re[i] = sound->sample[begin + i - left] * s->scale * m->window[i];
    transform(m);
    for (int k = 0; k < m->bins; k++) m->re[k] = hypot(m->re[k], m->im[k]);
    for (int i = 0; i < s->features; i++) {
        double energy = 0;
        for (int k = 0; k < m->band[i].n; k++)
            energy += m->re[m->band[i].first + k] * m->band[i].weight[k];
        out[i] = (float)log(energy + s->floor);
    }
}

/* Rows whose last sample and the one behind it are of the sound, and those of the reference. */
static void count_rows(const ap_sound_settings *s, size_t n, ap_patches *out)
{
    size_t left = (size_t)s->window / 2, need = (size_t)s->window + 1, hop = (size_t)s->hop;
    size_t filled = ap_round_up(n, PAD_TO) + left;
    out->padded = filled < need ? 0 : (filled - need) / hop + 1;
    out->n = n + left < need ? 0 : (n + left - need) / hop + 1;
    if (out->n > out->padded) out->n = out->padded;
    out->soft_tokens = ap_sound_tokens(out->n, true);
}

static apus_err mel_rows(const ap_sound_settings *s, const ap_sound *sound, size_t n,
                         ap_patches *out, apus_diag *diag)
{
    mel m;
    apus_err err = mel_init(&m, s, diag);
    for (size_t i = 0; i < out->n && !err; i++)
        make_row(&m, sound, n, i, out->values + i * out->width);
    mel_free(&m);
    return err;
}

static void sample_rows(const ap_sound_settings *s, const ap_sound *sound, size_t n,
                        ap_patches *out)
{
    memset(out->values, 0, out->n * out->width * sizeof *out->values);
    for (size_t i = 0; i < n; i++) out->values[i] = (float)(sound->sample[i] * s->scale);
}

/* ---------------------------------------------------------------- sounds */

static apus_err make(const ap_media_settings *all, const ap_sound *sound, const char *name,
                     ap_patches *out, apus_diag *diag)
{
    const ap_sound_settings *s = &all->sound;
    bool tower = all->kind == AP_MEDIA_GEMMA;
    size_t n = sound->n;
    if (s->max_samples && n > (size_t)s->max_samples) n = (size_t)s->max_samples;
    memset(out, 0, sizeof *out);
    out->width = (size_t)s->features;
    if (tower)
        count_rows(s, n, out);
    else
        out->n = out->padded = out->soft_tokens = (n + out->width - 1) / out->width;
    if (!out->n)
        return ap_fail(diag, APUS_EUNSUPPORTED,
                       "%s: %zu samples at %d a second are too short to be heard", name, n,
                       s->rate);
    out->values = ap_malloc(out->n, out->width * sizeof *out->values);
    if (!out->values)
        return ap_fail_nomem(diag, out->n * out->width * sizeof *out->values, "a sound");
    if (tower) return mel_rows(s, sound, n, out, diag);
    sample_rows(s, sound, n, out);
    return APUS_OK;
}

/* The part of a sound that is heard, at the model's rate. */
static apus_err at_rate(const ap_sound_settings *s, const ap_sound *sound, ap_sound *out,
                        apus_diag *diag)
{
    ap_sound heard = *sound;
    /* what is cut off may not matter for the last sample that is kept: the filter reaches less far */
    double most = ((double)s->max_samples + s->rate) * sound->rate / s->rate;
    if (s->max_samples && (double)heard.n > most) heard.n = (size_t)most;
    return ap_sound_resample(&heard, s->rate, out, diag);
}

apus_err ap_prepare_sound(const ap_media_settings *s, const ap_sound *sound, const char *name,
                          ap_patches *out, apus_diag *diag)
{
    ap_sound other = {0};
    apus_err err = APUS_OK;
    if (!s->sound.features)
        return ap_fail(diag, APUS_EUNSUPPORTED, "%s: this model does not hear sound", name);
    if (sound->rate != s->sound.rate) err = at_rate(&s->sound, sound, &other, diag);
    if (!err) err = make(s, other.sample ? &other : sound, name, out, diag);
    ap_sound_clear(&other);
    if (err) {
        ap_patches_clear(out);
        return err;
    }
    ap_patches_hash(out);
    return APUS_OK;
}
