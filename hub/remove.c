/* remove.c - taking models out of the cache: what nothing else in the repository refers to. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "apus/apus_unstable.h"
#include "files.h"
#include "hub.h"
#include "store.h"

/* ---------------------------------------------------------------- names of blobs */

typedef char etag[80];

typedef struct etags {
    etag *item;
    size_t n, cap;
} etags;

static bool add_etag(etags *b, const char *name, apus_diag *why)
{
    if (strlen(name) >= sizeof *b->item) return true; /* none that we know: it stays */
    if (b->n == b->cap) {
        size_t cap = b->cap ? b->cap * 2 : 32;
        etag *p = realloc(b->item, cap * sizeof *p);
        if (!p) return hub_no_memory(why);
        b->item = p;
        b->cap = cap;
    }
    strcpy(b->item[b->n++], name);
    return true;
}

static bool has_etag(const etags *b, const char *name)
{
    for (size_t i = 0; i < b->n; i++)
        if (!strcmp(b->item[i], name)) return true;
    return false;
}

/* The blob that a link of a snapshot leads to; NULL: it is no such link. */
static const char *blob_of_link(const char *path, hub_path *target)
{
    ssize_t n = readlink(path, target->s, sizeof target->s - 1);
    if (n <= 0) return NULL;
    target->s[n] = 0;
    char *slash = strrchr(target->s, '/');
    if (!slash || !slash[1]) return NULL;
    *slash = 0;
    return hub_ends_with(target->s, "/blobs") ? slash + 1 : NULL;
}

/* ---------------------------------------------------------------- walking a snapshot */

/* Called for everything but folders; name: below the snapshot. */
typedef bool (*file_fn)(void *ctx, const char *path, const char *name, apus_diag *why);

static bool each_file(const char *dir, const char *sub, file_fn fn, void *ctx, apus_diag *why)
{
    hub_path path, name;
    bool ok = hub_path_set(&path, why, "%s%s%s", dir, *sub ? "/" : "", sub);
    DIR *d = ok ? opendir(path.s) : NULL;
    for (struct dirent *e; ok && d && (e = readdir(d));) {
        struct stat st;
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        ok = hub_path_set(&name, why, "%s%s%s", sub, *sub ? "/" : "", e->d_name) &&
             hub_path_set(&path, why, "%s/%s", dir, name.s);
        if (!ok || lstat(path.s, &st)) continue;
        ok = S_ISDIR(st.st_mode) ? each_file(dir, name.s, fn, ctx, why)
                                 : fn(ctx, path.s, name.s, why);
    }
    if (d) closedir(d);
    return ok;
}

typedef struct sorting {
    const hub_removal *plan;
    bool goes;        /* the snapshot at hand is the one of the plan */
    etags gone, kept; /* blobs that links which go, and links which stay, lead to */
} sorting;

static bool is_planned(const hub_removal *r, const char *name)
{
    for (size_t i = 0; i < r->n_links; i++)
        if (!strcmp(r->links[i], name)) return true;
    return r->links == NULL;
}

static bool sort_file(void *ctx, const char *path, const char *name, apus_diag *why)
{
    sorting *s = ctx;
    hub_path target;
    bool goes = s->goes && is_planned(s->plan, name);
    const char *blob = blob_of_link(path, &target);
    return !blob || add_etag(goes ? &s->gone : &s->kept, blob, why);
}

/* Which blobs go and which stay when one snapshot, or files of it, go. */
static bool sort_blobs(const hub_removal *r, sorting *s, apus_diag *why)
{
    hub_path dir, snapshots;
    if (!hub_path_set(&snapshots, why, "%s/snapshots", r->folder)) return false;
    DIR *d = opendir(snapshots.s);
    bool ok = true;
    for (struct dirent *e; ok && d && (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        s->goes = !strcmp(e->d_name, r->commit);
        ok = hub_path_set(&dir, why, "%s/%s", snapshots.s, e->d_name) &&
             each_file(dir.s, "", sort_file, s, why);
    }
    if (d) closedir(d);
    return ok;
}

static void free_sorting(sorting *s)
{
    free(s->gone.item);
    free(s->kept.item);
}

/* ---------------------------------------------------------------- planning */

static uint64_t size_of(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0 && S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0;
}

static bool add_size(void *ctx, const char *path, const char *name, apus_diag *why)
{
    (void)name, (void)why;
    *(uint64_t *)ctx += size_of(path);
    return true;
}

static bool add_link(hub_removal *r, const char *name, apus_diag *why)
{
    void *p = realloc(r->links, (r->n_links + 1) * sizeof *r->links);
    if (!p) return hub_no_memory(why);
    r->links = p;
    if (strlen(name) >= sizeof *r->links) return hub_fail(why, "%s: a name too long", name);
    strcpy(r->links[r->n_links++], name);
    return true;
}

typedef struct choosing {
    hub_removal *plan;
    const hub_entry *model;
} choosing;

/* Its own file, or another part of it. */
static bool choose_part(void *ctx, const char *path, const char *name, apus_diag *why)
{
    choosing *c = ctx;
    hub_part p = hub_part_of(c->model->file), q = hub_part_of(name);
    (void)path;
    if (!hub_ends_with(name, ".gguf") || p.of != q.of || p.stem != q.stem ||
        strncmp(name, c->model->file, p.stem))
        return true;
    return add_link(c->plan, name, why);
}

/* The files that :WHICH means in the snapshot. If no other model stays there, all of it goes. */
static bool choose_links(const char *cache, const hub_name *name, hub_removal *r, apus_diag *why)
{
    hub_entries all;
    hub_path dir;
    size_t others = 0;
    if (!hub_cached(cache, name->repo, &all, why)) return false;
    bool ok = hub_path_set(&dir, why, "%s/snapshots/%s", r->folder, r->commit);
    for (size_t i = 0; ok && i < all.n; i++) {
        choosing c = {r, &all.item[i]};
        if (strcmp(c.model->commit, r->commit)) continue;
        if (hub_means(name, c.model))
            ok = each_file(dir.s, "", choose_part, &c, why);
        else
            others++;
    }
    hub_entries_free(&all);
    if (ok && !r->n_links)
        return hub_fail(
            why,
            "%s: the cache has no GGUF file for \"%.100s\" of it; 'apus list' tells what is there",
            name->repo, name->which);
    if (ok && !others) {
        free(r->links);
        r->links = NULL;
        r->n_links = 0;
    }
    return ok;
}

static bool count_bytes(hub_removal *r, apus_diag *why)
{
    sorting s = {.plan = r};
    hub_path path;
    bool ok =
        *r->commit ? sort_blobs(r, &s, why) : each_file(r->folder, "", add_size, &r->bytes, why);
    for (size_t i = 0; ok && i < s.gone.n; i++) {
        bool again = false;
        for (size_t k = 0; k < i; k++) again |= !strcmp(s.gone.item[k], s.gone.item[i]);
        if (!again && !has_etag(&s.kept, s.gone.item[i]) &&
            hub_path_set(&path, NULL, "%s/blobs/%s", r->folder, s.gone.item[i]))
            r->bytes += size_of(path.s);
    }
    free_sorting(&s);
    return ok;
}

bool hub_remove_plan(const char *cache, const hub_name *name, hub_removal *r, apus_diag *why)
{
    hub_path folder, dir;
    *r = (hub_removal){0};
    if (!hub_store_repo(&folder, cache, name->repo, why)) return false;
    strcpy(r->folder, folder.s);
    if (!hub_exists(folder.s))
        return hub_fail(why, "%s: it is not in the cache %s; 'apus list' tells what is", name->repo,
                        cache);
    if (name->rev_given || *name->which) {
        if (!hub_store_commit(cache, name->repo, name->rev, r->commit) ||
            !hub_path_set(&dir, why, "%s/snapshots/%s", folder.s, r->commit) || !hub_exists(dir.s))
            return hub_fail(why, "%s: the cache has no snapshot of revision %s", name->repo,
                            name->rev);
        if (*name->which && !choose_links(cache, name, r, why)) return false;
    }
    return count_bytes(r, why);
}

void hub_removal_free(hub_removal *r)
{
    free(r->links);
    r->links = NULL;
    r->n_links = 0;
}

/* ---------------------------------------------------------------- removing */

static bool cannot(const char *path, apus_diag *why)
{
    return hub_fail(why, "%s: cannot be removed: %s", path, strerror(errno));
}

/* A folder with all that is in it; links go, not what they lead to. */
static bool remove_tree(const char *dir, apus_diag *why)
{
    hub_path path;
    struct stat st;
    if (lstat(dir, &st)) return errno == ENOENT || cannot(dir, why);
    if (!S_ISDIR(st.st_mode)) return unlink(dir) == 0 || cannot(dir, why);
    DIR *d = opendir(dir);
    if (!d) return cannot(dir, why);
    bool ok = true;
    for (struct dirent *e; ok && (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        ok = hub_path_set(&path, why, "%s/%s", dir, e->d_name) && remove_tree(path.s, why);
    }
    closedir(d);
    return ok && (rmdir(dir) == 0 || cannot(dir, why));
}

/* refs/ that name the commit, and folders in it that are empty then. */
static bool remove_refs(const char *dir, const char *commit, apus_diag *why)
{
    hub_path path;
    char text[64];
    DIR *d = opendir(dir);
    bool ok = true;
    for (struct dirent *e; ok && d && (e = readdir(d));) {
        struct stat st;
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        ok = hub_path_set(&path, why, "%s/%s", dir, e->d_name);
        if (!ok || lstat(path.s, &st)) continue;
        if (S_ISDIR(st.st_mode)) {
            ok = remove_refs(path.s, commit, why);
            rmdir(path.s);
            continue;
        }
        FILE *f = fopen(path.s, "re");
        if (!f || !fgets(text, sizeof text, f)) text[0] = 0;
        if (f) fclose(f);
        if (!strncmp(text, commit, 40)) ok = unlink(path.s) == 0 || cannot(path.s, why);
    }
    if (d) closedir(d);
    return ok;
}

static bool remove_links(const hub_removal *r, apus_diag *why)
{
    hub_path path;
    for (size_t i = 0; i < r->n_links; i++)
        if (!hub_path_set(&path, why, "%s/snapshots/%s/%s", r->folder, r->commit, r->links[i]) ||
            (unlink(path.s) && errno != ENOENT && !cannot(path.s, why)))
            return false;
    return true;
}

static bool remove_blobs(const hub_removal *r, const sorting *s, apus_diag *why)
{
    hub_path path;
    for (size_t i = 0; i < s->gone.n; i++) {
        if (has_etag(&s->kept, s->gone.item[i])) continue;
        if (!hub_path_set(&path, why, "%s/blobs/%s", r->folder, s->gone.item[i])) return false;
        if (unlink(path.s) && errno != ENOENT) return cannot(path.s, why);
    }
    return true;
}

static bool remove_snapshot(const hub_removal *r, apus_diag *why)
{
    hub_path dir;
    return hub_path_set(&dir, why, "%s/refs", r->folder) && remove_refs(dir.s, r->commit, why) &&
           hub_path_set(&dir, why, "%s/trees/%s.json", r->folder, r->commit) &&
           (unlink(dir.s) == 0 || errno == ENOENT || cannot(dir.s, why)) &&
           hub_path_set(&dir, why, "%s/snapshots/%s", r->folder, r->commit) &&
           remove_tree(dir.s, why);
}

static bool is_empty(const char *dir)
{
    bool empty = true;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) empty &= e->d_name[0] == '.';
    if (d) closedir(d);
    return empty;
}

/* Somebody fetches into the repository: one of its locks is taken. */
static bool is_busy(const char *cache, const hub_name *name)
{
    hub_path dir, folder;
    bool busy = false;
    if (!hub_store_repo(&folder, cache, name->repo, NULL) ||
        !hub_path_set(&dir, NULL, "%s/.locks/%s", cache, strrchr(folder.s, '/') + 1))
        return false;
    DIR *d = opendir(dir.s);
    for (struct dirent *e; d && !busy && (e = readdir(d));) {
        char tag[80];
        size_t n = strlen(e->d_name);
        if (!hub_ends_with(e->d_name, ".lock") || n - 5 >= sizeof tag) continue;
        snprintf(tag, sizeof tag, "%.*s", (int)(n - 5), e->d_name);
        int fd = hub_store_lock(cache, name->repo, tag, NULL);
        busy = fd == -1;
        if (fd >= 0) close(fd);
    }
    if (d) closedir(d);
    return busy;
}

bool hub_remove(const char *cache, const hub_name *name, hub_removal *r, apus_diag *why)
{
    sorting s = {.plan = r};
    hub_path snapshots;
    if (is_busy(cache, name))
        return hub_fail(why, "%s: another process is fetching it", name->repo);
    if (!*r->commit) return remove_tree(r->folder, why);
    bool ok = sort_blobs(r, &s, why) &&
              (r->links ? remove_links(r, why) : remove_snapshot(r, why)) &&
              remove_blobs(r, &s, why) && hub_path_set(&snapshots, why, "%s/snapshots", r->folder);
    if (ok && is_empty(snapshots.s)) ok = remove_tree(r->folder, why);
    free_sorting(&s);
    return ok;
}
