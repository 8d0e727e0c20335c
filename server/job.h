/* job.h - what a client wants, whichever API it spoke: the form that all of them are translated to. */
#ifndef APUS_SERVER_JOB_H
#define APUS_SERVER_JOB_H

#include "exchange.h"
#include "fields.h"

enum { SV_MAX_STOPS = 64, SV_MAX_CHOICES = 128, SV_MAX_LOGPROBS = 20, SV_MAX_TOOLS = 256 };

typedef struct sv_job {
    /* a conversation, as apus_chat_render takes it ... */
    sv_buf messages, tools; /* JSON arrays; tools empty = none */
    sv_buf
        hoisted; /* messages with all system texts at the front, for templates that take none elsewhere; empty
                     * = the same */
    bool tools_banned;                       /* there are tools, and none may be called */
    bool single_call;                        /* at most one */
    bool must;                               /* one has to be called: */
    const char *must_call;                   /* this one; NULL = any */
    const char *tools_offered[SV_MAX_TOOLS]; /* names */
    bool any_strict;                         /* a tool whose schema must be obeyed */
    int n_tools;
    apus_think think;
    int think_budget; /* tokens of a thought at most; -1 = any */
    sv_buf extra;     /* JSON object of template variables; empty = none */
    sv_buf prefill;   /* what the answer begins with already; empty = nothing */
    /* ... or plain text, or token ids */
    bool plain;
    const char *text;
    size_t text_len;
    int32_t *ids; /* in the exchange's arena; NULL = text */
    int n_ids;
    bool echo; /* the prompt is part of the answer */

    /* what the answer must be (constrain.h): one of the three, where the request has it */
    bool constrained, json_object;
    sv_buf schema; /* JSON text */
    const char *grammar;
    sv_path constraint_path;

    /* what the conversation shows, in order */
    apus_media **media; /* [n_media] */
    int n_media;
    struct sv_media_gate *gate; /* whom it is told when they are given up */
    int64_t fetch_until_us;     /* no longer for all that URLs name; 0 = nothing was fetched yet */
    int image_tokens;           /* most of a picture; 0 = as the server or the model says */

    apus_sampling sampling;
    bool seeded;    /* else each answer draws a seed */
    int max_tokens; /* -1 = as many as there is room for */
    const char *stops[SV_MAX_STOPS];
    int n_stops;
    int n;        /* answers to the same prompt */
    int logprobs; /* -1 = none */
    int32_t *bias_id;
    float *bias;
    int n_bias;
    bool ignore_eos;
    bool stream, usage_in_stream;
} sv_job;

/* Its media as the library takes them. */
static inline const apus_media *const *sv_job_media(const sv_job *j)
{
    return (const apus_media *const *)j->media;
}

/* The model's sampling defaults, one answer, no bound. */
void sv_job_init(sv_job *j, const apus_model *m);
void sv_job_free(sv_job *j);

/* A string or an array of strings, none of them empty. */
bool sv_job_stops(sv_exchange *x, sv_job *j, const sv_json *v, const char *path, int most);
/* {"id": bias, ...} from -100 (never) to 100. */
bool sv_job_bias(sv_exchange *x, sv_job *j, const sv_json *v, const char *path, int vocab);
/* An array of token ids, copied into the arena. */
bool sv_job_ids(sv_exchange *x, const sv_json *v, const char *path, int32_t **ids, int *n);
/* Values that clients send for "off" as the library has it; and ranges. */
bool sv_job_sampling(sv_exchange *x, sv_job *j);
/* Does the client mean the model that is here? NULL name: yes. */
bool sv_job_model(sv_exchange *x, const char *name);

#endif
