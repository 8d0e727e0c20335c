#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "apus/apus_unstable.h"
#include "fetch.h"
#include "files.h"
#include "hub.h"
#include "store.h"
#include "web.h"

enum { LIST_BYTES = 64 << 20, PIECE_BYTES = 8 << 20, SPARE_BYTES = 64 << 20 };

typedef struct pull {
    const hub_settings *set;
    const hub_name *name;
    hub_pulled *out;
    apus_diag *why;
    hub_web *web;
    hub_files files;
    hub_path folder; /* of the repository, in the cache */
    uint64_t before; /* bytes of the files that are through */
} pull;

static void say(const pull *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(const pull *p, const char *fmt, ...)
{
    char line[1500];
    va_list ap;
    if (!p->set->say) return;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    p->set->say(p->set->ctx, line);
}

/* ---------------------------------------------------------------- what there is */

static bool no_url(pull *p)
{
    return hub_fail(p->why, "%s: its address has more than 4095 bytes", p->name->repo);
}

static bool list_files(pull *p)
{
    char url[4096], what[450], *text;
    size_t len;
    hub_request answer;
    int n =
        snprintf(url, sizeof url, "%s/api/models/%s/revision/", p->set->endpoint, p->name->repo);
    if (n < 0 || (size_t)n >= sizeof url || !hub_url_add(url, sizeof url, p->name->rev, true) ||
        strlen(url) + 12 > sizeof url)
        return no_url(p);
    strcat(url, "?blobs=true");
    snprintf(what, sizeof what, "%s%s%s", p->name->repo, p->name->rev_given ? "@" : "",
             p->name->rev_given ? p->name->rev : "");
    if (!hub_web_ask(p->web, url, p->name->repo, what, LIST_BYTES, &text, &len, &answer, p->why))
        return false;
    bool ok = hub_files_read(text, len, p->name->repo, &p->files, p->why);
    free(text);
    return ok;
}

static bool url_of(pull *p, const hub_file *file, char url[4096])
{
    int n =
        snprintf(url, 4096, "%s/%s/resolve/%s/", p->set->endpoint, p->name->repo, p->files.commit);
    if (n > 0 && n < 4096 && hub_url_add(url, 4096, file->name, false)) return true;
    return no_url(p);
}

static void what_of(const pull *p, const hub_file *file, char what[1300])
{
    snprintf(what, 1300, "%s: %s", p->name->repo, file->name);
}

/* Hash and size of a file that the list has not told. */
static bool look_at(pull *p, hub_file *file)
{
    char url[4096], what[1300];
    hub_request a;
    what_of(p, file, what);
    if (!url_of(p, file, url) ||
        !hub_web_ask(p->web, url, p->name->repo, what, 0, NULL, NULL, &a, p->why))
        return false;
    size_t n = strlen(a.etag);
    if ((n != 40 && n != 64) || strspn(a.etag, "0123456789abcdef") != n)
        return hub_fail(p->why,
                        "%s: the hub tells no checksum for it: expected 40 or 64 hexadecimal "
                        "digits as ETag, found \"%s\"",
                        what, a.etag);
    if (!a.length_known) return hub_fail(p->why, "%s: the hub does not tell its size", what);
    strcpy(file->etag, a.etag);
    file->size = a.length;
    file->size_known = true;
    return true;
}

static bool choose(pull *p)
{
    const hub_file *index;
    char url[4096], what[1300], *text;
    size_t len;
    hub_request answer;
    const char *repo = p->name->repo;
    if (!hub_files_choose(&p->files, repo, p->name->which, &index, p->why)) return false;
    if (index) {
        what_of(p, index, what);
        if (!url_of(p, index, url) ||
            !hub_web_ask(p->web, url, repo, what, LIST_BYTES, &text, &len, &answer, p->why))
            return false;
        bool ok = hub_files_want_shards(&p->files, text, len, repo, p->why);
        free(text);
        if (!ok) return false;
    }
    for (size_t i = 0; i < p->files.n; i++) {
        hub_file *f = &p->files.item[i];
        if (f->wanted && (!*f->etag || !f->size_known) && !look_at(p, f)) return false;
    }
    return true;
}

/* ---------------------------------------------------------------- what is missing */

static bool blob_of(const pull *p, const hub_file *f, hub_path *out, apus_diag *why)
{
    return hub_path_set(out, why, "%s/blobs/%s", p->folder.s, f->etag);
}

static bool is_here(const pull *p, const hub_file *f)
{
    hub_path blob;
    return blob_of(p, f, &blob, NULL) && hub_exists(blob.s);
}

static uint64_t bytes_of_partial(const pull *p, const hub_file *f)
{
    hub_path path;
    if (!hub_path_set(&path, NULL, "%s/blobs/%s.incomplete", p->folder.s, f->etag)) return 0;
    FILE *file = fopen(path.s, "re");
    if (!file) return 0;
    long n = fseek(file, 0, SEEK_END) ? 0 : ftell(file);
    fclose(file);
    return n > 0 && (uint64_t)n <= f->size ? (uint64_t)n : 0;
}

static bool add_up(pull *p)
{
    uint64_t missing = 0, room = hub_store_room(p->set->cache);
    for (size_t i = 0; i < p->files.n; i++) {
        const hub_file *f = &p->files.item[i];
        if (!f->wanted) continue;
        if (__builtin_add_overflow(p->out->bytes, f->size, &p->out->bytes))
            return hub_fail(p->why, "%s: the hub lists impossible sizes", p->name->repo);
        p->out->n_files++;
        if (is_here(p, f)) continue;
        p->out->new_bytes += f->size;
        missing += f->size - bytes_of_partial(p, f);
    }
    if (!missing || room == UINT64_MAX || (missing < room && room - missing >= SPARE_BYTES))
        return true;
    return hub_fail(p->why, "%s: %.2f GB are to be fetched, and %s has room for %.2f GB",
                    p->name->repo, (double)missing / 1e9, p->set->cache, (double)room / 1e9);
}

/* ---------------------------------------------------------------- one file */

static void on_progress(void *ctx, uint64_t done)
{
    pull *p = ctx;
    if (p->set->progress) p->set->progress(p->set->ctx, p->before + done, p->out->bytes);
}

static void on_say(void *ctx, const char *line)
{
    say(ctx, "%s", line);
}

/* The lock of a blob; waits for another process that fetches it. */
static int wait_for_lock(pull *p, const hub_file *f)
{
    struct timespec nap = {.tv_nsec = 200000000};
    for (bool told = false;; told = true) {
        int fd = hub_store_lock(p->set->cache, p->name->repo, f->etag, p->why);
        if (fd != -1) return fd;
        if (hub_web_must_stop(p->web)) {
            hub_stopped(p->why, "%s: stopped", p->name->repo);
            return -2;
        }
        if (!told) say(p, "%s: another process fetches %s; waiting for it", p->name->repo, f->name);
        nanosleep(&nap, NULL);
    }
}

static bool fetch_blob(pull *p, const hub_file *f, const hub_path *blob)
{
    char url[4096];
    if (!url_of(p, f, url)) return false;
    hub_fetch_job job = {.web = p->web,
                         .url = url,
                         .repo = p->name->repo,
                         .file = f,
                         .blob = blob->s,
                         .parallel = p->set->parallel,
                         .piece = PIECE_BYTES,
                         .progress = on_progress,
                         .say = on_say,
                         .ctx = p};
    return hub_fetch(&job, p->why);
}

static bool get_file(pull *p, const hub_file *f)
{
    hub_path blob;
    if (!blob_of(p, f, &blob, p->why)) return false;
    if (!hub_exists(blob.s)) {
        int lock = wait_for_lock(p, f);
        if (lock < 0) return false;
        bool ok = hub_exists(blob.s) || fetch_blob(p, f, &blob);
        close(lock);
        if (!ok) return false;
    }
    p->before += f->size;
    on_progress(p, 0);
    return hub_store_link(p->set->cache, p->name->repo, p->files.commit, f->name, f->etag, p->why);
}

/* ---------------------------------------------------------------- all of it */

static void list_wanted(const pull *p)
{
    for (size_t i = 0; i < p->files.n; i++) {
        const hub_file *f = &p->files.item[i];
        if (f->wanted)
            say(p, "%12.1f MB  %s%s", (double)f->size / 1e6, f->name,
                is_here(p, f) ? "  (in the cache)" : "");
    }
}

static bool get_all(pull *p)
{
    const char *cache = p->set->cache, *repo = p->name->repo;
    if (!hub_store_prepare(cache, repo, p->why)) return false;
    /* small ones first: what is wrong with access shows before gigabytes have come */
    for (int large = 0; large < 2; large++)
        for (size_t i = 0; i < p->files.n; i++) {
            const hub_file *f = &p->files.item[i];
            if (f->wanted && (f->size > PIECE_BYTES) == large && !get_file(p, f)) return false;
        }
    return hub_store_ref(cache, repo, p->name->rev, p->files.commit, p->why);
}

/* The folder, or the first part of the GGUF file. */
static bool set_path(pull *p)
{
    const char *file = NULL;
    hub_path path;
    if (*p->name->which || !hub_files_find(&p->files, "config.json"))
        for (size_t i = 0; i < p->files.n; i++)
            if (p->files.item[i].wanted && apus_gguf_fits(p->files.item[i].name, NULL))
                file = p->files.item[i].name;
    if (!hub_path_set(&path, p->why, "%s/snapshots/%s%s%s", p->folder.s, p->files.commit,
                      file ? "/" : "", file ? file : ""))
        return false;
    strcpy(p->out->path, path.s);
    return true;
}

static bool run(pull *p, bool dry)
{
    char which[310] = "";
    if (!list_files(p)) return false;
    if (hub_is_commit(p->name->rev) && strcmp(p->name->rev, p->files.commit))
        return hub_fail(p->why, "%s: asked for commit %s, the hub answered with %s", p->name->repo,
                        p->name->rev, p->files.commit);
    if (!choose(p) || !add_up(p)) return false;
    strcpy(p->out->commit, p->files.commit);
    if (*p->name->which) snprintf(which, sizeof which, ":%s", p->name->which);
    if (p->out->new_bytes || dry)
        say(p, "%s%s: %.2f GB in %zu files, %.2f GB of it to fetch", p->name->repo, which,
            (double)p->out->bytes / 1e9, p->out->n_files, (double)p->out->new_bytes / 1e9);
    if (dry) {
        list_wanted(p);
        return true;
    }
    return get_all(p) && set_path(p);
}

bool hub_pull(const hub_settings *set, const hub_name *name, bool dry, hub_pulled *out,
              apus_diag *why)
{
    pull p = {.set = set, .name = name, .out = out, .why = why};
    *out = (hub_pulled){0};
    if (!hub_store_repo(&p.folder, set->cache, name->repo, why)) return false;
    hub_web_settings web = {.endpoint = set->endpoint,
                            .token = set->token,
                            .timeout_s = set->timeout_s,
                            .stop = set->stop,
                            .ctx = set->ctx};
    p.web = hub_web_open(&web, why);
    bool ok = p.web && run(&p, dry);
    hub_files_free(&p.files);
    hub_web_close(p.web);
    return ok;
}
