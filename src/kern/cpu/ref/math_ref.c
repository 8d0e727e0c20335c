#include <math.h>
#include <string.h>

#include "kern/cpu/micro/math_coef.h"
#include "kern/cpu/micro/micro.h"

static uint32_t bits_of(float x)
{
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}

static float from_bits(uint32_t u)
{
    float x;
    memcpy(&x, &u, 4);
    return x;
}

float ap_expf(float x)
{
    if (x < AP_EXP_MIN) return 0.0f;
    if (x > AP_EXP_MAX) return INFINITY;
    if (x != x) return x;
    float t = fmaf(x, AP_LOG2E, AP_ROUND_MAGIC);
    float n = t - AP_ROUND_MAGIC;
    int32_t i = (int32_t)bits_of(t) - (int32_t)bits_of(AP_ROUND_MAGIC); /* -126 .. 128 */
    float r = fmaf(n, -AP_LN2_HI, x);
    r = fmaf(n, -AP_LN2_LO, r);
    float p = fmaf(AP_EXP_P4, r, AP_EXP_P3);
    p = fmaf(p, r, AP_EXP_P2);
    p = fmaf(p, r, AP_EXP_P1);
    p = fmaf(p, r, AP_EXP_P0);
    float y = 1.0f + fmaf(r * r, p, r);
    /* 2^i in two factors: 2^128 is no float */
    int32_t half = i >> 1;
    y = y * from_bits((uint32_t)(half + 127) << 23);
    return y * from_bits((uint32_t)(i - half + 127) << 23);
}

float ap_logf(float x)
{
    if (x == INFINITY || x != x) return x;
    if (x == 0.0f) return -INFINITY;
    if (x < 0.0f) return NAN;
    uint32_t u = bits_of(x) - AP_SQRT_HALF_BITS;
    float e = (float)((int32_t)u >> 23);
    float m = from_bits((u & 0x7fffff) + AP_SQRT_HALF_BITS);
    float f = m - 1.0f;
    float f2 = f * f;
    float q = fmaf(AP_LOG_Q7, f, AP_LOG_Q6);
    q = fmaf(q, f, AP_LOG_Q5);
    q = fmaf(q, f, AP_LOG_Q4);
    q = fmaf(q, f, AP_LOG_Q3);
    q = fmaf(q, f, AP_LOG_Q2);
    q = fmaf(q, f, AP_LOG_Q1);
    q = fmaf(q, f, AP_LOG_Q0);
    float y = f2 * fmaf(q, f, -0.5f);
    y = fmaf(e, AP_LN2_LO, y);
    y = f + y;
    return fmaf(e, AP_LN2_HI, y);
}

float ap_sigmoidf(float x)
{
    return 1.0f / (1.0f + ap_expf(-x));
}

float ap_siluf(float x)
{
    if (x == -INFINITY) return 0.0f; /* -inf / inf otherwise */
    return x / (1.0f + ap_expf(-x));
}

float ap_tanhf(float x)
{
    float a = fabsf(x), y;
    if (a < AP_TANH_SMALL) {
        float z = a * a;
        float p = fmaf(AP_TANH_R4, z, AP_TANH_R3);
        p = fmaf(p, z, AP_TANH_R2);
        p = fmaf(p, z, AP_TANH_R1);
        p = fmaf(p, z, AP_TANH_R0);
        y = fmaf(z * a, p, a);
    } else {
        y = 1.0f - 2.0f / (ap_expf(2.0f * a) + 1.0f);
    }
    return copysignf(y, x);
}

float ap_gelu_tanhf(float x)
{
    if (x == -INFINITY) return 0.0f;
    float inner = fmaf((AP_GELU_CUBE * x) * x, x, x);
    return x / (1.0f + ap_expf(AP_GELU_MINUS_2C * inner));
}

float ap_softplusf(float x)
{
    if (x > AP_SOFTPLUS_LINEAR) return x;
    /* log1p(e): what 1 + e loses to rounding, e - (u - 1), comes back in first order */
    float e = ap_expf(x);
    float u = 1.0f + e;
    return ap_logf(u) + (e - (u - 1.0f)) / u;
}

float ap_sum16(const float s[16])
{
    float a[8], b[4];
    for (int j = 0; j < 8; j++) a[j] = s[j] + s[j + 8];
    for (int j = 0; j < 4; j++) b[j] = a[j] + a[j + 4];
    return (b[0] + b[2]) + (b[1] + b[3]);
}
