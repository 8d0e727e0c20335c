/* engine.h - an engine and its sessions, inside src/engine. */
#ifndef AP_ENGINE_ENGINE_H
#define AP_ENGINE_ENGINE_H

#include "base/mem.h"
#include "engine/generate.h"
#include "engine/model.h"
#include "engine/odds.h"
#include "engine/rows.h"
#include "engine/sample.h"
#include "engine/shown.h"
#include "engine/step.h"
#include "kern/profile.h"
#include "state/kv.h"
#include "state/pages.h"
#include "state/recur.h"

struct apus_session {
    apus_engine *engine;
    bool used;
    bool in_call;       /* marks the sessions of a batch */
    bool keeps_nothing; /* nobody goes back in it: no snapshots */
    bool headless; /* it came from an engine without the draft head: its places there are empty */
    int pos;       /* tokens held */
    int turn;      /* where the last prompt ended: snapshots and pages near it are kept longest */
    int32_t *tok;  /* i32 [ctx]; negative in spans */
    /* Of a step that ran before it was known how many of its rows count (settle.c): */
    int ahead; /* rows behind pos that nobody has counted */
    int counted; /* rows before pos that the recurrent state has not seen; 0 without ahead or with it */
    int kept; /* the kept row of the first of these */
    ap_spans spans;
    ap_kv_table kv[AP_KV_GROUPS];
    ap_recur recur;
};

/* Numbers of an engine, computed before anything is allocated (plan.c). */
typedef struct ap_sizes {
    int ctx, chunk, n_session, vocab, hidden;
    ap_state_shape shape;
    apus_kv kv;               /* what pages hold; not AUTO */
    int kv_cap[AP_KV_GROUPS]; /* pages of a session at most */
    uint64_t budget;          /* bytes for pages and states; 0 = as many as all sessions can need */
    int n_page[AP_KV_GROUPS], n_state; /* blocks of all sessions together */
    size_t kv_bytes, state_bytes, model_scratch_bytes, scratch_bytes;
    size_t recur_block_bytes;
    size_t embed_bytes;       /* rows of towers in a step; 0 = the model has no towers */
    int logit_rows;           /* rows of the engine's logits */
    bool looks_up, runs_head; /* for guesses */
    int n_draft;              /* guesses that are always taken; 0 = as many as pay */
    int draft_rows;           /* of a step, for guesses */
    int kept_rows;            /* that sequences of a step can keep (kern.h) */
    size_t kept_bytes;
    size_t hidden_bytes; /* rows that the draft head goes on from; 0 = it is not run */
} ap_sizes;

struct apus_engine {
    const apus_model *model;
    ap_exec exec;
    ap_device *own;      /* the device of exec, unless the model's is lent */
    ap_profile *profile; /* NULL until one is asked for; in use while exec.profile is set */
    ap_sizes size;
    ap_delta_form delta_form;
    /* [n_session + 1]: is a session's call to end; the last one: everybody's. Accessed with __atomic builtins */
    volatile int *cancel;
    bool busy; /* a call is running: callbacks may not start another */

    ap_slab pages[AP_KV_GROUPS];
    ap_slab states;
    struct ap_prefix *prefix;            /* of the scheduler that owns the engine; or NULL */
    apus_session *session;               /* [n_session] */
    int32_t *session_tok;                /* i32 [n_session, ctx] */
    int32_t *session_page[AP_KV_GROUPS]; /* i32 [n_session, entries] */
    int32_t *page[AP_KV_GROUPS];         /* the same on the device: one memory on the CPU */

    /* one step */
    ap_lane *lane; /* [n_session] */
    ap_rows rows;
    uint8_t *scratch; /* of the device */
    float *logits;    /* f32 [logit_rows, V] of the device */
    float *embed;     /* f32 [chunk, H] of the device, or NULL */
    float *kept;      /* rows that sequences keep, of the device; or NULL */
    float *hidden;    /* f32 [n_session, H] of the draft head, of the device; or NULL */
    ap_tempo tempo;
    int64_t drafting_us; /* that guesses of the last round took to compute */
    /* What may follow tok[0..n) of s, at most `most` ids to out; NULL: look-ups (draft.h) */
    int (*guess)(void *ctx, const apus_session *s, int n, int most, int32_t *out);
    void *guess_ctx;

    /* generation */
    ap_gen *gen;                /* [n_session] */
    apus_feed *gen_feed;        /* [n_session] */
    ap_gen **gen_next;          /* [n_session] those that go on */
    apus_session **gen_session; /* [n_session] */
    ap_chooser chooser;         /* with a row for each of gen */
};

/* settings.c: copy the caller's struct over defaults, as far as its size goes.
 *   known  holds the defaults; its first field is the size, as in every settings struct
 *   given  NULL = defaults
 * EINVAL: size is 0 or larger than this library knows; the sentence names `what`. */
apus_err ap_settings_take(void *known, size_t known_size, const void *given, const char *what,
                          apus_diag *diag);

/* plan.c: are the rows of a step with several tokens of a sequence, to the bit, those of several steps? */
bool ap_same_bits(const apus_model *m, const ap_exec *ex, apus_kv kv);

/* plan.c: check settings and compute sizes. ex: what steps will run with. EINVAL; ENOMEM when a size
 * exceeds the address space. */
apus_err ap_sizes_make(const apus_model *m, const apus_engine_settings *s, const ap_exec *ex,
                       ap_sizes *out, apus_diag *diag);
/* fit.c: ENOMEM, with the numbers and the nearest choice that fits, if more is needed than the `have`
 * bytes available (0 = not known: everything fits). Weights of `params` values that take `need` bytes; an
 * engine of those settings and sizes, beside `weights` bytes that are still to be loaded (0: they are in
 * memory). */
apus_err ap_fit_weights(const char *path, uint64_t need, uint64_t params, uint64_t have,
                        apus_diag *diag);
apus_err ap_fit_engine(const apus_model *m, const apus_engine_settings *s, const ap_exec *ex,
                       const ap_sizes *z, uint64_t have, uint64_t weights, apus_diag *diag);
/* The sizes of an engine of settings as the caller gave them (NULL = defaults). Errors of both. */
apus_err ap_engine_measure(const apus_model *m, const apus_engine_settings *given, ap_sizes *out,
                           apus_diag *diag);
/* Memory beside weights, pages, states and scratch, with an engine of that size. */
uint64_t ap_other_bytes(const apus_model *m, const ap_sizes *z);
/* ENOMEM unless a model fits into `have` bytes: its weights, and with `beside` or a wish the engine too (NULL =
 * defaults). */
apus_err ap_fit_model(const apus_model *m, const apus_engine_settings *wish, bool beside,
                      uint64_t have, apus_diag *diag);
/* What an engine of those settings would run with: to plan with, not to run. *own: a device that was made
 * for it, or NULL; op->destroy it. */
apus_err ap_engine_look(const apus_model *m, const apus_engine_settings *s, ap_exec *ex,
                        ap_device **own, apus_diag *diag);

/* session.c: a session without tokens; EFULL. */
apus_err ap_session_take(apus_engine *e, apus_session **out, apus_diag *diag);

/* session.c: apus_session_rewind inside a call; pos: 0 .. the current one. ECANCELLED, ENOMEM. */
apus_err ap_session_go_back(apus_session *s, int pos, apus_diag *diag);
/* The same for a session whose recurrent state is lost: nothing stops it, and after an error (ENOMEM, EDEVICE) it
 * holds fewer tokens. */
apus_err ap_session_remake(apus_session *s, int pos, apus_diag *diag);

/* settle.c: rows that a step has run before it was known whether they count. n of those ahead do: they are the
 * session's from now on, but for its recurrent state. */
void ap_session_count(apus_session *s, int n);
/* What was counted reaches the recurrent states, bit for bit as if it had been fed row by row, snapshots included; what
 * is still ahead is dropped. Sessions without either are left alone. session: [n] */
void ap_sessions_settle(apus_engine *e, apus_session *const *session, int n);
static inline bool ap_session_settled(const apus_session *s)
{
    return !s->ahead && !s->counted;
}

/* head.c: the draft head guesses what follows the tokens at the positions of n sessions, which are settled and have seen all
 * before: n_guess[i] tokens, falling with i, to the places behind them. Where memory for them is out, fewer: n_guess tells
 * how many there are. EDEVICE. */
apus_err ap_head_draft(apus_engine *e, apus_session *const *session, int *n_guess, int n,
                       apus_diag *diag);

/* call.c: as apus_feed_batch, but the cancel flags stay as they are. */
apus_err ap_feed(apus_engine *e, const apus_feed *feeds, int n_feeds, apus_progress_fn progress,
                 void *progress_ctx, apus_diag *diag);
/* The same, but the row of logits that follows the last token of feeds[i] stays on the device, where it is
 * row e->lane[i].kept of the engine's; feeds' `logits` and `rows` are NULL. The rows of a call are 0 to
 * n_feeds - 1. They may not have been computed yet when this returns. A feed whose session is cancelled is dropped:
 * e->lane[i].dropped, without a row. */
apus_err ap_feed_keep(apus_engine *e, const apus_feed *feeds, int n_feeds,
                      apus_progress_fn progress, void *progress_ctx, apus_diag *diag);
/* The same, but that feeds of more than one token try: their sessions do not move, and each of their tokens has a row,
 * from e->lane[i].kept on. No more tokens than the engine's n_session + draft_rows, nor than its chunk. */
apus_err ap_feed_try(apus_engine *e, const apus_feed *feeds, int n_feeds, apus_diag *diag);
/* ENONFINITE, with the model's name. */
apus_err ap_not_finite(const apus_engine *e, apus_diag *diag);
/* Run the session's own tokens [base, pos) again: state and pages are those of base.
 *   stoppable  on error they are as before the call, given that the old position was held and the state backed
 *              up; else nothing stops it, and on error they are good for nothing */
apus_err ap_feed_again(apus_session *s, int base, int pos, bool stoppable, apus_diag *diag);

/* Begin and end of every call that computes. EINVAL: another one is running (from a callback). */
apus_err ap_call_begin(apus_engine *e, apus_diag *diag);
void ap_call_end(apus_engine *e);
bool ap_cancelled(const apus_engine *e);          /* everybody */
bool ap_session_cancelled(const apus_session *s); /* or this one */

#endif
