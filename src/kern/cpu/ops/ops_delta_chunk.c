/* ops_delta_chunk.c - the delta rule in chunks of 64 tokens, as matrix products.
 *
 * With rows of q^, k^, v as Q, K, V, G the running sum of g in the chunk, D_ij = e^(G_i - G_j):
 *   (I + A) X = R,  A = strict lower part of beta_i (k_i . k_j) D_ij,  R = beta (V - e^G K S)
 *   O = e^G Q S + P X,  P = lower part of (q_i . k_j) D_ij
 *   S' = e^(G_C) S + K^T (e^(G_C - G) X)
 * X is solved for by substitution in blocks of 16, which needs no inverse; of exponentials only
 * those of differences <= 0 are formed, G in double (spec section 3.3). The state is held
 * transposed, [Dk][Dv], between the chunks. A last chunk of fewer tokens is just smaller.
 * Q, K and their products are made once for all value heads of a task.
 *
 * With precision FAST and matrix tiles (ap_micro_split) the products run there, on inputs split into
 * two bf16; the substitution stays f32, and the state is f32 between the chunks. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/num.h"
#include "kern/cpu/ops/delta.h"

#define CHUNK       AP_DELTA_CHUNK
#define STRIP       12 /* key channels whose update is formed at once */
#define SPLIT_STRIP 32

typedef struct chunk {
    const ap_micro_recur *m;
    const ap_delta_args *a;
    int64_t t, ld; /* row of the first token; floats from row to row of qkv */
    int n;
    float *q, *k;   /* [CHUNK][Dk] */
    float *kt;      /* [Dk][CHUNK] */
    float *kk, *qk; /* [CHUNK][CHUNK] k_i . k_j, q_i . k_j; j up to the end of i's block */
    float *st;      /* [heads][Dk][Dv] */
    float *x, *o;   /* [CHUNK][Dv] */
    float *v, *z;   /* [CHUNK][Dv] of the step */
    float *raw;     /* [2][CHUNK][Dk]: q and k of the step, for the chunk that comes next */
    float *strip;   /* [STRIP or SPLIT_STRIP][Dv] */
    float *na, *p;  /* [CHUNK][CHUNK]: -A, P */
    double sum[CHUNK];
    float beta[CHUNK], decay[CHUNK], rest[CHUNK];

    const ap_micro_split *split; /* NULL: all products in f32 */
    uint8_t *q_left, *k_left, *kt_left, *kt_right, *st_right, *p_left, *x_right;
} chunk;

static float *carve(char *base, size_t *at, size_t count)
{
    float *p = base ? (float *)(void *)(base + *at) : NULL;
    *at += ap_round_up(count * sizeof(float), AP_ALIGN);
    return p;
}

static uint8_t *carve_split(char *base, size_t *at, size_t count)
{
    return (uint8_t *)carve(base, at, count); /* two bf16 are as large as a float */
}

/* Can products of this size run on matrix tiles? */
static bool can_split(const ap_micro_recur *m, size_t Dk, size_t Dv)
{
    return m->split && Dk % 32 == 0 && Dv % 32 == 0;
}

/* Cuts the scratch and returns its size; base may be NULL. */
static size_t layout(chunk *c, char *base, size_t Dk, size_t Dv, size_t heads, bool split)
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
    c->v = carve(base, &at, CHUNK * Dv);
    c->z = carve(base, &at, CHUNK * Dv);
    c->raw = carve(base, &at, 2 * CHUNK * Dk);
    c->strip = carve(base, &at, (split ? SPLIT_STRIP : STRIP) * Dv);
    c->na = carve(base, &at, CHUNK * CHUNK);
    c->p = carve(base, &at, CHUNK * CHUNK);
    if (!split) return at;
    c->q_left = carve_split(base, &at, CHUNK * Dk);
    c->k_left = carve_split(base, &at, CHUNK * Dk);
    c->kt_left = carve_split(base, &at, CHUNK * Dk);
    c->kt_right = carve_split(base, &at, CHUNK * Dk);
    c->st_right = carve_split(base, &at, Dk * Dv);
    c->p_left = carve_split(base, &at, CHUNK * CHUNK);
    c->x_right = carve_split(base, &at, CHUNK * Dv);
    return at;
}

size_t ap_delta_chunk_bytes(const ap_micro_recur *m, int k_dim, int v_dim, int n_heads)
{
    chunk c;
    size_t Dk = (size_t)k_dim, Dv = (size_t)v_dim;
    return layout(&c, NULL, Dk, Dv, (size_t)n_heads, can_split(m, Dk, Dv));
}

/* Tiles of the chunk's rows: even. */
static int row_tiles(const chunk *c)
{
    return (c->n + 31) / 32 * 2;
}

/* Rows a product takes on its way after each tile, so that it has taken all 64 at the end. */
static int feed_each(const chunk *c)
{
    return c->split ? 12 : 4;
}

/* out = q or k (in tiles: left) times st, while rows are copied. */
static void meet_state(chunk *c, const float *x, const uint8_t *left, const float *st, float *out,
                       ap_feed *feed)
{
    int Dk = c->a->k_dim, Dv = c->a->v_dim, steps = Dk / 32;
    if (c->split)
        c->split->product(row_tiles(c), Dv / 16, steps, left, steps, c->st_right, steps, out, Dv,
                          false, feed);
    else
        c->m->gemm(c->n, Dv, Dk, x, Dk, 1, st, Dv, out, Dv, false, feed);
    ap_feed_rest(feed);
}

/* n rows of q or, with part = 1, of k from row t on. */
static ap_feed feed_keys(const chunk *c, int key_head, int part, int64_t t, int n)
{
    int64_t Dk = c->a->k_dim;
    return (ap_feed){.from = ap_delta_query(c->a, t, key_head) + part * c->a->n_k_head * Dk,
                     .to = c->raw + part * CHUNK * Dk,
                     .ld = c->ld,
                     .width = c->a->k_dim,
                     .n = n,
                     .each = feed_each(c)};
}

/* What load_keys does, in tiles. */
static void split_keys(chunk *c)
{
    const ap_micro_split *s = c->split;
    int Dk = c->a->k_dim, steps = Dk / 32, tiles = row_tiles(c);
    s->left(c->q, Dk, c->n, Dk, tiles, steps, c->q_left);
    s->left(c->k, Dk, c->n, Dk, tiles, steps, c->k_left);
    s->left(c->kt, CHUNK, Dk, c->n, Dk / 16, CHUNK / 32, c->kt_left);
    s->right(c->kt, CHUNK, Dk, c->n, tiles, steps, c->kt_right);
    for (int i = 0; i < tiles; i += 2) {
        size_t at = (size_t)(i * steps) * AP_SPLIT_PAIR, to = (size_t)i * 16 * CHUNK;
        s->product(2, i + 2, steps, c->k_left + at, steps, c->kt_right, steps, c->kk + to, CHUNK,
                   false, NULL);
        s->product(2, i + 2, steps, c->q_left + at, steps, c->kt_right, steps, c->qk + to, CHUNK,
                   false, NULL);
    }
}

/* q^, k^ and their products. */
static void load_keys(chunk *c)
{
    int Dk = c->a->k_dim;
    const float *q = c->raw, *k = q + CHUNK * Dk;
    for (int i = 0; i < c->n; i++)
        ap_delta_keys(c->m, q + i * Dk, k + i * Dk, Dk, c->q + i * Dk, c->k + i * Dk);
    c->m->transpose(c->k, Dk, c->n, Dk, c->kt, CHUNK);
    if (c->split) {
        split_keys(c);
        return;
    }
    for (int i = 0; i < c->n; i += AP_DELTA_SUB) {
        int rows = ap_min_int(AP_DELTA_SUB, c->n - i), cols = i + rows;
        float *kk = c->kk + i * CHUNK, *qk = c->qk + i * CHUNK;
        c->m->gemm(rows, cols, Dk, c->k + i * Dk, Dk, 1, c->kt, CHUNK, kk, CHUNK, false, NULL);
        c->m->gemm(rows, cols, Dk, c->q + i * Dk, Dk, 1, c->kt, CHUNK, qk, CHUNK, false, NULL);
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
    int block = c->split ? SPLIT_STRIP : AP_DELTA_SUB; /* rows that are multiplied at once */
    for (int i = 0; i < c->n; i++) {
        int end = ap_min_int(c->n, (i / block + 1) * block);
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
    ap_feed values = {.from = ap_delta_value(c->a, c->t, h),
                      .to = c->v,
                      .ld = c->ld,
                      .width = Dv,
                      .n = c->n,
                      .each = feed_each(c)};
    if (c->split) c->split->right(st, Dv, Dk, Dv, Dv / 16, Dk / 32, c->st_right);
    meet_state(c, c->k, c->k_left, st, c->x, &values);
    for (int i = 0; i < c->n; i++)
        c->m->residual(c->x + i * Dv, c->v + i * Dv, c->decay[i], c->beta[i], Dv);
    for (int i = 0; i < c->n; i += AP_DELTA_SUB) {
        int rows = ap_min_int(AP_DELTA_SUB, c->n - i);
        float *x = c->x + i * Dv, *na = c->na + i * CHUNK;
        c->m->gemm(rows, Dv, i, na, CHUNK, 1, c->x, Dv, x, Dv, true, NULL);
        c->m->solve(rows, Dv, na + i, CHUNK, x, Dv);
    }
}

/* o += P X in tiles. */
static void split_outputs(chunk *c)
{
    int Dv = c->a->v_dim, tiles = row_tiles(c), steps = CHUNK / 32;
    c->split->left(c->p, CHUNK, c->n, c->n, tiles, steps, c->p_left);
    c->split->right(c->x, Dv, c->n, Dv, Dv / 16, steps, c->x_right);
    for (int i = 0; i < tiles; i += 2)
        c->split->product(2, Dv / 16, i / 2 + 1, c->p_left + i * steps * AP_SPLIT_PAIR, steps,
                          c->x_right, steps, c->o + (int64_t)i * 16 * Dv, Dv, true, NULL);
}

static void outputs(chunk *c, const float *st, int h)
{
    int Dv = c->a->v_dim;
    ap_feed gates = {.from = ap_delta_z(c->a, c->t, h),
                     .to = c->z,
                     .ld = c->a->ldz,
                     .width = Dv,
                     .n = c->n,
                     .each = feed_each(c)};
    meet_state(c, c->q, c->q_left, st, c->o, &gates);
    for (int i = 0; i < c->n; i++) c->m->scale(c->o + i * Dv, c->decay[i], 1.0f, Dv, c->o + i * Dv);
    if (c->split) split_outputs(c);
    for (int i = 0; i < c->n && !c->split; i += AP_DELTA_SUB) {
        int rows = ap_min_int(AP_DELTA_SUB, c->n - i);
        c->m->gemm(rows, Dv, i + rows, c->p + i * CHUNK, CHUNK, 1, c->x, Dv, c->o + i * Dv, Dv,
                   true, NULL);
    }
    for (int i = 0; i < c->n; i++)
        c->m->gated_norm(c->o + i * Dv, c->a->norm_weight, c->z + i * Dv, Dv, c->a->eps,
                         ap_delta_out(c->a, c->t + i, h));
}

/* The state after the chunk, while q and k of the next one are copied. */
static void advance(chunk *c, float *st, const ap_delta_gate *all, ap_feed *next)
{
    int Dk = c->a->k_dim, Dv = c->a->v_dim;
    for (int i = 0; i < c->n; i++) c->m->scale(c->x + i * Dv, c->rest[i], 1.0f, Dv, c->x + i * Dv);
    int steps = CHUNK / 32, strip = c->split ? SPLIT_STRIP : STRIP;
    if (c->split) c->split->right(c->x, Dv, c->n, Dv, Dv / 16, steps, c->x_right);
    for (int d = 0; d < Dk; d += strip) {
        int rows = ap_min_int(strip, Dk - d);
        ap_feed *feed = next[0].done < next[0].n ? next : next + 1;
        if (c->split)
            c->split->product(2, Dv / 16, (c->n + 31) / 32,
                              c->kt_left + d / 16 * steps * AP_SPLIT_PAIR, steps, c->x_right, steps,
                              c->strip, Dv, false, feed);
        else
            c->m->gemm(rows, Dv, c->n, c->kt + d * CHUNK, CHUNK, 1, c->x, Dv, c->strip, Dv, false,
                       feed);
        c->m->grow(st + d * Dv, c->strip, all, rows * Dv);
    }
}

void ap_delta_chunks(const ap_micro_recur *m, const ap_delta_args *a, const ap_seq *s,
                     const ap_delta_heads *heads, bool fast, void *scratch)
{
    int Dk = a->k_dim, Dv = a->v_dim;
    size_t size = (size_t)Dv * (size_t)Dk;
    float *state = ap_recur_state(&a->state, s);
    chunk c = {.m = m, .a = a};
    if (fast && can_split(m, (size_t)Dk, (size_t)Dv)) c.split = m->split;
    layout(&c, scratch, (size_t)Dk, (size_t)Dv, (size_t)heads->n, c.split != NULL);
    if (c.split) c.split->begin();
    for (int i = 0; i < heads->n; i++) {
        int h = heads->first + i * heads->stride;
        m->transpose(state + (size_t)h * size, Dk, Dv, Dk, c.st + (size_t)i * size, Dv);
    }
    c.ld = ap_delta_row(a, 1) - ap_delta_row(a, 0);
    int n = ap_min_int(CHUNK, s->n_tok);
    ap_feed next[] = {feed_keys(&c, heads->key, 0, s->begin, n),
                      feed_keys(&c, heads->key, 1, s->begin, n)};
    for (int t = 0; t < s->n_tok; t += CHUNK) {
        c.t = s->begin + t;
        c.n = n;
        ap_feed_rest(&next[0]);
        ap_feed_rest(&next[1]);
        load_keys(&c);
        n = ap_min_int(CHUNK, s->n_tok - t - c.n);
        for (int part = 0; part < 2 && n > 0; part++)
            next[part] = feed_keys(&c, heads->key, part, c.t + c.n, n);
        for (int i = 0; i < heads->n; i++) {
            int h = heads->first + i * heads->stride;
            float *st = c.st + (size_t)i * size;
            ap_delta_gate all = load_gates(&c, h);
            masks(&c);
            updates(&c, st, h);
            outputs(&c, st, h);
            advance(&c, st, &all, next);
        }
    }
    for (int i = 0; i < heads->n; i++) {
        int h = heads->first + i * heads->stride;
        m->transpose(c.st + (size_t)i * size, Dv, Dk, Dv, state + (size_t)h * size, Dk);
    }
    if (c.split) c.split->end();
}
