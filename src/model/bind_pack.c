/* bind_pack.c - packing the matrices of a model, all of them as one job of the worker pool: no worker waits
 * for another at the end of a matrix. Each reads slices of the file into a buffer of its own that stays in its
 * caches: touching the pages of a mapping takes longer than copying them. Where the device's memory is not the
 * host's, slices are packed into cells of host memory, some at a time, and put there. */
#include <stdatomic.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "model/model_impl.h"

#define PROGRESS_US 50000
#define SLICE       ((size_t)256 << 10) /* bytes of a file that are read and packed at a time */
#define SLICE_ROWS  128 /* slices begin at a multiple: whole panels, whole FP8 blocks */
#define CELLS_BYTES ((size_t)64 << 20)
#define MOST_SLICES 32 /* of a task, one after the other: see slices_of_task */

struct ap_pack_job {
    ap_tensor view;
    uint8_t *dst;
    int64_t step; /* rows of a slice */
    size_t first; /* number of its first slice */
};

typedef struct packing {
    ap_bind *b;
    uint8_t *buffer; /* for each worker */
    size_t buffer_bytes;
    uint8_t *cell; /* [n_cell] for a packed slice each, or NULL: to where it belongs */
    size_t cell_bytes;
    size_t begin, end; /* slices of the running job */
    size_t slices;     /* of a task */
    size_t
        ahead; /* slices that the system is asked for before they are read: those of the next tasks */
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
        if (b->job[mid].first <= slice)
            lo = mid;
        else
            hi = mid - 1;
    }
    const ap_pack_job *j = &b->job[lo];
    int64_t rows = j->view.shape[0], begin = (int64_t)(slice - j->first) * j->step,
            end = begin + j->step;
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
    const ap_kern *k = p->b->k;
    uint8_t *dst;
    apus_diag diag;
    want(p, slice + p->ahead);
    ap_tensor t = slice_at(p, slice, &dst);
    apus_err err = ap_weights_read(p->b->w, t.data, ap_tensor_bytes(&t), buffer, &diag);
    if (err) {
        fail(p, err, &diag);
        return;
    }
    t.data = buffer;
    k->pack(k, &t, p->cell ? p->cell + (slice - p->begin) * p->cell_bytes : dst);
    ap_give_back(p->b->w, &t); /* what it has of the mapping: scales and biases */
    atomic_fetch_add(&p->done, k->pack_bytes(k, &t));
}

static void pack_task(void *arg, int task, int worker)
{
    packing *p = arg;
    size_t begin = p->begin + (size_t)task * p->slices, end = begin + p->slices;
    if (end > p->end) end = p->end;
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

/* The most that a slice has: bytes of the file, or packed ones. */
static size_t most_of_slice(const ap_bind *b, bool packed)
{
    size_t most = 0;
    for (const ap_pack_job *j = b->job; j < b->job + b->n_job; j++) {
        int64_t rows = j->view.shape[0] < j->step ? j->view.shape[0] : j->step;
        ap_tensor t = ap_tensor_rows(&j->view, 0, rows);
        size_t bytes = packed ? b->k->pack_bytes(b->k, &t) : (size_t)rows * ap_tensor_row_bytes(&t);
        bytes = ap_round_up(bytes, AP_ALIGN);
        if (bytes > most) most = bytes;
    }
    return most;
}

static void pack_slices(packing *p, size_t begin, size_t end)
{
    p->begin = begin;
    p->end = end;
    ap_pool_run(p->b->dev->pool, pack_task, p, (int)((end - begin + p->slices - 1) / p->slices));
}

/* By way of n_cell cells. */
static void pack_and_put(packing *p, size_t n_cell)
{
    ap_device *dev = p->b->dev;
    for (size_t begin = 0, end; begin < p->b->n_slice && !atomic_load(&p->stop); begin = end) {
        end = begin + n_cell < p->b->n_slice ? begin + n_cell : p->b->n_slice;
        pack_slices(p, begin, end);
        for (size_t i = begin; i < end && !atomic_load(&p->stop); i++) {
            uint8_t *dst;
            ap_tensor t = slice_at(p, i, &dst);
            dev->op->put(dev, dst, p->cell + (i - begin) * p->cell_bytes,
                         p->b->k->pack_bytes(p->b->k, &t));
        }
    }
}

void ap_bind_pack(ap_bind *b)
{
    if (b->err || !b->n_job) return;
    size_t workers = (size_t)ap_pool_threads(b->dev->pool), n_cell = 0;
    packing p = {
        .b = b, .buffer_bytes = most_of_slice(b, false), .slices = slices_of_task(b, workers)};
    if (!b->dev->is_host) {
        p.slices = 1;
        p.cell_bytes = most_of_slice(b, true);
        n_cell = CELLS_BYTES / p.cell_bytes + 2 * workers;
    }
    p.ahead = workers * p.slices;
    size_t all = p.buffer_bytes * workers, cells = n_cell * p.cell_bytes;
    p.buffer = ap_big_alloc(all);
    p.cell = cells ? ap_big_alloc(cells) : NULL;
    if (!p.buffer || (cells && !p.cell)) {
        b->err = ap_fail_nomem(b->diag, all + cells, "slices of the weights' files");
    } else {
        for (size_t i = 0; i < p.ahead; i++) want(&p, i);
        if (p.cell)
            pack_and_put(&p, n_cell);
        else
            pack_slices(&p, 0, b->n_slice);
    }
    ap_big_free(p.cell, cells);
    ap_big_free(p.buffer, all);
}

/* ---------------------------------------------------------------- a view in memory */

typedef struct now_job {
    const ap_kern *k;
    const ap_tensor *view;
    uint8_t *dst;
} now_job;

static void now_task(void *arg, int task, int worker)
{
    const now_job *j = arg;
    int64_t rows = j->view->shape[0], begin = (int64_t)task * SLICE_ROWS, end = begin + SLICE_ROWS;
    ap_tensor before = ap_tensor_rows(j->view, 0, begin);
    ap_tensor t = ap_tensor_rows(j->view, begin, end < rows ? end : rows);
    (void)worker;
    j->k->pack(j->k, &t, j->dst + (begin ? j->k->pack_bytes(j->k, &before) : 0));
}

void ap_bind_pack_now(ap_bind *b, const ap_tensor *view, uint8_t *dst)
{
    size_t bytes = b->k->pack_bytes(b->k, view);
    uint8_t *cell = b->dev->is_host ? NULL : ap_big_alloc(bytes);
    now_job j = {b->k, view, cell ? cell : dst};
    if (!b->dev->is_host && !cell) {
        b->err = ap_fail_nomem(b->diag, bytes, "a packed matrix");
        return;
    }
    ap_pool_run(b->dev->pool, now_task, &j, (int)((view->shape[0] + SLICE_ROWS - 1) / SLICE_ROWS));
    if (cell) b->dev->op->put(b->dev, dst, cell, bytes);
    ap_big_free(cell, bytes);
}
