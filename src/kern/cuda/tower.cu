/* tower.cu - what towers need beside the operations of text models: layer norm, weighted sums of rows, attention to the
 * rows right before.
 *
 * Sums of a row have one order for each width. */
#include "kern/cuda/cuda.cuh"
#include "kern/cuda/order.cuh"
#include "kern/cuda/quad.cuh"

#define NORM_THREADS  256
#define BLEND_THREADS 128
#define NEAR_WARPS    4

/* Sum of v over the block; every thread takes part, and gets it. */
static __device__ float block_sum(float v)
{
    __shared__ float part[NORM_THREADS / AP_WARP];
    v = ap_warp_sum(v);
    __syncthreads(); /* the last sum has been read */
    if (threadIdx.x % AP_WARP == 0) part[threadIdx.x / AP_WARP] = v;
    __syncthreads();
    unsigned lane = threadIdx.x % AP_WARP;
    return ap_warp_sum(lane < NORM_THREADS / AP_WARP ? part[lane] : 0.0f);
}

static __global__ void __launch_bounds__(NORM_THREADS) layer_norm_rows(ap_layer_norm_args a)
{
    ap_grid_wait();
    for (int t = (int)blockIdx.x; t < a.rows; t += (int)gridDim.x) {
        const float *x = a.x + t * a.ldx;
        float *out = a.out + t * a.ldout, sum = 0;
        for (int i = (int)threadIdx.x; i < a.n; i += NORM_THREADS) sum += x[i];
        float mean = block_sum(sum) / (float)a.n;
        sum = 0;
        for (int i = (int)threadIdx.x; i < a.n; i += NORM_THREADS)
            sum = fmaf(x[i] - mean, x[i] - mean, sum);
        float r = 1.0f / sqrtf(block_sum(sum) / (float)a.n + a.eps);
        for (int i = (int)threadIdx.x; i < a.n; i += NORM_THREADS) {
            float y = (x[i] - mean) * r * a.weight[i];
            out[i] = a.bias ? y + a.bias[i] : y;
        }
    }
}

void ap_cuda_layer_norm(const ap_exec *x, const ap_layer_norm_args *a)
{
    if (a->rows <= 0 || a->n <= 0) return;
    ap_launch(x, layer_norm_rows, dim3(ap_grid_y(a->rows)), dim3(NORM_THREADS), 0, *a);
}

static __global__ void __launch_bounds__(BLEND_THREADS) blend_rows(ap_blend_args a)
{
    ap_grid_wait();
    int i = (int)(blockIdx.x * BLEND_THREADS + threadIdx.x);
    if (i >= a.n) return;
    for (int t = (int)blockIdx.y; t < a.rows; t += (int)gridDim.y) {
        float acc = 0;
        for (int j = 0; j < a.n_tap; j++) {
            size_t at = (size_t)t * a.n_tap + j;
            acc = fmaf(a.weight[at], a.x[a.row[at] * a.ldx + i], acc);
        }
        a.out[t * a.ldout + i] = acc;
    }
}

void ap_cuda_blend(const ap_exec *x, const ap_blend_args *a)
{
    if (a->rows <= 0 || a->n <= 0) return;
    dim3 grid(ap_ceil_div(a->n, BLEND_THREADS), ap_grid_y(a->rows));
    ap_launch(x, blend_rows, grid, dim3(BLEND_THREADS), 0, *a);
}

/* A warp has a head of a row. */
static __global__ void __launch_bounds__(NEAR_WARPS *AP_WARP) attn_near_heads(ap_attn_near_args a)
{
    __shared__ float scores[NEAR_WARPS][AP_NEAR_MAX];
    ap_grid_wait();
    int lane = (int)threadIdx.x % AP_WARP, D = a.head_dim;
    float *s = scores[threadIdx.x / AP_WARP];
    int64_t first = (int64_t)blockIdx.x * NEAR_WARPS + threadIdx.x / AP_WARP;
    for (int64_t i = first; i < (int64_t)a.n_tok * a.n_head; i += (int64_t)gridDim.x * NEAR_WARPS) {
        int64_t t = i / a.n_head, head = i % a.n_head * D;
        int n = (int)min((int64_t)a.reach, t + a.n_past + 1);
        const float *q = a.q + t * a.ldq + head;
        float top = -INFINITY, sum = 0;
        for (int j = 0; j < n; j++) {
            const float *k = a.k + (t - j) * a.ldkv + head;
            const float *far = a.distant + (int64_t)j * a.n_head * D + head;
            float near_part = 0, far_part = 0;
            for (int d = lane; d < D; d += AP_WARP) {
                near_part = fmaf(q[d], k[d], near_part);
                far_part = fmaf(q[d], far[d], far_part);
            }
            float score = ap_warp_sum(near_part) + ap_warp_sum(far_part);
            score = a.cap * tanhf(score / a.cap);
            top = fmaxf(top, score);
            if (lane == 0) s[j] = score;
        }
        __syncwarp();
        for (int j = 0; j < n; j++) sum += expf(s[j] - top);
        for (int d = lane; d < D; d += AP_WARP) {
            float acc = 0;
            for (int j = 0; j < n; j++)
                acc = fmaf(expf(s[j] - top), a.v[(t - j) * a.ldkv + head + d], acc);
            a.out[t * a.ldout + head + d] = acc * (1.0f / sum);
        }
        __syncwarp(); /* the scores have been read */
    }
}

void ap_cuda_attn_near(const ap_exec *x, const ap_attn_near_args *a)
{
    if (a->n_tok <= 0) return;
    int blocks = (int)(((int64_t)a->n_tok * a->n_head + NEAR_WARPS - 1) / NEAR_WARPS);
    ap_launch(x, attn_near_heads, dim3((unsigned)min(blocks, 1 << 16)), dim3(NEAR_WARPS * AP_WARP),
              0, *a);
}
