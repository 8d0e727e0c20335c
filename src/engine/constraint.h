/* constraint.h - an answer that has to be of a grammar: what may come next, behind its thought.
 *
 * What it says is a function of the tokens pushed, and tokens can be taken back. */
#ifndef AP_ENGINE_CONSTRAINT_H
#define AP_ENGINE_CONSTRAINT_H

#include "engine/grammars.h"

typedef struct ap_constraint {
    const apus_model *model;
    ap_compiled *compiled;
    ap_matcher matcher;
    int32_t begin, end; /* tokens around a thought; -1: none */
    int32_t line[2];    /* tokens of one line's end and of two; -1: none */
    bool thinking;      /* the prompt ends inside a thought */
    bool may_think;     /* the answer may begin one */
    int n;              /* tokens of the answer */
    int from;           /* so many come before the grammar's first; -1: the thought is not over */
    int closed;         /* tokens up to the thought's end, with it; 0: there was none so far */
    uint32_t *allowed;  /* u32 [(V + 31) / 32] scratch */
} ap_constraint;

/* Begin what apus_constraint says.
 *   tok  i32 [n] the prompt; negative ids, of pictures, are passed over
 * Returns OK; EINVAL, EFORMAT, EUNSUPPORTED, ENOMEM as apus_constraint_check. ap_constraint_close in any case. */
apus_err ap_constraint_open(ap_constraint *c, const apus_model *m, const apus_constraint *set,
                            const int32_t *tok, int n, apus_diag *diag);
void ap_constraint_close(ap_constraint *c); /* of a zeroed struct too */

/* A token of the answer; stop tokens are none. false: it may not come here, or memory is out. */
bool ap_constraint_push(ap_constraint *c, int32_t id);
/* Take back the last n, at most AP_MATCHER_BACK. */
void ap_constraint_back(ap_constraint *c, int n);

/* Clear the bits of tokens that may not come next. u32 [(V + 31) / 32].
 * Returns 1; 0: memory is out; -1: nothing may come, the answer is complete. */
int ap_constraint_mask(ap_constraint *c, uint32_t *allowed);

/* ENOMEM: what push and mask fail with. */
apus_err ap_constraint_fail(apus_diag *diag);

#endif
