/* expert_ahead.h - which experts are read before their layer asks for them, while reads would be idle.
 *
 * Surely, when a layer wants nearly all of its experts, as it does for the tokens of a long prompt: then the next one
 * will too. Else by a guess, for as long as at least half of what was read on guesses was wanted; after that there are
 * none for a while, since a wrong read takes the disk from a right one. */
#ifndef AP_STATE_EXPERT_AHEAD_H
#define AP_STATE_EXPERT_AHEAD_H

#include <stdbool.h>
#include <stdint.h>

typedef struct ap_expert_ahead {
    int n_expert;
    int layer;       /* whose experts they are; -1: nothing is expected */
    bool sure;       /* no guess */
    int n, next;     /* expected; those before `next` were looked at */
    int n_begun;     /* were read for it */
    int32_t *id;     /* [n] of [E], the likeliest first */
    bool *begun;     /* [E] */
    int right, told; /* of guesses that were read, lately */
    int pause;       /* so many layers go by without a guess */
} ap_expert_ahead;

bool ap_expert_ahead_init(ap_expert_ahead *a, int n_expert); /* false: no memory */
void ap_expert_ahead_free(ap_expert_ahead *a);

/* A layer wanted n experts; next: the one after it that has any, or -1. Expects all of that one's, or nothing. */
void ap_expert_ahead_sure(ap_expert_ahead *a, int next, int n);
/* May a guess be made? To be asked once for each layer. */
bool ap_expert_ahead_may_guess(ap_expert_ahead *a);
void ap_expert_ahead_guess(ap_expert_ahead *a, int layer, const int32_t *ids, int n);

/* The next expert to be read, or -1. */
int ap_expert_ahead_next(ap_expert_ahead *a);
/* It was begun to be read. */
void ap_expert_ahead_begun(ap_expert_ahead *a, int expert);

/* A layer wants those experts: was that one of them read ahead? */
bool ap_expert_ahead_has(const ap_expert_ahead *a, int layer, int expert);
/* It has wanted them all: n of those that were read for it were right. Nothing is expected any more. */
void ap_expert_ahead_settle(ap_expert_ahead *a, int layer, int right);

#endif
