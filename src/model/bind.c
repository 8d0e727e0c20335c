#include "model/model_impl.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"

#define NAME_MAX_LEN 512
#define PROGRESS_US  50000

static void vname(const ap_bind *b, char *out, const char *fmt, va_list ap)
{
    int n = snprintf(out, NAME_MAX_LEN, "%s", b->prefix);
    if (n >= 0 && n < NAME_MAX_LEN) vsnprintf(out + n, (size_t)(NAME_MAX_LEN - n), fmt, ap);
}

static void report(ap_bind *b, uint64_t bytes)
{
    b->done_bytes += bytes;
    if (!b->progress) return;
    int64_t now = ap_time_us();
    if (now - b->progress_us < PROGRESS_US && b->done_bytes < b->total_bytes) return;
    b->progress_us = now;
    if (!b->progress(b->progress_ctx, "load", b->done_bytes, b->total_bytes))
        b->err = ap_fail(b->diag, APUS_ECANCELLED, "loading was cancelled");
}

/* Memory for n bytes; NULL while sizes are only added up. */
static void *take(ap_bind *b, size_t bytes)
{
    size_t at = b->used, end;
    if (!ap_add_size(at, bytes, &end) || end > SIZE_MAX - AP_ALIGN) {
        b->err = ap_fail_nomem(b->diag, SIZE_MAX, "packed weights");
        return NULL;
    }
    b->used = ap_round_up(end, AP_ALIGN);
    return b->mem ? b->mem + at : NULL;
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
    if (!dst || b->err) return;
    b->k->pack(b->k, view, dst, out);
    report(b, bytes);
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
    size_t bytes = ap_tensor_row_bytes(view);
    uint8_t *rows =
        take(b, (size_t)n * bytes); /* quantised rows are used where they are, so they stay */
    for (int i = 0; rows && i < n; i++)
        memcpy(rows + (size_t)i * bytes, (const uint8_t *)view->data + (size_t)row[i] * bytes,
               bytes);
    picked.data = rows;
    if (view->scales) {
        picked.scales = pick_scales(b, view, view->scales, row, n);
        if (view->biases) picked.biases = pick_scales(b, view, view->biases, row, n);
        picked.group_rows = 1;
    }
    ap_bind_mat_view(b, out, &picked);
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
    return b->err ? NULL : take(b, n * sizeof(float));
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
    if (add != 0)
        for (int i = 0; i < n; i++) dst[i] = add + dst[i];
    *out = dst;
    report(b, (size_t)n * sizeof(float));
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

/* Rows [begin, end) of expert e. */
static void bind_expert_mat(ap_bind *b, ap_mat *out, const ap_tensor *all, int e, int64_t begin,
                            int64_t end)
{
    if (b->err) return;
    ap_tensor one = ap_tensor_index(all, e);
    ap_tensor rows = ap_tensor_rows(&one, begin, end);
    ap_bind_mat_view(b, out, &rows);
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
    for (int e = 0; e < E && !b->err; e++) {
        ap_expert *x = ap_experts_slot(m->experts, l, e);
        if (split) {
            bind_expert_mat(b, &x->gate, &s.gate, e, 0, F);
            bind_expert_mat(b, &x->up, &s.up, e, fused ? F : 0, fused ? 2 * (int64_t)F : F);
            bind_expert_mat(b, &x->down, &s.down, e, 0, H);
        } else {
            ap_ffn f = {{0}, {0}, {0}};
            ap_bind_ffn(b, &f, H, F, "layers.%d.%s.%d", l, module, e);
            *x = (ap_expert){f.gate, f.up, f.down};
        }
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
