#include "serve_list.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "apus/apus_unstable.h"
#include "common.h"
#include "fetching.h"
#include "models.h"
#include "report.h"

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcmp(s + n - m, end);
}

/* The last part of a path, without what says how it is stored. */
static char *name_of(const char *model)
{
    if (!model) return strdup("tiny-qwen");
    size_t n = strlen(model);
    while (n > 1 && model[n - 1] == '/') n--;
    size_t from = n;
    while (from && model[from - 1] != '/') from--;
    char *name = strndup(model + from, n - from);
    if (name && strlen(name) > 5 && ends_with(name, ".gguf")) name[strlen(name) - 5] = 0;
    return name;
}

int serve_list_add(const command *c, serve_list *l, const char *name, const char *source)
{
    if (l->n == l->cap) {
        int cap = l->cap ? l->cap * 2 : 8;
        sv_entry *p = realloc(l->item, (size_t)cap * sizeof *p);
        if (!p) return fail(c, "out of memory");
        l->item = p;
        l->cap = cap;
    }
    sv_entry e = {.name = name ? strdup(name) : name_of(source),
                  .source = source ? strdup(source) : NULL};
    if (!e.name || (source && !e.source)) return fail(c, "out of memory");
    for (int i = 0; i < l->n; i++)
        if (!strcmp(l->item[i].name, e.name))
            return fail(c, "two models are called %s: %s and %s; --models FILE gives them names",
                        e.name, l->item[i].source ? l->item[i].source : "the built-in one",
                        source ? source : "the built-in one");
    if (source && strcmp(source, e.name)) e.aliases.item[e.aliases.n++] = e.source;
    l->item[l->n++] = e;
    return -1;
}

/* ---------------------------------------------------------------- --models */

static char *trim(char *s)
{
    while (*s == ' ' || *s == '\t') s++;
    size_t n = strlen(s);
    while (n && strchr(" \t\r\n", s[n - 1])) s[--n] = 0;
    return s;
}

static int read_line(const command *c, serve_list *l, const char *path, char *line, int no)
{
    char *equals = strchr(line, '='), *name = NULL;
    if (equals) {
        *equals = 0;
        name = trim(line);
        line = equals + 1;
    }
    line = trim(line);
    if ((name && !*name) || !*line)
        return fail(c, "--models %s: line %d: expected MODEL or NAME = MODEL", path, no);
    return serve_list_add(c, l, name, line);
}

static int read_file(const command *c, serve_list *l, const char *path)
{
    char line[4096];
    int rc = -1;
    FILE *f = fopen(path, "re");
    if (!f) return fail(c, "--models %s: %s", path, strerror(errno));
    for (int no = 1; rc < 0 && fgets(line, sizeof line, f); no++) {
        line[strcspn(line, "#")] = 0;
        if (*trim(line)) rc = read_line(c, l, path, line, no);
    }
    fclose(f);
    return rc;
}

static int by_text(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int read_folder(const command *c, serve_list *l, const char *path)
{
    struct dirent **list;
    char file[4096];
    int rc = -1, n = scandir(path, &list, NULL, by_text);
    if (n < 0) return fail(c, "--models %s: %s", path, strerror(errno));
    for (int i = 0; i < n; i++) {
        const char *name = list[i]->d_name;
        int len = snprintf(file, sizeof file, "%s/%s/config.json", path, name);
        bool whole = len > 0 && (size_t)len < sizeof file && name[0] != '.';
        bool model = whole && (apus_gguf_fits(name, NULL) || access(file, R_OK) == 0);
        if (whole) file[len - (int)strlen("/config.json")] = 0;
        if (rc < 0 && model) rc = serve_list_add(c, l, NULL, file);
        free(list[i]);
    }
    free(list);
    return rc;
}

int serve_list_read(const command *c, serve_list *l, const char *path)
{
    struct stat st;
    int before = l->n;
    if (stat(path, &st)) return fail(c, "--models %s: %s", path, strerror(errno));
    int rc = S_ISDIR(st.st_mode) ? read_folder(c, l, path) : read_file(c, l, path);
    if (rc < 0 && l->n == before) rc = fail(c, "--models %s: there is no model in it", path);
    return rc;
}

/* ---------------------------------------------------------------- looking at them */

static int inspect(const command *c, sv_entry *e)
{
    apus_model *m;
    apus_info i = {.size = sizeof i};
    apus_diag d;
    int rc = fetch_if_missing(c, e->source);
    if (rc < 0) rc = open_model(c, e->source, APUS_LOAD_INFO, &m);
    if (rc >= 0) return rc;
    if (apus_model_info(m, &i, &d))
        rc = report(c, &d);
    else
        sv_facts_learn(&e->facts, &i);
    apus_model_close(m);
    return rc;
}

int serve_list_inspect(const command *c, serve_list *l, int named)
{
    int kept = 0;
    for (int i = 0; i < l->n; i++) {
        int rc = inspect(c, &l->item[i]);
        if (rc >= 0 && i < named) return rc;
        if (rc < 0) {
            l->item[kept++] = l->item[i];
            continue;
        }
        free((char *)l->item[i].name); /* both are of serve_list_add */
        free((char *)l->item[i].source);
    }
    l->n = kept;
    return kept ? -1 : fail(c, "none of the models can be opened");
}
