#include "kern/cpu/page/kv_page.h"

#include <string.h>

#define MAX_DIM 512 /* of BF16 and Q8 */

static size_t n_blocks(int head_dim)
{
    return ((size_t)head_dim + AP_KV_BLOCK - 1) / AP_KV_BLOCK;
}

size_t ap_kv_layer_bytes(apus_kv type, int n_kv_head, int head_dim)
{
    size_t n = (size_t)n_kv_head * (size_t)head_dim * AP_PAGE;
    if (type == APUS_KV_F32) return 2 * n * sizeof(float);
    if (head_dim % 16 || head_dim > MAX_DIM) return 0;
    if (type == APUS_KV_BF16) return 2 * n * sizeof(uint16_t);
    return 2 * n + (size_t)n_kv_head * (n_blocks(head_dim) + 1) * AP_PAGE * sizeof(float);
}

ap_kv_head ap_kv_head_at(const ap_kv *kv, int32_t page, int n_kv_head, int head_dim, int g)
{
    size_t G = (size_t)n_kv_head, head = (size_t)head_dim * AP_PAGE, at = (size_t)g;
    uint8_t *base = kv->base + (size_t)page * kv->page_bytes + kv->layer_offset;
    size_t size = kv->type == APUS_KV_F32 ? 4 : kv->type == APUS_KV_BF16 ? 2 : 1;
    ap_kv_head h = {.k = base + at * head * size, .v = base + (G + at) * head * size};
    if (kv->type == APUS_KV_Q8) {
        float *scales = (float *)(void *)(base + 2 * G * head);
        h.ks = scales + at * n_blocks(head_dim) * AP_PAGE;
        h.vs = scales + (G * n_blocks(head_dim) + at) * AP_PAGE;
    }
    return h;
}

float ap_kv_ints(const float *x, int n, float most, int16_t *out)
{
    const float to_even = 12582912.0f; /* 1.5 * 2^23: adding it leaves no room for a fraction */
    int32_t top = 0, bits;
    float a, by;
    for (int i = 0; i < n; i++) {
        memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7fffffff;
        top = bits > top ? bits : top;
    }
    memcpy(&a, &top, sizeof a);
    if (top >= 0x7f800000 || a < 1e-30f) {
        memset(out, 0, (size_t)n * sizeof *out);
        return top >= 0x7f800000 ? __builtin_nanf("") : 0;
    }
    by = most / a;
    for (int i = 0; i < n; i++) out[i] = (int16_t)(int32_t)((x[i] * by + to_even) - to_even);
    return a * (1.0f / most);
}

static uint32_t pair(const float *x)
{
    return (uint32_t)ap_f32_to_bf16(x[0]) | (uint32_t)ap_f32_to_bf16(x[1]) << 16;
}

void ap_kv_put_key(apus_kv type, const ap_kv_head *h, const float *x, int head_dim, int slot)
{
    if (type == APUS_KV_F32) {
        float *k = (float *)(void *)h->k + slot;
        for (int d = 0; d < head_dim; d++) k[(size_t)d * AP_PAGE] = x[d];
    } else if (type == APUS_KV_BF16) {
        uint8_t *k = h->k + (size_t)slot * 4;
        for (int d = 0; d < head_dim; d += 2, k += AP_PAGE * 4) {
            uint32_t both = pair(x + d);
            memcpy(k, &both, sizeof both);
        }
    } else {
        uint8_t *k = h->k + (size_t)(slot / 16) * (size_t)head_dim * 16 + (size_t)(slot % 16) * 4;
        for (int d = 0; d < head_dim; d += AP_KV_BLOCK) {
            int16_t q[AP_KV_BLOCK];
            int n = head_dim - d < AP_KV_BLOCK ? head_dim - d : AP_KV_BLOCK;
            h->ks[(size_t)(d / AP_KV_BLOCK) * AP_PAGE + (size_t)slot] =
                ap_kv_ints(x + d, n, 127, q);
            for (int i = 0; i < n; i++) k[(size_t)(i / 4) * 64 + i % 4] = (uint8_t)(q[i] + 128);
            k += (size_t)n * 16;
        }
    }
}

void ap_kv_put_value(apus_kv type, const ap_kv_head *h, const float *x, int head_dim, int slot)
{
    if (type == APUS_KV_F32) {
        memcpy(h->v + (size_t)slot * (size_t)head_dim * sizeof *x, x, (size_t)head_dim * sizeof *x);
    } else if (type == APUS_KV_BF16) {
        uint16_t *v =
            (uint16_t *)(void *)h->v + (size_t)(slot / 2) * (size_t)head_dim * 2 + slot % 2;
        for (int d = 0; d < head_dim; d++) v[2 * d] = ap_f32_to_bf16(x[d]);
    } else {
        int16_t q[MAX_DIM];
        uint8_t *v = h->v + (size_t)(slot / 4) * 64 + slot % 4;
        h->vs[slot] = ap_kv_ints(x, head_dim, 127, q);
        for (int d = 0; d < head_dim; d++)
            v[(size_t)(d / 16) * (AP_PAGE / 4) * 64 + (size_t)(d % 16) * 4] = (uint8_t)q[d];
    }
}
