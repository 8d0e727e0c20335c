/* chat_qwen.c - the output of Qwen models: <think>, <tool_call> with functions in XML or JSON.
 *
 * Markers count where a model uses them, and are text where it speaks of them: <think> begins a
 * line, a call begins with the name of a function and holds nothing but tags between its values, a
 * value ends at the closing tag that another tag follows. A call inside a thought is a draft if the
 * thought goes on behind it. What looked like a call and is none comes out as it was written. */
#include <string.h>

#include "text/chat_qwen.h"

enum { MAX_THINK_LINE = 4096, MAX_DEAF = 8 };

static const char *const ends[] = {END, END_TEXT, START, NULL};

void ap_chat_qwen_start(ap_stream *p, const char *prompt, size_t len)
{
    /* The part behind the last "assistant" header, or all of a prompt without headers. */
    static const char header[] = "<|im_start|>", role[] = "assistant";
    size_t from = 0;
    bool inside = false;
    for (size_t i = 0; i + sizeof header - 1 <= len; i++)
        if (!memcmp(prompt + i, header, sizeof header - 1)) from = i + sizeof header - 1;
    if (from && (len - from < sizeof role - 1 || memcmp(prompt + from, role, sizeof role - 1)))
        return;
    for (size_t i = from; i < len; i++) {
        if (prompt[i] != '<') continue;
        if (len - i >= 7 && !memcmp(prompt + i, "<think>", 7))
            inside = true;
        else if (len - i >= 8 && !memcmp(prompt + i, "</think>", 8))
            inside = false;
    }
    p->state = inside ? THINK : CONTENT;
    if (inside) ap_stream_begin_think(p);
}

/* ---------------------------------------------------------------- calls that are none, drafts */

void ap_chat_qwen_broken(ap_stream *p, size_t to)
{
    p->state = p->in_think ? THINK : CONTENT;
    ap_stream_broken(p, to, ends);
}

void ap_chat_qwen_cut(ap_stream *p)
{
    if (p->in_think) {
        p->state = THINK;
        p->deaf = true;
        p->n_deaf++;
    } else {
        ap_chat_qwen_broken(p, p->in.len);
    }
}

/* Behind a whole call in a thought, at p->at: only another call or the end of the answer makes it
 * one; then it is read again as content. Anything else makes it a draft, a part of the thought. */
static bool draft_step(ap_stream *p)
{
    static const char *const set[] = {END_CALL, CALL, FUNCTION, END, END_TEXT, NULL};
    int which = ap_stream_next_of(p, set);
    switch (which) {
    case AP_STREAM_WAIT:
        return false;
    case 0:
        p->at += strlen(END_CALL);
        return true;
    case 1:
        p->at += strlen(CALL);
        p->bare = false;
        p->state = TOOL;
        return true;
    case 2:
        p->bare = true;
        p->state = TOOL;
        return true;
    case AP_STREAM_OTHER:
        ap_chat_qwen_broken(p, p->at);
        return true;
    default:
        ap_stream_end_think(p);
        ap_stream_marker(p, 0);
        p->state = CONTENT;
        return true;
    }
}

/* ---------------------------------------------------------------- content and thoughts */

/* <|im_start|>assistant and a newline, when a model goes on past its end. 1, 0: it is spoken of;
 * -1: too early to tell. */
static int skip_header(ap_stream *p)
{
    static const char text[] = START "assistant\n";
    int r = ap_stream_next_is(p, p->pos, text);
    size_t n = r == 1 ? strlen(text) : strlen(START);
    if (r == 0) r = ap_stream_ends_turn(p, n);
    if (r == 1) ap_stream_marker(p, n);
    return r;
}

/* <|im_end|>, n bytes, is dropped where it ends a turn. As above. */
static int skip_end(ap_stream *p, size_t n)
{
    int r = ap_stream_ends_turn(p, n);
    if (r == 1) p->pos += n;
    return r;
}

enum { NO_CLOSER, CLOSER_WITHIN, CLOSER_LAST };

/* Where is </think> in the line that goes on behind [pos, pos + n)? -1: too early. */
static int line_closes(const ap_stream *p, size_t n)
{
    const char *s = p->in.data + p->pos + n;
    size_t have = p->in.len - p->pos - n, len = strlen(END_THINK);
    const char *newline = memchr(s, '\n', have);
    if (!newline && !p->final) return have > MAX_THINK_LINE ? NO_CLOSER : -1;
    size_t line = newline ? (size_t)(newline - s) : have;
    while (line && (s[line - 1] == ' ' || s[line - 1] == '\t')) line--;
    if (line >= len && !memcmp(s + line - len, END_THINK, len)) return CLOSER_LAST;
    for (size_t i = 0; i + len <= line; i++)
        if (!memcmp(s + i, END_THINK, len)) return CLOSER_WITHIN;
    return NO_CLOSER;
}

/* Does the <think> at pos, n bytes, open a thought? It begins a line; behind content, words that
 * go on in the same sentence speak of it. 1, 0, -1: too early. */
static int opens_think(const ap_stream *p, size_t n)
{
    if (p->line != AP_LINE_BLANK || ap_stream_quoted(p)) return 0;
    if (p->pos + n == p->in.len) return p->final ? 1 : -1;
    char next = p->in.data[p->pos + n];
    bool first = !p->has_content && !p->had_think;
    if (next == ' ' || next == '\t') {
        int r = line_closes(p, n);
        return r < 0 ? r : first ? r != CLOSER_WITHIN : r == CLOSER_LAST;
    }
    return first || !next || !strchr("`,.:;)", next);
}

/* Does the </think> at pos, n bytes, end a thought whose beginning nobody saw? 1, 0, -1. */
static int ends_unseen(const ap_stream *p, size_t n)
{
    if (p->has_content || ap_stream_quoted(p)) return 0;
    if (p->pos + n == p->in.len) return p->final ? 1 : -1;
    return p->in.data[p->pos + n] != ' ';
}

static bool open_bare(ap_stream *p, bool in_think)
{
    if (p->line != AP_LINE_BLANK || ap_stream_quoted(p)) return false;
    ap_stream_open_call(p, in_think, 0);
    p->bare = true;
    p->sure = !p->tools;
    p->state = TOOL;
    return true;
}

static bool open_call(ap_stream *p, bool in_think)
{
    if (ap_stream_quoted(p)) return false;
    ap_stream_open_call(p, in_think, strlen(CALL));
    p->state = TOOL;
    return true;
}

static bool content_step(ap_stream *p)
{
    static const char *const set[] = {CALL, FUNCTION, "<think>", END_THINK,
                                      END,  END_TEXT, START,     NULL};
    int which = 0, used = 0;
    size_t safe, hit = ap_stream_find(p, p->pos, set, &which, &safe);
    if (hit == SIZE_MAX) {
        ap_stream_text(p, APUS_PART_CONTENT, safe);
        return false;
    }
    ap_stream_text(p, APUS_PART_CONTENT, hit);
    size_t n = strlen(set[which]);
    switch (which) {
    case 0:
        used = open_call(p, false);
        break;
    case 1:
        used = open_bare(p, false);
        break;
    case 2:
        used = opens_think(p, n);
        if (used != 1) break;
        ap_stream_marker(p, n);
        ap_stream_begin_think(p);
        p->state = THINK;
        break;
    case 3:
        used = ends_unseen(p, n);
        if (used != 1) break;
        ap_stream_marker(p, n);
        ap_stream_end_think(p);
        break;
    case 6:
        used = skip_header(p);
        break;
    default:
        used = skip_end(p, n);
    }
    if (used < 0) return false;
    if (!used) ap_stream_text(p, APUS_PART_CONTENT, hit + n);
    return true;
}

static bool think_step(ap_stream *p)
{
    static const char *const set[] = {END_THINK, CALL,     FUNCTION, "<think>",
                                      END,       END_TEXT, START,    NULL};
    int which = 0, used = 0;
    size_t safe, hit = ap_stream_find(p, p->pos, set, &which, &safe);
    if (hit == SIZE_MAX) {
        ap_stream_text(p, APUS_PART_THINK, safe);
        return false;
    }
    ap_stream_text(p, APUS_PART_THINK, hit);
    size_t n = strlen(set[which]);
    bool deaf = p->deaf || p->n_deaf >= MAX_DEAF;
    switch (which) {
    case 0:
        used = ap_stream_between_quotes(p, n);
        if (used < 0) return false;
        used = !used;
        if (!used) break;
        ap_stream_marker(p, n);
        ap_stream_end_think(p);
        p->state = CONTENT;
        break;
    case 1:
        used = !deaf && open_call(p, true);
        break;
    case 2:
        used = !deaf && open_bare(p, true);
        break;
    case 3:
        used = p->fresh; /* some models repeat what the prompt ends with */
        if (used) ap_stream_marker(p, n);
        break;
    case 6:
        used = skip_header(p);
        break;
    default:
        used = skip_end(p, n);
    }
    if (used < 0) return false;
    if (!used) ap_stream_text(p, APUS_PART_THINK, hit + n);
    return true;
}

bool ap_chat_qwen_step(ap_stream *p)
{
    switch (p->state) {
    case CONTENT:
        return content_step(p);
    case THINK:
        return think_step(p);
    case DRAFT:
        return draft_step(p);
    default:
        return ap_chat_qwen_call_step(p);
    }
}
