#include "file/weights.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "base/str.h"
#include "file/gguf_hf.h"
#include "file/model_tensors.h"
#include "file/names.h"
#include "file/safetensors.h"
#include "tensor/quant.h"

#define MAX_INDEX_BYTES ((size_t)100 << 20)

enum { MAX_SHARDS = 10000 };

typedef struct shard {
    char *path;
    const char *name; /* tail of path */
    ap_safetensors st;
    ap_gguf gguf;
} shard;

struct ap_weights {
    char *dir;
    shard *shard;
    size_t n_shards, cap_shards;
    struct item {
        const char *name;
        size_t name_len;
        ap_tensor tensor;
        size_t shard;
    } * item; /* all tensors, shard by shard in the order of their bytes */
    size_t n;
    const ap_gguf **gguf; /* of the shards; NULL for safetensors */
    ap_arena arena;       /* Hugging Face names of GGUF tensors */
    ap_weights_traits traits;
    ap_names names; /* tensor name -> item */
    char *prefix;   /* of the text model, or NULL */
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

/* The only *.safetensors of the folder. */
static apus_err add_only_file(ap_weights *w, apus_diag *diag)
{
    DIR *d = opendir(w->dir);
    if (!d) return ap_fail(diag, APUS_EFILE, "%s: cannot be opened as a folder", w->dir);
    apus_err err = APUS_OK;
    int n = 0;
    for (struct dirent *e; !err && (e = readdir(d));) {
        if (e->d_name[0] == '.' || !ap_ends_with(e->d_name, ".safetensors")) continue;
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

/* Room in w->item was made for it. */
static apus_err add_item(ap_weights *w, const char *name, size_t len, const ap_tensor *t, size_t in,
                         apus_diag *diag)
{
    w->item[w->n] = (struct item){name, len, *t, in};
    if (ap_names_add(&w->names, name, len, w->n++)) return APUS_OK;
    return ap_fail_nomem(diag, sizeof(ap_name), "the tensor names");
}

static apus_err index_items(ap_weights *w, apus_diag *diag)
{
    const char *twice = ap_names_sort(&w->names);
    if (twice)
        return ap_fail(diag, APUS_EFORMAT, "%s: tensor \"%.200s\" is in two files", w->dir, twice);
    if (!ap_names_index(&w->names)) return ap_fail_nomem(diag, w->n * 4, "the tensor names");
    return APUS_OK;
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
            apus_err err = add_item(w, e->name, e->name_len, &e->tensor, i, diag);
            if (err) return err;
        }
    }
    return index_items(w, diag);
}

/* The shortest name that ends in embed_tokens.weight and belongs to no tower or draft head. */
static apus_err find_prefix(ap_weights *w, apus_diag *diag)
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

apus_err ap_weights_open(const char *dir, ap_weights **out, apus_diag *diag)
{
    apus_err err;
    index_reader x = {.diag = diag};
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
        err = read_index(&x, index);
    else if (ap_path_exists(single))
        err = add_shard(w, "model.safetensors", diag);
    else
        err = add_only_file(w, diag);
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
    apus_err err = add_shard(w, name, diag);
    if (err) return err;
    shard *s = &w->shard[i];
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

static apus_err name_tensors(ap_weights *w, bool gemma, apus_diag *diag)
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
            if (!ap_gguf_tensor_name(g->tensor[i].name, gemma, name, sizeof name)) continue;
            size_t len = strlen(name);
            char *kept = ap_arena_strndup(&w->arena, name, len);
            if (!kept) return ap_fail_nomem(diag, len, "a tensor's name");
            ap_tensor t = as_matrix(g->tensor[i].tensor, name);
            apus_err err = add_item(w, kept, len, &t, p, diag);
            if (err) return err;
        }
    }
    return index_items(w, diag);
}

apus_err ap_weights_open_gguf(const char *path, ap_weights **out, apus_diag *diag)
{
    ap_weights *w = ap_calloc(1, sizeof *w);
    if (!w) return ap_fail_nomem(diag, sizeof *w, "the weights");
    ap_arena_init(&w->arena, 0);
    ap_gguf_traits t = {0};
    apus_err err = open_parts(w, path, parts_by_name(path), diag);
    if (!err) err = check_parts(w, diag);
    if (!err) err = ap_gguf_traits_of(&w->shard[0].gguf, &t, diag);
    if (!err) err = name_tensors(w, t.gemma, diag);
    if (!err) err = find_prefix(w, diag);
    if (err) {
        ap_weights_close(w);
        return err;
    }
    w->traits = (ap_weights_traits){t.norms_shifted, t.value_heads_tiled};
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

/* ---------------------------------------------------------------- no files at all */

bool ap_weights_present(const char *dir)
{
    bool found = false;
    DIR *d = opendir(dir);
    /* A folder that cannot be read may hold some: opening them says what is wrong. */
    if (!d) return errno != ENOENT && errno != ENOTDIR;
    for (struct dirent *e; !found && (e = readdir(d));)
        found = ap_ends_with(e->d_name, ".safetensors") ||
                ap_ends_with(e->d_name, ".safetensors.index.json");
    closedir(d);
    return found;
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
    return add_item(x->w, kept, len, &tensor, 0, x->diag);
}

apus_err ap_weights_imagine(const char *dir, const ap_config *c, ap_weights **out, apus_diag *diag)
{
    imagining x = {.w = ap_calloc(1, sizeof *x.w), .diag = diag};
    if (!x.w) return ap_fail_nomem(diag, sizeof *x.w, "the weights");
    ap_arena_init(&x.w->arena, 0);
    x.w->dir = ap_strdup(dir);
    apus_err err = x.w->dir ? APUS_OK : ap_fail_nomem(diag, strlen(dir), "a path");
    if (!err) err = add_shard(x.w, "config.json", diag);
    if (!err) err = ap_model_tensors(c, imagine_tensor, &x);
    if (!err) err = index_items(x.w, diag);
    if (!err) err = find_prefix(x.w, diag);
    if (err)
        ap_weights_close(x.w);
    else
        *out = x.w;
    return err;
}

/* ---------------------------------------------------------------- quantised safetensors */

static const struct item *sibling(const ap_weights *w, const char *module, size_t len,
                                  const char *suffix)
{
    char name[1024];
    if (len > 900) return NULL;
    int n = snprintf(name, sizeof name, "%.*s%s", (int)len, module, suffix);
    const ap_name *f = ap_names_find(&w->names, name, (size_t)n);
    return f ? &w->item[f->value] : NULL;
}

/* Axes before the last one are equal, the last one of b is `last`. */
static bool fits(const ap_tensor *a, const ap_tensor *b, int64_t last)
{
    if (a->rank != b->rank || b->shape[b->rank - 1] != last) return false;
    for (int i = 0; i + 1 < a->rank; i++)
        if (a->shape[i] != b->shape[i]) return false;
    return true;
}

static bool is_float(ap_dtype t)
{
    return t == AP_F32 || t == AP_F16 || t == AP_BF16;
}

/* What is wrong with the parts of a module: weight u32 [.., K*bits/32], scales (and biases) [.., K/group].
 * NULL: nothing, and *cols is K. */
static const char *mlx_fault(const ap_tensor *t, const ap_tensor *scales, const ap_tensor *biases,
                             ap_quant_mode m, int64_t *cols)
{
    bool affine = m.dtype == AP_MLX_AFFINE;
    if (t->dtype != AP_U32 || t->rank < 2) return "its weight is not a matrix of u32";
    int64_t words = t->shape[t->rank - 1];
    if (words > INT64_MAX / 32 || words * 32 % m.bits)
        return "its weight does not hold whole values";
    *cols = words * 32 / m.bits;
    if (*cols % m.group) return "its rows are not whole groups";
    if (!fits(t, scales, *cols / m.group)) return "its scales have another shape";
    if (affine ? !is_float(scales->dtype) : scales->dtype != AP_U8)
        return "its scales have another type";
    if (affine != (biases != NULL)) return affine ? "its biases are missing" : "it has biases";
    if (affine && !fits(t, biases, *cols / m.group)) return "its biases have another shape";
    if (affine && biases->dtype != scales->dtype)
        return "its biases have another type than its scales";
    return NULL;
}

static apus_err join_mlx(const ap_weights *w, struct item *it, const ap_tensor *scales,
                         const ap_tensor *biases, ap_quant_mode m, apus_diag *diag)
{
    ap_tensor *t = &it->tensor;
    int64_t cols = 0;
    const char *file = w->shard[it->shard].path;
    if (m.dtype < AP_MLX_AFFINE || m.dtype > AP_MLX_MXFP8)
        return ap_fail(diag, APUS_EFORMAT,
                       "%s: tensor \"%s\" has scales, but config.json does not say it is quantised",
                       file, it->name);
    const char *fault = mlx_fault(t, scales, biases, m, &cols);
    if (fault)
        return ap_fail(diag, APUS_EFORMAT,
                       "%s: tensor \"%s\": %s, expected %s, %d bits, groups of %d", file, it->name,
                       fault, ap_dtype_name(m.dtype), m.bits, m.group);
    t->dtype = m.dtype;
    t->bits = m.bits;
    t->group = m.group;
    t->group_rows = 1;
    t->scales = scales->data;
    t->scale_dtype = m.dtype == AP_MLX_NVFP4 ? AP_F8_E4M3 : scales->dtype;
    t->biases = biases ? biases->data : NULL;
    t->shape[t->rank - 1] = cols;
    return APUS_OK;
}

/* weight e4m3 [R, K], weight_scale_inv [ceil(R/128), ceil(K/128)] */
static apus_err join_fp8(const ap_weights *w, struct item *it, const ap_tensor *s, apus_diag *diag)
{
    ap_tensor *t = &it->tensor;
    if (t->dtype != AP_F8_E4M3 || t->rank != 2 || s->rank != 2 ||
        s->shape[0] != (t->shape[0] + 127) / 128 || s->shape[1] != (t->shape[1] + 127) / 128 ||
        !is_float(s->dtype))
        return ap_fail(diag, APUS_EFORMAT,
                       "%s: tensor \"%s\": its weight_scale_inv does not fit blocks of 128 x 128",
                       w->shard[it->shard].path, it->name);
    t->dtype = AP_FP8_BLOCK;
    t->bits = 8;
    t->group = t->group_rows = 128;
    t->scales = s->data;
    t->scale_dtype = s->dtype;
    return APUS_OK;
}

apus_err ap_weights_join_quantised(ap_weights *w, const ap_quant_config *q, apus_diag *diag)
{
    static const char tail[] = ".weight";
    for (size_t i = 0; i < w->n; i++) {
        struct item *it = &w->item[i];
        /* MLX writes convolutions with the channel last, and shifts the norms in the same pass. */
        if (ap_ends_with(it->name, "linear_attn.conv1d.weight") && it->tensor.rank == 3 &&
            it->tensor.shape[2] == 1 && it->tensor.shape[1] > 1)
            w->traits.norms_shifted = true;
        if (!q->present || !ap_ends_with(it->name, tail)) continue;
        size_t len = it->name_len - (sizeof tail - 1);
        const struct item *scales = sibling(w, it->name, len, ".scales"),
                          *biases = sibling(w, it->name, len, ".biases");
        const struct item *inv = sibling(w, it->name, len, ".weight_scale_inv");
        apus_err err = APUS_OK;
        if (scales)
            err = join_mlx(w, it, &scales->tensor, biases ? &biases->tensor : NULL,
                           ap_quant_config_of(q, it->name, len), diag);
        else if (inv)
            err = join_fp8(w, it, &inv->tensor, diag);
        if (err) return err;
    }
    return APUS_OK;
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
    const shard *s = &w->shard[i];
    return w->gguf ? &s->gguf.map : &s->st.map;
}

apus_err ap_weights_read(const ap_weights *w, const void *p, size_t n, void *dst, apus_diag *diag)
{
    for (size_t i = 0; i < w->n_shards; i++)
        if (ap_map_holds(map_of(w, i), p, n)) return ap_map_read(map_of(w, i), w->shard[i].path, p, n, dst, diag);
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
    for (size_t i = 0; i < w->n_shards; i++) ap_map_drop(map_of(w, i), map_of(w, i)->data, map_of(w, i)->len);
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
