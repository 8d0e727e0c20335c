#include "tensor/tensor.h"

#include <assert.h>

size_t ap_tensor_row_bytes(const ap_tensor *t)
{
    size_t n = t->rank ? (size_t)t->shape[t->rank - 1] : 1;
    int block = ap_dtype_block(t->dtype);
    return block ? n / (size_t)block * ap_dtype_block_bytes(t->dtype) : n * (size_t)t->bits / 8;
}

size_t ap_tensor_bytes(const ap_tensor *t)
{
    size_t rows = 1;
    for (int i = 0; i + 1 < t->rank; i++) rows *= (size_t)t->shape[i];
    return rows * ap_tensor_row_bytes(t);
}

ap_tensor ap_tensor_rows(const ap_tensor *t, int64_t begin, int64_t end)
{
    assert(t->rank >= 1 && begin >= 0 && begin <= end && end <= t->shape[0]);
    ap_tensor r = *t;
    r.shape[0] = 1;
    size_t bytes = t->rank == 1 ? 0 : ap_tensor_bytes(&r);
    if (t->rank == 1) { /* elements of a vector: plain types only */
        assert(ap_dtype_block(t->dtype) == 1);
        bytes = ap_dtype_bytes(t->dtype);
    }
    if (t->data) r.data = (const uint8_t *)t->data + (size_t)begin * bytes;
    if (t->scales) {
        size_t rows = (size_t)begin; /* of the matrix that all leading axes make */
        for (int i = 1; i + 1 < t->rank; i++) rows *= (size_t)t->shape[i];
        assert(rows % (size_t)t->group_rows == 0);
        size_t per_row = ((size_t)t->shape[t->rank - 1] + (size_t)t->group - 1) / (size_t)t->group;
        size_t offset = rows / (size_t)t->group_rows * per_row * ap_dtype_bytes(t->scale_dtype);
        r.scales = (const uint8_t *)t->scales + offset;
        if (t->biases) r.biases = (const uint8_t *)t->biases + offset;
    }
    r.shape[0] = end - begin;
    return r;
}

size_t ap_tensor_scale_bytes(const ap_tensor *t)
{
    if (!t->scales) return 0;
    size_t rows = 1, cols = (size_t)t->shape[t->rank - 1], group_rows = (size_t)t->group_rows;
    for (int i = 0; i + 1 < t->rank; i++) rows *= (size_t)t->shape[i];
    return (rows + group_rows - 1) / group_rows *
           ((cols + (size_t)t->group - 1) / (size_t)t->group) * ap_dtype_bytes(t->scale_dtype);
}

ap_tensor ap_tensor_index(const ap_tensor *t, int64_t i)
{
    ap_tensor r = ap_tensor_rows(t, i, i + 1);
    r.rank--;
    for (int k = 0; k < r.rank; k++) r.shape[k] = r.shape[k + 1];
    return r;
}
