/* jinja_lex.c - template text to tokens, with the white space rules of trim_blocks and
 * lstrip_blocks applied. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "text/jinja/jinja.h"

typedef struct lexer {
    ap_jrun *run;
    const char *s;
    size_t n, pos;
    int line;
    bool line_starting; /* the last match ended with a newline */
    ap_jtoken *tok;
    size_t n_tok, cap;
    char *open; /* brackets that are open */
    size_t n_open, cap_open;
} lexer;

static void add(lexer *x, ap_jtok type, int line, ap_jval v)
{
    if (x->run->failed) return;
    if (x->n_tok == x->cap) {
        size_t cap = x->cap ? x->cap * 2 : 256;
        ap_jtoken *t = ap_realloc(x->tok, cap, sizeof *t);
        if (!t) {
            ap_j_fail_nomem(x->run);
            return;
        }
        x->tok = t;
        x->cap = cap;
    }
    x->tok[x->n_tok++] = (ap_jtoken){.type = (uint8_t)type, .line = line, .v = v};
}

static bool at(const lexer *x, size_t pos, const char *what)
{
    size_t n = strlen(what);
    return x->n - pos >= n && memcmp(x->s + pos, what, n) == 0;
}

static size_t skip_space(const lexer *x, size_t pos)
{
    while (pos < x->n) {
        uint32_t cp;
        size_t n = ap_utf8_decode(x->s + pos, x->n - pos, &cp);
        if (!ap_j_is_space(cp)) break;
        pos += n;
    }
    return pos;
}

static size_t skip_space_back(const lexer *x, size_t from, size_t pos)
{
    while (pos > from) {
        size_t p = pos - 1;
        while (p > from && ((uint8_t)x->s[p] & 0xC0) == 0x80) p--;
        uint32_t cp;
        ap_utf8_decode(x->s + p, pos - p, &cp);
        if (!ap_j_is_space(cp)) break;
        pos = p;
    }
    return pos;
}

/* Move on to `to`, counting lines. */
static void advance(lexer *x, size_t to)
{
    for (size_t i = x->pos; i < to; i++) x->line += x->s[i] == '\n';
    x->line_starting = to > 0 && x->s[to - 1] == '\n';
    x->pos = to;
}

/* The text [pos, end) before a tag whose sign is '-', '+' or 0. */
static void data(lexer *x, size_t end, char sign, bool variable)
{
    size_t keep = end;
    if (sign == '-') {
        keep = skip_space_back(x, x->pos, end);
    } else if (sign != '+' && !variable) {
        size_t l = end;
        while (l > x->pos && x->s[l - 1] != '\n') l--;
        if ((l > x->pos || x->line_starting) && l < end && skip_space_back(x, l, end) == l)
            keep = l;
    }
    if (keep > x->pos)
        add(x, AP_JT_DATA, x->line, ap_j_strval(ap_j_borrow(x->run, x->s + x->pos, keep - x->pos)));
}

static char sign_at(const lexer *x, size_t pos)
{
    return pos < x->n && (x->s[pos] == '-' || x->s[pos] == '+') ? x->s[pos] : 0;
}

/* The end of a tag such as %} with its sign at pos; 0: none there. */
static size_t block_end(const lexer *x, size_t pos, const char *close)
{
    if (at(x, pos, "-") && at(x, pos + 1, close)) return skip_space(x, pos + 3);
    if (at(x, pos, "+") && at(x, pos + 1, close)) return pos + 3;
    if (at(x, pos, close)) return pos + 2 < x->n && x->s[pos + 2] == '\n' ? pos + 3 : pos + 2;
    return 0;
}

static void fail_at(lexer *x, const char *what)
{
    x->run->line = x->line;
    ap_j_fail(x->run, "%s", what);
}

static void comment(lexer *x, size_t start)
{
    for (size_t p = start; p < x->n; p++) {
        size_t end = block_end(x, p, "#}");
        if (end) {
            advance(x, end);
            return;
        }
    }
    fail_at(x, "a comment is not closed by #}");
}

/* {% raw %} at pos: the end of the tag, or 0. */
static size_t raw_begin(const lexer *x, size_t pos)
{
    size_t p = pos + 2 + (sign_at(x, pos + 2) != 0);
    p = skip_space(x, p);
    if (!at(x, p, "raw")) return 0;
    p = skip_space(x, p + 3);
    if (at(x, p, "-%}")) return skip_space(x, p + 3);
    return at(x, p, "%}") ? p + 2 : 0;
}

static void raw(lexer *x, size_t start)
{
    advance(x, start);
    for (size_t p = start; p + 1 < x->n; p++) {
        if (!at(x, p, "{%")) continue;
        char sign = sign_at(x, p + 2);
        size_t q = skip_space(x, p + 2 + (sign != 0));
        if (!at(x, q, "endraw")) continue;
        q = skip_space(x, q + 6);
        size_t end = block_end(x, q, "%}");
        if (!end) continue;
        data(x, p, sign, false);
        advance(x, end);
        return;
    }
    fail_at(x, "a raw block is not closed by endraw");
}

/* ---------------------------------------------------------------- inside tags */

static bool is_digit(int c, int base)
{
    int v = c >= '0' && c <= '9'   ? c - '0'
            : c >= 'a' && c <= 'f' ? c - 'a' + 10
            : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                   : 99;
    return v < base;
}

/* (_?digit)* from pos. */
static size_t digits_more(const lexer *x, size_t pos, int base)
{
    for (;;) {
        size_t q = pos + (pos < x->n && x->s[pos] == '_');
        if (q >= x->n || !is_digit(x->s[q], base)) return pos;
        pos = q + 1;
    }
}

/* digit(_?digit)* from pos; pos itself when there is none. */
static size_t digits(const lexer *x, size_t pos)
{
    return pos < x->n && is_digit(x->s[pos], 10) ? digits_more(x, pos + 1, 10) : pos;
}

static size_t float_end(const lexer *x, size_t pos)
{
    if (pos > 0 && x->s[pos - 1] == '.') return 0;
    size_t p = digits(x, pos);
    if (p == pos) return 0;
    bool fraction = false;
    if (p < x->n && x->s[p] == '.') {
        size_t q = digits(x, p + 1);
        if (q > p + 1) {
            fraction = true;
            p = q;
        }
    }
    if (p < x->n && (x->s[p] == 'e' || x->s[p] == 'E')) {
        size_t q = p + 1 + (sign_at(x, p + 1) != 0);
        size_t r = digits(x, q);
        if (r > q) return r;
    }
    return fraction ? p : 0;
}

/* A number without its underscores, for strtod and strtoll. */
static bool plain_digits(lexer *x, size_t from, size_t to, char out[400])
{
    size_t n = 0;
    for (size_t i = from; i < to; i++) {
        if (x->s[i] == '_') continue;
        if (n == 399) {
            fail_at(x, "a number is too long");
            return false;
        }
        out[n++] = x->s[i];
    }
    out[n] = 0;
    return true;
}

static bool number(lexer *x)
{
    char buf[400];
    size_t end = float_end(x, x->pos);
    if (end) {
        if (!plain_digits(x, x->pos, end, buf)) return true;
        ap_json *j = NULL;
        /* The JSON reader knows how to read a number in any locale; it wants no leading zeros. */
        char *p = buf;
        while (p[0] == '0' && p[1] >= '0' && p[1] <= '9') p++;
        if (ap_json_parse(x->run->mem, p, strlen(p), "number", 0, &j, NULL)) {
            fail_at(x, "a number cannot be read");
            return true;
        }
        add(x, AP_JT_FLOAT, x->line, ap_j_float(j->number));
        x->pos = end;
        return true;
    }
    if (!is_digit(x->s[x->pos], 10)) return false;
    int base = 10;
    size_t from = x->pos;
    if (x->s[from] == '0' && from + 1 < x->n) {
        char c = x->s[from + 1] | 0x20;
        int b = c == 'b' ? 2 : c == 'o' ? 8 : c == 'x' ? 16 : 10;
        if (b != 10 && digits_more(x, from + 2, b) > from + 2) {
            base = b;
            from += 2;
        }
    }
    if (base != 10)
        end = digits_more(x, from, base);
    else if (x->s[from] == '0') {
        end = from + 1;
        for (;;) {
            size_t q = end + (end < x->n && x->s[end] == '_');
            if (q >= x->n || x->s[q] != '0') break;
            end = q + 1;
        }
    } else {
        end = digits(x, from);
    }
    if (!plain_digits(x, from, end, buf)) return true;
    int64_t v = 0;
    for (char *p = buf; *p; p++) {
        int d = *p <= '9' ? *p - '0' : (*p | 0x20) - 'a' + 10;
        if (__builtin_mul_overflow(v, base, &v) || __builtin_add_overflow(v, d, &v)) {
            if (base != 10) {
                fail_at(x, "an integer is beyond 64 bits");
                return true;
            }
            add(x, AP_JT_INT, x->line,
                (ap_jval){.type = AP_J_BIG, .s = ap_j_copy(x->run, buf, strlen(buf))});
            x->pos = end;
            return true;
        }
    }
    add(x, AP_JT_INT, x->line, ap_j_int(v));
    x->pos = end;
    return true;
}

/* \ooo, \xhh, \uhhhh, \Uhhhhhhhh at p (behind the backslash). Returns the end, 0 if malformed. */
static size_t numeric_escape(const lexer *x, size_t p, size_t end, uint32_t *cp)
{
    char c = x->s[p];
    uint32_t v = 0;
    if (c >= '0' && c <= '7') {
        size_t q = p;
        while (q < end && q < p + 3 && x->s[q] >= '0' && x->s[q] <= '7')
            v = v * 8 + (uint32_t)(x->s[q++] - '0');
        *cp = v;
        return q;
    }
    size_t want = c == 'x' ? 2 : c == 'u' ? 4 : 8;
    if (end - p - 1 < want) return 0;
    for (size_t i = 0; i < want; i++) {
        int d = x->s[p + 1 + i];
        if (!is_digit(d, 16)) return 0;
        v = v * 16 + (uint32_t)(d <= '9' ? d - '0' : (d | 0x20) - 'a' + 10);
    }
    *cp = v;
    return v > 0x10FFFF ? 0 : p + 1 + want;
}

/* What a string literal says, [from, to) without its quotes. */
static const ap_jstr *unescape(lexer *x, size_t from, size_t to)
{
    if (!memchr(x->s + from, '\\', to - from)) return ap_j_borrow(x->run, x->s + from, to - from);
    ap_jout o = {0};
    for (size_t p = from; p < to;) {
        char c = x->s[p];
        if (c != '\\' || p + 1 >= to) {
            ap_j_put(x->run, &o, &c, 1);
            p++;
            continue;
        }
        c = x->s[++p];
        static const char name[] = "ntrvfab\\'\"";
        static const char means[] = "\n\t\r\v\f\a\b\\'\"";
        const char *hit = c ? strchr(name, c) : NULL;
        uint32_t cp;
        if (hit) {
            ap_j_put(x->run, &o, means + (hit - name), 1);
            p++;
        } else if (c == '\n') {
            p++;
        } else if ((c >= '0' && c <= '7') || c == 'x' || c == 'u' || c == 'U') {
            size_t end = numeric_escape(x, p, to, &cp);
            if (!end) {
                fail_at(x, "a string has a broken escape");
                break;
            }
            ap_j_put_cp(x->run, &o, cp);
            p = end;
        } else if (c == 'N') {
            fail_at(x, "\\N{...} in a string is not supported");
            break;
        } else if ((uint8_t)c >= 0x80) {
            /* Python escapes what is not ASCII first, so the backslash hits that escape's own. */
            size_t n = ap_utf8_decode(x->s + p, to - p, &cp);
            static const char hex[] = "0123456789abcdef";
            int width = cp < 0x100 ? 2 : cp < 0x10000 ? 4 : 8;
            ap_j_puts(x->run, &o, width == 2 ? "\\x" : width == 4 ? "\\u" : "\\U");
            while (width--) ap_j_put(x->run, &o, &hex[cp >> (4 * width) & 15], 1);
            p += n;
        } else {
            ap_j_put(x->run, &o, "\\", 1);
        }
    }
    return ap_j_take(x->run, &o);
}

static bool string(lexer *x)
{
    char quote = x->s[x->pos];
    if (quote != '\'' && quote != '"') return false;
    size_t p = x->pos + 1;
    while (p < x->n && x->s[p] != quote) p += x->s[p] == '\\' ? 2 : 1;
    if (p >= x->n) {
        fail_at(x, "a string is not closed");
        return true;
    }
    add(x, AP_JT_STRING, x->line, ap_j_strval(unescape(x, x->pos + 1, p)));
    advance(x, p + 1);
    return true;
}

static bool name(lexer *x)
{
    size_t p = x->pos;
    while (p < x->n) {
        uint32_t cp;
        size_t n = ap_utf8_decode(x->s + p, x->n - p, &cp);
        if (!ap_j_is_word(cp)) break;
        p += n;
    }
    if (p == x->pos) return false;
    add(x, AP_JT_NAME, x->line, ap_j_strval(ap_j_borrow(x->run, x->s + x->pos, p - x->pos)));
    x->pos = p;
    return true;
}

static bool bracket(lexer *x, char c)
{
    if (strchr("([{", c)) {
        if (x->n_open == x->cap_open) {
            size_t cap = x->cap_open ? x->cap_open * 2 : 64;
            char *p = ap_realloc(x->open, cap, 1);
            if (!p) {
                ap_j_fail_nomem(x->run);
                return false;
            }
            x->open = p;
            x->cap_open = cap;
        }
        x->open[x->n_open++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (x->n_open == 0 || x->open[--x->n_open] != c) {
        x->run->line = x->line;
        ap_j_fail(x->run, "unexpected '%c'", c);
        return false;
    }
    return true;
}

static bool op(lexer *x)
{
    static const struct {
        const char *text;
        ap_jtok type;
    } ops[] = {
        {"//", AP_JT_FLOORDIV}, {"**", AP_JT_POW},     {"==", AP_JT_EQ},    {"!=", AP_JT_NE},
        {">=", AP_JT_GE},       {"<=", AP_JT_LE},      {"+", AP_JT_ADD},    {"-", AP_JT_SUB},
        {"/", AP_JT_DIV},       {"*", AP_JT_MUL},      {"%", AP_JT_MOD},    {"~", AP_JT_TILDE},
        {"[", AP_JT_LBRACKET},  {"]", AP_JT_RBRACKET}, {"(", AP_JT_LPAREN}, {")", AP_JT_RPAREN},
        {"{", AP_JT_LBRACE},    {"}", AP_JT_RBRACE},   {">", AP_JT_GT},     {"<", AP_JT_LT},
        {"=", AP_JT_ASSIGN},    {".", AP_JT_DOT},      {":", AP_JT_COLON},  {"|", AP_JT_PIPE},
        {",", AP_JT_COMMA},     {";", AP_JT_SEMICOLON}};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        if (!at(x, x->pos, ops[i].text)) continue;
        char c = ops[i].text[0];
        if (strchr("()[]{}", c) && !bracket(x, c)) return true;
        add(x, ops[i].type, x->line, ap_j_none());
        x->pos += strlen(ops[i].text);
        return true;
    }
    return false;
}

/* From behind {{ or {% to behind the matching end. */
static void tag(lexer *x, bool variable)
{
    x->n_open = 0;
    while (!x->run->failed) {
        if (x->pos >= x->n) {
            fail_at(x, variable ? "{{ is not closed by }}" : "{% is not closed by %}");
            return;
        }
        if (x->n_open == 0) {
            size_t end = 0;
            if (!variable)
                end = block_end(x, x->pos, "%}");
            else if (at(x, x->pos, "-}}"))
                end = skip_space(x, x->pos + 3);
            else if (at(x, x->pos, "}}"))
                end = x->pos + 2;
            if (end) {
                add(x, variable ? AP_JT_VAR_END : AP_JT_BLOCK_END, x->line, ap_j_none());
                advance(x, end);
                return;
            }
        }
        size_t space = skip_space(x, x->pos);
        if (space > x->pos) {
            advance(x, space);
            continue;
        }
        if (number(x) || name(x) || string(x) || op(x)) continue;
        x->run->line = x->line;
        ap_j_fail(x->run, "unexpected character '%.4s'", x->s + x->pos);
    }
}

static void root(lexer *x)
{
    while (x->pos < x->n && !x->run->failed) {
        size_t p = x->pos;
        while (p + 1 < x->n && !(x->s[p] == '{' && strchr("{%#", x->s[p + 1]) && x->s[p + 1])) p++;
        if (p + 1 >= x->n) {
            data(x, x->n, '+', false);
            return;
        }
        char kind = x->s[p + 1];
        size_t after_raw = kind == '%' ? raw_begin(x, p) : 0;
        char sign = sign_at(x, p + 2);
        data(x, p, sign, kind == '{');
        if (after_raw) {
            advance(x, p);
            raw(x, after_raw);
            continue;
        }
        advance(x, p + 2 + (sign != 0));
        if (kind == '#') {
            comment(x, x->pos);
            continue;
        }
        add(x, kind == '{' ? AP_JT_VAR_BEGIN : AP_JT_BLOCK_BEGIN, x->line, ap_j_none());
        tag(x, kind == '{');
    }
}

ap_jtoken *ap_j_lex(ap_jrun *run, const char *text, size_t len, size_t *n)
{
    lexer x = {.run = run, .s = text, .n = len, .line = 1, .line_starting = true};
    root(&x);
    add(&x, AP_JT_EOF, x.line, ap_j_none());
    ap_free(x.open);
    if (run->failed) {
        ap_free(x.tok);
        return NULL;
    }
    *n = x.n_tok;
    return x.tok;
}
