/* quantize_gguf.c - a folder of floats, or a GGUF file, to a GGUF file.
 *
 * The tensors of the model are walked twice: the first pass finds their sources and writes the header,
 * the second encodes some rows at a time, in parallel, so that memory is a few megabytes for models of
 * any size. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/output.h"
#include "base/str.h"
#include "file/gguf_hf.h"
#include "file/gguf_layout.h"
#include "file/gguf_meta.h"
#include "file/gguf_write.h"
#include "make/quantize.h"
#include "tensor/quant.h"
#include "tensor/quantize_row.h"

#define BATCH_BYTES ((size_t)8 << 20) /* of output rows in one go */

enum { MAX_TASKS = 64, MAX_NAME = 512, MAX_STEM = 64 };

/* One tensor to write. Row r of the model's tensor is row r % per_view of view r / per_view. */
typedef struct gguf_job {
    ap_gguf_out out;
    ap_dtype type;
    ap_tensor *view; /* shared by the outputs of one tensor; the first of them frees it */
    bool owns_view;
    size_t per_view, n_views;
    size_t index; /* in the writer */
} gguf_job;

typedef struct gguf_plan {
    ap_quantizer *q;
    ap_gguf_writer *writer;
    ap_dtype target;
    gguf_job *job;
    size_t n, cap, n_quantised;
} gguf_plan;

/* ---------------------------------------------------------------- where the rows are */

/* The head stands outside the text model's prefix; a few writers put it inside. */
static const ap_tensor *find_head(const ap_quantizer *q)
{
    static const char *const names[] = {"lm_head.weight", "language_model.lm_head.weight",
                                        "model.lm_head.weight"};
    const ap_tensor *t = NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names && !t; i++)
        t = ap_weights_find(q->weights, names[i]);
    return t;
}

/* The rows of a tensor as one matrix of `cols` columns: leading axes joined, and the [C, 1, taps] or
 * [C, taps, 1] of convolutions. */
static ap_tensor as_matrix(const ap_tensor *t, size_t rows, size_t cols)
{
    ap_tensor m = *t;
    if (ap_dtype_block(t->dtype) == 1 || t->rank == 3) {
        m.rank = 2;
        m.shape[0] = (int64_t)rows;
        m.shape[1] = (int64_t)cols;
    }
    return m;
}

static apus_err missing(const ap_quantizer *q, const char *name)
{
    return ap_fail(q->diag, APUS_EFORMAT, "%s: tensor \"%s%.200s\" is missing", q->src, q->prefix,
                   name);
}

static apus_err wrong(const ap_quantizer *q, const char *name)
{
    return ap_fail(q->diag, APUS_EFORMAT,
                   "%s: tensor \"%.200s\" has another shape or type than config.json says", q->src,
                   name);
}

static apus_err one_view(const ap_quantizer *q, gguf_job *j, const ap_model_tensor *t,
                         const ap_tensor *found, size_t rows, size_t cols)
{
    if (!ap_dtype_is_weight(found->dtype) || (size_t)ap_tensor_count(found) != rows * cols ||
        (t->rank == 3 && t->role == AP_ROLE_MATRIX &&
         (found->rank != 3 || found->shape[0] != t->shape[0] || found->shape[2] != t->shape[2])) ||
        (t->rank == 2 && (found->rank != 2 || found->shape[1] != t->shape[1])))
        return wrong(q, t->name);
    j->view = ap_malloc(1, sizeof *j->view);
    if (!j->view) return ap_fail_nomem(q->diag, sizeof *j->view, "the tensor list");
    j->view[0] = as_matrix(found, rows, cols);
    j->n_views = 1;
    j->per_view = rows;
    return APUS_OK;
}

/* Expert e's share of a projection: a slice of one tensor for all, or a tensor of its own. */
static bool expert_view(const ap_quantizer *q, const char *stem, int e, const char *leaf,
                        ap_tensor *out)
{
    char names[3][MAX_NAME];
    if (strlen(q->prefix) > MAX_NAME / 2) return false;
    snprintf(names[0], MAX_NAME, "%s%s.experts.%s", q->prefix, stem, leaf);
    snprintf(names[1], MAX_NAME, "%s%s.switch_mlp.%s.weight", q->prefix, stem, leaf);
    snprintf(names[2], MAX_NAME, "%s%s.experts.switch_glu.%s.weight", q->prefix, stem, leaf);
    for (int i = 0; i < 3; i++) {
        const ap_tensor *t = ap_weights_find(q->weights, names[i]);
        if (!t) continue;
        if (t->rank == 3 && e < t->shape[0]) *out = ap_tensor_index(t, e);
        return t->rank == 3 && e < t->shape[0];
    }
    snprintf(names[0], MAX_NAME, "%s%s.experts.%d.%s.weight", q->prefix, stem, e, leaf);
    const ap_tensor *t = ap_weights_find(q->weights, names[0]);
    if (t) *out = *t;
    return t && t->rank == 2;
}

/* Experts that are not stored as the model's tensor is: gate and up apart, or one by one. */
static apus_err expert_views(const ap_quantizer *q, gguf_job *j, const ap_model_tensor *t)
{
    static const char *const pair[] = {"gate_proj", "up_proj"};
    char stem[MAX_STEM];
    bool joint = ap_ends_with(t->name, "gate_up_proj");
    int E = (int)t->shape[0], parts = joint ? 2 : 1;
    snprintf(stem, sizeof stem, "%.*s", (int)(strstr(t->name, ".experts.") - t->name), t->name);
    j->view = ap_malloc((size_t)E * (size_t)parts, sizeof *j->view);
    if (!j->view) return ap_fail_nomem(q->diag, (size_t)E * sizeof *j->view, "the tensor list");
    j->n_views = (size_t)E * (size_t)parts;
    j->per_view = (size_t)(t->shape[1] / parts);
    for (size_t i = 0; i < j->n_views; i++) {
        ap_tensor *v = &j->view[i];
        if (!expert_view(q, stem, (int)i / parts, joint ? pair[i % 2] : "down_proj", v))
            return missing(q, t->name);
        if (!ap_dtype_is_weight(v->dtype) || v->rank != 2 || v->shape[0] != (int64_t)j->per_view ||
            v->shape[1] != t->shape[2])
            return wrong(q, t->name);
    }
    return APUS_OK;
}

static apus_err find_views(const ap_quantizer *q, gguf_job *j, const ap_model_tensor *t)
{
    char full[MAX_NAME];
    snprintf(full, sizeof full, "%s%s", q->prefix, t->name);
    const ap_tensor *found =
        t->role == AP_ROLE_HEAD ? find_head(q) : ap_weights_find(q->weights, full);
    size_t rows = 1, cols = (size_t)t->shape[t->rank - 1];
    for (int i = 0; i + 1 < t->rank; i++) rows *= (size_t)t->shape[i];
    j->owns_view = true;
    if (found) return one_view(q, j, t, found, rows, cols);
    if (t->rank == 3 && t->role == AP_ROLE_MATRIX) return expert_views(q, j, t);
    return missing(q, t->name);
}

/* The tensor of a GGUF source that becomes the output `o`: under the same name, in the same order of
 * rows and with the same shifts. */
static apus_err stored_view(const ap_quantizer *q, gguf_job *j, const ap_gguf_out *o)
{
    char name[MAX_NAME];
    const ap_tensor *found = NULL;
    if (ap_gguf_tensor_name(o->name, ap_family_of(q->config->arch), name, sizeof name))
        found = ap_weights_find(q->weights, name);
    if (!found)
        return ap_fail(q->diag, APUS_EFORMAT, "%s: tensor \"%s\" is missing", q->src, o->name);
    if (!ap_dtype_is_weight(found->dtype) || (size_t)ap_tensor_count(found) != o->rows * o->cols ||
        (found->rank > 1 && ap_dtype_block(found->dtype) > 1 &&
         found->shape[found->rank - 1] != (int64_t)o->cols))
        return ap_fail(q->diag, APUS_EFORMAT,
                       "%s: tensor \"%s\" has another shape or type than the metadata says", q->src,
                       o->name);
    j->view = ap_malloc(1, sizeof *j->view);
    if (!j->view) return ap_fail_nomem(q->diag, sizeof *j->view, "the tensor list");
    j->view[0] = as_matrix(found, o->rows, o->cols);
    j->n_views = 1;
    j->per_view = o->rows;
    j->owns_view = true;
    j->out = *o;
    j->out.map = AP_GGUF_AS_IS;
    j->out.op = AP_GGUF_SAME;
    return APUS_OK;
}

/* ---------------------------------------------------------------- what becomes of a tensor */

static apus_err choose_type(gguf_plan *p, const ap_model_tensor *t, gguf_job *j)
{
    ap_choice c;
    j->type = AP_F32;
    if (j->out.vector) return APUS_OK;
    if (!ap_recipe_find(p->q->recipe, t->name, &c)) {
        ap_dtype want = ap_recipe_default(p->target, p->q->config, t);
        j->type = ap_type_for_width(want, j->out.cols);
    } else if (j->out.cols % (size_t)ap_dtype_block(c.dtype)) {
        return ap_fail(p->q->diag, APUS_EUNSUPPORTED,
                       "the recipe wants %s for %s, whose rows of %zu are not whole blocks of %d",
                       ap_dtype_name(c.dtype), t->name, j->out.cols, ap_dtype_block(c.dtype));
    } else {
        j->type = c.dtype;
    }
    p->n_quantised += ap_dtype_block(j->type) > 1;
    return APUS_OK;
}

static gguf_job *new_job(gguf_plan *p)
{
    if (p->n == p->cap) {
        size_t cap = p->cap ? p->cap * 2 : 256;
        gguf_job *more = ap_realloc(p->job, cap, sizeof *more);
        if (!more) return NULL;
        p->job = more;
        p->cap = cap;
    }
    gguf_job *j = &p->job[p->n++];
    memset(j, 0, sizeof *j);
    return j;
}

/* The type of a job with its view, and its place in the file. */
static apus_err place(gguf_plan *p, const ap_model_tensor *t, gguf_job *j)
{
    apus_err err = choose_type(p, t, j);
    if (!err)
        err = ap_gguf_writer_add(p->writer, j->out.name, j->type, j->out.rank, j->out.shape,
                                 &j->index, p->q->diag);
    p->q->total += (uint64_t)j->out.rows * j->out.cols;
    return err;
}

static apus_err plan_stored(gguf_plan *p, const ap_model_tensor *t)
{
    ap_gguf_out out[2];
    int n = ap_gguf_layout(p->q->config, t, out);
    apus_err err = APUS_OK;
    for (int i = 0; i < n && !err; i++) {
        gguf_job *j = new_job(p);
        if (!j) return ap_fail_nomem(p->q->diag, p->n * sizeof *j, "the tensor list");
        err = stored_view(p->q, j, &out[i]);
        if (!err) err = place(p, t, j);
    }
    return err;
}

static apus_err plan_tensor(void *ctx, const ap_model_tensor *t)
{
    gguf_plan *p = ctx;
    if (p->q->from_gguf) return plan_stored(p, t);
    ap_gguf_out out[2];
    gguf_job first = {.view = NULL};
    int n = ap_gguf_layout(p->q->config, t, out);
    apus_err err = APUS_OK;
    for (int i = 0; i < n && !err; i++) {
        gguf_job *j = new_job(p);
        if (!j) return ap_fail_nomem(p->q->diag, p->n * sizeof *j, "the tensor list");
        if (i) {
            *j = first;
            j->owns_view = false;
        } else {
            err = find_views(p->q, j, t);
            first = *j;
        }
        j->out = out[i];
        /* Some folders hold norms that are shifted already. */
        if (j->out.op == AP_GGUF_ADD_ONE && ap_weights_traits_of(p->q->weights).norms_shifted)
            j->out.op = AP_GGUF_SAME;
        if (!err) err = place(p, t, j);
    }
    return err;
}

/* ---------------------------------------------------------------- encoding */

/* Some rows of a job. */
typedef struct gguf_batch {
    const gguf_job *j;
    size_t first, n, per_task, row_bytes;
    float *wide; /* [workers][2][cols] */
    uint8_t *out;
    bool broken[MAX_TASKS]; /* a value that is not finite */
} gguf_batch;

static void shift_values(const ap_gguf_out *o, float *w)
{
    for (size_t c = 0; c < o->cols && o->op == AP_GGUF_ADD_ONE; c++) w[c] = 1.0f + w[c];
    for (size_t c = 0; c < o->cols && o->op == AP_GGUF_NEG_EXP; c++)
        w[c] = -(float)exp((double)w[c]);
}

/* Row r of the output as numbers, in w or in spare. */
static float *read_row(const gguf_job *j, size_t r, float *w, float *spare)
{
    const ap_gguf_out *o = &j->out;
    size_t row = ap_gguf_row_of(o, r);
    ap_tensor_row_f32(&j->view[row / j->per_view], (int64_t)(row % j->per_view), 0,
                      (int64_t)o->cols, w);
    if (o->map == AP_GGUF_TILED_COLS) {
        for (size_t c = 0; c < o->cols; c++) spare[c] = w[ap_gguf_col_of(o, c)];
        w = spare;
    }
    shift_values(o, w);
    return w;
}

static void encode_task(void *arg, int task, int worker)
{
    gguf_batch *b = arg;
    size_t cols = b->j->out.cols, end = ((size_t)task + 1) * b->per_task;
    float *wide = b->wide + (size_t)worker * 2 * cols;
    if (end > b->n) end = b->n;
    for (size_t r = (size_t)task * b->per_task; r < end; r++) {
        float *w = read_row(b->j, b->first + r, wide, wide + cols);
        for (size_t c = 0; c < cols; c++)
            if (!isfinite(w[c])) b->broken[task] = true;
        if (b->broken[task]) return;
        ap_quantize_row(b->j->type, w, cols, b->out + r * b->row_bytes);
    }
}

static apus_err encode_batch(gguf_plan *p, gguf_batch *b)
{
    memset(b->broken, 0, sizeof b->broken);
    b->per_task = (b->n + MAX_TASKS - 1) / MAX_TASKS;
    ap_pool_run(p->q->pool, encode_task, b, (int)((b->n + b->per_task - 1) / b->per_task));
    for (int i = 0; i < MAX_TASKS; i++)
        if (b->broken[i])
            return ap_fail(p->q->diag, APUS_EFORMAT,
                           "%s: the source of %s holds values that are not finite", p->q->src,
                           b->j->out.name);
    apus_err err = ap_gguf_writer_put(p->writer, b->j->index, b->first * b->row_bytes, b->out,
                                      b->n * b->row_bytes, p->q->diag);
    return err ? err : ap_quantizer_tell(p->q, b->n * b->j->out.cols);
}

static apus_err encode(gguf_plan *p, const gguf_job *j)
{
    gguf_batch b = {.j = j};
    b.row_bytes = j->out.cols / (size_t)ap_dtype_block(j->type) * ap_dtype_block_bytes(j->type);
    size_t most = b.row_bytes ? BATCH_BYTES / b.row_bytes : 1;
    most = most < 1 ? 1 : most > j->out.rows ? j->out.rows : most;
    b.wide = ap_malloc((size_t)ap_pool_threads(p->q->pool) * 2 * j->out.cols, sizeof *b.wide);
    b.out = ap_malloc(most, b.row_bytes);
    apus_err err =
        b.wide && b.out ? APUS_OK : ap_fail_nomem(p->q->diag, most * b.row_bytes, "quantised rows");
    for (b.first = 0; b.first < j->out.rows && !err; b.first += b.n) {
        b.n = j->out.rows - b.first < most ? j->out.rows - b.first : most;
        err = encode_batch(p, &b);
    }
    ap_free(b.wide);
    ap_free(b.out);
    return err;
}

/* ---------------------------------------------------------------- the file */

static apus_err put_rope_freqs(gguf_plan *p, size_t index)
{
    int n, turning;
    ap_gguf_rope_freqs(p->q->config, &n, &turning);
    apus_err err = APUS_OK;
    for (int i = 0; i < n && !err; i++) {
        float f = i < turning ? 1.0f : 1e30f;
        err = ap_gguf_writer_put(p->writer, index, (uint64_t)i * 4, &f, 4, p->q->diag);
    }
    return err;
}

static apus_err put_texts(gguf_plan *p)
{
    ap_quantizer *q = p->q;
    char *tokenizer = NULL, *config = NULL, *chat = NULL, *tools = NULL;
    ap_tokenizer_texts t = {.name = q->src};
    apus_err err = ap_quantizer_text(q, "tokenizer.json", &tokenizer, &t.tokenizer_len);
    if (!err) err = ap_quantizer_text(q, "tokenizer_config.json", &config, &t.config_len);
    if (!err) err = ap_quantizer_text(q, "chat_template.jinja", &chat, &t.chat_template_len);
    if (!err)
        err = ap_quantizer_text(q, "additional_chat_templates/tool_use.jinja", &tools,
                                &t.tool_template_len);
    t.tool_template = tools;
    t.tokenizer = tokenizer;
    t.config = config;
    t.chat_template = chat;
    if (!err && tokenizer) err = ap_gguf_put_tokenizer(p->writer, q->config, &t, q->diag);
    ap_free(tokenizer);
    ap_free(config);
    ap_free(chat);
    ap_free(tools);
    return err;
}

/* The folder's own name. */
static void model_name(const char *path, char *out, size_t cap)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    size_t at = n;
    while (at && path[at - 1] != '/') at--;
    snprintf(out, cap, "%.*s", (int)(n - at), path + at);
}

static apus_err put_meta(gguf_plan *p)
{
    ap_quantizer *q = p->q;
    char name[256];
    size_t n;
    if (q->from_gguf) {
        ap_gguf_copy_meta(p->writer, ap_weights_gguf(q->weights, &n)[0], q->config, p->target);
        return APUS_OK;
    }
    model_name(q->src, name, sizeof name);
    apus_err err = ap_gguf_put_config(p->writer, q->config,
                                      &(ap_config_text){q->src, q->config_text, q->config_len},
                                      name, p->target, q->diag);
    return err ? err : put_texts(p);
}

static apus_err plan(gguf_plan *p, size_t *rope)
{
    ap_quantizer *q = p->q;
    apus_err err = put_meta(p);
    if (!err && ap_family_of(q->config->arch)->freqs) {
        int n, turning;
        ap_gguf_rope_freqs(q->config, &n, &turning);
        err = ap_gguf_writer_add(p->writer, "rope_freqs.weight", AP_F32, 1, &(int64_t){n}, rope,
                                 q->diag);
    }
    if (!err) err = ap_model_tensors(q->config, plan_tensor, p);
    if (!err) err = ap_quantizer_check_recipe(q);
    if (!err && ap_dtype_block(p->target) > 1 && !p->n_quantised)
        err = ap_fail(q->diag, APUS_EUNSUPPORTED,
                      "%s: no matrix has a width that is a multiple of 32", q->src);
    return err;
}

apus_err ap_quantize_gguf(ap_quantizer *q, ap_dtype target)
{
    gguf_plan p = {.q = q, .target = target};
    size_t rope = 0;
    apus_err err = ap_gguf_writer_create(&p.writer, q->diag);
    if (!err) err = plan(&p, &rope);
    if (!err) err = ap_disk_check(q->out, ap_gguf_writer_bytes(p.writer), q->diag);
    if (!err) err = ap_gguf_writer_begin(p.writer, q->out, q->diag);
    if (!err && ap_family_of(q->config->arch)->freqs) err = put_rope_freqs(&p, rope);
    for (size_t i = 0; i < p.n && !err; i++) err = encode(&p, &p.job[i]);
    if (!err) err = ap_gguf_writer_finish(p.writer, q->diag);
    for (size_t i = 0; i < p.n; i++)
        if (p.job[i].owns_view) ap_free(p.job[i].view);
    ap_free(p.job);
    ap_gguf_writer_free(p.writer);
    return err;
}
