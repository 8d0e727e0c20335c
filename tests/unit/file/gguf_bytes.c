#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "gguf_bytes.h"

void put(bytes *f, uint64_t v, size_t n)
{
    assert_true(f->n + n <= sizeof f->b);
    for (size_t i = 0; i < n; i++) f->b[f->n++] = (uint8_t)(i < 8 ? v >> 8 * i : 0);
}

void put_text(bytes *f, const char *s)
{
    put(f, strlen(s), 8);
    for (; *s; s++) put(f, (uint8_t)*s, 1);
}

/* Counts are filled in by finish(). */
bytes begin(void)
{
    bytes f = {.n = 0};
    put(&f, 0x46554747, 4);
    put(&f, 3, 4);
    put(&f, 0, 16);
    return f;
}

void kv_text(bytes *f, const char *key, const char *v)
{
    put_text(f, key);
    put(f, AP_GGUF_STRING, 4);
    put_text(f, v);
    f->values++;
}

void kv_int(bytes *f, const char *key, uint32_t v)
{
    put_text(f, key);
    put(f, AP_GGUF_U32, 4);
    put(f, v, 4);
    f->values++;
}

/* Head of an array; the elements follow. */
void kv_array(bytes *f, const char *key, ap_gguf_type type, uint64_t n)
{
    put_text(f, key);
    put(f, AP_GGUF_ARRAY, 4);
    put(f, type, 4);
    put(f, n, 8);
    f->values++;
}

/* A matrix of ggml type `type`, innermost size first. */
void record(bytes *f, const char *name, uint64_t cols, uint64_t rows, uint32_t type, uint64_t at)
{
    put_text(f, name);
    put(f, 2, 4);
    put(f, cols, 8);
    put(f, rows, 8);
    put(f, type, 4);
    put(f, at, 8);
    f->tensors++;
}

void finish(bytes *f, size_t data)
{
    while (f->n % 32) put(f, 0, 1);
    for (size_t i = 0; i < data; i++) put(f, 0, 1);
    size_t n = f->n;
    f->n = 8;
    put(f, f->tensors, 8);
    put(f, f->values, 8);
    f->n = n;
}

void kv_real(bytes *f, const char *key, float v)
{
    uint32_t u;
    memcpy(&u, &v, 4);
    put_text(f, key);
    put(f, AP_GGUF_F32, 4);
    put(f, u, 4);
    f->values++;
}

void kv_texts(bytes *f, const char *key, const char *const *texts)
{
    uint64_t n = 0;
    while (texts[n]) n++;
    kv_array(f, key, AP_GGUF_STRING, n);
    for (; *texts; texts++) put_text(f, *texts);
}

void kv_ints(bytes *f, const char *key, const int32_t *v, size_t n)
{
    kv_array(f, key, AP_GGUF_I32, n);
    for (size_t i = 0; i < n; i++) put(f, (uint32_t)v[i], 4);
}

void base_keys(bytes *f, const char *arch, const char *without)
{
    static const char *const keys[] = {
        "block_count",    "embedding_length",     "attention.head_count",
        "context_length", "attention.key_length", "attention.head_count_kv",
        "expert_count",   "expert_used_count",    "expert_feed_forward_length"};
    static const uint32_t values[] = {2, 8, 2, 64, 4, 1, 2, 1, 8};
    kv_text(f, "general.architecture", arch);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        char key[80];
        snprintf(key, sizeof key, "%s.%s", arch, keys[i]);
        if (!without || strcmp(without, keys[i])) kv_int(f, key, values[i]);
    }
}
