/* str.h - what string.h lacks. */
#ifndef AP_BASE_STR_H
#define AP_BASE_STR_H

#include <stdbool.h>
#include <string.h>

static inline bool ap_ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && !memcmp(s + n - m, end, m);
}

#endif
