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

/* Rows in bf16 in the order of wide.cu, `rows` of them, a multiple of 8. rest: what `high` has rounded away, or NULL. */
struct ap_bf16_rows {
    uint16_t *high, *rest;
    int rows;
};

struct ap_product_args {
    ap_qmat w[2];
    ap_qin in;        /* inputs' rows in integer form; or */
    ap_bf16_rows b16; /* in bf16; or */
    const float *x;   /* f32: a single row, made integers in every block */
    int64_t ldx;
    float *y;
    uint16_t *
        y16; /* wide.cu, instead of y, in bf16: with AP_PUT_STORE rows of ldy; with _GLU as ap_bf16_rows */
    int y_rows; /* of those; 0: in y */
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
    const int32_t *tile_rows;  /* i32: pairs of each tile (wide.cu) */
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

/* wide.cu: products of up to AP_WIDE_ROWS rows of inputs in bf16 at a time; with AP_PUT_GLU of two matrices that are
 * a wide pair. */
#define AP_WIDE_ROWS 256
#define AP_WIDE_FROM 32 /* rows beyond which it is worth while */
bool ap_cuda_wide_pair(const ap_mat *a, const ap_mat *b);
bool ap_cuda_is_wide(const ap_exec *x, const ap_mat *w);
bool ap_cuda_wide_rest(const ap_mat *w); /* its inputs are two bf16 each */
size_t ap_bf16_bytes(int64_t rows, int cols);
/* Rows in `mem`, with their rest behind them or without. */
ap_bf16_rows ap_bf16_rows_at(void *mem, int64_t rows, int cols, bool rest);
void ap_cuda_to_bf16(const ap_exec *x, const float *from, int64_t ld, int n_row, int cols,
                     ap_bf16_rows to);
/* Row i of *count: that of token pair[i] / n_used; -1: none. */
void ap_cuda_gather_bf16(const ap_exec *x, ap_bf16_rows from, const int32_t *pair,
                         const int32_t *count, int n_used, int cols, ap_bf16_rows to);
/* Rows of each tile of an expert's n rows; experts begin at multiples of 8. */
static __host__ __device__ inline int ap_wide_share(int n)
{
    int tiles = (n + AP_WIDE_ROWS - 1) / AP_WIDE_ROWS;
    return tiles ? ((n + tiles - 1) / tiles + 7) / 8 * 8 : 0;
}
void ap_cuda_wide(const ap_exec *x, const ap_product_args *a, int groups);

/* moe.cu: experts whose inputs are in bf16 already; beside what they make y takes sigmoid(gate) * shared. */
struct ap_moe_more {
    ap_bf16_rows b16;           /* high NULL: they are not */
    const float *shared, *gate; /* f32 [T, H], [T]; shared NULL: none */
};
bool ap_cuda_moe_is_wide(const ap_exec *x, const ap_moe_args *a);
void ap_cuda_moe_with(const ap_exec *x, const ap_moe_args *a, const ap_moe_more *more);

/* many.cu: the groups for many tokens with precision FAST; false: not for these. */
bool ap_cuda_project_many(const ap_exec *x, const ap_project_args *a);
bool ap_cuda_mix_many(const ap_exec *x, const ap_mix_args *a);

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
