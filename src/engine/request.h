/* request.h - a request inside src/engine: what was asked for, and how far it is. */
#ifndef AP_ENGINE_REQUEST_H
#define AP_ENGINE_REQUEST_H

#include "engine/generate.h"
#include "engine/outbox.h"
#include "engine/shown.h"
#include "engine/step.h"

/* Blocks that a request may need at most. */
typedef struct ap_need {
    int page[AP_KV_GROUPS];
    int state;
} ap_need;

struct apus_request {
    apus_scheduler *sched;

    /* as submitted; nothing of it changes */
    uint64_t id, client;
    int priority;
    int64_t submitted_us, deadline_us; /* ap_time_us; deadline: -1 = none */
    int32_t *prompt;                   /* i32 [n_prompt] */
    int n_prompt;
    char *prompt_text; /* rendered; or NULL */
    size_t prompt_len;
    int32_t *branch; /* i32 [n_branch] */
    int n_branch;
    ap_sight *sight; /* [n_sight] parts of media in the prompt */
    int n_sight;
    bool no_cache;
    apus_sampling sampling;
    apus_generate_settings set; /* its strings are `stop`s */
    char **stop;                /* [set.n_stop_strings] */
    int logprobs;
    int32_t *bias_id; /* i32 [n_bias], with */
    float *bias;
    int n_bias;
    int (*mask)(void *ctx, const int32_t *ids, int n, uint32_t *allowed);
    void *mask_ctx;

    volatile int cancel; /* by anybody; accessed with __atomic builtins */
    ap_outbox out;

    apus_request *next; /* in the queue; under the scheduler's lock */

    /* of the scheduler's thread */
    ap_need need;
    ap_gen gen;
    ap_lane lane;
    apus_usage usage;
    int64_t admitted_us, first_us; /* ap_time_us; first token: 0 = not yet */
    int32_t *answer;               /* i32 [generated], kept for the mask; or NULL */
    int answer_cap;
    uint32_t *allowed; /* u32 [(V + 31) / 32] on the host, and on the device; or NULL */
    void *allowed_dev;
    void *bias_dev;           /* ids, then floats; on another device */
    float *row;               /* f32 [V] logits for log probabilities; or NULL */
    bool masked;              /* the mask of the next token is in `allowed` */
    bool no_more;             /* the mask lets nothing follow */
    bool mask_failed;         /* the constraint found no memory */
    int known;                /* tokens of the prompt that the prefix cache has */
    bool asked;               /* the store was, for what helps */
    struct ap_errand *errand; /* what was sent for; or NULL. Waited for until */
    int64_t errand_until;     /* ap_time_us */
    bool spoilt;              /* a step was stopped: the session is good for nothing */
};

static inline bool ap_request_cancelled(const apus_request *r)
{
    return __atomic_load_n(&r->cancel, __ATOMIC_RELAXED);
}

/* Make a request of settings, without a number; nothing of them is borrowed. Errors as apus_request_submit. */
apus_err ap_request_make(apus_scheduler *s, const apus_engine *e, const apus_request_settings *set,
                         apus_request **out, apus_diag *diag);
/* Of one that no scheduler knows any more. NULL is fine. */
void ap_request_drop(apus_request *r);

/* sched.c: let the scheduler's thread look at its requests. */
void ap_sched_wake(apus_scheduler *s);

#endif
