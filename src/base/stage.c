#define _GNU_SOURCE /* getdents64, renameat2 */
#include "base/stage.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"

#define MARK "apus-"
#define LOCK "lock"
#define OUT  "out"

enum {
    HEX = 16,                                             /* random digits */
    MOST_OF_NAME = NAME_MAX - 2 - (int)sizeof MARK - HEX, /* of the result's name in the folder's */
    TRIES = 16,
    DEPTH = 2, /* folders below a private one: out */
    MAX_LIVE = 32
};

static apus_err fail_errno(apus_diag *diag, const char *path, const char *what)
{
    return ap_fail(diag, APUS_EFILE, "%s: %s: %s", path, what, strerror(errno));
}

/* ---------------------------------------------------------------- walking folders */

/* Returns false to stop. */
typedef bool (*entry_fn)(void *ctx, int dir, const char *name);

/* Calls fn with every entry of an open folder but . and .. - without memory, also in signal handlers.
 * Returns false if fn stopped it. */
static bool each_entry(int dir, entry_fn fn, void *ctx)
{
    _Alignas(struct dirent64) char room[4096];
    if (lseek(dir, 0, SEEK_SET) < 0) return true;
    for (ssize_t n; (n = getdents64(dir, room, sizeof room)) > 0;) {
        for (ssize_t at = 0; at < n;) {
            const struct dirent64 *e = (const struct dirent64 *)(const void *)(room + at);
            at += e->d_reclen;
            if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
            if (!fn(ctx, dir, e->d_name)) return false;
        }
    }
    return true;
}

static int open_folder(int at, const char *name)
{
    return openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

typedef struct removal {
    int depth;
    bool removed; /* something: readers of folders may skip entries then, so look again */
} removal;

static void empty_folder(int dir, int depth);

static bool remove_entry(void *ctx, int dir, const char *name)
{
    removal *r = ctx;
    if (r->depth == DEPTH && !strcmp(name, LOCK)) return true; /* goes last: it is what tells us */
    if (unlinkat(dir, name, 0) == 0) {
        r->removed = true;
    } else if (r->depth > 1) {
        int sub = open_folder(dir, name);
        if (sub < 0) return true;
        empty_folder(sub, r->depth - 1);
        close(sub);
        if (unlinkat(dir, name, AT_REMOVEDIR) == 0) r->removed = true;
    }
    return true;
}

static void empty_folder(int dir, int depth)
{
    removal r = {depth, true};
    while (r.removed) {
        r.removed = false;
        each_entry(dir, remove_entry, &r);
    }
}

/* A private folder with everything in it. dir: the open folder, name: it in `at`. A thread that goes on
 * writing in a program that is being ended may add to it meanwhile. */
static void remove_private(int dir, int at, const char *name)
{
    for (int i = 0; i < TRIES; i++) {
        empty_folder(dir, DEPTH);
        unlinkat(dir, LOCK, 0);
        if (unlinkat(at, name, AT_REMOVEDIR) == 0 || (errno != ENOTEMPTY && errno != EEXIST))
            return;
    }
}

/* ---------------------------------------------------------------- for signal handlers */

/* Fixed memory, since a handler may interrupt anything. A process that was forked off has none of
 * these to remove. */
static struct {
    atomic_int state; /* 0: free, 1: being filled, 2: live */
    pid_t process;
    char dir[PATH_MAX];
} live[MAX_LIVE];

static int live_add(const char *dir)
{
    if (strlen(dir) >= sizeof live[0].dir) return -1;
    for (int i = 0; i < MAX_LIVE; i++) {
        int none = 0;
        if (!atomic_compare_exchange_strong(&live[i].state, &none, 1)) continue;
        strcpy(live[i].dir, dir);
        live[i].process = getpid();
        atomic_store(&live[i].state, 2);
        return i;
    }
    return -1; /* the next run will find it */
}

static void live_remove(ap_stage *s)
{
    if (s->live >= 0) atomic_store(&live[s->live].state, 0);
    s->live = -1;
}

void ap_stages_remove(void)
{
    int kept = errno;
    for (int i = 0; i < MAX_LIVE; i++) {
        if (atomic_load(&live[i].state) != 2 || live[i].process != getpid()) continue;
        int dir = open_folder(AT_FDCWD, live[i].dir);
        if (dir < 0) continue;
        remove_private(dir, AT_FDCWD, live[i].dir);
        close(dir);
    }
    errno = kept;
}

/* ---------------------------------------------------------------- what stands under the name */

static const char *kind_of(mode_t m)
{
    return S_ISDIR(m)    ? "a folder"
           : S_ISLNK(m)  ? "a symbolic link, which is not written through"
           : S_ISFIFO(m) ? "a pipe"
           : S_ISSOCK(m) ? "a socket"
           : S_ISREG(m)  ? "a file"
                         : "a device";
}

typedef struct look {
    bool config;
    char strange[NAME_MAX + 1]; /* an entry that no model has; "": none */
} look;

/* Has a file of that name its place in a model's folder? */
static bool of_model(const char *name)
{
    static const char *const tails[] = {".json", ".safetensors", ".jinja", ".txt", ".model", NULL};
    int i = 0;
    while (tails[i] && !ap_ends_with(name, tails[i])) i++;
    return tails[i] != NULL;
}

static bool look_at(void *ctx, int dir, const char *name)
{
    look *l = ctx;
    struct stat st;
    bool known = fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode);
    l->config = l->config || !strcmp(name, "config.json");
    if (known && of_model(name)) return true;
    snprintf(l->strange, sizeof l->strange, "%s", name);
    return false;
}

/* May the folder be replaced by a model? */
static apus_err check_folder(const char *path, apus_diag *diag)
{
    look l = {0};
    int dir = open_folder(AT_FDCWD, path);
    if (dir < 0) return fail_errno(diag, path, "cannot be examined");
    each_entry(dir, look_at, &l);
    close(dir);
    if (l.strange[0])
        return ap_fail(
            diag, APUS_EFILE,
            "%s: is not overwritten: it holds \"%.200s\", which is not a model's; remove "
            "the folder or choose another name",
            path, l.strange);
    if (l.config) return APUS_OK;
    return ap_fail(
        diag, APUS_EFILE,
        "%s: is not overwritten: it has no config.json, so it is not a model; remove the "
        "folder or choose another name",
        path);
}

apus_err ap_stage_check(const char *path, ap_stage_kind kind, bool replace, apus_diag *diag)
{
    struct stat st;
    bool folder = kind == AP_STAGE_FOLDER;
    if (lstat(path, &st)) {
        if (errno != ENOENT) return fail_errno(diag, path, "cannot be written");
        if (!*path) return ap_fail(diag, APUS_EFILE, "the name of the result is empty");
        return folder || !ap_ends_with(path, "/")
                   ? APUS_OK
                   : ap_fail(diag, APUS_EFILE, "%s: names a folder, expected a file", path);
    }
    if (folder ? !S_ISDIR(st.st_mode) : !S_ISREG(st.st_mode))
        return ap_fail(diag, APUS_EFILE, "%s: is %s; expected %s, or nothing of that name", path,
                       kind_of(st.st_mode), folder ? "a folder" : "a regular file");
    if (!replace)
        return ap_fail(diag, APUS_EFILE,
                       "%s: exists already; choose another name, or --force to overwrite it", path);
    return folder ? check_folder(path, diag) : APUS_OK;
}

/* Where the last part of a path begins. */
static size_t name_at(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash - path) + 1 : 0;
}

/* Is it a file of the model in that folder? */
static bool lies_in(const char *path, const char *folder)
{
    size_t at = name_at(path);
    if (!of_model(path + at) || !ap_path_is_dir(folder) || !ap_path_exists(path)) return false;
    char *own = at ? ap_strndup(path, at) : ap_strdup(".");
    bool in = own && ap_path_same(own, folder);
    ap_free(own);
    return in;
}

apus_err ap_stage_apart(const char *path, const char *source, apus_diag *diag)
{
    if (ap_path_same(path, source))
        return ap_fail(diag, APUS_EINVAL, "%s: is the source itself; choose another name", path);
    if (lies_in(path, source))
        return ap_fail(diag, APUS_EINVAL, "%s: is a file of the source; choose another name", path);
    return APUS_OK;
}

/* ---------------------------------------------------------------- the private folder */

/* "DIR/.NAME.apus-" with room for the digits. */
static char *private_stem(const char *path, size_t *len)
{
    size_t at = name_at(path), n = strlen(path + at);
    if (n > MOST_OF_NAME) n = MOST_OF_NAME;
    *len = at + 1 + n + 1 + strlen(MARK);
    char *stem = ap_malloc(*len + HEX + 1, 1);
    if (stem) snprintf(stem, *len + 1, "%.*s.%.*s." MARK, (int)at, path, (int)n, path + at);
    return stem;
}

static bool is_private(const char *name, const char *stem)
{
    size_t n = strlen(stem);
    return !strncmp(name, stem, n) && strspn(name + n, "0123456789abcdef") == HEX && !name[n + HEX];
}

/* Remove a private folder if whoever made it is gone. */
static bool remove_dead(void *ctx, int parent, const char *name)
{
    const char *stem = ctx;
    struct stat st;
    if (!is_private(name, stem)) return true;
    int dir = open_folder(parent, name);
    if (dir < 0) return true;
    bool ours = fstat(dir, &st) == 0 && st.st_uid == geteuid() && (st.st_mode & 077) == 0;
    int lock = ours ? openat(dir, LOCK, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC) : -1;
    if (lock >= 0) {
        if (flock(lock, LOCK_EX | LOCK_NB) == 0) remove_private(dir, parent, name);
        close(lock);
    } else if (ours && errno == ENOENT) {
        unlinkat(parent, name, AT_REMOVEDIR); /* fails unless it is empty */
    }
    close(dir);
    return true;
}

/* The folder that a path is in. The path is cut for a moment. */
static int open_parent(char *path)
{
    size_t at = name_at(path);
    char first = path[at];
    path[at] = 0;
    int dir = open(at ? path : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    path[at] = first;
    return dir;
}

static void remove_leftovers(char *stem)
{
    size_t at = name_at(stem);
    int dir = open_parent(stem);
    if (dir < 0) return; /* may be a folder that cannot be read; making ours tells */
    char name[NAME_MAX + 1];
    snprintf(name, sizeof name, "%s", stem + at);
    each_entry(dir, remove_dead, name);
    close(dir);
}

static bool random_digits(char *out)
{
    unsigned char bytes[HEX / 2];
    for (size_t n = 0; n < sizeof bytes;) {
        ssize_t got = getrandom(bytes + n, sizeof bytes - n, 0);
        if (got < 0 && errno != EINTR) return false;
        if (got > 0) n += (size_t)got;
    }
    for (size_t i = 0; i < sizeof bytes; i++) snprintf(out + 2 * i, 3, "%02x", bytes[i]);
    return true;
}

/* The lock of a new private folder. Another process that looks for leftovers may have removed the
 * folder before the lock was held: -1 with EAGAIN then. */
static int make_lock(const char *dir)
{
    struct stat st;
    int at = open_folder(AT_FDCWD, dir);
    int lock =
        at < 0 ? -1 : openat(at, LOCK, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    int why = errno;
    if (at >= 0) close(at);
    if (lock < 0) {
        errno = why == ENOENT ? EAGAIN : why;
        return -1;
    }
    /* A file system without locks: the folder will not be taken for a leftover, since nobody can lock
     * it. */
    bool lost = flock(lock, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK;
    if (!lost && fstat(lock, &st) == 0 && st.st_nlink > 0) return lock;
    close(lock);
    errno = EAGAIN;
    return -1;
}

static bool make_private(ap_stage *s, size_t stem)
{
    for (int i = 0; i < TRIES; i++) {
        if (!random_digits(s->dir + stem)) return false;
        s->live = live_add(s->dir); /* first: a signal may come at any time */
        bool made = mkdir(s->dir, 0700) == 0;
        if (made && (s->lock = make_lock(s->dir)) >= 0) return true;
        int why = errno;
        if (made) rmdir(s->dir);
        live_remove(s);
        errno = why;
        if (why != EAGAIN && why != EEXIST) return false;
    }
    return false;
}

apus_err ap_stage_begin(ap_stage *s, const char *path, ap_stage_kind kind, bool replace,
                        apus_diag *diag)
{
    size_t n = strlen(path), stem = 0;
    *s = (ap_stage){.kind = kind, .replace = replace, .lock = -1, .live = -1};
    apus_err err = ap_stage_check(path, kind, replace, diag);
    if (err) return err;
    while (kind == AP_STAGE_FOLDER && n > 1 && path[n - 1] == '/') n--;
    s->path = ap_strndup(path, n);
    s->dir = s->path ? private_stem(s->path, &stem) : NULL;
    if (!s->dir) {
        ap_stage_drop(s);
        return ap_fail_nomem(diag, n, "a path");
    }
    const char *name = s->path + name_at(s->path);
    if (!*name || !strcmp(name, ".") || !strcmp(name, "..")) {
        ap_stage_drop(s);
        return ap_fail(diag, APUS_EFILE, "%s: is not a name that a result can be given", path);
    }
    remove_leftovers(s->dir);
    bool made = make_private(s, stem);
    if (!made) err = fail_errno(diag, s->path, "cannot be created");
    s->out = made ? ap_path_join(s->dir, OUT) : NULL;
    if (made && !s->out) err = ap_fail_nomem(diag, n, "a path");
    if (!err && kind == AP_STAGE_FOLDER && mkdir(s->out, 0777))
        err = fail_errno(diag, s->path, "cannot be created");
    if (err) ap_stage_drop(s);
    return err;
}

void ap_stage_rephrase(const ap_stage *s, apus_diag *diag)
{
    char *at = diag && s->out ? strstr(diag->text, s->out) : NULL;
    if (!at) return;
    size_t from = strlen(s->out), to = strlen(s->path); /* never longer */
    memmove(at + to, at + from, strlen(at + from) + 1);
    memcpy(at, s->path, to);
}

void ap_stage_drop(ap_stage *s)
{
    int dir = s->path && s->lock >= 0 ? open_folder(AT_FDCWD, s->dir) : -1;
    if (dir >= 0) {
        remove_private(dir, AT_FDCWD, s->dir);
        close(dir);
    }
    if (s->path && s->lock >= 0) close(s->lock);
    if (s->path) live_remove(s);
    ap_free(s->path);
    ap_free(s->dir);
    ap_free(s->out);
    *s = (ap_stage){.lock = -1, .live = -1};
}

/* ---------------------------------------------------------------- the name */

/* Make names last through a power cut. Not every file system can; the data are safe anyway. */
static void sync_folder(int fd)
{
    if (fd < 0) return;
    fsync(fd);
    close(fd);
}

static int no_replace(const ap_stage *s)
{
    struct stat st;
    if (renameat2(AT_FDCWD, s->out, AT_FDCWD, s->path, RENAME_NOREPLACE) == 0) return 0;
    if (errno != EINVAL && errno != ENOSYS) return -1;
    /* An old file system: links do not replace either, where there are some. */
    if (s->kind == AP_STAGE_FILE && link(s->out, s->path) == 0) return 0;
    if (s->kind == AP_STAGE_FILE && errno == EEXIST) return -1;
    if (lstat(s->path, &st) == 0) {
        errno = EEXIST;
        return -1;
    }
    return rename(s->out, s->path);
}

/* Give the name to s->out. What had it before, a folder, changes places with it. */
static apus_err take_name(const ap_stage *s, apus_diag *diag)
{
    struct stat st;
    bool there = s->replace && lstat(s->path, &st) == 0;
    apus_err err = there ? ap_stage_check(s->path, s->kind, true, diag) : APUS_OK;
    if (err) return err;
    int failed = !there ? no_replace(s)
                 : s->kind == AP_STAGE_FILE
                     ? rename(s->out, s->path)
                     : renameat2(AT_FDCWD, s->out, AT_FDCWD, s->path, RENAME_EXCHANGE);
    if (!failed) return APUS_OK;
    if (errno == EEXIST || errno == ENOTEMPTY)
        return ap_fail(diag, APUS_EFILE,
                       "%s: was made by somebody else meanwhile; it stays as it is", s->path);
    if (there && s->kind == AP_STAGE_FOLDER && (errno == EINVAL || errno == ENOSYS))
        return ap_fail(diag, APUS_EFILE,
                       "%s: this file system cannot replace folders; remove it first", s->path);
    return fail_errno(diag, s->path, "cannot be given its name");
}

apus_err ap_stage_finish(ap_stage *s, apus_diag *diag)
{
    if (s->kind == AP_STAGE_FOLDER) sync_folder(open_folder(AT_FDCWD, s->out));
    apus_err err = take_name(s, diag);
    if (!err) sync_folder(open_parent(s->path));
    ap_stage_drop(s);
    return err;
}
