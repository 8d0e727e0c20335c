#include "base/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/mem.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "session files are little-endian; swap the bytes of floats and ids here"
#endif

/* One write or read call moves at most this much: systems cut larger ones anyway. */
#define MAX_IO ((size_t)64 << 20)
/* Stands for the path in sentences. */
#define IN_MEMORY "a session in memory"

static void fail_errno(ap_store *s, const char *path, const char *what)
{
    char why[128];
    if (strerror_r(errno, why, sizeof why)) why[0] = 0;
    if (!s->err) s->err = ap_fail(s->diag, APUS_EFILE, "%s: %s: %s", path, what, why);
}

static bool start(ap_store *s, const char *path, apus_diag *diag)
{
    *s = (ap_store){.fd = -1, .diag = diag};
    s->path = ap_strdup(path);
    s->hash = XXH64_createState();
    if (!s->path || !s->hash) {
        s->err = ap_fail_nomem(diag, strlen(path), "a file name");
        return false;
    }
    XXH64_reset(s->hash, 0);
    return true;
}

apus_err ap_store_create(ap_store *s, const char *path, apus_diag *diag)
{
    if (!start(s, path, diag)) return ap_store_close(s, 0);
    s->writes = true;
    s->err = ap_stage_begin(&s->stage, path, AP_STAGE_FILE, true, diag);
    if (s->err) return ap_store_close(s, 0);
    s->fd = open(s->stage.out, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (s->fd < 0) fail_errno(s, path, "cannot be created");
    return s->err ? ap_store_close(s, 0) : APUS_OK;
}

apus_err ap_store_create_memory(ap_store *s, uint64_t bytes, apus_diag *diag)
{
    if (!start(s, IN_MEMORY, diag)) return ap_store_close(s, 0);
    s->to = bytes <= SIZE_MAX ? ap_malloc((size_t)bytes, 1) : NULL;
    s->room = bytes;
    if (!s->to) s->err = ap_fail_nomem(diag, (size_t)bytes, IN_MEMORY);
    return s->err ? ap_store_close(s, 0) : APUS_OK;
}

static void write_memory(ap_store *s, const void *data, size_t n)
{
    if (n > s->room - s->at) {
        s->err = ap_fail(s->diag, APUS_EINTERNAL, "%s: more than the %llu bytes expected", s->path,
                         (unsigned long long)s->room);
        return;
    }
    memcpy(s->to + s->at, data, n);
    s->size = s->at += n;
}

void ap_store_write(ap_store *s, const void *data, size_t n)
{
    if (s->err || n == 0) return;
    XXH64_update(s->hash, data, n);
    if (s->to) {
        write_memory(s, data, n);
        return;
    }
    const uint8_t *p = data;
    while (n) {
        ssize_t got = write(s->fd, p, n < MAX_IO ? n : MAX_IO);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            fail_errno(s, s->path, "cannot be written");
            return;
        }
        p += got;
        n -= (size_t)got;
        s->at += (uint64_t)got;
    }
    s->size = s->at;
}

void ap_store_write_u32(ap_store *s, uint32_t v)
{
    ap_store_write(s, &v, sizeof v);
}
void ap_store_write_u64(ap_store *s, uint64_t v)
{
    ap_store_write(s, &v, sizeof v);
}

apus_err ap_store_open(ap_store *s, const char *path, apus_diag *diag)
{
    if (!start(s, path, diag)) return ap_store_close(s, 0);
    struct stat st;
    s->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* never wait for a pipe's other end */
    if (s->fd < 0 || fstat(s->fd, &st))
        fail_errno(s, path, "cannot be opened");
    else if (!S_ISREG(st.st_mode))
        s->err = ap_fail(diag, APUS_EFILE, "%s: is not a regular file", path);
    else
        s->size = (uint64_t)st.st_size;
    return s->err ? ap_store_close(s, 0) : APUS_OK;
}

apus_err ap_store_open_memory(ap_store *s, const void *data, size_t bytes, apus_diag *diag)
{
    if (!start(s, IN_MEMORY, diag)) return ap_store_close(s, 0);
    s->from = data;
    s->size = bytes;
    return APUS_OK;
}

/* At most n bytes from where they come: 0 at the end, -1 with errno. */
static ssize_t read_some(ap_store *s, void *to, size_t n)
{
    if (!s->from) return read(s->fd, to, n);
    if (n > s->size - s->at) n = (size_t)(s->size - s->at);
    memcpy(to, s->from + s->at, n);
    return (ssize_t)n;
}

void ap_store_read(ap_store *s, void *data, size_t n)
{
    uint8_t *p = data;
    size_t left = n;
    while (!s->err && left) {
        ssize_t got = read_some(s, p, left < MAX_IO ? left : MAX_IO);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            fail_errno(s, s->path, "cannot be read");
        } else if (got == 0) {
            s->err =
                ap_fail(s->diag, APUS_EFORMAT, "%s: ends after %llu bytes, %zu more were expected",
                        s->path, (unsigned long long)s->at, left);
        } else {
            p += got;
            left -= (size_t)got;
            s->at += (uint64_t)got;
        }
    }
    if (s->err)
        memset(data, 0, n);
    else
        XXH64_update(s->hash, data, n);
}

uint32_t ap_store_read_u32(ap_store *s)
{
    uint32_t v;
    ap_store_read(s, &v, sizeof v);
    return v;
}

uint64_t ap_store_read_u64(ap_store *s)
{
    uint64_t v;
    ap_store_read(s, &v, sizeof v);
    return v;
}

void ap_store_sum(ap_store *s)
{
    ap_store_write_u64(s, XXH64_digest(s->hash));
    XXH64_reset(s->hash, 0);
}

void ap_store_check(ap_store *s)
{
    uint64_t want = XXH64_digest(s->hash), at = s->at, found = ap_store_read_u64(s);
    XXH64_reset(s->hash, 0);
    if (!s->err && want != found)
        s->err = ap_fail(
            s->diag, APUS_EFORMAT,
            "%s: checksum at byte %llu: expected %016llx, found %016llx; the file is damaged",
            s->path, (unsigned long long)at, (unsigned long long)want, (unsigned long long)found);
}

apus_err ap_store_close(ap_store *s, int keep)
{
    bool named = s->writes && keep && !s->err;
    if (named && fsync(s->fd)) fail_errno(s, s->path, "cannot be flushed to the disk");
    if (s->fd >= 0 && close(s->fd) && named) fail_errno(s, s->path, "cannot be closed");
    if (named && !s->err) s->err = ap_stage_finish(&s->stage, s->diag);
    ap_stage_drop(&s->stage);
    XXH64_freeState(s->hash);
    ap_free(s->to);
    ap_free(s->path);
    apus_err err = s->err;
    *s = (ap_store){.fd = -1, .err = err};
    return err;
}

apus_err ap_store_close_memory(ap_store *s, void **data)
{
    if (!s->err) {
        *data = s->to;
        s->to = NULL;
    }
    return ap_store_close(s, 0);
}
