/* Quantising and decoding again: errors stay within what each format allows, and awkward blocks come
 * out finite. That the customary types equal gguf-py's is checked in tests/cli/test_gguf.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "tensor/quant.h"
#include "tensor/quantize_row.h"

enum { N = 256 * 64 };

static float in[N], back[N];
static uint8_t bytes[N * 4];

/* Sum of four uniform numbers: near to normal, deviation 1. */
static float noise(uint64_t *state)
{
    float sum = 0;
    for (int i = 0; i < 4; i++) {
        *state = *state * 6364136223846793005u + 1442695040888963407u;
        sum += (float)(*state >> 40) / 16777216.0f - 0.5f;
    }
    return sum * 1.7320508f;
}

/* Root of the mean squared error, as a share of the values' own. */
static double error_of(ap_dtype t)
{
    double e = 0, s = 0;
    ap_quantize_row(t, in, N, bytes);
    ap_tensor view = {.data = bytes, .dtype = t, .rank = 2, .shape = {1, N}};
    ap_tensor_row_f32(&view, 0, 0, N, back);
    for (int i = 0; i < N; i++) {
        assert_true(isfinite(back[i]));
        e += pow((double)back[i] - (double)in[i], 2);
        s += pow((double)in[i], 2);
    }
    return s > 0 ? sqrt(e / s) : sqrt(e);
}

static const struct {
    ap_dtype type;
    double most, with_outliers;
} types[] = {{AP_F32, 0, 0},           {AP_F16, 3e-4, 3e-4},    {AP_BF16, 2e-3, 2e-3},
             {AP_Q8_0, 6e-3, 0.011},   {AP_Q6_K, 0.019, 0.032}, {AP_Q5_K, 0.038, 0.055},
             {AP_Q5_1, 0.040, 0.055},  {AP_Q5_0, 0.046, 0.085}, {AP_Q4_K, 0.075, 0.11},
             {AP_IQ4_NL, 0.079, 0.13}, {AP_IQ4_XS, 0.08, 0.13}, {AP_Q4_1, 0.082, 0.115},
             {AP_Q4_0, 0.091, 0.15},   {AP_MXFP4, 0.12, 0.17},  {AP_Q3_K, 0.155, 0.19},
             {AP_Q2_K, 0.29, 0.29}};
enum { TYPES = sizeof types / sizeof *types };

static void random_values(void **state)
{
    (void)state;
    uint64_t seed = 1;
    for (int i = 0; i < N; i++) in[i] = 0.02f * noise(&seed);
    for (int k = 0; k < TYPES; k++) {
        double e = error_of(types[k].type);
        if (e > types[k].most) fail_msg("%s: error %g", ap_dtype_name(types[k].type), e);
    }
    for (int i = 0; i < N; i += 500) in[i] *= 20;
    for (int k = 0; k < TYPES; k++) {
        double e = error_of(types[k].type);
        if (e > types[k].with_outliers) fail_msg("%s: error %g", ap_dtype_name(types[k].type), e);
    }
}

static void zeros(void **state)
{
    (void)state;
    memset(in, 0, sizeof in);
    for (int k = 0; k < TYPES; k++) assert_true(error_of(types[k].type) == 0);
}

/* One value in a block, blocks of one sign, blocks of one value. */
static void awkward_blocks(void **state)
{
    (void)state;
    uint64_t seed = 2;
    for (int k = 0; k < TYPES; k++) {
        double most = types[k].with_outliers * 1.5 + 0.002;
        memset(in, 0, sizeof in);
        for (int i = 0; i < N; i += 700) in[i] = i % 1400 ? -0.3f : 0.3f;
        if (types[k].type == AP_MXFP4 || types[k].type == AP_IQ4_NL || types[k].type == AP_IQ4_XS)
            assert_true(error_of(types[k].type) <
                        0.2); /* no code is zero, or no scale fits exactly */
        else
            assert_true(error_of(types[k].type) < most);
        for (int sign = -1; sign < 2; sign += 2) {
            for (int i = 0; i < N; i++) in[i] = (float)sign * fabsf(noise(&seed));
            assert_true(error_of(types[k].type) < most);
            for (int i = 0; i < N; i++) in[i] = (float)sign * 0.7f;
            assert_true(error_of(types[k].type) < (types[k].type == AP_MXFP4 ? 0.15 : most));
        }
    }
}

/* Scales below what f16 holds: nothing may become infinite. */
static void tiny_and_huge(void **state)
{
    (void)state;
    for (int e = -45; e <= 3; e += 4) {
        uint64_t seed = 3;
        for (int i = 0; i < N; i++) in[i] = noise(&seed) * powf(10, (float)e);
        for (int k = 0; k < TYPES; k++) error_of(types[k].type);
    }
}

/* Equal bytes from any alignment and any number of blocks. */
static void blocks_stand_alone(void **state)
{
    (void)state;
    static uint8_t other[N * 4 + 1];
    uint64_t seed = 4;
    for (int i = 0; i < N; i++) in[i] = noise(&seed);
    for (int k = 0; k < TYPES; k++) {
        ap_dtype t = types[k].type;
        size_t size = 256 / (size_t)ap_dtype_block(t) * ap_dtype_block_bytes(t);
        ap_quantize_row(t, in, N, bytes);
        for (int b = 0; b < N / 256; b += 9) {
            ap_quantize_row(t, in + 256 * b, 256, other + 1);
            assert_memory_equal(other + 1, bytes + (size_t)b * size, size);
        }
    }
}

static void what_can_be_written(void **state)
{
    (void)state;
    for (int k = 0; k < TYPES; k++) assert_true(ap_quantize_can(types[k].type));
    assert_false(ap_quantize_can(AP_IQ2_XXS));
    assert_false(ap_quantize_can(AP_MLX_AFFINE));
    assert_false(ap_quantize_can(AP_I8));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_values),      cmocka_unit_test(zeros),
        cmocka_unit_test(awkward_blocks),     cmocka_unit_test(tiny_and_huge),
        cmocka_unit_test(blocks_stand_alone), cmocka_unit_test(what_can_be_written)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
