#include "engine/constraint.h"

#include <string.h>

#include "base/mem.h"
#include "engine/engine.h"
#include "text/grammar/calls.h"
#include "text/grammar/gbnf.h"
#include "text/grammar/json_schema.h"

void apus_constraint_default(apus_constraint *s)
{
    if (s) *s = (apus_constraint){.size = sizeof *s};
}

/* ---------------------------------------------------------------- what is asked for */

/* The token of an exact text, or -1. */
static int32_t token_of(const apus_model *m, const char *text)
{
    return ap_tokenizer_id(m->tokenizer, text, strlen(text));
}

/* How the model's template writes calls. EUNSUPPORTED: not at all, or in no way that is known. */
static apus_err find_syntax(const apus_model *m, ap_calls *out, apus_diag *diag)
{
    static const char messages[] =
        "[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"assistant\",\"content\":\"\","
        "\"tool_calls\":[{\"type\":\"function\",\"function\":{\"name\":\"name_of_a_tool\","
        "\"arguments\":{\"a\":\"x\"}}}]}]";
    static const struct {
        const char *sign, *open, *close, *quote;
        ap_call_syntax syntax;
    } ways[] = {{"<function=name_of_a_tool", "<tool_call>", "</tool_call>", NULL, AP_CALLS_TAGS},
                {"{\"name\": \"name_of_a_tool", "<tool_call>", "</tool_call>", NULL, AP_CALLS_JSON},
                {"call:name_of_a_tool{", "<|tool_call>", "<tool_call|>", "<|\"|>", AP_CALLS_GEMMA}};
    apus_chat_settings chat;
    char *text = NULL;
    size_t len;
    apus_chat_settings_default(&chat);
    chat.no_generation_prompt = true;
    apus_err err = apus_chat_render(m, messages, NULL, &chat, &text, &len, diag);
    if (err) return err;
    out->open = out->close = out->quote = -1;
    for (size_t i = 0; i < sizeof ways / sizeof *ways && out->open < 0; i++) {
        if (!strstr(text, ways[i].sign)) continue;
        out->syntax = ways[i].syntax;
        out->open = token_of(m, ways[i].open);
        out->close = token_of(m, ways[i].close);
        if (ways[i].quote) out->quote = token_of(m, ways[i].quote);
    }
    apus_free(text);
    if (out->open >= 0 && out->close >= 0) return APUS_OK;
    return ap_fail(diag, APUS_EUNSUPPORTED,
                   "the model's template does not tell how a call is written");
}

/* What a grammar is made with, beside its key. */
typedef struct making {
    const apus_model *m;
    const apus_constraint *set;
} making;

static apus_err make_calls(const making *x, ap_grammar *g, apus_diag *diag)
{
    const apus_constraint *set = x->set;
    ap_calls how = {.must = set->must_call,
                    .single = set->single_call,
                    .name = set->call_name,
                    .schema = set->json_schema,
                    .object = set->json_object};
    apus_err err = find_syntax(x->m, &how, diag);
    return err ? err : ap_calls_grammar(set->tools_json, strlen(set->tools_json), &how, g, diag);
}

/* The key of a grammar: a letter that tells how it is written, and its text. */
static apus_err make(const char *key, size_t len, const void *ctx, ap_grammar *g, apus_diag *diag)
{
    if (key[0] == 'o') return ap_json_object_grammar(g, diag);
    if (key[0] == 'g') return ap_gbnf_parse(key + 1, len - 1, g, diag);
    if (key[0] == 't') return make_calls(ctx, g, diag);
    return ap_json_schema_parse(key + 1, len - 1, g, diag);
}

/* What is not a call: a document or a text. */
static void put_document(const apus_constraint *set, ap_buf *key)
{
    if (set->json_object) ap_buf_adds(key, "o");
    if (set->grammar) ap_buf_adds(key, "g");
    if (set->grammar) ap_buf_adds(key, set->grammar);
    if (set->json_schema) ap_buf_adds(key, "s");
    if (set->json_schema) ap_buf_adds(key, set->json_schema);
}

static void put_key(const apus_constraint *set, ap_buf *key)
{
    if (!set->tools_json) {
        put_document(set, key);
        return;
    }
    ap_buf_addf(key, "t%d%d", set->must_call, set->single_call);
    ap_buf_adds(key, set->call_name ? set->call_name : "");
    ap_buf_add(key, "", 1);
    put_document(set, key);
    ap_buf_add(key, "", 1);
    ap_buf_adds(key, set->tools_json);
}

static apus_err read_settings(const apus_constraint *given, apus_constraint *set, apus_diag *diag)
{
    apus_constraint_default(set);
    apus_err err = ap_settings_take(set, sizeof *set, given, "apus_constraint", diag);
    if (err) return err;
    int n = (set->json_schema != NULL) + (set->grammar != NULL) + set->json_object;
    if (n + (set->tools_json != NULL) == 1) return APUS_OK;
    if (n == 1 && !set->grammar && !set->must_call) return APUS_OK;
    return ap_fail(
        diag, APUS_EINVAL,
        "apus_constraint: expected one of json_schema, grammar, json_object and tools_json, "
        "or one of json_schema and json_object beside tools_json without must_call");
}

static apus_err take(const apus_model *m, const apus_constraint *set, ap_compiled **out,
                     apus_diag *diag)
{
    if (!m->tokenizer)
        return ap_fail(diag, APUS_EUNSUPPORTED,
                       "apus_constraint: the model has no tokenizer, so its tokens have no text");
    making x = {m, set};
    ap_buf key = {0};
    put_key(set, &key);
    apus_err err = key.failed ? ap_fail_nomem(diag, key.len, "a grammar")
                              : ap_grammars_take(m, key.data, key.len, make, &x, out, diag);
    ap_buf_free(&key);
    return err;
}

apus_err apus_constraint_check(const apus_model *m, const apus_constraint *given, apus_diag *diag)
{
    apus_constraint set;
    ap_compiled *c = NULL;
    if (!m || !given)
        return ap_fail(diag, APUS_EINVAL, "apus_constraint_check: a model and settings are needed");
    apus_err err = read_settings(given, &set, diag);
    if (!err) err = take(m, &set, &c, diag);
    if (!err) ap_grammars_drop(m, c);
    return err;
}

/* ---------------------------------------------------------------- thoughts */

static void on_part(void *ctx, const apus_event *ev)
{
    *(bool *)ctx |= ev->part == APUS_PART_THINK;
}

/* Does a prompt end with a thought that is over, such as the empty one of templates that are told not to think? */
static bool ends_thought(const char *text, size_t len)
{
    static const char *const ends[] = {"</think>", "<channel|>"};
    while (len && (text[len - 1] == '\n' || text[len - 1] == ' ')) len--;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t n = strlen(ends[i]);
        if (len >= n && !memcmp(text + len - n, ends[i], n)) return true;
    }
    return false;
}

/* Would a word that comes now be part of a thought? May one begin? */
static apus_err look_at_prompt(ap_constraint *c, const int32_t *tok, int n, apus_diag *diag)
{
    const apus_model *m = c->model;
    ap_chat_parser *parser = NULL;
    char *text = NULL;
    size_t len = 0, kept = 0;
    int32_t *ids = ap_malloc((size_t)n, sizeof *ids);
    if (!ids) return ap_fail_nomem(diag, (size_t)n * sizeof *ids, "a prompt");
    for (int i = 0; i < n; i++)
        if (tok[i] >= 0) ids[kept++] = tok[i];
    apus_err err = ap_tokenizer_decode(m->tokenizer, ids, kept, false, &text, &len, diag);
    ap_free(ids);
    if (!err)
        err =
            ap_chat_parser_create(m->syntax, text, len, NULL, on_part, &c->thinking, &parser, diag);
    if (!err && (ap_chat_parser_push(parser, "x", 1) || ap_chat_parser_finish(parser)))
        err = ap_fail_nomem(diag, len, "the end of the prompt");
    c->may_think = !err && !c->thinking && !ends_thought(text, len);
    ap_chat_parser_free(parser);
    ap_free(text);
    return err;
}

/* The token that is written as a text, or -1. */
static int32_t token_written(const ap_token_trie *t, const char *text)
{
    size_t depth = 0;
    for (int32_t i = 1; i < (int32_t)t->n_node;) {
        const ap_token_node *x = &t->node[i];
        if (x->byte != (uint8_t)text[depth]) {
            i = x->skip;
            continue;
        }
        if (!text[++depth]) return x->n_token ? t->id[x->token] : -1;
        i++;
    }
    return -1;
}

static apus_err find_thought(ap_constraint *c, apus_think think, const int32_t *tok, int n,
                             apus_diag *diag)
{
    static const char *const marks[][2] = {{"<think>", "</think>"}, {"<|channel>", "<channel|>"}};
    const apus_model *m = c->model;
    const ap_token_trie *t = ap_grammars_trie(m);
    c->begin = c->end = -1;
    c->line[0] = token_written(t, "\n");
    c->line[1] = token_written(t, "\n\n");
    for (size_t i = 0; i < sizeof marks / sizeof *marks && c->end < 0; i++) {
        c->begin = token_of(m, marks[i][0]);
        c->end = token_of(m, marks[i][1]);
    }
    if (m->syntax == AP_CHAT_PLAIN || c->end < 0) return APUS_OK;
    apus_err err = look_at_prompt(c, tok, n, diag);
    c->may_think = c->may_think && think != APUS_THINK_OFF && c->begin >= 0;
    return err;
}

apus_err ap_constraint_open(ap_constraint *c, const apus_model *m, const apus_constraint *given,
                            const int32_t *tok, int n, apus_diag *diag)
{
    apus_constraint set;
    size_t words = ((size_t)m->config.vocab + 31) / 32;
    *c = (ap_constraint){.model = m};
    apus_err err = read_settings(given, &set, diag);
    if (!err) err = take(m, &set, &c->compiled, diag);
    if (!err) err = ap_matcher_open(&c->matcher, &c->compiled->masks, diag);
    if (!err) err = find_thought(c, set.think, tok, n, diag);
    if (err) return err;
    c->from = c->thinking ? -1 : 0;
    c->allowed = ap_malloc(words, sizeof *c->allowed);
    return c->allowed ? APUS_OK : ap_fail_nomem(diag, words * sizeof *c->allowed, "a mask");
}

void ap_constraint_close(ap_constraint *c)
{
    ap_matcher_close(&c->matcher);
    if (c->compiled) ap_grammars_drop(c->model, c->compiled);
    ap_free(c->allowed);
    *c = (ap_constraint){0};
}

/* ---------------------------------------------------------------- tokens */

/* Is it the token of line ends that models write between a thought and what follows? */
static bool is_gap(const ap_constraint *c, int32_t id)
{
    return c->closed && c->n == c->closed && id >= 0 && (id == c->line[0] || id == c->line[1]);
}

bool ap_constraint_push(ap_constraint *c, int32_t id)
{
    bool ok = true;
    if (c->from < 0) {
        if (id == c->end) c->from = c->closed = c->n + 1;
    } else if (c->n == 0 && c->may_think && id == c->begin) {
        c->from = -1;
    } else if (is_gap(c, id)) {
        c->from++;
    } else {
        ok = ap_matcher_push(&c->matcher, id);
    }
    c->n++;
    return ok;
}

void ap_constraint_back(ap_constraint *c, int n)
{
    int inside = c->from < 0 ? 0 : c->n - c->from; /* tokens of the grammar */
    ap_matcher_back(&c->matcher, (size_t)(n < inside ? n : inside));
    c->n -= n;
    if (n <= inside) return;
    if (c->closed && c->n >= c->closed) {
        c->from = c->n;
        return;
    }
    c->closed = 0;
    c->from = c->n == 0 && !c->thinking ? 0 : -1;
}

static void allow(uint32_t *allowed, int32_t id)
{
    if (id >= 0) allowed[id / 32] |= UINT32_C(1) << id % 32;
}

/* Inside a thought anything may come but the end of the answer. */
static void forbid_end(const ap_constraint *c, uint32_t *allowed)
{
    const ap_config *f = &c->model->config;
    for (int i = 0; i < f->n_stop; i++)
        if (f->stop[i] >= 0 && f->stop[i] < f->vocab)
            allowed[f->stop[i] / 32] &= ~(UINT32_C(1) << f->stop[i] % 32);
}

int ap_constraint_mask(ap_constraint *c, uint32_t *allowed)
{
    const ap_config *f = &c->model->config;
    size_t words = ((size_t)f->vocab + 31) / 32;
    if (c->from < 0) {
        forbid_end(c, allowed);
        return 1;
    }
    if (!ap_matcher_mask(&c->matcher, c->allowed)) return 0;
    bool ends = ap_matcher_ends(&c->matcher);
    for (int i = 0; i < f->n_stop && ends; i++)
        if (f->stop[i] < f->vocab) allow(c->allowed, f->stop[i]);
    if (c->n == 0 && c->may_think) allow(c->allowed, c->begin);
    for (int i = 0; i < 2; i++)
        if (is_gap(c, c->line[i])) allow(c->allowed, c->line[i]);
    uint32_t any = 0;
    for (size_t i = 0; i < words; i++) {
        allowed[i] &= c->allowed[i];
        any |= allowed[i];
    }
    return any ? 1 : -1;
}

apus_err ap_constraint_fail(apus_diag *diag)
{
    return ap_fail(
        diag, APUS_ENOMEM,
        "the constraint: its grammar can read this answer in more ways than memory is set "
        "aside for; make it less ambiguous");
}
