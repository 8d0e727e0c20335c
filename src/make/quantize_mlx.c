/* quantize_mlx.c - a folder of floats to a folder of MLX's affine format.
 *
 * Two passes: the first decides what becomes of every tensor and writes the header, the second
 * encodes and writes some rows at a time. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/output.h"
#include "base/str.h"
#include "file/family.h"
#include "file/safetensors_write.h"
#include "make/quantize.h"
#include "tensor/quant.h"
#include "tensor/quantize_affine.h"

#define BATCH_BYTES ((size_t)8 << 20) /* of source rows in one go */
#define MAX_NAME    512

/* One tensor or module to write. Output row r is row r / rows_per * stride + begin + r % rows_per
 * of the source: the halves of fused experts are every other run of rows. */
typedef struct job {
    const ap_tensor *src;
    int bits; /* 0 = copied */
    size_t rows, rows_per, stride, begin;
    size_t weight, scales, biases; /* in the writer */
} job;

typedef struct mlx_plan {
    ap_quantizer *q;
    ap_st_writer *writer;
    job *job;
    size_t n_jobs, cap_jobs, n_quantised;
    ap_buf overrides; /* of config.json */
} mlx_plan;

/* Some rows of a job, and where they go. */
typedef struct batch {
    const job *j;
    ap_dtype dtype; /* of scales */
    int group;
    size_t first, n, cols, per_task;
    float *wide; /* [workers, cols] */
    uint8_t *packed, *scales, *biases;
    size_t packed_row, scale_row; /* bytes */
    bool *broken;                 /* [tasks]: a value that is not finite */
} batch;

/* ---------------------------------------------------------------- what becomes of a tensor */

static bool is_text(const mlx_plan *p, const char *name)
{
    if (!strncmp(name, "mtp.", 4)) return false;
    return !strncmp(name, p->q->prefix, strlen(p->q->prefix)) ||
           ap_ends_with(name, "lm_head.weight");
}

static bool is_float(ap_dtype t)
{
    return t == AP_F32 || t == AP_F16 || t == AP_BF16;
}

/* Bits for a matrix; 0 = it stays. */
static int bits_for(const mlx_plan *p, const char *name, const ap_tensor *t)
{
    int bits = ap_recipe_mlx_default(p->q->s.bits, name);
    size_t inside = strlen(p->q->prefix);
    ap_choice c;
    if (!is_float(t->dtype) || t->rank < 2 || t->shape[t->rank - 1] % p->q->s.group) return 0;
    if (ap_tensor_count(t) == 0 || !bits) return 0;
    if (ap_recipe_find(p->q->recipe, strncmp(name, p->q->prefix, inside) ? name : name + inside,
                       &c))
        return c.bits;
    return bits;
}

static apus_err add_override(mlx_plan *p, const char *module, int bits)
{
    if (bits == p->q->s.bits) return APUS_OK;
    ap_buf_adds(&p->overrides, ",\n    ");
    ap_json_quote(&p->overrides, module, strlen(module), false);
    ap_buf_addf(&p->overrides, ": {\"group_size\": %d, \"bits\": %d, \"mode\": \"affine\"}",
                p->q->s.group, bits);
    return p->overrides.failed ? ap_fail_nomem(p->q->diag, strlen(module), "config.json") : APUS_OK;
}

/* Name the outputs of a job. module: the name without ".weight" if bits. shape: of the values. */
static apus_err declare(mlx_plan *p, job *j, const char *name, int rank, const int64_t *shape)
{
    char out[MAX_NAME];
    int64_t size[AP_MAX_RANK];
    ap_dtype t = j->src->dtype;
    if (!j->bits) return ap_st_writer_add(p->writer, name, t, rank, shape, &j->weight, p->q->diag);
    int len = (int)strlen(name) - (int)strlen(".weight");
    memcpy(size, shape, (size_t)rank * sizeof *size);
    size[rank - 1] = shape[rank - 1] * j->bits / 32;
    apus_err err = ap_st_writer_add(p->writer, name, AP_U32, rank, size, &j->weight, p->q->diag);
    size[rank - 1] = shape[rank - 1] / p->q->s.group;
    snprintf(out, sizeof out, "%.*s.scales", len, name);
    if (!err) err = ap_st_writer_add(p->writer, out, t, rank, size, &j->scales, p->q->diag);
    snprintf(out, sizeof out, "%.*s.biases", len, name);
    if (!err) err = ap_st_writer_add(p->writer, out, t, rank, size, &j->biases, p->q->diag);
    snprintf(out, sizeof out, "%.*s", len, name);
    p->n_quantised++;
    return err ? err : add_override(p, out, j->bits);
}

static apus_err add_job(mlx_plan *p, const job *j, const char *name, int rank, const int64_t *shape)
{
    if (p->n_jobs == p->cap_jobs) {
        size_t cap = p->cap_jobs ? p->cap_jobs * 2 : 256;
        job *more = ap_realloc(p->job, cap, sizeof *more);
        if (!more) return ap_fail_nomem(p->q->diag, cap * sizeof *more, "the tensor list");
        p->job = more;
        p->cap_jobs = cap;
    }
    p->job[p->n_jobs] = *j;
    p->q->total += j->rows * ap_tensor_row_bytes(j->src);
    return declare(p, &p->job[p->n_jobs++], name, rank, shape);
}

static apus_err add_plain(mlx_plan *p, const char *name, const ap_tensor *t, int bits)
{
    size_t row = ap_tensor_row_bytes(t), rows = row ? ap_tensor_bytes(t) / row : 0;
    job j = {.src = t, .bits = bits, .rows = rows, .rows_per = rows, .stride = rows};
    return add_job(p, &j, name, t->rank, t->shape);
}

/* Experts of a layer in one tensor without ".weight": under the names that MLX has for them, gate
 * and up apart. */
static apus_err add_experts(mlx_plan *p, const char *name, const char *leaf, const ap_tensor *t)
{
    static const char *const halves[] = {"gate_proj", "up_proj"};
    bool fused = !strcmp(leaf, "gate_up_proj");
    int n = fused ? 2 : 1, stem = (int)(leaf - name) - (int)strlen("experts.");
    int bits = bits_for(p, name, t);
    apus_err err = APUS_OK;
    for (int h = 0; h < n && !err; h++) {
        char out[MAX_NAME];
        size_t experts = (size_t)t->shape[0], rows = (size_t)t->shape[1], part = rows / (size_t)n;
        job j = {.src = t,
                 .bits = bits,
                 .rows = experts * part,
                 .rows_per = part,
                 .stride = rows,
                 .begin = (size_t)h * part};
        snprintf(out, sizeof out, "%.*s%s.%s.weight", stem, name,
                 ap_family_of(p->q->config->arch)->mlx_experts, fused ? halves[h] : leaf);
        err = add_job(p, &j, out, 3, (int64_t[]){t->shape[0], (int64_t)part, t->shape[2]});
    }
    return err;
}

static bool is_stacked(const char *name)
{
    return ap_ends_with(name, ".experts.gate_up_proj") ||
           ap_ends_with(name, ".experts.gate_proj") || ap_ends_with(name, ".experts.up_proj") ||
           ap_ends_with(name, ".experts.down_proj");
}

static apus_err plan_tensor(mlx_plan *p, const char *name, const ap_tensor *t)
{
    if (strlen(name) > MAX_NAME - 32)
        return ap_fail(p->q->diag, APUS_EUNSUPPORTED, "%s: tensor \"%.200s\": the name is too long",
                       p->q->src, name);
    if (!is_text(p, name)) return add_plain(p, name, t, 0);
    if (is_stacked(name) && t->rank == 3 && t->shape[1] > 0 && t->shape[1] % 2 == 0)
        return add_experts(p, name, strrchr(name, '.') + 1, t);
    return add_plain(p, name, t,
                     t->rank == 2 && ap_ends_with(name, ".weight") ? bits_for(p, name, t) : 0);
}

static apus_err plan(mlx_plan *p)
{
    apus_err err = APUS_OK;
    for (size_t i = 0; i < ap_weights_count(p->q->weights) && !err; i++) {
        const char *name;
        const ap_tensor *t = ap_weights_at(p->q->weights, i, &name);
        err = plan_tensor(p, name, t);
    }
    if (!err && !p->n_quantised)
        err = ap_fail(p->q->diag, APUS_EUNSUPPORTED,
                      "%s: no matrix of f32, f16 or bf16 has a width that is a multiple of %d",
                      p->q->src, p->q->s.group);
    return err ? err : ap_quantizer_check_recipe(p->q);
}

/* ---------------------------------------------------------------- encoding */

static size_t source_row(const job *j, size_t r)
{
    return r / j->rows_per * j->stride + j->begin + r % j->rows_per;
}

static void encode_task(void *arg, int task, int worker)
{
    batch *b = arg;
    float *w = b->wide + (size_t)worker * b->cols;
    size_t end = ((size_t)task + 1) * b->per_task;
    if (end > b->n) end = b->n;
    for (size_t r = (size_t)task * b->per_task; r < end; r++) {
        size_t row = source_row(b->j, b->first + r);
        ap_tensor_row_f32(b->j->src, (int64_t)row, 0, (int64_t)b->cols, w);
        for (size_t c = 0; c < b->cols; c++)
            if (!isfinite(w[c])) b->broken[task] = true;
        if (b->broken[task]) return;
        ap_quantize_affine(w, b->cols, b->j->bits, b->group, b->dtype,
                           b->packed + r * b->packed_row, b->scales + r * b->scale_row,
                           b->biases + r * b->scale_row);
    }
}

enum { MAX_TASKS = 64 };

static apus_err encode_batch(mlx_plan *p, batch *b)
{
    bool broken[MAX_TASKS] = {0};
    b->broken = broken;
    b->per_task = (b->n + MAX_TASKS - 1) / MAX_TASKS;
    ap_pool_run(p->q->pool, encode_task, b, (int)((b->n + b->per_task - 1) / b->per_task));
    for (int i = 0; i < MAX_TASKS; i++)
        if (broken[i])
            return ap_fail(p->q->diag, APUS_EFORMAT,
                           "%s: a matrix holds values that are not finite", p->q->src);
    const job *j = b->j;
    apus_err err = ap_st_writer_put(p->writer, j->weight, b->first * b->packed_row, b->packed,
                                    b->n * b->packed_row, p->q->diag);
    if (!err)
        err = ap_st_writer_put(p->writer, j->scales, b->first * b->scale_row, b->scales,
                               b->n * b->scale_row, p->q->diag);
    if (!err)
        err = ap_st_writer_put(p->writer, j->biases, b->first * b->scale_row, b->biases,
                               b->n * b->scale_row, p->q->diag);
    return err;
}

static size_t rows_at_once(const job *j)
{
    size_t row = ap_tensor_row_bytes(j->src), n = row ? BATCH_BYTES / row : j->rows;
    n = n ? n : 1;
    return n < j->rows ? n : j->rows;
}

static apus_err encode(mlx_plan *p, const job *j)
{
    size_t cols = (size_t)j->src->shape[j->src->rank - 1], most = rows_at_once(j);
    batch b = {.j = j, .dtype = j->src->dtype, .group = p->q->s.group, .cols = cols};
    b.packed_row = cols * (size_t)j->bits / 8;
    b.scale_row = cols / (size_t)b.group * ap_dtype_bytes(b.dtype);
    b.wide = ap_malloc((size_t)ap_pool_threads(p->q->pool) * cols, sizeof *b.wide);
    b.packed = ap_malloc(most, b.packed_row + 2 * b.scale_row);
    apus_err err = APUS_OK;
    if (!b.wide || !b.packed)
        err = ap_fail_nomem(p->q->diag, most * b.packed_row, "quantised rows");
    if (b.packed) {
        b.scales = b.packed + most * b.packed_row;
        b.biases = b.scales + most * b.scale_row;
    }
    for (b.first = 0; b.first < j->rows && !err; b.first += b.n) {
        b.n = j->rows - b.first < most ? j->rows - b.first : most;
        err = encode_batch(p, &b);
        if (!err) err = ap_quantizer_tell(p->q, b.n * ap_tensor_row_bytes(j->src));
    }
    ap_free(b.packed);
    ap_free(b.wide);
    return err;
}

static apus_err copy_rows(mlx_plan *p, const job *j)
{
    size_t row = ap_tensor_row_bytes(j->src), most = rows_at_once(j);
    apus_err err = APUS_OK;
    for (size_t r = 0, n; r < j->rows && !err; r += n) {
        size_t run = j->rows_per - r % j->rows_per; /* rows that lie together in the source */
        n = run < most ? run : most;
        err = ap_st_writer_put(p->writer, j->weight, r * row,
                               (const uint8_t *)j->src->data + source_row(j, r) * row, n * row,
                               p->q->diag);
        if (!err) err = ap_quantizer_tell(p->q, n * row);
    }
    return err;
}

static apus_err write_weights(mlx_plan *p)
{
    char *path = ap_path_join(p->q->out, "model.safetensors");
    apus_err err = path ? ap_st_writer_begin(p->writer, path, p->q->diag)
                        : ap_fail_nomem(p->q->diag, strlen(p->q->out), "a path");
    for (size_t i = 0; i < p->n_jobs && !err; i++)
        err = p->job[i].bits ? encode(p, &p->job[i]) : copy_rows(p, &p->job[i]);
    if (!err) err = ap_st_writer_finish(p->writer, p->q->diag);
    ap_free(path);
    return err;
}

/* ---------------------------------------------------------------- the other files */

static apus_err write_text(mlx_plan *p, const char *name, const char *text, size_t len)
{
    char *path = ap_path_join(p->q->out, name);
    if (!path) return ap_fail_nomem(p->q->diag, strlen(name), "a path");
    apus_err err = ap_output_write(path, text, len, p->q->diag);
    ap_free(path);
    return err;
}

/* config.json as it was, with the table of what is quantised before the closing brace. */
static apus_err write_config(mlx_plan *p, const char *text, size_t len)
{
    ap_buf b = {0};
    while (len && text[len - 1] != '}') len--;
    if (len) len--;
    while (len && strchr(" \t\r\n", text[len - 1])) len--;
    ap_buf_add(&b, text, len);
    ap_buf_addf(&b,
                ",\n  \"quantization\": {\n    \"group_size\": %d,\n    \"bits\": %d,\n"
                "    \"mode\": \"affine\"",
                p->q->s.group, p->q->s.bits);
    if (p->overrides.len) ap_buf_add(&b, p->overrides.data, p->overrides.len);
    ap_buf_adds(&b, "\n  }\n}\n");
    apus_err err = b.failed ? ap_fail_nomem(p->q->diag, len, "config.json")
                            : write_text(p, "config.json", b.data, b.len);
    ap_buf_free(&b);
    return err;
}

static apus_err copy_texts(mlx_plan *p)
{
    static const char *const names[] = {"generation_config.json",
                                        "tokenizer.json",
                                        "tokenizer_config.json",
                                        "special_tokens_map.json",
                                        "added_tokens.json",
                                        "vocab.json",
                                        "merges.txt",
                                        "tokenizer.model",
                                        "chat_template.jinja",
                                        "chat_template.json",
                                        "processor_config.json",
                                        "preprocessor_config.json"};
    apus_err err = APUS_OK;
    for (size_t i = 0; i < sizeof names / sizeof *names && !err; i++) {
        char *text = NULL, *path = ap_path_join(p->q->src, names[i]);
        size_t len;
        if (!path) return ap_fail_nomem(p->q->diag, strlen(p->q->src), "a path");
        if (ap_path_exists(path)) {
            err = ap_quantizer_text(p->q, names[i], &text, &len);
            if (!err) err = write_text(p, names[i], text, len);
        }
        ap_free(text);
        ap_free(path);
    }
    return err;
}

apus_err ap_quantize_mlx(ap_quantizer *q)
{
    mlx_plan p = {.q = q};
    apus_err err = ap_st_writer_create(&p.writer, q->diag);
    if (!err) err = plan(&p);
    if (!err) err = ap_disk_check(q->out, ap_st_writer_bytes(p.writer), q->diag);
    if (!err) err = write_weights(&p);
    if (!err) err = copy_texts(&p);
    if (!err) err = write_config(&p, q->config_text, q->config_len);
    ap_st_writer_free(p.writer);
    ap_buf_free(&p.overrides);
    ap_free(p.job);
    return err;
}
