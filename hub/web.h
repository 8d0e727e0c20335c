/* web.h - HTTP with a hub, by libcurl: requests side by side on one thread, redirects followed with care.
 *
 * The token goes to the hub's own scheme, host and port and nowhere else, also after redirects. From https
 * nothing leads to http, and never to anything but these two. */
#ifndef APUS_HUB_WEB_H
#define APUS_HUB_WEB_H

#include <stddef.h>
#include <stdint.h>

#include "why.h"

typedef struct hub_web hub_web;

typedef struct hub_web_settings {
    const char *endpoint;    /* such as "https://huggingface.co" */
    const char *token;       /* NULL: none */
    int timeout_s;           /* without a byte: the connection counts as lost */
    bool (*stop)(void *ctx); /* asked several times a second; may be NULL */
    void *ctx;
} hub_web_settings;

/* *s must stay. */
hub_web *hub_web_open(const hub_web_settings *s, apus_diag *why);
void hub_web_close(hub_web *w);

typedef struct hub_request {
    /* what is asked */
    char url[4096];
    bool head;         /* headers alone, and none from other hosts */
    bool ranged;       /* bytes [from, to) */
    uint64_t from, to; /* `to` may grow in the first call of `body` when `whole` */
    /* The next bytes, all of them from `from` on; false: no more are wanted. */
    bool (*body)(struct hub_request *r, const char *data, size_t n);
    void *ctx;
    /* what came */
    bool done, failed, whole; /* whole: the server sends all of the file instead of a range */
    bool refused;             /* not to be asked again: a rule was broken */
    long status;
    char etag[80], commit[48], error_code[48];
    uint64_t length,
        total; /* of the file, if known: linked size or content length; of Content-Range */
    bool length_known;
    int retry_after_s;
    char fault[256]; /* why it failed, when no answer came */
    /* its own */
    void *easy;
    int hops;
    bool hub;      /* it is the hub itself that answers */
    uint64_t skip; /* bytes before `from` */
    bool begun;    /* body() was called */
} hub_request;

/* Begin; r must stay where it is until it is done or dropped. url, head, ranged, from, to, body and ctx are set, the
 * rest is reset. */
bool hub_web_start(hub_web *w, hub_request *r, apus_diag *why);
void hub_web_drop(hub_web *w, hub_request *r);
/* Let the requests go on for up to so many milliseconds. Those that ended have `done` set. */
void hub_web_turn(hub_web *w, int ms);
bool hub_web_must_stop(const hub_web *w);

/* Is a failed request worth another try, and after how many milliseconds? tries: so far. */
bool hub_web_again(const hub_request *r, int tries, int *wait_ms);
/* Explain a failed request; what: "org/repo" or "org/repo: config.json". Returns false. */
bool hub_web_explain(const hub_web *w, const hub_request *r, const char *repo, const char *what,
                     apus_diag *why);

/* One request from beginning to end, tried again while that makes sense. text: free() it; NULL: HEAD. */
bool hub_web_ask(hub_web *w, const char *url, const char *repo, const char *what, size_t limit,
                 char **text, size_t *len, hub_request *answer, apus_diag *why);

/* Append text to a URL, percent-encoded but for '/' unless `all`; false if it does not fit. */
bool hub_url_add(char *url, size_t cap, const char *text, bool all);

#endif
