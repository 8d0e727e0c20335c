#include "file/gguf_hf.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "file/config.h"
#include "file/family_tokens.h"

/* ---------------------------------------------------------------- tensor names */

typedef struct name_pair {
    const char *gguf, *hf;
} name_pair;

static const name_pair global_names[] = {
    {"token_embd.weight", "model.embed_tokens.weight"},
    {"output_norm.weight", "model.norm.weight"},
    {"output.weight", "lm_head.weight"},
    {"per_layer_token_embd.weight", "model.embed_tokens_per_layer.weight"},
    {"per_layer_model_proj.weight", "model.per_layer_model_projection.weight"},
    {"per_layer_proj_norm.weight", "model.per_layer_projection_norm.weight"},
    {0}};

static const name_pair shared_names[] = {
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

static const name_pair gemma_names[] = {
    {"ffn_norm.weight", "pre_feedforward_layernorm.weight"},
    {"post_ffw_norm.weight", "post_feedforward_layernorm.weight"},
    {"layer_output_scale.weight", "layer_scalar"},
    {"inp_gate.weight", "per_layer_input_gate.weight"},
    {"proj.weight", "per_layer_projection.weight"},
    {"post_norm.weight", "post_per_layer_input_norm.weight"},
    {"ffn_gate_inp.weight", "router.proj.weight"},
    {"ffn_gate_inp.scale", "router.scale"},
    {"ffn_gate_up_exps.weight", "experts.gate_up_proj"},
    {"ffn_gate_exps.weight", "experts.gate_proj"},
    {"ffn_up_exps.weight", "experts.up_proj"},
    {"ffn_down_exps.weight", "experts.down_proj"},
    {"ffn_down_exps.scale", "router.per_expert_scale"},
    {"pre_ffw_norm_2.weight", "pre_feedforward_layernorm_2.weight"},
    {"post_ffw_norm_1.weight", "post_feedforward_layernorm_1.weight"},
    {"post_ffw_norm_2.weight", "post_feedforward_layernorm_2.weight"},
    {0}};

static const name_pair qwen_names[] = {
    {"ffn_norm.weight", "post_attention_layernorm.weight"}, /* qwen3moe, qwen3 */
    {"attn_qkv.weight", "linear_attn.in_proj_qkv.weight"},
    {"attn_gate.weight", "linear_attn.in_proj_z.weight"},
    {"ssm_in.weight", "linear_attn.in_proj_qkvz.weight"},
    {"ssm_ba.weight", "linear_attn.in_proj_ba.weight"},
    {"ssm_beta.weight", "linear_attn.in_proj_b.weight"},
    {"ssm_alpha.weight", "linear_attn.in_proj_a.weight"},
    {"ssm_conv1d.weight", "linear_attn.conv1d.weight"},
    {"ssm_a", "linear_attn.neg_exp_A"},
    {"ssm_dt.bias", "linear_attn.dt_bias"},
    {"ssm_dt", "linear_attn.dt_bias"},
    {"ssm_norm.weight", "linear_attn.norm.weight"},
    {"ssm_out.weight", "linear_attn.out_proj.weight"},
    {"ffn_gate_inp.weight", "mlp.gate.weight"},
    {"ffn_gate_up_exps.weight", "mlp.experts.gate_up_proj"},
    {"ffn_gate_exps.weight", "mlp.experts.gate_proj"},
    {"ffn_up_exps.weight", "mlp.experts.up_proj"},
    {"ffn_down_exps.weight", "mlp.experts.down_proj"},
    {"ffn_gate_inp_shexp.weight", "mlp.shared_expert_gate.weight"},
    {"ffn_gate_shexp.weight", "mlp.shared_expert.gate_proj.weight"},
    {"ffn_up_shexp.weight", "mlp.shared_expert.up_proj.weight"},
    {"ffn_down_shexp.weight", "mlp.shared_expert.down_proj.weight"},
    {0}};

static const char *look_up(const name_pair *table, const char *gguf)
{
    for (; table->gguf; table++)
        if (!strcmp(table->gguf, gguf)) return table->hf;
    return NULL;
}

bool ap_gguf_tensor_name(const char *gguf, bool gemma, char *out, size_t cap)
{
    int layer, used = 0;
    const char *hf = look_up(global_names, gguf);
    if (hf) return (size_t)snprintf(out, cap, "%s", hf) < cap;
    if (sscanf(gguf, "blk.%d.%n", &layer, &used) != 1 || !used || layer < 0) return false;
    hf = look_up(shared_names, gguf + used);
    if (!hf) hf = look_up(gemma ? gemma_names : qwen_names, gguf + used);
    return hf && (size_t)snprintf(out, cap, "model.layers.%d.%s", layer, hf) < cap;
}

static const char *look_back(const name_pair *table, const char *hf)
{
    for (; table->gguf; table++)
        if (!strcmp(table->hf, hf)) return table->gguf;
    return NULL;
}

bool ap_gguf_name_of(const char *hf, ap_arch_id arch, char *out, size_t cap)
{
    int layer, used = 0;
    const char *gguf = look_back(global_names, hf);
    if (gguf) return (size_t)snprintf(out, cap, "%s", gguf) < cap;
    if (sscanf(hf, "model.layers.%d.%n", &layer, &used) != 1 || !used || layer < 0) return false;
    /* The one name that is a matter of the architecture stands first among its own. */
    if (ap_arch_is_plain_qwen(arch)) gguf = look_back(qwen_names, hf + used);
    if (!gguf) gguf = look_back(shared_names, hf + used);
    if (!gguf) gguf = look_back(ap_arch_is_gemma(arch) ? gemma_names : qwen_names, hf + used);
    return gguf && (size_t)snprintf(out, cap, "blk.%d.%s", layer, gguf) < cap;
}

/* ---------------------------------------------------------------- metadata */

static const struct family {
    const char *gguf, *model_type;
} families[] = {{"gemma4", "gemma4_text"},         {"qwen35", "qwen3_5_text"},
                {"qwen35moe", "qwen3_5_moe_text"}, {"qwen3next", "qwen3_next"},
                {"qwen3moe", "qwen3_moe"},         {"qwen3", "qwen3"},
                {"gemma3", "gemma3_text"}};

/* Reads keys below the architecture's prefix; the first failure sticks. */
typedef struct meta {
    const ap_gguf *g;
    const struct family *family;
    apus_diag *diag;
    apus_err err;
} meta;

static const ap_gguf_value *get(const meta *m, const char *key)
{
    char full[256];
    snprintf(full, sizeof full, "%s.%s", m->family->gguf, key);
    return ap_gguf_find(m->g, full);
}

static bool string_is(const ap_gguf_value *v, const char *want)
{
    const uint8_t *at = v->data;
    const char *s;
    size_t n;
    return ap_gguf_next_string(v, &at, &s, &n) && n == strlen(want) && !memcmp(s, want, n);
}

static apus_err open_meta(const ap_gguf *g, meta *m, apus_diag *diag)
{
    *m = (meta){.g = g, .diag = diag};
    const ap_gguf_value *v = ap_gguf_find(g, "general.architecture");
    if (!v || v->type != AP_GGUF_STRING || v->is_array)
        return ap_fail(diag, APUS_EFORMAT, "%s: general.architecture is missing", g->name);
    for (size_t i = 0; i < sizeof families / sizeof *families && !m->family; i++)
        if (string_is(v, families[i].gguf)) m->family = &families[i];
    if (m->family) return APUS_OK;
    const uint8_t *at = v->data;
    const char *s = "";
    size_t n = 0;
    ap_gguf_next_string(v, &at, &s, &n);
    return ap_fail(
        diag, APUS_EUNSUPPORTED,
        "%s: architecture \"%.*s\" is not supported; supported are gemma4, qwen35, qwen35moe, "
        "qwen3next, qwen3moe, qwen3 and gemma3",
        g->name, n < 60 ? (int)n : 60, s);
}

/* Element i of an integer key (a scalar stands for every element); def if the key is absent. */
static int64_t integer(meta *m, const char *key, uint64_t i, int64_t def)
{
    const ap_gguf_value *v = get(m, key);
    int64_t out = def;
    if (!v || m->err) return def;
    if (!ap_gguf_int(v, v->is_array ? i : 0, &out) || out < 0)
        m->err = ap_fail(m->diag, APUS_EFORMAT, "%s: %s.%s: expected a whole number%s", m->g->name,
                         m->family->gguf, key, v->is_array ? " for every layer" : "");
    return out;
}

static int64_t required(meta *m, const char *key)
{
    int64_t v = integer(m, key, 0, -1);
    if (v < 0 && !m->err)
        m->err = ap_fail(m->diag, APUS_EFORMAT, "%s: %s.%s is missing", m->g->name, m->family->gguf,
                         key);
    return v;
}

static double number(meta *m, const char *key, double def)
{
    const ap_gguf_value *v = get(m, key);
    double out = def;
    if (v && !m->err && (!ap_gguf_num(v, 0, &out) || !isfinite(out)))
        m->err = ap_fail(m->diag, APUS_EFORMAT, "%s: %s.%s: expected a finite number", m->g->name,
                         m->family->gguf, key);
    return isfinite(out) ? out : def;
}

static const ap_gguf_tensor *find_tensor(const ap_gguf *const *parts, size_t n_parts,
                                         const char *name)
{
    for (size_t p = 0; p < n_parts; p++)
        for (size_t i = 0; i < parts[p]->n_tensors; i++)
            if (!strcmp(parts[p]->tensor[i].name, name)) return &parts[p]->tensor[i];
    return NULL;
}

static void add_int(ap_buf *b, const char *key, int64_t v)
{
    ap_buf_addf(b, ",\"%s\":%" PRId64, key, v);
}

/* Rows of the embedding: the vocabulary, whatever the metadata says. */
static int64_t vocabulary(const ap_gguf *const *parts, size_t n_parts)
{
    const ap_gguf_tensor *t = find_tensor(parts, n_parts, "token_embd.weight");
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

static void stop_ids(const ap_gguf *g, bool gemma, ap_buf *b)
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
        for (const char *const *t = ap_family_turn_ends(gemma); *t; t++)
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

static blocks count_blocks(const ap_gguf *const *parts, size_t n_parts)
{
    blocks x = {0, -1};
    for (size_t p = 0; p < n_parts; p++)
        for (size_t i = 0; i < parts[p]->n_tensors; i++) {
            const char *name = parts[p]->tensor[i].name;
            int no, used = 0;
            if (sscanf(name, "blk.%d.%n", &no, &used) != 1 || !used || no < 0) continue;
            if (no >= x.n) x.n = (int64_t)no + 1;
            if (!strncmp(name + used, "nextn.", 6) && (x.nextn < 0 || no < x.nextn)) x.nextn = no;
        }
    return x;
}

/* Layers of the model. A head for the next tokens stands behind them as further blocks; writers differ in
 * whether block_count counts it, so the tensors decide. */
static int64_t layer_count(meta *m, const ap_gguf *const *parts, size_t n_parts)
{
    int64_t count = required(m, "block_count"), head = integer(m, "nextn_predict_layers", 0, 0);
    blocks have = count_blocks(parts, n_parts);
    int64_t layers = have.nextn >= 0 ? have.nextn : have.n ? have.n : count - head;
    if (m->err) return 0;
    if (layers < 1 || layers > AP_MAX_LAYERS)
        m->err = ap_fail(m->diag, APUS_EFORMAT,
                         "%s: %s.block_count gives %" PRId64 " layers, expected 1 .. %d",
                         m->g->name, m->family->gguf, layers, AP_MAX_LAYERS);
    else if (layers != count && layers != count - head && (have.nextn < 0 || have.n != count))
        m->err = ap_fail(m->diag, APUS_EFORMAT,
                         "%s: %s.block_count is %" PRId64 " and nextn_predict_layers %" PRId64
                         ", but the tensors make %" PRId64 " layers%s",
                         m->g->name, m->family->gguf, count, head, layers,
                         have.nextn >= 0 ? " and a head for the next tokens" : "");
    return layers;
}

static void layer_kinds(meta *m, ap_buf *b, int64_t layers, bool gemma)
{
    const ap_gguf_value *list =
        get(m, gemma ? "attention.sliding_window_pattern" : "attention.recurrent_layers");
    int64_t interval = integer(m, "full_attention_interval", 0, 4);
    if (interval < 1) interval = 1;
    ap_buf_adds(b, ",\"layer_types\":[");
    for (int64_t l = 0; l < layers; l++) {
        int64_t other = gemma ? (l + 1) % 6 != 0 : (l + 1) % interval != 0;
        if (list && list->is_array && !ap_gguf_int(list, (uint64_t)l, &other) && !m->err)
            m->err =
                ap_fail(m->diag, APUS_EFORMAT,
                        "%s: %s: expected a flag for each of %" PRId64 " layers, found %" PRIu64,
                        m->g->name, list->key, layers, list->count);
        ap_buf_addf(b, "%s\"%s\"", l ? "," : "",
                    !other  ? "full_attention"
                    : gemma ? "sliding_attention"
                            : "linear_attention");
    }
    ap_buf_adds(b, "]");
}

/* Does a divisor stop its angle? 1e30 does, and what is left of it in 16 bits. */
static bool is_still(float divisor, ap_dtype stored)
{
    return divisor >= (stored == AP_F16 ? 6e4f : 1e29f);
}

/* Share of a full layer's dims that rope_freqs leaves turning: divisors are 1 or out of reach. */
static double rotated_share(meta *m, const ap_gguf *const *parts, size_t n_parts, int64_t head_dim)
{
    const ap_gguf_tensor *t = find_tensor(parts, n_parts, "rope_freqs.weight");
    if (!t) {
        if (!m->err)
            m->err = ap_fail(m->diag, APUS_EFORMAT, "%s: tensor \"rope_freqs.weight\" is missing",
                             m->g->name);
        return 1;
    }
    int64_t n = ap_tensor_count(&t->tensor), turning = 0;
    ap_dtype type = t->tensor.dtype;
    bool ok = (type == AP_F32 || type == AP_F16 || type == AP_BF16) && n == head_dim / 2;
    for (int64_t i = 0; ok && i < n; i++) {
        float f;
        ap_to_f32(type, (const uint8_t *)t->tensor.data + (size_t)i * ap_dtype_bytes(type), &f, 1);
        if (f == 1.0f && turning == i)
            turning++;
        else
            ok = is_still(f, type);
    }
    if (!ok && !m->err)
        m->err = ap_fail(m->diag, APUS_EUNSUPPORTED,
                         "%s: tensor \"rope_freqs.weight\": expected %" PRId64
                         " divisors in f32, f16 or bf16, ones and then 1e30",
                         m->g->name, head_dim / 2);
    return 2.0 * (double)turning / (double)head_dim;
}

static void gemma_config(meta *m, const ap_gguf *const *parts, size_t n_parts, int64_t layers,
                         ap_buf *b)
{
    int64_t dim = required(m, "attention.key_length"),
            swa = integer(m, "attention.key_length_swa", 0, dim);
    const ap_gguf_value *pattern = get(m, "attention.sliding_window_pattern");
    int64_t sliding_kv = -1, first_full = -1;
    ap_buf full = {0};
    for (int64_t l = 0; l < layers && !m->err; l++) {
        int64_t is_sliding = (l + 1) % 6 != 0,
                kv = integer(m, "attention.head_count_kv", (uint64_t)l, 0);
        if (pattern && pattern->is_array) ap_gguf_int(pattern, (uint64_t)l, &is_sliding);
        if (is_sliding) {
            sliding_kv = kv;
            continue;
        }
        ap_buf_addf(&full,
                    "%s\"%" PRId64 "\":{\"head_dim\":%" PRId64 ",\"num_key_value_heads\":%" PRId64
                    "}",
                    first_full >= 0 ? "," : "", l, dim, kv);
        if (first_full < 0) first_full = l;
    }
    char name[64];
    snprintf(name, sizeof name, "blk.%" PRId64 ".attn_v.weight", first_full);
    bool k_eq_v = first_full >= 0 && !find_tensor(parts, n_parts, name);
    int64_t ffn = integer(m, "feed_forward_length", 0, 0);
    int64_t last = integer(m, "feed_forward_length", (uint64_t)layers - 1, ffn);
    if (sliding_kv < 0) sliding_kv = integer(m, "attention.head_count_kv", 0, 1);
    add_int(b, "head_dim", swa);
    add_int(b, "num_key_value_heads", sliding_kv);
    ap_buf_addf(b, ",\"per_layer_config\":{%s},\"attention_k_eq_v\":%s", full.data ? full.data : "",
                k_eq_v ? "true" : "false");
    b->failed |= full.failed;
    ap_buf_free(&full);
    add_int(b, "intermediate_size", ffn);
    ap_buf_addf(b, ",\"use_double_wide_mlp\":%s", last == 2 * ffn ? "true" : "false");
    add_int(b, "num_kv_shared_layers", integer(m, "attention.shared_kv_layers", 0, 0));
    add_int(b, "sliding_window", integer(m, "attention.sliding_window", 0, 1024));
    int64_t ple = integer(m, "embedding_length_per_layer_input", 0, 0);
    add_int(b, "hidden_size_per_layer_input", ple);
    if (ple) {
        const ap_gguf_tensor *t = find_tensor(parts, n_parts, "per_layer_token_embd.weight");
        add_int(b, "vocab_size_per_layer_input", t ? t->tensor.shape[0] : 0);
    }
    int64_t experts = integer(m, "expert_count", 0, 0);
    ap_buf_addf(b, ",\"enable_moe_block\":%s", experts ? "true" : "false");
    if (experts) {
        add_int(b, "num_experts", experts);
        add_int(b, "top_k_experts", required(m, "expert_used_count"));
        add_int(b, "moe_intermediate_size", required(m, "expert_feed_forward_length"));
    }
    ap_buf_addf(b, ",\"final_logit_softcapping\":%.9g", number(m, "final_logit_softcapping", 30));
    ap_buf_addf(b,
                ",\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"proportional\",\"rope_"
                "theta\":%.17g,"
                "\"partial_rotary_factor\":%.17g},\"sliding_attention\":{\"rope_type\":\"default\","
                "\"rope_theta\":%.17g}}",
                number(m, "rope.freq_base", 1e6), rotated_share(m, parts, n_parts, dim),
                number(m, "rope.freq_base_swa", 1e4));
}

/* Qwen with attention in every layer and plain norms. */
static bool is_plain(const meta *m)
{
    return !strcmp(m->family->gguf, "qwen3moe") || !strcmp(m->family->gguf, "qwen3");
}

static void gemma3_config(meta *m, int64_t layers, ap_buf *b)
{
    int64_t dim = integer(m, "attention.key_length", 0, 256);
    int64_t heads = required(m, "attention.head_count"), hidden = required(m, "embedding_length");
    double factor = number(m, "rope.scaling.factor", 1),
           cap = number(m, "final_logit_softcapping", 0);
    add_int(b, "head_dim", dim);
    add_int(b, "num_key_value_heads", required(m, "attention.head_count_kv"));
    add_int(b, "intermediate_size", required(m, "feed_forward_length"));
    add_int(b, "sliding_window", required(m, "attention.sliding_window"));
    /* No key tells the scale; the 27B alone takes another than the head's size. */
    add_int(b, "query_pre_attn_scalar", layers == 62 && heads > 0 ? hidden / heads : dim);
    if (cap > 0) ap_buf_addf(b, ",\"final_logit_softcapping\":%.9g", cap);
    ap_buf_addf(
        b,
        ",\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"linear\",\"factor\":%.17g,"
        "\"rope_theta\":%.17g},\"sliding_attention\":{\"rope_type\":\"default\","
        "\"rope_theta\":%.17g}}",
        factor, number(m, "rope.freq_base", 1e6), number(m, "rope.freq_base_swa", 1e4));
}

/* K/V heads of the attention layers: some writers list every layer, recurrent ones with 0. */
static int64_t kv_heads(meta *m)
{
    const ap_gguf_value *v = get(m, "attention.head_count_kv");
    int64_t n = required(m, "attention.head_count_kv");
    for (uint64_t i = 1; v && v->is_array && n == 0 && i < v->count; i++)
        n = integer(m, "attention.head_count_kv", i, 0);
    return n;
}

static void qwen_rope(meta *m, int64_t head_dim, ap_buf *b)
{
    int64_t rotated = integer(m, "rope.dimension_count", 0, head_dim);
    const ap_gguf_value *type = get(m, "rope.scaling.type");
    ap_buf_addf(b, ",\"rope_parameters\":{\"rope_theta\":%.17g,\"partial_rotary_factor\":%.17g",
                number(m, "rope.freq_base", 1e7),
                head_dim > 0 ? (double)rotated / (double)head_dim : 1);
    if (type && type->type == AP_GGUF_STRING && !string_is(type, "none")) {
        const uint8_t *at = type->data;
        const char *s = "";
        size_t n = 0;
        ap_gguf_next_string(type, &at, &s, &n);
        ap_buf_adds(b, ",\"rope_type\":");
        ap_json_quote(b, s, n, true);
        ap_buf_addf(b, ",\"factor\":%.17g", number(m, "rope.scaling.factor", 1));
        add_int(b, "original_max_position_embeddings",
                required(m, "rope.scaling.original_context_length"));
    } else {
        ap_buf_adds(b, ",\"rope_type\":\"default\"");
    }
    ap_buf_adds(b, "}");
}

static void qwen_config(meta *m, ap_buf *b)
{
    bool plain = is_plain(m),
         dense = !strcmp(m->family->gguf, "qwen35") || !strcmp(m->family->gguf, "qwen3");
    int64_t dim = required(m, "attention.key_length");
    add_int(b, "head_dim", dim);
    add_int(b, "num_key_value_heads", kv_heads(m));
    qwen_rope(m, dim, b);
    if (!plain) {
        int64_t v_heads = required(m, "ssm.time_step_rank"), inner = required(m, "ssm.inner_size");
        add_int(b, "linear_num_key_heads", required(m, "ssm.group_count"));
        add_int(b, "linear_num_value_heads", v_heads);
        add_int(b, "linear_key_head_dim", required(m, "ssm.state_size"));
        add_int(b, "linear_value_head_dim", v_heads > 0 ? inner / v_heads : 0);
        add_int(b, "linear_conv_kernel_dim", integer(m, "ssm.conv_kernel", 0, 4));
    }
    if (dense || get(m, "feed_forward_length"))
        add_int(b, "intermediate_size", integer(m, "feed_forward_length", 0, 0));
    if (dense) return;
    add_int(b, "num_experts", required(m, "expert_count"));
    add_int(b, "num_experts_per_tok", required(m, "expert_used_count"));
    add_int(b, "moe_intermediate_size", required(m, "expert_feed_forward_length"));
    if (!plain)
        add_int(b, "shared_expert_intermediate_size",
                integer(m, "expert_shared_feed_forward_length", 0,
                        integer(m, "expert_feed_forward_length", 0, 0)));
    ap_buf_adds(b, ",\"norm_topk_prob\":true");
}

apus_err ap_gguf_config_json(const ap_gguf *const *parts, size_t n_parts, ap_buf *b,
                             apus_diag *diag)
{
    meta m;
    apus_err err = open_meta(parts[0], &m, diag);
    if (err) return err;
    bool gemma = !strncmp(m.family->gguf, "gemma", 5);
    int64_t layers = layer_count(&m, parts, n_parts);
    if (m.err) return m.err;
    ap_buf_addf(b, "{\"model_type\":\"%s\"", m.family->model_type);
    add_int(b, "num_hidden_layers", layers);
    add_int(b, "hidden_size", required(&m, "embedding_length"));
    add_int(b, "num_attention_heads", required(&m, "attention.head_count"));
    add_int(b, "max_position_embeddings", required(&m, "context_length"));
    add_int(b, "vocab_size", vocabulary(parts, n_parts));
    ap_buf_addf(b, ",\"rms_norm_eps\":%.9g", number(&m, "attention.layer_norm_rms_epsilon", 1e-6));
    ap_buf_addf(b, ",\"tie_word_embeddings\":%s",
                find_tensor(parts, n_parts, "output.weight") ? "false" : "true");
    if (!is_plain(&m)) layer_kinds(&m, b, layers, gemma);
    if (!strcmp(m.family->gguf, "gemma3"))
        gemma3_config(&m, layers, b);
    else if (gemma)
        gemma_config(&m, parts, n_parts, layers, b);
    else
        qwen_config(&m, b);
    stop_ids(m.g, gemma, b);
    ap_buf_adds(b, "}");
    if (!m.err && b->failed) return ap_fail_nomem(diag, b->cap, "the configuration");
    return m.err;
}

apus_err ap_gguf_traits_of(const ap_gguf *g, ap_gguf_traits *out, apus_diag *diag)
{
    meta m;
    apus_err err = open_meta(g, &m, diag);
    if (err) return err;
    out->gemma = !strncmp(m.family->gguf, "gemma", 5);
    out->norms_shifted = strcmp(m.family->gguf, "gemma4") && !is_plain(&m);
    out->value_heads_tiled =
        !strcmp(m.family->gguf, "qwen35") || !strcmp(m.family->gguf, "qwen35moe");
    return APUS_OK;
}
