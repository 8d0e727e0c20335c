/* synth_text.c - the configuration of a made-up model. Its tokenizer is in synth_vocab.c. */
#include "make/synth_text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "file/family.h"

#define MAX_TREE_BYTES ((size_t)64 << 20)

/* A value as JSON text. The parser bounds the depth. */
static void write_json(ap_buf *b, const ap_json *v)
{
    const char *comma = "";
    switch (v->type) {
    case AP_JSON_NULL:
        ap_buf_adds(b, "null");
        break;
    case AP_JSON_BOOL:
        ap_buf_adds(b, v->boolean ? "true" : "false");
        break;
    case AP_JSON_INT:
    case AP_JSON_DOUBLE:
        ap_buf_add(b, v->str, v->len);
        break;
    case AP_JSON_STRING:
        ap_json_quote(b, v->str, v->len, false);
        break;
    case AP_JSON_ARRAY:
    case AP_JSON_OBJECT:
        ap_buf_adds(b, v->type == AP_JSON_ARRAY ? "[" : "{");
        for (const ap_json *e = v->first; e; e = e->next, comma = ", ") {
            ap_buf_adds(b, comma);
            if (v->type == AP_JSON_OBJECT) {
                ap_json_quote(b, e->key, e->key_len, false);
                ap_buf_adds(b, ": ");
            }
            write_json(b, e);
        }
        ap_buf_adds(b, v->type == AP_JSON_ARRAY ? "]" : "}");
    }
}

static void member(ap_buf *b, const char *key)
{
    ap_buf_addf(b, "%s\n  \"%s\": ", b->len > 1 ? "," : "", key);
}

static int64_t number(const ap_json *o, const char *key)
{
    const ap_json *v = ap_json_get(o, key);
    return v && v->type == AP_JSON_INT ? v->integer : 0;
}

/* The first n elements. */
static void write_first(ap_buf *b, const ap_json *list, int64_t n)
{
    const char *comma = "";
    ap_buf_adds(b, "[");
    for (const ap_json *e = list->first; e && n > 0; e = e->next, n--, comma = ", ") {
        ap_buf_adds(b, comma);
        write_json(b, e);
    }
    ap_buf_adds(b, "]");
}

/* Entries of layers below n. */
static void write_layers_below(ap_buf *b, const ap_json *map, int64_t n)
{
    const char *comma = "";
    int64_t l;
    ap_buf_adds(b, "{");
    for (const ap_json *e = map->first; e; e = e->next) {
        if (!ap_json_int(e->key, e->key_len, &l) || l >= n) continue;
        ap_buf_adds(b, comma);
        ap_json_quote(b, e->key, e->key_len, false);
        ap_buf_adds(b, ": ");
        write_json(b, e);
        comma = ", ";
    }
    ap_buf_adds(b, "}");
}

static bool is(const ap_json *e, const char *key)
{
    return !strcmp(e->key, key);
}

/* A member of the text configuration in a model of n of its `all` layers. */
static void write_member(ap_buf *b, const ap_json *e, int64_t n, int64_t all)
{
    int64_t shared = e->type == AP_JSON_INT ? e->integer - (all - n) : 0;
    member(b, e->key);
    if (is(e, "num_hidden_layers"))
        ap_buf_addf(b, "%" PRId64, n);
    else if (is(e, "layer_types") && e->type == AP_JSON_ARRAY)
        write_first(b, e, n);
    else if (is(e, "per_layer_config") && e->type == AP_JSON_OBJECT)
        write_layers_below(b, e, n);
    else if (is(e, "num_kv_shared_layers"))
        ap_buf_addf(b, "%" PRId64, shared > 0 ? shared : 0);
    else
        write_json(b, e);
}

/* Type and class of the text model of a family. */
static void write_family(ap_buf *b, const ap_json *root, const ap_json *text)
{
    const ap_json *type = ap_json_get(text, "model_type"), *outer = ap_json_get(root, "model_type");
    char name[80] = "";
    if (type && type->type == AP_JSON_STRING)
        snprintf(name, sizeof name, "%.70s", type->str);
    else if (outer && outer->type == AP_JSON_STRING)
        snprintf(name, sizeof name, "%.70s%s", outer->str, root != text ? "_text" : "");
    ap_arch_id arch;
    const char *kind;
    bool text_only;
    const ap_family *f = ap_family_of_type(name, &arch, &kind, &text_only);
    if (f) {
        member(b, "architectures");
        ap_buf_addf(b, "[\"%s\"]", f->classes[kind != f->type[0]]);
    }
    member(b, "model_type");
    ap_json_quote(b, name, strlen(name), false);
}

/* Members that the outer level decides, or that are written already. */
static bool is_outer(const ap_json *root, const ap_json *text, const ap_json *e)
{
    if (is(e, "model_type") || is(e, "architectures") || is(e, "quantization") ||
        is(e, "quantization_config"))
        return true;
    return root != text && (is(e, "eos_token_id") || is(e, "tie_word_embeddings")) &&
           ap_json_get(root, e->key);
}

apus_err ap_synth_config(const ap_config_text *config, int layers, ap_buf *out, apus_diag *diag)
{
    static const char *const outer[] = {"eos_token_id", "tie_word_embeddings"};
    ap_arena arena;
    ap_json *root = NULL;
    ap_arena_init(&arena, MAX_TREE_BYTES);
    apus_err err = ap_json_parse(&arena, config->text, config->len, config->name, 0, &root, diag);
    const ap_json *inner = err ? NULL : ap_json_get(root, "text_config"),
                  *text = inner ? inner : root;
    int64_t all = err ? 0 : number(text, "num_hidden_layers"), n = layers ? layers : all;
    if (!err && n > all)
        err = ap_fail(diag, APUS_EINVAL, "%s: has %" PRId64 " layers, expected at least %d",
                      config->name, all, layers);
    if (!err) {
        ap_buf_adds(out, "{");
        write_family(out, root, text);
        for (const ap_json *e = text->first; e; e = e->next)
            if (!is_outer(root, text, e)) write_member(out, e, n, all);
        for (size_t i = 0; i < sizeof outer / sizeof *outer && inner; i++)
            if (ap_json_get(root, outer[i])) write_member(out, ap_json_get(root, outer[i]), n, all);
        ap_buf_adds(out, "\n}\n");
        if (out->failed) err = ap_fail_nomem(diag, out->cap, "config.json");
    }
    ap_arena_free(&arena);
    return err;
}
