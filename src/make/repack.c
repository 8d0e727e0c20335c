/* repack.c - the experts of a model as records of packed ones (file/packed.h). */
#include <stdatomic.h>
#include <string.h>
#include <xxhash.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/num.h"
#include "base/output.h"
#include "base/stage.h"
#include "engine/budget.h"

#define PROGRESS_US 50000

/* Of each worker: an expert as the files have it, and packed. */
typedef struct bench {
    uint8_t *raw, *packed;
} bench;

typedef struct repacking {
    const apus_repack_settings *s;
    apus_model *m;
    ap_pool *pool;
    ap_model_impl *outline;
    ap_packed file;
    ap_output out;
    size_t *bytes; /* [n] of records */
    size_t n, raw_bytes, packed_bytes;
    bench *bench; /* [n_worker] */
    int n_worker;
    uint64_t total;
    int64_t told_us;
    atomic_ullong done;
    atomic_bool stop;
    apus_err err; /* of the first that failed */
    apus_diag *diag;
} repacking;

void apus_repack_settings_default(apus_repack_settings *s)
{
    if (s) *s = (apus_repack_settings){.size = sizeof *s};
}

static void fail_with(repacking *r, apus_err err, const apus_diag *d)
{
    if (atomic_exchange(&r->stop, true)) return;
    r->err = err;
    if (r->diag) *r->diag = *d;
}

static void tell(repacking *r)
{
    apus_diag d;
    int64_t now = ap_time_us();
    if (!r->s->progress || now - r->told_us < PROGRESS_US) return;
    r->told_us = now;
    if (!r->s->progress(r->s->progress_ctx, "repack", atomic_load(&r->done), r->total))
        fail_with(r, ap_fail(&d, APUS_ECANCELLED, "repacking was cancelled"), &d);
}

/* Parts of an expert, copied out of the files. */
static apus_err gather(const repacking *r, ap_expert_view *v, uint8_t *to, apus_diag *d)
{
    ap_expert_part part[AP_EXPERT_PARTS];
    void *at[AP_EXPERT_PARTS] = {0};
    apus_err err = APUS_OK;
    ap_expert_parts(v, part);
    for (int i = 0; i < AP_EXPERT_PARTS && !err; i++) {
        if (!part[i].bytes) continue;
        at[i] = to;
        err = ap_weights_read(r->m->weights, part[i].at, part[i].bytes, to, d);
        to += ap_round_up(part[i].bytes, AP_ALIGN);
    }
    ap_expert_moved(v, at);
    return err;
}

static size_t gathered_bytes(const ap_expert_view *v)
{
    ap_expert_part part[AP_EXPERT_PARTS];
    size_t n = 0;
    ap_expert_parts(v, part);
    for (int i = 0; i < AP_EXPERT_PARTS; i++) n += ap_round_up(part[i].bytes, AP_ALIGN);
    return n;
}

static void expert_task(void *arg, int task, int worker)
{
    repacking *r = arg;
    const bench *b = &r->bench[worker];
    apus_diag d;
    if (!r->bytes[task] || atomic_load(&r->stop)) return;
    ap_expert_view v = ap_model_views(r->outline)[task];
    apus_err err = gather(r, &v, b->raw, &d);
    if (!err) {
        memset(b->packed, 0, r->packed_bytes); /* between its parts, too */
        for (int i = 0; i < ap_expert_tasks(&v); i++)
            ap_expert_task(r->m->dev->kern, &v, i, b->packed);
        r->file.sum[task] = XXH3_64bits(b->packed, r->bytes[task]);
        /* whole blocks, so that the last record can be read as such */
        err = ap_output_put(&r->out, r->file.offset[task], b->packed,
                            ap_round_up(r->bytes[task], AP_PACKED_ALIGN), &d);
    }
    if (err) fail_with(r, err, &d);
    atomic_fetch_add(&r->done, r->bytes[task]);
    if (worker == 0) tell(r);
}

/* Sizes of records and of what workers need. */
static apus_err measure(repacking *r, apus_diag *diag)
{
    const ap_config *c = &r->m->config;
    size_t dense;
    if (!c->n_expert)
        return ap_fail(diag, APUS_EUNSUPPORTED, "%s: is no mixture of experts", r->m->dir);
    apus_err err = ap_model_measure(c, r->m->weights, r->m->dev, false, &dense, &r->outline, diag);
    if (err) return err;
    const ap_expert_view *v = ap_model_views(r->outline);
    r->n = (size_t)c->n_layer * (size_t)c->n_expert;
    r->bytes = ap_budget_record_bytes(c, v, r->m->dev->kern);
    r->file = (ap_packed){.fingerprint = ap_fingerprint(c, r->m->weights),
                          .form = ap_expert_form(r->m->dev->kern),
                          .n_layer = c->n_layer,
                          .n_expert = c->n_expert,
                          .offset = ap_calloc(r->n, sizeof(uint64_t)),
                          .sum = ap_calloc(r->n, sizeof(uint64_t))};
    if (!r->bytes || !r->file.offset || !r->file.sum)
        return ap_fail_nomem(diag, r->n * sizeof(uint64_t), "the table of experts");
    for (size_t i = 0; i < r->n; i++) {
        r->packed_bytes = ap_max_size(r->packed_bytes, ap_round_up(r->bytes[i], AP_PACKED_ALIGN));
        if (r->bytes[i]) r->raw_bytes = ap_max_size(r->raw_bytes, gathered_bytes(&v[i]));
    }
    r->total = ap_packed_lay_out(&r->file, r->bytes);
    return r->total ? APUS_OK
                    : ap_fail(diag, APUS_EUNSUPPORTED, "%s: experts of that size", r->m->dir);
}

static apus_err make_benches(repacking *r, apus_diag *diag)
{
    apus_err err = ap_pool_create(r->s->threads, &r->pool, diag);
    if (err) return err;
    r->n_worker = ap_pool_threads(r->pool);
    r->bench = ap_calloc((size_t)r->n_worker, sizeof *r->bench);
    bool ok = r->bench != NULL;
    for (int i = 0; ok && i < r->n_worker; i++) {
        r->bench[i].raw = ap_big_alloc(r->raw_bytes);
        r->bench[i].packed = ap_big_alloc(r->packed_bytes);
        ok = r->bench[i].raw && r->bench[i].packed;
    }
    return ok ? APUS_OK : ap_fail_nomem(diag, r->raw_bytes + r->packed_bytes, "experts");
}

static apus_err write_all(repacking *r, const char *path, apus_diag *diag)
{
    uint8_t *head = NULL;
    size_t len = 0;
    apus_err err = ap_disk_check(path, r->total, diag);
    if (!err) err = ap_output_create(&r->out, path, 0666, diag);
    if (err) return err;
    ap_pool_run(r->pool, expert_task, r, (int)r->n);
    err = r->err;
    if (!err) err = ap_packed_head(&r->file, &head, &len, diag);
    if (!err) err = ap_output_put(&r->out, 0, head, len, diag);
    apus_err closed = ap_output_close(&r->out, !err, err ? NULL : diag);
    ap_free(head);
    return err ? err : closed;
}

static void clear(repacking *r)
{
    for (int i = 0; r->bench && i < r->n_worker; i++) {
        ap_big_free(r->bench[i].raw, r->raw_bytes);
        ap_big_free(r->bench[i].packed, r->packed_bytes);
    }
    ap_pool_free(r->pool);
    ap_free(r->bench);
    ap_free(r->bytes);
    ap_packed_close(&r->file);
    ap_model_free(r->outline);
}

static apus_err repack(repacking *r, const char *dst, apus_diag *diag)
{
    ap_stage stage = {0};
    apus_err err = ap_stage_check(dst, AP_STAGE_FILE, r->s->force, diag);
    if (!err) err = ap_stage_apart(dst, r->m->dir, diag);
    if (!err) err = measure(r, diag);
    if (!err) err = make_benches(r, diag);
    if (!err) err = ap_stage_begin(&stage, dst, AP_STAGE_FILE, r->s->force, diag);
    if (!err) err = write_all(r, stage.out, diag);
    if (err)
        ap_stage_rephrase(&stage, diag);
    else
        err = ap_stage_finish(&stage, diag);
    ap_stage_drop(&stage);
    return err;
}

apus_err apus_repack(const char *model, const char *dst, const apus_repack_settings *settings,
                     apus_diag *diag)
{
    apus_repack_settings s;
    apus_model_settings ms;
    apus_repack_settings_default(&s);
    apus_model_settings_default(&ms);
    if (!model || !dst || !*dst)
        return ap_fail(diag, APUS_EINVAL, "apus_repack: model and dst are needed");
    apus_err err = ap_settings_take(&s, sizeof s, settings, "apus_repack_settings", diag);
    if (err) return err;
    repacking r = {.s = &s, .diag = diag};
    ms.load = APUS_LOAD_INFO;
    ms.device = "cpu";
    ms.threads = s.threads;
    ms.hub_cache = s.hub_cache;
    err = apus_model_open(model, &ms, &r.m, diag);
    if (err) return err;
    if (r.m->no_weights)
        err = ap_fail(diag, APUS_EFILE, "%s: the weights are not here", r.m->dir);
    else
        err = repack(&r, dst, diag);
    clear(&r);
    apus_model_close(r.m);
    return err;
}
