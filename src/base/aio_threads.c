/* aio_threads.c - reads by threads that wait for them. */
#include <errno.h>
#include <pthread.h>
#include <unistd.h>

#include "base/aio_impl.h"
#include "base/mem.h"

#define MOST_THREADS 16
#define STACK_BYTES  ((size_t)64 << 10)

/* A queue that holds as many as may be under way. */
typedef struct ring {
    int begin, n;
} ring;

typedef struct threads {
    ap_aio a;
    pthread_mutex_t lock;
    pthread_cond_t asked, answered;
    ring todo, done;
    ap_read *read;        /* [depth] of todo */
    ap_read_done *result; /* [depth] of done */
    int n_thread;
    bool stop;
    pthread_t thread[MOST_THREADS];
} threads;

static int put(ring *r, int depth)
{
    return (r->begin + r->n++) % depth;
}

static int take(ring *r, int depth)
{
    int at = r->begin;
    r->begin = (at + 1) % depth;
    r->n--;
    return at;
}

static ap_read_done read_all(const ap_read *r)
{
    ap_read_done d = {.tag = r->tag};
    while (d.got < r->bytes) {
        ssize_t n = pread(r->file->fd, (uint8_t *)r->to + d.got, r->bytes - d.got,
                          (off_t)(r->offset + d.got));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) d.error = errno;
        if (n <= 0) break;
        d.got += (size_t)n;
        /* the rest of a file that ends between two blocks; another read of it could not be aligned */
        if (r->file->direct && d.got % AP_IO_ALIGN) break;
    }
    return d;
}

static void *work(void *arg)
{
    threads *t = arg;
    pthread_mutex_lock(&t->lock);
    for (;;) {
        while (!t->todo.n && !t->stop) pthread_cond_wait(&t->asked, &t->lock);
        if (!t->todo.n) break;
        ap_read r = t->read[take(&t->todo, t->a.depth)];
        pthread_mutex_unlock(&t->lock);
        ap_read_done d = read_all(&r);
        pthread_mutex_lock(&t->lock);
        t->result[put(&t->done, t->a.depth)] = d;
        pthread_cond_signal(&t->answered);
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

static void begin(ap_aio *a, const ap_read *r)
{
    threads *t = (threads *)a;
    pthread_mutex_lock(&t->lock);
    t->read[put(&t->todo, a->depth)] = *r;
    pthread_cond_signal(&t->asked);
    pthread_mutex_unlock(&t->lock);
}

static int collect(ap_aio *a, ap_read_done *done, int most, bool wait)
{
    threads *t = (threads *)a;
    int n = 0;
    pthread_mutex_lock(&t->lock);
    while (wait && !t->done.n) pthread_cond_wait(&t->answered, &t->lock);
    while (n < most && t->done.n) done[n++] = t->result[take(&t->done, a->depth)];
    pthread_mutex_unlock(&t->lock);
    return n;
}

static void destroy(ap_aio *a)
{
    threads *t = (threads *)a;
    pthread_mutex_lock(&t->lock);
    t->stop = true;
    pthread_cond_broadcast(&t->asked);
    pthread_mutex_unlock(&t->lock);
    for (int i = 0; i < t->n_thread; i++) pthread_join(t->thread[i], NULL);
    pthread_cond_destroy(&t->asked);
    pthread_cond_destroy(&t->answered);
    pthread_mutex_destroy(&t->lock);
    ap_free(t->read);
    ap_free(t->result);
    ap_free(t);
}

static const ap_aio_ops ops = {
    .name = "threads", .begin = begin, .collect = collect, .destroy = destroy};

ap_aio *ap_aio_threads(int depth, apus_diag *diag)
{
    threads *t = ap_calloc(1, sizeof *t);
    if (!t) {
        ap_fail_nomem(diag, sizeof *t, "threads that read");
        return NULL;
    }
    t->a.op = &ops;
    t->a.depth = depth;
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->asked, NULL);
    pthread_cond_init(&t->answered, NULL);
    t->read = ap_calloc((size_t)depth, sizeof *t->read);
    t->result = ap_calloc((size_t)depth, sizeof *t->result);
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    int n = depth < MOST_THREADS ? depth : MOST_THREADS;
    while (t->read && t->result && t->n_thread < n &&
           !pthread_create(&t->thread[t->n_thread], &attr, work, t))
        t->n_thread++;
    pthread_attr_destroy(&attr);
    if (t->n_thread) return &t->a; /* fewer than were wished for do it too */
    destroy(&t->a);
    ap_fail_nomem(diag, STACK_BYTES, "threads that read");
    return NULL;
}
