/* bind_pack.c - packing the matrices of a model, all of them as one job of the worker pool: no worker waits
 * for another at the end of a matrix. Each reads slices of the file into a buffer of its own that stays in its
 * caches: touching the pages of a mapping takes longer than copying them. */
#include <stdatomic.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "model/model_impl.h"

#define PROGRESS_US 50000
#define SLICE       ((size_t)256 << 10) /* bytes of a file that are read and packed at a time */
#define SLICE_ROWS  128                 /* slices begin at a multiple: whole panels, whole FP8 blocks */
#define MOST_SLICES 32                  /* of a task, one after the other: see slices_of_task */

struct ap_pack_job {
    ap_tensor view;
    uint8_t *dst;
    int64_t step; /* rows of a slice */
    size_t first; /* number of its first slice */
};

typedef struct packing {
    ap_bind *b;
    ap_kern kern;    /* on the thread that calls it */
    uint8_t *buffer; /* for each worker */
    size_t buffer_bytes;
    size_t slices; /* of a task */
    size_t ahead;  /* slices that the system is asked for before they are read: those of the next tasks */
    atomic_size_t done;
    atomic_bool stop; /* set with the first error */
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
    size_t first = b->n_slice;
    b->n_slice += (size_t)((rows + step - 1) / step);
    if (dst && b->n_job < b->job_room) {
        b->job[b->n_job] = (ap_pack_job){.view = *view, .dst = dst, .step = step, .first = first};
        b->k->pack_mat(b->k, view, dst, out);
    }
    b->n_job++;
}

apus_err ap_bind_make_room(ap_bind *b)
{
    if (b->n_slice > INT32_MAX) return ap_fail_nomem(b->diag, SIZE_MAX, "the matrices to pack");
    b->job = ap_calloc(b->n_job, sizeof *b->job);
    if (!b->job) return ap_fail_nomem(b->diag, b->n_job * sizeof *b->job, "the matrices to pack");
    b->job_room = b->n_job;
    b->n_job = b->n_slice = 0;
    return APUS_OK;
}

static void fail(packing *p, apus_err err, const apus_diag *diag)
{
    if (atomic_exchange(&p->stop, true)) return; /* another was first */
    p->b->err = err;
    if (p->b->diag) *p->b->diag = *diag;
}

/* The rows of a slice, and where they go. */
static ap_tensor slice_at(const packing *p, size_t slice, uint8_t **dst)
{
    const ap_bind *b = p->b;
    size_t lo = 0, hi = b->n_job - 1;
    while (lo < hi) { /* the last matrix that begins at or before the slice */
        size_t mid = hi - (hi - lo) / 2;
        if (b->job[mid].first <= slice) lo = mid;
        else hi = mid - 1;
    }
    const ap_pack_job *j = &b->job[lo];
    int64_t rows = j->view.shape[0], begin = (int64_t)(slice - j->first) * j->step, end = begin + j->step;
    ap_tensor before = ap_tensor_rows(&j->view, 0, begin);
    *dst = j->dst + (begin ? b->k->pack_bytes(b->k, &before) : 0);
    return ap_tensor_rows(&j->view, begin, end < rows ? end : rows);
}

static void want(const packing *p, size_t slice)
{
    uint8_t *dst;
    if (slice >= p->b->n_slice) return;
    ap_tensor t = slice_at(p, slice, &dst);
    ap_weights_want(p->b->w, t.data, ap_tensor_bytes(&t));
}

/* On the thread that loads: callers expect to be called there. */
static void tell(packing *p)
{
    ap_bind *b = p->b;
    int64_t now = ap_time_us();
    apus_diag diag;
    if (!b->progress || now - p->told_us < PROGRESS_US) return;
    p->told_us = now;
    if (b->progress(b->progress_ctx, "load", atomic_load(&p->done), b->total_bytes)) return;
    fail(p, ap_fail(&diag, APUS_ECANCELLED, "loading was cancelled"), &diag);
}

static void pack_slice(packing *p, size_t slice, uint8_t *buffer)
{
    uint8_t *dst;
    ap_mat m;
    apus_diag diag;
    want(p, slice + p->ahead);
    ap_tensor t = slice_at(p, slice, &dst);
    apus_err err = ap_weights_read(p->b->w, t.data, ap_tensor_bytes(&t), buffer, &diag);
    if (err) {
        fail(p, err, &diag);
        return;
    }
    t.data = buffer;
    p->kern.pack(&p->kern, &t, dst, &m);
    ap_give_back(p->b->w, &t); /* what it has of the mapping: scales and biases */
    atomic_fetch_add(&p->done, p->kern.pack_bytes(&p->kern, &t));
}

static void pack_task(void *arg, int task, int worker)
{
    packing *p = arg;
    size_t begin = (size_t)task * p->slices, end = begin + p->slices;
    if (end > p->b->n_slice) end = p->b->n_slice;
    for (size_t i = begin; i < end && !atomic_load(&p->stop); i++) {
        pack_slice(p, i, p->buffer + (size_t)worker * p->buffer_bytes);
        if (worker == 0) tell(p);
    }
}

/* Neighbours in memory go to one worker: two that touch a large page at once both have it cleared. */
static size_t slices_of_task(const ap_bind *b, size_t workers)
{
    size_t most = b->n_slice / (8 * workers);
    return most < 1 ? 1 : most < MOST_SLICES ? most : MOST_SLICES;
}

static size_t buffer_bytes(const ap_bind *b)
{
    size_t most = 0;
    for (const ap_pack_job *j = b->job; j < b->job + b->n_job; j++) {
        int64_t rows = j->view.shape[0] < j->step ? j->view.shape[0] : j->step;
        size_t bytes = ap_round_up((size_t)rows * ap_tensor_row_bytes(&j->view), AP_ALIGN);
        if (bytes > most) most = bytes;
    }
    return most;
}

void ap_bind_pack(ap_bind *b)
{
    if (b->err || !b->n_job) return;
    ap_pool *alone;
    size_t workers = (size_t)ap_pool_threads(b->k->pool), slices = slices_of_task(b, workers);
    packing p = {
        .b = b, .kern = *b->k, .buffer_bytes = buffer_bytes(b), .slices = slices, .ahead = workers * slices};
    b->err = ap_pool_create(1, &alone, b->diag);
    if (b->err) return;
    p.kern.pool = alone;
    size_t all = p.buffer_bytes * workers;
    p.buffer = ap_big_alloc(all);
    if (p.buffer) {
        for (size_t i = 0; i < p.ahead; i++) want(&p, i);
        ap_pool_run(b->k->pool, pack_task, &p, (int)((b->n_slice + p.slices - 1) / p.slices));
    } else {
        b->err = ap_fail_nomem(b->diag, all, "slices of the weights' files");
    }
    ap_big_free(p.buffer, all);
    ap_pool_free(alone);
}
