/* decode.cu - groups of operations for one token: as few launches as their dependencies allow.
 *
 *   project  norm and all products of one input: each block norms and quantises the row by itself, which costs less
 *            than handing it over from a launch of its own
 *   mix      the router and the shared expert's gate; the choice; gate and up of all experts; down of all of them and
 *            the combination
 * The Orders are those of the operations, to the bit: a token's result is the same alone and in a batch. */
#include <string.h>

#include "floats.cuh"
#include "one.cuh"
#include "quad.cuh"

extern "C" {
#include "kern/groups.h"
}

enum { MOST_COLS = 8192, MOST_EXPERTS = 15 };

/* ------------------------------------------------------------------ project */

struct project_mat {
    ap_qmat q; /* a form; or */
    const uint8_t *data;
    size_t panel_bytes;
    float *y;
    int rows, kind, first; /* first: block of the grid */
};

struct project_args {
    project_mat m[AP_GROUP];
    int n_mat, cols;
    const float *x, *norm;
    float eps, *h;
};

/* x * norm factor * weight to f in shared memory, in the order of norm_rows (rows.cu): threads of its own number are
 * walked through. */
static __device__ __forceinline__ void norm_row(const project_args &a, float *f)
{
    __shared__ float part[32];
    int quads = a.cols / 4, threads = (a.cols + 255) / 256 * 32, each = a.cols <= 128 ? 1 : 2;
    if (each == 1) threads = 32;
    for (int t = threadIdx.x; t < threads; t += (int)blockDim.x) {
        float sum = 0;
        for (int i = 0; i < each; i++) {
            int u = t + i * threads;
            float4 v = u < quads ? ((const float4 *)a.x)[u] : make_float4(0, 0, 0, 0);
            if (u < quads) ((float4 *)f)[u] = v;
            sum = ap_square_sum(v, sum);
        }
        sum = ap_warp_sum(sum);
        if (threadIdx.x % 32 == 0) part[t / 32] = sum;
    }
    __syncthreads();
    int lane = threadIdx.x % 32;
    float total = threads == 32 ? part[0] : ap_warp_sum(lane < threads / 32 ? part[lane] : 0.0f);
    float r = ap_norm_factor(total, a.cols, a.eps);
    for (int u = threadIdx.x; u < quads; u += (int)blockDim.x) {
        float4 v = ((float4 *)f)[u], w = __ldg((const float4 *)a.norm + u);
        v = make_float4(v.x * r * w.x, v.y * r * w.y, v.z * r * w.z, v.w * r * w.w);
        ((float4 *)f)[u] = v;
        if (blockIdx.x == 0) ((float4 *)a.h)[u] = v;
    }
    __syncthreads();
}

/* A panel of floats by a whole block. */
template <int KIND>
static __device__ __forceinline__ void float_panel(const project_args &a, const project_mat &m,
                                                   const float *f, float (*red)[AP_PANEL])
{
    int panel = blockIdx.x - m.first, row = panel * AP_PANEL + (int)threadIdx.x;
    float v = ap_float_panel<KIND>(m.data + (size_t)panel * m.panel_bytes, a.cols, f, red);
    if (threadIdx.x < AP_PANEL && row < m.rows) m.y[row] = v;
}

/* Calls run<BITS, TABLE, HALVES>(...) for a form: all lanes of a warp take the same way. */
#define BY_FORM(q, run, ...)                                                                       \
    switch ((q).bits * 4 + ((q).table != 0) * 2 + ((q).group == 16)) {                             \
    case 3 * 4 + 1:                                                                                \
        run<3, false, true>(__VA_ARGS__);                                                          \
        break;                                                                                     \
    case 4 * 4:                                                                                    \
        run<4, false, false>(__VA_ARGS__);                                                         \
        break;                                                                                     \
    case 4 * 4 + 2:                                                                                \
        run<4, true, false>(__VA_ARGS__);                                                          \
        break;                                                                                     \
    case 5 * 4:                                                                                    \
        run<5, false, false>(__VA_ARGS__);                                                         \
        break;                                                                                     \
    case 6 * 4:                                                                                    \
        run<6, false, false>(__VA_ARGS__);                                                         \
        break;                                                                                     \
    case 6 * 4 + 1:                                                                                \
        run<6, false, true>(__VA_ARGS__);                                                          \
        break;                                                                                     \
    default:                                                                                       \
        run<8, false, false>(__VA_ARGS__);                                                         \
        break;                                                                                     \
    }

static bool has_kernel(ap_qform q)
{
    int k = q.bits * 4 + (q.table != 0) * 2 + (q.group == 16);
    return k == 13 || k == 16 || k == 18 || k == 20 || k == 24 || k == 25 || k == 32;
}

static __global__ void __launch_bounds__(ONE_THREADS, 4) project(project_args a)
{
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ __align__(16) float red[AP_FLOAT_PARTS][AP_PANEL];
    __shared__ uint64_t arrived;
    int which = 0;
    while (which + 1 < a.n_mat && (int)blockIdx.x >= a.m[which + 1].first) which++;
    const project_mat &m = a.m[which];
    if (m.kind != AP_W_FORM) {
        ap_grid_wait();
        norm_row(a, (float *)shared);
        if (m.kind == AP_W_F32)
            float_panel<AP_W_F32>(a, m, (float *)shared, red);
        else
            float_panel<AP_W_BF16>(a, m, (float *)shared, red);
        return;
    }
    const ap_qmat q = m.q; /* in registers: parameters at an address of their own are slow */
    one_place p = one_place_of(q, (int)blockIdx.x - m.first);
    ap_bulk_begin(&arrived, shared, q.data + (size_t)p.panel * q.panel_bytes, p.bytes);
    ap_grid_wait();
    float *f = (float *)(shared + p.room);
    norm_row(a, f);
    ap_qin in = ap_quantise_row(f, a.cols, shared + p.room + a.cols * 4);
    ap_bulk_wait(&arrived);
    BY_FORM(q.q, one_panels, q, shared, in, p, red)
    __syncthreads();
    int r = threadIdx.x % AP_PANEL, row = p.panel * AP_PANEL + threadIdx.x;
    if ((int)threadIdx.x >= p.each * AP_PANEL || row >= q.rows) return;
    m.y[row] = ap_sum_parts(&red[threadIdx.x / AP_PANEL * p.parts][r], p.parts);
}

/* Rarer ones go one after the other. */
static bool fits(const ap_exec *x, const ap_mat *w)
{
    return ap_in_integers(x, w) ? has_kernel(w->q)
                                : !w->q.bits && (w->dtype == AP_BF16 || w->dtype == AP_F32);
}

static bool project_one(const ap_exec *x, const ap_project_args *p)
{
    int cols = p->w[0]->cols, blocks = 0;
    size_t room = (size_t)cols * 4; /* of a block, in shared memory */
    if (p->n_tok != 1 || cols % 32 || cols > MOST_COLS || !ap_aligned16(p->x) ||
        !ap_aligned16(p->norm) || !ap_aligned16(p->h))
        return false;
    for (int i = 0; i < p->n_mat; i++)
        if (!fits(x, p->w[i])) return false;
    project_args a = {};
    a.n_mat = p->n_mat;
    a.cols = cols;
    a.x = p->x;
    a.norm = p->norm;
    a.eps = p->eps;
    a.h = p->h;
    for (int i = 0; i < p->n_mat; i++) {
        const ap_mat *w = p->w[i];
        project_mat *m = &a.m[i];
        int panels = (w->rows + AP_PANEL - 1) / AP_PANEL, each = 1;
        m->kind = ap_in_integers(x, w) ? AP_W_FORM : w->dtype == AP_BF16 ? AP_W_BF16 : AP_W_F32;
        m->y = p->y[i];
        m->rows = w->rows;
        m->first = blocks;
        if (m->kind == AP_W_FORM) {
            m->q = ap_qmat_of(w);
            each = ONE_WARPS / ap_warps_of(cols);
            if (one_shared(m->q) + (size_t)cols * 4 > room)
                room = one_shared(m->q) + (size_t)cols * 4;
        } else {
            m->data = (const uint8_t *)w->data;
            m->panel_bytes = ap_mat_bytes(w) / (size_t)panels;
        }
        blocks += (panels + each - 1) / each;
    }
    if (room > ONE_SHARED) return false;
    ap_launch(x, project, dim3((unsigned)blocks), dim3(ONE_THREADS), room, a);
    return true;
}

void ap_cuda_project(const ap_exec *x, const ap_project_args *a)
{
    if (!project_one(x, a)) ap_group_project(x, a);
}

/* ------------------------------------------------------------------ mix */

struct down_args {
    ap_qmat w, shared; /* expert 0; the shared expert's, data NULL: none */
    size_t stride;
    const int32_t *ids;
    const float *weights, *gate; /* of the ranks; of the shared expert before its sigmoid */
    const float *mid;            /* f32 [n_used + 1, F]; the shared one last */
    float *y;
    int n_used;
};

/* A panel of the outputs of all experts, a warp or more each; then their combination. */
static __global__ void __launch_bounds__(512) down(down_args a)
{
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ float red[16 * 4][AP_PANEL];
    __shared__ uint64_t arrived[16];
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, cols = a.w.cols;
    int warps = ap_warps_of(cols), parts = 4 * warps, n = a.n_used + (a.shared.data != NULL),
        which = warp / warps;
    bool is_shared = which == a.n_used;
    const ap_qmat m = is_shared ? a.shared : a.w; /* in registers */
    uint32_t most = (uint32_t)max((int)a.w.panel_bytes, (int)a.shared.panel_bytes);
    uint8_t *panel = shared + which * most, *rows = shared + n * most;
    const uint8_t *at = m.data + (size_t)blockIdx.x * m.panel_bytes;
    if (is_shared && warp % warps == 0)
        ap_bulk_begin_warp(&arrived[which], panel, at, (uint32_t)m.panel_bytes);
    ap_grid_wait();
    if (!is_shared && warp % warps == 0)
        ap_bulk_begin_warp(&arrived[which], panel, at + (size_t)a.ids[which] * a.stride,
                           (uint32_t)m.panel_bytes);
    size_t row_bytes = ((size_t)cols * 2 + (size_t)cols / 32 * 12 + 15) / 16 * 16;
    ap_qin in = ap_row_at(rows + which * row_bytes, cols);
    const float *f = a.mid + (size_t)which * cols;
#pragma unroll 1
    for (int u = warp % warps * 32 + lane; u < (cols / 4 + 31) / 32 * 32; u += warps * 32) {
        bool live = u < cols / 4;
        float4 v = live ? ((const float4 *)f)[u] : make_float4(0, 0, 0, 0);
        char4 hi, lo;
        float d;
        int sum, l = u & 7;
        ap_quantise_block<2>(v, &hi, &lo, &d, &sum);
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        if (!live) continue;
        ((char4 *)in.hi)[u] = hi;
        ((char4 *)in.lo)[u] = lo;
        if ((l & 3) == 0) in.sum[u / 8 * 2 + l / 4] = sum;
        if (l == 0) in.d[u / 8] = d;
    }
    __syncthreads();
    ap_bulk_wait(&arrived[which]);
    float acc[2] = {0, 0};
    BY_FORM(m.q, warp_parts, m, panel, in, warp % warps * 4, parts, acc)
#pragma unroll
    for (int r = 0; r < 2; r++) red[warp * 4 + (lane & 3)][2 * (lane >> 2) + r] = acc[r];
    __syncthreads();
    int r = threadIdx.x, row = blockIdx.x * AP_PANEL + r;
    if (r >= AP_PANEL || row >= a.w.rows) return;
    float sum = 0;
    for (int e = 0; e < n; e++) {
        float v = ap_sum_parts(&red[e * parts][r], parts);
        if (e < a.n_used) sum = fmaf(a.weights[e], v, sum);
        if (e == a.n_used - 1) sum = a.y[row] + sum;
        if (e == a.n_used) sum = fmaf(ap_sigmoid(*a.gate), v, sum);
    }
    a.y[row] = sum;
}

struct mid_args {
    ap_qmat w[2], shared[2]; /* gate and up of expert 0, of the shared expert */
    size_t stride[2];
    const int32_t *ids;
    const float *h;
    float *mid;
    int n_used, act;
};

/* act(gate) * up of all experts. */
static __global__ void __launch_bounds__(ONE_THREADS, 4) middle(mid_args a)
{
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ float red[2][ONE_WARPS * 4][AP_PANEL];
    __shared__ uint64_t arrived[2];
    int which = blockIdx.y;
    bool is_shared = which == a.n_used;
    const ap_qmat gate = is_shared ? a.shared[0] : a.w[0],
                  up = is_shared ? a.shared[1] : a.w[1]; /* in registers */
    one_place p = one_place_of(gate, blockIdx.x), pu = one_place_of(up, blockIdx.x);
    if (!is_shared) ap_grid_wait(); /* the shared expert's weights do not wait for the choice */
    size_t e = is_shared ? 0 : (size_t)a.ids[which], first = (size_t)p.panel;
    ap_bulk_begin(&arrived[0], shared, gate.data + e * a.stride[0] + first * gate.panel_bytes,
                  p.bytes);
    ap_bulk_begin(&arrived[1], shared + p.room, up.data + e * a.stride[1] + first * up.panel_bytes,
                  pu.bytes);
    if (is_shared) ap_grid_wait();
    ap_qin in = ap_quantise_row(a.h, gate.cols, shared + p.room + pu.room);
#pragma unroll 1
    for (int k = 0; k < 2; k++) { /* one code for both */
        ap_bulk_wait(&arrived[k]);
        const ap_qmat m = k ? up : gate;
        const one_place now = k ? pu : p;
        BY_FORM(gate.q, one_panels, m, shared + k * p.room, in, now, red[k])
    }
    __syncthreads();
    int r = threadIdx.x % AP_PANEL, row = p.panel * AP_PANEL + threadIdx.x;
    if ((int)threadIdx.x >= p.each * AP_PANEL || row >= gate.rows) return;
    float g = ap_sum_parts(&red[0][threadIdx.x / AP_PANEL * p.parts][r], p.parts);
    float u = ap_sum_parts(&red[1][threadIdx.x / AP_PANEL * p.parts][r], p.parts);
    a.mid[(size_t)which * gate.rows + row] =
        (a.act == AP_ACT_SILU ? ap_silu(g) : ap_gelu_tanh(g)) * u;
}

/* Two matrices that one kernel reads side by side. */
static bool alike(const ap_mat *a, const ap_mat *b)
{
    return a->rows == b->rows && a->cols == b->cols && a->q.bits == b->q.bits &&
           a->q.table == b->q.table && (a->q.group == 16) == (b->q.group == 16);
}

static bool same_shape(const ap_mat *a, const ap_mat *b)
{
    return a->rows == b->rows && a->cols == b->cols;
}

static bool expert_fits(const ap_exec *x, const ap_expert *e)
{
    return ap_in_integers(x, &e->gate) && ap_in_integers(x, &e->up) &&
           ap_in_integers(x, &e->down) && has_kernel(e->gate.q) && has_kernel(e->down.q) &&
           alike(&e->gate, &e->up);
}

/* Shared memory of a block of the two launches. */
static size_t middle_shared(const ap_expert *e, const ap_expert *s)
{
    size_t own = one_shared(ap_qmat_of(&e->gate)) + one_shared(ap_qmat_of(&e->up));
    size_t shared = s ? one_shared(ap_qmat_of(&s->gate)) + one_shared(ap_qmat_of(&s->up)) : 0;
    return own > shared ? own : shared;
}

static size_t down_shared(const ap_expert *e, const ap_expert *s, int n)
{
    size_t own = ap_qmat_of(&e->down).panel_bytes,
           shared = s ? ap_qmat_of(&s->down).panel_bytes : 0;
    return (size_t)n * ((own > shared ? own : shared) + ap_qin_bytes(1, e->down.cols));
}

/* Experts that the two launches can serve. */
static bool experts_fit(const ap_exec *x, const ap_mix_args *a, size_t *stride)
{
    const ap_expert *e = a->experts, *s = a->shared;
    if (a->n_used > MOST_EXPERTS || !expert_fits(x, e)) return false;
    if (s &&
        !(expert_fits(x, s) && same_shape(&s->gate, &e->gate) && same_shape(&s->down, &e->down)))
        return false;
    if ((a->n_used + 1) * ap_warps_of(e->down.cols) > 16 || e->gate.cols > MOST_COLS ||
        e->down.cols > MOST_COLS)
        return false;
    if (middle_shared(e, s) > ONE_SHARED || down_shared(e, s, a->n_used + 1) > ONE_SHARED)
        return false;
    return ap_cuda_expert_stride(e, a->n_expert, offsetof(ap_expert, gate), &stride[0]) &&
           ap_cuda_expert_stride(e, a->n_expert, offsetof(ap_expert, up), &stride[1]) &&
           ap_cuda_expert_stride(e, a->n_expert, offsetof(ap_expert, down), &stride[2]);
}

void ap_cuda_mix(const ap_exec *x, const ap_mix_args *a)
{
    size_t stride[3];
    if (a->n_tok != 1 || !experts_fit(x, a, stride)) {
        ap_group_mix(x, a);
        return;
    }
    const ap_expert *e = a->experts, *s = a->shared;
    int n = a->n_used + (s != NULL);
    ap_project_args p = {};
    p.x = a->x;
    p.norm = a->norm;
    p.eps = a->eps;
    p.h = a->h;
    p.w[0] = a->router;
    p.y[0] = a->logits;
    p.w[1] = a->shared_gate;
    p.y[1] = a->gate;
    p.n_mat = s ? 2 : 1;
    p.n_tok = 1;
    ap_cuda_project(x, &p);
    ap_route_args r = {};
    r.logits = a->logits;
    r.ids = a->ids;
    r.weights = a->weights;
    r.n_tok = 1;
    r.n_expert = a->n_expert;
    r.n_used = a->n_used;
    r.norm = a->norm_topk;
    ap_cuda_route(x, &r);
    mid_args m = {};
    m.w[0] = ap_qmat_of(&e->gate);
    m.w[1] = ap_qmat_of(&e->up);
    if (s) {
        m.shared[0] = ap_qmat_of(&s->gate);
        m.shared[1] = ap_qmat_of(&s->up);
    }
    m.stride[0] = stride[0];
    m.stride[1] = stride[1];
    m.ids = a->ids;
    m.h = a->h;
    m.mid = (float *)a->scratch;
    m.n_used = a->n_used;
    m.act = a->act;
    ap_launch(x, middle, dim3((unsigned)one_blocks(m.w[0]), (unsigned)n), dim3(ONE_THREADS),
              middle_shared(e, s), m);
    down_args d = {};
    d.w = ap_qmat_of(&e->down);
    if (s) d.shared = ap_qmat_of(&s->down);
    d.stride = stride[2];
    d.ids = a->ids;
    d.weights = a->weights;
    d.gate = a->gate;
    d.mid = m.mid;
    d.y = a->y;
    d.n_used = a->n_used;
    ap_launch(x, down, dim3((unsigned)(e->down.rows + AP_PANEL - 1) / AP_PANEL),
              dim3((unsigned)(n * ap_warps_of(e->down.cols) * 32)), down_shared(e, s, n), d);
}
