#include "text/decoder.h"

#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "text/bpe.h"
#include "text/normalizer.h"

#define REPLACEMENT "\xEF\xBF\xBD"

enum { MAX_GROWTH = 1024 };

typedef struct ap_decoder_stage stage;
typedef struct ap_decoding_stage state;

/* ---------------------------------------------------------------- reading */

void ap_decoder_free(ap_decoder *d)
{
    for (int i = 0; i < d->n; i++) {
        ap_free(d->stages[i].what);
        ap_free(d->stages[i].with);
    }
    memset(d, 0, sizeof *d);
}

static bool one_char(const char *s, size_t n)
{
    uint32_t cp;
    return n && ap_utf8_decode(s, n, &cp) == n;
}

static apus_err read_count(const ap_json *j, const char *key, const char *where, size_t *out,
                           apus_diag *diag)
{
    const ap_json *v = ap_json_get(j, key);
    if (!v || v->type != AP_JSON_INT || v->integer < 0)
        return ap_fail(diag, APUS_EFORMAT, "%s: \"%s\" is missing or not a count", where, key);
    *out = (size_t)v->integer;
    return APUS_OK;
}

static apus_err read_replace(const ap_json *j, stage *st, const char *where, apus_diag *diag)
{
    ap_regex *regex = NULL;
    st->kind = AP_DEC_REPLACE;
    apus_err err = ap_component_pattern(j, where, &st->what, &st->what_len, &regex, diag);
    if (!err) err = ap_component_string(j, "content", where, &st->with, &st->with_len, diag);
    if (!err && regex)
        err = ap_fail(diag, APUS_EUNSUPPORTED, "%s with a Regex is not supported", where);
    if (!err && st->flows && !one_char(st->what, st->what_len))
        err = ap_fail(diag, APUS_EUNSUPPORTED,
                      "%s of more than one character after Fuse is not supported", where);
    ap_regex_free(regex);
    return err;
}

static apus_err read_char(const ap_json *j, const char *key, stage *st, const char *where,
                          apus_diag *diag)
{
    apus_err err = ap_component_string(j, key, where, &st->what, &st->what_len, diag);
    if (!err && !one_char(st->what, st->what_len))
        err = ap_fail(diag, APUS_EFORMAT, "%s: \"%s\" is not one character", where, key);
    return err;
}

static apus_err read_metaspace(const ap_json *j, stage *st, const char *where, apus_diag *diag)
{
    const ap_json *scheme = ap_json_get(j, "prepend_scheme");
    bool add;
    st->kind = AP_DEC_METASPACE;
    apus_err err = ap_component_bool(j, "add_prefix_space", true, where, &add, diag);
    st->skip_first =
        add && !(scheme && scheme->type == AP_JSON_STRING && strcmp(scheme->str, "never") == 0);
    return err ? err : read_char(j, "replacement", st, where, diag);
}

static apus_err read_strip(const ap_json *j, stage *st, const char *where, apus_diag *diag)
{
    st->kind = AP_DEC_STRIP;
    apus_err err = read_char(j, "content", st, where, diag);
    if (!err) err = read_count(j, "start", where, &st->start, diag);
    return err ? err : read_count(j, "stop", where, &st->stop, diag);
}

static apus_err add(ap_decoder *d, const ap_json *j, const char *name, int depth, apus_diag *diag)
{
    const char *type = ap_component_type(j);
    if (strcmp(type, "Sequence") == 0 && depth < 8) {
        const ap_json *list = ap_json_get(j, "decoders");
        if (!list || list->type != AP_JSON_ARRAY)
            return ap_fail(diag, APUS_EFORMAT, "%s: decoder Sequence without its list", name);
        apus_err err = APUS_OK;
        for (const ap_json *e = list->first; e && !err; e = e->next)
            err = add(d, e, name, depth + 1, diag);
        return err;
    }
    char where[256];
    ap_component_where(where, sizeof where, name, "decoder", type);
    if (d->n == AP_DECODER_MAX)
        return ap_fail(diag, APUS_EUNSUPPORTED, "%s: more than %d decoders", name, AP_DECODER_MAX);
    stage *st = &d->stages[d->n++];
    memset(st, 0, sizeof *st);
    if (d->n > 1)
        st->flows = st[-1].flows || st[-1].kind == AP_DEC_FUSE || st[-1].kind == AP_DEC_BYTES;
    bool whole_only = strcmp(type, "ByteLevel") == 0 || strcmp(type, "ByteFallback") == 0;
    if (st->flows && whole_only)
        return ap_fail(diag, APUS_EUNSUPPORTED, "%s after Fuse or ByteLevel is not supported",
                       where);
    if (strcmp(type, "ByteLevel") == 0)
        st->kind = AP_DEC_BYTES;
    else if (strcmp(type, "ByteFallback") == 0)
        st->kind = AP_DEC_BYTE_FALLBACK;
    else if (strcmp(type, "Fuse") == 0)
        st->kind = AP_DEC_FUSE;
    else if (strcmp(type, "Replace") == 0)
        return read_replace(j, st, where, diag);
    else if (strcmp(type, "Strip") == 0)
        return read_strip(j, st, where, diag);
    else if (strcmp(type, "Metaspace") == 0)
        return read_metaspace(j, st, where, diag);
    else
        return ap_fail(diag, APUS_EUNSUPPORTED, "%s is not supported", where);
    return APUS_OK;
}

/* Replace rules feed each other: bound what they may make of one byte. */
static apus_err check_growth(const ap_decoder *d, const char *name, apus_diag *diag)
{
    size_t growth = 1;
    for (int i = 0; i < d->n; i++) {
        const stage *st = &d->stages[i];
        if (st->kind == AP_DEC_REPLACE && st->with_len > st->what_len)
            growth *= (st->with_len + st->what_len - 1) / st->what_len;
        if (growth > MAX_GROWTH)
            return ap_fail(diag, APUS_EFORMAT,
                           "%s: the decoder's Replace rules may make more than %d bytes of one",
                           name, MAX_GROWTH);
    }
    return APUS_OK;
}

apus_err ap_decoder_parse(const ap_json *j, const char *name, ap_decoder *out, apus_diag *diag)
{
    memset(out, 0, sizeof *out);
    if (!j || j->type == AP_JSON_NULL) {
        out->stages[out->n++].kind = AP_DEC_JOIN;
        return APUS_OK;
    }
    apus_err err = add(out, j, name, 0, diag);
    if (!err) err = check_growth(out, name, diag);
    if (err) ap_decoder_free(out);
    return err;
}

/* ---------------------------------------------------------------- stages */

void ap_decoding_free(ap_decoding *s)
{
    for (int i = 0; i < AP_DECODER_MAX; i++) {
        ap_buf_free(&s->stages[i].held);
        ap_buf_free(&s->stages[i].made);
    }
    ap_buf_free(&s->out);
    memset(s, 0, sizeof *s);
}

static void push(const ap_decoder *d, ap_decoding *s, int k, const char *token, size_t n);

static void hand_on(const ap_decoder *d, ap_decoding *s, int k)
{
    state *me = &s->stages[k];
    push(d, s, k + 1, me->made.data ? me->made.data : "", me->made.len);
}

static void replace(const stage *st, ap_buf *out, const char *s, size_t n)
{
    size_t done = 0;
    for (size_t i = 0; n - i >= st->what_len;) {
        const char *p = memchr(s + i, st->what[0], n - i - st->what_len + 1);
        if (!p) break;
        i = (size_t)(p - s);
        if (memcmp(p, st->what, st->what_len) != 0) {
            i++;
            continue;
        }
        ap_buf_add(out, s + done, i - done);
        ap_buf_add(out, st->with, st->with_len);
        done = i += st->what_len;
    }
    ap_buf_add(out, s + done, n - done);
}

static void metaspace(const stage *st, state *me, const char *s, size_t n)
{
    bool first = !me->begun || st->flows;
    for (size_t i = 0; i < n;) {
        if (n - i >= st->what_len && memcmp(s + i, st->what, st->what_len) == 0) {
            if (!first || !st->skip_first) ap_buf_add(&me->made, " ", 1);
            i += st->what_len;
        } else {
            ap_buf_add(&me->made, s + i++, 1);
        }
    }
}

/* A whole token. The reference counts from the end without looking at the start. */
static void strip_token(const stage *st, ap_buf *out, const char *s, size_t n)
{
    size_t from = 0, to = n, m = st->what_len;
    for (size_t i = 0; i < st->start && n - from >= m && memcmp(s + from, st->what, m) == 0; i++)
        from += m;
    for (size_t i = 0; i < st->stop && to >= m && memcmp(s + to - m, st->what, m) == 0; i++)
        to -= m;
    if (from < to) ap_buf_add(out, s + from, to - from);
}

/* A token in pieces: what may be its end is kept back. */
static void strip_flow(const stage *st, state *me, const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        size_t len = ap_utf8_decode(s + i, n - i, &cp);
        bool hit = len == st->what_len && memcmp(s + i, st->what, len) == 0;
        if (hit && !me->begun && me->skipped < st->start) {
            me->skipped++;
        } else {
            me->begun = true;
            if (hit && me->pending < st->stop) {
                me->pending++;
            } else {
                for (; !hit && me->pending; me->pending--)
                    ap_buf_add(&me->made, st->what, st->what_len);
                ap_buf_add(&me->made, s + i, len);
            }
        }
        i += len;
    }
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The byte of a token <0xNN>, or -1. The reference's number parser takes a plus sign as well. */
static int byte_token(const char *s, size_t n)
{
    if (n != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>') return -1;
    int hi = s[3] == '+' ? 0 : hex_digit(s[3]), lo = hex_digit(s[4]);
    return hi < 0 || lo < 0 ? -1 : hi * 16 + lo;
}

/* The run of bytes is over: text if all of it is, else a sign for every byte. */
static void end_run(const ap_decoder *d, ap_decoding *s, int k)
{
    state *me = &s->stages[k];
    if (!me->held.len) return;
    if (ap_utf8_valid(me->held.data, me->held.len)) {
        push(d, s, k + 1, me->held.data, me->held.len);
    } else {
        for (size_t i = 0; i < me->held.len; i++) push(d, s, k + 1, REPLACEMENT, 3);
    }
    me->held.len = 0;
}

/* Hand on what is certain of the bytes gathered. end: nothing follows. */
static void spell_out(const ap_decoder *d, ap_decoding *s, int k, bool end)
{
    state *me = &s->stages[k];
    if (!me->held.len) return;
    size_t whole = me->held.len;
    if (!end) whole -= ap_utf8_incomplete_tail(me->held.data, whole);
    me->made.len = 0;
    for (size_t i = 0; i < whole;) {
        uint32_t cp;
        size_t len = ap_utf8_decode(me->held.data + i, whole - i, &cp);
        if (cp == 0xFFFD)
            ap_buf_add(&me->made, REPLACEMENT, 3);
        else
            ap_buf_add(&me->made, me->held.data + i, len);
        i += len;
    }
    memmove(me->held.data, me->held.data + whole, me->held.len - whole);
    me->held.len -= whole;
    if (me->made.len) hand_on(d, s, k);
}

/* Characters of the GPT-2 alphabet are bytes; a token with any other stands for itself. */
static void gather_bytes(state *me, const char *s, size_t n)
{
    size_t before = me->held.len;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        i += ap_utf8_decode(s + i, n - i, &cp);
        int byte = ap_bpe_char_byte(cp);
        if (byte < 0) {
            me->held.len = before;
            ap_buf_add(&me->held, s, n);
            return;
        }
        char c = (char)byte;
        ap_buf_add(&me->held, &c, 1);
    }
}

static void push(const ap_decoder *d, ap_decoding *s, int k, const char *token, size_t n)
{
    if (k == d->n) {
        ap_buf_add(&s->out, token, n);
        return;
    }
    const stage *st = &d->stages[k];
    state *me = &s->stages[k];
    int byte;
    me->made.len = 0;
    switch (st->kind) {
    case AP_DEC_FUSE:
        push(d, s, k + 1, token, n);
        return;
    case AP_DEC_BYTES:
        gather_bytes(me, token, n);
        spell_out(d, s, k, false);
        return;
    case AP_DEC_BYTE_FALLBACK:
        byte = byte_token(token, n);
        if (byte < 0) {
            end_run(d, s, k);
            push(d, s, k + 1, token, n);
        } else {
            char c = (char)byte;
            ap_buf_add(&me->held, &c, 1);
        }
        return;
    case AP_DEC_JOIN:
        if (me->begun) ap_buf_add(&me->made, " ", 1);
        ap_buf_add(&me->made, token, n);
        me->begun = true;
        break;
    case AP_DEC_REPLACE:
        replace(st, &me->made, token, n);
        break;
    case AP_DEC_METASPACE:
        metaspace(st, me, token, n);
        me->begun = true;
        break;
    case AP_DEC_STRIP:
        if (st->flows)
            strip_flow(st, me, token, n);
        else
            strip_token(st, &me->made, token, n);
        break;
    }
    hand_on(d, s, k);
}

static bool failed(const ap_decoder *d, const ap_decoding *s)
{
    bool bad = s->out.failed;
    for (int i = 0; i < d->n; i++) bad |= s->stages[i].held.failed || s->stages[i].made.failed;
    return bad;
}

bool ap_decoding_push(const ap_decoder *d, ap_decoding *s, const char *token, size_t n)
{
    push(d, s, 0, token, n);
    return !failed(d, s);
}

bool ap_decoding_end(const ap_decoder *d, ap_decoding *s)
{
    for (int k = 0; k < d->n; k++) {
        if (d->stages[k].kind == AP_DEC_BYTE_FALLBACK) end_run(d, s, k);
        if (d->stages[k].kind == AP_DEC_BYTES) spell_out(d, s, k, true);
    }
    return !failed(d, s);
}

/* ---------------------------------------------------------------- a token alone */

bool ap_decoder_bytes(const ap_decoder *d, const char *token, size_t n, ap_buf *out)
{
    state held = {0};
    ap_buf text = {0};
    bool known = true, as_byte = false;
    ap_buf_add(&text, token, n);
    for (int k = 0; k < d->n && known && !as_byte; k++) {
        const stage *st = &d->stages[k];
        ap_buf made = {0};
        int byte;
        switch (st->kind) {
        case AP_DEC_REPLACE:
            replace(st, &made, text.data, text.len);
            break;
        case AP_DEC_METASPACE:
            held.begun = true; /* as anywhere but at the beginning */
            metaspace(st, &held, text.data, text.len);
            ap_buf_add(&made, held.made.data ? held.made.data : "", held.made.len);
            break;
        case AP_DEC_BYTE_FALLBACK:
            byte = byte_token(text.data, text.len);
            as_byte = byte >= 0;
            if (as_byte) ap_buf_add(&made, &(char){(char)byte}, 1);
            break;
        case AP_DEC_BYTES:
            gather_bytes(&held, text.data, text.len);
            ap_buf_add(&made, held.held.data ? held.held.data : "", held.held.len);
            break;
        case AP_DEC_STRIP:
            known = st->stop == 0;
            break;
        case AP_DEC_FUSE:
            break;
        case AP_DEC_JOIN:
            known = false;
            break;
        }
        bool changed = st->kind == AP_DEC_REPLACE || st->kind == AP_DEC_METASPACE ||
                       st->kind == AP_DEC_BYTES || as_byte;
        if (changed) {
            ap_buf_free(&text);
            text = made;
        }
    }
    if (known) ap_buf_add(out, text.data ? text.data : "", text.len);
    out->failed = out->failed || text.failed;
    ap_buf_free(&text);
    ap_buf_free(&held.made);
    ap_buf_free(&held.held);
    return known;
}
