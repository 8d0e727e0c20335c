/* guard.h - who may ask: the checks of a request's head, before its body is looked at. */
#ifndef APUS_SERVER_GUARD_H
#define APUS_SERVER_GUARD_H

#include "exchange.h"

/* What of the head is checked; NULL = not there. */
typedef struct sv_head {
    const char *host, *origin, *fetch_site, *authorization, *api_key, *content_type;
} sv_head;

/* A page of another site must not be able to ask (Origin, Sec-Fetch-Site), nor one that had its name pointed to
 * this machine (Host), nor a form; and a key must be given, if there are keys. false: sv_fail was called. */
bool sv_guard(sv_exchange *x, const sv_head *h);

/* Is that page's origin one that answers may be read by? */
bool sv_origin_allowed(const sv_exchange *x, const char *origin);

#endif
