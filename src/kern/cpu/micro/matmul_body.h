/* matmul_body.h - products with packed weights for one vector width; included by matmul_LEVEL.c,
 * which defines beforehand
 *   vec, HALVES        a vector of AP_PANEL / HALVES floats
 *   vec_zero, vec_load, vec_store, vec_add
 *   input              what holds one input: a vec of copies or, where lanes multiply, a float
 *   vec_all(p)         *p as input;  vec_fma(input, vec, c) = product + c
 *   w_f32, w_f16       (panel + offset, half): the weights of one input
 *   w_even, w_odd      (panel + offset, half): of the first and second input of a bf16 pair
 *   AHEAD              bytes to prefetch in front of each of WIDE panels
 *   FULL_ROWS, FULL_PANELS  the shape of a full tile (sums that fit the registers)
 *
 * Every sum is one register, so its order over k is the plain one; rows and panels only give the
 * processor independent sums to work on. */
#include "kern/cpu/micro/micro_matmul.h"

#define INLINE static inline __attribute__((always_inline))
#define WIDE   4 /* most panels of a block */

/* The input rows. A tile's constant stride becomes address displacements. */
typedef struct rows_in {
    const float *tile; /* AP_XPACK_LD apart */
    const float *few[AP_FEW_ROWS];
} rows_in;

typedef vec sums[FULL_ROWS][WIDE * HALVES];
typedef vec (*load_fn)(const uint8_t *w, int half);

/* Input i (w: its weights in the first panel) into all sums. */
INLINE void step(sums s, load_fn load, int NR, int NP, bool many, const rows_in *x, int i,
                 const uint8_t *w, size_t pb)
{
    vec v[WIDE * HALVES];
#pragma GCC unroll 16
    for (int c = 0; c < NP * HALVES; c++) v[c] = load(w + (size_t)(c / HALVES) * pb, c % HALVES);
#pragma GCC unroll 16
    for (int r = 0; r < NR; r++) {
        const float *row = many ? x->tile + r * AP_XPACK_LD : x->few[r < AP_FEW_ROWS ? r : 0];
        input xr = vec_all(row + i);
#pragma GCC unroll 16
        for (int c = 0; c < NP * HALVES; c++) s[r][c] = vec_fma(xr, v[c], s[r][c]);
    }
}

/* The fewer panels run side by side, the sooner the next bytes of each are wanted. */
INLINE void prefetch(const uint8_t *w, size_t pb, int NP)
{
    const size_t ahead = NP < WIDE ? 2 * AHEAD : AHEAD;
#pragma GCC unroll 16
    for (int p = 0; p < NP; p++) __builtin_prefetch(w + (size_t)p * pb + ahead);
}

/* NR rows x NP panels; t, NR, NP and many (x is a tile) are constants at every call. */
INLINE void block(ap_dtype t, int NR, int NP, bool many, const rows_in *x, const uint8_t *w,
                  size_t pb, int k, float *out, int ld, bool add)
{
    const int width = AP_PANEL / HALVES;
    sums s;
#pragma GCC unroll 16
    for (int r = 0; r < NR; r++)
#pragma GCC unroll 16
        for (int c = 0; c < NP * HALVES; c++) s[r][c] = vec_zero();
    if (t == AP_BF16) {
        for (int i = 0; i + 2 <= k; i += 2, w += 64) {
            prefetch(w, pb, NP);
            step(s, w_even, NR, NP, many, x, i, w, pb);
            step(s, w_odd, NR, NP, many, x, i + 1, w, pb);
        }
        if (k % 2) step(s, w_even, NR, NP, many, x, k - 1, w, pb);
    } else if (t == AP_F16) {
        for (int i = 0; i < k; i++, w += 32) {
            if (i % 2 == 0) prefetch(w, pb, NP);
            step(s, w_f16, NR, NP, many, x, i, w, pb);
        }
    } else {
        for (int i = 0; i < k; i++, w += 64) {
            prefetch(w, pb, NP);
            step(s, w_f32, NR, NP, many, x, i, w, pb);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < NR; r++)
#pragma GCC unroll 16
        for (int c = 0; c < NP * HALVES; c++) {
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
        const rows_in in = {.tile = x};                                                            \
        block(T, NR, NP, true, &in, w, pb, k, out, ld, add);                                       \
    }
#define TILES(NR, NP) TILE(AP_F32, NR, NP) TILE(AP_F16, NR, NP) TILE(AP_BF16, NR, NP)
FOR_TILE_ROWS(TILES, 1)
#if FULL_PANELS == 2
FOR_TILE_ROWS(TILES, 2)
#endif

/* by type, panels - 1, rows - 1 */
#define F32_ENTRY(NR, NP)  tile_AP_F32_##NR##_##NP,
#define F16_ENTRY(NR, NP)  tile_AP_F16_##NR##_##NP,
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
        block(T, NR, NP, false, &in, w, pb, k, out, ld, add);                                      \
    }
/* clang-format off */
#define FEWS(name, T, N1, N2, N3, N4)                                                              \
    FEW(name, T, 1, N1) FEW(name, T, 2, N2) FEW(name, T, 3, N3) FEW(name, T, 4, N4)
/* clang-format on */
FEWS(wide, AP_F32, FEW_PANELS_1, FEW_PANELS_2, FEW_PANELS_3, FEW_PANELS_4)
FEWS(wide, AP_F16, FEW_PANELS_1, FEW_PANELS_2, FEW_PANELS_3, FEW_PANELS_4)
FEWS(wide, AP_BF16, FEW_PANELS_1, FEW_PANELS_2, FEW_PANELS_3, FEW_PANELS_4)
FEWS(one, AP_F32, 1, 1, 1, 1)
FEWS(one, AP_F16, 1, 1, 1, 1)
FEWS(one, AP_BF16, 1, 1, 1, 1)

#define BY_ROWS(name, T)                                                                           \
    {                                                                                              \
        name##_##T##_1, name##_##T##_2, name##_##T##_3, name##_##T##_4                             \
    }
static const int few_panels[AP_FEW_ROWS] = {FEW_PANELS_1, FEW_PANELS_2, FEW_PANELS_3, FEW_PANELS_4};
static const few_block few_wide[3][AP_FEW_ROWS] = {BY_ROWS(wide, AP_F32), BY_ROWS(wide, AP_F16),
                                                   BY_ROWS(wide, AP_BF16)};
static const few_block few_one[3][AP_FEW_ROWS] = {BY_ROWS(one, AP_F32), BY_ROWS(one, AP_F16),
                                                  BY_ROWS(one, AP_BF16)};

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
        .tile_rows = FULL_ROWS, .few_panels = FEW_PANELS_1, .few = {few_f32, few_f16, few_bf16},   \
        .tile = {tile_f32, tile_f16, tile_bf16},                                                   \
    }
