/* recur.cu - convolution and delta rule of sequences with one token each, as one kernel.
 *
 * A block has some value channels of one head of one sequence, as in delta.cu, and makes the convolution of what it
 * reads. What an earlier step has left, states and the convolution's last inputs, it asks for before it waits for the
 * kernel ahead: whatever has written them has ended (ap_grid_wait). The channels of a key head are read by all blocks
 * of its value heads; the last of those to have done so replaces their inputs. */
#include "kern/cuda/cluster.cuh"
#include "kern/cuda/decode.cuh"
#include "kern/cuda/delta_step.cuh"

extern "C" {
#include "kern/groups.h"
}

enum { TAPS = 4, HELPERS = 64 };

struct recur_job {
    ap_delta_args a;
    const float *x, *weight; /* of the convolution: f32 [T, C] ldx, [TAPS, C] */
    int64_t ldx;
    float *last; /* of sequence 0: f32 [TAPS - 1, C] */
    int channels, rows;
    const ap_seq *seq;
    unsigned *counter; /* [S, key heads] */
    uint8_t *ready;    /* room for the outputs as integers, 32 rows of a block; or NULL */
};

template <int KD> struct recur_room {
    ap_delta_ready<KD, 1> ready;
    float o[1][64], squares;
};

/* N channels side by side: weights and earlier inputs. */
template <typename T> struct window {
    T w[TAPS], last[TAPS - 1];
};

template <typename T>
static __device__ __forceinline__ window<T> load_window(const recur_job &j, const float *last,
                                                        int channel)
{
    window<T> v;
#pragma unroll
    for (int i = 0; i < TAPS; i++)
        v.w[i] = __ldg((const T *)(j.weight + (int64_t)i * j.channels + channel));
#pragma unroll
    for (int i = 0; i < TAPS - 1; i++)
        v.last[i] = __ldcg((const T *)(last + (int64_t)i * j.channels + channel));
    return v;
}

static __device__ __forceinline__ float convolved(float w0, float w1, float w2, float w3, float a,
                                                  float b, float c, float d)
{
    return ap_silu(fmaf(w3, d, fmaf(w2, c, fmaf(w1, b, fmaf(w0, a, 0.0f)))));
}

static __device__ __forceinline__ float conv_of(const window<float> &v, float x)
{
    return convolved(v.w[0], v.w[1], v.w[2], v.w[3], v.last[0], v.last[1], v.last[2], x);
}

static __device__ __forceinline__ float4 conv_of(const window<float4> &v, float4 x)
{
    return make_float4(convolved(v.w[0].x, v.w[1].x, v.w[2].x, v.w[3].x, v.last[0].x, v.last[1].x,
                                 v.last[2].x, x.x),
                       convolved(v.w[0].y, v.w[1].y, v.w[2].y, v.w[3].y, v.last[0].y, v.last[1].y,
                                 v.last[2].y, x.y),
                       convolved(v.w[0].z, v.w[1].z, v.w[2].z, v.w[3].z, v.last[0].z, v.last[1].z,
                                 v.last[2].z, x.z),
                       convolved(v.w[0].w, v.w[1].w, v.w[2].w, v.w[3].w, v.last[0].w, v.last[1].w,
                                 v.last[2].w, x.w));
}

/* The channel's inputs move on by one. */
template <typename T>
static __device__ __forceinline__ void move_on(const recur_job &j, float *last, int channel,
                                               const window<T> &v, T x)
{
    *(T *)(last + channel) = v.last[1];
    *(T *)(last + j.channels + channel) = v.last[2];
    *(T *)(last + 2 * (int64_t)j.channels + channel) = x;
}

/* One warp: q^ and k^ of the key head. */
template <int KD>
static __device__ __forceinline__ void make_keys(const recur_job &j, int seq, int key_head,
                                                 ap_delta_ready<KD, 1> *ready)
{
    int lane = (int)threadIdx.x % 32, Dk = j.a.k_dim, at = min(4 * lane, Dk - 4);
    int q = key_head * Dk + at, k = j.a.n_k_head * Dk + q;
    float *last = j.last + (size_t)j.seq[seq].state * j.a.state.block_floats;
    window<float4> wq = load_window<float4>(j, last, q), wk = load_window<float4>(j, last, k);
    ap_grid_wait();
    const float *row = j.x + j.seq[seq].begin * j.ldx;
    float4 xq = *(const float4 *)(row + q), xk = *(const float4 *)(row + k);
    float4 x[1] = {conv_of(wq, xq)}, y[1] = {conv_of(wk, xk)};
    if (4 * lane >= Dk) x[0] = y[0] = make_float4(0, 0, 0, 0);
    float kq = ap_delta_keys<1>(x, y, Dk, ready->q[0], ready->k[0], KD);
    unsigned before = 0;
    __threadfence(); /* what was read has been read */
    if (lane == 0) {
        ready->g[0].kq = kq;
        unsigned *counter = j.counter + seq * j.a.n_k_head + key_head;
        before = atomicAdd(counter, 1u);
        if (before + 1 == (unsigned)(AP_DELTA_SLICES * j.a.n_v_head / j.a.n_k_head)) *counter = 0;
    }
    before = __shfl_sync(0xffffffffu, before, 0);
    if (before + 1 != (unsigned)(AP_DELTA_SLICES * j.a.n_v_head / j.a.n_k_head)) return;
    if (4 * lane >= Dk) return;
    move_on(j, last, q, wq, xq);
    move_on(j, last, k, wk, xk);
}

/* One warp: values and z of rows [first, first + rows) of head h, and its gates. */
template <int KD>
static __device__ __forceinline__ void make_values(const recur_job &j, int seq, int h, int first,
                                                   int rows, ap_delta_ready<KD, 1> *ready)
{
    int lane = (int)threadIdx.x % 32, channel[2];
    float *last = j.last + (size_t)j.seq[seq].state * j.a.state.block_floats;
    window<float> w[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        channel[i] = 2 * j.a.n_k_head * j.a.k_dim + h * j.a.v_dim + first +
                     min(lane + 32 * i, max(rows - 1, 0));
        w[i] = load_window<float>(j, last, channel[i]);
    }
    ap_grid_wait();
    int64_t t = j.seq[seq].begin;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int r = lane + 32 * i;
        if (r >= rows) continue;
        float x = j.x[t * j.ldx + channel[i]];
        ready->z[0][r] = j.a.z[t * j.a.ldz + (int64_t)h * j.a.v_dim + first + r];
        ready->v[0][r] = conv_of(w[i], x);
        move_on(j, last, channel[i], w[i], x);
    }
}

/* Grid: x slices (a cluster), y value heads, z sequences. Threads: 4 for each row, in whole warps, then two warps that
 * prepare and one for the gates. */
template <int N>
static __global__ void __launch_bounds__(256 + HELPERS + 32, 2)
    recur_step(const __grid_constant__ recur_job j)
{
    constexpr int KD = 16 * N, CL = AP_DELTA_SLICES;
    __shared__ __align__(16) recur_room<KD> m;
    const ap_delta_args &a = j.a;
    int workers = (int)blockDim.x - HELPERS - 32, thread = (int)threadIdx.x, h = (int)blockIdx.y;
    int first = ap_cluster_rank<CL>() * j.rows, rows = max(min(j.rows, a.v_dim - first), 0);
    int row = thread / 4, part = thread % 4, key_head = ap_delta_key_head(a, h);
    bool mine = thread < workers && row < rows;
    float4 s[N], *state = NULL;
    if (thread < workers) {
        state = (float4 *)(ap_delta_state(a, j.seq[blockIdx.z], h) +
                           (size_t)(first + row) * (size_t)a.k_dim);
#pragma unroll
        for (int e = 0; e < N; e++) {
            s[e] = make_float4(0, 0, 0, 0);
            if (mine && 4 * (4 * e + part) < a.k_dim) s[e] = __ldcg(state + 4 * e + part);
        }
        ap_grid_wait();
    } else if (thread - workers < 32) {
        make_keys<KD>(j, (int)blockIdx.z, key_head, &m.ready);
    } else if (thread - workers < 64) {
        make_values<KD>(j, (int)blockIdx.z, h, first, rows, &m.ready);
    } else {
        ap_grid_wait();
        if (thread == workers + 64)
            ap_delta_make_gates(a, j.seq[blockIdx.z].begin, h, &m.ready.g[0]);
    }
    __syncthreads();
    if (thread < workers) ap_delta_steps<N>(s, &m.ready, 1, min(row, 63), part, m.o);
    __syncthreads();
    if (thread >= workers && thread < workers + 32) {
        float sum = 0;
        for (int r = thread - workers; r < rows; r += 32) sum = fmaf(m.o[0][r], m.o[0][r], sum);
        sum = ap_warp_sum(sum);
        if (thread == workers) m.squares = sum;
    }
    if (thread < workers)
#pragma unroll
        for (int e = 0; e < N; e++)
            if (mine && 4 * (4 * e + part) < a.k_dim) state[4 * e + part] = s[e];
    ap_cluster_sync<CL>();
    if (thread < rows) {
        float squares = 0;
        for (int c = 0; c < CL; c++) squares += ap_cluster_read<CL>(&m.squares, c);
        int64_t t = j.seq[blockIdx.z].begin;
        float y = ap_delta_gated(m.o[0][thread], squares, a, first + thread, m.ready.z[0][thread]);
        a.out[(t * a.n_v_head + h) * a.v_dim + first + thread] = y;
        if (j.ready) { /* the first warp */
            m.o[0][thread] = y;
            __syncwarp();
            float4 v = ((const float4 *)m.o[0])[thread & 7];
            ap_in_row row = ap_in_row_at(j.ready, a.n_v_head * a.v_dim);
            ap_put_inputs(row, (h * a.v_dim + first) / 4 + (thread & 7), thread < 8, v);
        }
    }
    ap_cluster_sync<CL>(); /* others read this block's sums */
}

template <int N> static void launch(const ap_exec *x, const recur_job &j, unsigned n_seq)
{
    unsigned threads = (unsigned)((j.rows * 4 + 31) / 32 * 32 + HELPERS + 32);
    ap_launch_cluster(x, ap_most_shared(x, recur_step<N>),
                      dim3(AP_DELTA_SLICES, (unsigned)j.a.n_v_head, n_seq), dim3(threads),
                      AP_DELTA_SLICES, 0, j);
}

static bool takes(const ap_exec *x, const ap_recur_args *r)
{
    const ap_conv_args *c = &r->conv;
    const ap_delta_args *a = &r->delta;
    const ap_batch *b = a->state.batch;
    return ap_cuda_of(x)->arch >= 90 && b->n_tok == b->n_seq && !a->kept.base && c->n_tap == TAPS &&
           a->state.offset % 4 == 0 && a->qkv == c->out && a->state.base == c->state.base &&
           a->k_dim % 4 == 0 && a->k_dim <= 128 && ap_delta_slice(a->v_dim) <= 64 &&
           c->n_channel % 4 == 0 && c->ldx % 4 == 0 && c->state.offset % 4 == 0 &&
           c->state.block_floats % 4 == 0 && (uintptr_t)c->x % 16 == 0 &&
           (uintptr_t)c->weight % 16 == 0 && (uintptr_t)c->state.base % 16 == 0 &&
           (int64_t)b->n_seq * a->n_k_head <= AP_CUDA_COUNTERS;
}

/* May blocks hand their outputs on as integers? */
static bool hands_on(const ap_exec *x, const ap_recur_args *r)
{
    const ap_delta_args *a = &r->delta;
    return r->w && a->n_tok == 1 && ap_in_integers(x, r->w) && a->v_dim == 32 * AP_DELTA_SLICES &&
           x->inputs && x->input_bytes >= ap_in_row_bytes(r->w->cols);
}

static void launch_any(const ap_exec *x, const recur_job &j, unsigned n_seq)
{
    if (j.a.k_dim <= 16)
        launch<1>(x, j, n_seq);
    else if (j.a.k_dim <= 32)
        launch<2>(x, j, n_seq);
    else if (j.a.k_dim <= 64)
        launch<4>(x, j, n_seq);
    else
        launch<8>(x, j, n_seq);
}

void ap_cuda_recur(const ap_exec *x, const ap_recur_args *r)
{
    if (!takes(x, r)) {
        ap_group_recur(x, r);
        return;
    }
    const ap_conv_args *c = &r->conv;
    const ap_batch *b = c->state.batch;
    uint8_t *ready = hands_on(x, r) ? (uint8_t *)x->inputs : NULL;
    recur_job j = {r->delta,
                   c->x,
                   c->weight,
                   c->ldx,
                   c->state.base + c->state.offset,
                   c->n_channel,
                   ap_delta_slice(r->delta.v_dim),
                   b->seq_dev,
                   ap_cuda_of(x)->counter,
                   ready};
    launch_any(x, j, (unsigned)b->n_seq);
    if (!r->w || (ready && ap_cuda_ready_one(x, r->w, ready, r->y))) return;
    ap_matmul_args m = {};
    m.x = r->delta.out;
    m.w = r->w;
    m.y = r->y;
    m.ldx = r->w->cols;
    m.ldy = r->w->rows;
    m.n_tok = r->delta.n_tok;
    m.accumulate = true;
    ap_cuda_matmul(x, &m);
}
