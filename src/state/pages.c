#include "state/pages.h"

#include "base/mem.h"

/* Sums of bytes over the kinds; false: overflow. */
static bool sum(const ap_pages_kind kind[AP_PAGES_KINDS], size_t *least, size_t *most)
{
    *least = *most = 0;
    for (int k = 0; k < AP_PAGES_KINDS; k++) {
        size_t a, b;
        if (!ap_mul_size(kind[k].least, kind[k].block_bytes, &a) ||
            !ap_mul_size(kind[k].most, kind[k].block_bytes, &b) || !ap_add_size(*least, a, least) ||
            !ap_add_size(*most, b, most))
            return false;
    }
    return true;
}

bool ap_pages_split(ap_pages_kind kind[AP_PAGES_KINDS], uint64_t bytes, uint64_t *least)
{
    size_t low, all;
    *least = 0;
    if (!sum(kind, &low, &all)) return false;
    if (bytes && bytes < low) {
        *least = low;
        return false;
    }
    /* Of one session `least` and `most` are the same: what is over is then shared in the proportion of both. */
    double over = bytes ? (double)(bytes - low) : (double)(all - low), grow = (double)(all - low);
    for (int k = 0; k < AP_PAGES_KINDS; k++) {
        ap_pages_kind *p = &kind[k];
        p->n = p->block_bytes ? p->most : 0;
        if (!bytes || !p->block_bytes) continue;
        double part =
            grow > 0 ? (double)(p->most - p->least) / grow : (double)p->most / (double)all;
        p->n = p->least + (size_t)(over * part * (1 - 1e-12));
        if (p->n > INT32_MAX) p->n = INT32_MAX;
    }
    return true;
}
