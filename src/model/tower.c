/* tower.c - what the vision towers share: loading, memory, the walk over pieces and layers. */
#include "model/tower.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/num.h"
#include "model/tower_impl.h"

/* Rows of a piece on the host; elsewhere, where more multiprocessors wait than these have tiles of products. */
#define PIECE_ROWS 1024
#define PIECE_WIDE 4096
#define MAX_ROWS   (1 << 22) /* of a picture: products of sizes stay far below 2^63 */

static const ap_tower_family *family_of(const ap_vision_config *v)
{
    return v->kind == AP_VISION_GEMMA      ? &ap_tower_gemma
           : v->kind == AP_VISION_EMBEDDER ? &ap_tower_embedder
                                           : &ap_tower_qwen;
}

/* ---------------------------------------------------------------- weights */

static void bind_tower(ap_bind *b, void *arg)
{
    ap_tower *t = arg;
    float *f = ap_bind_floats(b, (size_t)t->v.head_dim / 2, &t->inv_freq);
    if (f) memcpy(f, t->v.inv_freq, (size_t)t->v.head_dim / 2 * sizeof *f);
    family_of(&t->v)->bind(b, t);
}

static const char *find_prefix(const ap_tower_family *f, const ap_weights *w)
{
    char name[256];
    const char *const mark[] = {f->mark, f->other_mark};
    for (const char *const *p = f->prefixes; *p; p++)
        for (int i = 0; i < 2 && mark[i]; i++) {
            snprintf(name, sizeof name, "%s%s", *p, mark[i]);
            if (ap_weights_find(w, name)) return *p;
        }
    return NULL;
}

/* An empty tower and the sizing pass over its tensors. */
static apus_err measure(const ap_vision_config *v, const ap_config *c, const ap_weights *w,
                        ap_device *dev, ap_bind *b, ap_tower **out, apus_diag *diag)
{
    const ap_tower_family *f = family_of(v);
    const char *prefix = find_prefix(f, w);
    if (!prefix)
        return ap_fail(diag, APUS_EFORMAT,
                       "%s: tensor \"%s%s\" is missing: the weights hold no vision tower",
                       ap_weights_file(w, ""), f->prefixes[0], f->mark);
    ap_tower *t = ap_calloc(1, sizeof *t);
    if (t) t->layer = ap_calloc((size_t)v->n_layer + 1, sizeof *t->layer);
    if (!t || !t->layer) {
        ap_free(t);
        return ap_fail_nomem(diag, sizeof *t, "the vision tower");
    }
    t->v = *v;
    t->c = c;
    t->dev = dev;
    *b = (ap_bind){.c = c, .w = w, .dev = dev, .k = dev->kern, .prefix = prefix, .diag = diag};
    if (ap_bind_size(b, bind_tower, t, &t->bound))
        ap_tower_free(t);
    else
        *out = t;
    return b->err;
}

apus_err ap_tower_measure(const ap_vision_config *v, const ap_config *c, const ap_weights *w,
                          ap_device *dev, size_t *bytes, apus_diag *diag)
{
    ap_bind b;
    ap_tower *t = NULL;
    apus_err err = measure(v, c, w, dev, &b, &t, diag);
    if (err) return err;
    *bytes = t->bound.bytes + t->bound.in_place;
    ap_tower_free(t);
    return APUS_OK;
}

apus_err ap_tower_load(const ap_vision_config *v, const ap_config *c, const ap_weights *w,
                       ap_device *dev, apus_progress_fn progress, void *ctx, ap_tower **out,
                       apus_diag *diag)
{
    ap_bind b;
    ap_tower *t = NULL;
    apus_err err = measure(v, c, w, dev, &b, &t, diag);
    if (err) return err;
    b.progress = progress;
    b.progress_ctx = ctx;
    err = ap_bind_fill(&b, bind_tower, t, &t->bound);
    if (err)
        ap_tower_free(t);
    else
        *out = t;
    return err;
}

void ap_tower_free(ap_tower *t)
{
    if (!t) return;
    ap_bound_free(&t->bound, t->dev);
    ap_free(t->layer);
    ap_free(t);
}

const ap_vision_config *ap_tower_config(const ap_tower *t)
{
    return &t->v;
}

/* ---------------------------------------------------------------- steps that layers are made of */

ap_piece ap_tower_piece(const ap_tower_work *w, int i)
{
    ap_piece p = {.first = i * w->piece};
    p.n = ap_min_int(w->piece, w->n - p.first);
    p.batch = (ap_batch){.n_tok = p.n,
                         .n_seq = 1,
                         .seq = w->host.seq + i,
                         .seq_dev = w->dev.seq + i,
                         .pos = w->dev.pos + p.first,
                         .see_end = w->dev.see_end + p.first,
                         .seq_of = w->dev.seq_of + p.first,
                         .page = {w->dev.page, w->dev.page},
                         .page_ld = ap_div_up(w->n, AP_PAGE)};
    return p;
}

void ap_tower_bias(const ap_exec *ex, ap_elem op, const float *bias, float *y, int rows, int n)
{
    ex->k->elem(ex, &(ap_elem_args){
                        .op = op, .y = y, .x = bias, .ldy = n, .rows = rows, .n = n, .n_block = 1});
}

void ap_linear_add(const ap_exec *ex, const ap_linear *l, const float *y, float *x, int n)
{
    ap_matmul_add(ex, y, &l->w, x, n);
    if (l->bias) ap_tower_bias(ex, AP_ELEM_ADD, l->bias, x, n, l->w.rows);
}

void ap_tower_layer_norm(const ap_exec *ex, const float *x, const ap_norm_weights *w, float *out,
                         int rows, int n, float eps)
{
    ex->k->layer_norm(ex, &(ap_layer_norm_args){.x = x,
                                                .weight = w->weight,
                                                .bias = w->bias,
                                                .out = out,
                                                .ldx = n,
                                                .ldout = n,
                                                .rows = rows,
                                                .n = n,
                                                .eps = eps});
}

void ap_tower_bind_table(ap_bind *b, ap_tower *t, const ap_tensor *table)
{
    ap_tensor flat = *table;
    flat.rank = 2;
    flat.shape[0] = table->shape[0] * table->shape[1];
    flat.shape[1] = table->shape[2];
    if (!b->err) ap_bind_table(b, &t->position_table, &flat);
}

void ap_tower_positions(const ap_tower_work *w, const ap_piece *p, float *x)
{
    int D = w->t->v.hidden;
    for (int axis = 0; axis < 2; axis++) {
        ap_batch batch = p->batch;
        batch.tok = w->dev.tok + (size_t)axis * (size_t)w->n + p->first;
        w->ex.k->embed(&w->ex, &(ap_embed_args){.table = &w->t->position_table,
                                                .batch = &batch,
                                                .n_tok = p->n,
                                                .scale = 1,
                                                .out = axis ? w->b : x,
                                                .width = D});
    }
    w->ex.k->elem(&w->ex, &(ap_elem_args){.op = AP_ELEM_ADD,
                                          .y = x,
                                          .x = w->b,
                                          .ldy = D,
                                          .ldx = D,
                                          .rows = p->n,
                                          .n = D,
                                          .n_block = 1});
}

ap_kv ap_tower_kv(const ap_tower_work *w, const ap_batch *b)
{
    return (ap_kv){.base = w->kv, .page_bytes = w->page_bytes, .batch = b, .type = w->kv_type};
}

void ap_tower_qkv(const ap_tower_work *w, const ap_tower_layer *y, const ap_piece *p,
                  const float *q, const float *k, const float *v, int64_t ldq, int64_t ldk)
{
    const ap_vision_config *c = &w->t->v;
    size_t angles = (size_t)p->first * (size_t)(c->head_dim / 2);
    bool normed = y->q_norm != NULL;
    w->ex.k->qkv(
        &w->ex, &(ap_qkv_args){.q = q,
                               .k = k,
                               .v = v,
                               .ldq = ldq,
                               .q_head_stride = c->head_dim,
                               .ldk = ldk,
                               .ldv = ldk,
                               .q_norm = y->q_norm,
                               .k_norm = y->k_norm,
                               .v_norm = normed,
                               .eps = c->norm_eps,
                               .cos = w->cos + angles,
                               .sin = w->sin + angles,
                               .n_angle = c->head_dim / 2,
                               .pair_offset = c->head_dim / 2,
                               .q_out = w->q + (size_t)p->first * (size_t)(c->n_head * w->page_dim),
                               .kv = ap_tower_kv(w, &p->batch),
                               .n_tok = p->n,
                               .n_head = c->n_head,
                               .n_kv_head = c->n_kv_head,
                               .head_dim = c->head_dim,
                               .page_dim = w->page_dim});
}

/* w->h = heads of w->b without the zeros behind their dims */
static void close_heads(const ap_tower_work *w, int rows)
{
    const ap_vision_config *c = &w->t->v;
    w->ex.k->elem(&w->ex, &(ap_elem_args){.op = AP_ELEM_CLAMP,
                                          .y = w->h,
                                          .x = w->b,
                                          .ldy = (int64_t)c->n_head * c->head_dim,
                                          .ldx = (int64_t)c->n_head * w->page_dim,
                                          .rows = rows,
                                          .n = c->head_dim,
                                          .n_block = c->n_head,
                                          .y_block = c->head_dim,
                                          .x_block = w->page_dim,
                                          .lo = -INFINITY,
                                          .hi = INFINITY});
}

void ap_tower_attend(const ap_tower_work *w, const ap_piece *p, float scale)
{
    const ap_vision_config *c = &w->t->v;
    bool wide = w->page_dim > c->head_dim;
    w->ex.k->attn(&w->ex,
                  &(ap_attn_args){.q = w->q + (size_t)p->first * (size_t)(c->n_head * w->page_dim),
                                  .out = wide ? w->b : w->h,
                                  .kv = ap_tower_kv(w, &p->batch),
                                  .n_tok = p->n,
                                  .n_head = c->n_head,
                                  .n_kv_head = c->n_kv_head,
                                  .head_dim = w->page_dim,
                                  .scale = scale,
                                  .scratch = w->op});
    if (wide) close_heads(w, p->n);
}

/* ---------------------------------------------------------------- memory of a picture */

static void *carve(uint8_t *mem, size_t *at, size_t n, size_t size)
{
    void *p = mem ? mem + *at : NULL;
    *at += ap_round_up(n * size, AP_ALIGN);
    return p;
}

static size_t carve_index(const ap_tower_work *w, ap_tower_index *x, uint8_t *mem)
{
    size_t n = (size_t)w->n, at = 0, I = sizeof(int32_t);
    size_t taps = family_of(&w->t->v)->n_tap(w->t, w->n);
    x->seq = carve(mem, &at, (size_t)w->n_piece, sizeof *x->seq);
    x->pos = carve(mem, &at, n, I);
    x->see_end = carve(mem, &at, n, I);
    x->seq_of = carve(mem, &at, n, I);
    x->page = carve(mem, &at, n / AP_PAGE + 1, I);
    x->axis = carve(mem, &at, 2 * n, I);
    x->tok = carve(mem, &at, w->t->position_table.cols ? 2 * n : 0, I);
    x->tap = carve(mem, &at, taps, I);
    x->tap_weight = carve(mem, &at, taps, sizeof(float));
    return at;
}

/* The widest row that passes through h, a and b. */
static size_t widest(const ap_tower_work *w)
{
    const ap_vision_config *v = &w->t->v;
    int q = v->n_head * v->head_dim, kv = v->n_kv_head * v->head_dim;
    int most =
        ap_max_int(ap_max_int(v->hidden, v->ffn), ap_max_int(q + 2 * kv, v->n_head * w->page_dim));
    return (size_t)ap_max_int(most, v->patch_width);
}

/* All memory of the device, or only its size: sizes are bounded by MAX_ROWS and the configuration's. */
static void carve_work(ap_tower_work *w, uint8_t *mem)
{
    const ap_vision_config *v = &w->t->v;
    size_t n = (size_t)w->n, piece = (size_t)w->piece, F32 = sizeof(float), at = 0;
    size_t square = (size_t)v->merge * (size_t)v->merge, wide = widest(w);
    uint8_t *index = carve(mem, &at, w->index_bytes, 1);
    w->index_dev = index;
    carve_index(w, &w->dev, index);
    w->x = carve(mem, &at, n * (size_t)v->hidden, F32);
    w->q = carve(mem, &at, n * (size_t)(v->n_head * w->page_dim), F32);
    w->cos = carve(mem, &at, n * (size_t)(v->head_dim / 2), F32);
    w->sin = carve(mem, &at, n * (size_t)(v->head_dim / 2), F32);
    w->kv = carve(mem, &at, (n / AP_PAGE + 1) * w->page_bytes, 1);
    w->patches = w->t->dev->is_host ? NULL : carve(mem, &at, piece * (size_t)v->patch_width, F32);
    w->h = carve(mem, &at, piece * wide, F32);
    w->a = carve(mem, &at, piece * wide, F32);
    w->b = carve(mem, &at, piece * wide, F32);
    w->c = carve(mem, &at, v->clipped ? piece * wide : 0, F32);
    w->out = carve(mem, &at, piece / square * (size_t)v->out, F32);
    size_t attn = v->n_layer ? w->ex.k->attn_scratch_bytes(&w->ex, w->piece, v->n_head,
                                                           v->n_kv_head, w->page_dim)
                             : 0;
    w->op = carve(mem, &at, attn, 1);
    w->ex.input_bytes = w->ex.precision == APUS_PRECISION_EXACT ? 0 : piece * wide * 3;
    w->ex.inputs = carve(mem, &at, w->ex.input_bytes, 1);
    w->mem_bytes = at;
}

/* With precision FAST pages are bf16, with as many dims a head as products of bf16 want; else as the device takes
 * them. */
static void choose_pages(ap_tower_work *w)
{
    const ap_vision_config *v = &w->t->v;
    int fast = v->n_layer ? w->ex.k->attn_fast_dim(&w->ex, v->head_dim) : 0;
    w->page_dim = fast ? fast : v->head_dim;
    bool halves = w->ex.precision == APUS_PRECISION_FAST &&
                  ap_kv_layer_bytes(APUS_KV_BF16, v->n_kv_head, w->page_dim);
    w->kv_type = halves ? APUS_KV_BF16 : APUS_KV_F32;
    w->page_bytes = ap_round_up(ap_kv_layer_bytes(w->kv_type, v->n_kv_head, w->page_dim), AP_ALIGN);
}

/* Sizes of a picture of n rows. */
static void begin_work(ap_tower_work *w, const ap_tower *t, const ap_exec *ex, int n)
{
    const ap_vision_config *v = &t->v;
    int square = v->merge * v->merge;
    *w = (ap_tower_work){.t = t, .ex = *ex, .n = n};
    w->piece =
        ap_min_int((int)ap_round_up(t->dev->is_host ? PIECE_ROWS : PIECE_WIDE, (size_t)square), n);
    w->n_piece = ap_div_up(n, w->piece);
    choose_pages(w);
    w->index_bytes = carve_index(w, &w->host, NULL);
    carve_work(w, NULL);
}

static apus_err take_memory(ap_tower_work *w, apus_diag *diag)
{
    ap_device *dev = w->ex.dev;
    w->mem = dev->op->alloc(dev, w->mem_bytes);
    if (!w->mem) return ap_fail_nomem(diag, w->mem_bytes, "the work on a picture");
    carve_work(w, w->mem);
    w->index_host = dev->is_host ? w->index_dev : ap_malloc(w->index_bytes, 1);
    if (!w->index_host) return ap_fail_nomem(diag, w->index_bytes, "the work on a picture");
    carve_index(w, &w->host, w->index_host);
    return APUS_OK;
}

/* Rows in the order of the soft tokens that they become; a picture with places (gemma). */
static apus_err put_in_order(ap_tower_work *w, const ap_patches *p, apus_diag *diag)
{
    int m = w->t->v.merge, wide = 0;
    if (!p->pos) return APUS_OK;
    w->order = ap_malloc((size_t)w->n, sizeof *w->order);
    if (!w->order) return ap_fail_nomem(diag, (size_t)w->n * sizeof *w->order, "a picture's order");
    for (int i = 0; i < w->n; i++) {
        w->order[i] = -1;
        wide = ap_max_int(wide, p->pos[i][0] + 1);
    }
    for (int i = 0; i < w->n; i++) {
        int x = p->pos[i][0], y = p->pos[i][1];
        int *at = &w->order[((y / m) * (wide / m) + x / m) * m * m + y % m * m + x % m];
        if (*at >= 0)
            return ap_fail(diag, APUS_EINVAL, "two patches of a picture are at (%d, %d)", x, y);
        *at = i;
    }
    return APUS_OK;
}

/* Room for a piece's patches on the host, where they are not used as they lie. */
static apus_err take_stage(ap_tower_work *w, const ap_patches *p, apus_diag *diag)
{
    size_t bytes = (size_t)w->piece * p->width * sizeof(float);
    apus_err err = put_in_order(w, p, diag);
    if (err || (!w->order && !family_of(&w->t->v)->centre)) return err;
    w->stage = ap_malloc(bytes, 1);
    return w->stage ? APUS_OK : ap_fail_nomem(diag, bytes, "a picture's patches");
}

static void give_memory(ap_tower_work *w)
{
    ap_free(w->order);
    ap_free(w->stage);
    ap_device *dev = w->ex.dev;
    if (!dev->is_host) ap_free(w->index_host);
    if (w->mem) dev->op->free(dev, w->mem, w->mem_bytes);
}

/* ---------------------------------------------------------------- a picture */

static void fill_index(ap_tower_work *w, const ap_patches *p)
{
    ap_device *dev = w->ex.dev;
    ap_tower_index *x = &w->host;
    for (int i = 0; i < w->n; i++) {
        x->pos[i] = i;
        x->see_end[i] = w->n;
        x->seq_of[i] = 0;
    }
    for (int i = 0; i <= w->n / AP_PAGE; i++) x->page[i] = i;
    for (int i = 0; i < w->n_piece; i++)
        x->seq[i] =
            (ap_seq){.n_tok = ap_min_int(w->piece, w->n - i * w->piece), .pos = i * w->piece};
    family_of(&w->t->v)->index(w, p);
    if (!dev->is_host) dev->op->put(dev, w->index_dev, w->index_host, w->index_bytes);
}

/* The patches of a piece, in order: where they lie, or on the stage. */
static const float *piece_values(const ap_tower_work *w, const ap_piece *p, const float *values)
{
    size_t width = (size_t)w->t->v.patch_width;
    bool centre = family_of(&w->t->v)->centre;
    if (!w->stage) return values + (size_t)p->first * width;
    for (int t = 0; t < p->n; t++) {
        int row = w->order ? w->order[p->first + t] : p->first + t;
        const float *from = values + (size_t)row * width;
        float *to = w->stage + (size_t)t * width;
        for (size_t i = 0; i < width; i++) to[i] = centre ? 2 * (from[i] - 0.5f) : from[i];
    }
    return w->stage;
}

static void embed(const ap_tower_work *w, const float *values)
{
    ap_device *dev = w->ex.dev;
    for (int i = 0; i < w->n_piece; i++) {
        ap_piece p = ap_tower_piece(w, i);
        const float *from = piece_values(w, &p, values);
        if (w->patches)
            dev->op->put(dev, w->patches, from,
                         (size_t)p.n * (size_t)w->t->v.patch_width * sizeof(float));
        family_of(&w->t->v)->embed(w, &p, w->patches ? w->patches : from);
    }
}

static void angles(const ap_tower_work *w)
{
    uint8_t axis[AP_MAX_ROT];
    int n = w->t->v.head_dim / 2;
    for (int i = 0; i < n; i++) axis[i] = i >= n / 2;
    w->ex.k->rope(&w->ex, &(ap_rope_args){.pos = w->dev.axis,
                                          .axis = axis,
                                          .inv_freq = w->t->inv_freq,
                                          .attention_factor = 1,
                                          .cos = w->cos,
                                          .sin = w->sin,
                                          .n_tok = w->n,
                                          .n_angle = n});
}

static void project(const ap_tower_work *w, float *out)
{
    const ap_vision_config *v = &w->t->v;
    size_t width = (size_t)v->out;
    for (int i = 0; i < w->n_piece; i++) {
        ap_piece p = ap_tower_piece(w, i);
        family_of(v)->project(w, &p);
        int square = v->merge * v->merge, n = p.n / square, first = p.first / square;
        w->ex.dev->op->get(w->ex.dev, out + (size_t)first * width, w->out,
                           (size_t)n * width * sizeof(float));
    }
}

struct ap_tower_run {
    ap_tower_work w;
    const ap_patches *p;
    float *out;
    int step; /* the next one: patches, layers, the projection */
};

/* One of 2 + n_layer steps. */
static void run_step(ap_tower_run *r)
{
    ap_tower_work *w = &r->w;
    const ap_vision_config *v = &w->t->v;
    if (r->step == 0) {
        fill_index(w, r->p);
        embed(w, r->p->values);
        if (v->n_layer) angles(w);
    } else if (r->step <= v->n_layer) {
        family_of(v)->layer(w, &w->t->layer[r->step - 1]);
    } else {
        project(w, r->out);
    }
    r->step++;
}

/* ---------------------------------------------------------------- entries */

/* [1][height][width] in patches: whole soft tokens, as many as there are values. */
static apus_err check_grid(const ap_tower *t, const ap_patches *p, const char *name, ap_soft *out,
                           apus_diag *diag)
{
    const int32_t *grid = p->grid;
    int m = t->v.merge;
    int64_t n = (int64_t)grid[1] * grid[2];
    bool ok = grid[0] == 1 && grid[1] >= 1 && grid[2] >= 1 && n <= MAX_ROWS;
    if (!ok || grid[1] % m || grid[2] % m || (uint64_t)n != p->n)
        return ap_fail(diag, APUS_EINVAL,
                       "%s: expected one frame of patches whose sides are multiples of %d and that "
                       "holds all %zu, found a grid of %d x %d x %d",
                       name, m, p->n, grid[0], grid[1], grid[2]);
    *out = (ap_soft){grid[1] / m, grid[2] / m};
    return APUS_OK;
}

/* (x, y) of each patch: whole soft tokens, and within the table of positions. */
static apus_err check_places(const ap_tower *t, const ap_patches *p, const char *name, ap_soft *out,
                             apus_diag *diag)
{
    int m = t->v.merge, wide = 0, high = 0;
    bool ok = p->pos && p->n >= 1 && p->n <= MAX_ROWS;
    for (size_t i = 0; ok && i < p->n; i++) {
        const int32_t *at = p->pos[i];
        ok = at[0] >= 0 && at[1] >= 0 && at[0] < t->v.positions && at[1] < t->v.positions;
        wide = ok ? ap_max_int(wide, at[0] + 1) : 0;
        high = ok ? ap_max_int(high, at[1] + 1) : 0;
    }
    if (!ok || wide % m || high % m || (uint64_t)wide * (uint64_t)high != p->n)
        return ap_fail(diag, APUS_EINVAL,
                       "%s: expected the places of patches to fill a picture whose sides are "
                       "multiples of %d and at most %d, found %zu patches in %d x %d",
                       name, m, t->v.positions, p->n, wide, high);
    *out = (ap_soft){high / m, wide / m};
    return APUS_OK;
}

apus_err ap_tower_check(const ap_tower *t, const ap_patches *p, const char *name, ap_soft *out,
                        apus_diag *diag)
{
    if (p->width != (size_t)t->v.patch_width)
        return ap_fail(diag, APUS_EINVAL, "%s: expected patches of %d values, found %zu", name,
                       t->v.patch_width, p->width);
    return t->v.kind == AP_VISION_QWEN ? check_grid(t, p, name, out, diag)
                                       : check_places(t, p, name, out, diag);
}

size_t ap_tower_bytes(const ap_tower *t, const ap_exec *ex, const ap_patches *p)
{
    ap_tower_work w;
    begin_work(&w, t, ex, (int)p->n);
    return w.mem_bytes + w.index_bytes;
}

apus_err ap_tower_begin(const ap_tower *t, const ap_exec *ex, const ap_patches *p, float *out,
                        ap_tower_run **run, apus_diag *diag)
{
    ap_tower_run *r = ap_calloc(1, sizeof *r);
    if (!r) return ap_fail_nomem(diag, sizeof *r, "the work on a picture");
    r->p = p;
    r->out = out;
    begin_work(&r->w, t, ex, (int)p->n);
    apus_err err = take_memory(&r->w, diag);
    if (!err) err = take_stage(&r->w, p, diag);
    if (err)
        ap_tower_end(r);
    else
        *run = r;
    return err;
}

apus_err ap_tower_go(ap_tower_run *r, int64_t us, const volatile int *cancel, bool *done,
                     apus_diag *diag)
{
    int64_t until = us < 0 ? INT64_MAX : ap_time_us() + us;
    int last = 2 + r->w.t->v.n_layer;
    do {
        if (ap_step_cancelled(cancel))
            return ap_fail(diag, APUS_ECANCELLED, "the work on a picture was cancelled");
        run_step(r);
    } while (r->step < last && ap_time_us() < until);
    *done = r->step == last;
    return r->w.ex.dev->op->finish(r->w.ex.dev, diag);
}

void ap_tower_end(ap_tower_run *r)
{
    if (!r) return;
    give_memory(&r->w);
    ap_free(r);
}

apus_err ap_tower_encode(const ap_tower *t, const ap_exec *ex, const ap_patches *p, float *out,
                         const volatile int *cancel, apus_diag *diag)
{
    ap_tower_run *run;
    bool done;
    apus_err err = ap_tower_begin(t, ex, p, out, &run, diag);
    if (err) return err;
    err = ap_tower_go(run, -1, cancel, &done, diag);
    ap_tower_end(run);
    return err;
}
