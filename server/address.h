/* address.h - which addresses of the network lie outside: those that anybody may know. */
#ifndef APUS_SERVER_ADDRESS_H
#define APUS_SERVER_ADDRESS_H

#include <stdbool.h>
#include <sys/socket.h>

/* Is it a unicast address of the public internet? Not one of this machine, of a private or local network, of a
 * provider's inner one, kept for documents or tests, or an IPv6 form that leads to an IPv4 address (RFC 6890 and the
 * registries that it began). What is no IP address is none. */
bool sv_address_is_public(const struct sockaddr *a);

#endif
