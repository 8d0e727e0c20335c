/* generate.h - one session's share of a running generation. */
#ifndef AP_ENGINE_GENERATE_H
#define AP_ENGINE_GENERATE_H

#include "engine/constraint.h"
#include "engine/odds.h"
#include "engine/sample.h"
#include "engine/stops.h"

/* Where guesses come from. */
typedef enum ap_draft_source {
    AP_DRAFT_LOOK_UP, /* draft.h */
    AP_DRAFT_HEAD,    /* head.c */
    AP_DRAFT_SOURCES
} ap_draft_source;

typedef struct ap_gen {
    apus_session *session;
    apus_generate_settings set;
    ap_sample_state sampling;
    apus_detok *detok; /* NULL: neither text nor stop strings are wanted */
    ap_stops *stops;
    ap_constraint *constraint; /* NULL: the answer may be anything */
    uint32_t *allowed; /* u32 [(V + 31) / 32] of ap_gen_mask, on the host, and on another device */
    void *allowed_dev;
    bool complete; /* the constraint lets nothing follow */
    int row;       /* of the engine's logits that the next token is chosen after; -1 = none */
    int bad_row;   /* likewise, of a row whose logits are not finite; nothing is chosen after it */
    int slot;      /* of the engine's chooser that it is chosen in */
    int32_t id;    /* the token to be fed next */
    int n_next;    /* it and guesses behind it, at the session's position among its tokens */
    ap_draft_source source; /* of those guesses */
    ap_odds odds[AP_DRAFT_SOURCES];
    bool done;
    apus_generate_result res;
} ap_gen;

/* Make g ready. Strings and callbacks of the settings are borrowed until ap_gen_close, which is called after an
 * error, too. EINVAL; EUNSUPPORTED: text is wanted of a model without a tokenizer; ENOMEM. */
apus_err ap_gen_start(ap_gen *g, const apus_model *m, apus_session *session,
                      const apus_generate_settings *set, apus_diag *diag);
void ap_gen_close(ap_gen *g); /* of a zeroed struct too */
/* Begin the constraint of the settings, behind a prompt: i32 [n], negative ids are passed over. Errors as
 * apus_constraint_check. */
apus_err ap_gen_constrain(ap_gen *g, const apus_model *m, const int32_t *tok, int n,
                          apus_diag *diag);

/* Let the chooser's row g->slot, which is set, choose among what the constraint allows. ENOMEM. */
apus_err ap_gen_mask(ap_gen *g, apus_diag *diag);

/* What the engine's chooser chose in g->slot, to g->id. EFORMAT: no token may be chosen; ENONFINITE. */
apus_err ap_gen_choice(ap_gen *g, apus_diag *diag);
/* Report a token that was chosen, and its text. g->done: it was the last one, and is not fed. ENOMEM. */
apus_err ap_gen_token(ap_gen *g, int32_t id, apus_diag *diag);
/* End between two tokens: text that was held back is delivered. ENOMEM. */
apus_err ap_gen_end(ap_gen *g, apus_stop why, apus_diag *diag);

/* round.c. What is fed next: g->id of each of n generations, and guesses behind it as far as they pay. Tokens go to the
 * session, behind its position.
 *   rows  the most of all together, n and more */
void ap_round_guess(apus_engine *e, ap_gen *const *gen, int n, int rows);
/* The row that g is at is looked at now: if its session does not hold the row's token yet, it does now. */
void ap_round_look(ap_gen *g);
/* g->id was chosen and told. Go on with the row behind, whose token was guessed right? */
bool ap_round_goes_on(ap_gen *g);
/* A round is over: what became of its guesses. Before the session is settled. */
void ap_round_learn(ap_gen *g);
/* Guesses of all rounds so far, whatever their sources. */
typedef struct ap_round_counts {
    int rounds, drafted, accepted;
} ap_round_counts;
ap_round_counts ap_round_count(const ap_gen *g);

#endif
