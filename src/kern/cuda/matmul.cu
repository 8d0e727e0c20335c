/* matmul.cu - products with weights in integer form: matmul, glu, and the experts' halves for moe.cu.
 *
 * Three kernels with the same arithmetic, so that a row's result does not depend on how many there are:
 *   one   a row of inputs; a block's warps share out the parts of a panel's inputs, so that all of a panel is
 *         asked of memory at once. Bytes are the limit.
 *   few   up to 8 rows, likewise.
 *   tile  8 panels x 64 rows a block; inputs pass through shared memory. The arithmetic around the tensor
 *         cores is the limit: 5 operations for each output and 32 inputs. */
#include "decode.cuh"
#include "one.cuh"

/* X_LD: 32 more would be free of bank conflicts, but cards but Hopper's have 99 KB of shared memory. */
enum { TILE = 64, STEP = 4, STAGES = 3, X_LD = STEP * 32 + 16 };

ap_qmat ap_qmat_of(const ap_mat *w)
{
    static const uint8_t size[] = {2, 2, 4, 1};
    ap_qform f = w->q;
    ap_qmat m = {};
    uint32_t n = AP_PANEL * (f.affine ? 2 : 1), cols = (uint32_t)w->cols;
    m.data = (const uint8_t *)w->data;
    m.rows = w->rows;
    m.cols = w->cols;
    m.q = f;
    if (!f.bits) { /* floats: only where panels are */
        m.panel_bytes = ap_mat_bytes(w) / ((uint32_t)(w->rows + AP_PANEL - 1) / AP_PANEL);
        return m;
    }
    while (1 << m.group_shift < f.group) m.group_shift++;
    m.step = f.nibbles ? AP_PANEL : n * size[f.scale];
    m.super_at = m.scale_at = cols / AP_Q_BLOCK * f.bits * 64;
    if (f.scale == AP_QS_SUPER) {
        m.super_step = n * 2;
        m.scale_at += cols / 256 * m.super_step;
    }
    uint32_t scales = (m.scale_at - m.super_at) + (cols + f.group - 1) / f.group * m.step;
    m.panel_bytes = m.super_at + (scales + 63) / 64 * 64;
    return m;
}

/* ------------------------------------------------------------------ inputs to integers */

static __global__ void __launch_bounds__(THREADS)
    quantise(const float *x, int64_t ldx, int cols, int rows, ap_qin in)
{
    ap_grid_wait();
    int blocks = cols / AP_Q_BLOCK;
    int64_t at = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / 8, n = (int64_t)rows * blocks;
    bool live = at < n;
    int row = live ? (int)(at / blocks) : 0, block = live ? (int)(at % blocks) : 0,
        l = threadIdx.x & 7;
    const float *p = x + row * ldx + block * 32 + l * 4;
    float4 v = live ? make_float4(p[0], p[1], p[2], p[3]) : make_float4(0, 0, 0, 0);
    char4 hi, lo;
    float d;
    int sum;
    ap_quantise_block<2>(v, &hi, &lo, &d, &sum);
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    if (!live) return;
    *(char4 *)(in.hi + (int64_t)row * cols + block * 32 + l * 4) = hi;
    *(char4 *)(in.lo + (int64_t)row * cols + block * 32 + l * 4) = lo;
    if ((l & 3) == 0) in.sum[((int64_t)row * blocks + block) * 2 + l / 4] = sum;
    if (l == 0) in.d[(int64_t)row * blocks + block] = d;
}

size_t ap_qin_bytes(int64_t rows, int cols)
{
    return (size_t)rows * ((size_t)cols * 2 + (size_t)cols / 32 * 12) + 256;
}

ap_qin ap_qin_at(void *mem, int64_t rows, int cols)
{
    ap_qin in;
    int64_t n = rows * cols;
    in.hi = (int8_t *)mem;
    in.lo = in.hi + n;
    in.sum = (int32_t *)(in.lo + n); /* read in twos */
    in.d = (float *)(in.sum + n / 16);
    return in;
}

void ap_cuda_quantise(const ap_exec *x, const float *from, int64_t ld, int rows, int cols,
                      ap_qin in)
{
    int64_t n = (int64_t)rows * (cols / AP_Q_BLOCK) * 8;
    ap_launch(x, quantise, dim3((unsigned)((n + THREADS - 1) / THREADS)), dim3(THREADS), 0, from,
              ld, cols, rows, in);
}

/* ------------------------------------------------------------------ rows of a group */

/* Which rows of inputs meet, and where their results go. */
struct group {
    const int32_t *pair; /* NULL: rows first, first + 1, ... */
    int first, n;
};

static __device__ __forceinline__ int row_in(const ap_product_args &a, const group &r, int n)
{
    if (!r.pair) return r.first + n;
    int p = r.pair[r.first + n];
    return a.by_token ? p / a.n_used : p;
}

static __device__ __forceinline__ int row_out(const group &r, int n)
{
    return r.pair ? r.pair[r.first + n] : r.first + n;
}

/* ------------------------------------------------------------------ few rows */

/* ap_block_product of a form that is known. */
template <class F>
static __device__ __forceinline__ void block_product(float *acc, const ap_frag &f, uint2 hi,
                                                     uint2 lo, const ap_scales *sc, float2 d,
                                                     const int2 *x, const ap_qmat &m, int i)
{
#pragma unroll
    for (int h = 0; h < (F::HALVES ? 2 : 1); h++) {
        bool mine = !F::HALVES || i / 2 == h; /* lanes with inputs of this half */
        uint2 none = make_uint2(0, 0);
        int32_t c[4] = {0, 0, 0, 0};
        ap_mma(c, f.a, mine ? hi : none);
#pragma unroll
        for (int j = 0; j < 4; j++) c[j] *= 128;
        ap_mma(c, f.a, mine ? lo : none);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int xs = j & 1 ? x[h].y : x[h].x;
            float by = j & 1 ? d.y : d.x;
            acc[j] = fmaf(sc[h].s[j >> 1] * (float)(c[j] - F::zero(m) * xs), by, acc[j]);
            if (F::affine(m)) acc[j] = fmaf(sc[h].b[j >> 1], by * (float)xs, acc[j]);
        }
    }
}

template <class F, int MATS>
static __global__ void __launch_bounds__(THREADS, 2) one(ap_product_args a)
{
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ float red[MATS][WARPS * 4][AP_PANEL];
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    int warps = ap_warps_of(a.w[0].cols), each = WARPS / warps, parts = 4 * warps;
    int panel = blockIdx.x * each + warp / warps;
    bool mine = panel * AP_PANEL < a.w[0].rows;
    span sp = span_of(a.w[0].cols / AP_Q_BLOCK, parts, warp % warps * 4);
    strip<F> c[2];
    place at[MATS];
    uint32_t table[4];
    table_of<F::TABLE>(a.w[0].q, table);
    if (a.expert) ap_grid_wait(); /* else weights do not wait for the kernels ahead */
    size_t e = a.expert ? (size_t)a.expert[blockIdx.y] : 0;
#pragma unroll
    for (int k = 0; k < MATS; k++)
        at[k] =
            place_of(sp, a.w[k].data + e * a.stride[k] + (size_t)panel * a.w[k].panel_bytes, lane);
    if (mine) {
        load(c[0], a.w[0], at[0], 0);
        load(c[1], a.w[MATS - 1], at[MATS - 1], MATS == 2 ? 0 : 1);
    }
    if (!a.expert) ap_grid_wait();
    ap_qin in = ap_quantise_row(a.x + blockIdx.y * a.ldx, a.w[0].cols, shared);
    float acc[2][2] = {{0, 0}, {0, 0}};
    if (mine) {
        if (MATS == 2)
            multiply_both<F>(c, a.w, in, at, table, acc);
        else
            multiply_all<F>(c, a.w[0], in, at[0], table, acc[0]);
    }
#pragma unroll
    for (int k = 0; k < MATS; k++)
#pragma unroll
        for (int r = 0; r < 2; r++) red[k][warp * 4 + (lane & 3)][2 * (lane >> 2) + r] = acc[k][r];
    __syncthreads();
    int p = threadIdx.x / AP_PANEL, r = threadIdx.x % AP_PANEL,
        row = ((int)blockIdx.x * each + p) * AP_PANEL + r;
    if (p >= each || row >= a.w[0].rows) return;
    float sum[MATS];
#pragma unroll
    for (int k = 0; k < MATS; k++) sum[k] = ap_sum_parts(&red[k][p * parts][r], parts);
    ap_put(a, blockIdx.y, row, sum[0], sum[MATS - 1]);
}

/* Up to 8 rows: a warp's parts one after the other. */
template <class F> static __global__ void __launch_bounds__(THREADS, 2) few(ap_product_args a)
{
    __shared__ float red[WARPS * 4][AP_ROWS][AP_PANEL + 1];
    const ap_qmat &m = a.w[0];
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, i = lane & 3, g = lane >> 2;
    int warps = ap_warps_of(m.cols), each = WARPS / warps, parts = 4 * warps,
        blocks = m.cols / AP_Q_BLOCK;
    int panel = blockIdx.x * each + warp / warps;
    bool mine = panel * AP_PANEL < m.rows;
    span sp = span_of(blocks, parts, warp % warps * 4);
    strip<F> c;
    place at = place_of(sp, m.data + (size_t)panel * m.panel_bytes, lane);
    uint32_t table[4];
    table_of<F::TABLE>(m.q, table);
    ap_grid_wait();
    group rows = {NULL, (int)blockIdx.y * AP_ROWS,
                  min(a.n_row - (int)blockIdx.y * AP_ROWS, (int)AP_ROWS)};
    if (a.expert) {
        if (a.n_active && (int)blockIdx.y >= *a.n_active) return;
        int e = a.expert[blockIdx.y];
        at.panel += (size_t)e * a.stride[0];
        rows.pair = a.pair;
        rows.first = a.first[e];
        rows.n = a.first[e + 1] - rows.first;
    }
    for (int first = 0; first < rows.n; first += AP_ROWS) {
        group now = {rows.pair, rows.first + first, min(rows.n - first, (int)AP_ROWS)};
        bool live = g < now.n, live0 = 2 * i < now.n, live1 = 2 * i + 1 < now.n;
        int64_t rg = live ? row_in(a, now, g) : 0, r0 = live0 ? row_in(a, now, 2 * i) : 0,
                r1 = live1 ? row_in(a, now, 2 * i + 1) : 0;
        const int8_t *hi = a.in.hi + rg * m.cols + 8 * i, *lo = a.in.lo + rg * m.cols + 8 * i;
        const float *d0 = a.in.d + r0 * blocks, *d1 = a.in.d + r1 * blocks;
        const int2 *x0 = (const int2 *)a.in.sum + r0 * blocks,
                   *x1 = (const int2 *)a.in.sum + r1 * blocks;
        float acc[4][4];
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int k = 0; k < 4; k++) acc[j][k] = 0;
        if (mine) {
            load(c, m, at, 0);
#pragma unroll 1
            for (int step = 0; step < sp.longest; step++) {
                strip<F> now_c = c;
                load(c, m, at, step + 1);
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    int b = sp.begin[j] + step;
                    if (b >= sp.begin[j + 1]) continue;
                    ap_frag f = ap_unpack<F::BITS, F::TABLE>(now_c.q[j], i, table);
                    ap_scales sc[2];
#pragma unroll
                    for (int h = 0; h < (F::HALVES ? 2 : 1);
                         h++) { /* from the lane that has loaded them */
                        uint4 s = now_c.s[h];
                        int from = (lane & ~3) | j;
                        s.x = __shfl_sync(0xffffffffu, s.x, from);
                        s.y = __shfl_sync(0xffffffffu, s.y, from);
                        s.z = __shfl_sync(0xffffffffu, s.z, from);
                        s.w = __shfl_sync(0xffffffffu, s.w, from);
                        sc[h] = F::made(m, s);
                    }
                    uint2 none = make_uint2(0, 0), h2 = live ? *(const uint2 *)(hi + b * 32) : none,
                          l2 = live ? *(const uint2 *)(lo + b * 32) : none;
                    float2 d = make_float2(live0 ? d0[b] : 0, live1 ? d1[b] : 0);
                    int2 s0 = live0 ? x0[b] : make_int2(0, 0), s1 = live1 ? x1[b] : make_int2(0, 0);
                    int2 x[2] = {make_int2(s0.x, s1.x), make_int2(s0.y, s1.y)};
                    if (!F::HALVES) x[0] = make_int2(s0.x + s0.y, s1.x + s1.y);
                    block_product<F>(acc[j], f, h2, l2, sc, d, x, m, i);
                }
            }
        }
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int k = 0; k < 4; k++)
                red[warp * 4 + j][2 * i + (k & 1)][2 * g + (k >> 1)] = acc[j][k];
        __syncthreads();
        for (int o = threadIdx.x; o < each * now.n * AP_PANEL; o += THREADS) {
            int p = o / (now.n * AP_PANEL), t = o / AP_PANEL % now.n, r = o % AP_PANEL;
            int row = ((int)blockIdx.x * each + p) * AP_PANEL + r;
            if (row >= m.rows) continue;
            float sum = red[p * parts][t][r];
            for (int q = 1; q < parts; q++) sum += red[p * parts + q][t][r];
            ap_put(a, row_out(now, t), row, sum, 0);
        }
        __syncthreads();
    }
}

/* ------------------------------------------------------------------ many rows */

struct stage {
    int8_t hi[TILE][X_LD], lo[TILE][X_LD];
    float d[STEP][TILE];
    int32_t sum[STEP][2][TILE];
};

static __device__ __forceinline__ void copy16(void *to, const void *from, bool live)
{
    ap_copy16_part((uint32_t)__cvta_generic_to_shared(to), from, live ? 16 : 0);
}

static __device__ __forceinline__ void copy4(void *to, const void *from, bool live)
{
    ap_copy4_part((uint32_t)__cvta_generic_to_shared(to), from, live ? 4 : 0);
}

/* Inputs of STEP blocks from block b on; rows beyond n and blocks beyond the last become zeros. */
static __device__ __forceinline__ void fetch(stage *s, const ap_qin &in, const int *row, int n,
                                             int b, int blocks)
{
    int64_t cols = (int64_t)blocks * 32;
    for (int u = threadIdx.x; u < TILE * STEP * 2; u += THREADS) { /* units of 16 bytes */
        int t = u / (STEP * 2), k = u % (STEP * 2);
        bool live = t < n && b + k / 2 < blocks;
        int64_t at = live ? row[t] * cols + b * 32 + k * 16 : 0;
        copy16(&s->hi[t][k * 16], in.hi + at, live);
        copy16(&s->lo[t][k * 16], in.lo + at, live);
    }
    for (int u = threadIdx.x; u < TILE * STEP; u += THREADS) {
        int t = u / STEP, k = u % STEP;
        bool live = t < n && b + k < blocks;
        int64_t at = live ? (int64_t)row[t] * blocks + b + k : 0;
        copy4(&s->d[k][t], in.d + at, live);
        copy4(&s->sum[k][0][t], in.sum + at * 2, live);
        copy4(&s->sum[k][1][t], in.sum + at * 2 + 1, live);
    }
    ap_copies_commit();
}

template <int BITS, bool TABLE, bool HALVES>
static __global__ void __launch_bounds__(THREADS, 2) tile(ap_product_args a)
{
    extern __shared__ __align__(128) uint8_t shared[];
    stage *stages = (stage *)shared;
    float *total = (float *)(stages + STAGES); /* [TILE / 8 * 4][THREADS] */
    __shared__ int row[TILE], out[TILE];
    const ap_qmat &m = a.w[0];
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, i = lane & 3, g = lane >> 2;
    int blocks = m.cols / AP_Q_BLOCK, parts = 4 * ap_warps_of(m.cols);
    int panel = blockIdx.x * WARPS + warp;
    bool mine = panel * AP_PANEL < m.rows;
    const uint8_t *at = m.data + (size_t)panel * m.panel_bytes;
    uint32_t table[4] = {0, 0, 0, 0};
    if (TABLE) {
#pragma unroll
        for (int j = 0; j < 4; j++) table[j] = ap_qtable_words[m.q.table][j];
    }
    ap_grid_wait();
    group rows = {NULL, (int)blockIdx.y * TILE, a.n_row - (int)blockIdx.y * TILE};
    if (a.expert) { /* tile blockIdx.y of the plan */
        if ((int)blockIdx.y >= *a.n_active) return;
        int e = a.expert[blockIdx.y];
        at += (size_t)e * a.stride[0];
        rows.pair = a.pair;
        rows.first = a.tile_first[blockIdx.y];
        rows.n = a.first[e + 1] - rows.first;
    }
    rows.n = min(rows.n, (int)TILE);
    for (int t = threadIdx.x; t < TILE; t += THREADS) {
        row[t] = t < rows.n ? row_in(a, rows, t) : 0;
        out[t] = t < rows.n ? row_out(rows, t) : 0;
    }
    __syncthreads();
    float acc[TILE / 8][4];
#pragma unroll
    for (int n = 0; n < TILE / 8; n++)
#pragma unroll
        for (int j = 0; j < 4; j++) acc[n][j] = 0;

    int steps = (blocks + STEP - 1) / STEP, part = 0, next = ap_part_begin(blocks, parts, 1);
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < steps)
            fetch(&stages[s], a.in, row, rows.n, s * STEP, blocks);
        else
            ap_copies_commit();
    }
    ap_raw<BITS> q[STEP];
    uint4 sc[STEP][HALVES ? 2 : 1];
    for (int s = 0; s < steps; s++) {
        int b0 = s * STEP;
#pragma unroll
        for (int k = 0; k < STEP; k++) {
            if (!mine || b0 + k >= blocks) continue;
            q[k] = ap_load<BITS>(at + (size_t)(b0 + k) * BITS * 64, lane);
#pragma unroll
            for (int h = 0; h < (HALVES ? 2 : 1); h++)
                sc[k][h] = ap_load_scales(m, at, (b0 + k) * 32 + h * 16, g);
        }
        ap_copies_wait<STAGES - 2>();
        __syncthreads();
        int ahead = s + STAGES - 1;
        if (ahead < steps)
            fetch(&stages[ahead % STAGES], a.in, row, rows.n, ahead * STEP, blocks);
        else
            ap_copies_commit();
        const stage *now = &stages[s % STAGES];
#pragma unroll
        for (int k = 0; k < STEP; k++) {
            int b = b0 + k;
            if (b >= blocks) break;
            if (b == next) { /* a part ends */
#pragma unroll
                for (int n = 0; n < TILE / 8; n++)
#pragma unroll
                    for (int j = 0; j < 4; j++) {
                        float *t = total + (n * 4 + j) * THREADS + threadIdx.x;
                        *t = part ? *t + acc[n][j] : acc[n][j];
                        acc[n][j] = 0;
                    }
                part++;
                next = ap_part_begin(blocks, parts, part + 1);
            }
            if (!mine) continue;
            ap_frag f = ap_unpack<BITS, TABLE>(q[k], i, table);
            ap_scales scale[2];
            scale[0] = ap_make_scales(m, sc[k][0]);
            if (HALVES) scale[1] = ap_make_scales(m, sc[k][HALVES ? 1 : 0]);
#pragma unroll
            for (int n = 0; n < TILE / 8; n++) {
                uint2 hi = *(const uint2 *)&now->hi[n * 8 + g][k * 32 + 8 * i];
                uint2 lo = *(const uint2 *)&now->lo[n * 8 + g][k * 32 + 8 * i];
                float2 d = *(const float2 *)&now->d[k][n * 8 + 2 * i];
                int2 x[2];
                x[0] = *(const int2 *)&now->sum[k][0][n * 8 + 2 * i];
                x[1] = *(const int2 *)&now->sum[k][1][n * 8 + 2 * i];
                if (!HALVES) {
                    x[0].x += x[1].x;
                    x[0].y += x[1].y;
                }
                ap_block_product<HALVES>(acc[n], f, hi, lo, scale, d, x, m.q, i);
            }
        }
    }
    if (!mine) return;
#pragma unroll
    for (int n = 0; n < TILE / 8; n++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int t = n * 8 + 2 * i + (j & 1), r = panel * AP_PANEL + 2 * g + (j >> 1);
            float v = part ? total[(n * 4 + j) * THREADS + threadIdx.x] + acc[n][j] : acc[n][j];
            if (t < rows.n && r < m.rows) ap_put(a, out[t], r, v, 0);
        }
}

/* ------------------------------------------------------------------ launches */

template <class F>
static void launch_few(const ap_exec *x, const ap_product_args &a, const dim3 &grid)
{
    switch (ap_common_forms::has(a.w[0].q)) {
    case 0:
        ap_launch(x, few<ap_common_forms::q4_k>, grid, dim3(THREADS), 0, a);
        break;
    case 1:
        ap_launch(x, few<ap_common_forms::q5_k>, grid, dim3(THREADS), 0, a);
        break;
    case 2:
        ap_launch(x, few<ap_common_forms::q6_k>, grid, dim3(THREADS), 0, a);
        break;
    case 3:
        ap_launch(x, few<ap_common_forms::q8_0>, grid, dim3(THREADS), 0, a);
        break;
    default:
        ap_launch(x, few<F>, grid, dim3(THREADS), 0, a);
    }
}

template <int BITS, bool TABLE, bool HALVES>
static void launch_form(const ap_exec *x, const ap_product_args &a, bool tiled, int groups)
{
    unsigned panels = (unsigned)(a.w[0].rows + AP_PANEL - 1) / AP_PANEL;
    if (tiled) {
        size_t shared = sizeof(stage) * STAGES + sizeof(float) * TILE / 8 * 4 * THREADS;
        ap_launch(x, tile<BITS, TABLE, HALVES>,
                  dim3((panels + WARPS - 1) / WARPS, (unsigned)groups), dim3(THREADS), shared, a);
        return;
    }
    unsigned each = (unsigned)(WARPS / ap_warps_of(a.w[0].cols));
    dim3 grid((panels + each - 1) / each, (unsigned)groups);
    size_t shared = ap_qin_bytes(1, a.w[0].cols);
    if (!a.x)
        launch_few<ap_any_form<BITS, TABLE, HALVES>>(x, a, grid);
    else if (ap_cuda_one(x, &a))
        return;
    else if (a.mode == AP_PUT_GLU)
        ap_launch(x, one<ap_any_form<BITS, TABLE, HALVES>, 2>, grid, dim3(THREADS), shared, a);
    else
        ap_launch(x, one<ap_any_form<BITS, TABLE, HALVES>, 1>, grid, dim3(THREADS), shared, a);
}

void ap_cuda_product(const ap_exec *x, const ap_product_args *args, bool tiled, int groups)
{
    const ap_product_args &a = *args;
    ap_qform q = a.w[0].q;
    bool table = q.table != 0, halves = q.group == 16;
    switch (q.bits * 4 + table * 2 + halves) {
    case 2 * 4:
        launch_form<2, false, false>(x, a, tiled, groups);
        break;
    case 2 * 4 + 1:
        launch_form<2, false, true>(x, a, tiled, groups);
        break;
    case 3 * 4:
        launch_form<3, false, false>(x, a, tiled, groups);
        break;
    case 3 * 4 + 1:
        launch_form<3, false, true>(x, a, tiled, groups);
        break;
    case 3 * 4 + 2:
        launch_form<3, true, false>(x, a, tiled, groups);
        break;
    case 3 * 4 + 3:
        launch_form<3, true, true>(x, a, tiled, groups);
        break;
    case 4 * 4:
        launch_form<4, false, false>(x, a, tiled, groups);
        break;
    case 4 * 4 + 2:
        launch_form<4, true, false>(x, a, tiled, groups);
        break;
    case 4 * 4 + 3:
        launch_form<4, true, true>(x, a, tiled, groups);
        break;
    case 5 * 4:
        launch_form<5, false, false>(x, a, tiled, groups);
        break;
    case 6 * 4:
        launch_form<6, false, false>(x, a, tiled, groups);
        break;
    case 6 * 4 + 1:
        launch_form<6, false, true>(x, a, tiled, groups);
        break;
    case 8 * 4:
        launch_form<8, false, false>(x, a, tiled, groups);
        break;
    default:
        ap_cuda_check(ap_cuda_of(x), cudaErrorNotSupported, "weights of a form without a kernel");
        break;
    }
}

/* Rows beyond which inputs pass through shared memory. */
enum { MANY = AP_WIDE_FROM };

#define MOST_SHARED ((size_t)94 << 10) /* of a row in integer form */

static void product(const ap_exec *x, const ap_product_args *a, int n, bool wide, int groups)
{
    if (wide)
        ap_cuda_wide(x, a, groups);
    else
        ap_cuda_product(x, a, n > MANY, groups);
}

/* y = x W^T in the mode of `a`, all rows; pieces that fit the room for inputs. up: of GLU. */
static void run(const ap_exec *x, const ap_mat *w, const ap_mat *up, ap_product_args a,
                const float *from, int64_t ldx, int n_tok, int64_t ldy)
{
    int cols = a.w[0].cols;
    if (n_tok == 1 && ap_qin_bytes(1, cols) <= MOST_SHARED) {
        a.x = from;
        a.ldx = ldx;
        a.n_row = 1;
        ap_cuda_product(x, &a, false, 1);
        return;
    }
    ap_cuda *c = ap_cuda_of(x);
    bool wide = n_tok > MANY && ap_cuda_is_wide(x, w);
    bool rest = wide && ap_cuda_wide_rest(w);
    size_t each = wide ? (size_t)(cols + 63) / 64 * 64 * (rest ? 4 : 2) : ap_qin_bytes(1, cols);
    size_t fit = x->inputs ? x->input_bytes / each : 0;
    int room = (int)(fit < (size_t)n_tok ? fit : (size_t)n_tok);
    if (wide && room < n_tok) room &= ~7; /* rows of bf16 come in eights */
    if (!room && each > MOST_SHARED) {
        ap_cuda_check(c, cudaErrorInvalidValue, "no room for inputs in integer form");
        return;
    }
    for (int t = 0; !room && t < n_tok; t++) { /* row by row: each makes its own */
        ap_product_args row = a;
        row.x = from + (int64_t)t * ldx;
        row.y = a.y + (int64_t)t * ldy;
        row.n_row = 1;
        ap_cuda_product(x, &row, false, 1);
    }
    if (!room) return;
    for (int t = 0; t < n_tok; t += room) {
        ap_product_args part = a;
        int n = n_tok - t < room ? n_tok - t : room;
        part.in = ap_qin_at(x->inputs, n, cols);
        part.y = a.y + (int64_t)t * ldy;
        part.n_row = n;
        int rows = wide ? AP_WIDE_ROWS : n > MANY ? TILE : AP_ROWS, groups = (n + rows - 1) / rows;
        if (wide) {
            part.b16 = ap_bf16_rows_at(x->inputs, n, cols, rest);
            ap_cuda_to_bf16(x, from + (int64_t)t * ldx, ldx, n, cols, part.b16);
        } else {
            ap_cuda_quantise(x, from + (int64_t)t * ldx, ldx, n, cols, part.in);
        }
        if (a.mode == AP_PUT_GLU &&
            !(wide && ap_cuda_wide_pair(w, up))) { /* gate, then up times what it acts on */
            part.mode = AP_PUT_STORE;
            product(x, &part, n, wide, groups);
            part.mode = AP_PUT_TIMES;
            part.w[0] = a.w[1];
        }
        product(x, &part, n, wide, groups);
    }
}

void ap_cuda_matmul(const ap_exec *x, const ap_matmul_args *m)
{
    if (!ap_in_integers(x, m->w) && !(m->n_tok > MANY && ap_cuda_is_wide(x, m->w))) {
        ap_cuda_float_matmul(x, m);
        return;
    }
    ap_product_args a = {};
    a.w[0] = ap_qmat_of(m->w);
    a.y = m->y;
    a.ldy = m->ldy;
    a.mode = m->accumulate ? AP_PUT_ADD : AP_PUT_STORE;
    a.softcap = m->softcap;
    run(x, m->w, NULL, a, m->x, m->ldx, m->n_tok, m->ldy);
}

/* Forms of two matrices that one kernel can read side by side. */
static bool same_form(const ap_mat *a, const ap_mat *b)
{
    return a->rows == b->rows && a->cols == b->cols && a->q.bits == b->q.bits &&
           a->q.table == b->q.table && (a->q.group == 16) == (b->q.group == 16);
}

void ap_cuda_glu(const ap_exec *x, const ap_glu_args *g)
{
    if (ap_cuda_glu_one(x, g)) return;
    bool wide = g->n_tok > MANY && ap_cuda_is_wide(x, g->gate) && ap_cuda_wide_pair(g->gate, g->up);
    if (wide ||
        (ap_in_integers(x, g->gate) && ap_in_integers(x, g->up) && same_form(g->gate, g->up))) {
        ap_product_args a = {};
        a.w[0] = ap_qmat_of(g->gate);
        a.w[1] = ap_qmat_of(g->up);
        a.y = g->y;
        a.ldy = g->ldy;
        a.mode = AP_PUT_GLU;
        a.act = g->act;
        run(x, g->gate, g->up, a, g->x, g->ldx, g->n_tok, g->ldy);
        return;
    }
    ap_matmul_args gate = {};
    gate.x = g->x;
    gate.w = g->gate;
    gate.y = g->y;
    gate.ldx = g->ldx;
    gate.ldy = g->ldy;
    gate.n_tok = g->n_tok;
    ap_cuda_matmul(x, &gate);
    if (ap_in_integers(x, g->up)) {
        ap_product_args a = {};
        a.w[0] = ap_qmat_of(g->up);
        a.y = g->y;
        a.ldy = g->ldy;
        a.mode = AP_PUT_TIMES;
        a.act = g->act;
        run(x, g->up, NULL, a, g->x, g->ldx, g->n_tok, g->ldy);
    } else {
        gate.w = g->up;
        ap_cuda_float_product(x, &gate, AP_PUT_TIMES, g->act);
    }
}
