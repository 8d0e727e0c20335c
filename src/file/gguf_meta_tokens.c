/* gguf_meta_tokens.c - tokenizer.json as GGUF metadata. */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "file/family.h"
#include "file/gguf_meta.h"

#define MAX_TREE_BYTES ((size_t)2 << 30)

enum { NORMAL = 1, UNKNOWN, CONTROL, USER, UNUSED, BYTE };

typedef struct token {
    const char *s; /* NULL: no such id in tokenizer.json */
    size_t len;
    int type;
} token;

typedef struct tokens {
    token *item; /* [n] */
    int n;
    const ap_family_tokens *f;
} tokens;

static bool text_is(const ap_json *v, const char *s)
{
    return v && v->type == AP_JSON_STRING && v->len == strlen(s) && !memcmp(v->str, s, v->len);
}

/* "<0x0A>" */
static bool is_byte(const char *s, size_t n)
{
    return n == 6 && !memcmp(s, "<0x", 3) && s[5] == '>';
}

/* Ids from the vocabulary's size on cannot be produced and are left out. */
static void set(tokens *t, int64_t id, const char *s, size_t n, int type)
{
    if (id >= 0 && id < t->n) t->item[id] = (token){s, n, type};
}

static apus_err collect(tokens *t, const ap_json *root, const char *name, apus_diag *diag)
{
    const ap_json *model = ap_json_get(root, "model"), *vocab = ap_json_get(model, "vocab"),
                  *added = ap_json_get(root, "added_tokens");
    if (!text_is(ap_json_get(model, "type"), "BPE") || !vocab || vocab->type != AP_JSON_OBJECT)
        return ap_fail(diag, APUS_EFORMAT,
                       "%s: model.type and model.vocab: expected BPE and its table", name);
    for (const ap_json *e = vocab->first; e; e = e->next)
        if (e->type == AP_JSON_INT)
            set(t, e->integer, e->key, e->key_len,
                t->f->sentencepiece && is_byte(e->key, e->key_len) ? BYTE : NORMAL);
    for (const ap_json *e = added ? added->first : NULL; e; e = e->next) {
        const ap_json *id = ap_json_get(e, "id"), *s = ap_json_get(e, "content"),
                      *special = ap_json_get(e, "special");
        if (!id || id->type != AP_JSON_INT || !s || s->type != AP_JSON_STRING) continue;
        bool control = special && special->type == AP_JSON_BOOL && special->boolean;
        if (ap_is_visible_marker(t->f, s->str, s->len)) control = false;
        set(t, id->integer, s->str, s->len, control ? CONTROL : USER);
    }
    return APUS_OK;
}

static void put_tokens(ap_gguf_writer *w, const tokens *t)
{
    char unused[32];
    ap_gguf_put_array(w, "tokenizer.ggml.tokens", AP_GGUF_STRING, (uint64_t)t->n);
    for (int i = 0; i < t->n; i++) {
        if (!t->item[i].s) snprintf(unused, sizeof unused, "[PAD%d]", i);
        const char *s = t->item[i].s ? t->item[i].s : unused;
        ap_gguf_add_string(w, s, t->item[i].s ? t->item[i].len : strlen(unused));
    }
    if (t->f->sentencepiece) { /* merges decide; other programs want a score for each token all the same */
        ap_gguf_put_array(w, "tokenizer.ggml.scores", AP_GGUF_F32, (uint64_t)t->n);
        for (int i = 0; i < t->n; i++) ap_gguf_add_f32(w, -1000);
    }
    ap_gguf_put_array(w, "tokenizer.ggml.token_type", AP_GGUF_I32, (uint64_t)t->n);
    for (int i = 0; i < t->n; i++) ap_gguf_add_i32(w, t->item[i].s ? t->item[i].type : UNUSED);
}

/* "a b", or the newer ["a", "b"]. */
static apus_err put_merges(ap_gguf_writer *w, const ap_json *list, const char *name,
                           apus_diag *diag)
{
    ap_buf b = {0};
    apus_err err = APUS_OK;
    ap_gguf_put_array(w, "tokenizer.ggml.merges", AP_GGUF_STRING, list ? list->len : 0);
    for (const ap_json *e = list ? list->first : NULL; e && !err; e = e->next) {
        const ap_json *l = ap_json_at(e, 0), *r = ap_json_at(e, 1);
        b.len = 0;
        if (e->type == AP_JSON_STRING) {
            ap_buf_add(&b, e->str, e->len);
        } else if (l && r && l->type == AP_JSON_STRING && r->type == AP_JSON_STRING) {
            ap_buf_add(&b, l->str, l->len);
            ap_buf_adds(&b, " ");
            ap_buf_add(&b, r->str, r->len);
        } else {
            err = ap_fail(diag, APUS_EFORMAT, "%s: model.merges: expected pairs of strings", name);
        }
        if (!err && b.failed) err = ap_fail_nomem(diag, b.cap, "a merge");
        if (!err) ap_gguf_add_string(w, b.data, b.len);
    }
    ap_buf_free(&b);
    return err;
}

/* The id of the token that a member of tokenizer_config.json names: a string or {"content": ...}. */
static int named(const tokens *t, const ap_json *config, const char *key, int other)
{
    const ap_json *v = ap_json_get(config, key);
    if (v && v->type == AP_JSON_OBJECT) v = ap_json_get(v, "content");
    if (!v || v->type != AP_JSON_STRING) return other;
    for (int i = 0; i < t->n; i++)
        if (t->item[i].s && t->item[i].len == v->len && !memcmp(t->item[i].s, v->str, v->len))
            return i;
    return other;
}

static void put_id(ap_gguf_writer *w, const char *key, int id)
{
    if (id >= 0) ap_gguf_put_u32(w, key, (uint32_t)id);
}

static void put_special(ap_gguf_writer *w, const ap_config *c, const tokens *t,
                        const ap_json *config)
{
    put_id(w, "tokenizer.ggml.bos_token_id", named(t, config, "bos_token", c->bos));
    put_id(w, "tokenizer.ggml.eos_token_id",
           named(t, config, "eos_token", c->n_stop ? c->stop[0] : -1));
    if (c->n_stop > 1) {
        ap_gguf_put_array(w, "tokenizer.ggml.eos_token_ids", AP_GGUF_I32, (uint64_t)c->n_stop);
        for (int i = 0; i < c->n_stop; i++) ap_gguf_add_i32(w, c->stop[i]);
    }
    put_id(w, "tokenizer.ggml.padding_token_id", named(t, config, "pad_token", c->pad));
    if (t->f->sentencepiece)
        put_id(w, "tokenizer.ggml.unknown_token_id", named(t, config, "unk_token", -1));
    ap_gguf_put_bool(w, "tokenizer.ggml.add_bos_token", t->f->first != NULL);
    if (t->f->sentencepiece) ap_gguf_put_bool(w, "tokenizer.ggml.add_space_prefix", false);
}

/* The default template has the plain key, others their name behind it. */
static void put_named_template(ap_gguf_writer *w, const char *name, const char *s, size_t len)
{
    char key[128] = "tokenizer.chat_template";
    if (name && strcmp(name, "default"))
        snprintf(key, sizeof key, "tokenizer.chat_template.%.60s", name);
    ap_gguf_put_string(w, key, s, len);
}

static bool is_text(const ap_json *v)
{
    return v && v->type == AP_JSON_STRING;
}

/* A template file wins over tokenizer_config.json, which has one, or a list of named ones. */
static void put_templates(ap_gguf_writer *w, const ap_tokenizer_texts *t, const ap_json *config)
{
    const ap_json *inside = ap_json_get(config, "chat_template");
    if (t->chat_template) {
        put_named_template(w, NULL, t->chat_template, t->chat_template_len);
        if (t->tool_template)
            put_named_template(w, "tool_use", t->tool_template, t->tool_template_len);
        return;
    }
    if (is_text(inside)) put_named_template(w, NULL, inside->str, inside->len);
    if (!inside || inside->type != AP_JSON_ARRAY) return;
    for (const ap_json *e = inside->first; e; e = e->next) {
        const ap_json *name = ap_json_get(e, "name"), *s = ap_json_get(e, "template");
        if (is_text(name) && is_text(s) && name->len)
            put_named_template(w, name->str, s->str, s->len);
    }
}

static bool contains(const char *s, size_t n, const char *part)
{
    size_t m = strlen(part);
    for (size_t i = 0; i + m <= n; i++)
        if (s[i] == part[0] && !memcmp(s + i, part, m)) return true;
    return false;
}

apus_err ap_gguf_put_tokenizer(ap_gguf_writer *w, const ap_config *c, const ap_tokenizer_texts *t,
                               apus_diag *diag)
{
    ap_arena arena;
    ap_json *root = NULL, *config = NULL;
    tokens list = {.n = c->vocab, .f = ap_family_of(c->arch)->tokens};
    ap_arena_init(&arena, MAX_TREE_BYTES);
    list.item = ap_calloc((size_t)c->vocab, sizeof *list.item);
    apus_err err = list.item ? APUS_OK : ap_fail_nomem(diag, (size_t)c->vocab, "the vocabulary");
    if (!err) err = ap_json_parse(&arena, t->tokenizer, t->tokenizer_len, t->name, 0, &root, diag);
    if (!err && t->config)
        err = ap_json_parse(&arena, t->config, t->config_len, t->name, 0, &config, diag);
    if (!err) err = collect(&list, root, t->name, diag);
    if (!err) {
        /* The split patterns differ in whether combining marks count as letters. */
        bool marks = contains(t->tokenizer, t->tokenizer_len, "\\\\p{M}");
        const char *model = list.f->gguf_model, *pre = marks ? "qwen35" : "qwen2";
        ap_gguf_put_string(w, "tokenizer.ggml.model", model, strlen(model));
        if (!list.f->sentencepiece) ap_gguf_put_string(w, "tokenizer.ggml.pre", pre, strlen(pre));
        put_tokens(w, &list);
        err = put_merges(w, ap_json_get(ap_json_get(root, "model"), "merges"), t->name, diag);
    }
    if (!err) {
        put_special(w, c, &list, config);
        put_templates(w, t, config);
    }
    ap_free(list.item);
    ap_arena_free(&arena);
    return err;
}
