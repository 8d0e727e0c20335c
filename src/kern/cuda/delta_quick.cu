/* delta_quick.cu - the delta rule in chunks of 64 tokens with precision FAST: products of bf16 with f32 sums.
 *
 * As delta_chunk.cu, arranged so that little has to go token after token. With Q, K the normed rows, G the running sum
 * of g in the chunk, D_ij = e^(G_i - G_j), and
 *   T = (I + A)^-1,  A = strict lower part of beta_i (k_i . k_j) D_ij,  P = lower part of (q_i . k_j) D_ij
 * three kernels go over some chunks of each sequence:
 *   before  W = T (beta e^G K), U = T (beta V), P        chunks and key heads side by side
 *   state   X = U - W S,  S' = e^(G_C) S + K^T (e^(G_C - G) X)        chunk after chunk, S in f32 in registers
 *   after   O = e^G Q S + P X, normed and gated          chunks and value heads side by side
 * State reads 36 KB of a chunk and does 0.5 M multiply-adds for 32 value channels: what counts there is latency, two
 * barriers a chunk. Exponentials only of differences <= 0; G in double. Tokens that a last chunk lacks are zeros. */
#include "kern/cuda/delta.cuh"
#include "kern/cuda/mma.cuh"

#define CHUNK   64
#define THREADS 256
#define SLICE   32 /* value channels of a block of `state` */
#define SLOTS   32 /* chunks of a pass */
#define HEADS   2  /* value heads of a key head that `before` has at a time */
#define T_LD    72 /* bf16 from row to row of T and P in shared memory */
#define X_LD    40 /* of a slice of X */
#define F_LD    68 /* floats from row to row */

template <int D> struct key_part {
    uint16_t q[CHUNK][D], k[CHUNK][D];
};

template <int D> struct head_part {
    uint16_t w[CHUNK][D], u[CHUNK][D], x[CHUNK][D], s[D][D]; /* s: [value][key], before the chunk */
    uint16_t p[CHUNK][CHUNK];
    float decay[CHUNK], rest[CHUNK]; /* e^G, e^(G_C - G) */
    float all, less1, unused[62];    /* e^(G_C), e^(G_C) - 1 */
};

struct quick_job {
    ap_delta_args a;
    const ap_seq *seq; /* the first of the pass */
    int first, n;      /* chunks of each sequence */
    void *keys;        /* key_part [sequences][n][Hk] */
    void *heads;       /* head_part [sequences][n][Hv] */
    bool norm;
};

/* Where a block's chunk is, n of its tokens from row t on; false: there is none. */
static __device__ __forceinline__ bool find_chunk(const quick_job &j, int64_t *t, int *n)
{
    const ap_seq seq = j.seq[blockIdx.z];
    int first = (j.first + (int)blockIdx.x) * CHUNK;
    *n = min(CHUNK, seq.n_tok - first);
    *t = seq.begin + first;
    return seq.n_tok >= AP_DELTA_MANY && *n > 0;
}

static __device__ __forceinline__ size_t slot_of(const quick_job &j, int chunk)
{
    return (size_t)blockIdx.z * (size_t)j.n + (size_t)chunk;
}

/* Addresses for ap_load_4, as in delta_chunk.cu. */
static __device__ __forceinline__ const uint16_t *row_major(const uint16_t *p, int ld)
{
    int lane = (int)threadIdx.x % 32;
    return p + lane % 16 * ld + lane / 16 * 8;
}

static __device__ __forceinline__ const uint16_t *col_major(const uint16_t *p, int ld)
{
    int lane = (int)threadIdx.x % 32;
    return p + (lane / 16 * 8 + lane % 8) * ld + lane / 8 % 2 * 8;
}

static __device__ __forceinline__ void mma(float d[4], const uint32_t a[4], const uint32_t *b)
{
    ap_mma_bf16(d, a[0], a[1], a[2], a[3], b[0], b[1]);
}

/* rows x width bf16 to rows of ld in shared memory. */
template <int width, int ld>
static __device__ __forceinline__ void copy_rows(uint16_t *to, const uint16_t *from, int rows)
{
    constexpr int vectors = width / 8;
    for (int i = (int)threadIdx.x; i < rows * vectors; i += THREADS)
        ap_copy16(to + i / vectors * ld + i % vectors * 8, from + (size_t)i * 8);
}

/* ------------------------------------------------------------------ before */

template <int D> struct before_room {
    union {
        uint16_t q[CHUNK][D + 8];
        uint16_t t[CHUNK][T_LD];
    };
    uint16_t k[CHUNK][D + 8];
    union {
        float of_keys[2][CHUNK][F_LD];    /* k . k, q . k; then */
        uint16_t right[CHUNK][2 * D + 8]; /* beta e^G K | beta V; then W | U */
    };
    float a[HEADS][CHUNK][F_LD];                        /* A, then T */
    double g[HEADS][CHUNK];                             /* sums of log decays */
    float beta[HEADS][CHUNK], grown_beta[HEADS][CHUNK]; /* beta, beta e^G */
};

/* q^ and k^ of the chunk: to shared memory and to *out. A warp a token. */
template <int D>
static __device__ void load_keys(const ap_delta_args &a, int64_t t, int n, int key_head,
                                 before_room<D> *m, key_part<D> *out)
{
    int lane = (int)threadIdx.x % 32;
    float scale = (float)(1.0 / sqrt((double)D));
#pragma unroll
    for (int i = (int)threadIdx.x / 32; i < CHUNK; i += THREADS / 32) {
        float4 x[2] = {make_float4(0, 0, 0, 0), make_float4(0, 0, 0, 0)}; /* q, k */
        if (i < n && 4 * lane < D) {
            const float4 *q = (const float4 *)ap_delta_query(a, t + i, key_head);
            x[0] = q[lane];
            x[1] = q[a.n_k_head * D / 4 + lane];
        }
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float4 y = x[e];
            float r = rsqrtf(ap_warp_sum(y.x * y.x + y.y * y.y + (y.z * y.z + y.w * y.w)) + 1e-6f);
            if (e == 0) r *= scale;
            if (4 * lane >= D) continue;
            uint2 v = make_uint2(ap_bf16_pair(y.x * r, y.y * r), ap_bf16_pair(y.z * r, y.w * r));
            *(uint2 *)&(e == 0 ? m->q : m->k)[i][4 * lane] = v;
            *(uint2 *)&(e == 0 ? out->q : out->k)[i][4 * lane] = v;
        }
    }
}

/* k . k and q . k, as far as the triangle goes. A warp: 16 rows and 32 columns of both. */
template <int D> static __device__ void key_products(before_room<D> *m)
{
    constexpr int ld = D + 8;
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, row = warp / 2 * 16,
        col = warp % 2 * 32;
    if (col > row + 15) return;
    float acc[2][4][4] = {};
#pragma unroll
    for (int d = 0; d < D; d += 16) {
        uint32_t x[2][4];
        ap_load_4(x[0], row_major(&m->k[row][d], ld));
        ap_load_4(x[1], row_major(&m->q[row][d], ld));
#pragma unroll
        for (int n = 0; n < 4; n += 2) {
            uint32_t b[4];
            ap_load_4(b, col_major(&m->k[col + 8 * n][d], ld));
#pragma unroll
            for (int e = 0; e < 2; e++) {
                mma(acc[0][n + e], x[0], b + 2 * e);
                mma(acc[1][n + e], x[1], b + 2 * e);
            }
        }
    }
    int r = row + lane / 4, c = col + lane % 4 * 2;
#pragma unroll
    for (int e = 0; e < 2; e++)
#pragma unroll
        for (int n = 0; n < 4; n++) {
            *(float2 *)&m->of_keys[e][r][c + 8 * n] = make_float2(acc[e][n][0], acc[e][n][1]);
            *(float2 *)&m->of_keys[e][r + 8][c + 8 * n] = make_float2(acc[e][n][2], acc[e][n][3]);
        }
}

/* A thread's gate: log decay and beta of a token and head; two warps a head. */
struct gate {
    double g;
    float beta;
};

static __device__ __forceinline__ gate load_gate(const ap_delta_args &a, int64_t t, int n,
                                                 const int *h, int heads)
{
    int i = (int)threadIdx.x % CHUNK, e = (int)threadIdx.x / CHUNK;
    gate v = {0, 0};
    if (e < heads && i < n) v.g = ap_delta_gate(a, t + i, h[e > 0 ? 1 : 0], &v.beta);
    return v;
}

/* Sums of log decays, and what else follows from gates. */
template <int D>
static __device__ void add_gates(gate v, int heads, before_room<D> *m, head_part<D> *const *out)
{
    int i = (int)threadIdx.x % CHUNK, e = (int)threadIdx.x / CHUNK, lane = i % 32;
    double sum = v.g;
    if (e < heads) {
        m->beta[e][i] = v.beta;
        for (int s = 1; s < 32; s *= 2) {
            double before = __shfl_up_sync(0xffffffffu, sum, s);
            if (lane >= s) sum += before;
        }
        m->g[e][i] = sum;
    }
    __syncthreads();
    double half = e < heads ? m->g[e][31] : 0, all = e < heads ? half + m->g[e][CHUNK - 1] : 0;
    __syncthreads();
    if (e >= heads) return;
    if (i >= 32) m->g[e][i] = sum = half + sum;
    m->grown_beta[e][i] = v.beta * expf((float)sum);
    out[e]->decay[i] = expf((float)sum);
    out[e]->rest[i] = expf((float)(all - sum));
    if (i > 0) return;
    out[e]->all = expf((float)all);
    out[e]->less1 = expm1f((float)all);
}

/* A to shared memory, P to *out. */
template <int D> static __device__ void masks(before_room<D> *m, int e, head_part<D> *out)
{
    for (int at = (int)threadIdx.x; at < CHUNK * CHUNK / 2; at += THREADS) {
        int i = at / (CHUNK / 2), j = at % (CHUNK / 2) * 2;
        float p[2] = {0, 0}, s[2] = {0, 0};
        if (j <= i)
            for (int k = 0; k < 2; k++) {
                float d = j + k <= i ? __expf((float)(m->g[e][i] - m->g[e][j + k])) : 0.0f;
                p[k] = j + k <= i ? m->of_keys[1][i][j + k] * d : 0.0f;
                s[k] = j + k < i ? m->beta[e][i] * m->of_keys[0][i][j + k] * d : 0.0f;
            }
        *(float2 *)&m->a[e][i][j] = make_float2(s[0], s[1]);
        *(uint32_t *)&out->p[i][j] = ap_bf16_pair(p[0], p[1]);
    }
}

/* T of A, in place, by substitution: a thread a column. */
template <int D> static __device__ void invert(before_room<D> *m, int heads)
{
    int c = (int)threadIdx.x % CHUNK, e = (int)threadIdx.x / CHUNK;
    float t[CHUNK];
    if (e < heads) {
        const float(*a)[F_LD] = m->a[e];
#pragma unroll
        for (int i = 0; i < CHUNK; i++) {
            float s[4] = {i == c ? 1.0f : 0.0f, 0, 0, 0};
#pragma unroll
            for (int j = 0; j < i; j += 4) {
                float4 x = *(const float4 *)&a[i][j]; /* zeros from the diagonal on */
                s[0] = fmaf(-x.x, t[j], s[0]);
                if (j + 1 < i) s[1] = fmaf(-x.y, t[j + 1], s[1]);
                if (j + 2 < i) s[2] = fmaf(-x.z, t[j + 2], s[2]);
                if (j + 3 < i) s[3] = fmaf(-x.w, t[j + 3], s[3]);
            }
            t[i] = (s[0] + s[1]) + (s[2] + s[3]);
        }
    }
    __syncthreads();
    if (e < heads)
#pragma unroll
        for (int i = 0; i < CHUNK; i++) m->a[e][i][c] = t[i];
    __syncthreads();
}

/* T in bf16, beta e^G K and beta V of head h. */
template <int D>
static __device__ void load_right(const ap_delta_args &a, int64_t t, int n, int h, int e,
                                  before_room<D> *m)
{
    constexpr int N = CHUNK * D / 4 / THREADS; /* vectors of a thread */
    float4 v[N];
#pragma unroll
    for (int k = 0; k < N; k++) {
        int at = (int)threadIdx.x + k * THREADS, i = at / (D / 4), d = at % (D / 4) * 4;
        v[k] = i < n ? *(const float4 *)(ap_delta_value(a, t + i, h) + d) : make_float4(0, 0, 0, 0);
    }
#pragma unroll
    for (int k = 0; k < CHUNK * CHUNK / 4 / THREADS; k++) {
        int at = (int)threadIdx.x + k * THREADS, i = at / (CHUNK / 4), j = at % (CHUNK / 4) * 4;
        float4 x = *(const float4 *)&m->a[e][i][j];
        *(uint2 *)&m->t[i][j] = make_uint2(ap_bf16_pair(x.x, x.y), ap_bf16_pair(x.z, x.w));
    }
#pragma unroll
    for (int k = 0; k < N; k++) {
        int at = (int)threadIdx.x + k * THREADS, i = at / (D / 4), d = at % (D / 4) * 4;
        float beta = m->beta[e][i], by = m->grown_beta[e][i];
        uint2 x = *(const uint2 *)&m->k[i][d];
        *(uint2 *)&m->right[i][d] =
            make_uint2(ap_bf16_pair(ap_bf16_low(x.x) * by, ap_bf16_high(x.x) * by),
                       ap_bf16_pair(ap_bf16_low(x.y) * by, ap_bf16_high(x.y) * by));
        *(uint2 *)&m->right[i][D + d] = make_uint2(ap_bf16_pair(v[k].x * beta, v[k].y * beta),
                                                   ap_bf16_pair(v[k].z * beta, v[k].w * beta));
    }
}

/* W | U = T right, in its place, then to *out. A warp: 16 rows of one of the two. */
template <int D> static __device__ void solve(before_room<D> *m, head_part<D> *out)
{
    constexpr int ld = 2 * D + 8;
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, row = warp / 2 * 16,
        col = warp % 2 * D;
    float acc[D / 8][4] = {};
    for (int k = 0; k < row + 16; k += 16) {
        uint32_t x[4];
        ap_load_4(x, row_major(&m->t[row][k], T_LD));
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
            uint32_t b[4];
            ap_load_4t(b, row_major(&m->right[k][col + 8 * n], ld));
            mma(acc[n], x, b);
            mma(acc[n + 1], x, b + 2);
        }
    }
    __syncthreads(); /* all have read */
    int r = row + lane / 4, c = col + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
        *(uint32_t *)&m->right[r][c + 8 * n] = ap_bf16_pair(acc[n][0], acc[n][1]);
        *(uint32_t *)&m->right[r + 8][c + 8 * n] = ap_bf16_pair(acc[n][2], acc[n][3]);
    }
    __syncthreads();
    for (int at = (int)threadIdx.x; at < CHUNK * D / 4; at += THREADS) {
        int i = at / (D / 4), v = at % (D / 4) * 8;
        uint16_t *to = v < D ? &out->w[i][v] : &out->u[i][v - D];
        *(uint4 *)to = *(const uint4 *)&m->right[i][v];
    }
}

/* Grid: x chunks of a sequence, y key heads, z sequences. */
template <int D>
static __global__ void __launch_bounds__(THREADS, 2) delta_before(const quick_job j)
{
    extern __shared__ __align__(16) uint8_t mem[];
    before_room<D> *m = (before_room<D> *)mem;
    const ap_delta_args &a = j.a;
    int key = (int)blockIdx.y, share = a.n_v_head / a.n_k_head, n;
    int64_t t;
    ap_grid_wait();
    if (!find_chunk(j, &t, &n)) return;
    size_t slot = slot_of(j, (int)blockIdx.x);
    for (int from = 0; from < share; from += HEADS) {
        int heads = min(HEADS, share - from), h[HEADS];
        head_part<D> *out[HEADS];
        for (int e = 0; e < HEADS; e++) {
            int i = min(from + e, share - 1);
            h[e] = a.tiled ? key + i * a.n_k_head : key * share + i;
            out[e] = (head_part<D> *)j.heads + slot * (size_t)a.n_v_head + (size_t)h[e];
        }
        if (from > 0) __syncthreads(); /* T and W | U were in the place of keys */
        gate v = load_gate(a, t, n, h, heads);
        load_keys<D>(a, t, n, key, m,
                     (key_part<D> *)j.keys + slot * (size_t)a.n_k_head + (size_t)key);
        add_gates<D>(v, heads, m, out);
        key_products<D>(m);
        __syncthreads();
        for (int e = 0; e < heads; e++) masks<D>(m, e, out[e]);
        __syncthreads();
        invert<D>(m, heads);
        for (int e = 0; e < heads; e++) {
            load_right<D>(a, t, n, h[e], e, m);
            __syncthreads();
            solve<D>(m, out[e]);
            __syncthreads();
        }
    }
}

/* ------------------------------------------------------------------ state */

template <int D> struct state_room {
    uint16_t w[2][CHUNK][D + 8], k[2][CHUNK][D + 8]; /* [chunk % 2] */
    uint16_t s[SLICE][D + 8];
    uint16_t grown[CHUNK][X_LD]; /* e^(G_C - G) X */
};

/* The state of a warp: channels 16 (warp % 2) + r and + 8, key dims D / 4 (warp / 2) + 8n + 2c and the next. */
template <int D> struct state_tile {
    float x[D / 32][4];
};

template <int D> static __device__ __forceinline__ float2 *state_at(float *state, int n, int h)
{
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    return (float2 *)(state + (warp % 2 * 16 + lane / 4 + 8 * h) * D + warp / 2 * (D / 4) + 8 * n +
                      lane % 4 * 2);
}

template <int D>
static __device__ __forceinline__ void put_state(state_room<D> *m, const state_tile<D> &s)
{
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    int row = warp % 2 * 16 + lane / 4, col = warp / 2 * (D / 4) + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < D / 32; n++)
#pragma unroll
        for (int h = 0; h < 2; h++)
            *(uint32_t *)&m->s[row + 8 * h][col + 8 * n] =
                ap_bf16_pair(s.x[n][2 * h], s.x[n][2 * h + 1]);
}

/* d = W S for 16 tokens and 16 channels of the warp. */
template <int D>
static __device__ __forceinline__ void meet_state(const state_room<D> *m, int which, int row,
                                                  int col, float d[2][4])
{
    constexpr int ld = D + 8;
#pragma unroll
    for (int k = 0; k < D; k += 16) {
        uint32_t a[4], b[4];
        ap_load_4(a, row_major(&m->w[which][row][k], ld));
        ap_load_4(b, col_major(&m->s[col][k], ld));
        mma(d[0], a, b);
        mma(d[1], a, b + 2);
    }
}

/* S <- e^(G_C) S + K^T X', transposed. */
template <int D>
static __device__ __forceinline__ void advance(const state_room<D> *m, int which, float all,
                                               float less1, state_tile<D> *s)
{
    constexpr int ld = D + 8;
    int warp = (int)threadIdx.x / 32, row = warp % 2 * 16, col = warp / 2 * (D / 4);
    float d[D / 32][4] = {};
#pragma unroll
    for (int k = 0; k < CHUNK; k += 16) {
        uint32_t a[4];
        ap_load_4t(a, col_major(&m->grown[k][row], X_LD));
#pragma unroll
        for (int n = 0; n < D / 32; n += 2) {
            uint32_t b[4];
            ap_load_4t(b, row_major(&m->k[which][k][col + 8 * n], ld));
            mma(d[n], a, b);
            mma(d[n + 1], a, b + 2);
        }
    }
#pragma unroll
    for (int n = 0; n < D / 32; n++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            s->x[n][e] = all >= 0.5f ? s->x[n][e] + fmaf(less1, s->x[n][e], d[n][e])
                                     : fmaf(all, s->x[n][e], d[n][e]);
}

/* What a lane needs of a chunk beside matrices: U of its 16 x 16, gates. */
struct ahead {
    uint32_t u[2][2]; /* [half of columns][rows r, r + 8] */
    float rest[2], all, less1;
};

template <int D>
static __device__ __forceinline__ ahead look_ahead(const head_part<D> *p, int row, int channel)
{
    int lane = (int)threadIdx.x % 32, r = row + lane / 4, c = channel + lane % 4 * 2;
    ahead v;
#pragma unroll
    for (int h = 0; h < 2; h++) {
#pragma unroll
        for (int n = 0; n < 2; n++) v.u[n][h] = *(const uint32_t *)&p->u[r + 8 * h][c + 8 * n];
        v.rest[h] = p->rest[r + 8 * h];
    }
    v.all = p->all;
    v.less1 = p->less1;
    return v;
}

template <int D>
static __device__ __forceinline__ void copy_chunk(const key_part<D> *key, const head_part<D> *head,
                                                  int which, state_room<D> *m)
{
    copy_rows<D, D + 8>(&m->w[which][0][0], &head->w[0][0], CHUNK);
    copy_rows<D, D + 8>(&m->k[which][0][0], &key->k[0][0], CHUNK);
    ap_copies_commit();
}

/* The slice of S as it is in shared memory. */
template <int D>
static __device__ __forceinline__ void hand_on_state(const state_room<D> *m, head_part<D> *p,
                                                     int slice)
{
    for (int at = (int)threadIdx.x; at < SLICE * D / 8; at += THREADS) {
        int r = at / (D / 8), c = at % (D / 8) * 8;
        *(uint4 *)&p->s[slice + r][c] = *(const uint4 *)&m->s[r][c];
    }
}

/* Grid: x slices, y value heads, z sequences. */
template <int D> static __global__ void __launch_bounds__(THREADS) delta_state(const quick_job j)
{
    extern __shared__ __align__(16) uint8_t mem[];
    state_room<D> *m = (state_room<D> *)mem;
    const ap_delta_args &a = j.a;
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, h = (int)blockIdx.y,
        slice = (int)blockIdx.x * SLICE, row = warp / 2 * 16, col = warp % 2 * 16;
    ap_grid_wait();
    const ap_seq seq = j.seq[blockIdx.z];
    int chunks = min((seq.n_tok + CHUNK - 1) / CHUNK - j.first, j.n);
    if (seq.n_tok < AP_DELTA_MANY || chunks <= 0) return;
    const key_part<D> *key = (const key_part<D> *)j.keys + slot_of(j, 0) * (size_t)a.n_k_head +
                             (size_t)ap_delta_key_head(a, h);
    head_part<D> *head = (head_part<D> *)j.heads + slot_of(j, 0) * (size_t)a.n_v_head + (size_t)h;
    copy_chunk<D>(key, head, 0, m);
    ahead next = look_ahead<D>(head, row, slice + col);
    float *state = ap_delta_state(a, seq, h) + (size_t)slice * D;
    state_tile<D> s;
#pragma unroll
    for (int n = 0; n < D / 32; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float2 x = *state_at<D>(state, n, e);
            s.x[n][2 * e] = x.x, s.x[n][2 * e + 1] = x.y;
        }
    put_state<D>(m, s);
#pragma unroll 1
    for (int i = 0; i < chunks; i++) {
        int which = i & 1;
        head_part<D> *here = head;
        ahead now = next;
        ap_copies_wait<0>();
        __syncthreads(); /* the chunk and S are there; nobody is in the chunk before any more */
        if (i + 1 < chunks) {
            key += a.n_k_head;
            head += a.n_v_head;
            copy_chunk<D>(key, head, which ^ 1, m);
            next = look_ahead<D>(head, row, slice + col);
        }
        hand_on_state<D>(m, here, slice);
        float d[2][4] = {};
        meet_state<D>(m, which, row, col, d);
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                float x0 = ap_bf16_low(now.u[n][e]) - d[n][2 * e],
                      x1 = ap_bf16_high(now.u[n][e]) - d[n][2 * e + 1];
                int r = row + lane / 4 + 8 * e, c = col + 8 * n + lane % 4 * 2;
                *(uint32_t *)&here->x[r][slice + c] = ap_bf16_pair(x0, x1);
                *(uint32_t *)&m->grown[r][c] = ap_bf16_pair(x0 * now.rest[e], x1 * now.rest[e]);
            }
        __syncthreads(); /* X is there, S has been read */
        advance<D>(m, which, now.all, now.less1, &s);
        put_state<D>(m, s);
    }
#pragma unroll
    for (int n = 0; n < D / 32; n++)
#pragma unroll
        for (int e = 0; e < 2; e++)
            *state_at<D>(state, n, e) = make_float2(s.x[n][2 * e], s.x[n][2 * e + 1]);
}

/* ------------------------------------------------------------------ after */

template <int D> struct after_room {
    uint16_t q[CHUNK][D + 8], s[D][D + 8], p[CHUNK][T_LD], x[CHUNK][D + 8];
    float z[CHUNK][D + 4];
    float squares[2][CHUNK]; /* of the two halves of channels */
};

/* Outputs of 16 tokens and half the channels, a warp. */
template <int D>
static __device__ __forceinline__ void outputs(const after_room<D> *m, const float *decay, int row,
                                               int col, float o[D / 16][4])
{
    constexpr int ld = D + 8;
    int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < D; k += 16) {
        uint32_t a[4];
        ap_load_4(a, row_major(&m->q[row][k], ld));
#pragma unroll
        for (int n = 0; n < D / 16; n += 2) {
            uint32_t b[4];
            ap_load_4(b, col_major(&m->s[col + 8 * n][k], ld));
            mma(o[n], a, b);
            mma(o[n + 1], a, b + 2);
        }
    }
    float by[2] = {decay[row + lane / 4], decay[row + lane / 4 + 8]};
#pragma unroll
    for (int n = 0; n < D / 16; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) o[n][e] *= by[e / 2];
    for (int k = 0; k < row + 16; k += 16) {
        uint32_t a[4];
        ap_load_4(a, row_major(&m->p[row][k], T_LD));
#pragma unroll
        for (int n = 0; n < D / 16; n += 2) {
            uint32_t b[4];
            ap_load_4t(b, row_major(&m->x[k][col + 8 * n], ld));
            mma(o[n], a, b);
            mma(o[n + 1], a, b + 2);
        }
    }
}

/* Grid: x chunks of a sequence, y value heads, z sequences. */
template <int D> static __global__ void __launch_bounds__(THREADS, 2) delta_after(const quick_job j)
{
    extern __shared__ __align__(16) uint8_t mem[];
    after_room<D> *m = (after_room<D> *)mem;
    const ap_delta_args &a = j.a;
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, h = (int)blockIdx.y,
        row = warp / 2 * 16, half = warp % 2, col = half * (D / 2), n;
    int64_t t;
    ap_grid_wait();
    if (!find_chunk(j, &t, &n)) return;
    size_t slot = slot_of(j, (int)blockIdx.x);
    const key_part<D> *key =
        (const key_part<D> *)j.keys + slot * (size_t)a.n_k_head + (size_t)ap_delta_key_head(a, h);
    const head_part<D> *head =
        (const head_part<D> *)j.heads + slot * (size_t)a.n_v_head + (size_t)h;
    copy_rows<D, D + 8>(&m->q[0][0], &key->q[0][0], CHUNK);
    copy_rows<D, D + 8>(&m->s[0][0], &head->s[0][0], D);
    copy_rows<CHUNK, T_LD>(&m->p[0][0], &head->p[0][0], CHUNK);
    copy_rows<D, D + 8>(&m->x[0][0], &head->x[0][0], CHUNK);
    ap_copies_commit();
    bool fours = a.ldz % 4 == 0 && ((uintptr_t)a.z & 15) == 0;
    for (int i = (int)threadIdx.x; i < n * (D / 4); i += THREADS) {
        const float *z = a.z + (t + i / (D / 4)) * a.ldz + (int64_t)h * D + i % (D / 4) * 4;
        float *to = &m->z[i / (D / 4)][i % (D / 4) * 4];
        if (fours)
            ap_copy16(to, z);
        else
            for (int k = 0; k < 4; k++) to[k] = z[k];
    }
    ap_copies_commit();
    ap_copies_wait<1>();
    __syncthreads();
    float o[D / 16][4] = {};
    outputs<D>(m, head->decay, row, col, o);
#pragma unroll
    for (int e = 0; e < 2; e++) {
        float sum = 0;
#pragma unroll
        for (int k = 0; k < D / 16; k++)
            sum += o[k][2 * e] * o[k][2 * e] + o[k][2 * e + 1] * o[k][2 * e + 1];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        if (lane % 4 == 0) m->squares[half][row + lane / 4 + 8 * e] = sum;
    }
    ap_copies_wait<0>();
    __syncthreads();
#pragma unroll
    for (int e = 0; e < 2; e++) {
        int i = row + lane / 4 + 8 * e;
        if (i >= n) continue;
        float squares = m->squares[0][i] + m->squares[1][i];
        float *out = a.out + ((t + i) * a.n_v_head + h) * D;
        const float *z = m->z[i];
#pragma unroll
        for (int k = 0; k < D / 16; k++) {
            int at = col + 8 * k + lane % 4 * 2;
            float2 y = make_float2(o[k][2 * e], o[k][2 * e + 1]);
            if (j.norm)
                y = make_float2(ap_delta_gated(y.x, squares, a, at, z[at]),
                                ap_delta_gated(y.y, squares, a, at + 1, z[at + 1]));
            *(float2 *)(out + at) = y;
        }
    }
}

/* ------------------------------------------------------------------ launches */

static size_t room_of(int dim)
{
    size_t before = dim == 64 ? sizeof(before_room<64>) : sizeof(before_room<128>),
           state = dim == 64 ? sizeof(state_room<64>) : sizeof(state_room<128>),
           after = dim == 64 ? sizeof(after_room<64>) : sizeof(after_room<128>);
    size_t most = before > state ? before : state;
    return most > after ? most : after;
}

bool ap_delta_quick_takes(const ap_exec *x, int k_dim, int v_dim)
{
    return x->precision == APUS_PRECISION_FAST && k_dim == v_dim && (k_dim == 64 || k_dim == 128) &&
           room_of(k_dim) <= ap_cuda_shared_bytes(ap_cuda_of(x));
}

static size_t keys_bytes(int n_k_head, int dim)
{
    size_t each = dim == 64 ? sizeof(key_part<64>) : sizeof(key_part<128>);
    return SLOTS * (size_t)n_k_head * each;
}

size_t ap_delta_quick_scratch(const ap_exec *x, int n_tok, int n_k_head, int n_v_head, int k_dim,
                              int v_dim)
{
    if (n_tok < AP_DELTA_MANY || !ap_delta_quick_takes(x, k_dim, v_dim)) return 0;
    size_t each = k_dim == 64 ? sizeof(head_part<64>) : sizeof(head_part<128>);
    return keys_bytes(n_k_head, k_dim) + SLOTS * (size_t)n_v_head * each;
}

template <int D> static void launch(const ap_exec *x, const quick_job &j, unsigned n_seq)
{
    unsigned n = (unsigned)j.n, keys = (unsigned)j.a.n_k_head, heads = (unsigned)j.a.n_v_head;
    ap_launch(x, delta_before<D>, dim3(n, keys, n_seq), dim3(THREADS), sizeof(before_room<D>), j);
    ap_launch(x, delta_state<D>, dim3(D / SLICE, heads, n_seq), dim3(THREADS),
              sizeof(state_room<D>), j);
    ap_launch(x, delta_after<D>, dim3(n, heads, n_seq), dim3(THREADS), sizeof(after_room<D>), j);
}

void ap_delta_quick(const ap_exec *x, const ap_delta_args *a)
{
    const ap_batch *b = a->state.batch;
    for (int from = 0; from < b->n_seq; from += SLOTS) {
        int n_seq = b->n_seq - from < SLOTS ? b->n_seq - from : SLOTS, chunks = 0;
        for (int i = from; i < from + n_seq; i++) {
            int n = (b->seq[i].n_tok + CHUNK - 1) / CHUNK;
            if (b->seq[i].n_tok >= AP_DELTA_MANY && n > chunks) chunks = n;
        }
        quick_job j = {*a,   b->seq_dev + from,        0, SLOTS / n_seq, a->scratch,
                       NULL, ap_cuda_of(x)->arch >= 90};
        j.heads = (char *)a->scratch + keys_bytes(a->n_k_head, a->k_dim);
        for (; j.first < chunks; j.first += j.n) {
            if (a->k_dim == 64)
                launch<64>(x, j, (unsigned)n_seq);
            else
                launch<128>(x, j, (unsigned)n_seq);
        }
    }
}
