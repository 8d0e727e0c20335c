#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "tensor/dtype.h"
#include "tensor/tensor.h"

static uint32_t bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

/* The definition, in double. */
static double f16_value(uint16_t h)
{
    int e = h >> 10 & 31, m = h & 1023;
    double v = e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
    return h & 0x8000 ? -v : v;
}

static void test_f16_to_f32(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = ap_f16_to_f32((uint16_t)h);
        if ((h >> 10 & 31) == 31) {
            assert_true(h & 1023 ? isnan(f) : isinf(f));
            assert_int_equal(signbit(f) != 0, h >> 15);
        } else if (bits(f) != bits((float)f16_value((uint16_t)h))) {
            fail_msg("%04x", h);
        }
        uint16_t back = ap_f32_to_f16(f);
        if ((h >> 10 & 31) == 31 && h & 1023)
            assert_true((back & 0x7C00) == 0x7C00 && back & 0x200 && (back ^ h) < 0x8000);
        else
            assert_int_equal(back, h);
    }
}

/* Between two neighbours: below the middle, the middle (to even), above it. */
static void test_f32_to_f16(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7BFF; h++) {
        float lo = ap_f16_to_f32((uint16_t)h), hi = ap_f16_to_f32((uint16_t)(h + 1));
        float mid = (float)(((double)lo + hi) / 2); /* exact */
        uint16_t even = (uint16_t)(h & 1 ? h + 1 : h);
        for (int sign = 0; sign < 2; sign++) {
            float s = sign ? -1.0f : 1.0f;
            uint16_t b = (uint16_t)(sign << 15);
            if (ap_f32_to_f16(s * mid) != (b | even) ||
                ap_f32_to_f16(s * nextafterf(mid, 0)) != (b | h) ||
                ap_f32_to_f16(s * nextafterf(mid, 1e9f)) != (b | (h + 1)))
                fail_msg("%04x", h);
        }
    }
    assert_int_equal(ap_f32_to_f16(65504), 0x7BFF);
    assert_int_equal(ap_f32_to_f16(nextafterf(65520, 0)), 0x7BFF);
    assert_int_equal(ap_f32_to_f16(65520), 0x7C00);
    assert_int_equal(ap_f32_to_f16(-1e30f), 0xFC00);
    assert_int_equal(ap_f32_to_f16(INFINITY), 0x7C00);
    assert_int_equal(ap_f32_to_f16(1e-45f), 0);
    assert_int_equal(ap_f32_to_f16(-1e-30f), 0x8000);
    assert_int_equal(ap_f32_to_f16(0x1p-25f), 0);
    assert_int_equal(ap_f32_to_f16(nextafterf(0x1p-25f, 1)), 1);
    assert_int_equal(ap_f32_to_f16(0x1p-26f), 0);
}

static void test_bf16(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = ap_bf16_to_f32((uint16_t)h);
        assert_int_equal(bits(f), h << 16);
        uint16_t back = ap_f32_to_bf16(f);
        if (isnan(f))
            assert_int_equal(back, h | 0x40);
        else
            assert_int_equal(back, h);
    }
    /* Every pattern of the dropped half, on an even and an odd value. */
    for (uint32_t low = 0; low < 65536; low++) {
        for (uint32_t top = 0x3F80; top <= 0x3F81; top++) {
            uint32_t u = top << 16 | low;
            float f;
            memcpy(&f, &u, 4);
            uint32_t want = top + (low > 0x8000 || (low == 0x8000 && (top & 1)));
            if (ap_f32_to_bf16(f) != want) fail_msg("%08x", u);
        }
    }
    float sneaky; /* a NaN whose payload lies in the dropped half only */
    uint32_t u = 0xFF800001;
    memcpy(&sneaky, &u, 4);
    assert_true(isnan(ap_bf16_to_f32(ap_f32_to_bf16(sneaky))));
    assert_int_equal(ap_f32_to_bf16(3.4e38f), 0x7F80); /* rounds up to infinity */
    assert_int_equal(ap_f32_to_bf16(1e-45f), 0);
}

static void test_to_f32(void **state)
{
    (void)state;
    uint8_t raw[1 + 4 * 5];
    float in[5] = {1, -2.5f, 0, 1e-8f, 65504}, out[5];
    memcpy(raw + 1, in, sizeof in); /* odd address */
    ap_to_f32(AP_F32, raw + 1, out, 5);
    assert_memory_equal(in, out, sizeof in);
    for (int k = 0; k < 2; k++) {
        for (int i = 0; i < 5; i++) {
            uint16_t h = k ? ap_f32_to_bf16(in[i]) : ap_f32_to_f16(in[i]);
            memcpy(raw + 1 + 2 * i, &h, 2);
        }
        ap_to_f32(k ? AP_BF16 : AP_F16, raw + 1, out, 5);
        for (int i = 0; i < 5; i++)
            assert_true(out[i] == (k ? ap_bf16_to_f32(ap_f32_to_bf16(in[i]))
                                     : ap_f16_to_f32(ap_f32_to_f16(in[i]))));
    }
    ap_to_f32(AP_F32, NULL, NULL, 0);
}

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(ap_dtype_name(AP_BF16), "bf16");
    assert_string_equal(ap_dtype_name(AP_F8_E4M3), "f8_e4m3");
    assert_string_equal(ap_dtype_name((ap_dtype)99), "unknown");
    assert_int_equal(ap_dtype_bytes(AP_I64), 8);
    assert_int_equal(ap_dtype_bytes((ap_dtype)99), 0);
    for (int t = 0; t < AP_DTYPE_COUNT; t++) {
        int block = ap_dtype_block((ap_dtype)t);
        assert_string_not_equal(ap_dtype_name((ap_dtype)t), "unknown");
        assert_int_equal(ap_dtype_bytes((ap_dtype)t) > 0, block == 1);
        assert_int_equal(ap_dtype_block_bytes((ap_dtype)t) > 0, block > 0);
    }
}

static void test_views(void **state)
{
    (void)state;
    float data[2 * 3 * 4];
    ap_tensor t = {.data = data, .dtype = AP_F32, .rank = 3, .shape = {2, 3, 4}};
    assert_int_equal(ap_tensor_count(&t), 24);
    ap_tensor i = ap_tensor_index(&t, 1);
    assert_int_equal(i.rank, 2);
    assert_true(i.data == data + 12 && i.shape[0] == 3 && i.shape[1] == 4);
    ap_tensor r = ap_tensor_rows(&i, 1, 3);
    assert_true(r.data == data + 16 && r.shape[0] == 2 && r.shape[1] == 4);
    ap_tensor e = ap_tensor_rows(&i, 3, 3);
    assert_int_equal(ap_tensor_count(&e), 0);
    ap_tensor s = ap_tensor_index(&r, 0);
    s = ap_tensor_index(&s, 2);
    assert_true(s.rank == 0 && s.data == data + 18 && ap_tensor_count(&s) == 1);
    ap_tensor empty = {.dtype = AP_F32, .rank = 2, .shape = {5, 0}};
    assert_null(ap_tensor_rows(&empty, 1, 4).data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f16_to_f32), cmocka_unit_test(test_f32_to_f16),
        cmocka_unit_test(test_bf16),       cmocka_unit_test(test_to_f32),
        cmocka_unit_test(test_names),      cmocka_unit_test(test_views),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
