/* attn.cu - attention over KV pages: the slot, and the split form, for few rows a sequence.
 *
 * CUDA's attention computes as the table lets precision FAST, whatever the precision: over bf16 pages
 * products are of bf16 (q and p are rounded) with f32 sums, exponentials are the device's. Over Q8 pages
 * products are exact in integers as the table says, over F32 pages they are f32.
 *
 * The split form. The keys of a tile (attn.h) are cut into splits of 1, 2, 4 .. whole pages, so many that
 * there are at most MAX_SPLITS; a block takes a split, a cluster neighbouring ones, whose sums it merges in
 * shared memory: a group. The last cluster of a tile that ends merges the groups. Where a split begins
 * depends on the positions of its tile alone, sums are merged in one order, so results depend neither on
 * timing nor on other sequences; and the grid depends on none of it, so that a recorded step holds for all
 * positions: clusters find out on the device which groups there are.
 *
 * A block has two warps for each 64 dims. Scores: a warp takes half the keys of the page and 64 dims; what
 * the warps have is added in shared memory. Values: a warp takes 32 dims and all keys. Keys and values go
 * from global memory straight into registers, as the operands of matrix instructions (mma.h): in a page
 * pairs (bf16) or fours (Q8) of what is summed lie side by side, neighbours of the other kind next to each
 * other. So a lane's 16 bytes are 4 rows of the operand, and which row is which key or dim is free: row
 * 8i + r of matrix j stands for neighbour 4r + 2j + i. */
#include "kern/cuda/attn.cuh"
#include "kern/cuda/cluster.cuh"
#include "kern/cuda/mma.cuh"

#include <math_constants.h>

extern "C" {
#include "kern/groups.h"
}

#define WARP_DIMS     64 /* dims of a warp in scores, half of it in values */
#define CLUSTER       8
#define MAX_COLUMNS   32 /* rows of a tile: columns of the products */
#define BLOCKS_PER_SM 3  /* wanted */

/* ------------------------------------------------------------------ what a launch is given */

struct split_job {
    ap_attn_in in;
    int which;
    bool alone;        /* a tile is a row: as many rows as sequences */
    int tokens;        /* of a tile */
    int heads;         /* query heads of a tile */
    int parts;         /* tiles that a group's heads make */
    int max_splits;    /* of a tile */
    int clusters;      /* of a tile; 1: it takes all groups, one after another */
    int max_groups;    /* of a tile */
    float *partial;    /* [tiles * parts][G][max_groups] of columns * (D + 2): o, m, l */
    unsigned *counter; /* [tiles * parts][G] */
};

struct tile {
    int row[MAX_COLUMNS], head[MAX_COLUMNS];  /* row -1: the column is not used */
    int lo[MAX_COLUMNS], hi[MAX_COLUMNS];     /* visible keys: [lo, hi) */
    int min_lo, max_hi, min_hi, max_lo;       /* of the used columns */
    int seq, last;                            /* last: this cluster merges the groups */
    float m[MAX_COLUMNS], l[MAX_COLUMNS];     /* of the split */
    float c[MAX_COLUMNS];                     /* by how much o shrinks before the page is added */
    float unit[MAX_COLUMNS], sq[MAX_COLUMNS]; /* Q8: of integer weights, of integer queries */
};

/* Shared memory, in bytes from its start. */
struct room {
    int q; /* BF16: [columns][D + 8]; Q8: s8 [2][columns][D + 16], high and low; F32: [D][columns] */
    int s; /* scores: f32 [warps / 2][AP_PAGE][columns + 2] */
    int o; /* at the end, in the same place: f32 [columns][D] */
    int p; /* BF16: [columns][72]; Q8: u8 [2][columns][80], high and low; F32: [AP_PAGE][columns] */
    int bytes;
};

static __host__ __device__ room split_room(int kv, int columns, int head_dim)
{
    int blocks = (head_dim + WARP_DIMS - 1) / WARP_DIMS, D = blocks * WARP_DIMS;
    int q = kv == APUS_KV_F32    ? D * columns * 4
            : kv == APUS_KV_BF16 ? columns * (D + 8) * 2
                                 : 2 * columns * (D + 16);
    int p = kv == APUS_KV_F32    ? AP_PAGE * columns * 4
            : kv == APUS_KV_BF16 ? columns * 144
                                 : columns * 160;
    int s = blocks * AP_PAGE * (columns + 2) * 4;
    room r;
    r.q = 0;
    r.s = r.o = r.q + q;
    r.p = r.s + s;
    r.bytes = r.p + p;
    return r;
}

/* ------------------------------------------------------------------ tiles */

/* The first warp: what the tile's columns are. False: there is no such tile. */
static __device__ bool open_tile(const split_job &j, int index, int g, tile *t)
{
    int lane = (int)threadIdx.x, first, rows = 1;
    int part = index % j.parts, at = index / j.parts;
    if (j.alone)
        first = at;
    else if (!ap_attn_tile(j.in, j.which, j.tokens, at, &first, &rows))
        return false;
    int token = lane / j.heads, head = part * j.heads + lane % j.heads;
    bool used = token < j.tokens && token < rows && head < j.in.group;
    int lo = 0, hi = 0, row = first + token;
    if (used) {
        lo = ap_attn_first(j.in, j.in.pos[row]);
        hi = max(j.in.see_end[row], lo);
    }
    t->row[lane] = used ? row : -1;
    t->head[lane] = g * j.in.group + head;
    t->lo[lane] = lo;
    t->hi[lane] = hi;
    int min_lo = __reduce_min_sync(0xffffffffu, used ? lo : INT_MAX);
    int max_lo = __reduce_max_sync(0xffffffffu, used ? lo : 0);
    int min_hi = __reduce_min_sync(0xffffffffu, used ? hi : INT_MAX);
    int max_hi = __reduce_max_sync(0xffffffffu, used ? hi : 0);
    if (lane == 0) {
        t->min_lo = min_lo;
        t->max_lo = max_lo;
        t->min_hi = min_hi;
        t->max_hi = max_hi;
        t->seq = j.in.seq_of[first];
    }
    return true;
}

/* ------------------------------------------------------------------ queries */

/* A column's query in integers of 15 bits, 128 * high + low, as ap_kv_ints makes them. The whole warp. */
static __device__ void query_ints(const float *q, int D, int stride, int8_t *high, int8_t *low,
                                  float *sq)
{
    int lane = (int)threadIdx.x % 32;
    unsigned top = 0;
    for (int d = lane; d < D; d += 32) top = max(top, __float_as_uint(q[d]) & 0x7fffffffu);
    top = __reduce_max_sync(0xffffffffu, top);
    float a = __uint_as_float(top);
    bool odd = top >= 0x7f800000u, none = odd || a < 1e-30f;
    float by = none ? 0.0f : 16256.0f / a;
    for (int d = lane; d < stride; d += 32) {
        int x = none || d >= D ? 0 : __float2int_rn(q[d] * by), h = (x + 64) >> 7;
        high[d] = (int8_t)h;
        low[d] = (int8_t)(x - h * 128);
    }
    if (lane == 0) *sq = odd ? CUDART_NAN_F : none ? 0.0f : a * (1.0f / 16256.0f);
}

template <int KV, int COLUMNS>
static __device__ void load_queries(const split_job &j, tile *t, uint8_t *q)
{
    int D = j.in.head_dim, warp = (int)threadIdx.x / 32, warps = (int)blockDim.x / 32;
    int lane = (int)threadIdx.x % 32, wide = (int)blockDim.x;
    for (int c = warp; c < COLUMNS; c += warps) {
        bool used = t->row[c] >= 0;
        const float *x =
            j.in.q +
            ((size_t)max(t->row[c], 0) * (size_t)j.in.n_head + (size_t)t->head[c]) * (size_t)D;
        if constexpr (KV == APUS_KV_Q8) {
            int8_t *at = (int8_t *)q + c * (wide + 16);
            query_ints(x, used ? D : 0, wide + 16, at, at + COLUMNS * (wide + 16), &t->sq[c]);
        } else if constexpr (KV == APUS_KV_BF16) {
            uint32_t *at = (uint32_t *)q + c * (wide + 8) / 2;
            for (int d = lane; d < wide / 2; d += 32)
                at[d] = used && 2 * d < D ? ap_bf16_pair(x[2 * d], x[2 * d + 1]) : 0;
        } else {
            float *at = (float *)q + c;
            for (int d = lane; d < wide; d += 32) at[d * COLUMNS] = used && d < D ? x[d] : 0.0f;
        }
    }
}

/* ------------------------------------------------------------------ keys */

/* What a warp holds of a page: keys 32 * half + 4r .. of 64 dims. */
template <int KV> struct keys {
    uint4 x[KV == APUS_KV_BF16 ? 8 : KV == APUS_KV_Q8 ? 4 : 1];
    float4 scale; /* Q8, of these 4 keys */
    float vs[2];  /* Q8: scales of the values `lane` and `lane` + 32 */
};

template <int KV>
static __device__ __forceinline__ void load_keys(const split_job &j, const ap_attn_page &p,
                                                 keys<KV> *k)
{
    int D = j.in.head_dim, lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    int r = lane / 4, c = lane % 4, half = warp % 2, block = warp / 2;
    if constexpr (KV == APUS_KV_BF16) {
        const uint4 *at = (const uint4 *)p.k + (32 * block + c) * 16 + 8 * half + r;
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (64 * block + 16 * (i / 2) < D) k->x[i] = ap_load_once(at + i * 4 * 16);
    } else if constexpr (KV == APUS_KV_Q8) {
        const uint4 *at =
            (const uint4 *)p.k + (2 * half + r / 4) * D + (16 * block + c) * 4 + r % 4;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            bool there = 64 * block + 16 * i < D;
            k->x[i] = there ? ap_load_once(at + i * 4 * 4)
                            : make_uint4(0x80808080u, 0x80808080u, 0x80808080u, 0x80808080u);
        }
        k->scale = *((const float4 *)(p.ks + block * AP_PAGE + 32 * half) + r);
        k->vs[0] = p.vs[lane];
        k->vs[1] = p.vs[lane + 32];
    }
}

/* Where the sums of a lane go: keys key .. key + 3, columns 8 * tile + 2c and the next. */
template <int NT>
static __device__ __forceinline__ void put_scores(float *s, int tile, const float lo[2],
                                                  const float hi[2], int pair)
{
    constexpr int stride = 8 * NT + 2;
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, r = lane / 4, c = lane % 4;
    float *at =
        s + ((warp / 2) * AP_PAGE + 32 * (warp % 2) + 4 * r + 2 * pair) * stride + 8 * tile + 2 * c;
    *(float2 *)at = make_float2(lo[0], lo[1]);
    *(float2 *)(at + stride) = make_float2(hi[0], hi[1]);
}

template <int NT>
static __device__ __forceinline__ void scores_bf16(const split_job &j, const keys<APUS_KV_BF16> &k,
                                                   const uint8_t *q, float *s)
{
    int D = j.in.head_dim, lane = (int)threadIdx.x % 32, block = (int)threadIdx.x / 64;
    int r = lane / 4, c = lane % 4, stride = ((int)blockDim.x + 8) / 2;
    const uint32_t *b = (const uint32_t *)q + r * stride + 32 * block + c;
    float acc[2][NT][4] = {};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (64 * block + 16 * i >= D) break;
        uint4 x = k.x[2 * i], y = k.x[2 * i + 1];
#pragma unroll
        for (int n = 0; n < NT; n++) {
            const uint32_t *at = b + n * 8 * stride + 8 * i;
            ap_mma_bf16(acc[0][n], x.x, x.y, y.x, y.y, at[0], at[4]);
            ap_mma_bf16(acc[1][n], x.z, x.w, y.z, y.w, at[0], at[4]);
        }
    }
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) put_scores<NT>(s, n, acc[i][n], acc[i][n] + 2, i);
}

template <int NT>
static __device__ __forceinline__ void scores_q8(const keys<APUS_KV_Q8> &k, const uint8_t *q,
                                                 float *s)
{
    int lane = (int)threadIdx.x % 32, block = (int)threadIdx.x / 64;
    int r = lane / 4, c = lane % 4, stride = ((int)blockDim.x + 16) / 4;
    const uint32_t *b = (const uint32_t *)q + r * stride + 16 * block + c;
    int high[2][NT][4] = {}, low[2][NT][4] = {};
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const uint32_t sign = 0x80808080u; /* 128 + q is stored */
        uint4 x = k.x[2 * i], y = k.x[2 * i + 1];
        x.x ^= sign, x.y ^= sign, x.z ^= sign, x.w ^= sign;
        y.x ^= sign, y.y ^= sign, y.z ^= sign, y.w ^= sign;
#pragma unroll
        for (int n = 0; n < NT; n++) {
            const uint32_t *h = b + n * 8 * stride + 8 * i, *l = h + 8 * NT * stride;
            ap_mma_s8(high[0][n], x.x, x.y, y.x, y.y, h[0], h[4]);
            ap_mma_s8(high[1][n], x.z, x.w, y.z, y.w, h[0], h[4]);
            ap_mma_s8(low[0][n], x.x, x.y, y.x, y.y, l[0], l[4]);
            ap_mma_s8(low[1][n], x.z, x.w, y.z, y.w, l[0], l[4]);
        }
    }
    const float scale[2][2] = {{k.scale.x, k.scale.y}, {k.scale.z, k.scale.w}};
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float f[4];
            for (int e = 0; e < 4; e++)
                f[e] = (float)(high[i][n][e] * 128 + low[i][n][e]) * scale[i][e / 2];
            put_scores<NT>(s, n, f, f + 2, i);
        }
}

/* F32: a lane is a key. */
template <int NT>
static __device__ __forceinline__ void scores_f32(const split_job &j, const ap_attn_page &p,
                                                  const uint8_t *q, float *s)
{
    constexpr int columns = 8 * NT;
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, block = warp / 2;
    int key = 32 * (warp % 2) + lane, end = min(64 * (block + 1), j.in.head_dim);
    float acc[columns] = {};
#pragma unroll 4
    for (int d = 64 * block; d < end; d++) {
        float k = ((const float *)p.k)[(size_t)d * AP_PAGE + (size_t)key];
        const float4 *x = (const float4 *)((const float *)q + d * columns);
#pragma unroll
        for (int n = 0; n < columns / 4; n++) {
            acc[4 * n] = fmaf(x[n].x, k, acc[4 * n]);
            acc[4 * n + 1] = fmaf(x[n].y, k, acc[4 * n + 1]);
            acc[4 * n + 2] = fmaf(x[n].z, k, acc[4 * n + 2]);
            acc[4 * n + 3] = fmaf(x[n].w, k, acc[4 * n + 3]);
        }
    }
    float *at = s + (block * AP_PAGE + key) * (columns + 2);
    for (int n = 0; n < columns; n++) at[n] = acc[n];
}

/* ------------------------------------------------------------------ softmax */

/* Weights of Q8 values as integers of 15 bits, 256 * high + low; returns their unit. */
static __device__ float weight_ints(const float w[2], uint8_t *high, uint8_t *low)
{
    int lane = (int)threadIdx.x % 32;
    unsigned top = max(__float_as_uint(w[0]) & 0x7fffffffu, __float_as_uint(w[1]) & 0x7fffffffu);
    top = __reduce_max_sync(0xffffffffu, top);
    float a = __uint_as_float(top);
    bool odd = top >= 0x7f800000u, none = odd || a < 1e-30f;
    float by = none ? 0.0f : 32767.0f / a;
    for (int i = 0; i < 2; i++) {
        int x = none ? 0 : __float2int_rn(w[i] * by);
        high[lane + 32 * i] = (uint8_t)(x >> 8);
        low[lane + 32 * i] = (uint8_t)x;
    }
    return odd ? CUDART_NAN_F : none ? 0.0f : a * (1.0f / 32767.0f);
}

/* Scores of the page that starts at position `start` to weights; m, l and c. */
template <int KV, int NT>
static __device__ void softmax(const split_job &j, tile *t, const float *s, uint8_t *p, int start,
                               const float vs[2])
{
    constexpr int columns = 8 * NT, stride = columns + 2;
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, warps = (int)blockDim.x / 32;
    for (int col = warp; col < columns; col += warps) {
        int lo = t->lo[col] - start, hi = t->hi[col] - start;
        float x[2] = {0, 0}, top = -CUDART_INF_F, m = t->m[col], l = t->l[col];
        float by = KV == APUS_KV_Q8 ? j.in.scale * t->sq[col] : j.in.scale;
#pragma unroll 4
        for (int b = 0; b < warps / 2; b++)
            for (int i = 0; i < 2; i++) x[i] += s[(b * AP_PAGE + lane + 32 * i) * stride + col];
        for (int i = 0; i < 2; i++) {
            int key = lane + 32 * i;
            x[i] = key >= lo && key < hi ? x[i] * by : -CUDART_INF_F;
            top = fmaxf(top, x[i]);
        }
        top = fmaxf(m, ap_warp_max(top));
        bool none = top == -CUDART_INF_F; /* nothing visible so far */
        float c = none ? 1.0f : ap_exp2(m - top);
        for (int i = 0; i < 2; i++)
            x[i] = none || x[i] == -CUDART_INF_F ? 0.0f : ap_exp2(x[i] - top);
        float sum = ap_warp_sum(x[0] + x[1]);
        if constexpr (KV == APUS_KV_BF16) {
            uint16_t *at = (uint16_t *)p + col * 72 + lane;
            at[0] = (uint16_t)ap_bf16_pair(x[0], 0);
            at[32] = (uint16_t)ap_bf16_pair(x[1], 0);
        } else if constexpr (KV == APUS_KV_Q8) {
            float w[2] = {x[0] == 0 ? 0.0f : x[0] * vs[0], x[1] == 0 ? 0.0f : x[1] * vs[1]};
            float unit = weight_ints(w, p + col * 80, p + (columns + col) * 80);
            if (lane == 0) t->unit[col] = unit;
        } else {
            ((float *)p)[lane * columns + col] = x[0];
            ((float *)p)[(lane + 32) * columns + col] = x[1];
        }
        if (lane == 0) {
            t->m[col] = top;
            t->l[col] = fmaf(l, c, sum);
            t->c[col] = c;
        }
        __syncwarp();
    }
}

/* ------------------------------------------------------------------ values */

/* What a warp holds of a page: dims 32 * warp + 4r .. of all keys. */
template <int KV> struct values {
    uint4 x[KV == APUS_KV_BF16 ? 8 : KV == APUS_KV_Q8 ? 4 : 1];
};

template <int KV>
static __device__ __forceinline__ void load_values(const split_job &j, const ap_attn_page &p,
                                                   values<KV> *v)
{
    int D = j.in.head_dim, lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    int r = lane / 4, c = lane % 4;
    bool there = 32 * warp + 4 * r < D;
    if constexpr (KV == APUS_KV_BF16) {
        const uint4 *at = (const uint4 *)p.v + c * (D / 4) + 8 * warp + r;
#pragma unroll
        for (int i = 0; i < 8; i++)
            v->x[i] = there ? ap_load_once(at + i * D) : make_uint4(0, 0, 0, 0);
    } else if constexpr (KV == APUS_KV_Q8) {
        const uint4 *at = (const uint4 *)p.v + (2 * warp + r / 4) * 64 + c * 4 + r % 4;
#pragma unroll
        for (int i = 0; i < 4; i++)
            v->x[i] = there ? ap_load_once(at + i * 16) : make_uint4(0, 0, 0, 0);
    }
}

/* Sums of a lane: matrices: of dims 32 * warp + 4r + 2i and the next, columns 8n + 2c and the next, as [i][n];
 * F32: of dim 32 * warp + lane and all columns. */
template <int KV, int NT> struct sums {
    float o[KV == APUS_KV_F32 ? 1 : 2][KV == APUS_KV_F32 ? 2 * NT : NT][4];
};

/* Values that no column sees may be anything, infinities too: out with them. */
static __device__ __forceinline__ void mask_values(values<APUS_KV_BF16> *v, int lo, int hi)
{
    int c = (int)threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        int key = 8 * i + 2 * c;
        uint32_t keep = (key >= lo && key < hi ? 0xffffu : 0u) |
                        (key + 1 >= lo && key + 1 < hi ? 0xffff0000u : 0u);
        v->x[i].x &= keep, v->x[i].y &= keep, v->x[i].z &= keep, v->x[i].w &= keep;
    }
}

template <int NT>
static __device__ __forceinline__ void add_bf16(const tile *t, const values<APUS_KV_BF16> &v,
                                                const uint8_t *p, sums<APUS_KV_BF16, NT> *u)
{
    int lane = (int)threadIdx.x % 32, r = lane / 4, c = lane % 4;
#pragma unroll
    for (int n = 0; n < NT; n++) {
        float2 by = *(const float2 *)(t->c + 8 * n + 2 * c);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            u->o[i][n][0] *= by.x, u->o[i][n][1] *= by.y;
            u->o[i][n][2] *= by.x, u->o[i][n][3] *= by.y;
        }
        const uint32_t *b = (const uint32_t *)p + (8 * n + r) * 36 + c;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint4 x = v.x[2 * i], y = v.x[2 * i + 1];
            ap_mma_bf16(u->o[0][n], x.x, x.y, y.x, y.y, b[8 * i], b[8 * i + 4]);
            ap_mma_bf16(u->o[1][n], x.z, x.w, y.z, y.w, b[8 * i], b[8 * i + 4]);
        }
    }
}

template <int NT>
static __device__ __forceinline__ void add_q8(const tile *t, const values<APUS_KV_Q8> &v,
                                              const uint8_t *p, sums<APUS_KV_Q8, NT> *u)
{
    int lane = (int)threadIdx.x % 32, r = lane / 4, c = lane % 4;
#pragma unroll
    for (int n = 0; n < NT; n++) {
        float2 by = *(const float2 *)(t->c + 8 * n + 2 * c);
        float2 unit = *(const float2 *)(t->unit + 8 * n + 2 * c);
        const uint32_t *high = (const uint32_t *)p + (8 * n + r) * 20 + c,
                       *low = high + 8 * NT * 20;
        int h[2][4] = {}, l[2][4] = {};
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint4 x = v.x[2 * i], y = v.x[2 * i + 1];
            ap_mma_s8u8(h[0], x.x, x.y, y.x, y.y, high[8 * i], high[8 * i + 4]);
            ap_mma_s8u8(h[1], x.z, x.w, y.z, y.w, high[8 * i], high[8 * i + 4]);
            ap_mma_s8u8(l[0], x.x, x.y, y.x, y.y, low[8 * i], low[8 * i + 4]);
            ap_mma_s8u8(l[1], x.z, x.w, y.z, y.w, low[8 * i], low[8 * i + 4]);
        }
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                u->o[i][n][e] = fmaf((float)(h[i][e] * 256 + l[i][e]), e % 2 ? unit.y : unit.x,
                                     u->o[i][n][e] * (e % 2 ? by.y : by.x));
    }
}

template <int NT>
static __device__ __forceinline__ void add_f32(const split_job &j, const tile *t,
                                               const ap_attn_page &page, const uint8_t *p, int lo,
                                               int hi, sums<APUS_KV_F32, NT> *u)
{
    int D = j.in.head_dim, d = (int)threadIdx.x;
#pragma unroll
    for (int n = 0; n < 8 * NT; n++) u->o[0][n / 4][n % 4] *= t->c[n];
    if (d >= D) return;
#pragma unroll 4
    for (int key = max(lo, 0); key < min(hi, AP_PAGE); key++) {
        float v = ((const float *)page.v)[(size_t)key * (size_t)D + (size_t)d];
        const float4 *w = (const float4 *)p + key * 2 * NT;
#pragma unroll
        for (int n = 0; n < 2 * NT; n++) {
            u->o[0][n][0] = fmaf(w[n].x, v, u->o[0][n][0]);
            u->o[0][n][1] = fmaf(w[n].y, v, u->o[0][n][1]);
            u->o[0][n][2] = fmaf(w[n].z, v, u->o[0][n][2]);
            u->o[0][n][3] = fmaf(w[n].w, v, u->o[0][n][3]);
        }
    }
}

/* To f32 [columns][blockDim.x] in shared memory. */
template <int KV, int NT>
static __device__ __forceinline__ void put_sums(const sums<KV, NT> &u, float *o)
{
    int D = (int)blockDim.x, lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    if constexpr (KV == APUS_KV_F32) {
#pragma unroll
        for (int n = 0; n < 8 * NT; n++) o[n * D + (int)threadIdx.x] = u.o[0][n / 4][n % 4];
    } else {
        float *at = o + 2 * (lane % 4) * D + 32 * warp + lane / 4 * 4;
#pragma unroll
        for (int n = 0; n < NT; n++, at += 8 * D) {
            *(float4 *)at = make_float4(u.o[0][n][0], u.o[0][n][2], u.o[1][n][0], u.o[1][n][2]);
            *(float4 *)(at + D) =
                make_float4(u.o[0][n][1], u.o[0][n][3], u.o[1][n][1], u.o[1][n][3]);
        }
    }
}

/* ------------------------------------------------------------------ a split */

/* Pages [page, end) of the tile: m and l in t, o in shared memory. */
template <int KV, int NT>
static __device__ void run_split(const split_job &j, tile *t, uint8_t *mem, const room &at, int g,
                                 int page, int end)
{
    const int32_t *table = j.in.page + (size_t)j.in.seq[t->seq].table * (size_t)j.in.page_ld;
    float *s = (float *)(mem + at.s);
    uint8_t *q = mem + at.q, *p = mem + at.p;
    if ((int)threadIdx.x < 8 * NT) {
        t->m[threadIdx.x] = -CUDART_INF_F;
        t->l[threadIdx.x] = 0;
    }
    if (page >= end) return;
    sums<KV, NT> u = {};
    keys<KV> k;
    ap_attn_page here = ap_attn_page_at<KV>(j.in, table[page], g);
    load_keys<KV>(j, here, &k);
    int next = page + 1 < end ? table[page + 1] : 0;
    for (; page < end; page++) {
        int start = page * AP_PAGE, lo = t->min_lo - start, hi = t->max_hi - start;
        values<KV> v;
        load_values<KV>(j, here, &v);
        if constexpr (KV == APUS_KV_BF16)
            scores_bf16<NT>(j, k, q, s);
        else if constexpr (KV == APUS_KV_Q8)
            scores_q8<NT>(k, q, s);
        else
            scores_f32<NT>(j, here, q, s);
        float vs[2] = {k.vs[0], k.vs[1]};
        ap_attn_page was = here;
        if (page + 1 < end) {
            here = ap_attn_page_at<KV>(j.in, next, g);
            load_keys<KV>(j, here, &k);
            if (page + 2 < end) next = table[page + 2];
        }
        __syncthreads();
        softmax<KV, NT>(j, t, s, p, start, vs);
        __syncthreads();
        if constexpr (KV == APUS_KV_BF16) {
            if (lo > 0 || hi < AP_PAGE) mask_values(&v, lo, hi);
            add_bf16<NT>(t, v, p, &u);
        } else if constexpr (KV == APUS_KV_Q8) {
            add_q8<NT>(t, v, p, &u);
        } else {
            add_f32<NT>(j, t, was, p, lo, hi, &u);
        }
    }
    put_sums<KV, NT>(u, (float *)(mem + at.o));
}

/* ------------------------------------------------------------------ merging */

/* Sums of a column, o of one dim. */
struct sum {
    float m, l, o;
};

static __device__ __forceinline__ void merge(sum *a, float m, float l, float o)
{
    if (m == -CUDART_INF_F) return;
    float top = fmaxf(a->m, m), c = ap_exp2(a->m - top), c2 = ap_exp2(m - top);
    a->l = __fmaf_rn(l, c2, __fmul_rn(a->l, c));
    a->o = __fmaf_rn(o, c2, __fmul_rn(a->o, c));
    a->m = top;
}

/* What the cluster's blocks have of column `col` and dim threadIdx.x. */
template <int CL> static __device__ sum gather(const tile *t, const float *o, int col)
{
    float m[CL];
    sum a = {-CUDART_INF_F, 0, 0};
#pragma unroll
    for (int i = 0; i < CL; i++) {
        m[i] = ap_cluster_read<CL>(&t->m[col], i);
        a.m = fmaxf(a.m, m[i]);
    }
#pragma unroll
    for (int i = 0; i < CL; i++) {
        if (m[i] == -CUDART_INF_F) continue;
        float c = ap_exp2(m[i] - a.m);
        a.l = __fmaf_rn(ap_cluster_read<CL>(&t->l[col], i), c, a.l);
        a.o =
            __fmaf_rn(ap_cluster_read<CL>(&o[col * (int)blockDim.x + (int)threadIdx.x], i), c, a.o);
    }
    return a;
}

static __device__ void put_out(const split_job &j, const tile *t, int col, const sum &a)
{
    int D = j.in.head_dim, row = t->row[col];
    if (row < 0 || (int)threadIdx.x >= D) return;
    float v = a.o / a.l;
    if (j.in.gate)
        v *= ap_sigmoid(
            j.in.gate[row * j.in.ldgate + t->head[col] * j.in.gate_head_stride + threadIdx.x]);
    j.in.out[((size_t)row * (size_t)j.in.n_head + (size_t)t->head[col]) * (size_t)D + threadIdx.x] =
        v;
}

/* A group's sums of column col, in global memory. */
static __device__ float *partial_at(const split_job &j, size_t tile, int group, int columns)
{
    return j.partial + (tile * (size_t)j.max_groups + (size_t)group) * (size_t)columns *
                           (size_t)(j.in.head_dim + 2);
}

static __device__ void put_partial(const split_job &j, float *at, int columns, int col,
                                   const sum &a)
{
    int D = j.in.head_dim, d = (int)threadIdx.x;
    if (d < D) at[col * D + d] = a.o;
    if (d == 0) *(float2 *)(at + columns * D + 2 * col) = make_float2(a.m, a.l);
}

/* Merge the groups of column `col`. */
static __device__ sum merge_groups(const split_job &j, size_t tile, int groups, int columns,
                                   int col)
{
    int D = j.in.head_dim, d = min((int)threadIdx.x, D - 1);
    sum a = {-CUDART_INF_F, 0, 0};
#pragma unroll 4
    for (int i = 0; i < groups; i++) {
        const float *at = partial_at(j, tile, i, columns);
        float2 ml = __ldcg((const float2 *)(at + columns * D + 2 * col));
        merge(&a, ml.x, ml.y, __ldcg(at + col * D + d));
    }
    return a;
}

/* Have all groups of the tile come this far? Asked by every thread of the cluster, after its writes. */
template <int CL> static __device__ bool last_group(unsigned *counter, int groups, tile *t)
{
    __threadfence();
    ap_cluster_sync<CL>();
    if (ap_cluster_rank<CL>() == 0 && threadIdx.x == 0) {
        int last = atomicAdd(counter, 1u) == (unsigned)groups - 1;
        if (last) *counter = 0;
        for (int i = 0; i < CL; i++) ap_cluster_write<CL>(&t->last, i, last);
    }
    ap_cluster_sync<CL>();
    if (t->last) __threadfence();
    return t->last != 0;
}

/* ------------------------------------------------------------------ the kernel */

/* Grid: x clusters of a tile, y tiles, z KV heads. Threads: 64 for each 64 dims. */
template <int KV, int NT, int CL>
__global__ void __launch_bounds__(KV == APUS_KV_F32 ? 1024 : 512) attn_split(const split_job j)
{
    constexpr int columns = 8 * NT, mine = columns / CL; /* columns that a block merges */
    extern __shared__ __align__(16) uint8_t mem[];
    __shared__ tile t;
    const room at = split_room(KV, columns, j.in.head_dim);
    int g = (int)blockIdx.z, rank = ap_cluster_rank<CL>(), there = 1;
    ap_grid_wait();
    if (threadIdx.x < 32) there = open_tile(j, (int)blockIdx.y, g, &t);
    if (!__syncthreads_and(there)) return;
    load_queries<KV, columns>(j, &t, mem + at.q);

    int first = t.min_lo / AP_PAGE, last = (t.max_hi - 1) / AP_PAGE, pages = 1; /* of a split */
    while (last / pages - first / pages >= j.max_splits) pages *= 2;
    int group = first / pages / CL, groups = last / pages / CL - group + 1;
    bool kept = j.clusters == 1 || groups == 1; /* one cluster has it all */
    size_t tile = (size_t)blockIdx.y * gridDim.z + blockIdx.z;
    sum a[mine];
    for (int i = 0; i < mine; i++) a[i] = {-CUDART_INF_F, 0, 0};
    for (int i = (int)blockIdx.x / CL; i < groups; i += j.clusters) {
        int from = ((group + i) * CL + rank) * pages;
        __syncthreads(); /* queries are there */
        run_split<KV, NT>(j, &t, mem, at, g, max(from, first), min(from + pages, last + 1));
        ap_cluster_sync<CL>();
        for (int n = 0; n < mine; n++) {
            sum b = gather<CL>(&t, (const float *)(mem + at.o), rank * mine + n);
            if (kept)
                merge(&a[n], b.m, b.l, b.o);
            else
                put_partial(j, partial_at(j, tile, i, columns), columns, rank * mine + n, b);
        }
        if (kept) {
            ap_cluster_sync<CL>(); /* nobody reads o any more */
        } else if (last_group<CL>(j.counter + tile, groups, &t)) {
            for (int n = 0; n < mine; n++)
                a[n] = merge_groups(j, tile, groups, columns, rank * mine + n);
            kept = true;
        }
    }
    if (kept && (int)blockIdx.x / CL < groups)
        for (int n = 0; n < mine; n++) put_out(j, &t, rank * mine + n, a[n]);
}

/* ------------------------------------------------------------------ launches */

static int max_splits(int cluster, int head_dim)
{
    return cluster == 1     ? 32
           : head_dim > 256 ? 64
                            : 128; /* so many blocks that one more wave is rare */
}

/* Clusters a tile; with more than one, sums go through global memory. */
static int clusters_per_tile(const ap_exec *x, int tiles, int cluster, int max_groups)
{
    int64_t wanted = (int64_t)BLOCKS_PER_SM * ap_cuda_of(x)->sm / ((int64_t)tiles * cluster);
    return wanted < 1 || tiles > AP_CUDA_COUNTERS ? 1
           : wanted > max_groups                  ? max_groups
                                                  : (int)wanted;
}

/* Bytes of the partial sums of so many tiles; 0 where none are kept. */
static size_t partial_bytes(const ap_exec *x, int tiles, int columns, int head_dim)
{
    int cluster = ap_cuda_of(x)->arch >= 90 ? CLUSTER : 1,
        groups = max_splits(cluster, head_dim) / cluster + 1;
    if (clusters_per_tile(x, tiles, cluster, groups) == 1) return 0;
    return (size_t)tiles * (size_t)groups * (size_t)columns * (size_t)(head_dim + 2) *
           sizeof(float);
}

size_t ap_attn_split_scratch(const ap_exec *x, int n_tok, int n_head, int n_kv_head, int head_dim)
{
    size_t most = 0;
    (void)n_tok, (void)n_head;
    for (int tiles = n_kv_head; tiles <= AP_CUDA_COUNTERS; tiles++) {
        size_t n = partial_bytes(x, tiles, MAX_COLUMNS, head_dim);
        most = n > most ? n : most;
    }
    return most;
}

template <int KV, int NT> static void launch(const ap_exec *x, split_job *j, int tiles)
{
    int D = j->in.head_dim, G = j->in.n_kv_head, cluster = ap_cuda_of(x)->arch >= 90 ? CLUSTER : 1;
    unsigned threads = (unsigned)((D + WARP_DIMS - 1) / WARP_DIMS * WARP_DIMS);
    j->max_splits = max_splits(cluster, D);
    j->max_groups = j->max_splits / cluster + 1;
    j->clusters = clusters_per_tile(x, tiles * j->parts * G, cluster, j->max_groups);
    dim3 grid((unsigned)(j->clusters * cluster), (unsigned)(tiles * j->parts), (unsigned)G);
    size_t shared = (size_t)split_room(KV, 8 * NT, D).bytes;
    if (cluster == 1)
        ap_launch_cluster(x, attn_split<KV, NT, 1>, grid, dim3(threads), 1, shared, *j);
    else
        ap_launch_cluster(x, attn_split<KV, NT, CLUSTER>, grid, dim3(threads), CLUSTER, shared, *j);
}

/* The most rows that a tile of this launch could have. */
static int widest(const ap_attn_args *a, int which, int group)
{
    const ap_batch *b = a->kv.batch;
    int most = 1;
    for (int i = 0; i < b->n_seq && b->n_seq != b->n_tok; i++)
        if (ap_attn_takes(which, b->seq[i].n_tok) && b->seq[i].n_tok > most) most = b->seq[i].n_tok;
    return most > MAX_COLUMNS ? MAX_COLUMNS : most * group;
}

template <int KV> static void launch_width(const ap_exec *x, split_job *j, int columns, int tiles)
{
    if (columns == 8)
        launch<KV, 1>(x, j, tiles);
    else if (columns == 16)
        launch<KV, 2>(x, j, tiles);
    else if constexpr (KV != APUS_KV_F32)
        launch<KV, 4>(x, j, tiles);
}

void ap_attn_split(const ap_exec *x, const ap_attn_args *a, const ap_attn_in *in, int which)
{
    const ap_batch *b = a->kv.batch;
    int rows = widest(a, which, in->group), most = a->kv.type == APUS_KV_F32 ? 16 : MAX_COLUMNS;
    int columns = rows <= 8 ? 8 : rows <= 16 ? 16 : most;
    size_t room = ap_cuda_shared_bytes(ap_cuda_of(x)) - sizeof(tile);
    while (columns > 8 && (size_t)split_room(a->kv.type, columns, a->head_dim).bytes > room)
        columns /= 2;
    split_job j = {};
    j.in = *in;
    j.which = which;
    j.alone = b->n_seq == b->n_tok;
    j.heads = in->group < columns ? in->group : columns;
    j.parts = (in->group + j.heads - 1) / j.heads;
    j.tokens = j.alone || j.parts > 1 ? 1 : columns / j.heads;
    j.partial = (float *)a->scratch;
    j.counter = ap_cuda_of(x)->counter;
    int tiles = j.alone ? b->n_tok : ap_attn_tiles(b, which, j.tokens);
    if (tiles == 0) return;
    if (a->kv.type == APUS_KV_F32)
        launch_width<APUS_KV_F32>(x, &j, columns, tiles);
    else if (a->kv.type == APUS_KV_BF16)
        launch_width<APUS_KV_BF16>(x, &j, columns, tiles);
    else
        launch_width<APUS_KV_Q8>(x, &j, columns, tiles);
}

/* ------------------------------------------------------------------ the slot */

size_t ap_cuda_attn_scratch_bytes(const ap_exec *x, int n_tok, int n_head, int n_kv_head,
                                  int head_dim)
{
    return ap_attn_split_scratch(x, n_tok, n_head, n_kv_head, head_dim);
}

int ap_cuda_attn_fast_dim(const ap_exec *x, int head_dim)
{
    ap_attn_args a = {};
    a.kv.type = APUS_KV_BF16;
    a.n_head = a.n_kv_head = 1;
    if (x->precision != APUS_PRECISION_FAST) return 0;
    for (a.head_dim = 64; a.head_dim <= 512; a.head_dim *= 2)
        if (a.head_dim >= head_dim) return ap_attn_flash_takes(x, &a) ? a.head_dim : 0;
    return 0;
}

static ap_attn_in in_of(const ap_attn_args *a)
{
    const ap_batch *b = a->kv.batch;
    ap_attn_in in = {};
    in.q = a->q;
    in.out = a->out;
    in.base = a->kv.base + a->kv.layer_offset;
    in.page_bytes = a->kv.page_bytes;
    in.page = b->page[a->kv.group];
    in.page_ld = b->page_ld;
    in.seq = b->seq_dev;
    in.pos = b->pos;
    in.see_end = b->see_end;
    in.seq_of = b->seq_of;
    in.n_tok = b->n_tok;
    in.n_seq = b->n_seq;
    in.n_head = a->n_head;
    in.n_kv_head = a->n_kv_head;
    in.group = a->n_head / a->n_kv_head;
    in.head_dim = a->head_dim;
    in.window = a->window;
    in.first = a->first;
    in.scale = a->scale * 1.4426950408889634f;
    return in;
}

void ap_cuda_attn(const ap_exec *x, const ap_attn_args *a)
{
    const ap_batch *b = a->kv.batch;
    ap_attn_in in = in_of(a);
    if (b->n_tok == b->n_seq || !ap_attn_flash_takes(x, a)) {
        ap_attn_split(x, a, &in, AP_ATTN_ALL);
        return;
    }
    ap_attn_split(x, a, &in, AP_ATTN_THE_FEW);
    ap_attn_flash(x, a, &in, AP_ATTN_THE_MANY);
}

void ap_cuda_attend(const ap_exec *x, const ap_attend_args *a)
{
    const ap_batch *b = a->attn.kv.batch;
    if (b->n_tok != b->n_seq) {
        ap_group_attend(x, a);
        return;
    }
    ap_attn_in in = in_of(&a->attn);
    in.gate = a->gate;
    in.ldgate = a->ldgate;
    in.gate_head_stride = a->gate_head_stride;
    ap_cuda_qkv(x, &a->qkv);
    ap_attn_split(x, &a->attn, &in, AP_ATTN_ALL);
}
