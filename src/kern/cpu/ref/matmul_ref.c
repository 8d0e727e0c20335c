/* matmul_ref.c - the scalar definition of products with packed weights (micro_matmul.h). */
#include <math.h>

#include "kern/cpu/micro/micro_matmul.h"

/* Row c of the panel at input i. */
static float weight(ap_dtype t, const uint8_t *panel, int i, int c)
{
    if (t == AP_F32) return ((const float *)panel)[i * AP_PANEL + c];
    if (t == AP_F16) return ap_f16_to_f32(((const uint16_t *)panel)[i * AP_PANEL + c]);
    return ap_bf16_to_f32(((const uint16_t *)panel)[((i >> 1) * AP_PANEL + c) * 2 + (i & 1)]);
}

static void panel_ref(ap_dtype t, const float *const *x, int rows, const uint8_t *w, int k,
                      float *out, int ld, bool add)
{
    float s[AP_MAX_TILE_ROWS][AP_PANEL] = {{0}};
    for (int i = 0; i < k; i++) {
        float wi[AP_PANEL];
        for (int c = 0; c < AP_PANEL; c++) wi[c] = weight(t, w, i, c);
        for (int r = 0; r < rows; r++)
            for (int c = 0; c < AP_PANEL; c++) s[r][c] = fmaf(x[r][i], wi[c], s[r][c]);
    }
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < AP_PANEL; c++)
            out[r * ld + c] = add ? out[r * ld + c] + s[r][c] : s[r][c];
}

static void few_ref(ap_dtype t, const float *const *x, int rows, const uint8_t *w,
                    size_t panel_bytes, int n_panel, int k, float *out, int ld, bool add)
{
    for (int p = 0; p < n_panel; p++)
        panel_ref(t, x, rows, w + (size_t)p * panel_bytes, k, out + p * AP_PANEL, ld, add);
}

static void tile_ref(ap_dtype t, const float *x, int rows, const uint8_t *w, size_t panel_bytes,
                     int n_panel, int k, float *out, int ld, bool add)
{
    const float *row[AP_MAX_TILE_ROWS];
    for (int r = 0; r < rows; r++) row[r] = x + r * AP_XPACK_LD;
    few_ref(t, row, rows, w, panel_bytes, n_panel, k, out, ld, add);
}

#define BOTH(name, type)                                                                           \
    static void few_##name##_ref(const float *const *x, int rows, const uint8_t *w, size_t pb,     \
                                 int np, int k, float *out, int ld, bool add)                      \
    {                                                                                              \
        few_ref(type, x, rows, w, pb, np, k, out, ld, add);                                        \
    }                                                                                              \
    static void tile_##name##_ref(const float *x, int rows, const uint8_t *w, size_t pb, int np,   \
                                  int k, float *out, int ld, bool add)                             \
    {                                                                                              \
        tile_ref(type, x, rows, w, pb, np, k, out, ld, add);                                       \
    }
BOTH(f32, AP_F32)
BOTH(f16, AP_F16)
BOTH(bf16, AP_BF16)

const ap_micro_matmul ap_matmul_ref = {
    .tile_rows = 4,
    .few_panels = 1,
    .few = {few_f32_ref, few_f16_ref, few_bf16_ref},
    .tile = {tile_f32_ref, tile_f16_ref, tile_bf16_ref},
};
