/* bind_pack.c - packing the matrices of a model, all of them as one job of the worker pool: no worker waits
 * for another at the end of a matrix, and each gives back the pages of the file that it has read. */
#include <stdatomic.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "model/model_impl.h"

#define PROGRESS_US 50000
#define SLICE       ((size_t)2 << 20) /* bytes of a file that are packed before they are given back */
#define SLICE_ROWS  128               /* slices begin at a multiple: whole panels, whole FP8 blocks */
#define AHEAD       8                 /* slices that the system is asked for before they are packed */

struct ap_pack_job {
    ap_tensor view;
    uint8_t *dst;
    int64_t step; /* rows of a task */
    size_t first; /* number of its first task */
};

typedef struct packing {
    ap_bind *b;
    ap_kern kern; /* on the thread that calls it */
    atomic_size_t done;
    atomic_bool stop;
    int64_t told_us;
} packing;

void ap_give_back(const ap_weights *w, const ap_tensor *t)
{
    ap_weights_drop(w, t->data, ap_tensor_bytes(t));
    if (t->scales) ap_weights_drop(w, t->scales, ap_tensor_scale_bytes(t));
    if (t->biases) ap_weights_drop(w, t->biases, ap_tensor_scale_bytes(t));
}

void ap_bind_queue(ap_bind *b, ap_mat *out, const ap_tensor *view, void *dst)
{
    int64_t rows = view->shape[0], step = (int64_t)(SLICE / (ap_tensor_row_bytes(view) + 1));
    step = step / SLICE_ROWS * SLICE_ROWS;
    if (step < SLICE_ROWS) step = SLICE_ROWS;
    size_t tasks = (size_t)((rows + step - 1) / step), first = b->n_task;
    b->n_task += tasks;
    if (dst && b->n_job < b->job_room) {
        b->job[b->n_job] = (ap_pack_job){.view = *view, .dst = dst, .step = step, .first = first};
        b->k->pack_mat(b->k, view, dst, out);
    }
    b->n_job++;
}

apus_err ap_bind_make_room(ap_bind *b)
{
    if (b->n_task > INT32_MAX) return ap_fail_nomem(b->diag, SIZE_MAX, "the matrices to pack");
    b->job = ap_calloc(b->n_job, sizeof *b->job);
    if (!b->job) return ap_fail_nomem(b->diag, b->n_job * sizeof *b->job, "the matrices to pack");
    b->job_room = b->n_job;
    b->n_job = b->n_task = 0;
    return APUS_OK;
}

/* The rows of a task, and where they go. */
static ap_tensor part_of(const packing *p, size_t task, uint8_t **dst)
{
    const ap_bind *b = p->b;
    size_t lo = 0, hi = b->n_job - 1;
    while (lo < hi) { /* the last matrix that begins at or before the task */
        size_t mid = hi - (hi - lo) / 2;
        if (b->job[mid].first <= task) lo = mid;
        else hi = mid - 1;
    }
    const ap_pack_job *j = &b->job[lo];
    int64_t rows = j->view.shape[0], begin = (int64_t)(task - j->first) * j->step, end = begin + j->step;
    ap_tensor before = ap_tensor_rows(&j->view, 0, begin);
    *dst = j->dst + (begin ? b->k->pack_bytes(b->k, &before) : 0);
    return ap_tensor_rows(&j->view, begin, end < rows ? end : rows);
}

static void want(const packing *p, size_t task)
{
    uint8_t *dst;
    if (task >= p->b->n_task) return;
    ap_tensor t = part_of(p, task, &dst);
    ap_weights_want(p->b->w, t.data, ap_tensor_bytes(&t));
}

/* On the thread that loads: callers expect to be called there. */
static void tell(packing *p)
{
    ap_bind *b = p->b;
    int64_t now = ap_time_us();
    if (!b->progress || now - p->told_us < PROGRESS_US) return;
    p->told_us = now;
    if (b->progress(b->progress_ctx, "load", atomic_load(&p->done), b->total_bytes)) return;
    b->err = ap_fail(b->diag, APUS_ECANCELLED, "loading was cancelled");
    atomic_store(&p->stop, true);
}

static void pack_task(void *arg, int task, int worker)
{
    packing *p = arg;
    uint8_t *dst;
    ap_mat m;
    if (atomic_load(&p->stop)) return;
    ap_tensor t = part_of(p, (size_t)task, &dst);
    want(p, (size_t)task + AHEAD);
    p->kern.pack(&p->kern, &t, dst, &m);
    ap_give_back(p->b->w, &t);
    atomic_fetch_add(&p->done, p->kern.pack_bytes(&p->kern, &t));
    if (worker == 0) tell(p);
}

void ap_bind_pack(ap_bind *b)
{
    if (b->err || !b->n_job) return;
    ap_pool *alone;
    packing p = {.b = b, .kern = *b->k};
    b->err = ap_pool_create(1, &alone, b->diag);
    if (b->err) return;
    p.kern.pool = alone;
    for (size_t i = 0; i < AHEAD; i++) want(&p, i);
    ap_pool_run(b->k->pool, pack_task, &p, (int)b->n_task);
    ap_pool_free(alone);
}
