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

static size_t kept_row_floats(const ap_config *c)
{
    return ap_kept_floats(c->gdn_k_head, c->gdn_v_head, c->gdn_k_dim, c->gdn_v_dim);
}

/* Where layers keep their state. layer may be NULL when only the sums are wanted. False: kv does not
 * take a layer's head size. */
static bool lay_out_state(const ap_config *c, apus_kv kv, ap_layer *layer, ap_state_shape *out)
{
    bool fits = true;
    int n_recur = 0;
    memset(out, 0, sizeof *out);
    out->window = c->window;
    for (int l = 0; l < c->n_layer; l++) {
        const ap_layer_config *lc = &c->layer[l];
        if (lc->kind == AP_LAYER_LINEAR) {
            size_t conv = out->recur_floats, delta = conv + conv_state_floats(c);
            out->recur_floats = delta + delta_state_floats(c);
            out->kept_floats += kept_row_floats(c);
            n_recur++;
            if (!layer) continue;
            layer[l].recur_index = n_recur - 1;
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

/* The draft head's part comes last. False: kv does not take its head size. */
static bool add_head(const ap_config *c, apus_kv kv, ap_state_shape *out)
{
    size_t bytes = ap_kv_layer_bytes(kv, c->head.n_kv_head, c->head.head_dim);
    out->head_page_bytes = ap_round_up(bytes, AP_ALIGN);
    out->page_bytes[AP_KV_FULL] += out->head_page_bytes;
    out->carry_floats = ap_round_up((size_t)c->hidden, 16);
    out->recur_floats += out->carry_floats;
    out->kept_floats += out->carry_floats;
    return bytes > 0;
}

bool ap_state_shape_of(const ap_config *c, apus_kv kv, bool head, ap_state_shape *out)
{
    bool fits = lay_out_state(c, kv, NULL, out);
    return (!head || add_head(c, kv, out)) && fits;
}

static void bind_angles(ap_bind *b, ap_model_impl *m)
{
    const ap_rope *rope[2] = {&b->c->rope_full, &b->c->rope_sliding};
    for (int i = 0; i < 2; i++) {
        size_t n = (size_t)rope[i]->n_angle;
        float *f = ap_bind_floats(b, n, &m->inv_freq[i]);
        if (f) memcpy(f, rope[i]->inv_freq, n * sizeof *f);
    }
}

static void bind_all(ap_bind *b, ap_model_impl *m)
{
    bind_angles(b, m);
    ap_pass_of(b->c)->bind(b, m);
}

static ap_expert_view *make_views(const ap_config *c)
{
    size_t n;
    if (!ap_mul_size((size_t)c->n_layer, (size_t)c->n_expert, &n)) return NULL;
    return ap_calloc(n, sizeof(ap_expert_view));
}

static void bind_model(ap_bind *b, void *arg)
{
    bind_all(b, arg);
}

/* An empty model and a sizing pass over its tensors. *b is ready for the packing pass. */
static apus_err measure(const ap_config *c, const ap_weights *w, ap_device *dev, bool experts,
                        bool views, ap_bind *b, ap_model_impl **out, apus_diag *diag)
{
    const char *prefix = ap_weights_text_prefix(w);
    if (!prefix)
        return ap_fail(diag, APUS_EFORMAT,
                       "the weights hold no embed_tokens.weight: no text model found");
    ap_model_impl *m = ap_calloc(1, sizeof *m);
    if (!m) return ap_fail_nomem(diag, sizeof *m, "the model");
    m->c = c;
    m->w = w;
    m->dev = dev;
    m->layer = ap_calloc((size_t)c->n_layer, sizeof *m->layer);
    if (c->n_expert && experts) m->experts = ap_experts_create(c->n_layer, c->n_expert);
    if (c->n_expert && views) m->views = make_views(c);
    bool head = c->has_head && experts;
    if (head) m->draft = ap_draft_head_create(m);
    if (!m->layer || (head && !m->draft) ||
        (c->n_expert && ((experts && !m->experts) || (views && !m->views)))) {
        ap_model_free(m);
        return ap_fail_nomem(diag, (size_t)c->n_layer * sizeof *m->layer, "the layer table");
    }
    for (int kv = APUS_KV_F32; kv < AP_KV_TYPES; kv++) {
        ap_state_shape unused;
        lay_out_state(c, (apus_kv)kv, m->layer, &unused);
    }
    *b = (ap_bind){.c = c, .w = w, .dev = dev, .k = dev->kern, .prefix = prefix, .diag = diag};
    if (ap_bind_size(b, bind_model, m, &m->bound))
        ap_model_free(m);
    else
        *out = m;
    return b->err;
}

apus_err ap_model_measure(const ap_config *c, const ap_weights *w, ap_device *dev, bool experts,
                          size_t *bytes, ap_model_impl **out, apus_diag *diag)
{
    ap_bind b;
    ap_model_impl *m = NULL;
    apus_err err = measure(c, w, dev, experts, out && !experts, &b, &m, diag);
    if (err) return err;
    *bytes = ap_model_packed_bytes(m);
    if (out)
        *out = m;
    else
        ap_model_free(m);
    return APUS_OK;
}

apus_err ap_model_load(const ap_config *c, const ap_weights *w, ap_device *dev, bool experts,
                       apus_progress_fn progress, void *ctx, ap_model_impl **out, apus_diag *diag)
{
    ap_bind b;
    ap_model_impl *m = NULL;
    apus_err err = measure(c, w, dev, experts, false, &b, &m, diag);
    if (err) return err;
    b.progress = progress;
    b.progress_ctx = ctx;
    err = ap_bind_fill(&b, bind_model, m, &m->bound);
    if (err)
        ap_model_free(m);
    else
        *out = m;
    return err;
}

void ap_model_free(ap_model_impl *m)
{
    if (!m) return;
    ap_bound_free(&m->bound, m->dev);
    ap_draft_head_free(m->draft);
    ap_experts_free(m->experts);
    ap_free(m->views);
    ap_free(m->layer);
    ap_free(m);
}

const ap_expert_view *ap_model_views(const ap_model_impl *m)
{
    return m->views;
}

const ap_config *ap_model_config(const ap_model_impl *m)
{
    return m->c;
}

size_t ap_model_packed_bytes(const ap_model_impl *m)
{
    return m->bound.bytes + m->bound.in_place;
}

size_t ap_model_scratch_bytes(const ap_config *c, const ap_exec *ex, int n_tok, bool waves)
{
    ap_work w;
    ap_work_init(&w, c, ex, n_tok, waves, NULL);
    return w.bytes;
}

/* What the launches of a step depend on besides the contents of its batch; the scratch tells the engine. */
typedef struct step_key {
    const void *batch, *logits, *scratch, *embed;
    int32_t n_tok, n_seq, n_out;
} step_key;

static apus_err run_step(const ap_model_impl *m, const ap_exec *ex, const ap_step *s, ap_work *w,
                         const volatile int *cancel, apus_diag *diag)
{
    ap_step_angles(m, ex, s, w);
    apus_err err = ap_pass_of(m->c)->forward(m, ex, s, w, cancel, diag);
    if (!err && s->batch->n_out) ap_head(m, ex, s, w);
    if (!err && s->shape->head_page_bytes) ap_draft_head_fill(m, ex, s, w);
    return err;
}

/* A token for each sequence: such steps come again and again, and a device may record them. */
static apus_err run_decode(const ap_model_impl *m, const ap_exec *ex, const ap_step *s, ap_work *w,
                           const volatile int *cancel, apus_diag *diag)
{
    const ap_batch *b = s->batch;
    step_key key;
    memset(&key, 0, sizeof key); /* padding too */
    key.batch = b->seq_dev;
    key.logits = s->logits;
    key.scratch = s->scratch;
    key.embed = b->embed;
    key.n_tok = b->n_tok;
    key.n_seq = b->n_seq;
    key.n_out = b->n_out;
    if (ex->dev->op->replay(ex->dev, &key, sizeof key)) return APUS_OK;
    apus_err err = run_step(m, ex, s, w, ex->dev->is_host ? cancel : NULL, diag);
    ex->dev->op->recorded(ex->dev);
    return err;
}

apus_err ap_model_forward(const ap_model_impl *m, const ap_exec *ex, const ap_step *s,
                          const volatile int *cancel, apus_diag *diag)
{
    ap_work w;
    ap_exec run = *ex;
    bool decode = s->batch->n_tok == s->batch->n_seq && !ex->profile;
    ap_work_init(&w, m->c, ex, s->batch->n_tok, s->experts != NULL, s->scratch);
    run.inputs = w.inputs;
    run.input_bytes = w.input_bytes;
    apus_err err =
        decode ? run_decode(m, &run, s, &w, cancel, diag) : run_step(m, &run, s, &w, cancel, diag);
    ap_embed_done(m, s);
    return err;
}

void ap_model_commit(const ap_model_impl *m, const ap_exec *ex, const ap_step *s)
{
    const ap_config *c = m->c;
    int first = 0, n = 0;
    for (int l = c->n_layer - 1; l >= 0; l--)
        if (c->layer[l].kind == AP_LAYER_LINEAR) first = l, n++;
    if (s->kept && s->shape->carry_floats) {
        ap_carry_args a = ap_step_carry(m, s);
        a.what = AP_CARRY_COMMIT;
        ex->k->carry(ex, &a);
    }
    if (!n || !s->kept) return;
    size_t row = kept_row_floats(c);
    ex->k->commit(ex,
                  &(ap_commit_args){.kept = s->kept,
                                    .row_floats = row,
                                    .layer_floats = s->kept_rows * row,
                                    .conv = ap_step_recur(s, m->layer[first].conv_offset),
                                    .delta = ap_step_recur(s, m->layer[first].delta_offset),
                                    .state_floats = conv_state_floats(c) + delta_state_floats(c),
                                    .n_layer = n,
                                    .n_tap = c->gdn_conv,
                                    .n_k_head = c->gdn_k_head,
                                    .n_v_head = c->gdn_v_head,
                                    .k_dim = c->gdn_k_dim,
                                    .v_dim = c->gdn_v_dim,
                                    .tiled = m->value_heads_tiled});
}
