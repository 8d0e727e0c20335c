#include "remote.h"

#ifdef SV_CURL

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "state.h"

enum { MAX_HOPS = 5, CONNECT_MS = 5000 };

typedef struct fetch {
    const sv_remote *rules;
    sv_buf *out;
    CURLU *url;
    CURL *easy;
    bool inner, too_long; /* why it ended */
    char *why;
    size_t cap;
} fetch;

bool sv_remote_built(void)
{
    return true;
}

bool sv_remote_init(void)
{
    return curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
}

static bool fail(fetch *f, const char *text)
{
    snprintf(f->why, f->cap, "%s", text);
    return false;
}

/* ---------------------------------------------------------------- who may be asked */

/* Is `host` the name, or one below it if the name begins with "*."? */
static bool names(const char *name, const char *host, size_t n)
{
    if (!strcmp(name, "*")) return true;
    if (strncmp(name, "*.", 2) != 0) return strlen(name) == n && !strncasecmp(name, host, n);
    size_t m = strlen(++name);
    return n > m && !strncasecmp(host + n - m, name, m);
}

static bool may_ask(const sv_remote *r, const char *host)
{
    size_t n = strlen(host);
    if (n && host[n - 1] == '.') n--;
    for (int i = 0; i < r->hosts->n; i++)
        if (names(r->hosts->item[i], host, n)) return true;
    return false;
}

static bool has_part(CURLU *u, CURLUPart part)
{
    char *s = NULL;
    bool there = !curl_url_get(u, part, &s, 0);
    curl_free(s);
    return there;
}

/* May f->url be asked for? */
static bool check_url(fetch *f)
{
    char *host = NULL;
    if (has_part(f->url, CURLUPART_USER) || has_part(f->url, CURLUPART_PASSWORD))
        return fail(f, "a name or password in it is not sent");
    if (curl_url_get(f->url, CURLUPART_HOST, &host, 0)) return fail(f, "it names no host");
    bool ok = may_ask(f->rules, host);
    if (!ok)
        snprintf(f->why, f->cap, "this server fetches nothing from %.100s (--allow-media-from)",
                 host);
    curl_free(host);
    return ok;
}

/* ---------------------------------------------------------------- what libcurl asks */

/* Names are resolved anew for every connection, so what counts is where this one goes. */
static curl_socket_t open_socket(void *ctx, curlsocktype purpose, struct curl_sockaddr *a)
{
    fetch *f = ctx;
    (void)purpose;
    if (!f->rules->reachable(&a->addr)) {
        f->inner = true;
        return CURL_SOCKET_BAD;
    }
    return socket(a->family, a->socktype | SOCK_CLOEXEC, a->protocol);
}

static size_t on_body(char *data, size_t one, size_t n, void *ctx)
{
    fetch *f = ctx;
    long status = 0;
    (void)one;
    curl_easy_getinfo(f->easy, CURLINFO_RESPONSE_CODE, &status);
    if (status != 200) return n; /* of errors and redirects nothing is kept */
    f->too_long = n > f->rules->max_bytes - f->out->len;
    if (f->too_long) return 0;
    sv_buf_add(f->out, data, n);
    return f->out->failed ? 0 : n;
}

static int on_progress(void *ctx, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
    const fetch *f = ctx;
    (void)a, (void)b, (void)c, (void)d;
    return f->rules->stop && f->rules->stop(f->rules->ctx);
}

/* ---------------------------------------------------------------- a request */

static bool prepare(fetch *f, int64_t left_us)
{
    CURL *e = f->easy;
    return !curl_easy_setopt(e, CURLOPT_CURLU, f->url) &&
           !curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https") &&
           !curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L) &&
           !curl_easy_setopt(e, CURLOPT_PROXY, "") && /* addresses would be those of the proxy */
           !curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L) &&
           !curl_easy_setopt(e, CURLOPT_USERAGENT, "apus") &&
           !curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS) &&
           !curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, (long)(left_us / 1000 + 1)) &&
           !curl_easy_setopt(e, CURLOPT_OPENSOCKETFUNCTION, open_socket) &&
           !curl_easy_setopt(e, CURLOPT_OPENSOCKETDATA, f) &&
           !curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body) &&
           !curl_easy_setopt(e, CURLOPT_WRITEDATA, f) &&
           !curl_easy_setopt(e, CURLOPT_XFERINFOFUNCTION, on_progress) &&
           !curl_easy_setopt(e, CURLOPT_XFERINFODATA, f) &&
           !curl_easy_setopt(e, CURLOPT_NOPROGRESS, 0L);
}

static bool explain(fetch *f, CURLcode code)
{
    if (f->inner) return fail(f, "its host is not on the public internet");
    if (f->out->failed || code == CURLE_OUT_OF_MEMORY) return fail(f, "out of memory");
    if (code == CURLE_ABORTED_BY_CALLBACK) return fail(f, "stopped");
    if (code == CURLE_OPERATION_TIMEDOUT) return fail(f, "it took too long");
    if (!f->too_long) return fail(f, curl_easy_strerror(code));
    snprintf(f->why, f->cap, "it has more than %zu bytes", f->rules->max_bytes);
    return false;
}

/* Let f->url be where a redirect leads. */
static bool follow(fetch *f)
{
    char *to = NULL, *was = NULL, *is = NULL;
    curl_easy_getinfo(f->easy, CURLINFO_REDIRECT_URL, &to);
    bool ok = to && !curl_url_get(f->url, CURLUPART_SCHEME, &was, 0) &&
              !curl_url_set(f->url, CURLUPART_URL, to, 0) &&
              !curl_url_get(f->url, CURLUPART_SCHEME, &is, 0);
    bool down = ok && strcmp(is, "https") != 0 && strcmp(was, "http") != 0;
    curl_free(was);
    curl_free(is);
    if (!ok) return fail(f, "a redirect to nowhere");
    return down ? fail(f, "a redirect away from https") : check_url(f);
}

/* Ask for f->url. *moved: follow it. */
static bool ask(fetch *f, bool *moved)
{
    long status = 0;
    int64_t left = f->rules->until_us - sv_now_us();
    f->out->len = 0;
    if (left <= 0) return fail(f, "it took too long");
    if (!prepare(f, left)) return fail(f, "out of memory");
    CURLcode code = curl_easy_perform(f->easy);
    if (code != CURLE_OK) return explain(f, code);
    curl_easy_getinfo(f->easy, CURLINFO_RESPONSE_CODE, &status);
    *moved = status >= 301 && status <= 308 && status != 304;
    if (*moved || status == 200) return true;
    snprintf(f->why, f->cap, "its host answered with status %ld", status);
    return false;
}

static bool ask_along(fetch *f)
{
    bool moved = false;
    for (int hops = 0; hops <= MAX_HOPS; hops++) {
        if (!ask(f, &moved)) return false;
        if (!moved) return true;
        if (!follow(f)) return false;
    }
    return fail(f, "too many redirects");
}

bool sv_remote_get(const sv_remote *r, const char *url, sv_buf *out, char *why, size_t cap)
{
    fetch f = {.rules = r, .out = out, .why = why, .cap = cap};
    f.url = curl_url();
    f.easy = curl_easy_init();
    bool ok = f.url && f.easy;
    if (!ok)
        fail(&f, "out of memory");
    else if (curl_url_set(f.url, CURLUPART_URL, url, 0))
        ok = fail(&f, "it is no URL");
    else
        ok = check_url(&f) && ask_along(&f);
    curl_easy_cleanup(f.easy);
    curl_url_cleanup(f.url);
    return ok;
}

#else

bool sv_remote_built(void)
{
    return false;
}

bool sv_remote_init(void)
{
    return true;
}

bool sv_remote_get(const sv_remote *r, const char *url, sv_buf *out, char *why, size_t cap)
{
    (void)r, (void)url, (void)out, (void)why, (void)cap;
    return false;
}

#endif
