/* tolerance.h - how far ref may be from the f64 oracle, in one place.
 *
 * |got - want| <= rel * |want| + sum * mag + abs, where mag is the sum of the magnitudes of what
 * was added up for that element (0 where nothing is): cancellation makes a small result of large
 * terms, and rounding follows the terms. The levels among themselves have no tolerance: they are
 * bit-equal. */
#ifndef KCHECK_TOLERANCE_H
#define KCHECK_TOLERANCE_H

#define KC_EPS 5.9604645e-8 /* 2^-24, half a unit in the last place of 1 */

typedef struct kc_tol {
    double rel, sum, abs;
} kc_tol;

/* one or two rounded operations */
#define KC_ROUNDED ((kc_tol){2 * KC_EPS, 2 * KC_EPS, 1e-44})
/* exp, log, sigmoid, tanh and short chains of them */
#define KC_MATH ((kc_tol){12 * KC_EPS, 4 * KC_EPS, 1.2e-38})
/* sums of products, in blocks of AP_K_BLOCK or 16 partial sums, with what follows them. Random
 * rounding errors grow with the square root of the terms: sqrt(512) is 23. */
#define KC_SUM ((kc_tol){16 * KC_EPS, 24 * KC_EPS, 1.2e-38})
/* the same where the terms underflow: what exp flushes to zero is then scaled up a little */
#define KC_ROUTE ((kc_tol){16 * KC_EPS, 24 * KC_EPS, 1e-35})
/* sums whose terms went through exp or other sums first: attention, experts, the delta rule */
#define KC_CHAIN ((kc_tol){64 * KC_EPS, 96 * KC_EPS, 1e-37})
/* sums in tiles, where denormals count as zero; with weights rounded to bf16: 2^-8 of each term */
#define KC_TILES ((kc_tol){16 * KC_EPS, 48 * KC_EPS, 1e-36})
#define KC_BF16  ((kc_tol){16 * KC_EPS, 1.0 / 256 + 48 * KC_EPS, 1e-36})

/* attention whose weights are rounded to bf16: 2^-9, and exp good to 5e-5 */
#define KC_PAIRS ((kc_tol){1e-4, 1.0 / 500, 1e-33})
/* attention over q8 pages: queries and weights are integers of 15 bits; half a step is 2^-15 or 2^-16 of
 * the largest, and mag has the largest in place of each term */
#define KC_INT15 ((kc_tol){64 * KC_EPS, 3.1e-5, 1e-37})

#endif
