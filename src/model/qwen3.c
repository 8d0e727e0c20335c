/* qwen3.c - the Qwen3 family: qwen3_5 (dense and MoE), qwen3_next, qwen3_moe, qwen3. Gated
 * DeltaNet or attention mixers, then a dense or a mixture feed-forward. Source: the Qwen 3.5 specification
 * sections 2 to 5, checked against the goldens in tests/golden. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "file/family.h"
#include "model/model_impl.h"

/* qwen3 and qwen3_moe have neither a query gate nor zero-centred norms. */
static bool is_gated(const ap_config *c)
{
    return ap_family_of(c->arch)->gated;
}

/* What to add to stored norm weights, all but the gated norm's. */
static float norm_add(const ap_bind *b)
{
    return ap_family_of(b->c->arch)->norm_offset && !ap_weights_traits_of(b->w).norms_shifted;
}

static void bind_attention(ap_bind *b, ap_attn_weights *a, int l, float add)
{
    const ap_config *c = b->c;
    const ap_layer_config *lc = &c->layer[l];
    int H = c->hidden, D = lc->head_dim, G = lc->n_kv_head;
    int q_rows = c->n_head * D * (is_gated(c) ? 2 : 1);
    ap_bind_mat(b, &a->q, q_rows, H, "layers.%d.self_attn.q_proj.weight", l);
    ap_bind_mat(b, &a->k, G * D, H, "layers.%d.self_attn.k_proj.weight", l);
    ap_bind_mat(b, &a->v, G * D, H, "layers.%d.self_attn.v_proj.weight", l);
    ap_bind_mat(b, &a->o, H, c->n_head * D, "layers.%d.self_attn.o_proj.weight", l);
    ap_bind_vec(b, &a->q_norm, D, add, "layers.%d.self_attn.q_norm.weight", l);
    ap_bind_vec(b, &a->k_norm, D, add, "layers.%d.self_attn.k_norm.weight", l);
}

/* Qwen3-Next keeps fused projections, grouped by key head: [q | k | v r heads | z r heads] and
 * [b r | a r]. Rows are picked into the split form of Qwen 3.5. Group h of `group` rows, `n` of them
 * from `at` on. */
static void pick(int *row, int heads, int group, int at, int n)
{
    for (int h = 0; h < heads; h++)
        for (int i = 0; i < n; i++) row[h * n + i] = h * group + at + i;
}

static void bind_qkvz(ap_bind *b, ap_gdn_weights *g, int l)
{
    const ap_config *c = b->c;
    int Hk = c->gdn_k_head, Dk = c->gdn_k_dim,
        v = c->gdn_v_head / Hk * c->gdn_v_dim; /* v rows of a group */
    int kd = Hk * Dk, vd = Hk * v, group = 2 * Dk + 2 * v;
    ap_tensor qkvz = ap_bind_view(b, 2, (int64_t[]){2 * (int64_t)kd + 2 * (int64_t)vd, c->hidden},
                                  "layers.%d.linear_attn.in_proj_qkvz.weight", l);
    int *row = ap_malloc((size_t)(2 * kd + 2 * vd), sizeof *row);
    if (!row) {
        if (!b->err) b->err = ap_fail_nomem(b->diag, sizeof *row, "reordering a weight");
        return;
    }
    pick(row, Hk, group, 0, Dk);
    pick(row + kd, Hk, group, Dk, Dk);
    pick(row + 2 * kd, Hk, group, 2 * Dk, v);
    pick(row + 2 * kd + vd, Hk, group, 2 * Dk + v, v);
    ap_bind_mat_rows(b, &g->qkv, &qkvz, row, 2 * kd + vd);
    ap_bind_mat_rows(b, &g->z, &qkvz, row + 2 * kd + vd, vd);
    ap_free(row);
}

static void bind_ba(ap_bind *b, ap_gdn_weights *g, int l)
{
    const ap_config *c = b->c;
    int Hk = c->gdn_k_head, Hv = c->gdn_v_head, r = Hv / Hk;
    ap_tensor ba = ap_bind_view(b, 2, (int64_t[]){2 * (int64_t)Hv, c->hidden},
                                "layers.%d.linear_attn.in_proj_ba.weight", l);
    int *row = ap_malloc((size_t)(2 * Hv), sizeof *row);
    if (!row) {
        if (!b->err) b->err = ap_fail_nomem(b->diag, sizeof *row, "reordering a weight");
        return;
    }
    pick(row, Hk, 2 * r, 0, r);
    pick(row + Hv, Hk, 2 * r, r, r);
    ap_bind_mat_rows(b, &g->b, &ba, row, Hv);
    ap_bind_mat_rows(b, &g->a, &ba, row + Hv, Hv);
    ap_free(row);
}

/* -exp(A_log), as it is or as GGUF stores it. */
static void bind_decay(ap_bind *b, ap_gdn_weights *g, int l)
{
    int Hv = b->c->gdn_v_head;
    if (ap_bind_has(b, "layers.%d.linear_attn.neg_exp_A", l)) {
        ap_bind_vec(b, &g->neg_exp_a, Hv, 0, "layers.%d.linear_attn.neg_exp_A", l);
        return;
    }
    ap_tensor a_log = ap_bind_view(b, 1, (int64_t[]){Hv}, "layers.%d.linear_attn.A_log", l);
    float *neg_exp_a = ap_bind_floats(b, (size_t)Hv, &g->neg_exp_a);
    if (!neg_exp_a) return;
    ap_to_f32(a_log.dtype, a_log.data, neg_exp_a, (size_t)Hv);
    ap_bind_finite(b, neg_exp_a, Hv, "layers.%d.linear_attn.A_log", l);
    for (int i = 0; i < Hv; i++) neg_exp_a[i] = -(float)exp((double)neg_exp_a[i]);
}

/* [C, 1, taps], [C, taps, 1] or [C, taps] in the file: all the same bytes. Tap-major here, so that
 * channels lie side by side. */
static void bind_conv(ap_bind *b, ap_gdn_weights *g, int l, int channels)
{
    int taps = b->c->gdn_conv;
    const float *unused;
    const float *by_channel =
        ap_bind_vec(b, &unused, channels * taps, 0, "layers.%d.linear_attn.conv1d.weight", l);
    float *by_tap = ap_bind_floats(b, (size_t)channels * (size_t)taps, &g->conv);
    if (!by_tap || !by_channel) return;
    for (int ch = 0; ch < channels; ch++)
        for (int j = 0; j < taps; j++) by_tap[j * channels + ch] = by_channel[ch * taps + j];
}

static void bind_gdn(ap_bind *b, ap_gdn_weights *g, int l)
{
    const ap_config *c = b->c;
    int H = c->hidden, Hv = c->gdn_v_head, vd = Hv * c->gdn_v_dim;
    int channels = 2 * c->gdn_k_head * c->gdn_k_dim + vd;
    if (ap_bind_has(b, "layers.%d.linear_attn.in_proj_qkvz.weight", l)) {
        bind_qkvz(b, g, l);
    } else {
        ap_bind_mat(b, &g->qkv, channels, H, "layers.%d.linear_attn.in_proj_qkv.weight", l);
        ap_bind_mat(b, &g->z, vd, H, "layers.%d.linear_attn.in_proj_z.weight", l);
    }
    if (ap_bind_has(b, "layers.%d.linear_attn.in_proj_ba.weight", l)) {
        bind_ba(b, g, l);
    } else {
        ap_bind_mat(b, &g->b, Hv, H, "layers.%d.linear_attn.in_proj_b.weight", l);
        ap_bind_mat(b, &g->a, Hv, H, "layers.%d.linear_attn.in_proj_a.weight", l);
    }
    ap_bind_mat(b, &g->out, H, vd, "layers.%d.linear_attn.out_proj.weight", l);
    ap_bind_vec(b, &g->dt_bias, Hv, 0, "layers.%d.linear_attn.dt_bias", l);
    ap_bind_vec(b, &g->norm, c->gdn_v_dim, 0, "layers.%d.linear_attn.norm.weight", l);
    bind_decay(b, g, l);
    bind_conv(b, g, l, channels);
}

static void bind_feed_forward(ap_bind *b, ap_model_impl *m, int l)
{
    const ap_config *c = b->c;
    ap_layer *y = &m->layer[l];
    int H = c->hidden;
    if (!c->layer[l].moe) {
        ap_bind_ffn(b, &y->ffn, H, c->layer[l].ffn, "layers.%d.mlp", l);
        return;
    }
    ap_bind_mat(b, &y->moe.router, c->n_expert, H, "layers.%d.mlp.gate.weight", l);
    ap_bind_experts(b, m, l, "mlp.experts", "mlp.switch_mlp");
    if (c->shared_ffn) {
        ap_bind_ffn(b, &y->moe.shared, H, c->shared_ffn, "layers.%d.mlp.shared_expert", l);
        ap_bind_mat(b, &y->moe.shared_gate, 1, H, "layers.%d.mlp.shared_expert_gate.weight", l);
    }
}

void ap_qwen3_bind_layer(ap_bind *b, ap_model_impl *m, int l, float add)
{
    const ap_config *c = b->c;
    ap_layer *y = &m->layer[l];
    ap_bind_vec(b, &y->norm_in, c->hidden, add, "layers.%d.input_layernorm.weight", l);
    ap_bind_vec(b, &y->norm_post, c->hidden, add, "layers.%d.post_attention_layernorm.weight", l);
    if (c->layer[l].kind == AP_LAYER_LINEAR)
        bind_gdn(b, &y->gdn, l);
    else
        bind_attention(b, &y->attn, l, add);
    bind_feed_forward(b, m, l);
}

void ap_qwen3_bind(ap_bind *b, ap_model_impl *m)
{
    const ap_config *c = b->c;
    float add = norm_add(b);
    m->value_heads_tiled = ap_weights_traits_of(b->w).value_heads_tiled;
    ap_bind_ends(b, m, add);
    for (int l = 0; l < c->n_layer && !b->err; l++) ap_qwen3_bind_layer(b, m, l, add);
    if (m->draft && !b->err) ap_draft_head_bind(b, m);
}

/* Heads of w->q (each with its gate behind it), w->k and w->v of layer l: queries to w->qr, the others to the pages. */
static ap_qkv_args heads_of(const ap_model_impl *m, const ap_step *s, const ap_work *w, int l)
{
    const ap_config *c = m->c;
    const ap_attn_weights *a = &m->layer[l].attn;
    int D = c->layer[l].head_dim, G = c->layer[l].n_kv_head, gate = is_gated(c) ? D : 0;
    return (ap_qkv_args){.q = w->q,
                         .k = w->k,
                         .v = w->v,
                         .ldq = (int64_t)c->n_head * (D + gate),
                         .q_head_stride = D + gate,
                         .ldk = (int64_t)G * D,
                         .ldv = (int64_t)G * D,
                         .q_norm = a->q_norm,
                         .k_norm = a->k_norm,
                         .eps = c->norm_eps,
                         .cos = w->cos[0],
                         .sin = w->sin[0],
                         .n_angle = c->rope_full.n_angle,
                         .pair_offset = c->rope_full.pair_offset,
                         .q_out = w->qr,
                         .kv = ap_step_kv(m, s, l),
                         .n_tok = s->batch->n_tok,
                         .n_head = c->n_head,
                         .n_kv_head = G,
                         .head_dim = D};
}

void ap_qwen3_store(const ap_model_impl *m, const ap_exec *ex, const ap_step *s, ap_work *w, int l)
{
    const ap_attn_weights *a = &m->layer[l].attn;
    ap_qkv_args qkv = heads_of(m, s, w, l);
    ex->k->project(ex, &(ap_project_args){.x = w->x,
                                          .norm = m->layer[l].norm_in,
                                          .eps = m->c->norm_eps,
                                          .h = w->h,
                                          .w = {&a->k, &a->v},
                                          .y = {w->k, w->v},
                                          .n_mat = 2,
                                          .n_tok = s->batch->n_tok});
    qkv.n_head = 0;
    ex->k->qkv(ex, &qkv);
}

void ap_qwen3_attention(const ap_model_impl *m, const ap_exec *ex, const ap_step *s, ap_work *w,
                        int l, int first)
{
    const ap_config *c = m->c;
    const ap_attn_weights *a = &m->layer[l].attn;
    const ap_qkv_args qkv = heads_of(m, s, w, l);
    int T = s->batch->n_tok, D = qkv.head_dim;
    ex->k->project(ex, &(ap_project_args){.x = w->x,
                                          .norm = m->layer[l].norm_in,
                                          .eps = c->norm_eps,
                                          .h = w->h,
                                          .w = {&a->q, &a->k, &a->v},
                                          .y = {w->q, w->k, w->v},
                                          .n_mat = 3,
                                          .n_tok = T});
    ap_attn_args attn = {.q = w->qr,
                         .out = w->att,
                         .kv = qkv.kv,
                         .n_tok = T,
                         .n_head = c->n_head,
                         .n_kv_head = qkv.n_kv_head,
                         .head_dim = D,
                         .scale = (float)(1.0 / sqrt((double)D)),
                         .first = first,
                         .scratch = w->op};
    ex->k->attend(ex, &(ap_attend_args){.qkv = qkv,
                                        .attn = attn,
                                        .gate = is_gated(c) ? w->q + D : NULL,
                                        .ldgate = qkv.ldq,
                                        .gate_head_stride = 2 * (int64_t)D});
    ap_matmul_add(ex, w->att, &a->o, w->x, T);
}

/* w->x += GDN(norm(w->x)) */
static void delta_net(const ap_model_impl *m, const ap_exec *ex, const ap_step *s, ap_work *w,
                      int l)
{
    const ap_config *c = m->c;
    const ap_gdn_weights *g = &m->layer[l].gdn;
    int T = s->batch->n_tok, Hv = c->gdn_v_head, vd = Hv * c->gdn_v_dim;
    int channels = 2 * c->gdn_k_head * c->gdn_k_dim + vd;
    ex->k->project(ex, &(ap_project_args){.x = w->x,
                                          .norm = m->layer[l].norm_in,
                                          .eps = c->norm_eps,
                                          .h = w->h,
                                          .w = {&g->qkv, &g->z, &g->a, &g->b},
                                          .y = {w->gdn_qkv, w->gdn_z, w->gdn_a, w->gdn_b},
                                          .n_mat = 4,
                                          .n_tok = T});
    ap_conv_args conv = {.x = w->gdn_qkv,
                         .weight = g->conv,
                         .out = w->gdn_conv,
                         .ldx = channels,
                         .state = ap_step_recur(s, m->layer[l].conv_offset),
                         .kept = ap_step_kept(m, s, l),
                         .n_tok = T,
                         .n_channel = channels,
                         .n_tap = c->gdn_conv};
    ap_delta_args delta = {.qkv = w->gdn_conv,
                           .a = w->gdn_a,
                           .b = w->gdn_b,
                           .z = w->gdn_z,
                           .lda = Hv,
                           .ldb = Hv,
                           .ldz = vd,
                           .neg_exp_a = g->neg_exp_a,
                           .dt_bias = g->dt_bias,
                           .norm_weight = g->norm,
                           .eps = c->norm_eps,
                           .out = w->gdn_out,
                           .state = ap_step_recur(s, m->layer[l].delta_offset),
                           .kept = ap_step_kept(m, s, l),
                           .n_tok = T,
                           .n_k_head = c->gdn_k_head,
                           .n_v_head = Hv,
                           .k_dim = c->gdn_k_dim,
                           .v_dim = c->gdn_v_dim,
                           .tiled = m->value_heads_tiled,
                           .form = s->delta_form,
                           .scratch = w->op};
    ex->k->recur(ex, &(ap_recur_args){.conv = conv, .delta = delta, .w = &g->out, .y = w->x});
}

/* w->x += mixture(norm(w->x)), with experts that are all there */
static void mix(const ap_model_impl *m, const ap_exec *ex, const ap_step *s, ap_work *w, int l)
{
    const ap_config *c = m->c;
    const ap_layer *y = &m->layer[l];
    ap_expert shared = {y->moe.shared.gate, y->moe.shared.up, y->moe.shared.down};
    ex->k->mix(ex, &(ap_mix_args){.x = w->x,
                                  .norm = y->norm_post,
                                  .eps = c->norm_eps,
                                  .h = w->h,
                                  .router = &y->moe.router,
                                  .logits = w->router,
                                  .ids = w->ids,
                                  .weights = w->wts,
                                  .norm_topk = c->norm_topk,
                                  .experts = ap_experts_of(m->experts, l),
                                  .shared = c->shared_ffn ? &shared : NULL,
                                  .shared_gate = &y->moe.shared_gate,
                                  .t = w->t,
                                  .mid = w->act,
                                  .gate = w->gate1,
                                  .y = w->x,
                                  .n_tok = s->batch->n_tok,
                                  .n_expert = c->n_expert,
                                  .n_used = c->n_expert_used,
                                  .act = AP_ACT_SILU,
                                  .scratch = w->op});
}

/* The choice of experts for w->x, by way of h. */
static void choose(const ap_model_impl *m, const ap_exec *ex, ap_work *w, int l, int T, float *h,
                   int32_t *ids, float *weights)
{
    const ap_config *c = m->c;
    const ap_layer *y = &m->layer[l];
    ap_norm(ex, w->x, y->norm_post, h, T, c->hidden, c->norm_eps);
    ap_matmul(ex, h, &y->moe.router, w->router, T);
    ex->k->route(ex, &(ap_route_args){.logits = w->router,
                                      .ids = ids,
                                      .weights = weights,
                                      .n_tok = T,
                                      .n_expert = c->n_expert,
                                      .n_used = c->n_expert_used,
                                      .norm = c->norm_topk});
}

/* The same bits with experts from the step's source. The shared expert is computed while others are read. */
static apus_err mix_from_source(const ap_model_impl *m, const ap_exec *ex, const ap_step *s,
                                ap_work *w, int l, apus_diag *diag)
{
    const ap_config *c = m->c;
    const ap_layer *y = &m->layer[l];
    int T = s->batch->n_tok, H = c->hidden;
    choose(m, ex, w, l, T, w->h, w->ids, w->wts);
    ap_moe_args a = ap_moe_of(m, s, w, l);
    a.x = w->h;
    a.y = w->x;
    a.act = AP_ACT_SILU;
    a.accumulate = true;
    ap_moe_begin(ex, s, w, l, &a);
    ap_moe_guess(m, ex, s, w, choose);
    if (c->shared_ffn) {
        ap_ffn_run(ex, &y->moe.shared, AP_ACT_SILU, w->h, w->t, false, T, w->act);
        ap_matmul(ex, w->h, &y->moe.shared_gate, w->gate1, T);
    }
    apus_err err = ap_moe_end(ex, s, &a, diag);
    if (!err && c->shared_ffn)
        ex->k->elem(ex, &(ap_elem_args){.op = AP_ELEM_ADD_GATED,
                                        .y = w->x,
                                        .x = w->t,
                                        .gate = w->gate1,
                                        .ldy = H,
                                        .ldx = H,
                                        .rows = T,
                                        .n = H,
                                        .n_block = 1});
    return err;
}

apus_err ap_qwen3_feed_forward(const ap_model_impl *m, const ap_exec *ex, const ap_step *s,
                               ap_work *w, int l, apus_diag *diag)
{
    const ap_layer *y = &m->layer[l];
    int T = s->batch->n_tok;
    if (m->c->layer[l].moe && s->experts) return mix_from_source(m, ex, s, w, l, diag);
    if (m->c->layer[l].moe) {
        mix(m, ex, s, w, l);
    } else {
        ap_norm(ex, w->x, y->norm_post, w->h, T, m->c->hidden, m->c->norm_eps);
        ap_ffn_run(ex, &y->ffn, AP_ACT_SILU, w->h, w->x, true, T, w->act);
    }
    return APUS_OK;
}

apus_err ap_qwen3_forward(const ap_model_impl *m, const ap_exec *ex, const ap_step *s, ap_work *w,
                          const volatile int *cancel, apus_diag *diag)
{
    const ap_config *c = m->c;
    ap_embed_rows(m, ex, s, &m->embed, 1.0f, w->x, c->hidden);
    for (int l = 0; l < c->n_layer; l++) {
        if (ap_step_cancelled(cancel))
            return ap_fail(diag, APUS_ECANCELLED, "the step was cancelled");
        if (c->layer[l].kind == AP_LAYER_LINEAR)
            delta_net(m, ex, s, w, l);
        else
            ap_qwen3_attention(m, ex, s, w, l, 0);
        apus_err err = ap_qwen3_feed_forward(m, ex, s, w, l, diag);
        if (err) return err;
    }
    return APUS_OK;
}
