#include "text/toolcall.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/utf8.h"

enum { MAX_DEPTH = 64 };

/* Lists of values are short of 64 levels everywhere: ap_json bounds its own depth. */
void ap_toolcall_put_json(ap_buf *out, const ap_json *j)
{
    switch (j->type) {
    case AP_JSON_NULL:
        ap_buf_adds(out, "null");
        break;
    case AP_JSON_BOOL:
        ap_buf_adds(out, j->boolean ? "true" : "false");
        break;
    case AP_JSON_INT:
    case AP_JSON_DOUBLE:
        ap_buf_add(out, j->str, j->len);
        break;
    case AP_JSON_STRING:
        ap_json_quote(out, j->str, j->len, false);
        break;
    case AP_JSON_ARRAY:
    case AP_JSON_OBJECT:
        ap_buf_adds(out, j->type == AP_JSON_ARRAY ? "[" : "{");
        for (const ap_json *i = j->first; i; i = i->next) {
            if (i != j->first) ap_buf_adds(out, ", ");
            if (j->type == AP_JSON_OBJECT) {
                ap_json_quote(out, i->key, i->key_len, false);
                ap_buf_adds(out, ": ");
            }
            ap_toolcall_put_json(out, i);
        }
        ap_buf_adds(out, j->type == AP_JSON_ARRAY ? "]" : "}");
    }
}

static bool same(const ap_json *j, const char *s, size_t n)
{
    return j && j->type == AP_JSON_STRING && j->len == n && !memcmp(j->str, s, n);
}

const ap_json *ap_toolcall_schema(const ap_json *tools, const char *name, size_t name_len,
                                  const char *key, size_t key_len)
{
    for (const ap_json *t = tools ? tools->first : NULL; t; t = t->next) {
        const ap_json *f = ap_json_get(t, "function");
        if (!f) f = t;
        if (!same(ap_json_get(f, "name"), name, name_len)) continue;
        const ap_json *props = ap_json_get(ap_json_get(f, "parameters"), "properties");
        if (!props || props->type != AP_JSON_OBJECT) return NULL;
        for (const ap_json *p = props->first; p; p = p->next)
            if (p->key_len == key_len && !memcmp(p->key, key, key_len)) return p;
        return NULL;
    }
    return NULL;
}

/* ---------------------------------------------------------------- numbers and words */

static bool is_ws(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static bool is(const char *s, size_t n, const char *word)
{
    return n == strlen(word) && !strncasecmp(s, word, n);
}

/* Length of the JSON number at s, 0 if there is none. */
static size_t json_number(const char *s, size_t n)
{
    size_t i = n && s[0] == '-', from = i;
    while (i < n && s[i] >= '0' && s[i] <= '9') i++;
    if (i == from || (s[from] == '0' && i > from + 1)) return 0;
    if (i + 1 < n && s[i] == '.' && s[i + 1] >= '0' && s[i + 1] <= '9')
        for (i++; i < n && s[i] >= '0' && s[i] <= '9';) i++;
    if (i < n && (s[i] == 'e' || s[i] == 'E')) {
        size_t e = i + 1;
        if (e < n && (s[e] == '+' || s[e] == '-')) e++;
        size_t digits = e;
        while (e < n && s[e] >= '0' && s[e] <= '9') e++;
        if (e > digits) i = e;
    }
    return i;
}

/* An integer as Python's int() takes it, without its leading zeros and plus sign. */
static bool put_integer(ap_buf *out, const char *s, size_t n)
{
    size_t i = n && (s[0] == '-' || s[0] == '+');
    if (i == n) return false;
    for (size_t k = i; k < n; k++)
        if (s[k] < '0' || s[k] > '9') return false;
    while (i + 1 < n && s[i] == '0') i++;
    if (s[0] == '-') ap_buf_adds(out, "-");
    ap_buf_add(out, s + i, n - i);
    return true;
}

/* A number: as it is where that is JSON, else put in JSON's form (.5, 5., +1.5). */
static bool put_number(ap_buf *out, const char *s, size_t n)
{
    size_t i = n && (s[0] == '-' || s[0] == '+'), digits = 0;
    if (put_integer(out, s, n)) return true;
    if (n && json_number(s, n) == n) {
        ap_buf_add(out, s, n);
        return true;
    }
    ap_buf b = {0};
    if (n && s[0] == '-') ap_buf_adds(&b, "-");
    while (i + 1 < n && s[i] == '0' && s[i + 1] >= '0' && s[i + 1] <= '9') i++;
    if (i < n && s[i] == '.') ap_buf_adds(&b, "0");
    for (; i < n; i++) {
        bool digit = s[i] >= '0' && s[i] <= '9';
        digits += digit;
        if (s[i] == '.' && (i + 1 == n || s[i + 1] < '0' || s[i + 1] > '9')) continue;
        ap_buf_add(&b, s + i, 1);
    }
    bool ok = digits && b.data && json_number(b.data, b.len) == b.len;
    if (ok) ap_buf_add(out, b.data, b.len);
    ap_buf_free(&b);
    return ok;
}

/* ---------------------------------------------------------------- Python literals */

typedef struct reader {
    const char *s;
    size_t n, at;
    ap_buf *out;
    int depth;
} reader;

static void skip_space(reader *r)
{
    while (r->at < r->n && is_ws(r->s[r->at])) r->at++;
}

static bool take(reader *r, const char *text)
{
    size_t n = strlen(text);
    if (r->n - r->at < n || memcmp(r->s + r->at, text, n)) return false;
    r->at += n;
    return true;
}

static bool python_value(reader *r);

static bool python_string(reader *r)
{
    char quote = r->s[r->at++], c;
    ap_buf b = {0};
    bool ok = false;
    while (r->at < r->n) {
        c = r->s[r->at++];
        if (c == quote) {
            ok = true;
            break;
        }
        static const char from[] = "ntrbf", to[] = "\n\t\r\b\f";
        if (c == '\\' && r->at < r->n) {
            c = r->s[r->at++];
            const char *hit = c ? strchr(from, c) : NULL;
            if (hit)
                c = to[hit - from];
            else if (c == 'u' || c == 'x' || c == 'U' || c == 'N' || (c >= '0' && c <= '7')) {
                uint32_t cp = 0;
                size_t want = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0, i = 0;
                for (; i < want && r->at < r->n; i++, r->at++) {
                    char h = r->s[r->at];
                    int d = h >= '0' && h <= '9'                 ? h - '0'
                            : (h | 32) >= 'a' && (h | 32) <= 'f' ? (h | 32) - 'a' + 10
                                                                 : -1;
                    if (d < 0) break;
                    cp = cp << 4 | (uint32_t)d;
                }
                char u[4];
                if (!want || i < want || cp > 0x10FFFF || (cp >= 0xD800 && cp < 0xE000)) break;
                ap_buf_add(&b, u, ap_utf8_encode(cp, u));
                continue;
            } else if (c != '\\' && c != '\'' && c != '"') {
                ap_buf_add(&b, "\\", 1);
            }
        }
        ap_buf_add(&b, &c, 1);
    }
    if (ok) ap_json_quote(r->out, b.data ? b.data : "", b.len, false);
    ap_buf_free(&b);
    return ok;
}

/* The elements behind an opening bracket. */
static bool python_items(reader *r, char close, bool pairs)
{
    ap_buf_adds(r->out, pairs ? "{" : "[");
    for (bool first = true;; first = false) {
        skip_space(r);
        if (r->at < r->n && r->s[r->at] == close) break;
        if (!first) {
            if (!take(r, ",")) return false;
            skip_space(r);
            if (r->at < r->n && r->s[r->at] == close) break;
            ap_buf_adds(r->out, ", ");
        }
        if (r->at >= r->n) return false;
        if (pairs) {
            if (r->s[r->at] != '\'' && r->s[r->at] != '"') return false;
            if (!python_string(r)) return false;
            skip_space(r);
            if (!take(r, ":")) return false;
            ap_buf_adds(r->out, ": ");
        }
        if (!python_value(r)) return false;
    }
    r->at++;
    ap_buf_adds(r->out, pairs ? "}" : "]");
    return true;
}

static bool python_value(reader *r)
{
    bool ok = false;
    skip_space(r);
    if (r->at >= r->n || r->depth >= MAX_DEPTH) return false;
    r->depth++;
    char c = r->s[r->at];
    if (c == '\'' || c == '"') {
        ok = python_string(r);
    } else if (c == '[' || c == '(' || c == '{') {
        r->at++;
        ok = python_items(r, c == '[' ? ']' : c == '(' ? ')' : '}', c == '{');
    } else {
        static const char *const words[][2] = {{"True", "true"},   {"False", "false"},
                                               {"None", "null"},   {"true", "true"},
                                               {"false", "false"}, {"null", "null"}};
        size_t from = r->at;
        while (r->at < r->n && !strchr(" \t\r\n,:]})", r->s[r->at])) r->at++;
        for (int i = 0; i < 6 && !ok; i++) {
            ok = strlen(words[i][0]) == r->at - from &&
                 !memcmp(words[i][0], r->s + from, r->at - from);
            if (ok) ap_buf_adds(r->out, words[i][1]);
        }
        ok = ok || put_number(r->out, r->s + from, r->at - from);
    }
    r->depth--;
    return ok;
}

bool ap_toolcall_put_python(ap_buf *out, const char *s, size_t n)
{
    ap_buf b = {0};
    reader r = {.s = s, .n = n, .out = &b};
    bool ok = python_value(&r);
    skip_space(&r);
    ok = ok && r.at == n && !b.failed;
    if (ok) ap_buf_add(out, b.data, b.len);
    ap_buf_free(&b);
    return ok;
}

/* ---------------------------------------------------------------- typed parameters */

enum { T_STRING = 1, T_INTEGER = 2, T_NUMBER = 4, T_BOOLEAN = 8, T_TREE = 16, T_NULL = 32 };

static int type_named(const char *s, size_t n)
{
    static const struct {
        const char *name;
        int type;
    } names[] = {
        {"string", T_STRING}, {"str", T_STRING},      {"text", T_STRING},   {"integer", T_INTEGER},
        {"int", T_INTEGER},   {"long", T_INTEGER},    {"number", T_NUMBER}, {"float", T_NUMBER},
        {"double", T_NUMBER}, {"boolean", T_BOOLEAN}, {"bool", T_BOOLEAN},  {"object", T_TREE},
        {"dict", T_TREE},     {"array", T_TREE},      {"list", T_TREE},     {"null", T_NULL}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (is(s, n, names[i].name)) return names[i].type;
    return T_STRING;
}

/* Every type a schema allows. */
static int schema_types(const ap_json *schema, int depth)
{
    int types = 0;
    const ap_json *t = ap_json_get(schema, "type");
    if (t && t->type == AP_JSON_STRING) types |= type_named(t->str, t->len);
    if (t && t->type == AP_JSON_ARRAY)
        for (const ap_json *i = t->first; i; i = i->next)
            if (i->type == AP_JSON_STRING) types |= type_named(i->str, i->len);
    static const char *const unions[] = {"anyOf", "oneOf"};
    for (int u = 0; u < 2 && depth < 8; u++) {
        const ap_json *any = ap_json_get(schema, unions[u]);
        for (const ap_json *i = any && any->type == AP_JSON_ARRAY ? any->first : NULL; i;
             i = i->next)
            types |= schema_types(i, depth + 1);
    }
    return types;
}

static bool put_tree(ap_buf *out, const char *s, size_t n)
{
    ap_arena mem;
    ap_json *j = NULL;
    ap_arena_init(&mem, 0);
    bool ok = !ap_json_parse(&mem, s, n, "", 0, &j, NULL);
    if (ok) ap_toolcall_put_json(out, j);
    ap_arena_free(&mem);
    return ok || ap_toolcall_put_python(out, s, n);
}

void ap_toolcall_put_typed(ap_buf *out, const char *s, size_t n, const ap_json *schema)
{
    int types = schema_types(schema, 0);
    size_t from = 0, to = n;
    while (from < to && is_ws(s[from])) from++;
    while (to > from && is_ws(s[to - 1])) to--;
    const char *word = s + from; /* numbers and words may stand between spaces */
    size_t len = to - from;
    if (is(word, len, "null")) {
        ap_buf_adds(out, "null");
        return;
    }
    if (types & T_INTEGER && put_integer(out, word, len)) return;
    if (types & T_NUMBER && put_number(out, word, len)) return;
    if (types & T_BOOLEAN && (is(word, len, "true") || is(word, len, "false"))) {
        ap_buf_adds(out, (word[0] | 32) == 't' ? "true" : "false");
        return;
    }
    if (types & T_TREE && len && put_tree(out, word, len)) return;
    ap_json_quote(out, s, n, false);
}

/* ---------------------------------------------------------------- Gemma */

#define QUOTE "<|\"|>"

static bool gemma_value(reader *r);

static bool gemma_string(reader *r)
{
    size_t from = r->at;
    for (; r->at < r->n; r->at++) {
        if (r->s[r->at] != '<') continue;
        size_t end = r->at;
        if (!take(r, QUOTE)) continue;
        ap_json_quote(r->out, r->s + from, end - from, false);
        return true;
    }
    return false;
}

static void gemma_key(reader *r, size_t from, size_t to)
{
    while (from < to && is_ws(r->s[from])) from++;
    while (to > from && is_ws(r->s[to - 1])) to--;
    ap_json_quote(r->out, r->s + from, to - from, false);
}

/* From behind "{" or "[" to behind its end. */
static bool gemma_items(reader *r, char close)
{
    bool pairs = close == '}';
    ap_buf_adds(r->out, pairs ? "{" : "[");
    for (bool first = true;; first = false) {
        skip_space(r);
        if (r->at < r->n && r->s[r->at] == close) break;
        if (!first) {
            if (!take(r, ",")) return false;
            skip_space(r);
            if (r->at < r->n && r->s[r->at] == close) break;
            ap_buf_adds(r->out, ", ");
        }
        if (pairs) {
            if (take(r, QUOTE)) {
                if (!gemma_string(r)) return false;
                skip_space(r);
            } else {
                size_t from = r->at;
                while (r->at < r->n && r->s[r->at] != ':' && r->s[r->at] != '}') r->at++;
                gemma_key(r, from, r->at);
            }
            if (!take(r, ":")) return false;
            ap_buf_adds(r->out, ": ");
        }
        if (!gemma_value(r)) return false;
    }
    r->at++;
    ap_buf_adds(r->out, pairs ? "}" : "]");
    return true;
}

/* A value without quotes: a number, a word, or, where the model forgot them, a string. */
static bool gemma_bare(reader *r)
{
    size_t from = r->at, to;
    while (r->at < r->n && !strchr(",]}<", r->s[r->at])) r->at++;
    to = r->at;
    if (r->at >= r->n || r->s[r->at] == '<') return false;
    while (to > from && is_ws(r->s[to - 1])) to--;
    const char *s = r->s + from;
    size_t n = to - from;
    if (!n) return false;
    if (is(s, n, "true") || is(s, n, "false"))
        ap_buf_adds(r->out, (s[0] | 32) == 't' ? "true" : "false");
    else if (is(s, n, "null") || is(s, n, "none"))
        ap_buf_adds(r->out, "null");
    else if (json_number(s, n) == n)
        ap_buf_add(r->out, s, n);
    else
        ap_json_quote(r->out, s, n, false);
    return true;
}

static bool gemma_value(reader *r)
{
    bool ok;
    skip_space(r);
    if (r->at >= r->n || r->depth >= MAX_DEPTH) return false;
    r->depth++;
    if (take(r, QUOTE))
        ok = gemma_string(r);
    else if (take(r, "{"))
        ok = gemma_items(r, '}');
    else if (take(r, "["))
        ok = gemma_items(r, ']');
    else if (r->s[r->at] == '"')
        ok = python_string(r); /* plain quotes are tolerated */
    else
        ok = gemma_bare(r);
    r->depth--;
    return ok;
}

bool ap_toolcall_gemma(const char *s, size_t n, size_t *at, const char **name, size_t *name_len,
                       ap_buf *args)
{
    ap_buf b = {0};
    reader r = {.s = s, .n = n, .at = *at, .out = &b};
    bool ok = false;
    skip_space(&r);
    if (take(&r, "call:")) {
        size_t from = r.at;
        while (r.at < n && s[r.at] != '{') r.at++;
        size_t to = r.at;
        while (from < to && is_ws(s[from])) from++;
        while (to > from && is_ws(s[to - 1])) to--;
        *name = s + from;
        *name_len = to - from;
        ok = to > from && !memchr(s + from, '<', to - from) && take(&r, "{") &&
             gemma_items(&r, '}') && !b.failed;
    }
    if (ok) {
        ap_buf_add(args, b.data, b.len);
        *at = r.at;
    }
    ap_buf_free(&b);
    return ok;
}
