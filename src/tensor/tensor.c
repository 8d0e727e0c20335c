#include "tensor/tensor.h"

#include <assert.h>

ap_tensor ap_tensor_rows(const ap_tensor *t, int64_t begin, int64_t end)
{
    assert(t->rank >= 1 && begin >= 0 && begin <= end && end <= t->shape[0]);
    ap_tensor r = *t;
    r.shape[0] = 1;
    size_t row = (size_t)ap_tensor_count(&r) * ap_dtype_bytes(t->dtype);
    r.shape[0] = end - begin;
    if (t->data) r.data = (const uint8_t *)t->data + (size_t)begin * row;
    return r;
}

ap_tensor ap_tensor_index(const ap_tensor *t, int64_t i)
{
    ap_tensor r = ap_tensor_rows(t, i, i + 1);
    r.rank--;
    for (int k = 0; k < r.rank; k++) r.shape[k] = r.shape[k + 1];
    return r;
}
