#include "text/vocab.h"

#include <string.h>

#include "base/mem.h"
#include "text/vec.h"

void ap_vocab_free(ap_vocab *v)
{
    ap_free(v->slots);
    ap_free(v->pool);
    ap_free(v->by_id);
    ap_free(v->alias);
    memset(v, 0, sizeof *v);
}

static uint64_t mix(uint64_t a, uint64_t b)
{
    __extension__ typedef unsigned __int128 wide;
    wide r = (wide)a * b;
    return (uint64_t)r ^ (uint64_t)(r >> 64);
}

/* Multiply and fold, eight bytes at a time. */
uint64_t ap_vocab_hash(const char *s, size_t n)
{
    const uint64_t k1 = 0x9E3779B97F4A7C15u, k2 = 0xD6E8FEB86659FD93u;
    uint64_t h = k2 ^ n, w;
    for (; n >= 8; s += 8, n -= 8) {
        memcpy(&w, s, 8);
        h = mix(h ^ w, k1);
    }
    w = 0;
    memcpy(&w, s, n);
    return mix(h ^ w, k2 ^ k1 << 1);
}

static bool same(const ap_vocab *v, const ap_vocab_slot *e, const char *s, size_t n, uint32_t hash)
{
    return e->hash == hash && e->len == n && memcmp(v->pool + e->off - 1, s, n) == 0;
}

static bool rehash(ap_vocab *v, size_t cap)
{
    ap_vocab_slot *slots = ap_calloc(cap, sizeof *slots);
    if (!slots) return false;
    for (size_t i = 0; v->slots && i <= v->mask; i++) {
        const ap_vocab_slot *e = &v->slots[i];
        if (!e->off) continue;
        size_t at = ap_vocab_hash(v->pool + e->off - 1, e->len) & (cap - 1);
        while (slots[at].off) at = (at + 1) & (cap - 1);
        slots[at] = *e;
    }
    ap_free(v->slots);
    v->slots = slots;
    v->mask = cap - 1;
    return true;
}

int32_t *ap_vocab_put(ap_vocab *v, const char *s, size_t n)
{
    if (!v->slots || v->n * 2 > v->mask) {
        if (!rehash(v, v->slots ? (v->mask + 1) * 2 : 64)) return NULL;
    }
    uint64_t h = ap_vocab_hash(s, n);
    size_t at = h & v->mask;
    for (; v->slots[at].off; at = (at + 1) & v->mask)
        if (same(v, &v->slots[at], s, n, (uint32_t)(h >> 32))) return &v->slots[at].id;
    if (n >= UINT32_MAX - 1 - v->pool_len ||
        !ap_vec_reserve(&v->pool, &v->pool_cap, v->pool_len + n + 1, 1))
        return NULL;
    if (n) memcpy(v->pool + v->pool_len, s, n);
    v->slots[at] = (ap_vocab_slot){(uint32_t)(h >> 32), (uint32_t)v->pool_len + 1, (uint32_t)n, -1};
    v->pool_len += n;
    v->n++;
    if (n > v->longest) v->longest = n;
    return &v->slots[at].id;
}

bool ap_vocab_alias(ap_vocab *v, const int32_t *slot, int32_t id)
{
    const ap_vocab_slot *e =
        (const ap_vocab_slot *)(const void *)((const char *)slot - offsetof(ap_vocab_slot, id));
    if (!ap_vec_reserve(&v->alias, &v->alias_cap, v->n_alias + 1, sizeof *v->alias)) return false;
    v->alias[v->n_alias++] = (struct ap_vocab_alias){id, e->off, e->len};
    return true;
}

int ap_vocab_index(ap_vocab *v, int32_t *bad)
{
    int32_t top = -1;
    for (size_t i = 0; i < v->n_alias; i++)
        if (v->alias[i].id > top) top = v->alias[i].id;
    for (size_t i = 0; v->slots && i <= v->mask; i++) {
        if (!v->slots[i].off) continue;
        int32_t id = *bad = v->slots[i].id;
        if (id < 0 || id > AP_VOCAB_MAX_ID) return 1;
        if (id > top) top = id;
    }
    ap_free(v->by_id);
    v->n_ids = 0;
    v->by_id = ap_calloc((size_t)top + 1, sizeof *v->by_id);
    if (!v->by_id) return 3;
    v->n_ids = top + 1;
    for (size_t i = 0; v->slots && i <= v->mask; i++) {
        const ap_vocab_slot *e = &v->slots[i];
        if (!e->off) continue;
        *bad = e->id;
        if (v->by_id[e->id].off) return 2;
        v->by_id[e->id].off = e->off;
        v->by_id[e->id].len = e->len;
    }
    for (size_t i = 0; i < v->n_alias; i++) {
        struct ap_vocab_text *t = &v->by_id[v->alias[i].id];
        if (t->off) continue; /* the id has a text of its own */
        t->off = v->alias[i].off;
        t->len = v->alias[i].len;
    }
    return 0;
}

int32_t ap_vocab_find_hashed(const ap_vocab *v, const char *s, size_t n, uint64_t h)
{
    if (!v->slots) return -1;
    for (size_t at = h & v->mask; v->slots[at].off; at = (at + 1) & v->mask)
        if (same(v, &v->slots[at], s, n, (uint32_t)(h >> 32))) return v->slots[at].id;
    return -1;
}

int32_t ap_vocab_find(const ap_vocab *v, const char *s, size_t n)
{
    return ap_vocab_find_hashed(v, s, n, ap_vocab_hash(s, n));
}

const char *ap_vocab_text(const ap_vocab *v, int32_t id, size_t *len)
{
    if (id < 0 || id >= v->n_ids || !v->by_id[id].off) return NULL;
    *len = v->by_id[id].len;
    return v->pool + v->by_id[id].off - 1;
}
