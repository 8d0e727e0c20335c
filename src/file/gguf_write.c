#include "file/gguf_write.h"

#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "base/output.h"

enum { ALIGNMENT = 32, MAX_RANK = 4, VERSION = 3 };

typedef struct entry {
    char *name;
    ap_dtype dtype;
    int rank;
    uint64_t shape[MAX_RANK]; /* innermost first, as the file has it */
    uint64_t begin, bytes;
} entry;

struct ap_gguf_writer {
    ap_buf meta;
    uint64_t n_meta;
    entry *item;
    size_t n, cap;
    ap_output out; /* path NULL = not open */
    uint64_t data_at, data_bytes, wanted, put;
};

int ap_gguf_type_number(ap_dtype t)
{
    static const struct {
        ap_dtype dtype;
        int number;
    } known[] = {{AP_F32, 0},      {AP_F16, 1},     {AP_Q4_0, 2},     {AP_Q4_1, 3},
                 {AP_Q5_0, 6},     {AP_Q5_1, 7},    {AP_Q8_0, 8},     {AP_Q2_K, 10},
                 {AP_Q3_K, 11},    {AP_Q4_K, 12},   {AP_Q5_K, 13},    {AP_Q6_K, 14},
                 {AP_IQ2_XXS, 16}, {AP_IQ2_XS, 17}, {AP_IQ3_XXS, 18}, {AP_IQ4_NL, 20},
                 {AP_IQ3_S, 21},   {AP_IQ2_S, 22},  {AP_IQ4_XS, 23},  {AP_BF16, 30},
                 {AP_MXFP4, 39}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].dtype == t) return known[i].number;
    return -1;
}

apus_err ap_gguf_writer_create(ap_gguf_writer **out, apus_diag *diag)
{
    ap_gguf_writer *w = ap_calloc(1, sizeof *w);
    if (!w) return ap_fail_nomem(diag, sizeof *w, "a file writer");
    *out = w;
    return APUS_OK;
}

void ap_gguf_writer_free(ap_gguf_writer *w)
{
    if (!w) return;
    if (w->out.path) ap_output_close(&w->out, false, NULL);
    for (size_t i = 0; i < w->n; i++) ap_free(w->item[i].name);
    ap_free(w->item);
    ap_buf_free(&w->meta);
    ap_free(w);
}

/* ---------------------------------------------------------------- little-endian bytes */

static void add_number(ap_buf *b, uint64_t v, size_t bytes)
{
    char text[8];
    for (size_t i = 0; i < bytes; i++) text[i] = (char)(uint8_t)(v >> (8 * i));
    ap_buf_add(b, text, bytes);
}

static void add_text(ap_buf *b, const char *s, size_t len)
{
    add_number(b, len, 8);
    ap_buf_add(b, s, len);
}

static uint32_t float_bits(float v)
{
    uint32_t u;
    memcpy(&u, &v, 4);
    return u;
}

/* ---------------------------------------------------------------- metadata */

static void put_key(ap_gguf_writer *w, const char *key, ap_gguf_type type)
{
    add_text(&w->meta, key, strlen(key));
    add_number(&w->meta, (uint64_t)type, 4);
    w->n_meta++;
}

void ap_gguf_put_value(ap_gguf_writer *w, const ap_gguf_value *v)
{
    put_key(w, v->key, v->is_array ? AP_GGUF_ARRAY : v->type);
    if (v->is_array) {
        add_number(&w->meta, (uint64_t)v->type, 4);
        add_number(&w->meta, v->count, 8);
    }
    ap_buf_add(&w->meta, (const char *)v->data, (size_t)(v->end - v->data));
}

void ap_gguf_put_u32(ap_gguf_writer *w, const char *key, uint32_t v)
{
    put_key(w, key, AP_GGUF_U32);
    add_number(&w->meta, v, 4);
}

void ap_gguf_put_i32(ap_gguf_writer *w, const char *key, int32_t v)
{
    put_key(w, key, AP_GGUF_I32);
    ap_gguf_add_i32(w, v);
}

void ap_gguf_put_f32(ap_gguf_writer *w, const char *key, float v)
{
    put_key(w, key, AP_GGUF_F32);
    ap_gguf_add_f32(w, v);
}

void ap_gguf_put_bool(ap_gguf_writer *w, const char *key, bool v)
{
    put_key(w, key, AP_GGUF_BOOL);
    ap_gguf_add_bool(w, v);
}

void ap_gguf_put_string(ap_gguf_writer *w, const char *key, const char *s, size_t len)
{
    put_key(w, key, AP_GGUF_STRING);
    add_text(&w->meta, s, len);
}

void ap_gguf_put_array(ap_gguf_writer *w, const char *key, ap_gguf_type type, uint64_t n)
{
    put_key(w, key, AP_GGUF_ARRAY);
    add_number(&w->meta, (uint64_t)type, 4);
    add_number(&w->meta, n, 8);
}

void ap_gguf_add_i32(ap_gguf_writer *w, int32_t v)
{
    add_number(&w->meta, (uint32_t)v, 4);
}

void ap_gguf_add_f32(ap_gguf_writer *w, float v)
{
    add_number(&w->meta, float_bits(v), 4);
}

void ap_gguf_add_bool(ap_gguf_writer *w, bool v)
{
    add_number(&w->meta, v, 1);
}

void ap_gguf_add_string(ap_gguf_writer *w, const char *s, size_t len)
{
    add_text(&w->meta, s, len);
}

/* ---------------------------------------------------------------- tensors */

static apus_err grow(ap_gguf_writer *w, apus_diag *diag)
{
    if (w->n < w->cap) return APUS_OK;
    size_t cap = w->cap ? w->cap * 2 : 256;
    entry *p = ap_realloc(w->item, cap, sizeof *p);
    if (!p) return ap_fail_nomem(diag, cap * sizeof *p, "the tensor list");
    w->item = p;
    w->cap = cap;
    return APUS_OK;
}

apus_err ap_gguf_writer_add(ap_gguf_writer *w, const char *name, ap_dtype t, int rank,
                            const int64_t *shape, size_t *index, apus_diag *diag)
{
    int block = ap_dtype_block(t);
    if (ap_gguf_type_number(t) < 0 || rank < 1 || rank > MAX_RANK || shape[rank - 1] % block)
        return ap_fail(diag, APUS_EUNSUPPORTED,
                       "tensor \"%.200s\" cannot be written as %s: rank %d, width %lld", name,
                       ap_dtype_name(t), rank, rank > 0 ? (long long)shape[rank - 1] : 0);
    apus_err err = grow(w, diag);
    if (err) return err;
    entry *e = &w->item[w->n];
    *e = (entry){.name = ap_strdup(name), .dtype = t, .rank = rank};
    if (!e->name) return ap_fail_nomem(diag, strlen(name), "a tensor's name");
    size_t n = 1;
    bool fits = true;
    for (int i = 0; i < rank; i++) {
        e->shape[rank - 1 - i] = (uint64_t)shape[i];
        fits = fits && shape[i] >= 0 && ap_mul_size(n, (size_t)shape[i], &n);
    }
    *index = w->n++;
    if (!fits || !ap_mul_size(n / (size_t)block, ap_dtype_block_bytes(t), &n) || n > SIZE_MAX / 2)
        return ap_fail_nomem(diag, SIZE_MAX, name);
    e->bytes = n;
    e->begin = w->data_bytes;
    w->wanted += n;
    w->data_bytes += ap_round_up(n, ALIGNMENT);
    return APUS_OK;
}

static size_t head_bytes(const ap_gguf_writer *w)
{
    size_t n = 4 + 4 + 8 + 8 + w->meta.len;
    for (size_t i = 0; i < w->n; i++)
        n += 8 + strlen(w->item[i].name) + 4 + 8 * (size_t)w->item[i].rank + 4 + 8;
    return ap_round_up(n, ALIGNMENT);
}

uint64_t ap_gguf_writer_bytes(const ap_gguf_writer *w)
{
    return head_bytes(w) + w->data_bytes;
}

static apus_err check_names(const ap_gguf_writer *w, const char *path, apus_diag *diag)
{
    ap_names names = {0};
    bool ok = true;
    for (size_t i = 0; i < w->n && ok; i++)
        ok = ap_names_add(&names, w->item[i].name, strlen(w->item[i].name), i);
    const char *twice = ok ? ap_names_sort(&names) : NULL;
    apus_err err = ok ? APUS_OK : ap_fail_nomem(diag, w->n * sizeof(ap_name), "the tensor names");
    if (twice)
        err = ap_fail(diag, APUS_EFORMAT, "%s: tensor \"%.200s\" would appear twice", path, twice);
    ap_names_free(&names);
    return err;
}

static void add_record(ap_buf *b, const entry *e)
{
    add_text(b, e->name, strlen(e->name));
    add_number(b, (uint64_t)e->rank, 4);
    for (int i = 0; i < e->rank; i++) add_number(b, e->shape[i], 8);
    add_number(b, (uint64_t)ap_gguf_type_number(e->dtype), 4);
    add_number(b, e->begin, 8);
}

apus_err ap_gguf_writer_begin(ap_gguf_writer *w, const char *path, apus_diag *diag)
{
    static const char zeros[ALIGNMENT] = {0};
    ap_buf b = {0};
    apus_err err = check_names(w, path, diag);
    if (err) return err;
    ap_buf_add(&b, "GGUF", 4);
    add_number(&b, VERSION, 4);
    add_number(&b, w->n, 8);
    add_number(&b, w->n_meta, 8);
    if (w->meta.len) ap_buf_add(&b, w->meta.data, w->meta.len);
    for (size_t i = 0; i < w->n; i++) add_record(&b, &w->item[i]);
    ap_buf_add(&b, zeros, ap_round_up(b.len, ALIGNMENT) - b.len);
    w->data_at = b.len;
    if (b.failed || w->meta.failed)
        err = ap_fail_nomem(diag, b.len, "a file's header");
    else if (!(err = ap_output_create(&w->out, path, 0666, diag)))
        err = ap_output_put(&w->out, 0, b.data, b.len, diag);
    ap_buf_free(&b);
    return err;
}

apus_err ap_gguf_writer_put(ap_gguf_writer *w, size_t index, uint64_t at, const void *data,
                            size_t n, apus_diag *diag)
{
    const entry *e = &w->item[index];
    apus_err err = ap_output_put(&w->out, w->data_at + e->begin + at, data, n, diag);
    __atomic_fetch_add(&w->put, n, __ATOMIC_RELAXED);
    return err;
}

apus_err ap_gguf_writer_finish(ap_gguf_writer *w, apus_diag *diag)
{
    apus_err err = APUS_OK;
    const entry *last = w->n ? &w->item[w->n - 1] : NULL;
    uint64_t pad = last ? ap_round_up(last->bytes, ALIGNMENT) - last->bytes : 0;
    static const char zeros[ALIGNMENT] = {0};
    if (w->put != w->wanted)
        err = ap_fail(diag, APUS_EINTERNAL, "%s: %llu bytes were written, expected %llu",
                      w->out.path, (unsigned long long)w->put, (unsigned long long)w->wanted);
    /* Holes between tensors read as zeros; the last one's padding has to be there. */
    if (!err && pad)
        err = ap_output_put(&w->out, w->data_at + last->begin + last->bytes, zeros, pad, diag);
    apus_err closed = ap_output_close(&w->out, !err, diag);
    return err ? err : closed;
}
