#include "text/guard.h"

#include <string.h>

#include "text/tokenizer_impl.h"

enum { GUARD = sizeof AP_GUARD - 1 };

static const char *find_guard(const char *s, size_t n)
{
    for (size_t i = 0; i + GUARD <= n; i++)
        if (!memcmp(s + i, AP_GUARD, GUARD)) return s + i;
    return NULL;
}

void ap_guard_drop(ap_buf *out, const char *s, size_t n)
{
    const char *at;
    while ((at = find_guard(s, n))) {
        ap_buf_add(out, s, (size_t)(at - s));
        n -= (size_t)(at - s) + GUARD;
        s = at + GUARD;
    }
    ap_buf_add(out, s, n);
}

typedef struct guarding {
    const ap_tokenizer *t;
    const char *text;
    bool special;
    bool any; /* there was a marker */
    ap_buf out;
} guarding;

/* The pieces of a string: a marker is cut behind its first byte, which no character goes across. */
static apus_err on_piece(void *ctx, int32_t id, size_t from, size_t to)
{
    guarding *g = ctx;
    const char *s = g->text + from;
    size_t n = to - from;
    if (id < 0 || n < 2 || (uint8_t)*s >= 0x80 ||
        (g->special && !ap_tokenizer_is_special(g->t, id))) {
        ap_buf_add(&g->out, s, n);
        return APUS_OK;
    }
    g->any = true;
    ap_buf_add(&g->out, s, 1);
    ap_buf_adds(&g->out, AP_GUARD);
    ap_buf_add(&g->out, s + 1, n - 1);
    return APUS_OK;
}

/* A copy without guards of its own; the text itself if there are none. NULL: memory is out. */
static const char *without_guards(ap_arena *mem, const char *s, size_t n)
{
    if (!find_guard(s, n)) return s;
    char *copy = ap_arena_strndup(mem, s, n), *at;
    while (copy && (at = (char *)find_guard(copy, n))) memcpy(at, "\xEF\xBF\xBD", GUARD);
    return copy;
}

static apus_err guard_text(const ap_tokenizer *t, ap_arena *mem, const char **s, size_t *n,
                           bool special, apus_diag *diag)
{
    guarding g = {.t = t, .text = without_guards(mem, *s, *n), .special = special};
    if (!g.text) return ap_fail_nomem(diag, *n, "a message");
    apus_err err = ap_added_split(&t->added, false, AP_ADDED_MARKED, g.text, *n, on_piece, &g);
    *s = g.text;
    if (!err && g.any) {
        *s = g.out.failed ? NULL : ap_arena_strndup(mem, g.out.data, g.out.len);
        *n = g.out.len;
    }
    ap_buf_free(&g.out);
    return !err && !*s ? ap_fail_nomem(diag, *n, "a message") : err;
}

/* Depth is bounded by AP_JSON_MAX_DEPTH. */
apus_err ap_guard_json(const ap_tokenizer *t, ap_arena *mem, ap_json *value, bool special,
                       apus_diag *diag)
{
    apus_err err = APUS_OK;
    size_t len = value->str ? strlen(value->str) : 0; /* of an object that came as a string */
    if (value->type == AP_JSON_STRING)
        err = guard_text(t, mem, &value->str, &value->len, special, diag);
    else if (value->type == AP_JSON_OBJECT && value->str)
        err = guard_text(t, mem, &value->str, &len, special, diag);
    for (ap_json *m = value->first; m && !err; m = m->next) {
        if (m->key) err = guard_text(t, mem, &m->key, &m->key_len, special, diag);
        if (!err) err = ap_guard_json(t, mem, m, special, diag);
    }
    return err;
}
