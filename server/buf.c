#include "buf.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool reserve(sv_buf *b, size_t n)
{
    if (b->failed || n >= SIZE_MAX / 2 - b->len) {
        b->failed = true;
        return false;
    }
    if (b->len + n + 1 <= b->cap) return true;
    size_t cap = (b->len + n + 1) * 3 / 2 + 64;
    char *data = realloc(b->data, cap);
    if (!data) {
        b->failed = true;
        return false;
    }
    b->data = data;
    b->cap = cap;
    return true;
}

void sv_buf_add(sv_buf *b, const char *s, size_t n)
{
    if (!reserve(b, n)) return;
    if (n) memcpy(b->data + b->len, s, n);
    b->len += n;
    b->data[b->len] = 0;
}

void sv_buf_adds(sv_buf *b, const char *s)
{
    sv_buf_add(b, s, strlen(s));
}

void sv_buf_addf(sv_buf *b, const char *fmt, ...)
{
    va_list list;
    va_start(list, fmt);
    int n = vsnprintf(NULL, 0, fmt, list);
    va_end(list);
    if (n < 0 || !reserve(b, (size_t)n)) return;
    va_start(list, fmt);
    vsnprintf(b->data + b->len, (size_t)n + 1, fmt, list);
    va_end(list);
    b->len += (size_t)n;
}

void sv_buf_drop(sv_buf *b, size_t n)
{
    if (!n) return;
    memmove(b->data, b->data + n, b->len - n + 1);
    b->len -= n;
}

const char *sv_buf_text(const sv_buf *b)
{
    return b->data ? b->data : "";
}

void sv_buf_free(sv_buf *b)
{
    free(b->data);
    *b = (sv_buf){0};
}
