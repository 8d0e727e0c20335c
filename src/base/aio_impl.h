/* aio_impl.h - what aio.c and its backends share. */
#ifndef AP_BASE_AIO_IMPL_H
#define AP_BASE_AIO_IMPL_H

#include "base/aio.h"

typedef struct ap_aio_ops {
    const char *name;
    void (*reg)(ap_aio *a, void *mem, size_t bytes, size_t unit); /* may be NULL */
    void (*begin)(ap_aio *a, const ap_read *r);
    int (*collect)(ap_aio *a, ap_read_done *done, int most, bool wait);
    void (*destroy)(ap_aio *a); /* nothing is under way */
} ap_aio_ops;

struct ap_aio {
    const ap_aio_ops *op;
    int depth, under_way;
};

/* NULL, with the reason in diag. */
ap_aio *ap_aio_uring(int depth, apus_diag *diag);
ap_aio *ap_aio_threads(int depth, apus_diag *diag);

#endif
