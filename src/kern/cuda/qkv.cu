/* qkv.cu - head norm, rotation and the write into the pages: a warp for each head of q, k and v of a token. */
#include <cuda_bf16.h>

#include "kern/cuda/kv_page.cuh"
#include "kern/cuda/quad.cuh"

#define WARPS 4

struct qkv_params {
    ap_qkv_args a; /* its page_dim is not 0; a.kv.batch is on the host: */
    const ap_seq *seq;
    const int32_t *seq_of, *pos, *page;
    int page_ld;
};

/* ------------------------------------------------------------------ norm and rotation */

/* The rotation's part for a dim: its angle, or -1 if it stands still. */
static __device__ __forceinline__ int angle_of(const ap_qkv_args &a, int d)
{
    if (d < a.n_angle) return d;
    d -= a.pair_offset;
    return d >= 0 && d < a.n_angle ? d : -1;
}

/* a' = a*cos - b*sin, b' = b*cos + a*sin; x is the head before. */
static __device__ __forceinline__ float rotated(const ap_qkv_args &a, const float *x, int d,
                                                float c, float s)
{
    float own = __fmul_rn(x[d], c);
    if (d < a.n_angle) return __fsub_rn(own, __fmul_rn(x[d + a.pair_offset], s));
    return __fadd_rn(own, __fmul_rn(x[d - a.pair_offset], s));
}

/* A head: lane l has dims 4l .. 4l+3, 4l+128 .. 4l+131, ... */
template <int N> struct head {
    float v[N][4];
};

static __device__ __forceinline__ float4 quad(const float *v)
{
    return make_float4(v[0], v[1], v[2], v[3]);
}

template <int N, bool VECTOR>
static __device__ __forceinline__ head<N> load_head(const float *x, int lane, int n)
{
    head<N> h;
#pragma unroll
    for (int i = 0; i < N; i++) {
        float4 v = ap_load4<VECTOR>(x, 4 * (lane + i * AP_WARP), n);
        h.v[i][0] = v.x, h.v[i][1] = v.y, h.v[i][2] = v.z, h.v[i][3] = v.w;
    }
    return h;
}

/* (x * r) * w; w: ones where there is no weight. */
template <int N>
static __device__ __forceinline__ void norm_head(head<N> &h, const head<N> &w, int n, float eps)
{
    float sum = 0;
#pragma unroll
    for (int i = 0; i < N; i++) sum = ap_square_sum(quad(h.v[i]), sum);
    float r = ap_norm_factor(ap_warp_sum(sum), n, eps);
#pragma unroll
    for (int i = 0; i < N; i++)
        for (int j = 0; j < 4; j++) h.v[i][j] = h.v[i][j] * r * w.v[i][j];
}

/* row: the warp's own room in shared memory, f32 [head_dim] */
template <int N>
static __device__ __forceinline__ void rotate_head(const ap_qkv_args &a, head<N> &h, int lane,
                                                   const head<N> &c, const head<N> &s, float *row)
{
#pragma unroll
    for (int i = 0; i < N; i++)
        for (int j = 0; j < 4; j++)
            if (4 * (lane + i * AP_WARP) + j < a.head_dim)
                row[4 * (lane + i * AP_WARP) + j] = h.v[i][j];
    __syncwarp();
#pragma unroll
    for (int i = 0; i < N; i++)
        for (int j = 0; j < 4; j++) {
            int d = 4 * (lane + i * AP_WARP) + j;
            if (angle_of(a, d) >= 0) h.v[i][j] = rotated(a, row, d, c.v[i][j], s.v[i][j]);
        }
}

/* cos or sin of a token for each dim that turns */
template <int N>
static __device__ __forceinline__ head<N> load_angles(const ap_qkv_args &a, const float *table,
                                                      int t, int lane)
{
    head<N> h;
#pragma unroll
    for (int i = 0; i < N; i++)
        for (int j = 0; j < 4; j++) {
            int at = angle_of(a, 4 * (lane + i * AP_WARP) + j);
            h.v[i][j] = at >= 0 ? table[(size_t)t * a.n_angle + at] : 0.0f;
        }
    return h;
}

/* ------------------------------------------------------------------ pages */

/* Largest |value| as bits: those of infinities and NaN are the largest. */
static __device__ __forceinline__ uint32_t magnitude(const float *v)
{
    uint32_t m = 0;
    for (int j = 0; j < 4; j++) m = max(m, __float_as_uint(v[j]) & 0x7fffffffu);
    return m;
}

/* What integers of a group with that largest magnitude are multiplied by, and their scale. */
static __device__ __forceinline__ float q8_unit(uint32_t most, float *scale)
{
    float a = __uint_as_float(most);
    bool odd = most >= 0x7f800000u;
    *scale = odd ? __uint_as_float(0x7fc00000u) : a < 1e-30f ? 0.0f : a * (1.0f / 127.0f);
    return odd || a < 1e-30f ? 0.0f : 127.0f / a;
}

/* 0 where by is: an infinity times 0 is none. */
static __device__ __forceinline__ int q8_int(float v, float by)
{
    return by == 0.0f ? 0 : __float2int_rn(__fmul_rn(v, by));
}

static __device__ __forceinline__ uint16_t bf16_bits(float v)
{
    return __bfloat16_as_ushort(__float2bfloat16_rn(v));
}

/* A key's dims d .. d+3 to the page's token `slot`. by: Q8, what its integers are the product with */
template <apus_kv TYPE>
static __device__ __forceinline__ void put_key(const ap_page_head &h, int head_dim, int slot, int d,
                                               const float *v, float by)
{
    if (TYPE == APUS_KV_F32) {
        float *k = (float *)h.k + (size_t)d * AP_PAGE + slot;
        for (int j = 0; j < 4; j++)
            if (d + j < head_dim) k[j * AP_PAGE] = v[j];
    } else if (TYPE == APUS_KV_BF16) {
        uint32_t *k = (uint32_t *)h.k + (size_t)(d / 2) * AP_PAGE + slot;
        k[0] = bf16_bits(v[0]) | (uint32_t)bf16_bits(v[1]) << 16;
        k[AP_PAGE] = bf16_bits(v[2]) | (uint32_t)bf16_bits(v[3]) << 16;
    } else {
        uint32_t q = 0;
        for (int j = 0; j < 4; j++) q |= (uint32_t)(q8_int(v[j], by) + 128) << 8 * j;
        ((uint32_t *)h.k)[((size_t)(slot / 16) * (head_dim / 4) + d / 4) * 16 + slot % 16] = q;
    }
}

template <apus_kv TYPE>
static __device__ __forceinline__ void put_value(const ap_page_head &h, int head_dim, int slot,
                                                 int d, const float *v, float by)
{
    for (int j = 0; j < 4 && d + j < head_dim; j++) {
        if (TYPE == APUS_KV_F32)
            ((float *)h.v)[(size_t)slot * head_dim + d + j] = v[j];
        else if (TYPE == APUS_KV_BF16)
            ((uint16_t *)h.v)[((size_t)(slot / 2) * head_dim + d + j) * 2 + slot % 2] =
                bf16_bits(v[j]);
        else
            h.v[((size_t)(d / 16) * (AP_PAGE / 4) + slot / 4) * 64 + (d % 16 + j) * 4 + slot % 4] =
                (uint8_t)q8_int(v[j], by);
    }
}

/* Lanes of a group of AP_KV_BLOCK dims are neighbours: four dims each. */
static __device__ __forceinline__ uint32_t block_max(uint32_t v)
{
    for (int i = AP_KV_BLOCK / 4 / 2; i; i /= 2) v = max(v, __shfl_xor_sync(0xffffffffu, v, i));
    return v;
}

template <int N, apus_kv TYPE>
static __device__ __forceinline__ void write_key(const ap_page_head &at, const head<N> &h, int lane,
                                                 int head_dim, int slot)
{
#pragma unroll
    for (int i = 0; i < N; i++) {
        int d = 4 * (lane + i * AP_WARP);
        float by = 0, scale;
        if (TYPE == APUS_KV_Q8) {
            by = q8_unit(block_max(magnitude(h.v[i])), &scale);
            if (d % AP_KV_BLOCK == 0 && d < head_dim)
                at.ks[d / AP_KV_BLOCK * AP_PAGE + slot] = scale;
        }
        if (d < head_dim) put_key<TYPE>(at, head_dim, slot, d, h.v[i], by);
    }
}

template <int N, apus_kv TYPE>
static __device__ __forceinline__ void write_value(const ap_page_head &at, const head<N> &h,
                                                   int lane, int head_dim, int slot)
{
    float by = 0, scale;
    if (TYPE == APUS_KV_Q8) {
        uint32_t most = 0;
#pragma unroll
        for (int i = 0; i < N; i++) most = max(most, magnitude(h.v[i]));
        by = q8_unit(__reduce_max_sync(0xffffffffu, most), &scale);
        if (lane == 0) at.vs[slot] = scale;
    }
#pragma unroll
    for (int i = 0; i < N; i++) {
        int d = 4 * (lane + i * AP_WARP);
        if (d < head_dim) put_value<TYPE>(at, head_dim, slot, d, h.v[i], by);
    }
}

/* ------------------------------------------------------------------ the kernel */

template <int N, apus_kv TYPE>
static __device__ __forceinline__ void write_page(const qkv_params &p, const head<N> &h, int lane,
                                                  int t, int g, bool is_key)
{
    const ap_qkv_args &a = p.a;
    int pos = p.pos[t];
    uint8_t *page = ap_page_of(a.kv, p.page + (size_t)p.seq[p.seq_of[t]].table * p.page_ld, pos);
    if (!page) return;
    ap_page_head at = ap_page_head_at<TYPE>(page, a.n_kv_head, a.page_dim, g);
    if (is_key)
        write_key<N, TYPE>(at, h, lane, a.page_dim, pos % AP_PAGE);
    else
        write_value<N, TYPE>(at, h, lane, a.page_dim, pos % AP_PAGE);
}

/* Warps of a token: n_head for q, then n_kv_head for k and as many for v. */
template <int N, apus_kv TYPE, bool VECTOR>
static __global__ void __launch_bounds__(WARPS *AP_WARP) qkv_heads(qkv_params p)
{
    extern __shared__ float rows[]; /* f32 [WARPS][head_dim] */
    const ap_qkv_args &a = p.a;
    int warp = (int)threadIdx.x / AP_WARP, lane = (int)threadIdx.x % AP_WARP, D = a.head_dim;
    int each = a.n_head + (a.q_only ? 0 : 2 * a.n_kv_head);
    int64_t unit = (int64_t)blockIdx.x * WARPS + warp;
    int t = (int)(unit / each), h = (int)(unit % each), g = h - a.n_head;
    bool is_q = g < 0, is_key = !is_q && g < a.n_kv_head;
    if (!is_q && !is_key) g -= a.n_kv_head;
    const float *weight = is_q ? a.q_norm : is_key ? a.k_norm : NULL;
    head<N> w;
    if (weight)
        w = load_head<N, VECTOR>(weight, lane, D);
    else
        for (int i = 0; i < N; i++)
            for (int j = 0; j < 4; j++) w.v[i][j] = 1;
    ap_grid_wait();
    if (t >= a.n_tok) return;

    const float *x = is_q     ? a.q + t * a.ldq + h * a.q_head_stride
                     : is_key ? a.k + t * a.ldk + (int64_t)g * D
                              : a.v + t * a.ldv + (int64_t)g * D;
    head<N> v = load_head<N, VECTOR>(x, lane, D);
    bool turns = (is_q || is_key) && a.n_angle > 0;
    head<N> c, s;
    if (turns) {
        c = load_angles<N>(a, a.cos, t, lane);
        s = load_angles<N>(a, a.sin, t, lane);
    }
    if (weight || (!is_q && !is_key && a.v_norm)) norm_head(v, w, D, a.eps);
    if (turns) rotate_head(a, v, lane, c, s, rows + (size_t)warp * D);
    if (!is_q) {
        write_page<N, TYPE>(p, v, lane, t, g, is_key);
        return;
    }
    float *out = a.q_out + ((size_t)t * a.n_head + h) * a.page_dim;
#pragma unroll
    for (int i = 0; i < N; i++)
        ap_store4<VECTOR>(out, 4 * (lane + i * AP_WARP), a.page_dim, quad(v.v[i]));
}

/* ------------------------------------------------------------------ the slot */

static bool is_vector(const ap_qkv_args *a)
{
    bool q = a->head_dim % 4 == 0 && a->page_dim % 4 == 0 && a->ldq % 4 == 0 &&
             a->q_head_stride % 4 == 0 && ap_aligned16(a->q) && ap_aligned16(a->q_out) &&
             ap_aligned16(a->q_norm);
    bool kv = a->ldk % 4 == 0 && a->ldv % 4 == 0 && ap_aligned16(a->k) && ap_aligned16(a->v) &&
              ap_aligned16(a->k_norm);
    return q && (a->q_only || kv);
}

template <int N, apus_kv TYPE> static void launch(const ap_exec *x, const qkv_params &p)
{
    const ap_qkv_args *a = &p.a;
    int64_t units = (int64_t)a->n_tok * (a->n_head + (a->q_only ? 0 : 2 * a->n_kv_head));
    dim3 grid(ap_ceil_div(units, WARPS)), block(WARPS * AP_WARP);
    size_t shared = (size_t)WARPS * (size_t)a->head_dim * sizeof(float);
    if (is_vector(a))
        ap_launch(x, qkv_heads<N, TYPE, true>, grid, block, shared, p);
    else
        ap_launch(x, qkv_heads<N, TYPE, false>, grid, block, shared, p);
}

template <apus_kv TYPE> static void launch_type(const ap_exec *x, const qkv_params &p)
{
    int n = p.a.page_dim;
    if (n <= 128)
        launch<1, TYPE>(x, p);
    else if (n <= 256)
        launch<2, TYPE>(x, p);
    else if (n <= 512)
        launch<4, TYPE>(x, p);
    else
        launch<8, APUS_KV_F32>(x, p); /* the other types end at 512 */
}

void ap_cuda_qkv(const ap_exec *x, const ap_qkv_args *a)
{
    const ap_batch *b = a->kv.batch;
    qkv_params p = {*a, b->seq_dev, b->seq_of, b->pos, b->page[a->kv.group], b->page_ld};
    p.a.page_dim = ap_qkv_page_dim(a);
    if (a->n_tok <= 0) return;
    if (p.a.page_dim > AP_HEAD_MAX ||
        (p.a.page_dim > 512 && a->kv.type != APUS_KV_F32 && !a->q_only)) {
        ap_cuda_check(ap_cuda_of(x), cudaErrorInvalidValue, "qkv: heads of this size");
        return;
    }
    if (a->q_only || a->kv.type == APUS_KV_F32)
        launch_type<APUS_KV_F32>(x, p);
    else if (a->kv.type == APUS_KV_BF16)
        launch_type<APUS_KV_BF16>(x, p);
    else
        launch_type<APUS_KV_Q8>(x, p);
}
