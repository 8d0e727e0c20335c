/* device_cuda.h - what the rest of apus sees of this folder. */
#ifndef AP_KERN_CUDA_DEVICE_CUDA_H
#define AP_KERN_CUDA_DEVICE_CUDA_H

#include "kern/kern.h"

/* CUDA devices that the driver offers; 0 without a driver. */
int ap_cuda_count(void);

/* GPU `ordinal` with `threads` host workers (0 = one per core) for packing. EINVAL: there is no such device;
 * EUNSUPPORTED: it is too old; EDEVICE: it could not be opened. */
apus_err ap_device_cuda(int ordinal, int threads, ap_device **out, apus_diag *diag);

const ap_kern *ap_kern_cuda(void);

/* pack_cuda.c: matrices as the CPU packs them; types without a packed form there become f32. */
size_t ap_cuda_pack_bytes(const ap_kern *k, const ap_tensor *t);
void ap_cuda_pack(const ap_kern *k, const ap_tensor *src, void *dst);
void ap_cuda_pack_mat(const ap_kern *k, const ap_tensor *src, void *dst, ap_mat *out);
bool ap_cuda_mat_rows(const ap_kern *k, const ap_mat *whole, int begin, int n, ap_mat *out);

#endif
