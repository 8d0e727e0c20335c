/* elem_body.h - row kernels for one vector width; included by elem_LEVEL.c, which defines
 * beforehand
 *   vec, WIDTH          a vector of WIDTH floats
 *   vec_all(f), vec_load, vec_store, vec_add, vec_sub, vec_mul, vec_div, vec_fma(a, b, c) = a*b + c
 *   vec_load_n, vec_store_n   the first n < WIDTH values; the others are read as zero
 *   vec_f16, vec_bf16   WIDTH values of that type at any address, widened
 *   vec_exp, vec_sigmoid, vec_silu, vec_gelu_tanh, vec_tanh
 *   sum16(s)            ap_sum16 of 16 / WIDTH vectors */
#include <string.h>

#include "kern/cpu/micro/micro_elem.h"

/* `expr` of whole vectors `a` (and `b`) into out; the row's end goes through masked accesses. */
#define ROW(out, n, LOAD_A, LOAD_B, expr)                                                          \
    do {                                                                                           \
        int i = 0;                                                                                 \
        for (; i + WIDTH <= (n); i += WIDTH) {                                                     \
            vec a = vec_load((LOAD_A) + i), b = vec_load((LOAD_B) + i);                            \
            vec_store((out) + i, expr);                                                            \
        }                                                                                          \
        if (i < (n)) {                                                                             \
            vec a = vec_load_n((LOAD_A) + i, (n)-i), b = vec_load_n((LOAD_B) + i, (n)-i);          \
            vec_store_n((out) + i, expr, (n)-i);                                                   \
        }                                                                                          \
    } while (0)

static float sum_sq(const float *x, int n)
{
    vec s[16 / WIDTH];
    for (int h = 0; h < 16 / WIDTH; h++) s[h] = vec_all(0.0f);
    int i = 0;
    for (; i + 16 <= n; i += 16)
        for (int h = 0; h < 16 / WIDTH; h++) {
            vec v = vec_load(x + i + h * WIDTH);
            s[h] = vec_fma(v, v, s[h]);
        }
    /* 0 * 0 added to a sum of squares changes nothing */
    for (int h = 0; i < n; h++, i += WIDTH) {
        vec v = n - i < WIDTH ? vec_load_n(x + i, n - i) : vec_load(x + i);
        s[h] = vec_fma(v, v, s[h]);
    }
    return sum16(s);
}

static void scale(const float *x, float r, const float *w, float *out, int n)
{
    vec vr = vec_all(r);
    if (w)
        ROW(out, n, x, w, vec_mul(vec_mul(a, vr), b));
    else
        ROW(out, n, x, x, vec_mul(((void)b, a), vr));
}

static void scale_add(const float *x, float r, const float *w, float post, float *out, int n)
{
    vec vr = vec_all(r), vp = vec_all(post);
    int i = 0;
    for (; i + WIDTH <= n; i += WIDTH) {
        vec y = vec_mul(vec_load(x + i), vr);
        if (w) y = vec_mul(y, vec_load(w + i));
        vec_store(out + i, vec_mul(vec_add(vec_load(out + i), y), vp));
    }
    if (i < n) {
        vec y = vec_mul(vec_load_n(x + i, n - i), vr);
        if (w) y = vec_mul(y, vec_load_n(w + i, n - i));
        vec_store_n(out + i, vec_mul(vec_add(vec_load_n(out + i, n - i), y), vp), n - i);
    }
}

static void widen(ap_dtype t, const void *src, float f, float *out, int n)
{
    const uint8_t *s = src;
    vec vf = vec_all(f);
    int at = 0;
    if (t == AP_BF16)
        for (; at + WIDTH <= n; at += WIDTH)
            vec_store(out + at, vec_mul(vec_bf16(s + (size_t)at * 2), vf));
    else if (t == AP_F16)
        for (; at + WIDTH <= n; at += WIDTH)
            vec_store(out + at, vec_mul(vec_f16(s + (size_t)at * 2), vf));
    if (at == n) return;
    ap_to_f32(t, s + (size_t)at * ap_dtype_bytes(t), out + at, (size_t)(n - at));
    ROW(out + at, n - at, out + at, out + at, vec_mul(((void)b, a), vf));
}

static void act_mul(ap_act act, const float *gate, const float *up, float *out, int n)
{
    if (act == AP_ACT_SILU)
        ROW(out, n, gate, up, vec_mul(vec_silu(a), b));
    else
        ROW(out, n, gate, up, vec_mul(vec_gelu_tanh(a), b));
}

static void act(ap_act which, float *y, int n)
{
    if (which == AP_ACT_SILU)
        ROW(y, n, y, y, vec_silu(((void)b, a)));
    else
        ROW(y, n, y, y, vec_gelu_tanh(((void)b, a)));
}

static void softcap(float *y, float cap, int n)
{
    vec c = vec_all(cap);
    ROW(y, n, y, y, vec_mul(c, vec_tanh(vec_div(((void)b, a), c))));
}

static void add(float *y, const float *x, int n)
{
    ROW(y, n, y, x, vec_add(a, b));
}

static void mul_sigmoid(float *y, const float *x, int n)
{
    ROW(y, n, y, x, vec_mul(a, vec_sigmoid(b)));
}

static void add_scaled(float *y, float w, const float *x, int n)
{
    vec vw = vec_all(w);
    ROW(y, n, y, x, vec_fma(vw, b, a));
}

static void average(float *y, const float *x, float f, int n)
{
    vec vf = vec_all(f);
    ROW(y, n, y, x, vec_mul(vec_add(a, b), vf));
}

static void exp_less(const float *x, float m, float *out, int n)
{
    vec vm = vec_all(m);
    ROW(out, n, x, x, vec_exp(vec_sub(((void)b, a), vm)));
}

#define ELEM_TABLE                                                                                 \
    {                                                                                              \
        .sum_sq = sum_sq, .scale = scale, .scale_add = scale_add, .widen = widen,                  \
        .act_mul = act_mul, .act = act, .softcap = softcap, .add = add,                            \
        .mul_sigmoid = mul_sigmoid, .add_scaled = add_scaled, .average = average,                  \
        .exp_less = exp_less,                                                                      \
    }
