/* finite.c - looking for NaN and infinity among a model's weights. */
#include <math.h>

#include "apus/apus_unstable.h"

#include "base/mem.h"
#include "base/pool.h"
#include "engine/engine.h"
#include "tensor/quant.h"

enum {
    PIECE = 4096, /* values of a row at a time: whole blocks and groups of every type */
    TASKS = 256
};

/* What a worker found in the tensor. */
typedef struct found {
    uint64_t nan, infinite, first; /* first: index among all values */
} found;

typedef struct scan {
    const ap_tensor *t;
    int64_t rows, cols, per_row, pieces; /* pieces of a row, of all rows */
    int tasks;
    found *of; /* [workers] */
} scan;

static void scan_piece(const scan *s, int64_t piece, found *f)
{
    float v[PIECE];
    int64_t row = piece / s->per_row, col = piece % s->per_row * PIECE;
    int64_t n = s->cols - col < PIECE ? s->cols - col : PIECE;
    ap_tensor_row_f32(s->t, row, col, n, v);
    for (int64_t i = 0; i < n; i++) {
        if (isfinite(v[i])) continue;
        uint64_t at = (uint64_t)(row * s->cols + col + i);
        if (at < f->first || !(f->nan + f->infinite)) f->first = at;
        if (isnan(v[i]))
            f->nan++;
        else
            f->infinite++;
    }
}

static void scan_task(void *arg, int task, int worker)
{
    const scan *s = arg;
    int64_t end = s->pieces * (task + 1) / s->tasks;
    for (int64_t p = s->pieces * task / s->tasks; p < end; p++) scan_piece(s, p, &s->of[worker]);
}

static found scan_tensor(const ap_tensor *t, ap_pool *pool, found *of)
{
    scan s = {.t = t, .cols = t->rank ? t->shape[t->rank - 1] : 1, .of = of};
    found all = {0};
    int64_t values = ap_tensor_count(t);
    if (!values) return all;
    s.rows = values / s.cols;
    s.per_row = (s.cols + PIECE - 1) / PIECE;
    s.pieces = s.rows * s.per_row;
    s.tasks = s.pieces < TASKS ? (int)s.pieces : TASKS;
    for (int i = 0; i < ap_pool_threads(pool); i++) of[i] = (found){0};
    ap_pool_run(pool, scan_task, &s, s.tasks);
    for (int i = 0; i < ap_pool_threads(pool); i++) {
        uint64_t n = of[i].nan + of[i].infinite;
        if (n && (of[i].first < all.first || !(all.nan + all.infinite))) all.first = of[i].first;
        all.nan += of[i].nan;
        all.infinite += of[i].infinite;
    }
    return all;
}

static void tell(const apus_model *m, const char *name, const ap_tensor *t, found f,
                 apus_nonfinite_fn fn, void *ctx)
{
    uint64_t cols = (uint64_t)(t->rank ? t->shape[t->rank - 1] : 1);
    fn(ctx, &(apus_nonfinite){.tensor = name,
                              .file = ap_weights_file(m->weights, name),
                              .values = (uint64_t)ap_tensor_count(t),
                              .nan = f.nan,
                              .infinite = f.infinite,
                              .row = f.first / cols,
                              .col = f.first % cols});
}

static apus_err scan_all(const apus_model *m, ap_pool *pool, found *of,
                         const apus_check_settings *s, apus_diag *diag)
{
    size_t n = ap_weights_count(m->weights);
    for (size_t i = 0; i < n; i++) {
        const char *name;
        const ap_tensor *t = ap_weights_at(m->weights, i, &name);
        if (!ap_dtype_is_weight(t->dtype)) continue; /* integers, and parts of another tensor */
        found f = scan_tensor(t, pool, of);
        ap_weights_drop(m->weights, t->data, ap_tensor_bytes(t));
        if (f.nan || f.infinite) tell(m, name, t, f, s->found, s->ctx);
        if (s->progress && !s->progress(s->ctx, "check", i + 1, n))
            return ap_fail(diag, APUS_ECANCELLED, "checking was cancelled");
    }
    return APUS_OK;
}

void apus_check_settings_default(apus_check_settings *s)
{
    if (s) *s = (apus_check_settings){.size = sizeof *s};
}

apus_err apus_model_check(const apus_model *m, const apus_check_settings *given, apus_diag *diag)
{
    apus_check_settings s;
    apus_check_settings_default(&s);
    if (!m) return ap_fail(diag, APUS_EINVAL, "apus_model_check: a model is needed");
    apus_err err = ap_settings_take(&s, sizeof s, given, "apus_check_settings", diag);
    if (err) return err;
    if (!s.found) return ap_fail(diag, APUS_EINVAL, "apus_check_settings.found is needed");
    if (!m->weights || m->no_weights)
        return ap_fail(diag, APUS_EFILE, "%s: has no weights that could be checked", m->dir);
    ap_pool *pool = NULL;
    err = ap_pool_create(s.threads, &pool, diag);
    if (err) return err;
    size_t workers = (size_t)ap_pool_threads(pool);
    found *of = ap_calloc(workers, sizeof *of);
    err =
        of ? scan_all(m, pool, of, &s, diag) : ap_fail_nomem(diag, workers * sizeof *of, "a check");
    ap_free(of);
    ap_pool_free(pool);
    return err;
}
