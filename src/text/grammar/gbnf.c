#include "text/grammar/gbnf.h"

#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "text/vec.h"
#include "text/vocab.h"

enum { MOST_DEPTH = 100 };

typedef struct parser {
    const char *s;
    size_t n, at;
    int line;
    ap_grammar *g;
    ap_vocab names; /* name -> rule */
    bool *defined;  /* [rules] */
    size_t defined_cap;
    int depth;
    apus_diag *diag;
} parser;

static apus_err bad(const parser *p, const char *what)
{
    return ap_fail(p->diag, APUS_EFORMAT, "grammar, line %d: %s", p->line, what);
}

/* ---------------------------------------------------------------- words */

static char peek(const parser *p)
{
    return p->at < p->n ? p->s[p->at] : 0;
}

/* Skip blanks and comments; lines only if a rule can't end here. */
static void skip(parser *p, bool lines)
{
    while (p->at < p->n) {
        char c = p->s[p->at];
        if (c == '#') {
            while (p->at < p->n && p->s[p->at] != '\n') p->at++;
            continue;
        }
        if (c == '\n' && !lines) return;
        if (c != ' ' && c != '\t' && c != '\r' && c != '\n') return;
        p->line += c == '\n';
        p->at++;
    }
}

static bool is_name(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_';
}

static size_t name_length(const parser *p)
{
    size_t n = 0;
    while (p->at + n < p->n && is_name(p->s[p->at + n])) n++;
    return n;
}

/* The rule of a name, new if it is not known. */
static apus_err rule_of(parser *p, const char *name, size_t len, int32_t *rule)
{
    int32_t *id = ap_vocab_put(&p->names, name, len);
    if (!id) return ap_fail_nomem(p->diag, len, "a grammar");
    if (*id < 0) {
        int32_t r = ap_grammar_rule(p->g, name, len);
        if (!ap_vec_reserve(&p->defined, &p->defined_cap, p->g->n_rule + 1, sizeof *p->defined))
            return ap_fail_nomem(p->diag, len, "a grammar");
        *id = r;
        if (r < (int32_t)p->g->n_rule && !p->g->full) p->defined[r] = false;
    }
    *rule = *id;
    return APUS_OK;
}

/* ---------------------------------------------------------------- characters */

static int hex(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static apus_err read_hex(parser *p, int digits, uint32_t *cp)
{
    *cp = 0;
    for (int i = 0; i < digits; i++) {
        int d = hex(peek(p));
        if (d < 0) return bad(p, "expected hexadecimal digits behind \\x, \\u or \\U");
        *cp = *cp * 16 + (uint32_t)d;
        p->at++;
    }
    if (*cp > 0x10FFFF || (*cp >= 0xD800 && *cp <= 0xDFFF))
        return bad(p, "an escape is no character of Unicode");
    return APUS_OK;
}

static apus_err read_escape(parser *p, uint32_t *cp)
{
    char c = peek(p);
    p->at++;
    switch (c) {
    case 'n':
        *cp = '\n';
        return APUS_OK;
    case 't':
        *cp = '\t';
        return APUS_OK;
    case 'r':
        *cp = '\r';
        return APUS_OK;
    case 'x':
        return read_hex(p, 2, cp);
    case 'u':
        return read_hex(p, 4, cp);
    case 'U':
        return read_hex(p, 8, cp);
    default:
        if (!c || !strchr("\\\"[]-^'/.", c)) return bad(p, "an escape that is not known");
        *cp = (uint8_t)c;
        return APUS_OK;
    }
}

/* One character of a text or class. */
static apus_err read_char(parser *p, uint32_t *cp)
{
    if (p->at >= p->n || p->s[p->at] == '\n') return bad(p, "a text or class that does not end");
    if (p->s[p->at] == '\\') {
        p->at++;
        return read_escape(p, cp);
    }
    size_t len = ap_utf8_decode(p->s + p->at, p->n - p->at, cp);
    if (!ap_utf8_valid(p->s + p->at, len)) return bad(p, "not UTF-8");
    p->at += len;
    return APUS_OK;
}

static apus_err read_text(parser *p, int32_t from, int32_t to)
{
    p->at++;
    while (peek(p) != '"') {
        uint32_t cp;
        apus_err err = read_char(p, &cp);
        if (err) return err;
        int32_t next = ap_grammar_state(p->g);
        ap_grammar_chars(p->g, from, next, cp, cp);
        from = next;
    }
    p->at++;
    ap_grammar_empty(p->g, from, to);
    return APUS_OK;
}

typedef struct range {
    uint32_t lo, hi;
} range;

enum { MOST_RANGES = 256 };

/* All characters but those of the ranges, which are put in order. */
static void put_others(ap_grammar *g, int32_t from, int32_t to, range *r, int n)
{
    uint32_t next = 0;
    for (int i = 1; i < n; i++) { /* there are few */
        range x = r[i];
        int k = i;
        for (; k > 0 && r[k - 1].lo > x.lo; k--) r[k] = r[k - 1];
        r[k] = x;
    }
    for (int i = 0; i < n; i++) {
        if (r[i].lo > next) ap_grammar_chars(g, from, to, next, r[i].lo - 1);
        if (r[i].hi + 1 > next) next = r[i].hi + 1;
    }
    if (next <= 0x10FFFF) ap_grammar_chars(g, from, to, next, 0x10FFFF);
}

__attribute__((noinline)) static apus_err read_class(parser *p, int32_t from, int32_t to)
{
    range r[MOST_RANGES];
    int n = 0;
    p->at++;
    bool others = peek(p) == '^';
    p->at += others;
    while (peek(p) != ']') {
        uint32_t lo, hi;
        apus_err err = read_char(p, &lo);
        hi = lo;
        if (!err && peek(p) == '-' && p->at + 1 < p->n && p->s[p->at + 1] != ']') {
            p->at++;
            err = read_char(p, &hi);
        }
        if (err) return err;
        if (hi < lo) return bad(p, "a range of a class that ends before it begins");
        if (n == MOST_RANGES) return bad(p, "a class of more than 256 ranges");
        r[n++] = (range){lo, hi};
    }
    p->at++;
    if (others) put_others(p->g, from, to, r, n);
    for (int i = 0; i < n && !others; i++) ap_grammar_chars(p->g, from, to, r[i].lo, r[i].hi);
    return APUS_OK;
}

/* ---------------------------------------------------------------- expressions */

static apus_err read_alternatives(parser *p, int32_t from, int32_t to, bool in_group);

/* What a repetition asks for; 1, 1: there is none. */
static apus_err read_count(parser *p, int32_t *out)
{
    int64_t v = 0;
    if (peek(p) < '0' || peek(p) > '9') return bad(p, "expected a number in a repetition {}");
    for (; peek(p) >= '0' && peek(p) <= '9'; p->at++) {
        v = v * 10 + (peek(p) - '0');
        if (v > AP_GRAMMAR_MOST_REPS)
            return bad(p, "a repetition of more than 1,000,000,000 times");
    }
    *out = (int32_t)v;
    return APUS_OK;
}

static apus_err read_braces(parser *p, int32_t *min, int32_t *max)
{
    p->at++;
    skip(p, true);
    apus_err err = APUS_OK;
    *min = 0;
    if (peek(p) != ',') err = read_count(p, min);
    *max = *min;
    if (err) return err;
    skip(p, true);
    if (peek(p) == ',') {
        p->at++;
        skip(p, true);
        *max = -1;
        if (peek(p) != '}') err = read_count(p, max);
        skip(p, true);
    }
    if (err) return err;
    if (peek(p) != '}') return bad(p, "a repetition without its '}'");
    p->at++;
    if (*max >= 0 && *min > *max)
        return ap_fail(p->diag, APUS_EFORMAT,
                       "grammar, line %d: the repetition {%d,%d} has more at least than at most",
                       p->line, (int)*min, (int)*max);
    return APUS_OK;
}

static apus_err read_repetition(parser *p, int32_t *min, int32_t *max)
{
    *min = *max = 1;
    switch (peek(p)) {
    case '*':
        *min = 0, *max = -1;
        break;
    case '+':
        *max = -1;
        break;
    case '?':
        *min = 0;
        break;
    case '{':
        return read_braces(p, min, max);
    default:
        return APUS_OK;
    }
    p->at++;
    return APUS_OK;
}

/* One element between two states, without its repetition. */
static apus_err read_element(parser *p, int32_t from, int32_t to)
{
    char c = peek(p);
    if (c == '"') return read_text(p, from, to);
    if (c == '[') return read_class(p, from, to);
    if (c == '.') {
        p->at++;
        ap_grammar_chars(p->g, from, to, 0, 0x10FFFF);
        return APUS_OK;
    }
    if (c == '(') {
        p->at++;
        apus_err err = read_alternatives(p, from, to, true);
        if (err) return err;
        if (peek(p) != ')') return bad(p, "a group without its ')'");
        p->at++;
        return APUS_OK;
    }
    size_t len = name_length(p);
    if (!len)
        return bad(p, c == '<' ? "tokens (<...>) are not supported; write their text"
                               : "expected a text, a class, a name or a group");
    int32_t rule;
    apus_err err = rule_of(p, p->s + p->at, len, &rule);
    if (err) return err;
    ap_grammar_call(p->g, from, to, rule, 1, 1);
    p->at += len;
    return APUS_OK;
}

/* Make the states from a on, as far as they are of the rule that is read, a rule from a to b. */
static int32_t cut_out(ap_grammar *g, int32_t a, int32_t b)
{
    int32_t at = g->at, rule = ap_grammar_rule(g, NULL, 0);
    if (g->full || g->failed) return rule;
    for (size_t s = (size_t)a; s < g->n_state; s++)
        if (g->state[s].owner == at) g->state[s].owner = rule;
    g->rule[rule].start = a;
    g->rule[rule].end = b;
    return rule;
}

/* An element a number of times. Stars and the like are loops in the rule; counts are edges of a rule of their own,
 * which take no room however high they are. */
static apus_err read_item(parser *p, int32_t from, int32_t to)
{
    ap_grammar *g = p->g;
    int32_t min, max, a = ap_grammar_state(g), b = ap_grammar_state(g);
    apus_err err = read_element(p, a, b);
    if (!err) err = read_repetition(p, &min, &max);
    if (err) return err;
    bool loop = max < 0 && min <= 1;
    if (loop || max == 1) {
        ap_grammar_empty(g, from, a);
        ap_grammar_empty(g, b, to);
        if (loop) ap_grammar_empty(g, b, a);
        if (min == 0) ap_grammar_empty(g, from, to);
    } else {
        ap_grammar_call(g, from, to, cut_out(g, a, b), min, max);
    }
    if (peek(p) && strchr("*+?{", peek(p)))
        return bad(p, "a repetition of a repetition; put the inner one in parentheses");
    return APUS_OK;
}

static bool sequence_ends(const parser *p)
{
    char c = peek(p);
    return !c || c == '\n' || c == '|' || c == ')';
}

static apus_err read_sequence(parser *p, int32_t from, int32_t to, bool in_group)
{
    apus_err err = APUS_OK;
    skip(p, in_group);
    while (!err && !sequence_ends(p) && !p->g->full) {
        int32_t next = ap_grammar_state(p->g);
        err = read_item(p, from, next);
        from = next;
        skip(p, in_group);
    }
    ap_grammar_empty(p->g, from, to);
    return err;
}

static apus_err read_alternatives(parser *p, int32_t from, int32_t to, bool in_group)
{
    if (++p->depth > MOST_DEPTH)
        return ap_fail(p->diag, APUS_EUNSUPPORTED,
                       "grammar, line %d: groups are nested more than %d deep", p->line,
                       MOST_DEPTH);
    apus_err err = read_sequence(p, from, to, in_group);
    while (!err && peek(p) == '|' && !p->g->full) {
        p->at++;
        skip(p, true);
        err = read_sequence(p, from, to, in_group);
    }
    p->depth--;
    return err;
}

/* ---------------------------------------------------------------- rules */

static apus_err read_rule(parser *p)
{
    int32_t rule;
    size_t len = name_length(p);
    const char *name = p->s + p->at;
    if (!len) return bad(p, "expected the name of a rule");
    apus_err err = rule_of(p, name, len, &rule);
    if (err) return err;
    p->at += len;
    skip(p, false);
    if (p->n - p->at < 3 || memcmp(p->s + p->at, "::=", 3) != 0)
        return bad(p, "expected ::= behind the name of a rule");
    p->at += 3;
    if (p->g->full || p->g->failed) return APUS_OK; /* finishing tells */
    if (p->defined[rule])
        return ap_fail(p->diag, APUS_EFORMAT, "grammar, line %d: rule '%.*s' is there twice",
                       p->line, len < 80 ? (int)len : 80, name);
    p->defined[rule] = true;
    skip(p, true);
    p->g->at = rule;
    err = read_alternatives(p, p->g->rule[rule].start, p->g->rule[rule].end, false);
    if (!err && p->at < p->n && peek(p) != '\n' && !p->g->full)
        err = bad(p, peek(p) == ')' ? "a ')' without its group" : "expected the end of the line");
    return err;
}

static apus_err check_names(const parser *p)
{
    if (p->g->full || p->g->failed) return APUS_OK;
    int32_t root = ap_vocab_find(&p->names, "root", 4);
    if (root < 0 || !p->defined[root])
        return ap_fail(p->diag, APUS_EFORMAT, "grammar: there is no rule 'root'");
    p->g->root = root;
    for (size_t i = 0; i < p->g->n_rule; i++)
        if (p->g->rule[i].name && !p->defined[i])
            return ap_fail(p->diag, APUS_EFORMAT, "grammar: rule '%.80s' is used, but not there",
                           p->g->rule[i].name);
    return APUS_OK;
}

apus_err ap_gbnf_parse(const char *text, size_t len, ap_grammar *g, apus_diag *diag)
{
    parser p = {.s = text, .n = len, .line = 1, .g = g, .diag = diag};
    apus_err err = APUS_OK;
    if (memchr(text, 0, len)) err = bad(&p, "a zero byte");
    skip(&p, true);
    while (!err && p.at < p.n && !g->full && !g->failed) {
        err = read_rule(&p);
        skip(&p, true);
    }
    if (!err) err = check_names(&p);
    ap_vocab_free(&p.names);
    ap_free(p.defined);
    return err ? err : ap_grammar_finish(g, "grammar", diag);
}
