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
    const ap_tensor *any = rank < 0 ? ap_weights_find(b->w, name) : NULL;
    if (any) {
        rank = any->rank;
        shape = any->shape;
    }
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
    if (!b->dev->is_host) {
        b->err = ap_fail(b->diag, APUS_EUNSUPPORTED,
                         "device %s does not run weights of type %s; choose cpu", b->dev->name,
                         ap_dtype_name(view->dtype));
        return;
    }
    b->in_place += ap_tensor_bytes(view) + ap_tensor_scale_bytes(view) * (view->biases ? 2 : 1);
    if (dst) b->k->pack_mat(b->k, view, dst, out);
}

void ap_bind_table(ap_bind *b, ap_mat *out, const ap_tensor *view)
{
    if (b->err) return;
    if (b->k->packed_tables)
        ap_bind_mat_view(b, out, view);
    else
        *out = (ap_mat){.dtype = view->dtype,
                        .rows = (int)view->shape[0],
                        .cols = (int)view->shape[1],
                        .raw = *view};
}

/* Rows row[i] / group of `from`, `bytes` each, below one another. */
static void pick_rows(uint8_t *to, const void *from, size_t bytes, const int *row, int group, int n)
{
    for (int i = 0; i < n; i++)
        memcpy(to + (size_t)i * bytes, (const uint8_t *)from + (size_t)(row[i] / group) * bytes,
               bytes);
}

/* Bytes of n picked rows, and of their scales: one row of those for each. */
typedef struct picked_size {
    size_t row, scale_row; /* bytes of one */
    size_t data, scales, all;
} picked_size;

static picked_size size_of_picked(const ap_tensor *view, int n)
{
    picked_size s = {.row = ap_tensor_row_bytes(view), .all = SIZE_MAX};
    if (view->scales) {
        size_t groups = ((size_t)view->shape[1] + (size_t)view->group - 1) / (size_t)view->group;
        s.scale_row = groups * ap_dtype_bytes(view->scale_dtype);
    }
    if (!ap_mul_size((size_t)n, s.row, &s.data) ||
        !ap_mul_size((size_t)n, s.scale_row, &s.scales) || s.data > SIZE_MAX / 4 ||
        s.scales > SIZE_MAX / 8)
        return s;
    s.data = ap_round_up(s.data, AP_ALIGN);
    s.scales = ap_round_up(s.scales, AP_ALIGN);
    s.all = s.data + s.scales * (view->biases ? 2 : 1);
    return s;
}

/* The picked rows of view as a tensor of their own, in mem. */
static ap_tensor pick(const ap_tensor *view, const picked_size *s, const int *row, int n,
                      uint8_t *mem)
{
    ap_tensor t = *view;
    t.shape[0] = n;
    if (!mem) return t;
    pick_rows(mem, view->data, s->row, row, 1, n);
    t.data = mem;
    if (!view->scales) return t;
    pick_rows(mem + s->data, view->scales, s->scale_row, row, view->group_rows, n);
    t.scales = mem + s->data;
    if (view->biases) {
        pick_rows(mem + s->data + s->scales, view->biases, s->scale_row, row, view->group_rows, n);
        t.biases = mem + s->data + s->scales;
    }
    t.group_rows = 1;
    return t;
}

void ap_bind_mat_rows(ap_bind *b, ap_mat *out, const ap_tensor *view, const int *row, int n)
{
    if (b->err) return;
    picked_size size = size_of_picked(view, n);
    ap_tensor shape = pick(view, &size, NULL, n, NULL);
    size_t packed = b->k->pack_bytes(b->k, &shape);
    bool stay = packed == 0; /* rows that are used as they are */
    uint8_t *mem = stay ? take(b, size.all) : b->mem ? ap_malloc(size.all, 1) : NULL;
    if (!stay && b->mem && !mem) b->err = ap_fail_nomem(b->diag, size.all, "rows in another order");
    if (b->err) return;
    bool here = mem && (!stay || b->dev->is_host);
    ap_tensor picked = pick(view, &size, row, n, here ? mem : NULL);
    if (here) ap_give_back(b->w, view);
    if (stay) {
        ap_bind_mat_view(b, out, &picked);
        return;
    }
    uint8_t *dst = take(b, packed); /* packed at once: the rows are ours for this call only */
    if (dst && !b->err) {
        b->k->pack_mat(b->k, &picked, dst, out);
        ap_bind_pack_now(b, &picked, dst);
    }
    ap_free(mem);
}

void ap_bind_mat_cols(ap_bind *b, ap_mat *out, const ap_tensor *view, const int *col)
{
    if (b->err) return;
    if (ap_dtype_block(view->dtype) != 1 || view->scales) {
        b->err = ap_fail(b->diag, APUS_EUNSUPPORTED,
                         "a convolution's weights: expected f32, f16 or bf16, found %s",
                         ap_dtype_name(view->dtype));
        return;
    }
    uint8_t *dst = take(b, b->k->pack_bytes(b->k, view));
    if (!dst || b->err) return;
    size_t each = ap_dtype_bytes(view->dtype), bytes = ap_tensor_bytes(view);
    uint8_t *mem = ap_malloc(bytes, 1), *to = mem;
    if (!mem) {
        b->err = ap_fail_nomem(b->diag, bytes, "columns in another order");
        return;
    }
    for (int64_t r = 0; r < view->shape[0]; r++) {
        const uint8_t *row = (const uint8_t *)view->data + (size_t)(r * view->shape[1]) * each;
        for (int64_t i = 0; i < view->shape[1]; i++, to += each)
            memcpy(to, row + (size_t)col[i] * each, each);
    }
    ap_tensor t = *view;
    t.data = mem;
    b->k->pack_mat(b->k, &t, dst, out);
    ap_bind_pack_now(b, &t, dst);
    ap_free(mem);
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

void ap_bind_mat_flat(ap_bind *b, ap_mat *out, int rows, int cols, const char *fmt, ...)
{
    char name[NAME_MAX_LEN];
    va_list ap;
    va_start(ap, fmt);
    vname(b, name, fmt, ap);
    va_end(ap);
    if (b->err) return;
    const ap_tensor *found = ap_weights_find(b->w, name);
    bool flat = found && found->rank > 2 && found->shape[0] == rows && !found->scales &&
                ap_tensor_count(found) == (int64_t)rows * cols;
    ap_tensor t =
        need(b, name, flat ? found->rank : 2, flat ? found->shape : (int64_t[]){rows, cols});
    t.rank = 2;
    t.shape[0] = rows;
    t.shape[1] = cols;
    ap_bind_mat_view(b, out, &t);
}

float *ap_bind_floats(ap_bind *b, size_t n, const float **out)
{
    size_t at = b->floats_used;
    float *host = b->err ? NULL : take_of(b, b->host_floats, &b->floats_used, n * sizeof(float));
    if (host) *out = (const float *)(const void *)(b->floats + at);
    return host;
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
            b->err = ap_fail(
                b->diag, APUS_EFORMAT,
                "%s: tensor %s: expected finite values, found %s at %d; the file is damaged",
                ap_weights_file(b->w, name), name, isnan(v[i]) ? "NaN" : "infinity", i);
}

float *ap_bind_vec(ap_bind *b, const float **out, int n, float add, const char *fmt, ...)
{
    char name[NAME_MAX_LEN];
    va_list ap;
    va_start(ap, fmt);
    vname(b, name, fmt, ap);
    va_end(ap);
    if (b->err) return NULL;
    /* Vectors are stored as [n], but also as [C, 1, K] (convolutions) or [1] by some writers. */
    const ap_tensor *found = ap_weights_find(b->w, name);
    ap_tensor t = need(b, name, found ? found->rank : 1, found ? found->shape : (int64_t[]){n});
    if (b->err) return NULL;
    if (ap_dtype_block(t.dtype) != 1) {
        b->err = ap_fail(b->diag, APUS_EUNSUPPORTED,
                         "%s: tensor %s: expected f32, f16 or bf16, found %s",
                         ap_weights_file(b->w, name), name, ap_dtype_name(t.dtype));
        return NULL;
    }
    if (ap_tensor_count(&t) != n) {
        b->err = ap_fail(b->diag, APUS_EFORMAT, "%s: tensor %s: expected %d values, found %lld",
                         ap_weights_file(b->w, name), name, n, (long long)ap_tensor_count(&t));
        return NULL;
    }
    float *dst = ap_bind_floats(b, (size_t)n, out);
    if (!dst) return NULL;
    ap_to_f32(t.dtype, t.data, dst, (size_t)n);
    ap_bind_finite(b, dst, n, "%s", name + strlen(b->prefix));
    if (add != 0)
        for (int i = 0; i < n; i++) dst[i] = add + dst[i];
    return dst;
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

/* Rows [begin, end) of expert e; whole: the packed flat matrix (empty in the sizing pass), or NULL. */
static void bind_expert_mat(ap_bind *b, ap_mat *out, const ap_tensor *all, const ap_mat *whole,
                            int e, int64_t begin, int64_t end)
{
    if (b->err) return;
    if (whole) {
        int first = (int)(e * all->shape[1] + begin);
        if (b->mem && !b->k->mat_rows(b->k, whole, first, (int)(end - begin), out))
            b->err = ap_fail(b->diag, APUS_EINTERNAL, "experts cannot be cut out of their matrix");
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

/* What is left out of the model's memory: where the files have it. */
static void view_experts(ap_bind *b, ap_model_impl *m, int l, const char *module, const stacked *s,
                         bool fused)
{
    const ap_config *c = b->c;
    int64_t F = c->expert_ffn, H = c->hidden, up_at = fused ? F : 0;
    ap_expert_view *v = &m->views[(size_t)l * (size_t)c->n_expert];
    for (int e = 0; e < c->n_expert && !b->err; e++, v++) {
        if (s) {
            ap_tensor gate = ap_tensor_index(&s->gate, e), up = ap_tensor_index(&s->up, e);
            v->gate = ap_tensor_rows(&gate, 0, F);
            v->up = ap_tensor_rows(&up, up_at, up_at + F);
            v->down = ap_tensor_index(&s->down, e);
            continue;
        }
        v->gate =
            ap_bind_view(b, 2, (int64_t[]){F, H}, "layers.%d.%s.%d.gate_proj.weight", l, module, e);
        v->up =
            ap_bind_view(b, 2, (int64_t[]){F, H}, "layers.%d.%s.%d.up_proj.weight", l, module, e);
        v->down =
            ap_bind_view(b, 2, (int64_t[]){H, F}, "layers.%d.%s.%d.down_proj.weight", l, module, e);
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
    if (!m->experts) {
        if (m->views) view_experts(b, m, l, module, split ? &s : NULL, fused);
        return;
    }
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
    ap_tensor table = ap_bind_view(b, 2, (int64_t[]){c->vocab, c->hidden}, "embed_tokens.weight");
    ap_bind_table(b, &m->embed, &table);
    ap_bind_vec(b, &m->norm_out, c->hidden, norm_add, "norm.weight");
    /* The head stands outside the text model's prefix; a few writers put it inside. */
    static const char *const names[] = {"lm_head.weight", "language_model.lm_head.weight",
                                        "model.lm_head.weight"};
    const char *head = NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names && !head; i++)
        if (ap_weights_find(b->w, names[i])) head = names[i];
    if (c->tie_embeddings || !head) {
        if (b->k->packed_tables)
            m->head = m->embed;
        else
            ap_bind_mat_view(b, &m->head, &table);
        return;
    }
    ap_tensor t = need(b, head, 2, (int64_t[]){c->vocab, c->hidden});
    ap_bind_mat_view(b, &m->head, &t);
}
