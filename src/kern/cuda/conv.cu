/* conv.cu - causal depthwise convolution with carried state.
 *
 * A block has some channels of some tokens of one sequence. The first of a sequence's blocks also replaces
 * the state: it alone reads the old one; of a sequence that keeps rows each block keeps its own. With four taps a thread has four channels and keeps the last three rows:
 * memory is the limit, 8 bytes an output. */
#include "kern/cuda/cuda.cuh"

#define THREADS     128
#define TOKENS      16 /* of a block */
#define MANY_TOKENS 32 /* of four channels */

struct conv_job {
    ap_conv_args a;
    const ap_seq *seq;
    int blocks; /* of a sequence's tokens, at most */
};

/* Row t of the sequence, t >= -(n_tap - 1), channel c. */
static __device__ __forceinline__ float row_at(const ap_conv_args &a, const ap_seq &s,
                                               const float *state, int t, int c)
{
    return t < 0 ? state[(int64_t)(a.n_tap - 1 + t) * a.n_channel + c]
                 : a.x[(s.begin + t) * a.ldx + c];
}

/* Row t of a sequence that keeps rows, channel c; NULL: its states are replaced. */
static __device__ __forceinline__ float *kept_at(const ap_conv_args &a, const ap_seq &s, int t,
                                                 int c)
{
    if (!a.kept.base || s.keep < 0) return NULL;
    return a.kept.base + (size_t)(s.keep + t) * a.kept.row_floats + c;
}

/* Grid: x channels, y sequences, z blocks of tokens. */
template <int TAPS> static __global__ void __launch_bounds__(THREADS) conv(const conv_job j)
{
    const ap_conv_args &a = j.a;
    int c = (int)(blockIdx.x * THREADS + threadIdx.x), taps = TAPS ? TAPS : a.n_tap;
    float w[TAPS ? TAPS : 1] = {};
    if (TAPS && c < a.n_channel)
        for (int i = 0; i < TAPS; i++) w[i] = a.weight[(int64_t)i * a.n_channel + c];
    ap_grid_wait();
    ap_seq s = j.seq[blockIdx.y];
    int first = (int)blockIdx.z * TOKENS, end = min(first + TOKENS, s.n_tok);
    if (first >= s.n_tok || c >= a.n_channel) return;
    float *state = a.state.base + (size_t)s.state * a.state.block_floats + a.state.offset;
#pragma unroll 4
    for (int t = first; t < end; t++) {
        float acc = 0;
        for (int i = 0; i < taps; i++)
            acc = fmaf(TAPS ? w[i] : a.weight[(int64_t)i * a.n_channel + c],
                       row_at(a, s, state, t + i - (taps - 1), c), acc);
        a.out[(int64_t)(s.begin + t) * a.n_channel + c] = a.plain ? acc : ap_silu(acc);
        float *kept = kept_at(a, s, t, c);
        if (kept) *kept = a.x[(int64_t)(s.begin + t) * a.ldx + c];
    }
    if (first > 0 || kept_at(a, s, 0, 0)) return;
    for (int i = 0; i < taps - 1; i++)
        state[(int64_t)i * a.n_channel + c] = row_at(a, s, state, s.n_tok + i - (taps - 1), c);
}

/* Four channels of a row. */
struct four {
    float v[4];
};

static __device__ __forceinline__ four four_at(const float *p)
{
    float4 x = *(const float4 *)p;
    return {x.x, x.y, x.z, x.w};
}

/* sum of w x, and silu. QUICK: good to some 2^-20. */
template <bool QUICK>
static __device__ __forceinline__ float4 four_taps(const four *w, const four *x)
{
    float y[4];
#pragma unroll
    for (int c = 0; c < 4; c++) {
        float acc = 0;
#pragma unroll
        for (int i = 0; i < 4; i++) acc = fmaf(w[i].v[c], x[i].v[c], acc);
        if (QUICK)
            y[c] = acc < -80.0f ? 0.0f : __fdividef(acc, 1.0f + __expf(-acc));
        else
            y[c] = ap_silu(acc);
    }
    return make_float4(y[0], y[1], y[2], y[3]);
}

/* Grid: as conv, of a quarter of the channels. */
template <bool QUICK> static __global__ void __launch_bounds__(THREADS) conv_fours(const conv_job j)
{
    const ap_conv_args &a = j.a;
    int c = (int)(blockIdx.x * THREADS + threadIdx.x) * 4;
    four w[4] = {}, x[4];
    if (c < a.n_channel)
        for (int i = 0; i < 4; i++) w[i] = four_at(a.weight + (int64_t)i * a.n_channel + c);
    ap_grid_wait();
    ap_seq s = j.seq[blockIdx.y];
    int first = (int)blockIdx.z * MANY_TOKENS, end = min(first + MANY_TOKENS, s.n_tok);
    if (first >= s.n_tok || c >= a.n_channel) return;
    float *state = a.state.base + (size_t)s.state * a.state.block_floats + a.state.offset;
    const float *in = a.x + (int64_t)s.begin * a.ldx + c;
#pragma unroll
    for (int i = 0; i < 3; i++) {
        int t = first + i - 3;
        x[i] = four_at(t < 0 ? state + (int64_t)(3 + t) * a.n_channel + c : in + t * a.ldx);
    }
#pragma unroll 4
    for (int t = first; t < end; t++) {
        x[3] = four_at(in + t * a.ldx);
        *(float4 *)(a.out + (int64_t)(s.begin + t) * a.n_channel + c) = four_taps<QUICK>(w, x);
        float *kept = kept_at(a, s, t, c);
        if (kept) *(four *)kept = x[3];
#pragma unroll
        for (int i = 0; i < 3; i++) x[i] = x[i + 1];
    }
    if (first > 0 || kept_at(a, s, 0, 0)) return;
    four last[3];
#pragma unroll
    for (int i = 0; i < 3; i++) {
        int t = s.n_tok + i - 3;
        last[i] = four_at(t < 0 ? state + (int64_t)(3 + t) * a.n_channel + c : in + t * a.ldx);
    }
#pragma unroll
    for (int i = 0; i < 3; i++) *(four *)(state + (int64_t)i * a.n_channel + c) = last[i];
}

static bool in_fours(const ap_conv_args *a)
{
    uintptr_t at =
        (uintptr_t)a->x | (uintptr_t)a->weight | (uintptr_t)a->out | (uintptr_t)a->state.base;
    return a->n_tap == 4 && !a->plain && at % 16 == 0 && a->n_channel % 4 == 0 && a->ldx % 4 == 0 &&
           a->state.block_floats % 4 == 0 && a->state.offset % 4 == 0;
}

void ap_cuda_conv(const ap_exec *x, const ap_conv_args *a)
{
    const ap_batch *b = a->state.batch;
    int most = b->n_seq == b->n_tok ? 1 : 0;
    for (int i = 0; i < b->n_seq; i++)
        if (b->seq[i].n_tok > most) most = b->seq[i].n_tok;
    conv_job j = {*a, b->seq_dev, (most + TOKENS - 1) / TOKENS};
    dim3 grid((unsigned)((a->n_channel + THREADS - 1) / THREADS), (unsigned)b->n_seq,
              (unsigned)j.blocks);
    if (most > TOKENS && in_fours(a)) {
        dim3 fours((unsigned)(a->n_channel / 4 + THREADS - 1) / THREADS, (unsigned)b->n_seq,
                   (unsigned)(most + MANY_TOKENS - 1) / MANY_TOKENS);
        ap_launch(x, x->precision == APUS_PRECISION_FAST ? conv_fours<true> : conv_fours<false>,
                  fours, dim3(THREADS), 0, j);
        return;
    }
    if (a->n_tap == 4)
        ap_launch(x, conv<4>, grid, dim3(THREADS), 0, j);
    else
        ap_launch(x, conv<0>, grid, dim3(THREADS), 0, j);
}
