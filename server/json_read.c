/* json_read.c - a tree from libyajl's events. What the parser allocates comes from the arena too: it does
 * not look at what its allocator returns, so a refusal leaves it by a jump. */
#include <errno.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yajl/yajl_parse.h>

#include "json.h"

typedef struct reader {
    sv_arena *mem;
    sv_json *open[SV_JSON_DEPTH]; /* containers around the next value */
    sv_json *last[SV_JSON_DEPTH]; /* and their newest child */
    int depth;
    bool too_deep;
    const char *key;
    sv_json *root;
    jmp_buf full;
} reader;

typedef struct kept {
    size_t bytes;
    max_align_t data[];
} kept;

static void *need(reader *r, void *p)
{
    if (!p) longjmp(r->full, 1);
    return p;
}

static void *y_malloc(void *ctx, size_t n)
{
    reader *r = ctx;
    kept *k = need(r, sv_arena_alloc(r->mem, sizeof *k + n));
    k->bytes = n;
    return k->data;
}

static void y_free(void *ctx, void *p)
{
    (void)ctx;
    (void)p;
}

static void *y_realloc(void *ctx, void *p, size_t n)
{
    void *q = y_malloc(ctx, n);
    if (!p) return q;
    const kept *k = (const kept *)((char *)p - offsetof(kept, data));
    memcpy(q, p, n < k->bytes ? n : k->bytes);
    return q;
}

static sv_json *add(reader *r, sv_json_type type)
{
    sv_json *j = need(r, sv_arena_alloc(r->mem, sizeof *j));
    j->type = type;
    j->key = r->key;
    r->key = NULL;
    if (!r->depth) {
        r->root = j;
        return j;
    }
    int d = r->depth - 1;
    if (r->last[d])
        r->last[d]->next = j;
    else
        r->open[d]->first = j;
    r->last[d] = j;
    r->open[d]->len++;
    return j;
}

static sv_json *add_text(reader *r, sv_json_type type, const char *s, size_t n)
{
    sv_json *j = add(r, type);
    j->str = need(r, sv_arena_copy(r->mem, s, n));
    j->len = n;
    return j;
}

static int begin(reader *r, sv_json_type type)
{
    if (r->depth == SV_JSON_DEPTH) {
        r->too_deep = true;
        return 0;
    }
    sv_json *j = add(r, type);
    r->open[r->depth] = j;
    r->last[r->depth++] = NULL;
    return 1;
}

static int on_null(void *c)
{
    add(c, SV_JSON_NULL);
    return 1;
}

static int on_bool(void *c, int b)
{
    add(c, SV_JSON_BOOL)->boolean = b != 0;
    return 1;
}

static int on_number(void *c, const char *s, size_t n)
{
    add_text(c, SV_JSON_NUMBER, s, n);
    return 1;
}

static int on_string(void *c, const unsigned char *s, size_t n)
{
    add_text(c, SV_JSON_STRING, (const char *)s, n);
    return 1;
}

static int on_key(void *c, const unsigned char *s, size_t n)
{
    reader *r = c;
    r->key = need(r, sv_arena_copy(r->mem, (const char *)s, n));
    return 1;
}

static int on_map(void *c)
{
    return begin(c, SV_JSON_OBJECT);
}

static int on_array(void *c)
{
    return begin(c, SV_JSON_ARRAY);
}

static int on_end(void *c)
{
    ((reader *)c)->depth--;
    return 1;
}

static const yajl_callbacks callbacks = {on_null, on_bool, NULL,   NULL,     on_number, on_string,
                                         on_map,  on_key,  on_end, on_array, on_end};

/* libyajl lets surrogates and overlong forms pass. */
static bool is_utf8(const unsigned char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        unsigned c = s[i], k = c < 0x80   ? 0
                               : c < 0xC2 ? 4
                               : c < 0xE0 ? 1
                               : c < 0xF0 ? 2
                               : c < 0xF5 ? 3
                                          : 4;
        if (k == 4 || k >= n - i) return false;
        for (unsigned j = 1; j <= k; j++)
            if ((s[i + j] & 0xC0) != 0x80) return false;
        if ((c == 0xE0 && s[i + 1] < 0xA0) || (c == 0xED && s[i + 1] >= 0xA0) ||
            (c == 0xF0 && s[i + 1] < 0x90) || (c == 0xF4 && s[i + 1] >= 0x90))
            return false;
        i += k + 1;
    }
    return true;
}

/* The parser's own words have several lines; the first says what is wrong. */
static void explain(yajl_handle y, const char *text, size_t len, char *why, size_t cap)
{
    unsigned char *s = yajl_get_error(y, 0, (const unsigned char *)text, len);
    size_t n = strcspn((const char *)s, "\n");
    const char *from = (const char *)s, *colon = strchr(from, ':');
    if (colon && colon < from + n && colon[1] == ' ') {
        n -= (size_t)(colon + 2 - from);
        from = colon + 2;
    }
    snprintf(why, cap, "the body is not JSON: %.*s near byte %zu", (int)n, from,
             yajl_get_bytes_consumed(y));
}

const sv_json *sv_json_parse(sv_arena *a, const char *text, size_t len, bool *full, char *why,
                             size_t cap)
{
    reader r = {.mem = a};
    yajl_alloc_funcs mem = {y_malloc, y_realloc, y_free, &r};
    *full = false;
    if (!is_utf8((const unsigned char *)text, len)) {
        snprintf(why, cap, "the body is not UTF-8");
        return NULL;
    }
    if (setjmp(r.full)) {
        *full = true;
        snprintf(why, cap, "the body is too large to be read");
        return NULL;
    }
    yajl_handle y = yajl_alloc(&callbacks, &mem, &r);
    yajl_status s = yajl_parse(y, (const unsigned char *)text, len);
    if (s == yajl_status_ok) s = yajl_complete_parse(y);
    if (s == yajl_status_ok) return r.root;
    if (r.too_deep)
        snprintf(why, cap, "the body nests deeper than %d levels", SV_JSON_DEPTH);
    else
        explain(y, text, len, why, cap);
    return NULL;
}

const sv_json *sv_json_get(const sv_json *o, const char *key)
{
    const sv_json *hit = NULL;
    if (!o || o->type != SV_JSON_OBJECT) return NULL;
    for (const sv_json *m = o->first; m; m = m->next)
        if (!strcmp(m->key, key)) hit = m;
    return hit && hit->type != SV_JSON_NULL ? hit : NULL;
}

bool sv_json_is(const sv_json *j, const char *text)
{
    return j && j->type == SV_JSON_STRING && j->len == strlen(text) && !strcmp(j->str, text);
}

double sv_json_real(const sv_json *number)
{
    return strtod(number->str, NULL);
}

bool sv_json_int(const sv_json *number, int64_t *out)
{
    char *end;
    errno = 0;
    long long v = strtoll(number->str, &end, 10);
    /* 3.0 and 1e3 are whole numbers too */
    if (*end) {
        double d = sv_json_real(number);
        if (!(d >= -9e15 && d <= 9e15) || d != (double)(int64_t)d) return false;
        v = (int64_t)d;
    } else if (errno) {
        return false;
    }
    *out = v;
    return true;
}

const char *sv_json_kind(const sv_json *j)
{
    static const char *const kinds[] = {"null",     "true or false", "a number",
                                        "a string", "an array",      "an object"};
    return kinds[j->type];
}
