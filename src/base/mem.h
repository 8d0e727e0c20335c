/* mem.h - checked sizes and allocations. */
#ifndef AP_BASE_MEM_H
#define AP_BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AP_ALIGN 64

/* *out = a * b or a + b; false (and *out untouched) on overflow. */
static inline bool ap_mul_size(size_t a, size_t b, size_t *out)
{
    size_t r;
    if (__builtin_mul_overflow(a, b, &r)) return false;
    *out = r;
    return true;
}
static inline bool ap_add_size(size_t a, size_t b, size_t *out)
{
    size_t r;
    if (__builtin_add_overflow(a, b, &r)) return false;
    *out = r;
    return true;
}

static inline size_t ap_round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

/* n * size bytes, zeroed / not zeroed; NULL on overflow or when memory is out. n * size = 0 gives a
 * valid pointer. ap_free frees. */
void *ap_calloc(size_t n, size_t size);
void *ap_malloc(size_t n, size_t size);
void *ap_realloc(void *p, size_t n, size_t size); /* on NULL the old block stays */
void ap_free(void *p);
char *ap_strdup(const char *s);
char *ap_strndup(const char *s, size_t n);

/* AP_ALIGN-aligned, for large buffers; huge pages are asked for from 2 MB on. Zeroed by the system.
 * ap_big_free needs the same size. */
void *ap_big_alloc(size_t bytes);
void ap_big_free(void *p, size_t bytes);

/* Allocation guard of debug builds: while a step runs, any ap_*alloc on this engine's thread is our
 * defect and asserts. No-ops in release builds. */
void ap_guard_enter(void);
void ap_guard_leave(void);

#endif
