/* commit.cu - recurrent states after rows that were kept (kern.h): what those rows would have done to them.
 *
 * Nothing is summed, so every value of a state is a thread's own: it is read once, taken through all rows, and
 * written. Blocks of the last slice of the grid move the convolution's rows on instead. */
#include "kern/cuda/delta_step.cuh"

#define THREADS 256

struct commit_job {
    ap_commit_args a;
    ap_delta_parts at;
    const ap_seq *seq;
    int channels;
};

static __device__ __forceinline__ const float *kept_row(const commit_job &j, const ap_seq &s,
                                                        int layer, int i)
{
    return j.a.kept + (size_t)layer * j.a.layer_floats + (size_t)(s.keep + i) * j.a.row_floats;
}

static __device__ __forceinline__ float *state_of(const ap_recur_at &at, const ap_seq &s,
                                                  size_t behind)
{
    return at.base + (size_t)s.state * at.block_floats + at.offset + behind;
}

/* Quads of the rows of head h. */
static __device__ void replay(const commit_job &j, const ap_seq &s, int layer, int h)
{
    const ap_commit_args &a = j.a;
    int key_head = a.tiled ? h % a.n_k_head : h / (a.n_v_head / a.n_k_head);
    int quads = (a.k_dim + 3) / 4;
    float *state =
        state_of(a.delta, s, (size_t)layer * a.state_floats) + (size_t)h * a.v_dim * a.k_dim;
    for (int e = (int)threadIdx.x; e < a.v_dim * quads; e += THREADS) {
        int r = e / quads, q = e % quads;
        float *row = state + (size_t)r * a.k_dim;
        float4 x = ap_delta_load(row, q, a.k_dim);
        for (int i = 0; i < s.n_tok; i++) {
            const float *kept = kept_row(j, s, layer, i);
            float4 k = ap_delta_load(kept + j.at.k + (size_t)key_head * a.k_dim, q, a.k_dim);
            float d = kept[j.at.d + (size_t)h * a.v_dim + r];
            ap_delta_gates g = {kept[j.at.decay + h], kept[j.at.less1 + h], 0, 0};
            x.x = ap_delta_grow(x.x, k.x, d, g);
            x.y = ap_delta_grow(x.y, k.y, d, g);
            x.z = ap_delta_grow(x.z, k.z, d, g);
            x.w = ap_delta_grow(x.w, k.w, d, g);
        }
        ap_delta_store(row, q, a.k_dim, x);
    }
}

/* The last n_tap - 1 rows of [state; x], channel by channel; a row is read before it is overwritten. */
static __device__ void carry(const commit_job &j, const ap_seq &s, int layer)
{
    int old = j.a.n_tap - 1;
    float *state = state_of(j.a.conv, s, (size_t)layer * j.a.state_floats);
    for (int c = (int)threadIdx.x; c < j.channels; c += THREADS)
        for (int i = 0; i < old; i++) {
            int from = i + s.n_tok;
            state[(size_t)i * j.channels + c] = from < old ? state[(size_t)from * j.channels + c]
                                                           : kept_row(j, s, layer, from - old)[c];
        }
}

/* Grid: x value heads and one more, y layers, z sequences. */
static __global__ void __launch_bounds__(THREADS) commit(const commit_job j)
{
    ap_grid_wait();
    const ap_seq s = j.seq[blockIdx.z];
    if ((int)blockIdx.x < j.a.n_v_head)
        replay(j, s, (int)blockIdx.y, (int)blockIdx.x);
    else
        carry(j, s, (int)blockIdx.y);
}

void ap_cuda_commit(const ap_exec *x, const ap_commit_args *a)
{
    const ap_batch *b = a->delta.batch;
    commit_job j = {*a, ap_delta_parts_of(a->n_k_head, a->n_v_head, a->k_dim, a->v_dim), b->seq_dev,
                    2 * a->n_k_head * a->k_dim + a->n_v_head * a->v_dim};
    dim3 grid((unsigned)(a->n_v_head + 1), (unsigned)a->n_layer, (unsigned)b->n_seq);
    ap_launch(x, commit, grid, dim3(THREADS), 0, j);
}
