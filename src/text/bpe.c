#include "text/bpe.h"

#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

#define NO_RANK UINT32_MAX
#define NO_LINK UINT32_MAX
/* Up to here a scan for the lowest rank beats a heap. */
#define SCAN_MAX 48

/* ---------------------------------------------------------------- alphabet */

/* Bytes that print keep their code point; the others follow from 0x100 on in order. */
uint32_t ap_bpe_byte_char(uint8_t b)
{
    if (b < 0x21) return 0x100u + b;
    if (b < 0x7F) return b;
    if (b < 0xA1) return 0x100u + 33 + (b - 0x7Fu);
    return b == 0xAD ? 0x143 : b;
}

int ap_bpe_char_byte(uint32_t c)
{
    if (c < 0x100) return (c >= 0x21 && c < 0x7F) || (c >= 0xA1 && c != 0xAD) ? (int)c : -1;
    if (c < 0x121) return (int)c - 0x100;
    if (c < 0x143) return (int)c - 0x121 + 0x7F;
    return c == 0x143 ? 0xAD : -1;
}

/* ---------------------------------------------------------------- building */

bool ap_merge_list_add(ap_merge_list *l, const char *a, size_t an, const char *b, size_t bn)
{
    uint32_t len[2] = {(uint32_t)an, (uint32_t)bn};
    size_t need;
    if (an > UINT32_MAX / 4 || bn > UINT32_MAX / 4 || l->n >= NO_RANK - 1) return false;
    if (!ap_add_size(l->len, sizeof len + an + bn, &need)) return false;
    if (!ap_vec_reserve(&l->data, &l->cap, need, 1)) return false;
    memcpy(l->data + l->len, len, sizeof len);
    memcpy(l->data + l->len + sizeof len, a, an);
    memcpy(l->data + l->len + sizeof len + an, b, bn);
    l->len = need;
    l->n++;
    return true;
}

void ap_merge_list_free(ap_merge_list *l)
{
    ap_free(l->data);
    memset(l, 0, sizeof *l);
}

void ap_bpe_free(ap_bpe *b)
{
    ap_vocab_free(&b->vocab);
    ap_free(b->merges);
    ap_free(b->made);
    ap_free(b->joints);
    ap_free(b->chars);
    memset(b, 0, sizeof *b);
}

static size_t merge_slot(const ap_bpe *b, int32_t left, int32_t right)
{
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9E3779B97F4A7C15u;
    return (size_t)(h ^ h >> 29) & b->merge_mask;
}

static uint32_t merge_rank(const ap_bpe *b, int32_t left, int32_t right)
{
    size_t at = merge_slot(b, left, right);
    for (; b->merges[at].left >= 0; at = (at + 1) & b->merge_mask)
        if (b->merges[at].left == left && b->merges[at].right == right) return b->merges[at].rank;
    return NO_RANK;
}

static uint32_t joint_hash(uint32_t last, uint32_t first)
{
    uint32_t h = last * 0x9E3779B1u ^ first * 0x85EBCA77u;
    return h ^ h >> 15;
}

static bool can_join(const ap_bpe *b, uint32_t last, uint32_t first)
{
    uint32_t bit = joint_hash(last, first) & b->joint_mask;
    return b->joints[bit >> 6] >> (bit & 63) & 1;
}

static uint32_t first_char(const char *s, size_t n)
{
    uint32_t cp = 0;
    if (n) ap_utf8_decode(s, n, &cp);
    return cp;
}

static uint32_t last_char(const char *s, size_t n)
{
    size_t i = n;
    while (i > 0 && n - i < 4) {
        i--;
        if (((uint8_t)s[i] & 0xC0) != 0x80) break;
    }
    return first_char(s + i, n - i);
}

/* One merge of the file on its way into the table. It is taken in three steps, each some merges
 * behind the one before, so that their cache misses overlap. */
typedef struct pending {
    const char *a, *b; /* next to each other */
    uint32_t an, bn;
    uint64_t hash[3]; /* of a, b and both together */
    int32_t left, right, made;
} pending;

static const char *read_merge(const ap_bpe *b, const char *p, pending *m)
{
    uint32_t len[2];
    memcpy(len, p, sizeof len);
    m->an = len[0];
    m->bn = len[1];
    m->a = p + sizeof len;
    m->b = m->a + m->an;
    m->hash[0] = ap_vocab_hash(m->a, m->an);
    m->hash[1] = ap_vocab_hash(m->b, m->bn);
    m->hash[2] = ap_vocab_hash(m->a, (size_t)m->an + m->bn);
    for (int i = 0; i < 3; i++) ap_vocab_prefetch(&b->vocab, m->hash[i]);
    return m->b + m->bn;
}

static apus_err unknown_part(const char *name, size_t at, const char *s, size_t n, apus_diag *diag)
{
    return ap_fail(diag, APUS_EFORMAT,
                   "%s: model.merges[%zu] needs the token \"%.*s\", which is not in model.vocab",
                   name, at, n > 200 ? 200 : (int)n, s);
}

static apus_err find_merge(const ap_bpe *b, pending *m, size_t rank, const char *name,
                           apus_diag *diag)
{
    const ap_vocab *v = &b->vocab;
    size_t n = (size_t)m->an + m->bn;
    m->left = ap_vocab_find_hashed(v, m->a, m->an, m->hash[0]);
    if (m->left < 0) return unknown_part(name, rank, m->a, m->an, diag);
    m->right = ap_vocab_find_hashed(v, m->b, m->bn, m->hash[1]);
    if (m->right < 0) return unknown_part(name, rank, m->b, m->bn, diag);
    m->made = ap_vocab_find_hashed(v, m->a, n, m->hash[2]);
    if (m->made < 0) return unknown_part(name, rank, m->a, n, diag);
    __builtin_prefetch(&b->merges[merge_slot(b, m->left, m->right)], 1);
    return APUS_OK;
}

static void add_merge(ap_bpe *b, const pending *m, size_t rank)
{
    size_t at = merge_slot(b, m->left, m->right);
    while (b->merges[at].left >= 0 &&
           (b->merges[at].left != m->left || b->merges[at].right != m->right))
        at = (at + 1) & b->merge_mask;
    /* The last of equal ones wins. */
    b->merges[at] = (struct ap_merge){m->left, m->right, (uint32_t)rank};
    b->made[rank] = m->made;
    uint32_t bit = joint_hash(last_char(m->a, m->an), first_char(m->b, m->bn)) & b->joint_mask;
    b->joints[bit >> 6] |= (uint64_t)1 << (bit & 63);
}

static apus_err resolve_merges(ap_bpe *b, const ap_merge_list *l, const char *name, apus_diag *diag)
{
    size_t cap = 16, bits = 64;
    while (cap < l->n * 2) cap *= 2;
    while (bits < l->n * 4) bits *= 2;
    b->merges = ap_malloc(cap, sizeof *b->merges);
    b->made = ap_calloc(l->n, sizeof *b->made);
    b->joints = ap_calloc(bits / 64, sizeof *b->joints);
    if (!b->merges || !b->made || !b->joints)
        return ap_fail_nomem(diag, cap * sizeof *b->merges, "merges");
    memset(b->merges, 0xFF, cap * sizeof *b->merges);
    b->merge_mask = cap - 1;
    b->n_merges = l->n;
    b->joint_mask = (uint32_t)(bits - 1);

    enum { STEP = 8, RING = 2 * STEP };
    pending ring[RING];
    const char *p = l->data;
    for (size_t i = 0; i < l->n + RING; i++) {
        if (i >= RING) add_merge(b, &ring[i % RING], i - RING);
        if (i < l->n) p = read_merge(b, p, &ring[i % RING]);
        if (i >= STEP && i - STEP < l->n) {
            apus_err err = find_merge(b, &ring[(i - STEP) % RING], i - STEP, name, diag);
            if (err) return err;
        }
    }
    return APUS_OK;
}

static void find_units(ap_bpe *b)
{
    for (size_t i = 0; i < 65536; i++) b->chars[i] = -1;
    const ap_vocab *v = &b->vocab;
    for (int32_t id = 0; id < v->n_ids; id++) {
        size_t n;
        const char *s = ap_vocab_text(v, id, &n);
        uint32_t cp;
        if (s && n && n <= 3 && ap_utf8_decode(s, n, &cp) == n) b->chars[cp] = id;
    }
    for (int i = 0; i < 256; i++) {
        char code[8];
        snprintf(code, sizeof code, "<0x%02X>", i);
        b->bytes[i] = ap_vocab_find(v, code, 6);
    }
    size_t n = 0;
    const char *unk = ap_vocab_text(v, b->unk, &n);
    if (!b->has_unk || !unk) return;
    b->unk_edges[0] = (int32_t)first_char(unk, n);
    b->unk_edges[1] = (int32_t)last_char(unk, n);
}

apus_err ap_bpe_finish(ap_bpe *b, const ap_merge_list *merges, const char *name, apus_diag *diag)
{
    int32_t bad = 0;
    switch (ap_vocab_index(&b->vocab, &bad)) {
    case 0:
        break;
    case 1:
        return ap_fail(diag, APUS_EFORMAT, "%s: model.vocab: id %d, expected 0 to %d", name, bad,
                       AP_VOCAB_MAX_ID);
    case 2:
        return ap_fail(diag, APUS_EFORMAT, "%s: model.vocab: two tokens have id %d", name, bad);
    default:
        return ap_fail_nomem(diag, b->vocab.n * 16, "the vocabulary");
    }
    apus_err err = resolve_merges(b, merges, name, diag);
    if (err) return err;
    b->chars = ap_malloc(65536, sizeof *b->chars);
    if (!b->chars) return ap_fail_nomem(diag, 65536 * sizeof *b->chars, "the vocabulary");
    find_units(b);
    return APUS_OK;
}

/* ---------------------------------------------------------------- merging */

void ap_bpe_work_free(ap_bpe_work *w)
{
    ap_free(w->id);
    ap_free(w->rank);
    ap_free(w->link);
    ap_free(w->heap);
    ap_free(w->text);
    memset(w, 0, sizeof *w);
}

/* Few symbols: find the lowest rank, merge, close the gap. */
static size_t merge_scan(const ap_bpe *b, int32_t *id, size_t n)
{
    uint32_t rank[SCAN_MAX];
    for (size_t i = 0; i + 1 < n; i++) rank[i] = merge_rank(b, id[i], id[i + 1]);
    while (n > 1) {
        size_t at = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (rank[i] < rank[at]) at = i;
        if (rank[at] == NO_RANK) break;
        id[at] = b->made[rank[at]];
        n--;
        for (size_t i = at + 1; i < n; i++) {
            id[i] = id[i + 1];
            rank[i - 1] = rank[i]; /* rank[at .. n - 2] from rank[at + 1 .. n - 1] */
        }
        if (at > 0) rank[at - 1] = merge_rank(b, id[at - 1], id[at]);
        if (at + 1 < n) rank[at] = merge_rank(b, id[at], id[at + 1]);
    }
    return n;
}

static bool heap_push(ap_bpe_work *w, uint64_t key)
{
    if (!ap_vec_reserve(&w->heap, &w->heap_cap, w->heap_n + 1, sizeof *w->heap)) return false;
    size_t i = w->heap_n++;
    for (; i > 0 && w->heap[(i - 1) / 4] > key; i = (i - 1) / 4) w->heap[i] = w->heap[(i - 1) / 4];
    w->heap[i] = key;
    return true;
}

static uint64_t heap_pop(ap_bpe_work *w)
{
    uint64_t *h = w->heap, top = h[0], last = h[--w->heap_n];
    size_t n = w->heap_n, i = 0;
    for (;;) {
        size_t c = i * 4 + 1, best = c;
        if (c >= n) break;
        for (size_t k = c + 1; k < n && k < c + 4; k++)
            if (h[k] < h[best]) best = k;
        if (h[best] >= last) break;
        h[i] = h[best];
        i = best;
    }
    if (n) h[i] = last;
    return top;
}

/* Rank the pair at `at` anew and put it in the queue. */
static bool rank_pair(const ap_bpe *b, ap_bpe_work *w, const int32_t *id, uint32_t at)
{
    uint32_t next = w->link[at].next;
    w->rank[at] = next == NO_LINK ? NO_RANK : merge_rank(b, id[at], id[next]);
    return w->rank[at] == NO_RANK || heap_push(w, (uint64_t)w->rank[at] << 32 | at);
}

/* Many symbols: a queue of pairs by rank and position. An entry is stale unless its rank is still
 * that of the pair at its position. Returns the new count, or SIZE_MAX when memory is out. */
static size_t merge_heap(const ap_bpe *b, ap_bpe_work *w, int32_t *id, size_t n)
{
    if (!ap_vec_reserve(&w->rank, &w->rank_cap, n, sizeof *w->rank) ||
        !ap_vec_reserve(&w->link, &w->link_cap, n, sizeof *w->link))
        return SIZE_MAX;
    w->heap_n = 0;
    for (size_t i = 0; i < n; i++) {
        w->link[i].prev = i ? (uint32_t)i - 1 : NO_LINK;
        w->link[i].next = i + 1 < n ? (uint32_t)i + 1 : NO_LINK;
    }
    for (size_t i = 0; i < n; i++)
        if (!rank_pair(b, w, id, (uint32_t)i)) return SIZE_MAX;
    while (w->heap_n) {
        uint64_t top = heap_pop(w);
        uint32_t at = (uint32_t)top, rank = (uint32_t)(top >> 32);
        if (w->rank[at] != rank) continue;
        uint32_t gone = w->link[at].next, next = w->link[gone].next, prev = w->link[at].prev;
        id[at] = b->made[rank];
        id[gone] = -1;
        w->rank[gone] = NO_RANK;
        w->link[at].next = next;
        if (next != NO_LINK) w->link[next].prev = at;
        if (prev != NO_LINK && !rank_pair(b, w, id, prev)) return SIZE_MAX;
        if (!rank_pair(b, w, id, at)) return SIZE_MAX;
    }
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if (id[i] >= 0) id[kept++] = id[i];
    return kept;
}

/* ---------------------------------------------------------------- words */

/* Symbols of a word come in one by one. Where no merge can ever join two neighbours, what lies
 * before is finished on its own: a merged symbol ends in the last character of its last part. */
typedef struct speller {
    const ap_bpe *b;
    ap_bpe_work *w;
    ap_ids *out;
    uint32_t last; /* last character of the symbol before */
    bool unk;      /* an unknown symbol is pending */
} speller;

static bool flush(speller *sp)
{
    ap_bpe_work *w = sp->w;
    size_t n = w->n;
    w->n = 0;
    if (n > 1) n = n <= SCAN_MAX ? merge_scan(sp->b, w->id, n) : merge_heap(sp->b, w, w->id, n);
    if (n == SIZE_MAX) return false;
    for (size_t i = 0; i < n; i++)
        if (!ap_ids_add(sp->out, w->id[i])) return false;
    return true;
}

static bool symbol(speller *sp, int32_t id, uint32_t first, uint32_t last)
{
    ap_bpe_work *w = sp->w;
    if (w->n && !can_join(sp->b, sp->last, first) && !flush(sp)) return false;
    if (!ap_vec_reserve(&w->id, &w->id_cap, w->n + 1, sizeof *w->id)) return false;
    w->id[w->n++] = id;
    sp->last = last;
    return true;
}

static bool pending_unk(speller *sp)
{
    if (!sp->unk) return true;
    sp->unk = false;
    return symbol(sp, sp->b->unk, (uint32_t)sp->b->unk_edges[0], (uint32_t)sp->b->unk_edges[1]);
}

static apus_err out_of_memory(apus_diag *diag)
{
    return ap_fail(diag, APUS_ENOMEM, "out of memory while encoding text");
}

/* A character without a token of its own: its bytes if every one has a token, else unknown. The
 * reference puts bytes before a pending unknown symbol, and so do we. */
static apus_err missing(speller *sp, const char *s, size_t n, apus_diag *diag)
{
    const ap_bpe *b = sp->b;
    bool all = b->byte_fallback;
    for (size_t i = 0; all && i < n; i++) all = b->bytes[(uint8_t)s[i]] >= 0;
    if (all) {
        for (size_t i = 0; i < n; i++)
            if (!symbol(sp, b->bytes[(uint8_t)s[i]], '<', '>')) return out_of_memory(diag);
        return APUS_OK;
    }
    if (!b->has_unk) return APUS_OK; /* dropped, as in the reference */
    if (b->unk < 0)
        return ap_fail(diag, APUS_EFORMAT,
                       "the tokenizer's unk_token is needed for a character of "
                       "the text but is not in its vocabulary");
    if (!b->fuse_unk && !pending_unk(sp)) return out_of_memory(diag);
    sp->unk = true;
    return APUS_OK;
}

static int32_t char_id(const ap_bpe *b, uint32_t cp, const char *s, size_t n)
{
    return cp < 0x10000 ? b->chars[cp] : ap_vocab_find(&b->vocab, s, n);
}

/* The whole word as a token, or -1. */
static int32_t whole(const ap_bpe *b, ap_bpe_work *w, const char *s, size_t n, bool bytes)
{
    if (n > b->vocab.longest) return -1;
    if (!bytes) return ap_vocab_find(&b->vocab, s, n);
    if (!ap_vec_reserve(&w->text, &w->text_cap, n * 2 + 4, 1)) return -2;
    size_t len = 0;
    for (size_t i = 0; i < n; i++)
        len += ap_utf8_encode(ap_bpe_byte_char((uint8_t)s[i]), w->text + len);
    return ap_vocab_find(&b->vocab, w->text, len);
}

apus_err ap_bpe_encode(const ap_bpe *b, ap_bpe_work *w, const char *s, size_t n, bool bytes,
                       ap_ids *out, apus_diag *diag)
{
    if (n > UINT32_MAX / 4)
        return ap_fail(diag, APUS_EINVAL, "a word of %zu bytes is too long to encode", n);
    if (b->ignore_merges && n) {
        int32_t id = whole(b, w, s, n, bytes);
        if (id == -2 || (id >= 0 && !ap_ids_add(out, id))) return out_of_memory(diag);
        if (id >= 0) return APUS_OK;
    }
    speller sp = {b, w, out, 0, false};
    w->n = 0;
    for (size_t i = 0, len; i < n; i += len) {
        uint32_t cp;
        char spelt[4];
        const char *unit = s + i;
        size_t unit_len;
        if (bytes) {
            len = 1;
            cp = ap_bpe_byte_char((uint8_t)s[i]);
            unit = spelt;
            unit_len = ap_utf8_encode(cp, spelt);
        } else {
            unit_len = len = ap_utf8_decode(s + i, n - i, &cp);
        }
        int32_t id = char_id(b, cp, unit, unit_len);
        if (id >= 0) {
            if (!pending_unk(&sp) || !symbol(&sp, id, cp, cp)) return out_of_memory(diag);
        } else {
            apus_err err = missing(&sp, unit, unit_len, diag);
            if (err) return err;
        }
    }
    return pending_unk(&sp) && flush(&sp) ? APUS_OK : out_of_memory(diag);
}
