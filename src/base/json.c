#include "base/json.h"

#include <errno.h>
#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yajl/yajl_parse.h>

#include "base/mem.h"
#include "base/utf8.h"

/* ---------------------------------------------------------------- walk */

typedef struct walk {
    ap_json_fn fn;
    void *ctx;
    const char *name;
    apus_diag *diag;
    int depth;
    apus_err err;
    struct block *blocks; /* everything the parser holds */
    jmp_buf out_of_memory;
} walk;

static int emit(walk *w, ap_json_event e)
{
    e.depth = w->depth;
    w->err = w->fn(w->ctx, &e);
    return w->err == APUS_OK;
}

static int begin(walk *w, ap_json_event_type type)
{
    if (w->depth >= AP_JSON_MAX_DEPTH) {
        w->err = ap_fail(w->diag, APUS_EFORMAT, "%s: JSON nested deeper than %d levels", w->name,
                         AP_JSON_MAX_DEPTH);
        return 0;
    }
    int go = emit(w, (ap_json_event){.type = type});
    w->depth++;
    return go;
}

static int end(walk *w, ap_json_event_type type)
{
    w->depth--;
    return emit(w, (ap_json_event){.type = type});
}

static int on_null(void *c)
{
    return emit(c, (ap_json_event){.type = AP_JSON_EV_NULL});
}
static int on_bool(void *c, int b)
{
    return emit(c, (ap_json_event){.type = AP_JSON_EV_BOOL, .boolean = b != 0});
}
static int on_number(void *c, const char *s, size_t n)
{
    return emit(c, (ap_json_event){.type = AP_JSON_EV_NUMBER, .str = s, .len = n});
}
static int on_string(void *c, const unsigned char *s, size_t n)
{
    return emit(c, (ap_json_event){.type = AP_JSON_EV_STRING, .str = (const char *)s, .len = n});
}
static int on_key(void *c, const unsigned char *s, size_t n)
{
    return emit(c, (ap_json_event){.type = AP_JSON_EV_KEY, .str = (const char *)s, .len = n});
}
static int on_begin_map(void *c)
{
    return begin(c, AP_JSON_EV_BEGIN_OBJECT);
}
static int on_end_map(void *c)
{
    return end(c, AP_JSON_EV_END_OBJECT);
}
static int on_begin_array(void *c)
{
    return begin(c, AP_JSON_EV_BEGIN_ARRAY);
}
static int on_end_array(void *c)
{
    return end(c, AP_JSON_EV_END_ARRAY);
}

static const yajl_callbacks callbacks = {on_null,    on_bool,        NULL,         NULL,
                                         on_number,  on_string,      on_begin_map, on_key,
                                         on_end_map, on_begin_array, on_end_array};

/* The parser does not look whether it got the memory it asked for. So what it gets is kept in a
 * list, and a refusal leaves it by a jump; ap_json_walk then frees the list. */
typedef struct block {
    struct block *next, **at;
    size_t bytes;
    max_align_t data[];
} block;

static void link_block(walk *w, block *b)
{
    b->next = w->blocks;
    b->at = &w->blocks;
    if (b->next) b->next->at = &b->next;
    w->blocks = b;
}

static void unlink_block(block *b)
{
    *b->at = b->next;
    if (b->next) b->next->at = b->at;
}

static void y_free(void *ctx, void *p)
{
    (void)ctx;
    if (!p) return;
    block *b = (block *)((char *)p - offsetof(block, data));
    unlink_block(b);
    ap_free(b);
}

static void *y_malloc(void *ctx, size_t n)
{
    walk *w = ctx;
    block *b = n < SIZE_MAX - sizeof *b ? ap_malloc(1, sizeof *b + n) : NULL;
    if (!b) longjmp(w->out_of_memory, 1);
    b->bytes = n;
    link_block(w, b);
    return b->data;
}

static void *y_realloc(void *ctx, void *p, size_t n)
{
    if (!p) return y_malloc(ctx, n);
    block *b = (block *)((char *)p - offsetof(block, data));
    void *q = y_malloc(ctx, n);
    memcpy(q, p, n < b->bytes ? n : b->bytes);
    y_free(ctx, p);
    return q;
}

static size_t line_of(const char *text, size_t len, size_t at)
{
    size_t line = 1;
    if (at > len) at = len;
    for (const char *p = text; (p = memchr(p, '\n', (size_t)(text + at - p))); p++) line++;
    return line;
}

/* Four hexadecimal digits at s, or -1. */
static int hex4(const char *s, size_t n)
{
    int v = 0;
    for (size_t i = 0; i < 4; i++) {
        if (i >= n) return -1;
        char c = s[i];
        int d = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
        if (d < 0) return -1;
        v = v * 16 + d;
    }
    return v;
}

/* The parser would turn half a surrogate pair into something that is not UTF-8, so such escapes
 * are found beforehand. Outside strings a backslash is an error anyway. Returns the offset, or len
 * if all is well. */
static size_t find_lone_surrogate(const char *text, size_t len)
{
    size_t i = 0;
    while (i < len) {
        const char *p = memchr(text + i, '\\', len - i);
        if (!p) return len;
        i = (size_t)(p - text);
        int u = i + 1 < len && text[i + 1] == 'u' ? hex4(text + i + 2, len - i - 2) : -1;
        if (u < 0xD800 || u > 0xDFFF) {
            i += 2;
            continue;
        }
        int low = -1;
        if (u < 0xDC00 && i + 7 < len && text[i + 6] == '\\' && text[i + 7] == 'u')
            low = hex4(text + i + 8, len - i - 8);
        if (low < 0xDC00 || low > 0xDFFF) return i;
        i += 12;
    }
    return len;
}

/* First byte that is not UTF-8; len if none. */
static size_t find_bad_utf8(const char *text, size_t len)
{
    if (ap_utf8_valid(text, len)) return len;
    size_t lo = 0; /* walk line by line: only the place is wanted, once, on the way out */
    for (;;) {
        const char *nl = memchr(text + lo, '\n', len - lo);
        size_t hi = nl ? (size_t)(nl - text) + 1 : len;
        if (hi == len || !ap_utf8_valid(text + lo, hi - lo)) return lo;
        lo = hi;
    }
}

static apus_err fail_parse(walk *w, yajl_handle h, const char *text, size_t len, size_t at)
{
    unsigned char *why = yajl_get_error(h, 0, (const unsigned char *)text, len);
    char reason[160];
    snprintf(reason, sizeof reason, "%s", why ? (const char *)why : "not JSON");
    if (why) yajl_free_error(h, why);
    reason[strcspn(reason, "\n")] = 0;
    size_t n = strlen(reason);
    if (n && reason[n - 1] == '.') reason[n - 1] = 0; /* the sentence may go on */
    return ap_fail(w->diag, APUS_EFORMAT, "%s: line %zu: %s", w->name, line_of(text, len, at),
                   reason);
}

static apus_err run_parser(walk *w, const char *text, size_t len)
{
    yajl_alloc_funcs mem = {y_malloc, y_realloc, y_free, w};
    yajl_handle h = yajl_alloc(&callbacks, &mem, w);
    yajl_config(h, yajl_dont_validate_strings, 1); /* done before, and strictly */
    yajl_status st = yajl_parse(h, (const unsigned char *)text, len);
    size_t at = yajl_get_bytes_consumed(h);
    if (st == yajl_status_ok) {
        st = yajl_complete_parse(h);
        at = len;
    }
    apus_err err = w->err;
    if (st == yajl_status_error) err = fail_parse(w, h, text, len, at);
    yajl_free(h);
    return err;
}

static apus_err run_guarded(walk *w, const char *text, size_t len)
{
    if (setjmp(w->out_of_memory)) return ap_fail_nomem(w->diag, len, "the JSON parser");
    return run_parser(w, text, len);
}

apus_err ap_json_walk(const char *text, size_t len, const char *name, ap_json_fn fn, void *ctx,
                      apus_diag *diag)
{
    walk w = {.fn = fn, .ctx = ctx, .name = name, .diag = diag};
    if (len > AP_JSON_MAX_BYTES)
        return ap_fail(diag, APUS_EFORMAT, "%s: JSON of %zu bytes, at most %zu are read", name, len,
                       AP_JSON_MAX_BYTES);
    if (len >= 3 && !memcmp(text, "\xEF\xBB\xBF", 3))
        return ap_fail(
            diag, APUS_EFORMAT,
            "%s: begins with a byte order mark (EF BB BF), which JSON must not have; take it away",
            name);
    size_t bad = find_bad_utf8(text, len);
    if (bad < len)
        return ap_fail(diag, APUS_EFORMAT, "%s: line %zu: not UTF-8", name,
                       line_of(text, len, bad));
    bad = find_lone_surrogate(text, len);
    if (bad < len)
        return ap_fail(diag, APUS_EFORMAT, "%s: line %zu: unpaired surrogate %.6s", name,
                       line_of(text, len, bad), text + bad);
    apus_err err = run_guarded(&w, text, len);
    while (w.blocks) y_free(NULL, w.blocks->data);
    return err;
}

bool ap_json_int(const char *s, size_t n, int64_t *out)
{
    bool neg = n && s[0] == '-';
    size_t i = neg;
    if (i == n) return false;
    uint64_t v = 0;
    for (; i < n; i++) {
        if (s[i] < '0' || s[i] > '9') return false;
        uint64_t d = (uint64_t)(s[i] - '0');
        if (__builtin_mul_overflow(v, (uint64_t)10, &v) || __builtin_add_overflow(v, d, &v))
            return false;
    }
    if (v > (uint64_t)INT64_MAX + neg) return false;
    *out = neg ? (int64_t)(0 - v) : (int64_t)v;
    return true;
}

/* ---------------------------------------------------------------- tree */

typedef struct builder {
    ap_arena *arena;
    const char *name;
    apus_diag *diag;
    unsigned flags;
    locale_t locale;
    ap_json *root;
    const char *key; /* of the next value */
    size_t key_len;
    ap_json *open[AP_JSON_MAX_DEPTH];
    ap_json *last[AP_JSON_MAX_DEPTH]; /* youngest child of open[i] */
} builder;

static apus_err out_of_room(builder *b)
{
    return ap_fail(b->diag, APUS_ENOMEM,
                   "%s: the JSON tree needs more memory than allowed (%zu bytes)", b->name,
                   b->arena->total);
}

typedef struct key_ref {
    uint64_t hash;
    const ap_json *node;
} key_ref;

static uint64_t hash_bytes(const char *s, size_t n)
{
    uint64_t h = 0xCBF29CE484222325u; /* FNV-1a */
    for (size_t i = 0; i < n; i++) h = (h ^ (uint8_t)s[i]) * 0x100000001B3u;
    return h;
}

static bool same_key(const ap_json *a, const ap_json *b)
{
    return a->key_len == b->key_len && !memcmp(a->key, b->key, a->key_len);
}

/* A total order: crafted collisions cost a comparison, never a quadratic search. */
static int compare_keys(const void *pa, const void *pb)
{
    const key_ref *a = pa, *b = pb;
    if (a->hash != b->hash) return a->hash < b->hash ? -1 : 1;
    if (a->node->key_len != b->node->key_len) return a->node->key_len < b->node->key_len ? -1 : 1;
    return memcmp(a->node->key, b->node->key, a->node->key_len);
}

static apus_err fail_duplicate(builder *b, const ap_json *n)
{
    return ap_fail(b->diag, APUS_EFORMAT, "%s: the key \"%.200s\" appears twice in one object",
                   b->name, n->key);
}

static apus_err check_duplicates(builder *b, const ap_json *o)
{
    if (o->len <= 8) {
        for (const ap_json *x = o->first; x; x = x->next)
            for (const ap_json *y = x->next; y; y = y->next)
                if (same_key(x, y)) return fail_duplicate(b, y);
        return APUS_OK;
    }
    key_ref *refs = ap_malloc(o->len, sizeof *refs);
    if (!refs) return ap_fail_nomem(b->diag, o->len * sizeof *refs, b->name);
    size_t n = 0;
    for (const ap_json *x = o->first; x; x = x->next)
        refs[n++] = (key_ref){hash_bytes(x->key, x->key_len), x};
    qsort(refs, n, sizeof *refs, compare_keys);
    apus_err err = APUS_OK;
    for (size_t i = 1; i < n && !err; i++)
        if (!compare_keys(&refs[i - 1], &refs[i])) err = fail_duplicate(b, refs[i].node);
    ap_free(refs);
    return err;
}

/* strtod in the "C" locale: the application's decimal point is not ours. */
static double to_double(builder *b, const char *s)
{
    locale_t old = uselocale(b->locale);
    double v = strtod(s, NULL);
    uselocale(old);
    return v;
}

static apus_err fill(builder *b, ap_json *n, const ap_json_event *e)
{
    switch (e->type) {
    case AP_JSON_EV_BEGIN_OBJECT:
        n->type = AP_JSON_OBJECT;
        return APUS_OK;
    case AP_JSON_EV_BEGIN_ARRAY:
        n->type = AP_JSON_ARRAY;
        return APUS_OK;
    case AP_JSON_EV_NULL:
        n->type = AP_JSON_NULL;
        return APUS_OK;
    case AP_JSON_EV_BOOL:
        n->type = AP_JSON_BOOL;
        n->boolean = e->boolean;
        return APUS_OK;
    default:
        break;
    }
    char *s = ap_arena_strndup(b->arena, e->str, e->len);
    if (!s) return out_of_room(b);
    n->str = s;
    n->len = e->len;
    if (e->type == AP_JSON_EV_STRING) {
        n->type = AP_JSON_STRING;
    } else if (ap_json_int(s, e->len, &n->integer)) {
        n->type = AP_JSON_INT;
        n->number = (double)n->integer;
    } else {
        n->type = AP_JSON_DOUBLE;
        n->number = to_double(b, s);
    }
    return APUS_OK;
}

static apus_err build(void *ctx, const ap_json_event *e)
{
    builder *b = ctx;
    if (e->type == AP_JSON_EV_KEY) {
        b->key = ap_arena_strndup(b->arena, e->str, e->len);
        b->key_len = e->len;
        return b->key ? APUS_OK : out_of_room(b);
    }
    if (e->type == AP_JSON_EV_END_ARRAY) return APUS_OK;
    if (e->type == AP_JSON_EV_END_OBJECT)
        return b->flags & AP_JSON_REJECT_DUPLICATES ? check_duplicates(b, b->open[e->depth])
                                                    : APUS_OK;
    ap_json *n = ap_arena_alloc(b->arena, sizeof *n);
    if (!n) return out_of_room(b);
    memset(n, 0, sizeof *n);
    apus_err err = fill(b, n, e);
    if (err) return err;
    if (e->depth == 0) {
        b->root = n;
    } else {
        ap_json *parent = b->open[e->depth - 1];
        if (parent->type == AP_JSON_OBJECT) {
            n->key = b->key;
            n->key_len = b->key_len;
        }
        if (b->last[e->depth - 1])
            b->last[e->depth - 1]->next = n;
        else
            parent->first = n;
        b->last[e->depth - 1] = n;
        parent->len++;
    }
    if (n->type == AP_JSON_OBJECT || n->type == AP_JSON_ARRAY) {
        b->open[e->depth] = n;
        b->last[e->depth] = NULL;
    }
    return APUS_OK;
}

apus_err ap_json_parse(ap_arena *a, const char *text, size_t len, const char *name, unsigned flags,
                       ap_json **out, apus_diag *diag)
{
    builder *b = ap_calloc(1, sizeof *b);
    if (!b) return ap_fail_nomem(diag, sizeof *b, "the JSON parser");
    b->arena = a;
    b->name = name;
    b->diag = diag;
    b->flags = flags;
    b->locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    apus_err err = b->locale ? ap_json_walk(text, len, name, build, b, diag)
                             : ap_fail_nomem(diag, 1024, "the JSON parser");
    if (!err) *out = b->root;
    if (b->locale) freelocale(b->locale);
    ap_free(b);
    return err;
}

const ap_json *ap_json_get(const ap_json *o, const char *key)
{
    const ap_json *found = NULL;
    if (!o || o->type != AP_JSON_OBJECT) return NULL;
    size_t n = strlen(key);
    for (const ap_json *c = o->first; c; c = c->next)
        if (c->key_len == n && !memcmp(c->key, key, n)) found = c;
    return found;
}

const ap_json *ap_json_at(const ap_json *array, size_t i)
{
    if (!array || array->type != AP_JSON_ARRAY) return NULL;
    const ap_json *c = array->first;
    while (c && i--) c = c->next;
    return c;
}

/* ---------------------------------------------------------------- writing */

void ap_buf_add(ap_buf *b, const char *s, size_t n)
{
    size_t need;
    if (b->failed) return;
    if (!ap_add_size(b->len, n, &need) || !ap_add_size(need, 1, &need)) {
        b->failed = true;
        return;
    }
    if (need > b->cap) {
        size_t cap = b->cap < 64 ? 64 : b->cap;
        while (cap < need) cap = cap > SIZE_MAX / 2 ? need : cap * 2;
        char *p = ap_realloc(b->data, cap, 1);
        if (!p) {
            b->failed = true;
            return;
        }
        b->data = p;
        b->cap = cap;
    }
    if (n) memcpy(b->data + b->len, s, n);
    b->len += n;
    b->data[b->len] = 0;
}

void ap_buf_adds(ap_buf *b, const char *s)
{
    ap_buf_add(b, s, strlen(s));
}

void ap_buf_addf(ap_buf *b, const char *fmt, ...)
{
    char small[256];
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(small, sizeof small, fmt, ap);
    if (n < 0) {
        b->failed = true;
    } else if ((size_t)n < sizeof small) {
        ap_buf_add(b, small, (size_t)n);
    } else {
        char *big = ap_malloc((size_t)n + 1, 1);
        if (big) vsnprintf(big, (size_t)n + 1, fmt, again);
        if (big)
            ap_buf_add(b, big, (size_t)n);
        else
            b->failed = true;
        ap_free(big);
    }
    va_end(again);
    va_end(ap);
}

void ap_buf_free(ap_buf *b)
{
    ap_free(b->data);
    memset(b, 0, sizeof *b);
}

static void quote_unit(ap_buf *b, unsigned u)
{
    ap_buf_addf(b, "\\u%04x", u);
}

/* One character of s as JSON has it; returns its length in s. */
static size_t quote_char(ap_buf *b, const char *s, size_t n, bool ascii)
{
    uint32_t cp;
    size_t len = ap_utf8_decode(s, n, &cp);
    switch (cp) {
    case '"':
        ap_buf_adds(b, "\\\"");
        return len;
    case '\\':
        ap_buf_adds(b, "\\\\");
        return len;
    case '\n':
        ap_buf_adds(b, "\\n");
        return len;
    case '\r':
        ap_buf_adds(b, "\\r");
        return len;
    case '\t':
        ap_buf_adds(b, "\\t");
        return len;
    case '\b':
        ap_buf_adds(b, "\\b");
        return len;
    case '\f':
        ap_buf_adds(b, "\\f");
        return len;
    default:
        break;
    }
    if (cp < 0x20 || (ascii && cp > 0x7E && cp < 0x10000)) {
        quote_unit(b, cp);
    } else if (ascii && cp >= 0x10000) {
        quote_unit(b, 0xD800 + ((cp - 0x10000) >> 10));
        quote_unit(b, 0xDC00 + ((cp - 0x10000) & 0x3FF));
    } else {
        char utf8[4]; /* encoded again: an invalid sequence becomes U+FFFD */
        ap_buf_add(b, utf8, ap_utf8_encode(cp, utf8));
    }
    return len;
}

void ap_json_quote(ap_buf *b, const char *s, size_t n, bool ascii)
{
    ap_buf_add(b, "\"", 1);
    size_t i = 0;
    while (i < n) {
        size_t run = i; /* plain ASCII goes in one piece */
        while (run < n && (uint8_t)s[run] >= 0x20 && (uint8_t)s[run] < 0x7F && s[run] != '"' &&
               s[run] != '\\')
            run++;
        ap_buf_add(b, s + i, run - i);
        i = run;
        if (i < n) i += quote_char(b, s + i, n - i, ascii);
    }
    ap_buf_add(b, "\"", 1);
}
