/* check_conv.c - the causal convolution and the rows that it carries from call to call. */
#include <math.h>
#include <string.h>

#include "kcheck.h"

#define MAX_SEQ 3

typedef struct shape {
    int C, taps, n_seq, n_tok[MAX_SEQ];
    bool plain;
} shape;

static const shape shapes[] = {
    {16, 4, 1, {1}, false},   {37, 4, 3, {1, 2, 5}, false}, {300, 4, 2, {130, 3}, false},
    {20, 1, 1, {9}, false},   {8, 2, 2, {1, 4}, false},     {33, 7, 2, {3, 20}, false},
    {520, 4, 1, {64}, false}, {37, 5, 2, {3, 9}, true},     {48, 4, 1, {40}, true},
};

typedef struct setup {
    const shape *s;
    ap_conv_args a;
    float *state; /* [n_seq][taps - 1][C] before the step */
    ap_batch *batch;
    size_t state_floats, count; /* of all sequences; outputs */
} setup;

/* Sequence i's state in those of all. */
static ap_recur_at state_at(const setup *u, float *state)
{
    size_t each = u->state_floats / (size_t)u->s->n_seq;
    return (ap_recur_at){.base = state, .block_floats = each, .batch = u->batch};
}

static void make(kc *c, const shape *s, setup *u)
{
    int T = 0;
    size_t C = (size_t)s->C;
    for (int i = 0; i < s->n_seq; i++) T += s->n_tok[i];
    *u = (setup){
        .s = s, .state_floats = (size_t)(s->n_seq * (s->taps - 1)) * C, .count = (size_t)T * C};
    u->state = kc_in(c, u->state_floats, 1);
    u->a = (ap_conv_args){.x = kc_in(c, (size_t)T * (C + 3), 1),
                          .ldx = s->C + 3,
                          .weight = kc_in(c, (size_t)s->taps * C, 1),
                          .n_tok = T,
                          .n_channel = s->C,
                          .n_tap = s->taps,
                          .plain = s->plain};
    u->batch = kc_batch(c, s->n_seq, (int[MAX_SEQ]){0}, s->n_tok, NULL, 0);
}

/* Run on a copy of the state, `piece` tokens of one sequence at a time (0 = the whole batch). */
static void run_pieces(kc *c, const setup *u, const ap_exec *ex, int piece, float **out,
                       float **state)
{
    *out = kc_out(c, u->count);
    *state = kc_copy(c, u->state, u->state_floats);
    for (int i = 0; i < (piece ? u->s->n_seq : 1); i++)
        for (int t = 0; t < (piece ? u->s->n_tok[i] : 1); t += piece ? piece : 1) {
            ap_conv_args a = u->a;
            a.state = state_at(u, *state);
            a.out = *out;
            if (piece) {
                int n = u->s->n_tok[i] - t < piece ? u->s->n_tok[i] - t : piece,
                    row = u->batch->seq[i].begin + t;
                a.state.batch = kc_piece(c, u->batch, i, t, n);
                a.x += row * a.ldx;
                a.out += (size_t)row * (size_t)a.n_channel;
                a.n_tok = n;
            }
            kc_call(ex, conv, &a);
        }
}

/* Row t of sequence i, which begins at `begin`; t < 0 is in the state before the step. */
static const float *row(const setup *u, int i, int begin, int t)
{
    int C = u->s->C, old = u->s->taps - 1;
    return t < 0 ? u->state + (i * old + old + t) * C : u->a.x + (begin + t) * u->a.ldx;
}

static void check_oracle(kc *c, const setup *u, const float *out, const float *state)
{
    int C = u->s->C, taps = u->s->taps, begin = 0;
    double *y = kc_f64(c, u->count), *mag = kc_f64(c, u->count);
    kc_tol tol = KC_SUM;
    tol.abs = 1e-35; /* x / inf = 0 where e^-x is above the largest float */
    for (int i = 0; i < u->s->n_seq; begin += u->s->n_tok[i], i++) {
        for (int t = 0; t < u->s->n_tok[i]; t++)
            for (int ch = 0; ch < C; ch++) {
                double sum = 0, terms = 0;
                for (int j = 0; j < taps; j++) {
                    double x = (double)row(u, i, begin, t - taps + 1 + j)[ch];
                    double term = x * (double)u->a.weight[j * C + ch];
                    sum += term, terms += fabs(term);
                }
                double less = u->s->plain ? 0 : exp(-sum);
                y[(begin + t) * C + ch] = sum / (1 + less);
                /* silu: slope up to 1.1, and the relative error of exp grows with |sum| */
                mag[(begin + t) * C + ch] = terms * (less < 1 ? 2 : (2 + terms) / (1 + less));
            }
        for (int j = 0; j < taps - 1; j++)
            kc_same(c, NULL, "state", state + (i * (taps - 1) + j) * C, C,
                    row(u, i, begin, u->s->n_tok[i] - (taps - 1) + j), C, 1, C);
    }
    kc_close(c, "out", tol, out, C, y, mag, u->a.n_tok, C);
}

void check_conv(kc *c)
{
    static const int pieces[] = {0, 1, 2, 7, 64};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const shape *s = &shapes[i];
        setup u;
        float *out, *state, *out2, *state2;
        make(c, s, &u);
        kc_case(c, "T=%d S=%d C=%d taps=%d%s", u.a.n_tok, s->n_seq, s->C, s->taps,
                s->plain ? " plain" : "");
        run_pieces(c, &u, c->ref, 0, &out, &state);
        check_oracle(c, &u, out, state);
        for (int k = 0; k < c->n_kern; k++) {
            const float *whole = NULL;
            for (int p = 0; p < 5; p++) {
                run_pieces(c, &u, &c->kern[k].x, pieces[p], &out2, &state2);
                if (p == 0) {
                    kc_same(c, &c->kern[k], "out", out2, s->C, out, s->C, u.a.n_tok, s->C);
                    whole = kc_first(c, &c->kern[k], out2, out, u.count);
                }
                kc_again(c, &c->kern[k], "out", out2, s->C, whole, s->C, u.a.n_tok, s->C);
                kc_again(c, &c->kern[k], "state", state2, s->C, state,
                         s->C, /* inputs as they were */
                         s->n_seq * (s->taps - 1), s->C);
            }
        }
    }
}

static void run(const ap_exec *ex, void *arg)
{
    ex->k->conv(ex, arg);
}

void bench_conv(kc_bench *b)
{
    static const shape shape_of[] = {{8192, 4, 1, {1}, false}, {8192, 4, 1, {256}, false}};
    for (int i = 0; i < 2; i++) {
        setup u;
        make(b->c, &shape_of[i], &u);
        u.a.state = state_at(&u, u.state);
        u.a.out = kc_out(b->c, u.count);
        kc_time(b, i == 0 ? "T=1 C=8192" : "T=256 C=8192", 0, 2.0 * sizeof(float) * (double)u.count,
                run, &u.a);
    }
}
