/* gemma4.c - the Gemma 4 text models: E-series (per-layer embeddings, shared K/V, double-wide MLP),
 * dense with K = V, and mixture of experts; and Gemma 3, whose layers are the dense ones with other norms:
 * zero-centred, none on V, a scale for the scores. Source: the Gemma 4 specification section 2 and
 * transformers' Gemma 3, checked against the goldens in tests/golden. */
#include <math.h>

#include "file/family.h"
#include "model/model_impl.h"

/* What to add to stored norm weights: Gemma 3 multiplies by 1 + w. */
static float norm_add(const ap_bind *b)
{
    return ap_family_of(b->c->arch)->norm_offset && !ap_weights_traits_of(b->w).norms_shifted;
}

static void bind_layer(ap_bind *b, ap_model_impl *m, int l)
{
    const ap_config *c = b->c;
    const ap_layer_config *lc = &c->layer[l];
    ap_layer *y = &m->layer[l];
    int H = c->hidden, D = lc->head_dim, G = lc->n_kv_head;
    float add = norm_add(b);
    ap_bind_vec(b, &y->norm_in, H, add, "layers.%d.input_layernorm.weight", l);
    ap_bind_vec(b, &y->norm_post, H, add, "layers.%d.post_attention_layernorm.weight", l);
    ap_bind_vec(b, &y->norm_pre_ffn, H, add, "layers.%d.pre_feedforward_layernorm.weight", l);
    ap_bind_vec(b, &y->norm_post_ffn, H, add, "layers.%d.post_feedforward_layernorm.weight", l);
    const float *unused, *scalar = NULL;
    y->layer_scalar = 1;
    if (ap_family_of(c->arch)->layer_scalar)
        scalar = ap_bind_vec(b, &unused, 1, 0, "layers.%d.layer_scalar", l);
    if (scalar) y->layer_scalar = *scalar;

    ap_bind_mat(b, &y->attn.q, c->n_head * D, H, "layers.%d.self_attn.q_proj.weight", l);
    ap_bind_mat(b, &y->attn.o, H, c->n_head * D, "layers.%d.self_attn.o_proj.weight", l);
    ap_bind_vec(b, &y->attn.q_norm, D, add, "layers.%d.self_attn.q_norm.weight", l);
    if (lc->kv_donor == l) {
        ap_bind_mat(b, &y->attn.k, G * D, H, "layers.%d.self_attn.k_proj.weight", l);
        ap_bind_vec(b, &y->attn.k_norm, D, add, "layers.%d.self_attn.k_norm.weight", l);
        if (!lc->k_eq_v)
            ap_bind_mat(b, &y->attn.v, G * D, H, "layers.%d.self_attn.v_proj.weight", l);
    }

    ap_bind_ffn(b, &y->ffn, H, lc->ffn, "layers.%d.mlp", l);
    if (lc->moe) {
        int E = c->n_expert;
        ap_bind_mat(b, &y->moe.router, E, H, "layers.%d.router.proj.weight", l);
        ap_bind_vec(b, &y->moe.per_expert_scale, E, 0, "layers.%d.router.per_expert_scale", l);
        float *scale = ap_bind_vec(b, &y->router_scale, H, 0, "layers.%d.router.scale", l);
        float root = (float)(1.0 / sqrt((double)H)); /* a constant to fold in */
        for (int i = 0; scale && i < H; i++) scale[i] *= root;
        ap_bind_vec(b, &y->norm_post_dense, H, 0, "layers.%d.post_feedforward_layernorm_1.weight",
                    l);
        ap_bind_vec(b, &y->norm_pre_moe, H, 0, "layers.%d.pre_feedforward_layernorm_2.weight", l);
        ap_bind_vec(b, &y->norm_post_moe, H, 0, "layers.%d.post_feedforward_layernorm_2.weight", l);
        ap_bind_experts(b, m, l, "experts", "experts.switch_glu");
    }
    if (c->ple_dim) {
        int P = c->ple_dim;
        ap_bind_mat(b, &y->ple_gate, P, H, "layers.%d.per_layer_input_gate.weight", l);
        ap_bind_mat(b, &y->ple_proj, H, P, "layers.%d.per_layer_projection.weight", l);
        ap_bind_vec(b, &y->norm_post_ple, H, 0, "layers.%d.post_per_layer_input_norm.weight", l);
    }
}

void ap_gemma4_bind(ap_bind *b, ap_model_impl *m)
{
    const ap_config *c = b->c;
    ap_bind_ends(b, m, norm_add(b));
    if (c->ple_dim) {
        int width = c->n_layer * c->ple_dim;
        ap_tensor table =
            ap_bind_view(b, 2, (int64_t[]){c->ple_vocab, width}, "embed_tokens_per_layer.weight");
        ap_bind_table(b, &m->ple_embed, &table);
        ap_bind_mat(b, &m->ple_project, width, c->hidden, "per_layer_model_projection.weight");
        ap_bind_vec(b, &m->norm_ple, c->ple_dim, 0, "per_layer_projection_norm.weight");
    }
    for (int l = 0; l < c->n_layer && !b->err; l++) bind_layer(b, m, l);
}

/* Per-layer inputs of every token: (norm(W x0 h^-1/2) + E[id] sqrt(P)) / sqrt(2), f32 [T, L*P]. */
static void per_layer_inputs(const ap_model_impl *m, const ap_exec *ex, const ap_step *s,
                             ap_work *w)
{
    const ap_config *c = m->c;
    int P = c->ple_dim, width = c->n_layer * P;
    ap_matmul(ex, w->x, &m->ple_project, w->ple, s->batch->n_tok);
    /* norm(a x, eps) = norm(x, eps / a^2), so the factor h^-1/2 goes into eps. */
    ap_norm(ex, w->ple, m->norm_ple, w->ple, s->batch->n_tok * c->n_layer, P,
            c->norm_eps * (float)c->hidden);
    ap_embed_rows(m, ex, s, &m->ple_embed, sqrtf((float)P), w->ple_g, width);
    ex->k->elem(ex, &(ap_elem_args){.op = AP_ELEM_AVERAGE,
                                    .y = w->ple,
                                    .x = w->ple_g,
                                    .ldy = width,
                                    .ldx = width,
                                    .rows = s->batch->n_tok,
                                    .n = width,
                                    .n_block = 1,
                                    .scale = (float)0.70710678118654752440});
}

/* w->t = Attn(norm(w->x)) */
static void attention(const ap_model_impl *m, const ap_exec *ex, const ap_step *s, ap_work *w,
                      int l)
{
    const ap_config *c = m->c;
    const ap_layer_config *lc = &c->layer[l];
    const ap_attn_weights *a = &m->layer[l].attn;
    bool sliding = lc->kind == AP_LAYER_SLIDING, owns = lc->kv_donor == l;
    const ap_rope *rope = sliding ? &c->rope_sliding : &c->rope_full;
    int D = lc->head_dim, G = lc->n_kv_head, n_mat = !owns ? 1 : lc->k_eq_v ? 2 : 3;
    ap_kv kv = ap_step_kv(m, s, l);
    ap_batch causal = *s->batch; /* full layers do not look ahead in pictures */
    causal.see_end = causal.see_past;
    if (!sliding) kv.batch = &causal;

    ex->k->project(ex, &(ap_project_args){.x = w->x,
                                          .norm = m->layer[l].norm_in,
                                          .eps = c->norm_eps,
                                          .h = w->h,
                                          .w = {&a->q, &a->k, &a->v},
                                          .y = {w->q, w->k, w->v},
                                          .n_mat = n_mat,
                                          .n_tok = s->batch->n_tok});
    ex->k->qkv(ex, &(ap_qkv_args){.q = w->q,
                                  .k = w->k,
                                  .v = lc->k_eq_v ? w->k : w->v,
                                  .ldq = (int64_t)c->n_head * D,
                                  .q_head_stride = D,
                                  .ldk = (int64_t)G * D,
                                  .ldv = (int64_t)G * D,
                                  .q_norm = a->q_norm,
                                  .k_norm = a->k_norm,
                                  .v_norm = ap_family_of(c->arch)->v_norm,
                                  .eps = c->norm_eps,
                                  .cos = w->cos[sliding],
                                  .sin = w->sin[sliding],
                                  .n_angle = rope->n_angle,
                                  .pair_offset = rope->pair_offset,
                                  .q_out = w->qr,
                                  .kv = kv,
                                  .n_tok = s->batch->n_tok,
                                  .n_head = c->n_head,
                                  .n_kv_head = G,
                                  .head_dim = D,
                                  .q_only = !owns});
    ex->k->attn(ex, &(ap_attn_args){.q = w->qr,
                                    .out = w->att,
                                    .kv = kv,
                                    .n_tok = s->batch->n_tok,
                                    .n_head = c->n_head,
                                    .n_kv_head = G,
                                    .head_dim = D,
                                    .scale = c->attn_scale,
                                    .window = sliding ? c->window : 0,
                                    .scratch = w->op});
    ap_matmul(ex, w->att, &a->o, w->t, s->batch->n_tok);
}

/* w->t = norm(MLP(norm(w->x))), the last norm with a mixture only */
static void dense_part(const ap_model_impl *m, const ap_exec *ex, ap_work *w, int l, int T)
{
    const ap_layer *y = &m->layer[l];
    int H = m->c->hidden;
    float eps = m->c->norm_eps;
    ap_norm(ex, w->x, y->norm_pre_ffn, w->h, T, H, eps);
    ap_ffn_run(ex, &y->ffn, AP_ACT_GELU_TANH, w->h, w->t, false, T, w->act);
    if (m->c->layer[l].moe) ap_norm(ex, w->t, y->norm_post_dense, w->t, T, H, eps);
}

/* The choice of experts for w->x, by way of h. */
static void choose(const ap_model_impl *m, const ap_exec *ex, ap_work *w, int l, int T, float *h,
                   int32_t *ids, float *weights)
{
    const ap_config *c = m->c;
    const ap_layer *y = &m->layer[l];
    int H = c->hidden;
    /* The router reads the residual stream itself, normed without a weight. */
    ap_norm(ex, w->x, y->router_scale, h, T, H, c->norm_eps);
    ap_matmul(ex, h, &y->moe.router, w->router, T);
    ex->k->route(ex, &(ap_route_args){.logits = w->router,
                                      .per_expert_scale = y->moe.per_expert_scale,
                                      .ids = ids,
                                      .weights = weights,
                                      .n_tok = T,
                                      .n_expert = c->n_expert,
                                      .n_used = c->n_expert_used,
                                      .norm = true});
}

/* w->t = FFN(w->x), with its own norms before and between */
static apus_err feed_forward(const ap_model_impl *m, const ap_exec *ex, const ap_step *s,
                             ap_work *w, int l, apus_diag *diag)
{
    const ap_config *c = m->c;
    const ap_layer *y = &m->layer[l];
    int T = s->batch->n_tok, H = c->hidden;
    if (!c->layer[l].moe) {
        dense_part(m, ex, w, l, T);
        return APUS_OK;
    }
    choose(m, ex, w, l, T, w->h, w->ids, w->wts);
    ap_moe_args a = ap_moe_of(m, s, w, l);
    a.x = w->h;
    a.y = w->moe;
    a.act = AP_ACT_GELU_TANH;
    ap_moe_begin(ex, s, w, l, &a);
    ap_moe_guess(m, ex, s, w, choose);
    dense_part(m, ex, w, l, T); /* while experts are read */
    ap_norm(ex, w->x, y->norm_pre_moe, w->h, T, H, c->norm_eps);
    apus_err err = ap_moe_end(ex, s, &a, diag);
    if (!err) ap_norm_add(ex, w->moe, y->norm_post_moe, w->t, T, H, c->norm_eps, 1.0f);
    return err;
}

apus_err ap_gemma4_forward(const ap_model_impl *m, const ap_exec *ex, const ap_step *s, ap_work *w,
                           const volatile int *cancel, apus_diag *diag)
{
    const ap_config *c = m->c;
    int T = s->batch->n_tok, H = c->hidden, P = c->ple_dim;
    ap_embed_rows(m, ex, s, &m->embed, sqrtf((float)H), w->x, H);
    if (P) per_layer_inputs(m, ex, s, w);
    for (int l = 0; l < c->n_layer; l++) {
        if (ap_step_cancelled(cancel))
            return ap_fail(diag, APUS_ECANCELLED, "the step was cancelled");
        const ap_layer *y = &m->layer[l];
        attention(m, ex, s, w, l);
        ap_norm_add(ex, w->t, y->norm_post, w->x, T, H, c->norm_eps, 1.0f);
        apus_err err = feed_forward(m, ex, s, w, l, diag);
        if (err) return err;
        /* layer_scalar multiplies the whole stream, after the last addition of the layer. */
        ap_norm_add(ex, w->t, y->norm_post_ffn, w->x, T, H, c->norm_eps,
                    P ? 1.0f : y->layer_scalar);
        if (!P) continue;
        ap_matmul(ex, w->x, &y->ple_gate, w->ple_g, T);
        ex->k->elem(ex, &(ap_elem_args){.op = AP_ELEM_GELU_MUL,
                                        .y = w->ple_g,
                                        .x = w->ple + (size_t)l * (size_t)P,
                                        .ldy = P,
                                        .ldx = (int64_t)c->n_layer * P,
                                        .rows = T,
                                        .n = P,
                                        .n_block = 1});
        ap_matmul(ex, w->ple_g, &y->ple_proj, w->t, T);
        ap_norm_add(ex, w->t, y->norm_post_ple, w->x, T, H, c->norm_eps, y->layer_scalar);
    }
    return APUS_OK;
}
