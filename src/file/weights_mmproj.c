/* weights_mmproj.c - the tensors of an mmproj file under their Hugging Face names, in their shapes. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "file/mmproj.h"
#include "file/weights_impl.h"

/* What the converter has done to a tensor, and is undone. */
typedef enum change {
    AS_IT_IS,
    COLOURS_FIRST, /* [*, 3, side, side], was [*, side, side, 3] */
    ONE_TIME,      /* [*, 3, side, side] of one of two frames, was [*, 3, 2, side, side] */
    AXES_SWAPPED,  /* [b, a, *], was [a, b, *] */
    SOFTPLUS       /* y = softplus(x) */
} change;

typedef struct rule {
    const char *gguf, *hf; /* of the whole name, or of a layer's module */
    change how;
    bool linear; /* "weight" is "linear.weight" there */
} rule;

/* Names that have nothing of a layer in them, and of modules within a layer; ended by {0}. */
typedef struct naming {
    const char *layer, *hf_layer; /* with %d */
    const rule *whole, *module;
} naming;

/* ---------------------------------------------------------------- names */

static const rule qwen_whole[] = {
    {"v.patch_embd.weight", "model.visual.patch_embed.proj.weight", ONE_TIME, false},
    {"v.patch_embd.bias", "model.visual.patch_embed.proj.bias", AS_IT_IS, false},
    {"v.position_embd.weight", "model.visual.pos_embed.weight", AS_IT_IS, false},
    {"v.post_ln.weight", "model.visual.merger.norm.weight", AS_IT_IS, false},
    {"v.post_ln.bias", "model.visual.merger.norm.bias", AS_IT_IS, false},
    {"mm.0.weight", "model.visual.merger.linear_fc1.weight", AS_IT_IS, false},
    {"mm.0.bias", "model.visual.merger.linear_fc1.bias", AS_IT_IS, false},
    {"mm.2.weight", "model.visual.merger.linear_fc2.weight", AS_IT_IS, false},
    {"mm.2.bias", "model.visual.merger.linear_fc2.bias", AS_IT_IS, false},
    {0}};

static const rule qwen_module[] = {{"ln1", "norm1", AS_IT_IS, false},
                                   {"ln2", "norm2", AS_IT_IS, false},
                                   {"attn_qkv", "attn.qkv", AS_IT_IS, false},
                                   {"attn_out", "attn.proj", AS_IT_IS, false},
                                   {"ffn_up", "mlp.linear_fc1", AS_IT_IS, false},
                                   {"ffn_down", "mlp.linear_fc2", AS_IT_IS, false},
                                   {0}};

static const rule gemma_whole[] = {
    {"v.patch_embd.weight", "model.vision_tower.patch_embedder.input_proj.weight", COLOURS_FIRST,
     false},
    {"v.position_embd.weight", "model.vision_tower.patch_embedder.position_embedding_table",
     AS_IT_IS, false},
    {"v.std_bias", "model.vision_tower.std_bias", AS_IT_IS, false},
    {"v.std_scale", "model.vision_tower.std_scale", AS_IT_IS, false},
    {"mm.input_projection.weight", "model.embed_vision.embedding_projection.weight", AS_IT_IS,
     false},
    {0}};

static const rule gemma_module[] = {
    {"ln1", "input_layernorm", AS_IT_IS, false},
    {"attn_post_norm", "post_attention_layernorm", AS_IT_IS, false},
    {"ln2", "pre_feedforward_layernorm", AS_IT_IS, false},
    {"ffn_post_norm", "post_feedforward_layernorm", AS_IT_IS, false},
    {"attn_q", "self_attn.q_proj", AS_IT_IS, true},
    {"attn_k", "self_attn.k_proj", AS_IT_IS, true},
    {"attn_v", "self_attn.v_proj", AS_IT_IS, true},
    {"attn_out", "self_attn.o_proj", AS_IT_IS, true},
    {"attn_q_norm", "self_attn.q_norm", AS_IT_IS, false},
    {"attn_k_norm", "self_attn.k_norm", AS_IT_IS, false},
    {"ffn_gate", "mlp.gate_proj", AS_IT_IS, true},
    {"ffn_up", "mlp.up_proj", AS_IT_IS, true},
    {"ffn_down", "mlp.down_proj", AS_IT_IS, true},
    {0}};

#define EMBEDDER "model.vision_embedder."
static const rule embedder_whole[] = {
    {"v.patch_norm.1.weight", EMBEDDER "patch_ln1.weight", COLOURS_FIRST, false},
    {"v.patch_norm.1.bias", EMBEDDER "patch_ln1.bias", COLOURS_FIRST, false},
    {"v.patch_embd.weight", EMBEDDER "patch_dense.weight", COLOURS_FIRST, false},
    {"v.patch_embd.bias", EMBEDDER "patch_dense.bias", AS_IT_IS, false},
    {"v.patch_norm.2.weight", EMBEDDER "patch_ln2.weight", AS_IT_IS, false},
    {"v.patch_norm.2.bias", EMBEDDER "patch_ln2.bias", AS_IT_IS, false},
    {"v.position_embd.weight", EMBEDDER "pos_embedding", AXES_SWAPPED, false},
    {"v.patch_norm.3.weight", EMBEDDER "pos_norm.weight", AS_IT_IS, false},
    {"v.patch_norm.3.bias", EMBEDDER "pos_norm.bias", AS_IT_IS, false},
    {"mm.input_projection.weight", "model.embed_vision.embedding_projection.weight", AS_IT_IS,
     false},
    {0}};

#define SUBSAMPLE "model.audio_tower.subsample_conv_projection."
static const rule audio_whole[] = {
    {"a.conv1d.0.weight", SUBSAMPLE "layer0.conv.weight", AS_IT_IS, false},
    {"a.conv1d.0.norm.weight", SUBSAMPLE "layer0.norm.weight", AS_IT_IS, false},
    {"a.conv1d.1.weight", SUBSAMPLE "layer1.conv.weight", AS_IT_IS, false},
    {"a.conv1d.1.norm.weight", SUBSAMPLE "layer1.norm.weight", AS_IT_IS, false},
    {"a.input_projection.weight", SUBSAMPLE "input_proj_linear.weight", AS_IT_IS, false},
    {"a.pre_encode.out.weight", "model.audio_tower.output_proj.weight", AS_IT_IS, false},
    {"a.pre_encode.out.bias", "model.audio_tower.output_proj.bias", AS_IT_IS, false},
    {"mm.a.input_projection.weight", "model.embed_audio.embedding_projection.weight", AS_IT_IS,
     false},
    {0}};

/* The names of the convolution's two norms are each other's there. */
static const rule audio_module[] = {
    {"ffn_norm", "feed_forward1.pre_layer_norm", AS_IT_IS, false},
    {"ffn_up", "feed_forward1.ffw_layer_1", AS_IT_IS, true},
    {"ffn_down", "feed_forward1.ffw_layer_2", AS_IT_IS, true},
    {"ffn_post_norm", "feed_forward1.post_layer_norm", AS_IT_IS, false},
    {"ffn_norm_1", "feed_forward2.pre_layer_norm", AS_IT_IS, false},
    {"ffn_up_1", "feed_forward2.ffw_layer_1", AS_IT_IS, true},
    {"ffn_down_1", "feed_forward2.ffw_layer_2", AS_IT_IS, true},
    {"ffn_post_norm_1", "feed_forward2.post_layer_norm", AS_IT_IS, false},
    {"attn_pre_norm", "norm_pre_attn", AS_IT_IS, false},
    {"attn_post_norm", "norm_post_attn", AS_IT_IS, false},
    {"ln2", "norm_out", AS_IT_IS, false},
    {"attn_q", "self_attn.q_proj", AS_IT_IS, true},
    {"attn_k", "self_attn.k_proj", AS_IT_IS, true},
    {"attn_v", "self_attn.v_proj", AS_IT_IS, true},
    {"attn_out", "self_attn.post", AS_IT_IS, true},
    {"attn_k_rel", "self_attn.relative_k_proj", AS_IT_IS, false},
    {"conv_norm", "lconv1d.pre_layer_norm", AS_IT_IS, false},
    {"norm_conv", "lconv1d.conv_norm", AS_IT_IS, false},
    {"conv_pw1", "lconv1d.linear_start", AS_IT_IS, true},
    {"conv_pw2", "lconv1d.linear_end", AS_IT_IS, true},
    {"conv_dw", "lconv1d.depthwise_conv1d", AS_IT_IS, false},
    {0}};

static const naming qwen_names = {"v.blk.%d.%n", "model.visual.blocks.%d.", qwen_whole,
                                  qwen_module};
static const naming gemma_names = {"v.blk.%d.%n", "model.vision_tower.encoder.layers.%d.",
                                   gemma_whole, gemma_module};
static const naming embedder_names = {NULL, NULL, embedder_whole, NULL};
static const naming audio_names = {"a.blk.%d.%n", "model.audio_tower.layers.%d.", audio_whole,
                                   audio_module};

static const naming *names_of(ap_media_kind kind)
{
    return kind == AP_MEDIA_QWEN    ? &qwen_names
           : kind == AP_MEDIA_GEMMA ? &gemma_names
                                    : &embedder_names;
}

/* "MODULE.weight", "MODULE.bias" or a bound of a clipped product, of a layer. */
static bool name_in_layer(const naming *n, int layer, const char *leaf, char *out, size_t cap)
{
    const char *dot = strrchr(leaf, '.');
    if (!dot) return false;
    for (const rule *r = n->module; r->gguf; r++) {
        if (strlen(r->gguf) != (size_t)(dot - leaf) || memcmp(r->gguf, leaf, strlen(r->gguf)))
            continue;
        char module[128];
        snprintf(module, sizeof module, n->hf_layer, layer);
        bool linear = r->linear && !strcmp(dot, ".weight");
        return (size_t)snprintf(out, cap, "%s%s%s%s", module, r->hf, linear ? ".linear" : "", dot) <
               cap;
    }
    return false;
}

static bool name_of(const naming *n, const char *gguf, char *out, size_t cap, change *how)
{
    int layer, used = 0;
    *how = AS_IT_IS;
    for (const rule *r = n->whole; r->gguf; r++) {
        if (strcmp(r->gguf, gguf)) continue;
        *how = r->how;
        return (size_t)snprintf(out, cap, "%s", r->hf) < cap;
    }
    if (!n->layer || sscanf(gguf, n->layer, &layer, &used) != 1 || !used || layer < 0) return false;
    if (!strncmp(gguf + used, "per_dim_scale", 13)) {
        *how = SOFTPLUS;
        return (size_t)snprintf(out, cap, "model.audio_tower.layers.%d.self_attn.per_dim_scale",
                                layer) < cap;
    }
    return name_in_layer(n, layer, gguf + used, out, cap);
}

/* ---------------------------------------------------------------- shapes */

typedef struct undoing {
    ap_weights *w;
    const ap_gguf *g;
    const char *name; /* in the file */
    apus_diag *diag;
} undoing;

static apus_err odd(const undoing *u, const char *expected)
{
    return ap_fail(u->diag, APUS_EFORMAT, "%s: tensor %s: expected %s", u->g->name, u->name,
                   expected);
}

/* Room for a tensor's numbers in another order. */
static apus_err room_for(const undoing *u, const ap_tensor *t, size_t times, uint8_t **out)
{
    size_t bytes = ap_tensor_bytes(t);
    if (ap_dtype_block(t->dtype) != 1)
        return ap_fail(u->diag, APUS_EUNSUPPORTED,
                       "%s: tensor %s: expected f32, f16 or bf16, found %s", u->g->name, u->name,
                       ap_dtype_name(t->dtype));
    *out = bytes > SIZE_MAX / 2 ? NULL : ap_arena_alloc(&u->w->arena, bytes * times);
    return *out ? APUS_OK : ap_fail_nomem(u->diag, bytes, "a tower's weights");
}

/* [rows][3][side * side] to [rows][side * side][3]; a vector is one row. */
static apus_err colours_last(const undoing *u, ap_tensor *t)
{
    int64_t rows = t->rank > 1 ? t->shape[0] : 1, all = ap_tensor_count(t);
    uint8_t *to;
    if (rows < 1 || all % rows || all / rows % 3) return odd(u, "rows of three colours");
    apus_err err = room_for(u, t, 1, &to);
    if (err) return err;
    int64_t cols = all / rows, square = cols / 3;
    size_t each = ap_dtype_bytes(t->dtype);
    for (int64_t i = 0; i < all; i++) {
        int64_t at = i % cols, from = i - at + at % 3 * square + at / 3;
        memcpy(to + (size_t)i * each, (const uint8_t *)t->data + (size_t)from * each, each);
    }
    t->data = to;
    if (t->rank > 1) {
        t->rank = 2;
        t->shape[1] = cols;
    }
    return APUS_OK;
}

static const ap_tensor *find(const ap_gguf *g, const char *name)
{
    for (size_t i = 0; i < g->n_tensors; i++)
        if (!strcmp(g->tensor[i].name, name)) return &g->tensor[i].tensor;
    return NULL;
}

/* [rows][channels][side][side] of two frames to [rows][channels][2][side][side]. */
static apus_err both_times(const undoing *u, ap_tensor *t)
{
    const ap_tensor *other = find(u->g, "v.patch_embd.weight.1");
    uint8_t *to;
    if (t->rank != 4 || !other || other->rank != 4 || other->dtype != t->dtype ||
        memcmp(other->shape, t->shape, 4 * sizeof *t->shape))
        return odd(u, "four axes, and those of v.patch_embd.weight.1 to be the same");
    apus_err err = room_for(u, t, 2, &to);
    if (err) return err;
    size_t square = (size_t)(t->shape[2] * t->shape[3]) * ap_dtype_bytes(t->dtype);
    for (int64_t i = 0; i < t->shape[0] * t->shape[1]; i++)
        for (int k = 0; k < 2; k++, to += square)
            memcpy(to, (const uint8_t *)(k ? other : t)->data + (size_t)i * square, square);
    t->data = to - 2 * ap_tensor_bytes(t);
    t->shape[4] = t->shape[3];
    t->shape[3] = t->shape[2];
    t->shape[2] = 2;
    t->rank = 5;
    return APUS_OK;
}

static apus_err swap_axes(const undoing *u, ap_tensor *t)
{
    uint8_t *to;
    if (t->rank != 3) return odd(u, "three axes");
    apus_err err = room_for(u, t, 1, &to);
    if (err) return err;
    int64_t b = t->shape[0], a = t->shape[1];
    size_t row = (size_t)t->shape[2] * ap_dtype_bytes(t->dtype);
    for (int64_t i = 0; i < a * b; i++)
        memcpy(to + (size_t)i * row, (const uint8_t *)t->data + (size_t)(i % b * a + i / b) * row,
               row);
    t->data = to;
    t->shape[0] = a;
    t->shape[1] = b;
    return APUS_OK;
}

static apus_err undo_softplus(const undoing *u, ap_tensor *t)
{
    int64_t n = ap_tensor_count(t);
    if (ap_dtype_block(t->dtype) != 1) return odd(u, "f32, f16 or bf16");
    float *to = ap_arena_alloc(&u->w->arena, (size_t)n * sizeof *to);
    if (!to) return ap_fail_nomem(u->diag, (size_t)n * sizeof *to, "a tower's weights");
    ap_to_f32(t->dtype, t->data, to, (size_t)n);
    for (int64_t i = 0; i < n; i++) {
        if (!(to[i] > 0)) return odd(u, "positive values");
        to[i] = to[i] > 30 ? to[i] : (float)log(expm1((double)to[i]));
    }
    t->data = to;
    t->dtype = AP_F32;
    return APUS_OK;
}

static apus_err undo(const undoing *u, change how, ap_tensor *t)
{
    switch (how) {
    case COLOURS_FIRST:
        return colours_last(u, t);
    case ONE_TIME:
        return both_times(u, t);
    case AXES_SWAPPED:
        return swap_axes(u, t);
    case SOFTPLUS:
        return undo_softplus(u, t);
    case AS_IT_IS:
        break;
    }
    return APUS_OK;
}

/* ---------------------------------------------------------------- the file */

static apus_err add(ap_weights *w, const ap_gguf *g, const naming *n, apus_diag *diag)
{
    apus_err err = APUS_OK;
    for (size_t i = 0; i < g->n_tensors && !err; i++) {
        char name[256];
        change how;
        if (!name_of(n, g->tensor[i].name, name, sizeof name, &how)) continue;
        size_t len = strlen(name);
        char *kept = ap_arena_strndup(&w->arena, name, len);
        if (!kept) return ap_fail_nomem(diag, len, "a tensor's name");
        ap_tensor t = g->tensor[i].tensor;
        err = undo(&(undoing){w, g, g->tensor[i].name, diag}, how, &t);
        if (!err) err = ap_weights_add_item(w, kept, len, &t, 0, diag);
    }
    return err;
}

static apus_err open_file(ap_weights *w, const char *path, apus_diag *diag)
{
    const char *slash = strrchr(path, '/');
    w->dir = slash ? ap_strndup(path, (size_t)(slash - path)) : ap_strdup(".");
    if (!w->dir) return ap_fail_nomem(diag, strlen(path), "a path");
    apus_err err = ap_weights_add_shard(w, slash ? slash + 1 : path, diag);
    if (!err) err = ap_gguf_open(w->shard[0].path, &w->shard[0].gguf, diag);
    if (err) return err;
    const ap_gguf *g = &w->shard[0].gguf;
    w->item = ap_malloc(g->n_tensors, sizeof *w->item);
    w->gguf = ap_malloc(1, sizeof *w->gguf);
    if (!w->item || !w->gguf)
        return ap_fail_nomem(diag, g->n_tensors * sizeof *w->item, "the tensor list");
    w->gguf[0] = g;
    ap_media_kind kind;
    if (ap_mmproj_kind(g, "vision", &kind)) err = add(w, g, names_of(kind), diag);
    if (!err && ap_mmproj_kind(g, "audio", &kind)) err = add(w, g, &audio_names, diag);
    return err ? err : ap_weights_index(w, diag);
}

apus_err ap_weights_open_mmproj(const char *path, ap_weights **out, apus_diag *diag)
{
    ap_weights *w = ap_calloc(1, sizeof *w);
    if (!w) return ap_fail_nomem(diag, sizeof *w, "the weights");
    ap_arena_init(&w->arena, 0);
    apus_err err = open_file(w, path, diag);
    if (err)
        ap_weights_close(w);
    else
        *out = w;
    return err;
}
