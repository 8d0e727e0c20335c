#include "file/model_tensors.h"

#include <stdio.h>

typedef struct walk {
    const ap_config *c;
    ap_model_tensor_fn fn;
    void *ctx;
    int layer;
    apus_err err;
} walk;

/* leaf: the name behind "layers.N.", or a whole name outside the layers. */
static void emit(walk *w, ap_tensor_role role, int rank, const int64_t *shape, const char *leaf)
{
    char name[96];
    if (w->err) return;
    if (w->layer < 0)
        snprintf(name, sizeof name, "%s", leaf);
    else
        snprintf(name, sizeof name, "layers.%d.%s", w->layer, leaf);
    ap_model_tensor t = {.name = name, .role = role, .layer = w->layer, .rank = rank};
    for (int i = 0; i < rank; i++) t.shape[i] = shape[i];
    w->err = w->fn(w->ctx, &t);
}

static void vec(walk *w, ap_tensor_role role, int64_t n, const char *leaf)
{
    emit(w, role, 1, &n, leaf);
}

static void mat(walk *w, ap_tensor_role role, int64_t rows, int64_t cols, const char *leaf)
{
    emit(w, role, 2, (int64_t[]){rows, cols}, leaf);
}

static void experts(walk *w, const char *gate_up, const char *down)
{
    int64_t E = w->c->n_expert, F = w->c->expert_ffn, H = w->c->hidden;
    emit(w, AP_ROLE_MATRIX, 3, (int64_t[]){E, 2 * F, H}, gate_up);
    emit(w, AP_ROLE_MATRIX, 3, (int64_t[]){E, H, F}, down);
}

static void dense(walk *w, int64_t ffn)
{
    int64_t H = w->c->hidden;
    mat(w, AP_ROLE_MATRIX, ffn, H, "mlp.gate_proj.weight");
    mat(w, AP_ROLE_MATRIX, ffn, H, "mlp.up_proj.weight");
    mat(w, AP_ROLE_MATRIX, H, ffn, "mlp.down_proj.weight");
}

/* ---------------------------------------------------------------- Gemma 4 */

static void gemma_layer(walk *w, const ap_layer_config *lc)
{
    const ap_config *c = w->c;
    int64_t H = c->hidden, D = lc->head_dim, G = lc->n_kv_head, P = c->ple_dim;
    bool offset = c->arch == AP_ARCH_GEMMA3;
    ap_tensor_role norm = offset ? AP_ROLE_NORM_OFFSET : AP_ROLE_NORM,
                   qk_norm = offset ? AP_ROLE_NORM_OFFSET : AP_ROLE_QK_NORM;
    vec(w, norm, H, "input_layernorm.weight");
    mat(w, AP_ROLE_MATRIX, c->n_head * D, H, "self_attn.q_proj.weight");
    vec(w, qk_norm, D, "self_attn.q_norm.weight");
    if (lc->kv_donor == w->layer) {
        mat(w, AP_ROLE_MATRIX, G * D, H, "self_attn.k_proj.weight");
        vec(w, qk_norm, D, "self_attn.k_norm.weight");
        if (!lc->k_eq_v) mat(w, AP_ROLE_MATRIX, G * D, H, "self_attn.v_proj.weight");
    }
    mat(w, AP_ROLE_MATRIX, H, c->n_head * D, "self_attn.o_proj.weight");
    vec(w, norm, H, "post_attention_layernorm.weight");
    vec(w, norm, H, "pre_feedforward_layernorm.weight");
    dense(w, lc->ffn);
    if (lc->moe) {
        vec(w, AP_ROLE_NORM, H, "post_feedforward_layernorm_1.weight");
        vec(w, AP_ROLE_NORM, H, "pre_feedforward_layernorm_2.weight");
        vec(w, AP_ROLE_NORM, H, "post_feedforward_layernorm_2.weight");
        mat(w, AP_ROLE_ROUTER, c->n_expert, H, "router.proj.weight");
        vec(w, AP_ROLE_NORM, H, "router.scale");
        vec(w, AP_ROLE_SCALE, c->n_expert, "router.per_expert_scale");
        experts(w, "experts.gate_up_proj", "experts.down_proj");
    }
    vec(w, norm, H, "post_feedforward_layernorm.weight");
    if (P) {
        mat(w, AP_ROLE_MATRIX, P, H, "per_layer_input_gate.weight");
        mat(w, AP_ROLE_MATRIX, H, P, "per_layer_projection.weight");
        vec(w, AP_ROLE_NORM, H, "post_per_layer_input_norm.weight");
    }
    if (!offset) vec(w, AP_ROLE_SCALE, 1, "layer_scalar");
}

static void gemma_globals(walk *w)
{
    const ap_config *c = w->c;
    int64_t width = (int64_t)c->n_layer * c->ple_dim;
    if (!c->ple_dim) return;
    mat(w, AP_ROLE_PLE_EMBED, c->ple_vocab, width, "embed_tokens_per_layer.weight");
    mat(w, AP_ROLE_MATRIX, width, c->hidden, "per_layer_model_projection.weight");
    vec(w, AP_ROLE_NORM, c->ple_dim, "per_layer_projection_norm.weight");
}

/* ---------------------------------------------------------------- Qwen */

static ap_tensor_role qwen_norm(const ap_config *c)
{
    return ap_arch_is_plain_qwen(c->arch) ? AP_ROLE_NORM : AP_ROLE_NORM_OFFSET;
}

static void delta(walk *w)
{
    const ap_config *c = w->c;
    int64_t H = c->hidden, Hv = c->gdn_v_head, kd = (int64_t)c->gdn_k_head * c->gdn_k_dim,
            vd = Hv * c->gdn_v_dim;
    if (c->arch == AP_ARCH_QWEN3_NEXT) {
        mat(w, AP_ROLE_MATRIX, 2 * kd + 2 * vd, H, "linear_attn.in_proj_qkvz.weight");
        mat(w, AP_ROLE_MATRIX, 2 * Hv, H, "linear_attn.in_proj_ba.weight");
    } else {
        mat(w, AP_ROLE_MATRIX, 2 * kd + vd, H, "linear_attn.in_proj_qkv.weight");
        mat(w, AP_ROLE_MATRIX, vd, H, "linear_attn.in_proj_z.weight");
        mat(w, AP_ROLE_MATRIX, Hv, H, "linear_attn.in_proj_b.weight");
        mat(w, AP_ROLE_MATRIX, Hv, H, "linear_attn.in_proj_a.weight");
    }
    emit(w, AP_ROLE_CONV, 3, (int64_t[]){2 * kd + vd, 1, c->gdn_conv}, "linear_attn.conv1d.weight");
    vec(w, AP_ROLE_A_LOG, Hv, "linear_attn.A_log");
    vec(w, AP_ROLE_DT_BIAS, Hv, "linear_attn.dt_bias");
    vec(w, AP_ROLE_NORM, c->gdn_v_dim, "linear_attn.norm.weight");
    mat(w, AP_ROLE_MATRIX, H, vd, "linear_attn.out_proj.weight");
}

static void qwen_attention(walk *w, const ap_layer_config *lc)
{
    const ap_config *c = w->c;
    int64_t H = c->hidden, D = lc->head_dim, G = lc->n_kv_head,
            q = c->n_head * D * (ap_arch_is_plain_qwen(c->arch) ? 1 : 2);
    mat(w, AP_ROLE_MATRIX, q, H, "self_attn.q_proj.weight");
    mat(w, AP_ROLE_MATRIX, G * D, H, "self_attn.k_proj.weight");
    mat(w, AP_ROLE_MATRIX, G * D, H, "self_attn.v_proj.weight");
    mat(w, AP_ROLE_MATRIX, H, c->n_head * D, "self_attn.o_proj.weight");
    vec(w, qwen_norm(c), D, "self_attn.q_norm.weight");
    vec(w, qwen_norm(c), D, "self_attn.k_norm.weight");
}

static void qwen_layer(walk *w, const ap_layer_config *lc)
{
    const ap_config *c = w->c;
    int64_t H = c->hidden, S = c->shared_ffn;
    vec(w, qwen_norm(c), H, "input_layernorm.weight");
    if (lc->kind == AP_LAYER_LINEAR)
        delta(w);
    else
        qwen_attention(w, lc);
    vec(w, qwen_norm(c), H, "post_attention_layernorm.weight");
    if (!lc->moe) {
        dense(w, lc->ffn);
        return;
    }
    mat(w, AP_ROLE_ROUTER, c->n_expert, H, "mlp.gate.weight");
    experts(w, "mlp.experts.gate_up_proj", "mlp.experts.down_proj");
    if (!S) return;
    mat(w, AP_ROLE_MATRIX, S, H, "mlp.shared_expert.gate_proj.weight");
    mat(w, AP_ROLE_MATRIX, S, H, "mlp.shared_expert.up_proj.weight");
    mat(w, AP_ROLE_MATRIX, H, S, "mlp.shared_expert.down_proj.weight");
    mat(w, AP_ROLE_GATE_ROW, 1, H, "mlp.shared_expert_gate.weight");
}

apus_err ap_model_tensors(const ap_config *c, ap_model_tensor_fn fn, void *ctx)
{
    walk w = {.c = c, .fn = fn, .ctx = ctx, .layer = -1};
    bool gemma = ap_arch_is_gemma(c->arch);
    mat(&w, AP_ROLE_EMBED, c->vocab, c->hidden, "embed_tokens.weight");
    if (gemma) gemma_globals(&w);
    for (int l = 0; l < c->n_layer && !w.err; l++) {
        w.layer = l;
        if (gemma)
            gemma_layer(&w, &c->layer[l]);
        else
            qwen_layer(&w, &c->layer[l]);
    }
    w.layer = -1;
    bool offset = gemma ? c->arch == AP_ARCH_GEMMA3 : qwen_norm(c) == AP_ROLE_NORM_OFFSET;
    vec(&w, offset ? AP_ROLE_NORM_OFFSET : AP_ROLE_NORM, c->hidden, "norm.weight");
    if (!c->tie_embeddings) mat(&w, AP_ROLE_HEAD, c->vocab, c->hidden, "lm_head.weight");
    return w.err;
}
