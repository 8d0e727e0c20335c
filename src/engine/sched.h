/* sched.h - the scheduler inside src/engine. */
#ifndef AP_ENGINE_SCHED_H
#define AP_ENGINE_SCHED_H

#include "engine/encoder.h"
#include "engine/engine.h"
#include "engine/porter.h"
#include "engine/queue.h"
#include "engine/reuse.h"

/* How long steps take, learnt from those that ran. */
typedef struct ap_pace {
    double decode_us; /* of a step that only decodes */
    double row_us;    /* of each row of a prefill, besides */
} ap_pace;

/* Rows for a step with `decoding` lanes that may take step_us, 1 .. chunk. */
int ap_pace_rows(const ap_pace *p, int decoding, int chunk, int step_us);
/* A step of `rows` rows, of which `decoding` were decoded, took us. */
void ap_pace_learn(ap_pace *p, int rows, int decoding, int64_t us);

struct apus_scheduler {
    apus_engine *engine;
    int step_us, max_queue;
    ap_thread thread;

    ap_mutex lock; /* of what follows; never held while an outbox is touched */
    ap_cond work;
    ap_queue queue;
    bool stop;
    uint64_t n_id;
    apus_scheduler_stats stats; /* but for those of pages, which are of the last step */

    /* of the thread */
    apus_request **run; /* [n_run], in the order of admission */
    int n_run;
    ap_lane *lane;      /* [n_session] of the running step */
    apus_request **who; /* [n_session] whose they are */
    ap_need reserved;   /* by all that run */
    ap_pace pace;
    int64_t settle_us; /* from the last choice to the next step */
    uint64_t turn;     /* steps that prefilled */
    ap_encoder encoder;
    apus_request *shows; /* whose picture the encoder has in work */
    ap_prefix prefix;
    ap_spill spill; /* in use if prefix.disk is set */
    bool unsaved;   /* there may be something to write */
    bool has_store; /* porter and remote are in use */
    int store_wait_us;
    ap_porter porter;
    ap_remote remote;
    bool ungiven; /* there may be something for the store */
    uint64_t store_late;
    int n_waiting; /* when the queue was looked at last */
};

/* sched_encode.c: what a request shows, in its fresh session (ENOMEM), and no more, before it leaves. */
apus_err ap_sched_show(apus_request *r, apus_diag *diag);
void ap_sched_unshow(apus_scheduler *s, const apus_request *r);
/* Let its lane end before the first picture that is not ready, or wait. */
void ap_sched_blind(const apus_request *r, ap_lane *l);
/* Rows that its next share has at least, as they see one another; 0: any number. */
int ap_sched_whole(const apus_request *r);
/* A slice of a tower's work for those who are in line: so long it took. ECANCELLED, ENOMEM, EINVAL, EDEVICE: of
 * s->shows. */
apus_err ap_sched_encode(apus_scheduler *s, int64_t *us, apus_diag *diag);

/* Blocks that a request needs at most. */
ap_need ap_need_of(const ap_sizes *z, int n_prompt, int max_tokens);

#endif
