#include "text/toolcall.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "text/schema.h"

enum { MAX_DEPTH = 64 };

/* ---------------------------------------------------------------- JSON */

typedef struct slot {
    const ap_json *member, *value; /* value: NULL where an equal key came before */
    size_t at;
} slot;

static int by_key(const void *a, const void *b)
{
    const slot *x = a, *y = b;
    size_t n = x->member->key_len < y->member->key_len ? x->member->key_len : y->member->key_len;
    int r = memcmp(x->member->key, y->member->key, n);
    if (r) return r;
    if (x->member->key_len != y->member->key_len)
        return x->member->key_len < y->member->key_len ? -1 : 1;
    return x->at < y->at ? -1 : 1;
}

static int by_place(const void *a, const void *b)
{
    const slot *x = a, *y = b;
    return x->at < y->at ? -1 : 1;
}

static bool same_key(const ap_json *a, const ap_json *b)
{
    return a->key_len == b->key_len && !memcmp(a->key, b->key, a->key_len);
}

/* Equal keys keep the place of the first and the value of the last. */
static void settle_keys(slot *v, size_t n)
{
    qsort(v, n, sizeof *v, by_key);
    for (size_t i = 0, end; i < n; i = end) {
        for (end = i + 1; end < n && same_key(v[i].member, v[end].member); end++)
            v[end].value = NULL;
        v[i].value = v[end - 1].member;
    }
    qsort(v, n, sizeof *v, by_place);
}

static void put_members(ap_buf *out, const ap_json *object)
{
    size_t n = 0;
    slot *v = ap_calloc(object->len + 1, sizeof *v);
    if (!v) {
        out->failed = true;
        return;
    }
    for (const ap_json *m = object->first; m; m = m->next, n++) v[n] = (slot){m, m, n};
    settle_keys(v, n);
    ap_buf_adds(out, "{");
    for (size_t i = 0, count = 0; i < n; i++) {
        if (!v[i].value) continue;
        if (count++) ap_buf_adds(out, ", ");
        ap_json_quote(out, v[i].value->key, v[i].value->key_len, false);
        ap_buf_adds(out, ": ");
        ap_toolcall_put_json(out, v[i].value);
    }
    ap_buf_adds(out, "}");
    ap_free(v);
}

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
        ap_buf_adds(out, "[");
        for (const ap_json *i = j->first; i; i = i->next) {
            if (i != j->first) ap_buf_adds(out, ", ");
            ap_toolcall_put_json(out, i);
        }
        ap_buf_adds(out, "]");
        break;
    case AP_JSON_OBJECT:
        put_members(out, j);
    }
}

bool ap_toolcall_put_object(ap_buf *out, const char *s, size_t n)
{
    ap_arena mem;
    ap_json *j = NULL;
    ap_arena_init(&mem, 0);
    bool ok = !ap_json_parse(&mem, s, n, "", 0, &j, NULL) && j->type == AP_JSON_OBJECT;
    if (ok) ap_toolcall_put_json(out, j);
    ap_arena_free(&mem);
    return ok;
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

size_t ap_toolcall_number(const char *s, size_t n)
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
    if (n && ap_toolcall_number(s, n) == n) {
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
    bool ok = digits && b.data && ap_toolcall_number(b.data, b.len) == b.len;
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

/* Number text as an integer or a number. Beside strings only what JSON takes for one: 007 and +1 are
 * texts there. */
static bool put_numeric(ap_buf *out, const char *s, size_t n, int types)
{
    if (types & AP_TYPE_STRING && ap_toolcall_number(s, n) != n) return false;
    if (types & AP_TYPE_INTEGER && put_integer(out, s, n)) return true;
    return types & AP_TYPE_NUMBER && put_number(out, s, n);
}

void ap_toolcall_put_typed(ap_buf *out, const char *s, size_t n, int types)
{
    size_t from = 0, to = n;
    while (from < to && is_ws(s[from])) from++;
    while (to > from && is_ws(s[to - 1])) to--;
    const char *word = s + from; /* numbers and words may stand between spaces */
    size_t len = to - from;
    if (is(word, len, "null")) {
        ap_buf_adds(out, "null");
        return;
    }
    if (len && types & (AP_TYPE_INTEGER | AP_TYPE_NUMBER) && put_numeric(out, word, len, types))
        return;
    if (types & AP_TYPE_BOOLEAN && (is(word, len, "true") || is(word, len, "false"))) {
        ap_buf_adds(out, (word[0] | 32) == 't' ? "true" : "false");
        return;
    }
    bool bracket = len && strchr("[{(", word[0]) && word[0];
    if (types & AP_TYPE_TREE && len && (bracket || !(types & AP_TYPE_STRING)) &&
        put_tree(out, word, len))
        return;
    ap_json_quote(out, s, n, false);
}
