#include "conns.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>

#include "state.h"

struct sv_conn {
    sv_conn *next, **at;
    int fd;
    int64_t deadline_us;
};

/* Once a second is exact enough for what is meant in tens of them. */
static void *watch(void *ctx)
{
    sv_conns *c = ctx;
    pthread_mutex_lock(&c->lock);
    while (!c->ending) {
        struct timespec t;
        int64_t now = sv_now_us();
        for (sv_conn *i = c->first; i; i = i->next) {
            if (!i->deadline_us || now < i->deadline_us) continue;
            shutdown(i->fd, SHUT_RDWR); /* its thread sees the end and closes it */
            i->deadline_us = 0;
        }
        clock_gettime(CLOCK_REALTIME, &t);
        t.tv_sec++;
        pthread_cond_timedwait(&c->cond, &c->lock, &t);
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

bool sv_conns_start(sv_conns *c)
{
    *c = (sv_conns){0};
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->cond, NULL);
    return !pthread_create(&c->thread, NULL, watch, c);
}

void sv_conns_stop(sv_conns *c)
{
    pthread_mutex_lock(&c->lock);
    c->ending = true;
    pthread_cond_signal(&c->cond);
    pthread_mutex_unlock(&c->lock);
    pthread_join(c->thread, NULL);
    pthread_cond_destroy(&c->cond);
    pthread_mutex_destroy(&c->lock);
}

sv_conn *sv_conn_add(sv_conns *c, int fd, int64_t deadline_us)
{
    sv_conn *i = calloc(1, sizeof *i);
    if (!i) return NULL;
    i->fd = fd;
    i->deadline_us = deadline_us;
    pthread_mutex_lock(&c->lock);
    i->next = c->first;
    i->at = &c->first;
    if (i->next) i->next->at = &i->next;
    c->first = i;
    pthread_mutex_unlock(&c->lock);
    return i;
}

void sv_conn_deadline(sv_conns *c, sv_conn *conn, int64_t deadline_us)
{
    if (!conn) return;
    pthread_mutex_lock(&c->lock);
    conn->deadline_us = deadline_us;
    pthread_mutex_unlock(&c->lock);
}

void sv_conn_remove(sv_conns *c, sv_conn *conn)
{
    if (!conn) return;
    pthread_mutex_lock(&c->lock);
    *conn->at = conn->next;
    if (conn->next) conn->next->at = conn->at;
    pthread_mutex_unlock(&c->lock);
    free(conn);
}
