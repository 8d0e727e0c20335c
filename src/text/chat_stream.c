/* chat_stream.c - the streaming output parser: text in, events out. */
#include "text/chat_stream.h"

#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"

/* ---------------------------------------------------------------- markers */

int ap_stream_next_is(const ap_stream *p, size_t at, const char *word)
{
    size_t n = strlen(word), have = p->in.len - at;
    size_t k = have < n ? have : n;
    if (k && memcmp(p->in.data + at, word, k)) return 0;
    return k == n ? 1 : p->final ? 0 : -1;
}

size_t ap_stream_find(const ap_stream *p, size_t from, const char *const *set, int *which,
                      size_t *safe)
{
    for (size_t i = from; i < p->in.len; i++) {
        const char *hit = memchr(p->in.data + i, '<', p->in.len - i);
        if (!hit) break;
        i = (size_t)(hit - p->in.data);
        bool open = false;
        for (int k = 0; set[k]; k++) {
            int r = ap_stream_next_is(p, i, set[k]);
            if (r == 1) {
                *which = k;
                return i;
            }
            open |= r < 0;
        }
        if (open) {
            *safe = i;
            return SIZE_MAX;
        }
    }
    *safe = p->in.len;
    return SIZE_MAX;
}

/* ---------------------------------------------------------------- delivery */

static void emit(ap_stream *p, apus_part part, const char *s, size_t n)
{
    if (!n) return;
    if (part == APUS_PART_CONTENT) p->has_content = true;
    p->fn(p->ctx, &(apus_event){.size = sizeof(apus_event), .part = part, .text = s, .len = n});
}

static bool is_ws(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

void ap_stream_text(ap_stream *p, apus_part part, size_t to)
{
    const char *s = p->in.data;
    size_t from = p->pos, end = to;
    p->pos = to;
    if (p->skip_nl) {
        while (from < end && s[from] == '\n') from++;
        p->skip_nl = from == end;
    }
    if (p->after_call) {
        size_t start = from;
        while (from < end && is_ws(s[from])) from++;
        ap_buf_add(&p->ws, s + start, from - start);
        p->after_call = from == end;
        if (!p->after_call && !p->has_content) p->ws.len = 0;
    }
    if (from == end) return;
    while (end > from && s[end - 1] == '\n') end--;
    if (end > from && p->ws.len) {
        emit(p, part, p->ws.data, p->ws.len);
        p->ws.len = 0;
    }
    emit(p, part, s + from, end - from);
    ap_buf_add(&p->ws, s + end, to - end);
}

void ap_stream_end_think(ap_stream *p)
{
    p->ws.len = 0;
    p->skip_nl = true;
}

void ap_stream_call(ap_stream *p, const char *name, size_t len, const char *args, size_t args_len)
{
    p->fn(
        p->ctx,
        &(apus_event){
            .size = sizeof(apus_event),
            .part = APUS_PART_CALL, .text = name, .len = len, .args = args, .args_len = args_len});
    p->after_call = true;
    p->skip_nl = false;
}

void ap_stream_quote(ap_stream *p)
{
    p->pos += strlen(AP_STREAM_QUOTE) - 1;
    p->in.data[p->pos] = '"';
    ap_stream_text(p, APUS_PART_CONTENT, p->pos + 1);
}

void ap_stream_broken(ap_stream *p, size_t to, const char *const *hidden)
{
    size_t len = p->in.len;
    p->in.len = to; /* look no further: many broken calls must not read the rest again and again */
    while (p->pos < to) {
        int which = 0;
        size_t safe, hit = ap_stream_find(p, p->pos, hidden, &which, &safe);
        ap_stream_text(p, APUS_PART_CONTENT, hit != SIZE_MAX ? hit : to);
        if (hit == SIZE_MAX) break;
        if (!strcmp(hidden[which], AP_STREAM_QUOTE))
            ap_stream_quote(p);
        else
            p->pos += strlen(hidden[which]);
    }
    p->in.len = len;
}

/* ---------------------------------------------------------------- feeding */

static bool plain_step(ap_stream *p)
{
    if (p->pos == p->in.len) return false;
    emit(p, APUS_PART_CONTENT, p->in.data + p->pos, p->in.len - p->pos);
    p->pos = p->in.len;
    return false;
}

/* Append the characters at the start of s that are fine as they are; returns their bytes. */
static size_t take_valid(ap_stream *p, const char *s, size_t n)
{
    size_t i = 0, len;
    for (; i < n; i += len) {
        uint32_t cp;
        len = ap_utf8_decode(s + i, n - i, &cp);
        if (cp == 0xFFFD && (len != 3 || memcmp(s + i, "\xEF\xBF\xBD", 3))) break;
    }
    ap_buf_add(&p->in, s, i);
    return i;
}

/* Append bytes as whole characters; what is not UTF-8 becomes U+FFFD, as in decoding the whole. */
static void take_in(ap_stream *p, const char *s, size_t n)
{
    size_t i = 0;
    while (i < n || (p->final && p->n_tail)) {
        uint32_t cp;
        char buf[8];
        if (!p->n_tail) i += take_valid(p, s + i, n - i);
        if (i == n && !p->n_tail) break;
        size_t have = p->n_tail, add = n - i < 4 ? n - i : 4, len;
        memcpy(buf, p->tail, have);
        if (add) memcpy(buf + have, s + i, add);
        size_t all = have + add;
        if (!p->final && ap_utf8_incomplete_tail(buf, all) == all) { /* not a character yet */
            memcpy(p->tail, buf, all);
            p->n_tail = all;
            return;
        }
        len = ap_utf8_decode(buf, all, &cp);
        char out[4];
        ap_buf_add(&p->in, out, ap_utf8_encode(cp, out));
        if (len >= have) {
            i += len - have;
            p->n_tail = 0;
        } else {
            memmove(p->tail, p->tail + len, have - len);
            p->n_tail = have - len;
        }
    }
}

static void run(ap_stream *p)
{
    bool more = true;
    while (more && !p->in.failed)
        more = p->syntax == AP_CHAT_QWEN    ? ap_chat_qwen_step(p)
               : p->syntax == AP_CHAT_GEMMA ? ap_chat_gemma_step(p)
                                            : plain_step(p);
    /* Used-up text goes once it is the larger part. */
    if (p->pos && (p->pos == p->in.len || (p->pos > 4096 && p->pos > p->in.len / 2))) {
        size_t by = p->pos;
        memmove(p->in.data, p->in.data + by, p->in.len - by + 1);
        p->in.len -= by;
        p->pos = 0;
        p->at = p->at > by ? p->at - by : 0;
        p->mark = p->mark > by ? p->mark - by : 0;
    }
}

static apus_err state_of(const ap_stream *p)
{
    bool failed = p->in.failed || p->ws.failed || p->name.failed || p->args.failed || p->key.failed;
    return failed ? APUS_ENOMEM : APUS_OK;
}

apus_err ap_chat_parser_create(ap_chat_syntax syntax, const char *prompt, size_t prompt_len,
                               const char *tools_json, apus_event_fn fn, void *ctx,
                               ap_chat_parser **out, apus_diag *diag)
{
    apus_diag why = {0};
    ap_json *tools = NULL;
    if (!fn) return ap_fail(diag, APUS_EINVAL, "output parser: no function for the events given");
    ap_stream *p = ap_calloc(1, sizeof *p);
    if (!p) return ap_fail_nomem(diag, sizeof *p, "an output parser");
    p->syntax = syntax;
    p->fn = fn;
    p->ctx = ctx;
    ap_arena_init(&p->mem, 0);
    apus_err err = APUS_OK;
    if (tools_json)
        err = ap_json_parse(&p->mem, tools_json, strlen(tools_json), "tools", 0, &tools, &why);
    if (err) {
        err = ap_fail(diag, err == APUS_EFORMAT ? APUS_EINVAL : err, "%s", why.text);
        ap_chat_parser_free(p);
        return err;
    }
    if (tools && tools->type == AP_JSON_ARRAY) p->tools = tools;
    if (!prompt) prompt_len = 0;
    if (syntax == AP_CHAT_QWEN) ap_chat_qwen_start(p, prompt, prompt_len);
    if (syntax == AP_CHAT_GEMMA) ap_chat_gemma_start(p, prompt, prompt_len);
    *out = p;
    return APUS_OK;
}

apus_err ap_chat_parser_push(ap_chat_parser *p, const char *text, size_t len)
{
    if (p->final) return APUS_EINVAL;
    take_in(p, text, len);
    run(p);
    return state_of(p);
}

apus_err ap_chat_parser_finish(ap_chat_parser *p)
{
    if (p->final) return state_of(p);
    p->final = true;
    take_in(p, "", 0);
    run(p);
    /* Newlines at the end of an answer are part of it; behind a call or thought they are not. */
    if (p->ws.len && !p->after_call && p->state == 0 && p->syntax != AP_CHAT_PLAIN)
        emit(p, APUS_PART_CONTENT, p->ws.data, p->ws.len);
    p->ws.len = 0;
    return state_of(p);
}

void ap_chat_parser_free(ap_chat_parser *p)
{
    if (!p) return;
    ap_arena_free(&p->mem);
    ap_buf_free(&p->in);
    ap_buf_free(&p->ws);
    ap_buf_free(&p->name);
    ap_buf_free(&p->args);
    ap_buf_free(&p->key);
    ap_free(p);
}
