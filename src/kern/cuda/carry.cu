/* carry.cu - the row that a sequence carries from step to step (kern.h). */
#include "kern/cuda/cuda.cuh"

#define THREADS 256

struct carry_job {
    ap_carry_args a;
    const ap_seq *seq;
    const int32_t *seq_of;
};

static __device__ __forceinline__ float *carried(const carry_job &j, const ap_seq &s)
{
    return j.a.state.base + (size_t)s.state * j.a.state.block_floats + j.a.state.offset;
}

static __device__ __forceinline__ float *kept_row(const carry_job &j, const ap_seq &s, int i)
{
    return j.a.kept.base + (size_t)(s.keep + i) * j.a.kept.row_floats;
}

/* A block for each row. That of a sequence's first row hands over what is carried before it replaces it, value by
 * value. */
static __global__ void __launch_bounds__(THREADS) carry_rows(const carry_job j)
{
    ap_grid_wait();
    const int t = (int)blockIdx.x;
    const ap_seq s = j.seq[j.seq_of[t]];
    const float *x = j.a.x + (size_t)t * j.a.n;
    const float *last = j.a.x + (size_t)(s.begin + s.n_tok - 1) * j.a.n;
    float *out = j.a.out ? j.a.out + (size_t)t * j.a.n : NULL;
    float *state = carried(j, s), *kept = s.keep >= 0 ? kept_row(j, s, t - s.begin) : NULL;
    for (int i = (int)threadIdx.x; i < j.a.n; i += THREADS) {
        if (out) out[i] = t > s.begin ? x[i - j.a.n] : state[i];
        if (kept)
            kept[i] = x[i];
        else if (t == s.begin)
            state[i] = last[i];
    }
}

/* A block for each sequence. */
static __global__ void __launch_bounds__(THREADS) carry_state(const carry_job j)
{
    ap_grid_wait();
    const ap_seq s = j.seq[blockIdx.x];
    float *state = carried(j, s), *out = j.a.out + (size_t)blockIdx.x * j.a.n;
    for (int i = (int)threadIdx.x; i < j.a.n; i += THREADS) {
        if (j.a.what == AP_CARRY_LOOK)
            out[i] = state[i];
        else
            state[i] = kept_row(j, s, s.n_tok - 1)[i];
    }
}

void ap_cuda_carry(const ap_exec *x, const ap_carry_args *a)
{
    const ap_batch *b = a->state.batch;
    carry_job j = {*a, b->seq_dev, b->seq_of};
    if (a->what == AP_CARRY_ROWS)
        ap_launch(x, carry_rows, dim3((unsigned)b->n_tok), dim3(THREADS), 0, j);
    else
        ap_launch(x, carry_state, dim3((unsigned)b->n_seq), dim3(THREADS), 0, j);
}
