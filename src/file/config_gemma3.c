/* Gemma 3: one geometry for all layers, plain rope of two bases, a scale of its own for the scores. Absent
 * keys have the values of transformers' Gemma3TextConfig, as released files leave many out. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "file/config_in.h"

static void sizes(const ap_fields *t, ap_config *c)
{
    c->n_layer = (int)ap_field_int(t, "num_hidden_layers", 1, AP_MAX_LAYERS, 26);
    c->hidden = (int)ap_field_int(t, "hidden_size", 1, AP_CFG_MAX_HIDDEN, 2304);
    c->vocab = (int)ap_field_int(t, "vocab_size", 1, AP_CFG_MAX_VOCAB, 262208);
    c->n_head = (int)ap_field_int(t, "num_attention_heads", 1, AP_CFG_MAX_HEADS, 8);
    c->context = (int)ap_field_int(t, "max_position_embeddings", 1, AP_CFG_MAX_CONTEXT, 131072);
    c->norm_eps = (float)ap_field_num(t, "rms_norm_eps", 0, 1, 1e-6);
    c->softcap = (float)ap_field_num(t, "final_logit_softcapping", 1e-6, 1e9, 0);
    double scalar = ap_field_num(t, "query_pre_attn_scalar", 1e-3, 1e9, 256);
    c->attn_scale = (float)(1 / sqrt(scalar));
}

static void refusals(const ap_fields *t)
{
    ap_field_expect(t, "hidden_activation", "gelu_pytorch_tanh");
    ap_field_refuse(t, "attention_bias");
    ap_field_refuse(t, "use_bidirectional_attention");
    if (ap_field(t, "attn_logit_softcapping"))
        ap_field_fail(t, APUS_EUNSUPPORTED, "attn_logit_softcapping",
                      ap_field(t, "attn_logit_softcapping"), "only null is supported");
}

static void layers(const ap_fields *t, ap_config *c)
{
    int kv = (int)ap_field_int(t, "num_key_value_heads", 1, AP_CFG_MAX_HEADS, 4);
    int dim = (int)ap_field_int(t, "head_dim", 2, AP_CFG_MAX_HEAD_DIM, 256);
    int ffn = (int)ap_field_int(t, "intermediate_size", 1, AP_CFG_MAX_FFN, 9216);
    const char *name = ap_field(t, "sliding_window_pattern") ? "sliding_window_pattern"
                                                             : "_sliding_window_pattern";
    int every = (int)ap_field_int(t, name, 1, AP_MAX_LAYERS, 6);
    if (*t->err) return;
    ap_config_layer_types(t, "sliding_attention", AP_LAYER_SLIDING, every, c);
    if (dim % 2 || c->n_head % kv)
        ap_field_fail(t, APUS_EFORMAT, dim % 2 ? "head_dim" : "num_key_value_heads", NULL,
                      "%d query heads of %d dimensions cannot share %d key heads", c->n_head, dim,
                      kv);
    for (int l = 0; l < c->n_layer; l++) {
        ap_layer_config *x = &c->layer[l];
        x->n_kv_head = kv;
        x->head_dim = dim;
        x->kv_donor = l;
        x->ffn = ffn;
        if (x->kind == AP_LAYER_SLIDING)
            c->window = (int)ap_field_int(t, "sliding_window", 1, AP_CFG_MAX_CONTEXT, 4096);
    }
}

/* {"rope_type": "linear", "factor": 8}, or none. */
static void rope(const ap_fields *dict, double base, int dim, ap_rope *out)
{
    double factor = 1;
    if (dict->o) {
        const char *type = ap_field_str(dict, "rope_type", ap_field_str(dict, "type", "default"));
        base = ap_field_num(dict, "rope_theta", 1.0001, 1e15, base);
        if (!strcmp(type, "linear"))
            factor = ap_field_num(dict, "factor", 1e-3, 1e6, NAN);
        else if (strcmp(type, "default"))
            ap_field_fail(dict, APUS_EUNSUPPORTED, "rope_type", NULL,
                          "\"%.60s\" is not supported, only \"default\" and \"linear\"", type);
    }
    out->n_angle = out->pair_offset = dim / 2;
    out->attention_factor = 1;
    ap_rope_frequencies(base, dim, dim / 2, out->inv_freq);
    for (int i = 0; i < dim / 2; i++) out->inv_freq[i] /= (float)factor;
}

/* rope_parameters with a dict for each kind of layer, or the older rope_theta, rope_local_base_freq and
 * rope_scaling, which is of full layers only. */
static void ropes(const ap_fields *t, ap_config *c)
{
    static const char *const kinds[] = {"full_attention", "sliding_attention"};
    ap_rope *const out[] = {&c->rope_full, &c->rope_sliding};
    const double base[] = {ap_field_num(t, "rope_theta", 1.0001, 1e15, 1e6),
                           ap_field_num(t, "rope_local_base_freq", 1.0001, 1e15, 1e4)};
    ap_fields all = *t;
    all.prefix = "rope_parameters.";
    all.o = ap_field_object(t, "rope_parameters");
    for (int i = 0; i < 2 && !*t->err; i++) {
        ap_fields f = *t;
        f.prefix = all.o ? "rope_parameters." : "rope_scaling.";
        f.o = all.o ? ap_field_object(&all, kinds[i])
              : i   ? NULL
                    : ap_field_object(t, "rope_scaling");
        if (i == 0 || c->window) rope(&f, base[i], c->layer[0].head_dim, out[i]);
    }
}

void ap_config_gemma3(const ap_fields *t, const char *type, ap_config *c)
{
    (void)type;
    sizes(t, c);
    refusals(t);
    layers(t, c);
    if (!*t->err) ropes(t, c);
}
