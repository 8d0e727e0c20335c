/* choose.c - which files of a repository a model needs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apus/apus_unstable.h"
#include "files.h"
#include "name.h"
#include "walk.h"

#define INDEX "model.safetensors.index.json"

static bool in_root(const char *name)
{
    return !strchr(name, '/');
}

/* ---------------------------------------------------------------- safetensors */

/* What apus, and whoever reads the folder after it, wants besides weights. */
static bool is_beside(const char *name)
{
    if (!strncmp(name, "additional_chat_templates/", 26)) return hub_ends_with(name, ".jinja");
    if (!in_root(name) || name[0] == '.') return false;
    if (hub_ends_with(name, ".index.json")) return !strcmp(name, INDEX);
    return hub_ends_with(name, ".json") || hub_ends_with(name, ".jinja") ||
           !strcmp(name, "merges.txt") || !strcmp(name, "vocab.txt") ||
           !strcmp(name, "tokenizer.model");
}

static void choose_safetensors(hub_files *f, const hub_file **index)
{
    bool single = hub_files_find(f, "model.safetensors") != NULL;
    *index = single ? NULL : hub_files_find(f, INDEX);
    for (size_t i = 0; i < f->n; i++) {
        hub_file *file = &f->item[i];
        bool weights = in_root(file->name) && hub_ends_with(file->name, ".safetensors");
        if (single) weights = !strcmp(file->name, "model.safetensors");
        file->wanted = is_beside(file->name) || (weights && !*index);
        if (single && !strcmp(file->name, INDEX)) file->wanted = false;
    }
}

typedef struct shards {
    hub_files *files;
    const char *repo;
} shards;

static bool on_shard(void *ctx, const hub_json *v, apus_diag *why)
{
    shards *s = ctx;
    char name[1024];
    if (strncmp(v->path, "weight_map/", 11) || v->type != HUB_JSON_STRING) return true;
    hub_file *file = hub_json_copy(v, name, sizeof name) ? hub_files_find(s->files, name) : NULL;
    if (!file)
        return hub_fail(why, "%s: " INDEX " names %.*s, which is not in the repository", s->repo,
                        (int)(v->len < 200 ? v->len : 200), v->text);
    file->wanted = true;
    return true;
}

bool hub_files_want_shards(hub_files *f, const char *text, size_t len, const char *repo,
                           apus_diag *why)
{
    shards s = {f, repo};
    char name[300];
    snprintf(name, sizeof name, "%s: " INDEX, repo);
    return hub_json_walk(text, len, name, on_shard, &s, why);
}

/* ---------------------------------------------------------------- GGUF */

static size_t count(const hub_files *f, const char *which)
{
    size_t n = 0;
    for (size_t i = 0; i < f->n; i++) n += apus_gguf_fits(f->item[i].name, which);
    return n;
}

/* "Q4_K_M, Q8_0": what may stand behind the colon. */
static void list_types(const hub_files *f, char *out, size_t cap)
{
    size_t at = 0;
    *out = 0;
    for (size_t i = 0; i < f->n && at < cap; i++) {
        char type[64];
        if (!apus_gguf_fits(f->item[i].name, NULL)) continue;
        hub_type_of(f->item[i].name, type);
        const char *s = count(f, *type ? type : NULL) == 1 && *type ? type : f->item[i].name;
        at += (size_t)snprintf(out + at, cap - at, "%s%s", at ? ", " : "", s);
    }
}

static bool refuse(const hub_files *f, const char *repo, const char *which, size_t n,
                   apus_diag *why)
{
    char all[700];
    list_types(f, all, sizeof all);
    if (!*all) return hub_fail(why, "%s: there is no GGUF file in the repository", repo);
    if (*which)
        return hub_fail(why, "%s: %s for \"%.60s\" in the repository; there is: %s", repo,
                        n ? "several GGUF files" : "no GGUF file", which, all);
    return hub_fail(why, "%s: several GGUF files; name one, such as %s:Q8_0; there is: %s", repo,
                    repo, all);
}

/* The projector that goes with a model: of several the one that loses nothing that matters. */
static void want_projector(hub_files *f)
{
    static const char *const best[] = {"BF16", "F16", "F32", NULL};
    hub_file *first = NULL;
    for (size_t k = 0; k < sizeof best / sizeof *best; k++)
        for (size_t i = 0; i < f->n; i++) {
            char type[64];
            hub_file *file = &f->item[i];
            if (!strstr(file->name, "mmproj") || !hub_ends_with(file->name, ".gguf")) continue;
            hub_type_of(file->name, type);
            if (!first) first = file;
            if (best[k] && strcasecmp(type, best[k])) continue;
            (best[k] ? file : first)->wanted = true;
            return;
        }
}

static void want_parts(hub_files *f, const hub_file *model)
{
    hub_part p = hub_part_of(model->name);
    for (size_t i = 0; i < f->n; i++) {
        hub_part q = hub_part_of(f->item[i].name);
        if (hub_ends_with(f->item[i].name, ".gguf") && q.of == p.of && q.stem == p.stem &&
            !strncmp(f->item[i].name, model->name, p.stem) && (p.of > 1 || &f->item[i] == model))
            f->item[i].wanted = true;
    }
}

static bool want_model(hub_files *f, const char *repo, const hub_file *model, apus_diag *why)
{
    hub_part p = hub_part_of(model->name);
    int parts = 0;
    want_parts(f, model);
    for (size_t i = 0; i < f->n; i++) parts += f->item[i].wanted;
    if (parts == p.of) return true;
    return hub_fail(why, "%s: the repository has %d of the %d parts of %s", repo, parts, p.of,
                    model->name);
}

static bool choose_gguf(hub_files *f, const char *repo, const char *which, apus_diag *why)
{
    const char *type = *which ? which : NULL;
    if (!type && count(f, NULL) > 1) type = "Q4_K_M";
    /* the name of a file means that file, whatever is called so elsewhere */
    const hub_file *model = type && hub_ends_with(type, ".gguf") ? hub_files_find(f, type) : NULL;
    if (!model) {
        size_t n = count(f, type);
        if (n != 1) return refuse(f, repo, which, n, why);
        for (size_t i = 0; i < f->n; i++)
            if (apus_gguf_fits(f->item[i].name, type)) model = &f->item[i];
    }
    if (!want_model(f, repo, model, why)) return false;
    if (apus_gguf_fits(model->name, NULL)) want_projector(f);
    return true;
}

bool hub_files_choose(hub_files *f, const char *repo, const char *which, const hub_file **index,
                      apus_diag *why)
{
    bool weights = false, config = hub_files_find(f, "config.json") != NULL;
    *index = NULL;
    for (size_t i = 0; i < f->n; i++) {
        f->item[i].wanted = false;
        if (in_root(f->item[i].name) && hub_ends_with(f->item[i].name, ".safetensors"))
            weights = true;
    }
    if (!*which && weights && config) {
        choose_safetensors(f, index);
        return true;
    }
    if (!*which && !count(f, NULL))
        return hub_fail(why,
                        "%s: no model that apus reads: expected config.json and *.safetensors, or "
                        "a *.gguf file, in the repository",
                        repo);
    return choose_gguf(f, repo, which, why);
}
