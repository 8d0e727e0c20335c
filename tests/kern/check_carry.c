/* check_carry.c - the row that sequences carry from step to step: against a copy row by row. */
#include <string.h>

#include "kcheck.h"

#define MAX_SEQ 4

typedef struct shape {
    int n, n_seq, n_tok[MAX_SEQ];
    bool keeps[MAX_SEQ];
    int counted[MAX_SEQ]; /* of those that keep */
} shape;

static const shape shapes[] = {
    {1, 1, {1}, {false}, {0}},
    {37, 3, {5, 1, 2}, {false, true, true}, {0, 1, 1}},
    {300, 4, {1, 90, 15, 3}, {true, false, true, false}, {1, 0, 15, 0}},
};

typedef struct setup {
    const shape *s;
    ap_batch *all, *counted;
    float *x, *state;
    size_t block, kept_row;
    int T, kept_rows;
} setup;

static void make(kc *c, const shape *s, setup *u)
{
    int pos[MAX_SEQ] = {0}, tok[MAX_SEQ], n = 0;
    *u = (setup){.s = s, .block = (size_t)s->n + 9, .kept_row = (size_t)s->n + 3};
    u->all = kc_batch(c, s->n_seq, pos, s->n_tok, NULL, 0);
    for (int i = 0; i < s->n_seq; i++) {
        u->T += s->n_tok[i];
        ((ap_seq *)u->all->seq)[i].keep = s->keeps[i] ? u->kept_rows : -1;
        if (s->keeps[i]) u->kept_rows += s->n_tok[i], tok[n++] = s->counted[i];
    }
    u->counted = n ? kc_batch(c, n, pos, tok, NULL, 0) : NULL;
    for (int i = 0, k = 0; i < s->n_seq; i++) {
        if (!s->keeps[i]) continue;
        ap_seq *q = (ap_seq *)&u->counted->seq[k++];
        q->state = i;
        q->keep = u->all->seq[i].keep;
    }
    u->x = kc_copy(c, kc_in(c, (size_t)(u->T * s->n), 1), (size_t)(u->T * s->n));
    u->state = kc_in(c, (size_t)s->n_seq * u->block, 1);
}

/* What is put out, and carried before and after rows count. */
static void by_hand(const setup *u, float *out, float *state, float *look)
{
    size_t n = (size_t)u->s->n;
    for (int i = 0; i < u->s->n_seq; i++) {
        const ap_seq *q = &u->all->seq[i];
        float *mine = state + (size_t)i * u->block + 5;
        const float *x = u->x + (size_t)q->begin * n;
        int seen = u->s->keeps[i] ? u->s->counted[i] : q->n_tok;
        memcpy(out + (size_t)q->begin * n, mine, n * sizeof *out);
        memcpy(out + (size_t)(q->begin + 1) * n, x, (size_t)(q->n_tok - 1) * n * sizeof *out);
        memcpy(mine, x + (size_t)(seen - 1) * n, n * sizeof *out);
        memcpy(look + (size_t)i * n, mine, n * sizeof *out);
    }
}

static void check_kern(kc *c, const setup *u, const kc_kern *who, const ap_exec *ex)
{
    int64_t n = u->s->n, S = u->s->n_seq, B = (int64_t)u->block, all = S * B;
    float *state = kc_copy(c, u->state, (size_t)all), *want = kc_copy(c, u->state, (size_t)all);
    float *kept = kc_out(c, (size_t)(u->kept_rows + 1) * u->kept_row);
    float *out = kc_out(c, (size_t)(u->T * n)), *want_out = kc_out(c, (size_t)(u->T * n));
    float *look = kc_out(c, (size_t)(S * n)), *want_look = kc_out(c, (size_t)(S * n));
    ap_carry_args a = {.what = AP_CARRY_ROWS,
                       .x = u->x,
                       .out = out,
                       .state = {state, u->block, 5, u->all},
                       .kept = {kept, u->kept_row},
                       .n = u->s->n};
    by_hand(u, want_out, want, want_look);
    kc_call(ex, carry, &a);
    a.what = AP_CARRY_COMMIT;
    a.state.batch = u->counted;
    if (u->counted) kc_call(ex, carry, &a);
    a.what = AP_CARRY_LOOK;
    a.out = look;
    a.state.batch = u->all;
    kc_call(ex, carry, &a);
    kc_again(c, who, "out", out, n, want_out, n, u->T, n);
    kc_again(c, who, "states", state, B, want, B, S, B);
    kc_again(c, who, "what is carried", look, n, want_look, n, S, n);
}

void check_carry(kc *c)
{
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        setup u;
        make(c, &shapes[i], &u);
        kc_case(c, "T=%d S=%d n=%d", u.T, shapes[i].n_seq, shapes[i].n);
        check_kern(c, &u, NULL, c->ref);
        for (int k = 0; k < c->n_kern; k++) check_kern(c, &u, &c->kern[k], &c->kern[k].x);
    }
}
