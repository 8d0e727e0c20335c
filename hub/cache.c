/* cache.c - which models are in the cache. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "apus/apus_unstable.h"
#include "files.h"
#include "hub.h"
#include "store.h"
#include "walk.h"

enum { MAX_JSON_BYTES = 64 << 20, MAX_REFS = 64 };

/* ---------------------------------------------------------------- entries */

static void free_entry(hub_entry *e)
{
    free(e->name);
    free(e->repo);
    free(e->file);
    free(e->path);
}

void hub_entries_free(hub_entries *e)
{
    for (size_t i = 0; i < e->n; i++) free_entry(&e->item[i]);
    free(e->item);
    *e = (hub_entries){0};
}

/* Takes what e owns in any case. */
static bool add_entry(hub_entries *all, hub_entry *e, apus_diag *why)
{
    bool ok = e->name && e->repo && e->path;
    if (ok && all->n == all->cap) {
        size_t cap = all->cap ? all->cap * 2 : 16;
        hub_entry *p = realloc(all->item, cap * sizeof *p);
        ok = p != NULL;
        if (p) {
            all->item = p;
            all->cap = cap;
        }
    }
    if (ok) {
        all->item[all->n++] = *e;
        return true;
    }
    free_entry(e);
    return hub_no_memory(why);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const hub_entry *)a)->name, ((const hub_entry *)b)->name);
}

/* ---------------------------------------------------------------- a snapshot */

/* One that is looked at. */
typedef struct snapshot {
    const char *repo;
    const char *rev; /* a ref of it, or the commit */
    char commit[41];
    hub_path dir;
    hub_files files; /* that are there: links that lead nowhere are not */
    int64_t *modified;
} snapshot;

static bool add_file(snapshot *s, const char *name, const struct stat *st, apus_diag *why)
{
    hub_file f = {.name = (char *)name, .size = (uint64_t)st->st_size, .size_known = true};
    int64_t *p = realloc(s->modified, (s->files.n + 1) * sizeof *p);
    if (!p) return hub_no_memory(why);
    s->modified = p;
    s->modified[s->files.n] = (int64_t)st->st_mtime;
    return hub_files_add(&s->files, &f, why);
}

/* The files of the snapshot, and those one level below: where models are looked for. */
static bool list_files(snapshot *s, const char *sub, apus_diag *why)
{
    hub_path dir, path, name;
    bool ok = hub_path_set(&dir, why, "%s%s%s", s->dir.s, *sub ? "/" : "", sub);
    DIR *d = ok ? opendir(dir.s) : NULL;
    for (struct dirent *e; ok && d && (e = readdir(d));) {
        struct stat st;
        if (e->d_name[0] == '.') continue;
        ok = hub_path_set(&path, why, "%s/%s", dir.s, e->d_name) &&
             hub_path_set(&name, why, "%s%s%s", sub, *sub ? "/" : "", e->d_name);
        if (!ok || stat(path.s, &st)) continue;
        if (S_ISREG(st.st_mode))
            ok = add_file(s, name.s, &st, why);
        else if (S_ISDIR(st.st_mode) && !*sub)
            ok = list_files(s, name.s, why);
    }
    if (d) closedir(d);
    return ok;
}

static char *read_small(const snapshot *s, const char *name, size_t *len)
{
    hub_path path;
    const hub_file *f = hub_files_find(&s->files, name);
    if (!f || f->size > MAX_JSON_BYTES || !hub_path_set(&path, NULL, "%s/%s", s->dir.s, name))
        return NULL;
    char *text = malloc((size_t)f->size + 1);
    FILE *file = text ? fopen(path.s, "re") : NULL;
    *len = file ? fread(text, 1, (size_t)f->size, file) : 0;
    if (file) fclose(file);
    return text;
}

/* ---------------------------------------------------------------- what it is */

typedef struct stored_as {
    char type[32], method[32];
    uint64_t bits;
} stored_as;

static bool on_config(void *ctx, const hub_json *v, apus_diag *why)
{
    stored_as *s = ctx;
    (void)why;
    if (!strcmp(v->path, "dtype") || !strcmp(v->path, "torch_dtype") ||
        (!*s->type &&
         (!strcmp(v->path, "text_config/dtype") || !strcmp(v->path, "text_config/torch_dtype"))))
        hub_json_copy(v, s->type, sizeof s->type);
    if (hub_ends_with(v->path, "quantization_config/quant_method"))
        hub_json_copy(v, s->method, sizeof s->method);
    if (hub_ends_with(v->path, "quantization/bits") ||
        hub_ends_with(v->path, "quantization_config/bits"))
        hub_json_size(v, &s->bits);
    return true;
}

/* As config.json tells it. */
static void quant_of_config(const snapshot *s, char out[64])
{
    static const char *const names[][2] = {
        {"bfloat16", "bf16"}, {"float16", "f16"}, {"float32", "f32"}};
    stored_as is = {0};
    size_t len;
    char *text = read_small(s, "config.json", &len);
    if (text) hub_json_walk(text, len, "config.json", on_config, &is, NULL);
    free(text);
    snprintf(out, 64, "%s", is.type);
    for (size_t i = 0; i < 3; i++)
        if (!strcmp(is.type, names[i][0])) strcpy(out, names[i][1]);
    if (*is.method) snprintf(out, 64, "%s", is.method);
    if (is.bits && is.bits < 64)
        snprintf(out, 64, "%s%s%d bit", is.method, *is.method ? " " : "", (int)is.bits);
}

static bool has_all_shards(snapshot *s)
{
    size_t len;
    bool ok = true;
    if (hub_files_find(&s->files, "model.safetensors")) return true;
    char *text = read_small(s, "model.safetensors.index.json", &len);
    if (text) ok = hub_files_want_shards(&s->files, text, len, s->repo, NULL);
    free(text);
    return ok;
}

/* org/repo[@rev], and what is chosen of it: ":TYPE", "/FILE", or nothing. */
static char *make_name(const snapshot *s, const char *mark, const char *what)
{
    char name[2048];
    bool rev = strcmp(s->rev, "main") != 0, file = *mark == '/';
    snprintf(name, sizeof name, "%s%s%s%s%s%s%s", s->repo, file ? mark : "", file ? what : "",
             rev ? "@" : "", rev ? s->rev : "", file ? "" : mark, file ? "" : what);
    return strdup(name);
}

static void add_up(const snapshot *s, size_t i, hub_entry *e)
{
    e->size += s->files.item[i].size;
    if (s->modified[i] > e->modified) e->modified = s->modified[i];
}

static bool add_safetensors(snapshot *s, hub_entries *out, apus_diag *why)
{
    hub_entry e = {.repo = strdup(s->repo), .name = make_name(s, "", ""), .path = strdup(s->dir.s)};
    memcpy(e.commit, s->commit, sizeof e.commit);
    quant_of_config(s, e.quant);
    for (size_t i = 0; i < s->files.n; i++)
        if (hub_ends_with(s->files.item[i].name, ".safetensors")) add_up(s, i, &e);
    e.complete = has_all_shards(s);
    return add_entry(out, &e, why);
}

static bool add_gguf(snapshot *s, const hub_file *model, hub_entries *out, apus_diag *why)
{
    hub_path path;
    hub_entry e = {.repo = strdup(s->repo), .file = strdup(model->name)};
    hub_part p = hub_part_of(model->name);
    size_t same = 0;
    int parts = 0;
    memcpy(e.commit, s->commit, sizeof e.commit);
    hub_type_of(model->name, e.quant);
    for (size_t i = 0; i < s->files.n; i++) {
        const hub_file *f = &s->files.item[i];
        hub_part q = hub_part_of(f->name);
        if (*e.quant) same += apus_gguf_fits(f->name, e.quant);
        if (!hub_ends_with(f->name, ".gguf") || q.of != p.of || q.stem != p.stem ||
            strncmp(f->name, model->name, p.stem))
            continue;
        parts++;
        add_up(s, i, &e);
    }
    e.complete = parts == p.of;
    e.name = same == 1 ? make_name(s, ":", e.quant) : make_name(s, "/", model->name);
    if (hub_path_set(&path, why, "%s/%s", s->dir.s, model->name)) e.path = strdup(path.s);
    return add_entry(out, &e, why);
}

static bool add_snapshot(const char *folder, const char *repo, const char *rev, const char *commit,
                         hub_entries *out, apus_diag *why)
{
    snapshot s = {.repo = repo, .rev = rev};
    memcpy(s.commit, commit, sizeof s.commit);
    bool weights = false;
    bool ok =
        hub_path_set(&s.dir, why, "%s/snapshots/%s", folder, commit) && list_files(&s, "", why);
    for (size_t i = 0; i < s.files.n; i++)
        if (!strchr(s.files.item[i].name, '/') &&
            hub_ends_with(s.files.item[i].name, ".safetensors"))
            weights = true;
    if (ok && weights && hub_files_find(&s.files, "config.json"))
        ok = add_safetensors(&s, out, why);
    for (size_t i = 0; ok && i < s.files.n; i++)
        if (apus_gguf_fits(s.files.item[i].name, NULL))
            ok = add_gguf(&s, &s.files.item[i], out, why);
    hub_files_free(&s.files);
    free(s.modified);
    return ok;
}

/* ---------------------------------------------------------------- a repository */

/* A branch or tag, and its commit. Tags may have slashes. */
typedef struct refs {
    char name[MAX_REFS][201], commit[MAX_REFS][41];
    size_t n;
} refs;

static void read_refs(const char *cache, const char *repo, const char *folder, const char *sub,
                      refs *out)
{
    hub_path dir, path, name;
    if (!hub_path_set(&dir, NULL, "%s/refs/%s", folder, sub)) return;
    DIR *d = opendir(dir.s);
    for (struct dirent *e; d && (e = readdir(d)) && out->n < MAX_REFS;) {
        struct stat st;
        if (e->d_name[0] == '.' ||
            !hub_path_set(&name, NULL, "%s%s%s", sub, *sub ? "/" : "", e->d_name) ||
            !hub_path_set(&path, NULL, "%s/refs/%s", folder, name.s) || stat(path.s, &st))
            continue;
        if (S_ISDIR(st.st_mode) && strlen(name.s) < 100) {
            read_refs(cache, repo, folder, name.s, out);
        } else if (strlen(name.s) < sizeof out->name[0] &&
                   hub_store_commit(cache, repo, name.s, out->commit[out->n])) {
            strcpy(out->name[out->n++], name.s);
        }
    }
    if (d) closedir(d);
}

static int main_first(const char *a, const char *b)
{
    bool x = !strcmp(a, "main"), y = !strcmp(b, "main");
    return x != y ? y - x : strcmp(a, b);
}

/* What people call a commit: main, another ref, or by itself. */
static const char *best_ref(const refs *r, const char *commit)
{
    const char *best = NULL;
    for (size_t i = 0; i < r->n; i++)
        if (!strcmp(r->commit[i], commit) && (!best || main_first(r->name[i], best) < 0))
            best = r->name[i];
    return best ? best : commit;
}

static bool add_repo(const char *cache, const char *repo, hub_entries *out, apus_diag *why)
{
    hub_path folder, snapshots;
    refs *r = calloc(1, sizeof *r);
    bool ok = (r || hub_no_memory(why)) && hub_store_repo(&folder, cache, repo, why) &&
              hub_path_set(&snapshots, why, "%s/snapshots", folder.s);
    if (ok) read_refs(cache, repo, folder.s, "", r);
    DIR *d = ok ? opendir(snapshots.s) : NULL;
    for (struct dirent *e; ok && d && (e = readdir(d));)
        if (hub_is_commit(e->d_name))
            ok = add_snapshot(folder.s, repo, best_ref(r, e->d_name), e->d_name, out, why);
    if (d) closedir(d);
    free(r);
    return ok;
}

/* "models--org--repo" as "org/repo"; false: it is none. */
static bool repo_of_folder(const char *folder, char *repo, size_t cap)
{
    hub_name n;
    if (strncmp(folder, "models--", 8)) return false;
    const char *org = folder + 8, *gap = strstr(org, "--");
    if (!gap) return false;
    int len = snprintf(repo, cap, "%.*s/%s", (int)(gap - org), org, gap + 2);
    return len > 0 && (size_t)len < cap && hub_name_parse(repo, &n) && !strcmp(n.repo, repo);
}

bool hub_cached(const char *cache, const char *repo, hub_entries *out, apus_diag *why)
{
    char name[200];
    *out = (hub_entries){0};
    bool ok = true;
    DIR *d = opendir(cache);
    if (!d && errno != ENOENT) return hub_fail(why, "%s: %s", cache, strerror(errno));
    for (struct dirent *e; ok && d && (e = readdir(d));)
        if (repo_of_folder(e->d_name, name, sizeof name) && (!repo || !strcmp(repo, name)))
            ok = add_repo(cache, name, out, why);
    if (d) closedir(d);
    if (ok && out->n) qsort(out->item, out->n, sizeof *out->item, by_name);
    if (!ok) hub_entries_free(out);
    return ok;
}

bool hub_means(const hub_name *name, const hub_entry *e)
{
    if (!*name->which) return true;
    if (!e->file) return false;
    return name->exact ? !strcmp(e->file, name->which) : apus_gguf_fits(e->file, name->which);
}

bool hub_has(const char *cache, const hub_name *name)
{
    hub_entries all;
    char commit[41];
    bool found = false;
    if (!hub_store_commit(cache, name->repo, name->rev, commit)) return false;
    if (!hub_cached(cache, name->repo, &all, NULL)) return false;
    for (size_t i = 0; i < all.n; i++) {
        const hub_entry *e = &all.item[i];
        if (hub_means(name, e) && e->complete && !strcmp(e->commit, commit)) found = true;
    }
    hub_entries_free(&all);
    return found;
}
