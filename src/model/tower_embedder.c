/* tower_embedder.c - Gemma 4 without a tower: patches are normed and projected as they are. Source: the Gemma 4
 * specification section 4.6 and transformers' Gemma4UnifiedVisionEmbedder, checked against tests/golden_media. */
#include <stdio.h>

#include "model/tower_impl.h"

#define NORM_EPS 1e-5f /* of layer norms, whatever the configuration says */

static void bind_norm(ap_bind *b, ap_norm_weights *out, int n, const char *module)
{
    ap_bind_vec(b, &out->weight, n, 0, "%s.weight", module);
    ap_bind_vec(b, &out->bias, n, 0, "%s.bias", module);
}

/* Two names for the same: of published files, and of what transformers has in memory. */
static void bind(ap_bind *b, ap_tower *t)
{
    const ap_vision_config *v = &t->v;
    int D = v->hidden;
    char name[64];
    const char *module =
        ap_bind_has(b, "vision_embedder.patch_dense.weight") ? "vision_embedder" : "embed_vision";
    const char *project = ap_bind_has(b, "embed_vision.embedding_projection.weight")
                              ? "embed_vision.embedding_projection.weight"
                              : "embed_vision.multimodal_embedder.embedding_projection.weight";
    snprintf(name, sizeof name, "%s.patch_ln1", module);
    bind_norm(b, &t->norm_in, v->patch_width, name);
    ap_bind_mat(b, &t->patch.w, D, v->patch_width, "%s.patch_dense.weight", module);
    ap_bind_vec(b, &t->patch.bias, D, 0, "%s.patch_dense.bias", module);
    snprintf(name, sizeof name, "%s.patch_ln2", module);
    bind_norm(b, &t->norm_patch, D, name);
    ap_tensor table =
        ap_bind_view(b, 3, (int64_t[]){v->positions, 2, D}, "%s.pos_embedding", module);
    ap_tower_bind_table(b, t, &table);
    snprintf(name, sizeof name, "%s.pos_norm", module);
    bind_norm(b, &t->norm_out, D, name);
    ap_bind_mat(b, &t->project.w, v->out, D, "%s", project);
}

static size_t n_tap(const ap_tower *t, int rows)
{
    (void)t, (void)rows;
    return 0;
}

/* The table has a column's and a row's position by turns. */
static void fill(const ap_tower_work *w, const ap_patches *p)
{
    for (int t = 0; t < w->n; t++) {
        const int32_t *pos = p->pos[w->order ? w->order[t] : t];
        w->host.tok[t] = 2 * pos[0];
        w->host.tok[w->n + t] = 2 * pos[1] + 1;
    }
}

static void embed(const ap_tower_work *w, const ap_piece *p, const float *patches)
{
    const ap_tower *t = w->t;
    const ap_exec *ex = &w->ex;
    int D = t->v.hidden;
    float *x = w->x + (size_t)p->first * (size_t)D;
    ap_tower_layer_norm(ex, patches, &t->norm_in, w->h, p->n, t->v.patch_width, NORM_EPS);
    ap_matmul(ex, w->h, &t->patch.w, w->a, p->n);
    ap_tower_bias(ex, AP_ELEM_ADD, t->patch.bias, w->a, p->n, D);
    ap_tower_layer_norm(ex, w->a, &t->norm_patch, w->a, p->n, D, NORM_EPS);
    ap_tower_positions(w, p, x);
    ex->k->elem(ex, &(ap_elem_args){.op = AP_ELEM_ADD,
                                    .y = x,
                                    .x = w->a,
                                    .ldy = D,
                                    .ldx = D,
                                    .rows = p->n,
                                    .n = D,
                                    .n_block = 1});
    ap_tower_layer_norm(ex, x, &t->norm_out, x, p->n, D, NORM_EPS);
}

static void project(const ap_tower_work *w, const ap_piece *p)
{
    int D = w->t->v.hidden;
    ap_norm(&w->ex, w->x + (size_t)p->first * (size_t)D, NULL, w->h, p->n, D, w->t->v.norm_eps);
    ap_matmul(&w->ex, w->h, &w->t->project.w, w->out, p->n);
}

static const char *const prefixes[] = {"model.", "", NULL};

const ap_tower_family ap_tower_embedder = {.prefixes = prefixes,
                                           .mark = "vision_embedder.patch_dense.weight",
                                           .other_mark = "embed_vision.patch_dense.weight",
                                           .bind = bind,
                                           .n_tap = n_tap,
                                           .index = fill,
                                           .embed = embed,
                                           .project = project};
