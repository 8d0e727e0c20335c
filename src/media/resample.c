/* Another rate: each new sample is a sum of old ones around it, weighted by a sinc that ends softly under a Kaiser
 * window. Shrinking widens the sinc, so that what the new rate cannot hold is left out. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "media/sound.h"

enum { LOBES = 48, STEPS = 512 }; /* zero crossings to a side; table entries for each */
static const double BETA = 12.0;  /* of the window: 118 dB */
static const double PASS = 0.95;  /* of the lower rate's half; the rest is the filter's slope */
static const double PI = 3.14159265358979323846;

/* The modified Bessel function of the first kind and order 0. */
static double bessel(double x)
{
    double sum = 1, term = 1;
    for (int k = 1; term > 1e-17 * sum; k++) {
        term *= x / (2 * k) * (x / (2 * k));
        sum += term;
    }
    return sum;
}

static void make_table(double *table)
{
    double whole = bessel(BETA);
    for (int i = 0; i <= LOBES * STEPS; i++) {
        double x = (double)i / STEPS, edge = x / LOBES;
        double sinc = i ? sin(PI * x) / (PI * x) : 1;
        table[i] = sinc * bessel(BETA * sqrt(1 - edge * edge)) / whole;
    }
    table[LOBES * STEPS + 1] = 0;
}

/* The new sample at the time t, in old samples; band: of the old rate's half, what passes. */
static double sample_at(const ap_sound *s, const double *table, double t, double band)
{
    double reach = LOBES / band, sum = 0;
    double first = ceil(t - reach), last = floor(t + reach);
    if (first < 0) first = 0;
    if (last > (double)s->n - 1) last = (double)s->n - 1;
    for (double k = first; k <= last; k++) {
        double at = fabs(t - k) * band * STEPS, part = at - floor(at);
        const double *w = table + (size_t)at;
        sum += s->sample[(size_t)k] * (w[0] + (w[1] - w[0]) * part);
    }
    return sum * band;
}

apus_err ap_sound_resample(const ap_sound *s, int rate, ap_sound *out, apus_diag *diag)
{
    double ratio = (double)rate / s->rate;
    size_t n = (size_t)ceil((double)s->n * ratio), cells = LOBES * STEPS + 2;
    double *table = ap_malloc(cells, sizeof *table);
    *out = (ap_sound){ap_malloc(n, sizeof *out->sample), n, rate};
    if (!table || !out->sample) {
        ap_free(table);
        ap_sound_clear(out);
        return ap_fail_nomem(diag, n * sizeof *out->sample, "a sound");
    }
    make_table(table);
    double band = (ratio < 1 ? ratio : 1) * PASS;
    for (size_t i = 0; i < n; i++)
        out->sample[i] = (float)sample_at(s, table, (double)i / ratio, band);
    ap_free(table);
    return APUS_OK;
}
