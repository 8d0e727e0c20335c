/* conv.cu - causal depthwise convolution with carried state.
 *
 * A block has some channels of some tokens of one sequence. The first of a sequence's blocks also replaces
 * the state: it alone reads the old one. */
#include "kern/cuda/cuda.cuh"

#define THREADS 128
#define TOKENS  16 /* of a block */

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
        a.out[(int64_t)(s.begin + t) * a.n_channel + c] = ap_silu(acc);
    }
    if (first > 0) return;
    for (int i = 0; i < taps - 1; i++)
        state[(int64_t)i * a.n_channel + c] = row_at(a, s, state, s.n_tok + i - (taps - 1), c);
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
    if (a->n_tap == 4)
        ap_launch(x, conv<4>, grid, dim3(THREADS), 0, j);
    else
        ap_launch(x, conv<0>, grid, dim3(THREADS), 0, j);
}
