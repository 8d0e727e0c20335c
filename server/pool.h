/* pool.h - the models that are served: which of them are loaded, who uses them, who has to make room.
 *
 * A model is loaded when it is asked for. There is room for set->max_loaded; one more makes the one go that was used
 * longest ago: it takes no more requests, those that it has end, and it is unloaded. Requests for it wait in turn
 * with the others. One thread loads and unloads. */
#ifndef APUS_SERVER_POOL_H
#define APUS_SERVER_POOL_H

#include "server.h"

typedef struct sv_pool sv_pool;

typedef enum sv_served_state { SV_ABSENT, SV_COMING, SV_LOADED, SV_GOING } sv_served_state;

typedef struct sv_served {
    const sv_entry *entry;
    /* There, and still, while somebody has a lease. */
    apus_model *model;
    apus_scheduler *scheduler;
    apus_info info;
    int ctx; /* tokens of a request and its answer */
    /* The pool's. */
    sv_served_state state;
    bool leaving;   /* loaded, but nobody gets it any more */
    uint64_t bytes; /* that it takes, loaded */
    int users, waiting;
    int64_t used_us;   /* last given or taken back */
    int64_t wanted_us; /* since when it is waited for; 0 = by nobody */
    bool needs_room;   /* it did not fit beside the others */
    uint64_t failures;
    apus_diag failure;
} sv_served;

/* A request's claim on a model. Zeroed: none. */
typedef struct sv_lease {
    sv_served *served;
    bool held;
    uint64_t failures; /* of the model when the wait began */
} sv_lease;

/* *set must stay. NULL: no memory. The first model is loaded at once by the caller's thread if set->load_first;
 * *rc: the exit status if that failed, else -1. */
sv_pool *sv_pool_new(const sv_settings *set);
int sv_pool_load_first(sv_pool *p);
void sv_pool_tell_ready(const sv_pool *p,
                        const sv_served *s); /* in the log, once requests find it */
bool sv_pool_start(sv_pool *p);              /* the thread that loads others */
/* No more leases; running requests go on. */
void sv_pool_drain(sv_pool *p);
/* Nobody has or wants a lease. Unloads all. */
void sv_pool_free(sv_pool *p);

int sv_pool_size(const sv_pool *p);
sv_served *sv_pool_at(sv_pool *p, int i);
/* By name or alias, also with Ollama's ":latest"; NULL: no such model. name NULL: the first. */
sv_served *sv_pool_find(sv_pool *p, const char *name);

/* Claim a model, and wait up to so many milliseconds until it is there. */
void sv_pool_want(sv_pool *p, sv_served *s, sv_lease *l);
typedef enum sv_wait { SV_WAIT_HELD, SV_WAIT_MORE, SV_WAIT_FAILED } sv_wait;
sv_wait sv_pool_wait(sv_pool *p, sv_lease *l, int ms, apus_diag *why);
void sv_pool_give(sv_pool *p, sv_lease *l); /* held or waiting, or none */

/* What is known of a model, loaded or not; false: nothing yet. */
bool sv_pool_facts(sv_pool *p, const sv_served *s, sv_facts *out);
int sv_pool_context(sv_pool *p, const sv_served *s); /* 0: it is not loaded */
bool sv_pool_is_loaded(sv_pool *p, const sv_served *s);
/* Sums over all models, of counters also over those that were unloaded. */
void sv_pool_stats(sv_pool *p, apus_scheduler_stats *out);
/* The same of experts; false: no model had any on the disk. */
bool sv_pool_experts(sv_pool *p, apus_expert_stats *out);

#endif
