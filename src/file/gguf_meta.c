#include "file/gguf_meta.h"

#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "file/family.h"

#define MAX_TREE_BYTES ((size_t)256 << 20)

const char *ap_meta_put_key(ap_meta_out *p, const char *leaf)
{
    snprintf(p->key, sizeof p->key, "%s.%s", p->f->gguf, leaf);
    return p->key;
}

void ap_meta_put_int(ap_meta_out *p, const char *leaf, int64_t v)
{
    ap_gguf_put_u32(p->w, ap_meta_put_key(p, leaf), (uint32_t)v);
}

void ap_meta_put_num(ap_meta_out *p, const char *leaf, double v)
{
    ap_gguf_put_f32(p->w, ap_meta_put_key(p, leaf), (float)v);
}

static void text(ap_gguf_writer *w, const char *key, const char *s)
{
    ap_gguf_put_string(w, key, s, strlen(s));
}

void ap_meta_put_text(ap_meta_out *p, const char *leaf, const char *s)
{
    text(p->w, ap_meta_put_key(p, leaf), s);
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

/* What the reader of GGUF files would not find again. */
static void check(const ap_fields *t, const ap_config *c)
{
    bool moe = false, dense = false;
    for (int l = 0; l < c->n_layer; l++) *(c->layer[l].moe ? &moe : &dense) = true;
    if (moe && dense)
        ap_field_fail(t, APUS_EUNSUPPORTED, "mlp_only_layers", NULL,
                      "a GGUF file has experts in every layer or in none");
    if (moe && !c->norm_topk)
        ap_field_fail(t, APUS_EUNSUPPORTED, "norm_topk_prob", NULL,
                      "a GGUF file cannot say that weights of experts are not normalised");
}

/* What generation_config.json advises, and the ids never to generate. */
static void put_generation(ap_meta_out *p)
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

static void put_all(ap_meta_out *p, const ap_fields *t)
{
    const ap_config *c = p->c;
    ap_meta_put_int(p, "block_count", c->n_layer);
    ap_meta_put_int(p, "context_length", c->context);
    ap_meta_put_int(p, "embedding_length", c->hidden);
    ap_meta_put_int(p, "vocab_size", c->vocab);
    ap_meta_put_int(p, "attention.head_count", c->n_head);
    ap_meta_put_num(p, "attention.layer_norm_rms_epsilon", (double)c->norm_eps);
    if (c->n_expert) {
        ap_meta_put_int(p, "expert_count", c->n_expert);
        ap_meta_put_int(p, "expert_used_count", c->n_expert_used);
        ap_meta_put_int(p, "expert_feed_forward_length", c->expert_ffn);
    }
    p->f->write(p, t);
}

apus_err ap_gguf_put_config(ap_gguf_writer *w, const ap_config *c, const ap_config_text *config,
                            const char *name, ap_dtype most, apus_diag *diag)
{
    ap_arena arena;
    ap_json *root = NULL;
    ap_meta_out p = {.w = w, .f = ap_family_of(c->arch), .c = c};
    ap_arena_init(&arena, MAX_TREE_BYTES);
    apus_err err = ap_json_parse(&arena, config->text, config->len, config->name, 0, &root, diag);
    if (!err) {
        const ap_json *inner = ap_json_get(root, "text_config");
        ap_fields t = {config->name, inner ? "text_config." : "", inner ? inner : root, diag, &err};
        check(&t, c);
        text(w, "general.architecture", p.f->gguf);
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
