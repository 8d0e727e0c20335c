#include <string.h>

#include "file/config_in.h"
#include "file/family.h"

/* What an absent key means to a class, and whether there are keys that say which layers have experts. */
typedef struct class
{
    const char *type;
    int head_dim; /* 0: hidden size / heads */
    bool experts_everywhere;
} class;

static const class classes[] = {{"qwen3_5", 256, false},
                                {"qwen3_5_moe", 256, true},
                                {"qwen3_next", 256, false},
                                {"qwen3_moe", 0, false},
                                {"qwen3", 128, false}};

static const class *class_of(const char *type)
{
    const class *k = classes;
    while (strcmp(k->type, type)) k++;
    return k;
}

static void attention(const ap_fields *t, const class *k, ap_config *c)
{
    double share = ap_family_of(c->arch)->gated ? 0.25 : 1.0; /* of a head that turns */
    int kv = (int)ap_field_int(t, "num_key_value_heads", 1, AP_CFG_MAX_HEADS, AP_REQUIRED);
    int64_t dim = ap_field_int(t, "head_dim", 2, AP_CFG_MAX_HEAD_DIM, k->head_dim);
    if (*t->err) return;
    if (!dim) {
        dim = c->hidden / c->n_head;
        if (c->hidden % c->n_head || dim < 2 || dim > AP_CFG_MAX_HEAD_DIM)
            ap_field_fail(t, APUS_EFORMAT, "head_dim", NULL,
                          "is missing, and hidden_size %d / num_attention_heads %d gives none",
                          c->hidden, c->n_head);
    }
    if (c->n_head % kv)
        ap_field_fail(t, APUS_EFORMAT, "num_key_value_heads", NULL,
                      "%d query heads cannot share %d key heads evenly", c->n_head, kv);
    for (int l = 0; l < c->n_layer; l++) {
        if (c->layer[l].kind != AP_LAYER_FULL) continue;
        c->layer[l].n_kv_head = kv;
        c->layer[l].head_dim = (int)dim;
    }
    if (!*t->err) ap_config_rope_qwen(t, (int)dim, share, c);
}

/* Head counts have no default that fits most releases, so they must be given. */
static void delta_layers(const ap_fields *t, ap_config *c)
{
    bool any = false;
    for (int l = 0; l < c->n_layer; l++) any |= c->layer[l].kind == AP_LAYER_LINEAR;
    if (!any) return;
    c->gdn_k_head = (int)ap_field_int(t, "linear_num_key_heads", 1, AP_CFG_MAX_HEADS, AP_REQUIRED);
    c->gdn_v_head =
        (int)ap_field_int(t, "linear_num_value_heads", 1, AP_CFG_MAX_HEADS, AP_REQUIRED);
    c->gdn_k_dim = (int)ap_field_int(t, "linear_key_head_dim", 1, AP_CFG_MAX_HEAD_DIM, 128);
    c->gdn_v_dim = (int)ap_field_int(t, "linear_value_head_dim", 1, AP_CFG_MAX_HEAD_DIM, 128);
    c->gdn_conv = (int)ap_field_int(t, "linear_conv_kernel_dim", 1, 64, 4);
    if (!*t->err && c->gdn_v_head % c->gdn_k_head)
        ap_field_fail(t, APUS_EFORMAT, "linear_num_value_heads", NULL,
                      "%d value heads cannot share %d key heads evenly", c->gdn_v_head,
                      c->gdn_k_head);
}

/* Layers listed in mlp_only_layers are dense. */
static void dense_list(const ap_fields *t, ap_config *c)
{
    const ap_json *list = ap_field_array(t, "mlp_only_layers");
    for (const ap_json *e = list ? list->first : NULL; e; e = e->next) {
        if (e->type != AP_JSON_INT || e->integer < 0) {
            ap_field_fail(t, APUS_EFORMAT, "mlp_only_layers", e, "expected layer numbers");
            return;
        }
        if (e->integer < c->n_layer) c->layer[e->integer].moe = false;
    }
}

static void experts(const ap_fields *t, bool all, ap_config *c)
{
    bool gated = ap_family_of(c->arch)->gated;
    const char *count =
        !gated && ap_field(t, "num_local_experts") ? "num_local_experts" : "num_experts";
    int step = all ? 1 : (int)ap_field_int(t, "decoder_sparse_step", 1, 1 << 20, 1);
    bool dense = false;
    for (int l = 0; l < c->n_layer; l++) c->layer[l].moe = (l + 1) % step == 0;
    if (!all) dense_list(t, c);
    for (int l = 0; l < c->n_layer; l++) dense |= !c->layer[l].moe;
    c->n_expert = (int)ap_field_int(t, count, 1, AP_CFG_MAX_EXPERTS, AP_REQUIRED);
    c->n_expert_used = (int)ap_field_int(t, "num_experts_per_tok", 1, c->n_expert, AP_REQUIRED);
    c->expert_ffn = (int)ap_field_int(t, "moe_intermediate_size", 1, AP_CFG_MAX_FFN, AP_REQUIRED);
    if (gated)
        c->shared_ffn =
            (int)ap_field_int(t, "shared_expert_intermediate_size", 1, AP_CFG_MAX_FFN, AP_REQUIRED);
    c->norm_topk = all || ap_field_bool(t, "norm_topk_prob", gated);
    if (!dense) return;
    int ffn = (int)ap_field_int(t, "intermediate_size", 1, AP_CFG_MAX_FFN, AP_REQUIRED);
    for (int l = 0; l < c->n_layer; l++)
        if (!c->layer[l].moe) c->layer[l].ffn = ffn;
}

/* Settings that would change the forward pass in ways that are not written. */
static void refusals(const ap_fields *t, const ap_config *c)
{
    ap_field_expect(t, "hidden_act", "silu");
    ap_field_refuse(t, "use_sliding_window");
    if (!ap_family_of(c->arch)->gated) return;
    if (!ap_field_bool(t, "attn_output_gate", true))
        ap_field_fail(t, APUS_EUNSUPPORTED, "attn_output_gate", NULL, "false is not supported");
    const char *gate = ap_field_str(t, "output_gate_type", "swish");
    if (strcmp(gate, "swish") && strcmp(gate, "silu"))
        ap_field_fail(t, APUS_EUNSUPPORTED, "output_gate_type", ap_field(t, "output_gate_type"),
                      "only \"swish\" is supported");
}

void ap_config_qwen3(const ap_fields *t, const char *type, ap_config *c)
{
    const ap_family *f = ap_family_of(c->arch);
    const class *k = class_of(type);
    ap_config_common(t, 32768, c);
    refusals(t, c);
    if (*t->err) return;
    int interval =
        f->gated ? (int)ap_field_int(t, "full_attention_interval", 1, AP_MAX_LAYERS, 4) : 1;
    ap_config_layer_types(t, f->gated ? "linear_attention" : NULL, AP_LAYER_LINEAR, interval, c);
    attention(t, k, c);
    delta_layers(t, c);
    for (int l = 0; l < c->n_layer; l++) c->layer[l].kv_donor = l;
    if (*t->err) return;
    if (f->experts) {
        experts(t, k->experts_everywhere, c);
        return;
    }
    int ffn = (int)ap_field_int(t, "intermediate_size", 1, AP_CFG_MAX_FFN, AP_REQUIRED);
    for (int l = 0; l < c->n_layer; l++) c->layer[l].ffn = ffn;
}
