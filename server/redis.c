#include "redis.h"

#include "log.h"

#ifdef SV_REDIS

#include <errno.h>
#include <hiredis/hiredis.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "state.h"

enum {
    CONNECT_MS = 500,  /* also for each time that something is sent or received */
    REST_US = 5000000, /* between a failure and the next attempt */
    PORT = 6379,
    BATCH = 512 /* names in one go */
};

struct sv_redis {
    const sv_settings *set;
    apus_store store;
    pthread_mutex_t lock; /* of what follows: several schedulers may ask */
    char host[256];
    int port; /* 0: host is the path of a socket */
    char user[128], password[512];
    redisContext *c; /* NULL: not connected */
    int64_t rest_until;
    bool failed; /* the last attempt did */
};

/* ---------------------------------------------------------------- the connection */

static void drop(sv_redis *r, const char *why)
{
    if (!r->failed)
        sv_log(r->set, "warning", "--cache-redis %s: %s; prompts are computed here meanwhile",
               r->set->redis, why);
    r->failed = true;
    r->rest_until = sv_now_us() + REST_US;
    if (r->c) redisFree(r->c);
    r->c = NULL;
}

/* The connection cannot be gone on with: an answer did not come, or is not what it should be. */
static void drop_error(sv_redis *r)
{
    drop(r, r->c->err == REDIS_ERR_IO && errno == EAGAIN ? "it does not answer"
            : r->c->err                                  ? r->c->errstr
                                                         : "an answer that makes no sense");
}

static bool log_in(sv_redis *r)
{
    redisReply *a = *r->user ? redisCommand(r->c, "AUTH %s %s", r->user, r->password)
                             : redisCommand(r->c, "AUTH %s", r->password);
    bool ok = a && a->type != REDIS_REPLY_ERROR;
    if (!a)
        drop_error(r);
    else if (!ok)
        drop(r, "the password is not taken");
    if (a) freeReplyObject(a);
    return ok;
}

static bool is_connected(sv_redis *r)
{
    struct timeval t = {.tv_usec = CONNECT_MS * 1000};
    if (r->c) return true;
    if (sv_now_us() < r->rest_until) return false;
    r->c = r->port ? redisConnectWithTimeout(r->host, r->port, t)
                   : redisConnectUnixWithTimeout(r->host, t);
    if (!r->c || r->c->err) {
        drop(r, r->c ? r->c->errstr : "out of memory");
        return false;
    }
    redisSetTimeout(r->c, t);
    if (*r->password && !log_in(r)) return false;
    if (r->failed) sv_log(r->set, "info", "--cache-redis %s: it is there again", r->set->redis);
    r->failed = false;
    return true;
}

/* An answer of that type; NULL: the connection was dropped, or it is another one, which ends it, too. */
static redisReply *expect(sv_redis *r, redisReply *a, int type)
{
    if (a && a->type == type) return a;
    if (a && a->type == REDIS_REPLY_ERROR)
        drop(r, a->str); /* such as: no permission, out of memory, loading */
    else
        drop_error(r);
    if (a) freeReplyObject(a);
    return NULL;
}

/* ---------------------------------------------------------------- the store */

static bool ask_batch(sv_redis *r, const char *const *names, int n, bool *there)
{
    for (int i = 0; i < n; i++)
        if (redisAppendCommand(r->c, "EXISTS apus:%s", names[i])) {
            drop_error(r);
            return false;
        }
    for (int i = 0; i < n; i++) {
        void *got = NULL;
        if (redisGetReply(r->c, &got)) got = NULL;
        redisReply *a = expect(r, got, REDIS_REPLY_INTEGER);
        if (!a) return false;
        there[i] = a->integer == 1;
        freeReplyObject(a);
    }
    return true;
}

static bool has(void *ctx, const char *const *names, int n, bool *there)
{
    sv_redis *r = ctx;
    bool ok = true;
    for (int i = 0, k; ok && i < n; i += k) {
        k = n - i < BATCH ? n - i : BATCH;
        pthread_mutex_lock(&r->lock);
        ok = is_connected(r) && ask_batch(r, names + i, k, there + i);
        pthread_mutex_unlock(&r->lock);
    }
    return ok;
}

static size_t fetch(sv_redis *r, const char *name, void *data, size_t cap)
{
    if (!is_connected(r)) return 0;
    /* one byte more than is expected shows that it is another record */
    redisReply *a =
        expect(r, redisCommand(r->c, "GETRANGE apus:%s 0 %llu", name, (unsigned long long)cap),
               REDIS_REPLY_STRING);
    if (!a) return 0;
    size_t n = a->len <= cap ? a->len : 0;
    memcpy(data, a->str, n);
    freeReplyObject(a);
    return n;
}

static size_t get(void *ctx, const char *name, void *data, size_t cap)
{
    sv_redis *r = ctx;
    pthread_mutex_lock(&r->lock);
    size_t n = fetch(r, name, data, cap);
    pthread_mutex_unlock(&r->lock);
    return n;
}

/* A record that is there already, of another server, only lives longer. */
static void leave(sv_redis *r, const char *name, const void *data, size_t bytes)
{
    if (!is_connected(r)) return;
    redisReply *a = expect(r, redisCommand(r->c, "EXPIRE apus:%s %d", name, r->set->redis_ttl_s),
                           REDIS_REPLY_INTEGER);
    bool there = a && a->integer == 1;
    if (!a) return;
    freeReplyObject(a);
    if (there) return;
    a = expect(r,
               redisCommand(r->c, "SET apus:%s %b EX %d", name, data, bytes, r->set->redis_ttl_s),
               REDIS_REPLY_STATUS);
    if (a) freeReplyObject(a);
}

static void put(void *ctx, const char *name, const void *data, size_t bytes)
{
    sv_redis *r = ctx;
    pthread_mutex_lock(&r->lock);
    leave(r, name, data, bytes);
    pthread_mutex_unlock(&r->lock);
}

/* ---------------------------------------------------------------- settings */

/* "unix:PATH", "HOST", "HOST:PORT", "[ADDRESS]:PORT" */
static bool parse_address(sv_redis *r, const char *s)
{
    bool local = !strncmp(s, "unix:", 5), bracket = *s == '[';
    const char *from = local ? s + 5 : s + bracket, *to = from + strlen(from);
    char *end = "";
    if (!local) {
        const char *colon = strrchr(s, ':'), *close = bracket ? strchr(s, ']') : NULL;
        bool many = !bracket && colon && strchr(s, ':') != colon; /* an address of IPv6 alone */
        if (bracket && !close) return false;
        r->port = PORT;
        if (colon && !many && (!close || colon == close + 1)) {
            r->port = (int)strtol(colon + 1, &end, 10);
            to = colon;
        }
        if (close) to = close;
    }
    size_t n = (size_t)(to - from);
    if (!n || n >= sizeof r->host || *end || (!local && (r->port < 1 || r->port > 65535)))
        return false;
    memcpy(r->host, from, n);
    return true;
}

/* The first line of a file: PASSWORD, or USER PASSWORD. */
static bool read_password(sv_redis *r, const char *file)
{
    char line[640] = "";
    FILE *f = fopen(file, "r");
    if (!f) {
        sv_log(r->set, "error", "--cache-redis-password-file %s: %s", file, strerror(errno));
        return false;
    }
    bool ok = fgets(line, sizeof line, f) != NULL;
    fclose(f);
    line[strcspn(line, "\r\n")] = 0;
    char *space = strchr(line, ' ');
    const char *password = space ? space + 1 : line;
    if (space) *space = 0;
    ok = ok && *password && strlen(password) < sizeof r->password;
    ok = ok && (!space || (*line && strlen(line) < sizeof r->user));
    if (!ok)
        sv_log(r->set, "error",
               "--cache-redis-password-file %s: expected a line with PASSWORD or USER PASSWORD",
               file);
    if (ok) memcpy(r->password, password, strlen(password) + 1);
    if (ok && space) memcpy(r->user, line, strlen(line) + 1);
    explicit_bzero(line, sizeof line);
    return ok;
}

sv_redis *sv_redis_open(const sv_settings *set)
{
    sv_redis *r = calloc(1, sizeof *r);
    if (!r) return NULL;
    r->set = set;
    pthread_mutex_init(&r->lock, NULL);
    r->store = (apus_store){.size = sizeof r->store, .ctx = r, .has = has, .get = get, .put = put};
    bool ok = parse_address(r, set->redis);
    if (!ok) sv_log(set, "error", "--cache-redis %s: expected HOST:PORT or unix:PATH", set->redis);
    if (ok && set->redis_password) ok = read_password(r, set->redis_password);
    if (ok) return r;
    free(r);
    return NULL;
}

const apus_store *sv_redis_store(const sv_redis *r)
{
    return &r->store;
}

void sv_redis_free(sv_redis *r)
{
    if (!r) return;
    if (r->c) redisFree(r->c);
    pthread_mutex_destroy(&r->lock);
    explicit_bzero(r->password, sizeof r->password);
    free(r);
}

#else

sv_redis *sv_redis_open(const sv_settings *set)
{
    sv_log(set, "error", "--cache-redis: this build has no hiredis (Debian: libhiredis-dev)");
    return NULL;
}

const apus_store *sv_redis_store(const sv_redis *r)
{
    (void)r;
    return NULL;
}

void sv_redis_free(sv_redis *r)
{
    (void)r;
}

#endif
