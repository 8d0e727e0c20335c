/* tower_gemma.c - the vision tower of Gemma 4. Source: the Gemma 4 specification section 4 and transformers'
 * Gemma4VisionModel, checked against tests/golden_media.
 *
 * Rows are in the order of the soft tokens that they become (tower.c puts them so), so that what is pooled are
 * neighbours. A head's dims are put in another order when its weights are bound: those that turn with the column,
 * then those that turn with the row, each by its first halves; then they turn as other heads do, in pairs half a
 * head apart, and no score changes. */
#include <math.h>
#include <stdio.h>

#include "base/mem.h"
#include "model/tower_impl.h"

#define NAME_ROOM 96

static const char *in_layer(char name[NAME_ROOM], int l, const char *leaf)
{
    snprintf(name, NAME_ROOM, "vision_tower.encoder.layers.%d.%s", l, leaf);
    return name;
}

/* Where dim i of a head of n is in the file. */
static int from_dim(int i, int n)
{
    int quarter = n / 4, part = i / quarter;
    static const int order[] = {0, 2, 1, 3};
    return order[part] * quarter + i % quarter;
}

/* Queries or keys: the dims of each head in the order that turning wants. */
static void bind_turned(ap_bind *b, const ap_vision_config *v, ap_linear *out, int heads,
                        const char *module)
{
    int rows = heads * v->head_dim, *row = ap_malloc((size_t)rows, sizeof *row);
    *out = (ap_linear){.in = {-INFINITY, INFINITY}, .out = {-INFINITY, INFINITY}};
    if (v->clipped) ap_bind_bounds(b, out, module);
    ap_tensor t = ap_bind_view(b, 2, (int64_t[]){rows, v->hidden}, "%s.linear.weight", module);
    if (!row && !b->err) b->err = ap_fail_nomem(b->diag, (size_t)rows * sizeof *row, "a weight");
    for (int i = 0; row && i < rows; i++)
        row[i] = i / v->head_dim * v->head_dim + from_dim(i % v->head_dim, v->head_dim);
    ap_bind_mat_rows(b, &out->w, &t, row, rows);
    ap_free(row);
}

static void bind_turned_norm(ap_bind *b, int n, const float **out, const char *module)
{
    float copy[2 * AP_MAX_ROT];
    float *w = ap_bind_vec(b, out, n, 0, "%s.weight", module);
    if (!w) return;
    for (int i = 0; i < n; i++) copy[i] = w[from_dim(i, n)];
    for (int i = 0; i < n; i++) w[i] = copy[i];
}

static void bind_layer(ap_bind *b, const ap_vision_config *v, int l, ap_tower_layer *y)
{
    char name[NAME_ROOM];
    int D = v->hidden, q = v->n_head * v->head_dim, kv = v->n_kv_head * v->head_dim;
    bool clip = v->clipped;
    const struct {
        const char *leaf;
        ap_norm_weights *to;
    } norms[] = {{"input_layernorm", &y->norm_attn},
                 {"post_attention_layernorm", &y->norm_post_attn},
                 {"pre_feedforward_layernorm", &y->norm_ffn},
                 {"post_feedforward_layernorm", &y->norm_post_ffn}};
    for (int i = 0; i < 4; i++)
        ap_bind_vec(b, &norms[i].to->weight, D, 0, "%s.weight", in_layer(name, l, norms[i].leaf));
    bind_turned(b, v, &y->q, v->n_head, in_layer(name, l, "self_attn.q_proj"));
    bind_turned(b, v, &y->k, v->n_kv_head, in_layer(name, l, "self_attn.k_proj"));
    ap_bind_clipped(b, clip, &y->v, kv, D, in_layer(name, l, "self_attn.v_proj"));
    ap_bind_clipped(b, clip, &y->o, D, q, in_layer(name, l, "self_attn.o_proj"));
    bind_turned_norm(b, v->head_dim, &y->q_norm, in_layer(name, l, "self_attn.q_norm"));
    bind_turned_norm(b, v->head_dim, &y->k_norm, in_layer(name, l, "self_attn.k_norm"));
    ap_bind_clipped(b, clip, &y->gate, v->ffn, D, in_layer(name, l, "mlp.gate_proj"));
    ap_bind_clipped(b, clip, &y->up, v->ffn, D, in_layer(name, l, "mlp.up_proj"));
    ap_bind_clipped(b, clip, &y->down, D, v->ffn, in_layer(name, l, "mlp.down_proj"));
}

static void bind(ap_bind *b, ap_tower *t)
{
    const ap_vision_config *v = &t->v;
    int D = v->hidden;
    ap_bind_mat(b, &t->patch.w, D, v->patch_width, "vision_tower.patch_embedder.input_proj.weight");
    ap_tensor table = ap_bind_view(b, 3, (int64_t[]){2, v->positions, D},
                                   "vision_tower.patch_embedder.position_embedding_table");
    ap_tower_bind_table(b, t, &table);
    for (int l = 0; l < v->n_layer && !b->err; l++) bind_layer(b, v, l, &t->layer[l]);
    if (v->standardize) {
        float *bias = ap_bind_vec(b, &t->std_bias, D, 0, "vision_tower.std_bias");
        for (int i = 0; bias && i < D; i++) bias[i] = -bias[i]; /* to be added */
        ap_bind_vec(b, &t->std_scale, D, 0, "vision_tower.std_scale");
    }
    ap_bind_mat(b, &t->project.w, v->out, D, "embed_vision.embedding_projection.weight");
}

static size_t n_tap(const ap_tower *t, int rows)
{
    (void)t;
    return (size_t)rows;
}

/* Positions of columns stand before those of rows in the table. A soft token is the mean of its square, times
 * the root of the width. */
static void fill(const ap_tower_work *w, const ap_patches *p)
{
    const ap_vision_config *v = &w->t->v;
    int square = v->merge * v->merge;
    for (int t = 0; t < w->n; t++) {
        const int32_t *pos = p->pos[w->order ? w->order[t] : t];
        w->host.axis[t] = w->host.tok[t] = pos[0];
        w->host.axis[w->n + t] = pos[1];
        w->host.tok[w->n + t] = v->positions + pos[1];
        w->host.tap[t] = t % w->piece;
        w->host.tap_weight[t] = (float)(sqrt((double)v->hidden) / square);
    }
}

static void embed(const ap_tower_work *w, const ap_piece *p, const float *patches)
{
    int D = w->t->v.hidden;
    float *x = w->x + (size_t)p->first * (size_t)D;
    ap_tower_positions(w, p, x);
    ap_matmul_add(&w->ex, patches, &w->t->patch.w, x, p->n);
}

static void norm_add(const ap_tower_work *w, const float *from, const ap_norm_weights *n, float *x,
                     int rows)
{
    ap_norm_add(&w->ex, from, n->weight, x, rows, w->t->v.hidden, w->t->v.norm_eps, 1.0f);
}

static void attention(const ap_tower_work *w, const ap_tower_layer *y)
{
    const ap_vision_config *v = &w->t->v;
    const ap_exec *ex = &w->ex;
    int D = v->hidden, q = v->n_head * v->head_dim, kv = v->n_kv_head * v->head_dim;
    for (int i = 0; i < w->n_piece; i++) {
        ap_piece p = ap_tower_piece(w, i);
        float *to_q = w->a, *to_k = to_q + (size_t)p.n * (size_t)q,
              *to_v = to_k + (size_t)p.n * (size_t)kv;
        ap_norm(ex, w->x + (size_t)p.first * (size_t)D, y->norm_attn.weight, w->h, p.n, D,
                v->norm_eps);
        ap_linear_run(ex, &y->q, w->h, w->b, to_q, p.n);
        ap_linear_run(ex, &y->k, w->h, w->b, to_k, p.n);
        ap_linear_run(ex, &y->v, w->h, w->b, to_v, p.n);
        ap_tower_qkv(w, y, &p, to_q, to_k, to_v, q, kv);
    }
    for (int i = 0; i < w->n_piece; i++) {
        ap_piece p = ap_tower_piece(w, i);
        ap_tower_attend(w, &p, 1);
        ap_linear_run(ex, &y->o, w->h, w->b, w->a, p.n);
        norm_add(w, w->a, &y->norm_post_attn, w->x + (size_t)p.first * (size_t)D, p.n);
    }
}

/* w->a = gelu(gate w->h) * (up w->h) */
static void gated(const ap_tower_work *w, const ap_tower_layer *y, int n)
{
    int F = w->t->v.ffn;
    const ap_exec *ex = &w->ex;
    if (!w->t->v.clipped) {
        ex->k->glu(ex, &(ap_glu_args){.x = w->h,
                                      .gate = &y->gate.w,
                                      .up = &y->up.w,
                                      .y = w->a,
                                      .ldx = y->gate.w.cols,
                                      .ldy = F,
                                      .n_tok = n,
                                      .act = AP_ACT_GELU_TANH});
        return;
    }
    ap_linear_run(ex, &y->gate, w->h, w->b, w->a, n);
    ap_linear_run(ex, &y->up, w->h, w->c, w->b, n);
    ex->k->elem(ex, &(ap_elem_args){.op = AP_ELEM_GELU_MUL,
                                    .y = w->a,
                                    .x = w->b,
                                    .ldy = F,
                                    .ldx = F,
                                    .rows = n,
                                    .n = F,
                                    .n_block = 1});
}

static void feed_forward(const ap_tower_work *w, const ap_tower_layer *y)
{
    const ap_vision_config *v = &w->t->v;
    int D = v->hidden;
    for (int i = 0; i < w->n_piece; i++) {
        ap_piece p = ap_tower_piece(w, i);
        float *x = w->x + (size_t)p.first * (size_t)D;
        ap_norm(&w->ex, x, y->norm_ffn.weight, w->h, p.n, D, v->norm_eps);
        gated(w, y, p.n);
        ap_linear_run(&w->ex, &y->down, w->a, w->b, w->h, p.n);
        norm_add(w, w->h, &y->norm_post_ffn, x, p.n);
    }
}

static void layer(const ap_tower_work *w, const ap_tower_layer *y)
{
    attention(w, y);
    feed_forward(w, y);
}

static void project(const ap_tower_work *w, const ap_piece *p)
{
    const ap_vision_config *v = &w->t->v;
    const ap_exec *ex = &w->ex;
    int D = v->hidden, square = v->merge * v->merge, n = p->n / square;
    ex->k->blend(ex, &(ap_blend_args){.x = w->x + (size_t)p->first * (size_t)D,
                                      .row = w->dev.tap + p->first,
                                      .weight = w->dev.tap_weight + p->first,
                                      .out = w->h,
                                      .ldx = D,
                                      .ldout = D,
                                      .rows = n,
                                      .n = D,
                                      .n_tap = square});
    if (v->standardize) {
        ap_tower_bias(ex, AP_ELEM_ADD, w->t->std_bias, w->h, n, D);
        ap_tower_bias(ex, AP_ELEM_MUL, w->t->std_scale, w->h, n, D);
    }
    ap_norm(ex, w->h, NULL, w->h, n, D, v->norm_eps);
    ap_matmul(ex, w->h, &w->t->project.w, w->out, n);
}

static const char *const prefixes[] = {"model.", "", NULL};

const ap_tower_family ap_tower_gemma = {.prefixes = prefixes,
                                        .mark = "vision_tower.patch_embedder.input_proj.weight",
                                        .centre = true,
                                        .bind = bind,
                                        .n_tap = n_tap,
                                        .index = fill,
                                        .embed = embed,
                                        .layer = layer,
                                        .project = project};
