/* tls.h - the certificate and the key of a server that is asked by HTTPS. */
#ifndef APUS_SERVER_TLS_H
#define APUS_SERVER_TLS_H

#include <stdbool.h>

/* What libmicrohttpd asks of GnuTLS: no versions before 1.2. */
#define SV_TLS_PRIORITIES "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"

typedef struct sv_tls {
    char *cert, *key; /* PEM; NULL = no TLS */
} sv_tls;

/* Read both files; the certificate may be followed by those that vouch for it. Explains failures on stderr, and
 * warns of a key that others can read. */
bool sv_tls_load(sv_tls *t, const char *cert_file, const char *key_file);
void sv_tls_free(sv_tls *t); /* of a zeroed struct too */

#endif
