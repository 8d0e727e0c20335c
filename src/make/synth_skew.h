/* synth_skew.h - made-up routers that prefer some experts, as real ones do. */
#ifndef AP_MAKE_SYNTH_SKEW_H
#define AP_MAKE_SYNTH_SKEW_H

#include <stdint.h>

/* Factors for the rows of a router of random weights, so that its `used` largest of n outputs fall on expert number r,
 * in an order that the seed gives, in proportion to 1 / r^exponent (Zipf's law), but on none more often than in 45 of
 * 100 tokens: a row without a bias can have the larger output in half of them at most. Means no change with exponent 0.
 *   scale  out, [n]; 1 <= used < n */
void ap_synth_skew(double exponent, int n, int used, uint64_t seed, float *scale);

#endif
