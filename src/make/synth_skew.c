#include "make/synth_skew.h"

#include <math.h>

#include "base/rng.h"

#define MOST_OFTEN 0.45

/* The x that a normal number exceeds with probability p, 0 < p < 0.5. */
static double exceeded(double p)
{
    double low = 0, high = 40;
    for (int i = 0; i < 60; i++) {
        double x = (low + high) / 2;
        if (erfc(x / sqrt(2.0)) / 2 > p)
            low = x;
        else
            high = x;
    }
    return (low + high) / 2;
}

/* How often expert number r is chosen. */
static double often(double exponent, double factor, int r)
{
    double p = factor * pow(r + 1, -exponent);
    return p < MOST_OFTEN ? p : MOST_OFTEN;
}

/* The factor with which they are `used` together, as near as may be. */
static double find_factor(double exponent, int n, int used)
{
    double low = 0, high = n * pow(n, exponent);
    for (int i = 0; i < 100; i++) {
        double factor = (low + high) / 2, sum = 0;
        for (int r = 0; r < n; r++) sum += often(exponent, factor, r);
        if (sum < used)
            low = factor;
        else
            high = factor;
    }
    return (low + high) / 2;
}

void ap_synth_skew(double exponent, int n, int used, uint64_t seed, float *scale)
{
    double even = (double)used / n < MOST_OFTEN ? (double)used / n : MOST_OFTEN;
    double threshold = exceeded(even), factor = find_factor(exponent, n, used);
    ap_rng rng;
    ap_rng_seed(&rng, seed);
    for (int r = 0; r < n; r++)
        scale[r] = (float)(threshold / exceeded(often(exponent, factor, r)));
    for (int r = n - 1; r > 0; r--) { /* in any order */
        int other = (int)(ap_rng_next(&rng) % (uint64_t)(r + 1));
        float s = scale[r];
        scale[r] = scale[other];
        scale[other] = s;
    }
}
