/* rng.h - reproducible random numbers: xoshiro256** seeded by splitmix64. */
#ifndef AP_BASE_RNG_H
#define AP_BASE_RNG_H

#include <stdint.h>

typedef struct ap_rng {
    uint64_t s[4];
} ap_rng;

void ap_rng_seed(ap_rng *r, uint64_t seed);
uint64_t ap_rng_next(ap_rng *r);
double ap_rng_uniform(ap_rng *r); /* [0, 1), 53 bits */
double ap_rng_normal(ap_rng *r);  /* mean 0, deviation 1 */

#endif
