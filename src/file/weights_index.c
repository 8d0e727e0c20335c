/* weights_index.c - model.safetensors.index.json: which file holds which tensor, and whether it does. */
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "file/weights_impl.h"

#define MAX_INDEX_BYTES ((size_t)100 << 20)

/* A shard is a plain name in the folder. */
static bool plain_name(const char *s, size_t n)
{
    if (n == 0 || n > 255 || s[0] == '.') return false;
    return !memchr(s, '/', n) && !memchr(s, '\\', n) && !memchr(s, 0, n);
}

static apus_err index_entry(ap_index_reader *x, const ap_json_event *e)
{
    if (!plain_name(e->str, e->len))
        return ap_fail(x->diag, APUS_EFORMAT,
                       "%s: tensor \"%.200s\": \"%.*s\" is not the name of a file in this folder",
                       x->file, x->tensor, e->len < 200 ? (int)e->len : 200, e->str);
    /* Neighbours mostly share their shard; the rest is sorted out in ap_weights_read_index. */
    const char *last = x->last_shard;
    if (!last || strlen(last) != e->len || memcmp(last, e->str, e->len)) {
        char *name = ap_arena_strndup(&x->arena, e->str, e->len);
        if (!name || !ap_names_add(&x->shards, name, e->len, 0))
            return ap_fail_nomem(x->diag, e->len, "the weight index");
        x->last_shard = name;
    }
    return ap_names_add(&x->tensors, x->tensor, x->tensor_len, (uintptr_t)x->last_shard)
               ? APUS_OK
               : ap_fail_nomem(x->diag, x->tensor_len, "the weight index");
}

static apus_err index_event(void *ctx, const ap_json_event *e)
{
    ap_index_reader *x = ctx;
    if (e->depth == 0 && e->type != AP_JSON_EV_BEGIN_OBJECT && e->type != AP_JSON_EV_END_OBJECT)
        return ap_fail(x->diag, APUS_EFORMAT, "%s: expected an object", x->file);
    if (e->depth == 1 && e->type == AP_JSON_EV_KEY) {
        x->map_next = e->len == 10 && !memcmp(e->str, "weight_map", 10);
        if (x->map_next && x->seen_map)
            return ap_fail(x->diag, APUS_EFORMAT, "%s: \"weight_map\" appears twice", x->file);
        return APUS_OK;
    }
    if (e->depth == 1 && x->map_next) {
        if (e->type != AP_JSON_EV_BEGIN_OBJECT)
            return ap_fail(x->diag, APUS_EFORMAT, "%s: \"weight_map\" is not an object", x->file);
        x->map_next = false;
        x->in_map = x->seen_map = true;
        return APUS_OK;
    }
    if (e->depth == 1 && e->type == AP_JSON_EV_END_OBJECT) x->in_map = false;
    if (!x->in_map || e->depth < 2) return APUS_OK;
    if (e->type == AP_JSON_EV_KEY) {
        x->tensor = ap_arena_strndup(&x->arena, e->str, e->len);
        x->tensor_len = e->len;
        return x->tensor ? APUS_OK : ap_fail_nomem(x->diag, e->len, "the weight index");
    }
    if (e->type == AP_JSON_EV_STRING) return index_entry(x, e);
    return ap_fail(x->diag, APUS_EFORMAT, "%s: tensor \"%.200s\": expected the name of a file",
                   x->file, x->tensor);
}

apus_err ap_weights_read_index(ap_index_reader *x, const char *path)
{
    char *text = NULL;
    size_t len;
    x->file = path;
    apus_err err = ap_file_read(path, MAX_INDEX_BYTES, &text, &len, x->diag);
    if (!err) err = ap_json_walk(text, len, path, index_event, x, x->diag);
    ap_free(text);
    if (err) return err;
    const char *twice = ap_names_sort(&x->tensors);
    if (twice)
        return ap_fail(x->diag, APUS_EFORMAT, "%s: tensor \"%.200s\" appears twice", path, twice);
    if (x->tensors.n == 0)
        return ap_fail(x->diag, APUS_EFORMAT, "%s: \"weight_map\" is missing or empty", path);
    ap_names_sort(&x->shards);
    for (size_t i = 0; i < x->shards.n && !err; i++) {
        const char *name = x->shards.item[i].s;
        if (i && !strcmp(name, x->shards.item[i - 1].s)) continue;
        if (x->w->n_shards == AP_MAX_SHARDS)
            return ap_fail(x->diag, APUS_EFORMAT, "%s: names more than %d files", path,
                           AP_MAX_SHARDS);
        err = ap_weights_add_shard(x->w, name, x->diag);
        if (err || ap_path_exists(x->w->shard[x->w->n_shards - 1].path)) continue;
        if (!x->first_absent) x->first_absent = name;
        ap_free(x->w->shard[--x->w->n_shards].path);
    }
    return err;
}

apus_err ap_weights_note_absent(ap_index_reader *x)
{
    ap_weights *w = x->w;
    for (size_t i = 0; i < x->tensors.n; i++) {
        const ap_name *t = &x->tensors.item[i];
        if (ap_names_find(&w->names, t->s, t->len)) continue;
        const char *of = (const char *)t->value;
        char *name = ap_arena_strndup(&w->arena, t->s, t->len);
        char *in = ap_arena_strndup(&w->arena, of, strlen(of));
        if (!name || !in || !ap_names_add(&w->absent, name, t->len, (uintptr_t)in))
            return ap_fail_nomem(x->diag, t->len, "the weight index");
    }
    return APUS_OK;
}

apus_err ap_weights_check(const ap_weights *w, const ap_tensor_table *table, apus_diag *diag)
{
    for (size_t i = 0; i < w->absent.n; i++) {
        const ap_name *t = &w->absent.item[i];
        const char *in = (const char *)t->value;
        if (ap_tensor_table_width(table, t->s) < 0) continue;
        char *path = ap_path_join(w->dir, in);
        bool here = path && ap_path_exists(path);
        ap_free(path);
        return ap_fail(
            diag, here ? APUS_EFORMAT : APUS_EFILE,
            here ? "%s: tensor \"%.200s\" is not in %s, where model.safetensors.index.json has it"
                 : "%s: tensor \"%.200s\" is missing: the file %s that "
                   "model.safetensors.index.json names is not here; fetch it again",
            w->dir, t->s, in);
    }
    return APUS_OK;
}
