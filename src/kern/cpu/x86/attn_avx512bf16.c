/* attn_avx512bf16.c - attention over bf16 pages with products of bf16 pairs (precision FAST, level avx512
 * where the processor has AVX512_BF16). A row's results do not depend on the rows beside it. */
#include "kern/cpu/x86/attn_fast.h"

#define ROWS 12

static bool usable(int head_dim)
{
#ifdef AP_EMULATE
    return head_dim % 16 == 0 && head_dim <= FAST_MAX_DIM;
#endif
    return head_dim % 16 == 0 && head_dim <= FAST_MAX_DIM && __builtin_cpu_supports("avx512bf16");
}

/* c[r][at + 16 v + i] = (or +=, with `add`) sum over l < n of a[r][l] . b[l][16 v + i], both pairs; a has
 * rows of lda bytes, b of ldb pairs. Memory is asked for as many bytes from `soon` on, if it is not NULL;
 * returns where to go on. */
FAST_INLINE const uint32_t *sums(const int mr, const int nv, const uint8_t *a, const int64_t lda,
                                 const uint32_t *b, int64_t ldb, int n, float *const *c, int at,
                                 const bool add, const uint32_t *soon)
{
    __m512 s[ROWS][4];
    for (int r = 0; r < mr; r++)
        for (int v = 0; v < nv; v++)
            s[r][v] = add ? _mm512_loadu_ps(c[r] + at + 16 * v) : _mm512_setzero_ps();
    for (int l = 0; l < n; l++, b += ldb) {
        __m512i x[4];
        for (int v = 0; v < nv; v++) x[v] = _mm512_loadu_si512(b + 16 * v);
        for (int v = 0; soon && v < nv; v++, soon += 16)
            _mm_prefetch((const char *)soon, _MM_HINT_T1);
        for (int r = 0; r < mr; r++) {
            int32_t pair;
            memcpy(&pair, a + r * lda + 4 * l, sizeof pair);
            __m512i y = _mm512_set1_epi32(pair);
            for (int v = 0; v < nv; v++)
                s[r][v] = _mm512_dpbf16_ps(s[r][v], (__m512bh)y, (__m512bh)x[v]);
        }
    }
    for (int r = 0; r < mr; r++)
        for (int v = 0; v < nv; v++) _mm512_storeu_ps(c[r] + at + 16 * v, s[r][v]);
    return soon;
}

FAST_INLINE void sums_row(const int mr, int columns, const uint8_t *a, const int64_t lda,
                          const uint32_t *b, int64_t ldb, int n, float *const *c, const bool add,
                          int64_t ahead)
{
    const int nv = mr <= 6 ? 4 : 2;
    const uint32_t *soon = ap_kv_ahead(b, ahead);
    int at = 0;
    for (; at + 16 * nv <= columns; at += 16 * nv)
        soon = sums(mr, nv, a, lda, b + at, ldb, n, c, at, add, soon);
    for (; at < columns; at += 16) soon = sums(mr, 1, a, lda, b + at, ldb, n, c, at, add, soon);
}

#define CASE(mr)                                                                                   \
    case mr:                                                                                       \
        sums_row(mr, columns, a, lda, b, ldb, n, c, add, ahead);                                   \
        break

FAST_INLINE void sums_all(int n_row, int columns, const uint8_t *a, const int64_t lda,
                          const uint8_t *pairs, int64_t ldb, int n, float *const *c, const bool add,
                          int64_t ahead)
{
    const uint32_t *b = (const uint32_t *)(const void *)pairs;
    switch (n_row) {
        CASE(1);
        CASE(2);
        CASE(3);
        CASE(4);
        CASE(5);
        CASE(6);
        CASE(7);
        CASE(8);
        CASE(9);
        CASE(10);
        CASE(11);
        CASE(12);
    default:
        break;
    }
}

static void page(const float *q, int n_row, const ap_kv_head *h, int head_dim, const int *lo,
                 const int *hi, float scale, float *s, float *m, float *l, float *const *o,
                 int64_t ahead)
{
    _Alignas(64) uint16_t p[ROWS * AP_PAGE];
    _Alignas(64) uint8_t copy[AP_PAGE * FAST_MAX_DIM * 2];
    const uint8_t *v = fast_values(h->v, n_row, lo, hi, head_dim, copy);
    float *row[ROWS];
    for (int r = 0; r < n_row; r++) row[r] = s + r * AP_PAGE;
    sums_all(n_row, AP_PAGE, (const uint8_t *)q, AP_Q_STRIDE * sizeof *q, h->k, AP_PAGE,
             head_dim / 2, row, false, ahead);
    for (int r = 0; r < n_row; r++)
        fast_softmax(s + r * AP_PAGE, lo[r], hi[r], scale, head_dim, m + r, l + r, o[r],
                     p + r * AP_PAGE);
    sums_all(n_row, head_dim, (const uint8_t *)p, AP_PAGE * sizeof *p, v, head_dim, AP_PAGE / 2, o,
             true, v == h->v ? ahead : 0);
}

const ap_micro_fast ap_attn_fast_avx512 = {
    .rows = ROWS, .tile = 48, .step = 1, .usable = usable, .query = fast_query, .page = page};
