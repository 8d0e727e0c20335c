/* tls.h - the certificate and the key of a server that is asked by HTTPS. */
#ifndef APUS_SERVER_TLS_H
#define APUS_SERVER_TLS_H

#include "server.h"

/* What libmicrohttpd asks of GnuTLS: no versions before 1.2. */
#define SV_TLS_PRIORITIES "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"

typedef struct sv_tls {
    char *cert, *key; /* PEM; NULL = no TLS */
} sv_tls;

/* Read both files of the settings; the certificate may be followed by those that vouch for it. Failures, and a key
 * that others can read, are told in the log. */
bool sv_tls_load(sv_tls *t, const sv_settings *s);
void sv_tls_free(sv_tls *t); /* of a zeroed struct too */

#endif
