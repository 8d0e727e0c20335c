#include "base/rng.h"

#include <math.h>

static uint64_t rotl(uint64_t x, int k)
{
    return x << k | x >> (64 - k);
}

/* splitmix64 (Vigna): turns any seed, zero included, into four words that are not all zero. */
static uint64_t splitmix(uint64_t *x)
{
    uint64_t z = *x += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

void ap_rng_seed(ap_rng *r, uint64_t seed)
{
    for (int i = 0; i < 4; i++) r->s[i] = splitmix(&seed);
}

/* xoshiro256** 1.0 (Blackman and Vigna, 2018). */
uint64_t ap_rng_next(ap_rng *r)
{
    uint64_t *s = r->s, out = rotl(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return out;
}

double ap_rng_uniform(ap_rng *r)
{
    return (double)(ap_rng_next(r) >> 11) * 0x1p-53;
}

/* Marsaglia's polar method; the second value is thrown away so that the state is the four words
 * alone. */
double ap_rng_normal(ap_rng *r)
{
    double u, v, q;
    do {
        u = 2 * ap_rng_uniform(r) - 1;
        v = 2 * ap_rng_uniform(r) - 1;
        q = u * u + v * v;
    } while (q >= 1 || q == 0);
    return u * sqrt(-2 * log(q) / q);
}
