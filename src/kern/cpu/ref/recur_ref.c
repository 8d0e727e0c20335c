/* recur_ref.c - the scalar definition of the recurrent kernels (micro_recur.h). */
#include <math.h>

#include "kern/cpu/micro/micro.h"
#include "kern/cpu/micro/micro_recur.h"
#include "kern/cpu/micro/recur_body.h"

static float dot_ref(const float *x, const float *y, int n)
{
    float s[16] = {0};
    for (int i = 0; i < n; i++) s[i % 16] = fmaf(x[i], y[i], s[i % 16]);
    return ap_sum16(s);
}

static void scale_ref(const float *x, float r, float s, int n, float *out)
{
    for (int i = 0; i < n; i++) out[i] = (x[i] * r) * s;
}

static void gates_ref(int n, const float *a, float dt_bias, float neg_exp_a, const float *b,
                      double *g, float *beta)
{
    recur_log_decays(n, a, dt_bias, neg_exp_a, g);
    for (int i = 0; i < n; i++) beta[i] = ap_sigmoidf(b[i]);
}

static void replay_ref(float *state, int n_row, int k_dim, const float *k, const ap_delta_gate *g,
                       const float *d)
{
    for (int r = 0; r < n_row; r++) {
        float *s = state + r * k_dim;
        for (int i = 0; i < k_dim; i++)
            s[i] = g->weak ? s[i] + fmaf(k[i], d[r], g->decay_less1 * s[i])
                           : fmaf(k[i], d[r], g->decay * s[i]);
    }
}

static void step_ref(float *state, int n_row, int k_dim, const float *k, const float *q,
                     const ap_delta_gate *g, const float *v, float *o, float *d, int64_t ahead)
{
    (void)ahead;
    for (int r = 0; r < n_row; r++) {
        float *s = state + r * k_dim;
        float kv = g->decay * dot_ref(s, k, k_dim);
        float qv = g->decay * dot_ref(s, q, k_dim);
        float dr = g->beta * (v[r] - kv);
        o[r] = fmaf(g->kq, dr, qv);
        if (d) d[r] = dr;
        replay_ref(s, 1, k_dim, k, g, &dr);
    }
}

static void gated_norm_ref(const float *o, const float *w, const float *z, int n, float eps,
                           float *out)
{
    float r = 1.0f / sqrtf(dot_ref(o, o, n) / (float)n + eps);
    for (int i = 0; i < n; i++) out[i] = ((o[i] * r) * w[i]) * ap_siluf(z[i]);
}

static void conv_ref(const float *const *row, int n_tok, int n_tap, const float *w, int64_t ldw,
                     int n, bool plain, float *out, int64_t ldout)
{
    for (int t = 0; t < n_tok; t++)
        for (int c = 0; c < n; c++) {
            float acc = 0;
            for (int j = 0; j < n_tap; j++) acc = fmaf(w[j * ldw + c], row[t + j][c], acc);
            out[t * ldout + c] = plain ? acc : ap_siluf(acc);
        }
}

static void gemm_ref(int m, int n, int kk, const float *a, int64_t ra, int64_t ca, const float *b,
                     int64_t ldb, float *c, int64_t ldc, bool accumulate, ap_feed *feed)
{
    ap_feed_some(feed);
    for (int i = 0; i < m; i++) {
        float *row = c + i * ldc;
        for (int j = 0; j < n && !accumulate; j++) row[j] = 0;
        for (int k = 0; k < kk; k++)
            for (int j = 0; j < n; j++) row[j] = fmaf(a[i * ra + k * ca], b[k * ldb + j], row[j]);
    }
}

static void solve_ref(int m, int n, const float *a, int64_t lda, float *x, int64_t ldx)
{
    for (int i = 1; i < m; i++)
        for (int j = 0; j < i; j++)
            for (int v = 0; v < n; v++)
                x[i * ldx + v] = fmaf(a[i * lda + j], x[j * ldx + v], x[i * ldx + v]);
}

static void decays_ref(double top, const double *g, int n, float *out)
{
    for (int j = 0; j < n; j++) {
        float x = (float)(top - g[j]), e = ap_expf(x);
        out[j] = fmaf(e, (float)((top - g[j]) - (double)x), e);
    }
}

const ap_micro_recur ap_recur_ref = {
    .dot = dot_ref,
    .scale = scale_ref,
    .gates = gates_ref,
    .exps = recur_exps,
    .step = step_ref,
    .replay = replay_ref,
    .gated_norm = gated_norm_ref,
    .conv = conv_ref,
    .gemm = gemm_ref,
    .solve = solve_ref,
    .decays = decays_ref,
    .transpose = recur_transpose,
    .mul = recur_mul,
    .residual = recur_residual,
    .grow = recur_grow,
};
