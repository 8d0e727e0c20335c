#include "file/weights.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "file/gguf_hf.h"
#include "file/model_tensors.h"
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

/* ---------------------------------------------------------------- GGUF */

#define PART_TAIL "-00001-of-00001.gguf"

/* Number of parts by the name's tail -00001-of-000NN.gguf; 1 for any other name. */
static int parts_by_name(const char *path)
{
    size_t n = strlen(path), tail = sizeof PART_TAIL - 1;
    int first, count, used = 0;
    if (n <= tail || sscanf(path + n - tail, "-%5d-of-%5d.gguf%n", &first, &count, &used) != 2 ||
        used != (int)tail)
        return 1;
    return first == 1 && count > 1 ? count : 1;
}

static apus_err open_part(ap_weights *w, const char *name, int i, int count, apus_diag *diag)
{
    int64_t no = -1, of = -1;
    apus_err err = ap_weights_add_shard(w, name, diag);
    if (err) return err;
    ap_shard *s = &w->shard[i];
    if ((err = ap_gguf_open(s->path, &s->gguf, diag))) return err;
    const ap_gguf_value *v_no = ap_gguf_find(&s->gguf, "split.no"),
                        *v_of = ap_gguf_find(&s->gguf, "split.count");
    if (v_no) ap_gguf_int(v_no, 0, &no);
    if (v_of) ap_gguf_int(v_of, 0, &of);
    if (count > 1 ? no == i && of == count : of <= 1) return APUS_OK;
    if (count == 1)
        return ap_fail(diag, APUS_EFORMAT,
                       "%s: split.no and split.count say part %lld of %lld: open the first part, "
                       "under its own name "
                       "NAME-00001-of-%05lld.gguf",
                       s->path, (long long)no + 1, (long long)of, (long long)of);
    return ap_fail(
        diag, APUS_EFORMAT,
        "%s: split.no and split.count say part %lld of %lld, expected part %d of %d by its name",
        s->path, (long long)no + 1, (long long)of, i + 1, count);
}

/* The first part tells how many tensors all parts hold together. */
static apus_err check_parts(const ap_weights *w, apus_diag *diag)
{
    const ap_gguf_value *v = ap_gguf_find(&w->shard[0].gguf, "split.tensors.count");
    int64_t want = 0, have = 0;
    for (size_t p = 0; p < w->n_shards; p++) have += (int64_t)w->shard[p].gguf.n_tensors;
    if (w->n_shards == 1 || !v || (ap_gguf_int(v, 0, &want) && want == have)) return APUS_OK;
    return ap_fail(diag, APUS_EFORMAT,
                   "%s: split.tensors.count is %lld, but the %zu parts hold %lld tensors",
                   w->shard[0].path, (long long)want, w->n_shards, (long long)have);
}

static apus_err open_parts(ap_weights *w, const char *path, int count, apus_diag *diag)
{
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    size_t stem = strlen(base) - (count > 1 ? sizeof PART_TAIL - 1 : 0);
    if (stem > 400) return ap_fail(diag, APUS_EFILE, "%s: the file name is too long", path);
    w->dir = slash ? ap_strndup(path, (size_t)(slash - path)) : ap_strdup(".");
    if (!w->dir) return ap_fail_nomem(diag, strlen(path), "a path");
    apus_err err = APUS_OK;
    for (int i = 0; i < count && !err; i++) {
        char name[512];
        if (count > 1)
            snprintf(name, sizeof name, "%.*s-%05d-of-%05d.gguf", (int)stem, base, i + 1, count);
        else
            snprintf(name, sizeof name, "%s", base);
        err = open_part(w, name, i, count, diag);
    }
    return err;
}

/* The shared expert's gate is one row; converters squeeze it to a vector. */
static ap_tensor as_matrix(ap_tensor t, const char *name)
{
    if (t.rank == 1 && ap_ends_with(name, "shared_expert_gate.weight")) {
        t.rank = 2;
        t.shape[1] = t.shape[0];
        t.shape[0] = 1;
    }
    return t;
}

static apus_err name_tensors(ap_weights *w, const ap_family *f, apus_diag *diag)
{
    size_t n = 0;
    for (size_t p = 0; p < w->n_shards; p++) n += w->shard[p].gguf.n_tensors;
    w->item = ap_malloc(n, sizeof *w->item);
    w->gguf = ap_malloc(w->n_shards, sizeof *w->gguf);
    if (!w->item || !w->gguf) return ap_fail_nomem(diag, n * sizeof *w->item, "the tensor list");
    for (size_t p = 0; p < w->n_shards; p++) {
        const ap_gguf *g = w->gguf[p] = &w->shard[p].gguf;
        for (size_t i = 0; i < g->n_tensors; i++) {
            char name[512];
            if (!ap_gguf_tensor_name(g->tensor[i].name, f, name, sizeof name)) continue;
            size_t len = strlen(name);
            char *kept = ap_arena_strndup(&w->arena, name, len);
            if (!kept) return ap_fail_nomem(diag, len, "a tensor's name");
            ap_tensor t = as_matrix(g->tensor[i].tensor, name);
            apus_err err = ap_weights_add_item(w, kept, len, &t, p, diag);
            if (err) return err;
        }
    }
    return ap_weights_index(w, diag);
}

apus_err ap_weights_open_gguf(const char *path, ap_weights **out, apus_diag *diag)
{
    ap_weights *w = ap_calloc(1, sizeof *w);
    if (!w) return ap_fail_nomem(diag, sizeof *w, "the weights");
    ap_arena_init(&w->arena, 0);
    const ap_family *f = NULL;
    apus_err err = open_parts(w, path, parts_by_name(path), diag);
    if (!err) err = check_parts(w, diag);
    if (!err) err = ap_gguf_family_of(&w->shard[0].gguf, &f, diag);
    if (!err) err = name_tensors(w, f, diag);
    if (!err) err = ap_weights_find_prefix(w, diag);
    if (err) {
        ap_weights_close(w);
        return err;
    }
    w->traits = (ap_weights_traits){f->norm_offset, f->tiled_heads};
    *out = w;
    return APUS_OK;
}

const ap_gguf *const *ap_weights_gguf(const ap_weights *w, size_t *n)
{
    *n = w->gguf ? w->n_shards : 0;
    return w->gguf;
}

ap_weights_traits ap_weights_traits_of(const ap_weights *w)
{
    return w->traits;
}

typedef struct imagining {
    ap_weights *w;
    size_t cap;
    apus_diag *diag;
} imagining;

static apus_err imagine_tensor(void *ctx, const ap_model_tensor *t)
{
    imagining *x = ctx;
    char name[128];
    if (x->w->n == x->cap) {
        size_t cap = x->cap ? x->cap * 2 : 256;
        struct item *p = ap_realloc(x->w->item, cap, sizeof *p);
        if (!p) return ap_fail_nomem(x->diag, cap * sizeof *p, "the tensor list");
        x->w->item = p;
        x->cap = cap;
    }
    snprintf(name, sizeof name, "%s%s", strcmp(t->name, "lm_head.weight") ? "model." : "", t->name);
    size_t len = strlen(name);
    char *kept = ap_arena_strndup(&x->w->arena, name, len);
    if (!kept) return ap_fail_nomem(x->diag, len, "a tensor's name");
    ap_tensor tensor = {.dtype = AP_BF16, .rank = t->rank};
    memcpy(tensor.shape, t->shape, sizeof t->shape);
    return ap_weights_add_item(x->w, kept, len, &tensor, 0, x->diag);
}

apus_err ap_weights_imagine(const char *dir, const ap_config *c, ap_weights **out, apus_diag *diag)
{
    imagining x = {.w = ap_calloc(1, sizeof *x.w), .diag = diag};
    if (!x.w) return ap_fail_nomem(diag, sizeof *x.w, "the weights");
    ap_arena_init(&x.w->arena, 0);
    x.w->dir = ap_strdup(dir);
    apus_err err = x.w->dir ? APUS_OK : ap_fail_nomem(diag, strlen(dir), "a path");
    if (!err) err = ap_weights_add_shard(x.w, "config.json", diag);
    if (!err) err = ap_model_tensors(c, imagine_tensor, &x);
    if (!err) err = ap_weights_index(x.w, diag);
    if (!err) err = ap_weights_find_prefix(x.w, diag);
    if (err)
        ap_weights_close(x.w);
    else
        *out = x.w;
    return err;
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
    return i ? w->shard[i->shard].path : w->dir;
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
    if (!t) return ap_fail(diag, APUS_EFORMAT, "%s: tensor \"%s\" is missing", w->dir, name);
    const char *file = ap_weights_file(w, name);
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
