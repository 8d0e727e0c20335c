/* attn_avx2.c - the attention kernels with 8 lanes (micro_attn.h). */
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "kern/cpu/micro/micro_attn.h"
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

static void merge_avx2(float *o, float c, const float *x, float by, int n)
{
    const __m256 vc = _mm256_set1_ps(c), vby = _mm256_set1_ps(by);
    int i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 y = _mm256_mul_ps(_mm256_loadu_ps(o + i), vc);
        _mm256_storeu_ps(o + i, _mm256_fmadd_ps(_mm256_loadu_ps(x + i), vby, y));
    }
    for (; i < n; i++) o[i] = fmaf(x[i], by, o[i] * c);
}

#define ROWS 6
#define ALONE                                                                                      \
    8 /* of bf16 pages: registers for no more than one vector of sums each, but one pass */

static void query_avx2(const float *q, int head_dim, float *out)
{
    memcpy(out, q, (size_t)head_dim * sizeof *out);
}

/* ------------------------------------------------------------------ f32 pages */

static void scores_f32(const float *q, int n_row, const ap_kv_head *h, int head_dim, float *s,
                       int64_t ahead)
{
    const float *row[ROWS];
    float *out[ROWS];
    for (int r = 0; r < n_row; r++) {
        row[r] = q + r * ap_q_stride(head_dim);
        out[r] = s + r * AP_PAGE;
    }
    tile(n_row, AP_PAGE, row, 1, (const float *)(const void *)h->k, AP_PAGE, head_dim, out, false,
         ahead);
}

/* The keys [*from, *to) that all rows see, their ends multiples of step. */
static void common_keys(int n_row, const int *lo, const int *hi, int step, int *from, int *to)
{
    *from = lo[0], *to = hi[0];
    for (int r = 1; r < n_row; r++) {
        *from = lo[r] > *from ? lo[r] : *from;
        *to = hi[r] < *to ? hi[r] : *to;
    }
    *from = (*from + step - 1) / step * step;
    *to = *to / step * step;
    if (*from > *to) *from = *to;
}

static void values_f32(const float *p, int n_row, const int *lo, const int *hi, const ap_kv_head *h,
                       int head_dim, float *const *o, int64_t ahead)
{
    const float *row[ROWS], *v = (const float *)(const void *)h->v;
    int from, to;
    common_keys(n_row, lo, hi, 1, &from, &to);
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

/* ------------------------------------------------------------------ bf16 pages */

/* c[r][at + 8 v + i] (+)= sum over l of a[r*lda + l] * b[l][8 v + i], fma, l ascending, n_l values of l,
 * two in each row of b. Meanwhile memory is asked for as many bytes from `soon` on (NULL: none), one after the
 * other, whatever the order in which b is read; returns where to go on. */
TILE_INLINE const uint32_t *sums(const int mr, const int nv, const float *a, const int64_t lda,
                                 const uint32_t *b, int64_t ldb, int n_l, float *const *c,
                                 int64_t at, const bool add, const uint32_t *soon)
{
    __m256 s[ALONE][8];
    const __m256i high = _mm256_set1_epi32((int)0xffff0000);
    for (int r = 0; r < mr; r++)
        for (int v = 0; v < nv; v++)
            s[r][v] = add ? _mm256_loadu_ps(c[r] + at + 8 * v) : _mm256_setzero_ps();
    for (int l = 0; l < n_l; l += 2, b += ldb) {
        for (int v = 0; soon && v < nv; v += 2)
            _mm_prefetch((const char *)(soon + 8 * v), _MM_HINT_T1);
        if (soon) soon += 8 * nv;
        for (int half = 0; half < 2; half++) {
            __m256 x[8];
            for (int v = 0; v < nv; v++) {
                __m256i w = _mm256_loadu_si256((const __m256i *)(const void *)(b + 8 * v));
                x[v] = _mm256_castsi256_ps(half ? _mm256_and_si256(w, high)
                                                : _mm256_slli_epi32(w, 16));
            }
            for (int r = 0; r < mr; r++) {
                __m256 y = _mm256_broadcast_ss(a + r * lda + l + half);
                for (int v = 0; v < nv; v++) s[r][v] = _mm256_fmadd_ps(y, x[v], s[r][v]);
            }
        }
    }
    for (int r = 0; r < mr; r++)
        for (int v = 0; v < nv; v++) _mm256_storeu_ps(c[r] + at + 8 * v, s[r][v]);
    return soon;
}

/* n columns, a multiple of 16; enough sums at once to hide the latency of fma. */
TILE_INLINE void sums_row(const int mr, const int nv, int n, const float *a, const int64_t lda,
                          const uint32_t *b, int64_t ldb, int n_l, float *const *c, const bool add,
                          int64_t ahead)
{
    const uint32_t *soon = ap_kv_ahead(b, ahead);
    int at = 0;
    for (; at + 8 * nv <= n; at += 8 * nv)
        soon = sums(mr, nv, a, lda, b + at, ldb, n_l, c, at, add, soon);
    for (; at < n; at += 16) soon = sums(mr, 2, a, lda, b + at, ldb, n_l, c, at, add, soon);
}

TILE_INLINE void sums_all(int n_row, int n, const float *a, const int64_t lda, const uint32_t *b,
                          int64_t ldb, int n_l, float *const *c, const bool add, int64_t ahead)
{
    switch (n_row) {
    case 1:
        sums_row(1, 8, n, a, lda, b, ldb, n_l, c, add, ahead);
        break;
    case 2:
        sums_row(2, 4, n, a, lda, b, ldb, n_l, c, add, ahead);
        break;
    case 3:
        sums_row(3, 2, n, a, lda, b, ldb, n_l, c, add, ahead);
        break;
    case 4:
        sums_row(4, 2, n, a, lda, b, ldb, n_l, c, add, ahead);
        break;
    case 5:
        sums_row(5, 2, n, a, lda, b, ldb, n_l, c, add, ahead);
        break;
    case 6:
        sums_row(6, 2, n, a, lda, b, ldb, n_l, c, add, ahead);
        break;
    case 7:
        sums_row(7, 1, n, a, lda, b, ldb, n_l, c, add, ahead);
        break;
    case 8:
        sums_row(8, 1, n, a, lda, b, ldb, n_l, c, add, ahead);
        break;
    default:
        break;
    }
}

static void scores_bf16(const float *q, int n_row, const ap_kv_head *h, int head_dim, float *s,
                        int64_t ahead)
{
    float *c[ALONE];
    for (int r = 0; r < n_row; r++) c[r] = s + r * AP_PAGE;
    sums_all(n_row, AP_PAGE, q, AP_Q_STRIDE, (const uint32_t *)(const void *)h->k, AP_PAGE,
             head_dim, c, false, ahead);
}

/* o[d] = fma(p[j], v[j][d], o[d]) for the few keys [lo, hi) that not all rows see. */
static void few_bf16(const float *p, int lo, int hi, const uint32_t *v, int head_dim, float *o)
{
    const __m256i high = _mm256_set1_epi32((int)0xffff0000);
    for (int j = lo; j < hi; j++)
        for (int d = 0; d < head_dim; d += 8) {
            const uint32_t *at = v + (int64_t)(j / 2) * head_dim + d;
            __m256i x = _mm256_loadu_si256((const __m256i *)(const void *)at);
            x = j & 1 ? _mm256_and_si256(x, high) : _mm256_slli_epi32(x, 16);
            _mm256_storeu_ps(o + d,
                             _mm256_fmadd_ps(_mm256_broadcast_ss(p + j), _mm256_castsi256_ps(x),
                                             _mm256_loadu_ps(o + d)));
        }
}

static void values_bf16(const float *p, int n_row, const int *lo, const int *hi,
                        const ap_kv_head *h, int head_dim, float *const *o, int64_t ahead)
{
    const uint32_t *v = (const uint32_t *)(const void *)h->v;
    int from, to;
    common_keys(n_row, lo, hi, 2, &from, &to);
    for (int r = 0; r < n_row; r++)
        few_bf16(p + r * AP_PAGE, lo[r], hi[r] < from ? hi[r] : from, v, head_dim, o[r]);
    if (from < to)
        sums_all(n_row, head_dim, p + from, AP_PAGE, v + (int64_t)(from / 2) * head_dim, head_dim,
                 to - from, o, true, ahead);
    for (int r = 0; r < n_row; r++)
        few_bf16(p + r * AP_PAGE, lo[r] > to ? lo[r] : to, hi[r], v, head_dim, o[r]);
}

/* ------------------------------------------------------------------ q8 pages */

#define Q8_ROWS 4

typedef struct query8 {
    int16_t x[512];
    float unit;
} query8;
_Static_assert(sizeof(query8) <= AP_Q_STRIDE * sizeof(float), "a prepared row");

static void query_q8(const float *q, int head_dim, float *out)
{
    query8 x;
    memset(&x, 0, sizeof x);
    x.unit = ap_kv_ints(q, head_dim, 16256, x.x);
    memcpy(out, &x, sizeof x);
}

/* sum[r][0..1]: 16 columns of the dot of a[r*lda ..] with the bytes of b, 4 for each column in each of n
 * lines, `flip` first. */
TILE_INLINE void dots(const int mr, const uint8_t flip, const int16_t *a, const int64_t lda,
                      const uint8_t *b, int n, int64_t ahead, __m256i (*sum)[2])
{
    const __m128i sign = _mm_set1_epi8((char)flip);
    for (int half = 0; half < 2; half++) { /* 8 columns: 4 and 4, each with two sums side by side */
        __m256i s[Q8_ROWS][2];
        for (int r = 0; r < mr; r++) s[r][0] = s[r][1] = _mm256_setzero_si256();
        for (int l = 0; l < n; l++) {
            const uint8_t *at = b + 64 * l + 32 * half;
            __m256i x[2];
            if (ahead != 0 && half == 0)
                _mm_prefetch((const char *)((uintptr_t)at + (uintptr_t)ahead), _MM_HINT_T1);
            for (int v = 0; v < 2; v++) {
                __m128i w = _mm_loadu_si128((const __m128i *)(const void *)(at + 16 * v));
                x[v] = _mm256_cvtepi8_epi16(flip ? _mm_xor_si128(w, sign) : w);
            }
            for (int r = 0; r < mr; r++) {
                int64_t four;
                memcpy(&four, a + r * lda + 4 * l, sizeof four);
                __m256i y = _mm256_set1_epi64x(four);
                for (int v = 0; v < 2; v++)
                    s[r][v] = _mm256_add_epi32(s[r][v], _mm256_madd_epi16(x[v], y));
            }
        }
        for (int r = 0; r < mr; r++)
            sum[r][half] = _mm256_permute4x64_epi64(_mm256_hadd_epi32(s[r][0], s[r][1]), 0xd8);
    }
}

TILE_INLINE void scores8(const int mr, const query8 *q, const ap_kv_head *h, int head_dim, float *s,
                         int64_t ahead)
{
    const int64_t ldq = AP_Q_STRIDE * 2;
    const uint8_t *k = h->k;
    for (int j = 0; j < AP_PAGE; j += 16) {
        __m256 acc[Q8_ROWS][2];
        for (int r = 0; r < mr; r++) acc[r][0] = acc[r][1] = _mm256_setzero_ps();
        for (int d = 0; d < head_dim; d += AP_KV_BLOCK) {
            int n = head_dim - d < AP_KV_BLOCK ? head_dim - d : AP_KV_BLOCK;
            const float *unit = h->ks + d / AP_KV_BLOCK * AP_PAGE + j;
            __m256i sum[Q8_ROWS][2];
            dots(mr, 0x80, q->x + d, ldq, k, n / 4, ahead, sum);
            k += n * 16;
            for (int r = 0; r < mr; r++)
                for (int v = 0; v < 2; v++)
                    acc[r][v] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[r][v]),
                                                _mm256_loadu_ps(unit + 8 * v), acc[r][v]);
        }
        for (int r = 0; r < mr; r++) {
            const float *unit = &q->unit + r * AP_Q_STRIDE;
            for (int v = 0; v < 2; v++)
                _mm256_storeu_ps(s + r * AP_PAGE + j + 8 * v,
                                 _mm256_mul_ps(acc[r][v], _mm256_broadcast_ss(unit)));
        }
    }
}

TILE_INLINE void values8(const int mr, const int16_t *w, const float *unit, const ap_kv_head *h,
                         int head_dim, float *const *o, int64_t ahead)
{
    const uint8_t *v = h->v;
    for (int d = 0; d < head_dim; d += 16, v += AP_PAGE * 16) {
        __m256i sum[Q8_ROWS][2];
        dots(mr, 0, w, AP_PAGE, v, AP_PAGE / 4, ahead, sum);
        for (int r = 0; r < mr; r++)
            for (int i = 0; i < 2; i++) {
                float *at = o[r] + d + 8 * i;
                _mm256_storeu_ps(at, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[r][i]),
                                                     _mm256_broadcast_ss(unit + r),
                                                     _mm256_loadu_ps(at)));
            }
    }
}

#include "kern/cpu/micro/attn_q8_body.h"

const ap_micro_attn ap_attn_avx2 = {
    .rms = rms_avx2,
    .scale = scale_avx2,
    .rotate = rotate_avx2,
    .softmax = softmax_avx2,
    .merge = merge_avx2,
    .f32 = {.rows = ROWS, .query = query_avx2, .scores = scores_f32, .values = values_f32},
    .bf16 = {.rows = ROWS,
             .alone = ALONE,
             .query = query_avx2,
             .scores = scores_bf16,
             .values = values_bf16},
    .q8 = {.rows = Q8_ROWS, .query = query_q8, .scores = scores_q8, .values = values_q8},
};
