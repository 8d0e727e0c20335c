/* qload_avx512.h - a packed panel's bits (kern.h, qpack.h) to vectors of q and of scales. For files of the
 * level avx512. */
#ifndef AP_KERN_CPU_X86_QLOAD_AVX512_H
#define AP_KERN_CPU_X86_QLOAD_AVX512_H

#include <immintrin.h>

#include "kern/cpu/micro/micro_qdot.h"

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

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

INLINE int stored_bits(int kind)
{
    return kind == TABLE3 ? 3 : kind == TABLE ? 4 : kind;
}

/* Vectors 2i and 2i+1 of a block in the nibbles of one: their numbers of up to 4 bits, before the table, or
 * the low 4 bits. */
INLINE __m512i load_nibbles(int bits, const uint8_t *p, int i)
{
    if (bits >= 4) return _mm512_load_si512(p + 64 * i);
    __m512i w = _mm512_load_si512(p + i / 2 * 64);
    w = _mm512_and_si512(i % 2 ? _mm512_srli_epi32(w, 2) : w, _mm512_set1_epi8(0x33));
    if (bits == 2) return w;
    __m512i h = _mm512_load_si512(p + 128);
    h = i < 2 ? _mm512_slli_epi32(h, (unsigned)(2 - i)) : i > 2 ? _mm512_srli_epi32(h, 1) : h;
    return _mm512_ternarylogic_epi32(w, h, _mm512_set1_epi8(0x44), 0xf8); /* w | h & 0x44 */
}

/* Vectors 2i and 2i+1 of a block. */
INLINE void load_pair(int kind, const uint8_t *p, int i, __m512i table, __m512i v[2])
{
    const __m512i low = _mm512_set1_epi8(15);
    if (kind == 8) {
        v[0] = _mm512_load_si512(p + 128 * i);
        v[1] = _mm512_load_si512(p + 128 * i + 64);
        return;
    }
    __m512i w = load_nibbles(stored_bits(kind), p, i);
    v[0] = _mm512_and_si512(w, low);
    v[1] = _mm512_and_si512(_mm512_srli_epi16(w, 4), low);
    if (kind == TABLE || kind == TABLE3) {
        v[0] = _mm512_shuffle_epi8(table, v[0]);
        v[1] = _mm512_shuffle_epi8(table, v[1]);
    } else if (kind == 5) {
        const __m512i bit = _mm512_set1_epi8(16);
        __m512i h = _mm512_load_si512(p + 256);
        UNROLL
        for (int j = 2 * i; j < 2 * i + 2; j++) {
            __m512i s = j < 4 ? _mm512_slli_epi32(h, (unsigned)(4 - j))
                              : _mm512_srli_epi32(h, (unsigned)(j - 4));
            v[j % 2] = _mm512_ternarylogic_epi32(v[j % 2], s, bit, 0xf8); /* v | s & bit */
        }
    } else if (kind == 6) {
        const __m512i two = _mm512_set1_epi8(48);
        __m512i h = _mm512_load_si512(p + 256 + i / 2 * 64);
        UNROLL
        for (int j = 2 * i; j < 2 * i + 2; j++) {
            int shift = 4 - 2 * (j % 4);
            __m512i s =
                shift >= 0 ? _mm512_slli_epi32(h, (unsigned)shift) : _mm512_srli_epi32(h, 2);
            v[j % 2] = _mm512_ternarylogic_epi32(v[j % 2], s, two, 0xf8);
        }
    }
}

INLINE void load_block(int kind, const uint8_t *p, __m512i table, __m512i v[8])
{
    UNROLL
    for (int i = 0; i < 4; i++) load_pair(kind, p, i, table, v + 2 * i);
}

/* The same pair as 16-bit numbers: inputs 0 and 2 of each four, then 1 and 3. */
INLINE void load_words(int kind, const uint8_t *p, int i, __m512i table, __m512i v[4])
{
    const bool by_four = kind >= 2 && kind <= 4;
    const __m512i low = _mm512_set1_epi16(by_four ? 15 : 255);
    if (by_four) {
        __m512i w = load_nibbles(kind, p, i);
        v[0] = _mm512_and_si512(w, low);
        v[1] = _mm512_and_si512(_mm512_srli_epi16(w, 8), low);
        v[2] = _mm512_and_si512(_mm512_srli_epi16(w, 4), low);
        v[3] = _mm512_srli_epi16(w, 12);
        return;
    }
    __m512i q[2];
    load_pair(kind, p, i, table, q);
    UNROLL
    for (int j = 0; j < 2; j++) {
        v[2 * j] = _mm512_and_si512(q[j], low);
        v[2 * j + 1] = _mm512_srli_epi16(q[j], 8);
    }
}

/* ------------------------------------------------------------------ scales */

INLINE __m512 half(const uint8_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
INLINE __m512 brain(const uint8_t *p)
{
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}
INLINE __m512i bytes(const uint8_t *p)
{
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
}
INLINE __m512i signed_bytes(const uint8_t *p)
{
    return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p));
}

/* s and b of a group whose factors are at p; d, m: those of its 256 inputs. */
INLINE __m512 super_scale(bool is_signed, bool nibbles, __m512 d, const uint8_t *p)
{
    __m512i n = is_signed ? signed_bytes(p) : bytes(p);
    if (nibbles) n = _mm512_and_si512(n, _mm512_set1_epi32(15));
    return _mm512_mul_ps(d, _mm512_cvtepi32_ps(n));
}
INLINE __m512 super_bias(bool nibbles, __m512 m, const uint8_t *p)
{
    __m512i n = nibbles ? _mm512_srli_epi32(bytes(p), 4) : bytes(p + AP_PANEL);
    __m512 v = _mm512_mul_ps(m, _mm512_cvtepi32_ps(n));
    return _mm512_castsi512_ps(
        _mm512_xor_si512(_mm512_castps_si512(v), _mm512_set1_epi32((int)0x80000000u)));
}

INLINE __m512 scale_number(int scale, const uint8_t *p)
{
    return scale == AP_QS_F16    ? half(p)
           : scale == AP_QS_BF16 ? brain(p)
                                 : _mm512_loadu_ps((const float *)p);
}

/* n groups, each number `times` times. */
INLINE void plain_scales(int scale, bool affine, ap_qscales at, int n, int times, float *s,
                         float *b)
{
    for (int g = 0; g < n; g++, at.at += at.step) {
        __m512 vs = scale_number(scale, at.at),
               vb = affine ? scale_number(scale, at.at + at.step / 2) : vs;
        for (int i = 0; i < times; i++, s += AP_PANEL, b += AP_PANEL) {
            _mm512_store_ps(s, vs);
            if (affine) _mm512_store_ps(b, vb);
        }
    }
}

/* AP_QS_SUPER, n groups that share their d and m. */
INLINE void super_scales(bool is_signed, bool nibbles, bool affine, ap_qform f, ap_qscales at,
                         int n, float *s, float *b)
{
    __m512 d = _mm512_mul_ps(half(at.super), _mm512_set1_ps(ap_q_unit(f))),
           m = affine ? half(at.super + 32) : d;
    for (int g = 0; g < n; g++, at.at += at.step, s += AP_PANEL, b += AP_PANEL) {
        _mm512_store_ps(s, super_scale(is_signed, nibbles, d, at.at));
        if (affine) _mm512_store_ps(b, super_bias(nibbles, m, at.at));
    }
}

#include "kern/cpu/x86/qscale.h"

INLINE __m512i table_of(ap_qform f)
{
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)ap_qtable[f.table]));
}

#endif
