#include "http.h"

#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "answer.h"
#include "await.h"
#include "conns.h"
#include "guard.h"
#include "log.h"
#include "route.h"
#include "tls.h"

enum {
    STACK = 1 << 20,
    HEAD_BYTES = 32 << 10,
    STREAM_BLOCK = 16 << 10,
    BACKLOG = 511,
    SWALLOW = 4,
    MOST_NAME = 128
};

/* The page has its script and style in itself and asks nobody else; nobody shows it in a frame. */
#define PAGE_POLICY                                                                                \
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "                  \
    "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors "     \
    "'none'"

struct sv_http {
    sv_server *server;
    struct MHD_Daemon *daemon;
    sv_conns conns;
    sv_tls tls;
    bool started;
    char why[256]; /* what the library said first, until it has started */
};

/* ---------------------------------------------------------------- the head */

static const char *header(struct MHD_Connection *c, const char *name)
{
    return MHD_lookup_connection_value(c, MHD_HEADER_KIND, name);
}

static sv_conn *conn_of(struct MHD_Connection *c)
{
    const union MHD_ConnectionInfo *i =
        MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return i ? i->socket_context : NULL;
}

static int fd_of(struct MHD_Connection *c)
{
    const union MHD_ConnectionInfo *i =
        MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
    return i ? i->connect_fd : -1;
}

static bool check_length(sv_exchange *x, const char *length)
{
    size_t most = x->server->set->max_body;
    if (!length || strtoull(length, NULL, 10) <= most) return true;
    return sv_fail(x, 413, "body_too_large", NULL,
                   "the body has %.20s bytes, at most %zu are taken", length, most);
}

static void check_head(sv_exchange *x, struct MHD_Connection *c)
{
    bool other;
    sv_head h = {header(c, "Host"),          header(c, "Origin"),    header(c, "Sec-Fetch-Site"),
                 header(c, "Authorization"), header(c, "x-api-key"), header(c, "Content-Type")};
    x->route = sv_route_find(x->method, x->path, &other);
    x->api = x->route ? x->route->api : sv_route_api(x->path);
    if (!sv_guard(x, &h) || !check_length(x, header(c, "Content-Length"))) return;
    if (!strcmp(x->method, "OPTIONS")) return;
    if (!x->route && other)
        sv_fail(x, 405, "method_not_allowed", NULL, "%s is not for %.100s", x->method, x->path);
    else if (!x->route)
        sv_fail(x, 404, "not_found", NULL, "there is no %.100s here", x->path);
}

/* What a proxy or client calls the request, so that both logs can be read side by side: letters, digits and
 * "._-". Anything else is no name, and the request is called by its number. */
static void name_request(sv_exchange *x, const char *given)
{
    static const char ok[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    size_t n = given ? strspn(given, ok) : 0;
    if (n && !given[n] && n <= MOST_NAME)
        memcpy(x->request_id, given, n + 1);
    else
        snprintf(x->request_id, sizeof x->request_id, "%llu", (unsigned long long)x->id);
}

static sv_exchange *new_exchange(sv_http *h, struct MHD_Connection *c, const char *method,
                                 const char *path)
{
    sv_exchange *x = calloc(1, sizeof *x);
    if (!x) return NULL;
    x->server = h->server;
    x->fd = fd_of(c);
    x->id = atomic_fetch_add(&h->server->n_exchanges, 1) + 1;
    x->begin_us = sv_now_us();
    name_request(x, header(c, "X-Request-Id"));
    snprintf(x->method, sizeof x->method, "%s", method);
    snprintf(x->path, sizeof x->path, "%s", path);
    atomic_fetch_add(&h->server->running, 1);
    return x;
}

/* ---------------------------------------------------------------- the answer */

/* What the connection asks for next: as much of a stream as there is. */
static ssize_t read_stream(void *cls, uint64_t pos, char *buf, size_t max)
{
    sv_exchange *x = cls;
    (void)pos;
    if (x->waits) sv_await_pump(x);
    if (!x->out.len && !(x->stream && sv_answer_pump(x->stream)))
        return x->gone ? MHD_CONTENT_READER_END_WITH_ERROR : MHD_CONTENT_READER_END_OF_STREAM;
    size_t n = x->out.len < max ? x->out.len : max;
    memcpy(buf, x->out.data, n);
    sv_buf_drop(&x->out, n);
    return (ssize_t)n;
}

static void add_headers(sv_exchange *x, struct MHD_Connection *c, struct MHD_Response *r)
{
    const char *origin = header(c, "Origin");
    if (x->type) MHD_add_response_header(r, "Content-Type", x->type);
    MHD_add_response_header(r, "X-Request-Id", x->request_id);
    MHD_add_response_header(r, "Cache-Control", "no-store");
    MHD_add_response_header(r, "X-Content-Type-Options", "nosniff");
    if (x->type && !strncmp(x->type, "text/html", 9))
        MHD_add_response_header(r, "Content-Security-Policy", PAGE_POLICY);
    if (x->stream || x->waits) MHD_add_response_header(r, "X-Accel-Buffering", "no");
    if (x->status == 429 || x->status == 503) MHD_add_response_header(r, "Retry-After", "1");
    if (x->status == 401) MHD_add_response_header(r, "WWW-Authenticate", "Bearer");
    if (atomic_load(&x->server->phase) == SV_DRAINING)
        MHD_add_response_header(r, "Connection", "close");
    if (!origin || !sv_origin_allowed(x, origin)) return;
    MHD_add_response_header(r, "Access-Control-Allow-Origin", origin);
    MHD_add_response_header(r, "Vary", "Origin");
    if (strcmp(x->method, "OPTIONS") != 0) return;
    MHD_add_response_header(r, "Access-Control-Allow-Methods", "GET, POST");
    MHD_add_response_header(r, "Access-Control-Allow-Headers",
                            "Authorization, Content-Type, x-api-key, anthropic-version");
}

static void write_error(sv_exchange *x)
{
    sv_buf_free(&x->out);
    sv_json_answer(x, x->error.status);
    sv_put_error(&x->out, x->api, &x->error);
}

static enum MHD_Result respond(sv_exchange *x, struct MHD_Connection *c)
{
    struct MHD_Response *r;
    if (x->gone) return MHD_NO;
    if (x->error.status) write_error(x);
    if (!x->status) x->status = 204; /* OPTIONS */
    if (x->stream || x->waits)
        r = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK, read_stream, x, NULL);
    else
        r = MHD_create_response_from_buffer(x->out.len, x->out.data, MHD_RESPMEM_PERSISTENT);
    if (!r) return MHD_NO;
    add_headers(x, c, r);
    enum MHD_Result ok = MHD_queue_response(c, (unsigned)x->status, r);
    MHD_destroy_response(r);
    return ok;
}

/* ---------------------------------------------------------------- what libmicrohttpd calls */

/* The head has come. */
static enum MHD_Result begin(sv_http *h, struct MHD_Connection *c, const char *method,
                             const char *path, void **ctx)
{
    const sv_settings *s = h->server->set;
    sv_exchange *x = new_exchange(h, c, method, path);
    if (!x) return MHD_NO;
    *ctx = x;
    check_head(x, c);
    /* a megabyte a second is slow enough for anybody */
    int64_t body_s = s->header_s + (int64_t)(s->max_body >> 20);
    sv_conn_deadline(&h->conns, conn_of(c), x->begin_us + body_s * 1000000);
    return MHD_YES;
}

/* The body of what is refused is read all the same, within bounds, or the client would not see the answer.
 * false: enough of that. */
static bool take_body(sv_exchange *x, const char *data, size_t n)
{
    x->n_body += n;
    if (x->n_body / SWALLOW > x->server->set->max_body) return false;
    if (x->error.status) return true;
    if (n > x->server->set->max_body - x->body.len)
        sv_fail(x, 413, "body_too_large", NULL, "the body has more than %zu bytes",
                x->server->set->max_body);
    else
        sv_buf_add(&x->body, data, n);
    return true;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *c, const char *path,
                                  const char *method, const char *version, const char *data,
                                  size_t *n, void **ctx)
{
    sv_http *h = cls;
    sv_exchange *x = *ctx;
    (void)version;
    if (!x) return begin(h, c, method, path, ctx);
    if (*n) {
        bool go = take_body(x, data, *n);
        *n = 0;
        return go ? MHD_YES : MHD_NO;
    }
    sv_conn_deadline(&h->conns, conn_of(c), 0);
    /* Thinking about an answer is not idling. */
    MHD_set_connection_option(c, MHD_CONNECTION_OPTION_TIMEOUT, 0u);
    sv_route_handle(x);
    MHD_set_connection_option(c, MHD_CONNECTION_OPTION_TIMEOUT, (unsigned)h->server->set->idle_s);
    return respond(x, c);
}

static void on_completed(void *cls, struct MHD_Connection *c, void **ctx,
                         enum MHD_RequestTerminationCode how)
{
    sv_http *h = cls;
    sv_exchange *x = *ctx;
    if (!x) return;
    *ctx = NULL;
    x->gone |=
        how != MHD_REQUEST_TERMINATED_COMPLETED_OK && how != MHD_REQUEST_TERMINATED_DAEMON_SHUTDOWN;
    sv_log_exchange(x);
    sv_exchange_free(x);
    atomic_fetch_sub(&h->server->running, 1);
    sv_conn_deadline(&h->conns, conn_of(c),
                     sv_now_us() + (int64_t)h->server->set->idle_s * 1000000);
}

static void on_connection(void *cls, struct MHD_Connection *c, void **ctx,
                          enum MHD_ConnectionNotificationCode what)
{
    sv_http *h = cls;
    if (what == MHD_CONNECTION_NOTIFY_STARTED)
        *ctx = sv_conn_add(&h->conns, fd_of(c),
                           sv_now_us() + (int64_t)h->server->set->header_s * 1000000);
    else
        sv_conn_remove(&h->conns, *ctx);
}

/* What the library has to say explains why it did not start; later it speaks of clients' doings alone. */
static void on_message(void *ctx, const char *fmt, va_list list)
{
    sv_http *h = ctx;
    if (h->started || *h->why) return;
    vsnprintf(h->why, sizeof h->why, fmt, list);
    h->why[strcspn(h->why, "\n")] = 0;
}

/* ---------------------------------------------------------------- listening */

static int listen_at(const struct addrinfo *a)
{
    int one = 1, fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
    if (fd < 0) return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (!bind(fd, a->ai_addr, a->ai_addrlen) && !listen(fd, BACKLOG)) return fd;
    int saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

/* Where it listens, and whether others than this machine can reach that. */
static void announce(sv_server *s, int fd)
{
    struct sockaddr_storage a;
    socklen_t n = sizeof a;
    char host[64] = "?", port[16] = "?";
    getsockname(fd, (struct sockaddr *)&a, &n);
    getnameinfo((struct sockaddr *)&a, n, host, sizeof host, port, sizeof port,
                NI_NUMERICHOST | NI_NUMERICSERV);
    s->loopback = !strncmp(host, "127.", 4) || !strcmp(host, "::1");
    bool six = strchr(host, ':') != NULL;
    sv_log(s->set, "info", "listening on http%s://%s%s%s:%s", s->set->tls_cert ? "s" : "",
           six ? "[" : "", host, six ? "]" : "", port);
    if (!s->loopback && !s->set->keys.n)
        sv_log(s->set, "warning",
               "others can reach this address, and no key is asked (--api-key-file)");
}

static int open_socket(sv_server *s)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list = NULL;
    char port[16];
    int fd = -1;
    snprintf(port, sizeof port, "%d", s->set->port);
    int rc = getaddrinfo(s->set->host, port, &hints, &list);
    if (rc) {
        sv_log(s->set, "error", "--host %s: %s", s->set->host, gai_strerror(rc));
        return -1;
    }
    for (const struct addrinfo *a = list; a && fd < 0; a = a->ai_next) fd = listen_at(a);
    freeaddrinfo(list);
    if (fd < 0)
        sv_log(s->set, "error", "listening on %s port %d failed: %s", s->set->host, s->set->port,
               strerror(errno));
    return fd;
}

/* The library's daemon, with TLS if there is a certificate. */
static struct MHD_Daemon *start_daemon(sv_http *h, int fd)
{
    const sv_settings *s = h->server->set;
    struct MHD_OptionItem tls[] = {{MHD_OPTION_HTTPS_MEM_CERT, 0, h->tls.cert},
                                   {MHD_OPTION_HTTPS_MEM_KEY, 0, h->tls.key},
                                   {MHD_OPTION_HTTPS_PRIORITIES, 0, (void *)SV_TLS_PRIORITIES},
                                   {MHD_OPTION_END, 0, NULL}};
    return MHD_start_daemon(
        MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL |
            MHD_USE_ITC | MHD_USE_ERROR_LOG | (h->tls.cert ? MHD_USE_TLS : 0),
        0, NULL, NULL, on_request, h, MHD_OPTION_EXTERNAL_LOGGER, on_message, h,
        MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_NOTIFY_COMPLETED, on_completed, h,
        MHD_OPTION_NOTIFY_CONNECTION, on_connection, h, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)s->max_connections, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)s->idle_s,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HEAD_BYTES, MHD_OPTION_THREAD_STACK_SIZE,
        (size_t)STACK, MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_ARRAY,
        h->tls.cert ? tls : &tls[3], MHD_OPTION_END);
}

static bool load_tls(sv_http *h)
{
    const sv_settings *s = h->server->set;
    if (!s->tls_cert) return true;
    if (MHD_is_feature_supported(MHD_FEATURE_TLS)) return sv_tls_load(&h->tls, s);
    sv_log(s, "error", "--tls-cert: this build of libmicrohttpd has no TLS");
    return false;
}

static void free_http(sv_http *h)
{
    if (!h) return;
    sv_tls_free(&h->tls);
    free(h);
}

sv_http *sv_http_start(sv_server *s)
{
    sv_http *h = calloc(1, sizeof *h);
    if (h) h->server = s;
    int fd = h && load_tls(h) ? open_socket(s) : -1;
    if (fd < 0 || !sv_conns_start(&h->conns)) {
        if (fd >= 0) close(fd);
        free_http(h);
        return NULL;
    }
    h->daemon = start_daemon(h, fd);
    h->started = true;
    if (h->daemon) {
        announce(s, fd);
        return h;
    }
    sv_log(s->set, "error", "%s%s%s%s%s", h->tls.cert ? "--tls-cert " : "",
           h->tls.cert ? s->set->tls_cert : "", h->tls.cert ? ": " : "",
           "the HTTP library could not be started: ", h->why);
    close(fd);
    sv_conns_stop(&h->conns);
    free_http(h);
    return NULL;
}

void sv_http_quiesce(sv_http *h)
{
    MHD_socket fd = MHD_quiesce_daemon(h->daemon);
    if (fd != MHD_INVALID_SOCKET) close(fd);
}

void sv_http_stop(sv_http *h)
{
    MHD_stop_daemon(h->daemon);
    sv_conns_stop(&h->conns);
    free_http(h);
}
