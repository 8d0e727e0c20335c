/* stops.h - strings that end an answer, found in a text that comes in pieces. */
#ifndef APUS_SERVER_STOPS_H
#define APUS_SERVER_STOPS_H

#include "buf.h"

typedef struct sv_stops {
    const char *const *item; /* borrowed */
    int n;
    sv_buf held; /* text that may yet turn out to be the beginning of one */
    int hit;     /* which one came; -1 = none so far */
} sv_stops;

void sv_stops_init(sv_stops *s, const char *const *item, int n);
/* Take a piece; the first *n bytes of s->held are certain then, and to be dropped from it by the caller once
 * they are used. After a hit nothing is taken any more. */
void sv_stops_push(sv_stops *s, const char *text, size_t len, size_t *n);
void sv_stops_free(sv_stops *s);

#endif
