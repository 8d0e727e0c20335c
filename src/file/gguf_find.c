#include "file/gguf_find.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apus/apus_unstable.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/str.h"

enum { MAX_FILES = 4096, MAX_LISTED = 12 };

typedef struct found {
    char **name; /* below the folder */
    size_t n, cap;
} found;

static void free_found(found *f)
{
    for (size_t i = 0; i < f->n; i++) ap_free(f->name[i]);
    ap_free(f->name);
}

/* Number of the part that a name ends in, -NNNNN-of-NNNNN.gguf; 1 for others. *stem: bytes before that. */
static int part_no(const char *name, size_t *stem)
{
    static const char form[] = "-00001-of-00001.gguf";
    size_t n = strlen(name), tail = sizeof form - 1;
    int no, of, used = 0;
    *stem = n - strlen(".gguf");
    if (n <= tail || sscanf(name + n - tail, "-%5d-of-%5d.gguf%n", &no, &of, &used) != 2 ||
        used != (int)tail)
        return 1;
    *stem = n - tail;
    return no;
}

/* name: of a file, without folders */
static bool is_model(const char *name)
{
    size_t stem;
    return name[0] != '.' && ap_ends_with(name, ".gguf") && !strstr(name, "mmproj") &&
           !strstr(name, "imatrix") && part_no(name, &stem) == 1;
}

static bool keep(found *f, const char *sub, const char *name)
{
    if (f->n == MAX_FILES) return true;
    if (f->n == f->cap) {
        size_t cap = f->cap ? f->cap * 2 : 16;
        char **p = ap_realloc(f->name, cap, sizeof *p);
        if (!p) return false;
        f->name = p;
        f->cap = cap;
    }
    char *s = *sub ? ap_path_join(sub, name) : ap_strdup(name);
    if (s) f->name[f->n++] = s;
    return s != NULL;
}

/* A folder that may not be listed holds nothing. */
static apus_err list(const char *dir, const char *sub, found *f, apus_diag *diag)
{
    DIR *d = NULL;
    bool room = true;
    char *path = *sub ? ap_path_join(dir, sub) : ap_strdup(dir);
    apus_err err = path ? ap_folder_list(path, &d, diag) : APUS_OK;
    for (struct dirent *e; room && !err && d && (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        char *full = ap_path_join(path, e->d_name);
        if (!full)
            room = false;
        else if (is_model(e->d_name) && ap_path_exists(full) && !ap_path_is_dir(full))
            room = keep(f, sub, e->d_name);
        else if (!*sub && ap_path_is_dir(full))
            err = list(dir, e->d_name, f, diag);
        ap_free(full);
    }
    if (d) closedir(d);
    if (!path || !room) err = ap_fail_nomem(diag, strlen(dir), "a list of files");
    ap_free(path);
    return err;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Does `type` stand in s[0, n) as a word of its own? Types have underscores inside, so after it one more
 * would make it another type. */
static bool has_type(const char *s, size_t n, const char *type)
{
    size_t len = strlen(type);
    for (size_t i = 0; len && i + len <= n; i++) {
        size_t k = 0;
        while (k < len && toupper((unsigned char)s[i + k]) == toupper((unsigned char)type[k])) k++;
        bool begins = i == 0 || strchr("-._", s[i - 1]);
        bool ends = i + len == n || strchr("-.", s[i + len]);
        if (k == len && begins && ends) return true;
    }
    return false;
}

static bool fits(const char *name, const char *which)
{
    const char *slash = strrchr(name, '/'), *base = slash ? slash + 1 : name;
    size_t stem;
    if (!which) return true;
    if (ap_ends_with(which, ".gguf")) return !strcmp(name, which) || !strcmp(base, which);
    part_no(base, &stem);
    return has_type(base, stem, which) || (slash && has_type(name, (size_t)(slash - name), which));
}

bool apus_gguf_fits(const char *name, const char *which)
{
    const char *slash = name ? strrchr(name, '/') : NULL;
    return name && is_model(slash ? slash + 1 : name) && fits(name, which);
}

static apus_err refuse(const found *f, const char *which, const char *name, apus_diag *diag)
{
    ap_buf names = {0};
    size_t fit = 0;
    for (size_t i = 0; i < f->n; i++) fit += fits(f->name[i], which);
    for (size_t i = 0, listed = 0; i < f->n; i++) {
        if (fit && !fits(f->name[i], which)) continue;
        if (listed++ == MAX_LISTED)
            ap_buf_addf(&names, " and %zu more", (fit ? fit : f->n) - MAX_LISTED);
        if (listed <= MAX_LISTED) ap_buf_addf(&names, "%s%s", listed > 1 ? ", " : "", f->name[i]);
    }
    const char *all = names.data ? names.data : "";
    apus_err err;
    if (!f->n)
        err = ap_fail(diag, APUS_EFILE, "%s: no GGUF file here", name);
    else if (fit)
        err = ap_fail(diag, APUS_EFILE, "%s: %zu GGUF files%s%s fit, name one of them: %s", name,
                      fit, which ? " of type " : "", which ? which : "", all);
    else
        err = ap_fail(diag, APUS_EFILE, "%s: no GGUF file for \"%.60s\" here; there is: %s", name,
                      which, all);
    ap_buf_free(&names);
    return err;
}

apus_err ap_gguf_find_in(const char *dir, const char *which, const char *name, char **path,
                         apus_diag *diag)
{
    found f = {0};
    const char *hit = NULL;
    size_t n = 0;
    *path = NULL;
    apus_err err = list(dir, "", &f, diag);
    if (err) {
        free_found(&f);
        return err;
    }
    if (f.n) qsort(f.name, f.n, sizeof *f.name, by_text);
    for (size_t i = 0; i < f.n; i++)
        if (fits(f.name[i], which)) {
            hit = f.name[i];
            n++;
        }
    if (n == 1) {
        *path = ap_path_join(dir, hit);
        if (!*path) err = ap_fail_nomem(diag, strlen(dir), "a path");
    } else if (which || f.n) {
        err = refuse(&f, which, name, diag);
    }
    free_found(&f);
    return err;
}
