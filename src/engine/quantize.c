/* quantize.c - a folder of floats to a folder of MLX's affine format.
 *
 * Two passes: the first decides what becomes of every tensor and writes the header, the second
 * encodes and writes some rows at a time. All happens in DST.part, which is renamed in the end. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "apus/apus_unstable.h"

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/output.h"
#include "base/pool.h"
#include "base/store.h"
#include "engine/engine.h"
#include "file/config.h"
#include "file/hub.h"
#include "file/quant_config.h"
#include "file/safetensors_write.h"
#include "file/weights.h"
#include "tensor/quant.h"
#include "tensor/quantize_affine.h"

#define BATCH_BYTES    ((size_t)8 << 20) /* of source rows in one go */
#define MAX_TEXT_BYTES ((size_t)256 << 20)
#define PROGRESS_US    50000
#define MAX_NAME       512

/* One tensor or module to write. Output row r is row r / rows_per * stride + begin + r % rows_per
 * of the source: the halves of fused experts are every other run of rows. */
typedef struct job {
    const ap_tensor *src;
    int bits; /* 0 = copied */
    size_t rows, rows_per, stride, begin;
    size_t weight, scales, biases; /* in the writer */
} job;

typedef struct quantizer {
    apus_quantize_settings s;
    char *src, *part;
    ap_weights *weights;
    ap_st_writer *writer;
    const char *prefix; /* of the text model's tensors */
    bool gemma;
    job *job;
    size_t n_jobs, cap_jobs, n_quantised;
    ap_buf overrides; /* of config.json */
    ap_pool *pool;
    uint64_t done, total;
    int64_t told_us;
    apus_diag *diag;
} quantizer;

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

void apus_quantize_settings_default(apus_quantize_settings *s)
{
    *s = (apus_quantize_settings){.size = sizeof *s, .bits = 4, .group = 64};
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), e = strlen(end);
    return n >= e && !memcmp(s + n - e, end, e);
}

static bool has_ending(const char *s, const char *const *ends)
{
    for (; *ends; ends++)
        if (ends_with(s, *ends)) return true;
    return false;
}

/* ---------------------------------------------------------------- what becomes of a tensor */

static bool is_text(const quantizer *q, const char *name)
{
    if (!strncmp(name, "mtp.", 4)) return false;
    return !strncmp(name, q->prefix, strlen(q->prefix)) || ends_with(name, "lm_head.weight");
}

static bool is_float(ap_dtype t)
{
    return t == AP_F32 || t == AP_F16 || t == AP_BF16;
}

/* Bits for a matrix; 0 = it stays. Few weights decide much in the sensitive ones. */
static int bits_for(const quantizer *q, const char *name, const ap_tensor *t)
{
    static const char *const kept[] = {"conv1d.weight", "shared_expert_gate.weight", "norm.weight",
                                       NULL};
    static const char *const sensitive[] = {
        "embed_tokens.weight", "lm_head.weight",   "mlp.gate.weight",   "router.proj.weight",
        "in_proj_a.weight",    "in_proj_b.weight", "in_proj_ba.weight", NULL};
    if (!is_float(t->dtype) || t->rank < 2 || t->shape[t->rank - 1] % q->s.group) return 0;
    if (ap_tensor_count(t) == 0 || has_ending(name, kept)) return 0;
    return q->s.bits <= 4 && has_ending(name, sensitive) ? 8 : q->s.bits;
}

static apus_err add_override(quantizer *q, const char *module, int bits)
{
    if (bits == q->s.bits) return APUS_OK;
    ap_buf_adds(&q->overrides, ",\n    ");
    ap_json_quote(&q->overrides, module, strlen(module), false);
    ap_buf_addf(&q->overrides, ": {\"group_size\": %d, \"bits\": %d, \"mode\": \"affine\"}",
                q->s.group, bits);
    return q->overrides.failed ? ap_fail_nomem(q->diag, strlen(module), "config.json") : APUS_OK;
}

/* Name the outputs of a job. module: the name without ".weight" if bits. shape: of the values. */
static apus_err declare(quantizer *q, job *j, const char *name, int rank, const int64_t *shape)
{
    char out[MAX_NAME];
    int64_t size[AP_MAX_RANK];
    ap_dtype t = j->src->dtype;
    if (!j->bits) return ap_st_writer_add(q->writer, name, t, rank, shape, &j->weight, q->diag);
    int len = (int)strlen(name) - (int)strlen(".weight");
    memcpy(size, shape, (size_t)rank * sizeof *size);
    size[rank - 1] = shape[rank - 1] * j->bits / 32;
    apus_err err = ap_st_writer_add(q->writer, name, AP_U32, rank, size, &j->weight, q->diag);
    size[rank - 1] = shape[rank - 1] / q->s.group;
    snprintf(out, sizeof out, "%.*s.scales", len, name);
    if (!err) err = ap_st_writer_add(q->writer, out, t, rank, size, &j->scales, q->diag);
    snprintf(out, sizeof out, "%.*s.biases", len, name);
    if (!err) err = ap_st_writer_add(q->writer, out, t, rank, size, &j->biases, q->diag);
    snprintf(out, sizeof out, "%.*s", len, name);
    q->n_quantised++;
    return err ? err : add_override(q, out, j->bits);
}

static apus_err add_job(quantizer *q, const job *j, const char *name, int rank,
                        const int64_t *shape)
{
    if (q->n_jobs == q->cap_jobs) {
        size_t cap = q->cap_jobs ? q->cap_jobs * 2 : 256;
        job *p = ap_realloc(q->job, cap, sizeof *p);
        if (!p) return ap_fail_nomem(q->diag, cap * sizeof *p, "the tensor list");
        q->job = p;
        q->cap_jobs = cap;
    }
    q->job[q->n_jobs] = *j;
    q->total += j->rows * ap_tensor_row_bytes(j->src);
    return declare(q, &q->job[q->n_jobs++], name, rank, shape);
}

static apus_err add_plain(quantizer *q, const char *name, const ap_tensor *t, int bits)
{
    size_t row = ap_tensor_row_bytes(t), rows = row ? ap_tensor_bytes(t) / row : 0;
    job j = {.src = t, .bits = bits, .rows = rows, .rows_per = rows, .stride = rows};
    return add_job(q, &j, name, t->rank, t->shape);
}

/* Experts of a layer in one tensor without ".weight": under the names that MLX has for them, gate
 * and up apart. */
static apus_err add_experts(quantizer *q, const char *name, const char *leaf, const ap_tensor *t)
{
    static const char *const halves[] = {"gate_proj", "up_proj"};
    bool fused = !strcmp(leaf, "gate_up_proj");
    int n = fused ? 2 : 1, stem = (int)(leaf - name) - (int)strlen("experts.");
    int bits = bits_for(q, name, t);
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
                 q->gemma ? "experts.switch_glu" : "switch_mlp", fused ? halves[h] : leaf);
        err = add_job(q, &j, out, 3, (int64_t[]){t->shape[0], (int64_t)part, t->shape[2]});
    }
    return err;
}

static apus_err plan_tensor(quantizer *q, const char *name, const ap_tensor *t)
{
    static const char *const stacked[] = {".experts.gate_up_proj", ".experts.gate_proj",
                                          ".experts.up_proj", ".experts.down_proj", NULL};
    if (strlen(name) > MAX_NAME - 32)
        return ap_fail(q->diag, APUS_EUNSUPPORTED, "%s: tensor \"%.200s\": the name is too long",
                       q->src, name);
    if (!is_text(q, name)) return add_plain(q, name, t, 0);
    if (has_ending(name, stacked) && t->rank == 3 && t->shape[1] > 0 && t->shape[1] % 2 == 0)
        return add_experts(q, name, strrchr(name, '.') + 1, t);
    return add_plain(q, name, t,
                     t->rank == 2 && ends_with(name, ".weight") ? bits_for(q, name, t) : 0);
}

static apus_err plan(quantizer *q)
{
    apus_err err = APUS_OK;
    for (size_t i = 0; i < ap_weights_count(q->weights) && !err; i++) {
        const char *name;
        const ap_tensor *t = ap_weights_at(q->weights, i, &name);
        err = plan_tensor(q, name, t);
    }
    if (!err && !q->n_quantised)
        err = ap_fail(q->diag, APUS_EUNSUPPORTED,
                      "%s: no matrix of f32, f16 or bf16 has a width that is a multiple of %d",
                      q->src, q->s.group);
    return err;
}

/* ---------------------------------------------------------------- encoding */

static apus_err tell(quantizer *q, uint64_t bytes)
{
    q->done += bytes;
    int64_t now = ap_time_us();
    if (!q->s.progress || (now - q->told_us < PROGRESS_US && q->done < q->total)) return APUS_OK;
    q->told_us = now;
    return q->s.progress(q->s.progress_ctx, "quantize", q->done, q->total)
               ? APUS_OK
               : ap_fail(q->diag, APUS_ECANCELLED, "quantising was cancelled");
}

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

static apus_err encode_batch(quantizer *q, batch *b)
{
    bool broken[MAX_TASKS] = {0};
    b->broken = broken;
    b->per_task = (b->n + MAX_TASKS - 1) / MAX_TASKS;
    ap_pool_run(q->pool, encode_task, b, (int)((b->n + b->per_task - 1) / b->per_task));
    for (int i = 0; i < MAX_TASKS; i++)
        if (broken[i])
            return ap_fail(q->diag, APUS_EFORMAT, "%s: a matrix holds values that are not finite",
                           q->src);
    const job *j = b->j;
    apus_err err = ap_st_writer_put(q->writer, j->weight, b->first * b->packed_row, b->packed,
                                    b->n * b->packed_row, q->diag);
    if (!err)
        err = ap_st_writer_put(q->writer, j->scales, b->first * b->scale_row, b->scales,
                               b->n * b->scale_row, q->diag);
    if (!err)
        err = ap_st_writer_put(q->writer, j->biases, b->first * b->scale_row, b->biases,
                               b->n * b->scale_row, q->diag);
    return err;
}

static size_t rows_at_once(const job *j)
{
    size_t row = ap_tensor_row_bytes(j->src), n = row ? BATCH_BYTES / row : j->rows;
    n = n ? n : 1;
    return n < j->rows ? n : j->rows;
}

static apus_err encode(quantizer *q, const job *j)
{
    size_t cols = (size_t)j->src->shape[j->src->rank - 1], most = rows_at_once(j);
    batch b = {.j = j, .dtype = j->src->dtype, .group = q->s.group, .cols = cols};
    b.packed_row = cols * (size_t)j->bits / 8;
    b.scale_row = cols / (size_t)b.group * ap_dtype_bytes(b.dtype);
    b.wide = ap_malloc((size_t)ap_pool_threads(q->pool) * cols, sizeof *b.wide);
    b.packed = ap_malloc(most, b.packed_row + 2 * b.scale_row);
    apus_err err = APUS_OK;
    if (!b.wide || !b.packed) err = ap_fail_nomem(q->diag, most * b.packed_row, "quantised rows");
    if (b.packed) {
        b.scales = b.packed + most * b.packed_row;
        b.biases = b.scales + most * b.scale_row;
    }
    for (b.first = 0; b.first < j->rows && !err; b.first += b.n) {
        b.n = j->rows - b.first < most ? j->rows - b.first : most;
        err = encode_batch(q, &b);
        if (!err) err = tell(q, b.n * ap_tensor_row_bytes(j->src));
    }
    ap_free(b.packed);
    ap_free(b.wide);
    return err;
}

static apus_err copy(quantizer *q, const job *j)
{
    size_t row = ap_tensor_row_bytes(j->src), most = rows_at_once(j);
    apus_err err = APUS_OK;
    for (size_t r = 0, n; r < j->rows && !err; r += n) {
        size_t run = j->rows_per - r % j->rows_per; /* rows that lie together in the source */
        n = run < most ? run : most;
        err = ap_st_writer_put(q->writer, j->weight, r * row,
                               (const uint8_t *)j->src->data + source_row(j, r) * row, n * row,
                               q->diag);
        if (!err) err = tell(q, n * row);
    }
    return err;
}

static apus_err write_weights(quantizer *q)
{
    char *path = ap_path_join(q->part, "model.safetensors");
    apus_err err = path ? ap_st_writer_begin(q->writer, path, q->diag)
                        : ap_fail_nomem(q->diag, strlen(q->part), "a path");
    for (size_t i = 0; i < q->n_jobs && !err; i++)
        err = q->job[i].bits ? encode(q, &q->job[i]) : copy(q, &q->job[i]);
    if (!err) err = ap_st_writer_finish(q->writer, q->diag);
    ap_free(path);
    return err;
}

/* ---------------------------------------------------------------- the other files */

static apus_err read_text(quantizer *q, const char *name, char **text, size_t *len)
{
    char *path = ap_path_join(q->src, name);
    if (!path) return ap_fail_nomem(q->diag, strlen(name), "a path");
    apus_err err = ap_file_read(path, MAX_TEXT_BYTES, text, len, q->diag);
    ap_free(path);
    return err;
}

static apus_err write_text(quantizer *q, const char *name, const char *text, size_t len)
{
    ap_store s;
    char *path = ap_path_join(q->part, name);
    if (!path) return ap_fail_nomem(q->diag, strlen(name), "a path");
    apus_err err = ap_store_create(&s, path, q->diag);
    if (!err) {
        ap_store_write(&s, text, len);
        err = ap_store_close(&s, 1);
    }
    ap_free(path);
    return err;
}

/* config.json as it was, with the table of what is quantised before the closing brace. */
static apus_err write_config(quantizer *q, const char *text, size_t len)
{
    ap_buf b = {0};
    while (len && text[len - 1] != '}') len--;
    if (len) len--;
    while (len && strchr(" \t\r\n", text[len - 1])) len--;
    ap_buf_add(&b, text, len);
    ap_buf_addf(&b,
                ",\n  \"quantization\": {\n    \"group_size\": %d,\n    \"bits\": %d,\n"
                "    \"mode\": \"affine\"",
                q->s.group, q->s.bits);
    if (q->overrides.len) ap_buf_add(&b, q->overrides.data, q->overrides.len);
    ap_buf_adds(&b, "\n  }\n}\n");
    apus_err err = b.failed ? ap_fail_nomem(q->diag, len, "config.json")
                            : write_text(q, "config.json", b.data, b.len);
    ap_buf_free(&b);
    return err;
}

static apus_err copy_texts(quantizer *q)
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
        char *text = NULL, *path = ap_path_join(q->src, names[i]);
        size_t len;
        if (!path) return ap_fail_nomem(q->diag, strlen(q->src), "a path");
        if (ap_path_exists(path)) {
            err = read_text(q, names[i], &text, &len);
            if (!err) err = write_text(q, names[i], text, len);
        }
        ap_free(text);
        ap_free(path);
    }
    return err;
}

/* ---------------------------------------------------------------- all together */

/* Check the source; *text is its config.json. */
static apus_err open_source(quantizer *q, const char *src, char **text, size_t *len)
{
    ap_quant_config quant = {0};
    ap_config *config = ap_calloc(1, sizeof *config);
    if (!config) return ap_fail_nomem(q->diag, sizeof *config, "the configuration");
    apus_err err = ap_hub_resolve(src, q->s.hub_cache, &q->src, q->diag);
    if (!err && !ap_path_is_dir(q->src))
        err = ap_fail(q->diag, APUS_EUNSUPPORTED,
                      "%s: expected a folder with config.json and *.safetensors", q->src);
    if (!err) err = ap_config_read(q->src, config, q->diag);
    if (!err) err = read_text(q, "config.json", text, len);
    if (!err) err = ap_quant_config_parse(*text, *len, q->src, &quant, q->diag);
    if (!err && quant.present)
        err = ap_fail(q->diag, APUS_EUNSUPPORTED,
                      "%s: config.json says that the model is quantised already, expected f32, f16 "
                      "or bf16",
                      q->src);
    if (!err) err = ap_weights_open(q->src, &q->weights, q->diag);
    if (!err) {
        q->prefix = ap_weights_text_prefix(q->weights);
        q->gemma = config->arch == AP_ARCH_GEMMA4;
        if (!q->prefix)
            err = ap_fail(q->diag, APUS_EFORMAT, "%s: tensor \"embed_tokens.weight\" is missing",
                          q->src);
    }
    ap_quant_config_free(&quant);
    ap_free(config);
    return err;
}

/* DST.part, which must be new as DST must. */
static apus_err make_part(quantizer *q, const char *dst)
{
    size_t n = strlen(dst);
    if (ap_path_exists(dst))
        return ap_fail(q->diag, APUS_EFILE, "%s: exists already and is not overwritten", dst);
    while (n > 1 && dst[n - 1] == '/') n--;
    char *part = ap_malloc(n + sizeof ".part", 1);
    if (!part) return ap_fail_nomem(q->diag, n, "a path");
    memcpy(part, dst, n);
    memcpy(part + n, ".part", sizeof ".part");
    apus_err err = ap_folder_create(part, q->diag);
    if (err)
        ap_free(part);
    else
        q->part = part;
    return err;
}

static apus_err check_settings(const apus_quantize_settings *s, apus_diag *diag)
{
    if (s->bits < 2 || s->bits > 8 || s->bits == 7)
        return ap_fail(diag, APUS_EINVAL, "bits: expected 2, 3, 4, 5, 6 or 8, found %d", s->bits);
    if (s->group != 32 && s->group != 64 && s->group != 128)
        return ap_fail(diag, APUS_EINVAL, "group: expected 32, 64 or 128, found %d", s->group);
    return APUS_OK;
}

apus_err apus_quantize(const char *src, const char *dst, const apus_quantize_settings *settings,
                       apus_diag *diag)
{
    quantizer q = {.diag = diag};
    char *config = NULL;
    size_t len = 0;
    if (!src || !dst || !*dst)
        return ap_fail(diag, APUS_EINVAL, "apus_quantize: src and dst are needed");
    apus_quantize_settings_default(&q.s);
    apus_err err = ap_settings_take(&q.s, sizeof q.s, settings, "apus_quantize_settings", diag);
    if (!err) err = check_settings(&q.s, diag);
    if (!err) err = open_source(&q, src, &config, &len);
    if (!err) err = ap_st_writer_create(&q.writer, diag);
    if (!err) err = plan(&q);
    if (!err) err = ap_pool_create(q.s.threads, &q.pool, diag);
    if (!err) err = make_part(&q, dst);
    if (!err) err = write_weights(&q);
    if (!err) err = copy_texts(&q);
    if (!err) err = write_config(&q, config, len);
    if (!err) err = ap_folder_rename(q.part, dst, diag);
    if (err && q.part) ap_folder_remove(q.part);
    ap_pool_free(q.pool);
    ap_st_writer_free(q.writer);
    ap_weights_close(q.weights);
    ap_buf_free(&q.overrides);
    ap_free(q.job);
    ap_free(q.part);
    ap_free(q.src);
    ap_free(config);
    return err;
}
