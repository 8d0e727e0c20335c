/* qpack.c - quantised weights from the file's form to the integer form of kern.h: the definition, a number
 * at a time, which serves panels that are not whole. qpack_fast.c packs the others. */
#include "kern/cpu/pack/qpack.h"

#include <string.h>

#include "base/mem.h"
#include "tensor/quant_grids.h"

const uint8_t ap_qtable[6][16] = {
    {0},
    {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241},
    {128, 129, 130, 131, 132, 134, 136, 140, 128, 127, 126, 125, 124, 122, 120, 116},
    {130, 134, 138, 142, 146, 150, 154, 159, 126, 122, 118, 114, 110, 106, 102, 97},
    {129, 131, 133, 135, 137, 139, 141, 143, 127, 125, 123, 121, 119, 117, 115, 113},
    {136, 153, 171, 128, 120, 103, 85, 128, 136, 153, 171, 128, 120, 103, 85, 128},
};

/* ------------------------------------------------------------------ forms */

static const ap_qform forms[AP_DTYPE_COUNT] = {
    [AP_Q4_0] = {.bits = 4, .scale = AP_QS_F16, .group = 32, .zero = 8},
    [AP_Q4_1] = {.bits = 4, .scale = AP_QS_F16, .group = 32, .affine = true},
    [AP_Q5_0] = {.bits = 5, .scale = AP_QS_F16, .group = 32, .zero = 16},
    [AP_Q5_1] = {.bits = 5, .scale = AP_QS_F16, .group = 32, .affine = true},
    [AP_Q8_0] = {.bits = 8, .scale = AP_QS_F16, .group = 32, .zero = 128},
    [AP_Q2_K] = {.bits = 2, .scale = AP_QS_SUPER, .nibbles = true, .group = 16, .affine = true},
    [AP_Q3_K] = {.bits = 3, .scale = AP_QS_SUPER, .is_signed = true, .group = 16, .zero = 4},
    [AP_Q4_K] = {.bits = 4, .scale = AP_QS_SUPER, .group = 32, .affine = true},
    [AP_Q5_K] = {.bits = 5, .scale = AP_QS_SUPER, .group = 32, .affine = true},
    [AP_Q6_K] = {.bits = 6, .scale = AP_QS_SUPER, .is_signed = true, .group = 16, .zero = 32},
    /* d (1/2 + n) / 4 times 8, 25, 43; d (1/2 + n) / 2 times 4, 12, ...; d (1 + 2n) times 1, 3, ...: factors
     * are 1 + 2n, and all products are exact */
    [AP_IQ2_XXS] =
        {.bits = 3, .table = 5, .scale = AP_QS_SUPER, .shift = 3, .group = 32, .zero = 128},
    [AP_IQ2_XS] =
        {.bits = 3, .table = 5, .scale = AP_QS_SUPER, .shift = 3, .group = 16, .zero = 128},
    [AP_IQ2_S] =
        {.bits = 3, .table = 5, .scale = AP_QS_SUPER, .shift = 3, .group = 16, .zero = 128},
    [AP_IQ3_XXS] =
        {.bits = 4, .table = 3, .scale = AP_QS_SUPER, .shift = 1, .group = 32, .zero = 128},
    [AP_IQ3_S] = {.bits = 4, .table = 4, .scale = AP_QS_SUPER, .group = 32, .zero = 128},
    [AP_IQ4_NL] = {.bits = 4, .table = 1, .scale = AP_QS_F16, .group = 32, .zero = 128},
    [AP_IQ4_XS] =
        {.bits = 4, .table = 1, .scale = AP_QS_SUPER, .is_signed = true, .group = 32, .zero = 128},
    [AP_MXFP4] = {.bits = 4, .table = 2, .scale = AP_QS_BF16, .group = 32, .zero = 128},
    [AP_MLX_MXFP4] = {.bits = 4, .table = 2, .scale = AP_QS_BF16, .group = 32, .zero = 128},
    [AP_MLX_NVFP4] = {.bits = 4, .table = 2, .scale = AP_QS_BF16, .group = 16, .zero = 128},
    [AP_MLX_MXFP8] = {.bits = 8, .is_float = true, .scale = AP_QS_BF16, .group = 32},
};

static ap_qform affine_form(const ap_tensor *t)
{
    ap_qform f = {.affine = true};
    if (t->bits < 2 || t->bits == 7 || t->bits > 8 ||
        (t->group != 32 && t->group != 64 && t->group != 128))
        return f;
    if (t->scale_dtype == AP_F16)
        f.scale = AP_QS_F16;
    else if (t->scale_dtype == AP_BF16)
        f.scale = AP_QS_BF16;
    else if (t->scale_dtype == AP_F32)
        f.scale = AP_QS_F32;
    else
        return f;
    f.group = (uint8_t)t->group;
    f.bits = (uint8_t)t->bits;
    return f;
}

static ap_qform fp8_form(const ap_tensor *t)
{
    ap_qform f = {.is_float = true, .group = 128, .scale = AP_QS_F32};
    if (t->bits != 8 || t->group != 128) return f;
    if (t->scale_dtype == AP_BF16)
        f.scale = AP_QS_BF16;
    else if (t->scale_dtype != AP_F32)
        return f;
    f.bits = 8;
    return f;
}

ap_qform ap_q_form(const ap_tensor *t)
{
    ap_qform none = {0}, f;
    if (t->rank != 2 || (unsigned)t->dtype >= AP_DTYPE_COUNT) return none;
    f = t->dtype == AP_MLX_AFFINE  ? affine_form(t)
        : t->dtype == AP_FP8_BLOCK ? fp8_form(t)
                                   : forms[t->dtype];
    if (!f.bits || t->shape[0] <= 0 || t->shape[1] <= 0 || t->shape[1] > AP_Q_MAX_COLS) return none;
    int unit = f.scale == AP_QS_SUPER                ? AP_Q_SUPER
               : f.group > AP_Q_BLOCK && !f.is_float ? f.group
                                                     : AP_Q_BLOCK;
    return t->shape[1] % unit == 0 ? f : none;
}

size_t ap_q_panel_bytes(ap_qform f, int cols)
{
    size_t n = (size_t)cols, per = (size_t)AP_PANEL * (f.affine ? 2 : 1);
    size_t scales = (n + f.group - 1) / f.group * per;
    if (f.nibbles) scales /= 2;
    if (f.scale == AP_QS_SUPER)
        scales += n / AP_Q_SUPER * per * 2;
    else
        scales *= f.scale == AP_QS_F32 ? 4 : 2;
    return n / AP_Q_BLOCK * ap_q_block_bytes(f) + ap_round_up(scales, 64);
}

/* ------------------------------------------------------------------ reading rows */

/* Up to 256 inputs of a row: numbers before they are interleaved. s and b hold the bits of each
 * group's scale and bias, or the factors of d and m. */
typedef struct chunk {
    uint8_t q[AP_Q_SUPER];
    uint32_t s[AP_Q_SUPER / 16], b[AP_Q_SUPER / 16];
    uint16_t d, m;
} chunk;

static uint16_t load16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}
static uint32_t load32(const uint8_t *p)
{
    return (uint32_t)load16(p) | (uint32_t)load16(p + 2) << 16;
}

/* 16 bytes of nibbles: inputs 0..15 low, 16..31 high */
static void nibbles(const uint8_t *p, uint8_t *q)
{
    for (int j = 0; j < 16; j++) {
        q[j] = p[j] & 15;
        q[j + 16] = p[j] >> 4;
    }
}

/* Blocks of 32 with their own scale. */
static void read_simple(ap_dtype t, const uint8_t *p, int n, chunk *c)
{
    size_t bytes = ap_dtype_block_bytes(t);
    for (int i = 0; i < n / 32; i++, p += bytes) {
        uint8_t *q = c->q + 32 * i;
        c->s[i] = t == AP_MXFP4 ? ap_half_of_e8m0(p[0]) : load16(p);
        if (t == AP_Q4_1 || t == AP_Q5_1) c->b[i] = load16(p + 2);
        if (t == AP_Q8_0) {
            for (int j = 0; j < 32; j++) q[j] = p[2 + j] ^ 0x80;
            continue;
        }
        nibbles(p + bytes - 16, q);
        if (t != AP_Q5_0 && t != AP_Q5_1) continue;
        uint32_t high = load32(p + bytes - 20);
        for (int j = 0; j < 32; j++) q[j] |= (uint8_t)((high >> j & 1) << 4);
    }
}

/* Scales and minima of 6 bits in the 12 bytes of Q4_K and Q5_K. */
static void read_scale_min(const uint8_t *p, chunk *c)
{
    for (int j = 0; j < 4; j++) {
        c->s[j] = p[j] & 63;
        c->b[j] = p[j + 4] & 63;
        c->s[j + 4] = (p[j + 8] & 15) | (uint32_t)(p[j] >> 6) << 4;
        c->b[j + 4] = p[j + 8] >> 4 | (uint32_t)(p[j + 4] >> 6) << 4;
    }
}

static void read_q45_k(ap_dtype t, const uint8_t *p, chunk *c)
{
    const uint8_t *high = p + 16, *q = t == AP_Q5_K ? p + 48 : p + 16;
    c->d = load16(p);
    c->m = load16(p + 2);
    read_scale_min(p + 4, c);
    for (int i = 0; i < 256; i++) {
        int g = i / 32, j = i % 32;
        c->q[i] = q[g / 2 * 32 + j] >> 4 * (g & 1) & 15;
        if (t == AP_Q5_K) c->q[i] |= (uint8_t)((high[j] >> g & 1) << 4);
    }
}

static void read_q6_k(const uint8_t *p, chunk *c)
{
    c->d = load16(p + 208);
    for (int g = 0; g < 16; g++) c->s[g] = p[192 + g];
    for (int i = 0; i < 256; i++) {
        int half = i / 128, quarter = i / 32 % 4, j = i % 32;
        int low = p[64 * half + 32 * (quarter & 1) + j] >> 4 * (quarter >> 1) & 15;
        c->q[i] = (uint8_t)(low | (p[128 + 32 * half + j] >> 2 * quarter & 3) << 4);
    }
}

static void read_q2_k(const uint8_t *p, chunk *c)
{
    c->d = load16(p + 80);
    c->m = load16(p + 82);
    for (int g = 0; g < 16; g++) {
        c->s[g] = p[g] & 15;
        c->b[g] = p[g] >> 4;
    }
    for (int i = 0; i < 256; i++) c->q[i] = p[16 + i / 128 * 32 + i % 32] >> 2 * (i / 32 % 4) & 3;
}

static void read_q3_k(const uint8_t *p, chunk *c)
{
    const uint8_t *packed = p + 96;
    c->d = load16(p + 108);
    for (int g = 0; g < 16; g++) {
        int low = g < 8 ? packed[g] & 15 : packed[g - 8] >> 4;
        c->s[g] = (uint8_t)((low | (packed[8 + g % 4] >> 2 * (g / 4) & 3) << 4) - 32);
    }
    for (int i = 0; i < 256; i++) {
        int j = i % 32, low = p[32 + i / 128 * 32 + j] >> 2 * (i / 32 % 4) & 3;
        c->q[i] = (uint8_t)(low | (p[j] >> i / 32 & 1) << 2);
    }
}

static void read_iq4_xs(const uint8_t *p, chunk *c)
{
    uint32_t high = load16(p + 2);
    c->d = load16(p);
    for (int g = 0; g < 8; g++) {
        int scale = (p[4 + g / 2] >> 4 * (g % 2) & 15) | (int)(high >> 2 * g & 3) << 4;
        c->s[g] = (uint8_t)(scale - 32);
        nibbles(p + 8 + 16 * g, c->q + 32 * g);
    }
}

/* Seven stored signs; the eighth makes their number even. */
static uint32_t even_signs(uint32_t s)
{
    return s | (uint32_t)(__builtin_popcount(s) & 1) << 7;
}

/* n inputs of an entry of `size` bits each, a sign bit on top. */
static void read_entry(uint32_t code, int size, int n, uint32_t signs, uint8_t *q)
{
    for (int j = 0; j < n; j++)
        q[j] = (uint8_t)((code >> size * j & ((1u << size) - 1)) | (signs >> j & 1) << size);
}

static void read_iq2_xxs(const uint8_t *p, chunk *c)
{
    c->d = load16(p);
    for (int i = 0; i < 32; i++) {
        const uint8_t *group = p + 2 + i / 4 * 8;
        uint32_t word = load32(group + 4);
        c->s[i / 4] = 2 * (word >> 28) + 1;
        read_entry(ap_grid_iq2_xxs[group[i % 4]], 2, 8, even_signs(word >> 7 * (i % 4) & 127),
                   c->q + 8 * i);
    }
}

static void read_iq2(ap_dtype t, const uint8_t *p, chunk *c)
{
    const uint8_t *scales = p + (t == AP_IQ2_XS ? 66 : 74);
    c->d = load16(p);
    for (int g = 0; g < 16; g++) c->s[g] = 2 * (uint32_t)(scales[g / 2] >> 4 * (g % 2) & 15) + 1;
    for (int i = 0; i < 32; i++) {
        uint32_t word = load16(p + 2 + 2 * i),
                 entry = p[2 + i] | (uint32_t)(p[66 + i / 4] >> 2 * (i % 4) & 3) << 8;
        if (t == AP_IQ2_XS)
            read_entry(ap_grid_iq2_xs[word & 511], 2, 8, even_signs(word >> 9), c->q + 8 * i);
        else
            read_entry(ap_grid_iq2_s[entry], 2, 8, p[34 + i], c->q + 8 * i);
    }
}

static void read_iq3_xxs(const uint8_t *p, chunk *c)
{
    c->d = load16(p);
    for (int i = 0; i < 64; i++) {
        uint32_t word = load32(p + 66 + i / 8 * 4), signs = even_signs(word >> i % 8 / 2 * 7 & 127);
        c->s[i / 8] = 2 * (word >> 28) + 1;
        read_entry(ap_grid_iq3_xxs[p[2 + i]], 3, 4, signs >> i % 2 * 4, c->q + 4 * i);
    }
}

static void read_iq3_s(const uint8_t *p, chunk *c)
{
    c->d = load16(p);
    for (int i = 0; i < 64; i++) {
        uint32_t entry = p[2 + i] | (uint32_t)(p[66 + i / 8] >> i % 8 & 1) << 8;
        c->s[i / 8] = 2 * (uint32_t)(p[106 + i / 16] >> i / 8 % 2 * 4 & 15) + 1;
        read_entry(ap_grid_iq3_s[entry], 3, 4, p[74 + i / 2] >> i % 2 * 4, c->q + 4 * i);
    }
}

/* e4m3 / 2 as bf16: exact */
static uint16_t half_of_e4m3(uint8_t b)
{
    int exp = b >> 3 & 15, frac = b & 7;
    float v = exp ? (float)(8 + frac) * (float)(1 << exp) / 2048.0f : (float)frac / 1024.0f;
    if ((b & 0x7f) == 0x7f) return 0x7fc0;
    return ap_f32_to_bf16(b & 0x80 ? -v : v);
}

uint32_t ap_q_split_scale(const ap_tensor *t, const uint8_t *p)
{
    if (t->dtype == AP_MLX_MXFP4) return *p == 255 ? 0x7fc0 : ap_half_of_e8m0(*p);
    if (t->dtype == AP_MLX_MXFP8) return *p == 255 ? 0x7fc0 : *p ? (uint32_t)*p << 7 : 0x40;
    if (t->dtype == AP_MLX_NVFP4) return half_of_e4m3(*p);
    return t->scale_dtype == AP_F32 ? load32(p) : load16(p);
}

static void read_split(const ap_tensor *t, size_t row, int k0, int n, chunk *c)
{
    size_t group = (size_t)t->group, per_row = ((size_t)t->shape[1] + group - 1) / group;
    size_t first = row / (size_t)t->group_rows * per_row + (size_t)k0 / group;
    const uint8_t *p =
        (const uint8_t *)t->data + row * ap_tensor_row_bytes(t) + (size_t)k0 * (size_t)t->bits / 8;
    size_t size = ap_dtype_bytes(t->scale_dtype);
    for (size_t g = 0; g < ((size_t)n + group - 1) / group; g++) {
        c->s[g] = ap_q_split_scale(t, (const uint8_t *)t->scales + (first + g) * size);
        if (t->biases)
            c->b[g] = ap_q_split_scale(t, (const uint8_t *)t->biases + (first + g) * size);
    }
    if (t->bits == 8) {
        memcpy(c->q, p, (size_t)n);
    } else if (t->bits == 4) {
        for (int i = 0; i < n / 2; i++) {
            c->q[2 * i] = p[i] & 15;
            c->q[2 * i + 1] = p[i] >> 4;
        }
    } else {
        for (int i = 0; i < n; i++) {
            int bit = i * t->bits, shift = bit % 8;
            unsigned word = p[bit / 8];
            if (shift + t->bits > 8) word |= (unsigned)p[bit / 8 + 1] << 8;
            c->q[i] = (uint8_t)(word >> shift & ((1u << t->bits) - 1));
        }
    }
}

static void read_chunk(const ap_tensor *t, size_t row, int k0, int n, chunk *c)
{
    int block = ap_dtype_block(t->dtype);
    if (block == 0) {
        read_split(t, row, k0, n, c);
        return;
    }
    const uint8_t *p = (const uint8_t *)t->data + row * ap_tensor_row_bytes(t) +
                       (size_t)(k0 / block) * ap_dtype_block_bytes(t->dtype);
    switch (t->dtype) {
    case AP_Q4_K:
    case AP_Q5_K:
        read_q45_k(t->dtype, p, c);
        break;
    case AP_Q6_K:
        read_q6_k(p, c);
        break;
    case AP_Q2_K:
        read_q2_k(p, c);
        break;
    case AP_Q3_K:
        read_q3_k(p, c);
        break;
    case AP_IQ4_XS:
        read_iq4_xs(p, c);
        break;
    case AP_IQ2_XXS:
        read_iq2_xxs(p, c);
        break;
    case AP_IQ2_XS:
    case AP_IQ2_S:
        read_iq2(t->dtype, p, c);
        break;
    case AP_IQ3_XXS:
        read_iq3_xxs(p, c);
        break;
    case AP_IQ3_S:
        read_iq3_s(p, c);
        break;
    default:
        read_simple(t->dtype, p, n, c);
        break;
    }
}

/* ------------------------------------------------------------------ interleaving */

/* 32 inputs of all rows; q[row][input]. */
static void put_block(int bits, const uint8_t *q, size_t stride, uint8_t *dst)
{
    memset(dst, 0, (size_t)bits * 64);
    for (int j = 0; j < 8; j++)
        for (int r = 0; r < AP_PANEL; r++)
            for (int i = 0; i < 4; i++) {
                uint8_t v = q[(size_t)r * stride + (size_t)(4 * j + i)];
                int at = r * 4 + i;
                if (bits == 8) {
                    dst[j * 64 + at] = v;
                    continue;
                }
                if (bits < 4)
                    dst[j / 4 * 64 + at] |= (uint8_t)((v & 3) << (4 * (j % 2) + 2 * (j / 2 % 2)));
                else
                    dst[j / 2 * 64 + at] |= (uint8_t)((v & 15) << 4 * (j % 2));
                if (bits == 3) dst[128 + at] |= (uint8_t)((v >> 2 & 1) << (4 * (j % 2) + j / 2));
                if (bits == 5) dst[256 + at] |= (uint8_t)((v >> 4 & 1) << j);
                if (bits == 6) dst[256 + j / 4 * 64 + at] |= (uint8_t)((v >> 4 & 3) << 2 * (j % 4));
            }
}

static void put_number(ap_qform f, uint32_t bits, uint8_t *to, int r)
{
    int size = f.scale == AP_QS_F32 ? 4 : f.scale == AP_QS_SUPER ? 1 : 2;
    for (int i = 0; i < size; i++) to[r * size + i] = (uint8_t)(bits >> 8 * i);
}

static void put_scales(ap_qform f, const chunk *c, int n_group, uint8_t *panel, int cols, int k0)
{
    ap_qscales at = ap_q_scales_at(f, panel, cols, k0 / AP_Q_BLOCK);
    uint8_t *to = panel + (at.at - panel);
    for (int g = 0; g < n_group; g++, to += at.step)
        for (int r = 0; r < AP_PANEL; r++) {
            put_number(f, f.nibbles ? c[r].s[g] | c[r].b[g] << 4 : c[r].s[g], to, r);
            if (f.affine && !f.nibbles) put_number(f, c[r].b[g], to + at.step / 2, r);
        }
    if (f.scale != AP_QS_SUPER) return;
    uint8_t *super = panel + (at.super - panel);
    for (int r = 0; r < AP_PANEL; r++) {
        memcpy(super + 2 * r, &c[r].d, 2);
        if (f.affine) memcpy(super + 32 + 2 * r, &c[r].m, 2);
    }
}

void ap_q_pack_panel(const ap_tensor *src, ap_qform f, int p, uint8_t *dst)
{
    chunk c[AP_PANEL];
    int cols = (int)src->shape[1], rows = (int)src->shape[0] - p * AP_PANEL;
    size_t bytes = ap_q_panel_bytes(f, cols);
    if (rows > AP_PANEL) rows = AP_PANEL;
    memset(c, 0, sizeof c);
    memset(dst + bytes - 64, 0, 64); /* padding */
    for (int k0 = 0; k0 < cols; k0 += AP_Q_SUPER) {
        int n = cols - k0 < AP_Q_SUPER ? cols - k0 : AP_Q_SUPER;
        for (int r = 0; r < rows; r++) read_chunk(src, (size_t)(p * AP_PANEL + r), k0, n, &c[r]);
        uint8_t *to = dst + (size_t)(k0 / AP_Q_BLOCK) * ap_q_block_bytes(f);
        for (int i = 0; i < n; i += AP_Q_BLOCK, to += ap_q_block_bytes(f))
            put_block(f.bits, c[0].q + i, sizeof c[0], to);
        put_scales(f, c, (n + f.group - 1) / f.group, dst, cols, k0);
    }
}
