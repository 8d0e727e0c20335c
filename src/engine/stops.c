/* stops.c - all stop strings are followed through the text at once, byte by byte, each with the
 * failure links of Knuth, Morris and Pratt. The longest beginning of one that the text ends with is
 * what is held back. */
#include "engine/stops.h"

#include <string.h>

#include "apus/apus_unstable.h"
#include "base/mem.h"
#include "base/utf8.h"

typedef struct stop {
    const char *text;
    size_t len;
    size_t matched; /* the text ends with as many bytes of the string's beginning */
    size_t *link;   /* [len] where to go on when the byte after so many does not fit */
} stop;

struct apus_stops {
    stop *stop; /* [n] */
    int n;
    size_t *links; /* of all strings */
    char *buf;     /* what was given out last, then what is held back */
    size_t cap, given, held;
};

/* link[i]: length of the longest end of text[0..i] that is a beginning of it, and not all of it. */
static void make_links(stop *s)
{
    s->link[0] = 0;
    for (size_t i = 1, k = 0; i < s->len; i++) {
        while (k && s->text[i] != s->text[k]) k = s->link[k - 1];
        if (s->text[i] == s->text[k]) k++;
        s->link[i] = k;
    }
}

static apus_err check(const char *const *strings, int n, size_t *bytes, apus_diag *diag)
{
    *bytes = 0;
    for (int i = 0; i < n; i++) {
        size_t len = strings[i] ? strlen(strings[i]) : 0;
        if (!len)
            return ap_fail(diag, APUS_EINVAL, "stop string %d: expected a text, found none", i);
        if (!ap_utf8_valid(strings[i], len))
            return ap_fail(diag, APUS_EINVAL, "stop string %d: expected UTF-8", i);
        if (!ap_add_size(*bytes, len, bytes)) return ap_fail_nomem(diag, len, "stop strings");
    }
    return APUS_OK;
}

apus_err ap_stops_create(const char *const *strings, int n, ap_stops **out, apus_diag *diag)
{
    size_t bytes, at = 0;
    apus_err err = check(strings, n, &bytes, diag);
    if (err) return err;
    ap_stops *s = ap_calloc(1, sizeof *s);
    if (s) s->stop = ap_calloc((size_t)n, sizeof *s->stop);
    if (s) s->links = ap_calloc(bytes, sizeof *s->links);
    if (!s || !s->stop || !s->links) {
        ap_stops_free(s);
        return ap_fail_nomem(diag, bytes, "stop strings");
    }
    s->n = n;
    for (int i = 0; i < n; i++) {
        s->stop[i] = (stop){.text = strings[i], .len = strlen(strings[i]), .link = s->links + at};
        at += s->stop[i].len;
        make_links(&s->stop[i]);
    }
    *out = s;
    return APUS_OK;
}

void ap_stops_free(ap_stops *s)
{
    if (!s) return;
    ap_free(s->stop);
    ap_free(s->links);
    ap_free(s->buf);
    ap_free(s);
}

/* Drop what was given out, and put text behind what is held back. */
static bool append(ap_stops *s, const char *text, size_t n)
{
    size_t need;
    if (s->held) memmove(s->buf, s->buf + s->given, s->held);
    s->given = 0;
    if (!ap_add_size(s->held, n, &need)) return false;
    if (need > s->cap) {
        char *p = ap_realloc(s->buf, need, 2);
        if (!p) return false;
        s->buf = p;
        s->cap = need * 2;
    }
    memcpy(s->buf + s->held, text, n);
    s->held = need;
    return true;
}

/* The text goes on with c. Returns the longest string that is complete now, or -1. */
static int follow(ap_stops *s, char c)
{
    int hit = -1;
    for (int i = 0; i < s->n; i++) {
        stop *t = &s->stop[i];
        while (t->matched && t->text[t->matched] != c) t->matched = t->link[t->matched - 1];
        if (t->text[t->matched] == c) t->matched++;
        if (t->matched == t->len && (hit < 0 || t->len > s->stop[hit].len)) hit = i;
    }
    return hit;
}

static void give(ap_stops *s, size_t n, const char **out, size_t *len)
{
    s->given = n;
    s->held -= n;
    *out = n ? s->buf : "";
    *len = n;
}

apus_err ap_stops_push(ap_stops *s, const char *text, size_t n, const char **out, size_t *len,
                       int *hit, apus_diag *diag)
{
    *out = "";
    *len = 0;
    *hit = -1;
    if (n == 0) return APUS_OK;
    size_t at = s->held, most = 0;
    if (!append(s, text, n)) return ap_fail_nomem(diag, n, "text");
    for (; at < s->held; at++) {
        *hit = follow(s, s->buf[at]);
        if (*hit < 0) continue;
        give(s, at + 1 - s->stop[*hit].len, out, len);
        s->held = 0;
        return APUS_OK;
    }
    for (int i = 0; i < s->n; i++)
        if (s->stop[i].matched > most) most = s->stop[i].matched;
    give(s, s->held - most, out, len);
    return APUS_OK;
}

void ap_stops_finish(ap_stops *s, const char **out, size_t *len)
{
    if (s->held) memmove(s->buf, s->buf + s->given, s->held);
    give(s, s->held, out, len);
}

/* ---------------------------------------------------------------- public */

apus_err apus_stops_create(const char *const *strings, int n, apus_stops **out, apus_diag *diag)
{
    if (n < 0 || (n && !strings) || !out)
        return ap_fail(diag, APUS_EINVAL, "apus_stops_create: strings and out are needed");
    return ap_stops_create(strings, n, out, diag);
}

apus_err apus_stops_push(apus_stops *s, const char *text, size_t len, const char **out,
                         size_t *out_len, int *hit, apus_diag *diag)
{
    if (!s || (!text && len) || !out || !out_len || !hit)
        return ap_fail(diag, APUS_EINVAL,
                       "apus_stops_push: stops, text, out, out_len and hit are needed");
    return ap_stops_push(s, text ? text : "", len, out, out_len, hit, diag);
}

apus_err apus_stops_finish(apus_stops *s, const char **out, size_t *out_len)
{
    if (!s || !out || !out_len) return APUS_EINVAL;
    ap_stops_finish(s, out, out_len);
    return APUS_OK;
}

void apus_stops_free(apus_stops *s)
{
    ap_stops_free(s);
}
