#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"

static apus_err fail_errno(apus_diag *diag, const char *path, const char *what, int err)
{
    char why[128];
    if (strerror_r(err, why, sizeof why)) why[0] = 0;
    return ap_fail(diag, APUS_EFILE, "%s: %s: %s", path, what, why);
}

/* Open for reading; never waits, not even for the other end of a named pipe. */
static apus_err open_file(const char *path, int *fd, struct stat *st, apus_diag *diag)
{
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0) return fail_errno(diag, path, "cannot be opened", errno);
    apus_err err = APUS_OK;
    if (fstat(*fd, st))
        err = fail_errno(diag, path, "cannot be examined", errno);
    else if (S_ISDIR(st->st_mode))
        err = ap_fail(diag, APUS_EFILE, "%s: is a folder, expected a file", path);
    if (err) close(*fd);
    return err;
}

/* What Git leaves in the place of a large file where its extension for these is missing. No file that apus reads
 * begins so, and each format would have another riddle to tell of it. */
static apus_err check_pointer(const char *path, const void *data, size_t len, apus_diag *diag)
{
    static const char head[] = "version https://git-lfs.github.com/spec/";
    if (len < sizeof head - 1 || memcmp(data, head, sizeof head - 1)) return APUS_OK;
    return ap_fail(
        diag, APUS_EFORMAT,
        "%s: is a pointer of Git LFS, not the file that it stands for; 'git lfs pull' in its "
        "folder fetches that",
        path);
}

/* The file may grow, shrink or be a pipe: its size is only a first guess. */
static apus_err read_all(int fd, const char *path, size_t guess, size_t max, char **data,
                         size_t *len, apus_diag *diag)
{
    size_t n = 0, cap = guess;
    char *buf = ap_malloc(cap + 1, 1);
    if (!buf) return ap_fail_nomem(diag, cap + 1, path);
    for (;;) {
        if (n == cap) { /* full: is there more? */
            char more;
            ssize_t got = read(fd, &more, 1);
            if (got == 0) break;
            if (got < 0 && errno == EINTR) continue;
            if (got < 0) goto broken;
            if (n >= max) {
                ap_free(buf);
                return ap_fail(diag, APUS_EFILE, "%s: is larger than the %zu bytes allowed", path,
                               max);
            }
            size_t grown = cap < 2048 ? 4096 : cap > max / 2 ? max : cap * 2;
            if (grown > max) grown = max;
            char *p = ap_realloc(buf, grown + 1, 1);
            if (!p) {
                ap_free(buf);
                return ap_fail_nomem(diag, grown + 1, path);
            }
            buf = p;
            cap = grown;
            buf[n++] = more;
            continue;
        }
        ssize_t got = read(fd, buf + n, cap - n);
        if (got == 0) break;
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) goto broken;
        n += (size_t)got;
    }
    buf[n] = 0;
    *data = buf;
    *len = n;
    return APUS_OK;
broken:;
    int e = errno;
    ap_free(buf);
    return fail_errno(diag, path, "cannot be read", e);
}

apus_err ap_file_read(const char *path, size_t max_bytes, char **data, size_t *len, apus_diag *diag)
{
    int fd;
    struct stat st;
    apus_err err = open_file(path, &fd, &st, diag);
    if (err) return err;
    if (max_bytes > SIZE_MAX / 2) max_bytes = SIZE_MAX / 2;
    size_t guess = 0;
    if (S_ISREG(st.st_mode)) {
        if ((uint64_t)st.st_size > max_bytes) {
            err = ap_fail(diag, APUS_EFILE, "%s: has %lld bytes, at most %zu are allowed", path,
                          (long long)st.st_size, max_bytes);
            goto done;
        }
        guess = (size_t)st.st_size;
    } else {
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK); /* pipes: wait for data */
    }
    err = read_all(fd, path, guess, max_bytes, data, len, diag);
    if (!err && (err = check_pointer(path, *data, *len, diag))) {
        ap_free(*data);
        *data = NULL;
    }
done:
    close(fd);
    return err;
}

apus_err ap_map_open(const char *path, ap_map *out, apus_diag *diag)
{
    static const uint8_t nothing[1];
    int fd;
    struct stat st;
    apus_err err = open_file(path, &fd, &st, diag);
    if (err) return err;
    if (!S_ISREG(st.st_mode)) {
        err = ap_fail(diag, APUS_EFILE, "%s: is not a regular file and cannot be mapped", path);
    } else if ((uint64_t)st.st_size > SIZE_MAX) {
        err = ap_fail(diag, APUS_EFILE, "%s: does not fit the address space", path);
    } else if (st.st_size == 0) {
        *out = (ap_map){nothing, 0, -1}; /* the system maps no empty files */
    } else {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED)
            err = fail_errno(diag, path, "cannot be mapped", errno);
        else
            *out = (ap_map){p, (size_t)st.st_size, fd};
        if (!err && (err = check_pointer(path, p, (size_t)st.st_size, diag)))
            munmap(p, (size_t)st.st_size);
    }
    if (err || st.st_size == 0) close(fd);
    return err;
}

void ap_map_close(ap_map *m)
{
    if (m && m->len) {
        munmap((void *)m->data, m->len);
        close(m->fd);
    }
    if (m) *m = (ap_map){NULL, 0, -1};
}

bool ap_map_holds(const ap_map *m, const uint8_t *p, size_t n)
{
    uintptr_t begin = (uintptr_t)p, first = (uintptr_t)m->data;
    return m->len && begin >= first && begin - first <= m->len && n <= m->len - (begin - first);
}

apus_err ap_map_read(const ap_map *m, const char *path, const uint8_t *p, size_t n, void *dst,
                     apus_diag *diag)
{
    size_t at = (size_t)(p - m->data);
    for (uint8_t *to = dst; n;) {
        ssize_t got = pread(m->fd, to, n, (off_t)at);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return fail_errno(diag, path, "cannot be read", errno);
        if (got == 0)
            return ap_fail(diag, APUS_EFILE, "%s: ends after %zu bytes, of %zu when it was opened",
                           path, at, m->len);
        to += got;
        at += (size_t)got;
        n -= (size_t)got;
    }
    return APUS_OK;
}

/* Clip [p, p + n) to the mapping, then to pages: outwards, or inwards. False: nothing is left. */
static bool clip(const ap_map *m, const uint8_t **p, size_t *n, bool inwards)
{
    uintptr_t begin = (uintptr_t)*p, end = begin + *n, first = (uintptr_t)m->data,
              last = first + m->len;
    long size = sysconf(_SC_PAGESIZE);
    uintptr_t page = size > 0 ? (uintptr_t)size : 4096;
    if (end < begin) end = UINTPTR_MAX;
    if (begin < first) begin = first;
    if (end > last) end = last;
    if (begin >= end) return false;
    if (inwards) {
        begin = (begin + page - 1) / page * page;
        if (end < last) end = end / page * page; /* nothing lies behind the end in its page */
    } else {
        begin = begin / page * page;
    }
    if (begin >= end) return false;
    *p = (const uint8_t *)begin;
    *n = end - begin;
    return true;
}

void ap_map_want(const ap_map *m, const uint8_t *p, size_t n)
{
    if (m->len && clip(m, &p, &n, false)) madvise((void *)(uintptr_t)p, n, MADV_WILLNEED);
}

void ap_map_drop(const ap_map *m, const uint8_t *p, size_t n)
{
    if (m->len && clip(m, &p, &n, true)) madvise((void *)(uintptr_t)p, n, MADV_DONTNEED);
}

bool ap_path_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

bool ap_path_same(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

bool ap_path_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

apus_err ap_folder_list(const char *path, DIR **out, apus_diag *diag)
{
    *out = opendir(path);
    if (*out || errno == ENOENT || errno == ENOTDIR || errno == EACCES) return APUS_OK;
    if (errno == ENOMEM) return ap_fail_nomem(diag, strlen(path), "the names in a folder");
    return fail_errno(diag, path, "cannot be listed", errno);
}

char *ap_path_join(const char *dir, const char *name)
{
    size_t a = strlen(dir), b = strlen(name);
    size_t slash = a > 0 && dir[a - 1] != '/';
    char *r = ap_malloc(a + b + slash + 1, 1);
    if (!r) return NULL;
    memcpy(r, dir, a);
    if (slash) r[a] = '/';
    memcpy(r + a + slash, name, b + 1);
    return r;
}

int64_t ap_time_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int64_t ap_time_us(void)
{
    return ap_time_ns() / 1000;
}

apus_err ap_folder_make(const char *path, apus_diag *diag)
{
    struct stat st;
    if (mkdir(path, 0700) && errno != EEXIST)
        return ap_fail(diag, APUS_EFILE, "%s: the folder cannot be made", path);
    if (lstat(path, &st) || !S_ISDIR(st.st_mode) || st.st_uid != geteuid())
        return ap_fail(diag, APUS_EFILE, "%s: expected a folder of this user", path);
    return APUS_OK;
}

void ap_file_remove(const char *path)
{
    unlink(path);
}
