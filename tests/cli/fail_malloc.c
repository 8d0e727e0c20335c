/* fail_malloc.c - loaded before the program (LD_PRELOAD): lets one allocation fail, of the program or of any
 * library it uses.
 *
 *   FAIL_MALLOC_LIST=FILE  write the numbers of those allocations to FILE that are the first of their call
 *                          chain: failing again from the same place teaches nothing new
 *   FAIL_MALLOC_AT=N       allocation number N fails
 *   FAIL_MALLOC_SHOW=1     and standard error shows where */
#define _GNU_SOURCE
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FRAMES = 8, SEEN = 1 << 16 };

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t align, size_t n);

static bool armed;
static __thread bool inside;
static long count, fail_at = -1;
static int list = -1;
static uint64_t seen[SEEN];

static void note(long n)
{
    void *frame[FRAMES];
    uint64_t h = 1469598103934665603u;
    int depth = backtrace(frame, FRAMES);
    for (int i = 2; i < depth; i++) h = (h ^ (uintptr_t)frame[i]) * 1099511628211u;
    size_t at = h % SEEN;
    while (seen[at] && seen[at] != h) at = (at + 1) % SEEN;
    if (seen[at] == h) return;
    seen[at] = h;
    char text[24];
    int len = snprintf(text, sizeof text, "%ld\n", n);
    if (write(list, text, (size_t)len) < 0) _exit(99);
}

static bool refuse(void)
{
    if (!armed || inside) return false;
    inside = true;
    long n = count++;
    if (list >= 0) note(n);
    inside = false;
    if (n != fail_at) return false;
    if (getenv("FAIL_MALLOC_SHOW")) {
        void *frame[32];
        inside = true;
        backtrace_symbols_fd(frame, backtrace(frame, 32), 2);
        inside = false;
    }
    errno = ENOMEM;
    return true;
}

void *malloc(size_t n)
{
    return refuse() ? NULL : __libc_malloc(n);
}
void *calloc(size_t n, size_t size)
{
    return refuse() ? NULL : __libc_calloc(n, size);
}
void *realloc(void *p, size_t n)
{
    return refuse() ? NULL : __libc_realloc(p, n);
}
void *aligned_alloc(size_t align, size_t n)
{
    return refuse() ? NULL : __libc_memalign(align, n);
}

int posix_memalign(void **out, size_t align, size_t n)
{
    void *p = refuse() ? NULL : __libc_memalign(align, n);
    if (!p) return ENOMEM;
    *out = p;
    return 0;
}

void *mmap(void *at, size_t n, int prot, int flags, int fd, off_t offset)
{
    if ((flags & MAP_ANONYMOUS) && refuse()) return MAP_FAILED;
    return (void *)syscall(SYS_mmap, at, n, prot, flags, fd, offset);
}

__attribute__((constructor)) static void begin(void)
{
    void *warm[2];
    backtrace(warm, 2); /* loads what it needs */
    const char *at = getenv("FAIL_MALLOC_AT"), *file = getenv("FAIL_MALLOC_LIST");
    if (at) fail_at = atol(at);
    if (file) list = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    armed = true;
}
