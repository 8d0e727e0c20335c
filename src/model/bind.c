#include "model/model_impl.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

#define NAME_MAX_LEN 512

static void vname(const ap_bind *b, char *out, const char *fmt, va_list ap)
{
    int n = snprintf(out, NAME_MAX_LEN, "%s", b->prefix);
    if (n >= 0 && n < NAME_MAX_LEN) vsnprintf(out + n, (size_t)(NAME_MAX_LEN - n), fmt, ap);
}

/* n bytes of the memory at mem, of which *used are taken; NULL while sizes are only added up. */
static void *take_of(ap_bind *b, uint8_t *mem, size_t *used, size_t bytes)
{
    size_t at = *used, end;
    if (!ap_add_size(at, bytes, &end) || end > SIZE_MAX - AP_ALIGN) {
        b->err = ap_fail_nomem(b->diag, SIZE_MAX, "packed weights");
        return NULL;
    }
    *used = ap_round_up(end, AP_ALIGN);
    return mem ? mem + at : NULL;
}

static void *take(ap_bind *b, size_t bytes)
{
    return take_of(b, b->mem, &b->used, bytes);
}

static ap_tensor need(ap_bind *b, const char *name, int rank, const int64_t *shape)
{
    ap_tensor t = {0};
    if (b->err) return t;
    b->err = ap_weights_need(b->w, name, false, rank, shape, &t, b->diag);
    return t;
}

ap_tensor ap_bind_view(ap_bind *b, int rank, const int64_t *shape, const char *fmt, ...)
{
    char name[NAME_MAX_LEN];
    va_list ap;
    va_start(ap, fmt);
    vname(b, name, fmt, ap);
    va_end(ap);
    return need(b, name, rank, shape);
}

bool ap_bind_has(ap_bind *b, const char *fmt, ...)
{
    char name[NAME_MAX_LEN];
    va_list ap;
    va_start(ap, fmt);
    vname(b, name, fmt, ap);
    va_end(ap);
    return ap_weights_find(b->w, name) != NULL;
}

void ap_bind_mat_view(ap_bind *b, ap_mat *out, const ap_tensor *view)
{
    if (b->err) return;
    size_t bytes = b->k->pack_bytes(b->k, view);
    void *dst = take(b, bytes);
    if (b->err) return;
    if (bytes) {
        ap_bind_queue(b, out, view, dst);
        return;
    }
    b->in_place += ap_tensor_bytes(view) + ap_tensor_scale_bytes(view) * (view->biases ? 2 : 1);
    if (dst) b->k->pack(b->k, view, dst, out);
}

/* Scales of the picked rows, one row each, into the model's memory. */
static const void *pick_scales(ap_bind *b, const ap_tensor *view, const void *from, const int *row,
                               int n)
{
    size_t per_row = ((size_t)view->shape[1] + (size_t)view->group - 1) / (size_t)view->group;
    size_t bytes = per_row * ap_dtype_bytes(view->scale_dtype);
    uint8_t *to = take(b, (size_t)n * bytes);
    for (int i = 0; to && i < n; i++)
        memcpy(to + (size_t)i * bytes,
               (const uint8_t *)from + (size_t)(row[i] / view->group_rows) * bytes, bytes);
    return to;
}

void ap_bind_mat_rows(ap_bind *b, ap_mat *out, const ap_tensor *view, const int *row, int n)
{
    if (b->err) return;
    ap_tensor picked = *view;
    picked.shape[0] = n;
    size_t bytes = ap_tensor_row_bytes(view), all, packed = b->k->pack_bytes(b->k, &picked);
    bool stay = packed == 0; /* rows that are used as they are */
    if (!ap_mul_size((size_t)n, bytes, &all)) all = SIZE_MAX;
    uint8_t *rows = stay ? take(b, all) : b->mem ? ap_malloc(all, 1) : NULL;
    if (!stay && b->mem && !rows) b->err = ap_fail_nomem(b->diag, all, "rows in another order");
    for (int i = 0; rows && i < n; i++)
        memcpy(rows + (size_t)i * bytes, (const uint8_t *)view->data + (size_t)row[i] * bytes,
               bytes);
    picked.data = rows;
    if (view->scales) {
        picked.scales = pick_scales(b, view, view->scales, row, n);
        if (view->biases) picked.biases = pick_scales(b, view, view->biases, row, n);
        picked.group_rows = 1;
    }
    if (rows) ap_give_back(b->w, view);
    if (stay) {
        ap_bind_mat_view(b, out, &picked);
        return;
    }
    void *dst = take(b, packed); /* packed at once: the rows are ours for this call only */
    if (dst && !b->err) b->k->pack(b->k, &picked, dst, out);
    ap_free(rows);
}

void ap_bind_mat(ap_bind *b, ap_mat *out, int rows, int cols, const char *fmt, ...)
{
    char name[NAME_MAX_LEN];
    va_list ap;
    va_start(ap, fmt);
    vname(b, name, fmt, ap);
    va_end(ap);
    ap_tensor t = need(b, name, 2, (int64_t[]){rows, cols});
    ap_bind_mat_view(b, out, &t);
}

float *ap_bind_floats(ap_bind *b, size_t n)
{
    return b->err ? NULL : take_of(b, b->floats, &b->floats_used, n * sizeof(float));
}

void ap_bind_finite(ap_bind *b, const float *v, int n, const char *fmt, ...)
{
    char name[NAME_MAX_LEN];
    va_list ap;
    va_start(ap, fmt);
    vname(b, name, fmt, ap);
    va_end(ap);
    for (int i = 0; i < n && !b->err; i++)
        if (!isfinite(v[i]))
            b->err = ap_fail(b->diag, APUS_EFORMAT,
                             "%s: tensor %s: expected finite values, found %s at %d; the file is damaged",
                             ap_weights_file(b->w, name), name, isnan(v[i]) ? "NaN" : "infinity", i);
}

void ap_bind_vec(ap_bind *b, const float **out, int n, float add, const char *fmt, ...)
{
    char name[NAME_MAX_LEN];
    va_list ap;
    va_start(ap, fmt);
    vname(b, name, fmt, ap);
    va_end(ap);
    if (b->err) return;
    /* Vectors are stored as [n], but also as [C, 1, K] (convolutions) or [1] by some writers. */
    const ap_tensor *found = ap_weights_find(b->w, name);
    ap_tensor t = need(b, name, found ? found->rank : 1, found ? found->shape : (int64_t[]){n});
    if (b->err) return;
    if (ap_dtype_block(t.dtype) != 1) {
        b->err = ap_fail(b->diag, APUS_EUNSUPPORTED,
                         "%s: tensor %s: expected f32, f16 or bf16, found %s",
                         ap_weights_file(b->w, name), name, ap_dtype_name(t.dtype));
        return;
    }
    if (ap_tensor_count(&t) != n) {
        b->err = ap_fail(b->diag, APUS_EFORMAT, "%s: tensor %s: expected %d values, found %lld",
                         ap_weights_file(b->w, name), name, n, (long long)ap_tensor_count(&t));
        return;
    }
    float *dst = ap_bind_floats(b, (size_t)n);
    if (!dst) return;
    ap_to_f32(t.dtype, t.data, dst, (size_t)n);
    ap_bind_finite(b, dst, n, "%s", name + strlen(b->prefix));
    if (add != 0)
        for (int i = 0; i < n; i++) dst[i] = add + dst[i];
    *out = dst;
}

void ap_bind_ffn(ap_bind *b, ap_ffn *out, int hidden, int ffn, const char *fmt, ...)
{
    char module[NAME_MAX_LEN];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(module, sizeof module, fmt, ap);
    va_end(ap);
    ap_bind_mat(b, &out->gate, ffn, hidden, "%s.gate_proj.weight", module);
    ap_bind_mat(b, &out->up, ffn, hidden, "%s.up_proj.weight", module);
    ap_bind_mat(b, &out->down, hidden, ffn, "%s.down_proj.weight", module);
}

/* Where a family's writers put the experts of a layer, all in one tensor. */
typedef struct stacked {
    ap_tensor gate, up, down; /* [E, F, H], [E, F, H], [E, H, F] */
} stacked;

/* One tensor per projection: "<module>.gate_proj" and so on. */
static bool bind_stacked(ap_bind *b, int l, const char *module, const char *tail, stacked *s)
{
    const ap_config *c = b->c;
    int64_t E = c->n_expert, F = c->expert_ffn, H = c->hidden;
    if (!ap_bind_has(b, "layers.%d.%s.gate_proj%s", l, module, tail)) return false;
    s->gate = ap_bind_view(b, 3, (int64_t[]){E, F, H}, "layers.%d.%s.gate_proj%s", l, module, tail);
    s->up = ap_bind_view(b, 3, (int64_t[]){E, F, H}, "layers.%d.%s.up_proj%s", l, module, tail);
    s->down = ap_bind_view(b, 3, (int64_t[]){E, H, F}, "layers.%d.%s.down_proj%s", l, module, tail);
    return true;
}

/* gate_up_proj holds gate rows, then up rows, of each expert. */
static bool bind_fused(ap_bind *b, int l, const char *module, stacked *s)
{
    const ap_config *c = b->c;
    int64_t E = c->n_expert, F = c->expert_ffn, H = c->hidden;
    if (!ap_bind_has(b, "layers.%d.%s.gate_up_proj", l, module)) return false;
    s->gate = s->up =
        ap_bind_view(b, 3, (int64_t[]){E, 2 * F, H}, "layers.%d.%s.gate_up_proj", l, module);
    s->down = ap_bind_view(b, 3, (int64_t[]){E, H, F}, "layers.%d.%s.down_proj", l, module);
    return true;
}

/* All experts as one matrix, its rows one below the other. */
static ap_tensor flat(const ap_tensor *all)
{
    ap_tensor t = *all;
    t.rank = 2;
    t.shape[0] = all->shape[0] * all->shape[1];
    t.shape[1] = all->shape[2];
    return t;
}

/* May experts of F rows be cut out of the packed flat matrix? If no panel has rows of two of them. */
static bool is_flat(ap_bind *b, const ap_tensor *all, int64_t F)
{
    if (b->err || F % AP_PANEL || (all->scales && all->shape[1] % all->group_rows)) return false;
    if (all->shape[0] * all->shape[1] > INT32_MAX) return false;
    ap_tensor t = flat(all);
    return b->k->pack_bytes(b->k, &t) > 0;
}

/* Rows [begin, end) of expert e; whole: the packed flat matrix, or NULL. */
static void bind_expert_mat(ap_bind *b, ap_mat *out, const ap_tensor *all, const ap_mat *whole, int e,
                            int64_t begin, int64_t end)
{
    if (b->err) return;
    if (whole) {
        ap_tensor panel = flat(all);
        panel.shape[0] = AP_PANEL;
        size_t first = (size_t)(e * all->shape[1] + begin) / AP_PANEL;
        *out = *whole;
        out->rows = (int)(end - begin);
        if (whole->data) out->data = (const uint8_t *)whole->data + first * b->k->pack_bytes(b->k, &panel);
        return;
    }
    ap_tensor one = ap_tensor_index(all, e);
    ap_tensor rows = ap_tensor_rows(&one, begin, end);
    ap_bind_mat_view(b, out, &rows);
}

/* Projections of all experts that lie in one tensor each. */
static void bind_stack(ap_bind *b, ap_model_impl *m, int l, const stacked *s, bool fused)
{
    const ap_config *c = b->c;
    int64_t F = c->expert_ffn, H = c->hidden, up_at = fused ? F : 0;
    const ap_tensor *all[3] = {&s->gate, &s->up, &s->down};
    ap_mat mat[3] = {{0}};
    const ap_mat *whole[3] = {NULL};
    if (b->err) return;
    for (int i = 0; i < 3; i++) {
        if (i == 1 && fused) {
            whole[1] = whole[0];
        } else if (is_flat(b, all[i], i < 2 ? F : H)) {
            ap_tensor t = flat(all[i]);
            ap_bind_mat_view(b, &mat[i], &t);
            whole[i] = &mat[i];
        }
    }
    for (int e = 0; e < c->n_expert && !b->err; e++) {
        ap_expert *x = ap_experts_slot(m->experts, l, e);
        bind_expert_mat(b, &x->gate, &s->gate, whole[0], e, 0, F);
        bind_expert_mat(b, &x->up, &s->up, whole[1], e, up_at, up_at + F);
        bind_expert_mat(b, &x->down, &s->down, whole[2], e, 0, H);
    }
}

void ap_bind_experts(ap_bind *b, ap_model_impl *m, int l, const char *module,
                     const char *mlx_module)
{
    const ap_config *c = b->c;
    int E = c->n_expert, F = c->expert_ffn, H = c->hidden;
    stacked s = {0};
    bool fused = bind_fused(b, l, module, &s);
    bool split = fused || bind_stacked(b, l, module, "", &s) ||
                 bind_stacked(b, l, mlx_module, ".weight", &s);
    if (split) bind_stack(b, m, l, &s, fused);
    for (int e = 0; e < E && !split && !b->err; e++) {
        ap_ffn f = {{0}, {0}, {0}};
        ap_bind_ffn(b, &f, H, F, "layers.%d.%s.%d", l, module, e);
        *ap_experts_slot(m->experts, l, e) = (ap_expert){f.gate, f.up, f.down};
    }
}

void ap_bind_ends(ap_bind *b, ap_model_impl *m, float norm_add)
{
    const ap_config *c = b->c;
    m->embed = ap_bind_view(b, 2, (int64_t[]){c->vocab, c->hidden}, "embed_tokens.weight");
    ap_bind_vec(b, &m->norm_out, c->hidden, norm_add, "norm.weight");
    /* The head stands outside the text model's prefix; a few writers put it inside. */
    static const char *const names[] = {"lm_head.weight", "language_model.lm_head.weight",
                                        "model.lm_head.weight"};
    const char *head = NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names && !head; i++)
        if (ap_weights_find(b->w, names[i])) head = names[i];
    if (c->tie_embeddings || !head) {
        ap_bind_mat_view(b, &m->head, &m->embed);
        return;
    }
    ap_tensor t = need(b, head, 2, (int64_t[]){c->vocab, c->hidden});
    ap_bind_mat_view(b, &m->head, &t);
}
