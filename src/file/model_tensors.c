#include "file/model_tensors.h"

#include <stdio.h>

#include "file/family.h"

/* leaf: the name behind "layers.N.", or a whole name outside the layers. */
void ap_walk_emit(ap_tensor_walk *w, ap_tensor_role role, int rank, const int64_t *shape,
                  const char *leaf)
{
    char name[96];
    if (w->err) return;
    if (w->layer < 0)
        snprintf(name, sizeof name, "%s", leaf);
    else
        snprintf(name, sizeof name, "layers.%d.%s", w->layer, leaf);
    ap_model_tensor t = {.name = name, .role = role, .layer = w->layer, .rank = rank};
    for (int i = 0; i < rank; i++) t.shape[i] = shape[i];
    w->err = w->fn(w->ctx, &t);
}

void ap_walk_vec(ap_tensor_walk *w, ap_tensor_role role, int64_t n, const char *leaf)
{
    ap_walk_emit(w, role, 1, &n, leaf);
}

void ap_walk_mat(ap_tensor_walk *w, ap_tensor_role role, int64_t rows, int64_t cols,
                 const char *leaf)
{
    ap_walk_emit(w, role, 2, (int64_t[]){rows, cols}, leaf);
}

void ap_walk_experts(ap_tensor_walk *w, const char *gate_up, const char *down)
{
    int64_t E = w->c->n_expert, F = w->c->expert_ffn, H = w->c->hidden;
    ap_walk_emit(w, AP_ROLE_MATRIX, 3, (int64_t[]){E, 2 * F, H}, gate_up);
    ap_walk_emit(w, AP_ROLE_MATRIX, 3, (int64_t[]){E, H, F}, down);
}

void ap_walk_dense(ap_tensor_walk *w, int64_t ffn)
{
    int64_t H = w->c->hidden;
    ap_walk_mat(w, AP_ROLE_MATRIX, ffn, H, "mlp.gate_proj.weight");
    ap_walk_mat(w, AP_ROLE_MATRIX, ffn, H, "mlp.up_proj.weight");
    ap_walk_mat(w, AP_ROLE_MATRIX, H, ffn, "mlp.down_proj.weight");
}

ap_tensor_role ap_walk_norm(const ap_tensor_walk *w)
{
    return w->f->norm_offset ? AP_ROLE_NORM_OFFSET : AP_ROLE_NORM;
}

apus_err ap_model_tensors(const ap_config *c, ap_model_tensor_fn fn, void *ctx)
{
    ap_tensor_walk walk = {.c = c, .f = ap_family_of(c->arch), .fn = fn, .ctx = ctx, .layer = -1},
                   *w = &walk;
    ap_walk_mat(w, AP_ROLE_EMBED, c->vocab, c->hidden, "embed_tokens.weight");
    if (w->f->tensors) w->f->tensors(w);
    for (int l = 0; l < c->n_layer && !w->err; l++) {
        w->layer = l;
        w->f->layer(w, &c->layer[l]);
    }
    w->layer = -1;
    ap_walk_vec(w, ap_walk_norm(w), c->hidden, "norm.weight");
    if (!c->tie_embeddings) ap_walk_mat(w, AP_ROLE_HEAD, c->vocab, c->hidden, "lm_head.weight");
    return w->err;
}
