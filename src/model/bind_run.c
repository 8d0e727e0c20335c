/* bind_run.c - binding in two passes: sizes, then memory and contents. */
#include "base/mem.h"
#include "model/model_impl.h"

apus_err ap_bind_size(ap_bind *b, ap_bind_fn fn, void *arg, ap_bound *out)
{
    *out = (ap_bound){0};
    fn(b, arg);
    if (!b->err && !ap_add_size(b->used, b->floats_used, &out->bytes))
        b->err = ap_fail_nomem(b->diag, SIZE_MAX, "packed weights");
    out->in_place = b->in_place;
    return b->err;
}

/* Memory of the packing pass, as much as the sizing pass has counted. */
static apus_err make_room(ap_bind *b, ap_bound *out)
{
    ap_device *dev = b->dev;
    size_t floats = b->floats_used;
    out->mem = dev->op->alloc(dev, out->bytes);
    if (!out->mem) return ap_fail_nomem(b->diag, out->bytes, "packed weights");
    b->mem = out->mem;
    b->floats = out->mem + b->used;
    b->host_floats = dev->is_host ? b->floats : ap_big_alloc(floats);
    if (!b->host_floats) return ap_fail_nomem(b->diag, floats, "vectors of the weights");
    b->used = b->floats_used = 0;
    b->total_bytes = out->bytes;
    return ap_bind_make_room(b);
}

apus_err ap_bind_fill(ap_bind *b, ap_bind_fn fn, void *arg, ap_bound *out)
{
    ap_device *dev = b->dev;
    size_t floats = b->floats_used, bytes = out->bytes;
    b->err = make_room(b, out);
    if (!b->err) {
        fn(b, arg);
        ap_bind_pack(b);
    }
    if (!b->err && !dev->is_host) dev->op->put(dev, b->floats, b->host_floats, floats);
    if (!b->err) b->err = dev->op->finish(dev, b->diag);
    if (!b->err && b->progress && !b->progress(b->progress_ctx, "load", bytes, bytes))
        b->err = ap_fail(b->diag, APUS_ECANCELLED, "loading was cancelled");
    if (!dev->is_host) ap_big_free(b->host_floats, floats);
    ap_free(b->job);
    b->job = NULL;
    return b->err;
}

void ap_bound_free(ap_bound *m, ap_device *dev)
{
    if (m->mem) dev->op->free(dev, m->mem, m->bytes);
    *m = (ap_bound){0};
}
