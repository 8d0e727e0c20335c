/* arena.h - many small allocations freed together. */
#ifndef AP_BASE_ARENA_H
#define AP_BASE_ARENA_H

#include <stddef.h>
#include <stdint.h>

typedef struct ap_arena {
    struct ap_arena_block *head;
    size_t used, cap; /* of the head block */
    size_t total;     /* bytes handed out */
    size_t limit;     /* refuse beyond this total; 0 = none */
} ap_arena;

void ap_arena_init(ap_arena *a, size_t limit_bytes);
void *ap_arena_alloc(ap_arena *a, size_t bytes); /* 16-byte aligned, not zeroed; NULL when out */
char *ap_arena_strndup(ap_arena *a, const char *s, size_t n);
void ap_arena_free(ap_arena *a); /* everything; the arena may be used again */

#endif
