/* kv_page.h - where a head's keys and values lie in a page, how a token's are written, and what a
 * query becomes for Q8 pages. Layouts and rounding: ap_kv in kern.h. Scalar, the same on every
 * level. */
#ifndef AP_KERN_CPU_PAGE_KV_PAGE_H
#define AP_KERN_CPU_PAGE_KV_PAGE_H

#include "kern/kern.h"

/* One KV head's part of a page. ks, vs: Q8 only. */
typedef struct ap_kv_head {
    uint8_t *k, *v;
    float *ks, *vs; /* f32 [blocks of AP_KV_BLOCK][AP_PAGE], f32 [AP_PAGE] */
} ap_kv_head;

/* The block table of a sequence: i32 [pages], -1 = left the window. */
static inline const int32_t *ap_kv_pages(const ap_kv *kv, const ap_seq *s)
{
    return kv->batch->page[kv->group] + (size_t)s->table * (size_t)kv->batch->page_ld;
}

ap_kv_head ap_kv_head_at(const ap_kv *kv, int32_t page, int n_kv_head, int head_dim, int g);

/* What lies `ahead` bytes behind b, in memory that may be another mapping; NULL if ahead is 0. */
static inline const void *ap_kv_ahead(const void *b, int64_t ahead)
{
    return ahead ? (const void *)((uintptr_t)b + (uintptr_t)ahead) : NULL;
}

/* Write the key or value x f32 [head_dim] of the page's token `slot`. */
void ap_kv_put_key(apus_kv type, const ap_kv_head *h, const float *x, int head_dim, int slot);
void ap_kv_put_value(apus_kv type, const ap_kv_head *h, const float *x, int head_dim, int slot);

/* out = round to even(x * (most / a)), a = max |x|; returns a * (1/most rounded). a < 1e-30: zeros and
 * 0; an infinity or NaN among x: zeros and NaN. */
float ap_kv_ints(const float *x, int n, float most, int16_t *out);

#endif
