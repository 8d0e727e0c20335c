/* elem_ref.c - the scalar definition of the row kernels (micro_elem.h). */
#include <math.h>

#include "kern/cpu/micro/micro_elem.h"

static float sum_sq_ref(const float *x, int n)
{
    float s[16] = {0};
    for (int i = 0; i < n; i++) s[i % 16] = fmaf(x[i], x[i], s[i % 16]);
    return ap_sum16(s);
}

static void scale_ref(const float *x, float r, const float *w, float *out, int n)
{
    for (int i = 0; i < n; i++) {
        float y = x[i] * r;
        out[i] = w ? y * w[i] : y;
    }
}

static void scale_add_ref(const float *x, float r, const float *w, float post, float *out, int n)
{
    for (int i = 0; i < n; i++) {
        float y = x[i] * r;
        if (w) y = y * w[i];
        out[i] = (out[i] + y) * post;
    }
}

static void widen_ref(ap_dtype t, const void *src, float scale, float *out, int n)
{
    ap_to_f32(t, src, out, (size_t)n);
    for (int i = 0; i < n; i++) out[i] = out[i] * scale;
}

static void act_mul_ref(ap_act act, const float *gate, const float *up, float *out, int n)
{
    if (act == AP_ACT_SILU)
        for (int i = 0; i < n; i++) out[i] = ap_siluf(gate[i]) * up[i];
    else
        for (int i = 0; i < n; i++) out[i] = ap_gelu_tanhf(gate[i]) * up[i];
}

static void act_ref(ap_act act, float *y, int n)
{
    for (int i = 0; i < n; i++) y[i] = act == AP_ACT_SILU ? ap_siluf(y[i]) : ap_gelu_tanhf(y[i]);
}

static void softcap_ref(float *y, float cap, int n)
{
    for (int i = 0; i < n; i++) y[i] = cap * ap_tanhf(y[i] / cap);
}

static void add_ref(float *y, const float *x, int n)
{
    for (int i = 0; i < n; i++) y[i] = y[i] + x[i];
}

static void mul_sigmoid_ref(float *y, const float *x, int n)
{
    for (int i = 0; i < n; i++) y[i] = y[i] * ap_sigmoidf(x[i]);
}

static void add_scaled_ref(float *y, float w, const float *x, int n)
{
    for (int i = 0; i < n; i++) y[i] = fmaf(w, x[i], y[i]);
}

static void average_ref(float *y, const float *x, float scale, int n)
{
    for (int i = 0; i < n; i++) y[i] = (y[i] + x[i]) * scale;
}

static void exp_less_ref(const float *x, float m, float *out, int n)
{
    for (int i = 0; i < n; i++) out[i] = ap_expf(x[i] - m);
}

const ap_micro_elem ap_elem_ref = {
    .sum_sq = sum_sq_ref,
    .scale = scale_ref,
    .scale_add = scale_add_ref,
    .widen = widen_ref,
    .act_mul = act_mul_ref,
    .act = act_ref,
    .softcap = softcap_ref,
    .add = add_ref,
    .mul_sigmoid = mul_sigmoid_ref,
    .add_scaled = add_scaled_ref,
    .average = average_ref,
    .exp_less = exp_less_ref,
};
