/* model.c - opening a model and telling what it is. */
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/str.h"
#include "engine/budget.h"
#include "engine/grammars.h"
#include "engine/engine.h"
#include "engine/model.h"
#include "file/draft_head.h"
#include "file/family.h"
#include "file/gguf_hf.h"
#include "file/hub.h"

void apus_model_settings_default(apus_model_settings *s)
{
    if (s)
        *s = (apus_model_settings){.size = sizeof *s,
                                   .load = APUS_LOAD_ALL,
                                   .cpu = APUS_CPU_AUTO,
                                   .precision = APUS_PRECISION_HIGH};
}

uint64_t ap_fingerprint(const ap_config *c, const ap_weights *w)
{
    XXH64_hash_t h = XXH64(&c->arch, sizeof c->arch, 0);
    const int numbers[] = {c->n_layer,    c->hidden,   c->vocab,         c->n_head,
                           c->window,     c->n_expert, c->n_expert_used, c->gdn_k_head,
                           c->gdn_v_head, c->ple_dim,  c->norm_topk};
    const float reals[] = {c->norm_eps, c->softcap, c->rope_full.attention_factor};
    h = XXH64(numbers, sizeof numbers, h);
    h = XXH64(reals, sizeof reals, h);
    h = XXH64(c->rope_full.inv_freq, (size_t)c->rope_full.n_angle * sizeof(float), h);
    h = XXH64(c->rope_sliding.inv_freq, (size_t)c->rope_sliding.n_angle * sizeof(float), h);
    for (int l = 0; l < c->n_layer; l++) {
        const int kind[] = {(int)c->layer[l].kind, c->layer[l].n_kv_head, c->layer[l].head_dim,
                            c->layer[l].kv_donor};
        h = XXH64(kind, sizeof kind, h);
    }
    for (size_t i = 0; i < ap_weights_count(w); i++) {
        const char *name;
        const ap_tensor *t = ap_weights_at(w, i, &name);
        h = XXH64(name, strlen(name), h);
        h = XXH64(t->shape, (size_t)t->rank * sizeof t->shape[0], h);
        size_t bytes = ap_tensor_bytes(t);
        /* The first and middle bytes: fine-tunes differ everywhere, and headers must stay quick. */
        size_t part = bytes < 64 ? bytes : 64;
        if (bytes) h = XXH64(t->data, part, h);
        if (bytes) h = XXH64((const uint8_t *)t->data + (bytes - part) / 2, part, h);
    }
    return h;
}

/* Tokenizer and template of a folder. */
static apus_err load_text(apus_model *m, apus_load load, apus_diag *diag)
{
    char *path = ap_path_join(m->dir, "tokenizer.json");
    if (!path) return ap_fail_nomem(diag, strlen(m->dir), "a path");
    m->info.has_tokenizer = ap_path_exists(path);
    ap_free(path);
    if (m->info.has_tokenizer && load != APUS_LOAD_INFO) {
        apus_err err = ap_tokenizer_load(m->dir, &m->tokenizer, diag);
        if (err) return err;
    }
    return ap_chat_load(m->dir, m->syntax, &m->chat, diag);
}

/* A chat template beside a GGUF file: NAME.jinja for NAME.gguf (or its parts), else chat_template.jinja.
 * *text NULL: there is none. */
static apus_err read_template_beside(apus_model *m, char **text, size_t *len, apus_diag *diag)
{
    enum { MAX_TEMPLATE_BYTES = 1 << 20 };
    const char *slash = strrchr(m->dir, '/'), *base = slash ? slash + 1 : m->dir;
    int folder = (int)(base - m->dir), stem = (int)strlen(base) - (int)strlen(".gguf");
    const char *part = strstr(base, "-00001-of-");
    ap_buf path = {0};
    apus_err err = APUS_OK;
    if (part) stem = (int)(part - base);
    *text = NULL;
    for (int i = 0; i < 2 && !err && !*text; i++) {
        path.len = 0;
        if (i == 0)
            ap_buf_addf(&path, "%.*s%.*s.jinja", folder, m->dir, stem, base);
        else
            ap_buf_addf(&path, "%.*schat_template.jinja", folder, m->dir);
        if (path.failed)
            err = ap_fail_nomem(diag, strlen(m->dir), "a path");
        else if (ap_path_exists(path.data))
            err = ap_file_read(path.data, MAX_TEMPLATE_BYTES, text, len, diag);
    }
    if (*text) ap_note(&m->notes, "the chat template is that of %s", path.data);
    ap_buf_free(&path);
    return err;
}

/* Tokenizer and template from the metadata of a GGUF file. */
static apus_err load_gguf_text(apus_model *m, apus_load load, apus_diag *diag)
{
    size_t n, given_len = 0;
    ap_buf json = {0}, config = {0};
    char *given = NULL;
    const ap_gguf *g = ap_weights_gguf(m->weights, &n)[0];
    apus_err err = ap_gguf_tokenizer_json(g, &json, &m->notes, diag);
    m->info.has_tokenizer = json.len > 0;
    if (!err && json.len && load != APUS_LOAD_INFO)
        err = ap_tokenizer_parse(json.data, json.len, m->dir, &m->tokenizer, diag);
    if (!err) err = read_template_beside(m, &given, &given_len, diag);
    if (!err) err = ap_gguf_tokenizer_config_json(g, given, given_len, &config, diag);
    if (!err && config.len)
        err = ap_chat_parse(config.data, config.len, m->dir, m->syntax, &m->chat, diag);
    ap_free(given);
    ap_buf_free(&json);
    ap_buf_free(&config);
    return err;
}

/* Does it end in the width of the text model? */
static apus_err check_mmproj(const apus_model *m, apus_diag *diag)
{
    static const char *const last[] = {"model.visual.merger.linear_fc2.weight",
                                       "model.embed_vision.embedding_projection.weight",
                                       "model.embed_audio.embedding_projection.weight"};
    bool qwen = m->mmproj.kind == AP_MEDIA_QWEN;
    if (!m->config.media || qwen != (m->config.media == AP_MEDIA_QWEN))
        return ap_fail(diag, APUS_EUNSUPPORTED,
                       "%s: the towers of another kind of model than %s, which is %s",
                       m->mmproj.path, m->dir, ap_arch_name(m->config.arch));
    for (int i = 0; i < 3; i++) {
        const ap_tensor *t = ap_weights_find(m->mmproj.weights, last[i]);
        if (t && t->shape[0] != m->config.hidden)
            return ap_fail(
                diag, APUS_EUNSUPPORTED,
                "%s: the towers of another model: expected %d outputs for %s, found %lld",
                m->mmproj.path, m->config.hidden, m->dir, (long long)t->shape[0]);
    }
    return APUS_OK;
}

/* The towers beside a GGUF model. What is wrong with them is an error if they are wanted, else a note. */
static apus_err open_mmproj(apus_model *m, const apus_model_settings *s, apus_diag *diag)
{
    apus_diag why;
    char *path = NULL;
    ap_config *c = &m->config;
    apus_err err = APUS_OK;
    if (s->mmproj)
        err = (path = ap_strdup(s->mmproj)) ? APUS_OK
                                            : ap_fail_nomem(&why, strlen(s->mmproj), "a path");
    else if (c->media)
        err = ap_mmproj_find(m->dir, &path, &why);
    if (!err && path) err = ap_mmproj_open(path, &m->mmproj, &why);
    if (!err && path) err = check_mmproj(m, &why);
    ap_free(path);
    if (err) ap_mmproj_close(&m->mmproj);
    if (err && (s->mmproj || s->towers || err == APUS_ENOMEM)) {
        if (diag) *diag = why;
        return err;
    }
    if (err) ap_note(&m->notes, "%s; the towers are left out", why.text);
    if (!m->mmproj.path) return APUS_OK;
    c->multimodal = true;
    c->sees = m->mmproj.sees;
    c->hears = m->mmproj.hears;
    c->media = m->mmproj.kind;
    const ap_family *f = ap_family_of(c->arch);
    c->image_token = f->image;
    c->video_token = f->video;
    c->audio_token = f->audio;
    return APUS_OK;
}

static apus_err open_gguf(apus_model *m, const apus_model_settings *s, apus_diag *diag)
{
    size_t n;
    ap_buf json = {0}, advice = {0};
    apus_err err = ap_weights_open_gguf(m->dir, &m->weights, diag);
    if (!err) {
        const ap_gguf *const *parts = ap_weights_gguf(m->weights, &n);
        err = ap_gguf_config_json(parts, n, &json, diag);
        if (!err) err = ap_gguf_generation_json(parts[0], &advice, &m->notes, diag);
    }
    if (!err)
        err = ap_config_parse(&(ap_config_text){m->dir, json.data, json.len},
                              &(ap_config_text){m->dir, advice.data, advice.len}, &m->config,
                              &m->notes, diag);
    if (!err) m->syntax = ap_chat_syntax_named(ap_family_of(m->config.arch)->answers);
    ap_buf_free(&json);
    ap_buf_free(&advice);
    if (!err) err = open_mmproj(m, s, diag);
    return err ? err : load_gguf_text(m, s->load, diag);
}

/* A GGUF model does not say which tokens are the places of media: those of their marks. */
static void find_places(apus_model *m)
{
    ap_config *c = &m->config;
    const ap_media_marks *marks = &ap_family_of(c->arch)->tokens->marks;
    const struct {
        const char *mark;
        int *id;
    } places[] = {{marks->picture.mark, &c->image_token},
                  {marks->film.mark, &c->video_token},
                  {marks->sound.mark, &c->audio_token}};
    for (int i = 0; i < 3; i++) {
        const char *mark = places[i].mark;
        int32_t id = mark ? ap_tokenizer_id(m->tokenizer, mark, strlen(mark)) : -1;
        if (id >= 0) *places[i].id = id;
    }
}

/* What the tokenizer knows of ends and of media, beside what the configuration says. */
static void settle_tokens(apus_model *m)
{
    ap_config *c = &m->config;
    const ap_family_tokens *f = ap_family_of(c->arch)->tokens;
    if (!m->tokenizer) return;
    if (m->mmproj.path) find_places(m);
    bool room = ap_config_add_stop(c, ap_tokenizer_eos(m->tokenizer));
    for (const char *const *s = f->turn_ends; *s; s++)
        room &= ap_config_add_stop(c, ap_tokenizer_id(m->tokenizer, *s, strlen(*s)));
    for (const char *const *s = f->media; *s; s++) {
        int32_t id = ap_tokenizer_id(m->tokenizer, *s, strlen(*s));
        if (!ap_config_is_stop(c, id)) room &= ap_config_add_suppress(c, id);
    }
    if (!room)
        ap_note(&m->notes,
                "%s: more token ids that end a turn or are never generated than apus keeps",
                m->dir);
}

/* The weights of a folder, with quantised tensors joined as config.json says. */
static apus_err open_folder_weights(apus_model *m, apus_diag *diag)
{
    enum { MAX_CONFIG_BYTES = 4 << 20 };
    char *path = ap_path_join(m->dir, "config.json"), *text = NULL;
    size_t len = 0;
    ap_quant_config q = {0};
    ap_tensor_table table = {0};
    apus_err err = path ? ap_file_read(path, MAX_CONFIG_BYTES, &text, &len, diag)
                        : ap_fail_nomem(diag, strlen(m->dir), "a path");
    if (!err) err = ap_quant_config_parse(text, len, path, &q, diag);
    if (!err) err = ap_tensor_table_make(&m->config, &table, diag);
    if (!err) err = ap_weights_open(m->dir, &m->weights, &m->notes, diag);
    if (!err) err = ap_weights_check(m->weights, &table, diag);
    if (!err) err = ap_weights_join_quantised(m->weights, &q, &table, diag);
    ap_tensor_table_free(&table);
    ap_quant_config_free(&q);
    ap_free(text);
    ap_free(path);
    return err;
}

/* Layers behind those that config.json counts: a head for the next tokens, or a count that is wrong. */
static void note_more_layers(apus_model *m)
{
    const char *prefix = ap_weights_text_prefix(m->weights);
    int most = -1, layer;
    for (size_t i = 0; prefix && i < ap_weights_count(m->weights); i++) {
        const char *name;
        ap_weights_at(m->weights, i, &name);
        if (!strncmp(name, prefix, strlen(prefix)) &&
            sscanf(name + strlen(prefix), "layers.%9d.", &layer) == 1 && layer > most)
            most = layer;
    }
    if (most >= m->config.n_layer)
        ap_note(
            &m->notes,
            "%s: the weights hold %d layers, num_hidden_layers of config.json is %d; the others "
            "are left out",
            m->dir, most + 1, m->config.n_layer);
}

static apus_err open_folder(apus_model *m, apus_load load, apus_diag *diag)
{
    apus_err err = ap_config_read(m->dir, &m->config, &m->notes, diag);
    if (!err) m->syntax = ap_chat_syntax_named(ap_family_of(m->config.arch)->answers);
    bool weights = true;
    if (!err && load == APUS_LOAD_INFO) err = ap_weights_present(m->dir, &weights, diag);
    m->no_weights = !weights;
    if (!err && m->no_weights)
        err = ap_weights_imagine(m->dir, &m->config, &m->weights, diag);
    else if (!err && load != APUS_LOAD_TEXT)
        err = open_folder_weights(m, diag);
    if (!err && m->weights) note_more_layers(m);
    return err ? err : load_text(m, load, diag);
}

typedef struct census {
    uint64_t params, bytes, embed, ple, experts;
    uint64_t bytes_of[AP_DTYPE_COUNT][9]; /* by type, and by bits where a type has several widths */
} census;

/* Tensors of the text model; towers and drafters stand outside its prefix. */
static bool is_text_tensor(const apus_model *m, const char *prefix, const char *name)
{
    if (ap_ends_with(name, "lm_head.weight")) return !m->config.tie_embeddings;
    if (strncmp(name, prefix, strlen(prefix)) != 0 || strncmp(name, "mtp.", 4) == 0) return false;
    int layer; /* GGUF files keep drafters as further layers */
    return sscanf(name + strlen(prefix), "layers.%9d.", &layer) != 1 || layer < m->config.n_layer;
}

/* The weight that a tensor holds the scales or biases of: their bytes are its bytes. NULL: none. */
static const ap_tensor *scaled_weight(const apus_model *m, const char *name)
{
    static const char *const tails[] = {".scales", ".biases", ".weight_scale_inv"};
    char weight[1024];
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++) {
        if (!ap_ends_with(name, tails[i])) continue;
        int n = snprintf(weight, sizeof weight, "%.*s.weight",
                         (int)(strlen(name) - strlen(tails[i])), name);
        return n > 0 && n < (int)sizeof weight ? ap_weights_find(m->weights, weight) : NULL;
    }
    return NULL;
}

static void count_tensors(const apus_model *m, census *out)
{
    memset(out, 0, sizeof *out);
    const char *prefix = ap_weights_text_prefix(m->weights);
    if (!prefix) return;
    for (size_t i = 0; i < ap_weights_count(m->weights); i++) {
        const char *name;
        const ap_tensor *t = ap_weights_at(m->weights, i, &name);
        if (!is_text_tensor(m, prefix, name)) continue;
        uint64_t n = (uint64_t)ap_tensor_count(t), bytes = ap_tensor_bytes(t);
        const ap_tensor *of = scaled_weight(m, name), *type = of ? of : t;
        out->bytes += bytes;
        out->bytes_of[type->dtype][type->dtype == AP_MLX_AFFINE ? type->bits : 0] += bytes;
        if (of) continue;
        out->params += n;
        if (ap_ends_with(name, "embed_tokens.weight")) out->embed += n;
        if (ap_ends_with(name, "embed_tokens_per_layer.weight")) out->ple += n;
        if (strstr(name, ".experts.") || strstr(name, ".switch_mlp.")) out->experts += n;
    }
}

/* The system maps 64 KB of the file for a row of an embedding; they are given back after 128 rows
 * (ap_embed_rows), so up to 8 MB of the table, and of its scales and biases each, are in memory. */
static size_t mapped_rows(const apus_model *m, const char *name)
{
    const size_t most = (size_t)8 << 20;
    const char *prefix = ap_weights_text_prefix(m->weights);
    char full[512];
    int n = prefix ? snprintf(full, sizeof full, "%s%s", prefix, name) : -1;
    const ap_tensor *t = n > 0 && n < (int)sizeof full ? ap_weights_find(m->weights, full) : NULL;
    if (!t) return 0;
    size_t table = ap_tensor_bytes(t), scales = ap_tensor_scale_bytes(t);
    if (scales > most) scales = most;
    return (table < most ? table : most) + scales * (t->biases ? 2 : 1);
}

/* The configuration of the towers; ap_free out->name and out->text in any case. */
static apus_err read_config(const apus_model *m, ap_config_text *out, apus_diag *diag)
{
    enum { MAX_CONFIG_BYTES = 4 << 20 };
    char *path, *text = NULL;
    *out = (ap_config_text){0};
    if (m->mmproj.path) {
        *out = (ap_config_text){ap_strdup(m->mmproj.path), ap_strdup(m->mmproj.config.data),
                                m->mmproj.config.len};
        return out->name && out->text ? APUS_OK : ap_fail_nomem(diag, out->len, "a configuration");
    }
    if (ap_ends_with(m->dir, ".gguf"))
        return ap_fail(
            diag, APUS_EUNSUPPORTED,
            "%s: a GGUF file holds no towers: expected an mmproj file beside it, or named "
            "with --mmproj (apus_model_settings.mmproj)",
            m->dir);
    out->name = path = ap_path_join(m->dir, "config.json");
    if (!path) return ap_fail_nomem(diag, strlen(m->dir), "a path");
    apus_err err = ap_file_read(path, MAX_CONFIG_BYTES, &text, &out->len, diag);
    out->text = text;
    return err;
}

apus_err ap_vision_of(const apus_model *m, ap_vision_config *out, apus_diag *diag)
{
    ap_config_text file;
    apus_err err = read_config(m, &file, diag);
    if (!err) err = ap_vision_config_parse(&file, &m->config, out, diag);
    ap_free((void *)file.text);
    ap_free((void *)file.name);
    return err;
}

apus_err ap_audio_of(const apus_model *m, ap_audio_config *out, apus_diag *diag)
{
    ap_config_text file;
    apus_err err = read_config(m, &file, diag);
    if (!err) err = ap_audio_config_parse(&file, &m->config, out, diag);
    ap_free((void *)file.text);
    ap_free((void *)file.name);
    return err;
}

static const ap_weights *tower_weights(const apus_model *m)
{
    return m->mmproj.weights ? m->mmproj.weights : m->weights;
}

static apus_err measure_vision(apus_model *m, size_t *bytes, apus_diag *diag)
{
    apus_err err = ap_vision_of(m, &m->vision, diag);
    return err ? err
               : ap_tower_measure(&m->vision, &m->config, tower_weights(m), m->dev, bytes, diag);
}

static apus_err measure_audio(apus_model *m, size_t *bytes, apus_diag *diag)
{
    apus_err err = ap_audio_of(m, &m->audio, diag);
    return err ? err
               : ap_audio_tower_measure(&m->audio, &m->config, tower_weights(m), m->dev, bytes,
                                        diag);
}

static apus_err measure_towers(apus_model *m, apus_diag *diag)
{
    size_t seen = 0, heard = 0;
    apus_err err = m->towers & APUS_TOWER_VISION ? measure_vision(m, &seen, diag) : APUS_OK;
    if (!err && m->towers & APUS_TOWER_AUDIO) err = measure_audio(m, &heard, diag);
    if (!err && (!ap_add_size(seen, heard, &m->tower_bytes) ||
                 !ap_add_size(m->packed_bytes, m->tower_bytes, &m->packed_bytes)))
        err = ap_fail_nomem(diag, SIZE_MAX, "packed weights");
    return err;
}

/* Check every tensor and add up what the model would take. */
static apus_err measure(apus_model *m, apus_diag *diag)
{
    size_t rows = mapped_rows(m, "embed_tokens.weight"),
           ple = mapped_rows(m, "embed_tokens_per_layer.weight");
    m->mapped_bytes = rows > ple ? rows : ple; /* one after the other */
    apus_err err =
        ap_model_measure(&m->config, m->weights, m->dev, true, &m->packed_bytes, NULL, diag);
    return err || !m->towers ? err : measure_towers(m, diag);
}

/* Do the weights fit, and the engine that is to stand beside them? Asked before a byte of them is read. */
apus_err ap_fit_model(const apus_model *m, const apus_engine_settings *wish, bool beside,
                      uint64_t have, apus_diag *diag)
{
    census n;
    count_tensors(m, &n);
    apus_err err = ap_fit_weights(m->dir, m->packed_bytes, n.params, have, diag);
    if (err || (!wish && !beside)) return err;
    apus_engine_settings s;
    apus_engine_settings_default(&s);
    ap_device *own = NULL;
    ap_exec ex;
    ap_sizes z;
    err = ap_settings_take(&s, sizeof s, wish, "apus_engine_settings", diag);
    if (!err) err = ap_engine_look(m, &s, &ex, &own, diag);
    if (!err) err = ap_sizes_make(m, &s, &ex, &z, diag);
    if (!err) err = ap_fit_engine(m, &s, &ex, &z, have, m->packed_bytes, diag);
    if (own) own->op->destroy(own);
    return err;
}

static apus_err load_towers(apus_model *m, const apus_model_settings *s, apus_diag *diag)
{
    apus_err err = APUS_OK;
    if (m->towers & APUS_TOWER_VISION)
        err = ap_tower_load(&m->vision, &m->config, tower_weights(m), m->dev, s->progress,
                            s->progress_ctx, &m->tower, diag);
    if (!err && m->towers & APUS_TOWER_AUDIO)
        err = ap_audio_tower_load(&m->audio, &m->config, tower_weights(m), m->dev, s->progress,
                                  s->progress_ctx, &m->audio_tower, diag);
    return err;
}

/* The draft head, if the engine that is to be made would run it. */
static apus_err look_for_head(apus_model *m, const apus_model_settings *s, apus_diag *diag)
{
    apus_engine_settings engine;
    apus_engine_settings_default(&engine);
    apus_err err =
        ap_settings_take(&engine, sizeof engine, s->engine, "apus_engine_settings", diag);
    if (err || m->no_weights) return err;
    ap_exec ex = {.k = m->dev->kern, .dev = m->dev, .precision = m->precision};
    bool wanted = engine.speculate == APUS_SPECULATE_AUTO &&
                  (engine.n_draft || ap_same_bits(m, &ex, engine.kv));
    if (wanted || engine.speculate == APUS_SPECULATE_MTP)
        ap_draft_head_find(&m->config, m->weights, &m->notes);
    return APUS_OK;
}

/* A model that only fits without its draft head goes without. */
static apus_err plan_budget(apus_model *m, const apus_model_settings *s, apus_diag *diag)
{
    apus_err err = ap_budget_plan(m, s, diag);
    if (!m->config.has_head || (err != APUS_ENOMEM && !m->store)) return err;
    ap_budget_free(m);
    m->config.has_head = false;
    ap_note(&m->notes, "%s: the head for further tokens is left out: there is no room for it",
            m->dir);
    err = measure(m, diag);
    return err ? err : ap_budget_plan(m, s, diag);
}

static apus_err load_weights(apus_model *m, const apus_model_settings *s, apus_diag *diag)
{
    apus_err err = ap_device_open(s->device, s->cpu, s->threads, &m->dev, diag);
    m->precision = s->precision;
    m->towers = s->towers;
    if (!err) err = look_for_head(m, s, diag);
    if (!err) err = measure(m, diag);
    if (!err) m->fingerprint = ap_fingerprint(&m->config, m->weights);
    if (!err) err = plan_budget(m, s, diag);
    if (!err)
        err = ap_model_load(&m->config, m->weights, m->dev, !m->store, s->progress, s->progress_ctx,
                            &m->impl, diag);
    if (!err) err = load_towers(m, s, diag);
    if (err) return err;
    if (m->mmproj.weights) ap_weights_drop_all(m->mmproj.weights);
    ap_weights_drop_all(m->weights); /* what loading and fingerprints have touched */
    return APUS_OK;
}

/* APUS_LOAD_INFO */
static apus_err measure_weights(apus_model *m, const apus_model_settings *s, apus_diag *diag)
{
    apus_err err = ap_device_open(s->device, s->cpu, 1, &m->dev, diag);
    m->precision = s->precision;
    if (!m->no_weights) m->towers = s->towers;
    if (!err) err = look_for_head(m, s, diag);
    return err ? err : measure(m, diag);
}

static void describe_types(apus_model *m, const census *c)
{
    size_t at = 0, cap = sizeof m->weight_types;
    m->weight_types[0] = 0;
    for (int t = 0; t < AP_DTYPE_COUNT * 9 && c->bytes; t++) {
        uint64_t bytes = c->bytes_of[t / 9][t % 9];
        m->info.is_quantised |= bytes && ap_dtype_block((ap_dtype)(t / 9)) != 1;
        if (!bytes || at >= cap) continue;
        char bits[16] = "";
        if (t % 9) snprintf(bits, sizeof bits, "_%dbit", t % 9);
        int n = snprintf(m->weight_types + at, cap - at, "%s%s%s %.1f %%", at ? ", " : "",
                         ap_dtype_name((ap_dtype)(t / 9)), bits,
                         100.0 * (double)bytes / (double)c->bytes);
        if (n > 0) at += (size_t)n;
    }
}

/* Towers that the configuration describes, for what the family takes. */
static unsigned towers_of(const apus_model *m)
{
    const ap_config *c = &m->config;
    bool hears = c->hears && (c->media == AP_MEDIA_GEMMA || c->media == AP_MEDIA_EMBEDDER);
    if (!c->media) return 0;
    return (c->sees ? APUS_TOWER_VISION : 0) | (hears ? APUS_TOWER_AUDIO : 0);
}

static void fill_info(apus_model *m)
{
    const ap_config *c = &m->config;
    apus_info *i = &m->info;
    *i = (apus_info){.size = sizeof *i,
                     .path = m->dir,
                     .architecture = ap_arch_name(c->arch),
                     .weight_types = m->weight_types,
                     .n_layers = c->n_layer,
                     .hidden = c->hidden,
                     .vocab = c->vocab,
                     .experts = c->n_expert,
                     .experts_used = c->n_expert_used,
                     .sliding_window = c->window,
                     .context = c->context,
                     .has_tokenizer = i->has_tokenizer,
                     .has_chat_template = m->chat != NULL,
                     .is_multimodal = c->multimodal,
                     .towers = towers_of(m),
                     .fingerprint = m->fingerprint};
    for (int l = 0; l < c->n_layer; l++) {
        i->n_attn_full += c->layer[l].kind == AP_LAYER_FULL;
        i->n_attn_sliding += c->layer[l].kind == AP_LAYER_SLIDING;
        i->n_recurrent += c->layer[l].kind == AP_LAYER_LINEAR;
        i->n_moe += c->layer[l].moe;
    }
    if (!m->weights) return;
    census n;
    count_tensors(m, &n);
    describe_types(m, &n);
    if (m->no_weights)
        snprintf(m->weight_types, sizeof m->weight_types, "not here; this is their size in bf16");
    i->params_total = n.params;
    i->weight_bytes = n.bytes;
    /* A tied embedding is read whole as the head; else only a row of it. */
    i->params_active = n.params - n.ple - (c->tie_embeddings ? 0 : n.embed);
    if (c->n_expert) {
        uint64_t idle = (uint64_t)(c->n_expert - c->n_expert_used);
        i->params_active -= n.experts / (uint64_t)c->n_expert * idle;
    }
}

/* To the log: what was opened. */
static void tell(const apus_model *m, apus_load load)
{
    const apus_info *i = &m->info;
    ap_log_say(&m->log, APUS_LOG_INFO, "%s: %s, %d layers, %llu parameters, %s", m->dir,
               i->architecture, i->n_layers, (unsigned long long)i->params_total, m->weight_types);
    if (load == APUS_LOAD_ALL)
        ap_log_say(&m->log, APUS_LOG_INFO, "%s: weights packed for %s, precision %s, %zu bytes",
                   m->dir, ap_where(m->dev), apus_precision_name(m->precision), m->packed_bytes);
    for (size_t k = 0; k < m->notes.n; k++)
        ap_log_say(&m->log, APUS_LOG_WARNING, "%s", m->notes.text[k]);
    if (!i->has_tokenizer)
        ap_log_say(&m->log, APUS_LOG_WARNING, "%s: no tokenizer here; only token ids can be used",
                   m->dir);
    else if (!i->has_chat_template)
        ap_log_say(&m->log, APUS_LOG_WARNING,
                   "%s: no chat template here; only raw text can be used", m->dir);
}

static apus_err check_settings(const apus_model_settings *given, apus_model_settings *s,
                               apus_diag *diag)
{
    apus_err err = ap_settings_take(s, sizeof *s, given, "apus_model_settings", diag);
    if (err) return err;
    if (s->load < APUS_LOAD_INFO || s->load > APUS_LOAD_ALL)
        return ap_fail(diag, APUS_EINVAL, "apus_model_settings.load: expected 0 to %d, found %d",
                       APUS_LOAD_ALL, (int)s->load);
    if (s->precision < APUS_PRECISION_HIGH || s->precision > APUS_PRECISION_FAST)
        return ap_fail(diag, APUS_EINVAL,
                       "apus_model_settings.precision: expected 0 to %d, found %d",
                       APUS_PRECISION_FAST, (int)s->precision);
    const unsigned all = APUS_TOWER_VISION | APUS_TOWER_AUDIO;
    if (s->towers & ~all)
        return ap_fail(diag, APUS_EINVAL, "apus_model_settings.towers: expected 0 to %u, found %u",
                       all, s->towers);
    return APUS_OK;
}

apus_err apus_model_open(const char *name, const apus_model_settings *settings, apus_model **out,
                         apus_diag *diag)
{
    apus_model_settings s;
    apus_model_settings_default(&s);
    if (!name || !out)
        return ap_fail(diag, APUS_EINVAL, "apus_model_open: name and out are needed");
    apus_err err = check_settings(settings, &s, diag);
    if (err) return err;
    apus_model *m = ap_calloc(1, sizeof *m);
    if (!m) return ap_fail_nomem(diag, sizeof *m, "the model");
    m->log = (ap_log){s.log, s.log_ctx};
    m->grammars = ap_grammars_open();
    if (!m->grammars) err = ap_fail_nomem(diag, sizeof *m, "the model");
    if (!err) err = ap_hub_resolve(name, s.hub_cache, &m->dir, diag);
    if (!err)
        err = ap_ends_with(m->dir, ".gguf") ? open_gguf(m, &s, diag) : open_folder(m, s.load, diag);
    if (!err) settle_tokens(m);
    if (!err && s.load == APUS_LOAD_INFO) err = measure_weights(m, &s, diag);
    if (!err && s.load == APUS_LOAD_ALL) err = load_weights(m, &s, diag);
    if (err) {
        apus_model_close(m);
        return err;
    }
    fill_info(m);
    tell(m, s.load);
    *out = m;
    return APUS_OK;
}

void apus_model_close(apus_model *m)
{
    if (!m) return;
    ap_model_free(m->impl);
    ap_tower_free(m->tower);
    ap_audio_tower_free(m->audio_tower);
    ap_budget_free(m);
    if (m->dev) m->dev->op->destroy(m->dev);
    ap_weights_close(m->weights);
    ap_grammars_close(m->grammars);
    ap_mmproj_close(&m->mmproj);
    ap_tokenizer_free(m->tokenizer);
    ap_chat_free(m->chat);
    ap_notes_free(&m->notes);
    ap_free(m->dir);
    ap_free(m);
}

const char *apus_model_note(const apus_model *m, size_t i)
{
    return m && i < m->notes.n ? m->notes.text[i] : NULL;
}

apus_err apus_model_experts(const apus_model *m, apus_expert_stats *out, apus_diag *diag)
{
    if (!m || !out)
        return ap_fail(diag, APUS_EINVAL, "apus_model_experts: model and out are needed");
    if (out->size < sizeof out->size || out->size > sizeof *out)
        return ap_fail(diag, APUS_EINVAL, "apus_expert_stats.size: expected %zu to %zu, found %zu",
                       sizeof out->size, sizeof *out, out->size);
    apus_expert_stats s = {.size = out->size, .experts = m->config.n_expert * m->info.n_moe};
    s.resident = s.experts;
    if (m->store) {
        ap_expert_counts n = ap_expert_store_counts(m->store);
        s.resident = ap_expert_store_slots(m->store);
        s.hits = n.hits;
        s.misses = n.misses;
        s.bytes_read = n.bytes;
        s.stall_us = n.stall_us;
        s.pack_us = n.pack_us;
        s.ahead = n.ahead;
        s.ahead_used = n.ahead_used;
        s.io = ap_expert_store_io(m->store);
    }
    memcpy(out, &s, out->size);
    return APUS_OK;
}

apus_err apus_model_info(const apus_model *m, apus_info *out, apus_diag *diag)
{
    if (!m || !out) return ap_fail(diag, APUS_EINVAL, "apus_model_info: model and out are needed");
    if (out->size < sizeof out->size || out->size > sizeof *out)
        return ap_fail(diag, APUS_EINVAL, "apus_info.size: expected %zu to %zu, found %zu",
                       sizeof out->size, sizeof *out, out->size);
    size_t size = out->size;
    memcpy(out, &m->info, size);
    out->size = size;
    return APUS_OK;
}
