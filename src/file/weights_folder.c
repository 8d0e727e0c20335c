/* weights_folder.c - the safetensors files of a folder: one, shards with an index (weights_index.c), or files
 * that their names tell to belong together. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "file/weights_impl.h"

/* ---------------------------------------------------------------- files without an index */

/* "model-00002-of-00003.safetensors": number and count. */
static bool part_of(const char *name, int *no, int *of)
{
    static const char form[] = "-00001-of-00001.safetensors";
    size_t n = strlen(name), tail = sizeof form - 1;
    int used = 0;
    return n > tail && sscanf(name + n - tail, "-%5d-of-%5d.safetensors%n", no, of, &used) == 2 &&
           used == (int)tail && *no >= 1 && *of >= 1;
}

/* Files that say how many they are must all be here. */
static apus_err check_set(const ap_weights *w, apus_diag *diag)
{
    int no, of, count = 0, have = 0;
    for (size_t i = 0; i < w->n_shards; i++) {
        if (!part_of(w->shard[i].name, &no, &of)) continue;
        if (count && of != count)
            return ap_fail(diag, APUS_EFILE,
                           "%s: %s is one of %d files, others are of %d, and no "
                           "model.safetensors.index.json tells which belong together",
                           w->dir, w->shard[i].name, of, count);
        count = of;
        have++;
    }
    if (have == count) return APUS_OK;
    return ap_fail(diag, APUS_EFILE,
                   "%s: %d of %d files of weights are here, as their names tell; fetch the others",
                   w->dir, have, count);
}

/* Without index: the files that begin as the usual names do, or the only one. */
static bool is_usual(const char *name)
{
    return !strncmp(name, "model", 5) || !strncmp(name, "weights.", 8);
}

static apus_err add_matching(ap_weights *w, bool usual, apus_diag *diag)
{
    DIR *d;
    apus_err err = ap_folder_list(w->dir, &d, diag);
    if (err) return err;
    if (!d) return ap_fail(diag, APUS_EFILE, "%s: cannot be opened as a folder", w->dir);
    for (struct dirent *e; !err && (e = readdir(d));) {
        if (e->d_name[0] == '.' || !ap_ends_with(e->d_name, ".safetensors")) continue;
        if (usual && !is_usual(e->d_name)) continue;
        err = w->n_shards == AP_MAX_SHARDS
                  ? ap_fail(diag, APUS_EFORMAT, "%s: more than %d files", w->dir, AP_MAX_SHARDS)
                  : ap_weights_add_shard(w, e->d_name, diag);
    }
    closedir(d);
    return err;
}

static void drop_shards(ap_weights *w)
{
    while (w->n_shards) ap_free(w->shard[--w->n_shards].path);
}

static apus_err no_weights(const ap_weights *w, const char *first_absent, apus_diag *diag)
{
    if (!first_absent)
        return ap_fail(diag, APUS_EFILE,
                       "%s: no weights: expected model.safetensors or model.safetensors.index.json",
                       w->dir);
    return ap_fail(
        diag, APUS_EFILE,
        "%s: no weights: none of the files that model.safetensors.index.json names is here, "
        "such as %s; fetch them",
        w->dir, first_absent);
}

/* first_absent: a file that an index names although none of its files is here; NULL: there is no index. */
static apus_err add_files(ap_weights *w, const char *first_absent, ap_notes *notes, apus_diag *diag)
{
    apus_err err = add_matching(w, false, diag);
    size_t all = w->n_shards;
    if (!err && all == 0) return no_weights(w, first_absent, diag);
    if (!err && all > 1) {
        drop_shards(w);
        err = add_matching(w, true, diag);
        if (!err && w->n_shards == 0 && first_absent) return no_weights(w, first_absent, diag);
        if (!err && w->n_shards == 0)
            return ap_fail(diag, APUS_EFILE,
                           "%s: %zu *.safetensors files, but no model.safetensors.index.json that "
                           "tells which belong together",
                           w->dir, all);
    }
    if (!err) err = check_set(w, diag);
    if (!err && first_absent)
        ap_note(
            notes,
            "%s: none of the files that model.safetensors.index.json names is here, such as %s; "
            "the weights are those of %s%s",
            w->dir, first_absent, w->shard[0].name, w->n_shards > 1 ? " and others" : "");
    else if (!err && w->n_shards > 1)
        ap_note(notes, "%s: there is no model.safetensors.index.json; %zu files are taken together",
                w->dir, w->n_shards);
    return err;
}

/* ---------------------------------------------------------------- a file of its own for the draft head */

static bool has_shard(const ap_weights *w, const char *name)
{
    for (size_t i = 0; i < w->n_shards; i++)
        if (!strcmp(w->shard[i].name, name)) return true;
    return false;
}

/* "mtp.safetensors", "model_mtp.safetensors" and the like stand beside the files that the index names. */
static apus_err add_head(ap_weights *w, apus_diag *diag)
{
    DIR *d;
    apus_err err = ap_folder_list(w->dir, &d, diag);
    if (!d) return err;
    for (struct dirent *e; !err && (e = readdir(d));) {
        if (e->d_name[0] == '.' || !ap_ends_with(e->d_name, ".safetensors") ||
            !strstr(e->d_name, "mtp") || has_shard(w, e->d_name))
            continue;
        if (w->n_shards == AP_MAX_SHARDS) break;
        err = ap_weights_add_shard(w, e->d_name, diag);
        if (!err) w->shard[w->n_shards - 1].beside = true;
    }
    closedir(d);
    return err;
}

static bool is_head(const char *name)
{
    return !strncmp(name, "mtp.", 4) || strstr(name, ".mtp.");
}

/* Do the model's own files have it? What stands beside them is then a copy, or another one. */
static bool has_head(const ap_weights *w)
{
    for (size_t i = 0; i < w->n_shards; i++)
        for (size_t k = 0; !w->shard[i].beside && k < w->shard[i].st.n; k++)
            if (is_head(w->shard[i].st.entry[k].name)) return true;
    return false;
}

/* ---------------------------------------------------------------- opening */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const ap_shard *)a)->name, ((const ap_shard *)b)->name);
}

static apus_err open_shards(ap_weights *w, apus_diag *diag)
{
    qsort(w->shard, w->n_shards, sizeof *w->shard, by_name);
    size_t n = 0;
    for (size_t i = 0; i < w->n_shards; i++) {
        apus_err err = ap_safetensors_open(w->shard[i].path, &w->shard[i].st, diag);
        if (err) return err;
        n += w->shard[i].st.n;
    }
    w->item = ap_malloc(n, sizeof *w->item);
    if (!w->item) return ap_fail_nomem(diag, n * sizeof *w->item, "the tensor list");
    bool whole = has_head(w);
    for (size_t i = 0; i < w->n_shards; i++) {
        for (size_t k = 0; k < w->shard[i].st.n; k++) {
            const ap_st_entry *e = &w->shard[i].st.entry[k];
            if (w->shard[i].beside && (whole || !is_head(e->name))) continue;
            apus_err err = ap_weights_add_item(w, e->name, e->name_len, &e->tensor, i, diag);
            if (err) return err;
        }
    }
    return ap_weights_index(w, diag);
}

apus_err ap_weights_open(const char *dir, ap_weights **out, ap_notes *notes, apus_diag *diag)
{
    apus_err err;
    ap_index_reader x = {.diag = diag};
    char *single = ap_path_join(dir, "model.safetensors");
    char *index = ap_path_join(dir, "model.safetensors.index.json");
    ap_weights *w = x.w = ap_calloc(1, sizeof *w);
    ap_arena_init(&x.arena, 0);
    if (w) ap_arena_init(&w->arena, 0);
    if (w) w->dir = ap_strdup(dir);
    if (!w || !w->dir || !single || !index) {
        err = ap_fail_nomem(diag, sizeof *w, "the weights");
        goto done;
    }
    bool indexed = !ap_path_exists(single) && ap_path_exists(index);
    if (indexed)
        err = ap_weights_read_index(&x, index);
    else if (ap_path_exists(single))
        err = ap_weights_add_shard(w, "model.safetensors", diag);
    else
        err = add_files(w, NULL, notes, diag);
    indexed = indexed && w->n_shards;
    if (!err && !w->n_shards) err = add_files(w, x.first_absent, notes, diag);
    if (!err) err = add_head(w, diag);
    if (!err) err = open_shards(w, diag);
    if (!err && indexed) err = ap_weights_note_absent(&x);
    if (!err) err = ap_weights_find_prefix(w, diag);
    if (!err) {
        *out = w;
        w = NULL;
    }
done:
    ap_weights_close(w);
    ap_names_free(&x.tensors);
    ap_names_free(&x.shards);
    ap_arena_free(&x.arena);
    ap_free(single);
    ap_free(index);
    return err;
}

apus_err ap_weights_present(const char *dir, bool *present, apus_diag *diag)
{
    DIR *d;
    apus_err err = ap_folder_list(dir, &d, diag);
    *present = !d && ap_path_is_dir(dir);
    for (struct dirent *e; d && !*present && (e = readdir(d));)
        *present = e->d_name[0] != '.' && ap_ends_with(e->d_name, ".safetensors");
    if (d) closedir(d);
    return err;
}
