/* check_route.c - choosing experts. */
#include <math.h>
#include <string.h>

#include "kcheck.h"
#include "kern/cpu/micro/micro.h"

/* The n_used largest by repeated search: another algorithm than ref's. */
static void choose64(const float *l, int n_expert, int n_used, int32_t *ids)
{
    for (int j = 0; j < n_used; j++) {
        int best = -1;
        for (int e = 0; e < n_expert; e++) {
            bool taken = false;
            for (int i = 0; i < j; i++) taken |= ids[i] == e;
            double v = isnan(l[e]) ? -INFINITY : (double)l[e];
            if (taken) continue;
            if (best < 0 || v > (isnan(l[best]) ? -INFINITY : (double)l[best])) best = e;
        }
        ids[j] = best;
    }
}

/* mag: the rounding of l - max is relative to that difference, and exp makes it relative to p; a
 * plain sum of n positive terms may be off by n roundings, small terms behind a large one being
 * lost. */
static void route64(const ap_route_args *a, int t, const int32_t *ids, double *w, double *mag)
{
    const float *l = a->logits + (size_t)t * a->n_expert;
    double max = l[ids[0]], sum = 0;
    for (int j = 0; j < a->n_used && a->norm; j++) sum += exp(l[ids[j]] - max);
    for (int e = 0; e < a->n_expert && !a->norm; e++) sum += exp(l[e] - max);
    for (int j = 0; j < a->n_used; j++) {
        w[j] =
            exp(l[ids[j]] - max) / sum * (a->per_expert_scale ? a->per_expert_scale[ids[j]] : 1.0);
        double terms = (a->norm ? a->n_used : a->n_expert) / 24.0; /* KC_SUM allows 24 of mag */
        mag[j] = isfinite(l[ids[j]]) ? fabs(w[j]) * (max - l[ids[j]] + terms) : 0.0;
    }
}

static void route_by_order(const ap_route_args *a, int t, const int32_t *ids, float *w)
{
    const float *l = a->logits + (size_t)t * a->n_expert;
    float max = l[ids[0]], sum = 0;
    for (int j = 0; j < a->n_used && a->norm; j++) sum += ap_expf(l[ids[j]] - max);
    for (int e = 0; e < a->n_expert && !a->norm; e++) sum += ap_expf(l[e] - max);
    for (int j = 0; j < a->n_used; j++) {
        w[j] = ap_expf(l[ids[j]] - max) / sum;
        if (a->per_expert_scale) w[j] *= a->per_expert_scale[ids[j]];
    }
}

static void check_route_case(kc *c, int n_tok, int n_expert, int n_used, int kind, bool norm)
{
    size_t n = (size_t)n_tok * n_used;
    float *l = kc_in(c, (size_t)n_tok * n_expert, 1.5), *scale = kc_in(c, (size_t)n_expert, 1.0);
    for (int i = 0; i < n_tok * n_expert; i++) {
        if (kind == 1) l[i] = (float)kc_int(c, 0, 3); /* ties */
        if (kind == 2 && kc_int(c, 0, 3) == 0) l[i] = -INFINITY;
    }
    kc_case(c, "T=%d E=%d K=%d kind=%d%s", n_tok, n_expert, n_used, kind, norm ? " norm" : "");
    int32_t *want_ids = kc_bytes(c, n * sizeof(int32_t)), *ids = kc_bytes(c, n * sizeof(int32_t));
    int32_t *ids64 = kc_bytes(c, n * sizeof(int32_t));
    float *want = kc_out(c, n), *w = kc_out(c, n), *order = kc_out(c, n);
    double *w64 = kc_f64(c, n), *mag = kc_f64(c, n);
    ap_route_args a = {.logits = l,
                       .per_expert_scale = kind == 3 ? scale : NULL,
                       .ids = want_ids,
                       .weights = want,
                       .n_tok = n_tok,
                       .n_expert = n_expert,
                       .n_used = n_used,
                       .norm = norm};
    kc_call(c->ref, route, &a);
    for (int t = 0; t < n_tok; t++) {
        choose64(l + (size_t)t * n_expert, n_expert, n_used, ids64 + t * n_used);
        route64(&a, t, ids64 + t * n_used, w64 + t * n_used, mag + t * n_used);
        route_by_order(&a, t, ids64 + t * n_used, order + t * n_used);
    }
    if (n && memcmp(want_ids, ids64, n * sizeof(int32_t)))
        kc_fail(c, "ids differ from the oracle's");
    kc_same(c, NULL, "weights", want, n_used, order, n_used, n_tok, n_used);
    kc_close(c, "weights", KC_ROUTE, want, n_used, w64, mag, n_tok, n_used);
    const float *whole = NULL;
    for (int k = 0; k < 2 * c->n_kern; k++) {
        const kc_kern *kern = &c->kern[k / 2];
        int step = k % 2 ? 1 : n_tok;
        memset(ids, 0xff, n * sizeof(int32_t));
        kc_poison(w, n);
        for (int t = 0; t < n_tok; t += step) {
            ap_route_args b = a;
            b.logits += (size_t)t * n_expert;
            b.ids = ids + t * n_used;
            b.weights = w + t * n_used;
            b.n_tok = step;
            kc_call(&kern->x, route, &b);
        }
        if (n && memcmp(want_ids, ids, n * sizeof(int32_t)))
            kc_fail(c, "%s: ids differ", kern->name);
        if (k % 2) {
            kc_again(c, kern, "weights, rows alone", w, n_used, whole, n_used, n_tok, n_used);
            continue;
        }
        kc_same(c, kern, "weights", w, n_used, want, n_used, n_tok, n_used);
        whole = kc_first(c, kern, w, want, n);
    }
}

/* Ids stay distinct and in range when logits are NaN: they index experts afterwards. */
static void check_nan(kc *c)
{
    const float logits[8] = {NAN, 1.0f, NAN, NAN, 3.0f, NAN, NAN, NAN};
    const int32_t want[4] = {4, 1, 0, 2};
    float *l = kc_copy(c, logits, 8), *w = kc_out(c, 4);
    int32_t *ids = kc_bytes(c, sizeof want);
    kc_case(c, "NaN logits");
    for (int k = 0; k < c->n_kern; k++) {
        ap_route_args a = {.logits = l,
                           .ids = ids,
                           .weights = w,
                           .n_tok = 1,
                           .n_expert = 8,
                           .n_used = 4,
                           .norm = true};
        kc_call(&c->kern[k].x, route, &a);
        for (int j = 0; j < 4; j++)
            if (!isnan(w[j]))
                kc_fail(c, "%s: a broken router gave the weight %g", c->kern[k].name, (double)w[j]);
        if (memcmp(ids, want, sizeof want))
            kc_fail(c, "%s: ids %d %d %d %d", c->kern[k].name, ids[0], ids[1], ids[2], ids[3]);
    }
}

void check_route(kc *c)
{
    static const int experts[][2] = {{1, 1},  {2, 1},   {8, 2},    {16, 16},
                                     {17, 3}, {128, 8}, {512, 10}, {600, 4}};
    for (int i = 0; i < 8 * 4 * 2; i++)
        check_route_case(c, i % 5 == 0 ? 70 : i % 7, experts[i / 8][0], experts[i / 8][1],
                         i / 2 % 4, i % 2);
    check_nan(c);
}

static void run_route(const ap_exec *ex, void *arg)
{
    ex->k->route(ex, arg);
}

void bench_route(kc_bench *b)
{
    enum { T = 512, E = 512, K = 10 };
    float *l = kc_in(b->c, (size_t)T * E, 1.0), *w = kc_out(b->c, (size_t)T * K);
    ap_route_args a = {.logits = l,
                       .ids = kc_bytes(b->c, (size_t)T * K * 4),
                       .weights = w,
                       .n_tok = T,
                       .n_expert = E,
                       .n_used = K,
                       .norm = true};
    kc_time(b, "T=512 E=512 K=10", 0, 4.0 * T * E, run_route, &a);
    a.n_tok = 1;
    kc_time(b, "T=1 E=512 K=10 (cached)", 0, 4.0 * E, run_route, &a);
}
