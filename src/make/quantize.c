/* quantize.c - a folder of floats to a smaller model: the way in. The writers of the two kinds of
 * files are quantize_mlx.c and quantize_gguf.c. */
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/stage.h"
#include "base/str.h"
#include "engine/engine.h"
#include "file/gguf_hf.h"
#include "file/hub.h"
#include "file/quant_config.h"
#include "make/quantize.h"

#define MAX_TEXT_BYTES ((size_t)256 << 20)
#define PROGRESS_US    50000

void apus_quantize_settings_default(apus_quantize_settings *s)
{
    if (s) *s = (apus_quantize_settings){.size = sizeof *s, .bits = 4, .group = 64};
}

apus_err ap_quantizer_tell(ap_quantizer *q, uint64_t units)
{
    q->done += units;
    int64_t now = ap_time_us();
    if (!q->s.progress || (now - q->told_us < PROGRESS_US && q->done < q->total)) return APUS_OK;
    q->told_us = now;
    return q->s.progress(q->s.progress_ctx, "quantize", q->done, q->total)
               ? APUS_OK
               : ap_fail(q->diag, APUS_ECANCELLED, "quantising was cancelled");
}

apus_err ap_quantizer_text(ap_quantizer *q, const char *name, char **text, size_t *len)
{
    char *path = ap_path_join(q->src, name);
    *text = NULL;
    *len = 0;
    if (!path) return ap_fail_nomem(q->diag, strlen(name), "a path");
    apus_err err =
        ap_path_exists(path) ? ap_file_read(path, MAX_TEXT_BYTES, text, len, q->diag) : APUS_OK;
    ap_free(path);
    return err;
}

apus_err ap_quantizer_check_recipe(const ap_quantizer *q)
{
    int line = 0;
    const char *unused = ap_recipe_unused(q->recipe, &line);
    if (!unused) return APUS_OK;
    return ap_fail(q->diag, APUS_EINVAL,
                   "%s: line %d: no matrix that could be quantised fits \"%.200s\"",
                   q->s.recipe_name ? q->s.recipe_name : "recipe", line, unused);
}

/* FP8 releases can be read as numbers and written anew; other quantised models are refused. */
static apus_err check_quantised(ap_quantizer *q, bool gguf)
{
    ap_quant_config quant = {0};
    apus_err err = ap_quant_config_parse(q->config_text, q->config_len, q->src, &quant, q->diag);
    if (!err && quant.present && !(gguf && quant.standard.dtype == AP_FP8_BLOCK))
        err = ap_fail(q->diag, APUS_EUNSUPPORTED,
                      "%s: config.json says that the model is quantised already, expected f32, f16 "
                      "or bf16",
                      q->src);
    ap_tensor_table table = {0};
    if (!err) err = ap_tensor_table_make(q->config, &table, q->diag);
    if (!err) err = ap_weights_open(q->src, &q->weights, NULL, q->diag);
    if (!err) err = ap_weights_check(q->weights, &table, q->diag);
    if (!err) err = ap_weights_join_quantised(q->weights, &quant, &table, q->diag);
    ap_tensor_table_free(&table);
    ap_quant_config_free(&quant);
    return err;
}

/* A GGUF file, told as a folder is; whatever its types, they are read as numbers. */
static apus_err open_gguf(ap_quantizer *q, bool gguf)
{
    size_t n;
    ap_buf json = {0};
    if (!gguf)
        return ap_fail(q->diag, APUS_EUNSUPPORTED,
                       "%s: a GGUF file becomes a GGUF file, with a type such as q4_k; MLX folders "
                       "are made from a folder of safetensors",
                       q->src);
    q->from_gguf = true;
    apus_err err = ap_weights_open_gguf(q->src, &q->weights, q->diag);
    if (!err) {
        const ap_gguf *const *parts = ap_weights_gguf(q->weights, &n);
        err = ap_gguf_config_json(parts, n, &json, q->diag);
    }
    if (!err) {
        q->config_text = ap_strndup(json.data, json.len);
        q->config_len = json.len;
        if (!q->config_text) err = ap_fail_nomem(q->diag, json.len, "the configuration");
    }
    if (!err)
        err = ap_config_parse(&(ap_config_text){q->src, json.data, json.len}, NULL, q->config, NULL,
                              q->diag);
    ap_buf_free(&json);
    return err;
}

static apus_err open_source(ap_quantizer *q, const char *src, bool gguf)
{
    q->config = ap_calloc(1, sizeof *q->config);
    if (!q->config) return ap_fail_nomem(q->diag, sizeof *q->config, "the configuration");
    apus_err err = ap_hub_resolve(src, q->s.hub_cache, &q->src, q->diag);
    if (!err && ap_ends_with(q->src, ".gguf") && !ap_path_is_dir(q->src)) return open_gguf(q, gguf);
    if (!err && !ap_path_is_dir(q->src))
        err = ap_fail(q->diag, APUS_EUNSUPPORTED,
                      "%s: expected a folder with config.json and *.safetensors, or a GGUF file",
                      q->src);
    if (!err) err = ap_config_read(q->src, q->config, NULL, q->diag);
    if (!err) err = ap_quantizer_text(q, "config.json", &q->config_text, &q->config_len);
    if (!err) err = check_quantised(q, gguf);
    if (err) return err;
    q->prefix = ap_weights_text_prefix(q->weights);
    if (q->prefix) return APUS_OK;
    return ap_fail(q->diag, APUS_EFORMAT, "%s: tensor \"embed_tokens.weight\" is missing", q->src);
}

static apus_err check_settings(const apus_quantize_settings *s, const char *dst, ap_dtype *target,
                               bool *gguf, apus_diag *diag)
{
    *gguf = s->gguf_type != NULL;
    if (*gguf && !ap_gguf_target(s->gguf_type, target))
        return ap_fail(diag, APUS_EINVAL, "gguf_type: \"%.40s\" is not a type that can be written",
                       s->gguf_type);
    if (*gguf && !ap_ends_with(dst, ".gguf"))
        return ap_fail(diag, APUS_EINVAL, "%s: the name of a GGUF file ends in .gguf", dst);
    if (*gguf) return APUS_OK;
    if (s->bits < 2 || s->bits > 8 || s->bits == 7)
        return ap_fail(diag, APUS_EINVAL, "bits: expected 2, 3, 4, 5, 6 or 8, found %d", s->bits);
    if (s->group != 32 && s->group != 64 && s->group != 128)
        return ap_fail(diag, APUS_EINVAL, "group: expected 32, 64 or 128, found %d", s->group);
    return APUS_OK;
}

apus_err apus_quantize(const char *src, const char *dst, const apus_quantize_settings *settings,
                       apus_diag *diag)
{
    ap_quantizer q = {.diag = diag};
    ap_stage stage = {0};
    bool gguf = false;
    ap_dtype target = AP_F32;
    if (!src || !dst || !*dst)
        return ap_fail(diag, APUS_EINVAL, "apus_quantize: src and dst are needed");
    apus_quantize_settings_default(&q.s);
    apus_err err = ap_settings_take(&q.s, sizeof q.s, settings, "apus_quantize_settings", diag);
    if (!err) err = check_settings(&q.s, dst, &target, &gguf, diag);
    if (!err)
        err = ap_stage_begin(&stage, dst, gguf ? AP_STAGE_FILE : AP_STAGE_FOLDER, q.s.force, diag);
    q.out = stage.out;
    if (!err && q.s.recipe)
        err = ap_recipe_parse(q.s.recipe, strlen(q.s.recipe),
                              q.s.recipe_name ? q.s.recipe_name : "recipe", gguf, &q.recipe, diag);
    if (!err) err = open_source(&q, src, gguf);
    if (!err) err = ap_pool_create(q.s.threads, &q.pool, diag);
    if (!err) err = ap_stage_apart(dst, q.src, diag);
    if (!err) err = gguf ? ap_quantize_gguf(&q, target) : ap_quantize_mlx(&q);
    if (err)
        ap_stage_rephrase(&stage, diag);
    else
        err = ap_stage_finish(&stage, diag);
    ap_stage_drop(&stage);
    ap_pool_free(q.pool);
    ap_weights_close(q.weights);
    ap_recipe_free(q.recipe);
    ap_free(q.config);
    ap_free(q.config_text);
    ap_free(q.src);
    return err;
}
