/* tensor.h - a typed view of bytes that somebody else owns. */
#ifndef AP_TENSOR_TENSOR_H
#define AP_TENSOR_TENSOR_H

#include "tensor/dtype.h"

#define AP_MAX_RANK 8

typedef struct ap_tensor {
    const void *data; /* row-major, dense, any alignment; NULL only when it has no elements */
    ap_dtype dtype;
    int rank;
    int64_t shape[AP_MAX_RANK]; /* of the values, also for quantised types */

    /* Split quantised types only; the last axis is the grouped one. Scales and biases are row-major
     * [rows / group_rows, columns / group], where rows are all leading axes together. */
    const void *scales, *biases; /* biases: AP_MLX_AFFINE */
    ap_dtype scale_dtype;        /* F32, F16, BF16; U8 = e8m0; F8_E4M3 */
    int bits;                    /* of an element of data */
    int group, group_rows;       /* group_rows: 1; 128 for AP_FP8_BLOCK as stored */
} ap_tensor;

static inline int64_t ap_tensor_count(const ap_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->rank; i++) n *= t->shape[i];
    return n; /* cannot overflow: checked when the view was made */
}

/* Bytes of one row (last axis) of data, and of all data; the scales of split types not counted. */
size_t ap_tensor_row_bytes(const ap_tensor *t);
size_t ap_tensor_bytes(const ap_tensor *t);
/* Bytes of the scales of a split type, as many as of its biases; 0 = it has none. */
size_t ap_tensor_scale_bytes(const ap_tensor *t);

/* Sub-view: index i of the first axis. */
ap_tensor ap_tensor_index(const ap_tensor *t, int64_t i);
/* Sub-view: rows [begin, end) of the first axis. With group_rows > 1, begin falls on a block. */
ap_tensor ap_tensor_rows(const ap_tensor *t, int64_t begin, int64_t end);

#endif
