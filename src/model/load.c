#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "model/model_impl.h"

static ap_kv_group group_of(const ap_layer_config *l)
{
    return l->kind == AP_LAYER_SLIDING ? AP_KV_SLIDING : AP_KV_FULL;
}

static size_t conv_state_floats(const ap_config *c)
{
    size_t channels = (size_t)(2 * c->gdn_k_head * c->gdn_k_dim + c->gdn_v_head * c->gdn_v_dim);
    return ap_round_up((size_t)(c->gdn_conv - 1) * channels, 16);
}

static size_t delta_state_floats(const ap_config *c)
{
    return ap_round_up((size_t)c->gdn_v_head * (size_t)c->gdn_v_dim * (size_t)c->gdn_k_dim, 16);
}

/* Where layers keep their state. layer may be NULL when only the sums are wanted. False: kv does not
 * take a layer's head size. */
static bool lay_out_state(const ap_config *c, apus_kv kv, ap_layer *layer, ap_state_shape *out)
{
    bool fits = true;
    memset(out, 0, sizeof *out);
    out->window = c->window;
    for (int l = 0; l < c->n_layer; l++) {
        const ap_layer_config *lc = &c->layer[l];
        if (lc->kind == AP_LAYER_LINEAR) {
            size_t conv = out->recur_floats, delta = conv + conv_state_floats(c);
            out->recur_floats = delta + delta_state_floats(c);
            if (!layer) continue;
            layer[l].conv_offset = conv;
            layer[l].delta_offset = delta;
        } else if (lc->kv_donor == l) {
            size_t bytes = ap_kv_layer_bytes(kv, lc->n_kv_head, lc->head_dim);
            fits = fits && bytes;
            if (layer) layer[l].kv_offset[kv] = out->page_bytes[group_of(lc)];
            out->page_bytes[group_of(lc)] += ap_round_up(bytes, AP_ALIGN);
        } else if (layer) {
            layer[l].kv_offset[kv] = layer[lc->kv_donor].kv_offset[kv]; /* donors come first */
        }
    }
    return fits;
}

bool ap_state_shape_of(const ap_config *c, apus_kv kv, ap_state_shape *out)
{
    return lay_out_state(c, kv, NULL, out);
}

static void bind_all(ap_bind *b, ap_model_impl *m)
{
    if (ap_arch_is_gemma(b->c->arch))
        ap_gemma4_bind(b, m);
    else
        ap_qwen3_bind(b, m);
}

/* An empty model and a sizing pass over its tensors. *b is ready for the packing pass. */
static apus_err measure(const ap_config *c, const ap_weights *w, const ap_kern *k, ap_bind *b,
                        ap_model_impl **out, apus_diag *diag)
{
    const char *prefix = ap_weights_text_prefix(w);
    if (!prefix)
        return ap_fail(diag, APUS_EFORMAT,
                       "the weights hold no embed_tokens.weight: no text model found");
    ap_model_impl *m = ap_calloc(1, sizeof *m);
    if (!m) return ap_fail_nomem(diag, sizeof *m, "the model");
    m->c = c;
    m->w = w;
    m->layer = ap_calloc((size_t)c->n_layer, sizeof *m->layer);
    if (c->n_expert) m->experts = ap_experts_create(c->n_layer, c->n_expert);
    if (!m->layer || (c->n_expert && !m->experts)) {
        ap_model_free(m);
        return ap_fail_nomem(diag, (size_t)c->n_layer * sizeof *m->layer, "the layer table");
    }
    for (int kv = APUS_KV_F32; kv < AP_KV_TYPES; kv++)
        lay_out_state(c, (apus_kv)kv, m->layer, &m->shape[kv]);
    *b = (ap_bind){.c = c, .w = w, .k = k, .prefix = prefix, .diag = diag};
    bind_all(b, m);
    if (!b->err && !ap_add_size(b->used, b->floats_used, &m->mem_bytes))
        b->err = ap_fail_nomem(diag, SIZE_MAX, "packed weights");
    m->in_place = b->in_place;
    if (b->err)
        ap_model_free(m);
    else
        *out = m;
    return b->err;
}

apus_err ap_model_measure(const ap_config *c, const ap_weights *w, const ap_kern *k, size_t *bytes,
                          apus_diag *diag)
{
    ap_bind b;
    ap_model_impl *m = NULL;
    apus_err err = measure(c, w, k, &b, &m, diag);
    if (err) return err;
    *bytes = ap_model_packed_bytes(m);
    ap_model_free(m);
    return APUS_OK;
}

apus_err ap_model_load(const ap_config *c, const ap_weights *w, const ap_kern *k,
                       apus_progress_fn progress, void *ctx, ap_model_impl **out, apus_diag *diag)
{
    ap_bind b;
    ap_model_impl *m = NULL;
    apus_err err = measure(c, w, k, &b, &m, diag);
    if (err) return err;
    m->mem = ap_big_alloc(m->mem_bytes);
    err = m->mem ? ap_bind_make_room(&b) : ap_fail_nomem(diag, m->mem_bytes, "packed weights");
    if (err) goto done;
    b.mem = m->mem;
    b.floats = m->mem + b.used;
    b.used = b.floats_used = 0;
    b.total_bytes = m->mem_bytes;
    b.progress = progress;
    b.progress_ctx = ctx;
    bind_all(&b, m);
    ap_bind_pack(&b);
    err = b.err;
    if (!err && progress && !progress(ctx, "load", m->mem_bytes, m->mem_bytes))
        err = ap_fail(diag, APUS_ECANCELLED, "loading was cancelled");
done:
    ap_free(b.job);
    if (err)
        ap_model_free(m);
    else
        *out = m;
    return err;
}

void ap_model_free(ap_model_impl *m)
{
    if (!m) return;
    ap_big_free(m->mem, m->mem_bytes);
    ap_experts_free(m->experts);
    ap_free(m->layer);
    ap_free(m);
}

const ap_config *ap_model_config(const ap_model_impl *m)
{
    return m->c;
}

size_t ap_model_packed_bytes(const ap_model_impl *m)
{
    return m->mem_bytes + m->in_place;
}

size_t ap_model_scratch_bytes(const ap_config *c, const ap_kern *k, int n_tok, int n_seq)
{
    ap_work w;
    ap_work_init(&w, c, k, n_tok, n_seq, NULL);
    return w.bytes;
}

bool ap_model_forward(const ap_model_impl *m, const ap_kern *k, const ap_step *s,
                      const volatile int *cancel)
{
    ap_work w;
    ap_kern with_room = *k;
    ap_work_init(&w, m->c, k, s->n_tok, s->n_seq, s->scratch);
    with_room.inputs = w.inputs;
    with_room.input_bytes = w.input_bytes;
    k = &with_room;
    ap_step_begin(m, k, s, &w);
    bool done = ap_arch_is_gemma(m->c->arch) ? ap_gemma4_forward(m, k, s, &w, cancel)
                                             : ap_qwen3_forward(m, k, s, &w, cancel);
    if (done && s->n_out) ap_head(m, k, s, &w);
    return done;
}
