/* gguf.h - one GGUF file: metadata and tensors, checked completely, as views into the mapping.
 *
 * Layout (little-endian): "GGUF", u32 version (2 or 3), u64 tensors, u64 metadata pairs; pairs of
 * (string key, u32 type, value); tensor records (string name, u32 rank, u64 sizes innermost first,
 * u32 type, u64 offset); then, aligned to general.alignment, the data. Strings are u64 length and
 * bytes. Every count and length is checked against what is left of the file before it is used;
 * arrays of arrays are refused, nothing recurses. Tensors may not overlap and lie inside the file.
 * Source: the GGUF specification, ggml-org/ggml docs/gguf.md. */
#ifndef AP_FILE_GGUF_H
#define AP_FILE_GGUF_H

#include "base/arena.h"
#include "base/err.h"
#include "base/file.h"
#include "file/names.h"
#include "tensor/tensor.h"

typedef enum ap_gguf_type {
    AP_GGUF_U8,
    AP_GGUF_I8,
    AP_GGUF_U16,
    AP_GGUF_I16,
    AP_GGUF_U32,
    AP_GGUF_I32,
    AP_GGUF_F32,
    AP_GGUF_BOOL,
    AP_GGUF_STRING,
    AP_GGUF_ARRAY,
    AP_GGUF_U64,
    AP_GGUF_I64,
    AP_GGUF_F64,
    AP_GGUF_TYPE_COUNT
} ap_gguf_type;

/* A metadata value. */
typedef struct ap_gguf_value {
    const char *key;   /* zero-terminated */
    ap_gguf_type type; /* of the elements, for arrays */
    bool is_array;
    uint64_t count;      /* elements; 1 for scalars */
    const uint8_t *data; /* in the file, unaligned; strings with their lengths */
    const uint8_t *end;
} ap_gguf_value;

typedef struct ap_gguf_tensor {
    const char *name;    /* zero-terminated */
    ap_tensor tensor;    /* sizes outermost first */
    uint64_t begin, end; /* bytes in the file */
} ap_gguf_tensor;

typedef struct ap_gguf {
    ap_map map;       /* empty when made by ap_gguf_parse */
    const char *name; /* for sentences; in the arena */
    ap_arena arena;
    ap_gguf_value *value; /* in file order */
    size_t n_values;
    ap_gguf_tensor *tensor;
    size_t n_tensors;
    ap_names value_names;
} ap_gguf;

/* Map and check a file. EFILE, EFORMAT, EUNSUPPORTED (version, an element type by name), ENOMEM. */
apus_err ap_gguf_open(const char *path, ap_gguf *out, apus_diag *diag);
/* The same on bytes that stay the caller's and must outlive *out. */
apus_err ap_gguf_parse(const uint8_t *data, size_t len, const char *name, ap_gguf *out,
                       apus_diag *diag);
void ap_gguf_close(ap_gguf *g);

/* The value of that key, or NULL. */
const ap_gguf_value *ap_gguf_find(const ap_gguf *g, const char *key);

/* Element i of a value as an integer or a number; false if it is of another kind or out of range
 * of int64_t. Booleans are integers too. */
bool ap_gguf_int(const ap_gguf_value *v, uint64_t i, int64_t *out);
bool ap_gguf_num(const ap_gguf_value *v, uint64_t i, double *out);

/* The next string of a STRING value; *at begins as v->data. false at the end or for other types. */
bool ap_gguf_next_string(const ap_gguf_value *v, const uint8_t **at, const char **s, size_t *len);

#endif
