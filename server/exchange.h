/* exchange.h - one HTTP request and its answer. It belongs to its connection's thread. */
#ifndef APUS_SERVER_EXCHANGE_H
#define APUS_SERVER_EXCHANGE_H

#include "arena.h"
#include "buf.h"
#include "json.h"
#include "pool.h"
#include "server.h"

/* Whose manners errors have. */
typedef enum sv_api { SV_OPENAI, SV_ANTHROPIC, SV_OLLAMA } sv_api;

typedef struct sv_exchange sv_exchange;
typedef struct sv_answer sv_answer;
struct sv_server;

/* What has to be there. */
typedef enum sv_needs {
    SV_NOTHING,  /* it works while the first model is loading, and at the end */
    SV_A_SERVER, /* that is neither */
    SV_THE_MODEL /* that the body names: x->served */
} sv_needs;

typedef struct sv_route {
    const char *method, *path;
    sv_api api;
    bool open; /* needs no key */
    sv_needs needs;
    /* Write status, type and out, or call sv_fail, or leave an answer in stream. Body: x->json (POST). */
    void (*handle)(sv_exchange *x);
} sv_route;

typedef struct sv_error {
    int status;       /* 0 = none */
    const char *code; /* such as "context_length_exceeded"; may be NULL */
    char param[160];  /* the field, or empty */
    char text[1200];
} sv_error;

struct sv_exchange {
    struct sv_server *server;
    const sv_route *route; /* NULL: none such */
    sv_api api;
    char method[12], path[128];
    uint64_t id;
    char request_id[132]; /* the client's X-Request-Id, or id */
    int fd;               /* of the connection */
    int64_t begin_us;

    sv_buf body;
    uint64_t n_body; /* bytes of it that came, kept or not */
    sv_arena mem;
    const sv_json *json;
    sv_lease lease;    /* of the model that is asked */
    sv_served *served; /* that model, once the lease is held; NULL: the route needs none */

    sv_error error;
    int status; /* of the answer */
    const char *type;
    sv_buf out;        /* what is to be sent and has not been */
    sv_answer *stream; /* more comes from it; NULL: out is all */
    bool waits;        /* a stream has begun and its model is not there yet */
    int64_t ping_us;   /* last sign of life while it waits */
    bool gone;         /* the client is */

    /* for the log */
    int n_prompt, n_cached, n_generated;
    const char *finish;
};

/* Note an error; the first one counts. param: the field's path, NULL = none. Returns false. */
bool sv_fail(sv_exchange *x, int status, const char *code, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
/* A call of the library failed. */
bool sv_fail_diag(sv_exchange *x, const apus_diag *d);
/* {"error": ...} as the API writes it, without the HTTP status. */
void sv_put_error(sv_buf *b, sv_api api, const sv_error *e);

/* Begin the answer of that status as JSON. */
void sv_json_answer(sv_exchange *x, int status);
/* Has the client closed its connection? */
bool sv_client_gone(sv_exchange *x);
void sv_exchange_free(sv_exchange *x);

#endif
