/* aio.h - reads of files that go on while the caller computes: by io_uring where the build and the kernel have
 * it, else by threads. */
#ifndef AP_BASE_AIO_H
#define AP_BASE_AIO_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

#define AP_IO_ALIGN                                                                                \
    4096 /* offsets, addresses and sizes of reads that go around the system's cache */

/* A file to read from. direct: around the system's cache, where its file system can do that. */
typedef struct ap_read_file {
    int fd;
    bool direct;
    uint64_t size; /* when it was opened */
} ap_read_file;

/* EFILE. *out is untouched on error. */
apus_err ap_read_file_open(const char *path, ap_read_file *out, apus_diag *diag);
void ap_read_file_close(ap_read_file *f);

/* Bytes [offset, offset + bytes) of a file, all three multiples of AP_IO_ALIGN. */
typedef struct ap_read {
    const ap_read_file *file; /* open until the read is done, */
    uint64_t offset;
    void *to; /* and this left alone */
    size_t bytes;
    uint64_t tag; /* the caller's */
} ap_read;

typedef struct ap_read_done {
    uint64_t tag;
    int error;  /* errno, 0 = none */
    size_t got; /* less than asked for: the file ends there */
} ap_read_done;

typedef enum ap_aio_kind { AP_AIO_BEST, AP_AIO_URING, AP_AIO_THREADS } ap_aio_kind;

typedef struct ap_aio ap_aio;

/* depth: reads that may be under way, 1 .. 256. EUNSUPPORTED: no io_uring in this build or kernel; ENOMEM. */
apus_err ap_aio_create(ap_aio_kind kind, int depth, ap_aio **out, apus_diag *diag);
/* Waits for what is under way. */
void ap_aio_free(ap_aio *a);

/* "io_uring" or "threads" */
const char *ap_aio_name(const ap_aio *a);

/* Tell the kernel once about memory that reads go to, so that it need not look at its pages in every one; at most
 * once. A hint: reads to other memory work too, and no error if the system does not allow it.
 *   unit  no read crosses a multiple of it, from mem on */
void ap_aio_register(ap_aio *a, void *mem, size_t bytes, size_t unit);

/* Reads that may be begun now. */
int ap_aio_room(const ap_aio *a);
/* Begin a read; there is room. Those of several calls begin at the latest with the next ap_aio_collect. */
void ap_aio_begin(ap_aio *a, const ap_read *r);
/* Reads that are done, at most `most`, in any order. wait: for one, if any is under way. */
int ap_aio_collect(ap_aio *a, ap_read_done *done, int most, bool wait);

#endif
