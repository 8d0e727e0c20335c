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

/* What is told of a model, also while it is not loaded. */
typedef struct sv_facts {
    bool known;
    char architecture[40], types[160];
    uint64_t params, weight_bytes;
    int n_layers, hidden, vocab, context;
    bool quantised, chats;
    unsigned towers; /* APUS_TOWER_* */
} sv_facts;

void sv_facts_learn(sv_facts *f, const apus_info *i);

/* A model that may be asked for. */
typedef struct sv_entry {
    const char *name;   /* what clients call it */
    sv_names aliases;   /* other names for it */
    const char *source; /* what `load` opens; NULL: its default */
    sv_facts facts;     /* if they are known before it is loaded */
} sv_entry;

typedef struct sv_settings {
    const char *host; /* a name or address to listen at; "127.0.0.1" unless asked otherwise */
    int port;         /* 0 = one that is free; the line that says where it listens names it */
    const sv_entry *entries; /* at least one; who names no model means the first */
    int n_entries;
    bool
        load_first; /* at the beginning, instead of when it is asked for; the server ends if that fails */
    int max_loaded; /* models in memory at once */
    sv_names keys;  /* NULL-terminated keys that clients must have one of; none = no key is asked */
    sv_names hosts; /* names in Host besides this machine's own; "*" = any */
    sv_names origins;               /* origins of foreign web pages that may ask; "*" is not one */
    const char *tls_cert, *tls_key; /* files; NULL = plain HTTP */
    size_t max_body;                /* bytes */
    int max_media;                  /* pictures, videos and sounds of a request */
    int max_pixels;                 /* of a picture */
    sv_names
        media_hosts; /* that pictures named by a URL are fetched from: NAME, *.NAME, or * for all that are public */
    int image_tokens; /* most of a picture; 0 = as the model's processor says */
    int max_connections;
    int header_s, idle_s; /* seconds for a request's head; for a connection without a request */
    int ping_s;           /* seconds of silence in a stream before a keep-alive */
    int drain_s;          /* seconds that running answers have after SIGTERM */
    bool quiet;           /* no line for each request */
    bool log_json;        /* lines are JSON objects */
    const char *redis,
        *redis_password; /* address of what prefixes are shared through, and a file; or NULL */
    int redis_ttl_s;     /* seconds that a record stays there behind its last use */
    bool text_only;      /* towers are not loaded, and pictures refused */
    apus_scheduler_settings scheduler;
    /* Open a model, by one thread at a time. The first one comes after the server listens: until then, it answers
     * 503. set->engine is to be filled, and to stay until the next call. Returns -1 and the model, which the server
     * closes, or the exit status with *why, which was told on stderr; ENOMEM: it might fit when others have gone.
     * others: bytes that those which are loaded take. */
    int (*load)(const sv_entry *e, uint64_t others, apus_model **out, apus_scheduler_settings *set,
                apus_diag *why);
    void (*unload)(
        apus_model *m); /* before the server closes one, when nothing of it runs; or NULL */
} sv_settings;

void sv_settings_default(sv_settings *s);

/* Serve until SIGTERM or SIGINT. Explains failures on stderr. Returns the exit status. */
int sv_serve(const sv_settings *s);

#endif
