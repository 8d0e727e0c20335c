/* draft.h - guesses at the tokens that follow, by look-up: what followed the last time that a sequence ended like
 * this. Needs nothing but the sequence; good for texts that repeat parts of their prompt. */
#ifndef AP_ENGINE_DRAFT_H
#define AP_ENGINE_DRAFT_H

#include <stdint.h>

/* Ids of the end that have to agree, and from which on the latest place is as good as any. */
#define AP_DRAFT_LEAST 3
#define AP_DRAFT_MATCH 8

/* Guess what follows tok[0..n): of all places whose last ids agree with its end, that with the longest agreement, the
 * latest of them. What is copied may reach beyond the end and into itself. Negative ids (pictures) agree with
 * themselves, but are never guessed.
 *   out  i32 [most], may be tok + n
 * Returns how many were guessed, 0 to most. */
int ap_draft_look_up(const int32_t *tok, int n, int most, int32_t *out);

#endif
