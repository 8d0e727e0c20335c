/* outbox.h - what a request has to tell: written by the scheduler's thread, taken by another.
 *
 * Tokens and text gather until they are taken, so a slow reader gets fewer and larger events, and memory is
 * bounded by the answer. */
#ifndef AP_ENGINE_OUTBOX_H
#define AP_ENGINE_OUTBOX_H

#include "apus/apus.h"
#include "base/thread.h"

/* Tokens and text of one event. */
typedef struct ap_news {
    int32_t *id;     /* i32 [n_id] */
    int32_t *top_id; /* i32 [n_id, width] with */
    float *top;      /* f32 [n_id, width] log probabilities */
    int n_id, id_cap;
    char *text; /* [len], zero-terminated if not NULL */
    size_t len, text_cap;
} ap_news;

typedef struct ap_outbox {
    ap_mutex lock;
    ap_cond changed;
    ap_news coming, taken;
    int width; /* log probabilities of a token; 0 = none */
    bool started, started_told, finished, finished_told;
    bool left;  /* the scheduler does not touch the request any more */
    bool armed; /* a reader found nothing: to be woken */
    int waking; /* calls of wake that run */
    int prefill_done, prefill_told;
    apus_usage usage, usage_told;
    apus_finish finish;
    int32_t stop_id;
    int stop_string;
    apus_diag diag;
    void (*wake)(void *ctx, apus_request *r);
    void *ctx;
    apus_request *request;
} ap_outbox;

void ap_outbox_open(ap_outbox *b, apus_request *r, int width,
                    void (*wake)(void *ctx, apus_request *r), void *ctx);
void ap_outbox_close(ap_outbox *b);

/* The scheduler's side. Nothing is told before ap_outbox_tell, which wakes the reader. */
void ap_outbox_started(ap_outbox *b);
void ap_outbox_prefill(ap_outbox *b, int done);
/* top_id, top: [width] if that is not 0. ENOMEM. */
apus_err ap_outbox_token(ap_outbox *b, int32_t id, const int32_t *top_id, const float *top,
                         apus_diag *diag);
apus_err ap_outbox_text(ap_outbox *b, const char *text, size_t len, apus_diag *diag);
void ap_outbox_usage(ap_outbox *b, const apus_usage *u);
/*   diag  of APUS_FINISH_ERROR; else NULL */
void ap_outbox_finish(ap_outbox *b, apus_finish why, int32_t stop_id, int stop_string,
                      const apus_diag *diag);
void ap_outbox_tell(ap_outbox *b);
/* The last call on that side: the request may be freed from now on. */
void ap_outbox_leave(ap_outbox *b);

/* The reader's side: as apus_request_take; and wait until the scheduler has left. */
bool ap_outbox_take(ap_outbox *b, int64_t timeout_us, apus_request_event *ev);
void ap_outbox_wait(ap_outbox *b);

#endif
