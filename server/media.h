/* media.h - pictures, videos and sound of a request: from base64 to what the model is shown. Bounds hold before
 * memory is taken: bytes by the body's, pixels and frames by the library's and the settings', how many at once by
 * sv_media_gate. */
#ifndef APUS_SERVER_MEDIA_H
#define APUS_SERVER_MEDIA_H

#include <pthread.h>

#include "job.h"

/* What requests of all connections have in work. */
typedef struct sv_media_gate {
    pthread_mutex_t lock;
    pthread_cond_t left;
    int decoding, fetching; /* now */
    size_t bytes;           /* of what is prepared, of all requests */
} sv_media_gate;

void sv_media_gate_init(sv_media_gate *g);

/* How clear a picture shall be: detail of OpenAI's APIs. NULL = auto. false: no such word. */
bool sv_media_detail(sv_exchange *x, sv_job *j, const char *detail, const char *path, int *tokens);

/* Take one into the job. What comes of it is a part of the conversation's content, in the order of these calls.
 *   path    of the field, for errors
 *   tokens  most tokens; 0 = as the job says, or the server, or the model
 *   base64  of the file
 * false: sv_fail was called. */
bool sv_media_add(sv_exchange *x, sv_job *j, apus_media_type kind, const char *path, int tokens,
                  const char *base64, size_t len);
/* The same of "data:image/png;base64,...", and of http and https where the settings allow the host. */
bool sv_media_add_url(sv_exchange *x, sv_job *j, apus_media_type kind, const char *path, int tokens,
                      const sv_json *url);
/* Give up all of a job. */
void sv_media_free(sv_job *j);

#endif
