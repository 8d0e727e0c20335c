#include "log.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "state.h"

enum { CLIENT_GONE = 499 }; /* as nginx writes it */

/* Paths are the client's: nothing that could break the line. */
static void add_path(sv_buf *b, const char *path)
{
    for (; *path; path++)
        if (*path > ' ' && *path < 0x7F && *path != '"')
            sv_buf_add(b, path, 1);
        else
            sv_buf_addf(b, "%%%02x", (unsigned char)*path);
}

static void add_time(sv_buf *b)
{
    char text[40];
    struct timespec t;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &t);
    gmtime_r(&t.tv_sec, &tm);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm);
    sv_buf_addf(b, "time=%s.%03ldZ", text, t.tv_nsec / 1000000);
}

void sv_log_exchange(const sv_exchange *x)
{
    sv_buf b = {0};
    sv_metrics *m = &x->server->metrics;
    int status = x->gone ? CLIENT_GONE : x->status;
    if (x->gone)
        atomic_fetch_add(&m->gone, 1);
    else
        atomic_fetch_add(&m->responses[status / 100 % 6], 1);
    if (x->server->set->quiet) return;
    add_time(&b);
    sv_buf_addf(&b, " request=%llu method=%s path=", (unsigned long long)x->id, x->method);
    add_path(&b, x->path);
    sv_buf_addf(&b, " status=%d ms=%.1f", status, (double)(sv_now_us() - x->begin_us) / 1e3);
    if (x->error.status && x->error.code) sv_buf_addf(&b, " code=%s", x->error.code);
    if (x->n_prompt)
        sv_buf_addf(&b, " prompt=%d cached=%d generated=%d", x->n_prompt, x->n_cached,
                    x->n_generated);
    if (x->finish) sv_buf_addf(&b, " finish=%s", x->finish);
    sv_buf_add(&b, "\n", 1);
    fputs(sv_buf_text(&b), stderr);
    sv_buf_free(&b);
}
