/* qdot_dot.c - weights in integer form with dot products of bytes: 4 rows x 4 inputs per sdot, X as
 * a lane. X of 15 bits is 128 hi + lo, two planes of bytes whose sums stay apart until the end of a
 * group. */
#include "kern/cpu/arm/qdot_dot.h"

#define AHEAD 1024

static void quantise(const float *x, int n, ap_qx *out)
{
    for (int i = 0; i < n; i++, x += AP_Q_BLOCK, out++) {
        int16x8_t w[4];
        if (!round_inputs(AP_Q_HIGH, x, w, out)) continue;
        UNROLL
        for (int j = 0; j < 4; j++) {
            int16x8_t hi = vshrq_n_s16(vaddq_s16(w[j], vdupq_n_s16(64)), 7);
            int8x8_t lo = vmovn_s16(vsubq_s16(w[j], vshlq_n_s16(hi, 7)));
            vst1q_s8(out->q + 16 * j, vcombine_s8(vmovn_s16(hi), lo));
        }
    }
}

static void quantise8(const float *x, int n, ap_qx *out)
{
    for (int i = 0; i < n; i++, x += AP_Q_BLOCK, out++) {
        int16x8_t w[4];
        if (!round_inputs(AP_Q_FAST, x, w, out)) continue;
        vst1q_s8(out->q, vcombine_s8(vmovn_s16(w[0]), vmovn_s16(w[1])));
        vst1q_s8(out->q + 16, vcombine_s8(vmovn_s16(w[2]), vmovn_s16(w[3])));
    }
}

/* ------------------------------------------------------------------ products */

/* sum + the products of inputs 8i .. 8i+7 (v: two vectors) with X. */
#define HIGH_STEP(i)                                                                               \
    x = vld1q_s8(at->q + 16 * (i));                                                                \
    hi = vdotq_laneq_s32(hi, v[2 * (i)], x, 0);                                                    \
    lo = vdotq_laneq_s32(lo, v[2 * (i)], x, 2);                                                    \
    hi = vdotq_laneq_s32(hi, v[2 * (i) + 1], x, 1);                                                \
    lo = vdotq_laneq_s32(lo, v[2 * (i) + 1], x, 3);
#define FAST_STEP(i)                                                                               \
    x = vld1q_s8(at->q + 16 * (i));                                                                \
    hi = vdotq_laneq_s32(hi, v[4 * (i)], x, 0);                                                    \
    lo = vdotq_laneq_s32(lo, v[4 * (i) + 1], x, 1);                                                \
    hi = vdotq_laneq_s32(hi, v[4 * (i) + 2], x, 2);                                                \
    lo = vdotq_laneq_s32(lo, v[4 * (i) + 3], x, 3);

/* The sum of half a block, on top of from. */
INLINE int32x4_t half_dot(bool high, int h, const int8x16_t v[8], const ap_qx *at, int32_t from)
{
    int32x4_t hi = vdupq_n_s32(0), lo = vdupq_n_s32(from);
    int8x16_t x;
    if (high) {
        if (h == 0) {
            HIGH_STEP(0) HIGH_STEP(1)
        } else {
            HIGH_STEP(2) HIGH_STEP(3)
        }
        return vmlaq_n_s32(lo, hi, 128);
    }
    if (h == 0) {
        FAST_STEP(0)
    } else {
        FAST_STEP(1)
    }
    return vaddq_s32(lo, hi);
}

INLINE int32x4_t whole_dot(bool high, const int8x16_t v[8], const ap_qx *at, int32_t from)
{
    int32x4_t hi = vdupq_n_s32(0), lo = vdupq_n_s32(from);
    int8x16_t x;
    if (high) {
        HIGH_STEP(0) HIGH_STEP(1) HIGH_STEP(2) HIGH_STEP(3) return vmlaq_n_s32(lo, hi, 128);
    }
    FAST_STEP(0) FAST_STEP(1) return vaddq_s32(lo, hi);
}

/* acc + a block for 4 rows of weights; times: what the sums of X start the products with. */
INLINE float32x4_t block(bool high, bool halves, bool affine, const int8x16_t v[8], const float *s,
                         const float *b, const ap_qx *x, int32_t times, float32x4_t acc)
{
    if (halves) {
        acc = scaled(half_dot(high, 0, v, x, times * x->sum16[0]), vld1q_f32(s), x->d, acc);
        acc = scaled(half_dot(high, 1, v, x, times * x->sum16[1]), vld1q_f32(s + AP_PANEL), x->d,
                     acc);
        if (!affine) return acc;
        acc = vfmaq_n_f32(acc, vld1q_f32(b), x->xs16[0]);
        return vfmaq_n_f32(acc, vld1q_f32(b + AP_PANEL), x->xs16[1]);
    }
    acc = scaled(whole_dot(high, v, x, times * x->sum), vld1q_f32(s), x->d, acc);
    return affine ? vfmaq_n_f32(acc, vld1q_f32(b), x->xs) : acc;
}

/* ------------------------------------------------------------------ few rows */

INLINE void few_panel(bool high, int kind, bool halves, int R, ap_qform f, const uint8_t *panel,
                      int cols, const ap_qx *const *x, float *out, int ld)
{
    _Alignas(64) float s[AP_Q_K_BLOCKS * AP_Q_MAX_GROUPS * AP_PANEL];
    _Alignas(64) float b[AP_Q_K_BLOCKS * AP_Q_MAX_GROUPS * AP_PANEL];
    float32x4_t acc[2][4];
    int blocks = cols / AP_Q_BLOCK, wide = halves ? 32 : 16;
    int32_t mz = -(wide_kind(kind) ? f.zero - 128 : f.zero);
    size_t step = ap_q_block_bytes(f);
    const uint8_t *p = panel;
    uint8x16_t table = table_of(f);
    UNROLL
    for (int r = 0; r < R; r++) UNROLL
    for (int h = 0; h < 4; h++) acc[r][h] = vdupq_n_f32(0.0f);
    for (int b0 = 0; b0 < blocks; b0 += AP_Q_K_BLOCKS) {
        int n = blocks - b0 < AP_Q_K_BLOCKS ? blocks - b0 : AP_Q_K_BLOCKS;
        load_scales(f, panel, cols, b0, n, s, b);
        for (int i = 0; i < n; i++, p += step) {
            const float *si = s + i * wide, *bi = b + i * wide;
            for (size_t a = 0; a < step; a += 64) __builtin_prefetch(p + AHEAD + a);
            UNROLL
            for (int h = 0; h < 4; h++) {
                int8x16_t v[8];
                load_quarter(kind, p, h, table, v);
                UNROLL
                for (int r = 0; r < R; r++)
                    acc[r][h] = block(high, halves, f.affine, v, si + 4 * h, bi + 4 * h,
                                      &x[r][b0 + i], mz, acc[r][h]);
            }
        }
    }
    UNROLL
    for (int r = 0; r < R; r++) UNROLL
    for (int h = 0; h < 4; h++) vst1q_f32(out + r * ld + 4 * h, acc[r][h]);
}

/* Two rows at a time: the second pass finds the panel in the cache. */
#define FEW(name, high, kind, halves)                                                              \
    static void few_##name(ap_qform f, const uint8_t *panel, int cols, const ap_qx *const *x,      \
                           int rows, float *out, int ld)                                           \
    {                                                                                              \
        for (; rows >= 2; rows -= 2, x += 2, out += 2 * ld)                                        \
            few_panel(high, kind, halves, 2, f, panel, cols, x, out, ld);                          \
        if (rows) few_panel(high, kind, halves, 1, f, panel, cols, x, out, ld);                    \
    }
/* clang-format off */
#define FEWS(name, kind, halves)                                                                   \
    FEW(name, true, kind, halves) FEW(name##_x8, false, kind, halves)
/* clang-format on */
FEWS(table, TABLE, false)
FEWS(table_h, TABLE, true)
FEWS(2, 2, false)
FEWS(2_h, 2, true)
FEWS(3, 3, false)
FEWS(3_h, 3, true)
FEWS(table3, TABLE3, false)
FEWS(table3_h, TABLE3, true)
FEWS(4, 4, false)
FEWS(5, 5, false)
FEWS(6, 6, false)
FEWS(6_h, 6, true)
FEWS(8, 8, false)

typedef void (*few_fn)(ap_qform f, const uint8_t *panel, int cols, const ap_qx *const *x, int rows,
                       float *out, int ld);
/* The forms there are. */
static const few_fn fews[2][9][2] = {{[TABLE] = {few_table, few_table_h},
                                      [2] = {few_2, few_2_h},
                                      [3] = {few_3, few_3_h},
                                      [TABLE3] = {few_table3, few_table3_h},
                                      [4] = {few_4},
                                      [5] = {few_5},
                                      [6] = {few_6, few_6_h},
                                      [8] = {few_8}},
                                     {[TABLE] = {few_table_x8, few_table_h_x8},
                                      [2] = {few_2_x8, few_2_h_x8},
                                      [3] = {few_3_x8, few_3_h_x8},
                                      [TABLE3] = {few_table3_x8, few_table3_h_x8},
                                      [4] = {few_4_x8},
                                      [5] = {few_5_x8},
                                      [6] = {few_6_x8, few_6_h_x8},
                                      [8] = {few_8_x8}}};

static void few(ap_qform f, const uint8_t *panel, int cols, const ap_qx *const *x, int rows,
                float *out, int ld)
{
    fews[0][kind_of(f)][ap_q_halves(f)](f, panel, cols, x, rows, out, ld);
}

static void few8(ap_qform f, const uint8_t *panel, int cols, const ap_qx *const *x, int rows,
                 float *out, int ld)
{
    fews[1][kind_of(f)][ap_q_halves(f)](f, panel, cols, x, rows, out, ld);
}

/* ------------------------------------------------------------------ tiles */

static void unpack(ap_qform f, const uint8_t *panel, int cols, int b0, int n, ap_qpanel *out)
{
    unpack_panel(false, f, panel, cols, b0, n, out);
}

/* R rows x 4 rows of weights, all blocks. */
INLINE void tile_quarter(bool high, bool halves, bool affine, int R, int times, const uint8_t *q,
                         const float *s, const float *b, const ap_qx *const *x, int n, float *out,
                         int64_t ld, bool add)
{
    const int wide = halves ? 32 : 16;
    float32x4_t acc[3];
    UNROLL
    for (int r = 0; r < R; r++) acc[r] = add ? vld1q_f32(out + r * ld) : vdupq_n_f32(0.0f);
    for (int i = 0; i < n; i++, q += 512, s += wide, b += wide) {
        int8x16_t v[8];
        UNROLL
        for (int j = 0; j < 8; j++) v[j] = vreinterpretq_s8_u8(vld1q_u8(q + 16 * j));
        UNROLL
        for (int r = 0; r < R; r++)
            acc[r] = block(high, halves, affine, v, s, b, &x[r][i], times, acc[r]);
    }
    UNROLL
    for (int r = 0; r < R; r++) vst1q_f32(out + r * ld, acc[r]);
}

INLINE void tile_form(bool high, bool halves, bool affine, int times, const ap_qpanel *w,
                      int n_panel, const ap_qx *const *x, int rows, int n, float *out, int64_t ld,
                      bool add)
{
    for (int c = 0; c < 4 * n_panel; c++) {
        const ap_qpanel *p = w + c / 4;
        const uint8_t *q = p->q + c % 4 * 128;
        const float *s = p->s + c % 4 * 4, *b = p->b + c % 4 * 4;
        for (int r = 0; r < rows; r += 3) {
            float *o = out + r * ld + 4 * c;
            if (rows - r >= 3)
                tile_quarter(high, halves, affine, 3, times, q, s, b, x + r, n, o, ld, add);
            else if (rows - r == 2)
                tile_quarter(high, halves, affine, 2, times, q, s, b, x + r, n, o, ld, add);
            else
                tile_quarter(high, halves, affine, 1, times, q, s, b, x + r, n, o, ld, add);
        }
    }
}

AP_Q_TILE_FORMS(tile, true)
AP_Q_TILE_FORMS(tile8, false)

const ap_micro_qdot ap_qdot_dot = {.fast = &ap_qdot8_dot,
                                   .k_blocks = AP_Q_K_BLOCKS,
                                   .tile_rows = AP_Q_TILE,
                                   .quantise = quantise,
                                   .few = few,
                                   .unpack = unpack,
                                   .tile = tile};
const ap_micro_qdot ap_qdot8_dot = {.k_blocks = AP_Q_K_BLOCKS,
                                    .tile_rows = AP_Q_TILE,
                                    .quantise = quantise8,
                                    .few = few8,
                                    .unpack = unpack,
                                    .tile = tile8};
