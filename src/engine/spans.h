/* spans.h - the places of a session that hold pictures: rows of a tower in the place of embeddings.
 *
 * Such a place has a negative id among the session's tokens, made of what the picture shows and of the row, so
 * that comparing ids tells whether two sessions hold the same. Positions that angles turn with are told here too:
 * in models with three axes a picture takes as many as its longer side, so what follows is nearer than its tokens
 * say. */
#ifndef AP_ENGINE_SPANS_H
#define AP_ENGINE_SPANS_H

#include "engine/rows.h"

/* Rows that a tower made; shared by media and sessions, counted, of any thread. */
typedef struct ap_embeds {
    int refs; /* accessed with __atomic builtins */
    int n, width;
    int height, cols;        /* n rows are so many, line by line */
    uint64_t hash[2], model; /* of what they show; fingerprint of who made them */
    float row[];             /* f32 [n, width] */
} ap_embeds;

/* ENOMEM. One reference, the caller's. */
apus_err ap_embeds_create(int n, int width, ap_embeds **out, apus_diag *diag);
ap_embeds *ap_embeds_share(ap_embeds *e);
void ap_embeds_drop(ap_embeds *e); /* NULL is fine */

/* n rows of embeddings from `row` on, at positions [pos, pos + n) of a session. */
typedef struct ap_span {
    int pos, n, row;
    int height,
        width;  /* of a picture whose places turn with three axes; 0: they go on one by one */
    bool whole; /* its places see one another in sliding layers */
    ap_embeds *embeds; /* NULL: its rows are computed, or cannot be yet */
    int rope;          /* position that angles turn with of the first one, set by ap_spans_add */
} ap_span;

typedef struct ap_spans {
    ap_span *at; /* [n] ascending */
    int n, room;
} ap_spans;

/* Room for `more` spans, so that ap_spans_add does not fail. ENOMEM. */
apus_err ap_spans_reserve(ap_spans *s, int more, apus_diag *diag);
/* An id that no token has: the same for equal rows of what has that hash. */
int32_t ap_span_id(const uint64_t hash[2], int row);

/* Behind all others; takes a reference. The places' ids go to tok[0..n); NULL: they have theirs. */
void ap_spans_add(ap_spans *s, const ap_span *span, int32_t *tok);
/* The first one with rows from pos on that has no embeddings for them, or -1. */
int ap_spans_lacking(const ap_spans *s, int pos);
/* Embeddings for span i, which has none; takes a reference. */
void ap_spans_give(ap_spans *s, int i, ap_embeds *e);
/* Rows before pos are computed and nobody goes back there: give up their embeddings. */
void ap_spans_seen(ap_spans *s, int pos);
/* Forget those that begin at pos or behind. */
void ap_spans_cut(ap_spans *s, int pos);
/* dst, empty, gets those of src. ENOMEM. */
apus_err ap_spans_copy(ap_spans *dst, const ap_spans *src, apus_diag *diag);
void ap_spans_clear(ap_spans *s);

/* The span that position pos lies in, or NULL. */
const ap_span *ap_spans_find(const ap_spans *s, int pos);

/* How many of n rows from pos on a step with room for `room` rows may have, when those of a span that sees itself
 * whole may not be torn apart. 0: it has to wait for a step with more room. */
int ap_spans_share(const ap_spans *s, int pos, int n, int room);

/* Rows [begin, begin + n) of the step, filled as text from position pos on, become what the spans say.
 *   pad     the id that other tables than the embedding's look up in such places
 *   embed   f32 [*, width] of the device, of the step: rows of spans are put to *used and behind */
void ap_spans_fill(const ap_spans *s, ap_rows *r, int begin, int n, int pos, int32_t pad,
                   float *embed, int *used);

#endif
