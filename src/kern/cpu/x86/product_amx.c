/* product_amx.c - products in bf16 tiles.
 *
 * Two panels of weights x two tiles of rows meet in four tiles of f32 sums. While they do, the next two
 * panels' K block is unpacked, a step of a panel at a time: tile and vector units work side by side. */
#include "kern/cpu/micro/micro_amx.h"
#include "kern/cpu/pack/qpack.h"
#include "kern/cpu/x86/amx_tile.h"
#include "kern/cpu/x86/qload_avx512.h"

_Static_assert(AMX_TILE == AP_AMX_TILE && AP_PANEL == AMX_ROWS && AP_Q_BLOCK == AP_AMX_STEP,
               "one size of tile");
_Static_assert(AP_AMX_STEPS == CHUNK, "the scales of a K block are made at once");

#define PAIR   2
#define GROUPS (AP_AMX_STEPS * AP_Q_MAX_GROUPS)

/* ------------------------------------------------------------------ vectors */

/* 4 x 4 dwords in each quarter of the vectors, transposed. */
INLINE void turn4(__m512i v[4])
{
    __m512i a = _mm512_unpacklo_epi32(v[0], v[1]), b = _mm512_unpackhi_epi32(v[0], v[1]);
    __m512i c = _mm512_unpacklo_epi32(v[2], v[3]), d = _mm512_unpackhi_epi32(v[2], v[3]);
    v[0] = _mm512_unpacklo_epi64(a, c);
    v[1] = _mm512_unpackhi_epi64(a, c);
    v[2] = _mm512_unpacklo_epi64(b, d);
    v[3] = _mm512_unpackhi_epi64(b, d);
}

/* Where turn4 leaves 16 bytes of lane r: offset in its four vectors. */
INLINE int lane_at(int r)
{
    return r % 4 * 64 + r / 4 * 16;
}

INLINE __m128i load16(const uint8_t *p)
{
    return _mm_load_si128((const __m128i *)p);
}

/* 16 x 16 dwords, rows 64 bytes apart, transposed to rows of `step` bytes. */
INLINE void turn16(const uint8_t *from, uint8_t *to, size_t step)
{
    UNROLL
    for (int q = 0; q < 4; q++) {
        __m512i v[4];
        UNROLL
        for (int i = 0; i < 4; i++) {
            const uint8_t *p = from + i * 64 + q * 16;
            v[i] = _mm512_castsi128_si512(load16(p));
            v[i] = _mm512_mask_broadcast_i32x4(v[i], 0x00f0, load16(p + 4 * 64));
            v[i] = _mm512_mask_broadcast_i32x4(v[i], 0x0f00, load16(p + 8 * 64));
            v[i] = _mm512_mask_broadcast_i32x4(v[i], 0xf000, load16(p + 12 * 64));
        }
        turn4(v);
        UNROLL
        for (int i = 0; i < 4; i++) _mm512_store_si512(to + (size_t)(4 * q + i) * step, v[i]);
    }
}

/* To the upper half of each lane: x rounded to bf16, to nearest, ties to even; NaN stays NaN. */
INLINE __m512i round_even(__m512 x)
{
    __m512i u = _mm512_castps_si512(x);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i r = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_mask_mov_epi32(r, nan, _mm512_set1_epi32(0x7fc00000));
}

/* The same with ties away from zero: one addition, for weights. */
INLINE __m512i round_away(__m512 x)
{
    return _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000));
}

/* Upper halves of a and b alternating: pairs of inputs side by side. */
INLINE __m512i zip_upper(__m512i a, __m512i b)
{
    return _mm512_ternarylogic_epi32(_mm512_srli_epi32(a, 16), _mm512_set1_epi32((int)0xffff0000u),
                                     b, 0xf8);
}

/* Words that make the upper halves of 32 dwords one vector, in the order of the side. */
static __m512i upper_in_order(ap_amx_side side)
{
    _Alignas(64) uint16_t at[32];
    for (int i = 0; i < 32; i++)
        at[i] = (uint16_t)(2 * (side == AP_AMX_WEIGHTS_LEFT ? ap_amx_input(i) : i) + 1);
    return _mm512_load_si512(at);
}

/* ------------------------------------------------------------------ inputs */

static __mmask16 lanes(int n)
{
    return n >= 16 ? 0xffff : n <= 0 ? 0 : (__mmask16)((1 << n) - 1);
}

static void pack(ap_amx_side side, const float *const *x, int rows, int n, uint8_t *out)
{
    _Alignas(64) uint8_t turned[AMX_TILE];
    __m512i order = upper_in_order(side);
    uint8_t *to = side == AP_AMX_WEIGHTS_LEFT ? turned : out;
    memset(turned, 0, sizeof turned);
    for (int k = 0; k < n; k += AP_AMX_STEP, out += AMX_TILE) {
        if (side == AP_AMX_WEIGHTS_RIGHT) to = out;
        for (int r = 0; r < rows; r++) {
            __m512i a = round_even(_mm512_maskz_loadu_ps(lanes(n - k), x[r] + k));
            __m512i b = round_even(_mm512_maskz_loadu_ps(lanes(n - k - 16), x[r] + k + 16));
            _mm512_store_si512(to + r * 64, _mm512_permutex2var_epi16(a, order, b));
        }
        if (side == AP_AMX_WEIGHTS_LEFT)
            turn16(turned, out, 64);
        else
            memset(out + rows * 64, 0, (size_t)(AMX_ROWS - rows) * 64);
    }
}

static void pack_sums(ap_amx_side side, const float *a, const float *b, uint8_t *out)
{
    _Alignas(64) static const float zeros[AP_PANEL * AP_PANEL];
    if (!b) b = zeros;
    if (side == AP_AMX_WEIGHTS_LEFT) {
        for (int i = 0; i < 16; i++) {
            int f = ap_amx_input(2 * i); /* and f + 2 */
            __m512i x = round_even(_mm512_load_ps((f < 16 ? a + f * 16 : b + (f - 16) * 16)));
            f += 2;
            __m512i y = round_even(_mm512_load_ps((f < 16 ? a + f * 16 : b + (f - 16) * 16)));
            _mm512_store_si512(out + i * 64, zip_upper(x, y));
        }
        return;
    }
    __m512i order = upper_in_order(side);
    for (int r = 0; r < 16; r++) {
        __m512i x = round_even(_mm512_load_ps(a + r * 16)),
                y = round_even(_mm512_load_ps(b + r * 16));
        _mm512_store_si512(out + r * 64, _mm512_permutex2var_epi16(x, order, y));
    }
}

static void turn(const float *block, float *out, int ld)
{
    turn16((const uint8_t *)block, (uint8_t *)out, (size_t)ld * sizeof(float));
}

/* ------------------------------------------------------------------ weights */

/* Unpacks one step of one panel. */
typedef struct unpacker unpacker;
typedef void (*unit_fn)(unpacker *u, int panel, int step);

/* Where a matrix has what: found once, and no block divides for it. */
typedef struct source {
    unit_fn unit;
    const ap_mat *w;
    ap_qscales scales;   /* of the first panel's first K block */
    size_t panel, step;  /* bytes of a panel; of a step's numbers */
    size_t block_scales; /* bytes of the scales (or factors) of a K block */
    size_t block_super;  /* of its d and m */
    bool looks_up;
    _Alignas(64) float numbers[16]; /* with looks_up: what the q stand for */
} source;

/* A K block of one or two panels on its way to tiles [panel][step]. */
struct unpacker {
    const source *of;
    uint8_t *to;
    const uint8_t *from[PAIR]; /* packed numbers of the block */
    int n_panel, n_step, k0;
    int panel, step; /* the next; panel == n_panel: done */
    const uint8_t
        *soon; /* numbers of the block that is unpacked after this one; memory is asked for them */
    size_t soon_panel;                             /* bytes from its first panel to the second */
    size_t soon_step;                              /* bytes of a step */
    _Alignas(64) float s[PAIR][GROUPS * AP_PANEL]; /* scale and bias of each step (or half) */
    _Alignas(64) float b[PAIR][GROUPS * AP_PANEL];
    _Alignas(64) uint8_t table[AP_PANEL][64]; /* of the running group: the bf16 of each q, twice */
};

INLINE uint8_t *unit_to(const unpacker *u, int panel, int step)
{
    return u->to + (panel * u->n_step + step) * AMX_TILE;
}

/* bf16: panels are tiles; inputs behind the last one become zero. */
static void unit_copy(unpacker *u, int panel, int step)
{
    const uint8_t *from = u->from[panel] + step * AMX_TILE;
    uint8_t *to = unit_to(u, panel, step);
    int pairs = (u->of->w->cols + 1 - (u->k0 + step * AP_AMX_STEP)) / 2;
    for (int i = 0; i < 16; i++)
        _mm512_store_si512(to + i * 64,
                           i < pairs ? _mm512_load_si512(from + i * 64) : _mm512_setzero_si512());
}

/* What the 16 q of a form of 4 bits, or fewer, stand for, less the zero point. */
static void find_numbers(ap_qform f, float *v)
{
    for (int i = 0; i < 16; i++) v[i] = (float)((f.table ? ap_qtable[f.table][i] : i) - f.zero);
}

/* Parts of q are loaded again, broadcast on the way: a compiler that takes them out of registers instead
 * crowds the one unit that permutes. */
#define FROM_MEMORY_ONLY(q) __asm__("" : "+m"(q))

typedef enum use { MAKE, KEEP, REUSE } use; /* of tables */

/* Up to 4 bits: 16 products make a table of the row's group, and a lookup makes 32 weights at a time. */
INLINE void look_up(unpacker *u, int panel, int step, int bits, use how, bool affine)
{
    static const uint16_t twice[32] = {1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                       1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31};
    static const uint16_t by[32] = {0, 0, 0, 0, 0, 0, 0, 0, 4,  4,  4,  4,  4,  4,  4,  4,
                                    8, 8, 8, 8, 8, 8, 8, 8, 12, 12, 12, 12, 12, 12, 12, 12};
    const uint8_t *from = u->from[panel] + step * bits * 64;
    const float *s = u->s[panel] + step * AP_PANEL, *b = u->b[panel] + step * AP_PANEL;
    uint8_t *to = unit_to(u, panel, step);
    _Alignas(64) uint8_t q[256];
    __m512i v[4], pick = _mm512_loadu_si512(twice), shift = _mm512_loadu_si512(by);
    __m512 all = _mm512_load_ps(u->of->numbers);
    UNROLL
    for (int i = 0; i < 4; i++) v[i] = load_nibbles(bits, from, i);
    turn4(v);
    UNROLL
    for (int i = 0; i < 4; i++) _mm512_store_si512(q + 64 * i, v[i]);
    FROM_MEMORY_ONLY(q);
    UNROLL
    for (int r = 0; r < AP_PANEL; r++) {
        __m512i table;
        if (how == REUSE) {
            table = _mm512_load_si512(u->table[r]);
        } else {
            __m512 w = affine ? _mm512_fmadd_ps(all, _mm512_set1_ps(s[r]), _mm512_set1_ps(b[r]))
                              : _mm512_mul_ps(all, _mm512_set1_ps(s[r]));
            table = _mm512_permutexvar_epi16(pick, round_away(w));
            if (how == KEEP) _mm512_store_si512(u->table[r], table);
        }
        /* the upper bits of a word do not matter: the table stands there twice, and bit 5 is not read */
        __m512i at = _mm512_srlv_epi16(_mm512_broadcast_i32x4(load16(q + lane_at(r))), shift);
        _mm512_store_si512(to + r * 64, _mm512_permutexvar_epi16(at, table));
    }
}

#define LOOK_UP(bits)                                                                              \
    static void unit_make_##bits(unpacker *u, int panel, int step)                                 \
    {                                                                                              \
        look_up(u, panel, step, bits, MAKE, false);                                                \
    }                                                                                              \
    static void unit_make_affine_##bits(unpacker *u, int panel, int step)                          \
    {                                                                                              \
        look_up(u, panel, step, bits, MAKE, true);                                                 \
    }                                                                                              \
    static void unit_groups_##bits(unpacker *u, int panel, int step)                               \
    {                                                                                              \
        if (step * AP_AMX_STEP % u->of->w->q.group)                                                \
            look_up(u, panel, step, bits, REUSE, false);                                           \
        else if (u->of->w->q.affine)                                                               \
            look_up(u, panel, step, bits, KEEP, true);                                             \
        else                                                                                       \
            look_up(u, panel, step, bits, KEEP, false);                                            \
    }
LOOK_UP(2)
LOOK_UP(3)
LOOK_UP(4)

/* Any form: q becomes the mantissa of 256 + q, and b (with 256 and the zero point taken off) is added. */
INLINE void widen(unpacker *u, int panel, int step, int kind, bool halves)
{
    static const uint32_t up[16] = {15, 15, 15, 15, 15, 15, 15, 15, 7, 7, 7, 7, 7, 7, 7, 7};
    static const uint32_t down[16] = {1, 1, 1, 1, 1, 1, 1, 1, 9, 9, 9, 9, 9, 9, 9, 9};
    const __m512i mask = _mm512_set1_epi32(0x007f8000), big = _mm512_set1_epi32(0x43800000);
    const uint8_t *from = u->from[panel] + (size_t)step * u->of->step;
    int first = step * AP_PANEL * (halves ? 2 : 1);
    const float *s = u->s[panel] + first, *b = u->b[panel] + first;
    uint8_t *to = unit_to(u, panel, step);
    _Alignas(64) uint8_t q[512];
    __m512i v[8], shl = _mm512_loadu_si512(up), shr = _mm512_loadu_si512(down);
    load_block(kind, from, table_of(u->of->w->q), v);
    __m512i even[4] = {v[0], v[2], v[4], v[6]}, odd[4] = {v[1], v[3], v[5], v[7]};
    turn4(even);
    turn4(odd);
    UNROLL
    for (int i = 0; i < 4; i++) {
        _mm512_store_si512(q + 64 * i, even[i]);
        _mm512_store_si512(q + 256 + 64 * i, odd[i]);
    }
    FROM_MEMORY_ONLY(q);
    UNROLL
    for (int r = 0; r < AP_PANEL; r++) {
        __m512i x = _mm512_broadcast_i32x4(load16(q + lane_at(r)));
        x = _mm512_mask_broadcast_i32x4(x, 0xf0f0, load16(q + 256 + lane_at(r)));
        __m512 vs = _mm512_set1_ps(s[r]), vb = _mm512_set1_ps(b[r]);
        if (halves) {
            vs = _mm512_mask_mov_ps(vs, 0xcccc, _mm512_set1_ps(s[AP_PANEL + r]));
            vb = _mm512_mask_mov_ps(vb, 0xcccc, _mm512_set1_ps(b[AP_PANEL + r]));
        }
        __m512i lo = _mm512_ternarylogic_epi32(_mm512_sllv_epi32(x, shl), mask, big, 0xea);
        __m512i hi = _mm512_ternarylogic_epi32(_mm512_srlv_epi32(x, shr), mask, big, 0xea);
        __m512 w0 = _mm512_fmadd_ps(_mm512_castsi512_ps(lo), vs, vb);
        __m512 w1 = _mm512_fmadd_ps(_mm512_castsi512_ps(hi), vs, vb);
        _mm512_store_si512(to + r * 64, zip_upper(round_away(w0), round_away(w1)));
    }
}

#define WIDEN(name, kind, halves)                                                                  \
    static void unit_##name(unpacker *u, int panel, int step)                                      \
    {                                                                                              \
        widen(u, panel, step, kind, halves);                                                       \
    }
WIDEN(table_h, TABLE, true)
WIDEN(table3_h, TABLE3, true)
WIDEN(2_h, 2, true)
WIDEN(3_h, 3, true)
WIDEN(5, 5, false)
WIDEN(6, 6, false)
WIDEN(6_h, 6, true)
WIDEN(8, 8, false)

/* Does the form go by lookups, which take zero off themselves? */
static bool looks_up(ap_qform f)
{
    return f.bits <= 4 && !ap_q_halves(f);
}

/* NULL: a form that there is not. */
static unit_fn unit_of(ap_qform f)
{
    static const unit_fn tables[5][3] = {[2] = {unit_make_2, unit_make_affine_2, unit_groups_2},
                                         [3] = {unit_make_3, unit_make_affine_3, unit_groups_3},
                                         [4] = {unit_make_4, unit_make_affine_4, unit_groups_4}};
    static const unit_fn others[9][2] = {[TABLE] = {NULL, unit_table_h},
                                         [TABLE3] = {NULL, unit_table3_h},
                                         [2] = {NULL, unit_2_h},
                                         [3] = {NULL, unit_3_h},
                                         [5] = {unit_5},
                                         [6] = {unit_6, unit_6_h},
                                         [8] = {unit_8}};
    if (!f.bits) return unit_copy;
    return looks_up(f) ? tables[f.bits][f.group > AP_AMX_STEP ? 2 : f.affine]
                       : others[kind_of(f)][ap_q_halves(f)];
}

static ap_amx_side side_of(const ap_mat *w)
{
    if (!w->data) return AP_AMX_NONE;
    if (w->q.bits) return !w->q.is_float && unit_of(w->q) ? AP_AMX_WEIGHTS_LEFT : AP_AMX_NONE;
    return w->dtype == AP_BF16 ? AP_AMX_WEIGHTS_RIGHT : AP_AMX_NONE;
}

static source source_of(const ap_mat *w)
{
    ap_qform f = w->q;
    source o = {
        .unit = unit_of(f), .w = w, .panel = (size_t)(w->cols + 1) / 2 * 64, .step = AMX_TILE};
    if (!f.bits) return o;
    o.panel = ap_q_panel_bytes(f, w->cols);
    o.step = ap_q_block_bytes(f);
    o.scales = ap_q_scales_at(f, w->data, w->cols, 0);
    o.block_scales = (size_t)(AP_AMX_K / f.group) * o.scales.step;
    o.block_super = AP_AMX_K / AP_Q_SUPER * o.scales.super_step;
    o.looks_up = looks_up(f);
    if (o.looks_up) find_numbers(f, o.numbers);
    return o;
}

static ap_qscales scales_of(const source *o, int panel, int block)
{
    ap_qscales at = o->scales;
    at.at += (size_t)panel * o->panel + (size_t)block * o->block_scales;
    if (o->block_super) at.super += (size_t)panel * o->panel + (size_t)block * o->block_super;
    return at;
}

static const uint8_t *numbers_of(const source *o, int panel, int block)
{
    return (const uint8_t *)o->w->data + (size_t)panel * o->panel +
           (size_t)block * AP_AMX_STEPS * o->step;
}

static void begin_scales(unpacker *u, int i, ap_qscales at)
{
    ap_qform f = u->of->w->q;
    int n = u->n_step * (ap_q_halves(f) ? 2 : 1);
    scales_at(f, at, u->n_step, u->s[i], u->b[i]);
    if (u->of->looks_up) return;
    const __m512 off = _mm512_set1_ps((float)(256 + f.zero));
    for (int g = 0; g < n; g++) {
        float *b = u->b[i] + g * AP_PANEL;
        __m512 old = f.affine ? _mm512_load_ps(b) : _mm512_setzero_ps();
        _mm512_store_ps(b, _mm512_fnmadd_ps(_mm512_load_ps(u->s[i] + g * AP_PANEL), off, old));
    }
}

static void begin(unpacker *u, const source *o, int panel, int n_panel, int block, uint8_t *to)
{
    u->of = o;
    u->to = to;
    u->n_panel = n_panel;
    u->n_step = ap_amx_block_steps(o->w->cols, block);
    u->k0 = block * AP_AMX_K;
    u->panel = u->step = 0;
    for (int i = 0; i < n_panel; i++) {
        if (o->w->q.bits) begin_scales(u, i, scales_of(o, panel + i, block));
        u->from[i] = numbers_of(o, panel + i, block);
    }
}

/* What comes after the block that begin set up. It may lie behind the matrix, where the next one most often
 * is. */
static void begin_soon(unpacker *u, const source *o, int panel, int block)
{
    u->soon = numbers_of(o, panel, block);
    u->soon_panel = o->panel;
    u->soon_step = o->step;
    if (!o->w->q.bits) return;
    for (int i = 0; i < PAIR; i++) {
        ap_qscales at = scales_of(o, panel + i, block);
        for (size_t a = 0; a < o->block_scales; a += 64) __builtin_prefetch(at.at + a);
        if (o->block_super) __builtin_prefetch(at.super);
    }
}

static inline bool advance(unpacker *u)
{
    if (u->panel == u->n_panel) return false;
    const uint8_t *soon =
        u->soon + (size_t)u->panel * u->soon_panel + (size_t)u->step * u->soon_step;
    for (size_t a = 0; a < u->soon_step; a += 64) __builtin_prefetch(soon + a);
    u->of->unit(u, u->panel, u->step);
    if (++u->step == u->n_step) {
        u->step = 0;
        u->panel++;
    }
    return true;
}

/* ------------------------------------------------------------------ products */

/* What the sums of a block are before it: zero, in memory, or still in their tiles. */
typedef enum start { FROM_ZERO, FROM_MEMORY, FROM_TILES } start;

typedef struct sweep {
    const uint8_t *w, *x; /* [panel][step], [tile of rows][step] */
    int n_step, n_tile;
    float *sums; /* of the first panel; the second's are n_tile blocks behind */
    start from;
    bool store;
    unpacker *next;
    int units; /* of the next panels after each step */
} sweep;

#define DOT(c, w, x)                                                                               \
    do {                                                                                           \
        if (left)                                                                                  \
            AMX_BF16(c, w, x);                                                                     \
        else                                                                                       \
            AMX_BF16(c, x, w);                                                                     \
    } while (0)

/* Sums 0, 1 of the first panel and 2, 3 of the second; weights in 4, 5; rows in 6, 7. */
INLINE void block(bool left, bool two, bool wide, const sweep *s, int tile)
{
    size_t bytes = (size_t)s->n_step * AMX_TILE;
    const uint8_t *w = s->w, *x = s->x + (size_t)tile * bytes;
    float *c = s->sums + tile * 256, *c2 = c + s->n_tile * 256;
    if (s->from == FROM_ZERO) {
        AMX_ZERO(0);
        if (wide) AMX_ZERO(1);
        if (two) AMX_ZERO(2);
        if (two && wide) AMX_ZERO(3);
    } else if (s->from == FROM_MEMORY) {
        AMX_LOAD(0, c, 64);
        if (wide) AMX_LOAD(1, c + 256, 64);
        if (two) AMX_LOAD(2, c2, 64);
        if (two && wide) AMX_LOAD(3, c2 + 256, 64);
    }
    for (int i = 0; i < s->n_step; i++, w += AMX_TILE, x += AMX_TILE) {
        AMX_LOAD(4, w, 64);
        AMX_LOAD(6, x, 64);
        DOT(0, 4, 6);
        if (wide) {
            AMX_LOAD(7, x + bytes, 64);
            DOT(1, 4, 7);
        }
        if (two) {
            AMX_LOAD(5, w + bytes, 64);
            DOT(2, 5, 6);
            if (wide) DOT(3, 5, 7);
        }
        for (int n = 0; n < s->units && advance(s->next); n++)
            ;
    }
    if (!s->store) return;
    AMX_STORE(0, c, 64);
    if (wide) AMX_STORE(1, c + 256, 64);
    if (two) AMX_STORE(2, c2, 64);
    if (two && wide) AMX_STORE(3, c2 + 256, 64);
}

INLINE void sweep_rows(bool left, bool two, const sweep *s)
{
    int tile = 0;
    for (; tile + 1 < s->n_tile; tile += 2) block(left, two, true, s, tile);
    if (tile < s->n_tile) block(left, two, false, s, tile);
}

static void run_sweep(bool left, bool two, const sweep *s)
{
    if (left && two)
        sweep_rows(true, true, s);
    else if (left)
        sweep_rows(true, false, s);
    else if (two)
        sweep_rows(false, true, s);
    else
        sweep_rows(false, false, s);
}

/* A pair of panels and a K block. */
typedef struct place {
    int mat, panel, block;
} place;

/* The next one. `deep`, with one or two tiles of rows: the sums stay in their tiles over all K blocks of a
 * pair. Behind the last one comes the first. */
INLINE place after(place p, int n_mat, int n_panel, int n_block, bool deep)
{
    if (deep && ++p.block < n_block) return p;
    if (deep) p.block = 0;
    if ((p.panel += PAIR) < n_panel) return p;
    p.panel = 0;
    if (++p.mat < n_mat) return p;
    p.mat = 0;
    if (!deep && ++p.block == n_block) p.block = 0;
    return p;
}

static void product(ap_amx_side side, const ap_mat *const *w, int n_mat, int p0, int n_panel,
                    const ap_amx_in *in, int tile, int n_tile, float *sums)
{
    _Alignas(64) uint8_t panels[2][PAIR * AP_AMX_STEPS * AMX_TILE];
    const bool deep = n_tile <= 2;
    const int n_block = ap_amx_blocks(in->cols), n = (n_panel + 1) / PAIR * n_mat * n_block;
    source of[2];
    unpacker next;
    place now = {0}, then = now;
    for (int i = 0; i < n_mat; i++) of[i] = source_of(w[i]);
    amx_begin();
    /* block i is met while block i + 1 is unpacked and memory is asked for block i + 2, or what follows this
     * task's panels */
    for (int i = -1; i < n; i++) {
        const place soon = after(then, n_mat, n_panel, n_block, deep);
        if (i + 1 < n) {
            begin(&next, &of[then.mat], p0 + then.panel, n_panel - then.panel < PAIR ? 1 : PAIR,
                  then.block, panels[(i + 1) % 2]);
            begin_soon(&next, &of[soon.mat], p0 + soon.panel + (i + 2 < n ? 0 : n_panel),
                       soon.block);
        }
        if (i >= 0) {
            sweep s = {.w = panels[i % 2],
                       .x = ap_amx_at(in, now.block, tile),
                       .n_step = ap_amx_block_steps(in->cols, now.block),
                       .n_tile = n_tile,
                       .sums =
                           sums + (size_t)(now.mat * n_panel + now.panel) * (size_t)n_tile * 256,
                       .from = now.block == 0 ? FROM_ZERO
                               : deep         ? FROM_TILES
                                              : FROM_MEMORY,
                       .store = !deep || now.block == n_block - 1,
                       .next = &next,
                       .units = deep ? PAIR : 1};
            run_sweep(side == AP_AMX_WEIGHTS_LEFT, n_panel - now.panel >= PAIR, &s);
        }
        while (advance(&next))
            ;
        now = then;
        then = soon;
    }
    amx_end();
}

const ap_micro_amx ap_product_amx = {
    .side = side_of, .pack = pack, .product = product, .turn = turn, .pack_sums = pack_sums};
