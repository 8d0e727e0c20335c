/* attn_avx512.c - the attention kernels with 16 lanes (micro_attn.h). */
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "kern/cpu/micro/micro_attn.h"
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

static void merge_avx512(float *o, float c, const float *x, float by, int n)
{
    const __m512 vc = _mm512_set1_ps(c), vby = _mm512_set1_ps(by);
    for (int i = 0; i < n; i += 16) {
        __mmask16 m = n - i < 16 ? ap_mask_avx512(n - i) : 0xffff;
        __m512 y = _mm512_mul_ps(_mm512_maskz_loadu_ps(m, o + i), vc);
        y = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(m, x + i), vby, y);
        _mm512_mask_storeu_ps(o + i, m, y);
    }
}

/* ------------------------------------------------------------------ f32 and bf16 pages */

#define F32_ROWS 12

/* c[r][16 v + i] = (or +=, with `add`) sum over l of a[r*lda + l] * b[l][16 v + i], fma, l ascending,
 * for n_l values of l. b: f32 rows ldb apart; with `pairs` bf16, two l in each of them. The columns
 * are whole vectors unless nv is 1. Memory is asked for as many bytes from `soon` on, if it is not NULL;
 * returns where to go on. */
TILE_INLINE const float *sums(const int mr, const int nv, const bool pairs, __mmask16 mask,
                              const float *a, const int64_t lda, const float *b, int64_t ldb,
                              int n_l, float *const *c, int64_t at, const bool add,
                              const float *soon)
{
    __m512 s[F32_ROWS][4];
    const __m512i high = _mm512_set1_epi32((int)0xffff0000);
    for (int r = 0; r < mr; r++)
        for (int v = 0; v < nv; v++)
            s[r][v] = add ? _mm512_maskz_loadu_ps(mask, c[r] + at + 16 * v) : _mm512_setzero_ps();
    for (int l = 0; l < n_l; l += pairs ? 2 : 1, b += ldb) {
        __m512 x[4];
        for (int v = 0; soon && v < nv; v++, soon += 16)
            _mm_prefetch((const char *)soon, _MM_HINT_T1);
        for (int half = 0; half < (pairs ? 2 : 1); half++) {
            for (int v = 0; v < nv; v++)
                x[v] = !pairs ? _mm512_maskz_loadu_ps(mask, b + 16 * v)
                       : half ? _mm512_castsi512_ps(
                                    _mm512_and_si512(_mm512_loadu_si512(b + 16 * v), high))
                              : _mm512_castsi512_ps(
                                    _mm512_slli_epi32(_mm512_loadu_si512(b + 16 * v), 16));
            for (int r = 0; r < mr; r++) {
                __m512 y = _mm512_set1_ps(a[r * lda + l + half]);
                for (int v = 0; v < nv; v++) s[r][v] = _mm512_fmadd_ps(y, x[v], s[r][v]);
            }
        }
    }
    for (int r = 0; r < mr; r++)
        for (int v = 0; v < nv; v++) _mm512_mask_storeu_ps(c[r] + at + 16 * v, mask, s[r][v]);
    return soon;
}

/* All n columns: up to 24 sums at once. */
TILE_INLINE void sums_row(const int mr, const bool pairs, int n, const float *a, const int64_t lda,
                          const float *b, int64_t ldb, int n_l, float *const *c, const bool add,
                          int64_t ahead)
{
    const int nv = mr <= 6 ? 4 : 2;
    const float *soon = ap_kv_ahead(b, ahead);
    int at = 0;
    for (; at + 16 * nv <= n; at += 16 * nv)
        soon = sums(mr, nv, pairs, 0xffff, a, lda, b + at, ldb, n_l, c, at, add, soon);
    for (; at < n; at += 16)
        soon = sums(mr, 1, pairs, n - at < 16 ? ap_mask_avx512(n - at) : 0xffff, a, lda, b + at,
                    ldb, n_l, c, at, add, soon);
}

#define CASE(mr)                                                                                   \
    case mr:                                                                                       \
        sums_row(mr, pairs, n, a, lda, b, ldb, n_l, c, add, ahead);                                \
        break
#define CASES                                                                                      \
    switch (n_row) {                                                                               \
        CASE(1);                                                                                   \
        CASE(2);                                                                                   \
        CASE(3);                                                                                   \
        CASE(4);                                                                                   \
        CASE(5);                                                                                   \
        CASE(6);                                                                                   \
        CASE(7);                                                                                   \
        CASE(8);                                                                                   \
        CASE(9);                                                                                   \
        CASE(10);                                                                                  \
        CASE(11);                                                                                  \
        CASE(12);                                                                                  \
    default:                                                                                       \
        break;                                                                                     \
    }

TILE_INLINE void scores_of(const bool pairs, const float *a, int n_row, const float *b, int n_l,
                           float *s, int64_t ahead)
{
    enum { n = AP_PAGE, ldb = AP_PAGE, lda = AP_Q_STRIDE };
    const bool add = false;
    float *c[F32_ROWS];
    for (int r = 0; r < n_row; r++) c[r] = s + r * AP_PAGE;
    CASES
}

TILE_INLINE void values_of(const bool pairs, const float *a, int n_row, const float *b, int64_t ldb,
                           int n_l, float *const *c, int n, int64_t ahead)
{
    enum { lda = AP_PAGE };
    const bool add = true;
    CASES
}

static void query_avx512(const float *q, int head_dim, float *out)
{
    memcpy(out, q, (size_t)head_dim * sizeof *out);
}

static void scores_f32(const float *q, int n_row, const ap_kv_head *h, int head_dim, float *s,
                       int64_t ahead)
{
    const float *k = (const float *)(const void *)h->k;
    if (head_dim <= 512) {
        scores_of(false, q, n_row, k, head_dim, s, ahead);
        return;
    }
    for (int r = 0; r < n_row; r++) { /* no model has such heads */
        const float *a = q + r * ap_q_stride(head_dim);
        float *c = s + r * AP_PAGE;
        tile(1, AP_PAGE, &a, 1, k, AP_PAGE, head_dim, &c, false, ahead);
    }
}

static void scores_bf16(const float *q, int n_row, const ap_kv_head *h, int head_dim, float *s,
                        int64_t ahead)
{
    scores_of(true, q, n_row, (const float *)(const void *)h->k, head_dim, s, ahead);
}

/* o[d] = fma(p[j], v[j][d], o[d]) for the few keys [lo, hi) that not all rows see. */
static void few_f32(const float *p, int lo, int hi, const float *v, int head_dim, float *o)
{
    for (int j = lo; j < hi; j++)
        for (int d = 0; d < head_dim; d += 16) {
            __mmask16 m = head_dim - d < 16 ? ap_mask_avx512(head_dim - d) : 0xffff;
            __m512 x = _mm512_maskz_loadu_ps(m, v + (int64_t)j * head_dim + d);
            x = _mm512_fmadd_ps(_mm512_set1_ps(p[j]), x, _mm512_maskz_loadu_ps(m, o + d));
            _mm512_mask_storeu_ps(o + d, m, x);
        }
}

static void few_bf16(const float *p, int lo, int hi, const float *v, int head_dim, float *o)
{
    for (int j = lo; j < hi; j++)
        for (int d = 0; d < head_dim; d += 16) {
            __m512i x = _mm512_loadu_si512(v + (int64_t)(j / 2) * head_dim + d);
            x = j & 1 ? _mm512_and_si512(x, _mm512_set1_epi32((int)0xffff0000))
                      : _mm512_slli_epi32(x, 16);
            _mm512_storeu_ps(o + d, _mm512_fmadd_ps(_mm512_set1_ps(p[j]), _mm512_castsi512_ps(x),
                                                    _mm512_loadu_ps(o + d)));
        }
}

/* Rows meet the keys that all of them see side by side, the others one by one: what a row does not
 * see may be anything, and is never multiplied. */
TILE_INLINE void values_all(const bool pairs, const float *p, int n_row, const int *lo,
                            const int *hi, const float *v, int head_dim, float *const *o,
                            int64_t ahead)
{
    int from = lo[0], to = hi[0];
    for (int r = 1; r < n_row; r++) {
        from = lo[r] > from ? lo[r] : from;
        to = hi[r] < to ? hi[r] : to;
    }
    if (pairs) from = (from + 1) & ~1, to &= ~1;
    if (from > to) from = to; /* [from, to): the keys that all rows see */
    for (int r = 0; r < n_row; r++)
        if (pairs)
            few_bf16(p + r * AP_PAGE, lo[r], hi[r] < from ? hi[r] : from, v, head_dim, o[r]);
        else
            few_f32(p + r * AP_PAGE, lo[r], hi[r] < from ? hi[r] : from, v, head_dim, o[r]);
    if (from < to)
        values_of(pairs, p + from, n_row, v + (int64_t)(pairs ? from / 2 : from) * head_dim,
                  head_dim, to - from, o, head_dim, ahead);
    for (int r = 0; r < n_row; r++)
        if (pairs)
            few_bf16(p + r * AP_PAGE, lo[r] > to ? lo[r] : to, hi[r], v, head_dim, o[r]);
        else
            few_f32(p + r * AP_PAGE, lo[r] > to ? lo[r] : to, hi[r], v, head_dim, o[r]);
}

static void values_f32(const float *p, int n_row, const int *lo, const int *hi, const ap_kv_head *h,
                       int head_dim, float *const *o, int64_t ahead)
{
    values_all(false, p, n_row, lo, hi, (const float *)(const void *)h->v, head_dim, o, ahead);
}

static void values_bf16(const float *p, int n_row, const int *lo, const int *hi,
                        const ap_kv_head *h, int head_dim, float *const *o, int64_t ahead)
{
    values_all(true, p, n_row, lo, hi, (const float *)(const void *)h->v, head_dim, o, ahead);
}

/* ------------------------------------------------------------------ q8 pages */

#define Q8_ROWS 8

/* X = 128 hi + lo, lo in [-64, 63]; less: what K's offset of 128 adds to a block's sum. */
typedef struct query8 {
    int8_t hi[512], lo[512];
    int32_t less[512 / AP_KV_BLOCK];
    float unit;
} query8;
_Static_assert(sizeof(query8) <= AP_Q_STRIDE * sizeof(float), "a prepared row");

static void query_q8(const float *q, int head_dim, float *out)
{
    query8 x = {.unit = 0};
    int16_t v[512];
    x.unit = ap_kv_ints(q, head_dim, 16256, v);
    for (int d = 0; d < head_dim; d++) {
        int hi = (v[d] + 64) >> 7;
        x.hi[d] = (int8_t)hi;
        x.lo[d] = (int8_t)(v[d] - hi * 128);
        x.less[d / AP_KV_BLOCK] -= 128 * v[d];
    }
    memcpy(out, &x, sizeof x);
}

/* sum[r] of 16 columns: the dot of hi << shift, plus lo, with the bytes of b, 4 for each column in each
 * of n vectors. unsigned_b: which of the two is not signed. */
TILE_INLINE void dots(const int mr, const bool unsigned_b, const int shift, const uint8_t *hi,
                      const uint8_t *lo, const int64_t lda, const uint8_t *b, int n, int64_t ahead,
                      __m512i *sum)
{
    __m512i sh[Q8_ROWS], sl[Q8_ROWS];
    for (int r = 0; r < mr; r++) sh[r] = sl[r] = _mm512_setzero_si512();
    for (int l = 0; l < n; l++) {
        __m512i x = _mm512_loadu_si512(b + 64 * l);
        if (ahead != 0)
            _mm_prefetch((const char *)((uintptr_t)(b + 64 * l) + (uintptr_t)ahead), _MM_HINT_T1);
        for (int r = 0; r < mr; r++) {
            int32_t h4, l4;
            memcpy(&h4, hi + r * lda + 4 * l, sizeof h4);
            memcpy(&l4, lo + r * lda + 4 * l, sizeof l4);
            __m512i yh = _mm512_set1_epi32(h4), yl = _mm512_set1_epi32(l4);
            sh[r] =
                unsigned_b ? _mm512_dpbusd_epi32(sh[r], x, yh) : _mm512_dpbusd_epi32(sh[r], yh, x);
            sl[r] =
                unsigned_b ? _mm512_dpbusd_epi32(sl[r], x, yl) : _mm512_dpbusd_epi32(sl[r], yl, x);
        }
    }
    for (int r = 0; r < mr; r++)
        sum[r] = _mm512_add_epi32(_mm512_slli_epi32(sh[r], (unsigned)shift), sl[r]);
}

TILE_INLINE void scores8(const int mr, const query8 *q, const ap_kv_head *h, int head_dim, float *s,
                         int64_t ahead)
{
    const int64_t ldq = AP_Q_STRIDE * sizeof(float);
    const uint8_t *k = h->k, *hi = (const uint8_t *)q->hi, *lo = (const uint8_t *)q->lo;
    for (int v = 0; v < AP_PAGE / 16; v++) {
        __m512 acc[Q8_ROWS];
        for (int r = 0; r < mr; r++) acc[r] = _mm512_setzero_ps();
        for (int d = 0; d < head_dim; d += AP_KV_BLOCK) {
            int n = head_dim - d < AP_KV_BLOCK ? head_dim - d : AP_KV_BLOCK;
            const int block = d / AP_KV_BLOCK;
            __m512 unit = _mm512_loadu_ps(h->ks + block * AP_PAGE + 16 * v);
            __m512i sum[Q8_ROWS];
            dots(mr, true, 7, hi + d, lo + d, ldq, k, n / 4, ahead, sum);
            k += n * 16;
            for (int r = 0; r < mr; r++) {
                const query8 *x = (const query8 *)(const void *)((const uint8_t *)q + r * ldq);
                __m512i t = _mm512_add_epi32(sum[r], _mm512_set1_epi32(x->less[block]));
                acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(t), unit, acc[r]);
            }
        }
        for (int r = 0; r < mr; r++) {
            const query8 *x = (const query8 *)(const void *)((const uint8_t *)q + r * ldq);
            _mm512_storeu_ps(s + r * AP_PAGE + 16 * v,
                             _mm512_mul_ps(acc[r], _mm512_set1_ps(x->unit)));
        }
    }
}

/* A row's weights for a page as integers, W = 256 hi + lo. */
typedef struct weights8 {
    uint8_t hi[AP_PAGE], lo[AP_PAGE];
    float unit;
    uint8_t room[60];
} weights8;

static void weigh(const float *p, int lo, int hi, const float *unit, weights8 *out)
{
    __m512 w[4];
    __m512i top = _mm512_setzero_si512();
    for (int v = 0; v < 4; v++) {
        __mmask16 m = seen(lo, hi, v);
        w[v] = _mm512_maskz_mul_ps(m, _mm512_loadu_ps(p + 16 * v),
                                   _mm512_maskz_loadu_ps(m, unit + 16 * v));
        __m512i bits = _mm512_and_si512(_mm512_castps_si512(w[v]), _mm512_set1_epi32(0x7fffffff));
        top = _mm512_max_epi32(top, bits);
    }
    int32_t most = _mm512_reduce_max_epi32(top);
    float a;
    memcpy(&a, &most, sizeof a);
    bool off = most >= 0x7f800000 || a < 1e-30f;
    __m512 by = _mm512_set1_ps(off ? 0 : 32767.0f / a);
    out->unit = most >= 0x7f800000 ? __builtin_nanf("") : off ? 0 : a * (1.0f / 32767.0f);
    for (int v = 0; v < 4; v++) {
        __m512i x = off ? _mm512_setzero_si512() : _mm512_cvtps_epi32(_mm512_mul_ps(w[v], by));
        _mm_storeu_si128((__m128i *)(void *)(out->hi + 16 * v),
                         _mm512_cvtepi32_epi8(_mm512_srli_epi32(x, 8)));
        _mm_storeu_si128((__m128i *)(void *)(out->lo + 16 * v), _mm512_cvtepi32_epi8(x));
    }
}

TILE_INLINE void values8(const int mr, const weights8 *w, const ap_kv_head *h, int head_dim,
                         float *const *o, int64_t ahead)
{
    const uint8_t *v = h->v;
    for (int d = 0; d < head_dim; d += 16, v += AP_PAGE * 16) {
        __m512i sum[Q8_ROWS];
        dots(mr, false, 8, w->hi, w->lo, sizeof *w, v, AP_PAGE / 4, ahead, sum);
        for (int r = 0; r < mr; r++)
            _mm512_storeu_ps(o[r] + d,
                             _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r]), _mm512_set1_ps(w[r].unit),
                                             _mm512_loadu_ps(o[r] + d)));
    }
}

static void scores_q8(const float *q, int n_row, const ap_kv_head *h, int head_dim, float *s,
                      int64_t ahead)
{
    const query8 *x = (const query8 *)(const void *)q;
    switch (n_row) {
    case 1:
        scores8(1, x, h, head_dim, s, ahead);
        break;
    case 2:
        scores8(2, x, h, head_dim, s, ahead);
        break;
    case 3:
        scores8(3, x, h, head_dim, s, ahead);
        break;
    case 4:
        scores8(4, x, h, head_dim, s, ahead);
        break;
    case 5:
        scores8(5, x, h, head_dim, s, ahead);
        break;
    case 6:
        scores8(6, x, h, head_dim, s, ahead);
        break;
    case 7:
        scores8(7, x, h, head_dim, s, ahead);
        break;
    case 8:
        scores8(8, x, h, head_dim, s, ahead);
        break;
    default:
        break;
    }
}

static void values_q8(const float *p, int n_row, const int *lo, const int *hi, const ap_kv_head *h,
                      int head_dim, float *const *o, int64_t ahead)
{
    weights8 w[Q8_ROWS];
    for (int r = 0; r < n_row; r++) weigh(p + r * AP_PAGE, lo[r], hi[r], h->vs, &w[r]);
    switch (n_row) {
    case 1:
        values8(1, w, h, head_dim, o, ahead);
        break;
    case 2:
        values8(2, w, h, head_dim, o, ahead);
        break;
    case 3:
        values8(3, w, h, head_dim, o, ahead);
        break;
    case 4:
        values8(4, w, h, head_dim, o, ahead);
        break;
    case 5:
        values8(5, w, h, head_dim, o, ahead);
        break;
    case 6:
        values8(6, w, h, head_dim, o, ahead);
        break;
    case 7:
        values8(7, w, h, head_dim, o, ahead);
        break;
    case 8:
        values8(8, w, h, head_dim, o, ahead);
        break;
    default:
        break;
    }
}

const ap_micro_attn ap_attn_avx512 = {
    .rms = rms_avx512,
    .scale = scale_avx512,
    .rotate = rotate_avx512,
    .softmax = softmax_avx512,
    .merge = merge_avx512,
    .f32 = {.rows = F32_ROWS, .query = query_avx512, .scores = scores_f32, .values = values_f32},
    .bf16 = {.rows = F32_ROWS, .query = query_avx512, .scores = scores_bf16, .values = values_bf16},
    .q8 = {.rows = Q8_ROWS, .query = query_q8, .scores = scores_q8, .values = values_q8},
};
