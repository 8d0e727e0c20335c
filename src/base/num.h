/* num.h - small arithmetic that C lacks. */
#ifndef AP_BASE_NUM_H
#define AP_BASE_NUM_H

#include <stddef.h>

static inline int ap_min_int(int a, int b)
{
    return a < b ? a : b;
}
static inline int ap_max_int(int a, int b)
{
    return a > b ? a : b;
}
static inline size_t ap_max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* n / of, rounded up; n >= 0, of > 0. */
static inline int ap_div_up(int n, int of)
{
    return n / of + (n % of != 0);
}

#endif
