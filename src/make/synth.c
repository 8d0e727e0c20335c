/* synth.c - models with random weights, of any configuration, at full size: for measuring, and for
 * trying a file format without a download.
 *
 * Magnitudes are those of a network at its start: matrices keep the size of what they multiply
 * (deviation 1 / sqrt(inputs)), norms are near 1, routers spread tokens over all experts, recurrent
 * layers forget slowly. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "apus/apus_unstable.h"

#include "base/file.h"
#include "base/mem.h"
#include "base/output.h"
#include "base/pool.h"
#include "base/stage.h"
#include "base/str.h"
#include "engine/engine.h"
#include "file/family.h"
#include "file/gguf_layout.h"
#include "file/gguf_meta.h"
#include "file/gguf_write.h"
#include "file/safetensors_write.h"
#include "make/recipe.h"
#include "make/synth_fill.h"
#include "make/synth_skew.h"
#include "make/synth_text.h"

#define MAX_CONFIG_BYTES ((size_t)4 << 20)
#define BATCH_BYTES      ((uint64_t)256 << 20) /* between two looks at the clock */
#define PROGRESS_US      50000

enum { MLX_GROUP = 64 };

typedef struct synth_tensor {
    ap_fill fill;
    uint64_t bytes;
    size_t index;     /* in the writer */
    float *row_scale; /* of a router, ours */
} synth_tensor;

typedef struct synth {
    apus_synth_settings s;
    ap_stage stage; /* .out: the file or folder that is being written */
    char *folder;   /* of the original configuration */
    bool gguf;
    ap_dtype target; /* type of GGUF files; F32, F16, BF16 */
    int bits;        /* of MLX's format, 0 = none */
    ap_config *config;
    char *generation; /* generation_config.json, or NULL */
    size_t generation_len;
    ap_buf text; /* config.json */
    ap_gguf_writer *g;
    ap_st_writer *st;
    synth_tensor *item;
    size_t n, cap;
    uint64_t done, total;
    int64_t told_us;
    ap_pool *pool;
    apus_diag *diag;
} synth;

void apus_synth_settings_default(apus_synth_settings *s)
{
    if (s) *s = (apus_synth_settings){.size = sizeof *s};
}

/* ---------------------------------------------------------------- what to fill with */

static double inputs_of(const ap_model_tensor *t)
{
    return (double)t->shape[t->rank - 1];
}

/* Attention scores of Gemma are not divided by sqrt(D), so the two norms share that task. */
static double qk_scale(const ap_model_tensor *t)
{
    return pow((double)t->shape[0], -0.25);
}

static ap_fill fill_of(const synth *y, const ap_model_tensor *t)
{
    const ap_config *c = y->config;
    ap_fill f = {.kind = AP_FILL_EVEN, .deviation = 1 / sqrt(inputs_of(t))};
    switch (t->role) {
    case AP_ROLE_MATRIX:
        /* What it multiplies was made smaller by 1 / sqrt(H) before. */
        if (ap_ends_with(t->name, "per_layer_model_projection.weight")) f.deviation = 1;
        break;
    case AP_ROLE_EMBED:
        f.deviation = c->tie_embeddings ? f.deviation : 1;
        break;
    case AP_ROLE_ROUTER:
        f.router = true;
        break;
    case AP_ROLE_HEAD:
    case AP_ROLE_GATE_ROW:
        break;
    case AP_ROLE_PLE_EMBED:
        f.deviation = 1 / sqrt((double)c->ple_dim);
        break;
    case AP_ROLE_ROUTER_UNIT:
        f.router = true;
        f.deviation = 1;
        break;
    case AP_ROLE_NORM:
        f.mean = 1, f.deviation = 0.05;
        break;
    case AP_ROLE_NORM_OFFSET:
        f.deviation = 0.05;
        break;
    case AP_ROLE_QK_NORM:
        f.mean = qk_scale(t), f.deviation = 0.05 * f.mean;
        break;
    case AP_ROLE_SCALE:
        f.mean = 1, f.deviation = 0;
        break;
    case AP_ROLE_CONV:
        f.deviation = 0.5;
        break;
    case AP_ROLE_A_LOG:
        f.kind = AP_FILL_LOG;
        break;
    case AP_ROLE_DT_BIAS:
        f.mean = -4.5, f.deviation = 0.8;
        break;
    }
    return f;
}

/* Factors of a router's rows, if some experts are to be preferred. */
static apus_err skew(const synth *y, ap_fill *f, uint64_t cols, float **scale)
{
    const ap_config *c = y->config;
    if (!f->router || !(y->s.router_skew > 0) || c->n_expert_used >= c->n_expert) return APUS_OK;
    if (f->bits || ap_dtype_block(f->dtype) > 1)
        return ap_fail(y->diag, APUS_EUNSUPPORTED,
                       "router_skew: expected routers of plain numbers, found %s; choose a GGUF "
                       "file or bf16",
                       f->bits ? "quantised ones" : ap_dtype_name(f->dtype));
    *scale = ap_calloc((size_t)c->n_expert, sizeof **scale);
    if (!*scale) return ap_fail_nomem(y->diag, (size_t)c->n_expert * sizeof **scale, "a router");
    ap_synth_skew(y->s.router_skew, c->n_expert, c->n_expert_used, f->seed, *scale);
    f->row_scale = *scale;
    f->cols = cols;
    return APUS_OK;
}

/* cols: numbers of a row */
static apus_err add(synth *y, ap_fill f, uint64_t cols, uint64_t bytes, size_t index)
{
    float *scale = NULL;
    if (y->n == y->cap) {
        size_t cap = y->cap ? y->cap * 2 : 256;
        synth_tensor *p = ap_realloc(y->item, cap, sizeof *p);
        if (!p) return ap_fail_nomem(y->diag, cap * sizeof *p, "the tensor list");
        y->item = p;
        y->cap = cap;
    }
    apus_err err = skew(y, &f, cols, &scale);
    if (err) return err;
    ap_fill_prepare(&f);
    y->item[y->n++] = (synth_tensor){f, bytes, index, scale};
    y->total += bytes;
    return APUS_OK;
}

/* ---------------------------------------------------------------- GGUF */

static apus_err plan_gguf_tensor(void *ctx, const ap_model_tensor *t)
{
    synth *y = ctx;
    ap_gguf_out out[2];
    int n = ap_gguf_layout(y->config, t, out);
    apus_err err = APUS_OK;
    for (int i = 0; i < n && !err; i++) {
        ap_fill f = fill_of(y, t);
        size_t index = 0;
        if (out[i].op == AP_GGUF_ADD_ONE) f.mean += 1;
        if (out[i].op == AP_GGUF_NEG_EXP) f.kind = AP_FILL_NEGATIVE;
        f.dtype = out[i].vector
                      ? AP_F32
                      : ap_type_for_width(ap_recipe_default(y->target, y->config, t), out[i].cols);
        f.seed = ap_fill_seed(y->s.seed, y->n);
        err = ap_gguf_writer_add(y->g, out[i].name, f.dtype, out[i].rank, out[i].shape, &index,
                                 y->diag);
        uint64_t row =
            out[i].cols / (size_t)ap_dtype_block(f.dtype) * ap_dtype_block_bytes(f.dtype);
        if (!err) err = add(y, f, out[i].cols, row * out[i].rows, index);
    }
    return err;
}

static apus_err plan_freqs(synth *y)
{
    int n, turning;
    size_t index;
    ap_gguf_rope_freqs(y->config, &n, &turning);
    apus_err err =
        ap_gguf_writer_add(y->g, "rope_freqs.weight", AP_F32, 1, &(int64_t){n}, &index, y->diag);
    ap_fill f = {.kind = AP_FILL_FREQS, .dtype = AP_F32, .turning = (uint64_t)turning};
    return err ? err : add(y, f, (uint64_t)n, (uint64_t)n * 4, index);
}

static void model_name(const char *path, char *out, size_t cap)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    size_t at = n;
    while (at && path[at - 1] != '/') at--;
    snprintf(out, cap, "%.*s (random weights)", (int)(n - at < 200 ? n - at : 200), path + at);
}

static apus_err plan_gguf(synth *y)
{
    char name[256];
    ap_buf tokenizer = {0}, config = {0};
    const char *chat = ap_synth_template(y->config);
    model_name(y->folder, name, sizeof name);
    ap_synth_tokenizer(y->config, &tokenizer);
    ap_synth_tokenizer_config(y->config, &config);
    apus_err err = tokenizer.failed || config.failed
                       ? ap_fail_nomem(y->diag, tokenizer.cap, "the tokenizer")
                       : ap_gguf_writer_create(&y->g, y->diag);
    ap_tokenizer_texts t = {.name = "the tokenizer",
                            .tokenizer = tokenizer.data,
                            .tokenizer_len = tokenizer.len,
                            .config = config.data,
                            .config_len = config.len,
                            .chat_template = chat,
                            .chat_template_len = strlen(chat)};
    if (!err)
        err = ap_gguf_put_config(y->g, y->config,
                                 &(ap_config_text){y->folder, y->text.data, y->text.len}, name,
                                 y->target, y->diag);
    if (!err) err = ap_gguf_put_tokenizer(y->g, y->config, &t, y->diag);
    if (!err && ap_family_of(y->config->arch)->freqs) err = plan_freqs(y);
    if (!err) err = ap_model_tensors(y->config, plan_gguf_tensor, y);
    ap_buf_free(&tokenizer);
    ap_buf_free(&config);
    return err;
}

/* ---------------------------------------------------------------- safetensors */

/* One tensor of rank axes; bits 0 = plain. */
static apus_err plan_folder_tensor(synth *y, const char *name, const ap_fill *base, int rank,
                                   const int64_t *shape, int bits)
{
    char full[160];
    size_t index = 0;
    int64_t size[3] = {0};
    uint64_t rows = 1, cols = (uint64_t)shape[rank - 1];
    ap_fill f = *base;
    for (int i = 0; i + 1 < rank; i++) rows *= (uint64_t)shape[i];
    memcpy(size, shape, (size_t)rank * sizeof *size);
    f.seed = ap_fill_seed(y->s.seed, y->n);
    f.dtype = y->target;
    if (!bits) {
        apus_err err = ap_st_writer_add(y->st, name, f.dtype, rank, shape, &index, y->diag);
        return err ? err : add(y, f, cols, rows * cols * ap_dtype_bytes(f.dtype), index);
    }
    static const char *const tails[] = {"weight", "scales", "biases"};
    int stem = (int)(strlen(name) - strlen("weight"));
    apus_err err = APUS_OK;
    for (int i = 0; i < 3 && !err; i++) {
        snprintf(full, sizeof full, "%.*s%s", stem, name, tails[i]);
        f.bits = bits;
        f.part = i;
        f.dtype = i ? AP_BF16 : AP_U32;
        size[rank - 1] = (int64_t)(i ? cols / MLX_GROUP : cols * (uint64_t)bits / 32);
        err = ap_st_writer_add(y->st, full, f.dtype, rank, size, &index, y->diag);
        uint64_t wide = (uint64_t)size[rank - 1];
        if (!err) err = add(y, f, wide, rows * wide * ap_dtype_bytes(f.dtype), index);
    }
    return err;
}

/* Experts have other names in MLX's folders, gate and up apart. */
static apus_err plan_mlx_experts(synth *y, const ap_model_tensor *t, const ap_fill *f, int bits)
{
    static const char *const pair[] = {"gate_proj", "up_proj"};
    bool joint = ap_ends_with(t->name, "gate_up_proj");
    const char *at = strstr(t->name, ".experts.");
    apus_err err = APUS_OK;
    for (int i = 0; i < (joint ? 2 : 1) && !err; i++) {
        char name[160];
        int64_t shape[3] = {t->shape[0], joint ? t->shape[1] / 2 : t->shape[1], t->shape[2]};
        snprintf(name, sizeof name, "model.%.*s.%s.%s.weight", (int)(at - t->name), t->name,
                 ap_family_of(y->config->arch)->mlx_experts, joint ? pair[i] : "down_proj");
        err = plan_folder_tensor(y, name, f, 3, shape, bits);
    }
    return err;
}

static apus_err plan_st_tensor(void *ctx, const ap_model_tensor *t)
{
    synth *y = ctx;
    char name[160];
    ap_fill f = fill_of(y, t);
    bool expert = t->rank == 3 && t->role == AP_ROLE_MATRIX;
    bool matrix = expert || (t->rank == 2 && t->role != AP_ROLE_GATE_ROW);
    int bits = y->bits && matrix && t->shape[t->rank - 1] % MLX_GROUP == 0
                   ? ap_recipe_mlx_default(y->bits, t->name)
                   : 0;
    snprintf(name, sizeof name, "%s%s", t->role == AP_ROLE_HEAD ? "" : "model.", t->name);
    return expert && y->bits ? plan_mlx_experts(y, t, &f, bits)
                             : plan_folder_tensor(y, name, &f, t->rank, t->shape, bits);
}

static apus_err plan_folder(synth *y)
{
    apus_err err = ap_st_writer_create(&y->st, y->diag);
    return err ? err : ap_model_tensors(y->config, plan_st_tensor, y);
}

typedef struct override_list {
    const synth *y;
    ap_buf *b;
} override_list;

static apus_err add_override(void *ctx, const ap_model_tensor *t)
{
    override_list *o = ctx;
    int bits = o->y->bits, own = ap_recipe_mlx_default(bits, t->name);
    if (t->rank != 2 || t->role == AP_ROLE_GATE_ROW || own == bits || !own ||
        t->shape[1] % MLX_GROUP)
        return APUS_OK;
    ap_buf_addf(o->b, ",\n    \"%s%.*s\": {\"group_size\": %d, \"bits\": %d, \"mode\": \"affine\"}",
                t->role == AP_ROLE_HEAD ? "" : "model.", (int)(strlen(t->name) - strlen(".weight")),
                t->name, MLX_GROUP, own);
    return APUS_OK;
}

/* The table of what is quantised, before the closing brace. */
static void add_quantization(const synth *y, ap_buf *b)
{
    while (b->len && b->data[b->len - 1] != '}') b->len--;
    if (b->len) b->len--;
    while (b->len && strchr(" \n", b->data[b->len - 1])) b->len--;
    ap_buf_addf(b,
                ",\n  \"quantization\": {\n    \"group_size\": %d,\n    \"bits\": %d,\n"
                "    \"mode\": \"affine\"",
                MLX_GROUP, y->bits);
    override_list o = {y, b};
    ap_model_tensors(y->config, add_override, &o);
    ap_buf_adds(b, "\n  }\n}\n");
}

static apus_err write_file(const synth *y, const char *name, const char *text, size_t len)
{
    char *path = ap_path_join(y->stage.out, name);
    if (!path) return ap_fail_nomem(y->diag, strlen(name), "a path");
    apus_err err = ap_output_write(path, text, len, y->diag);
    ap_free(path);
    return err;
}

static apus_err write_texts(synth *y)
{
    ap_buf tokenizer = {0}, config = {0};
    const char *chat = ap_synth_template(y->config);
    ap_synth_tokenizer(y->config, &tokenizer);
    ap_synth_tokenizer_config(y->config, &config);
    if (y->bits) add_quantization(y, &y->text);
    apus_err err = tokenizer.failed || config.failed || y->text.failed
                       ? ap_fail_nomem(y->diag, tokenizer.cap, "the tokenizer")
                       : write_file(y, "config.json", y->text.data, y->text.len);
    if (!err) err = write_file(y, "tokenizer.json", tokenizer.data, tokenizer.len);
    if (!err) err = write_file(y, "tokenizer_config.json", config.data, config.len);
    if (!err) err = write_file(y, "chat_template.jinja", chat, strlen(chat));
    if (!err && y->generation)
        err = write_file(y, "generation_config.json", y->generation, y->generation_len);
    ap_buf_free(&tokenizer);
    ap_buf_free(&config);
    return err;
}

/* ---------------------------------------------------------------- writing */

/* Consecutive pieces of one tensor. */
typedef struct synth_batch {
    synth *y;
    const synth_tensor *t;
    uint64_t first; /* piece */
    size_t piece;   /* bytes */
    uint8_t *room;  /* [workers][piece] */
    apus_diag *why; /* [workers] */
} synth_batch;

static void write_piece(void *arg, int task, int worker)
{
    synth_batch *b = arg;
    uint64_t number = b->first + (uint64_t)task, at = number * b->piece;
    size_t n = b->t->bytes - at < b->piece ? (size_t)(b->t->bytes - at) : b->piece;
    uint8_t *room = b->room + (size_t)worker * b->piece;
    apus_diag *why = &b->why[worker];
    if (why->code) return;
    ap_fill_piece(&b->t->fill, number, room, n);
    apus_diag d;
    apus_err err = b->y->g ? ap_gguf_writer_put(b->y->g, b->t->index, at, room, n, &d)
                           : ap_st_writer_put(b->y->st, b->t->index, at, room, n, &d);
    if (err) *why = d;
}

static apus_err tell(synth *y, uint64_t bytes)
{
    y->done += bytes;
    int64_t now = ap_time_us();
    if (!y->s.progress || (now - y->told_us < PROGRESS_US && y->done < y->total)) return APUS_OK;
    y->told_us = now;
    return y->s.progress(y->s.progress_ctx, "synth", y->done, y->total)
               ? APUS_OK
               : ap_fail(y->diag, APUS_ECANCELLED, "making the model was cancelled");
}

static apus_err write_tensor(synth_batch *b)
{
    apus_err err = APUS_OK;
    b->piece = ap_fill_piece_bytes(&b->t->fill);
    uint64_t pieces = (b->t->bytes + b->piece - 1) / b->piece, most = BATCH_BYTES / b->piece;
    for (b->first = 0; b->first < pieces && !err; b->first += most) {
        uint64_t n = pieces - b->first < most ? pieces - b->first : most;
        ap_pool_run(b->y->pool, write_piece, b, (int)n);
        for (int w = 0; w < ap_pool_threads(b->y->pool) && !err; w++)
            if (b->why[w].code) err = ap_fail(b->y->diag, b->why[w].code, "%s", b->why[w].text);
        uint64_t at = b->first * b->piece, end = at + n * b->piece;
        if (!err) err = tell(b->y, (end < b->t->bytes ? end : b->t->bytes) - at);
    }
    return err;
}

static apus_err write_tensors(synth *y)
{
    enum { ROOM = 1 << 16 };
    size_t workers = (size_t)ap_pool_threads(y->pool);
    synth_batch b = {
        .y = y, .room = ap_malloc(workers, ROOM), .why = ap_calloc(workers, sizeof *b.why)};
    apus_err err =
        b.room && b.why ? APUS_OK : ap_fail_nomem(y->diag, workers * ROOM, "random numbers");
    for (size_t i = 0; i < y->n && !err; i++) {
        b.t = &y->item[i];
        err = write_tensor(&b);
    }
    ap_free(b.room);
    ap_free(b.why);
    return err;
}

static apus_err write_gguf(synth *y)
{
    apus_err err = ap_disk_check(y->stage.out, ap_gguf_writer_bytes(y->g), y->diag);
    if (!err) err = ap_gguf_writer_begin(y->g, y->stage.out, y->diag);
    if (!err) err = write_tensors(y);
    return err ? err : ap_gguf_writer_finish(y->g, y->diag);
}

static apus_err write_folder(synth *y)
{
    char *path = ap_path_join(y->stage.out, "model.safetensors");
    apus_err err = path ? ap_disk_check(y->stage.out, ap_st_writer_bytes(y->st), y->diag)
                        : ap_fail_nomem(y->diag, strlen(y->stage.out), "a path");
    if (!err) err = ap_st_writer_begin(y->st, path, y->diag);
    if (!err) err = write_tensors(y);
    if (!err) err = ap_st_writer_finish(y->st, y->diag);
    if (!err) err = write_texts(y);
    ap_free(path);
    return err;
}

/* ---------------------------------------------------------------- all together */

static apus_err check_settings(synth *y, const char *dst)
{
    const char *to = y->s.to ? y->s.to : "bf16";
    y->gguf = ap_ends_with(dst, ".gguf");
    if (y->gguf) {
        if (ap_gguf_known(to, &y->target)) return APUS_OK;
        return ap_fail(y->diag, APUS_EINVAL, "to: \"%.40s\" is not a type of GGUF files", to);
    }
    y->target = !strcmp(to, "f32") ? AP_F32 : !strcmp(to, "f16") ? AP_F16 : AP_BF16;
    if (!strncmp(to, "mlx", 3) && strlen(to) == 4 && strchr("234568", to[3])) y->bits = to[3] - '0';
    if (y->bits || !strcmp(to, ap_dtype_name(y->target))) return APUS_OK;
    return ap_fail(
        y->diag, APUS_EINVAL,
        "to: \"%.40s\" is not a type of folders: bf16, f16, f32, mlx2 to mlx6 or mlx8; the "
        "name of a GGUF file ends in .gguf",
        to);
}

static apus_err read_file(synth *y, const char *path, char **text, size_t *len)
{
    return ap_file_read(path, MAX_CONFIG_BYTES, text, len, y->diag);
}

/* The configuration, cut, and what it means. path: a folder or the file itself. */
static apus_err read_config(synth *y, const char *path)
{
    char *text = NULL, *file = NULL, *gen = NULL;
    size_t len = 0;
    bool folder = ap_path_is_dir(path);
    const char *slash = strrchr(path, '/');
    y->folder = folder  ? ap_strdup(path)
                : slash ? ap_strndup(path, (size_t)(slash - path))
                        : ap_strdup(".");
    file = folder ? ap_path_join(path, "config.json") : ap_strdup(path);
    gen = y->folder ? ap_path_join(y->folder, "generation_config.json") : NULL;
    y->config = ap_calloc(1, sizeof *y->config);
    apus_err err =
        file && gen && y->config ? APUS_OK : ap_fail_nomem(y->diag, strlen(path), "a path");
    if (!err) err = read_file(y, file, &text, &len);
    if (!err && ap_path_exists(gen)) err = read_file(y, gen, &y->generation, &y->generation_len);
    if (!err)
        err = ap_synth_config(&(ap_config_text){file, text, len}, y->s.layers, &y->text, y->diag);
    if (!err)
        err = ap_config_parse(
            &(ap_config_text){file, y->text.data, y->text.len},
            y->generation ? &(ap_config_text){gen, y->generation, y->generation_len} : NULL,
            y->config, NULL, y->diag);
    ap_free(text);
    ap_free(file);
    ap_free(gen);
    return err;
}

apus_err apus_synth(const char *config, const char *dst, const apus_synth_settings *settings,
                    apus_diag *diag)
{
    synth y = {.diag = diag};
    if (!config || !dst || !*dst)
        return ap_fail(diag, APUS_EINVAL, "apus_synth: config and dst are needed");
    apus_synth_settings_default(&y.s);
    apus_err err = ap_settings_take(&y.s, sizeof y.s, settings, "apus_synth_settings", diag);
    if (!err && y.s.layers < 0)
        err = ap_fail(diag, APUS_EINVAL, "layers: expected 0 or more, found %d", y.s.layers);
    if (!err && !(y.s.router_skew >= 0 && y.s.router_skew <= 4))
        err = ap_fail(diag, APUS_EINVAL, "router_skew: expected 0 to 4, found %g", y.s.router_skew);
    if (!err) err = check_settings(&y, dst);
    if (!err)
        err = ap_stage_begin(&y.stage, dst, y.gguf ? AP_STAGE_FILE : AP_STAGE_FOLDER, y.s.force,
                             diag);
    if (!err) err = read_config(&y, config);
    if (!err && ap_path_same(y.folder, dst))
        err = ap_fail(diag, APUS_EINVAL,
                      "%s: is the folder of the configuration; choose another name", dst);
    if (!err) err = y.gguf ? plan_gguf(&y) : plan_folder(&y);
    if (!err) err = ap_pool_create(y.s.threads, &y.pool, diag);
    if (!err) err = y.gguf ? write_gguf(&y) : write_folder(&y);
    if (err)
        ap_stage_rephrase(&y.stage, diag);
    else
        err = ap_stage_finish(&y.stage, diag);
    ap_stage_drop(&y.stage);
    ap_pool_free(y.pool);
    ap_gguf_writer_free(y.g);
    ap_st_writer_free(y.st);
    ap_buf_free(&y.text);
    for (size_t i = 0; i < y.n; i++) ap_free(y.item[i].row_scale);
    ap_free(y.item);
    ap_free(y.config);
    ap_free(y.generation);
    ap_free(y.folder);
    return err;
}
