/* Reading tokenizer.json: the vocabulary and the merges go straight into their tables, the small
 * rest into a tree. */
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/file.h"
#include "text/tokenizer_impl.h"

#define MAX_FILE_BYTES ((size_t)512 << 20)
#define MAX_TREE_BYTES ((size_t)256 << 20)
#define MAX_DEPTH      32

typedef struct file {
    const char *name;
    apus_diag *diag;
    ap_tokenizer *t;
    ap_merge_list merges;
    enum { TREE, VOCAB, MERGES, PAIR } section;
    bool in_model, want_vocab, want_merges, has_vocab, has_merges;
    int32_t *slot;  /* id of the vocabulary's key just read */
    ap_buf left;    /* first half of a pair */
    int n_pair;     /* strings of a pair read */
    int merge_kind; /* 0 unknown, 1 strings, 2 pairs */
    ap_arena arena; /* the tree */
    ap_json *root, *open[MAX_DEPTH], *last[MAX_DEPTH];
    int depth;
    const char *key;
    size_t key_len;
} file;

static apus_err no_memory(const file *f)
{
    return ap_fail(f->diag, APUS_ENOMEM, "%s: out of memory while reading it", f->name);
}

/* ---------------------------------------------------------------- large sections */

static apus_err vocab_event(file *f, const ap_json_event *e)
{
    int64_t id;
    switch (e->type) {
    case AP_JSON_EV_KEY:
        f->slot = ap_vocab_put(&f->t->bpe.vocab, e->str, e->len);
        return f->slot ? APUS_OK : no_memory(f);
    case AP_JSON_EV_NUMBER:
        if (!ap_json_int(e->str, e->len, &id) || id < 0 || id > AP_VOCAB_MAX_ID)
            return ap_fail(f->diag, APUS_EFORMAT, "%s: model.vocab: id %.*s, expected 0 to %d",
                           f->name, e->len > 40 ? 40 : (int)e->len, e->str, AP_VOCAB_MAX_ID);
        /* A text that stands twice has the last id; the others decode to it. */
        if (*f->slot >= 0 && *f->slot != id && !ap_vocab_alias(&f->t->bpe.vocab, f->slot, *f->slot))
            return no_memory(f);
        *f->slot = (int32_t)id;
        return APUS_OK;
    case AP_JSON_EV_END_OBJECT:
        f->section = TREE;
        return APUS_OK;
    default:
        return ap_fail(f->diag, APUS_EFORMAT, "%s: model.vocab is not a map of texts to ids",
                       f->name);
    }
}

static apus_err add_merge(file *f, const char *a, size_t an, const char *b, size_t bn)
{
    return ap_merge_list_add(&f->merges, a, an, b, bn) ? APUS_OK : no_memory(f);
}

static apus_err bad_merge(const file *f)
{
    return ap_fail(f->diag, APUS_EFORMAT, "%s: model.merges[%zu] is not a pair of tokens", f->name,
                   f->merges.n);
}

static apus_err merge_event(file *f, const ap_json_event *e)
{
    if (e->type == AP_JSON_EV_END_ARRAY) {
        f->section = TREE;
        return APUS_OK;
    }
    if (e->type == AP_JSON_EV_BEGIN_ARRAY && f->merge_kind != 1) {
        f->merge_kind = 2;
        f->section = PAIR;
        f->n_pair = 0;
        return APUS_OK;
    }
    if (e->type != AP_JSON_EV_STRING || f->merge_kind == 2) return bad_merge(f);
    f->merge_kind = 1;
    if (e->len >= 8 && memcmp(e->str, "#version", 8) == 0) return APUS_OK;
    const char *space = memchr(e->str, ' ', e->len);
    if (!space) return bad_merge(f);
    size_t a = (size_t)(space - e->str), b = e->len - a - 1;
    if (memchr(space + 1, ' ', b)) return bad_merge(f);
    return add_merge(f, e->str, a, space + 1, b);
}

static apus_err pair_event(file *f, const ap_json_event *e)
{
    if (e->type == AP_JSON_EV_END_ARRAY && f->n_pair == 2) {
        f->section = MERGES;
        return APUS_OK;
    }
    if (e->type != AP_JSON_EV_STRING || f->n_pair == 2) return bad_merge(f);
    if (f->n_pair++ == 1)
        return add_merge(f, f->left.data ? f->left.data : "", f->left.len, e->str, e->len);
    f->left.len = 0;
    ap_buf_add(&f->left, e->str, e->len);
    return f->left.failed ? no_memory(f) : APUS_OK;
}

/* ---------------------------------------------------------------- tree */

static apus_err node(file *f, const ap_json_event *e)
{
    ap_json *j = ap_arena_alloc(&f->arena, sizeof *j);
    if (!j) return no_memory(f);
    memset(j, 0, sizeof *j);
    bool opens = e->type == AP_JSON_EV_BEGIN_OBJECT || e->type == AP_JSON_EV_BEGIN_ARRAY;
    if (e->type == AP_JSON_EV_STRING || e->type == AP_JSON_EV_NUMBER) {
        j->str = ap_arena_strndup(&f->arena, e->str, e->len);
        j->len = e->len;
        if (!j->str) return no_memory(f);
    }
    switch (e->type) {
    case AP_JSON_EV_BEGIN_OBJECT:
        j->type = AP_JSON_OBJECT;
        break;
    case AP_JSON_EV_BEGIN_ARRAY:
        j->type = AP_JSON_ARRAY;
        break;
    case AP_JSON_EV_STRING:
        j->type = AP_JSON_STRING;
        break;
    case AP_JSON_EV_BOOL:
        j->type = AP_JSON_BOOL;
        j->boolean = e->boolean;
        break;
    case AP_JSON_EV_NUMBER:
        j->type = ap_json_int(e->str, e->len, &j->integer) ? AP_JSON_INT : AP_JSON_DOUBLE;
        break;
    default:
        j->type = AP_JSON_NULL;
    }
    if (f->depth == 0) {
        f->root = j;
    } else {
        ap_json *parent = f->open[f->depth - 1];
        if (parent->type == AP_JSON_OBJECT) {
            j->key = f->key;
            j->key_len = f->key_len;
        }
        if (f->last[f->depth - 1])
            f->last[f->depth - 1]->next = j;
        else
            parent->first = j;
        f->last[f->depth - 1] = j;
        parent->len++;
    }
    if (opens) {
        if (f->depth == MAX_DEPTH)
            return ap_fail(f->diag, APUS_EFORMAT, "%s: nested deeper than %d levels", f->name,
                           MAX_DEPTH);
        f->open[f->depth] = j;
        f->last[f->depth++] = NULL;
    }
    return APUS_OK;
}

/* The type named so far in "model", for saying what is not supported. */
static const char *model_type(const file *f)
{
    return f->depth == 2 ? ap_component_type(f->open[1]) : "";
}

static apus_err enter_section(file *f, const ap_json_event *e)
{
    bool vocab = f->want_vocab;
    bool *seen = vocab ? &f->has_vocab : &f->has_merges;
    f->want_vocab = f->want_merges = false;
    if (e->type != (vocab ? AP_JSON_EV_BEGIN_OBJECT : AP_JSON_EV_BEGIN_ARRAY)) {
        const char *type = model_type(f);
        if (type[0] && strcmp(type, "BPE") != 0)
            return ap_fail(f->diag, APUS_EUNSUPPORTED,
                           "%s: model \"%.40s\" is not supported, only BPE", f->name, type);
        return ap_fail(f->diag, APUS_EFORMAT, "%s: model.%s is not %s", f->name,
                       vocab ? "vocab" : "merges", vocab ? "an object" : "an array");
    }
    if (*seen)
        return ap_fail(f->diag, APUS_EFORMAT, "%s: model.%s is given twice", f->name,
                       vocab ? "vocab" : "merges");
    *seen = true;
    f->section = vocab ? VOCAB : MERGES;
    return APUS_OK;
}

static bool is(const ap_json_event *e, const char *key)
{
    return e->len == strlen(key) && memcmp(e->str, key, e->len) == 0;
}

static apus_err tree_event(file *f, const ap_json_event *e)
{
    if (e->type == AP_JSON_EV_KEY) {
        f->want_vocab = f->in_model && e->depth == 2 && is(e, "vocab");
        f->want_merges = f->in_model && e->depth == 2 && is(e, "merges");
        f->key = ap_arena_strndup(&f->arena, e->str, e->len);
        f->key_len = e->len;
        return f->key ? APUS_OK : no_memory(f);
    }
    if (f->want_vocab || f->want_merges) return enter_section(f, e);
    if (e->type == AP_JSON_EV_END_OBJECT || e->type == AP_JSON_EV_END_ARRAY) {
        f->depth--;
        if (f->depth == 1) f->in_model = false;
        return APUS_OK;
    }
    if (e->type == AP_JSON_EV_BEGIN_OBJECT && f->depth == 1 && f->open[0]->type == AP_JSON_OBJECT)
        f->in_model = f->key_len == 5 && memcmp(f->key, "model", 5) == 0;
    return node(f, e);
}

static apus_err on_event(void *ctx, const ap_json_event *e)
{
    file *f = ctx;
    switch (f->section) {
    case VOCAB:
        return vocab_event(f, e);
    case MERGES:
        return merge_event(f, e);
    case PAIR:
        return pair_event(f, e);
    default:
        return tree_event(f, e);
    }
}

/* ---------------------------------------------------------------- small sections */

static apus_err no_affix(const file *f, const ap_json *model, const char *key)
{
    const ap_json *v = ap_json_get(model, key);
    if (!v || v->type == AP_JSON_NULL || (v->type == AP_JSON_STRING && v->len == 0)) return APUS_OK;
    return ap_fail(f->diag, APUS_EUNSUPPORTED, "%s: model.%s is not supported", f->name, key);
}

static apus_err read_model(file *f)
{
    const ap_json *m = ap_json_get(f->root, "model");
    ap_bpe *b = &f->t->bpe;
    if (!m || m->type != AP_JSON_OBJECT)
        return ap_fail(f->diag, APUS_EFORMAT, "%s: no object \"model\"", f->name);
    const ap_json *type = ap_json_get(m, "type");
    if (type && (type->type != AP_JSON_STRING || strcmp(type->str, "BPE") != 0))
        return ap_fail(f->diag, APUS_EUNSUPPORTED, "%s: model \"%.40s\" is not supported, only BPE",
                       f->name, ap_component_type(m));
    if (!f->has_vocab || !f->has_merges)
        return ap_fail(f->diag, APUS_EFORMAT, "%s: model.%s is missing", f->name,
                       f->has_vocab ? "merges" : "vocab");
    const ap_json *dropout = ap_json_get(m, "dropout");
    if (dropout && dropout->type != AP_JSON_NULL &&
        !((dropout->type == AP_JSON_INT || dropout->type == AP_JSON_DOUBLE) &&
          strspn(dropout->str, "0.") == dropout->len))
        return ap_fail(f->diag, APUS_EUNSUPPORTED, "%s: model.dropout is not supported", f->name);
    apus_err err = no_affix(f, m, "continuing_subword_prefix");
    if (!err) err = no_affix(f, m, "end_of_word_suffix");
    const char *where = "tokenizer model BPE";
    if (!err) err = ap_component_bool(m, "byte_fallback", false, where, &b->byte_fallback, f->diag);
    if (!err) err = ap_component_bool(m, "fuse_unk", false, where, &b->fuse_unk, f->diag);
    if (!err) err = ap_component_bool(m, "ignore_merges", false, where, &b->ignore_merges, f->diag);
    if (err) return err;
    const ap_json *unk = ap_json_get(m, "unk_token");
    b->unk = -1;
    if (unk && unk->type == AP_JSON_STRING) {
        b->has_unk = true;
        b->unk = ap_vocab_find(&b->vocab, unk->str, unk->len);
    } else if (unk && unk->type != AP_JSON_NULL) {
        return ap_fail(f->diag, APUS_EFORMAT, "%s: model.unk_token is not a string", f->name);
    }
    return ap_bpe_finish(b, &f->merges, f->name, f->diag);
}

static apus_err read_token(const ap_json *j, const char *where, ap_added_token *t, apus_diag *diag)
{
    const ap_json *content = ap_json_get(j, "content");
    memset(t, 0, sizeof *t);
    if (!content || content->type != AP_JSON_STRING)
        return ap_fail(diag, APUS_EFORMAT, "%s: one without a string \"content\"", where);
    t->text = content->str;
    t->len = content->len;
    apus_err err = ap_component_bool(j, "special", false, where, &t->special, diag);
    if (!err) err = ap_component_bool(j, "single_word", false, where, &t->single_word, diag);
    if (!err) err = ap_component_bool(j, "lstrip", false, where, &t->lstrip, diag);
    if (!err) err = ap_component_bool(j, "rstrip", false, where, &t->rstrip, diag);
    if (!err) err = ap_component_bool(j, "normalized", !t->special, where, &t->normalized, diag);
    return err;
}

/* The library gives ids by the model's vocabulary and then in order; the "id" of the file is only
 * compared with them there, and ignored here. */
static apus_err put_token(ap_tokenizer *t, ap_norm_work *w, ap_added_token *tok, apus_diag *diag)
{
    if (!tok->len) return APUS_OK;
    tok->norm = tok->text;
    tok->norm_len = tok->len;
    if (tok->normalized) {
        apus_err err =
            ap_normalize(&t->normalizer, w, tok->text, tok->len, &tok->norm, &tok->norm_len, diag);
        if (err) return err;
    }
    return ap_added_put(&t->added, tok, ap_vocab_find(&t->bpe.vocab, tok->text, tok->len), diag);
}

static apus_err read_added(file *f)
{
    const ap_json *list = ap_json_get(f->root, "added_tokens");
    ap_norm_work w = {0};
    char where[256];
    apus_err err = APUS_OK;
    ap_component_where(where, sizeof where, f->name, "added_tokens", "");
    if (list && list->type != AP_JSON_ARRAY)
        err = ap_fail(f->diag, APUS_EFORMAT, "%s is not an array", where);
    for (const ap_json *j = list ? list->first : NULL; j && !err; j = j->next) {
        ap_added_token tok;
        err = read_token(j, where, &tok, f->diag);
        if (!err) err = put_token(f->t, &w, &tok, f->diag);
    }
    ap_norm_work_free(&w);
    return err;
}

/* Ids of one special token of a template. */
static apus_err template_ids(const ap_json *special, const ap_json *piece, const char *where,
                             ap_ids *out, apus_diag *diag)
{
    const ap_json *id = ap_json_get(piece, "id");
    const ap_json *entry = id && id->type == AP_JSON_STRING ? ap_json_get(special, id->str) : NULL;
    const ap_json *ids = ap_json_get(entry, "ids");
    if (!ids || ids->type != AP_JSON_ARRAY)
        return ap_fail(diag, APUS_EFORMAT, "%s: a special token without ids", where);
    for (const ap_json *v = ids->first; v; v = v->next) {
        if (v->type != AP_JSON_INT || v->integer < 0 || v->integer > AP_VOCAB_MAX_ID)
            return ap_fail(diag, APUS_EFORMAT, "%s: a bad id", where);
        if (out->n > 1024) return ap_fail(diag, APUS_EFORMAT, "%s: too many ids", where);
        if (!ap_ids_add(out, (int32_t)v->integer))
            return ap_fail(diag, APUS_ENOMEM, "out of memory while reading a tokenizer");
    }
    return APUS_OK;
}

/* What stands before and after the text in the template of one sequence. */
static apus_err read_template(file *f, const ap_json *j, const char *where)
{
    const ap_json *single = ap_json_get(j, "single"), *special = ap_json_get(j, "special_tokens");
    ap_ids before = {0}, after = {0};
    bool seen = false;
    apus_err err = APUS_OK;
    if (!single || single->type != AP_JSON_ARRAY)
        return ap_fail(f->diag, APUS_EFORMAT, "%s: \"single\" is not an array", where);
    for (const ap_json *p = single->first; p && !err; p = p->next) {
        const ap_json *tok = ap_json_get(p, "SpecialToken"), *seq = ap_json_get(p, "Sequence");
        const ap_json *id = ap_json_get(seq, "id");
        if (tok) {
            err = template_ids(special, tok, where, seen ? &after : &before, f->diag);
        } else if (id && id->type == AP_JSON_STRING && strcmp(id->str, "A") == 0 && !seen) {
            seen = true;
        } else {
            err = ap_fail(f->diag, APUS_EUNSUPPORTED, "%s: \"single\" with other than one text A",
                          where);
        }
    }
    if (!err && !seen)
        err = ap_fail(f->diag, APUS_EUNSUPPORTED, "%s: \"single\" without the text A", where);
    /* A later template goes around an earlier one. */
    ap_tokenizer *t = f->t;
    for (size_t i = 0; i < t->before.n && !err; i++)
        if (!ap_ids_add(&before, t->before.v[i])) err = no_memory(f);
    for (size_t i = 0; i < after.n && !err; i++)
        if (!ap_ids_add(&t->after, after.v[i])) err = no_memory(f);
    ap_free(after.v);
    ap_free(t->before.v);
    t->before = before;
    return err;
}

static apus_err read_post(file *f, const ap_json *j, int depth)
{
    if (!j || j->type == AP_JSON_NULL) return APUS_OK;
    const char *type = ap_component_type(j);
    char where[256];
    ap_component_where(where, sizeof where, f->name, "post_processor", type);
    if (strcmp(type, "ByteLevel") == 0) return APUS_OK; /* about offsets only */
    if (strcmp(type, "TemplateProcessing") == 0) return read_template(f, j, where);
    if (strcmp(type, "Sequence") == 0 && depth < 8) {
        const ap_json *list = ap_json_get(j, "processors");
        apus_err err = APUS_OK;
        if (!list || list->type != AP_JSON_ARRAY)
            return ap_fail(f->diag, APUS_EFORMAT, "%s without its list", where);
        for (const ap_json *e = list->first; e && !err; e = e->next)
            err = read_post(f, e, depth + 1);
        return err;
    }
    return ap_fail(f->diag, APUS_EUNSUPPORTED, "%s is not supported", where);
}

static apus_err read_sections(file *f)
{
    ap_tokenizer *t = f->t;
    if (f->root->type != AP_JSON_OBJECT)
        return ap_fail(f->diag, APUS_EFORMAT, "%s: not a JSON object", f->name);
    const ap_json *version = ap_json_get(f->root, "version");
    if (version && (version->type != AP_JSON_STRING || strcmp(version->str, "1.0") != 0))
        return ap_fail(f->diag, APUS_EUNSUPPORTED, "%s: version other than \"1.0\"", f->name);
    apus_err err = read_model(f);
    if (err) return err;
    ap_added_init(&t->added, (int32_t)t->bpe.vocab.n);
    err = ap_normalizer_parse(ap_json_get(f->root, "normalizer"), f->name, &t->normalizer, f->diag);
    if (!err)
        err = ap_pretok_parse(ap_json_get(f->root, "pre_tokenizer"), f->name, &t->pretok, f->diag);
    if (!err)
        err = ap_decoder_parse(ap_json_get(f->root, "decoder"), f->name, &t->decoder, f->diag);
    if (!err) err = read_post(f, ap_json_get(f->root, "post_processor"), 0);
    return err ? err : read_added(f);
}

static apus_err parse(const char *json, size_t len, const char *name, ap_tokenizer **out,
                      apus_diag *diag)
{
    file f = {.name = name, .diag = diag};
    ap_arena_init(&f.arena, MAX_TREE_BYTES);
    f.t = ap_calloc(1, sizeof *f.t);
    if (!f.t) return no_memory(&f);
    f.t->eos = -1;
    apus_err err = ap_json_walk(json, len, name, on_event, &f, diag);
    if (!err) err = read_sections(&f);
    ap_merge_list_free(&f.merges);
    ap_buf_free(&f.left);
    ap_arena_free(&f.arena);
    if (err) {
        ap_tokenizer_free(f.t);
        return err;
    }
    *out = f.t;
    return APUS_OK;
}

apus_err ap_tokenizer_parse(const char *json, size_t len, const char *name, ap_tokenizer **out,
                            apus_diag *diag)
{
    ap_tokenizer *t = NULL;
    apus_err err = parse(json, len, name, &t, diag);
    if (!err) err = ap_tokenizer_finish(t, name, diag);
    if (err)
        ap_tokenizer_free(t);
    else
        *out = t;
    return err;
}

/* ---------------------------------------------------------------- tokenizer_config.json */

typedef struct declared {
    int64_t id;
    const ap_json *json;
} declared;

static int by_id(const void *a, const void *b)
{
    int64_t x = ((const declared *)a)->id, y = ((const declared *)b)->id;
    return x < y ? -1 : x > y;
}

apus_err ap_tokenizer_add_config(ap_tokenizer *t, const char *json, size_t len, const char *name,
                                 apus_diag *diag)
{
    ap_arena arena;
    ap_arena_init(&arena, MAX_TREE_BYTES);
    ap_norm_work w = {0};
    ap_json *root;
    declared *list = NULL;
    size_t n = 0;
    apus_err err = ap_json_parse(&arena, json, len, name, 0, &root, diag);
    const ap_json *eos = err ? NULL : ap_json_get(root, "eos_token");
    const ap_json *map = err ? NULL : ap_json_get(root, "added_tokens_decoder");
    if (!map || map->type != AP_JSON_OBJECT) goto done;
    list = ap_calloc(map->len, sizeof *list);
    if (!list) {
        err = ap_fail_nomem(diag, map->len * sizeof *list, "added tokens");
        goto done;
    }
    for (const ap_json *j = map->first; j; j = j->next)
        if (ap_json_int(j->key, j->key_len, &list[n].id)) list[n++].json = j;
    qsort(list, n, sizeof *list, by_id);
    int32_t next = (int32_t)t->bpe.vocab.n;
    t->added.next_id = t->added.top_id >= next ? t->added.top_id + 1 : next;
    for (size_t i = 0; i < n && !err; i++) {
        ap_added_token tok;
        err = read_token(list[i].json, name, &tok, diag);
        /* A token whose declared id is not the next free one would name another row of the model. */
        if (!err && ap_tokenizer_id(t, tok.text, tok.len) < 0 && list[i].id == t->added.next_id)
            err = put_token(t, &w, &tok, diag);
    }
done:
    if (eos && eos->type == AP_JSON_OBJECT) eos = ap_json_get(eos, "content");
    if (!err && eos && eos->type == AP_JSON_STRING) t->eos = ap_tokenizer_id(t, eos->str, eos->len);
    ap_free(list);
    ap_norm_work_free(&w);
    ap_arena_free(&arena);
    return err;
}

/* dir/leaf, if it is there. */
static apus_err load_config(ap_tokenizer *t, const char *dir, const char *leaf, apus_diag *diag)
{
    char *text = NULL, *path = ap_path_join(dir, leaf);
    size_t len = 0;
    apus_err err = APUS_OK;
    if (!path) return ap_fail(diag, APUS_ENOMEM, "out of memory while reading a tokenizer");
    if (ap_path_exists(path)) {
        err = ap_file_read(path, MAX_FILE_BYTES, &text, &len, diag);
        if (!err) err = ap_tokenizer_add_config(t, text, len, path, diag);
    }
    ap_free(text);
    ap_free(path);
    return err;
}

apus_err ap_tokenizer_load(const char *dir, ap_tokenizer **out, apus_diag *diag)
{
    char *text = NULL, *path = ap_path_join(dir, "tokenizer.json");
    ap_tokenizer *t = NULL;
    size_t len = 0;
    apus_err err = APUS_OK;
    if (!path) {
        err = ap_fail(diag, APUS_ENOMEM, "out of memory while reading a tokenizer");
        goto done;
    }
    err = ap_file_read(path, MAX_FILE_BYTES, &text, &len, diag);
    if (!err) err = parse(text, len, path, &t, diag);
    if (!err) err = load_config(t, dir, "tokenizer_config.json", diag);
    /* Where older folders keep the names of special tokens. */
    if (!err && t->eos < 0) err = load_config(t, dir, "special_tokens_map.json", diag);
    if (!err) err = ap_tokenizer_finish(t, path, diag);
    if (err) goto done;
    *out = t;
    t = NULL;
done:
    ap_tokenizer_free(t);
    ap_free(text);
    ap_free(path);
    return err;
}
