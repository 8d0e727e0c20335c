/* decode.cuh - products of one row, for matmul.cu. */
#ifndef AP_KERN_CUDA_DECODE_CUH
#define AP_KERN_CUDA_DECODE_CUH

#include "panel.cuh"

/* A product of one row of f32 inputs, p->x; false: not of this form or size. */
bool ap_cuda_one(const ap_exec *x, const ap_product_args *p);

#endif
