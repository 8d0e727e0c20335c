#include "file/mmproj.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"

#define AP_KEY_ROOM 96

/* ---------------------------------------------------------------- metadata */

/* The keys of one tower, "clip.vision." or "clip.audio.". Errors are kept. */
typedef struct keys {
    const ap_gguf *g;
    const char *tower;
    apus_diag *diag;
    apus_err err;
} keys;

static const ap_gguf_value *get(const keys *k, const char *leaf)
{
    char full[AP_KEY_ROOM];
    snprintf(full, sizeof full, "clip.%s.%s", k->tower, leaf);
    return ap_gguf_find(k->g, full);
}

/* A whole number; def if the key is absent, but -1: it is needed. */
static int64_t number(keys *k, const char *leaf, int64_t def)
{
    const ap_gguf_value *v = get(k, leaf);
    int64_t out = def;
    if (k->err || (!v && def >= 0)) return def;
    if (!v || !ap_gguf_int(v, 0, &out) || out < 0 || out > INT32_MAX)
        k->err = ap_fail(k->diag, APUS_EFORMAT, "%s: clip.%s.%s: expected a whole number",
                         k->g->name, k->tower, leaf);
    return out;
}

static const ap_tensor *tensor(const ap_gguf *g, const char *name)
{
    for (size_t i = 0; i < g->n_tensors; i++)
        if (!strcmp(g->tensor[i].name, name)) return &g->tensor[i].tensor;
    return NULL;
}

/* Size of an axis of a tensor that is needed. */
static int64_t size_of(keys *k, const char *name, int axis)
{
    const ap_tensor *t = tensor(k->g, name);
    if (t && axis < t->rank) return t->shape[axis];
    if (!k->err)
        k->err =
            ap_fail(k->diag, APUS_EFORMAT, "%s: tensor %s: expected at least %d axes, found %s",
                    k->g->name, name, axis + 1, t ? "fewer" : "none of that name");
    return 1;
}

static bool text_is(const ap_gguf_value *v, const char *want)
{
    const uint8_t *at;
    const char *s;
    size_t n;
    if (!v || v->is_array) return false;
    at = v->data;
    return ap_gguf_next_string(v, &at, &s, &n) && n == strlen(want) && !memcmp(s, want, n);
}

/* The projector's name: of the tower, or of the file. */
static const ap_gguf_value *projector(const ap_gguf *g, const char *tower)
{
    char full[AP_KEY_ROOM];
    snprintf(full, sizeof full, "clip.%s.projector_type", tower);
    const ap_gguf_value *v = ap_gguf_find(g, full);
    return v ? v : ap_gguf_find(g, "clip.projector_type");
}

bool ap_mmproj_kind(const ap_gguf *g, const char *tower, ap_media_kind *out)
{
    static const struct {
        const char *tower, *name;
        ap_media_kind kind;
    } known[] = {{"vision", "qwen3vl_merger", AP_MEDIA_QWEN},
                 {"vision", "gemma4v", AP_MEDIA_GEMMA},
                 {"vision", "gemma4uv", AP_MEDIA_EMBEDDER},
                 {"audio", "gemma4a", AP_MEDIA_GEMMA},
                 {"audio", "gemma4ua", AP_MEDIA_EMBEDDER}};
    const ap_gguf_value *v = projector(g, tower);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i].tower, tower) && text_is(v, known[i].name)) {
            *out = known[i].kind;
            return true;
        }
    return false;
}

/* ---------------------------------------------------------------- configurations */

static void add(ap_buf *b, const char *key, int64_t v)
{
    ap_buf_addf(b, "%s\"%s\":%" PRId64, b->len && b->data[b->len - 1] == '{' ? "" : ",", key, v);
}

static int side_of(int64_t n)
{
    int side = 0;
    while ((int64_t)(side + 1) * (side + 1) <= n) side++;
    return side;
}

static void list_of(const keys *k, const char *leaf, const char *key, ap_buf *b)
{
    const ap_gguf_value *v = get(k, leaf);
    double x;
    if (!v || !v->is_array || v->count != 3) return;
    for (int i = 0; i < 3; i++)
        if (!ap_gguf_num(v, (uint64_t)i, &x) || !isfinite(x)) return;
    ap_buf_addf(b, ",\"%s\":[", key);
    for (int i = 0; i < 3; i++) {
        ap_gguf_num(v, (uint64_t)i, &x);
        ap_buf_addf(b, "%s%.9g", i ? "," : "", x);
    }
    ap_buf_adds(b, "]");
}

/* Layers that feed the text model's on the way are of another model. */
static void refuse_deepstack(keys *k)
{
    const ap_gguf_value *v = get(k, "is_deepstack_layers");
    int64_t on = 0;
    for (uint64_t i = 0; v && i < v->count && !k->err; i++)
        if (ap_gguf_int(v, i, &on) && on)
            k->err =
                ap_fail(k->diag, APUS_EUNSUPPORTED,
                        "%s: clip.vision.is_deepstack_layers: expected none, found layer %" PRIu64,
                        k->g->name, i);
}

static void qwen(keys *k, ap_buf *config, ap_buf *processor)
{
    int64_t merge = number(k, "spatial_merge_size", 2), patch = number(k, "patch_size", -1);
    refuse_deepstack(k);
    add(config, "depth", number(k, "block_count", -1));
    add(config, "hidden_size", number(k, "embedding_length", -1));
    add(config, "intermediate_size", number(k, "feed_forward_length", -1));
    add(config, "num_heads", number(k, "attention.head_count", -1));
    add(config, "patch_size", patch);
    add(config, "temporal_patch_size", 2);
    add(config, "in_channels", size_of(k, "v.patch_embd.weight", 1));
    add(config, "spatial_merge_size", merge);
    add(config, "num_position_embeddings", size_of(k, "v.position_embd.weight", 0));
    add(config, "out_hidden_size", number(k, "projection_dim", -1));
    add(processor, "patch_size", patch);
    add(processor, "merge_size", merge);
    list_of(k, "image_mean", "image_mean", processor);
    list_of(k, "image_std", "image_std", processor);
    if (get(k, "image_min_pixels")) add(processor, "min_pixels", number(k, "image_min_pixels", 1));
    if (get(k, "image_max_pixels")) add(processor, "max_pixels", number(k, "image_max_pixels", 1));
}

static void gemma(keys *k, ap_buf *config, ap_buf *processor)
{
    int64_t heads = number(k, "attention.head_count", -1), patch = number(k, "patch_size", -1);
    int64_t pool = number(k, "projector.scale_factor", 3);
    int64_t dim = size_of(k, "v.blk.0.attn_q_norm.weight", 0);
    add(config, "num_hidden_layers", number(k, "block_count", -1));
    add(config, "hidden_size", number(k, "embedding_length", -1));
    add(config, "intermediate_size", number(k, "feed_forward_length", -1));
    add(config, "num_attention_heads", heads);
    add(config, "num_key_value_heads",
        size_of(k, "v.blk.0.attn_k.weight", 0) / (dim > 0 ? dim : 1));
    add(config, "head_dim", dim);
    add(config, "patch_size", patch);
    add(config, "pooling_kernel_size", pool);
    add(config, "position_embedding_size", size_of(k, "v.position_embd.weight", 1));
    ap_buf_addf(config, ",\"use_clipped_linears\":%s,\"standardize\":%s",
                tensor(k->g, "v.blk.0.attn_q.input_max") ? "true" : "false",
                tensor(k->g, "v.std_scale") ? "true" : "false");
    add(processor, "patch_size", patch);
    add(processor, "pooling_kernel_size", pool);
}

static void embedder(keys *k, ap_buf *config, ap_buf *processor)
{
    int side = side_of(size_of(k, "v.patch_norm.1.weight", 0) / 3);
    int64_t patch = number(k, "patch_size", -1), dim = size_of(k, "v.patch_norm.2.weight", 0);
    add(config, "model_patch_size", side);
    add(config, "mm_embed_dim", dim);
    add(config, "output_proj_dims", dim);
    add(config, "mm_posemb_size", size_of(k, "v.position_embd.weight", 1));
    add(processor, "patch_size", patch);
    add(processor, "pooling_kernel_size", patch > 0 ? side / patch : 1);
}

static void conformer(keys *k, ap_buf *config, ap_buf *processor)
{
    add(config, "num_hidden_layers", number(k, "block_count", -1));
    add(config, "hidden_size", number(k, "embedding_length", -1));
    add(config, "num_attention_heads", number(k, "attention.head_count", -1));
    ap_buf_addf(config, ",\"subsampling_conv_channels\":[%" PRId64 ",%" PRId64 "]",
                size_of(k, "a.conv1d.0.weight", 0), size_of(k, "a.conv1d.1.weight", 0));
    add(config, "conv_kernel_size", size_of(k, "a.blk.0.conv_dw.weight", 1));
    add(config, "output_proj_dims", size_of(k, "a.pre_encode.out.weight", 0));
    add(processor, "feature_size", number(k, "num_mel_bins", 128));
}

static void samples(keys *k, ap_buf *config, ap_buf *processor)
{
    int64_t n = size_of(k, "mm.a.input_projection.weight", 1);
    add(config, "audio_embed_dim", n);
    add(processor, "audio_samples_per_token", n);
}

static apus_err read_vision(ap_mmproj *m, const ap_gguf *g, apus_diag *diag)
{
    keys k = {.g = g, .tower = "vision", .diag = diag};
    ap_buf_adds(&m->config, "\"vision_config\":{");
    if (m->kind == AP_MEDIA_QWEN)
        qwen(&k, &m->config, &m->processor);
    else if (m->kind == AP_MEDIA_GEMMA)
        gemma(&k, &m->config, &m->processor);
    else
        embedder(&k, &m->config, &m->processor);
    ap_buf_adds(&m->config, "}");
    return k.err;
}

static apus_err read_audio(ap_mmproj *m, const ap_gguf *g, apus_diag *diag)
{
    keys k = {.g = g, .tower = "audio", .diag = diag};
    ap_buf_addf(&m->config, "%s\"audio_config\":{", m->sees ? "," : "");
    (m->kind == AP_MEDIA_GEMMA ? conformer : samples)(&k, &m->config, &m->processor);
    ap_buf_adds(&m->config, "}");
    return k.err;
}

/* ---------------------------------------------------------------- the file */

static apus_err refuse(const ap_gguf *g, apus_diag *diag)
{
    const ap_gguf_value *v = projector(g, "vision");
    const char *s = "";
    size_t n = 0;
    const uint8_t *at = v ? v->data : NULL;
    if (!v) v = projector(g, "audio");
    if (v) ap_gguf_next_string(v, &(const uint8_t *){at ? at : v->data}, &s, &n);
    return ap_fail(
        diag, APUS_EUNSUPPORTED,
        "%s: clip.projector_type: expected qwen3vl_merger, gemma4v, gemma4a, gemma4uv or "
        "gemma4ua, found \"%.*s\"",
        g->name, n < 60 ? (int)n : 60, s);
}

static apus_err read(ap_mmproj *m, apus_diag *diag)
{
    size_t parts;
    const ap_gguf *g = ap_weights_gguf(m->weights, &parts)[0];
    ap_media_kind heard;
    m->sees = ap_mmproj_kind(g, "vision", &m->kind);
    m->hears = ap_mmproj_kind(g, "audio", &heard);
    if (!m->sees && !m->hears) return refuse(g, diag);
    if (!m->sees) m->kind = heard;
    if (m->hears && heard != m->kind) m->hears = false;
    ap_buf_adds(&m->config, "{");
    ap_buf_adds(&m->processor, "{");
    apus_err err = m->sees ? read_vision(m, g, diag) : APUS_OK;
    if (!err && m->hears) err = read_audio(m, g, diag);
    ap_buf_adds(&m->config, "}");
    ap_buf_adds(&m->processor, "}");
    if (!err && (m->config.failed || m->processor.failed))
        err = ap_fail_nomem(diag, m->config.cap, "the towers' configuration");
    return err;
}

apus_err ap_mmproj_open(const char *path, ap_mmproj *out, apus_diag *diag)
{
    *out = (ap_mmproj){.path = ap_strdup(path)};
    if (!out->path) return ap_fail_nomem(diag, strlen(path), "a path");
    apus_err err = ap_weights_open_mmproj(path, &out->weights, diag);
    return err ? err : read(out, diag);
}

void ap_mmproj_close(ap_mmproj *m)
{
    ap_weights_close(m->weights);
    ap_buf_free(&m->config);
    ap_buf_free(&m->processor);
    ap_free(m->path);
    *m = (ap_mmproj){0};
}

/* ---------------------------------------------------------------- beside a model */

static bool is_mmproj(const char *name)
{
    return name[0] != '.' && strstr(name, "mmproj") && ap_ends_with(name, ".gguf");
}

/* Is it called after the model? Its name without "mmproj" and what joins it must begin the model's, up to a type. */
static bool is_called_after(const char *name, const char *model)
{
    const char *mark = strstr(name, "mmproj");
    size_t stem = (size_t)(mark - name);
    if (!stem) { /* mmproj-NAME... */
        const char *rest = mark + strlen("mmproj");
        rest += strspn(rest, "-._");
        size_t len = strlen(rest) - strlen(".gguf"), same = 0;
        while (same < len && rest[same] == model[same]) same++;
        while (same > 0 && !strchr("-._", rest[same])) same--; /* whole words */
        return same > 0 && strchr("-._", model[same]);
    }
    while (stem > 0 && strchr("-._", name[stem - 1])) stem--;
    return stem > 0 && !strncmp(name, model, stem) && strchr("-._", model[stem]);
}

/* Files of the folder that count; the last one's name is kept. */
typedef struct listing {
    char *all, *called; /* one of each kind, or NULL */
    int n_all, n_called;
    bool failed;
} listing;

static void note(listing *l, char **slot, int *n, const char *name)
{
    ++*n;
    ap_free(*slot);
    *slot = ap_strdup(name);
    if (!*slot) l->failed = true;
}

static apus_err list(const char *folder, const char *model, listing *l, apus_diag *diag)
{
    DIR *d;
    apus_err err = ap_folder_list(folder, &d, diag);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (!is_mmproj(e->d_name)) continue;
        note(l, &l->all, &l->n_all, e->d_name);
        if (is_called_after(e->d_name, model)) note(l, &l->called, &l->n_called, e->d_name);
    }
    if (d) closedir(d);
    return err;
}

apus_err ap_mmproj_find(const char *model, char **out, apus_diag *diag)
{
    const char *slash = strrchr(model, '/'), *base = slash ? slash + 1 : model;
    char *folder = slash ? ap_strndup(model, (size_t)(slash - model)) : ap_strdup(".");
    listing l = {0};
    apus_err err = APUS_OK;
    *out = NULL;
    if (folder) err = list(folder, base, &l, diag);
    const char *name = l.n_called == 1 ? l.called : l.n_all == 1 ? l.all : NULL;
    if (!folder || l.failed)
        err = ap_fail_nomem(diag, strlen(model), "a path");
    else if (!err && name && !(*out = ap_path_join(folder, name)))
        err = ap_fail_nomem(diag, strlen(model), "a path");
    else if (!err && !name && l.n_all)
        err = ap_fail(diag, APUS_EUNSUPPORTED,
                      "%s: %d mmproj files are beside it, such as %s: name one with --mmproj "
                      "(apus_model_settings.mmproj)",
                      model, l.n_all, l.all);
    ap_free(folder);
    ap_free(l.all);
    ap_free(l.called);
    return err;
}
