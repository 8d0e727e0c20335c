/* qpack_fast.c - packing quantised weights at the speed of memory: whole panels of 16 rows, as 32-bit units
 * of 4 inputs in vectors that every processor has. The bytes are those of qpack.c, the definition.
 *
 * Quads: uint32_t [8][16], the q of 32 inputs x 16 rows, one byte each: quad [j][row] has inputs 4j .. 4j+3. */
#include <string.h>

#include "kern/cpu/pack/qpack.h"
#include "tensor/quant_grids.h"

typedef uint32_t v4 __attribute__((vector_size(16)));
typedef uint32_t quads[8][AP_PANEL];

#define EACH(r) for (int r = 0; r < AP_PANEL; r++)
#define NIBBLES 0x0f0f0f0fu
#define PAIRS   0x03030303u
#define ONES    0x01010101u

static inline uint16_t load16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, 2);
    return v;
}
static inline uint32_t load32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}
static inline v4 load4(const uint8_t *p)
{
    v4 v;
    memcpy(&v, p, 16);
    return v;
}
static inline void store4(uint32_t *p, v4 v)
{
    memcpy(p, &v, 16);
}

/* 16 bytes of 4 rows: w[j] has 32-bit unit j of each. */
static inline void transpose4(const uint8_t *row, size_t stride, v4 w[4])
{
    v4 a = load4(row), b = load4(row + stride), c = load4(row + 2 * stride),
       d = load4(row + 3 * stride);
    v4 ab = __builtin_shufflevector(a, b, 0, 4, 1, 5),
       cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    w[0] = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
    w[1] = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
    ab = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    cd = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    w[2] = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
    w[3] = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}

void ap_q_transpose(const uint8_t *p, size_t stride, int n, uint32_t *out)
{
    for (int r = 0; r < AP_PANEL; r += 4) {
        const uint8_t *row = p + (size_t)r * stride;
        uint32_t *to = out + r;
        for (int j = 0; j < n; j++, row += 16, to += 4 * AP_PANEL) {
            v4 w[4];
            transpose4(row, stride, w);
            for (int i = 0; i < 4; i++) store4(to + i * AP_PANEL, w[i]);
        }
    }
}

/* ------------------------------------------------------------------ quads to packed bits */

static void put(int bits, quads q, uint8_t *dst)
{
    uint32_t *to = (uint32_t *)dst;
    if (bits == 8) {
        memcpy(to, q, sizeof(quads));
        return;
    }
    uint32_t two[4][AP_PANEL];
    for (int i = 0; i < 4; i++)
        EACH(r) two[i][r] = (q[2 * i][r] & NIBBLES) | (q[2 * i + 1][r] & NIBBLES) << 4;
    if (bits >= 4) {
        memcpy(to, two, sizeof two);
        to += 4 * AP_PANEL;
    } else {
        for (int i = 0; i < 4; i += 2, to += AP_PANEL)
            EACH(r) to[r] = (two[i][r] & 0x33333333u) | (two[i + 1][r] & 0x33333333u) << 2;
        if (bits == 3)
            EACH(r)
                to[r] = (two[0][r] >> 2 & 0x11111111u) | (two[1][r] >> 1 & 0x22222222u) |
                        (two[2][r] & 0x44444444u) | (two[3][r] << 1 & 0x88888888u);
    }
    if (bits == 5) {
        EACH(r) to[r] = q[0][r] >> 4 & ONES;
        for (int j = 1; j < 8; j++)
            EACH(r) to[r] |= (q[j][r] >> 4 & ONES) << j;
    } else if (bits == 6) {
        for (int i = 0; i < 8; i += 4, to += AP_PANEL)
            EACH(r)
                to[r] = (q[i][r] >> 4 & PAIRS) | (q[i + 1][r] >> 4 & PAIRS) << 2 |
                        (q[i + 2][r] >> 4 & PAIRS) << 4 | (q[i + 3][r] >> 4 & PAIRS) << 6;
    }
}

/* Byte g of v[row] to to[g * step + row]. */
static void put_bytes(const uint32_t *v, uint8_t *to, size_t step)
{
    for (int g = 0; g < 4; g++, to += step)
        EACH(r) to[r] = (uint8_t)(v[r] >> 8 * g);
}

/* A 16-bit number of each row. */
static void put_halves(const uint8_t *p, size_t stride, uint8_t *to)
{
    EACH(r) memcpy(to + 2 * r, p + (size_t)r * stride, 2);
}

/* The bits of inputs 4j .. 4j+3 of a block, lowest first, to a byte each. */
static inline uint32_t spread(int bits, uint32_t v)
{
    switch (bits) {
    case 2:
        return (v & 3) | (v & 12) << 6 | (v & 0x30) << 12 | (v & 0xc0) << 18;
    case 3:
        return (v & 7) | (v & 0x38) << 5 | (v & 0x1c0) << 10 | (v & 0xe00) << 15;
    case 5:
        return (v & 0x1f) | (v & 0x3e0) << 3 | (v & 0x7c00) << 6 | (v & 0xf8000) << 9;
    default:
        return (v & 0x3f) | (v & 0xfc0) << 2 | (v & 0x3f000) << 4 | (v & 0xfc0000) << 6;
    }
}

/* ------------------------------------------------------------------ GGUF blocks of 32 */

/* 16 bytes: inputs 0 .. 15 in the low nibbles, 16 .. 31 in the high ones. */
static void split_nibbles(const uint8_t *p, size_t stride, quads q)
{
    ap_q_transpose(p, stride, 1, q[0]);
    for (int j = 0; j < 4; j++)
        EACH(r) {
            uint32_t v = q[j][r];
            q[j][r] = v & NIBBLES;
            q[j + 4][r] = v >> 4 & NIBBLES;
        }
}

/* 32 bits per row: bit 4j+i becomes bit 4 of input 4j+i. */
static void add_fifth_bits(const uint8_t *p, size_t stride, quads q)
{
    uint32_t high[AP_PANEL];
    EACH(r) high[r] = load32(p + (size_t)r * stride);
    for (int j = 0; j < 8; j++)
        EACH(r) {
            uint32_t v = high[r] >> 4 * j & 15;
            q[j][r] |= ((v | v << 7 | v << 14 | v << 21) & ONES) << 4;
        }
}

static void pack_simple(ap_dtype t, ap_qform f, const uint8_t *p, size_t stride, int cols,
                        uint8_t *dst)
{
    size_t bytes = ap_dtype_block_bytes(t), step = ap_q_block_bytes(f);
    ap_qscales at = ap_q_scales_at(f, dst, cols, 0);
    uint8_t *scale = dst + (at.at - dst);
    for (int k = 0; k < cols; k += AP_Q_BLOCK, p += bytes, dst += step, scale += at.step) {
        quads q;
        if (t == AP_Q8_0) {
            ap_q_transpose(p + 2, stride, 2, q[0]);
            for (int j = 0; j < 8; j++)
                EACH(r) q[j][r] ^= 0x80808080u;
        } else {
            split_nibbles(p + bytes - 16, stride, q);
            if (t == AP_Q5_0 || t == AP_Q5_1) add_fifth_bits(p + bytes - 20, stride, q);
        }
        put(f.bits, q, dst);
        if (t == AP_MXFP4)
            EACH(r) memcpy(scale + 2 * r, &(uint16_t){ap_half_of_e8m0(p[(size_t)r * stride])}, 2);
        else
            put_halves(p, stride, scale);
        if (f.affine) put_halves(p + 2, stride, scale + at.step / 2);
    }
}

/* ------------------------------------------------------------------ GGUF blocks of 256 */

/* Numbers of 6 bits, less 32, as signed bytes. */
static inline uint32_t less_32(uint32_t v)
{
    v ^= 0x20202020u;
    uint32_t sign = v & 0x20202020u;
    return v | sign << 1 | sign << 2;
}

/* 8 scales and 8 minima of 6 bits in 12 bytes. */
static void put_scale_min(const uint8_t *p, size_t stride, uint8_t *to, size_t step)
{
    uint32_t v[4][AP_PANEL];
    EACH(r) {
        const uint8_t *row = p + (size_t)r * stride;
        uint32_t a = load32(row), b = load32(row + 4), c = load32(row + 8);
        v[0][r] = a & 0x3f3f3f3fu;
        v[1][r] = b & 0x3f3f3f3fu;
        v[2][r] = (c & NIBBLES) | (a >> 6 & PAIRS) << 4;
        v[3][r] = (c >> 4 & NIBBLES) | (b >> 6 & PAIRS) << 4;
    }
    put_bytes(v[0], to, step);
    put_bytes(v[2], to + 4 * step, step);
    put_bytes(v[1], to + AP_PANEL, step);
    put_bytes(v[3], to + 4 * step + AP_PANEL, step);
}

/* 32 bytes of each row: 32 inputs in the low nibbles, those of the next block in the high ones. */
static void put_two_blocks(const uint8_t *p, size_t stride, uint32_t *low, uint32_t *high)
{
    for (int r = 0; r < AP_PANEL; r += 4)
        for (int half = 0; half < 2; half++) {
            v4 w[4];
            transpose4(p + (size_t)r * stride + 16 * half, stride, w);
            for (int i = 0; i < 2; i++) {
                v4 a = w[2 * i], b = w[2 * i + 1];
                int at = (2 * half + i) * AP_PANEL + r;
                store4(low + at, (a & NIBBLES) | (b & NIBBLES) << 4);
                store4(high + at, (a >> 4 & NIBBLES) | (b & ~NIBBLES));
            }
        }
}

/* In each byte of w[0] .. w[7], bit i of w[j] to bit j of w[i]. */
static inline void transpose_bits(v4 w[8])
{
    static const uint32_t mask[] = {0x0f0f0f0fu, 0x33333333u, 0x55555555u};
    for (int s = 0; s < 3; s++)
        for (int n = 4 >> s, i = 0; i < 8; i++) {
            if (i & n) continue;
            v4 swap = (w[i] >> n ^ w[i + n]) & mask[s];
            w[i] ^= swap << n;
            w[i + n] ^= swap;
        }
}

/* 32 bytes of each row: bit g of byte i is the fifth bit of input i of block g; a step from block to block. */
static void put_fifth_bits(const uint8_t *p, size_t stride, uint8_t *dst, size_t step)
{
    for (int r = 0; r < AP_PANEL; r += 4) {
        v4 w[8];
        transpose4(p + (size_t)r * stride, stride, w);
        transpose4(p + (size_t)r * stride + 16, stride, w + 4);
        transpose_bits(w);
        for (int g = 0; g < 8; g++) store4((uint32_t *)(dst + (size_t)g * step) + r, w[g]);
    }
}

static void pack_q45_k(ap_qform f, const uint8_t *p, size_t stride, uint8_t *dst)
{
    size_t step = ap_q_block_bytes(f);
    if (f.bits == 5) put_fifth_bits(p + 16, stride, dst + 256, step);
    p += f.bits == 5 ? 48 : 16;
    for (int g = 0; g < 8; g += 2, p += 32, dst += 2 * step)
        put_two_blocks(p, stride, (uint32_t *)dst, (uint32_t *)(dst + step));
}

static void pack_q6_k(ap_qform f, const uint8_t *p, size_t stride, uint8_t *dst)
{
    uint32_t low[16][AP_PANEL];
    quads high, q;
    for (int g = 0; g < 8; g++, dst += ap_q_block_bytes(f)) {
        if (g % 4 == 0) {
            ap_q_transpose(p + 16 * g, stride, 4, low[0]);
            ap_q_transpose(p + 128 + 8 * g, stride, 2, high[0]);
        }
        int from = g % 2 * 8, by = g % 4 / 2 * 4;
        for (int j = 0; j < 8; j++)
            EACH(r)
                q[j][r] = (low[from + j][r] >> by & NIBBLES) | (high[j][r] >> 2 * (g % 4) & PAIRS)
                                                                   << 4;
        put(f.bits, q, dst);
    }
}

/* Bytes as they are: the factors of Q6_K, those of d and m of Q2_K in the nibbles of a byte. */
static void put_factors_16(const uint8_t *p, size_t stride, uint8_t *to, size_t step)
{
    uint32_t v[4][AP_PANEL];
    ap_q_transpose(p, stride, 1, v[0]);
    for (int i = 0; i < 4; i++) put_bytes(v[i], to + 4 * (size_t)i * step, step);
}

/* high: the third bits of Q3_K, or NULL. */
static void pack_q23_k(ap_qform f, const uint8_t *p, size_t stride, const uint8_t *high,
                       uint8_t *dst)
{
    quads t, h, q;
    if (high) ap_q_transpose(high, stride, 2, h[0]);
    for (int g = 0; g < 8; g++, dst += ap_q_block_bytes(f)) {
        if (g % 4 == 0) ap_q_transpose(p + 8 * g, stride, 2, t[0]);
        for (int j = 0; j < 8; j++)
            EACH(r) q[j][r] = t[j][r] >> 2 * (g % 4) & PAIRS;
        for (int j = 0; j < 8 && high; j++)
            EACH(r) q[j][r] |= (h[j][r] >> g & ONES) << 2;
        put(f.bits, q, dst);
    }
}

static void put_factors_q3_k(const uint8_t *p, size_t stride, uint8_t *to, size_t step)
{
    uint32_t low[2][AP_PANEL], high[AP_PANEL], w[AP_PANEL];
    EACH(r) {
        const uint8_t *row = p + (size_t)r * stride;
        low[0][r] = load32(row);
        low[1][r] = load32(row + 4);
        high[r] = load32(row + 8);
    }
    for (int i = 0; i < 4; i++, to += 4 * step) {
        EACH(r)
            w[r] =
                less_32((low[i % 2][r] >> i / 2 * 4 & NIBBLES) | (high[r] >> 2 * i & PAIRS) << 4);
        put_bytes(w, to, step);
    }
}

static void put_factors_iq4_xs(const uint8_t *p, size_t stride, uint8_t *to, size_t step)
{
    uint32_t w[AP_PANEL];
    for (int i = 0; i < 2; i++, to += 4 * step) {
        EACH(r) {
            const uint8_t *row = p + (size_t)r * stride;
            uint32_t low = load16(row + 2 + 2 * i), high = row[i];
            low = (low | low << 8) & 0x00ff00ffu;
            low = (low | low << 4) & NIBBLES;
            high = (high | high << 12) & 0x000f000fu;
            high = (high | high << 6) & PAIRS;
            w[r] = less_32(low | high << 4);
        }
        put_bytes(w, to, step);
    }
}

static void pack_iq4_xs(ap_qform f, const uint8_t *p, size_t stride, uint8_t *dst)
{
    for (int g = 0; g < 8; g++, dst += ap_q_block_bytes(f)) {
        quads q;
        split_nibbles(p + 16 * g, stride, q);
        put(f.bits, q, dst);
    }
}

/* ------------------------------------------------------------------ GGUF blocks of 256 by codebook */

/* Seven bits of signs; the eighth makes their number even. */
static inline uint32_t even_signs(uint32_t s)
{
    uint32_t odd = s ^ s >> 4;
    odd ^= odd >> 2;
    return s | ((odd ^ odd >> 1) & 1) << 7;
}

/* 4 bits to a byte each */
static inline uint32_t spread_ones(uint32_t v)
{
    return (v | v << 7 | v << 14 | v << 21) & ONES;
}

/* 8 inputs: entries of 8 numbers of 2 bits, signs of 8 bits. */
static void put_iq2(const uint32_t *code, const uint32_t *signs, uint32_t (*q)[AP_PANEL])
{
    EACH(r) q[0][r] = spread(2, code[r] & 255) | spread_ones(signs[r] & 15) << 2;
    EACH(r) q[1][r] = spread(2, code[r] >> 8) | spread_ones(signs[r] >> 4) << 2;
}

/* 4 inputs: entries of 4 numbers of 3 bits, signs of 4 bits. */
static void put_iq3(const uint32_t *code, const uint32_t *signs, uint32_t *q)
{
    EACH(r) q[r] = spread(3, code[r]) | spread_ones(signs[r] & 15) << 3;
}

/* 8 words of a row: v[i][row] is word `every` * i from p on */
static void load_words(const uint8_t *p, size_t stride, int every, uint32_t (*v)[AP_PANEL])
{
    EACH(r)
        for (int i = 0; i < 8; i++) v[i][r] = load32(p + (size_t)r * stride + 4 * every * i);
}

/* Factors 1 + 2n of nibbles n: word i of a row has those of groups 8i .. 8i+7. */
static void put_odd_factors(const uint8_t *p, size_t stride, int n_word, uint8_t *to, size_t step)
{
    uint32_t v[AP_PANEL], even[AP_PANEL], odd[AP_PANEL];
    for (int i = 0; i < n_word; i++, p += 4, to += 8 * step) {
        EACH(r) v[r] = load32(p + (size_t)r * stride);
        EACH(r) even[r] = (v[r] & NIBBLES) << 1 | ONES;
        EACH(r) odd[r] = (v[r] >> 4 & NIBBLES) << 1 | ONES;
        put_bytes(even, to, 2 * step);
        put_bytes(odd, to + step, 2 * step);
    }
}

/* Of the upper 4 bits of the words that also have 4 x 7 signs. */
static void put_word_factors(uint32_t (*word)[AP_PANEL], uint8_t *to, size_t step)
{
    for (int g = 0; g < 8; g++, to += step)
        EACH(r) to[r] = (uint8_t)(word[g][r] >> 28 << 1 | 1);
}

static void pack_iq2_xxs(ap_qform f, const uint8_t *p, size_t stride, uint8_t *factor,
                         size_t factor_step, uint8_t *dst)
{
    uint32_t entries[8][AP_PANEL], words[8][AP_PANEL], code[AP_PANEL], signs[AP_PANEL];
    load_words(p + 2, stride, 2, entries);
    load_words(p + 6, stride, 2, words);
    put_word_factors(words, factor, factor_step);
    for (int g = 0; g < 8; g++, dst += ap_q_block_bytes(f)) {
        quads q;
        for (int l = 0; l < 4; l++) {
            EACH(r) code[r] = ap_grid_iq2_xxs[entries[g][r] >> 8 * l & 255];
            EACH(r) signs[r] = even_signs(words[g][r] >> 7 * l & 127);
            put_iq2(code, signs, q + 2 * l);
        }
        put(f.bits, q, dst);
    }
}

static void pack_iq2_xs(ap_qform f, const uint8_t *p, size_t stride, uint8_t *dst)
{
    for (int g = 0; g < 8; g++, p += 8, dst += ap_q_block_bytes(f)) {
        uint32_t code[AP_PANEL], signs[AP_PANEL];
        quads q;
        for (int l = 0; l < 4; l++) {
            EACH(r) signs[r] = load16(p + (size_t)r * stride + 2 * l);
            EACH(r) code[r] = ap_grid_iq2_xs[signs[r] & 511];
            EACH(r) signs[r] = even_signs(signs[r] >> 9);
            put_iq2(code, signs, q + 2 * l);
        }
        put(f.bits, q, dst);
    }
}

/* p: entries' low bytes [32], signs [32], entries' high bits [8] */
static void pack_iq2_s(ap_qform f, const uint8_t *p, size_t stride, uint8_t *dst)
{
    for (int g = 0; g < 8; g++, dst += ap_q_block_bytes(f)) {
        uint32_t low[AP_PANEL], high[AP_PANEL], word[AP_PANEL], code[AP_PANEL], signs[AP_PANEL];
        quads q;
        EACH(r) {
            const uint8_t *row = p + (size_t)r * stride;
            low[r] = load32(row + 4 * g);
            word[r] = load32(row + 32 + 4 * g);
            high[r] = row[64 + g];
        }
        for (int l = 0; l < 4; l++) {
            EACH(r) code[r] = ap_grid_iq2_s[(low[r] >> 8 * l & 255) | (high[r] >> 2 * l & 3) << 8];
            EACH(r) signs[r] = word[r] >> 8 * l & 255;
            put_iq2(code, signs, q + 2 * l);
        }
        put(f.bits, q, dst);
    }
}

static void pack_iq3_xxs(ap_qform f, const uint8_t *p, size_t stride, uint8_t *factor,
                         size_t factor_step, uint8_t *dst)
{
    uint32_t words[8][AP_PANEL], code[AP_PANEL], signs[AP_PANEL];
    load_words(p + 66, stride, 1, words);
    put_word_factors(words, factor, factor_step);
    for (int g = 0; g < 8; g++, dst += ap_q_block_bytes(f)) {
        quads q;
        for (int e = 0; e < 8; e++) {
            EACH(r) code[r] = ap_grid_iq3_xxs[p[(size_t)r * stride + (size_t)(2 + 8 * g + e)]];
            if (e % 2 == 0)
                EACH(r) signs[r] = even_signs(words[g][r] >> 7 * (e / 2) & 127);
            else
                EACH(r) signs[r] >>= 4;
            put_iq3(code, signs, q[e]);
        }
        put(f.bits, q, dst);
    }
}

/* p: entries' low bytes [64], their ninth bits [8], signs [32] */
static void pack_iq3_s(ap_qform f, const uint8_t *p, size_t stride, uint8_t *dst)
{
    for (int g = 0; g < 8; g++, dst += ap_q_block_bytes(f)) {
        uint32_t high[AP_PANEL], word[AP_PANEL], code[AP_PANEL], signs[AP_PANEL];
        quads q;
        EACH(r) high[r] = p[(size_t)r * stride + (size_t)(64 + g)];
        EACH(r) word[r] = load32(p + (size_t)r * stride + 72 + 4 * g);
        for (int e = 0; e < 8; e++) {
            EACH(r)
                code[r] = ap_grid_iq3_s[p[(size_t)r * stride + (size_t)(8 * g + e)] |
                                        (high[r] >> e & 1) << 8];
            EACH(r) signs[r] = word[r] >> 4 * e;
            put_iq3(code, signs, q[e]);
        }
        put(f.bits, q, dst);
    }
}

static void pack_super(ap_dtype t, ap_qform f, const uint8_t *p, size_t stride, int cols,
                       uint8_t *dst)
{
    size_t bytes = ap_dtype_block_bytes(t), step = AP_Q_SUPER / AP_Q_BLOCK * ap_q_block_bytes(f);
    int d = t == AP_Q6_K ? 208 : t == AP_Q2_K ? 80 : t == AP_Q3_K ? 108 : 0;
    ap_qscales at = ap_q_scales_at(f, dst, cols, 0);
    uint8_t *super = dst + (at.super - dst), *factor = dst + (at.at - dst);
    for (int k = 0; k < cols; k += AP_Q_SUPER, p += bytes, dst += step) {
        put_halves(p + d, stride, super);
        if (f.affine) put_halves(p + d + 2, stride, super + 32);
        switch (t) {
        case AP_Q4_K:
        case AP_Q5_K:
            put_scale_min(p + 4, stride, factor, at.step);
            pack_q45_k(f, p, stride, dst);
            break;
        case AP_Q6_K:
            put_factors_16(p + 192, stride, factor, at.step);
            pack_q6_k(f, p, stride, dst);
            break;
        case AP_Q2_K:
            put_factors_16(p, stride, factor, at.step);
            pack_q23_k(f, p + 16, stride, NULL, dst);
            break;
        case AP_Q3_K:
            put_factors_q3_k(p + 96, stride, factor, at.step);
            pack_q23_k(f, p + 32, stride, p, dst);
            break;
        case AP_IQ2_XXS:
            pack_iq2_xxs(f, p, stride, factor, at.step, dst);
            break;
        case AP_IQ2_XS:
            put_odd_factors(p + 66, stride, 2, factor, at.step);
            pack_iq2_xs(f, p + 2, stride, dst);
            break;
        case AP_IQ2_S:
            put_odd_factors(p + 74, stride, 2, factor, at.step);
            pack_iq2_s(f, p + 2, stride, dst);
            break;
        case AP_IQ3_XXS:
            pack_iq3_xxs(f, p, stride, factor, at.step, dst);
            break;
        case AP_IQ3_S:
            put_odd_factors(p + 106, stride, 1, factor, at.step);
            pack_iq3_s(f, p + 2, stride, dst);
            break;
        default:
            put_factors_iq4_xs(p + 2, stride, factor, at.step);
            pack_iq4_xs(f, p + 8, stride, dst);
            break;
        }
        super += f.affine ? 64 : 32;
        factor += AP_Q_SUPER / f.group * at.step;
    }
}

/* ------------------------------------------------------------------ split types */

/* 4 * bits bytes of each row, 4 of them read at a time but none behind the last. */
static inline void read_odd(int bits, const uint8_t *p, size_t stride, quads q)
{
    for (int j = 0; j < 8; j++) {
        int at = j * bits / 2, last = 4 * bits - 4;
        if (at > last) at = last;
        int shift = 4 * bits * j - 8 * at;
        EACH(r) q[j][r] = load32(p + (size_t)r * stride + at);
        EACH(r) q[j][r] = spread(bits, q[j][r] >> shift);
    }
}

static void read_split(int bits, const uint8_t *p, size_t stride, quads q)
{
    if (bits == 8) {
        ap_q_transpose(p, stride, 2, q[0]);
    } else if (bits == 4) { /* unit j has inputs 8j .. 8j+7 */
        uint32_t t[4][AP_PANEL];
        ap_q_transpose(p, stride, 1, t[0]);
        for (int j = 0; j < 8; j++)
            EACH(r) {
                uint32_t v = t[j / 2][r] >> 16 * (j % 2) & 0xffff;
                v = (v | v << 8) & 0x00ff00ffu;
                q[j][r] = (v | v << 4) & NIBBLES;
            }
    } else if (bits == 2) {
        read_odd(2, p, stride, q);
    } else if (bits == 3) {
        read_odd(3, p, stride, q);
    } else if (bits == 5) {
        read_odd(5, p, stride, q);
    } else {
        read_odd(6, p, stride, q);
    }
}

/* Number `i` of each row's groups; rows are `stride` bytes apart. */
static void put_split_scale(const ap_tensor *t, const uint8_t *p, size_t stride, uint8_t *to)
{
    if (t->scale_dtype == AP_F32) {
        EACH(r) memcpy(to + 4 * r, p + (size_t)r * stride, 4);
    } else if (t->scale_dtype == AP_F16 || t->scale_dtype == AP_BF16) {
        put_halves(p, stride, to);
    } else {
        EACH(r) {
            uint16_t v = (uint16_t)ap_q_split_scale(t, p + (size_t)r * stride);
            memcpy(to + 2 * r, &v, 2);
        }
    }
}

static void pack_split(const ap_tensor *t, ap_qform f, size_t row, uint8_t *dst)
{
    int cols = (int)t->shape[1], n_group = (cols + f.group - 1) / f.group;
    size_t size = ap_dtype_bytes(t->scale_dtype), per_row = (size_t)n_group * size;
    size_t stride = ap_tensor_row_bytes(t), first = row / (size_t)t->group_rows * per_row;
    size_t scale_stride = t->group_rows > 1 ? 0 : per_row;
    const uint8_t *p = (const uint8_t *)t->data + row * stride;
    ap_qscales at = ap_q_scales_at(f, dst, cols, 0);
    uint8_t *scale = dst + (at.at - dst);
    for (int k = 0; k < cols; k += AP_Q_BLOCK, p += 4 * t->bits, dst += ap_q_block_bytes(f)) {
        quads q;
        read_split(t->bits, p, stride, q);
        put(f.bits, q, dst);
    }
    for (int g = 0; g < n_group; g++, scale += at.step, first += size) {
        put_split_scale(t, (const uint8_t *)t->scales + first, scale_stride, scale);
        if (f.affine)
            put_split_scale(t, (const uint8_t *)t->biases + first, scale_stride,
                            scale + at.step / 2);
    }
}

bool ap_q_pack_panel_fast(const ap_tensor *src, ap_qform f, int p, uint8_t *dst)
{
    size_t row = (size_t)p * AP_PANEL, stride = ap_tensor_row_bytes(src);
    int cols = (int)src->shape[1];
    if (row + AP_PANEL > (size_t)src->shape[0] ||
        (src->group_rows > 1 && src->group_rows % AP_PANEL))
        return false;
    memset(dst + ap_q_panel_bytes(f, cols) - 64, 0, 64); /* padding */
    if (ap_dtype_block(src->dtype) == 0) {
        pack_split(src, f, row, dst);
        return true;
    }
    const uint8_t *data = (const uint8_t *)src->data + row * stride;
    if (f.scale == AP_QS_SUPER)
        pack_super(src->dtype, f, data, stride, cols, dst);
    else
        pack_simple(src->dtype, f, data, stride, cols, dst);
    return true;
}
