#include "text/grammar/grammar.h"

#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "text/vec.h"

void ap_grammar_free(ap_grammar *g)
{
    for (size_t i = 0; i < g->n_rule; i++) ap_free(g->rule[i].name);
    ap_free(g->rule);
    ap_free(g->state);
    ap_free(g->edge);
    ap_free(g->ranked);
    *g = (ap_grammar){0};
}

size_t ap_grammar_size(const ap_grammar *g)
{
    return g->n_edge * sizeof *g->edge + g->n_state * sizeof *g->state +
           g->n_rule * (sizeof *g->rule + sizeof *g->ranked);
}

/* ---------------------------------------------------------------- states and edges */

/* Room for one more of what has n elements. false: the grammar stays as it is. */
static bool one_more(ap_grammar *g, void *pp, size_t *cap, size_t n, size_t most, size_t elem)
{
    if (n >= most) g->full = true;
    if (g->full || g->failed) return false;
    g->failed = !ap_vec_reserve(pp, cap, n + 1, elem);
    return !g->failed;
}

int32_t ap_grammar_state(ap_grammar *g)
{
    if (!one_more(g, &g->state, &g->state_cap, g->n_state, AP_GRAMMAR_STATES, sizeof *g->state))
        return 0;
    g->state[g->n_state] = (struct ap_state){.first = -1, .owner = g->at};
    return (int32_t)g->n_state++;
}

int32_t ap_grammar_rule(ap_grammar *g, const char *name, size_t len)
{
    int32_t at = g->at;
    if (!one_more(g, &g->rule, &g->rule_cap, g->n_rule, AP_GRAMMAR_RULES, sizeof *g->rule))
        return 0;
    int32_t r = (int32_t)g->n_rule++;
    g->rule[r] = (ap_rule){.name = name ? ap_strndup(name, len) : NULL};
    if (name && !g->rule[r].name) g->failed = true;
    g->at = r;
    int32_t start = ap_grammar_state(g), end = ap_grammar_state(g);
    g->rule[r].start = start;
    g->rule[r].end = end;
    g->at = at;
    return r;
}

static void put_edge(ap_grammar *g, int32_t from, ap_edge e)
{
    if (!one_more(g, &g->edge, &g->edge_cap, g->n_edge, AP_GRAMMAR_EDGES, sizeof *g->edge)) return;
    e.next = g->state[from].first;
    g->edge[g->n_edge] = e;
    g->state[from].first = (int32_t)g->n_edge++;
}

void ap_grammar_bytes(ap_grammar *g, int32_t from, int32_t to, uint8_t lo, uint8_t hi)
{
    put_edge(g, from, (ap_edge){.kind = AP_EDGE_BYTES, .to = to, .lo = lo, .hi = hi});
}

void ap_grammar_empty(ap_grammar *g, int32_t from, int32_t to)
{
    put_edge(g, from, (ap_edge){.kind = AP_EDGE_EMPTY, .to = to});
}

void ap_grammar_call(ap_grammar *g, int32_t from, int32_t to, int32_t rule, int32_t min,
                     int32_t max)
{
    if (max == 0) {
        ap_grammar_empty(g, from, to);
        return;
    }
    put_edge(g, from,
             (ap_edge){.kind = AP_EDGE_RULE, .to = to, .rule = rule, .min = min, .max = max});
}

/* ---------------------------------------------------------------- texts and characters */

void ap_grammar_text(ap_grammar *g, int32_t from, int32_t to, const char *s, size_t n)
{
    if (!n) ap_grammar_empty(g, from, to);
    for (size_t i = 0; i < n; i++) {
        int32_t next = i + 1 < n ? ap_grammar_state(g) : to;
        uint8_t b = (uint8_t)s[i];
        ap_grammar_bytes(g, from, next, b, b);
        from = next;
    }
}

void ap_grammar_token(ap_grammar *g, int32_t from, int32_t to, int32_t id)
{
    char s[4] = {(char)AP_MARKER_BYTE, (char)(id >> 16), (char)(id >> 8), (char)id};
    ap_grammar_text(g, from, to, s, sizeof s);
}

/* Characters of one length whose encodings differ from byte `at` on: from lo to hi, bytes each. Where both have all
 * of the bytes behind the first, one edge for each byte is enough; else the first, the last and the middle are
 * handled apart. */
static void put_range(ap_grammar *g, int32_t from, int32_t to, const uint8_t *lo, const uint8_t *hi,
                      size_t n)
{
    if (n == 1) {
        ap_grammar_bytes(g, from, to, lo[0], hi[0]);
        return;
    }
    static const uint8_t least[3] = {0x80, 0x80, 0x80}, most[3] = {0xBF, 0xBF, 0xBF};
    bool low = !memcmp(lo + 1, least, n - 1), high = !memcmp(hi + 1, most, n - 1);
    if (lo[0] == hi[0] || (low && high)) {
        int32_t next = ap_grammar_state(g);
        ap_grammar_bytes(g, from, next, lo[0], hi[0]);
        put_range(g, next, to, lo + 1, hi + 1, n - 1);
        return;
    }
    uint8_t first = lo[0], last = hi[0];
    if (!low) {
        int32_t next = ap_grammar_state(g);
        ap_grammar_bytes(g, from, next, first, first);
        put_range(g, next, to, lo + 1, most, n - 1);
        first++;
    }
    if (!high) {
        int32_t next = ap_grammar_state(g);
        ap_grammar_bytes(g, from, next, last, last);
        put_range(g, next, to, least, hi + 1, n - 1);
        last--;
    }
    if (first > last) return;
    int32_t next = ap_grammar_state(g);
    ap_grammar_bytes(g, from, next, first, last);
    put_range(g, next, to, least, most, n - 1);
}

void ap_grammar_chars(ap_grammar *g, int32_t from, int32_t to, uint32_t lo, uint32_t hi)
{
    /* pieces whose characters have one length, without the surrogates */
    static const uint32_t piece[][2] = {
        {0, 0x7F}, {0x80, 0x7FF}, {0x800, 0xD7FF}, {0xE000, 0xFFFF}, {0x10000, 0x10FFFF}};
    for (size_t i = 0; i < sizeof piece / sizeof *piece; i++) {
        uint32_t a = lo > piece[i][0] ? lo : piece[i][0], b = hi < piece[i][1] ? hi : piece[i][1];
        char from_utf8[4], to_utf8[4];
        if (a > b) continue;
        size_t n = ap_utf8_encode(a, from_utf8);
        ap_utf8_encode(b, to_utf8);
        put_range(g, from, to, (const uint8_t *)from_utf8, (const uint8_t *)to_utf8, n);
    }
}
