/* chat_stream.c - the streaming output parser: text in, events out. */
#include "text/chat_stream.h"

#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"

enum { MAX_GAP = 256 };

/* ---------------------------------------------------------------- markers */

static bool is_ws(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

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

int ap_stream_gap(const ap_stream *p, size_t at, size_t *end)
{
    size_t i = at;
    while (i < p->in.len && i - at <= MAX_GAP && is_ws(p->in.data[i])) i++;
    *end = i;
    if (i - at > MAX_GAP) return 0;
    return i < p->in.len || p->final ? 1 : -1;
}

int ap_stream_line_ends(const ap_stream *p, size_t at)
{
    while (at < p->in.len && (p->in.data[at] == ' ' || p->in.data[at] == '\t')) at++;
    if (at == p->in.len) return p->final ? 1 : -1;
    return p->in.data[at] == '\n' || p->in.data[at] == '\r' || p->in.data[at] == '<';
}

int ap_stream_next_of(ap_stream *p, const char *const *set)
{
    bool wait = false;
    while (p->at < p->in.len && is_ws(p->in.data[p->at])) p->at++;
    if (p->at == p->in.len) return p->final ? AP_STREAM_ENDS : AP_STREAM_WAIT;
    for (int k = 0; set[k]; k++) {
        int r = ap_stream_next_is(p, p->at, set[k]);
        if (r == 1) return k;
        wait |= r < 0;
    }
    return wait ? AP_STREAM_WAIT : AP_STREAM_OTHER;
}

int ap_stream_ends_turn(const ap_stream *p, size_t len)
{
    return ap_stream_quoted(p) ? 0 : ap_stream_line_ends(p, p->pos + len);
}

int ap_stream_between_quotes(const ap_stream *p, size_t len)
{
    size_t next = p->pos + len;
    if (!p->last || !strchr("`'\"", p->last)) return 0;
    if (next == p->in.len) return p->final ? 0 : -1;
    return p->in.data[next] == p->last;
}

/* ---------------------------------------------------------------- delivery */

static void emit(ap_stream *p, apus_part part, const char *s, size_t n)
{
    if (!n) return;
    if (part == APUS_PART_CONTENT)
        p->has_content = true;
    else
        p->fresh = false;
    p->fn(p->ctx, &(apus_event){.size = sizeof(apus_event), .part = part, .text = s, .len = n});
}

/* Keep track of the running line: a fence is three backticks at its start, without another one
 * behind them. */
static void note_line(ap_stream *p, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '\n') {
            p->line = AP_LINE_BLANK;
        } else if (s[i] == '`' && p->line < AP_LINE_TEXT) {
            if (++p->line < AP_LINE_TEXT) continue;
            p->fenced = !p->fenced;
            if (p->fenced) p->line = AP_LINE_FENCE;
        } else if (s[i] == '`' && p->line == AP_LINE_FENCE) {
            p->fenced = false;
            p->line = AP_LINE_TEXT;
        } else if (p->line < AP_LINE_TEXT && (p->line || (s[i] != ' ' && s[i] != '\t'))) {
            p->line = AP_LINE_TEXT;
        }
    }
    if (n) p->last = s[n - 1];
}

/* Between content before a thought and content behind it goes the longer of their breaks. */
static void put_break(ap_stream *p)
{
    size_t n = p->gap > p->skipped ? p->gap : p->skipped;
    if (!p->has_content) n = 0;
    for (; n; n--) emit(p, APUS_PART_CONTENT, "\n", 1);
    p->gap = p->skipped = 0;
}

void ap_stream_text(ap_stream *p, apus_part part, size_t to)
{
    const char *s = p->in.data;
    size_t from = p->pos, end = to;
    if (from == to) return;
    note_line(p, s + from, to - from);
    p->pos = to;
    if (p->skip_nl) {
        size_t start = from;
        while (from < end && s[from] == '\n') from++;
        p->skip_nl = from == end;
        if (part == APUS_PART_CONTENT) p->skipped += from - start;
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
    if (end > from && part == APUS_PART_CONTENT) put_break(p);
    if (end > from && p->ws.len) {
        emit(p, part, p->ws.data, p->ws.len);
        p->ws.len = 0;
    }
    emit(p, part, s + from, end - from);
    ap_buf_add(&p->ws, s + end, to - end);
}

void ap_stream_marker(ap_stream *p, size_t len)
{
    p->pos += len;
    p->line = AP_LINE_BLANK;
    p->last = 0;
}

void ap_stream_begin_think(ap_stream *p)
{
    size_t newlines = 0;
    for (size_t i = 0; i < p->ws.len; i++) newlines += p->ws.data[i] == '\n';
    if (newlines > p->gap) p->gap = newlines;
    p->ws.len = 0;
    p->skip_nl = p->fresh = p->had_think = true;
    p->after_call = p->deaf = false;
}

void ap_stream_end_think(ap_stream *p)
{
    p->ws.len = 0;
    p->skip_nl = true;
    p->in_think = p->fenced = false;
}

void ap_stream_call(ap_stream *p, const char *name, size_t len, const char *args, size_t args_len)
{
    p->fn(p->ctx, &(apus_event){.size = sizeof(apus_event),
                                .part = APUS_PART_CALL,
                                .text = name,
                                .len = len,
                                .args = args,
                                .args_len = args_len});
    p->after_call = true;
    p->skip_nl = false;
}

void ap_stream_open_call(ap_stream *p, bool in_think, size_t marker)
{
    p->at = p->pos + marker;
    p->in_think = in_think;
    p->bare = false;
    p->within_line = p->line != AP_LINE_BLANK;
    p->sure = !p->tools || !p->within_line;
}

void ap_stream_quote(ap_stream *p)
{
    p->pos += strlen(AP_STREAM_QUOTE) - 1;
    p->in.data[p->pos] = '"';
    ap_stream_text(p, APUS_PART_CONTENT, p->pos + 1);
}

void ap_stream_broken(ap_stream *p, size_t to, const char *const *ends)
{
    apus_part part = p->in_think ? APUS_PART_THINK : APUS_PART_CONTENT;
    size_t len = p->in.len;
    p->in.len = to; /* look no further: many broken calls must not read the rest again and again */
    while (p->pos < to) {
        int which = 0;
        size_t safe, hit = ap_stream_find(p, p->pos, ends, &which, &safe);
        ap_stream_text(p, part, hit != SIZE_MAX ? hit : to);
        if (hit == SIZE_MAX) break;
        size_t n = strlen(ends[which]);
        if (ap_stream_ends_turn(p, n))
            p->pos += n;
        else
            ap_stream_text(p, part, hit + n);
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

/* A family's way to write thoughts and calls: what the prompt's end means to it, and its machine. */
static const struct {
    const char *name;
    void (*start)(ap_stream *p, const char *prompt,
                  size_t len); /* NULL: the prompt tells nothing */
    bool (*step)(ap_stream *p);
} syntaxes[] = {
    [AP_CHAT_PLAIN] = {"plain", NULL, plain_step},
    [AP_CHAT_QWEN] = {"qwen", ap_chat_qwen_start, ap_chat_qwen_step},
    [AP_CHAT_GEMMA] = {"gemma", ap_chat_gemma_start, ap_chat_gemma_step},
};

ap_chat_syntax ap_chat_syntax_named(const char *name)
{
    for (size_t i = 0; name && i < sizeof syntaxes / sizeof *syntaxes; i++)
        if (!strcmp(syntaxes[i].name, name)) return (ap_chat_syntax)i;
    return AP_CHAT_PLAIN;
}

static void run(ap_stream *p)
{
    bool more = true;
    while (more && !p->in.failed) more = syntaxes[p->syntax].step(p);
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
    if (syntaxes[syntax].start) syntaxes[syntax].start(p, prompt, prompt_len);
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
