/* qdot_i8mm.c - tiles of weights in integer form with matrix products of bytes: smmla multiplies 2
 * rows of weights x 8 inputs with 2 rows of inputs, twice the work of sdot. Inputs and the kernel
 * for few rows are those of the level dot: rearranging weights would cost what it saves. */
#include "kern/cpu/arm/qdot_dot.h"

#define PAIRS (AP_Q_TILE / 2)

/* A block of two rows side by side. Lanes of numbers: row 0, 1, 0, 1. */
typedef struct pair {
    int8x16_t hi[4], lo[4]; /* inputs 8j .. 8j+7 of both; FAST: X in lo */
    int32x4_t sum[2];       /* what the products start from; of either half with groups of 16 */
    float32x4_t xs[2], d;
} pair;

INLINE float32x4_t two_floats(float a, float b)
{
    return vcombine_f32(vset_lane_f32(b, vdup_n_f32(a), 1), vset_lane_f32(b, vdup_n_f32(a), 1));
}
INLINE int32x4_t two_ints(int32_t a, int32_t b)
{
    return vcombine_s32(vset_lane_s32(b, vdup_n_s32(a), 1), vset_lane_s32(b, vdup_n_s32(a), 1));
}

INLINE int8x16_t both(bool second, int8x16_t a, int8x16_t b)
{
    int64x2_t x = vreinterpretq_s64_s8(a), y = vreinterpretq_s64_s8(b);
    return vreinterpretq_s8_s64(second ? vzip2q_s64(x, y) : vzip1q_s64(x, y));
}

INLINE void join(bool high, bool halves, int times, const ap_qx *x, const ap_qx *y, pair *to)
{
    for (int j = 0; j < 4; j++) {
        int from = high ? 16 * j : j / 2 * 16;
        int8x16_t a = vld1q_s8(x->q + from), b = vld1q_s8(y->q + from);
        if (high) to->hi[j] = both(false, a, b);
        to->lo[j] = both(high || j % 2, a, b);
    }
    to->d = two_floats(x->d, y->d);
    for (int h = 0; h < 2; h++) {
        to->sum[h] = halves ? two_ints(times * x->sum16[h], times * y->sum16[h])
                            : two_ints(times * x->sum, times * y->sum);
        to->xs[h] = halves ? two_floats(x->xs16[h], y->xs16[h]) : two_floats(x->xs, y->xs);
    }
}

/* sum[2] = the products of inputs 8 from .. 8 to - 1 for rows 0, 1 and 2, 3 of weights. */
INLINE void dot(bool high, int from, int to, const int8x16_t v[8], const pair *x, int32x4_t start,
                int32x4_t sum[2])
{
    int32x4_t hi[2] = {vdupq_n_s32(0), vdupq_n_s32(0)};
    sum[0] = sum[1] = start;
    UNROLL
    for (int j = from; j < to; j++) UNROLL
    for (int g = 0; g < 2; g++) {
        if (high) hi[g] = vmmlaq_s32(hi[g], v[2 * j + g], x->hi[j]);
        sum[g] = vmmlaq_s32(sum[g], v[2 * j + g], x->lo[j]);
    }
    if (!high) return;
    UNROLL
    for (int g = 0; g < 2; g++) sum[g] = vmlaq_n_s32(sum[g], hi[g], 128);
}

INLINE float32x4_t twice(int g, float32x4_t s)
{
    return g ? vzip2q_f32(s, s) : vzip1q_f32(s, s);
}

/* acc[g] takes a block: rows 2g, 2g+1 of weights. */
INLINE void block(bool high, bool halves, bool affine, const int8x16_t v[8], const float *s,
                  const float *b, const pair *x, float32x4_t acc[2])
{
    const int n = halves ? 2 : 1;
    UNROLL
    for (int h = 0; h < n; h++) {
        int32x4_t sum[2];
        dot(high, 2 * h, halves ? 2 * h + 2 : 4, v, x, x->sum[h], sum);
        float32x4_t sh = vld1q_f32(s + AP_PANEL * h);
        UNROLL
        for (int g = 0; g < 2; g++)
            acc[g] = vfmaq_f32(acc[g], vmulq_f32(twice(g, sh), vcvtq_f32_s32(sum[g])), x->d);
    }
    if (!affine) return;
    UNROLL
    for (int h = 0; h < n; h++) {
        float32x4_t bh = vld1q_f32(b + AP_PANEL * h);
        UNROLL
        for (int g = 0; g < 2; g++) acc[g] = vfmaq_f32(acc[g], twice(g, bh), x->xs[h]);
    }
}

/* NP pairs of rows x 4 rows of weights, all blocks. */
INLINE void tile_quarter(bool high, bool halves, bool affine, int NP, const uint8_t *q,
                         const float *s, const float *b, const pair (*x)[PAIRS], int n,
                         float32x4_t (*acc)[2])
{
    const int wide = halves ? 32 : 16;
    float32x4_t a[PAIRS][2];
    UNROLL
    for (int p = 0; p < NP; p++) a[p][0] = acc[p][0], a[p][1] = acc[p][1];
    for (int i = 0; i < n; i++, q += 512, s += wide, b += wide) {
        int8x16_t v[8];
        UNROLL
        for (int j = 0; j < 8; j++) v[j] = vreinterpretq_s8_u8(vld1q_u8(q + 16 * j));
        UNROLL
        for (int p = 0; p < NP; p++) block(high, halves, affine, v, s, b, &x[i][p], a[p]);
    }
    UNROLL
    for (int p = 0; p < NP; p++) acc[p][0] = a[p][0], acc[p][1] = a[p][1];
}

INLINE void tile_form(bool high, bool halves, bool affine, int times, const ap_qpanel *w,
                      int n_panel, const ap_qx *const *x, int rows, int n, float *out, int64_t ld,
                      bool add)
{
    pair xp[AP_Q_K_BLOCKS][PAIRS];
    const int np = (rows + 1) / 2;
    for (int i = 0; i < n; i++)
        for (int p = 0; p < np; p++)
            join(high, halves, times, x[2 * p] + i, x[2 * p + 1 < rows ? 2 * p + 1 : 2 * p] + i,
                 &xp[i][p]);
    for (int c = 0; c < 4 * n_panel; c++) {
        const ap_qpanel *panel = w + c / 4;
        const uint8_t *q = panel->q + c % 4 * 128;
        const float *s = panel->s + c % 4 * 4, *b = panel->b + c % 4 * 4;
        float32x4_t acc[PAIRS][2];
        for (int p = 0; p < np; p++) {
            const float *o = out + 2 * p * ld + 4 * c;
            float32x4_t t0 = add ? vld1q_f32(o) : vdupq_n_f32(0.0f);
            float32x4_t t1 = add && 2 * p + 1 < rows ? vld1q_f32(o + ld) : t0;
            acc[p][0] = vzip1q_f32(t0, t1);
            acc[p][1] = vzip2q_f32(t0, t1);
        }
        if (np == 3)
            tile_quarter(high, halves, affine, 3, q, s, b, xp, n, acc);
        else if (np == 2)
            tile_quarter(high, halves, affine, 2, q, s, b, xp, n, acc);
        else
            tile_quarter(high, halves, affine, 1, q, s, b, xp, n, acc);
        for (int p = 0; p < np; p++) {
            float *o = out + 2 * p * ld + 4 * c;
            vst1q_f32(o, vuzp1q_f32(acc[p][0], acc[p][1]));
            if (2 * p + 1 < rows) vst1q_f32(o + ld, vuzp2q_f32(acc[p][0], acc[p][1]));
        }
    }
}

AP_Q_TILE_FORMS(tile, true)
AP_Q_TILE_FORMS(tile8, false)

static void unpack(ap_qform f, const uint8_t *panel, int cols, int b0, int n, ap_qpanel *out)
{
    unpack_panel(true, f, panel, cols, b0, n, out);
}

static void quantise(const float *x, int n, ap_qx *out)
{
    ap_qdot_dot.quantise(x, n, out);
}

static void quantise8(const float *x, int n, ap_qx *out)
{
    ap_qdot8_dot.quantise(x, n, out);
}

static void few(ap_qform f, const uint8_t *panel, int cols, const ap_qx *const *x, int rows,
                float *out, int ld)
{
    ap_qdot_dot.few(f, panel, cols, x, rows, out, ld);
}

static void few8(ap_qform f, const uint8_t *panel, int cols, const ap_qx *const *x, int rows,
                 float *out, int ld)
{
    ap_qdot8_dot.few(f, panel, cols, x, rows, out, ld);
}

const ap_micro_qdot ap_qdot_i8mm = {.fast = &ap_qdot8_i8mm,
                                    .k_blocks = AP_Q_K_BLOCKS,
                                    .tile_rows = AP_Q_TILE,
                                    .quantise = quantise,
                                    .few = few,
                                    .unpack = unpack,
                                    .tile = tile};
const ap_micro_qdot ap_qdot8_i8mm = {.k_blocks = AP_Q_K_BLOCKS,
                                     .tile_rows = AP_Q_TILE,
                                     .quantise = quantise8,
                                     .few = few8,
                                     .unpack = unpack,
                                     .tile = tile8};
