#include "log.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>

#include "state.h"

enum { CLIENT_GONE = 499 }; /* as nginx writes it */

/* A line that is being written: key=value, or a JSON object. */
typedef struct line {
    sv_buf b;
    bool json;
} line;

/* What clients chose, as ASCII without spaces and quotes: nothing in it breaks the line. */
static void add_escaped(sv_buf *b, const char *s)
{
    for (; *s; s++)
        if (*s > ' ' && *s < 0x7F && *s != '"')
            sv_buf_add(b, s, 1);
        else
            sv_buf_addf(b, "%%%02x", (unsigned char)*s);
}

static void add_key(line *l, const char *key)
{
    if (!l->json) sv_buf_addf(&l->b, "%s%s=", l->b.len ? " " : "", key);
}

static void add_str(line *l, const char *key, const char *s)
{
    add_key(l, key);
    if (l->json)
        sv_put_str(&l->b, key, s);
    else
        sv_buf_adds(&l->b, s);
}

static void add_given(line *l, const char *key, const char *s)
{
    sv_buf b = {0};
    add_escaped(&b, s);
    add_str(l, key, sv_buf_text(&b));
    sv_buf_free(&b);
}

static void add_int(line *l, const char *key, int v)
{
    add_key(l, key);
    if (l->json)
        sv_put_int(&l->b, key, v);
    else
        sv_buf_addf(&l->b, "%d", v);
}

static void add_ms(line *l, const char *key, int64_t us)
{
    add_key(l, key);
    if (l->json)
        sv_put_real(&l->b, key, (double)(us / 100) / 10);
    else
        sv_buf_addf(&l->b, "%.1f", (double)us / 1e3);
}

static line begin_line(const sv_settings *s)
{
    char day[32], text[48];
    struct timespec t;
    struct tm tm;
    line l = {.json = s->log_json};
    clock_gettime(CLOCK_REALTIME, &t);
    gmtime_r(&t.tv_sec, &tm);
    strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(text, sizeof text, "%s.%03ldZ", day, t.tv_nsec / 1000000);
    if (l.json) sv_put_map(&l.b, NULL);
    add_str(&l, "time", text);
    return l;
}

static void end_line(line *l)
{
    if (l->json) sv_put_end_map(&l->b);
    sv_buf_add(&l->b, "\n", 1);
    if (!l->b.failed) fputs(sv_buf_text(&l->b), stderr);
    sv_buf_free(&l->b);
}

void sv_log(const sv_settings *s, const char *level, const char *fmt, ...)
{
    char text[1400];
    va_list list;
    va_start(list, fmt);
    vsnprintf(text, sizeof text, fmt, list);
    va_end(list);
    if (!s->log_json) {
        fprintf(stderr, "apus serve: %s\n", text);
        return;
    }
    line l = begin_line(s);
    add_str(&l, "level", level);
    add_str(&l, "message", text);
    end_line(&l);
}

void sv_log_exchange(const sv_exchange *x)
{
    sv_metrics *m = &x->server->metrics;
    int status = x->gone ? CLIENT_GONE : x->status;
    if (x->gone)
        atomic_fetch_add(&m->gone, 1);
    else
        atomic_fetch_add(&m->responses[status / 100 % 6], 1);
    if (x->server->set->quiet) return;
    line l = begin_line(x->server->set);
    add_str(&l, "request", x->request_id);
    add_given(&l, "method", x->method);
    add_given(&l, "path", x->path);
    add_int(&l, "status", status);
    add_ms(&l, "ms", sv_now_us() - x->begin_us);
    if (x->error.status && x->error.code) add_str(&l, "code", x->error.code);
    if (x->n_prompt) {
        add_int(&l, "prompt", x->n_prompt);
        add_int(&l, "cached", x->n_cached);
        add_int(&l, "generated", x->n_generated);
    }
    if (x->finish) add_str(&l, "finish", x->finish);
    end_line(&l);
}
