/* wide.cu - products of many rows in bf16 on Hopper's tensor cores (precision FAST).
 *
 * A block has 128 weight rows x up to 256 rows of inputs, 64 inputs a stage. Two warpgroups produce: they unpack
 * weights, each once for all these rows, and one thread asks for inputs, which one instruction brings, because they lie
 * in memory as the tensor cores want them (below); two consume: each multiplies 64 of the weight rows with all rows of
 * inputs. Blocks stay, one a multiprocessor, and take one tile after the other: the producers are ahead while results
 * are stored. Limits of a stage of 256 rows: 1,024 clocks of the tensor cores; 1,152 of shared memory (48 KB in, 96 KB
 * out); 8,192 weights to unpack, in some 400 of the instructions that each scheduler has in that time. (Copies of 16
 * bytes, thread by thread, put 32 bytes a clock to shared memory: they alone took 1,024.)
 *
 * Inputs in bf16: 64 of every row lie together, 128 bytes a row, 16-byte unit c of row r at place c ^ (r % 8). Rows of
 * a plane are a multiple of 8; inputs that the last plane has too many are zeros.
 *
 * Which weight row is which row of the instruction is free. A lane of a panel holds rows 2g and 2g + 1; they become
 * rows g and g + 8 of a warp's 16, so that their results meet in one lane again, as neighbours in memory. With GLU
 * these two are gate and up of one row.
 *
 * F32 weights (the router's) are two bf16, and so are inputs: three terms, one after the other. */
#include <cuda_bf16.h>
#include <string.h>

#include "matmul.cuh"
#include "wgmma.cuh"

enum {
    CONSUMERS = 256,
    PRODUCERS = 256,
    THREADS = CONSUMERS + PRODUCERS,
    WARPS = 8, /* of each kind */
    ROWS = AP_WIDE_ROWS,
    WEIGHTS = WARPS * AP_PANEL,
    STEP = 64,
    STAGES = 4,
    AHEAD = 2, /* stages whose inputs are on their way while one is unpacked */
    LEFT_BYTES = WEIGHTS * STEP * 2,
    STAGE_BYTES = LEFT_BYTES + ROWS * STEP * 2
};

/* Scales of weights: of super blocks; f16; bf16 and biases. */
enum { OTHERS, SUPER_AFFINE, SUPER_SIGNED, HALF, AFFINE };

/* ------------------------------------------------------------------ inputs */

enum { CONVERT_X = 64, CONVERT_Y = 4 };

static __device__ __forceinline__ uint32_t pack2(float a, float b)
{
    __nv_bfloat162 v = __floats2bfloat162_rn(a, b);
    return *(uint32_t *)&v;
}

/* What is left of (a, b) after rounding. */
static __device__ __forceinline__ uint32_t pack2_rest(float a, float b, uint32_t rounded)
{
    return pack2(a - __uint_as_float(rounded << 16), b - __uint_as_float(rounded & 0xffff0000u));
}

/* Unit u, inputs 8u .. 8u + 7, of a row. */
static __device__ __forceinline__ int64_t unit_at(int u, int64_t row, int rows)
{
    return ((int64_t)(u >> 3) * rows + row) * 8 + ((u ^ (int)row) & 7);
}

static __global__ void to_bf16(const float *x, int64_t ldx, int n_row, int rows, int cols,
                               uint4 *high, uint4 *low)
{
    ap_grid_wait();
    int u = blockIdx.x * CONVERT_X + threadIdx.x;
    bool aligned = ((uintptr_t)x & 15) == 0 && ldx % 4 == 0, live = 8 * u < cols;
    if (8 * u >= (cols + STEP - 1) / STEP * STEP) return;
    for (int row = blockIdx.y * CONVERT_Y + threadIdx.y; row < n_row;
         row += gridDim.y * CONVERT_Y) {
        const float *p = x + row * ldx + (live ? 8 * u : 0);
        float v[8];
        uint32_t h[4], l[4];
        if (aligned) {
            *(float4 *)v = *(const float4 *)p;
            *(float4 *)(v + 4) = *(const float4 *)(p + 4);
        } else {
#pragma unroll
            for (int i = 0; i < 8; i++) v[i] = p[i];
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            h[i] = live ? pack2(v[2 * i], v[2 * i + 1]) : 0;
            l[i] = live ? pack2_rest(v[2 * i], v[2 * i + 1], h[i]) : 0;
        }
        int64_t at = unit_at(u, row, rows);
        high[at] = make_uint4(h[0], h[1], h[2], h[3]);
        if (low) low[at] = make_uint4(l[0], l[1], l[2], l[3]);
    }
}

void ap_cuda_to_bf16(const ap_exec *x, const float *from, int64_t ld, int n_row, int cols,
                     ap_bf16_rows to)
{
    unsigned units = (unsigned)(cols + STEP - 1) / STEP * 8,
             across = (units + CONVERT_X - 1) / CONVERT_X,
             down = (unsigned)(n_row + CONVERT_Y - 1) / CONVERT_Y;
    ap_launch(x, to_bf16, dim3(across, down < 32768 ? down : 32768), dim3(CONVERT_X, CONVERT_Y), 0,
              from, ld, n_row, to.rows, cols, (uint4 *)to.high, (uint4 *)to.rest);
}

/* A warp a row: of the token of each pair, to the pair's place. */
static __global__ void gather(const uint4 *from, int from_rows, const int32_t *pair,
                              const int32_t *count, uint32_t by_used, int planes, uint4 *to,
                              int to_rows)
{
    ap_grid_wait();
    int n = *count, lane = threadIdx.x & 31;
    for (int64_t row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; row < n;
         row += gridDim.x * (blockDim.x / 32)) {
        int p = pair[row];
        if (p < 0) continue;
        int64_t token = by_used ? __umulhi((uint32_t)p, by_used) : p;
#pragma unroll 4
        for (int u = lane; u < planes * 8; u += 32)
            to[unit_at(u, row, to_rows)] = from[unit_at(u, token, from_rows)];
    }
}

/* For quotients of numbers up to 2^24: x / n = the high half of x times this; 0: x. */
static uint32_t reciprocal(int n)
{
    return n == 1 ? 0 : (uint32_t)((((uint64_t)1 << 32) + (uint64_t)n - 1) / (uint64_t)n);
}

void ap_cuda_gather_bf16(const ap_exec *x, ap_bf16_rows from, const int32_t *pair,
                         const int32_t *count, int n_used, int cols, ap_bf16_rows to)
{
    ap_launch(x, gather, dim3((unsigned)ap_cuda_of(x)->sm * 8), dim3(256), 0,
              (const uint4 *)from.high, from.rows, pair, count, reciprocal(n_used),
              (cols + STEP - 1) / STEP, (uint4 *)to.high, to.rows);
}

bool ap_cuda_is_wide(const ap_exec *x, const ap_mat *w)
{
    bool form = w->q.bits && !w->q.is_float,
         plain = !w->q.bits && (w->dtype == AP_BF16 || w->dtype == AP_F32);
    return x->precision == APUS_PRECISION_FAST && ap_cuda_of(x)->arch == 90 && (form || plain) &&
           w->cols % 32 == 0 && (w->rows > 1 || form); /* one row is a sum, not a product */
}

size_t ap_bf16_bytes(int64_t rows, int cols)
{
    return (size_t)((rows + 7) / 8 * 8) * (size_t)((cols + STEP - 1) / STEP) * STEP * 2;
}

ap_bf16_rows ap_bf16_rows_at(void *mem, int64_t rows, int cols, bool rest)
{
    uint16_t *high = (uint16_t *)mem;
    ap_bf16_rows r = {high, rest ? high + ap_bf16_bytes(rows, cols) / 2 : NULL,
                      (int)((rows + 7) / 8 * 8)};
    return r;
}

bool ap_cuda_wide_rest(const ap_mat *w)
{
    return !w->q.bits && w->dtype == AP_F32;
}

/* Matrices that differ in where they are alone. */
bool ap_cuda_wide_pair(const ap_mat *a, const ap_mat *b)
{
    return a->rows == b->rows && a->cols == b->cols && a->dtype == b->dtype &&
           ap_qform_same(a->q, b->q);
}

/* ------------------------------------------------------------------ tiles */

struct wide_args {
    ap_product_args p;
    int across, groups,
        rows;           /* tiles of weights; of rows of inputs, without experts, each of `rows` */
    uint32_t by_across; /* for divisions */
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/* Rows [first, first + n) of inputs, and tile `m` of the weights of expert e. */
struct tile {
    int first, n, m, e;
};

static __device__ __forceinline__ int count_tiles(const wide_args &a)
{
    return a.across * (a.p.expert ? *a.p.n_active : a.groups);
}

static __device__ __forceinline__ tile tile_at(const wide_args &a, int u)
{
    int group = a.by_across ? (int)__umulhi((uint32_t)u, a.by_across) : u;
    tile t = {group * a.rows, 0, u - group * a.across, 0};
    if (a.p.expert) {
        t.e = a.p.expert[group];
        t.first = a.p.tile_first[group];
        t.n = a.p.tile_rows[group];
    } else {
        t.n = min(a.rows, a.p.n_row - t.first);
    }
    return t;
}

/* Steps of a tile; F32 weights pass three times: high x high, high x rest of the inputs, rest x high. */
template <int BITS> static __device__ __forceinline__ int steps_of(int cols)
{
    return (cols + STEP - 1) / STEP * (BITS == 32 ? 3 : 1);
}

/* Stages in shared memory, and barriers: of full ones, of empty ones. */
struct ring {
    uint32_t stages, full, empty;
};

static __device__ __forceinline__ uint32_t stage_at(const ring &r, uint32_t at)
{
    return r.stages + at % STAGES * STAGE_BYTES;
}

/* ------------------------------------------------------------------ producers: inputs */

/* Where the thread that asks for inputs is. */
struct feed {
    int u, step, first, bytes; /* rows of the tile */
};

static __device__ __forceinline__ void open_feed(feed &f, const wide_args &a, int tiles, int u)
{
    f.u = u;
    f.step = 0;
    if (u >= tiles) return;
    tile t = tile_at(a, u);
    f.first = t.first;
    f.bytes = (t.n + 7) / 8 * 8 * STEP * 2;
}

/* The next step's inputs to stage `at`, if there is one. What lies beyond the tile's rows makes results that nobody
 * stores. */
template <int BITS>
static __device__ __forceinline__ void ask(feed &f, const wide_args &a, const ring &r, int tiles,
                                           uint32_t at)
{
    if (f.u >= tiles) return;
    uint32_t full = r.full + at % STAGES * 8;
    int steps = (a.p.w[0].cols + STEP - 1) / STEP, term = BITS == 32 ? f.step / steps : 0;
    const uint8_t *in =
        (const uint8_t *)(term == 1 ? a.p.b16.rest : a.p.b16.high) +
        ((size_t)(f.step - term * steps) * (size_t)a.p.b16.rows + (size_t)f.first) * (STEP * 2);
    if (at >= STAGES) ap_barrier_wait(r.empty + at % STAGES * 8, (at / STAGES - 1) & 1);
    ap_barrier_expect(full, f.bytes);
    ap_copy_bulk(stage_at(r, at) + LEFT_BYTES, in, f.bytes, full);
    if (++f.step == steps_of<BITS>(a.p.w[0].cols)) open_feed(f, a, tiles, f.u + (int)gridDim.x);
}

/* ------------------------------------------------------------------ producers: weights */

/* What a lane holds of a block of its panel: rows 2g and 2g + 1, inputs 8i .. 8i + 7. */
template <int BITS> struct piece {
    ap_raw<BITS> q;
    uint4 s;
};
template <> struct piece<16> {
    uint2 pair[4]; /* two rows, two inputs each */
};
template <> struct piece<32> {
    float2 row[8];
    bool rest;
};

/* Where a warp is with its weights: one of the tile's eight panels. */
struct loads {
    const uint8_t *panel;
    int u, step;
};

template <int BITS>
static __device__ __forceinline__ void open_loads(loads &l, const wide_args &a, int tiles, int u)
{
    l.u = u;
    l.step = 0;
    if (u >= tiles) return;
    tile t = tile_at(a, u);
    int warp = (threadIdx.x - CONSUMERS) >> 5;
    bool glu = a.p.mode == AP_PUT_GLU, up = glu && (warp & 1);
    int panel = glu ? t.m * (WARPS / 2) + warp / 2 : t.m * WARPS + warp;
    if (panel * AP_PANEL >= a.p.w[0].rows) panel = 0; /* its results go nowhere */
    l.panel = (up ? a.p.w[1].data : a.p.w[0].data) + (size_t)panel * a.p.w[0].panel_bytes +
              (size_t)t.e * a.p.stride[up];
}

/* Block b of a panel, or instead of what is beyond the last one that: inputs are zeros there. */
template <int BITS, bool HALVES>
static __device__ __forceinline__ void load_piece(piece<BITS> &p, const ap_qmat &m,
                                                  const uint8_t *panel, int b)
{
    int lane = threadIdx.x & 31, i = lane & 3, g = lane >> 2;
    b = min(b, m.cols / 32 - 1);
    if constexpr (BITS == 32) {
#pragma unroll
        for (int j = 0; j < 8; j++)
            p.row[j] =
                __ldg((const float2 *)(panel + ((size_t)(b * 32 + 8 * i + j) * 16 + 2 * g) * 4));
    } else if constexpr (BITS == 16) {
#pragma unroll
        for (int j = 0; j < 4; j++)
            p.pair[j] =
                __ldg((const uint2 *)(panel + ((size_t)(b * 16 + 4 * i + j) * 16 + 2 * g) * 4));
    } else {
        p.q = ap_load<BITS>(panel + (size_t)b * BITS * 64, lane);
        p.s = ap_load_scales(m, panel, b * 32 + (HALVES && i > 1 ? 16 : 0), g);
    }
}

/* The two blocks of the next step: lanes of odd g have the second one first, so that what a warp stores at a time is
 * in different banks. */
template <int BITS, bool HALVES>
static __device__ __forceinline__ void load(piece<BITS> *p, loads &l, const wide_args &a,
                                            const ap_qmat &m, int tiles)
{
    if (l.u >= tiles) return;
    int odd = threadIdx.x >> 2 & 1, steps = (m.cols + STEP - 1) / STEP,
        term = BITS == 32 ? l.step / steps : 0;
#pragma unroll
    for (int k = 0; k < 2; k++) {
        load_piece<BITS, HALVES>(p[k], m, l.panel, 2 * (l.step - term * steps) + (k ^ odd));
        if constexpr (BITS == 32) p[k].rest = term == 2;
    }
    if (++l.step == steps_of<BITS>(m.cols)) open_loads<BITS>(l, a, tiles, l.u + (int)gridDim.x);
}

/* Four bytes of a row, times s, plus b, which has what the bytes were made floats with. */
template <int BITS> static __device__ __forceinline__ uint2 widen(uint32_t q, float s, float b)
{
    float v[4];
#pragma unroll
    for (int j = 0; j < 4; j++) { /* 128 + q, or 32768 + q */
        v[j] = __uint_as_float(BITS < 8 ? __byte_perm(q, 0x43000000u, 0x7044 | j << 8)
                                        : __byte_perm(q, 0x47000000u, 0x7404 | j << 4));
        v[j] = fmaf(s, v[j], b);
    }
    return make_uint2(pack2(v[0], v[1]), pack2(v[2], v[3]));
}

/* Rows 2g and 2g + 1 of a block in bf16. */
template <int BITS, bool TABLE>
static __device__ __forceinline__ void unpack(const piece<BITS> &p, const ap_qmat &m, int i,
                                              const uint32_t *table, uint4 *row)
{
    if constexpr (BITS == 32) {
        uint32_t v[2][4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            v[0][j] = pack2(p.row[2 * j].x, p.row[2 * j + 1].x);
            v[1][j] = pack2(p.row[2 * j].y, p.row[2 * j + 1].y);
            if (p.rest) {
                v[0][j] = pack2_rest(p.row[2 * j].x, p.row[2 * j + 1].x, v[0][j]);
                v[1][j] = pack2_rest(p.row[2 * j].y, p.row[2 * j + 1].y, v[1][j]);
            }
        }
        row[0] = make_uint4(v[0][0], v[0][1], v[0][2], v[0][3]);
        row[1] = make_uint4(v[1][0], v[1][1], v[1][2], v[1][3]);
    } else if constexpr (BITS == 16) {
        row[0] = make_uint4(p.pair[0].x, p.pair[1].x, p.pair[2].x, p.pair[3].x);
        row[1] = make_uint4(p.pair[0].y, p.pair[1].y, p.pair[2].y, p.pair[3].y);
    } else {
        constexpr bool wide = BITS == 8 || TABLE;
        ap_frag f = ap_unpack<BITS, TABLE>(p.q, i, table);
        ap_scales sc = ap_make_scales(m, p.s);
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float b = fmaf(-(float)(m.q.zero + (wide ? 32768 : 128)), sc.s[r], sc.b[r]);
            uint2 low = widen < wide ? 8 : BITS > (f.a[r], sc.s[r], b),
                  high = widen < wide ? 8 : BITS > (f.a[2 + r], sc.s[r], b);
            row[r] = make_uint4(low.x, low.y, high.x, high.y);
        }
    }
}

/* Where in a stage a lane's rows 2g and 2g + 1 of the warp's panel go, with the first of its two blocks; the other
 * block's are 64 bytes away (exclusive or). */
static __device__ __forceinline__ void places(const wide_args &a, uint32_t *to)
{
    int warp = (threadIdx.x - CONSUMERS) >> 5, lane = threadIdx.x & 31, i = lane & 3, g = lane >> 2;
    bool glu = a.p.mode == AP_PUT_GLU;
    int row = glu ? (warp >> 1) * 32 + (g >> 2) * 16 + (warp & 1) * 8 + 2 * (g & 3) : warp * 16 + g;
#pragma unroll
    for (int r = 0; r < 2; r++, row += glu ? 1 : 8)
        to[r] = (uint32_t)(row * 128 + (((4 * (g & 1) + i) ^ (row & 7)) << 4));
}

/* A panel's 64 inputs. */
template <int BITS, bool TABLE>
static __device__ __forceinline__ void put_weights(const piece<BITS> *p, const ap_qmat &m,
                                                   uint32_t stage, const uint32_t *to,
                                                   const uint32_t *table)
{
#pragma unroll
    for (int k = 0; k < 2; k++) {
        uint4 w[2];
        unpack<BITS, TABLE>(p[k], m, threadIdx.x & 3, table, w);
#pragma unroll
        for (int r = 0; r < 2; r++)
            ap_store_shared(stage + (to[r] ^ k * 64), w[r].x, w[r].y, w[r].z, w[r].w);
    }
}

/* The matrix, with what SCALES says about its scales known to the compiler: without branches the unpacking of different
 * weights overlaps. */
template <int SCALES> static __device__ __forceinline__ ap_qmat known(const ap_qmat &w)
{
    ap_qmat m = w;
    if (SCALES == OTHERS) return m;
    m.q.scale = SCALES == HALF ? AP_QS_F16 : SCALES == AFFINE ? AP_QS_BF16 : AP_QS_SUPER;
    m.q.affine = SCALES == SUPER_AFFINE || SCALES == AFFINE;
    m.q.is_signed = SCALES == SUPER_SIGNED;
    m.q.nibbles = false;
    return m;
}

template <int BITS, bool TABLE, bool HALVES, int SCALES>
static __device__ __forceinline__ void produce(const wide_args &a, const ring &r, int tiles)
{
    constexpr int N = BITS == 32 ? 1 : 2; /* steps whose weights are on their way */
    const ap_qmat m = known<SCALES>(a.p.w[0]);
    uint32_t table[4] = {0, 0, 0, 0}, to[2];
    if (TABLE) {
#pragma unroll
        for (int j = 0; j < 4; j++) table[j] = ap_qtable_words[m.q.table][j];
    }
    int mine = blockIdx.x < tiles ? (tiles - 1 - (int)blockIdx.x) / (int)gridDim.x + 1 : 0;
    uint32_t total = (uint32_t)(mine * steps_of<BITS>(m.cols));
    bool asks = threadIdx.x == CONSUMERS;
    feed f;
    loads l;
    piece<BITS> p[N][2];
    places(a, to);
    open_feed(f, a, tiles, blockIdx.x);
    open_loads<BITS>(l, a, tiles, blockIdx.x);
    for (uint32_t k = 0; asks && k < AHEAD; k++) ask<BITS>(f, a, r, tiles, k);
#pragma unroll
    for (int k = 0; k < N; k++) load<BITS, HALVES>(p[k], l, a, m, tiles);
#pragma unroll 1
    for (uint32_t at = 0; at < total; at += N) {
#pragma unroll
        for (uint32_t k = 0; k < N; k++) {
            uint32_t now = at + k;
            if (now >= total) break;
            if (asks) ask<BITS>(f, a, r, tiles, now + AHEAD);
            __syncwarp();
            if (now >= STAGES) ap_barrier_wait(r.empty + now % STAGES * 8, (now / STAGES - 1) & 1);
            put_weights<BITS, TABLE>(p[k], m, stage_at(r, now), to, table);
            __syncwarp();
            if ((threadIdx.x & 31) == 0) ap_barrier_arrive(r.full + now % STAGES * 8);
            load<BITS, HALVES>(p[k], l, a, m, tiles);
        }
    }
}

/* ------------------------------------------------------------------ consumers */

/* d = the warpgroup's 64 weight rows with N rows of inputs: two instructions for more than 128 rows, since one of 256
 * would ask for more registers than the producers can leave. */
template <int N>
static __device__ __forceinline__ void accumulate(float *d, const ring &r, uint32_t at, int steps)
{
    constexpr int FIRST = N < 128 ? N : 128;
    int left = (threadIdx.x >> 7) * (LEFT_BYTES / 2);
    bool first = (threadIdx.x & 31) == 0;
#pragma unroll 1
    for (int s = 0; s < steps; s++, at++) {
        uint32_t stage = stage_at(r, at);
        uint64_t w = ap_wgmma_operand(stage + left), x = ap_wgmma_operand(stage + LEFT_BYTES);
        ap_barrier_wait(r.full + at % STAGES * 8, at / STAGES & 1);
        ap_wgmma_publish();
        ap_wgmma_begin();
#pragma unroll
        for (int k = 0; k < STEP / 16; k++) {
            ap_wgmma<FIRST>(d, w + 2 * k, x + 2 * k, s > 0 || k > 0);
            if constexpr (N > 128)
                ap_wgmma<N - 128>(d + 64, w + 2 * k, x + 128 * STEP * 2 / 16 + 2 * k,
                                  s > 0 || k > 0);
        }
        ap_wgmma_commit();
        ap_wgmma_wait<1>();
        if (s > 0 && first) ap_barrier_arrive(r.empty + (at - 1) % STAGES * 8);
    }
    ap_wgmma_wait<0>();
    if (first) ap_barrier_arrive(r.empty + (at - 1) % STAGES * 8);
}

/* Results of the warp's 16 rows of the stage: rows r and r + 1 of columns 8j + 2i and the next; out: their rows of y. */
template <typename F>
static __device__ __forceinline__ void each_pair(const tile &t, const float *d, const int *out,
                                                 F put)
{
    int i = threadIdx.x & 3;
#pragma unroll
    for (int j = 0; j < ROWS / 8; j++) {
        if (8 * j >= t.n) break;
        int2 row = *(const int2 *)(out + 8 * j + 2 * i);
        if (8 * j + 2 * i < t.n) put(row.x, d[4 * j], d[4 * j + 2]);
        if (8 * j + 2 * i + 1 < t.n) put(row.y, d[4 * j + 1], d[4 * j + 3]);
    }
}

/* Rarer ways: one by one. */
static __device__ __noinline__ void put_one(const ap_product_args &a, float *y, float v)
{
    if (a.mode == AP_PUT_TIMES) v = (a.act == AP_ACT_SILU ? ap_silu(*y) : ap_gelu_tanh(*y)) * v;
    if (a.mode == AP_PUT_ADD) v = *y + v;
    *y = a.softcap != 0.0f ? a.softcap * tanhf(v / a.softcap) : v;
}

static __device__ __forceinline__ void store_rarer(const ap_product_args &a, const tile &t,
                                                   const float *d, const int *out, int r)
{
    float copy[ROWS / 2]; /* to be indexed */
#pragma unroll
    for (int j = 0; j < ROWS / 2; j++) copy[j] = d[j];
#pragma unroll 1
    for (int j = 0; j < ROWS / 2; j++) {
        int at = j / 4 * 8 + 2 * (threadIdx.x & 3) + (j & 1), row = r + (j >> 1 & 1);
        if (at < t.n && row < a.w[0].rows) put_one(a, a.y + out[at] * a.ldy + row, copy[j]);
    }
}

static __device__ __forceinline__ void store(const ap_product_args &a, const tile &t,
                                             const float *d, const int *out)
{
    int g = threadIdx.x >> 2 & 7, r = (t.m * WARPS + (threadIdx.x >> 5)) * AP_PANEL + 2 * g;
    bool pairs = a.softcap == 0.0f && a.mode != AP_PUT_TIMES && a.w[0].rows % 2 == 0 &&
                 a.ldy % 2 == 0 && ((uintptr_t)a.y & 7) == 0;
    if (r >= a.w[0].rows) return;
    if (a.y16)
        each_pair(t, d, out, [&](int row, float v0, float v1) {
            *(uint32_t *)(a.y16 + row * a.ldy + r) = pack2(v0, v1);
        });
    else if (!pairs)
        store_rarer(a, t, d, out, r);
    else if (a.mode == AP_PUT_ADD)
        each_pair(t, d, out, [&](int row, float v0, float v1) {
            float2 *y = (float2 *)(a.y + row * a.ldy + r), old = *y;
            *y = make_float2(old.x + v0, old.y + v1);
        });
    else
        each_pair(t, d, out, [&](int row, float v0, float v1) {
            *(float2 *)(a.y + row * a.ldy + r) = make_float2(v0, v1);
        });
}

template <bool SILU> static __device__ __forceinline__ float act(float v)
{
    float u = SILU ? v : 1.5957691216057308f * (v + 0.044715f * v * v * v);
    return v == -INFINITY ? 0.0f : __fdividef(v, 1.0f + __expf(-u));
}

/* act(gate) * up: two lanes with neighbours among the rows exchange, so that each has both of one row of inputs. */
template <bool SILU>
static __device__ __forceinline__ void store_glu(const ap_product_args &a, const tile &t,
                                                 const float *d, const int *out)
{
    int lane = threadIdx.x & 31, i = lane & 3, g = lane >> 2, odd = g & 1;
    int r = (t.m * WARPS + (threadIdx.x >> 5)) * (AP_PANEL / 2) + g - odd;
    bool pairs = a.ldy % 2 == 0 && ((uintptr_t)a.y & 7) == 0;
#pragma unroll
    for (int j = 0; j < ROWS / 8; j++) {
        if (8 * j >= t.n) break;
        float v0 = act<SILU>(d[4 * j]) * d[4 * j + 2], v1 = act<SILU>(d[4 * j + 1]) * d[4 * j + 3];
        float other = __shfl_xor_sync(0xffffffffu, odd ? v0 : v1, 4);
        int at = 8 * j + 2 * i + odd;
        if (odd)
            v0 = other;
        else
            v1 = other;
        if (at >= t.n) continue;
        if (a.y_rows) {
            int64_t unit = unit_at(r >> 3, t.first + at, a.y_rows);
            ((uint32_t *)a.y16)[unit * 4 + (r >> 1 & 3)] = r < a.w[0].rows ? pack2(v0, v1) : 0;
            continue;
        }
        if (r >= a.w[0].rows) continue;
        float *y = a.y + out[at] * a.ldy + r;
        if (pairs) {
            *(float2 *)y = make_float2(v0, v1);
        } else {
            y[0] = v0;
            y[1] = v1;
        }
    }
}

static __device__ __forceinline__ void consume(const wide_args &a, const ring &r, int tiles,
                                               int steps, int *out)
{
    uint32_t at = 0;
    int group = threadIdx.x >> 7, me = threadIdx.x & 127;
#pragma unroll 1
    for (int u = blockIdx.x; u < tiles; u += (int)gridDim.x, at += steps) {
        tile t = tile_at(a, u);
        int row[ROWS / 128]; /* of results; they arrive while there is work */
#pragma unroll
        for (int k = 0; k < ROWS / 128; k++) {
            row[k] = t.first + me + 128 * k;
            if (a.p.pair && me + 128 * k < t.n) row[k] = a.p.pair[row[k]];
        }
        float d[ROWS / 2];
        switch ((t.n + 31) / 32) {
        case 1:
            accumulate<32>(d, r, at, steps);
            break;
        case 2:
            accumulate<64>(d, r, at, steps);
            break;
        case 3:
            accumulate<96>(d, r, at, steps);
            break;
        case 4:
            accumulate<128>(d, r, at, steps);
            break;
        case 5:
            accumulate<160>(d, r, at, steps);
            break;
        case 6:
            accumulate<192>(d, r, at, steps);
            break;
        case 7:
            accumulate<224>(d, r, at, steps);
            break;
        default:
            accumulate<256>(d, r, at, steps);
            break;
        }
        ap_sync_some<128>(group + 1); /* the last tile's rows are read */
#pragma unroll
        for (int k = 0; k < ROWS / 128; k++) out[me + 128 * k] = row[k];
        ap_sync_some<128>(group + 1);
        if (a.p.mode == AP_PUT_GLU && a.p.act == AP_ACT_SILU)
            store_glu<true>(a.p, t, d, out);
        else if (a.p.mode == AP_PUT_GLU)
            store_glu<false>(a.p, t, d, out);
        else
            store(a.p, t, d, out);
    }
}

#endif

template <int BITS, bool TABLE, bool HALVES, int SCALES>
static __global__ void __launch_bounds__(THREADS, 1) wide(const __grid_constant__ wide_args a)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    extern __shared__ __align__(1024) uint8_t shared[];
    __shared__ __align__(8) uint64_t barrier[2 * STAGES];
    __shared__ __align__(8) int out[2][ROWS];
    uint32_t base = (uint32_t)__cvta_generic_to_shared(barrier);
    ring r = {((uint32_t)__cvta_generic_to_shared(shared) + 1023) & ~1023u, base,
              base + STAGES * 8};
    if (threadIdx.x < 2 * STAGES)
        ap_barrier_make(base + threadIdx.x * 8, threadIdx.x < STAGES ? WARPS + 1 : WARPS);
    __syncthreads();
    ap_grid_wait();
    int tiles = count_tiles(a);
    if (threadIdx.x >= CONSUMERS) {
        ap_registers_fewer<88>();
        produce<BITS, TABLE, HALVES, SCALES>(a, r, tiles);
    } else {
        ap_registers_more<168>();
        consume(a, r, tiles, steps_of<BITS>(a.p.w[0].cols), out[threadIdx.x >> 7]);
    }
#endif
}

/* Rows of inputs of a tile, without experts: as many as leave enough tiles for all multiprocessors. */
static int rows_of_tile(int n_row, int across, int sm)
{
    int rows = ROWS;
    while (rows > 64 && (int64_t)across * ((n_row + rows - 1) / rows) < sm) rows /= 2;
    return rows;
}

template <int BITS, bool TABLE, bool HALVES, int SCALES>
static void launch_scales(const ap_exec *x, const ap_product_args &p, int groups)
{
    wide_args a = {p, 0, groups, 0, 0};
    int each = p.mode == AP_PUT_GLU ? WEIGHTS / 2 : WEIGHTS, sm = ap_cuda_of(x)->sm;
    a.across = (p.w[0].rows + each - 1) / each;
    a.by_across = reciprocal(a.across);
    if (!p.expert) {
        a.rows = rows_of_tile(p.n_row, a.across, sm);
        a.groups = (p.n_row + a.rows - 1) / a.rows;
    }
    int64_t tiles = (int64_t)a.across * a.groups;
    ap_launch(x, wide<BITS, TABLE, HALVES, SCALES>, dim3((unsigned)(tiles < sm ? tiles : sm)),
              dim3(THREADS), (size_t)STAGES * STAGE_BYTES + 1024, a);
}

static int scales_of(ap_qform q)
{
    if (q.scale == AP_QS_SUPER && !q.nibbles)
        return q.affine && !q.is_signed   ? SUPER_AFFINE
               : !q.affine && q.is_signed ? SUPER_SIGNED
                                          : OTHERS;
    return q.scale == AP_QS_F16 && !q.affine   ? HALF
           : q.scale == AP_QS_BF16 && q.affine ? AFFINE
                                               : OTHERS;
}

/* The usual scales of a form have a kernel of their own. */
template <int BITS, bool TABLE, bool HALVES>
static void launch(const ap_exec *x, const ap_product_args &p, int groups)
{
    constexpr bool plain = !TABLE && !HALVES;
    int scales = scales_of(p.w[0].q);
    if constexpr ((BITS == 4 || BITS == 5) && plain)
        if (scales == SUPER_AFFINE) {
            launch_scales<BITS, TABLE, HALVES, SUPER_AFFINE>(x, p, groups);
            return;
        }
    if constexpr ((BITS == 3 || BITS == 6) && HALVES && !TABLE)
        if (scales == SUPER_SIGNED) {
            launch_scales<BITS, TABLE, HALVES, SUPER_SIGNED>(x, p, groups);
            return;
        }
    if constexpr ((BITS == 4 || BITS == 8) && plain) {
        if (scales == HALF) {
            launch_scales<BITS, TABLE, HALVES, HALF>(x, p, groups);
            return;
        }
        if (scales == AFFINE) {
            launch_scales<BITS, TABLE, HALVES, AFFINE>(x, p, groups);
            return;
        }
    }
    launch_scales<BITS, TABLE, HALVES, OTHERS>(x, p, groups);
}

/* groups: of experts, the most that there may be. */
void ap_cuda_wide(const ap_exec *x, const ap_product_args *args, int groups)
{
    const ap_product_args &a = *args;
    ap_qform q = a.w[0].q;
    switch (q.bits * 4 + (q.table != 0) * 2 + (q.group == 16)) {
    case 0:
        if (a.b16.rest)
            launch<32, false, false>(x, a, groups);
        else
            launch<16, false, false>(x, a, groups);
        break;
    case 2 * 4:
        launch<2, false, false>(x, a, groups);
        break;
    case 2 * 4 + 1:
        launch<2, false, true>(x, a, groups);
        break;
    case 3 * 4:
        launch<3, false, false>(x, a, groups);
        break;
    case 3 * 4 + 1:
        launch<3, false, true>(x, a, groups);
        break;
    case 3 * 4 + 2:
        launch<3, true, false>(x, a, groups);
        break;
    case 3 * 4 + 3:
        launch<3, true, true>(x, a, groups);
        break;
    case 4 * 4:
        launch<4, false, false>(x, a, groups);
        break;
    case 4 * 4 + 2:
        launch<4, true, false>(x, a, groups);
        break;
    case 4 * 4 + 3:
        launch<4, true, true>(x, a, groups);
        break;
    case 5 * 4:
        launch<5, false, false>(x, a, groups);
        break;
    case 6 * 4:
        launch<6, false, false>(x, a, groups);
        break;
    case 6 * 4 + 1:
        launch<6, false, true>(x, a, groups);
        break;
    case 8 * 4:
        launch<8, false, false>(x, a, groups);
        break;
    default:
        ap_cuda_check(ap_cuda_of(x), cudaErrorNotSupported, "weights of a form without a kernel");
        break;
    }
}
