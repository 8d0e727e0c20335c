/* chat_qwen.c - the output of Qwen models: <think>, <tool_call> with functions in XML or JSON.
 *
 * Markers count where a model uses them, and are text where it speaks of them: <think> begins a
 * line, a call begins with the name of a function and holds nothing but tags between its values, a
 * value ends at the closing tag that another tag follows. A call inside a thought is a draft if the
 * thought goes on behind it. What looked like a call and is none comes out as it was written. */
#include <string.h>

#include "text/chat_stream.h"
#include "text/schema.h"
#include "text/toolcall.h"

enum { CONTENT = 0, THINK, TOOL, NAME, BETWEEN, KEY, VALUE, JSON, SENTENCE, AFTER, DRAFT };
enum { MAX_NAME = 256, MAX_THINK_LINE = 4096, MAX_DEAF = 8 };

#define CALL          "<tool_call>"
#define END_CALL      "</tool_call>"
#define FUNCTION      "<function="
#define END_FUNCTION  "</function>"
#define PARAMETER     "<parameter="
#define END_PARAMETER "</parameter>"
#define END_THINK     "</think>"
#define END           "<|im_end|>"
#define END_TEXT      "<|endoftext|>"
#define START         "<|im_start|>"

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

/* [pos, to) was no call. */
static void broken(ap_stream *p, size_t to)
{
    p->state = p->in_think ? THINK : CONTENT;
    ap_stream_broken(p, to, ends);
}

/* The answer ends inside a call. In a thought the call may have swallowed the thought's end: it is
 * read again without looking for calls, a bounded number of times. */
static void cut(ap_stream *p)
{
    if (p->in_think) {
        p->state = THINK;
        p->deaf = true;
        p->n_deaf++;
    } else {
        broken(p, p->in.len);
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
        broken(p, p->at);
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

/* ---------------------------------------------------------------- tags */

/* Behind <tool_call>, or at the <function= of a call without it. */
static bool tool_step(ap_stream *p)
{
    static const char *const set[] = {FUNCTION, "{", NULL};
    switch (ap_stream_next_of(p, set)) {
    case AP_STREAM_WAIT:
        return false;
    case AP_STREAM_ENDS:
        cut(p);
        return true;
    case 0:
        p->at += strlen(FUNCTION);
        p->mark = p->at;
        p->state = NAME;
        return true;
    case 1:
        p->depth = 0;
        p->quote = 0;
        p->escaped = false;
        p->mark = p->at;
        p->state = JSON;
        return true;
    default:
        broken(p, p->at);
        return true;
    }
}

/* The place of the '>' of a tag whose name begins at `from`: *end. 1; 0: it is none, which shows at
 * *end; -1: too early. */
static int tag_end(const ap_stream *p, size_t from, size_t *end)
{
    for (size_t i = from; i < p->in.len; i++) {
        char c = p->in.data[i];
        bool starts = ((uint8_t)c & 0xC0) != 0x80; /* text is cut between characters only */
        *end = i;
        if (c == '>') return i > from;
        if (c == '\n' || c == '<' || (starts && i - from > MAX_NAME)) return 0;
    }
    *end = p->in.len;
    return p->final ? 0 : -1;
}

/* A name without the white space and the pair of quotes around it. */
static void bare_name(const char **s, size_t *n)
{
    while (*n && (**s == ' ' || **s == '\t')) (*s)++, (*n)--;
    while (*n && ((*s)[*n - 1] == ' ' || (*s)[*n - 1] == '\t')) (*n)--;
    if (*n > 2 && (**s == '"' || **s == '\'') && (*s)[*n - 1] == **s) (*s)++, *n -= 2;
}

/* Read NAME> from mark on into `out`. 1; 0: it is none and the call is broken; -1: wait. */
static int take_name(ap_stream *p, ap_buf *out)
{
    size_t end;
    int r = tag_end(p, p->mark, &end);
    if (r < 0) return r;
    if (r == 0 && end == p->in.len && p->final) {
        cut(p);
        return r;
    }
    if (r == 0) {
        broken(p, end);
        return r;
    }
    const char *s = p->in.data + p->mark;
    size_t n = end - p->mark;
    bare_name(&s, &n);
    out->len = 0;
    ap_buf_add(out, s, n);
    p->at = end + 1;
    return 1;
}

static const ap_json *function_of(const ap_stream *p)
{
    return p->name.data ? ap_schema_function(p->tools, p->name.data, p->name.len) : NULL;
}

static bool name_step(ap_stream *p)
{
    int r = take_name(p, &p->name);
    if (r != 1) return r == 0;
    if (!p->sure && !function_of(p)) {
        broken(p, p->at);
        return true;
    }
    p->args.len = 0;
    ap_buf_adds(&p->args, "{");
    p->n_args = 0;
    p->state = BETWEEN;
    return true;
}

static bool key_step(ap_stream *p)
{
    int r = take_name(p, &p->key);
    if (r != 1) return r == 0;
    p->mark = p->at;
    p->state = VALUE;
    p->depth = 0;
    return true;
}

/* Hand over the call in name and args and use up [pos, at). */
static void deliver(ap_stream *p)
{
    if (!p->args.failed && !p->name.failed)
        ap_stream_call(p, p->name.data, p->name.len, p->args.data, p->args.len);
    ap_stream_marker(p, p->at - p->pos);
}

/* The call is whole, p->at stands behind it. name and args hold it, unless it is a draft. */
static void finish_call(ap_stream *p)
{
    p->state = p->in_think ? DRAFT : p->within_line ? SENTENCE : AFTER;
    if (p->state == AFTER) deliver(p);
}

/* Behind a call that began within a line: a sentence that goes on behind its end speaks of it. */
static bool sentence_step(ap_stream *p)
{
    static const char *const set[] = {END_CALL, NULL};
    int which = ap_stream_next_of(p, set);
    if (which == AP_STREAM_WAIT) return false;
    size_t end = p->at + strlen(END_CALL);
    int r = which == 0 ? ap_stream_line_ends(p, end) : 1;
    if (r < 0) return false;
    if (r == 0) {
        broken(p, end);
        return true;
    }
    p->state = AFTER;
    deliver(p);
    return true;
}

/* The tags of the call are read up to p->at: put its arguments in order. */
static void finish_tags(ap_stream *p)
{
    ap_buf settled = {0};
    ap_buf_adds(&p->args, "}");
    if (p->in_think ||
        (!p->args.failed && ap_toolcall_put_object(&settled, p->args.data, p->args.len))) {
        ap_buf_free(&p->args);
        p->args = settled;
        finish_call(p);
    } else {
        broken(p, p->at); /* deeper than JSON may be */
    }
}

static bool between_step(ap_stream *p)
{
    static const char *const set[] = {PARAMETER, END_FUNCTION, END_CALL, NULL};
    switch (ap_stream_next_of(p, set)) {
    case AP_STREAM_WAIT:
        return false;
    case AP_STREAM_ENDS:
        cut(p);
        return true;
    case 0:
        p->at += strlen(PARAMETER);
        p->mark = p->at;
        p->state = KEY;
        return true;
    case 1:
        p->at += strlen(END_FUNCTION);
        finish_tags(p);
        return true;
    case 2:
        finish_tags(p);
        return true;
    default:
        broken(p, p->at);
        return true;
    }
}

/* Behind a call: the end of <tool_call>, or one more function in it. */
static bool after_step(ap_stream *p)
{
    static const char *const set[] = {END_CALL, NULL};
    int which = ap_stream_next_of(p, set);
    if (which == AP_STREAM_WAIT) return false;
    if (which == 0) ap_stream_marker(p, p->at + strlen(END_CALL) - p->pos);
    if (which == AP_STREAM_ENDS) p->pos = p->at;
    p->state = CONTENT; /* which knows <function= too */
    return true;
}

/* ---------------------------------------------------------------- values */

/* Does only white space stand between the value's last newline, or its beginning, and `at`? */
static bool begins_line(const ap_stream *p, size_t at)
{
    while (at > p->mark && (p->in.data[at - 1] == ' ' || p->in.data[at - 1] == '\t')) at--;
    return at == p->mark || p->in.data[at - 1] == '\n';
}

/* Which of `set` (NULL-terminated) stands at `at`? Its number, -1 none, -2 too early. */
static int one_of(const ap_stream *p, size_t at, const char *const *set)
{
    int none = -1;
    for (int k = 0; set[k]; k++) {
        int r = ap_stream_next_is(p, at, set[k]);
        if (r == 1) return k;
        if (r < 0) none = -2;
    }
    return none;
}

/* Does the function end with the </function> at `at`? What a call may go on with follows it.
 * loose: the tag begins a line or the value does not, else nothing but tags may follow. 1, 0, -1 */
static int function_ends(const ap_stream *p, size_t at, bool loose, bool closed)
{
    static const char *const set[] = {END_CALL, CALL, FUNCTION, END, END_TEXT, NULL};
    size_t from = at + strlen(END_FUNCTION), next;
    int r = ap_stream_gap(p, from, &next);
    if (r != 1) return r;
    int which = one_of(p, next, set);
    if (which == -2) return -1;
    if (which == 0) return loose ? 1 : ap_stream_line_ends(p, next + strlen(END_CALL));
    if (!closed) return 0; /* a value that never ended is cut unless the whole call ends */
    if (which > 0) return 1;
    if (next == p->in.len) return loose;
    return p->bare && memchr(p->in.data + from, '\n', next - from) != NULL;
}

/* Does the value end with the </parameter> at `at`? 1, 0, -1. */
static int parameter_ends(const ap_stream *p, size_t at)
{
    static const char *const set[] = {PARAMETER, END_FUNCTION, END_CALL, NULL};
    size_t from = at + strlen(END_PARAMETER), next, end;
    int r = ap_stream_gap(p, from, &next);
    if (r != 1) return r;
    bool newline = memchr(p->in.data + from, '\n', next - from) != NULL;
    bool loose = !p->block || begins_line(p, at);
    int which = one_of(p, next, set);
    if (which < 0) return which == -2 ? -1 : 0;
    char before = at > p->mark ? p->in.data[at - 1] : 0;
    bool spoken = before && strchr(" \t`'\"(", before) != NULL;
    if (!loose && !newline && (next > from || which == 0 || spoken)) return 0;
    switch (which) {
    case 0:
        return tag_end(p, next + strlen(PARAMETER), &end);
    case 1:
        return function_ends(p, next, loose, true);
    default:
        return loose ? 1 : ap_stream_line_ends(p, next + strlen(END_CALL));
    }
}

/* Does the <parameter= at `at` begin the next parameter, the end of this one being forgotten? */
static int parameter_begins(const ap_stream *p, size_t at)
{
    size_t from = at + strlen(PARAMETER), end;
    if (!begins_line(p, at)) return 0;
    int r = tag_end(p, from, &end);
    const ap_json *function = function_of(p);
    if (r != 1 || !function) return r;
    const char *s = p->in.data + from;
    size_t n = end - from;
    bare_name(&s, &n);
    return ap_schema_has(function, s, n);
}

/* Does the <function= at `at` open a call that the value quotes? */
static int function_begins(const ap_stream *p, size_t at)
{
    size_t from = at, end;
    while (from > p->mark && strchr(" \t\r\n", p->in.data[from - 1]) && p->in.data[from - 1])
        from--;
    bool led = from - p->mark >= strlen(CALL) &&
               !memcmp(p->in.data + from - strlen(CALL), CALL, strlen(CALL));
    return led || begins_line(p, at) ? tag_end(p, at + strlen(FUNCTION), &end) : 0;
}

static void put_parameter(ap_stream *p, size_t end)
{
    const char *s = p->in.data + p->mark;
    size_t n = end - p->mark;
    if (p->in_think) return; /* it is read again if it counts */
    if (n && s[0] == '\n') s++, n--;
    if (n && s[n - 1] == '\n') n--;
    if (p->n_args++) ap_buf_adds(&p->args, ", ");
    if (p->key.failed || !p->key.data) return;
    ap_json_quote(&p->args, p->key.data, p->key.len, false);
    ap_buf_adds(&p->args, ": ");
    ap_toolcall_put_typed(&p->args, s, n, ap_schema_types(function_of(p), p->key.data, p->key.len));
}

enum { V_END, V_NEXT, V_END_FUNCTION, V_FUNCTION, V_END_THINK };

/* What the tag at p->at is to the value: 1: it ends it; 0: it is a part of it; -1: too early. */
static int value_tag(ap_stream *p, int which)
{
    int r;
    switch (which) {
    case V_FUNCTION:
        r = function_begins(p, p->at);
        p->depth += r == 1;
        return r < 0 ? -1 : 0;
    case V_END_THINK: /* no draft goes on behind its thought */
        return p->in_think && begins_line(p, p->at);
    case V_END_FUNCTION:
        if (p->depth) {
            p->depth--;
            return 0;
        }
        if (p->block && !begins_line(p, p->at)) return 0;
        return function_ends(p, p->at, true, false);
    default:
        if (p->depth) return 0;
        return which == V_END ? parameter_ends(p, p->at) : parameter_begins(p, p->at);
    }
}

static bool value_step(ap_stream *p)
{
    static const char *const set[] = {END_PARAMETER, PARAMETER, END_FUNCTION,
                                      FUNCTION,      END_THINK, NULL};
    int which = 0;
    size_t safe, hit = ap_stream_find(p, p->at, set, &which, &safe);
    if (hit == SIZE_MAX) {
        p->at = safe;
        if (p->final) cut(p);
        return p->final;
    }
    p->at = hit;
    p->block = p->in.data[p->mark] == '\n' || p->in.data[p->mark] == '\r';
    int r = value_tag(p, which);
    if (r < 0) return false;
    if (r == 0) {
        p->at++;
        return true;
    }
    if (which == V_END_THINK) {
        broken(p, hit);
        return true;
    }
    put_parameter(p, hit);
    if (which == V_END) p->at += strlen(END_PARAMETER);
    p->state = BETWEEN;
    return true;
}

/* ---------------------------------------------------------------- calls in JSON */

/* {"name": ..., "arguments": {...}} in [mark, at): to name and args. false: it is none. */
static bool json_call(ap_stream *p)
{
    ap_arena mem;
    ap_json *j = NULL, *inner = NULL;
    bool ok = false;
    ap_arena_init(&mem, 0);
    if (ap_json_parse(&mem, p->in.data + p->mark, p->at - p->mark, "", 0, &j, NULL)) goto done;
    const ap_json *name = ap_json_get(j, "name"), *args = ap_json_get(j, "arguments");
    if (!args) args = ap_json_get(j, "parameters");
    if (!name || name->type != AP_JSON_STRING || !name->len) goto done;
    if (!p->sure && !ap_schema_function(p->tools, name->str, name->len)) goto done;
    if (args && args->type == AP_JSON_STRING &&
        !ap_json_parse(&mem, args->str, args->len, "", 0, &inner, NULL))
        args = inner;
    if (args && args->type != AP_JSON_OBJECT && args->type != AP_JSON_NULL) goto done;
    ok = true;
    p->name.len = p->args.len = 0;
    ap_buf_add(&p->name, name->str, name->len);
    if (args && args->type == AP_JSON_OBJECT)
        ap_toolcall_put_json(&p->args, args);
    else
        ap_buf_adds(&p->args, "{}");
done:
    ap_arena_free(&mem);
    return ok;
}

/* Read one byte of JSON. 1: it closes the outermost brace; 0: go on; -1: JSON has no such byte
 * here. */
static int json_byte(ap_stream *p, char c)
{
    if (p->quote) {
        if ((uint8_t)c < 0x20) return -1;
        if (p->escaped)
            p->escaped = false;
        else if (c == '\\')
            p->escaped = true;
        else if (c == '"')
            p->quote = 0;
        return 0;
    }
    if (!c || !strchr(" \t\r\n{}[]:,\"+-.0123456789eEtrufalsn", c)) return -1;
    if (c == '"') p->quote = c;
    p->depth += c == '{' || c == '[';
    p->depth -= c == '}' || c == ']';
    return p->depth <= 0;
}

static bool json_step(ap_stream *p)
{
    for (; p->at < p->in.len; p->at++) {
        int r = json_byte(p, p->in.data[p->at]);
        if (r == 0) continue;
        p->at += r == 1;
        if (r < 0 || !json_call(p))
            broken(p, p->at);
        else
            finish_call(p);
        return true;
    }
    if (p->final) cut(p);
    return p->final;
}

bool ap_chat_qwen_step(ap_stream *p)
{
    switch (p->state) {
    case THINK:
        return think_step(p);
    case TOOL:
        return tool_step(p);
    case NAME:
        return name_step(p);
    case BETWEEN:
        return between_step(p);
    case KEY:
        return key_step(p);
    case VALUE:
        return value_step(p);
    case JSON:
        return json_step(p);
    case AFTER:
        return after_step(p);
    case DRAFT:
        return draft_step(p);
    case SENTENCE:
        return sentence_step(p);
    default:
        return content_step(p);
    }
}
