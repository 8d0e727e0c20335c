/* digest.h - the hashes that the hub names contents by. */
#ifndef APUS_HUB_DIGEST_H
#define APUS_HUB_DIGEST_H

#include <stddef.h>
#include <stdint.h>

#include "why.h"

typedef struct hub_digest hub_digest;

/* etag: what the content is to have: 64 digits for SHA-256, 40 for git's SHA-1 of a blob of `size` bytes.
 * NULL: no memory. */
hub_digest *hub_digest_new(const char *etag, uint64_t size);
void hub_digest_free(hub_digest *d);
bool hub_digest_begin(hub_digest *d); /* (again) */
bool hub_digest_add(hub_digest *d, const void *data, size_t n);
/* Is what was added what the etag says? */
bool hub_digest_agrees(hub_digest *d);

#endif
