/* ops_delta_chunk.c - the delta rule in chunks of 64 tokens, as matrix products.
 *
 * With rows of q^, k^, v as Q, K, V, G the running sum of g in the chunk, D_ij = e^(G_i - G_j):
 *   (I + A) X = R,  A = strict lower part of beta_i (k_i . k_j) D_ij,  R = beta (V - e^G K S)
 *   O = e^G Q S + P X,  P = lower part of (q_i . k_j) D_ij
 *   S' = e^(G_C) S + K^T (e^(G_C - G) X)
 * X is solved for by substitution in blocks of 16, which needs no inverse; of exponentials only
 * those of differences <= 0 are formed, G in double (spec section 3.3). The state is held
 * transposed, [Dk][Dv], between the chunks. A last chunk of fewer tokens is just smaller. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "kern/cpu/delta.h"

#define CHUNK AP_DELTA_CHUNK
#define STRIP 12 /* key channels whose update is formed at once */

typedef struct chunk {
    float *q, *k; /* [CHUNK][Dk] */
    float *kt;    /* [Dk][CHUNK] */
    float *st;    /* [Dk][Dv] */
    float *x;     /* [CHUNK][Dv] */
    float *strip; /* [STRIP][Dv] */
    float *a, *p; /* [CHUNK][CHUNK]; a is -A */
    double sum[CHUNK];
    float beta[CHUNK], decay[CHUNK], row[CHUNK];
    int n;
} chunk;

static float *carve(char *base, size_t *at, size_t count)
{
    float *p = base ? (float *)(void *)(base + *at) : NULL;
    *at += ap_round_up(count * sizeof(float), AP_ALIGN);
    return p;
}

/* Cuts the scratch and returns its size; base may be NULL. */
static size_t layout(chunk *c, char *base, size_t Dk, size_t Dv)
{
    size_t at = 0;
    c->q = carve(base, &at, CHUNK * Dk);
    c->k = carve(base, &at, CHUNK * Dk);
    c->kt = carve(base, &at, CHUNK * Dk);
    c->st = carve(base, &at, Dk * Dv);
    c->x = carve(base, &at, CHUNK * Dv);
    c->strip = carve(base, &at, STRIP * Dv);
    c->a = carve(base, &at, CHUNK * CHUNK);
    c->p = carve(base, &at, CHUNK * CHUNK);
    return at;
}

size_t ap_delta_chunk_bytes(int k_dim, int v_dim)
{
    chunk c;
    return layout(&c, NULL, (size_t)k_dim, (size_t)v_dim);
}

static int min_int(int a, int b)
{
    return a < b ? a : b;
}

/* Rows [t, t + c->n) of the step: q, k, gates. */
static void load(chunk *c, const ap_micro_recur *m, const ap_delta_args *a, int64_t t, int h)
{
    int Dk = a->k_dim;
    double sum = 0;
    for (int i = 0; i < c->n; i++) {
        double g;
        float *k = c->k + i * Dk;
        ap_delta_gate gate = ap_delta_gate_of(a, t + i, h, &g);
        ap_delta_keys(m, a, t + i, h, c->q + i * Dk, k);
        for (int d = 0; d < Dk; d++) c->kt[d * CHUNK + i] = k[d];
        sum += g;
        c->sum[i] = sum;
        c->beta[i] = gate.beta;
        c->decay[i] = (float)exp(sum);
    }
}

/* -A and P, in blocks of rows; beyond the diagonal zero as far as the block of rows goes. */
static void masks(chunk *c, const ap_micro_recur *m, int Dk)
{
    for (int i = 0; i < c->n; i += AP_DELTA_SUB) {
        int rows = min_int(AP_DELTA_SUB, c->n - i), cols = i + rows;
        m->gemm(rows, cols, Dk, c->k + i * Dk, Dk, 1, c->kt, CHUNK, c->a + i * CHUNK, CHUNK, false);
        m->gemm(rows, cols, Dk, c->q + i * Dk, Dk, 1, c->kt, CHUNK, c->p + i * CHUNK, CHUNK, false);
        for (int r = i; r < i + rows; r++) {
            float *a = c->a + r * CHUNK, *p = c->p + r * CHUNK;
            m->decays(c->sum[r], c->sum, r + 1, c->row);
            for (int j = 0; j <= r; j++) {
                a[j] = -(c->beta[r] * a[j]) * c->row[j];
                p[j] = p[j] * c->row[j];
            }
            for (int j = r; j < cols; j++) a[j] = 0;
            for (int j = r + 1; j < cols; j++) p[j] = 0;
        }
    }
}

/* X: the effective updates of the state. */
static void updates(chunk *c, const ap_micro_recur *m, const ap_delta_args *a, int64_t t, int h)
{
    int Dk = a->k_dim, Dv = a->v_dim;
    m->gemm(c->n, Dv, Dk, c->k, Dk, 1, c->st, Dv, c->x, Dv, false);
    for (int i = 0; i < c->n; i++) {
        const float *v = ap_delta_value(a, t + i, h);
        float *x = c->x + i * Dv;
        for (int j = 0; j < Dv; j++) x[j] = c->beta[i] * (v[j] - c->decay[i] * x[j]);
    }
    for (int i = 0; i < c->n; i += AP_DELTA_SUB) {
        int rows = min_int(AP_DELTA_SUB, c->n - i);
        float *x = c->x + i * Dv, *na = c->a + i * CHUNK;
        m->gemm(rows, Dv, i, na, CHUNK, 1, c->x, Dv, x, Dv, true);
        m->solve(rows, Dv, na + i, CHUNK, x, Dv);
    }
}

static void outputs(chunk *c, const ap_micro_recur *m, const ap_delta_args *a, int64_t t, int h)
{
    int Dk = a->k_dim, Dv = a->v_dim;
    int64_t ld = (int64_t)a->n_v_head * Dv;
    float *out = ap_delta_out(a, t, h);
    m->gemm(c->n, Dv, Dk, c->q, Dk, 1, c->st, Dv, out, ld, false);
    for (int i = 0; i < c->n; i++)
        for (int j = 0; j < Dv; j++) out[i * ld + j] *= c->decay[i];
    for (int i = 0; i < c->n; i += AP_DELTA_SUB) {
        int rows = min_int(AP_DELTA_SUB, c->n - i);
        m->gemm(rows, Dv, i + rows, c->p + i * CHUNK, CHUNK, 1, c->x, Dv, out + i * ld, ld, true);
    }
}

static void advance(chunk *c, const ap_micro_recur *m, int Dk, int Dv)
{
    double total = c->sum[c->n - 1];
    float decay = (float)exp(total), less1 = (float)expm1(total);
    for (int i = 0; i < c->n; i++) {
        float rest = (float)exp(total - c->sum[i]);
        for (int j = 0; j < Dv; j++) c->x[i * Dv + j] *= rest;
    }
    for (int d = 0; d < Dk; d += STRIP) {
        int rows = min_int(STRIP, Dk - d);
        float *st = c->st + d * Dv;
        m->gemm(rows, Dv, c->n, c->kt + d * CHUNK, CHUNK, 1, c->x, Dv, c->strip, Dv, false);
        /* as in ap_delta_gate: neither form alone keeps all digits */
        for (int j = 0; j < rows * Dv && decay >= 0.5f; j++)
            st[j] = st[j] + (less1 * st[j] + c->strip[j]);
        for (int j = 0; j < rows * Dv && decay < 0.5f; j++) st[j] = decay * st[j] + c->strip[j];
    }
}

void ap_delta_chunks(const ap_micro_recur *m, const ap_delta_args *a, const ap_recur_seq *s, int h,
                     void *scratch)
{
    int Dk = a->k_dim, Dv = a->v_dim;
    float *state = s->delta_state + (size_t)h * (size_t)Dv * (size_t)Dk;
    chunk c;
    layout(&c, scratch, (size_t)Dk, (size_t)Dv);
    for (int v = 0; v < Dv; v++)
        for (int d = 0; d < Dk; d++) c.st[d * Dv + v] = state[v * Dk + d];
    for (int t = 0; t < s->n_tok; t += CHUNK) {
        c.n = min_int(CHUNK, s->n_tok - t);
        load(&c, m, a, s->begin + t, h);
        masks(&c, m, Dk);
        updates(&c, m, a, s->begin + t, h);
        outputs(&c, m, a, s->begin + t, h);
        advance(&c, m, Dk, Dv);
    }
    for (int v = 0; v < Dv; v++)
        for (int d = 0; d < Dk; d++) state[v * Dk + d] = c.st[d * Dv + v];
}
