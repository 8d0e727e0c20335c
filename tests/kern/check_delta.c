/* check_delta.c - the gated delta rule: both forms against the recurrence in f64, the recurrent
 * form over pieces of a text to the bit, and its state after 32,768 tokens. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kcheck.h"
#include "kern/cpu/micro/micro.h"
#include "kern/cpu/micro/micro_recur.h"

#define MAX_SEQ 3
#define MAX_K   512

/* A state that forgets nothing takes one rounding per token: sqrt(32768) of them are worth
 * 4.6e-6 of its norm. A decay that is off by one unit in the last place would be worth 2e-3. */
#define LONG_STATE 1e-5

/* Split inputs keep 16 bits where f32 has 24, and what they round off points anywhere. */
#define SPLIT_STATE 1e-4
#define SPLIT_OUT   1e-3
#define SPLIT_TOL   ((kc_tol){16.0 / 65536, 8.0 / 65536, 1e-30})
/* products of bf16, as devices make them with precision FAST: 2^-9 of what each of some products in a row is made of */
#define QUICK_STATE 2e-2
#define QUICK_OUT   2e-2
#define QUICK_TOL   ((kc_tol){16.0 / 256, 16.0 / 256, 1e-30})

typedef struct shape {
    int Hk, Hv, Dk, Dv;
    double alike; /* 0 .. 1: how much of one direction all keys share */
    double neg_a; /* > 0: -neg_exp_a of every head; 0 = drawn */
    int n_seq, n_tok[MAX_SEQ];
    bool tiled;
} shape;

static const shape shapes[] = {
    {1, 1, 16, 16, 0, 0, 1, {1}, false},
    {2, 4, 20, 36, 0, 0, 2, {5, 70}, false},
    {1, 3, 128, 128, 0.5, 0, 3, {1, 64, 65}, false},
    {2, 16, 32, 8, 0.9, 0, 1, {129}, false},
    {2, 2, 64, 100, 0, 1e-4, 2, {200, 3}, false},
    {2, 6, 32, 24, 0, 0, 1, {70}, true},
    {1, 2, 130, 17, 0.99, 1e-4, 1, {63}, false},
    {1, 1, 7, 5, 0.5, 1e-3, 1, {300}, false},
    {2, 4, 32, 64, 0, 0, 3, {200, 3, 47}, true},
    {1, 2, 64, 96, 0.9, 0, 2, {79, 128}, false},
    {1, 4, 64, 16, 0, 2000, 1, {70}, false}, /* g far below -88: everything is forgotten */
};

typedef struct setup {
    const shape *s;
    ap_delta_args a;
    float *state; /* before the step */
    ap_batch *batch;
    size_t state_floats, count; /* of all sequences; outputs */
} setup;

/* Sequence i's state in those of all. */
static ap_recur_at state_at(const setup *u, float *state)
{
    size_t each = u->state_floats / (size_t)u->s->n_seq;
    return (ap_recur_at){.base = state, .block_floats = each, .batch = u->batch};
}

static size_t row_floats(const shape *s)
{
    return (size_t)(2 * s->Hk * s->Dk + s->Hv * s->Dv);
}

/* Mix one direction into all keys. */
static void make_alike(kc *c, const shape *s, float *qkv, int T)
{
    size_t n = (size_t)(s->Hk * s->Dk);
    float *common = kc_out(c, n), share = (float)s->alike;
    for (size_t i = 0; i < n; i++) common[i] = (float)ap_rng_normal(&c->rng);
    for (int t = 0; t < T; t++) {
        float *k = qkv + (size_t)t * row_floats(s) + n;
        for (size_t i = 0; i < n; i++) k[i] = (1 - share) * k[i] + share * common[i];
    }
}

static float *on_vector(kc *c, size_t n, double scale)
{
    return kc_copy(c, kc_in(c, n, scale), n);
}

static void make(kc *c, const shape *s, setup *u)
{
    int T = 0;
    for (int i = 0; i < s->n_seq; i++) T += s->n_tok[i];
    size_t Hv = (size_t)s->Hv, Dv = (size_t)s->Dv, tok = (size_t)T;
    *u = (setup){
        .s = s, .state_floats = (size_t)s->n_seq * Hv * Dv * (size_t)s->Dk, .count = tok * Hv * Dv};
    float *qkv = on_vector(c, tok * row_floats(s), 0.5), *neg_a = kc_in(c, Hv, 1);
    if (s->alike > 0) make_alike(c, s, qkv, T);
    for (size_t h = 0; h < Hv; h++)
        neg_a[h] = -(s->neg_a > 0 ? (float)s->neg_a : expf(2 * (float)ap_rng_normal(&c->rng)));
    u->state = on_vector(c, u->state_floats, 0.3);
    u->a = (ap_delta_args){.qkv = qkv,
                           .a = kc_in(c, tok * (Hv + 1), 1),
                           .lda = s->Hv + 1,
                           .b = kc_in(c, tok * (Hv + 2), 1),
                           .ldb = s->Hv + 2,
                           .z = kc_in(c, tok * (Hv * Dv + 3), 1),
                           .ldz = s->Hv * s->Dv + 3,
                           .neg_exp_a = neg_a,
                           .dt_bias = kc_in(c, Hv, 2),
                           .norm_weight = kc_in(c, Dv, 1),
                           .eps = 1e-6f,
                           .n_tok = T,
                           .n_k_head = s->Hk,
                           .n_v_head = s->Hv,
                           .k_dim = s->Dk,
                           .v_dim = s->Dv,
                           .tiled = s->tiled};
    u->batch = kc_batch(c, s->n_seq, (int[MAX_SEQ]){0}, s->n_tok, NULL, 0);
}

/* At most `piece` tokens of sequence i, from its token t on. */
static void take_piece(kc *c, const setup *u, int i, int t, int piece, ap_delta_args *a)
{
    int n = u->s->n_tok[i] - t < piece ? u->s->n_tok[i] - t : piece,
        row = u->batch->seq[i].begin + t;
    a->state.batch = kc_piece(c, u->batch, i, t, n);
    a->qkv += (size_t)row * row_floats(u->s);
    a->a += row * a->lda;
    a->b += row * a->ldb;
    a->z += row * a->ldz;
    a->out += (size_t)row * (size_t)(u->s->Hv * u->s->Dv);
    a->n_tok = n;
}

/* Run on a copy of the state, `piece` tokens of one sequence at a time (0 = the whole batch). */
static void run_pieces(kc *c, const setup *u, const ap_exec *ex, ap_delta_form form, int piece,
                       float **out, float **state)
{
    const shape *s = u->s;
    size_t bytes = ex->k->delta_scratch_bytes(ex, u->a.n_tok, s->Hk, s->Hv, s->Dk, s->Dv);
    void *scratch = memset(kc_bytes(c, bytes), 0x7f, bytes);
    *out = kc_out(c, u->count);
    *state = kc_copy(c, u->state, u->state_floats);
    for (int i = 0; i < (piece ? s->n_seq : 1); i++)
        for (int t = 0; t < (piece ? s->n_tok[i] : 1); t += piece ? piece : 1) {
            ap_delta_args a = u->a;
            a.form = form;
            a.scratch = scratch;
            a.state = state_at(u, *state);
            a.out = *out;
            if (piece) take_piece(c, u, i, t, piece, &a);
            kc_call(ex, delta, &a);
        }
}

/* ------------------------------------------------------------------ the oracle */

typedef struct gates {
    double decay, beta, q[MAX_K], k[MAX_K];
} gates;

static void gates_of(const setup *u, int t, int h, gates *g)
{
    const shape *s = u->s;
    int key_head = s->tiled ? h % s->Hk : h / (s->Hv / s->Hk);
    const float *q = u->a.qkv + (size_t)t * row_floats(s) + key_head * s->Dk;
    const float *k = q + s->Hk * s->Dk;
    double x = (double)u->a.a[t * u->a.lda + h] + (double)u->a.dt_bias[h], qq = 1e-6, kk = 1e-6;
    g->decay = exp((double)u->a.neg_exp_a[h] * (x > 20 ? x : log1p(exp(x))));
    g->beta = 1 / (1 + exp(-(double)u->a.b[t * u->a.ldb + h]));
    for (int d = 0; d < s->Dk; d++) {
        qq += (double)q[d] * (double)q[d];
        kk += (double)k[d] * (double)k[d];
    }
    for (int d = 0; d < s->Dk; d++) {
        g->q[d] = (double)q[d] / sqrt(qq * s->Dk);
        g->k[d] = (double)k[d] / sqrt(kk);
    }
}

/* One token of one head: the state S [Dv][Dk] goes on, o [Dv]; returns the largest |S|. */
static double token(const setup *u, const gates *g, int t, int h, double *S, double *o)
{
    const shape *s = u->s;
    const float *v = u->a.qkv + (size_t)t * row_floats(s) + 2 * s->Hk * s->Dk + h * s->Dv;
    double top = 0;
    for (int j = 0; j < s->Dv; j++, S += s->Dk) {
        double kv = 0, sum = 0;
        for (int d = 0; d < s->Dk; d++) kv += (S[d] *= g->decay) * g->k[d];
        double delta = g->beta * ((double)v[j] - kv);
        for (int d = 0; d < s->Dk; d++) {
            S[d] += g->k[d] * delta;
            sum += S[d] * g->q[d];
            if (fabs(S[d]) > top) top = fabs(S[d]);
        }
        o[j] = sum;
    }
    return top;
}

/* The gated norm of o; mag: what an error of `size` in every o is worth. */
static void gated_norm(const setup *u, const double *o, double size, int t, int h, double *y,
                       double *mag)
{
    int Dv = u->s->Dv;
    double sum = 0;
    for (int j = 0; j < Dv; j++) sum += o[j] * o[j];
    double r = 1 / sqrt(sum / Dv + (double)u->a.eps);
    for (int j = 0; j < Dv; j++) {
        double z = (double)u->a.z[t * u->a.ldz + h * Dv + j];
        double gate = (double)u->a.norm_weight[j] * z / (1 + exp(-z));
        y[j] = o[j] * r * gate;
        mag[j] = size * r * fabs(gate);
    }
}

/* S: in, out; the scale of a head's state errors: its largest value at any time. */
static void oracle(const setup *u, double *S, double *S_mag, double *y, double *mag)
{
    const shape *s = u->s;
    double o[512];
    gates g;
    for (int i = 0, begin = 0; i < s->n_seq; begin += s->n_tok[i], i++)
        for (int h = 0; h < s->Hv; h++) {
            size_t at = (size_t)(i * s->Hv + h) * (size_t)(s->Dv * s->Dk);
            double top = 0;
            for (int d = 0; d < s->Dv * s->Dk; d++) top = fmax(top, fabs(S[at + (size_t)d]));
            for (int t = begin; t < begin + s->n_tok[i]; t++) {
                double size = 0;
                size_t row = (size_t)(t * s->Hv + h) * (size_t)s->Dv;
                gates_of(u, t, h, &g);
                top = fmax(top * g.decay, token(u, &g, t, h, S + at, o));
                for (int d = 0; d < s->Dk; d++) size += fabs(g.q[d]) * top;
                gated_norm(u, o, size, t, h, y + row, mag + row);
            }
            for (int d = 0; d < s->Dv * s->Dk; d++) S_mag[at + (size_t)d] = top;
        }
}

/* ------------------------------------------------------------------ checks */

/* Chunks begin with the call, and calls of few tokens have none: other cuts are equal to rounding
 * only. */
static bool keeps_chunks(const shape *s, int piece)
{
    bool same = piece % 64 == 0;
    for (int i = 0; i < s->n_seq && piece; i++)
        same = same && (s->n_tok[i] < 64 || s->n_tok[i] % 64 == 0 || s->n_tok[i] % 64 >= 16);
    return same;
}

/* What the oracle says, and the magnitudes of what it adds up. */
typedef struct expected {
    double *y, *mag, *S, *S_mag;
} expected;

/* Another device than a CPU: near the oracle, in pieces to the bit as at once. Chunks may go by matrix units, whose
 * inputs are two bf16. */
static void check_device(kc *c, const setup *u, const kc_kern *kern, ap_delta_form form,
                         const expected *e)
{
    static const int pieces[] = {0, 1, 7, 64};
    const shape *s = u->s;
    int rows = s->n_seq * s->Hv * s->Dv;
    float *out, *state, *out2, *state2;
    kc_tol tol = {4 * 64 * KC_EPS, 4 * 96 * KC_EPS, 1e-30};
    if (form == AP_DELTA_CHUNKED) tol = SPLIT_TOL;
    run_pieces(c, u, &kern->x, form, 0, &out, &state);
    kc_written(c, "out", out, u->a.n_tok * s->Hv, s->Dv, s->Dv);
    kc_close(c, "out", tol, out, s->Dv, e->y, e->mag, u->a.n_tok * s->Hv, s->Dv);
    kc_close(c, "state", tol, state, s->Dk, e->S, e->S_mag, rows, s->Dk);
    for (int p = 1; p < 4; p++) {
        if (form == AP_DELTA_CHUNKED && !keeps_chunks(s, pieces[p])) continue;
        run_pieces(c, u, &kern->x, form, pieces[p], &out2, &state2);
        kc_again(c, kern, "out in pieces", out2, s->Dv, out, s->Dv, u->a.n_tok * s->Hv, s->Dv);
        kc_again(c, kern, "state in pieces", state2, s->Dk, state, s->Dk, rows, s->Dk);
    }
}

static void check_levels(kc *c, const setup *u, ap_delta_form form, const float *out,
                         const float *state)
{
    static const int pieces[] = {0, 1, 7, 64};
    const shape *s = u->s;
    int rows = s->n_seq * s->Hv * s->Dv;
    float *out2, *state2;
    for (int k = 0; k < c->n_kern; k++)
        for (int p = 0; p < 4; p++) {
            const kc_kern *kern = &c->kern[k];
            bool slow = kern->x.k->level == APUS_CPU_REF && p != k % 4;
            if (!kern->exact || slow || (form == AP_DELTA_CHUNKED && !keeps_chunks(s, pieces[p])))
                continue;
            run_pieces(c, u, &kern->x, form, pieces[p], &out2, &state2);
            kc_same(c, kern, "out", out2, s->Dv, out, s->Dv, u->a.n_tok * s->Hv, s->Dv);
            kc_same(c, kern, "state", state2, s->Dk, state, s->Dk, rows, s->Dk);
        }
}

static bool on_tiles(const ap_exec *ex, const shape *s)
{
    return ex->k->level == APUS_CPU_AMX && s->Dk % 32 == 0 && s->Dv % 32 == 0;
}

/* A device with precision FAST: twice the same, and near the oracle. */
static void check_device_fast(kc *c, const setup *u, const kc_kern *kern, const double *y,
                              const double *mag, const double *S, const double *S_mag)
{
    const shape *s = u->s;
    int rows = s->n_seq * s->Hv * s->Dv;
    float *out, *state, *out2, *state2;
    ap_exec k = kern->x;
    k.precision = APUS_PRECISION_FAST;
    run_pieces(c, u, &k, AP_DELTA_RECURRENT, 0, &out, &state);
    kc_close(c, "out", QUICK_TOL, out, s->Dv, y, mag, u->a.n_tok * s->Hv, s->Dv);
    kc_close(c, "state", QUICK_TOL, state, s->Dk, S, S_mag, rows, s->Dk);
    run_pieces(c, u, &k, AP_DELTA_RECURRENT, 0, &out2, &state2);
    kc_again(c, kern, "out", out2, s->Dv, out, s->Dv, u->a.n_tok * s->Hv, s->Dv);
    kc_again(c, kern, "state", state2, s->Dk, state, s->Dk, rows, s->Dk);
}

/* Precision FAST: chunks without being asked; where there are matrix tiles, on those: equal to the
 * oracle to their rounding, to themselves to the bit. */
static void check_fast(kc *c, const setup *u, const double *y, const double *mag, const double *S,
                       const double *S_mag)
{
    const shape *s = u->s;
    int rows = s->n_seq * s->Hv * s->Dv;
    float *out, *state, *out2, *state2;
    for (int i = 0; i < c->n_kern; i++) {
        ap_exec k = c->kern[i].x;
        const char *name = c->kern[i].name;
        if (k.k->level == APUS_CPU_REF && i > 0) continue;
        kc_case(c, "fast, %s T=%d Hk=%d Hv=%d Dk=%d Dv=%d", name, u->a.n_tok, s->Hk, s->Hv, s->Dk,
                s->Dv);
        if (!c->kern[i].exact) {
            check_device_fast(c, u, &c->kern[i], y, mag, S, S_mag);
            continue;
        }
        if (on_tiles(&k, s)) {
            k.precision = APUS_PRECISION_FAST;
            run_pieces(c, u, &k, AP_DELTA_RECURRENT, 0, &out, &state);
            kc_close(c, "out", SPLIT_TOL, out, s->Dv, y, mag, u->a.n_tok * s->Hv, s->Dv);
            kc_close(c, "state", SPLIT_TOL, state, s->Dk, S, S_mag, rows, s->Dk);
            run_pieces(c, u, &k, AP_DELTA_RECURRENT, keeps_chunks(s, 64) ? 64 : 0, &out2, &state2);
        } else {
            run_pieces(c, u, &k, AP_DELTA_CHUNKED, 0, &out, &state);
            k.precision = APUS_PRECISION_FAST;
            run_pieces(c, u, &k, AP_DELTA_RECURRENT, 0, &out2, &state2);
        }
        kc_again(c, &c->kern[i], "out", out2, s->Dv, out, s->Dv, u->a.n_tok * s->Hv, s->Dv);
        kc_again(c, &c->kern[i], "state", state2, s->Dk, state, s->Dk, rows, s->Dk);
        if (i == 0 || !on_tiles(&k, s) || c->kern[i - 1].x.k->level != k.k->level) continue;
        k = c->kern[i - 1].x; /* another number of threads */
        k.precision = APUS_PRECISION_FAST;
        run_pieces(c, u, &k, AP_DELTA_RECURRENT, 0, &out2, &state2);
        kc_same(c, &c->kern[i], "out", out2, s->Dv, out, s->Dv, u->a.n_tok * s->Hv, s->Dv);
    }
}

static void check_forms(kc *c, const setup *u)
{
    const shape *s = u->s;
    double *S = kc_f64(c, u->state_floats), *S_mag = kc_f64(c, u->state_floats);
    double *y = kc_f64(c, u->count), *mag = kc_f64(c, u->count);
    for (size_t i = 0; i < u->state_floats; i++) S[i] = (double)u->state[i];
    oracle(u, S, S_mag, y, mag);
    for (int form = AP_DELTA_RECURRENT; form <= AP_DELTA_CHUNKED; form++) {
        const char *name = form == AP_DELTA_RECURRENT ? "recurrent" : "chunked";
        float *out, *state;
        kc_tol tol = KC_CHAIN;
        tol.abs = 1e-30; /* silu(z) is 0 where e^-z is above the largest float */
        kc_case(c, "%s T=%d Hk=%d Hv=%d Dk=%d Dv=%d alike=%g A=%g", name, u->a.n_tok, s->Hk, s->Hv,
                s->Dk, s->Dv, s->alike, s->neg_a);
        run_pieces(c, u, c->ref, (ap_delta_form)form, 0, &out, &state);
        kc_close(c, "out", tol, out, s->Dv, y, mag, u->a.n_tok * s->Hv, s->Dv);
        kc_close(c, "state", KC_CHAIN, state, s->Dk, S, S_mag, s->n_seq * s->Hv * s->Dv, s->Dk);
        check_levels(c, u, (ap_delta_form)form, out, state);
        for (int k = 0; k < c->n_kern; k++)
            if (!c->kern[k].exact)
                check_device(c, u, &c->kern[k], (ap_delta_form)form, &(expected){y, mag, S, S_mag});
    }
    check_fast(c, u, y, mag, S, S_mag);
}

/* ------------------------------------------------------------------ the Order, written out once more */

static float dot16(const float *x, const float *y, int n)
{
    float s[16] = {0};
    for (int i = 0; i < n; i++) s[i % 16] = fmaf(x[i], y[i], s[i % 16]);
    return ap_sum16(s);
}

/* One token of one head by the recurrence: the state S [Dv][Dk] goes on, out [Dv]. */
static void order_token(const setup *u, const ap_micro_recur *m, int t, int h, float *S, float *out)
{
    const shape *s = u->s;
    int Dk = s->Dk, Dv = s->Dv, key_head = s->tiled ? h % s->Hk : h / (s->Hv / s->Hk);
    const float *x = u->a.qkv + (size_t)t * row_floats(s), *q0 = x + key_head * Dk,
                *k0 = q0 + s->Hk * Dk, *v = x + 2 * s->Hk * Dk + h * Dv;
    float q[MAX_K], k[MAX_K], beta, decay, less1;
    double g;
    float rq = 1 / sqrtf(dot16(q0, q0, Dk) + 1e-6f), rk = 1 / sqrtf(dot16(k0, k0, Dk) + 1e-6f);
    for (int d = 0; d < Dk; d++)
        q[d] = (q0[d] * rq) * (float)(1 / sqrt((double)Dk)), k[d] = k0[d] * rk;
    m->gates(1, u->a.a + t * u->a.lda + h, u->a.dt_bias[h], u->a.neg_exp_a[h],
             u->a.b + t * u->a.ldb + h, &g, &beta);
    m->exps(1, 0, 1, &g, &decay, &less1);
    float kq = dot16(k, q, Dk);
    for (int j = 0; j < Dv; j++, S += Dk) {
        float d = beta * (v[j] - decay * dot16(S, k, Dk));
        out[j] = fmaf(kq, d, decay * dot16(S, q, Dk));
        for (int i = 0; i < Dk; i++)
            S[i] = decay >= 0.5f ? S[i] + fmaf(k[i], d, less1 * S[i]) : fmaf(k[i], d, decay * S[i]);
    }
    float r = 1 / sqrtf(dot16(out, out, Dv) / (float)Dv + u->a.eps);
    const float *z = u->a.z + t * u->a.ldz + h * Dv;
    for (int j = 0; j < Dv; j++) out[j] = ((out[j] * r) * u->a.norm_weight[j]) * ap_siluf(z[j]);
}

/* Decays around a half, where the state's sum takes another form, and a half itself; a state that is large beside
 * what is written shows how it was rounded. */
static void check_order(kc *c)
{
    static const shape s = {1, 2, 48, 12, 0, 1, 1, {40}, false};
    const ap_micro_recur *m = ((const ap_micro *)c->ref->k->impl)->recur;
    setup u;
    float *out, *state;
    make(c, &s, &u);
    float *a = kc_out(c, 40 * 3), *dt = kc_out(c, 2), *want = kc_out(c, u.count),
          *S = kc_copy(c, u.state, u.state_floats);
    for (int i = 0; i < 40 * 3; i++) a[i] = i % 4 < 2 ? 0 : 0.2f * (float)ap_rng_normal(&c->rng);
    dt[0] = dt[1] = 0;
    u.a.a = a, u.a.dt_bias = dt;
    kc_case(c, "recurrent, decays about 1/2");
    for (int t = 0; t < 40; t++)
        for (int h = 0; h < 2; h++)
            order_token(&u, m, t, h, S + h * 12 * 48, want + (t * 2 + h) * 12);
    run_pieces(c, &u, c->ref, AP_DELTA_RECURRENT, 0, &out, &state);
    kc_same(c, NULL, "out in its Order", out, 12, want, 12, 80, 12);
    kc_same(c, NULL, "state in its Order", state, 48, S, 48, 24, 48);
    check_levels(c, &u, AP_DELTA_RECURRENT, out, state);
}

/* Of chunks asked for, sequences of fewer than 16 tokens go by the recurrence and others do not: which form it was
 * shows in the last bits. */
static void check_form_switch(kc *c)
{
    static const shape s = {1, 2, 64, 32, 0.5, 0, 3, {15, 16, 17}, false};
    size_t row = 2 * 32;
    setup u;
    make(c, &s, &u);
    kc_case(c, "sequences of 15, 16 and 17 tokens");
    for (int k = 0; k < c->n_kern; k++) {
        float *one, *many, *state;
        if (!c->kern[k].exact) continue;
        run_pieces(c, &u, &c->kern[k].x, AP_DELTA_RECURRENT, 0, &one, &state);
        run_pieces(c, &u, &c->kern[k].x, AP_DELTA_CHUNKED, 0, &many, &state);
        kc_again(c, &c->kern[k], "15 tokens", many, 32, one, 32, 15 * 2, 32);
        if (!memcmp(many + 15 * row, one + 15 * row, 16 * row * sizeof *one) ||
            !memcmp(many + 31 * row, one + 31 * row, 17 * row * sizeof *one))
            kc_fail(c, "%s: 16 or 17 tokens do not go in chunks", c->kern[k].name);
    }
}

/* Four heads: all forgotten at once; a memory of 1,000 tokens; of 100,000; of a million at a
 * constant decay, where an error of the decay itself would add up. The writing gate shrinks
 * likewise, else the writing of new keys would do the forgetting. */
static void make_long(kc *c, const shape *s, setup *u)
{
    static const float neg_a[] = {-1, -1.5e-3f, -1.5e-5f, -1.5e-6f}, write[] = {0, -2, -6, -8};
    make(c, s, u);
    memset(u->state, 0, u->state_floats * sizeof *u->state);
    float *neg = kc_out(c, 4), *dt = kc_out(c, 4), *a = kc_out(c, (size_t)u->a.n_tok * 5);
    float *b = kc_out(c, (size_t)u->a.n_tok * 6), *qkv;
    size_t n = (size_t)u->a.n_tok * row_floats(s);
    for (int h = 0; h < 4; h++) neg[h] = neg_a[h], dt[h] = 0;
    for (int i = 0; i < u->a.n_tok * 5; i++)
        a[i] = i % 5 == 3 ? 0.37f : (float)ap_rng_normal(&c->rng);
    for (int i = 0; i < u->a.n_tok * 6; i++)
        b[i] = (i % 6 < 4 ? write[i % 6] : 0) + (float)ap_rng_normal(&c->rng);
    qkv = kc_out(c, n);
    for (size_t i = 0; i < n; i++) qkv[i] = (float)ap_rng_normal(&c->rng);
    if (s->alike > 0) make_alike(c, s, qkv, u->a.n_tok);
    u->a.qkv = qkv, u->a.a = a, u->a.b = b, u->a.neg_exp_a = neg, u->a.dt_bias = dt;
}

/* How far x is from y, n values every `step`, in proportion to y. */
static double apart(const float *x, const double *y, size_t n, size_t block, size_t step)
{
    double off = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        size_t at = i / block * step + i % block;
        off += ((double)x[at] - y[at]) * ((double)x[at] - y[at]);
        size += y[at] * y[at];
    }
    return sqrt(off / size);
}

static void check_long(kc *c, const shape *s)
{
    const kc_kern *kern = &c->kern[c->n_kern - 1];
    size_t n = (size_t)(s->Dv * s->Dk), T = (size_t)s->n_tok[0], Dv = (size_t)s->Dv;
    setup u;
    make_long(c, s, &u);
    double *S = kc_f64(c, u.state_floats), *S_mag = kc_f64(c, u.state_floats);
    double *y = kc_f64(c, u.count), *mag = kc_f64(c, u.count);
    for (size_t i = 0; i < u.state_floats; i++) S[i] = (double)u.state[i];
    oracle(&u, S, S_mag, y, mag);
    for (int i = 0; i < 3; i++) {
        static const char *const names[] = {"recurrent", "chunked", "fast"};
        ap_exec k = kern->x;
        float *out, *state;
        bool split = kern->exact ? i == 2 && on_tiles(&k, s) : i > 0;
        bool quick = !kern->exact && i == 2;
        double most = quick ? QUICK_STATE : split ? SPLIT_STATE : LONG_STATE;
        kc_case(c, "%s T=%d alike=%g", names[i], u.a.n_tok, s->alike);
        if (i == 2) k.precision = APUS_PRECISION_FAST;
        run_pieces(c, &u, &k, i == 1 ? AP_DELTA_CHUNKED : AP_DELTA_RECURRENT, 0, &out, &state);
        for (size_t h = 0; h < 4; h++) {
            double off = apart(state + h * n, S + h * n, n, n, 0);
            double wrong = apart(out + h * Dv, y + h * Dv, T * Dv, Dv, 4 * Dv);
            if (getenv("KCHECK_ERRORS"))
                printf("%s %s: head %zu state %.2e out %.2e\n", kern->name, c->where, h, off,
                       wrong);
            if (!(off <= most))
                kc_fail(c, "%s: state of head %zu is off by %.2e of its norm", kern->name, h, off);
            if (!(wrong <= (quick ? QUICK_OUT : SPLIT_OUT)))
                kc_fail(c, "%s: outputs of head %zu are off by %.2e", kern->name, h, wrong);
        }
    }
}

/* Gates against libm: exact to 1e-12 in double, so rounded to f32 at most one unit off. */
static void check_gates(kc *c)
{
    enum { N = 4096 };
    const ap_micro_recur *m = ((const ap_micro *)c->ref->k->impl)->recur;
    float *a = kc_out(c, N), *beta = kc_out(c, N), *e = kc_out(c, N), *less1 = kc_out(c, N);
    double *g = kc_f64(c, N);
    kc_case(c, "gates");
    for (int i = 0; i < N; i++) a[i] = (float)ap_rng_normal(&c->rng) * (i % 2 ? 2.0f : 30.0f);
    for (int i = 0; i < 9; i++) { /* from a memory of ten million tokens on */
        float neg = -powf(10, (float)i - 7);
        m->gates(N, a, 0.5f, neg, a, g, beta);
        m->exps(N, 0, 1, g, e, less1);
        for (int j = 0; j < N; j++) {
            double x = (double)a[j] + 0.5, soft = x > 20 ? x : log1p(exp(x));
            double want = (double)neg * soft;
            if (!(fabs(g[j] - fmax(want, -1000)) <= 1e-12 * fabs(want)))
                kc_fail(c, "log decay of %g: %.17g, expected %.17g", x, g[j], want);
            if (!(fabs((double)e[j] - exp(want)) <= 1.01 * KC_EPS * exp(want) + 1e-44) ||
                !(fabs((double)less1[j] - expm1(want)) <= 1.01 * KC_EPS * -expm1(want) + 1e-44))
                kc_fail(c, "e^%.17g: %.9g and %.9g less 1", want, (double)e[j], (double)less1[j]);
        }
        c->values += 3 * N;
    }
}

void check_delta(kc *c)
{
    check_gates(c);
    check_order(c);
    check_form_switch(c);
    shape keys_apart = {1, 4, 128, 8, 0, 0, 1, {32768}, false},
          keys_alike = {1, 4, 128, 8, 0.9, 0, 1, {32768}, false};
    if (c->kern[c->n_kern - 1].x.k->level == APUS_CPU_REF) /* scalar: slow */
        keys_apart.n_tok[0] = keys_alike.n_tok[0] = 4096;
    else if (c->is_short)
        keys_apart.n_tok[0] = keys_alike.n_tok[0] = 8192;
    if (c->kern[c->n_kern - 1].x.k->level == APUS_CPU_AMX) /* as narrow as tiles allow */
        keys_apart.Dv = keys_alike.Dv = 32;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        setup u;
        make(c, &shapes[i], &u);
        check_forms(c, &u);
    }
    check_long(c, &keys_apart);
    check_long(c, &keys_alike);
}

/* The scratch of check_delta lies between canaries; here only that the size is one. */
void check_delta_scratch_bytes(kc *c)
{
    for (int k = 0; k < c->n_kern; k++) {
        const ap_exec *ex = &c->kern[k].x;
        size_t small = ex->k->delta_scratch_bytes(ex, 1, 2, 4, 16, 16);
        size_t large = ex->k->delta_scratch_bytes(ex, 512, 16, 64, 256, 256);
        if (large < small || large > (size_t)1 << 30)
            kc_fail(c, "%s: %zu and %zu bytes", c->kern[k].name, small, large);
    }
}

/* A step of a model: as many layers as have states of their own, one after the other. */
typedef struct timed {
    setup u;
    float *state;
    int n_layer, layer;
} timed;

static void run(const ap_exec *ex, void *arg)
{
    timed *t = arg;
    ap_delta_args a = t->u.a;
    size_t layer = (size_t)(t->layer++ % t->n_layer);
    a.state = state_at(&t->u, t->state);
    a.state.offset = layer * t->u.state_floats;
    ex->k->delta(ex, &a);
}

void bench_delta(kc_bench *b)
{
    static const struct {
        const char *name;
        int n_tok, n_layer;
        ap_delta_form form;
        apus_precision precision;
    } rows[] = {
        {"recurrent, 30 layers", 1, 30, AP_DELTA_RECURRENT, APUS_PRECISION_HIGH},
        {"recurrent", 256, 1, AP_DELTA_RECURRENT, APUS_PRECISION_HIGH},
        {"chunked", 16, 1, AP_DELTA_CHUNKED, APUS_PRECISION_HIGH},
        {"chunked", 256, 1, AP_DELTA_CHUNKED, APUS_PRECISION_HIGH},
        {"fast", 256, 1, AP_DELTA_RECURRENT, APUS_PRECISION_FAST},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const shape s = {16, 32, 128, 128, 0, 0, 1, {rows[i].n_tok}, false};
        ap_exec k = *b->x;
        kc_bench one = *b;
        timed t = {.n_layer = rows[i].n_layer};
        char name[64];
        /* seconds a call; FAST is the chunked form unless there are tiles */
        if (k.k->level == APUS_CPU_REF && i > 0) continue;
        if (rows[i].precision == APUS_PRECISION_FAST && !on_tiles(&k, &s)) continue;
        make(b->c, &s, &t.u);
        k.precision = rows[i].precision;
        one.x = &k;
        t.state = kc_bytes(b->c, t.u.state_floats * (size_t)t.n_layer * sizeof(float));
        memset(t.state, 0, t.u.state_floats * (size_t)t.n_layer * sizeof(float));
        t.u.a.out = kc_out(b->c, t.u.count);
        t.u.a.scratch = kc_bytes(b->c, k.k->delta_scratch_bytes(&k, s.n_tok[0], 16, 32, 128, 128));
        t.u.a.form = rows[i].form;
        snprintf(name, sizeof name, "%s T=%d 32 heads", rows[i].name, rows[i].n_tok);
        /* spec 3.4: 7 D^2 token by token; 148,821 in chunks of 64 with two value heads to a key
         * head */
        bool chunks = rows[i].form == AP_DELTA_CHUNKED || rows[i].precision == APUS_PRECISION_FAST;
        kc_time(&one, name, (chunks ? 148821.0 : 7.0 * 128 * 128) * 32 * rows[i].n_tok,
                8.0 * (double)t.u.state_floats, run, &t);
    }
}
