/* attn_avx2.c - the attention kernels with 8 lanes (micro_attn.h). */
#include <math.h>
#include <stdbool.h>

#include "kern/cpu/micro_attn.h"
#include "kern/cpu/x86/math_avx2.h"
#include "kern/cpu/x86/tile_avx2.h"

static float rms_avx2(const float *x, int n, float eps)
{
    __m256 lo = _mm256_setzero_ps(), hi = lo;
    float s[16];
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + i + 8);
        lo = _mm256_fmadd_ps(a, a, lo);
        hi = _mm256_fmadd_ps(b, b, hi);
    }
    _mm256_storeu_ps(s, lo);
    _mm256_storeu_ps(s + 8, hi);
    for (; i < n; i++) s[i % 16] = fmaf(x[i], x[i], s[i % 16]);
    return 1.0f / sqrtf(ap_sum16(s) / (float)n + eps);
}

static void scale_avx2(const float *x, const float *w, float r, int n, float *out)
{
    const __m256 by = _mm256_set1_ps(r);
    int i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 y = _mm256_mul_ps(_mm256_loadu_ps(x + i), by);
        if (w) y = _mm256_mul_ps(y, _mm256_loadu_ps(w + i));
        _mm256_storeu_ps(out + i, y);
    }
    for (; i < n; i++) out[i] = w ? (x[i] * r) * w[i] : x[i] * r;
}

static void rotate_avx2(float *a, float *b, const float *cos, const float *sin, int n)
{
    for (int i = 0; i < n; i += 8) {
        __m256i m = ap_mask_avx2(n - i < 8 ? n - i : 8);
        __m256 x = _mm256_maskload_ps(a + i, m), y = _mm256_maskload_ps(b + i, m);
        __m256 c = _mm256_maskload_ps(cos + i, m), s = _mm256_maskload_ps(sin + i, m);
        _mm256_maskstore_ps(a + i, m, _mm256_sub_ps(_mm256_mul_ps(x, c), _mm256_mul_ps(y, s)));
        _mm256_maskstore_ps(b + i, m, _mm256_add_ps(_mm256_mul_ps(y, c), _mm256_mul_ps(x, s)));
    }
}

static void scores_avx2(const float *const *q, int n_row, const float *kt, int head_dim, float *s,
                        int64_t ahead)
{
    float *row[AP_TILE_ROWS];
    for (int r = 0; r < n_row; r++) row[r] = s + r * AP_PAGE;
    tile(n_row, AP_PAGE, q, 1, kt, AP_PAGE, head_dim, row, false, ahead);
}

/* Lanes of keys [j, j + 8) inside [lo, hi). */
static __m256 seen(int lo, int hi, int j)
{
    const __m256i key =
        _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(j));
    __m256i below = _mm256_cmpgt_epi32(_mm256_set1_epi32(lo), key);
    return _mm256_castsi256_ps(
        _mm256_andnot_si256(below, _mm256_cmpgt_epi32(_mm256_set1_epi32(hi), key)));
}

static float softmax_avx2(float *s, int lo, int hi, float scale, float *m, float *l)
{
    const __m256 by = _mm256_set1_ps(scale);
    const __m256 nothing = _mm256_set1_ps(-INFINITY);
    __m256 best = _mm256_set1_ps(*m), even = _mm256_setzero_ps(), odd = even;
    float lane[8], part[16], top = *m;
    for (int j = 0; j < AP_PAGE; j += 8) {
        __m256 x = _mm256_mul_ps(_mm256_loadu_ps(s + j), by);
        _mm256_storeu_ps(s + j, x);
        best = _mm256_max_ps(best, _mm256_blendv_ps(nothing, x, seen(lo, hi, j)));
    }
    _mm256_storeu_ps(lane, best);
    for (int j = 0; j < 8; j++) top = lane[j] > top ? lane[j] : top;
    for (int j = 0; j < AP_PAGE; j += 8) {
        __m256 p = ap_exp_avx2(_mm256_sub_ps(_mm256_loadu_ps(s + j), _mm256_set1_ps(top)));
        p = _mm256_and_ps(p, seen(lo, hi, j));
        _mm256_storeu_ps(s + j, p);
    }
    for (int j = 0; j < AP_PAGE; j += 16) { /* weights are >= 0, so 0 + w is w */
        even = _mm256_add_ps(even, _mm256_loadu_ps(s + j));
        odd = _mm256_add_ps(odd, _mm256_loadu_ps(s + j + 8));
    }
    _mm256_storeu_ps(part, even);
    _mm256_storeu_ps(part + 8, odd);
    float c = *m == top ? 1.0f : ap_expf(*m - top);
    *l = *l * c + ap_sum16(part);
    *m = top;
    return c;
}

static void values_avx2(const float *p, int n_row, const int *lo, const int *hi, const float *v,
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

const ap_micro_attn ap_attn_avx2 = {rms_avx2,    scale_avx2,   rotate_avx2,
                                    scores_avx2, softmax_avx2, values_avx2};
