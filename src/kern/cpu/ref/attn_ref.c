/* attn_ref.c - the scalar definition of the attention kernels (micro_attn.h). */
#include <math.h>

#include "kern/cpu/micro.h"
#include "kern/cpu/micro_attn.h"

static float rms_ref(const float *x, int n, float eps)
{
    float s[16] = {0};
    for (int i = 0; i < n; i++) s[i % 16] = fmaf(x[i], x[i], s[i % 16]);
    return 1.0f / sqrtf(ap_sum16(s) / (float)n + eps);
}

static void scale_ref(const float *x, const float *w, float r, int n, float *out)
{
    for (int i = 0; i < n; i++) {
        float y = x[i] * r;
        out[i] = w ? y * w[i] : y;
    }
}

static void rotate_ref(float *a, float *b, const float *cos, const float *sin, int n)
{
    for (int i = 0; i < n; i++) {
        float x = a[i], y = b[i];
        a[i] = x * cos[i] - y * sin[i];
        b[i] = y * cos[i] + x * sin[i];
    }
}

static void scores_ref(const float *const *q, int n_row, const float *kt, int head_dim, float *s,
                       int64_t ahead)
{
    (void)ahead;
    for (int r = 0; r < n_row; r++) {
        float *row = s + r * AP_PAGE;
        for (int j = 0; j < AP_PAGE; j++) row[j] = 0;
        for (int d = 0; d < head_dim; d++)
            for (int j = 0; j < AP_PAGE; j++) row[j] = fmaf(q[r][d], kt[d * AP_PAGE + j], row[j]);
    }
}

static float softmax_ref(float *s, int lo, int hi, float scale, float *m, float *l)
{
    float top = *m, part[16], c;
    for (int j = lo; j < hi; j++) {
        s[j] = s[j] * scale;
        if (s[j] > top) top = s[j];
    }
    for (int j = 0; j < AP_PAGE; j++) s[j] = j >= lo && j < hi ? ap_expf(s[j] - top) : 0;
    for (int j = 0; j < 16; j++) part[j] = ((s[j] + s[j + 16]) + s[j + 32]) + s[j + 48];
    c = ap_expf(*m - top);
    *l = *l * c + ap_sum16(part);
    *m = top;
    return c;
}

static void values_ref(const float *p, int n_row, const int *lo, const int *hi, const float *v,
                       int head_dim, float *const *o, int64_t ahead)
{
    (void)ahead;
    for (int r = 0; r < n_row; r++)
        for (int j = lo[r]; j < hi[r]; j++)
            for (int d = 0; d < head_dim; d++)
                o[r][d] = fmaf(p[r * AP_PAGE + j], v[j * head_dim + d], o[r][d]);
}

const ap_micro_attn ap_attn_ref = {rms_ref,    scale_ref,   rotate_ref,
                                   scores_ref, softmax_ref, values_ref};
