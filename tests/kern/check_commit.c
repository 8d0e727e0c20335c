/* check_commit.c - rows whose states are kept back: convolution and delta rule put out what they put out otherwise and
 * leave the states alone, and commit makes of them, to the bit, what as many rows would have left. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kcheck.h"

#define MAX_SEQ 4
#define LAYERS  2

typedef struct shape {
    int Hk, Hv, Dk, Dv, taps;
    bool tiled;
    int n_seq, n_tok[MAX_SEQ], counted[MAX_SEQ]; /* of them; n_tok: negative are replaced at once */
} shape;

static const shape shapes[] = {
    {1, 1, 16, 16, 4, false, 1, {1}, {1}},
    {2, 4, 32, 24, 4, false, 3, {5, -1, 3}, {2, 0, 3}},
    {2, 6, 16, 40, 4, true, 4, {15, 2, -7, 4}, {15, 1, 0, 0}},
    {1, 3, 7, 5, 2, false, 2, {4, 9}, {3, 1}},
    {1, 2, 130, 17, 7, false, 2, {3, 12}, {1, 8}},
    {4, 8, 128, 128, 4, false, 2, {4, 6}, {4, 2}},
};

typedef struct setup {
    const shape *s;
    int T, C, seen[MAX_SEQ];
    size_t conv_floats, state_floats, block_floats, out_floats, kept_rows, row_floats;
    ap_batch *all, *counted; /* the sequences; those that keep rows, with as many as count */
    float *state;            /* [n_seq][LAYERS][conv | delta] */
    ap_conv_args conv;
    ap_delta_args delta;
} setup;

static float *on_vector(kc *c, size_t n, double scale)
{
    return kc_copy(c, kc_in(c, n, scale), n);
}

/* The kept rows of a sequence follow those of the one before it, with one between them that nobody has. */
static void share_rows(setup *u)
{
    int keep = 1;
    for (int i = 0; i < u->s->n_seq; i++) {
        ((ap_seq *)u->all->seq)[i].keep = u->s->n_tok[i] > 0 ? keep : -1;
        if (u->s->n_tok[i] > 0) keep += u->s->n_tok[i] + 1;
    }
    u->kept_rows = (size_t)keep;
}

static void make(kc *c, const shape *s, setup *u)
{
    *u = (setup){.s = s, .C = 2 * s->Hk * s->Dk + s->Hv * s->Dv};
    int pos[MAX_SEQ] = {0};
    for (int i = 0; i < s->n_seq; i++) u->T += u->seen[i] = abs(s->n_tok[i]);
    size_t T = (size_t)u->T, C = (size_t)u->C, Hv = (size_t)s->Hv, Dv = (size_t)s->Dv;
    u->conv_floats = ((size_t)(s->taps - 1) * C + 15) / 16 * 16;
    u->state_floats = u->conv_floats + (Hv * Dv * (size_t)s->Dk + 15) / 16 * 16;
    u->block_floats = LAYERS * u->state_floats;
    u->out_floats = T * Hv * Dv;
    u->row_floats = ap_kept_floats(s->Hk, s->Hv, s->Dk, s->Dv);
    u->all = kc_batch(c, s->n_seq, pos, u->seen, NULL, 0);
    share_rows(u);
    u->state = on_vector(c, (size_t)s->n_seq * u->block_floats, 0.3);
    float *neg_a = kc_in(c, Hv, 1);
    for (size_t h = 0; h < Hv; h++) neg_a[h] = -expf(2 * (float)ap_rng_normal(&c->rng));
    u->conv = (ap_conv_args){.x = kc_in(c, T * (C + 3), 1),
                             .ldx = u->C + 3,
                             .weight = kc_in(c, (size_t)s->taps * C, 1),
                             .n_tok = u->T,
                             .n_channel = u->C,
                             .n_tap = s->taps};
    u->delta = (ap_delta_args){.a = kc_in(c, T * (Hv + 1), 1),
                               .lda = s->Hv + 1,
                               .b = kc_in(c, T * (Hv + 2), 1),
                               .ldb = s->Hv + 2,
                               .z = kc_in(c, T * (Hv * Dv + 3), 1),
                               .ldz = s->Hv * s->Dv + 3,
                               .neg_exp_a = neg_a,
                               .dt_bias = kc_in(c, Hv, 2),
                               .norm_weight = kc_in(c, Dv, 1),
                               .eps = 1e-6f,
                               .n_tok = u->T,
                               .n_k_head = s->Hk,
                               .n_v_head = s->Hv,
                               .k_dim = s->Dk,
                               .v_dim = s->Dv,
                               .tiled = s->tiled};
}

/* Both operations over a batch, for each layer; kept NULL: states are replaced. */
static void run_rows(kc *c, const setup *u, const ap_exec *ex, const ap_batch *b, float *state,
                     float *kept, float *out)
{
    const shape *s = u->s;
    size_t bytes = ex->k->delta_scratch_bytes(ex, u->T, s->Hk, s->Hv, s->Dk, s->Dv);
    for (int l = 0; l < LAYERS; l++) {
        ap_conv_args conv = u->conv;
        ap_delta_args delta = u->delta;
        ap_kept_rows keep = {kept ? kept + (size_t)l * u->kept_rows * u->row_floats : NULL,
                             u->row_floats};
        size_t at = (size_t)l * u->state_floats;
        conv.kept = delta.kept = keep;
        conv.state = (ap_recur_at){state, u->block_floats, at, b};
        delta.state = (ap_recur_at){state, u->block_floats, at + u->conv_floats, b};
        conv.out = kc_out(c, (size_t)u->T * (size_t)u->C);
        delta.qkv = conv.out;
        delta.out = out + (size_t)l * u->out_floats;
        delta.form = AP_DELTA_CHUNKED; /* so few rows go one by one nevertheless */
        delta.scratch = kc_bytes(c, bytes);
        if (l == 0) {
            kc_call(ex, conv, &conv);
            kc_call(ex, delta, &delta);
            continue;
        }
        ap_recur_args both = {.conv = conv, .delta = delta};
        kc_call(ex, recur, &both);
    }
}

/* A batch of the sequences that keep rows: n_tok of each, from its kept row `from` on. */
static ap_batch *counted(kc *c, const setup *u, const int *from, const int *n_tok)
{
    int n = 0, pos[MAX_SEQ] = {0}, tok[MAX_SEQ] = {0}, which[MAX_SEQ] = {0};
    for (int i = 0; i < u->s->n_seq; i++)
        if (u->s->n_tok[i] > 0 && n_tok[i] > 0) tok[n] = n_tok[i], which[n++] = i;
    if (!n) return NULL;
    ap_batch *b = kc_batch(c, n, pos, tok, NULL, 0);
    for (int i = 0; i < n; i++) {
        ap_seq *s = (ap_seq *)&b->seq[i];
        s->state = which[i];
        s->keep = u->all->seq[which[i]].keep + from[which[i]];
    }
    return b;
}

static void commit(const setup *u, const ap_exec *ex, const ap_batch *b, float *state,
                   const float *kept)
{
    const shape *s = u->s;
    if (!b) return;
    ap_commit_args a = {.kept = kept,
                        .row_floats = u->row_floats,
                        .layer_floats = u->kept_rows * u->row_floats,
                        .conv = {state, u->block_floats, 0, b},
                        .delta = {state, u->block_floats, u->conv_floats, b},
                        .state_floats = u->state_floats,
                        .n_layer = LAYERS,
                        .n_tap = s->taps,
                        .n_k_head = s->Hk,
                        .n_v_head = s->Hv,
                        .k_dim = s->Dk,
                        .v_dim = s->Dv,
                        .tiled = s->tiled};
    kc_call(ex, commit, &a);
}

/* States after the rows that count, row by row, without keeping any. */
static float *plain_states(kc *c, const setup *u, const ap_exec *ex)
{
    float *state = kc_copy(c, u->state, (size_t)u->s->n_seq * u->block_floats);
    float *unused = kc_out(c, LAYERS * u->out_floats);
    for (int i = 0; i < u->s->n_seq; i++) {
        int n = u->s->n_tok[i] > 0 ? u->s->counted[i] : u->seen[i];
        for (int t = 0; t < n; t++) {
            setup one = *u;
            int64_t row = u->all->seq[i].begin + t;
            one.conv.x += row * one.conv.ldx;
            one.delta.a += row * one.delta.lda;
            one.delta.b += row * one.delta.ldb;
            one.delta.z += row * one.delta.ldz;
            one.T = one.conv.n_tok = one.delta.n_tok = 1;
            run_rows(c, &one, ex, kc_piece(c, u->all, i, t, 1), state, NULL, unused);
        }
    }
    return state;
}

static void check_kern(kc *c, const setup *u, const kc_kern *who, const ap_exec *ex,
                       const float *ref_out, const float *ref_state)
{
    int64_t S = u->s->n_seq, B = (int64_t)u->block_floats, n = (int64_t)u->out_floats;
    int none[MAX_SEQ] = {0}, some[MAX_SEQ], rest[MAX_SEQ];
    float *kept = kc_out(c, LAYERS * u->kept_rows * u->row_floats);
    float *out = kc_out(c, LAYERS * u->out_floats), *plain = kc_out(c, LAYERS * u->out_floats);
    float *state = kc_copy(c, u->state, (size_t)(S * B)),
          *other = kc_copy(c, u->state, (size_t)(S * B));
    run_rows(c, u, ex, u->all, other, NULL, plain);
    run_rows(c, u, ex, u->all, state, kept, out);
    kc_again(c, who, "out of kept rows", out, n, plain, n, LAYERS, n);
    kc_same(c, who, "out", out, n, ref_out ? ref_out : plain, n, LAYERS, n);
    for (int i = 0; i < S; i++) {
        const float *want = u->s->n_tok[i] > 0 ? u->state + i * B : other + i * B;
        kc_again(c, who, "states that stay", state + i * B, B, want, B, 1, B);
        some[i] = u->s->counted[i] / 2;
        rest[i] = u->s->counted[i] - some[i];
    }
    memcpy(other, state, (size_t)(S * B) * sizeof *state);
    const float *want = plain_states(c, u, ex);
    commit(u, ex, counted(c, u, none, u->s->counted), state, kept);
    kc_again(c, who, "states", state, B, want, B, S, B);
    if (ref_state) kc_same(c, who, "states", state, B, ref_state, B, S, B);
    commit(u, ex, counted(c, u, none, some), other, kept);
    commit(u, ex, counted(c, u, some, rest), other, kept);
    kc_again(c, who, "states in two parts", other, B, want, B, S, B);
}

void check_commit(kc *c)
{
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const shape *s = &shapes[i];
        setup u;
        make(c, s, &u);
        kc_case(c, "T=%d S=%d Hk=%d Hv=%d Dk=%d Dv=%d", u.T, s->n_seq, s->Hk, s->Hv, s->Dk, s->Dv);
        check_kern(c, &u, NULL, c->ref, NULL, NULL);
        float *out = kc_out(c, LAYERS * u.out_floats);
        float *state = kc_copy(c, u.state, (size_t)s->n_seq * u.block_floats);
        run_rows(c, &u, c->ref, u.all, state, NULL, out);
        state = plain_states(c, &u, c->ref);
        for (int k = 0; k < c->n_kern; k++)
            check_kern(c, &u, &c->kern[k], &c->kern[k].x, out, state);
    }
}

typedef struct timed {
    const setup *u;
    const ap_batch *b;
    float *state, *kept;
} timed;

static void run(const ap_exec *ex, void *arg)
{
    const timed *t = arg;
    commit(t->u, ex, t->b, t->state, t->kept);
}

void bench_commit(kc_bench *b)
{
    static const shape of[] = {{16, 32, 128, 128, 4, false, 1, {4}, {1}},
                               {16, 32, 128, 128, 4, false, 1, {4}, {4}}};
    for (int i = 0; i < 2; i++) {
        setup u;
        int none[MAX_SEQ] = {0};
        make(b->c, &of[i], &u);
        timed t = {&u, counted(b->c, &u, none, of[i].counted),
                   kc_copy(b->c, u.state, u.block_floats),
                   kc_in(b->c, LAYERS * u.kept_rows * u.row_floats, 0.01)};
        kc_time(b, i == 0 ? "1 row, 2 layers" : "4 rows, 2 layers", 0,
                2.0 * sizeof(float) * (double)u.block_floats, run, &t);
    }
}
