#include "make/synth_fill.h"

#include <math.h>

#include "tensor/quant.h"

#define GOLDEN 0x9E3779B97F4A7C15u

enum { PIECE = 1 << 16, VARIANTS = 16, PATTERNS = 64 };

/* splitmix64 (Vigna) of a counter. */
static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

uint64_t ap_fill_seed(uint64_t seed, uint64_t index)
{
    return mix(mix(seed + GOLDEN) + (index + 1) * GOLDEN);
}

static void random_bytes(uint64_t seed, uint8_t *out, size_t n)
{
    uint64_t at = seed;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        uint64_t z = mix(at += GOLDEN);
        memcpy(out + i, &z, 8);
    }
    uint64_t z = mix(at + GOLDEN);
    if (i < n) memcpy(out + i, &z, n - i);
}

static void store(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

/* ---------------------------------------------------------------- blocks of GGUF */

/* The 12 bytes of Q4_K and Q5_K with minima that equal the scales, 40 .. 63, so that with the right
 * dmin the values lie evenly around zero. */
static void scale_pattern(unsigned which, uint8_t *p)
{
    uint8_t s[8];
    for (unsigned j = 0; j < 8; j++) s[j] = (uint8_t)(40 + mix((which + 1) * GOLDEN + j) % 24);
    for (int j = 0; j < 4; j++) {
        p[j] = p[j + 4] = (uint8_t)(s[j] | s[j + 4] >> 4 << 6);
        p[j + 8] = (uint8_t)((s[j + 4] & 15) | (s[j + 4] & 15) << 4);
    }
}

/* How much lower than zero the lowest integer stands, in steps: types with a minimum. */
static double centre(ap_dtype t)
{
    switch (t) {
    case AP_Q2_K:
        return 1.5;
    case AP_Q4_1:
    case AP_Q4_K:
        return 7.5;
    case AP_Q5_1:
    case AP_Q5_K:
        return 15.5;
    default:
        return 0;
    }
}

/* Where d is; a second factor follows it in types with a minimum. */
static size_t place_of_d(ap_dtype t)
{
    switch (t) {
    case AP_Q2_K:
        return 80;
    case AP_Q3_K:
        return 108;
    case AP_Q6_K:
        return 208;
    default:
        return 0;
    }
}

/* Types whose integers do not lie evenly around zero: the sign of d does it. */
static bool wants_sign(ap_dtype t)
{
    return t == AP_Q4_0 || t == AP_Q5_0 || t == AP_Q8_0 || t == AP_IQ4_NL;
}

/* Put scales into a block of random bytes. r: random bits of its own. */
static void finish_block(const ap_fill *f, uint8_t *b, uint64_t r)
{
    static const size_t scales_at = 4;
    size_t at = place_of_d(f->dtype);
    unsigned v = (unsigned)(r % VARIANTS);
    if (f->dtype == AP_MXFP4) {
        b[0] = f->exponent;
        return;
    }
    if (f->dtype == AP_Q4_K || f->dtype == AP_Q5_K)
        scale_pattern((unsigned)(r >> 8) % PATTERNS, b + scales_at);
    for (int i = 0; i < 16 && f->dtype == AP_Q2_K; i++) b[i] = (uint8_t)((8 | (b[i] & 7)) * 17);
    for (int i = 192; i < 208 && f->dtype == AP_Q6_K; i++) /* +-64 .. 127 */
        b[i] = (uint8_t)((b[i] & 0xBF) | (~b[i] >> 1 & 0x40));
    uint16_t sign = wants_sign(f->dtype) ? (uint16_t)(r >> 32 & 0x8000) : 0;
    store(b + at, f->d[v] ^ sign);
    if (centre(f->dtype) > 0) store(b + at + 2, f->dmin[v]);
}

/* Deviation of the values of a type whose factor is 1. */
static double unit_deviation(const ap_fill *f)
{
    enum { BLOCKS = 64 };
    uint8_t data[BLOCKS * 256];
    float w[256];
    ap_fill one = *f;
    int block = ap_dtype_block(f->dtype);
    size_t bytes = ap_dtype_block_bytes(f->dtype);
    double low = f->dtype == AP_Q4_1 || f->dtype == AP_Q5_1 ? -1 : 1, sum = 0;
    one.exponent = 128;
    for (int i = 0; i < VARIANTS; i++) {
        one.d[i] = ap_f32_to_f16(1);
        one.dmin[i] = ap_f32_to_f16((float)(low * centre(f->dtype)));
    }
    random_bytes(1, data, BLOCKS * bytes);
    for (size_t i = 0; i < BLOCKS; i++) {
        finish_block(&one, data + i * bytes, mix(i * GOLDEN));
        ap_tensor t = {.data = data + i * bytes, .dtype = f->dtype, .rank = 2, .shape = {1, block}};
        ap_tensor_row_f32(&t, 0, 0, block, w);
        for (int k = 0; k < block; k++) sum += (double)w[k] * (double)w[k];
    }
    return sqrt(sum / (BLOCKS * block));
}

static void prepare_block(ap_fill *f)
{
    double unit = unit_deviation(f), low = f->dtype == AP_Q4_1 || f->dtype == AP_Q5_1 ? -1 : 1;
    double d = f->deviation / unit;
    for (int i = 0; i < VARIANTS; i++) {
        float half = ap_f16_to_f32(ap_f32_to_f16((float)(d * (0.75 + 0.5 * (i + 0.5) / VARIANTS))));
        f->d[i] = ap_f32_to_f16(half);
        f->dmin[i] = ap_f32_to_f16((float)(low * centre(f->dtype) * (double)half));
    }
    int e = 128 + (d > 0 ? (int)lrint(log2(d)) : -128);
    f->exponent = (uint8_t)(e < 0 ? 0 : e > 254 ? 254 : e);
}

/* ---------------------------------------------------------------- plain numbers */

static void put_number(ap_dtype t, uint8_t *p, float v)
{
    if (t == AP_F32)
        memcpy(p, &v, 4);
    else
        store(p, t == AP_BF16 ? ap_f32_to_bf16(v) : ap_f32_to_f16(v));
}

/* 16 random bits each: what bf16 can hold anyway. */
static void fill_even(const ap_fill *f, uint64_t seed, uint8_t *out, size_t n)
{
    float mean = (float)f->mean, step = (float)(f->deviation * sqrt(3.0) / 32768.0);
    size_t bytes = ap_dtype_bytes(f->dtype);
    uint64_t at = seed;
    for (size_t i = 0; i < n; i += 4) {
        uint64_t z = mix(at += GOLDEN);
        for (size_t k = i; k < i + 4 && k < n; k++, z >>= 16)
            put_number(f->dtype, out + k * bytes, mean + step * (float)((int)(z & 0xFFFF) - 32768));
    }
}

/* Numbers from `first` on, of rows that have factors. */
static void fill_rows(const ap_fill *f, uint64_t seed, uint64_t first, uint8_t *out, size_t n)
{
    size_t bytes = ap_dtype_bytes(f->dtype), done = 0;
    while (done < n) {
        uint64_t row = (first + done) / f->cols, left = (row + 1) * f->cols - first - done;
        size_t here = n - done < left ? n - done : (size_t)left;
        ap_fill one = *f;
        one.deviation *= (double)f->row_scale[row];
        fill_even(&one, mix(seed + row), out + done * bytes, here);
        done += here;
    }
}

/* bf16 without a mean, the bulk of large models. */
static void fill_bf16(const ap_fill *f, uint64_t seed, uint8_t *out, size_t n)
{
    float step = (float)(f->deviation * sqrt(3.0) / 32768.0);
    uint64_t at = seed;
    for (size_t i = 0; i + 4 <= n; i += 4) {
        uint64_t z = mix(at += GOLDEN), w = 0;
        for (int k = 0; k < 4; k++) {
            float v = step * (float)(int16_t)(z >> 16 * k);
            uint32_t u;
            memcpy(&u, &v, 4);
            w |= (uint64_t)((u + 0x7FFF + (u >> 16 & 1)) >> 16) << 16 * k;
        }
        for (int k = 0; k < 8; k++) out[2 * i + (size_t)k] = (uint8_t)(w >> 8 * k);
    }
    if (n % 4) fill_even(f, mix(at), out + 2 * (n - n % 4), n % 4);
}

/* Scales or biases of MLX's format: the values of a module lie evenly around zero. */
static void fill_mlx(const ap_fill *f, uint64_t seed, uint8_t *out, size_t n)
{
    double most = (1 << f->bits) - 1, unit = sqrt((pow(2, 2 * f->bits) - 1) / 12);
    size_t bytes = ap_dtype_bytes(f->dtype);
    for (size_t i = 0; i < n; i++) {
        uint64_t r = mix(seed + (i + 1) * GOLDEN);
        float scale = (float)(f->deviation / unit * (0.75 + (double)(r & 15) / 30));
        uint16_t h = ap_f32_to_bf16(scale); /* so that the bias fits what is stored */
        scale = ap_bf16_to_f32(h);
        put_number(f->dtype, out + i * bytes, f->part == 1 ? scale : (float)(-most / 2) * scale);
    }
}

static void fill_special(const ap_fill *f, uint64_t seed, uint64_t first, uint8_t *out, size_t n)
{
    size_t bytes = ap_dtype_bytes(f->dtype);
    for (size_t i = 0; i < n; i++) {
        double u = 1 + 15 * ((double)(mix(seed + (i + 1) * GOLDEN) >> 11) * 0x1p-53), v;
        if (f->kind == AP_FILL_FREQS)
            v = first + i < f->turning ? 1 : 1e30;
        else
            v = f->kind == AP_FILL_LOG ? log(u) : -u;
        put_number(f->dtype, out + i * bytes, (float)v);
    }
}

/* ---------------------------------------------------------------- the way in */

void ap_fill_prepare(ap_fill *f)
{
    if (ap_dtype_block(f->dtype) > 1) prepare_block(f);
}

size_t ap_fill_piece_bytes(const ap_fill *f)
{
    size_t block = ap_dtype_block_bytes(f->dtype);
    return PIECE / block * block;
}

void ap_fill_piece(const ap_fill *f, uint64_t piece, uint8_t *out, size_t n)
{
    size_t bytes = ap_dtype_block_bytes(f->dtype);
    uint64_t seed = mix(f->seed + (piece + 1) * 0xD1342543DE82EF95u);
    if (ap_dtype_block(f->dtype) > 1) {
        random_bytes(seed, out, n);
        for (size_t i = 0; i < n / bytes; i++)
            finish_block(f, out + i * bytes, mix(seed ^ (i + 1) * GOLDEN));
    } else if (f->dtype == AP_U32) {
        random_bytes(seed, out, n);
    } else if (f->part) {
        fill_mlx(f, seed, out, n / bytes);
    } else if (f->row_scale) {
        fill_rows(f, seed, piece * (PIECE / bytes), out, n / bytes);
    } else if (f->kind != AP_FILL_EVEN) {
        fill_special(f, seed, piece * (PIECE / bytes), out, n / bytes);
    } else if (f->dtype == AP_BF16 && f->mean == 0) {
        fill_bf16(f, seed, out, n / bytes);
    } else {
        fill_even(f, seed, out, n / bytes);
    }
}
