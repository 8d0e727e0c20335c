/* check_near.c - attention to a row itself and those right before it. */
#include <math.h>

#include "kcheck.h"
#include "kern/cpu/micro/micro.h"

typedef struct setup {
    ap_attn_near_args a;
    int64_t n; /* values of a row of out */
} setup;

static setup make(kc *c, int T, int past, int heads, int D, int reach)
{
    int64_t n = (int64_t)heads * D;
    int64_t ldq = n + kc_int(c, 0, 3), ldkv = n + kc_int(c, 0, 3), rows = T + past;
    float *k = kc_in(c, (size_t)(rows * ldkv), 2), *v = kc_in(c, (size_t)(rows * ldkv), 1);
    return (setup){.a = {.q = kc_in(c, (size_t)(T * ldq), 2),
                         .k = k + past * ldkv,
                         .v = v + past * ldkv,
                         .distant = kc_in(c, (size_t)(reach * n), 1),
                         .ldq = ldq,
                         .ldkv = ldkv,
                         .ldout = n + kc_int(c, 0, 3),
                         .n_tok = T,
                         .n_past = past,
                         .n_head = heads,
                         .head_dim = D,
                         .reach = reach,
                         .cap = 5},
                   .n = n};
}

static int keys_of(const ap_attn_near_args *a, int t)
{
    return t + a->n_past + 1 < a->reach ? t + a->n_past + 1 : a->reach;
}

static void by_definition(const ap_attn_near_args *a, int t, int h, double *y, double *mag)
{
    int D = a->head_dim, n = keys_of(a, t);
    double p[AP_NEAR_MAX], sum = 0, top = -INFINITY, noise = 0;
    const float *q = a->q + t * a->ldq + h * D;
    for (int j = 0; j < n; j++) {
        const float *k = a->k + (t - j) * a->ldkv + h * D,
                    *distant = a->distant + (j * a->n_head + h) * D;
        double terms = 0;
        p[j] = 0;
        for (int d = 0; d < D; d++) {
            p[j] += (double)q[d] * ((double)k[d] + distant[d]);
            terms += fabs((double)q[d] * k[d]) + fabs((double)q[d] * distant[d]);
        }
        p[j] = a->cap * tanh(p[j] / a->cap);
        top = fmax(top, p[j]);
        noise = fmax(noise, terms + a->cap);
    }
    for (int j = 0; j < n; j++) sum += p[j] = exp(p[j] - top);
    for (int d = 0; d < D; d++) {
        y[d] = mag[d] = 0;
        for (int j = 0; j < n; j++) {
            double v = a->v[(t - j) * a->ldkv + h * D + d];
            y[d] += p[j] / sum * v;
            mag[d] += p[j] / sum * fabs(v) * (2 + 2 * noise); /* errors of scores are factors */
        }
    }
}

static float dot16(const float *x, const float *y, int n)
{
    float s[16] = {0};
    for (int i = 0; i < n; i++) s[i % 16] = fmaf(x[i], y[i], s[i % 16]);
    return ap_sum16(s);
}

static void by_order(const ap_attn_near_args *a, int t, int h, float *out)
{
    int D = a->head_dim, n = keys_of(a, t);
    float p[AP_NEAR_MAX] = {0}, top = -INFINITY, sum = 0;
    const float *q = a->q + t * a->ldq + h * D;
    for (int j = 0; j < n; j++) {
        float s = dot16(q, a->k + (t - j) * a->ldkv + h * D, D) +
                  dot16(q, a->distant + (j * a->n_head + h) * D, D);
        p[j] = a->cap * ap_tanhf(s / a->cap);
        top = p[j] > top ? p[j] : top;
    }
    for (int j = 0; j < n; j++) sum = sum + (p[j] = ap_expf(p[j] - top));
    for (int d = 0; d < D; d++) {
        float acc = 0;
        for (int j = 0; j < n; j++) acc = fmaf(p[j], a->v[(t - j) * a->ldkv + h * D + d], acc);
        out[d] = acc * (1.0f / sum);
    }
}

/* The rows in two calls are those of one. */
static void check_cut(kc *c, const kc_kern *who, const setup *u, const float *whole)
{
    ap_attn_near_args a = u->a;
    int T = a.n_tok, cut = T / 3;
    float *y = kc_out(c, (size_t)(T * a.ldout));
    a.out = y;
    a.n_tok = cut;
    kc_call(&who->x, attn_near, &a);
    a.q += cut * a.ldq;
    a.k += cut * a.ldkv;
    a.v += cut * a.ldkv;
    a.out += cut * a.ldout;
    a.n_past += cut;
    a.n_tok = T - cut;
    kc_call(&who->x, attn_near, &a);
    kc_again(c, who, "in two calls", y, a.ldout, whole, a.ldout, T, u->n);
}

static void check_case(kc *c, int T, int past, int heads, int D, int reach)
{
    setup u = make(c, T, past, heads, D, reach);
    int64_t ld = u.a.ldout;
    size_t count = (size_t)(T * ld), dense = (size_t)(T * u.n);
    float *want = kc_out(c, count), *order = kc_out(c, count), *y = kc_out(c, count);
    double *y64 = kc_f64(c, dense), *mag = kc_f64(c, dense);
    kc_case(c, "T=%d past=%d heads=%d D=%d reach=%d", T, past, heads, D, reach);
    for (int t = 0; t < T; t++)
        for (int h = 0; h < heads; h++) {
            by_definition(&u.a, t, h, y64 + t * u.n + h * D, mag + t * u.n + h * D);
            by_order(&u.a, t, h, order + t * ld + h * D);
        }
    u.a.out = want;
    kc_call(c->ref, attn_near, &u.a);
    kc_written(c, "out", want, T, u.n, ld);
    kc_close(c, "out", KC_CHAIN, want, ld, y64, mag, T, u.n);
    kc_same(c, NULL, "out", want, ld, order, ld, T, u.n);
    for (int k = 0; k < c->n_kern; k++) {
        u.a.out = y;
        kc_poison(y, count);
        kc_call(&c->kern[k].x, attn_near, &u.a);
        kc_written(c, "out", y, T, u.n, ld);
        kc_same(c, &c->kern[k], "out", y, ld, order, ld, T, u.n);
        check_cut(c, &c->kern[k], &u, kc_first(c, &c->kern[k], y, order, count));
    }
}

void check_attn_near(kc *c)
{
    static const struct {
        int T, past, heads, D, reach;
    } cases[] = {
        {0, 0, 1, 8, 1},   {1, 0, 1, 1, 1},     {5, 0, 2, 12, 3},    {7, 4, 3, 17, 3},
        {9, 2, 1, 33, 12}, {40, 12, 2, 64, 12}, {30, 0, 4, 128, 12}, {3, 300, 1, 16, AP_NEAR_MAX}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_case(c, cases[i].T, cases[i].past, cases[i].heads, cases[i].D, cases[i].reach);
}

static void run(const ap_exec *ex, void *arg)
{
    ex->k->attn_near(ex, arg);
}

void bench_attn_near(kc_bench *b)
{
    setup u = make(b->c, 750, 0, 8, 128, 12);
    u.a.out = kc_out(b->c, (size_t)(750 * u.a.ldout));
    kc_time(b, "T=750 heads=8 D=128 reach=12", 6.0 * 750 * 12 * 1024, 16.0 * 750 * 1024, run, &u.a);
}
