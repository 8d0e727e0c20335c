/* rows.cu - operations on the rows of a step: embed, norm, rope, elem, route.
 *
 * What a row gets depends neither on how many rows there are nor on how pointers are aligned: sums have one
 * order for each width. */
#include "kern/cuda/choice.cuh"
#include "kern/cuda/cuda.cuh"
#include "kern/cuda/qform.cuh"
#include "kern/cuda/quad.cuh"

/* ------------------------------------------------------------------ embed */

#define EMBED_THREADS 128

struct embed_params {
    const uint8_t *table;
    size_t panel_bytes;
    ap_qform q;
    ap_dtype dtype;
    int rows, cols;
    const int32_t *tok, *sampled, *embed_row;
    const float *embed;
    float scale;
    float *out;
    int n_tok, width;
};

/* Values 4i .. 4i+3 of a row of the table; columns that are not there are zero. */
static __device__ float4 table_quad(const embed_params &p, int id, int i)
{
    const uint8_t *panel = p.table + (size_t)(id / AP_PANEL) * p.panel_bytes;
    int row = id % AP_PANEL;
    if (p.q.bits) return ap_qf_quad(p.q, panel, p.cols, row, i);
    float v[4];
    for (int j = 0, col = 4 * i; j < 4; j++, col++)
        v[j] = col < p.cols ? ap_panel_weight(p.dtype, panel, row, col) : 0.0f;
    return make_float4(v[0], v[1], v[2], v[3]);
}

static __global__ void __launch_bounds__(EMBED_THREADS) embed_rows(embed_params p)
{
    ap_grid_wait();
    int i = (int)(blockIdx.x * EMBED_THREADS + threadIdx.x);
    if (4 * i >= p.width) return;
    for (int t = (int)blockIdx.y; t < p.n_tok; t += (int)gridDim.y) {
        float *out = p.out + (size_t)t * p.width;
        int at = p.embed_row ? p.embed_row[t] : -1;
        if (at >= 0) {
            float4 v = ap_load4<false>(p.embed + (size_t)at * p.width, 4 * i, p.width);
            ap_store4<false>(out, 4 * i, p.width, v);
            continue;
        }
        int id = p.tok[t];
        if (id < 0) id = p.sampled[-1 - id];
        /* -1, no token, was sampled: the host has not seen it yet and will drop this step */
        if (id < 0 || id >= p.rows) id = 0;
        float4 v = table_quad(p, id, i);
        v = make_float4(v.x * p.scale, v.y * p.scale, v.z * p.scale, v.w * p.scale);
        ap_store4<false>(out, 4 * i, p.width, v);
    }
}

void ap_cuda_embed(const ap_exec *x, const ap_embed_args *a)
{
    const ap_mat *w = a->table;
    const ap_batch *b = a->batch;
    if (a->n_tok <= 0) return;
    if (!w->data) {
        ap_cuda_check(ap_cuda_of(x), cudaErrorNotSupported, "embed: a table that is not packed");
        return;
    }
    embed_params p = {};
    p.table = (const uint8_t *)w->data;
    p.panel_bytes = ap_panel_stride(w);
    p.q = w->q;
    p.dtype = w->dtype;
    p.rows = w->rows;
    p.cols = w->cols;
    p.tok = b->tok + a->begin;
    p.sampled = b->sampled;
    p.embed_row = b->embed_row && !a->ignore_embed ? b->embed_row + a->begin : NULL;
    p.embed = b->embed;
    p.scale = a->scale;
    p.out = a->out;
    p.n_tok = a->n_tok;
    p.width = a->width;
    dim3 grid(ap_ceil_div(a->width, 4 * EMBED_THREADS), ap_grid_y(a->n_tok));
    ap_launch(x, embed_rows, grid, dim3(EMBED_THREADS), 0, p);
}

/* ------------------------------------------------------------------ norm */

#define NORM_THREADS 256 /* of a block that takes several rows */

/* Sum of v over the threads of a row, threadIdx.x; every thread of the block takes part. */
static __device__ __forceinline__ float row_sum(float v)
{
    __shared__ float part[NORM_THREADS / AP_WARP][AP_WARP];
    v = ap_warp_sum(v);
    if (blockDim.x == AP_WARP) return v;
    if (threadIdx.x % AP_WARP == 0) part[threadIdx.y][threadIdx.x / AP_WARP] = v;
    __syncthreads();
    unsigned lane = threadIdx.x % AP_WARP;
    return ap_warp_sum(lane < blockDim.x / AP_WARP ? part[threadIdx.y][lane] : 0.0f);
}

template <bool VECTOR>
static __device__ __forceinline__ void put_normed(const ap_norm_args &a, float4 v, float r,
                                                  float4 w, float4 old, float *out, int i)
{
    v = make_float4(v.x * r * w.x, v.y * r * w.y, v.z * r * w.z, v.w * r * w.w);
    if (a.accumulate)
        v = make_float4((old.x + v.x) * a.post_scale, (old.y + v.y) * a.post_scale,
                        (old.z + v.z) * a.post_scale, (old.w + v.w) * a.post_scale);
    ap_store4<VECTOR>(out, i, a.n, v);
}

/* N quads of each thread hold the row. Weights are asked for before anything is waited for. */
template <int N, bool VECTOR>
static __global__ void __launch_bounds__(1024) norm_rows(ap_norm_args a)
{
    int row = (int)(blockIdx.x * blockDim.y + threadIdx.y);
    int first = 4 * (int)threadIdx.x, step = 4 * (int)blockDim.x;
    bool there = row < a.rows;
    float4 v[N], w[N], old[N];
#pragma unroll
    for (int i = 0; i < N; i++)
        w[i] =
            a.weight ? ap_load4<VECTOR>(a.weight, first + i * step, a.n) : make_float4(1, 1, 1, 1);
    ap_grid_wait();
    float *out = a.out + row * a.ldout;
    const float *x = a.x + (there && a.row ? a.row[row] : row) * a.ldx;
    int n = there ? a.n : 0;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < N; i++) {
        v[i] = ap_load4<VECTOR>(x, first + i * step, n);
        old[i] = ap_load4<VECTOR>(out, first + i * step, a.accumulate ? n : 0);
    }
#pragma unroll
    for (int i = 0; i < N; i++) sum = ap_square_sum(v[i], sum);
    float r = ap_norm_factor(row_sum(sum), a.n, a.eps);
    if (!there) return;
#pragma unroll
    for (int i = 0; i < N; i++)
        if (first + i * step < a.n)
            put_normed<VECTOR>(a, v[i], r, w[i], old[i], out, first + i * step);
}

/* Rows that do not fit: read twice. */
static __global__ void __launch_bounds__(1024) norm_long(ap_norm_args a)
{
    ap_grid_wait();
    int row = (int)blockIdx.x, step = 4 * (int)blockDim.x;
    float *out = a.out + row * a.ldout;
    const float *x = a.x + (a.row ? a.row[row] : row) * a.ldx;
    float sum = 0;
    for (int i = 4 * (int)threadIdx.x; i < a.n; i += step)
        sum = ap_square_sum(ap_load4<false>(x, i, a.n), sum);
    float r = ap_norm_factor(row_sum(sum), a.n, a.eps);
    for (int i = 4 * (int)threadIdx.x; i < a.n; i += step) {
        float4 w = a.weight ? ap_load4<false>(a.weight, i, a.n) : make_float4(1, 1, 1, 1);
        float4 old = ap_load4<false>(out, i, a.accumulate ? a.n : 0);
        put_normed<false>(a, ap_load4<false>(x, i, a.n), r, w, old, out, i);
    }
}

/* Threads of a row depend on its width alone, so that its sum does. */
template <int N> static void norm_of(const ap_exec *x, const ap_norm_args *a, bool vector)
{
    unsigned threads = ap_ceil_div(ap_ceil_div(a->n, 4 * N), AP_WARP) * AP_WARP;
    unsigned rows = threads < NORM_THREADS ? NORM_THREADS / threads : 1;
    dim3 block(threads, rows), grid(ap_ceil_div(a->rows, rows));
    if (vector)
        ap_launch(x, norm_rows<N, true>, grid, block, 0, *a);
    else
        ap_launch(x, norm_rows<N, false>, grid, block, 0, *a);
}

void ap_cuda_norm(const ap_exec *x, const ap_norm_args *a)
{
    if (a->rows <= 0 || a->n <= 0) return;
    bool vector = a->n % 4 == 0 && a->ldx % 4 == 0 && a->ldout % 4 == 0 && ap_aligned16(a->x) &&
                  ap_aligned16(a->out) && ap_aligned16(a->weight);
    if (a->n <= 4 * AP_WARP)
        norm_of<1>(x, a, vector);
    else if (a->n <= 2 * 4 * 1024)
        norm_of<2>(x, a, vector);
    else if (a->n <= 3 * 4 * 1024)
        norm_of<3>(x, a, vector);
    else
        ap_launch(x, norm_long, dim3((unsigned)a->rows), dim3(1024), 0, *a);
}

/* ------------------------------------------------------------------ rope */

#define ROPE_THREADS 128

struct rope_axes {
    uint8_t of[AP_HEAD_MAX / 2]; /* [n_angle] */
};

static __global__ void __launch_bounds__(ROPE_THREADS) rope_tables(ap_rope_args a, rope_axes axes)
{
    int64_t at = (int64_t)blockIdx.x * ROPE_THREADS + threadIdx.x;
    int t = (int)(at / a.n_angle), i = (int)(at % a.n_angle);
    float freq = t < a.n_tok ? a.inv_freq[i] : 0.0f;
    ap_grid_wait();
    if (t >= a.n_tok) return;
    /* The rounded product is the definition: models were trained with it. */
    float angle = (float)a.pos[(size_t)axes.of[i] * a.n_tok + t] * freq;
    double s, c;
    sincos((double)angle, &s, &c);
    a.cos[at] = (float)c * a.attention_factor;
    a.sin[at] = (float)s * a.attention_factor;
}

void ap_cuda_rope(const ap_exec *x, const ap_rope_args *a)
{
    rope_axes axes = {};
    if (a->n_tok <= 0 || a->n_angle <= 0) return;
    if (a->n_angle > AP_HEAD_MAX / 2) {
        ap_cuda_check(ap_cuda_of(x), cudaErrorInvalidValue,
                      "rope: more angles than a head has pairs");
        return;
    }
    for (int i = 0; a->axis && i < a->n_angle; i++) axes.of[i] = a->axis[i];
    dim3 grid(ap_ceil_div((int64_t)a->n_tok * a->n_angle, ROPE_THREADS));
    ap_launch(x, rope_tables, grid, dim3(ROPE_THREADS), 0, *a, axes);
}

/* ------------------------------------------------------------------ elem */

#define ELEM_THREADS 256

/* gate: sigmoid of the row's own */
template <ap_elem OP>
static __device__ __forceinline__ float elem_value(const ap_elem_args &a, float y, float x,
                                                   float gate)
{
    switch (OP) {
    case AP_ELEM_ADD:
        return y + x;
    case AP_ELEM_MUL_SIGMOID:
        return y * ap_sigmoid(x);
    case AP_ELEM_ADD_GATED:
        return fmaf(gate, x, y);
    case AP_ELEM_GELU_MUL:
        return ap_gelu_tanh(y) * x;
    case AP_ELEM_AVERAGE:
        return (y + x) * a.scale;
    case AP_ELEM_MUL:
        return y * x;
    case AP_ELEM_SILU:
        return ap_silu(y);
    case AP_ELEM_GELU:
        return ap_gelu_tanh(y + x);
    case AP_ELEM_GELU_ERF: {
        double u = y + x;
        return (float)(0.5 * u * erfc(-u * 0.70710678118654752440));
    }
    case AP_ELEM_CLAMP:
        return x < a.lo ? a.lo : x > a.hi ? a.hi : x;
    }
    return 0;
}

/* A block has blockDim.y rows. */
template <ap_elem OP, bool VECTOR>
static __global__ void __launch_bounds__(ELEM_THREADS) elem_rows(ap_elem_args a)
{
    ap_grid_wait();
    int quads = (a.n + 3) / 4, at = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    int block = at / quads, i = at % quads * 4;
    if (block >= a.n_block) return;
    for (int t = (int)(blockIdx.y * blockDim.y + threadIdx.y); t < a.rows;
         t += (int)(gridDim.y * blockDim.y)) {
        float *y = a.y + t * a.ldy + block * a.y_block;
        const float *x = OP == AP_ELEM_SILU ? y : a.x + t * a.ldx + block * a.x_block;
        float4 v = ap_load4<VECTOR>(y, i, a.n), u = ap_load4<VECTOR>(x, i, a.n);
        float g = OP == AP_ELEM_ADD_GATED ? ap_sigmoid(a.gate[t]) : 0.0f;
        v = make_float4(elem_value<OP>(a, v.x, u.x, g), elem_value<OP>(a, v.y, u.y, g),
                        elem_value<OP>(a, v.z, u.z, g), elem_value<OP>(a, v.w, u.w, g));
        ap_store4<VECTOR>(y, i, a.n, v);
    }
}

template <ap_elem OP> static void elem_of(const ap_exec *x, const ap_elem_args *a)
{
    bool vector = a->n % 4 == 0 && a->ldy % 4 == 0 && a->ldx % 4 == 0 && ap_aligned16(a->y) &&
                  ap_aligned16(a->x) &&
                  (a->n_block == 1 || (a->y_block % 4 == 0 && a->x_block % 4 == 0));
    int64_t quads = (int64_t)ap_ceil_div(a->n, 4) * a->n_block;
    dim3 block(ELEM_THREADS);
    while (block.x > AP_WARP && block.x / 2 >= quads) block.x /= 2;
    block.y = ELEM_THREADS / block.x;
    dim3 grid(ap_ceil_div(quads, block.x), ap_grid_y(ap_ceil_div(a->rows, block.y)));
    if (vector)
        ap_launch(x, elem_rows<OP, true>, grid, block, 0, *a);
    else
        ap_launch(x, elem_rows<OP, false>, grid, block, 0, *a);
}

void ap_cuda_elem(const ap_exec *x, const ap_elem_args *a)
{
    if (a->rows <= 0 || a->n <= 0) return;
    switch (a->op) {
    case AP_ELEM_ADD:
        elem_of<AP_ELEM_ADD>(x, a);
        break;
    case AP_ELEM_MUL_SIGMOID:
        elem_of<AP_ELEM_MUL_SIGMOID>(x, a);
        break;
    case AP_ELEM_ADD_GATED:
        elem_of<AP_ELEM_ADD_GATED>(x, a);
        break;
    case AP_ELEM_GELU_MUL:
        elem_of<AP_ELEM_GELU_MUL>(x, a);
        break;
    case AP_ELEM_AVERAGE:
        elem_of<AP_ELEM_AVERAGE>(x, a);
        break;
    case AP_ELEM_MUL:
        elem_of<AP_ELEM_MUL>(x, a);
        break;
    case AP_ELEM_SILU:
        elem_of<AP_ELEM_SILU>(x, a);
        break;
    case AP_ELEM_GELU:
        elem_of<AP_ELEM_GELU>(x, a);
        break;
    case AP_ELEM_GELU_ERF:
        elem_of<AP_ELEM_GELU_ERF>(x, a);
        break;
    case AP_ELEM_CLAMP:
        elem_of<AP_ELEM_CLAMP>(x, a);
        break;
    }
}

/* ------------------------------------------------------------------ route */

#define ROUTE_WARPS 4
#define ROUTE_MAX   64 /* logits of a lane: experts / 32 */

/* A warp for a token. */
template <int N>
static __global__ void __launch_bounds__(ROUTE_WARPS *AP_WARP) route_rows(ap_route_args a)
{
    extern __shared__ float chosen[]; /* of each warp: w [n_used], i32 ids [n_used] */
    int warp = (int)threadIdx.x / AP_WARP, lane = (int)threadIdx.x % AP_WARP;
    int t = (int)(blockIdx.x * (blockDim.x / AP_WARP)) + warp;
    ap_grid_wait();
    if (t >= a.n_tok) return;
    float *w = chosen + (size_t)warp * 2 * a.n_used;
    int *ids = (int *)(w + a.n_used);
    ap_choose<N>(a.logits + (size_t)t * a.n_expert, a.n_expert, a.n_used, a.norm, ids, w);
    for (int j = lane; j < a.n_used; j += AP_WARP) {
        a.ids[(size_t)t * a.n_used + j] = ids[j];
        a.weights[(size_t)t * a.n_used + j] =
            a.per_expert_scale ? w[j] * a.per_expert_scale[ids[j]] : w[j];
    }
}

template <int N> static void route_of(const ap_exec *x, const ap_route_args *a)
{
    int warps = a->n_tok < ROUTE_WARPS ? a->n_tok : ROUTE_WARPS;
    size_t shared = (size_t)warps * (size_t)a->n_used * 2 * sizeof(float);
    dim3 grid(ap_ceil_div(a->n_tok, warps)), block((unsigned)warps * AP_WARP);
    ap_launch(x, route_rows<N>, grid, block, shared, *a);
}

void ap_cuda_route(const ap_exec *x, const ap_route_args *a)
{
    if (a->n_tok <= 0) return;
    if (a->n_used < 1 || a->n_used > a->n_expert || a->n_expert > ROUTE_MAX * AP_WARP) {
        ap_cuda_check(ap_cuda_of(x), cudaErrorInvalidValue, "route: so many experts");
        return;
    }
    if (a->n_expert <= 4 * AP_WARP)
        route_of<4>(x, a);
    else if (a->n_expert <= 8 * AP_WARP)
        route_of<8>(x, a);
    else if (a->n_expert <= 16 * AP_WARP)
        route_of<16>(x, a);
    else
        route_of<ROUTE_MAX>(x, a);
}
