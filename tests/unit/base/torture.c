#include "torture.h"

#include <stdio.h>
#include <stdlib.h>

static bool armed, hit;
static int countdown, n_allocs;

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);

static bool refuse(void)
{
    if (!armed) return false;
    n_allocs++;
    if (countdown-- != 0) return false;
    hit = true;
    return true;
}

void *__wrap_malloc(size_t n)
{
    return refuse() ? NULL : __real_malloc(n);
}
void *__wrap_calloc(size_t n, size_t size)
{
    return refuse() ? NULL : __real_calloc(n, size);
}
void *__wrap_realloc(void *p, size_t n)
{
    return refuse() ? NULL : __real_realloc(p, n);
}

/* Leaks are the address sanitizer's to find: it counts better. */
int torture(apus_err (*fn)(void *ctx), void *ctx)
{
    for (int at = 0;; at++) {
        countdown = at;
        n_allocs = 0;
        hit = false;
        armed = true;
        apus_err err = fn(ctx);
        armed = false;
        if (!hit) {
            if (!err) return n_allocs;
            fprintf(stderr, "torture: without a failure the call returns %d\n", err);
            return -1;
        }
        if (err != APUS_ENOMEM) {
            fprintf(stderr, "torture: allocation %d failed, the call returns %d\n", at, err);
            return -1;
        }
    }
}
