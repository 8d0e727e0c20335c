#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* O_DIRECT */
#endif
#include "base/aio_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

apus_err ap_read_file_open(const char *path, ap_read_file *out, apus_diag *diag)
{
    struct stat st;
    char why[128];
    bool direct = true;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_DIRECT);
    if (fd < 0 && errno == EINVAL) { /* a file system that cannot do without the cache */
        direct = false;
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    }
    if (fd < 0 || fstat(fd, &st)) {
        if (strerror_r(errno, why, sizeof why)) why[0] = 0;
        if (fd >= 0) close(fd);
        return ap_fail(diag, APUS_EFILE, "%s: cannot be opened: %s", path, why);
    }
    *out = (ap_read_file){fd, direct, (uint64_t)st.st_size};
    return APUS_OK;
}

void ap_read_file_close(ap_read_file *f)
{
    if (f->fd >= 0) close(f->fd);
    f->fd = -1;
}

apus_err ap_aio_create(ap_aio_kind kind, int depth, ap_aio **out, apus_diag *diag)
{
    ap_aio *a =
        kind == AP_AIO_THREADS ? NULL : ap_aio_uring(depth, kind == AP_AIO_URING ? diag : NULL);
    if (!a && kind == AP_AIO_URING) return APUS_EUNSUPPORTED;
    if (!a) a = ap_aio_threads(depth, diag);
    if (!a) return APUS_ENOMEM;
    a->depth = depth;
    *out = a;
    return APUS_OK;
}

void ap_aio_free(ap_aio *a)
{
    ap_read_done done[16];
    if (!a) return;
    while (a->under_way) ap_aio_collect(a, done, 16, true);
    a->op->destroy(a);
}

const char *ap_aio_name(const ap_aio *a)
{
    return a->op->name;
}

void ap_aio_register(ap_aio *a, void *mem, size_t bytes, size_t unit)
{
    if (a->op->reg) a->op->reg(a, mem, bytes, unit);
}

int ap_aio_room(const ap_aio *a)
{
    return a->depth - a->under_way;
}

void ap_aio_begin(ap_aio *a, const ap_read *r)
{
    a->under_way++;
    a->op->begin(a, r);
}

int ap_aio_collect(ap_aio *a, ap_read_done *done, int most, bool wait)
{
    if (!a->under_way) return 0;
    int n = a->op->collect(a, done, most, wait);
    a->under_way -= n;
    return n;
}
