/* engine.h - an engine and its sessions, inside src/engine. */
#ifndef AP_ENGINE_ENGINE_H
#define AP_ENGINE_ENGINE_H

#include "base/mem.h"
#include "engine/model.h"
#include "engine/sample.h"
#include "kern/profile.h"
#include "state/kv.h"
#include "state/recur.h"

struct apus_session {
    apus_engine *engine;
    bool used;
    bool in_call; /* marks the sessions of a batch */
    int pos;      /* tokens held */
    int turn;     /* where the last prompt ended: snapshots and pages near it are kept longest */
    int32_t *tok; /* i32 [ctx] */
    ap_kv_table kv[AP_KV_GROUPS];
    ap_recur recur;
};

/* One session's share of a running call. */
typedef struct ap_lane {
    apus_session *session;
    const int32_t *tok; /* i32 [n] */
    int n, done;        /* tokens of the call, computed so far */
    float *logits;      /* f32 [n_row, V] or NULL */
    const int32_t *row; /* i32 [n_row] indices into tok; NULL = the last one */
    int n_row, row_done;
    int start;      /* the session's position before the call */
    int share, out; /* tokens and rows in the running step */
} ap_lane;

/* Numbers of an engine, computed before anything is allocated (plan.c). */
typedef struct ap_sizes {
    int ctx, chunk, n_session, vocab;
    ap_state_shape shape;
    apus_kv kv;               /* what pages hold; not AUTO */
    int kv_cap[AP_KV_GROUPS]; /* pages of a session at most */
    size_t kv_bytes, state_bytes, model_scratch_bytes, scratch_bytes;
    size_t recur_block_bytes;
    int logit_rows; /* rows of the shared logits buffer */
} ap_sizes;

struct apus_engine {
    const apus_model *model;
    ap_pool *pool;
    ap_kern kern;
    ap_profile *profile; /* NULL until one is asked for; in use while kern.profile is set */
    ap_sizes size;
    ap_delta_form delta_form;
    volatile int cancel; /* set by apus_cancel; accessed with __atomic builtins */
    bool busy;           /* a call is running: callbacks may not start another */

    ap_slab pages[AP_KV_GROUPS];
    ap_slab states;
    apus_session *session;               /* [n_session] */
    int32_t *session_tok;                /* i32 [n_session, ctx] */
    int32_t *session_page[AP_KV_GROUPS]; /* i32 [n_session, entries] */

    /* one step */
    ap_lane *lane;                /* [n_session] */
    int32_t *tok, *pos, *out_row; /* i32 [chunk] */
    ap_step_seq *seq;             /* [n_session] */
    uint8_t *scratch;
    float *logits; /* f32 [logit_rows, V] */

    /* generation */
    float *row; /* f32 [V] */
    apus_sampler sampler;
};

/* settings.c: copy the caller's struct over defaults, as far as its size goes.
 *   known  holds the defaults; its first field is the size, as in every settings struct
 *   given  NULL = defaults
 * EINVAL: size is 0 or larger than this library knows; the sentence names `what`. */
apus_err ap_settings_take(void *known, size_t known_size, const void *given, const char *what,
                          apus_diag *diag);

/* plan.c: check settings and compute sizes. k: the kernels that will run. EINVAL; ENOMEM when a
 * size exceeds the address space. */
apus_err ap_sizes_make(const apus_model *m, const apus_engine_settings *s, const ap_kern *k,
                       ap_sizes *out, apus_diag *diag);
/* fit.c: ENOMEM, with the numbers and the nearest choice that fits, if more is needed than the `have`
 * bytes available (0 = not known: everything fits). Weights of `params` values that take `need` bytes; an
 * engine of those settings and sizes, beside `weights` bytes that are still to be loaded (0: they are in
 * memory). */
apus_err ap_fit_weights(const char *path, uint64_t need, uint64_t params, uint64_t have, apus_diag *diag);
apus_err ap_fit_engine(const apus_model *m, const apus_engine_settings *s, const ap_kern *k,
                       const ap_sizes *z, uint64_t have, uint64_t weights, apus_diag *diag);
/* Pool and kernels of those settings, in the model's mode. */
apus_err ap_engine_workers(const apus_model *m, const apus_engine_settings *s, ap_pool **pool,
                           ap_kern *kern, apus_diag *diag);

/* session.c: a session without tokens; EFULL. */
apus_err ap_session_take(apus_engine *e, apus_session **out, apus_diag *diag);

/* session.c: apus_session_rewind inside a call; pos: 0 .. the current one. ECANCELLED. */
apus_err ap_session_go_back(apus_session *s, int pos, apus_diag *diag);

/* feed.c: as apus_feed_batch, but the cancel flag stays as it is. */
apus_err ap_feed(apus_engine *e, const apus_feed *feeds, int n_feeds, apus_progress_fn progress,
                 void *progress_ctx, apus_diag *diag);
/* Run the session's own tokens [base, pos) again: state and pages are those of base. On error they
 * are as before the call, given that the old position was held and the state backed up. */
apus_err ap_feed_again(apus_session *s, int base, int pos, apus_diag *diag);

/* Begin and end of every call that computes. EINVAL: another one is running (from a callback). */
apus_err ap_call_begin(apus_engine *e, apus_diag *diag);
void ap_call_end(apus_engine *e);
bool ap_cancelled(const apus_engine *e);

#endif
