#include "web.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_HOPS = 10, MAX_TRIES = 5, MAX_TRIES_UNREACHED = 2 };

struct hub_web {
    const hub_web_settings *set;
    CURLM *multi;
    struct curl_slist *secret; /* the header with the token */
};

/* ---------------------------------------------------------------- addresses */

typedef struct origin {
    char *scheme, *host, *port;
} origin;

static void free_origin(origin *o)
{
    curl_free(o->scheme);
    curl_free(o->host);
    curl_free(o->port);
}

/* Free it in any case. */
static CURLUcode get_origin(const char *url, origin *o)
{
    CURLU *u = curl_url();
    *o = (origin){0};
    CURLUcode c = u ? curl_url_set(u, CURLUPART_URL, url, 0) : CURLUE_OUT_OF_MEMORY;
    if (!c) c = curl_url_get(u, CURLUPART_SCHEME, &o->scheme, 0);
    if (!c) c = curl_url_get(u, CURLUPART_HOST, &o->host, 0);
    if (!c) c = curl_url_get(u, CURLUPART_PORT, &o->port, CURLU_DEFAULT_PORT);
    curl_url_cleanup(u);
    return c;
}

static bool same_origin(const char *a, const char *b)
{
    origin x, y;
    bool ok = !get_origin(a, &x), too = !get_origin(b, &y);
    bool same = ok && too && !strcmp(x.scheme, y.scheme) && !strcasecmp(x.host, y.host) &&
                !strcmp(x.port, y.port);
    free_origin(&x);
    free_origin(&y);
    return same;
}

static bool is_scheme(const char *url, const char *scheme)
{
    size_t n = strlen(scheme);
    return !strncasecmp(url, scheme, n) && !strncmp(url + n, "://", 3);
}

bool hub_url_add(char *url, size_t cap, const char *text, bool all)
{
    static const char plain[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.~";
    size_t at = strlen(url);
    for (; *text; text++) {
        bool keep = strchr(plain, *text) || (*text == '/' && !all);
        int n = snprintf(url + at, cap - at, keep ? "%c" : "%%%02X", (unsigned char)*text);
        if (n < 0 || (size_t)n >= cap - at) return false;
        at += (size_t)n;
    }
    return true;
}

/* ---------------------------------------------------------------- a life */

hub_web *hub_web_open(const hub_web_settings *s, apus_diag *why)
{
    char header[600];
    origin o;
    CURLUcode c = get_origin(s->endpoint, &o);
    bool good = !c && (!strcmp(o.scheme, "http") || !strcmp(o.scheme, "https"));
    free_origin(&o);
    if (!good && c != CURLUE_OUT_OF_MEMORY) {
        hub_fail(why, "HF_ENDPOINT %.200s: expected an address such as https://huggingface.co",
                 s->endpoint);
        return NULL;
    }
    hub_web *w = good ? calloc(1, sizeof *w) : NULL;
    if (w && !curl_global_init(CURL_GLOBAL_DEFAULT)) {
        w->set = s;
        w->multi = curl_multi_init();
        if (s->token) {
            snprintf(header, sizeof header, "Authorization: Bearer %s", s->token);
            w->secret = curl_slist_append(NULL, header);
        }
        if (w->multi && (w->secret || !s->token)) return w;
    }
    hub_web_close(w);
    hub_no_memory(why);
    return NULL;
}

void hub_web_close(hub_web *w)
{
    if (!w) return;
    curl_multi_cleanup(w->multi);
    curl_slist_free_all(w->secret);
    curl_global_cleanup();
    free(w);
}

bool hub_web_must_stop(const hub_web *w)
{
    return w->set->stop && w->set->stop(w->set->ctx);
}

/* ---------------------------------------------------------------- what comes */

/* The value of a header of that name without quotes and white space; false: it is another one. */
static bool header_is(const char *line, size_t n, const char *name, char *out, size_t cap)
{
    size_t m = strlen(name);
    if (n <= m || strncasecmp(line, name, m) || line[m] != ':') return false;
    const char *p = line + m + 1, *end = line + n;
    while (p < end && (*p == ' ' || *p == '\t')) p++;
    while (end > p && strchr(" \t\r\n", end[-1])) end--;
    if (end - p > 2 && !strncmp(p, "W/", 2)) p += 2;
    if (end - p >= 2 && *p == '"' && end[-1] == '"') {
        p++;
        end--;
    }
    if ((size_t)(end - p) >= cap) return false;
    memcpy(out, p, (size_t)(end - p));
    out[end - p] = 0;
    return true;
}

static bool number(const char *s, uint64_t *out)
{
    char *end;
    if (*s < '0' || *s > '9') return false;
    *out = strtoull(s, &end, 10);
    return *end == 0;
}

/* Content-Range: bytes FROM-LAST/TOTAL */
static void read_range(hub_request *r, const char *s)
{
    unsigned long long from, last, total;
    if (sscanf(s, "bytes %llu-%llu/%llu", &from, &last, &total) != 3) return;
    r->total = total;
    if (from != r->from || last < from || last >= total) {
        r->refused = true;
        snprintf(r->fault, sizeof r->fault, "bytes %llu to %llu came for those from %llu on", from,
                 last, (unsigned long long)r->from);
    }
}

/* The hub speaks for the file, also in a redirect; other hosts only for the bytes they send. */
static void read_hub_header(hub_request *r, const char *line, size_t n)
{
    char v[80];
    uint64_t size;
    if (header_is(line, n, "X-Linked-Etag", v, sizeof v)) strcpy(r->etag, v);
    if (header_is(line, n, "ETag", v, sizeof v) && !*r->etag) strcpy(r->etag, v);
    if (header_is(line, n, "X-Linked-Size", v, sizeof v) && number(v, &size)) {
        r->length = size;
        r->length_known = true;
    }
    if (header_is(line, n, "X-Repo-Commit", v, sizeof v)) snprintf(r->commit, 48, "%.47s", v);
    if (header_is(line, n, "X-Error-Code", v, sizeof v)) snprintf(r->error_code, 48, "%.47s", v);
}

static long status_of(hub_request *r)
{
    long status = 0;
    curl_easy_getinfo(r->easy, CURLINFO_RESPONSE_CODE, &status);
    return status;
}

static size_t on_header(char *line, size_t one, size_t n, void *ctx)
{
    hub_request *r = ctx;
    char v[80];
    uint64_t num;
    (void)one;
    if (r->hub) read_hub_header(r, line, n);
    if (header_is(line, n, "Content-Range", v, sizeof v) && status_of(r) == 206) read_range(r, v);
    if (header_is(line, n, "Content-Length", v, sizeof v) && number(v, &num) &&
        status_of(r) == 200 && !r->length_known) {
        r->length = num;
        r->length_known = true;
    }
    if (header_is(line, n, "Retry-After", v, sizeof v) && number(v, &num))
        r->retry_after_s = num < 60 ? (int)num : 60;
    return r->refused ? 0 : n;
}

static size_t on_body(char *data, size_t one, size_t n, void *ctx)
{
    hub_request *r = ctx;
    size_t all = n;
    long status = status_of(r);
    (void)one;
    if (status < 200 || status > 299) return all; /* of errors and redirects nothing is kept */
    if (!r->begun && r->ranged) {
        r->whole = status == 200;
        r->skip = r->whole ? r->from : 0;
    }
    r->begun = true;
    if (r->skip) {
        size_t k = r->skip < n ? (size_t)r->skip : n;
        r->skip -= k;
        data += k;
        n -= k;
    }
    return n == 0 || r->body(r, data, n) ? all : 0;
}

static int on_progress(void *ctx, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
    const hub_web *w = ctx;
    (void)a, (void)b, (void)c, (void)d;
    return hub_web_must_stop(w);
}

/* ---------------------------------------------------------------- requests */

static bool prepare(hub_web *w, hub_request *r)
{
    CURL *e = r->easy;
    char range[64];
    r->hub = same_origin(r->url, w->set->endpoint);
    bool ok = !curl_easy_setopt(e, CURLOPT_URL, r->url) &&
              !curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https") &&
              !curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L) &&
              !curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L) &&
              !curl_easy_setopt(e, CURLOPT_HTTPHEADER, r->hub ? w->secret : NULL) &&
              !curl_easy_setopt(e, CURLOPT_USERAGENT, "apus") &&
              !curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT, 15L) &&
              !curl_easy_setopt(e, CURLOPT_LOW_SPEED_LIMIT, 1L) &&
              !curl_easy_setopt(e, CURLOPT_LOW_SPEED_TIME, (long)w->set->timeout_s) &&
              !curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, on_header) &&
              !curl_easy_setopt(e, CURLOPT_HEADERDATA, r) &&
              !curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body) &&
              !curl_easy_setopt(e, CURLOPT_WRITEDATA, r) &&
              !curl_easy_setopt(e, CURLOPT_XFERINFOFUNCTION, on_progress) &&
              !curl_easy_setopt(e, CURLOPT_XFERINFODATA, w) &&
              !curl_easy_setopt(e, CURLOPT_NOPROGRESS, 0L) &&
              !curl_easy_setopt(e, CURLOPT_PRIVATE, r) &&
              !curl_easy_setopt(e, CURLOPT_NOBODY, r->head ? 1L : 0L);
    if (ok && r->ranged) {
        snprintf(range, sizeof range, "%llu-%llu", (unsigned long long)r->from,
                 (unsigned long long)r->to - 1);
        /* a connection each: side by side they are faster than streams of one */
        ok = !curl_easy_setopt(e, CURLOPT_RANGE, range) &&
             !curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    }
    return ok;
}

bool hub_web_start(hub_web *w, hub_request *r, apus_diag *why)
{
    r->done = r->failed = r->whole = r->refused = r->length_known = r->begun = false;
    r->status = 0;
    r->etag[0] = r->commit[0] = r->error_code[0] = r->fault[0] = 0;
    r->length = r->total = r->skip = 0;
    r->retry_after_s = r->hops = 0;
    r->easy = curl_easy_init();
    if (r->easy && prepare(w, r) && !curl_multi_add_handle(w->multi, r->easy)) return true;
    hub_web_drop(w, r);
    return hub_no_memory(why);
}

void hub_web_drop(hub_web *w, hub_request *r)
{
    if (!r->easy) return;
    curl_multi_remove_handle(w->multi, r->easy);
    curl_easy_cleanup(r->easy);
    r->easy = NULL;
}

/* Go where a redirect leads; false: it is the end of the request. */
static bool follow(hub_web *w, hub_request *r)
{
    char *to = NULL;
    curl_easy_getinfo(r->easy, CURLINFO_REDIRECT_URL, &to);
    r->refused = true; /* until it is not */
    if (!to || strlen(to) >= sizeof r->url) {
        snprintf(r->fault, sizeof r->fault, "a redirect (status %ld) to nowhere", r->status);
        return false;
    }
    if (r->head && !same_origin(to, r->url)) { /* what is asked for was in the headers */
        r->refused = false;
        r->status = 200;
        return false;
    }
    if (++r->hops > MAX_HOPS) {
        snprintf(r->fault, sizeof r->fault, "more than %d redirects", MAX_HOPS);
        return false;
    }
    if (!is_scheme(to, "https") && (is_scheme(r->url, "https") || !is_scheme(to, "http"))) {
        snprintf(r->fault, sizeof r->fault, "a redirect away from https, to %.150s", to);
        return false;
    }
    strcpy(r->url, to);
    r->refused = false;
    curl_multi_remove_handle(w->multi, r->easy);
    return prepare(w, r) && !curl_multi_add_handle(w->multi, r->easy);
}

static void finish(hub_web *w, hub_request *r, CURLcode code)
{
    r->status = status_of(r);
    if (code == CURLE_OK && r->status >= 300 && r->status < 400 && r->status != 304 && follow(w, r))
        return;
    if (r->refused) {
        r->failed = true;
    } else if (code != CURLE_OK) {
        r->failed = true;
        r->status = code == CURLE_WRITE_ERROR ? -1 : 0;
        snprintf(r->fault, sizeof r->fault, "%s", curl_easy_strerror(code));
        if (code == CURLE_COULDNT_CONNECT || code == CURLE_COULDNT_RESOLVE_HOST ||
            code == CURLE_COULDNT_RESOLVE_PROXY)
            r->status = -2;
        if (code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CACERT_BADFILE)
            r->refused = true;
    } else {
        r->failed = r->status < 200 || r->status > 299;
    }
    hub_web_drop(w, r);
    r->done = true;
}

void hub_web_turn(hub_web *w, int ms)
{
    int running, left;
    CURLMsg *m;
    curl_multi_perform(w->multi, &running);
    bool ended = false;
    while ((m = curl_multi_info_read(w->multi, &left))) {
        hub_request *r;
        if (m->msg != CURLMSG_DONE) continue;
        CURLcode code = m->data.result;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &r);
        finish(w, r, code);
        ended = true;
    }
    if (!ended) curl_multi_poll(w->multi, NULL, 0, ms, NULL);
}

/* ---------------------------------------------------------------- failures */

bool hub_web_again(const hub_request *r, int tries, int *wait_ms)
{
    bool lost = r->status == 0, busy = r->status == 429 || r->status == 408;
    bool broken = r->status >= 500 && r->status <= 504 && r->status != 501;
    *wait_ms = r->retry_after_s ? r->retry_after_s * 1000 : 250 << (tries < 5 ? tries : 5);
    if (r->refused) return false;
    if (r->status == -2) return tries < MAX_TRIES_UNREACHED;
    return (lost || busy || broken) && tries < MAX_TRIES;
}

static bool explain_access(const hub_web *w, const hub_request *r, const char *repo, apus_diag *why)
{
    const char *at = w->set->endpoint;
    bool gated = !strcmp(r->error_code, "GatedRepo");
    if (!w->set->token && gated)
        return hub_fail(why,
                        "%s: one must agree to its terms first: log in at %s/%s and accept them, "
                        "make a token at %s/settings/tokens, and set HF_TOKEN to it",
                        repo, at, repo, at);
    if (!w->set->token)
        return hub_fail(why,
                        "%s: the hub wants to know who asks (status %ld): there is no such "
                        "repository, or it is private or has terms to agree to; see %s/%s, and set "
                        "HF_TOKEN to a token of %s/settings/tokens",
                        repo, r->status, at, repo, at);
    if (r->status == 401)
        return hub_fail(why,
                        "%s: the hub does not take the token (HF_TOKEN or its file), or there is "
                        "no such repository; tokens are made at %s/settings/tokens",
                        repo, at);
    return hub_fail(why,
                    "%s: the hub refuses this to the owner of the token (status %ld): ask for "
                    "access at %s/%s, and see at %s/settings/tokens that the token may read it",
                    repo, r->status, at, repo, at);
}

bool hub_web_explain(const hub_web *w, const hub_request *r, const char *repo, const char *what,
                     apus_diag *why)
{
    if (hub_web_must_stop(w)) return hub_stopped(why, "%s: stopped", what);
    if (r->refused) return hub_fail(why, "%s: %s", what, r->fault);
    if (r->hub && (r->status == 401 || r->status == 403)) return explain_access(w, r, repo, why);
    if (r->status == 404 && !strcmp(r->error_code, "RevisionNotFound"))
        return hub_fail(why, "%s: the hub has no such revision", what);
    if (r->status == 404)
        return hub_fail(why, "%s: the hub at %s has no such %s", what, w->set->endpoint,
                        strcmp(what, repo) ? "revision or file" : "repository");
    if (r->status == 429)
        return hub_fail(why, "%s: the hub asks for a pause (status 429); try again later", what);
    if (r->status == -2)
        return hub_fail(why, "%s: %s is out of reach: %s; HF_HUB_OFFLINE=1 uses what is here", what,
                        w->set->endpoint, r->fault);
    if (r->status <= 0) return hub_fail(why, "%s: %s", what, r->fault);
    return hub_fail(why, "%s: the hub answered with status %ld", what, r->status);
}

/* ---------------------------------------------------------------- one after the other */

typedef struct text_sink {
    char *text;
    size_t len, cap, limit;
    bool too_long;
} text_sink;

static bool take_text(hub_request *r, const char *data, size_t n)
{
    text_sink *t = r->ctx;
    if (n > t->limit - t->len) {
        t->too_long = true;
        return false;
    }
    if (t->len + n + 1 > t->cap) {
        size_t cap = 2 * (t->len + n + 1);
        char *p = realloc(t->text, cap);
        if (!p) return false;
        t->text = p;
        t->cap = cap;
    }
    memcpy(t->text + t->len, data, n);
    t->len += n;
    t->text[t->len] = 0;
    return true;
}

static void nap(hub_web *w, int ms)
{
    struct timespec t = {.tv_nsec = 50000000};
    for (; ms > 0 && !hub_web_must_stop(w); ms -= 50) nanosleep(&t, NULL);
}

bool hub_web_ask(hub_web *w, const char *url, const char *repo, const char *what, size_t limit,
                 char **text, size_t *len, hub_request *r, apus_diag *why)
{
    text_sink t = {.limit = limit};
    for (int tries = 1;; tries++) {
        int wait;
        t.len = 0;
        *r = (hub_request){.head = !text, .body = take_text, .ctx = &t};
        snprintf(r->url, sizeof r->url, "%s", url);
        if (!hub_web_start(w, r, why)) break;
        while (!r->done) hub_web_turn(w, 200);
        if (!r->failed && text) {
            *text = t.text ? t.text : strdup("");
            *len = t.len;
            return *text || hub_no_memory(why);
        }
        if (!r->failed) return true;
        if (!t.too_long && !hub_web_must_stop(w) && hub_web_again(r, tries, &wait)) {
            nap(w, wait);
            continue;
        }
        if (t.too_long)
            hub_fail(why, "%s: the answer has more than %zu bytes", what, limit);
        else
            hub_web_explain(w, r, repo, what, why);
        break;
    }
    free(t.text);
    return false;
}
