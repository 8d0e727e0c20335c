/* remote.h - fetch what a URL of a request names, where the server may. */
#ifndef APUS_SERVER_REMOTE_H
#define APUS_SERVER_REMOTE_H

#include <stdint.h>
#include <sys/socket.h>

#include "buf.h"
#include "server.h"

typedef struct sv_remote {
    const sv_names *hosts; /* that may be asked: NAME, *.NAME for all below it, * for all */
    bool (*reachable)(
        const struct sockaddr *a); /* what may be connected to: sv_address_is_public */
    size_t max_bytes;
    int64_t until_us; /* of sv_now_us */
    bool (*stop)(void *ctx);
    void *ctx;
} sv_remote;

/* Is there a library to fetch with? Without one nothing is fetched. */
bool sv_remote_built(void);
/* Before any thread may fetch. false: out of memory. */
bool sv_remote_init(void);

/* GET an http or https URL into out, which is empty. Redirects are followed to hosts that may be asked, never from
 * https to http; no proxy is used, no cookie or password sent, and every address is looked at when it is connected
 * to, whatever its name was resolved to before. false: why says what is wrong, and nothing of what inner networks
 * answer. Any thread. */
bool sv_remote_get(const sv_remote *r, const char *url, sv_buf *out, char *why, size_t cap);

#endif
