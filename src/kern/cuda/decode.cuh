/* decode.cuh - what kernels of one token share, and products of one row for matmul.cu. */
#ifndef AP_KERN_CUDA_DECODE_CUH
#define AP_KERN_CUDA_DECODE_CUH

#include "panel.cuh"

/* Kernels of one token that follow each other all ask for as much shared memory as there is: a multiprocessor that has to
 * divide its memory anew must first be empty. */
template <typename K> static inline K ap_most_shared(const ap_exec *x, K kernel)
{
    if (ap_cuda_of(x)->arch >= 90)
        ap_cuda_check(ap_cuda_of(x),
                      cudaFuncSetAttribute((const void *)kernel,
                                           cudaFuncAttributePreferredSharedMemoryCarveout,
                                           cudaSharedmemCarveoutMaxShared),
                      "shared memory of a kernel");
    return kernel;
}

/* A product of one row of f32 inputs, p->x; false: not of this form or size. */
bool ap_cuda_one(const ap_exec *x, const ap_product_args *p);

/* y = y + row w^T of a row that is an ap_in_row in device memory; false likewise. */
bool ap_cuda_ready_one(const ap_exec *x, const ap_mat *w, const uint8_t *row, float *y);

/* The operations for one token; false, and nothing done: not of these forms and sizes. */
bool ap_cuda_glu_one(const ap_exec *x, const ap_glu_args *a);
bool ap_cuda_moe_one(const ap_exec *x, const ap_moe_args *a);

#endif
