/* qdot_neon.c - weights in integer form on processors without dot products of bytes: q and X meet
 * as 16-bit numbers, 4 rows x 1 input per multiplication, X as a lane. Inputs of 8 bits are 16-bit
 * numbers here too. */
#include "kern/cpu/arm/qload_neon.h"

#define AHEAD 1024

static void quantise_to(int largest, const float *x, int n, ap_qx *out)
{
    for (int i = 0; i < n; i++, x += AP_Q_BLOCK, out++) {
        int16x8_t w[4];
        if (!round_inputs(largest, x, w, out)) continue;
        UNROLL
        for (int j = 0; j < 4; j++) vst1q_s16(out->w + 8 * j, w[j]);
    }
}

static void quantise(const float *x, int n, ap_qx *out)
{
    quantise_to(AP_Q_HIGH, x, n, out);
}

static void quantise8(const float *x, int n, ap_qx *out)
{
    quantise_to(AP_Q_FAST, x, n, out);
}

/* ------------------------------------------------------------------ weights */

INLINE void unpack_blocks(int kind, uint8x16_t table, const uint8_t *p, size_t step, int n,
                          int zero, uint8_t *to)
{
    const uint8x16_t z = vdupq_n_u8((uint8_t)zero); /* 0 .. 128 */
    int16_t *q = (int16_t *)(void *)to;
    for (int i = 0; i < n; i++, p += step) UNROLL
    for (int g = 0; g < 4; g++) {
        uint8x16_t v[8];
        load_inputs(kind, p, g, table, v);
        UNROLL
        for (int k = 0; k < 8; k++, q += 16) {
            uint16x8_t lo = vsubl_u8(vget_low_u8(v[k]), vget_low_u8(z));
            vst1q_s16(q, vreinterpretq_s16_u16(lo));
            vst1q_s16(q + 8, vreinterpretq_s16_u16(vsubl_high_u8(v[k], z)));
        }
    }
}

/* To i16 [block][32][16 rows], zero taken off. */
static void unpack(ap_qform f, const uint8_t *panel, int cols, int b0, int n, ap_qpanel *out)
{
    size_t step = ap_q_block_bytes(f);
    const uint8_t *p = panel + (size_t)b0 * step;
    uint8x16_t table = table_of(f);
    load_scales(f, panel, cols, b0, n, out->s, out->b);
#define UNPACK(kind) unpack_blocks(kind, table, p, step, n, f.zero, out->q)
    BY_KIND(f, UNPACK)
}

/* ------------------------------------------------------------------ products */

/* sum[r] of 4 vectors += input k of an octet x 16 rows, whose weights are lo and hi. A macro, since
 * a lane's number must be one. */
#define STEP(k, lo, hi)                                                                            \
    do {                                                                                           \
        int16x8_t lo_ = lo, hi_ = hi;                                                              \
        UNROLL                                                                                     \
        for (int r = 0; r < R; r++) {                                                              \
            sum[r][0] = vmlal_laneq_s16(sum[r][0], vget_low_s16(lo_), xr[r], k);                   \
            sum[r][1] = vmlal_high_laneq_s16(sum[r][1], lo_, xr[r], k);                            \
            sum[r][2] = vmlal_laneq_s16(sum[r][2], vget_low_s16(hi_), xr[r], k);                   \
            sum[r][3] = vmlal_high_laneq_s16(sum[r][3], hi_, xr[r], k);                            \
        }                                                                                          \
    } while (0)
/* Loads do not pass it: compilers like to load early, and with most registers in use that spills
 * sums. */
#define IN_ORDER __asm__ volatile("" : : : "memory")
#define OCTET(LO, HI)                                                                              \
    IN_ORDER;                                                                                      \
    STEP(0, LO(0), HI(0));                                                                         \
    STEP(1, LO(1), HI(1));                                                                         \
    IN_ORDER;                                                                                      \
    STEP(2, LO(2), HI(2));                                                                         \
    STEP(3, LO(3), HI(3));                                                                         \
    IN_ORDER;                                                                                      \
    STEP(4, LO(4), HI(4));                                                                         \
    STEP(5, LO(5), HI(5));                                                                         \
    IN_ORDER;                                                                                      \
    STEP(6, LO(6), HI(6));                                                                         \
    STEP(7, LO(7), HI(7))

INLINE void start(int R, const int32_t *from, int32x4_t (*sum)[4])
{
    UNROLL
    for (int r = 0; r < R; r++) UNROLL
    for (int h = 0; h < 4; h++) sum[r][h] = vdupq_n_s32(from[r]);
}

/* acc[r][16] takes the sums of group g of a block (of 16 inputs with halves). */
INLINE void finish(int R, int32x4_t (*sum)[4], const float *s, const ap_qx *const *x, float *acc,
                   int64_t ld)
{
    UNROLL
    for (int r = 0; r < R; r++) UNROLL
    for (int h = 0; h < 4; h++) {
        float *to = acc + r * ld + 4 * h;
        vst1q_f32(to, scaled(sum[r][h], vld1q_f32(s + 4 * h), x[r]->d, vld1q_f32(to)));
    }
}

INLINE void bias(int R, bool halves, const float *b, const ap_qx *const *x, float *acc, int64_t ld)
{
    UNROLL
    for (int r = 0; r < R; r++) UNROLL
    for (int h = 0; h < 4; h++) {
        float *to = acc + r * ld + 4 * h;
        float32x4_t a = vld1q_f32(to), first = vld1q_f32(b + 4 * h);
        if (halves)
            a = vfmaq_n_f32(vfmaq_n_f32(a, first, x[r]->xs16[0]), vld1q_f32(b + AP_PANEL + 4 * h),
                            x[r]->xs16[1]);
        else
            a = vfmaq_n_f32(a, first, x[r]->xs);
        vst1q_f32(to, a);
    }
}

#define BYTES_LO(k) vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(v[k])))
#define BYTES_HI(k) vreinterpretq_s16_u16(vmovl_high_u8(v[k]))

/* One packed block and R rows. */
INLINE void few_block(int kind, bool halves, int R, const uint8_t *p, uint8x16_t table, int zero,
                      const float *s, const float *b, bool affine, const ap_qx *const *x,
                      float *acc)
{
    int32x4_t sum[2][4];
    UNROLL
    for (int g = 0; g < 4; g++) {
        uint8x16_t v[8];
        int16x8_t xr[2];
        if (g == 0 || (halves && g == 2)) {
            int32_t from[2];
            UNROLL
            for (int r = 0; r < R; r++) from[r] = -zero * (halves ? x[r]->sum16[g / 2] : x[r]->sum);
            start(R, from, sum);
        }
        load_inputs(kind, p, g, table, v);
        UNROLL
        for (int r = 0; r < R; r++) xr[r] = vld1q_s16(x[r]->w + 8 * g);
        OCTET(BYTES_LO, BYTES_HI);
        if (g == 3 || (halves && g == 1))
            finish(R, sum, s + (halves ? g / 2 * AP_PANEL : 0), x, acc, AP_PANEL);
    }
    if (affine) bias(R, halves, b, x, acc, AP_PANEL);
}

INLINE void few_panel(int kind, bool halves, int R, ap_qform f, const uint8_t *panel, int cols,
                      const ap_qx *const *x, float *out, int ld)
{
    _Alignas(64) float s[AP_Q_K_BLOCKS * AP_Q_MAX_GROUPS * AP_PANEL];
    _Alignas(64) float b[AP_Q_K_BLOCKS * AP_Q_MAX_GROUPS * AP_PANEL];
    _Alignas(64) float acc[2 * AP_PANEL] = {0};
    int blocks = cols / AP_Q_BLOCK, wide = halves ? 32 : 16;
    size_t step = ap_q_block_bytes(f);
    const uint8_t *p = panel;
    uint8x16_t table = table_of(f);
    for (int b0 = 0; b0 < blocks; b0 += AP_Q_K_BLOCKS) {
        int n = blocks - b0 < AP_Q_K_BLOCKS ? blocks - b0 : AP_Q_K_BLOCKS;
        load_scales(f, panel, cols, b0, n, s, b);
        for (int i = 0; i < n; i++, p += step) {
            const ap_qx *at[2];
            UNROLL
            for (int r = 0; r < R; r++) at[r] = &x[r][b0 + i];
            for (size_t a = 0; a < step; a += 64) __builtin_prefetch(p + AHEAD + a);
            few_block(kind, halves, R, p, table, f.zero, s + i * wide, b + i * wide, f.affine, at,
                      acc);
        }
    }
    UNROLL
    for (int r = 0; r < R; r++) memcpy(out + (size_t)r * (size_t)ld, acc + r * AP_PANEL, 64);
}

/* Two rows at a time: the second pass finds the panel in the cache. */
#define FEW(name, kind, halves)                                                                    \
    static void few_##name(ap_qform f, const uint8_t *panel, int cols, const ap_qx *const *x,      \
                           int rows, float *out, int ld)                                           \
    {                                                                                              \
        for (; rows >= 2; rows -= 2, x += 2, out += 2 * ld)                                        \
            few_panel(kind, halves, 2, f, panel, cols, x, out, ld);                                \
        if (rows) few_panel(kind, halves, 1, f, panel, cols, x, out, ld);                          \
    }
FEW(table, TABLE, false)
FEW(table_h, TABLE, true)
FEW(2, 2, false)
FEW(2_h, 2, true)
FEW(3, 3, false)
FEW(3_h, 3, true)
FEW(table3, TABLE3, false)
FEW(table3_h, TABLE3, true)
FEW(4, 4, false)
FEW(5, 5, false)
FEW(6, 6, false)
FEW(6_h, 6, true)
FEW(8, 8, false)

static void few(ap_qform f, const uint8_t *panel, int cols, const ap_qx *const *x, int rows,
                float *out, int ld)
{
    typedef void (*few_fn)(ap_qform, const uint8_t *, int, const ap_qx *const *, int, float *, int);
    static const few_fn fns[9][2] = {/* the forms there are */
                                     [TABLE] = {few_table, few_table_h},
                                     [2] = {few_2, few_2_h},
                                     [3] = {few_3, few_3_h},
                                     [TABLE3] = {few_table3, few_table3_h},
                                     [4] = {few_4},
                                     [5] = {few_5},
                                     [6] = {few_6, few_6_h},
                                     [8] = {few_8}};
    fns[kind_of(f)][ap_q_halves(f)](f, panel, cols, x, rows, out, ld);
}

#define WORDS_LO(k) vld1q_s16(q + 16 * (k))
#define WORDS_HI(k) vld1q_s16(q + 16 * (k) + 8)

/* R rows with one unpacked block; the f32 sums are in the tile. */
INLINE void tile_block(int R, bool halves, bool affine, const int16_t *q, const float *s,
                       const float *b, const ap_qx *const *x, int i, float *out, int64_t ld)
{
    static const int32_t none[3] = {0};
    const ap_qx *at[3];
    int32x4_t sum[3][4];
    UNROLL
    for (int r = 0; r < R; r++) at[r] = x[r] + i;
    UNROLL
    for (int g = 0; g < 4; g++, q += 128) {
        int16x8_t xr[3];
        if (g == 0 || (halves && g == 2)) start(R, none, sum);
        UNROLL
        for (int r = 0; r < R; r++) xr[r] = vld1q_s16(at[r]->w + 8 * g);
        OCTET(WORDS_LO, WORDS_HI);
        if (g == 3 || (halves && g == 1))
            finish(R, sum, s + (halves ? g / 2 * AP_PANEL : 0), at, out, ld);
    }
    if (affine) bias(R, halves, b, at, out, ld);
}

INLINE void tile_form(bool halves, bool affine, const ap_qpanel *w, int n_panel,
                      const ap_qx *const *x, int rows, int n, float *out, int64_t ld)
{
    const int wide = halves ? 32 : 16;
    for (int p = 0; p < n_panel; p++)
        for (int i = 0; i < n; i++)
            for (int r = 0; r < rows; r += 3) {
                const int16_t *q = (const int16_t *)(const void *)w[p].q + i * 512;
                const float *s = w[p].s + i * wide, *b = w[p].b + i * wide;
                float *o = out + r * ld + p * AP_PANEL;
                if (rows - r >= 3)
                    tile_block(3, halves, affine, q, s, b, x + r, i, o, ld);
                else if (rows - r == 2)
                    tile_block(2, halves, affine, q, s, b, x + r, i, o, ld);
                else
                    tile_block(1, halves, affine, q, s, b, x + r, i, o, ld);
            }
}

static void tile(ap_qform f, const ap_qpanel *w, int n_panel, const ap_qx *const *x, int rows,
                 int n, float *out, int ld, bool add)
{
    for (int r = 0; r < rows && !add; r++)
        memset(out + (size_t)r * (size_t)ld, 0, (size_t)n_panel * AP_PANEL * sizeof *out);
    if (ap_q_halves(f)) {
        if (f.affine)
            tile_form(true, true, w, n_panel, x, rows, n, out, ld);
        else
            tile_form(true, false, w, n_panel, x, rows, n, out, ld);
    } else if (f.affine) {
        tile_form(false, true, w, n_panel, x, rows, n, out, ld);
    } else {
        tile_form(false, false, w, n_panel, x, rows, n, out, ld);
    }
}

const ap_micro_qdot ap_qdot_neon = {.fast = &ap_qdot8_neon,
                                    .k_blocks = 8,
                                    .tile_rows = AP_Q_TILE,
                                    .quantise = quantise,
                                    .few = few,
                                    .unpack = unpack,
                                    .tile = tile};
const ap_micro_qdot ap_qdot8_neon = {.k_blocks = 8,
                                     .tile_rows = AP_Q_TILE,
                                     .quantise = quantise8,
                                     .few = few,
                                     .unpack = unpack,
                                     .tile = tile};
