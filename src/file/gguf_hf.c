#include "file/gguf_hf.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "file/family.h"

/* ---------------------------------------------------------------- tensor names */

static const ap_gguf_name global_names[] = {
    {"token_embd.weight", "model.embed_tokens.weight"},
    {"output_norm.weight", "model.norm.weight"},
    {"output.weight", "lm_head.weight"},
    {"per_layer_token_embd.weight", "model.embed_tokens_per_layer.weight"},
    {"per_layer_model_proj.weight", "model.per_layer_model_projection.weight"},
    {"per_layer_proj_norm.weight", "model.per_layer_projection_norm.weight"},
    {0}};

static const ap_gguf_name shared_names[] = {
    {"attn_norm.weight", "input_layernorm.weight"},
    {"post_attention_norm.weight", "post_attention_layernorm.weight"},
    {"attn_q.weight", "self_attn.q_proj.weight"},
    {"attn_k.weight", "self_attn.k_proj.weight"},
    {"attn_v.weight", "self_attn.v_proj.weight"},
    {"attn_output.weight", "self_attn.o_proj.weight"},
    {"attn_q_norm.weight", "self_attn.q_norm.weight"},
    {"attn_k_norm.weight", "self_attn.k_norm.weight"},
    {"ffn_gate.weight", "mlp.gate_proj.weight"},
    {"ffn_up.weight", "mlp.up_proj.weight"},
    {"ffn_down.weight", "mlp.down_proj.weight"},
    {0}};

static const char *look_up(const ap_gguf_name *table, const char *gguf)
{
    for (; table && table->gguf; table++)
        if (!strcmp(table->gguf, gguf)) return table->hf;
    return NULL;
}

bool ap_gguf_tensor_name(const char *gguf, const ap_family *f, char *out, size_t cap)
{
    int layer, used = 0;
    const char *hf = look_up(global_names, gguf);
    if (hf) return (size_t)snprintf(out, cap, "%s", hf) < cap;
    if (sscanf(gguf, "blk.%d.%n", &layer, &used) != 1 || !used || layer < 0) return false;
    hf = look_up(f->names_first, gguf + used);
    if (!hf) hf = look_up(shared_names, gguf + used);
    if (!hf) hf = look_up(f->names, gguf + used);
    return hf && (size_t)snprintf(out, cap, "model.layers.%d.%s", layer, hf) < cap;
}

static const ap_gguf_name head_names[] = {{"nextn.eh_proj.weight", "fc.weight"},
                                          {"nextn.enorm.weight", "pre_fc_norm_embedding.weight"},
                                          {"nextn.hnorm.weight", "pre_fc_norm_hidden.weight"},
                                          {"nextn.shared_head_norm.weight", "norm.weight"},
                                          {"nextn.embed_tokens.weight", "embed_tokens.weight"},
                                          {"nextn.shared_head_head.weight", "lm_head.weight"},
                                          {0}};

bool ap_gguf_head_name(const char *gguf, int first, const ap_family *f, char *out, size_t cap)
{
    static const char layers[] = "model.layers.";
    char name[512];
    int block, used = 0;
    if (sscanf(gguf, "blk.%d.%n", &block, &used) != 1 || !used || block < first) return false;
    const char *hf = look_up(head_names, gguf + used);
    if (hf && block == first) return (size_t)snprintf(out, cap, "mtp.%s", hf) < cap;
    if (!ap_gguf_tensor_name(gguf, f, name, sizeof name)) return false;
    const char *leaf = strchr(name + sizeof layers - 1, '.');
    return leaf && (size_t)snprintf(out, cap, "mtp.layers.%d%s", block - first, leaf) < cap;
}

int ap_gguf_head_block(const ap_gguf *g)
{
    int first = -1;
    for (size_t i = 0; i < g->n_tensors; i++) {
        const char *name = g->tensor[i].name;
        int no, used = 0;
        if (sscanf(name, "blk.%d.%n", &no, &used) != 1 || !used || no < 0) continue;
        if (!strncmp(name + used, "nextn.", 6) && (first < 0 || no < first)) first = no;
    }
    return first;
}

static const char *look_back(const ap_gguf_name *table, const char *hf)
{
    for (; table && table->gguf; table++)
        if (!strcmp(table->hf, hf)) return table->gguf;
    return NULL;
}

bool ap_gguf_name_of(const char *hf, const ap_family *f, char *out, size_t cap)
{
    int layer, used = 0;
    const char *gguf = look_back(global_names, hf);
    if (gguf) return (size_t)snprintf(out, cap, "%s", gguf) < cap;
    if (sscanf(hf, "model.layers.%d.%n", &layer, &used) != 1 || !used || layer < 0) return false;
    gguf = look_back(f->names_first, hf + used);
    if (!gguf) gguf = look_back(shared_names, hf + used);
    if (!gguf) gguf = look_back(f->names, hf + used);
    return gguf && (size_t)snprintf(out, cap, "blk.%d.%s", layer, gguf) < cap;
}

/* ---------------------------------------------------------------- metadata */

const ap_gguf_value *ap_meta_get(const ap_meta_in *in, const char *key)
{
    char full[256];
    snprintf(full, sizeof full, "%s.%s", in->family->gguf, key);
    return ap_gguf_find(in->part[0], full);
}

bool ap_meta_string_is(const ap_gguf_value *v, const char *want)
{
    const uint8_t *at = v->data;
    const char *s;
    size_t n;
    return ap_gguf_next_string(v, &at, &s, &n) && n == strlen(want) && !memcmp(s, want, n);
}

static apus_err open_meta(const ap_gguf *const *parts, size_t n_parts, ap_meta_in *in,
                          apus_diag *diag)
{
    *in = (ap_meta_in){.part = parts, .n_part = n_parts, .diag = diag};
    return ap_gguf_family_of(parts[0], &in->family, diag);
}

/* Element i of an integer key (a scalar stands for every element); def if the key is absent. */
int64_t ap_meta_int(ap_meta_in *in, const char *key, uint64_t i, int64_t def)
{
    const ap_gguf_value *v = ap_meta_get(in, key);
    int64_t out = def;
    if (!v || in->err) return def;
    if (!ap_gguf_int(v, v->is_array ? i : 0, &out) || out < 0)
        in->err = ap_fail(in->diag, APUS_EFORMAT, "%s: %s.%s: expected a whole number%s",
                          in->part[0]->name, in->family->gguf, key,
                          v->is_array ? " for every layer" : "");
    return out;
}

int64_t ap_meta_required(ap_meta_in *in, const char *key)
{
    int64_t v = ap_meta_int(in, key, 0, -1);
    if (v < 0 && !in->err)
        in->err = ap_fail(in->diag, APUS_EFORMAT, "%s: %s.%s is missing", in->part[0]->name,
                          in->family->gguf, key);
    return v;
}

double ap_meta_num(ap_meta_in *in, const char *key, double def)
{
    const ap_gguf_value *v = ap_meta_get(in, key);
    double out = def;
    if (v && !in->err && (!ap_gguf_num(v, 0, &out) || !isfinite(out)))
        in->err = ap_fail(in->diag, APUS_EFORMAT, "%s: %s.%s: expected a finite number",
                          in->part[0]->name, in->family->gguf, key);
    return isfinite(out) ? out : def;
}

const ap_gguf_tensor *ap_meta_tensor(const ap_meta_in *in, const char *name)
{
    for (size_t p = 0; p < in->n_part; p++)
        for (size_t i = 0; i < in->part[p]->n_tensors; i++)
            if (!strcmp(in->part[p]->tensor[i].name, name)) return &in->part[p]->tensor[i];
    return NULL;
}

void ap_meta_add(ap_buf *b, const char *key, int64_t v)
{
    ap_buf_addf(b, ",\"%s\":%" PRId64, key, v);
}

/* Rows of the embedding: the vocabulary, whatever the metadata says. */
static int64_t vocabulary(const ap_meta_in *in)
{
    const ap_gguf_tensor *t = ap_meta_tensor(in, "token_embd.weight");
    return t && t->tensor.rank == 2 ? t->tensor.shape[0] : 0;
}

/* ---------------------------------------------------------------- config.json */

/* Adds the id (each of a list) that a key holds. */
static void keyed_ids(const ap_gguf *g, const char *key, int64_t *ids, int *n, int max)
{
    const ap_gguf_value *v = ap_gguf_find(g, key);
    int64_t id;
    for (uint64_t i = 0; v && i < v->count && *n < max && ap_gguf_int(v, i, &id); i++)
        if (id >= 0) ids[(*n)++] = id;
}

static void stop_ids(const ap_gguf *g, const ap_family_tokens *f, ap_buf *b)
{
    enum { MAX = 48 };
    static const char *const keys[] = {
        "tokenizer.ggml.eos_token_id", "tokenizer.ggml.eos_token_ids",
        "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};
    int64_t ids[MAX];
    int n = 0, written = 0;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) keyed_ids(g, keys[i], ids, &n, MAX);
    const ap_gguf_value *tokens = ap_gguf_find(g, "tokenizer.ggml.tokens");
    const uint8_t *at = tokens ? tokens->data : NULL;
    const char *s;
    size_t len;
    for (int64_t id = 0; tokens && ap_gguf_next_string(tokens, &at, &s, &len) && n < MAX; id++)
        for (const char *const *t = f->turn_ends; *t; t++)
            if (n < MAX && len == strlen(*t) && !memcmp(s, *t, len)) ids[n++] = id;
    ap_buf_adds(b, ",\"eos_token_id\":[");
    for (int i = 0; i < n; i++) {
        bool seen = false;
        for (int k = 0; k < i; k++) seen |= ids[k] == ids[i];
        if (!seen) ap_buf_addf(b, "%s%" PRId64, written++ ? "," : "", ids[i]);
    }
    ap_buf_adds(b, "]");
}

/* ---------------------------------------------------------------- layers */

typedef struct blocks {
    int64_t n;     /* blocks that the file holds: highest number + 1 */
    int64_t nextn; /* first block of the head for the next tokens; -1: there is none */
} blocks;

static blocks count_blocks(const ap_meta_in *in)
{
    blocks x = {0, -1};
    for (size_t p = 0; p < in->n_part; p++)
        for (size_t i = 0; i < in->part[p]->n_tensors; i++) {
            const char *name = in->part[p]->tensor[i].name;
            int no, used = 0;
            if (sscanf(name, "blk.%d.%n", &no, &used) != 1 || !used || no < 0) continue;
            if (no >= x.n) x.n = (int64_t)no + 1;
            if (!strncmp(name + used, "nextn.", 6) && (x.nextn < 0 || no < x.nextn)) x.nextn = no;
        }
    return x;
}

/* Layers of the model. A head for the next tokens stands behind them as further blocks; writers differ in
 * whether block_count counts it, so the tensors decide. */
static int64_t layer_count(ap_meta_in *in)
{
    int64_t count = ap_meta_required(in, "block_count"),
            head = ap_meta_int(in, "nextn_predict_layers", 0, 0);
    blocks have = count_blocks(in);
    int64_t layers = have.nextn >= 0 ? have.nextn : have.n ? have.n : count - head;
    if (in->err) return 0;
    if (layers < 1 || layers > AP_MAX_LAYERS)
        in->err = ap_fail(in->diag, APUS_EFORMAT,
                          "%s: %s.block_count gives %" PRId64 " layers, expected 1 .. %d",
                          in->part[0]->name, in->family->gguf, layers, AP_MAX_LAYERS);
    else if (layers != count && layers != count - head && (have.nextn < 0 || have.n != count))
        in->err = ap_fail(in->diag, APUS_EFORMAT,
                          "%s: %s.block_count is %" PRId64 " and nextn_predict_layers %" PRId64
                          ", but the tensors make %" PRId64 " layers%s",
                          in->part[0]->name, in->family->gguf, count, head, layers,
                          have.nextn >= 0 ? " and a head for the next tokens" : "");
    return layers;
}

void ap_meta_layer_kinds(ap_meta_in *in, const char *list_key, const char *other_name,
                         int64_t interval, ap_buf *b)
{
    const ap_gguf_value *list = ap_meta_get(in, list_key);
    if (interval < 1) interval = 1;
    ap_buf_adds(b, ",\"layer_types\":[");
    for (int64_t l = 0; l < in->layers; l++) {
        int64_t other = (l + 1) % interval != 0;
        if (list && list->is_array && !ap_gguf_int(list, (uint64_t)l, &other) && !in->err)
            in->err =
                ap_fail(in->diag, APUS_EFORMAT,
                        "%s: %s: expected a flag for each of %" PRId64 " layers, found %" PRIu64,
                        in->part[0]->name, list->key, in->layers, list->count);
        ap_buf_addf(b, "%s\"%s\"", l ? "," : "", other ? other_name : "full_attention");
    }
    ap_buf_adds(b, "]");
}

apus_err ap_gguf_config_json(const ap_gguf *const *parts, size_t n_parts, ap_buf *b,
                             apus_diag *diag)
{
    ap_meta_in meta, *in = &meta;
    apus_err err = open_meta(parts, n_parts, in, diag);
    if (err) return err;
    in->layers = layer_count(in);
    if (in->err) return in->err;
    ap_buf_addf(b, "{\"model_type\":\"%s\"", in->family->gguf_type);
    ap_meta_add(b, "num_hidden_layers", in->layers);
    ap_meta_add(b, "hidden_size", ap_meta_required(in, "embedding_length"));
    ap_meta_add(b, "num_attention_heads", ap_meta_required(in, "attention.head_count"));
    ap_meta_add(b, "max_position_embeddings", ap_meta_required(in, "context_length"));
    ap_meta_add(b, "vocab_size", vocabulary(in));
    ap_buf_addf(b, ",\"rms_norm_eps\":%.9g",
                ap_meta_num(in, "attention.layer_norm_rms_epsilon", 1e-6));
    ap_buf_addf(b, ",\"tie_word_embeddings\":%s",
                ap_meta_tensor(in, "output.weight") ? "false" : "true");
    in->family->read(in, b);
    stop_ids(parts[0], in->family->tokens, b);
    ap_buf_adds(b, "}");
    if (!in->err && b->failed) return ap_fail_nomem(diag, b->cap, "the configuration");
    return in->err;
}

apus_err ap_gguf_family_of(const ap_gguf *g, const ap_family **out, apus_diag *diag)
{
    const ap_gguf_value *v = ap_gguf_find(g, "general.architecture");
    if (!v || v->type != AP_GGUF_STRING || v->is_array)
        return ap_fail(diag, APUS_EFORMAT, "%s: general.architecture is missing", g->name);
    char list[256];
    const uint8_t *at = v->data;
    const char *s = "";
    size_t n = 0;
    ap_gguf_next_string(v, &at, &s, &n);
    if ((*out = ap_family_of_gguf(s, n))) return APUS_OK;
    ap_family_list_gguf(list, sizeof list);
    return ap_fail(diag, APUS_EUNSUPPORTED,
                   "%s: architecture \"%.*s\" is not supported; supported are %s", g->name,
                   n < 60 ? (int)n : 60, s, list);
}
