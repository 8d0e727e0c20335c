/* check_moe.c - routed experts. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kcheck.h"
#include "kern/cpu/micro/micro.h"

enum { MAX_EXPERTS = 64 };

typedef struct model {
    ap_expert expert[MAX_EXPERTS];
    ap_tensor gate_t[MAX_EXPERTS], up_t[MAX_EXPERTS], down_t[MAX_EXPERTS];
    float *gate[MAX_EXPERTS], *up[MAX_EXPERTS], *down[MAX_EXPERTS]; /* exact values */
    int n_expert, hidden, ffn;
} model;

typedef enum routing { ANY, ALL_TO_ONE, EVEN } routing;

void check_moe_scratch_bytes(kc *c)
{
    /* That the bytes are enough is seen by check_moe, which gives no more. Here: they grow with
     * each size, and nothing wraps around. */
    for (int i = 0; i < 100; i++) {
        int T = kc_int(c, 1, 600), E = kc_int(c, 1, 256), K = kc_int(c, 1, 16),
            H = kc_int(c, 1, 4096), F = kc_int(c, 1, 4096);
        kc_case(c, "T=%d E=%d K=%d H=%d F=%d", T, E, K, H, F);
        for (int k = 0; k < c->n_kern; k++) {
            const ap_exec *ex = &c->kern[k].x;
            size_t bytes = ex->k->moe_scratch_bytes(ex, T, E, K, H, F);
            size_t need = (size_t)T * (size_t)K * (size_t)F * 4;
            size_t most = (size_t)T * (size_t)K * ((size_t)H + (size_t)F) * 20 + (16 << 20);
            c->values++;
            if (bytes < need || bytes > most) kc_fail(c, "%zu bytes", bytes);
            if (ex->k->moe_scratch_bytes(ex, T + 1, E, K, H, F) < bytes)
                kc_fail(c, "shrinks with T");
        }
    }
    kc_case(c, "huge");
    if (c->ref->k->moe_scratch_bytes(c->ref, INT32_MAX, 512, 64, 1 << 24, 1 << 24) < SIZE_MAX / 2)
        kc_fail(c, "wrapped around");
}

static void make_model(kc *c, model *m, int n_expert, int hidden, int ffn, const bool *used)
{
    static const ap_dtype types[] = {AP_BF16, AP_F16, AP_F32, AP_BF16};
    *m = (model){.n_expert = n_expert, .hidden = hidden, .ffn = ffn};
    for (int e = 0; e < n_expert; e++) {
        if (!used[e]) continue; /* no data at all: touching it would crash */
        ap_dtype t = types[e % 4];
        ap_tensor g = kc_tensor(c, t, ffn, hidden, 1.0 / sqrt(hidden), &m->gate[e]);
        ap_tensor u = kc_tensor(c, t, ffn, hidden, 1.0 / sqrt(hidden), &m->up[e]);
        ap_tensor d = kc_tensor(c, t, hidden, ffn, 1.0 / sqrt(ffn), &m->down[e]);
        m->gate_t[e] = g;
        m->up_t[e] = u;
        m->down_t[e] = d;
        m->expert[e] =
            (ap_expert){kc_mat(c, c->ref, &g), kc_mat(c, c->ref, &u), kc_mat(c, c->ref, &d)};
    }
}

/* The experts as kern takes them. */
static const ap_expert *experts_of(kc *c, const kc_kern *kern, const model *m, const bool *used,
                                   ap_expert *its)
{
    if (!kern || kern->exact) return m->expert;
    memset(its, 0, (size_t)m->n_expert * sizeof *its); /* not there */
    for (int e = 0; e < m->n_expert; e++) {
        if (!used[e]) continue;
        its[e].gate = kc_mat_of(c, kern, &m->gate_t[e], NULL);
        its[e].up = kc_mat_of(c, kern, &m->up_t[e], NULL);
        its[e].down = kc_mat_of(c, kern, &m->down_t[e], NULL);
    }
    return its;
}

static void make_routing(kc *c, routing how, int T, int E, int K, int32_t *ids, bool *used)
{
    for (int t = 0; t < T; t++)
        for (int j = 0; j < K; j++) {
            int e;
            bool taken;
            do {
                e = how == ALL_TO_ONE && j == 0 ? 0
                    : how == EVEN               ? (t * K + j) % E
                                                : kc_int(c, 0, E - 1);
                taken = false;
                for (int i = 0; i < j; i++) taken |= ids[t * K + i] == e;
            } while (taken && how != EVEN);
            ids[t * K + j] = e;
            used[e] = true;
        }
}

static double dot64(const float *w, const double *x, int n, double *mag, const double *xmag)
{
    double s = 0;
    *mag = 0;
    for (int i = 0; i < n; i++) {
        s += w[i] * x[i];
        *mag += fabs(w[i]) * xmag[i];
    }
    return s;
}

static double act64(ap_act act, double x)
{
    if (act == AP_ACT_SILU) return x / (1.0 + exp(-x));
    return 0.5 * x * (1.0 + tanh(sqrt(2.0 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
}

static void moe64(kc *c, const model *m, const ap_moe_args *a, const float *old, double *y,
                  double *mag)
{
    double *mid = kc_f64(c, (size_t)m->ffn), *midm = kc_f64(c, (size_t)m->ffn);
    double *x = kc_f64(c, (size_t)m->hidden), *xm = kc_f64(c, (size_t)m->hidden);
    for (int t = 0; t < a->n_tok; t++) {
        double *yt = y + (size_t)t * m->hidden, *mt = mag + (size_t)t * m->hidden;
        for (int i = 0; i < m->hidden; i++) {
            x[i] = a->x[t * a->ldx + i];
            xm[i] = fabs(x[i]);
            yt[i] = a->accumulate ? (double)old[t * a->ldy + i] : 0.0;
            mt[i] = fabs(yt[i]);
        }
        for (int j = 0; j < a->n_used; j++) {
            int e = a->ids[t * a->n_used + j];
            double w = a->weights[t * a->n_used + j];
            for (int f = 0; f < m->ffn; f++) {
                double gm, um, g = dot64(m->gate[e] + (size_t)f * m->hidden, x, m->hidden, &gm, xm);
                double u = dot64(m->up[e] + (size_t)f * m->hidden, x, m->hidden, &um, xm);
                mid[f] = act64(a->act, g) * u;
                midm[f] = 1.13 * gm * (fabs(u) + KC_EPS * um) + fabs(act64(a->act, g)) * um;
            }
            for (int h = 0; h < m->hidden; h++) {
                double dm, d = dot64(m->down[e] + (size_t)h * m->ffn, mid, m->ffn, &dm, midm);
                yt[h] += w * d;
                mt[h] += fabs(w) * dm;
            }
        }
    }
}

static void moe_by_order(kc *c, const model *m, const ap_moe_args *a, const float *old, float *y)
{
    float *mid = kc_out(c, (size_t)m->ffn), *acc = kc_out(c, (size_t)m->hidden);
    for (int t = 0; t < a->n_tok; t++) {
        const float *x = a->x + t * a->ldx;
        memset(acc, 0, (size_t)m->hidden * sizeof(float));
        for (int j = 0; j < a->n_used; j++) {
            int e = a->ids[t * a->n_used + j];
            for (int f = 0; f < m->ffn; f++) {
                float g = kc_dot(x, m->gate[e] + (size_t)f * m->hidden, m->hidden);
                float u = kc_dot(x, m->up[e] + (size_t)f * m->hidden, m->hidden);
                mid[f] = (a->act == AP_ACT_SILU ? ap_siluf(g) : ap_gelu_tanhf(g)) * u;
            }
            for (int h = 0; h < m->hidden; h++) {
                float d = kc_dot(mid, m->down[e] + (size_t)h * m->ffn, m->ffn);
                acc[h] = fmaf(a->weights[t * a->n_used + j], d, acc[h]);
            }
        }
        for (int h = 0; h < m->hidden; h++)
            y[t * a->ldy + h] = a->accumulate ? old[t * a->ldy + h] + acc[h] : acc[h];
    }
}

static void run_rows(const ap_exec *ex, const ap_moe_args *a, int begin, int n)
{
    ap_moe_args p = *a;
    p.x += begin * a->ldx;
    p.y += begin * a->ldy;
    p.ids += begin * a->n_used;
    p.weights += begin * a->n_used;
    p.n_tok = n;
    kc_call(ex, moe, &p);
}

static void check_moe_case(kc *c, int T, int E, int K, int H, int F, routing how, bool accumulate)
{
    int64_t ldx = H + kc_int(c, 0, 3), ldy = H + kc_int(c, 0, 3);
    size_t ny = (size_t)(T * ldy), dense = (size_t)T * H;
    float *x = kc_in(c, (size_t)(T * ldx), 1.0), *old = kc_in(c, ny, 1.0);
    float *weights = kc_in(c, (size_t)T * K, 0.3), *want = kc_out(c, ny), *y = kc_out(c, ny);
    int32_t *ids = kc_bytes(c, (size_t)T * K * sizeof *ids);
    double *y64 = kc_f64(c, dense), *mag = kc_f64(c, dense);
    bool used[MAX_EXPERTS] = {false};
    model m;
    kc_case(c, "T=%d E=%d K=%d H=%d F=%d routing=%d%s", T, E, K, H, F, (int)how,
            accumulate ? " accumulate" : "");
    make_routing(c, how, T, E, K, ids, used);
    make_model(c, &m, E, H, F, used);
    ap_moe_args a = {.x = x,
                     .ids = ids,
                     .weights = weights,
                     .experts = m.expert,
                     .ldx = ldx,
                     .ldy = ldy,
                     .n_tok = T,
                     .n_expert = E,
                     .n_used = K,
                     .accumulate = accumulate,
                     .act = kc_int(c, 0, 1) ? AP_ACT_SILU : AP_ACT_GELU_TANH};
    moe64(c, &m, &a, old, y64, mag);
    float *order = kc_out(c, ny);
    moe_by_order(c, &m, &a, old, order);
    const float *whole = NULL;
    c->mag = mag;
    for (int k = -1; k < 2 * c->n_kern; k++) {
        const ap_exec *ex = k < 0 ? c->ref : &c->kern[k / 2].x;
        bool alone = k >= 0 && k % 2;
        ap_expert its[MAX_EXPERTS];
        a.experts = experts_of(c, k < 0 ? NULL : &c->kern[k / 2], &m, used, its);
        a.y = k < 0 ? want : y;
        a.scratch = kc_bytes(c, ex->k->moe_scratch_bytes(ex, T, E, K, H, F));
        kc_poison(a.y, ny);
        for (int t = 0; t < T && accumulate; t++)
            memcpy(a.y + t * ldy, old + t * ldy, (size_t)H * sizeof(float));
        if (alone)
            for (int t = 0; t < T; t++) run_rows(ex, &a, t, 1);
        else
            kc_call(ex, moe, &a);
        kc_written(c, "y", a.y, T, H, ldy);
        if (k < 0) {
            kc_close(c, "y", KC_CHAIN, want, ldy, y64, mag, T, H);
            kc_same(c, NULL, "y", want, ldy, order, ldy, T, H);
            continue;
        }
        if (alone) {
            kc_again(c, &c->kern[k / 2], "rows alone", y, ldy, whole, ldy, T, H);
            continue;
        }
        kc_same(c, &c->kern[k / 2], "y", y, ldy, want, ldy, T, H);
        whole = kc_first(c, &c->kern[k / 2], y, want, ny);
    }
}

void check_moe(kc *c)
{
    static const int shapes[][5] = {{0, 4, 2, 16, 16},  {1, 1, 1, 1, 1},     {1, 8, 2, 33, 20},
                                    {2, 8, 8, 40, 17},  {5, 16, 4, 64, 32},  {7, 3, 2, 100, 50},
                                    {33, 8, 2, 48, 70}, {130, 6, 2, 30, 20}, {300, 64, 8, 16, 16}};
    for (int i = 0; i < 9 * 3; i++) {
        const int *s = shapes[i / 3];
        check_moe_case(c, s[0], s[1], s[2], s[3], s[4], (routing)(i % 3), i % 2);
    }
    check_moe_case(c, 1, 8, 4, 600, 300, ANY, true);
    check_moe_case(c, 260, 4, 1, 24, 40, ALL_TO_ONE, false);
    check_moe_case(c, 1100, 32, 8, 283, 16, ANY, true); /* two slices of the outputs */
    check_moe_quant(c);
    check_moe_amx(c);
}

static void run_moe(const ap_exec *ex, void *arg)
{
    ex->k->moe(ex, arg);
}

void bench_moe(kc_bench *b)
{
    enum { E = 64, K = 8, H = 2048, F = 512, T = 256 };
    static ap_expert expert[E];
    if (b->x->k->level == APUS_CPU_REF) return;
    kc *c = b->c;
    ap_tensor in = kc_tensor(c, AP_BF16, F, H, 0.02, NULL),
              out = kc_tensor(c, AP_BF16, H, F, 0.02, NULL);
    for (int e = 0; e < E; e++)
        expert[e] = (ap_expert){kc_mat(c, b->x, &in), kc_mat(c, b->x, &in), kc_mat(c, b->x, &out)};
    int32_t *ids = kc_bytes(c, (size_t)T * K * sizeof *ids);
    bool used[E];
    make_routing(c, ANY, T, E, K, ids, used);
    ap_moe_args a = {.x = kc_in(c, (size_t)T * H, 1),
                     .ids = ids,
                     .weights = kc_in(c, (size_t)T * K, 0.1),
                     .experts = expert,
                     .y = kc_out(c, (size_t)T * H),
                     .ldx = H,
                     .ldy = H,
                     .n_tok = 1,
                     .n_expert = E,
                     .n_used = K,
                     .act = AP_ACT_SILU,
                     .scratch = kc_bytes(c, b->x->k->moe_scratch_bytes(b->x, T, E, K, H, F))};
    double macs = 3.0 * K * H * F;
    kc_time(b, "T=1 E=64 K=8 H=2048 F=512 bf16", 2 * macs, 2 * macs, run_moe, &a);
    a.n_tok = T;
    kc_time(b, "T=256 E=64 K=8 H=2048 F=512 bf16", 2 * macs * T, 6.0 * E * H * F, run_moe, &a);
    bench_moe_amx(b);
}
