/* kv_page.cuh - where a head's keys and values lie in a page of device memory. Layouts: ap_kv in kern.h. */
#ifndef AP_KERN_CUDA_KV_PAGE_CUH
#define AP_KERN_CUDA_KV_PAGE_CUH

#include "kern/cuda/cuda.cuh"

/* One KV head's part of a page. ks, vs: Q8 only. */
struct ap_page_head {
    uint8_t *k, *v;
    float *ks, *vs; /* f32 [blocks of AP_KV_BLOCK][AP_PAGE], f32 [AP_PAGE] */
};

/* page: base of the layer's part of a page. */
template <apus_kv TYPE>
static __device__ __forceinline__ ap_page_head ap_page_head_at(uint8_t *page, int n_kv_head,
                                                               int head_dim, int g)
{
    size_t head = (size_t)head_dim * AP_PAGE *
                  (TYPE == APUS_KV_F32    ? 4
                   : TYPE == APUS_KV_BF16 ? 2
                                          : 1);
    size_t n = (size_t)n_kv_head, blocks = ((size_t)head_dim + AP_KV_BLOCK - 1) / AP_KV_BLOCK;
    ap_page_head h = {page + g * head, page + (n + g) * head, NULL, NULL};
    if (TYPE == APUS_KV_Q8) {
        float *scales = (float *)(page + 2 * n * head);
        h.ks = scales + g * blocks * AP_PAGE;
        h.vs = scales + (n * blocks + g) * AP_PAGE;
    }
    return h;
}

/* The page with position `pos` of row t of the step; NULL: it has left the window. */
static __device__ __forceinline__ uint8_t *ap_page_of(const ap_kv &kv, const int32_t *table,
                                                      int pos)
{
    int32_t page = table[pos / AP_PAGE];
    return page < 0 ? NULL : kv.base + (size_t)page * kv.page_bytes + kv.layer_offset;
}

#endif
