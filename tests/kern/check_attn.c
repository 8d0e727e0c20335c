/* check_attn.c - attention over pages. Keys that no query of the step may see are poison: not
 * written yet, or in pages that left the window (their number is -1, which here is a page of
 * poison too). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"
#include "harness.h"
#include "kern/cpu/micro/micro.h"
#include "kv_view.h"

#define MAX_SEQ 4
#define MAX_POS 8192

typedef struct shape {
    int heads, groups, D, window;
    float scale;
    int n_seq, pos[MAX_SEQ], n_tok[MAX_SEQ];
    bool spans; /* in both directions */
    bool edges; /* queries, keys and values at the edges of rounding */
    int first;  /* keys before it are not there */
} shape;

static const shape shapes[] = {
    {4, 2, 16, 0, 0.25f, 1, {0}, {1}, false, false, 0},
    {4, 2, 20, 0, 0.2f, 1, {0}, {130}, false, false, 0},
    {8, 2, 64, 0, 0.125f, 2, {63, 5}, {3, 70}, false, false, 0},
    /* windows inside a page, across pages, wider than the prompt, of one key */
    {6, 1, 72, 40, 0.1f, 3, {100, 0, 64}, {1, 90, 64}, false, false, 0},
    {4, 4, 128, 1000, 0.09f, 2, {500, 7}, {2, 80}, false, false, 0},
    {7, 1, 40, 5, 0.15f, 1, {300}, {150}, false, false, 0},
    {16, 1, 256, 65, 0.0625f, 1, {190}, {66}, false, false, 0},
    {2, 2, 512, 128, 0.05f, 1, {640}, {20}, false, false, 0},
    {1, 1, 33, 1, 0.3f, 1, {127}, {3}, false, false, 0},
    /* more heads than a tile has rows; a batch of decoding sequences */
    {50, 1, 24, 0, 0.2f, 2, {3, 200}, {5, 1}, false, false, 0},
    {8, 4, 128, 0, 0.1f, 4, {0, 64, 128, 700}, {1, 1, 1, 1}, false, false, 0},
    /* several segments: few tiles, windows that begin in the middle of one, parts in waves */
    {8, 1, 80, 0, 0.15f, 2, {1500, 511}, {1, 2}, false, false, 0},
    {16, 2, 64, 600, 0.15f, 2, {1400, 510}, {5, 4}, false, false, 0},
    {4, 1, 32, 1024, 0.3f, 1, {1900}, {150}, false, false, 0},
    {24, 1, 16, 0, 0.3f, 1, {4000}, {2}, false, false, 0},
    /* spans: over borders of pages and segments, under a window that ends before them, beside text */
    {4, 2, 64, 0, 0.125f, 2, {30, 440}, {70, 130}, true, false, 0},
    {8, 1, 32, 20, 0.2f, 1, {100}, {190}, true, false, 0},
    {2, 1, 128, 600, 0.1f, 3, {900, 0, 63}, {200, 7, 3}, true, false, 0},
    {24, 1, 16, 0, 0.3f, 1, {4090}, {9}, true, false, 0},
    {3, 3, 32, 0, 1, 1, {0}, {140}, false, true, 0},
    {3, 3, 32, 66, 1, 1, {0}, {140}, false, true, 0},
    /* the first key is not the sequence's */
    {6, 2, 16, 0, 0.25f, 2, {1, 64}, {90, 1}, false, false, 1},
    {8, 4, 64, 0, 0.125f, 3, {1, 70, 700}, {1, 1, 1}, false, false, 1},
    {8, 1, 128, 30, 0.1f, 2, {70, 600}, {60, 2}, false, false, 67},
};

static const apus_kv types[] = {APUS_KV_F32, APUS_KV_BF16, APUS_KV_Q8};
enum { N_TYPES = sizeof types / sizeof *types };

typedef struct setup {
    const shape *s;
    ap_batch *batch;
    int32_t *table; /* i32 [n_seq, ld] */
    int ld;
    ap_attn_args a;
    size_t count;
} setup;

static int first_key(const shape *s, int pos)
{
    int first = s->window > 0 && pos >= s->window ? pos - s->window + 1 : 0;
    return first > s->first ? first : s->first;
}

static kv_view view(const setup *u, int seq, int pos)
{
    uint8_t *page = u->a.kv.base + u->a.kv.layer_offset +
                    u->table[seq * u->ld + pos / AP_PAGE] * (int64_t)u->a.kv.page_bytes;
    return (kv_view){u->a.kv.type, u->s->groups, u->s->D, page, pos % AP_PAGE};
}

static void fill(kc *c, const setup *u, int seq)
{
    const shape *s = u->s;
    size_t D = (size_t)s->D;
    float *x = kc_in(c, D, 1);
    for (int pos = first_key(s, s->pos[seq]); pos < s->pos[seq] + s->n_tok[seq]; pos++)
        for (int g = 0; g < s->groups; g++)
            for (int v = 0; v < 2; v++) {
                kv_view at = view(u, seq, pos);
                kc_fill(c, x, D, 1);
                for (int d = 0; d < s->D; d++) {
                    if (u->a.kv.type == APUS_KV_Q8 && d % AP_KV_BLOCK == 0 && (!v || d == 0))
                        *kv_scale(&at, g, d, v) = fabsf(x[d]) * 0.01f;
                    kv_set(&at, g, d, v, x[d], kc_int(c, -127, 127));
                }
            }
}

/* The three heads of edges. Of all: weights of Q8 pages are whole numbers and a half, of 32767 ones, and of the
 * first tokens just below, at and above the smallest that is not zero.
 *   0  all keys are zero, so that every key in sight counts the same
 *   1  queries of ties in 15 bits
 *   2  queries just below, at and above the smallest that is not zero, keys as large */
static void fill_edge(kc *c, const setup *u, int pos)
{
    const float small[] = {nextafterf(1e-30f, 0), 1e-30f, nextafterf(1e-30f, 1)};
    int D = u->s->D;
    float *q = (float *)u->a.q + (size_t)pos * 3 * (size_t)D;
    for (int g = 0; g < 3; g++) {
        kv_view at = view(u, 0, pos);
        float k = g == 2 ? 1e27f : 0.001f,
              v = pos < 3 ? small[pos]
                          : ldexpf(pos % 8 == 3 ? 32767 : (float)kc_int(c, 0, 32766) + 0.5f, -16);
        if (at.type == APUS_KV_Q8) *kv_scale(&at, g, 0, false) = k, *kv_scale(&at, g, 0, true) = v;
        for (int d = 0; d < D; d++) {
            int i = g ? kc_int(c, -127, 127) : 0, j = kc_int(c, -127, 127);
            float sign = kc_int(c, 0, 1) ? 1 : -1;
            kv_set(&at, g, d, false, k * (float)i, i);
            kv_set(&at, g, d, true, v * (float)j, j);
            if (g < 2)
                q[g * D + d] =
                    sign * ldexpf(d == 9 ? 16256 : (float)kc_int(c, 0, 16255) + 0.5f, -13);
            else
                q[g * D + d] =
                    sign * small[pos % 3] * (d == 9 ? 1 : 0.001f * (float)kc_int(c, 0, 999));
        }
    }
}

static void make(kc *c, const shape *s, apus_kv type, setup *u)
{
    int T = 0, n_page = 0, pages[MAX_SEQ];
    size_t page_bytes = ap_kv_layer_bytes(type, s->groups, s->D) + 128;
    *u = (setup){.s = s};
    for (int i = 0; i < s->n_seq; i++) {
        pages[i] = (s->pos[i] + s->n_tok[i] + AP_PAGE - 1) / AP_PAGE;
        n_page += pages[i];
        u->ld = pages[i] > u->ld ? pages[i] : u->ld;
    }
    u->table = kc_bytes(c, (size_t)(s->n_seq * u->ld) * sizeof(int32_t));
    for (int i = 0; i < s->n_seq * u->ld; i++) u->table[i] = -1;
    float *memory = kc_out(c, page_bytes / sizeof(float) * (size_t)(n_page + 1));
    for (int i = 0; i < s->n_seq; i++) { /* pages in falling order: not a run of memory */
        for (int p = 0; p < pages[i]; p++, n_page--)
            u->table[i * u->ld + p] = p < first_key(s, s->pos[i]) / AP_PAGE ? -1 : n_page - 1;
        T += s->n_tok[i];
    }
    u->batch = kc_batch(c, s->n_seq, s->pos, s->n_tok, u->table, u->ld);
    if (s->spans) kc_spans(c, u->batch);
    u->count = (size_t)T * (size_t)(s->heads * s->D);
    u->a = (ap_attn_args){.kv = {.base = (uint8_t *)memory + page_bytes,
                                 .page_bytes = page_bytes,
                                 .layer_offset = 64,
                                 .type = type,
                                 .group = s->window > 0,
                                 .batch = u->batch},
                          .q = kc_copy(c, kc_in(c, u->count, 1), u->count),
                          .n_tok = T,
                          .n_head = s->heads,
                          .n_kv_head = s->groups,
                          .head_dim = s->D,
                          .scale = s->scale,
                          .window = s->window,
                          .first = s->first};
    for (int i = 0; i < s->n_seq; i++) fill(c, u, i);
    for (int t = 0; t < s->n_tok[0] && s->edges; t++) fill_edge(c, u, t);
}

/* ------------------------------------------------------------------ what is expected */

/* One query head in f64. An error of a score by a share of its terms moves its weight by that
 * share, so mag has the terms of the scores beside those of the sum. Where queries and weights are
 * rounded to integers, every term may be off by as much as the largest. */
static void oracle_row(const setup *u, int seq, int row, int pos, int h, double *x, double *y,
                       double *mag)
{
    int end = u->batch->see_end[row];
    int D = u->s->D, g = h / (u->s->heads / u->s->groups), first = first_key(u->s, pos);
    bool ints = u->a.kv.type == APUS_KV_Q8;
    const float *q = u->a.q + (size_t)(row * u->s->heads + h) * (size_t)D;
    double top = -INFINITY, total = 0, size = 1, most_q = 0, most_w = 0, sum_v = 0;
    for (int d = 0; d < D; d++) most_q = fmax(most_q, fabs((double)q[d]));
    for (int p = first; p < end; p++) {
        double sum = 0, terms = 0;
        kv_view at = view(u, seq, p);
        for (int d = 0; d < D; d++) {
            double k = (double)kv_get(&at, g, d, false), term = (double)q[d] * k;
            sum += term, terms += ints ? most_q * fabs(k) : fabs(term);
        }
        x[p] = ints && most_q < (double)1e-30f ? 0 : sum * (double)u->s->scale;
        top = fmax(top, x[p]);
        size = fmax(size, terms * (double)u->s->scale);
    }
    for (int p = first; p < end; p++) total += x[p] = exp(x[p] - top);
    for (int p = first; ints && p < end; p++) {
        kv_view at = view(u, seq, p);
        most_w = fmax(most_w, x[p] / total * (double)*kv_scale(&at, g, 0, true));
    }
    for (int d = 0; d < D; d++) {
        double sum = 0, terms = 0;
        sum_v = 0;
        for (int p = first; p < end; p++) {
            kv_view at = view(u, seq, p);
            double term = x[p] / total * (double)kv_get(&at, g, d, true);
            sum += term, terms += fabs(term);
            if (ints) sum_v += most_w * abs(kv_int(&at, g, d, true));
        }
        y[d] = sum;
        mag[d] = terms * (1 + size) + sum_v;
    }
}

static void check_oracle(kc *c, const setup *u, const float *out, kc_tol tol)
{
    const shape *s = u->s;
    double *y = kc_f64(c, u->count), *mag = kc_f64(c, u->count), *x = kc_f64(c, MAX_POS);
    /* Weights below the normal numbers are 0: some keys times 1.2e-38 times a value. Q8: so are those of a
     * page whose largest is below 1e-30 (kern.h), 64 keys times 1e-30 times 127. */
    tol.abs = u->a.kv.type == APUS_KV_Q8 ? 64 * 1e-30 * 127 : 1e-33;
    for (int i = 0; i < s->n_seq; i++)
        for (int t = 0; t < s->n_tok[i]; t++)
            for (int h = 0; h < s->heads; h++) {
                int row = u->batch->seq[i].begin + t;
                size_t o = (size_t)(row * s->heads + h) * (size_t)s->D;
                oracle_row(u, i, row, s->pos[i] + t, h, x, y + o, mag + o);
            }
    kc_close(c, "out", tol, out, s->D, y, mag, u->a.n_tok * s->heads, s->D);
}

/* The Order of kern.h, written out once more: ints as in ap_kv_ints. */
static float to_ints(const float *x, int n, float most, int *out)
{
    float a = 0;
    for (int i = 0; i < n; i++) a = fmaxf(a, fabsf(x[i]));
    for (int i = 0; i < n; i++) out[i] = a < 1e-30f ? 0 : (int)rintf(x[i] * (most / a));
    return a < 1e-30f ? 0 : a * (1 / most);
}

static void scores_of(const setup *u, int seq, int g, const float *q, int first, float *s)
{
    int D = u->s->D, *x = (int[512]){0};
    float unit = u->a.kv.type == APUS_KV_Q8 ? to_ints(q, D, 16256, x) : 0;
    for (int j = 0; j < AP_PAGE; j++) {
        float acc = 0;
        kv_view at = view(u, seq, first + j);
        for (int d = 0; d < D && u->a.kv.type != APUS_KV_Q8; d++)
            acc = fmaf(q[d], kv_get(&at, g, d, false), acc);
        for (int b = 0; b < D && u->a.kv.type == APUS_KV_Q8; b += AP_KV_BLOCK) {
            int sum = 0;
            for (int d = b; d < D && d < b + AP_KV_BLOCK; d++)
                sum += x[d] * kv_int(&at, g, d, false);
            acc = fmaf((float)sum, *kv_scale(&at, g, b, false), acc);
        }
        s[j] = (u->a.kv.type == APUS_KV_Q8 ? acc * unit : acc) * u->s->scale;
    }
}

static void add_values(const setup *u, int seq, int g, int first, int lo, int hi, const float *p,
                       float *o)
{
    int w[AP_PAGE];
    float x[AP_PAGE] = {0}, unit = 0;
    bool ints = u->a.kv.type == APUS_KV_Q8;
    kv_view at[AP_PAGE];
    for (int j = lo; j < hi; j++) at[j] = view(u, seq, first + j);
    for (int j = lo; j < hi && ints; j++) x[j] = p[j] * *kv_scale(&at[j], g, 0, true);
    if (ints) unit = to_ints(x, AP_PAGE, 32767, w);
    for (int d = 0; d < u->s->D; d++) {
        int sum = 0;
        for (int j = lo; j < hi && !ints; j++) o[d] = fmaf(p[j], kv_get(&at[j], g, d, true), o[d]);
        for (int j = lo; j < hi && ints; j++) sum += w[j] * kv_int(&at[j], g, d, true);
        if (ints) o[d] = fmaf((float)sum, unit, o[d]);
    }
}

/* A segment's m, l, o from the keys [first, end). */
static void order_segment(const setup *u, int seq, int g, const float *q, int first, int end,
                          float *m, float *l, float *o)
{
    *m = -INFINITY, *l = 0;
    for (int d = 0; d < u->s->D; d++) o[d] = 0;
    for (int page = first / AP_PAGE; page * AP_PAGE < end; page++) {
        int at = page * AP_PAGE, lo = first > at ? first - at : 0;
        int hi = end - at < AP_PAGE ? end - at : AP_PAGE;
        float s[AP_PAGE], top = *m, sum[16], c;
        scores_of(u, seq, g, q, at, s);
        for (int j = lo; j < hi; j++) top = fmaxf(top, s[j]);
        for (int j = 0; j < AP_PAGE; j++) s[j] = j >= lo && j < hi ? ap_expf(s[j] - top) : 0;
        for (int j = 0; j < 16; j++) sum[j] = s[j] + s[j + 16] + s[j + 32] + s[j + 48];
        c = ap_expf(*m - top);
        *l = *l * c + ap_sum16(sum);
        *m = top;
        for (int d = 0; d < u->s->D; d++) o[d] = o[d] * c;
        add_values(u, seq, g, at, lo, hi, s, o);
    }
}

static void order_row(const setup *u, int seq, int row, int pos, int h, float *out)
{
    int D = u->s->D, g = h / (u->s->heads / u->s->groups), first = first_key(u->s, pos);
    int seen = u->batch->see_end[row];
    const float *q = u->a.q + (size_t)(row * u->s->heads + h) * (size_t)D;
    float m = 0, l = 0, m2, l2, o[512];
    for (int s = first / AP_SEGMENT; s <= (seen - 1) / AP_SEGMENT; s++) {
        int begin = s * AP_SEGMENT > first ? s * AP_SEGMENT : first;
        int end = (s + 1) * AP_SEGMENT < seen ? (s + 1) * AP_SEGMENT : seen;
        order_segment(u, seq, g, q, begin, end, &m2, &l2, o);
        if (s == first / AP_SEGMENT) {
            m = m2, l = l2;
            memcpy(out, o, (size_t)D * sizeof *out);
            continue;
        }
        float top = fmaxf(m, m2), c = ap_expf(m - top), c2 = ap_expf(m2 - top);
        l = l * c + l2 * c2;
        m = top;
        for (int d = 0; d < D; d++) out[d] = fmaf(o[d], c2, out[d] * c);
    }
    for (int d = 0; d < D; d++) out[d] = out[d] / l;
}

/* The first and the last row of each sequence; of edges all rows. */
static void check_order(kc *c, const setup *u, const float *out)
{
    const shape *s = u->s;
    float *want = kc_out(c, (size_t)s->D);
    for (int i = 0; i < s->n_seq; i++)
        for (int t = 0; t < s->n_tok[i]; t++)
            for (int h = 0, last = t == s->n_tok[i] - 1; h < s->heads;
                 h += last || s->edges ? 1 : s->heads) {
                int row = u->batch->seq[i].begin + t;
                if (t && !last && !s->edges) continue;
                order_row(u, i, row, s->pos[i] + t, h, want);
                kc_same(c, NULL, "out in its Order",
                        out + (size_t)(row * s->heads + h) * (size_t)s->D, s->D, want, s->D, 1,
                        s->D);
            }
}

/* Run on fresh memory, `piece` tokens of one sequence at a time (0 = the whole batch). */
static float *run_pieces(kc *c, const setup *u, const ap_exec *ex, int piece)
{
    const shape *s = u->s;
    float *out = kc_out(c, u->count);
    size_t row_floats = (size_t)(s->heads * s->D);
    void *scratch =
        kc_bytes(c, ex->k->attn_scratch_bytes(ex, u->a.n_tok, s->heads, s->groups, s->D));
    for (int i = 0; i < (piece ? s->n_seq : 1); i++)
        for (int t = 0; t < (piece ? s->n_tok[i] : 1); t += piece ? piece : 1) {
            ap_attn_args a = u->a;
            a.out = out;
            a.scratch = scratch;
            if (piece) {
                int n = s->n_tok[i] - t < piece ? s->n_tok[i] - t : piece;
                size_t row = (size_t)(u->batch->seq[i].begin + t);
                a.kv.batch = kc_piece(c, u->batch, i, t, n);
                a.q += row * row_floats;
                a.out += row * row_floats;
                a.n_tok = n;
            }
            kc_call(ex, attn, &a);
        }
    return out;
}

/* ------------------------------------------------------------------ other devices */

/* A device may have one form for few tokens of a sequence and one for many, the latter for some sizes of heads. Over bf16
 * pages the first may round queries and weights to bf16 at any precision, the second keeps 16 bits of them but with FAST. */
enum { FEW = 8 };
static bool may_split(const shape *s)
{
    return s->D == 64 || s->D == 128 || s->D == 256 || s->D == 512;
}
#define SPLIT_TOL ((kc_tol){4e-4, 1.0 / 2000, 1e-33})

/* What a device that is not exact has computed, against the oracle; alone: each token in a call of its own. */
static void check_device_oracle(kc *c, const setup *u, const float *out, apus_precision precision,
                                bool alone)
{
    const shape *s = u->s;
    setup rounded = *u;
    float *q = kc_copy(c, u->a.q, u->count);
    kc_tol tol = u->a.kv.type == APUS_KV_Q8 ? KC_INT15 : KC_CHAIN;
    bool bf16 = u->a.kv.type == APUS_KV_BF16, any = false;
    for (int i = 0; i < s->n_seq && bf16; i++) {
        bool split =
            precision != APUS_PRECISION_FAST && !alone && s->n_tok[i] > FEW && may_split(s);
        size_t row = (size_t)(s->heads * s->D), from = (size_t)u->batch->seq[i].begin * row;
        if (split) continue;
        any = true;
        for (size_t k = from; k < from + (size_t)s->n_tok[i] * row; k++)
            q[k] = ap_bf16_to_f32(ap_f32_to_bf16(q[k]));
    }
    rounded.a.q = q;
    tol.rel *= 4, tol.sum *= 4; /* its own exponential and order */
    check_oracle(c, &rounded, out, !bf16 ? tol : any ? KC_PAIRS : SPLIT_TOL);
}

/* Tokens of sequence i that the call had which computed its token t. */
static int tokens_of_call(const shape *s, int i, int t, int piece)
{
    int left = piece ? s->n_tok[i] - t / piece * piece : s->n_tok[i];
    return piece && left > piece ? piece : left;
}

/* A token has the same bits in any call that computes it in the same form; with precision HIGH over f32 pages in
 * any call at all. */
static void check_device(kc *c, const setup *u, const kc_kern *kern, apus_precision precision)
{
    static const int pieces[] = {0, 1, 7, 64};
    const shape *s = u->s;
    size_t row_floats = (size_t)(s->heads * s->D);
    const float *first[2][512] = {{0}}; /* of a row in either form */
    ap_exec ex = kern->x;
    ex.precision = precision;
    for (int p = 0; p < 4; p++) {
        float *got = run_pieces(c, u, &ex, pieces[p]);
        kc_written(c, "out", got, u->a.n_tok * s->heads, s->D, s->D);
        if (p < 2) check_device_oracle(c, u, got, precision, p == 1);
        for (int i = 0; i < s->n_seq; i++)
            for (int t = 0; t < s->n_tok[i]; t++) {
                int row = u->batch->seq[i].begin + t;
                bool many = u->a.kv.type != APUS_KV_F32 && tokens_of_call(s, i, t, pieces[p]) > FEW;
                float *x = got + (size_t)row * row_floats;
                if (!first[many][row]) first[many][row] = x;
                kc_again(c, kern, many ? "out, many tokens" : "out, few tokens", x, s->D,
                         first[many][row], s->D, s->heads, s->D);
            }
    }
}

static void check_shape(kc *c, const shape *s, apus_kv type)
{
    static const int pieces[] = {0, 1, 7, 64};
    setup u;
    make(c, s, type, &u);
    kc_case(c, "%s T=%d H=%d G=%d D=%d window=%d pos=%d%s", kv_name(type), u.a.n_tok, s->heads,
            s->groups, s->D, s->window, s->pos[0],
            s->spans   ? " spans"
            : s->edges ? " edges"
                       : "");
    float *out = run_pieces(c, &u, c->ref, 0);
    check_oracle(c, &u, out, type == APUS_KV_Q8 ? KC_INT15 : KC_CHAIN);
    check_order(c, &u, out);
    for (int k = 0; k < c->n_kern; k++) {
        if (!c->kern[k].exact) {
            check_device(c, &u, &c->kern[k], APUS_PRECISION_HIGH);
            continue;
        }
        if (c->kern[k].x.k->level == APUS_CPU_REF && u.count > 20000 && k % 2) continue; /* slow */
        for (int p = 0; p < 4; p++) {
            if (c->kern[k].x.k->level == APUS_CPU_REF && p != k % 4) continue;
            float *got = run_pieces(c, &u, &c->kern[k].x, pieces[p]);
            kc_same(c, &c->kern[k], "out", got, s->D, out, s->D, u.a.n_tok * s->heads, s->D);
        }
    }
}

/* Precision FAST: no Order, but what follows from queries and weights in bf16, and no
 * dependence on threads, pieces and neighbours either. */
static void check_fast(kc *c, const shape *s)
{
    static const int pieces[] = {0, 1, 7, 64};
    setup u, rounded;
    float *first = NULL, *exact;
    make(c, s, APUS_KV_BF16, &u);
    float *q = kc_copy(c, u.a.q, u.count);
    for (size_t i = 0; i < u.count; i++) q[i] = ap_bf16_to_f32(ap_f32_to_bf16(q[i]));
    rounded = u;
    rounded.a.q = q;
    exact = run_pieces(c, &u, c->ref, 0);
    kc_case(c, "fast T=%d H=%d G=%d D=%d window=%d pos=%d", u.a.n_tok, s->heads, s->groups, s->D,
            s->window, s->pos[0]);
    for (int k = 0; k < c->n_kern; k++) {
        ap_exec fast = c->kern[k].x;
        fast.precision = APUS_PRECISION_FAST;
        if (!c->kern[k].exact) {
            check_device(c, &u, &c->kern[k], APUS_PRECISION_FAST);
            continue;
        }
        if (fast.k->level < APUS_CPU_AVX512) continue; /* the others have nothing faster */
        if (k == 0 || fast.k->level != c->kern[k - 1].x.k->level) first = NULL;
        for (int p = 0; p < 4; p++) {
            float *got = run_pieces(c, &u, &fast, pieces[p]);
            if (!first && memcmp(got, exact, u.count * sizeof *got) != 0)
                check_oracle(c, &rounded, got, KC_PAIRS); /* else nothing faster is there */
            if (!first) first = got;
            kc_same(c, &c->kern[k], "out", got, s->D, first, s->D, u.a.n_tok * s->heads, s->D);
        }
    }
}

void check_attn(kc *c)
{
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (!shapes[i].edges && ap_kv_layer_bytes(APUS_KV_BF16, shapes[i].groups, shapes[i].D))
            check_fast(c, &shapes[i]);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int t = 0; t < N_TYPES; t++)
            if (ap_kv_layer_bytes(types[t], shapes[i].groups, shapes[i].D))
                check_shape(c, &shapes[i], types[t]);
}

/* The scratch of check_attn lies between canaries; here only that the size is one. */
void check_attn_scratch_bytes(kc *c)
{
    for (int k = 0; k < c->n_kern; k++) {
        const ap_exec *ex = &c->kern[k].x;
        size_t small = ex->k->attn_scratch_bytes(ex, 1, 4, 2, 64);
        size_t large = ex->k->attn_scratch_bytes(ex, 512, 64, 8, 512);
        if (large < small || large > (size_t)1 << 30)
            kc_fail(c, "%s: %zu and %zu bytes", c->kern[k].name, small, large);
    }
}

/* As many dims or a few more, that bf16 pages take; none where products of bf16 are not allowed. */
void check_attn_fast_dim(kc *c)
{
    for (int k = 0; k < c->n_kern; k++)
        for (int D = 1; D <= AP_HEAD_MAX; D++) {
            ap_exec x = c->kern[k].x;
            x.precision = APUS_PRECISION_FAST;
            int n = x.k->attn_fast_dim(&x, D);
            bool fits = n >= D && n < ap_max_int(65, 2 * D) && x.k->attn_fast_dim(&x, n) == n;
            if (n && (!fits || !ap_kv_layer_bytes(APUS_KV_BF16, 1, n)))
                kc_fail(c, "%s: %d dims for heads of %d", c->kern[k].name, n, D);
            x.precision = APUS_PRECISION_EXACT;
            if (x.k->attn_fast_dim(&x, D)) kc_fail(c, "%s: fast where exact", c->kern[k].name);
        }
}

static void run(const ap_exec *ex, void *arg)
{
    ex->k->attn(ex, arg);
}

static void bench_shape(kc_bench *b, const shape *s, apus_kv type, apus_precision precision)
{
    ap_exec k = *b->x;
    kc_bench as = *b;
    setup u;
    char name[96];
    double keys = 0;
    make(b->c, s, type, &u);
    u.a.out = kc_out(b->c, u.count);
    u.a.scratch =
        kc_bytes(b->c, b->x->k->attn_scratch_bytes(b->x, u.a.n_tok, s->heads, s->groups, s->D));
    for (int t = 0; t < s->n_tok[0]; t++) {
        int pos = s->pos[0] + t;
        keys += pos + 1 - first_key(s, pos);
    }
    int seen = s->pos[0] + s->n_tok[0] - first_key(s, s->pos[0]);
    double bytes = (double)ap_kv_layer_bytes(type, s->groups, s->D) / AP_PAGE * seen;
    k.precision = precision;
    as.x = &k;
    snprintf(name, sizeof name, "%-4s T=%d pos=%d H=%d G=%d D=%d%s",
             precision == APUS_PRECISION_FAST ? "fast" : kv_name(type), s->n_tok[0], s->pos[0],
             s->heads, s->groups, s->D, s->window ? " w=1024" : "");
    kc_time(&as, name, 4 * keys * s->heads * s->D, bytes, run, &u.a);
    kc_release(b->c);
}

/* Qwen's full layers, gemma's sliding and full ones, and one of 128. */
void bench_attn(kc_bench *b)
{
    static const shape shape_of[] = {
        {16, 2, 256, 0, 0.06f, 1, {4095}, {1}, false, false, 0},
        {16, 2, 256, 0, 0.06f, 1, {32767}, {1}, false, false, 0},
        {16, 8, 256, 1024, 0.06f, 1, {4095}, {1}, false, false, 0},
        {16, 2, 512, 0, 0.06f, 1, {4095}, {1}, false, false, 0},
        {16, 2, 512, 0, 0.06f, 1, {32767}, {1}, false, false, 0},
        {32, 8, 128, 0, 0.09f, 1, {8191}, {1}, false, false, 0},
        {16, 2, 256, 0, 0.06f, 1, {0}, {512}, false, false, 0},
        {16, 2, 256, 0, 0.06f, 1, {4096}, {512}, false, false, 0},
        {16, 8, 256, 1024, 0.06f, 1, {0}, {512}, false, false, 0},
        {16, 8, 256, 1024, 0.06f, 1, {4096}, {512}, false, false, 0},
        {16, 2, 512, 0, 0.06f, 1, {4096}, {512}, false, false, 0},
        {32, 8, 128, 0, 0.09f, 1, {4096}, {512}, false, false, 0},
    };
    if (b->x->k->level == APUS_CPU_REF) return; /* minutes */
    for (size_t i = 0; i < sizeof shape_of / sizeof *shape_of; i++)
        for (int t = 0; t < N_TYPES; t++) {
            bench_shape(b, &shape_of[i], types[t], APUS_PRECISION_HIGH);
            if (types[t] == APUS_KV_BF16)
                bench_shape(b, &shape_of[i], types[t], APUS_PRECISION_FAST);
        }
}
