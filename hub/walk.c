#include "walk.h"

#include <setjmp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <yajl/yajl_parse.h>

enum { MAX_DEPTH = 32, MAX_PATH_BYTES = 500 };

/* What the parser holds: it does not look whether it was given memory, so it is left without it, and what it held
 * is freed here. */
typedef struct ring {
    struct ring *prev, *next;
} ring;

typedef struct held {
    ring link;
    max_align_t data[];
} held;

typedef struct walk {
    hub_json_fn fn;
    void *ctx;
    apus_diag *why;
    const char *name;
    char path[MAX_PATH_BYTES + 8];
    size_t begin[MAX_DEPTH + 1]; /* where the path of each open container ends */
    bool array[MAX_DEPTH + 1];
    int depth; /* open containers */
    bool failed;
    ring all; /* the parser's */
    jmp_buf out_of_memory;
} walk;

/* ---------------------------------------------------------------- memory of the parser */

static held *held_of(void *p)
{
    return (held *)((char *)p - offsetof(held, data));
}

static void y_free(void *ctx, void *p)
{
    (void)ctx;
    if (!p) return;
    held *h = held_of(p);
    h->link.prev->next = h->link.next;
    h->link.next->prev = h->link.prev;
    free(h);
}

static void *y_realloc(void *ctx, void *p, size_t n)
{
    walk *w = ctx;
    held *h = realloc(p ? held_of(p) : NULL, sizeof *h + n);
    if (!h) longjmp(w->out_of_memory, 1);
    if (!p) h->link = (ring){&w->all, w->all.next};
    h->link.prev->next = h->link.next->prev = &h->link;
    return h->data;
}

static void *y_malloc(void *ctx, size_t n)
{
    return y_realloc(ctx, NULL, n);
}

/* ---------------------------------------------------------------- what comes */

static void append(walk *w, size_t at, const char *s, size_t n)
{
    if (at + n > MAX_PATH_BYTES) n = MAX_PATH_BYTES - at;
    memcpy(w->path + at, s, n);
    w->path[at + n] = 0;
}

static int tell(walk *w, hub_json_type type, const char *s, size_t n)
{
    hub_json v = {w->path, type, s, n};
    if (w->fn(w->ctx, &v, w->why)) return 1;
    w->failed = true;
    return 0;
}

static int open_container(walk *w, bool array)
{
    if (w->depth == MAX_DEPTH) {
        w->failed = true;
        hub_fail(w->why, "%s: more than %d levels of JSON", w->name, MAX_DEPTH);
        return 0;
    }
    w->depth++;
    if (array) append(w, strlen(w->path), "[]", 2);
    w->begin[w->depth] = strlen(w->path);
    w->array[w->depth] = array;
    return 1;
}

/* The path of what stands around it again. */
static void close_container(walk *w)
{
    w->depth--;
    w->path[w->depth ? w->begin[w->depth] : 0] = 0;
}

static int on_key(void *ctx, const unsigned char *s, size_t n)
{
    walk *w = ctx;
    size_t at = w->begin[w->depth];
    if (at) append(w, at++, "/", 1);
    append(w, at > MAX_PATH_BYTES ? MAX_PATH_BYTES : at, (const char *)s, n);
    return 1;
}

static int on_map(void *ctx)
{
    return open_container(ctx, false);
}
static int on_array(void *ctx)
{
    return open_container(ctx, true);
}

static int on_end_map(void *ctx)
{
    walk *w = ctx;
    w->path[w->begin[w->depth]] = 0;
    int ok = tell(w, HUB_JSON_END, "", 0);
    close_container(w);
    return ok;
}
static int on_end_array(void *ctx)
{
    close_container(ctx);
    return 1;
}

static int on_string(void *ctx, const unsigned char *s, size_t n)
{
    return tell(ctx, HUB_JSON_STRING, (const char *)s, n);
}
static int on_number(void *ctx, const char *s, size_t n)
{
    return tell(ctx, HUB_JSON_NUMBER, s, n);
}
static int on_bool(void *ctx, int v)
{
    return tell(ctx, HUB_JSON_OTHER, v ? "true" : "false", v ? 4 : 5);
}
static int on_null(void *ctx)
{
    return tell(ctx, HUB_JSON_OTHER, "null", 4);
}

static bool parse(walk *w, const char *text, size_t len)
{
    static const yajl_callbacks callbacks = {.yajl_null = on_null,
                                             .yajl_boolean = on_bool,
                                             .yajl_number = on_number,
                                             .yajl_string = on_string,
                                             .yajl_start_map = on_map,
                                             .yajl_map_key = on_key,
                                             .yajl_end_map = on_end_map,
                                             .yajl_start_array = on_array,
                                             .yajl_end_array = on_end_array};
    yajl_alloc_funcs mem = {y_malloc, y_realloc, y_free, w};
    if (setjmp(w->out_of_memory)) return hub_no_memory(w->why);
    yajl_handle h = yajl_alloc(&callbacks, &mem, w);
    yajl_status s = yajl_parse(h, (const unsigned char *)text, len);
    if (s == yajl_status_ok) s = yajl_complete_parse(h);
    if (w->failed) return false;
    return s == yajl_status_ok || hub_fail(w->why, "%s: not JSON", w->name);
}

bool hub_json_walk(const char *text, size_t len, const char *name, hub_json_fn fn, void *ctx,
                   apus_diag *why)
{
    walk w = {.fn = fn, .ctx = ctx, .why = why, .name = name};
    w.all.prev = w.all.next = &w.all;
    bool ok = parse(&w, text, len);
    while (w.all.next != &w.all) y_free(&w, ((held *)w.all.next)->data);
    return ok;
}

bool hub_json_copy(const hub_json *v, char *out, size_t cap)
{
    if (v->type != HUB_JSON_STRING || v->len >= cap || memchr(v->text, 0, v->len)) return false;
    memcpy(out, v->text, v->len);
    out[v->len] = 0;
    return true;
}

bool hub_json_size(const hub_json *v, uint64_t *out)
{
    uint64_t n = 0;
    if (v->type != HUB_JSON_NUMBER || v->len == 0 || v->len > 18) return false;
    for (size_t i = 0; i < v->len; i++) {
        if (v->text[i] < '0' || v->text[i] > '9') return false;
        n = n * 10 + (uint64_t)(v->text[i] - '0');
    }
    *out = n;
    return true;
}
