/* odds.h - do guesses pay? What is measured, and what is decided from it.
 *
 * A step with R rows takes a time that depends on the machine and the model; a sequence's guesses come true with a
 * chance that depends on its text. Both are measured as it goes, and each round takes the guesses that make the most
 * tokens in a second, none if they do not pay. Since a guess never changes what is chosen, deciding by the clock does not
 * either. */
#ifndef AP_ENGINE_ODDS_H
#define AP_ENGINE_ODDS_H

#include <stdbool.h>
#include <stdint.h>

#include "kern/kern.h"

#define AP_MOST_DRAFTS (AP_KEPT_ROWS - 1)
#define AP_TEMPO_SIZES 24

/* How long steps of an engine take, by rows. */
typedef struct ap_tempo {
    double us[AP_TEMPO_SIZES]; /* 0 = not known */
    int n[AP_TEMPO_SIZES];     /* measurements, up to what is averaged over */
    double draft_us;           /* of a guess that is computed; 0 = not known */
    int n_draft;               /* measurements of it */
} ap_tempo;

/* A step of `rows` rows took us. */
void ap_tempo_learn(ap_tempo *t, int rows, double us);
/* Computing `depth` guesses, one behind the other, took us. */
void ap_tempo_learn_draft(ap_tempo *t, int depth, double us);
/* How long one would take; as a multiple of anything until one of them has been measured. */
double ap_tempo_us(const ap_tempo *t, int rows);

/* What became of a sequence's guesses from one source. */
typedef struct ap_odds {
    bool computed; /* they cost time (ap_tempo.draft_us), and wait for one another */
    float tried[AP_MOST_DRAFTS], hit[AP_MOST_DRAFTS]; /* by depth, fading */
    int idle, wait; /* guesses left out in a row, and after how many one is tried all the same */
    int rounds, drafted, accepted;
} ap_odds;

/* `hits` of n guesses came true, n >= 1; the one behind them did not, if hits < n and it was looked at. */
void ap_odds_learn(ap_odds *o, int n, int hits, bool looked_at);
/* The chance that guess number `depth`, from 0, comes true if all before it have. */
double ap_odds_at(const ap_odds *o, int depth);

/* How many guesses of each of n sequences a step takes.
 *   odds   of each; the first 60 of them may have guesses
 *   found  [n] there are so many; 0 = none
 *   rows   the most rows of the step, n and more
 *   use    i32 [n] out, 0 .. found */
void ap_odds_share(const ap_tempo *t, ap_odds *const *odds, const int *found, int n, int rows,
                   int *use);

#endif
