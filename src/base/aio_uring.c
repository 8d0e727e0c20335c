/* aio_uring.c - reads by io_uring. */
#include "base/aio_impl.h"

#ifdef AP_HAVE_URING

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <liburing.h>
#include <string.h>

#include "base/mem.h"

#define MOST_PIECES 64                /* of registered memory, */
#define MOST_PIECE  ((size_t)1 << 30) /* which the kernel takes in pieces of this size */

/* A read under way. */
typedef struct op {
    ap_read r;
    size_t got;
    bool used;
} op;

typedef struct uring {
    ap_aio a;
    struct io_uring ring;
    op *op; /* [depth] */
    int unsubmitted;
    uint8_t *mem; /* registered */
    size_t mem_bytes, piece;
} uring;

static struct io_uring_sqe *entry(uring *u)
{
    struct io_uring_sqe *e = io_uring_get_sqe(&u->ring);
    while (!e) { /* full: the kernel takes what is in it */
        io_uring_submit(&u->ring);
        e = io_uring_get_sqe(&u->ring);
    }
    return e;
}

/* What is left of a read. */
static void enqueue(uring *u, op *o)
{
    uint8_t *to = (uint8_t *)o->r.to + o->got;
    size_t n = o->r.bytes - o->got;
    struct io_uring_sqe *e = entry(u);
    if (u->mem && to >= u->mem && to < u->mem + u->mem_bytes)
        io_uring_prep_read_fixed(e, o->r.file->fd, to, (unsigned)n, o->r.offset + o->got,
                                 (int)((size_t)(to - u->mem) / u->piece));
    else
        io_uring_prep_read(e, o->r.file->fd, to, (unsigned)n, o->r.offset + o->got);
    io_uring_sqe_set_data(e, o);
    u->unsubmitted++;
}

static void begin(ap_aio *a, const ap_read *r)
{
    uring *u = (uring *)a;
    op *o = u->op;
    while (o->used) o++;
    *o = (op){.r = *r, .used = true};
    enqueue(u, o);
    if (io_uring_submit(&u->ring) >= 0) u->unsubmitted = 0;
}

/* A completion; false: the read goes on. */
static bool finish(uring *u, op *o, int res, ap_read_done *out)
{
    bool again = res == -EINTR || res == -EAGAIN;
    if (res > 0) {
        o->got += (size_t)res;
        /* as in aio_threads.c: the end of the file between two blocks */
        again = o->got < o->r.bytes && !(o->r.file->direct && o->got % AP_IO_ALIGN);
    }
    if (again) {
        enqueue(u, o);
        return false;
    }
    *out = (ap_read_done){.tag = o->r.tag, .error = res < 0 ? -res : 0, .got = o->got};
    o->used = false;
    return true;
}

static int collect(ap_aio *a, ap_read_done *done, int most, bool wait)
{
    uring *u = (uring *)a;
    int n = 0;
    while (n < most) {
        struct io_uring_cqe *c = NULL;
        if (u->unsubmitted && io_uring_submit(&u->ring) >= 0) u->unsubmitted = 0;
        int err = wait && !n ? io_uring_wait_cqe(&u->ring, &c) : io_uring_peek_cqe(&u->ring, &c);
        if (err == -EINTR) continue;
        if (err || !c) break;
        op *o = io_uring_cqe_get_data(c);
        int res = c->res;
        io_uring_cqe_seen(&u->ring, c);
        n += finish(u, o, res, &done[n]);
    }
    return n;
}

static void reg(ap_aio *a, void *mem, size_t bytes, size_t unit)
{
    uring *u = (uring *)a;
    struct iovec piece[MOST_PIECES];
    size_t step = unit < MOST_PIECE ? MOST_PIECE / unit * unit : unit;
    if (u->mem || unit > MOST_PIECE || (bytes + step - 1) / step > MOST_PIECES) return;
    unsigned n = 0;
    for (size_t at = 0; at < bytes; at += step)
        piece[n++] = (struct iovec){(uint8_t *)mem + at, bytes - at < step ? bytes - at : step};
    if (io_uring_register_buffers(&u->ring, piece, n)) return; /* more than RLIMIT_MEMLOCK */
    u->mem = mem;
    u->mem_bytes = bytes;
    u->piece = step;
}

static void destroy(ap_aio *a)
{
    uring *u = (uring *)a;
    io_uring_queue_exit(&u->ring);
    ap_free(u->op);
    ap_free(u);
}

static const ap_aio_ops ops = {
    .name = "io_uring", .reg = reg, .begin = begin, .collect = collect, .destroy = destroy};

ap_aio *ap_aio_uring(int depth, apus_diag *diag)
{
    uring *u = ap_calloc(1, sizeof *u);
    if (u) u->op = ap_calloc((size_t)depth, sizeof *u->op);
    if (!u || !u->op) {
        ap_free(u);
        ap_fail_nomem(diag, (size_t)depth * sizeof *u->op, "reads under way");
        return NULL;
    }
    u->a.op = &ops;
    int err = io_uring_queue_init((unsigned)depth, &u->ring, 0);
    if (!err) return &u->a;
    char why[128];
    if (strerror_r(-err, why, sizeof why)) why[0] = 0;
    ap_fail(diag, APUS_EUNSUPPORTED, "io_uring is not to be had: %s", why);
    ap_free(u->op);
    ap_free(u);
    return NULL;
}

#else

ap_aio *ap_aio_uring(int depth, apus_diag *diag)
{
    (void)depth;
    ap_fail(diag, APUS_EUNSUPPORTED, "this build has no io_uring (liburing was not found)");
    return NULL;
}

#endif
