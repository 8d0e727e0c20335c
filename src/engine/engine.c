/* engine.c - making and freeing an engine. */
#include "engine/engine.h"

/* Do the settings ask for what the model's device is? They choose among CPUs only. */
static bool suits(const ap_device *dev, const apus_engine_settings *s)
{
    apus_cpu level = s->cpu == APUS_CPU_AUTO ? apus_cpu_best() : s->cpu;
    int threads = s->threads ? s->threads : ap_pool_default_threads();
    return !dev->is_host || (dev->kern->level == level && ap_pool_threads(dev->pool) == threads);
}

static void use(const apus_model *m, ap_device *dev, ap_exec *ex)
{
    *ex = (ap_exec){.k = dev->kern, .dev = dev, .precision = m->precision};
}

apus_err ap_engine_look(const apus_model *m, const apus_engine_settings *s, ap_exec *ex,
                        ap_device **own, apus_diag *diag)
{
    *own = NULL;
    bool lent = m->dev && suits(m->dev, s);
    apus_err err = lent ? APUS_OK : ap_device_cpu(s->cpu, s->threads, own, diag);
    if (!err) use(m, *own ? *own : m->dev, ex);
    return err;
}

/* The model's device, if it suits and serves nobody else: engines may run on several threads at once, and
 * the CPU's workers serve one at a time. */
static apus_err take_device(apus_engine *e, const apus_engine_settings *s, apus_diag *diag)
{
    ap_device *dev = e->model->dev;
    if (suits(dev, s)) {
        int others = __atomic_fetch_add(&dev->lent, 1, __ATOMIC_ACQ_REL);
        if (others == 0 || !dev->is_host) {
            use(e->model, dev, &e->exec);
            return APUS_OK;
        }
        __atomic_fetch_sub(&dev->lent, 1, __ATOMIC_ACQ_REL);
    }
    apus_err err = ap_device_cpu(s->cpu, s->threads, &e->own, diag);
    if (!err) use(e->model, e->own, &e->exec);
    return err;
}

static void leave_device(apus_engine *e)
{
    if (e->own)
        e->own->op->destroy(e->own);
    else if (e->exec.dev)
        __atomic_fetch_sub(&e->exec.dev->lent, 1, __ATOMIC_ACQ_REL);
}

static apus_err take_pages(apus_engine *e, apus_diag *diag)
{
    static const char *const what[AP_KV_GROUPS] = {"KV pages", "KV pages of sliding layers"};
    const ap_sizes *z = &e->size;
    apus_err err = APUS_OK;
    for (int g = 0; g < AP_KV_GROUPS && !err; g++) {
        if (!z->shape.page_bytes[g]) continue;
        err = ap_slab_create(&e->pages[g], e->exec.dev, z->n_page[g], z->shape.page_bytes[g],
                             what[g], diag);
    }
    if (!err && z->recur_block_bytes)
        err = ap_slab_create(&e->states, e->exec.dev, z->n_state, z->recur_block_bytes,
                             "recurrent states", diag);
    return err;
}

static size_t logits_bytes(const ap_sizes *z)
{
    return (size_t)z->logit_rows * (size_t)z->vocab * sizeof(float);
}

static size_t page_bytes(const ap_sizes *z)
{
    return (size_t)z->n_session * (size_t)ap_kv_entries(z->ctx) * sizeof(int32_t);
}

/* Block tables of all sessions, on the host and on the device. */
static bool take_tables(apus_engine *e)
{
    ap_device *dev = e->exec.dev;
    size_t bytes = page_bytes(&e->size);
    for (int g = 0; g < AP_KV_GROUPS; g++) {
        e->session_page[g] = ap_calloc(1, bytes);
        e->page[g] = dev->is_host ? e->session_page[g] : dev->op->alloc(dev, bytes);
        if (!e->session_page[g] || !e->page[g]) return false;
    }
    return true;
}

static apus_err take_scratch(apus_engine *e, apus_diag *diag)
{
    const ap_sizes *z = &e->size;
    ap_device *dev = e->exec.dev;
    size_t n = (size_t)z->n_session;
    bool ok = (e->session = ap_calloc(n, sizeof *e->session));
    ok = ok && (e->cancel = ap_calloc(n + 1, sizeof *e->cancel));
    ok = ok && (e->session_tok = ap_calloc(n * (size_t)z->ctx, sizeof *e->session_tok));
    ok = ok && take_tables(e);
    ok = ok && (e->lane = ap_calloc(n, sizeof *e->lane));
    ok = ok && (e->gen = ap_calloc(n, sizeof *e->gen));
    ok = ok && (e->gen_feed = ap_calloc(n, sizeof *e->gen_feed));
    ok = ok && (e->gen_next = ap_calloc(n, sizeof *e->gen_next));
    ok = ok && (e->gen_session = ap_calloc(n, sizeof *e->gen_session));
    ok = ok && (!z->kept_bytes || (e->kept = dev->op->alloc(dev, z->kept_bytes)));
    ok = ok && (!z->hidden_bytes || (e->hidden = dev->op->alloc(dev, z->hidden_bytes)));
    ok = ok && (e->scratch = dev->op->alloc(dev, z->model_scratch_bytes));
    ok = ok && (e->logits = dev->op->alloc(dev, logits_bytes(z)));
    ok = ok && (!z->embed_bytes || (e->embed = dev->op->alloc(dev, z->embed_bytes)));
    return ok ? APUS_OK : ap_fail_nomem(diag, z->scratch_bytes, "the scratch of a step");
}

static apus_err take_chooser(apus_engine *e, apus_diag *diag)
{
    const ap_config *c = &e->model->config;
    const ap_sizes *z = &e->size;
    apus_err err = ap_chooser_init(&e->chooser, &e->exec, z->n_session, z->vocab, z->ctx, diag);
    return err ? err : ap_chooser_forbid(&e->chooser, c->suppress, c->n_suppress, diag);
}

/* Memory for an engine beside the model; 0 = not known. */
static uint64_t memory_left(const apus_model *m, ap_device *dev)
{
    uint64_t there = dev->op->memory(dev, NULL);
    if (!m->budget) return there;
    uint64_t left = m->budget > m->packed_bytes ? m->budget - m->packed_bytes : 1;
    return there && there < left ? there : left;
}

static apus_err build(apus_engine *e, const apus_engine_settings *s, apus_diag *diag)
{
    apus_err err = take_device(e, s, diag);
    if (err) return err;
    ap_device *dev = e->exec.dev;
    err = ap_sizes_make(e->model, s, &e->exec, &e->size, diag);
    if (!err)
        err = ap_fit_engine(e->model, s, &e->exec, &e->size, memory_left(e->model, dev), 0, diag);
    if (!err) err = take_pages(e, diag);
    if (!err) err = take_scratch(e, diag);
    if (!err) err = ap_rows_create(&e->rows, dev, e->size.chunk, e->size.n_session, diag);
    if (!err) err = take_chooser(e, diag);
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
               "an engine on %s: %d sessions of %d tokens, K/V in %s, %zu bytes",
               ap_where(e->exec.dev), z->n_session, z->ctx, apus_kv_name(z->kv),
               z->kv_bytes + z->state_bytes + z->scratch_bytes);
    *out = e;
    return APUS_OK;
}

static void give_back(ap_device *dev, void *p, size_t bytes)
{
    if (p) dev->op->free(dev, p, bytes);
}

void apus_engine_free(apus_engine *e)
{
    if (!e) return;
    ap_device *dev = e->exec.dev;
    for (int g = 0; g < AP_KV_GROUPS; g++) {
        ap_slab_destroy(&e->pages[g]);
        if (e->page[g] != e->session_page[g]) give_back(dev, e->page[g], page_bytes(&e->size));
        ap_free(e->session_page[g]);
    }
    ap_slab_destroy(&e->states);
    for (int i = 0; e->session && i < e->size.n_session; i++) ap_spans_clear(&e->session[i].spans);
    ap_free(e->session);
    ap_free((void *)e->cancel);
    ap_free(e->session_tok);
    ap_free(e->lane);
    ap_free(e->gen);
    ap_free(e->gen_feed);
    ap_free(e->gen_next);
    ap_free(e->gen_session);
    give_back(dev, e->kept, e->size.kept_bytes);
    give_back(dev, e->hidden, e->size.hidden_bytes);
    ap_rows_destroy(&e->rows);
    give_back(dev, e->scratch, e->size.model_scratch_bytes);
    give_back(dev, e->logits, logits_bytes(&e->size));
    give_back(dev, e->embed, e->size.embed_bytes);
    ap_chooser_close(&e->chooser);
    leave_device(e);
    ap_free(e->profile);
    ap_free(e);
}

static void set_cancel(apus_engine *e, int value)
{
    for (int i = 0; i <= e->size.n_session; i++)
        __atomic_store_n(&e->cancel[i], value, __ATOMIC_RELAXED);
}

void apus_cancel(apus_engine *e)
{
    if (e) set_cancel(e, 1);
}

void apus_session_cancel(apus_session *s)
{
    if (s) __atomic_store_n(&s->engine->cancel[s - s->engine->session], 1, __ATOMIC_RELAXED);
}

bool ap_cancelled(const apus_engine *e)
{
    return __atomic_load_n(&e->cancel[e->size.n_session], __ATOMIC_RELAXED);
}

bool ap_session_cancelled(const apus_session *s)
{
    const apus_engine *e = s->engine;
    return __atomic_load_n(&e->cancel[s - e->session], __ATOMIC_RELAXED);
}

apus_err ap_call_begin(apus_engine *e, apus_diag *diag)
{
    if (e->busy)
        return ap_fail(diag, APUS_EINVAL, "a call is running on this engine; wait for its return");
    e->busy = true;
    set_cancel(e, 0);
    return APUS_OK;
}

void ap_call_end(apus_engine *e)
{
    e->busy = false;
}
