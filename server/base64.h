/* base64.h - base64 of RFC 4648: the usual alphabet or that of URLs, with or without its end, over lines or not. */
#ifndef APUS_SERVER_BASE64_H
#define APUS_SERVER_BASE64_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*   out  room for len / 4 * 3 + 3 bytes
 * false: *at is the index of what is none, or len if it ends too early. */
bool sv_base64_read(const char *s, size_t len, uint8_t *out, size_t *n, size_t *at);

#endif
