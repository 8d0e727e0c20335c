#include "file/gguf_layout.h"

#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "file/family.h"
#include "file/gguf_hf.h"

static void set_name(ap_gguf_out *o, const ap_config *c, const ap_model_tensor *t, const char *leaf)
{
    char full[128];
    if (leaf) {
        snprintf(o->name, sizeof o->name, "blk.%d.%s", t->layer, leaf);
        return;
    }
    snprintf(full, sizeof full, "%s%s", !strcmp(t->name, "lm_head.weight") ? "" : "model.",
             t->name);
    ap_gguf_name_of(full, ap_family_of(c->arch), o->name, sizeof o->name);
}

static void set_shape(ap_gguf_out *o, int rank, int64_t a, int64_t b, int64_t d)
{
    const int64_t shape[3] = {a, b, d};
    o->rank = rank;
    o->rows = 1;
    for (int i = 0; i < rank; i++) o->shape[i] = shape[i];
    for (int i = 0; i + 1 < rank; i++) o->rows *= (size_t)shape[i];
    o->cols = (size_t)shape[rank - 1];
}

/* Where value heads are: everything of a delta layer but its norm and the q and k parts. */
static void tile(ap_gguf_out *o, const ap_config *c, const char *leaf)
{
    bool cols = ap_ends_with(leaf, "out_proj.weight");
    bool joint = ap_ends_with(leaf, "in_proj_qkv.weight") || ap_ends_with(leaf, "conv1d.weight");
    bool heads = ap_ends_with(leaf, "in_proj_a.weight") || ap_ends_with(leaf, "in_proj_b.weight") ||
                 ap_ends_with(leaf, "A_log") || ap_ends_with(leaf, "dt_bias");
    if (!ap_family_of(c->arch)->tiled_heads) return;
    if (c->gdn_v_head == c->gdn_k_head || ap_ends_with(leaf, "linear_attn.norm.weight")) return;
    /* A vector with one value per head is one row: its columns move. */
    bool vector = o->rank == 1;
    o->map = cols || vector ? AP_GGUF_TILED_COLS : AP_GGUF_TILED_ROWS;
    o->key_heads = (size_t)c->gdn_k_head;
    o->ratio = (size_t)(c->gdn_v_head / c->gdn_k_head);
    o->dims = heads ? 1 : (size_t)c->gdn_v_dim;
    if (joint) o->begin = 2 * (size_t)c->gdn_k_head * (size_t)c->gdn_k_dim;
}

static int split_qkvz(const ap_config *c, const ap_model_tensor *t, ap_gguf_out *o)
{
    int64_t z = (int64_t)c->gdn_v_head * c->gdn_v_dim, H = t->shape[1];
    for (int i = 0; i < 2; i++) {
        set_name(&o[i], c, t, i ? "attn_gate.weight" : "attn_qkv.weight");
        set_shape(&o[i], 2, i ? z : t->shape[0] - z, H, 0);
        o[i].map = i ? AP_GGUF_QKVZ_Z : AP_GGUF_QKVZ_QKV;
        o[i].key_heads = (size_t)c->gdn_k_head;
        o[i].key_dims = (size_t)c->gdn_k_dim;
        o[i].ratio = (size_t)(c->gdn_v_head / c->gdn_k_head);
        o[i].dims = (size_t)c->gdn_v_dim;
    }
    return 2;
}

static int split_experts(const ap_config *c, const ap_model_tensor *t, ap_gguf_out *o)
{
    int64_t half = t->shape[1] / 2;
    for (int i = 0; i < 2; i++) {
        set_name(&o[i], c, t, i ? "ffn_up_exps.weight" : "ffn_gate_exps.weight");
        set_shape(&o[i], 3, t->shape[0], half, t->shape[2]);
        o[i].map = AP_GGUF_HALVES;
        o[i].run = (size_t)half;
        o[i].stride = 2 * (size_t)half;
        o[i].begin = (size_t)i * (size_t)half;
    }
    return 2;
}

int ap_gguf_layout(const ap_config *c, const ap_model_tensor *t, ap_gguf_out out[2])
{
    memset(out, 0, 2 * sizeof *out);
    bool joint = ap_family_of(c->arch)->joint_experts;
    if (!joint && ap_ends_with(t->name, "experts.gate_up_proj")) return split_experts(c, t, out);
    if (ap_ends_with(t->name, "in_proj_qkvz.weight")) return split_qkvz(c, t, out);
    set_name(out, c, t, t->role == AP_ROLE_A_LOG ? "ssm_a" : NULL);
    out->vector = t->rank == 1;
    if (t->role == AP_ROLE_CONV) {
        set_shape(out, 2, t->shape[0], t->shape[2], 0);
        out->vector = true;
    } else if (t->role == AP_ROLE_GATE_ROW) {
        set_shape(out, 1, t->shape[1], 0, 0);
        out->vector = true;
    } else {
        set_shape(out, t->rank, t->shape[0], t->shape[1], t->shape[2]);
    }
    if (t->role == AP_ROLE_NORM_OFFSET) out->op = AP_GGUF_ADD_ONE;
    if (t->role == AP_ROLE_A_LOG) out->op = AP_GGUF_NEG_EXP;
    if (strstr(t->name, "linear_attn.")) tile(out, c, t->name);
    return 1;
}

/* Place in the model's order of place i in the tiled order. */
static size_t untile(const ap_gguf_out *o, size_t i)
{
    if (i < o->begin) return i;
    size_t head = (i - o->begin) / o->dims, within = (i - o->begin) % o->dims;
    size_t key = head % o->key_heads, j = head / o->key_heads;
    return o->begin + (key * o->ratio + j) * o->dims + within;
}

/* Row r of all q, all k, all v in the joint projection, whose groups are [q | k | v r heads | z r heads]. */
static size_t of_group(const ap_gguf_out *o, size_t r)
{
    size_t v = o->ratio * o->dims, k = o->key_dims, group = 2 * k + 2 * v,
           q_rows = o->key_heads * k;
    if (o->map == AP_GGUF_QKVZ_Z) return r / v * group + 2 * k + v + r % v;
    if (r < q_rows) return r / k * group + r % k;
    r -= q_rows;
    if (r < q_rows) return r / k * group + k + r % k;
    r -= q_rows;
    return r / v * group + 2 * k + r % v;
}

size_t ap_gguf_row_of(const ap_gguf_out *o, size_t r)
{
    switch (o->map) {
    case AP_GGUF_HALVES:
        return r / o->run * o->stride + o->begin + r % o->run;
    case AP_GGUF_TILED_ROWS:
        return untile(o, r);
    case AP_GGUF_QKVZ_QKV:
    case AP_GGUF_QKVZ_Z:
        return of_group(o, r);
    default:
        return r;
    }
}

size_t ap_gguf_col_of(const ap_gguf_out *o, size_t c)
{
    return o->map == AP_GGUF_TILED_COLS ? untile(o, c) : c;
}

void ap_gguf_rope_freqs(const ap_config *c, int *n, int *turning)
{
    *n = c->layer[c->n_layer - 1].head_dim / 2;
    *turning = c->rope_full.n_angle;
}
