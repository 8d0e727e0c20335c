#include "file/weights.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "file/names.h"
#include "file/safetensors.h"

#define MAX_INDEX_BYTES ((size_t)100 << 20)

enum { MAX_SHARDS = 10000 };

typedef struct shard {
    char *path;
    const char *name; /* tail of path */
    ap_safetensors st;
} shard;

struct ap_weights {
    char *dir;
    shard *shard;
    size_t n_shards, cap_shards;
    struct item {
        const ap_st_entry *entry;
        size_t shard;
    } *item; /* all tensors, shard by shard in the order of their bytes */
    size_t n;
    ap_names names;  /* tensor name -> item */
    char *prefix;    /* of the text model, or NULL */
};

/* ---------------------------------------------------------------- opening */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const shard *)a)->name, ((const shard *)b)->name);
}

/* Note a file of the folder; it is opened later. */
static apus_err add_shard(ap_weights *w, const char *name, apus_diag *diag)
{
    if (w->n_shards == w->cap_shards) {
        size_t cap = w->cap_shards ? w->cap_shards * 2 : 8;
        shard *p = ap_realloc(w->shard, cap, sizeof *p);
        if (!p) return ap_fail_nomem(diag, cap * sizeof *p, "the list of weight files");
        w->shard = p;
        w->cap_shards = cap;
    }
    shard *s = &w->shard[w->n_shards];
    memset(s, 0, sizeof *s);
    s->path = ap_path_join(w->dir, name);
    if (!s->path) return ap_fail_nomem(diag, strlen(name), "a file name");
    s->name = s->path + strlen(s->path) - strlen(name);
    w->n_shards++;
    return APUS_OK;
}

typedef struct index_reader {
    ap_weights *w;
    const char *file;
    apus_diag *diag;
    ap_arena arena;
    ap_names tensors; /* value: its shard's name, in the arena */
    ap_names shards;  /* may repeat */
    const char *last_shard;
    const char *tensor;
    size_t tensor_len;
    bool in_map, seen_map; /* inside "weight_map" */
    bool map_next;         /* the value of "weight_map" comes next */
} index_reader;

/* A shard is a plain name in the folder. */
static bool plain_name(const char *s, size_t n)
{
    if (n == 0 || n > 255 || s[0] == '.') return false;
    return !memchr(s, '/', n) && !memchr(s, '\\', n) && !memchr(s, 0, n);
}

static apus_err index_entry(index_reader *x, const ap_json_event *e)
{
    if (!plain_name(e->str, e->len))
        return ap_fail(x->diag, APUS_EFORMAT,
                       "%s: tensor \"%.200s\": \"%.*s\" is not the name of a file in this folder",
                       x->file, x->tensor, e->len < 200 ? (int)e->len : 200, e->str);
    /* Neighbours mostly share their shard; the rest is sorted out in read_index. */
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
    index_reader *x = ctx;
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

static apus_err read_index(index_reader *x, const char *path)
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
        if (x->w->n_shards == MAX_SHARDS)
            return ap_fail(x->diag, APUS_EFORMAT, "%s: names more than %d files", path, MAX_SHARDS);
        err = add_shard(x->w, name, x->diag);
    }
    return err;
}

/* Every tensor of the index must be in the file that it names. Tensors that the index does not
 * name are kept, as transformers does: it reads whole files. */
static apus_err check_index(index_reader *x)
{
    for (size_t i = 0; i < x->tensors.n; i++) {
        const ap_name *t = &x->tensors.item[i];
        const ap_name *f = ap_names_find(&x->w->names, t->s, t->len);
        const char *want = (const char *)t->value;
        if (!f || strcmp(x->w->shard[x->w->item[f->value].shard].name, want))
            return ap_fail(x->diag, APUS_EFORMAT, "%s: tensor \"%.200s\" is not in %s", x->file,
                           t->s, want);
    }
    return APUS_OK;
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcmp(s + n - m, end);
}

/* The only *.safetensors of the folder. */
static apus_err add_only_file(ap_weights *w, apus_diag *diag)
{
    DIR *d = opendir(w->dir);
    if (!d) return ap_fail(diag, APUS_EFILE, "%s: cannot be opened as a folder", w->dir);
    apus_err err = APUS_OK;
    int n = 0;
    for (struct dirent *e; !err && (e = readdir(d));) {
        if (e->d_name[0] == '.' || !ends_with(e->d_name, ".safetensors")) continue;
        if (n++ == 0) err = add_shard(w, e->d_name, diag);
    }
    closedir(d);
    if (!err && n == 0)
        err = ap_fail(diag, APUS_EFILE,
                      "%s: no weights: expected model.safetensors or model.safetensors.index.json",
                      w->dir);
    if (!err && n > 1)
        err = ap_fail(diag, APUS_EFILE,
                      "%s: %d *.safetensors files, but no model.safetensors.index.json that tells "
                      "which belong together",
                      w->dir, n);
    return err;
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
    for (size_t i = 0; i < w->n_shards; i++) {
        for (size_t k = 0; k < w->shard[i].st.n; k++) {
            const ap_st_entry *e = &w->shard[i].st.entry[k];
            w->item[w->n] = (struct item){e, i};
            if (!ap_names_add(&w->names, e->name, e->name_len, w->n++))
                return ap_fail_nomem(diag, n * sizeof(ap_name), "the tensor names");
        }
    }
    const char *twice = ap_names_sort(&w->names);
    if (twice)
        return ap_fail(diag, APUS_EFORMAT, "%s: tensor \"%.200s\" is in two files", w->dir, twice);
    if (!ap_names_index(&w->names)) return ap_fail_nomem(diag, n * 4, "the tensor names");
    return APUS_OK;
}

/* The shortest name that ends in embed_tokens.weight and belongs to no tower or draft head. */
static apus_err find_prefix(ap_weights *w, apus_diag *diag)
{
    static const char tail[] = "embed_tokens.weight";
    const ap_st_entry *best = NULL;
    for (size_t i = 0; i < w->n; i++) {
        const ap_st_entry *e = w->item[i].entry;
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

apus_err ap_weights_open(const char *dir, ap_weights **out, apus_diag *diag)
{
    apus_err err;
    index_reader x = {.diag = diag};
    char *single = ap_path_join(dir, "model.safetensors");
    char *index = ap_path_join(dir, "model.safetensors.index.json");
    ap_weights *w = x.w = ap_calloc(1, sizeof *w);
    ap_arena_init(&x.arena, 0);
    if (w) w->dir = ap_strdup(dir);
    if (!w || !w->dir || !single || !index) {
        err = ap_fail_nomem(diag, sizeof *w, "the weights");
        goto done;
    }
    bool indexed = !ap_path_exists(single) && ap_path_exists(index);
    if (indexed) err = read_index(&x, index);
    else if (ap_path_exists(single)) err = add_shard(w, "model.safetensors", diag);
    else err = add_only_file(w, diag);
    if (!err) err = open_shards(w, diag);
    if (!err && indexed) err = check_index(&x);
    if (!err) err = find_prefix(w, diag);
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

void ap_weights_close(ap_weights *w)
{
    if (!w) return;
    for (size_t i = 0; i < w->n_shards; i++) {
        ap_safetensors_close(&w->shard[i].st);
        ap_free(w->shard[i].path);
    }
    ap_free(w->shard);
    ap_free(w->item);
    ap_names_free(&w->names);
    ap_free(w->prefix);
    ap_free(w->dir);
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
    return i ? &i->entry->tensor : NULL;
}

size_t ap_weights_count(const ap_weights *w) { return w->n; }

const ap_tensor *ap_weights_at(const ap_weights *w, size_t i, const char **name)
{
    if (i >= w->n) return NULL;
    if (name) *name = w->item[i].entry->name;
    return &w->item[i].entry->tensor;
}

const char *ap_weights_file(const ap_weights *w, const char *name)
{
    const struct item *i = find(w, name);
    return i ? w->shard[i->shard].path : w->dir;
}

const char *ap_weights_text_prefix(const ap_weights *w) { return w->prefix; }

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

static bool is_float(ap_dtype t) { return t == AP_F32 || t == AP_F16 || t == AP_BF16; }

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
    if (!is_float(t->dtype))
        return ap_fail(
            diag, APUS_EUNSUPPORTED,
            "%s: tensor \"%s\" has type %s, expected f32, f16 or bf16: quantised weights "
            "are not supported yet",
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
