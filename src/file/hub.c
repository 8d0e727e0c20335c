#include "file/hub.h"

#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/str.h"
#include "file/gguf_find.h"
#include "file/weights.h"

/* ---------------------------------------------------------------- names */

/* One component of a repository name: what the hub allows, and nothing a path could abuse. */
static bool plain_part(const char *s, size_t n)
{
    if (n == 0 || n > 96 || s[0] == '.' || s[0] == '-') return false;
    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        bool ok = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '-' || c == '_' || c == '.';
        if (!ok || (c == '.' && i && s[i - 1] == '.')) return false;
    }
    return true;
}

/* A branch or tag may have slashes; each part must be plain. */
static bool plain_rev(const char *s)
{
    for (;;) {
        size_t n = strcspn(s, "/");
        if (!plain_part(s, n)) return false;
        if (!s[n]) return true;
        s += n + 1;
    }
}

static bool is_sha(const char *s, size_t n)
{
    if (n != 40) return false;
    for (size_t i = 0; i < n; i++)
        if (!((s[i] >= '0' && s[i] <= '9') || (s[i] >= 'a' && s[i] <= 'f'))) return false;
    return true;
}

/* org/repo[/path/FILE.gguf][@rev][:which], or with @rev at the end */
typedef struct repo_name {
    const char *org, *repo;
    size_t org_len, repo_len;
    char rev[201];    /* "main" if not given */
    const char *file; /* below the repository; NULL: none */
    size_t file_len;
    const char *which; /* behind the colon; NULL: none */
    char which_text[301];
} repo_name;

/* Plain parts with slashes between them. */
static bool plain_path(const char *s, size_t n)
{
    for (size_t i = 0; i <= n;) {
        const char *slash = memchr(s + i, '/', n - i);
        size_t part = slash ? (size_t)(slash - s) - i : n - i;
        if (!plain_part(s + i, part)) return false;
        i += part + 1;
    }
    return true;
}

/* Takes what stands behind the first `mark` off the text s[0, *n); NULL: there is none. */
static const char *cut(const char *s, size_t *n, char mark, size_t *len)
{
    const char *at = memchr(s, mark, *n);
    if (!at) return NULL;
    *len = *n - (size_t)(at + 1 - s);
    *n = (size_t)(at - s);
    return at + 1;
}

static bool parse_name(const char *name, repo_name *r)
{
    memset(r, 0, sizeof *r);
    size_t n = strlen(name), rev_len = 4, which_len = 0;
    const char *which = cut(name, &n, ':', &which_len);
    const char *rev = which ? cut(which, &which_len, '@', &rev_len) : NULL;
    if (!rev) rev = cut(name, &n, '@', &rev_len);
    if (!rev) rev = "main";
    if (which) {
        if (which_len == 0 || which_len >= sizeof r->which_text) return false;
        memcpy(r->which_text, which, which_len);
        r->which = r->which_text;
    }
    const char *slash = memchr(name, '/', n);
    if (!slash || rev_len >= sizeof r->rev) return false;
    r->org = name;
    r->org_len = (size_t)(slash - name);
    r->repo = slash + 1;
    r->repo_len = n - r->org_len - 1;
    const char *second = memchr(r->repo, '/', r->repo_len);
    if (second) {
        r->file = second + 1;
        r->file_len = r->repo_len - (size_t)(r->file - r->repo);
        r->repo_len = (size_t)(second - r->repo);
        if (r->which || r->file_len < 6 || memcmp(r->file + r->file_len - 5, ".gguf", 5) ||
            !plain_path(r->file, r->file_len))
            return false;
    }
    memcpy(r->rev, rev, rev_len);
    return plain_part(r->org, r->org_len) && plain_part(r->repo, r->repo_len) && plain_rev(r->rev);
}

/* ---------------------------------------------------------------- paths */

static bool has_config(const char *dir, bool *out)
{
    char *path = ap_path_join(dir, "config.json");
    if (path) *out = ap_path_exists(path);
    ap_free(path);
    return path != NULL;
}

/* A folder, or a GGUF file in it. which NULL: the folder if it is a model itself. */
static apus_err resolve_folder(const char *folder, const char *which, const char *name, char **dir,
                               apus_diag *diag)
{
    bool config = false, weights = false;
    char *file = NULL;
    if (!has_config(folder, &config)) return ap_fail_nomem(diag, strlen(folder), "a path");
    apus_err err = ap_weights_present(folder, &weights, diag);
    if (!err && (which || !config || !weights))
        err = ap_gguf_find_in(folder, which, name, &file, diag);
    if (err) return err;
    *dir = file ? file : ap_strdup(folder);
    return *dir ? APUS_OK : ap_fail_nomem(diag, strlen(folder), "the model's path");
}

/* FOLDER:TYPE. */
static apus_err resolve_part_of_folder(const char *name, char **dir, bool *found, apus_diag *diag)
{
    const char *colon = strrchr(name, ':');
    *found = false;
    if (!colon || colon == name || !colon[1]) return APUS_OK;
    char *folder = ap_strndup(name, (size_t)(colon - name));
    if (!folder) return ap_fail_nomem(diag, strlen(name), "the model's path");
    *found = ap_path_is_dir(folder);
    apus_err err = *found ? resolve_folder(folder, colon + 1, name, dir, diag) : APUS_OK;
    ap_free(folder);
    return err;
}

/* A path that exists: a folder, or the folder of a model's file. */
static apus_err resolve_path(const char *name, char **dir, apus_diag *diag)
{
    if (ap_path_is_dir(name)) return resolve_folder(name, NULL, name, dir, diag);
    if (ap_ends_with(name, ".gguf")) {
        *dir = ap_strdup(name);
    } else if (ap_ends_with(name, ".safetensors") || ap_ends_with(name, "config.json") ||
               ap_ends_with(name, ".safetensors.index.json")) {
        const char *slash = strrchr(name, '/');
        *dir = !slash          ? ap_strdup(".")
               : slash == name ? ap_strdup("/")
                               : ap_strndup(name, (size_t)(slash - name));
    } else {
        return ap_fail(diag, APUS_EFILE,
                       "%s: expected a model folder, a config.json or *.safetensors file in it, or "
                       "a *.gguf file",
                       name);
    }
    return *dir ? APUS_OK : ap_fail_nomem(diag, strlen(name), "the model's path");
}

/* Snapshot that a branch or tag names: the text of refs/<rev>. */
static apus_err read_ref(const char *path, char sha[41], apus_diag *diag)
{
    char *text;
    size_t len;
    apus_err err = ap_file_read(path, 4096, &text, &len, diag);
    if (err) return err;
    while (len && (text[len - 1] == '\n' || text[len - 1] == '\r' || text[len - 1] == ' ')) len--;
    if (is_sha(text, len))
        memcpy(sha, text, 40);
    else
        err = ap_fail(diag, APUS_EFORMAT, "%s: expected a commit of 40 hexadecimal digits", path);
    sha[40] = 0;
    ap_free(text);
    return err;
}

/* What is meant in a snapshot of a repository. */
static apus_err resolve_snapshot(const repo_name *r, const char *snap, const char *name, char **dir,
                                 apus_diag *diag)
{
    if (!r->file) return resolve_folder(snap, r->which, name, dir, diag);
    char *file = ap_strndup(r->file, r->file_len), *path = file ? ap_path_join(snap, file) : NULL;
    apus_err err = APUS_OK;
    if (!path) {
        err = ap_fail_nomem(diag, strlen(name), "the model's path");
    } else if (ap_path_exists(path)) {
        *dir = path;
        path = NULL;
    } else {
        err = ap_gguf_find_in(snap, file, name, dir,
                              diag); /* elsewhere in it, or the list of what is there */
    }
    ap_free(file);
    ap_free(path);
    return err;
}

static apus_err resolve_repo(const repo_name *r, const char *name, const char *cache, char **dir,
                             apus_diag *diag)
{
    apus_err err = APUS_OK;
    char sha[41] = "";
    ap_buf repo = {0}, ref = {0}, snap = {0};
    ap_buf_addf(&repo, "%s/models--%.*s--%.*s", cache, (int)r->org_len, r->org, (int)r->repo_len,
                r->repo);
    ap_buf_addf(&ref, "%s/refs/%s", repo.data ? repo.data : "", r->rev);
    if (repo.failed || ref.failed) {
        err = ap_fail_nomem(diag, 1024, "the model's path");
        goto done;
    }
    if (!ap_path_is_dir(repo.data)) {
        err = ap_fail(diag, APUS_EFILE, "%s: no such path, and the hub cache has no folder %s",
                      name, repo.data);
        goto done;
    }
    if (ap_path_exists(ref.data))
        err = read_ref(ref.data, sha, diag);
    else if (is_sha(r->rev, strlen(r->rev)))
        memcpy(sha, r->rev, 41);
    else
        err = ap_fail(
            diag, APUS_EFILE,
            "%s: the hub cache has no revision \"%s\": no file %s, and it is no full commit", name,
            r->rev, ref.data);
    if (err) goto done;
    ap_buf_addf(&snap, "%s/snapshots/%s", repo.data, sha);
    if (snap.failed)
        err = ap_fail_nomem(diag, 1024, "the model's path");
    else if (!ap_path_is_dir(snap.data))
        err = ap_fail(diag, APUS_EFILE, "%s: the hub cache has no snapshot %s", name, snap.data);
    if (!err) err = resolve_snapshot(r, snap.data, name, dir, diag);
done:
    ap_buf_free(&repo);
    ap_buf_free(&ref);
    ap_buf_free(&snap);
    return err;
}

apus_err ap_hub_resolve(const char *name, const char *cache, char **dir, apus_diag *diag)
{
    repo_name r;
    if (!name || !*name) return ap_fail(diag, APUS_EINVAL, "no model name given");
    if (ap_path_exists(name)) return resolve_path(name, dir, diag);
    bool found;
    apus_err err = resolve_part_of_folder(name, dir, &found, diag);
    if (err || found) return err;
    if (!parse_name(name, &r))
        return ap_fail(diag, APUS_EFILE,
                       "%s: no such file or folder, and not a name of the form org/repo or "
                       "org/repo@revision, with :TYPE or /FILE.gguf behind it for a GGUF file",
                       name);
    if (!cache || !*cache)
        return ap_fail(diag, APUS_EFILE,
                       "%s: no such file or folder, and no hub cache is set to look in", name);
    return resolve_repo(&r, name, cache, dir, diag);
}
