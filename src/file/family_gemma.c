/* family_gemma.c - Gemma 4 and 3 in files: the tensors of their text models, and GGUF's names and keys. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "file/family_in.h"

/* ---------------------------------------------------------------- tensors */

void ap_gemma_layer_tensors(ap_tensor_walk *w, const ap_layer_config *lc)
{
    const ap_config *c = w->c;
    int64_t H = c->hidden, D = lc->head_dim, G = lc->n_kv_head, P = c->ple_dim;
    ap_tensor_role norm = ap_walk_norm(w), qk_norm = w->f->norm_offset ? norm : AP_ROLE_QK_NORM;
    ap_walk_vec(w, norm, H, "input_layernorm.weight");
    ap_walk_mat(w, AP_ROLE_MATRIX, c->n_head * D, H, "self_attn.q_proj.weight");
    ap_walk_vec(w, qk_norm, D, "self_attn.q_norm.weight");
    if (lc->kv_donor == w->layer) {
        ap_walk_mat(w, AP_ROLE_MATRIX, G * D, H, "self_attn.k_proj.weight");
        ap_walk_vec(w, qk_norm, D, "self_attn.k_norm.weight");
        if (!lc->k_eq_v) ap_walk_mat(w, AP_ROLE_MATRIX, G * D, H, "self_attn.v_proj.weight");
    }
    ap_walk_mat(w, AP_ROLE_MATRIX, H, c->n_head * D, "self_attn.o_proj.weight");
    ap_walk_vec(w, norm, H, "post_attention_layernorm.weight");
    ap_walk_vec(w, norm, H, "pre_feedforward_layernorm.weight");
    ap_walk_dense(w, lc->ffn);
    if (lc->moe) {
        ap_walk_vec(w, AP_ROLE_NORM, H, "post_feedforward_layernorm_1.weight");
        ap_walk_vec(w, AP_ROLE_NORM, H, "pre_feedforward_layernorm_2.weight");
        ap_walk_vec(w, AP_ROLE_NORM, H, "post_feedforward_layernorm_2.weight");
        ap_walk_mat(w, AP_ROLE_ROUTER_UNIT, c->n_expert, H, "router.proj.weight");
        ap_walk_vec(w, AP_ROLE_NORM, H, "router.scale");
        ap_walk_vec(w, AP_ROLE_SCALE, c->n_expert, "router.per_expert_scale");
        ap_walk_experts(w, "experts.gate_up_proj", "experts.down_proj");
    }
    ap_walk_vec(w, norm, H, "post_feedforward_layernorm.weight");
    if (P) {
        ap_walk_mat(w, AP_ROLE_MATRIX, P, H, "per_layer_input_gate.weight");
        ap_walk_mat(w, AP_ROLE_MATRIX, H, P, "per_layer_projection.weight");
        ap_walk_vec(w, AP_ROLE_NORM, H, "post_per_layer_input_norm.weight");
    }
    if (w->f->layer_scalar) ap_walk_vec(w, AP_ROLE_SCALE, 1, "layer_scalar");
}

void ap_gemma_tensors_outside(ap_tensor_walk *w)
{
    const ap_config *c = w->c;
    int64_t width = (int64_t)c->n_layer * c->ple_dim;
    if (!c->ple_dim) return;
    ap_walk_mat(w, AP_ROLE_PLE_EMBED, c->ple_vocab, width, "embed_tokens_per_layer.weight");
    ap_walk_mat(w, AP_ROLE_MATRIX, width, c->hidden, "per_layer_model_projection.weight");
    ap_walk_vec(w, AP_ROLE_NORM, c->ple_dim, "per_layer_projection_norm.weight");
}

/* ---------------------------------------------------------------- GGUF: names */

const ap_gguf_name ap_gemma_gguf_names[] = {
    {"ffn_norm.weight", "pre_feedforward_layernorm.weight"},
    {"post_ffw_norm.weight", "post_feedforward_layernorm.weight"},
    {"layer_output_scale.weight", "layer_scalar"},
    {"inp_gate.weight", "per_layer_input_gate.weight"},
    {"proj.weight", "per_layer_projection.weight"},
    {"post_norm.weight", "post_per_layer_input_norm.weight"},
    {"ffn_gate_inp.weight", "router.proj.weight"},
    {"ffn_gate_inp.scale", "router.scale"},
    {"ffn_gate_up_exps.weight", "experts.gate_up_proj"},
    {"ffn_gate_exps.weight", "experts.gate_proj"},
    {"ffn_up_exps.weight", "experts.up_proj"},
    {"ffn_down_exps.weight", "experts.down_proj"},
    {"ffn_down_exps.scale", "router.per_expert_scale"},
    {"pre_ffw_norm_2.weight", "pre_feedforward_layernorm_2.weight"},
    {"post_ffw_norm_1.weight", "post_feedforward_layernorm_1.weight"},
    {"post_ffw_norm_2.weight", "post_feedforward_layernorm_2.weight"},
    {0}};

/* ---------------------------------------------------------------- GGUF: reading */

/* Every sixth layer is full, unless a list says otherwise. */
static void layer_kinds(ap_meta_in *in, ap_buf *b)
{
    ap_meta_layer_kinds(in, "attention.sliding_window_pattern", "sliding_attention", 6, b);
}

/* Does a divisor stop its angle? 1e30 does, and what is left of it in 16 bits. */
static bool is_still(float divisor, ap_dtype stored)
{
    return divisor >= (stored == AP_F16 ? 6e4f : 1e29f);
}

/* Share of a full layer's dims that rope_freqs leaves turning: divisors are 1 or out of reach. */
static double rotated_share(ap_meta_in *in, int64_t head_dim)
{
    const ap_gguf_tensor *t = ap_meta_tensor(in, "rope_freqs.weight");
    if (!t) {
        if (!in->err)
            in->err = ap_fail(in->diag, APUS_EFORMAT, "%s: tensor \"rope_freqs.weight\" is missing",
                              in->part[0]->name);
        return 1;
    }
    int64_t n = ap_tensor_count(&t->tensor), turning = 0;
    ap_dtype type = t->tensor.dtype;
    bool ok = (type == AP_F32 || type == AP_F16 || type == AP_BF16) && n == head_dim / 2;
    for (int64_t i = 0; ok && i < n; i++) {
        float f;
        ap_to_f32(type, (const uint8_t *)t->tensor.data + (size_t)i * ap_dtype_bytes(type), &f, 1);
        if (f == 1.0f && turning == i)
            turning++;
        else
            ok = is_still(f, type);
    }
    if (!ok && !in->err)
        in->err = ap_fail(in->diag, APUS_EUNSUPPORTED,
                          "%s: tensor \"rope_freqs.weight\": expected %" PRId64
                          " divisors in f32, f16 or bf16, ones and then 1e30",
                          in->part[0]->name, head_dim / 2);
    return 2.0 * (double)turning / (double)head_dim;
}

void ap_gemma4_read_gguf(ap_meta_in *in, ap_buf *b)
{
    int64_t layers = in->layers;
    layer_kinds(in, b);
    int64_t dim = ap_meta_required(in, "attention.key_length"),
            swa = ap_meta_int(in, "attention.key_length_swa", 0, dim);
    const ap_gguf_value *pattern = ap_meta_get(in, "attention.sliding_window_pattern");
    int64_t sliding_kv = -1, first_full = -1;
    ap_buf full = {0};
    for (int64_t l = 0; l < layers && !in->err; l++) {
        int64_t is_sliding = (l + 1) % 6 != 0,
                kv = ap_meta_int(in, "attention.head_count_kv", (uint64_t)l, 0);
        if (pattern && pattern->is_array) ap_gguf_int(pattern, (uint64_t)l, &is_sliding);
        if (is_sliding) {
            sliding_kv = kv;
            continue;
        }
        ap_buf_addf(&full,
                    "%s\"%" PRId64 "\":{\"head_dim\":%" PRId64 ",\"num_key_value_heads\":%" PRId64
                    "}",
                    first_full >= 0 ? "," : "", l, dim, kv);
        if (first_full < 0) first_full = l;
    }
    char name[64];
    snprintf(name, sizeof name, "blk.%" PRId64 ".attn_v.weight", first_full);
    bool k_eq_v = first_full >= 0 && !ap_meta_tensor(in, name);
    int64_t ffn = ap_meta_int(in, "feed_forward_length", 0, 0);
    int64_t last = ap_meta_int(in, "feed_forward_length", (uint64_t)layers - 1, ffn);
    if (sliding_kv < 0) sliding_kv = ap_meta_int(in, "attention.head_count_kv", 0, 1);
    ap_meta_add(b, "head_dim", swa);
    ap_meta_add(b, "num_key_value_heads", sliding_kv);
    ap_buf_addf(b, ",\"per_layer_config\":{%s},\"attention_k_eq_v\":%s", full.data ? full.data : "",
                k_eq_v ? "true" : "false");
    b->failed |= full.failed;
    ap_buf_free(&full);
    ap_meta_add(b, "intermediate_size", ffn);
    ap_buf_addf(b, ",\"use_double_wide_mlp\":%s", last == 2 * ffn ? "true" : "false");
    ap_meta_add(b, "num_kv_shared_layers", ap_meta_int(in, "attention.shared_kv_layers", 0, 0));
    ap_meta_add(b, "sliding_window", ap_meta_int(in, "attention.sliding_window", 0, 1024));
    int64_t ple = ap_meta_int(in, "embedding_length_per_layer_input", 0, 0);
    ap_meta_add(b, "hidden_size_per_layer_input", ple);
    if (ple) {
        const ap_gguf_tensor *t = ap_meta_tensor(in, "per_layer_token_embd.weight");
        ap_meta_add(b, "vocab_size_per_layer_input", t ? t->tensor.shape[0] : 0);
    }
    int64_t experts = ap_meta_int(in, "expert_count", 0, 0);
    ap_buf_addf(b, ",\"enable_moe_block\":%s", experts ? "true" : "false");
    if (experts) {
        ap_meta_add(b, "num_experts", experts);
        ap_meta_add(b, "top_k_experts", ap_meta_required(in, "expert_used_count"));
        ap_meta_add(b, "moe_intermediate_size", ap_meta_required(in, "expert_feed_forward_length"));
    }
    /* No key tells it; those with per-layer embeddings alone see a picture as they read text. */
    if (!ap_meta_int(in, "embedding_length_per_layer_input", 0, 0))
        ap_buf_adds(b, ",\"use_bidirectional_attention\":\"vision\"");
    ap_buf_addf(b, ",\"final_logit_softcapping\":%.9g",
                ap_meta_num(in, "final_logit_softcapping", 30));
    ap_buf_addf(b,
                ",\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"proportional\",\"rope_"
                "theta\":%.17g,"
                "\"partial_rotary_factor\":%.17g},\"sliding_attention\":{\"rope_type\":\"default\","
                "\"rope_theta\":%.17g}}",
                ap_meta_num(in, "rope.freq_base", 1e6), rotated_share(in, dim),
                ap_meta_num(in, "rope.freq_base_swa", 1e4));
}

void ap_gemma3_read_gguf(ap_meta_in *in, ap_buf *b)
{
    layer_kinds(in, b);
    int64_t dim = ap_meta_int(in, "attention.key_length", 0, 256);
    int64_t heads = ap_meta_required(in, "attention.head_count"),
            hidden = ap_meta_required(in, "embedding_length");
    double factor = ap_meta_num(in, "rope.scaling.factor", 1),
           cap = ap_meta_num(in, "final_logit_softcapping", 0);
    ap_meta_add(b, "head_dim", dim);
    ap_meta_add(b, "num_key_value_heads", ap_meta_required(in, "attention.head_count_kv"));
    ap_meta_add(b, "intermediate_size", ap_meta_required(in, "feed_forward_length"));
    ap_meta_add(b, "sliding_window", ap_meta_required(in, "attention.sliding_window"));
    /* No key tells the scale; the 27B alone takes another than the head's size. */
    ap_meta_add(b, "query_pre_attn_scalar", in->layers == 62 && heads > 0 ? hidden / heads : dim);
    if (cap > 0) ap_buf_addf(b, ",\"final_logit_softcapping\":%.9g", cap);
    ap_buf_addf(
        b,
        ",\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"linear\",\"factor\":%.17g,"
        "\"rope_theta\":%.17g},\"sliding_attention\":{\"rope_type\":\"default\","
        "\"rope_theta\":%.17g}}",
        factor, ap_meta_num(in, "rope.freq_base", 1e6), ap_meta_num(in, "rope.freq_base_swa", 1e4));
}

/* ---------------------------------------------------------------- GGUF: writing */

/* One number if all layers agree, else a list. */
static void per_layer(ap_meta_out *p, const char *leaf, int (*get)(const ap_layer_config *))
{
    const ap_config *c = p->c;
    bool same = true;
    for (int l = 1; l < c->n_layer; l++) same &= get(&c->layer[l]) == get(&c->layer[0]);
    if (same) {
        ap_meta_put_int(p, leaf, get(&c->layer[0]));
        return;
    }
    ap_gguf_put_array(p->w, ap_meta_put_key(p, leaf), AP_GGUF_I32, (uint64_t)c->n_layer);
    for (int l = 0; l < c->n_layer; l++) ap_gguf_add_i32(p->w, get(&c->layer[l]));
}

static int kv_heads_of(const ap_layer_config *l)
{
    return l->n_kv_head;
}

static int ffn_of(const ap_layer_config *l)
{
    return l->ffn;
}

/* Base of the angles of one layer type; the class's default if the file names none. */
static double gemma_base(const ap_fields *t, const char *kind, double def)
{
    ap_fields f = *t, g = *t;
    f.o = ap_field_object(t, "rope_parameters");
    g.o = f.o ? ap_field_object(&f, kind) : NULL;
    return g.o ? ap_field_num(&g, "rope_theta", 1, 1e15, def) : def;
}

void ap_gemma4_write_gguf(ap_meta_out *p, const ap_fields *t)
{
    const ap_config *c = p->c;
    if (c->softcap == 0)
        ap_field_fail(t, APUS_EUNSUPPORTED, "final_logit_softcapping", NULL,
                      "a GGUF file cannot say that there is none");
    int full = c->layer[c->n_layer - 1].head_dim, sliding = full, shared = 0;
    for (int l = 0; l < c->n_layer; l++) {
        if (c->layer[l].kind == AP_LAYER_SLIDING) sliding = c->layer[l].head_dim;
        shared += c->layer[l].kv_donor != l;
    }
    per_layer(p, "attention.head_count_kv", kv_heads_of);
    ap_meta_put_int(p, "attention.key_length", full);
    ap_meta_put_int(p, "attention.value_length", full);
    ap_meta_put_int(p, "attention.key_length_swa", sliding);
    ap_meta_put_int(p, "attention.value_length_swa", sliding);
    ap_meta_put_int(p, "attention.sliding_window", c->window);
    ap_gguf_put_array(p->w, ap_meta_put_key(p, "attention.sliding_window_pattern"), AP_GGUF_BOOL,
                      (uint64_t)c->n_layer);
    for (int l = 0; l < c->n_layer; l++)
        ap_gguf_add_bool(p->w, c->layer[l].kind == AP_LAYER_SLIDING);
    ap_meta_put_int(p, "attention.shared_kv_layers", shared);
    per_layer(p, "feed_forward_length", ffn_of);
    ap_meta_put_int(p, "embedding_length_per_layer_input", c->ple_dim);
    ap_meta_put_int(p, "rope.dimension_count", full);
    ap_meta_put_int(p, "rope.dimension_count_swa", sliding);
    ap_meta_put_num(p, "rope.freq_base", gemma_base(t, "full_attention", 1e6));
    ap_meta_put_num(p, "rope.freq_base_swa", gemma_base(t, "sliding_attention", 1e4));
    ap_meta_put_num(p, "final_logit_softcapping", (double)c->softcap);
}

/* What the reader would take for the scale of the scores is the size of a head, but in the 27B. */
static void check_scale(const ap_fields *t, const ap_config *c)
{
    double scalar = 1 / ((double)c->attn_scale * (double)c->attn_scale);
    int64_t told = c->n_layer == 62 ? c->hidden / c->n_head : c->layer[0].head_dim;
    if (fabs(scalar - (double)told) > 1e-3 * scalar)
        ap_field_fail(t, APUS_EUNSUPPORTED, "query_pre_attn_scalar", NULL,
                      "a GGUF file cannot say any but the size of a head");
}

void ap_gemma3_write_gguf(ap_meta_out *p, const ap_fields *t)
{
    const ap_config *c = p->c;
    check_scale(t, c);
    double factor = 1 / (double)c->rope_full.inv_freq[0];
    double full = ap_field_num(t, "rope_theta", 1, 1e15, 1e6);
    double sliding = ap_field_num(t, "rope_local_base_freq", 1, 1e15, 1e4);
    ap_meta_put_int(p, "attention.head_count_kv", c->layer[0].n_kv_head);
    ap_meta_put_int(p, "attention.key_length", c->layer[0].head_dim);
    ap_meta_put_int(p, "attention.value_length", c->layer[0].head_dim);
    ap_meta_put_int(p, "attention.sliding_window", c->window);
    ap_gguf_put_array(p->w, ap_meta_put_key(p, "attention.sliding_window_pattern"), AP_GGUF_BOOL,
                      (uint64_t)c->n_layer);
    for (int l = 0; l < c->n_layer; l++)
        ap_gguf_add_bool(p->w, c->layer[l].kind == AP_LAYER_SLIDING);
    ap_meta_put_int(p, "feed_forward_length", c->layer[0].ffn);
    ap_meta_put_num(p, "rope.freq_base", gemma_base(t, "full_attention", full));
    if (fabs(factor - 1) > 1e-6) {
        ap_meta_put_text(p, "rope.scaling.type", "linear");
        ap_meta_put_num(p, "rope.scaling.factor", factor);
    }
    ap_meta_put_num(p, "rope.freq_base_swa", gemma_base(t, "sliding_attention", sliding));
    if (c->softcap > 0) ap_meta_put_num(p, "final_logit_softcapping", (double)c->softcap);
}
