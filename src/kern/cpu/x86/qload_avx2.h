/* qload_avx2.h - a packed panel's bits (kern.h, qpack.h) to vectors of q and of scales. For files of the
 * level avx2. */
#ifndef AP_KERN_CPU_X86_QLOAD_AVX2_H
#define AP_KERN_CPU_X86_QLOAD_AVX2_H

#include <immintrin.h>

#include "base/num.h"
#include "kern/cpu/micro/micro_qdot.h"

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

/* A compiler that may choose the order of sums keeps all products until the end, and no register is left. */
#define IN_THIS_ORDER(v) __asm__("" : "+x"(v))

/* Kinds of packed numbers: the number of bits, or 4 or 3 bits through a table. */
#define TABLE  0
#define TABLE3 7

INLINE int kind_of(ap_qform f)
{
    return !f.table ? f.bits : f.bits == 3 ? TABLE3 : TABLE;
}

/* Do(kind) for the kind of f, a number written out. */
#define BY_KIND(f, Do)                                                                             \
    switch (kind_of(f)) {                                                                          \
    case TABLE:                                                                                    \
        Do(TABLE);                                                                                 \
        break;                                                                                     \
    case 2:                                                                                        \
        Do(2);                                                                                     \
        break;                                                                                     \
    case 3:                                                                                        \
        Do(3);                                                                                     \
        break;                                                                                     \
    case TABLE3:                                                                                   \
        Do(TABLE3);                                                                                \
        break;                                                                                     \
    case 4:                                                                                        \
        Do(4);                                                                                     \
        break;                                                                                     \
    case 5:                                                                                        \
        Do(5);                                                                                     \
        break;                                                                                     \
    case 6:                                                                                        \
        Do(6);                                                                                     \
        break;                                                                                     \
    default:                                                                                       \
        Do(8);                                                                                     \
    }

INLINE bool wide_kind(int kind)
{
    return kind == 8 || kind == TABLE || kind == TABLE3;
}

INLINE __m256i load(const uint8_t *p)
{
    return _mm256_load_si256((const __m256i *)p);
}

/* Nibbles of vectors 2i and 2i+1, from numbers of 3 bits, of 8 rows. */
INLINE __m256i join_bits(const uint8_t *p, int i)
{
    __m256i w = load(p + i / 2 * 64);
    w = _mm256_and_si256(i % 2 ? _mm256_srli_epi32(w, 2) : w, _mm256_set1_epi8(0x33));
    __m256i h = load(p + 128);
    h = i < 2 ? _mm256_slli_epi32(h, 2 - i) : i > 2 ? _mm256_srli_epi32(h, 1) : h;
    return _mm256_or_si256(w, _mm256_and_si256(h, _mm256_set1_epi8(0x44)));
}

/* Rows 8h .. 8h+7 of a block, 4 inputs to a vector; wide q minus 128, which the table has taken off. */
INLINE void load_half(int kind, const uint8_t *p, int h, __m256i table, __m256i v[8])
{
    const __m256i low = _mm256_set1_epi8(15);
    p += 32 * h;
    if (kind == 8) {
        UNROLL
        for (int j = 0; j < 8; j++)
            v[j] = _mm256_xor_si256(load(p + 64 * j), _mm256_set1_epi8(-128));
        return;
    }
    if (kind == 2) {
        UNROLL
        for (int j = 0; j < 8; j++) {
            int shift = 4 * (j % 2) + 2 * (j / 2 % 2);
            v[j] = _mm256_and_si256(_mm256_srli_epi32(load(p + j / 4 * 64), shift),
                                    _mm256_set1_epi8(3));
        }
        return;
    }
    if (kind == TABLE3) { /* bits 3 and 7 are 0, and a lookup does not see bits 4 .. 6 */
        UNROLL
        for (int i = 0; i < 4; i++) {
            __m256i w = join_bits(p, i);
            v[2 * i] = _mm256_shuffle_epi8(table, w);
            v[2 * i + 1] = _mm256_shuffle_epi8(table, _mm256_srli_epi32(w, 4));
        }
        return;
    }
    UNROLL
    for (int i = 0; i < 4; i++) {
        __m256i w = kind == 3 ? join_bits(p, i) : load(p + 64 * i);
        v[2 * i] = _mm256_and_si256(w, low);
        v[2 * i + 1] = _mm256_and_si256(_mm256_srli_epi32(w, 4), low);
    }
    if (kind == TABLE) {
        UNROLL
        for (int j = 0; j < 8; j++) v[j] = _mm256_shuffle_epi8(table, v[j]);
    } else if (kind == 5) {
        __m256i high = load(p + 256);
        UNROLL
        for (int j = 0; j < 8; j++) {
            __m256i s = j < 4 ? _mm256_slli_epi32(high, 4 - j) : _mm256_srli_epi32(high, j - 4);
            v[j] = _mm256_or_si256(v[j], _mm256_and_si256(s, _mm256_set1_epi8(16)));
        }
    } else if (kind == 6) {
        UNROLL
        for (int j = 0; j < 8; j++) {
            __m256i high = load(p + 256 + j / 4 * 64);
            int shift = 4 - 2 * (j % 4);
            __m256i s = shift >= 0 ? _mm256_slli_epi32(high, shift) : _mm256_srli_epi32(high, 2);
            v[j] = _mm256_or_si256(v[j], _mm256_and_si256(s, _mm256_set1_epi8(48)));
        }
    }
}

INLINE __m256 half(const uint8_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
INLINE __m256 brain(const uint8_t *p)
{
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}
/* ------------------------------------------------------------------ scales */

INLINE __m256 number(int scale, const uint8_t *p, int h)
{
    if (scale == AP_QS_F16) return half(p + 16 * h);
    if (scale == AP_QS_BF16) return brain(p + 16 * h);
    return _mm256_loadu_ps((const float *)p + 8 * h);
}

/* n groups, each number `times` times. */
INLINE void plain_scales(int scale, bool affine, ap_qscales at, int n, int times, float *s,
                         float *b)
{
    for (int g = 0; g < n; g++, at.at += at.step)
        for (int i = 0; i < times; i++, s += AP_PANEL, b += AP_PANEL) UNROLL
    for (int h = 0; h < 2; h++) {
        _mm256_store_ps(s + 8 * h, number(scale, at.at, h));
        if (affine) _mm256_store_ps(b + 8 * h, number(scale, at.at + at.step / 2, h));
    }
}

/* The 8 factors at p, as numbers. */
INLINE __m256 factors(bool is_signed, const uint8_t *p)
{
    __m128i b = _mm_loadl_epi64((const __m128i *)p);
    return _mm256_cvtepi32_ps(is_signed ? _mm256_cvtepi8_epi32(b) : _mm256_cvtepu8_epi32(b));
}
INLINE __m256 nibble_factors(bool upper, const uint8_t *p)
{
    __m128i b = _mm_loadl_epi64((const __m128i *)p);
    b = _mm_and_si128(upper ? _mm_srli_epi16(b, 4) : b, _mm_set1_epi8(15));
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(b));
}

/* AP_QS_SUPER, n groups that share their d and m. */
INLINE void super_scales(bool is_signed, bool nibbles, bool affine, ap_qform f, ap_qscales at,
                         int n, float *s, float *b)
{
    const __m256 unit = _mm256_set1_ps(ap_q_unit(f)), minus = _mm256_set1_ps(-0.0f);
    __m256 d[2], m[2];
    UNROLL
    for (int h = 0; h < 2; h++) {
        d[h] = _mm256_mul_ps(half(at.super + 16 * h), unit);
        m[h] = affine ? _mm256_xor_ps(half(at.super + 32 + 16 * h), minus) : minus;
    }
    for (int g = 0; g < n; g++, at.at += at.step, s += AP_PANEL, b += AP_PANEL) UNROLL
    for (int h = 0; h < 2; h++) {
        const uint8_t *p = at.at + 8 * h;
        _mm256_store_ps(s + 8 * h, _mm256_mul_ps(d[h], nibbles ? nibble_factors(false, p)
                                                               : factors(is_signed, p)));
        if (!affine) continue;
        __m256 of_m = nibbles ? nibble_factors(true, p) : factors(false, p + AP_PANEL);
        _mm256_store_ps(b + 8 * h, _mm256_mul_ps(m[h], of_m));
    }
}

#include "kern/cpu/x86/qscale.h"

/* The last steps of a block or of half a block. */
INLINE __m256 scaled(__m256i sum, const float *s, float d, __m256 acc)
{
    return _mm256_fmadd_ps(_mm256_mul_ps(_mm256_load_ps(s), _mm256_cvtepi32_ps(sum)),
                           _mm256_set1_ps(d), acc);
}
INLINE __m256 biased(const float *b, float xs, __m256 acc)
{
    return _mm256_fmadd_ps(_mm256_load_ps(b), _mm256_set1_ps(xs), acc);
}

/* Minus 128, as signed numbers. */
INLINE __m256i table_of(ap_qform f)
{
    __m256i t = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)ap_qtable[f.table]));
    return _mm256_xor_si256(t, _mm256_set1_epi8(-128));
}

#endif
