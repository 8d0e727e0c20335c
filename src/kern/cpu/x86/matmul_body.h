/* matmul_body.h - products with packed weights for one vector width; included by matmul_avx2.c and
 * matmul_avx512.c, which define beforehand
 *   vec, HALVES        a vector of AP_PANEL / HALVES floats
 *   vec_zero, vec_load, vec_store, vec_add, vec_fma(a, b, c) = a*b + c, vec_all(p) = *p everywhere
 *   w_f32, w_f16       (panel + offset, half): the weights of one input
 *   w_even, w_odd      (panel + offset, half): of the first and second input of a bf16 pair
 *   FULL_ROWS, FULL_PANELS  the shape of a full tile (sums that fit the registers)
 *
 * Every sum is one register, so its order over k is the plain one; rows and panels only give the
 * processor independent sums to work on. */
#include "kern/cpu/micro_matmul.h"

#define INLINE static inline __attribute__((always_inline))
#define WIDE 4 /* most panels of a block */
#define UNROLL _Pragma("GCC unroll 16")

/* The input rows. A tile's constant stride becomes address displacements. */
typedef struct rows_in {
    const float *tile; /* AP_XPACK_LD apart */
    const float *few[AP_FEW_ROWS];
} rows_in;

/* One input (or the even or odd one of a pair) into all sums. */
#define STEP(load, offset, input)                                                                  \
    do {                                                                                           \
        vec v[WIDE * HALVES];                                                                       \
        UNROLL for (int p = 0; p < NP; p++)                                                        \
            UNROLL for (int h = 0; h < HALVES; h++)                                                \
                v[p * HALVES + h] = load(w + (size_t)p * pb + (offset), h);                        \
        UNROLL for (int r = 0; r < NR; r++) {                                                      \
            const float *at_r = many ? x.tile + r * AP_XPACK_LD : x.few[r < AP_FEW_ROWS ? r : 0];      \
            vec xr = vec_all(at_r + (input));                                              \
            UNROLL for (int c = 0; c < NP * HALVES; c++) s[r][c] = vec_fma(xr, v[c], s[r][c]);     \
        }                                                                                          \
    } while (0)

/* NR rows x NP panels; t, NR, NP, many (x is a tile) and ahead (bytes to prefetch in front of the
 * weights, 0 = none) are constants at every call. */
INLINE void block(ap_dtype t, int NR, int NP, bool many, int ahead, rows_in x, const uint8_t *w, size_t pb,
                  int k, float *out, int ld, bool add)
{
    vec s[FULL_ROWS][WIDE * HALVES];
    UNROLL for (int r = 0; r < NR; r++)
        UNROLL for (int c = 0; c < NP * HALVES; c++) s[r][c] = vec_zero();
    if (t == AP_BF16) {
        size_t at = 0;
        int i = 0;
        for (; i + 2 <= k; i += 2, at += 64) {
            if (ahead)
                UNROLL for (int p = 0; p < NP; p++)
                    __builtin_prefetch(w + (size_t)p * pb + at + (size_t)ahead);
            STEP(w_even, at, i);
            STEP(w_odd, at, i + 1);
        }
        if (i < k) STEP(w_even, at, i);
    } else if (t == AP_F16) {
        for (int i = 0; i < k; i++) {
            if (ahead && i % 2 == 0)
                UNROLL for (int p = 0; p < NP; p++)
                    __builtin_prefetch(w + (size_t)p * pb + (size_t)i * 32 + (size_t)ahead);
            STEP(w_f16, (size_t)i * 32, i);
        }
    } else {
        for (int i = 0; i < k; i++) {
            if (ahead)
                UNROLL for (int p = 0; p < NP; p++)
                    __builtin_prefetch(w + (size_t)p * pb + (size_t)i * 64 + (size_t)ahead);
            STEP(w_f32, (size_t)i * 64, i);
        }
    }
    const int width = AP_PANEL / HALVES;
    UNROLL for (int r = 0; r < NR; r++)
        UNROLL for (int c = 0; c < NP * HALVES; c++) {
            float *o = out + r * ld + c * width;
            vec_store(o, add ? vec_add(vec_load(o), s[r][c]) : s[r][c]);
        }
}

/* ---------------------------------------------------------------- many rows */

typedef void (*tile_block)(const float *x, const uint8_t *w, size_t pb, int k, float *out, int ld,
                           bool add);

#define TILE(T, NR, NP)                                                                            \
    static void tile_##T##_##NR##_##NP(const float *x, const uint8_t *w, size_t pb, int k,         \
                                       float *out, int ld, bool add)                               \
    {                                                                                              \
        block(T, NR, NP, true, AHEAD, (rows_in){.tile = x}, w, pb, k, out, ld, add);                   \
    }
#define TILES(NR, NP) TILE(AP_F32, NR, NP) TILE(AP_F16, NR, NP) TILE(AP_BF16, NR, NP)
FOR_TILE_ROWS(TILES, 1)
#if FULL_PANELS == 2
FOR_TILE_ROWS(TILES, 2)
#endif

/* by type, panels - 1, rows - 1 */
#define F32_ENTRY(NR, NP) tile_AP_F32_##NR##_##NP,
#define F16_ENTRY(NR, NP) tile_AP_F16_##NR##_##NP,
#define BF16_ENTRY(NR, NP) tile_AP_BF16_##NR##_##NP,
static const tile_block tile_blocks[3][FULL_PANELS][FULL_ROWS] = {
#if FULL_PANELS == 2
    {{FOR_TILE_ROWS(F32_ENTRY, 1)}, {FOR_TILE_ROWS(F32_ENTRY, 2)}},
    {{FOR_TILE_ROWS(F16_ENTRY, 1)}, {FOR_TILE_ROWS(F16_ENTRY, 2)}},
    {{FOR_TILE_ROWS(BF16_ENTRY, 1)}, {FOR_TILE_ROWS(BF16_ENTRY, 2)}},
#else
    {{FOR_TILE_ROWS(F32_ENTRY, 1)}},
    {{FOR_TILE_ROWS(F16_ENTRY, 1)}},
    {{FOR_TILE_ROWS(BF16_ENTRY, 1)}},
#endif
};

static void tiles(ap_dtype t, const float *x, int rows, const uint8_t *w, size_t pb, int n_panel,
                  int k, float *out, int ld, bool add)
{
    for (int p = 0; p < n_panel;) {
        int np = n_panel - p < FULL_PANELS ? n_panel - p : FULL_PANELS;
        tile_blocks[t][np - 1][rows - 1](x, w + (size_t)p * pb, pb, k, out + p * AP_PANEL, ld, add);
        p += np;
    }
}

/* ---------------------------------------------------------------- few rows */

typedef void (*few_block)(const float *const *x, const uint8_t *w, size_t pb, int k, float *out,
                          int ld, bool add);

#define FEW(name, T, NR, NP)                                                                       \
    static void name##_##T##_##NR(const float *const *x, const uint8_t *w, size_t pb, int k,       \
                                  float *out, int ld, bool add)                                    \
    {                                                                                              \
        rows_in in = {0};                                                                          \
        for (int r = 0; r < NR; r++) in.few[r] = x[r];                                             \
        block(T, NR, NP, false, AHEAD, in, w, pb, k, out, ld, add);                            \
    }
#define FEWS(name, T, N1, N2, N3, N4)                                                              \
    FEW(name, T, 1, N1) FEW(name, T, 2, N2) FEW(name, T, 3, N3) FEW(name, T, 4, N4)
FEWS(wide, AP_F32, FEW_PANELS_1, FEW_PANELS_2, FEW_PANELS_3, FEW_PANELS_4)
FEWS(wide, AP_F16, FEW_PANELS_1, FEW_PANELS_2, FEW_PANELS_3, FEW_PANELS_4)
FEWS(wide, AP_BF16, FEW_PANELS_1, FEW_PANELS_2, FEW_PANELS_3, FEW_PANELS_4)
FEWS(one, AP_F32, 1, 1, 1, 1)
FEWS(one, AP_F16, 1, 1, 1, 1)
FEWS(one, AP_BF16, 1, 1, 1, 1)

#define BY_ROWS(name, T) {name##_##T##_1, name##_##T##_2, name##_##T##_3, name##_##T##_4}
static const int few_panels[AP_FEW_ROWS] = {FEW_PANELS_1, FEW_PANELS_2, FEW_PANELS_3, FEW_PANELS_4};
static const few_block few_wide[3][AP_FEW_ROWS] = {
    BY_ROWS(wide, AP_F32), BY_ROWS(wide, AP_F16), BY_ROWS(wide, AP_BF16)};
static const few_block few_one[3][AP_FEW_ROWS] = {
    BY_ROWS(one, AP_F32), BY_ROWS(one, AP_F16), BY_ROWS(one, AP_BF16)};

static void fews(ap_dtype t, const float *const *x, int rows, const uint8_t *w, size_t pb,
                 int n_panel, int k, float *out, int ld, bool add)
{
    int p = 0, wide = few_panels[rows - 1];
    for (; p + wide <= n_panel; p += wide)
        few_wide[t][rows - 1](x, w + (size_t)p * pb, pb, k, out + p * AP_PANEL, ld, add);
    for (; p < n_panel; p++)
        few_one[t][rows - 1](x, w + (size_t)p * pb, pb, k, out + p * AP_PANEL, ld, add);
}

#define ENTRY(name, T)                                                                             \
    static void few_##name(const float *const *x, int rows, const uint8_t *w, size_t pb,           \
                           int n_panel, int k, float *out, int ld, bool add)                       \
    {                                                                                              \
        fews(T, x, rows, w, pb, n_panel, k, out, ld, add);                                         \
    }                                                                                              \
    static void tile_##name(const float *x, int rows, const uint8_t *w, size_t pb, int n_panel,    \
                            int k, float *out, int ld, bool add)                                   \
    {                                                                                              \
        tiles(T, x, rows, w, pb, n_panel, k, out, ld, add);                                        \
    }
ENTRY(f32, AP_F32)
ENTRY(f16, AP_F16)
ENTRY(bf16, AP_BF16)

#define MATMUL_TABLE                                                                               \
    {                                                                                              \
        .tile_rows = FULL_ROWS, .few_panels = FEW_PANELS_1,                                        \
        .few = {few_f32, few_f16, few_bf16}, .tile = {tile_f32, tile_f16, tile_bf16},              \
    }
