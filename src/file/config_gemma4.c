#include <math.h>
#include <stdio.h>
#include <string.h>

#include "file/config_in.h"

/* Geometry of each layer: sliding values, and what differs per layer. */
typedef struct geometry {
    int kv_head, head_dim;
} geometry;

static geometry read_geometry(const ap_fields *f, geometry def)
{
    return (geometry){
        .kv_head = (int)ap_field_int(f, "num_key_value_heads", 1, AP_CFG_MAX_HEADS, def.kv_head),
        .head_dim = (int)ap_field_int(f, "head_dim", 2, AP_CFG_MAX_HEAD_DIM, def.head_dim)};
}

static void set_geometry(ap_layer_config *l, geometry g)
{
    l->n_kv_head = g.kv_head;
    l->head_dim = g.head_dim;
}

/* One entry of per_layer_config: {"05": {"head_dim": 512, "num_key_value_heads": 2}}. */
static void layer_entry(const ap_fields *t, const ap_json *e, geometry base, bool *seen,
                        ap_config *c)
{
    char prefix[96];
    int64_t l;
    if (!ap_json_int(e->key, e->key_len, &l) || e->key[0] == '-' || l >= c->n_layer || seen[l]) {
        ap_field_fail(t, APUS_EFORMAT, "per_layer_config", NULL,
                      "expected each layer below %d at most once, found \"%.40s\"", c->n_layer,
                      e->key);
        return;
    }
    seen[l] = true;
    snprintf(prefix, sizeof prefix, "%sper_layer_config.%.40s.", t->prefix, e->key);
    ap_fields f = *t;
    f.o = e;
    f.prefix = prefix;
    if (e->type != AP_JSON_OBJECT) {
        ap_field_fail(t, APUS_EFORMAT, "per_layer_config", e, "expected an object for \"%.40s\"",
                      e->key);
        return;
    }
    for (const ap_json *m = e->first; m; m = m->next)
        if (strcmp(m->key, "head_dim") && strcmp(m->key, "num_key_value_heads"))
            ap_field_fail(&f, APUS_EUNSUPPORTED, m->key, m,
                          "only head_dim and num_key_value_heads may differ between layers");
    set_geometry(&c->layer[l], read_geometry(&f, base));
}

/* Flat form: global_head_dim, and num_global_key_value_heads which counts only with K = V. */
static void flat_geometry(const ap_fields *t, geometry base, bool k_eq_v, ap_config *c)
{
    geometry full = {
        .head_dim = (int)ap_field_int(t, "global_head_dim", 2, AP_CFG_MAX_HEAD_DIM, 512),
        .kv_head =
            (int)ap_field_int(t, "num_global_key_value_heads", 1, AP_CFG_MAX_HEADS, base.kv_head)};
    if (!k_eq_v) full.kv_head = base.kv_head;
    for (int l = 0; l < c->n_layer; l++)
        if (c->layer[l].kind == AP_LAYER_FULL) set_geometry(&c->layer[l], full);
}

static const char *kind_name(ap_layer_kind k)
{
    return k == AP_LAYER_FULL ? "full_attention" : "sliding_attention";
}

/* One rope table and one page shape serve all layers of a kind. */
static void check_geometry(const ap_fields *t, const ap_config *c)
{
    const ap_layer_config *first[2] = {NULL, NULL};
    for (int l = 0; l < c->n_layer; l++) {
        const ap_layer_config *x = &c->layer[l], **f = &first[x->kind == AP_LAYER_FULL];
        if (!*f) *f = x;
        if (x->head_dim != (*f)->head_dim || x->n_kv_head != (*f)->n_kv_head)
            ap_field_fail(t, APUS_EUNSUPPORTED, "per_layer_config", NULL,
                          "%s layers differ among themselves (layer %d)", kind_name(x->kind), l);
        if (x->head_dim % 2)
            ap_field_fail(t, APUS_EFORMAT, "head_dim", NULL, "layer %d: %d is odd", l, x->head_dim);
        if (c->n_head % x->n_kv_head)
            ap_field_fail(t, APUS_EFORMAT, "num_key_value_heads", NULL,
                          "layer %d: %d query heads cannot share %d key heads evenly", l, c->n_head,
                          x->n_kv_head);
    }
}

static void layers(const ap_fields *t, ap_config *c)
{
    bool seen[AP_MAX_LAYERS] = {false}, k_eq_v = ap_field_bool(t, "attention_k_eq_v", false);
    ap_config_layer_types(t, "sliding_attention", AP_LAYER_SLIDING, 6, c);
    c->layer[c->n_layer - 1].kind = AP_LAYER_FULL; /* transformers overwrites that entry */
    geometry base = read_geometry(t, (geometry){0, 256});
    if (!base.kv_head) ap_field_fail(t, APUS_EFORMAT, "num_key_value_heads", NULL, "is missing");
    if (*t->err) return;
    for (int l = 0; l < c->n_layer; l++) {
        set_geometry(&c->layer[l], base);
        c->layer[l].k_eq_v = k_eq_v && c->layer[l].kind == AP_LAYER_FULL;
    }
    if (ap_json_get(t->o, "per_layer_config")) {
        const ap_json *map = ap_field_object(t, "per_layer_config");
        for (const ap_json *e = map ? map->first : NULL; e && !*t->err; e = e->next)
            layer_entry(t, e, base, seen, c);
    } else {
        flat_geometry(t, base, k_eq_v, c);
    }
    if (!*t->err) check_geometry(t, c);
}

/* The last `shared` layers use K/V of the last earlier layer of their kind. */
static void sharing(const ap_fields *t, ap_config *c)
{
    int n = (int)ap_field_int(t, "num_kv_shared_layers", 0, c->n_layer - 1, 0);
    int first = c->n_layer - n, donor[2] = {-1, -1};
    bool wide = ap_field_bool(t, "use_double_wide_mlp", false);
    for (int l = 0; l < c->n_layer; l++) {
        ap_layer_config *x = &c->layer[l];
        int *d = &donor[x->kind == AP_LAYER_FULL];
        if (l < first) *d = l;
        x->kv_donor = l < first ? l : *d;
        if (*d < 0)
            ap_field_fail(t, APUS_EFORMAT, "num_kv_shared_layers", NULL,
                          "layer %d has no earlier %s layer that could lend its keys", l,
                          kind_name(x->kind));
        if (l >= first && wide) x->ffn *= 2;
    }
}

static void experts(const ap_fields *t, ap_config *c)
{
    if (!ap_field_bool(t, "enable_moe_block", false)) return;
    const char *width =
        ap_field(t, "moe_intermediate_size") ? "moe_intermediate_size" : "expert_intermediate_size";
    c->n_expert = (int)ap_field_int(t, "num_experts", 1, AP_CFG_MAX_EXPERTS, AP_REQUIRED);
    c->n_expert_used = (int)ap_field_int(t, "top_k_experts", 1, c->n_expert, AP_REQUIRED);
    if (!ap_field(t, width)) width = "moe_intermediate_size";
    c->expert_ffn = (int)ap_field_int(t, width, 1, AP_CFG_MAX_FFN, AP_REQUIRED);
    c->norm_topk = true;
    for (int l = 0; l < c->n_layer; l++) c->layer[l].moe = true;
}

/* Per-layer embeddings: absent means 256 wide in the class, null none. */
static void per_layer_embeddings(const ap_fields *t, ap_config *c)
{
    bool absent = !ap_json_get(t->o, "hidden_size_per_layer_input");
    c->ple_dim =
        (int)ap_field_int(t, "hidden_size_per_layer_input", 0, AP_CFG_MAX_HIDDEN, absent ? 256 : 0);
    if (c->ple_dim)
        c->ple_vocab =
            (int)ap_field_int(t, "vocab_size_per_layer_input", 1, AP_CFG_MAX_VOCAB, 262144);
}

static void ropes(const ap_fields *t, ap_config *c)
{
    char prefix[64];
    bool sliding = false;
    int full_dim = c->layer[c->n_layer - 1].head_dim, sliding_dim = 0;
    for (int l = 0; l < c->n_layer; l++)
        if (c->layer[l].kind == AP_LAYER_SLIDING) {
            sliding = true;
            sliding_dim = c->layer[l].head_dim;
        }
    ap_fields f = *t;
    snprintf(prefix, sizeof prefix, "%srope_parameters.", t->prefix);
    f.prefix = prefix;
    f.o = ap_field_object(t, "rope_parameters");
    ap_config_rope_gemma4(&f, "full_attention", full_dim, &c->rope_full);
    if (!sliding) return;
    ap_config_rope_gemma4(&f, "sliding_attention", sliding_dim, &c->rope_sliding);
    c->window = (int)ap_field_int(t, "sliding_window", 1, AP_CFG_MAX_CONTEXT, AP_REQUIRED);
}

void ap_config_gemma4(const ap_fields *t, const char *type, ap_config *c)
{
    bool unified = !strcmp(type, "gemma4_unified");
    ap_config_common(t, unified ? 262144 : 131072, c);
    if (unified) c->media = AP_MEDIA_EMBEDDER;
    c->attn_scale = 1; /* the norms set it; there is no D^-1/2 */
    ap_field_expect(t, "hidden_activation", "gelu_pytorch_tanh");
    ap_field_expect(t, "use_bidirectional_attention", "vision");
    const char *sees =
        "use_bidirectional_attention"; /* absent: as the class has it; null: they do not */
    c->see_whole_pictures = ap_field(t, sees) || (unified && !ap_json_get(t->o, sees));
    c->softcap = (float)ap_field_num(t, "final_logit_softcapping", 1e-6, 1e9, 0);
    int ffn = (int)ap_field_int(t, "intermediate_size", 1, AP_CFG_MAX_FFN, AP_REQUIRED);
    if (*t->err) return;
    for (int l = 0; l < c->n_layer; l++) c->layer[l].ffn = ffn;
    layers(t, c);
    if (*t->err) return;
    sharing(t, c);
    ropes(t, c);
    if (unified) return; /* its text class has neither experts nor per-layer embeddings */
    experts(t, c);
    per_layer_embeddings(t, c);
}
