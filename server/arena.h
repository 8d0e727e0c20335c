/* arena.h - memory of one exchange, given back in one go. */
#ifndef APUS_SERVER_ARENA_H
#define APUS_SERVER_ARENA_H

#include <stddef.h>

typedef struct sv_arena {
    struct sv_block *blocks;
    size_t left;        /* bytes free at the end of the newest block */
    size_t used, limit; /* limit 0 = none */
} sv_arena;

/* Zeroed and aligned for any type; NULL: memory is out, or the limit reached. */
void *sv_arena_alloc(sv_arena *a, size_t bytes);
/* A zero-terminated copy; NULL likewise. */
char *sv_arena_copy(sv_arena *a, const char *s, size_t n);
void sv_arena_free(sv_arena *a);

#endif
