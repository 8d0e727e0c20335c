#include "arena.h"

#include <stdalign.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 16 << 10 };

typedef struct sv_block {
    struct sv_block *next;
    size_t bytes;
    max_align_t data[];
} sv_block;

void *sv_arena_alloc(sv_arena *a, size_t bytes)
{
    size_t align = alignof(max_align_t);
    if (bytes > ((size_t)1 << 40)) return NULL;
    bytes = (bytes + align - 1) / align * align;
    if (a->limit && bytes > a->limit - a->used) return NULL;
    if (bytes > a->left) {
        size_t want = bytes > BLOCK ? bytes : BLOCK;
        sv_block *b = calloc(1, sizeof *b + want);
        if (!b) return NULL;
        b->next = a->blocks;
        b->bytes = want;
        a->blocks = b;
        a->left = want;
    }
    char *p = (char *)a->blocks->data + a->blocks->bytes - a->left;
    a->left -= bytes;
    a->used += bytes;
    return p;
}

char *sv_arena_copy(sv_arena *a, const char *s, size_t n)
{
    char *p = sv_arena_alloc(a, n + 1);
    if (p && n) memcpy(p, s, n);
    return p;
}

void sv_arena_free(sv_arena *a)
{
    for (sv_block *b = a->blocks, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    *a = (sv_arena){.limit = a->limit};
}
