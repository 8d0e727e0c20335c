/* output.h - making folders and large files, for results that appear whole or not at all. */
#ifndef AP_BASE_OUTPUT_H
#define AP_BASE_OUTPUT_H

#include <stdint.h>

#include "base/err.h"

/* A file written in any order. */
typedef struct ap_output {
    int fd;
    char *path;
} ap_output;

/* Create a file, which must not exist. EFILE, ENOMEM; *out is untouched on error. */
apus_err ap_output_create(ap_output *out, const char *path, apus_diag *diag);
apus_err ap_output_put(const ap_output *o, uint64_t at, const void *data, size_t n,
                       apus_diag *diag);
/* Frees *o in any case. EFILE if what was put may not have been written. */
apus_err ap_output_close(ap_output *o, apus_diag *diag);

/* Remove a file, if it is there. */
void ap_file_remove(const char *path);

/* Bytes that may still be written to the file system of `path`, which need not exist itself but
 * whose folder must. UINT64_MAX if it cannot be told. */
uint64_t ap_disk_room(const char *path);
/* EFILE with both numbers unless that many bytes fit. */
apus_err ap_disk_check(const char *path, uint64_t bytes, apus_diag *diag);

/* Create a folder, which must not exist. */
apus_err ap_folder_create(const char *path, apus_diag *diag);
/* Remove a folder of plain files, as far as that succeeds. */
void ap_folder_remove(const char *path);
/* Give a folder or a file its name, which nothing must have. */
apus_err ap_folder_rename(const char *from, const char *to, apus_diag *diag);

#endif
