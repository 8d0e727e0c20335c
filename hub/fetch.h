/* fetch.h - one content of the hub into a file that is whole and right, or goes on later. */
#ifndef APUS_HUB_FETCH_H
#define APUS_HUB_FETCH_H

#include "files.h"
#include "web.h"

typedef struct hub_fetch_job {
    hub_web *web;
    const char *url;      /* of the hub */
    const char *repo;     /* for sentences */
    const hub_file *file; /* its etag and size are known */
    const char *
        blob; /* where it goes; BLOB.incomplete until then, which always holds the first bytes of it */
    int parallel;                               /* ranges at once */
    uint64_t piece;                             /* bytes of a range */
    void (*progress)(void *ctx, uint64_t done); /* bytes of this file so far; may be NULL */
    void (*say)(void *ctx, const char *line);   /* may be NULL */
    void *ctx;
} hub_fetch_job;

/* Go on from what is there. A wrong checksum removes it, a lost connection or a stop does not; *why tells. The
 * caller has the lock of the blob. */
bool hub_fetch(const hub_fetch_job *job, apus_diag *why);

#endif
