#include "file/names.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

static uint64_t hash_bytes(const char *s, size_t n)
{
    uint64_t h = 0xCBF29CE484222325u; /* FNV-1a, and a finish that spreads the low bits upwards */
    for (size_t i = 0; i < n; i++) h = (h ^ (uint8_t)s[i]) * 0x100000001B3u;
    h = (h ^ h >> 32) * 0x9E3779B97F4A7C15u;
    return h ^ h >> 29;
}

static int compare(const ap_name *a, const ap_name *b)
{
    if (a->hash != b->hash) return a->hash < b->hash ? -1 : 1;
    if (a->len != b->len) return a->len < b->len ? -1 : 1;
    return memcmp(a->s, b->s, a->len);
}

static int compare_items(const void *a, const void *b)
{
    return compare(a, b);
}

bool ap_names_add(ap_names *t, const char *s, size_t len, uintptr_t value)
{
    if (t->n == t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 64;
        if (cap > UINT32_MAX) return false;
        ap_name *p = ap_realloc(t->item, cap, sizeof *p);
        if (!p) return false;
        t->item = p;
        t->cap = cap;
    }
    t->item[t->n++] = (ap_name){hash_bytes(s, len), s, len, value};
    return true;
}

const char *ap_names_sort(ap_names *t)
{
    if (t->n) qsort(t->item, t->n, sizeof *t->item, compare_items);
    for (size_t i = 1; i < t->n; i++)
        if (!compare(&t->item[i - 1], &t->item[i])) return t->item[i].s;
    return NULL;
}

bool ap_names_index(ap_names *t)
{
    t->bits = 1;
    while (t->bits < 24 && (size_t)1 << t->bits < t->n) t->bits++;
    size_t buckets = (size_t)1 << t->bits, at = 0;
    t->start = ap_malloc(buckets + 1, sizeof *t->start);
    if (!t->start) return false;
    for (size_t b = 0; b < buckets; b++) {
        while (at < t->n && t->item[at].hash >> (64 - t->bits) < b) at++;
        t->start[b] = (uint32_t)at;
    }
    t->start[buckets] = (uint32_t)t->n;
    return true;
}

const ap_name *ap_names_find(const ap_names *t, const char *s, size_t len)
{
    ap_name key = {hash_bytes(s, len), s, len, 0};
    size_t b = (size_t)(key.hash >> (64 - t->bits));
    size_t lo = t->start[b], hi = t->start[b + 1];
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int c = compare(&t->item[mid], &key);
        if (c == 0) return &t->item[mid];
        if (c < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

void ap_names_free(ap_names *t)
{
    ap_free(t->item);
    ap_free(t->start);
    memset(t, 0, sizeof *t);
}
