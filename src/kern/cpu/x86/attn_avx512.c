/* attn_avx512.c - the attention kernels with 16 lanes (micro_attn.h). */
#include <math.h>
#include <stdbool.h>

#include "kern/cpu/micro_attn.h"
#include "kern/cpu/x86/math_avx512.h"
#include "kern/cpu/x86/tile_avx512.h"

static float rms_avx512(const float *x, int n, float eps)
{
    __m512 s = _mm512_setzero_ps();
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        __m512 v = _mm512_loadu_ps(x + i);
        s = _mm512_fmadd_ps(v, v, s);
    }
    if (i < n) {
        __mmask16 m = ap_mask_avx512(n - i);
        __m512 v = _mm512_maskz_loadu_ps(m, x + i);
        s = _mm512_mask3_fmadd_ps(v, v, s, m);
    }
    return 1.0f / sqrtf(ap_sum16_avx512(s) / (float)n + eps);
}

static void scale_avx512(const float *x, const float *w, float r, int n, float *out)
{
    const __m512 by = _mm512_set1_ps(r);
    for (int i = 0; i < n; i += 16) {
        __mmask16 m = n - i < 16 ? ap_mask_avx512(n - i) : 0xffff;
        __m512 y = _mm512_mul_ps(_mm512_maskz_loadu_ps(m, x + i), by);
        if (w) y = _mm512_mul_ps(y, _mm512_maskz_loadu_ps(m, w + i));
        _mm512_mask_storeu_ps(out + i, m, y);
    }
}

static void rotate_avx512(float *a, float *b, const float *cos, const float *sin, int n)
{
    for (int i = 0; i < n; i += 16) {
        __mmask16 m = n - i < 16 ? ap_mask_avx512(n - i) : 0xffff;
        __m512 x = _mm512_maskz_loadu_ps(m, a + i), y = _mm512_maskz_loadu_ps(m, b + i);
        __m512 c = _mm512_maskz_loadu_ps(m, cos + i), s = _mm512_maskz_loadu_ps(m, sin + i);
        _mm512_mask_storeu_ps(a + i, m, _mm512_sub_ps(_mm512_mul_ps(x, c), _mm512_mul_ps(y, s)));
        _mm512_mask_storeu_ps(b + i, m, _mm512_add_ps(_mm512_mul_ps(y, c), _mm512_mul_ps(x, s)));
    }
}

static void scores_avx512(const float *const *q, int n_row, const float *kt, int head_dim, float *s,
                          int64_t ahead)
{
    float *row[AP_TILE_ROWS];
    for (int r = 0; r < n_row; r++) row[r] = s + r * AP_PAGE;
    tile(n_row, AP_PAGE, q, 1, kt, AP_PAGE, head_dim, row, false, ahead);
}

/* Lanes of keys [16 v, 16 v + 16) inside [lo, hi). */
static __mmask16 seen(int lo, int hi, int v)
{
    uint64_t all = (hi < 64 ? (UINT64_C(1) << hi) - 1 : UINT64_MAX) & (UINT64_MAX << lo);
    return (__mmask16)(all >> (16 * v));
}

static float softmax_avx512(float *s, int lo, int hi, float scale, float *m, float *l)
{
    const __m512 by = _mm512_set1_ps(scale);
    __m512 x[4], best = _mm512_set1_ps(*m), sum;
    for (int v = 0; v < 4; v++) {
        x[v] = _mm512_mul_ps(_mm512_loadu_ps(s + 16 * v), by);
        best = _mm512_mask_max_ps(best, seen(lo, hi, v), best, x[v]);
    }
    float top = _mm512_reduce_max_ps(best);
    for (int v = 0; v < 4; v++) {
        __m512 p = ap_exp_avx512(_mm512_sub_ps(x[v], _mm512_set1_ps(top)));
        x[v] = _mm512_maskz_mov_ps(seen(lo, hi, v), p);
        _mm512_storeu_ps(s + 16 * v, x[v]);
    }
    sum = _mm512_add_ps(_mm512_add_ps(_mm512_add_ps(x[0], x[1]), x[2]), x[3]);
    float c = *m == top ? 1.0f : ap_expf(*m - top);
    *l = *l * c + ap_sum16_avx512(sum);
    *m = top;
    return c;
}

static void values_avx512(const float *p, int n_row, const int *lo, const int *hi, const float *v,
                          int head_dim, float *const *o, int64_t ahead)
{
    const float *row[AP_TILE_ROWS];
    int from = lo[0], to = hi[0];
    for (int r = 1; r < n_row; r++) {
        from = lo[r] > from ? lo[r] : from;
        to = hi[r] < to ? hi[r] : to;
    }
    if (from > to) from = to; /* [from, to): the keys that all rows see */
    for (int r = 0; r < n_row; r++) {
        int end = hi[r] < from ? hi[r] : from;
        row[r] = p + r * AP_PAGE + lo[r];
        if (lo[r] < end)
            tile(1, head_dim, row + r, 1, v + lo[r] * head_dim, head_dim, end - lo[r], o + r, true,
                 0);
        row[r] = p + r * AP_PAGE + from;
    }
    if (from < to)
        tile(n_row, head_dim, row, 1, v + from * head_dim, head_dim, to - from, o, true, ahead);
    for (int r = 0; r < n_row; r++) {
        int begin = lo[r] > to ? lo[r] : to;
        row[r] = p + r * AP_PAGE + begin;
        if (begin < hi[r])
            tile(1, head_dim, row + r, 1, v + begin * head_dim, head_dim, hi[r] - begin, o + r,
                 true, 0);
    }
}

const ap_micro_attn ap_attn_avx512 = {rms_avx512,    scale_avx512,   rotate_avx512,
                                      scores_avx512, softmax_avx512, values_avx512};
