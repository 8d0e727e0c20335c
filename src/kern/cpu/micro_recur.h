/* micro_recur.h - inner kernels of the recurrent layers: causal convolution and gated delta rule.
 *
 * Every level computes the same bits as the functions of ref/recur_ref.c, the products of the
 * chunked form included. No pointer needs any alignment. */
#ifndef AP_KERN_CPU_MICRO_RECUR_H
#define AP_KERN_CPU_MICRO_RECUR_H

#include "kern/cpu/micro.h"

#define AP_DELTA_ROWS  16 /* value channels that `step` takes at once */
#define AP_DELTA_CHUNK 64 /* tokens of a chunk of the chunked form */
#define AP_DELTA_SUB   16 /* tokens of a block of its triangular solve */

/* The gates of one token and value head. */
typedef struct ap_delta_gate {
    float decay;       /* e^g */
    float decay_less1; /* e^g - 1, rounded by itself: keeps its digits where the decay is near 1 */
    bool weak;         /* decay >= 1/2: the state goes on as s + (decay_less1*s + k*d), else as
                        * decay*s + k*d; each keeps the digits that the other would lose */
    float beta;
    float kq; /* k^ . q^ */
} ap_delta_gate;

typedef struct ap_micro_recur {
    /* 16 partial fma sums x[i]*y[i], i = j, j+16, ..., then ap_sum16. */
    float (*dot)(const float *x, const float *y, int n);

    /* out[i] = (x[i] * r) * s. */
    void (*scale)(const float *x, float r, float s, int n, float *out);

    /* One token for n_row <= AP_DELTA_ROWS value channels, see the Order in kern.h.
     *   state  f32 [n_row][k_dim], replaced;  k, q  f32 [k_dim];  v  f32 [n_row]
     *   o      f32 [n_row] out */
    void (*step)(float *state, int n_row, int k_dim, const float *k, const float *q,
                 const ap_delta_gate *g, const float *v, float *o);

    /* o[i] = ((o[i] * r) * w[i]) * ap_siluf(z[i]), r = 1 / sqrtf(sum o^2 / n + eps). */
    void (*gated_norm)(float *o, const float *w, const float *z, int n, float eps);

    /* out[c] = ap_siluf(acc), acc = fma(tap, row, acc) over the taps ascending, from 0, c < n.
     * The first n_old taps meet the rows of `old`, the next n_new those of `x`, ldx apart; rows
     * of `old` and of w are ld_old apart. */
    void (*conv)(const float *old, int n_old, int64_t ld_old, const float *x, int n_new,
                 int64_t ldx, const float *w, int n, float *out);

    /* c[i*ldc + j] = fma(a[i*ra + l*ca], b[l*ldb + j], c[i*ldc + j]), l ascending over [0, kk),
     * from 0 or from the old c. Any m, n, kk >= 0. */
    void (*gemm)(int m, int n, int kk, const float *a, int64_t ra, int64_t ca, const float *b,
                 int64_t ldb, float *c, int64_t ldc, bool accumulate);

    /* x[i] = fma(a[i*lda + j], x[j], x[i]), j ascending over [0, i): solves (I - a) x = x for a
     * block of m <= AP_DELTA_SUB rows of n values, ldx apart. */
    void (*solve)(int m, int n, const float *a, int64_t lda, float *x, int64_t ldx);

    /* out[j] = e^(top - g[j]), j < n, as ap_expf of the difference in f32, times 1 + what the
     * rounding of the difference left. */
    void (*decays)(double top, const double *g, int n, float *out);
} ap_micro_recur;

extern const ap_micro_recur ap_recur_ref, ap_recur_avx2, ap_recur_avx512;

#endif
