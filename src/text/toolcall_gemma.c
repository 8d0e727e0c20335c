/* toolcall_gemma.c - one tool call as Gemma writes it, or nearly so, to JSON. */
#include <string.h>
#include <strings.h>

#include "text/schema.h"
#include "text/toolcall.h"

#define QUOTE "<|\"|>"

enum { MAX_HEAD = 320, MAX_GAP = 256, MAX_DEPTH = 64 };

static bool is_ws(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static bool is(const char *s, size_t n, const char *word)
{
    return n == strlen(word) && !strncasecmp(s, word, n);
}

/* ---------------------------------------------------------------- the head */

static bool is_name_char(char c)
{
    uint8_t b = (uint8_t)c;
    return (b >= 'a' && b <= 'z') || (b >= 'A' && b <= 'Z') || (b >= '0' && b <= '9') ||
           b >= 0x80 || (b && strchr("_-.:/", c));
}

/* Where white space that begins at i ends. */
static size_t behind_space(const char *s, size_t n, size_t i)
{
    while (i < n && is_ws(s[i])) i++;
    return i;
}

int ap_toolcall_gemma_head(const char *s, size_t n, bool final, const char **name, size_t *name_len,
                           size_t *args, bool *bare)
{
    size_t have = n < MAX_HEAD ? n : MAX_HEAD;
    int more = have == n && !final ? -1 : 0; /* what to say where the text ends too early */
    size_t from = behind_space(s, have, 0), to, open;
    *bare = true;
    if (have - from >= 4 && !memcmp(s + from, "call", 4)) {
        size_t colon = behind_space(s, have, from + 4);
        if (colon == have) return more;
        if (s[colon] == ':') {
            from = behind_space(s, have, colon + 1);
            *bare = false;
        }
    } else if (from < have && s[from] == ':') {
        from = behind_space(s, have, from + 1);
        *bare = false;
    }
    for (to = from; to < have && is_name_char(s[to]);) to++;
    open = behind_space(s, have, to);
    if (open == have) return more;
    if (to == from || (s[open] != '{' && s[open] != '(')) return 0;
    *name = s + from;
    *name_len = to - from;
    *args = open + 1;
    return 1;
}

void ap_toolcall_gemma_name(const ap_json *tools, const char **name, size_t *name_len)
{
    if (!tools || ap_schema_function(tools, *name, *name_len)) return;
    for (size_t i = 0; i + 1 < *name_len; i++) {
        if (!strchr(":./", (*name)[i])) continue;
        if (!ap_schema_function(tools, *name + i + 1, *name_len - i - 1)) continue;
        *name += i + 1;
        *name_len -= i + 1;
        return;
    }
}

/* ---------------------------------------------------------------- values */

typedef struct reader {
    const char *s;
    size_t n, at;
    ap_buf *out;
    int depth;
    const ap_json *function; /* NULL: not described */
} reader;

static void skip_space(reader *r)
{
    r->at = behind_space(r->s, r->n, r->at);
}

static bool take(reader *r, const char *text)
{
    size_t n = strlen(text);
    if (r->n - r->at < n || memcmp(r->s + r->at, text, n)) return false;
    r->at += n;
    return true;
}

static bool at_char(const reader *r, char c)
{
    return r->at < r->n && r->s[r->at] == c;
}

int ap_toolcall_quote_ends(const char *s, size_t n, bool final)
{
    size_t i = 0;
    while (i < n && i < MAX_GAP && is_ws(s[i])) i++;
    if (i == n) return final ? 1 : -1;
    return s[i] && strchr(",:=}])<", s[i]) != NULL;
}

/* A string between Gemma's quotes, the first of which is read. */
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

/* A string between plain quotes [from, to): what JSON or Python reads, else the text itself. */
static void put_quoted(ap_buf *out, const char *s, size_t n)
{
    ap_arena mem;
    ap_json *j = NULL;
    ap_arena_init(&mem, 0);
    if (s[0] == '"' && !ap_json_parse(&mem, s, n, "", 0, &j, NULL))
        ap_toolcall_put_json(out, j);
    else if (!ap_toolcall_put_python(out, s, n))
        ap_json_quote(out, s + 1, n - 2, false);
    ap_arena_free(&mem);
}

static bool plain_string(reader *r)
{
    size_t from = r->at++;
    for (bool escaped = false; r->at < r->n; r->at++) {
        char c = r->s[r->at];
        if (escaped || c != r->s[from]) {
            escaped = !escaped && c == '\\';
            continue;
        }
        if (!ap_toolcall_quote_ends(r->s + r->at + 1, r->n - r->at - 1, true)) continue;
        r->at++;
        put_quoted(r->out, r->s + from, r->at - from);
        return true;
    }
    return false;
}

/* A value without quotes: a number, a word, or, where the model forgot them, a string. */
static bool bare_value(reader *r, char close, int types)
{
    const char ends[] = {',', ']', '}', '<', close, 0};
    size_t from = r->at, to;
    while (r->at < r->n && (!r->s[r->at] || !strchr(ends, r->s[r->at]))) r->at++;
    to = r->at;
    if (r->at >= r->n || r->s[r->at] == '<') return false;
    while (to > from && is_ws(r->s[to - 1])) to--;
    const char *s = r->s + from;
    size_t n = to - from;
    if (!n) return false;
    if (is(s, n, "null") || is(s, n, "none"))
        ap_buf_adds(r->out, "null");
    else if (types == AP_TYPE_STRING)
        ap_json_quote(r->out, s, n, false);
    else if (is(s, n, "true") || is(s, n, "false"))
        ap_buf_adds(r->out, (s[0] | 32) == 't' ? "true" : "false");
    else if (ap_toolcall_number(s, n) == n)
        ap_buf_add(r->out, s, n);
    else
        ap_json_quote(r->out, s, n, false);
    return true;
}

static bool items(reader *r, char close, bool pairs);

/* close: the bracket that ends what the value stands in. */
static bool value(reader *r, char close, int types)
{
    bool ok;
    skip_space(r);
    if (r->at >= r->n || r->depth >= MAX_DEPTH) return false;
    r->depth++;
    if (take(r, QUOTE))
        ok = gemma_string(r);
    else if (take(r, "{"))
        ok = items(r, '}', true);
    else if (take(r, "["))
        ok = items(r, ']', false);
    else if (at_char(r, '"') || at_char(r, '\''))
        ok = plain_string(r);
    else
        ok = bare_value(r, close, types);
    r->depth--;
    return ok;
}

/* A key and its separator; *types of the parameter that it names, if it names one. */
static bool key(reader *r, char close, int *types)
{
    size_t from = r->out->len;
    if (take(r, QUOTE)) {
        if (!gemma_string(r)) return false;
    } else if (at_char(r, '"') || at_char(r, '\'')) {
        if (!plain_string(r)) return false;
    } else {
        size_t begin = r->at, end;
        while (r->at < r->n && r->s[r->at] != ':' && r->s[r->at] != '=' && r->s[r->at] != close)
            r->at++;
        for (end = r->at; end > begin && is_ws(r->s[end - 1]);) end--;
        ap_json_quote(r->out, r->s + begin, end - begin, false);
    }
    *types = 0;
    if (r->depth == 0 && r->function && !r->out->failed) /* between its quotes */
        *types = ap_schema_types(r->function, r->out->data + from + 1, r->out->len - from - 2);
    skip_space(r);
    if (!take(r, ":") && !take(r, "=")) return false;
    ap_buf_adds(r->out, ": ");
    return true;
}

/* From behind the opening bracket to behind its end. */
static bool items(reader *r, char close, bool pairs)
{
    ap_buf_adds(r->out, pairs ? "{" : "[");
    for (bool first = true;; first = false) {
        int types = 0;
        skip_space(r);
        if (at_char(r, close)) break;
        if (!first) {
            if (!take(r, ",")) return false;
            skip_space(r);
            if (at_char(r, close)) break;
            ap_buf_adds(r->out, ", ");
        }
        if (pairs && !key(r, close, &types)) return false;
        if (!value(r, close, types)) return false;
    }
    r->at++;
    ap_buf_adds(r->out, pairs ? "}" : "]");
    return true;
}

/* The arguments behind `open`: {...}, (key=value, ...) or ({...}). */
static bool arguments(reader *r, char open)
{
    if (open == '{') return items(r, '}', true);
    skip_space(r);
    if (!take(r, "{")) return items(r, ')', true);
    if (!items(r, '}', true)) return false;
    skip_space(r);
    return take(r, ")");
}

bool ap_toolcall_gemma(const ap_json *tools, const char *s, size_t n, size_t *at, const char **name,
                       size_t *name_len, ap_buf *args)
{
    size_t from = behind_space(s, n, *at), begin;
    bool bare;
    if (ap_toolcall_gemma_head(s + from, n - from, true, name, name_len, &begin, &bare) != 1)
        return false;
    ap_toolcall_gemma_name(tools, name, name_len);
    ap_buf b = {0};
    reader r = {.s = s, .n = n, .at = from + begin, .out = &b};
    r.function = ap_schema_function(tools, *name, *name_len);
    bool ok =
        arguments(&r, s[r.at - 1]) && !b.failed && ap_toolcall_put_object(args, b.data, b.len);
    if (b.failed) args->failed = true;
    if (ok) *at = r.at;
    ap_buf_free(&b);
    return ok;
}
