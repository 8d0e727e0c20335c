#include "tensor/dtype.h"

static const struct {
    const char *name;
    size_t bytes;
} types[AP_DTYPE_COUNT] = {
    [AP_F32] = {"f32", 4},   [AP_F16] = {"f16", 2},         [AP_BF16] = {"bf16", 2},
    [AP_F64] = {"f64", 8},   [AP_I8] = {"i8", 1},           [AP_I16] = {"i16", 2},
    [AP_I32] = {"i32", 4},   [AP_I64] = {"i64", 8},         [AP_U8] = {"u8", 1},
    [AP_U16] = {"u16", 2},   [AP_U32] = {"u32", 4},         [AP_U64] = {"u64", 8},
    [AP_BOOL] = {"bool", 1}, [AP_F8_E4M3] = {"f8_e4m3", 1}, [AP_F8_E5M2] = {"f8_e5m2", 1},
};

const char *ap_dtype_name(ap_dtype t)
{
    return (unsigned)t < AP_DTYPE_COUNT ? types[t].name : "unknown";
}

size_t ap_dtype_bytes(ap_dtype t) { return (unsigned)t < AP_DTYPE_COUNT ? types[t].bytes : 0; }

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
