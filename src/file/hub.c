#include "file/hub.h"

#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/str.h"

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

typedef struct repo_name {
    const char *org, *repo; /* org may be absent: NULL */
    size_t org_len, repo_len;
    const char *rev; /* "main" if not given */
    bool rev_given;
} repo_name;

static bool parse_name(const char *name, repo_name *r)
{
    const char *at = strchr(name, '@');
    size_t n = at ? (size_t)(at - name) : strlen(name);
    const char *slash = memchr(name, '/', n);
    r->org = slash ? name : NULL;
    r->org_len = slash ? (size_t)(slash - name) : 0;
    r->repo = slash ? slash + 1 : name;
    r->repo_len = n - (size_t)(r->repo - name);
    r->rev = at ? at + 1 : "main";
    r->rev_given = at != NULL;
    return slash && plain_part(r->org, r->org_len) && plain_part(r->repo, r->repo_len) &&
           strlen(r->rev) <= 200 && plain_rev(r->rev);
}

/* ---------------------------------------------------------------- paths */

/* A path that exists: the folder itself, or the folder of a model's file. */
static apus_err resolve_path(const char *name, char **dir, apus_diag *diag)
{
    if (ap_path_is_dir(name) || ap_ends_with(name, ".gguf")) {
        *dir = ap_strdup(name);
    } else if (ap_ends_with(name, ".safetensors") || ap_ends_with(name, "config.json") ||
               ap_ends_with(name, ".safetensors.index.json")) {
        const char *slash = strrchr(name, '/');
        *dir = !slash ? ap_strdup(".") : slash == name ? ap_strdup("/")
               : ap_strndup(name, (size_t)(slash - name));
    } else {
        return ap_fail(diag, APUS_EFILE,
                       "%s: expected a model folder, a config.json or *.safetensors file in it, or a *.gguf file",
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
    if (is_sha(text, len)) memcpy(sha, text, 40);
    else err = ap_fail(diag, APUS_EFORMAT, "%s: expected a commit of 40 hexadecimal digits", path);
    sha[40] = 0;
    ap_free(text);
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
    if (ap_path_exists(ref.data)) err = read_ref(ref.data, sha, diag);
    else if (is_sha(r->rev, strlen(r->rev))) memcpy(sha, r->rev, 41);
    else
        err = ap_fail(
            diag, APUS_EFILE,
            "%s: the hub cache has no revision \"%s\": no file %s, and it is no full commit", name,
            r->rev, ref.data);
    if (err) goto done;
    ap_buf_addf(&snap, "%s/snapshots/%s", repo.data, sha);
    if (snap.failed) err = ap_fail_nomem(diag, 1024, "the model's path");
    else if (!ap_path_is_dir(snap.data))
        err = ap_fail(diag, APUS_EFILE, "%s: the hub cache has no snapshot %s", name, snap.data);
    if (!err) {
        *dir = snap.data;
        snap = (ap_buf){0};
    }
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
    if (!parse_name(name, &r))
        return ap_fail(diag, APUS_EFILE,
                       "%s: no such file or folder, and not a name of the form org/repo or "
                       "org/repo@revision",
                       name);
    if (!cache || !*cache)
        return ap_fail(diag, APUS_EFILE,
                       "%s: no such file or folder, and no hub cache is set to look in", name);
    return resolve_repo(&r, name, cache, dir, diag);
}
