#include "store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "name.h"

bool hub_path_set(hub_path *p, apus_diag *why, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(p->s, sizeof p->s, fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n < sizeof p->s) return true;
    return hub_fail(why, "%.200s...: a path of more than %zu bytes", p->s, sizeof p->s - 1);
}

bool hub_store_repo(hub_path *p, const char *cache, const char *repo, apus_diag *why)
{
    int org = (int)strcspn(repo, "/");
    return hub_path_set(p, why, "%s/models--%.*s--%s", cache, org, repo, repo + org + 1);
}

bool hub_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

/* ---------------------------------------------------------------- folders */

bool hub_store_folder(const char *path, apus_diag *why)
{
    hub_path p;
    if (!hub_path_set(&p, why, "%s", path)) return false;
    for (char *s = p.s + 1;; s++) {
        if (*s && *s != '/') continue;
        char was = *s;
        *s = 0;
        if (mkdir(p.s, 0777) && errno != EEXIST)
            return hub_fail(why, "%s: the folder cannot be made: %s", p.s, strerror(errno));
        if (!was) break;
        *s = was;
    }
    struct stat st;
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) return true;
    return hub_fail(why, "%s: expected a folder", path);
}

/* Write a small file that appears under its name whole. */
static bool put_file(const char *path, const char *text, apus_diag *why)
{
    hub_path tmp;
    if (!hub_path_set(&tmp, why, "%s.XXXXXX", path)) return false;
    int fd = mkstemp(tmp.s);
    if (fd < 0) return hub_fail(why, "%s: %s", path, strerror(errno));
    mode_t mask = umask(0);
    umask(mask);
    size_t n = strlen(text);
    bool ok = write(fd, text, n) == (ssize_t)n && fchmod(fd, 0666 & ~mask) == 0;
    if (close(fd)) ok = false;
    if (ok && rename(tmp.s, path) == 0) return true;
    hub_fail(why, "%s: %s", path, strerror(errno));
    unlink(tmp.s);
    return false;
}

/* https://bford.info/cachedir/ */
static void put_tag(const char *cache)
{
    hub_path tag;
    if (hub_path_set(&tag, NULL, "%s/CACHEDIR.TAG", cache) && !hub_exists(tag.s))
        put_file(tag.s, "Signature: 8a477f597d28d172789f06886806bc55\n", NULL);
}

bool hub_store_prepare(const char *cache, const char *repo, apus_diag *why)
{
    hub_path folder, blobs;
    if (!hub_store_repo(&folder, cache, repo, why) ||
        !hub_path_set(&blobs, why, "%s/blobs", folder.s) || !hub_store_folder(blobs.s, why))
        return false;
    put_tag(cache);
    return true;
}

/* ---------------------------------------------------------------- locks */

static bool lock_path(hub_path *p, const char *cache, const char *repo, const char *etag,
                      apus_diag *why)
{
    int org = (int)strcspn(repo, "/");
    return hub_path_set(p, why, "%s/.locks/models--%.*s--%s", cache, org, repo, repo + org + 1) &&
           hub_store_folder(p->s, why) &&
           hub_path_set(p, why, "%s/.locks/models--%.*s--%s/%s.lock", cache, org, repo,
                        repo + org + 1, etag);
}

int hub_store_lock(const char *cache, const char *repo, const char *etag, apus_diag *why)
{
    hub_path p;
    if (!lock_path(&p, cache, repo, etag, why)) return -2;
    for (;;) {
        struct stat mine, named;
        int fd = open(p.s, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0664);
        if (fd < 0) {
            hub_fail(why, "%s: %s", p.s, strerror(errno));
            return -2;
        }
        if (flock(fd, LOCK_EX | LOCK_NB)) {
            int e = errno;
            close(fd);
            if (e == EWOULDBLOCK) return -1;
            hub_fail(why, "%s: cannot be locked: %s", p.s, strerror(e));
            return -2;
        }
        /* Who had it may have removed the file: then this lock is nobody's. */
        if (fstat(fd, &mine) == 0 && stat(p.s, &named) == 0 && mine.st_ino == named.st_ino &&
            mine.st_dev == named.st_dev)
            return fd;
        close(fd);
    }
}

/* ---------------------------------------------------------------- names of contents */

static bool is_link_to(const char *path, const char *target)
{
    char is[4096];
    ssize_t n = readlink(path, is, sizeof is);
    return n >= 0 && (size_t)n == strlen(target) && !memcmp(is, target, (size_t)n);
}

/* "../../blobs/<etag>", one ".." more for each folder in the name. */
static bool link_target(hub_path *p, const char *name, const char *etag, apus_diag *why)
{
    hub_path up = {""};
    for (const char *s = name; (s = strchr(s, '/')); s++)
        if (!hub_path_set(p, why, "%s../", up.s) || !hub_path_set(&up, why, "%s", p->s))
            return false;
    return hub_path_set(p, why, "%s../../blobs/%s", up.s, etag);
}

bool hub_store_link(const char *cache, const char *repo, const char *commit, const char *name,
                    const char *etag, apus_diag *why)
{
    hub_path folder, path, target, tmp;
    struct stat st;
    if (!hub_store_repo(&folder, cache, repo, why) ||
        !hub_path_set(&path, why, "%s/snapshots/%s/%s", folder.s, commit, name) ||
        !link_target(&target, name, etag, why))
        return false;
    tmp = path;
    *strrchr(tmp.s, '/') = 0;
    if (!hub_store_folder(tmp.s, why)) return false;
    if (is_link_to(path.s, target.s)) return true;
    /* where links cannot be made others keep files themselves */
    if (lstat(path.s, &st) == 0 && S_ISREG(st.st_mode)) return true;
    if (!hub_path_set(&tmp, why, "%s.%ld.tmp", path.s, (long)getpid())) return false;
    unlink(tmp.s);
    if (symlink(target.s, tmp.s))
        return hub_fail(why, "%s: a link cannot be made: %s", path.s, strerror(errno));
    if (rename(tmp.s, path.s) == 0) return true;
    hub_fail(why, "%s: %s", path.s, strerror(errno));
    unlink(tmp.s);
    return false;
}

bool hub_store_ref(const char *cache, const char *repo, const char *rev, const char *commit,
                   apus_diag *why)
{
    hub_path folder, path, around;
    char is[41];
    if (!strcmp(rev, commit)) return true;
    if (hub_store_commit(cache, repo, rev, is) && !strcmp(is, commit)) return true;
    if (!hub_store_repo(&folder, cache, repo, why) ||
        !hub_path_set(&path, why, "%s/refs/%s", folder.s, rev))
        return false;
    around = path;
    *strrchr(around.s, '/') = 0;
    return hub_store_folder(around.s, why) && put_file(path.s, commit, why);
}

bool hub_store_commit(const char *cache, const char *repo, const char *rev, char commit[41])
{
    hub_path folder, path;
    char text[64] = "";
    if (!hub_store_repo(&folder, cache, repo, NULL) ||
        !hub_path_set(&path, NULL, "%s/refs/%s", folder.s, rev))
        return false;
    FILE *f = fopen(path.s, "re");
    if (f) {
        if (!fgets(text, sizeof text, f)) text[0] = 0;
        fclose(f);
        text[strcspn(text, "\r\n ")] = 0;
    } else if (strlen(rev) < sizeof text) {
        strcpy(text, rev);
    }
    if (!hub_is_commit(text)) return false;
    strcpy(commit, text);
    return true;
}

uint64_t hub_store_room(const char *cache)
{
    hub_path p;
    struct statvfs v;
    if (!hub_path_set(&p, NULL, "%s", cache)) return UINT64_MAX;
    while (statvfs(p.s, &v)) { /* the nearest folder around it that exists */
        char *slash = strrchr(p.s, '/');
        if (errno != ENOENT || !slash) return UINT64_MAX;
        slash[slash == p.s] = 0;
    }
    return (uint64_t)v.f_bavail * v.f_frsize;
}
