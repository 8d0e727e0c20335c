/* vec.h - growing arrays of the tokenizer. */
#ifndef AP_TEXT_VEC_H
#define AP_TEXT_VEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/mem.h"

/* Make room for `need` elements in the array at *pp (a pointer to any object type) of capacity
 * *cap, doubling. False when memory is out; the array is then as it was. */
static inline bool ap_vec_reserve(void *pp, size_t *cap, size_t need, size_t elem)
{
    if (need <= *cap) return true;
    size_t c = *cap < 16 ? 16 : *cap;
    while (c < need) {
        if (c > SIZE_MAX / 2) return false;
        c *= 2;
    }
    void *p;
    memcpy(&p, pp, sizeof p); /* not by void **: the pointer has another type */
    p = ap_realloc(p, c, elem);
    if (!p) return false;
    memcpy(pp, &p, sizeof p);
    *cap = c;
    return true;
}

/* Token ids. */
typedef struct ap_ids {
    int32_t *v;
    size_t n, cap;
} ap_ids;

static inline bool ap_ids_add(ap_ids *a, int32_t id)
{
    if (a->n == a->cap && !ap_vec_reserve(&a->v, &a->cap, a->n + 1, sizeof *a->v)) return false;
    a->v[a->n++] = id;
    return true;
}

/* Bytes [off, off + len) of some text. */
typedef struct ap_span {
    size_t off, len;
} ap_span;

typedef struct ap_spans {
    ap_span *v;
    size_t n, cap;
} ap_spans;

static inline bool ap_spans_add(ap_spans *a, size_t off, size_t len)
{
    if (a->n == a->cap && !ap_vec_reserve(&a->v, &a->cap, a->n + 1, sizeof *a->v)) return false;
    a->v[a->n++] = (ap_span){off, len};
    return true;
}

#endif
