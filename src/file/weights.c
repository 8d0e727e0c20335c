/* weights.c - the tensors of a model, whatever holds them: listed while it is opened (weights_folder.c,
 * weights_gguf.c, weights_imagine.c), found, checked and read. */
#include "file/weights.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "file/weights_impl.h"
#include "tensor/quant.h"

/* ---------------------------------------------------------------- building */

apus_err ap_weights_add_shard(ap_weights *w, const char *name, apus_diag *diag)
{
    if (w->n_shards == w->cap_shards) {
        size_t cap = w->cap_shards ? w->cap_shards * 2 : 8;
        ap_shard *p = ap_realloc(w->shard, cap, sizeof *p);
        if (!p) return ap_fail_nomem(diag, cap * sizeof *p, "the list of weight files");
        w->shard = p;
        w->cap_shards = cap;
    }
    ap_shard *s = &w->shard[w->n_shards];
    memset(s, 0, sizeof *s);
    s->path = ap_path_join(w->dir, name);
    if (!s->path) return ap_fail_nomem(diag, strlen(name), "a file name");
    s->name = s->path + strlen(s->path) - strlen(name);
    w->n_shards++;
    return APUS_OK;
}

apus_err ap_weights_add_item(ap_weights *w, const char *name, size_t len, const ap_tensor *t,
                             size_t in, apus_diag *diag)
{
    w->item[w->n] = (struct item){name, len, *t, in};
    if (ap_names_add(&w->names, name, len, w->n++)) return APUS_OK;
    return ap_fail_nomem(diag, sizeof(ap_name), "the tensor names");
}

apus_err ap_weights_index(ap_weights *w, apus_diag *diag)
{
    const char *twice = ap_names_sort(&w->names);
    if (twice)
        return ap_fail(diag, APUS_EFORMAT, "%s: tensor \"%.200s\" is in two files", w->dir, twice);
    if (!ap_names_index(&w->names)) return ap_fail_nomem(diag, w->n * 4, "the tensor names");
    return APUS_OK;
}

/* The shortest name that ends in embed_tokens.weight and belongs to no tower or draft head. */
apus_err ap_weights_find_prefix(ap_weights *w, apus_diag *diag)
{
    static const char tail[] = "embed_tokens.weight";
    const struct item *best = NULL;
    for (size_t i = 0; i < w->n; i++) {
        const struct item *e = &w->item[i];
        size_t p = e->name_len - (sizeof tail - 1);
        if (e->name_len < sizeof tail - 1 || strcmp(e->name + p, tail)) continue;
        if (p && e->name[p - 1] != '.') continue;
        if (strstr(e->name, "mtp.") || strstr(e->name, "vis") || strstr(e->name, "audio")) continue;
        if (!best || e->name_len < best->name_len) best = e;
    }
    if (!best) return APUS_OK;
    w->prefix = ap_strndup(best->name, best->name_len - (sizeof tail - 1));
    return w->prefix ? APUS_OK : ap_fail_nomem(diag, best->name_len, "a tensor's name");
}

void ap_weights_close(ap_weights *w)
{
    if (!w) return;
    for (size_t i = 0; i < w->n_shards; i++) {
        ap_safetensors_close(&w->shard[i].st);
        ap_gguf_close(&w->shard[i].gguf);
        ap_free(w->shard[i].path);
    }
    ap_free(w->shard);
    ap_free(w->item);
    ap_names_free(&w->names);
    ap_names_free(&w->absent);
    ap_free(w->prefix);
    ap_free(w->dir);
    ap_free(w->gguf);
    ap_arena_free(&w->arena);
    ap_free(w);
}

/* ---------------------------------------------------------------- reading */

const ap_gguf *const *ap_weights_gguf(const ap_weights *w, size_t *n)
{
    *n = w->gguf ? w->n_shards : 0;
    return w->gguf;
}

ap_weights_traits ap_weights_traits_of(const ap_weights *w)
{
    return w->traits;
}

static const struct item *find(const ap_weights *w, const char *name)
{
    const ap_name *f = ap_names_find(&w->names, name, strlen(name));
    return f ? &w->item[f->value] : NULL;
}

const ap_tensor *ap_weights_find(const ap_weights *w, const char *name)
{
    const struct item *i = find(w, name);
    return i ? &i->tensor : NULL;
}

size_t ap_weights_count(const ap_weights *w)
{
    return w->n;
}

const ap_tensor *ap_weights_at(const ap_weights *w, size_t i, const char **name)
{
    if (i >= w->n) return NULL;
    if (name) *name = w->item[i].name;
    return &w->item[i].tensor;
}

static const ap_map *map_of(const ap_weights *w, size_t i)
{
    const ap_shard *s = &w->shard[i];
    return w->gguf ? &s->gguf.map : &s->st.map;
}

apus_err ap_weights_read(const ap_weights *w, const void *p, size_t n, void *dst, apus_diag *diag)
{
    for (size_t i = 0; i < w->n_shards; i++)
        if (ap_map_holds(map_of(w, i), p, n))
            return ap_map_read(map_of(w, i), w->shard[i].path, p, n, dst, diag);
    memcpy(dst, p, n);
    return APUS_OK;
}

bool ap_weights_where(const ap_weights *w, const void *p, size_t n, size_t *file, uint64_t *offset)
{
    for (size_t i = 0; i < w->n_shards; i++) {
        const ap_map *m = map_of(w, i);
        if (!ap_map_holds(m, p, n)) continue;
        *file = i;
        *offset = (uint64_t)((const uint8_t *)p - m->data);
        return true;
    }
    return false;
}

size_t ap_weights_files(const ap_weights *w)
{
    return w->n_shards;
}

const char *ap_weights_path(const ap_weights *w, size_t i)
{
    return w->shard[i].path;
}

void ap_weights_want(const ap_weights *w, const void *p, size_t n)
{
    for (size_t i = 0; i < w->n_shards && p; i++) ap_map_want(map_of(w, i), p, n);
}

void ap_weights_drop(const ap_weights *w, const void *p, size_t n)
{
    for (size_t i = 0; i < w->n_shards && p; i++) ap_map_drop(map_of(w, i), p, n);
}

void ap_weights_drop_all(const ap_weights *w)
{
    for (size_t i = 0; i < w->n_shards; i++)
        ap_map_drop(map_of(w, i), map_of(w, i)->data, map_of(w, i)->len);
}

const char *ap_weights_file(const ap_weights *w, const char *name)
{
    const struct item *i = find(w, name);
    if (i) return w->shard[i->shard].path;
    return w->n_shards == 1 ? w->shard[0].path : w->dir;
}

const char *ap_weights_text_prefix(const ap_weights *w)
{
    return w->prefix;
}

static void shape_text(char *out, size_t size, int rank, const int64_t *shape)
{
    size_t n = (size_t)snprintf(out, size, "[");
    for (int i = 0; i < rank && n < size; i++) {
        const char *comma = i ? ", " : "";
        int k = shape[i] < 0 ? snprintf(out + n, size - n, "%sany", comma)
                             : snprintf(out + n, size - n, "%s%lld", comma, (long long)shape[i]);
        n += (size_t)k;
    }
    if (n < size) snprintf(out + n, size - n, "]");
}

apus_err ap_weights_need(const ap_weights *w, const char *name, bool optional, int rank,
                         const int64_t *shape, ap_tensor *out, apus_diag *diag)
{
    const ap_tensor *t = ap_weights_find(w, name);
    if (!t && optional) {
        memset(out, 0, sizeof *out);
        return APUS_OK;
    }
    const char *file = ap_weights_file(w, name);
    if (!t) return ap_fail(diag, APUS_EFORMAT, "%s: tensor \"%s\" is missing", file, name);
    if (!ap_dtype_is_weight(t->dtype))
        return ap_fail(
            diag, APUS_EUNSUPPORTED,
            "%s: tensor \"%s\" has type %s, expected f32, f16, bf16 or a quantised type whose "
            "scales are there",
            file, name, ap_dtype_name(t->dtype));
    bool same = t->rank == rank;
    for (int i = 0; same && i < rank; i++) same = shape[i] < 0 || shape[i] == t->shape[i];
    if (!same) {
        char want[200], have[200];
        shape_text(want, sizeof want, rank, shape);
        shape_text(have, sizeof have, t->rank, t->shape);
        return ap_fail(diag, APUS_EFORMAT, "%s: tensor \"%s\" has shape %s, expected %s", file,
                       name, have, want);
    }
    *out = *t;
    return APUS_OK;
}
