/* step.h - one step: some of the rows that lanes have still to run, of all of them together.
 *
 * A lane is what one sequence has to run. Steps know nothing of calls or of a schedule: whoever has lanes deals
 * out shares and runs them, again and again. What the rows of a lane come to does not depend on how it is cut
 * into shares nor on its neighbours (but with precision FAST). */
#ifndef AP_ENGINE_STEP_H
#define AP_ENGINE_STEP_H

#include <stdbool.h>
#include <stdint.h>

#include "apus/apus.h"
#include "model/arch.h"

#define AP_FEW_TOKENS 8 /* a lane with as many left decodes, one with more prefills */

typedef struct ap_lane {
    apus_session *session;
    const int32_t *tok; /* i32 [n] */
    int n, done;        /* tokens in all, computed so far */
    bool wants_rows;    /* of logits */
    bool
        tries; /* whether its rows count is known later (settle.c): they run in one step, all of them wanted */
    float *logits;      /* f32 [n_row, V] on the host; NULL = they stay in the engine's */
    const int32_t *row; /* i32 [n_row] indices into tok; NULL = the last one */
    int n_row, row_done;
    int start;    /* the session's position before the call */
    bool copied;  /* its recurrent state was copied there (call.c) */
    bool waits;   /* gets no share for now */
    int blind;    /* position that shares end at, for what follows cannot be run yet; 0 = none */
    int stop;     /* position that a share ends at, so that the state there can be kept; 0 = none */
    bool touched; /* a step with a share of it has begun */
    bool dropped; /* ended before its last token; the session is where it was */
    bool bad;     /* wanted rows of the step are not finite */
    int bad_row;  /* of one that tries: the first row that is not finite, n if all are */
    int kept; /* the engine's row of logits that has its last wanted one, or its first if it tries */
    int share, out; /* tokens and rows in the running step */
} ap_lane;

/* What a step has of all lanes. */
typedef struct ap_extent {
    int n_tok, n_seq, n_out, n_keep;
    ap_lane *direct; /* the one lane that wants logits, if they go straight to its own; else NULL */
} ap_extent;

static inline int ap_lane_left(const ap_lane *l)
{
    return l->n - l->done;
}

/* Deal out the shares of a step of at most `rows` rows, 1 .. the engine's chunk: to the lanes with few tokens
 * left first, so that nobody's prefill makes decoding wait, then to the others in their order.
 *   few_only  the others get nothing */
ap_extent ap_step_share(const apus_engine *e, ap_lane *lane, int n, int rows, bool few_only);

/* A step of the engine's rows, which are filled: its memory. */
ap_step ap_step_of_rows(apus_engine *e);
/* The block tables on the device follow those of the host. */
void ap_step_put_pages(apus_engine *e, apus_session *s);

/* Run the shares, hand out wanted rows and move the sessions on. Rows of logits that stay in the engine's go to
 * its row `first` and those behind it; they may not have been computed yet when this returns.
 *   cancel  polled while it runs; NULL = the step is not stopped
 * Returns OK; ECANCELLED: recurrent states of the lanes with a share are lost, their positions are as before;
 * ENOMEM: no K/V pages are left for a lane, nothing was run; ENONFINITE: the sessions have moved, and lanes with
 * such rows are marked; EDEVICE.
 * Allocates nothing. */
apus_err ap_step_run(apus_engine *e, ap_lane *lane, int n, const ap_extent *x, int first,
                     const volatile int *cancel, apus_diag *diag);

#endif
