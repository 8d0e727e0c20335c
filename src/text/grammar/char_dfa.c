#include "text/grammar/char_dfa.h"

#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "text/vec.h"

void ap_char_dfa_free(ap_char_dfa *d)
{
    ap_free(d->state);
    ap_free(d->edge);
    *d = (ap_char_dfa){0};
}

int32_t ap_char_dfa_state(ap_char_dfa *d, bool accepts)
{
    if (d->n_state >= AP_DFA_STATES) d->full = true;
    if (d->full || d->failed) return 0;
    if (!ap_vec_reserve(&d->state, &d->state_cap, d->n_state + 1, sizeof *d->state)) {
        d->failed = true;
        return 0;
    }
    d->state[d->n_state] = (struct ap_char_state){.first = d->n_edge, .accepts = accepts};
    return (int32_t)d->n_state++;
}

void ap_char_dfa_edge(ap_char_dfa *d, uint32_t lo, uint32_t hi, int32_t to)
{
    if (d->full || d->failed) return;
    struct ap_char_state *s = &d->state[d->n_state - 1];
    ap_char_edge *last = s->n ? &d->edge[d->n_edge - 1] : NULL;
    if (last && last->to == to && last->hi + 1 == lo) {
        last->hi = hi;
        return;
    }
    if (!ap_vec_reserve(&d->edge, &d->edge_cap, d->n_edge + 1, sizeof *d->edge)) {
        d->failed = true;
        return;
    }
    d->edge[d->n_edge++] = (ap_char_edge){lo, hi, to};
    s->n++;
}

/* ---------------------------------------------------------------- made of others */

/* Pairs of states by number, in the order in which they were met. */
typedef struct pairs {
    struct pair {
        int32_t a, b, next;
    } * v;
    size_t n, cap;
    int32_t bucket[1024];
    bool failed;
} pairs;

static int32_t pair_number(pairs *p, int32_t a, int32_t b)
{
    uint32_t h = ((uint32_t)a * 2654435761u ^ (uint32_t)b * 40503u) >> 8;
    int32_t *at = &p->bucket[h % 1024];
    for (int32_t i = *at; i >= 0; i = p->v[i].next)
        if (p->v[i].a == a && p->v[i].b == b) return i;
    if (!ap_vec_reserve(&p->v, &p->cap, p->n + 1, sizeof *p->v)) {
        p->failed = true;
        return 0;
    }
    p->v[p->n] = (struct pair){a, b, *at};
    *at = (int32_t)p->n;
    return (int32_t)p->n++;
}

void ap_char_dfa_both(const ap_char_dfa *a, const ap_char_dfa *b, ap_char_dfa *out)
{
    pairs *p = ap_calloc(1, sizeof *p);
    out->full = a->full || b->full;
    out->failed = a->failed || b->failed || !p;
    if (p) memset(p->bucket, 0xff, sizeof p->bucket);
    if (!out->full && !out->failed) pair_number(p, 0, 0);
    for (size_t i = 0; p && i < p->n && !p->failed && !out->full && !out->failed; i++) {
        const struct ap_char_state *x = &a->state[p->v[i].a], *y = &b->state[p->v[i].b];
        ap_char_dfa_state(out, x->accepts && y->accepts);
        for (size_t j = 0, k = 0; j < x->n && k < y->n;) {
            const ap_char_edge *e = &a->edge[x->first + j], *f = &b->edge[y->first + k];
            uint32_t lo = e->lo > f->lo ? e->lo : f->lo, hi = e->hi < f->hi ? e->hi : f->hi;
            if (lo <= hi) ap_char_dfa_edge(out, lo, hi, pair_number(p, e->to, f->to));
            if (e->hi <= f->hi)
                j++;
            else
                k++;
        }
        out->full = out->full || p->n > AP_DFA_STATES;
    }
    if (p) {
        out->failed = out->failed || p->failed;
        ap_free(p->v);
    }
    ap_free(p);
}

void ap_char_dfa_length(int64_t min, int64_t max, ap_char_dfa *out)
{
    int64_t last = max < 0 ? min : max;
    for (int64_t i = 0; i <= last && !out->full && !out->failed; i++) {
        ap_char_dfa_state(out, i >= min);
        if (i < last)
            ap_char_dfa_edge(out, 0, AP_LAST_CHAR, (int32_t)i + 1);
        else if (max < 0)
            ap_char_dfa_edge(out, 0, AP_LAST_CHAR, (int32_t)i);
    }
}

void ap_char_dfa_others(const ap_char_dfa *a, ap_char_dfa *out)
{
    int32_t all = (int32_t)a->n_state; /* the state of strings that a has left */
    out->full = a->full;
    out->failed = a->failed;
    for (size_t i = 0; i < a->n_state && !out->full && !out->failed; i++) {
        uint32_t next = 0;
        ap_char_dfa_state(out, !a->state[i].accepts);
        for (size_t j = 0; j < a->state[i].n; j++) {
            const ap_char_edge *e = &a->edge[a->state[i].first + j];
            if (e->lo > next) ap_char_dfa_edge(out, next, e->lo - 1, all);
            ap_char_dfa_edge(out, e->lo, e->hi, e->to);
            next = e->hi + 1;
        }
        if (next <= AP_LAST_CHAR) ap_char_dfa_edge(out, next, AP_LAST_CHAR, all);
    }
    ap_char_dfa_state(out, true);
    ap_char_dfa_edge(out, 0, AP_LAST_CHAR, all);
}

void ap_char_dfa_texts(const char *const *text, const size_t *len, size_t n, ap_char_dfa *out)
{
    ap_char_nfa a = {0};
    int32_t start = ap_char_nfa_state(&a), end = ap_char_nfa_state(&a);
    for (size_t i = 0; i < n; i++) {
        int32_t at = start;
        for (size_t j = 0; j < len[i];) {
            uint32_t c;
            int32_t next = ap_char_nfa_state(&a);
            j += ap_utf8_decode(text[i] + j, len[i] - j, &c);
            ap_char_nfa_edge(&a, at, next, AP_STEP_CHARS, c, c);
            at = next;
        }
        ap_char_nfa_edge(&a, at, end, AP_STEP_EMPTY, 0, 0);
    }
    ap_char_nfa_determine(&a, start, end, out);
    ap_char_nfa_free(&a);
}

/* ---------------------------------------------------------------- asked */

bool ap_char_dfa_accepts(const ap_char_dfa *d, const char *text, size_t len)
{
    int32_t at = 0;
    for (size_t i = 0; i < len && at >= 0;) {
        uint32_t c;
        i += ap_utf8_decode(text + i, len - i, &c);
        const struct ap_char_state *s = &d->state[at];
        at = -1;
        for (size_t j = 0; j < s->n && at < 0; j++) {
            const ap_char_edge *e = &d->edge[s->first + j];
            if (e->lo <= c && c <= e->hi) at = e->to;
        }
    }
    return at >= 0 && d->state[at].accepts;
}

bool ap_char_dfa_empty(const ap_char_dfa *d)
{
    bool *seen = ap_calloc(d->n_state, sizeof *seen), found = false;
    int32_t *todo = ap_malloc(d->n_state, sizeof *todo);
    size_t n = 0;
    if (seen && todo && d->n_state) {
        seen[0] = true;
        todo[n++] = 0;
    }
    while (n && !found) {
        const struct ap_char_state *s = &d->state[todo[--n]];
        found = s->accepts;
        for (size_t j = 0; j < s->n; j++) {
            int32_t to = d->edge[s->first + j].to;
            if (!seen[to]) todo[n++] = to;
            seen[to] = true;
        }
    }
    bool ok = seen && todo;
    ap_free(seen);
    ap_free(todo);
    return ok && !found;
}

/* ---------------------------------------------------------------- as bytes */

static void put_digit(ap_grammar *g, int32_t from, int32_t to, int lo, int hi)
{
    if (lo <= 9)
        ap_grammar_bytes(g, from, to, (uint8_t)('0' + lo), (uint8_t)('0' + (hi < 9 ? hi : 9)));
    if (hi < 10) return;
    int a = lo > 10 ? lo : 10;
    ap_grammar_bytes(g, from, to, (uint8_t)('a' + a - 10), (uint8_t)('a' + hi - 10));
    ap_grammar_bytes(g, from, to, (uint8_t)('A' + a - 10), (uint8_t)('A' + hi - 10));
}

/* Numbers of lo to hi with n hexadecimal digits. */
static void put_hex(ap_grammar *g, int32_t from, int32_t to, uint32_t lo, uint32_t hi, int n)
{
    if (n == 1) {
        put_digit(g, from, to, (int)lo, (int)hi);
        return;
    }
    uint32_t unit = UINT32_C(1) << (4 * (n - 1));
    uint32_t first = lo / unit, last = hi / unit;
    while (first <= last) {
        uint32_t a = lo % unit, b = first < last ? unit - 1 : hi % unit, end = first;
        if (a == 0 && b == unit - 1) { /* digits behind which all comes, together */
            end = hi % unit == unit - 1 ? last : last - 1;
            if (end < first) end = first;
        }
        int32_t next = ap_grammar_state(g);
        put_digit(g, from, next, (int)first, (int)end);
        put_hex(g, next, to, a, b, n - 1);
        first = end + 1;
        lo = first * unit;
    }
}

/* The escapes \uHHHH of units lo to hi of UTF-16. */
static void put_escapes(ap_grammar *g, int32_t from, int32_t to, uint32_t lo, uint32_t hi)
{
    int32_t u = ap_grammar_state(g);
    ap_grammar_text(g, from, u, "\\u", 2);
    put_hex(g, u, to, lo, hi, 4);
}

/* Characters above the plane that one unit of UTF-16 reaches, as two. */
static void put_pairs(ap_grammar *g, int32_t from, int32_t to, uint32_t lo, uint32_t hi)
{
    lo -= 0x10000, hi -= 0x10000;
    for (uint32_t first = lo >> 10, last = hi >> 10; first <= last;) {
        uint32_t a = lo & 0x3FF, b = first < last ? 0x3FF : hi & 0x3FF, end = first;
        if (a == 0 && b == 0x3FF) {
            end = (hi & 0x3FF) == 0x3FF ? last : last - 1;
            if (end < first) end = first;
        }
        int32_t next = ap_grammar_state(g);
        put_escapes(g, from, next, 0xD800 + first, 0xD800 + end);
        put_escapes(g, next, to, 0xDC00 + a, 0xDC00 + b);
        first = end + 1;
        lo = first << 10;
    }
}

static uint32_t most(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* fn for the part of lo .. hi that lies in a .. b. */
static void within(void (*fn)(ap_grammar *, int32_t, int32_t, uint32_t, uint32_t), ap_grammar *g,
                   int32_t from, int32_t to, uint32_t lo, uint32_t hi, uint32_t a, uint32_t b)
{
    lo = most(lo, a), hi = least(hi, b);
    if (lo <= hi) fn(g, from, to, lo, hi);
}

void ap_json_chars(ap_grammar *g, int32_t from, int32_t to, uint32_t lo, uint32_t hi)
{
    static const struct {
        char c, letter;
    } shorts[] = {{'"', '"'},  {'\\', '\\'}, {'\b', 'b'}, {'\f', 'f'},
                  {'\n', 'n'}, {'\r', 'r'},  {'\t', 't'}};
    within(ap_grammar_chars, g, from, to, lo, hi, 0x20, '"' - 1);
    within(ap_grammar_chars, g, from, to, lo, hi, '"' + 1, '\\' - 1);
    within(ap_grammar_chars, g, from, to, lo, hi, '\\' + 1, AP_LAST_CHAR);
    for (size_t i = 0; i < sizeof shorts / sizeof *shorts; i++) {
        char escape[2] = {'\\', shorts[i].letter};
        uint32_t c = (uint8_t)shorts[i].c;
        if (lo <= c && c <= hi) ap_grammar_text(g, from, to, escape, 2);
    }
    within(put_escapes, g, from, to, lo, hi, 0, 0x1F);
    within(put_escapes, g, from, to, lo, hi, 0x80, 0xD7FF);
    within(put_escapes, g, from, to, lo, hi, 0xE000, 0xFFFF);
    within(put_pairs, g, from, to, lo, hi, 0x10000, AP_LAST_CHAR);
}

void ap_json_any_char(ap_grammar *g, int32_t from, int32_t to)
{
    ap_json_chars(g, from, to, 0, AP_LAST_CHAR);
    ap_grammar_text(g, from, to, "\\/", 2);
    put_escapes(g, from, to, 0x20, 0x7F);
}

void ap_char_dfa_put(const ap_char_dfa *d, ap_writing how, ap_grammar *g, int32_t from, int32_t to)
{
    int32_t *state = ap_malloc(d->n_state, sizeof *state);
    if (d->full) g->full = true;
    if (!state || d->failed) g->failed = true;
    for (size_t i = 0; i < d->n_state && state; i++) state[i] = ap_grammar_state(g);
    for (size_t i = 0; i < d->n_state && !g->failed && !g->full; i++) {
        if (d->state[i].accepts) ap_grammar_empty(g, state[i], to);
        for (size_t j = 0; j < d->state[i].n; j++) {
            const ap_char_edge *e = &d->edge[d->state[i].first + j];
            if (how == AP_WRITE_JSON)
                ap_json_chars(g, state[i], state[e->to], e->lo, e->hi);
            else
                ap_grammar_chars(g, state[i], state[e->to], e->lo, e->hi);
        }
    }
    if (state && d->n_state) ap_grammar_empty(g, from, state[0]);
    ap_free(state);
}
