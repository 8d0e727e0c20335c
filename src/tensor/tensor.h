/* tensor.h - a typed view of bytes that somebody else owns. */
#ifndef AP_TENSOR_TENSOR_H
#define AP_TENSOR_TENSOR_H

#include "tensor/dtype.h"

#define AP_MAX_RANK 8

typedef struct ap_tensor {
    const void *data; /* row-major, dense, any alignment; NULL only when it has no elements */
    ap_dtype dtype;
    int rank;
    int64_t shape[AP_MAX_RANK];
} ap_tensor;

static inline int64_t ap_tensor_count(const ap_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->rank; i++) n *= t->shape[i];
    return n; /* cannot overflow: checked when the view was made */
}

/* Sub-view: index i of the first axis. */
ap_tensor ap_tensor_index(const ap_tensor *t, int64_t i);
/* Sub-view: rows [begin, end) of the first axis. */
ap_tensor ap_tensor_rows(const ap_tensor *t, int64_t begin, int64_t end);

#endif
