/* sample.cu - the next token of each row of logits.
 *
 * A row is cut into groups of 128 ids. In up to four launches
 *   adjust  penalties and biases, where the ids that have them are
 *   scan    masks; the largest logit of each group
 *   weigh   the mass of each group, and of the ids in each octave of weight: rows without top-k
 *   choose  a block a row: the largest logit, or the ids that can be drawn, in order, and the draw
 * Weights exp((x - max) / temperature) are integers of 42 binary places: their sums are exact, so that neither
 * the order of summation nor that of atomic additions matters, and each query ("which is the first id with so
 * much mass before it?") has one answer. Ids lighter than 2^-43 of the likeliest are never drawn.
 *
 * Candidates are ordered by falling logit, then rising id, as 64-bit numbers: the logit's order above the
 * complement of the id. */
#include <float.h>

#include "kern/cuda/order.cuh"
#include "kern/cuda/quad.cuh"

#define ROWS         32    /* of a launch: their settings are an argument, which ends at 4 KB */
#define GROUP        128   /* ids that a warp takes at once */
#define OCTAVES      43    /* of weights: 2^-b >= w > 2^-(b + 1) or so, see octave_of */
#define PLACES       42    /* binary places of a weight: 2^21 of them do not overflow */
#define LIST         32768 /* candidates that are written down; more are looked for again and again */
#define SORTED       2048 /* candidates that are sorted in shared memory */
#define TOP_K_MOST   512  /* more than that is not looked for by groups */
#define BLOCK        1024 /* threads of choose and adjust */
#define WARPS        8    /* of a block of scan and weigh */
#define WEIGH_GROUPS 4    /* of a warp of weigh */

#define ALL 0xffffffffu
#define ODD 0xffffffffu /* the order of logits that are not finite */

struct sample_params {
    float *logits; /* f32 [n, V] */
    int32_t *id;
    int vocab, groups;
    uint64_t *mass;   /* [n, groups] */
    uint64_t *octave; /* [n, OCTAVES] mass, rounded down */
    uint64_t *list;   /* [n, LIST] candidates */
    uint32_t *top;    /* [n, groups] order of the largest logit */
    uint32_t *count;  /* [n, V] */
    ap_sample_row row[ROWS];
};

/* What the host and the kernels ask of a row. */
static __host__ __device__ inline bool is_greedy(const ap_sample_row &r)
{
    return r.temperature == 0;
}
static __host__ __device__ inline bool has_penalty(const ap_sample_row &r)
{
    return r.n_history > 0 && (r.repetition != 1 || r.presence != 0 || r.frequency != 0);
}
static __host__ __device__ inline bool has_top_k(const ap_sample_row &r, int vocab)
{
    return r.top_k > 0 && r.top_k < vocab;
}
static __host__ __device__ inline bool is_weighed(const ap_sample_row &r, int vocab)
{
    return !is_greedy(r) && !has_top_k(r, vocab);
}

/* ------------------------------------------------------------------ adjust */

/* Logits that are not finite stay: scan tells of them. */
static __device__ __forceinline__ float clamped(float old, float x)
{
    if (!(old <= FLT_MAX)) return old;
    return x > FLT_MAX ? FLT_MAX : x == x ? x : -INFINITY;
}

static __device__ float penalised(const ap_sample_row &r, float old, uint32_t n)
{
    float x = old < 0 ? old * r.repetition : old / r.repetition;
    x = __fsub_rn(x, __fadd_rn(r.presence, __fmul_rn(r.frequency, (float)n)));
    return clamped(old, x);
}

/* Count the ids of the history, then change each once: whoever takes its count away does. */
static __device__ void penalise(const ap_sample_row &r, float *x, int vocab, uint32_t *count)
{
    for (int step = 0; step < 3; step++) {
        for (int i = (int)threadIdx.x; i < r.n_history; i += BLOCK) {
            int32_t id = r.history[i];
            if (id < 0 || id >= vocab) continue;
            if (step == 0) {
                count[id] = 0;
            } else if (step == 1) {
                atomicAdd(&count[id], 1);
            } else {
                uint32_t n = atomicExch(&count[id], 0);
                if (n) x[id] = penalised(r, x[id], n);
            }
        }
        __syncthreads();
    }
}

/* All biases of the id at i, in their order, if i is the first that names it. */
static __device__ void add_biases(const ap_sample_row &r, int i, float *x, int vocab)
{
    int32_t id = r.bias_id[i];
    if (id < 0 || id >= vocab) return;
    for (int j = 0; j < i; j++)
        if (r.bias_id[j] == id) return;
    float v = x[id];
    for (int j = i; j < r.n_bias; j++)
        if (r.bias_id[j] == id) v = clamped(v, v + r.bias[j]);
    x[id] = v;
}

static __global__ void __launch_bounds__(BLOCK) adjust(sample_params p)
{
    const ap_sample_row &r = p.row[blockIdx.x];
    float *x = p.logits + (size_t)blockIdx.x * p.vocab;
    ap_grid_wait();
    if (has_penalty(r)) penalise(r, x, p.vocab, p.count + (size_t)blockIdx.x * p.vocab);
    for (int i = (int)threadIdx.x; i < r.n_bias; i += BLOCK) add_biases(r, i, x, p.vocab);
}

/* ------------------------------------------------------------------ scan */

static __global__ void __launch_bounds__(WARPS *AP_WARP) scan(sample_params p)
{
    const ap_sample_row &r = p.row[blockIdx.y];
    int lane = (int)threadIdx.x % AP_WARP, g = (int)(blockIdx.x * WARPS + threadIdx.x / AP_WARP);
    float *x = p.logits + (size_t)blockIdx.y * p.vocab;
    ap_grid_wait();
    if (blockIdx.x == 0 && threadIdx.x < OCTAVES) p.octave[blockIdx.y * OCTAVES + threadIdx.x] = 0;
    if (g >= p.groups) return;
    uint32_t best = 0;
#pragma unroll
    for (int i = 0; i < GROUP / AP_WARP; i++) {
        int e = g * GROUP + i * AP_WARP + lane;
        if (e >= p.vocab) continue;
        float v = x[e];
        uint32_t order = v <= FLT_MAX ? ap_order_of(v) : ODD;
        if (r.mask && !(r.mask[e / 32] >> lane & 1)) {
            x[e] = -INFINITY;
            if (order != ODD) order = ap_order_of(-INFINITY);
        }
        best = max(best, order);
    }
    best = __reduce_max_sync(ALL, best);
    if (lane == 0) p.top[(size_t)blockIdx.y * p.groups + g] = best;
}

/* ------------------------------------------------------------------ weights */

/* Of a row: the weight of a logit is exp((x - max) * by). */
struct law {
    double max, by;
};

static __device__ __forceinline__ law law_of(const ap_sample_row &r, uint32_t top)
{
    return {(double)ap_float_of(top), 1 / (double)r.temperature};
}

static __device__ __forceinline__ uint64_t fixed(float w)
{
    return __float2ull_rn(w * (float)(1ull << PLACES));
}

static __device__ __forceinline__ uint64_t weight_of(law l, float x)
{
    return fixed(expf((float)(((double)x - l.max) * l.by)));
}

/* The least weight that min-p leaves. */
static __device__ __forceinline__ uint64_t least_of(const ap_sample_row &r)
{
    uint64_t w = __float2ull_ru(r.min_p * (float)(1ull << PLACES));
    return w ? w : 1;
}

/* 0 for the weight 1, up to PLACES for the smallest; the weight's first 17 bits */
static __device__ __forceinline__ int octave_of(uint64_t w, uint32_t *bits)
{
    int high = 63 - __clzll((long long)w), shift = high - 16;
    *bits = (uint32_t)(shift >= 0 ? w >> shift : w << -shift);
    return PLACES - high;
}

static __device__ __forceinline__ uint64_t octave_mass(int octave, uint64_t bits)
{
    int shift = PLACES - octave - 16;
    return shift >= 0 ? bits << shift : bits >> -shift;
}

static __device__ __forceinline__ uint64_t warp_sum(uint64_t v)
{
    for (int i = AP_WARP / 2; i; i /= 2) v += __shfl_xor_sync(ALL, v, i);
    return v;
}

static __global__ void __launch_bounds__(WARPS *AP_WARP) weigh(sample_params p)
{
    __shared__ uint32_t octave[OCTAVES],
        best[WARPS]; /* sums of fewer than 2^15 numbers of 17 bits */
    const ap_sample_row &r = p.row[blockIdx.y];
    int lane = (int)threadIdx.x % AP_WARP, warp = (int)threadIdx.x / AP_WARP;
    const float *x = p.logits + (size_t)blockIdx.y * p.vocab;
    const uint32_t *tops = p.top + (size_t)blockIdx.y * p.groups;
    ap_grid_wait();
    if (!is_weighed(r, p.vocab)) return;
    uint32_t top = 0;
    for (int g = (int)threadIdx.x; g < p.groups; g += WARPS * AP_WARP) top = max(top, tops[g]);
    top = __reduce_max_sync(ALL, top);
    if (lane == 0) best[warp] = top;
    if (threadIdx.x < OCTAVES) octave[threadIdx.x] = 0;
    __syncthreads();
    top = __reduce_max_sync(ALL, best[lane % WARPS]);
    if (top == ODD || top == ap_order_of(-INFINITY)) return;

    law l = law_of(r, top);
    uint64_t least = r.top_p < 1 ? 1 : least_of(r);
    for (int i = 0; i < WEIGH_GROUPS; i++) {
        int g = ((int)blockIdx.x * WEIGH_GROUPS + i) * WARPS + warp;
        if (g >= p.groups) break;
        uint64_t sum = 0;
#pragma unroll
        for (int j = 0; j < GROUP / AP_WARP; j++) {
            int e = g * GROUP + j * AP_WARP + lane;
            uint64_t w = e < p.vocab ? weight_of(l, x[e]) : 0;
            if (w < least) continue;
            uint32_t bits;
            int o = octave_of(w, &bits);
            atomicAdd(&octave[o], bits);
            sum += w;
        }
        sum = warp_sum(sum);
        if (lane == 0) p.mass[(size_t)blockIdx.y * p.groups + g] = sum;
    }
    __syncthreads();
    uint64_t add = threadIdx.x < OCTAVES ? octave_mass((int)threadIdx.x, octave[threadIdx.x]) : 0;
    unsigned long long *to = (unsigned long long *)p.octave + blockIdx.y * OCTAVES + threadIdx.x;
    if (add) atomicAdd(to, (unsigned long long)add);
}

/* ------------------------------------------------------------------ a block's sums */

static __device__ __forceinline__ uint32_t block_max(uint32_t v, uint64_t *part)
{
    v = __reduce_max_sync(ALL, v);
    if (threadIdx.x % AP_WARP == 0) part[threadIdx.x / AP_WARP] = v;
    __syncthreads();
    v = __reduce_max_sync(ALL, (uint32_t)part[threadIdx.x % AP_WARP]);
    __syncthreads();
    return v;
}

static __device__ __forceinline__ uint64_t block_sum(uint64_t v, uint64_t *part)
{
    v = warp_sum(v);
    if (threadIdx.x % AP_WARP == 0) part[threadIdx.x / AP_WARP] = v;
    __syncthreads();
    v = warp_sum(part[threadIdx.x % AP_WARP]);
    __syncthreads();
    return v;
}

/* v of the lanes up to this one */
static __device__ __forceinline__ uint64_t warp_scan(uint64_t v)
{
    int lane = (int)threadIdx.x % AP_WARP;
    for (int i = 1; i < AP_WARP; i *= 2) {
        uint64_t u = __shfl_up_sync(ALL, v, i);
        if (lane >= i) v += u;
    }
    return v;
}

/* v of the threads up to this one */
static __device__ __forceinline__ uint64_t block_scan(uint64_t v, uint64_t *part)
{
    int lane = (int)threadIdx.x % AP_WARP, warp = (int)threadIdx.x / AP_WARP;
    v = warp_scan(v);
    if (lane == AP_WARP - 1) part[warp] = v;
    __syncthreads();
    uint64_t before = __shfl_sync(ALL, warp_scan(part[lane]), warp ? warp - 1 : 0);
    __syncthreads();
    return warp ? before + v : v;
}

/* ------------------------------------------------------------------ candidates */

static __device__ __forceinline__ uint64_t candidate(uint32_t order, int id)
{
    return (uint64_t)order << 32 | (uint32_t)~id;
}
static __device__ __forceinline__ float logit_of(uint64_t c)
{
    return ap_float_of((uint32_t)(c >> 32));
}
static __device__ __forceinline__ int32_t id_of(uint64_t c)
{
    return (int32_t) ~(uint32_t)c;
}

/* What a block of choose works with. */
struct choice {
    const ap_sample_row *r;
    const float *x;       /* f32 [V] */
    const uint32_t *top;  /* [groups] */
    const uint64_t *mass; /* [groups] */
    const uint64_t *octave;
    uint64_t *list;
    int vocab, groups;
    law l;
};

/* Shared memory of choose. */
struct choose_room {
    uint64_t sorted[SORTED];
    uint64_t part[AP_WARP];
    uint64_t word; /* from one thread to all */
    unsigned n;    /* candidates so far */
};

/* The id that is drawn is the first one at whose end there is more mass than this. */
static __device__ __forceinline__ uint64_t drawn_mass(const ap_sample_row &r, uint64_t total)
{
    return __umul64hi(r.random & ~(uint64_t)2047, total);
}

/* The last id that top-p keeps is the first one at whose end there is more mass than this. */
static __device__ __forceinline__ uint64_t kept_mass(const ap_sample_row &r, uint64_t all)
{
    uint64_t m = __double2ull_ru((double)r.top_p * (double)all);
    return m ? m - 1 : 0;
}

/* An order that the k first candidates have or exceed: the k-th of the threads' largest. */
static __device__ uint32_t top_k_order(const choice &c)
{
    uint32_t mine = 0, order = 0;
    for (int g = (int)threadIdx.x; g < c.groups; g += BLOCK) mine = max(mine, c.top[g]);
    for (int bit = 31; bit >= 0; bit--) {
        uint32_t next = order | 1u << bit;
        if (__syncthreads_count(mine >= next) >= c.r->top_k) order = next;
    }
    return order;
}

/* A weight that all of those have which top-p keeps. */
static __device__ uint64_t top_p_weight(const choice &c, uint64_t all)
{
    uint64_t sum = 0, goal = kept_mass(*c.r, all);
    for (int o = 0; o < OCTAVES; o++) {
        sum += c.octave[o];
        if (sum > goal) return 1ull << (PLACES - o);
    }
    return 1;
}

/* Write down the candidates of an order and a weight; returns their number, which may be more than LIST. */
static __device__ unsigned list_candidates(const choice &c, uint32_t order, uint64_t least,
                                           choose_room &room)
{
    int lane = (int)threadIdx.x % AP_WARP, warp = (int)threadIdx.x / AP_WARP;
    if (threadIdx.x == 0) room.n = 0;
    __syncthreads();
    for (int g0 = warp * AP_WARP; g0 < c.groups; g0 += BLOCK) {
        uint32_t top = g0 + lane < c.groups ? c.top[g0 + lane] : 0;
        bool any = top && top >= order && weight_of(c.l, ap_float_of(top)) >= least;
        for (uint32_t left = __ballot_sync(ALL, any); left; left &= left - 1) {
            int g = g0 + __ffs((int)left) - 1;
#pragma unroll
            for (int i = 0; i < GROUP / AP_WARP; i++) {
                int e = g * GROUP + i * AP_WARP + lane;
                float x = e < c.vocab ? c.x[e] : -INFINITY;
                uint32_t o = ap_order_of(x);
                bool in = o >= order && weight_of(c.l, x) >= least;
                uint32_t all = __ballot_sync(ALL, in);
                if (!all) continue;
                unsigned at = lane == 0 ? atomicAdd(&room.n, (unsigned)__popc(all)) : 0;
                at = __shfl_sync(ALL, at, 0) + (unsigned)__popc(all & ((1u << lane) - 1));
                if (in && at < LIST) c.list[at] = candidate(o, e);
            }
        }
    }
    __syncthreads();
    return room.n;
}

/* ------------------------------------------------------------------ few candidates: sort them */

/* Falling; size is a power of two, at most SORTED. */
static __device__ void sort(uint64_t *s, unsigned size)
{
    for (unsigned k = 2; k <= size; k *= 2)
        for (unsigned j = k / 2; j; j /= 2) {
            unsigned t = threadIdx.x, i = (t & ~(j - 1)) * 2 + (t & (j - 1));
            if (t < size / 2) {
                uint64_t a = s[i], b = s[i + j];
                if ((a < b) == !(i & k)) {
                    s[i] = b;
                    s[i + j] = a;
                }
            }
            __syncthreads();
        }
}

/* How many of n end before there is more mass than the goal; this thread has those at i and i + 1. */
static __device__ __forceinline__ unsigned ended(unsigned i, unsigned n, uint64_t end0,
                                                 uint64_t end1, uint64_t goal)
{
    int a = __syncthreads_count(i < n && end0 <= goal),
        b = __syncthreads_count(i + 1 < n && end1 <= goal);
    return (unsigned)(a + b);
}

/* all: the mass that top-p speaks of; 0 = that of the candidates */
static __device__ int32_t draw_sorted(const choice &c, unsigned n, uint64_t all, choose_room &room)
{
    unsigned size = 2, i = 2 * threadIdx.x;
    while (size < n) size *= 2;
    for (unsigned j = threadIdx.x; j < size; j += BLOCK) room.sorted[j] = j < n ? c.list[j] : 0;
    __syncthreads();
    sort(room.sorted, size);
    if (has_top_k(*c.r, c.vocab) && n > (unsigned)c.r->top_k) n = (unsigned)c.r->top_k;

    /* this thread's two candidates, and the mass up to the end of each */
    uint64_t w0 = i < n ? weight_of(c.l, logit_of(room.sorted[i])) : 0;
    uint64_t w1 = i + 1 < n ? weight_of(c.l, logit_of(room.sorted[i + 1])) : 0;
    uint64_t end1 = block_scan(w0 + w1, room.part), end0 = end1 - w1;
    if (threadIdx.x == BLOCK - 1) room.word = end1;
    __syncthreads();
    if (!all) all = room.word;
    unsigned kept = n;
    if (c.r->top_p < 1) {
        uint64_t goal = kept_mass(*c.r, all);
        kept = min(n, ended(i, n, end0, end1, goal) + 1);
    }
    uint64_t least = least_of(*c.r);
    kept =
        min(kept, (unsigned)(__syncthreads_count(w0 >= least) + __syncthreads_count(w1 >= least)));
    if (i + 1 == kept) room.word = end0;
    if (i + 2 == kept) room.word = end1;
    __syncthreads();
    uint64_t goal = drawn_mass(*c.r, room.word);
    return id_of(room.sorted[min(ended(i, kept, end0, end1, goal), kept - 1)]);
}

/* ------------------------------------------------------------------ many: search bit by bit */

/* Candidates in memory, or NULL: all ids of x. */
struct source {
    const uint64_t *list;
    const float *x;
    int n;
};

static __device__ __forceinline__ uint64_t source_at(const source &s, int i)
{
    return s.list ? s.list[i] : candidate(ap_order_of(s.x[i]), i);
}

/* The number or mass of the candidates in [from, to] that weigh at least that. */
template <bool MASS>
static __device__ uint64_t measure(const source &s, law l, uint64_t from, uint64_t to,
                                   uint64_t least, uint64_t *part)
{
    uint64_t sum = 0;
    for (int i = (int)threadIdx.x; i < s.n; i += BLOCK) {
        uint64_t c = source_at(s, i);
        if (c < from || c > to) continue;
        uint64_t w = weight_of(l, logit_of(c));
        if (w >= least) sum += MASS ? w : 1;
    }
    return block_sum(sum, part);
}

/* The first candidate with more than `goal` from the start to its end; 0 = none. */
template <bool MASS>
static __device__ uint64_t find(const source &s, law l, int vocab, uint64_t least, uint64_t goal,
                                uint64_t *part)
{
    uint64_t low = 0, high = ~(uint64_t)0, before = 0;
    for (int bit = 63; bit >= 0; bit--) {
        uint64_t middle = low | (uint64_t)1 << bit;
        if (bit < 32 && (uint32_t)vocab <= 1u << bit) { /* in the complements of all ids */
            low = middle;
            continue;
        }
        uint64_t m = measure<MASS>(s, l, middle, high, least, part);
        if (before + m > goal) {
            low = middle;
        } else {
            before += m;
            high = middle - 1;
        }
    }
    return low >> 32 ? low : 0; /* no order is 0 */
}

static __device__ int32_t draw_searched(const choice &c, const source &s, uint64_t all,
                                        choose_room &room)
{
    const uint64_t most = ~(uint64_t)0;
    uint64_t from = 0, least = least_of(*c.r);
    if (has_top_k(*c.r, c.vocab))
        from = find<false>(s, c.l, c.vocab, 1, (uint64_t)c.r->top_k - 1, room.part);
    if (c.r->top_p < 1) {
        if (!all) all = measure<true>(s, c.l, from, most, 1, room.part);
        from = max(from, find<true>(s, c.l, c.vocab, 1, kept_mass(*c.r, all), room.part));
    }
    uint64_t total = measure<true>(s, c.l, from, most, least, room.part);
    return id_of(find<true>(s, c.l, c.vocab, least, drawn_mass(*c.r, total), room.part));
}

/* ------------------------------------------------------------------ choose */

/* The lowest id with the largest logit. */
static __device__ int32_t first_of(const choice &c, uint32_t top, choose_room &room)
{
    uint32_t near = 0; /* complement of the first group */
    for (int g = (int)threadIdx.x; g < c.groups; g += BLOCK)
        if (c.top[g] == top) near = max(near, ~(uint32_t)g);
    int g = (int)~block_max(near, room.part), e = g * GROUP + (int)threadIdx.x;
    near = threadIdx.x < GROUP && e < c.vocab && ap_order_of(c.x[e]) == top ? ~(uint32_t)e : 0;
    return (int32_t)~block_max(near, room.part);
}

/* Neither top-k nor top-p: the order is that of ids. The first of n weights that ends beyond the goal, by one
 * warp; *goal becomes what is left of it there. */
template <typename F> static __device__ int walk(int n, uint64_t *goal, F weight)
{
    int lane = (int)threadIdx.x % AP_WARP, last = 0;
    for (int i = 0; i < n; i += AP_WARP) {
        uint64_t w = i + lane < n ? weight(i + lane) : 0, end = warp_scan(w);
        uint32_t beyond = __ballot_sync(ALL, end > *goal), some = __ballot_sync(ALL, w > 0);
        if (beyond) {
            int at = __ffs((int)beyond) - 1;
            *goal -= __shfl_sync(ALL, end - w, at);
            return i + at;
        }
        if (some) last = i + 31 - __clz((int)some);
        *goal -= __shfl_sync(ALL, end, AP_WARP - 1);
    }
    return last;
}

static __device__ int32_t draw_all(const choice &c, uint64_t total)
{
    if (threadIdx.x >= AP_WARP) return 0; /* the first thread writes the id */
    uint64_t goal = drawn_mass(*c.r, total), least = least_of(*c.r);
    int begin = walk(c.groups, &goal, [&](int g) { return c.mass[g]; }) * GROUP;
    return begin + walk(min(GROUP, c.vocab - begin), &goal, [&](int i) {
               uint64_t w = weight_of(c.l, c.x[begin + i]);
               return w >= least ? w : (uint64_t)0;
           });
}

static __device__ int32_t draw(const choice &c, choose_room &room)
{
    uint64_t all = 0, least = 1;
    uint32_t order = 0;
    if (!has_top_k(*c.r, c.vocab)) {
        for (int g = (int)threadIdx.x; g < c.groups; g += BLOCK) all += c.mass[g];
        all = block_sum(all, room.part);
        if (c.r->top_p >= 1) return draw_all(c, all);
        least = top_p_weight(c, all);
    } else if (c.r->top_k <= TOP_K_MOST) {
        order = top_k_order(c);
    }
    unsigned n = list_candidates(c, order, least, room);
    if (n <= SORTED) return draw_sorted(c, n, all, room);
    source s = {n <= LIST ? c.list : NULL, c.x, n <= LIST ? (int)n : c.vocab};
    return draw_searched(c, s, all, room);
}

static __global__ void __launch_bounds__(BLOCK) choose(sample_params p)
{
    __shared__ choose_room room;
    size_t row = blockIdx.x;
    choice c = {};
    c.r = &p.row[row];
    c.x = p.logits + row * p.vocab;
    c.top = p.top + row * p.groups;
    c.mass = p.mass + row * p.groups;
    c.octave = p.octave + row * OCTAVES;
    c.list = p.list + row * LIST;
    c.vocab = p.vocab;
    c.groups = p.groups;
    ap_grid_wait();
    uint32_t top = 0;
    for (int g = (int)threadIdx.x; g < p.groups; g += BLOCK) top = max(top, c.top[g]);
    top = block_max(top, room.part);
    int32_t id;
    if (top == ODD) {
        id = -1;
    } else if (is_greedy(*c.r) || top == ap_order_of(-INFINITY)) {
        id = first_of(c, top, room);
    } else {
        c.l = law_of(*c.r, top);
        id = draw(c, room);
    }
    if (threadIdx.x == 0) p.id[row] = id;
}

/* ------------------------------------------------------------------ the slots */

/* Put the arrays of n rows into memory; returns the bytes. */
static size_t place(sample_params *p, int n, int vocab, void *memory)
{
    uintptr_t at = (uintptr_t)memory;
    size_t rows = (size_t)(n < ROWS ? n : ROWS), groups = ap_ceil_div(vocab, GROUP);
    p->vocab = vocab;
    p->groups = (int)groups;
    p->mass = (uint64_t *)at;
    at += rows * groups * sizeof *p->mass;
    p->octave = (uint64_t *)at;
    at += rows * OCTAVES * sizeof *p->octave;
    p->list = (uint64_t *)at;
    at += rows * LIST * sizeof *p->list;
    p->top = (uint32_t *)at;
    at += rows * groups * sizeof *p->top;
    p->count = (uint32_t *)at;
    at += rows * (size_t)vocab * sizeof *p->count;
    return at - (uintptr_t)memory;
}

size_t ap_cuda_sample_scratch_bytes(const ap_exec *x, int n, int vocab)
{
    sample_params p;
    (void)x;
    return n > 0 && vocab > 0 ? place(&p, n, vocab, NULL) : 0;
}

static void sample_rows(const ap_exec *x, const sample_params &p, int n)
{
    bool adjusts = false, weighs = false;
    for (int i = 0; i < n; i++) {
        adjusts = adjusts || has_penalty(p.row[i]) || p.row[i].n_bias > 0;
        weighs = weighs || is_weighed(p.row[i], p.vocab);
    }
    dim3 rows((unsigned)n), threads(WARPS * AP_WARP);
    dim3 scans(ap_ceil_div(p.groups, WARPS), (unsigned)n);
    dim3 weighings(ap_ceil_div(p.groups, WARPS * WEIGH_GROUPS), (unsigned)n);
    if (adjusts) ap_launch(x, adjust, rows, dim3(BLOCK), 0, p);
    ap_launch(x, scan, scans, threads, 0, p);
    if (weighs) ap_launch(x, weigh, weighings, threads, 0, p);
    ap_launch(x, choose, rows, dim3(BLOCK), 0, p);
}

void ap_cuda_sample(const ap_exec *x, const ap_sample_args *a)
{
    sample_params p = {};
    if (a->n <= 0 || a->vocab <= 0) return;
    place(&p, a->n, a->vocab, a->scratch);
    for (int i = 0; i < a->n; i += ROWS) {
        int n = a->n - i < ROWS ? a->n - i : ROWS;
        p.logits = a->logits + (size_t)i * (size_t)a->vocab;
        p.id = a->id + i;
        for (int r = 0; r < n; r++) p.row[r] = a->row[i + r];
        sample_rows(x, p, n);
    }
}
