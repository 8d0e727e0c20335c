/* engine.c - making and freeing an engine. */
#include "engine/engine.h"

#include <string.h>

#include "base/sysmem.h"

apus_err ap_engine_workers(const apus_model *m, const apus_engine_settings *s, ap_pool **pool,
                           ap_kern *kern, apus_diag *diag)
{
    apus_err err = ap_pool_create(s->threads, pool, diag);
    if (!err) err = ap_kern_cpu(s->cpu, *pool, kern, diag);
    if (!err) kern->precision = m->kern.precision;
    return err;
}

static apus_err take_pages(apus_engine *e, apus_diag *diag)
{
    static const char *const what[AP_KV_GROUPS] = {"KV pages", "KV pages of sliding layers"};
    const ap_sizes *z = &e->size;
    apus_err err = APUS_OK;
    for (int g = 0; g < AP_KV_GROUPS && !err; g++) {
        if (!z->shape.page_bytes[g]) continue;
        err = ap_slab_create(&e->pages[g], z->kv_cap[g] * z->n_session, z->shape.page_bytes[g],
                             what[g], diag);
    }
    if (!err && z->recur_block_bytes)
        err = ap_slab_create(&e->states, z->n_session * AP_RECUR_BLOCKS, z->recur_block_bytes,
                             "recurrent states", diag);
    return err;
}

static size_t logits_bytes(const ap_sizes *z)
{
    return (size_t)z->logit_rows * (size_t)z->vocab * sizeof(float);
}

static apus_err take_scratch(apus_engine *e, apus_diag *diag)
{
    const ap_sizes *z = &e->size;
    size_t n = (size_t)z->n_session, sampler = 0;
    bool ok = ap_sampler_bytes(z->vocab, &sampler);
    ok = ok && (e->session = ap_calloc(n, sizeof *e->session));
    ok = ok && (e->session_tok = ap_calloc(n * (size_t)z->ctx, sizeof *e->session_tok));
    for (int g = 0; g < AP_KV_GROUPS; g++)
        ok = ok && (e->session_page[g] =
                        ap_calloc(n * (size_t)ap_kv_entries(z->ctx), sizeof *e->session_page[g]));
    ok = ok && (e->lane = ap_calloc(n, sizeof *e->lane));
    ok = ok && (e->tok = ap_calloc((size_t)z->chunk, sizeof *e->tok));
    ok = ok && (e->pos = ap_calloc((size_t)z->chunk, sizeof *e->pos));
    ok = ok && (e->out_row = ap_calloc((size_t)z->chunk, sizeof *e->out_row));
    ok = ok && (e->seq = ap_calloc(n, sizeof *e->seq));
    ok = ok && (e->scratch = ap_big_alloc(z->model_scratch_bytes));
    ok = ok && (e->logits = ap_big_alloc(logits_bytes(z)));
    ok = ok && (e->row = ap_calloc(n * (size_t)z->vocab, sizeof *e->row));
    ok = ok && (e->gen = ap_calloc(n, sizeof *e->gen));
    ok = ok && (e->gen_feed = ap_calloc(n, sizeof *e->gen_feed));
    void *mem = ok ? ap_big_alloc(sampler) : NULL;
    if (!mem) return ap_fail_nomem(diag, z->scratch_bytes, "the scratch of a step");
    ap_sampler_init(&e->sampler, z->vocab, mem, sampler);
    return APUS_OK;
}

static apus_err build(apus_engine *e, const apus_engine_settings *s, apus_diag *diag)
{
    apus_err err = ap_engine_workers(e->model, s, &e->pool, &e->kern, diag);
    if (!err) err = ap_sizes_make(e->model, s, &e->kern, &e->size, diag);
    if (!err) err = ap_fit_engine(e->model, s, &e->kern, &e->size, ap_memory_available(), 0, diag);
    if (!err) err = take_pages(e, diag);
    if (!err) err = take_scratch(e, diag);
    e->delta_form = s->gdn_chunked ? AP_DELTA_CHUNKED : AP_DELTA_RECURRENT;
    return err;
}

apus_err apus_engine_create(const apus_model *m, const apus_engine_settings *settings,
                            apus_engine **out, apus_diag *diag)
{
    if (!m || !out)
        return ap_fail(diag, APUS_EINVAL, "apus_engine_create: model and out are needed");
    if (!m->impl)
        return ap_fail(
            diag, APUS_EINVAL,
            "apus_engine_create: the model was opened without its weights (APUS_LOAD_ALL)");
    apus_engine_settings s;
    apus_engine_settings_default(&s);
    apus_err err = ap_settings_take(&s, sizeof s, settings, "apus_engine_settings", diag);
    if (err) return err;
    apus_engine *e = ap_calloc(1, sizeof *e);
    if (!e) return ap_fail_nomem(diag, sizeof *e, "the engine");
    e->model = m;
    err = build(e, &s, diag);
    if (err) {
        apus_engine_free(e);
        return err;
    }
    const ap_sizes *z = &e->size;
    ap_log_say(&m->log, APUS_LOG_INFO,
               "an engine on %s: %d sessions of %d tokens, K/V in %s, %zu bytes", apus_cpu_name(e->kern.level),
               z->n_session, z->ctx, apus_kv_name(z->kv), z->kv_bytes + z->state_bytes + z->scratch_bytes);
    *out = e;
    return APUS_OK;
}

void apus_engine_free(apus_engine *e)
{
    if (!e) return;
    for (int g = 0; g < AP_KV_GROUPS; g++) {
        ap_slab_destroy(&e->pages[g]);
        ap_free(e->session_page[g]);
    }
    ap_slab_destroy(&e->states);
    ap_free(e->session);
    ap_free(e->session_tok);
    ap_free(e->lane);
    ap_free(e->tok);
    ap_free(e->pos);
    ap_free(e->out_row);
    ap_free(e->seq);
    ap_big_free(e->scratch, e->size.model_scratch_bytes);
    ap_big_free(e->logits, logits_bytes(&e->size));
    ap_free(e->row);
    ap_free(e->gen);
    ap_free(e->gen_feed);
    ap_big_free(e->sampler.mem, e->sampler.mem_bytes);
    ap_pool_free(e->pool);
    ap_free(e->profile);
    ap_free(e);
}

void apus_cancel(apus_engine *e)
{
    if (e) __atomic_store_n(&e->cancel, 1, __ATOMIC_RELAXED);
}

bool ap_cancelled(const apus_engine *e)
{
    return __atomic_load_n(&e->cancel, __ATOMIC_RELAXED);
}

apus_err ap_call_begin(apus_engine *e, apus_diag *diag)
{
    if (e->busy)
        return ap_fail(diag, APUS_EINVAL, "a call is running on this engine; wait for its return");
    e->busy = true;
    __atomic_store_n(&e->cancel, 0, __ATOMIC_RELAXED);
    return APUS_OK;
}

void ap_call_end(apus_engine *e)
{
    e->busy = false;
}
