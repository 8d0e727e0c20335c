/* tower_qwen.c - the vision tower of Qwen 3.5 and its successors. Source: the Qwen 3.5 specification section 6 and
 * transformers' Qwen3_5VisionModel, checked against tests/golden_media.
 *
 * Patches come in the order of the soft tokens that they become: those of a square of merge x merge patches are
 * neighbours, so that the merger's input is the residual stream as it lies. */
#include <math.h>
#include <stdio.h>

#include "model/tower_impl.h"

#define NAME_ROOM 64

/* "blocks.L.leaf" */
static const char *in_block(char name[NAME_ROOM], int l, const char *leaf)
{
    snprintf(name, NAME_ROOM, "blocks.%d.%s", l, leaf);
    return name;
}

static void bind_norm(ap_bind *b, ap_norm_weights *out, int n, const char *module)
{
    ap_bind_vec(b, &out->weight, n, 0, "%s.weight", module);
    ap_bind_vec(b, &out->bias, n, 0, "%s.bias", module);
}

static void bind_linear(ap_bind *b, ap_linear *out, int rows, int cols, const char *module)
{
    *out = (ap_linear){.in = {-INFINITY, INFINITY}, .out = {-INFINITY, INFINITY}};
    ap_bind_mat_flat(b, &out->w, rows, cols, "%s.weight", module);
    ap_bind_vec(b, &out->bias, rows, 0, "%s.bias", module);
}

static void bind_block(ap_bind *b, const ap_vision_config *v, int l, ap_tower_layer *y)
{
    char name[NAME_ROOM];
    int D = v->hidden;
    bind_norm(b, &y->norm_attn, D, in_block(name, l, "norm1"));
    bind_norm(b, &y->norm_ffn, D, in_block(name, l, "norm2"));
    bind_linear(b, &y->qkv, 3 * D, D, in_block(name, l, "attn.qkv"));
    bind_linear(b, &y->o, D, D, in_block(name, l, "attn.proj"));
    bind_linear(b, &y->up, v->ffn, D, in_block(name, l, "mlp.linear_fc1"));
    bind_linear(b, &y->down, D, v->ffn, in_block(name, l, "mlp.linear_fc2"));
}

static void bind(ap_bind *b, ap_tower *t)
{
    const ap_vision_config *v = &t->v;
    int D = v->hidden, wide = D * v->merge * v->merge;
    bind_linear(b, &t->patch, D, v->patch_width, "patch_embed.proj");
    ap_bind_vec(b, &t->positions, v->position_rows * D, 0, "pos_embed.weight");
    for (int l = 0; l < v->n_layer && !b->err; l++) bind_block(b, v, l, &t->layer[l]);
    bind_norm(b, &t->norm_out, D, "merger.norm");
    bind_linear(b, &t->merge, wide, wide, "merger.linear_fc1");
    bind_linear(b, &t->project, v->out, wide, "merger.linear_fc2");
}

static size_t n_tap(const ap_tower *t, int rows)
{
    (void)t;
    return 4 * (size_t)rows;
}

/* Where on an axis of the square of positions patch i of n is, and how far behind the first of its two neighbours.
 * In f32, as the reference has it. */
static int source(int i, int n, int side, float *behind)
{
    float at = (float)i * (float)(side - 1) / (float)(n > 1 ? n - 1 : 1);
    *behind = at - floorf(at);
    return (int)at;
}

/* Bilinear: four positions for each patch. */
static void taps(const ap_tower_work *w, int t, int row, int col, const int32_t grid[3])
{
    int side = w->t->v.positions;
    float down, right;
    int y = source(row, grid[1], side, &down), x = source(col, grid[2], side, &right);
    int y2 = y + 1 < side ? y + 1 : y, x2 = x + 1 < side ? x + 1 : x;
    int32_t *tap = w->host.tap + 4 * (size_t)t;
    float *weight = w->host.tap_weight + 4 * (size_t)t;
    const int rows[2] = {y, y2}, cols[2] = {x, x2};
    const float of_row[2] = {1 - down, down}, of_col[2] = {1 - right, right};
    for (int i = 0; i < 4; i++) {
        tap[i] = rows[i / 2] * side + cols[i % 2];
        weight[i] = of_row[i / 2] * of_col[i % 2];
    }
}

static void fill(const ap_tower_work *w, const ap_patches *p)
{
    int m = w->t->v.merge, wide = p->grid[2] / m;
    for (int t = 0; t < w->n; t++) {
        int square = t / (m * m), in = t % (m * m);
        int row = square / wide * m + in / m, col = square % wide * m + in % m;
        w->host.axis[t] = row;
        w->host.axis[w->n + t] = col;
        taps(w, t, row, col, p->grid);
    }
}

static void embed(const ap_tower_work *w, const ap_piece *p, const float *patches)
{
    const ap_exec *ex = &w->ex;
    int D = w->t->v.hidden;
    float *x = w->x + (size_t)p->first * (size_t)D;
    ex->k->blend(ex, &(ap_blend_args){.x = w->t->positions,
                                      .row = w->dev.tap + 4 * (size_t)p->first,
                                      .weight = w->dev.tap_weight + 4 * (size_t)p->first,
                                      .out = x,
                                      .ldx = D,
                                      .ldout = D,
                                      .rows = p->n,
                                      .n = D,
                                      .n_tap = 4});
    ap_linear_add(ex, &w->t->patch, patches, x, p->n);
}

/* w->x += Attn(norm(w->x)) */
static void attention(const ap_tower_work *w, const ap_tower_layer *y)
{
    const ap_vision_config *v = &w->t->v;
    const ap_exec *ex = &w->ex;
    int D = v->hidden;
    for (int i = 0; i < w->n_piece; i++) {
        ap_piece p = ap_tower_piece(w, i);
        ap_tower_layer_norm(ex, w->x + (size_t)p.first * (size_t)D, &y->norm_attn, w->h, p.n, D,
                            v->norm_eps);
        ap_matmul(ex, w->h, &y->qkv.w, w->a, p.n);
        ap_tower_bias(ex, AP_ELEM_ADD, y->qkv.bias, w->a, p.n, 3 * D);
        ap_tower_qkv(w, y, &p, w->a, w->a + D, w->a + 2 * D, 3 * (int64_t)D, 3 * (int64_t)D);
    }
    for (int i = 0; i < w->n_piece; i++) {
        ap_piece p = ap_tower_piece(w, i);
        ap_tower_attend(w, &p, (float)(1.0 / sqrt((double)v->head_dim)));
        ap_linear_add(ex, &y->o, w->h, w->x + (size_t)p.first * (size_t)D, p.n);
    }
}

/* w->x += FFN(norm(w->x)) */
static void feed_forward(const ap_tower_work *w, const ap_tower_layer *y)
{
    const ap_vision_config *v = &w->t->v;
    const ap_exec *ex = &w->ex;
    int D = v->hidden;
    for (int i = 0; i < w->n_piece; i++) {
        ap_piece p = ap_tower_piece(w, i);
        float *x = w->x + (size_t)p.first * (size_t)D;
        ap_tower_layer_norm(ex, x, &y->norm_ffn, w->h, p.n, D, v->norm_eps);
        ap_matmul(ex, w->h, &y->up.w, w->a, p.n);
        ap_tower_bias(ex, v->gelu_erf ? AP_ELEM_GELU_ERF : AP_ELEM_GELU, y->up.bias, w->a, p.n,
                      v->ffn);
        ap_linear_add(ex, &y->down, w->a, x, p.n);
    }
}

static void layer(const ap_tower_work *w, const ap_tower_layer *y)
{
    attention(w, y);
    feed_forward(w, y);
}

/* The patches of a square lie behind one another: a row of the merger. Its GELU is the one with erf. */
static void project(const ap_tower_work *w, const ap_piece *p)
{
    const ap_vision_config *v = &w->t->v;
    const ap_exec *ex = &w->ex;
    int n = p->n / (v->merge * v->merge);
    ap_tower_layer_norm(ex, w->x + (size_t)p->first * (size_t)v->hidden, &w->t->norm_out, w->h,
                        p->n, v->hidden, v->norm_eps);
    ap_matmul(ex, w->h, &w->t->merge.w, w->a, n);
    ap_tower_bias(ex, AP_ELEM_GELU_ERF, w->t->merge.bias, w->a, n, w->t->merge.w.rows);
    ap_matmul(ex, w->a, &w->t->project.w, w->out, n);
    ap_tower_bias(ex, AP_ELEM_ADD, w->t->project.bias, w->out, n, v->out);
}

static const char *const prefixes[] = {"model.visual.", "visual.", "vision_tower.", NULL};

const ap_tower_family ap_tower_qwen = {.prefixes = prefixes,
                                       .mark = "patch_embed.proj.weight",
                                       .bind = bind,
                                       .n_tap = n_tap,
                                       .index = fill,
                                       .embed = embed,
                                       .layer = layer,
                                       .project = project};
