/* micro_recur.h - inner kernels of the recurrent layers: causal convolution and gated delta rule.
 *
 * Every level computes the same bits as the functions of ref/recur_ref.c, the products of the
 * chunked form included. No pointer needs any alignment. */
#ifndef AP_KERN_CPU_MICRO_RECUR_H
#define AP_KERN_CPU_MICRO_RECUR_H

#include <string.h>

#include "kern/cpu/micro/micro.h"

#define AP_DELTA_ROWS  16 /* value channels that `step` takes at once */
#define AP_DELTA_CHUNK 64 /* tokens of a chunk of the chunked form */
#define AP_DELTA_SUB   16 /* tokens of a block of its triangular solve */
#define AP_CONV_TOKENS 4  /* tokens that `conv` takes at once */

/* The gates of one token and value head. */
typedef struct ap_delta_gate {
    float decay;       /* e^g */
    float decay_less1; /* e^g - 1, rounded by itself: keeps its digits where the decay is near 1 */
    bool weak;         /* decay >= 1/2: the state goes on as s + (decay_less1*s + k*d), else as
                        * decay*s + k*d; each keeps the digits that the other would lose */
    float beta;
    float kq; /* k^ . q^ */
} ap_delta_gate;

/* Rows to copy while a product is computed: rows of the step lie a power of two apart, which no
 * processor prefetches, and which share few sets of its caches. A product takes `each` rows on the way
 * after every tile: asks for them, and copies those asked for a while ago. */
typedef struct ap_feed {
    const float *from;
    float *to; /* rows side by side */
    int64_t ld;
    int width, n, each, asked, done;
} ap_feed;

#define AP_FEED_WHILE 12 /* rows */

static inline void ap_feed_some(ap_feed *f)
{
    for (int i = 0; f && i < f->each && f->done < f->n; i++) {
        if (f->asked < f->n) {
            const float *row = f->from + f->asked++ * f->ld;
            for (int j = 0; j < f->width; j += 16) __builtin_prefetch(row + j);
        }
        if (f->asked - f->done > AP_FEED_WHILE || f->asked == f->n) {
            memcpy(f->to + (int64_t)f->done * f->width, f->from + f->done * f->ld,
                   (size_t)f->width * sizeof(float));
            f->done++;
        }
    }
}

static inline void ap_feed_rest(ap_feed *f)
{
    while (f->done < f->n) ap_feed_some(f);
}

/* Products whose inputs are split: x = hi + lo, both bf16, some 16 bits in all. hi*hi, hi*lo and lo*hi
 * are summed in f32 on matrix tiles. The order of the sums is the processor's own, the same at every
 * run. Operands are packed in pairs of tiles, hi and lo, AP_SPLIT_PAIR bytes, 64-byte aligned:
 *   left   [16 rows of x][32 columns], tiles [row tile][step of 32 columns]
 *   right  [16 pairs of rows][16 columns][2], tiles [column tile][step of 32 rows]
 * Rows and columns that x does not have are zero. */
#define AP_SPLIT_PAIR 2048

typedef struct ap_micro_split {
    void (*begin)(void), (*end)(void); /* around the products of a task */
    void (*left)(const float *x, int64_t ldx, int rows, int cols, int row_tiles, int steps,
                 uint8_t *out);
    void (*right)(const float *x, int64_t ldx, int rows, int cols, int col_tiles, int steps,
                  uint8_t *out);
    /* c = (c +) the product over `steps`; operands have tiles of a_steps and b_steps. Both numbers of
     * tiles are even; c has all their rows and columns. */
    void (*product)(int row_tiles, int col_tiles, int steps, const uint8_t *a, int a_steps,
                    const uint8_t *b, int b_steps, float *c, int64_t ldc, bool accumulate,
                    ap_feed *feed);
} ap_micro_split;

typedef struct ap_micro_recur {
    /* 16 partial fma sums x[i]*y[i], i = j, j+16, ..., then ap_sum16. */
    float (*dot)(const float *x, const float *y, int n);

    /* out[i] = (x[i] * r) * s. */
    void (*scale)(const float *x, float r, float s, int n, float *out);

    /* g[i] = neg_exp_a * softplus(a[i] + dt_bias) in double, beta[i] = ap_sigmoidf(b[i]). */
    void (*gates)(int n, const float *a, float dt_bias, float neg_exp_a, const float *b, double *g,
                  float *beta);

    /* e[i] = e^(top + sign * g[i]), less1[i] = e^.. - 1, each rounded by itself from double; sign
     * is 1 or -1. */
    void (*exps)(int n, double top, double sign, const double *g, float *e, float *less1);

    /* One token for n_row <= AP_DELTA_ROWS value channels, see the Order in kern.h.
     *   state  f32 [n_row][k_dim], replaced;  k, q  f32 [k_dim];  v  f32 [n_row]
     *   o      f32 [n_row] out;  d  f32 [n_row] out, or NULL: not wanted
     * Memory `ahead` floats behind the state (0 = none) is prefetched meanwhile, as much of it. */
    void (*step)(float *state, int n_row, int k_dim, const float *k, const float *q,
                 const ap_delta_gate *g, const float *v, float *o, float *d, int64_t ahead);

    /* What `step` does to the state, given its d. Of g only decay, decay_less1 and weak are looked at. */
    void (*replay)(float *state, int n_row, int k_dim, const float *k, const ap_delta_gate *g,
                   const float *d);

    /* out[i] = ((o[i] * r) * w[i]) * ap_siluf(z[i]), r = 1 / sqrtf(sum o^2 / n + eps); out may be
     * o. */
    void (*gated_norm)(const float *o, const float *w, const float *z, int n, float eps,
                       float *out);

    /* out[t*ldout + c] = ap_siluf(acc), or acc if plain, acc = fma(w[j*ldw + c], row[t + j][c], acc),
     * j ascending over [0, n_tap), from 0; t < n_tok <= AP_CONV_TOKENS, c < n. */
    void (*conv)(const float *const *row, int n_tok, int n_tap, const float *w, int64_t ldw, int n,
                 bool plain, float *out, int64_t ldout);

    /* c[i*ldc + j] = fma(a[i*ra + l*ca], b[l*ldb + j], c[i*ldc + j]), l ascending over [0, kk),
     * from 0 or from the old c. Any m, n, kk >= 0. feed: NULL = nothing. */
    void (*gemm)(int m, int n, int kk, const float *a, int64_t ra, int64_t ca, const float *b,
                 int64_t ldb, float *c, int64_t ldc, bool accumulate, ap_feed *feed);

    /* x[i] = fma(a[i*lda + j], x[j], x[i]), j ascending over [0, i): solves (I - a) x = x for a
     * block of m <= AP_DELTA_SUB rows of n values, ldx apart. */
    void (*solve)(int m, int n, const float *a, int64_t lda, float *x, int64_t ldx);

    /* out[j] = e^(top - g[j]), j < n, as ap_expf of the difference in f32, times 1 + what the
     * rounding of the difference left. */
    void (*decays)(double top, const double *g, int n, float *out);

    /* y[c*ldy + r] = x[r*ldx + c], r < rows, c < cols. */
    void (*transpose)(const float *x, int64_t ldx, int rows, int cols, float *y, int64_t ldy);

    /* out[i] = (by * a[i]) * b[i] */
    void (*mul)(float by, const float *a, const float *b, int n, float *out);

    /* x[i] = beta * (v[i] - decay * x[i]) */
    void (*residual)(float *x, const float *v, float decay, float beta, int n);

    /* s[i] = s[i] + (less1 * s[i] + step[i]), or (not weak) s[i] = decay * s[i] + step[i] */
    void (*grow)(float *s, const float *step, const ap_delta_gate *g, int n);

    const ap_micro_split *split; /* for precision FAST; NULL = none */
} ap_micro_recur;

extern const ap_micro_recur ap_recur_ref, ap_recur_avx2, ap_recur_avx512, ap_recur_amx;
extern const ap_micro_recur ap_recur_neon;
extern const ap_micro_split ap_split_amx;

#endif
