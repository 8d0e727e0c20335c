/* check_qkv.c - head norm, rotation, and what lands in the KV pages. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kcheck.h"
#include "kv_view.h"

typedef struct shape {
    int heads, groups, D, n_angle, offset;
    bool q_norm, k_norm, v_norm, v_is_k, q_only, gated;
    int n_seq, pos[3], n_tok[3];
    bool edges;   /* keys and values at the edges of rounding */
    int page_dim; /* 0 = D */
} shape;

static const shape shapes[] = {
    /* one token; qwen's partial rotation with gate; gemma's K = V; no norms; only q; no rotation */
    {4, 2, 16, 8, 8, 1, 1, 0, 0, 0, 0, 1, {0}, {1}, false, 0},
    {4, 2, 256, 32, 32, 1, 1, 0, 0, 0, 1, 2, {127, 64}, {2, 1}, false, 0},
    {4, 1, 512, 64, 256, 1, 1, 1, 1, 0, 0, 1, {5}, {70}, false, 0},
    {2, 1, 40, 5, 5, 0, 0, 0, 0, 0, 0, 1, {15}, {3}, false, 0},
    {4, 2, 64, 32, 32, 1, 1, 1, 0, 1, 0, 1, {100}, {20}, false, 0},
    {4, 1, 33, 0, 0, 1, 0, 1, 0, 0, 0, 1, {5}, {7}, false, 0},
    /* odd widths, several sequences, page borders, more angles than a piece */
    {3, 1, 20, 4, 10, 1, 1, 0, 0, 0, 1, 3, {60, 3, 64}, {9, 1, 30}, false, 0},
    {2, 2, 72, 36, 36, 1, 1, 1, 1, 0, 0, 1, {62}, {150}, false, 0},
    {1, 1, 300, 130, 150, 1, 1, 1, 0, 0, 0, 1, {0}, {20}, false, 0},
    /* what is written is what is given */
    {2, 2, 80, 0, 0, 0, 0, 0, 0, 0, 0, 1, {60}, {16}, true, 0},
    /* zeros behind a head's dims: of a tower for bf16, few, odd, more than a piece */
    {3, 3, 72, 36, 36, 1, 1, 1, 0, 0, 0, 1, {62}, {70}, false, 128},
    {4, 2, 12, 6, 6, 0, 0, 0, 0, 0, 0, 2, {3, 64}, {5, 1}, false, 64},
    {2, 1, 33, 8, 16, 1, 1, 1, 0, 0, 0, 1, {5}, {7}, false, 35},
    {1, 1, 100, 50, 50, 1, 0, 1, 0, 0, 1, 1, {0}, {20}, false, 300},
};

/* D of the pages and of q_out. */
static int wide(const shape *s)
{
    return s->page_dim ? s->page_dim : s->D;
}

#define PAGES 8

typedef struct setup {
    const shape *s;
    ap_batch *batch;
    int32_t *table;     /* i32 [n_seq, PAGES] */
    size_t page_floats; /* 16 floats, K, V, 16 floats */
    int n_page;
    ap_qkv_args a;
    size_t out_floats;
} setup;

static void set_type(setup *u, apus_kv type)
{
    u->page_floats = ap_kv_layer_bytes(type, u->s->groups, wide(u->s)) / sizeof(float) + 32;
    u->a.kv.page_bytes = u->page_floats * sizeof(float);
    u->a.kv.type = type;
}

/* A key or value of token t whose blocks are, in turn: of ties (whole numbers and a half beside 127; bf16 with
 * nothing but the half behind it); just below, at and above the smallest block that is not zero; denormal; with an
 * infinity; with a NaN. */
static void fill_edge(kc *c, float *x, int D, int t)
{
    const float small[] = {nextafterf(1e-30f, 0), 1e-30f, nextafterf(1e-30f, 1), 1e-40f};
    for (int d = 0; d < D; d++) {
        float sign = kc_int(c, 0, 1) ? 1 : -1;
        uint32_t bits = 0x3f808000u + 0x10000u * (uint32_t)kc_int(c, 0, 255);
        if (t % 8 == 0)
            x[d] = sign * (d % 16 == 5 ? 127 : (float)kc_int(c, 0, 125) + 0.5f);
        else if (t % 8 == 1)
            memcpy(x + d, &bits, sizeof bits), x[d] *= sign;
        else if (t % 8 < 6)
            x[d] = sign * small[t % 8 - 2] * (d % 16 == 7 ? 1 : 0.001f * (float)kc_int(c, 0, 999));
        else
            x[d] = d == 20 ? (t % 8 == 6 ? INFINITY : NAN) : sign * (float)d;
    }
}

static void fill_edges(kc *c, const shape *s, float *x, int64_t ld, int n_tok)
{
    for (int t = 0; t < n_tok; t++)
        for (int g = 0; g < s->groups; g++) fill_edge(c, x + t * ld + (int64_t)g * s->D, s->D, t);
}

static void make(kc *c, const shape *s, setup *u)
{
    int T = 0;
    *u = (setup){.s = s};
    u->table = kc_bytes(c, (size_t)(s->n_seq * PAGES) * sizeof(int32_t));
    for (int i = 0; i < s->n_seq * PAGES; i++) u->table[i] = -1;
    for (int i = 0; i < s->n_seq; i++) {
        T += s->n_tok[i];
        for (int p = s->pos[i] / AP_PAGE; p <= (s->pos[i] + s->n_tok[i] - 1) / AP_PAGE; p++)
            u->table[i * PAGES + p] = u->n_page++;
    }
    u->batch = kc_batch(c, s->n_seq, s->pos, s->n_tok, u->table, PAGES);
    int head = s->gated ? 2 * s->D : s->D;
    int64_t ldq = s->heads * head + 3, ldk = s->groups * s->D + 5;
    size_t angles = (size_t)T * (size_t)s->n_angle;
    float *cos_of = kc_out(c, angles), *sin_of = kc_out(c, angles);
    for (size_t i = 0; i < angles; i++) {
        double x = 9 * ap_rng_normal(&c->rng);
        cos_of[i] = (float)cos(x), sin_of[i] = (float)sin(x);
    }
    float *k = kc_in(c, (size_t)(T * ldk), 3), *v = s->v_is_k ? k : kc_in(c, (size_t)(T * ldk), 1);
    if (s->edges) fill_edges(c, s, k, ldk, T), fill_edges(c, s, v, ldk, T);
    u->out_floats = (size_t)T * (size_t)s->heads * (size_t)wide(s);
    u->a = (ap_qkv_args){.q = kc_in(c, (size_t)(T * ldq), 1),
                         .k = k,
                         .v = v,
                         .ldq = ldq,
                         .q_head_stride = head,
                         .ldk = ldk,
                         .ldv = ldk,
                         .q_norm = s->q_norm ? kc_in(c, (size_t)s->D, 1) : NULL,
                         .k_norm = s->k_norm ? kc_in(c, (size_t)s->D, 1) : NULL,
                         .v_norm = s->v_norm,
                         .eps = 1e-6f,
                         .cos = cos_of,
                         .sin = sin_of,
                         .n_angle = s->n_angle,
                         .pair_offset = s->offset,
                         .kv = {.layer_offset = 16 * sizeof(float), .batch = u->batch},
                         .n_tok = T,
                         .n_head = s->heads,
                         .n_kv_head = s->groups,
                         .head_dim = s->D,
                         .page_dim = s->page_dim,
                         .q_only = s->q_only};
    set_type(u, APUS_KV_F32);
}

/* At most `piece` tokens of sequence i, from its token t on. */
static void take_piece(kc *c, const setup *u, int i, int t, int piece, ap_qkv_args *a)
{
    int n = u->s->n_tok[i] - t < piece ? u->s->n_tok[i] - t : piece,
        row = u->batch->seq[i].begin + t;
    a->kv.batch = kc_piece(c, u->batch, i, t, n);
    a->q += row * a->ldq;
    a->k += row * a->ldk;
    a->v += row * a->ldv;
    a->cos += (size_t)row * (size_t)a->n_angle;
    a->sin += (size_t)row * (size_t)a->n_angle;
    a->q_out += (size_t)row * (size_t)(u->s->heads * wide(u->s));
    a->n_tok = n;
}

/* Run on fresh memory, `piece` tokens at a time (0 = all sequences at once). */
static void run_pieces(kc *c, setup *u, const ap_exec *ex, int piece, float **out, float **pages)
{
    const shape *s = u->s;
    *out = kc_out(c, u->out_floats);
    *pages = kc_out(c, u->page_floats * (size_t)u->n_page);
    for (int i = 0; i < (piece ? s->n_seq : 1); i++)
        for (int t = 0; t < (piece ? s->n_tok[i] : 1); t += piece ? piece : 1) {
            ap_qkv_args a = u->a;
            a.q_out = *out;
            a.kv.base = (uint8_t *)*pages;
            if (piece) take_piece(c, u, i, t, piece, &a);
            kc_call(ex, qkv, &a);
        }
}

/* The head x in f64, with zeros behind it: y, and the magnitudes of what is added up in mag. */
static void head(const setup *u, const float *x, const float *w, bool norm, bool rotate, int t,
                 double *y, double *mag)
{
    int D = u->s->D, n = u->s->n_angle, off = u->s->offset;
    double sum = 0, r = 1;
    for (int d = D; d < wide(u->s); d++) y[d] = mag[d] = 0;
    for (int d = 0; d < D; d++) sum += (double)x[d] * (double)x[d];
    if (norm) r = 1 / sqrt(sum / D + (double)u->a.eps);
    for (int d = 0; d < D; d++) y[d] = (double)x[d] * r * (w ? (double)w[d] : 1), mag[d] = 0;
    for (int i = 0; rotate && i < n; i++) {
        double a = y[i], b = y[off + i];
        double co = (double)u->a.cos[t * n + i], si = (double)u->a.sin[t * n + i];
        y[i] = a * co - b * si;
        y[off + i] = b * co + a * si;
        mag[i] = fabs(a * co) + fabs(b * si);
        mag[off + i] = fabs(b * co) + fabs(a * si);
    }
}

static void check_kv(kc *c, const setup *u, int i, int t, float *pages, double *y, double *mag)
{
    const shape *s = u->s;
    size_t D = (size_t)wide(s), G = (size_t)s->groups;
    int row = u->batch->seq[i].begin + t, pos = u->batch->seq[i].pos + t;
    float *page = pages + (size_t)u->table[i * PAGES + pos / AP_PAGE] * u->page_floats + 16;
    for (size_t g = 0; g < G; g++) {
        const float *k = u->a.k + row * u->a.ldk + (int64_t)g * s->D;
        const float *v = u->a.v + row * u->a.ldv + (int64_t)g * s->D;
        float *kt = page + g * D * AP_PAGE + pos % AP_PAGE;
        float *vt = page + (G * AP_PAGE + g * AP_PAGE + (size_t)(pos % AP_PAGE)) * D;
        head(u, k, u->a.k_norm, s->k_norm, true, row, y, mag);
        kc_close(c, "k", KC_SUM, kt, AP_PAGE, y, mag, wide(s), 1);
        head(u, v, NULL, s->v_norm, false, row, y, mag);
        kc_close(c, "v", KC_SUM, vt, wide(s), y, mag, 1, wide(s));
    }
}

/* Pages hold k and v of the step's tokens and nothing else. */
static void check_untouched(kc *c, const setup *u, const float *pages)
{
    size_t n = u->page_floats * (size_t)u->n_page, written = 0, want = 0;
    float poison;
    uint32_t bits, mark;
    kc_poison(&poison, 1);
    memcpy(&mark, &poison, sizeof mark);
    for (size_t i = 0; i < n; i++) {
        memcpy(&bits, pages + i, sizeof bits);
        written += bits != mark;
    }
    if (!u->s->q_only) want = 2 * (size_t)u->a.n_tok * (size_t)(u->s->groups * wide(u->s));
    if (written != want) kc_fail(c, "%zu values in the pages, expected %zu", written, want);
}

static void check_oracle(kc *c, const setup *u, const float *out, float *pages)
{
    int D = wide(u->s), heads = u->s->heads;
    double *y = kc_f64(c, (size_t)D), *mag = kc_f64(c, (size_t)D);
    for (int i = 0; i < u->s->n_seq; i++)
        for (int t = 0; t < u->batch->seq[i].n_tok; t++) {
            int row = u->batch->seq[i].begin + t;
            for (int h = 0; h < heads; h++) {
                const float *x = u->a.q + row * u->a.ldq + h * u->a.q_head_stride;
                head(u, x, u->a.q_norm, u->s->q_norm, true, row, y, mag);
                kc_close(c, "q", KC_SUM, out + (size_t)(row * heads + h) * (size_t)D, D, y, mag, 1,
                         D);
            }
            if (!u->s->q_only) check_kv(c, u, i, t, pages, y, mag);
        }
    check_untouched(c, u, pages);
}

/* ------------------------------------------------------------------ rounded pages */

static kv_view view(const setup *u, float *pages, int i, int pos)
{
    float *page = pages + (size_t)u->table[i * PAGES + pos / AP_PAGE] * u->page_floats + 16;
    return (kv_view){u->a.kv.type, u->s->groups, wide(u->s), (uint8_t *)page, pos % AP_PAGE};
}

/* A head's key or value, its exact numbers being `exact`, as `to` has to hold it. */
static void round_head(const kv_view *exact, const kv_view *to, int g, bool v)
{
    int D = exact->D, block = v ? D : AP_KV_BLOCK;
    for (int b = 0; b < D; b += block) {
        float a = 0, by;
        bool finite = true;
        for (int d = b; d < D && d < b + block; d++) {
            a = fmaxf(a, fabsf(kv_get(exact, g, d, v)));
            finite = finite && isfinite(kv_get(exact, g, d, v));
        }
        by = a < 1e-30f ? 0 : 127 / a;
        if (to->type == APUS_KV_Q8)
            *kv_scale(to, g, b, v) = !finite ? NAN : a < 1e-30f ? 0 : a * (1.0f / 127);
        for (int d = b; d < D && d < b + block; d++) {
            float x = kv_get(exact, g, d, v);
            kv_set(to, g, d, v, x, finite ? (int)rintf(x * by) : 0);
        }
    }
}

/* Do pages hold the same, each value within `part` of the largest of its head, and are the others untouched? */
static bool near_pages(const setup *u, float *got, float *want, double part)
{
    for (int i = 0; i < u->s->n_seq; i++)
        for (int pos = u->s->pos[i]; pos < u->s->pos[i] + u->s->n_tok[i]; pos++)
            for (int g = 0; g < u->s->groups; g++)
                for (int v = 0; v < 2; v++) {
                    kv_view a = view(u, got, i, pos), b = view(u, want, i, pos);
                    double most = 0, off = 0;
                    for (int d = 0; d < wide(u->s); d++) {
                        double x = (double)kv_get(&a, g, d, v), y = (double)kv_get(&b, g, d, v);
                        if (!isfinite(x) && !isfinite(y)) continue;
                        most = fmax(most, fabs(y));
                        off = fmax(off, isfinite(x - y) ? fabs(x - y) : INFINITY);
                    }
                    if (off > part * most + 1e-30) return false;
                }
    return true;
}

/* Equal to the last bit, or, where the sums before them may differ, to a step of their type. */
static void check_pages(kc *c, const setup *u, const kc_kern *who, float *got, float *want)
{
    static const double step[AP_KV_TYPES] = {
        [APUS_KV_F32] = KC_LOOSE, [APUS_KV_BF16] = 1.0 / 128, [APUS_KV_Q8] = 1.0 / 64};
    bool same = !memcmp(want, got, u->page_floats * (size_t)u->n_page * sizeof(float));
    if (!same && who && !who->exact && !u->s->q_only)
        same = near_pages(u, got, want, step[u->a.kv.type]);
    if (!same)
        kc_fail(c, "%s: the %s pages differ", who ? who->name : "ref", kv_name(u->a.kv.type));
}

/* A device's tokens in pieces are, to the bit, its tokens at once. */
static void check_alone(kc *c, setup *u, const kc_kern *kern)
{
    float *out, *pages, *out2, *pages2;
    size_t bytes = u->page_floats * (size_t)u->n_page * sizeof(float);
    run_pieces(c, u, &kern->x, 0, &out, &pages);
    for (int piece = 1; piece <= 7; piece += 6) {
        run_pieces(c, u, &kern->x, piece, &out2, &pages2);
        kc_again(c, kern, "q in pieces", out2, wide(u->s), out, wide(u->s),
                 u->a.n_tok * u->s->heads, wide(u->s));
        if (memcmp(pages, pages2, bytes))
            kc_fail(c, "%s: pages in pieces of %d differ", kern->name, piece);
    }
}

/* Pages of the other types hold what f32 pages hold, rounded, and nothing else. */
static void check_type(kc *c, setup *u, apus_kv type, const setup *exact, float *exact_pages)
{
    static const int pieces[] = {0, 1, 7};
    float *out, *pages, *want;
    set_type(u, type);
    want = kc_out(c, u->page_floats * (size_t)u->n_page);
    for (int i = 0; i < u->s->n_seq && !u->s->q_only; i++)
        for (int pos = u->s->pos[i]; pos < u->s->pos[i] + u->s->n_tok[i]; pos++)
            for (int g = 0; g < u->s->groups; g++)
                for (int v = 0; v < 2; v++) {
                    kv_view from = view(exact, exact_pages, i, pos), to = view(u, want, i, pos);
                    round_head(&from, &to, g, v);
                }
    for (int k = -1; k < c->n_kern; k++) {
        run_pieces(c, u, k < 0 ? c->ref : &c->kern[k].x, pieces[(k + 1) % 3], &out, &pages);
        check_pages(c, u, k < 0 ? NULL : &c->kern[k], pages, want);
        if (k >= 0 && !c->kern[k].exact) check_alone(c, u, &c->kern[k]);
    }
}

void check_qkv(kc *c)
{
    static const int pieces[] = {0, 1, 7};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const shape *s = &shapes[i];
        setup u;
        float *out, *pages, *out2, *pages2;
        int D = wide(s);
        make(c, s, &u);
        kc_case(c, "T=%d H=%d G=%d D=%d of %d angles=%d+%d", u.a.n_tok, s->heads, s->groups, s->D,
                D, s->n_angle, s->offset);
        run_pieces(c, &u, c->ref, 0, &out, &pages);
        check_oracle(c, &u, out, pages);
        for (int k = 0; k < c->n_kern; k++) {
            run_pieces(c, &u, &c->kern[k].x, pieces[k % 3], &out2, &pages2);
            kc_same(c, &c->kern[k], "q", out2, D, out, D, u.a.n_tok * s->heads, D);
            check_pages(c, &u, &c->kern[k], pages2, pages);
            if (!c->kern[k].exact) check_alone(c, &u, &c->kern[k]);
        }
        if (!ap_kv_layer_bytes(APUS_KV_BF16, s->groups, D)) continue;
        setup rounded = u;
        check_type(c, &rounded, APUS_KV_BF16, &u, pages);
        check_type(c, &rounded, APUS_KV_Q8, &u, pages);
    }
}

static void run(const ap_exec *ex, void *arg)
{
    ex->k->qkv(ex, arg);
}

void bench_qkv(kc_bench *b)
{
    static const shape s = {16, 4, 256, 32, 32, 1, 1, 0, 0, 0, 1, 1, {64}, {256}, false, 0};
    static const apus_kv types[] = {APUS_KV_F32, APUS_KV_BF16, APUS_KV_Q8};
    for (int t = 0; t < 3; t++) {
        setup u;
        char name[64];
        make(b->c, &s, &u);
        set_type(&u, types[t]);
        u.a.q_out = kc_out(b->c, u.out_floats);
        u.a.kv.base = (uint8_t *)kc_out(b->c, u.page_floats * (size_t)u.n_page);
        snprintf(name, sizeof name, "%-4s T=256 H=16 G=4 D=256", kv_name(types[t]));
        kc_time(b, name, 0, 2.0 * sizeof(float) * (double)u.a.n_tok * (16 + 2 * 4) * 256, run,
                &u.a);
    }
}
