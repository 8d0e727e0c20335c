/* redis.h - prefixes shared with other servers through Redis or Valkey: an apus_store over hiredis. What cannot be
 * had is not there: a server that is down or slow is left alone for some seconds. */
#ifndef APUS_SERVER_REDIS_H
#define APUS_SERVER_REDIS_H

#include "server.h"

typedef struct sv_redis sv_redis;

/* Of the settings; connects when it is asked first. NULL: what is wrong with them was told in the log. */
sv_redis *sv_redis_open(const sv_settings *set);
const apus_store *sv_redis_store(const sv_redis *r);
/* When the scheduler is gone. NULL is fine. */
void sv_redis_free(sv_redis *r);

#endif
