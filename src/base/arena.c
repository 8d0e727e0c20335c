#include "base/arena.h"

#include <string.h>

#include "base/mem.h"

struct ap_arena_block {
    struct ap_arena_block *next;
    max_align_t data[];
};

#define MIN_BLOCK ((size_t)64 << 10)

void ap_arena_init(ap_arena *a, size_t limit_bytes)
{
    memset(a, 0, sizeof *a);
    a->limit = limit_bytes;
}

void *ap_arena_alloc(ap_arena *a, size_t bytes)
{
    size_t n;
    if (!ap_add_size(bytes, 15, &n)) return NULL;
    n &= ~(size_t)15;
    if (a->limit && (n > a->limit || a->total > a->limit - n)) return NULL;
    if (!a->head || a->cap - a->used < n) {
        /* Doubling keeps the number of blocks small for large inputs. */
        size_t cap = a->cap * 2 < MIN_BLOCK ? MIN_BLOCK : a->cap * 2;
        if (cap > (size_t)16 << 20) cap = (size_t)16 << 20;
        if (cap < n) cap = n;
        struct ap_arena_block *b =
            cap < SIZE_MAX - sizeof *b ? ap_malloc(1, sizeof *b + cap) : NULL;
        if (!b) return NULL;
        b->next = a->head;
        a->head = b;
        a->used = 0;
        a->cap = cap;
    }
    void *p = (char *)a->head->data + a->used;
    a->used += n;
    a->total += n;
    return p;
}

char *ap_arena_strndup(ap_arena *a, const char *s, size_t n)
{
    char *r = n < SIZE_MAX ? ap_arena_alloc(a, n + 1) : NULL;
    if (!r) return NULL;
    memcpy(r, s, n);
    r[n] = 0;
    return r;
}

void ap_arena_free(ap_arena *a)
{
    while (a->head) {
        struct ap_arena_block *next = a->head->next;
        ap_free(a->head);
        a->head = next;
    }
    ap_arena_init(a, a->limit);
}
