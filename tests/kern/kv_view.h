/* kv_view.h - elements of KV pages by the text of kern.h (ap_kv), written out apart from the
 * kernels: a head's key or (v) value of one token. */
#ifndef KCHECK_KV_VIEW_H
#define KCHECK_KV_VIEW_H

#include <string.h>

#include "kern/kern.h"

typedef struct kv_view {
    apus_kv type;
    int G, D;
    uint8_t *page; /* of the layer */
    int j;         /* token in the page */
} kv_view;

static inline const char *kv_name(apus_kv type)
{
    return type == APUS_KV_F32 ? "f32" : type == APUS_KV_BF16 ? "bf16" : "q8";
}

/* Element d of head g: its index in the page, in elements of its type. */
static inline int64_t kv_index(const kv_view *x, int g, int d, bool v)
{
    int64_t D = x->D, G = x->G, j = x->j, head = g * D * AP_PAGE, values = G * D * AP_PAGE + head;
    switch (x->type) {
    case APUS_KV_BF16:
        return v ? values + (j / 2 * D + d) * 2 + j % 2 : head + (d / 2 * AP_PAGE + j) * 2 + d % 2;
    case APUS_KV_Q8:
        return v ? values + ((d / 16 * (AP_PAGE / 4) + j / 4) * 16 + d % 16) * 4 + j % 4
                 : head + ((j / 16 * (D / 4) + d / 4) * 16 + j % 16) * 4 + d % 4;
    default:
        return v ? values + j * D + d : head + d * AP_PAGE + j;
    }
}

static inline float *kv_scale(const kv_view *x, int g, int d, bool v)
{
    int64_t D = x->D, G = x->G, blocks = (D + AP_KV_BLOCK - 1) / AP_KV_BLOCK;
    float *scale = (float *)(void *)(x->page + 2 * G * D * AP_PAGE);
    return scale + (v ? (G * blocks + g) * AP_PAGE : (g * blocks + d / AP_KV_BLOCK) * AP_PAGE) +
           x->j;
}

/* The integer of a Q8 page. */
static inline int kv_int(const kv_view *x, int g, int d, bool v)
{
    uint8_t q = x->page[kv_index(x, g, d, v)];
    return v ? (int8_t)q : q - 128;
}

static inline float kv_get(const kv_view *x, int g, int d, bool v)
{
    int64_t i = kv_index(x, g, d, v);
    float f;
    uint16_t h;
    switch (x->type) {
    case APUS_KV_BF16:
        memcpy(&h, x->page + 2 * i, sizeof h);
        return ap_bf16_to_f32(h);
    case APUS_KV_Q8:
        return (float)kv_int(x, g, d, v) * *kv_scale(x, g, d, v);
    default:
        memcpy(&f, x->page + 4 * i, sizeof f);
        return f;
    }
}

/* q: for Q8 pages, f for the others. */
static inline void kv_set(const kv_view *x, int g, int d, bool v, float f, int q)
{
    int64_t i = kv_index(x, g, d, v);
    uint16_t h = ap_f32_to_bf16(f);
    switch (x->type) {
    case APUS_KV_BF16:
        memcpy(x->page + 2 * i, &h, sizeof h);
        break;
    case APUS_KV_Q8:
        x->page[i] = (uint8_t)(v ? q : q + 128);
        break;
    default:
        memcpy(x->page + 4 * i, &f, sizeof f);
    }
}

#endif
