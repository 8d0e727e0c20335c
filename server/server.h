/* server.h - apus serve: a model behind HTTP, for the program's command. */
#ifndef APUS_SERVER_SERVER_H
#define APUS_SERVER_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "apus/apus.h"

typedef struct sv_names {
    const char *item[16];
    int n;
} sv_names;

typedef struct sv_settings {
    const char *host;       /* a name or address to listen at; "127.0.0.1" unless asked otherwise */
    int port;               /* 0 = one that is free; the line that says where it listens names it */
    const char *model_name; /* what the model is called by clients */
    sv_names aliases;       /* other names for it */
    sv_names keys;  /* NULL-terminated keys that clients must have one of; none = no key is asked */
    sv_names hosts; /* names in Host besides this machine's own; "*" = any */
    sv_names origins;               /* origins of foreign web pages that may ask; "*" is not one */
    const char *tls_cert, *tls_key; /* files; NULL = plain HTTP */
    size_t max_body;                /* bytes */
    int max_connections;
    int header_s, idle_s; /* seconds for a request's head; for a connection without a request */
    int ping_s;           /* seconds of silence in a stream before a keep-alive */
    int drain_s;          /* seconds that running answers have after SIGTERM */
    bool quiet;           /* no line for each request */
    apus_scheduler_settings scheduler;
    /* Open the model; called once, after the server listens: until it returns, it answers 503. set->engine is to
     * be filled. Returns -1 and the model, which the server closes, or the exit status. */
    int (*load)(apus_model **out, apus_scheduler_settings *set);
    void (*unload)(apus_model *m); /* before the server closes it, when nothing runs; or NULL */
} sv_settings;

void sv_settings_default(sv_settings *s);

/* Serve until SIGTERM or SIGINT. Explains failures on stderr. Returns the exit status. */
int sv_serve(const sv_settings *s);

#endif
