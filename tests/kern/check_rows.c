/* check_rows.c - embed, norm, elem, and the scalar functions under them. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kcheck.h"
#include "kern/cpu/micro/micro.h"
#include "kern/cpu/micro/micro_elem.h"

static double sigmoid64(double x)
{
    return 1.0 / (1.0 + exp(-x));
}
static double silu64(double x)
{
    return x == -INFINITY ? 0.0 : x / (1.0 + exp(-x));
}
static double gelu64(double x)
{
    return x == -INFINITY
               ? 0.0
               : 0.5 * x * (1.0 + tanh(sqrt(2.0 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
}
static double softplus64(double x)
{
    return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x));
}

/* ------------------------------------------------------------------ embed */

/* A table as ex takes it. */
static ap_mat table_of(kc *c, const ap_exec *ex, const ap_tensor *t)
{
    if (ex->k->packed_tables) return kc_mat(c, ex, t);
    return (ap_mat){
        .dtype = t->dtype, .rows = (int)t->shape[0], .cols = (int)t->shape[1], .raw = *t};
}

/* Tokens by their id, and others that an earlier step has sampled; with rows: some are rows of embed. */
static ap_batch *embed_batch(kc *c, int n_tok, int vocab, int width, bool rows)
{
    ap_batch *b = kc_batch(c, 1, (int[]){0}, &n_tok, NULL, 0);
    int32_t *sampled = kc_bytes(c, 4 * sizeof *sampled),
            *row = kc_bytes(c, (size_t)n_tok * sizeof *row);
    for (int i = 0; i < 4; i++) sampled[i] = kc_int(c, 0, vocab - 1);
    for (int i = 0; i < n_tok; i++) {
        ((int32_t *)b->tok)[i] = kc_int(c, 0, 3) ? kc_int(c, 0, vocab - 1) : -1 - kc_int(c, 0, 3);
        row[i] = kc_int(c, -1, 5);
    }
    b->sampled = sampled;
    b->embed_row = rows ? row : NULL;
    b->embed = kc_in(c, 6 * (size_t)width, 1);
    return b;
}

static void check_embed_case(kc *c, ap_dtype t, int width, int n_tok, float scale, int flags)
{
    int vocab = kc_int(c, 1, 50), begin = n_tok > 2 && flags & 4 ? 2 : 0;
    bool rows = flags & 1, ignore = flags & 2;
    float *v;
    kc_case(c, "%s T=%d H=%d%s%s", ap_dtype_name(t), n_tok, width, rows ? " rows" : "",
            ignore ? " ignored" : "");
    ap_tensor table = kc_tensor(c, t, vocab, width, 0.5, &v);
    ap_batch *b = embed_batch(c, n_tok, vocab, width, rows);
    int n = n_tok - begin;
    float *want = kc_out(c, (size_t)(n * width)), *out = kc_out(c, (size_t)(n * width));
    for (int j = 0; j < n; j++)
        for (int h = 0; h < width; h++) {
            int id = b->tok[begin + j], row = rows && !ignore ? b->embed_row[begin + j] : -1;
            if (id < 0) id = b->sampled[-1 - id];
            want[j * width + h] = row < 0 ? v[id * width + h] * scale : b->embed[row * width + h];
        }
    for (int k = -1; k < c->n_kern; k++) {
        const ap_exec *ex = k < 0 ? c->ref : &c->kern[k].x;
        ap_mat m = table_of(c, ex, &table);
        kc_poison(out, (size_t)(n * width));
        kc_call(ex, embed,
                &(ap_embed_args){.table = &m,
                                 .batch = b,
                                 .begin = begin,
                                 .n_tok = n,
                                 .scale = scale,
                                 .out = out,
                                 .width = width,
                                 .ignore_embed = ignore});
        kc_same(c, k < 0 ? NULL : &c->kern[k], "out", out, width, want, width, n, width);
    }
}

void check_embed(kc *c)
{
    static const ap_dtype types[] = {AP_F32, AP_F16, AP_BF16};
    static const int widths[] = {1, 7, 16, 33, 64, 1000}, toks[] = {0, 1, 5, 130};
    for (int i = 0; i < 3 * 6 * 4; i++)
        check_embed_case(c, types[i % 3], widths[i / 3 % 6], toks[i / 18], i % 2 ? 1.0f : 39.25f,
                         i / 2 % 8);
}

static void run_embed(const ap_exec *ex, void *arg)
{
    ex->k->embed(ex, arg);
}

void bench_embed(kc_bench *b)
{
    enum { V = 4096, H = 2048, T = 512 };
    ap_tensor table = kc_tensor(b->c, AP_BF16, V, H, 0.1, NULL);
    ap_mat m = table_of(b->c, b->x, &table);
    ap_embed_args a = {.table = &m,
                       .batch = embed_batch(b->c, T, V, H, false),
                       .scale = 2.0f,
                       .out = kc_out(b->c, (size_t)T * H),
                       .n_tok = T,
                       .width = H};
    kc_time(b, "T=512 H=2048 bf16", 0, 6.0 * T * H, run_embed, &a);
}

/* ------------------------------------------------------------------ norm */

static void norm64(const ap_norm_args *a, const float *old, double *y, double *mag)
{
    for (int r = 0; r < a->rows; r++) {
        double sum = 0;
        for (int i = 0; i < a->n; i++) sum += (double)a->x[r * a->ldx + i] * a->x[r * a->ldx + i];
        double s = 1.0 / sqrt(sum / a->n + (double)a->eps);
        for (int i = 0; i < a->n; i++) {
            double v = a->x[r * a->ldx + i] * s * (a->weight ? (double)a->weight[i] : 1.0);
            double o = a->accumulate ? (double)old[r * a->ldout + i] : 0.0;
            double post = a->accumulate ? (double)a->post_scale : 1.0;
            y[r * a->n + i] = (o + v) * post;
            mag[r * a->n + i] = (fabs(o) + fabs(v)) * fabs(post);
        }
    }
}

/* The Order of kern.h, written out once more. */
static void norm_by_order(const ap_norm_args *a, const float *old, float *y)
{
    for (int r = 0; r < a->rows; r++) {
        const float *x = a->x + r * a->ldx;
        float s[16] = {0}, t[8], u[4];
        for (int i = 0; i < a->n; i++) s[i & 15] = fmaf(x[i], x[i], s[i & 15]);
        for (int j = 0; j < 8; j++) t[j] = s[j] + s[j + 8];
        for (int j = 0; j < 4; j++) u[j] = t[j] + t[j + 4];
        float sum = (u[0] + u[2]) + (u[1] + u[3]), f = 1.0f / sqrtf(sum / (float)a->n + a->eps);
        for (int i = 0; i < a->n; i++) {
            float v = x[i] * f;
            if (a->weight) v *= a->weight[i];
            y[r * a->ldout + i] = a->accumulate ? (old[r * a->ldout + i] + v) * a->post_scale : v;
        }
    }
}

static void check_norm_case(kc *c, int rows, int n, int flags)
{
    int ldx = n + kc_int(c, 0, 3), ldout = flags & 4 ? ldx : n + kc_int(c, 0, 3);
    size_t nx = (size_t)rows * ldx, nout = (size_t)rows * ldout;
    float *x = kc_in(c, nx, 2.0), *w = kc_in(c, (size_t)n, 1.0), *out = kc_out(c, nout);
    float *old = kc_in(c, nout, 1.0), *want = kc_out(c, nout), *order = kc_out(c, nout);
    bool accumulate = flags & 2, in_place = flags & 4;
    ap_norm_args a = {.x = x,
                      .weight = flags & 1 ? w : NULL,
                      .out = want,
                      .ldx = ldx,
                      .ldout = ldout,
                      .rows = rows,
                      .n = n,
                      .eps = 1e-6f,
                      .accumulate = accumulate,
                      .post_scale = accumulate ? 0.75f : 1.0f};
    kc_case(c, "rows=%d n=%d%s%s%s", rows, n, flags & 1 ? " weight" : "",
            accumulate ? " accumulate" : "", in_place ? " in place" : "");
    const float *start = in_place ? x : old;
    double *y = kc_f64(c, (size_t)rows * n), *mag = kc_f64(c, (size_t)rows * n);
    norm64(&a, start, y, mag);
    norm_by_order(&a, start, order);
    if (accumulate)
        for (int r = 0; r < rows; r++)
            memcpy(want + r * ldout, start + r * ldout, (size_t)n * sizeof(float));
    kc_call(c->ref, norm, &a);
    kc_written(c, "out", want, rows, n, ldout);
    kc_close(c, "out", KC_SUM, want, ldout, y, mag, rows, n);
    kc_same(c, NULL, "out", want, ldout, order, ldout, rows, n);
    const float *whole = NULL;
    c->mag = mag;
    for (int k = 0; k < 2 * c->n_kern; k++) {
        const kc_kern *kern = &c->kern[k / 2];
        bool alone = k % 2;
        float *xk = kc_copy(c, x, nx);
        kc_poison(out, nout);
        a.x = xk;
        a.out = in_place ? xk : out;
        if (accumulate && !in_place)
            for (int r = 0; r < rows; r++)
                memcpy(out + r * ldout, old + r * ldout, (size_t)n * sizeof(float));
        ap_norm_args one = a;
        one.rows = alone ? 1 : rows;
        for (int r = 0; r < (alone ? rows : 1); r++) {
            one.x = a.x + r * ldx;
            one.out = a.out + r * ldout;
            kc_call(&kern->x, norm, &one);
        }
        if (!in_place) kc_written(c, "out", out, rows, n, ldout);
        if (alone) {
            kc_again(c, kern, "row alone", a.out, ldout, whole, ldout, rows, n);
            continue;
        }
        kc_same(c, kern, "out", a.out, ldout, want, ldout, rows, n);
        whole = kc_first(c, kern, a.out, want, nout);
    }
}

/* Rows of x picked by number are as if they lay there. */
static void check_norm_rows(kc *c, int rows, int n)
{
    enum { ALL = 50 };
    float *x = kc_in(c, (size_t)ALL * n, 2.0), *picked = kc_out(c, (size_t)rows * n);
    float *want = kc_out(c, (size_t)rows * n), *out = kc_out(c, (size_t)rows * n);
    int32_t *row = kc_bytes(c, (size_t)rows * sizeof *row);
    kc_case(c, "%d picked rows n=%d", rows, n);
    for (int r = 0; r < rows; r++) {
        row[r] = r ? row[r - 1] + kc_int(c, 0, 1) : kc_int(c, 0, 9);
        memcpy(picked + r * n, x + row[r] * n, (size_t)n * sizeof *x);
    }
    ap_norm_args a = {.x = picked,
                      .out = want,
                      .ldx = n,
                      .ldout = n,
                      .rows = rows,
                      .n = n,
                      .eps = 1e-6f,
                      .post_scale = 1};
    kc_call(c->ref, norm, &a);
    a.x = x;
    a.row = row;
    a.out = out;
    for (int k = -1; k < c->n_kern; k++) {
        kc_poison(out, (size_t)rows * n);
        kc_call(k < 0 ? c->ref : &c->kern[k].x, norm, &a);
        kc_same(c, k < 0 ? NULL : &c->kern[k], "out", out, n, want, n, rows, n);
    }
}

void check_norm(kc *c)
{
    check_norm_rows(c, 1, 100);
    check_norm_rows(c, 40, 33);
    static const int rows[] = {0, 1, 3, 40}, ns[] = {1, 5, 16, 17, 31, 64, 100, 1000, 2048};
    for (int i = 0; i < 4 * 9 * 8; i++) check_norm_case(c, rows[i / 8 % 4], ns[i / 32], i % 8);
    check_norm_case(c, 300, 515, 3);
}

static void run_norm(const ap_exec *ex, void *arg)
{
    ex->k->norm(ex, arg);
}

void bench_norm(kc_bench *b)
{
    enum { T = 512, H = 2048 };
    float *x = kc_in(b->c, (size_t)T * H, 1), *w = kc_in(b->c, H, 1),
          *y = kc_out(b->c, (size_t)T * H);
    ap_norm_args a = {
        .x = x, .weight = w, .out = y, .ldx = H, .ldout = H, .rows = T, .n = H, .eps = 1e-6f};
    kc_time(b, "T=512 H=2048", 0, 8.0 * T * H, run_norm, &a);
    a.rows = 1;
    kc_time(b, "T=1 H=2048 (cached)", 0, 8.0 * H, run_norm, &a);
}

/* ------------------------------------------------------------------ elem */

static void elem64(const ap_elem_args *a, const float *y0, double *y, double *mag)
{
    for (int t = 0; t < a->rows; t++)
        for (int b = 0; b < a->n_block; b++)
            for (int i = 0; i < a->n; i++) {
                double u = y0[t * a->ldy + b * a->y_block + i];
                double x = a->x[t * a->ldx + b * a->x_block + i], v = 0, m = fabs(u) + fabs(x);
                switch (a->op) {
                case AP_ELEM_ADD:
                    v = u + x;
                    break;
                case AP_ELEM_MUL_SIGMOID:
                    v = u * sigmoid64(x);
                    m = fabs(u);
                    break;
                case AP_ELEM_ADD_GATED:
                    v = u + sigmoid64(a->gate[t]) * x;
                    break;
                /* relative error of gelu grows with |x| left of zero, where it is small */
                case AP_ELEM_GELU_MUL:
                    v = gelu64(u) * x;
                    m = fabs(u * x);
                    break;
                case AP_ELEM_AVERAGE:
                    v = (u + x) * a->scale;
                    m *= fabs(a->scale);
                    break;
                case AP_ELEM_MUL:
                    v = m = u * x;
                    break;
                case AP_ELEM_SILU:
                    v = silu64(u);
                    m = fabs(u);
                    break;
                case AP_ELEM_GELU:
                    v = gelu64(u + x);
                    break;
                case AP_ELEM_GELU_ERF:
                    v = 0.5 * (u + x) * erfc(-(u + x) * sqrt(0.5));
                    break;
                case AP_ELEM_CLAMP:
                    v = fmin(fmax(x, a->lo), a->hi);
                    break;
                }
                size_t at = ((size_t)t * a->n_block + b) * a->n + i;
                y[at] = v;
                mag[at] = m;
            }
}

/* As kern.h writes it. */
static float elem_by_order(const ap_elem_args *a, int t, float y, float x)
{
    switch (a->op) {
    case AP_ELEM_ADD:
        return y + x;
    case AP_ELEM_MUL_SIGMOID:
        return y * ap_sigmoidf(x);
    case AP_ELEM_ADD_GATED:
        return fmaf(ap_sigmoidf(a->gate[t]), x, y);
    case AP_ELEM_GELU_MUL:
        return ap_gelu_tanhf(y) * x;
    case AP_ELEM_AVERAGE:
        return (y + x) * a->scale;
    case AP_ELEM_MUL:
        return y * x;
    case AP_ELEM_SILU:
        return ap_siluf(y);
    case AP_ELEM_GELU:
        return ap_gelu_tanhf(y + x);
    case AP_ELEM_GELU_ERF: {
        double u = (double)(y + x);
        return (float)(0.5 * u * erfc(-u * 0.70710678118654752440));
    }
    case AP_ELEM_CLAMP:
        return x < a->lo ? a->lo : x > a->hi ? a->hi : x;
    }
    return NAN;
}

static void check_elem_case(kc *c, ap_elem op, int rows, int n, int n_block)
{
    int yb = n + kc_int(c, 0, 2), xb = n + kc_int(c, 0, 2);
    int ldy = yb * n_block + kc_int(c, 0, 2), ldx = xb * n_block + kc_int(c, 0, 2);
    size_t ny = (size_t)rows * ldy, nx = (size_t)rows * ldx;
    float *y0 = kc_in(c, ny, 1.5), *x = kc_in(c, nx, 1.5), *gate = kc_in(c, (size_t)rows, 2.0);
    float *want = kc_out(c, ny), *y = kc_out(c, ny);
    double *y64 = kc_f64(c, (size_t)rows * n_block * n),
           *mag = kc_f64(c, (size_t)rows * n_block * n);
    ap_elem_args a = {.op = op,
                      .y = want,
                      .x = x,
                      .gate = gate,
                      .ldy = ldy,
                      .ldx = ldx,
                      .rows = rows,
                      .n = n,
                      .n_block = n_block,
                      .y_block = yb,
                      .x_block = xb,
                      .scale = 0.3f,
                      .lo = -1.25f,
                      .hi = 0.75f};
    kc_case(c, "op=%d rows=%d n=%d blocks=%d", (int)op, rows, n, n_block);
    elem64(&a, y0, y64, mag);
    float *order = kc_out(c, ny);
    for (int t = 0; t < rows; t++)
        for (int b = 0; b < n_block; b++)
            for (int i = 0; i < n; i++)
                order[t * ldy + b * yb + i] =
                    elem_by_order(&a, t, y0[t * ldy + b * yb + i], x[t * ldx + b * xb + i]);
    for (int k = -1; k < c->n_kern; k++) {
        const ap_exec *ex = k < 0 ? c->ref : &c->kern[k].x;
        a.y = k < 0 ? want : y;
        kc_poison(a.y, ny);
        for (int t = 0; t < rows; t++)
            for (int b = 0; b < n_block; b++)
                memcpy(a.y + t * ldy + b * yb, y0 + t * ldy + b * yb, (size_t)n * sizeof(float));
        kc_call(ex, elem, &a);
        for (int t = 0; t < rows; t++) {
            float *row = a.y + t * ldy;
            kc_written(c, "y", row, n_block, n, yb);
            kc_same(c, k < 0 ? NULL : &c->kern[k], "y", row, yb, order + t * ldy, yb, n_block, n);
            if (k < 0)
                kc_close(c, "y", KC_MATH, row, yb, y64 + (size_t)t * n_block * n,
                         mag + (size_t)t * n_block * n, n_block, n);
        }
    }
}

/* The functions of micro.h: scalar against libm in double, vectors against scalar for every kind of
 * input, through the row kernels that are made of them. */
typedef struct function {
    const char *name;
    float (*f)(float);
    double (*f64)(double);
    double ulps;  /* relative error allowed for normal results, in units of 2^-24 */
    float lo, hi; /* where that holds */
} function;

static const function functions[] = {
    {"exp", ap_expf, exp, 4, -87.3f, 88.7f},
    {"log", ap_logf, log, 4, 1.2e-38f, 3.4e38f},
    {"sigmoid", ap_sigmoidf, sigmoid64, 6, -87.0f, 3.4e38f},
    {"silu", ap_siluf, silu64, 6, -80.0f, 3.4e38f},
    {"tanh", ap_tanhf, tanh, 4, -3.4e38f, 3.4e38f},
    {"gelu", ap_gelu_tanhf, gelu64, 6, -0.5f, 1e12f},
    {"softplus", ap_softplusf, softplus64, 6, -87.0f, 3.4e38f},
};

static void check_functions(kc *c, const float *x, int n)
{
    for (size_t f = 0; f < sizeof functions / sizeof functions[0]; f++) {
        const function *fn = &functions[f];
        kc_case(c, "ap_%sf", fn->name);
        for (int i = 0; i < n; i++) {
            if (!(x[i] >= fn->lo && x[i] <= fn->hi) || (x[i] != 0 && fabsf(x[i]) < 1.2e-38f))
                continue;
            double want = fn->f64(x[i]), got = fn->f(x[i]);
            c->values++;
            if (fabs(got - want) > fn->ulps * KC_EPS * fabs(want) + 1.2e-38) {
                kc_fail(c, "f(%.9g) = %.9g, oracle %.9g", (double)x[i], got, want);
                break;
            }
        }
    }
}

static void vector_functions(const ap_micro_elem *m, int which, const float *x, float *y, int n)
{
    for (int i = 0; i < n; i++) y[i] = which == 4 ? x[i] : 1.0f;
    switch (which) {
    case 0:
        m->exp_less(x, 0.0f, y, n);
        break;
    case 1:
        m->mul_sigmoid(y, x, n);
        break;
    case 2:
        m->act_mul(AP_ACT_SILU, x, y, y, n);
        break;
    case 3:
        m->act_mul(AP_ACT_GELU_TANH, x, y, y, n);
        break;
    default:
        m->softcap(y, 1.0f, n);
        break;
    }
}

static void check_vectors(kc *c, const float *x, float *y, float *want, int n)
{
    static float (*const scalar[])(float) = {ap_expf, ap_sigmoidf, ap_siluf, ap_gelu_tanhf,
                                             ap_tanhf};
    for (int f = 0; f < 5; f++) {
        for (int i = 0; i < n; i++) want[i] = scalar[f](x[i]);
        for (int k = 0; k < c->n_kern; k++) {
            if (k > 0 && c->kern[k].x.k->impl == c->kern[k - 1].x.k->impl) continue;
            if (!c->kern[k].x.dev->is_host) continue;
            const ap_micro *m = c->kern[k].x.k->impl;
            kc_case(c, "function %d of vectors", f);
            vector_functions(m->elem, f, x, y, n);
            kc_same(c, &c->kern[k], "y", y, n, want, n, 1, n);
        }
    }
}

/* Values of every kind: all exponents, both signs, and the edges of the pieces. */
static void any_floats(kc *c, float *x, int n)
{
    static const float edges[] = {
        0.0f,          -0.0f,           INFINITY,    -INFINITY,   NAN,        1e-45f,
        -1e-45f,       1.17549435e-38f, -87.33654f,  -87.33655f,  -87.3365f,  88.72283f,
        88.72284f,     88.7228f,        0.625f,      0.62499994f, 20.0f,      20.000002f,
        3.4028235e38f, -3.4028235e38f,  0.70710677f, 0.70710683f, 1.4142135f, 1.0f,
        -1.0f,         0.34657359f};
    int n_edges = sizeof edges / sizeof edges[0];
    for (int i = 0; i < n; i++) {
        if (i < n_edges) {
            x[i] = edges[i];
        } else if (i % 2) {
            uint32_t u = (uint32_t)ap_rng_next(&c->rng);
            memcpy(&x[i], &u, 4);
        } else {
            x[i] = (float)((ap_rng_uniform(&c->rng) - 0.5) * 200.0);
        }
    }
}

void check_elem(kc *c)
{
    enum { N = 1 << 18 };
    static const int rows[] = {0, 1, 4, 37}, ns[] = {0, 1, 8, 15, 16, 33, 250};
    for (int op = AP_ELEM_ADD; op <= AP_ELEM_CLAMP; op++) {
        for (int i = 0; i < 4 * 7; i++)
            check_elem_case(c, (ap_elem)op, rows[i % 4], ns[i / 4], 1 + i % 3);
        check_elem_case(c, (ap_elem)op, 200, 300, 2);
    }
    float *x = kc_in(c, N, 1.0), *y = kc_out(c, N), *want = kc_out(c, N);
    for (int i = 0; i < 4; i++) {
        any_floats(c, x, N);
        check_functions(c, x, N);
        check_vectors(c, x, y, want, N);
    }
}

static void run_elem(const ap_exec *ex, void *arg)
{
    ex->k->elem(ex, arg);
}

void bench_elem(kc_bench *b)
{
    static const char *const names[AP_ELEM_CLAMP + 1] = {
        [AP_ELEM_ADD] = "add T=512 H=2048",
        [AP_ELEM_MUL_SIGMOID] = "mul_sigmoid T=512 H=2048",
        [AP_ELEM_GELU_MUL] = "gelu_mul T=512 H=2048",
        [AP_ELEM_GELU] = "gelu T=512 H=2048",
        [AP_ELEM_GELU_ERF] = "gelu_erf T=512 H=2048"};
    enum { T = 512, H = 2048 };
    float *y = kc_in(b->c, (size_t)T * H, 1), *x = kc_in(b->c, (size_t)T * H, 0.01);
    for (int op = AP_ELEM_ADD; op <= AP_ELEM_CLAMP; op++) {
        if (!names[op]) continue;
        ap_elem_args a = {
            .op = (ap_elem)op, .y = y, .x = x, .ldy = H, .ldx = H, .rows = T, .n = H, .n_block = 1};
        kc_time(b, names[op], 0, 12.0 * T * H, run_elem, &a);
        /* repeated products run into denormals and infinities, which would be timed instead */
        kc_fill(b->c, y, (size_t)T * H, 1);
    }
}
