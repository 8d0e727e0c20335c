/* file.h - reading files and mapping them. */
#ifndef AP_BASE_FILE_H
#define AP_BASE_FILE_H

#include <dirent.h>
#include <stdbool.h>

#include "base/err.h"

/* Whole file into memory (zero-terminated besides), at most max_bytes. *data: ap_free it. */
apus_err ap_file_read(const char *path, size_t max_bytes, char **data, size_t *len,
                      apus_diag *diag);

/* A read-only mapping. */
typedef struct ap_map {
    const uint8_t *data;
    size_t len;
    int fd; /* of the file; -1: an empty one */
} ap_map;
apus_err ap_map_open(const char *path, ap_map *out, apus_diag *diag);
void ap_map_close(ap_map *m);
/* Are the n bytes at p all of this mapping? */
bool ap_map_holds(const ap_map *m, const uint8_t *p, size_t n);
/* Copies n bytes that the mapping holds at p to dst by reading the file. What is read once is read so several
 * times as fast as page by page, and a file that was cut short is an error. path: for sentences. EFILE. */
apus_err ap_map_read(const ap_map *m, const char *path, const uint8_t *p, size_t n, void *dst,
                     apus_diag *diag);
/* Bytes of a mapping (any range is clipped to it): soon read, so start reading them; or read and done with:
 * their whole pages stop counting as ours. Hints: the bytes can be read as before. */
void ap_map_want(const ap_map *m, const uint8_t *p, size_t n);
void ap_map_drop(const ap_map *m, const uint8_t *p, size_t n);

bool ap_path_exists(const char *path);
/* A folder that only its owner may enter; one that is there already will do, if it is a folder of this user. EFILE. */
apus_err ap_folder_make(const char *path, apus_diag *diag);
void ap_file_remove(const char *path); /* or nothing */
bool ap_path_is_dir(const char *path);
/* Begin to list a folder; closedir(*out). *out is NULL where there is none, or none that may be listed. ENOMEM;
 * EFILE: it is there, and something else is wrong. */
apus_err ap_folder_list(const char *path, DIR **out, apus_diag *diag);
/* Do both exist and lead to the same file or folder? */
bool ap_path_same(const char *a, const char *b);
/* dir + "/" + name; ap_free it; NULL when memory is out. */
char *ap_path_join(const char *dir, const char *name);

/* Monotonic time. */
int64_t ap_time_us(void);
int64_t ap_time_ns(void);

#endif
