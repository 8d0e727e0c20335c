/* gguf_keys.h - a model's metadata below the prefix of its architecture ("qwen35.block_count"), read and
 * written by the families: of a reader the first failure sticks, and gets after it return their default. */
#ifndef AP_FILE_GGUF_KEYS_H
#define AP_FILE_GGUF_KEYS_H

#include "base/json.h"
#include "file/config.h"
#include "file/gguf_write.h"

/* ---------------------------------------------------------------- reading (gguf_hf.c) */

typedef struct ap_meta_in {
    const ap_gguf *const *part; /* [n_part], [0] with the metadata */
    size_t n_part;
    const struct ap_family *family;
    int64_t layers;
    apus_diag *diag;
    apus_err err;
} ap_meta_in;

/* NULL: there is no such key. */
const ap_gguf_value *ap_meta_get(const ap_meta_in *in, const char *key);
bool ap_meta_string_is(const ap_gguf_value *v, const char *want);
/* Element i of an integer key (a scalar stands for every element); def if the key is absent. */
int64_t ap_meta_int(ap_meta_in *in, const char *key, uint64_t i, int64_t def);
/* Absence is an error; then -1. */
int64_t ap_meta_required(ap_meta_in *in, const char *key);
double ap_meta_num(ap_meta_in *in, const char *key, double def);
/* By its full name; NULL: there is none. */
const ap_gguf_tensor *ap_meta_tensor(const ap_meta_in *in, const char *name);

/* A member of the JSON object that b holds so far. */
void ap_meta_add(ap_buf *b, const char *key, int64_t v);
/* The member layer_types: by a list of flags for `other`, or else every interval-th layer is full. */
void ap_meta_layer_kinds(ap_meta_in *in, const char *list_key, const char *other, int64_t interval,
                         ap_buf *b);

/* ---------------------------------------------------------------- writing (gguf_meta.c) */

typedef struct ap_meta_out {
    ap_gguf_writer *w;
    const struct ap_family *f;
    const ap_config *c;
    char key[128];
} ap_meta_out;

/* The full key, until the next call. */
const char *ap_meta_put_key(ap_meta_out *p, const char *leaf);
void ap_meta_put_int(ap_meta_out *p, const char *leaf, int64_t v);
void ap_meta_put_num(ap_meta_out *p, const char *leaf, double v);
void ap_meta_put_text(ap_meta_out *p, const char *leaf, const char *s);

#endif
