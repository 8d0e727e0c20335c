#include "text/grammar/pattern.h"

#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "text/vec.h"

enum { MOST_DEPTH = 50, MOST_RANGES = 256, MOST_REPS = 10000 };

typedef struct range {
    uint32_t lo, hi;
} range;

/* A set of characters; ranges may overlap. */
typedef struct class
{
    range v[MOST_RANGES];
    int n;
} class;

typedef struct parser {
    const char *s, *where;
    size_t n, at;
    ap_char_nfa *a;
    int depth;
    apus_diag *diag;
} parser;

static apus_err bad(const parser *p, const char *what)
{
    return ap_fail(p->diag, APUS_EFORMAT, "%s: the pattern has %s", p->where, what);
}

static apus_err not_supported(const parser *p, const char *what)
{
    return ap_fail(p->diag, APUS_EUNSUPPORTED, "%s: %s in a pattern is not supported", p->where,
                   what);
}

static char peek(const parser *p)
{
    return p->at < p->n ? p->s[p->at] : 0;
}

static bool next_is(const parser *p, const char *word)
{
    size_t n = strlen(word);
    return p->n - p->at >= n && !memcmp(p->s + p->at, word, n);
}

static void empty(parser *p, int32_t from, int32_t to)
{
    ap_char_nfa_edge(p->a, from, to, AP_STEP_EMPTY, 0, 0);
}

/* ---------------------------------------------------------------- classes */

static apus_err put(const parser *p, class *c, uint32_t lo, uint32_t hi)
{
    if (c->n == MOST_RANGES) return not_supported(p, "a class of more than 256 ranges");
    c->v[c->n++] = (range){lo, hi};
    return APUS_OK;
}

/* All characters that are not in the class. */
static void invert(class *c)
{
    uint32_t next = 0;
    class out = {.n = 0};
    for (int i = 1; i < c->n; i++) {
        range x = c->v[i];
        int k = i;
        for (; k > 0 && c->v[k - 1].lo > x.lo; k--) c->v[k] = c->v[k - 1];
        c->v[k] = x;
    }
    for (int i = 0; i < c->n; i++) {
        if (c->v[i].lo > next) out.v[out.n++] = (range){next, c->v[i].lo - 1};
        if (c->v[i].hi + 1 > next) next = c->v[i].hi + 1;
    }
    if (next <= AP_LAST_CHAR && out.n < MOST_RANGES) out.v[out.n++] = (range){next, AP_LAST_CHAR};
    *c = out;
}

static const range digits[] = {{'0', '9'}},
                   words[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}},
                   spaces[] = {{9, 13},          {' ', ' '},       {0xA0, 0xA0},
                               {0x1680, 0x1680}, {0x2000, 0x200A}, {0x2028, 0x2029},
                               {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000},
                               {0xFEFF, 0xFEFF}},
                   line_ends[] = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};

#define COUNT(x) ((int)(sizeof(x) / sizeof *(x)))

/* \d and the like. false: the letter is none of them. */
static bool shorthand(char letter, class *out)
{
    const range *r;
    int n;
    switch (letter | 0x20) {
    case 'd':
        r = digits, n = COUNT(digits);
        break;
    case 'w':
        r = words, n = COUNT(words);
        break;
    case 's':
        r = spaces, n = COUNT(spaces);
        break;
    default:
        return false;
    }
    out->n = n;
    memcpy(out->v, r, (size_t)n * sizeof *r);
    if (!(letter & 0x20)) invert(out);
    return true;
}

/* ---------------------------------------------------------------- characters */

static int hex(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static apus_err read_hex(parser *p, int n, uint32_t *c)
{
    *c = 0;
    for (int i = 0; i < n; i++, p->at++) {
        int d = hex(peek(p));
        if (d < 0) return bad(p, "an escape without its hexadecimal digits");
        *c = *c * 16 + (uint32_t)d;
    }
    return APUS_OK;
}

/* Behind \u: four digits, twice for a surrogate pair, or {digits}. */
static apus_err read_unicode(parser *p, uint32_t *c)
{
    apus_err err;
    if (peek(p) == '{') {
        p->at++;
        for (*c = 0; peek(p) && peek(p) != '}'; p->at++) {
            int d = hex(peek(p));
            if (d < 0 || *c > AP_LAST_CHAR)
                return bad(p, "an escape \\u{...} that is no character");
            *c = *c * 16 + (uint32_t)d;
        }
        if (!peek(p)) return bad(p, "an escape \\u{...} that does not end");
        p->at++;
        return *c <= AP_LAST_CHAR ? APUS_OK : bad(p, "an escape \\u{...} that is no character");
    }
    err = read_hex(p, 4, c);
    if (err || *c < 0xD800 || *c > 0xDBFF || !next_is(p, "\\u")) return err;
    uint32_t low;
    p->at += 2;
    err = read_hex(p, 4, &low);
    if (!err && (low < 0xDC00 || low > 0xDFFF)) return bad(p, "half of a surrogate pair");
    if (!err) *c = 0x10000 + ((*c - 0xD800) << 10) + (low - 0xDC00);
    return err;
}

/* Behind a backslash: one character. in_class: where \b is one. */
static apus_err read_escape(parser *p, bool in_class, uint32_t *c)
{
    static const char names[] = "nrtvf", values[] = "\n\r\t\v\f";
    char x = peek(p);
    const char *name = x ? strchr(names, x) : NULL;
    p->at++;
    if (name) {
        *c = (uint8_t)values[name - names];
    } else if (x == 'x') {
        return read_hex(p, 2, c);
    } else if (x == 'u') {
        return read_unicode(p, c);
    } else if (x == 'c' && ((peek(p) | 0x20) >= 'a' && (peek(p) | 0x20) <= 'z')) {
        *c = (uint32_t)peek(p) & 31;
        p->at++;
    } else if (x == '0' && !(peek(p) >= '0' && peek(p) <= '9')) {
        *c = 0;
    } else if (x == 'b' && in_class) {
        *c = '\b';
    } else if (x == 'b' || x == 'B') {
        return not_supported(p, "a word boundary (\\b)");
    } else if (x == 'p' || x == 'P') {
        return not_supported(p, "a class of Unicode (\\p{...})");
    } else if ((x >= '1' && x <= '9') || x == 'k') {
        return not_supported(p, "a back reference");
    } else if (x && strchr("^$\\.*+?()[]{}|/-\"' @#%&=:;,<>!~_`", x)) {
        *c = (uint8_t)x;
    } else {
        return bad(p, x ? "an escape that is not known" : "a backslash at its end");
    }
    return APUS_OK;
}

static apus_err read_char(parser *p, bool in_class, uint32_t *c)
{
    if (peek(p) == '\\') {
        p->at++;
        return read_escape(p, in_class, c);
    }
    p->at += ap_utf8_decode(p->s + p->at, p->n - p->at, c);
    return APUS_OK;
}

static void put_class(parser *p, const class *c, int32_t from, int32_t to)
{
    for (int i = 0; i < c->n; i++)
        ap_char_nfa_edge(p->a, from, to, AP_STEP_CHARS, c->v[i].lo, c->v[i].hi);
}

static apus_err put_shorthand(parser *p, class *c)
{
    class s;
    shorthand(p->s[p->at + 1], &s);
    p->at += 2;
    apus_err err = APUS_OK;
    for (int i = 0; i < s.n && !err; i++) err = put(p, c, s.v[i].lo, s.v[i].hi);
    return err;
}

static bool at_shorthand(const parser *p)
{
    return peek(p) == '\\' && p->at + 1 < p->n && strchr("dDwWsS", p->s[p->at + 1]) &&
           p->s[p->at + 1];
}

static apus_err read_class(parser *p, int32_t from, int32_t to)
{
    class c = {.n = 0};
    apus_err err = APUS_OK;
    p->at++;
    bool others = peek(p) == '^';
    p->at += others;
    while (!err && p->at < p->n && peek(p) != ']') {
        if (at_shorthand(p)) {
            err = put_shorthand(p, &c);
            continue;
        }
        uint32_t lo, hi;
        err = read_char(p, true, &lo);
        hi = lo;
        bool is_range = !err && peek(p) == '-' && p->at + 1 < p->n && p->s[p->at + 1] != ']';
        if (is_range) {
            p->at++;
            if (at_shorthand(p)) return bad(p, "a range of a class that ends in a class");
            err = read_char(p, true, &hi);
        }
        if (!err && hi < lo) return bad(p, "a range of a class that ends before it begins");
        if (!err) err = put(p, &c, lo, hi);
    }
    if (err) return err;
    if (peek(p) != ']') return bad(p, "a class without its ']'");
    p->at++;
    if (others) invert(&c);
    put_class(p, &c, from, to);
    return APUS_OK;
}

/* ---------------------------------------------------------------- expressions */

static apus_err read_alternatives(parser *p, int32_t from, int32_t to);

static apus_err read_group(parser *p, int32_t from, int32_t to)
{
    p->at++;
    if (next_is(p, "?:")) {
        p->at += 2;
    } else if (next_is(p, "?=") || next_is(p, "?!") || next_is(p, "?<=") || next_is(p, "?<!")) {
        return not_supported(p, "look-around");
    } else if (next_is(p, "?<") || next_is(p, "?P<")) {
        while (p->at < p->n && peek(p) != '>') p->at++;
        if (!peek(p)) return bad(p, "a name of a group that does not end");
        p->at++;
    } else if (peek(p) == '?') {
        return not_supported(p, "a group that begins with '?'");
    }
    apus_err err = read_alternatives(p, from, to);
    if (err) return err;
    if (peek(p) != ')') return bad(p, "a group without its ')'");
    p->at++;
    return APUS_OK;
}

/* One character, class, group or assertion. */
static apus_err read_atom(parser *p, int32_t from, int32_t to)
{
    class c;
    switch (peek(p)) {
    case '(':
        return read_group(p, from, to);
    case '[':
        return read_class(p, from, to);
    case '.':
        p->at++;
        c.n = COUNT(line_ends);
        memcpy(c.v, line_ends, sizeof line_ends);
        invert(&c);
        put_class(p, &c, from, to);
        return APUS_OK;
    case '^':
        p->at++;
        ap_char_nfa_edge(p->a, from, to, AP_STEP_BEGIN, 0, 0);
        return APUS_OK;
    case '$':
        p->at++;
        ap_char_nfa_edge(p->a, from, to, AP_STEP_END, 0, 0);
        return APUS_OK;
    case '*':
    case '+':
    case '?':
        return bad(p, "a repetition of nothing");
    case ']':
    case '{':
    case '}':
        break; /* themselves, where they have no other meaning */
    }
    if (at_shorthand(p)) {
        shorthand(p->s[p->at + 1], &c);
        p->at += 2;
        put_class(p, &c, from, to);
        return APUS_OK;
    }
    uint32_t x;
    apus_err err = read_char(p, false, &x);
    if (!err) ap_char_nfa_edge(p->a, from, to, AP_STEP_CHARS, x, x);
    return err;
}

/* Digits; -1: there are none. */
static int64_t read_number(parser *p)
{
    int64_t v = -1;
    for (; peek(p) >= '0' && peek(p) <= '9'; p->at++) {
        if (v < 0) v = 0;
        if (v <= MOST_REPS) v = v * 10 + (peek(p) - '0');
    }
    return v;
}

/* {n}, {n,} or {n,m}; false: what looks like it is text. */
static bool read_braces(parser *p, int64_t *min, int64_t *max)
{
    size_t at = p->at;
    p->at++;
    *min = *max = read_number(p);
    bool ok = *min >= 0;
    if (ok && peek(p) == ',') {
        p->at++;
        *max = read_number(p);
    }
    ok = ok && peek(p) == '}';
    p->at = ok ? p->at + 1 : at;
    return ok;
}

/* The states from begin on, once more; a state's copy lies as far behind as the states are many. */
static void copy_states(ap_char_nfa *a, size_t begin, size_t end, int32_t by)
{
    for (size_t s = begin; s < end; s++) ap_char_nfa_state(a);
    for (size_t s = begin; s < end && !a->full && !a->failed; s++)
        for (int32_t e = a->first[s]; e >= 0 && !a->full && !a->failed; e = a->edge[e].next) {
            struct ap_nfa_edge x = a->edge[e];
            ap_char_nfa_edge(a, (int32_t)s + by, x.to + by, x.kind, x.lo, x.hi);
        }
}

/* What lies between a and b, the states from a on, min to max times. */
static void repeat(parser *p, int32_t from, int32_t to, int32_t a, int32_t b, int64_t min,
                   int64_t max)
{
    ap_char_nfa *x = p->a;
    size_t begin = (size_t)a, end = x->n_state;
    int64_t n = max < 0 ? (min ? min : 1) : max;
    if (max == 0) {
        empty(p, from, to);
        return;
    }
    for (int64_t i = 1; i < n && !x->full && !x->failed; i++) {
        int32_t by = (int32_t)((int64_t)(end - begin) * i);
        if ((int64_t)(end - begin) * (n - 1) > INT32_MAX / 2) x->full = true;
        copy_states(x, begin, end, by);
    }
    int32_t size = (int32_t)(end - begin);
    for (int64_t i = 0; i < n && !x->full && !x->failed; i++) {
        int32_t by = size * (int32_t)i;
        empty(p, i ? b + by - size : from, a + by);
        if (i >= min) empty(p, i ? b + by - size : from, to);
    }
    if (x->full || x->failed) return;
    int32_t by = size * (int32_t)(n - 1);
    empty(p, b + by, to);
    if (max < 0) empty(p, b + by, a + by);
}

static apus_err read_item(parser *p, int32_t from, int32_t to)
{
    int64_t min = 1, max = 1;
    int32_t a = ap_char_nfa_state(p->a), b = ap_char_nfa_state(p->a);
    apus_err err = read_atom(p, a, b);
    if (err) return err;
    switch (peek(p)) {
    case '*':
        min = 0, max = -1, p->at++;
        break;
    case '+':
        max = -1, p->at++;
        break;
    case '?':
        min = 0, p->at++;
        break;
    case '{':
        if (!read_braces(p, &min, &max)) break;
        if (min > MOST_REPS || max > MOST_REPS)
            return not_supported(p, "a repetition of more than 10,000 times");
        if (max >= 0 && min > max) return bad(p, "a repetition {n,m} with n above m");
    }
    bool repeated =
        min != 1 || max != 1 || (p->at && p->s[p->at - 1] == '}' && min == 1 && max == 1);
    if (repeated && peek(p) == '?') p->at++; /* lazy: the same strings */
    repeat(p, from, to, a, b, min, max);
    if (repeated && (peek(p) == '+' || peek(p) == '*' || peek(p) == '?'))
        return bad(p, "a repetition of a repetition");
    return APUS_OK;
}

static apus_err read_sequence(parser *p, int32_t from, int32_t to)
{
    apus_err err = APUS_OK;
    while (!err && p->at < p->n && peek(p) != '|' && peek(p) != ')' && !p->a->full) {
        int32_t next = ap_char_nfa_state(p->a);
        err = read_item(p, from, next);
        from = next;
    }
    if (!p->a->full && !p->a->failed) empty(p, from, to);
    return err;
}

static apus_err read_alternatives(parser *p, int32_t from, int32_t to)
{
    if (++p->depth > MOST_DEPTH) return not_supported(p, "groups nested more than 50 deep");
    apus_err err = read_sequence(p, from, to);
    while (!err && peek(p) == '|' && !p->a->full) {
        p->at++;
        err = read_sequence(p, from, to);
    }
    p->depth--;
    return err;
}

apus_err ap_pattern_read(const char *pattern, size_t len, const char *where, ap_char_dfa *out,
                         apus_diag *diag)
{
    ap_char_nfa a = {0};
    parser p = {.s = pattern, .n = len, .where = where, .a = &a, .diag = diag};
    int32_t start = ap_char_nfa_state(&a), begin = ap_char_nfa_state(&a);
    int32_t end = ap_char_nfa_state(&a), last = ap_char_nfa_state(&a);
    apus_err err = APUS_OK;
    if (memchr(pattern, 0, len)) err = bad(&p, "a zero byte");
    if (!err) err = read_alternatives(&p, begin, end);
    if (!err && p.at < p.n && !a.full) err = bad(&p, "a ')' without its group");
    /* anything before and behind it: ^ and $ pass only where there is nothing */
    ap_char_nfa_edge(&a, start, start, AP_STEP_CHARS, 0, AP_LAST_CHAR);
    empty(&p, start, begin);
    empty(&p, end, last);
    ap_char_nfa_edge(&a, last, last, AP_STEP_CHARS, 0, AP_LAST_CHAR);
    if (!err) ap_char_nfa_determine(&a, start, last, out);
    if (!err && out->full)
        err = ap_fail(diag, APUS_EUNSUPPORTED, "%s: the pattern takes more than %d states", where,
                      AP_DFA_STATES);
    if (!err && out->failed) err = ap_fail_nomem(diag, len, "a pattern");
    ap_char_nfa_free(&a);
    return err;
}
