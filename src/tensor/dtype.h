/* dtype.h - element types and their scalar conversions (the definition that kernels follow). */
#ifndef AP_TENSOR_DTYPE_H
#define AP_TENSOR_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef enum ap_dtype {
    AP_F32 = 0,
    AP_F16,
    AP_BF16,
    AP_F64,
    AP_I8, AP_I16, AP_I32, AP_I64,
    AP_U8, AP_U16, AP_U32, AP_U64,
    AP_BOOL,
    AP_F8_E4M3,
    AP_F8_E5M2,
    AP_DTYPE_COUNT
} ap_dtype;

const char *ap_dtype_name(ap_dtype t);   /* "bf16" */
size_t ap_dtype_bytes(ap_dtype t);

static inline float ap_bf16_to_f32(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}
float ap_f16_to_f32(uint16_t h);
uint16_t ap_f32_to_bf16(float f); /* nearest even; NaN stays NaN */
uint16_t ap_f32_to_f16(float f);

/* n elements of type t at src (any alignment) to f32. t: F32, F16, BF16. */
void ap_to_f32(ap_dtype t, const void *src, float *dst, size_t n);

#endif
