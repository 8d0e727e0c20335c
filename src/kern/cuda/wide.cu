/* wide.cu - products of many rows in bf16 on Hopper's tensor cores (precision FAST).
 *
 * Weights are the left operand, in registers: a warp's 16 rows of m64 are one panel, and what its lanes hold of a
 * block (product.cuh) becomes bf16 where it is, so weights never pass through shared memory. Rows of inputs are the
 * right operand: bf16 in shared memory, in the order of inputs that the lanes of a panel have them in:
 *   place 16s + 8h + 2i + e of 32 is input 8i + 4s + 2h + e
 * A block of two warpgroups has 128 weight rows x 128 rows of inputs, or 64 where no more are left; with GLU 64 rows of
 * gate and the same of up. Two blocks share a multiprocessor, and a warp unpacks a block of weights while the tensor
 * cores have the one before. Limit: 64 clocks of the tensor cores for each 64 x 128 x 16, beside 32 of issue for
 * unpacking. */
#include <cuda_bf16.h>
#include <string.h>

#include "matmul.cuh"

enum { THREADS = 256, ROWS = AP_WIDE_ROWS, STAGES = 4, STEP = 64, STAGE_BYTES = ROWS * STEP * 2 };

/* ------------------------------------------------------------------ inputs */

enum { CONVERT_X = 64, CONVERT_Y = 4 };

/* 8 places of a row a thread: 4 pairs of inputs. */
static __global__ void to_bf16(const float *x, int64_t ldx, int rows, int cols, uint4 *out)
{
    ap_grid_wait();
    int u = blockIdx.x * CONVERT_X + threadIdx.x, per = cols / 8, s = u >> 1 & 1, h = u & 1;
    if (u >= per) return;
    bool pairs = ((uintptr_t)x & 7) == 0 && ldx % 2 == 0;
    for (int row = blockIdx.y * CONVERT_Y + threadIdx.y; row < rows; row += gridDim.y * CONVERT_Y) {
        const float *p = x + row * ldx + (u >> 2) * 32 + 4 * s + 2 * h;
        uint32_t v[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float2 f = pairs ? *(const float2 *)(p + 8 * i) : make_float2(p[8 * i], p[8 * i + 1]);
            __nv_bfloat162 b = __floats2bfloat162_rn(f.x, f.y);
            v[i] = *(uint32_t *)&b;
        }
        out[(int64_t)row * per + u] = make_uint4(v[0], v[1], v[2], v[3]);
    }
}

void ap_cuda_to_bf16(const ap_exec *x, const float *from, int64_t ld, int rows, int cols,
                     uint16_t *to)
{
    unsigned across = (unsigned)(cols / 8 + CONVERT_X - 1) / CONVERT_X,
             down = (unsigned)(rows + CONVERT_Y - 1) / CONVERT_Y;
    ap_launch(x, to_bf16, dim3(across, down < 32768 ? down : 32768), dim3(CONVERT_X, CONVERT_Y), 0,
              from, ld, rows, cols, (uint4 *)to);
}

bool ap_cuda_is_wide(const ap_exec *x, const ap_mat *w)
{
    bool form = w->q.bits && !w->q.is_float, bf16 = !w->q.bits && w->dtype == AP_BF16;
    return x->precision == APUS_PRECISION_FAST && ap_cuda_of(x)->arch == 90 && (form || bf16) &&
           w->cols % 32 == 0;
}

/* Matrices that differ in where they are alone. */
bool ap_cuda_wide_pair(const ap_mat *a, const ap_mat *b)
{
    return a->rows == b->rows && a->cols == b->cols && a->dtype == b->dtype &&
           ap_qform_same(a->q, b->q);
}

/* ------------------------------------------------------------------ the product */

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

static __device__ __forceinline__ uint32_t pack2(float a, float b)
{
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(b), "f"(a));
    return r;
}

/* Four bytes of a row: (a, b) are the left operand's two registers of it. */
template <int BITS>
static __device__ __forceinline__ void widen(uint32_t q, float s, float b, uint32_t *first,
                                             uint32_t *second)
{
    float v[4];
#pragma unroll
    for (int j = 0; j < 4; j++) {
        if (BITS < 8)
            v[j] = __uint_as_float(__byte_perm(q, 0x43000000u, 0x7044 | j << 8)); /* 128 + q */
        else
            v[j] = (float)(q >> 8 * j & 255);
        v[j] = fmaf(s, v[j], b);
    }
    *first = pack2(v[0], v[1]);
    *second = pack2(v[2], v[3]);
}

/* Start address, rows of 128 bytes in groups of 8, swizzled in units of 16 bytes. */
static __device__ __forceinline__ uint64_t descriptor(uint32_t address)
{
    return (uint64_t)(address >> 4 & 0x3fff) | (uint64_t)1 << 16 | (uint64_t)(1024 >> 4) << 32 |
           (uint64_t)1 << 62;
}

/* 64 weight rows x N rows of inputs x 16 inputs. */
template <int N>
static __device__ __forceinline__ void multiply(float *d, const uint32_t *a, uint64_t desc)
{
    if constexpr (N == 64) {
        asm volatile("{ .reg .pred p; setp.ne.b32 p, %37, 0;"
                     "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
                     "%0, %1, %2, %3, %4, %5, %6, %7, "
                     "%8, %9, %10, %11, %12, %13, %14, %15, "
                     "%16, %17, %18, %19, %20, %21, %22, %23, "
                     "%24, %25, %26, %27, %28, %29, %30, %31"
                     "}, {%32, %33, %34, %35}, %36, p, 1, 1, 0; }"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]),
                       "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]),
                       "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]),
                       "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
                       "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
                       "+f"(d[30]), "+f"(d[31])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(desc), "r"(1));
    } else {
        asm volatile("{ .reg .pred p; setp.ne.b32 p, %69, 0;"
                     "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
                     "%0, %1, %2, %3, %4, %5, %6, %7, "
                     "%8, %9, %10, %11, %12, %13, %14, %15, "
                     "%16, %17, %18, %19, %20, %21, %22, %23, "
                     "%24, %25, %26, %27, %28, %29, %30, %31, "
                     "%32, %33, %34, %35, %36, %37, %38, %39, "
                     "%40, %41, %42, %43, %44, %45, %46, %47, "
                     "%48, %49, %50, %51, %52, %53, %54, %55, "
                     "%56, %57, %58, %59, %60, %61, %62, %63"
                     "}, {%64, %65, %66, %67}, %68, p, 1, 1, 0; }"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]),
                       "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]),
                       "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]),
                       "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
                       "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
                       "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]),
                       "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]),
                       "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
                       "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]),
                       "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]),
                       "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(desc), "r"(1));
    }
}

template <int BITS> struct piece {
    ap_raw<BITS> q;
};
template <> struct piece<16> {
    uint2 pair[4]; /* of rows 2g and 2g + 1: inputs 8i + 2t, 8i + 2t + 1 */
};

template <int BITS, bool HALVES>
static __device__ __forceinline__ void load(piece<BITS> &p, uint4 *s, const ap_qmat &m,
                                            const uint8_t *panel, int b, int lane)
{
    int i = lane & 3, g = lane >> 2;
    if constexpr (BITS == 16) {
#pragma unroll
        for (int t = 0; t < 4; t++)
            p.pair[t] =
                __ldg((const uint2 *)(panel + ((size_t)(b * 16 + 4 * i + t) * 16 + 2 * g) * 4));
    } else {
        p.q = ap_load<BITS>(panel + (size_t)b * BITS * 64, lane);
        *s = ap_load_scales(m, panel, b * 32 + (HALVES && i > 1 ? 16 : 0), g);
    }
}

/* The left operands of a block's two steps. */
template <int BITS, bool TABLE>
static __device__ __forceinline__ void unpack(const piece<BITS> &p, uint4 s, const ap_qmat &m,
                                              int i, const uint32_t *table, uint32_t (*a)[4])
{
    if constexpr (BITS == 16) {
#pragma unroll
        for (int k = 0; k < 2; k++) {
            a[k][0] = p.pair[2 * k].x;
            a[k][1] = p.pair[2 * k].y;
            a[k][2] = p.pair[2 * k + 1].x;
            a[k][3] = p.pair[2 * k + 1].y;
        }
    } else {
        ap_frag f = ap_unpack<BITS, TABLE>(p.q, i, table);
        ap_scales sc = ap_make_scales(m, s);
        constexpr bool wide = BITS == 8 || TABLE;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float b = fmaf(-(float)(m.q.zero + (wide ? 0 : 128)), sc.s[r], sc.b[r]);
#pragma unroll
            for (int k = 0; k < 2; k++)
                widen<wide ? 8 : BITS>(f.a[2 * k + r], sc.s[r], b, &a[k][r], &a[k][r + 2]);
        }
    }
}

/* What a block works on. */
struct task {
    const uint8_t *panel; /* of this warp */
    uint32_t stages;      /* shared memory */
    int n, blocks, steps; /* rows of inputs, blocks and steps of inputs */
    uint32_t
        from[ROWS * 8 /
             THREADS]; /* rows of inputs that this thread fetches, in units of 16 bytes; or NONE */
};

static constexpr uint32_t NONE = 0xffffffffu;

/* Step `step` of the inputs of N rows: a thread has the same unit of each eighth row of 32. */
template <int N>
static __device__ __forceinline__ void fetch(const task &w, const ap_product_args &a, int step)
{
    int t = threadIdx.x >> 3, c = threadIdx.x & 7, k = step * STEP + c * 8;
    uint32_t to = w.stages + step % STAGES * STAGE_BYTES + t * 128 + ((c ^ (t & 7)) << 4);
#pragma unroll
    for (int j = 0; j < N * 8 / THREADS; j++) {
        bool live = w.from[j] != NONE && k < a.w[0].cols;
        const uint4 *p = (const uint4 *)a.b16 + (live ? w.from[j] + (uint32_t)(k / 8) : 0);
        asm volatile(
            "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to + j * (THREADS / 8 * 128)),
            "l"(p), "r"(live ? 16 : 0));
    }
}

/* d = the warpgroup's 64 weight rows with the block's N rows of inputs: d[j] of column 8 (j / 4) + 2i + j % 2 and row
 * 2g + j / 2 % 2 of the warp's panel. */
template <int BITS, bool TABLE, bool HALVES, int N>
static __device__ __forceinline__ void accumulate(float *d, const task &w, const ap_product_args &a,
                                                  const uint32_t *table)
{
    const ap_qmat &m = a.w[0];
    int lane = threadIdx.x & 31, i = lane & 3;
    for (int s = 0; s < STAGES; s++) {
        if (s < w.steps) fetch<N>(w, a, s);
        asm volatile("cp.async.commit_group;");
    }
#pragma unroll
    for (int j = 0; j < N / 2; j++) d[j] = 0;
    piece<BITS> p[2];
    uint4 s[2];
    uint32_t left[2][2][4];
#pragma unroll
    for (int k = 0; k < 2; k++)
        load<BITS, HALVES>(p[k], &s[k], m, w.panel, min(k, w.blocks - 1), lane);
    unpack<BITS, TABLE>(p[0], s[0], m, i, table, left[0]);
    load<BITS, HALVES>(p[0], &s[0], m, w.panel, min(2, w.blocks - 1), lane);
    asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 1) : "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
#pragma unroll 1
    for (int step = 0; step < w.steps; step++) {
        uint64_t desc = descriptor(w.stages + step % STAGES * STAGE_BYTES);
#pragma unroll
        for (int k = 0; k < 2; k++) { /* while a block is multiplied the next one is unpacked */
            int next = 2 * step + k + 1;
            asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
            for (int h = 0; h < 2; h++)
                multiply<N>(d, left[k][h], desc + (2 * k + h) * 2); /* 32 bytes on */
            asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
            unpack<BITS, TABLE>(p[1 - k], s[1 - k], m, i, table, left[1 - k]);
            if (next >=
                w.blocks) { /* the inputs there are zeros, but zero times what is beside a panel may be not */
#pragma unroll
                for (int j = 0; j < 4; j++) left[1 - k][0][j] = left[1 - k][1][j] = 0;
            }
            load<BITS, HALVES>(p[1 - k], &s[1 - k], m, w.panel, min(next + 2, w.blocks - 1), lane);
            if (k) asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2) : "memory");
            asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
        }
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        __syncthreads(); /* this stage is free, the next one full */
        if (step + STAGES < w.steps) fetch<N>(w, a, step + STAGES);
        asm volatile("cp.async.commit_group;");
    }
}

/* Results of the warp's panel. */
template <int N>
static __device__ __forceinline__ void store(const ap_product_args &a, const float *d,
                                             const int *out, int n, int panel)
{
    int lane = threadIdx.x & 31, i = lane & 3, g = lane >> 2, r = panel * AP_PANEL + 2 * g;
    bool pairs = a.mode == AP_PUT_STORE && a.softcap == 0.0f && a.ldy % 2 == 0 &&
                 ((uintptr_t)a.y & 7) == 0 && r + 1 < a.w[0].rows;
#pragma unroll
    for (int j = 0; j < N / 2; j++) {
        int t = j / 4 * 8 + 2 * i + (j & 1);
        if (t >= n) continue;
        if (!pairs && r + (j >> 1 & 1) < a.w[0].rows) ap_put(a, out[t], r + (j >> 1 & 1), d[j], 0);
        if (pairs && !(j & 2))
            *(float2 *)(a.y + (int64_t)out[t] * a.ldy + r) = make_float2(d[j], d[j + 2]);
    }
}

/* act(gate) * up: the first warpgroup has gate of 64 rows, the second one up. They exchange halves, so that each has all
 * of its half of the inputs' rows, and what is to be inputs again leaves in bf16, in their order. */
template <int N>
static __device__ __forceinline__ void store_glu(const ap_product_args &a, float *d, const int *out,
                                                 int n, uint8_t *room)
{
    constexpr int H = N / 4, LD = 40; /* words of bf16 from row to row */
    int second = threadIdx.x >> 7, lane = threadIdx.x & 31, i = lane & 3, g = lane >> 2,
        panel = threadIdx.x >> 5 & 3;
    float *give = (float *)room + second * H * 128 + (threadIdx.x & 127);
    const float *get = (const float *)room + (1 - second) * H * 128 + (threadIdx.x & 127);
    uint32_t *words = (uint32_t *)(room + 2 * H * 128 * 4);
    __syncthreads(); /* the stages are free */
#pragma unroll
    for (int j = 0; j < H; j++) give[j * 128] = second ? d[j] : d[j + H];
    __syncthreads();
#pragma unroll
    for (int j = 0; j < H; j++) {
        float own = second ? d[j + H] : d[j], other = get[j * 128], gate = second ? other : own,
              up = second ? own : other;
        d[j] = (a.act == AP_ACT_SILU ? ap_silu(gate) : ap_gelu_tanh(gate)) * up;
    }
    int t0 = second * (N / 2), r = (blockIdx.x * 4 + panel) * AP_PANEL + 2 * g;
#pragma unroll
    for (int j = 0; j < H; j++) {
        int t = t0 + j / 4 * 8 + 2 * i + (j & 1);
        if (a.y16) { /* inputs 2g and 2g + 1 of half a block */
            if (!(j & 2))
                words[t * LD + panel / 2 * 16 + (g >> 1 & 1) * 8 + (g & 1) * 4 + (panel & 1) * 2 +
                      (g >> 2)] = pack2(d[j], d[j + 2]);
        } else if (t < n && r + (j >> 1 & 1) < a.w[0].rows) {
            a.y[(int64_t)out[t] * a.ldy + r + (j >> 1 & 1)] = d[j];
        }
    }
    if (!a.y16) return;
    __syncthreads();
    for (int u = threadIdx.x; u < n * 8; u += THREADS) {
        int t = u >> 3, c = u & 7, at = blockIdx.x * 64 + c * 8;
        if (at < a.w[0].rows)
            *(uint4 *)(a.y16 + (int64_t)out[t] * a.ldy + at) =
                *(const uint4 *)(words + t * LD + c * 4);
    }
}

template <int BITS, bool TABLE, bool HALVES, int N>
static __device__ __forceinline__ void work(const ap_product_args &a, const task &w,
                                            const uint32_t *table, const int *out, uint8_t *room,
                                            int panel)
{
    float d[N / 2];
    accumulate<BITS, TABLE, HALVES, N>(d, w, a, table);
    if (a.mode == AP_PUT_GLU)
        store_glu<N>(a, d, out, w.n, room);
    else
        store<N>(a, d, out, w.n, panel);
}

#endif

template <int BITS, bool TABLE, bool HALVES>
static __global__ void __launch_bounds__(THREADS, 2) wide(ap_product_args a)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    extern __shared__ __align__(1024) uint8_t shared[];
    __shared__ int out[ROWS];
    int warp = threadIdx.x >> 5;
    bool glu = a.mode == AP_PUT_GLU, up = glu && warp > 3;
    int panel = glu ? blockIdx.x * 4 + (warp & 3) : blockIdx.x * 8 + warp;
    uint32_t table[4] = {0, 0, 0, 0}, unaligned = (uint32_t)__cvta_generic_to_shared(shared);
    if (TABLE) {
#pragma unroll
        for (int j = 0; j < 4; j++) table[j] = ap_qtable_words[a.w[0].q.table][j];
    }
    task w;
    w.panel = (up ? a.w[1].data : a.w[0].data) +
              (size_t)(panel * AP_PANEL < a.w[0].rows ? panel : 0) * a.w[0].panel_bytes;
    w.stages = (unaligned + 1023) & ~1023u;
    w.blocks = a.w[0].cols / 32;
    w.steps = (w.blocks + 1) / 2;
    ap_grid_wait();
    int first = blockIdx.y * ROWS;
    w.n = a.n_row - first;
    const int32_t *pair = NULL;
    if (a.expert) {
        if ((int)blockIdx.y >= *a.n_active) return;
        int e = a.expert[blockIdx.y];
        w.panel += (size_t)e * a.stride[up];
        pair = a.pair;
        first = a.tile_first[blockIdx.y];
        w.n = a.first[e + 1] - first;
    }
    w.n = min(w.n, (int)ROWS);
#pragma unroll
    for (int j = 0; j < ROWS * 8 / THREADS; j++) {
        int t = (threadIdx.x >> 3) + j * (THREADS / 8),
            p = t < w.n ? (pair ? pair[first + t] : first + t) : 0;
        int row = pair && a.by_token ? p / a.n_used : p;
        w.from[j] = t < w.n ? (uint32_t)row * (uint32_t)(a.w[0].cols / 8) : NONE;
        if ((threadIdx.x & 7) == 0) out[t] = p;
    }
    __syncthreads();
    uint8_t *room = shared + (w.stages - unaligned);
    if (w.n > 64)
        work<BITS, TABLE, HALVES, 128>(a, w, table, out, room, panel);
    else
        work<BITS, TABLE, HALVES, 64>(a, w, table, out, room, panel);
#endif
}

template <int BITS, bool TABLE, bool HALVES>
static void launch(const ap_exec *x, const ap_product_args &a, int groups)
{
    unsigned panels = (unsigned)(a.w[0].rows + AP_PANEL - 1) / AP_PANEL,
             each = a.mode == AP_PUT_GLU ? 4 : 8;
    ap_launch(x, wide<BITS, TABLE, HALVES>, dim3((panels + each - 1) / each, (unsigned)groups),
              dim3(THREADS), (size_t)STAGES * STAGE_BYTES + 1024, a);
}

void ap_cuda_wide(const ap_exec *x, const ap_product_args *args, int groups)
{
    const ap_product_args &a = *args;
    ap_qform q = a.w[0].q;
    switch (q.bits * 4 + (q.table != 0) * 2 + (q.group == 16)) {
    case 0:
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
