/* route.h - the table of what can be asked. */
#ifndef APUS_SERVER_ROUTE_H
#define APUS_SERVER_ROUTE_H

#include "exchange.h"

/* The row of a method and path; NULL: none. *other: there is one for another method. */
const sv_route *sv_route_find(const char *method, const char *path, bool *other);
/* Head and body have come: parse the body and do what the row says. */
void sv_route_handle(sv_exchange *x);
/* Whose errors a path without a row has. */
sv_api sv_route_api(const char *path);

#endif
