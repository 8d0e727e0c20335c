#include "file/tower_config.h"

#include <stdio.h>
#include <string.h>

#include "file/config_in.h"

#define MAX_PATCH 1024 /* pixels of a side */

/* An integer, or a list of `n` equal ones, as patch sizes are given. */
static int side(const ap_fields *f, const char *key, int def)
{
    const ap_json *v = ap_field(f, key);
    if (!v || v->type != AP_JSON_ARRAY) return (int)ap_field_int(f, key, 1, MAX_PATCH, def);
    const ap_json *first = v->first;
    for (const ap_json *e = first; e; e = e->next)
        if (e->type != AP_JSON_INT || e->integer != first->integer || e->integer < 1 ||
            e->integer > MAX_PATCH)
            ap_field_fail(f, APUS_EUNSUPPORTED, key, e, "expected equal sizes from 1 to %d",
                          MAX_PATCH);
    return first && !*f->err ? (int)first->integer : def;
}

static bool is_erf(const ap_fields *f, const char *key)
{
    const char *act = ap_field_str(f, key, "gelu_pytorch_tanh");
    if (!strcmp(act, "gelu")) return true;
    if (strcmp(act, "gelu_pytorch_tanh"))
        ap_field_fail(f, APUS_EUNSUPPORTED, key, ap_field(f, key),
                      "only \"gelu_pytorch_tanh\" and \"gelu\" are supported");
    return false;
}

/* Axial rope has a base and nothing else. */
static double rope_theta(const ap_fields *f, double def)
{
    char prefix[64];
    ap_fields r = *f;
    r.o = ap_field_object(f, "rope_parameters");
    if (!r.o) return ap_field_num(f, "rope_theta", 1.0001, 1e15, def);
    snprintf(prefix, sizeof prefix, "%srope_parameters.", f->prefix);
    r.prefix = prefix;
    const char *type = ap_field_str(&r, "rope_type", "axial");
    if (strcmp(type, "axial") && strcmp(type, "default"))
        ap_field_fail(&r, APUS_EUNSUPPORTED, "rope_type", ap_field(&r, "rope_type"),
                      "only \"axial\" is supported");
    return ap_field_num(&r, "rope_theta", 1.0001, 1e15, def);
}

static int product(const ap_fields *f, const char *key, int64_t a, int64_t b, int64_t c)
{
    if (a * b * c <= AP_CFG_MAX_FFN) return (int)(a * b * c);
    ap_field_fail(f, APUS_EFORMAT, key, NULL, "%lld values are too many for a patch",
                  (long long)(a * b * c));
    return 1;
}

static int root(int n)
{
    int r = 0;
    while ((r + 1) <= n / (r + 1)) r++;
    return r;
}

/* Each pair of dims turns with the row or with the column. */
static void check_heads(const ap_fields *f, const ap_vision_config *v)
{
    if (*f->err) return;
    if (v->head_dim % 4 || v->head_dim > AP_CFG_MAX_HEAD_DIM)
        ap_field_fail(f, APUS_EUNSUPPORTED, "head_dim", NULL,
                      "expected a multiple of 4 up to %d, found %d", AP_CFG_MAX_HEAD_DIM,
                      v->head_dim);
    if (v->n_head % v->n_kv_head)
        ap_field_fail(f, APUS_EFORMAT, "num_key_value_heads", NULL,
                      "%d query heads cannot share %d key heads evenly", v->n_head, v->n_kv_head);
}

/* Half of the pairs turn with one axis, half with the other, by the same frequencies. */
static void angles(double theta, ap_vision_config *v)
{
    int n = v->head_dim / 4;
    ap_rope_frequencies(theta, v->head_dim / 2, n, v->inv_freq);
    for (int i = 0; i < n; i++) v->inv_freq[n + i] = v->inv_freq[i];
}

static void sizes(const ap_fields *f, const char *layers, const char *heads, ap_vision_config *v)
{
    v->n_layer = (int)ap_field_int(f, layers, 1, AP_MAX_LAYERS, v->n_layer);
    v->hidden = (int)ap_field_int(f, "hidden_size", 1, AP_CFG_MAX_HIDDEN, v->hidden);
    v->ffn = (int)ap_field_int(f, "intermediate_size", 1, AP_CFG_MAX_FFN, v->ffn);
    v->n_head = (int)ap_field_int(f, heads, 1, AP_CFG_MAX_HEADS, v->n_head);
}

/* Defaults are those of the class, which is the largest of the released towers. */
static void qwen(const ap_fields *f, ap_vision_config *v)
{
    *v = (ap_vision_config){.kind = AP_VISION_QWEN,
                            .n_layer = 27,
                            .hidden = 1152,
                            .ffn = 4304,
                            .n_head = 16,
                            .norm_eps = 1e-6f};
    sizes(f, "depth", "num_heads", v);
    const ap_json *deep = ap_field_array(f, "deepstack_visual_indexes");
    if (deep && deep->len)
        ap_field_fail(f, APUS_EUNSUPPORTED, "deepstack_visual_indexes", deep,
                      "only an empty list is supported");
    int patch = side(f, "patch_size", 16), frames = side(f, "temporal_patch_size", 2);
    int channels = (int)ap_field_int(f, "in_channels", 1, 64, 3);
    v->patch_width = product(f, "patch_size", (int64_t)patch * patch, frames, channels);
    v->merge = (int)ap_field_int(f, "spatial_merge_size", 1, 64, 2);
    v->position_rows = (int)ap_field_int(f, "num_position_embeddings", 1, 1 << 24, 2304);
    v->positions = root(v->position_rows);
    v->out = (int)ap_field_int(f, "out_hidden_size", 1, AP_CFG_MAX_HIDDEN, 3584);
    v->gelu_erf = is_erf(f, "hidden_act");
    double theta = rope_theta(f, 1e4);
    v->n_kv_head = v->n_head;
    if (*f->err) return;
    if (v->hidden % v->n_head)
        ap_field_fail(f, APUS_EFORMAT, "num_heads", NULL, "hidden_size %d is no multiple of %d",
                      v->hidden, v->n_head);
    v->head_dim = v->hidden / v->n_head;
    check_heads(f, v);
    if (!*f->err) angles(theta, v);
    if ((int64_t)v->position_rows * v->hidden > INT32_MAX ||
        (int64_t)v->merge * v->merge * v->hidden > AP_CFG_MAX_FFN)
        ap_field_fail(f, APUS_EFORMAT, "hidden_size", NULL,
                      "%d is too large for %d positions and squares of %d patches", v->hidden,
                      v->position_rows, v->merge);
}

static void gemma(const ap_fields *f, const ap_config *text, ap_vision_config *v)
{
    *v = (ap_vision_config){.kind = AP_VISION_GEMMA,
                            .n_layer = 16,
                            .hidden = 768,
                            .ffn = 3072,
                            .n_head = 12,
                            .out = text->hidden};
    sizes(f, "num_hidden_layers", "num_attention_heads", v);
    v->n_kv_head = (int)ap_field_int(f, "num_key_value_heads", 1, AP_CFG_MAX_HEADS, 12);
    v->head_dim = (int)ap_field_int(f, "head_dim", 1, AP_CFG_MAX_HEAD_DIM, 64);
    int patch = side(f, "patch_size", 16);
    v->patch_width = product(f, "patch_size", patch, patch, 3);
    v->merge = (int)ap_field_int(f, "pooling_kernel_size", 1, 64, 3);
    v->positions = (int)ap_field_int(f, "position_embedding_size", 1, 1 << 24, 10240);
    v->norm_eps = (float)ap_field_num(f, "rms_norm_eps", 0, 1, 1e-6);
    v->gelu_erf = is_erf(f, "hidden_activation");
    v->clipped = ap_field_bool(f, "use_clipped_linears", false);
    v->standardize = ap_field_bool(f, "standardize", false);
    double theta = rope_theta(f, 100);
    ap_field_refuse(f, "attention_bias");
    if (v->gelu_erf)
        ap_field_fail(f, APUS_EUNSUPPORTED, "hidden_activation", NULL,
                      "only \"gelu_pytorch_tanh\" is supported");
    check_heads(f, v);
    if (!*f->err) angles(theta, v);
}

static void embedder(const ap_fields *f, const ap_config *text, ap_vision_config *v)
{
    *v = (ap_vision_config){.kind = AP_VISION_EMBEDDER, .merge = 1, .out = text->hidden};
    int patch = side(f, "patch_size", 16);
    int pool = (int)ap_field_int(f, "pooling_kernel_size", 1, 64, 3);
    patch = (int)ap_field_int(f, "model_patch_size", 1, MAX_PATCH * 64, (int64_t)patch * pool);
    v->patch_width = product(f, "model_patch_size", patch, patch, 3);
    v->hidden = (int)ap_field_int(f, "mm_embed_dim", 1, AP_CFG_MAX_HIDDEN, 3840);
    v->positions = (int)ap_field_int(f, "mm_posemb_size", 1, 1 << 24, 1120);
    v->norm_eps = (float)ap_field_num(f, "rms_norm_eps", 0, 1, 1e-6);
    ap_field_int(f, "output_proj_dims", v->hidden, v->hidden, v->hidden);
}

static void read_vision(const ap_fields *f, const ap_config *text, ap_vision_config *v)
{
    ap_fields t = *f;
    t.prefix = "vision_config.";
    t.o = ap_field_object(f, "vision_config");
    if (!*f->err && (!t.o || !text->media))
        ap_field_fail(f, APUS_EUNSUPPORTED, "vision_config", NULL,
                      "there is no vision tower of a known kind: this model takes no pictures");
    if (*f->err) return;
    if (text->media == AP_MEDIA_QWEN)
        qwen(&t, v);
    else if (text->media == AP_MEDIA_EMBEDDER)
        embedder(&t, text, v);
    else
        gemma(&t, text, v);
    if (!*f->err && v->out != text->hidden)
        ap_field_fail(&t, APUS_EFORMAT, "out_hidden_size", NULL,
                      "expected the text model's hidden_size %d, found %d", text->hidden, v->out);
}

apus_err ap_vision_config_parse(const ap_config_text *file, const ap_config *text,
                                ap_vision_config *out, apus_diag *diag)
{
    ap_arena arena;
    ap_json *root_object = NULL;
    ap_vision_config v = {0};
    ap_arena_init(&arena, AP_CFG_MAX_TREE);
    apus_err err = ap_json_parse(&arena, file->text, file->len, file->name, 0, &root_object, diag);
    if (!err) read_vision(&(ap_fields){file->name, "", root_object, diag, &err}, text, &v);
    if (!err) *out = v;
    ap_arena_free(&arena);
    return err;
}
