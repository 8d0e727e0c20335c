/* attn_ref.c - the scalar definition of the attention kernels (micro_attn.h). */
#include <math.h>
#include <string.h>

#include "kern/cpu/micro/micro.h"
#include "kern/cpu/micro/micro_attn.h"

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

static void merge_ref(float *o, float c, const float *x, float by, int n)
{
    for (int i = 0; i < n; i++) o[i] = fmaf(x[i], by, o[i] * c);
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

/* ------------------------------------------------------------------ f32 and bf16 pages */

static void query_ref(const float *q, int head_dim, float *out)
{
    memcpy(out, q, (size_t)head_dim * sizeof *out);
}

static float f32_at(const uint8_t *p, size_t i)
{
    float f;
    memcpy(&f, p + i * sizeof f, sizeof f);
    return f;
}

static float bf16_at(const uint8_t *p, size_t i)
{
    uint16_t h;
    memcpy(&h, p + i * sizeof h, sizeof h);
    return ap_bf16_to_f32(h);
}

/* Element `outer` (a dim of K, a key of V), `inner` of a matrix that has n_inner side by side. */
static float element(const uint8_t *p, bool pairs, int outer, int inner, int n_inner)
{
    size_t n = (size_t)n_inner, o = (size_t)outer, i = (size_t)inner;
    return pairs ? bf16_at(p, (o / 2 * n + i) * 2 + o % 2) : f32_at(p, o * n + i);
}

static void scores(const float *q, int n_row, const uint8_t *k, bool pairs, int head_dim, float *s)
{
    for (int r = 0; r < n_row; r++, q += ap_q_stride(head_dim))
        for (int j = 0; j < AP_PAGE; j++) {
            float acc = 0;
            for (int d = 0; d < head_dim; d++)
                acc = fmaf(q[d], element(k, pairs, d, j, AP_PAGE), acc);
            s[r * AP_PAGE + j] = acc;
        }
}

static void values(const float *p, int n_row, const int *lo, const int *hi, const uint8_t *v,
                   bool pairs, int head_dim, float *const *o)
{
    for (int r = 0; r < n_row; r++)
        for (int j = lo[r]; j < hi[r]; j++)
            for (int d = 0; d < head_dim; d++)
                o[r][d] = fmaf(p[r * AP_PAGE + j], element(v, pairs, j, d, head_dim), o[r][d]);
}

static void scores_f32(const float *q, int n_row, const ap_kv_head *h, int head_dim, float *s,
                       int64_t ahead)
{
    (void)ahead;
    scores(q, n_row, h->k, false, head_dim, s);
}

static void scores_bf16(const float *q, int n_row, const ap_kv_head *h, int head_dim, float *s,
                        int64_t ahead)
{
    (void)ahead;
    scores(q, n_row, h->k, true, head_dim, s);
}

static void values_f32(const float *p, int n_row, const int *lo, const int *hi, const ap_kv_head *h,
                       int head_dim, float *const *o, int64_t ahead)
{
    (void)ahead;
    values(p, n_row, lo, hi, h->v, false, head_dim, o);
}

static void values_bf16(const float *p, int n_row, const int *lo, const int *hi,
                        const ap_kv_head *h, int head_dim, float *const *o, int64_t ahead)
{
    (void)ahead;
    values(p, n_row, lo, hi, h->v, true, head_dim, o);
}

/* ------------------------------------------------------------------ q8 pages */

/* Prepared: i16 [512] X, f32 sq. */
static void query_q8(const float *q, int head_dim, float *out)
{
    int16_t x[512];
    out[256] = ap_kv_ints(q, head_dim, 16256, x);
    memcpy(out, x, (size_t)head_dim * sizeof *x);
}

static void scores_q8(const float *q, int n_row, const ap_kv_head *h, int head_dim, float *s,
                      int64_t ahead)
{
    int16_t x[512];
    (void)ahead;
    for (int r = 0; r < n_row; r++, q += AP_Q_STRIDE) {
        memcpy(x, q, (size_t)head_dim * sizeof *x);
        for (int j = 0; j < AP_PAGE; j++) {
            const uint8_t *k = h->k + (j / 16 * head_dim * 16 + j % 16 * 4);
            float acc = 0;
            for (int b = 0; b < head_dim; b += AP_KV_BLOCK) {
                int32_t sum = 0;
                for (int d = b; d < head_dim && d < b + AP_KV_BLOCK; d++)
                    sum += x[d] * (k[d / 4 * 64 + d % 4] - 128);
                acc = fmaf((float)sum, h->ks[b / AP_KV_BLOCK * AP_PAGE + j], acc);
            }
            s[r * AP_PAGE + j] = acc * q[256];
        }
    }
}

static void values_q8(const float *p, int n_row, const int *lo, const int *hi, const ap_kv_head *h,
                      int head_dim, float *const *o, int64_t ahead)
{
    (void)ahead;
    for (int r = 0; r < n_row; r++) {
        float w[AP_PAGE] = {0}, unit;
        int16_t x[AP_PAGE];
        for (int j = lo[r]; j < hi[r]; j++) w[j] = p[r * AP_PAGE + j] * h->vs[j];
        unit = ap_kv_ints(w, AP_PAGE, 32767, x);
        for (int d = 0; d < head_dim; d++) {
            const int8_t *v = (const int8_t *)h->v + (d / 16 * AP_PAGE * 16 + d % 16 * 4);
            int32_t sum = 0;
            for (int j = 0; j < AP_PAGE; j++) sum += x[j] * v[j / 4 * 64 + j % 4];
            o[r][d] = fmaf((float)sum, unit, o[r][d]);
        }
    }
}

const ap_micro_attn ap_attn_ref = {
    .rms = rms_ref,
    .scale = scale_ref,
    .rotate = rotate_ref,
    .softmax = softmax_ref,
    .merge = merge_ref,
    .f32 = {.rows = 6, .query = query_ref, .scores = scores_f32, .values = values_f32},
    .bf16 = {.rows = 6, .query = query_ref, .scores = scores_bf16, .values = values_bf16},
    .q8 = {.rows = 6, .query = query_q8, .scores = scores_q8, .values = values_q8},
};
