#include "file/config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "file/config_in.h"
#include "file/family.h"

#define MAX_CONFIG_BYTES ((size_t)4 << 20)

/* ---------------------------------------------------------------- shared parts */

void ap_config_common(const ap_fields *t, int default_context, ap_config *c)
{
    c->n_layer = (int)ap_field_int(t, "num_hidden_layers", 1, AP_MAX_LAYERS, AP_REQUIRED);
    c->hidden = (int)ap_field_int(t, "hidden_size", 1, AP_CFG_MAX_HIDDEN, AP_REQUIRED);
    c->vocab = (int)ap_field_int(t, "vocab_size", 1, AP_CFG_MAX_VOCAB, AP_REQUIRED);
    c->n_head = (int)ap_field_int(t, "num_attention_heads", 1, AP_CFG_MAX_HEADS, AP_REQUIRED);
    c->context =
        (int)ap_field_int(t, "max_position_embeddings", 1, AP_CFG_MAX_CONTEXT, default_context);
    c->norm_eps = (float)ap_field_num(t, "rms_norm_eps", 0, 1, 1e-6);
    ap_field_refuse(t, "attention_bias");
}

void ap_config_layer_types(const ap_fields *t, const char *other_name, ap_layer_kind other,
                           int interval, ap_config *c)
{
    const ap_json *list = ap_field_array(t, "layer_types");
    if (!list) {
        for (int l = 0; l < c->n_layer; l++)
            c->layer[l].kind = (l + 1) % interval ? other : AP_LAYER_FULL;
        return;
    }
    if (list->len != (size_t)c->n_layer) {
        ap_field_fail(t, APUS_EFORMAT, "layer_types", list, "expected a list of %d, one per layer",
                      c->n_layer);
        return;
    }
    int l = 0;
    for (const ap_json *e = list->first; e; e = e->next, l++) {
        bool text = e->type == AP_JSON_STRING;
        if (text && (!strcmp(e->str, "full_attention") || !strcmp(e->str, "attention"))) {
            c->layer[l].kind = AP_LAYER_FULL;
        } else if (text && other_name && !strcmp(e->str, other_name)) {
            c->layer[l].kind = other;
        } else {
            ap_field_fail(t, APUS_EUNSUPPORTED, "layer_types", e,
                          "layer %d: only \"full_attention\"%s%s is supported in this architecture",
                          l, other_name ? " and " : "", other_name ? other_name : "");
            return;
        }
    }
}

/* ---------------------------------------------------------------- tokens */

static bool add_id(int *list, int *n, int max, int vocab, int64_t id)
{
    if (id < 0 || id >= vocab) return true;
    for (int i = 0; i < *n; i++)
        if (list[i] == id) return true;
    if (*n == max) return false;
    list[(*n)++] = (int)id;
    return true;
}

bool ap_config_add_stop(ap_config *c, int64_t id)
{
    return add_id(c->stop, &c->n_stop, AP_MAX_STOP, c->vocab, id);
}

bool ap_config_add_suppress(ap_config *c, int64_t id)
{
    return add_id(c->suppress, &c->n_suppress, AP_MAX_SUPPRESS, c->vocab, id);
}

/* Add the stop ids of a member, a number or a list of them. */
static void add_stops(const ap_fields *f, const char *key, ap_config *c)
{
    const ap_json *v = ap_field(f, key);
    if (!v) return;
    const ap_json *e = v->type == AP_JSON_ARRAY ? v->first : v;
    for (; e; e = v->type == AP_JSON_ARRAY ? e->next : NULL) {
        if (e->type != AP_JSON_INT)
            ap_field_fail(f, APUS_EFORMAT, key, e, "expected token ids");
        else if (!ap_config_add_stop(c, e->integer))
            ap_field_fail(f, APUS_EUNSUPPORTED, key, NULL, "more than %d token ids", AP_MAX_STOP);
    }
}

/* Places of images, sound and video in a prompt, and the marks around them: a text model that makes
 * one would break off in the middle of nothing. */
static void media_ids(const ap_fields *f, ap_config *c)
{
    static const char *const names[] = {"image",        "video",      "audio",       "vision",
                                        "vision_start", "vision_end", "audio_start", "audio_end",
                                        "boi",          "eoi",        "boa",         "eoa",
                                        "bov",          "eov",        "image_start", "image_end"};
    static const char *const tails[] = {"_token_id", "_token_index"};
    char key[64];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        for (size_t k = 0; k < sizeof tails / sizeof *tails; k++) {
            snprintf(key, sizeof key, "%s%s", names[i], tails[k]);
            const ap_json *v = ap_field(f, key);
            if (v && v->type == AP_JSON_INT && !ap_config_is_stop(c, v->integer))
                ap_config_add_suppress(c, v->integer);
        }
}

/* One id; -1 if it is not in the vocabulary; `other` if absent. */
static int one_id(const ap_fields *f, const char *key, int vocab, int other)
{
    if (!ap_json_get(f->o, key)) return other;
    int64_t id = ap_field_int(f, key, INT32_MIN, INT32_MAX, -1);
    return id >= 0 && id < vocab ? (int)id : -1;
}

/* An id that a class has if a file names none; -1 in a vocabulary too small for it. */
static int class_id(const ap_config *c, int id)
{
    return id < c->vocab ? id : -1;
}

/* An id of media by one of two names, in a vocabulary or not. */
static int media_id(const ap_fields *f, const char *key, const char *other, int none)
{
    return (int)ap_field_int(f, ap_field(f, key) ? key : other, -1, INT32_MAX, none);
}

/* Ids that stand where pictures and sound go. */
static void media_places(const ap_fields *f, ap_config *c)
{
    const ap_family *k = ap_family_of(c->arch);
    c->image_token = c->video_token = c->audio_token = -1;
    if (!c->multimodal || !c->media) return;
    c->image_token = media_id(f, "image_token_id", "image_token_index", k->image);
    c->video_token = media_id(f, "video_token_id", "video_token_index", k->video);
    c->audio_token = media_id(f, "audio_token_id", "audio_token_index", k->audio);
}

/* Ids in the outer file and in text_config; the outer one wins where there can be one only. */
static void token_ids(const ap_fields *outer, const ap_fields *text, ap_config *c)
{
    const ap_family *f = ap_family_of(c->arch);
    c->bos = one_id(outer, "bos_token_id", c->vocab,
                    one_id(text, "bos_token_id", c->vocab, class_id(c, f->bos)));
    c->pad = one_id(outer, "pad_token_id", c->vocab,
                    one_id(text, "pad_token_id", c->vocab, class_id(c, f->pad)));
    add_stops(outer, "eos_token_id", c);
    if (text->o != outer->o) add_stops(text, "eos_token_id", c);
    if (!ap_json_get(outer->o, "eos_token_id") && !ap_json_get(text->o, "eos_token_id"))
        ap_config_add_stop(c, f->eos);
}

/* ---------------------------------------------------------------- the file */

/* A row, and what of it config.json names. */
typedef struct kind {
    const ap_family *family;
    ap_arch_id arch;
    const char *type;
    bool text; /* the text model alone */
} kind;

static kind find_kind(const ap_fields *f)
{
    kind k = {0};
    char list[256];
    const char *type = ap_field_str(f, "model_type", NULL);
    if (type) k.family = ap_family_of_type(type, &k.arch, &k.type, &k.text);
    if (k.family) return k;
    ap_family_list_types(list, sizeof list);
    if (type)
        ap_field_fail(f, APUS_EUNSUPPORTED, "model_type", NULL,
                      "\"%.80s\" is not supported; supported are %s, and their text-only forms",
                      type, list);
    else
        ap_field_fail(f, APUS_EFORMAT, "model_type", NULL, "is missing");
    return k;
}

/* Classifiers and the like share a model_type with the generators. */
static void check_class(const ap_fields *f)
{
    const ap_json *list = ap_field_array(f, "architectures");
    for (const ap_json *e = list ? list->first : NULL; e; e = e->next) {
        if (e->type == AP_JSON_STRING &&
            (ap_ends_with(e->str, "ForCausalLM") ||
             ap_ends_with(e->str, "ForConditionalGeneration") || ap_ends_with(e->str, "Model")))
            continue;
        ap_field_fail(f, APUS_EUNSUPPORTED, "architectures", e,
                      "expected a class that generates text");
    }
}

/* The text model's object: text_config, or the file itself where somebody took the towers off and
 * flattened the rest under the old name. */
static ap_fields text_fields(const ap_fields *f, const kind *k)
{
    char text_type[64];
    ap_fields text = *f;
    if (!k->family->wrapped || k->text ||
        (!ap_field(f, "text_config") && ap_field(f, "num_hidden_layers")))
        return text;
    text.prefix = "text_config.";
    text.o = ap_field_object(f, "text_config");
    if (!text.o) {
        ap_field_fail(f, APUS_EFORMAT, "text_config", NULL, "is missing");
        return text;
    }
    snprintf(text_type, sizeof text_type, "%s_text", k->type);
    const char *type = ap_field_str(&text, "model_type", text_type);
    if (strcmp(type, k->type)) ap_field_expect(&text, "model_type", text_type);
    return text;
}

static void read_model(const ap_fields *f, ap_config *c)
{
    kind k = find_kind(f);
    if (!k.family) return;
    ap_fields text = text_fields(f, &k);
    if (k.family->wrapped && !k.text && !*f->err) {
        bool text_only = ap_field_bool(f, "language_model_only", false);
        c->sees = ap_field(f, "vision_config") && !text_only;
        c->hears = ap_field(f, "audio_config") && !text_only;
        c->multimodal = c->sees || c->hears;
    }
    check_class(f);
    if (ap_field(f, "compression_config"))
        ap_field_fail(f, APUS_EUNSUPPORTED, "compression_config", NULL, "is not supported");
    if (*f->err) return;
    c->arch = k.arch;
    c->media = k.family->media;
    k.family->config(&text, k.type, c);
    c->tie_embeddings = ap_field_bool(f, "tie_word_embeddings",
                                      ap_field_bool(&text, "tie_word_embeddings", k.family->ties));
    if (!*f->err) token_ids(f, &text, c);
    if (!*f->err) media_places(f, c);
}

static apus_err parse_object(const ap_config_text *t, ap_arena *a, ap_json **root, apus_diag *diag)
{
    apus_err err = ap_json_parse(a, t->text, t->len, t->name, 0, root, diag);
    if (!err && (*root)->type != AP_JSON_OBJECT)
        err = ap_fail(diag, APUS_EFORMAT, "%s: expected an object", t->name);
    return err;
}

/* Ids of media come last: what ends a turn is never among them. */
static void suppress_media(const ap_fields *f, ap_config *c)
{
    ap_fields text = *f;
    text.o = ap_json_get(f->o, "text_config");
    media_ids(f, c);
    if (text.o) media_ids(&text, c);
}

apus_err ap_config_parse(const ap_config_text *config, const ap_config_text *gen, ap_config *out,
                         ap_notes *notes, apus_diag *diag)
{
    ap_arena arena;
    ap_json *root = NULL;
    ap_arena_init(&arena, AP_CFG_MAX_TREE);
    ap_config *c = ap_calloc(1, sizeof *c);
    apus_err err = c ? APUS_OK : ap_fail_nomem(diag, sizeof *c, "the model's configuration");
    if (!err) err = parse_object(config, &arena, &root, diag);
    if (!err) {
        c->bos = c->pad = c->top_k = c->penalty_last = -1;
        c->temperature = c->top_p = c->min_p = c->repetition_penalty = -1;
        c->do_sample = true;
        read_model(&(ap_fields){config->name, "", root, diag, &err}, c);
    }
    if (!err && gen) err = ap_config_generation(gen, c, notes, diag);
    if (!err) suppress_media(&(ap_fields){config->name, "", root, diag, &err}, c);
    if (!err) *out = *c;
    ap_free(c);
    ap_arena_free(&arena);
    return err;
}

/* generation_config.json: *text stays NULL where there is none, and where it cannot be read, which keeps no
 * model from loading. */
static apus_err read_advice(const char *path, char **text, size_t *len, ap_notes *notes,
                            apus_diag *diag)
{
    apus_diag why;
    if (!ap_path_exists(path)) return APUS_OK;
    apus_err err = ap_file_read(path, MAX_CONFIG_BYTES, text, len, &why);
    if (err == APUS_ENOMEM && diag) *diag = why;
    if (!err || err == APUS_ENOMEM) return err;
    ap_note(notes, "%s; the file is left out", why.text);
    return APUS_OK;
}

apus_err ap_config_read(const char *dir, ap_config *out, ap_notes *notes, apus_diag *diag)
{
    char *path[2] = {ap_path_join(dir, "config.json"), ap_path_join(dir, "generation_config.json")};
    char *text[2] = {NULL, NULL};
    size_t len[2] = {0, 0};
    apus_err err = APUS_OK;
    if (!path[0] || !path[1]) {
        err = ap_fail_nomem(diag, strlen(dir), "the model's path");
        goto done;
    }
    err = ap_file_read(path[0], MAX_CONFIG_BYTES, &text[0], &len[0], diag);
    if (!err) err = read_advice(path[1], &text[1], &len[1], notes, diag);
    if (!err)
        err = ap_config_parse(&(ap_config_text){path[0], text[0], len[0]},
                              text[1] ? &(ap_config_text){path[1], text[1], len[1]} : NULL, out,
                              notes, diag);
done:
    for (int i = 0; i < 2; i++) {
        ap_free(path[i]);
        ap_free(text[i]);
    }
    return err;
}
