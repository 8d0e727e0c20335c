#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "apus/apus.h"

#ifdef AP_ALLOC_GUARD
static _Thread_local int guard_depth;
void ap_guard_enter(void)
{
    guard_depth++;
}
void ap_guard_leave(void)
{
    guard_depth--;
}
#define GUARD() assert(guard_depth == 0 && "allocation inside a step")
#else
void ap_guard_enter(void) {}
void ap_guard_leave(void) {}
#define GUARD() ((void)0)
#endif

void *ap_calloc(size_t n, size_t size)
{
    GUARD();
    size_t bytes;
    if (!ap_mul_size(n, size, &bytes)) return NULL;
    return calloc(1, bytes ? bytes : 1);
}

void *ap_malloc(size_t n, size_t size)
{
    GUARD();
    size_t bytes;
    if (!ap_mul_size(n, size, &bytes)) return NULL;
    return malloc(bytes ? bytes : 1);
}

void *ap_realloc(void *p, size_t n, size_t size)
{
    GUARD();
    size_t bytes;
    if (!ap_mul_size(n, size, &bytes)) return NULL;
    return realloc(p, bytes ? bytes : 1);
}

void ap_free(void *p)
{
    free(p);
}

void apus_free(void *p)
{
    free(p);
}

char *ap_strndup(const char *s, size_t n)
{
    char *r = ap_malloc(n + 1, 1);
    if (!r) return NULL;
    memcpy(r, s, n);
    r[n] = 0;
    return r;
}

char *ap_strdup(const char *s)
{
    return ap_strndup(s, strlen(s));
}

#define HUGE_PAGE ((size_t)2 << 20)

void *ap_big_alloc(size_t bytes)
{
    GUARD();
    if (bytes == 0) bytes = 1;
    if (bytes < HUGE_PAGE) {
        void *p;
        if (bytes > SIZE_MAX - AP_ALIGN || posix_memalign(&p, AP_ALIGN, bytes)) return NULL;
        return memset(p, 0, bytes);
    }
    /* Room to align by hand: the system aligns mappings to 4 KB only. */
    if (bytes > SIZE_MAX - 2 * HUGE_PAGE) return NULL;
    size_t whole = ap_round_up(bytes, HUGE_PAGE);
    uint8_t *raw = mmap(NULL, whole + HUGE_PAGE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (raw == MAP_FAILED) return NULL;
    size_t head = ap_round_up((size_t)(uintptr_t)raw, HUGE_PAGE) - (size_t)(uintptr_t)raw;
    if (head) munmap(raw, head);
    if (HUGE_PAGE - head) munmap(raw + head + whole, HUGE_PAGE - head);
    madvise(raw + head, whole, MADV_HUGEPAGE); /* a wish: refusal costs speed only */
    return raw + head;
}

void ap_big_free(void *p, size_t bytes)
{
    if (!p) return;
    if (bytes < HUGE_PAGE)
        free(p);
    else
        munmap(p, ap_round_up(bytes, HUGE_PAGE));
}
