/* gguf_bytes.h - writes small GGUF files into memory for tests, piece by piece, wrong ones too. */
#ifndef AP_TESTS_GGUF_BYTES_H
#define AP_TESTS_GGUF_BYTES_H

#include <stddef.h>
#include <stdint.h>

#include "file/gguf.h"

typedef struct bytes {
    uint8_t b[8192];
    size_t n;
    uint64_t tensors, values;
} bytes;

bytes begin(void);
void put(bytes *f, uint64_t v, size_t n);
void put_text(bytes *f, const char *s);

void kv_text(bytes *f, const char *key, const char *v);
void kv_int(bytes *f, const char *key, uint32_t v);
void kv_real(bytes *f, const char *key, float v);
/* Head of an array; the elements follow. */
void kv_array(bytes *f, const char *key, ap_gguf_type type, uint64_t n);
/* Whole arrays; texts is a list ended by NULL. */
void kv_texts(bytes *f, const char *key, const char *const *texts);
void kv_ints(bytes *f, const char *key, const int32_t *v, size_t n);

/* A matrix of ggml type `type`, innermost size first. */
void record(bytes *f, const char *name, uint64_t cols, uint64_t rows, uint32_t type, uint64_t at);

/* Fill in the counts; data: bytes of tensors, zero. */
void finish(bytes *f, size_t data);

/* The keys that every configuration needs, but one. */
void base_keys(bytes *f, const char *arch, const char *without);

#endif
