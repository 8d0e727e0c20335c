/* fake.h - a model without weights for engine tests: logits and states depend on every token before
 * through pages and recurrent floats, so that a wrong page, a stale state or a lost token shows in
 * the bits of the next logits. */
#ifndef FAKE_H
#define FAKE_H

#include "engine/engine.h"

typedef struct fake_setup {
    bool full, recur;
    int window; /* of sliding layers; 0 = none */
    int vocab, context;
    /* what happened */
    int n_forward, max_tok, max_seq;
    int faults; /* pages that were missing, rows out of order, addresses of the wrong kind and the like */
    bool lost; /* the device fails from now on */
    /* cancel: in forward number `cancel_at` (counted from 1) apus_cancel is called; if the engine
     * lets the pass be cancelled it scribbles over everything it may write and returns false */
    int cancel_at;
    /* from forward number `nan_at` on, the first time that there are wanted rows: the last logit is `nan` */
    int nan_at;
    float nan;
    apus_engine *cancel_engine;
    apus_session *cancel_session; /* its own alone, instead of the engine's */
    size_t copied;                /* bytes by the device's copy */
} fake_setup;

extern fake_setup fake;

/* Is the device the host? Else its memory is at addresses that nobody can follow, so that everything has to
 * go by device operations. Set before a model is made. */
extern bool fake_host;
/* Where memory of the device really is. */
void *fake_real(const void *device);

/* Reset `fake` and make a model of these kinds. */
apus_model *fake_model(bool full, int window, bool recur);
void fake_model_free(apus_model *m);

/* The same function of a token list, computed without pages. */
typedef struct oracle {
    int pos, cap;
    int32_t *tok;
    uint64_t *full, *slide, recur, *recur_at, h;
} oracle;

void oracle_init(oracle *o, int cap);
void oracle_free(oracle *o);
void oracle_push(oracle *o, int32_t tok);
void oracle_rewind(oracle *o, int pos);
void oracle_copy(oracle *dst, const oracle *src);
/* Logits after the last token, f32 [V]. */
void oracle_logits(const oracle *o, float *out);

#endif
