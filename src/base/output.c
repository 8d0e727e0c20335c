#include "base/output.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/mem.h"

apus_err ap_output_create(ap_output *out, const char *path, unsigned mode, apus_diag *diag)
{
    ap_output o = {-1, ap_strdup(path)};
    if (!o.path) return ap_fail_nomem(diag, strlen(path), "a path");
    o.fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, (mode_t)mode);
    if (o.fd >= 0) {
        *out = o;
        return APUS_OK;
    }
    ap_free(o.path);
    return ap_fail(diag, APUS_EFILE, "%s: cannot be created: %s", path, strerror(errno));
}

apus_err ap_output_put(const ap_output *o, uint64_t at, const void *data, size_t n, apus_diag *diag)
{
    const uint8_t *p = data;
    while (n) {
        ssize_t k = pwrite(o->fd, p, n, (off_t)at);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0)
            return ap_fail(diag, APUS_EFILE, "%s: writing failed: %s", o->path,
                           strerror(k ? errno : ENOSPC));
        p += k;
        at += (uint64_t)k;
        n -= (size_t)k;
    }
    return APUS_OK;
}

apus_err ap_output_close(ap_output *o, bool keep, apus_diag *diag)
{
    bool failed = keep && fsync(o->fd);
    int why = errno;
    if (close(o->fd) && keep && !failed) {
        failed = true;
        why = errno;
    }
    apus_err err = failed
                       ? ap_fail(diag, APUS_EFILE, "%s: writing failed: %s", o->path, strerror(why))
                       : APUS_OK;
    ap_free(o->path);
    *o = (ap_output){-1, NULL};
    return err;
}

apus_err ap_output_write(const char *path, const void *data, size_t n, apus_diag *diag)
{
    ap_output o;
    apus_err err = ap_output_create(&o, path, 0666, diag);
    if (err) return err;
    err = ap_output_put(&o, 0, data, n, diag);
    apus_err closed = ap_output_close(&o, !err, diag);
    return err ? err : closed;
}

uint64_t ap_disk_room(const char *path)
{
    struct statvfs v;
    char *dir = ap_strdup(path);
    if (!dir) return UINT64_MAX;
    size_t n = strlen(dir);
    while (n > 1 && dir[n - 1] == '/') dir[--n] = 0;
    char *slash = strrchr(dir, '/');
    if (slash && slash > dir) *slash = 0;
    int failed = statvfs(!slash ? "." : slash == dir ? "/" : dir, &v);
    ap_free(dir);
    return failed ? UINT64_MAX : (uint64_t)v.f_bavail * v.f_frsize;
}

apus_err ap_disk_check(const char *path, uint64_t bytes, apus_diag *diag)
{
    uint64_t room = ap_disk_room(path);
    if (bytes <= room) return APUS_OK;
    bool large = bytes >= 1000000000;
    double unit = large ? 1e9 : 1e6;
    return ap_fail(diag, APUS_EFILE, "%s: %.2f %s are needed, but only %.2f are free there", path,
                   (double)bytes / unit, large ? "GB" : "MB", (double)room / unit);
}
