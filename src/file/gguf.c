#include "file/gguf.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "file/gguf_types.h"

enum { MAX_RANK = 4, MAX_KEY = 1024, DEFAULT_ALIGNMENT = 32, MAX_ALIGNMENT = 1 << 20 };

/* Least bytes that a pair and a tensor record take: bounds their counts before memory is taken. */
enum { MIN_PAIR = 8 + 1 + 4 + 1, MIN_RECORD = 8 + 1 + 4 + 4 + 8 };

typedef struct reader {
    const uint8_t *base, *at, *end;
    ap_gguf *g;
    apus_diag *diag;
} reader;

static size_t left(const reader *r)
{
    return (size_t)(r->end - r->at);
}

static apus_err truncated(const reader *r, const char *what)
{
    return ap_fail(r->diag, APUS_EFORMAT, "%s: the file ends inside %s, at byte %zu", r->g->name,
                   what, (size_t)(r->at - r->base));
}

static uint64_t load(const uint8_t *p, size_t n)
{
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++) v |= (uint64_t)p[i] << (8 * i);
    return v;
}

static bool take(reader *r, size_t n, uint64_t *out)
{
    if (left(r) < n) return false;
    *out = load(r->at, n);
    r->at += n;
    return true;
}

/* A string's bytes in the file. */
static bool take_string(reader *r, const char **s, size_t *len)
{
    uint64_t n;
    if (!take(r, 8, &n) || n > left(r)) return false;
    *s = (const char *)r->at;
    *len = (size_t)n;
    r->at += n;
    return true;
}

/* A name: a string without zero bytes, not empty, valid UTF-8, kept zero-terminated. */
static apus_err take_name(reader *r, const char *what, const char **out)
{
    const char *s;
    size_t n;
    if (!take_string(r, &s, &n)) return truncated(r, what);
    if (n == 0 || n > MAX_KEY || memchr(s, 0, n) || !ap_utf8_valid(s, n))
        return ap_fail(r->diag, APUS_EFORMAT,
                       "%s: %s before byte %zu is empty, too long or not text", r->g->name, what,
                       (size_t)(r->at - r->base));
    *out = ap_arena_strndup(&r->g->arena, s, n);
    return *out ? APUS_OK : ap_fail_nomem(r->diag, n, what);
}

static const uint8_t type_bytes[AP_GGUF_TYPE_COUNT] = {
    [AP_GGUF_U8] = 1,  [AP_GGUF_I8] = 1,  [AP_GGUF_U16] = 2, [AP_GGUF_I16] = 2,
    [AP_GGUF_U32] = 4, [AP_GGUF_I32] = 4, [AP_GGUF_F32] = 4, [AP_GGUF_BOOL] = 1,
    [AP_GGUF_U64] = 8, [AP_GGUF_I64] = 8, [AP_GGUF_F64] = 8};

static apus_err take_value(reader *r, ap_gguf_value *v)
{
    uint64_t type;
    apus_err err = take_name(r, "a metadata key", &v->key);
    if (err) return err;
    if (!take(r, 4, &type)) return truncated(r, "the metadata");
    v->count = 1;
    v->is_array = type == AP_GGUF_ARRAY;
    if (v->is_array && (!take(r, 4, &type) || !take(r, 8, &v->count)))
        return truncated(r, "the metadata");
    if (type >= AP_GGUF_TYPE_COUNT || type == AP_GGUF_ARRAY)
        return ap_fail(r->diag, APUS_EFORMAT, "%s: metadata \"%s\" has unknown type %llu",
                       r->g->name, v->key, (unsigned long long)type);
    v->type = (ap_gguf_type)type;
    v->data = r->at;
    if (v->type == AP_GGUF_STRING) {
        if (v->count > left(r) / 8) return truncated(r, v->key);
        for (uint64_t i = 0; i < v->count; i++) {
            const char *s;
            size_t n;
            if (!take_string(r, &s, &n)) return truncated(r, v->key);
        }
    } else {
        if (v->count > left(r) / type_bytes[v->type]) return truncated(r, v->key);
        r->at += v->count * type_bytes[v->type];
    }
    v->end = r->at;
    return APUS_OK;
}

static apus_err find_type(const reader *r, const char *tensor, uint64_t id, ap_dtype *out)
{
    const ap_ggml_type *t = ap_ggml_type_of(id);
    if (t && t->known) {
        *out = t->dtype;
        return APUS_OK;
    }
    if (!t)
        return ap_fail(r->diag, APUS_EUNSUPPORTED, "%s: tensor \"%s\" has unknown type number %llu",
                       r->g->name, tensor, (unsigned long long)id);
    return ap_fail(r->diag, APUS_EUNSUPPORTED,
                   "%s: tensor \"%s\" has type %s%s, which apus does not read; take a file of "
                   "another type, such as Q4_K_M or Q8_0",
                   r->g->name, tensor, t->name, t->ik ? " of ik_llama.cpp" : "");
}

static apus_err take_record(reader *r, ap_gguf_tensor *t)
{
    uint64_t rank, type, size[MAX_RANK], n = 1;
    apus_err err = take_name(r, "a tensor name", &t->name);
    if (err) return err;
    if (!take(r, 4, &rank)) return truncated(r, t->name);
    if (rank > MAX_RANK)
        return ap_fail(r->diag, APUS_EFORMAT,
                       "%s: tensor \"%s\" has rank %llu, expected at most %d", r->g->name, t->name,
                       (unsigned long long)rank, MAX_RANK);
    for (uint64_t i = 0; i < rank; i++) {
        if (!take(r, 8, &size[i])) return truncated(r, t->name);
        if (size[i] == 0 || size[i] > INT64_MAX || __builtin_mul_overflow(n, size[i], &n) ||
            n > INT64_MAX)
            return ap_fail(r->diag, APUS_EFORMAT,
                           "%s: tensor \"%s\": size %llu of axis %llu is out of range", r->g->name,
                           t->name, (unsigned long long)size[i], (unsigned long long)i);
        t->tensor.shape[rank - 1 - i] = (int64_t)size[i];
    }
    if (!take(r, 4, &type) || !take(r, 8, &t->begin)) return truncated(r, t->name);
    if ((err = find_type(r, t->name, type, &t->tensor.dtype))) return err;
    t->tensor.rank = (int)rank;
    uint64_t block = (uint64_t)ap_dtype_block(t->tensor.dtype), row = rank ? size[0] : 1;
    if (row % block)
        return ap_fail(r->diag, APUS_EFORMAT,
                       "%s: tensor \"%s\": rows of %llu values are not whole %s blocks of %llu",
                       r->g->name, t->name, (unsigned long long)row, ap_dtype_name(t->tensor.dtype),
                       (unsigned long long)block);
    if (__builtin_mul_overflow(n / block, ap_dtype_block_bytes(t->tensor.dtype), &t->end))
        return ap_fail(r->diag, APUS_EFORMAT, "%s: tensor \"%s\" is larger than memory", r->g->name,
                       t->name);
    return APUS_OK; /* end: its size so far */
}

static int by_begin(const void *a, const void *b)
{
    const ap_gguf_tensor *x = *(ap_gguf_tensor *const *)a, *y = *(ap_gguf_tensor *const *)b;
    return x->begin < y->begin ? -1 : x->begin > y->begin;
}

/* Turn offsets into views; refuse what leaves the file or overlaps. */
static apus_err place_tensors(reader *r)
{
    ap_gguf *g = r->g;
    uint64_t alignment = DEFAULT_ALIGNMENT;
    const ap_gguf_value *v = ap_gguf_find(g, "general.alignment");
    int64_t a = 0;
    if (v && !ap_gguf_int(v, 0, &a))
        return ap_fail(r->diag, APUS_EFORMAT, "%s: general.alignment is not a whole number",
                       g->name);
    if (v && (a <= 0 || a > MAX_ALIGNMENT || (a & (a - 1))))
        return ap_fail(r->diag, APUS_EFORMAT,
                       "%s: general.alignment is %lld, expected a power of two up to %d", g->name,
                       (long long)a, MAX_ALIGNMENT);
    if (v) alignment = (uint64_t)a;
    uint64_t header = (uint64_t)(r->at - r->base), total = (uint64_t)(r->end - r->base);
    uint64_t start = (header + alignment - 1) / alignment * alignment;
    ap_gguf_tensor **order = ap_malloc(g->n_tensors, sizeof *order);
    if (!order) return ap_fail_nomem(r->diag, g->n_tensors * sizeof *order, "the tensor list");
    apus_err err = APUS_OK;
    for (size_t i = 0; i < g->n_tensors && !err; i++) {
        ap_gguf_tensor *t = order[i] = &g->tensor[i];
        if (t->begin % alignment)
            err = ap_fail(r->diag, APUS_EFORMAT,
                          "%s: tensor \"%s\" begins at %llu, not a multiple of %llu", g->name,
                          t->name, (unsigned long long)t->begin, (unsigned long long)alignment);
        else if (start > total || t->begin > total - start || t->end > total - start - t->begin)
            err = ap_fail(r->diag, APUS_EFORMAT,
                          "%s: tensor \"%s\" (%llu bytes at %llu) leaves the file of %llu bytes: "
                          "is it truncated?",
                          g->name, t->name, (unsigned long long)t->end,
                          (unsigned long long)(start + t->begin), (unsigned long long)total);
        else {
            t->begin += start;
            t->end += t->begin;
            t->tensor.data = r->base + t->begin;
        }
    }
    if (!err && g->n_tensors) qsort(order, g->n_tensors, sizeof *order, by_begin);
    for (size_t i = 1; i < g->n_tensors && !err; i++)
        if (order[i]->begin < order[i - 1]->end)
            err = ap_fail(r->diag, APUS_EFORMAT, "%s: tensors \"%s\" and \"%s\" overlap", g->name,
                          order[i - 1]->name, order[i]->name);
    ap_free(order);
    return err;
}

static apus_err parse(reader *r)
{
    ap_gguf *g = r->g;
    uint64_t magic, version, n_tensors, n_values;
    if (!take(r, 4, &magic) || magic != 0x46554747)
        return ap_fail(r->diag, APUS_EFORMAT,
                       "%s: not a GGUF file: it does not begin with \"GGUF\"", g->name);
    if (!take(r, 4, &version)) return truncated(r, "the header");
    if (version != 2 && version != 3)
        return ap_fail(r->diag, APUS_EUNSUPPORTED,
                       "%s: GGUF version %llu, expected 2 or 3 (little-endian)", g->name,
                       (unsigned long long)version);
    if (!take(r, 8, &n_tensors) || !take(r, 8, &n_values)) return truncated(r, "the header");
    if (n_values > left(r) / MIN_PAIR || n_tensors > left(r) / MIN_RECORD)
        return ap_fail(r->diag, APUS_EFORMAT,
                       "%s: %llu tensors and %llu metadata pairs do not fit in the file", g->name,
                       (unsigned long long)n_tensors, (unsigned long long)n_values);
    g->value = ap_calloc((size_t)n_values, sizeof *g->value);
    g->tensor = ap_calloc((size_t)n_tensors, sizeof *g->tensor);
    if (!g->value || !g->tensor)
        return ap_fail_nomem(r->diag, (size_t)n_values * sizeof *g->value, "the metadata");
    apus_err err = APUS_OK;
    for (; g->n_values < n_values && !err; g->n_values++) {
        ap_gguf_value *v = &g->value[g->n_values];
        err = take_value(r, v);
        if (!err && !ap_names_add(&g->value_names, v->key, strlen(v->key), g->n_values))
            err = ap_fail_nomem(r->diag, 64, "the metadata");
    }
    if (err) return err;
    const char *twice = ap_names_sort(&g->value_names);
    if (twice)
        return ap_fail(r->diag, APUS_EFORMAT, "%s: metadata \"%s\" appears twice", g->name, twice);
    if (!ap_names_index(&g->value_names)) return ap_fail_nomem(r->diag, 64, "the metadata");
    for (; g->n_tensors < n_tensors && !err; g->n_tensors++)
        err = take_record(r, &g->tensor[g->n_tensors]);
    return err ? err : place_tensors(r);
}

apus_err ap_gguf_parse(const uint8_t *data, size_t len, const char *name, ap_gguf *out,
                       apus_diag *diag)
{
    memset(out, 0, sizeof *out);
    ap_arena_init(&out->arena, 0);
    reader r = {.base = data, .at = data, .end = data + len, .g = out, .diag = diag};
    out->name = ap_arena_strndup(&out->arena, name, strlen(name));
    apus_err err = out->name ? parse(&r) : ap_fail_nomem(diag, strlen(name), "a file name");
    if (err) ap_gguf_close(out);
    return err;
}

apus_err ap_gguf_open(const char *path, ap_gguf *out, apus_diag *diag)
{
    ap_map map;
    apus_err err = ap_map_open(path, &map, diag);
    if (err) return err;
    err = ap_gguf_parse(map.data, map.len, path, out, diag);
    if (err)
        ap_map_close(&map);
    else
        out->map = map;
    return err;
}

void ap_gguf_close(ap_gguf *g)
{
    ap_names_free(&g->value_names);
    ap_free(g->value);
    ap_free(g->tensor);
    ap_arena_free(&g->arena);
    if (g->map.data) ap_map_close(&g->map);
    memset(g, 0, sizeof *g);
}

const ap_gguf_value *ap_gguf_find(const ap_gguf *g, const char *key)
{
    const ap_name *n = ap_names_find(&g->value_names, key, strlen(key));
    return n ? &g->value[n->value] : NULL;
}

bool ap_gguf_int(const ap_gguf_value *v, uint64_t i, int64_t *out)
{
    if (i >= v->count || v->type == AP_GGUF_STRING) return false;
    size_t n = type_bytes[v->type];
    uint64_t u = load(v->data + i * n, n);
    switch (v->type) {
    case AP_GGUF_I8:
        *out = (int8_t)u;
        return true;
    case AP_GGUF_I16:
        *out = (int16_t)u;
        return true;
    case AP_GGUF_I32:
        *out = (int32_t)u;
        return true;
    case AP_GGUF_I64:
        *out = (int64_t)u;
        return true;
    case AP_GGUF_U8:
    case AP_GGUF_U16:
    case AP_GGUF_U32:
    case AP_GGUF_U64:
        *out = (int64_t)u;
        return u <= INT64_MAX;
    case AP_GGUF_BOOL:
        *out = u != 0;
        return true;
    default:
        return false;
    }
}

bool ap_gguf_num(const ap_gguf_value *v, uint64_t i, double *out)
{
    int64_t n;
    if (i < v->count && v->type == AP_GGUF_F32) {
        uint32_t u = (uint32_t)load(v->data + i * 4, 4);
        float f;
        memcpy(&f, &u, 4);
        *out = f;
        return true;
    }
    if (i < v->count && v->type == AP_GGUF_F64) {
        uint64_t u = load(v->data + i * 8, 8);
        memcpy(out, &u, 8);
        return true;
    }
    if (!ap_gguf_int(v, i, &n)) return false;
    *out = (double)n;
    return true;
}

bool ap_gguf_next_string(const ap_gguf_value *v, const uint8_t **at, const char **s, size_t *len)
{
    if (v->type != AP_GGUF_STRING || *at >= v->end) return false;
    *len = (size_t)load(*at, 8); /* checked when the file was read */
    *s = (const char *)*at + 8;
    *at += 8 + *len;
    return true;
}
