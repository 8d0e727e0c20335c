#include "text/grammar/token_trie.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "text/grammar/grammar.h"
#include "text/tokenizer_impl.h"
#include "text/vec.h"

static int compare(const void *a, const void *b)
{
    const ap_token_text *x = a, *y = b;
    size_t n = x->len < y->len ? x->len : y->len;
    int c = memcmp(x->s, y->s, n);
    if (c) return c;
    if (x->len != y->len) return x->len < y->len ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

static size_t shared(const ap_token_text *a, const ap_token_text *b)
{
    size_t n = 0;
    while (n < a->len && n < b->len && a->s[n] == b->s[n]) n++;
    return n;
}

/* ---------------------------------------------------------------- texts to a tree */

/* Nodes are put in the order of the texts; the path to the newest one is kept. */
static void fill(const ap_token_text *text, size_t n, ap_token_trie *out)
{
    int32_t path[AP_TOKEN_MAX_BYTES + 1] = {0};
    size_t depth = 0;
    out->node[out->n_node++] = (ap_token_node){0};
    for (size_t i = 0; i < n; i++) {
        const ap_token_text *x = &text[i];
        size_t same = i ? shared(x - 1, x) : 0;
        for (; depth > same; depth--) out->node[path[depth]].skip = (int32_t)out->n_node;
        while (depth < x->len) {
            uint8_t byte = (uint8_t)x->s[depth];
            path[++depth] = (int32_t)out->n_node;
            out->node[out->n_node++] =
                (ap_token_node){.byte = byte, .depth = (uint8_t)depth, .token = (int32_t)out->n_id};
        }
        out->node[path[depth]].n_token++;
        out->id[out->n_id++] = x->id;
        if ((int)x->len > out->longest) out->longest = (int)x->len;
    }
    for (; depth > 0; depth--) out->node[path[depth]].skip = (int32_t)out->n_node;
    out->node[0].skip = (int32_t)out->n_node;
}

apus_err ap_token_trie_build(ap_token_text *text, size_t n, int vocab, ap_token_trie *out,
                             apus_diag *diag)
{
    size_t nodes = 1;
    if (n) qsort(text, n, sizeof *text, compare);
    for (size_t i = 0; i < n; i++) nodes += text[i].len - (i ? shared(&text[i - 1], &text[i]) : 0);
    *out = (ap_token_trie){.node = ap_malloc(nodes, sizeof *out->node),
                           .id = ap_malloc(n, sizeof *out->id),
                           .vocab = vocab};
    if (!out->node || !out->id || nodes > INT32_MAX) {
        ap_token_trie_free(out);
        return ap_fail_nomem(diag, nodes * sizeof *out->node, "a tree of tokens");
    }
    fill(text, n, out);
    return APUS_OK;
}

/* The tree of texts one behind the other: those of tokens 0 to n - 1. */
static apus_err build_all(ap_buf *all, uint32_t *off, int n, int vocab, ap_token_trie *out,
                          apus_diag *diag)
{
    ap_token_text *text = ap_malloc((size_t)n, sizeof *text);
    size_t k = 0;
    for (int i = 0; i < n && text; i++) {
        uint32_t len = off[i + 1] - off[i];
        if (len && len <= AP_TOKEN_MAX_BYTES)
            text[k++] = (ap_token_text){all->data + off[i], len, i};
    }
    apus_err err = text ? ap_token_trie_build(text, k, vocab, out, diag)
                        : ap_fail_nomem(diag, (size_t)n * sizeof *text, "a tree of tokens");
    ap_free(text);
    if (err) return err;
    for (int i = n; i < vocab; i++) off[i + 1] = off[n];
    out->off = off;
    out->text = all->data;
    *all = (ap_buf){0};
    return APUS_OK;
}

/* ---------------------------------------------------------------- a tokenizer's texts */

static void put_marker(ap_buf *b, int32_t id)
{
    char s[4] = {(char)AP_MARKER_BYTE, (char)(id >> 16), (char)(id >> 8), (char)id};
    ap_buf_add(b, s, sizeof s);
}

apus_err ap_token_trie_make(const ap_tokenizer *t, int vocab,
                            bool (*is_stop)(const void *, int32_t), const void *ctx,
                            ap_token_trie *out, apus_diag *diag)
{
    int n = ap_tokenizer_vocab(t) < vocab ? ap_tokenizer_vocab(t) : vocab;
    uint32_t *off = ap_calloc((size_t)vocab + 1, sizeof *off);
    ap_buf all = {0};
    bool known = true;
    for (int32_t id = 0; id < n && off && known && all.len < UINT32_MAX / 2; id++) {
        size_t len;
        const char *text = ap_tokenizer_text(t, id, &len);
        const ap_added_token *added = ap_added_token_of(&t->added, id);
        if (text && (is_stop(ctx, id) || ap_tokenizer_is_special(t, id) ||
                     (added && ap_added_marked(&t->added, added))))
            put_marker(&all, id);
        else if (text)
            known = ap_decoder_bytes(&t->decoder, text, len, &all);
        off[id + 1] = (uint32_t)all.len;
    }
    apus_err err = APUS_OK;
    if (!off || all.failed || all.len >= UINT32_MAX / 2)
        err = ap_fail_nomem(diag, all.len, "the texts of tokens");
    else if (!known)
        err = ap_fail(diag, APUS_EUNSUPPORTED,
                      "grammars: the decoder of this tokenizer gives tokens no text of their own");
    if (!err) err = build_all(&all, off, n, vocab, out, diag);
    ap_buf_free(&all);
    if (err) ap_free(off);
    return err;
}

apus_err ap_token_trie_of(const char *const *text, const size_t *len, int n, ap_token_trie *out,
                          apus_diag *diag)
{
    uint32_t *off = ap_calloc((size_t)n + 1, sizeof *off);
    ap_buf all = {0};
    for (int i = 0; i < n && off; i++) {
        ap_buf_add(&all, text[i], len[i]);
        off[i + 1] = (uint32_t)all.len;
    }
    apus_err err = !off || all.failed ? ap_fail_nomem(diag, all.len, "the texts of tokens")
                                      : build_all(&all, off, n, n, out, diag);
    ap_buf_free(&all);
    if (err) ap_free(off);
    return err;
}

void ap_token_trie_free(ap_token_trie *t)
{
    ap_free(t->node);
    ap_free(t->id);
    ap_free(t->text);
    ap_free(t->off);
    *t = (ap_token_trie){0};
}
