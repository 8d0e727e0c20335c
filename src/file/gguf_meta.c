#include "file/gguf_meta.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "file/fields.h"
#include "file/gguf_layout.h"

#define MAX_TREE_BYTES ((size_t)256 << 20)

/* Puts keys below the architecture's prefix. */
typedef struct put {
    ap_gguf_writer *w;
    const char *arch;
    const ap_config *c;
    char key[128];
} put;

static const char *key_of(put *p, const char *leaf)
{
    snprintf(p->key, sizeof p->key, "%s.%s", p->arch, leaf);
    return p->key;
}

static void number(put *p, const char *leaf, int64_t v)
{
    ap_gguf_put_u32(p->w, key_of(p, leaf), (uint32_t)v);
}

static void real(put *p, const char *leaf, double v)
{
    ap_gguf_put_f32(p->w, key_of(p, leaf), (float)v);
}

static void text(ap_gguf_writer *w, const char *key, const char *s)
{
    ap_gguf_put_string(w, key, s, strlen(s));
}

/* What other programs call the mixture; they show it and do nothing by it. */
static int file_type(ap_dtype most)
{
    static const struct {
        ap_dtype type;
        int number;
    } known[] = {{AP_F32, 0},     {AP_F16, 1},     {AP_Q4_0, 2},  {AP_Q4_1, 3},
                 {AP_Q8_0, 7},    {AP_Q5_0, 8},    {AP_Q5_1, 9},  {AP_Q2_K, 10},
                 {AP_Q3_K, 12},   {AP_Q4_K, 15},   {AP_Q5_K, 17}, {AP_Q6_K, 18},
                 {AP_IQ4_NL, 25}, {AP_IQ4_XS, 30}, {AP_BF16, 32}, {AP_MXFP4, 38}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].type == most) return known[i].number;
    return 1024; /* guessed */
}

/* ---------------------------------------------------------------- Gemma 4 */

/* One number if all layers agree, else a list. */
static void per_layer(put *p, const char *leaf, int (*get)(const ap_layer_config *))
{
    const ap_config *c = p->c;
    bool same = true;
    for (int l = 1; l < c->n_layer; l++) same &= get(&c->layer[l]) == get(&c->layer[0]);
    if (same) {
        number(p, leaf, get(&c->layer[0]));
        return;
    }
    ap_gguf_put_array(p->w, key_of(p, leaf), AP_GGUF_I32, (uint64_t)c->n_layer);
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

static void put_gemma(put *p, const ap_fields *t)
{
    const ap_config *c = p->c;
    int full = c->layer[c->n_layer - 1].head_dim, sliding = full, shared = 0;
    for (int l = 0; l < c->n_layer; l++) {
        if (c->layer[l].kind == AP_LAYER_SLIDING) sliding = c->layer[l].head_dim;
        shared += c->layer[l].kv_donor != l;
    }
    per_layer(p, "attention.head_count_kv", kv_heads_of);
    number(p, "attention.key_length", full);
    number(p, "attention.value_length", full);
    number(p, "attention.key_length_swa", sliding);
    number(p, "attention.value_length_swa", sliding);
    number(p, "attention.sliding_window", c->window);
    ap_gguf_put_array(p->w, key_of(p, "attention.sliding_window_pattern"), AP_GGUF_BOOL,
                      (uint64_t)c->n_layer);
    for (int l = 0; l < c->n_layer; l++)
        ap_gguf_add_bool(p->w, c->layer[l].kind == AP_LAYER_SLIDING);
    number(p, "attention.shared_kv_layers", shared);
    per_layer(p, "feed_forward_length", ffn_of);
    number(p, "embedding_length_per_layer_input", c->ple_dim);
    number(p, "rope.dimension_count", full);
    number(p, "rope.dimension_count_swa", sliding);
    real(p, "rope.freq_base", gemma_base(t, "full_attention", 1e6));
    real(p, "rope.freq_base_swa", gemma_base(t, "sliding_attention", 1e4));
    real(p, "final_logit_softcapping", (double)c->softcap);
}

static void put_gemma3(put *p, const ap_fields *t)
{
    const ap_config *c = p->c;
    double factor = 1 / (double)c->rope_full.inv_freq[0];
    double full = ap_field_num(t, "rope_theta", 1, 1e15, 1e6);
    double sliding = ap_field_num(t, "rope_local_base_freq", 1, 1e15, 1e4);
    number(p, "attention.head_count_kv", c->layer[0].n_kv_head);
    number(p, "attention.key_length", c->layer[0].head_dim);
    number(p, "attention.value_length", c->layer[0].head_dim);
    number(p, "attention.sliding_window", c->window);
    ap_gguf_put_array(p->w, key_of(p, "attention.sliding_window_pattern"), AP_GGUF_BOOL,
                      (uint64_t)c->n_layer);
    for (int l = 0; l < c->n_layer; l++)
        ap_gguf_add_bool(p->w, c->layer[l].kind == AP_LAYER_SLIDING);
    number(p, "feed_forward_length", c->layer[0].ffn);
    real(p, "rope.freq_base", gemma_base(t, "full_attention", full));
    if (fabs(factor - 1) > 1e-6) {
        text(p->w, key_of(p, "rope.scaling.type"), "linear");
        real(p, "rope.scaling.factor", factor);
    }
    real(p, "rope.freq_base_swa", gemma_base(t, "sliding_attention", sliding));
    if (c->softcap > 0) real(p, "final_logit_softcapping", (double)c->softcap);
}

/* ---------------------------------------------------------------- Qwen */

/* Sections of multi-axis rope: text has all axes equal, so any that add up will do for it. */
static void put_sections(put *p, const ap_fields *rope)
{
    int n = p->c->rope_full.n_angle, s[4] = {n - n / 3 - n / 3, n / 3, n / 3, 0};
    const ap_json *list = rope->o ? ap_field_array(rope, "mrope_section") : NULL;
    for (size_t i = 0; list && i < list->len && i < 3; i++)
        if (ap_json_at(list, i)->type == AP_JSON_INT) s[i] = (int)ap_json_at(list, i)->integer;
    ap_gguf_put_array(p->w, key_of(p, "rope.dimension_sections"), AP_GGUF_I32, 4);
    for (int i = 0; i < 4; i++) ap_gguf_add_i32(p->w, s[i]);
}

static void put_qwen_rope(put *p, const ap_fields *t)
{
    ap_fields f = *t;
    f.o = ap_field_object(t, ap_field(t, "rope_scaling") ? "rope_scaling" : "rope_parameters");
    double base = f.o ? ap_field_num(&f, "rope_theta", 1, 1e15, -1) : -1;
    if (base < 0) base = ap_field_num(t, "rope_theta", 1, 1e15, NAN);
    real(p, "rope.freq_base", base);
    number(p, "rope.dimension_count", 2 * (int64_t)p->c->rope_full.n_angle);
    if (p->c->arch == AP_ARCH_QWEN3_5 || p->c->arch == AP_ARCH_QWEN3_5_MOE) put_sections(p, &f);
    const char *type =
        f.o ? ap_field_str(&f, "rope_type", ap_field_str(&f, "type", "default")) : "default";
    if (!strcmp(type, "default")) return;
    static const char *const tuned[] = {"attention_factor", "beta_fast", "beta_slow",
                                        "truncate",         "mscale",    "mscale_all_dim"};
    for (size_t i = 0; i < sizeof tuned / sizeof *tuned; i++)
        if (ap_field(&f, tuned[i]))
            ap_field_fail(&f, APUS_EUNSUPPORTED, tuned[i], NULL, "cannot be told in a GGUF file");
    text(p->w, key_of(p, "rope.scaling.type"), type);
    real(p, "rope.scaling.factor", ap_field_num(&f, "factor", 1e-3, 1e6, NAN));
    int64_t original =
        ap_field_int(&f, "original_max_position_embeddings", 1, 1 << 28, p->c->context);
    number(p, "rope.scaling.original_context_length",
           ap_field_int(t, "original_max_position_embeddings", 1, 1 << 28, original));
}

/* Every interval-th layer is full, or a list that says which are not. */
static void put_recurrent(put *p)
{
    const ap_config *c = p->c;
    int interval = 0;
    bool regular = true;
    for (int l = 0; l < c->n_layer && !interval; l++)
        if (c->layer[l].kind == AP_LAYER_FULL) interval = l + 1;
    if (!interval) interval = c->n_layer + 1;
    number(p, "full_attention_interval", interval);
    for (int l = 0; l < c->n_layer; l++)
        regular &= (c->layer[l].kind == AP_LAYER_FULL) == ((l + 1) % interval == 0);
    if (regular) return;
    ap_gguf_put_array(p->w, key_of(p, "attention.recurrent_layers"), AP_GGUF_BOOL,
                      (uint64_t)c->n_layer);
    for (int l = 0; l < c->n_layer; l++)
        ap_gguf_add_bool(p->w, c->layer[l].kind == AP_LAYER_LINEAR);
}

static void put_qwen(put *p, const ap_fields *t)
{
    const ap_config *c = p->c;
    const ap_layer_config *full = NULL;
    for (int l = 0; l < c->n_layer && !full; l++)
        if (c->layer[l].kind == AP_LAYER_FULL) full = &c->layer[l];
    int64_t dim = full ? full->head_dim : ap_field_int(t, "head_dim", 2, 1024, 256);
    number(p, "attention.head_count_kv",
           full ? full->n_kv_head : ap_field_int(t, "num_key_value_heads", 1, 4096, 1));
    number(p, "attention.key_length", dim);
    number(p, "attention.value_length", dim);
    put_qwen_rope(p, t);
    int64_t ffn = ap_field_int(t, "intermediate_size", 1, 1 << 22, 0);
    if (ffn) number(p, "feed_forward_length", ffn);
    if (ap_arch_is_plain_qwen(c->arch)) return;
    number(p, "ssm.conv_kernel", c->gdn_conv);
    number(p, "ssm.state_size", c->gdn_k_dim);
    number(p, "ssm.group_count", c->gdn_k_head);
    number(p, "ssm.time_step_rank", c->gdn_v_head);
    number(p, "ssm.inner_size", (int64_t)c->gdn_v_head * c->gdn_v_dim);
    put_recurrent(p);
    if (c->shared_ffn) number(p, "expert_shared_feed_forward_length", c->shared_ffn);
}

/* ---------------------------------------------------------------- both */

/* What the reader of GGUF files would not find again. */
static void check(const ap_fields *t, const ap_config *c)
{
    bool gemma = c->arch == AP_ARCH_GEMMA4, moe = false, dense = false;
    double scalar = 1 / ((double)c->attn_scale * (double)c->attn_scale);
    int64_t told = c->n_layer == 62 ? c->hidden / c->n_head : c->layer[0].head_dim;
    if (c->arch == AP_ARCH_GEMMA3 && fabs(scalar - (double)told) > 1e-3 * scalar)
        ap_field_fail(t, APUS_EUNSUPPORTED, "query_pre_attn_scalar", NULL,
                      "a GGUF file cannot say any but the size of a head");
    for (int l = 0; l < c->n_layer; l++) *(c->layer[l].moe ? &moe : &dense) = true;
    if (gemma && c->softcap == 0)
        ap_field_fail(t, APUS_EUNSUPPORTED, "final_logit_softcapping", NULL,
                      "a GGUF file cannot say that there is none");
    if (moe && dense)
        ap_field_fail(t, APUS_EUNSUPPORTED, "mlp_only_layers", NULL,
                      "a GGUF file has experts in every layer or in none");
    if (moe && !c->norm_topk)
        ap_field_fail(t, APUS_EUNSUPPORTED, "norm_topk_prob", NULL,
                      "a GGUF file cannot say that weights of experts are not normalised");
}

/* What generation_config.json advises, and the ids never to generate. */
static void put_generation(put *p)
{
    const ap_config *c = p->c;
    ap_gguf_writer *w = p->w;
    float temp = c->do_sample ? c->temperature : 0;
    if (c->top_k >= 0) ap_gguf_put_i32(w, "general.sampling.top_k", c->top_k);
    if (c->top_p >= 0) ap_gguf_put_f32(w, "general.sampling.top_p", c->top_p);
    if (c->min_p >= 0) ap_gguf_put_f32(w, "general.sampling.min_p", c->min_p);
    if (temp >= 0) ap_gguf_put_f32(w, "general.sampling.temp", temp);
    if (c->repetition_penalty > 0) {
        ap_gguf_put_i32(w, "general.sampling.penalty_last_n",
                        c->penalty_last > 0 ? c->penalty_last : -1);
        ap_gguf_put_f32(w, "general.sampling.penalty_repeat", c->repetition_penalty);
    }
    if (!c->n_suppress) return;
    ap_gguf_put_array(w, "tokenizer.ggml.suppress_tokens", AP_GGUF_I32, (uint64_t)c->n_suppress);
    for (int i = 0; i < c->n_suppress; i++) ap_gguf_add_i32(w, c->suppress[i]);
}

static void put_all(put *p, const ap_fields *t)
{
    const ap_config *c = p->c;
    number(p, "block_count", c->n_layer);
    number(p, "context_length", c->context);
    number(p, "embedding_length", c->hidden);
    number(p, "vocab_size", c->vocab);
    number(p, "attention.head_count", c->n_head);
    real(p, "attention.layer_norm_rms_epsilon", (double)c->norm_eps);
    if (c->n_expert) {
        number(p, "expert_count", c->n_expert);
        number(p, "expert_used_count", c->n_expert_used);
        number(p, "expert_feed_forward_length", c->expert_ffn);
    }
    if (c->arch == AP_ARCH_GEMMA4)
        put_gemma(p, t);
    else if (c->arch == AP_ARCH_GEMMA3)
        put_gemma3(p, t);
    else
        put_qwen(p, t);
}

apus_err ap_gguf_put_config(ap_gguf_writer *w, const ap_config *c, const ap_config_text *config,
                            const char *name, ap_dtype most, apus_diag *diag)
{
    ap_arena arena;
    ap_json *root = NULL;
    put p = {.w = w, .c = c, .arch = ap_gguf_arch_name(c->arch)};
    ap_arena_init(&arena, MAX_TREE_BYTES);
    apus_err err = ap_json_parse(&arena, config->text, config->len, config->name, 0, &root, diag);
    if (!err) {
        const ap_json *inner = ap_json_get(root, "text_config");
        ap_fields t = {config->name, inner ? "text_config." : "", inner ? inner : root, diag, &err};
        check(&t, c);
        text(w, "general.architecture", p.arch);
        text(w, "general.name", name);
        ap_gguf_put_u32(w, "general.quantization_version", 2);
        ap_gguf_put_u32(w, "general.file_type", (uint32_t)file_type(most));
        if (!err) put_all(&p, &t);
        if (!err) put_generation(&p);
    }
    ap_arena_free(&arena);
    return err;
}

void ap_gguf_copy_meta(ap_gguf_writer *w, const ap_gguf *from, const ap_config *c, ap_dtype most)
{
    for (size_t i = 0; i < from->n_values; i++) {
        const ap_gguf_value *v = &from->value[i];
        if (!strcmp(v->key, "general.file_type") || !strcmp(v->key, "general.alignment") ||
            !strcmp(v->key, "general.quantization_version") || !strncmp(v->key, "split.", 6) ||
            ap_ends_with(v->key, ".nextn_predict_layers"))
            continue;
        if (ap_ends_with(v->key, ".block_count"))
            ap_gguf_put_u32(w, v->key, (uint32_t)c->n_layer);
        else
            ap_gguf_put_value(w, v);
    }
    ap_gguf_put_u32(w, "general.quantization_version", 2);
    ap_gguf_put_u32(w, "general.file_type", (uint32_t)file_type(most));
}
