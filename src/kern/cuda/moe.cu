/* moe.cu - routed experts: sort pairs by expert, gate and up, down, combine in the order of ranks.
 *
 * The experts of a layer lie one behind the other with one form, so an expert is a number of bytes away from
 * the first one; where they do not, each is launched by itself. What an expert gives to a pair does not depend
 * on the other pairs, so the order of pairs within an expert is free. */
#include "decode.cuh"
#include "matmul.cuh"

enum { PLAN_THREADS = 1024, TILE = 64 };

/* What lies where in the scratch. */
struct room {
    int32_t *first;       /* [E + 1] */
    int32_t *rank;        /* [T*K] of a pair among its expert's */
    int32_t *pair;        /* [T*K] by expert; wide: experts begin at multiples of 8, -1 between */
    int32_t *active;      /* [E] experts with pairs */
    int32_t *tile_expert; /* [tiles] */
    int32_t *tile_first;  /* [tiles] */
    int32_t *tile_rows;   /* [tiles] */
    int32_t *iota;        /* [E] 0, 1, 2, ... */
    int32_t *count;       /* n_active, n_tile, places in pair */
    float *mid;           /* [T*K, F] act(gate) * up */
    float *out;           /* [T*K, H] */
    void *x_q, *mid_q;
    void
        *x_16; /* wide: rows of inputs by expert; what is made of them is in mid and out, in bf16 */
    size_t total;
};

static size_t take(size_t *at, size_t bytes)
{
    size_t here = *at;
    *at += (bytes + 255) / 256 * 256;
    return here;
}

static int most_tiles(int64_t pairs, int n_expert, int tile)
{
    return (int)(pairs / tile + (pairs < n_expert ? pairs : n_expert));
}

static room lay_out(uint8_t *mem, int n_tok, int n_expert, int n_used, int hidden, int ffn)
{
    room r;
    size_t at = 0, E = (size_t)n_expert, P = (size_t)n_tok * (size_t)n_used;
    size_t tiles = (size_t)most_tiles((int64_t)P, n_expert, TILE);
#define PLACE(field, type, n) r.field = (type *)(mem + take(&at, (n) * sizeof(type)))
    PLACE(first, int32_t, E + 1);
    PLACE(rank, int32_t, P);
    PLACE(pair, int32_t, P + 8 * E);
    PLACE(active, int32_t, E);
    PLACE(tile_expert, int32_t, tiles);
    PLACE(tile_first, int32_t, tiles);
    PLACE(tile_rows, int32_t, tiles);
    PLACE(iota, int32_t, E);
    PLACE(count, int32_t, 3);
#undef PLACE
    size_t mid = (P + 1) * (size_t)ffn * 4, /* and of a shared expert (decode.cu) */
        mid_16 = ap_bf16_bytes((int64_t)(P + 8 * E), ffn), out = P * (size_t)hidden * 4,
           out_16 = (P * (size_t)hidden * 2 + 255) / 256 * 256,
           x_16 = ap_bf16_bytes((int64_t)(P + 8 * E), hidden), x_q = ap_qin_bytes(n_tok, hidden),
           in_16 = ap_bf16_bytes(n_tok, hidden);
    r.mid = (float *)(mem + take(&at, mid > mid_16 ? mid : mid_16));
    r.out = (float *)(mem + take(&at, out > out_16 + x_16 ? out : out_16 + x_16));
    r.x_16 = (uint8_t *)r.out + out_16;
    r.x_q = mem + take(&at, x_q > in_16 ? x_q : in_16);
    r.mid_q = mem + take(&at, ap_qin_bytes((int64_t)P, ffn));
    r.total = at;
    return r;
}

size_t ap_cuda_moe_scratch_bytes(const ap_exec *x, int n_tok, int n_expert, int n_used, int hidden,
                                 int ffn)
{
    double most = (double)n_tok * n_used * ((double)hidden + ffn) * 12.0;
    (void)x;
    if (most > 1e15) return SIZE_MAX - 63;
    return lay_out(NULL, n_tok, n_expert, n_used, hidden, ffn).total;
}

/* First pairs and tiles of the experts, by one warp, 32 experts at a time. count: pairs of each; becomes first. Tiles
 * have `tile` pairs; wide: as ap_wide_share says, and experts begin at multiples of 8. */
static __device__ void lay_out_experts(int32_t *count, int n_expert, int tile, bool wide,
                                       const room &r)
{
    int lane = threadIdx.x, sum = 0, active = 0, tiles = 0;
    for (int e0 = 0; e0 < n_expert; e0 += 32) {
        int e = e0 + lane, n = e < n_expert ? count[e] : 0, t = (n + tile - 1) / tile;
        int each = wide ? ap_wide_share(n) : tile, room_of = wide ? (n + 7) / 8 * 8 : n;
        int sn = room_of, st = t;
        unsigned with = __ballot_sync(0xffffffffu, n > 0);
        for (int i = 1; i < 32; i *= 2) {
            int vn = __shfl_up_sync(0xffffffffu, sn, i), vt = __shfl_up_sync(0xffffffffu, st, i);
            if (lane >= i) {
                sn += vn;
                st += vt;
            }
        }
        if (e < n_expert) {
            int first = sum + sn - room_of;
            r.first[e] = count[e] = first;
            if (n) r.active[active + __popc(with & ((1u << lane) - 1))] = e;
            for (int i = 0; i < t; i++) {
                int at = tiles + st - t + i;
                r.tile_expert[at] = e;
                r.tile_first[at] = first + i * each;
                r.tile_rows[at] = min(each, n - i * each);
            }
            for (int i = n; i < room_of; i++) r.pair[first + i] = -1;
        }
        sum += __shfl_sync(0xffffffffu, sn, 31);
        tiles += __shfl_sync(0xffffffffu, st, 31);
        active += __popc(with);
    }
    if (lane == 0) {
        r.first[n_expert] = sum;
        r.count[0] = active;
        r.count[1] = tiles;
        r.count[2] = sum;
    }
}

/* Sort pairs by expert, in one block; shared memory counts. Memory answers several pairs of a thread at a time. */
static __global__ void __launch_bounds__(PLAN_THREADS)
    plan(const int32_t *ids, int pairs, int n_expert, int tile, bool wide, room r)
{
    constexpr int N = 8;
    extern __shared__ int32_t count[]; /* [E] */
    ap_grid_wait();
    for (int e = threadIdx.x; e < n_expert; e += PLAN_THREADS) {
        count[e] = 0;
        r.iota[e] = e;
    }
    __syncthreads();
    for (int p0 = threadIdx.x; p0 < pairs; p0 += N * PLAN_THREADS) {
        int e[N];
#pragma unroll
        for (int i = 0; i < N; i++)
            e[i] = p0 + i * PLAN_THREADS < pairs ? ids[p0 + i * PLAN_THREADS] : -1;
#pragma unroll
        for (int i = 0; i < N; i++)
            if (e[i] >= 0) r.rank[p0 + i * PLAN_THREADS] = atomicAdd(&count[e[i]], 1);
    }
    __syncthreads();
    if (threadIdx.x < 32) lay_out_experts(count, n_expert, tile, wide, r);
    __syncthreads();
    for (int p0 = threadIdx.x; p0 < pairs; p0 += N * PLAN_THREADS) {
        int at[N];
#pragma unroll
        for (int i = 0; i < N; i++) {
            int p = p0 + i * PLAN_THREADS;
            at[i] = p < pairs ? count[ids[p]] + r.rank[p] : -1;
        }
#pragma unroll
        for (int i = 0; i < N; i++)
            if (at[i] >= 0) r.pair[at[i]] = p0 + i * PLAN_THREADS;
    }
}

/* N results of an expert. */
template <int N> struct alignas(4 * N) few {
    float v[N];
};

template <int N> static __device__ __forceinline__ few<N> results_at(const float *p)
{
    return *(const few<N> *)p;
}

template <int N> static __device__ __forceinline__ few<N> results_at(const uint16_t *p)
{
    few<N> r;
    if constexpr (N == 4) {
        uint2 w = *(const uint2 *)p;
        float2 a = ap_pair_of_bf16(w.x), b = ap_pair_of_bf16(w.y);
        r = {a.x, a.y, b.x, b.y};
    } else {
        r.v[0] = __uint_as_float((uint32_t)*p << 16);
    }
    return r;
}

/* What is added beside the experts: sigmoid(gate) * shared; NULL: nothing. */
struct beside {
    const float *shared, *gate;
};

/* y (+)= the weighted sum of a token's experts, ranks ascending: N outputs a thread. */
template <int N, typename T>
static __global__ void combine(const T *out, const float *weights, int n_used, int hidden, float *y,
                               int64_t ldy, bool accumulate, beside more)
{
    ap_grid_wait();
    int t = blockIdx.y, h = (blockIdx.x * blockDim.x + threadIdx.x) * N;
    if (h >= hidden) return;
    few<N> acc = {};
#pragma unroll 8
    for (int j = 0; j < n_used; j++) {
        int64_t p = (int64_t)t * n_used + j;
        few<N> o = results_at<N>(out + p * hidden + h);
        float w = weights[p];
#pragma unroll
        for (int i = 0; i < N; i++) acc.v[i] = fmaf(w, o.v[i], acc.v[i]);
    }
    few<N> *to = (few<N> *)(y + t * ldy + h);
    if (accumulate) {
        few<N> old = *to;
#pragma unroll
        for (int i = 0; i < N; i++) acc.v[i] = old.v[i] + acc.v[i];
    }
    if (more.shared) {
        few<N> v = results_at<N>(more.shared + (int64_t)t * hidden + h);
        float g = ap_sigmoid(more.gate[t]);
#pragma unroll
        for (int i = 0; i < N; i++) acc.v[i] = fmaf(g, v.v[i], acc.v[i]);
    }
    *to = acc;
}

template <typename T>
static void launch_combine(const ap_exec *x, const ap_moe_args *a, const T *out, int hidden,
                           beside more)
{
    bool fours = hidden % 4 == 0 && a->ldy % 4 == 0 && ((uintptr_t)a->y & 15) == 0;
    int each = fours ? 1024 : 256; /* outputs of a block */
    ap_launch(x, fours ? combine<4, T> : combine<1, T>,
              dim3((unsigned)(hidden + each - 1) / each, (unsigned)a->n_tok), dim3(256), 0, out,
              a->weights, a->n_used, hidden, a->y, a->ldy, a->accumulate, more);
}

static bool same(const ap_mat *a, const ap_mat *b)
{
    return a->dtype == b->dtype && a->rows == b->rows && a->cols == b->cols &&
           a->q.bits == b->q.bits && a->q.table == b->q.table && a->q.scale == b->q.scale &&
           a->q.group == b->q.group && a->data && b->data;
}

bool ap_cuda_expert_stride(const ap_expert *x, int n, size_t member, size_t *stride)
{
    const ap_mat *m0 = (const ap_mat *)((const uint8_t *)x + member);
    *stride = 0;
    for (int e = 1; e < n; e++) {
        const ap_mat *m = (const ap_mat *)((const uint8_t *)(x + e) + member);
        if (!same(m0, m)) return false;
        if (e == 1) *stride = (size_t)((const uint8_t *)m->data - (const uint8_t *)m0->data);
        if ((const uint8_t *)m->data != (const uint8_t *)m0->data + *stride * (size_t)e)
            return false;
    }
    return m0->data != NULL;
}

struct job {
    const ap_exec *x;
    const ap_moe_args *a;
    room r;
    int hidden, ffn, pairs;
    bool tiled;
};

/* One projection, or with `up` two at once, of the experts that `p` names. */
static void project(const job *j, ap_product_args p, const ap_mat *w, const ap_mat *up,
                    const float *in, int64_t ldin, ap_qin planes, int groups)
{
    bool glu = up != NULL, quick = ap_in_integers(j->x, w) && (!glu || ap_in_integers(j->x, up));
    bool pairwise = !glu || (w->q.bits == up->q.bits && w->q.table == up->q.table &&
                             (w->q.group == 16) == (up->q.group == 16));
    bool alone = j->pairs == j->a->n_used && !p.first; /* one token */
    if (quick && (pairwise || !alone)) {
        p.w[0] = ap_qmat_of(w);
        if (glu) p.w[1] = ap_qmat_of(up);
        p.x = alone ? in : NULL;
        p.ldx = ldin;
        p.in = planes;
        p.mode = glu ? AP_PUT_GLU : AP_PUT_STORE;
        if (glu && !alone) { /* gate, then up times what it acts on */
            p.mode = AP_PUT_STORE;
            ap_cuda_product(j->x, &p, j->tiled, groups);
            p.mode = AP_PUT_TIMES;
            p.w[0] = ap_qmat_of(up);
            p.stride[0] = p.stride[1];
        }
        ap_cuda_product(j->x, &p, j->tiled, groups);
        return;
    }
    p.x = in;
    p.ldx = ldin;
    p.mode = AP_PUT_STORE;
    ap_cuda_float_experts(j->x, w, &p, groups);
    if (!glu) return;
    p.mode = AP_PUT_TIMES;
    p.stride[0] = p.stride[1];
    ap_cuda_float_experts(j->x, up, &p, groups);
}

/* The experts one by one: those without pairs have no matrices. */
static void each_expert(const job *j, ap_product_args p, bool down, const float *in, int64_t ldin,
                        ap_qin planes)
{
    job one = *j;
    one.tiled = false;
    for (int e = 0; e < j->a->n_expert; e++) {
        const ap_expert *x = &j->a->experts[e];
        if (!x->gate.data) continue;
        p.expert = j->r.iota + e;
        p.n_active = NULL;
        p.stride[0] = p.stride[1] = 0;
        /* the kernels add stride * e: none */
        project(&one, p, down ? &x->down : &x->gate, down ? NULL : &x->up, in, ldin, planes, 1);
    }
}

static const ap_expert *any_expert(const ap_moe_args *a)
{
    for (int e = 0; e < a->n_expert; e++)
        if (a->experts[e].gate.data) return &a->experts[e];
    return NULL;
}

static bool fits_wide(const ap_exec *x, const ap_mat *w)
{
    return ap_cuda_is_wide(x, w) && !ap_cuda_wide_rest(w);
}

static bool is_even(const ap_moe_args *a, size_t *gate, size_t *up, size_t *down)
{
    return ap_cuda_expert_stride(a->experts, a->n_expert, offsetof(ap_expert, gate), gate) &&
           ap_cuda_expert_stride(a->experts, a->n_expert, offsetof(ap_expert, up), up) &&
           ap_cuda_expert_stride(a->experts, a->n_expert, offsetof(ap_expert, down), down);
}

/* Are there enough pairs for tiles? */
static bool is_many(const ap_moe_args *a)
{
    return a->n_tok * a->n_used >= 8 * a->n_expert;
}

bool ap_cuda_moe_is_wide(const ap_exec *x, const ap_moe_args *a)
{
    size_t gate, up, down;
    const ap_expert *e = any_expert(a);
    return e && is_many(a) && fits_wide(x, &e->gate) && fits_wide(x, &e->up) &&
           fits_wide(x, &e->down) && ap_cuda_wide_pair(&e->gate, &e->up) &&
           is_even(a, &gate, &up, &down);
}

/* In bf16: rows of inputs by expert, gate and up with what acts on them, down, combination. */
static void moe_wide(const ap_exec *x, const ap_moe_args *a, const ap_moe_more *more)
{
    const ap_expert *e = any_expert(a);
    int hidden = e->gate.cols, ffn = e->gate.rows, pairs = a->n_tok * a->n_used,
        places = pairs + 8 * a->n_expert, tiles = most_tiles(pairs, a->n_expert, AP_WIDE_ROWS);
    room r = lay_out((uint8_t *)a->scratch, a->n_tok, a->n_expert, a->n_used, hidden, ffn);
    size_t down;
    ap_product_args p = {};
    is_even(a, &p.stride[0], &p.stride[1], &down);
    ap_launch(x, plan, dim3(1), dim3(PLAN_THREADS), (size_t)a->n_expert * 4, a->ids, pairs,
              a->n_expert, (int)AP_WIDE_ROWS, true, r);
    ap_bf16_rows in = more->b16, mid = ap_bf16_rows_at(r.mid, places, ffn, false);
    if (!in.high) {
        in = ap_bf16_rows_at(r.x_q, a->n_tok, hidden, false);
        ap_cuda_to_bf16(x, a->x, a->ldx, a->n_tok, hidden, in);
    }
    p.b16 = ap_bf16_rows_at(r.x_16, places, hidden, false);
    ap_cuda_gather_bf16(x, in, r.pair, r.count + 2, a->n_used, hidden, p.b16);
    p.expert = r.tile_expert;
    p.n_active = r.count + 1;
    p.tile_first = r.tile_first;
    p.tile_rows = r.tile_rows;
    p.pair = r.pair;
    p.w[0] = ap_qmat_of(&a->experts[0].gate);
    p.w[1] = ap_qmat_of(&a->experts[0].up);
    p.mode = AP_PUT_GLU;
    p.act = a->act;
    p.y16 = mid.high;
    p.y_rows = mid.rows;
    ap_cuda_wide(x, &p, tiles);
    p.b16 = mid;
    p.w[0] = ap_qmat_of(&a->experts[0].down);
    p.stride[0] = down;
    p.mode = AP_PUT_STORE;
    p.y16 = (uint16_t *)r.out;
    p.y_rows = 0;
    p.ldy = hidden;
    ap_cuda_wide(x, &p, tiles);
    launch_combine(x, a, (const uint16_t *)r.out, hidden, {more->shared, more->gate});
}

void ap_cuda_moe_with(const ap_exec *x, const ap_moe_args *a, const ap_moe_more *more)
{
    moe_wide(x, a, more);
}

void ap_cuda_moe(const ap_exec *x, const ap_moe_args *a)
{
    if (ap_cuda_moe_is_wide(x, a)) {
        ap_moe_more none = {};
        moe_wide(x, a, &none);
        return;
    }
    const ap_expert *e0 = any_expert(a);
    if (!a->n_tok || ap_cuda_moe_one(x, a)) return;
    if (!e0) {
        ap_cuda_check(ap_cuda_of(x), cudaErrorInvalidValue, "experts without weights");
        return;
    }
    job j = {x,
             a,
             lay_out((uint8_t *)a->scratch, a->n_tok, a->n_expert, a->n_used, e0->gate.cols,
                     e0->gate.rows),
             e0->gate.cols,
             e0->gate.rows,
             a->n_tok * a->n_used,
             false};
    size_t gate, up, down;
    bool even = is_even(a, &gate, &up, &down);
    bool one = a->n_tok == 1 && even;
    bool quick =
        ap_in_integers(x, &e0->gate) && ap_in_integers(x, &e0->up) && ap_in_integers(x, &e0->down);
    j.tiled = even && is_many(a) && quick;
    ap_product_args p = {};
    p.n_used = a->n_used;
    p.act = a->act;
    p.n_row = j.pairs;
    if (one) {
        p.expert = a->ids;
    } else {
        ap_launch(x, plan, dim3(1), dim3(PLAN_THREADS), (size_t)a->n_expert * 4, a->ids, j.pairs,
                  a->n_expert, (int)TILE, false, j.r);
        p.expert = j.tiled ? j.r.tile_expert : j.r.active;
        p.n_active = j.r.count + (j.tiled ? 1 : 0);
        p.first = j.r.first;
        p.tile_first = j.r.tile_first;
        p.pair = j.r.pair;
    }
    int groups = one       ? a->n_used
                 : j.tiled ? most_tiles(j.pairs, a->n_expert, TILE)
                           : (j.pairs < a->n_expert ? j.pairs : a->n_expert);

    /* gate and up */
    ap_qin x_q = ap_qin_at(j.r.x_q, a->n_tok, j.hidden),
           mid_q = ap_qin_at(j.r.mid_q, j.pairs, j.ffn);
    if (!one && (ap_in_integers(x, &e0->gate) || ap_in_integers(x, &e0->up)))
        ap_cuda_quantise(x, a->x, a->ldx, a->n_tok, j.hidden, x_q);
    p.y = j.r.mid;
    p.ldy = j.ffn;
    p.by_token = true;
    p.stride[0] = gate;
    p.stride[1] = up;
    if (even)
        project(&j, p, &a->experts[0].gate, &a->experts[0].up, a->x, one ? 0 : a->ldx, x_q, groups);
    else
        each_expert(&j, p, false, a->x, a->ldx, x_q);

    /* down */
    if (!one && ap_in_integers(x, &e0->down))
        ap_cuda_quantise(x, j.r.mid, j.ffn, j.pairs, j.ffn, mid_q);
    p.y = j.r.out;
    p.ldy = j.hidden;
    p.by_token = false;
    p.stride[0] = down;
    if (even)
        project(&j, p, &a->experts[0].down, NULL, j.r.mid, j.ffn, mid_q, groups);
    else
        each_expert(&j, p, true, j.r.mid, j.ffn, mid_q);

    launch_combine(x, a, (const float *)j.r.out, j.hidden, {});
}
