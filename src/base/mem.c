#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/err.h"

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

/* ---------------------------------------------------------------- where memory comes from */

static apus_allocator own; /* of the process, if `allocate` is set; written before `touched` is */
static int touched;        /* something was allocated; accessed with __atomic builtins */

static void touch(void)
{
    if (!__atomic_load_n(&touched, __ATOMIC_RELAXED))
        __atomic_store_n(&touched, 1, __ATOMIC_RELAXED);
}

apus_err apus_set_allocator(const apus_allocator *a, apus_diag *diag)
{
    if (!a || a->size != sizeof *a)
        return ap_fail(diag, APUS_EINVAL, "apus_allocator.size: expected %zu, found %zu", sizeof *a,
                       a ? a->size : 0);
    if (!a->allocate || !a->resize || !a->release)
        return ap_fail(diag, APUS_EINVAL,
                       "apus_set_allocator: allocate, resize and release are needed");
    if (__atomic_load_n(&touched, __ATOMIC_RELAXED))
        return ap_fail(diag, APUS_EINVAL,
                       "apus_set_allocator: memory was allocated already; call it first of all");
    own = *a;
    return APUS_OK;
}

static void *take(size_t bytes)
{
    touch();
    return own.allocate ? own.allocate(own.ctx, bytes) : malloc(bytes);
}

/* ---------------------------------------------------------------- blocks */

void *ap_calloc(size_t n, size_t size)
{
    GUARD();
    size_t bytes;
    if (!ap_mul_size(n, size, &bytes)) return NULL;
    if (bytes == 0) bytes = 1;
    if (!own.allocate) {
        touch();
        return calloc(1, bytes);
    }
    void *p = take(bytes);
    return p ? memset(p, 0, bytes) : NULL;
}

void *ap_malloc(size_t n, size_t size)
{
    GUARD();
    size_t bytes;
    if (!ap_mul_size(n, size, &bytes)) return NULL;
    return take(bytes ? bytes : 1);
}

void *ap_realloc(void *p, size_t n, size_t size)
{
    GUARD();
    size_t bytes;
    if (!ap_mul_size(n, size, &bytes)) return NULL;
    if (bytes == 0) bytes = 1;
    touch();
    return own.resize ? own.resize(own.ctx, p, bytes) : realloc(p, bytes);
}

void ap_free(void *p)
{
    if (own.release)
        own.release(own.ctx, p);
    else
        free(p);
}

void apus_free(void *p)
{
    ap_free(p);
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

/* ---------------------------------------------------------------- large buffers */

/* A block of the process's allocator that is aligned by hand: what is to be released stands before it. */
static void *own_big_alloc(size_t bytes)
{
    size_t whole;
    if (!ap_add_size(bytes, sizeof(void *) + AP_ALIGN - 1, &whole)) return NULL;
    uint8_t *raw = take(whole);
    if (!raw) return NULL;
    size_t at = (size_t)(uintptr_t)raw + sizeof raw;
    uint8_t *p = raw + sizeof raw + (ap_round_up(at, AP_ALIGN) - at);
    memcpy(p - sizeof raw, &raw, sizeof raw);
    return memset(p, 0, bytes);
}

static void own_big_free(uint8_t *p)
{
    void *raw;
    memcpy(&raw, p - sizeof raw, sizeof raw);
    own.release(own.ctx, raw);
}

#define HUGE_PAGE ((size_t)2 << 20)

void *ap_big_alloc(size_t bytes)
{
    GUARD();
    if (bytes == 0) bytes = 1;
    if (own.allocate) return own_big_alloc(bytes);
    touch();
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
    if (own.release)
        own_big_free(p);
    else if (bytes < HUGE_PAGE)
        free(p);
    else
        munmap(p, ap_round_up(bytes, HUGE_PAGE));
}
