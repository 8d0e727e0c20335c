/* family_qwen3.c - Qwen3 to Qwen3.8 in files: the tensors of their text models, and GGUF's names and keys. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "file/family_in.h"

/* ---------------------------------------------------------------- tensors */

static void delta_tensors(ap_tensor_walk *w)
{
    const ap_config *c = w->c;
    int64_t H = c->hidden, Hv = c->gdn_v_head, kd = (int64_t)c->gdn_k_head * c->gdn_k_dim,
            vd = Hv * c->gdn_v_dim;
    if (w->f->joint_delta) {
        ap_walk_mat(w, AP_ROLE_MATRIX, 2 * kd + 2 * vd, H, "linear_attn.in_proj_qkvz.weight");
        ap_walk_mat(w, AP_ROLE_MATRIX, 2 * Hv, H, "linear_attn.in_proj_ba.weight");
    } else {
        ap_walk_mat(w, AP_ROLE_MATRIX, 2 * kd + vd, H, "linear_attn.in_proj_qkv.weight");
        ap_walk_mat(w, AP_ROLE_MATRIX, vd, H, "linear_attn.in_proj_z.weight");
        ap_walk_mat(w, AP_ROLE_MATRIX, Hv, H, "linear_attn.in_proj_b.weight");
        ap_walk_mat(w, AP_ROLE_MATRIX, Hv, H, "linear_attn.in_proj_a.weight");
    }
    ap_walk_emit(w, AP_ROLE_CONV, 3, (int64_t[]){2 * kd + vd, 1, c->gdn_conv},
                 "linear_attn.conv1d.weight");
    ap_walk_vec(w, AP_ROLE_A_LOG, Hv, "linear_attn.A_log");
    ap_walk_vec(w, AP_ROLE_DT_BIAS, Hv, "linear_attn.dt_bias");
    ap_walk_vec(w, AP_ROLE_NORM, c->gdn_v_dim, "linear_attn.norm.weight");
    ap_walk_mat(w, AP_ROLE_MATRIX, H, vd, "linear_attn.out_proj.weight");
}

static void attention_tensors(ap_tensor_walk *w, const ap_layer_config *lc)
{
    const ap_config *c = w->c;
    int64_t H = c->hidden, D = lc->head_dim, G = lc->n_kv_head,
            q = c->n_head * D * (w->f->gated ? 2 : 1);
    ap_walk_mat(w, AP_ROLE_MATRIX, q, H, "self_attn.q_proj.weight");
    ap_walk_mat(w, AP_ROLE_MATRIX, G * D, H, "self_attn.k_proj.weight");
    ap_walk_mat(w, AP_ROLE_MATRIX, G * D, H, "self_attn.v_proj.weight");
    ap_walk_mat(w, AP_ROLE_MATRIX, H, c->n_head * D, "self_attn.o_proj.weight");
    ap_walk_vec(w, ap_walk_norm(w), D, "self_attn.q_norm.weight");
    ap_walk_vec(w, ap_walk_norm(w), D, "self_attn.k_norm.weight");
}

void ap_qwen3_layer_tensors(ap_tensor_walk *w, const ap_layer_config *lc)
{
    const ap_config *c = w->c;
    int64_t H = c->hidden, S = c->shared_ffn;
    ap_walk_vec(w, ap_walk_norm(w), H, "input_layernorm.weight");
    if (lc->kind == AP_LAYER_LINEAR)
        delta_tensors(w);
    else
        attention_tensors(w, lc);
    ap_walk_vec(w, ap_walk_norm(w), H, "post_attention_layernorm.weight");
    if (!lc->moe) {
        ap_walk_dense(w, lc->ffn);
        return;
    }
    ap_walk_mat(w, AP_ROLE_ROUTER, c->n_expert, H, "mlp.gate.weight");
    ap_walk_experts(w, "mlp.experts.gate_up_proj", "mlp.experts.down_proj");
    if (!S) return;
    ap_walk_mat(w, AP_ROLE_MATRIX, S, H, "mlp.shared_expert.gate_proj.weight");
    ap_walk_mat(w, AP_ROLE_MATRIX, S, H, "mlp.shared_expert.up_proj.weight");
    ap_walk_mat(w, AP_ROLE_MATRIX, H, S, "mlp.shared_expert.down_proj.weight");
    ap_walk_mat(w, AP_ROLE_GATE_ROW, 1, H, "mlp.shared_expert_gate.weight");
}

/* ---------------------------------------------------------------- GGUF: names */

const ap_gguf_name ap_qwen3_plain_gguf_names[] = {
    {"ffn_norm.weight", "post_attention_layernorm.weight"}, {0}};

const ap_gguf_name ap_qwen3_gguf_names[] = {
    {"ffn_norm.weight", "post_attention_layernorm.weight"},
    {"attn_qkv.weight", "linear_attn.in_proj_qkv.weight"},
    {"attn_gate.weight", "linear_attn.in_proj_z.weight"},
    {"ssm_in.weight", "linear_attn.in_proj_qkvz.weight"},
    {"ssm_ba.weight", "linear_attn.in_proj_ba.weight"},
    {"ssm_beta.weight", "linear_attn.in_proj_b.weight"},
    {"ssm_alpha.weight", "linear_attn.in_proj_a.weight"},
    {"ssm_conv1d.weight", "linear_attn.conv1d.weight"},
    {"ssm_a", "linear_attn.neg_exp_A"},
    {"ssm_dt.bias", "linear_attn.dt_bias"},
    {"ssm_dt", "linear_attn.dt_bias"},
    {"ssm_norm.weight", "linear_attn.norm.weight"},
    {"ssm_out.weight", "linear_attn.out_proj.weight"},
    {"ffn_gate_inp.weight", "mlp.gate.weight"},
    {"ffn_gate_up_exps.weight", "mlp.experts.gate_up_proj"},
    {"ffn_gate_exps.weight", "mlp.experts.gate_proj"},
    {"ffn_up_exps.weight", "mlp.experts.up_proj"},
    {"ffn_down_exps.weight", "mlp.experts.down_proj"},
    {"ffn_gate_inp_shexp.weight", "mlp.shared_expert_gate.weight"},
    {"ffn_gate_shexp.weight", "mlp.shared_expert.gate_proj.weight"},
    {"ffn_up_shexp.weight", "mlp.shared_expert.up_proj.weight"},
    {"ffn_down_shexp.weight", "mlp.shared_expert.down_proj.weight"},
    {0}};

/* ---------------------------------------------------------------- GGUF: reading */

/* K/V heads of the attention layers: some writers list every layer, recurrent ones with 0. */
static int64_t kv_heads(ap_meta_in *in)
{
    const ap_gguf_value *v = ap_meta_get(in, "attention.head_count_kv");
    int64_t n = ap_meta_required(in, "attention.head_count_kv");
    for (uint64_t i = 1; v && v->is_array && n == 0 && i < v->count; i++)
        n = ap_meta_int(in, "attention.head_count_kv", i, 0);
    return n;
}

/* Angles of each axis, which pictures tell apart. */
static void sections(ap_meta_in *in, ap_buf *b)
{
    const ap_gguf_value *v = ap_meta_get(in, "rope.dimension_sections");
    if (!v || !v->is_array || v->count < 3) return;
    ap_buf_adds(b, ",\"mrope_section\":[");
    for (uint64_t i = 0; i < 3; i++)
        ap_buf_addf(b, "%s%" PRId64, i ? "," : "",
                    ap_meta_int(in, "rope.dimension_sections", i, 0));
    ap_buf_adds(b, "]");
}

static void qwen_rope(ap_meta_in *in, int64_t head_dim, ap_buf *b)
{
    int64_t rotated = ap_meta_int(in, "rope.dimension_count", 0, head_dim);
    const ap_gguf_value *type = ap_meta_get(in, "rope.scaling.type");
    ap_buf_addf(b, ",\"rope_parameters\":{\"rope_theta\":%.17g,\"partial_rotary_factor\":%.17g",
                ap_meta_num(in, "rope.freq_base", 1e7),
                head_dim > 0 ? (double)rotated / (double)head_dim : 1);
    if (type && type->type == AP_GGUF_STRING && !ap_meta_string_is(type, "none")) {
        const uint8_t *at = type->data;
        const char *s = "";
        size_t n = 0;
        ap_gguf_next_string(type, &at, &s, &n);
        ap_buf_adds(b, ",\"rope_type\":");
        ap_json_quote(b, s, n, true);
        ap_buf_addf(b, ",\"factor\":%.17g", ap_meta_num(in, "rope.scaling.factor", 1));
        ap_meta_add(b, "original_max_position_embeddings",
                    ap_meta_required(in, "rope.scaling.original_context_length"));
    } else {
        ap_buf_adds(b, ",\"rope_type\":\"default\"");
    }
    if (in->family->sections) sections(in, b);
    ap_buf_adds(b, "}");
}

void ap_qwen3_read_gguf(ap_meta_in *in, ap_buf *b)
{
    const ap_family *f = in->family;
    bool dense = !f->experts;
    if (f->gated)
        ap_meta_layer_kinds(in, "attention.recurrent_layers", "linear_attention",
                            ap_meta_int(in, "full_attention_interval", 0, 4), b);
    int64_t dim = ap_meta_required(in, "attention.key_length");
    ap_meta_add(b, "head_dim", dim);
    ap_meta_add(b, "num_key_value_heads", kv_heads(in));
    qwen_rope(in, dim, b);
    if (f->gated) {
        int64_t v_heads = ap_meta_required(in, "ssm.time_step_rank"),
                inner = ap_meta_required(in, "ssm.inner_size");
        ap_meta_add(b, "linear_num_key_heads", ap_meta_required(in, "ssm.group_count"));
        ap_meta_add(b, "linear_num_value_heads", v_heads);
        ap_meta_add(b, "linear_key_head_dim", ap_meta_required(in, "ssm.state_size"));
        ap_meta_add(b, "linear_value_head_dim", v_heads > 0 ? inner / v_heads : 0);
        ap_meta_add(b, "linear_conv_kernel_dim", ap_meta_int(in, "ssm.conv_kernel", 0, 4));
    }
    if (dense || ap_meta_get(in, "feed_forward_length"))
        ap_meta_add(b, "intermediate_size", ap_meta_int(in, "feed_forward_length", 0, 0));
    if (dense) return;
    ap_meta_add(b, "num_experts", ap_meta_required(in, "expert_count"));
    ap_meta_add(b, "num_experts_per_tok", ap_meta_required(in, "expert_used_count"));
    ap_meta_add(b, "moe_intermediate_size", ap_meta_required(in, "expert_feed_forward_length"));
    if (f->gated)
        ap_meta_add(b, "shared_expert_intermediate_size",
                    ap_meta_int(in, "expert_shared_feed_forward_length", 0,
                                ap_meta_int(in, "expert_feed_forward_length", 0, 0)));
    ap_buf_adds(b, ",\"norm_topk_prob\":true");
}

/* ---------------------------------------------------------------- GGUF: writing */

/* Sections of multi-axis rope: text has all axes equal, so any that add up will do for it. */
static void put_sections(ap_meta_out *p, const ap_fields *rope)
{
    int n = p->c->rope_full.n_angle, s[4] = {n - n / 3 - n / 3, n / 3, n / 3, 0};
    const ap_json *list = rope->o ? ap_field_array(rope, "mrope_section") : NULL;
    for (size_t i = 0; list && i < list->len && i < 3; i++)
        if (ap_json_at(list, i)->type == AP_JSON_INT) s[i] = (int)ap_json_at(list, i)->integer;
    ap_gguf_put_array(p->w, ap_meta_put_key(p, "rope.dimension_sections"), AP_GGUF_I32, 4);
    for (int i = 0; i < 4; i++) ap_gguf_add_i32(p->w, s[i]);
}

static void put_qwen_rope(ap_meta_out *p, const ap_fields *t)
{
    ap_fields f = *t;
    f.o = ap_field_object(t, ap_field(t, "rope_scaling") ? "rope_scaling" : "rope_parameters");
    double base = f.o ? ap_field_num(&f, "rope_theta", 1, 1e15, -1) : -1;
    if (base < 0) base = ap_field_num(t, "rope_theta", 1, 1e15, NAN);
    ap_meta_put_num(p, "rope.freq_base", base);
    ap_meta_put_int(p, "rope.dimension_count", 2 * (int64_t)p->c->rope_full.n_angle);
    if (p->f->sections) put_sections(p, &f);
    const char *type =
        f.o ? ap_field_str(&f, "rope_type", ap_field_str(&f, "type", "default")) : "default";
    if (!strcmp(type, "default")) return;
    static const char *const tuned[] = {"attention_factor", "beta_fast", "beta_slow",
                                        "truncate",         "mscale",    "mscale_all_dim"};
    for (size_t i = 0; i < sizeof tuned / sizeof *tuned; i++)
        if (ap_field(&f, tuned[i]))
            ap_field_fail(&f, APUS_EUNSUPPORTED, tuned[i], NULL, "cannot be told in a GGUF file");
    ap_meta_put_text(p, "rope.scaling.type", type);
    ap_meta_put_num(p, "rope.scaling.factor", ap_field_num(&f, "factor", 1e-3, 1e6, NAN));
    int64_t original =
        ap_field_int(&f, "original_max_position_embeddings", 1, 1 << 28, p->c->context);
    ap_meta_put_int(p, "rope.scaling.original_context_length",
                    ap_field_int(t, "original_max_position_embeddings", 1, 1 << 28, original));
}

/* Every interval-th layer is full, or a list that says which are not. */
static void put_recurrent(ap_meta_out *p)
{
    const ap_config *c = p->c;
    int interval = 0;
    bool regular = true;
    for (int l = 0; l < c->n_layer && !interval; l++)
        if (c->layer[l].kind == AP_LAYER_FULL) interval = l + 1;
    if (!interval) interval = c->n_layer + 1;
    ap_meta_put_int(p, "full_attention_interval", interval);
    for (int l = 0; l < c->n_layer; l++)
        regular &= (c->layer[l].kind == AP_LAYER_FULL) == ((l + 1) % interval == 0);
    if (regular) return;
    ap_gguf_put_array(p->w, ap_meta_put_key(p, "attention.recurrent_layers"), AP_GGUF_BOOL,
                      (uint64_t)c->n_layer);
    for (int l = 0; l < c->n_layer; l++)
        ap_gguf_add_bool(p->w, c->layer[l].kind == AP_LAYER_LINEAR);
}

void ap_qwen3_write_gguf(ap_meta_out *p, const ap_fields *t)
{
    const ap_config *c = p->c;
    const ap_layer_config *full = NULL;
    for (int l = 0; l < c->n_layer && !full; l++)
        if (c->layer[l].kind == AP_LAYER_FULL) full = &c->layer[l];
    int64_t dim = full ? full->head_dim : ap_field_int(t, "head_dim", 2, 1024, 256);
    ap_meta_put_int(p, "attention.head_count_kv",
                    full ? full->n_kv_head : ap_field_int(t, "num_key_value_heads", 1, 4096, 1));
    ap_meta_put_int(p, "attention.key_length", dim);
    ap_meta_put_int(p, "attention.value_length", dim);
    put_qwen_rope(p, t);
    int64_t ffn = ap_field_int(t, "intermediate_size", 1, 1 << 22, 0);
    if (ffn) ap_meta_put_int(p, "feed_forward_length", ffn);
    if (!p->f->gated) return;
    ap_meta_put_int(p, "ssm.conv_kernel", c->gdn_conv);
    ap_meta_put_int(p, "ssm.state_size", c->gdn_k_dim);
    ap_meta_put_int(p, "ssm.group_count", c->gdn_k_head);
    ap_meta_put_int(p, "ssm.time_step_rank", c->gdn_v_head);
    ap_meta_put_int(p, "ssm.inner_size", (int64_t)c->gdn_v_head * c->gdn_v_dim);
    put_recurrent(p);
    if (c->shared_ffn) ap_meta_put_int(p, "expert_shared_feed_forward_length", c->shared_ffn);
}
