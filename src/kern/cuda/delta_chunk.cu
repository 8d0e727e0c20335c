/* delta_chunk.cu - the delta rule in chunks of 64 tokens, as matrix products on the tensor cores.
 *
 * With rows of q^, k^, v as Q, K, V, G the running sum of g in the chunk, D_ij = e^(G_i - G_j):
 *   T = (I + A)^-1,  A = strict lower part of beta_i (k_i . k_j) D_ij,  P = lower part of (q_i . k_j) D_ij
 *   X = T R,  R = beta (V - e^G K S),  O = e^G Q S + P X,  S' = e^(G_C) S + K^T (e^(G_C - G) X)
 * Of exponentials only those of differences <= 0 are formed, G in double. What does not need the state (the
 * first line) is made for many chunks at once by one kernel; a second one walks the chunks of a sequence,
 * with the state in registers, for 32 value channels of a head. In passes, as the room between them is
 * bounded and better stays in L2.
 *
 * Products take their inputs as two bf16, high and low (16 bits in all), in three terms with f32 sums. A
 * last chunk of fewer tokens is filled with zeros, which change nothing. */
#include "kern/cuda/cluster.cuh"
#include "kern/cuda/delta.cuh"
#include "kern/cuda/mma.cuh"

#define CHUNK   64
#define THREADS 256
#define SLICE   32 /* value channels of a block */
#define SLOTS   16 /* chunks (of all heads) of a pass */
#define M_LD    72 /* bf16 from row to row of T and P in shared memory */
#define X_LD    40 /* of R and X */
#define F_LD    68 /* floats from row to row of products */

/* What the first kernel leaves of a chunk, for each key head and for each value head. */
template <int DK> struct chunk_keys {
    uint16_t q[2][CHUNK][DK], k[2][CHUNK][DK]; /* high, low */
};

struct chunk_head {
    uint16_t t[2][CHUNK][CHUNK], p[2][CHUNK][CHUNK];
    float decay[CHUNK], rest[CHUNK], beta[CHUNK]; /* e^G, e^(G_C - G) */
    float all, less1, unused[62];                 /* e^(G_C), e^(G_C) - 1 */
};

struct chunk_job {
    ap_delta_args a;
    const ap_seq *seq; /* the first of the pass */
    int first, n;      /* chunks of each sequence */
    void *keys;        /* chunk_keys [sequences][n][Hk] */
    chunk_head *head;  /* [sequences][n][Hv] */
    bool norm;         /* clusters have whole heads: outputs are normed */
};

/* ------------------------------------------------------------------ two bf16 */

/* x, y as a pair of high and a pair of low parts. */
static __device__ __forceinline__ void split(float x, float y, uint32_t *high, uint32_t *low)
{
    *high = ap_bf16_pair(x, y);
    *low = ap_bf16_pair(x - ap_bf16_low(*high), y - ap_bf16_high(*high));
}

static __device__ __forceinline__ void mma3(float d[4], const uint32_t ah[4], const uint32_t al[4],
                                            const uint32_t *bh, const uint32_t *bl)
{
    ap_mma_bf16(d, al[0], al[1], al[2], al[3], bh[0], bh[1]);
    ap_mma_bf16(d, ah[0], ah[1], ah[2], ah[3], bl[0], bl[1]);
    ap_mma_bf16(d, ah[0], ah[1], ah[2], ah[3], bh[0], bh[1]);
}

/* Where a lane of ap_load_4 reads, for operands of mma.h that start at p, ld bf16 from row to row:
 *   row_major: A stored [row][k], or two B side by side stored [k][column] (then transposed)
 *   col_major: two B stored [column][k], or A stored [k][row] (then transposed) */
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

/* ------------------------------------------------------------------ without the state */

template <int DK> struct intra_room {
    union {
        uint16_t plane[4][CHUNK][DK + 8]; /* q high, q low, k high, k low */
        float a[4][CHUNK][F_LD];          /* A, then T, of up to 4 value heads */
    };
    float kk[CHUNK][F_LD], qk[CHUNK][F_LD];
    double g[4][CHUNK]; /* log decays, then their sums */
    float beta[4][CHUNK];
};

/* q^ and k^ of n tokens from row t on: to shared memory and to *out. A warp a token. */
template <int DK>
static __device__ void load_keys(const ap_delta_args &a, int64_t t, int n, int key_head,
                                 intra_room<DK> *m, chunk_keys<DK> *out)
{
    int lane = (int)threadIdx.x % 32;
    float scale = (float)(1.0 / sqrt((double)DK));
#pragma unroll 4
    for (int i = (int)threadIdx.x / 32; i < CHUNK; i += THREADS / 32) {
        float4 x[2] = {make_float4(0, 0, 0, 0), make_float4(0, 0, 0, 0)}; /* q, k */
        if (i < n && 4 * lane < DK) {
            const float4 *q = (const float4 *)ap_delta_query(a, t + i, key_head);
            x[0] = q[lane];
            x[1] = q[a.n_k_head * DK / 4 + lane];
        }
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float4 y = x[e];
            float r =
                1.0f / sqrtf(ap_warp_sum(y.x * y.x + y.y * y.y + (y.z * y.z + y.w * y.w)) + 1e-6f);
            if (e == 0) r *= scale;
            uint2 high, low;
            split(y.x * r, y.y * r, &high.x, &low.x);
            split(y.z * r, y.w * r, &high.y, &low.y);
            if (4 * lane >= DK) continue;
            *(uint2 *)&m->plane[2 * e][i][4 * lane] = high;
            *(uint2 *)&m->plane[2 * e + 1][i][4 * lane] = low;
            uint16_t(*to)[CHUNK][DK] = e == 0 ? out->q : out->k;
            *(uint2 *)&to[0][i][4 * lane] = high;
            *(uint2 *)&to[1][i][4 * lane] = low;
        }
    }
}

/* kk and qk, as far as the triangle goes. A warp: 16 rows and 32 columns of both. */
template <int DK> static __device__ void key_products(intra_room<DK> *m)
{
    constexpr int ld = DK + 8;
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, row = warp / 2 * 16,
        col = warp % 2 * 32;
    if (col > row + 15) return;
    float acc[2][4][4] = {};
#pragma unroll 2
    for (int d = 0; d < DK; d += 16) {
        uint32_t x[4][4];
        for (int e = 0; e < 4; e++) ap_load_4(x[e], row_major(&m->plane[e][row][d], ld));
#pragma unroll
        for (int n = 0; n < 4; n += 2) {
            uint32_t h[4], l[4];
            ap_load_4(h, col_major(&m->plane[2][col + 8 * n][d], ld));
            ap_load_4(l, col_major(&m->plane[3][col + 8 * n][d], ld));
#pragma unroll
            for (int e = 0; e < 2; e++) {
                mma3(acc[0][n + e], x[0], x[1], h + 2 * e, l + 2 * e);
                mma3(acc[1][n + e], x[2], x[3], h + 2 * e, l + 2 * e);
            }
        }
    }
    int r = row + lane / 4, c = col + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < 4; n++) {
        *(float2 *)&m->qk[r][c + 8 * n] = make_float2(acc[0][n][0], acc[0][n][1]);
        *(float2 *)&m->qk[r + 8][c + 8 * n] = make_float2(acc[0][n][2], acc[0][n][3]);
        *(float2 *)&m->kk[r][c + 8 * n] = make_float2(acc[1][n][0], acc[1][n][1]);
        *(float2 *)&m->kk[r + 8][c + 8 * n] = make_float2(acc[1][n][2], acc[1][n][3]);
    }
}

/* The value heads of a key head, `heads` of them from the first-th on: gates. A thread a token and head. */
template <int DK>
static __device__ void load_gates(const ap_delta_args &a, int64_t t, int n, const int h[4],
                                  int heads, intra_room<DK> *m, chunk_head *const out[4])
{
    int i = (int)threadIdx.x % CHUNK, e = (int)threadIdx.x / CHUNK;
    float beta = 0;
    if (e < heads) {
        m->g[e][i] = i < n ? ap_delta_gate(a, t + i, h[e], &beta) : 0.0;
        m->beta[e][i] = out[e]->beta[i] = beta;
    }
    __syncthreads();
    double sum = 0, all = 0;
    if (e < heads)
        for (int k = 0; k < CHUNK; k++) {
            all += m->g[e][k];
            if (k == i) sum = all;
        }
    __syncthreads();
    if (e >= heads) return;
    m->g[e][i] = sum;
    out[e]->decay[i] = (float)exp(sum);
    out[e]->rest[i] = (float)exp(all - sum);
    if (i > 0) return;
    out[e]->all = (float)exp(all);
    out[e]->less1 = (float)expm1(all);
}

/* e^(x - y) for x <= y. */
static __device__ __forceinline__ float decay_between(double x, double y)
{
    float d = (float)(x - y), e = expf(d);
    return fmaf(e, (float)((x - y) - (double)d), e);
}

/* A to shared memory and P to *out. */
template <int DK> static __device__ void masks(intra_room<DK> *m, int e, chunk_head *out)
{
    for (int at = (int)threadIdx.x; at < CHUNK * CHUNK / 2; at += THREADS) {
        int i = at / (CHUNK / 2), j = at % (CHUNK / 2) * 2;
        float p[2];
        for (int k = 0; k < 2; k++) {
            float d = j + k <= i ? decay_between(m->g[e][i], m->g[e][j + k]) : 0.0f;
            p[k] = j + k <= i ? m->qk[i][j + k] * d : 0.0f;
            m->a[e][i][j + k] = j + k < i ? m->beta[e][i] * m->kk[i][j + k] * d : 0.0f;
        }
        split(p[0], p[1], (uint32_t *)&out->p[0][i][j], (uint32_t *)&out->p[1][i][j]);
    }
}

/* T of A, in place, by substitution: a thread a column. */
template <int DK> static __device__ void invert(intra_room<DK> *m, int heads)
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

template <int DK>
static __device__ void put_inverse(const intra_room<DK> *m, int e, chunk_head *out)
{
    for (int at = (int)threadIdx.x; at < CHUNK * CHUNK / 2; at += THREADS) {
        int i = at / (CHUNK / 2), j = at % (CHUNK / 2) * 2;
        split(m->a[e][i][j], m->a[e][i][j + 1], (uint32_t *)&out->t[0][i][j],
              (uint32_t *)&out->t[1][i][j]);
    }
}

/* Grid: x chunks of a sequence, y key heads, z sequences. */
template <int DK> static __global__ void __launch_bounds__(THREADS) delta_intra(const chunk_job j)
{
    extern __shared__ __align__(16) uint8_t mem[];
    intra_room<DK> *m = (intra_room<DK> *)mem;
    const ap_delta_args &a = j.a;
    int key = (int)blockIdx.y, share = a.n_v_head / a.n_k_head;
    ap_grid_wait();
    const ap_seq seq = j.seq[blockIdx.z];
    int first = (j.first + (int)blockIdx.x) * CHUNK, n = min(CHUNK, seq.n_tok - first);
    if (seq.n_tok < AP_DELTA_MANY || n <= 0) return;
    int64_t t = seq.begin + first;
    size_t slot = (size_t)blockIdx.z * (size_t)j.n + blockIdx.x;
    load_keys<DK>(a, t, n, key, m,
                  (chunk_keys<DK> *)j.keys + slot * (size_t)a.n_k_head + (size_t)key);
    __syncthreads();
    key_products<DK>(m);
    for (int from = 0; from < share; from += 4) {
        int heads = min(4, share - from), h[4];
        chunk_head *out[4];
        for (int e = 0; e < 4; e++) {
            int i = min(from + e, share - 1);
            h[e] = a.tiled ? key + i * a.n_k_head : key * share + i;
            out[e] = j.head + slot * (size_t)a.n_v_head + (size_t)h[e];
        }
        load_gates<DK>(a, t, n, h, heads, m, out); /* nobody reads the planes any more */
        __syncthreads();
        for (int e = 0; e < heads; e++) masks<DK>(m, e, out[e]);
        __syncthreads();
        invert<DK>(m, heads);
        for (int e = 0; e < heads; e++) put_inverse<DK>(m, e, out[e]);
        __syncthreads();
    }
}

/* ------------------------------------------------------------------ with the state */

template <int DK> struct inter_room {
    uint16_t q[2][2][CHUNK][DK + 8], k[2][2][CHUNK][DK + 8]; /* [chunk % 2][high, low] */
    uint16_t t[2][CHUNK][M_LD], p[2][CHUNK][M_LD];
    uint16_t s[2][SLICE][DK + 8];
    uint16_t r[2][CHUNK][X_LD], x[2][CHUNK][X_LD], grown[2][CHUNK][X_LD]; /* R, X, e^(G_C - G) X */
    float decay[CHUNK], rest[CHUNK], beta[CHUNK], all, less1;
    float half[CHUNK][2];    /* sums of squares of 16 channels */
    float squares[2][CHUNK]; /* of the block's channels */
};

/* rows x width bf16, both planes, `ld` from row to row in shared memory. */
template <int width, int ld>
static __device__ __forceinline__ void copy_planes(uint16_t *to, const uint16_t *from)
{
    constexpr int vectors = width / 8;
    for (int i = (int)threadIdx.x; i < 2 * CHUNK * vectors; i += THREADS)
        ap_copy16(to + i / vectors * ld + i % vectors * 8, from + (size_t)i * 8);
}

/* Sums of a lane: rows r and r + 8 of the warp's 16 tokens, columns 2c, 2c + 1 and 8 more of its 16 channels,
 * as [column / 8][4]. */
struct tile16 {
    float x[2][4];
};

/* d += A B, three terms: A of 16 rows stored [row][k], B of 16 columns stored [k][column]; planes a_step and
 * b_step apart; k runs to `end`. */
static __device__ __forceinline__ void product(tile16 *d, const uint16_t *a, int lda, int a_step,
                                               const uint16_t *b, int ldb, int b_step, int end)
{
    for (int k = 0; k < end; k += 16) {
        uint32_t ah[4], al[4], bh[4], bl[4];
        ap_load_4(ah, row_major(a + k, lda));
        ap_load_4(al, row_major(a + a_step + k, lda));
        ap_load_4t(bh, row_major(b + k * ldb, ldb));
        ap_load_4t(bl, row_major(b + b_step + k * ldb, ldb));
        mma3(d->x[0], ah, al, bh, bl);
        mma3(d->x[1], ah, al, bh + 2, bl + 2);
    }
}

/* Q S and K S, with S stored [column][k]. */
template <int DK>
static __device__ __forceinline__ void meet_state(const inter_room<DK> *m, int which, int row,
                                                  int col, tile16 *qs, tile16 *ks)
{
    constexpr int ld = DK + 8, step = CHUNK * ld;
    const uint16_t *q = row_major(&m->q[which][0][row][0], ld),
                   *k = row_major(&m->k[which][0][row][0], ld);
    const uint16_t *s = col_major(&m->s[0][col][0], ld);
#pragma unroll 4
    for (int d = 0; d < DK; d += 16) {
        uint32_t xh[4], xl[4], yh[4], yl[4], sh[4], sl[4];
        ap_load_4(sh, s + d);
        ap_load_4(sl, s + SLICE * ld + d);
        ap_load_4(xh, q + d);
        ap_load_4(xl, q + step + d);
        ap_load_4(yh, k + d);
        ap_load_4(yl, k + step + d);
#pragma unroll
        for (int n = 0; n < 2; n++) {
            mma3(qs->x[n], xh, xl, sh + 2 * n, sl + 2 * n);
            mma3(ks->x[n], yh, yl, sh + 2 * n, sl + 2 * n);
        }
    }
}

/* A lane's two rows of a tile, times by[row], to two planes. */
static __device__ __forceinline__ void put_split(uint16_t *to, int row, int col, const tile16 &d,
                                                 const float by[2])
{
    int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            uint16_t *at = to + (row + lane / 4 + 8 * h) * X_LD + col + 8 * n + lane % 4 * 2;
            split(d.x[n][2 * h] * by[h], d.x[n][2 * h + 1] * by[h], (uint32_t *)at,
                  (uint32_t *)(at + CHUNK * X_LD));
        }
}

/* The state of a warp: channels 16 (warp % 2) + r and + 8, key dims DK / 4 (warp / 2) + 8n + 2c and the
 * next, as [n][4]. */
template <int DK> struct state_tile {
    float x[DK / 32][4];
};

template <int DK> static __device__ __forceinline__ float2 *state_at(float *state, int n, int h)
{
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    return (float2 *)(state + (warp % 2 * 16 + lane / 4 + 8 * h) * DK + warp / 2 * (DK / 4) +
                      8 * n + lane % 4 * 2);
}

template <int DK>
static __device__ __forceinline__ void put_state(inter_room<DK> *m, const state_tile<DK> &s)
{
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    int row = warp % 2 * 16 + lane / 4, col = warp / 2 * (DK / 4) + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < DK / 32; n++)
#pragma unroll
        for (int h = 0; h < 2; h++)
            split(s.x[n][2 * h], s.x[n][2 * h + 1], (uint32_t *)&m->s[0][row + 8 * h][col + 8 * n],
                  (uint32_t *)&m->s[1][row + 8 * h][col + 8 * n]);
}

/* S <- e^(G_C) S + K^T X', transposed. */
template <int DK>
static __device__ __forceinline__ void advance(const inter_room<DK> *m, int which,
                                               state_tile<DK> *s)
{
    constexpr int ld = DK + 8;
    int warp = (int)threadIdx.x / 32, row = warp % 2 * 16, col = warp / 2 * (DK / 4);
    float d[DK / 32][4] = {};
#pragma unroll
    for (int k = 0; k < CHUNK; k += 16) {
        uint32_t ah[4], al[4];
        ap_load_4t(ah, col_major(&m->grown[0][k][row], X_LD));
        ap_load_4t(al, col_major(&m->grown[1][k][row], X_LD));
#pragma unroll
        for (int n = 0; n < DK / 32; n += 2) {
            uint32_t bh[4], bl[4];
            ap_load_4t(bh, row_major(&m->k[which][0][k][col + 8 * n], ld));
            ap_load_4t(bl, row_major(&m->k[which][1][k][col + 8 * n], ld));
            mma3(d[n], ah, al, bh, bl);
            mma3(d[n + 1], ah, al, bh + 2, bl + 2);
        }
    }
    float all = m->all, less1 = m->less1;
#pragma unroll
    for (int n = 0; n < DK / 32; n++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            s->x[n][e] = all >= 0.5f ? s->x[n][e] + fmaf(less1, s->x[n][e], d[n][e])
                                     : fmaf(all, s->x[n][e], d[n][e]);
}

/* Sums of squares of the block's channels of a token, in two halves: warps of even and odd number. */
template <int DK>
static __device__ __forceinline__ void put_squares(inter_room<DK> *m, int row, const tile16 &o)
{
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float sum = 0;
        for (int n = 0; n < 2; n++)
            sum += o.x[n][2 * h] * o.x[n][2 * h] + o.x[n][2 * h + 1] * o.x[n][2 * h + 1];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        if (lane % 4 == 0) m->half[row + lane / 4 + 8 * h][warp % 2] = sum;
    }
}

/* Outputs of tokens [t, t + n) of the step, normed if the cluster's sums of squares are there. */
template <int DK, int CL>
static __device__ __forceinline__ void put_out(const chunk_job &j, const inter_room<DK> *m,
                                               int parity, int64_t t, int n, int h, int channel,
                                               int row, const tile16 &o, const float z[2][4])
{
    const ap_delta_args &a = j.a;
    int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int i = row + lane / 4 + 8 * half;
        float squares = 0;
        for (int c = 0; c < CL && j.norm; c++)
            squares += ap_cluster_read<CL>(&m->squares[parity][i], c);
        if (i >= n) continue;
        float *out = a.out + ((t + i) * a.n_v_head + h) * a.v_dim;
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int at = channel + 8 * (e / 2) + lane % 4 * 2 + e % 2;
            float y = o.x[e / 2][2 * half + e % 2];
            out[at] = j.norm ? ap_delta_gated(y, squares, a, at, z[half][e]) : y;
        }
    }
}

/* A lane's values or z: rows of tokens [t, t + n), ld floats from row to row. */
static __device__ __forceinline__ void load_rows(float x[2][4], const float *p, int64_t ld, int n,
                                                 int row)
{
    int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int i = row + lane / 4 + 8 * h;
            x[h][e] = i < n ? p[i * ld + 8 * (e / 2) + lane % 4 * 2 + e % 2] : 0.0f;
        }
}

/* q^ and k^ of chunk i of the pass on their way to shared memory. */
template <int DK>
static __device__ __forceinline__ void copy_keys(const chunk_job &j, const chunk_keys<DK> *from,
                                                 int i, inter_room<DK> *m)
{
    from += (size_t)i * (size_t)j.a.n_k_head;
    copy_planes<DK, DK + 8>(&m->k[i & 1][0][0][0], &from->k[0][0][0]);
    copy_planes<DK, DK + 8>(&m->q[i & 1][0][0][0], &from->q[0][0][0]);
    ap_copies_commit();
}

/* Grid: x slices, y value heads, z sequences. Clusters of CL: all slices of a head, or 1 and no norm. */
template <int DK, int CL>
static __global__ void __launch_bounds__(THREADS, 1) delta_inter(const chunk_job j)
{
    extern __shared__ __align__(16) uint8_t mem[];
    inter_room<DK> *m = (inter_room<DK> *)mem;
    const ap_delta_args &a = j.a;
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    int h = (int)blockIdx.y, slice = (int)blockIdx.x * SLICE, row = warp / 2 * 16,
        col = warp % 2 * 16;
    ap_grid_wait();
    const ap_seq seq = j.seq[blockIdx.z];
    int chunks = min((seq.n_tok + CHUNK - 1) / CHUNK - j.first, j.n);
    if (seq.n_tok < AP_DELTA_MANY || chunks <= 0) return;
    const chunk_keys<DK> *keys = (const chunk_keys<DK> *)j.keys +
                                 (size_t)blockIdx.z * (size_t)j.n * (size_t)a.n_k_head +
                                 (size_t)ap_delta_key_head(a, h);
    const chunk_head *head =
        j.head + (size_t)blockIdx.z * (size_t)j.n * (size_t)a.n_v_head + (size_t)h;
    copy_keys<DK>(j, keys, 0, m);

    float *state = ap_delta_state(a, seq, h) + (size_t)slice * DK;
    state_tile<DK> s;
#pragma unroll
    for (int n = 0; n < DK / 32; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float2 x = *state_at<DK>(state, n, e);
            s.x[n][2 * e] = x.x, s.x[n][2 * e + 1] = x.y;
        }
    put_state<DK>(m, s);

    tile16 last; /* outputs of the chunk before, which still want their norm, and its z */
    float z[2][4], v[2][4];
    int64_t ld = 2 * (int64_t)a.n_k_head * DK + (int64_t)a.n_v_head * a.v_dim,
            t = seq.begin + (int64_t)j.first * CHUNK;
    int left = seq.n_tok - j.first * CHUNK; /* tokens from t on */
    for (int i = 0; i < chunks; i++, t += CHUNK, left -= CHUNK) {
        int which = i & 1, n = min(left, CHUNK);
        const chunk_head *from = head + (size_t)i * (size_t)a.n_v_head;
        load_rows(v, ap_delta_value(a, t, h) + slice + col, ld, n, row);
        ap_copies_wait<0>();
        __syncthreads(); /* keys and state are there; nobody is in the chunk before any more */
        copy_planes<CHUNK, M_LD>(&m->t[0][0][0], &from->t[0][0][0]);
        copy_planes<CHUNK, M_LD>(&m->p[0][0][0], &from->p[0][0][0]);
        ap_copies_commit();
        if (i + 1 < chunks) copy_keys<DK>(j, keys, i + 1, m);
        if (threadIdx.x < CHUNK) {
            m->rest[threadIdx.x] = from->rest[threadIdx.x];
            if (threadIdx.x == 0) m->all = from->all, m->less1 = from->less1;
        }
        float decay[2], beta[2];
        for (int e = 0; e < 2; e++) {
            decay[e] = from->decay[row + lane / 4 + 8 * e];
            beta[e] = from->beta[row + lane / 4 + 8 * e];
        }
        tile16 o = {}, x = {};
        meet_state<DK>(m, which, row, col, &o, &x);
#pragma unroll
        for (int e = 0; e < 8; e++) {
            int half = e / 2 % 2;
            o.x[e / 4][e % 4] *= decay[half];
            x.x[e / 4][e % 4] = v[half][e / 4 * 2 + e % 2] - decay[half] * x.x[e / 4][e % 4];
        }
        put_split(&m->r[0][0][0], row, col, x, beta);
        if (i > 0 && j.norm) {
            ap_cluster_wait<CL>();
            put_out<DK, CL>(j, m, which ^ 1, t - CHUNK, CHUNK, h, slice + col, row, last, z);
        }
        if (i + 1 < chunks)
            ap_copies_wait<1>();
        else
            ap_copies_wait<0>();
        __syncthreads(); /* T, P and R are there */
        x = {};
        product(&x, &m->t[0][row][0], M_LD, CHUNK * M_LD, &m->r[0][0][col], X_LD, CHUNK * X_LD,
                row + 16);
        const float one[2] = {1, 1},
                    rest[2] = {m->rest[row + lane / 4], m->rest[row + lane / 4 + 8]};
        put_split(&m->x[0][0][0], row, col, x, one);
        put_split(&m->grown[0][0][0], row, col, x, rest);
        load_rows(z, a.z + t * a.ldz + (int64_t)h * a.v_dim + slice + col, a.ldz, n, row);
        __syncthreads(); /* X is there */
        product(&o, &m->p[0][row][0], M_LD, CHUNK * M_LD, &m->x[0][0][col], X_LD, CHUNK * X_LD,
                row + 16);
        put_squares<DK>(m, row, o);
        advance<DK>(m, which, &s);
        put_state<DK>(m, s);
        last = o;
        if (!j.norm) {
            put_out<DK, CL>(j, m, which, t, n, h, slice + col, row, o, z);
            continue;
        }
        __syncthreads(); /* halves are there */
        if (threadIdx.x < CHUNK)
            m->squares[which][threadIdx.x] = m->half[threadIdx.x][0] + m->half[threadIdx.x][1];
        if (CL == 1) __syncthreads();
        ap_cluster_arrive<CL>();
    }
#pragma unroll
    for (int n = 0; n < DK / 32; n++)
#pragma unroll
        for (int e = 0; e < 2; e++)
            *state_at<DK>(state, n, e) = make_float2(s.x[n][2 * e], s.x[n][2 * e + 1]);
    if (!j.norm) return;
    ap_cluster_wait<CL>();
    put_out<DK, CL>(j, m, (chunks - 1) & 1, t - CHUNK, min(left + CHUNK, CHUNK), h, slice + col,
                    row, last, z);
    ap_cluster_sync<CL>(); /* others read this block's sums */
}

/* ------------------------------------------------------------------ launches */

bool ap_delta_chunked_takes(const ap_exec *x, const ap_delta_args *a)
{
    size_t room = a->k_dim == 64    ? sizeof(inter_room<64>)
                  : a->k_dim == 128 ? sizeof(inter_room<128>)
                                    : SIZE_MAX;
    int slices = a->v_dim / SLICE; /* a size of clusters */
    return a->v_dim % SLICE == 0 && slices <= 8 && (slices & (slices - 1)) == 0 &&
           room <= ap_cuda_shared_bytes(ap_cuda_of(x));
}

static size_t slot_keys(int n_k_head, int k_dim)
{
    return (size_t)n_k_head * (size_t)k_dim * sizeof(chunk_keys<64>) / 64;
}

size_t ap_delta_chunked_scratch(const ap_exec *x, int n_tok, int n_k_head, int n_v_head, int k_dim,
                                int v_dim)
{
    if (ap_delta_quick_takes(x, k_dim, v_dim))
        return ap_delta_quick_scratch(x, n_tok, n_k_head, n_v_head, k_dim, v_dim);
    if (n_tok < AP_DELTA_MANY || (k_dim != 64 && k_dim != 128)) return 0;
    return SLOTS * (slot_keys(n_k_head, k_dim) + (size_t)n_v_head * sizeof(chunk_head));
}

template <int DK, int CL>
static void launch_inter(const ap_exec *x, const chunk_job &j, unsigned n_seq)
{
    dim3 grid((unsigned)(j.a.v_dim / SLICE), (unsigned)j.a.n_v_head, n_seq);
    ap_launch_cluster(x, delta_inter<DK, CL>, grid, dim3(THREADS), CL, sizeof(inter_room<DK>), j);
}

template <int DK> static void launch(const ap_exec *x, const chunk_job &j, unsigned n_seq)
{
    int slices = j.a.v_dim / SLICE, cluster = ap_cuda_of(x)->arch >= 90 ? slices : 1;
    dim3 grid((unsigned)j.n, (unsigned)j.a.n_k_head, n_seq);
    ap_launch(x, delta_intra<DK>, grid, dim3(THREADS), sizeof(intra_room<DK>), j);
    if (cluster == 8)
        launch_inter<DK, 8>(x, j, n_seq);
    else if (cluster == 4)
        launch_inter<DK, 4>(x, j, n_seq);
    else if (cluster == 2)
        launch_inter<DK, 2>(x, j, n_seq);
    else
        launch_inter<DK, 1>(x, j, n_seq);
}

void ap_delta_chunked(const ap_exec *x, const ap_delta_args *a)
{
    if (ap_delta_quick_takes(x, a->k_dim, a->v_dim)) {
        ap_delta_quick(x, a);
        return;
    }
    const ap_batch *b = a->state.batch;
    for (int from = 0; from < b->n_seq; from += SLOTS) {
        int n_seq = b->n_seq - from < SLOTS ? b->n_seq - from : SLOTS, chunks = 0;
        for (int i = from; i < from + n_seq; i++) {
            int n = (b->seq[i].n_tok + CHUNK - 1) / CHUNK;
            if (b->seq[i].n_tok >= AP_DELTA_MANY && n > chunks) chunks = n;
        }
        chunk_job j = {*a,   b->seq_dev + from,        0, SLOTS / n_seq, a->scratch,
                       NULL, ap_cuda_of(x)->arch >= 90};
        j.head = (chunk_head *)((char *)a->scratch + SLOTS * slot_keys(a->n_k_head, a->k_dim));
        for (; j.first < chunks; j.first += j.n) {
            if (a->k_dim == 64)
                launch<64>(x, j, (unsigned)n_seq);
            else
                launch<128>(x, j, (unsigned)n_seq);
        }
    }
}
