/* floats.cu - products in f32: weights in floats, FP8, and those in integer form with precision EXACT.
 *
 * Three kernels. Every sum is that of its parts, so it does not depend on the number of rows:
 *   few   floats, up to 8 rows of inputs: a block shares out the parts of a panel. Bytes are the limit.
 *   tile  floats, many rows: weights and inputs pass through shared memory, a thread has some outputs. Arithmetic
 *         is the limit, or with few weight rows the inputs' bytes.
 *   form  a form, 8 rows: as few, but a part is a whole warp's. */
#include "floats.cuh"

enum { WARPS = 8, THREADS = WARPS * 32 };

struct float_args {
    const uint8_t *data; /* floats */
    ap_qmat q;           /* or a form */
    size_t panel_bytes;
    int rows, cols;
    const float *x;
    int64_t ldx;
    float *y;
    int64_t ldy;
    int n_row, mode, act;
    float softcap;
    const int32_t *expert, *n_active, *first, *pair; /* as in ap_product_args */
    size_t stride;
    int n_used;
    bool by_token;
};

/* 8 inputs of rows 2g and 2g + 1, from 8i of a block on. */
template <int BITS, bool TABLE>
static __device__ __forceinline__ void words_of(const uint8_t *block, int lane,
                                                const uint32_t *table, uint32_t *a)
{
    ap_frag f = ap_unpack<BITS, TABLE>(ap_load<BITS>(block, lane), lane & 3, table);
#pragma unroll
    for (int j = 0; j < 4; j++) a[j] = f.a[j];
}

static __device__ void decode_words(const ap_qform &q, const uint8_t *block, int lane,
                                    const uint32_t *table, uint32_t *a)
{
    switch (q.bits) {
    case 2:
        words_of<2, false>(block, lane, table, a);
        break;
    case 3:
        if (q.table)
            words_of<3, true>(block, lane, table, a);
        else
            words_of<3, false>(block, lane, table, a);
        break;
    case 4:
        if (q.table)
            words_of<4, true>(block, lane, table, a);
        else
            words_of<4, false>(block, lane, table, a);
        break;
    case 5:
        words_of<5, false>(block, lane, table, a);
        break;
    case 6:
        words_of<6, false>(block, lane, table, a);
        break;
    default:
        words_of<8, false>(block, lane, table, a);
        break;
    }
}

static __device__ __forceinline__ float e4m3(uint32_t b)
{
    uint32_t e = b >> 3 & 15, m = b & 7, sign = (b & 0x80) << 24;
    if ((b & 0x7f) == 0x7f) return __int_as_float(0x7fc00000);
    float v = e ? __uint_as_float((e + 120) << 23 | m << 20) : (float)m * 0.001953125f;
    return __uint_as_float(__float_as_uint(v) | sign);
}

/* The lane's share of inputs [begin, end) with n rows of inputs: sums of R rows of the panel. */
template <int N>
static __device__ __forceinline__ void form_part(const float_args &a, const uint8_t *panel,
                                                 int begin, int end, int n, const float *const *x,
                                                 int lane, const uint32_t *table, float (*acc)[N])
{
    int g = lane >> 2, i = lane & 3;
    for (int b = begin / 32; b < (end + 31) / 32; b++) {
        uint32_t w[4];
        decode_words(a.q.q, panel + (size_t)b * a.q.q.bits * 64, lane, table, w);
        ap_scales s = ap_make_scales(
            a.q, ap_load_scales(a.q, panel, b * 32 + (a.q.q.group == 16 && i > 1 ? 16 : 0), g));
#pragma unroll
        for (int j = 0; j < 8; j++) {
            int k = b * 32 + 8 * i + j;
#pragma unroll
            for (int r = 0; r < 2; r++) {
                uint32_t q = w[r + (j >> 2) * 2] >> 8 * (j & 3) & 255;
                float v = a.q.q.is_float ? s.s[r] * e4m3(q)
                                         : fmaf(s.s[r], (float)((int)q - a.q.q.zero), s.b[r]);
#pragma unroll
                for (int t = 0; t < N; t++)
                    if (t < n) acc[r][t] = fmaf(v, x[t][k], acc[r][t]);
            }
        }
    }
}

/* Which rows of inputs meet in a block, and where their results go. */
struct rows_of {
    const uint8_t *panel;
    const int32_t *pair; /* NULL: rows first, first + 1, ... */
    int first, n;        /* n = 0: none */
};

template <int N>
static __device__ __forceinline__ rows_of rows_of_block(const float_args &a, int panel)
{
    rows_of r = {a.data + (size_t)panel * a.panel_bytes, NULL, (int)blockIdx.y * N, 0};
    r.n = min(a.n_row - r.first, N);
    if (!a.expert) return r;
    r.n = 0;
    if (a.n_active && (int)blockIdx.y >= *a.n_active) return r;
    int e = a.expert[blockIdx.y];
    r.panel += (size_t)e * a.stride;
    r.pair = a.pair;
    r.first = a.first ? a.first[e] : (int)blockIdx.y;
    r.n = a.first ? a.first[e + 1] - r.first : 1;
    return r;
}

static __device__ __forceinline__ const float *row_at(const float_args &a, const rows_of &r, int t)
{
    int row = r.first + t;
    if (r.pair) row = a.by_token ? r.pair[row] / a.n_used : r.pair[row];
    return a.x + row * a.ldx;
}

static __device__ __forceinline__ void put(const float_args &a, int64_t out, int row, float v)
{
    float *y = a.y + out * a.ldy + row;
    if (a.mode == AP_PUT_ADD) v = *y + v;
    if (a.mode == AP_PUT_TIMES) v = (a.act == AP_ACT_SILU ? ap_silu(*y) : ap_gelu_tanh(*y)) * v;
    if (a.softcap != 0.0f) v = a.softcap * tanhf(v / a.softcap);
    *y = v;
}

/* ------------------------------------------------------------------ few rows */

template <int KIND, int N> static __global__ void __launch_bounds__(THREADS, 2) few(float_args a)
{
    __shared__ __align__(16) float red[AP_FLOAT_PARTS][N][AP_PANEL];
    int parts = ap_float_parts(a.cols), each = AP_FLOAT_PARTS / parts;
    int slot = threadIdx.x >> 2, j = threadIdx.x & 3, part = slot % parts; /* four threads a part */
    int panel = blockIdx.x * each + slot / parts, begin = ap_float_begin(a.cols, part),
        end = ap_float_begin(a.cols, part + 1);
    bool mine = panel * AP_PANEL < a.rows;
    ap_grid_wait();
    rows_of rows = rows_of_block<N>(a, panel);
    bool aligned = ((uintptr_t)a.x & 15) == 0 && a.ldx % 4 == 0;
    for (int t0 = 0; t0 < rows.n; t0 += N) {
        int n = min(rows.n - t0, N);
        if (mine) {
            const float *x[N];
            float acc[4][N];
#pragma unroll
            for (int t = 0; t < N; t++) {
                x[t] = row_at(a, rows, t0 + (t < n ? t : 0));
                acc[0][t] = acc[1][t] = acc[2][t] = acc[3][t] = 0;
            }
            ap_float_part<KIND, N>(rows.panel, begin, end, x, aligned, j, acc);
#pragma unroll
            for (int t = 0; t < N; t++)
                *(float4 *)&red[slot][t][4 * j] =
                    make_float4(acc[0][t], acc[1][t], acc[2][t], acc[3][t]);
        }
        __syncthreads();
        for (int o = threadIdx.x; o < each * n * AP_PANEL; o += THREADS) {
            int p = o / (n * AP_PANEL), t = o / AP_PANEL % n, r = o % AP_PANEL;
            int row = ((int)blockIdx.x * each + p) * AP_PANEL + r, pair = rows.first + t0 + t;
            if (row < a.rows)
                put(a, rows.pair ? rows.pair[pair] : pair, row,
                    ap_float_sum(&red[p * parts][t][r], parts, N * AP_PANEL));
        }
        __syncthreads();
    }
}

/* ------------------------------------------------------------------ many rows */

/* A block has PANELS panels and TOKENS rows of inputs, a thread R weight rows (r0 + 0 ..) of a panel and M rows of
 * inputs, GROUPS apart. Shared memory: per stage, of a unit of inputs, the weights as they are stored and the inputs. */
template <int KIND, int PANELS> struct tiling {
    static constexpr int THREADS = 128, STAGES = PANELS == 1 ? 6 : 4;
    static constexpr int R = PANELS == 1 ? 4 : 8, TOKENS = PANELS == 1 ? 32 : 64;
    static constexpr int GROUPS = THREADS / (PANELS * AP_PANEL / R), M = TOKENS / GROUPS;
    static constexpr int IN_WARP = PANELS == 1 ? 32 : 8; /* groups of inputs' rows in a warp */
    static constexpr int INPUT_BYTES = AP_PANEL * (KIND == AP_W_F32 ? 4 : 2);
    static constexpr int PANEL_BYTES =
        AP_FLOAT_UNIT * INPUT_BYTES + 64; /* panels begin in other banks */
    static constexpr int X_LD = AP_FLOAT_UNIT + 4;
    static constexpr int X_AT = PANELS * PANEL_BYTES, STAGE_BYTES = X_AT + TOKENS * X_LD * 4;
};

/* Inputs k .. k + 31 of the block's weights and n rows of inputs; zeros where there are none. */
template <int KIND, int PANELS>
static __device__ __forceinline__ void fetch(uint32_t stage, const float_args &a, int first, int n,
                                             int k, bool aligned)
{
    using T = tiling<KIND, PANELS>;
    constexpr int W_CHUNKS = AP_FLOAT_UNIT * T::INPUT_BYTES / 16;
    int stored = KIND == AP_W_BF16 ? (a.cols + 1) & ~1 : a.cols;
    int w_live = min(stored - k, (int)AP_FLOAT_UNIT) * T::INPUT_BYTES /
                 16; /* BF16: pairs of inputs of twice the bytes */
#pragma unroll
    for (int c0 = 0; c0 < PANELS * W_CHUNKS; c0 += T::THREADS) {
        int u = c0 + threadIdx.x, p = u / W_CHUNKS, c = u % W_CHUNKS,
            panel = blockIdx.x * PANELS + p;
        if (u >= PANELS * W_CHUNKS) break; /* fewer than threads: a panel of 16 bits */
        bool live = c < w_live && panel * AP_PANEL < a.rows;
        const uint8_t *from =
            a.data +
            (live ? (size_t)panel * a.panel_bytes + (size_t)k * T::INPUT_BYTES + c * 16 : 0);
        ap_copy16_part(stage + p * T::PANEL_BYTES + c * 16, from, live ? 16 : 0);
    }
    constexpr int X_CHUNKS = AP_FLOAT_UNIT / 4;
#pragma unroll
    for (int c0 = 0; c0 < T::TOKENS * X_CHUNKS; c0 += T::THREADS) {
        int u = c0 + threadIdx.x, t = u / X_CHUNKS, c = u % X_CHUNKS;
        int live = t < n ? max(0, min(a.cols - k - 4 * c, 4)) : 0;
        const float *from = a.x + (live ? (int64_t)(first + t) * a.ldx + k + 4 * c : 0);
        uint32_t to = stage + T::X_AT + (t * T::X_LD + 4 * c) * 4;
        if (aligned) {
            ap_copy16_part(to, from, live * 4);
        } else {
#pragma unroll
            for (int e = 0; e < 4; e++)
                ap_copy4_part(to + 4 * e, from + (e < live ? e : 0), e < live ? 4 : 0);
        }
    }
    ap_copies_commit();
}

/* Weights of R rows from r0 on of a panel in shared memory, with inputs k and k + 1, k even. */
template <int KIND, int R>
static __device__ __forceinline__ void two_inputs(const uint8_t *panel, int k, int r0,
                                                  float (*w)[R])
{
#pragma unroll
    for (int r = 0; r < R; r += 4) {
        float4 v[2];
        if constexpr (KIND == AP_W_BF16) {
            uint4 pair = *(const uint4 *)(panel + (k / 2 * AP_PANEL + r0 + r) * 4);
            v[0] = ap_four_of_bf16(pair, false);
            v[1] = ap_four_of_bf16(pair, true);
        } else {
#pragma unroll
            for (int e = 0; e < 2; e++) {
                if constexpr (KIND == AP_W_F32) {
                    v[e] = *(const float4 *)(panel + ((k + e) * AP_PANEL + r0 + r) * 4);
                } else {
                    uint2 h = *(const uint2 *)(panel + ((k + e) * AP_PANEL + r0 + r) * 2);
                    v[e] = ap_four_of_half(h.x, h.y);
                }
            }
        }
#pragma unroll
        for (int e = 0; e < 2; e++) {
            w[e][r] = v[e].x;
            w[e][r + 1] = v[e].y;
            w[e][r + 2] = v[e].z;
            w[e][r + 3] = v[e].w;
        }
    }
}

template <int R, int M>
static __device__ __forceinline__ void end_part(float (*total)[R], float (*acc)[R], bool is_first)
{
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int r = 0; r < R; r++) {
            total[m][r] = is_first ? acc[m][r] : total[m][r] + acc[m][r];
            acc[m][r] = 0;
        }
}

template <int KIND, int PANELS>
static __global__ void __launch_bounds__(128, PANELS == 1 ? 5 : 3) tile(float_args a)
{
    using T = tiling<KIND, PANELS>;
    constexpr int R = T::R, M = T::M;
    extern __shared__ __align__(16) uint8_t shared[];
    uint32_t base = (uint32_t)__cvta_generic_to_shared(shared);
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    int token = lane % T::IN_WARP + warp % (T::GROUPS / T::IN_WARP) * T::IN_WARP;
    int r = (lane / T::IN_WARP + warp / (T::GROUPS / T::IN_WARP) * (32 / T::IN_WARP)) *
            R; /* of the block's rows */
    int first = blockIdx.y * T::TOKENS, n = min(a.n_row - first, T::TOKENS);
    int row = blockIdx.x * PANELS * AP_PANEL + r;
    int units = (a.cols + AP_FLOAT_UNIT - 1) / AP_FLOAT_UNIT, parts = ap_float_parts(a.cols);
    bool aligned = ((uintptr_t)a.x & 15) == 0 && a.ldx % 4 == 0, mine = row < a.rows;
    float acc[M][R], total[M][R];
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int q = 0; q < R; q++) acc[m][q] = total[m][q] = 0;
    ap_grid_wait();
    for (int s = 0; s < T::STAGES - 1; s++) {
        if (s < units)
            fetch<KIND, PANELS>(base + s * T::STAGE_BYTES, a, first, n, s * AP_FLOAT_UNIT, aligned);
        else
            ap_copies_commit();
    }
    int part = 0, next = ap_part_begin(units, parts, 1);
#pragma unroll 1
    for (int b = 0; b < units; b++) {
        ap_copies_wait<T::STAGES - 2>();
        __syncthreads();
        int ahead = b + T::STAGES - 1;
        if (ahead < units)
            fetch<KIND, PANELS>(base + ahead % T::STAGES * T::STAGE_BYTES, a, first, n,
                                ahead * AP_FLOAT_UNIT, aligned);
        else
            ap_copies_commit();
        for (; b == next; next = ap_part_begin(units, parts, ++part + 1))
            end_part<R, M>(total, acc, part == 0);
        if (!mine) continue;
        const uint8_t *stage = shared + b % T::STAGES * T::STAGE_BYTES;
        const uint8_t *w_at = stage + r / AP_PANEL * T::PANEL_BYTES;
        const float *x_at = (const float *)(stage + T::X_AT) + token * T::X_LD;
#pragma unroll 2
        for (int k = 0; k < AP_FLOAT_UNIT; k += 4) {
            float x[M][4], w[2][R];
#pragma unroll
            for (int m = 0; m < M; m++) {
                float4 v = *(const float4 *)(x_at + m * T::GROUPS * T::X_LD + k);
                x[m][0] = v.x;
                x[m][1] = v.y;
                x[m][2] = v.z;
                x[m][3] = v.w;
            }
#pragma unroll
            for (int e = 0; e < 4; e++) {
                if (e % 2 == 0) two_inputs<KIND, R>(w_at, k + e, r % AP_PANEL, w);
#pragma unroll
                for (int m = 0; m < M; m++)
#pragma unroll
                    for (int q = 0; q < R; q++) acc[m][q] = fmaf(w[e % 2][q], x[m][e], acc[m][q]);
            }
        }
    }
    for (; part < parts; part++) end_part<R, M>(total, acc, part == 0);
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int q = 0; q < R; q++) {
            int t = token + m * T::GROUPS;
            if (t < n && row + q < a.rows) put(a, first + t, row + q, total[m][q]);
        }
}

/* ------------------------------------------------------------------ forms */

/* Parts of a form's inputs: a warp takes one. */
static __host__ __device__ __forceinline__ int form_parts(int cols)
{
    return ap_float_warps(cols);
}

template <int N> static __global__ void __launch_bounds__(THREADS) form(float_args a)
{
    __shared__ float red[WARPS][N][AP_PANEL + 1];
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    int parts = form_parts(a.cols), each = WARPS / parts, units = (a.cols + 31) / 32;
    int panel = blockIdx.x * each + warp / parts, part = warp % parts;
    int begin = ap_part_begin(units, parts, part) * 32,
        end = min(ap_part_begin(units, parts, part + 1) * 32, a.cols);
    bool mine = panel * AP_PANEL < a.rows;
    uint32_t table[4] = {0, 0, 0, 0};
    for (int j = 0; j < 4; j++) table[j] = ap_qtable_words[a.q.q.table][j];
    ap_grid_wait();
    rows_of rows = rows_of_block<N>(a, panel);
    for (int t0 = 0; t0 < rows.n; t0 += N) {
        int n = min(rows.n - t0, N);
        const float *x[N];
        float acc[4][N];
#pragma unroll
        for (int t = 0; t < N; t++) {
            x[t] = row_at(a, rows, t0 + (t < n ? t : 0));
            acc[0][t] = acc[1][t] = 0;
        }
        if (mine) form_part<N>(a, rows.panel, begin, end, n, x, lane, table, acc);
#pragma unroll
        for (int r = 0; r < 2; r++)
#pragma unroll
            for (int t = 0; t < N; t++) {
                float v = acc[r][t];
                v += __shfl_xor_sync(0xffffffffu, v, 1);
                v += __shfl_xor_sync(0xffffffffu, v, 2);
                if ((lane & 3) == 0) red[warp][t][2 * (lane >> 2) + r] = v;
            }
        __syncthreads();
        for (int o = threadIdx.x; o < each * n * AP_PANEL; o += THREADS) {
            int p = o / (n * AP_PANEL), t = o / AP_PANEL % n, r = o % AP_PANEL;
            int row = ((int)blockIdx.x * each + p) * AP_PANEL + r, pair = rows.first + t0 + t;
            if (row >= a.rows) continue;
            float v = red[p * parts][t][r];
            for (int q = 1; q < parts; q++) v += red[p * parts + q][t][r];
            put(a, rows.pair ? rows.pair[pair] : pair, row, v);
        }
        __syncthreads();
    }
}

/* ------------------------------------------------------------------ launches */

enum { MANY = 16 }; /* rows of inputs beyond which they pass through shared memory */

template <int KIND, int PANELS> static void launch_tile(const ap_exec *x, const float_args &a)
{
    using T = tiling<KIND, PANELS>;
    dim3 grid((unsigned)(a.rows + PANELS * AP_PANEL - 1) / (PANELS * AP_PANEL),
              (unsigned)(a.n_row + T::TOKENS - 1) / T::TOKENS);
    ap_launch(x, tile<KIND, PANELS>, grid, dim3(T::THREADS), (size_t)T::STAGES * T::STAGE_BYTES, a);
}

/* Blocks along x for what a block shares out among `parts` of `most`. */
static unsigned blocks_of(const float_args &a, int parts, int most)
{
    unsigned each = (unsigned)(most / parts), panels = (unsigned)(a.rows + AP_PANEL - 1) / AP_PANEL;
    return (panels + each - 1) / each;
}

template <int KIND> static void launch(const ap_exec *x, const float_args &a, int groups)
{
    if (!a.expert && a.n_row > MANY) {
        int64_t large = (int64_t)((a.rows + 63) / 64) * ((a.n_row + 63) / 64);
        if (a.rows >= 64 && large > ap_cuda_of(x)->sm)
            launch_tile<KIND, 4>(x, a);
        else
            launch_tile<KIND, 1>(x, a);
        return;
    }
    dim3 grid(blocks_of(a, ap_float_parts(a.cols), AP_FLOAT_PARTS), (unsigned)groups);
    if (!a.first && (a.n_row == 1 || a.expert))
        ap_launch(x, few<KIND, 1>, grid, dim3(THREADS), 0, a);
    else
        ap_launch(x, few<KIND, AP_ROWS>, grid, dim3(THREADS), 0, a);
}

static void launch_form(const ap_exec *x, const float_args &a, int groups)
{
    dim3 grid(blocks_of(a, form_parts(a.cols), WARPS), (unsigned)groups);
    if (a.n_row == 1 && !a.first)
        ap_launch(x, form<1>, grid, dim3(THREADS), 0, a);
    else
        ap_launch(x, form<AP_ROWS>, grid, dim3(THREADS), 0, a);
}

static void dispatch(const ap_exec *x, const ap_mat *w, float_args *a, int groups)
{
    a->data = (const uint8_t *)w->data;
    a->rows = w->rows;
    a->cols = w->cols;
    if (w->q.bits) {
        a->q = ap_qmat_of(w);
        a->panel_bytes = a->q.panel_bytes;
        launch_form(x, *a, groups);
        return;
    }
    a->panel_bytes = ap_mat_bytes(w) / (size_t)((w->rows + AP_PANEL - 1) / AP_PANEL);
    if (w->dtype == AP_BF16)
        launch<AP_W_BF16>(x, *a, groups);
    else if (w->dtype == AP_F16)
        launch<AP_W_F16>(x, *a, groups);
    else
        launch<AP_W_F32>(x, *a, groups);
}

void ap_cuda_float_product(const ap_exec *x, const ap_matmul_args *m, int mode, int act)
{
    float_args a = {};
    a.x = m->x;
    a.ldx = m->ldx;
    a.y = m->y;
    a.ldy = m->ldy;
    a.n_row = m->n_tok;
    a.mode = mode;
    a.act = act;
    a.softcap = m->softcap;
    dispatch(x, m->w, &a, m->n_tok == 1 ? 1 : (m->n_tok + AP_ROWS - 1) / AP_ROWS);
}

void ap_cuda_float_matmul(const ap_exec *x, const ap_matmul_args *m)
{
    ap_cuda_float_product(x, m, m->accumulate ? AP_PUT_ADD : AP_PUT_STORE, 0);
}

void ap_cuda_float_experts(const ap_exec *x, const ap_mat *w, const ap_product_args *p, int groups)
{
    float_args a = {};
    a.x = p->x;
    a.ldx = p->ldx;
    a.y = p->y;
    a.ldy = p->ldy;
    a.n_row = p->n_row;
    a.mode = p->mode;
    a.act = p->act;
    a.expert = p->expert;
    a.n_active = p->n_active;
    a.first = p->first;
    a.pair = p->pair;
    a.stride = p->stride[0];
    a.n_used = p->n_used;
    a.by_token = p->by_token;
    dispatch(x, w, &a, groups);
}
