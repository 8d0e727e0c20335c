/* http.h - connections and messages: libmicrohttpd, a thread for each connection. */
#ifndef APUS_SERVER_HTTP_H
#define APUS_SERVER_HTTP_H

#include "state.h"

typedef struct sv_http sv_http;

/* Listen and answer. NULL: it cannot be done, which was told on stderr. */
sv_http *sv_http_start(sv_server *s);
/* Take no more connections. */
void sv_http_quiesce(sv_http *h);
/* End all connections, and wait for their threads. */
void sv_http_stop(sv_http *h);

#endif
