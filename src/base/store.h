/* store.h - the on-disk form of state: checksummed little-endian files, written whole or not; or the
 * same bytes in memory.
 *
 * Errors are sticky: after the first one every call does nothing, so callers check at the end. */
#ifndef AP_BASE_STORE_H
#define AP_BASE_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/stage.h"

typedef struct ap_store {
    int fd;              /* -1: in memory */
    uint8_t *to;         /* written: [room] */
    const uint8_t *from; /* or read: [size] */
    uint64_t room;
    char *path;
    bool writes;
    ap_stage stage; /* of the file being written */
    uint64_t size;  /* reading: bytes of the file; writing: bytes so far */
    uint64_t at;    /* bytes read or written */
    void *hash;     /* running XXH64 of them */
    apus_err err;
    apus_diag *diag;
} ap_store;

/* Begin a file, readable by its owner alone. A regular file of that name is replaced in the end; all
 * else is refused (base/stage.h). */
apus_err ap_store_create(ap_store *s, const char *path, apus_diag *diag);
void ap_store_write(ap_store *s, const void *data, size_t n);
void ap_store_write_u32(ap_store *s, uint32_t v);
void ap_store_write_u64(ap_store *s, uint64_t v);

/* Begin in memory, of exactly that many bytes. ENOMEM. */
apus_err ap_store_create_memory(ap_store *s, uint64_t bytes, apus_diag *diag);

/* Open a regular file for reading. */
apus_err ap_store_open(ap_store *s, const char *path, apus_diag *diag);
/* Read from memory, borrowed until the end. */
apus_err ap_store_open_memory(ap_store *s, const void *data, size_t bytes, apus_diag *diag);
/* n bytes; EFORMAT if the file ends before. After an error the data are zeros. */
void ap_store_read(ap_store *s, void *data, size_t n);
uint32_t ap_store_read_u32(ap_store *s);
uint64_t ap_store_read_u64(ap_store *s);

/* Write the checksum of everything since the last one / read one and compare (EFORMAT). */
void ap_store_sum(ap_store *s);
void ap_store_check(ap_store *s);

/* End: a written file is flushed to the disk and given its name, or removed after an error; a read
 * one is closed. `keep` false drops what was written. Returns the first error. */
apus_err ap_store_close(ap_store *s, int keep);
/* End of writing to memory: *data gets the bytes, ap_free it, or nothing after an error. */
apus_err ap_store_close_memory(ap_store *s, void **data);

#endif
