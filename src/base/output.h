/* output.h - writing large files in any order. Where they are written, and how they get their name, is
 * stage.h's. */
#ifndef AP_BASE_OUTPUT_H
#define AP_BASE_OUTPUT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

/* A file written in any order. */
typedef struct ap_output {
    int fd;
    char *path;
} ap_output;

/* Create a file, which must not exist. mode: its permissions, cut by the umask. EFILE, ENOMEM; *out is
 * untouched on error. */
apus_err ap_output_create(ap_output *out, const char *path, unsigned mode, apus_diag *diag);
/* n bytes at `at`. Several threads may at once. EFILE. */
apus_err ap_output_put(const ap_output *o, uint64_t at, const void *data, size_t n,
                       apus_diag *diag);
/* Frees *o in any case. keep: bring everything to the disk; EFILE if that failed. */
apus_err ap_output_close(ap_output *o, bool keep, apus_diag *diag);

/* A whole file at once, which must not exist. */
apus_err ap_output_write(const char *path, const void *data, size_t n, apus_diag *diag);

/* Bytes that may still be written to the file system of `path`, which need not exist itself but
 * whose folder must. UINT64_MAX if it cannot be told. */
uint64_t ap_disk_room(const char *path);
/* EFILE with both numbers unless that many bytes fit. */
apus_err ap_disk_check(const char *path, uint64_t bytes, apus_diag *diag);

#endif
