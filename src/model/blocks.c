#include <string.h>

#include "base/mem.h"
#include "base/num.h"
#include "file/family.h"
#include "model/model_impl.h"

/* Bump allocation that also works without memory, to add up sizes. */
static void *carve(uint8_t *mem, size_t *at, size_t n, size_t size)
{
    void *p = mem ? mem + *at : NULL;
    *at += ap_round_up(n * size, AP_ALIGN);
    return p;
}

/* What only attention, only the delta rule or only the feed-forward part of a layer needs. They never
 * need it at the same time, so they share their memory: first the scratch of the operation, then the
 * rest. Each returns where its own ends. */
static size_t carve_attention(ap_work *w, const ap_config *c, const ap_exec *ex, size_t T,
                              uint8_t *base, size_t at)
{
    bool gated = ap_family_of(c->arch)->gated;
    int head_dim = 0, kv_width = 0;
    size_t op = 0, F32 = sizeof(float);
    for (int l = 0; l < c->n_layer; l++) {
        const ap_layer_config *lc = &c->layer[l];
        if (lc->kind == AP_LAYER_LINEAR) continue;
        head_dim = ap_max_int(head_dim, lc->head_dim);
        kv_width = ap_max_int(kv_width, lc->n_kv_head * lc->head_dim);
        op = ap_max_size(
            op, ex->k->attn_scratch_bytes(ex, (int)T, c->n_head, lc->n_kv_head, lc->head_dim));
    }
    size_t q_width = (size_t)c->n_head * (size_t)head_dim;
    carve(base, &at, op, 1);
    w->q = carve(base, &at, T * q_width * (gated ? 2 : 1), F32);
    w->k = carve(base, &at, T * (size_t)kv_width, F32);
    w->v = carve(base, &at, T * (size_t)kv_width, F32);
    w->qr = carve(base, &at, T * q_width, F32);
    w->att = carve(base, &at, T * q_width, F32);
    return at;
}

static size_t carve_delta(ap_work *w, const ap_config *c, const ap_exec *ex, size_t T,
                          uint8_t *base, size_t at)
{
    size_t vd = (size_t)c->gdn_v_head * (size_t)c->gdn_v_dim, F32 = sizeof(float);
    size_t width = 2 * (size_t)c->gdn_k_head * (size_t)c->gdn_k_dim + vd;
    size_t op = ex->k->delta_scratch_bytes(ex, (int)T, c->gdn_k_head, c->gdn_v_head, c->gdn_k_dim,
                                           c->gdn_v_dim);
    carve(base, &at, op, 1);
    w->gdn_qkv = carve(base, &at, T * width, F32);
    w->gdn_conv = carve(base, &at, T * width, F32);
    w->gdn_z = carve(base, &at, T * vd, F32);
    w->gdn_out = carve(base, &at, T * vd, F32);
    w->gdn_a = carve(base, &at, T * (size_t)c->gdn_v_head, F32);
    w->gdn_b = carve(base, &at, T * (size_t)c->gdn_v_head, F32);
    return at;
}

static size_t moe_scratch(const ap_config *c, const ap_exec *ex, int n_tok, bool waves)
{
    size_t (*bytes)(const ap_exec *, int, int, int, int, int) =
        waves ? ex->k->moe_waves_scratch_bytes : ex->k->moe_scratch_bytes;
    return bytes(ex, n_tok, c->n_expert, c->n_expert_used, c->hidden, c->expert_ffn);
}

static size_t carve_ffn(ap_work *w, const ap_config *c, const ap_exec *ex, int ffn, bool moe,
                        int n_tok, bool waves, uint8_t *base, size_t at)
{
    size_t T = (size_t)n_tok, K = (size_t)c->n_expert_used, F32 = sizeof(float);
    if (moe) {
        carve(base, &at, moe_scratch(c, ex, n_tok, waves), 1);
        if (waves) {
            w->need = carve(base, &at, (size_t)c->n_expert, sizeof(int32_t));
            w->guess = carve(base, &at, AP_GUESS_TOKENS * K, sizeof(int32_t));
            w->guess_wts = carve(base, &at, AP_GUESS_TOKENS * K, F32);
        }
        w->router = carve(base, &at, T * (size_t)c->n_expert, F32);
        w->ids = carve(base, &at, T * K, sizeof(int32_t));
        w->wts = carve(base, &at, T * K, F32);
        w->moe = carve(base, &at, T * (size_t)c->hidden, F32);
        w->gate1 = carve(base, &at, T, F32);
    }
    w->act = carve(base, &at, T * (size_t)ffn, F32);
    return at;
}

/* What the draft head makes its rows of: needed before anything of its layer is. */
static size_t carve_head(ap_work *w, const ap_config *c, size_t T, uint8_t *base, size_t at)
{
    size_t H = (size_t)c->hidden;
    w->pair = carve(base, &at, T * 2 * H, sizeof(float));
    w->hidden = carve(base, &at, T * H, sizeof(float));
    return at;
}

/* The widest input of a product, the experts' aside. */
static int widest_input(const ap_config *c, int ffn)
{
    int widest = ap_max_int(ap_max_int(c->hidden, ffn), c->gdn_v_head * c->gdn_v_dim);
    for (int l = 0; l < c->n_layer; l++)
        widest = ap_max_int(widest, c->n_head * c->layer[l].head_dim);
    return c->has_head ? ap_max_int(widest, 2 * c->hidden) : widest;
}

void ap_work_init(ap_work *w, const ap_config *c, const ap_exec *ex, int n_tok, bool waves,
                  void *mem)
{
    int ffn = c->shared_ffn;
    bool linear = false, moe = false;
    for (int l = 0; l < c->n_layer; l++) {
        linear |= c->layer[l].kind == AP_LAYER_LINEAR;
        ffn = ap_max_int(ffn, c->layer[l].ffn);
        moe |= c->layer[l].moe;
    }
    if (c->has_head) {
        ffn = ap_max_int(ffn, c->head.ffn);
        moe |= c->head.moe;
    }
    size_t T = (size_t)n_tok, H = (size_t)c->hidden, F32 = sizeof(float), at = 0;
    uint8_t *base = mem;
    memset(w, 0, sizeof *w);
    w->x = carve(base, &at, T * H, F32);
    w->h = carve(base, &at, T * H, F32);
    w->t = carve(base, &at, T * H, F32);
    const ap_rope *rope[2] = {&c->rope_full, &c->rope_sliding};
    for (int i = 0; i < 2; i++) {
        w->cos[i] = carve(base, &at, T * (size_t)rope[i]->n_angle, F32);
        w->sin[i] = carve(base, &at, T * (size_t)rope[i]->n_angle, F32);
    }
    if (c->ple_dim) {
        w->ple = carve(base, &at, T * (size_t)c->n_layer * (size_t)c->ple_dim, F32);
        w->ple_g = carve(base, &at, T * (size_t)c->n_layer * (size_t)c->ple_dim, F32);
    }
    w->input_bytes =
        ex->precision == APUS_PRECISION_EXACT ? 0 : T * (size_t)widest_input(c, ffn) * 3;
    w->inputs = carve(base, &at, w->input_bytes, 1);
    w->op = base ? base + at : NULL;
    size_t end = carve_attention(w, c, ex, T, base, at);
    if (linear) end = ap_max_size(end, carve_delta(w, c, ex, T, base, at));
    if (c->has_head) end = ap_max_size(end, carve_head(w, c, T, base, at));
    w->bytes = ap_max_size(end, carve_ffn(w, c, ex, ffn, moe, n_tok, waves, base, at));
}

/* The system maps 64 KB around each row that is read of a table in a file, which adds up to the whole table in
 * a long text; so the pages are given back after this many rows of a prompt, and else, between two steps, after
 * half as many, as two tables wait together then. They stay in the system's cache. */
#define EMBED_ROWS 128

/* Are rows of this table read from its file, and is that all that reads it there? */
static bool is_mapped(const ap_model_impl *m, const ap_mat *table)
{
    /* A head that is used where the file has it is read in every step, and may be this table. */
    bool head_too = m->head.rows && !m->head.data;
    return m->w && table->rows && !table->data && !head_too;
}

static bool is_prompt(const ap_step *s)
{
    return s->batch->n_tok > EMBED_ROWS / 2;
}

void ap_embed_rows(const ap_model_impl *m, const ap_exec *ex, const ap_step *s, const ap_mat *table,
                   float scale, float *out, int width)
{
    int n_tok = s->batch->n_tok;
    bool give_back = is_mapped(m, table) && is_prompt(s);
    for (int t = 0, n; t < n_tok; t += n) {
        n = give_back ? ap_min_int(n_tok - t, EMBED_ROWS) : n_tok;
        ex->k->embed(ex, &(ap_embed_args){.table = table,
                                          .batch = s->batch,
                                          .begin = t,
                                          .n_tok = n,
                                          .scale = scale,
                                          .out = out + (size_t)t * (size_t)width,
                                          .width = width,
                                          .ignore_embed = table != &m->embed});
        if (give_back) ap_give_back(m->w, &table->raw);
    }
}

void ap_embed_done(const ap_model_impl *m, const ap_step *s)
{
    const ap_mat *const table[] = {&m->embed, &m->ple_embed};
    if (is_prompt(s) || s->batch->seq[0].pos % ap_max_int(EMBED_ROWS / 2 / s->batch->n_tok, 1))
        return;
    for (int i = 0; i < 2; i++)
        if (is_mapped(m, table[i])) ap_give_back(m->w, &table[i]->raw);
}

void ap_step_angles(const ap_model_impl *m, const ap_exec *ex, const ap_step *s, ap_work *w)
{
    const ap_rope *rope[2] = {&m->c->rope_full, &m->c->rope_sliding};
    for (int i = 0; i < 2; i++) {
        if (!rope[i]->n_angle) continue;
        ex->k->rope(ex, &(ap_rope_args){.pos = s->batch->rope_pos,
                                        .axis = m->c->rope_axes ? m->c->rope_axis : NULL,
                                        .inv_freq = m->inv_freq[i],
                                        .attention_factor = rope[i]->attention_factor,
                                        .cos = w->cos[i],
                                        .sin = w->sin[i],
                                        .n_tok = s->batch->n_tok,
                                        .n_angle = rope[i]->n_angle});
    }
}

ap_kv ap_step_kv(const ap_model_impl *m, const ap_step *s, int l)
{
    int g = m->c->layer[l].kind == AP_LAYER_SLIDING ? AP_KV_SLIDING : AP_KV_FULL;
    return (ap_kv){.base = s->kv_base[g],
                   .page_bytes = s->shape->page_bytes[g],
                   .layer_offset = m->layer[l].kv_offset[s->kv],
                   .batch = s->batch,
                   .group = g,
                   .type = s->kv};
}

ap_recur_at ap_step_recur(const ap_step *s, size_t offset)
{
    return (ap_recur_at){.base = s->recur,
                         .block_floats = s->recur_block_floats,
                         .offset = offset,
                         .batch = s->batch};
}

ap_kept_rows ap_step_kept(const ap_model_impl *m, const ap_step *s, int l)
{
    const ap_config *c = m->c;
    size_t row = ap_kept_floats(c->gdn_k_head, c->gdn_v_head, c->gdn_k_dim, c->gdn_v_dim);
    if (!s->kept) return (ap_kept_rows){0};
    return (ap_kept_rows){s->kept + (size_t)m->layer[l].recur_index * s->kept_rows * row, row};
}

ap_carry_args ap_step_carry(const ap_model_impl *m, const ap_step *s)
{
    const ap_state_shape *z = s->shape;
    size_t layers = z->kept_floats - z->carry_floats;
    ap_carry_args a = {.state = ap_step_recur(s, z->recur_floats - z->carry_floats),
                       .n = m->c->hidden};
    if (s->kept) a.kept = (ap_kept_rows){s->kept + s->kept_rows * layers, z->carry_floats};
    return a;
}

static void matmul(const ap_exec *ex, const float *x, const ap_mat *m, float *y, int n_tok,
                   bool add, float softcap)
{
    ex->k->matmul(ex, &(ap_matmul_args){.x = x,
                                        .w = m,
                                        .y = y,
                                        .ldx = m->cols,
                                        .ldy = m->rows,
                                        .n_tok = n_tok,
                                        .accumulate = add,
                                        .softcap = softcap});
}

void ap_matmul(const ap_exec *ex, const float *x, const ap_mat *m, float *y, int n_tok)
{
    matmul(ex, x, m, y, n_tok, false, 0);
}

void ap_matmul_add(const ap_exec *ex, const float *x, const ap_mat *m, float *y, int n_tok)
{
    matmul(ex, x, m, y, n_tok, true, 0);
}

void ap_norm(const ap_exec *ex, const float *x, const float *w, float *out, int rows, int n,
             float eps)
{
    ex->k->norm(ex, &(ap_norm_args){.x = x,
                                    .weight = w,
                                    .out = out,
                                    .ldx = n,
                                    .ldout = n,
                                    .rows = rows,
                                    .n = n,
                                    .eps = eps});
}

void ap_norm_add(const ap_exec *ex, const float *x, const float *w, float *out, int rows, int n,
                 float eps, float scale)
{
    ex->k->norm(ex, &(ap_norm_args){.x = x,
                                    .weight = w,
                                    .out = out,
                                    .ldx = n,
                                    .ldout = n,
                                    .rows = rows,
                                    .n = n,
                                    .eps = eps,
                                    .accumulate = true,
                                    .post_scale = scale});
}

void ap_ffn_run(const ap_exec *ex, const ap_ffn *f, ap_act act, const float *x, float *y,
                bool accumulate, int n_tok, float *tmp)
{
    ex->k->glu(ex, &(ap_glu_args){.x = x,
                                  .gate = &f->gate,
                                  .up = &f->up,
                                  .y = tmp,
                                  .ldx = f->gate.cols,
                                  .ldy = f->gate.rows,
                                  .n_tok = n_tok,
                                  .act = act});
    matmul(ex, tmp, &f->down, y, n_tok, accumulate, 0);
}

ap_moe_args ap_moe_of(const ap_model_impl *m, const ap_step *s, const ap_work *w, int l)
{
    const ap_config *c = m->c;
    return (ap_moe_args){.ids = w->ids,
                         .weights = w->wts,
                         .experts = s->experts ? NULL : ap_experts_of(m->experts, l),
                         .ldx = c->hidden,
                         .ldy = c->hidden,
                         .n_tok = s->batch->n_tok,
                         .n_expert = c->n_expert,
                         .n_used = c->n_expert_used,
                         .hidden = c->hidden,
                         .ffn = c->expert_ffn,
                         .scratch = w->op};
}

void ap_moe_begin(const ap_exec *ex, const ap_step *s, const ap_work *w, int l,
                  const ap_moe_args *a)
{
    if (!s->experts) return;
    int n = ex->k->moe_begin(ex, a, w->need);
    s->experts->op->want(s->experts, l, w->need, n);
}

void ap_moe_guess(const ap_model_impl *m, const ap_exec *ex, const ap_step *s, ap_work *w,
                  ap_choose_fn *choose)
{
    int T = s->batch->n_tok, next = -1;
    if (s->experts && T <= AP_GUESS_TOKENS) next = s->experts->op->next(s->experts);
    if (next < 0) return;
    choose(m, ex, w, next, T, w->t, w->guess, w->guess_wts);
    s->experts->op->guess(s->experts, w->guess, T * m->c->n_expert_used);
}

apus_err ap_moe_end(const ap_exec *ex, const ap_step *s, const ap_moe_args *a, apus_diag *diag)
{
    if (!s->experts) {
        ex->k->moe(ex, a);
        return APUS_OK;
    }
    const ap_expert_source_ops *op = s->experts->op;
    ap_wave wave;
    apus_err err = op->get(s->experts, ex, &wave, diag);
    while (!err && wave.n) {
        ex->k->moe_wave(ex, a, wave.id, wave.expert, wave.n);
        err = op->get(s->experts, ex, &wave, diag);
    }
    op->done(s->experts);
    if (!err) ex->k->moe_end(ex, a);
    return err;
}

void ap_head(const ap_model_impl *m, const ap_exec *ex, const ap_step *s, ap_work *w)
{
    int n = s->batch->n_out, H = m->c->hidden;
    ex->k->norm(ex, &(ap_norm_args){.x = w->x,
                                    .row = s->batch->out_row,
                                    .weight = m->norm_out,
                                    .out = w->h,
                                    .ldx = H,
                                    .ldout = H,
                                    .rows = n,
                                    .n = H,
                                    .eps = m->c->norm_eps});
    matmul(ex, w->h, &m->head, s->logits, n, false, m->c->softcap);
}
