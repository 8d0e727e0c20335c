/* torture.h - makes every allocation of a call fail in turn.
 *
 * Link with AP_TORTURE_OPTIONS: malloc, calloc and realloc of the library's objects then go through
 * here. */
#ifndef AP_TESTS_TORTURE_H
#define AP_TESTS_TORTURE_H

#include <stdbool.h>

#include "apus/apus.h"

/* Call fn with its first allocation failing, then its second, ... until it runs without reaching
 * the failing one. Every failed run must return ENOMEM; leaks are for the address sanitizer to
 * find. fn frees what it got on success. Returns the number of allocations of a whole run, or -1
 * after a violation (told on stderr). */
int torture(apus_err (*fn)(void *ctx), void *ctx);

#endif
