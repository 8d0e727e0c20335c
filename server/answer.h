/* answer.h - a job carried out: its requests submitted, what comes of them taken apart into content, thoughts
 * and calls, and handed to the API that writes it. It runs in the thread of its connection. */
#ifndef APUS_SERVER_ANSWER_H
#define APUS_SERVER_ANSWER_H

#include <pthread.h>

#include "apus/apus_unstable.h"
#include "exchange.h"
#include "steer.h"

typedef enum sv_end {
    SV_END_STOP = 0, /* the model ended its turn */
    SV_END_STRING,   /* a stop string: choice.stop_string */
    SV_END_LENGTH,
    SV_END_CALLS /* tools are to be called */
} sv_end;

typedef struct sv_tool_call {
    char id[40];
    sv_buf name, args; /* args: JSON object */
} sv_tool_call;

/* One token's: of it, then of the best. */
typedef struct sv_logprobs {
    int32_t id[1 + SV_MAX_LOGPROBS];
    float p[1 + SV_MAX_LOGPROBS];
} sv_logprobs;

typedef struct sv_choice {
    sv_answer *answer;
    int index;
    apus_request *request;
    apus_chat_parser *parser; /* NULL: the text is the content, ... */
    apus_detok *detok;        /* ... else it is made here, token by token */
    apus_stops *stops;        /* of chats, NULL: none; those of plain texts are the request's */
    bool done;
    bool cut; /* cancelled by us: what still comes is not looked at */
    sv_end end;

    sv_buf text, think; /* so far */
    sv_tool_call *calls;
    int n_calls;
    sv_logprobs *logprobs; /* of the content's tokens */
    int n_logprobs, n_logprobs_sent;

    int n_tokens, n_thought; /* generated; of these, in thoughts */
    int n_unsure;            /* the newest ones, whose text is held back */
    int stop_string;         /* index of the one that came, or -1 */
    int64_t last_token_us;
    apus_usage usage;
    int open; /* what an API has begun and not ended */
    int n_items;
} sv_choice;

/* How an API writes an answer: streamed by all but `whole`, else by `whole` alone. All append to x->out. */
typedef struct sv_form {
    const char *type; /* Content-Type of the stream */
    void (*begin)(sv_answer *a);
    void (*piece)(sv_choice *c, apus_part part, const char *s, size_t n); /* CONTENT or THINK */
    void (*call)(sv_choice *c, const sv_tool_call *t);
    void (*end)(sv_choice *c);
    void (*close)(sv_answer *a);
    void (*ping)(sv_answer *a);
    void (*fail)(sv_answer *a, const sv_error *e);
    void (*whole)(sv_answer *a);
} sv_form;

struct sv_answer {
    sv_exchange *x;
    sv_job job;
    const sv_form *form;
    char id[48];     /* as the API calls it */
    int64_t created; /* seconds since 1970 */
    const void *own; /* the API's, in the exchange's arena */
    int sequence;    /* of events */
    sv_buf done;     /* what the API keeps of what it has written */

    sv_prompt prompt;
    sv_steer steer;
    sv_choice *choices;
    int n, n_done;
    bool begun, closed, failed;
    int64_t last_write_us, last_look_us;

    pthread_mutex_t lock; /* of woken */
    pthread_cond_t cond;
    bool woken;
};

/* Carry out a job, which becomes the answer's, whatever comes of it. Either writes the whole answer to x->out
 * (or fails x), or leaves a stream in x->stream. id: NULL = made up with that prefix. */
void sv_answer_run(sv_exchange *x, sv_job *job, const sv_form *form, const char *id_prefix,
                   const void *own);

/* Wait until the stream has written something to x->out. false: it is over, or the client gone. */
bool sv_answer_pump(sv_answer *a);
void sv_answer_free(sv_answer *a);

/* Sums over the choices. */
typedef struct sv_usage {
    int n_prompt, n_cached, n_generated, n_thought;
} sv_usage;
sv_usage sv_answer_usage(const sv_answer *a);
/* "timings": rates and times of the first choice, as llama.cpp's server has them, and what the cache missed. */
void sv_put_timings(sv_buf *b, const sv_answer *a);

/* PREFIX and 24 random characters. */
void sv_make_id(char *out, size_t cap, const char *prefix);

#endif
