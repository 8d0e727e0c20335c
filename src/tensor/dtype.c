#include "tensor/dtype.h"

static const struct {
    const char *name;
    int block;
    size_t block_bytes;
} types[AP_DTYPE_COUNT] = {
    [AP_F32] = {"f32", 1, 4},
    [AP_F16] = {"f16", 1, 2},
    [AP_BF16] = {"bf16", 1, 2},
    [AP_F64] = {"f64", 1, 8},
    [AP_I8] = {"i8", 1, 1},
    [AP_I16] = {"i16", 1, 2},
    [AP_I32] = {"i32", 1, 4},
    [AP_I64] = {"i64", 1, 8},
    [AP_U8] = {"u8", 1, 1},
    [AP_U16] = {"u16", 1, 2},
    [AP_U32] = {"u32", 1, 4},
    [AP_U64] = {"u64", 1, 8},
    [AP_BOOL] = {"bool", 1, 1},
    [AP_F8_E4M3] = {"f8_e4m3", 1, 1},
    [AP_F8_E5M2] = {"f8_e5m2", 1, 1},
    [AP_Q4_0] = {"q4_0", 32, 18},
    [AP_Q4_1] = {"q4_1", 32, 20},
    [AP_Q5_0] = {"q5_0", 32, 22},
    [AP_Q5_1] = {"q5_1", 32, 24},
    [AP_Q8_0] = {"q8_0", 32, 34},
    [AP_Q2_K] = {"q2_k", 256, 84},
    [AP_Q3_K] = {"q3_k", 256, 110},
    [AP_Q4_K] = {"q4_k", 256, 144},
    [AP_Q5_K] = {"q5_k", 256, 176},
    [AP_Q6_K] = {"q6_k", 256, 210},
    [AP_IQ2_XXS] = {"iq2_xxs", 256, 66},
    [AP_IQ2_XS] = {"iq2_xs", 256, 74},
    [AP_IQ2_S] = {"iq2_s", 256, 82},
    [AP_IQ3_XXS] = {"iq3_xxs", 256, 98},
    [AP_IQ3_S] = {"iq3_s", 256, 110},
    [AP_IQ4_NL] = {"iq4_nl", 32, 18},
    [AP_IQ4_XS] = {"iq4_xs", 256, 136},
    [AP_MXFP4] = {"mxfp4", 32, 17},
    [AP_MLX_AFFINE] = {"mlx_affine", 0, 0},
    [AP_MLX_MXFP4] = {"mlx_mxfp4", 0, 0},
    [AP_MLX_NVFP4] = {"mlx_nvfp4", 0, 0},
    [AP_MLX_MXFP8] = {"mlx_mxfp8", 0, 0},
    [AP_FP8_BLOCK] = {"fp8", 0, 0},
};

const char *ap_dtype_name(ap_dtype t)
{
    return (unsigned)t < AP_DTYPE_COUNT ? types[t].name : "unknown";
}

size_t ap_dtype_bytes(ap_dtype t)
{
    return ap_dtype_block(t) == 1 ? types[t].block_bytes : 0;
}

int ap_dtype_block(ap_dtype t)
{
    return (unsigned)t < AP_DTYPE_COUNT ? types[t].block : 0;
}

size_t ap_dtype_block_bytes(ap_dtype t)
{
    return (unsigned)t < AP_DTYPE_COUNT ? types[t].block_bytes : 0;
}

static float from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static uint32_t to_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

float ap_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exp = h >> 10 & 31, frac = h & 0x3FF;
    if (exp == 31) return from_bits(sign | 0x7F800000u | frac << 13); /* infinity, NaN */
    if (exp) return from_bits(sign | (exp + 112) << 23 | frac << 13);
    float f = (float)frac * 0x1p-24f; /* zero and denormals: exact */
    return sign ? -f : f;
}

uint16_t ap_f32_to_bf16(float f)
{
    uint32_t u = to_bits(f);
    if ((u & 0x7FFFFFFFu) > 0x7F800000u) return (uint16_t)(u >> 16 | 0x40); /* NaN, made quiet */
    return (uint16_t)((u + 0x7FFF + (u >> 16 & 1)) >> 16);
}

uint16_t ap_f32_to_f16(float f)
{
    uint32_t u = to_bits(f), a = u & 0x7FFFFFFFu;
    uint16_t sign = (uint16_t)(u >> 16 & 0x8000);
    if (a > 0x7F800000u) return (uint16_t)(sign | 0x7E00 | (a >> 13 & 0x3FF));
    if (a >= 0x477FF000u) return sign | 0x7C00; /* 65520 and above round to infinity */
    if (a < 0x38800000u) {                      /* below 2^-14: denormal, in units of 2^-24 */
        uint32_t exp = a >> 23, frac = exp ? (a & 0x7FFFFF) | 0x800000 : a & 0x7FFFFF;
        uint32_t shift = 126 - (exp ? exp : 1); /* frac * 2^(exp-150) / 2^-24 */
        if (shift > 24) return sign;            /* at most a quarter unit */
        uint32_t r = frac >> shift, rest = frac & ((1u << shift) - 1), half = 1u << (shift - 1);
        r += rest > half || (rest == half && (r & 1));
        return (uint16_t)(sign | r);
    }
    a += 0xFFF + (a >> 13 & 1);
    return (uint16_t)(sign | (a - 0x38000000u) >> 13);
}

void ap_to_f32(ap_dtype t, const void *src, float *dst, size_t n)
{
    const uint8_t *s = src;
    if (n == 0) return;
    if (t == AP_F32) {
        memcpy(dst, src, n * 4);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, s + 2 * i, 2);
        dst[i] = t == AP_BF16 ? ap_bf16_to_f32(h) : ap_f16_to_f32(h);
    }
}
