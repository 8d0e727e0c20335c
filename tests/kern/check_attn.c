/* check_attn.c - attention over pages. Keys that no query of the step may see are poison: not
 * written yet, or in pages that left the window (their number is -1, which here is a page of
 * poison too). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kcheck.h"

#define MAX_SEQ 4

typedef struct shape {
    int heads, groups, D, window;
    float scale;
    int n_seq, pos[MAX_SEQ], n_tok[MAX_SEQ];
} shape;

static const shape shapes[] = {
    {4, 2, 16, 0, 0.25f, 1, {0}, {1}},
    {4, 2, 20, 0, 0.2f, 1, {0}, {130}},
    {8, 2, 64, 0, 0.125f, 2, {63, 5}, {3, 70}},
    /* windows inside a page, across pages, wider than the prompt, of one key */
    {6, 1, 72, 40, 0.1f, 3, {100, 0, 64}, {1, 90, 64}},
    {4, 4, 128, 1000, 0.09f, 2, {500, 7}, {2, 80}},
    {7, 1, 40, 5, 0.15f, 1, {300}, {150}},
    {16, 1, 256, 65, 0.0625f, 1, {190}, {66}},
    {2, 2, 512, 128, 0.05f, 1, {640}, {20}},
    {1, 1, 33, 1, 0.3f, 1, {127}, {3}},
    /* more heads than a tile has rows; a batch of decoding sequences */
    {50, 1, 24, 0, 0.2f, 2, {3, 200}, {5, 1}},
    {8, 4, 128, 0, 0.1f, 4, {0, 64, 128, 700}, {1, 1, 1, 1}},
};

typedef struct setup {
    const shape *s;
    ap_kv_seq seq[MAX_SEQ];
    int32_t *table[MAX_SEQ];
    size_t page_floats;
    ap_attn_args a;
    size_t count;
} setup;

static int first_key(const shape *s, int pos)
{
    return s->window > 0 && pos >= s->window ? pos - s->window + 1 : 0;
}

/* Value d of key (or, with v, value) head g at a position. */
static float *at(const setup *u, int seq, int pos, int g, int d, bool v)
{
    int64_t D = u->s->D, G = u->s->groups, j = pos % AP_PAGE;
    float *page = (float *)(void *)(u->a.kv.base + u->a.kv.layer_offset) +
                  u->table[seq][pos / AP_PAGE] * (int64_t)u->page_floats;
    return v ? page + (G * AP_PAGE + g * AP_PAGE + j) * D + d : page + (g * D + d) * AP_PAGE + j;
}

static void fill(kc *c, const setup *u, int seq)
{
    const shape *s = u->s;
    size_t D = (size_t)s->D;
    float *k = kc_in(c, D, 1), *v = kc_in(c, D, 1);
    for (int pos = first_key(s, s->pos[seq]); pos < s->pos[seq] + s->n_tok[seq]; pos++)
        for (int g = 0; g < s->groups; g++) {
            kc_fill(c, k, D, 1);
            kc_fill(c, v, D, 1);
            for (int d = 0; d < s->D; d++) {
                *at(u, seq, pos, g, d, false) = k[d];
                *at(u, seq, pos, g, d, true) = v[d];
            }
        }
}

static void make(kc *c, const shape *s, setup *u)
{
    int T = 0, n_page = 0, pages[MAX_SEQ];
    *u = (setup){.s = s, .page_floats = (size_t)s->groups * (size_t)s->D * 2 * AP_PAGE + 32};
    for (int i = 0; i < s->n_seq; i++) {
        pages[i] = (s->pos[i] + s->n_tok[i] + AP_PAGE - 1) / AP_PAGE;
        n_page += pages[i];
    }
    float *memory = kc_out(c, u->page_floats * (size_t)(n_page + 1));
    for (int i = 0; i < s->n_seq; i++) { /* pages in falling order: not a run of memory */
        u->table[i] = kc_bytes(c, (size_t)pages[i] * sizeof(int32_t));
        for (int p = 0; p < pages[i]; p++, n_page--)
            u->table[i][p] = p < first_key(s, s->pos[i]) / AP_PAGE ? -1 : n_page - 1;
        u->seq[i] = (ap_kv_seq){u->table[i], T, s->n_tok[i], s->pos[i]};
        T += s->n_tok[i];
    }
    u->count = (size_t)T * (size_t)(s->heads * s->D);
    u->a = (ap_attn_args){.kv = {.base = (uint8_t *)(memory + u->page_floats),
                                 .page_bytes = u->page_floats * sizeof(float),
                                 .layer_offset = 16 * sizeof(float),
                                 .seq = u->seq,
                                 .n_seq = s->n_seq},
                          .q = kc_in(c, u->count, 1),
                          .n_tok = T,
                          .n_head = s->heads,
                          .n_kv_head = s->groups,
                          .head_dim = s->D,
                          .scale = s->scale,
                          .window = s->window};
    for (int i = 0; i < s->n_seq; i++) fill(c, u, i);
}

/* One query head in f64. An error of a score by a share of its terms moves its weight by that
 * share, so mag has the terms of the scores beside those of the sum. */
static void oracle_row(const setup *u, int seq, int row, int pos, int h, double *x, double *y,
                       double *mag)
{
    int D = u->s->D, g = h / (u->s->heads / u->s->groups), first = first_key(u->s, pos);
    const float *q = u->a.q + (size_t)(row * u->s->heads + h) * (size_t)D;
    double top = -INFINITY, total = 0, size = 1;
    for (int p = first; p <= pos; p++) {
        double sum = 0, terms = 0;
        for (int d = 0; d < D; d++) {
            double term = (double)q[d] * (double)*at(u, seq, p, g, d, false);
            sum += term, terms += fabs(term);
        }
        x[p] = sum * (double)u->s->scale;
        top = fmax(top, x[p]);
        size = fmax(size, terms * (double)u->s->scale);
    }
    for (int p = first; p <= pos; p++) total += x[p] = exp(x[p] - top);
    for (int d = 0; d < D; d++) {
        double sum = 0, terms = 0;
        for (int p = first; p <= pos; p++) {
            double term = x[p] / total * (double)*at(u, seq, p, g, d, true);
            sum += term, terms += fabs(term);
        }
        y[d] = sum;
        mag[d] = terms * (1 + size);
    }
}

static void check_oracle(kc *c, const setup *u, const float *out)
{
    const shape *s = u->s;
    double *y = kc_f64(c, u->count), *mag = kc_f64(c, u->count), *x = kc_f64(c, 2048);
    kc_tol tol = KC_CHAIN;
    tol.abs =
        1e-33; /* weights below the normal numbers are 0: some keys times 1.2e-38 times a value */
    for (int i = 0; i < s->n_seq; i++)
        for (int t = 0; t < s->n_tok[i]; t++)
            for (int h = 0; h < s->heads; h++) {
                int row = u->seq[i].begin + t;
                size_t o = (size_t)(row * s->heads + h) * (size_t)s->D;
                oracle_row(u, i, row, s->pos[i] + t, h, x, y + o, mag + o);
            }
    kc_close(c, "out", tol, out, s->D, y, mag, u->a.n_tok * s->heads, s->D);
}

/* Run on fresh memory, `piece` tokens of one sequence at a time (0 = the whole batch). */
static float *run_pieces(kc *c, const setup *u, const ap_kern *k, int piece)
{
    ap_attn_args a = u->a;
    a.out = kc_out(c, u->count);
    a.scratch = kc_bytes(c, k->attn_scratch_bytes(k, a.n_head, a.n_kv_head, a.head_dim));
    if (piece == 0) k->attn(k, &a);
    for (int i = 0; piece > 0 && i < u->s->n_seq; i++)
        for (int t = 0; t < u->seq[i].n_tok; t += piece) {
            int n = u->seq[i].n_tok - t < piece ? u->seq[i].n_tok - t : piece;
            ap_kv_seq one = {u->table[i], u->seq[i].begin + t, n, u->seq[i].pos + t};
            a.kv.seq = &one;
            a.kv.n_seq = 1;
            k->attn(k, &a);
        }
    return a.out;
}

void check_attn(kc *c)
{
    static const int pieces[] = {0, 1, 7, 64};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const shape *s = &shapes[i];
        setup u;
        make(c, s, &u);
        kc_case(c, "T=%d H=%d G=%d D=%d window=%d pos=%d", u.a.n_tok, s->heads, s->groups, s->D,
                s->window, s->pos[0]);
        float *out = run_pieces(c, &u, c->ref, 0);
        check_oracle(c, &u, out);
        for (int k = 0; k < c->n_kern; k++) {
            if (c->kern[k].k.level == APUS_CPU_REF && u.count > 20000 && k % 2) continue; /* slow */
            for (int p = 0; p < 4; p++) {
                if (c->kern[k].k.level == APUS_CPU_REF && p != k % 4) continue;
                float *got = run_pieces(c, &u, &c->kern[k].k, pieces[p]);
                kc_same(c, c->kern[k].name, "out", got, s->D, out, s->D, u.a.n_tok * s->heads,
                        s->D);
            }
        }
    }
}

/* The scratch of check_attn lies between canaries; here only that the size is one. */
void check_attn_scratch_bytes(kc *c)
{
    for (int k = 0; k < c->n_kern; k++) {
        const ap_kern *kern = &c->kern[k].k;
        size_t small = kern->attn_scratch_bytes(kern, 4, 2, 64);
        size_t large = kern->attn_scratch_bytes(kern, 64, 8, 512);
        if (large < small || large > (size_t)1 << 30)
            kc_fail(c, "%s: %zu and %zu bytes", c->kern[k].name, small, large);
    }
}

static void run(const ap_kern *k, void *arg)
{
    k->attn(k, arg);
}

void bench_attn(kc_bench *b)
{
    static const shape shape_of[] = {
        {16, 4, 128, 0, 0.09f, 1, {768}, {256}}, {16, 4, 256, 0, 0.06f, 1, {768}, {256}},
        {8, 2, 512, 0, 0.04f, 1, {768}, {256}},  {16, 4, 256, 512, 0.06f, 1, {1792}, {256}},
        {16, 4, 128, 0, 0.09f, 1, {8191}, {1}},  {16, 4, 256, 0, 0.06f, 1, {8191}, {1}},
        {8, 2, 512, 0, 0.04f, 1, {8191}, {1}},
    };
    for (size_t i = 0; i < sizeof shape_of / sizeof *shape_of; i++) {
        const shape *s = &shape_of[i];
        setup u;
        char name[96];
        double keys = 0;
        if (b->k->level == APUS_CPU_REF && (s->n_tok[0] > 1 || s->D > 128)) continue; /* minutes */
        make(b->c, s, &u);
        u.a.out = kc_out(b->c, u.count);
        u.a.scratch = kc_bytes(b->c, b->k->attn_scratch_bytes(b->k, s->heads, s->groups, s->D));
        for (int t = 0; t < s->n_tok[0]; t++) {
            int pos = s->pos[0] + t;
            keys += pos + 1 - first_key(s, pos);
        }
        int first = first_key(s, s->pos[0]);
        double bytes = 2.0 * sizeof(float) * (s->pos[0] + s->n_tok[0] - first) * s->groups * s->D;
        snprintf(name, sizeof name, "T=%d pos=%d H=%d G=%d D=%d window=%d", s->n_tok[0], s->pos[0],
                 s->heads, s->groups, s->D, s->window);
        kc_time(b, name, 4 * keys * s->heads * s->D, bytes, run, &u.a);
    }
}
