#include "file/safetensors_write.h"

#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "base/output.h"
#include "file/names.h"
#include "file/safetensors.h"

typedef struct entry {
    char *name;
    ap_dtype dtype;
    int rank;
    int64_t shape[AP_MAX_RANK];
    uint64_t begin, bytes;
} entry;

struct ap_st_writer {
    entry *item;
    size_t n, cap;
    ap_output out; /* path NULL = not open */
    uint64_t data_at, total, put;
};

static const char *type_name(ap_dtype t)
{
    static const char *const names[] = {
        [AP_F32] = "F32",   [AP_F16] = "F16",         [AP_BF16] = "BF16",      [AP_F64] = "F64",
        [AP_I8] = "I8",     [AP_I16] = "I16",         [AP_I32] = "I32",        [AP_I64] = "I64",
        [AP_U8] = "U8",     [AP_U16] = "U16",         [AP_U32] = "U32",        [AP_U64] = "U64",
        [AP_BOOL] = "BOOL", [AP_F8_E4M3] = "F8_E4M3", [AP_F8_E5M2] = "F8_E5M2"};
    return (size_t)t < sizeof names / sizeof *names ? names[t] : NULL;
}

apus_err ap_st_writer_create(ap_st_writer **out, apus_diag *diag)
{
    ap_st_writer *w = ap_calloc(1, sizeof *w);
    if (!w) return ap_fail_nomem(diag, sizeof *w, "a file writer");
    *out = w;
    return APUS_OK;
}

void ap_st_writer_free(ap_st_writer *w)
{
    if (!w) return;
    if (w->out.path) ap_output_close(&w->out, false, NULL);
    for (size_t i = 0; i < w->n; i++) ap_free(w->item[i].name);
    ap_free(w->item);
    ap_free(w);
}

apus_err ap_st_writer_add(ap_st_writer *w, const char *name, ap_dtype t, int rank,
                          const int64_t *shape, size_t *index, apus_diag *diag)
{
    if (!type_name(t) || rank > AP_MAX_RANK)
        return ap_fail(diag, APUS_EUNSUPPORTED, "tensor \"%.200s\": type %s cannot be written",
                       name, ap_dtype_name(t));
    if (w->n == w->cap) {
        size_t cap = w->cap ? w->cap * 2 : 256;
        entry *p = ap_realloc(w->item, cap, sizeof *p);
        if (!p) return ap_fail_nomem(diag, cap * sizeof *p, "the tensor list");
        w->item = p;
        w->cap = cap;
    }
    entry *e = &w->item[w->n];
    *e = (entry){.name = ap_strdup(name), .dtype = t, .rank = rank};
    if (!e->name) return ap_fail_nomem(diag, strlen(name), "a tensor's name");
    size_t bytes = ap_dtype_bytes(t);
    bool fits = true;
    for (int i = 0; i < rank; i++) {
        e->shape[i] = shape[i];
        fits = fits && shape[i] >= 0 && ap_mul_size(bytes, (size_t)shape[i], &bytes);
    }
    e->bytes = bytes;
    *index = w->n++;
    return fits ? APUS_OK : ap_fail_nomem(diag, SIZE_MAX, name);
}

uint64_t ap_st_writer_bytes(const ap_st_writer *w)
{
    uint64_t n = 0;
    for (size_t i = 0; i < w->n; i++) n += w->item[i].bytes;
    return n;
}

static apus_err check_names(const ap_st_writer *w, const char *path, apus_diag *diag)
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

static void header_entry(ap_buf *b, entry *e, uint64_t begin)
{
    e->begin = begin;
    ap_buf_adds(b, ",");
    ap_json_quote(b, e->name, strlen(e->name), false);
    ap_buf_addf(b, ":{\"dtype\":\"%s\",\"shape\":[", type_name(e->dtype));
    for (int i = 0; i < e->rank; i++)
        ap_buf_addf(b, "%s%lld", i ? "," : "", (long long)e->shape[i]);
    ap_buf_addf(b, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)begin,
                (unsigned long long)(begin + e->bytes));
}

apus_err ap_st_writer_begin(ap_st_writer *w, const char *path, apus_diag *diag)
{
    ap_buf b = {0};
    apus_err err = check_names(w, path, diag);
    if (err) return err;
    /* transformers wants to know who it is from; "pt" is what it takes for plain arrays. */
    ap_buf_adds(&b, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (size_t size = 8; size; size /= 2)
        for (size_t i = 0; i < w->n; i++)
            if (ap_dtype_bytes(w->item[i].dtype) == size) {
                header_entry(&b, &w->item[i], w->total);
                w->total += w->item[i].bytes;
            }
    ap_buf_adds(&b, "}");
    while (b.len % 8 && !b.failed) ap_buf_adds(&b, " ");
    if (b.failed) {
        err = ap_fail_nomem(diag, b.len, "a file's header");
    } else if (b.len > AP_ST_MAX_HEADER) {
        err = ap_fail(diag, APUS_EUNSUPPORTED, "%s: %zu tensors do not fit the header of one file",
                      path, w->n);
    } else if (!(err = ap_output_create(&w->out, path, 0666, diag))) {
        uint8_t len[8];
        for (int i = 0; i < 8; i++) len[i] = (uint8_t)((uint64_t)b.len >> (8 * i));
        w->data_at = 8 + b.len;
        err = ap_output_put(&w->out, 0, len, sizeof len, diag);
        if (!err) err = ap_output_put(&w->out, 8, b.data, b.len, diag);
    }
    ap_buf_free(&b);
    return err;
}

apus_err ap_st_writer_put(ap_st_writer *w, size_t index, uint64_t at, const void *data, size_t n,
                          apus_diag *diag)
{
    __atomic_fetch_add(&w->put, n, __ATOMIC_RELAXED);
    return ap_output_put(&w->out, w->data_at + w->item[index].begin + at, data, n, diag);
}

apus_err ap_st_writer_finish(ap_st_writer *w, apus_diag *diag)
{
    apus_err err = APUS_OK;
    if (w->put != w->total)
        err = ap_fail(diag, APUS_EINTERNAL, "%s: %llu bytes were written, expected %llu",
                      w->out.path, (unsigned long long)w->put, (unsigned long long)w->total);
    apus_err closed = ap_output_close(&w->out, !err, diag);
    return err ? err : closed;
}
