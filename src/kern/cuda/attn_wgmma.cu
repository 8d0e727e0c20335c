/* attn_wgmma.cu - attention of many rows over bf16 pages on Hopper's tensor cores (precision FAST), head dim 256.
 *
 * A block has a tile of 128 query rows of one KV head. Two warpgroups consume: each has 64 rows, forms their scores with
 * a page's keys, keeps the weights in registers as the left operand, and adds up the values. A third one produces: it
 * turns pages, which have pairs of neighbours of a sum side by side, into operands with one key (or dim) a row: four
 * 16-byte loads become four 16-byte stores, in registers, so that a word goes where it belongs. Limits of a page: 2,048
 * clocks of the tensor cores, and as many of shared memory (64 KB in, 192 KB out). */
#include "kern/cuda/attn_tile.cuh"
#include "kern/cuda/mma.cuh"
#include "kern/cuda/wgmma.cuh"

#include <math_constants.h>

enum {
    D = 256,
    ROWS = 128,
    CONSUMERS = 256,
    PRODUCERS = 128,
    THREADS = CONSUMERS + PRODUCERS,
    STAGES = 2,
    Q_TILE = ROWS * 128,    /* bytes of 64 dims of the queries */
    K_TILE = AP_PAGE * 128, /* of the keys of a page */
    K_BYTES = D / 64 * K_TILE,
    V_BYTES = D * 128, /* 64 keys a row */
    Q_BYTES = D / 64 * Q_TILE,
    ROOM = Q_BYTES + STAGES * (K_BYTES + V_BYTES) + 1024
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/* Addresses in shared memory: operands, and barriers of full and empty stages of keys and of values. */
struct ring {
    uint32_t q, k, v, k_full, k_empty, v_full, v_empty;
};

/* ------------------------------------------------------------------ queries */

static __device__ void load_queries(const ap_flash_job &j, const ap_tile<ROWS> *m, const ring &r)
{
    for (int i = (int)threadIdx.x; i < ROWS * (D / 8); i += THREADS) {
        int row = i / (D / 8), u = i % (D / 8);
        float4 a = make_float4(0, 0, 0, 0), b = a;
        if (row < m->n) {
            const float4 *q = (const float4 *)(j.in.q + ap_tile_row<D>(j, m, row)) + 2 * u;
            a = q[0], b = q[1];
        }
        uint32_t to = r.q + (uint32_t)(u / 8 * Q_TILE + row * 128 + ((u ^ row) % 8 << 4));
        ap_store_shared(to, ap_bf16_pair(a.x, a.y), ap_bf16_pair(a.z, a.w), ap_bf16_pair(b.x, b.y),
                        ap_bf16_pair(b.z, b.w));
    }
}

/* ------------------------------------------------------------------ the producers */

/* Four rows of four words from `from` on, `step` bytes apart. */
static __device__ __forceinline__ void load_square(uint4 *w, const uint8_t *from, int step)
{
#pragma unroll
    for (int i = 0; i < 4; i++) w[i] = __ldg((const uint4 *)(from + i * step));
}

/* Its columns as units: unit `unit` of rows `row` to row + 3 of an operand; words that keep says nothing of become 0. */
static __device__ __forceinline__ void store_square(const uint4 *w, uint32_t operand, int row,
                                                    int unit)
{
    const uint32_t *x = (const uint32_t *)w;
#pragma unroll
    for (int e = 0; e < 4; e++) {
        int at = row + e;
        ap_store_shared(operand + (uint32_t)(at * 128 + ((unit ^ at) % 8 << 4)), x[e], x[4 + e],
                        x[8 + e], x[12 + e]);
    }
}

static constexpr int SQUARES =
    D / 8 * (AP_PAGE / 4) / PRODUCERS; /* of a thread, of keys or values */

static __device__ __forceinline__ void put_keys(const uint8_t *page, const ring &r, uint32_t at)
{
    int me = threadIdx.x - CONSUMERS, p0 = me & 7, q0 = me >> 3; /* 8 dims, 4 keys */
    uint4 w[SQUARES][4];
#pragma unroll
    for (int i = 0; i < SQUARES; i++) /* dims 8 (8i + p0), keys 4 q0 */
        load_square(w[i], page + (size_t)(4 * (8 * i + p0)) * AP_PAGE * 4 + q0 * 16, AP_PAGE * 4);
    if (at >= STAGES) ap_barrier_wait(r.k_empty + at % STAGES * 8, (at / STAGES - 1) & 1);
#pragma unroll
    for (int i = 0; i < SQUARES; i++)
        store_square(w[i], r.k + at % STAGES * K_BYTES + i * K_TILE, 4 * q0, p0);
    __syncwarp();
    if (me % 32 == 0) ap_barrier_arrive(r.k_full + at % STAGES * 8);
}

/* Keys [lo, hi) of the page are visible; the others' values may be anything, infinities too: out with them. */
static __device__ __forceinline__ void put_values(const uint8_t *page, const ring &r, uint32_t at,
                                                  int lo, int hi)
{
    int me = threadIdx.x - CONSUMERS, p0 = me & 7, q0 = me >> 3; /* 8 keys, 4 dims */
    uint4 w[SQUARES][4];
#pragma unroll
    for (int i = 0; i < SQUARES; i++) /* keys 8 p0, dims 4 (16i + q0) */
        load_square(w[i], page + (size_t)(4 * p0) * D * 4 + (16 * i + q0) * 16, D * 4);
    if (lo > 0 || hi < AP_PAGE) {
#pragma unroll
        for (int k = 0; k < 4; k++) {
            int key = 8 * p0 + 2 * k;
            uint32_t keep = (key >= lo && key < hi ? 0xffffu : 0u) |
                            (key + 1 >= lo && key + 1 < hi ? 0xffff0000u : 0u);
#pragma unroll
            for (int i = 0; i < SQUARES; i++) {
                w[i][k].x &= keep, w[i][k].y &= keep;
                w[i][k].z &= keep, w[i][k].w &= keep;
            }
        }
    }
    if (at >= STAGES) ap_barrier_wait(r.v_empty + at % STAGES * 8, (at / STAGES - 1) & 1);
#pragma unroll
    for (int i = 0; i < SQUARES; i++)
        store_square(w[i], r.v + at % STAGES * V_BYTES, 4 * (16 * i + q0), p0);
    __syncwarp();
    if (me % 32 == 0) ap_barrier_arrive(r.v_full + at % STAGES * 8);
}

static __device__ __forceinline__ void produce(const ap_flash_job &j, const ap_tile<ROWS> *m,
                                               const ring &r)
{
    const int32_t *table = j.in.page + (size_t)j.in.seq[m->seq].table * (size_t)j.in.page_ld;
    int begin = m->min_lo / AP_PAGE, end = (m->max_hi + AP_PAGE - 1) / AP_PAGE, next = table[begin];
#pragma unroll 1
    for (int page = begin; page < end; page++) {
        ap_attn_page here = ap_attn_page_at<APUS_KV_BF16>(j.in, next, (int)blockIdx.y);
        if (page + 1 < end) next = table[page + 1];
        put_keys(here.k, r, (uint32_t)(page - begin));
        put_values(here.v, r, (uint32_t)(page - begin), m->min_lo - page * AP_PAGE,
                   m->max_hi - page * AP_PAGE);
    }
}

/* ------------------------------------------------------------------ the consumers */

/* s = q K^T for the warpgroup's rows. */
static __device__ __forceinline__ void scores(const ring &r, uint32_t at, float *s)
{
    uint32_t q = r.q + threadIdx.x / 128 * (64 * 128), k = r.k + at % STAGES * K_BYTES;
    ap_wgmma_begin();
#pragma unroll
    for (int d = 0; d < D / 64; d++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            ap_wgmma<AP_PAGE>(s, ap_wgmma_operand(q + d * Q_TILE) + 2 * i,
                              ap_wgmma_operand(k + d * K_TILE) + 2 * i, d > 0 || i > 0);
    ap_wgmma_commit();
    ap_wgmma_wait<0>();
}

/* Weights of the lane's two rows, in place, and o, l to the new m. Columns of s[4j + 2h + e]: 8j + 2c + e. */
static __device__ __forceinline__ void weigh(const ap_flash_job &j, const ap_tile<ROWS> *m,
                                             int start, float *s, float *o, float top_of[2],
                                             float sum_of[2])
{
    int lane = threadIdx.x % 32, c = lane % 4, row = threadIdx.x / 32 * 16 + lane / 4;
    bool all = start >= m->max_lo && start + AP_PAGE <= m->min_hi;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float top = top_of[h], sum = 0;
        int lo = m->lo[row + 8 * h] - start, hi = m->hi[row + 8 * h] - start;
#pragma unroll
        for (int k = 0; k < AP_PAGE / 8; k++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                float &v = s[4 * k + 2 * h + e];
                int key = 8 * k + 2 * c + e;
                v = all || (key >= lo && key < hi) ? v * j.in.scale : -CUDART_INF_F;
                top = fmaxf(top, v);
            }
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
        float ref = top == -CUDART_INF_F ? 0.0f : top; /* nothing visible so far: weights are 0 */
        float by = ap_exp2(top_of[h] - ref);
        top_of[h] = top;
#pragma unroll
        for (int k = 0; k < AP_PAGE / 8; k++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                float &v = s[4 * k + 2 * h + e];
                v = ap_exp2(v - ref);
                sum += v;
            }
        sum_of[h] = fmaf(sum_of[h], by, sum);
#pragma unroll
        for (int k = 0; k < D / 8; k++) {
            o[4 * k + 2 * h] *= by;
            o[4 * k + 2 * h + 1] *= by;
        }
    }
}

/* o += p V. */
static __device__ __forceinline__ void add_values(const ring &r, uint32_t at, const float *s,
                                                  float *o)
{
    uint32_t p[AP_PAGE / 16][4], v = r.v + at % STAGES * V_BYTES;
#pragma unroll
    for (int k = 0; k < AP_PAGE / 16; k++)
#pragma unroll
        for (int e = 0; e < 4; e++) p[k][e] = ap_bf16_pair(s[8 * k + 2 * e], s[8 * k + 2 * e + 1]);
    ap_barrier_wait(r.v_full + at % STAGES * 8, at / STAGES & 1);
    ap_wgmma_publish();
    ap_wgmma_begin();
#pragma unroll
    for (int k = 0; k < AP_PAGE / 16; k++) ap_wgmma_left(o, p[k], ap_wgmma_operand(v) + 2 * k);
    ap_wgmma_commit();
    ap_wgmma_wait<0>();
}

static __device__ __forceinline__ void consume(const ap_flash_job &j, const ap_tile<ROWS> *m,
                                               const ring &r)
{
    int begin = m->min_lo / AP_PAGE, end = (m->max_hi + AP_PAGE - 1) / AP_PAGE;
    int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
    float o[D / 2], top[2] = {-CUDART_INF_F, -CUDART_INF_F}, sum[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < D / 2; i++) o[i] = 0;
#pragma unroll 1
    for (int page = begin; page < end; page++) {
        uint32_t at = (uint32_t)(page - begin);
        float s[AP_PAGE / 2];
        ap_barrier_wait(r.k_full + at % STAGES * 8, at / STAGES & 1);
        ap_wgmma_publish();
        scores(r, at, s);
        if (lane == 0) ap_barrier_arrive(r.k_empty + at % STAGES * 8);
        weigh(j, m, page * AP_PAGE, s, o, top, sum);
        add_values(r, at, s, o);
        if (lane == 0) ap_barrier_arrive(r.v_empty + at % STAGES * 8);
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float l = sum[h];
        l += __shfl_xor_sync(0xffffffffu, l, 1);
        l += __shfl_xor_sync(0xffffffffu, l, 2);
        if (row + 8 * h >= m->n) continue;
        float *out = j.in.out + ap_tile_row<D>(j, m, row + 8 * h) + lane % 4 * 2, by = 1.0f / l;
#pragma unroll
        for (int k = 0; k < D / 8; k++)
            *(float2 *)(out + 8 * k) =
                make_float2(o[4 * k + 2 * h] * by, o[4 * k + 2 * h + 1] * by);
    }
}

#endif

/* Grid: x tiles, y KV heads. */
static __global__ void __launch_bounds__(THREADS, 1)
    attn_wgmma(const __grid_constant__ ap_flash_job j)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    extern __shared__ __align__(1024) uint8_t mem[];
    __shared__ __align__(8) uint64_t barrier[4 * STAGES];
    __shared__ ap_tile<ROWS> m;
    uint32_t base = (uint32_t)__cvta_generic_to_shared(barrier);
    int there = 1;
    ring r;
    r.q = ((uint32_t)__cvta_generic_to_shared(mem) + 1023) & ~1023u;
    r.k = r.q + Q_BYTES;
    r.v = r.k + STAGES * K_BYTES;
    r.k_full = base;
    r.v_full = base + STAGES * 8;
    r.k_empty = base + 2 * STAGES * 8;
    r.v_empty = base + 3 * STAGES * 8;
    if (threadIdx.x < 4 * STAGES)
        ap_barrier_make(base + threadIdx.x * 8,
                        threadIdx.x < 2 * STAGES ? PRODUCERS / 32 : CONSUMERS / 32);
    ap_grid_wait();
    if (threadIdx.x < 32) there = ap_open_tile(j, &m);
    if (!__syncthreads_and(there)) return;
    load_queries(j, &m, r);
    ap_wgmma_publish();
    __syncthreads();
    if (threadIdx.x >= CONSUMERS) {
        ap_registers_fewer<104>();
        produce(j, &m, r);
    } else {
        ap_registers_more<200>();
        consume(j, &m, r);
    }
#endif
}

bool ap_attn_wgmma_takes(const ap_exec *x, const ap_attn_args *a)
{
    return x->precision == APUS_PRECISION_FAST && ap_cuda_of(x)->arch == 90 &&
           a->kv.type == APUS_KV_BF16 && a->head_dim == D && a->n_head / a->n_kv_head <= ROWS;
}

void ap_attn_wgmma(const ap_exec *x, const ap_attn_args *a, const ap_attn_in *in, int which)
{
    ap_flash_job j = {*in, which, ROWS / in->group};
    int tiles = ap_attn_tiles(a->kv.batch, which, j.tokens);
    if (tiles == 0) return;
    ap_launch(x, attn_wgmma, dim3((unsigned)tiles, (unsigned)in->n_kv_head), dim3(THREADS),
              (size_t)ROOM, j);
}
