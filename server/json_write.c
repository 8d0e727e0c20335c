#include <math.h>
#include <stdio.h>
#include <string.h>

#include "json.h"

static void quote(sv_buf *b, const char *s, size_t n)
{
    sv_buf_add(b, "\"", 1);
    for (size_t i = 0, from = 0; i <= n; i++) {
        unsigned char c = i < n ? (unsigned char)s[i] : 0;
        if (i < n && c >= 0x20 && c != '"' && c != '\\' && c != 0x7F) continue;
        sv_buf_add(b, s + from, i - from);
        from = i + 1;
        if (i == n) break;
        if (c == '"' || c == '\\')
            sv_buf_addf(b, "\\%c", c);
        else if (c == '\n')
            sv_buf_add(b, "\\n", 2);
        else
            sv_buf_addf(b, "\\u%04x", c);
    }
    sv_buf_add(b, "\"", 1);
}

/* What stands before a value shows in the last byte: values end in none of these. */
static void lead(sv_buf *b, const char *key)
{
    if (b->len && !strchr("{[: \n", b->data[b->len - 1])) sv_buf_add(b, ",", 1);
    if (!key) return;
    quote(b, key, strlen(key));
    sv_buf_add(b, ":", 1);
}

void sv_put_map(sv_buf *b, const char *key)
{
    lead(b, key);
    sv_buf_add(b, "{", 1);
}

void sv_put_end_map(sv_buf *b)
{
    sv_buf_add(b, "}", 1);
}

void sv_put_array(sv_buf *b, const char *key)
{
    lead(b, key);
    sv_buf_add(b, "[", 1);
}

void sv_put_end_array(sv_buf *b)
{
    sv_buf_add(b, "]", 1);
}

void sv_put_strn(sv_buf *b, const char *key, const char *s, size_t n)
{
    lead(b, key);
    quote(b, s, n);
}

void sv_put_str(sv_buf *b, const char *key, const char *s)
{
    if (s)
        sv_put_strn(b, key, s, strlen(s));
    else
        sv_put_null(b, key);
}

void sv_put_int(sv_buf *b, const char *key, int64_t v)
{
    lead(b, key);
    sv_buf_addf(b, "%lld", (long long)v);
}

void sv_put_real(sv_buf *b, const char *key, double v)
{
    lead(b, key);
    if (isfinite(v))
        sv_buf_addf(b, "%.9g", v);
    else
        sv_buf_adds(b, "null");
}

void sv_put_bool(sv_buf *b, const char *key, bool v)
{
    lead(b, key);
    sv_buf_adds(b, v ? "true" : "false");
}

void sv_put_null(sv_buf *b, const char *key)
{
    lead(b, key);
    sv_buf_adds(b, "null");
}

void sv_put_raw(sv_buf *b, const char *key, const char *json, size_t n)
{
    lead(b, key);
    sv_buf_add(b, n ? json : "null", n ? n : 4);
}

/* Depth is bounded by SV_JSON_DEPTH. */
void sv_put_json(sv_buf *b, const char *key, const sv_json *j)
{
    switch (j->type) {
    case SV_JSON_NULL:
        sv_put_null(b, key);
        return;
    case SV_JSON_BOOL:
        sv_put_bool(b, key, j->boolean);
        return;
    case SV_JSON_NUMBER:
        sv_put_raw(b, key, j->str, j->len);
        return;
    case SV_JSON_STRING:
        sv_put_strn(b, key, j->str, j->len);
        return;
    case SV_JSON_ARRAY:
        sv_put_array(b, key);
        for (const sv_json *m = j->first; m; m = m->next) sv_put_json(b, NULL, m);
        sv_put_end_array(b);
        return;
    case SV_JSON_OBJECT:
        sv_put_map(b, key);
        for (const sv_json *m = j->first; m; m = m->next) sv_put_json(b, m->key, m);
        sv_put_end_map(b);
        return;
    }
}
