/* attn_flash.cu - attention of many rows: tiles of query rows against pages of keys, on the tensor cores.
 *
 * A block has a tile of 32 * ROW_WARPS rows and walks the pages that any of them sees, ascending. Warps are
 * ROW_WARPS x COL_WARPS: for the scores a warp takes 32 rows and a share of the page's keys, for the values
 * the same rows and a share of the dims; the weights go from one to the other through shared memory. While
 * scores are formed the page's values arrive, while values are added the next page's keys.
 *
 * With precision HIGH and EXACT queries and weights are two bf16 each, high and low (16 bits in all), in half as large
 * tiles; q8 pages then enter as integers, which bf16 has exactly, and their scales go to the sums of keys and to the
 * weights. FAST rounds to one bf16 all that enters a product.
 *
 * Keys and values lie in shared memory as in the page, pairs of what is summed side by side, with rows 8
 * words longer: one 16-byte load gives a lane the operands of 4 matrices (mma.h), of 4 keys (or dims) next
 * to each other: column r of matrix j is neighbour 4r + j. */
#include "kern/cuda/attn_tile.cuh"
#include "kern/cuda/mma.cuh"

#include <math_constants.h>

#define THREADS 256
#define P_LD    72 /* bf16 from row to row of the weights */
#define K_LD    72 /* words from row to row of the keys */

/* Sizes of a block for a head dim. SPLIT: two bf16 each. */
template <int D, bool SPLIT> struct shape {
    static constexpr int col_warps = (D > 256 ? 4 : 2) * (SPLIT && D > 128 ? 2 : 1),
                         row_warps = 8 / col_warps, planes = SPLIT ? 2 : 1;
    static constexpr int rows = 32 * row_warps;
    static constexpr int keys = AP_PAGE / col_warps, key_tiles = keys / 8;
    static constexpr int dims = D / col_warps, dim_tiles = dims / 8;
    static constexpr int q_ld = D + 8, v_ld = D + 8; /* bf16; words */
};

template <int D, bool SPLIT> struct flash_room : ap_tile<shape<D, SPLIT>::rows> {
    uint16_t q[shape<D, SPLIT>::planes][shape<D, SPLIT>::rows * shape<D, SPLIT>::q_ld];
    uint32_t k[D / 2 * K_LD];
    uint32_t v[AP_PAGE / 2 * shape<D, SPLIT>::v_ld];
    uint16_t p[shape<D, SPLIT>::planes][shape<D, SPLIT>::rows * P_LD];
    float top[shape<D, SPLIT>::col_warps]
             [shape<D, SPLIT>::rows]; /* of a warp's keys; at the end: its sum */
    float ks[(D + AP_KV_BLOCK - 1) / AP_KV_BLOCK * AP_PAGE], vs[AP_PAGE]; /* SPLIT, of q8 pages */
};

/* ------------------------------------------------------------------ queries */

/* What a pair leaves when it is rounded. */
static __device__ __forceinline__ uint32_t rest_of(float x, float y, uint32_t rounded)
{
    return ap_bf16_pair(x - ap_bf16_low(rounded), y - ap_bf16_high(rounded));
}

template <int D, bool SPLIT>
static __device__ void load_queries(const ap_flash_job &j, flash_room<D, SPLIT> *m)
{
    for (int i = (int)threadIdx.x; i < shape<D, SPLIT>::rows * (D / 4); i += THREADS) {
        int row = i / (D / 4), d = i % (D / 4) * 4;
        float4 x = make_float4(0, 0, 0, 0);
        if (row < m->n)
            x = *(const float4 *)(j.in.q + ap_tile_row<D, shape<D, SPLIT>::rows>(j, m, row) + d);
        uint2 high = make_uint2(ap_bf16_pair(x.x, x.y), ap_bf16_pair(x.z, x.w));
        int at = row * shape<D, SPLIT>::q_ld + d;
        *(uint2 *)(m->q[0] + at) = high;
        if (SPLIT)
            *(uint2 *)(m->q[shape<D, SPLIT>::planes - 1] + at) =
                make_uint2(rest_of(x.x, x.y, high.x), rest_of(x.z, x.w, high.y));
    }
}

/* ------------------------------------------------------------------ pages */

/* Four 8-bit values times by, as two pairs. */
static __device__ __forceinline__ uint2 widen(uint32_t x, const float by[4])
{
    float f[4];
    for (int i = 0; i < 4; i++) f[i] = (float)(int8_t)(x >> 8 * i) * by[i];
    return make_uint2(ap_bf16_pair(f[0], f[1]), ap_bf16_pair(f[2], f[3]));
}

/* Four words as two rows of four pairs. */
static __device__ __forceinline__ void put_rows(uint32_t *to, int ld, const uint2 w[4])
{
    *(uint4 *)to = make_uint4(w[0].x, w[1].x, w[2].x, w[3].x);
    *(uint4 *)(to + ld) = make_uint4(w[0].y, w[1].y, w[2].y, w[3].y);
}

template <int D, bool SPLIT, int KV>
static __device__ void load_keys(const ap_attn_page &p, flash_room<D, SPLIT> *m)
{
    if constexpr (KV == APUS_KV_BF16) {
        for (int i = (int)threadIdx.x; i < D / 2 * 16; i += THREADS)
            ap_copy16(m->k + i / 16 * K_LD + i % 16 * 4, p.k + (size_t)i * 16);
        ap_copies_commit();
    } else {
        for (int i = (int)threadIdx.x; i < D / 4 * 16; i += THREADS) { /* 4 dims of 4 keys */
            int key = i % 16 * 4, d = i / 16;
            uint4 x = *(const uint4 *)(p.k + (size_t)(key / 16) * D * 16 + d * 64 + key % 16 * 4);
            float4 s = *(const float4 *)(p.ks + d / 16 * AP_PAGE + key);
            const uint32_t in[4] = {x.x, x.y, x.z, x.w};
            const float by[4] = {s.x, s.y, s.z, s.w};
            uint2 w[4];
            for (int e = 0; e < 4; e++) {
                float one = SPLIT ? 1.0f : by[e];
                const float same[4] = {one, one, one, one};
                w[e] = widen(in[e] ^ 0x80808080u, same);
            }
            put_rows(m->k + 2 * d * K_LD + key, K_LD, w);
        }
        for (int i = (int)threadIdx.x; SPLIT && i < (int)sizeof m->ks / 4; i += THREADS)
            m->ks[i] = p.ks[i];
    }
}

template <int D, bool SPLIT, int KV>
static __device__ void load_values(const ap_attn_page &p, flash_room<D, SPLIT> *m)
{
    constexpr int ld = shape<D, SPLIT>::v_ld;
    if constexpr (KV == APUS_KV_BF16) {
        for (int i = (int)threadIdx.x; i < AP_PAGE / 2 * (D / 4); i += THREADS)
            ap_copy16(m->v + i / (D / 4) * ld + i % (D / 4) * 4, p.v + (size_t)i * 16);
        ap_copies_commit();
    } else {
        for (int i = (int)threadIdx.x; i < D / 4 * 16; i += THREADS) { /* 4 keys of 4 dims */
            int d = i % (D / 4) * 4, key = i / (D / 4) * 4;
            uint4 x =
                *(const uint4 *)(p.v + (size_t)(d / 16) * AP_PAGE * 16 + key * 16 + d % 16 * 4);
            float4 s = *(const float4 *)(p.vs + key);
            const uint32_t in[4] = {x.x, x.y, x.z, x.w};
            const float by[4] = {SPLIT ? 1.0f : s.x, SPLIT ? 1.0f : s.y, SPLIT ? 1.0f : s.z,
                                 SPLIT ? 1.0f : s.w};
            uint2 w[4];
            for (int e = 0; e < 4; e++) w[e] = widen(in[e], by);
            put_rows(m->v + key / 2 * ld + d, ld, w);
        }
        if (SPLIT && threadIdx.x < AP_PAGE) m->vs[threadIdx.x] = p.vs[threadIdx.x];
    }
}

/* Values that no row sees may be anything, infinities too: out with them. */
template <int D, bool SPLIT>
static __device__ void mask_values(flash_room<D, SPLIT> *m, int lo, int hi)
{
    for (int i = (int)threadIdx.x; i < AP_PAGE / 2 * D; i += THREADS) {
        int key = i / D * 2;
        uint32_t keep = (key >= lo && key < hi ? 0xffffu : 0u) |
                        (key + 1 >= lo && key + 1 < hi ? 0xffff0000u : 0u);
        if (keep != 0xffffffffu) m->v[i / D * shape<D, SPLIT>::v_ld + i % D] &= keep;
    }
}

/* ------------------------------------------------------------------ a warp's work */

/* A warp's registers: matrices of 16 rows, [2] times 32 rows. Rows of a lane: 16i + r and 16i + r + 8. */
template <int D, bool SPLIT> struct regs {
    float o[2][shape<D, SPLIT>::dim_tiles][4];
    float m[2][2], l[2][2];
};

/* s += q K^T for the warp's rows and keys, dims [from, from + n). */
template <int D, bool SPLIT>
static __device__ __forceinline__ void score_dims(const flash_room<D, SPLIT> *m, int from, int n,
                                                  float s[2][shape<D, SPLIT>::key_tiles][4])
{
    using S = shape<D, SPLIT>;
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, r = lane / 4, c = lane % 4;
    int row = 32 * (warp / S::col_warps), key = S::keys * (warp % S::col_warps);
    int at = (row + lane % 16) * S::q_ld + lane / 16 * 8;
    const uint32_t *k = m->k + c * K_LD + key + r * S::key_tiles;
#pragma unroll 4
    for (int d = from; d < from + n; d += 16) {
        uint32_t b[2][S::key_tiles];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint32_t *from_key = k + (d / 2 + 4 * i) * K_LD;
            if constexpr (S::key_tiles == 4)
                *(uint4 *)b[i] = *(const uint4 *)from_key;
            else if constexpr (S::key_tiles == 2)
                *(uint2 *)b[i] = *(const uint2 *)from_key;
            else
                b[i][0] = *from_key;
        }
#pragma unroll
        for (int e = S::planes - 1; e >= 0; e--) {
            uint32_t a[2][4];
            ap_load_4(a[0], m->q[e] + at + d);
            ap_load_4(a[1], m->q[e] + at + 16 * S::q_ld + d);
#pragma unroll
            for (int t = 0; t < S::key_tiles; t++)
#pragma unroll
                for (int i = 0; i < 2; i++)
                    ap_mma_bf16(s[i][t], a[i][0], a[i][1], a[i][2], a[i][3], b[0][t], b[1][t]);
        }
    }
}

/* Position in the page of the key of s[.][n][e]. */
template <int D, bool SPLIT> static __device__ __forceinline__ int key_of(int n, int e)
{
    using S = shape<D, SPLIT>;
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    return S::keys * (warp % S::col_warps) + (2 * (lane % 4) + e % 2) * S::key_tiles + n;
}

/* s = q K^T for the warp's rows and keys. */
template <int D, bool SPLIT, int KV>
static __device__ __forceinline__ void scores(const flash_room<D, SPLIT> *m,
                                              float s[2][shape<D, SPLIT>::key_tiles][4])
{
    using S = shape<D, SPLIT>;
    if constexpr (!SPLIT || KV == APUS_KV_BF16) {
        score_dims<D, SPLIT>(m, 0, D, s);
    } else {
#pragma unroll 1
        for (int d = 0; d < D; d += AP_KV_BLOCK) {
            float part[2][S::key_tiles][4] = {};
            score_dims<D, SPLIT>(m, d, min(D - d, AP_KV_BLOCK), part);
#pragma unroll
            for (int n = 0; n < S::key_tiles; n++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    float by = m->ks[d / AP_KV_BLOCK * AP_PAGE + key_of<D, SPLIT>(n, e)];
#pragma unroll
                    for (int i = 0; i < 2; i++) s[i][n][e] = fmaf(part[i][n][e], by, s[i][n][e]);
                }
        }
    }
}

/* Scale, hide what is not visible, and hand on the largest of each row. */
template <int D, bool SPLIT>
static __device__ __forceinline__ void tops(flash_room<D, SPLIT> *m,
                                            float s[2][shape<D, SPLIT>::key_tiles][4], float scale,
                                            int start)
{
    using S = shape<D, SPLIT>;
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32,
        row = 32 * (warp / S::col_warps) + lane / 4;
    bool all = start >= m->max_lo && start + AP_PAGE <= m->min_hi;
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float top = -CUDART_INF_F;
            int at = row + 16 * i + 8 * h, lo = m->lo[at] - start, hi = m->hi[at] - start;
#pragma unroll
            for (int n = 0; n < S::key_tiles; n++)
#pragma unroll
                for (int e = 2 * h; e < 2 * h + 2; e++) {
                    int key = key_of<D, SPLIT>(n, e);
                    s[i][n][e] =
                        all || (key >= lo && key < hi) ? s[i][n][e] * scale : -CUDART_INF_F;
                    top = fmaxf(top, s[i][n][e]);
                }
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
            if (lane % 4 == 0) m->top[warp % S::col_warps][at] = top;
        }
}

/* 2N weights in bf16; SPLIT: what that leaves of them `step` further on. */
template <int N, bool SPLIT>
static __device__ __forceinline__ void put_weights(uint16_t *to, ptrdiff_t step, const float *p)
{
    uint32_t high[N], low[N];
#pragma unroll
    for (int i = 0; i < N; i++) {
        high[i] = ap_bf16_pair(p[2 * i], p[2 * i + 1]);
        low[i] = rest_of(p[2 * i], p[2 * i + 1], high[i]);
    }
#pragma unroll
    for (int e = 0; e < (SPLIT ? 2 : 1); e++, to += step) {
        const uint32_t *v = e ? low : high;
        if constexpr (N == 4)
            *(uint4 *)to = make_uint4(v[0], v[1], v[2], v[3]);
        else if constexpr (N == 2)
            *(uint2 *)to = make_uint2(v[0], v[1]);
        else
            *(uint32_t *)to = v[0];
    }
}

/* Weights of the warp's keys to shared memory, and o, l to the new m. */
template <int D, bool SPLIT, int KV>
static __device__ __forceinline__ void weights(flash_room<D, SPLIT> *m,
                                               float s[2][shape<D, SPLIT>::key_tiles][4],
                                               regs<D, SPLIT> *w)
{
    using S = shape<D, SPLIT>;
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32,
        row = 32 * (warp / S::col_warps) + lane / 4;
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int at = row + 16 * i + 8 * h;
            float top = w->m[i][h], sum = 0;
#pragma unroll
            for (int k = 0; k < S::col_warps; k++) top = fmaxf(top, m->top[k][at]);
            float ref =
                top == -CUDART_INF_F ? 0.0f : top; /* nothing visible so far: weights are 0 */
            float c = ap_exp2(w->m[i][h] - ref);
            w->m[i][h] = top;
            float p[2 * S::key_tiles];
#pragma unroll
            for (int e = 0; e < 2; e++)
#pragma unroll
                for (int n = 0; n < S::key_tiles; n++) {
                    float v = ap_exp2(s[i][n][2 * h + e] - ref);
                    p[e * S::key_tiles + n] = v;
                    sum += v;
                }
            w->l[i][h] = fmaf(w->l[i][h], c, sum);
            if constexpr (SPLIT && KV == APUS_KV_Q8)
#pragma unroll
                for (int k = 0; k < 2 * S::key_tiles; k++) /* what no row sees may be anything */
                    p[k] = p[k] != 0.0f ? p[k] * m->vs[key_of<D, SPLIT>(0, 0) + k] : 0.0f;
            put_weights<S::key_tiles, SPLIT>(m->p[0] + at * P_LD + key_of<D, SPLIT>(0, 0),
                                             m->p[S::planes - 1] - m->p[0], p);
#pragma unroll
            for (int n = 0; n < S::dim_tiles; n++) {
                w->o[i][n][2 * h] *= c;
                w->o[i][n][2 * h + 1] *= c;
            }
        }
}

/* o += p V for the warp's rows and dims. */
template <int D, bool SPLIT>
static __device__ __forceinline__ void add_values(const flash_room<D, SPLIT> *m, regs<D, SPLIT> *w)
{
    using S = shape<D, SPLIT>;
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, r = lane / 4, c = lane % 4;
    int row = 32 * (warp / S::col_warps), dim = S::dims * (warp % S::col_warps);
    int at = (row + lane % 16) * P_LD + lane / 16 * 8;
    const uint32_t *v = m->v + c * S::v_ld + dim + 4 * r;
#pragma unroll
    for (int k = 0; k < AP_PAGE; k += 16) {
        uint32_t a[S::planes][2][4];
#pragma unroll
        for (int e = 0; e < S::planes; e++)
#pragma unroll
            for (int i = 0; i < 2; i++) ap_load_4(a[e][i], m->p[e] + at + 16 * i * P_LD + k);
#pragma unroll
        for (int n = 0; n < S::dim_tiles; n += 4) {
            uint32_t b[2][4];
            *(uint4 *)b[0] = *(const uint4 *)(v + (k / 2) * S::v_ld + n * 8);
            *(uint4 *)b[1] = *(const uint4 *)(v + (k / 2 + 4) * S::v_ld + n * 8);
#pragma unroll
            for (int e = 0; e < 4; e++)
#pragma unroll
                for (int i = 0; i < 2; i++)
#pragma unroll
                    for (int t = S::planes - 1; t >= 0; t--)
                        ap_mma_bf16(w->o[i][n + e], a[t][i][0], a[t][i][1], a[t][i][2], a[t][i][3],
                                    b[0][e], b[1][e]);
        }
    }
}

template <int D, bool SPLIT>
static __device__ void put_out(const ap_flash_job &j, flash_room<D, SPLIT> *m, regs<D, SPLIT> *w)
{
    using S = shape<D, SPLIT>;
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, c = lane % 4;
    int row = 32 * (warp / S::col_warps) + lane / 4, dim = S::dims * (warp % S::col_warps) + 8 * c;
    for (int i = 0; i < 4; i++) {
        float l = w->l[i / 2][i % 2];
        l += __shfl_xor_sync(0xffffffffu, l, 1);
        l += __shfl_xor_sync(0xffffffffu, l, 2);
        if (c == 0) m->top[warp % S::col_warps][row + 8 * i] = l;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int at = row + 16 * i + 8 * h;
            if (at >= m->n) continue;
            float l = 0;
            for (int k = 0; k < S::col_warps; k++) l += m->top[k][at];
            float by = 1.0f / l;
            float *out = j.in.out + ap_tile_row<D, shape<D, SPLIT>::rows>(j, m, at) + dim;
#pragma unroll
            for (int n = 0; n < S::dim_tiles;
                 n += 4) /* column 2c of 4 matrices, then column 2c + 1 */
#pragma unroll
                for (int e = 0; e < 2; e++)
                    *(float4 *)(out + n * 8 + 4 * e) =
                        make_float4(w->o[i][n][2 * h + e] * by, w->o[i][n + 1][2 * h + e] * by,
                                    w->o[i][n + 2][2 * h + e] * by, w->o[i][n + 3][2 * h + e] * by);
        }
}

/* ------------------------------------------------------------------ the kernel */

/* Grid: x tiles, y KV heads. */
template <int D, bool SPLIT, int KV>
__global__ void __launch_bounds__(THREADS) attn_flash(const ap_flash_job j)
{
    extern __shared__ __align__(16) uint8_t mem[];
    flash_room<D, SPLIT> *m = (flash_room<D, SPLIT> *)mem;
    int there = 1;
    ap_grid_wait();
    if (threadIdx.x < 32) there = ap_open_tile<shape<D, SPLIT>::rows>(j, m);
    if (!__syncthreads_and(there)) return;

    const int32_t *table = j.in.page + (size_t)j.in.seq[m->seq].table * (size_t)j.in.page_ld;
    int page = m->min_lo / AP_PAGE, end = (m->max_hi + AP_PAGE - 1) / AP_PAGE, g = (int)blockIdx.y;
    ap_attn_page here = ap_attn_page_at<KV>(j.in, table[page], g);
    load_keys<D, SPLIT, KV>(here, m);
    load_queries<D, SPLIT>(j, m);
    regs<D, SPLIT> w = {};
    for (int i = 0; i < 4; i++) w.m[i / 2][i % 2] = -CUDART_INF_F;
    for (; page < end; page++) {
        int start = page * AP_PAGE, lo = m->min_lo - start, hi = m->max_hi - start;
        float s[2][shape<D, SPLIT>::key_tiles][4] = {};
        ap_copies_wait<0>();
        __syncthreads(); /* keys are there, and nobody reads the last page's values any more */
        load_values<D, SPLIT, KV>(here, m);
        scores<D, SPLIT, KV>(m, s);
        tops<D, SPLIT>(m, s, j.in.scale, start);
        __syncthreads(); /* nobody reads the keys any more */
        bool more = page + 1 < end;
        if (more) {
            here = ap_attn_page_at<KV>(j.in, table[page + 1], g);
            load_keys<D, SPLIT, KV>(here, m);
        }
        weights<D, SPLIT, KV>(m, s, &w);
        if (more)
            ap_copies_wait<1>();
        else
            ap_copies_wait<0>();
        __syncthreads(); /* weights and values are there */
        if (lo > 0 || hi < AP_PAGE) {
            mask_values<D, SPLIT>(m, lo, hi);
            __syncthreads();
        }
        add_values<D, SPLIT>(m, &w);
    }
    put_out<D, SPLIT>(j, m, &w);
}

/* ------------------------------------------------------------------ launches */

template <bool SPLIT> static int rows_of(int head_dim)
{
    return head_dim > 256   ? shape<512, SPLIT>::rows
           : head_dim > 128 ? shape<256, SPLIT>::rows
                            : shape<128, SPLIT>::rows;
}

static int tile_rows(bool split, int head_dim)
{
    return split ? rows_of<true>(head_dim) : rows_of<false>(head_dim);
}

template <bool SPLIT> static size_t room_of(int head_dim)
{
    return head_dim == 64    ? sizeof(flash_room<64, SPLIT>)
           : head_dim == 128 ? sizeof(flash_room<128, SPLIT>)
           : head_dim == 256 ? sizeof(flash_room<256, SPLIT>)
           : head_dim == 512 ? sizeof(flash_room<512, SPLIT>)
                             : SIZE_MAX;
}

static bool in_two(const ap_exec *x)
{
    return x->precision != APUS_PRECISION_FAST;
}

bool ap_attn_flash_takes(const ap_exec *x, const ap_attn_args *a)
{
    size_t room = in_two(x) ? room_of<true>(a->head_dim) : room_of<false>(a->head_dim);
    return a->kv.type != APUS_KV_F32 && room <= ap_cuda_shared_bytes(ap_cuda_of(x)) &&
           a->n_head / a->n_kv_head <= tile_rows(in_two(x), a->head_dim);
}

template <int D, bool SPLIT, int KV>
static void launch(const ap_exec *x, const ap_flash_job &j, int tiles)
{
    dim3 grid((unsigned)tiles, (unsigned)j.in.n_kv_head);
    ap_launch(x, attn_flash<D, SPLIT, KV>, grid, dim3(THREADS), sizeof(flash_room<D, SPLIT>), j);
}

template <int D>
static void launch_type(const ap_exec *x, const ap_flash_job &j, int tiles, int type)
{
    bool bf16 = type == APUS_KV_BF16;
    if (in_two(x))
        bf16 ? launch<D, true, APUS_KV_BF16>(x, j, tiles)
             : launch<D, true, APUS_KV_Q8>(x, j, tiles);
    else
        bf16 ? launch<D, false, APUS_KV_BF16>(x, j, tiles)
             : launch<D, false, APUS_KV_Q8>(x, j, tiles);
}

void ap_attn_flash(const ap_exec *x, const ap_attn_args *a, const ap_attn_in *in, int which)
{
    if (ap_attn_wgmma_takes(x, a)) {
        ap_attn_wgmma(x, a, in, which);
        return;
    }
    ap_flash_job j = {*in, which, tile_rows(in_two(x), in->head_dim) / in->group};
    int tiles = ap_attn_tiles(a->kv.batch, which, j.tokens);
    if (tiles == 0) return;
    switch (in->head_dim) {
    case 64:
        launch_type<64>(x, j, tiles, a->kv.type);
        break;
    case 128:
        launch_type<128>(x, j, tiles, a->kv.type);
        break;
    case 256:
        launch_type<256>(x, j, tiles, a->kv.type);
        break;
    default:
        launch_type<512>(x, j, tiles, a->kv.type);
        break;
    }
}
