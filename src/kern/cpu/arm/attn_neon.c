/* attn_neon.c - the attention kernels with 4 lanes (micro_attn.h). */
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "kern/cpu/arm/tile_neon.h"
#include "kern/cpu/micro/micro_attn.h"

static float rms_neon(const float *x, int n, float eps)
{
    float32x4_t s[4];
    float lane[16];
    int i = 0;
    TILE_UNROLL for (int v = 0; v < 4; v++) s[v] = vdupq_n_f32(0.0f);
    for (; i + 16 <= n; i += 16) TILE_UNROLL for (int v = 0; v < 4; v++)
        {
            float32x4_t a = vld1q_f32(x + i + 4 * v);
            s[v] = ap_fma_neon(a, a, s[v]);
        }
    TILE_UNROLL for (int v = 0; v < 4; v++) vst1q_f32(lane + 4 * v, s[v]);
    for (; i < n; i++) lane[i % 16] = fmaf(x[i], x[i], lane[i % 16]);
    return 1.0f / sqrtf(ap_sum16(lane) / (float)n + eps);
}

static void scale_neon(const float *x, const float *w, float r, int n, float *out)
{
    int i = 0;
    for (; i + 4 <= n; i += 4) {
        float32x4_t y = vmulq_n_f32(vld1q_f32(x + i), r);
        vst1q_f32(out + i, w ? vmulq_f32(y, vld1q_f32(w + i)) : y);
    }
    for (; i < n; i++) out[i] = w ? (x[i] * r) * w[i] : x[i] * r;
}

static void rotate_neon(float *a, float *b, const float *cos, const float *sin, int n)
{
    int i = 0;
    for (; i + 4 <= n; i += 4) {
        float32x4_t x = vld1q_f32(a + i), y = vld1q_f32(b + i);
        float32x4_t c = vld1q_f32(cos + i), s = vld1q_f32(sin + i);
        vst1q_f32(a + i, vsubq_f32(vmulq_f32(x, c), vmulq_f32(y, s)));
        vst1q_f32(b + i, vaddq_f32(vmulq_f32(y, c), vmulq_f32(x, s)));
    }
    for (; i < n; i++) {
        float x = a[i], y = b[i];
        a[i] = x * cos[i] - y * sin[i];
        b[i] = y * cos[i] + x * sin[i];
    }
}

/* Lanes of keys [j, j + 4) inside [lo, hi). */
static inline uint32x4_t seen(int lo, int hi, int j)
{
    static const int32_t first[4] = {0, 1, 2, 3};
    int32x4_t key = vaddq_s32(vld1q_s32(first), vdupq_n_s32(j));
    return vandq_u32(vcgeq_s32(key, vdupq_n_s32(lo)), vcltq_s32(key, vdupq_n_s32(hi)));
}

static float softmax_neon(float *s, int lo, int hi, float scale, float *m, float *l)
{
    float32x4_t best = vdupq_n_f32(*m), sum[4];
    float lane[4], top = *m;
    for (int j = 0; j < AP_PAGE; j += 4) {
        float32x4_t x = vmulq_n_f32(vld1q_f32(s + j), scale);
        vst1q_f32(s + j, x);
        best = ap_where_neon(vandq_u32(seen(lo, hi, j), vcgtq_f32(x, best)), x, best);
    }
    vst1q_f32(lane, best);
    for (int j = 0; j < 4; j++) top = lane[j] > top ? lane[j] : top;
    TILE_UNROLL for (int v = 0; v < 4; v++) sum[v] = vdupq_n_f32(0.0f);
    for (int j = 0; j < AP_PAGE; j += 16) /* weights are >= 0, so 0 + w is w */
        TILE_UNROLL for (int v = 0; v < 4; v++)
        {
            float *at = s + j + 4 * v;
            float32x4_t p = ap_exp_neon(vsubq_f32(vld1q_f32(at), vdupq_n_f32(top)));
            p = ap_clear_neon(vmvnq_u32(seen(lo, hi, j + 4 * v)), p);
            vst1q_f32(at, p);
            sum[v] = vaddq_f32(sum[v], p);
        }
    float c = *m == top ? 1.0f : ap_expf(*m - top);
    *l = *l * c + ap_sum16_neon(sum);
    *m = top;
    return c;
}

static void merge_neon(float *o, float c, const float *x, float by, int n)
{
    int i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(o + i, vfmaq_n_f32(vmulq_n_f32(vld1q_f32(o + i), c), vld1q_f32(x + i), by));
    for (; i < n; i++) o[i] = fmaf(x[i], by, o[i] * c);
}

#define ROWS 6

static void query_neon(const float *q, int head_dim, float *out)
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

/* The keys [from, to) for one row. */
static void row_f32(const float *p, int from, int to, const float *v, int head_dim, float *const *o)
{
    p += from;
    if (from < to) tile(1, head_dim, &p, 1, v + from * head_dim, head_dim, to - from, o, true, 0);
}

static void values_f32(const float *p, int n_row, const int *lo, const int *hi, const ap_kv_head *h,
                       int head_dim, float *const *o, int64_t ahead)
{
    const float *row[ROWS], *v = (const float *)(const void *)h->v;
    int from, to;
    common_keys(n_row, lo, hi, 1, &from, &to);
    for (int r = 0; r < n_row; r++) {
        row_f32(p + r * AP_PAGE, lo[r], hi[r] < from ? hi[r] : from, v, head_dim, o + r);
        row[r] = p + r * AP_PAGE + from;
    }
    if (from < to)
        tile(n_row, head_dim, row, 1, v + from * head_dim, head_dim, to - from, o, true, ahead);
    for (int r = 0; r < n_row; r++)
        row_f32(p + r * AP_PAGE, lo[r] > to ? lo[r] : to, hi[r], v, head_dim, o + r);
}

/* ------------------------------------------------------------------ bf16 pages */

/* Four numbers of pairs: the first or the second of each. */
TILE_INLINE float32x4_t of_pair(int second, const uint32_t *p)
{
    uint32x4_t w;
    __asm__("" : "+r"(p)); /* load again: no register is free to keep what the first one loaded */
    w = vld1q_u32(p);
    w = second ? vandq_u32(w, vdupq_n_u32(0xffff0000u)) : vshlq_n_u32(w, 16);
    return vreinterpretq_f32_u32(w);
}

/* c[r][at + 4 v + i] (+)= sum over l of a[r*lda + l] * b[l][4 v + i], fma, l ascending, n_l values
 * of l, two in each row of b. */
TILE_INLINE void sums(const int mr, const int nv, const float *a, const int64_t lda,
                      const uint32_t *b, int64_t ldb, int n_l, float *const *c, int64_t at,
                      const bool add, int64_t ahead)
{
    float32x4_t s[ROWS][8];
    TILE_UNROLL for (int r = 0; r < mr; r++) TILE_UNROLL for (int v = 0; v < nv; v++) s[r][v] =
        add ? vld1q_f32(c[r] + at + 4 * v) : vdupq_n_f32(0.0f);
    for (int l = 0; l < n_l; l += 2, b += ldb) {
        if (ahead != 0)
            TILE_UNROLL for (int v = 0; v < nv; v += 4)
                __builtin_prefetch((const char *)((uintptr_t)(b + 4 * v) + (uintptr_t)ahead), 0, 2);
        TILE_UNROLL for (int half = 0; half < 2; half++)
        {
            float32x4_t x[8];
            TILE_UNROLL for (int v = 0; v < nv; v++) x[v] = of_pair(half, b + 4 * v);
            TILE_UNROLL for (int r = 0; r < mr; r++)
            {
                float y = tile_input(a + r * lda + l + half);
                TILE_UNROLL for (int v = 0; v < nv; v++) s[r][v] = tile_fma(y, x[v], s[r][v]);
            }
        }
    }
    TILE_UNROLL for (int r = 0; r < mr; r++) TILE_UNROLL for (int v = 0; v < nv; v++)
        vst1q_f32(c[r] + at + 4 * v, s[r][v]);
}

/* n columns, a multiple of 16; enough sums at once to hide the latency of fma. */
TILE_INLINE void sums_row(const int mr, const int nv, int n, const float *a, const int64_t lda,
                          const uint32_t *b, int64_t ldb, int n_l, float *const *c, const bool add,
                          int64_t ahead)
{
    int at = 0;
    for (; at + 4 * nv <= n; at += 4 * nv)
        sums(mr, nv, a, lda, b + at, ldb, n_l, c, at, add, ahead);
    for (; nv > 4 && at < n; at += 16) sums(mr, 4, a, lda, b + at, ldb, n_l, c, at, add, ahead);
}

TILE_INLINE void sums_all(int n_row, int n, const float *a, const int64_t lda, const uint32_t *b,
                          int64_t ldb, int n_l, float *const *c, const bool add, int64_t ahead)
{
    switch (n_row) {
    case 1:
        sums_row(1, 8, n, a, lda, b, ldb, n_l, c, add, ahead);
        break;
    case 2:
        sums_row(2, 8, n, a, lda, b, ldb, n_l, c, add, ahead);
        break;
    case 3:
        sums_row(3, 4, n, a, lda, b, ldb, n_l, c, add, ahead);
        break;
    case 4:
        sums_row(4, 4, n, a, lda, b, ldb, n_l, c, add, ahead);
        break;
    case 5:
        sums_row(5, 4, n, a, lda, b, ldb, n_l, c, add, ahead);
        break;
    case 6:
        sums_row(6, 4, n, a, lda, b, ldb, n_l, c, add, ahead);
        break;
    default:
        break;
    }
}

static void scores_bf16(const float *q, int n_row, const ap_kv_head *h, int head_dim, float *s,
                        int64_t ahead)
{
    float *c[ROWS];
    for (int r = 0; r < n_row; r++) c[r] = s + r * AP_PAGE;
    sums_all(n_row, AP_PAGE, q, AP_Q_STRIDE, (const uint32_t *)(const void *)h->k, AP_PAGE,
             head_dim, c, false, ahead);
}

/* o[d] = fma(p[j], v[j][d], o[d]) for the few keys [lo, hi) that not all rows see. */
static void few_bf16(const float *p, int lo, int hi, const uint32_t *v, int head_dim, float *o)
{
    for (int j = lo; j < hi; j++)
        for (int d = 0; d < head_dim; d += 4) {
            const uint32_t *at = v + (int64_t)(j / 2) * head_dim + d;
            float32x4_t x = j & 1 ? of_pair(1, at) : of_pair(0, at);
            vst1q_f32(o + d, vfmaq_n_f32(vld1q_f32(o + d), x, p[j]));
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

/* Input k of each four: 16 columns of bytes (w) times a lane of each row. */
#define STEP(k)                                                                                    \
    do {                                                                                           \
        int8x16_t w = vreinterpretq_s8_u8(veorq_u8(b4.val[k], vdupq_n_u8(flip)));                  \
        int16x8_t lo = vmovl_s8(vget_low_s8(w)), hi = vmovl_high_s8(w);                            \
        TILE_UNROLL for (int r = 0; r < mr; r++)                                                   \
        {                                                                                          \
            sum[r][0] = vmlal_lane_s16(sum[r][0], vget_low_s16(lo), x[r], k);                      \
            sum[r][1] = vmlal_high_lane_s16(sum[r][1], lo, x[r], k);                               \
            sum[r][2] = vmlal_lane_s16(sum[r][2], vget_low_s16(hi), x[r], k);                      \
            sum[r][3] = vmlal_high_lane_s16(sum[r][3], hi, x[r], k);                               \
        }                                                                                          \
    } while (0)

/* sum[r][0..3]: 16 columns of the dot of a[r*lda ..] with the bytes of b, 4 for each column in each
 * of n lines, `flip` first. */
TILE_INLINE void dots(const int mr, const uint8_t flip, const int16_t *a, const int64_t lda,
                      const uint8_t *b, int n, int64_t ahead, int32x4_t (*sum)[4])
{
    TILE_UNROLL for (int r = 0; r < mr; r++) TILE_UNROLL for (int v = 0; v < 4; v++) sum[r][v] =
        vdupq_n_s32(0);
    for (int l = 0; l < n; l++, b += 64) {
        uint8x16x4_t b4 = vld4q_u8(b);
        int16x4_t x[Q8_ROWS];
        if (ahead != 0) __builtin_prefetch((const char *)((uintptr_t)b + (uintptr_t)ahead), 0, 2);
        TILE_UNROLL for (int r = 0; r < mr; r++) x[r] = vld1_s16(a + r * lda + 4 * l);
        STEP(0);
        STEP(1);
        STEP(2);
        STEP(3);
    }
}

TILE_INLINE void scores8(const int mr, const query8 *q, const ap_kv_head *h, int head_dim, float *s,
                         int64_t ahead)
{
    const int64_t ldq = AP_Q_STRIDE * 2;
    const uint8_t *k = h->k;
    for (int j = 0; j < AP_PAGE; j += 16) {
        float32x4_t acc[Q8_ROWS][4];
        TILE_UNROLL for (int r = 0; r < mr; r++) TILE_UNROLL for (int v = 0; v < 4; v++) acc[r][v] =
            vdupq_n_f32(0.0f);
        for (int d = 0; d < head_dim; d += AP_KV_BLOCK) {
            int n = head_dim - d < AP_KV_BLOCK ? head_dim - d : AP_KV_BLOCK;
            const float *unit = h->ks + d / AP_KV_BLOCK * AP_PAGE + j;
            int32x4_t sum[Q8_ROWS][4];
            dots(mr, 0x80, q->x + d, ldq, k, n / 4, ahead, sum);
            k += n * 16;
            TILE_UNROLL for (int r = 0; r < mr; r++) TILE_UNROLL for (int v = 0; v < 4; v++)
                acc[r][v] =
                    ap_fma_neon(vcvtq_f32_s32(sum[r][v]), vld1q_f32(unit + 4 * v), acc[r][v]);
        }
        TILE_UNROLL for (int r = 0; r < mr; r++) TILE_UNROLL for (int v = 0; v < 4; v++) vst1q_f32(
            s + r * AP_PAGE + j + 4 * v, vmulq_n_f32(acc[r][v], *(&q->unit + r * AP_Q_STRIDE)));
    }
}

TILE_INLINE void values8(const int mr, const int16_t *w, const float *unit, const ap_kv_head *h,
                         int head_dim, float *const *o, int64_t ahead)
{
    const uint8_t *v = h->v;
    for (int d = 0; d < head_dim; d += 16, v += AP_PAGE * 16) {
        int32x4_t sum[Q8_ROWS][4];
        dots(mr, 0, w, AP_PAGE, v, AP_PAGE / 4, ahead, sum);
        TILE_UNROLL for (int r = 0; r < mr; r++) TILE_UNROLL for (int i = 0; i < 4; i++)
        {
            float *at = o[r] + d + 4 * i;
            vst1q_f32(at, vfmaq_n_f32(vld1q_f32(at), vcvtq_f32_s32(sum[r][i]), unit[r]));
        }
    }
}

#include "kern/cpu/micro/attn_q8_body.h"

const ap_micro_attn ap_attn_neon = {
    .rms = rms_neon,
    .scale = scale_neon,
    .rotate = rotate_neon,
    .softmax = softmax_neon,
    .merge = merge_neon,
    .f32 = {.rows = ROWS, .query = query_neon, .scores = scores_f32, .values = values_f32},
    .bf16 = {.rows = ROWS, .query = query_neon, .scores = scores_bf16, .values = values_bf16},
    .q8 = {.rows = Q8_ROWS, .query = query_q8, .scores = scores_q8, .values = values_q8},
};
