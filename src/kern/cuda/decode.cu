/* decode.cu - products for one token, and groups of operations: as few launches as their dependencies allow.
 *
 *   project  norm and all products of one input; alone, any product of one row
 *   router   norm, the router's logits and the shared expert's gate: a cluster for each panel
 *   middle   gate and up of all experts
 *   down     down of all of them and the combination
 * Blocks ask for their weights before they wait for the kernel ahead; then each norms the row and makes it integers by
 * itself, which costs less than handing it over from a launch of its own. The choice of experts, too, is made by every
 * block that wants it.
 *
 * The Orders are those of the operations, to the bit: a token's result is the same alone and in a batch. */
#include <string.h>

#include "choice.cuh"
#include "cluster.cuh"
#include "decode.cuh"
#include "floats.cuh"
#include "quad.cuh"

extern "C" {
#include "kern/groups.h"
}

enum {
    MOST_COLS = 8192,
    MOST_EXPERTS = 15,
    MOST_WARPS = 16, /* of a block, that multiply */
    PROJECT_WARPS = 24,
    LEAST_WARPS = 16, /* that make the row */
    MOST_SLOTS = 3
};

#define MOST_SHARED ((size_t)94 << 10) /* of a block, on all devices */

/* ------------------------------------------------------------------ the row */

struct row_args {
    const float *x, *norm; /* norm NULL: the row is as it should be */
    float eps, *h;         /* h: where the normed row goes, or NULL */
    const uint8_t *ready;  /* instead of all that: an ap_in_row that the kernel ahead has made */
    int cols;
};

/* What the row is multiplied by, in the order of norm_rows (rows.cu): threads of its own number are walked through. */
static __device__ __forceinline__ float norm_factor(const row_args &a)
{
    __shared__ float part[32], factor;
    int quads = a.cols / 4, each = a.cols <= 128 ? 1 : 2;
    int threads = each == 1 ? 32 : (a.cols + 255) / 256 * 32, lane = threadIdx.x % 32;
#pragma unroll 1
    for (int t = threadIdx.x; t < threads; t += (int)blockDim.x) {
        float4 none = make_float4(0, 0, 0, 0), v = none, w = none;
        if (t < quads) v = ((const float4 *)a.x)[t];
        if (each == 2 && t + threads < quads) w = ((const float4 *)a.x)[t + threads];
        float sum = ap_warp_sum(ap_square_sum(w, ap_square_sum(v, 0)));
        if (lane == 0) part[t / 32] = sum;
    }
    __syncthreads();
    if (threadIdx.x < 32) {
        float total =
            threads == 32 ? part[0] : ap_warp_sum(lane < threads / 32 ? part[lane] : 0.0f);
        if (lane == 0) factor = ap_norm_factor(total, a.cols, a.eps);
    }
    __syncthreads();
    return factor;
}

static __device__ __forceinline__ float4 normed(float4 v, float r, float4 w)
{
    return make_float4(v.x * r * w.x, v.y * r * w.y, v.z * r * w.z, v.w * r * w.w);
}

/* The row as integers. weight: those of the norm, in shared memory once `arrived`. All threads of the block; the first
 * one has made the barrier ready. */
static __device__ __forceinline__ void make_row(const row_args &a, const float *weight,
                                                uint64_t *arrived, const ap_in_row &in, bool puts)
{
    int quads = a.cols / 4;
    float r = 1;
    if (a.ready) {
        ap_bulk_copy(arrived, in.block, a.ready, ap_in_row_bytes(a.cols), threadIdx.x, blockDim.x);
        __syncthreads();
        ap_bulk_wait(arrived, 0);
        return;
    }
    if (a.norm) {
        r = norm_factor(a);
        ap_bulk_wait(arrived, 0);
    }
#pragma unroll 1
    for (int u = threadIdx.x; u < (quads + 31) / 32 * 32; u += (int)blockDim.x) {
        bool live = u < quads;
        float4 v = live ? ((const float4 *)a.x)[u] : make_float4(0, 0, 0, 0);
        if (a.norm && live) {
            v = normed(v, r, ((const float4 *)weight)[u]);
            if (puts && a.h) ((float4 *)a.h)[u] = v;
        }
        ap_put_inputs(in, u, live, v);
    }
    __syncthreads();
}

/* ------------------------------------------------------------------ project */

struct project_mat {
    ap_qmat q;
    float *y;
    int form, first; /* in the set; block of the grid */
};

struct project_args {
    row_args row;
    project_mat m[AP_GROUP];
    int n_mat, each; /* panels that a block has at a time: a group */
    int step, slots; /* from group to group of a block; groups that there is room for */
    uint32_t room;   /* of a group */
    int log_warps;   /* of a panel */
    int mode, act;
    float softcap;
};

static __device__ __forceinline__ float put_value(const project_args &a, float old, float v)
{
    if (a.mode == AP_PUT_ADD) v = old + v;
    if (a.mode == AP_PUT_TIMES) v = (a.act == AP_ACT_SILU ? ap_silu(old) : ap_gelu_tanh(old)) * v;
    return a.softcap != 0.0f ? a.softcap * tanhf(v / a.softcap) : v;
}

/* Begin to copy a group of panels. All threads of the block. */
static __device__ __forceinline__ void ask(const project_args &a, const ap_qmat &q, int group,
                                           uint64_t *arrived, uint8_t *to)
{
    int first = group * a.each, n = min((q.rows + AP_PANEL - 1) / AP_PANEL - first, a.each);
    ap_bulk_copy(arrived, to, q.data + (size_t)first * q.panel_bytes,
                 (uint32_t)n * (uint32_t)q.panel_bytes, threadIdx.x, blockDim.x);
}

template <class SET>
static __global__ void __launch_bounds__(PROJECT_WARPS * 32)
    project(const __grid_constant__ project_args a)
{
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ uint64_t arrived[MOST_SLOTS + 1];
    int which = 0;
    while (which + 1 < a.n_mat && (int)blockIdx.x >= a.m[which + 1].first) which++;
    const project_mat &m = a.m[which];
    const ap_qmat q = m.q; /* in registers: parameters at an address of their own are slow */
    int panels = (q.rows + AP_PANEL - 1) / AP_PANEL, group = (int)blockIdx.x - m.first,
        groups = (panels + a.each - 1) / a.each;
    ap_in_row in = ap_in_row_at(shared + a.slots * a.room, a.row.cols);
    /* the norm's weights; when the row is there, sums of parts, two rounds of them if there are more */
    float *weight = (float *)(shared + a.slots * a.room + ap_in_row_bytes(a.row.cols)),
          (*red)[AP_PANEL] = (float(*)[AP_PANEL])weight;
    if (threadIdx.x == 0) ap_bulk_init(arrived, MOST_SLOTS + 1);
    if (a.row.norm)
        ap_bulk_copy(&arrived[MOST_SLOTS], weight, a.row.norm, (uint32_t)a.row.cols * 4,
                     threadIdx.x, blockDim.x);
#pragma unroll 1
    for (int s = 0; s < a.slots && group + s * a.step < groups; s++)
        ask(a, q, group + s * a.step, &arrived[s], shared + s * a.room);
    ap_grid_wait();
    make_row(a.row, weight, &arrived[MOST_SLOTS], in, blockIdx.x == 0);

    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, parts = 4 << a.log_warps;
    int own = warp >> a.log_warps, slot = 0, phase = 0, sums = 0;
#pragma unroll 1
    for (; group < groups; group += a.step, sums ^= (int)blockDim.x / 8) {
        int row = group * a.each * AP_PANEL + threadIdx.x;
        bool puts = (int)threadIdx.x < a.each * AP_PANEL && row < q.rows;
        float old = puts && a.mode != AP_PUT_STORE ? m.y[row] : 0.0f, acc[2] = {0, 0};
        ap_bulk_wait(&arrived[slot], phase);
        if (own < a.each && group * a.each + own < panels)
            SET::parts(m.form, q, shared + slot * a.room + own * (uint32_t)q.panel_bytes, in,
                       (warp & ((1 << a.log_warps) - 1)) * 4, a.log_warps + 2, acc);
#pragma unroll
        for (int r = 0; r < 2; r++) red[sums + warp * 4 + (lane & 3)][2 * (lane >> 2) + r] = acc[r];
        __syncthreads();
        if (a.slots * a.step < groups - group) {
            ask(a, q, group + a.slots * a.step, &arrived[slot], shared + slot * a.room);
#if __CUDA_ARCH__ < 900
            __syncthreads();
#endif
        }
        if (puts)
            m.y[row] = put_value(
                a, old,
                ap_sum_parts(&red[sums + threadIdx.x / AP_PANEL * parts][threadIdx.x % AP_PANEL],
                             parts));
        if (++slot == a.slots) slot = 0, phase ^= 1;
    }
}

static int project_warps(const project_args &a)
{
    int warps = a.each << a.log_warps;
    return warps < LEAST_WARPS && a.slots == 1 ? LEAST_WARPS : warps;
}

static size_t project_shared(const project_args &a)
{
    size_t sums = (size_t)project_warps(a) * 4 * AP_PANEL * sizeof(float) * (a.slots > 1 ? 2 : 1),
           weights = a.row.norm ? (size_t)a.row.cols * sizeof(float) : 0;
    return (size_t)a.slots * a.room + ap_in_row_bytes(a.row.cols) +
           (sums > weights ? sums : weights);
}

/* Room for groups of `each` panels. */
static void set_each(project_args *a, int each)
{
    a->each = each;
    a->room = 0;
    for (int i = 0; i < a->n_mat; i++) {
        int panels = (a->m[i].q.rows + AP_PANEL - 1) / AP_PANEL, n = panels < each ? panels : each;
        uint32_t room = (uint32_t)n * (uint32_t)a->m[i].q.panel_bytes;
        if (room > a->room) a->room = room;
    }
}

static int project_blocks(project_args *a)
{
    int blocks = 0;
    for (int i = 0; i < a->n_mat; i++) {
        int panels = (a->m[i].q.rows + AP_PANEL - 1) / AP_PANEL;
        a->m[i].first = blocks;
        blocks += (panels + a->each - 1) / a->each;
    }
    return blocks;
}

/* How panels are shared out: all blocks at once, few to a multiprocessor, as each makes the row anew. A matrix that is
 * too large for that, and alone, streams through few blocks. False: a panel has no room. */
static bool share_out(const ap_exec *x, project_args *a)
{
    const ap_cuda *c = ap_cuda_of(x);
    size_t most = ap_cuda_shared_bytes(c) - (12 << 10);
    int warps = 1 << a->log_warps, panels = 0;
    for (int i = 0; i < a->n_mat; i++) panels += (a->m[i].q.rows + AP_PANEL - 1) / AP_PANEL;
    a->slots = 1;
    a->step = INT32_MAX / 4;
    for (int share = 1; share <= 4; share++) { /* blocks of a multiprocessor */
        int each = (panels + share * c->sm - 1) / (share * c->sm);
        set_each(a, each);
        while (project_blocks(a) > share * c->sm && each * warps < PROJECT_WARPS)
            set_each(a, ++each);
        if (each * warps <= PROJECT_WARPS && project_blocks(a) <= share * c->sm &&
            (size_t)share * (project_shared(*a) + (1 << 10)) <= most)
            return true;
    }
    if (a->n_mat == 1 && panels > 4 * c->sm) {
        set_each(a, 1);
        a->slots = 2;
        a->step = 3 * c->sm;
        while (a->step > c->sm && (size_t)(a->step / c->sm) * project_shared(*a) > most)
            a->step -= c->sm;
    } else {
        int each = MOST_WARPS / warps;
        for (set_each(a, each); each > 1 && project_shared(*a) > MOST_SHARED;) set_each(a, --each);
    }
    return project_shared(*a) <= most;
}

/* Form numbers of all matrices in SET. */
template <class SET> static bool take_forms(project_args *a)
{
    for (int i = 0; i < a->n_mat; i++)
        if ((a->m[i].form = SET::has(a->m[i].q.q)) < 0) return false;
    return true;
}

static bool launch_project(const ap_exec *x, project_args *a)
{
    a->log_warps = ap_log_warps(a->row.cols);
    if (a->row.cols % AP_Q_BLOCK || a->row.cols > 4 * MOST_COLS || !share_out(x, a)) return false;
    bool common = take_forms<ap_common_forms>(a);
    if (!common && !take_forms<ap_all_forms>(a)) return false;
    int blocks = project_blocks(a);
    if (blocks > a->step) blocks = a->step;
    unsigned threads = (unsigned)project_warps(*a) * 32;
    if (common)
        ap_launch(x, ap_most_shared(x, project<ap_common_forms>), dim3((unsigned)blocks),
                  dim3(threads), project_shared(*a), *a);
    else
        ap_launch(x, ap_most_shared(x, project<ap_all_forms>), dim3((unsigned)blocks),
                  dim3(threads), project_shared(*a), *a);
    return true;
}

bool ap_cuda_one(const ap_exec *x, const ap_product_args *p)
{
    project_args a = {};
    if (p->expert || p->mode == AP_PUT_GLU || !ap_aligned16(p->x)) return false;
    a.row.x = p->x;
    a.row.cols = p->w[0].cols;
    a.n_mat = 1;
    a.m[0].q = p->w[0];
    a.m[0].y = p->y;
    a.mode = p->mode;
    a.act = p->act;
    a.softcap = p->softcap;
    return launch_project(x, &a);
}

bool ap_cuda_ready_one(const ap_exec *x, const ap_mat *w, const uint8_t *row, float *y)
{
    project_args a = {};
    a.row.ready = row;
    a.row.cols = w->cols;
    a.n_mat = 1;
    a.m[0].q = ap_qmat_of(w);
    a.m[0].y = y;
    a.mode = AP_PUT_ADD;
    return launch_project(x, &a);
}

/* ------------------------------------------------------------------ products with floats */

struct float_mat {
    const uint8_t *data;
    size_t panel_bytes;
    float *y;
    int rows, kind, first; /* first: block of the grid */
};

struct float_args {
    row_args row;
    float_mat m[AP_GROUP];
    int n_mat;
};

/* A block for a panel. */
static __global__ void __launch_bounds__(256) project_floats(const __grid_constant__ float_args a)
{
    extern __shared__ __align__(16) float f[];
    __shared__ __align__(16) float red[AP_FLOAT_PARTS][AP_PANEL];
    int which = 0;
    while (which + 1 < a.n_mat && (int)blockIdx.x >= a.m[which + 1].first) which++;
    const float_mat &m = a.m[which];
    ap_grid_wait();
    float r = norm_factor(a.row);
    for (int u = threadIdx.x; u < a.row.cols / 4; u += (int)blockDim.x) {
        float4 v = normed(((const float4 *)a.row.x)[u], r, __ldg((const float4 *)a.row.norm + u));
        ((float4 *)f)[u] = v;
        if (blockIdx.x == 0 && a.row.h) ((float4 *)a.row.h)[u] = v;
    }
    __syncthreads();
    int panel = (int)blockIdx.x - m.first, row = panel * AP_PANEL + (int)threadIdx.x;
    const uint8_t *at = m.data + (size_t)panel * m.panel_bytes;
    float v = m.kind == AP_W_F32 ? ap_float_panel<AP_W_F32>(at, a.row.cols, f, red)
                                 : ap_float_panel<AP_W_BF16>(at, a.row.cols, f, red);
    if (threadIdx.x < AP_PANEL && row < m.rows) m.y[row] = v;
}

static bool is_float(const ap_mat *w)
{
    return !w->q.bits && (w->dtype == AP_BF16 || w->dtype == AP_F32);
}

static void launch_floats(const ap_exec *x, float_args *a)
{
    int blocks = 0;
    for (int i = 0; i < a->n_mat; i++) {
        a->m[i].first = blocks;
        blocks += (a->m[i].rows + AP_PANEL - 1) / AP_PANEL;
    }
    ap_launch(x, ap_most_shared(x, project_floats), dim3((unsigned)blocks), dim3(256),
              (size_t)a->row.cols * 4, *a);
}

/* ------------------------------------------------------------------ the slot */

static row_args row_of(const float *x, const float *norm, float eps, float *h, int cols)
{
    row_args r = {x, norm, eps, h, NULL, cols};
    return r;
}

static bool row_fits(const float *x, const float *norm, const float *h, int cols)
{
    return cols % 32 == 0 && cols <= MOST_COLS && ap_aligned16(x) && ap_aligned16(norm) &&
           ap_aligned16(h);
}

/* Rarer matrices go one after the other. */
static bool project_one(const ap_exec *x, const ap_project_args *p)
{
    project_args q = {};
    float_args f = {};
    if (p->n_tok != 1 || !row_fits(p->x, p->norm, p->h, p->w[0]->cols)) return false;
    q.row = f.row = row_of(p->x, p->norm, p->eps, p->h, p->w[0]->cols);
    for (int i = 0; i < p->n_mat; i++) {
        const ap_mat *w = p->w[i];
        if (ap_in_integers(x, w)) {
            q.m[q.n_mat].q = ap_qmat_of(w);
            q.m[q.n_mat++].y = p->y[i];
        } else if (is_float(w)) {
            float_mat m = {(const uint8_t *)w->data,
                           ap_mat_bytes(w) / ((size_t)(w->rows + AP_PANEL - 1) / AP_PANEL),
                           p->y[i],
                           w->rows,
                           w->dtype == AP_BF16 ? AP_W_BF16 : AP_W_F32,
                           0};
            f.m[f.n_mat++] = m;
        } else {
            return false;
        }
    }
    if (q.n_mat && !launch_project(x, &q)) return false;
    if (q.n_mat) f.row.h = NULL;
    if (f.n_mat) launch_floats(x, &f);
    return true;
}

void ap_cuda_project(const ap_exec *x, const ap_project_args *a)
{
    if (!project_one(x, a) && !ap_cuda_project_many(x, a)) ap_group_project(x, a);
}

/* ------------------------------------------------------------------ experts
 * What gate and up make of the row goes to `mid` as integers (ap_in_row), a row for each expert, the shared one last. */

/* One projection: of expert 0, `stride` bytes from it the next; and of the shared one, data NULL: none. */
struct expert_mat {
    ap_qmat w[2];
    int form[2];
    size_t stride;
};

/* Who is chosen: by logits, or, without, as ids and weights say. */
struct choice_args {
    const float *logits;
    int n_expert, n_used;
    bool norm;
    int32_t *ids;
    float *weights;
};

/* Gate and up of `pair` neighbouring panels of one expert. */
struct glu_args {
    expert_mat m[2];
    uint32_t room; /* of a panel */
    int log_warps, act, pair;
    uint8_t *mid;
    float *y; /* instead of mid: f32, of the shared expert alone */
};

static size_t glu_shared(const glu_args &g, const row_args &row)
{
    return 2 * (size_t)g.pair * g.room + (row.norm ? (size_t)row.cols * 4 : 0) +
           ap_in_row_bytes(row.cols);
}

/* Begin to copy the panels from `panel` on of expert e. */
static __device__ __forceinline__ void ask_glu(const glu_args &a, uint8_t *shared,
                                               uint64_t *arrived, int is_shared, size_t e,
                                               int panel, int thread, int threads)
{
    int n = min((a.m[0].w[is_shared].rows + AP_PANEL - 1) / AP_PANEL - panel, a.pair);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const ap_qmat &w = a.m[i].w[is_shared];
        ap_bulk_copy(&arrived[i], shared + i * a.pair * a.room,
                     w.data + e * a.m[i].stride + (size_t)panel * w.panel_bytes,
                     (uint32_t)n * (uint32_t)w.panel_bytes, thread, threads);
    }
}

/* act(gate) * up of the block's rows to out, as soon as panels have arrived; a barrier shows them. All of the block's
 * threads: those of (2 * pair) << log_warps warps multiply. */
template <class SET>
static __device__ __forceinline__ void glu_rows(const glu_args &a, const uint8_t *shared,
                                                uint64_t *arrived, const ap_in_row &in,
                                                int is_shared, float *out)
{
    __shared__ float red[MOST_WARPS * 4][AP_PANEL];
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, panel = warp >> a.log_warps;
    int k = panel >= a.pair, parts = 4 << a.log_warps;
    if (panel < 2 * a.pair) {
        const ap_qmat q = a.m[k].w[is_shared]; /* in registers: parameters elsewhere are slow */
        float acc[2] = {0, 0};
        ap_bulk_wait(&arrived[k], 0);
        SET::parts(a.m[k].form[is_shared], q,
                   shared + k * a.pair * a.room + (panel - k * a.pair) * (uint32_t)q.panel_bytes,
                   in, (warp & ((1 << a.log_warps) - 1)) * 4, a.log_warps + 2, acc);
#pragma unroll
        for (int r = 0; r < 2; r++) red[warp * 4 + (lane & 3)][2 * (lane >> 2) + r] = acc[r];
    }
    __syncthreads();
    if ((int)threadIdx.x >= a.pair * AP_PANEL) return;
    int at = threadIdx.x / AP_PANEL * parts, row = threadIdx.x % AP_PANEL;
    float g = ap_sum_parts(&red[at][row], parts),
          u = ap_sum_parts(&red[at + a.pair * parts][row], parts);
    out[threadIdx.x] = (a.act == AP_ACT_SILU ? ap_silu(g) : ap_gelu_tanh(g)) * u;
}

/* 32 values of an expert of F, from the block-th 32 on, as integers; by one warp. */
static __device__ __forceinline__ void put_mid(uint8_t *mid, int F, int expert, int block,
                                               const float *v)
{
    int l = threadIdx.x & 7;
    ap_in_row row = ap_in_row_at(mid + (size_t)expert * ap_in_row_bytes(F), F);
    ap_put_inputs(row, block * 8 + l, (threadIdx.x & 31) < 8, ((const float4 *)v)[l]);
}

/* ------------------------------------------------------------------ router */

enum { ROUTER_BLOCKS = 8 }; /* of a panel: a cluster */

struct router_args {
    row_args row;
    float *logits;
    uint8_t *ready;      /* room for the row as integers */
    const uint8_t *w[2]; /* the router; the shared expert's gate */
    float *gate;
    int n_expert, panels, blocks; /* panels of the router; blocks of both */
    int n_used;
    glu_args glu;
};

/* Bytes of inputs [0, n) of a panel. */
template <int KIND> static __host__ __device__ __forceinline__ uint32_t float_bytes(int n)
{
    return KIND == AP_W_F32 ? (uint32_t)n * AP_PANEL * 4 : (uint32_t)(n + 1) / 2 * AP_PANEL * 4;
}

/* Rows 4j .. 4j + 3 of a panel in shared memory with input k. */
template <int KIND>
static __device__ __forceinline__ float4 float_four(const uint8_t *panel, int k, int j)
{
    if constexpr (KIND == AP_W_F32)
        return *(const float4 *)(panel + (k * AP_PANEL + 4 * j) * 4);
    else
        return ap_four_of_bf16(*(const uint4 *)(panel + (k / 2 * AP_PANEL + 4 * j) * 4), k & 1);
}

/* A warp: eight parts from `first` on (floats.cuh) to the sums of the cluster's first block. */
template <int KIND>
static __device__ __forceinline__ void float_parts(const uint8_t *panel, const float *f, int cols,
                                                   int first, float (*red)[AP_PANEL])
{
    int part = first + (int)threadIdx.x / 4, j = threadIdx.x & 3;
    int from = ap_float_begin(cols, first), begin = ap_float_begin(cols, part) - from,
        end = ap_float_begin(cols, part + 1) - from;
    float4 acc = make_float4(0, 0, 0, 0);
#pragma unroll 4
    for (int k = begin; k < end; k++) {
        float4 v = float_four<KIND>(panel, k, j);
        float x = f[k];
        acc = make_float4(fmaf(v.x, x, acc.x), fmaf(v.y, x, acc.y), fmaf(v.z, x, acc.z),
                          fmaf(v.w, x, acc.w));
    }
    float *to = &red[part][4 * j];
    ap_cluster_put<ROUTER_BLOCKS>(to, 0, acc.x);
    ap_cluster_put<ROUTER_BLOCKS>(to + 1, 0, acc.y);
    ap_cluster_put<ROUTER_BLOCKS>(to + 2, 0, acc.z);
    ap_cluster_put<ROUTER_BLOCKS>(to + 3, 0, acc.w);
}

/* A block for each panel of the shared expert: two neighbours make 32 rows. */
static __device__ __forceinline__ void shared_half(const router_args &a, uint8_t *shared,
                                                   uint64_t *arrived, int panel)
{
    constexpr int CL = ROUTER_BLOCKS;
    __shared__ __align__(16) float half[2 * AP_PANEL], own[AP_PANEL];
    int cols = a.row.cols, F = a.glu.m[0].w[1].rows, rank = ap_cluster_rank<CL>();
    float *weight = (float *)(shared + 2 * a.glu.room);
    ap_in_row in = ap_in_row_at((uint8_t *)(weight + cols), cols);
    bool there = panel * AP_PANEL < F;
    if (there) ask_glu(a.glu, shared, arrived, 1, 0, panel, threadIdx.x, blockDim.x);
    if (there)
        ap_bulk_copy(&arrived[2], weight, a.row.norm, (uint32_t)cols * 4, threadIdx.x, blockDim.x);
    ap_cluster_arrive<CL>();
    ap_grid_wait();
    if (there) {
        make_row(a.row, weight, &arrived[2], in, false);
        glu_rows<ap_common_forms>(a.glu, shared, arrived, in, 1, own);
        __syncthreads();
    }
    ap_cluster_wait<CL>(); /* the neighbour is there to be written to */
    if (there && threadIdx.x < AP_PANEL)
        ap_cluster_put<CL>(&half[(panel & 1) * AP_PANEL + threadIdx.x], rank & ~1,
                           own[threadIdx.x]);
    ap_cluster_sync<CL>();
    if (there && !(panel & 1) && threadIdx.x < 32) put_mid(a.glu.mid, F, a.n_used, panel / 2, half);
}

/* Grid: a cluster for each panel of the router and for the shared expert's gate, whose blocks take eight parts of the
 * inputs each; then a block for each panel of the shared expert's gate and up. */
template <int KIND>
static __global__ void __launch_bounds__(MOST_WARPS * 32, 2)
    router(const __grid_constant__ router_args a)
{
    constexpr int CL = ROUTER_BLOCKS;
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ __align__(16) float red[8 * CL][AP_PANEL];
    __shared__ uint64_t arrived[3];
    int cols = a.row.cols, panel = (int)blockIdx.x - a.blocks;
    if (threadIdx.x == 0) ap_bulk_init(arrived, 3);
    if (panel >= 0) {
        shared_half(a, shared, arrived, panel);
        return;
    }
    panel = (int)blockIdx.x / CL;
    int rank = ap_cluster_rank<CL>(), is_gate = panel >= a.panels;
    int first = ap_float_begin(cols, 8 * rank), end = ap_float_begin(cols, 8 * rank + 8);
    float *f = (float *)(shared + float_bytes<KIND>(end - first));
    if (is_gate) panel = 0;
    ap_bulk_copy(arrived, shared,
                 a.w[is_gate] + (size_t)panel * float_bytes<KIND>(cols) + float_bytes<KIND>(first),
                 float_bytes<KIND>(end - first), threadIdx.x, blockDim.x);
    int u = first / 4 + (int)threadIdx.x;
    bool live = u < end / 4;
    float4 v = make_float4(0, 0, 0, 0), w = __ldg((const float4 *)a.row.norm + (live ? u : 0));
    ap_cluster_arrive<CL>();
    ap_grid_wait();
    float r = norm_factor(a.row);
    if (live) {
        v = normed(((const float4 *)a.row.x)[u], r, w);
        ((float4 *)f)[u - first / 4] = v;
    }
    if (panel == 0 && !is_gate && __any_sync(0xffffffffu, live)) {
        if (live) ((float4 *)a.row.h)[u] = v;
        ap_put_inputs(ap_in_row_at(a.ready, cols), u, live, v);
    }
    __syncthreads();
    ap_cluster_wait<CL>(); /* the first block is there to be written to */
    if (threadIdx.x < 32) {
        ap_bulk_wait(arrived, 0);
        float_parts<KIND>(shared, f, cols, 8 * rank, red);
    }
    ap_cluster_sync<CL>();
    int row = panel * AP_PANEL + (int)threadIdx.x;
    if (rank || threadIdx.x >= AP_PANEL) return;
    float sum = ap_float_sum(&red[0][threadIdx.x], 8 * CL, AP_PANEL);
    if (is_gate && threadIdx.x == 0) *a.gate = sum;
    if (!is_gate && row < a.n_expert) a.logits[row] = sum;
}

static size_t router_shared(const router_args &a)
{
    size_t most = (size_t)a.row.cols / ROUTER_BLOCKS + AP_FLOAT_UNIT,
           own = float_bytes<AP_W_F32>((int)most) + most * sizeof(float),
           shared = a.glu.m[0].w[1].data ? glu_shared(a.glu, a.row) : 0;
    return own > shared ? own : shared;
}

template <int KIND> static void launch_router(const ap_exec *x, const router_args &a)
{
    int panels = a.glu.m[0].w[1].data ? (a.glu.m[0].w[1].rows + AP_PANEL - 1) / AP_PANEL : 0,
        threads = 64 << a.glu.log_warps;
    unsigned blocks = (unsigned)(a.blocks + panels + ROUTER_BLOCKS - 1) / ROUTER_BLOCKS;
    dim3 grid(blocks * ROUTER_BLOCKS), block(threads < 256 ? 256 : (unsigned)threads);
    ap_launch_cluster(x, ap_most_shared(x, router<KIND>), grid, block, ROUTER_BLOCKS,
                      router_shared(a), a);
}

/* ------------------------------------------------------------------ middle and down */

struct middle_args {
    row_args row;
    choice_args choice;
    glu_args glu;
};

/* The expert of rank `rank`, by a warp. */
template <int N> static __device__ __forceinline__ size_t chosen(const choice_args &a, int rank)
{
    if (!a.logits) return (size_t)__ldcg(a.ids + rank);
    ap_choice<N> c = ap_choice_begin<N>(a.logits, a.n_expert);
    int e = 0;
    float logit;
#pragma unroll 1
    for (int j = 0; j <= rank; j++) e = ap_choice_next(c, &logit);
    return (size_t)e;
}

/* act(gate) * up of an expert. Grid: x panels by glu.pair, y experts. The last warp chooses. */
template <class SET, int N>
static __global__ void __launch_bounds__(MOST_WARPS * 32 + 32)
    middle(const __grid_constant__ middle_args a)
{
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ __align__(16) float out[2 * AP_PANEL];
    __shared__ uint64_t arrived[3];
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, last = (int)blockDim.x / 32 - 1;
    int which = blockIdx.y, is_shared = which == a.choice.n_used;
    float *weight = (float *)(shared + 2 * a.glu.pair * a.glu.room);
    ap_in_row in = ap_in_row_at((uint8_t *)(weight + (a.row.norm ? a.row.cols : 0)), a.row.cols);
    if (warp == last && lane == 0) ap_bulk_init(arrived, 2);
    if (threadIdx.x == 0) ap_bulk_init(&arrived[2], 1);
    if (a.row.norm)
        ap_bulk_copy(&arrived[2], weight, a.row.norm, (uint32_t)a.row.cols * 4, threadIdx.x,
                     blockDim.x);
    if (!is_shared) ap_grid_wait();
    if (warp == last)
        ask_glu(a.glu, shared, arrived, is_shared, is_shared ? 0 : chosen<N>(a.choice, which),
                a.glu.pair * blockIdx.x, lane, 32);
    if (is_shared) ap_grid_wait();
    make_row(a.row, weight, &arrived[2], in, false);
    glu_rows<SET>(a.glu, shared, arrived, in, is_shared, out);
    __syncthreads();
    if (!a.glu.y && warp == 0) put_mid(a.glu.mid, a.glu.m[0].w[0].rows, which, blockIdx.x, out);
    int row = a.glu.pair * blockIdx.x * AP_PANEL + threadIdx.x;
    if (a.glu.y && (int)threadIdx.x < a.glu.pair * AP_PANEL && row < a.glu.m[0].w[1].rows)
        a.glu.y[row] = out[threadIdx.x];
}

struct down_args {
    choice_args choice;
    expert_mat m;
    uint32_t room;     /* of a panel */
    int n, log_warps;  /* n: experts, the shared one too */
    const float *gate; /* of the shared expert, before its sigmoid */
    const uint8_t *mid;
    float *y;
    bool accumulate;
};

/* A panel of the outputs of all experts, a warp or more each; then their combination. The last warp chooses and asks
 * for weights: it reads what the kernel before the last one has written, which has ended (ap_grid_wait). */
template <class SET, int N>
static __global__ void __launch_bounds__(MOST_WARPS * 32 + 32, 2)
    down(const __grid_constant__ down_args a)
{
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ float red[MOST_WARPS * 4][AP_PANEL], sum[MOST_EXPERTS + 1][AP_PANEL];
    __shared__ float weights[MOST_EXPERTS + 1];
    __shared__ int ids[MOST_EXPERTS];
    __shared__ uint64_t arrived[MOST_EXPERTS + 2]; /* panels; at the end, rows */
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, last = (int)blockDim.x / 32 - 1;
    int which = warp >> a.log_warps, cols = a.m.w[0].cols, rows = a.m.w[0].rows;
    uint8_t *mid = shared + a.n * a.room;
    if (threadIdx.x == 0) ap_bulk_init(&arrived[MOST_EXPERTS + 1], 1);
    if (warp == last) {
        if (lane == 0) ap_bulk_init(arrived, a.n);
        if (a.choice.logits) {
            ap_choose<N>(a.choice.logits, a.choice.n_expert, a.choice.n_used, a.choice.norm, ids,
                         weights);
        } else if (lane < a.choice.n_used) {
            ids[lane] = __ldcg(a.choice.ids + lane);
            weights[lane] = __ldcg(a.choice.weights + lane);
        }
        __syncwarp();
        if (a.n > a.choice.n_used) weights[a.choice.n_used] = ap_sigmoid(__ldcg(a.gate));
#pragma unroll 1
        for (int j = 0; j < a.n; j++) {
            int is_shared = j == a.choice.n_used;
            const ap_qmat &w = a.m.w[is_shared];
            ap_bulk_copy(&arrived[j], shared + j * a.room,
                         w.data + (is_shared ? 0 : (size_t)ids[j] * a.m.stride) +
                             (size_t)blockIdx.x * w.panel_bytes,
                         (uint32_t)w.panel_bytes, lane, 32);
        }
    }
    ap_grid_wait();
    ap_bulk_copy(&arrived[MOST_EXPERTS + 1], mid, a.mid, (uint32_t)a.n * ap_in_row_bytes(cols),
                 threadIdx.x, blockDim.x);
    int row = blockIdx.x * AP_PANEL + threadIdx.x;
    bool puts = threadIdx.x < AP_PANEL && row < rows;
    float old = puts && a.accumulate ? a.y[row] : 0.0f;
    __syncthreads();
    if (which < a.n) {
        int is_shared = which == a.choice.n_used;
        const ap_qmat q = a.m.w[is_shared]; /* in registers: parameters elsewhere are slow */
        ap_in_row in = ap_in_row_at(mid + which * ap_in_row_bytes(cols), cols);
        float acc[2] = {0, 0};
        ap_bulk_wait(&arrived[which], 0);
        ap_bulk_wait(&arrived[MOST_EXPERTS + 1], 0);
        SET::parts(a.m.form[is_shared], q, shared + which * a.room, in,
                   (warp & ((1 << a.log_warps) - 1)) * 4, a.log_warps + 2, acc);
#pragma unroll
        for (int r = 0; r < 2; r++) red[warp * 4 + (lane & 3)][2 * (lane >> 2) + r] = acc[r];
    } else if (blockIdx.x == 0 && a.choice.logits && lane < a.choice.n_used) {
        a.choice.ids[lane] = ids[lane];
        a.choice.weights[lane] = weights[lane];
    }
    __syncthreads();
    int parts = 4 << a.log_warps, e = threadIdx.x / AP_PANEL, r = threadIdx.x % AP_PANEL;
    if (e < a.n) sum[e][r] = ap_sum_parts(&red[e * parts][r], parts);
    __syncthreads();
    if (!puts) return;
    float v = 0;
    for (e = 0; e < a.choice.n_used; e++) v = fmaf(weights[e], sum[e][r], v);
    if (a.accumulate) v = old + v;
    a.y[row] = a.n > e ? fmaf(weights[e], sum[e][r], v) : v;
}

static size_t down_shared(const down_args &d)
{
    return (size_t)d.n * (d.room + ap_in_row_bytes(d.m.w[0].cols));
}

template <class SET, int N>
static void launch_middle(const ap_exec *x, const middle_args &m, int experts)
{
    int panels = (m.glu.m[0].w[m.choice.n_used == 0].rows + AP_PANEL - 1) / AP_PANEL;
    dim3 grid((unsigned)((panels + m.glu.pair - 1) / m.glu.pair), (unsigned)experts);
    ap_launch(x, ap_most_shared(x, middle<SET, N>), grid,
              dim3((unsigned)(64 * m.glu.pair << m.glu.log_warps) + 32), glu_shared(m.glu, m.row),
              m);
}

template <class SET, int N>
static void launch_experts(const ap_exec *x, const middle_args &m, const down_args &d, int experts)
{
    unsigned panels = (unsigned)(d.m.w[0].rows + AP_PANEL - 1) / AP_PANEL;
    launch_middle<SET, N>(x, m, experts);
    ap_launch(x, ap_most_shared(x, down<SET, N>), dim3(panels),
              dim3((unsigned)(d.n * 32 << d.log_warps) + 32), down_shared(d), d);
}

/* ------------------------------------------------------------------ the mixture */

static bool same_shape(const ap_mat *a, const ap_mat *b)
{
    return a->rows == b->rows && a->cols == b->cols;
}

/* One projection of the experts, as far as forms go; the shared one's may be another. */
template <class SET>
static bool take_expert_mat(const ap_exec *x, const ap_mat *w, const ap_mat *shared, expert_mat *m)
{
    if (!ap_in_integers(x, w) || (shared && !(ap_in_integers(x, shared) && same_shape(w, shared))))
        return false;
    m->w[0] = ap_qmat_of(w);
    m->form[0] = SET::has(w->q);
    if (shared) {
        m->w[1] = ap_qmat_of(shared);
        m->form[1] = SET::has(shared->q);
    }
    return m->form[0] >= 0 && m->form[1] >= 0;
}

template <class SET>
static bool take_experts(const ap_exec *x, const ap_expert *e, const ap_expert *s, glu_args *g,
                         expert_mat *down)
{
    return same_shape(&e->gate, &e->up) &&
           take_expert_mat<SET>(x, &e->gate, s ? &s->gate : NULL, &g->m[0]) &&
           take_expert_mat<SET>(x, &e->up, s ? &s->up : NULL, &g->m[1]) &&
           take_expert_mat<SET>(x, &e->down, s ? &s->down : NULL, down);
}

/* Room for a panel of the experts, or of the shared one. */
static uint32_t panel_room(const expert_mat &m, int which)
{
    return (uint32_t)m.w[which].panel_bytes;
}

static uint32_t larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

/* The router and the shared expert's first half as one launch: m then has no more to do with either. */
static bool route_at_once(const ap_exec *x, const ap_mix_args *a, middle_args *m, uint8_t *ready)
{
    const ap_mat *w = a->router, *s = a->shared ? a->shared_gate : NULL;
    if (ap_cuda_of(x)->arch < 90 || ap_float_warps(w->cols) != ROUTER_BLOCKS || w->cols > 4096 ||
        !is_float(w) || (s && (!is_float(s) || s->dtype != w->dtype)))
        return false;
    router_args r = {};
    r.row = m->row;
    r.logits = a->logits;
    r.n_expert = a->n_expert;
    r.n_used = a->n_used;
    r.ready = ready;
    r.w[0] = (const uint8_t *)w->data;
    r.w[1] = s ? (const uint8_t *)s->data : NULL;
    r.gate = a->gate;
    r.panels = (w->rows + AP_PANEL - 1) / AP_PANEL;
    r.blocks = (r.panels + (s != NULL)) * ROUTER_BLOCKS;
    r.glu = m->glu;
    r.glu.room = larger(panel_room(m->glu.m[0], 1), panel_room(m->glu.m[1], 1));
    r.glu.pair = 1;
    if (router_shared(r) > MOST_SHARED) return false;
    if (w->dtype == AP_F32)
        launch_router<AP_W_F32>(x, r);
    else
        launch_router<AP_W_BF16>(x, r);
    m->glu.room = larger(panel_room(m->glu.m[0], 0), panel_room(m->glu.m[1], 0));
    m->row.norm = NULL;
    m->row.ready = ready;
    return true;
}

/* The router and the shared expert's gate alone. */
static void route_logits(const ap_exec *x, const ap_mix_args *a)
{
    ap_project_args p = {};
    p.x = a->x;
    p.norm = a->norm;
    p.eps = a->eps;
    p.h = a->h;
    p.w[0] = a->router;
    p.y[0] = a->logits;
    p.w[1] = a->shared_gate;
    p.y[1] = a->gate;
    p.n_mat = a->shared ? 2 : 1;
    p.n_tok = 1;
    ap_cuda_project(x, &p);
}

/* All that the two launches are given but the row; false: not of these forms and sizes. */
static bool plan_experts(const ap_exec *x, const ap_expert *e, const ap_expert *s,
                         const choice_args &c, void *scratch, middle_args *m, down_args *d,
                         bool *common)
{
    glu_args *g = &m->glu;
    if (c.n_used > MOST_EXPERTS || c.n_expert > 512 || !ap_aligned16(scratch)) return false;
    *common = take_experts<ap_common_forms>(x, e, s, g, &d->m);
    if (!*common && !take_experts<ap_all_forms>(x, e, s, g, &d->m)) return false;
    if (!ap_cuda_expert_stride(e, c.n_expert, offsetof(ap_expert, gate), &g->m[0].stride) ||
        !ap_cuda_expert_stride(e, c.n_expert, offsetof(ap_expert, up), &g->m[1].stride) ||
        !ap_cuda_expert_stride(e, c.n_expert, offsetof(ap_expert, down), &d->m.stride))
        return false;
    m->choice = d->choice = c;
    d->n = c.n_used + (s != NULL);
    d->log_warps = ap_log_warps(e->down.cols);
    d->room = larger(panel_room(d->m, 0), panel_room(d->m, 1));
    g->log_warps = ap_log_warps(e->gate.cols);
    g->room = larger(larger(panel_room(g->m[0], 0), panel_room(g->m[0], 1)),
                     larger(panel_room(g->m[1], 0), panel_room(g->m[1], 1)));
    g->pair = 2;
    d->mid = g->mid = (uint8_t *)scratch;
    size_t most = ap_cuda_shared_bytes(ap_cuda_of(x)) - (12 << 10);
    return e->down.cols % 32 == 0 && d->n << d->log_warps <= MOST_WARPS &&
           4 << g->log_warps <= MOST_WARPS && glu_shared(*g, m->row) <= most &&
           down_shared(*d) <= most;
}

static void run_experts(const ap_exec *x, const middle_args &m, const down_args &d, int experts,
                        bool common)
{
    if (!common)
        launch_experts<ap_all_forms, 16>(x, m, d, experts);
    else if (m.choice.n_expert <= 256)
        launch_experts<ap_common_forms, 8>(x, m, d, experts);
    else
        launch_experts<ap_common_forms, 16>(x, m, d, experts);
}

/* Bytes of what gate and up make of the row. */
static size_t mid_bytes(const down_args &d)
{
    return ((size_t)d.n * ap_in_row_bytes(d.m.w[0].cols) + 255) / 256 * 256;
}

/* One token's mixture; false: not of these forms and sizes. */
static bool mix_one(const ap_exec *x, const ap_mix_args *a)
{
    middle_args m = {};
    down_args d = {};
    const ap_expert *e = a->experts;
    bool common;
    if (a->n_tok != 1 || !row_fits(a->x, a->norm, a->h, e->gate.cols)) return false;
    choice_args c = {a->logits, a->n_expert, a->n_used, a->norm_topk, a->ids, a->weights};
    m.row = row_of(a->x, a->norm, a->eps, a->h, e->gate.cols);
    m.glu.act = a->act;
    d.gate = a->gate;
    d.y = a->y;
    d.accumulate = true;
    if (!plan_experts(x, e, a->shared, c, a->scratch, &m, &d, &common)) return false;
    size_t mid = mid_bytes(d), has = ap_cuda_moe_scratch_bytes(x, 1, a->n_expert, a->n_used,
                                                               e->gate.cols, e->down.cols);
    int experts = d.n;
    if (mid + ap_in_row_bytes(e->gate.cols) > has) return false;
    if (common && route_at_once(x, a, &m, m.glu.mid + mid))
        experts = a->n_used;
    else
        route_logits(x, a);
    run_experts(x, m, d, experts, common);
    return true;
}

void ap_cuda_mix(const ap_exec *x, const ap_mix_args *a)
{
    if (!mix_one(x, a) && !ap_cuda_mix_many(x, a)) ap_group_mix(x, a);
}

bool ap_cuda_moe_one(const ap_exec *x, const ap_moe_args *a)
{
    middle_args m = {};
    down_args d = {};
    const ap_expert *e = a->experts;
    bool common;
    if (!e || a->n_tok != 1 || !e->gate.data || !row_fits(a->x, NULL, NULL, e->gate.cols))
        return false;
    choice_args c = {NULL, a->n_expert, a->n_used, false, (int32_t *)a->ids, (float *)a->weights};
    m.row = row_of(a->x, NULL, 0, NULL, e->gate.cols);
    m.glu.act = a->act;
    d.y = a->y;
    d.accumulate = a->accumulate;
    if (!plan_experts(x, e, NULL, c, a->scratch, &m, &d, &common) ||
        mid_bytes(d) >
            ap_cuda_moe_scratch_bytes(x, 1, a->n_expert, a->n_used, e->gate.cols, e->down.cols))
        return false;
    run_experts(x, m, d, d.n, common);
    return true;
}

bool ap_cuda_glu_one(const ap_exec *x, const ap_glu_args *a)
{
    middle_args m = {};
    glu_args *g = &m.glu;
    if (a->n_tok != 1 || !same_shape(a->gate, a->up) || !ap_in_integers(x, a->gate) ||
        !ap_in_integers(x, a->up) || !row_fits(a->x, NULL, NULL, a->gate->cols))
        return false;
    m.row = row_of(a->x, NULL, 0, NULL, a->gate->cols);
    g->m[0].w[1] = ap_qmat_of(a->gate);
    g->m[1].w[1] = ap_qmat_of(a->up);
    g->log_warps = ap_log_warps(a->gate->cols);
    g->room = larger(panel_room(g->m[0], 1), panel_room(g->m[1], 1));
    g->pair = 1;
    g->act = a->act;
    g->y = a->y;
    bool common = true, any = true;
    for (int i = 0; i < 2; i++) {
        common &= ap_common_forms::has(g->m[i].w[1].q) >= 0;
        any &= ap_all_forms::has(g->m[i].w[1].q) >= 0;
    }
    for (int i = 0; i < 2; i++)
        g->m[i].form[1] =
            common ? ap_common_forms::has(g->m[i].w[1].q) : ap_all_forms::has(g->m[i].w[1].q);
    if (!any || glu_shared(*g, m.row) > ap_cuda_shared_bytes(ap_cuda_of(x)) - (12 << 10))
        return false;
    if (common)
        launch_middle<ap_common_forms, 8>(x, m, 1);
    else
        launch_middle<ap_all_forms, 16>(x, m, 1);
    return true;
}
