#include "file/gguf_merges.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "file/names.h"

typedef struct merge {
    double score;
    uint32_t token, cut;  /* bytes of the left part */
    uint16_t left, right; /* characters */
} merge;

typedef struct merges {
    merge *item;
    size_t n, cap;
} merges;

static bool add(merges *m, merge x)
{
    if (m->n == m->cap) {
        size_t cap = m->cap ? m->cap * 2 : 4096;
        merge *p = ap_realloc(m->item, cap, sizeof *p);
        if (!p) return false;
        m->item = p;
        m->cap = cap;
    }
    m->item[m->n++] = x;
    return true;
}

static int by_rank(const void *a, const void *b)
{
    const merge *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    if (x->left != y->left) return x->left > y->left ? -1 : 1;
    if (x->right != y->right) return x->right > y->right ? -1 : 1;
    if (x->token != y->token) return x->token < y->token ? -1 : 1;
    return x->cut < y->cut ? -1 : x->cut > y->cut;
}

/* Tokens that stand for single bytes, control tokens and those found before text is split are never made. */
static bool is_made(const ap_vocab_entry *e)
{
    bool byte = e->n == 6 && !memcmp(e->s, "<0x", 3) && e->s[5] == '>';
    return e->kind == AP_TOKEN_PLAIN && !byte && !e->twice && e->n < 1024;
}

static size_t characters(const char *s, size_t n)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++) count += ((uint8_t)s[i] & 0xC0) != 0x80;
    return count;
}

/* Every cut of a token into two tokens. */
static bool cut_token(const ap_gguf_vocab *v, const ap_names *texts, uint32_t id, double score,
                      merges *out)
{
    const ap_vocab_entry *e = &v->token[id];
    size_t all = characters(e->s, e->n), left = 0;
    for (size_t i = 1; i < e->n; i++) {
        if (((uint8_t)e->s[i] & 0xC0) == 0x80) continue;
        left++;
        if (!ap_names_find(texts, e->s, i) || !ap_names_find(texts, e->s + i, e->n - i)) continue;
        if (!add(out, (merge){score, id, (uint32_t)i, (uint16_t)left, (uint16_t)(all - left)}))
            return false;
    }
    return true;
}

static bool collect(const ap_gguf_vocab *v, const ap_gguf_value *scores, ap_names *texts,
                    merges *out)
{
    for (size_t i = 0; i < v->n; i++)
        if (v->token[i].n && v->token[i].kind != AP_TOKEN_SPECIAL && !v->token[i].twice &&
            !ap_names_add(texts, v->token[i].s, v->token[i].n, i))
            return false;
    ap_names_sort(texts);
    if (!ap_names_index(texts)) return false;
    for (size_t i = 0; i < v->n; i++) {
        double score = 0;
        if (!is_made(&v->token[i]) || !ap_gguf_num(scores, i, &score) || score != score) continue;
        if (!cut_token(v, texts, (uint32_t)i, score, out)) return false;
    }
    return true;
}

apus_err ap_gguf_merges_from_scores(const ap_gguf_vocab *v, const ap_gguf_value *scores,
                                    ap_buf *out, apus_diag *diag)
{
    merges m = {0};
    ap_names texts = {0};
    bool ok = collect(v, scores, &texts, &m);
    if (ok && m.n) qsort(m.item, m.n, sizeof *m.item, by_rank);
    ap_buf_adds(out, "[");
    for (size_t i = 0; ok && i < m.n; i++) {
        const ap_vocab_entry *e = &v->token[m.item[i].token];
        ap_buf_adds(out, i ? ",[" : "[");
        ap_json_quote(out, e->s, m.item[i].cut, false);
        ap_buf_adds(out, ",");
        ap_json_quote(out, e->s + m.item[i].cut, e->n - m.item[i].cut, false);
        ap_buf_adds(out, "]");
    }
    ap_buf_adds(out, "]");
    ap_names_free(&texts);
    ap_free(m.item);
    return ok && !out->failed ? APUS_OK : ap_fail_nomem(diag, m.n * sizeof *m.item, "the merges");
}
