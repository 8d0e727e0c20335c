/* micro_elem.h - inner kernels over one row of n floats (n >= 0, any alignment). */
#ifndef AP_KERN_CPU_MICRO_ELEM_H
#define AP_KERN_CPU_MICRO_ELEM_H

#include "kern/cpu/micro/micro.h"

typedef struct ap_micro_elem {
    /* sum of squares in the Order of ap_norm_args */
    float (*sum_sq)(const float *x, int n);
    /* (x * r) * w, w NULL = none */
    void (*scale)(const float *x, float r, const float *w, float *out, int n);
    /* out = (out + (x * r) * w) * post */
    void (*scale_add)(const float *x, float r, const float *w, float post, float *out, int n);
    /* out = src * scale; src of that type (F32, F16, BF16) */
    void (*widen)(ap_dtype t, const void *src, float scale, float *out, int n);
    /* out = act(gate) * up; out may be gate or up */
    void (*act_mul)(ap_act act, const float *gate, const float *up, float *out, int n);
    /* y = act(y) */
    void (*act)(ap_act act, float *y, int n);
    /* y = cap * tanh(y / cap) */
    void (*softcap)(float *y, float cap, int n);
    /* y = y + x */
    void (*add)(float *y, const float *x, int n);
    /* y = y * sigmoid(x) */
    void (*mul_sigmoid)(float *y, const float *x, int n);
    /* y = fma(w, x, y) */
    void (*add_scaled)(float *y, float w, const float *x, int n);
    /* y = (y + x) * scale */
    void (*average)(float *y, const float *x, float scale, int n);
    /* out = exp(x - m) */
    void (*exp_less)(const float *x, float m, float *out, int n);
} ap_micro_elem;

extern const ap_micro_elem ap_elem_ref;
#if defined(__x86_64__)
extern const ap_micro_elem ap_elem_avx2, ap_elem_avx512;
#elif defined(__aarch64__)
extern const ap_micro_elem ap_elem_neon;
#endif

#endif
