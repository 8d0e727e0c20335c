/* safetensors_write.h - writing a safetensors file: names and shapes first, data in any order.
 *
 * The tensors stand in the file by falling element size, each aligned to it. */
#ifndef AP_FILE_SAFETENSORS_WRITE_H
#define AP_FILE_SAFETENSORS_WRITE_H

#include "base/err.h"
#include "tensor/dtype.h"

typedef struct ap_st_writer ap_st_writer;

apus_err ap_st_writer_create(ap_st_writer **out, apus_diag *diag);
/* Closes the file too; what was not finished stays as it is. */
void ap_st_writer_free(ap_st_writer *w);

/* Add a tensor of a plain type before the file is begun; *index numbers it from 0.
 * EUNSUPPORTED: a type that safetensors has no name for. */
apus_err ap_st_writer_add(ap_st_writer *w, const char *name, ap_dtype t, int rank,
                          const int64_t *shape, size_t *index, apus_diag *diag);

/* Bytes of all tensors added so far. */
uint64_t ap_st_writer_bytes(const ap_st_writer *w);

/* Create the file, which must not exist, with its header. EFILE; EFORMAT: a name appears twice. */
apus_err ap_st_writer_begin(ap_st_writer *w, const char *path, apus_diag *diag);

/* Write bytes [at, at + n) of a tensor. Several threads may at once. EFILE. */
apus_err ap_st_writer_put(ap_st_writer *w, size_t index, uint64_t at, const void *data, size_t n,
                          apus_diag *diag);

/* Bring the file to the disk and close it. EINTERNAL unless as many bytes were put as the tensors have. */
apus_err ap_st_writer_finish(ap_st_writer *w, apus_diag *diag);

#endif
