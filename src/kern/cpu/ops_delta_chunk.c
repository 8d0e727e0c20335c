/* ops_delta_chunk.c - the delta rule in chunks of 64 tokens, as matrix products.
 *
 * With rows of q^, k^, v as Q, K, V, G the running sum of g in the chunk, D_ij = e^(G_i - G_j):
 *   (I + A) X = R,  A = strict lower part of beta_i (k_i . k_j) D_ij,  R = beta (V - e^G K S)
 *   O = e^G Q S + P X,  P = lower part of (q_i . k_j) D_ij
 *   S' = e^(G_C) S + K^T (e^(G_C - G) X)
 * X is solved for by substitution in blocks of 16, which needs no inverse; of exponentials only
 * those of differences <= 0 are formed, G in double (spec section 3.3). The state is held
 * transposed, [Dk][Dv], between the chunks. A last chunk of fewer tokens is just smaller.
 * Q, K and their products are made once for all value heads of a task. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "kern/cpu/delta.h"

#define CHUNK AP_DELTA_CHUNK
#define STRIP 12 /* key channels whose update is formed at once */
#define AHEAD 8  /* rows to prefetch ahead */

typedef struct chunk {
    const ap_micro_recur *m;
    const ap_delta_args *a;
    int64_t t; /* row of the first token */
    int n;
    float *q, *k;   /* [CHUNK][Dk] */
    float *kt;      /* [Dk][CHUNK] */
    float *kk, *qk; /* [CHUNK][CHUNK] k_i . k_j, q_i . k_j; j up to the end of i's block */
    float *st;      /* [heads][Dk][Dv] */
    float *x, *o;   /* [CHUNK][Dv] */
    float *strip;   /* [STRIP][Dv] */
    float *na, *p;  /* [CHUNK][CHUNK]: -A, P */
    double sum[CHUNK];
    float beta[CHUNK], decay[CHUNK], rest[CHUNK];
} chunk;

static float *carve(char *base, size_t *at, size_t count)
{
    float *p = base ? (float *)(void *)(base + *at) : NULL;
    *at += ap_round_up(count * sizeof(float), AP_ALIGN);
    return p;
}

/* Cuts the scratch and returns its size; base may be NULL. */
static size_t layout(chunk *c, char *base, size_t Dk, size_t Dv, size_t heads)
{
    size_t at = 0;
    c->q = carve(base, &at, CHUNK * Dk);
    c->k = carve(base, &at, CHUNK * Dk);
    c->kt = carve(base, &at, CHUNK * Dk);
    c->kk = carve(base, &at, CHUNK * CHUNK);
    c->qk = carve(base, &at, CHUNK * CHUNK);
    c->st = carve(base, &at, heads * Dk * Dv);
    c->x = carve(base, &at, CHUNK * Dv);
    c->o = carve(base, &at, CHUNK * Dv);
    c->strip = carve(base, &at, STRIP * Dv);
    c->na = carve(base, &at, CHUNK * CHUNK);
    c->p = carve(base, &at, CHUNK * CHUNK);
    return at;
}

size_t ap_delta_chunk_bytes(int k_dim, int v_dim, int n_heads)
{
    chunk c;
    return layout(&c, NULL, (size_t)k_dim, (size_t)v_dim, (size_t)n_heads);
}

static int min_int(int a, int b)
{
    return a < b ? a : b;
}

/* q^, k^ and their products. */
static void load_keys(chunk *c, int key_head)
{
    int Dk = c->a->k_dim;
    int64_t to_key = (int64_t)c->a->n_k_head * Dk;
    for (int i = 0; i < c->n; i++) {
        if (i + AHEAD < c->n) {
            const float *next = ap_delta_query(c->a, c->t + i + AHEAD, key_head);
            ap_prefetch_row(next, Dk);
            ap_prefetch_row(next + to_key, Dk);
        }
        ap_delta_keys(c->m, c->a, c->t + i, key_head, c->q + i * Dk, c->k + i * Dk);
    }
    c->m->transpose(c->k, Dk, c->n, Dk, c->kt, CHUNK);
    for (int i = 0; i < c->n; i += AP_DELTA_SUB) {
        int rows = min_int(AP_DELTA_SUB, c->n - i), cols = i + rows;
        float *kk = c->kk + i * CHUNK, *qk = c->qk + i * CHUNK;
        c->m->gemm(rows, cols, Dk, c->k + i * Dk, Dk, 1, c->kt, CHUNK, kk, CHUNK, false);
        c->m->gemm(rows, cols, Dk, c->q + i * Dk, Dk, 1, c->kt, CHUNK, qk, CHUNK, false);
    }
}

/* Returns how the state decays over the chunk. */
static ap_delta_gate load_gates(chunk *c, int h)
{
    float unused[CHUNK];
    ap_delta_gate all = {0};
    double sum = 0;
    ap_delta_gates(c->m, c->a, c->t, c->n, h, c->sum, c->beta);
    for (int i = 0; i < c->n; i++) c->sum[i] = sum = sum + c->sum[i];
    c->m->exps(c->n, 0, 1, c->sum, c->decay, unused);
    c->m->exps(c->n, sum, -1, c->sum, c->rest, unused);
    c->m->exps(1, 0, 1, &sum, &all.decay, &all.decay_less1);
    all.weak = all.decay >= 0.5f;
    return all;
}

/* -A and P; beyond the diagonal zero as far as the block of rows goes. */
static void masks(chunk *c)
{
    float by[CHUNK];
    for (int i = 0; i < c->n; i++) {
        int end = min_int(c->n, (i / AP_DELTA_SUB + 1) * AP_DELTA_SUB);
        float *na = c->na + i * CHUNK, *p = c->p + i * CHUNK;
        c->m->decays(c->sum[i], c->sum, i + 1, by);
        c->m->mul(-c->beta[i], c->kk + i * CHUNK, by, i, na);
        c->m->mul(1, c->qk + i * CHUNK, by, i + 1, p);
        memset(na + i, 0, (size_t)(end - i) * sizeof *na);
        memset(p + i + 1, 0, (size_t)(end - i - 1) * sizeof *p);
    }
}

/* X: the effective updates of the state. */
static void updates(chunk *c, const float *st, int h)
{
    int Dk = c->a->k_dim, Dv = c->a->v_dim;
    c->m->gemm(c->n, Dv, Dk, c->k, Dk, 1, st, Dv, c->x, Dv, false);
    for (int i = 0; i < c->n; i++) {
        if (i + AHEAD < c->n) ap_prefetch_row(ap_delta_value(c->a, c->t + i + AHEAD, h), Dv);
        c->m->residual(c->x + i * Dv, ap_delta_value(c->a, c->t + i, h), c->decay[i], c->beta[i],
                       Dv);
    }
    for (int i = 0; i < c->n; i += AP_DELTA_SUB) {
        int rows = min_int(AP_DELTA_SUB, c->n - i);
        float *x = c->x + i * Dv, *na = c->na + i * CHUNK;
        c->m->gemm(rows, Dv, i, na, CHUNK, 1, c->x, Dv, x, Dv, true);
        c->m->solve(rows, Dv, na + i, CHUNK, x, Dv);
    }
}

static void outputs(chunk *c, const float *st, int h)
{
    int Dk = c->a->k_dim, Dv = c->a->v_dim;
    c->m->gemm(c->n, Dv, Dk, c->q, Dk, 1, st, Dv, c->o, Dv, false);
    for (int i = 0; i < c->n; i++) c->m->scale(c->o + i * Dv, c->decay[i], 1.0f, Dv, c->o + i * Dv);
    for (int i = 0; i < c->n; i += AP_DELTA_SUB) {
        int rows = min_int(AP_DELTA_SUB, c->n - i);
        c->m->gemm(rows, Dv, i + rows, c->p + i * CHUNK, CHUNK, 1, c->x, Dv, c->o + i * Dv, Dv,
                   true);
    }
    for (int i = 0; i < c->n; i++) {
        if (i + AHEAD < c->n) ap_prefetch_row(ap_delta_z(c->a, c->t + i + AHEAD, h), Dv);
        c->m->gated_norm(c->o + i * Dv, c->a->norm_weight, ap_delta_z(c->a, c->t + i, h), Dv,
                         c->a->eps, ap_delta_out(c->a, c->t + i, h));
    }
}

static void advance(chunk *c, float *st, const ap_delta_gate *all)
{
    int Dk = c->a->k_dim, Dv = c->a->v_dim;
    for (int i = 0; i < c->n; i++) c->m->scale(c->x + i * Dv, c->rest[i], 1.0f, Dv, c->x + i * Dv);
    for (int d = 0; d < Dk; d += STRIP) {
        int rows = min_int(STRIP, Dk - d);
        c->m->gemm(rows, Dv, c->n, c->kt + d * CHUNK, CHUNK, 1, c->x, Dv, c->strip, Dv, false);
        c->m->grow(st + d * Dv, c->strip, all, rows * Dv);
    }
}

void ap_delta_chunks(const ap_micro_recur *m, const ap_delta_args *a, const ap_recur_seq *s,
                     const ap_delta_heads *heads, void *scratch)
{
    int Dk = a->k_dim, Dv = a->v_dim;
    size_t size = (size_t)Dv * (size_t)Dk;
    chunk c = {.m = m, .a = a};
    layout(&c, scratch, (size_t)Dk, (size_t)Dv, (size_t)heads->n);
    for (int i = 0; i < heads->n; i++) {
        int h = heads->first + i * heads->stride;
        m->transpose(s->delta_state + (size_t)h * size, Dk, Dv, Dk, c.st + (size_t)i * size, Dv);
    }
    for (int t = 0; t < s->n_tok; t += CHUNK) {
        c.t = s->begin + t;
        c.n = min_int(CHUNK, s->n_tok - t);
        load_keys(&c, heads->key);
        for (int i = 0; i < heads->n; i++) {
            int h = heads->first + i * heads->stride;
            float *st = c.st + (size_t)i * size;
            ap_delta_gate all = load_gates(&c, h);
            masks(&c);
            updates(&c, st, h);
            outputs(&c, st, h);
            advance(&c, st, &all);
        }
    }
    for (int i = 0; i < heads->n; i++) {
        int h = heads->first + i * heads->stride;
        m->transpose(c.st + (size_t)i * size, Dv, Dk, Dv, s->delta_state + (size_t)h * size, Dk);
    }
}
