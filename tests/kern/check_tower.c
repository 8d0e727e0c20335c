/* check_tower.c - what towers need beside the operations of text models: layer norm, weighted sums of rows. */
#include <math.h>
#include <string.h>

#include "kcheck.h"
#include "kern/cpu/micro/micro.h"

static void layer_norm64(const ap_layer_norm_args *a, double *y, double *mag)
{
    for (int t = 0; t < a->rows; t++) {
        const float *x = a->x + t * a->ldx;
        double mean = 0, var = 0, top = 0;
        for (int i = 0; i < a->n; i++) mean += x[i] / (double)a->n;
        for (int i = 0; i < a->n; i++) var += (x[i] - mean) * (x[i] - mean) / a->n;
        for (int i = 0; i < a->n; i++) top = fmax(top, fabs((double)x[i]));
        for (int i = 0; i < a->n; i++) {
            double r = 1 / sqrt(var + a->eps), w = a->weight[i], b = a->bias ? a->bias[i] : 0;
            size_t at = (size_t)t * (size_t)a->n + (size_t)i;
            y[at] = (x[i] - mean) * r * w + b;
            mag[at] = top * r * fabs(w) + fabs(b);
        }
    }
}

static void layer_norm_by_order(const ap_layer_norm_args *a, int t, float *y)
{
    const float *x = a->x + t * a->ldx;
    float s[16] = {0};
    for (int i = 0; i < a->n; i++) s[i % 16] = s[i % 16] + x[i];
    float mean = ap_sum16(s) / (float)a->n;
    memset(s, 0, sizeof s);
    for (int i = 0; i < a->n; i++) {
        float d = x[i] - mean;
        s[i % 16] = s[i % 16] + d * d;
    }
    float r = 1.0f / sqrtf(ap_sum16(s) / (float)a->n + a->eps);
    for (int i = 0; i < a->n; i++) {
        y[i] = ((x[i] - mean) * r) * a->weight[i];
        if (a->bias) y[i] = y[i] + a->bias[i];
    }
}

static void check_layer_norm_case(kc *c, int rows, int n, bool bias)
{
    int64_t ldx = n + kc_int(c, 0, 3), ldout = n + kc_int(c, 0, 3);
    float *x = kc_in(c, (size_t)(rows * ldx), 2.0), *w = kc_in(c, (size_t)n, 1.0);
    float *b = kc_in(c, (size_t)n, 1.0), *want = kc_out(c, (size_t)(rows * ldout));
    float *order = kc_out(c, (size_t)(rows * ldout)), *y = kc_out(c, (size_t)(rows * ldout));
    double *y64 = kc_f64(c, (size_t)rows * (size_t)n), *mag = kc_f64(c, (size_t)rows * (size_t)n);
    ap_layer_norm_args a = {.x = x,
                            .weight = w,
                            .bias = bias ? b : NULL,
                            .out = want,
                            .ldx = ldx,
                            .ldout = ldout,
                            .rows = rows,
                            .n = n,
                            .eps = 1e-6f};
    kc_case(c, "rows=%d n=%d%s", rows, n, bias ? " bias" : "");
    layer_norm64(&a, y64, mag);
    for (int t = 0; t < rows; t++) layer_norm_by_order(&a, t, order + t * ldout);
    kc_call(c->ref, layer_norm, &a);
    kc_written(c, "y", want, rows, n, ldout);
    /* one value: what is left of x - mean is noise, which eps does not drown */
    if (n > 1) kc_close(c, "y", KC_CHAIN, want, ldout, y64, mag, rows, n);
    kc_same(c, NULL, "y", want, ldout, order, ldout, rows, n);
    for (int k = 0; k < c->n_kern; k++) {
        a.out = y;
        kc_poison(y, (size_t)(rows * ldout));
        kc_call(&c->kern[k].x, layer_norm, &a);
        kc_written(c, "y", y, rows, n, ldout);
        kc_same(c, &c->kern[k], "y", y, ldout, order, ldout, rows, n);
        if (ldx != ldout) continue;
        a.out = kc_copy(c, x, (size_t)(rows * ldx)); /* in place */
        a.x = a.out;
        kc_call(&c->kern[k].x, layer_norm, &a);
        kc_same(c, &c->kern[k], "in place", a.out, ldout, order, ldout, rows, n);
        a.x = x;
    }
}

void check_layer_norm(kc *c)
{
    static const int rows[] = {0, 1, 3, 37}, ns[] = {1, 8, 15, 16, 17, 33, 72, 250, 1152};
    for (int i = 0; i < 4 * 9; i++) check_layer_norm_case(c, rows[i % 4], ns[i / 4], i % 3 != 0);
    check_layer_norm_case(c, 300, 515, true);
}

static void run_layer_norm(const ap_exec *ex, void *arg)
{
    ex->k->layer_norm(ex, arg);
}

void bench_layer_norm(kc_bench *b)
{
    enum { T = 512, H = 1152 };
    float *x = kc_in(b->c, (size_t)T * H, 1), *w = kc_in(b->c, H, 1),
          *y = kc_out(b->c, (size_t)T * H);
    ap_layer_norm_args a = {.x = x,
                            .weight = w,
                            .bias = w,
                            .out = y,
                            .ldx = H,
                            .ldout = H,
                            .rows = T,
                            .n = H,
                            .eps = 1e-6f};
    kc_time(b, "T=512 H=1152", 0, 8.0 * T * H, run_layer_norm, &a);
}

/* ------------------------------------------------------------------ blend */

static void check_blend_case(kc *c, int rows, int n, int n_tap)
{
    enum { TABLE = 11 };
    int64_t ldx = n + kc_int(c, 0, 3), ldout = n + kc_int(c, 0, 3);
    size_t taps = (size_t)rows * (size_t)n_tap;
    float *x = kc_in(c, (size_t)(TABLE * ldx), 1.0), *w = kc_in(c, taps, 0.5);
    int32_t *row = kc_bytes(c, taps * sizeof *row);
    float *want = kc_out(c, (size_t)(rows * ldout)), *y = kc_out(c, (size_t)(rows * ldout));
    double *y64 = kc_f64(c, (size_t)rows * (size_t)n), *mag = kc_f64(c, (size_t)rows * (size_t)n);
    ap_blend_args a = {.x = x,
                       .row = row,
                       .weight = w,
                       .out = want,
                       .ldx = ldx,
                       .ldout = ldout,
                       .rows = rows,
                       .n = n,
                       .n_tap = n_tap};
    kc_case(c, "rows=%d n=%d taps=%d", rows, n, n_tap);
    for (size_t i = 0; i < taps; i++) row[i] = kc_int(c, 0, TABLE - 1);
    for (int t = 0; t < rows; t++)
        for (int i = 0; i < n; i++)
            for (int j = 0; j < n_tap; j++) {
                size_t at = (size_t)t * (size_t)n + (size_t)i;
                double v = (double)w[t * n_tap + j] * x[row[t * n_tap + j] * ldx + i];
                y64[at] += v;
                mag[at] += fabs(v);
            }
    kc_call(c->ref, blend, &a);
    kc_written(c, "y", want, rows, n, ldout);
    kc_close(c, "y", KC_SUM, want, ldout, y64, mag, rows, n);
    for (int k = 0; k < c->n_kern; k++) {
        a.out = y;
        kc_poison(y, (size_t)(rows * ldout));
        kc_call(&c->kern[k].x, blend, &a);
        kc_written(c, "y", y, rows, n, ldout);
        kc_same(c, &c->kern[k], "y", y, ldout, want, ldout, rows, n);
    }
}

void check_blend(kc *c)
{
    static const int rows[] = {0, 1, 3, 37}, ns[] = {1, 8, 15, 33, 72, 250}, taps[] = {1, 4, 9};
    for (int i = 0; i < 4 * 6; i++) check_blend_case(c, rows[i % 4], ns[i / 4], taps[i % 3]);
    check_blend_case(c, 300, 515, 4);
}
