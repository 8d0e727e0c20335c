/* matmul.cuh - what matmul.cu, floats.cu and moe.cu share: products and where their results go. */
#ifndef AP_KERN_CUDA_MATMUL_CUH
#define AP_KERN_CUDA_MATMUL_CUH

#include "product.cuh"

enum {
    AP_PUT_STORE, /* y = v */
    AP_PUT_ADD,   /* y = y + v */
    AP_PUT_GLU,   /* y = act(v of w[0]) * v of w[1] */
    AP_PUT_TIMES  /* y = act(y) * v: the second half of GLU */
};

struct ap_product_args {
    ap_qmat w[2];
    ap_qin in;           /* inputs' rows in integer form; or */
    const uint16_t *b16; /* in bf16, in the order of wide.cu; or */
    const float *x;      /* f32: a single row, made integers in every block */
    int64_t ldx;
    float *y;
    uint16_t *y16; /* wide.cu with AP_PUT_GLU, instead of y: as b16 */
    int64_t ldy;
    int n_row;
    int mode, act;
    float softcap; /* 0 = none */

    /* Experts: w is expert 0, the others are `stride` bytes apart. expert NULL: none of this. */
    const int32_t *expert;   /* i32: of blockIdx.y (few), of each tile (tile) */
    const int32_t *n_active; /* i32 [1]: how many there are; NULL = all of the grid */
    const int32_t
        *first; /* i32 [E + 1] first pair of an expert; NULL: blockIdx.y is the one pair */
    const int32_t *tile_first; /* i32: first pair of each tile */
    const int32_t *pair; /* i32: pairs (token * n_used + rank) by expert; NULL: pairs are rows */
    size_t stride[2];
    int n_used;
    bool by_token; /* inputs' row of a pair is its token's; else its own */
};

/* Do products of w multiply integers? */
static inline bool ap_in_integers(const ap_exec *x, const ap_mat *w)
{
    return w->q.bits && !w->q.is_float && x->precision != APUS_PRECISION_EXACT;
}

/* groups: of 8 rows, of tiles, or of experts. */
void ap_cuda_product(const ap_exec *x, const ap_product_args *a, bool tiled, int groups);

/* Room for rows in integer form, and making them. */
size_t ap_qin_bytes(int64_t rows, int cols);
ap_qin ap_qin_at(void *mem, int64_t rows, int cols);
void ap_cuda_quantise(const ap_exec *x, const float *from, int64_t ld, int rows, int cols,
                      ap_qin in);

/* moe.cu: bytes from expert to expert of a projection, at `member` of ap_expert; false: there is no such number. */
bool ap_cuda_expert_stride(const ap_expert *x, int n, size_t member, size_t *stride);

/* wide.cu: tiles of AP_WIDE_ROWS rows of b16; with AP_PUT_GLU of two matrices that are a wide pair. */
#define AP_WIDE_ROWS 128
bool ap_cuda_wide_pair(const ap_mat *a, const ap_mat *b);
bool ap_cuda_is_wide(const ap_exec *x, const ap_mat *w);
void ap_cuda_to_bf16(const ap_exec *x, const float *from, int64_t ld, int rows, int cols,
                     uint16_t *to);
void ap_cuda_wide(const ap_exec *x, const ap_product_args *a, int groups);

/* floats.cu: products in f32 of weights of any form. mode: STORE, ADD or TIMES. */
void ap_cuda_float_matmul(const ap_exec *x, const ap_matmul_args *a);
void ap_cuda_float_product(const ap_exec *x, const ap_matmul_args *a, int mode, int act);
/* Experts of any form, in the same way as ap_cuda_product does; p->x are the rows, w is expert 0. */
void ap_cuda_float_experts(const ap_exec *x, const ap_mat *w, const ap_product_args *p, int groups);

#ifdef __CUDACC__
/* Where a result goes; up: of w[1], with AP_PUT_GLU. */
static __device__ __forceinline__ void ap_put(const ap_product_args &a, int64_t row, int col,
                                              float v, float up)
{
    float *y = a.y + row * a.ldy + col;
    if (a.mode == AP_PUT_GLU)
        v = (a.act == AP_ACT_SILU ? ap_silu(v) : ap_gelu_tanh(v)) * up;
    else if (a.mode == AP_PUT_TIMES)
        v = (a.act == AP_ACT_SILU ? ap_silu(*y) : ap_gelu_tanh(*y)) * v;
    else if (a.mode == AP_PUT_ADD)
        v = *y + v;
    if (a.softcap != 0.0f) v = a.softcap * tanhf(v / a.softcap);
    *y = v;
}
#endif

#endif
