/* stops.h - text up to the first of several stop strings. */
#ifndef AP_ENGINE_STOPS_H
#define AP_ENGINE_STOPS_H

#include "base/err.h"

typedef struct apus_stops ap_stops; /* what apus_unstable.h has, too */

/*   strings  UTF-8 [n], n >= 0, not empty; borrowed until ap_stops_free
 * EINVAL: a string is empty, NULL or not UTF-8. */
apus_err ap_stops_create(const char *const *strings, int n, ap_stops **out, apus_diag *diag);
void ap_stops_free(ap_stops *s);

/* Push text. What becomes certain does not depend on how the text is cut.
 *   out, len  what cannot be part of a stop string any more; owned here, until the next call
 *   hit       index of the string that is complete first, the longest of several; *out ends where it
 *             begins, and nothing may be pushed after it. -1: none yet
 * ENOMEM. */
apus_err ap_stops_push(ap_stops *s, const char *text, size_t n, const char **out, size_t *len,
                       int *hit, apus_diag *diag);

/* The text has ended: what was held back is no stop string. */
void ap_stops_finish(ap_stops *s, const char **out, size_t *len);

#endif
