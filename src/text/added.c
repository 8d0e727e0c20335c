#include "text/added.h"

#include <string.h>

#include "base/utf8.h"
#include "text/unicode_fix.h"

/* ---------------------------------------------------------------- tokens */

void ap_added_init(ap_added *a, int32_t next_id)
{
    memset(a, 0, sizeof *a);
    ap_arena_init(&a->arena, 0);
    a->next_id = next_id;
    a->top_id = -1;
    a->raw.empty = a->normal.empty = true;
}

static void trie_free(ap_trie *t)
{
    ap_free(t->edges);
    ap_free(t->token);
}

void ap_added_free(ap_added *a)
{
    ap_arena_free(&a->arena);
    ap_vocab_free(&a->texts);
    ap_free(a->facts);
    ap_free(a->tokens);
    ap_free(a->by_id);
    trie_free(&a->raw);
    trie_free(&a->normal);
    memset(a, 0, sizeof *a);
}

static const struct ap_added_fact *fact_of(const ap_added *a, const char *s, size_t n)
{
    int32_t i = ap_vocab_find(&a->texts, s, n);
    return i < 0 ? NULL : &a->facts[i];
}

int32_t ap_added_id(const ap_added *a, const char *s, size_t n)
{
    const struct ap_added_fact *f = fact_of(a, s, n);
    return f ? f->id : -1;
}

bool ap_added_special(const ap_added *a, const char *s, size_t n)
{
    const struct ap_added_fact *f = fact_of(a, s, n);
    return f && f->special;
}

const ap_added_token *ap_added_token_of(const ap_added *a, int32_t id)
{
    if (id < 0 || (size_t)id >= a->by_id_cap || !a->by_id[id]) return NULL;
    return &a->tokens[a->by_id[id] - 1];
}

static apus_err no_memory(apus_diag *diag)
{
    return ap_fail(diag, APUS_ENOMEM, "out of memory while reading added tokens");
}

/* The record of an id, made if new. */
static ap_added_token *record(ap_added *a, int32_t id)
{
    if ((size_t)id >= a->by_id_cap) {
        size_t old = a->by_id_cap;
        if (!ap_vec_reserve(&a->by_id, &a->by_id_cap, (size_t)id + 1, sizeof *a->by_id))
            return NULL;
        memset(a->by_id + old, 0, (a->by_id_cap - old) * sizeof *a->by_id);
    }
    if (!a->by_id[id]) {
        if (!ap_vec_reserve(&a->tokens, &a->tokens_cap, a->n_tokens + 1, sizeof *a->tokens))
            return NULL;
        memset(&a->tokens[a->n_tokens], 0, sizeof *a->tokens);
        a->by_id[id] = (int32_t)++a->n_tokens;
    }
    return &a->tokens[a->by_id[id] - 1];
}

apus_err ap_added_put(ap_added *a, const ap_added_token *token, int32_t id, apus_diag *diag)
{
    int32_t known = ap_added_id(a, token->text, token->len);
    if (known >= 0) id = known;
    if (id < 0) id = a->next_id++;
    if (id > AP_VOCAB_MAX_ID)
        return ap_fail(diag, APUS_EFORMAT, "an added token would have id %d, above the limit of %d",
                       id, AP_VOCAB_MAX_ID);
    if (id > a->top_id) a->top_id = id;

    int32_t *at = ap_vocab_put(&a->texts, token->text, token->len);
    if (!at) return no_memory(diag);
    if (*at < 0) {
        if (!ap_vec_reserve(&a->facts, &a->facts_cap, a->n_facts + 1, sizeof *a->facts))
            return no_memory(diag);
        *at = (int32_t)a->n_facts;
        a->facts[a->n_facts++] = (struct ap_added_fact){id, false};
    }
    a->facts[*at].special |= token->special;

    ap_added_token *t = record(a, id);
    if (!t) return no_memory(diag);
    *t = *token;
    t->id = id;
    t->text = ap_arena_strndup(&a->arena, token->text, token->len);
    t->norm = t->text;
    t->norm_len = t->len;
    if (t->text &&
        (token->norm_len != token->len || memcmp(token->norm, token->text, token->len))) {
        t->norm = ap_arena_strndup(&a->arena, token->norm, token->norm_len);
        t->norm_len = token->norm_len;
    }
    return t->text && t->norm ? APUS_OK : no_memory(diag);
}

/* ---------------------------------------------------------------- matchers */

static size_t edge_slot(const ap_trie *t, uint32_t key)
{
    uint32_t h = key * 0x9E3779B1u;
    return (h ^ h >> 15) & t->mask;
}

static bool edges_grow(ap_trie *t)
{
    size_t old = t->edges ? t->mask + 1 : 0, cap = old ? old * 2 : 64;
    struct ap_trie_edge *was = t->edges, *now = ap_calloc(cap, sizeof *now);
    if (!now) return false;
    t->edges = now;
    t->mask = cap - 1;
    for (size_t i = 0; i < old; i++) {
        if (!was[i].key) continue;
        size_t at = edge_slot(t, was[i].key);
        while (now[at].key) at = (at + 1) & t->mask;
        now[at] = was[i];
    }
    ap_free(was);
    return true;
}

/* Child of a node, or 0 (the root is nobody's child). */
static uint32_t child_of(const ap_trie *t, uint32_t node, uint8_t byte)
{
    uint32_t key = (node << 8 | byte) + 1;
    size_t at = edge_slot(t, key);
    for (; t->edges[at].key; at = (at + 1) & t->mask)
        if (t->edges[at].key == key) return t->edges[at].child;
    return 0;
}

static bool new_node(ap_trie *t)
{
    /* Keys hold the node in 24 bits. */
    if (t->n_nodes >= (1u << 24) - 1) return false;
    if (!ap_vec_reserve(&t->token, &t->cap, t->n_nodes + 1, sizeof *t->token)) return false;
    t->token[t->n_nodes++] = -1;
    return true;
}

static uint32_t make_child(ap_trie *t, uint32_t node, uint8_t byte)
{
    uint32_t child = child_of(t, node, byte);
    if (child) return child;
    if (t->n_edges * 2 >= t->mask && !edges_grow(t)) return 0;
    child = (uint32_t)t->n_nodes;
    if (!new_node(t)) return 0;
    uint32_t key = (node << 8 | byte) + 1;
    size_t at = edge_slot(t, key);
    while (t->edges[at].key) at = (at + 1) & t->mask;
    t->edges[at] = (struct ap_trie_edge){key, child};
    t->n_edges++;
    return child;
}

static apus_err trie_add(ap_trie *t, const ap_added_token *tok, int32_t index, const char *name,
                         apus_diag *diag)
{
    if (!tok->norm_len)
        return ap_fail(diag, APUS_EFORMAT,
                       "%s: the added token with id %d is empty once normalised", name, tok->id);
    if (!t->edges && (!edges_grow(t) || !new_node(t))) return no_memory(diag);
    uint32_t node = 0;
    for (size_t i = 0; i < tok->norm_len; i++) {
        node = make_child(t, node, (uint8_t)tok->norm[i]);
        if (!node) return no_memory(diag);
    }
    if (t->token[node] >= 0)
        return ap_fail(diag, APUS_EFORMAT,
                       "%s: two added tokens match the same text (id %d is one)", name, tok->id);
    t->token[node] = index;
    t->first[(uint8_t)tok->norm[0]] = true;
    t->empty = false;
    return APUS_OK;
}

apus_err ap_added_finish(ap_added *a, const char *name, apus_diag *diag)
{
    trie_free(&a->raw);
    trie_free(&a->normal);
    a->raw = a->normal = (ap_trie){.empty = true};
    for (size_t i = 0; i < a->n_tokens; i++) {
        const ap_added_token *t = &a->tokens[i];
        apus_err err = trie_add(t->normalized ? &a->normal : &a->raw, t, (int32_t)i, name, diag);
        if (err) return err;
    }
    return APUS_OK;
}

/* Longest token at s; its end, or 0. */
static size_t longest_at(const ap_trie *t, const char *s, size_t n, int32_t *token)
{
    size_t end = 0;
    uint32_t node = 0;
    for (size_t i = 0; i < n; i++) {
        node = child_of(t, node, (uint8_t)s[i]);
        if (!node) break;
        if (t->token[node] >= 0) {
            *token = t->token[node];
            end = i + 1;
        }
    }
    return end;
}

/* ---------------------------------------------------------------- splitting */

static size_t char_before(const char *s, size_t at, uint32_t *cp)
{
    size_t i = at;
    while (i > 0 && at - i < 4) {
        i--;
        if (((uint8_t)s[i] & 0xC0) != 0x80) break;
    }
    ap_utf8_decode(s + i, at - i, cp);
    return i;
}

static bool word(uint32_t cp)
{
    return ap_unicode_in(ap_unicode_word, ap_unicode_n_word, cp);
}

static bool stands_alone(const char *s, size_t n, size_t from, size_t to)
{
    uint32_t cp;
    if (from > 0) {
        char_before(s, from, &cp);
        if (word(cp)) return false;
    }
    if (to < n) {
        ap_utf8_decode(s + to, n - to, &cp);
        if (word(cp)) return false;
    }
    return true;
}

/* Spaces before `from`, not beyond `limit`. */
static size_t strip_left(const char *s, size_t from, size_t limit)
{
    while (from > limit) {
        uint32_t cp;
        size_t i = char_before(s, from, &cp);
        if (!ap_unicode_space(cp)) break;
        from = i;
    }
    /* The reference clamps to the limit also where the token itself began before it. */
    return from > limit ? from : limit;
}

static size_t strip_right(const char *s, size_t n, size_t to)
{
    while (to < n) {
        uint32_t cp;
        size_t len = ap_utf8_decode(s + to, n - to, &cp);
        if (!ap_unicode_space(cp)) break;
        to += len;
    }
    return to;
}

static bool is_marker(const char *s, size_t n)
{
    return n > 2 && ((s[0] == '<' && s[n - 1] == '>') || (s[0] == '[' && s[n - 1] == ']'));
}

bool ap_added_marked(const ap_added *a, const ap_added_token *t)
{
    return ap_added_special(a, t->text, t->len) || is_marker(t->text, t->len);
}

static bool counts(const ap_added *a, const ap_added_token *t, ap_added_which which)
{
    if (which == AP_ADDED_ALL) return true;
    bool special = ap_added_special(a, t->text, t->len);
    if (which == AP_ADDED_ORDINARY) return !special;
    bool marked = special || is_marker(t->text, t->len);
    return marked == (which == AP_ADDED_MARKED);
}

apus_err ap_added_split(const ap_added *a, bool normal, ap_added_which which, const char *s,
                        size_t n, ap_added_fn fn, void *ctx)
{
    const ap_trie *t = normal ? &a->normal : &a->raw;
    size_t done = 0;
    apus_err err;
    for (size_t i = 0; !t->empty && i < n;) {
        int32_t index;
        size_t len = t->first[(uint8_t)s[i]] ? longest_at(t, s + i, n - i, &index) : 0;
        if (!len) {
            i++;
            continue;
        }
        size_t from = i, to = i += len;
        const ap_added_token *tok = &a->tokens[index];
        /* A match that does not count still uses up its text, as in the reference. */
        if (!counts(a, tok, which)) continue;
        if (tok->single_word && !stands_alone(s, n, from, to)) continue;
        if (tok->lstrip) from = strip_left(s, from, done);
        if (tok->rstrip) to = strip_right(s, n, to);
        if (done < from && (err = fn(ctx, -1, done, from)) != APUS_OK) return err;
        if ((err = fn(ctx, tok->id, from, to)) != APUS_OK) return err;
        done = to;
    }
    return done < n ? fn(ctx, -1, done, n) : APUS_OK;
}
