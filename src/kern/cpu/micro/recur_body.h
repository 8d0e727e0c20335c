/* recur_body.h - the plain loops of micro_recur.h, included by recur_LEVEL.c: the compiler makes
 * vectors of the level out of them. No operation is contracted or reordered, so every level has
 * the same bits. */
#ifndef AP_KERN_CPU_MICRO_RECUR_BODY_H
#define AP_KERN_CPU_MICRO_RECUR_BODY_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kern/cpu/micro/micro_recur.h"

/* ------------------------------------------------------------------ gates, in double
 *
 * Series, not libm: to some 1e-14 of the result, which is exact for what is rounded to f32 but for
 * one value in a million, and 8 at a time. */

#define DELTA_LOG2E     1.4426950408889634
#define DELTA_LN2_HI    0x1.62e42feep-1 /* 21 zeros behind it: n * this is exact */
#define DELTA_LN2_LO    1.9082149292705877e-10
#define DELTA_MAGIC     0x1.8p52  /* added: rounds to an integer, which is then in the low bits */
#define DELTA_FORGOTTEN (-1000.0) /* e^this is 0: nothing below is told from it */
#define DELTA_HALF_ROOT 0x3fe6a09e667f3bcdu /* bits of sqrt(1/2) */
#define DELTA_TWO_52    0x1p52

static inline double delta_double(uint64_t u)
{
    double x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static inline uint64_t delta_bits(double x)
{
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

/* e^x = scale * (1 + *less1) for x in [-708, 708]: |*less1| < 0.42 */
static inline double delta_exp_parts(double x, double *less1)
{
    double t = fma(x, DELTA_LOG2E, DELTA_MAGIC), n = t - DELTA_MAGIC;
    double r = fma(n, -DELTA_LN2_LO, fma(n, -DELTA_LN2_HI, x));
    double p = 1.0 / 39916800;
    p = fma(p, r, 1.0 / 3628800);
    p = fma(p, r, 1.0 / 362880);
    p = fma(p, r, 1.0 / 40320);
    p = fma(p, r, 1.0 / 5040);
    p = fma(p, r, 1.0 / 720);
    p = fma(p, r, 1.0 / 120);
    p = fma(p, r, 1.0 / 24);
    p = fma(p, r, 1.0 / 6);
    p = fma(p, r, 0.5);
    *less1 = fma(p, r * r, r);
    return delta_double((delta_bits(t) + 1023) << 52);
}

/* log(1 + u), u >= 0 */
static inline double delta_log1p(double u)
{
    double z = 1.0 + u, lost = (u - (z - 1.0)) / z;
    uint64_t bits = delta_bits(z), e = (bits - DELTA_HALF_ROOT) >> 52;
    double n = delta_double(delta_bits(DELTA_TWO_52) | e) - DELTA_TWO_52;
    double f = delta_double(bits - (e << 52)) - 1.0, s = f / (2.0 + f), w = s * s;
    double p = 1.0 / 17;
    p = fma(p, w, 1.0 / 15);
    p = fma(p, w, 1.0 / 13);
    p = fma(p, w, 1.0 / 11);
    p = fma(p, w, 1.0 / 9);
    p = fma(p, w, 1.0 / 7);
    p = fma(p, w, 1.0 / 5);
    p = fma(p, w, 1.0 / 3);
    double low = fma(n, DELTA_LN2_LO, fma(2 * s * w, p, lost));
    return fma(n, DELTA_LN2_HI, 2 * s + low);
}

static void recur_log_decays(int n, const float *restrict a, float dt_bias, float neg_exp_a,
                             double *restrict g)
{
    for (int i = 0; i < n; i++) {
        double x = (double)a[i] + (double)dt_bias, less1;
        double y = x < -708 ? -708 : x > 21 ? 21 : x; /* NaN stays one */
        double u = delta_exp_parts(y, &less1);
        double soft = delta_log1p(fma(u, less1, u));
        double log_decay = (double)neg_exp_a * (x > 20 ? x : soft);
        g[i] = log_decay < DELTA_FORGOTTEN ? DELTA_FORGOTTEN : log_decay;
    }
}

static void recur_exps(int n, double top, double sign, const double *restrict g, float *restrict e,
                       float *restrict less1)
{
    for (int i = 0; i < n; i++) {
        double x = fma(sign, g[i], top), p;
        double scale = delta_exp_parts(x < -708 ? -708 : x > 708 ? 708 : x, &p);
        e[i] = (float)fma(scale, p, scale);
        less1[i] = (float)fma(scale, p, scale - 1.0);
    }
}

/* ------------------------------------------------------------------ rows */

static void recur_mul(float by, const float *a, const float *b, int n, float *out)
{
    for (int i = 0; i < n; i++) out[i] = (by * a[i]) * b[i];
}

static void recur_residual(float *restrict x, const float *restrict v, float decay, float beta,
                           int n)
{
    for (int i = 0; i < n; i++) x[i] = beta * (v[i] - decay * x[i]);
}

static void recur_grow(float *restrict s, const float *restrict step, const ap_delta_gate *g, int n)
{
    const float by = g->weak ? g->decay_less1 : g->decay;
    if (g->weak)
        for (int i = 0; i < n; i++) s[i] = s[i] + (by * s[i] + step[i]);
    else
        for (int i = 0; i < n; i++) s[i] = by * s[i] + step[i];
}

/* For levels without a better one, and for what does not fill theirs. */
static void recur_transpose(const float *x, int64_t ldx, int rows, int cols, float *y, int64_t ldy)
{
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < cols; c++) y[c * ldy + r] = x[r * ldx + c];
}

#endif
