#include "file/draft_head.h"

#include <stdio.h>
#include <string.h>

#include "file/config_in.h"
#include "file/family.h"

static const char *const prefixes[] = {"mtp.", "model.mtp.", "language_model.mtp.",
                                       "model.language_model.mtp."};

static const ap_tensor *find(const ap_weights *w, const char *prefix, const char *leaf)
{
    char name[256];
    snprintf(name, sizeof name, "%s%s", prefix, leaf);
    return ap_weights_find(w, name);
}

const char *ap_draft_head_prefix(const ap_weights *w)
{
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
        if (find(w, prefixes[i], "fc.weight")) return prefixes[i];
    return NULL;
}

bool ap_draft_head_shifted(const ap_weights *w)
{
    const char *prefix = ap_draft_head_prefix(w);
    size_t gguf;
    if (!prefix || !ap_weights_traits_of(w).norms_shifted) return false;
    /* Names as published are as published; converters shift what they rename. */
    return ap_weights_gguf(w, &gguf) || !strncmp(prefix, "language_model.", 15);
}

/* ---------------------------------------------------------------- its tensors */

/* What a look at them has found so far. */
typedef struct look {
    const ap_config *c;
    const ap_weights *w;
    const char *prefix;
    char fault[192]; /* the first thing that is wrong; "" = nothing */
} look;

/* A matrix [rows, cols] or, cols 0, as many values in any shape. */
static void expect(look *x, int64_t rows, int64_t cols, const char *leaf)
{
    const ap_tensor *t = find(x->w, x->prefix, leaf);
    if (x->fault[0]) return;
    if (!t)
        snprintf(x->fault, sizeof x->fault, "%s%s is missing", x->prefix, leaf);
    else if (cols ? t->rank != 2 || t->shape[0] != rows || t->shape[1] != cols
                  : ap_tensor_count(t) != rows)
        snprintf(x->fault, sizeof x->fault, "%s%s has another shape than the model asks for",
                 x->prefix, leaf);
}

static void look_at_attention(look *x, const ap_layer_config *l)
{
    int64_t H = x->c->hidden, D = l->head_dim, q = x->c->n_head * D, kv = l->n_kv_head * D;
    expect(x, 2 * q, H, "layers.0.self_attn.q_proj.weight");
    expect(x, kv, H, "layers.0.self_attn.k_proj.weight");
    expect(x, kv, H, "layers.0.self_attn.v_proj.weight");
    expect(x, H, q, "layers.0.self_attn.o_proj.weight");
    expect(x, D, 0, "layers.0.self_attn.q_norm.weight");
    expect(x, D, 0, "layers.0.self_attn.k_norm.weight");
}

static void look_at_ffn(look *x, int64_t ffn, const char *module)
{
    static const char *const part[] = {"gate_proj", "up_proj", "down_proj"};
    int64_t H = x->c->hidden;
    for (int i = 0; i < 3; i++) {
        char leaf[128];
        snprintf(leaf, sizeof leaf, "%s.%s.weight", module, part[i]);
        expect(x, i < 2 ? ffn : H, i < 2 ? H : ffn, leaf);
    }
}

/* Any of the forms that binding takes experts in, which looks at their shapes. */
static bool has_experts(const look *x)
{
    static const char *const forms[] = {"experts.gate_up_proj", "experts.gate_proj",
                                        "experts.0.gate_proj.weight",
                                        "switch_mlp.gate_proj.weight"};
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        char leaf[128];
        snprintf(leaf, sizeof leaf, "layers.0.mlp.%s", forms[i]);
        if (find(x->w, x->prefix, leaf)) return true;
    }
    return false;
}

static void look_at_mixture(look *x)
{
    const ap_config *c = x->c;
    expect(x, c->n_expert, c->hidden, "layers.0.mlp.gate.weight");
    if (c->shared_ffn) {
        look_at_ffn(x, c->shared_ffn, "layers.0.mlp.shared_expert");
        expect(x, 1, c->hidden, "layers.0.mlp.shared_expert_gate.weight");
    }
    if (!x->fault[0] && !has_experts(x))
        snprintf(x->fault, sizeof x->fault, "%slayers.0.mlp.experts is missing", x->prefix);
}

/* The feed-forward part is what its tensors are, whatever the model's layers have. */
static void look_at_feed_forward(look *x, ap_layer_config *l)
{
    const ap_tensor *gate = find(x->w, x->prefix, "layers.0.mlp.gate_proj.weight");
    l->moe = x->c->n_expert && find(x->w, x->prefix, "layers.0.mlp.gate.weight");
    l->ffn = 0;
    if (l->moe) {
        look_at_mixture(x);
        return;
    }
    if (gate && gate->rank == 2 && gate->shape[0] > 0 && gate->shape[0] <= AP_CFG_MAX_FFN)
        l->ffn = (int)gate->shape[0];
    look_at_ffn(x, l->ffn, "layers.0.mlp");
}

static void look_at_all(look *x, ap_layer_config *l)
{
    int64_t H = x->c->hidden;
    if (find(x->w, x->prefix, "layers.1.input_layernorm.weight"))
        snprintf(x->fault, sizeof x->fault, "it has several layers, expected one");
    expect(x, H, 2 * H, "fc.weight");
    expect(x, H, 0, "pre_fc_norm_embedding.weight");
    expect(x, H, 0, "pre_fc_norm_hidden.weight");
    if (find(x->w, x->prefix, "norm.weight")) expect(x, H, 0, "norm.weight");
    if (find(x->w, x->prefix, "embed_tokens.weight"))
        expect(x, x->c->vocab, H, "embed_tokens.weight");
    if (find(x->w, x->prefix, "lm_head.weight")) expect(x, x->c->vocab, H, "lm_head.weight");
    expect(x, H, 0, "layers.0.input_layernorm.weight");
    expect(x, H, 0, "layers.0.post_attention_layernorm.weight");
    look_at_attention(x, l);
    look_at_feed_forward(x, l);
}

/* Its attention is that of the model's last full layer. */
static bool full_layer(const ap_config *c, ap_layer_config *out)
{
    for (int l = c->n_layer - 1; l >= 0; l--)
        if (c->layer[l].kind == AP_LAYER_FULL) {
            *out = c->layer[l];
            out->kv_donor = 0;
            return true;
        }
    return false;
}

void ap_draft_head_find(ap_config *c, const ap_weights *w, ap_notes *notes)
{
    look x = {.c = c, .w = w, .prefix = ap_draft_head_prefix(w)};
    ap_layer_config layer;
    c->has_head = false;
    if (!x.prefix || !ap_family_of(c->arch)->gated || !full_layer(c, &layer)) return;
    look_at_all(&x, &layer);
    if (x.fault[0]) {
        char fc[64];
        snprintf(fc, sizeof fc, "%sfc.weight", x.prefix);
        ap_note(notes, "%s: the head for further tokens is left out: %s", ap_weights_file(w, fc),
                x.fault);
        return;
    }
    c->has_head = true;
    c->head = layer;
}
