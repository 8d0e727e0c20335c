/* delta.cu - the gated delta rule: the slot, and the recurrent form, token by token.
 *
 * Value channels never interact, so a block owns some of them of one head of one sequence, with their rows
 * of the state in registers: 4 lanes a row. Two more warps prepare the next tokens meanwhile (gates in
 * double, q and k normalised). The gated norm needs whole heads: the blocks of a head are a cluster and hand
 * each other their sums of squares; without clusters a second kernel does the norm. */
#include "kern/cuda/cluster.cuh"
#include "kern/cuda/delta_step.cuh"

#define BLOCK   16 /* tokens that are prepared at once */
#define HELPERS 64 /* threads that prepare */

struct step_job {
    ap_delta_args a;
    const ap_seq *seq;
    int from, below; /* only sequences of [from, below) tokens */
    int rows;        /* of a block, a multiple of 4 */
};

template <int KD> struct step_room {
    ap_delta_ready<KD, BLOCK> ready[2];
    float o[BLOCK][64], d[BLOCK][64];
    float squares[2][BLOCK];
};

/* ------------------------------------------------------------------ preparing */

/* One warp: q^, k^ and their product. */
template <int KD>
static __device__ void prepare_keys(const ap_delta_args &a, int64_t t, int n, int key_head,
                                    ap_delta_ready<KD, BLOCK> *p)
{
    constexpr int each = (KD + 127) / 128; /* vectors of a lane */
    int lane = (int)threadIdx.x % 32, Dk = a.k_dim;
#pragma unroll 4
    for (int i = 0; i < n; i++) {
        const float *q = ap_delta_query(a, t + i, key_head), *k = q + (int64_t)a.n_k_head * Dk;
        float4 x[each], y[each];
#pragma unroll
        for (int e = 0; e < each; e++) {
            int at = lane + 32 * e;
            x[e] = ap_delta_load(q, at, Dk);
            y[e] = ap_delta_load(k, at, Dk);
        }
        float kq = ap_delta_keys<each>(x, y, Dk, p->q[i], p->k[i], KD);
        if (lane == 0) p->g[i].kq = kq;
    }
}

/* One warp: gates, values and z of rows [row, row + rows) of head h. */
template <int KD>
static __device__ void prepare_values(const ap_delta_args &a, int64_t t, int n, int h, int row,
                                      int rows, ap_delta_ready<KD, BLOCK> *p)
{
    int lane = (int)threadIdx.x % 32;
#pragma unroll 4
    for (int i = 0; i < n; i++)
        for (int r = lane; r < rows; r += 32) {
            p->v[i][r] = ap_delta_value(a, t + i, h)[row + r];
            p->z[i][r] = a.z[(t + i) * a.ldz + (int64_t)h * a.v_dim + row + r];
        }
    if (lane < n) ap_delta_make_gates(a, t + lane, h, &p->g[lane]);
}

/* ------------------------------------------------------------------ outputs */

/* Sums of squares of the block's rows, token by token. */
static __device__ void sum_squares(const float (*o)[64], int n, int rows, float *squares)
{
    int lane = (int)threadIdx.x % 32, warps = (int)blockDim.x / 32;
    for (int i = (int)threadIdx.x / 32; i < n; i += warps) {
        float sum = 0;
        for (int r = lane; r < rows; r += 32) sum = fmaf(o[i][r], o[i][r], sum);
        sum = ap_warp_sum(sum);
        if (lane == 0) squares[i] = sum;
    }
}

/* Rows [row, row + rows) of head h, tokens [t, t + n). */
template <int CL, int KD>
static __device__ void put_out(const ap_delta_args &a, const step_room<KD> *m, int which, int64_t t,
                               int n, int h, int row, int rows)
{
    for (int e = (int)threadIdx.x; e < n * rows; e += (int)blockDim.x) {
        int i = e / rows, r = e % rows;
        float y = m->o[i][r], squares = 0;
        if (CL > 1) {
            for (int c = 0; c < CL; c++) squares += ap_cluster_read<CL>(&m->squares[which][i], c);
            y = ap_delta_gated(y, squares, a, row + r, m->ready[which].z[i][r]);
        }
        a.out[((t + i) * a.n_v_head + h) * a.v_dim + row + r] = y;
    }
}

/* What tokens [t, t + n) of a sequence that keeps them do to rows [row, row + rows) of head h; what all rows and what
 * all value heads of a key head have in common, by the first of them. */
template <int KD>
static __device__ void keep_rows(const ap_delta_args &a, const ap_seq &s, const step_room<KD> *m,
                                 int which, int t, int n, int key_head, int h, int row, int rows)
{
    ap_delta_parts at = ap_delta_parts_of(a.n_k_head, a.n_v_head, a.k_dim, a.v_dim);
    int first = a.tiled ? key_head : key_head * (a.n_v_head / a.n_k_head);
    for (int i = 0; i < n; i++) {
        float *kept = ap_delta_kept(a, s, t + i);
        for (int r = (int)threadIdx.x; r < rows; r += (int)blockDim.x)
            kept[at.d + (size_t)h * a.v_dim + row + r] = m->d[i][r];
        if (row > 0) continue;
        if (threadIdx.x == 0) kept[at.decay + h] = m->ready[which].g[i].decay;
        if (threadIdx.x == 0) kept[at.less1 + h] = m->ready[which].g[i].less1;
        for (int c = (int)threadIdx.x; c < a.k_dim && h == first; c += (int)blockDim.x)
            kept[at.k + (size_t)key_head * a.k_dim + c] = m->ready[which].k[i][c];
    }
}

/* The norm, in place, where blocks could not do it: a warp a token and head. */
static __global__ void __launch_bounds__(256) delta_norm(const step_job j)
{
    const ap_delta_args &a = j.a;
    int lane = (int)threadIdx.x % 32, h = (int)blockIdx.y;
    ap_grid_wait();
    ap_seq s = j.seq[blockIdx.z];
    int64_t t = s.begin + (int64_t)(blockIdx.x * 8 + threadIdx.x / 32);
    if (t >= s.begin + s.n_tok || s.n_tok < j.from || s.n_tok >= j.below) return;
    float *o = a.out + (t * a.n_v_head + h) * a.v_dim, sum = 0;
    for (int i = lane; i < a.v_dim; i += 32) sum = fmaf(o[i], o[i], sum);
    sum = ap_warp_sum(sum);
    for (int i = lane; i < a.v_dim; i += 32)
        o[i] = ap_delta_gated(o[i], sum, a, i, a.z[t * a.ldz + (int64_t)h * a.v_dim + i]);
}

/* ------------------------------------------------------------------ the kernel */

/* N: vectors of the state that a thread has: k_dim <= 16 N. Grid: x slices, y value heads, z sequences.
 * Threads: 4 for each row, in whole warps, then the helpers. */
template <int N, int CL>
static __global__ void __launch_bounds__(256 + HELPERS) delta_steps(const step_job j)
{
    constexpr int KD = 16 * N;
    extern __shared__ __align__(16) uint8_t mem[];
    step_room<KD> *m = (step_room<KD> *)mem;
    const ap_delta_args &a = j.a;
    int workers = (int)blockDim.x - HELPERS, thread = (int)threadIdx.x;
    int h = (int)blockIdx.y, first = (int)(blockIdx.x % AP_DELTA_SLICES) * j.rows;
    int rows = max(min(j.rows, a.v_dim - first), 0), row = thread / 4, part = thread % 4;
    bool helper = thread >= workers, mine = !helper && row < rows;
    ap_grid_wait();
    const ap_seq seq = j.seq[blockIdx.z];
    if (seq.n_tok < j.from || seq.n_tok >= j.below) return;

    float4 s[N];
    float *state = ap_delta_state(a, seq, h) + (size_t)(first + row) * (size_t)a.k_dim;
    int dims = mine ? a.k_dim : 0;
#pragma unroll
    for (int e = 0; e < N; e++) s[e] = ap_delta_load(state, 4 * e + part, dims);
    int key_head = ap_delta_key_head(a, h);
    bool keep = ap_delta_kept(a, seq, 0) != NULL;
    for (int t = -BLOCK; t < seq.n_tok; t += BLOCK) {
        int n = min(BLOCK, seq.n_tok - t), which = (t / BLOCK) & 1;
        int next = t + BLOCK, ahead = min(BLOCK, seq.n_tok - next);
        if (!helper && t >= 0)
            ap_delta_steps<N>(s, &m->ready[which], n, min(row, 63), part, m->o, keep ? m->d : NULL);
        else if (helper && ahead > 0 && thread - workers < 32)
            prepare_keys<KD>(a, seq.begin + next, ahead, key_head, &m->ready[which ^ 1]);
        else if (helper && ahead > 0)
            prepare_values<KD>(a, seq.begin + next, ahead, h, first, rows, &m->ready[which ^ 1]);
        __syncthreads();
        if (t < 0) continue;
        if (CL > 1) {
            sum_squares(m->o, n, rows, m->squares[which]);
            ap_cluster_sync<CL>();
        }
        put_out<CL, KD>(a, m, which, seq.begin + t, n, h, first, rows);
        if (keep) keep_rows<KD>(a, seq, m, which, t, n, key_head, h, first, rows);
        if (ahead > 0) __syncthreads();
    }
#pragma unroll
    for (int e = 0; e < N && !keep; e++) ap_delta_store(state, 4 * e + part, dims, s[e]);
    if (CL > 1) ap_cluster_sync<CL>(); /* others read this block's sums */
}

/* ------------------------------------------------------------------ launches */

template <int N> static void launch(const ap_exec *x, const step_job &j, unsigned n_seq)
{
    dim3 grid(AP_DELTA_SLICES, (unsigned)j.a.n_v_head, n_seq);
    dim3 block((unsigned)((j.rows * 4 + 31) / 32 * 32 + HELPERS));
    if (ap_cuda_of(x)->arch >= 90)
        ap_launch_cluster(x, delta_steps<N, AP_DELTA_SLICES>, grid, block, AP_DELTA_SLICES,
                          sizeof(step_room<16 * N>), j);
    else
        ap_launch_cluster(x, delta_steps<N, 1>, grid, block, 1, sizeof(step_room<16 * N>), j);
}

/* Tokens of the longest sequence that has fewer than `below`. */
static int longest(const ap_batch *b, int below)
{
    int most = b->n_seq == b->n_tok ? 1 : 0;
    for (int i = 0; i < b->n_seq; i++)
        if (b->seq[i].n_tok < below && b->seq[i].n_tok > most) most = b->seq[i].n_tok;
    return most;
}

/* The recurrent form, for sequences of fewer than `below` tokens. */
static void recurrent(const ap_exec *x, const ap_delta_args *a, int below)
{
    const ap_batch *b = a->state.batch;
    unsigned S = (unsigned)b->n_seq;
    if (longest(b, below) == 0) return;
    step_job j = {*a, b->seq_dev, 1, below, ap_delta_slice(a->v_dim)};
    if (a->k_dim <= 16)
        launch<1>(x, j, S);
    else if (a->k_dim <= 32)
        launch<2>(x, j, S);
    else if (a->k_dim <= 64)
        launch<4>(x, j, S);
    else if (a->k_dim <= 128)
        launch<8>(x, j, S);
    else
        launch<16>(x, j, S);
}

/* The norm of all outputs. */
static void norms(const ap_exec *x, const ap_delta_args *a)
{
    const ap_batch *b = a->state.batch;
    step_job j = {*a, b->seq_dev, 1, INT_MAX, 0};
    dim3 grid((unsigned)((longest(b, INT_MAX) + 7) / 8), (unsigned)a->n_v_head, (unsigned)b->n_seq);
    ap_launch(x, delta_norm, grid, dim3(256), 0, j);
}

/* ------------------------------------------------------------------ the slot */

size_t ap_cuda_delta_scratch_bytes(const ap_exec *x, int n_tok, int n_k_head, int n_v_head,
                                   int k_dim, int v_dim)
{
    return ap_delta_chunked_scratch(x, n_tok, n_k_head, n_v_head, k_dim, v_dim);
}

void ap_cuda_delta(const ap_exec *x, const ap_delta_args *a)
{
    bool chunked = (a->form == AP_DELTA_CHUNKED || x->precision == APUS_PRECISION_FAST) &&
                   ap_delta_chunked_takes(x, a);
    recurrent(x, a, chunked ? AP_DELTA_MANY : INT_MAX);
    if (chunked) ap_delta_chunked(x, a);
    if (ap_cuda_of(x)->arch < 90) norms(x, a);
}
