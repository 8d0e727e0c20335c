#include "files.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "name.h"
#include "walk.h"

enum { MAX_FILES = 100000 };

/* ---------------------------------------------------------------- a list */

bool hub_files_add(hub_files *f, const hub_file *file, apus_diag *why)
{
    if (f->n == MAX_FILES) return hub_fail(why, "more than %d files in a repository", MAX_FILES);
    if (f->n == f->cap) {
        size_t cap = f->cap ? f->cap * 2 : 32;
        hub_file *p = realloc(f->item, cap * sizeof *p);
        if (!p) return hub_no_memory(why);
        f->item = p;
        f->cap = cap;
    }
    char *name = strdup(file->name);
    if (!name) return hub_no_memory(why);
    f->item[f->n] = *file;
    f->item[f->n++].name = name;
    return true;
}

hub_file *hub_files_find(const hub_files *f, const char *name)
{
    for (size_t i = 0; i < f->n; i++)
        if (!strcmp(f->item[i].name, name)) return &f->item[i];
    return NULL;
}

void hub_files_free(hub_files *f)
{
    for (size_t i = 0; i < f->n; i++) free(f->item[i].name);
    free(f->item);
    *f = (hub_files){0};
}

/* ---------------------------------------------------------------- from the hub */

typedef struct reading {
    hub_files *out;
    const char *repo;
    char name[1024], blob[65], sha256[72];
    uint64_t size;
    bool size_known, name_bad;
} reading;

static bool is_hash(const char *s, size_t digits)
{
    return strlen(s) == digits && strspn(s, "0123456789abcdef") == digits;
}

static bool end_of_file(reading *r, apus_diag *why)
{
    hub_file file = {.name = r->name, .size = r->size, .size_known = r->size_known};
    const char *sha = !strncmp(r->sha256, "sha256:", 7) ? r->sha256 + 7 : r->sha256;
    if (r->name_bad || !hub_path_is_safe(r->name))
        return hub_fail(why,
                        "%s: the hub lists a file called \"%.200s\", which is no name below a "
                        "folder; nothing of it is fetched",
                        r->repo, r->name);
    if (is_hash(sha, 64))
        strcpy(file.etag, sha);
    else if (!*r->sha256 && is_hash(r->blob, 40))
        strcpy(file.etag, r->blob);
    bool ok = hub_files_add(r->out, &file, why);
    r->name[0] = r->blob[0] = r->sha256[0] = 0;
    r->size_known = r->name_bad = false;
    return ok;
}

static bool on_value(void *ctx, const hub_json *v, apus_diag *why)
{
    reading *r = ctx;
    if (!strcmp(v->path, "sha")) {
        if (!hub_json_copy(v, r->out->commit, sizeof r->out->commit)) r->out->commit[0] = 0;
    } else if (!strcmp(v->path, "siblings[]/rfilename")) {
        r->name_bad = !hub_json_copy(v, r->name, sizeof r->name);
    } else if (!strcmp(v->path, "siblings[]/size") || !strcmp(v->path, "siblings[]/lfs/size")) {
        if (hub_json_size(v, &r->size)) r->size_known = true;
    } else if (!strcmp(v->path, "siblings[]/blobId")) {
        hub_json_copy(v, r->blob, sizeof r->blob);
    } else if (!strcmp(v->path, "siblings[]/lfs/sha256") ||
               !strcmp(v->path, "siblings[]/lfs/oid")) {
        hub_json_copy(v, r->sha256, sizeof r->sha256);
    } else if (!strcmp(v->path, "siblings[]") && v->type == HUB_JSON_END) {
        return end_of_file(r, why);
    }
    return true;
}

bool hub_files_read(const char *text, size_t len, const char *repo, hub_files *out, apus_diag *why)
{
    reading *r = calloc(1, sizeof *r);
    char name[300];
    if (!r) return hub_no_memory(why);
    r->out = out;
    r->repo = repo;
    snprintf(name, sizeof name, "%s: the hub's list of files", repo);
    bool ok = hub_json_walk(text, len, name, on_value, r, why);
    free(r);
    if (ok && !hub_is_commit(out->commit))
        ok = hub_fail(why, "%s: expected a commit of 40 hexadecimal digits as \"sha\"", name);
    if (!ok) hub_files_free(out);
    return ok;
}

/* ---------------------------------------------------------------- names */

bool hub_ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcmp(s + n - m, end);
}

hub_part hub_part_of(const char *name)
{
    const char *dot = strrchr(name, '.');
    size_t end = dot ? (size_t)(dot - name) : strlen(name);
    static const char form[] = "-00001-of-00001";
    hub_part p = {1, 1, end};
    int no, of, used = 0;
    if (end <= sizeof form - 1) return p;
    const char *tail = name + end - (sizeof form - 1);
    if (sscanf(tail, "-%5d-of-%5d%n", &no, &of, &used) != 2 || used != (int)sizeof form - 1)
        return p;
    if (no < 1 || of < 1 || no > of) return p;
    return (hub_part){no, of, end - (sizeof form - 1)};
}

/* Is s[0, n) what types of GGUF are called: Q4_K_M, IQ2_XXS, BF16, F32, MXFP4, TQ1_0? */
static bool is_type(const char *s, size_t n)
{
    static const char *const floats[] = {"BF16", "F16", "F32"};
    static const char *const begins[] = {"Q", "IQ", "TQ", "MXFP", "NVFP"};
    for (size_t i = 0; i < 3; i++)
        if (n == strlen(floats[i]) && !strncasecmp(s, floats[i], n)) return true;
    for (size_t i = 0; i < 5; i++) {
        size_t m = strlen(begins[i]);
        if (n > m && !strncasecmp(s, begins[i], m) && isdigit((unsigned char)s[m])) return true;
    }
    return false;
}

/* The last word of s[0, n) that is a type. */
static bool last_type(const char *s, size_t n, char out[64])
{
    while (n) {
        size_t from = n;
        while (from && !strchr("-./", s[from - 1])) from--;
        if (n - from < 64 && is_type(s + from, n - from)) {
            snprintf(out, 64, "%.*s", (int)(n - from), s + from);
            return true;
        }
        n = from ? from - 1 : 0;
    }
    return false;
}

void hub_type_of(const char *name, char out[64])
{
    out[0] = 0;
    last_type(name, hub_part_of(name).stem, out);
}
