/* gguf_write.h - writing a GGUF file (version 3): metadata and names first, tensor data in any order.
 *
 * What gguf.h reads. Data is aligned to 32 bytes, each tensor begins on such a border, in the order
 * they were added. Memory is the metadata and the list of tensors; data goes straight to the file. */
#ifndef AP_FILE_GGUF_WRITE_H
#define AP_FILE_GGUF_WRITE_H

#include <stdbool.h>

#include "base/err.h"
#include "file/gguf.h"
#include "tensor/dtype.h"

typedef struct ap_gguf_writer ap_gguf_writer;

apus_err ap_gguf_writer_create(ap_gguf_writer **out, apus_diag *diag);
/* Closes the file too; what was not finished stays as it is. */
void ap_gguf_writer_free(ap_gguf_writer *w);

/* Metadata, before the file is begun. Running out of memory is told by ap_gguf_writer_begin. */
void ap_gguf_put_u32(ap_gguf_writer *w, const char *key, uint32_t v);
void ap_gguf_put_i32(ap_gguf_writer *w, const char *key, int32_t v);
void ap_gguf_put_f32(ap_gguf_writer *w, const char *key, float v);
void ap_gguf_put_bool(ap_gguf_writer *w, const char *key, bool v);
void ap_gguf_put_string(ap_gguf_writer *w, const char *key, const char *s, size_t len);
/* An array of n elements of which exactly n follow by ap_gguf_add_*. type: I32, F32, BOOL, STRING. */
void ap_gguf_put_array(ap_gguf_writer *w, const char *key, ap_gguf_type type, uint64_t n);
/* A value of another file, as it is. */
void ap_gguf_put_value(ap_gguf_writer *w, const ap_gguf_value *v);
void ap_gguf_add_i32(ap_gguf_writer *w, int32_t v);
void ap_gguf_add_f32(ap_gguf_writer *w, float v);
void ap_gguf_add_bool(ap_gguf_writer *w, bool v);
void ap_gguf_add_string(ap_gguf_writer *w, const char *s, size_t len);

/* Add a tensor before the file is begun; *index numbers it from 0.
 *   t      F32, F16, BF16 or a block type of GGUF
 *   rank   1 .. 4; shape outermost first, the last axis a multiple of the block
 * EUNSUPPORTED: a type, rank or width that GGUF cannot hold. */
apus_err ap_gguf_writer_add(ap_gguf_writer *w, const char *name, ap_dtype t, int rank,
                            const int64_t *shape, size_t *index, apus_diag *diag);

/* Bytes of the file as it will be. */
uint64_t ap_gguf_writer_bytes(const ap_gguf_writer *w);

/* Create the file, which must not exist, with its header. EFILE; EFORMAT: a name appears twice. */
apus_err ap_gguf_writer_begin(ap_gguf_writer *w, const char *path, apus_diag *diag);

/* Write bytes [at, at + n) of a tensor. Several threads may at once. EFILE. */
apus_err ap_gguf_writer_put(ap_gguf_writer *w, size_t index, uint64_t at, const void *data,
                            size_t n, apus_diag *diag);

/* Bring the file to the disk and close it. EINTERNAL unless as many bytes were put as the tensors have. */
apus_err ap_gguf_writer_finish(ap_gguf_writer *w, apus_diag *diag);

/* GGUF's number of a type; -1: it has none. */
int ap_gguf_type_number(ap_dtype t);

#endif
