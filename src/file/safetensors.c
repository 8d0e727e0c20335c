#include "file/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "file/names.h"

enum { HAS_DTYPE = 1, HAS_SHAPE = 2, HAS_OFFSETS = 4, HAS_ALL = 7 };

/* What the next value is. */
typedef enum state {
    AT_TOP,    /* the header object */
    AT_ENTRY,  /* value of a name: a tensor's object, or the metadata */
    IN_META,   /* a metadata text */
    IN_TENSOR, /* between a tensor's keys */
    AT_DTYPE,
    AT_SHAPE,
    AT_OFFSETS,
    IN_SHAPE,
    IN_OFFSETS
} state;

typedef struct reader {
    const char *file;
    const uint8_t *data; /* data section */
    size_t data_len;
    apus_diag *diag;
    ap_safetensors *st;
    size_t cap;
    ap_names meta; /* keys of __metadata__ */
    bool has_meta;
    state state;
    ap_st_entry cur;
    unsigned has;
    int n_offsets;
} reader;

static const struct {
    const char *name;
    ap_dtype type;
} dtypes[] = {
    {"F32", AP_F32},   {"F16", AP_F16},         {"BF16", AP_BF16},       {"F64", AP_F64},
    {"I8", AP_I8},     {"I16", AP_I16},         {"I32", AP_I32},         {"I64", AP_I64},
    {"U8", AP_U8},     {"U16", AP_U16},         {"U32", AP_U32},         {"U64", AP_U64},
    {"BOOL", AP_BOOL}, {"F8_E4M3", AP_F8_E4M3}, {"F8_E5M2", AP_F8_E5M2},
};

static bool is(const ap_json_event *e, const char *s)
{
    return e->len == strlen(s) && !memcmp(e->str, s, e->len);
}

static apus_err fail_tensor(reader *r, const char *what)
{
    return ap_fail(r->diag, APUS_EFORMAT, "%s: tensor \"%.200s\": %s", r->file, r->cur.name, what);
}

/* A name's value was opened: metadata or a tensor. */
static apus_err begin_entry(reader *r, const ap_json_event *e)
{
    bool meta = !strcmp(r->cur.name, "__metadata__");
    bool none = meta && e->type == AP_JSON_EV_NULL; /* as MLX and the format's own reader have it */
    if (!none && e->type != AP_JSON_EV_BEGIN_OBJECT)
        return fail_tensor(r, "expected an object with dtype, shape and data_offsets");
    if (meta && r->has_meta)
        return ap_fail(r->diag, APUS_EFORMAT, "%s: \"__metadata__\" appears twice", r->file);
    r->has_meta |= meta;
    r->state = none ? AT_TOP : meta ? IN_META : IN_TENSOR;
    return APUS_OK;
}

static apus_err read_name(reader *r, const ap_json_event *e)
{
    if (e->len == 0 || memchr(e->str, 0, e->len))
        return ap_fail(r->diag, APUS_EFORMAT, "%s: a tensor's name is empty or has a zero byte",
                       r->file);
    r->cur = (ap_st_entry){.name_len = e->len};
    r->cur.name = ap_arena_strndup(&r->st->names, e->str, e->len);
    r->has = 0;
    r->n_offsets = 0;
    r->state = AT_ENTRY;
    return r->cur.name ? APUS_OK : ap_fail_nomem(r->diag, e->len, "a tensor's name");
}

static apus_err read_meta(reader *r, const ap_json_event *e)
{
    if (e->type == AP_JSON_EV_STRING) return APUS_OK;
    if (e->type != AP_JSON_EV_KEY)
        return ap_fail(r->diag, APUS_EFORMAT,
                       "%s: \"__metadata__\": expected texts only, found another value", r->file);
    char *key = ap_arena_strndup(&r->st->names, e->str, e->len);
    if (!key || !ap_names_add(&r->meta, key, e->len, 0))
        return ap_fail_nomem(r->diag, e->len, "the file's metadata");
    return APUS_OK;
}

static apus_err read_key(reader *r, const ap_json_event *e)
{
    unsigned bit = is(e, "dtype")          ? HAS_DTYPE
                   : is(e, "shape")        ? HAS_SHAPE
                   : is(e, "data_offsets") ? HAS_OFFSETS
                                           : 0;
    if (!bit)
        return ap_fail(r->diag, APUS_EFORMAT,
                       "%s: tensor \"%.200s\": unknown key \"%.*s\", expected dtype, shape and "
                       "data_offsets",
                       r->file, r->cur.name, e->len < 80 ? (int)e->len : 80, e->str);
    if (r->has & bit)
        return ap_fail(r->diag, APUS_EFORMAT,
                       "%s: tensor \"%.200s\": the key \"%.*s\" appears twice", r->file,
                       r->cur.name, (int)e->len, e->str);
    r->has |= bit;
    r->state = bit == HAS_DTYPE ? AT_DTYPE : bit == HAS_SHAPE ? AT_SHAPE : AT_OFFSETS;
    return APUS_OK;
}

static apus_err read_dtype(reader *r, const ap_json_event *e)
{
    if (e->type != AP_JSON_EV_STRING) return fail_tensor(r, "dtype is not a text");
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
        if (is(e, dtypes[i].name)) {
            r->cur.tensor.dtype = dtypes[i].type;
            r->state = IN_TENSOR;
            return APUS_OK;
        }
    }
    return ap_fail(r->diag, APUS_EUNSUPPORTED,
                   "%s: tensor \"%.200s\": the element type \"%.*s\" is not supported", r->file,
                   r->cur.name, e->len < 40 ? (int)e->len : 40, e->str);
}

static apus_err read_number(reader *r, const ap_json_event *e)
{
    int64_t v;
    bool shape = r->state == IN_SHAPE;
    if (e->type != AP_JSON_EV_NUMBER || !ap_json_int(e->str, e->len, &v) || v < 0)
        return fail_tensor(r, shape ? "shape: expected integers from 0 up"
                                    : "data_offsets: expected two integers from 0 up");
    if (shape) {
        ap_tensor *t = &r->cur.tensor;
        if (t->rank == AP_MAX_RANK) return fail_tensor(r, "shape: more than 8 dimensions");
        t->shape[t->rank++] = v;
        return APUS_OK;
    }
    if (r->n_offsets == 2) return fail_tensor(r, "data_offsets: more than two numbers");
    *(r->n_offsets++ ? &r->cur.end : &r->cur.begin) = (uint64_t)v;
    return APUS_OK;
}

/* Product of the shape times the element size; false on overflow. Sizes of 0 do not hide an
 * overflow of the others. */
static bool tensor_bytes(const ap_tensor *t, uint64_t *out)
{
    uint64_t n = ap_dtype_bytes(t->dtype), zero = 1;
    for (int i = 0; i < t->rank; i++) {
        if (t->shape[i] == 0)
            zero = 0;
        else if (__builtin_mul_overflow(n, (uint64_t)t->shape[i], &n) || n > INT64_MAX)
            return false;
    }
    *out = n * zero;
    return true;
}

static apus_err add_entry(reader *r)
{
    ap_safetensors *st = r->st;
    if (st->n == r->cap) {
        size_t cap = r->cap ? r->cap * 2 : 64;
        ap_st_entry *p = ap_realloc(st->entry, cap, sizeof *p);
        if (!p) return ap_fail_nomem(r->diag, cap * sizeof *p, "the tensor list");
        st->entry = p;
        r->cap = cap;
    }
    st->entry[st->n++] = r->cur;
    return APUS_OK;
}

static apus_err end_tensor(reader *r)
{
    ap_st_entry *e = &r->cur;
    uint64_t bytes;
    if (r->has != HAS_ALL)
        return fail_tensor(r, !(r->has & HAS_DTYPE)   ? "dtype is missing"
                              : !(r->has & HAS_SHAPE) ? "shape is missing"
                                                      : "data_offsets is missing");
    if (e->begin > e->end || e->end > r->data_len)
        return ap_fail(r->diag, APUS_EFORMAT,
                       "%s: tensor \"%.200s\": data_offsets [%llu, %llu] do not lie in the data "
                       "section of %zu bytes",
                       r->file, e->name, (unsigned long long)e->begin, (unsigned long long)e->end,
                       r->data_len);
    if (!tensor_bytes(&e->tensor, &bytes)) return fail_tensor(r, "shape: the size overflows");
    if (bytes != e->end - e->begin)
        return ap_fail(r->diag, APUS_EFORMAT,
                       "%s: tensor \"%.200s\": its shape needs %llu bytes, data_offsets give %llu",
                       r->file, e->name, (unsigned long long)bytes,
                       (unsigned long long)(e->end - e->begin));
    e->tensor.data = bytes ? r->data + e->begin : NULL;
    r->state = AT_TOP;
    return add_entry(r);
}

static apus_err on_event(void *ctx, const ap_json_event *e)
{
    reader *r = ctx;
    switch (r->state) {
    case AT_TOP:
        if (e->type == AP_JSON_EV_KEY) return read_name(r, e);
        return APUS_OK; /* the outermost braces: the first byte was checked */
    case AT_ENTRY:
        return begin_entry(r, e);
    case IN_META:
        if (e->type != AP_JSON_EV_END_OBJECT) return read_meta(r, e);
        r->state = AT_TOP;
        return APUS_OK;
    case IN_TENSOR:
        return e->type == AP_JSON_EV_KEY ? read_key(r, e) : end_tensor(r);
    case AT_DTYPE:
        return read_dtype(r, e);
    case AT_SHAPE:
    case AT_OFFSETS:
        if (e->type != AP_JSON_EV_BEGIN_ARRAY)
            return fail_tensor(r, r->state == AT_SHAPE ? "shape is not a list"
                                                       : "data_offsets is not a list");
        r->state = r->state == AT_SHAPE ? IN_SHAPE : IN_OFFSETS;
        return APUS_OK;
    case IN_SHAPE:
    case IN_OFFSETS:
        if (e->type != AP_JSON_EV_END_ARRAY) return read_number(r, e);
        if (r->state == IN_OFFSETS && r->n_offsets != 2)
            return fail_tensor(r, "data_offsets: expected two numbers");
        r->state = IN_TENSOR;
        return APUS_OK;
    }
    return APUS_OK;
}

static int by_offset(const void *pa, const void *pb)
{
    const ap_st_entry *a = pa, *b = pb;
    if (a->begin != b->begin) return a->begin < b->begin ? -1 : 1;
    if (a->end != b->end) return a->end < b->end ? -1 : 1;
    int c = memcmp(a->name, b->name, a->name_len < b->name_len ? a->name_len : b->name_len);
    return c ? c : (a->name_len > b->name_len) - (a->name_len < b->name_len);
}

/* In file order every tensor begins where the one before ended. */
static apus_err check_cover(reader *r)
{
    uint64_t at = 0;
    ap_safetensors *st = r->st;
    if (st->n) qsort(st->entry, st->n, sizeof *st->entry, by_offset);
    for (size_t i = 0; i < st->n; i++) {
        const ap_st_entry *e = &st->entry[i];
        if (e->begin != at)
            return ap_fail(
                r->diag, APUS_EFORMAT,
                "%s: tensor \"%.200s\" begins at byte %llu of the data section, expected "
                "%llu: tensors %s",
                r->file, e->name, (unsigned long long)e->begin, (unsigned long long)at,
                e->begin < at ? "overlap" : "leave a hole");
        at = e->end;
    }
    if (at != r->data_len)
        return ap_fail(r->diag, APUS_EFORMAT,
                       "%s: the tensors end at byte %llu of the data section, which has %zu bytes",
                       r->file, (unsigned long long)at, r->data_len);
    return APUS_OK;
}

static apus_err check_names(reader *r)
{
    ap_names names = {0};
    apus_err err = APUS_OK;
    const char *twice;
    for (size_t i = 0; i < r->st->n; i++)
        if (!ap_names_add(&names, r->st->entry[i].name, r->st->entry[i].name_len, i)) {
            err = ap_fail_nomem(r->diag, r->st->n * sizeof(ap_name), "the tensor names");
            goto done;
        }
    if ((twice = ap_names_sort(&names)) || (twice = ap_names_sort(&r->meta)))
        err =
            ap_fail(r->diag, APUS_EFORMAT, "%s: the name \"%.200s\" appears twice", r->file, twice);
done:
    ap_names_free(&names);
    return err;
}

apus_err ap_safetensors_parse(const uint8_t *data, size_t len, const char *name,
                              ap_safetensors *out, apus_diag *diag)
{
    ap_safetensors st = {0};
    uint64_t n = 0;
    if (len < 8)
        return ap_fail(diag, APUS_EFORMAT, "%s: %zu bytes are too few for a safetensors file", name,
                       len);
    for (int i = 0; i < 8; i++) n |= (uint64_t)data[i] << 8 * i;
    if (n > AP_ST_MAX_HEADER || n > len - 8)
        return ap_fail(diag, APUS_EFORMAT,
                       "%s: header length %llu, expected at most %llu and no more than the file "
                       "holds (%zu); is it a safetensors file, and whole?",
                       name, (unsigned long long)n, (unsigned long long)AP_ST_MAX_HEADER, len - 8);
    if (n == 0 || data[8] != '{')
        return ap_fail(diag, APUS_EFORMAT, "%s: the header does not begin with '{'", name);
    ap_arena_init(&st.names, 0);
    reader r = {.file = name,
                .data = data + 8 + n,
                .data_len = len - 8 - (size_t)n,
                .diag = diag,
                .st = &st};
    apus_err err = ap_json_walk((const char *)data + 8, (size_t)n, name, on_event, &r, diag);
    if (!err) err = check_names(&r);
    if (!err) err = check_cover(&r);
    ap_names_free(&r.meta);
    if (err)
        ap_safetensors_close(&st);
    else
        *out = st;
    return err;
}

apus_err ap_safetensors_open(const char *path, ap_safetensors *out, apus_diag *diag)
{
    ap_map map;
    apus_err err = ap_map_open(path, &map, diag);
    if (err) return err;
    err = ap_safetensors_parse(map.data, map.len, path, out, diag);
    if (err)
        ap_map_close(&map);
    else
        out->map = map;
    return err;
}

void ap_safetensors_close(ap_safetensors *s)
{
    if (!s) return;
    ap_map_close(&s->map);
    ap_arena_free(&s->names);
    ap_free(s->entry);
    memset(s, 0, sizeof *s);
}
